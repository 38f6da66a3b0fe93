//! A snapshot as an agent reads it: what it does not know in an item makes it refuse that item by name and keep the
//! rest, and the digest stands for the bytes.

use mew_contract::snapshot::{Direction, Edges, Endpoint, Initial, Keepalive, Overwrite, Retry};
use mew_contract::{Grant, Problem, Reason, RemoteItem, Snapshot, SyncItem, TypeRules};
use serde::Serialize;
use serde_json::{Value, json};

fn remote(name: &str) -> RemoteItem {
    let types = |t: &str| TypeRules { allow: vec![t.into()], deny: vec!["Salary".into()], permitted: vec!["*".into()] };
    RemoteItem {
        name: name.into(),
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
        export: types("Task"),
        import: types("Product"),
        grants: vec![Grant { ty: "Product".into(), overwrite_local: Overwrite::OnConflict, delete: Some(false) }],
    }
}

fn sync(name: &str) -> SyncItem {
    SyncItem {
        name: name.into(),
        remote: "shop/eu".into(),
        direction: Direction::Push,
        pattern: "t: Task".into(),
        initial: Initial::Full,
        edges: Edges::Incident,
        delete_at_sink: true,
        delete_on_unmatch: false,
        suspend: false,
        reset: Some("2026-11-21T09:00:00Z".into()),
        blocked: Some(Problem::new(Reason::RemoteNotAccepted, "the Remote is not accepted")),
    }
}

fn encoded(v: &impl Serialize) -> Value {
    serde_json::to_value(v).expect("an item is JSON")
}

/// The item with another value at a JSON pointer.
fn with(item: &impl Serialize, pointer: &str, value: Value) -> Value {
    let mut v = encoded(item);
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer begins with a slash");
    let o = v.pointer_mut(parent).and_then(Value::as_object_mut);
    o.unwrap_or_else(|| panic!("there is no object at {parent:?}")).insert(key.to_owned(), value);
    v
}

fn without(item: &impl Serialize, key: &str) -> Value {
    let mut v = encoded(item);
    let gone = v.as_object_mut().and_then(|o| o.remove(key));
    assert!(gone.is_some(), "{key} is not there to be removed");
    v
}

fn snapshot(remotes: Vec<Value>, syncs: Vec<Value>) -> Snapshot {
    Snapshot { kernel_id: "shop.shop".into(), trust_domain: "us.example.com".into(), remotes, syncs }
}

/// One bad item between two good ones, as the agent gets it: only the bad one is refused, by name.
fn refused(kind: &str, bad: Value, word: &str) {
    let good_remotes = [remote("shop/a"), remote("shop/z")];
    let good_syncs = [sync("shop/a"), sync("shop/z")];
    let mut remotes: Vec<Value> = good_remotes.iter().map(encoded).collect();
    let mut syncs: Vec<Value> = good_syncs.iter().map(encoded).collect();
    let list = if kind == "Remote" { &mut remotes } else { &mut syncs };
    list.insert(1, bad.clone());
    let bytes = snapshot(remotes, syncs).encode();
    let (remotes, syncs, rejected) = Snapshot::decode(&bytes).expect("one bad item spoils nothing").items();
    assert_eq!(remotes, good_remotes, "{bad}");
    assert_eq!(syncs, good_syncs, "{bad}");
    assert_eq!(rejected.len(), 1, "{bad}: {rejected:?}");
    assert_eq!((rejected[0].kind.as_str(), rejected[0].name.as_str()), (kind, "shop/bad"), "{bad}");
    assert_eq!(rejected[0].problem.reason, Reason::UnsupportedField, "{bad}");
    assert!(rejected[0].problem.message.contains(word), "{word:?} is not in {:?}", rejected[0].problem.message);
}

#[test]
fn what_is_written_is_read() {
    let s = snapshot(vec![encoded(&remote("shop/eu"))], vec![encoded(&sync("shop/tasks"))]);
    let read = Snapshot::decode(&s.encode()).expect("a snapshot can be read again");
    assert_eq!(read, s);
    let (remotes, syncs, rejected) = read.items();
    assert_eq!(remotes, [remote("shop/eu")]);
    assert_eq!(syncs, [sync("shop/tasks")]);
    assert!(rejected.is_empty(), "{rejected:?}");
}

