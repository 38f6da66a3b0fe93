//! Writes kept inputs as the real encoders make them: `cargo run -p mew-fuzz --example seed`. What is there stays, as keys and
//! certificates are others each time; with `--again` all of it is written anew. Texts are kept by hand.

use bytes::Bytes;
use mew_contract::report::{Denial, FlowState, Inbound, LinkState, Names, PeerInfo, Roots};
use mew_contract::snapshot::{Direction, Endpoint};
use mew_contract::{FlowReport, Problem, Reason, Rejection, RemoteItem, RemoteReport, Report, Snapshot, SyncItem};
use mew_fuzz::{pack, samples};
use mew_model::{Draft, Hlc, KernelKey, Value};
use mew_net::archive::Archive;
use mew_store::{MemDisk, Store};
use mew_sync::shapes::value_to_wire;
use mew_tls::{Authority, SpiffeId, new_request};
use mew_wire as wire;
use mew_wire::agent_message::Body as AgentBody;
use mew_wire::operator_message::Body as OperatorBody;
use prost::Message;
use roaring::RoaringBitmap;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use samples::{HERE, NOW_MS, THERE};
use std::fs;
use std::path::Path;

struct Seeds {
    again: bool,
    written: usize,
}

impl Seeds {
    fn put(&mut self, decoder: &str, name: &str, bytes: impl AsRef<[u8]>) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(decoder);
        let path = dir.join(name);
        if self.again || !path.exists() {
            fs::create_dir_all(&dir).expect("a directory");
            fs::write(&path, bytes).expect("an input is written");
            self.written += 1;
        }
    }
}

fn main() {
    let mut s = Seeds { again: std::env::args().any(|a| a == "--again"), written: 0 };
    entities(&mut s);
    literals(&mut s);
    stores(&mut s);
    messages(&mut s);
    sessions(&mut s);
    facts(&mut s);
    configuration(&mut s);
    certificates(&mut s);
    println!("{} inputs written", s.written);
}

fn entities(s: &mut Seeds) {
    let (rich, task, link) = (samples::rich(), samples::task(1), samples::link(1, 2));
    let mut dead = samples::rich();
    dead.delete();
    let mut least = Draft::new(3, "a".to_owned());
    least.stamp(KernelKey(9), 1, None);
    let mut crowd = samples::task(2);
    for k in 1..60 {
        crowd.vector.raise(KernelKey(k), Hlc(k));
    }
    let all = [("rich", rich), ("task", task), ("link", link), ("dead", dead), ("least", least), ("crowd", crowd)];
    for (name, d) in &all {
        s.put("entity", name, d.encode());
    }
    let pair = |a: &Draft, b: &Draft| {
        let a = a.encode();
        [&(a.len() as u16).to_le_bytes()[..], a.as_slice(), b.encode().as_slice()].concat()
    };
    let older = samples::task(1);
    let mut newer = older.clone();
    newer.stamp(KernelKey::of(HERE), NOW_MS, Some(older.time));
    let mut beside = older.clone();
    beside.stamp(KernelKey::of(THERE), NOW_MS + 5, None);
    let pairs = [
        ("same", pair(&older, &older)),
        ("after", pair(&newer, &older)),
        ("before", pair(&older, &newer)),
        ("concurrent", pair(&newer, &beside)),
        ("strangers", pair(&samples::rich(), &newer)),
    ];
    for (name, b) in pairs {
        s.put("versions", name, b);
    }
}

