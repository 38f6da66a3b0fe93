//! What is declared, as the watches see it. *Empty is not deleted*: a set shrinks only by a delete event or after a
//! complete list, and an object that cannot be decoded keeps its last good version.

use futures::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use mew_crds::{FederationPolicy, GROUP, Remote, Sync, VERSION};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// All kinds, and a bell that rings when something changed.
#[derive(Default)]
pub struct Declared {
    sets: Mutex<Sets>,
    pub changed: Notify,
}

#[derive(Default)]
pub struct Sets {
    pub remotes: Set<Remote>,
    pub syncs: Set<Sync>,
    pub policies: Set<FederationPolicy>,
}

pub struct Set<K> {
    pub objects: BTreeMap<String, K>,
    /// Objects that do not decode: name → why.
    pub broken: BTreeMap<String, String>,
    /// The first list is complete.
    pub ready: bool,
    listing: Vec<String>,
}

impl<K> Default for Set<K> {
    fn default() -> Self {
        Set { objects: BTreeMap::new(), broken: BTreeMap::new(), ready: false, listing: Vec::new() }
    }
}

impl<K: DeserializeOwned> Set<K> {
    fn put(&mut self, o: &DynamicObject) -> String {
        let name = format!("{}/{}", o.namespace().unwrap_or_default(), o.name_any());
        let decoded = serde_json::to_value(o)
            .map_err(|e| e.to_string())
            .and_then(|v| serde_json::from_value::<K>(v).map_err(|e| e.to_string()));
        match decoded {
            Ok(k) => {
                self.broken.remove(&name);
                self.objects.insert(name.clone(), k);
            }
            Err(e) => {
                tracing::error!(%name, error = %e, "an object that cannot be decoded; its last good version stays in force");
                self.broken.insert(name.clone(), e);
            }
        }
        name
    }

    fn event(&mut self, e: Event<DynamicObject>) {
        match e {
            Event::Apply(o) => drop(self.put(&o)),
            Event::Delete(o) => {
                let name = format!("{}/{}", o.namespace().unwrap_or_default(), o.name_any());
                self.objects.remove(&name);
                self.broken.remove(&name);
            }
            Event::Init => self.listing.clear(),
            Event::InitApply(o) => {
                let name = self.put(&o);
                self.listing.push(name);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listing);
                self.objects.retain(|n, _| listed.contains(n));
                self.broken.retain(|n, _| listed.contains(n));
                self.ready = true;
            }
        }
    }
}

impl Declared {
    pub fn lock(&self) -> MutexGuard<'_, Sets> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches all kinds; ends with the task that polls it.
pub async fn watch(client: Client, declared: Arc<Declared>) {
    tokio::join!(
        one(client.clone(), "Remote", "remotes", declared.clone(), |s| &mut s.remotes),
        one(client.clone(), "Sync", "syncs", declared.clone(), |s| &mut s.syncs),
        one(client, "FederationPolicy", "federationpolicies", declared, |s| &mut s.policies),
    );
}

async fn one<K: DeserializeOwned>(
    client: Client,
    kind: &str,
    plural: &str,
    declared: Arc<Declared>,
    set: impl Fn(&mut Sets) -> &mut Set<K>,
) {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, kind), plural);
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    while let Some(e) = events.next().await {
        match e {
            Ok(e) => {
                let whole = matches!(e, Event::InitDone | Event::Apply(_) | Event::Delete(_));
                set(&mut declared.lock()).event(e);
                if whole {
                    declared.changed.notify_one();
                }
            }
            // What is known stays; the watch is made again.
            Err(e) => tracing::warn!(kind, error = %e, "watch"),
        }
    }
}
