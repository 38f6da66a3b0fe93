//! The worlds that decoders read in, and inputs as the real encoders write them. The same in every run, but for keys and
//! certificates, which chance makes.

use mew_contract::samples as plain;
pub use mew_contract::samples::{HERE, THERE, sync_item};
use mew_contract::snapshot::{Endpoint, Grant, Overwrite};
use mew_contract::{Problem, Reason, RemoteItem, TypeRules};
use mew_lang::{parse_ontology, render};
use mew_model::name::number;
use mew_model::{Draft, Hlc, KernelKey, Number, Ontology, Value};
use mew_store::{Batch, Change, Disk, MemDisk, Options, Store, Upkeep};
use mew_sync::shapes;
use mew_wire as wire;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use wire::frame::Body;

pub const NOW_MS: u64 = 1_700_000_000_000;
/// Flows that the peer declares: one that it pushes, one that it pulls.
pub const TASKS: &str = "there/tasks";
pub const OTHERS: &str = "there/others";

// ---------------------------------------------------------------- ontologies and entities

/// One of everything that an ontology can say.
pub const EVERYTHING: &str = r#"
-- Everything at once.
ontology Everything {
  node Person { name: String [required, length: 1..80], born: Timestamp? }
  node Employee : Person {
    grade: Int [1..9, indexed] = 3
    wage: Float [>= 0.5, < 1.5e6] = 1.0
    role: String [in: ["dev", "ops"]] = "dev"
    badge: String? [unique]
    since: Timestamp [indexed: desc] = now() - 5.days
    active: Bool = true
    pause: Duration? [<= 8.hours]
    mentor: ID?
  }
  /* A block. */
  edge knows(a: Person, b: any) [on_kill_source: cascade, on_kill_target: prevent] { weight: Int? [>= -3] }
}
"#;

/// What the sample stores and sessions are about.
pub const WORK: &str = "
node Task { title: String?, code: String? [unique], rank: Int? [indexed] }
node Secret { title: String? }
edge links(a: Task, b: Task)
";

fn parsed(text: &str) -> Ontology {
    parse_ontology(text).unwrap_or_else(|d| panic!("{}", render("ontology", text, &d, false)))
}

/// Of [`EVERYTHING`].
pub fn ontology() -> &'static Ontology {
    static PARSED: OnceLock<Ontology> = OnceLock::new();
    PARSED.get_or_init(|| parsed(EVERYTHING))
}

/// Of [`WORK`].
pub fn work() -> Arc<Ontology> {
    static PARSED: OnceLock<Arc<Ontology>> = OnceLock::new();
    PARSED.get_or_init(|| Arc::new(parsed(WORK))).clone()
}

/// Entities of [`EVERYTHING`] to ask patterns of: with all attributes, with some, with none, with odd ones.
pub fn matched() -> &'static [Vec<u8>] {
    static ENCODED: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    ENCODED.get_or_init(|| {
        let one = |ty: &str, attrs: &[(&str, Value)]| {
            let mut d = Draft::new(number(ty), "plant/42".to_owned());
            for (name, v) in attrs {
                d.set(number(name), v.clone());
            }
            d.stamp(KernelKey::of(HERE), NOW_MS, None);
            d.encode()
        };
        vec![
            one(
                "Employee",
                &[
                    ("name", Value::String("Ann \"A\" é😀".into())),
                    ("born", Value::Timestamp(i64::MIN)),
                    ("grade", Value::Int(i64::MIN)),
                    ("wage", Value::Float(f64::NAN)),
                    ("role", Value::String("dev".into())),
                    ("badge", Value::String(String::new())),
                    ("since", Value::Timestamp(i64::MAX)),
                    ("active", Value::Bool(true)),
                    ("pause", Value::Duration(i64::MIN)),
                    ("mentor", Value::Id("plant/1".into())),
                ],
            ),
            one("Employee", &[("grade", Value::Int(0)), ("wage", Value::Float(-0.0)), ("active", Value::Bool(false))]),
            // Of other kinds than the ontology says: the peer's may differ.
            one("Employee", &[("grade", Value::String("3".into())), ("name", Value::Int(3))]),
            one("Person", &[("name", Value::String("B".into()))]),
            one("Nothing", &[]),
        ]
    })
}

