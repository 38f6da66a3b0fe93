//! Certificates, keys, bundles and requests as others wrote them, whole and damaged: an error and never a panic, and nobody
//! is let in by a mistake.

#[path = "../../../tests/tests/damage/mod.rs"]
mod damage;

use damage::Damage;
use mew_tls::{
    Authority, Failure, Material, Peer, SpiffeId, TlsError, Trust, certificate_identity, fingerprint, fingerprints,
    https_config, new_request, not_after_ms, root_of_chain, server_config, validity_ms,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const DOMAIN: &str = "there.example";
const HOUR: i64 = 3600;
const PEM: [&str; 6] = [
    "-----BEGIN CERTIFICATE-----\n",
    "-----END CERTIFICATE-----\n",
    "-----BEGIN PRIVATE KEY-----\n",
    "-----",
    "==",
    "MIIB",
];

fn authority() -> Authority {
    Authority::new(DOMAIN).expect("a CA")
}

fn kernel(name: &str) -> SpiffeId {
    SpiffeId::kernel(DOMAIN, name)
}

/// A certificate of the kernel `there`, and its key.
fn leaf(ca: &Authority, seconds: i64) -> Material {
    let request = new_request().expect("a request");
    let chain_pem = ca.sign(&request.pem, &kernel("there"), &[], seconds).expect("a certificate");
    Material { chain_pem, key_pem: request.key_pem }
}

fn der(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().expect("certificates in PEM")
}

fn shows(chain: Vec<CertificateDer<'static>>) -> Peer {
    Peer { address: ([192, 0, 2, 1], 50_000).into(), not_after_ms: None, chain: chain.into() }
}

/// Expects the kernel `there` under these roots.
fn trust(roots: &[&str]) -> Trust {
    let mut t = Trust::default();
    t.add_roots(DOMAIN, roots.iter().copied()).expect("roots");
    t.expect(kernel("there"));
    t
}

/// Of a connection that is older than what is configured now.
#[test]
fn a_peer_is_looked_at_again() {
    let (ca, other) = (authority(), authority());
    let peer = shows(der(&leaf(&ca, HOUR).chain_pem));
    let roots = ca.cert_pem.as_str();
    assert_eq!(trust(&[roots]).readmits(&peer), Ok(kernel("there")));
    // While a root is replaced, both hold.
    assert_eq!(trust(&[&other.cert_pem, roots]).readmits(&peer), Ok(kernel("there")));

    let refusal = |t: &Trust, p: &Peer| t.readmits(p).expect_err("it must be refused");
    let gone = refusal(&trust(&[&other.cert_pem]), &peer);
    assert!(matches!(gone, Failure::Untrusted { .. }), "{gone:?}");
    assert_eq!(refusal(&Trust::default(), &peer), Failure::UnknownDomain(DOMAIN.into()));
    let mut others = Trust::default();
    others.add_roots(DOMAIN, [roots]).expect("roots");
    assert_eq!(refusal(&others, &peer), Failure::NotAPeer(kernel("there").to_string()));
    others.expect(kernel("elsewhere"));
    assert!(matches!(refusal(&others, &peer), Failure::WrongIdentity { .. }));
    let over = shows(der(&leaf(&ca, -HOUR).chain_pem));
    assert_eq!(refusal(&trust(&[roots]), &over), Failure::Expired(kernel("there").to_string()));
    assert_eq!(refusal(&trust(&[roots]), &shows(Vec::new())), Failure::NoIdentity);
    // A root is nobody's identity.
    assert!(trust(&[roots]).readmits(&shows(der(roots))).is_err());
}

/// While a CA is replaced: which root somebody is known by, and that each knows only its own.
#[test]
fn a_chain_leads_to_the_root_that_signed_it() {
    // Of one name, as an old and a new CA of one trust domain are.
    let (old, new, other) = (authority(), authority(), authority());
    let name = |ca: &Authority| fingerprint(&ca.cert_pem).expect("a certificate");
    let bundle = format!("{}{}", old.cert_pem, new.cert_pem);
    assert_eq!(fingerprints(&bundle).expect("two certificates"), [name(&old), name(&new)]);
    assert!(fingerprints("no PEM at all").expect("an empty list").is_empty());
    for roots in [vec![bundle.as_str()], vec![new.cert_pem.as_str(), old.cert_pem.as_str()]] {
        let both = trust(&roots);
        for ca in [&old, &new] {
            let own = leaf(ca, HOUR);
            let peer = shows(der(&own.chain_pem));
            assert_eq!(both.root_of(&peer), Some(name(ca)));
            assert_eq!(both.readmits(&peer), Ok(kernel("there")));
            assert_eq!(root_of_chain(&own.chain_pem, &bundle), Some(name(ca)));
        }
        let stranger = leaf(&other, HOUR);
        assert_eq!(both.root_of(&shows(der(&stranger.chain_pem))), None);
        assert_eq!(root_of_chain(&stranger.chain_pem, &bundle), None);
    }
    // Before the new root is published, and after the old one is retired.
    for (roots, signer) in [(&old, &new), (&new, &old)] {
        let peer = shows(der(&leaf(signer, HOUR).chain_pem));
        let t = trust(&[&roots.cert_pem]);
        assert_eq!(t.root_of(&peer), None);
        assert!(matches!(t.readmits(&peer), Err(Failure::Untrusted { .. })));
    }
    // Whose time is over still comes from somewhere, but nobody is let in by it.
    let over = leaf(&old, -HOUR);
    assert_eq!(root_of_chain(&over.chain_pem, &bundle), Some(name(&old)));
    assert_eq!(trust(&[&bundle]).root_of(&shows(der(&over.chain_pem))), None);
    assert_eq!(root_of_chain("", &bundle), None);
    assert_eq!(root_of_chain(&over.chain_pem, ""), None);
}

#[test]
fn a_damaged_certificate_lets_nobody_in() {
    let ca = authority();
    let trust = trust(&[&ca.cert_pem]);
    let good = der(&leaf(&ca, HOUR).chain_pem).remove(0);
    assert!(trust.readmits(&shows(vec![good.clone()])).is_ok());
    let mut damage = Damage::new(21);
    for n in 0..2_000 {
        let bad = CertificateDer::from(damage.bytes(&good));
        let admitted = trust.readmits(&shows(vec![bad.clone()]));
        assert!(admitted.is_err(), "{n}: {admitted:?} by {:02x?}", &bad[..]);
        // Nor with a good one behind it.
        assert!(trust.readmits(&shows(vec![bad, good.clone()])).is_err(), "{n}");
    }
}

#[test]
fn a_damaged_bundle_is_refused_whole_or_trusts_no_stranger() {
    let (ca, stranger) = (authority(), authority());
    let honest = shows(der(&leaf(&ca, HOUR).chain_pem));
    // Of the same name, signed by a CA of the same name.
    let stranger = shows(der(&leaf(&stranger, HOUR).chain_pem));
    let mut damage = Damage::new(22);
    let mut refused = 0;
    for _ in 0..2_000 {
        let text = damage.text(&ca.cert_pem, &PEM);
        let mut t = Trust::default();
        t.expect(kernel("there"));
        if let Err(e) = t.add_roots(DOMAIN, [text.as_str()]) {
            refused += 1;
            assert!(!e.to_string().is_empty(), "{text}");
            assert_eq!(t.readmits(&honest), Err(Failure::UnknownDomain(DOMAIN.into())), "{text}");
        }
        assert!(t.readmits(&stranger).is_err(), "{text}");
        // Whatever it is, what was trusted before stays.
        let mut before = trust(&[&ca.cert_pem]);
        let _ = before.add_roots(DOMAIN, [text.as_str()]);
        assert!(before.readmits(&honest).is_ok(), "{text}");
    }
    assert!(refused > 500, "only {refused} were refused");
}

#[test]
fn a_bundle_without_a_certificate_is_no_bundle() {
    let ca = authority();
    for text in ["", "ca.crt", "-----BEGIN CERTIFICATE-----\n", ca.key_pem()] {
        let mut t = Trust::default();
        assert!(t.add_roots(DOMAIN, [text]).is_err(), "{text:?}");
        assert!(t.add_roots(DOMAIN, [ca.cert_pem.as_str(), text]).is_err(), "beside a good one: {text:?}");
    }
    let empty = Trust::default().add_roots(DOMAIN, ["no PEM at all"]).expect_err("nothing is in it");
    assert!(matches!(empty, TlsError::Empty(_)) && empty.to_string().contains("trust bundle"), "{empty}");
}

#[test]
fn damaged_material_is_refused_or_usable() {
    let ca = authority();
    let good = leaf(&ca, HOUR);
    assert!(server_config(&good, None).is_ok());
    let other = leaf(&ca, HOUR);
    let mixed = Material { chain_pem: good.chain_pem.clone(), key_pem: other.key_pem };
    assert!(server_config(&mixed, None).is_err(), "a key of another certificate");
    let mut damage = Damage::new(23);
    let mut refused = 0;
    for n in 0..1_000 {
        let mut m = good.clone();
        if n % 2 == 0 {
            m.chain_pem = damage.text(&m.chain_pem, &PEM);
        } else {
            m.key_pem = damage.text(&m.key_pem, &PEM);
        }
        if let Err(e) = server_config(&m, None) {
            refused += 1;
            assert!(!e.to_string().is_empty());
        }
        // What reads only a part of it gives an answer or an error.
        let _ = not_after_ms(&m.chain_pem);
        if let Ok(f) = fingerprint(&m.chain_pem) {
            assert_eq!(f.len(), 95, "32 bytes in hex, with colons");
        }
        drop(Authority::from_pem(m.chain_pem, m.key_pem));
    }
    assert!(refused > 400, "only {refused} were refused");
}

/// Only the key counts, and whoever asks must have it.
#[test]
fn a_damaged_request_gets_no_other_identity() {
    let ca = authority();
    let trust = trust(&[&ca.cert_pem]);
    let good = new_request().expect("a request").pem;
    let mut damage = Damage::new(24);
    let mut refused = 0;
    for _ in 0..1_000 {
        let text = damage.text(&good, &PEM);
        match ca.sign(&text, &kernel("there"), &[], HOUR) {
            Err(e) => {
                refused += 1;
                assert!(!e.to_string().is_empty(), "{text}");
            }
            Ok(pem) => {
                let chain = der(&pem);
                assert_eq!(chain.first().and_then(certificate_identity), Some(kernel("there")), "{text}");
                assert_eq!(trust.readmits(&shows(chain)), Ok(kernel("there")), "{text}");
            }
        }
    }
    assert!(refused > 500, "only {refused} were refused");
}

/// What signs servers by their names makes nobody a kernel.
#[test]
fn a_server_that_is_known_by_its_names_has_no_identity() {
    let ca = Authority::of_servers("webhooks", 2 * HOUR).expect("a CA");
    let request = new_request().expect("a request");
    let names = ["mew.example.svc".to_owned(), "127.0.0.1".to_owned()];
    let chain_pem = ca.sign_server(&request.pem, &names, HOUR).expect("a certificate");
    let chain = der(&chain_pem);
    assert_eq!(chain.first().and_then(certificate_identity), None);
    assert_eq!(trust(&[&ca.cert_pem]).readmits(&shows(chain)), Err(Failure::NoIdentity));
    let (since, until) = validity_ms(&chain_pem).expect("a certificate");
    assert!((HOUR..=2 * HOUR).contains(&((until - since) as i64 / 1000)), "{since} to {until}");
    assert_eq!(not_after_ms(&chain_pem).ok(), Some(until));
    let config = https_config(&Material { chain_pem, key_pem: request.key_pem }).expect("a configuration");
    assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
}

#[test]
fn identities_are_read_exactly() {
    for wrong in
        ["", "spiffe://", "spiffe://x", "spiffe:///kernel/a", "spiffe://x/", "https://x/kernel/a", "SPIFFE://x/a"]
    {
        assert_eq!(SpiffeId::parse(wrong), None, "{wrong:?}");
    }
    let id = SpiffeId::parse("spiffe://there.example/kernel/there").expect("an identity");
    assert_eq!((&id, id.kernel_id()), (&kernel("there"), Some("there")));
    assert_eq!(SpiffeId::operator(DOMAIN).kernel_id(), None);
}
