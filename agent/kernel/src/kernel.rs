//! The kernel: transactions, and commits that concurrent writers share.

mod ontology;

pub use ontology::Unfit;

use crate::error::KernelError;
use crate::identity::Identity;
use crate::system::{Records, Take};
use crate::tx::Tx;
use mew_model::ontology::Type;
use mew_store::{Backup, Kept, Place, Store, StoreError, Stored, Upkeep, View};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

type Result<T> = std::result::Result<T, KernelError>;

/// Most transactions that share one commit, so that the first of them does not wait for ever.
const MAX_GROUP: usize = 256;

/// A transaction that waits for its turn.
type Job = Box<dyn FnOnce(&mut Tx<'_>) -> Box<dyn FnOnce(std::result::Result<u64, KernelError>) + Send> + Send>;

/// Gives the turn to the next writer, also when a transaction panics.
struct Turn<'a>(&'a Kernel);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.0.queue).busy = false;
        self.0.turn.notify_all();
    }
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Somebody is committing; it takes what is queued when it is done.
    busy: bool,
}

pub struct Kernel {
    store: Store,
    identity: Identity,
    queue: Mutex<Queue>,
    turn: Condvar,
    head: AtomicU64,
    on_commit: Mutex<Vec<Box<dyn Fn(u64) + Send + Sync>>>,
    records: OnceLock<Box<Records>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kernel {
    pub fn new(store: Store) -> Self {
        let identity = Identity::new(store.kernel_id(), store.incarnation());
        let head = AtomicU64::new(store.view().last_seq());
        Kernel {
            identity,
            head,
            queue: Mutex::default(),
            turn: Condvar::new(),
            on_commit: Mutex::default(),
            records: OnceLock::new(),
            store,
        }
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn incarnation(&self) -> &str {
        self.store.incarnation()
    }

    /// The newest durable seq.
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Calls `f` with the newest seq after each commit, from the committing thread.
    pub fn on_commit(&self, f: impl Fn(u64) + Send + Sync + 'static) {
        lock(&self.on_commit).push(Box::new(f));
    }

    /// Who gives the system records; the first one stays.
    pub fn keep_records<F>(&self, f: F)
    where
        F: Fn(&Tx<'_>, &Type, Take<'_>) -> Result<ControlFlow<()>> + Send + Sync + 'static,
    {
        let _ = self.records.set(Box::new(f));
    }

    pub fn view(&self) -> View<'_> {
        self.store.view()
    }

    pub fn feed(&self, place: &mut Place, out: &mut Vec<Stored>) -> std::result::Result<bool, StoreError> {
        self.store.feed(place, out)
    }

    pub fn history(&self, place: &mut Place, out: &mut Vec<Stored>) -> std::result::Result<bool, StoreError> {
        self.store.history(place, out)
    }

    /// Checkpoint, compaction, a spare segment: what is due. See [`Store::maintain`].
    pub fn maintain(&self, u: &Upkeep) -> std::result::Result<Kept, StoreError> {
        self.store.maintain(u)
    }

    /// A copy as of now, to be read while everything goes on. See [`Store::backup`].
    pub fn backup(&self) -> std::result::Result<Backup, StoreError> {
        self.store.backup()
    }

    /// Why the kernel cannot be written to until it is opened again, if so.
    pub fn broken(&self) -> Option<String> {
        self.store.broken().map(|why| StoreError::Broken(why).to_string())
    }

    /// Why nothing can be written now, if so. See [`Store::stuck`].
    pub fn stuck(&self) -> Option<String> {
        self.store.stuck()
    }

    /// (bytes of the log, entities with tombstones).
    pub fn usage(&self) -> (u64, u64) {
        self.store.usage()
    }

    /// Runs a transaction. It sees everything before it and is whole or not at all; transactions that wait together
    /// share one commit. When this returns, what it did is durable. `now_ms` is the time of its writes.
    pub fn write<T: Send + 'static>(
        &self,
        now_ms: u64,
        f: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<(T, u64)> {
        let done: Arc<Mutex<Option<Result<(T, u64)>>>> = Arc::default();
        let to = done.clone();
        let job: Job = Box::new(move |tx| {
            tx.now_ms = now_ms;
            match f(tx).and_then(|v| tx.fits().map(|()| v)) {
                Ok(v) => {
                    tx.keep();
                    Box::new(move |committed| *lock(&to) = Some(committed.map(|seq| (v, seq))))
                }
                Err(e) => {
                    tx.undo();
                    Box::new(move |_| *lock(&to) = Some(Err(e)))
                }
            }
        });
        let mut q = lock(&self.queue);
        q.jobs.push_back(job);
        loop {
            if q.busy {
                q = self.turn.wait(q).unwrap_or_else(PoisonError::into_inner);
            } else {
                q.busy = true;
                let n = q.jobs.len().min(MAX_GROUP);
                let jobs: Vec<Job> = q.jobs.drain(..n).collect();
                drop(q);
                let turn = Turn(self);
                self.commit(jobs);
                drop(turn);
                q = lock(&self.queue);
            }
            // Asked first: whoever has the job answers before letting go of it, but when something panics.
            let is_lost = Arc::strong_count(&done) == 1;
            if let Some(r) = lock(&done).take() {
                return r;
            }
            if is_lost {
                return Err(KernelError::Transaction(
                    "something that shared the commit panicked; look whether this transaction was done",
                ));
            }
        }
    }

    pub(crate) fn tx<'a>(&'a self, view: &'a View<'a>, now_ms: u64) -> Tx<'a> {
        Tx::new(view, &self.identity, self.records.get().map(|r| &**r), now_ms)
    }

    fn commit(&self, jobs: Vec<Job>) {
        let (batch, answers) = {
            let view = self.store.view();
            let mut tx = self.tx(&view, 0);
            let mut answers = Vec::with_capacity(jobs.len());
            let mut jobs = jobs.into_iter();
            while let Some(job) = jobs.next() {
                answers.push(job(&mut tx));
                if !tx.has_room() {
                    // The others come first in the next commit.
                    let mut q = lock(&self.queue);
                    jobs.by_ref().rev().for_each(|j| q.jobs.push_front(j));
                }
            }
            (tx.into_batch(), answers)
        };
        let changed = !batch.changes.is_empty();
        let r = self.store.commit(batch).map_err(KernelError::from);
        if let (Ok(seq), true) = (&r, changed) {
            self.head.store(*seq, Ordering::Release);
            for f in lock(&self.on_commit).iter() {
                f(*seq);
            }
        }
        for a in answers {
            a(r.clone());
        }
    }
}

