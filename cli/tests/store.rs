//! `mew store` on directories: what it prints, what it refuses, and that it leaves alone what it only looks at.

use mew_lang::parse_ontology;
use mew_model::name::number;
use mew_model::{Draft, KernelKey, Ontology, Value};
use mew_net::archive::Archive;
use mew_store::{Batch, Change, DirDisk, Options, Store};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

const KERNEL: &str = "team.shop";
const FIRST: &str = "0000000000.seg";
const ONTOLOGY: &str = "ontology Shop { node Task { name: String } }";
const TASKS: u32 = 30;

fn temp() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn mew(args: &[&str], stdin: &[u8]) -> Output {
    runs(Command::new(env!("CARGO_BIN_EXE_mew")), args, stdin)
}

fn runs(mut c: Command, args: &[&str], stdin: &[u8]) -> Output {
    c.arg("store").args(args).env_remove("MEW_DATA").env_remove("MEW_ONTOLOGY");
    c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = c.spawn().expect("it starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    let _ = pipe.write_all(stdin); // one that ends early need not read
    drop(pipe);
    child.wait_with_output().expect("it ends")
}

fn said(o: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr))
}

fn succeeds(args: &[&str]) -> Output {
    let o = mew(args, b"");
    assert!(o.status.success(), "{args:?}: {}", said(&o));
    o
}

fn refused(args: &[&str], why: &str) {
    let o = mew(args, b"");
    assert!(!o.status.success() && said(&o).contains(why), "{args:?}: {}", said(&o));
}

fn text(p: &Path) -> &str {
    p.to_str().expect("a path is text")
}

fn open(data: &Path) -> Store {
    let options = Options { kernel_id: KERNEL.to_owned(), new_incarnation: "first".to_owned(), segment_bytes: 4096 };
    let disk = DirDisk::new(data.join("log")).expect("a directory");
    let o: Ontology = parse_ontology(ONTOLOGY).expect("the ontology is right");
    Store::open(Arc::new(disk), Arc::new(o), options).expect("the store opens").0
}

fn task(n: u32, name: &str) -> Change {
    let mut d = Draft::new(number("Task"), format!("task-{n}"));
    d.set(number("name"), Value::String(name.to_owned()));
    d.stamp(KernelKey::of(KERNEL), 1_700_000_000_000, None);
    Change { ent: n, origin: KernelKey(0), bytes: d.encode().into(), found: None }
}

/// Tasks in several segments, each of them in so many versions, one commit each.
fn filled(versions: u32) -> TempDir {
    let dir = temp();
    let store = open(dir.path());
    for v in 1..=versions {
        for n in 0..TASKS {
            let changes = vec![task(n, &format!("{v} {}", "x".repeat(300)))];
            store.commit(Batch { changes, facts: vec![] }).expect("it is written");
        }
    }
    dir
}

fn lines(o: &Output) -> Vec<Json> {
    let text = String::from_utf8_lossy(&o.stdout);
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("a directory").map(|e| e.expect("an entry").path());
    entries.map(|p| (p.clone(), fs::read(&p).expect("a file"))).collect()
}

fn archive(store: &Store) -> Vec<u8> {
    let a = Archive::new(store.backup().expect("a backup"), 1_700_000_000_000).expect("a manifest");
    let mut out = Vec::new();
    a.pieces(|p| {
        out.extend_from_slice(&p);
        Ok(())
    })
    .expect("the store can be read");
    assert_eq!(out.len() as u64, a.size());
    out
}

#[test]
fn a_log_is_checked_and_dumped_as_it_is() {
    let dir = filled(2);
    let (data, log) = (text(dir.path()), dir.path().join("log"));
    let before = files(&log);
    let o = succeeds(&["check", "--data", data]);
    for part in ["kernel team.shop, incarnation first", "30 entities, up to seq 60", "61 commits, 62 records"] {
        assert!(said(&o).contains(part), "{}", said(&o));
    }
    let all = lines(&succeeds(&["dump", "--data", data, "--all"]));
    assert_eq!(all.len(), 62);
    let newest = lines(&succeeds(&["dump", "--data", data]));
    let seqs: BTreeSet<u64> = newest.iter().filter_map(|v| v["seq"].as_u64()).collect();
    assert_eq!((newest.len(), seqs), (32, (31..=60).collect()));
    let facts: BTreeSet<_> = newest.iter().filter_map(|v| Some((v["fact"].as_str()?, v["value"].as_str()?))).collect();
    assert_eq!(facts, BTreeSet::from([("kernel", KERNEL), ("incarnation", "first")]));
    // Numbers are what there is without an ontology.
    let last = newest.last().expect("there are lines");
    assert_eq!(last["type"], format!("{:#010x}", number("Task")));
    assert!(last["attributes"][format!("{:#010x}", number("name"))].as_str().is_some_and(|n| n.starts_with("2 x")));
    let ontology = dir.path().join("shop.ontology");
    fs::write(&ontology, ONTOLOGY).expect("it is written");
    let named = lines(&succeeds(&["dump", "--data", data, "--ontology", text(&ontology)]));
    let last = named.last().expect("there are lines");
    assert!(last["type"] == "Task" && last["attributes"]["name"].is_string() && last["syncId"] == "task-29", "{last}");
    assert_eq!(files(&log), before, "looking changes nothing");
}

