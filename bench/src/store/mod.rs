//! The store by itself, at any number of entities: memory, opening after kill -9, disk, checkpoints, compaction, and local
//! commits beside them. Everything that is killed, or whose memory counts, is a process of its own.

mod commits;
mod flows;
pub mod jobs;
pub mod upkeep;

use crate::embedded::Indexes;
use crate::race::Figures;
use crate::worker::{Job, Work, Worker, done};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// With fewer, no segment is ever closed.
const LEAST: u64 = 200_000;
/// Changes behind the checkpoint when the process is killed: a few segments, as many as upkeep lets come together.
const TAIL: u64 = 500_000;

pub fn run(dir: &Path, entities: u64, seconds: u64, say: &dyn Fn(&str)) -> Result<Figures> {
    ensure!(entities >= LEAST, "{entities} entities fill no segment; at least {LEAST} are needed");
    let mut f = Figures::new();
    let work = Work { data: dir.join("data"), entities, seconds, job: Job::Upkeep };
    say("loading, and changing until it is killed");
    killed(&work.with(Job::Load { tail: TAIL }), dir, &mut f)?;
    say("opening without a checkpoint; checkpoints, compaction, and commits beside them");
    f.extend(done(&work, dir)?);
    say("changing from a checkpoint on until it is killed");
    killed(&work.with(Job::Change { tail: TAIL }), dir, &mut f)?;
    say("opening from a checkpoint, with a long tail and with a short one");
    let long = done(&work.with(Job::Open), dir)?;
    done(&work.with(Job::Checkpoint { indexes: Indexes::BOTH }), dir)?;
    let short = done(&work.with(Job::Open), dir)?;
    opened(&long, &short, &mut f)?;
    say("memory of each index and of two flows");
    memory(&work, dir, &mut f)?;
    Ok(f)
}

/// Lets a worker load or change, and kills it while it goes on.
fn killed(work: &Work, dir: &Path, f: &mut Figures) -> Result<()> {
    let mut w = Worker::start(work, dir)?;
    f.extend(w.answer()?);
    w.answer()?;
    w.kill();
    Ok(())
}

fn get(of: &Figures, name: &str) -> Result<f64> {
    of.get(name).copied().with_context(|| format!("the worker did not say {name:?}"))
}

/// Two openings that differ in what they replay tell what a replayed record costs, and what is left without any.
fn opened(long: &Figures, short: &Figures, f: &mut Figures) -> Result<()> {
    for (how, from) in [("checkpoint and a long tail", long), ("checkpoint and a short tail", short)] {
        f.insert(format!("open after kill -9, {how}: s"), get(from, "s")?);
        f.insert(format!("open after kill -9, {how}: records replayed"), get(from, "records")?);
    }
    let more = get(long, "records")? - get(short, "records")?;
    ensure!(more > 0.0, "both openings replay as much");
    // Noise may make the shorter one take longer; then the tail costs nothing that can be seen.
    let each = ((get(long, "s")? - get(short, "s")?) / more).max(0.0);
    f.insert("open after kill -9, the tail: s per 1M records".into(), each * 1e6);
    f.insert("open after kill -9, the tail taken off: s".into(), get(short, "s")? - each * get(short, "records")?);
    Ok(())
}

/// Of processes that open from a checkpoint and do nothing else, so that nothing but derived state is in them.
fn memory(work: &Work, dir: &Path, f: &mut Figures) -> Result<()> {
    let with = |indexes: Indexes, flows: bool| {
        done(&work.with(Job::Checkpoint { indexes }), dir)?;
        done(&work.with(Job::Memory { indexes, flows }), dir)
    };
    let both = with(Indexes::BOTH, true)?;
    let unique = get(&with(Indexes::UNIQUE, false)?, "bytes per entity")?;
    let none = get(&with(Indexes::NONE, false)?, "bytes per entity")?;
    let (all, flows) = (get(&both, "bytes per entity")?, get(&both, "flows: bytes per entity")?);
    for (what, bytes) in [
        ("without indexes", none),
        ("the unique attribute", unique - none),
        ("the indexed attribute", all - unique),
        ("two flows", flows),
        ("opened, two flows", all + flows),
    ] {
        f.insert(format!("derived state, {what}: bytes per entity"), bytes);
    }
    f.insert("opened, two flows: resident MB".into(), get(&both, "resident MB")?);
    Ok(())
}
