//! Whatever reads what others wrote, given that with damage: it never panics, it says what is wrong and where, and what it
//! takes is what is written there. The damage is the same in every run. Frames of a session are in
//! `agent/sync/tests/protocol`, certificates in `agent/tls/tests/material.rs`, and entities (every single change of one)
//! in `agent/model/tests/entity.rs`.

mod damage;

use bytes::Bytes;
use damage::Damage;
use mew_contract::report::{Denial, FlowState, Inbound, LinkState, Names, PeerInfo, Roots};
use mew_contract::snapshot::{Direction, Edges, Endpoint, Grant, Initial, Keepalive, Overwrite, Retry};
use mew_contract::{FlowReport, Problem, Reason, RemoteItem, RemoteReport, Report, Snapshot, SyncItem, TypeRules};
use mew_crds::manifest::{self, Object};
use mew_lang::check::{Scope, check};
use mew_lang::diagnostic::Diagnostic;
use mew_lang::{PatternText, parse_ontology, parse_script, render};
use mew_model::name::number;
use mew_model::{Draft, KernelKey, Ontology, Value};
use mew_store::{Batch, Change, Disk, MemDisk, Options, Place, Store, StoreError};
use mew_tests::dirs::root;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::sync::Arc;

// ---------------------------------------------------------------- the language

/// One of everything that an ontology can say.
const ONTOLOGY: &str = r#"
-- Everything at once.
ontology Everything {
  node Person { name: String [required, length: 1..80], born: Timestamp? }
  node Employee : Person {
    grade: Int [1..9] = 3
    wage: Float [>= 0.5, < 1.5e6] = 1.0
    role: String [in: ["dev", "ops"]] = "dev"
    badge: String? [unique]
    since: Timestamp = now() - 5.days
    active: Bool = true
  }
  /* A block. */
  edge knows(a: Person, b: any) [on_kill_source: cascade, on_kill_target: prevent] { weight: Int? [>= -3] }
}
"#;

/// Statements that this ontology takes.
const SCRIPTS: [&str; 6] = [
    r#"MATCH p: Person, e: Employee, knows(p, e) AS k WHERE p.name STARTS WITH "A" AND (e.grade IN [1, 2] OR NOT e.active)
       RETURN p.name AS name, e.wage * 2.0 + 1.0, k.weight ORDER BY name DESC LIMIT 10"#,
    r#"SPAWN e: Employee {name = "Ann \"A\" \u00e9\ud83d\ude00", badge = $badge?, since = @2026-11-21T09:30:00.000Z}"#,
    r#"BEGIN; SPAWN Person {name = "B"} AS b; LINK knows(b, b); COMMIT"#,
    "MATCH e: Employee WHERE e.badge = $badge AND EXISTS(x: Person, knows(e, x)) \
     SET e.grade = e.grade - -1 SET e {badge = null, role = \"ops\"}",
    "MATCH p: Person WHERE p.born IS NOT NULL AND p.born < now() - 3.weeks KILL p",
    r#"MATCH a: Person, b: Person WHERE a.name = "Ann" AND (b.name ?? "x") != a.name LINK knows(a, b) {weight = 3}"#,
];

const PATTERNS: [&str; 3] = [
    r#"e: Employee WHERE e.active = true AND e.grade >= 3 OR e.role IN ["dev"]"#,
    "_: any",
    r#"p: Person WHERE NOT (p.name CONTAINS "x") AND p.born IS NULL"#,
];

const WORDS: [&str; 24] = [
    " MATCH ",
    " WHERE ",
    " RETURN ",
    "SPAWN ",
    " KILL ",
    " SET ",
    " IN [",
    " IS NULL",
    "EXISTS(",
    "count(*)",
    "now()",
    " NOT ",
    "((((",
    "- - -",
    "1.5e308",
    "99999999999999999999",
    "$p?",
    "#\"x\"",
    "@2026-13-41",
    "--",
    "/*",
    "\\u12",
    "node ",
    " edge ",
];

