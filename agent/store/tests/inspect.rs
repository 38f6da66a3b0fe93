//! A log that is damaged: what is wrong is listed with its place, and everything else can be read.

mod common;

use common::*;
use mew_store::inspect::{Content, Damage, Report, check, salvage};
use mew_store::{Batch, Disk, DiskOp, Hook, Hooked, MemDisk, StoreError};
use std::io;
use std::ops::Range;

const SEGMENT: u32 = 400;
/// Frame header, and what it begins with.
const FRAME: usize = 24;
const FRAME_MAGIC: usize = 0xF2AE_3EB7;

/// Where a record lies, and what is in it.
type Found = (String, u64, [Vec<u8>; 3]);

fn read(disk: &dyn Disk) -> (Report, Vec<Found>) {
    let mut out = Vec::new();
    let r = salvage(disk, |w| {
        let content = match w.content {
            Content::Entity { ent, seq, origin, bytes } => {
                [[u64::from(ent), seq, origin.0].map(u64::to_le_bytes).concat(), bytes.to_vec(), vec![]]
            }
            Content::Fact { key, value } => [vec![], key.to_vec(), value.to_vec()],
        };
        out.push((w.file.to_owned(), w.offset, content));
    });
    (r.expect("the log can be read"), out)
}

fn wrong(r: &Report) -> Vec<&Damage> {
    r.damages.iter().chain(&r.torn).collect()
}

fn four(b: &[u8], at: usize) -> usize {
    u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes")) as usize
}

/// Where the commits of a segment lie. Zeroes may follow, as a spare file has them.
fn commits(b: &[u8]) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut at = SEGMENT_HEADER;
    while at < b.len() && four(b, at) == FRAME_MAGIC {
        let end = at + FRAME + four(b, at + 4);
        out.push(at..end);
        at = end;
    }
    out
}

fn end_of(commits: &[Range<usize>]) -> usize {
    commits.last().expect("there are commits").end
}

/// Many segments.
fn plain() -> (MemDisk, Model) {
    let disk = MemDisk::new();
    let store = open(&disk, SEGMENT);
    let mut m = Model::new();
    for ops in &some_commits() {
        commit(&store, &m.batch(ops));
    }
    (disk, m)
}

/// With compacted ones, a checkpoint, and commits after it.
fn tidied() -> MemDisk {
    let (disk, mut m) = plain();
    let store = open(&disk, SEGMENT);
    for n in 0..6 {
        commit(&store, &m.batch(&[put_task(n % 2 + 3, 30, Some(n % CODES))]));
    }
    assert!(store.maintain(&EVERYTHING.of(&m)).expect("upkeep succeeds").rewritten > 0);
    commit(&store, &m.batch(&[put_task(1, 10, None), fact(2, b"later")]));
    disk
}

#[test]
fn what_is_whole_is_counted() {
    let (disk, m) = plain();
    let (r, records) = read(&disk);
    assert_eq!(wrong(&r), Vec::<&Damage>::new());
    assert_eq!((r.kernel_id.as_deref(), r.incarnation.as_deref()), (Some(KERNEL), Some(INCARNATION)));
    assert_eq!((r.segments, r.records), (segments(&disk).len() as u64, records.len() as u64));
    assert_eq!((r.entities, r.last_seq), (m.newest.len() as u64, m.seq));
    // The first commit says whose store it is.
    assert_eq!(r.commits, 1 + some_commits().len() as u64);
    let bytes: usize = segments(&disk).iter().map(|n| bytes_of(&disk, n).len()).sum();
    assert_eq!(r.bytes, bytes as u64);
    let tidied = tidied();
    assert!(check(&tidied).expect("the log can be read").damages.is_empty());
}

#[test]
fn each_damaged_byte_is_listed_and_everything_else_stays_readable() {
    for (disk, what) in [(plain().0, "plain"), (tidied(), "tidied")] {
        let (_, all) = read(&disk);
        for name in segments(&disk) {
            let good = bytes_of(&disk, &name);
            let commits = commits(&good);
            for at in 0..end_of(&commits) {
                for mask in [1, 0x80] {
                    let copy = disk.copy();
                    copy.edit(&name, |b| b[at] ^= mask);
                    let (r, found) = read(&copy);
                    let when = format!("{what}: bit {mask:#x} of byte {at} of {name}: {:?}", wrong(&r));
                    let hit = commits.iter().find(|c| c.contains(&at)).cloned();
                    // Without its header a segment can be read, too.
                    let lost = |f: &Found| f.0 == name && hit.as_ref().is_some_and(|c| c.contains(&(f.1 as usize)));
                    let left: Vec<&Found> = all.iter().filter(|f| !lost(f)).collect();
                    assert!(found.iter().eq(left), "{when}");
                    let place = hit.map_or(0..SEGMENT_HEADER, |c| c.start..c.start + 1);
                    let [d] = wrong(&r)[..] else { panic!("{when}") };
                    assert!(d.file == name && place.contains(&(d.offset as usize)), "{when}");
                }
            }
        }
    }
}

