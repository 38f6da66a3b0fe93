//! What the figures depend on besides the programs: cores, memory, and how soon the disk has a write.

use crate::measure::{Spread, spread};
use anyhow::{Context, Result};
use serde::Serialize;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// Enough for a percentile, and done in a fraction of a second.
const WRITES: usize = 200;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    pub cores: usize,
    pub memory_mb: u64,
    /// 4 KiB behind the end of a file, and fdatasync, in ms.
    pub durable_write: Spread,
}

impl Machine {
    /// Of the disk that `dir` is on.
    pub fn look(dir: &Path) -> Result<Self> {
        let path = dir.join("durable-write");
        let mut file = File::create(&path).with_context(|| path.display().to_string())?;
        let mut times = Vec::with_capacity(WRITES);
        for _ in 0..WRITES {
            let start = Instant::now();
            file.write_all(&[7; 4096])?;
            file.sync_data()?;
            times.push(start.elapsed().as_secs_f64());
        }
        fs::remove_file(&path)?;
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kb = text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
        Ok(Machine {
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            memory_mb: kb.unwrap_or(0) / 1024,
            durable_write: spread(times),
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Spread { p50, p99, .. } = self.durable_write;
        write!(f, "{} cores, {} MB, durable write p50 {p50:.2} p99 {p99:.2} ms", self.cores, self.memory_mb)
    }
}
