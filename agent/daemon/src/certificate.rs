//! The agent's own certificate: the key is made and kept here, the operator signs, and it is renewed long before its end.

use crate::operator::OperatorChannel;
use crate::state::StateDir;
use anyhow::{Context, Result};
use mew_net::Hub;
use mew_tls::{Material, not_after_ms};
use mew_wire::SignRequest;
use mew_wire::control_client::ControlClient;

/// Renewed when less than this part of its life is left (of 72 hours: with 48 left).
const RENEW_LEFT: (u64, u64) = (2, 3);

#[derive(Clone, Copy, Debug, Default)]
pub struct Validity {
    pub since_ms: u64,
    pub until_ms: u64,
}

impl Validity {
    pub fn is_due(&self, now_ms: u64) -> bool {
        let life = self.until_ms.saturating_sub(self.since_ms);
        now_ms + life / RENEW_LEFT.1 * RENEW_LEFT.0 >= self.until_ms
    }
}

/// The certificate on disk, if it is still valid; given to the hub.
pub fn load(dir: &StateDir, hub: &Hub, now_ms: u64) -> Option<Validity> {
    let (chain_pem, key_pem) = dir.certificate()?;
    let until_ms = not_after_ms(&chain_pem).ok()?;
    if until_ms <= now_ms {
        return None;
    }
    hub.set_material(Material { chain_pem, key_pem });
    // When it was made is not known any more; renewing soon does no harm.
    Some(Validity { since_ms: now_ms, until_ms })
}

pub async fn renew(kernel: &str, channel: OperatorChannel, dir: &StateDir, hub: &Hub, now_ms: u64) -> Result<Validity> {
    let request = mew_tls::new_request()?;
    let mut client = ControlClient::new(channel);
    let signed = client
        .sign(SignRequest { kernel: kernel.to_owned(), csr_pem: request.pem })
        .await
        .context("the operator did not sign")?
        .into_inner();
    let until_ms = not_after_ms(&signed.chain_pem)?;
    dir.save_certificate(&signed.chain_pem, &request.key_pem, &signed.ca_pem)?;
    hub.set_material(Material { chain_pem: signed.chain_pem, key_pem: request.key_pem });
    tracing::info!(until = %mew_model::value::format_timestamp(until_ms as i64), "new certificate");
    Ok(Validity { since_ms: now_ms, until_ms })
}
