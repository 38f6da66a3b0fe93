//! The store's upkeep: checkpoints and compaction, beside everything else.

pub mod tombstones;

use crate::health::Health;
use mew_kernel::Kernel;
use mew_store::{Kept, StoreError, Upkeep};
use mew_sync::OpenTime;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tombstones::Hours;

/// Between two looks; one that finds nothing to do costs nothing.
const EVERY: Duration = Duration::from_secs(5);
/// What failed may have rewritten much in vain. After each failure in a row it is left alone for twice as many looks, up to five
/// minutes of them.
const MOST_SKIPPED: u32 = 60;

/// What became of the last tries.
#[derive(Default)]
struct Tries {
    /// How many failed since one succeeded.
    failed: u32,
    /// Looks to be skipped after a failure, and how many of those are left.
    pause: u32,
    skip: u32,
}

impl Tries {
    /// Whether this look is one to be skipped.
    fn skips(&mut self) -> bool {
        let skips = self.skip > 0;
        self.skip = self.skip.saturating_sub(1);
        skips
    }

    /// Returns whether it is the first in a row.
    fn fails(&mut self) -> bool {
        self.failed = self.failed.saturating_add(1);
        self.pause = (2 * self.pause).clamp(1, MOST_SKIPPED);
        self.skip = self.pause;
        self.failed == 1
    }
}

pub async fn run(kernel: Arc<Kernel>, health: Health, stop: CancellationToken) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(EVERY);
    let mut tries = Tries::default();
    // The kernel is open to its peers for as long as this runs.
    let (started, mut hours, mut open) = (Instant::now(), Hours::default(), OpenTime::default());
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let mono_ms = started.elapsed().as_millis() as u64;
        open.look(mono_ms);
        let k = kernel.clone();
        if tries.skips() {
            // A disk that works again is noticed all the same.
            let _ = tokio::task::spawn_blocking(move || k.maintain(&Upkeep::small())).await?;
            continue;
        }
        let tidied = tokio::task::spawn_blocking(move || {
            let (mut hours, mut open) = (hours, open);
            // A note that cannot be made is made later; commits say as well what is in the way, and compaction may make the room.
            let _ = hours.look(&k, mono_ms);
            (tidy_up(&k, &mut open), (hours, open))
        });
        let (done, looked) = tidied.await?;
        (hours, open) = looked;
        match done {
            Ok(kept) => {
                tries = Tries::default();
                if kept.checkpoint_bytes > 0 {
                    tracing::info!(
                        checkpoint_bytes = kept.checkpoint_bytes,
                        rewritten = kept.rewritten,
                        freed_bytes = kept.freed_bytes,
                        forgotten = kept.forgotten,
                        "the store was tidied up"
                    );
                }
            }
            Err(e) => {
                // Once, not every time: the metric goes on, and commits say what is wrong as well.
                if tries.fails() {
                    tracing::warn!(error = %e, "the store cannot be tidied up, or not all of it; it is tried again");
                }
            }
        }
        health.set_upkeep_failures(tries.failed);
    }
}

fn tidy_up(kernel: &Kernel, open: &mut OpenTime) -> Result<Kept, StoreError> {
    // Where what flows or tombstones need is not known everything stays, and whatever else is due is done all the same.
    let needs = mew_sync::floor(kernel, open).map_err(|e| e.to_string());
    let needs = needs.and_then(|floor| Ok((floor, tombstones::old(kernel).map_err(|e| e.to_string())?)));
    let ((floor, old), unknown) = match needs {
        Ok(needs) => (needs, None),
        Err(e) => ((0, 0), Some(StoreError::Inconsistent(format!("what is still needed cannot be read: {e}")))),
    };
    let kept = kernel.maintain(&Upkeep::routine(floor, old))?;
    unknown.map_or(Ok(kept), Err)
}

#[cfg(test)]
mod tests {
    use super::{MOST_SKIPPED, Tries};

    #[test]
    fn failures_in_a_row_are_counted_and_followed_by_longer_and_longer_pauses() {
        let mut t = Tries::default();
        assert!(!t.skips(), "nothing has failed");
        let mut pauses = Vec::new();
        for n in 1..=9 {
            assert_eq!((t.fails(), t.failed), (n == 1, n));
            pauses.push((0..).take_while(|_| t.skips()).count() as u32);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, MOST_SKIPPED, MOST_SKIPPED, MOST_SKIPPED]);
    }
}
