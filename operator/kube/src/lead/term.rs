//! A term: watch, dereference, plan, deliver, and say what is to be written to statuses.

use super::Leader;
use crate::bundles::Bundles;
use crate::declared::{Change, Declared};
use crate::lease::Tenure;
use crate::now_ms;
use crate::status::{Kind, Outbox, Writer};
use crate::watches::watch;
use anyhow::{Result, bail};
use jiff::Timestamp;
use mew_plan::{Inputs, KernelName, Objects, Plan, draft, kernel_of, namespace_of};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet, block_in_place};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Changes that come close together are planned together.
const GATHER: Duration = Duration::from_millis(50);
/// Silence of agents and the end of a grace period are noticed without an event.
const LOOK: Duration = Duration::from_secs(1);
/// What the watches see and is not taken in yet; beyond that they wait, and the API server keeps it.
const CHANGES: usize = 1024;
/// Planning takes longer the more there is, so there is a rest after it, this many times as long: it takes half of one
/// processor at most while people change objects, a quarter while agents report, and a twentieth while nothing happens.
const REST_CHANGED: u32 = 1;
const REST_REPORTED: u32 = 3;
const REST_QUIET: u32 = 19;

/// Why a kernel keeps what it has, if it is not for what its agent might lose.
const WAITS: &str = "it keeps what it has: ConfigMaps that its Remotes name cannot be read yet";

/// Leads until `stop`; an error is an end that came by itself.
pub async fn lead(l: Leader, tenure: Tenure, in_use: Option<Timestamp>, stop: CancellationToken) -> Result<()> {
    let (to, mut changes) = mpsc::channel(CHANGES);
    let outbox = Arc::new(Outbox::default());
    let bundles = Arc::new(Bundles::new(l.client.clone()));
    // They end with this term, whatever ends it: the writer first, which has to be over before another leads.
    let ours = stop.child_token();
    let _ends = ours.clone().drop_guard();
    let mut reading = JoinSet::new();
    reading.spawn(watch(l.client.clone(), l.options.watched.clone(), in_use, to));
    let reads = bundles.clone();
    reading.spawn(async move { reads.run().await });
    let identity = &l.options.identity;
    let writer = Writer::new(l.client.clone(), l.health.clone(), identity, tenure.clone(), outbox.clone());
    let mut writing = tokio::spawn(writer.run(ours.clone()));
    let mut term = Planner {
        declared: Declared::new(&l.options.watched),
        since_ms: now_ms(),
        kept: BTreeMap::new(),
        tenure,
        outbox,
        bundles,
        l,
    };
    let ended = term.run(&mut changes, &mut reading, &mut writing, &stop).await;
    ours.cancel();
    if !writing.is_finished() {
        writing.await?;
    }
    ended
}

struct Planner {
    l: Leader,
    declared: Declared,
    since_ms: u64,
    /// Kernels that keep what they have, and why, as it was said last.
    kept: BTreeMap<KernelName, String>,
    tenure: Tenure,
    outbox: Arc<Outbox>,
    bundles: Arc<Bundles>,
}

