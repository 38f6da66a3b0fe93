//! The CAs of a trust domain. Exactly one signs. While it is replaced there is another one: before it signs it is *published*,
//! so that everybody trusts it in time; afterwards the old one is *retiring*, trusted until nothing depends on it.
//!
//! A rotation is publish, sign, retire, in that order, each when a person says so; this is the only place that knows what may
//! follow on what. Whether peers are ready is not asked here, see `mew_plan::rotation`.

use mew_tls::{Authority, CaError, fingerprint};
use std::collections::BTreeMap;
use thiserror::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Trusted, and does not sign yet.
    Published,
    Signs,
    /// Trusted, and does not sign any longer.
    Retiring,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Published => "published",
            State::Signs => "signs",
            State::Retiring => "retiring",
        }
    }
}

/// What takes a rotation further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Publish,
    Sign,
    Retire,
}

#[derive(Debug, Error)]
pub enum StepError {
    #[error("the root {0} is published and does not sign yet; `sign` is the next step, and `undo` withdraws it")]
    Published(String),
    #[error("the root {0} of the last rotation is not retired yet; `retire` is the next step")]
    Retiring(String),
    #[error("there is no published root that could sign; a rotation begins with `publish`")]
    NothingPublished,
    #[error("there is no old root to retire; a rotation begins with `publish`")]
    NothingRetiring,
    #[error("no rotation is under way")]
    NotRotating,
}

#[derive(Debug, Error)]
pub enum StoredError {
    #[error("there is no {0}")]
    Missing(String),
    #[error("{0}: {1}")]
    Unusable(String, CaError),
}

/// One of them.
#[derive(Clone)]
pub struct Ca {
    authority: Authority,
    root: String,
    since_ms: u64,
    /// Whether there may be certificates that come from it.
    has_signed: bool,
}

impl Ca {
    pub fn new(authority: Authority, since_ms: u64) -> Result<Self, CaError> {
        Ok(Ca { root: fingerprint(&authority.cert_pem)?, authority, since_ms, has_signed: false })
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// SHA-256 of its certificate.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Since when it is in its state, milliseconds since 1970; 0 if that is not known.
    pub fn since_ms(&self) -> u64 {
        self.since_ms
    }

    /// Whether it signs or has signed: one that is published does not, unless it did before a step back.
    pub fn has_signed(&self) -> bool {
        self.has_signed
    }

    fn at(self, since_ms: u64) -> Self {
        Ca { since_ms, ..self }
    }

    fn signing(self) -> Self {
        Ca { has_signed: true, ..self }
    }
}

#[derive(Clone)]
pub struct Authorities {
    retiring: Option<Ca>,
    signs: Ca,
    published: Option<Ca>,
}

/// Under which names they are kept: of the one that signs as a TLS Secret wants it.
const SIGNS: &str = "tls";
const PUBLISHED: &str = "next";
const RETIRING: &str = "previous";
const PARTS: [&str; 3] = ["crt", "key", "since"];
/// Is there if the published one has signed; of the others that is known.
const HAS_SIGNED: &str = "next.signed";

impl Authorities {
    /// A trust domain's first.
    pub fn first(ca: Ca) -> Self {
        Authorities { retiring: None, signs: ca.signing(), published: None }
    }

    /// The oldest first.
    pub fn all(&self) -> impl Iterator<Item = (State, &Ca)> {
        let old = self.retiring.as_ref().map(|c| (State::Retiring, c));
        let new = self.published.as_ref().map(|c| (State::Published, c));
        old.into_iter().chain([(State::Signs, &self.signs)]).chain(new)
    }

    pub fn signer(&self) -> &Ca {
        &self.signs
    }

    pub fn published(&self) -> Option<&Ca> {
        self.published.as_ref()
    }

    pub fn retiring(&self) -> Option<&Ca> {
        self.retiring.as_ref()
    }

    /// The one that the operator's own certificate for agents comes from. An agent that has been away knows the oldest, if
    /// it knows any; all others know that one as well, until it is retired.
    pub fn server(&self) -> &Ca {
        self.retiring.as_ref().unwrap_or(&self.signs)
    }

    /// The certificates that are trusted, each PEM.
    pub fn roots(&self) -> Vec<String> {
        self.all().map(|(_, c)| format!("{}\n", c.authority.cert_pem.trim())).collect()
    }

