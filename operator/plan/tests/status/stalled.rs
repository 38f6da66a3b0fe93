//! What is wrong for good: a wrong spec at once, somebody else's object after a while.

use crate::common::{REMOTE, SYNC, World, decode, flow, link, message, problem, remote_spec, row, sync_spec, up};
use crate::rows::{current, failed, in_progress, live, rejected, waiting};
use mew_contract::{FlowState, LinkState, Reason};
use mew_plan::STALLED_AFTER_MS;
use serde_json::json;

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
