//! A disk in memory that loses what was not synced, for tests and simulation.

use crate::disk::{Disk, DiskFile};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the next operations of a disk do wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Bytes that may still be written before the disk is full.
    pub room: Option<u64>,
    /// Syncs fail.
    pub sync_fails: bool,
    /// The machine stops after so many more writes or syncs: everything later is an error until [`MemDisk::crash`].
    pub stops_after: Option<u64>,
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<String, Arc<Mutex<Contents>>>,
    fault: Fault,
    stopped: bool,
    locked: bool,
}

#[derive(Default, Clone)]
struct Contents {
    durable: Vec<u8>,
    now: Vec<u8>,
    /// What came between the two.
    unsynced: Vec<Unsynced>,
}

#[derive(Clone)]
enum Unsynced {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// What a power loss leaves of a write: each sector of it is there or not. Smaller than real ones, as tests are.
const SECTOR: usize = 64;

fn put(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[at..end].copy_from_slice(bytes);
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Contents {
    fn of(bytes: Vec<u8>) -> Self {
        Contents { durable: bytes.clone(), now: bytes, unsynced: vec![] }
    }

    /// What is durable, and of everything after it what chance leaves: nothing, all, or some sectors.
    fn after_power_loss(&self, seed: &mut u64) -> Vec<u8> {
        let mut left = self.durable.clone();
        for u in &self.unsynced {
            let fate = random(seed) % 3;
            match u {
                _ if fate == 0 => {}
                Unsynced::Length(len) => left.resize(*len, 0),
                Unsynced::Write(at, bytes) if fate == 1 => put(&mut left, *at, bytes),
                Unsynced::Write(at, bytes) => {
                    let mut from = 0;
                    while from < bytes.len() {
                        let to = bytes.len().min(((at + from) / SECTOR + 1) * SECTOR - at);
                        if random(seed) >> 63 == 0 {
                            put(&mut left, at + from, &bytes[from..to]);
                        }
                        from = to;
                    }
                }
            }
        }
        left
    }
}

/// Cheap to clone; all clones are the same disk.
#[derive(Clone, Default)]
pub struct MemDisk(Arc<Mutex<Inner>>);

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemDisk {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn set_fault(&self, f: Fault) {
        lock(&self.0).fault = f;
    }

    pub fn has_fault(&self) -> bool {
        lock(&self.0).fault != Fault::default()
    }

    /// Whether [`Fault::stops_after`] was reached.
    pub fn stopped(&self) -> bool {
        lock(&self.0).stopped
    }

    /// Power loss: unsynced writes are gone, except that of each file's unsynced tail the first `torn` bytes survive.
    pub fn crash(&self, torn: usize) {
        self.restart(|c| {
            let keep = c.now.len().min(c.durable.len() + torn);
            let tail = c.now.get(c.durable.len()..keep).unwrap_or_default();
            [&c.durable[..], tail].concat()
        });
    }

    /// Power loss as disks have it: of what was not synced, each write is gone, there, or there in part, as `seed` says.
    pub fn crash_with(&self, mut seed: u64) {
        self.restart(|c| c.after_power_loss(&mut seed));
    }

    fn restart(&self, mut left: impl FnMut(&Contents) -> Vec<u8>) {
        let mut d = lock(&self.0);
        d.fault = Fault::default();
        d.stopped = false;
        d.locked = false;
        for f in d.files.values() {
            let mut c = lock(f);
            *c = Contents::of(left(&c));
        }
    }

    /// A second disk with the same bytes.
    pub fn copy(&self) -> MemDisk {
        let d = lock(&self.0);
        let files = d.files.iter().map(|(n, f)| (n.clone(), Arc::new(Mutex::new(lock(f).clone())))).collect();
        MemDisk(Arc::new(Mutex::new(Inner { files, ..Inner::default() })))
    }

    /// The bytes of a file, to damage them.
    pub fn edit(&self, name: &str, f: impl FnOnce(&mut Vec<u8>)) {
        if let Some(c) = lock(&self.0).files.get(name) {
            let mut c = lock(c);
            f(&mut c.now);
            *c = Contents::of(std::mem::take(&mut c.now));
        }
    }

    pub fn wipe(&self) {
        *lock(&self.0) = Inner::default();
    }

    fn step(&self) -> io::Result<()> {
        let mut d = lock(&self.0);
        if let Some(n) = &mut d.fault.stops_after {
            match n.checked_sub(1) {
                Some(left) => *n = left,
                None => d.stopped = true,
            }
        }
        if d.stopped { Err(io::Error::other("the machine has stopped")) } else { Ok(()) }
    }
}

struct MemFile {
    disk: MemDisk,
    contents: Arc<Mutex<Contents>>,
}

impl Disk for MemDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.0).files.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let contents = lock(&self.0).files.get(name).cloned().ok_or(ErrorKind::NotFound)?;
        Ok(Arc::new(MemFile { disk: self.clone(), contents }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.step()?;
        let contents = Arc::new(Mutex::new(Contents::default()));
        lock(&self.0).files.insert(name.to_owned(), contents.clone());
        Ok(Arc::new(MemFile { disk: self.clone(), contents }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.step()?;
        let mut d = lock(&self.0);
        let f = d.files.remove(from).ok_or(ErrorKind::NotFound)?;
        d.files.insert(to.to_owned(), f);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.step()?;
        lock(&self.0).files.remove(name).map(|_| ()).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let mut d = lock(&self.0);
        if d.locked {
            return Err(ErrorKind::ResourceBusy.into());
        }
        d.locked = true;
        Ok(Box::new(Held(self.clone())))
    }
}

struct Held(MemDisk);

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.0.0).locked = false;
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let c = lock(&self.contents);
        let from = (offset as usize).min(c.now.len());
        let n = buf.len().min(c.now.len() - from);
        buf[..n].copy_from_slice(&c.now[from..from + n]);
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.step()?;
        let room = {
            let mut d = lock(&self.disk.0);
            let room = d.fault.room.unwrap_or(u64::MAX).min(bytes.len() as u64);
            if let Some(r) = &mut d.fault.room {
                *r -= room;
            }
            room as usize
        };
        let mut c = lock(&self.contents);
        put(&mut c.now, offset as usize, &bytes[..room]);
        c.unsynced.push(Unsynced::Write(offset as usize, bytes[..room].to_vec()));
        if room < bytes.len() { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.contents).now.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.step()?;
        let mut c = lock(&self.contents);
        c.now.resize(len as usize, 0);
        c.unsynced.push(Unsynced::Length(len as usize));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.step()?;
        if lock(&self.disk.0).fault.sync_fails {
            return Err(io::Error::other("sync failed"));
        }
        let mut c = lock(&self.contents);
        c.durable = c.now.clone();
        c.unsynced.clear();
        Ok(())
    }
}
