//! Commits in the middle of upkeep: between any two things that it does on the disk. What it leaves, and what a checkpoint
//! says, is of one commit all the same.

mod common;

use common::*;
use mew_store::{Disk, DiskFile, MemDisk, Store};
use proptest::prelude::*;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

type Job = Box<dyn FnOnce() + Send>;

/// Does something else before one of the operations on it.
#[derive(Clone, Default)]
struct Interrupted {
    disk: MemDisk,
    /// In how many operations.
    job: Arc<Mutex<Option<(usize, Job)>>>,
}

struct InterruptedFile {
    file: Arc<dyn DiskFile>,
    by: Interrupted,
}

impl Interrupted {
    fn interrupt(&self, after: usize, job: Job) {
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = Some((after, job));
    }

    /// It was too late for that.
    fn leftover(&self) -> Option<Job> {
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

fn open_on(disk: &Interrupted, segment_bytes: u32) -> Arc<Store> {
    let opened = Store::open(Arc::new(disk.clone()), ontology(), options(segment_bytes));
    Arc::new(opened.expect("the store opens").0)
}

fn commits(n: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<Op>>> {
    prop::collection::vec(prop::collection::vec(ops(), 1..5), n)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn commits_in_the_middle_of_upkeep_change_nothing_of_what_it_means(
        before in commits(1..20),
        meanwhile in commits(1..4),
        after in commits(0..3),
        at in 0_usize..40,
        q in quarters(),
        segment_bytes in prop::sample::select(vec![1, 300, 1000, 4000]),
    ) {
        let disk = Interrupted::default();
        let store = open_on(&disk, segment_bytes);
        let mut m = Model::new();
        for ops in &before {
            commit(&store, &m.batch(ops));
        }
        let u = q.of(&m);
        let batches: Vec<_> = meanwhile.iter().map(|ops| m.batch(ops)).collect();
        let interrupted = store.clone();
        disk.interrupt(
            at,
            Box::new(move || {
                for b in &batches {
                    commit(&interrupted, b);
                }
            }),
        );
        store.maintain(&u).expect("upkeep succeeds");
        if let Some(late) = disk.leftover() {
            late();
        }
        m.maintained(&store, &u);
        agrees(&store, &m, "after upkeep");
        rebuilds_the_same(&store, &disk.disk, segment_bytes, "after upkeep");
        // Upkeep goes on from what it left.
        for ops in &after {
            commit(&store, &m.batch(ops));
        }
        let u = EVERYTHING.of(&m);
        store.maintain(&u).expect("upkeep succeeds");
        m.maintained(&store, &u);
        agrees(&store, &m, "after more upkeep");
        rebuilds_the_same(&store, &disk.disk, segment_bytes, "after more upkeep");
        agrees_from_everywhere(&store, &m);
    }
}
