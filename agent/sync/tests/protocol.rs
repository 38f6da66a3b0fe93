//! A peer that does not keep to the protocol, against one link: it is refused with a reason or passed over, the kernel has
//! nothing of it, and the other flows of the connection go on.

#[path = "../../../tests/tests/damage/mod.rs"]
mod damage;

use bytes::Bytes;
use damage::Damage;
use mew_contract::snapshot::{Direction, Edges, Initial, Keepalive, Retry};
use mew_contract::{FlowReport, FlowState, Problem, Reason, RemoteItem, RemoteReport, SyncItem, TypeRules};
use mew_kernel::{Kernel, Params};
use mew_lang::parse_ontology;
use mew_model::entity::MAX_ENTITY;
use mew_model::name::{kernel_of_sync_id, number};
use mew_model::{Draft, EntityRef, Hlc, KernelKey, Number, Ontology, Value};
use mew_store::{MemDisk, Options, Store};
use mew_sync::{ConnId, Connected, Effect, Event, Link, Local, Now, records, shapes};
use mew_wire as wire;
use prost::Message;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use wire::frame::Body;

const HERE: &str = "plant.here";
const THERE: &str = "plant.there";
const NOW_MS: u64 = 1_700_000_000_000;
const ONTOLOGY: &str = "
node Task { name: String? }
node Secret { name: String? }
edge links(a: Task, b: Task)
";
/// Flows that the peer declares.
const TASKS: &str = "there/tasks";
const OTHERS: &str = "there/others";
/// As in `link/consent.rs`.
const MAX_PEER_FLOWS: u32 = 256;

fn ontology() -> Arc<Ontology> {
    static PARSED: OnceLock<Arc<Ontology>> = OnceLock::new();
    PARSED.get_or_init(|| Arc::new(parse_ontology(ONTOLOGY).expect("the ontology is right"))).clone()
}

fn remote() -> RemoteItem {
    let types = || vec!["Task".to_owned(), "links".to_owned()];
    let rules = TypeRules { allow: types(), deny: Vec::new(), permitted: types() };
    RemoteItem {
        name: "here/there".into(),
        peer_kernel_id: THERE.into(),
        peer_trust_domain: "there.example".into(),
        endpoints: Vec::new(),
        dial: false,
        accept: true,
        roots: Vec::new(),
        certificate: None,
        connect_timeout_ms: 3_000,
        retry: Retry { initial_ms: 200, max_ms: 2_000, multiplier: 2, jitter_percent: 0 },
        keepalive: Keepalive { interval_ms: 2_000, timeout_ms: 5_000, failure_threshold: 2 },
        suspend: false,
        blocked: None,
        export: rules.clone(),
        import: rules,
        grants: Vec::new(),
    }
}

/// The flow that this side declares: number 2, as the peer has dialled.
fn own_push() -> SyncItem {
    SyncItem {
        name: "here/tasks".into(),
        remote: "here/there".into(),
        direction: Direction::Push,
        pattern: "t: Task".into(),
        initial: Initial::Full,
        edges: Edges::None,
        delete_at_sink: true,
        delete_on_unmatch: false,
        suspend: false,
        reset: None,
        blocked: None,
    }
}

// ---------------------------------------------------------------- what a peer says

fn handshake() -> wire::Handshake {
    wire::Handshake {
        protocol_min: 1,
        protocol_max: 1,
        capabilities: Vec::new(),
        kernel_id: THERE.into(),
        incarnation: "there-1".into(),
        head: 9,
        agent_version: "0.1.0".into(),
        now_ms: NOW_MS,
    }
}

fn shapes_of(types: &[&str]) -> Vec<wire::TypeShape> {
    let numbers: BTreeSet<Number> = types.iter().map(|t| number(t)).collect();
    shapes::of_types(&ontology(), &numbers)
}

/// The peer would send its tasks and the edges between them.
fn open(flow: u32, name: &str) -> wire::FlowOpen {
    wire::FlowOpen {
        flow,
        name: name.into(),
        opener_is_source: true,
        r#match: "t: Task".into(),
        edges: true,
        initial: true,
        delete_at_sink: true,
        delete_on_unmatch: false,
        types: shapes_of(&["Task", "links"]),
        reset: String::new(),
        position: None,
    }
}

/// The peer would have ours.
fn pull(flow: u32, name: &str) -> wire::FlowOpen {
    wire::FlowOpen { opener_is_source: false, ..open(flow, name) }
}

fn accept(flow: u32) -> Body {
    Body::FlowAccept(wire::FlowAccept { flow, types: vec!["Task".into()], position: None })
}

fn draft(ty: &str, id: &str) -> Draft {
    let mut d = Draft::new(number(ty), id.to_owned());
    d.set(number("name"), Value::String(id.to_owned()));
    d.stamp(KernelKey::of(THERE), NOW_MS - 1_000, None);
    d
}

fn bytes(d: &Draft) -> Bytes {
    d.encode().into()
}

/// The peer's own task of that number.
fn task(n: u32) -> Bytes {
    bytes(&draft("Task", &format!("{THERE}/{n}")))
}

