//! Disks that tell more, or do less, than one in memory.

use mew_store::{Disk, DiskFile, MemDisk};
use std::collections::BTreeMap;
use std::io;
// Not shuttle's: to watch must not change what can happen.
use std::sync::{Arc, Mutex, PoisonError};

/// How often each file is open, by the name that it was opened by.
type Open = Arc<Mutex<BTreeMap<String, usize>>>;

/// Knows which files are open.
#[derive(Clone, Default)]
pub struct Watched {
    pub disk: MemDisk,
    open: Open,
}

struct WatchedFile {
    file: Arc<dyn DiskFile>,
    name: String,
    open: Open,
}

impl Watched {
    fn watch(&self, name: &str, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default() += 1;
        Arc::new(WatchedFile { file, name: name.to_owned(), open: self.open.clone() })
    }

    /// Files that are open and have no name any more: their space is not free.
    pub fn kept(&self) -> Vec<String> {
        let there = self.disk.list().expect("a disk in memory");
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.keys().filter(|name| !there.contains(name)).cloned().collect()
    }
}

impl Drop for WatchedFile {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = open.get_mut(&self.name) {
            *n -= 1;
            if *n == 0 {
                open.remove(&self.name);
            }
        }
    }
}

impl Disk for Watched {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.watch(name, self.disk.open(name)?))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.watch(name, self.disk.create(name)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_names()
    }
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }
}

impl DiskFile for WatchedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

/// What a file holds goes with its name, as if nobody kept it open.
#[derive(Clone, Default)]
pub struct Forgetful(MemDisk);

impl Disk for Forgetful {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open(name)
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.0.create(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.edit(name, Vec::clear);
        self.0.remove(name)
    }
    fn sync_names(&self) -> io::Result<()> {
        self.0.sync_names()
    }
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.0.lock()
    }
}
