//! A small certificate authority for one trust domain, and what an agent needs to ask it.

use crate::identity::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;

/// Lifetime of a CA made here.
const CA_DAYS: i64 = 3650;
/// Clocks may differ by this much when a fresh certificate is first used.
const BACKDATE: Duration = Duration::minutes(5);

#[derive(Debug, Error)]
pub enum CaError {
    #[error("{0}")]
    Rcgen(#[from] rcgen::Error),
    #[error("the certificate cannot be read: {0}")]
    Parse(String),
}

/// A private key and what was made with it, both PEM.
#[derive(Clone)]
pub struct KeyPairPem {
    pub key_pem: String,
    pub pem: String,
}

/// A CA certificate and its key.
#[derive(Clone)]
pub struct Authority {
    pub cert_pem: String,
    key_pem: String,
}

impl Authority {
    /// The CA of a trust domain.
    pub fn new(trust_domain: &str) -> Result<Self, CaError> {
        let domain = SanType::URI(format!("spiffe://{trust_domain}").try_into()?);
        Self::generate(&format!("{trust_domain} kernel CA"), vec![domain], Duration::days(CA_DAYS))
    }

    /// A CA of no trust domain: it signs servers that are known by their names, such as webhooks.
    pub fn of_servers(common_name: &str, seconds: i64) -> Result<Self, CaError> {
        Self::generate(common_name, Vec::new(), Duration::seconds(seconds))
    }

    fn generate(common_name: &str, names: Vec<SanType>, life: Duration) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut p = CertificateParams::default();
        p.distinguished_name = DistinguishedName::new();
        p.distinguished_name.push(DnType::CommonName, common_name);
        p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        p.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        p.subject_alt_names = names;
        let now = OffsetDateTime::now_utc();
        (p.not_before, p.not_after) = (now - BACKDATE, now + life);
        Ok(Authority { cert_pem: p.self_signed(&key)?.pem(), key_pem: key.serialize_pem() })
    }

    pub fn from_pem(cert_pem: String, key_pem: String) -> Result<Self, CaError> {
        let a = Authority { cert_pem, key_pem };
        a.issuer()?;
        Ok(a)
    }

    /// The trust domain that its certificate names; `None` if it names none, as one that was made elsewhere may not.
    pub fn trust_domain(&self) -> Option<String> {
        let (_, p) = x509_parser::pem::parse_x509_pem(self.cert_pem.as_bytes()).ok()?;
        let c = p.parse_x509().ok()?;
        let names = c.subject_alternative_name().ok()??;
        let mut domains = names.value.general_names.iter().filter_map(|n| match n {
            GeneralName::URI(uri) => uri.strip_prefix("spiffe://"),
            _ => None,
        });
        match (domains.next(), domains.next()) {
            (Some(domain), None) if !domain.contains('/') => Some(domain.to_owned()),
            _ => None,
        }
    }

    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, CaError> {
        Ok(Issuer::from_ca_cert_pem(&self.cert_pem, KeyPair::from_pem(&self.key_pem)?)?)
    }

    /// Signs the key of a request. Everything else in the request is ignored: the identity is `id`, and `dns` are names
    /// under which a server is reached. `seconds` of validity may be negative, for tests.
    pub fn sign(&self, request_pem: &str, id: &SpiffeId, dns: &[String], seconds: i64) -> Result<String, CaError> {
        let mut p = CertificateParams::new(dns.to_vec())?;
        p.subject_alt_names.push(SanType::URI(id.to_string().try_into()?));
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(request_pem, p, seconds)
    }

    /// Signs the key of a request for a server that clients know by `names`, DNS names and addresses, and that has no
    /// identity.
    pub fn sign_server(&self, request_pem: &str, names: &[String], seconds: i64) -> Result<String, CaError> {
        let mut p = CertificateParams::new(names.to_vec())?;
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(request_pem, p, seconds)
    }

    fn issue(&self, request_pem: &str, mut p: CertificateParams, seconds: i64) -> Result<String, CaError> {
        let mut csr = CertificateSigningRequestParams::from_pem(request_pem)?;
        p.distinguished_name = DistinguishedName::new();
        p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        p.use_authority_key_identifier_extension = true;
        let now = OffsetDateTime::now_utc();
        let end = now + Duration::seconds(seconds);
        (p.not_before, p.not_after) = ((now - BACKDATE).min(end - BACKDATE), end);
        csr.params = p;
        Ok(csr.signed_by(&self.issuer()?)?.pem())
    }
}

/// A new key and a certificate request for it.
pub fn new_request() -> Result<KeyPairPem, CaError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let request = CertificateParams::default().serialize_request(&key)?;
    Ok(KeyPairPem { key_pem: key.serialize_pem(), pem: request.pem()? })
}

/// Beginning and end of validity of the first certificate, milliseconds since 1970.
pub fn validity_ms(pem: &str) -> Result<(u64, u64), CaError> {
    let (_, p) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| CaError::Parse(e.to_string()))?;
    let c = p.parse_x509().map_err(|e| CaError::Parse(e.to_string()))?;
    let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0) * 1000;
    Ok((ms(c.validity().not_before.timestamp()), ms(c.validity().not_after.timestamp())))
}

/// End of validity of the first certificate, milliseconds since 1970.
pub fn not_after_ms(pem: &str) -> Result<u64, CaError> {
    validity_ms(pem).map(|(_, until)| until)
}

pub(crate) fn not_after_ms_der(der: &[u8]) -> Option<u64> {
    let (_, c) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(u64::try_from(c.validity().not_after.timestamp()).unwrap_or(0) * 1000)
}

/// SHA-256 of the first certificate in upper-case hex with colons, as other tools print it.
pub fn fingerprint(pem: &str) -> Result<String, CaError> {
    let (_, p) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| CaError::Parse(e.to_string()))?;
    fingerprint_der(&p.contents)
}

/// Of every certificate of a bundle, in its order.
pub fn fingerprints(pem: &str) -> Result<Vec<String>, CaError> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes());
    all.map(|c| fingerprint_der(&c.map_err(|e| CaError::Parse(e.to_string()))?)).collect()
}

pub(crate) fn fingerprint_der(der: &[u8]) -> Result<String, CaError> {
    let d = rustls::crypto::aws_lc_rs::default_provider();
    let sha256 = d
        .cipher_suites
        .iter()
        .filter_map(rustls::SupportedCipherSuite::tls13)
        .map(|s| s.common.hash_provider)
        .find(|h| h.output_len() == 32);
    let h = sha256.ok_or_else(|| CaError::Parse("no SHA-256".into()))?.hash(der);
    Ok(h.as_ref().iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":"))
}
