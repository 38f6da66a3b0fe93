//! Waiting for a condition, never for a time.

use crate::stop;
use anyhow::{Result, anyhow};
use std::time::{Duration, Instant};

/// Everything takes seconds; this is for a machine that is busy with two clusters.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks, most of which start a kubectl.
const LOOK: Duration = Duration::from_millis(250);

/// Looks until there is an answer. While pods come and go a look may fail, so an error is no answer; the last one is
/// told.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        stop::check()?;
        let failed = match look() {
            Ok(Some(t)) => return Ok(t),
            Ok(None) => None,
            Err(e) => Some(e),
        };
        if Instant::now() >= end {
            let late = format!("{what}: not after {} s", limit.as_secs());
            return Err(failed.map_or_else(|| anyhow!("{late}"), |e| e.context(late.clone())));
        }
        std::thread::sleep(LOOK);
    }
}
