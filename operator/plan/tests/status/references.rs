//! What objects refer to and claim: what is missing is named, and of two that claim the same one holds it.

use crate::common::{
    BUNDLE, FOREIGN, OWN, OWN_PEM, PEM, REMOTE, SYNC, World, decode, is, message, remote_spec, row, sync_spec, up,
};
use crate::rows::{current, live};
use mew_contract::{Problem, Reason};
use mew_plan::{AgentState, KernelName, RefusedClaim};
use serde_json::json;

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

/// The old one stays in force, so nothing is less ready; whoever looks at the Remote sees why the new one is not.
#[test]
fn an_ontology_that_was_refused_is_shown_while_it_is() {
    let mut w = World::in_sync();
    assert_eq!(is(&w.settled_remote(), "OntologyMismatch"), "-");
    let refused = Problem::new(Reason::OntologyMismatch, "the new ontology is refused: attribute Task.n changed");
    w.last_report().problem = Some(refused);
    let o = w.settled_remote();
    assert_eq!(is(&o, "OntologyMismatch"), "True/OntologyMismatch");
    assert!(message(&o, "OntologyMismatch").contains("attribute Task.n changed"));
    assert_eq!(row(&o), current("True/Connected"));
    assert_eq!(row(&w.sync(SYNC)), current("True/InSync"));
    assert_eq!(o["status"]["lastError"]["reason"], "OntologyMismatch");
    // Beside somebody who asks for the kernel.
    let claim = Problem::new(Reason::KernelClaimed, "pod-2 was refused: pod-1 holds it");
    let at_ms = w.now_ms;
    w.agent().refused_claim = Some(RefusedClaim { instance: "pod-2".into(), problem: claim, at_ms });
    let o = w.settled_remote();
    assert_eq!(
        (is(&o, "KernelClaimed"), is(&o, "OntologyMismatch")),
        ("True/KernelClaimed".into(), "True/OntologyMismatch".into())
    );
    w.agent().attached = false;
    assert_eq!(is(&w.settled_remote(), "OntologyMismatch"), "-", "nobody says so any more");
    w.agent().attached = true;
    w.last_report().problem = None;
    assert_eq!(is(&w.settled_remote(), "OntologyMismatch"), "-", "it was taken");
}

#[test]
fn a_kernel_that_no_agent_holds_and_no_remote_names_is_of_no_use() {
    let mut w = World::in_sync();
    let invented = KernelName::new("shop", "invented");
    w.agents.insert(invented.clone(), AgentState { attached: true, ..AgentState::default() });
    w.agent().attached = false;
    assert!(w.plan().unused.is_empty(), "it has an agent, or a Remote");
    w.agents.insert(invented.clone(), AgentState::default());
    assert_eq!(w.plan().unused.iter().collect::<Vec<_>>(), [&invented]);
    w.objects.remotes.clear();
    assert_eq!(w.plan().unused.len(), 2);
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
