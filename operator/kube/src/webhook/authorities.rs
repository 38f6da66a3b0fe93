//! The CAs that the webhook's certificates come from. Only the API server trusts them, by the caBundle that the operator
//! writes itself, so they are made, replaced and forgotten without asking anybody.
//!
//! A new one is published long before it signs, and an old one is trusted for as long as what it has signed: the order in
//! which replicas and API servers notice does not matter.

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use mew_tls::{Authority, CaError, validity_ms};
use std::collections::BTreeMap;

const HOUR_MS: u64 = 3600 * 1000;
/// Lifetime of a CA; another one is made when a third of it is left.
const LIFE_SECONDS: i64 = 365 * 24 * 3600;
/// How long a certificate of the webhook is valid.
pub const LEAF_SECONDS: i64 = 72 * 3600;
const LEAF_MS: u64 = LEAF_SECONDS as u64 * 1000;
/// From publishing a CA to signing by it. API servers learn of a bundle within seconds; a day is for the case that nobody can
/// write it just then.
const PUBLISH_MS: u64 = 24 * HOUR_MS;

/// Keys of the Secret: certificate and key of the newest CA, and of the one before while it counts.
const NEWEST: (&str, &str) = ("tls.crt", "tls.key");
const PREVIOUS: (&str, &str) = ("previous.crt", "previous.key");

/// Oldest first; one, or two while one replaces the other.
#[derive(Clone)]
pub struct Authorities(Vec<Dated>);

#[derive(Clone)]
struct Dated {
    ca: Authority,
    since_ms: u64,
    until_ms: u64,
}

impl Dated {
    fn new(ca: Authority) -> Result<Self, CaError> {
        let (since_ms, until_ms) = validity_ms(&ca.cert_pem)?;
        Ok(Dated { ca, since_ms, until_ms })
    }

    fn generate() -> Result<Self, CaError> {
        Self::new(Authority::of_servers("mew-operator webhook CA", LIFE_SECONDS)?)
    }

    fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.since_ms)
    }

    fn is_due(&self, now_ms: u64) -> bool {
        self.until_ms.saturating_sub(now_ms) < self.until_ms.saturating_sub(self.since_ms) / 3
    }
}

impl Authorities {
    pub fn generate() -> Result<Self, CaError> {
        Ok(Authorities(vec![Dated::generate()?]))
    }

    /// As they are now, if that is not how they were.
    pub fn advanced(&self, now_ms: u64) -> Result<Option<Self>, CaError> {
        let mut all: Vec<Dated> = self.0.iter().filter(|d| now_ms < d.until_ms).cloned().collect();
        let replaced = matches!(all.as_slice(), [_, new] if new.age_ms(now_ms) >= PUBLISH_MS + LEAF_MS);
        if replaced {
            all.remove(0);
        }
        if all.iter().all(|d| d.is_due(now_ms)) && all.len() < 2 {
            all.push(Dated::generate()?);
        }
        let same = all.iter().map(|d| &d.ca.cert_pem).eq(self.0.iter().map(|d| &d.ca.cert_pem));
        Ok((!same).then_some(Authorities(all)))
    }

    /// The one that signs now.
    pub fn signer(&self, now_ms: u64) -> Option<&Authority> {
        let known = |d: &&Dated| d.age_ms(now_ms) >= PUBLISH_MS;
        self.0.iter().rev().find(known).or(self.0.first()).map(|d| &d.ca)
    }

    /// All that are trusted.
    pub fn bundle(&self) -> String {
        self.0.iter().map(|d| format!("{}\n", d.ca.cert_pem.trim())).collect()
    }

    pub fn from_data(data: &BTreeMap<String, ByteString>) -> Result<Self> {
        let field = |key: &str| -> Result<String> {
            let bytes = data.get(key).with_context(|| format!("it has no {key}"))?;
            String::from_utf8(bytes.0.clone()).with_context(|| format!("its {key} is no text"))
        };
        let mut all = Vec::new();
        for (cert, key) in [PREVIOUS, NEWEST] {
            if cert == NEWEST.0 || data.contains_key(cert) {
                let ca = Authority::from_pem(field(cert)?, field(key)?).with_context(|| format!("its {cert}"))?;
                all.push(Dated::new(ca).with_context(|| format!("its {cert}"))?);
            }
        }
        Ok(Authorities(all))
    }

