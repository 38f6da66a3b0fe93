//! How far history may go: up to what the flow needs that is furthest behind, unless nobody has heard of that one for so
//! long that it counts as abandoned.
//!
//! What makes a flow abandoned is time in which its peer could have come and did not, so that time is counted here, and no
//! clock of the day is asked: an agent that was off for a month abandons nothing when it starts, nor does one whose clock is
//! wrong for a moment.

use super::{HEAD, part_of};
use crate::records;
use mew_kernel::{Kernel, KernelError};
use mew_wire as wire;

/// A flow whose peer could have come for so long, and did not, no longer holds compaction back; when it returns, it copies
/// anew. The steps are what the saved time may be behind.
const ABANDONED_MS: u64 = 7 * 24 * 3_600_000 + STEP_MS;
/// The time is saved in steps of this: what an agent was open after the last one does not count if it ends. No more than one is
/// counted without being saved: where nothing can be saved, flows cannot say either that they are alive.
const STEP_MS: u64 = 3_600_000;
/// Most that counts between two looks, which are seconds apart: in what is longer, the process or its machine stood still.
const MOST_BETWEEN_MS: u64 = 60_000;

/// Counts the time in which this kernel is open to its peers, beside what is saved of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenTime {
    looked_at_ms: Option<u64>,
    unsaved_ms: u64,
}

impl OpenTime {
    /// It is open, at this time of the clock that never jumps, and was since the look before.
    pub fn look(&mut self, mono_ms: u64) {
        let since = self.looked_at_ms.map_or(0, |before| mono_ms.saturating_sub(before));
        self.looked_at_ms = Some(mono_ms);
        self.unsaved_ms = (self.unsaved_ms + since.min(MOST_BETWEEN_MS)).min(STEP_MS);
    }
}

/// How far history may go: no flow needs what is before it. Abandoned flows are forgotten.
/// Where nothing can be written they stay, and so does what they need: the rest may go, which is what makes room.
pub fn floor(kernel: &Kernel, open: &mut OpenTime) -> Result<u64, KernelError> {
    let view = kernel.view();
    // Only the heads are read: the sets may be large.
    let mut heads = view.fact_keys(records::MEMBERS)?;
    heads.retain(|k| part_of(k) == HEAD);
    if heads.is_empty() {
        return Ok(u64::MAX);
    }
    let open_ms = records::open_ms(view.fact(records::OPEN)?).saturating_add(open.unsaved_ms);
    let (mut alive, mut all) = (u64::MAX, u64::MAX);
    let mut abandoned = Vec::new();
    for key in heads {
        let head = records::read::<wire::FlowMembers>(view.fact(&key)?).unwrap_or_default();
        all = all.min(head.seq);
        if is_abandoned(&head, open_ms) {
            abandoned.push(key);
        } else {
            alive = alive.min(head.seq);
        }
    }
    if open.unsaved_ms >= STEP_MS {
        let saved = kernel.write(0, move |tx| {
            tx.set_fact(records::OPEN.to_vec(), open_ms.to_le_bytes().to_vec());
            Ok(())
        });
        if saved.is_ok() {
            open.unsaved_ms = 0;
        }
    }
    if abandoned.is_empty() {
        return Ok(alive);
    }
    let forgotten = kernel.write(0, move |tx| {
        let mut returned = u64::MAX;
        for key in abandoned {
            // Its peer may have come a moment ago.
            let head = records::read::<wire::FlowMembers>(tx.fact(&key)?).unwrap_or_default();
            if !is_abandoned(&head, open_ms) {
                returned = returned.min(head.seq);
                continue;
            }
            for part in tx.fact_keys(&key[..key.len() - HEAD.len()])? {
                tx.delete_fact(part);
            }
        }
        Ok(returned)
    });
    Ok(forgotten.map_or(all, |(returned, _)| alive.min(returned)))
}

fn is_abandoned(head: &wire::FlowMembers, open_ms: u64) -> bool {
    open_ms.saturating_sub(head.saved_open_ms) > ABANDONED_MS
}

#[cfg(test)]
mod tests {
    use super::super::tests::{kernel, kernel_again, load};
    use super::*;
    use mew_store::{Fault, MemDisk};

    const LOOK_MS: u64 = MOST_BETWEEN_MS;
    const DAY_MS: u64 = 24 * 3_600_000;
    const NOW_MS: u64 = 1_700_000_000_000;

    /// A kernel as its agent's upkeep sees it, which starts now.
    struct Agent {
        kernel: Kernel,
        open: OpenTime,
        mono_ms: u64,
        wall_ms: u64,
    }

    impl Agent {
        fn starts(kernel: Kernel, wall_ms: u64) -> Self {
            Agent { kernel, open: OpenTime::default(), mono_ms: 77, wall_ms }
        }

