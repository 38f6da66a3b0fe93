//! Which statuses have to be written, and what is said about it: only what differs from what is there.

mod queue;
mod writer;

pub use queue::Kind;
pub use writer::{Outbox, Writer};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kube::core::NamespaceResourceScope;
use kube::runtime::events::{Event, EventType};
use mew_contract::Reason;
use mew_crds::{Condition, FederationPolicy, FederationPolicyStatus, Remote, RemoteStatus, Sync, SyncStatus};
use mew_plan::{Objects, Plan};
use queue::{Change, Queue, Rank};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// The API server takes no longer note in an event.
const NOTE: usize = 1024;

/// An event, and the object that it is about.
type Told = (ObjectReference, Event);

/// A kind with a status.
trait Shows: Resource<DynamicType = (), Scope = NamespaceResourceScope> {
    const KIND: Kind;
    type Status: Serialize + PartialEq;
    fn status(&self) -> Option<&Self::Status>;
    fn conditions(s: &Self::Status) -> &[Condition];
}

macro_rules! shows {
    ($($kind:ident: $object:ty, $status:ty;)*) => {
        $(impl Shows for $object {
            const KIND: Kind = Kind::$kind;
            type Status = $status;
            fn status(&self) -> Option<&$status> {
                self.status.as_ref()
            }
            fn conditions(s: &$status) -> &[Condition] {
                &s.conditions
            }
        })*
    };
}

shows! {
    Remote: Remote, RemoteStatus;
    Sync: Sync, SyncStatus;
    Policy: FederationPolicy, FederationPolicyStatus;
}

/// Brings the queue up to date with a plan. Objects that are in force and gone, or that not enough is known of, are left alone.
fn compare(q: &mut Queue<Told>, plan: &Plan, objects: &Objects, is_left: &dyn Fn(Kind, &str) -> bool, now: Instant) {
    let Objects { remotes, syncs, policies, .. } = objects;
    q.retain(|(kind, name)| {
        let exists = match kind {
            Kind::Remote => remotes.contains_key(name),
            Kind::Sync => syncs.contains_key(name),
            Kind::Policy => policies.contains_key(name),
        };
        exists && !is_left(*kind, name)
    });
    differences(q, remotes, &plan.remotes, is_left, now);
    differences(q, syncs, &plan.syncs, is_left, now);
    differences(q, policies, &plan.policies, is_left, now);
}

fn differences<K: Shows>(
    q: &mut Queue<Told>,
    objects: &BTreeMap<String, K>,
    planned: &BTreeMap<String, K::Status>,
    is_left: &dyn Fn(Kind, &str) -> bool,
    now: Instant,
) {
    for (name, new) in planned {
        let Some(o) = objects.get(name).filter(|_| !is_left(K::KIND, name)) else { continue };
        let key = (K::KIND, name.clone());
        let old = o.status();
        if old == Some(new) {
            q.settled(&key);
            continue;
        }
        let Ok(status) = serde_json::to_string(new) else { continue };
        let (before, after) = (old.map(K::conditions).unwrap_or_default(), K::conditions(new));
        let event = news(before, after).map(|e| (o.object_ref(&()), e));
        q.put(key, Change { rank: rank(K::KIND, before, after), status, event }, now);
    }
}

fn find<'a>(all: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    all.iter().find(|c| c.type_ == kind)
}

fn rank(kind: Kind, before: &[Condition], after: &[Condition]) -> Rank {
    let level = |all: &[Condition]| match find(all, "Ready").map(|c| c.status.as_str()) {
        Some("True") => 2,
        Some("False") => 0,
        _ => 1,
    };
    match (kind, level(after) < level(before)) {
        (Kind::Remote, true) => Rank::RemoteWorse,
        (Kind::Remote, false) => Rank::Remote,
        (_, true) => Rank::Worse,
        (_, false) => Rank::Other,
    }
}

/// What is worth an event: another Ready, or somebody else who wants the kernel.
fn news(before: &[Condition], after: &[Condition]) -> Option<Event> {
    let differs =
        |c: &&Condition| find(before, &c.type_).is_none_or(|b| (&b.status, &b.reason) != (&c.status, &c.reason));
    let ready = find(after, "Ready").filter(differs);
    let claimed = || find(after, Reason::KernelClaimed.code()).filter(differs);
    ready.map(|c| to_event(c, c.status == "False")).or_else(|| claimed().map(|c| to_event(c, true)))
}

fn to_event(c: &Condition, is_bad: bool) -> Event {
    let note = if c.message.is_empty() { format!("{} is {}", c.type_, c.status) } else { cut(&c.message) };
    Event {
        type_: if is_bad { EventType::Warning } else { EventType::Normal },
        reason: c.reason.clone(),
        note: Some(note),
        action: format!("{}{}", c.type_, c.status),
        secondary: None,
    }
}

fn cut(message: &str) -> String {
    if message.len() <= NOTE {
        return message.to_owned();
    }
    let room = NOTE - '…'.len_utf8();
    let end = (0..=room).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
    format!("{}…", &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn conditions(all: &[(&str, &str, &str)]) -> Vec<Condition> {
        let one = |(kind, status, reason): &(&str, &str, &str)| {
            serde_json::from_value(json!({
                "type": kind, "status": status, "reason": reason, "message": "m",
                "lastTransitionTime": "2026-11-21T08:00:00Z",
            }))
            .expect("a condition")
        };
        all.iter().map(one).collect()
    }

    #[test]
    fn what_fails_comes_before_what_works_again() {
        let [up, down, unknown] = ["True", "False", "Unknown"].map(|s| conditions(&[("Ready", s, "R")]));
        for (before, after, worse) in [
            (&up, &down, true),
            (&up, &unknown, true),
            (&unknown, &down, true),
            (&down, &unknown, false),
            (&unknown, &up, false),
            (&down, &down, false),
            (&Vec::new(), &down, true),
            (&Vec::new(), &unknown, false),
        ] {
            let expected = if worse { (Rank::RemoteWorse, Rank::Worse) } else { (Rank::Remote, Rank::Other) };
            assert_eq!((rank(Kind::Remote, before, after), rank(Kind::Sync, before, after)), expected);
        }
    }

    #[test]
    fn an_event_tells_another_ready_and_a_refused_claim_once() {
        let up = conditions(&[("Ready", "True", "Connected")]);
        let down = conditions(&[("Ready", "False", "Unreachable")]);
        let claimed = conditions(&[("Ready", "True", "Connected"), ("KernelClaimed", "True", "KernelClaimed")]);
        let told = |before: &[Condition], after: &[Condition]| news(before, after).map(|e| (e.type_, e.reason));
        assert_eq!(told(&up, &up), None);
        assert_eq!(told(&[], &up), Some((EventType::Normal, "Connected".into())));
        assert_eq!(told(&up, &down), Some((EventType::Warning, "Unreachable".into())));
        assert_eq!(told(&up, &claimed), Some((EventType::Warning, "KernelClaimed".into())));
        assert_eq!(told(&claimed, &claimed), None);
        assert_eq!(told(&claimed, &up), None);
    }

    #[test]
    fn a_note_is_no_longer_than_it_may_be() {
        assert_eq!(cut("short"), "short");
        let long = cut(&"ä".repeat(NOTE));
        assert!(long.len() <= NOTE && long.len() > NOTE - 8 && long.ends_with('…'), "{}", long.len());
    }
}