/// One of everything that an entity can hold.
pub fn rich() -> Draft {
    let mut d = Draft::new(0x0102_0304, "plant/42".to_owned());
    d.vector.raise(KernelKey(7), Hlc(5));
    d.vector.raise(KernelKey(u64::MAX), Hlc(6));
    d.ends = vec!["plant/1".to_owned(), "é".to_owned()];
    d.set(1, Value::String("long enough, 𝕏".to_owned()));
    d.set(2, Value::Int(i64::MIN));
    d.set(3, Value::Float(-0.0));
    d.set(4, Value::Bool(true));
    d.set(5, Value::Timestamp(300));
    d.set(6, Value::Duration(-1));
    d.set(7, Value::Id("plant/9".to_owned()));
    d.stamp(KernelKey(9), NOW_MS, Some(Hlc(6)));
    d
}

fn of_the_peer(ty: &str, id: String) -> Draft {
    let mut d = Draft::new(number(ty), id);
    d.stamp(KernelKey::of(THERE), NOW_MS - 1_000, None);
    d
}

/// The peer's own task of that number.
pub fn task(n: u32) -> Draft {
    let mut d = of_the_peer("Task", format!("{THERE}/{n}"));
    d.set(number("title"), Value::String(format!("task {n}")));
    d
}

/// An edge between two of them.
pub fn link(a: u32, b: u32) -> Draft {
    let mut d = of_the_peer("links", format!("{THERE}/{a}-{b}"));
    d.ends = vec![format!("{THERE}/{a}"), format!("{THERE}/{b}")];
    d
}

// ---------------------------------------------------------------- stores

pub fn options(kernel_id: &str, segment_bytes: u32) -> Options {
    Options { kernel_id: kernel_id.to_owned(), new_incarnation: "here-1".to_owned(), segment_bytes }
}

/// A store with tasks, a link, a tombstone and facts, most of them written several times.
pub fn log(disk: &MemDisk, segment_bytes: u32) -> Store {
    let (store, _) = Store::open(Arc::new(disk.clone()), work(), options(HERE, segment_bytes)).expect("a new store");
    let (mut numbers, mut clock) = (BTreeMap::new(), 0);
    let mut commit = |drafts: Vec<Draft>, fact: (&str, &str)| {
        let mut changes = Vec::new();
        for mut d in drafts {
            clock += 1;
            d.stamp(KernelKey::of(HERE), NOW_MS + clock, None);
            let next = numbers.len() as u32;
            let ent = *numbers.entry(d.sync_id.clone()).or_insert(next);
            changes.push(Change { ent, origin: KernelKey(0), bytes: d.encode().into(), found: None });
        }
        let facts = vec![(fact.0.as_bytes().to_vec(), fact.1.as_bytes().to_vec())];
        store.commit(Batch { changes, facts }).expect("a disk in memory takes it");
    };
    for n in 0..12_u32 {
        let mut t = task(n % 3);
        t.set(number("code"), Value::String(format!("code {}", n % 3)));
        t.set(number("rank"), Value::Int(i64::from(n) - 6));
        commit(vec![t], ("f/n", "some value"));
    }
    commit(vec![link(0, 1), task(3)], ("f/links", "1"));
    let mut gone = task(2);
    gone.delete();
    commit(vec![gone], ("f/links", ""));
    store
}

/// Compacted segments, a checkpoint, and a commit after it.
pub fn directory() -> MemDisk {
    let disk = MemDisk::new();
    let store = log(&disk, 400);
    let head = store.view().last_seq();
    let kept = store.maintain(&Upkeep::thorough(head, 0)).expect("a disk in memory");
    assert!(kept.rewritten > 0 && kept.checkpoint_bytes > 0, "{kept:?}");
    let facts = vec![(b"f/after".to_vec(), b"1".to_vec())];
    store.commit(Batch { changes: vec![], facts }).expect("a disk in memory takes it");
    disk
}

/// Everything on a disk, by name.
pub fn contents(disk: &MemDisk) -> Vec<(String, Vec<u8>)> {
    let mut names = disk.list().expect("a disk in memory");
    names.sort_unstable();
    names.into_iter().map(|n| (n.clone(), content(disk, &n))).collect()
}

pub fn content(disk: &MemDisk, name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    disk.edit(name, |b| out.clone_from(b));
    out
}

pub fn put(disk: &MemDisk, name: &str, bytes: &[u8]) {
    let file = disk.create(name).expect("a disk in memory");
    file.write_at(bytes, 0).expect("a disk in memory");
}

// ---------------------------------------------------------------- what operator and agent say

/// With an endpoint, a denied type and a grant. The flow that this side declares ([`sync_item`]) is number 2, as the peer has
/// dialled.
pub fn remote_item() -> RemoteItem {
    let types = ["Task", "links"];
    let rules = TypeRules { deny: vec!["Secret".to_owned()], ..plain::rules(&types) };
    RemoteItem {
        endpoints: vec![Endpoint { host: "there.example".into(), port: 9001, server_name: Some("front".into()) }],
        export: rules.clone(),
        import: rules,
        grants: vec![Grant { ty: "Task".into(), overwrite_local: Overwrite::OnConflict, delete: None }],
        ..plain::remote_item(&types)
    }
}