#[test]
fn an_unknown_field_of_a_remote_refuses_that_remote() {
    let item = remote("shop/bad");
    let places =
        ["", "/endpoints/0", "/retry", "/keepalive", "/blocked", "/export", "/import", "/grants/0"].map(str::to_owned);
    for place in places {
        refused("Remote", with(&item, &format!("{place}/quota"), json!(7)), "quota");
    }
}

#[test]
fn an_unknown_field_of_a_sync_refuses_that_sync() {
    let item = sync("shop/bad");
    for place in ["", "/blocked"] {
        refused("Sync", with(&item, &format!("{place}/quota"), json!(7)), "quota");
    }
}

/// An agent that does not know the field refuses what needs it, and nothing else.
#[test]
fn a_certificate_is_only_written_where_it_is_named() {
    let item = RemoteItem { certificate: None, ..remote("shop/eu") };
    assert_eq!(encoded(&remote("shop/eu"))["certificate"], "peers");
    assert!(encoded(&item).get("certificate").is_none());
    let (remotes, _, rejected) = snapshot(vec![encoded(&item)], vec![]).items();
    assert!(remotes == [item] && rejected.is_empty(), "{rejected:?}");
}

/// An unknown field denies even if it says nothing: what a newer operator means by null, an older agent cannot know.
#[test]
fn an_unknown_field_that_is_null_refuses_too() {
    refused("Remote", with(&remote("shop/bad"), "/quota", Value::Null), "quota");
    refused("Sync", with(&sync("shop/bad"), "/quota", Value::Null), "quota");
}

#[test]
fn an_unknown_reason_refuses_the_item() {
    let blocked = json!({"reason": "SunkenShip", "message": "a newer operator knows why"});
    refused("Remote", with(&remote("shop/bad"), "/blocked", blocked.clone()), "SunkenShip");
    refused("Sync", with(&sync("shop/bad"), "/blocked", blocked), "SunkenShip");
}

#[test]
fn an_unknown_value_refuses_the_item() {
    refused("Remote", with(&remote("shop/bad"), "/grants/0/overwriteLocal", json!("Sometimes")), "Sometimes");
    refused("Sync", with(&sync("shop/bad"), "/direction", json!("Bidirectional")), "Bidirectional");
    refused("Sync", with(&sync("shop/bad"), "/initial", json!("Since")), "Since");
    refused("Sync", with(&sync("shop/bad"), "/edges", json!("Transitive")), "Transitive");
}

#[test]
fn a_value_of_another_sort_refuses_the_item() {
    refused("Remote", with(&remote("shop/bad"), "/suspend", json!("no")), "boolean");
    refused("Remote", with(&remote("shop/bad"), "/endpoints/0/port", json!(65_536)), "u16");
    refused("Sync", with(&sync("shop/bad"), "/match", json!(["t: Task"])), "string");
}

#[test]
fn a_missing_field_refuses_the_item() {
    for key in ["peerKernelId", "peerTrustDomain", "roots", "suspend", "export", "import", "grants"] {
        refused("Remote", without(&remote("shop/bad"), key), key);
    }
    for key in ["remote", "direction", "match", "initial", "edges", "deleteAtSink", "suspend"] {
        refused("Sync", without(&sync("shop/bad"), key), key);
    }
}

#[test]
fn what_has_no_name_is_refused_without_one() {
    for bad in [json!("shop/eu"), json!(7), Value::Null, json!({}), without(&sync("shop/bad"), "name")] {
        let (_, syncs, rejected) = snapshot(vec![], vec![encoded(&sync("shop/a")), bad.clone()]).items();
        assert_eq!(syncs, [sync("shop/a")], "{bad}");
        assert_eq!(rejected.len(), 1, "{bad}");
        assert_eq!(rejected[0].name, "?", "{bad}");
    }
}

#[test]
fn every_bad_item_is_named() {
    let bad = |name: &str| with(&sync(name), "/quota", json!(7));
    let (_, syncs, rejected) = snapshot(vec![], vec![bad("shop/a"), encoded(&sync("shop/b")), bad("shop/c")]).items();
    assert_eq!(syncs, [sync("shop/b")]);
    assert_eq!(rejected.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["shop/a", "shop/c"]);
}

