//! What is measured: time, CPU, memory and writes of processes, files on disk, percentiles.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
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
    status_mb(pid, "VmRSS:")
}

/// The most that it ever was.
pub fn peak_mb(pid: u32) -> Result<f64> {
    status_mb(pid, "VmHWM:")
}

/// Of the resident memory, what was allocated: not the program, and not what is mapped of files.
pub fn anonymous_mb(pid: u32) -> Result<f64> {
    status_mb(pid, "RssAnon:")
}

fn status_mb(pid: u32, field: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let kb = text.lines().find_map(|l| l.strip_prefix(field)?.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kb.with_context(|| format!("no {field}"))? as f64 / 1024.0)
}

/// Bytes that a process has caused to be written to disks.
pub fn written_bytes(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).context("/proc has no account of writes")?;
    let n = text.lines().find_map(|l| l.strip_prefix("write_bytes: ")?.parse().ok());
    n.context("no write_bytes")
}

/// Bytes that the files of a directory take on disk; some may go while it is read.
pub fn disk_bytes(dir: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for e in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        match e?.metadata() {
            Ok(m) => sum += m.blocks() * 512,
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(sum)
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

/// Times, counted in buckets so that it takes the same memory however many there are. Percentiles are up to 5 % too high.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    max: f64,
}

/// Buckets for each doubling of the time, and doublings from a nanosecond to an hour.
const STEPS: f64 = 16.0;
const DOUBLINGS: usize = 42;

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; DOUBLINGS * STEPS as usize], max: 0.0 }
    }
}

impl Histogram {
    pub fn add(&mut self, seconds: f64) {
        let bucket = ((seconds * 1e9).max(1.0).log2() * STEPS) as usize;
        let last = self.counts.len() - 1;
        self.counts[bucket.min(last)] += 1;
        self.max = self.max.max(seconds);
    }

    pub fn spread(&self) -> Spread {
        let all: u64 = self.counts.iter().sum();
        let at = |p: f64| {
            let wanted = (all as f64 * p).ceil() as u64;
            let mut below = 0;
            let bucket = self.counts.iter().position(|n| {
                below += n;
                below >= wanted
            });
            let upper = bucket.map_or(0.0, |b| ((b + 1) as f64 / STEPS).exp2() / 1e6);
            upper.min(self.max * 1e3)
        };
        Spread { p50: at(0.5), p99: at(0.99), max: self.max * 1e3 }
    }
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

    /// Waits until the next is due, and says from when its time counts: of a late one from when it was due, as whoever
    /// wanted it has waited since then.
    pub fn wait(&mut self) -> Instant {
        let due = self.next;
        self.next += self.every;
        match due.checked_duration_since(Instant::now()) {
            Some(d) => {
                sleep(d);
                Instant::now()
            }
            None => due,
        }
    }
}

pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|t| t.parse().ok()).unwrap_or(0.0)
}

pub fn free_port() -> Result<u16> {
    mew_tests::ports::free_port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_says_what_the_times_themselves_say() {
        let times: Vec<f64> = (1..=10_000).map(|i| f64::from(i) * 1e-6).collect();
        let mut h = Histogram::default();
        times.iter().for_each(|t| h.add(*t));
        let (counted, exact) = (h.spread(), spread(times));
        for (a, b) in [(counted.p50, exact.p50), (counted.p99, exact.p99)] {
            assert!((1.0..1.06).contains(&(a / b)), "{counted:?} is not {exact:?}");
        }
        assert_eq!(counted.max, exact.max);
        assert_eq!(Histogram::default().spread().p99, 0.0);
    }
}
