//! `mew trust` on a state directory whose operator does not run: what it says, what it refuses, and that it never shows a key.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// Looks again until there is an answer; the child is ended if there is none in time.
fn until<T>(what: &str, child: &mut Child, mut look: impl FnMut(&mut Child) -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(t) = look(child) {
            return t;
        }
        if Instant::now() >= end {
            let _ = child.kill();
            panic!("{what}: not after {} s", PATIENCE.as_secs());
        }
        sleep(LOOK);
    }
}

/// `mew run`, with nothing declared.
fn operator(state: &Path, trust_domain: &str) -> Child {
    let mut c = Command::new(env!("CARGO_BIN_EXE_mew"));
    c.arg("run").arg("--manifests").arg(state).arg("--state").arg(state).args(["--trust-domain", trust_domain]);
    c.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    c.spawn().expect("it starts")
}

struct Side(TempDir);

impl Side {
    /// With its first CA, which only an operator makes.
    fn new() -> Self {
        let s = Side(tempfile::tempdir().expect("a directory"));
        let mut o = operator(s.0.path(), "here.example");
        let ca = s.0.path().join("ca.json");
        until("the operator makes its CA", &mut o, |o| {
            assert!(o.try_wait().expect("it is looked at").is_none(), "it ended");
            ca.exists().then_some(())
        });
        o.kill().expect("it runs");
        o.wait().expect("it ends");
        s
    }

    fn mew(&self, args: &[&str]) -> Output {
        let mut c = Command::new(env!("CARGO_BIN_EXE_mew"));
        c.arg("trust").args(args).arg("--state").arg(self.0.path()).args(["--trust-domain", "here.example"]);
        c.env_remove("MEW_STATE").env_remove("RUST_LOG");
        c.output().expect("it starts")
    }

    fn says(&self, args: &[&str]) -> String {
        let o = self.mew(args);
        let all = format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
        assert!(o.status.success(), "{args:?}: {all}");
        assert!(!all.contains("PRIVATE KEY"), "{args:?} shows a key");
        all
    }

    fn refused(&self, args: &[&str], words: &[&str]) {
        let o = self.mew(args);
        let said = String::from_utf8_lossy(&o.stderr).into_owned();
        assert!(!o.status.success(), "{args:?}: {said}");
        for w in words {
            assert!(said.contains(w), "{args:?} does not say {w:?}: {said}");
        }
    }

    /// State and name of each root, as `status` has them.
    fn roots(&self) -> Vec<(String, String)> {
        let said = self.says(&["rotate"]);
        let rows = said.lines().skip(1).take_while(|l| !l.trim().is_empty());
        let ends = |l: &str| {
            let words: Vec<&str> = l.split_whitespace().collect();
            Some(((*words.first()?).to_owned(), (*words.last()?).to_owned()))
        };
        rows.filter_map(ends).collect()
    }

    /// As another side gets them.
    fn exported(&self) -> (usize, Vec<String>) {
        let said = self.says(&["export", "--kernel", "shop"]);
        let fingerprint = |l: &&str| l.len() == 95 && l.chars().all(|c| c.is_ascii_hexdigit() || c == ':');
        let named = said.lines().map(str::trim).filter(fingerprint).map(str::to_owned).collect();
        (said.matches("-----BEGIN CERTIFICATE-----").count(), named)
    }
}

fn names(roots: &[(String, String)]) -> Vec<&str> {
    roots.iter().map(|(state, _)| state.as_str()).collect()
}

