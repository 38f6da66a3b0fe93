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

    /// Whether [`Fault::stops_after`] was reached.
    pub fn stopped(&self) -> bool {
        lock(&self.0).stopped
    }

    /// Power loss: unsynced writes are gone, except that of each file's unsynced tail the first `torn` bytes survive.
    pub fn crash(&self, torn: usize) {
        let mut d = lock(&self.0);
        d.fault = Fault::default();
        d.stopped = false;
        d.locked = false;
        for f in d.files.values() {
            let mut c = lock(f);
            let keep = c.now.len().min(c.durable.len() + torn);
            let tail: Vec<u8> = c.now.get(c.durable.len()..keep).unwrap_or_default().to_vec();
            let mut left = c.durable.clone();
            left.extend_from_slice(&tail);
            *c = Contents { durable: left.clone(), now: left };
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
            c.durable = c.now.clone();
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
        let end = offset as usize + room;
        if c.now.len() < end {
            c.now.resize(end, 0);
        }
        c.now[offset as usize..end].copy_from_slice(&bytes[..room]);
        if room < bytes.len() { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.contents).now.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.step()?;
        lock(&self.contents).now.resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.step()?;
        if lock(&self.disk.0).fault.sync_fails {
            return Err(io::Error::other("sync failed"));
        }
        let mut c = lock(&self.contents);
        c.durable = c.now.clone();
        Ok(())
    }
}
