//! Several policies at once, what each selects, lists of kernels, and how a denial is explained.

use crate::common::{
    FOREIGN, PEER, POLICY, REMOTE, SYNC, World, also, flow, is, link, message, policy_spec, problem, remote_spec, up,
};
use crate::{only, rule, types};
use mew_contract::{FlowState, LinkState, Problem, Reason};
use serde_json::{Value, json};

fn add(policy: &mut Value, rule: Value) {
    policy["rules"].as_array_mut().expect("a policy with rules").push(rule);
}

fn put_policy(w: &mut World, name: &str, spec: Value) {
    w.put("FederationPolicy", name, spec);
}

fn blocked_remote(w: &World) -> Option<Problem> {
    only(w).0.blocked
}

fn blocked_sync(w: &World) -> Option<Problem> {
    only(w).1.blocked
}

#[test]
fn of_several_modes_the_strictest_holds() {
    let modes = ["StrictIsolation", "ExplicitBridging", "PermissiveBridging"];
    for (i, a) in modes.iter().enumerate() {
        for (j, b) in modes.iter().enumerate() {
            let mut w = World::declared();
            w.objects.policies.clear();
            put_policy(&mut w, "shop/a", json!({"remoteSelector": {}, "mode": a}));
            put_policy(&mut w, "shop/b", json!({"remoteSelector": {}, "mode": b}));
            let p = blocked_remote(&w);
            let strictest = i.min(j);
            if strictest == 2 {
                assert_eq!(p, None, "{a} and {b}");
                continue;
            }
            let p = p.unwrap_or_else(|| panic!("{a} and {b} let a foreign kernel pass"));
            let (name, mode) = (if i <= j { "policy shop/a" } else { "policy shop/b" }, modes[strictest]);
            assert!(p.message.contains(name) && p.message.contains(mode), "{a} and {b}: {}", p.message);
        }
    }
}

#[test]
fn a_list_of_any_policy_counts_and_a_block_of_any_policy_wins() {
    let listed = json!([{"trustDomain": FOREIGN, "kernelIds": ["team-a.other", PEER]}]);
    let mut w = World::declared();
    put_policy(&mut w, POLICY, json!({"remoteSelector": {}, "mode": "ExplicitBridging"}));
    assert!(blocked_remote(&w).is_some());
    put_policy(
        &mut w,
        "shop/lists",
        json!({"remoteSelector": {}, "mode": "ExplicitBridging", "allowedKernels": listed}),
    );
    assert_eq!(blocked_remote(&w), None);
    put_policy(
        &mut w,
        "shop/blocks",
        json!({"remoteSelector": {}, "mode": "PermissiveBridging", "blockedKernels": listed}),
    );
    let p = blocked_remote(&w).expect("a block wins");
    assert!(p.message.contains("blocked by policy shop/blocks"), "{}", p.message);
}

/// PermissiveBridging lets them pass, and says so.
#[test]
fn who_passes_unlisted_is_named() {
    let listed = json!([{"trustDomain": FOREIGN, "kernelIds": [PEER]}]);
    let mut w = World::declared();
    put_policy(&mut w, POLICY, json!({"remoteSelector": {}, "mode": "PermissiveBridging"}));
    w.settle();
    let text = message(&w.policy(POLICY), "Ready");
    assert!(text.starts_with("Unlisted: 1 of 1") && text.contains(REMOTE), "{text}");
    put_policy(&mut w, POLICY, json!({"remoteSelector": {}, "mode": "PermissiveBridging", "allowedKernels": listed}));
    w.settle();
    assert_eq!(message(&w.policy(POLICY), "Ready"), "");
}

#[test]
fn a_list_is_of_kernels_of_that_trust_domain_only() {
    for (kernels, passes) in [
        (json!([{"trustDomain": FOREIGN}]), true),
        (json!([{"trustDomain": FOREIGN, "kernelIds": [PEER]}]), true),
        (json!([{"trustDomain": FOREIGN, "kernelIds": ["team-a.shop2"]}]), false),
        (json!([{"trustDomain": "example.com"}]), false),
        (json!([{"trustDomain": "apac.example.com", "kernelIds": [PEER]}]), false),
        (json!([]), false),
    ] {
        let mut w = World::declared();
        let mut spec = policy_spec();
        spec["mode"] = json!("ExplicitBridging");
        spec["allowedKernels"] = kernels.clone();
        put_policy(&mut w, POLICY, spec);
        assert_eq!(blocked_remote(&w).is_none(), passes, "allowed: {kernels}");
        assert_eq!(blocked_sync(&w).is_none(), passes, "allowed: {kernels}");

        let mut spec = policy_spec();
        spec["blockedKernels"] = kernels.clone();
        put_policy(&mut w, POLICY, spec);
        assert_eq!(blocked_remote(&w).is_some(), passes, "blocked: {kernels}");
    }
}

