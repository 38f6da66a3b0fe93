//! The judge convicts a lie and nothing else; kstatus reads objects as Flux does.

use mew_tests::kstatus::{Status, kstatus};
use mew_tests::watcher::{Event, GRACE_MS, Probe, judge};
use serde_json::{Value, json};

const SYNC: &str = "flights/airports";
const MAX_LAG_MS: u64 = 5_000;
/// A change written at 0 must have arrived by now, or Ready=True is a lie.
const LIMIT_MS: u64 = MAX_LAG_MS + GRACE_MS;

/// As kubectl gives it.
fn seen(at_ms: u64, ready: &str, reason: &str) -> Event {
    watched(at_ms, "MODIFIED", false, 3, ready, reason)
}

fn watched(at_ms: u64, ty: &str, suspend: bool, about: i64, ready: &str, reason: &str) -> Event {
    let object = json!({
        "metadata": {"namespace": "flights", "name": "airports", "generation": 3},
        "spec": {"maxLag": "5s", "suspend": suspend},
        "status": {"conditions": [{"type": "Ready", "status": ready, "reason": reason, "observedGeneration": about}]},
    });
    Event::read(at_ms, &json!({"type": ty, "object": object})).expect("an event")
}

fn refusal(events: &[Event], probes: &[Probe]) -> String {
    judge(events, probes).expect_err("a lie passed")
}

#[test]
fn ready_while_data_arrives_is_true() {
    let events = [seen(0, "Unknown", "InitialCopy"), seen(1_000, "True", "InSync")];
    let probes = [Probe::arrived(SYNC, 2_000, 2_100), Probe::arrived(SYNC, 90_000, 90_050)];
    assert_eq!(judge(&events, &probes), Ok(()));
}

#[test]
fn ready_for_ever_while_nothing_arrives_is_a_lie() {
    let events = [seen(0, "True", "InSync")];
    let e = refusal(&events, &[Probe::missing(SYNC, 0, LIMIT_MS + 1)]);
    assert!(e.contains("flights/airports said Ready=True") && e.contains("had not arrived"), "{e}");
}

#[test]
fn a_change_that_came_much_too_late_is_a_lie_too() {
    let events = [seen(0, "True", "InSync")];
    let e = refusal(&events, &[Probe::arrived(SYNC, 0, LIMIT_MS + 1)]);
    assert!(e.contains("arrived only"), "{e}");
}

#[test]
fn ready_within_max_lag_is_no_lie() {
    let events = [seen(0, "True", "InSync")];
    assert_eq!(judge(&events, &[Probe::missing(SYNC, 0, LIMIT_MS)]), Ok(()));
    assert_eq!(judge(&events, &[Probe::arrived(SYNC, 0, LIMIT_MS)]), Ok(()));
}

#[test]
fn a_status_that_admits_it_in_time_is_true() {
    let events = [seen(0, "True", "InSync"), seen(LIMIT_MS, "False", "Unreachable")];
    assert_eq!(judge(&events, &[Probe::missing(SYNC, 0, 600_000)]), Ok(()));
}

#[test]
fn a_status_that_admits_it_too_late_is_a_lie() {
    let events = [seen(0, "True", "InSync"), seen(LIMIT_MS + 1, "False", "Unreachable")];
    refusal(&events, &[Probe::missing(SYNC, 0, 600_000)]);
}

#[test]
fn a_status_that_recovers_before_the_data_does_is_a_lie() {
    let events = [seen(0, "True", "InSync"), seen(1_000, "False", "Lagging"), seen(20_000, "True", "InSync")];
    refusal(&events, &[Probe::arrived(SYNC, 0, 30_000)]);
    assert_eq!(judge(&events, &[Probe::arrived(SYNC, 0, 20_000)]), Ok(()));
}

#[test]
fn the_order_in_which_events_are_given_does_not_matter() {
    let events = [seen(LIMIT_MS, "False", "Unreachable"), seen(0, "True", "InSync")];
    assert_eq!(judge(&events, &[Probe::missing(SYNC, 0, 600_000)]), Ok(()));
}

#[test]
fn suspended_deleted_or_of_an_older_spec_claims_nothing() {
    let probes = [Probe::missing(SYNC, 0, 600_000)];
    for e in [
        watched(0, "MODIFIED", true, 3, "True", "InSync"),
        watched(0, "MODIFIED", false, 3, "True", "Suspended"),
        watched(0, "DELETED", false, 3, "True", "InSync"),
        watched(0, "MODIFIED", false, 2, "True", "InSync"),
    ] {
        assert_eq!(judge(&[e], &probes), Ok(()));
    }
    refusal(&[watched(0, "MODIFIED", false, 3, "True", "InSync")], &probes);
}

#[test]
fn one_lie_among_truths_is_found() {
    let events = [seen(0, "True", "InSync")];
    let probes =
        [Probe::arrived(SYNC, 0, 10), Probe::missing(SYNC, 50_000, 60_000), Probe::arrived(SYNC, 70_000, 70_001)];
    refusal(&events, &probes);
}

#[test]
fn nothing_known_proves_nothing() {
    refusal(&[seen(0, "True", "InSync")], &[]);
    refusal(&[], &[Probe::arrived(SYNC, 0, 10)]);
    refusal(&[seen(0, "True", "InSync")], &[Probe::arrived("flights/states", 0, 10)]);
}

#[test]
fn a_sync_that_names_no_max_lag_has_a_minute() {
    let object = json!({
        "metadata": {"namespace": "flights", "name": "airports", "generation": 1}, "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    });
    let e = Event::read(0, &json!({"type": "ADDED", "object": object})).expect("an event");
    assert!(e.claims_ready);
    assert_eq!(judge(std::slice::from_ref(&e), &[Probe::missing(SYNC, 0, 60_000 + GRACE_MS)]), Ok(()));
    refusal(&[e], &[Probe::missing(SYNC, 0, 60_001 + GRACE_MS)]);
}

fn object(observed: i64, conditions: &[(&str, &str)]) -> Value {
    let conditions: Vec<Value> = conditions.iter().map(|(t, s)| json!({"type": t, "status": s})).collect();
    json!({"metadata": {"generation": 2}, "status": {"observedGeneration": observed, "conditions": conditions}})
}

#[test]
fn kstatus_reads_the_states_of_the_design() {
    use Status::*;
    for (conditions, want) in [
        (vec![("Ready", "Unknown"), ("Reconciling", "True")], InProgress),
        (vec![("Ready", "True")], Current),
        (vec![("Ready", "False"), ("Reconciling", "True")], InProgress),
        (vec![("Ready", "False"), ("Stalled", "True")], Failed),
        (vec![("Ready", "False")], InProgress),
        (vec![("Ready", "Unknown")], InProgress),
        (vec![("Ready", "True"), ("Stalled", "False"), ("Reconciling", "False")], Current),
        (vec![("Ready", "True"), ("Stalled", "True")], Failed),
        // Why a default for observedGeneration is needed: nothing at all is fine.
        (vec![], Current),
    ] {
        assert_eq!(kstatus(&object(2, &conditions)), want, "{conditions:?}");
        assert_eq!(kstatus(&object(1, &conditions)), InProgress, "{conditions:?} of an older spec");
    }
    assert_eq!(kstatus(&object(-1, &[])), InProgress);
    let gone = json!({"metadata": {"generation": 1, "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    assert_eq!(kstatus(&gone), Terminating);
}
