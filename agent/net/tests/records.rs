//! MATCH reads what the agent keeps about itself: held entities and conflicts as the store has them, Remotes and Syncs as
//! they are configured and as their links say.

use mew_contract::samples::{remote_item, sync_item};
use mew_contract::snapshot::Endpoint;
use mew_contract::{Problem, Reason, RemoteItem, SyncItem, TypeRules};
use mew_kernel::{Kernel, Params};
use mew_lang::parse_ontology;
use mew_model::{Draft, KernelKey, Value, name};
use mew_net::{Hub, HubConfig};
use mew_store::{MemDisk, Options, Store};
use mew_sync::records;
use mew_wire as wire;
use prost::Message;
use std::sync::Arc;

const NOW_MS: u64 = 1_700_000_000_000;
const FLOW: &str = "team-b.shop|team-a.shop|team-a/tasks";

fn kernel() -> Arc<Kernel> {
    let o = parse_ontology("node Task { title: String }").expect("an ontology");
    let options = Options { kernel_id: "team-a.shop".into(), new_incarnation: "i1".into(), segment_bytes: 1 << 20 };
    let (store, _) = Store::open(Arc::new(MemDisk::new()), Arc::new(o), options).expect("an empty store opens");
    Arc::new(Kernel::new(store))
}

fn hub(k: &Arc<Kernel>) -> Arc<Hub> {
    Hub::new(k.clone(), HubConfig { agent_version: "test".into(), observer: None, clock_offset_ms: 0 })
}

fn task(title: &str) -> Vec<u8> {
    let mut d = Draft::new(name::number("Task"), "t1".to_owned());
    d.set(name::number("title"), Value::String(title.to_owned()));
    d.stamp(KernelKey::of("team-b.shop"), NOW_MS, None);
    d.encode()
}

