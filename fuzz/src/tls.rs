//! Certificates, trust bundles and certificate requests. The authorities here are new in every process, so that none of the
//! kept inputs was ever signed by them: nobody may be let in.

use mew_tls::{
    Authority, Failure, Material, Peer, SpiffeId, Trust, certificate_identity, fingerprint, new_request, not_after_ms,
    server_config,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::sync::OnceLock;

const DOMAIN: &str = "there.example";
const HOUR: i64 = 3600;

struct World {
    ca: Authority,
    /// Of a kernel that the authority signed for, its key, and how it connects.
    material: Material,
    honest: Peer,
}

fn kernel() -> SpiffeId {
    SpiffeId::kernel(DOMAIN, "there")
}

fn der(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().expect("certificates in PEM")
}

fn shows(chain: Vec<CertificateDer<'static>>) -> Peer {
    Peer { address: ([192, 0, 2, 1], 50_000).into(), not_after_ms: None, chain: chain.into() }
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let ca = Authority::new(DOMAIN).expect("a CA");
        let request = new_request().expect("a request");
        let chain_pem = ca.sign(&request.pem, &kernel(), &[], 24 * HOUR).expect("a certificate");
        let honest = shows(der(&chain_pem));
        World { ca, material: Material { chain_pem, key_pem: request.key_pem }, honest }
    })
}

fn trusting(roots: &str) -> Trust {
    let mut t = Trust::default();
    t.add_roots(DOMAIN, [roots]).expect("roots");
    t.expect(kernel());
    t
}

/// A certificate as a peer shows it. Whoever was not signed for is not let in, nor with a good one behind it.
pub fn certificate(data: &[u8]) {
    let w = world();
    let cert = CertificateDer::from(data.to_vec());
    if let Some(id) = certificate_identity(&cert) {
        assert_eq!(SpiffeId::parse(&id.to_string()), Some(id));
    }
    let trust = trusting(&w.ca.cert_pem);
    let admitted = trust.readmits(&shows(vec![cert.clone()]));
    assert!(admitted.is_err(), "{admitted:?} by {data:02x?}");
    let behind = [vec![cert], w.honest.chain.to_vec()].concat();
    assert!(trust.readmits(&shows(behind)).is_err(), "{data:02x?}");
}

/// A bundle of roots, or a chain: refused whole, or trusted for what is in it and nothing else.
pub fn bundle(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let text = text.as_ref();
    let w = world();
    let mut t = Trust::default();
    t.expect(kernel());
    match t.add_roots(DOMAIN, [text]) {
        Err(e) => {
            assert!(!e.to_string().is_empty(), "{text}");
            assert_eq!(t.readmits(&w.honest), Err(Failure::UnknownDomain(DOMAIN.into())), "{text}");
        }
        Ok(()) => assert!(t.readmits(&w.honest).is_err(), "{text}"),
    }
    // Whatever it is, what was trusted before stays.
    let mut before = trusting(&w.ca.cert_pem);
    let _ = before.add_roots(DOMAIN, [text]);
    assert_eq!(before.readmits(&w.honest), Ok(kernel()), "{text}");
    if let Ok(f) = fingerprint(text) {
        assert_eq!(f.len(), 95, "32 bytes in hex, with colons: {f}");
    }
    if let Err(e) = not_after_ms(text) {
        assert!(!e.to_string().is_empty());
    }
    // A chain that is not the key's, or a key that is not the chain's, serves nobody.
    for m in [
        Material { chain_pem: text.to_owned(), key_pem: w.material.key_pem.clone() },
        Material { chain_pem: w.material.chain_pem.clone(), key_pem: text.to_owned() },
    ] {
        assert!(server_config(&m, None).is_err(), "{text}");
    }
}

/// A certificate request: only its key counts, and it gets no other identity than it may have.
pub fn request(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let w = world();
    match w.ca.sign(&text, &kernel(), &[], HOUR) {
        Err(e) => assert!(!e.to_string().is_empty(), "{text}"),
        Ok(pem) => {
            let chain = der(&pem);
            assert_eq!(chain.first().and_then(certificate_identity), Some(kernel()), "{text}");
            assert_eq!(trusting(&w.ca.cert_pem).readmits(&shows(chain)), Ok(kernel()), "{text}");
        }
    }
}
