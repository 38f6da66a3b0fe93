//! What is declared, as the watches see it. *Empty is not deleted*: a set shrinks only by a delete event or after a
//! complete list, an object that cannot be decoded keeps its last good version, and objects that go because their
//! CustomResourceDefinition does stay in force.

use crate::CALL;
use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use mew_crds::{FederationPolicy, GROUP, Remote, Sync, VERSION};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::timeout;

/// What is kept of objects that went with their CustomResourceDefinition, from when that is back.
const GRACE: Duration = Duration::from_secs(600);

/// The API server ends a watch after this, and a dead connection is noticed 30 seconds later at the latest: a withdrawal must
/// not wait behind one for minutes.
const WATCH_SECONDS: u32 = 60;

/// All kinds, and a bell that rings when something changed.
pub struct Declared {
    sets: Mutex<Sets>,
    pub changed: Notify,
}

pub struct Sets {
    pub remotes: Set<Remote>,
    pub syncs: Set<Sync>,
    pub policies: Set<FederationPolicy>,
}

pub struct Set<K> {
    pub objects: BTreeMap<String, K>,
    /// Objects that do not decode: name → why.
    pub broken: BTreeMap<String, String>,
    /// Those of `objects` that went with their CustomResourceDefinition, and since when that is back. Nobody has withdrawn
    /// what they say, so it stays in force; there is no object to write a status to.
    pub orphans: BTreeMap<String, Option<Instant>>,
    /// First lists that are not complete: one of each namespace that is watched.
    due: usize,
}

impl<K> Set<K> {
    fn new(due: usize) -> Self {
        Set { objects: BTreeMap::new(), broken: BTreeMap::new(), orphans: BTreeMap::new(), due }
    }

    /// The first lists are complete.
    pub fn ready(&self) -> bool {
        self.due == 0
    }

    fn remove(&mut self, name: &str) {
        self.objects.remove(name);
        self.broken.remove(name);
        self.orphans.remove(name);
    }

    /// Those whose time is over.
    fn expire(&mut self, now: Instant) {
        let is_over = |back: &Option<Instant>| back.is_some_and(|t| now.duration_since(t) >= GRACE);
        let over: Vec<String> = self.orphans.iter().filter(|(_, b)| is_over(b)).map(|(n, _)| n.clone()).collect();
        for name in over {
            tracing::warn!(%name, "it went with its CustomResourceDefinition and was not applied again");
            self.remove(&name);
        }
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
        self.orphans.remove(&name);
        name
    }

    /// Of the watch's namespace, or of all, as its key begins. What is missing is orphaned if its CustomResourceDefinition
    /// took it away; `back` is when that came back, if it has.
    fn listed(
        &mut self,
        prefix: &str,
        listed: &BTreeSet<String>,
        is_first: bool,
        is_orphaned: bool,
        back: Option<Instant>,
    ) {
        let here = |n: &String| n.starts_with(prefix) && !listed.contains(n);
        let missing: Vec<String> = self.objects.keys().chain(self.broken.keys()).filter(|n| here(n)).cloned().collect();
        for name in missing {
            if is_orphaned || self.orphans.contains_key(&name) {
                let since = self.orphans.entry(name).or_default();
                *since = since.or(back);
            } else {
                self.remove(&name);
            }
        }
        self.due -= usize::from(is_first && self.due > 0);
    }
}