fn ontology() -> Ontology {
    parse_ontology(ONTOLOGY).unwrap_or_else(|d| panic!("{}", render("ontology", ONTOLOGY, &d, false)))
}

/// Each diagnostic says something, points into the text, and can be shown.
fn points_into(text: &str, all: &[Diagnostic]) {
    assert!(!all.is_empty(), "refused without a word: {text:?}");
    for d in all {
        let inside = d.span.start <= d.span.end && text.get(d.span.clone()).is_some();
        assert!(inside && !d.message.is_empty(), "{d:?} of {text:?}");
        let (line, column) = d.position(text);
        assert!(line >= 1 && column >= 1, "{d:?} of {text:?}");
    }
    assert!(!render("text", text, all, false).is_empty());
}

#[test]
fn damaged_ontologies_are_refused_with_their_place() {
    let mut damage = Damage::new(1);
    let good = ontology();
    let mut refused = 0;
    for _ in 0..1_500 {
        let text = damage.text(ONTOLOGY, &WORDS);
        match parse_ontology(&text) {
            Err(d) => {
                refused += 1;
                points_into(&text, &d);
            }
            // A kernel that runs takes it only if it takes nothing away.
            Ok(o) => drop(good.refused_changes(&o)),
        }
    }
    assert!(refused > 700, "only {refused} were refused");
}

#[test]
fn damaged_statements_are_refused_with_their_place() {
    let mut damage = Damage::new(2);
    let o = ontology();
    for s in SCRIPTS {
        let mut scope = Scope::default();
        for s in parse_script(s).unwrap_or_else(|d| panic!("{}", render("statement", s, &d, false))) {
            check(&o, &mut scope, &s).unwrap_or_else(|d| panic!("{d:?} of {s:?}"));
        }
    }
    let mut refused = 0;
    for n in 0..3_000 {
        let text = damage.text(SCRIPTS[n % SCRIPTS.len()], &WORDS);
        match parse_script(&text) {
            Err(d) => {
                refused += 1;
                points_into(&text, &d);
            }
            Ok(statements) => {
                let mut scope = Scope::default();
                for s in &statements {
                    assert!(text.get(s.span.clone()).is_some(), "{:?} of {text:?}", s.span);
                    if let Err(d) = check(&o, &mut scope, s) {
                        refused += 1;
                        points_into(&text, &[d]);
                        break;
                    }
                }
            }
        }
    }
    assert!(refused > 1_200, "only {refused} were refused");
}

#[test]
fn damaged_patterns_are_refused_with_their_place() {
    let mut damage = Damage::new(3);
    let o = ontology();
    let mut refused = 0;
    for n in 0..1_500 {
        let text = damage.text(PATTERNS[n % PATTERNS.len()], &WORDS);
        let wrong = match PatternText::parse(&text) {
            Err(d) => d,
            Ok(p) => p.check(&o).err().into_iter().collect(),
        };
        if !wrong.is_empty() {
            refused += 1;
            points_into(&text, &wrong);
        }
    }
    assert!(refused > 600, "only {refused} were refused");
}

// ---------------------------------------------------------------- the log

const TASKS: &str = "node Task { title: String? }";
/// Several segments, so that some of them are closed.
const SEGMENT_BYTES: u32 = 900;

fn open(disk: &MemDisk) -> Result<Store, StoreError> {
    let o = parse_ontology(TASKS).expect("the ontology is right");
    let options = Options { kernel_id: "plant.a".into(), new_incarnation: "one".into(), segment_bytes: SEGMENT_BYTES };
    Store::open(Arc::new(disk.clone()), Arc::new(o), options).map(|(s, _)| s)
}

/// Every version in the log, in order.
fn history(store: &Store) -> Vec<(u32, u64, Bytes)> {
    let (mut place, mut out) = (Place::default(), Vec::new());
    while store.history(&mut place, &mut out).expect("what was opened can be read") {}
    out.into_iter().map(|s| (s.ent, s.seq, s.bytes)).collect()
}