#[test]
fn damage_is_named_and_the_rest_is_printed() {
    let dir = filled(1);
    let (data, log) = (text(dir.path()), dir.path().join("log"));
    let mut b = fs::read(log.join(FIRST)).expect("a segment");
    b[1000] ^= 1;
    fs::write(log.join(FIRST), b).expect("it is written");
    let before = files(&log);
    let o = mew(&["check", "--data", data], b"");
    assert!(o.status.code() == Some(1) && said(&o).contains(&format!("{FIRST} at ")), "{}", said(&o));
    let o = mew(&["dump", "--data", data], b"");
    assert_eq!((o.status.code(), lines(&o).len()), (Some(1), 31), "{}", said(&o));
    assert!(said(&o).contains(&format!("left out: {FIRST} at ")), "{}", said(&o));
    let ontology = dir.path().join("shop.ontology");
    fs::write(&ontology, ONTOLOGY).expect("it is written");
    refused(&["compact", "--data", data, "--ontology", text(&ontology)], "damaged");
    assert_eq!(files(&log), before);
}

#[test]
fn what_cannot_be_looked_at_is_said() {
    let dir = temp();
    let data = text(dir.path());
    refused(&["check", "--data", data], "is not the data directory of an agent");
    refused(&["dump", "--data", &format!("{data}/nothing")], "is not the data directory of an agent");
    assert!(files(dir.path()).is_empty());

    let dir = filled(1);
    let data = text(dir.path());
    let store = open(dir.path());
    for command in ["check", "dump"] {
        refused(&[command, "--data", data], "stop the agent first");
    }
    drop(store);
    succeeds(&["check", "--data", data]);

    let mut b = fs::read(dir.path().join("log").join(FIRST)).expect("a segment");
    // Of a later format nothing is known but how it begins.
    b[..48].copy_from_slice(b"MEWLOG99 and whatever a header is by that time..");
    fs::write(dir.path().join("log").join(FIRST), b).expect("it is written");
    refused(&["check", "--data", data], "newer version");
}

#[test]
fn a_compacted_log_is_smaller_and_holds_the_same() {
    let dir = filled(10);
    let (data, log) = (text(dir.path()), dir.path().join("log"));
    let ontology = dir.path().join("shop.ontology");
    fs::write(&ontology, ONTOLOGY).expect("it is written");
    let newest = || -> BTreeMap<String, Json> {
        let without_place = lines(&succeeds(&["dump", "--data", data])).into_iter().map(|mut v| {
            v["at"] = Json::Null;
            (v["syncId"].to_string() + &v["fact"].to_string(), v)
        });
        without_place.collect()
    };
    let size = || files(&log).values().map(Vec::len).sum::<usize>();
    let (there, before) = (newest(), size());
    let o = succeeds(&["compact", "--data", data, "--ontology", text(&ontology)]);
    assert!(said(&o).contains("segments rewritten"), "{}", said(&o));
    assert!(size() < before / 2, "{before} bytes, and {} now", size());
    assert_eq!(newest(), there);
    succeeds(&["check", "--data", data]);
    assert_eq!(open(dir.path()).view().last_seq(), u64::from(TASKS) * 10);
}

/// Each segment stays open for as long as a log is looked at, and of files a process begins with few.
#[test]
fn a_log_of_more_segments_than_files_may_be_open_at_first_is_read_and_compacted() {
    const FILES: usize = 24;
    let dir = filled(10);
    let (data, log) = (text(dir.path()), dir.path().join("log"));
    assert!(files(&log).len() > FILES, "{} files are in the log", files(&log).len());
    let ontology = dir.path().join("shop.ontology");
    fs::write(&ontology, ONTOLOGY).expect("it is written");
    for args in [
        &["check", "--data", data][..],
        &["dump", "--data", data],
        &["compact", "--data", data, "--ontology", text(&ontology)],
    ] {
        let mut c = Command::new("sh");
        c.args(["-c", &format!("ulimit -S -n {FILES} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_mew")]);
        let o = runs(c, args, b"");
        assert!(o.status.success(), "{args:?}: {}", said(&o));
    }
}

