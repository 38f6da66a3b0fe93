//! Bugs that storage engines have had, planted one at a time in a copy of the store: the store's own tests must find each.
//!
//! A file in `planted_store` is a bug. Its first line is `<what is wrong>. Found by: <test file of the store> …`; then come a
//! file of the store's sources and what is replaced in it, which must be there exactly once:
//! ```text
//! --- store.rs
//! <<<
//! whole lines that are there
//! ===
//! whole lines in their place
//! >>>
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// All that the store's tests need of the workspace.
const PARTS: [&str; 2] = ["agent/model", "agent/store"];

struct Bug {
    name: String,
    what: String,
    found_by: Vec<String>,
    edits: Vec<Edit>,
}

struct Edit {
    file: String,
    from: String,
    to: String,
}

enum Part {
    Outside,
    From,
    To,
}

fn parse(name: &str, text: &str) -> Bug {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let Some((what, tests)) = first.split_once(" Found by: ") else {
        panic!("{name}: the first line is not `<what is wrong>. Found by: <test file> …`");
    };
    let (mut edits, mut file, mut part) = (Vec::<Edit>::new(), "", Part::Outside);
    for (i, line) in rest.lines().enumerate() {
        let wrong = format!("{name}, line {}: {line:?} is not expected here", i + 2);
        part = match (part, line) {
            (Part::Outside, "") => Part::Outside,
            (Part::Outside, "<<<") if !file.is_empty() => {
                edits.push(Edit { file: file.to_owned(), from: String::new(), to: String::new() });
                Part::From
            }
            (Part::Outside, _) => {
                file = line.strip_prefix("--- ").expect(&wrong);
                Part::Outside
            }
            (Part::From, "===") => Part::To,
            (Part::To, ">>>") => Part::Outside,
            (inside, _) => {
                let edit = edits.last_mut().expect(&wrong);
                let text = if matches!(inside, Part::From) { &mut edit.from } else { &mut edit.to };
                *text += line;
                *text += "\n";
                inside
            }
        };
    }
    assert!(matches!(part, Part::Outside) && !edits.is_empty(), "{name}: it does not end with `>>>`");
    let found_by = tests.split_whitespace().map(str::to_owned).collect();
    Bug { name: name.to_owned(), what: what.to_owned(), found_by, edits }
}

fn bugs() -> Vec<Bug> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/planted_store");
    let mut files: Vec<PathBuf> = fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    let read = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        parse(&name, &fs::read_to_string(path).expect("a text"))
    };
    files.iter().map(read).collect()
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// The store alone, in a workspace of its own.
struct Alone(PathBuf);

impl Alone {
    fn make() -> Alone {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("planted_store");
        // What was built of other crates stays.
        let _ = fs::remove_dir_all(dir.join("agent"));
        PARTS.iter().for_each(|p| copy(&workspace().join(p), &dir.join(p)));
        fs::copy(workspace().join("Cargo.lock"), dir.join("Cargo.lock")).expect("a copy");
        let manifest = fs::read_to_string(workspace().join("Cargo.toml")).expect("a manifest");
        let members = format!("members = {PARTS:?}");
        let kept = manifest.lines().filter(|l| !l.starts_with("default-members = ") && !l.starts_with("exclude = "));
        let lines: Vec<&str> = kept.map(|l| if l.starts_with("members = ") { members.as_str() } else { l }).collect();
        assert!(lines.contains(&members.as_str()), "the workspace's members are not where they are looked for");
        fs::write(dir.join("Cargo.toml"), lines.join("\n")).expect("it is written");
        Alone(dir)
    }

    fn source(&self, file: &str) -> PathBuf {
        self.0.join("agent/store/src").join(file)
    }

    /// Changes the sources; returns them as they were.
    fn plant(&self, bug: &Bug) -> Vec<(PathBuf, String)> {
        let mut before = Vec::new();
        for e in &bug.edits {
            let path = self.source(&e.file);
            let text = fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {}: {why}", bug.name, e.file));
            let times = if e.from.is_empty() { 0 } else { text.matches(&e.from).count() };
            assert!(times == 1, "{}: this is {times} times in {}, not once:\n{}", bug.name, e.file, e.from);
            fs::write(&path, text.replacen(&e.from, &e.to, 1)).expect("it is written");
            before.push((path, text));
        }
        before
    }

    fn restore(before: Vec<(PathBuf, String)>) {
        // The first edit of a file knows it as it was.
        for (path, text) in before.into_iter().rev() {
            fs::write(path, text).expect("it is written");
        }
    }

    /// Runs a test file. `Ok` names the tests that fail; `Err` says why none ran.
    fn failures(&self, test: &str) -> Result<Vec<String>, String> {
        let run = Command::new(env!("CARGO"))
            .current_dir(&self.0)
            .args(["test", "--offline", "-q", "-p", "mew-store", "--test", test])
            .env("CARGO_TARGET_DIR", self.0.join("target"))
            // A bug is a line or two, and the rest of the store stays as it was built.
            .env("CARGO_INCREMENTAL", "1")
            // Random tests find the same each time, and need not say it in the shortest way.
            .envs([("PROPTEST_RNG_SEED", "1"), ("PROPTEST_MAX_SHRINK_ITERS", "0")])
            .stdin(Stdio::null())
            .output()
            .expect("cargo runs");
        let said = String::from_utf8_lossy(&run.stdout);
        let failed: Vec<String> = said
            .lines()
            .filter_map(|l| Some(l.strip_prefix("---- ")?.strip_suffix(" stdout ----")?.to_owned()))
            .collect();
        match (run.status.success(), said.contains("test result: FAILED")) {
            (true, false) if said.contains("test result: ok. ") && !said.contains("ok. 0 passed") => Ok(vec![]),
            (false, true) if !failed.is_empty() => Ok(failed),
            _ => Err(format!("{test} did not run to its end:\n{said}\n{}", String::from_utf8_lossy(&run.stderr))),
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for e in fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display())) {
        let e = e.expect("an entry");
        let to = to.join(e.file_name());
        if e.file_type().expect("a type").is_dir() {
            copy(&e.path(), &to);
        } else {
            fs::copy(e.path(), to).expect("a copy");
        }
    }
}

#[test]
fn planted_bugs_are_found() {
    let bugs = bugs();
    assert!(bugs.len() >= 10, "{} bugs", bugs.len());
    let store = Alone::make();
    // What does not fit any more is said before anything is built.
    bugs.iter().for_each(|b| Alone::restore(store.plant(b)));
    let tests: BTreeSet<&str> = bugs.iter().flat_map(|b| &b.found_by).map(String::as_str).collect();
    for test in tests {
        let failed = store.failures(test).unwrap_or_else(|e| panic!("without a bug, {e}"));
        assert!(failed.is_empty(), "without a bug, {test} fails: {failed:?}");
    }
    let mut missed = Vec::new();
    for b in &bugs {
        let before = store.plant(b);
        for test in &b.found_by {
            let failed = store.failures(test).unwrap_or_else(|e| panic!("with {}, {e}", b.name));
            println!("{}: {}: {test}: {failed:?}", b.name, b.what);
            if failed.is_empty() {
                missed.push(format!("{} by {test}", b.name));
            }
        }
        Alone::restore(before);
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
