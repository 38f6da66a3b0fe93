use super::{Case, mending};
use crate::cut;
use crate::late;
use crate::pair::{Pair, Written};
use crate::steps::say;
use crate::watch::Watch;
use crate::world::World;
use anyhow::{Context, Result, ensure};
use mew_tests::kstatus::condition;
use std::time::{Duration, Instant};

pub const CASE: Case = Case {
    name: "network-cut",
    core: false,
    proves: "packets between the clusters are dropped: both sides say Unreachable in time; healed, all arrives by itself",
    run,
};

/// The peer must have been silent for 5 s and have missed two pings of 2 s each; the rest is for a machine that is busy.
const NOTICED: Duration = Duration::from_secs(30);

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let (east, west) = (w.east_said()?, w.west_said()?);
    let (airport, inspection) = mending(
        || {
            let began = Instant::now();
            cut::between(&w.east, &w.west)?;
            let cut_off = is_noticed(&p, east, west, began);
            // Before it is mended, for whoever asks why it was not noticed.
            cut_off.with_context(|| cut::counters(&w.east).unwrap_or_else(|e| format!("{e:#}")))
        },
        || cut::heal(&w.east),
    )?;
    let healed = Instant::now();
    late::arrives(east, &airport, &p.west)?;
    late::arrives(west, &inspection, &p.east)?;
    p.all_ready()?;
    say(&format!("ready again {:.1} s after the cut was healed", healed.elapsed().as_secs_f32()));
    p.same()
}

/// What was written meanwhile, in the east and in the west.
fn is_noticed(p: &Pair, east: &Watch, west: &Watch, began: Instant) -> Result<(Written, Written)> {
    let written = (p.write_east()?.seen_by(east), p.write_west()?.seen_by(west));
    for s in p.sides() {
        let remote = s.shows("remote", s.peer, "False", "Unreachable")?;
        let message = condition(&remote, "Ready").and_then(|c| c["message"].as_str()).unwrap_or_default();
        ensure!(!message.is_empty(), "{}: it is not said what is unreachable", s.cluster.name);
        for name in s.syncs {
            s.shows("sync", name, "False", "Unreachable")?;
        }
    }
    let after = began.elapsed();
    say(&format!("all say so {:.1} s after the cut", after.as_secs_f32()));
    ensure!(after < NOTICED, "noticed only after {:.1} s", after.as_secs_f32());
    late::stays_away(east, &written.0, &p.west)?;
    late::stays_away(west, &written.1, &p.east)?;
    Ok(written)
}
