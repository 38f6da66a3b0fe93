//! The CAs of a standalone operator, in its state directory.

use anyhow::{Context, Result, bail, ensure};
use mew_control::{Authorities, Ca};
use mew_tls::Authority;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// All of them in one file, so that they change together.
const FILE: &str = "ca.json";
/// Where the CA was kept before there could be several. Peers trust it, so no other one is made beside it.
const FORMER: [&str; 2] = ["ca.crt", "ca.key"];

fn path(state: &Path) -> PathBuf {
    state.join(FILE)
}

/// What is kept; `None` if nothing is.
fn load(state: &Path) -> Result<Option<Authorities>> {
    let path = path(state);
    let text = match fs::read(&path) {
        Ok(t) => t,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("{} cannot be read", path.display())),
    };
    let usable = || format!("{} holds no usable CA; restore it, as peers trust this CA", path.display());
    let data: BTreeMap<String, String> = serde_json::from_slice(&text).with_context(usable)?;
    Authorities::from_data(&data).map(Some).with_context(usable)
}

/// The CAs that are there, and their trust domain: what is asked for, or else what they name. Nothing is made.
pub fn kept_authorities(state: &Path, trust_domain: Option<&str>) -> Result<(String, Authorities)> {
    let Some(a) = load(state)? else {
        must_be_fresh(state)?;
        bail!(
            "there is no CA in {}: is it the state directory of an operator? `mew run` makes the CA when it begins there",
            state.display()
        );
    };
    let domain = match trust_domain {
        Some(t) => t.to_owned(),
        None => a.trust_domain().with_context(|| {
            format!(
                "the CA in {} names no trust domain: give that of this side by --trust-domain",
                path(state).display()
            )
        })?,
    };
    let a = of_domain(state, &domain, a)?;
    Ok((domain, a))
}

fn of_domain(state: &Path, trust_domain: &str, a: Authorities) -> Result<Authorities> {
    if let Some(kept) = a.other_domain(trust_domain) {
        bail!(
            "the CA in {} is of the trust domain {kept}, not {trust_domain}: say --trust-domain {kept}, or give {trust_domain} a state directory of its own",
            path(state).display()
        );
    }
    Ok(a)
}

fn must_be_fresh(state: &Path) -> Result<()> {
    for former in FORMER.map(|name| state.join(name)) {
        if former.try_exists().with_context(|| former.display().to_string())? {
            bail!(
                "{} holds a CA of an earlier version, and there is no {}; move it away if peers shall trust a new CA",
                former.display(),
                path(state).display()
            );
        }
    }
    Ok(())
}

/// Loads the CAs, or makes the first one in a fresh state directory.
pub fn authorities(state: &Path, trust_domain: &str, now_ms: u64) -> Result<Authorities> {
    if let Some(a) = load(state)? {
        return of_domain(state, trust_domain, a);
    }
    must_be_fresh(state)?;
    fs::create_dir_all(state).with_context(|| state.display().to_string())?;
    let _locked = lock(state)?;
    // Another one may have been faster.
    if let Some(a) = load(state)? {
        return of_domain(state, trust_domain, a);
    }
    let first = Authorities::first(Ca::new(Authority::new(trust_domain)?, now_ms)?);
    write(state, &first)?;
    Ok(first)
}

/// Puts the next ones in the place of those that were looked at. A running operator follows within a second.
pub fn replace_authorities(state: &Path, was: &Authorities, next: &Authorities) -> Result<()> {
    let _locked = lock(state)?;
    match load(state)? {
        Some(now) if now == *was => write(state, next),
        Some(_) => bail!("somebody else has just changed the CAs in {}; look again", state.display()),
        None => bail!("{} is gone", path(state).display()),
    }
}

/// Of a directory that several processes may write at once; it ends with what is returned.
fn lock(state: &Path) -> Result<File> {
    let dir = File::open(state).with_context(|| state.display().to_string())?;
    dir.lock().with_context(|| format!("{} cannot be locked", state.display()))?;
    Ok(dir)
}

/// As a whole, durably.
fn write(state: &Path, a: &Authorities) -> Result<()> {
    let (tmp, path) = (state.join(format!("{FILE}.tmp")), path(state));
    let bytes = serde_json::to_vec_pretty(&a.to_data())?;
    let put = || -> std::io::Result<()> {
        let mut f = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp)?;
        f.write_all(&bytes)?;
        f.sync_all()?;
        fs::rename(&tmp, &path)?;
        File::open(state)?.sync_all()
    };
    put().with_context(|| format!("{} cannot be written", path.display()))
}

/// Follows what a person changes (`mew trust rotate`).
pub struct Followed {
    state: PathBuf,
    /// Which file was looked at last; each write makes another one.
    mark: Option<(u64, i64, i64)>,
    said: String,
}

impl Followed {
    pub fn new(state: &Path) -> Self {
        Followed { state: state.to_owned(), mark: None, said: String::new() }
    }

    /// Those that are kept now, if they are others. What cannot be read, or is gone, leaves the old ones in force.
    pub fn changed(&mut self, now: &Authorities) -> Option<Authorities> {
        let mark = fs::metadata(path(&self.state)).ok().map(|m| (m.ino(), m.mtime(), m.mtime_nsec()));
        if mark == self.mark {
            return None;
        }
        self.mark = mark;
        match self.look(now) {
            Ok(next) => next,
            Err(e) => {
                let e = format!("{e:#}");
                if e != self.said {
                    tracing::error!("the CAs that were loaded stay in force: {e}");
                }
                self.said = e;
                None
            }
        }
    }

