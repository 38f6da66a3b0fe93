//! A disk that does something else in the middle of what a store does on it.

use mew_store::{Disk, DiskFile, MemDisk};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

pub type Job = Box<dyn FnOnce() + Send>;

/// Does something else before one of the operations on it.
#[derive(Clone, Default)]
pub struct Interrupted {
    pub disk: MemDisk,
    /// In how many operations.
    job: Arc<Mutex<Option<(usize, Job)>>>,
}

struct InterruptedFile {
    file: Arc<dyn DiskFile>,
    by: Interrupted,
}

impl Interrupted {
    pub fn on(disk: MemDisk) -> Self {
        Interrupted { disk, job: Arc::default() }
    }

    pub fn interrupt(&self, after: usize, job: Job) {
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = Some((after, job));
    }

    /// It was too late for that.
    pub fn leftover(&self) -> Option<Job> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner).take().map(|x| x.1)
    }

    fn before(&self) {
        let mut job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        let due = match job.as_mut() {
            Some((0, _)) => job.take(),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        drop(job);
        if let Some((_, due)) = due {
            due();
        }
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(InterruptedFile { file, by: self.clone() })
    }
}

impl Disk for Interrupted {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.open(name)?))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.before();
        Ok(self.file(self.disk.create(name)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.before();
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.before();
        self.disk.remove(name)
    }
    fn sync_names(&self) -> io::Result<()> {
        self.before();
        self.disk.sync_names()
    }
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }
}

impl DiskFile for InterruptedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.by.before();
        self.file.write_at(bytes, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.by.before();
        self.file.sync()
    }
}
