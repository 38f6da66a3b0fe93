//! Checkpoints and compaction: what they cost by themselves, and what they cost commits that go on.

use super::commits::{Commit, beside, insert, timed};
use super::jobs::{ONLY_A_CHECKPOINT, change_until, opening};
use crate::embedded::{Indexes, SEGMENT_BYTES, live};
use crate::measure::{cpu_seconds, disk_bytes, written_bytes};
use crate::race::Figures;
use crate::worker::{Work, answer};
use anyhow::{Result, ensure};
use mew_kernel::Kernel;
use mew_store::Upkeep;
use std::process::id;
use std::thread::sleep;
use std::time::Duration;

const MB: f64 = (1 << 20) as f64;
/// Checkpoints beside a client: one alone is over after too few commits.
const ROUNDS: u64 = 5;
/// Rows of a commit when only the log is to grow.
const BULK: usize = 1000;

/// As an agent without flows, and without tombstones.
fn routine() -> Upkeep {
    Upkeep::routine(u64::MAX, 0)
}

pub fn run(w: &Work) -> Result<()> {
    let (k, found) = opening(w, Indexes::BOTH)?;
    let mut f = Figures::new();
    for (name, figure) in [("s", "s"), ("records", "records replayed")] {
        f.insert(format!("open after kill -9, no checkpoint: {figure}"), found[name]);
    }
    let t = Tidying { k: &k, w, live: live(&k)?.bytes };
    f.insert("live data MB".into(), t.live as f64 / MB);
    t.checkpoint(&mut f)?;
    t.half_dead(11)?;
    let (_, (), alone) = beside(&k, w.entities, 21, || {
        sleep(Duration::from_secs(w.seconds));
        Ok(())
    })?;
    insert("alone", &alone, None, &mut f);
    t.compaction(&mut f)?;
    t.half_dead(12)?;
    t.compaction_beside(&alone, &mut f)?;
    t.checkpoints(&alone, &mut f)?;
    answer(&f)
}

struct Tidying<'k> {
    k: &'k Kernel,
    w: &'k Work,
    /// Bytes.
    live: u64,
}

impl Tidying<'_> {
    /// Random updates until half of the log is dead.
    fn half_dead(&self, seed: u64) -> Result<()> {
        let enough = |_| self.k.usage().0 >= 2 * self.live;
        change_until(self.k, self.w.entities, BULK, seed, enough).map(|_| ())
    }

    fn dead_percent(&self) -> f64 {
        100.0 - 100.0 * self.live as f64 / self.k.usage().0.max(1) as f64
    }

    /// The first one: it replays everything.
    fn checkpoint(&self, f: &mut Figures) -> Result<()> {
        self.k.maintain(&Upkeep::small())?;
        let cpu = cpu_seconds(&[id()])?;
        let (window, kept) = timed(|| Ok(self.k.maintain(&ONLY_A_CHECKPOINT)?))?;
        ensure!(kept.checkpoint_bytes > 0, "no checkpoint was written");
        f.insert("checkpoint, the first: s".into(), window.seconds());
        f.insert("checkpoint, the first: CPU s".into(), cpu_seconds(&[id()])? - cpu);
        f.insert("checkpoint MB".into(), kept.checkpoint_bytes as f64 / MB);
        Ok(())
    }

    fn checkpoints(&self, alone: &[Commit], f: &mut Figures) -> Result<()> {
        let (mut all, mut seconds) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            // Something closed that the last one does not cover.
            let full = self.k.usage().0 + u64::from(SEGMENT_BYTES);
            change_until(self.k, self.w.entities, BULK, 100 + round, |_| self.k.usage().0 > full)?;
            self.k.maintain(&Upkeep::small())?;
            let (window, kept, commits) =
                beside(self.k, self.w.entities, 200 + round, || Ok(self.k.maintain(&ONLY_A_CHECKPOINT)?))?;
            ensure!(kept.checkpoint_bytes > 0, "no checkpoint was written");
            seconds.push(window.seconds());
            all.extend(commits);
        }
        seconds.sort_by(f64::total_cmp);
        f.insert("checkpoint, beside a client: s".into(), seconds[seconds.len() / 2]);
        insert("during a checkpoint", &all, Some(alone), f);
        Ok(())
    }

    fn compaction(&self, f: &mut Figures) -> Result<()> {
        f.insert("compaction: dead before %".into(), self.dead_percent());
        let (cpu, written) = (cpu_seconds(&[id()])?, written_bytes(id())?);
        let before = disk_bytes(&self.w.log())?;
        let (window, kept) = timed(|| Ok(self.k.maintain(&routine())?))?;
        ensure!(kept.rewritten > 0, "nothing was compacted");
        let after = disk_bytes(&self.w.log())?;
        f.insert("compaction: s".into(), window.seconds());
        f.insert("compaction: CPU s".into(), cpu_seconds(&[id()])? - cpu);
        f.insert("compaction: written MB".into(), (written_bytes(id())? - written) as f64 / MB);
        f.insert("compaction: freed MB".into(), kept.freed_bytes as f64 / MB);
        f.insert("compaction: disk before MB".into(), before as f64 / MB);
        f.insert("compaction: disk after MB".into(), after as f64 / MB);
        let rest = after.saturating_sub(SEGMENT_BYTES.into());
        f.insert("disk less one segment, by live data".into(), rest as f64 / self.live as f64);
        Ok(())
    }

    fn compaction_beside(&self, alone: &[Commit], f: &mut Figures) -> Result<()> {
        let (window, kept, commits) = beside(self.k, self.w.entities, 300, || Ok(self.k.maintain(&routine())?))?;
        ensure!(kept.rewritten > 0, "nothing was compacted");
        f.insert("compaction, beside a client: s".into(), window.seconds());
        insert("during compaction", &commits, Some(alone), f);
        Ok(())
    }
}
