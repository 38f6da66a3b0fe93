//! The sending side: what the windows have room for goes out, and what cannot be sent ends its flow.

use super::flows::{End, Flow};
use super::{Effect, Link, Now, State, send};
use crate::source::Source;
use bytes::Bytes;
use mew_contract::{Problem, Reason};
use mew_kernel::Kernel;
use mew_wire as wire;
use std::collections::BTreeMap;
use wire::frame::Body;

/// Bytes of data on their way to one peer: the windows of two flows, and twice what a Gbit/s holds in 100 ms. Flows have
/// bounds of their own; this one is for many of them together, to a peer that is slow.
const MAX_BYTES_IN_FLIGHT: usize = 32 << 20;

impl Link {
    /// Sends what the windows have room for.
    pub(super) fn pump(&mut self, now: Now, kernel: &Kernel, out: &mut Vec<Effect>) {
        let due = self.own.values().any(|o| o.flow.is_none() && o.retry_at.is_some_and(|t| t <= now.mono_ms));
        if due {
            self.open_all(now, kernel, out);
        }
        let State::Up(s) = &mut self.state else { return };
        let conn = s.conn.conn;
        let mut failed = Vec::new();
        let mut bytes: usize = s.flows.values().map(Flow::bytes_in_flight).sum();
        // Where it stopped for want of room, so that each flow has its turn.
        let numbers: Vec<u32> = s.flows.range(s.turn..).chain(s.flows.range(..s.turn)).map(|(n, _)| *n).collect();
        let mut turn = None;
        for n in numbers {
            let Some(f) = s.flows.get_mut(&n) else { continue };
            let End::Source(source) = &mut f.end else { continue };
            // A full disk is no reason to stop sending; compaction waits.
            if source.members.is_due(now.wall_ms, self.local.save_every)
                && source.members.save(kernel, now.wall_ms).is_err()
            {
                source.members.postpone(now.wall_ms);
            }
            let mut next_turn = n;
            loop {
                if bytes >= MAX_BYTES_IN_FLIGHT {
                    turn.get_or_insert(next_turn);
                    break;
                }
                let next = source.next(kernel, n);
                if source.members.must_save
                    && let Err(e) = source.members.save(kernel, now.wall_ms)
                {
                    let why = format!("what the sink is to have cannot be saved before it is sent: {e}");
                    failed.push((n, Problem::new(Reason::SourceError, why)));
                    break;
                }
                match next {
                    Ok(Some(p)) => {
                        f.sent = p.upto;
                        bytes += p.entities.iter().map(Bytes::len).sum::<usize>();
                        next_turn = n.wrapping_add(1);
                        send(out, conn, Body::SyncPush(p));
                    }
                    Ok(None) => break,
                    Err(p) => {
                        failed.push((n, p));
                        break;
                    }
                }
            }
            if let Some(o) = self.own.get_mut(&f.name).filter(|_| f.own) {
                o.confirmed = Some(source.confirmed());
            }
        }
        s.turn = turn.unwrap_or(0);
        for (flow, p) in failed {
            self.stop_source(now, 0, flow, p, out);
        }
    }

    /// Ends a flow that this side is the source of, and tells the peer why.
    pub(super) fn stop_source(&mut self, now: Now, random: u64, flow: u32, p: Problem, out: &mut Vec<Effect>) {
        let State::Up(s) = &mut self.state else { return };
        let conn = s.conn.conn;
        let Some(f) = s.flows.remove(&flow) else { return };
        if f.own {
            send(out, conn, Body::FlowClose(wire::FlowClose { flow }));
            self.fail_own(now, random, &f.name, p);
        } else {
            // A refusal, not a close: the peer waits before it asks again.
            let refuse = wire::FlowRefuse {
                flow,
                code: p.reason.code().to_owned(),
                message: p.message,
                correlation_id: String::new(),
            };
            send(out, conn, Body::FlowRefuse(refuse));
        }
    }

    pub(super) fn sources(&self) -> BTreeMap<&str, &Source> {
        let State::Up(s) = &self.state else { return BTreeMap::new() };
        s.flows
            .values()
            .filter(|f| f.own)
            .filter_map(|f| match &f.end {
                End::Source(s) => Some((f.name.as_str(), s.as_ref())),
                _ => None,
            })
            .collect()
    }
}
