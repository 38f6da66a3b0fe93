//! What the worker of the soak does: clients that never wait, and upkeep as in an agent.

use crate::embedded::{self, Indexes, codes, execute, live, new_rows, updates};
use crate::measure::Histogram;
use crate::ours::{SPAWN, UPDATE};
use crate::race::{Figures, distinct};
use crate::rows::Rng;
use crate::store::jobs::kernel;
use crate::worker::{Work, answer};
use anyhow::{Context, Result, ensure};
use mew_kernel::{Kernel, Table};
use mew_store::Upkeep;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Each with rows of its own.
const CLIENTS: u32 = 2;
/// Rows of a commit, by chance.
const SIZES: [usize; 3] = [1, 10, 100];
/// Between two looks for what is to be tidied up, as in an agent.
const UPKEEP: Duration = Duration::from_secs(5);
/// An agent keeps tombstones for a week; here they go so many looks later, so that a soak of minutes sees all of their life.
const TOMBSTONES: usize = 2;
const ANSWERS: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Counted {
    times: Mutex<Histogram>,
    changes: AtomicU64,
    checkpoints: AtomicU64,
    rewritten: AtomicU64,
}

/// Ends the worker: the others would go on for ever.
fn failed(e: &anyhow::Error) -> ! {
    eprintln!("{e:#}");
    std::process::exit(1)
}

pub fn run(w: &Work) -> Result<()> {
    ensure!(w.entities < u64::from(u32::MAX), "entities have numbers of 32 bits");
    let k = kernel(w, Indexes::BOTH)?;
    embedded::load(&k, 0..w.entities)?;
    answer(&Figures::from([("live bytes".to_owned(), live(&k)?.bytes as f64)]))?;
    let counted = Counted::default();
    thread::scope(|s| {
        for n in 0..CLIENTS {
            let (c, k, counted) = (Client::new(n, w.entities as u32), &k, &counted);
            s.spawn(move || c.run(k, counted));
        }
        s.spawn(|| upkeep(&k, &counted));
        loop {
            thread::sleep(ANSWERS);
            answer(&counted.figures(k.head())).unwrap_or_else(|e| failed(&e));
        }
    })
}

impl Counted {
    fn figures(&self, head: u64) -> Figures {
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed) as f64;
        let s = self.times.lock().unwrap_or_else(PoisonError::into_inner).spread();
        let all = [
            ("head", head as f64),
            ("changes", count(&self.changes)),
            ("checkpoints", count(&self.checkpoints)),
            ("segments rewritten", count(&self.rewritten)),
            ("commits: p50 ms", s.p50),
            ("commits: p99 ms", s.p99),
            ("commits: max ms", s.max),
        ];
        all.into_iter().map(|(name, v)| (name.to_owned(), v)).collect()
    }
}

fn upkeep(k: &Kernel, counted: &Counted) {
    // How far the log had come at the last looks.
    let mut heads = VecDeque::from([0; TOMBSTONES]);
    loop {
        thread::sleep(UPKEEP);
        heads.push_back(k.head());
        let old = heads.pop_front().unwrap_or(0);
        match k.maintain(&Upkeep::routine(u64::MAX, old)) {
            Ok(kept) => {
                counted.checkpoints.fetch_add(u64::from(kept.checkpoint_bytes > 0), Ordering::Relaxed);
                counted.rewritten.fetch_add(kept.rewritten, Ordering::Relaxed);
            }
            Err(e) => failed(&e.into()),
        }
    }
}

struct Client {
    rng: Rng,
    /// Numbers of the rows that are there.
    living: Vec<u32>,
    /// How many there were at first, and about how many there are ever after.
    wanted: usize,
    next: u32,
    version: i64,
}

impl Client {
    fn new(n: u32, entities: u32) -> Self {
        let wanted = (n..entities).step_by(CLIENTS as usize).count();
        // It must not grow: its memory would pass for the kernel's.
        let mut living = Vec::with_capacity(wanted + SIZES.iter().max().copied().unwrap_or(0));
        living.extend((n..entities).step_by(CLIENTS as usize));
        Client { rng: Rng(n.into()), next: n + wanted as u32 * CLIENTS, living, wanted, version: 0 }
    }

    fn run(mut self, k: &Kernel, counted: &Counted) {
        loop {
            self.commit(k, counted).unwrap_or_else(|e| failed(&e));
        }
    }

    fn commit(&mut self, k: &Kernel, counted: &Counted) -> Result<()> {
        let size = SIZES[self.rng.below(SIZES.len() as u64) as usize];
        self.version += 1;
        let kind = self.rng.below(5);
        let (text, table): (&str, Table) = match kind {
            0 if self.living.len() > self.wanted => {
                let gone: Vec<u64> = (0..size)
                    .map(|_| {
                        let i = self.rng.below(self.living.len() as u64) as usize;
                        self.living.swap_remove(i).into()
                    })
                    .collect();
                (embedded::KILL, codes(&gone))
            }
            0 => {
                let new: Vec<u32> = (0..size as u32).map(|i| self.next + i * CLIENTS).collect();
                self.next =
                    new.last().context("a commit of nothing")?.checked_add(CLIENTS).context("no number is left")?;
                self.living.extend(&new);
                (SPAWN, new_rows(new.into_iter().map(u64::from)))
            }
            _ => {
                let places = distinct(&mut self.rng, size, self.living.len() as u64);
                let ids: Vec<u64> = places.iter().map(|i| self.living[*i as usize].into()).collect();
                (UPDATE, updates(&ids, self.version))
            }
        };
        let start = Instant::now();
        let s = execute(k, text, table)?;
        let took = start.elapsed().as_secs_f64();
        let n = s.spawned + s.set + s.killed;
        ensure!(n == size as u64, "{n} rows were changed, not {size}");
        counted.times.lock().unwrap_or_else(PoisonError::into_inner).add(took);
        counted.changes.fetch_add(n, Ordering::Relaxed);
        Ok(())
    }
}