#[test]
fn each_damaged_byte_of_a_checkpoint_is_listed() {
    let disk = tidied();
    let (_, all) = read(&disk);
    for at in 0..bytes_of(&disk, CHECKPOINT).len() {
        let copy = disk.copy();
        copy.edit(CHECKPOINT, |b| b[at] ^= 2);
        let (r, found) = read(&copy);
        assert!(matches!(wrong(&r)[..], [d] if d.file == CHECKPOINT), "byte {at}: {:?}", wrong(&r));
        assert!(found == all, "byte {at}");
    }
}

#[test]
fn a_segment_that_is_gone_is_missed() {
    let (disk, _) = plain();
    let (_, all) = read(&disk);
    let names = segments(&disk);
    for (i, name) in names.iter().enumerate().take(names.len() - 1) {
        let copy = disk.copy();
        copy.remove(name).expect("it is there");
        let (r, found) = read(&copy);
        let next = &names[i + 1];
        assert!(
            matches!(wrong(&r)[..], [d] if d.file == *next && d.why.contains("missing")),
            "{name}: {:?}",
            wrong(&r)
        );
        assert!(found.iter().eq(all.iter().filter(|f| f.0 != *name)), "{name}");
    }
    // Of the last one only a checkpoint knows: it says which one was written to when it was made.
    let disk = tidied();
    let active = format!("{:010}.seg", four(&bytes_of(&disk, CHECKPOINT), 40));
    disk.remove(&active).expect("it is there");
    let r = check(&disk).expect("the log can be read");
    assert!(r.damages.iter().any(|d| d.file == active && d.why.contains("missing")), "{:?}", r.damages);
}

#[test]
fn what_a_crash_leaves_is_no_damage() {
    let disk = tidied();
    let (_, all) = read(&disk);
    let last = segments(&disk).into_iter().max_by_key(|n| span(&disk, n)).expect("there are segments");
    let end = end_of(&commits(&bytes_of(&disk, &last)));
    disk.edit(&last, |b| b.extend([7; 100]));
    disk.edit(&last, |b| b.extend([0; 100]));
    let (r, found) = read(&disk);
    assert!(r.damages.is_empty() && r.torn.as_ref().is_some_and(|d| d.offset == end as u64 && d.file == last), "{r:?}");
    assert!(found == all);
    open(&disk, SEGMENT);
    assert_eq!(bytes_of(&disk, &last).len(), end, "it was cut off");
    // What compaction has replaced and not removed yet, and what it has not finished.
    let (before, _) = plain();
    let old = segments(&before)[0].clone();
    assert!(!segments(&disk).contains(&old), "it was replaced");
    for name in [old.as_str(), "0000000099.seg.new"] {
        let file = disk.create(name).expect("a file");
        file.write_at(&bytes_of(&before, &old), 0).expect("it is written");
    }
    let (r, found) = read(&disk);
    assert_eq!(wrong(&r), Vec::<&Damage>::new());
    assert_eq!(r.leftovers.len(), 2, "{:?}", r.leftovers);
    assert!(found == all);
}

/// What a checkpoint knows of the last segment was on disk: that its end is gone is no torn commit.
#[test]
fn an_end_that_a_checkpoint_knows_is_missed() {
    let disk = MemDisk::new();
    let store = open(&disk, ONE);
    let mut m = Model::new();
    for ops in &some_commits() {
        commit(&store, &m.batch(ops));
    }
    assert!(store.maintain(&EVERYTHING.of(&m)).expect("upkeep succeeds").checkpoint_bytes > 0);
    drop(store);
    let commits = commits(&bytes_of(&disk, FIRST));
    let end = end_of(&commits);
    for cut in commits[0].end..end {
        let copy = disk.copy();
        copy.edit(FIRST, |b| b.truncate(cut));
        let at = commits.iter().map(|c| c.end).take_while(|end| *end <= cut).last().expect("the first is whole");
        let (r, _) = read(&copy);
        let is_said = |d: &&Damage| d.file == FIRST && d.offset == at as u64;
        assert!(r.torn.is_none() && r.damages.iter().any(|d| is_said(&d)), "cut at {cut} of {end}: {r:?}");
        let e = refusal(&copy, ONE).to_string();
        assert!(e.ends_with(&format!("is damaged at offset {cut}: its end is missing")), "{e}");
        assert_eq!(bytes_of(&copy, FIRST).len(), cut, "it stays as it is");
        // Without the checkpoint nobody can tell.
        open(&without_checkpoint(&copy), ONE);
    }
}

