//! The few file operations that the store needs, so that tests can stand in a disk that fails and forgets.

use rustix::io::Errno;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A flat directory of files. What happens to names is seen at once, and durable with [`Disk::sync_names`]: until then a power
/// loss may take back any of it, what came first as well as what came last, whatever was synced of the files themselves.
pub trait Disk: Send + Sync {
    fn list(&self) -> io::Result<Vec<String>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes the file; one that has the name already is emptied.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Gives a file another name, in place of what has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Takes the name away; who has the file open can go on reading.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Every name that was given or taken before is so durably when this returns. It takes milliseconds, so it belongs where
    /// files come and go, and not into each commit.
    fn sync_names(&self) -> io::Result<()>;
    /// Takes the directory for this process alone, until dropped.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;
}

pub trait DiskFile: Send + Sync {
    /// Reads what is there; fewer bytes than asked for only at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Everything written before is durable when this returns.
    fn sync(&self) -> io::Result<()>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// What is locked of a directory. In it is who took the directory last, for people.
pub(crate) const LOCK: &str = "lock";
/// Of what is in it, this is shown at most.
const SHOWN: usize = 256;

/// A directory of the operating system.
pub struct DirDisk {
    dir: PathBuf,
    holder: String,
}

impl DirDisk {
    /// Makes the directory if it is not there.
    pub fn new(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        make_dir(&dir)?;
        // Also if it was there: who made it may have been killed before that was durable.
        sync_dir(around(&dir))?;
        Ok(DirDisk { dir, holder: String::new() })
    }

    /// By which name others that want the directory are told who has it.
    pub fn held_by(self, holder: &str) -> Self {
        DirDisk { holder: holder.to_owned(), ..self }
    }
}

/// Makes a directory and those that it is in, as far as they are not there, durably.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    let is_missing = |d: &&Path| !d.as_os_str().is_empty() && !d.exists();
    let missing: Vec<&Path> = dir.ancestors().take_while(is_missing).collect();
    std::fs::create_dir_all(dir)?;
    missing.iter().try_for_each(|made| sync_dir(around(made)))
}

/// The directory that has this one's name in it.
pub fn around(dir: &Path) -> &Path {
    match dir.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        Some(_) => Path::new("."),
        None => dir,
    }
}

/// Makes the names in a directory durable. Whoever may only write to it may not do that, and is told so: it is not the
/// directory that was asked for.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir).map_err(|e| unreadable(dir, e))?.sync_all()
}

fn unreadable(dir: &Path, e: io::Error) -> io::Error {
    if e.kind() != ErrorKind::PermissionDenied {
        return e;
    }
    io::Error::new(e.kind(), format!("{} must be readable, for what is made in it to be durable: {e}", dir.display()))
}

/// Why a directory cannot be taken. Its lock names the last who took it to write: mostly the one who has it, but others may be
/// looking at it.
pub(crate) fn in_use(dir: &Path, lock: &File) -> io::Error {
    let mut bytes = [0; SHOWN];
    let n = DiskFile::read_at(lock, &mut bytes, 0).unwrap_or_default();
    let holder = String::from_utf8_lossy(&bytes[..n]);
    let named =
        if holder.is_empty() { String::new() } else { format!(" (the last to take it: {})", holder.escape_debug()) };
    io::Error::new(ErrorKind::ResourceBusy, format!("{} is in use by another process{named}", dir.display()))
}

impl Disk for DirDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut out = Vec::new();
        for e in std::fs::read_dir(&self.dir)? {
            if let Ok(name) = e?.file_name().into_string() {
                out.push(name);
            }
        }
        Ok(out)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.dir.join(name))?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let f = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(self.dir.join(name))?;
        Ok(Arc::new(f))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        sync_dir(&self.dir)
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let f = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.dir.join(LOCK))?;
        f.try_lock().map_err(|e| match e {
            TryLockError::Error(e) => e,
            TryLockError::WouldBlock => in_use(&self.dir, &f),
        })?;
        // A disk that is full must not be in the way.
        let _ = f.set_len(0).and_then(|()| f.write_all_at(self.holder.as_bytes(), 0));
        Ok(Box::new(f))
    }
}

impl DiskFile for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut n = 0;
        while n < buf.len() {
            // The system's C library would make each of these a point where the thread may be cancelled, which shows in profiles.
            match rustix::io::pread(self, &mut buf[n..], offset + n as u64) {
                Ok(0) => break,
                Ok(k) => n += k,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(n)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }
    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::{around, unreadable};
    use std::io::{Error, ErrorKind};
    use std::path::Path;

    #[test]
    fn a_directory_that_may_only_be_written_to_is_the_one_that_is_named() {
        let parent = around(Path::new("/srv/incoming/data"));
        let said = unreadable(parent, ErrorKind::PermissionDenied.into()).to_string();
        assert!(said.starts_with("/srv/incoming must be readable"), "{said}");
        let other = unreadable(parent, Error::from(ErrorKind::NotFound));
        assert_eq!(other.to_string(), Error::from(ErrorKind::NotFound).to_string());
    }
}
