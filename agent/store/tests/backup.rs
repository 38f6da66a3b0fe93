//! A backup is one commit, whatever goes on while it is taken and read.

mod common;

use common::*;
use mew_store::inspect::check;
use mew_store::{Backup, Disk, MemDisk, Upkeep};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

const SEGMENT: u32 = 600;
/// Less than a segment, so that each takes several reads.
const PIECE: usize = 100;

fn copy(b: &Backup) -> MemDisk {
    let disk = MemDisk::new();
    for e in &b.entries {
        let file = disk.create(&e.name).expect("a file");
        let mut at = 0;
        while at < e.len {
            let mut piece = [0; PIECE];
            let n = e.read_at(&mut piece, at).expect("the backup can be read");
            assert!(n > 0, "{} ends at {at}, not {}", e.name, e.len);
            file.write_at(&piece[..n], at).expect("it is written");
            at += n as u64;
        }
    }
    disk
}

/// A store from it holds what the model says. Upkeep has taken replaced versions away, and no tombstones.
fn is(b: &Backup, m: &Model, when: &str) {
    let disk = copy(b);
    let r = check(&disk).expect("the copy can be read");
    assert!(r.damages.is_empty() && r.torn.is_none() && r.leftovers.is_empty(), "{when}: {r:?}");
    assert_eq!((b.head, r.last_seq), (m.seq, m.seq), "{when}");
    assert_eq!((b.kernel_id.as_str(), b.incarnation.as_str()), (KERNEL, INCARNATION), "{when}");
    let m = Model { floor: u64::MAX, ..m.clone() };
    agrees(&open(&disk, SEGMENT), &m, when);
}

/// One that changes an entity: each commit has a head of its own.
fn ops(n: u8) -> Vec<Op> {
    let delete = (n % 5 == 4).then_some(Op::Delete { which: n.into() });
    let mut all =
        vec![put_task(n % 7, usize::from(n) % 60, None), Op::Person { n: n % 3, size: 9 }, fact(n % 4, &[n + 1])];
    all.push(Op::Owns { n: n % 4, person: n % 3, task: n % 7 });
    all.extend(delete);
    all
}

#[test]
fn a_backup_does_not_change_while_the_store_does() {
    let disk = MemDisk::new();
    let store = open(&disk, SEGMENT);
    let mut m = Model::new();
    let mut taken = vec![(store.backup().expect("a backup"), m.clone())];
    for n in 0..100 {
        commit(&store, &m.batch(&ops(n)));
        if n % 10 == 9 {
            taken.push((store.backup().expect("a backup"), m.clone()));
            store.maintain(&Upkeep::thorough(m.seq, 0)).expect("upkeep succeeds");
            taken.push((store.backup().expect("a backup"), m.clone()));
        }
    }
    let there = segments(&disk);
    let is_gone = |b: &Backup| b.entries.iter().any(|e| !there.contains(&e.name));
    assert!(taken.iter().any(|(b, _)| is_gone(b)), "compaction has removed files of a backup");
    for (i, (b, m)) in taken.iter().enumerate() {
        is(b, m, &format!("backup {i}"));
    }
}

#[test]
fn a_backup_is_one_commit_while_commits_and_compaction_go_on() {
    let disk = MemDisk::new();
    let store = open(&disk, SEGMENT);
    let done = AtomicBool::new(false);
    let models = Mutex::new(BTreeMap::from([(0, Model::new())]));
    let taken = std::thread::scope(|s| {
        s.spawn(|| {
            let mut m = Model::new();
            for n in 0..200 {
                commit(&store, &m.batch(&ops(n)));
                models.lock().expect("no writer has failed").insert(m.seq, m.clone());
            }
            done.store(true, Ordering::Release);
        });
        s.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let floor = store.view().last_seq();
                store.maintain(&Upkeep::thorough(floor, 0)).expect("upkeep succeeds");
            }
        });
        let mut taken = Vec::new();
        while !done.load(Ordering::Acquire) {
            let b = store.backup().expect("a backup");
            if taken.last().is_none_or(|(last, _): &(Backup, MemDisk)| last.head + 20 < b.head) {
                let read = copy(&b); // at once, while the others go on
                taken.push((b, read));
            }
        }
        taken
    });
    let models = models.lock().expect("no writer has failed");
    for (b, read) in &taken {
        let when = format!("at {}", b.head);
        let m = models.get(&b.head).unwrap_or_else(|| panic!("{when}: no commit ends there"));
        is(b, m, &when);
        let later = copy(b);
        for name in segments(&later) {
            assert!(bytes_of(read, &name) == bytes_of(&later, &name), "{when}: {name} differs when it is read later");
        }
    }
}

#[test]
fn a_renewed_incarnation_stays() {
    let disk = MemDisk::new();
    let store = open(&disk, SEGMENT);
    let mut m = Model::new();
    for n in 0..20 {
        commit(&store, &m.batch(&ops(n)));
    }
    store.renew_incarnation("second").expect("it is written");
    m.facts.insert(b"incarnation".to_vec(), b"second".to_vec());
    for _ in 0..2 {
        let store = open(&disk, SEGMENT);
        assert_eq!(store.incarnation(), "second");
        agrees(&store, &m, "reopened");
    }
    assert_eq!(check(&disk).expect("the log can be read").incarnation.as_deref(), Some("second"));
}
