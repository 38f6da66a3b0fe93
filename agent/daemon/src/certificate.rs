//! The agent's own certificate: the key is made and kept here, the operator signs, and it is renewed long before its end.

use crate::operator::OperatorChannel;
use crate::state::StateDir;
use anyhow::{Context, Result};
use mew_net::Hub;
use mew_tls::{Material, not_after_ms, root_of_chain, server_config};
use mew_wire::SignRequest;
use mew_wire::control_client::ControlClient;
use std::time::Duration;

/// Renewed when less than this part of its life is left (of 72 hours: with 48 left).
const RENEW_LEFT: (u64, u64) = (2, 3);
/// Reports wait while a signature does: not for as long as makes this agent look dead.
const SIGN: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Default)]
pub struct Validity {
    pub since_ms: u64,
    pub until_ms: u64,
    /// Which root of the own trust domain it comes from, if it is known.
    pub root: Option<String>,
}

impl Validity {
    pub fn is_due(&self, now_ms: u64) -> bool {
        let life = self.until_ms.saturating_sub(self.since_ms);
        now_ms + life / RENEW_LEFT.1 * RENEW_LEFT.0 >= self.until_ms
    }

    /// Whether it comes from another root than certificates do now.
    pub fn is_of_another(&self, signer: Option<&str>) -> bool {
        self.root.is_some() && signer.is_some() && self.root.as_deref() != signer
    }
}

/// Gives the certificate on disk to the hub; `None` if another one is needed at once.
pub fn load(dir: &StateDir, hub: &Hub, now_ms: u64) -> Option<Validity> {
    let (chain_pem, key_pem) = dir.certificate()?;
    let until_ms = not_after_ms(&chain_pem).ok()?;
    let own = Material { chain_pem, key_pem };
    // The key and the certificate of two different pairs, if writing was cut off between them.
    server_config(&own, None).ok()?;
    let roots = dir.roots();
    let root = roots.as_deref().and_then(|roots| root_of_chain(&own.chain_pem, roots));
    // Also an expired one: peers refuse it, and then say what is wrong.
    hub.set_material(own);
    hub.set_own_root(root.clone());
    // When it was made is not known any more; renewing soon does no harm. One of a root that is not trusted any more is due
    // at once.
    let since_ms = if root.is_none() && roots.is_some() { 0 } else { now_ms };
    (until_ms > now_ms).then_some(Validity { since_ms, until_ms, root })
}

pub async fn renew(kernel: &str, channel: OperatorChannel, dir: &StateDir, hub: &Hub, now_ms: u64) -> Result<Validity> {
    let request = mew_tls::new_request()?;
    let mut client = ControlClient::new(channel);
    let signing = client.sign(SignRequest { kernel: kernel.to_owned(), csr_pem: request.pem });
    let signed = tokio::time::timeout(SIGN, signing)
        .await
        .context("the operator did not sign in time")?
        .context("the operator did not sign")?
        .into_inner();
    let until_ms = not_after_ms(&signed.chain_pem)?;
    let saved = dir.save_certificate(&signed.chain_pem, &request.key_pem, &signed.ca_pem);
    let root = root_of_chain(&signed.chain_pem, &signed.ca_pem);
    hub.set_material(Material { chain_pem: signed.chain_pem, key_pem: request.key_pem });
    hub.set_own_root(root.clone());
    // A disk that is full must not cut this kernel off from its peers.
    if let Err(e) = saved {
        tracing::warn!("the new certificate is in use, and the next start will ask for another one: {e:#}");
    }
    tracing::info!(until = %mew_model::value::format_timestamp(until_ms as i64), "new certificate");
    Ok(Validity { since_ms: now_ms, until_ms, root })
}
