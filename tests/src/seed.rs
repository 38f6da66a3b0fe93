//! What a run of a test is told by variables: its seed, so that it can be repeated, and how long it goes on.

use anyhow::{Context, Result};
use std::time::{SystemTime, UNIX_EPOCH};

pub fn number(variable: &str) -> Result<Option<u64>> {
    match std::env::var(variable) {
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("{variable}={text:?} is no number"))?)),
        Err(_) => Ok(None),
    }
}

/// Another one for each run, unless it is given.
pub fn seed(variable: &str) -> Result<u64> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    Ok(number(variable)?.unwrap_or(clock))
}
