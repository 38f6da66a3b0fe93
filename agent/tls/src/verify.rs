//! Verification of peers, and the configurations built on it.

use crate::ca::{fingerprint_der, validity_ms};
use crate::identity::{SpiffeId, certificate_identity};
use crate::serve::Peer;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SignatureVerificationAlgorithm, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    RootCertStore, ServerConfig, SignatureScheme,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error as ThisError;

/// Why a peer was refused by this side.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
pub enum Failure {
    #[error("the certificate carries no identity (exactly one spiffe:// name is needed)")]
    NoIdentity,
    #[error("no roots are configured for the trust domain {0}")]
    UnknownDomain(String),
    #[error("the certificate of {id} is not signed by any root configured for its trust domain: {why}")]
    Untrusted { id: String, why: String },
    #[error("the certificate of {0} has expired or is not valid yet")]
    Expired(String),
    #[error("the peer is {found}, expected {expected}")]
    WrongIdentity { found: String, expected: String },
    #[error("{0} is not a peer of this kernel")]
    NotAPeer(String),
}

#[derive(Debug, ThisError)]
pub enum TlsError {
    #[error("PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("TLS: {0}")]
    Tls(#[from] Error),
    #[error("no certificate in {0}")]
    Empty(&'static str),
}

/// This side's certificate chain and key.
#[derive(Clone)]
pub struct Material {
    pub chain_pem: String,
    pub key_pem: String,
}

impl Material {
    fn parts(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let chain = CertificateDer::pem_slice_iter(self.chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        if chain.is_empty() {
            return Err(TlsError::Empty("the certificate chain"));
        }
        Ok((chain, PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())?))
    }
}

/// Roots of one trust domain: what verification needs of them, and beside each the certificate that it is of.
#[derive(Clone, Debug)]
struct Roots {
    store: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
}

impl Roots {
    fn empty() -> Self {
        Roots { store: RootCertStore::empty(), certificates: Vec::new() }
    }

    fn add(&mut self, pem: &str) -> Result<(), TlsError> {
        let before = self.certificates.len();
        for c in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let c = c?;
            self.store.add(c.clone())?;
            self.certificates.push(c);
        }
        // Taken for roots, it would refuse everybody and say that they are at fault.
        if self.certificates.len() == before {
            return Err(TlsError::Empty("the trust bundle"));
        }
        Ok(())
    }

    /// The root that a chain leads to.
    fn verify(
        &self,
        ee: &CertificateDer<'_>,
        inter: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
    ) -> Result<&CertificateDer<'static>, webpki::Error> {
        let cert = webpki::EndEntityCert::try_from(ee)?;
        let usage = match usage {
            Usage::Server => webpki::KeyUsage::server_auth(),
            Usage::Client => webpki::KeyUsage::client_auth(),
        };
        let path = cert.verify_for_usage(algorithms(), &self.store.roots, inter, now, usage, None, None)?;
        let at = self.store.roots.iter().position(|r| r == path.anchor());
        at.and_then(|at| self.certificates.get(at)).ok_or(webpki::Error::UnknownIssuer)
    }

    /// As `verify`, for whoever wants to know only which root it is, by its fingerprint.
    fn find(&self, ee: &CertificateDer<'_>, inter: &[CertificateDer<'_>], now: UnixTime) -> Option<String> {
        // A certificate of ours is good for both; one of another issuer may be for one of them.
        let root = self.verify(ee, inter, now, Usage::Client).or_else(|_| self.verify(ee, inter, now, Usage::Server));
        fingerprint_der(root.ok()?).ok()
    }
}

/// Who is trusted: roots by trust domain, and the identities that may connect.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    roots: BTreeMap<String, Arc<Roots>>,
    expected: BTreeSet<SpiffeId>,
}

impl Trust {
    /// Adds roots for one trust domain. Several calls for one domain add up: that is how roots are rotated.
    pub fn add_roots<'a>(&mut self, domain: &str, pems: impl IntoIterator<Item = &'a str>) -> Result<(), TlsError> {
        let mut roots = self.roots.get(domain).map_or_else(Roots::empty, |r| (**r).clone());
        for pem in pems {
            roots.add(pem)?;
        }
        self.roots.insert(domain.to_owned(), Arc::new(roots));
        Ok(())
    }

    pub fn expect(&mut self, id: SpiffeId) {
        self.expected.insert(id);
    }

    /// Looks again at a peer that was let in earlier: since then its root or its Remote may be gone, or its time over.
    pub fn readmits(&self, peer: &Peer) -> Result<SpiffeId, Failure> {
        let (ee, inter) = peer.chain.split_first().ok_or(Failure::NoIdentity)?;
        self.verify(ee, inter, UnixTime::now(), Usage::Client)
    }

    /// The fingerprint of the root by which a peer proves who it is; `None` if it does not.
    pub fn root_of(&self, peer: &Peer) -> Option<String> {
        let (ee, inter) = peer.chain.split_first()?;
        let id = certificate_identity(ee)?;
        self.roots.get(&id.trust_domain)?.find(ee, inter, UnixTime::now())
    }

    /// Whether others with this trust would take a certificate of this side, whoever dials.
    pub(crate) fn accepts_at_both_ends(
        &self,
        ee: &CertificateDer<'_>,
        inter: &[CertificateDer<'_>],
        since_1970: Duration,
    ) -> Result<(), Failure> {
        let now = UnixTime::since_unix_epoch(since_1970);
        self.verify(ee, inter, now, Usage::Server)?;
        self.verify(ee, inter, now, Usage::Client).map(drop)
    }

    fn verify(
        &self,
        ee: &CertificateDer<'_>,
        inter: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
    ) -> Result<SpiffeId, Failure> {
        let id = certificate_identity(ee).ok_or(Failure::NoIdentity)?;
        let roots = self.roots.get(&id.trust_domain).ok_or_else(|| Failure::UnknownDomain(id.trust_domain.clone()))?;
        let untrusted = |why: String| Failure::Untrusted { id: id.to_string(), why };
        roots.verify(ee, inter, now, usage).map_err(|e| match e {
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
                Failure::Expired(id.to_string())
            }
            webpki::Error::UnknownIssuer => untrusted("unknown issuer".into()),
            e => untrusted(e.to_string()),
        })?;
        if !self.expected.contains(&id) {
            return Err(match (self.expected.len(), self.expected.first()) {
                (1, Some(one)) => Failure::WrongIdentity { found: id.to_string(), expected: one.to_string() },
                _ => Failure::NotAPeer(id.to_string()),
            });
        }
        Ok(id)
    }
}

