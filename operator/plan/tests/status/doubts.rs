//! A leader that finds a list which may lack what nobody withdrew: which agents are given a new snapshot, which keep what they
//! have, and what statuses say meanwhile.

use crate::common::{OWN, POLICY, REMOTE, START_MS, SYNC, World, is, kernel, message, policy_spec, row, up};
use crate::rows::{current, in_progress, live, rejected};
use mew_contract::Snapshot;
use mew_contract::report::Names;
use mew_plan::{Doubts, Incomplete, SILENT_MS, empty_snapshot};
use serde_json::{Value, json};
use std::sync::Arc;

const NOTES: &str = "shop/notes";
const NEW: &str = "shop/new";
const BACK: Option<Incomplete> =
    Some(Incomplete::Back { since_ms: START_MS - 60_000, until_ms: START_MS - 60_000 + 600_000 });
const SYNCS: Doubts = Doubts { remotes: None, syncs: BACK, policies: None };
const REMOTES: Doubts = Doubts { remotes: BACK, syncs: None, policies: None };
const POLICIES: Doubts = Doubts { remotes: None, syncs: None, policies: BACK };

fn push(ty: &str) -> Value {
    json!({"remoteRef": {"name": "eu"}, "direction": "Push", "match": format!("t: Task WHERE t.code = {ty:?}")})
}

/// Two Syncs run under another leader; of one of them the agent's link says nothing. This one has led for an hour, and
/// has lists in doubt.
fn leads(doubts: Doubts) -> World {
    let mut w = World::in_sync();
    w.put("Sync", NOTES, push("note"));
    w.report_all(vec![up()], vec![live()]);
    w.settle();
    w.agent().confirmed = None;
    w.doubts = doubts;
    w
}

/// Why the agent keeps what it has; `None` if it is given the snapshot.
fn kept(w: &World) -> Option<String> {
    let p = w.plan();
    let why = p.kept.get(&kernel()).cloned();
    assert_eq!(p.snapshots.contains_key(&kernel()), why.is_none(), "{why:?}");
    why
}

#[test]
fn what_lacks_nothing_that_the_agent_has_is_given() {
    let mut w = leads(SYNCS);
    assert_eq!(kept(&w), None, "everything was applied again");
    w.put("Sync", NEW, push("new"));
    assert_eq!(kept(&w), None, "and one more");
    w.edit_sync("suspend", json!(true));
    assert_eq!(kept(&w), None, "with other content");
    w.edit_remote("permissions", json!({"canReceive": []}));
    assert_eq!(kept(&w), None, "a Remote with less");
    // It leads to another agent now, and with it all its Syncs.
    w.edit_remote("kernelRef", json!({"name": "other"}));
    assert_eq!(kept(&w), None, "all is declared, for another one");
    w.objects.syncs.remove(NOTES);
    assert!(kept(&w).is_some(), "one is not declared for anybody");
}

#[test]
fn what_lacks_something_that_the_agent_has_is_not() {
    for name in [SYNC, NOTES] {
        let mut w = leads(SYNCS);
        w.objects.syncs.remove(name);
        let why = kept(&w).unwrap_or_default();
        assert!(why.contains(&format!("Sync {name}, which the agent has, is not applied again")), "{why}");
    }
    let mut w = leads(REMOTES);
    w.objects.remotes.remove(REMOTE);
    let why = kept(&w).unwrap_or_default();
    assert!(why.contains("CustomResourceDefinition remotes.federation.mew.dev was deleted"), "{why}");
    assert!(why.contains(&format!("Remote {REMOTE}, which the agent has, is not applied again")), "{why}");
    // Refused by the agent, and held all the same.
    let mut w = leads(Doubts::default());
    rejected(&mut w, "Sync", SYNC);
    w.last_report().silent = Some(Names::default());
    w.agent().confirmed = None;
    w.doubts = SYNCS;
    w.objects.syncs.remove(SYNC);
    assert!(kept(&w).is_some());
}

#[test]
fn what_is_missing_in_a_complete_list_was_withdrawn() {
    let mut w = leads(REMOTES);
    w.objects.syncs.remove(NOTES);
    assert_eq!(kept(&w), None);
    let mut w = leads(SYNCS);
    w.objects.remotes.remove(REMOTE);
    assert_eq!(kept(&w), None, "its Syncs are declared, and lead nowhere");
}

#[test]
fn without_policies_only_what_is_in_force_already_is_given() {
    let mut w = leads(POLICIES);
    assert_eq!(kept(&w), None, "exactly this");
    w.put("Sync", NEW, push("new"));
    let why = kept(&w).unwrap_or_default();
    assert!(why.contains("policies may be missing"), "{why}");
    assert!(why.ends_with("Apply everything again as it was, or wait until 2026-11-21T09:09:00Z"), "{why}");
}

