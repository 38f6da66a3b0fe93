//! Certificates that somebody else issued, as cert-manager writes them into Secrets: what can be used, and what is said of
//! what cannot.

use mew_tls::{Material, NotUsable, SpiffeId, check_given};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use std::time::{SystemTime, UNIX_EPOCH};
use time::{Duration, OffsetDateTime};

const ME: &str = "spiffe://here.example/kernel/shop.till";

fn me() -> SpiffeId {
    SpiffeId::kernel("here.example", "shop.till")
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_millis() as u64
}

/// A CA: its certificate, and what signs with it.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut p = CertificateParams::default();
    p.distinguished_name.push(DnType::CommonName, name);
    p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    p
}

fn root() -> Ca {
    let key = KeyPair::generate().expect("a key");
    let p = ca_params("root");
    Ca { pem: p.self_signed(&key).expect("a certificate").pem(), issuer: Issuer::new(p, key) }
}

impl Ca {
    fn intermediate(&self) -> Ca {
        let key = KeyPair::generate().expect("a key");
        let p = ca_params("between");
        Ca { pem: p.signed_by(&key, &self.issuer).expect("a certificate").pem(), issuer: Issuer::new(p, key) }
    }

    /// Valid for some hours from now; both may be negative.
    fn leaf(&self, names: &[&str], hours: (i64, i64), usages: &[ExtendedKeyUsagePurpose]) -> Material {
        let key = KeyPair::generate().expect("a key");
        let mut p = CertificateParams::default();
        p.subject_alt_names = names.iter().map(|n| SanType::URI((*n).try_into().expect("a URI"))).collect();
        p.extended_key_usages = usages.to_vec();
        let now = OffsetDateTime::now_utc();
        (p.not_before, p.not_after) = (now + Duration::hours(hours.0), now + Duration::hours(hours.1));
        Material {
            chain_pem: p.signed_by(&key, &self.issuer).expect("a certificate").pem(),
            key_pem: key.serialize_pem(),
        }
    }

    fn good(&self) -> Material {
        self.leaf(&[ME], (-1, 2), &[])
    }
}

fn refusal(own: &Material, root: Option<&str>) -> NotUsable {
    check_given(own, root, &me(), now_ms()).expect_err("it must be refused")
}

#[test]
fn a_good_one_can_be_used_until_it_ends() {
    let ca = root();
    let end = now_ms() + 2 * 3_600_000;
    let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    // Without usages, as cert-manager makes them if nobody says more, it may be used for all.
    for (own, root) in
        [(ca.good(), Some(ca.pem.as_str())), (ca.good(), None), (ca.leaf(&[ME], (-1, 2), &both), Some(ca.pem.as_str()))]
    {
        let until = check_given(&own, root, &me(), now_ms()).expect("it is good");
        assert!(until.abs_diff(end) < 60_000, "{until}, not {end}");
    }
}

/// What tls.crt holds beside the leaf is what peers need to find the root.
#[test]
fn intermediates_belong_to_the_chain() {
    let ca = root();
    let between = ca.intermediate();
    let mut own = between.good();
    let why = refusal(&own, Some(&ca.pem));
    assert!(matches!(&why, NotUsable::Refused(w) if w.contains("issuer")), "{why:?}");
    own.chain_pem.push_str(&between.pem);
    check_given(&own, Some(&ca.pem), &me(), now_ms()).expect("the chain is whole");
}

#[test]
fn another_identity_is_named_beside_ours() {
    let ca = root();
    let other = "spiffe://here.example/kernel/shop.safe";
    for (names, found) in [
        (vec![other], other),
        (vec!["spiffe://there.example/kernel/shop.till"], "spiffe://there.example/kernel/shop.till"),
        (vec!["spiffe://here.example/operator"], "spiffe://here.example/operator"),
        (vec![ME, other], "nobody"),
        (vec![], "nobody"),
    ] {
        let why = refusal(&ca.leaf(&names, (-1, 2), &[]), Some(&ca.pem));
        let NotUsable::OtherIdentity { found: f, expected } = &why else { panic!("{names:?}: {why:?}") };
        assert!(f.starts_with(found) && expected == ME, "{names:?}: {why:?}");
    }
}

#[test]
fn its_time_is_told_apart() {
    let ca = root();
    let over = refusal(&ca.leaf(&[ME], (-2, -1), &[]), Some(&ca.pem));
    assert!(matches!(over, NotUsable::Expired(at) if at < now_ms()), "{over:?}");
    let early = refusal(&ca.leaf(&[ME], (1, 2), &[]), Some(&ca.pem));
    assert!(matches!(early, NotUsable::NotYet(at) if at > now_ms()), "{early:?}");
}

#[test]
fn what_peers_would_refuse_is_refused_here() {
    let (ca, other) = (root(), root());
    let stranger = refusal(&ca.good(), Some(&other.pem));
    assert!(matches!(stranger, NotUsable::Refused(_)), "{stranger:?}");
    // It could accept and not dial, or the other way.
    for usage in [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth] {
        let half = refusal(&ca.leaf(&[ME], (-1, 2), &[usage]), Some(&ca.pem));
        assert!(matches!(half, NotUsable::Refused(_)), "{half:?}");
    }
}

#[test]
fn damage_says_which_file() {
    let ca = root();
    let (good, another) = (ca.good(), ca.good());
    let cut = |s: &str| s[..s.len() / 2].to_owned();
    for (own, root, file) in [
        (Material { key_pem: another.key_pem.clone(), ..good.clone() }, None, "tls.key"),
        (Material { key_pem: cut(&good.key_pem), ..good.clone() }, None, "tls.key"),
        (Material { chain_pem: cut(&good.chain_pem), ..good.clone() }, None, "tls.crt"),
        (Material { chain_pem: String::new(), ..good.clone() }, None, "tls.crt"),
        (Material { chain_pem: good.key_pem.clone(), key_pem: good.chain_pem.clone() }, None, "tls.crt"),
        (good.clone(), Some("no certificate"), "ca.crt"),
        (good.clone(), Some(""), "ca.crt"),
    ] {
        let why = refusal(&own, root);
        assert!(matches!(&why, NotUsable::Damaged(w) if w.contains(file)), "{file}: {why:?}");
    }
}
