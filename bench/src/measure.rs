//! What is measured: time, CPU and memory of processes, percentiles.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two looks for a condition; small against everything that is measured.
const LOOK: Duration = Duration::from_micros(500);
const LIMIT: Duration = Duration::from_secs(300);

/// Looks until it is so, and says how long that took from `start`.
pub fn elapsed_until(start: Instant, what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<f64> {
    loop {
        if is_so()? {
            return Ok(start.elapsed().as_secs_f64());
        }
        if start.elapsed() > LIMIT {
            bail!("{what}: not after {} s", LIMIT.as_secs());
        }
        sleep(LOOK);
    }
}

/// CPU seconds of these processes and of their children, living or reaped.
pub fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    let hertz = rustix::param::clock_ticks_per_second() as f64;
    let mut ticks = 0;
    for pid in with_children(pids)? {
        // One that has ended meanwhile is counted by its parent.
        if let Some(f) = stat(pid) {
            ticks += f[11..15].iter().filter_map(|t| t.parse::<u64>().ok()).sum::<u64>();
        }
    }
    Ok(ticks as f64 / hertz)
}

/// Memory of these processes and their children in MB, shared pages split among those that share them.
pub fn memory_mb(pids: &[u32]) -> Result<f64> {
    let mut kb = 0;
    for pid in with_children(pids)? {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        kb += text
            .lines()
            .find_map(|l| l.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0);
    }
    Ok(kb as f64 / 1024.0)
}

/// Resident memory of one process in MB.
pub fn resident_mb(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let kb = text.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kb.context("no VmRSS")? as f64 / 1024.0)
}

/// Fields of /proc/pid/stat after the name.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text[text.rfind(')')? + 2..].split(' ').map(str::to_owned).collect())
}

fn with_children(pids: &[u32]) -> Result<Vec<u32>> {
    let mut all = pids.to_vec();
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")?
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, stat(pid)?.get(1)?.parse().ok()?)))
        .collect();
    let mut i = 0;
    while i < all.len() {
        let one = all[i];
        all.extend(parents.iter().filter(|(_, parent)| *parent == one).map(|(pid, _)| *pid));
        i += 1;
    }
    Ok(all)
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

pub fn spread(mut seconds: Vec<f64>) -> Spread {
    seconds.sort_by(f64::total_cmp);
    let at =
        |p: f64| seconds.get(((seconds.len().saturating_sub(1)) as f64 * p).round() as usize).copied().unwrap_or(0.0);
    Spread { p50: at(0.5) * 1e3, p99: at(0.99) * 1e3, max: at(1.0) * 1e3 }
}

/// Says when the next of a steady rate is due.
pub struct Pacer {
    next: Instant,
    every: Duration,
}

impl Pacer {
    pub fn new(per_second: f64) -> Self {
        Pacer { next: Instant::now(), every: Duration::from_secs_f64(1.0 / per_second) }
    }

    pub fn wait(&mut self) {
        if let Some(d) = self.next.checked_duration_since(Instant::now()) {
            sleep(d);
        }
        self.next += self.every;
    }
}

pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|t| t.parse().ok()).unwrap_or(0.0)
}

pub fn free_port() -> Result<u16> {
    mew_tests::ports::free_port()
}
