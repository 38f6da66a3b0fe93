//! Power losses under a real store on a real ext4: whatever the disk makes of what was not flushed, the store opens, holds all
//! that was acknowledged and nothing that was never committed, is not damaged, and goes on. Two things are planted that must be
//! found out: a store that does not sync shows that the system's memory is lost, a file system that never flushes that the disk
//! forgets.
//!
//! Each run has a seed of its own, which it prints; `MEW_POWER_LOSS_SEED` takes one, `MEW_POWER_LOSS_ROUNDS` is the number of
//! losses. Where the system decides what is written when, a seed does not repeat a run to the letter.

#[path = "power_loss_device/rows.rs"]
mod rows;
#[path = "power_loss_device/writer.rs"]
mod writer;

use anyhow::{Context, Result, bail, ensure};
use mew_tests::dirs::scratch;
use mew_tests::power_loss::{Flushes, Loss, Machine, missing};
use mew_tests::process::progress;
use mew_tests::seed::{number, seed};
use mew_tests::sim::rng::Rng;
use std::env;
use std::process::Command;
use writer::{Job, Said};

/// The test that is also the writer's program.
const TEST: &str = "what_was_acknowledged_is_there_after_power_losses";
/// Set for the writer.
const JOB: &str = "MEW_POWER_LOSS_JOB";
/// About a quarter of a minute.
const ROUNDS: u64 = 24;
/// What is planted loses something with the first loss, unless all of it happened to be written or kept just then.
const PLANTED_LOSSES: u64 = 5;
/// Commits of a round at most, and writes and flushes of the disk after them: some commits' worth, and an upkeep's.
const COMMITS: u64 = 40;
const REQUESTS: u64 = 120;
/// Rounds in which the power goes while the store is opened, in percent, and after how many writes and flushes at most.
const OPENING: u64 = 20;
const OPENING_REQUESTS: u64 = 12;

/// When the power goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Opening,
    Writing,
    /// As soon as it is known what the store holds.
    Looked,
}

/// What is wrong on purpose.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// The store does not sync its files.
    Unsynced,
    /// The store does, and the file system does not tell the disk.
    Unflushed,
}

struct Rounds {
    rng: Rng,
    machine: Machine,
    job: Job,
    /// Of all losses.
    total: Loss,
}

#[test]
fn what_was_acknowledged_is_there_after_power_losses() -> Result<()> {
    if let Ok(job) = env::var(JOB) {
        return writer::run(&serde_json::from_str(&job)?);
    }
    let Some((mut r, seed)) = Rounds::ready("nothing_planted", Planted::Nothing)? else { return Ok(()) };
    let rounds = number("MEW_POWER_LOSS_ROUNDS")?.unwrap_or(ROUNDS);
    let what = format!("MEW_POWER_LOSS_SEED={seed} MEW_POWER_LOSS_ROUNDS={rounds}");
    progress(&format!("power losses: {what}"));
    for round in 0..rounds {
        let when = if r.rng.chance(OPENING) { When::Opening } else { When::Writing };
        if let Some(wrong) = r.round(when).with_context(|| format!("round {round}, {what}"))? {
            bail!("round {round}, {what}: {wrong}");
        }
    }
    if let Some(wrong) = r.round(When::Looked).with_context(|| format!("after all rounds, {what}"))? {
        bail!("after the last round, {what}: {wrong}");
    }
    let Loss { at_risk, lost } = r.total;
    progress(&format!("{} commits; {lost} of {at_risk} sectors were lost, {what}", r.job.acknowledged));
    ensure!(rounds < ROUNDS || lost > 0, "nothing was lost in {rounds} rounds: the disk forgets nothing, {what}");
    Ok(())
}

#[test]
fn a_store_that_does_not_sync_is_found_out() -> Result<()> {
    is_found_out("unsynced", Planted::Unsynced)
}

#[test]
fn a_file_system_that_does_not_flush_is_found_out() -> Result<()> {
    is_found_out("unflushed", Planted::Unflushed)
}

fn is_found_out(name: &str, planted: Planted) -> Result<()> {
    let Some((mut r, seed)) = Rounds::ready(name, planted)? else { return Ok(()) };
    let what = format!("{name}, MEW_POWER_LOSS_SEED={seed}");
    for losses in 0..=PLANTED_LOSSES {
        let wrong = match r.round(When::Writing) {
            Ok(None) => continue,
            Ok(Some(wrong)) => wrong,
            // What is left need not even be a file system.
            Err(e) if losses > 0 => format!("{e:#}"),
            Err(e) => return Err(e.context(what)),
        };
        ensure!(losses > 0, "{what}: before anything was lost: {wrong}");
        progress(&format!("{what}: found out after {losses}: {wrong}"));
        return Ok(());
    }
    bail!("{what}: {PLANTED_LOSSES} losses took nothing")
}

impl Rounds {
    /// Without power, and with its seed. `None` where there can be no such disk, which is said.
    fn ready(name: &str, planted: Planted) -> Result<Option<(Self, u64)>> {
        let dir = scratch(name)?;
        if let Some(why) = missing(&dir) {
            progress(&format!("power losses of a block device: not run here: {why}"));
            return Ok(None);
        }
        let seed = seed("MEW_POWER_LOSS_SEED")?;
        let flushes = if planted == Planted::Unflushed { Flushes::Never } else { Flushes::AsNeeded };
        let machine = Machine::new(&dir, flushes)?;
        let syncs = planted != Planted::Unsynced;
        let job = Job { dir: machine.data().join("log"), seed, acknowledged: 0, syncs };
        Ok(Some((Rounds { rng: Rng::new(seed), machine, job, total: Loss::default() }, seed)))
    }

    /// The power is back, the store is opened and goes on, and the power goes. Returns what is wrong, if anything: with what
    /// the last loss left, or with how it went on from there.
    fn round(&mut self, when: When) -> Result<Option<String>> {
        let mut c = Command::new(env::current_exe()?);
        c.args(["--exact", TEST, "--nocapture"]).env(JOB, serde_json::to_string(&self.job)?);
        let enough = 1 + self.rng.below(COMMITS);
        let mut commits = 0;
        let running = self.machine.start(&c)?;
        loop {
            match Said::read(&running.line()?) {
                None => {}
                Some(Said::Opening) if when == When::Opening => {
                    running.lose_power_after(self.rng.below(OPENING_REQUESTS));
                }
                Some(Said::Opening) => {}
                Some(Said::Holds(n)) => {
                    self.job.acknowledged = n;
                    if when == When::Looked {
                        break;
                    }
                }
                Some(Said::Acknowledged(n)) => {
                    self.job.acknowledged = n;
                    commits += 1;
                    if when == When::Writing && commits == enough {
                        // Who does not sync may write nothing to the disk for long, so there the power goes now.
                        if !self.job.syncs {
                            break;
                        }
                        running.lose_power_after(self.rng.below(REQUESTS));
                    }
                }
                Some(Said::Wrong(why)) if running.has_power() => return Ok(Some(why)),
                // That the disk is gone, or else it is seen in the next round.
                Some(Said::Wrong(_)) => break,
            }
        }
        let (rest, loss) = running.end(&mut self.rng)?;
        for line in rest {
            // What it saw on the disk, or was told to be there, counts although the power was about to go.
            if let Some(Said::Holds(n) | Said::Acknowledged(n)) = Said::read(&line) {
                self.job.acknowledged = n;
            }
        }
        self.total.at_risk += loss.at_risk;
        self.total.lost += loss.lost;
        Ok(None)
    }
}
