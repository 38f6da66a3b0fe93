//! When a status is written and what is kept: times of conditions, digests of snapshots, figures, resets.

use crate::common::{REMOTE, SYNC, World, condition, flow, is, link, message, problem, row, since, up};
use crate::rows::{current, down, failed, in_progress, live, rejected, waiting};
use mew_contract::{FlowReport, FlowState, LinkState, Problem, Reason, RemoteReport, Snapshot};
use mew_plan::STALLED_AFTER_MS;
use serde_json::json;

#[test]
fn the_time_of_a_condition_is_that_of_its_change() {
    let mut w = World::declared();
    w.report(up(), live());
    let first = w.settled_sync();
    w.pass(20_000);
    w.report(down(Reason::Unreachable), waiting());
    let second = w.settled_sync();
    for kind in ["Accepted", "ResolvedRefs", "Programmed"] {
        assert_eq!(since(&second, kind), since(&first, kind), "{kind} has not changed");
    }
    for kind in ["Ready", "Connected", "InSync", "Reconciling"] {
        assert_eq!(since(&second, kind), "2026-11-21T09:00:20Z", "{kind} has changed");
    }
    assert!(condition(&first, "Reconciling").is_none());
    w.pass(20_000);
    w.heartbeat();
    assert_eq!(w.settled_sync()["status"], second["status"], "nothing happened since");
    w.pass(20_000);
    w.report(up(), live());
    let third = w.settled_sync();
    assert_eq!(since(&third, "Ready"), "2026-11-21T09:01:00Z");
    assert_eq!(since(&third, "Programmed"), since(&first, "Programmed"));
    assert_eq!(third["status"]["firstReadyTime"], first["status"]["firstReadyTime"]);
}

/// As Kubernetes defines it: the last time the condition went from one *status* to another. A link that fails now for
/// this and now for that reason has been down since it went down.
#[test]
fn another_reason_is_not_another_status() {
    let mut w = World::in_sync();
    w.report(down(Reason::Unreachable), waiting());
    let before = w.settled_sync();
    w.pass(20_000);
    w.report(down(Reason::DNSFailed), waiting());
    let after = w.settled_sync();
    assert_eq!(is(&after, "Ready"), "False/DNSFailed");
    for kind in ["Ready", "Connected"] {
        assert_eq!(since(&after, kind), since(&before, kind), "{kind}");
    }
}

#[test]
fn a_message_may_change_without_a_transition() {
    let mut w = World::in_sync();
    w.report(link(LinkState::Disconnected, Some(Problem::new(Reason::Unreachable, "refused"))), waiting());
    let before = w.settled_sync();
    w.pass(20_000);
    w.report(link(LinkState::Disconnected, Some(Problem::new(Reason::Unreachable, "no route"))), waiting());
    let after = w.settled_sync();
    assert_eq!(message(&after, "Ready"), "no route");
    assert_eq!(since(&after, "Ready"), since(&before, "Ready"));
}

#[test]
fn the_last_error_stays_with_its_time() {
    let mut w = World::in_sync();
    w.report(up(), flow(FlowState::Failed, problem(Reason::SinkError)));
    let error = w.settled_sync()["status"]["lastError"].clone();
    assert_eq!((&error["reason"], &error["time"]), (&json!("SinkError"), &json!("2026-11-21T09:00:10Z")));
    w.pass(20_000);
    w.heartbeat();
    assert_eq!(w.settled_sync()["status"]["lastError"], error);
    w.report(up(), live());
    let o = w.settled_sync();
    assert_eq!((is(&o, "Ready").as_str(), &o["status"]["lastError"]), ("True/InSync", &error));
}

#[test]
fn the_same_inputs_give_the_same_plan() {
    let mut w = World::in_sync();
    w.put("Sync", "shop/products", json!({"remoteRef": {"name": "eu"}, "direction": "Pull", "match": "p: Product"}));
    w.put("Sync", "shop/lost", json!({"remoteRef": {"name": "nowhere"}, "direction": "Pull", "match": "_: any"}));
    w.settle();
    let (a, b) = (w.plan(), w.plan());
    assert_eq!(a.snapshots, b.snapshots);
    assert_eq!(a.remotes, b.remotes);
    assert_eq!(a.syncs, b.syncs);
    assert_eq!(a.policies, b.policies);
    for (k, s) in &a.snapshots {
        assert_eq!(s.encode(), b.snapshots[k].encode());
        assert_eq!(s, &Snapshot::decode(&s.encode()).expect("a snapshot can be read again"));
        let names: Vec<&str> = s.syncs.iter().filter_map(|i| i["name"].as_str()).collect();
        assert!(names.is_sorted() && names.len() == 2, "{names:?}: ascending, without what has no Remote");
    }
}