#[test]
fn a_newer_format_is_no_damage() {
    let (disk, _) = plain();
    let name = segments(&disk).pop().expect("there are segments");
    disk.edit(&name, |b| {
        b[..8].copy_from_slice(b"MEWLOG02");
        let crc = crc32c::crc32c(&b[..44]);
        b[44..48].copy_from_slice(&crc.to_le_bytes());
    });
    let e = check(&disk).expect_err("it cannot be read");
    assert!(e.to_string().contains("newer"), "{e}");
}

#[test]
fn a_directory_in_use_is_left_alone() {
    let (disk, _) = plain();
    let store = open(&disk, SEGMENT);
    assert!(matches!(check(&disk), Err(StoreError::Io(e)) if e.kind() == io::ErrorKind::ResourceBusy));
    drop(store);
    assert!(check(&disk).is_ok());
}

/// A value may be the bytes of a whole commit, with a number that could come next.
#[test]
fn what_applications_store_is_not_taken_for_a_commit() {
    let other = MemDisk::new();
    let store = open(&other, ONE);
    let mut m = Model::new();
    for n in 0..60 {
        commit(&store, &m.batch(&[put_task(n, 3, None)]));
    }
    drop(store);
    let b = bytes_of(&other, FIRST);
    let forged = b[commits(&b).pop().expect("there are commits")].to_vec();

    let disk = MemDisk::new();
    let store = open(&disk, ONE);
    let mut m = Model::new();
    commit(&store, &m.batch(&[put_task(0, 3, None)]));
    let facts = vec![(b"f/9".to_vec(), forged)];
    commit(&store, &Batch { changes: vec![], facts });
    commit(&store, &m.batch(&[put_task(1, 3, None)]));
    drop(store);
    let (_, all) = read(&disk);
    let hit = commits(&bytes_of(&disk, FIRST))[2].clone();
    for at in hit.clone() {
        let copy = disk.copy();
        copy.edit(FIRST, |b| b[at] ^= 4);
        let (r, found) = read(&copy);
        assert!(matches!(wrong(&r)[..], [d] if d.offset == hit.start as u64), "byte {at}: {:?}", wrong(&r));
        assert!(found.iter().eq(all.iter().filter(|f| !hit.contains(&(f.1 as usize)))), "byte {at}: {found:?}");
    }
}

// ---------------------------------------------------------------- a disk with a bad sector

/// Where it lies in each file.
struct Bad(Range<u64>);

impl Hook for Bad {
    fn before(&self, op: DiskOp<'_>) -> io::Result<()> {
        match op {
            DiskOp::Read { offset, len } if offset < self.0.end && offset + len > self.0.start => {
                Err(io::Error::other("a bad sector"))
            }
            _ => Ok(()),
        }
    }
}

#[test]
fn a_bad_sector_costs_only_the_commits_that_touch_it() {
    let disk = MemDisk::new();
    let store = open(&disk, ONE);
    let mut m = Model::new();
    for n in 0..40 {
        commit(&store, &m.batch(&[put_task(n, 700, None)]));
    }
    drop(store);
    let (_, all) = read(&disk);
    let commits = commits(&bytes_of(&disk, FIRST));
    // The first sector holds the header, the second lies in the middle.
    for sector in [0..512, 9000..9512_u64] {
        let block = sector.start / 4096 * 4096..(sector.end.div_ceil(4096) * 4096);
        let lost = |f: &Found| {
            let c = commits.iter().find(|c| c.contains(&(f.1 as usize))).expect("records lie in commits");
            (c.start as u64) < block.end && c.end as u64 > block.start
        };
        let (r, found) = read(&Hooked::new(disk.copy(), Bad(sector.clone())));
        let is_listed = |d: &Damage| d.offset == block.start && d.why.contains("a bad sector");
        assert!(r.damages.iter().any(is_listed), "{sector:?}: {:?}", r.damages);
        assert!(found.iter().eq(all.iter().filter(|f| !lost(f))), "{sector:?}: {:?}", r.damages);
    }
}
