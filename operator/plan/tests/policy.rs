//! Who may send what to whom: the design's truth table, through the planner. What the agent gets and what the owner of
//! the objects reads must say the same.

mod common;

use common::{
    FOREIGN, OWN, PEER, POLICY, REMOTE, SYNC, World, also, flow, is, message, policy_spec, problem, remote_spec,
    sync_spec, up,
};
use mew_contract::{FlowState, LinkState, Problem, Reason, RemoteItem, SyncItem, TypeRules};
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Peer {
    SameDomain,
    /// Foreign and in allowedKernels.
    Listed,
    /// Foreign, with a Remote, not listed.
    Unlisted,
    /// In blockedKernels, and in allowedKernels too.
    Blocked,
    /// Of the own trust domain and in blockedKernels.
    BlockedSameDomain,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    NoPolicy,
    /// A policy that does not say: as Strict.
    Absent,
    Strict,
    Explicit,
    Permissive,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rules {
    None,
    Allow,
    /// An Allow rule as well; Deny wins.
    Deny,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Permitted {
    Nothing,
    Task,
    Everything,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Push,
    Pull,
}

const PEERS: [Peer; 5] = [Peer::SameDomain, Peer::Listed, Peer::Unlisted, Peer::Blocked, Peer::BlockedSameDomain];
const MODES: [Mode; 5] = [Mode::NoPolicy, Mode::Absent, Mode::Strict, Mode::Explicit, Mode::Permissive];
const RULES: [Rules; 3] = [Rules::None, Rules::Allow, Rules::Deny];
const PERMITTED: [Permitted; 3] = [Permitted::Nothing, Permitted::Task, Permitted::Everything];
const WAYS: [Way; 2] = [Way::Push, Way::Pull];

impl Peer {
    fn domain(self) -> &'static str {
        if matches!(self, Peer::SameDomain | Peer::BlockedSameDomain) { OWN } else { FOREIGN }
    }
    fn is_listed(self) -> bool {
        matches!(self, Peer::Listed | Peer::Blocked)
    }
    fn is_blocked(self) -> bool {
        matches!(self, Peer::Blocked | Peer::BlockedSameDomain)
    }
}

impl Mode {
    fn name(self) -> Option<&'static str> {
        match self {
            Mode::NoPolicy | Mode::Absent => None,
            Mode::Strict => Some("StrictIsolation"),
            Mode::Explicit => Some("ExplicitBridging"),
            Mode::Permissive => Some("PermissiveBridging"),
        }
    }
}

impl Way {
    fn operation(self) -> &'static str {
        if self == Way::Push { "Export" } else { "Import" }
    }
    fn list(self) -> &'static str {
        if self == Way::Push { "canReceive" } else { "canSend" }
    }
}

fn add(policy: &mut Value, rule: Value) {
    policy["rules"].as_array_mut().expect("a policy with rules").push(rule);
}

fn rule(name: &str, action: &str, operation: &str, types: &[&str]) -> Value {
    json!({"name": name, "action": action, "operations": [operation], "types": types})
}

fn world(peer: Peer, mode: Mode, rules: Rules, permitted: Permitted, way: Way) -> World {
    let mut w = World::declared();
    w.objects.policies.clear();
    let mut remote = remote_spec();
    remote["uri"] = json!(format!("mew://peer.example.com:9001/{PEER}"));
    remote["peer"]["trustDomain"] = json!(peer.domain());
    remote["permissions"] = match permitted {
        Permitted::Nothing => json!({}),
        Permitted::Task => json!({way.list(): [{"type": "Task"}]}),
        Permitted::Everything => json!({way.list(): [{"type": "*"}]}),
    };
    w.put("Remote", REMOTE, remote);
    let mut sync = sync_spec();
    sync["direction"] = json!(format!("{way:?}"));
    w.put("Sync", SYNC, sync);
    if mode == Mode::NoPolicy {
        return w;
    }
    let mut main = json!({"remoteSelector": {}});
    if let Some(name) = mode.name() {
        main["mode"] = json!(name);
    }
    if peer.is_blocked() {
        main["blockedKernels"] = json!([{"trustDomain": peer.domain(), "kernelIds": [PEER]}]);
    }
    let allow = rule("tasks", "Allow", way.operation(), &["Task"]);
    let deny = rule("no-tasks", "Deny", way.operation(), &["Task"]);
    main["rules"] = match rules {
        Rules::None => json!([]),
        Rules::Allow => json!([allow]),
        Rules::Deny => json!([allow, deny]),
    };
    w.put("FederationPolicy", POLICY, main);
    if peer.is_listed() {
        // In a policy of its own, as a list with StrictIsolation is refused.
        let lists = json!({
            "remoteSelector": {},
            "mode": "PermissiveBridging",
            "allowedKernels": [{"trustDomain": FOREIGN, "kernelIds": [PEER]}],
        });
        w.put("FederationPolicy", "shop/lists", lists);
    }
    w
}

/// The design's table, said once more: `Some` are the words that the refusal must hold.
fn gate(peer: Peer, mode: Mode) -> Option<Vec<&'static str>> {
    match (peer, mode) {
        (Peer::SameDomain, _) => None,
        (Peer::BlockedSameDomain, Mode::NoPolicy) => None,
        (_, Mode::NoPolicy) => Some(vec![FOREIGN, "StrictIsolation"]),
        (Peer::Blocked | Peer::BlockedSameDomain, _) => Some(vec![PEER, "blocked", POLICY]),
        (_, Mode::Absent | Mode::Strict) => Some(vec![FOREIGN, "StrictIsolation", POLICY]),
        (Peer::Listed, Mode::Explicit | Mode::Permissive) => None,
        (Peer::Unlisted, Mode::Explicit) => {
            Some(vec!["NotAllowed", PEER, "allowedKernels", "ExplicitBridging", POLICY])
        }
        (Peer::Unlisted, Mode::Permissive) => None,
    }
}

