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
use mew_plan::{KernelName, Objects, Plan, kernel_of};
use queue::{Change, Queue, Rank};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// The API server takes no longer note in an event.
const NOTE: usize = 1024;

/// An event, and the object that it is about.
type Told = (ObjectReference, Event);

/// Names the objects whose status is left as it is.
pub type IsLeft<'a> = &'a dyn Fn(Kind, &str) -> bool;

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

/// Forgets what waits for objects that are gone, or that not enough is known of.
fn forget(q: &mut Queue<Told>, objects: &Objects, is_left: IsLeft<'_>) {
    let Objects { remotes, syncs, policies, .. } = objects;
    q.retain(|(kind, name)| {
        let exists = match kind {
            Kind::Remote => remotes.contains_key(name),
            Kind::Sync => syncs.contains_key(name),
            Kind::Policy => policies.contains_key(name),
        };
        exists && !is_left(*kind, name)
    });
}

/// Brings the queue up to date with what is planned of Remotes and policies. Objects that are in force and gone, or that not
/// enough is known of, are left alone.
fn compare(q: &mut Queue<Told>, plan: &Plan, objects: &Objects, is_left: IsLeft<'_>, now: Instant) {
    let tellers = tellers(plan, objects, is_left);
    for (name, new) in &plan.remotes {
        difference(q, name, objects.remotes.get(name), new, is_left, tellers.contains(name.as_str()), now);
    }
    for (name, new) in &plan.policies {
        difference(q, name, objects.policies.get(name), new, is_left, false, now);
    }
}

/// Of the Remotes of a kernel that somebody else wants, the one whose event says so: the others would only repeat it. Who is
/// refused asks again, after a pause or of another leader too; then the last error is still there, and it was told.
fn tellers<'a>(plan: &'a Plan, objects: &Objects, is_left: IsLeft<'_>) -> BTreeSet<&'a str> {
    let mut first: BTreeMap<KernelName, (&str, bool)> = BTreeMap::new();
    for (name, s) in &plan.remotes {
        if let Some(c) = find(&s.conditions, Reason::KernelClaimed.code())
            && !is_left(Kind::Remote, name)
            && let Some(r) = objects.remotes.get(name)
        {
            let last = r.status.as_ref().and_then(|s| s.last_error.as_ref());
            let is_told = last.is_some_and(|e| e.reason == c.reason && e.message == c.message);
            first.entry(kernel_of(name, r)).or_insert((name.as_str(), is_told));
        }
    }
    first.into_values().filter(|(_, is_told)| !is_told).map(|(name, _)| name).collect()
}

fn difference<K: Shows>(
    q: &mut Queue<Told>,
    name: &str,
    object: Option<&K>,
    new: &K::Status,
    is_left: IsLeft<'_>,
    tells_of_claims: bool,
    now: Instant,
) {
    let Some(o) = object.filter(|_| !is_left(K::KIND, name)) else { return };
    let key = (K::KIND, name.to_owned());
    let old = o.status();
    if old == Some(new) {
        return q.settled(&key);
    }
    let Ok(status) = serde_json::to_string(new) else { return };
    let (before, after) = (old.map(K::conditions).unwrap_or_default(), K::conditions(new));
    let event = news(before, after, tells_of_claims).map(|e| (o.object_ref(&()), e));
    q.put(key, Change { rank: rank(K::KIND, before, after), status, event }, now);
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
fn news(before: &[Condition], after: &[Condition], tells_of_claims: bool) -> Option<Event> {
    let differs =
        |c: &&Condition| find(before, &c.type_).is_none_or(|b| (&b.status, &b.reason) != (&c.status, &c.reason));
    let ready = find(after, "Ready").filter(differs);
    // Its message says who was refused.
    let is_another = |c: &&Condition| find(before, &c.type_).is_none_or(|b| b.message != c.message);
    let claimed = || find(after, Reason::KernelClaimed.code()).filter(|c| tells_of_claims && is_another(c));
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
        let told = |before: &[Condition], after: &[Condition]| news(before, after, true).map(|e| (e.type_, e.reason));
        assert_eq!(told(&up, &up), None);
        assert_eq!(told(&[], &up), Some((EventType::Normal, "Connected".into())));
        assert_eq!(told(&up, &down), Some((EventType::Warning, "Unreachable".into())));
        assert_eq!(told(&up, &claimed), Some((EventType::Warning, "KernelClaimed".into())));
        assert_eq!(told(&claimed, &claimed), None);
        assert_eq!(told(&claimed, &up), None);
        assert!(news(&up, &claimed, false).is_none(), "another Remote tells it");
        let mut next = claimed.clone();
        next[1].message = "somebody else was refused".into();
        assert_eq!(told(&claimed, &next), Some((EventType::Warning, "KernelClaimed".into())));
    }

    #[test]
    fn one_remote_of_a_kernel_tells_of_a_refused_claim() {
        let remote = |kernel: &str, error: Option<&str>| -> Remote {
            let error = error.map(|m| json!({"reason": "KernelClaimed", "message": m}));
            serde_json::from_value(json!({
                "apiVersion": "federation.mew.dev/v1alpha1", "kind": "Remote", "metadata": {"name": "peer"},
                "spec": {
                    "kernelRef": {"name": kernel}, "uri": "mew://127.0.0.1:9/shop.peer", "peer": {"trustDomain": "a.example"},
                },
                "status": {"conditions": [], "lastError": error},
            }))
            .expect("a Remote")
        };
        let claimed = conditions(&[("KernelClaimed", "True", "KernelClaimed")]);
        let status = RemoteStatus { conditions: claimed, ..RemoteStatus::default() };
        let all = [
            ("shop/a", remote("till", None), true),
            ("shop/b", remote("till", None), true),
            ("shop/c", remote("till", None), false),
            // The same name in another namespace is another kernel.
            ("store/a", remote("till", Some("somebody else")), true),
            // Told already, by the first of them.
            ("shop/d", remote("stock", Some("m")), true),
            ("shop/e", remote("stock", None), true),
        ];
        let (mut plan, mut objects) = (Plan::default(), Objects::default());
        for (name, r, is_claimed) in all {
            let status = if is_claimed { status.clone() } else { RemoteStatus::default() };
            plan.remotes.insert(name.into(), status);
            objects.remotes.insert(name.into(), r);
        }
        let tell = |is_left: &dyn Fn(Kind, &str) -> bool| -> Vec<String> {
            tellers(&plan, &objects, is_left).into_iter().map(str::to_owned).collect()
        };
        assert_eq!(tell(&|_, _| false), ["shop/a", "store/a"]);
        assert_eq!(tell(&|_, name| name == "shop/a"), ["shop/b", "store/a"]);
    }

    #[test]
    fn a_note_is_no_longer_than_it_may_be() {
        assert_eq!(cut("short"), "short");
        let long = cut(&"ä".repeat(NOTE));
        assert!(long.len() <= NOTE && long.len() > NOTE - 8 && long.ends_with('…'), "{}", long.len());
    }
}
