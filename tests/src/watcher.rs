//! The judge: it watches what Syncs say of themselves, and compares that with what probes saw of the data. `Ready=True` while
//! a change is older than maxLag and has not arrived is a lie.

use crate::kstatus::condition;
use crate::kubectl::Kubectl;
use crate::process::Process;
use anyhow::Result;
use mew_crds::quantities::duration_ms;
use serde_json::{Deserializer, Value};
use std::io::BufReader;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// maxLag of a Sync that names none.
const MAX_LAG_MS: u64 = 60_000;
/// From the fact over the agent's report and the operator's write to this watch: 250 ms, 50 ms and a busy machine.
pub const GRACE_MS: u64 = 3_000;
/// The same, where an agent is gone: it counts as gone once it has been silent for so long.
pub const SILENCE_MS: u64 = mew_plan::SILENT_MS + GRACE_MS;
/// Before a watch that ended is begun again: the server, or the kind, was away.
const PAUSE: Duration = Duration::from_millis(250);

/// What a Sync said from this moment on.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub at_ms: u64,
    /// `namespace/name`.
    pub sync: String,
    /// Ready=True about the spec as it is, and not because it is suspended.
    pub claims_ready: bool,
    pub max_lag_ms: u64,
    /// As it was written; null once the Sync is deleted.
    pub status: Value,
}

/// A change at the source that belongs at the sink, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub sync: String,
    /// When it was durable at the source.
    pub written_ms: u64,
    /// When it was seen at the sink.
    pub arrived_ms: Option<u64>,
    /// When the sink was last looked at.
    pub until_ms: u64,
    /// For how long a status may be behind the facts.
    pub grace_ms: u64,
}

impl Probe {
    pub fn arrived(sync: &str, written_ms: u64, arrived_ms: u64) -> Self {
        Probe {
            sync: sync.to_owned(),
            written_ms,
            arrived_ms: Some(arrived_ms),
            until_ms: arrived_ms,
            grace_ms: GRACE_MS,
        }
    }

    pub fn missing(sync: &str, written_ms: u64, until_ms: u64) -> Self {
        Probe { sync: sync.to_owned(), written_ms, arrived_ms: None, until_ms, grace_ms: GRACE_MS }
    }
}

impl Event {
    /// Reads an event of `kubectl get -w -o json --output-watch-events`.
    pub fn read(at_ms: u64, event: &Value) -> Option<Self> {
        let o = &event["object"];
        let meta = |f: &str| o["metadata"][f].as_str();
        let sync = format!("{}/{}", meta("namespace")?, meta("name")?);
        let deleted = event["type"] == "DELETED";
        let current =
            |c: &Value| c["observedGeneration"].is_null() || c["observedGeneration"] == o["metadata"]["generation"];
        let ready = condition(o, "Ready").filter(|c| c["status"] == "True" && current(c));
        let suspended = o["spec"]["suspend"] == true || ready.is_some_and(|c| c["reason"] == "Suspended");
        let max_lag = o["spec"]["maxLag"].as_str().and_then(duration_ms);
        Some(Event {
            at_ms,
            sync,
            claims_ready: ready.is_some() && !suspended && !deleted,
            max_lag_ms: max_lag.unwrap_or(MAX_LAG_MS),
            status: if deleted { Value::Null } else { o["status"].clone() },
        })
    }
}

/// Fails at the first lie. Probes of a Sync that nobody saw, and no probes at all, prove nothing and fail too.
pub fn judge(events: &[Event], probes: &[Probe]) -> Result<(), String> {
    if probes.is_empty() {
        return Err("no probes: nothing is known of the data".into());
    }
    for p in probes {
        let mut said: Vec<&Event> = events.iter().filter(|e| e.sync == p.sync).collect();
        said.sort_by_key(|e| e.at_ms);
        if said.is_empty() {
            return Err(format!("no status of {} was seen", p.sync));
        }
        // The change is missing at the sink from `written_ms` to here.
        let end = p.arrived_ms.unwrap_or(p.until_ms);
        for (i, e) in said.iter().enumerate() {
            let next = said.get(i + 1).map_or(u64::MAX, |n| n.at_ms);
            let from = e.at_ms.max(p.written_ms.saturating_add(e.max_lag_ms).saturating_add(p.grace_ms));
            let to = next.min(end);
            if e.claims_ready && from < to {
                return Err(format!(
                    "{} said Ready=True from {} ms to {to} ms (maxLag {} ms), and a change written at {} ms {}; its status was {}",
                    p.sync,
                    e.at_ms,
                    e.max_lag_ms,
                    p.written_ms,
                    p.arrived_ms.map_or_else(
                        || format!("had not arrived at {} ms", p.until_ms),
                        |a| format!("arrived only at {a} ms")
                    ),
                    e.status
                ));
            }
        }
    }
    Ok(())
}

/// Watches the Syncs of one API server from a thread of its own.
pub struct Watcher {
    start: Instant,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    events: Mutex<Vec<Event>>,
    kubectl: Mutex<Option<Process>>,
    stop: AtomicBool,
}

impl Watcher {
    /// The CRDs must be installed.
    pub fn start(server: &Kubectl) -> Self {
        let (start, shared) = (Instant::now(), Arc::new(Shared::default()));
        let (theirs, server) = (shared.clone(), server.clone());
        let thread = std::thread::spawn(move || {
            while !theirs.stop.load(Ordering::SeqCst) {
                theirs.watch(&server, start);
                std::thread::sleep(PAUSE);
            }
        });
        Watcher { start, shared, thread: Some(thread) }
    }

    /// The clock of events and probes.
    pub fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    pub fn events(&self) -> Vec<Event> {
        lock(&self.shared.events).clone()
    }

    pub fn verdict(&self, probes: &[Probe]) -> Result<(), String> {
        judge(&self.events(), probes)
    }
}

impl Shared {
    /// Until the watch ends.
    fn watch(&self, server: &Kubectl, start: Instant) {
        let mut kubectl = server.command();
        kubectl.args(["get", "syncs.federation.mew.dev", "-A", "-w", "-o", "json", "--output-watch-events"]);
        let Ok((process, out)) = Process::piped("watch-syncs", kubectl, server.dir()) else { return };
        {
            let mut running = lock(&self.kubectl);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            *running = Some(process.with_grace(Duration::from_secs(1)));
        }
        for v in Deserializer::from_reader(BufReader::new(out)).into_iter::<Value>() {
            let Ok(v) = v else { return };
            let at_ms = start.elapsed().as_millis() as u64;
            if let Some(e) = Event::read(at_ms, &v) {
                lock(&self.events).push(e);
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.kubectl).take()); // ends the stream that the thread reads
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