/// An edge between two of them.
fn edge(a: u32, b: u32) -> Bytes {
    let mut d = draft("links", &format!("{THERE}/{a}-{b}"));
    d.attrs.clear();
    d.ends = vec![format!("{THERE}/{a}"), format!("{THERE}/{b}")];
    bytes(&d)
}

/// What lies between two positions, with the right checksums.
fn batch(flow: u32, after: u64, upto: u64, entities: Vec<Bytes>) -> wire::SyncPush {
    wire::SyncPush {
        flow,
        revision: "0123456789abcdef".into(),
        start: 0,
        after,
        upto,
        crcs: entities.iter().map(|b| crc32c::crc32c(b)).collect(),
        entities,
        leaves: Vec::new(),
        pending: 0,
        oldest_ms: 0,
        live: false,
        percent: 10,
    }
}

fn ack(flow: u32, upto: u64) -> Body {
    Body::SyncAck(wire::SyncAck { flow, upto, counts: None })
}

// ---------------------------------------------------------------- this side

/// What a link did with one event.
#[derive(Debug, Default)]
struct Did {
    frames: Vec<Body>,
    closed: bool,
}

impl Did {
    fn acked(&self) -> Option<&wire::SyncAck> {
        self.frames.iter().find_map(|b| if let Body::SyncAck(a) = b { Some(a) } else { None })
    }

    fn nacked(&self) -> Option<&wire::SyncNack> {
        self.frames.iter().find_map(|b| if let Body::SyncNack(n) = b { Some(n) } else { None })
    }

    fn accepted(&self) -> Option<&wire::FlowAccept> {
        self.frames.iter().find_map(|b| if let Body::FlowAccept(a) = b { Some(a) } else { None })
    }

    fn refused(&self) -> Option<&wire::FlowRefuse> {
        self.frames.iter().find_map(|b| if let Body::FlowRefuse(r) = b { Some(r) } else { None })
    }

    fn pushed(&self) -> Option<&wire::SyncPush> {
        self.frames.iter().find_map(|b| if let Body::SyncPush(p) = b { Some(p) } else { None })
    }

    fn is_nothing(&self) -> bool {
        self.frames.is_empty() && !self.closed
    }

    /// Whether the connection was closed and the peer told so.
    fn hung_up(&self, why: Reason) -> bool {
        let told = |b: &Body| matches!(b, Body::Disconnect(d) if d.reason == why.code());
        self.closed && self.frames.iter().any(told)
    }
}

struct Side {
    kernel: Kernel,
    link: Link,
    conn: ConnId,
    mono_ms: u64,
}

impl Side {
    fn new(syncs: Vec<SyncItem>) -> Self {
        let options = Options { kernel_id: HERE.into(), new_incarnation: "here-1".into(), segment_bytes: 1 << 20 };
        let (store, _) = Store::open(Arc::new(MemDisk::new()), ontology(), options).expect("an empty store opens");
        let kernel = Kernel::new(store);
        // Whatever stands for a certificate is its own name.
        let local = Local { agent_version: "0.1.0".into(), save_every: 10, fingerprints: |pems| pems.to_vec() };
        let link = Link::new(local, remote(), &kernel);
        let mut s = Side { kernel, link, conn: 0, mono_ms: 0 };
        s.handle(Event::Configure(Box::new(remote()), syncs));
        s
    }

