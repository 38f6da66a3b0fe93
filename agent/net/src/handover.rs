//! What a link says of itself while a new connection takes the place of one that works. Its flows are opened over it anew and
//! go on where they are, so for a moment they are neither up nor down; to call that "not ready" would raise an alarm about
//! nothing.

use mew_contract::report::{FlowState, LinkState};
use mew_contract::{FlowReport, RemoteReport};
use std::time::{Duration, Instant};

/// A handshake, the flows, a first batch: a few round trips and a commit. What takes longer is no handover any more.
const LONGEST: Duration = Duration::from_secs(2);

#[derive(Default)]
pub struct Handover(Option<Before>);

struct Before {
    since: Instant,
    remote: RemoteReport,
    flows: Vec<FlowReport>,
}

impl Handover {
    /// A connection has come, or gone as another one is coming; this was said last.
    pub fn begin(&mut self, now: Instant, remote: &RemoteReport, flows: &[FlowReport]) {
        if self.0.is_none() && remote.state == LinkState::Connected {
            self.0 = Some(Before { since: now, remote: remote.clone(), flows: flows.to_vec() });
        }
    }

    /// What to say: what is so, or what was said before, while that is about to be so again.
    pub fn say(
        &mut self,
        now: Instant,
        remote: RemoteReport,
        flows: Vec<FlowReport>,
    ) -> (RemoteReport, Vec<FlowReport>) {
        match &self.0 {
            Some(b) if now.duration_since(b.since) < LONGEST && b.is_coming_back(&remote, &flows) => {
                (b.remote.clone(), b.flows.clone())
            }
            _ => {
                self.0 = None;
                (remote, flows)
            }
        }
    }
}

impl Before {
    /// Nothing has gone wrong, and something that worked does not work yet.
    fn is_coming_back(&self, remote: &RemoteReport, flows: &[FlowReport]) -> bool {
        let before = |f: &FlowReport| self.flows.iter().find(|b| b.name == f.name);
        let fails = |f: &FlowReport| f.problem.is_some() && before(f).is_none_or(|b| b.problem.is_none());
        let was_live = |f: &FlowReport| before(f).is_some_and(|b| b.state == FlowState::Live);
        let well = match remote.state {
            LinkState::Connected => true,
            LinkState::Disconnected => remote.problem.is_none(),
            _ => false,
        };
        let behind =
            remote.state != LinkState::Connected || flows.iter().any(|f| f.state != FlowState::Live && was_live(f));
        well && behind && !flows.iter().any(fails)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mew_contract::report::Inbound;
    use mew_contract::snapshot::Direction;
    use mew_contract::{Problem, Reason};

    fn remote(state: LinkState, problem: Option<Problem>) -> RemoteReport {
        RemoteReport {
            name: "here/there".into(),
            state,
            problem,
            endpoint: None,
            peer: None,
            latency_ms: None,
            inbound: Inbound::default(),
            certificate_not_after_ms: None,
        }
    }

    fn flow(state: FlowState, problem: Option<Problem>) -> Vec<FlowReport> {
        vec![FlowReport {
            name: "here/tasks".into(),
            remote: "here/there".into(),
            direction: Direction::Push,
            state,
            problem,
            lag_ms: None,
            pending: None,
            initial_percent: None,
            applied: 0,
            rejected: 0,
            held: 0,
            conflicts: 0,
            needs_reconcile: false,
            revision: String::new(),
            reset: None,
            last_error: None,
        }]
    }

    fn bad() -> Option<Problem> {
        Some(Problem::new(Reason::Unreachable, "the connection broke"))
    }

    /// What is said after a connection came while all was well.
    fn said(after: Duration, link: RemoteReport, flows: Vec<FlowReport>) -> (LinkState, FlowState) {
        let (mut h, start) = (Handover::default(), Instant::now());
        h.begin(start, &remote(LinkState::Connected, None), &flow(FlowState::Live, None));
        let (r, f) = h.say(start + after, link, flows);
        (r.state, f[0].state)
    }

    #[test]
    fn what_worked_is_said_until_it_works_again() {
        let soon = Duration::from_millis(20);
        let up = (LinkState::Connected, FlowState::Live);
        assert_eq!(said(soon, remote(LinkState::Disconnected, None), flow(FlowState::Waiting, None)), up);
        assert_eq!(said(soon, remote(LinkState::Connected, None), flow(FlowState::Waiting, None)), up);
        assert_eq!(said(soon, remote(LinkState::Connected, None), flow(FlowState::Copying, None)), up);
        assert_eq!(said(soon, remote(LinkState::Connected, None), flow(FlowState::Live, None)), up);
    }

    #[test]
    fn what_goes_wrong_is_said_at_once() {
        let soon = Duration::from_millis(20);
        let broken = (LinkState::Disconnected, FlowState::Waiting);
        assert_eq!(said(soon, remote(LinkState::Disconnected, bad()), flow(FlowState::Waiting, None)), broken);
        let failed = (LinkState::Connected, FlowState::Failed);
        assert_eq!(said(soon, remote(LinkState::Connected, None), flow(FlowState::Failed, bad())), failed);
        let suspended = remote(LinkState::Suspended, None);
        assert_eq!(said(soon, suspended, flow(FlowState::Waiting, None)).0, LinkState::Suspended);
        // What takes too long has gone wrong as well.
        let late = said(LONGEST, remote(LinkState::Disconnected, None), flow(FlowState::Waiting, None));
        assert_eq!(late, broken);
    }

    #[test]
    fn it_is_over_once_all_is_well() {
        let (mut h, start) = (Handover::default(), Instant::now());
        h.begin(start, &remote(LinkState::Connected, None), &flow(FlowState::Live, None));
        h.say(start, remote(LinkState::Connected, None), flow(FlowState::Live, None));
        let (r, _) = h.say(start, remote(LinkState::Disconnected, None), flow(FlowState::Waiting, None));
        assert_eq!(r.state, LinkState::Disconnected);
        // And none begins where nothing worked.
        h.begin(start, &r, &flow(FlowState::Waiting, None));
        let (r, _) = h.say(start, remote(LinkState::Disconnected, None), flow(FlowState::Waiting, None));
        assert_eq!(r.state, LinkState::Disconnected);
    }
}
