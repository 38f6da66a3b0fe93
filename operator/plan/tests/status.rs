//! Gates, Ready and what kstatus makes of them: the design's status table row by row, fed with reports. And that a
//! status is written when something happened, not when time passes.

mod common;

use common::{
    BUNDLE, FOREIGN, Kstatus, OWN, OWN_PEM, PEM, POLICY, REMOTE, SYNC, World, also, condition, decode, flow, is,
    kernel, kstatus, link, message, policy_spec, problem, remote_spec, row, since, sync_spec, up,
};
use mew_contract::{FlowReport, FlowState, LinkState, Problem, Reason, Rejection, RemoteReport, Snapshot};
use mew_plan::{RefusedClaim, SILENT_MS, STALLED_AFTER_MS};
use proptest::prelude::*;
use serde_json::{Value, json};

fn rows(ready: &str, also: &'static str, k: Kstatus) -> (String, &'static str, Kstatus) {
    (ready.to_owned(), also, k)
}

fn in_progress(ready: &str) -> (String, &'static str, Kstatus) {
    rows(ready, "Reconciling", Kstatus::InProgress)
}

fn failed(ready: &str) -> (String, &'static str, Kstatus) {
    rows(ready, "Stalled", Kstatus::Failed)
}

fn current(ready: &str) -> (String, &'static str, Kstatus) {
    rows(ready, "", Kstatus::Current)
}

fn live() -> FlowReport {
    flow(FlowState::Live, None)
}

fn waiting() -> FlowReport {
    flow(FlowState::Waiting, None)
}

/// The link was up and is not, for a reason.
fn down(reason: Reason) -> RemoteReport {
    link(LinkState::Disconnected, problem(reason))
}

/// An agent that refuses one item and knows nothing of it.
fn rejected(w: &mut World, kind: &str, name: &str) {
    let (remotes, syncs) = if kind == "Sync" { (vec![up()], vec![]) } else { (vec![], vec![]) };
    w.report_all(remotes, syncs);
    let problem = Problem::new(Reason::UnsupportedField, "the agent does not know the field quota");
    w.last_report().rejected = vec![Rejection { kind: kind.to_owned(), name: name.to_owned(), problem }];
}

// --- the table -------------------------------------------------------------------------------------------------------

#[test]
fn an_object_that_nobody_has_looked_at_is_in_progress() {
    let w = World::declared();
    assert_eq!(kstatus(&w.sync(SYNC)), Kstatus::InProgress);
    assert_eq!(kstatus(&w.remote(REMOTE)), Kstatus::InProgress);
    assert_eq!(kstatus(&w.policy(POLICY)), Kstatus::InProgress);
}

#[test]
fn all_gates_are_there_from_the_first_visit_and_in_order() {
    let mut w = World::declared();
    w.settle();
    let kinds = |o: &Value| -> Vec<String> {
        let all = o["status"]["conditions"].as_array().expect("conditions");
        all.iter().map(|c| c["type"].as_str().unwrap_or("?").to_owned()).collect()
    };
    let sync = ["Ready", "Accepted", "ResolvedRefs", "Programmed", "Connected", "InSync", "Reconciling"];
    assert_eq!(kinds(&w.sync(SYNC)), sync);
    let remote = ["Ready", "Accepted", "ResolvedRefs", "Programmed", "Connected", "Reconciling"];
    assert_eq!(kinds(&w.remote(REMOTE)), remote);
    assert_eq!(kinds(&w.policy(POLICY)), ["Ready", "Accepted", "Programmed"]);
    for o in [w.sync(SYNC), w.remote(REMOTE), w.policy(POLICY)] {
        assert_eq!(o["status"]["observedGeneration"], 1);
        for c in o["status"]["conditions"].as_array().expect("conditions") {
            assert_eq!(c["observedGeneration"], 1, "{c}");
            assert!(c["reason"].as_str().is_some_and(|r| !r.is_empty()), "{c}");
        }
    }
    assert_eq!(row(&w.sync(SYNC)), in_progress("Unknown/NoAgent"));
    assert_eq!(row(&w.remote(REMOTE)), in_progress("Unknown/NoAgent"));
    assert_eq!(row(&w.policy(POLICY)), current("True/Enforced"));
}

