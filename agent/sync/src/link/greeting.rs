//! The handshake: who is there, which protocol both speak, and the session that begins with it.

use super::{ConnId, Effect, Link, Now, Session, State, renewal, send};
use crate::{PROTOCOL_MAX, PROTOCOL_MIN};
use mew_contract::{PeerInfo, Problem, Reason, Roots};
use mew_kernel::Kernel;
use mew_wire as wire;
use std::collections::{BTreeMap, BTreeSet};
use wire::frame::Body;

/// Bytes of a peer's incarnation and version, which are kept and reported.
const MAX_WORD: usize = 128;

impl Link {
    pub(super) fn greet(&self, now: Now, conn: ConnId, kernel: &Kernel, out: &mut Vec<Effect>) {
        let hello = wire::Handshake {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            capabilities: Vec::new(),
            kernel_id: kernel.identity().kernel_id.clone(),
            incarnation: kernel.incarnation().to_owned(),
            head: kernel.head(),
            agent_version: self.local.agent_version.clone(),
            now_ms: now.wall_ms,
        };
        send(out, conn, Body::Handshake(hello));
    }

    pub(super) fn greeted(
        &mut self,
        now: Now,
        random: u64,
        h: wire::Handshake,
        kernel: &Kernel,
        out: &mut Vec<Effect>,
    ) {
        let State::Greeting { conn, renew_at, .. } = &self.state else { return };
        let (conn, again) = (conn.clone(), *renew_at);
        let refuse = if h.kernel_id != self.config.peer_kernel_id {
            Some(Problem::new(
                Reason::IdentityMismatch,
                format!(
                    "the kernel there calls itself {}, the Remote names {}",
                    h.kernel_id, self.config.peer_kernel_id
                ),
            ))
        } else if h.protocol_max < PROTOCOL_MIN || h.protocol_min > PROTOCOL_MAX {
            Some(Problem::new(
                Reason::ProtocolMismatch,
                format!(
                    "the peer speaks protocol {} to {}, this agent {PROTOCOL_MIN} to {PROTOCOL_MAX}",
                    h.protocol_min, h.protocol_max
                ),
            ))
        } else if h.incarnation.len() > MAX_WORD || h.agent_version.len() > MAX_WORD {
            let why = "the peer's incarnation or version is too long";
            Some(Problem::new(Reason::ProtocolMismatch, why))
        } else {
            None
        };
        if let Some(p) = refuse {
            return self.hang_up(now, random, p, out);
        }
        let peer = PeerInfo {
            kernel_id: h.kernel_id,
            incarnation: h.incarnation,
            agent_version: h.agent_version,
            protocol: h.protocol_max.min(PROTOCOL_MAX),
            certificate_not_after_ms: conn.certificate_not_after_ms,
            roots: Roots {
                own: None,
                peer: conn.root.clone(),
                accepted: self.last_peer.as_ref().and_then(|p| p.roots.accepted.clone()),
            },
        };
        let peer_end = peer.certificate_not_after_ms;
        self.last_peer = Some(peer.clone());
        self.problem = None;
        self.attempt = 0;
        self.ever_up = true;
        let next_flow = if conn.dialled { 1 } else { 2 };
        self.state = State::Up(Box::new(Session {
            conn,
            peer,
            since: now.mono_ms,
            last_heard: now.mono_ms,
            // The first one at once: it measures the latency.
            next_ping: now.mono_ms,
            misses: 0,
            ping_sent: None,
            nonce: 0,
            next_flow,
            flows: BTreeMap::new(),
            asked: Some(BTreeSet::new()),
            turn: 0,
            renew_at: peer_end.map(|end| renewal(now.wall_ms, end)).into_iter().chain(again).min(),
            replace_at: 0,
        }));
        self.tell_roots(out);
        self.open_all(now, kernel, out);
        self.wake(now, random, out);
    }
}
