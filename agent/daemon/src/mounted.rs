//! Certificates of other issuers, such as cert-manager, as Secrets are mounted: a directory for each, with `tls.crt`, `tls.key`
//! and perhaps `ca.crt`. They are followed while they are renewed, and the last good one stays in use until it ends.

use crate::state::Identity;
use anyhow::Result;
use mew_contract::{Problem, Reason};
use mew_model::value::format_timestamp;
use mew_net::{Hub, NamedCertificate};
use mew_tls::{Material, NotUsable, SpiffeId, check_given};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the directory is looked at; mounted files change by a swapped link, which file events miss.
const POLL: Duration = Duration::from_secs(2);
/// A swap between two reads is rare, and three in a row are no swap.
const READS: usize = 3;

pub struct Mounted {
    dir: PathBuf,
    id: SpiffeId,
    seen: BTreeMap<String, Seen>,
}

#[derive(Default)]
struct Seen {
    files: Files,
    named: NamedCertificate,
    /// Time alone can mend it.
    early: bool,
}

/// The text of each file, if it is there, or why it cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Files {
    chain: Option<String>,
    key: Option<String>,
    root: Option<String>,
    unreadable: Option<String>,
}

impl Mounted {
    pub fn new(dir: PathBuf, me: &Identity) -> Self {
        Mounted { dir, id: SpiffeId::kernel(&me.trust_domain, &me.kernel_id), seen: BTreeMap::new() }
    }

    /// Looks again and again, until `stop`.
    pub async fn follow(mut self, hub: Arc<Hub>, stop: CancellationToken) -> Result<()> {
        let mut tick = tokio::time::interval(POLL);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => tokio::task::block_in_place(|| self.look(&hub)),
            }
        }
    }

    /// Gives the hub what is there now, if that is something else than before.
    pub fn look(&mut self, hub: &Hub) {
        let now_ms = hub.wall_ms();
        let mut names = directories(&self.dir);
        names.extend(self.seen.keys().cloned());
        let mut changed = false;
        for name in names {
            let files = read(&self.dir.join(&name));
            let seen = self.seen.entry(name.clone()).or_default();
            if seen.files == files && !seen.early {
                continue;
            }
            let was = (seen.named.problem.clone(), seen.files.clone());
            seen.take(&name, files, &self.id, now_ms);
            if was != (seen.named.problem.clone(), seen.files.clone()) {
                changed = true;
                match (&seen.named.problem, &seen.named.usable) {
                    (Some(p), _) => tracing::error!(secret = %name, "{}", p.message),
                    (None, Some((_, until))) => {
                        tracing::info!(secret = %name, until = %format_timestamp(*until as i64), "certificate of another issuer");
                    }
                    (None, None) => {}
                }
            }
        }
        if changed {
            hub.set_certificates(self.seen.iter().map(|(n, s)| (n.clone(), s.named.clone())).collect());
        }
    }
}

impl Seen {
    fn take(&mut self, name: &str, files: Files, id: &SpiffeId, now_ms: u64) {
        let judged = judge(name, &files, id, now_ms);
        self.early = matches!(judged, Err(Refused { early: true, .. }));
        let later = |until: u64| self.named.usable.as_ref().is_none_or(|(_, had)| *had < until);
        match judged {
            Ok((own, until)) => self.named = NamedCertificate { usable: Some((own, until)), problem: None },
            // Shown to who comes, so that peers see why they must refuse.
            Err(Refused { expired: Some((own, until)), .. }) if later(until) => {
                self.named = NamedCertificate { usable: Some((own, until)), problem: None };
            }
            Err(r) => self.named.problem = Some(r.problem),
        }
        self.files = files;
    }
}

struct Refused {
    problem: Problem,
    expired: Option<(Material, u64)>,
    early: bool,
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Refused { problem, expired: None, early: false }
    }
}

fn judge(name: &str, files: &Files, id: &SpiffeId, now_ms: u64) -> Result<(Material, u64), Refused> {
    let pending = |why: String| Problem::new(Reason::CertificatePending, format!("Secret {name}: {why}"));
    if let Some(why) = &files.unreadable {
        return Err(pending(why.clone()).into());
    }
    let (Some(chain_pem), Some(key_pem)) = (files.chain.clone(), files.key.clone()) else {
        let missing = if files.chain.is_none() { "tls.crt" } else { "tls.key" };
        let why = format!("it has no {missing}; it was deleted, or its issuer has not filled it yet");
        return Err(pending(why).into());
    };
    let own = Material { chain_pem, key_pem };
    let e = match check_given(&own, files.root.as_deref(), id, now_ms) {
        Ok(until) => return Ok((own, until)),
        Err(e) => e,
    };
    let said = format!("Secret {name}: {e}");
    let at = |ms: u64| format_timestamp(ms as i64);
    Err(match e {
        NotUsable::Damaged(_) | NotUsable::Refused(_) => Problem::new(Reason::CertificatePending, said).into(),
        NotUsable::OtherIdentity { .. } => Problem::new(Reason::IdentityMismatch, said).into(),
        NotUsable::NotYet(since) => {
            let message = format!("{said}, but from {}; look at the clocks", at(since));
            Refused { problem: Problem::new(Reason::CertificateExpired, message), expired: None, early: true }
        }
        NotUsable::Expired(until) => {
            let problem = Problem::new(Reason::CertificateExpired, format!("{said} at {}", at(until)));
            Refused { problem, expired: Some((own, until)), early: false }
        }
    })
}

/// Names of the directories in it; what begins with a dot is the kubelet's own.
fn directories(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter(|e| e.path().is_dir()).filter_map(|e| e.file_name().into_string().ok());
    names.filter(|n| !n.starts_with('.')).collect()
}

