//! The flows on a connection: what their frames do, and this side as their source or their sink.

use super::own::refusal;
use super::{Effect, Link, Now, State, send};
use crate::apply::Incoming;
use crate::definition::Definition;
use crate::members::Members;
use crate::records;
use crate::source::Source;
use crate::{held, sink};
use mew_contract::problem::shortened;
use mew_contract::{Problem, Reason};
use mew_kernel::Kernel;
use mew_wire as wire;
use prost::Message;
use std::sync::Arc;
use wire::frame::Body;

/// What a refusal tells the other side when policy or permissions are the reason: nothing.
pub(super) const DENIED: &str = "Denied";

/// A flow on the connection.
pub struct Flow {
    /// Declaring namespace/name.
    pub name: String,
    pub own: bool,
    pub end: End,
    /// Position after the last batch that this side sent as the source.
    pub sent: u64,
}

impl Flow {
    pub fn is_own(&self) -> bool {
        self.own
    }

    /// Bytes that this side sent and the other has not acknowledged.
    pub fn bytes_in_flight(&self) -> usize {
        match &self.end {
            End::Source(s) => s.bytes_in_flight(),
            End::Asked(_) | End::Sink(_) => 0,
        }
    }
}

pub enum End {
    /// Opened by this side and not answered yet.
    Asked(Definition),
    Source(Box<Source>),
    Sink(Box<Sink>),
}

impl End {
    /// Where a source begins to send.
    pub(super) fn start(&self) -> u64 {
        match self {
            End::Source(s) => s.acked,
            End::Asked(_) | End::Sink(_) => 0,
        }
    }

    /// Whether a source does not know any more what its sink has.
    pub(super) fn needs_reconcile(&self) -> bool {
        match self {
            End::Source(s) => s.members.needs_reconcile,
            End::Asked(_) | End::Sink(_) => false,
        }
    }
}

pub struct Sink {
    from: Incoming,
    incarnation: String,
    reset: String,
    /// Revision and position that the source was told, then those of the last batch.
    at: Option<(String, u64)>,
    /// Position after the last batch of this connection; what the store says before that is not this source's to hear.
    acked: u64,
}

impl Sink {
    /// What is wrong with a batch's place in the flow. One that is missing is noticed when the batch is applied.
    fn goes_back(&self, p: &wire::SyncPush) -> Option<Problem> {
        let at = self.at.as_ref().filter(|(revision, at)| *revision == p.revision && p.after < *at).map(|(_, at)| *at);
        let why = match at {
            Some(at) => format!("a batch begins after {} and the sink is at {at} already", p.after),
            None if p.upto < p.after => format!("a batch begins after {} and ends at {}", p.after, p.upto),
            None => return None,
        };
        Some(Problem::new(Reason::SourceError, why))
    }
}

impl Link {
    fn source_key(&self, own: bool, kernel: &Kernel, flow: &str) -> String {
        let me = &kernel.identity().kernel_id;
        records::flow_key(me, if own { me } else { &self.config.peer_kernel_id }, flow)
    }

    pub(super) fn sink_key(&self, own: bool, kernel: &Kernel, flow: &str) -> String {
        let declarer = if own { &kernel.identity().kernel_id } else { &self.config.peer_kernel_id };
        records::flow_key(&self.config.peer_kernel_id, declarer, flow)
    }

    pub(super) fn drop_flows(&mut self) {
        for o in self.own.values_mut() {
            (o.flow, o.retry_at) = (None, None);
            o.live = false;
        }
        if let State::Up(s) = &mut self.state {
            let at = |f: &Flow| match &f.end {
                End::Source(source) if !f.own => Some((f.name.clone(), source.confirmed())),
                End::Source(_) | End::Asked(_) | End::Sink(_) => None,
            };
            let open: Vec<(String, u64)> = s.flows.values().filter_map(at).collect();
            s.flows.clear();
            self.remember_pulled(open);
        }
    }

    pub(super) fn close(&mut self, flow: Option<u32>, out: &mut Vec<Effect>) {
        if let (Some(n), State::Up(s)) = (flow, &mut self.state)
            && s.flows.remove(&n).is_some()
        {
            send(out, s.conn.conn, Body::FlowClose(wire::FlowClose { flow: n }));
        }
    }