/// Created, connecting, copying, refused before the first success: nothing is wrong yet that was right before.
#[test]
fn before_the_first_success_ready_is_unknown() {
    let copying = FlowReport { initial_percent: Some(42), ..flow(FlowState::Copying, None) };
    let cases = [
        (link(LinkState::Connecting, None), waiting(), "Connecting"),
        (link(LinkState::WaitingForPeer, None), waiting(), "WaitingForPeer"),
        (up(), copying, "InitialCopy"),
        (up(), flow(FlowState::Failed, problem(Reason::DeniedByPeer)), "DeniedByPeer"),
        (link(LinkState::Connecting, problem(Reason::DNSFailed)), waiting(), "DNSFailed"),
        (link(LinkState::Connecting, problem(Reason::TLSUntrustedPeer)), waiting(), "TLSUntrustedPeer"),
        (up(), flow(FlowState::Failed, problem(Reason::SinkError)), "SinkError"),
    ];
    for (link, flow, reason) in cases {
        let mut w = World::declared();
        let connected = link.state == LinkState::Connected;
        w.report(link, flow);
        for _ in 0..4 {
            w.settle();
            assert_eq!(row(&w.sync(SYNC)), in_progress(&format!("Unknown/{reason}")));
            let remote = if connected { current("True/Connected") } else { in_progress(&format!("Unknown/{reason}")) };
            assert_eq!(row(&w.remote(REMOTE)), remote);
            w.pass(STALLED_AFTER_MS);
            w.heartbeat();
        }
        assert_eq!(w.sync(SYNC)["status"].get("firstReadyTime"), None, "{reason}");
    }
}

#[test]
fn copying_says_how_far_it_is() {
    let mut w = World::declared();
    w.report(up(), FlowReport { initial_percent: Some(42), ..flow(FlowState::Copying, None) });
    let o = w.settled_sync();
    assert!(message(&o, "Ready").contains("40%"), "{}", message(&o, "Ready"));
    assert_eq!((&o["status"]["initial"], &o["status"]["phase"]), (&json!("40%"), &json!("Initializing")));
}

#[test]
fn working_is_current() {
    let mut w = World::declared();
    w.report(up(), live());
    w.settle();
    assert_eq!(row(&w.sync(SYNC)), current("True/InSync"));
    assert_eq!(row(&w.remote(REMOTE)), current("True/Connected"));
    let (sync, remote) = (w.sync(SYNC), w.remote(REMOTE));
    assert_eq!(sync["status"]["firstReadyTime"], "2026-11-21T09:00:00Z");
    assert_eq!((&sync["status"]["lag"], &sync["status"]["phase"]), (&json!("0s"), &json!("Active")));
    assert_eq!(remote["status"]["connectedEndpoint"], format!("{FOREIGN}:9001"));
    assert_eq!((&remote["status"]["health"], &remote["status"]["phase"]), (&json!("Healthy"), &json!("Connected")));
    assert_eq!(remote["status"]["syncs"], 1);
}

#[test]
fn working_with_held_or_refused_entities_is_current_and_says_so() {
    for (held, refused) in [(2, 0), (0, 3), (2, 3)] {
        let mut w = World::declared();
        w.report(up(), FlowReport { held, rejected: refused, ..live() });
        let o = w.settled_sync();
        assert_eq!(row(&o), current("True/InSyncWithFailures"));
        assert_eq!(is(&o, "InSync"), "True/InSyncWithFailures");
        assert_eq!((&o["status"]["failed"], &o["status"]["held"]), (&json!(held + refused), &json!(held)));
        let m = message(&o, "Ready");
        assert!(m.contains(&held.to_string()) && m.contains(&refused.to_string()), "{m}");
    }
}

#[test]
fn what_worked_and_broke_is_false_and_goes_on_trying() {
    let lagging = FlowReport { lag_ms: Some(60_001), ..live() };
    let cases = [
        (down(Reason::DNSFailed), waiting(), Reason::DNSFailed),
        (down(Reason::Unreachable), waiting(), Reason::Unreachable),
        (down(Reason::TLSUntrustedPeer), waiting(), Reason::TLSUntrustedPeer),
        (down(Reason::CertificateExpired), waiting(), Reason::CertificateExpired),
        // An agent that started again has never seen the link up; the object has.
        (link(LinkState::Connecting, problem(Reason::Unreachable)), waiting(), Reason::Unreachable),
        (up(), flow(FlowState::Failed, problem(Reason::SourceReset)), Reason::SourceReset),
        (up(), flow(FlowState::Failed, problem(Reason::SinkError)), Reason::SinkError),
        (up(), flow(FlowState::Failed, problem(Reason::DeniedByPeer)), Reason::DeniedByPeer),
        (up(), lagging, Reason::Lagging),
    ];
    for (link, flow, reason) in cases {
        let mut w = World::in_sync();
        let connected = link.state == LinkState::Connected;
        w.report(link, flow);
        for _ in 0..4 {
            w.settle();
            let bad = in_progress(&format!("False/{reason}"));
            assert_eq!(row(&w.sync(SYNC)), bad);
            assert_eq!(row(&w.remote(REMOTE)), if connected { current("True/Connected") } else { bad });
            w.pass(STALLED_AFTER_MS);
            w.heartbeat();
        }
        assert!(!message(&w.sync(SYNC), "Ready").is_empty(), "{reason}");
        w.report(up(), live());
        assert_eq!(row(&w.settled_sync()), current("True/InSync"), "{reason}");
    }
}