#[test]
fn a_backup_restores_whole_or_not_at_all() {
    let dir = filled(2);
    let store = open(dir.path());
    let good = archive(&store);
    drop(store);
    let file = dir.path().join("backup.tar");
    fs::write(&file, &good).expect("it is written");

    for from in [text(&file), "-"] {
        let to = temp();
        let data = to.path().join("new");
        let o = mew(&["restore", from, "--data", text(&data)], &good);
        assert!(o.status.success(), "{from}: {}", said(&o));
        let incarnation = fs::read_to_string(data.join("incarnation")).expect("it has an incarnation");
        assert!(said(&o).contains(&incarnation) && incarnation != "first", "{}", said(&o));
        let store = open(&data);
        assert_eq!((store.incarnation(), store.view().last_seq()), (incarnation.as_str(), 60));
        drop(store);
        let before = files(&data.join("log"));
        refused(&["restore", text(&file), "--data", text(&data)], "has data in it already");
        assert_eq!(files(&data.join("log")), before);
    }

    let to = temp();
    let never = |what: &str, bytes: &[u8], why: &str| {
        let o = mew(&["restore", "-", "--data", text(to.path())], bytes);
        assert!(!o.status.success() && said(&o).contains(why), "{what}: {}", said(&o));
        assert!(files(to.path()).is_empty(), "{what} leaves something behind");
    };
    never("nothing", b"", "manifest.json");
    // Behind the data comes nothing that counts.
    for end in (0..good.len() - 2048).step_by(good.len() / 20).skip(1) {
        never(&format!("its first {end} bytes"), &good[..end], "nothing was restored");
    }
    // Behind the manifest: the archive is right, and what is in it is not.
    for at in (2000..good.len()).step_by(good.len() / 20).filter(|at| good[*at] != 0) {
        let mut b = good.clone();
        b[at] ^= 1;
        never(&format!("byte {at}"), &b, "nothing was restored");
    }
    never("a compressed one", &[0x1f, 0x8b, 8, 0], "gunzip");
    let mut newer = good.clone();
    let format = br#""format": 1,"#;
    let at = newer.windows(format.len()).position(|w| w == format).expect("the manifest says its format");
    newer[at + format.len() - 2] = b'2';
    never("a newer one", &newer, "newer version");
    let mut other = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(2);
    other.append_data(&mut header, "run.sh", &b"ls"[..]).expect("it is added");
    never("something else", &other.into_inner().expect("it is whole"), "does not belong in it");

    let identity = r#"{"kernelId": "team.other", "trustDomain": "a.example"}"#;
    fs::write(to.path().join("identity.json"), identity).expect("it is written");
    refused(&["restore", text(&file), "--data", text(to.path())], "belongs to kernel team.other");
}

#[test]
fn a_log_that_is_there_is_set_aside() {
    let dir = filled(2);
    let store = open(dir.path());
    let good = archive(&store);
    let (file, half) = (dir.path().join("backup.tar"), dir.path().join("half.tar"));
    fs::write(&file, &good).expect("it is written");
    fs::write(&half, &good[..good.len() / 2]).expect("it is written");
    let contents = |log: &str| files(&dir.path().join(log)).into_values().collect::<Vec<_>>();
    let args = |from| ["restore", from, "--data", text(dir.path()), "--set-aside"];

    let there = contents("log");
    refused(&args(text(&file)), "stop the agent first");
    drop(store);
    refused(&args(text(&half)), "nothing was restored");
    assert!(contents("log") == there && !dir.path().join("log.old-1").exists(), "a failure has moved it");

    for n in 1..=2 {
        let (before, old) = (contents("log"), format!("log.old-{n}"));
        let o = succeeds(&args(text(&file)));
        assert!(said(&o).contains(&old) && contents(&old) == before, "{}", said(&o));
        let incarnation = fs::read_to_string(dir.path().join("incarnation")).expect("it has an incarnation");
        let store = open(dir.path());
        assert_eq!((store.incarnation(), store.view().last_seq()), (incarnation.as_str(), 60));
    }
}
