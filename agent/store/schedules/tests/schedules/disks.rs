//! Disks that tell more, or do less, than one in memory.

use crate::common::CHECKPOINT;
use crate::common::interrupted::Job;
use mew_store::{Disk, DiskOp, Hook, Hooked, MemDisk};
use std::collections::BTreeMap;
use std::io;
// Not shuttle's: to watch must not change what can happen.
use std::sync::{Mutex, MutexGuard, PoisonError};

pub type Watched = Hooked<MemDisk, OpenFiles>;

/// How often each file is open, by the name that it was opened by.
#[derive(Default)]
pub struct OpenFiles(Mutex<BTreeMap<String, usize>>);

impl OpenFiles {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hook for OpenFiles {
    fn after(&self, op: DiskOp<'_>) {
        if let DiskOp::Open(name) | DiskOp::Create(name) = op {
            *self.lock().entry(name.to_owned()).or_default() += 1;
        }
    }

    fn closed(&self, name: &str) {
        let mut open = self.lock();
        if let Some(n) = open.get_mut(name) {
            *n -= 1;
            if *n == 0 {
                open.remove(name);
            }
        }
    }
}

/// Files that are open and have no name any more: their space is not free.
pub fn kept(watched: &Watched) -> Vec<String> {
    let there = watched.disk.list().expect("a disk in memory");
    watched.hook.lock().keys().filter(|name| !there.contains(name)).cloned().collect()
}

pub type Checkpointed = Hooked<MemDisk, NextCheckpoint>;

/// Does something else as soon as the next checkpoint has its name.
#[derive(Default)]
pub struct NextCheckpoint(Mutex<Option<Job>>);

impl NextCheckpoint {
    fn lock(&self) -> MutexGuard<'_, Option<Job>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn plan(&self, job: Job) {
        *self.lock() = Some(job);
    }
}

impl Hook for NextCheckpoint {
    fn after(&self, op: DiskOp<'_>) {
        if matches!(op, DiskOp::Rename { to: CHECKPOINT, .. }) {
            let job = self.lock().take();
            if let Some(job) = job {
                job();
            }
        }
    }
}

/// What a file holds goes with its name, as if nobody kept it open.
pub fn forgetful() -> impl Disk + 'static {
    let disk = MemDisk::new();
    Hooked::new(disk.clone(), Emptied(disk))
}

/// Empties a file when its name is taken away.
struct Emptied(MemDisk);

impl Hook for Emptied {
    fn before(&self, op: DiskOp<'_>) -> io::Result<()> {
        if let DiskOp::Remove(name) = op {
            self.0.edit(name, Vec::clear);
        }
        Ok(())
    }
}
