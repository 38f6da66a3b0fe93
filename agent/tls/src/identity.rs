//! Identities: `spiffe://<trust domain>/kernel/<kernel_id>` for kernels, `spiffe://<trust domain>/operator` for operators.

use rustls::pki_types::CertificateDer;
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    pub trust_domain: String,
    /// Without the leading slash.
    pub path: String,
}

impl SpiffeId {
    pub fn kernel(trust_domain: &str, kernel_id: &str) -> Self {
        SpiffeId { trust_domain: trust_domain.to_owned(), path: format!("kernel/{kernel_id}") }
    }

    pub fn operator(trust_domain: &str) -> Self {
        SpiffeId { trust_domain: trust_domain.to_owned(), path: "operator".to_owned() }
    }

    pub fn parse(uri: &str) -> Option<Self> {
        let (trust_domain, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
        (!trust_domain.is_empty() && !path.is_empty())
            .then(|| SpiffeId { trust_domain: trust_domain.to_owned(), path: path.to_owned() })
    }

    pub fn kernel_id(&self) -> Option<&str> {
        self.path.strip_prefix("kernel/")
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}", self.trust_domain, self.path)
    }
}

/// The identity in a certificate: its only URI name. `None` if there is none, several, or it is not a SPIFFE id.
pub fn certificate_identity(cert: &CertificateDer<'_>) -> Option<SpiffeId> {
    let ee = webpki::EndEntityCert::try_from(cert).ok()?;
    let mut uris = ee.valid_uri_names();
    match (uris.next(), uris.next()) {
        (Some(u), None) => SpiffeId::parse(u),
        _ => None,
    }
}
