//! The watches: what they see goes to the task that plans, in order. Whether something was withdrawn, or went with its
//! CustomResourceDefinition, is judged here.

use crate::declared::{Change, Listed, Of};
use crate::definitions::{Definition, Definitions};
use crate::doubt;
use futures::StreamExt;
use futures::future::join_all;
use jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use mew_crds::{GROUP, VERSION};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::mem::take;
use std::time::Instant;
use tokio::sync::mpsc::Sender;

/// The API server ends a watch after this, and a dead connection is noticed 30 seconds later at the latest: a withdrawal must
/// not wait behind one for minutes.
const WATCH_SECONDS: u32 = 60;
/// Objects of a list that come at once, and events that are looked at together: they are in memory as the API server sent
/// them, which is several times what is kept.
const PAGE: usize = 500;

/// A copy of the object, as `kubectl apply` had it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What all watches share.
struct Watches<'a> {
    client: &'a Client,
    /// When the first leader ever began.
    in_use: Option<Timestamp>,
    to: &'a Sender<Change>,
}

/// Watches all kinds in these namespaces, or in all if there are none; ends when nobody wants to know any more.
pub async fn watch(client: Client, namespaces: Vec<String>, in_use: Option<Timestamp>, to: Sender<Change>) {
    let w = &Watches { client: &client, in_use, to: &to };
    let definitions = ["remotes", "syncs", "federationpolicies"].map(|plural| Definitions::new(&client, plural));
    let [remotes, syncs, policies] = &definitions;
    let all = if namespaces.is_empty() { vec![None] } else { namespaces.into_iter().map(Some).collect() };
    let watches = all.into_iter().map(|ns| async move {
        let ns = ns.as_deref();
        tokio::join!(
            w.one(ns, "Remote", "remotes", remotes, Change::Remote),
            w.one(ns, "Sync", "syncs", syncs, Change::Sync),
            w.one(ns, "FederationPolicy", "federationpolicies", policies, Change::Policy),
        )
    });
    join_all(watches).await;
}

impl Watches<'_> {
    async fn one<K: DeserializeOwned>(
        &self,
        namespace: Option<&str>,
        kind: &str,
        plural: &str,
        definitions: &Definitions,
        change: impl Fn(Of<K>) -> Change,
    ) {
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, kind), plural);
        let api: Api<DynamicObject> = match namespace {
            Some(ns) => Api::namespaced_with(self.client.clone(), ns, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let prefix = namespace.map_or_else(String::new, |ns| format!("{ns}/"));
        let mut names = BTreeSet::new();
        // What the definition was when the last list was complete.
        let mut before: Option<Definition> = None;
        let mut is_first = true;
        let config = watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE as u32);
        let mut bursts = std::pin::pin!(watcher(api, config).default_backoff().ready_chunks(PAGE));
        while let Some(burst) = bursts.next().await {
            // Asked once, after all of these have come.
            let asks = |e: &Result<Event<_>, _>| matches!(e, Ok(Event::Delete(_) | Event::InitDone));
            let now = if burst.iter().any(asks) { Some(definitions.ask(Instant::now()).await) } else { None };
            for e in burst {
                let seen = match e {
                    Ok(Event::Apply(o)) => put(o),
                    Ok(Event::Delete(o)) => {
                        Of::Deleted { name: name(&o), withdrawn: is_withdrawn(now.as_ref(), before.as_ref()) }
                    }
                    Ok(Event::Init) => {
                        names.clear();
                        continue;
                    }
                    Ok(Event::InitApply(o)) => {
                        names.insert(name(&o));
                        put(o)
                    }
                    Ok(Event::InitDone) => {
                        // It was asked for because of this event.
                        let Some(now) = &now else { continue };
                        let l = Listed {
                            prefix: prefix.clone(),
                            names: take(&mut names),
                            is_first,
                            ..self.judge(now, before.as_ref())
                        };
                        before = Some(now.clone());
                        is_first = false;
                        Of::Listed(l)
                    }
                    // What is known stays; the watch is made again.
                    Err(e) => {
                        tracing::warn!(kind, error = %e, "watch");
                        continue;
                    }
                };
                if self.to.send(change(seen)).await.is_err() {
                    return;
                }
            }
        }
    }

    /// What a complete list means, by the definition as it is now and as it was at the list before.
    fn judge(&self, now: &Definition, before: Option<&Definition>) -> Listed {
        let instant = Instant::now();
        // While it goes, lists are complete and shrink.
        let is_orphaned = match (now, before) {
            (Definition::Gone, _) | (_, Some(Definition::Gone)) => true,
            (Definition::Here { uid, .. }, Some(Definition::Here { uid: was, .. })) => uid != was,
            (Definition::Here { .. }, None) => false,
        };
        Listed {
            prefix: String::new(),
            names: BTreeSet::new(),
            is_first: false,
            is_orphaned,
            back: (*now != Definition::Gone).then_some(instant),
            doubt: doubt::of_list(now, self.in_use, Timestamp::now(), instant),
        }
    }
}

/// Whether somebody deleted an object, and not the API server because its definition goes.
fn is_withdrawn(now: Option<&Definition>, before: Option<&Definition>) -> bool {
    matches!((now, before), (Some(Definition::Here { uid, .. }), Some(Definition::Here { uid: was, .. })) if uid == was)
}

fn name(o: &DynamicObject) -> String {
    format!("{}/{}", o.namespace().unwrap_or_default(), o.name_any())
}

fn put<K: DeserializeOwned>(mut o: DynamicObject) -> Of<K> {
    // Larger than the rest, and nothing is planned by them.
    o.metadata.managed_fields = None;
    if let Some(a) = &mut o.metadata.annotations {
        a.remove(LAST_APPLIED);
    }
    let name = name(&o);
    let object = serde_json::to_value(o).and_then(serde_json::from_value::<K>);
    Of::Put { name, object: object.map(Box::new).map_err(|e| e.to_string()) }
}
