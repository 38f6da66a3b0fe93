//! What sinks have not confirmed: what an agent waits for before it ends, and says if it could not wait.

use super::flows::{End, Flow};
use super::{Link, MAX_PEER_FLOWS, Now, State};
use crate::members;
use mew_contract::snapshot::Direction;
use mew_contract::{Problem, Reason};
use mew_kernel::Kernel;
use mew_store::StoreError;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// In the place of a name, where it is not known which flows there are.
const ALL_FLOWS: &str = "*";
/// A peer asks for its flows right after its handshake; this is for one that is busy. What it has not asked for by then, it has
/// given up or cannot take, and nobody waits for it.
const ASKS_WITHIN_MS: u64 = 5_000;

/// A flow that this side is the source of, and whose sink has not confirmed everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outstanding {
    /// Name of the Remote.
    pub remote: String,
    /// Declaring namespace/name.
    pub flow: String,
    /// The peer is there and may confirm more. For one that is not, there is nothing to wait for.
    pub waits: bool,
    /// Why the flow does not run, if it does not.
    pub problem: Option<Problem>,
    /// Up to here the sink has everything; `None` if it has not said.
    pub confirmed: Option<u64>,
    /// The newest change of the log.
    pub head: u64,
}

impl fmt::Display for Outstanding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "flow {} of Remote {}: ", self.flow, self.remote)?;
        match (self.confirmed, self.changes()) {
            (Some(at), Some(n)) => {
                write!(f, "the sink has everything up to {at}, and of {n} changes after that what matches is left")?
            }
            _ => write!(f, "where the sink is is not known, and the log ends at {}", self.head)?,
        }
        match &self.problem {
            Some(p) => write!(f, " ({}: {})", p.reason, p.message),
            None if self.waits => Ok(()),
            None => f.write_str(" (the peer is not connected)"),
        }
    }
}

impl Outstanding {
    /// Of a link that does not answer, and is waited for; or of one that never will, and why.
    pub fn unknown(remote: &str, head: u64, problem: Option<Problem>) -> Self {
        let (remote, flow) = (remote.to_owned(), ALL_FLOWS.to_owned());
        Outstanding { remote, flow, waits: problem.is_none(), problem, confirmed: None, head }
    }

    /// Changes of the log that the sink has not confirmed, at most: some may not match. `None` if that is not known.
    pub fn changes(&self) -> Option<u64> {
        self.confirmed.map(|at| self.head.saturating_sub(at))
    }
}

impl Link {
    /// The flows whose sink is not known to have everything that is committed, of those that this side is the source of.
    pub fn outstanding(&self, kernel: &Kernel) -> Vec<Outstanding> {
        let head = kernel.head();
        let of = |flow: &str, waits: bool, problem: Option<&Problem>, confirmed: Option<u64>| Outstanding {
            remote: self.config.name.clone(),
            flow: flow.to_owned(),
            waits,
            problem: problem.cloned(),
            confirmed,
            head,
        };
        let none = BTreeMap::new();
        let (open, comes) = match &self.state {
            State::Up(s) => (&s.flows, false),
            State::Greeting { .. } => (&none, true),
            State::Idle | State::Backoff { .. } | State::Dialling => (&none, self.is_coming_back()),
        };
        let remote_stopped = stopped("Remote", self.config.suspend, self.config.blocked.as_ref());
        let sources = open.values().filter_map(|f| match &f.end {
            End::Source(s) => Some(of(&f.name, true, None, Some(s.confirmed()))),
            End::Asked(_) | End::Sink(_) => None,
        });
        let pushes = self.own.values().filter(|o| o.item.direction == Direction::Push);
        let waiting = pushes.filter_map(|o| {
            match o.flow.and_then(|n| open.get(&n)).map(|f| &f.end) {
                Some(End::Source(_) | End::Sink(_)) => None,
                // Asked, and the answer is on its way; or refused, or not connected, and asked again later; or stopped here.
                asked => {
                    let sync_stopped = stopped("Sync", o.item.suspend, o.item.blocked.as_ref());
                    let stopped = remote_stopped.as_ref().or(sync_stopped.as_ref());
                    let waits = stopped.is_none() && (comes || asked.is_some());
                    let problem = stopped.or(o.problem.as_ref()).or(self.problem.as_ref()).filter(|_| !waits);
                    Some(of(&o.item.name, waits, problem, o.confirmed))
                }
            }
        });
        let mut all: Vec<Outstanding> = sources.chain(waiting).collect();
        let waits = comes || matches!(self.state, State::Up(_));
        let problem = remote_stopped.as_ref().or(self.problem.as_ref()).filter(|_| !waits);
        match self.not_open(open, kernel, head) {
            Ok(theirs) => all.extend(theirs.iter().map(|(name, at)| of(name, waits, problem, *at))),
            Err(e) => {
                let why = Problem::new(Reason::SourceError, format!("what it had cannot be read: {e}"));
                all.push(Outstanding::unknown(&self.config.name, head, Some(why)));
            }
        }
        all.retain(|o| o.changes() != Some(0));
        all
    }