#[test]
fn the_lag_that_is_too_much_is_the_users() {
    let mut w = World::in_sync();
    w.edit_sync("maxLag", json!("5m"));
    w.report(up(), FlowReport { lag_ms: Some(300_000), ..live() });
    assert_eq!(row(&w.settled_sync()), current("True/InSync"));
    w.report(up(), FlowReport { lag_ms: Some(300_001), ..live() });
    let o = w.settled_sync();
    assert_eq!(is(&o, "Ready"), "False/Lagging");
    assert!(message(&o, "Ready").contains("5m"), "{}", message(&o, "Ready"));
}

/// Waiting cannot help when the spec alone is wrong.
#[test]
fn a_wrong_spec_is_stalled_at_once() {
    for was_ready in [false, true] {
        let start = || if was_ready { World::in_sync() } else { World::declared() };

        let mut w = start();
        w.edit_sync("match", json!("t Task"));
        assert_eq!(row(&w.settled_sync()), failed("False/InvalidPattern"));

        let mut w = start();
        w.edit_sync("maxLag", json!("soon"));
        assert_eq!(row(&w.settled_sync()), failed("False/InvalidSpec"));

        let mut w = start();
        w.edit_remote("endpoints", json!([{"host": "eu", "port": 0}]));
        assert_eq!(row(&w.settled_remote()), failed("False/InvalidSpec"));

        let mut w = start();
        rejected(&mut w, "Sync", SYNC);
        assert_eq!(row(&w.settled_sync()), failed("False/UnsupportedField"));
        assert!(message(&w.sync(SYNC), "Ready").contains("quota"));
        assert_eq!(row(&w.remote(REMOTE)), current("True/Connected"), "the rest still applies");

        let mut w = start();
        rejected(&mut w, "Remote", REMOTE);
        assert_eq!(row(&w.settled_remote()), failed("False/UnsupportedField"));
    }
}

#[test]
fn a_wrong_spec_is_named_with_its_place() {
    let mut w = World::declared();
    w.edit_sync("match", json!("t Task"));
    let o = w.settled_sync();
    assert!(message(&o, "Ready").starts_with("spec.match at column 3"), "{}", message(&o, "Ready"));
    assert_eq!(o["status"]["phase"], "Error");
    w.edit_remote("endpoints", json!([{"host": "eu", "port": 0}]));
    let m = message(&w.settled_remote(), "Ready");
    assert!(m.contains("spec.endpoints[0].port"), "{m}");
}

type Break = fn(&mut World);

/// Somebody else's object is wrong: they may mend it at any time, but after a while people should be told.
#[test]
fn another_object_that_is_wrong_stalls_after_a_while_and_never_ends() {
    let denied: Break = |w| {
        w.objects.policies.clear();
        w.report(link(LinkState::Blocked, None), flow(FlowState::Failed, None));
    };
    let no_permission: Break = |w| {
        w.edit_remote("permissions", json!({"canSend": [{"type": "Task"}]}));
        w.report(up(), flow(FlowState::Failed, problem(Reason::PermissionDenied)));
    };
    let no_remote: Break = |w| {
        w.objects.remotes.clear();
        w.report_all(vec![], vec![]);
    };
    let no_bundle: Break = |w| {
        w.objects.bundles.clear();
        w.report(link(LinkState::Blocked, None), flow(FlowState::Failed, None));
    };
    let bad_remote: Break = |w| {
        w.edit_remote("endpoints", json!([{"host": "eu", "port": 0}]));
        w.report_all(vec![], vec![]);
    };
    let no_type: Break = |w| w.report(up(), flow(FlowState::Failed, problem(Reason::TypeUnknown)));
    let mismatch: Break = |w| w.report(up(), flow(FlowState::Failed, problem(Reason::OntologyMismatch)));
    let taken: Break = |w| {
        w.put("Sync", "shop/elder", sync_spec());
        w.report(up(), flow(FlowState::Failed, None));
    };
    let other: Break = |w| w.report(link(LinkState::Connecting, problem(Reason::IdentityMismatch)), waiting());
    let cases = [
        (denied, Reason::PolicyDenied),
        (no_permission, Reason::PermissionDenied),
        (no_remote, Reason::RemoteNotFound),
        (no_bundle, Reason::BundleNotFound),
        (bad_remote, Reason::RemoteNotAccepted),
        (no_type, Reason::TypeUnknown),
        (mismatch, Reason::OntologyMismatch),
        (taken, Reason::Conflicted),
        (other, Reason::IdentityMismatch),
    ];
    for (break_it, reason) in cases {
        for was_ready in [false, true] {
            let mut w = if was_ready { World::in_sync() } else { World::declared() };
            let good = w.clone();
            break_it(&mut w);
            let ready = format!("False/{reason}");
            assert_eq!(row(&w.settled_sync()), in_progress(&ready), "at once, was ready: {was_ready}");
            w.pass(STALLED_AFTER_MS - 1);
            w.heartbeat();
            assert_eq!(row(&w.settled_sync()), in_progress(&ready), "before 30 s, was ready: {was_ready}");
            w.pass(1);
            w.heartbeat();
            assert_eq!(row(&w.settled_sync()), failed(&ready), "after 30 s, was ready: {was_ready}");
            w.pass(3_600_000);
            w.heartbeat();
            assert_eq!(row(&w.settled_sync()), failed(&ready), "after an hour, was ready: {was_ready}");

            // The others mend it. What the statuses say stays, as they are the cluster's.
            let status = w.objects.syncs[SYNC].status.clone();
            w.objects = good.objects;
            w.objects.syncs.get_mut(SYNC).expect("the Sync").status = status;
            w.report(up(), live());
            assert_eq!(row(&w.settled_sync()), current("True/InSync"), "mended: {reason}");
        }
    }
}