    pub(super) fn flow_frame(&mut self, now: Now, random: u64, body: Body, kernel: &Kernel, out: &mut Vec<Effect>) {
        match body {
            Body::FlowOpen(f) => self.asked(now, f, random, kernel, out),
            Body::FlowAccept(f) => self.accepted(now, random, f, kernel, out),
            Body::FlowRefuse(f) => {
                if let Some(name) = self.remove(f.flow) {
                    self.fail_own(now, random, &name, refusal(&f));
                }
            }
            Body::FlowClose(f) => {
                if let Some(name) = self.remove(f.flow) {
                    // Closed by the peer because its rules changed: ask again.
                    if let Some(o) = self.own.get_mut(&name) {
                        (o.flow, o.live, o.retry_at) = (None, false, Some(now.mono_ms));
                    }
                    self.open_all(now, kernel, out);
                }
            }
            Body::RulesChanged(_) => {
                for o in self.own.values_mut().filter(|o| o.flow.is_none()) {
                    (o.retry_at, o.attempt) = (o.retry_at.map(|_| now.mono_ms), 0);
                }
                self.open_all(now, kernel, out);
            }
            Body::SyncPush(p) => self.pushed(now, random, p, kernel, out),
            Body::SyncAck(a) => {
                let State::Up(s) = &mut self.state else { return };
                let Some(f) = s.flows.get_mut(&a.flow) else { return };
                if let End::Source(source) = &mut f.end {
                    if a.upto > f.sent {
                        let why = format!("the sink acknowledges {} and was sent what is up to {}", a.upto, f.sent);
                        let p = Problem::new(Reason::SinkError, why);
                        return self.stop_source(now, random, a.flow, p, out);
                    }
                    source.ack(a.upto);
                    if let Some(o) = self.own.get_mut(&f.name).filter(|_| f.own) {
                        o.counts = a.counts.unwrap_or_default();
                        // Only now: a sink that refuses every batch would seem well for a moment after each try.
                        o.problem = None;
                        (o.percent, o.live, o.attempt) = (Some(source.percent()), source.is_live(), 0);
                        if !a.refusal.is_empty() {
                            o.last_error = Some(Problem::new(Reason::SinkError, a.refusal));
                        }
                    }
                }
            }
            Body::SyncNack(n) => {
                let p = Problem::new(code(&n.code, Reason::SinkError), n.message);
                if let Some(name) = self.remove(n.flow) {
                    self.fail_own(now, random, &name, p);
                } else {
                    self.inbound_failed += 1;
                }
            }
            _ => {}
        }
    }

    /// Takes a flow off the connection; its name if it is an own one.
    fn remove(&mut self, flow: u32) -> Option<String> {
        let State::Up(s) = &mut self.state else { return None };
        s.flows.remove(&flow).filter(|f| f.own).map(|f| f.name)
    }

    pub(super) fn new_sink(
        &self,
        flow: String,
        incarnation: String,
        reset: String,
        delete: bool,
        delete_on_unmatch: bool,
        position: Option<&wire::Position>,
    ) -> Sink {
        let from = Incoming {
            flow,
            remote: self.config.name.clone(),
            peer_kernel_id: self.config.peer_kernel_id.clone(),
            peer: self.peer,
            rules: Arc::clone(&self.rules),
            delete,
            delete_on_unmatch,
        };
        Sink { from, incarnation, reset, at: position.map(|p| (p.revision.clone(), p.seq)), acked: 0 }
    }

    pub(super) fn new_source(
        &self,
        now: Now,
        own: bool,
        name: &str,
        mut d: Definition,
        full: bool,
        position: Option<&wire::Position>,
        kernel: &Kernel,
    ) -> Result<Source, Problem> {
        // A data directory may have been put back to an earlier copy of itself: what is written then would pass for sent.
        let head = kernel.head();
        if let Some(p) = position
            && (p.incarnation != kernel.incarnation() || p.seq.max(p.start).max(p.previous_seq) > head)
        {
            let why = format!(
                "the sink is at {} and the source's log ends at {head}; check what was lost there, then request a reset to copy anew",
                p.seq
            );
            return Err(Problem::new(Reason::SourceReset, why));
        }
        let failed = |e: &dyn std::fmt::Display| Problem::new(Reason::SourceError, e.to_string());
        let flow = self.source_key(own, kernel, name);
        let o = kernel.ontology();
        let sink = self.config.peer_kernel_id.clone();
        let earlier = |revision: &str| {
            let b = kernel.view().fact(&records::definition_key(&sink, &flow, revision)).ok().flatten();
            records::read::<wire::FlowDefinition>(b).and_then(|d| Definition::from_wire(&d, &o))
        };
        let mut members = Members::load(&kernel.view(), &sink, &flow).map_err(|e| failed(&e))?;
        if let Some(p) = position {
            members = members.reconsidered(p, now.wall_ms);
            d.generation = members.generation;
        }
        let key = records::definition_key(&sink, &flow, &d.revision());
        if kernel.view().fact(&key).ok().flatten().is_none() {
            let value = d.to_wire(&o).encode_to_vec();
            kernel
                .write(0, move |tx| {
                    tx.set_fact(key, value);
                    Ok(())
                })
                .map_err(|e| failed(&e))?;
        }
        let mut source = Source::begin(kernel, self.peer, d, full, position, members, earlier)?;
        // Before anything is sent: from now on compaction must spare what this flow needs.
        if position.is_none() || source.members.is_due(now.wall_ms, self.local.save_every) {
            source.members.save(kernel, now.wall_ms).map_err(|e| failed(&e))?;
        }
        Ok(source)
    }