/// All files of one moment: a mounted directory is a link to where they are, and renewing them swaps the link.
fn read(dir: &Path) -> Files {
    let mut files = Files::default();
    for _ in 0..READS {
        let real = std::fs::canonicalize(dir).ok();
        files = real.as_deref().map(read_once).unwrap_or_default();
        if std::fs::canonicalize(dir).ok() == real {
            break;
        }
    }
    files
}

fn read_once(dir: &Path) -> Files {
    let mut files = Files::default();
    let mut unreadable = None;
    let mut text = |name: &str| match std::fs::read_to_string(dir.join(name)) {
        Ok(t) => Some(t),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => {
            unreadable = Some(format!("{name} cannot be read: {e}"));
            None
        }
    };
    (files.chain, files.key, files.root) = (text("tls.crt"), text("tls.key"), text("ca.crt"));
    files.unreadable = unreadable;
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use mew_tls::{Authority, new_request};
    use std::fs;
    use std::os::unix::fs::symlink;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn me() -> SpiffeId {
        SpiffeId::kernel("here.example", "shop.till")
    }

    fn real_now() -> u64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }

    fn files(ca: &Authority, id: &SpiffeId, seconds: i64) -> Files {
        let request = new_request().expect("a request");
        let chain = ca.sign(&request.pem, id, &[], seconds).expect("a certificate");
        Files { chain: Some(chain), key: Some(request.key_pem), root: Some(ca.cert_pem.clone()), unreadable: None }
    }

    fn reason(s: &Seen) -> Option<Reason> {
        s.named.problem.as_ref().map(|p| p.reason)
    }

    #[test]
    fn the_last_good_one_stays_whatever_takes_its_place() {
        let ca = Authority::new("here.example").expect("a CA");
        let (mut s, now) = (Seen::default(), real_now());
        s.take("peers", Files::default(), &me(), now);
        assert!(reason(&s) == Some(Reason::CertificatePending) && s.named.usable.is_none());
        s.take("peers", files(&ca, &me(), 3600), &me(), now);
        let first = s.named.usable.clone().map(|(m, _)| m.chain_pem).expect("it is good");
        assert_eq!(reason(&s), None);

        let other = SpiffeId::kernel("here.example", "shop.safe");
        let half = Files { key: None, ..files(&ca, &me(), 3600) };
        let unreadable = Files { unreadable: Some("tls.key cannot be read".into()), ..Files::default() };
        for (bad, why) in [
            (files(&ca, &other, 3600), Reason::IdentityMismatch),
            (files(&ca, &me(), -60), Reason::CertificateExpired),
            (half, Reason::CertificatePending),
            (unreadable, Reason::CertificatePending),
            (Files::default(), Reason::CertificatePending),
        ] {
            s.take("peers", bad, &me(), now);
            assert_eq!(reason(&s), Some(why));
            assert_eq!(s.named.usable.as_ref().map(|(m, _)| m.chain_pem.as_str()), Some(first.as_str()), "{why}");
            assert!(s.named.problem.as_ref().is_some_and(|p| p.message.contains("Secret peers")), "{why}");
        }
        s.take("peers", files(&ca, &me(), 7200), &me(), now);
        assert!(reason(&s).is_none() && s.named.usable.is_some_and(|(m, _)| m.chain_pem != first));
    }

    #[test]
    fn both_identities_are_named() {
        let ca = Authority::new("here.example").expect("a CA");
        let mut s = Seen::default();
        s.take("peers", files(&ca, &SpiffeId::kernel("here.example", "shop.safe"), 3600), &me(), real_now());
        let message = s.named.problem.map(|p| p.message).expect("it is refused");
        assert!(message.contains("spiffe://here.example/kernel/shop.safe"), "{message}");
        assert!(message.contains("spiffe://here.example/kernel/shop.till"), "{message}");
    }

    #[test]
    fn one_that_has_expired_before_it_was_seen_is_kept_to_be_shown() {
        let ca = Authority::new("here.example").expect("a CA");
        let (mut s, now) = (Seen::default(), real_now());
        s.take("peers", files(&ca, &me(), -60), &me(), now);
        let until = s.named.usable.as_ref().map(|(_, until)| *until).expect("peers shall see it");
        assert!(until < now && !s.early);
        // One that is not valid yet is looked at again.
        s.take("peers", files(&ca, &me(), 3600), &me(), NOW_MS);
        assert!(s.early && reason(&s) == Some(Reason::CertificateExpired));
    }

    /// As the kubelet does: the directory is a link into `..data`, and that is a link which is swapped.
    #[test]
    fn a_swapped_link_is_read_as_a_whole() {
        let dir = std::env::temp_dir().join(format!("mew-mounted-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        for version in ["one", "two"] {
            let real = dir.join(format!("..{version}/peers"));
            fs::create_dir_all(&real).expect("a directory");
            for f in ["tls.crt", "tls.key"] {
                fs::write(real.join(f), version).expect("a file");
            }
        }
        symlink("..one", dir.join("..data")).expect("a link");
        symlink("..data/peers", dir.join("peers")).expect("a link");
        assert_eq!(directories(&dir).into_iter().collect::<Vec<_>>(), ["peers"]);
        let text = |f: Files| (f.chain, f.key, f.root);
        let both = |v: &str| (Some(v.to_owned()), Some(v.to_owned()), None);
        assert_eq!(text(read(&dir.join("peers"))), both("one"));
        symlink("..two", dir.join("..data_tmp")).expect("a link");
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("the swap");
        fs::remove_dir_all(dir.join("..one")).expect("the old ones go");
        assert_eq!(text(read(&dir.join("peers"))), both("two"));
        assert_eq!(read(&dir.join("others")), Files::default());
        fs::remove_dir_all(&dir).expect("it was ours");
    }
}