/// That this leader gave it what it has says nothing of the policies that are missing still.
#[test]
fn without_policies_what_the_leader_gave_is_no_reason_to_give_more() {
    let given = || {
        let mut w = World::in_sync();
        w.doubts = POLICIES;
        assert!(w.agent().confirmed.is_some() && kept(&w).is_none(), "exactly this");
        w
    };
    let mut w = given();
    w.put("Sync", NEW, push("new"));
    assert!(kept(&w).is_some_and(|why| why.contains("policies may be missing")));
    w.doubts = Doubts::default();
    assert_eq!(kept(&w), None, "the grace is over");
    let mut w = given();
    assert!(w.objects.syncs.remove(SYNC).is_some());
    assert_eq!(kept(&w), None, "what was withdrawn since goes");
    let mut w = given();
    w.edit_remote("permissions", json!({"canReceive": [{"type": "*"}]}));
    assert!(kept(&w).is_some(), "nor may a Remote be given that allows more");
    // In doubt about other kinds, it is known what was withdrawn since.
    w.doubts = Doubts { remotes: BACK, ..SYNCS };
    assert_eq!(kept(&w), None);
}

#[test]
fn an_agent_that_does_not_say_what_it_has_may_have_anything() {
    let mut w = leads(SYNCS);
    w.last_report().silent = None;
    assert_eq!(kept(&w), None, "exactly this");
    w.put("Sync", NEW, push("new"));
    let why = kept(&w).unwrap_or_default();
    assert!(why.contains("this agent does not say by name"), "{why}");
    w.agent().report = None;
    assert!(kept(&w).is_some(), "it is attached and has said nothing yet");
    w.agents.clear();
    assert!(kept(&w).is_some(), "it has not come yet");
}

#[test]
fn an_agent_that_nobody_names_is_not_forgotten_while_its_remote_may_be_missing() {
    for (doubts, is_unused) in [(REMOTES, false), (Doubts::default(), true)] {
        let mut w = leads(doubts);
        w.objects.remotes.clear();
        w.agent().attached = false;
        assert_eq!(w.plan().unused.contains(&kernel()), is_unused);
    }
}

#[test]
fn an_agent_that_can_lose_nothing_is_given_what_is_declared() {
    let lacking = || {
        let mut w = leads(SYNCS);
        w.objects.syncs.remove(NOTES);
        assert!(kept(&w).is_some());
        w
    };
    let mut w = lacking();
    w.last_report().snapshot.clear();
    assert_eq!(kept(&w), None, "a new agent has nothing");
    let mut w = lacking();
    w.last_report().snapshot = Snapshot::digest(&empty_snapshot(OWN, &kernel()).encode());
    assert_eq!(kept(&w), None, "it has had nothing so far");
    let mut w = lacking();
    w.agent().confirmed = Some(Arc::default());
    assert_eq!(kept(&w), None, "this leader gave it what it has, so it is known what was withdrawn since");
}

// ------------------------------------------------------------------- statuses

const SAID: &str = "the agent of kernel shop keeps the configuration that it has: CustomResourceDefinition \
                    syncs.federation.mew.dev was deleted and came back at 2026-11-21T08:59:00Z, and Sync shop/notes, which the \
                    agent has, is not applied again. Apply it, or wait: at 2026-11-21T09:09:00Z it counts as withdrawn";

#[test]
fn what_waits_says_for_what_and_until_when() {
    let mut w = leads(SYNCS);
    w.objects.syncs.remove(NOTES);
    w.put("Sync", NEW, push("new"));
    w.settle();
    for o in [w.sync(NEW), w.sync(SYNC), w.remote(REMOTE)] {
        assert_eq!(row(&o), in_progress("Unknown/Pending"));
        assert_eq!((message(&o, "Programmed"), message(&o, "Ready")), (SAID.to_owned(), SAID.to_owned()));
    }
    // It is not said anew because time passes.
    let said = w.statuses();
    w.pass(45_300);
    w.heartbeat();
    w.settle();
    assert_eq!(w.statuses(), said);

    w.put("Sync", NOTES, push("note"));
    assert_eq!(kept(&w), None);
    w.doubts = Doubts::default();
    w.report_all(vec![up()], vec![live()]);
    assert_eq!(row(&w.settled_sync()), current("True/InSync"));
}

#[test]
fn a_new_leader_says_it_at_once_of_what_is_new() {
    let mut w = leads(SYNCS);
    w.objects.syncs.remove(NOTES);
    w.put("Sync", NEW, push("new"));
    w.since_ms = w.now_ms;
    w.settle();
    assert_eq!(message(&w.sync(NEW), "Programmed"), SAID);
    assert_eq!(row(&w.sync(SYNC)), current("True/InSync"), "nothing has happened to what was there");
}

