use super::{Case, mending};
use crate::breaks;
use crate::pair::{POLICY, Pair, Written};
use crate::steps::say;
use crate::watch::Watch;
use crate::world::World;
use anyhow::{Result, ensure};
use mew_tests::kstatus::condition;
use std::time::Instant;

pub const CASE: Case = Case {
    name: "revoked",
    core: true,
    proves: "a blocked peer is cut off from an open connection, and both sides say so; unblocked, all arrives",
    run,
};

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let (east, west) = (w.east_said()?, w.west_said()?);
    let written = mending(
        || {
            breaks::block(&p)?;
            is_cut_off(&p, east, west)
        },
        || breaks::unblock(&p),
    )?;
    p.arrives_west(&written.0)?;
    p.arrives_east(&written.1)?;
    p.all_ready()?;
    p.same()
}

/// What was written meanwhile, in the east and in the west.
fn is_cut_off(p: &Pair, east: &Watch, west: &Watch) -> Result<(Written, Written)> {
    let began = Instant::now();
    let r = p.west.shows("remote", p.west.peer, "False", "PolicyDenied")?;
    let ready = condition(&r, "Ready").and_then(|c| c["message"].as_str()).unwrap_or_default();
    ensure!(ready.contains(POLICY), "the policy is not named: {ready}");
    // It breaks first; then the peer lets nobody in.
    let r = p.east.shows("remote", p.east.peer, "False", "TLSRefusedByPeer")?;
    say(&format!("cut off after {:.1} s", began.elapsed().as_secs_f32()));
    let message = condition(&r, "Ready").and_then(|c| c["message"].as_str()).unwrap_or_default();
    ensure!(!message.contains(POLICY), "the peer's policy leaks: {message}");
    let written = (p.write_east()?.seen_by(east), p.write_west()?.seen_by(west));
    for s in [&p.east, &p.west] {
        for name in s.syncs {
            s.wait("sync", name, "is not ready", |o| condition(o, "Ready").is_some_and(|c| c["status"] == "False"))?;
        }
    }
    ensure!(!written.0.is_at(&p.west)? && !written.1.is_at(&p.east)?, "data passes a block");
    east.verdict(&[written.0.is_missing(east)])?;
    west.verdict(&[written.1.is_missing(west)])?;
    Ok(written)
}
