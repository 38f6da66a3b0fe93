//! Leading: watch, dereference, plan, deliver, write status; and stopping all of it when the lease is lost.

use crate::health::Health;
use crate::lease::{Elector, GIVE_UP, Held, RENEW};
use crate::status::StatusWriter;
use crate::watches::{Declared, watch};
use crate::{CALL, OperatorOptions, now_ms};
use anyhow::Result;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use mew_control::{Authorities, Registry};
use mew_plan::{Inputs, Objects, plan};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Changes that come close together are planned together.
const GATHER: Duration = Duration::from_millis(50);
/// Silence of agents and the end of a grace period are noticed without an event.
const LOOK: Duration = Duration::from_secs(1);
/// Bundles that Remotes refer to are read again this often: they are few, and reading needs no watch on all ConfigMaps.
const BUNDLES: Duration = Duration::from_secs(3);

pub async fn run(
    client: Client,
    o: OperatorOptions,
    cas: watch::Receiver<Arc<Authorities>>,
    registry: Arc<Registry>,
    health: Health,
    mut elector: Elector,
    stop: CancellationToken,
) -> Result<()> {
    let mut term: Option<(CancellationToken, tokio::task::JoinHandle<()>)> = None;
    let mut renewed = Instant::now();
    loop {
        let began = Instant::now();
        // While leading, an answer that comes after the time to give up is none.
        let limit = if term.is_some() { GIVE_UP.saturating_sub(renewed.elapsed()) } else { 2 * CALL };
        let held = tokio::time::timeout(limit, elector.try_hold()).await;
        match held.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time"))) {
            Ok(Held::Mine) => {
                renewed = began;
                if term.as_ref().is_some_and(|(_, task)| task.is_finished()) {
                    resign(&mut term, &registry).await;
                }
                if term.is_none() {
                    tracing::info!(identity = %o.identity, "leading");
                    let token = stop.child_token();
                    let task = tokio::spawn(lead(
                        client.clone(),
                        o.clone(),
                        cas.clone(),
                        registry.clone(),
                        health.clone(),
                        token.clone(),
                    ));
                    term = Some((token, task));
                }
                health.set_leader(true, Some(o.identity.clone()));
            }
            Ok(Held::Other(who)) => {
                health.set_leader(false, Some(who));
                resign(&mut term, &registry).await;
            }
            Err(e) => {
                tracing::warn!("the lease: {e:#}");
                if renewed.elapsed() >= GIVE_UP {
                    health.set_leader(false, None);
                    resign(&mut term, &registry).await;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(RENEW) => {}
        }
    }
    resign(&mut term, &registry).await;
    elector.release().await;
    Ok(())
}

async fn resign(term: &mut Option<(CancellationToken, tokio::task::JoinHandle<()>)>, registry: &Registry) {
    if let Some((token, task)) = term.take() {
        // Agents look for the new leader, and what they said here is not taken for news in a later term.
        registry.end();
        tracing::info!("no longer leading");
        token.cancel();
        let _ = task.await;
        // What it delivered meanwhile must not be the first that agents get in a later term.
        registry.end();
    }
}

async fn lead(
    client: Client,
    o: OperatorOptions,
    cas: watch::Receiver<Arc<Authorities>>,
    registry: Arc<Registry>,
    health: Health,
    stop: CancellationToken,
) {
    let declared = Arc::new(Declared::new(&o.watched));
    let watching = tokio::spawn(watch(client.clone(), o.watched.clone(), declared.clone()));
    let mut writer = StatusWriter::new(client.clone(), health.clone(), &o.identity);
    let mut bundles = Bundles { client: client.clone(), known: BTreeMap::new(), read: None };
    let since_ms = now_ms();
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => {}
            () = declared.changed.notified() => tokio::time::sleep(GATHER).await,
            () = registry.changed.notified() => tokio::time::sleep(GATHER).await,
        }
        declared.expire();
        let mut without_status = BTreeSet::new();
        let mut objects = {
            let s = declared.lock();
            if !(s.remotes.ready() && s.syncs.ready() && s.policies.ready()) {
                continue; // half a list would look like deletions
            }
            let orphans = |kind, all: &BTreeMap<String, _>| all.keys().map(|n| (kind, n.clone())).collect::<Vec<_>>();
            without_status.extend(orphans("Remote", &s.remotes.orphans));
            without_status.extend(orphans("Sync", &s.syncs.orphans));
            without_status.extend(orphans("FederationPolicy", &s.policies.orphans));
            Objects {
                remotes: s.remotes.objects.clone(),
                syncs: s.syncs.objects.clone(),
                policies: s.policies.objects.clone(),
                bundles: BTreeMap::new(),
                unreadable: s
                    .policies
                    .broken
                    .keys()
                    .filter(|n| !s.policies.objects.contains_key(*n))
                    .cloned()
                    .collect(),
            }
        };
        // It takes as long as the API server lets it, and what is planned after this term must not be delivered.
        objects.bundles = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            known = bundles.of(&objects) => known,
        };
        let (agents, own_roots) = (registry.states(), cas.borrow().roots());
        let p = plan(&Inputs {
            trust_domain: &o.trust_domain,
            own_roots: &own_roots,
            objects: &objects,
            agents: &agents,
            now_ms: now_ms(),
            since_ms,
        });
        registry.deliver(&p.snapshots, now_ms());
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = writer.write(&p, &objects, &without_status) => {}
        }
        health.count_plan();
    }
    watching.abort();
}

/// The ConfigMaps that Remotes refer to.
struct Bundles {
    client: Client,
    known: BTreeMap<String, BTreeMap<String, String>>,
    read: Option<Instant>,
}

impl Bundles {
    async fn of(&mut self, objects: &Objects) -> BTreeMap<String, BTreeMap<String, String>> {
        let wanted: BTreeSet<String> = objects
            .remotes
            .iter()
            .flat_map(|(n, r)| {
                let ns = mew_plan::namespace_of(n).to_owned();
                r.spec.peer.trust_bundle_refs.iter().map(move |b| format!("{ns}/{}", b.name))
            })
            .collect();
        self.known.retain(|n, _| wanted.contains(n));
        let due = self.read.is_none_or(|t| t.elapsed() >= BUNDLES);
        for name in &wanted {
            if !due && self.known.contains_key(name) {
                continue;
            }
            let (ns, n) = name.split_once('/').unwrap_or(("", name));
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), ns);
            match tokio::time::timeout(CALL, api.get_opt(n)).await {
                Ok(Ok(Some(c))) => drop(self.known.insert(name.clone(), c.data.unwrap_or_default())),
                Ok(Ok(None)) => drop(self.known.remove(name)),
                // Not known is not gone.
                Ok(Err(e)) => tracing::warn!(%name, error = %e, "a trust bundle cannot be read"),
                Err(_) => tracing::warn!(%name, "a trust bundle was not read in time"),
            }
        }
        if due {
            self.read = Some(Instant::now());
        }
        self.known.clone()
    }
}
