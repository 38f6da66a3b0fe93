//! Which tombstones are old enough to go: those that have been here for a week, whatever time their versions have. A deletion
//! that came late, from a peer that was away or after it was held, must win against an older version from elsewhere for as long
//! as any other.
//!
//! A week in which the agent runs: nothing comes from elsewhere while it is off. So no clock of the day is asked, and one that
//! is wrong for a moment neither makes a tombstone old nor keeps one for ever. Every hour it is noted how far the log has come;
//! what was there at the first note of a week is old enough.

use mew_kernel::{Kernel, KernelError};
use mew_store::StoreError;

/// The notes: seqs of eight bytes, oldest first.
const FACT: &[u8] = b"tombstones";
/// Between two notes. What an agent ran after the last one does not count if it ends.
const HOUR_MS: u64 = 3_600_000;
/// Tombstones are kept for so many hours at least, also when every flow has passed them.
const KEPT_HOURS: usize = 7 * 24;

/// Counts the hours in which this agent runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hours {
    noted_at_ms: u64,
}

impl Hours {
    /// Makes a note if it is time for one. `mono_ms` is how long the agent has been running, by the clock that never jumps.
    pub fn look(&mut self, kernel: &Kernel, mono_ms: u64) -> Result<(), KernelError> {
        if mono_ms.saturating_sub(self.noted_at_ms) < HOUR_MS {
            return Ok(());
        }
        note(kernel)?;
        // However long it was, it counts as one hour: in much longer ones the process or its machine stood still.
        self.noted_at_ms = mono_ms;
        Ok(())
    }
}

fn note(kernel: &Kernel) -> Result<(), KernelError> {
    let before = notes(kernel)?;
    let mut all = before.clone();
    all.push(kernel.head());
    all.drain(..all.len().saturating_sub(KEPT_HOURS + 1));
    // Where nothing was written for a week, nothing is.
    if all == before {
        return Ok(());
    }
    kernel.write(0, move |tx| {
        tx.set_fact(FACT.to_vec(), all.into_iter().flat_map(u64::to_le_bytes).collect());
        Ok(())
    })?;
    Ok(())
}

/// Tombstones up to this seq are old enough.
pub fn old(kernel: &Kernel) -> Result<u64, StoreError> {
    let all = notes(kernel)?;
    Ok(all.first().copied().filter(|_| all.len() > KEPT_HOURS).unwrap_or(0))
}

fn notes(kernel: &Kernel) -> Result<Vec<u64>, StoreError> {
    let kept = kernel.view().fact(FACT)?.unwrap_or_default();
    Ok(kept.chunks_exact(8).map(|b| b.try_into().map_or(0, u64::from_le_bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mew_kernel::Params;
    use mew_store::{Fault, MemDisk, Options, Store, Upkeep};
    use std::sync::Arc;

    const WEEK: u64 = KEPT_HOURS as u64;
    /// A few commits fill one: what is to be forgotten must lie in a closed one.
    const SEGMENT: u32 = 600;

    struct Agent {
        kernel: Kernel,
        hours: Hours,
        mono_ms: u64,
    }

    impl Agent {
        fn starts(disk: &MemDisk) -> Self {
            let o = mew_lang::parse_ontology("node Task { name: String? }").expect("an ontology");
            let options = Options { kernel_id: "t.k".into(), new_incarnation: "i".into(), segment_bytes: SEGMENT };
            let (store, _) = Store::open(Arc::new(disk.clone()), Arc::new(o), options).expect("the store opens");
            Agent { kernel: Kernel::new(store), hours: Hours::default(), mono_ms: 0 }
        }

        fn looks(&mut self) {
            self.hours.look(&self.kernel, self.mono_ms).expect("there is room");
        }

        fn runs(&mut self, hours: u64) {
            for _ in 0..hours {
                self.mono_ms += HOUR_MS - 1;
                self.looks();
                self.mono_ms += 1;
                self.looks();
            }
        }

        /// Versions of long ago, as they come from a peer that was away.
        fn buries(&self, id: &str) {
            let text = format!(r##"SPAWN Task {{name = "short", _sync_id = "{id}"}}; KILL #"{id}""##);
            self.execute(&text);
            for _ in 0..4 {
                self.execute(r#"SPAWN Task {name = "something that follows"}"#);
            }
        }

        fn execute(&self, text: &str) {
            self.kernel.execute(1, text, &Params::new()).unwrap_or_else(|e| panic!("{text}: {e}"));
        }

        /// Whether the tombstone is still there after all upkeep that is possible.
        fn keeps(&self, id: &str) -> bool {
            let old = old(&self.kernel).expect("a disk in memory");
            self.kernel.maintain(&Upkeep::thorough(u64::MAX, old)).expect("a disk in memory");
            self.kernel.view().find(id).expect("a disk in memory").is_some()
        }
    }

    #[test]
    fn a_tombstone_of_an_old_version_is_kept_for_a_week_that_begins_here() {
        let mut a = Agent::starts(&MemDisk::new());
        a.runs(2 * WEEK);
        a.buries("late");
        assert!(a.keeps("late"));
        a.runs(WEEK);
        assert!(a.keeps("late"), "the first note that knows it is not a week old");
        a.buries("later");
        a.runs(1);
        assert!(!a.keeps("late"));
        assert!(a.keeps("later"));
        a.runs(WEEK);
        assert!(!a.keeps("later"));
    }

    #[test]
    fn what_an_agent_ran_before_counts_and_what_it_was_off_does_not() {
        let disk = MemDisk::new();
        let mut a = Agent::starts(&disk);
        a.buries("a");
        a.runs(100);
        drop(a);
        let mut a = Agent::starts(&disk);
        a.looks();
        a.runs(WEEK - 100);
        assert!(a.keeps("a"));
        a.runs(1);
        assert!(!a.keeps("a"));
    }

    #[test]
    fn an_agent_that_stood_still_does_not_find_its_tombstones_old() {
        let mut a = Agent::starts(&MemDisk::new());
        a.buries("a");
        a.runs(1);
        a.mono_ms += 2 * WEEK * HOUR_MS;
        a.looks();
        assert!(a.keeps("a"));
        a.runs(WEEK - 2);
        assert!(a.keeps("a"));
        a.runs(1);
        assert!(!a.keeps("a"));
    }

    #[test]
    fn where_nothing_changes_nothing_is_noted() {
        let mut a = Agent::starts(&MemDisk::new());
        a.buries("a");
        a.runs(WEEK + 1);
        let before = a.kernel.usage();
        a.runs(WEEK);
        assert_eq!(a.kernel.usage(), before);
        a.buries("b");
        a.runs(1);
        assert_eq!(notes(&a.kernel).expect("a disk in memory").last(), Some(&a.kernel.head()));
    }

    #[test]
    fn a_note_that_cannot_be_made_is_made_later() {
        let disk = MemDisk::new();
        let mut a = Agent::starts(&disk);
        a.mono_ms = HOUR_MS;
        disk.set_fault(Fault { room: Some(0), ..Fault::default() });
        a.hours.look(&a.kernel, a.mono_ms).expect_err("the disk is full");
        disk.set_fault(Fault::default());
        a.mono_ms += 1;
        a.looks();
        assert_eq!(notes(&a.kernel).expect("a disk in memory").len(), 1);
    }
}