fn rows(k: &Kernel, text: &str) -> Vec<Vec<String>> {
    let out = k.execute(NOW_MS, text, &Params::new()).unwrap_or_else(|e| panic!("{text}: {e}"));
    out.rows.iter().map(|r| r.iter().map(Value::to_string).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn held_entities_are_read() {
    let k = kernel();
    let _hub = hub(&k);
    let held = wire::Held {
        reason: "ConstraintViolation".into(),
        message: "title is taken".into(),
        blocker: String::new(),
        since_ms: NOW_MS,
        entity: task("theirs").into(),
    };
    k.write(NOW_MS, move |tx| {
        tx.set_fact(records::held_key(FLOW, "t1"), held.encode_to_vec());
        Ok(())
    })
    .expect("it is written");
    let text = r#"MATCH h: _Held WHERE h.sync = "team-a/tasks"
                  RETURN h.sync_id, h.source, h.entity_type, h.reason, h.message, h.waits_for, h.since"#;
    let want = [r#""t1""#, r#""team-b.shop""#, r#""Task""#, r#""ConstraintViolation""#, r#""title is taken""#, "null"];
    let got = rows(&k, text);
    assert_eq!(got.len(), 1, "{got:?}");
    assert_eq!(got[0][..6], want);
    assert_eq!(got[0][6], "@2023-11-14T22:13:20.000Z");
    assert_eq!(rows(&k, r#"MATCH h: _Held WHERE h.entity CONTAINS "theirs" RETURN COUNT(*)"#), [["1"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_read_and_counted_for_ever() {
    let k = kernel();
    let _hub = hub(&k);
    for (i, resolution) in ["local_kept", "remote_applied", "local_kept"].into_iter().enumerate() {
        let c = wire::Conflict {
            sync_id: "t1".into(),
            remote: "team-a/b".into(),
            r#type: "Task".into(),
            local: task("ours").into(),
            incoming: task("theirs").into(),
            resolution: resolution.into(),
            at_ms: NOW_MS + i as u64,
            by: "auto:lww".into(),
            flow: FLOW.into(),
        };
        k.write(NOW_MS, move |tx| records::log_conflict(tx, &c)).expect("it is written");
    }
    let text = r#"MATCH c: _SyncConflict
                  WHERE c.sync = "team-a/tasks" AND c.local_version CONTAINS "ours" AND c.remote_version CONTAINS "theirs"
                  RETURN c.sync_id, c.remote, c.entity_type, c.resolution, c.resolved_by ORDER BY c.resolved_at DESC LIMIT 2"#;
    let row = |how: &str| [r#""t1""#, r#""team-a/b""#, r#""Task""#, how, r#""auto:lww""#].map(str::to_owned).to_vec();
    assert_eq!(rows(&k, text), [row(r#""local_kept""#), row(r#""remote_applied""#)]);
    let late = format!("MATCH c: _SyncConflict WHERE c.resolved_at > @{} RETURN COUNT(*)", "2023-11-14T22:13:20Z");
    assert_eq!(rows(&k, &late), [["2"]]);
    let totals = records::conflict_totals(&k.view()).expect("they are read");
    let total = |how: &str, n| ("team-a/b".to_owned(), how.to_owned(), n);
    assert_eq!(totals, [total("local_kept", 2), total("remote_applied", 1)]);
}

fn remote(name: &str, blocked: Option<Problem>) -> RemoteItem {
    RemoteItem {
        name: name.to_owned(),
        peer_kernel_id: "team-b.shop".into(),
        peer_trust_domain: "b.example".into(),
        endpoints: vec![Endpoint { host: "b.example".into(), port: 9001, server_name: None }],
        blocked,
        import: TypeRules::default(),
        ..remote_item(&["*"])
    }
}

fn sync(name: &str, remote: &str) -> SyncItem {
    SyncItem { name: name.to_owned(), remote: remote.to_owned(), ..sync_item() }
}

#[tokio::test(flavor = "multi_thread")]
async fn remotes_and_syncs_are_read_as_they_are_now() {
    let k = kernel();
    let hub = hub(&k);
    let text = "MATCH r: _Remote RETURN r.name, r.uri, r.status, r.reason ORDER BY r.name";
    assert!(rows(&k, text).is_empty());
    let denied = Problem::new(Reason::PolicyDenied, "blocked");
    let remotes = vec![remote("team-a/b", None), remote("team-a/c", Some(denied))];
    hub.configure(remotes, vec![sync("team-a/tasks", "team-a/b")]);
    let uri = r#""mew://b.example:9001/team-b.shop""#;
    let b = [r#""team-a/b""#, uri, r#""WaitingForPeer""#, "null"];
    let c = [r#""team-a/c""#, uri, r#""Blocked""#, r#""PolicyDenied""#];
    assert_eq!(rows(&k, text), [b, c]);
    let text = r#"MATCH s: _Sync, r: _Remote WHERE s.remote = r.name
                  RETURN s.name, s.direction, s.pattern, s.status, s.applied, s.lag, r.status"#;
    let want = [r#""team-a/tasks""#, r#""Push""#, r#""t: Task""#, r#""Waiting""#, "0", "null", r#""WaitingForPeer""#];
    assert_eq!(rows(&k, text), [want]);
    hub.configure(Vec::new(), Vec::new());
    assert_eq!(rows(&k, "MATCH r: _Remote, s: _Sync RETURN COUNT(*)"), [["0"]]);
    hub.shutdown();
}

/// A query says of the certificate that a Remote names what the status says.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_there_is_a_problem_of_its_remote() {
    let k = kernel();
    let hub = hub(&k);
    hub.configure(vec![RemoteItem { certificate: Some("peers".into()), ..remote("team-a/b", None) }], Vec::new());
    let problem = hub.report().0.pop().and_then(|r| r.problem).expect("the status says it");
    assert_eq!(problem.reason, Reason::CertificatePending);
    let message = Value::String(problem.message).to_string();
    assert_eq!(
        rows(&k, "MATCH r: _Remote RETURN r.reason, r.message"),
        [[r#""CertificatePending""#, message.as_str()]]
    );
    hub.shutdown();
}
