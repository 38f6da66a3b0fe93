//! Local commits of a client that never waits, and which of them something else went on beside.

use crate::embedded::{execute, updates};
use crate::measure::{Spread, spread};
use crate::ours::UPDATE;
use crate::race::{Figures, distinct};
use crate::rows::Rng;
use anyhow::{Result, anyhow};
use mew_kernel::Kernel;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

/// Rows of the client's commits, in turn.
pub const SIZES: [usize; 2] = [1, 100];

pub struct Commit {
    size: usize,
    from: Instant,
    to: Instant,
}

/// When something went on.
#[derive(Clone, Copy)]
pub struct Window {
    pub from: Instant,
    pub to: Instant,
}

impl Window {
    pub fn seconds(&self) -> f64 {
        (self.to - self.from).as_secs_f64()
    }

    fn meets(&self, c: &Commit) -> bool {
        c.from < self.to && c.to > self.from
    }
}

/// When `work` went on, and what it gave.
pub fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(Window, T)> {
    let from = Instant::now();
    let done = work()?;
    Ok((Window { from, to: Instant::now() }, done))
}

/// Random updates, one commit after the other, until told to stop. What is written is made beforehand, untimed.
fn client(k: &Kernel, entities: u64, seed: u64, stop: &AtomicBool) -> Result<Vec<Commit>> {
    let (mut rng, mut all) = (Rng(seed), Vec::new());
    for (version, size) in SIZES.iter().cycle().enumerate() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let table = updates(&distinct(&mut rng, *size, entities), version as i64);
        let from = Instant::now();
        execute(k, UPDATE, table)?;
        all.push(Commit { size: *size, from, to: Instant::now() });
    }
    Ok(all)
}

/// Does something beside a client, and says what it committed meanwhile.
pub fn beside<T>(
    k: &Kernel,
    entities: u64,
    seed: u64,
    work: impl FnOnce() -> Result<T>,
) -> Result<(Window, T, Vec<Commit>)> {
    let stop = AtomicBool::new(false);
    thread::scope(|s| {
        let client = s.spawn(|| client(k, entities, seed, &stop));
        let done = timed(work);
        stop.store(true, Ordering::Relaxed);
        let commits = client.join().map_err(|_| anyhow!("the client panicked"))??;
        let (window, value) = done?;
        Ok((window, value, commits.into_iter().filter(|c| window.meets(c)).collect()))
    })
}

/// Percentiles by size; their ratios to those of `alone`, if that is given.
pub fn insert(when: &str, commits: &[Commit], alone: Option<&[Commit]>, f: &mut Figures) {
    let of = |all: &[Commit], size: usize| -> Spread {
        spread(all.iter().filter(|c| c.size == size).map(|c| (c.to - c.from).as_secs_f64()).collect())
    };
    for size in SIZES {
        let (name, s) = (format!("commits of {size}, {when}"), of(commits, size));
        f.insert(format!("{name}: samples"), commits.iter().filter(|c| c.size == size).count() as f64);
        for (what, ms) in [("p50", s.p50), ("p99", s.p99), ("max", s.max)] {
            f.insert(format!("{name}: {what} ms"), ms);
        }
        let Some(base) = alone.map(|all| of(all, size)) else { continue };
        for (what, ms, by) in [("p50", s.p50, base.p50), ("p99", s.p99, base.p99), ("max", s.max, base.max)] {
            if by > 0.0 {
                f.insert(format!("{name}: {what} by alone"), ms / by);
            }
        }
    }
}
