//! Local writes at a fixed rate, by what becomes of the peer that they flow to: nothing may hold them up. Two agents over
//! mutual TLS; the clients write to the source, whose rows all match.

use crate::measure::{Pacer, elapsed_until, spread};
use crate::ours::Ours;
use crate::race::{Figures, Runner, Writer, distinct, sentinel};
use crate::rows::Rng;
use anyhow::{Context, Result, anyhow, ensure};
use mew_tests::process::Process;
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Rows of a commit, and commits a second: well below what the source can, so that only a hindrance shows.
const CLIENTS: [(usize, f64); 2] = [(1, 500.0), (100, 20.0)];
/// A slow peer runs for so long, then stands still for so long: it reads a tenth of what it could.
const RUNS: Duration = Duration::from_millis(20);
const STANDS: Duration = Duration::from_millis(180);
/// Rows of a commit of those that the peer will have to catch up with.
const BULK: usize = 1000;
/// Between two looks whether the peer has everything: each takes a little of the machine.
const LOOK: Duration = Duration::from_millis(20);
/// What all other phases are compared with.
const ALONE: &str = "no flow";

pub fn run(dir: &Path, entities: u64, seconds: u64, say: &dyn Fn(&str)) -> Result<Figures> {
    let mut o = Ours::start(dir)?;
    say("loading");
    o.load(entities)?;
    let mut p = Peers { o, entities, seconds, version: AtomicI64::new(1), f: Figures::new() };
    say(ALONE);
    p.phase(ALONE)?;
    say("the initial copy");
    let mut is_complete = p.o.copying()?;
    p.o.declare()?;
    elapsed_until(Instant::now(), "the initial copy", || {
        thread::sleep(LOOK);
        is_complete()
    })?;
    say("live peer");
    p.phase("live peer")?;
    p.level()?;
    say("slow peer");
    p.slow()?;
    p.level()?;
    say("stopped peer");
    let stopped = Stopped::new(p.o.sink.agent.as_ref())?;
    p.phase("stopped peer")?;
    drop(stopped);
    p.level()?;
    say("dead peer");
    p.o.sink.kill_agent();
    p.phase("dead peer")?;
    say("peer catching up");
    p.catching_up()?;
    say("comparing both sides");
    ensure!(p.o.same()?, "the two sides differ");
    Ok(p.f)
}

struct Peers {
    o: Ours,
    entities: u64,
    seconds: u64,
    /// Of the next write.
    version: AtomicI64,
    f: Figures,
}