        fn floor(&mut self) -> u64 {
            self.open.look(self.mono_ms);
            floor(&self.kernel, &mut self.open).expect("it can be read")
        }

        /// Looks for so long, and what the last one says.
        fn is_open_for(&mut self, ms: u64) -> u64 {
            let mut last = self.floor();
            for _ in 0..ms / LOOK_MS {
                self.mono_ms += LOOK_MS;
                self.wall_ms += LOOK_MS;
                last = self.floor();
            }
            last
        }

        /// A flow is heard of, whose sink has everything up to `seq`.
        fn hears(&self, seq: u64) {
            let mut m = load(&self.kernel);
            m.enter(3, 1, 1);
            m.acked(seq);
            m.save(&self.kernel, self.wall_ms).expect("there is room");
        }

        fn knows(&self) -> bool {
            load(&self.kernel).known
        }
    }

    #[test]
    fn history_is_kept_for_who_is_known_and_alive() {
        let mut a = Agent::starts(kernel(&MemDisk::new()), NOW_MS);
        assert_eq!(a.floor(), u64::MAX, "without flows nobody needs history");
        a.is_open_for(DAY_MS);
        a.hears(40);
        assert_eq!(a.is_open_for(7 * DAY_MS), 40);
        assert_eq!(a.is_open_for(2 * STEP_MS), u64::MAX);
        assert!(!a.knows(), "an abandoned flow is forgotten");
    }

    #[test]
    fn who_is_heard_of_again_has_another_week() {
        let mut a = Agent::starts(kernel(&MemDisk::new()), NOW_MS);
        a.hears(40);
        assert_eq!(a.is_open_for(6 * DAY_MS), 40);
        a.hears(50);
        assert_eq!(a.is_open_for(7 * DAY_MS), 50);
        assert_eq!(a.is_open_for(2 * STEP_MS), u64::MAX);
    }

    #[test]
    fn an_agent_that_was_off_for_a_month_abandons_nothing_when_it_starts() {
        let disk = MemDisk::new();
        let mut a = Agent::starts(kernel(&disk), NOW_MS);
        a.hears(40);
        assert_eq!(a.is_open_for(4 * DAY_MS), 40);
        let Agent { kernel, wall_ms, .. } = a;
        let mut again = Agent::starts(kernel_again(kernel, &disk), wall_ms + 30 * DAY_MS);
        assert_eq!(again.floor(), 40);
        assert_eq!(again.is_open_for(2 * DAY_MS), 40);
        assert!(again.knows());
        assert_eq!(again.is_open_for(DAY_MS + 2 * STEP_MS), u64::MAX, "what it was open before counts as well");
    }

    /// As where the machine was asleep, and that clock went on.
    #[test]
    fn an_agent_that_stood_still_abandons_nothing() {
        let mut a = Agent::starts(kernel(&MemDisk::new()), NOW_MS);
        a.hears(40);
        a.mono_ms += 30 * DAY_MS;
        assert_eq!(a.is_open_for(STEP_MS), 40);
        assert!(a.knows());
    }

    /// The one that says when a flow was heard of was ahead by a month then, or goes back by one.
    #[test]
    fn clocks_of_the_day_abandon_nothing_and_keep_nothing_for_ever() {
        let mut a = Agent::starts(kernel(&MemDisk::new()), NOW_MS + 30 * DAY_MS);
        a.hears(40);
        a.wall_ms = NOW_MS;
        assert_eq!(a.is_open_for(7 * DAY_MS), 40);
        assert_eq!(a.is_open_for(2 * STEP_MS), u64::MAX);
    }

    /// As on a full disk: flows could not be saved as alive either.
    #[test]
    fn time_that_cannot_be_saved_does_not_count() {
        let mut a = Agent::starts(kernel(&MemDisk::new()), NOW_MS);
        a.hears(40);
        for _ in 0..30 * DAY_MS / LOOK_MS {
            a.mono_ms += LOOK_MS;
            a.open.look(a.mono_ms);
        }
        assert_eq!(a.is_open_for(DAY_MS), 40);
        assert!(a.knows());
    }

    /// Or compaction, which needs to know this, could not make room.
    #[test]
    fn where_nothing_can_be_written_history_is_known_and_stays() {
        let disk = MemDisk::new();
        let mut a = Agent::starts(kernel(&disk), NOW_MS);
        a.hears(40);
        assert_eq!(a.is_open_for(7 * DAY_MS + STEP_MS), 40);
        disk.set_fault(Fault { read_only: true, ..Fault::default() });
        assert_eq!(a.is_open_for(2 * STEP_MS), 40, "what it needs is still to be found");
        assert!(a.knows());
        disk.set_fault(Fault::default());
        assert_eq!(a.is_open_for(LOOK_MS), u64::MAX);
        assert!(!a.knows());
    }
}
