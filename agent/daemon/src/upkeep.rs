//! The store's upkeep: checkpoints and compaction, beside everything else.

pub mod tombstones;

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

pub async fn run(kernel: Arc<Kernel>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(EVERY);
    // Looks to be skipped after a failure, and how many of those are left.
    let (mut pause, mut skip) = (0, 0);
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
        if skip > 0 {
            skip -= 1;
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
                pause = 0;
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
                // Once, not every time: commits say what is wrong as well.
                if pause == 0 {
                    tracing::warn!(error = %e, "the store cannot be tidied up; it is tried again");
                }
                pause = (2 * pause).clamp(1, MOST_SKIPPED);
                skip = pause;
            }
        }
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