    /// The same in one text.
    pub fn bundle(&self) -> String {
        self.roots().concat()
    }

    /// The trust domain that they name; `None` if they were made elsewhere and name none.
    pub fn trust_domain(&self) -> Option<String> {
        self.all().find_map(|(_, c)| c.authority.trust_domain())
    }

    /// Another trust domain that one of them names: what it signed under the name of this one, nobody would take who trusts it. One
    /// that was made elsewhere may name none.
    pub fn other_domain(&self, trust_domain: &str) -> Option<String> {
        self.all().filter_map(|(_, c)| c.authority.trust_domain()).find(|d| d != trust_domain)
    }

    // ----------------------------------------------------------------- steps

    /// What comes next in a rotation that has begun.
    pub fn next(&self) -> Option<Step> {
        match (&self.published, &self.retiring) {
            (_, Some(_)) => Some(Step::Retire),
            (Some(_), None) => Some(Step::Sign),
            (None, None) => None,
        }
    }

    /// Whether this step may come now.
    pub fn check(&self, step: Step) -> Result<(), StepError> {
        match (step, &self.published, &self.retiring) {
            (Step::Publish | Step::Sign, _, Some(old)) => Err(StepError::Retiring(old.root.clone())),
            (Step::Publish, Some(new), None) => Err(StepError::Published(new.root.clone())),
            (Step::Sign, None, None) => Err(StepError::NothingPublished),
            (Step::Retire, Some(new), None) => Err(StepError::Published(new.root.clone())),
            (Step::Retire, None, None) => Err(StepError::NothingRetiring),
            (Step::Publish, None, None) | (Step::Sign, Some(_), None) | (Step::Retire, _, Some(_)) => Ok(()),
        }
    }

    /// Another one is trusted from now on.
    pub fn publish(&self, new: Ca) -> Result<Self, StepError> {
        self.check(Step::Publish)?;
        Ok(Authorities { published: Some(new), ..self.clone() })
    }

    /// It signs from now on.
    pub fn sign(&self, now_ms: u64) -> Result<Self, StepError> {
        self.check(Step::Sign)?;
        let new = self.published.clone().ok_or(StepError::NothingPublished)?;
        Ok(Authorities {
            retiring: Some(self.signs.clone().at(now_ms)),
            signs: new.at(now_ms).signing(),
            published: None,
        })
    }

    /// The old one is forgotten.
    pub fn retire(&self) -> Result<Self, StepError> {
        self.check(Step::Retire)?;
        Ok(Authorities { retiring: None, ..self.clone() })
    }

    /// One step back: the old one signs again, or the published one is withdrawn. If that one [has signed](Ca::has_signed), it is
    /// as much as retiring it.
    pub fn undo(&self, now_ms: u64) -> Result<Self, StepError> {
        match (&self.retiring, &self.published) {
            (Some(old), _) => Ok(Authorities {
                retiring: None,
                signs: old.clone().at(now_ms),
                published: Some(self.signs.clone().at(now_ms)),
            }),
            (None, Some(_)) => Ok(Authorities { published: None, ..self.clone() }),
            (None, None) => Err(StepError::NotRotating),
        }
    }

    /// Whether what is trusted there may take the place of what is trusted here: at least one root is the same. Otherwise it is
    /// no rotation, and whoever trusts this side would be cut off.
    pub fn may_become(&self, next: &Authorities) -> bool {
        self.all().any(|(_, c)| next.all().any(|(_, n)| n.root == c.root))
    }

    // ------------------------------------------------------------------ kept

    /// As they are kept: certificates, keys and times by name. **Holds private keys.**
    pub fn to_data(&self) -> BTreeMap<String, String> {
        let entries = self.all().flat_map(|(state, c)| {
            let values = [c.authority.cert_pem.clone(), c.authority.key_pem().to_owned(), c.since_ms.to_string()];
            PARTS.iter().zip(values).map(move |(part, value)| (format!("{}.{part}", key(state)), value))
        });
        let signed =
            self.published.as_ref().filter(|c| c.has_signed).map(|_| (HAS_SIGNED.to_owned(), "true".to_owned()));
        entries.chain(signed).collect()
    }

