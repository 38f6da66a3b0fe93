//! Waiting for a condition, never for a time.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Between two looks.
pub const LOOK: Duration = Duration::from_millis(50);

/// Looks again until there is an answer; an error ends it at once.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(t) = look()? {
            return Ok(t);
        }
        if Instant::now() >= end {
            bail!("{what}: not after {:.1} s", limit.as_secs_f32());
        }
        std::thread::sleep(LOOK);
    }
}