#[test]
fn at_rest_nothing_is_written() {
    let mut w = World::in_sync();
    w.put("Sync", "shop/lost", json!({"remoteRef": {"name": "nowhere"}, "direction": "Pull", "match": "_: any"}));
    w.report(up(), live());
    w.settle();
    w.pass(STALLED_AFTER_MS);
    w.heartbeat();
    w.settle();
    let rest = w.statuses();
    for _ in 0..200 {
        w.pass(20_000);
        w.heartbeat();
        w.settle();
        assert_eq!(w.statuses(), rest);
    }
}

#[test]
fn a_report_on_another_snapshot_does_not_count() {
    let mut w = World::in_sync();
    w.edit_sync("match", json!("t: Task WHERE t.shared = true"));
    w.heartbeat();
    let o = w.settled_sync();
    assert_eq!(row(&o), in_progress("Unknown/Pending"));
    assert_eq!(is(&o, "Programmed"), "Unknown/Pending");
    assert_eq!(is(&o, "InSync"), "Unknown/Pending", "it was in sync with another pattern");
    assert_eq!(o["status"]["observedGeneration"], 2);
    assert_eq!(o["status"]["lag"], "-");
    w.report(up(), live());
    assert_eq!(row(&w.settled_sync()), current("True/InSync"));

    w.agent().confirmed = None;
    assert_eq!(is(&w.settled_sync(), "Programmed"), "Unknown/Pending");
    assert_eq!(is(&w.settled_remote(), "Programmed"), "Unknown/Pending");
}

/// The agent refused what was there before; of the mended spec it has said nothing.
#[test]
fn a_rejection_in_an_older_report_does_not_count() {
    let mut w = World::in_sync();
    rejected(&mut w, "Sync", SYNC);
    assert_eq!(row(&w.settled_sync()), failed("False/UnsupportedField"));
    w.edit_sync("match", json!("t: Task WHERE t.shared = true"));
    assert_eq!(row(&w.settled_sync()), in_progress("Unknown/Pending"));

    let mut w = World::in_sync();
    rejected(&mut w, "Remote", REMOTE);
    assert_eq!(row(&w.settled_remote()), failed("False/UnsupportedField"));
    w.edit_remote("timeouts", json!({"connect": "5s"}));
    assert_eq!(row(&w.settled_remote()), in_progress("Unknown/Pending"));
}

/// Adding one Sync to a kernel must not turn its 10,000 others Unknown and back.
#[test]
fn a_change_of_one_item_is_not_a_change_of_the_others() {
    let mut w = World::in_sync();
    w.settle();
    let before = w.sync(SYNC)["status"].clone();
    w.put("Sync", "shop/products", json!({"remoteRef": {"name": "eu"}, "direction": "Pull", "match": "p: Product"}));
    assert_eq!(w.settled_sync()["status"], before);
}

#[test]
fn an_agent_that_has_not_said_anything_of_an_object_is_unknown() {
    let mut w = World::declared();
    w.report_all(vec![], vec![]);
    w.settle();
    assert_eq!(row(&w.sync(SYNC)), in_progress("Unknown/Pending"));
    assert_eq!(row(&w.remote(REMOTE)), in_progress("Unknown/Pending"));
}

