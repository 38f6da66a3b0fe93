//! Durable transactions by many clients at once: a kernel in this process, and the peer over its socket. Each transaction
//! updates some rows of the client's own, found by a unique value.

use crate::ours::{CHANGING, ONTOLOGY, SPAWN, UPDATE};
use crate::postgres::Postgres;
use crate::race::{Figures, Runner, Writer, distinct};
use crate::rows::{Rng, Task, task};
use anyhow::{Context, Result, anyhow, ensure};
use mew_kernel::{Kernel, Table};
use mew_model::Value;
use mew_store::{DirDisk, Options, Store};
use std::any::Any;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

const CLIENTS: [u64; 3] = [1, 16, 64];
const SIZES: [u64; 4] = [1, 10, 100, 1000];
/// Rows of one transaction while loading.
const LOAD: u64 = 2000;
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
    let ontology = mew_lang::parse_ontology(ONTOLOGY).map_err(|d| anyhow!("{d:?}"))?;
    let options = Options { kernel_id: "bench.k".into(), new_incarnation: "i".into(), segment_bytes: 64 << 20 };
    let (store, _) = Store::open(Arc::new(DirDisk::new(dir.join("data"))?), ontology.into(), options)?;
    let k = Kernel::new(store);
    say("loading");
    for first in (0..entities).step_by(LOAD as usize) {
        let row = |i: u64| {
            let t = task(i, 0);
            [text(&t.id), text(&t.code), Value::Bool(t.shared)].into_iter().chain(changing(&t)).collect()
        };
        let rows = (first..entities.min(first + LOAD)).map(row).collect();
        k.execute_table(now_ms(), SPAWN, Table { names: names(&["id", "code", "shared"]), rows })?;
    }
    measure(&|| Ok(Box::new(InProcess(&k))), entities, seconds, say)
}

pub fn theirs(bin: &Path, dir: &Path, entities: u64, seconds: u64, say: &dyn Fn(&str)) -> Result<Figures> {
    let mut p = Postgres::start(bin, dir)?;
    say("loading");
    p.load(entities)?;
    measure(&|| p.writer(), entities, seconds, say)
}

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

fn names(first: &[&str]) -> Vec<String> {
    first.iter().chain(&CHANGING).map(|n| (*n).to_owned()).collect()
}

fn text(s: &str) -> Value {
    Value::String(s.to_owned())
}

fn changing(t: &Task) -> [Value; 8] {
    [
        text(&t.title),
        text(t.status),
        Value::Int(t.priority),
        text(&t.assignee),
        Value::Int(t.due),
        Value::Float(t.estimate),
        Value::Int(t.version),
        text(&t.note),
    ]
}

struct InProcess<'k>(&'k Kernel);

impl Writer for InProcess<'_> {
    fn prepare(&self, ids: &[u64], version: i64) -> Box<dyn Any + Send> {
        let row = |i: &u64| {
            let t = task(*i, version);
            [text(&t.code)].into_iter().chain(changing(&t)).collect()
        };
        Box::new(Table { names: names(&["code"]), rows: ids.iter().map(row).collect() })
    }

    fn write(&mut self, update: &(dyn Any + Send)) -> Result<()> {
        let t: &Table = update.downcast_ref().context("not this writer's update")?;
        let n = self.0.execute_table(now_ms(), UPDATE, t.clone())?.summary.set;
        ensure!(n as usize == t.rows.len(), "{n} rows were updated, not {}", t.rows.len());
        Ok(())
    }
}