/// A log of commits with up to three versions each; also how many versions there were after each commit.
fn log() -> (MemDisk, Vec<usize>) {
    let disk = MemDisk::new();
    let store = open(&disk).expect("an empty store opens");
    let mut ends = vec![0];
    for n in 0..14_u32 {
        let first = store.view().next_entity();
        let change = |ent: u32| {
            let mut d = Draft::new(number("Task"), format!("task-{ent}"));
            d.set(number("title"), Value::String("x".repeat(1 + (ent as usize * 7) % 60)));
            d.stamp(KernelKey::of("plant.a"), 1_700_000_000_000 + u64::from(ent), None);
            Change { ent, origin: KernelKey(0), bytes: d.encode().into() }
        };
        let changes: Vec<Change> = (first..=first + n % 3).map(change).collect();
        ends.push(ends[ends.len() - 1] + changes.len());
        store.commit(Batch { changes, facts: vec![(vec![b'f', n as u8], vec![1])] }).expect("a disk in memory");
    }
    (disk, ends)
}

#[test]
fn a_damaged_log_is_refused_or_ends_at_an_earlier_commit() {
    let mut damage = Damage::new(4);
    let (disk, ends) = log();
    let good = history(&open(&disk.copy()).expect("the log is sound"));
    let mut files = disk.list().expect("a disk in memory");
    files.retain(|n| n.ends_with(".seg"));
    files.sort();
    assert!(files.len() > 2 && good.len() == ends[ends.len() - 1], "{} segments, {} versions", files.len(), good.len());
    let (mut refused, mut shorter) = (0, 0);
    for n in 0..1_500 {
        // Half of them where a torn commit can be.
        let last = files.len() - 1;
        let which = if n % 2 == 0 { last } else { damage.below(files.len()) };
        let copy = disk.copy();
        let mut after = Vec::new();
        copy.edit(&files[which], |b| {
            *b = damage.bytes(b);
            after = b.clone();
        });
        match open(&copy) {
            Err(e) => {
                refused += 1;
                assert!(!e.to_string().is_empty());
                let mut now = Vec::new();
                copy.edit(&files[which], |b| now = b.clone());
                assert!(now == after, "{n}: refused and changed: {e}");
            }
            Ok(store) => {
                let found = history(&store);
                assert!(which == last, "{n}: damage to the closed segment {} went unnoticed", files[which]);
                assert!(good.starts_with(&found) && ends.contains(&found.len()), "{n}: {} versions", found.len());
                shorter += usize::from(found.len() < good.len());
            }
        }
    }
    assert!(refused > 400 && shorter > 40, "{refused} refused, {shorter} cut off");
}

// ---------------------------------------------------------------- what operator and agent say to each other

fn remote_item() -> RemoteItem {
    let rules = |t: &str| TypeRules { allow: vec![t.into()], deny: vec!["Salary".into()], permitted: vec!["*".into()] };
    RemoteItem {
        name: "shop/eu".into(),
        peer_kernel_id: "team-a.shop".into(),
        peer_trust_domain: "eu.example.com".into(),
        endpoints: vec![Endpoint { host: "eu.example.com".into(), port: 9001, server_name: Some("front".into()) }],
        dial: true,
        accept: false,
        roots: vec!["-----BEGIN CERTIFICATE-----".into()],
        certificate: Some("peers".into()),
        connect_timeout_ms: 30_000,
        retry: Retry { initial_ms: 1_000, max_ms: 60_000, multiplier: 2, jitter_percent: 10 },
        keepalive: Keepalive { interval_ms: 10_000, timeout_ms: 20_000, failure_threshold: 3 },
        suspend: false,
        blocked: Some(Problem::new(Reason::PolicyDenied, "denied by policy shop/main")),
        export: rules("Task"),
        import: rules("Product"),
        grants: vec![Grant { ty: "Product".into(), overwrite_local: Overwrite::OnConflict, delete: Some(false) }],
    }
}

