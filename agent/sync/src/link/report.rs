//! What a link says of itself.

use super::{Link, State};
use mew_contract::report::{FlowReport, FlowState, Inbound, LinkState, RemoteReport};
use mew_contract::snapshot::Direction;
use mew_kernel::Kernel;

impl Link {
    pub fn report(&self, wall_ms: u64, kernel: &Kernel) -> (RemoteReport, Vec<FlowReport>) {
        let state = match &self.state {
            _ if self.config.suspend => LinkState::Suspended,
            _ if self.config.blocked.is_some() => LinkState::Blocked,
            State::Up(_) => LinkState::Connected,
            _ if self.ever_up => LinkState::Disconnected,
            _ if !self.config.dial => LinkState::WaitingForPeer,
            _ => LinkState::Connecting,
        };
        let (endpoint, peer) = match &self.state {
            State::Up(s) => (Some(s.conn.endpoint.clone()), Some(s.peer.clone())),
            _ => (None, self.last_peer.clone()),
        };
        let mut remote = RemoteReport {
            name: self.config.name.clone(),
            state,
            problem: if state == LinkState::Connected { None } else { self.problem.clone() },
            endpoint,
            peer,
            latency_ms: self.latency_ms,
            inbound: self.inbound(),
            // Whoever has the certificates knows.
            certificate_not_after_ms: None,
        };
        let sources = self.sources();
        // Nothing waits for a peer that is kept away on purpose.
        let kept_away = matches!(state, LinkState::Suspended | LinkState::Blocked);
        let mut flows: Vec<FlowReport> = self
            .own
            .values()
            .map(|o| {
                let source = sources.get(o.item.name.as_str());
                let problem = o.item.blocked.clone().or_else(|| o.problem.clone());
                let state = if o.item.suspend {
                    FlowState::Suspended
                } else if problem.is_some() {
                    FlowState::Failed
                } else if state != LinkState::Connected || o.flow.is_none() {
                    FlowState::Waiting
                } else if o.live {
                    FlowState::Live
                } else if o.percent.is_some() || source.is_some() {
                    FlowState::Copying
                } else {
                    FlowState::Waiting
                };
                let (lag_ms, pending) = match (o.item.direction, source, o.behind) {
                    (Direction::Push, Some(s), _) => {
                        (o.live.then(|| s.lag_ms(wall_ms)).flatten(), Some(s.pending(kernel.head())))
                    }
                    // The sink is away: how old the oldest is that matches is not known without reading the log.
                    (Direction::Push, None, _) if !kept_away => {
                        (None, o.confirmed.map(|at| kernel.head().saturating_sub(at)))
                    }
                    (Direction::Pull, _, Some((pending, oldest))) if state == FlowState::Live => {
                        (Some(if oldest == 0 { 0 } else { wall_ms.saturating_sub(oldest) }), Some(pending))
                    }
                    _ => (None, None),
                };
                FlowReport {
                    name: o.item.name.clone(),
                    remote: o.item.remote.clone(),
                    direction: o.item.direction,
                    state,
                    problem,
                    lag_ms,
                    pending,
                    initial_percent: o.percent,
                    applied: o.counts.applied,
                    rejected: o.counts.rejected,
                    held: self.held_here(kernel, &o.item).unwrap_or(o.counts.held),
                    conflicts: o.counts.conflicts,
                    needs_reconcile: o.needs_reconcile,
                    revision: o.revision.clone(),
                    reset: o.item.reset.clone(),
                    last_error: o.last_error.clone(),
                }
            })
            .collect();
        self.cover(wall_ms, &mut remote, &mut flows);
        (remote, flows)
    }

    pub(super) fn inbound(&self) -> Inbound {
        let open = match &self.state {
            State::Up(s) => s.flows.values().filter(|f| !f.is_own()).count() as u64,
            _ => 0,
        };
        let denied = self.inbound_denied.len() as u64;
        Inbound {
            total: open + denied,
            denied,
            failed: self.inbound_failed,
            denials: self.denials.iter().cloned().collect(),
        }
    }
}