    fn pushed(&mut self, now: Now, random: u64, p: wire::SyncPush, kernel: &Kernel, out: &mut Vec<Effect>) {
        let State::Up(s) = &mut self.state else { return };
        let conn = s.conn.conn;
        let Some(f) = s.flows.get_mut(&p.flow) else { return };
        let End::Sink(sink) = &mut f.end else { return };
        let (flow, upto, live, percent) = (p.flow, p.upto, p.live, p.percent);
        let (pending, oldest) = (p.pending, p.oldest_ms);
        let (name, own) = (f.name.clone(), f.own);
        let revision = p.revision.clone();
        let applied = match sink.goes_back(&p) {
            Some(why) => Err(why),
            None => sink::apply_push(kernel, now.wall_ms, sink.from.clone(), &sink.incarnation, &sink.reset, p),
        };
        match applied {
            Ok(done) => {
                let rescan = sink.at.as_ref().is_some_and(|(r, _)| *r != revision);
                (sink.at, sink.acked) = (Some((revision, upto)), upto);
                let (why, told) = done.rejected.map(|r| (r.why, r.told)).unzip();
                let refusal = shortened(told.unwrap_or_default());
                send(out, conn, Body::SyncAck(wire::SyncAck { flow, upto, counts: Some(done.counts), refusal }));
                if let Some(o) = self.own.get_mut(&name).filter(|_| own) {
                    o.problem = None;
                    (o.counts, o.live, o.attempt) = (done.counts, live && pending == 0 || o.live && !rescan, 0);
                    o.percent = Some(if o.live || live { 100 } else { percent.min(100) as u8 });
                    o.behind = Some((pending, if pending > 0 { oldest } else { 0 }));
                    if let Some(why) = why {
                        o.last_error = Some(Problem::new(Reason::SinkError, why));
                    }
                }
            }
            Err(problem) => {
                let nack =
                    wire::SyncNack { flow, code: problem.reason.code().to_owned(), message: problem.message.clone() };
                send(out, conn, Body::SyncNack(nack));
                s.flows.remove(&flow);
                if own {
                    self.fail_own(now, random, &name, problem);
                } else {
                    self.inbound_failed += 1;
                }
            }
        }
    }

    /// Tries held entities again: those that something in `changed` blocks, or all.
    pub(super) fn retry_held(
        &mut self,
        now: Now,
        kernel: &Kernel,
        changed: Option<Vec<String>>,
        out: &mut Vec<Effect>,
    ) {
        let State::Up(s) = &self.state else { return };
        let mut done = Vec::new();
        for (n, f) in &s.flows {
            let End::Sink(sink) = &f.end else { continue };
            if sink::held(kernel, &sink.from.flow) == 0 {
                continue;
            }
            match held::retry(kernel, now.wall_ms, &sink.from, changed.clone()) {
                Ok(0) => {}
                Ok(_) => done.push((*n, sink.acked, sink::counts(kernel, &sink.from.flow).1)),
                // The disk, most likely; the flow itself meets it as well and reports it.
                Err(_) => self.held_due = true,
            }
        }
        // The other side shows how many are held.
        let conn = s.conn.conn;
        for (flow, upto, counts) in done {
            let ack = wire::SyncAck { flow, upto, counts: Some(counts), refusal: String::new() };
            send(out, conn, Body::SyncAck(ack));
        }
    }
}

pub(super) fn code(text: &str, otherwise: Reason) -> Reason {
    Reason::ALL.iter().copied().find(|r| r.code() == text).unwrap_or(otherwise)
}
