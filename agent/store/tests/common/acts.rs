//! Commits and upkeep that a disk may cut short, and what a store must hold after that.

use super::{EVERYTHING, Model, Op, Quarters, agrees, dump, some_commits, tidy, try_open};
use mew_store::{MemDisk, Store, Upkeep};

#[derive(Clone, Debug)]
pub enum Act {
    Commit(Vec<Op>),
    Maintain(Quarters),
}

/// What failed, so that it may be done or not.
#[derive(Clone)]
pub enum InFlight {
    Nothing,
    /// With what the store holds if it is done.
    Commit(Box<Model>),
    Maintain(Upkeep),
}

impl InFlight {
    pub fn is_nothing(&self) -> bool {
        matches!(self, InFlight::Nothing)
    }
}

/// Does one thing; `m` follows if it succeeds.
pub fn act(store: &Store, m: &mut Model, act: &Act) -> InFlight {
    match act {
        Act::Commit(ops) => {
            let mut with = m.clone();
            if store.commit(with.batch(ops)).is_err() {
                return InFlight::Commit(Box::new(with));
            }
            *m = with;
        }
        Act::Maintain(q) => {
            let u = q.of(m);
            if store.maintain(&u).is_err() {
                return InFlight::Maintain(u);
            }
            m.maintained(store, &u);
        }
    }
    InFlight::Nothing
}

/// Opens after a crash: `m` learns what became of what was in flight. Returns whether it was done.
pub fn reopen(disk: &MemDisk, segment_bytes: u32, m: &mut Model, in_flight: InFlight, when: &str) -> (Store, bool) {
    let store = try_open(disk, segment_bytes).unwrap_or_else(|e| panic!("{when}: {e}")).0;
    let mut is_done = false;
    match in_flight {
        InFlight::Nothing => {}
        InFlight::Commit(with) => {
            is_done = with.allows(&dump(&store));
            if is_done {
                *m = *with;
            }
        }
        InFlight::Maintain(u) => is_done = m.maintained(&store, &u) > 0,
    }
    agrees(&store, m, when);
    tidy(disk, when);
    (store, is_done)
}

/// The commits of the workload with all upkeep between them.
pub fn script() -> Vec<Act> {
    let mut all = Vec::new();
    for (i, ops) in some_commits().into_iter().enumerate() {
        all.push(Act::Commit(ops));
        if i % 2 > 0 {
            all.push(Act::Maintain(EVERYTHING));
        }
    }
    all
}
