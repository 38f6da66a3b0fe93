//! A disk that does something else in the middle of what a store does on it.

use mew_store::{DiskOp, Hook, Hooked, MemDisk};
use std::io;
use std::sync::{Mutex, PoisonError};

pub type Job = Box<dyn FnOnce() + Send>;

pub type Interrupted = Hooked<MemDisk, Interruption>;

/// Does something else before one of a disk's writes, syncs and changes of names.
#[derive(Default)]
pub struct Interruption {
    /// In how many operations.
    job: Mutex<Option<(usize, Job)>>,
}

impl Interruption {
    pub fn plan(&self, after: usize, job: Job) {
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = Some((after, job));
    }

    /// It was too late for that.
    pub fn leftover(&self) -> Option<Job> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner).take().map(|x| x.1)
    }

    /// Counts an operation; what is to be done before it.
    fn due(&self) -> Option<Job> {
        let mut job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        match job.as_mut() {
            Some((0, _)) => job.take().map(|x| x.1),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        }
    }
}

impl Hook for Interruption {
    fn before(&self, op: DiskOp<'_>) -> io::Result<()> {
        let due = match op {
            DiskOp::Create(_)
            | DiskOp::Rename { .. }
            | DiskOp::Remove(_)
            | DiskOp::SyncNames
            | DiskOp::Write { .. }
            | DiskOp::Sync => self.due(),
            _ => None,
        };
        if let Some(job) = due {
            job();
        }
        Ok(())
    }
}
