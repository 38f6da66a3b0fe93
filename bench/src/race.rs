//! The phases of the race, the same for every runner.

use crate::measure::{Pacer, Spread, elapsed_until, spread};
use crate::rows::{Rng, changes, is_shared, matching};
use anyhow::{Result, ensure};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks whether the initial copy is complete: each takes a little of the machine.
const LOOK: Duration = Duration::from_millis(2);

/// What is measured, by name; the unit is in the name.
pub type Figures = BTreeMap<String, f64>;

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Plan {
    pub entities: u64,
    pub steady_seconds: u64,
    pub lag_seconds: u64,
    pub catch_up: u64,
    /// Of each phase of the parts that have no peer.
    pub seconds: u64,
}

/// A source, a sink, and the replication between them. Both keep running between the calls.
pub trait Runner {
    /// Fills the source with [`crate::rows::task`] 0 to `n`, all projects and the edges; nothing is replicated yet.
    fn load(&mut self, n: u64) -> Result<()>;
    /// Declares the replication of projects, of shared tasks and of their edges; returns at once.
    fn declare(&mut self) -> Result<()>;
    /// Something that tells whether the initial copy is complete and durable at the sink, on a connection of its own.
    fn copying(&self) -> Result<Looking>;
    /// How many projects, tasks and edges the sink has.
    fn copied(&self) -> Result<u64>;
    /// Something that changes rows at the source and returns when the change is durable, usable from another thread.
    fn writer(&self) -> Result<Box<dyn Writer>>;
    /// Something that looks at the sink.
    fn reader(&self) -> Result<Box<dyn Reader>>;
    fn stop_sink(&mut self) -> Result<()>;
    /// Starts it; returns when the process is there, not when it answers.
    fn start_sink(&mut self) -> Result<()>;
    /// CPU seconds of (source, sink) so far.
    fn cpu(&self) -> Result<(f64, f64)>;
    /// Memory of (source, sink) in MB.
    fn memory(&self) -> Result<(f64, f64)>;
    /// Whether both sides hold the same projects, shared tasks and edges of these, compared attribute by attribute.
    fn same(&mut self) -> Result<bool>;
}

/// Whether something is so by now.
pub type Looking = Box<dyn FnMut() -> Result<bool>>;

/// An update of these rows to this version in one transaction, prepared so that its making is not measured. A row that
/// belongs to a project moves to that of the version: its edge goes, and another one comes.
pub trait Writer: Send {
    fn prepare(&self, ids: &[u64], version: i64) -> Box<dyn std::any::Any + Send>;
    fn write(&mut self, update: &(dyn std::any::Any + Send)) -> Result<()>;
}

pub trait Reader: Send {
    /// The version of a row at the sink, if it is there; of one that belongs to a project only if its edge leads to that of
    /// the version.
    fn version(&mut self, id: u64) -> Result<Option<i64>>;
}

pub fn run(r: &mut dyn Runner, p: &Plan, say: &dyn Fn(&str)) -> Result<Figures> {
    let mut f = Figures::new();
    say("loading");
    r.load(p.entities)?;
    say("initial copy");
    copy(r, p, &mut f)?;
    let mut version = 1;
    for size in [100, 1000] {
        if p.steady_seconds > 0 {
            say(&format!("steady, commits of {size}"));
            version = steady(r, p, size, version, &mut f)?;
        }
    }
    for (rate, per_commit) in [(100, 1), (1000, 1), (10_000, 10)] {
        if p.lag_seconds > 0 {
            say(&format!("lag at {rate} changes a second"));
            version = lag(r, p, rate, per_commit, version, &mut f)?;
        }
    }
    if p.catch_up > 0 {
        say("catch-up");
        catch_up(r, p, version, &mut f)?;
    }
    say("comparing both sides");
    ensure!(r.same()?, "the two sides differ");
    Ok(f)
}

fn per_million(seconds: (f64, f64), rows: f64) -> f64 {
    (seconds.0 + seconds.1) / rows * 1e6
}

fn copy(r: &mut dyn Runner, p: &Plan, f: &mut Figures) -> Result<()> {
    let mut is_complete = r.copying()?;
    let (before, start) = (r.cpu()?, Instant::now());
    r.declare()?;
    let t = elapsed_until(start, "the initial copy", || {
        thread::sleep(LOOK);
        is_complete()
    })?;
    let (after, memory) = (r.cpu()?, r.memory()?);
    // Counted when nothing is measured any more: it reads all there is.
    let (rows, expected) = (r.copied()?, matching(p.entities));
    ensure!(rows == expected, "{rows} rows were copied, not {expected}");
    f.insert("copy rows/s".into(), rows as f64 / t);
    f.insert("copy s".into(), t);
    f.insert("copy CPU s per 1M".into(), per_million((after.0 - before.0, after.1 - before.1), rows as f64));
    f.insert("memory of the source after the copy MB".into(), memory.0);
    f.insert("memory of the sink after the copy MB".into(), memory.1);
    Ok(())
}

/// A row that is shared, belongs to no project and is last of all, to see that everything before it has arrived.
pub fn sentinel(w: &mut dyn Writer, version: i64) -> Result<()> {
    let u = w.prepare(&[0], version);
    w.write(&*u)
}

