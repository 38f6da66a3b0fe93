//! The flows that this side declares: which ones are open, what the peer answered, and when to ask again.

use super::flows::{DENIED, End, Flow, code};
use super::{Effect, Link, Now, State, send};
use crate::backoff::wait_ms;
use crate::definition::Definition;
use crate::rules::Rules;
use crate::{shapes, sink};
use mew_contract::snapshot::{Direction, Edges, Initial};
use mew_contract::{Problem, Reason, SyncItem};
use mew_kernel::Kernel;
use mew_model::{Ontology, name};
use mew_wire as wire;
use std::sync::Arc;
use wire::frame::Body;

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
    /// Up to here the sink has everything, as it said last, if this side is the source. It stays when the connection goes.
    pub confirmed: Option<u64>,
    /// What the source forgot may still be at the sink, as was said when the flow was opened last.
    pub needs_reconcile: bool,
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
            confirmed: None,
            needs_reconcile: false,
        }
    }
}

impl Link {
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

    pub(super) fn fail_own(&mut self, now: Now, random: u64, name: &str, p: Problem) {
        let retry = self.config.retry;
        let Some(o) = self.own.get_mut(name) else { return };
        o.retry_at = Some(now.mono_ms + wait_ms(&retry, o.attempt, random));
        o.attempt = o.attempt.saturating_add(1);
        (o.flow, o.live) = (None, false);
        o.last_error = Some(p.clone());
        o.problem = Some(p);
    }

    /// The peer consents to an own flow.
    pub(super) fn accepted(
        &mut self,
        now: Now,
        random: u64,
        a: wire::FlowAccept,
        kernel: &Kernel,
        out: &mut Vec<Effect>,
    ) {
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
                .map(|s| (s.percent(), End::Source(Box::new(s)))),
            Direction::Pull => {
                let key = self.sink_key(true, kernel, &name);
                sink::position(sink::state(kernel, &key).as_ref(), &incarnation, &reset).map(|at| {
                    let percent = if at.as_ref().is_some_and(|p| p.complete) { 100 } else { 0 };
                    let (delete, unmatch) = (item.delete_at_sink, item.delete_on_unmatch);
                    let sink = self.new_sink(key, incarnation, reset, delete, unmatch, at.as_ref());
                    (percent, End::Sink(Box::new(sink)))
                })
            }
        };
        match end {
            Ok((percent, end)) => {
                let needs_reconcile = a.needs_reconcile && item.direction == Direction::Pull || end.needs_reconcile();
                if let (State::Up(s), Some(o)) = (&mut self.state, self.own.get_mut(&name)) {
                    (o.revision, o.needs_reconcile) = (revision, needs_reconcile);
                    // A copy that was made on an earlier connection is complete: what is missing is a lag. How large, the
                    // source says with its first batch.
                    (o.percent, o.live, o.behind) = (Some(percent), percent == 100, None);
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

pub(super) fn refusal(f: &wire::FlowRefuse) -> Problem {
    if f.code == DENIED {
        return Problem::new(
            Reason::DeniedByPeer,
            format!("the peer denies this flow; its people find the reason under correlation id {}", f.correlation_id),
        );
    }
    Problem::new(code(&f.code, Reason::SinkError), format!("refused by the peer: {}", f.message))
}
