//! A connection that takes the place of another one, because a certificate ends, is another one or comes from another root than
//! before: when it is asked for, and what is said meanwhile. And what both sides tell each other of the roots that they accept.

use super::own::Own;
use super::{Effect, Link, Now, State, send};
use mew_contract::report::{FlowReport, FlowState, LinkState, RemoteReport};
use mew_contract::snapshot::{Direction, SyncItem};
use mew_kernel::Kernel;
use mew_wire as wire;
use wire::frame::Body;

/// Roots of one trust domain that a peer may name: a rotation has two, and a Remote lists at most eight bundles.
const MAX_ROOTS: usize = 64;
/// SHA-256 in hex, with colons.
const MAX_FINGERPRINT: usize = 95;
/// Between tries to replace a connection: nothing is wrong with it meanwhile, and the peer may not trust a new issuer yet.
const REPLACE_EVERY_MS: u64 = 10_000;
/// A connection takes the place of another within a few round trips; after this, what is known of the new one is said.
const HANDOVER_MS: u64 = 5_000;

/// When to dial anew: after nine tenths of what is left, and not more often than once a second.
pub(super) fn renewal(now_ms: u64, end_ms: u64) -> u64 {
    now_ms + (end_ms.saturating_sub(now_ms) / 10 * 9).max(1000)
}

/// What was known when a connection began to take the place of another.
pub(super) struct Handover {
    since: Now,
    remote: RemoteReport,
    /// Those that were live.
    flows: Vec<FlowReport>,
}

impl Handover {
    pub(super) fn is_over(&self, now: Now) -> bool {
        now.mono_ms.saturating_sub(self.since.mono_ms) >= HANDOVER_MS
    }

    /// Puts what was known in the place of what is not known again yet. A change that has not arrived is at most as old as
    /// the oldest one was then, and the time since. How many wait, a source knows all the time, and a sink is told again with the
    /// first batch.
    fn cover(&self, wall_ms: u64, remote: &mut RemoteReport, flows: &mut [FlowReport]) {
        match remote.state {
            LinkState::Connected => remote.inbound.clone_from(&self.remote.inbound),
            LinkState::Connecting | LinkState::WaitingForPeer | LinkState::Disconnected => {
                remote.clone_from(&self.remote);
            }
            LinkState::Suspended | LinkState::Blocked => return,
        }
        let passed = wall_ms.saturating_sub(self.since.wall_ms);
        let is_known = |f: &FlowReport| f.problem.is_some() || f.state == FlowState::Live && f.lag_ms.is_some();
        for f in flows.iter_mut().filter(|f| !is_known(f)) {
            let Some(was) = self.flows.iter().find(|w| w.name == f.name) else { continue };
            let lag_ms = was.lag_ms.map(|l| l.saturating_add(passed));
            *f = FlowReport { lag_ms, pending: f.pending.or(was.pending), ..was.clone() };
        }
    }
}

impl Link {
    /// Asks whoever dialled for another connection, if none is on its way.
    pub(super) fn replace(&mut self, out: &mut Vec<Effect>) {
        let State::Up(s) = &self.state else { return };
        if !s.conn.dialled {
            send(out, s.conn.conn, Body::Renew(wire::Renew {}));
        } else if self.dials == 0 {
            self.dial(out);
        }
    }

    pub(super) fn replace_for_another_root(&mut self, now: Now, out: &mut Vec<Effect>) {
        if let State::Up(s) = &mut self.state {
            s.replace_at = now.mono_ms + REPLACE_EVERY_MS;
        }
        self.replace(out);
    }

    /// This side has another certificate. A new connection shall take the place of the one that is up, also of one that is on
    /// its way, as that may show the old one; and what waits for its next try has a better chance now.
    pub(super) fn renew(&mut self, out: &mut Vec<Effect>) {
        match &self.state {
            State::Up(s) if s.conn.dialled => self.dial(out),
            State::Up(_) => self.replace(out),
            State::Backoff { .. } => (self.state, self.attempt) = (State::Idle, 0),
            State::Idle | State::Dialling | State::Greeting { .. } => {}
        }
    }