impl Declared {
    /// Of these namespaces; of all if there are none.
    pub fn new(namespaces: &[String]) -> Self {
        let due = namespaces.len().max(1);
        let sets = Sets { remotes: Set::new(due), syncs: Set::new(due), policies: Set::new(due) };
        Declared { sets: Mutex::new(sets), changed: Notify::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, Sets> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn expire(&self) {
        let (mut s, now) = (self.lock(), Instant::now());
        s.remotes.expire(now);
        s.syncs.expire(now);
        s.policies.expire(now);
    }
}

/// Watches all kinds; ends with the task that polls it.
pub async fn watch(client: Client, namespaces: Vec<String>, declared: Arc<Declared>) {
    let all = if namespaces.is_empty() { vec![None] } else { namespaces.into_iter().map(Some).collect() };
    let watches = all.into_iter().map(|ns| {
        let (client, declared) = (client.clone(), declared.clone());
        async move {
            tokio::join!(
                one(&client, ns.as_deref(), "Remote", "remotes", &declared, |s| &mut s.remotes),
                one(&client, ns.as_deref(), "Sync", "syncs", &declared, |s| &mut s.syncs),
                one(&client, ns.as_deref(), "FederationPolicy", "federationpolicies", &declared, |s| &mut s.policies),
            );
        }
    });
    futures::future::join_all(watches).await;
}

/// What has become of a CustomResourceDefinition: when it goes, the API server deletes all its objects one by one.
#[derive(PartialEq, Eq)]
enum Crd {
    /// With its uid.
    Here(String),
    Gone,
    Unknown,
}

async fn crd(client: &Client, name: &str) -> Crd {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    match timeout(CALL, api.get_metadata_opt(name)).await {
        Ok(Ok(Some(c))) if c.metadata.deletion_timestamp.is_none() => Crd::Here(c.metadata.uid.unwrap_or_default()),
        Ok(Ok(_)) => Crd::Gone,
        Ok(Err(e)) => {
            tracing::warn!(name, error = %e, "the CustomResourceDefinition cannot be read");
            Crd::Unknown
        }
        Err(_) => Crd::Unknown,
    }
}

async fn one<K: DeserializeOwned>(
    client: &Client,
    namespace: Option<&str>,
    kind: &str,
    plural: &str,
    declared: &Declared,
    set: impl Fn(&mut Sets) -> &mut Set<K>,
) {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, kind), plural);
    let api: Api<DynamicObject> = match namespace {
        Some(ns) => Api::namespaced_with(client.clone(), ns, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let prefix = namespace.map_or_else(String::new, |ns| format!("{ns}/"));
    let definition = format!("{plural}.{GROUP}");
    let mut listed = BTreeSet::new();
    // The definition under which the last list was complete, if it could be read.
    let mut under: Option<String> = None;
    let mut is_first = true;
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    while let Some(e) = events.next().await {
        let whole = match e {
            Ok(Event::Apply(o)) => {
                set(&mut declared.lock()).put(&o);
                true
            }
            Ok(Event::Delete(o)) => {
                let name = format!("{}/{}", o.namespace().unwrap_or_default(), o.name_any());
                let now = crd(client, &definition).await;
                let withdrawn = match (&now, &under) {
                    (Crd::Here(uid), Some(under)) => uid == under,
                    (Crd::Gone, _) => false,
                    _ => true,
                };
                let mut sets = declared.lock();
                if withdrawn {
                    set(&mut sets).remove(&name);
                } else if set(&mut sets).objects.contains_key(&name) {
                    tracing::error!(%name, "its CustomResourceDefinition is gone; what it declares stays in force");
                    set(&mut sets).orphans.insert(name, None);
                }
                true
            }
            Ok(Event::Init) => {
                listed.clear();
                false
            }
            Ok(Event::InitApply(o)) => {
                listed.insert(set(&mut declared.lock()).put(&o));
                false
            }
            Ok(Event::InitDone) => {
                let now = crd(client, &definition).await;
                // While it goes, lists are complete and shrink.
                let is_gone = now == Crd::Gone;
                let is_new = matches!((&now, &under), (Crd::Here(uid), Some(under)) if uid != under);
                if let Crd::Here(uid) = now {
                    under = Some(uid);
                }
                let back = (!is_gone).then(Instant::now);
                set(&mut declared.lock()).listed(&prefix, &listed, is_first, is_gone || is_new, back);
                is_first = false;
                true
            }
            // What is known stays; the watch is made again.
            Err(e) => {
                tracing::warn!(kind, error = %e, "watch");
                false
            }
        };
        if whole {
            declared.changed.notify_one();
        }
    }
}