    /// Flows that the peer declares, takes from here and has not asked for, as it is away or has just come: all of which something
    /// is saved, with the place of its sink if that is known. What is saved alone is too old to say more than that the sink has
    /// everything.
    fn not_open(
        &self,
        open: &BTreeMap<u32, Flow>,
        kernel: &Kernel,
        head: u64,
    ) -> Result<BTreeMap<String, Option<u64>>, StoreError> {
        let nothing = BTreeSet::new();
        let asked = match &self.state {
            State::Up(s) => match &s.asked {
                Some(asked) => asked,
                None => return Ok(BTreeMap::new()),
            },
            State::Idle | State::Backoff { .. } | State::Dialling | State::Greeting { .. } => &nothing,
        };
        let saved = members::pulled(kernel, &self.config.peer_kernel_id)?;
        let saved = saved.into_iter().map(|(name, at)| (name, (at >= head).then_some(at)));
        let mut all: BTreeMap<String, Option<u64>> = saved.collect();
        all.extend(self.pulled.iter().map(|(name, at)| (name.clone(), Some(*at))));
        all.retain(|name, _| !asked.contains(name) && !open.values().any(|f| !f.own && f.name == *name));
        Ok(all)
    }

    /// The connection goes: up to where the peer has what it took over it. Flows that it had before that and has not asked for
    /// again are as they were.
    pub(super) fn remember_pulled(&mut self, open: Vec<(String, u64)>) {
        // A peer that names others each time does not make this grow.
        if self.pulled.len() + open.len() > MAX_PEER_FLOWS {
            self.pulled.clear();
        }
        self.pulled.extend(open);
    }

    /// The peer asks to take a flow from here. Whether it may is said to it; what it had is of no interest any more.
    pub(super) fn asked_again(&mut self, name: &str) {
        self.pulled.remove(name);
        if let State::Up(s) = &mut self.state
            && let Some(asked) = s.asked.as_mut().filter(|a| a.len() < MAX_PEER_FLOWS)
        {
            asked.insert(name.to_owned());
        }
    }

    /// What the peer has not asked for by now, it takes no longer.
    pub(super) fn forget_pulled(&mut self, now: Now) {
        if let State::Up(s) = &mut self.state
            && s.asked.is_some()
            && now.mono_ms.saturating_sub(s.since) >= ASKS_WITHIN_MS
        {
            s.asked = None;
            self.pulled.clear();
        }
    }
}

/// Why nothing is sent, if the people of this side want it so.
fn stopped(kind: &str, suspend: bool, blocked: Option<&Problem>) -> Option<Problem> {
    let suspended = || suspend.then(|| Problem::new(Reason::Suspended, format!("the {kind} is suspended")));
    blocked.cloned().or_else(suspended)
}
