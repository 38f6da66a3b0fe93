//! One holder per kernel, and what is known of it.

use mew_contract::{Problem, Reason, Report, Snapshot};
use mew_plan::{AgentState, CLAIM_MS, Items, KernelName, RefusedClaim};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// A snapshot as it is sent; empty until there is one.
pub type Encoded = Vec<u8>;

#[derive(Default)]
struct Kernel {
    holder: Option<Holder>,
    state: AgentState,
    /// The newest, as it is planned.
    snapshot: watch::Sender<Encoded>,
    /// What it holds, by its digest.
    newest: Option<Contents>,
    /// Those of the snapshots that were handed out last, to know which one a report is about.
    sent: VecDeque<Contents>,
    /// Changes when the holder goes, so that standbys look again.
    released: watch::Sender<u64>,
    /// Since when it is of no use, on the planner's clock.
    unused_since_ms: Option<u64>,
}

struct Holder {
    id: u64,
    instance: String,
    incarnation: String,
}

/// A snapshot's digest, and what it holds.
type Contents = (String, Arc<Items>);

/// Snapshots that a report may be about. An agent reports several times a second and is handed the next snapshot when it has the
/// one before, see [`crate::service`]; while many objects are applied that is five between two reports.
const REMEMBERED: usize = 8;

/// What is known of a kernel that no agent holds and no Remote names is kept for this long; an agent that is only restarted is
/// back by then. Whoever may attach can invent names, and a snapshot is planned for each that is kept.
const UNUSED_MS: u64 = 60_000;

impl Kernel {
    fn confirm(&mut self) {
        let digest = self.state.report.as_ref().map(|r| &r.snapshot);
        // A new attachment may begin with a report about what is planned, before that is handed out.
        let mut known = self.newest.iter().chain(&self.sent);
        self.state.confirmed = known.find(|(d, _)| Some(d) == digest).map(|(_, s)| s.clone());
        if self.newest.as_ref().map(|(d, _)| d) == digest {
            self.state.behind_since_ms = None;
        }
    }

    /// Of several that are refused in turn, the first one is named for as long as it asks.
    fn refuse(&mut self, instance: &str, problem: Problem, now_ms: u64) {
        let named = self.state.refused_claim.as_ref();
        if named.is_none_or(|c| c.instance == instance || now_ms.saturating_sub(c.at_ms) >= CLAIM_MS) {
            self.state.refused_claim = Some(RefusedClaim { instance: instance.to_owned(), problem, at_ms: now_ms });
        }
    }
}

/// All kernels with an agent or a snapshot.
#[derive(Default)]
pub struct Registry {
    kernels: Mutex<BTreeMap<KernelName, Kernel>>,
    next: Mutex<u64>,
    /// Rung whenever an agent comes, goes or reports.
    pub changed: Notify,
    /// Changes when all sessions shall end.
    ended: watch::Sender<u64>,
}

