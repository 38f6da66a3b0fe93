//! One Remote: the connection and its schedule, the handshake, keepalive, and the flows with that peer.

mod consent;
mod dials;
mod flows;
mod greeting;
mod outstanding;
mod own;
mod pump;
mod renewal;
mod report;

use crate::rules::Rules;
use flows::Flow;
use mew_contract::report::Denial;
use mew_contract::{PeerInfo, Problem, Reason, RemoteItem, SyncItem};
use mew_kernel::Kernel;
use mew_model::KernelKey;
use mew_wire as wire;
use own::Own;
use renewal::{Handover, renewal};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use wire::frame::Body;

pub use outstanding::Outstanding;

/// What a process that ends tells its peers as the reason.
const STOPPING: &str = "Stopping";
/// Refusals of the peer's flows that are remembered for the report.
const MAX_DENIALS: usize = 16;
/// Flows that a peer may have open at once.
const MAX_PEER_FLOWS: usize = 256;

/// Numbers a connection; the caller chooses, ascending.
pub type ConnId = u64;

/// The wall clock, which versions carry, and a clock that never jumps, which schedules use. Both in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub wall_ms: u64,
    pub mono_ms: u64,
}

#[derive(Clone, Debug)]
pub enum Event {
    /// The Remote and its Syncs as they are now.
    Configure(Box<RemoteItem>, Vec<SyncItem>),
    /// A connection is up and the peer's identity is verified.
    Connected(Connected),
    ConnectFailed(Problem),
    /// A dial was given up, as the Remote's address is another one now.
    GivenUp,
    Frame(ConnId, wire::Frame),
    /// The connection is gone; why, if it is known.
    Closed(ConnId, Option<Problem>),
    /// The kernel committed something, or time has come.
    Wake,
    /// These entities changed in the kernel: what they blocked may be applied now.
    Changed(Arc<Vec<String>>),
    /// Which root the certificate of this side's operator comes from, if it is known.
    OwnRoot(Option<String>),
    /// This side shows another certificate to this peer from now on.
    Renewed,
    /// This process ends: the peer is told, and no connection is made or taken any more.
    Goodbye,
}

#[derive(Clone, Debug)]
pub struct Connected {
    pub conn: ConnId,
    pub dialled: bool,
    pub endpoint: String,
    pub certificate_not_after_ms: Option<u64>,
    /// By which the peer was verified, if it is known.
    pub root: Option<String>,
}

#[derive(Clone, Debug)]
pub enum Effect {
    /// Try the endpoints of the Remote in order; answer with Connected or ConnectFailed. When the endpoints change, what is on its
    /// way need not be waited for: GivenUp is its answer then.
    Dial,
    Send(ConnId, wire::Frame),
    Close(ConnId),
}

/// This side, as it shows itself to peers.
#[derive(Clone, Debug)]
pub struct Local {
    pub agent_version: String,
    /// What sinks have is saved whenever they have come so many changes further ([`crate::SAVE_EVERY`]).
    pub save_every: u64,
    /// How PEM certificates are named, the same at all sides; for those who know certificates.
    pub fingerprints: fn(&[String]) -> Vec<String>,
}

enum State {
    Idle,
    /// Waiting for the next try.
    Backoff {
        at: u64,
    },
    /// The peer could not be reached when all dials that are on their way have failed.
    Dialling,
    /// Handshake sent, none received.
    Greeting {
        conn: Connected,
        since: u64,
        /// On the wall clock: when to ask for another one all the same, as one that should have taken its place failed.
        renew_at: Option<u64>,
    },
    Up(Box<Session>),
}

struct Session {
    conn: Connected,
    peer: PeerInfo,
    since: u64,
    last_heard: u64,
    next_ping: u64,
    misses: u32,
    ping_sent: Option<(u64, u64)>,
    nonce: u64,
    next_flow: u32,
    flows: BTreeMap<u32, Flow>,
    /// Flows that the peer has asked to take from here; `None` once it has had the time to ask for all.
    asked: Option<BTreeSet<String>>,
    /// The flow that sends first the next time.
    turn: u32,
    /// On the wall clock: when to ask for a new connection, as the peer's certificate of this one ends soon, or as one failed.
    renew_at: Option<u64>,
    /// When it may be replaced for another root's sake.
    replace_at: u64,
}