    /// A connection that should take the place of what is there could not be made. With the last one of them, it is tried again
    /// later, also if another one came meanwhile: that one may show an older certificate.
    pub(super) fn redial_failed(&mut self, now: Now) {
        let (conn, renew_at) = match &mut self.state {
            State::Up(s) => (&s.conn, &mut s.renew_at),
            State::Greeting { conn, renew_at, .. } => (&*conn, renew_at),
            State::Idle | State::Backoff { .. } | State::Dialling => return,
        };
        if conn.dialled && self.dials == 0 {
            let again = now.wall_ms + REPLACE_EVERY_MS;
            *renew_at = Some(renew_at.map_or(again, |t| t.min(again)));
        }
    }

    /// Whether this side showed a certificate of another root than it has now, and the peer would accept the one of now. A
    /// Remote that names a certificate shows one of another issuer, whatever the operator's comes from.
    pub(super) fn shows_another_root(&self, now: Now) -> bool {
        let State::Up(s) = &self.state else { return false };
        if self.config.certificate.is_some() {
            return false;
        }
        let said = &s.peer.roots;
        match (&self.own_root, &said.own, &said.accepted) {
            (Some(own), Some(used), Some(accepted)) => {
                own != used && accepted.contains(own) && s.replace_at <= now.mono_ms
            }
            _ => false,
        }
    }

    pub(super) fn tell_roots(&self, out: &mut Vec<Effect>) {
        let State::Up(s) = &self.state else { return };
        if self.accepted.is_empty() {
            return;
        }
        let accepted = self.accepted.iter().take(MAX_ROOTS).cloned().collect();
        let in_use = s.conn.root.clone().unwrap_or_default();
        send(out, s.conn.conn, Body::Roots(wire::Roots { accepted, in_use }));
    }

    pub(super) fn heard_roots(&mut self, mut r: wire::Roots) {
        let State::Up(s) = &mut self.state else { return };
        r.accepted.truncate(MAX_ROOTS);
        r.accepted.retain(|f| is_fingerprint(f));
        s.peer.roots.accepted = Some(r.accepted);
        s.peer.roots.own = Some(r.in_use).filter(|f| is_fingerprint(f));
        if let Some(p) = &mut self.last_peer {
            p.roots.clone_from(&s.peer.roots);
        }
    }

    /// The connection that is up goes, and another one is there or on its way.
    pub(super) fn begin_handover(&mut self, now: Now, kernel: &Kernel) {
        if self.handover.is_some() || !matches!(self.state, State::Up(_)) {
            return;
        }
        let (remote, mut flows) = self.report(now.wall_ms, kernel);
        flows.retain(|f| f.state == FlowState::Live);
        self.handover = Some(Handover { since: now, remote, flows });
    }

    /// What was said of a Sync that is another one now says nothing.
    pub(super) fn forget_changed(&mut self, syncs: &[SyncItem]) {
        let own = &self.own;
        if let Some(h) = &mut self.handover {
            h.flows.retain(|f| own.get(&f.name).is_some_and(|o| syncs.contains(&o.item)));
        }
    }

    /// The peer has closed the connection, and the one that takes its place is on its way.
    pub(super) fn is_coming_back(&self) -> bool {
        matches!(self.state, State::Dialling) && self.handover.is_some()
    }

    /// Whether all is known again.
    pub(super) fn settle(&mut self, now: Now) {
        let Some(h) = &self.handover else { return };
        let sources = self.sources();
        // A copy that was complete before is live at once, and how far behind it is, is known a little later.
        let says_its_lag = |o: &Own| match o.item.direction {
            Direction::Push => sources.get(o.item.name.as_str()).is_some_and(|s| s.has_looked()),
            Direction::Pull => o.behind.is_some(),
        };
        let is_known = |o: &Own| o.problem.is_some() || o.live && says_its_lag(o);
        let known = |f: &FlowReport| self.own.get(&f.name).is_none_or(is_known);
        let up = matches!(self.state, State::Up(_));
        let settled = up && self.inbound().total >= h.remote.inbound.total && h.flows.iter().all(known);
        if settled || !self.enabled() || h.is_over(now) {
            self.handover = None;
        }
    }

    pub(super) fn cover(&self, wall_ms: u64, remote: &mut RemoteReport, flows: &mut [FlowReport]) {
        if let Some(h) = &self.handover {
            h.cover(wall_ms, remote, flows);
        }
    }
}

/// What a peer says goes into a status: nothing but what it is meant for.
fn is_fingerprint(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_hexdigit() || b == b':';
    !text.is_empty() && text.len() <= MAX_FINGERPRINT && text.bytes().all(good)
}
