//! A disk in memory that loses what was not synced, for tests and simulation.

use crate::disk::{Disk, DiskFile};
use crate::sync::{Mutex, MutexGuard, PoisonError};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;

/// What the next operations of a disk do wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Bytes that may still be written before the disk is full.
    pub room: Option<u64>,
    /// Syncs fail. What they were to make durable can still be read, and no later sync makes it durable: systems take it for
    /// written.
    pub sync_fails: bool,
    /// The machine stops after so many more writes or syncs: everything later is an error until [`MemDisk::crash`].
    pub stops_after: Option<u64>,
    /// Writes fail when so many bytes of theirs have arrived.
    pub writes_fail: Option<usize>,
    pub reads_fail: bool,
    /// Nothing can be written, made, renamed or removed.
    pub read_only: bool,
    /// The directory is lost: nothing is found by its name. Files that are open can still be read and written.
    pub lost: bool,
    /// Files are made, renamed and removed, and then it fails: their directory cannot be synced.
    pub names_fail: bool,
    /// All but `stops_after` begins after so many operations that change something; where reads fail, they count as well.
    pub begins_after: u64,
}

impl Fault {
    /// What is said when a name has been given or taken.
    fn of_name(self) -> io::Result<()> {
        if self.names_fail { Err(failed()) } else { Ok(()) }
    }
}

/// EIO.
fn failed() -> io::Error {
    io::Error::from_raw_os_error(5)
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<String, Arc<Mutex<Contents>>>,
    fault: Fault,
    stopped: bool,
    locked: bool,
}

impl Inner {
    /// Counts an operation; whether the fault is there already.
    fn has_begun(&mut self) -> bool {
        match self.fault.begins_after.checked_sub(1) {
            Some(left) => {
                self.fault.begins_after = left;
                false
            }
            None => true,
        }
    }

    /// Before something is looked up by its name.
    fn find(&self) -> io::Result<()> {
        let is_lost = self.fault.lost && self.fault.begins_after == 0;
        if is_lost { Err(ErrorKind::NotFound.into()) } else { Ok(()) }
    }
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

impl Unsynced {
    fn arrive(&self, on: &mut Vec<u8>) {
        match self {
            Unsynced::Write(at, bytes) => put(on, *at, bytes),
            Unsynced::Length(len) => on.resize(*len, 0),
        }
    }
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
                Unsynced::Write(at, bytes) if fate == 2 => {
                    let mut from = 0;
                    while from < bytes.len() {
                        let to = bytes.len().min(((at + from) / SECTOR + 1) * SECTOR - at);
                        if random(seed) >> 63 == 0 {
                            put(&mut left, at + from, &bytes[from..to]);
                        }
                        from = to;
                    }
                }
                _ => u.arrive(&mut left),
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

    /// Before an operation that changes something; returns what it does wrong.
    fn step(&self) -> io::Result<Fault> {
        let mut d = lock(&self.0);
        if let Some(n) = &mut d.fault.stops_after {
            match n.checked_sub(1) {
                Some(left) => *n = left,
                None => d.stopped = true,
            }
        }
        if d.stopped {
            return Err(io::Error::other("the machine has stopped"));
        }
        Ok(if d.has_begun() { d.fault } else { Fault::default() })
    }

    /// Of those that a read-only disk refuses.
    fn change(&self) -> io::Result<Fault> {
        let fault = self.step()?;
        if fault.read_only { Err(ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(fault) }
    }

    /// Of those that go by a file's name.
    fn change_name(&self) -> io::Result<Fault> {
        let fault = self.change()?;
        if fault.lost { Err(ErrorKind::NotFound.into()) } else { Ok(fault) }
    }
}

struct MemFile {
    disk: MemDisk,
    contents: Arc<Mutex<Contents>>,
}

impl Disk for MemDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let d = lock(&self.0);
        d.find()?;
        Ok(d.files.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let d = lock(&self.0);
        d.find()?;
        let contents = d.files.get(name).cloned().ok_or(ErrorKind::NotFound)?;
        Ok(Arc::new(MemFile { disk: self.clone(), contents }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let fault = self.change_name()?;
        let contents = Arc::new(Mutex::new(Contents::default()));
        lock(&self.0).files.insert(name.to_owned(), contents.clone());
        fault.of_name()?;
        Ok(Arc::new(MemFile { disk: self.clone(), contents }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let fault = self.change_name()?;
        let mut d = lock(&self.0);
        let f = d.files.remove(from).ok_or(ErrorKind::NotFound)?;
        d.files.insert(to.to_owned(), f);
        fault.of_name()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let fault = self.change_name()?;
        lock(&self.0).files.remove(name).ok_or(ErrorKind::NotFound)?;
        fault.of_name()
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let mut d = lock(&self.0);
        d.find()?;
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
        let fails = {
            let mut d = lock(&self.disk.0);
            d.fault.reads_fail && d.has_begun()
        };
        if fails {
            return Err(failed());
        }
        let c = lock(&self.contents);
        let from = (offset as usize).min(c.now.len());
        let n = buf.len().min(c.now.len() - from);
        buf[..n].copy_from_slice(&c.now[from..from + n]);
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let fault = self.disk.change()?;
        let mut arrived = bytes.len().min(fault.writes_fail.unwrap_or(usize::MAX));
        if fault.room.is_some()
            && let Some(room) = &mut lock(&self.disk.0).fault.room
        {
            arrived = (arrived as u64).min(*room) as usize;
            *room -= arrived as u64;
        }
        let mut c = lock(&self.contents);
        put(&mut c.now, offset as usize, &bytes[..arrived]);
        c.unsynced.push(Unsynced::Write(offset as usize, bytes[..arrived].to_vec()));
        match fault.writes_fail {
            Some(_) => Err(failed()),
            None if arrived < bytes.len() => Err(ErrorKind::StorageFull.into()),
            None => Ok(()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.contents).now.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change()?;
        let mut c = lock(&self.contents);
        c.now.resize(len as usize, 0);
        c.unsynced.push(Unsynced::Length(len as usize));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let fault = self.disk.step()?;
        let mut c = lock(&self.contents);
        let unsynced = std::mem::take(&mut c.unsynced);
        if fault.sync_fails {
            return Err(io::Error::other("sync failed"));
        }
        unsynced.iter().for_each(|u| u.arrive(&mut c.durable));
        Ok(())
    }
}