#[test]
fn a_remote_with_a_fault_elsewhere_stalls_after_a_while() {
    let no_bundle: Break = |w| w.objects.bundles.clear();
    let denied: Break = |w| w.objects.policies.clear();
    let taken: Break = |w| w.put("Remote", "shop/elder", remote_spec());
    for (break_it, reason) in
        [(no_bundle, Reason::BundleNotFound), (denied, Reason::PolicyDenied), (taken, Reason::Conflicted)]
    {
        let mut w = World::in_sync();
        if reason == Reason::Conflicted {
            let r = w.objects.remotes.get_mut(REMOTE).expect("the Remote is there");
            r.metadata.creation_timestamp = Some(decode(json!("2026-11-21T08:00:01Z")));
        }
        break_it(&mut w);
        w.report(link(LinkState::Blocked, None), flow(FlowState::Failed, None));
        assert_eq!(row(&w.settled_remote()), in_progress(&format!("False/{reason}")));
        w.pass(STALLED_AFTER_MS);
        w.heartbeat();
        assert_eq!(row(&w.settled_remote()), failed(&format!("False/{reason}")));
    }
}

#[test]
fn suspended_is_ready_once_the_agent_has_stopped() {
    for was_ready in [false, true] {
        let mut w = if was_ready { World::in_sync() } else { World::declared() };
        if !was_ready {
            w.report(link(LinkState::Connecting, None), waiting());
        }
        w.edit_sync("suspend", json!(true));
        assert_eq!(row(&w.settled_sync()), in_progress("Unknown/Pending"), "not acknowledged");
        w.report(up(), flow(FlowState::Suspended, None));
        let o = w.settled_sync();
        assert_eq!(row(&o), current("True/Suspended"));
        assert_eq!(is(&o, "InSync"), "Unknown/Suspended", "nobody knows what did not arrive");
        assert!(message(&o, "Ready").contains("position is kept"), "{}", message(&o, "Ready"));
        assert_eq!(o["status"]["phase"], "Paused");

        w.report(down(Reason::Unreachable), flow(FlowState::Suspended, None));
        assert_eq!(row(&w.settled_sync()), current("True/Suspended"), "a link that is not needed");
        w.objects.policies.clear();
        w.report(link(LinkState::Blocked, None), flow(FlowState::Suspended, None));
        assert_eq!(is(&w.settled_sync(), "Ready"), "False/PolicyDenied", "a denial is not hidden by suspend");
    }
}

#[test]
fn a_suspended_remote_is_ready_and_so_are_its_syncs() {
    let mut w = World::in_sync();
    w.edit_remote("suspend", json!(true));
    assert_eq!(row(&w.settled_remote()), in_progress("Unknown/Pending"));
    w.report(link(LinkState::Suspended, None), waiting());
    let o = w.settled_remote();
    assert_eq!(row(&o), current("True/Suspended"));
    assert_eq!(is(&o, "Connected"), "Unknown/Suspended");
    assert_eq!(o["status"]["phase"], "Disabled");
    assert_eq!(row(&w.sync(SYNC)), current("True/Suspended"));
}

