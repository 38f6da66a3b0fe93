//! Whether this side takes part in a flow that the peer declares, and what it says if not.

use super::flows::{DENIED, End, Flow};
use super::{Effect, Link, MAX_DENIALS, MAX_PEER_FLOWS, Now, State, send};
use crate::definition::Definition;
use crate::{shapes, sink};
use mew_contract::report::Denial;
use mew_contract::{Problem, Reason};
use mew_kernel::Kernel;
use mew_model::name;
use mew_model::shape::incompatibilities;
use mew_wire as wire;
use std::collections::BTreeSet;
use wire::frame::Body;

/// `namespace/name`, and a pattern: what a peer may make us remember.
const MAX_NAME: usize = 317;
const MAX_PATTERN: usize = 16_384;
/// Of a request to begin anew, which is kept; it is an annotation, a time most often.
const MAX_RESET: usize = 4096;
/// Each is compared with this side's.
const MAX_TYPES: usize = 10_000;

impl Link {
    /// The peer wants to open a flow.
    pub(super) fn asked(&mut self, now: Now, f: wire::FlowOpen, random: u64, kernel: &Kernel, out: &mut Vec<Effect>) {
        let State::Up(s) = &self.state else { return };
        // The other side's numbers are of the other parity; one that is taken would replace a flow.
        let parity = u32::from(!s.conn.dialled);
        let theirs = s.flows.values().filter(|x| !x.own).count();
        let wrong = if f.flow % 2 != parity || s.flows.contains_key(&f.flow) {
            Some("a flow number that is not the opener's to give")
        } else if theirs >= MAX_PEER_FLOWS {
            Some("too many flows")
        } else if f.name.len() > MAX_NAME || f.r#match.len() > MAX_PATTERN {
            Some("a name or pattern that is too long")
        } else if f.reset.len() > MAX_RESET || f.types.len() > MAX_TYPES {
            Some("a reset that is too long, or too many types")
        } else {
            None
        };
        if let Some(why) = wrong {
            let refuse = wire::FlowRefuse {
                flow: f.flow,
                code: Reason::SinkError.code().into(),
                message: why.into(),
                correlation_id: String::new(),
            };
            return send(out, s.conn.conn, Body::FlowRefuse(refuse));
        }
        if !f.opener_is_source {
            self.asked_again(&f.name);
        }
        let r = self.consent(now, &f, kernel);
        let State::Up(s) = &mut self.state else { return };
        let conn = s.conn.conn;
        match r {
            Ok((end, types, position)) => {
                let (sent, needs_reconcile) = (end.start(), end.needs_reconcile());
                s.flows.insert(f.flow, Flow { name: f.name.clone(), own: false, end, sent });
                self.inbound_denied.remove(&f.name);
                let accept = wire::FlowAccept { flow: f.flow, types, position, needs_reconcile };
                send(out, conn, Body::FlowAccept(accept));
                // What blocked held entities may have changed while nobody looked.
                self.retry_held(now, kernel, None, out);
            }
            Err(p) => {
                // Of a denial the peer learns nothing but that it is one, and a number that its people can quote.
                let denial = matches!(p.reason, Reason::PolicyDenied | Reason::PermissionDenied);
                let (c, message) = if denial {
                    (DENIED.to_owned(), String::new())
                } else {
                    (p.reason.code().to_owned(), p.message.clone())
                };
                let correlation_id =
                    self.inbound_denied.get(&f.name).cloned().unwrap_or_else(|| format!("{random:016x}"));
                if denial && self.inbound_denied.len() < MAX_PEER_FLOWS {
                    self.inbound_denied.insert(f.name.clone(), correlation_id.clone());
                }
                self.denials.retain(|d| d.flow != f.name);
                self.denials.push_back(Denial {
                    flow: f.name.clone(),
                    correlation_id: correlation_id.clone(),
                    problem: p,
                });
                while self.denials.len() > MAX_DENIALS {
                    self.denials.pop_front();
                }
                send(out, conn, Body::FlowRefuse(wire::FlowRefuse { flow: f.flow, code: c, message, correlation_id }));
            }
        }
    }

    /// Whether this side takes part in a flow that the peer declares, and with which types.
    fn consent(
        &mut self,
        now: Now,
        f: &wire::FlowOpen,
        kernel: &Kernel,
    ) -> Result<(End, Vec<String>, Option<wire::Position>), Problem> {
        let o = kernel.ontology();
        let theirs: Vec<_> = f.types.iter().map(shapes::from_wire).collect();
        let allowed = if f.opener_is_source { &self.rules.import } else { &self.rules.export };
        let raw = if f.opener_is_source { &self.config.import } else { &self.config.export };
        for t in theirs.iter().filter(|t| !t.is_edge && o.get(&t.name).is_none()) {
            let listed = |l: &[String]| l.iter().any(|x| x == "*" || *x == t.name);
            if raw.passes(listed) && !raw.permitted.iter().all(|x| x == "*") {
                return Err(Problem::new(
                    Reason::OntologyMismatch,
                    format!("type {} does not exist at the other kernel", t.name),
                ));
            }
        }
        let mut d = Definition::new(&f.r#match, f.edges, &o).map_err(|p| match p.reason {
            // The pattern is theirs; that a type is unknown here is a mismatch, if it may be known at all.
            Reason::TypeUnknown if allowed.is_empty() => Problem::new(Reason::PermissionDenied, p.message),
            Reason::TypeUnknown => Problem::new(Reason::OntologyMismatch, p.message),
            _ => p,
        })?;
        let wanted: BTreeSet<_> = theirs.iter().map(|t| name::number(&t.name)).collect();
        d.narrow(&wanted);
        let asked = d.matching_types(&o);
        d.narrow(allowed);
        if d.matching_types(&o).is_empty() {
            let names: Vec<String> = asked.iter().map(|t| o.type_name(*t)).collect();
            return Err(self.denial(f.opener_is_source, &names));
        }
        let types = d.type_names(&o);
        let ours = mew_model::shape::TypeShape::of_all(&o, types.iter().map(String::as_str));
        let theirs: Vec<_> = theirs.into_iter().filter(|t| types.contains(&t.name)).collect();
        let wrong =
            if f.opener_is_source { incompatibilities(&theirs, &ours) } else { incompatibilities(&ours, &theirs) };
        if !wrong.is_empty() {
            return Err(Problem::new(Reason::OntologyMismatch, wrong.join("; ")));
        }
        if f.opener_is_source {
            let key = self.sink_key(false, kernel, &f.name);
            let incarnation = self.last_peer.as_ref().map(|p| p.incarnation.clone()).unwrap_or_default();
            let position = sink::position(sink::state(kernel, &key).as_ref(), &incarnation, &f.reset)?;
            let (reset, delete, unmatch) = (f.reset.clone(), f.delete_at_sink, f.delete_on_unmatch);
            let s = self.new_sink(key, incarnation, reset, delete, unmatch, position.as_ref());
            Ok((End::Sink(Box::new(s)), types, position))
        } else {
            let s = self.new_source(now, false, &f.name, d, f.initial, f.position.as_ref(), kernel)?;
            Ok((End::Source(Box::new(s)), types, None))
        }
    }

    /// The reason for this side's own people.
    fn denial(&self, import: bool, types: &[String]) -> Problem {
        let (rules, op, list) = if import {
            (&self.config.import, "Import", "canSend")
        } else {
            (&self.config.export, "Export", "canReceive")
        };
        let listed = |l: &[String]| types.iter().any(|t| l.iter().any(|x| x == "*" || x == t));
        let what = types.join(", ");
        if !listed(&rules.permitted) {
            Problem::new(
                Reason::PermissionDenied,
                format!("{op} of {what}: the Remote's permissions.{list} does not list it"),
            )
        } else {
            Problem::new(Reason::PolicyDenied, format!("{op} of {what}: no policy allows it"))
        }
    }
}