#[cfg(test)]
mod races;
#[cfg(test)]
mod sharing;

#[cfg(test)]
mod tests {
    use super::*;
    use mew_model::Ontology;
    use mew_store::{MemDisk, Options};
    use std::sync::mpsc::channel;
    use std::thread;

    fn kernel() -> &'static Kernel {
        let o = Options { kernel_id: "k".into(), new_incarnation: "i".into(), segment_bytes: 64 << 20 };
        let (store, _) = Store::open(Arc::new(MemDisk::new()), Arc::new(Ontology::default()), o).expect("it opens");
        Box::leak(Box::new(Kernel::new(store)))
    }

    /// While a first transaction holds the turn, the others queue up, and then share a commit.
    fn together(k: &'static Kernel, jobs: Vec<fn(&mut Tx<'_>) -> Result<()>>) -> Vec<thread::Result<Result<()>>> {
        let ((held, holds), (release, released)) = (channel(), channel());
        let first = thread::spawn(move || {
            k.write(1, move |_| {
                held.send(()).expect("somebody waits");
                released.recv().expect("somebody releases");
                Ok(())
            })
        });
        holds.recv().expect("the first transaction runs");
        let n = jobs.len();
        let others: Vec<_> = jobs
            .into_iter()
            .enumerate()
            .map(|(i, job)| {
                let t = thread::spawn(move || k.write(1, job).map(|_| ()));
                while lock(&k.queue).jobs.len() <= i {
                    thread::yield_now();
                }
                t
            })
            .collect();
        assert_eq!(lock(&k.queue).jobs.len(), n);
        release.send(()).expect("the first transaction waits");
        first.join().expect("it does not panic").expect("it succeeds");
        others.into_iter().map(thread::JoinHandle::join).collect()
    }

    #[test]
    fn a_transaction_that_panics_keeps_nobody_waiting() {
        let k = kernel();
        let fine = |tx: &mut Tx<'_>| {
            tx.set_fact(b"fine".to_vec(), b"x".to_vec());
            Ok(())
        };
        let done = together(k, vec![fine, |_| panic!("a bug"), fine]);
        // Whoever had the turn panics; whose work was lost with it is told so.
        assert!(done.iter().any(|r| r.is_err() || matches!(r, Ok(Err(_)))), "{done:?}");
        k.write(1, fine).expect("the kernel goes on");
    }

    #[test]
    fn transactions_that_are_too_large_together_are_committed_one_after_the_other() {
        let k = kernel();
        let large = |tx: &mut Tx<'_>| {
            for n in 0..100_u32 {
                tx.set_fact(format!("{:p}/{n}", &*tx).into_bytes(), vec![7; 1 << 20]);
            }
            Ok(())
        };
        let done = together(k, vec![large, large, large]);
        assert!(done.iter().all(|r| matches!(r, Ok(Ok(())))), "{done:?}");
        let too_large = |tx: &mut Tx<'_>| {
            for n in 0..130_u32 {
                tx.set_fact(n.to_le_bytes().to_vec(), vec![7; 1 << 20]);
            }
            Ok(())
        };
        let e = k.write(1, too_large).expect_err("more than half a commit");
        assert!(e.to_string().contains("a transaction of"), "{e}");
    }
}
