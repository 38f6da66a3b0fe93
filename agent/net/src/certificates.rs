//! The certificates that this side may show: the one that its operator issued, and those of others that Remotes name.

use mew_contract::report::LinkState;
use mew_contract::{Problem, Reason, RemoteReport};
use mew_model::value::format_timestamp;
use mew_tls::Material;
use std::collections::{BTreeMap, BTreeSet};

/// A certificate that Remotes name, as it is where it is kept.
#[derive(Clone, Default)]
pub struct NamedCertificate {
    /// The last one that could be used, with its end, milliseconds since 1970. It is used until then, whatever takes its place.
    pub usable: Option<(Material, u64)>,
    /// Why what is there now cannot be used.
    pub problem: Option<Problem>,
}

#[derive(Default)]
pub(crate) struct Certificates {
    own: Option<Material>,
    named: BTreeMap<String, NamedCertificate>,
}

impl Certificates {
    pub fn set_own(&mut self, own: Material) {
        self.own = Some(own);
    }

    /// Takes all named ones; those that are others than before.
    pub fn set_named(&mut self, named: BTreeMap<String, NamedCertificate>) -> BTreeSet<String> {
        fn shown(n: &NamedCertificate) -> Option<&str> {
            n.usable.as_ref().map(|(m, _)| m.chain_pem.as_str())
        }
        let before = std::mem::replace(&mut self.named, named);
        let others = self.named.iter().filter(|(name, n)| {
            let now = shown(n);
            now.is_some() && now != before.get(*name).and_then(shown)
        });
        others.map(|(name, _)| name.clone()).collect()
    }

    /// To dial with.
    pub fn to_dial(&self, name: Option<&str>, now_ms: u64) -> Result<Material, Problem> {
        let Some(name) = name else {
            let none_yet = || Problem::new(Reason::CertificatePending, "this agent has no certificate yet");
            return self.own.clone().ok_or_else(none_yet);
        };
        let Some(n) = self.named.get(name) else { return Err(missing(name)) };
        match (&n.usable, &n.problem) {
            (Some((own, until)), _) if *until > now_ms => Ok(own.clone()),
            (Some((_, until)), later) => Err(expired(name, *until, later.as_ref())),
            (None, Some(p)) => Err(p.clone()),
            (None, None) => Err(missing(name)),
        }
    }

    /// To accept with. An expired one too: peers refuse it, and then know what is wrong.
    pub fn to_accept(&self, name: Option<&str>) -> Option<Material> {
        match name {
            None => self.own.clone(),
            Some(n) => self.named.get(n)?.usable.as_ref().map(|(m, _)| m.clone()),
        }
    }

    /// What a report of a Remote that names this certificate says of it.
    pub fn complete(&self, name: &str, now_ms: u64, r: &mut RemoteReport) {
        let n = self.named.get(name);
        r.certificate_not_after_ms = n.and_then(|n| n.usable.as_ref()).map(|(_, until)| *until);
        match r.state {
            LinkState::Suspended | LinkState::Blocked => {}
            // It works until the one in use ends; better that somebody hears of it before.
            LinkState::Connected => {
                r.problem = n.map_or_else(|| Some(missing(name)), |n| n.problem.clone());
            }
            LinkState::Connecting | LinkState::WaitingForPeer | LinkState::Disconnected => {
                if let Err(p) = self.to_dial(Some(name), now_ms) {
                    r.problem = Some(p);
                }
            }
        }
    }
}

fn missing(name: &str) -> Problem {
    let message = format!(
        "Secret {name} is not here: it does not exist, or the pod's annotation federation.mew.dev/certificates does not name \
         it (without pods: the directory {name} below --certificates)"
    );
    Problem::new(Reason::CertificatePending, message)
}

