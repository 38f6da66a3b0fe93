//! What befalls two clusters in a soak. Which fault comes next, after how much calm, and how long it lasts is a function
//! of the seed alone, so that a run can be had again.

use mew_tests::sim::rng::Rng;
use std::fmt;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    East,
    West,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The kernel's pod is deleted.
    PodDeleted(At),
    /// The agent is killed inside its pod.
    AgentKilled(At),
    /// The workload is rolled.
    RolledOut(At),
    /// The workload has no pods.
    Away(At),
    /// The operator that leads is gone, and could not say so.
    LeaderKilled(At),
    /// No operator is there.
    OperatorsGone(At),
    /// The west's policy blocks the east's kernel.
    Blocked,
    /// The west's policy denies one of the types.
    Denied,
    /// The kind Sync is deleted in the east, with all objects.
    KindDeleted,
}

const ALL: [Fault; 15] = [
    Fault::PodDeleted(At::East),
    Fault::PodDeleted(At::West),
    Fault::AgentKilled(At::East),
    Fault::AgentKilled(At::West),
    Fault::RolledOut(At::East),
    Fault::RolledOut(At::West),
    Fault::Away(At::East),
    Fault::Away(At::West),
    Fault::LeaderKilled(At::East),
    Fault::LeaderKilled(At::West),
    Fault::OperatorsGone(At::East),
    Fault::OperatorsGone(At::West),
    Fault::Blocked,
    Fault::Denied,
    Fault::KindDeleted,
];

/// Seconds. Long enough to pass maxLag (10 s) often, and the silence after which an agent counts as gone (30 s) at times.
const LASTS: (u64, u64) = (1, 40);
/// Seconds of nothing: long enough for a flow to catch up, short enough for many faults in ten minutes.
const CALM: (u64, u64) = (1, 8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Before it, once all is well.
    pub calm: Duration,
    pub fault: Fault,
    /// Before it is mended.
    pub lasts: Duration,
}

/// Faults without end.
pub struct Faults {
    rng: Rng,
    last: Option<Fault>,
}

impl Faults {
    pub fn of(seed: u64) -> Self {
        Faults { rng: Rng::new(seed), last: None }
    }

    fn seconds(&mut self, (low, high): (u64, u64)) -> Duration {
        Duration::from_secs(self.rng.between(low, high))
    }
}

impl Iterator for Faults {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        let calm = self.seconds(CALM);
        let others: Vec<Fault> = ALL.into_iter().filter(|f| Some(*f) != self.last).collect();
        let fault = self.rng.pick(&others)?;
        self.last = Some(fault);
        Some(Planned { calm, fault, lasts: self.seconds(LASTS) })
    }
}

impl Fault {
    /// Whose agent cannot report meanwhile, so that its Syncs keep what they say until it counts as gone.
    pub fn silences(self) -> Option<At> {
        match self {
            Fault::PodDeleted(at) | Fault::AgentKilled(at) | Fault::RolledOut(at) | Fault::Away(at) => Some(at),
            // Nobody writes any status until another one leads and agents have found it.
            Fault::LeaderKilled(at) | Fault::OperatorsGone(at) => Some(at),
            Fault::Blocked | Fault::Denied | Fault::KindDeleted => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, at) = match self {
            Fault::PodDeleted(at) => ("the pod is deleted in", Some(at)),
            Fault::AgentKilled(at) => ("the agent is killed in", Some(at)),
            Fault::RolledOut(at) => ("the workload is rolled in", Some(at)),
            Fault::Away(at) => ("the workload is away in", Some(at)),
            Fault::LeaderKilled(at) => ("the operator that leads is killed in", Some(at)),
            Fault::OperatorsGone(at) => ("all operators are gone in", Some(at)),
            Fault::Blocked => ("the west blocks the east", None),
            Fault::Denied => ("the west denies airports", None),
            Fault::KindDeleted => ("the kind Sync is deleted in the east", None),
        };
        match at {
            None => f.write_str(what),
            Some(At::East) => write!(f, "{what} the east"),
            Some(At::West) => write!(f, "{what} the west"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn first(seed: u64, n: usize) -> Vec<Planned> {
        Faults::of(seed).take(n).collect()
    }

    #[test]
    fn a_seed_is_always_the_same_faults_at_the_same_times() {
        for seed in [0, 1, 42, u64::MAX] {
            assert_eq!(first(seed, 200), first(seed, 200));
            // Whether more of them are wanted makes no difference.
            assert_eq!(first(seed, 200)[..20], first(seed, 20));
        }
        assert_ne!(first(1, 20), first(2, 20));
    }

    /// What was replayed yesterday can be replayed tomorrow.
    #[test]
    fn a_known_seed_is_what_it_was() {
        let of = |p: &Planned| (p.calm.as_secs(), p.fault, p.lasts.as_secs());
        let seen: Vec<_> = first(7, 3).iter().map(of).collect();
        assert_eq!(
            seen,
            [(8, Fault::LeaderKilled(At::West), 27), (4, Fault::Denied, 26), (7, Fault::PodDeleted(At::East), 26)]
        );
    }

    #[test]
    fn every_fault_comes_and_none_twice_in_a_row() {
        let all = first(3, 400);
        assert_eq!(all.iter().map(|p| p.fault).collect::<BTreeSet<_>>(), BTreeSet::from(ALL));
        assert!(all.windows(2).all(|w| w[0].fault != w[1].fault));
        let lasts: BTreeSet<u64> = all.iter().map(|p| p.lasts.as_secs()).collect();
        assert_eq!((lasts.first(), lasts.last()), (Some(&LASTS.0), Some(&LASTS.1)));
        assert!(all.iter().all(|p| (CALM.0..=CALM.1).contains(&p.calm.as_secs())));
    }
}