/// The kind, and what it is made of; see `literal`.
fn literals(s: &mut Seeds) {
    let text = "with \"quotes\", \\, a tab\t, a line\nand é😀\u{2028}\u{1}";
    let number = |kind: u8, n: i64| [&[kind][..], &n.to_le_bytes()].concat();
    s.put("literal", "string", [&[0][..], text.as_bytes()].concat());
    s.put("literal", "int", number(1, -42));
    s.put("literal", "int-least", number(1, i64::MIN));
    s.put("literal", "float", number(2, 1.5e-7_f64.to_bits() as i64));
    s.put("literal", "float-zero", number(2, (-0.0_f64).to_bits() as i64));
    s.put("literal", "float-nan", number(2, f64::NAN.to_bits() as i64));
    s.put("literal", "bool", [3_u8, 1]);
    s.put("literal", "timestamp", number(4, NOW_MS as i64));
    s.put("literal", "timestamp-last", number(4, 253_402_300_799_999));
    s.put("literal", "duration", number(5, 86_400_000));
    s.put("literal", "duration-least", number(5, i64::MIN));
    s.put("literal", "id", [&[6][..], b"plant/1"].concat());
    s.put("literal", "null", [7_u8]);
}

fn stores(s: &mut Seeds) {
    let plain = MemDisk::new();
    let store = samples::log(&plain, 1 << 20);
    backup(s, "whole-plain", &store);
    drop(store);
    let plain = samples::contents(&plain);
    for (name, bytes) in &plain {
        s.put("segment", &format!("plain-{name}"), bytes);
    }
    s.put("directory", "plain", pack(&plain));
    found(s, &plain[0].1);

    let several = MemDisk::new();
    drop(samples::log(&several, 2_000));
    s.put("directory", "several", pack(&samples::contents(&several)));

    let tidied = samples::contents(&samples::directory());
    s.put("directory", "tidied", pack(&tidied));
    let bare: Vec<_> = tidied.iter().filter(|(n, _)| n != "checkpoint").cloned().collect();
    s.put("directory", "tidied-without-checkpoint", pack(&bare));
    for (name, bytes) in &tidied {
        match name.as_str() {
            "checkpoint" => s.put("checkpoint", "whole", bytes),
            n if n.ends_with(".seg") => s.put("segment", &format!("tidied-{name}"), bytes),
            _ => {}
        }
    }
}

/// What nothing bears out, and what once found something: lengths, numbers, kinds, names. Checksums are made when it is read.
fn found(s: &mut Seeds, segment: &[u8]) {
    const HEADER: usize = 48;
    const FRAME: usize = 24;
    let number = |at: usize| u32::from_le_bytes([segment[at], segment[at + 1], segment[at + 2], segment[at + 3]]);
    let edited = |at: usize, bytes: &[u8]| {
        let mut b = segment.to_vec();
        b[at..at + bytes.len()].copy_from_slice(bytes);
        b
    };
    // The first commit says whose store it is, by facts; the second has an entity.
    let fact = HEADER + FRAME;
    let entity = fact + number(HEADER + 4) as usize + FRAME;
    let length = 0x0fff_ffe8_u32.to_le_bytes();
    let mut torn = segment[..HEADER + FRAME].to_vec();
    torn[HEADER + 4..HEADER + 8].copy_from_slice(&length);
    s.put("segment", "a-length-without-bytes", torn);
    s.put("segment", "an-unknown-kind", edited(12, &2_u32.to_le_bytes()));
    s.put("segment", "compacted-to-nothing", edited(12, &1_u32.to_le_bytes()));
    s.put("segment", "a-last-seq-that-nobody-has", edited(32, &1_000_u64.to_le_bytes()));
    s.put("segment", "the-last-commit-there-can-be", edited(HEADER + 12, &u64::MAX.to_le_bytes()));
    s.put("segment", "a-fact-with-a-seq", edited(fact + 12, &9_u64.to_le_bytes()));
    s.put("segment", "an-entity-without-a-seq", edited(entity + 12, &0_u64.to_le_bytes()));
    s.put("segment", "the-last-entity-there-can-be", edited(entity + 8, &u32::MAX.to_le_bytes()));
    s.put("segment", "the-last-seq-there-can-be", edited(entity + 12, &u64::MAX.to_le_bytes()));
    s.put("segment", "a-few-bytes", b"MEWLOG");
    s.put("segment", "nothing", b"");
    for name in ["5.seg", "+0000000005.seg", "4294967295.seg", "99999999999.seg"] {
        s.put("directory", &format!("named-{name}"), pack(&[(name.to_owned(), segment.to_vec())]));
    }
}