impl Planner {
    async fn run(
        &mut self,
        changes: &mut mpsc::Receiver<Change>,
        reading: &mut JoinSet<()>,
        writing: &mut JoinHandle<()>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let registry = self.l.registry.clone();
        let bundles = self.bundles.clone();
        let mut authorities = self.l.authorities.clone();
        let mut tick = tokio::time::interval(LOOK);
        let (mut ended, mut took) = (Instant::now(), Duration::ZERO);
        // When to plan next, if there is a reason to.
        let mut due: Option<Instant> = None;
        loop {
            let rest = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                r = reading.join_next() => bail!("a task that reads has ended: {r:?}"),
                r = &mut *writing => bail!("the writer of statuses has ended: {r:?}"),
                () = sleep_until(due.unwrap_or(ended)), if due.is_some() => {
                    due = None;
                    let began = Instant::now();
                    if block_in_place(|| self.plan()) {
                        ended = Instant::now();
                        took = ended - began;
                    }
                    continue;
                }
                c = changes.recv() => {
                    let Some(c) = c else { bail!("the watches have ended") };
                    self.declared.apply(c);
                    REST_CHANGED
                }
                r = authorities.changed() => {
                    if r.is_err() {
                        bail!("nobody follows the CAs any more");
                    }
                    REST_CHANGED
                }
                () = bundles.changed.notified() => REST_CHANGED,
                () = registry.changed.notified() => REST_REPORTED,
                _ = tick.tick() => REST_QUIET,
            };
            let at = (Instant::now() + GATHER).max(ended + took * rest);
            due = Some(due.map_or(at, |d| d.min(at)));
        }
    }

    /// Plans everything; false if not enough is known for that.
    fn plan(&mut self) -> bool {
        self.declared.expire(std::time::Instant::now());
        if !self.declared.ready() {
            return false;
        }
        let mut objects = self.declared.lend();
        let read = self.bundles.of(&objects);
        objects.bundles = read.bundles;
        let (agents, own_roots) = (self.l.registry.states(), self.l.authorities.borrow().roots());
        let trust_domain = self.l.options.trust_domain.clone();
        let inputs = Inputs {
            trust_domain: &trust_domain,
            own_roots: &own_roots,
            objects: &objects,
            agents: &agents,
            now_ms: now_ms(),
            since_ms: self.since_ms,
            doubts: self.declared.doubts(),
        };
        let (mut p, statuses) = draft(&inputs);
        self.keep(&mut p, &objects, &read.waiting);
        // Before the statuses, which take longer. Another replica may have given agents newer ones by now.
        if self.tenure.holds() {
            self.l.registry.deliver(&p.snapshots, now_ms());
        }
        self.l.registry.forget(&p.unused, now_ms());
        // The registry has them as they are sent: memory is not to hold both while statuses are made.
        p.snapshots.clear();
        let is_left = |kind: Kind, name: &str| {
            read.waiting.contains(namespace_of(name))
                || match kind {
                    Kind::Remote => self.declared.remotes.is_orphan(name),
                    Kind::Sync => self.declared.syncs.is_orphan(name),
                    Kind::Policy => self.declared.policies.is_orphan(name),
                }
        };
        statuses.make(&mut p, &mut |name, status| {
            self.outbox.sync(name, objects.syncs.get(name), &status, &is_left);
        });
        let waiting = self.outbox.update(&p, &objects, &is_left);
        self.l.health.set_queue(waiting);
        self.l.health.count_plan();
        self.declared.give_back(objects);
        true
    }

    /// Takes out the snapshots that need what is not read yet, and says which agents keep what they have.
    fn keep(&mut self, p: &mut Plan, objects: &Objects, waiting: &BTreeSet<String>) {
        let mut kept = p.kept.clone();
        if !waiting.is_empty() {
            let needs = objects.remotes.iter().filter(|(n, _)| waiting.contains(namespace_of(n)));
            for (n, r) in needs {
                kept.entry(kernel_of(n, r)).or_insert_with(|| WAITS.to_owned());
            }
        }
        p.snapshots.retain(|k, _| !kept.contains_key(k));
        for (k, why) in told(&self.kept, &kept) {
            tracing::warn!(kernel = %k.kernel_id(), "{why}");
        }
        for k in self.kept.keys().filter(|k| !kept.contains_key(*k)) {
            tracing::info!(kernel = %k.kernel_id(), "it gets what is declared now");
        }
        self.kept = kept;
    }
}

/// What is news of kernels that keep what they have: a reason that is another one tells what to do now.
fn told<'a>(
    before: &'a BTreeMap<KernelName, String>,
    now: &'a BTreeMap<KernelName, String>,
) -> impl Iterator<Item = (&'a KernelName, &'a String)> {
    now.iter().filter(|(k, why)| before.get(*k) != Some(*why))
}

#[cfg(test)]
mod tests {
    use super::told;
    use mew_plan::KernelName;
    use std::collections::BTreeMap;

    #[test]
    fn a_kernel_that_keeps_what_it_has_is_told_of_once_for_each_reason() {
        let kept = |all: &[(&str, &str)]| -> BTreeMap<KernelName, String> {
            all.iter().map(|(k, why)| (KernelName::new("shop", k), (*why).to_owned())).collect()
        };
        let said = |before: &[(&str, &str)], now: &[(&str, &str)]| -> Vec<String> {
            told(&kept(before), &kept(now)).map(|(k, why)| format!("{}: {why}", k.name)).collect()
        };
        assert_eq!(said(&[], &[("a", "Sync x")]), ["a: Sync x"]);
        let both = &[("a", "Sync x"), ("b", "Sync z")];
        assert_eq!(said(&[("a", "Sync x")], both), ["b: Sync z"]);
        assert!(said(both, both).is_empty() && said(both, &both[..1]).is_empty());
        assert_eq!(
            said(both, &[("a", "Sync y"), ("b", "Sync z")]),
            ["a: Sync y"],
            "x was applied, and y is missing still"
        );
    }
}