fn expired(name: &str, until_ms: u64, later: Option<&Problem>) -> Problem {
    let at = format_timestamp(until_ms as i64);
    let later = later.map(|p| format!("; what is there now cannot be used: {}", p.message)).unwrap_or_default();
    Problem::new(Reason::CertificateExpired, format!("the certificate of Secret {name} has expired at {at}{later}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mew_contract::report::Inbound;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn material(n: &str) -> Material {
        Material { chain_pem: n.to_owned(), key_pem: String::new() }
    }

    fn named(chain: &str, until_ms: u64, problem: Option<Problem>) -> NamedCertificate {
        NamedCertificate { usable: Some((material(chain), until_ms)), problem }
    }

    fn with(n: NamedCertificate) -> Certificates {
        let mut c = Certificates::default();
        c.set_named(BTreeMap::from([("peers".to_owned(), n)]));
        c
    }

    fn bad() -> Option<Problem> {
        Some(Problem::new(Reason::IdentityMismatch, "it is somebody else's"))
    }

    fn report(c: &Certificates, state: LinkState) -> RemoteReport {
        let mut r = RemoteReport {
            name: "here/there".into(),
            state,
            problem: None,
            endpoint: None,
            peer: None,
            latency_ms: None,
            inbound: Inbound::default(),
            certificate_not_after_ms: None,
        };
        c.complete("peers", NOW_MS, &mut r);
        r
    }

    #[test]
    fn each_remote_dials_with_what_it_names() {
        let mut c = with(named("theirs", NOW_MS + 1, None));
        let why = |r: Result<Material, Problem>| r.err().map(|p| p.reason);
        assert_eq!(why(c.to_dial(None, NOW_MS)), Some(Reason::CertificatePending));
        c.set_own(material("ours"));
        assert_eq!(c.to_dial(None, NOW_MS).map(|m| m.chain_pem).ok().as_deref(), Some("ours"));
        assert_eq!(c.to_dial(Some("peers"), NOW_MS).map(|m| m.chain_pem).ok().as_deref(), Some("theirs"));
        // Never ours in its place.
        assert_eq!(why(c.to_dial(Some("others"), NOW_MS)), Some(Reason::CertificatePending));
        assert!(c.to_accept(Some("others")).is_none());
    }

    #[test]
    fn an_expired_one_is_shown_to_who_comes_and_not_dialled_with() {
        let c = with(named("theirs", NOW_MS, bad()));
        let p = c.to_dial(Some("peers"), NOW_MS).err().expect("it has expired");
        assert!(p.reason == Reason::CertificateExpired && p.message.contains("2023-11-14"), "{p:?}");
        assert!(p.message.ends_with("it is somebody else's"), "{p:?}");
        assert!(c.to_accept(Some("peers")).is_some());
    }

    #[test]
    fn only_another_chain_is_a_change() {
        let mut c = with(named("one", NOW_MS, None));
        let mut change = |n: NamedCertificate| c.set_named(BTreeMap::from([("peers".to_owned(), n)])).len();
        assert_eq!(change(named("one", NOW_MS, bad())), 0);
        assert_eq!(change(named("two", NOW_MS, None)), 1);
        assert_eq!(change(NamedCertificate::default()), 0);
        assert_eq!(change(named("two", NOW_MS, None)), 1);
    }

    #[test]
    fn a_report_tells_what_is_wrong_with_it_before_it_ends() {
        let reason = |r: &RemoteReport| r.problem.as_ref().map(|p| p.reason);
        let c = with(named("theirs", NOW_MS + 1, bad()));
        let r = report(&c, LinkState::Connected);
        assert_eq!((reason(&r), r.certificate_not_after_ms), (Some(Reason::IdentityMismatch), Some(NOW_MS + 1)));
        // It can be dialled with: what keeps the peers apart is something else.
        assert_eq!(reason(&report(&c, LinkState::Disconnected)), None);
        let c = with(named("theirs", NOW_MS, None));
        assert_eq!(reason(&report(&c, LinkState::WaitingForPeer)), Some(Reason::CertificateExpired));
        assert_eq!(reason(&report(&c, LinkState::Suspended)), None);
        let none = Certificates::default();
        let r = report(&none, LinkState::Connecting);
        assert_eq!((reason(&r), r.certificate_not_after_ms), (Some(Reason::CertificatePending), None));
    }
}
