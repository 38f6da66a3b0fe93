//! What sinks have not confirmed: what an agent waits for before it ends, and says if it could not wait.

use super::flows::End;
use super::{Link, State};
use mew_contract::Problem;
use mew_contract::snapshot::Direction;
use std::collections::BTreeMap;
use std::fmt;

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
    /// Of a link that does not answer.
    pub fn unknown(remote: &str, head: u64) -> Self {
        let (remote, flow) = (remote.to_owned(), "*".to_owned());
        Outstanding { remote, flow, waits: true, problem: None, confirmed: None, head }
    }

    /// Changes of the log that the sink has not confirmed, at most: some may not match. `None` if that is not known.
    pub fn changes(&self) -> Option<u64> {
        self.confirmed.map(|at| self.head.saturating_sub(at))
    }
}

impl Link {
    /// The flows whose sink has not confirmed everything up to `head`, of those that this side is the source of.
    pub fn outstanding(&self, head: u64) -> Vec<Outstanding> {
        if !self.enabled() {
            return Vec::new();
        }
        let of = |flow: &str, waits: bool, problem: Option<&Problem>, confirmed: Option<u64>| Outstanding {
            remote: self.config.name.clone(),
            flow: flow.to_owned(),
            waits,
            problem: problem.cloned(),
            confirmed,
            head,
        };
        let none = BTreeMap::new();
        let (open, greeting) = match &self.state {
            State::Up(s) => (&s.flows, false),
            State::Greeting { .. } => (&none, true),
            State::Idle | State::Backoff { .. } | State::Dialling => (&none, false),
        };
        let sources = open.values().filter_map(|f| match &f.end {
            End::Source(s) => Some(of(&f.name, true, None, Some(s.confirmed()))),
            End::Asked(_) | End::Sink(_) => None,
        });
        let pushes = self.own.values().filter(|o| o.item.direction == Direction::Push);
        let waiting = pushes.filter(|o| !o.item.suspend && o.item.blocked.is_none()).filter_map(|o| {
            match o.flow.and_then(|n| open.get(&n)).map(|f| &f.end) {
                Some(End::Source(_) | End::Sink(_)) => None,
                // Asked, and the answer is on its way; or refused, or not connected, and asked again later.
                asked => {
                    let waits = greeting || asked.is_some();
                    let problem = o.problem.as_ref().or(self.problem.as_ref()).filter(|_| !waits);
                    Some(of(&o.item.name, waits, problem, o.confirmed))
                }
            }
        });
        sources.chain(waiting).filter(|o| o.changes() != Some(0)).collect()
    }
}
