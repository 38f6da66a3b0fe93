//! Durable transactions by many clients at once: a kernel in this process, and the peer over its socket. Each transaction
//! updates some rows of the client's own, found by a unique value; edges stay what they are.

use crate::embedded::{self, Indexes, now_ms, updates};
use crate::ours::UPDATE;
use crate::postgres::Postgres;
use crate::race::{Figures, Runner, Writer, distinct};
use crate::rows::Rng;
use anyhow::{Context, Result, anyhow, ensure};
use mew_kernel::{Kernel, Table};
use std::any::Any;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const CLIENTS: [u64; 3] = [1, 16, 64];
const SIZES: [u64; 4] = [1, 10, 100, 1000];
/// Updates that a client makes before and then repeats.
const PREPARED: i64 = 8;

type NewWriter<'a> = &'a dyn Fn() -> Result<Box<dyn Writer + 'a>>;

fn measure(writer: NewWriter<'_>, entities: u64, seconds: u64, say: &dyn Fn(&str)) -> Result<Figures> {
    let mut f = Figures::new();
    for clients in CLIENTS {
        for size in SIZES {
            say(&format!("{clients} clients, transactions of {size}"));
            let rate = rate(writer, entities, clients, size, seconds)?;
            f.insert(format!("{clients:>2} clients, transactions of {size:>4}: changes/s"), rate);
        }
    }
    Ok(f)
}

/// Changes a second of all clients together.
fn rate(writer: NewWriter<'_>, entities: u64, clients: u64, size: u64, seconds: u64) -> Result<f64> {
    // Nobody waits for another's rows.
    let own = entities / clients;
    ensure!(size < own, "{entities} entities are too few for {clients} clients with {size} each");
    let (begin, stop, done) = (Barrier::new(clients as usize + 1), AtomicBool::new(false), AtomicU64::new(0));
    let run = |mut w: Box<dyn Writer + '_>, updates: Vec<Box<dyn Any + Send>>| -> Result<()> {
        begin.wait();
        for u in updates.iter().cycle() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            w.write(&**u)?;
            done.fetch_add(size, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|s| {
        let mut all = Vec::new();
        for k in 0..clients {
            let (w, mut rng) = (writer()?, Rng(k));
            let ids =
                |rng: &mut Rng| distinct(rng, size as usize, own).into_iter().map(|i| k * own + i).collect::<Vec<_>>();
            let updates: Vec<_> = (1..=PREPARED).map(|version| w.prepare(&ids(&mut rng), version)).collect();
            let run = &run;
            all.push(s.spawn(move || run(w, updates)));
        }
        begin.wait();
        let start = Instant::now();
        thread::sleep(Duration::from_secs(seconds));
        let rate = done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        for t in all {
            t.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        Ok(rate)
    })
}

pub fn ours(dir: &Path, entities: u64, seconds: u64, say: &dyn Fn(&str)) -> Result<Figures> {
    let (store, _) = embedded::open(&dir.join("data"), Indexes::BOTH)?;
    let k = Kernel::new(store);
    say("loading");
    embedded::load(&k, 0..entities)?;
    measure(&|| Ok(Box::new(InProcess(&k))), entities, seconds, say)
}

pub fn theirs(bin: &Path, dir: &Path, entities: u64, seconds: u64, say: &dyn Fn(&str)) -> Result<Figures> {
    let mut p = Postgres::start(bin, dir)?;
    say("loading");
    p.load(entities)?;
    measure(&|| p.updater(), entities, seconds, say)
}

struct InProcess<'k>(&'k Kernel);

impl Writer for InProcess<'_> {
    fn prepare(&self, ids: &[u64], version: i64) -> Box<dyn Any + Send> {
        Box::new(updates(ids, version))
    }

    fn write(&mut self, update: &(dyn Any + Send)) -> Result<()> {
        let t: &Table = update.downcast_ref().context("not this writer's update")?;
        let n = self.0.execute_table(now_ms(), UPDATE, t.clone())?.summary.set;
        ensure!(n as usize == t.rows.len(), "{n} rows were updated, not {}", t.rows.len());
        Ok(())
    }
}
