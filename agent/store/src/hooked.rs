//! A disk on which something happens beside its operations: a test makes one fail, holds it up, counts it, or ends the
//! process there. What the operations do is left to the disk beneath.

use crate::disk::{Disk, DiskFile};
use std::io;
use std::sync::Arc;

/// An operation on a disk, or on a file of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOp<'a> {
    List,
    Open(&'a str),
    Create(&'a str),
    Rename { from: &'a str, to: &'a str },
    Remove(&'a str),
    SyncNames,
    Lock,
    Read { offset: u64, len: u64 },
    Write { offset: u64, len: u64 },
    Len,
    SetLen(u64),
    Sync,
}

/// What happens beside the operations of a [`Hooked`] disk: nothing, unless it is said here.
pub trait Hook: Send + Sync + 'static {
    /// An error is what the operation returns, and the disk beneath does not hear of it.
    fn before(&self, _op: DiskOp<'_>) -> io::Result<()> {
        Ok(())
    }

    /// It has succeeded.
    fn after(&self, _op: DiskOp<'_>) {}

    /// A file is let go of; this is the name that it was opened or made by.
    fn closed(&self, _name: &str) {}
}

/// A disk, and what happens beside its operations. Its clones have the same hook.
#[derive(Default)]
pub struct Hooked<D, H> {
    pub disk: D,
    pub hook: Arc<H>,
}

impl<D, H> Hooked<D, H> {
    pub fn new(disk: D, hook: H) -> Self {
        Hooked { disk, hook: Arc::new(hook) }
    }
}

// Derived, it would ask that hooks can be cloned.
impl<D: Clone, H> Clone for Hooked<D, H> {
    fn clone(&self) -> Self {
        Hooked { disk: self.disk.clone(), hook: self.hook.clone() }
    }
}

struct HookedFile<H: Hook> {
    file: Arc<dyn DiskFile>,
    name: String,
    hook: Arc<H>,
}

fn run<T>(hook: &Arc<impl Hook>, op: DiskOp<'_>, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    hook.before(op)?;
    let done = operation()?;
    hook.after(op);
    Ok(done)
}

impl<D: Disk, H: Hook> Hooked<D, H> {
    fn file(&self, name: &str, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(HookedFile { file, name: name.to_owned(), hook: self.hook.clone() })
    }
}

impl<D: Disk, H: Hook> Disk for Hooked<D, H> {
    fn list(&self) -> io::Result<Vec<String>> {
        run(&self.hook, DiskOp::List, || self.disk.list())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        run(&self.hook, DiskOp::Open(name), || self.disk.open(name)).map(|f| self.file(name, f))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        run(&self.hook, DiskOp::Create(name), || self.disk.create(name)).map(|f| self.file(name, f))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        run(&self.hook, DiskOp::Rename { from, to }, || self.disk.rename(from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        run(&self.hook, DiskOp::Remove(name), || self.disk.remove(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        run(&self.hook, DiskOp::SyncNames, || self.disk.sync_names())
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        run(&self.hook, DiskOp::Lock, || self.disk.lock())
    }
}

impl<H: Hook> DiskFile for HookedFile<H> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let op = DiskOp::Read { offset, len: buf.len() as u64 };
        run(&self.hook, op, || self.file.read_at(buf, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let op = DiskOp::Write { offset, len: bytes.len() as u64 };
        run(&self.hook, op, || self.file.write_at(bytes, offset))
    }

    fn len(&self) -> io::Result<u64> {
        run(&self.hook, DiskOp::Len, || self.file.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        run(&self.hook, DiskOp::SetLen(len), || self.file.set_len(len))
    }

    fn sync(&self) -> io::Result<()> {
        run(&self.hook, DiskOp::Sync, || self.file.sync())
    }
}

impl<H: Hook> Drop for HookedFile<H> {
    fn drop(&mut self) {
        self.hook.closed(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::{DiskOp, Hook, Hooked};
    use crate::{Disk, MemDisk};
    use std::io::{self, ErrorKind};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Notes what it is told, and refuses one operation.
    #[derive(Default)]
    struct Notes {
        told: Mutex<Vec<String>>,
        refused: Option<DiskOp<'static>>,
    }

    impl Notes {
        fn told(&self) -> MutexGuard<'_, Vec<String>> {
            self.told.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl Hook for Notes {
        fn before(&self, op: DiskOp<'_>) -> io::Result<()> {
            self.told().push(format!("before {op:?}"));
            if self.refused == Some(op) { Err(ErrorKind::PermissionDenied.into()) } else { Ok(()) }
        }
        fn after(&self, op: DiskOp<'_>) {
            self.told().push(format!("after {op:?}"));
        }
        fn closed(&self, name: &str) {
            self.told().push(format!("closed {name}"));
        }
    }

    #[test]
    fn each_operation_is_done_and_told_of_before_and_after() {
        let disk = Hooked::<MemDisk, Notes>::default();
        let held = disk.lock().expect("nobody has it");
        assert!(disk.disk.lock().is_err());
        let file = disk.create("a").expect("a file");
        file.write_at(b"abcd", 1).expect("it is written");
        file.set_len(4).expect("it is cut");
        file.sync().expect("it is synced");
        disk.rename("a", "b").expect("it is there");
        disk.sync_names().expect("names are synced");
        drop((file, held));
        assert!(disk.disk.lock().is_ok());
        disk.disk.crash(0);
        assert_eq!(disk.list().expect("it can be listed"), ["b"]);
        let (file, mut buf) = (disk.open("b").expect("it is there"), [0; 8]);
        assert_eq!((file.len().expect("it has a length"), file.read_at(&mut buf, 2).expect("it can be read")), (4, 2));
        assert_eq!(&buf[..2], b"bc");
        disk.remove("b").expect("it is there");
        assert!(disk.disk.list().expect("it can be listed").is_empty());
        drop(file);

        let both = |op: DiskOp<'_>| vec![format!("before {op:?}"), format!("after {op:?}")];
        let expected = [
            both(DiskOp::Lock),
            both(DiskOp::Create("a")),
            both(DiskOp::Write { offset: 1, len: 4 }),
            both(DiskOp::SetLen(4)),
            both(DiskOp::Sync),
            both(DiskOp::Rename { from: "a", to: "b" }),
            both(DiskOp::SyncNames),
            vec!["closed a".to_owned()],
            both(DiskOp::List),
            both(DiskOp::Open("b")),
            both(DiskOp::Len),
            both(DiskOp::Read { offset: 2, len: 8 }),
            both(DiskOp::Remove("b")),
            vec!["closed b".to_owned()],
        ];
        assert_eq!(*disk.hook.told(), expected.concat());
    }

    #[test]
    fn what_is_refused_is_not_done_and_what_fails_is_not_told_of_after() {
        let disk = Hooked::new(MemDisk::new(), Notes { refused: Some(DiskOp::Remove("a")), ..Notes::default() });
        drop(disk.create("a").expect("a file"));
        disk.hook.told().clear();
        let refused = disk.remove("a").expect_err("it is refused");
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        assert_eq!(disk.list().expect("it can be listed"), ["a"]);
        let failed = disk.remove("b").expect_err("it is not there");
        assert_eq!(failed.kind(), ErrorKind::NotFound);
        let told = [r#"before Remove("a")"#, "before List", "after List", r#"before Remove("b")"#];
        assert_eq!(*disk.hook.told(), told);
    }
}