#[test]
fn all_allows_and_all_denies_count() {
    let mut w = World::declared();
    w.objects.policies.clear();
    let with = |rules: Value| json!({"remoteSelector": {}, "mode": "PermissiveBridging", "rules": rules});
    let (a, b) = (rule("a", "Allow", "Export", &["Task", "Zebra"]), rule("b", "Allow", "Export", &["Apple", "Task"]));
    put_policy(&mut w, "shop/a", with(json!([a])));
    put_policy(&mut w, "shop/b", with(json!([b, rule("c", "Deny", "Export", &["Salary"])])));
    put_policy(&mut w, "shop/c", with(json!([rule("d", "Deny", "Export", &["Person"])])));
    let (remote, sync) = only(&w);
    assert_eq!(remote.export.allow, types(&["Apple", "Task", "Zebra"]));
    assert_eq!(remote.export.deny, types(&["Person", "Salary"]));
    assert_eq!(remote.import.allow, types(&[]), "a rule is of its operations only");
    assert_eq!(sync.blocked, None);

    put_policy(&mut w, "shop/d", with(json!([rule("none-at-all", "Deny", "Export", &["*"])])));
    let p = blocked_sync(&w).expect("Deny wins");
    assert_eq!(p.reason, Reason::PolicyDenied);
    assert!(p.message.contains("rule none-at-all of policy shop/d"), "{}", p.message);
    assert_eq!(blocked_remote(&w), None, "the connection itself is not denied");
}

/// `_: any` is a wish for all types: a Deny of one takes that one away, a Deny of all refuses.
#[test]
fn any_type() {
    let mut w = World::declared();
    w.edit_sync("match", json!("_: any"));
    assert_eq!(blocked_sync(&w), None);
    let mut spec = policy_spec();
    add(&mut spec, rule("no-salaries", "Deny", "Export", &["Salary"]));
    put_policy(&mut w, POLICY, spec.clone());
    let (remote, sync) = only(&w);
    assert_eq!(sync.blocked, None);
    assert_eq!(remote.export.deny, types(&["Salary"]));
    spec["rules"][1] = rule("nothing", "Deny", "Export", &["*"]);
    put_policy(&mut w, POLICY, spec);
    let p = blocked_sync(&w).expect("Deny of all refuses");
    assert!(p.message.contains("any type") && p.message.contains("rule nothing"), "{}", p.message);
}

#[test]
fn a_policy_holds_for_what_it_selects_in_its_namespace() {
    let labelled = |selector: Value| {
        let mut w = World::declared();
        let mut spec = policy_spec();
        spec["remoteSelector"] = selector;
        put_policy(&mut w, POLICY, spec);
        let r = w.objects.remotes.get_mut(REMOTE).expect("the Remote is there");
        r.metadata.labels = Some([("tier".to_owned(), "gold".to_owned())].into());
        w
    };
    for (selector, selects) in [
        (json!({}), true),
        (json!({"matchLabels": {"tier": "gold"}}), true),
        (json!({"matchLabels": {"tier": "tin"}}), false),
        (json!({"matchLabels": {"tier": "gold", "region": "eu"}}), false),
        (json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["tin", "gold"]}]}), true),
        (json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["tin"]}]}), false),
        (json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["gold"]}]}), false),
        (json!({"matchExpressions": [{"key": "region", "operator": "NotIn", "values": ["eu"]}]}), true),
        (json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}), true),
        (json!({"matchExpressions": [{"key": "region", "operator": "Exists"}]}), false),
        (json!({"matchExpressions": [{"key": "region", "operator": "DoesNotExist"}]}), true),
        (
            json!({"matchLabels": {"tier": "gold"}, "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}),
            false,
        ),
    ] {
        let mut w = labelled(selector.clone());
        assert_eq!(blocked_remote(&w).is_none(), selects, "{selector}");
        w.settle();
        assert_eq!(w.policy(POLICY)["status"]["selectedRemotes"], i64::from(selects), "{selector}");
        assert_eq!(w.policy(POLICY)["status"]["affectedSyncs"], i64::from(selects), "{selector}");
        let considered = if selects { json!([POLICY]) } else { Value::Null };
        assert_eq!(w.sync(SYNC)["status"]["effective"]["policies"], considered, "{selector}");
    }

    let mut w = World::declared();
    w.objects.policies.clear();
    put_policy(&mut w, "other/main", policy_spec());
    assert!(blocked_remote(&w).is_some(), "a policy of another namespace allows nothing here");
    w.settle();
    assert_eq!(w.policy("other/main")["status"]["selectedRemotes"], 0);
}