    fn look(&self, now: &Authorities) -> Result<Option<Authorities>> {
        let next = load(&self.state)?.with_context(|| format!("{} is gone", path(&self.state).display()))?;
        ensure!(
            now.may_become(&next),
            "{} holds a CA that nobody trusts yet, and none of the old ones; start the operator again if that is meant",
            path(&self.state).display()
        );
        Ok(Some(next).filter(|n| n != now))
    }
}

#[cfg(test)]
mod tests {
    use super::{FORMER, Followed, authorities, kept_authorities, path, replace_authorities};
    use mew_control::{Authorities, Ca};
    use mew_tls::Authority;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const DOMAIN: &str = "here.example";

    fn ca() -> Ca {
        Ca::new(Authority::new(DOMAIN).expect("a CA"), 7).expect("it has a fingerprint")
    }

    #[test]
    fn they_are_made_once_kept_for_their_owner_and_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path();
        let first = authorities(state, DOMAIN, 1).expect("they are made");
        assert!(authorities(state, DOMAIN, 2).expect("they are there") == first);
        let mode = fs::metadata(path(state)).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "private keys are in it");

        let mut f = Followed::new(state);
        assert!(f.changed(&first).is_none(), "nothing has changed");
        let next = first.publish(ca()).expect("a step");
        replace_authorities(state, &first, &next).expect("it is written");
        assert!(f.changed(&first).is_some_and(|n| n == next));
        assert!(f.changed(&next).is_none());
        // Of two that look at the same and change it, one has to look again.
        let e = replace_authorities(state, &first, &next).expect_err("others are there now");
        assert!(e.to_string().contains("look again"), "{e}");
    }

    #[test]
    fn who_only_looks_makes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("typo");
        let e = kept_authorities(&state, None).err().map(|e| format!("{e:#}")).unwrap_or_default();
        assert!(e.contains("there is no CA in") && e.contains("typo"), "{e:?}");
        assert!(!state.exists(), "a directory was made");
        let first = authorities(&state, DOMAIN, 1).expect("they are made");
        for asked in [None, Some(DOMAIN)] {
            let (domain, kept) = kept_authorities(&state, asked).expect("they are there");
            assert!(domain == DOMAIN && kept == first, "{asked:?}");
        }
    }

    #[test]
    fn a_state_directory_is_of_one_trust_domain() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path();
        let first = authorities(state, DOMAIN, 1).expect("they are made");
        let looked = kept_authorities(state, Some("there.example")).err();
        for refused in [authorities(state, "there.example", 2).err(), looked] {
            let e = refused.map(|e| format!("{e:#}")).unwrap_or_default();
            for word in [DOMAIN, "not there.example", "--trust-domain here.example", "ca.json"] {
                assert!(e.contains(word), "{word:?} is not in {e:?}");
            }
        }
        assert!(authorities(state, DOMAIN, 3).expect("they are there") == first, "something was changed");
        // One's own CA need not name a trust domain.
        let nobodys = Authority::of_servers("a CA of one's own", 3600).expect("a CA");
        let own = Authorities::first(Ca::new(nobodys, 7).expect("it has a fingerprint"));
        replace_authorities(state, &first, &own).expect("it is written");
        assert!(kept_authorities(state, Some(DOMAIN)).expect("it is taken").1 == own);
        let e = kept_authorities(state, None).err().map(|e| format!("{e:#}")).unwrap_or_default();
        assert!(e.contains("names no trust domain") && e.contains("--trust-domain"), "{e:?}");
    }

    /// Peers trust it: another one in its place would cut them all off.
    #[test]
    fn no_ca_is_made_beside_one_of_an_earlier_version() {
        for former in FORMER {
            let dir = tempfile::tempdir().expect("a directory");
            fs::write(dir.path().join(former), "PEM").expect("a file");
            for refused in [authorities(dir.path(), DOMAIN, 1).err(), kept_authorities(dir.path(), None).err()] {
                let e = refused.map(|e| format!("{e:#}")).unwrap_or_default();
                assert!(e.contains(former) && e.contains("ca.json"), "{e:?}");
            }
            assert!(!path(dir.path()).exists(), "a CA was made");
        }
    }

    #[test]
    fn what_is_damaged_gone_or_strange_is_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path();
        let first = authorities(state, DOMAIN, 1).expect("they are made");
        let mut f = Followed::new(state);
        assert!(f.changed(&first).is_none());
        let stranger = serde_json::to_vec(&Authorities::first(ca()).to_data()).expect("JSON");
        for (what, bytes) in [("nonsense", b"{".to_vec()), ("no CA", b"{}".to_vec()), ("a stranger", stranger)] {
            fs::remove_file(path(state)).expect("it is there");
            assert!(f.changed(&first).is_none(), "{what}: gone");
            fs::write(path(state), bytes).expect("a file");
            assert!(f.changed(&first).is_none(), "{what}");
        }
        fs::write(path(state), b"{}").expect("a file");
        let e = authorities(state, DOMAIN, 2).err().map(|e| format!("{e:#}")).unwrap_or_default();
        assert!(e.contains("restore it"), "a CA that is damaged is replaced: {e:?}");
    }
}