/// The answer to a claim.
pub enum Claim {
    /// It is yours; release it with the number.
    Held(u64),
    /// A holder of the same data is still there; wait for the channel to change, and claim again.
    Standby(String, watch::Receiver<u64>),
    Refused(Problem),
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<KernelName, Kernel>> {
        self.kernels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn claim(&self, kernel: &KernelName, instance: &str, incarnation: &str, now_ms: u64) -> Claim {
        let mut all = self.lock();
        let k = all.entry(kernel.clone()).or_default();
        // The same process, over a new connection: its old one is dead and just not noticed yet.
        let same = |h: &&Holder| h.incarnation == incarnation && h.instance == instance;
        if let Some(h) = k.holder.as_ref().filter(|h| !same(h)) {
            if h.incarnation != incarnation {
                let message = format!(
                    "kernel {} is held by {} with another data directory; stop that one first",
                    kernel.name, h.instance
                );
                let shown = Problem::new(Reason::KernelClaimed, format!("{instance} was refused: {message}"));
                k.refuse(instance, shown, now_ms);
                self.changed.notify_one();
                return Claim::Refused(Problem::new(Reason::KernelClaimed, message));
            }
            return Claim::Standby(
                format!("{} still holds kernel {}", h.instance, kernel.name),
                k.released.subscribe(),
            );
        }
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next += 1;
        k.holder = Some(Holder { id: *next, instance: instance.to_owned(), incarnation: incarnation.to_owned() });
        k.state.attached = true;
        // Others that were refused ask again if they are still there.
        if k.state.refused_claim.as_ref().is_some_and(|c| c.instance == instance) {
            k.state.refused_claim = None;
        }
        self.changed.notify_one();
        Claim::Held(*next)
    }

    pub fn release(&self, kernel: &KernelName, id: u64) {
        let mut all = self.lock();
        if let Some(k) = all.get_mut(kernel)
            && k.holder.as_ref().is_some_and(|h| h.id == id)
        {
            k.holder = None;
            k.state.attached = false;
            k.released.send_modify(|n| *n += 1);
            self.changed.notify_one();
        }
    }

    pub fn snapshots(&self, kernel: &KernelName) -> watch::Receiver<Encoded> {
        self.lock().entry(kernel.clone()).or_default().snapshot.subscribe()
    }

    /// The newest snapshot with its digest, which is handed out now. `None`: there is none yet.
    pub fn hand_out(&self, kernel: &KernelName, newest: &mut watch::Receiver<Encoded>) -> Option<(String, Encoded)> {
        let mut all = self.lock();
        let bytes = newest.borrow_and_update().clone();
        let k = all.get_mut(kernel)?;
        let (digest, items) = k.newest.clone()?;
        if k.sent.front().is_none_or(|(d, _)| *d != digest) {
            k.sent.push_front((digest.clone(), items));
            k.sent.truncate(REMEMBERED);
        }
        Some((digest, bytes))
    }

    /// Puts each snapshot where its agent is handed the newest; unchanged ones are not handed out again.
    pub fn deliver(&self, snapshots: &BTreeMap<KernelName, Snapshot>, now_ms: u64) {
        let mut all = self.lock();
        for (k, s) in snapshots {
            let bytes = s.encode();
            let kernel = all.entry(k.clone()).or_default();
            if *kernel.snapshot.borrow() == bytes {
                continue;
            }
            kernel.newest = Some((Snapshot::digest(&bytes), Arc::new(Items::of(s))));
            kernel.state.behind_since_ms.get_or_insert(now_ms);
            kernel.confirm();
            kernel.snapshot.send_replace(bytes);
        }
    }

    /// Forgets kernels of which this has been said for long enough.
    pub fn forget(&self, unused: &BTreeSet<KernelName>, now_ms: u64) {
        self.lock().retain(|name, k| {
            if k.holder.is_some() || !unused.contains(name) {
                k.unused_since_ms = None;
                return true;
            }
            now_ms.saturating_sub(*k.unused_since_ms.get_or_insert(now_ms)) < UNUSED_MS
        });
    }

    pub fn report(&self, kernel: &KernelName, id: u64, report: Report, now_ms: u64) {
        let mut all = self.lock();
        if let Some(k) = all.get_mut(kernel)
            && k.holder.as_ref().is_some_and(|h| h.id == id)
        {
            k.state.reported_ms = now_ms;
            if k.state.report.as_deref() != Some(&report) {
                k.state.report = Some(Arc::new(report));
                k.confirm();
                self.changed.notify_one();
            }
        }
    }

    /// Ends all sessions and forgets what agents said: this replica serves them no longer.
    pub fn end(&self) {
        self.ended.send_modify(|n| *n += 1);
        self.lock().clear();
    }

    /// Changes when the session shall end.
    pub fn ended(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }

    pub fn states(&self) -> BTreeMap<KernelName, AgentState> {
        self.lock().iter().map(|(k, v)| (k.clone(), v.state.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Claim, KernelName, Registry, UNUSED_MS};
    use std::collections::BTreeSet;

    #[test]
    fn a_kernel_that_nobody_holds_or_names_is_forgotten_after_a_while() {
        let r = Registry::default();
        let kernel = |name: &str| KernelName::new("shop", name);
        let unused = BTreeSet::from(["held", "invented"].map(kernel));
        let known = || r.states().into_keys().map(|k| k.name).collect::<Vec<_>>();
        for name in ["held", "invented", "named"] {
            let Claim::Held(id) = r.claim(&kernel(name), "pod-1", "one", 0) else { panic!("{name} is free") };
            if name != "held" {
                r.release(&kernel(name), id);
            }
        }
        r.forget(&unused, 0);
        r.forget(&unused, UNUSED_MS - 1);
        assert_eq!(known(), ["held", "invented", "named"]);
        // Its agent is back for a moment.
        let Claim::Held(id) = r.claim(&kernel("invented"), "pod-1", "one", UNUSED_MS) else { panic!("it is free") };
        r.forget(&unused, UNUSED_MS);
        r.release(&kernel("invented"), id);
        r.forget(&unused, UNUSED_MS + 1);
        r.forget(&unused, 2 * UNUSED_MS);
        assert_eq!(known(), ["held", "invented", "named"]);
        r.forget(&unused, 2 * UNUSED_MS + 1);
        assert_eq!(known(), ["held", "named"]);
    }
}
