//! A disk in memory that loses what was not synced, names as well as contents, for tests and simulation.

mod contents;
mod names;

use crate::disk::{Disk, DiskFile};
use crate::sync::{Mutex, MutexGuard, PoisonError};
use contents::Contents;
use names::{FileId, Names};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;

/// What the next operations of a disk do wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Bytes that may still be written before the disk is full. A file whose name is gone, durably, gives its length back, if
    /// nobody has it open then.
    pub room: Option<u64>,
    /// Syncs of files fail. What they were to make durable can still be read, and no later sync makes it durable: systems take
    /// it for written.
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
    /// Files are made, renamed and removed, and then it fails: their directory cannot be synced. A later sync makes durable
    /// what this one was to: file systems have names in a journal, and go on with all of that or not at all.
    pub names_fail: bool,
    /// All but `stops_after` begins after so many operations that change something; where reads fail, they count as well.
    pub begins_after: u64,
}

/// EIO.
fn failed() -> io::Error {
    io::Error::from_raw_os_error(5)
}

#[derive(Default)]
struct Inner {
    names: Names,
    files: BTreeMap<FileId, Arc<Mutex<Contents>>>,
    /// Files that were made so far.
    made: FileId,
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

    fn file(&self, name: &str) -> io::Result<Arc<Mutex<Contents>>> {
        let id = self.names.find(name);
        id.and_then(|id| self.files.get(&id)).cloned().ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn create(&mut self, name: &str) -> Arc<Mutex<Contents>> {
        if let Ok(f) = self.file(name) {
            lock(&f).set_len(0);
            return f;
        }
        let f = Arc::new(Mutex::new(Contents::default()));
        self.made += 1;
        self.files.insert(self.made, f.clone());
        self.names.give(name, self.made);
        f
    }

    fn drop_nameless(&mut self) {
        let named = self.names.files();
        let is_limited = self.fault.room.is_some() && self.fault.begins_after == 0;
        let mut freed = 0;
        self.files.retain(|id, f| {
            let is_named = named.contains(id);
            if is_limited && !is_named && Arc::strong_count(f) == 1 {
                freed += lock(f).len() as u64;
            }
            is_named
        });
        if let Some(room) = &mut self.fault.room {
            *room += freed;
        }
    }

    /// The power comes back: with the names that were synced, and those that survive; what is left of the files is for the
    /// caller to say.
    fn restart(&mut self, survives: impl FnMut() -> bool) {
        (self.fault, self.stopped, self.locked) = (Fault::default(), false, false);
        self.names.lose_power(survives);
        self.drop_nameless();
    }

    fn leave(&self, mut of: impl FnMut(&Contents) -> Vec<u8>) {
        for f in self.files.values() {
            let mut c = lock(f);
            *c = Contents::of(of(&c));
        }
    }
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
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

    /// Power loss: what was not synced is gone, except that of each file's unsynced tail the first `torn` bytes survive, and if
    /// there are any, so do names.
    pub fn crash(&self, torn: usize) {
        let mut d = lock(&self.0);
        d.restart(|| torn > 0);
        d.leave(|c| c.with_tail(torn));
    }

    /// Power loss as disks have it: of what was not synced, each write is gone, there, or there in part, and each name given
    /// or taken is as it was or as it is, as `seed` says.
    pub fn crash_with(&self, mut seed: u64) {
        let mut d = lock(&self.0);
        d.restart(|| random(&mut seed) >> 63 == 0);
        d.leave(|c| c.after_power_loss(&mut seed));
    }

    /// A second disk with the same bytes, of which the same is synced.
    pub fn copy(&self) -> MemDisk {
        let d = lock(&self.0);
        let files = d.files.iter().map(|(id, f)| (*id, Arc::new(Mutex::new(lock(f).clone())))).collect();
        MemDisk(Arc::new(Mutex::new(Inner { names: d.names.clone(), files, made: d.made, ..Inner::default() })))
    }

    /// The bytes of a file, to damage them.
    pub fn edit(&self, name: &str, f: impl FnOnce(&mut Vec<u8>)) {
        if let Ok(c) = lock(&self.0).file(name) {
            lock(&c).edit(f);
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
        Ok(d.names.list())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let d = lock(&self.0);
        d.find()?;
        Ok(Arc::new(MemFile { disk: self.clone(), contents: d.file(name)? }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.change_name()?;
        let contents = lock(&self.0).create(name);
        Ok(Arc::new(MemFile { disk: self.clone(), contents }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change_name()?;
        let mut d = lock(&self.0);
        let file = d.names.find(from).ok_or(ErrorKind::NotFound)?;
        d.names.give(to, file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change_name()?;
        if lock(&self.0).names.take(name) { Ok(()) } else { Err(ErrorKind::NotFound.into()) }
    }

    fn sync_names(&self) -> io::Result<()> {
        if self.change_name()?.names_fail {
            return Err(failed());
        }
        let mut d = lock(&self.0);
        d.names.sync();
        d.drop_nameless();
        Ok(())
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
        Ok(lock(&self.contents).read(buf, offset as usize))
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
        lock(&self.contents).write(offset as usize, &bytes[..arrived]);
        match fault.writes_fail {
            Some(_) => Err(failed()),
            None if arrived < bytes.len() => Err(ErrorKind::StorageFull.into()),
            None => Ok(()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.contents).len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change()?;
        lock(&self.contents).set_len(len as usize);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let fault = self.disk.step()?;
        let mut c = lock(&self.contents);
        if fault.sync_fails {
            c.fail_to_sync();
            return Err(io::Error::other("sync failed"));
        }
        c.sync();
        Ok(())
    }
}
