//! What MATCH reads of the system types: held entities and conflicts are facts of the store, Remotes and Syncs are what is
//! configured and what the links say of themselves.

use crate::hub::{Hub, Said, lock};
use crate::json::entity_json;
use bytes::Bytes;
use mew_contract::{FlowReport, Problem, RemoteItem, RemoteReport, SyncItem};
use mew_kernel::{KernelError, Take, Tx};
use mew_lang::system;
use mew_model::ontology::Type;
use mew_model::{Draft, EntityRef, Hlc, Ontology, Value};
use mew_sync::records::{CONFLICT, HELD, parse_flow_key, parse_held_key};
use mew_wire as wire;
use prost::Message;
use serde::Serialize;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, Weak};

type Given = Result<ControlFlow<()>, KernelError>;

/// The reports of all links, for queries. A query holds commits up, so it must not wait for anybody who waits for one:
/// this lock is held for a moment, and nothing is asked meanwhile.
#[derive(Default)]
pub(crate) struct Voices(Mutex<Vec<Weak<Mutex<Option<Said>>>>>);

impl Voices {
    pub(crate) fn add(&self, link: &Arc<Mutex<Option<Said>>>) {
        let mut all = lock(&self.0);
        all.retain(|l| l.strong_count() > 0);
        all.push(Arc::downgrade(link));
    }

    /// What the links say that still can be believed.
    fn reports(&self) -> (Vec<RemoteReport>, Vec<FlowReport>) {
        let (mut remotes, mut flows) = (Vec::new(), Vec::new());
        for link in lock(&self.0).iter().filter_map(Weak::upgrade) {
            if let Some(s) = lock(&link).as_ref().filter(|s| s.is_fresh()) {
                remotes.push(s.remote.clone());
                flows.extend(s.flows.iter().cloned());
            }
        }
        (remotes, flows)
    }
}

/// Answers for the kernel of the hub.
pub(crate) fn keep(hub: &Arc<Hub>) {
    let weak = Arc::downgrade(hub);
    hub.kernel.keep_records(move |tx, ty, take| {
        let live = ty.name == system::REMOTE || ty.name == system::SYNC;
        match weak.upgrade().filter(|_| live) {
            Some(hub) => give(of_links(&hub, tx.now_ms, ty), take),
            None => of_facts(tx, ty, take),
        }
    });
}

