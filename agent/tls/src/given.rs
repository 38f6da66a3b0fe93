//! A certificate that somebody else issued for this side, such as cert-manager: whether it can be used, judged as its peers
//! will judge it.

use crate::ca::validity_ms;
use crate::identity::{SpiffeId, certificate_identity};
use crate::verify::{Failure, Material, Trust, server_config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::time::Duration;
use thiserror::Error;

/// Why such a certificate cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotUsable {
    #[error("{0}")]
    Damaged(String),
    #[error("the certificate is for {found}, and this kernel is {expected}")]
    OtherIdentity { found: String, expected: String },
    /// Since when, milliseconds since 1970.
    #[error("the certificate has expired")]
    Expired(u64),
    /// Before when, milliseconds since 1970.
    #[error("the certificate is not valid yet")]
    NotYet(u64),
    #[error("peers would refuse it under the ca.crt beside it: {0}")]
    Refused(String),
}

/// Looks at a certificate with its chain, its key and, if it is there, the root that comes with it. Returns the end of its
/// validity, milliseconds since 1970.
pub fn check_given(own: &Material, root_pem: Option<&str>, id: &SpiffeId, now_ms: u64) -> Result<u64, NotUsable> {
    let damaged = |e: &dyn std::fmt::Display| NotUsable::Damaged(e.to_string());
    // Also that the key is the certificate's: it may have been read while somebody wrote.
    server_config(own, None).map_err(|e| damaged(&format!("tls.crt or tls.key: {e}")))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(own.chain_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| damaged(&format!("tls.crt: {e}")))?;
    let (leaf, intermediates) = chain.split_first().ok_or_else(|| damaged(&"tls.crt holds no certificate"))?;
    let found = certificate_identity(leaf);
    if found.as_ref() != Some(id) {
        let found =
            found.map_or_else(|| "nobody (it has not exactly one spiffe:// name)".to_owned(), |f| f.to_string());
        return Err(NotUsable::OtherIdentity { found, expected: id.to_string() });
    }
    let (since, until) = validity_ms(&own.chain_pem).map_err(|e| damaged(&format!("tls.crt: {e}")))?;
    if until <= now_ms {
        return Err(NotUsable::Expired(until));
    }
    if since > now_ms {
        return Err(NotUsable::NotYet(since));
    }
    if let Some(pem) = root_pem {
        let mut trust = Trust::default();
        trust.add_roots(&id.trust_domain, [pem]).map_err(|e| damaged(&format!("ca.crt: {e}")))?;
        trust.expect(id.clone());
        let now = Duration::from_millis(now_ms);
        trust.accepts_at_both_ends(leaf, intermediates, now).map_err(|f| {
            NotUsable::Refused(match f {
                Failure::Untrusted { why, .. } => why,
                f => f.to_string(),
            })
        })?;
    }
    Ok(until)
}