#[test]
fn a_rotation_goes_step_by_step_and_back() {
    let s = Side::new();
    let first = s.roots();
    assert_eq!(names(&first), ["signs"]);
    let old = first[0].1.clone();
    assert_eq!(s.exported(), (1, vec![old.clone()]));
    let said = s.says(&["rotate", "status"]);
    assert!(said.contains("No rotation is under way") && said.contains("mew trust rotate publish --state"), "{said}");
    s.refused(&["rotate", "undo"], &["no rotation is under way"]);

    let said = s.says(&["rotate", "publish"]);
    for word in ["does not sign yet", "mew trust export", "mew trust rotate status", "mew trust rotate sign"] {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    let published = s.roots();
    assert_eq!((names(&published), &published[0].1), (vec!["signs", "published"], &old));
    let new = published[1].1.clone();
    assert!(new != old && said.contains(&new), "{said}");
    assert_eq!(s.exported(), (2, vec![old.clone(), new.clone()]));

    // Nobody is there who could know what peers accept.
    let unknown = ["what peers accept is not known", "is `mew run --state"];
    s.refused(&["rotate", "sign"], &unknown);
    assert!(s.says(&["rotate"]).contains("What peers accept is not known"));
    assert_eq!(s.roots(), published, "a refused step changes nothing");
    assert!(s.says(&["rotate", "sign", "--force"]).contains("warning: what peers accept is not known"));
    let signs = s.roots();
    assert_eq!((names(&signs), &signs[0].1, &signs[1].1), (vec!["retiring", "signs"], &old, &new));
    assert_eq!(s.exported().0, 2, "the old one is still trusted");

    // There and back.
    s.refused(&["rotate", "undo"], &unknown);
    s.says(&["rotate", "undo", "--force"]);
    assert_eq!(s.roots(), published);
    s.says(&["rotate", "sign", "--force"]);

    s.refused(&["rotate", "retire"], &unknown);
    s.says(&["rotate", "retire", "--force"]);
    assert_eq!(s.roots(), [("signs".to_owned(), new.clone())]);
    assert_eq!(s.exported(), (1, vec![new]));
}

#[test]
fn a_published_root_can_be_withdrawn() {
    let s = Side::new();
    let first = s.roots();
    s.says(&["rotate", "publish"]);
    s.refused(&["rotate", "publish"], &["`sign` is the next step", "`undo` withdraws it"]);
    // Nobody depends on it.
    s.says(&["rotate", "undo"]);
    assert_eq!(s.roots(), first);

    // Somebody may depend on one that has signed, and nobody is there who could know.
    s.says(&["rotate", "publish"]);
    s.says(&["rotate", "sign", "--force"]);
    s.says(&["rotate", "undo", "--force"]);
    let published = s.roots();
    s.refused(&["rotate", "undo"], &["what peers accept is not known"]);
    assert_eq!(s.roots(), published, "a refused step changes nothing");
    s.says(&["rotate", "undo", "--force"]);
    assert_eq!(s.roots(), first);
}

#[test]
fn a_side_is_of_one_trust_domain() {
    let s = Side::new();
    let words = ["is of the trust domain here.example, not there.example", "--trust-domain here.example"];
    let commands: [&[&str]; 3] = [&["export", "--kernel", "shop"], &["rotate"], &["rotate", "publish"]];
    for args in commands {
        let mut c = Command::new(env!("CARGO_BIN_EXE_mew"));
        c.arg("trust").args(args).arg("--state").arg(s.0.path()).args(["--trust-domain", "there.example"]);
        let o = c.output().expect("it starts");
        let said = String::from_utf8_lossy(&o.stderr).into_owned();
        assert!(!o.status.success() && words.iter().all(|w| said.contains(w)), "{args:?}: {said}");
    }
    let mut o = operator(s.0.path(), "there.example");
    let status = until("the operator refuses", &mut o, |o| o.try_wait().expect("it is looked at"));
    let o = o.wait_with_output().expect("it has ended");
    let said = String::from_utf8_lossy(&o.stderr).into_owned();
    assert!(!status.success() && words.iter().all(|w| said.contains(w)), "{said}");
    assert_eq!(names(&s.roots()), ["signs"], "something was changed");
}

/// A typing error must not become a state directory with a CA that nobody trusts.
#[test]
fn where_no_ca_is_there_is_nothing_to_rotate() {
    let s = Side(tempfile::tempdir().expect("a directory"));
    for what in ["status", "publish", "sign", "retire", "undo"] {
        s.refused(&["rotate", what], &["there is no CA in"]);
    }
    s.refused(&["export", "--kernel", "shop"], &["there is no CA in", "`mew run` makes the CA"]);
    assert!(std::fs::read_dir(s.0.path()).expect("the directory").next().is_none(), "something was made");
    std::fs::write(s.0.path().join("ca.key"), "of an earlier version").expect("a file");
    s.refused(&["rotate"], &["ca.key", "ca.json"]);
    s.refused(&["export", "--kernel", "shop"], &["ca.key", "ca.json"]);
}
