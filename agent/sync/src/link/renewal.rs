//! A new connection in place of the one that is up, as certificates end or are others now: when it is asked for, and what is
//! so until it is there.

use super::{Effect, Link, Now, State, send};
use mew_wire as wire;
use wire::frame::Body;

/// What is up goes on when the connection that shall take its place cannot be made: the peer may not trust a new issuer yet.
const REDIAL_MS: u64 = 10_000;

/// When to dial anew: after nine tenths of what is left, and not more often than once a second.
pub(super) fn renewal(now_ms: u64, end_ms: u64) -> u64 {
    now_ms + (end_ms.saturating_sub(now_ms) / 10 * 9).max(1000)
}

impl Link {
    /// A new connection shall take the place of the one that is up, once it is up itself; and what waits for its next try has
    /// a better chance now.
    pub(super) fn renew(&mut self, out: &mut Vec<Effect>) {
        match &mut self.state {
            State::Up(s) if s.conn.dialled => {
                s.redialled = true;
                out.push(Effect::Dial);
            }
            State::Up(s) => send(out, s.conn.conn, Body::Renew(wire::Renew {})),
            State::Backoff { .. } => (self.state, self.attempt) = (State::Idle, 0),
            State::Idle | State::Dialling | State::Greeting { .. } => {}
        }
    }

    /// The connection that should take the place of the one that is up could not be made.
    pub(super) fn redial_failed(&mut self, now: Now) {
        if let State::Up(s) = &mut self.state
            && std::mem::take(&mut s.redialled)
        {
            let again = now.wall_ms + REDIAL_MS;
            s.renew_at = Some(s.renew_at.map_or(again, |t| t.min(again)));
        }
    }

    pub(super) fn is_redialled(&self) -> bool {
        matches!(&self.state, State::Up(s) if s.redialled)
    }

    /// The peer has been there, and nothing has gone wrong since: what takes the place of the connection that it closed is
    /// on its way.
    pub(super) fn is_coming_back(&self) -> bool {
        matches!(self.state, State::Dialling) && self.ever_up && self.problem.is_none()
    }
}
