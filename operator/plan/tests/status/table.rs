//! The design's status table: what an object is, from what the agent reports of it.

use crate::common::{
    FOREIGN, Kstatus, POLICY, REMOTE, SYNC, World, flow, is, kstatus, link, message, problem, row, up,
};
use crate::rows::{current, down, in_progress, live, waiting};
use mew_contract::{FlowReport, FlowState, LinkState, Problem, Reason};
use mew_plan::{SILENT_MS, STALLED_AFTER_MS};
use serde_json::{Value, json};

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

/// A flow that came back after its source had forgotten what the sink has: it works, and somebody has to compare.
#[test]
fn what_the_source_does_not_know_any_more_is_said_until_it_begins_anew() {
    let mut w = World::in_sync();
    assert_eq!(w.sync(SYNC)["status"].get("needsReconcile"), None);
    let forgotten = FlowReport { needs_reconcile: true, ..live() };
    let copying = FlowReport { needs_reconcile: true, ..flow(FlowState::Copying, None) };
    // An agent that has just begun has not asked the source yet.
    let steps = [
        (up(), copying, "Unknown/InitialCopy", true),
        (up(), forgotten.clone(), "True/InSync", true),
        (down(Reason::Unreachable), waiting(), "False/Unreachable", true),
        (up(), FlowReport { held: 2, ..forgotten }, "True/InSyncWithFailures", true),
        (up(), flow(FlowState::Copying, None), "Unknown/InitialCopy", false),
        (up(), live(), "True/InSync", false),
    ];
    let yes = json!(true);
    for (link, flow, ready, needs) in steps {
        let is_live = flow.state == FlowState::Live;
        w.report(link, flow);
        let o = w.settled_sync();
        assert_eq!(is(&o, "Ready"), ready);
        assert_eq!(o["status"].get("needsReconcile"), needs.then_some(&yes), "{ready}");
        let m = message(&o, "Ready");
        assert_eq!(m.contains("compare both sides"), needs && is_live, "{ready}: {m}");
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
