//! The one writer of status: server-side apply, only on change; and events when Ready changes.

use crate::health::Health;
use crate::{CALL, MANAGER};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use mew_crds::{Condition, FederationPolicy, Remote, Sync};
use mew_plan::{Objects, Plan};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use tokio::time::timeout;

/// Writes at once.
const PARALLEL: usize = 8;

/// What was last written, so that a watch that lags behind does not cause a second write.
pub struct StatusWriter {
    client: Client,
    recorder: Recorder,
    health: Health,
    written: BTreeMap<(&'static str, String), Value>,
}

struct Write {
    kind: &'static str,
    name: String,
    status: Value,
    event: Option<(ObjectReference, Event)>,
}

impl StatusWriter {
    pub fn new(client: Client, health: Health, identity: &str) -> Self {
        let reporter = Reporter { controller: MANAGER.into(), instance: Some(identity.to_owned()) };
        StatusWriter { recorder: Recorder::new(client.clone(), reporter), client, health, written: BTreeMap::new() }
    }

    /// Writes what differs from what is there, but for objects (kind and name) that are in force and gone.
    pub async fn write(&mut self, plan: &Plan, objects: &Objects, gone: &BTreeSet<(&'static str, String)>) {
        let Objects { remotes, syncs, policies, .. } = objects;
        let mut todo = Vec::new();
        self.differences("Remote", remotes, &plan.remotes, |o| o.status.as_ref(), |s| &s.conditions, &mut todo);
        self.differences("Sync", syncs, &plan.syncs, |o| o.status.as_ref(), |s| &s.conditions, &mut todo);
        self.differences(
            "FederationPolicy",
            policies,
            &plan.policies,
            |o| o.status.as_ref(),
            |s| &s.conditions,
            &mut todo,
        );
        todo.retain(|w| !gone.contains(&(w.kind, w.name.clone())));
        self.written.retain(|(k, n), _| match *k {
            k if gone.contains(&(k, n.clone())) => false,
            "Remote" => remotes.contains_key(n),
            "Sync" => syncs.contains_key(n),
            _ => policies.contains_key(n),
        });
        let client = self.client.clone();
        let done: Vec<(Write, bool)> = futures::stream::iter(todo)
            .map(|w| {
                let client = client.clone();
                async move {
                    let ok = apply(&client, &w).await;
                    (w, ok)
                }
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        for (w, ok) in done {
            if !ok {
                continue; // planned again at the next tick
            }
            self.health.count_write();
            if let Some((about, event)) = &w.event {
                match timeout(CALL, self.recorder.publish(event, about)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(e)) => tracing::debug!(error = %e, "event"),
                    Err(_) => tracing::debug!("an event was not taken in time"),
                }
            }
            self.written.insert((w.kind, w.name), w.status);
        }
    }

    fn differences<K, S>(
        &mut self,
        kind: &'static str,
        objects: &BTreeMap<String, K>,
        planned: &BTreeMap<String, S>,
        status: impl Fn(&K) -> Option<&S>,
        conditions: impl Fn(&S) -> &Vec<Condition>,
        todo: &mut Vec<Write>,
    ) where
        K: Resource<DynamicType = ()>,
        S: Serialize + PartialEq,
    {
        for (name, new) in planned {
            let Some(o) = objects.get(name) else { continue };
            let old = status(o);
            if old == Some(new) {
                // The watch has caught up: whatever changes it later is somebody else's doing, and is repaired.
                self.written.remove(&(kind, name.clone()));
                continue;
            }
            let Ok(value) = serde_json::to_value(new) else { continue };
            if self.written.get(&(kind, name.clone())) == Some(&value) {
                continue;
            }
            let ready = |s: &S| conditions(s).iter().find(|c| c.type_ == "Ready").cloned();
            let before = old.and_then(&ready);
            let event =
                ready(new).filter(|c| before.as_ref().is_none_or(|b| (&b.status, &b.reason) != (&c.status, &c.reason)));
            let event = event.map(|c| (o.object_ref(&()), to_event(&c)));
            todo.push(Write { kind, name: name.clone(), status: value, event });
        }
    }
}

fn to_event(c: &Condition) -> Event {
    Event {
        type_: if c.status == "False" { EventType::Warning } else { EventType::Normal },
        reason: c.reason.clone(),
        note: Some(if c.message.is_empty() { format!("Ready is {}", c.status) } else { c.message.clone() }),
        action: format!("Ready{}", c.status),
        secondary: None,
    }
}

async fn apply(client: &Client, w: &Write) -> bool {
    match w.kind {
        "Remote" => patch::<Remote>(client, w).await,
        "Sync" => patch::<Sync>(client, w).await,
        _ => patch::<FederationPolicy>(client, w).await,
    }
}

async fn patch<K>(client: &Client, w: &Write) -> bool
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let (ns, name) = w.name.split_once('/').unwrap_or(("", &w.name));
    let api: Api<K> = Api::namespaced(client.clone(), ns);
    let body = json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": name}, "status": w.status});
    match timeout(CALL, api.patch_status(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body))).await {
        Ok(Ok(_)) => true,
        // Deleted meanwhile: there is nothing to write.
        Ok(Err(kube::Error::Api(s))) if s.is_not_found() => false,
        Ok(Err(e)) => {
            tracing::warn!(kind = w.kind, name = %w.name, error = %e, "status");
            false
        }
        Err(_) => false,
    }
}