pub struct Link {
    local: Local,
    config: RemoteItem,
    /// Key of the peer's kernel.
    peer: KernelKey,
    rules: Arc<Rules>,
    own: BTreeMap<String, Own>,
    /// Flows that the peer declares, took from here over an earlier connection and has not asked for again, each with the place up
    /// to which it had everything when that one ended.
    pulled: BTreeMap<String, u64>,
    state: State,
    /// Dials that are on their way, whatever has become of the connection that they were to make or to replace: each is answered,
    /// and what one does says nothing of the others.
    dials: u32,
    attempt: u32,
    ever_up: bool,
    problem: Option<Problem>,
    latency_ms: Option<u64>,
    last_peer: Option<PeerInfo>,
    denials: VecDeque<Denial>,
    inbound_failed: u64,
    /// Refused flows of the peer, each with the correlation id that the peer was given: the same one for every try.
    inbound_denied: BTreeMap<String, String>,
    /// A retry of what is held could not be made; make it at the next occasion.
    held_due: bool,
    /// Names of the configured roots.
    accepted: Vec<String>,
    /// Which root this side's certificate comes from.
    own_root: Option<String>,
    handover: Option<Handover>,
    /// Nothing is opened any more.
    ended: bool,
}

impl Link {
    pub fn new(local: Local, config: RemoteItem, kernel: &Kernel) -> Self {
        Link {
            peer: KernelKey::of(&config.peer_kernel_id),
            accepted: (local.fingerprints)(&config.roots),
            own_root: None,
            handover: None,
            rules: Arc::new(Rules::new(&config, &kernel.ontology())),
            local,
            config,
            own: BTreeMap::new(),
            pulled: BTreeMap::new(),
            state: State::Idle,
            dials: 0,
            attempt: 0,
            ever_up: false,
            problem: None,
            latency_ms: None,
            last_peer: None,
            denials: VecDeque::new(),
            inbound_failed: 0,
            inbound_denied: BTreeMap::new(),
            held_due: false,
            ended: false,
        }
    }

    pub fn config(&self) -> &RemoteItem {
        &self.config
    }

    /// Whether the peer may connect now.
    pub fn accepts(&self) -> bool {
        self.config.accept && self.enabled()
    }

    fn enabled(&self) -> bool {
        !self.config.suspend && self.config.blocked.is_none() && !self.ended
    }

    /// When to call with [`Event::Wake`] at the latest, on the clock that never jumps.
    pub fn wake_at(&self) -> Option<u64> {
        match &self.state {
            State::Idle | State::Dialling => None,
            State::Backoff { at } => Some(*at),
            State::Greeting { since, .. } => Some(since + self.config.connect_timeout_ms),
            State::Up(s) => {
                let retry = self.own.values().filter_map(|o| o.retry_at).min();
                Some(retry.map_or(s.next_ping, |r| r.min(s.next_ping)))
            }
        }
    }

