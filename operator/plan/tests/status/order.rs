//! The order in which objects and reports arrive does not show.

use crate::common::{BUNDLE, PEM, POLICY, REMOTE, SYNC, World, also, kernel, policy_spec, remote_spec, sync_spec, up};
use crate::rows::live;
use mew_contract::{FlowReport, RemoteReport};
use mew_plan::draft;
use proptest::prelude::*;
use serde_json::{Value, json};

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

/// Agents are given what they get before a status is made. In two parts it is the same plan.
#[test]
fn what_agents_get_comes_before_statuses() {
    let w = arrived(&(0..objects().len()).collect::<Vec<_>>());
    let whole = w.plan();
    w.with(|i| {
        let (mut p, statuses) = draft(i);
        assert_eq!((&p.snapshots, &p.unused), (&whole.snapshots, &whole.unused));
        assert!(p.remotes.is_empty() && p.syncs.is_empty() && p.policies.is_empty());
        // Handed out, and not needed any more.
        p.snapshots.clear();
        let mut syncs = Vec::new();
        statuses.make(&mut p, &mut |n, s| syncs.push((n.clone(), s)));
        assert_eq!(syncs, whole.syncs.into_iter().collect::<Vec<_>>());
        assert_eq!((p.remotes, p.policies), (whole.remotes, whole.policies));
    });
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
