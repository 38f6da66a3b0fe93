//! The design's truth table, cell by cell: peer, mode, rules, permissions and direction.

use crate::common::{FOREIGN, OWN, PEER, POLICY, REMOTE, SYNC, World, also, is, message, remote_spec, sync_spec};
use crate::{only, rule, types};
use mew_contract::{Problem, Reason, TypeRules};
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