    /// With a task of its own and the flow that pushes it.
    fn with_own_flow() -> Self {
        let mut s = Side::new(vec![own_push()]);
        let spawned = s.kernel.execute(NOW_MS, r#"SPAWN Task {name = "own"}"#, &Params::new());
        spawned.expect("a statement of this ontology");
        s.handle(Event::Wake);
        s
    }

    fn handle(&mut self, e: Event) -> Did {
        let now = Now { wall_ms: NOW_MS + self.mono_ms, mono_ms: self.mono_ms };
        let mut did = Did::default();
        for effect in self.link.handle(now, 7, e, &self.kernel) {
            match effect {
                Effect::Send(c, f) if c == self.conn => did.frames.extend(f.body),
                Effect::Close(c) if c == self.conn => did.closed = true,
                Effect::Send(..) | Effect::Close(..) => {}
                Effect::Dial => panic!("this side only accepts"),
            }
        }
        did
    }

    fn hear(&mut self, body: Body) -> Did {
        self.handle(Event::Frame(self.conn, wire::Frame { body: Some(body) }))
    }

    fn push(&mut self, p: wire::SyncPush) -> Did {
        self.hear(Body::SyncPush(p))
    }

    fn connect(&mut self) {
        self.conn += 1;
        let endpoint = "192.0.2.1:50000".to_owned();
        let c = Connected { conn: self.conn, dialled: false, endpoint, certificate_not_after_ms: None, root: None };
        let did = self.handle(Event::Connected(c));
        assert!(matches!(did.frames.as_slice(), [Body::Handshake(_)]) && !did.closed, "{did:?}");
    }

    fn greet(&mut self) -> Did {
        self.connect();
        let did = self.hear(Body::Handshake(handshake()));
        assert!(!did.closed && self.report().0.problem.is_none(), "{did:?}");
        did
    }

    /// Opens a flow by which the peer sends.
    fn open(&mut self, o: wire::FlowOpen) -> wire::FlowAccept {
        let did = self.hear(Body::FlowOpen(o));
        did.accepted().cloned().unwrap_or_else(|| panic!("the flow was not accepted: {did:?}"))
    }

    /// A batch of one more task goes through.
    fn takes(&mut self, flow: u32, after: u64, n: u32) {
        let did = self.push(batch(flow, after, after + 1, vec![task(n)]));
        assert!(did.acked().is_some_and(|a| (a.flow, a.upto) == (flow, after + 1)), "flow {flow}: {did:?}");
        assert!(ids(&self.kernel).contains(&format!("{THERE}/{n}")), "task {n} is not here");
    }

    fn report(&self) -> (RemoteReport, Vec<FlowReport>) {
        self.link.report(NOW_MS + self.mono_ms, &self.kernel)
    }
}

/// Everything in a kernel: seq and bytes.
fn content(k: &Kernel) -> Vec<(u64, Bytes)> {
    let view = k.view();
    let all = (0..view.next_entity()).filter_map(|n| view.get(n).expect("a disk in memory"));
    all.map(|s| (s.seq, s.bytes)).collect()
}

fn ids(k: &Kernel) -> Vec<String> {
    let all = content(k);
    all.iter().map(|(_, b)| EntityRef::validate(b).expect("what is stored is valid").sync_id.to_owned()).collect()
}

/// How far a flow of the peer has come, as the store says.
fn position(k: &Kernel, name: &str) -> Option<u64> {
    let key = records::sink_key(&records::flow_key(THERE, THERE, name));
    let state = k.view().fact(&key).expect("a disk in memory");
    records::read::<wire::SinkState>(state).and_then(|s| s.position).map(|p| p.seq)
}

// ---------------------------------------------------------------- this side's certificate

/// The peer is asked to come anew; until it has, the connection with the old certificate goes on.
#[test]
fn another_certificate_asks_for_another_connection() {
    let mut s = Side::with_own_flow();
    assert!(s.handle(Event::Renewed).is_nothing(), "nobody is there to be asked");
    s.greet();
    s.open(open(1, TASKS));
    let asks = |d: &Did| !d.closed && matches!(d.frames.as_slice(), [Body::Renew(_)]);
    let did = s.handle(Event::Renewed);
    assert!(asks(&did), "{did:?}");
    let other = RemoteItem { certificate: Some("peers".into()), ..remote() };
    let did = s.handle(Event::Configure(Box::new(other.clone()), vec![own_push()]));
    assert!(asks(&did), "{did:?}");
    let did = s.handle(Event::Configure(Box::new(other), vec![own_push()]));
    assert!(did.is_nothing(), "the same certificate asks for nothing: {did:?}");
    s.takes(1, 0, 1);
}

// ---------------------------------------------------------------- the handshake

#[test]
fn what_comes_before_the_handshake_ends_the_session() {
    let early = [
        Body::SyncPush(batch(1, 0, 1, vec![task(1)])),
        ack(1, 1),
        Body::SyncNack(wire::SyncNack { flow: 1, code: "SinkError".into(), message: String::new() }),
        Body::FlowOpen(open(1, TASKS)),
        accept(2),
        Body::FlowRefuse(wire::FlowRefuse { flow: 2, ..wire::FlowRefuse::default() }),
        Body::FlowClose(wire::FlowClose { flow: 2 }),
        Body::RulesChanged(wire::RulesChanged {}),
        Body::Ping(wire::Ping { nonce: 1 }),
        Body::Pong(wire::Pong { nonce: 1, now_ms: NOW_MS }),
    ];
    for body in early {
        let mut s = Side::with_own_flow();
        let before = content(&s.kernel);
        s.connect();
        let did = s.hear(body.clone());
        assert!(did.hung_up(Reason::ProtocolMismatch), "{body:?}: {did:?}");
        let problem = s.report().0.problem.expect("it says why");
        assert!(problem.reason == Reason::ProtocolMismatch && problem.message.contains("handshake"), "{problem:?}");
        // Whatever else comes over that connection is of no interest.
        assert!(s.hear(Body::Handshake(handshake())).is_nothing(), "{body:?}");
        assert!(s.hear(Body::FlowOpen(open(1, TASKS))).is_nothing(), "{body:?}");
        assert_eq!(content(&s.kernel), before, "{body:?}");
        s.greet();
        s.open(open(1, TASKS));
        s.takes(1, 0, 1);
    }
}

#[test]
fn a_handshake_of_another_kernel_or_protocol_ends_the_session() {
    let wrong = [
        (wire::Handshake { kernel_id: "plant.third".into(), ..handshake() }, Reason::IdentityMismatch),
        (wire::Handshake { kernel_id: String::new(), ..handshake() }, Reason::IdentityMismatch),
        (wire::Handshake { protocol_min: 2, protocol_max: 9, ..handshake() }, Reason::ProtocolMismatch),
        (wire::Handshake { protocol_min: 0, protocol_max: 0, ..handshake() }, Reason::ProtocolMismatch),
    ];
    for (h, why) in wrong {
        let mut s = Side::new(Vec::new());
        s.connect();
        assert!(s.hear(Body::Handshake(h.clone())).hung_up(why), "{h:?}");
        assert_eq!(s.report().0.problem.map(|p| p.reason), Some(why), "{h:?}");
        s.greet();
        s.open(open(1, TASKS));
        s.takes(1, 0, 1);
    }
}

#[test]
fn a_second_handshake_changes_nothing() {
    let mut s = Side::new(Vec::new());
    s.greet();
    s.open(open(1, TASKS));
    let other = wire::Handshake { kernel_id: "plant.third".into(), incarnation: "there-2".into(), ..handshake() };
    assert!(s.hear(Body::Handshake(other)).is_nothing());
    let peer = s.report().0.peer.expect("the peer is known");
    assert_eq!((peer.kernel_id.as_str(), peer.incarnation.as_str()), (THERE, "there-1"));
    s.takes(1, 0, 1);
}

// ---------------------------------------------------------------- batches

/// One that cannot be applied as a whole: nothing of it is, its flow ends, and can be opened again where it was.
#[test]
fn a_batch_that_is_wrong_ends_its_flow_and_no_other() {
    let good = || batch(1, 2, 4, vec![task(3), task(4)]);
    let mut flipped = good();
    flipped.crcs[1] ^= 1;
    let unchecked = wire::SyncPush { crcs: Vec::new(), ..good() };
    let too_many = wire::SyncPush { leaves: vec![wire::Leave::default(); 10_001], ..good() };
    let long = wire::SyncPush { revision: "r".repeat(1 << 20), ..good() };
    let mut early = draft("Task", &format!("{THERE}/4"));
    early.stamp(KernelKey::of(THERE), NOW_MS + 600_000, None);
    let wrong = [
        ("a wrong checksum", flipped, Reason::SourceError, "checksum"),
        ("no checksum", unchecked, Reason::SourceError, "checksum"),
        ("a clock ten minutes ahead", batch(1, 2, 4, vec![task(3), bytes(&early)]), Reason::ClockSkew, "600 s ahead"),
        ("one before it is missing", batch(1, 3, 4, vec![task(4)]), Reason::SourceError, "missing"),
        ("one again", batch(1, 1, 2, vec![task(2)]), Reason::SourceError, "already"),
        ("one that goes back", batch(1, 0, 4, vec![task(4)]), Reason::SourceError, "already"),
        ("its end is before its beginning", batch(1, 2, 1, vec![task(4)]), Reason::SourceError, "ends at 1"),
        ("more than anybody sends", too_many, Reason::SourceError, "too large"),
        ("a revision that is a novel", long, Reason::SourceError, "too large"),
    ];
    for (what, p, why, word) in wrong {
        let mut s = Side::new(Vec::new());
        s.greet();
        s.open(open(1, TASKS));
        s.open(open(3, OTHERS));
        s.takes(1, 0, 1);
        s.takes(1, 1, 2);
        let before = content(&s.kernel);
        let did = s.push(p);
        let nack = did.nacked().unwrap_or_else(|| panic!("{what}: {did:?}"));
        assert!(nack.flow == 1 && nack.code == why.code() && nack.message.contains(word), "{what}: {nack:?}");
        assert!(!did.closed && did.acked().is_none(), "{what}: {did:?}");
        assert_eq!(content(&s.kernel), before, "{what}");
        assert_eq!(position(&s.kernel, TASKS), Some(2), "{what}");
        assert_eq!(s.report().0.inbound.failed, 1, "{what}");
        // What was on its way behind it is not heard.
        assert!(s.push(good()).is_nothing(), "{what}");
        assert_eq!(content(&s.kernel), before, "{what}");
        s.takes(3, 0, 7);
        let at = s.open(open(5, TASKS)).position.expect("it has a position");
        assert_eq!(at.seq, 2, "{what}");
        s.takes(5, 2, 3);
    }
}

/// The source was told where the sink is: before that it has nothing to send, unless a reset was asked for.
#[test]
fn a_new_flow_does_not_go_back_without_a_reset() {
    let mut s = Side::new(Vec::new());
    s.greet();
    s.open(open(1, TASKS));
    s.takes(1, 0, 1);
    s.takes(1, 1, 2);
    s.greet();
    assert_eq!(s.open(open(1, TASKS)).position.map(|p| p.seq), Some(2));
    let did = s.push(batch(1, 0, 1, vec![task(1)]));
    assert!(did.nacked().is_some_and(|n| n.message.contains("already")), "{did:?}");
    assert_eq!(position(&s.kernel, TASKS), Some(2));
    let again = wire::FlowOpen { reset: "again".into(), ..open(3, TASKS) };
    assert_eq!(s.open(again).position, None);
    s.takes(3, 0, 1);
    assert_eq!(position(&s.kernel, TASKS), Some(1));
}

/// One version that may not come is counted, and what comes with it is applied.
#[test]
fn a_version_that_may_not_come_is_rejected_and_the_flow_goes_on() {
    let mut second_form = draft("Task", &format!("{THERE}/9")).encode();
    second_form.splice(18..18, [0x18, 0]);
    let mut seen_later = draft("Task", &format!("{THERE}/9"));
    seen_later.vector.raise(KernelKey(9), Hlc(u64::MAX));
    let mut huge = draft("Task", &format!("{THERE}/9"));
    huge.set(number("name"), Value::String("x".repeat(MAX_ENTITY)));
    let wrong = [
        ("a type that may not come", bytes(&draft("Secret", &format!("{THERE}/9")))),
        ("a type that nobody knows", bytes(&draft("Nothing", &format!("{THERE}/9")))),
        ("an id of a third kernel", bytes(&draft("Task", "plant.third/9"))),
        ("an id that is too long", bytes(&draft("Task", &"x".repeat(256)))),
        ("no id", bytes(&draft("Task", ""))),
        ("no entity", Bytes::from_static(b"\x09 not an entity")),
        ("nothing", Bytes::new()),
        ("a second form of an entity", second_form.into()),
        ("a vector that is ahead of its version", bytes(&seen_later)),
        ("an entity that is too large", bytes(&huge)),
    ];
    for (what, b) in wrong {
        let mut s = Side::new(Vec::new());
        s.greet();
        s.open(open(1, TASKS));
        let did = s.push(batch(1, 0, 2, vec![b, task(1)]));
        let counts = did.acked().and_then(|a| a.counts).unwrap_or_else(|| panic!("{what}: {did:?}"));
        assert_eq!((counts.applied, counts.rejected, counts.held), (1, 1, 0), "{what}");
        assert_eq!(ids(&s.kernel), [format!("{THERE}/1")], "{what}");
        s.takes(1, 2, 2);
    }
}

/// Two versions of it, or it and what is said of it, are more than one record holds.
#[test]
fn a_conflict_of_large_versions_is_logged_as_far_as_there_is_room() {
    let mut s = Side::new(Vec::new());
    s.greet();
    s.open(open(1, TASKS));
    s.takes(1, 0, 1);
    let large = |letter: &str| Value::String(letter.repeat(700_000));
    let params = Params::from([("n".to_owned(), large("x"))]);
    let script = format!(r#"MATCH t: Task WHERE t._sync_id = "{THERE}/1" SET t.name = $n"#);
    s.kernel.execute(NOW_MS, &script, &params).expect("a statement of this ontology");
    let mut theirs = draft("Task", &format!("{THERE}/1"));
    theirs.set(number("name"), large("y"));
    theirs.stamp(KernelKey::of(THERE), NOW_MS - 500, None);
    let did = s.push(batch(1, 1, 2, vec![bytes(&theirs)]));
    let counts = did.acked().and_then(|a| a.counts).unwrap_or_else(|| panic!("{did:?}"));
    assert_eq!((counts.conflicts, counts.rejected), (1, 0));
    let all = s.kernel.view().facts(records::CONFLICT).expect("a disk in memory");
    let logged = wire::Conflict::decode(all[0].1.clone()).expect("a conflict");
    assert!(logged.resolution == records::LOCAL_KEPT && logged.local.is_empty() && logged.incoming == bytes(&theirs));
    s.takes(1, 2, 2);
}

/// What a peer says is reported, and with it what all others do.
#[test]
fn what_a_peer_says_of_itself_and_of_us_is_bounded() {
    let long = || "x".repeat(1 << 20);
    let mut s = Side::with_own_flow();
    s.greet();
    s.hear(Body::FlowRefuse(wire::FlowRefuse {
        flow: 2,
        code: "SinkError".into(),
        message: long(),
        ..wire::FlowRefuse::default()
    }));
    let problem = s.report().1.remove(0).problem.expect("it is refused");
    assert!(problem.reason == Reason::SinkError && problem.message.len() < 4096, "{} bytes", problem.message.len());
    s.hear(Body::Disconnect(wire::Disconnect { reason: long() }));
    assert!(s.report().0.problem.is_some_and(|p| p.message.len() < 4096));
    for h in [
        wire::Handshake { incarnation: long(), ..handshake() },
        wire::Handshake { agent_version: long(), ..handshake() },
    ] {
        s.connect();
        assert!(s.hear(Body::Handshake(h)).hung_up(Reason::ProtocolMismatch));
    }
    s.greet();
    let many = wire::FlowOpen { types: vec![wire::TypeShape::default(); 10_001], ..open(1, TASKS) };
    let reset = wire::FlowOpen { reset: long(), ..open(1, TASKS) };
    for o in [many, reset] {
        let did = s.hear(Body::FlowOpen(o));
        assert!(did.refused().is_some_and(|r| r.message.contains("too")), "it was not refused");
    }
    s.open(open(1, TASKS));
    s.takes(1, 0, 1);
}

// ---------------------------------------------------------------- flows

#[test]
fn frames_of_flows_that_are_not_there_are_passed_over() {
    let nobodys = |pushed: u64| {
        [
            Body::SyncPush(batch(99, 0, 1, vec![task(5)])),
            // This side is the source of it.
            Body::SyncPush(batch(2, pushed, pushed + 1, vec![task(5)])),
            ack(99, 1),
            // This side is the sink of it.
            ack(1, 1),
            accept(99),
            accept(1),
            Body::FlowAccept(wire::FlowAccept { flow: 2, types: vec!["Secret".into()], position: None }),
            Body::FlowClose(wire::FlowClose { flow: 99 }),
            Body::FlowRefuse(wire::FlowRefuse { flow: 99, ..wire::FlowRefuse::default() }),
            Body::SyncNack(wire::SyncNack { flow: 99, ..wire::SyncNack::default() }),
            Body::Pong(wire::Pong { nonce: 12_345, now_ms: 0 }),
        ]
    };
    let mut s = Side::with_own_flow();
    let did = s.greet();
    assert!(did.frames.iter().any(|b| matches!(b, Body::FlowOpen(o) if o.flow == 2)), "{did:?}");
    let did = s.hear(accept(2));
    let sent = did.pushed().unwrap_or_else(|| panic!("nothing was sent: {did:?}")).upto;
    s.open(open(1, TASKS));
    let before = content(&s.kernel);
    for body in nobodys(sent) {
        let did = s.hear(body.clone());
        assert!(did.is_nothing(), "{body:?}: {did:?}");
        assert_eq!(content(&s.kernel), before, "{body:?}");
    }
    assert!(s.handle(Event::Frame(s.conn, wire::Frame { body: None })).is_nothing());
    assert_eq!(s.report().0.latency_ms, None, "a pong to no ping measures nothing");
    s.takes(1, 0, 1);
    s.hear(ack(2, sent));
    assert_eq!(s.report().1[0].state, FlowState::Live);
}

/// Otherwise a flow would be called live that has sent nothing.
#[test]
fn an_acknowledgement_of_what_was_never_sent_ends_the_flow() {
    let mut s = Side::with_own_flow();
    s.greet();
    let sent = s.hear(accept(2)).pushed().map(|p| p.upto).expect("a batch");
    s.open(open(1, TASKS));
    let before = content(&s.kernel);
    let did = s.hear(ack(2, sent + 1));
    assert!(did.frames.iter().any(|b| matches!(b, Body::FlowClose(c) if c.flow == 2)) && !did.closed, "{did:?}");
    let flow = s.report().1.remove(0);
    let problem = flow.problem.expect("it says why");
    assert!(flow.state == FlowState::Failed && problem.reason == Reason::SinkError, "{problem:?}");
    assert!(problem.message.contains("acknowledges"), "{problem:?}");
    assert_eq!(content(&s.kernel), before);
    s.takes(1, 0, 1);
    // It is opened again by the retry schedule.
    s.mono_ms += 200;
    let did = s.handle(Event::Wake);
    assert!(did.frames.iter().any(|b| matches!(b, Body::FlowOpen(o) if o.flow == 4)), "{did:?}");
    let sent = s.hear(accept(4)).pushed().map(|p| p.upto).expect("a batch");
    s.hear(ack(4, sent));
    assert_eq!(s.report().1[0].state, FlowState::Live);
}

#[test]
fn so_does_one_of_a_flow_that_the_peer_declares() {
    let mut s = Side::with_own_flow();
    s.greet();
    let did = s.hear(Body::FlowOpen(pull(1, TASKS)));
    let sent = did.pushed().unwrap_or_else(|| panic!("nothing was sent: {did:?}")).upto;
    s.open(open(3, OTHERS));
    let did = s.hear(ack(1, sent + 1));
    let refuse = did.refused().unwrap_or_else(|| panic!("{did:?}"));
    assert!(refuse.flow == 1 && refuse.code == Reason::SinkError.code(), "{refuse:?}");
    assert!(refuse.message.contains("acknowledges") && !did.closed, "{did:?}");
    assert!(s.hear(ack(1, sent)).is_nothing());
    s.takes(3, 0, 1);
}

#[test]
fn flows_that_may_not_be_opened_are_refused_one_by_one() {
    let sink = Reason::SinkError.code();
    let mismatch = Reason::OntologyMismatch.code();
    let pattern = |m: &str| wire::FlowOpen { r#match: m.into(), ..open(3, OTHERS) };
    let mut whole_number = open(3, OTHERS);
    for t in &mut whole_number.types {
        t.attrs.iter_mut().for_each(|a| a.kind = "Int".into());
    }
    let secret = wire::FlowOpen { types: shapes_of(&["Secret"]), edges: false, ..pattern("s: Secret") };
    let wrong = [
        ("a number of this side's", open(4, OTHERS), sink, "number"),
        ("a number that is taken", open(1, OTHERS), sink, "number"),
        ("a name that is too long", open(3, &"x".repeat(318)), sink, "too long"),
        ("a pattern that is too long", pattern(&format!("t: Task{}", " ".repeat(16_384))), sink, "too long"),
        ("no pattern", pattern("t Task"), Reason::InvalidPattern.code(), "expected"),
        ("two patterns", pattern("t: Task, u: Task"), Reason::InvalidPattern.code(), "one node"),
        ("a type that is not here", pattern("t: Nothing"), mismatch, "Nothing"),
        ("a type of another shape", whole_number, mismatch, "name"),
        // Not even the reason is said.
        ("a type that may not come", secret.clone(), "Denied", ""),
        ("a type that may not go", wire::FlowOpen { opener_is_source: false, ..secret }, "Denied", ""),
    ];
    let mut s = Side::new(Vec::new());
    s.greet();
    s.open(open(1, TASKS));
    for (i, (what, o, code, word)) in wrong.into_iter().enumerate() {
        let flow = o.flow;
        let did = s.hear(Body::FlowOpen(o));
        let refuse = did.refused().unwrap_or_else(|| panic!("{what}: {did:?}"));
        assert!(refuse.flow == flow && refuse.code == code && refuse.message.contains(word), "{what}: {refuse:?}");
        if code == "Denied" {
            assert!(refuse.message.is_empty() && !refuse.correlation_id.is_empty(), "{what}: {refuse:?}");
        }
        assert!(!did.closed, "{what}");
        s.takes(1, i as u64, i as u32);
    }
    s.open(open(3, OTHERS));
}

#[test]
fn a_peer_can_open_only_so_many_flows() {
    let mut s = Side::new(Vec::new());
    s.greet();
    for n in 0..MAX_PEER_FLOWS {
        s.open(open(2 * n + 1, &format!("there/{n}")));
    }
    let did = s.hear(Body::FlowOpen(open(2 * MAX_PEER_FLOWS + 1, TASKS)));
    assert!(did.refused().is_some_and(|r| r.message.contains("too many")), "{did:?}");
    s.takes(1, 0, 1);
    // One that ends makes room.
    s.hear(Body::FlowClose(wire::FlowClose { flow: 1 }));
    s.open(open(2 * MAX_PEER_FLOWS + 3, TASKS));
}

/// The log may have been put back to an earlier copy of itself: what is written then would pass for sent.
#[test]
fn a_position_that_is_not_of_this_log_is_refused() {
    let at = |incarnation: &str, seq: u64, start: u64| wire::Position {
        incarnation: incarnation.into(),
        seq,
        revision: "0123456789abcdef".into(),
        start,
        ..wire::Position::default()
    };
    let wrong = [at("here-1", 2, 0), at("here-1", u64::MAX, 0), at("here-1", 0, u64::MAX), at("here-0", 1, 0)];
    for p in wrong {
        let mut s = Side::with_own_flow();
        assert_eq!(s.kernel.head(), 1);
        s.greet();
        let did = s.hear(Body::FlowOpen(wire::FlowOpen { position: Some(p.clone()), ..pull(1, TASKS) }));
        let refuse = did.refused().unwrap_or_else(|| panic!("{p:?}: {did:?}"));
        assert_eq!((refuse.flow, refuse.code.as_str()), (1, Reason::SourceReset.code()), "{p:?}");
        let types = vec!["Task".to_owned()];
        let did = s.hear(Body::FlowAccept(wire::FlowAccept { flow: 2, types, position: Some(p.clone()) }));
        assert!(matches!(did.frames.as_slice(), [Body::FlowClose(c)] if c.flow == 2), "{p:?}: {did:?}");
        let problem = s.report().1.remove(0).problem.map(|p| p.reason);
        assert_eq!(problem, Some(Reason::SourceReset), "{p:?}");
        s.open(open(3, OTHERS));
        s.takes(3, 0, 1);
    }
    let mut s = Side::with_own_flow();
    s.greet();
    s.open(wire::FlowOpen { position: Some(at("here-1", 1, 1)), ..pull(1, TASKS) });
}

/// The store's position may be of an earlier revision, or from before a reset: acknowledged, it would make a copy that has
/// just begun look complete.
#[test]
fn a_retry_of_what_is_held_acknowledges_nothing_that_was_not_sent() {
    let mut s = Side::new(Vec::new());
    s.greet();
    s.open(open(1, TASKS));
    let did = s.push(batch(1, 0, 5, vec![task(1), edge(1, 2)]));
    let counts = did.acked().and_then(|a| a.counts).unwrap_or_else(|| panic!("{did:?}"));
    assert_eq!((counts.applied, counts.held), (1, 1));
    s.hear(Body::FlowClose(wire::FlowClose { flow: 1 }));
    s.open(open(3, OTHERS));
    s.takes(3, 0, 2);
    let did = s.hear(Body::FlowOpen(wire::FlowOpen { reset: "again".into(), ..open(5, TASKS) }));
    assert!(did.accepted().is_some_and(|a| a.position.is_none()), "{did:?}");
    let told = did.acked().unwrap_or_else(|| panic!("the retry is not told: {did:?}"));
    assert_eq!((told.flow, told.upto, told.counts.map(|c| c.held)), (5, 0, Some(0)));
    assert!(ids(&s.kernel).contains(&format!("{THERE}/1-2")), "the edge is not here");
}

// ---------------------------------------------------------------- damage

/// An honest session, and what its entities are.
fn session() -> (Vec<Vec<u8>>, Vec<Bytes>) {
    let entities = vec![task(1), task(2), edge(1, 2), task(3)];
    let e = |n: &[usize]| n.iter().map(|i| entities[*i].clone()).collect::<Vec<_>>();
    let bodies = [
        Body::Handshake(handshake()),
        Body::FlowOpen(open(1, TASKS)),
        accept(2),
        Body::SyncPush(batch(1, 0, 2, e(&[0, 1]))),
        Body::FlowOpen(pull(3, OTHERS)),
        ack(2, 1),
        Body::Ping(wire::Ping { nonce: 5 }),
        Body::SyncPush(batch(1, 2, 3, e(&[2]))),
        ack(3, 1),
        Body::RulesChanged(wire::RulesChanged {}),
        Body::Pong(wire::Pong { nonce: 1, now_ms: NOW_MS }),
        Body::SyncPush(batch(1, 3, 4, e(&[3]))),
        Body::SyncNack(wire::SyncNack { flow: 2, code: "SinkError".into(), message: "the disk is full".into() }),
        Body::FlowClose(wire::FlowClose { flow: 1 }),
    ];
    (bodies.into_iter().map(|b| wire::Frame { body: Some(b) }.encode_to_vec()).collect(), entities)
}

/// Plays frames as `agent/net/src/hub.rs` does: what is no frame ends the connection.
fn play(s: &mut Side, frames: &[Vec<u8>]) {
    s.connect();
    for f in frames {
        let event = match wire::Frame::decode(f.as_slice()) {
            Ok(f) => Event::Frame(s.conn, f),
            Err(e) => Event::Closed(s.conn, Some(Problem::new(Reason::Unreachable, e.to_string()))),
        };
        s.handle(event);
    }
}

#[test]
fn a_damaged_frame_brings_nothing_that_was_not_sent() {
    let (frames, entities) = session();
    let mut s = Side::with_own_flow();
    let own = content(&s.kernel).into_iter().map(|(_, b)| b).collect::<Vec<_>>();
    play(&mut s, &frames);
    assert_eq!(content(&s.kernel).len(), own.len() + entities.len(), "the honest session brings everything");

    let mut damage = Damage::new(11);
    let (mut less, mut no_frame) = (0, 0);
    for n in 0..1_200 {
        let mut frames = frames.clone();
        let which = n % frames.len();
        frames[which] = damage.bytes(&frames[which]);
        no_frame += usize::from(wire::Frame::decode(frames[which].as_slice()).is_err());
        let mut s = Side::with_own_flow();
        play(&mut s, &frames);
        let found: Vec<Bytes> = content(&s.kernel).into_iter().map(|(_, b)| b).collect();
        for b in &found {
            // The own task has another id and time in each kernel, and is the first.
            assert!(entities.contains(b) || found.first() == Some(b), "frame {which}: {:?}", EntityRef::read(b));
        }
        less += usize::from(found.len() < 1 + entities.len());
        s.greet();
        s.open(open(1, "there/again"));
        s.takes(1, 0, 8);
    }
    assert!(less > 120 && no_frame > 120, "{less} brought less, {no_frame} were no frames");
}

/// With the right checksum: only what is a valid entity, of a type and a kernel that may come, not from the future.
#[test]
fn a_damaged_entity_is_stored_only_as_a_valid_one_that_may_come() {
    let mut rich = draft("Task", &format!("{THERE}/77"));
    rich.vector.raise(KernelKey(5), Hlc::from_ms(NOW_MS - 2_000));
    rich.vector.raise(KernelKey::of(HERE), Hlc::from_ms(NOW_MS - 3_000));
    let samples = [task(1), edge(1, 1), bytes(&rich), edge(1, 2)];
    let mut damage = Damage::new(12);
    let mut s = Side::new(Vec::new());
    s.greet();
    let (mut flow, mut at, mut ahead) = (1, 0, 0);
    s.open(open(flow, TASKS));
    let mut counts = wire::Counts::default();
    for n in 0..4_000 {
        let b = Bytes::from(damage.bytes(&samples[n % samples.len()]));
        let did = s.push(batch(flow, at, at + 1, vec![b.clone()]));
        if let Some(a) = did.acked() {
            at += 1;
            counts = a.counts.unwrap_or_default();
            continue;
        }
        ahead += 1;
        let nack = did.nacked().unwrap_or_else(|| panic!("{b:?}: {did:?}"));
        assert_eq!(nack.code, Reason::ClockSkew.code(), "{b:?}: {nack:?}");
        flow += 2;
        assert_eq!(s.open(open(flow, TASKS)).position.map_or(0, |p| p.seq), at);
    }
    let types = [number("Task"), number("links")];
    for (_, b) in content(&s.kernel) {
        let e = EntityRef::validate(&b).unwrap_or_else(|why| panic!("stored and not valid: {why}: {b:?}"));
        assert!(types.contains(&e.ty) && !e.time.is_too_far_ahead(NOW_MS), "{e:?}");
        assert!(kernel_of_sync_id(e.sync_id).is_none_or(|k| k == THERE || k == HERE), "{e:?}");
    }
    assert!(counts.applied > 50 && counts.rejected > 1_000 && ahead > 20, "{counts:?}, {ahead} from the future");
}