#[derive(Clone, Copy)]
enum Usage {
    Server,
    Client,
}

/// The fingerprint of the one of these roots that a chain of this side leads to, also if its time is over; `None` if none.
pub fn root_of_chain(chain_pem: &str, roots_pem: &str) -> Option<String> {
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>().ok()?;
    let (ee, inter) = chain.split_first()?;
    let mut roots = Roots::empty();
    roots.add(roots_pem).ok()?;
    let since = Duration::from_millis(validity_ms(chain_pem).ok()?.0);
    roots.find(ee, inter, UnixTime::since_unix_epoch(since))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn algorithms() -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all
}

fn refused(f: Failure) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(f))))
}

/// The failure of this side's own verification behind an error, if that is what it is.
pub fn failure_of(e: &(dyn std::error::Error + 'static)) -> Option<Failure> {
    let mut next = Some(e);
    while let Some(e) = next {
        if let Some(f) = e.downcast_ref::<Failure>() {
            return Some(f.clone());
        }
        // rustls hides what it wraps from `source`.
        if let Some(Error::InvalidCertificate(CertificateError::Other(o))) = e.downcast_ref::<Error>() {
            return o.0.downcast_ref::<Failure>().cloned();
        }
        if let Some(io) = e.downcast_ref::<std::io::Error>()
            && let Some(inner) = io.get_ref()
            && let Some(f) = failure_of(inner)
        {
            return Some(f);
        }
        next = e.source();
    }
    None
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        ee: &CertificateDer<'_>,
        inter: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.trust.verify(ee, inter, now, Usage::Server).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }
    fn verify_tls13_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(m, c, d, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        ee: &CertificateDer<'_>,
        inter: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trust.verify(ee, inter, now, Usage::Client).map_err(|f| {
            tracing::warn!(reason = %f, "a peer was refused");
            // The alert is all that the peer learns, and only it can renew what has expired.
            match f {
                Failure::Expired(_) => Error::InvalidCertificate(CertificateError::Expired),
                f => refused(f),
            }
        })?;
        Ok(ClientCertVerified::assertion())
    }
    // What is signed, and how, is the same at both ends.
    fn verify_tls12_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, m, c, d)
    }
    fn verify_tls13_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, m, c, d)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

/// For accepting peers. Without `trust` any client may connect and none is asked for a certificate (agents of the same
/// domain that come for one).
pub fn server_config(own: &Material, trust: Option<Trust>) -> Result<Arc<ServerConfig>, TlsError> {
    serving(own, trust, &[b"h2"])
}

/// For HTTPS: any client may connect, and judges this side by its names. An API server calls webhooks by HTTP/1.1 only.
pub fn https_config(own: &Material) -> Result<Arc<ServerConfig>, TlsError> {
    serving(own, None, &[b"h2", b"http/1.1"])
}

fn serving(own: &Material, trust: Option<Trust>, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
    let p = provider();
    let (chain, key) = own.parts()?;
    let b = ServerConfig::builder_with_provider(p.clone()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let b = match trust {
        Some(trust) => b.with_client_cert_verifier(Arc::new(Verifier { trust, provider: p })),
        None => b.with_no_client_auth(),
    };
    let mut c = b.with_single_cert(chain, key)?;
    c.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    c.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    c.send_tls13_tickets = 0;
    c.max_early_data_size = 0;
    Ok(Arc::new(c))
}

/// For dialling; `own` is this side's certificate, if it has one to show.
pub fn client_config(own: Option<&Material>, trust: Trust) -> Result<Arc<ClientConfig>, TlsError> {
    let p = provider();
    let b = ClientConfig::builder_with_provider(p.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { trust, provider: p }));
    let mut c = match own {
        Some(m) => {
            let (chain, key) = m.parts()?;
            b.with_client_auth_cert(chain, key)?
        }
        None => b.with_no_client_auth(),
    };
    c.alpn_protocols = vec![b"h2".to_vec()];
    c.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(c))
}