    pub fn data(&self) -> BTreeMap<String, ByteString> {
        let names = [NEWEST, PREVIOUS];
        let entries = self.0.iter().rev().zip(names).flat_map(|(d, (cert, key))| {
            let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
            [(cert.to_owned(), bytes(&d.ca.cert_pem)), (key.to_owned(), bytes(d.ca.key_pem()))]
        });
        entries.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 24 * HOUR_MS;

    fn one() -> (Authorities, u64) {
        let a = Authorities::generate().expect("a CA");
        let since = a.0[0].since_ms;
        (a, since)
    }

    fn pem(a: Option<&Authority>) -> &str {
        a.map_or("", |a| a.cert_pem.as_str())
    }

    fn certificates(a: &Authorities) -> usize {
        a.bundle().matches("BEGIN CERTIFICATE").count()
    }

    #[test]
    fn a_first_one_signs_at_once() {
        let (a, since) = one();
        assert_eq!(pem(a.signer(since)), a.0[0].ca.cert_pem);
        assert_eq!(certificates(&a), 1);
        assert!(a.advanced(since + 200 * DAY_MS).expect("a CA").is_none(), "it is young");
    }

    #[test]
    fn one_replaces_the_other_with_an_overlap() {
        let (a, since) = one();
        let old = a.0[0].ca.cert_pem.clone();
        let due = since + 250 * DAY_MS;
        let mut two = a.advanced(due).expect("a CA").expect("it is due");
        // Certificates are dated by the real clock.
        two.0[1].since_ms = due;
        two.0[1].until_ms = due + 365 * DAY_MS;
        let new = two.0[1].ca.cert_pem.clone();
        assert!(two.bundle().contains(old.trim()) && two.bundle().contains(new.trim()), "both are trusted");
        for (after, signer) in [(0, &old), (PUBLISH_MS - 1, &old), (PUBLISH_MS, &new), (PUBLISH_MS + LEAF_MS, &new)] {
            assert_eq!(pem(two.signer(due + after)), signer, "{after}");
        }
        // What the old one signed last is valid until then.
        assert!(two.advanced(due + PUBLISH_MS + LEAF_MS - 1).expect("a CA").is_none());
        let last = two.advanced(due + PUBLISH_MS + LEAF_MS).expect("a CA").expect("the old one has gone");
        assert_eq!((certificates(&last), pem(last.signer(due + PUBLISH_MS + LEAF_MS))), (1, new.as_str()));
        assert_eq!(last.bundle().trim(), new.trim());
    }

    #[test]
    fn after_a_year_without_an_operator_it_begins_anew() {
        let (a, since) = one();
        let late = since + 400 * DAY_MS;
        let new = a.advanced(late).expect("a CA").expect("another one");
        assert_eq!(certificates(&new), 1);
        assert_ne!(new.bundle(), a.bundle());
        assert_eq!(pem(new.signer(late)), new.0[0].ca.cert_pem);
    }

    #[test]
    fn a_secret_holds_them() {
        let (a, since) = one();
        let two = a.advanced(since + 250 * DAY_MS).expect("a CA").expect("it is due");
        for all in [&a, &two] {
            let data = all.data();
            assert_eq!(data.len(), 2 * all.0.len());
            let read = Authorities::from_data(&data).expect("it is whole");
            assert_eq!((read.bundle(), read.0.len()), (all.bundle(), all.0.len()));
            let keys = |x: &Authorities| x.0.iter().map(|d| d.ca.key_pem().to_owned()).collect::<Vec<_>>();
            assert_eq!(keys(&read), keys(all));
        }
        for key in ["tls.crt", "tls.key", "previous.key"] {
            let mut data = two.data();
            data.remove(key);
            let e = Authorities::from_data(&data).err().map(|e| format!("{e:#}")).unwrap_or_default();
            assert!(e.contains(key), "{key}: {e:?}");
            data.insert(key.to_owned(), ByteString(b"nonsense".to_vec()));
            assert!(Authorities::from_data(&data).is_err(), "{key}");
        }
    }
}