#[test]
fn an_agent_that_is_silent_is_unknown() {
    let mut w = World::declared();
    w.report(up(), live());
    w.settle();
    w.pass(SILENT_MS - 1);
    assert_eq!(row(&w.settled_sync()), current("True/InSync"));
    w.pass(1);
    w.settle();
    assert_eq!(row(&w.sync(SYNC)), in_progress("Unknown/AgentUnresponsive"));
    assert_eq!(row(&w.remote(REMOTE)), in_progress("Unknown/AgentUnresponsive"));
    assert_eq!(is(&w.sync(SYNC), "InSync"), "Unknown/AgentUnresponsive");
    assert_eq!(w.sync(SYNC)["status"]["lag"], "-");
    assert!(message(&w.sync(SYNC), "Ready").contains("kernel shop"), "{}", message(&w.sync(SYNC), "Ready"));
    w.pass(3_600_000);
    assert_eq!(row(&w.settled_sync()), in_progress("Unknown/AgentUnresponsive"), "silence never stalls");
    w.report(up(), live());
    assert_eq!(row(&w.settled_sync()), current("True/InSync"));
}

#[test]
fn an_agent_that_never_came_or_has_not_reported_is_unknown() {
    let mut w = World::declared();
    w.settle();
    assert!(message(&w.sync(SYNC), "Ready").contains("no agent of kernel shop"));
    w.report(up(), live());
    w.agent().report = None;
    assert_eq!(row(&w.settled_sync()), in_progress("Unknown/Pending"));
    w.agent().attached = false;
    assert_eq!(row(&w.settled_sync()), in_progress("Unknown/NoAgent"));
}

/// What holds for the agent as a whole holds for all that it serves.
#[test]
fn a_fault_of_the_whole_agent_is_shown() {
    let mut w = World::in_sync();
    w.report(up(), live());
    w.last_report().problem = Some(Problem::new(Reason::SinkError, "no space left on device"));
    let o = w.settled_sync();
    assert_ne!(kstatus(&o), Kstatus::Current, "{}", is(&o, "Ready"));
    assert!(message(&o, "Ready").contains("no space left on device"), "{}", message(&o, "Ready"));
}

#[test]
fn ready_when_programmed_does_not_wait_for_the_peer() {
    let mut w = World::declared();
    w.edit_sync("readyWhen", json!("Programmed"));
    assert_eq!(row(&w.settled_sync()), in_progress("Unknown/NoAgent"));
    w.report(link(LinkState::Connecting, problem(Reason::DNSFailed)), waiting());
    let o = w.settled_sync();
    assert_eq!(row(&o), current("True/Programmed"));
    assert_eq!(is(&o, "Connected"), "False/DNSFailed");
    assert_eq!(is(&o, "InSync"), "Unknown/Connecting");
    w.objects.policies.clear();
    assert_eq!(is(&w.settled_sync(), "Ready"), "False/PolicyDenied");
}

/// Unknown is a value: a gate that was never reached is not shown as fine.
#[test]
fn what_was_not_looked_at_is_not_shown_as_fine() {
    let mut w = World::declared();
    w.objects.remotes.clear();
    w.edit_sync("match", json!("t Task"));
    let o = w.settled_sync();
    assert_eq!(is(&o, "Accepted"), "False/InvalidPattern");
    for gate in ["ResolvedRefs", "Programmed", "Connected", "InSync"] {
        assert!(is(&o, gate).starts_with("Unknown/"), "{gate} is {}", is(&o, gate));
    }
}

// --- times, digests, leaders, figures --------------------------------------------------------------------------------

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
fn a_new_leader_keeps_what_the_old_one_knew() {
    let mut w = World::in_sync();
    w.settle();
    let old = w.statuses();
    w.agents.clear();
    w.since_ms = w.now_ms;
    w.settle();
    assert_eq!(w.statuses(), old);
    w.pass(SILENT_MS - 1);
    w.settle();
    assert_eq!(w.statuses(), old);
    w.pass(1);
    w.settle();
    assert_eq!(row(&w.sync(SYNC)), in_progress("Unknown/NoAgent"));
    assert_eq!(row(&w.remote(REMOTE)), in_progress("Unknown/NoAgent"));
}

#[test]
fn a_new_leader_believes_reports_and_its_own_eyes_at_once() {
    let leader = || {
        let mut w = World::in_sync();
        w.settle();
        w.agents.clear();
        w.since_ms = w.now_ms;
        w.pass(1_000);
        w
    };
    let mut w = leader();
    w.report(down(Reason::Unreachable), waiting());
    assert_eq!(row(&w.settled_sync()), in_progress("False/Unreachable"));

    let mut w = leader();
    w.objects.bundles.clear();
    assert_eq!(row(&w.settled_sync()), in_progress("False/BundleNotFound"));

    let mut w = leader();
    w.objects.remotes.clear();
    assert_eq!(row(&w.settled_sync()), in_progress("False/RemoteNotFound"));

    let mut w = leader();
    w.edit_sync("match", json!("t: Task WHERE t.shared = true"));
    assert_eq!(row(&w.settled_sync()), in_progress("Unknown/NoAgent"), "the old status is of another spec");

    let mut w = leader();
    w.put("Sync", "shop/new", json!({"remoteRef": {"name": "eu"}, "direction": "Pull", "match": "t: Task"}));
    w.settle();
    assert_eq!(row(&w.sync("shop/new")), in_progress("Unknown/NoAgent"), "there is no old status");
}