    /// `random` is any fresh number; it only spreads retries and numbers correlation ids.
    pub fn handle(&mut self, now: Now, random: u64, event: Event, kernel: &Kernel) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Configure(r, syncs) => self.configure(now, *r, syncs, kernel, &mut out),
            Event::Connected(c) => self.connected(now, random, c, kernel, &mut out),
            Event::ConnectFailed(p) => {
                self.dials = self.dials.saturating_sub(1);
                self.dial_failed(now, random, Some(p));
            }
            Event::GivenUp => {
                self.dials = self.dials.saturating_sub(1);
                self.dial_failed(now, random, None);
            }
            Event::Closed(conn, p) if self.is_current(conn) => self.closed(now, random, p, kernel),
            Event::Frame(conn, f) if self.is_current(conn) => self.frame(now, random, f, kernel, &mut out),
            Event::Closed(..) | Event::Frame(..) => {}
            Event::Wake => {
                self.wake(now, random, &mut out);
                if std::mem::take(&mut self.held_due) {
                    self.retry_held(now, kernel, None, &mut out);
                }
            }
            Event::Changed(ids) => self.retry_held(now, kernel, Some(ids.to_vec()), &mut out),
            Event::OwnRoot(root) => self.own_root = root,
            Event::Renewed => self.renew(&mut out),
            Event::Goodbye => self.goodbye(&mut out),
        }
        if matches!(self.state, State::Idle) && self.config.dial && self.enabled() {
            self.state = State::Dialling;
            self.dial(&mut out);
        }
        // The one that was to come has not: behind the same name there may be another machine by now, and the one of before may
        // never answer.
        if matches!(self.state, State::Dialling) && self.handover.as_ref().is_some_and(|h| h.is_over(now)) {
            self.dial(&mut out);
        }
        self.pump(now, kernel, &mut out);
        self.settle(now);
        self.forget_pulled(now);
        out
    }

    fn connection(&self) -> Option<&Connected> {
        match &self.state {
            State::Greeting { conn, .. } => Some(conn),
            State::Up(s) => Some(&s.conn),
            _ => None,
        }
    }

    fn conn(&self) -> Option<ConnId> {
        self.connection().map(|c| c.conn)
    }

    fn is_current(&self, conn: ConnId) -> bool {
        self.conn() == Some(conn)
    }

    fn configure(&mut self, now: Now, r: RemoteItem, syncs: Vec<SyncItem>, kernel: &Kernel, out: &mut Vec<Effect>) {
        let rules = Arc::new(Rules::new(&r, &kernel.ontology()));
        let rules_changed = *rules != *self.rules || r.export != self.config.export || r.import != self.config.import;
        let other_roots = r.roots != self.config.roots;
        let other_address = r.endpoints != self.config.endpoints;
        let other_way = other_address || (r.dial, r.accept) != (self.config.dial, self.config.accept) || other_roots;
        if other_roots {
            self.accepted = (self.local.fingerprints)(&r.roots);
        }
        // A root that is gone may be one that was stolen: what it let in must prove itself again.
        let root_gone = match self.connection().and_then(|c| c.root.as_ref()) {
            Some(root) => other_roots && !self.accepted.contains(root),
            None => !certificates(&self.config.roots).is_subset(&certificates(&r.roots)),
        };
        let other_certificate = r.certificate != self.config.certificate;
        self.forget_changed(&syncs);
        self.config = r;
        self.rules = rules;
        if !self.enabled() {
            if let Some(c) = self.conn() {
                out.push(Effect::Close(c));
            }
            self.drop_flows();
            self.state = State::Idle;
            self.problem = self.config.blocked.clone();
        } else if root_gone || (other_way && !matches!(self.state, State::Up(_))) {
            // A new address or root deserves a try at once.
            if let Some(c) = self.conn() {
                out.push(Effect::Close(c));
            }
            self.drop_flows();
            (self.state, self.attempt, self.handover) = (State::Idle, 0, None);
        } else if other_certificate {
            self.renew(out);
        } else if other_address && self.dials > 0 && self.config.dial {
            // What should take the place of the connection that is up was on its way to the address of before.
            self.dial(out);
        }
        if other_roots {
            self.tell_roots(out);
        }
        self.configure_flows(now, syncs, rules_changed, kernel, out);
    }

    fn connected(&mut self, now: Now, random: u64, c: Connected, kernel: &Kernel, out: &mut Vec<Effect>) {
        self.dials = self.dials.saturating_sub(u32::from(c.dialled));
        if !self.enabled() || (!c.dialled && !self.config.accept) {
            return out.push(Effect::Close(c.conn));
        }
        if let Some(root) = c.root.as_ref().filter(|r| !self.accepted.contains(r)) {
            out.push(Effect::Close(c.conn));
            // Nothing must wait for it any more.
            if c.dialled || matches!(self.state, State::Dialling) {
                let why = format!("the root by which the peer proved who it is was withdrawn meanwhile ({root})");
                self.dial_failed(now, random, Some(Problem::new(Reason::TLSUntrustedPeer, why)));
            }
            return;
        }
        if let Some(old) = self.conn() {
            // The peer has come anew, so it has given the old connection up.
            self.begin_handover(now, kernel);
            out.push(Effect::Close(old));
            self.drop_flows();
        }
        self.greet(now, c.conn, kernel, out);
        self.state = State::Greeting { conn: c, since: now.mono_ms, renew_at: None };
    }

    /// Ends the connection and tells the peer why.
    fn hang_up(&mut self, now: Now, random: u64, why: Problem, out: &mut Vec<Effect>) {
        if let Some(c) = self.conn() {
            send(out, c, Body::Disconnect(wire::Disconnect { reason: why.reason.code().to_owned() }));
            out.push(Effect::Close(c));
        }
        self.lost(now, random, Some(why));
    }

    /// Says that this process ends. The connection is not closed: the peer does, once it has heard.
    fn goodbye(&mut self, out: &mut Vec<Effect>) {
        if let Some(c) = self.conn() {
            send(out, c, Body::Disconnect(wire::Disconnect { reason: STOPPING.to_owned() }));
        }
        self.drop_flows();
        (self.state, self.ended) = (State::Idle, true);
    }

    fn wake(&mut self, now: Now, random: u64, out: &mut Vec<Effect>) {
        let another_root = self.shows_another_root(now);
        match &mut self.state {
            State::Backoff { at } if *at <= now.mono_ms => {
                self.state = State::Dialling;
                self.dial(out);
            }
            State::Greeting { conn, since, .. } if now.mono_ms >= *since + self.config.connect_timeout_ms => {
                out.push(Effect::Close(conn.conn));
                self.lost(
                    now,
                    random,
                    Some(Problem::new(Reason::Unreachable, "the peer did not answer the handshake in time")),
                );
            }
            State::Up(s) if s.conn.certificate_not_after_ms.is_some_and(|t| t <= now.wall_ms) => {
                out.push(Effect::Close(s.conn.conn));
                let p = Problem::new(Reason::CertificateExpired, "the peer's certificate has expired");
                self.lost(now, random, Some(p));
            }
            State::Up(s) if s.renew_at.is_some_and(|t| t <= now.wall_ms) => {
                // Certificates are renewed long before: the peer has another one by now. The new connection takes the
                // place of this one once it is up.
                s.renew_at = s.conn.certificate_not_after_ms.map(|end| renewal(now.wall_ms, end));
                self.replace(out);
            }
            State::Up(_) if another_root => self.replace_for_another_root(now, out),
            State::Up(s) if now.mono_ms >= s.next_ping => {
                let k = &self.config.keepalive;
                if s.misses >= k.failure_threshold && now.mono_ms.saturating_sub(s.last_heard) >= k.timeout_ms {
                    out.push(Effect::Close(s.conn.conn));
                    let silent = now.mono_ms.saturating_sub(s.last_heard) / 1000;
                    return self.lost(
                        now,
                        random,
                        Some(Problem::new(Reason::Unreachable, format!("the peer has been silent for {silent} s"))),
                    );
                }
                s.misses += 1;
                s.nonce += 1;
                s.ping_sent = Some((s.nonce, now.mono_ms));
                s.next_ping = now.mono_ms + k.interval_ms;
                send(out, s.conn.conn, Body::Ping(wire::Ping { nonce: s.nonce }));
            }
            _ => {}
        }
    }

    fn frame(&mut self, now: Now, random: u64, f: wire::Frame, kernel: &Kernel, out: &mut Vec<Effect>) {
        let Some(body) = f.body else { return };
        if matches!(self.state, State::Greeting { .. }) && !matches!(body, Body::Handshake(_) | Body::Disconnect(_)) {
            let why = "the peer sent something else before its handshake";
            return self.hang_up(now, random, Problem::new(Reason::ProtocolMismatch, why), out);
        }
        if let State::Up(s) = &mut self.state {
            (s.last_heard, s.misses) = (now.mono_ms, 0);
        }
        match body {
            Body::Handshake(h) => self.greeted(now, random, h, kernel, out),
            Body::Ping(p) => {
                if let Some(c) = self.conn() {
                    send(out, c, Body::Pong(wire::Pong { nonce: p.nonce, now_ms: now.wall_ms }));
                }
            }
            Body::Pong(p) => {
                if let State::Up(s) = &mut self.state
                    && let Some((nonce, sent)) = s.ping_sent
                    && nonce == p.nonce
                {
                    self.latency_ms = Some(now.mono_ms.saturating_sub(sent));
                    s.ping_sent = None;
                }
            }
            Body::Disconnect(d) => {
                if let Some(c) = self.conn() {
                    out.push(Effect::Close(c));
                }
                self.lost(now, random, Some(parting(&d.reason)));
            }
            // Only whoever dialled can make another one.
            Body::Renew(_) if self.connection().is_some_and(|c| c.dialled) => self.replace(out),
            Body::Renew(_) => {}
            Body::Roots(r) => self.heard_roots(r),
            body => self.flow_frame(now, random, body, kernel, out),
        }
    }
}

/// Why the peer closed the connection, as it says.
fn parting(said: &str) -> Problem {
    if said == STOPPING {
        return Problem::new(Reason::Unreachable, "the peer's agent has stopped; flows go on when it is back");
    }
    let reason = Reason::ALL.iter().copied().find(|r| r.code() == said).unwrap_or(Reason::Unreachable);
    Problem::new(reason, format!("the peer closed the connection ({said})"))
}

/// Single certificates of some PEM texts, to compare sets of them.
fn certificates(pems: &[String]) -> BTreeSet<&str> {
    pems.iter().flat_map(|t| t.split("-----BEGIN CERTIFICATE-----").skip(1).map(str::trim)).collect()
}

fn send(out: &mut Vec<Effect>, conn: ConnId, body: Body) {
    out.push(Effect::Send(conn, wire::Frame { body: Some(body) }));
}
