//! A kernel that is changed for as long as one likes, with upkeep as an agent does it: whether memory, disk and commits
//! stay what they are, and whether what is left after kill -9 is whole.

pub mod job;

use crate::embedded::SEGMENT_BYTES;
use crate::measure::{disk_bytes, peak_mb, resident_mb};
use crate::race::Figures;
use crate::worker::{Job, Work, Worker, done};
use anyhow::{Context, Result, ensure};
use mew_tests::process::{mew, run as run_to_its_end};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const MB: f64 = (1 << 20) as f64;
/// For every byte of some GiB to be read.
const CHECK: Duration = Duration::from_secs(1800);
/// What derived state is read from first.
const CHECKPOINT: &str = "checkpoint";

struct Sample {
    resident_mb: f64,
    disk: u64,
}

pub fn run(dir: &Path, entities: u64, seconds: u64, say: &dyn Fn(&str)) -> Result<Figures> {
    let work = Work { data: dir.join("data"), entities, seconds, job: Job::Soak };
    let mut f = Figures::new();
    say("loading");
    let mut worker = Worker::start(&work, dir)?;
    let live = get(&worker.answer()?, "live bytes")?;
    say(&format!("changing for {seconds} s"));
    let (start, mut samples, mut last) = (Instant::now(), Vec::new(), Figures::new());
    while samples.is_empty() || start.elapsed() < Duration::from_secs(seconds) {
        last = worker.answer()?;
        samples.push(Sample { resident_mb: resident_mb(worker.pid())?, disk: disk_bytes(&work.log())? });
    }
    let t = start.elapsed().as_secs_f64();
    f.insert("most resident MB".into(), peak_mb(worker.pid())?);
    worker.kill();
    f.insert("changes/s".into(), get(&last, "changes")? / t);
    for name in ["commits: p50 ms", "commits: p99 ms", "commits: max ms", "checkpoints", "segments rewritten"] {
        f.insert(name.into(), get(&last, name)?);
    }
    trends(&samples, live, &mut f);
    say("opening after kill -9, and checking everything");
    checked(&work, dir, get(&last, "head")?, &mut f)?;
    Ok(f)
}

fn get(of: &Figures, name: &str) -> Result<f64> {
    of.get(name).copied().with_context(|| format!("the worker did not say {name:?}"))
}

fn trends(samples: &[Sample], live: f64, f: &mut Figures) {
    let quarter = samples.len().div_ceil(4);
    let mean = |of: &[Sample]| of.iter().map(|s| s.resident_mb).sum::<f64>() / of.len().max(1) as f64;
    let (first, last) = (mean(&samples[..quarter]), mean(&samples[samples.len() - quarter..]));
    f.insert("resident MB, mean of the first quarter".into(), first);
    f.insert("resident MB, mean of the last quarter".into(), last);
    f.insert("resident memory, last quarter by first".into(), last / first);
    let most = samples.iter().map(|s| s.disk).max().unwrap_or(0);
    f.insert("live data MB".into(), live / MB);
    f.insert("most disk MB".into(), most as f64 / MB);
    let rest = most.saturating_sub(SEGMENT_BYTES.into());
    f.insert("most disk less one segment, by live data".into(), rest as f64 / live);
}

/// The log is whole, has everything that was acknowledged, and means the same with and without its checkpoint.
fn checked(work: &Work, dir: &Path, acknowledged: f64, f: &mut Figures) -> Result<()> {
    let opened = done(&work.with(Job::Open), dir)?;
    let head = get(&opened, "head")?;
    ensure!(head >= acknowledged, "the log ends at {head}, and {acknowledged} was acknowledged");
    f.insert("open after kill -9: s".into(), get(&opened, "s")?);
    f.insert("open after kill -9: records replayed".into(), get(&opened, "records")?);
    let start = Instant::now();
    let mut c = Command::new(mew::<&str>([])?.get_program());
    c.args(["store", "check", "--data"]).arg(&work.data);
    let out = run_to_its_end(c, "", CHECK)?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "mew store check: {}", said.trim());
    f.insert("mew store check: s".into(), start.elapsed().as_secs_f64());
    let digest = || get(&done(&work.with(Job::Canonical), dir)?, "digest");
    let with = digest()?;
    if let Err(e) = fs::remove_file(work.log().join(CHECKPOINT))
        && e.kind() != ErrorKind::NotFound
    {
        return Err(e.into());
    }
    ensure!(with == digest()?, "derived state is not the same when it is rebuilt from the log alone");
    Ok(())
}