    pub fn from_data(data: &BTreeMap<String, String>) -> Result<Self, StoredError> {
        let one = |state: State| -> Result<Ca, StoredError> {
            let name = |part: &str| format!("{}.{part}", key(state));
            let field = |part: &str| data.get(&name(part)).cloned().ok_or_else(|| StoredError::Missing(name(part)));
            let unusable = |e: CaError| StoredError::Unusable(name("crt"), e);
            let authority = Authority::from_pem(field("crt")?, field("key")?).map_err(unusable)?;
            // Only shown to people: one that was put there by hand has none.
            let since_ms = field("since").ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0);
            let ca = Ca::new(authority, since_ms).map_err(unusable)?;
            let has_signed = state != State::Published || data.contains_key(HAS_SIGNED);
            Ok(Ca { has_signed, ..ca })
        };
        let maybe = |state: State| -> Result<Option<Ca>, StoredError> {
            data.contains_key(&format!("{}.crt", key(state))).then(|| one(state)).transpose()
        };
        Ok(Authorities {
            retiring: maybe(State::Retiring)?,
            signs: one(State::Signs)?,
            published: maybe(State::Published)?,
        })
    }

    /// Whether an entry of that name is one of [`Authorities::to_data`].
    pub fn is_entry(name: &str) -> bool {
        let Some((which, part)) = name.split_once('.') else { return false };
        name == HAS_SIGNED || ([SIGNS, PUBLISHED, RETIRING].contains(&which) && PARTS.contains(&part))
    }
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.to_data() == other.to_data()
    }
}

fn key(state: State) -> &'static str {
    match state {
        State::Signs => SIGNS,
        State::Published => PUBLISHED,
        State::Retiring => RETIRING,
    }
}

#[cfg(test)]
mod tests {
    use super::{Authorities, Ca, State, Step};
    use mew_tls::Authority;

    fn ca(at: u64) -> Ca {
        Ca::new(Authority::new("here.example").expect("a CA"), at).expect("it has a fingerprint")
    }

    fn is(a: &Authorities) -> Vec<(State, String, u64)> {
        a.all().map(|(s, c)| (s, c.root().to_owned(), c.since_ms())).collect()
    }

    #[test]
    fn one_takes_the_place_of_another_in_three_steps() {
        let (old, new) = (ca(1), ca(20));
        let (o, n) = (old.root().to_owned(), new.root().to_owned());
        let first = Authorities::first(old);
        assert_eq!((first.next(), first.server().root()), (None, o.as_str()));

        let published = first.publish(new).expect("the first step");
        assert_eq!(is(&published), [(State::Signs, o.clone(), 1), (State::Published, n.clone(), 20)]);
        assert_eq!((published.signer().root(), published.server().root()), (o.as_str(), o.as_str()));
        assert_eq!(published.next(), Some(Step::Sign));

        let signing = published.sign(30).expect("the second step");
        assert_eq!(is(&signing), [(State::Retiring, o.clone(), 30), (State::Signs, n.clone(), 30)]);
        // Who has been away knows only the old one.
        assert_eq!((signing.signer().root(), signing.server().root()), (n.as_str(), o.as_str()));
        assert_eq!(signing.next(), Some(Step::Retire));

        let done = signing.retire().expect("the last step");
        assert_eq!(is(&done), [(State::Signs, n.clone(), 30)]);
        assert_eq!((done.next(), done.server().root()), (None, n.as_str()));

        // What is trusted is all of them, and nothing else.
        for (a, roots) in [(&first, 1), (&published, 2), (&signing, 2), (&done, 1)] {
            assert_eq!(a.bundle().matches("BEGIN CERTIFICATE").count(), roots);
            assert_eq!(a.roots().concat(), a.bundle());
            assert!(!a.bundle().contains("PRIVATE KEY"));
        }
    }

    /// One that is only published would sign next.
    #[test]
    fn one_of_another_trust_domain_is_noticed_in_every_state() {
        let here = Authorities::first(ca(1));
        assert_eq!(here.trust_domain().as_deref(), Some("here.example"));
        assert_eq!(here.other_domain("here.example"), None);
        assert_eq!(here.other_domain("there.example").as_deref(), Some("here.example"));
        let there = Ca::new(Authority::new("there.example").expect("a CA"), 2).expect("it has a fingerprint");
        let published = here.publish(there).expect("a step");
        let signing = published.sign(3).expect("a step");
        for mixed in [published, signing] {
            assert_eq!(mixed.other_domain("here.example").as_deref(), Some("there.example"));
            assert_eq!(mixed.other_domain("there.example").as_deref(), Some("here.example"));
        }
    }