fn sync_item() -> SyncItem {
    SyncItem {
        name: "shop/tasks".into(),
        remote: "shop/eu".into(),
        direction: Direction::Push,
        pattern: "t: Task".into(),
        initial: Initial::Full,
        edges: Edges::Incident,
        delete_at_sink: true,
        delete_on_unmatch: false,
        suspend: false,
        reset: Some("again".into()),
        blocked: None,
    }
}

fn report() -> Report {
    let problem = Problem::new(Reason::DNSFailed, "the name cannot be resolved");
    let denial = Denial { flow: "eu/x".into(), correlation_id: "00ff".into(), problem: problem.clone() };
    Report {
        kernel_id: "shop.shop".into(),
        incarnation: "one".into(),
        agent_version: "0.1.0".into(),
        snapshot: "e3b0c442".into(),
        rejected: vec![],
        remotes: vec![RemoteReport {
            name: "shop/eu".into(),
            state: LinkState::Disconnected,
            problem: Some(problem.clone()),
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
            state: FlowState::Copying,
            problem: None,
            lag_ms: Some(7),
            pending: Some(4),
            initial_percent: Some(40),
            applied: 5,
            rejected: 1,
            held: 2,
            conflicts: 0,
            needs_reconcile: false,
            revision: "e3b0c44298fc1c14".into(),
            reset: None,
            last_error: Some(problem),
        }],
        silent: Some(Names { remotes: vec![], syncs: vec!["shop/new".into()] }),
        certificate_not_after_ms: Some(1_800_000_000_000),
        certificate_root: Some("AB:01".into()),
        problem: None,
    }
}

fn written<T: Serialize>(v: &T) -> Json {
    serde_json::to_value(v).expect("it is JSON")
}

/// What was read says what is written: nothing in the bytes was passed over but what has no meaning.
fn as_written<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(bytes).ok()?;
    let text: Json = serde_json::from_slice(bytes).expect("what was read is JSON");
    let bare = without_nulls(&written(&read));
    let said = without_nulls(&text);
    assert_eq!(bare, said, "{} was read otherwise", String::from_utf8_lossy(bytes));
    Some(read)
}

fn without_nulls(v: &Json) -> Json {
    match v {
        Json::Object(o) => o.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect(),
        Json::Array(a) => a.iter().map(without_nulls).collect(),
        v => v.clone(),
    }
}

#[test]
fn damaged_snapshots_are_refused_whole_or_by_item() {
    let mut damage = Damage::new(5);
    let good = Snapshot {
        kernel_id: "shop.shop".into(),
        trust_domain: "us.example.com".into(),
        remotes: vec![written(&remote_item())],
        syncs: vec![written(&sync_item())],
    };
    let bytes = good.encode();
    let (mut refused, mut rejected) = (0, 0);
    for _ in 0..2_500 {
        let damaged = damage.bytes(&bytes);
        let Ok(s) = Snapshot::decode(&damaged) else {
            refused += 1;
            continue;
        };
        assert!(as_written::<Snapshot>(&damaged).is_some());
        let (remotes, syncs, bad) = s.items();
        assert_eq!(remotes.len() + syncs.len() + bad.len(), s.remotes.len() + s.syncs.len(), "an item is lost");
        for b in &bad {
            rejected += 1;
            assert_eq!(b.problem.reason, Reason::UnsupportedField);
            assert!(!b.problem.message.is_empty() && ["Remote", "Sync"].contains(&b.kind.as_str()), "{b:?}");
        }
        let read: Vec<Json> = remotes.iter().map(written).chain(syncs.iter().map(written)).collect();
        let said: Vec<Json> = s.remotes.iter().chain(&s.syncs).map(without_nulls).collect();
        assert!(read.iter().all(|r| said.contains(&without_nulls(r))), "{read:?} is not in {said:?}");
    }
    assert!(refused > 800 && rejected > 10, "{refused} refused, {rejected} items rejected");
}

