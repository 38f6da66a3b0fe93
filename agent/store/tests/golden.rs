//! Directories as each version of the format wrote them: they open, also without their checkpoint, and hold what they held.
//!
//! `MEW_WRITE_GOLDEN=<n> cargo test -p mew-store --test golden` writes those of version `n`, once, when the format changes.

mod common;

use common::*;
use mew_store::{Disk, MemDisk, Upkeep};
use std::fs;
use std::path::{Path, PathBuf};

/// The version that is written today.
const VERSION: u32 = 1;
const SEGMENT: u32 = 400;

fn golden(version: u32, what: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{version}/{what}"))
}

/// Everything in one segment.
fn plain() -> (MemDisk, Model) {
    let (disk, mut m) = (MemDisk::new(), Model::new());
    let store = open(&disk, ONE);
    for ops in &some_commits() {
        commit(&store, &m.batch(ops));
    }
    (disk, m)
}

/// Several segments, compacted ones among them, a checkpoint, and commits after it.
fn tidied() -> (MemDisk, Model) {
    let (disk, mut m) = (MemDisk::new(), Model::new());
    let store = open(&disk, SEGMENT);
    for ops in some_commits().iter().chain(&some_commits()) {
        commit(&store, &m.batch(ops));
    }
    let u = Upkeep::thorough(m.seq, 0);
    let kept = store.maintain(&u).expect("upkeep succeeds");
    m.maintained(&store, &u);
    assert!(kept.rewritten > 0 && kept.checkpoint_bytes > 0, "{kept:?}");
    commit(&store, &m.batch(&[put_task(1, 10, None), fact(2, b"later")]));
    (disk, m)
}

fn on_disk(dir: &Path) -> MemDisk {
    let disk = MemDisk::new();
    for e in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = e.expect("an entry").path();
        let name = path.file_name().and_then(|n| n.to_str()).expect("a name");
        let file = disk.create(name).expect("a file");
        file.write_at(&fs::read(&path).expect("it can be read"), 0).expect("it is written");
    }
    disk
}

fn write_if_asked(disk: &MemDisk, what: &str) {
    if std::env::var("MEW_WRITE_GOLDEN").is_ok_and(|v| v == VERSION.to_string()) {
        let dir = golden(VERSION, what);
        fs::create_dir_all(&dir).expect("a directory");
        for name in files(disk) {
            fs::write(dir.join(&name), bytes_of(disk, &name)).expect("it is written");
        }
    }
}

#[test]
fn what_every_version_wrote_opens_and_is_all_there() {
    for (what, (made, m)) in [("plain", plain()), ("tidied", tidied())] {
        write_if_asked(&made, what);
        for version in 1..=VERSION {
            let disk = on_disk(&golden(version, what));
            let when = format!("{what} of version {version}");
            agrees(&open(&disk, SEGMENT), &m, &when);
            agrees(&open(&without_checkpoint(&disk), SEGMENT), &m, &format!("{when}, without its checkpoint"));
        }
    }
}

/// Whoever changes a byte of the format must say so by a new version.
#[test]
fn what_is_written_today_is_what_its_version_says() {
    let (made, _) = plain();
    let golden = on_disk(&golden(VERSION, "plain"));
    assert_eq!(files(&made), files(&golden));
    for name in segments(&made) {
        assert_eq!(bytes_of(&made, &name), bytes_of(&golden, &name), "{name}");
    }
}