#[test]
fn many_that_are_missing_are_told_by_one_that_stays() {
    let mut w = leads(SYNCS);
    w.objects.syncs.clear();
    let both = kept(&w).unwrap_or_default();
    assert!(
        both.contains("Sync shop/tasks and others, which the agent has, are not applied again. Apply them,"),
        "{both}"
    );
    w.put("Sync", NOTES, push("note"));
    let one = kept(&w).unwrap_or_default();
    assert!(one.contains("Sync shop/tasks, which the agent has, is not applied again. Apply it,"), "{one}");
}

#[test]
fn what_is_still_away_has_no_end() {
    let mut w = leads(Doubts { syncs: Some(Incomplete::Away), ..Doubts::default() });
    w.objects.syncs.remove(NOTES);
    let why = kept(&w).unwrap_or_default();
    assert!(why.contains("CustomResourceDefinition syncs.federation.mew.dev is gone, and Sync shop/notes"), "{why}");
    assert!(why.ends_with("Apply the definition again, and then it"), "{why}");
}

/// Its rules are in force where the agent has them, and it cannot have those of a policy that is newer than what it has.
#[test]
fn a_policy_is_not_enforced_by_an_agent_that_keeps_what_it_has() {
    let mut w = leads(SYNCS);
    w.objects.syncs.remove(NOTES);
    w.settle();
    assert_eq!(is(&w.policy(POLICY), "Ready"), "True/Enforced", "it was before");
    w.put("FederationPolicy", POLICY, policy_spec());
    w.settle();
    assert_eq!(row(&w.policy(POLICY)), in_progress("Unknown/Pending"));
    assert_eq!(message(&w.policy(POLICY), "Programmed"), SAID);
    w.put("Sync", NOTES, push("note"));
    w.settle();
    assert_eq!(row(&w.policy(POLICY)), current("True/Enforced"));
}

/// What is said of a policy once stays, so it has to wait for agents that are on their way.
#[test]
fn a_policy_is_not_enforced_before_an_agent_says_that_it_keeps_what_it_has() {
    let lacking = || {
        let mut w = leads(SYNCS);
        w.objects.syncs.remove(NOTES);
        w.put("FederationPolicy", POLICY, policy_spec());
        w
    };
    let mut w = lacking();
    let report = w.agent().report.take();
    w.settle();
    assert_eq!(row(&w.policy(POLICY)), in_progress("Unknown/Pending"), "it is attached");
    w.agent().report = report;
    w.settle();
    assert_eq!(message(&w.policy(POLICY), "Programmed"), SAID);

    let mut w = lacking();
    let agents = std::mem::take(&mut w.agents);
    w.settle();
    assert_eq!(row(&w.policy(POLICY)), in_progress("Unknown/Pending"), "it has not come");
    w.agents = agents;
    w.settle();
    assert_eq!(message(&w.policy(POLICY), "Programmed"), SAID);
    w.put("Sync", NOTES, push("note"));
    w.settle();
    assert_eq!(row(&w.policy(POLICY)), current("True/Enforced"));
}

/// Applied again before the Remote that it selects.
#[test]
fn a_policy_waits_for_remotes_that_may_be_missing() {
    let mut w = leads(Doubts { remotes: BACK, ..SYNCS });
    w.objects.syncs.remove(NOTES);
    let remotes = std::mem::take(&mut w.objects.remotes);
    w.put("FederationPolicy", POLICY, policy_spec());
    // Another namespace's are none of its business.
    w.put("FederationPolicy", "other/main", policy_spec());
    w.settle();
    assert_eq!(row(&w.policy(POLICY)), in_progress("Unknown/Pending"));
    let said = message(&w.policy(POLICY), "Programmed");
    assert!(said.contains("Remote shop/eu, which the agent has, is not applied again"), "{said}");
    assert_eq!(row(&w.policy("other/main")), current("True/Enforced"));
    w.objects.remotes = remotes;
    w.settle();
    assert_eq!(row(&w.policy(POLICY)), in_progress("Unknown/Pending"));
    assert_eq!(message(&w.policy(POLICY), "Programmed"), SAID, "for what is missing still");
}

#[test]
fn a_policy_waits_for_agents_while_nobody_knows_for_which() {
    let mut w = leads(REMOTES);
    w.objects.remotes.clear();
    w.agents.clear();
    w.put("FederationPolicy", POLICY, policy_spec());
    w.since_ms = w.now_ms;
    w.settle();
    assert_eq!(row(&w.policy(POLICY)), in_progress("Unknown/Pending"));
    assert!(message(&w.policy(POLICY), "Programmed").contains("agents have not said yet what they have"));
    w.pass(SILENT_MS);
    w.settle();
    assert_eq!(row(&w.policy(POLICY)), current("True/Enforced"));
}
