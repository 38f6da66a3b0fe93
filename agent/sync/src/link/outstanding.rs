//! What sinks have not confirmed: what an agent waits for before it ends, and says if it could not wait.

use super::flows::{End, Flow};
use super::{Link, State};
use crate::members;
use mew_contract::snapshot::Direction;
use mew_contract::{Problem, Reason};
use mew_kernel::Kernel;
use mew_store::StoreError;
use std::collections::BTreeMap;
use std::fmt;

/// In the place of a name, where it is not known which flows there are.
const ALL_FLOWS: &str = "*";

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
            State::Idle | State::Backoff { .. } | State::Dialling { .. } => (&none, self.is_coming_back()),
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
        let waits = comes || self.handover.is_some();
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

    /// Flows that the peer declares, takes from here and has not opened: on a connection that took the place of another, those
    /// that it had there; if it is away, all of which something is saved, with the place of its sink if that is known. What is
    /// saved alone is too old to say more than that the sink has everything.
    fn not_open(
        &self,
        open: &BTreeMap<u32, Flow>,
        kernel: &Kernel,
        head: u64,
    ) -> Result<BTreeMap<String, Option<u64>>, StoreError> {
        let mut all = BTreeMap::new();
        let is_up = matches!(self.state, State::Up(_));
        if is_up && self.handover.is_none() {
            return Ok(all);
        }
        if !is_up {
            let saved = members::pulled(kernel, &self.config.peer_kernel_id)?;
            all.extend(saved.into_iter().map(|(name, at)| (name, (at >= head).then_some(at))));
        }
        all.extend(self.pulled.iter().map(|(name, at)| (name.clone(), Some(*at))));
        all.retain(|name, _| !open.values().any(|f| !f.own && f.name == *name));
        Ok(all)
    }
}

/// Why nothing is sent, if the people of this side want it so.
fn stopped(kind: &str, suspend: bool, blocked: Option<&Problem>) -> Option<Problem> {
    let suspended = || suspend.then(|| Problem::new(Reason::Suspended, format!("the {kind} is suspended")));
    blocked.cloned().or_else(suspended)
}