#[test]
fn figures_that_move_inside_a_bucket_write_nothing() {
    let copying = |percent| FlowReport { initial_percent: Some(percent), ..flow(FlowState::Copying, None) };
    let lag = |ms| FlowReport { lag_ms: Some(ms), ..live() };
    let pending = |n| FlowReport { pending: Some(n), ..live() };
    let cases = [
        ("lag", lag(1_200), lag(4_999), lag(5_000)),
        ("no lag", lag(0), lag(999), lag(1_000)),
        ("a long lag", lag(15_000), lag(59_999), lag(60_000)),
        ("pending", pending(120), pending(199), pending(200)),
        ("much pending", pending(3_000_000), pending(3_999_999), pending(4_000_000)),
        ("the copy", copying(41), copying(44), copying(45)),
        ("the end of the copy", copying(95), copying(99), copying(100)),
        ("applied", FlowReport { applied: 1, ..live() }, FlowReport { applied: 1_000_000, ..live() }, lag(1_000)),
    ];
    for (what, a, b, c) in cases {
        let mut w = World::in_sync();
        w.report(up(), a);
        w.settle();
        let before = w.statuses();
        w.pass(1_000);
        w.report(RemoteReport { latency_ms: Some(99), ..up() }, b);
        w.settle();
        assert_eq!(w.statuses(), before, "{what}");
        w.pass(1_000);
        w.report(up(), c);
        w.settle();
        assert_ne!(w.statuses(), before, "{what} is in another bucket");
    }
}

#[test]
fn a_lag_around_a_boundary_does_not_swing() {
    let mut w = World::in_sync();
    let mut lag = |ms: Option<u64>| {
        w.report(up(), FlowReport { lag_ms: ms, ..live() });
        w.settled_sync()["status"]["lag"].as_str().unwrap_or("?").to_owned()
    };
    assert_eq!(lag(Some(4_999)), "1s");
    assert_eq!(lag(Some(5_000)), "5s");
    for ms in [4_999, 5_100, 4_500, 4_001, 5_000] {
        assert_eq!(lag(Some(ms)), "5s", "{ms}");
    }
    assert_eq!(lag(Some(3_999)), "1s", "a fifth below the boundary");
    assert_eq!(lag(Some(0)), "0s", "far below, at once");
    assert_eq!(lag(Some(50_000)), "15s");
    assert_eq!(lag(None), "-", "unknown is a value");
    assert_eq!(lag(Some(u64::MAX)), ">1h");
}

/// What waited when it was known last is no answer to how much waits now.
#[test]
fn what_is_not_known_of_a_flow_is_not_said_with_an_old_figure() {
    let mut w = World::in_sync();
    let mut said = |link: RemoteReport, flow: FlowReport| {
        w.report(link, flow);
        let status = w.settled_sync()["status"].clone();
        (status["lag"].as_str().unwrap_or("?").to_owned(), status.get("pending").cloned())
    };
    let is = |lag: &str, pending: Option<u64>| (lag.to_owned(), pending.map(|n| json!(n)));
    assert_eq!(said(up(), live()), is("0s", Some(0)));
    assert_eq!(said(down(Reason::Unreachable), waiting()), is("-", None));
    // A source knows where its sink was.
    assert_eq!(said(down(Reason::Unreachable), FlowReport { pending: Some(3), ..waiting() }), is("-", Some(3)));
    assert_eq!(said(up(), live()), is("0s", Some(0)));

    // Nobody says anything of it any more.
    let mut w = World::in_sync();
    assert_eq!(w.settled_sync()["status"]["pending"], 0);
    w.agent().confirmed = None;
    assert_eq!(w.settled_sync()["status"].get("pending"), None);
}

#[test]
fn a_reset_is_acknowledged_when_the_agent_says_so() {
    let mut w = World::in_sync();
    let s = w.objects.syncs.get_mut(SYNC).expect("the Sync is there");
    s.metadata.annotations = Some([("federation.mew.dev/reset".to_owned(), "2026-11-21T09:00:00Z".to_owned())].into());
    assert_eq!(w.items().1[0].reset.as_deref(), Some("2026-11-21T09:00:00Z"));
    assert_eq!(w.settled_sync()["status"].get("lastHandled"), None);
    w.report(up(), FlowReport { reset: Some("2026-11-21T09:00:00Z".into()), ..live() });
    assert_eq!(w.settled_sync()["status"]["lastHandled"]["reset"], "2026-11-21T09:00:00Z");
    w.report(up(), live());
    assert_eq!(w.settled_sync()["status"]["lastHandled"]["reset"], "2026-11-21T09:00:00Z");
}