fn steady(r: &mut dyn Runner, p: &Plan, size: usize, first: i64, f: &mut Figures) -> Result<i64> {
    let (mut w, mut reader) = (r.writer()?, r.reader()?);
    let mut rng = Rng(size as u64);
    // Made before, reused in turn: making them would take as long as writing them.
    let pool: Vec<(Box<dyn std::any::Any + Send>, u64, u64)> = (0..(40_000 / size as u64).max(1))
        .map(|k| {
            let ids = distinct(&mut rng, size, p.entities);
            (w.prepare(&ids, first + k as i64), changes(ids.iter().copied()), matched_changes(&ids))
        })
        .collect();
    let (before, start) = (r.cpu()?, Instant::now());
    let (mut published, mut matched, mut k) = (0u64, 0u64, 0usize);
    while start.elapsed() < Duration::from_secs(p.steady_seconds) {
        let (u, all, hits) = &pool[k % pool.len()];
        w.write(&**u)?;
        (published, matched, k) = (published + all, matched + hits, k + 1);
    }
    let wrote = start.elapsed().as_secs_f64();
    let last = first + pool.len() as i64 + 1;
    sentinel(&mut *w, last)?;
    let t = elapsed_until(start, "the steady phase", || Ok(reader.version(0)? == Some(last)))?;
    let after = r.cpu()?;
    f.insert(format!("steady {size}: matched rows/s"), matched as f64 / t);
    f.insert(format!("steady {size}: published changes/s"), published as f64 / wrote);
    f.insert(
        format!("steady {size}: CPU s per 1M"),
        per_million((after.0 - before.0, after.1 - before.1), matched as f64),
    );
    Ok(last + 1)
}

/// Of what an update of these rows changes, what the sink gets.
fn matched_changes(ids: &[u64]) -> u64 {
    changes(ids.iter().copied().filter(|i| is_shared(*i)))
}

pub fn distinct(rng: &mut Rng, n: usize, of: u64) -> Vec<u64> {
    let mut all = std::collections::BTreeSet::new();
    while all.len() < n {
        all.insert(1 + rng.below(of - 1));
    }
    all.into_iter().collect()
}

/// Commits at a rate, which is of rows: edges that move come on top. The last row of some of them is looked for at the sink
/// until it is there.
fn lag(r: &mut dyn Runner, p: &Plan, rate: u64, per_commit: u64, first: i64, f: &mut Figures) -> Result<i64> {
    /// Looking for more than this many a second would be what is measured.
    const LOOKS: u64 = 100;
    let (mut w, mut reader) = (r.writer()?, r.reader()?);
    let commits = rate / per_commit * p.lag_seconds;
    let every = (rate / per_commit / LOOKS).max(1);
    let mut rng = Rng(first as u64);
    let updates: Vec<(u64, Box<dyn std::any::Any + Send>)> = (0..commits)
        .map(|k| {
            let ids: Vec<u64> = distinct(&mut rng, per_commit as usize, p.entities / 2).iter().map(|i| 2 * i).collect();
            (ids[ids.len() - 1], w.prepare(&ids, first + k as i64))
        })
        .collect();
    let (tx, rx) = channel::<(u64, i64, Instant)>();
    let writer = thread::spawn(move || -> Result<f64> {
        let mut pace = Pacer::new((rate / per_commit) as f64);
        let start = Instant::now();
        for (k, (id, u)) in updates.iter().enumerate() {
            pace.wait();
            w.write(&**u)?;
            if (k as u64).is_multiple_of(every) {
                tx.send((*id, first + k as i64, Instant::now()))?;
            }
        }
        Ok(start.elapsed().as_secs_f64())
    });
    let mut lags = Vec::new();
    for (id, version, durable) in rx {
        lags.push(elapsed_until(durable, "a change", || Ok(reader.version(id)?.is_some_and(|v| v >= version)))?);
    }
    let took = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    let s: Spread = spread(lags);
    f.insert(format!("lag at {rate}/s: p50 ms"), s.p50);
    f.insert(format!("lag at {rate}/s: p99 ms"), s.p99);
    f.insert(format!("lag at {rate}/s: achieved changes/s"), (commits * per_commit) as f64 / took);
    Ok(first + commits as i64)
}

fn catch_up(r: &mut dyn Runner, p: &Plan, first: i64, f: &mut Figures) -> Result<()> {
    let mut w = r.writer()?;
    r.stop_sink()?;
    let mut rng = Rng(9);
    let mut matched = 0;
    let commits = p.catch_up / 100;
    for k in 0..commits {
        let ids = distinct(&mut rng, 100, p.entities);
        matched += matched_changes(&ids);
        let u = w.prepare(&ids, first + k as i64);
        w.write(&*u)?;
    }
    let last = first + commits as i64;
    sentinel(&mut *w, last)?;
    let before = r.cpu()?.0;
    let start = Instant::now();
    r.start_sink()?;
    let mut reader = None;
    let t = elapsed_until(start, "the catch-up", || {
        if reader.is_none() {
            reader = r.reader().ok();
        }
        // It does not answer before its data is open.
        match reader.as_mut().map(|x| x.version(0)) {
            Some(Ok(v)) => return Ok(v == Some(last)),
            Some(Err(_)) => reader = None,
            None => {}
        }
        Ok(false)
    })?;
    let after = r.cpu()?;
    f.insert("catch-up: matched changes/s".into(), matched as f64 / t);
    f.insert("catch-up: s".into(), t);
    f.insert("catch-up: CPU s per 1M".into(), per_million((after.0 - before, after.1), matched as f64));
    Ok(())
}
