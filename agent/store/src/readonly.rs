//! A directory that is only looked at.

use crate::disk::{Disk, DiskFile, LOCK, in_use};
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;

/// As [`DirDisk`](crate::DirDisk), without the means to change anything: also for a directory that cannot be written to.
pub struct ReadOnlyDir(PathBuf);

impl ReadOnlyDir {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        ReadOnlyDir(dir.into())
    }
}

impl Disk for ReadOnlyDir {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut out = Vec::new();
        for e in std::fs::read_dir(&self.0)? {
            out.extend(e?.file_name().into_string().ok());
        }
        Ok(out)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(File::open(self.0.join(name))?))
    }

    fn create(&self, _: &str) -> io::Result<Arc<dyn DiskFile>> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_names(&self) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    /// Others may look at the same time; nobody may write.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let f = match File::open(self.0.join(LOCK)) {
            // Whoever writes makes it first.
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Box::new(())),
            f => f?,
        };
        f.try_lock_shared().map_err(|e| match e {
            TryLockError::Error(e) => e,
            TryLockError::WouldBlock => in_use(&self.0, &f),
        })?;
        Ok(Box::new(f))
    }
}