/// An operator reads the reports of agents that are newer than itself: what it does not know, it passes over.
#[test]
fn damaged_reports_are_refused_or_say_what_they_say() {
    let mut damage = Damage::new(6);
    let good = serde_json::to_vec(&report()).expect("a report is JSON");
    assert_eq!(as_written::<Report>(&good), Some(report()));
    let mut refused = 0;
    for _ in 0..2_500 {
        let damaged = damage.bytes(&good);
        match serde_json::from_slice::<Report>(&damaged) {
            Err(e) => {
                refused += 1;
                assert!(!e.to_string().is_empty());
            }
            Ok(r) => {
                let again: Report = serde_json::from_value(written(&r)).expect("what was read can be written");
                assert_eq!(again, r);
            }
        }
    }
    assert!(refused > 800, "only {refused} were refused");
}

// ---------------------------------------------------------------- manifests

const MANIFESTS: [&str; 5] =
    ["us-east/policy.yaml", "us-east/remote.yaml", "us-east/syncs.yaml", "us-west/policy.yaml", "us-west/remote.yaml"];

/// Words of YAML and of our kinds.
const YAML: [&str; 16] = [
    "\n---\n",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "!!binary ",
    "|\n  ",
    "null",
    "~",
    "'*'",
    "suspend: true\n",
    "  unknown: 1\n",
];

/// Neither nulls nor empty lists mean anything in a spec.
fn bare(v: &Json) -> Json {
    match v {
        Json::Object(o) => {
            let said = |v: &Json| !v.is_null() && v.as_array().is_none_or(|a| !a.is_empty());
            o.iter().filter(|&(_, v)| said(v)).map(|(k, v)| (k.clone(), bare(v))).collect()
        }
        Json::Array(a) => a.iter().map(bare).collect(),
        v => v.clone(),
    }
}

fn spec(o: &Object) -> Option<Json> {
    match o {
        Object::Remote(o) => Some(written(&o.spec)),
        Object::Sync(o) => Some(written(&o.spec)),
        Object::Policy(o) => Some(written(&o.spec)),
        Object::ConfigMap(_) => None,
    }
}

#[test]
fn damaged_manifests_are_refused_with_their_place() {
    let mut damage = Damage::new(7);
    let texts: Vec<String> = MANIFESTS
        .iter()
        .map(|f| std::fs::read_to_string(root().join("examples/airports").join(f)).expect("an example"))
        .collect();
    // The first document of a file, to be compared with what is read of it.
    let singles: Vec<&str> = texts.iter().filter_map(|t| t.split("\n---\n").next()).collect();
    for t in &texts {
        let (objects, errors) = manifest::read("example.yaml", t);
        assert!(errors.is_empty() && !objects.is_empty(), "{errors:?}");
    }
    let (mut refused, mut taken) = (0, 0);
    for n in 0..2_000 {
        let text = damage.text(&texts[n % texts.len()], &YAML);
        for e in manifest::read("example.yaml", &text).1 {
            refused += 1;
            assert!(e.at.starts_with("example.yaml:") && !e.errors.is_empty(), "{e:?} of {text:?}");
            assert!(e.errors.iter().all(|f| !f.message.is_empty()), "{e:?} of {text:?}");
        }
        let text = damage.text(singles[n % singles.len()], &YAML);
        let Ok(v) = serde_saphyr::from_str::<Json>(&text) else { continue };
        if let Ok(Some(read)) = manifest::object(&v).map(|o| o.as_ref().and_then(spec)) {
            taken += 1;
            assert_eq!(bare(&read), bare(&v["spec"]), "{text:?} was read otherwise");
        }
    }
    assert!(refused > 600 && taken > 20, "{refused} refused, {taken} taken");
}