fn give(all: impl IntoIterator<Item = Draft>, take: Take<'_>) -> Given {
    for record in all {
        if take(record)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// One by one: together they may be larger than what a query should hold.
fn of_facts(tx: &Tx<'_>, ty: &Type, take: Take<'_>) -> Given {
    let (prefix, is_held) = match ty.name.as_str() {
        system::HELD => (HELD, true),
        system::CONFLICT => (CONFLICT, false),
        _ => return Ok(ControlFlow::Continue(())),
    };
    let o = tx.ontology();
    for key in tx.fact_keys(prefix)? {
        let Some(b) = tx.fact(&key)? else { continue };
        let record = if is_held { held(o, ty, &key, b) } else { conflict(o, ty, &key, b) };
        if take(record)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// What is unknown is null.
fn record<const N: usize>(ty: &Type, id: &str, at_ms: u64, values: [(&str, Value); N]) -> Draft {
    let mut d = Draft::new(ty.number, id.to_owned());
    d.time = Hlc::from_ms(at_ms);
    for (name, v) in values {
        if let Some(a) = ty.attrs.get(name) {
            d.set(a.number, v);
        }
    }
    d
}

fn text(s: impl Into<String>) -> Value {
    let s = s.into();
    if s.is_empty() { Value::Null } else { Value::String(s) }
}

/// As reports write it.
fn word(s: impl Serialize) -> Value {
    match serde_json::to_value(s) {
        Ok(serde_json::Value::String(s)) => Value::String(s),
        _ => Value::Null,
    }
}

fn int(n: Option<u64>) -> Value {
    n.map_or(Value::Null, |n| Value::Int(n as i64))
}

fn duration(ms: Option<u64>) -> Value {
    ms.map_or(Value::Null, |ms| Value::Duration(ms as i64))
}

fn version(o: &Ontology, bytes: &[u8]) -> Value {
    match entity_json(o, bytes) {
        serde_json::Value::Null => Value::Null,
        v => Value::String(v.to_string()),
    }
}

fn held(o: &Ontology, ty: &Type, key: &[u8], b: Bytes) -> Draft {
    let (flow, sync_id) = parse_held_key(key).unwrap_or_default();
    let (source, sync) = parse_flow_key(&flow).unwrap_or_default();
    let h = wire::Held::decode(b).unwrap_or_default();
    let entity_type = EntityRef::read(&h.entity).map_or(Value::Null, |e| Value::String(o.type_name(e.ty)));
    let values = [
        ("sync_id", text(&sync_id)),
        ("sync", text(sync)),
        ("source", text(source)),
        ("entity_type", entity_type),
        ("entity", version(o, &h.entity)),
        ("reason", text(h.reason)),
        ("message", text(h.message)),
        ("waits_for", text(h.blocker)),
        ("since", Value::Timestamp(h.since_ms as i64)),
    ];
    record(ty, &format!("{flow}/{sync_id}"), h.since_ms, values)
}

fn conflict(o: &Ontology, ty: &Type, key: &[u8], b: Bytes) -> Draft {
    let c = wire::Conflict::decode(b).unwrap_or_default();
    let (_, sync) = parse_flow_key(&c.flow).unwrap_or_default();
    let values = [
        ("sync_id", text(c.sync_id)),
        ("sync", text(sync)),
        ("remote", text(c.remote)),
        ("entity_type", text(c.r#type)),
        ("local_version", version(o, &c.local)),
        ("remote_version", version(o, &c.incoming)),
        ("resolution", text(c.resolution)),
        ("resolved_by", text(c.by)),
        ("resolved_at", Value::Timestamp(c.at_ms as i64)),
    ];
    let id = key.strip_prefix(CONFLICT).unwrap_or(key);
    record(ty, &String::from_utf8_lossy(id), c.at_ms, values)
}

/// What is configured, with what its link says if that is known.
fn of_links(hub: &Hub, now_ms: u64, ty: &Type) -> Vec<Draft> {
    let (remotes, syncs) = hub.configured();
    let (links, flows) = hub.voices.reports();
    if ty.name == system::REMOTE {
        let said = |r: &RemoteItem| {
            let mut said = links.iter().find(|l| l.name == r.name)?.clone();
            hub.complete(r, &mut said);
            Some(said)
        };
        return remotes.iter().map(|r| remote(ty, now_ms, r, said(r).as_ref())).collect();
    }
    let said = |s: &SyncItem| flows.iter().find(|f| f.name == s.name);
    syncs.iter().map(|s| sync(ty, now_ms, s, said(s))).collect()
}

fn problem(p: Option<&Problem>) -> (Value, Value) {
    p.map_or((Value::Null, Value::Null), |p| (text(p.reason.code()), text(&p.message)))
}

fn remote(ty: &Type, now_ms: u64, r: &RemoteItem, said: Option<&RemoteReport>) -> Draft {
    let (reason, message) = problem(said.and_then(|s| s.problem.as_ref()));
    let uri = r.endpoints.first().map(|e| format!("mew://{}:{}/{}", e.host, e.port, r.peer_kernel_id));
    let peer = said.and_then(|s| s.peer.as_ref());
    let values = [
        ("name", text(&r.name)),
        ("uri", text(uri.unwrap_or_default())),
        ("trust_domain", text(&r.peer_trust_domain)),
        ("status", said.map_or(Value::Null, |s| word(s.state))),
        ("reason", reason),
        ("message", message),
        ("endpoint", text(said.and_then(|s| s.endpoint.clone()).unwrap_or_default())),
        ("incarnation", text(peer.map(|p| p.incarnation.clone()).unwrap_or_default())),
        ("latency", duration(said.and_then(|s| s.latency_ms))),
    ];
    record(ty, &r.name, now_ms, values)
}

fn sync(ty: &Type, now_ms: u64, s: &SyncItem, said: Option<&FlowReport>) -> Draft {
    let (reason, message) = problem(said.and_then(|f| f.problem.as_ref()));
    let count = |n: fn(&FlowReport) -> u64| int(said.map(n));
    let values = [
        ("name", text(&s.name)),
        ("remote", text(&s.remote)),
        ("direction", word(s.direction)),
        ("pattern", text(&s.pattern)),
        ("status", said.map_or(Value::Null, |f| word(f.state))),
        ("reason", reason),
        ("message", message),
        ("initial_percent", int(said.and_then(|f| f.initial_percent).map(u64::from))),
        ("lag", duration(said.and_then(|f| f.lag_ms))),
        ("pending", int(said.and_then(|f| f.pending))),
        ("applied", count(|f| f.applied)),
        ("rejected", count(|f| f.rejected)),
        ("held", count(|f| f.held)),
        ("conflicts", count(|f| f.conflicts)),
    ];
    record(ty, &s.name, now_ms, values)
}