    #[test]
    fn no_step_comes_out_of_turn() {
        let first = Authorities::first(ca(1));
        let published = first.publish(ca(2)).expect("a step");
        let signing = published.sign(3).expect("a step");
        let says = |r: Result<Authorities, super::StepError>| r.err().map(|e| e.to_string()).unwrap_or_default();
        for (r, word) in [
            (first.sign(9), "begins with `publish`"),
            (first.retire(), "begins with `publish`"),
            (first.undo(9), "no rotation"),
            (published.publish(ca(9)), "`sign` is the next step"),
            (published.retire(), "`sign` is the next step"),
            (signing.publish(ca(9)), "`retire` is the next step"),
            (signing.sign(9), "`retire` is the next step"),
        ] {
            let said = says(r);
            assert!(said.contains(word), "{word:?} is not in {said:?}");
        }
    }

    #[test]
    fn each_step_can_be_undone() {
        let first = Authorities::first(ca(1));
        let published = first.publish(ca(2)).expect("a step");
        assert!(published.undo(9).expect("it is withdrawn") == first);
        let back = published.sign(3).expect("a step").undo(4).expect("the old one signs again");
        assert_eq!(back.signer().root(), first.signer().root());
        assert_eq!(back.published().map(Ca::root), published.published().map(Ca::root));
        assert_eq!((back.retiring().is_none(), back.next()), (true, Some(Step::Sign)));
        assert!(back.sign(5).is_ok());
        // Whoever withdraws it must know that there may be certificates of it; also when it was kept meanwhile.
        let signed = |a: &Authorities| a.published().map(Ca::has_signed);
        assert_eq!((signed(&published), signed(&back)), (Some(false), Some(true)));
        for a in [&published, &back] {
            let kept = Authorities::from_data(&a.to_data()).expect("it is whole");
            assert!(kept == *a && signed(&kept) == signed(a));
            assert!(a.to_data().keys().all(|k| Authorities::is_entry(k)));
        }
        assert!(back.undo(9).expect("it is withdrawn").all().all(|(_, c)| c.has_signed()));
    }

    #[test]
    fn they_are_kept_whole() {
        let first = Authorities::first(ca(1));
        let published = first.publish(ca(2)).expect("a step");
        let signing = published.sign(3).expect("a step");
        for a in [&first, &published, &signing] {
            let data = a.to_data();
            assert_eq!(data.len(), 3 * a.all().count());
            assert!(data.contains_key("tls.crt") && data.contains_key("tls.key"), "a TLS Secret has both");
            assert!(data.keys().all(|k| Authorities::is_entry(k)) && !Authorities::is_entry("ca.crt"));
            let read = Authorities::from_data(&data).expect("it is whole");
            assert!(read == *a && is(&read) == is(a));
        }
        // A backup, or a CA of one's own, has no times.
        let mut bare = signing.to_data();
        bare.retain(|k, _| !k.ends_with(".since"));
        assert_eq!(Authorities::from_data(&bare).expect("it is whole").signer().since_ms(), 0);
        for lost in ["tls.crt", "tls.key", "previous.key"] {
            let mut data = signing.to_data();
            data.remove(lost);
            let said = Authorities::from_data(&data).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(said.contains(lost), "{lost}: {said:?}");
            data.insert(lost.to_owned(), "nonsense".to_owned());
            assert!(Authorities::from_data(&data).is_err(), "{lost}");
        }
    }

    /// A step keeps one of those that were trusted; another CA is no rotation.
    #[test]
    fn a_stranger_takes_nobodys_place() {
        let first = Authorities::first(ca(1));
        let published = first.publish(ca(2)).expect("a step");
        let signing = published.sign(3).expect("a step");
        let done = signing.retire().expect("a step");
        for (from, to) in [(&first, &published), (&published, &signing), (&signing, &done), (&published, &first)] {
            assert!(from.may_become(to));
        }
        assert!(!first.may_become(&done), "whoever trusts only the old one has missed two steps");
        assert!(!first.may_become(&Authorities::first(ca(1))));
    }
}