/// Beside the items a field may change what all of them mean, so there is nothing that could be kept.
#[test]
fn an_unknown_field_beside_the_items_refuses_the_snapshot() {
    let s = snapshot(vec![encoded(&remote("shop/eu"))], vec![]);
    assert!(Snapshot::decode(&s.encode()).is_ok());
    let newer = with(&s, "/guardrails", json!([{"deny": "*"}])).to_string();
    assert!(Snapshot::decode(newer.as_bytes()).is_err(), "guardrails of a newer operator were ignored");
}

#[test]
fn what_is_no_snapshot_is_an_error() {
    let bytes = snapshot(vec![encoded(&remote("shop/eu"))], vec![]).encode();
    assert!(Snapshot::decode(&bytes[..bytes.len() - 1]).is_err(), "cut off");
    assert!(Snapshot::decode(&[bytes.as_slice(), b"{}".as_slice()].concat()).is_err(), "more than one");
    assert!(Snapshot::decode(b"").is_err(), "nothing is not an empty snapshot");
    assert!(Snapshot::decode(b"{}").is_err(), "nor is an empty object");
    for field in ["kernelId", "trustDomain", "remotes", "syncs"] {
        let cut = without(&snapshot(vec![], vec![]), field).to_string();
        assert!(Snapshot::decode(cut.as_bytes()).is_err(), "without {field}");
    }
}

#[test]
fn the_digest_is_the_first_half_of_sha256() {
    assert_eq!(Snapshot::digest(b""), "e3b0c44298fc1c149afbf4c8996fb924");
    assert_eq!(Snapshot::digest(b"abc"), "ba7816bf8f01cfea414140de5dae2223");
}

#[test]
fn the_digest_stands_for_the_content() {
    let digest = |s: &Snapshot| Snapshot::digest(&s.encode());
    let s = snapshot(vec![encoded(&remote("shop/eu"))], vec![encoded(&sync("shop/tasks"))]);
    assert_eq!(digest(&s), digest(&s.clone()));
    let again = Snapshot::decode(&s.encode()).expect("a snapshot can be read again");
    assert_eq!(again.encode(), s.encode(), "reading and writing again changes no byte");
    // The bytes do not depend on the order in which the fields of an item came.
    let text = encoded(&sync("shop/tasks"));
    let mut fields: Vec<(String, Value)> = text.as_object().expect("an item").clone().into_iter().collect();
    fields.reverse();
    let item: SyncItem = serde_json::from_value(fields.into_iter().collect()).expect("an item");
    assert_eq!(digest(&Snapshot { syncs: vec![encoded(&item)], ..s.clone() }), digest(&s));

    let others = [
        Snapshot { kernel_id: "shop.till".into(), ..s.clone() },
        Snapshot { trust_domain: "eu.example.com".into(), ..s.clone() },
        Snapshot { remotes: vec![], ..s.clone() },
        Snapshot { syncs: vec![], ..s.clone() },
        Snapshot { syncs: vec![with(&sync("shop/tasks"), "/suspend", json!(true))], ..s.clone() },
        Snapshot { syncs: vec![with(&sync("shop/tasks"), "/blocked", Value::Null)], ..s.clone() },
        Snapshot { remotes: vec![encoded(&remote("shop/eu")), encoded(&remote("shop/apac"))], ..s.clone() },
    ];
    for (i, other) in others.iter().enumerate() {
        assert_ne!(digest(other), digest(&s), "change {i}");
    }
}

/// Nothing passes that nobody allowed, permitted, or that somebody denied.
#[test]
fn type_rules_deny_by_default() {
    let rules = |allow: &[&str], deny: &[&str], permitted: &[&str]| {
        let list = |l: &[&str]| l.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        TypeRules { allow: list(allow), deny: list(deny), permitted: list(permitted) }
    };
    let passes = |r: &TypeRules| r.passes(|list| list.iter().any(|t| t == "*" || t == "Task"));
    assert!(!passes(&TypeRules::default()));
    assert!(!passes(&rules(&["*"], &[], &[])));
    assert!(!passes(&rules(&[], &[], &["*"])));
    assert!(!passes(&rules(&["*"], &["Task"], &["*"])));
    assert!(!passes(&rules(&["Task"], &["*"], &["Task"])));
    assert!(!passes(&rules(&["Product"], &[], &["Task"])));
    assert!(!passes(&rules(&["Task"], &[], &["Product"])));
    assert!(passes(&rules(&["Task"], &["Product"], &["*"])));
    assert!(passes(&rules(&["*"], &[], &["Task"])));
}
