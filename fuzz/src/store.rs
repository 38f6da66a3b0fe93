//! What is on disk: segments, the checkpoint, a directory of them.

use crate::{samples, seal};
use mew_store::inspect::{Report, check};
use mew_store::{Batch, CheckpointError, Disk, LogError, MemDisk, Opened, Place, Result, Store, StoreError, Upkeep};
use std::sync::{Arc, OnceLock};

/// Segments are closed at this size; a spare file has it, too.
const SEGMENT_BYTES: u32 = 16 << 10;
/// Pieces of a feed. Each has a record or goes on to the next segment, so more of them are a loop.
const MOST_PIECES: usize = 100_000;

/// Entity number, seq, bytes.
type Row = (u32, u64, Vec<u8>);

/// What can be read of a store.
#[derive(Clone, Debug, PartialEq)]
struct Dump {
    last_seq: u64,
    next_entity: u32,
    newest: Vec<Row>,
    facts: Vec<(Vec<u8>, Vec<u8>)>,
    feed: Vec<Row>,
}

fn drain(store: &Store, superseded: bool) -> Result<Vec<Row>> {
    let (mut place, mut out) = (Place::default(), Vec::new());
    for _ in 0..MOST_PIECES {
        let more = match superseded {
            true => store.history(&mut place, &mut out)?,
            false => store.feed(&mut place, &mut out)?,
        };
        if !more {
            return Ok(out.into_iter().map(|s| (s.ent, s.seq, s.bytes.to_vec())).collect());
        }
    }
    panic!("the feed does not end");
}

fn dump(store: &Store) -> Result<Dump> {
    let feed = drain(store, false)?;
    drain(store, true)?;
    let v = store.view();
    let mut newest = Vec::new();
    for ent in 0..v.next_entity() {
        let Some(s) = v.get(ent)? else { continue };
        let e = s.entity()?;
        if let Some(found) = v.find(e.sync_id)? {
            let there = v.get(found)?.expect("what is found is there");
            assert_eq!(there.entity()?.sync_id, e.sync_id);
        }
        if let Some(ends) = v.ends(ent)? {
            for end in ends {
                assert!(v.edges_of(end)?.contains(&ent), "edge {ent} is not among those of its end {end}");
            }
        }
        newest.push((ent, s.seq, s.bytes.to_vec()));
    }
    for ty in v.types()? {
        for ent in v.of_type(ty)? {
            v.get(ent)?;
        }
    }
    let facts = v.facts(b"")?.into_iter().map(|(k, v)| (k, v.to_vec())).collect();
    Ok(Dump { last_seq: v.last_seq(), next_entity: v.next_entity(), newest, facts, feed })
}

fn disk_of(files: &[(String, Vec<u8>)]) -> MemDisk {
    let disk = MemDisk::new();
    for (name, bytes) in files {
        samples::put(&disk, name, bytes);
    }
    disk
}

/// Looks without opening. Each damage has a place in a file that is there, or is that of a missing file.
fn look(disk: &MemDisk) -> Option<Report> {
    let r = match check(disk) {
        Ok(r) => r,
        Err(e) => {
            assert!(!e.to_string().is_empty());
            return None;
        }
    };
    for d in r.damages.iter().chain(&r.torn) {
        let len = disk.open(&d.file).and_then(|f| f.len()).unwrap_or(0);
        assert!(d.offset <= len && !d.why.is_empty(), "{d}, and the file has {len} bytes");
    }
    Some(r)
}

fn open(disk: &MemDisk, kernel_id: &str) -> Result<(Store, Opened)> {
    Store::open(Arc::new(disk.clone()), samples::work(), samples::options(kernel_id, SEGMENT_BYTES))
}

fn whose(r: Option<&Report>) -> String {
    r.and_then(|r| r.kernel_id.clone()).unwrap_or_else(|| samples::HERE.to_owned())
}

/// One segment, by itself, under the name that it calls itself by.
pub fn segment(data: &[u8]) {
    let mut sealed = data.to_vec();
    seal::segment(&mut sealed);
    if sealed != data {
        one_segment(data);
    }
    one_segment(&sealed);
}

fn one_segment(bytes: &[u8]) {
    if seal::claims_many(bytes) {
        return;
    }
    let id = bytes.get(8..12).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    let name = format!("{id:010}.seg");
    let disk = disk_of(&[(name.clone(), bytes.to_vec())]);
    let report = look(&disk);
    let kernel_id = whose(report.as_ref());
    let is_clean = report.as_ref().is_some_and(|r| r.damages.is_empty() && r.torn.is_none());
    match open(&disk, &kernel_id) {
        Err(e) => {
            assert!(!e.to_string().is_empty());
            if let StoreError::Log(LogError::Damaged { offset, .. }) = &e {
                assert!(!is_clean, "the check finds nothing, and opening: {e}");
                assert!(*offset <= bytes.len() as u64, "{e}: {} bytes", bytes.len());
                assert!(samples::content(&disk, &name) == bytes, "refused and changed: {e}");
            }
        }
        Ok((store, how)) => {
            let r = report.expect("what can be opened can be looked at");
            assert!(r.damages.is_empty(), "opened, and damaged: {:?}", r.damages);
            assert!(!is_clean || how.cut_bytes == 0, "{} bytes of a clean segment were cut off", how.cut_bytes);
            let facts = vec![(b"fuzz".to_vec(), b"1".to_vec())];
            store.commit(Batch { changes: vec![], facts }).expect("what is opened can be written to");
            let there = dump(&store).expect("what was replayed can be read");
            drop(store);
            let r = look(&disk).expect("what was written can be looked at");
            assert!(r.damages.is_empty() && r.torn.is_none(), "{:?} {:?} after a commit", r.damages, r.torn);
            let (again, _) = open(&disk, &kernel_id).expect("what was open can be opened again");
            assert!(dump(&again).expect("it can be read") == there, "opened again, it holds something else");
        }
    }
}

