//! Numbered tasks at a standalone side: written one after the other, and counted at the other end.

use crate::standalone::Side;
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub fn spawn(side: &Side, n: u64) -> Result<()> {
    side.execute("SPAWN Task {n = $n}", &json!({"n": n})).map(|_| ())
}

/// Which tasks a kernel has.
pub fn tasks(side: &Side) -> Result<Vec<u64>> {
    let rows = side.rows("MATCH t: Task RETURN t.n ORDER BY t.n")?;
    rows.iter().map(|r| r[0].as_u64().with_context(|| format!("no number: {r}"))).collect()
}

pub fn one_to(n: u64) -> Vec<u64> {
    (1..=n).collect()
}

/// Does this while one task after the other is written; what comes of it, and how many were acknowledged in the end. It can
/// ask how many were by then, which fails once nobody writes any more.
pub fn under_load<T>(source: &Side, f: impl FnOnce(&dyn Fn() -> Result<u64>) -> Result<T>) -> Result<(T, u64)> {
    let (written, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let came = std::thread::scope(|s| {
        let writer = s.spawn(|| -> Result<()> {
            for n in 1.. {
                if done.load(Ordering::Acquire) {
                    break;
                }
                spawn(source, n)?;
                written.store(n, Ordering::Release);
            }
            Ok(())
        });
        let so_far = || -> Result<u64> {
            ensure!(!writer.is_finished(), "the writer has ended");
            Ok(written.load(Ordering::Acquire))
        };
        let came = f(&so_far);
        done.store(true, Ordering::Release);
        let wrote = writer.join().map_err(|_| anyhow!("the writer has panicked"))?;
        wrote.and(came)
    })?;
    Ok((came, written.load(Ordering::Acquire)))
}