/// A report that the new leader got just before it planned is not old because the leader is new.
#[test]
fn silence_counts_from_when_the_leader_began_to_listen() {
    let mut w = World::in_sync();
    w.pass(60_000);
    w.since_ms = w.now_ms;
    w.pass(SILENT_MS - 1);
    assert_eq!(row(&w.settled_sync()), current("True/InSync"));
    w.pass(1);
    assert_eq!(row(&w.settled_sync()), in_progress("Unknown/AgentUnresponsive"));
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

// --- references ------------------------------------------------------------------------------------------------------

#[test]
fn what_is_missing_is_named() {
    let m = |w: &mut World, reason: Reason| {
        let o = w.settled_sync();
        assert_eq!(is(&o, "ResolvedRefs"), format!("False/{reason}"));
        message(&o, "Ready")
    };
    let mut w = World::declared();
    w.objects.remotes.clear();
    let text = m(&mut w, Reason::RemoteNotFound);
    assert!(text.contains("Remote eu does not exist"), "{text}");
    assert!(w.plan().snapshots.is_empty(), "there is no kernel that it could belong to");

    let mut w = World::declared();
    w.objects.bundles.clear();
    let text = m(&mut w, Reason::BundleNotFound);
    assert!(text.contains("ConfigMap eu-roots does not exist"), "{text}");

    let mut w = World::declared();
    w.bundle(BUNDLE, "roots.pem", PEM);
    let text = m(&mut w, Reason::BundleNotFound);
    assert!(text.contains("eu-roots has no key ca.crt"), "{text}");

    let mut w = World::declared();
    w.bundle(BUNDLE, "ca.crt", "nothing of that sort");
    let text = m(&mut w, Reason::BundleNotFound);
    assert!(text.contains("holds no certificate"), "{text}");

    // Of two certificates the second one is cut off, or something else is in it.
    for wrong in
        ["-----BEGIN CERTIFICATE-----\nZXU=\n", "-----BEGIN CERTIFICATE-----\na: b\n-----END CERTIFICATE-----\n"]
    {
        let mut w = World::declared();
        w.bundle(BUNDLE, "ca.crt", &format!("{PEM}{wrong}"));
        let text = m(&mut w, Reason::BundleNotFound);
        assert!(text.contains("not whole"), "{text}");
    }

    let mut w = World::declared();
    w.edit_remote("peer", json!({"trustDomain": FOREIGN}));
    let text = m(&mut w, Reason::BundleNotFound);
    assert!(text.contains(FOREIGN) && text.contains("trustBundleRefs"), "{text}");

    let mut w = World::declared();
    w.edit_remote("endpoints", json!([{"host": "", "port": 1}]));
    let text = m(&mut w, Reason::RemoteNotAccepted);
    assert!(text.contains("spec.endpoints[0].host"), "{text}");
}

#[test]
fn roots_are_those_of_the_trust_domain() {
    let mut w = World::declared();
    assert_eq!(w.items().0[0].roots, [PEM]);
    w.edit_remote("peer", json!({"trustDomain": OWN}));
    assert_eq!(w.items().0[0].roots, [OWN_PEM]);
    w.edit_remote("peer", json!({"trustDomain": OWN, "trustBundleRefs": [{"kind": "ConfigMap", "name": "eu-roots"}]}));
    assert_eq!(w.items().0[0].roots, [OWN_PEM], "the own domain's roots never come from a Remote");
    w.objects.bundles.clear();
    w.edit_remote("peer", remote_spec()["peer"].clone());
    assert!(w.items().0[0].roots.is_empty() && w.items().0[0].blocked.is_some());
}

/// Whoever writes a Remote may name a ConfigMap that he cannot read.
#[test]
fn of_a_bundle_only_certificates_are_sent() {
    let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
    let mut w = World::declared();
    w.bundle(BUNDLE, "ca.crt", &format!("# of the old CA\n{PEM}{key}password: secret\n{OWN_PEM}token: secret\n"));
    assert_eq!(w.items().0[0].roots, [format!("{PEM}{OWN_PEM}")]);
    w.bundle(BUNDLE, "ca.crt", key);
    assert!(w.items().0[0].roots.is_empty() && w.items().0[0].blocked.is_some());
}

fn created(w: &mut World, name: &str, time: &str) {
    let time = Some(decode(json!(time)));
    match w.objects.syncs.get_mut(name) {
        Some(s) => s.metadata.creation_timestamp = time,
        None => w.objects.remotes.get_mut(name).expect("an object").metadata.creation_timestamp = time,
    }
}

/// The holder works, so nothing is less ready; whoever looks at the Remote sees who is kept out, for as long as it tries.
#[test]
fn a_refused_claim_is_shown_while_somebody_asks() {
    let mut w = World::in_sync();
    assert_eq!(is(&w.settled_remote(), "KernelClaimed"), "-");
    let at_ms = w.now_ms;
    w.agent().refused_claim = Some(RefusedClaim {
        instance: "pod-2".into(),
        problem: Problem::new(Reason::KernelClaimed, "pod-2 was refused: pod-1 holds it"),
        at_ms,
    });
    let o = w.settled_remote();
    assert_eq!(is(&o, "KernelClaimed"), "True/KernelClaimed");
    assert!(message(&o, "KernelClaimed").contains("pod-2"));
    assert_eq!(row(&o), current("True/Connected"));
    assert_eq!(o["status"]["lastError"]["reason"], "KernelClaimed");
    w.pass(10_000);
    w.heartbeat();
    let rest = w.statuses();
    w.settle();
    assert_eq!(w.statuses(), rest, "a claim that is refused again is no news");
    w.pass(20_000);
    w.heartbeat();
    let o = w.settled_remote();
    assert_eq!(is(&o, "KernelClaimed"), "-", "nobody asks any more");
    assert_eq!(o["status"]["lastError"]["reason"], "KernelClaimed", "it was the last error all the same");
}

/// The second one is refused because of the first; the third agrees with the first.
#[test]
fn a_remote_that_is_refused_refuses_no_other() {
    let mut w = World::declared();
    for (name, bundle, time) in [("shop/b", "other-roots", "08:00:01"), ("shop/c", "eu-roots", "08:00:02")] {
        let mut spec = remote_spec();
        spec["uri"] = json!(format!("mew://{FOREIGN}:9001/team-a.{}", &name[5..]));
        spec["peer"]["trustBundleRefs"] = json!([{"kind": "ConfigMap", "name": bundle}]);
        w.put("Remote", name, spec);
        created(&mut w, name, &format!("2026-11-21T{time}Z"));
    }
    w.settle();
    assert_eq!(is(&w.remote(REMOTE), "Accepted"), "True/Accepted");
    assert_eq!(is(&w.remote("shop/b"), "Ready"), "False/Conflicted");
    assert_eq!(is(&w.remote("shop/c"), "Accepted"), "True/Accepted");
}

#[test]
fn of_two_that_claim_the_same_the_younger_is_conflicted() {
    let mut w = World::declared();
    w.put("Sync", "shop/a-twin", sync_spec());
    created(&mut w, "shop/a-twin", "2026-11-21T08:00:01Z");
    w.settle();
    assert_eq!(is(&w.sync(SYNC), "Accepted"), "True/Accepted");
    assert_eq!(is(&w.sync("shop/a-twin"), "Ready"), "False/Conflicted");
    assert!(message(&w.sync("shop/a-twin"), "Ready").contains(SYNC));
    created(&mut w, "shop/a-twin", "2026-11-21T08:00:00Z");
    w.settle();
    assert_eq!(is(&w.sync(SYNC), "Ready"), "False/Conflicted", "of one age, the name decides");
    assert_eq!(is(&w.sync("shop/a-twin"), "Accepted"), "True/Accepted");

    let mut w = World::declared();
    w.put("Remote", "shop/twin", remote_spec());
    created(&mut w, "shop/twin", "2026-11-21T08:00:01Z");
    w.settle();
    assert_eq!(is(&w.remote(REMOTE), "Accepted"), "True/Accepted");
    assert_eq!(is(&w.remote("shop/twin"), "Ready"), "False/Conflicted");
    assert!(message(&w.remote("shop/twin"), "Ready").contains(REMOTE));

    let mut other = remote_spec();
    other["uri"] = json!(format!("mew://{FOREIGN}:9001/team-a.other"));
    w.put("Remote", "shop/twin", other.clone());
    created(&mut w, "shop/twin", "2026-11-21T08:00:01Z");
    w.settle();
    assert_eq!(is(&w.remote("shop/twin"), "Accepted"), "True/Accepted", "another kernel of that domain");

    other["peer"]["trustBundleRefs"] = json!([{"kind": "ConfigMap", "name": "other-roots"}]);
    w.put("Remote", "shop/twin", other.clone());
    created(&mut w, "shop/twin", "2026-11-21T08:00:01Z");
    w.settle();
    assert_eq!(is(&w.remote("shop/twin"), "Ready"), "False/Conflicted", "other roots for one domain");

    other["kernelRef"] = json!({"name": "till"});
    w.put("Remote", "shop/twin", other);
    created(&mut w, "shop/twin", "2026-11-21T08:00:01Z");
    w.settle();
    assert_eq!(is(&w.remote("shop/twin"), "Accepted"), "True/Accepted", "of another local kernel");
}

#[test]
fn what_is_deleted_leaves_the_snapshot_and_comes_back_the_same() {
    let mut w = World::in_sync();
    let before = w.snapshot();
    let remote = w.objects.remotes.remove(REMOTE).expect("the Remote is there");
    let after = w.snapshot();
    assert_eq!((after.remotes.len(), after.syncs.len()), (0, 0), "absence stops the flow");
    assert_eq!(is(&w.settled_sync(), "Ready"), "False/RemoteNotFound");
    w.objects.remotes.insert(REMOTE.to_owned(), remote);
    assert_eq!(w.snapshot(), before);
}

/// Statuses, generations and reports are not configuration: they never reach an agent.
#[test]
fn the_snapshot_depends_on_the_declared_alone() {
    let mut w = World::declared();
    let before = w.snapshot().encode();
    w.report(up(), live());
    w.settle();
    w.pass(3_600_000);
    w.settle();
    w.objects.syncs.get_mut(SYNC).expect("the Sync").metadata.generation = Some(9);
    assert_eq!(w.snapshot().encode(), before);
    w.edit_sync("onDelete", json!("Keep"));
    assert_ne!(w.snapshot().encode(), before);
}

// --- order -----------------------------------------------------------------------------------------------------------

fn objects() -> Vec<(&'static str, &'static str, Value)> {
    let mut other = remote_spec();
    other["uri"] = json!("mew://apac.example.com:9001/team-b.till");
    other["peer"] = json!({"trustDomain": "apac.example.com"});
    let mut twin = policy_spec();
    twin["rules"][0]["types"] = json!(["Zebra", "Task", "Apple"]);
    let deny = json!({"remoteSelector": {}, "rules": [
        {"name": "none", "action": "Deny", "operations": ["Export"], "types": ["Salary", "Person"]},
    ]});
    vec![
        ("Remote", REMOTE, remote_spec()),
        ("Remote", "shop/eu-twin", remote_spec()),
        ("Remote", "shop/apac", other),
        ("Sync", SYNC, sync_spec()),
        ("Sync", "shop/tasks-twin", sync_spec()),
        ("Sync", "shop/back", json!({"remoteRef": {"name": "apac"}, "direction": "Pull", "match": "_: any"})),
        ("Sync", "shop/lost", json!({"remoteRef": {"name": "nowhere"}, "direction": "Pull", "match": "_: any"})),
        ("FederationPolicy", POLICY, policy_spec()),
        ("FederationPolicy", "shop/twin", twin),
        ("FederationPolicy", "shop/deny", deny),
    ]
}

/// The objects come in some order, and the agent's report names them in some order.
fn arrived(order: &[usize]) -> World {
    let mut w = World::empty();
    let all = objects();
    for i in order {
        let (kind, name, spec) = &all[*i];
        w.put(kind, name, spec.clone());
        w.bundle(&format!("shop/bundle-{i}"), "ca.crt", PEM);
    }
    w.bundle(BUNDLE, "ca.crt", PEM);
    let of = |k: &str| order.iter().map(|i| &all[*i]).filter(|o| o.0 == k).map(|o| o.1).collect::<Vec<_>>();
    let remotes = of("Remote").into_iter().map(|n| RemoteReport { name: n.into(), ..up() }).collect();
    let syncs = of("Sync").into_iter().map(|n| FlowReport { name: n.into(), ..live() }).collect();
    w.report_all(remotes, syncs);
    w
}

fn order() -> impl Strategy<Value = Vec<usize>> {
    Just((0..objects().len()).collect::<Vec<_>>()).prop_shuffle()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_arrival_does_not_show(order in order()) {
        let first: Vec<usize> = (0..objects().len()).collect();
        let (mut a, mut b) = (arrived(&first), arrived(&order));
        prop_assert_eq!(a.plan().snapshots[&kernel()].encode(), b.plan().snapshots[&kernel()].encode());
        a.settle();
        b.settle();
        prop_assert_eq!(a.statuses(), b.statuses());
    }
}

/// The property above would hold of nothing as well.
#[test]
fn the_objects_of_the_property_make_a_plan() {
    let mut w = arrived(&(0..objects().len()).collect::<Vec<_>>());
    let s = w.snapshot();
    assert_eq!((s.remotes.len(), s.syncs.len()), (3, 3), "all but the Sync without a Remote");
    w.settle();
    assert!(w.statuses().contains("Conflicted") && w.statuses().contains("StrictIsolation"));
    assert_eq!(also(&w.sync("shop/lost")), "Reconciling");
}
