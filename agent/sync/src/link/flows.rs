//! The flows of a link: those that this side declares, and those that the peer does and this side consents to.

use super::{Effect, Link, Now, State, send};
use crate::apply::Incoming;
use crate::backoff::wait_ms;
use crate::definition::Definition;
use crate::members::Members;
use crate::records;
use crate::rules::Rules;
use crate::source::Source;
use crate::{held, shapes, sink};
use mew_contract::snapshot::{Direction, Edges, Initial};
use mew_contract::{Problem, Reason, SyncItem};
use mew_kernel::Kernel;
use mew_model::{Ontology, name};
use mew_wire as wire;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::frame::Body;

/// What a refusal tells the other side when policy or permissions are the reason: nothing.
pub(super) const DENIED: &str = "Denied";

/// A Sync of this side.
pub struct Own {
    pub item: SyncItem,
    /// Why it does not run now.
    pub problem: Option<Problem>,
    pub last_error: Option<Problem>,
    pub attempt: u32,
    pub retry_at: Option<u64>,
    /// Its number on the connection, while it is open or being opened.
    pub flow: Option<u32>,
    pub counts: wire::Counts,
    pub revision: String,
    pub percent: Option<u8>,
    pub live: bool,
    /// What the source last said about itself, if this side is the sink.
    pub behind: Option<(u64, u64)>,
}

