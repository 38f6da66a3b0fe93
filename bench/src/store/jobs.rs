//! What the workers of the store's part do.

use super::flows;
use crate::embedded::{self, Indexes};
use crate::measure::{anonymous_mb, resident_mb};
use crate::race::{Figures, distinct};
use crate::rows::Rng;
use crate::worker::{Work, answer};
use anyhow::{Context, Result};
use mew_kernel::Kernel;
use mew_store::{Kept, Upkeep};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Write};
use std::process::id;
use std::time::Instant;

const MB: f64 = (1 << 20) as f64;
/// Rows of a commit of those that are changed in bulk.
const BULK: usize = 100;
/// Digits of a hash that a figure holds exactly.
const EXACT: u32 = 52;

/// A checkpoint and nothing else, whatever came after the last one.
pub const ONLY_A_CHECKPOINT: Upkeep =
    Upkeep { floor: 0, tombstones_up_to: 0, dead_percent: 100, checkpoint_bytes: 0, checkpoint_percent: 0 };

pub fn kernel(w: &Work, indexes: Indexes) -> Result<Kernel> {
    Ok(Kernel::new(embedded::open(&w.log(), indexes)?.0))
}

/// Random updates in commits of `size`, until `enough`.
pub fn change_until(
    k: &Kernel,
    entities: u64,
    size: usize,
    seed: u64,
    mut enough: impl FnMut(u64) -> bool,
) -> Result<u64> {
    let (mut rng, mut changed) = (Rng(seed), 0);
    while !enough(changed) {
        embedded::update(k, &distinct(&mut rng, size, entities), (changed + seed) as i64)?;
        changed += size as u64;
    }
    Ok(changed)
}

/// Changes so many, says so, and goes on until it is killed.
fn change_for_ever(k: &Kernel, entities: u64, tail: u64) -> Result<()> {
    change_until(k, entities, BULK, 1, |changed| changed >= tail)?;
    answer(&Figures::new())?;
    change_until(k, entities, BULK, 2, |_| false)?;
    Ok(())
}

pub fn load(w: &Work, tail: u64) -> Result<()> {
    let before = anonymous_mb(id())?;
    let k = kernel(w, Indexes::BOTH)?;
    let start = Instant::now();
    embedded::load(&k, 0..w.entities)?;
    let t = start.elapsed().as_secs_f64();
    let grown = (anonymous_mb(id())? - before) * MB;
    answer(&Figures::from([
        ("load rows/s".to_owned(), w.entities as f64 / t),
        ("loaded: resident MB".to_owned(), resident_mb(id())?),
        ("derived state, loaded: bytes per entity".to_owned(), grown / w.entities as f64),
    ]))?;
    change_for_ever(&k, w.entities, tail)
}

pub fn change(w: &Work, tail: u64) -> Result<()> {
    let k = kernel(w, Indexes::BOTH)?;
    // Not written if all that is closed is in it already.
    k.maintain(&ONLY_A_CHECKPOINT)?;
    answer(&Figures::new())?;
    change_for_ever(&k, w.entities, tail)
}

pub fn checkpoint(w: &Work, indexes: Indexes) -> Result<()> {
    let Kept { checkpoint_bytes, .. } = kernel(w, indexes)?.maintain(&ONLY_A_CHECKPOINT)?;
    answer(&Figures::from([("checkpoint MB".to_owned(), checkpoint_bytes as f64 / MB)]))
}

/// Opens, timed, with what that added to the process.
pub fn opening(w: &Work, indexes: Indexes) -> Result<(Kernel, Figures)> {
    let before = anonymous_mb(id())?;
    let start = Instant::now();
    let (store, how) = embedded::open(&w.log(), indexes)?;
    let k = Kernel::new(store);
    let t = start.elapsed().as_secs_f64();
    let entities = k.usage().1;
    let grown = (anonymous_mb(id())? - before) * MB;
    let f = Figures::from([
        ("s".to_owned(), t),
        ("records".to_owned(), how.records as f64),
        ("bytes per entity".to_owned(), grown / entities.max(1) as f64),
        ("head".to_owned(), k.head() as f64),
    ]);
    Ok((k, f))
}

pub fn open(w: &Work) -> Result<()> {
    answer(&opening(w, Indexes::BOTH)?.1)
}

pub fn memory(w: &Work, indexes: Indexes, with_flows: bool) -> Result<()> {
    let (k, mut f) = opening(w, indexes)?;
    if with_flows {
        let before = anonymous_mb(id())?;
        let link = flows::two(&k)?;
        let grown = (anonymous_mb(id())? - before) * MB;
        f.insert("flows: bytes per entity".into(), grown / k.usage().1.max(1) as f64);
        f.insert("resident MB".into(), resident_mb(id())?);
        drop(link);
    }
    answer(&f)
}

/// A hash of what is written to it.
struct Digest(DefaultHasher);

impl Write for Digest {
    fn write(&mut self, b: &[u8]) -> io::Result<usize> {
        self.0.write(b);
        Ok(b.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub fn canonical(w: &Work) -> Result<()> {
    let (store, _) = embedded::open(&w.log(), Indexes::BOTH)?;
    // Always with the same keys.
    let mut digest = Digest(DefaultHasher::new());
    store.canonical(&mut digest).context("derived state is not what the log says")?;
    let digits = digest.0.finish() >> (u64::BITS - EXACT);
    answer(&Figures::from([("digest".to_owned(), digits as f64)]))
}
