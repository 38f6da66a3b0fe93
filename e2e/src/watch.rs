//! Everything that the Syncs of a cluster say of themselves while the suite runs, and whether it was true.

use crate::cluster::Cluster;
use anyhow::{Result, anyhow, ensure};
use mew_tests::process::{Process, dying_with_us};
use mew_tests::watcher::{Event, Probe, judge};
use serde_json::{Deserializer, Value};
use std::io::BufReader;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Before a watch that ended is begun again.
const PAUSE: Duration = Duration::from_millis(250);

pub struct Watch {
    pub cluster: Cluster,
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

impl Watch {
    pub fn start(cluster: &Cluster) -> Self {
        let (start, shared) = (Instant::now(), Arc::new(Shared::default()));
        let (theirs, at) = (shared.clone(), cluster.clone());
        let thread = thread::spawn(move || {
            while !theirs.stop.load(Ordering::SeqCst) {
                theirs.watch(&at, start);
                thread::sleep(PAUSE); // the server, or the kind, was away
            }
        });
        Watch { cluster: cluster.clone(), start, shared, thread: Some(thread) }
    }

    /// The clock of events and probes.
    pub fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    pub fn events(&self) -> Vec<Event> {
        lock(&self.shared.events).clone()
    }

    /// No status may have called itself ready while a change was older than maxLag.
    pub fn verdict(&self, probes: &[Probe]) -> Result<()> {
        judge(&self.events(), probes).map_err(|lie| anyhow!("{}: {lie}", self.cluster.name))
    }

    /// These Syncs have been ready all the time since then.
    pub fn steady(&self, syncs: &[String], since_ms: u64) -> Result<()> {
        let events = self.events();
        let flap = events.iter().find(|e| e.at_ms > since_ms && syncs.contains(&e.sync) && !e.claims_ready);
        ensure!(flap.is_none(), "{}: it was not ready for a moment: {flap:?}", self.cluster.name);
        for s in syncs {
            ensure!(events.iter().any(|e| e.sync == *s), "{}: no status of {s} was seen", self.cluster.name);
        }
        Ok(())
    }
}

impl Shared {
    /// Until the watch ends.
    fn watch(&self, cluster: &Cluster, start: Instant) {
        let theirs = cluster.kubectl_command();
        let mut kubectl = dying_with_us(Path::new(theirs.get_program()));
        copy_environment(&theirs, &mut kubectl);
        kubectl.args(["get", "syncs.federation.mew.dev", "-A", "-w", "-o", "json", "--output-watch-events"]);
        let Ok((process, out)) = Process::piped("watch", kubectl, &cluster.logs()) else { return };
        {
            let mut running = lock(&self.kubectl);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            *running = Some(process.with_grace(Duration::from_secs(1)));
        }
        for v in Deserializer::from_reader(BufReader::new(out)).into_iter::<Value>() {
            let Ok(v) = v else { return };
            if let Some(e) = Event::read(start.elapsed().as_millis() as u64, &v) {
                lock(&self.events).push(e);
            }
        }
    }
}

fn copy_environment(from: &Command, to: &mut Command) {
    for (name, value) in from.get_envs() {
        if let Some(v) = value {
            to.env(name, v);
        }
    }
}

impl Drop for Watch {
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