#[test]
fn a_policy_without_faults_is_in_force() {
    let mut w = World::declared();
    w.settle();
    assert_eq!(is(&w.policy(POLICY), "Ready"), "True/Enforced");
    assert_eq!((is(&w.policy(POLICY), "Accepted").as_str(), also(&w.policy(POLICY))), ("True/Accepted", ""));
}

/// What ends by a policy is the connection and the flow, not the Remote's place in the snapshot.
#[test]
fn taking_the_policy_away_closes_and_giving_it_back_opens() {
    let mut w = World::in_sync();
    assert_eq!(is(&w.settled_sync(), "Ready"), "True/InSync");
    let policies = std::mem::take(&mut w.objects.policies);
    assert!(blocked_remote(&w).is_some() && blocked_sync(&w).is_some());
    assert_eq!(is(&w.settled_sync(), "Ready"), "False/PolicyDenied");
    assert_eq!(is(&w.settled_remote(), "Ready"), "False/PolicyDenied");
    w.objects.policies = policies;
    assert_eq!((blocked_remote(&w), blocked_sync(&w)), (None, None));
    w.report(up(), flow(FlowState::Live, None));
    assert_eq!(is(&w.settled_sync(), "Ready"), "True/InSync");
}

/// Only the agent knows subtypes, so it judges what the names leave open; which list it was, this side says.
#[test]
fn what_the_agent_denies_is_explained_here() {
    let denied = |policy: Value, remote: Value| {
        let mut w = World::declared();
        put_policy(&mut w, POLICY, policy);
        w.put("Remote", REMOTE, remote);
        assert_eq!(blocked_sync(&w), None, "the names alone do not decide");
        w.report(up(), flow(FlowState::Failed, problem(Reason::PermissionDenied)));
        w.settled_sync()
    };

    let mut remote = remote_spec();
    remote["permissions"]["canReceive"] = json!([{"type": "Product"}]);
    let o = denied(policy_spec(), remote);
    assert_eq!(is(&o, "Ready"), "False/PermissionDenied");
    assert!(message(&o, "Ready").contains("canReceive of Remote shop/eu"), "{}", message(&o, "Ready"));

    let mut policy = policy_spec();
    policy["rules"][0]["types"] = json!(["Product"]);
    let o = denied(policy, remote_spec());
    assert_eq!(is(&o, "Ready"), "False/PolicyDenied");
    let m = message(&o, "Ready");
    assert!(m.contains("no Allow rule") && m.contains(POLICY), "{m}");
}

/// Task is a Work item, and those are denied: neither an absent Allow nor the permissions are to blame.
#[test]
fn a_deny_of_an_ancestor_is_named() {
    let mut w = World::declared();
    let mut policy = policy_spec();
    add(&mut policy, rule("no-work", "Deny", "Export", &["Work"]));
    put_policy(&mut w, POLICY, policy);
    w.report(up(), flow(FlowState::Failed, problem(Reason::PermissionDenied)));
    let o = w.settled_sync();
    let m = message(&o, "Ready");
    assert_eq!(is(&o, "Ready"), "False/PolicyDenied", "{m}");
    assert!(m.contains("rule no-work of policy shop/main"), "{m}");
}

/// A Remote that is blocked is not connected to, whatever an agent still says of it.
#[test]
fn a_blocked_remote_is_not_ready_while_it_is_still_connected() {
    let mut w = World::in_sync();
    w.objects.policies.clear();
    w.report(up(), flow(FlowState::Live, None));
    assert_eq!(is(&w.settled_remote(), "Ready"), "False/PolicyDenied");
    assert_eq!(is(&w.settled_sync(), "Ready"), "False/PolicyDenied");
    w.report(link(LinkState::Blocked, None), flow(FlowState::Failed, None));
    assert_eq!(w.settled_remote()["status"]["phase"], "Disabled");
    assert_eq!(w.settled_remote()["status"]["health"], "Unhealthy");
}