/// A process that stands still until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(p: Option<&Process>) -> Result<Self> {
        let pid = pid(p)?;
        kill_process(pid, Signal::STOP)?;
        Ok(Stopped(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It is gone, or it goes on: there is nothing else to do about it.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

fn pid(p: Option<&Process>) -> Result<Pid> {
    let id = p.context("the peer does not run")?.pid();
    i32::try_from(id).ok().and_then(Pid::from_raw).context("no process has this id")
}

impl Peers {
    fn phase(&mut self, when: &str) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let stop = AtomicBool::new(false);
        let writes = self.writes(&stop, || {
            thread::sleep(end.saturating_duration_since(Instant::now()));
            Ok(())
        })?;
        self.insert(when, writes);
        Ok(())
    }

    fn slow(&mut self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let stop = AtomicBool::new(false);
        let writes = self.writes(&stop, || {
            while Instant::now() < end {
                let stopped = Stopped::new(self.o.sink.agent.as_ref())?;
                thread::sleep(STANDS);
                drop(stopped);
                thread::sleep(RUNS);
            }
            Ok(())
        })?;
        self.insert("slow peer", writes);
        Ok(())
    }

    /// The peer starts with as many changes to come as there are rows; the phase ends when it has them.
    fn catching_up(&mut self) -> Result<()> {
        let mut w = self.o.writer()?;
        let mut rng = Rng(77);
        for _ in 0..self.entities / BULK as u64 {
            let ids = self.matching(&mut rng, BULK);
            let u = w.prepare(&ids, self.next());
            w.write(&*u)?;
        }
        let last = self.next();
        sentinel(&mut *w, last)?;
        self.o.start_sink()?;
        let stop = AtomicBool::new(false);
        let start = Instant::now();
        let writes = self.writes(&stop, || self.arrived(last))?;
        self.f.insert("peer catching up: s".into(), start.elapsed().as_secs_f64());
        self.insert("peer catching up", writes);
        self.level()
    }

    fn next(&self) -> i64 {
        self.version.fetch_add(1, Ordering::Relaxed)
    }

    /// Rows that the flow carries.
    fn matching(&self, rng: &mut Rng, n: usize) -> Vec<u64> {
        distinct(rng, n, self.entities / 2).into_iter().map(|i| 2 * i).collect()
    }

    /// Waits until the peer has everything.
    fn level(&self) -> Result<()> {
        let last = self.next();
        sentinel(&mut *self.o.writer()?, last)?;
        self.arrived(last)
    }

    fn arrived(&self, last: i64) -> Result<()> {
        let mut reader = None;
        elapsed_until(Instant::now(), "the peer", || {
            thread::sleep(LOOK);
            if reader.is_none() {
                reader = self.o.reader().ok();
            }
            // It may just be starting.
            Ok(reader.as_mut().is_some_and(|r| r.version(0).is_ok_and(|v| v == Some(last))))
        })
        .map(|_| ())
    }

    /// Seconds of each write of each client, while `work` goes on.
    fn writes(&self, stop: &AtomicBool, work: impl FnOnce() -> Result<()>) -> Result<Vec<Vec<f64>>> {
        let writers = CLIENTS.iter().map(|_| self.o.writer()).collect::<Result<Vec<_>>>()?;
        let (version, entities) = (&self.version, self.entities);
        thread::scope(|s| {
            let clients: Vec<_> = CLIENTS
                .iter()
                .zip(writers)
                .map(|(&(size, rate), w)| s.spawn(move || client(w, size, rate, entities, version, stop)))
                .collect();
            let done = work();
            stop.store(true, Ordering::Relaxed);
            let join = |c: thread::ScopedJoinHandle<'_, Result<Vec<f64>>>| {
                c.join().map_err(|_| anyhow!("a client panicked"))?
            };
            let all = clients.into_iter().map(join).collect::<Result<Vec<_>>>()?;
            done.map(|()| all)
        })
    }

    fn insert(&mut self, when: &str, writes: Vec<Vec<f64>>) {
        for ((size, _), seconds) in CLIENTS.iter().zip(writes) {
            let samples = seconds.len() as f64;
            let s = spread(seconds);
            let name = format!("writes of {size}, {when}");
            self.f.insert(format!("{name}: samples"), samples);
            for (what, ms) in [("p50", s.p50), ("p99", s.p99), ("max", s.max)] {
                self.f.insert(format!("{name}: {what} ms"), ms);
                let alone = self.f.get(&format!("writes of {size}, {ALONE}: {what} ms")).copied();
                if let Some(by) = alone.filter(|by| *by > 0.0 && when != ALONE) {
                    self.f.insert(format!("{name}: {what} by {ALONE}"), ms / by);
                }
            }
        }
    }
}

/// Writes at a rate, and says how long each took from when it was due. What is written is made beforehand.
fn client(
    mut w: Box<dyn Writer>,
    size: usize,
    rate: f64,
    entities: u64,
    version: &AtomicI64,
    stop: &AtomicBool,
) -> Result<Vec<f64>> {
    let (mut rng, mut pace, mut all) = (Rng(size as u64), Pacer::new(rate), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let ids: Vec<u64> = distinct(&mut rng, size, entities / 2).into_iter().map(|i| 2 * i).collect();
        let u = w.prepare(&ids, version.fetch_add(1, Ordering::Relaxed));
        let due = pace.wait();
        w.write(&*u)?;
        all.push(due.elapsed().as_secs_f64());
    }
    Ok(all)
}
