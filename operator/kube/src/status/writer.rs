//! The one writer of status: server-side apply, at a bounded rate, beside everything else. What is wrong with thousands of
//! objects at once must hold up no snapshot, and must not take the API server from everybody else.

use super::queue::{Due, Key, Kind, Outcome, Queue};
use super::{IsLeft, Told, compare, difference, forget};
use crate::health::Health;
use crate::lease::Tenure;
use crate::{CALL, MANAGER};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client, Resource};
use mew_crds::{FederationPolicy, Remote, Sync, SyncStatus};
use mew_plan::{Objects, Plan};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// From one object to the next: a hundred in a second, each with an event at most. 10,000 objects that change at once are told
/// in less than two minutes, and an API server that does thousands of requests a second hardly notices.
const PACE: Duration = Duration::from_millis(10);
/// Objects at once, so that one slow answer does not stop the others.
const PARALLEL: usize = 8;
/// Until it is looked again whether the lease was renewed, or the term ended.
const LAPSED: Duration = Duration::from_millis(100);

/// What the planner wants written, and the writer has not written yet.
#[derive(Default)]
pub struct Outbox {
    queue: Mutex<Queue<Told>>,
    rung: Notify,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Queue<Told>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a plan says of one Sync.
    pub fn sync(&self, name: &str, object: Option<&Sync>, new: &SyncStatus, is_left: IsLeft<'_>) {
        difference(&mut self.lock(), name, object, new, is_left, false, Instant::now());
    }

    /// What a plan says of everything else; how much waits.
    pub fn update(&self, plan: &Plan, objects: &Objects, is_left: IsLeft<'_>) -> usize {
        let mut q = self.lock();
        forget(&mut q, objects, is_left);
        compare(&mut q, plan, objects, is_left, Instant::now());
        self.rung.notify_one();
        q.len()
    }

    async fn due(&self) {
        loop {
            // The queue must not be locked while this waits.
            let due = self.lock().due(Instant::now());
            match due {
                Due::Now => return,
                Due::At(at) => tokio::select! {
                    () = sleep_until(at.into()) => {}
                    () = self.rung.notified() => {}
                },
                Due::Never => self.rung.notified().await,
            }
        }
    }
}

pub struct Writer {
    client: Client,
    recorder: Recorder,
    health: Health,
    tenure: Tenure,
    outbox: Arc<Outbox>,
}

impl Writer {
    pub fn new(client: Client, health: Health, identity: &str, tenure: Tenure, outbox: Arc<Outbox>) -> Self {
        let reporter = Reporter { controller: MANAGER.into(), instance: Some(identity.to_owned()) };
        Writer { recorder: Recorder::new(client.clone(), reporter), client, health, tenure, outbox }
    }

    /// Writes until `stop`. What is on its way then is given up, and nothing is sent after it.
    pub async fn run(self, stop: CancellationToken) {
        let mut pace = interval(PACE);
        // What could not be written in time is not made up for by a burst.
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut writing: FuturesUnordered<BoxFuture<'_, (Key, Result<Outcome, String>)>> = FuturesUnordered::new();
        let mut fails = false;
        let w = &self;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some((key, result)) = writing.next(), if !writing.is_empty() => w.done(&key, result, &mut fails),
                () = w.turn(&mut pace), if writing.len() < PARALLEL => {
                    // Another replica may lead by now; it is decided elsewhere whether this term is over.
                    if !w.tenure.holds() {
                        sleep(LAPSED).await;
                        continue;
                    }
                    let next = w.outbox.lock().next(Instant::now());
                    if let Some((key, change)) = next {
                        writing.push(Box::pin(async move {
                            let result = w.apply(&key, &change.status).await;
                            if let (Ok(Outcome::Written), Some(told)) = (&result, &change.event) {
                                w.tell(told).await;
                            }
                            (key, result)
                        }));
                    }
                }
            }
        }
        w.health.set_queue(0);
    }

    /// Until there is something to write, and it may be written.
    async fn turn(&self, pace: &mut Interval) {
        self.outbox.due().await;
        pace.tick().await;
    }

    fn done(&self, key: &Key, result: Result<Outcome, String>, fails: &mut bool) {
        let outcome = match result {
            Ok(outcome) => {
                *fails = false;
                outcome
            }
            Err(why) => {
                self.health.count_write_error();
                // The first of a row: they fail together.
                if !*fails {
                    tracing::warn!(kind = ?key.0, name = %key.1, error = %why, "a status cannot be written; it is tried again");
                }
                *fails = true;
                Outcome::Failed
            }
        };
        if outcome == Outcome::Written {
            self.health.count_write();
        }
        let mut q = self.outbox.lock();
        q.done(key, outcome, Instant::now());
        self.health.set_queue(q.len());
    }

    async fn apply(&self, key: &Key, status: &str) -> Result<Outcome, String> {
        match key.0 {
            Kind::Remote => self.patch::<Remote>(&key.1, status).await,
            Kind::Sync => self.patch::<Sync>(&key.1, status).await,
            Kind::Policy => self.patch::<FederationPolicy>(&key.1, status).await,
        }
    }

    async fn patch<K>(&self, name: &str, status: &str) -> Result<Outcome, String>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let status: Value = serde_json::from_str(status).map_err(|e| e.to_string())?;
        let (ns, name) = name.split_once('/').unwrap_or(("", name));
        let api: Api<K> = Api::namespaced(self.client.clone(), ns);
        let body = json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": name}, "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        match timeout(CALL, api.patch_status(name, &params, &Patch::Apply(&body))).await {
            Ok(Ok(_)) => Ok(Outcome::Written),
            // Deleted meanwhile: there is nothing to write.
            Ok(Err(kube::Error::Api(s))) if s.is_not_found() => Ok(Outcome::Gone),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    /// Nobody depends on an event: one that is not taken is not repeated.
    async fn tell(&self, (about, event): &Told) {
        match timeout(CALL, self.recorder.publish(event, about)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::debug!(error = %e, "event"),
            Err(_) => tracing::debug!("an event was not taken in time"),
        }
    }
}