pub fn problem() -> Problem {
    Problem::new(Reason::DNSFailed, "the name cannot be resolved")
}

// ---------------------------------------------------------------- what a peer says

pub fn handshake() -> Body {
    Body::Handshake(wire::Handshake {
        protocol_min: 1,
        protocol_max: 1,
        capabilities: vec!["later".into()],
        kernel_id: THERE.into(),
        incarnation: "there-1".into(),
        head: 9,
        agent_version: "0.1.0".into(),
        now_ms: NOW_MS,
    })
}

/// The peer would send its tasks and the edges between them; if `reset` is not empty, from the beginning.
pub fn open(flow: u32, name: &str, reset: &str) -> wire::FlowOpen {
    let types: BTreeSet<Number> = ["Task", "links"].into_iter().map(number).collect();
    wire::FlowOpen {
        flow,
        name: name.into(),
        opener_is_source: true,
        r#match: "t: Task".into(),
        edges: true,
        initial: true,
        delete_at_sink: true,
        delete_on_unmatch: true,
        types: shapes::of_types(&work(), &types),
        reset: reset.into(),
        position: None,
    }
}

/// The peer would have ours, from where it is.
pub fn pull(flow: u32, name: &str, position: Option<wire::Position>) -> wire::FlowOpen {
    wire::FlowOpen { opener_is_source: false, position, ..open(flow, name, "") }
}

/// What lies between two positions, with the right checksums.
pub fn batch(flow: u32, after: u64, upto: u64, entities: &[Draft]) -> wire::SyncPush {
    let entities: Vec<bytes::Bytes> = entities.iter().map(|d| d.encode().into()).collect();
    wire::SyncPush {
        flow,
        revision: "0123456789abcdef".into(),
        start: 0,
        after,
        upto,
        crcs: entities.iter().map(|b| crc32c::crc32c(b)).collect(),
        entities,
        leaves: Vec::new(),
        pending: 3,
        oldest_ms: NOW_MS - 1_000,
        live: true,
        percent: 100,
    }
}

/// An honest session.
pub fn session() -> Vec<Body> {
    let mut leaving = batch(1, 3, 4, &[task(3)]);
    leaving.leaves.push(wire::Leave {
        sync_id: format!("{THERE}/2"),
        time: Hlc::from_ms(NOW_MS).0,
        kernel: KernelKey::of(THERE).0,
    });
    vec![
        handshake(),
        Body::FlowOpen(open(1, TASKS, "")),
        Body::FlowAccept(wire::FlowAccept {
            flow: 2,
            types: vec!["Task".into()],
            position: None,
            ..wire::FlowAccept::default()
        }),
        Body::SyncPush(batch(1, 0, 2, &[task(1), task(2)])),
        Body::FlowOpen(pull(3, OTHERS, None)),
        Body::SyncAck(wire::SyncAck {
            flow: 2,
            upto: 1,
            counts: Some(wire::Counts::default()),
            ..wire::SyncAck::default()
        }),
        Body::Ping(wire::Ping { nonce: 5 }),
        Body::SyncPush(batch(1, 2, 3, &[link(1, 2), link(1, 7)])),
        Body::SyncAck(wire::SyncAck { flow: 3, upto: 1, ..wire::SyncAck::default() }),
        Body::RulesChanged(wire::RulesChanged {}),
        Body::Pong(wire::Pong { nonce: 1, now_ms: NOW_MS }),
        Body::SyncPush(leaving),
        Body::Renew(wire::Renew {}),
        Body::SyncNack(wire::SyncNack { flow: 2, code: "SinkError".into(), message: "the disk is full".into() }),
        Body::FlowRefuse(wire::FlowRefuse { flow: 4, code: "Denied".into(), ..wire::FlowRefuse::default() }),
        Body::FlowClose(wire::FlowClose { flow: 1 }),
        Body::Disconnect(wire::Disconnect { reason: "Suspended".into() }),
        Body::Roots(wire::Roots { accepted: vec!["AB:01".into()], in_use: "AB:01".into() }),
    ]
}

/// Frames one after the other, each behind its length.
pub fn framed(bodies: &[Body]) -> Vec<u8> {
    let frame = |b: &Body| wire::Frame { body: Some(b.clone()) }.encode_length_delimited_to_vec();
    bodies.iter().flat_map(frame).collect()
}