impl Own {
    fn new(item: SyncItem) -> Self {
        Own {
            item,
            problem: None,
            last_error: None,
            attempt: 0,
            retry_at: None,
            flow: None,
            counts: wire::Counts::default(),
            revision: String::new(),
            percent: None,
            live: false,
            behind: None,
        }
    }
}

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
            s.flows.clear();
        }
    }

    pub(super) fn configure_flows(
        &mut self,
        now: Now,
        syncs: Vec<SyncItem>,
        rules_changed: bool,
        kernel: &Kernel,
        out: &mut Vec<Effect>,
    ) {
        let mut old = std::mem::take(&mut self.own);
        for item in syncs {
            let same = old.get(&item.name).is_some_and(|o| o.item == item);
            let mut o = match old.remove(&item.name) {
                Some(o) if same => o,
                Some(o) => {
                    self.close(o.flow, out);
                    Own { last_error: o.last_error, counts: o.counts, ..Own::new(item.clone()) }
                }
                None => Own::new(item.clone()),
            };
            if rules_changed {
                self.close(o.flow.take(), out);
                o.live = false;
            }
            o.retry_at = o.retry_at.map(|_| now.mono_ms);
            self.own.insert(item.name.clone(), o);
        }
        for gone in old.into_values() {
            self.close(gone.flow, out);
        }
        if rules_changed {
            self.inbound_denied.clear();
            let theirs: Vec<u32> = match &self.state {
                State::Up(s) => s.flows.iter().filter(|(_, f)| !f.own).map(|(n, _)| *n).collect(),
                _ => Vec::new(),
            };
            // The peer opens them again and meets the new rules.
            for n in theirs {
                self.close(Some(n), out);
            }
            if let State::Up(s) = &self.state {
                send(out, s.conn.conn, Body::RulesChanged(wire::RulesChanged {}));
            }
        }
        self.open_all(now, kernel, out);
    }

    fn close(&mut self, flow: Option<u32>, out: &mut Vec<Effect>) {
        if let (Some(n), State::Up(s)) = (flow, &mut self.state)
            && s.flows.remove(&n).is_some()
        {
            send(out, s.conn.conn, Body::FlowClose(wire::FlowClose { flow: n }));
        }
    }

    /// Opens every own flow that is not open, not forbidden and not waiting.
    pub(super) fn open_all(&mut self, now: Now, kernel: &Kernel, out: &mut Vec<Effect>) {
        let names: Vec<String> = self.own.keys().cloned().collect();
        for n in names {
            let Some(o) = self.own.get_mut(&n) else { continue };
            if o.item.suspend || o.item.blocked.is_some() || o.flow.is_some() {
                continue;
            }
            if o.retry_at.is_some_and(|t| t > now.mono_ms) {
                continue;
            }
            o.retry_at = None;
            let prepared = prepare(&o.item, &self.rules, kernel);
            let State::Up(s) = &mut self.state else {
                // What is wrong on this side is said without asking the peer.
                let own = |p: &Problem| {
                    matches!(p.reason, Reason::PermissionDenied | Reason::TypeUnknown | Reason::InvalidPattern)
                };
                match prepared {
                    Err(p) => o.problem = Some(p),
                    Ok(_) if o.problem.as_ref().is_some_and(own) => o.problem = None,
                    Ok(_) => {}
                }
                continue;
            };
            match prepared {
                Err(p) => {
                    o.last_error = Some(p.clone());
                    o.problem = Some(p);
                    // Another ontology can mend it; another spec comes as a new configuration.
                    o.retry_at = Some(now.mono_ms + self.config.retry.max_ms);
                }
                Ok(d) => {
                    let number = s.next_flow;
                    s.next_flow += 2;
                    let (item, conn, incarnation) = (o.item.clone(), s.conn.conn, s.peer.incarnation.clone());
                    let position = match item.direction {
                        Direction::Push => None,
                        Direction::Pull => {
                            let key = self.sink_key(true, kernel, &item.name);
                            match sink::position(
                                sink::state(kernel, &key).as_ref(),
                                &incarnation,
                                item.reset.as_deref().unwrap_or(""),
                            ) {
                                Ok(p) => p,
                                Err(p) => {
                                    self.fail_own(now, 0, &item.name, p);
                                    continue;
                                }
                            }
                        }
                    };
                    let open = wire::FlowOpen {
                        flow: number,
                        name: item.name.clone(),
                        opener_is_source: item.direction == Direction::Push,
                        r#match: item.pattern.clone(),
                        edges: item.edges == Edges::Incident,
                        initial: item.initial == Initial::Full,
                        delete_at_sink: item.delete_at_sink,
                        delete_on_unmatch: item.delete_on_unmatch,
                        types: shapes::of_types(&kernel.ontology(), &d.types),
                        reset: item.reset.clone().unwrap_or_default(),
                        position,
                    };
                    send(out, conn, Body::FlowOpen(open));
                    if let (State::Up(s), Some(o)) = (&mut self.state, self.own.get_mut(&n)) {
                        o.flow = Some(number);
                        s.flows.insert(number, Flow { name: n, own: true, end: End::Asked(d), sent: 0 });
                    }
                }
            }
        }
    }

    fn fail_own(&mut self, now: Now, random: u64, name: &str, p: Problem) {
        let retry = self.config.retry;
        let Some(o) = self.own.get_mut(name) else { return };
        o.retry_at = Some(now.mono_ms + wait_ms(&retry, o.attempt, random));
        o.attempt = o.attempt.saturating_add(1);
        (o.flow, o.live) = (None, false);
        o.last_error = Some(p.clone());
        o.problem = Some(p);
    }

    // ---------------------------------------------------------------- frames

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

    /// The peer consents to an own flow.
    fn accepted(&mut self, now: Now, random: u64, a: wire::FlowAccept, kernel: &Kernel, out: &mut Vec<Effect>) {
        let State::Up(s) = &mut self.state else { return };
        let incarnation = s.peer.incarnation.clone();
        let Some(f) = s.flows.get(&a.flow).filter(|f| f.own) else { return };
        let (name, End::Asked(d)) = (f.name.clone(), &f.end) else { return };
        let mut d = d.clone();
        let Some(item) = self.own.get(&name).map(|o| o.item.clone()) else { return };
        d.narrow(&a.types.iter().map(|t| name::number(t)).collect());
        let revision = d.revision();
        let reset = item.reset.clone().unwrap_or_default();
        let end = match item.direction {
            Direction::Push => self
                .new_source(now, true, &name, d, item.initial == Initial::Full, a.position.as_ref(), kernel)
                .map(|s| End::Source(Box::new(s))),
            Direction::Pull => {
                let key = self.sink_key(true, kernel, &name);
                sink::position(sink::state(kernel, &key).as_ref(), &incarnation, &reset).map(|at| {
                    let (delete, unmatch) = (item.delete_at_sink, item.delete_on_unmatch);
                    End::Sink(Box::new(self.new_sink(key, incarnation, reset, delete, unmatch, at.as_ref())))
                })
            }
        };
        match end {
            Ok(end) => {
                if let (State::Up(s), Some(o)) = (&mut self.state, self.own.get_mut(&name)) {
                    o.revision = revision;
                    if let Some(f) = s.flows.get_mut(&a.flow) {
                        (f.sent, f.end) = (end.start(), end);
                    }
                }
                self.retry_held(now, kernel, None, out);
            }
            Err(p) => {
                self.close(Some(a.flow), out);
                self.fail_own(now, random, &name, p);
            }
        }
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
                (sink.at, sink.acked) = (Some((revision, upto)), upto);
                send(out, conn, Body::SyncAck(wire::SyncAck { flow, upto, counts: Some(done.counts) }));
                if let Some(o) = self.own.get_mut(&name).filter(|_| own) {
                    o.problem = None;
                    (o.counts, o.live, o.attempt) = (done.counts, live && pending == 0 || o.live, 0);
                    o.percent = Some(if live { 100 } else { percent.min(100) as u8 });
                    o.behind = Some((pending, if pending > 0 { oldest } else { 0 }));
                    if let Some(why) = done.rejected {
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
            send(out, conn, Body::SyncAck(wire::SyncAck { flow, upto, counts: Some(counts) }));
        }
    }

    /// Sends what the windows have room for.
    pub(super) fn pump(&mut self, now: Now, kernel: &Kernel, out: &mut Vec<Effect>) {
        let due = self.own.values().any(|o| o.flow.is_none() && o.retry_at.is_some_and(|t| t <= now.mono_ms));
        if due {
            self.open_all(now, kernel, out);
        }
        let State::Up(s) = &mut self.state else { return };
        let conn = s.conn.conn;
        let mut failed = Vec::new();
        for (n, f) in &mut s.flows {
            let End::Source(source) = &mut f.end else { continue };
            // A full disk is no reason to stop sending; compaction waits.
            if source.members.is_due(now.wall_ms, self.local.save_every)
                && source.members.save(kernel, now.wall_ms).is_err()
            {
                source.members.postpone(now.wall_ms);
            }
            loop {
                let next = source.next(kernel, *n);
                if source.members.must_save
                    && let Err(e) = source.members.save(kernel, now.wall_ms)
                {
                    let why = format!("what the sink is to have cannot be saved before it is sent: {e}");
                    failed.push((*n, Problem::new(Reason::SourceError, why)));
                    break;
                }
                match next {
                    Ok(Some(p)) => {
                        f.sent = p.upto;
                        send(out, conn, Body::SyncPush(p));
                    }
                    Ok(None) => break,
                    Err(p) => {
                        failed.push((*n, p));
                        break;
                    }
                }
            }
        }
        for (flow, p) in failed {
            self.stop_source(now, 0, flow, p, out);
        }
    }

    /// Ends a flow that this side is the source of, and tells the peer why.
    fn stop_source(&mut self, now: Now, random: u64, flow: u32, p: Problem, out: &mut Vec<Effect>) {
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

    /// Entities held by an own flow that this side is the sink of.
    pub(super) fn held_here(&self, kernel: &Kernel, item: &SyncItem) -> Option<u64> {
        (item.direction == Direction::Pull).then(|| sink::held(kernel, &self.sink_key(true, kernel, &item.name)))
    }
}

/// Checks an own flow against ontology and rules before the peer is asked.
fn prepare(item: &SyncItem, rules: &Rules, kernel: &Kernel) -> Result<Definition, Problem> {
    let o: Arc<Ontology> = kernel.ontology();
    let mut d = Definition::new(&item.pattern, item.edges == Edges::Incident, &o)?;
    let push = item.direction == Direction::Push;
    let names: Vec<String> = d.matching_types(&o).iter().map(|t| o.type_name(*t)).collect();
    d.narrow(if push { &rules.export } else { &rules.import });
    if d.matching_types(&o).is_empty() {
        let (op, list) = if push { ("Export", "canReceive") } else { ("Import", "canSend") };
        return Err(Problem::new(
            Reason::PermissionDenied,
            format!(
                "{op} of {}: neither the policies nor permissions.{list} of the Remote let any of these types pass",
                names.join(", ")
            ),
        ));
    }
    Ok(d)
}

fn code(text: &str, otherwise: Reason) -> Reason {
    Reason::ALL.iter().copied().find(|r| r.code() == text).unwrap_or(otherwise)
}

fn refusal(f: &wire::FlowRefuse) -> Problem {
    if f.code == DENIED {
        return Problem::new(
            Reason::DeniedByPeer,
            format!("the peer denies this flow; its people find the reason under correlation id {}", f.correlation_id),
        );
    }
    Problem::new(code(&f.code, Reason::SinkError), format!("refused by the peer: {}", f.message))
}
