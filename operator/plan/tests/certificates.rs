//! Certificates that Remotes name: what the agent is told of them, what its reports make of a status, and that a kernel
//! accepts with one.

mod common;

use common::{FOREIGN, REMOTE, START_MS, SYNC, World, flow, is, link, message, problem, remote_spec, up};
use mew_contract::{FlowState, LinkState, Reason, RemoteReport};
use serde_json::{Value, json};

fn auth(secret: &str) -> Value {
    json!({"certificateRef": {"name": secret}})
}

fn named() -> World {
    let mut w = World::declared();
    w.edit_remote("auth", auth("peers"));
    w
}

#[test]
fn the_agent_is_told_the_name_and_nothing_else() {
    let mut w = named();
    assert_eq!(w.items().0[0].certificate.as_deref(), Some("peers"));
    w.edit_remote("auth", json!({}));
    assert_eq!(w.items().0[0].certificate, None);
    // An agent that does not know the field takes what does not use it.
    assert!(w.snapshot().remotes[0].get("certificate").is_none());
}

#[test]
fn the_end_is_that_of_the_certificate_in_use() {
    let end = |w: &World| w.remote(REMOTE)["status"]["certificates"]["notAfter"].clone();
    let mut w = named();
    let report = RemoteReport { certificate_not_after_ms: Some(START_MS + 60_000), ..up() };
    w.report(report, flow(FlowState::Live, None));
    w.settle();
    assert_eq!(end(&w), "2026-11-21T09:01:00Z");
    // That of the operator's certificate would be a lie.
    w.report(link(LinkState::Connecting, problem(Reason::CertificatePending)), flow(FlowState::Waiting, None));
    w.settle();
    assert_eq!(end(&w), Value::Null);
    w.edit_remote("auth", Value::Null);
    w.report(up(), flow(FlowState::Live, None));
    w.settle();
    assert_eq!(end(&w), "2026-11-24T09:00:00Z");
}

#[test]
fn what_will_go_wrong_is_told_and_is_not_wrong_yet() {
    for reason in [Reason::IdentityMismatch, Reason::CertificatePending, Reason::CertificateExpired] {
        let mut w = named();
        w.report(link(LinkState::Connected, problem(reason)), flow(FlowState::Live, None));
        let (sync, remote) = (w.settled_sync(), w.remote(REMOTE));
        assert_eq!((is(&remote, "Ready"), is(&sync, "Ready")), ("True/Connected".into(), "True/InSync".into()));
        assert_eq!(remote["status"]["lastError"]["reason"], reason.code());
        assert_eq!(remote["status"]["connectedEndpoint"], format!("{FOREIGN}:9001"));

        w.report(link(LinkState::Disconnected, problem(reason)), flow(FlowState::Waiting, None));
        let (sync, remote) = (w.settled_sync(), w.remote(REMOTE));
        for o in [&remote, &sync] {
            assert_eq!(is(o, "Ready"), format!("False/{reason}"));
        }
    }
}

/// Before it ever worked.
#[test]
fn a_secret_that_is_not_there_yet_is_waited_for() {
    let mut w = named();
    w.report(link(LinkState::Connecting, problem(Reason::CertificatePending)), flow(FlowState::Waiting, None));
    let remote = w.settled_remote();
    assert_eq!(
        (is(&remote, "Ready"), is(&remote, "Connected")),
        ("Unknown/CertificatePending".into(), "False/CertificatePending".into())
    );
    assert_eq!(is(&w.sync(SYNC), "Ready"), "Unknown/CertificatePending");
}

#[test]
fn a_kernel_accepts_with_one_certificate() {
    let remote = |peer: &str, mode: &str, secret: Option<&str>| {
        let mut s = remote_spec();
        s["uri"] = json!(format!("mew://{FOREIGN}:9001/{peer}"));
        s["connectionMode"] = json!(mode);
        if let Some(n) = secret {
            s["auth"] = auth(n);
        }
        s
    };
    // (mode and certificate of the older one, of the younger one, whether both can be)
    let cases = [
        (("Accept", Some("peers")), ("Accept", Some("peers")), true),
        (("Accept", None), ("Accept", None), true),
        (("Accept", Some("peers")), ("Accept", Some("others")), false),
        (("Accept", Some("peers")), ("Accept", None), false),
        (("Accept", None), ("Accept", Some("peers")), false),
        (("Accept", Some("peers")), ("Dial", Some("others")), true),
        (("Dial", Some("peers")), ("Accept", None), true),
        (("Dial", Some("peers")), ("Dial", Some("others")), true),
    ];
    for ((mode, secret), (mode2, secret2), both) in cases {
        let mut w = World::declared();
        w.put("Remote", REMOTE, remote("team-a.shop", mode, secret));
        w.put("Remote", "shop/second", remote("team-a.other", mode2, secret2));
        let at = "2026-11-21T08:00:01Z";
        let younger = w.objects.remotes.get_mut("shop/second").expect("it was put");
        younger.metadata.creation_timestamp = serde_json::from_value(json!(at)).expect("a time");
        w.settle();
        let case = format!("{mode} {secret:?}, then {mode2} {secret2:?}");
        assert_eq!(is(&w.remote(REMOTE), "Accepted"), "True/Accepted", "{case}");
        let second = w.remote("shop/second");
        if both {
            assert_eq!(is(&second, "Accepted"), "True/Accepted", "{case}");
        } else {
            assert_eq!(is(&second, "Ready"), "False/Conflicted", "{case}");
            let why = message(&second, "Ready");
            let theirs = secret.map_or_else(|| "none".to_owned(), |s| format!("Secret {s}"));
            assert!(why.contains(REMOTE) && why.contains(&theirs), "{case}: {why}");
        }
    }
}