/// Files in one input: of each the length of its name (one byte), the name, its length (four bytes), and its bytes.
pub fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, bytes) in files {
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    out
}

/// As far as the lengths lead; the last file may be shorter than it says.
fn unpack(data: &[u8]) -> Vec<(String, Vec<u8>)> {
    const MOST_FILES: usize = 64;
    let (mut out, mut rest) = (Vec::new(), data);
    while let Some((len, more)) = rest.split_first()
        && let Some((name, more)) = more.split_at_checked((*len).into())
        && let Some((len, more)) = more.split_first_chunk::<4>()
        && out.len() < MOST_FILES
    {
        let len = more.len().min(u32::from_le_bytes(*len) as usize);
        let (bytes, more) = more.split_at(len);
        out.push((String::from_utf8_lossy(name).into_owned(), bytes.to_vec()));
        rest = more;
    }
    out
}

/// A directory of segments, with or without a checkpoint.
pub fn directory(data: &[u8]) {
    let mut files = unpack(data);
    one_directory(&files, true);
    let before = files.clone();
    for (name, bytes) in &mut files {
        match name.as_str() {
            "checkpoint" => seal::checkpoint(bytes),
            _ => seal::segment(bytes),
        }
    }
    if files != before {
        one_directory(&files, false);
    }
}

/// `as_written`: by a store, and damaged since; otherwise its checksums were made for it, and it may hold anything.
fn one_directory(files: &[(String, Vec<u8>)], as_written: bool) {
    if files.iter().any(|(_, b)| seal::claims_many(b)) {
        return;
    }
    let disk = disk_of(files);
    let report = look(&disk);
    let (store, _) = match open(&disk, &whose(report.as_ref())) {
        Ok(x) => x,
        Err(e) => return assert!(!e.to_string().is_empty()),
    };
    // What a checkpoint says is believed until it is read.
    let has_checkpoint = files.iter().any(|(n, _)| n == "checkpoint");
    let before = match dump(&store) {
        Ok(d) => d,
        Err(e) => return assert!(has_checkpoint, "what was replayed cannot be read: {e}"),
    };
    let upkeep = Upkeep::thorough(before.last_seq, 0);
    if let Err(e) = store.maintain(&upkeep) {
        return assert!(!e.to_string().is_empty());
    }
    // What is covered by a checkpoint is not checked when it is opened.
    let is_clean = report.is_some_and(|r| r.damages.is_empty());
    if has_checkpoint && !(as_written && is_clean) {
        return;
    }
    let after = dump(&store).expect("what was compacted can be read");
    assert!(after.newest == before.newest && after.facts == before.facts, "upkeep has changed what is there");
    drop(store);
    let r = look(&disk).expect("what upkeep wrote can be looked at");
    assert!(r.damages.is_empty() && r.torn.is_none(), "{:?} {:?} after upkeep", r.damages, r.torn);
    if as_written {
        let (again, _) = open(&disk, &whose(Some(&r))).expect("what upkeep wrote can be opened");
        let again = dump(&again).expect("it can be read");
        assert!(again.newest == before.newest && again.facts == before.facts, "opened again, it holds something else");
    }
}

/// A checkpoint beside the segments that it is of. One with a wrong checksum costs time and nothing else.
pub fn checkpoint(data: &[u8]) {
    one_checkpoint(data);
    if !seal::fits(data) {
        let mut sealed = data.to_vec();
        seal::checkpoint(&mut sealed);
        one_checkpoint(&sealed);
    }
}

fn one_checkpoint(bytes: &[u8]) {
    static GOOD: OnceLock<(MemDisk, Dump)> = OnceLock::new();
    if seal::claims_many(bytes) {
        return;
    }
    let (good, there) = GOOD.get_or_init(|| {
        let disk = samples::directory();
        let (store, _) = open(&disk.copy(), samples::HERE).expect("a sample");
        let d = dump(&store).expect("a sample");
        (disk, d)
    });
    let disk = good.copy();
    samples::put(&disk, "checkpoint", bytes);
    look(&disk);
    match open(&disk, samples::HERE) {
        Err(StoreError::Checkpoint(CheckpointError::Version(_))) => assert!(bytes.starts_with(b"MEWCKP")),
        Err(e) => assert!(seal::fits(bytes), "a damaged checkpoint refuses the store: {e}"),
        Ok((store, _)) => match dump(&store) {
            Ok(d) => assert!(seal::fits(bytes) || d == *there, "a damaged checkpoint changes what is there"),
            Err(e) => assert!(seal::fits(bytes), "{e}"),
        },
    }
}