fn flow_gate(rules: Rules, permitted: Permitted, way: Way) -> Option<(Reason, Vec<&'static str>)> {
    match (rules, permitted) {
        (Rules::Deny, _) => Some((Reason::PolicyDenied, vec![way.operation(), "Task", "rule no-tasks", POLICY])),
        (Rules::None, _) => Some((Reason::PolicyDenied, vec![way.operation(), "Task", "no Allow rule"])),
        (Rules::Allow, Permitted::Nothing) => {
            Some((Reason::PermissionDenied, vec![way.operation(), "Task", way.list(), REMOTE]))
        }
        (Rules::Allow, _) => None,
    }
}

fn types(of: &[&str]) -> Vec<String> {
    of.iter().map(|t| (*t).to_owned()).collect()
}

fn only(w: &World) -> (RemoteItem, SyncItem) {
    let (mut remotes, mut syncs) = w.items();
    assert_eq!((remotes.len(), syncs.len()), (1, 1), "refused is not absent: the agent must close what is open");
    (remotes.remove(0), syncs.remove(0))
}

fn refusal(blocked: Option<&Problem>, expected: Option<(Reason, Vec<&'static str>)>, what: &str) {
    match (blocked, expected) {
        (None, None) => {}
        (Some(p), Some((reason, words))) => {
            assert_eq!(p.reason, reason, "{what}: {}", p.message);
            for word in words {
                assert!(p.message.contains(word), "{what}: {word:?} is not in {:?}", p.message);
            }
        }
        (got, expected) => panic!("{what}: expected {expected:?}, got {got:?}"),
    }
}

/// The condition says of the owner's object what the snapshot says to the agent.
fn told(o: &Value, blocked: Option<&Problem>, what: &str) {
    match blocked {
        Some(p) => {
            assert_eq!(is(o, "Accepted"), format!("False/{}", p.reason), "{what}");
            assert_eq!(message(o, "Accepted"), p.message, "{what}");
            assert_eq!(is(o, "Ready"), format!("False/{}", p.reason), "{what}");
            assert_eq!(message(o, "Ready"), p.message, "{what}");
            assert_eq!(also(o), "Reconciling", "{what}");
        }
        None => {
            assert_eq!(is(o, "Accepted"), "True/Accepted", "{what}");
            assert_eq!(is(o, "Ready"), "Unknown/NoAgent", "{what}");
        }
    }
}

#[test]
fn the_truth_table() {
    let mut passed = 0;
    for peer in PEERS {
        for mode in MODES {
            for rules in RULES {
                for permitted in PERMITTED {
                    for way in WAYS {
                        // Without a policy there are no rules.
                        let rules = if mode == Mode::NoPolicy { Rules::None } else { rules };
                        passed += usize::from(one(peer, mode, rules, permitted, way));
                    }
                }
            }
        }
    }
    // Gates pass: same domain with any policy (4), listed if Explicit or Permissive (2), unlisted if Permissive (1); of
    // each, Allow with two sorts of permissions, both ways.
    assert_eq!(passed, 7 * 2 * 2);
}

/// Checks one cell; true if data may flow.
fn one(peer: Peer, mode: Mode, rules: Rules, permitted: Permitted, way: Way) -> bool {
    let what = format!("{peer:?}, {mode:?}, {rules:?}, {permitted:?}, {way:?}");
    let mut w = world(peer, mode, rules, permitted, way);
    let (remote, sync) = only(&w);

    let closed = gate(peer, mode).map(|words| (Reason::PolicyDenied, words));
    refusal(remote.blocked.as_ref(), closed.clone(), &format!("Remote: {what}"));
    let expected = closed.or_else(|| flow_gate(rules, permitted, way));
    let flows = expected.is_none();
    refusal(sync.blocked.as_ref(), expected, &format!("Sync: {what}"));

    let listed = match permitted {
        Permitted::Nothing => types(&[]),
        Permitted::Task => types(&["Task"]),
        Permitted::Everything => types(&["*"]),
    };
    let this = TypeRules {
        allow: if rules == Rules::None { vec![] } else { types(&["Task"]) },
        deny: if rules == Rules::Deny { types(&["Task"]) } else { vec![] },
        permitted: listed,
    };
    let (here, other) =
        if way == Way::Push { (&remote.export, &remote.import) } else { (&remote.import, &remote.export) };
    assert_eq!(here, &this, "{what}");
    assert_eq!(other, &TypeRules::default(), "{what}: nothing was said of the other direction");

    w.settle();
    told(&w.remote(REMOTE), remote.blocked.as_ref(), &format!("Remote: {what}"));
    told(&w.sync(SYNC), sync.blocked.as_ref(), &format!("Sync: {what}"));
    if mode != Mode::NoPolicy {
        let policy = w.policy(POLICY);
        let status = &policy["status"];
        assert_eq!(status["selectedRemotes"], 1, "{what}");
        assert_eq!(status["affectedSyncs"], 1, "{what}");
        assert_eq!(status["deniedSyncs"], i64::from(!flows), "{what}");
    }
    flows
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
    w.report(common::link(LinkState::Blocked, None), flow(FlowState::Failed, None));
    assert_eq!(w.settled_remote()["status"]["phase"], "Disabled");
    assert_eq!(w.settled_remote()["status"]["health"], "Unhealthy");
}
