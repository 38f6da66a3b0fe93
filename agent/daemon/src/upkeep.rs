//! The store's upkeep: checkpoints and compaction, beside everything else.

use mew_kernel::Kernel;
use mew_net::Hub;
use mew_store::{StoreError, Upkeep};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two looks; one that finds nothing to do costs nothing.
const EVERY: Duration = Duration::from_secs(5);
/// Tombstones are kept at least this long, also when every flow has passed them: a deletion here must win against an older
/// version that comes from elsewhere.
pub const TOMBSTONES_MS: u64 = 7 * 24 * 3_600_000;
/// What failed may have rewritten much in vain. After each failure in a row it is left alone for twice as many looks, up to five
/// minutes of them.
const MOST_SKIPPED: u32 = 60;

pub async fn run(kernel: Arc<Kernel>, hub: Arc<Hub>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(EVERY);
    // Looks to be skipped after a failure, and how many of those are left.
    let (mut pause, mut skip) = (0, 0);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let (k, now_ms) = (kernel.clone(), hub.wall_ms());
        if skip > 0 {
            skip -= 1;
            // A disk that works again is noticed all the same.
            let _ = tokio::task::spawn_blocking(move || k.maintain(&Upkeep::small())).await?;
            continue;
        }
        let done = tokio::task::spawn_blocking(move || {
            // What flows need is not known: everything stays, and whatever else is due is done all the same.
            let (floor, unknown) = match mew_sync::floor(&k, now_ms) {
                Ok(floor) => (floor, None),
                Err(e) => (0, Some(StoreError::Inconsistent(format!("what flows still need cannot be read: {e}")))),
            };
            let kept = k.maintain(&Upkeep::routine(floor, now_ms.saturating_sub(TOMBSTONES_MS)))?;
            unknown.map_or(Ok(kept), Err)
        });
        match done.await? {
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
