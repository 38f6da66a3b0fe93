//! A new leader: what it keeps of the old one's, and what it believes at once.

use crate::common::{REMOTE, SYNC, World, row};
use crate::rows::{current, down, in_progress, waiting};
use mew_contract::Reason;
use mew_plan::SILENT_MS;
use serde_json::json;

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

/// The first thing that an agent says may be about a snapshot that this leader has not planned yet.
#[test]
fn a_report_about_a_snapshot_that_the_leader_does_not_know_yet_changes_nothing() {
    let mut w = World::in_sync();
    w.settle();
    let old = w.statuses();
    w.since_ms = w.now_ms;
    w.agent().confirmed = None;
    w.settle();
    assert_eq!(w.statuses(), old);
    w.since_ms -= SILENT_MS;
    assert_eq!(row(&w.settled_sync()), in_progress("Unknown/Pending"), "not for ever");
}