fn backup(s: &mut Seeds, name: &str, store: &Store) {
    let taken = store.backup().expect("a disk in memory");
    let archive = Archive::new(taken, NOW_MS).expect("a manifest");
    let mut out = Vec::new();
    let pieces = archive.pieces(|p| {
        out.extend_from_slice(&p);
        Ok(())
    });
    pieces.expect("a disk in memory");
    s.put("archive", name, &out);
    s.put("restore", name, &out);
    let manifest = serde_json::to_vec(&archive.manifest).expect("it is JSON");
    s.put("archive", "manifest.json", manifest);
}

fn position() -> wire::Position {
    wire::Position {
        incarnation: "there-1".into(),
        seq: 7,
        revision: "0123456789abcdef".into(),
        start: 0,
        previous_revision: "fedcba9876543210".into(),
        previous_seq: 9,
        complete: true,
    }
}

fn sink_state() -> wire::SinkState {
    let counts = wire::Counts { applied: 3, rejected: 1, held: 2, conflicts: 1 };
    wire::SinkState { position: Some(position()), counts: Some(counts), reset: "again".into() }
}

fn definition() -> wire::FlowDefinition {
    wire::FlowDefinition { r#match: "t: Task".into(), edges: true, types: vec!["Task".into()], generation: 1 }
}

fn members() -> wire::FlowMembers {
    wire::FlowMembers { seq: 1, saved_at_ms: NOW_MS, ..wire::FlowMembers::default() }
}

fn held() -> wire::Held {
    wire::Held {
        reason: "MissingEnd".into(),
        message: "an end is not here".into(),
        blocker: format!("{THERE}/2"),
        since_ms: NOW_MS,
        entity: samples::task(1).encode().into(),
    }
}

fn conflict() -> wire::Conflict {
    wire::Conflict {
        sync_id: format!("{THERE}/1"),
        remote: "here/there".into(),
        r#type: "Task".into(),
        local: samples::task(1).encode().into(),
        incoming: samples::task(1).encode().into(),
        resolution: "local_kept".into(),
        at_ms: NOW_MS,
        by: "auto:lww".into(),
        flow: format!("{THERE}|{THERE}|there/tasks"),
    }
}

/// The first byte says which; see `message`.
fn messages(s: &mut Seeds) {
    let request = wire::ExecuteRequest {
        text: "MATCH t: Task WHERE t.title = $t RETURN t".into(),
        params: [("t".to_owned(), value_to_wire(&Value::String("x".into())))].into(),
        row_names: vec!["a".into()],
        rows: vec![wire::Row { values: vec![value_to_wire(&Value::Int(-1)), value_to_wire(&Value::Null)] }],
    };
    let response = wire::ExecuteResponse {
        columns: vec!["a".into()],
        rows: vec![wire::Row { values: vec![value_to_wire(&Value::Float(f64::NAN))] }],
        summary: Some(wire::Summary { spawned: 1, set: 2, killed: 3, linked: 4, unlinked: 5 }),
        seq: 9,
    };
    let shape = samples::open(1, "there/tasks", "").types.remove(0);
    let all: [(u8, &str, Vec<u8>); 16] = [
        (0, "entity", samples::rich().encode()),
        (1, "position", position().encode_to_vec()),
        (2, "sink-state", sink_state().encode_to_vec()),
        (3, "definition", definition().encode_to_vec()),
        (4, "members", members().encode_to_vec()),
        (5, "held", held().encode_to_vec()),
        (6, "conflict", conflict().encode_to_vec()),
        (7, "execute", request.encode_to_vec()),
        (8, "executed", response.encode_to_vec()),
        (9, "records", wire::RecordsRequest { kind: "held".into(), limit: 10 }.encode_to_vec()),
        (10, "recorded", wire::RecordsResponse { json: vec!["{}".into()], total: 1 }.encode_to_vec()),
        (11, "value", value_to_wire(&Value::Timestamp(-1)).encode_to_vec()),
        (12, "sign", wire::SignRequest { kernel: "shop".into(), csr_pem: "-----BEGIN".into() }.encode_to_vec()),
        (13, "signed", wire::SignResponse { chain_pem: "a".into(), ca_pem: "b".into() }.encode_to_vec()),
        (14, "objects", wire::ObjectsRequest { kind: "Sync".into(), name: "x".into() }.encode_to_vec()),
        (15, "shape", shape.encode_to_vec()),
    ];
    for (which, name, bytes) in all {
        s.put("message", name, [vec![which], bytes].concat());
    }
}

fn sessions(s: &mut Seeds) {
    let bodies = samples::session();
    for (i, b) in bodies.iter().enumerate() {
        let f = wire::Frame { body: Some(b.clone()) };
        s.put("frame", &format!("{i:02}"), f.encode_to_vec());
    }
    s.put("session", "whole", samples::framed(&bodies));
    s.put("session", "sink", samples::framed(&[&bodies[..2], &bodies[3..4], &bodies[7..8], &bodies[11..12]].concat()));
    s.put("session", "source", samples::framed(&[&bodies[..1], &bodies[2..3], &bodies[4..6], &bodies[8..9]].concat()));
}

/// The first byte says which; see `fact`.
fn facts(s: &mut Seeds) {
    let set = |numbers: &[u32]| {
        let mut out = Vec::new();
        numbers.iter().copied().collect::<RoaringBitmap>().serialize_into(&mut out).expect("a vector");
        out
    };
    let many: Vec<u32> = (0..200).map(|n| n * 3).collect();
    let all: [(u8, &str, Vec<u8>); 10] = [
        (0, "sink-state", sink_state().encode_to_vec()),
        (1, "members-head", members().encode_to_vec()),
        (2, "members-unsure", set(&[0])),
        (3, "members", set(&[0, 1, 5])),
        (3, "members-many", set(&many)),
        (4, "definition", definition().encode_to_vec()),
        (5, "held", held().encode_to_vec()),
        (6, "blocked", vec![1]),
        (7, "conflict", conflict().encode_to_vec()),
        (8, "total", 3_u64.to_le_bytes().to_vec()),
    ];
    for (which, name, bytes) in all {
        s.put("fact", name, [vec![which], bytes].concat());
    }
}

fn report() -> Report {
    let problem = samples::problem();
    let denial = Denial { flow: "eu/x".into(), correlation_id: "00ff".into(), problem: problem.clone() };
    let bad = Problem::new(Reason::UnsupportedField, "unknown field `quota`");
    Report {
        kernel_id: "shop.shop".into(),
        incarnation: "one".into(),
        agent_version: "0.1.0".into(),
        snapshot: "e3b0c442".into(),
        rejected: vec![Rejection { kind: "Sync".into(), name: "shop/other".into(), problem: bad }],
        remotes: vec![RemoteReport {
            name: "shop/eu".into(),
            state: LinkState::Connected,
            problem: None,
            endpoint: Some("eu.example.com:9001".into()),
            peer: Some(PeerInfo {
                kernel_id: "team-a.shop".into(),
                incarnation: "two".into(),
                agent_version: "0.1.0".into(),
                protocol: 1,
                certificate_not_after_ms: Some(1_800_000_000_000),
                roots: Roots { own: Some("AB:01".into()), peer: None, accepted: Some(vec!["AB:01".into()]) },
            }),
            latency_ms: Some(12),
            inbound: Inbound { total: 2, denied: 1, failed: 0, denials: vec![denial] },
            certificate_not_after_ms: Some(1_800_000_000_000),
        }],
        syncs: vec![FlowReport {
            name: "shop/tasks".into(),
            remote: "shop/eu".into(),
            direction: Direction::Push,
            state: FlowState::Live,
            problem: None,
            lag_ms: Some(7),
            pending: Some(4),
            initial_percent: Some(100),
            applied: 5,
            rejected: 1,
            held: 2,
            conflicts: 1,
            needs_reconcile: false,
            revision: "e3b0c44298fc1c14".into(),
            reset: Some("again".into()),
            last_error: Some(problem),
        }],
        silent: Some(Names { remotes: vec![], syncs: vec!["shop/new".into()] }),
        certificate_not_after_ms: Some(1_800_000_000_000),
        certificate_root: Some("AB:01".into()),
        problem: None,
    }
}

fn configuration(s: &mut Seeds) {
    let remote = RemoteItem {
        name: "shop/eu".into(),
        endpoints: vec![Endpoint { host: "eu.example.com".into(), port: 9001, server_name: None }],
        blocked: Some(samples::problem()),
        ..samples::remote_item()
    };
    let sync = SyncItem { name: "shop/tasks".into(), reset: Some("again".into()), ..samples::sync_item() };
    let snapshot = Snapshot {
        kernel_id: "shop.shop".into(),
        trust_domain: "us.example.com".into(),
        remotes: vec![serde_json::to_value(&remote).expect("it is JSON")],
        syncs: vec![serde_json::to_value(&sync).expect("it is JSON")],
    };
    s.put("snapshot", "whole", snapshot.encode());
    let mut newer = snapshot.clone();
    newer.syncs[0]["quota"] = 7.into();
    s.put("snapshot", "with-an-unknown-field", newer.encode());
    let report = serde_json::to_vec(&report()).expect("it is JSON");
    s.put("report", "whole", &report);

    let hello = wire::Hello {
        kernel: "shop".into(),
        incarnation: "one".into(),
        instance: "shop-0".into(),
        agent_version: "0.1.0".into(),
    };
    let agent = |b: AgentBody| [vec![0], wire::AgentMessage { body: Some(b) }.encode_to_vec()].concat();
    let operator = |b: OperatorBody| [vec![1], wire::OperatorMessage { body: Some(b) }.encode_to_vec()].concat();
    s.put("control", "hello", agent(AgentBody::Hello(hello)));
    s.put("control", "report", agent(AgentBody::Report(Bytes::from(report))));
    s.put("control", "accepted", agent(AgentBody::Accepted(wire::Accepted { digest: "e3b0c442".into() })));
    let left = vec!["flow shop/tasks of Remote shop/eu: the sink has everything up to 7".into()];
    s.put("control", "drained", agent(AgentBody::Drained(wire::Drained { left })));
    s.put("control", "snapshot", operator(OperatorBody::Snapshot(Bytes::from(snapshot.encode()))));
    s.put("control", "standby", operator(OperatorBody::Standby(wire::Standby { message: "wait".into() })));
    let welcome = wire::Welcome { kernel_id: "shop.shop".into(), trust_domain: "us.example.com".into() };
    s.put("control", "welcome", operator(OperatorBody::Welcome(welcome)));
    let pem = "-----BEGIN CERTIFICATE-----\nZXU=\n-----END CERTIFICATE-----\n".to_owned();
    s.put("control", "roots", operator(OperatorBody::Roots(wire::OwnRoots { pem, signer: "AB:01".into() })));
}

/// Made here and forgotten: nobody trusts them.
fn certificates(s: &mut Seeds) {
    let (ca, other) = (Authority::new("there.example").expect("a CA"), Authority::new("eu.example").expect("a CA"));
    let request = new_request().expect("a request");
    let id = SpiffeId::kernel("there.example", "there");
    let ten_years = 10 * 365 * 24 * 3600;
    let dns = ["front.example".to_owned()];
    let chain = ca.sign(&request.pem, &id, &dns, ten_years).expect("a certificate");
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate").to_vec();
    s.put("certificate", "leaf", der(&chain));
    s.put("certificate", "root", der(&ca.cert_pem));
    s.put("certificate", "operator", {
        let operator = new_request().expect("a request");
        der(&ca.sign(&operator.pem, &SpiffeId::operator("there.example"), &[], ten_years).expect("a certificate"))
    });
    s.put("bundle", "root", &ca.cert_pem);
    s.put("bundle", "two-roots", format!("{}{}", ca.cert_pem, other.cert_pem));
    s.put("bundle", "chain", format!("{chain}{}", ca.cert_pem));
    s.put("request", "whole", &request.pem);
}
