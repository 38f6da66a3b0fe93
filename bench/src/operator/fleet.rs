//! What many Syncs cost the operator, on a real API server with agents that have no kernel: memory, writes, how soon an
//! agent has a change, silence at rest, and what becomes of statuses when a region is lost.

use super::agents::Agents;
use super::board::{Board, Reached, Want};
use super::objects::{self, DOMAIN, Layout, is_remote, pattern};
use crate::measure::{cpu_seconds, peak_mb, resident_mb, spread};
use crate::race::Figures;
use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource, ResourceExt};
use mew_crds::{FederationPolicy, Remote, Sync as SyncObject};
use mew_tests::cluster::{Cluster, Operator};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// The longest that anything may take.
pub const PATIENCE: Duration = Duration::from_secs(900);
/// Nothing more is to come when nothing came for so long: agents report every 5 s, and the operator looks every second.
pub const QUIET: Duration = Duration::from_secs(7);
const REST: Duration = Duration::from_secs(30);
/// Changes of a spec that are timed, and how many of them are under way at a time: the operator plans those that come
/// together together, and one alone would say nothing of that.
const CHANGES: usize = 120;
const AT_ONCE: usize = 4;
/// Patterns that no Sync begins with.
const FIRST_CHANGE: usize = 1_000_000;

/// With each of these numbers of Syncs, one after the other.
pub fn run(run: usize, counts: &[usize], say: &dyn Fn(&str)) -> Result<Figures> {
    mew_tls::install_provider();
    let (runtime, mut all) = (Runtime::new().context("a runtime")?, Figures::new());
    for n in counts {
        say(&format!("{n} Syncs: an API server and an operator"));
        let cluster = Cluster::start(&format!("fleet-{n}-{run}"), DOMAIN)?;
        let logs = cluster.api.dir().to_owned();
        let say = |what: &str| say(&format!("{n} Syncs: {what}"));
        let f = runtime
            .block_on(async { Fleet::start(&cluster, Layout::new(*n), &say).await?.measure(&say).await })
            .with_context(|| format!("{n} Syncs; the logs are in {}", logs.display()))?;
        drop(cluster);
        std::fs::remove_dir_all(&logs).with_context(|| logs.display().to_string())?;
        all.extend(f.into_iter().map(|(name, v)| (format!("{n} Syncs: {name}"), v)));
    }
    Ok(all)
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let k = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(k, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Everything is up.
pub fn well(name: &str) -> Want {
    ("True", if is_remote(name) { "Connected" } else { "InSync" })
}

pub struct Fleet<'c> {
    operator: &'c Operator,
    client: Client,
    pub layout: Layout,
    pub agents: Agents,
    pub board: Arc<Board>,
    /// The board's.
    _tasks: JoinSet<()>,
    pub f: Figures,
}

impl<'c> Fleet<'c> {
    /// All objects are declared, and all of them are ready.
    async fn start(cluster: &'c Cluster, layout: Layout, say: &dyn Fn(&str)) -> Result<Self> {
        let client = client(&cluster.api.kubeconfig()).await?;
        let operator = cluster.leader()?;
        let mut f = Figures::new();
        f.insert("operator, nothing declared: resident MB".into(), resident_mb(pid(operator)?)?);
        say("agents");
        objects::namespaces(&cluster.api, &client, layout).await?;
        let tokens = objects::tokens(&client, layout).await?;
        let mut tasks = JoinSet::new();
        let board = Board::start(&client, &mut tasks);
        let agents = Agents::start(cluster.api.dir(), operator.port, &cluster.roots()?, &tokens, layout)?;
        say("declaring");
        let since = board.expect(well);
        objects::declare(&client, layout).await?;
        f.insert("declared after s".into(), since.elapsed().as_secs_f64());
        let mut fleet = Fleet { operator, client, layout, agents, board, _tasks: tasks, f };
        let r = fleet.reached("all are ready", since).await?;
        fleet.insert("declared", &r);
        Ok(fleet)
    }

    async fn measure(mut self, say: &dyn Fn(&str)) -> Result<Figures> {
        self.board.quiet(QUIET, PATIENCE).await?;
        self.f.insert("operator resident MB".into(), resident_mb(pid(self.operator)?)?);
        say("at rest");
        self.rest().await?;
        say("changes");
        self.changes().await?;
        self.lose_regions(say).await?;
        self.f.insert("operator, most resident MB".into(), peak_mb(pid(self.operator)?)?);
        Ok(self.f)
    }

    /// Until every object says what it should since then.
    pub async fn reached(&self, what: &str, since: Instant) -> Result<Reached> {
        let r = self.board.reached(what, since, self.layout.objects(), PATIENCE).await;
        r.with_context(|| self.agents.trouble())
    }

    pub fn insert(&mut self, what: &str, r: &Reached) {
        // Whole seconds from the beginning, and writes in each.
        let mut rates: BTreeMap<u64, u32> = BTreeMap::new();
        for at in &r.writes {
            *rates.entry(*at as u64).or_default() += 1;
        }
        let most = rates.values().max().copied().unwrap_or(0);
        self.f.insert(format!("{what}: s until all statuses are right"), r.seconds);
        self.f.insert(format!("{what}: writes"), r.writes.len() as f64);
        self.f.insert(format!("{what}: writes/s, most in a second"), most.into());
        if let Some(last) = r.writes.last().filter(|t| **t > 0.0) {
            self.f.insert(format!("{what}: writes/s, mean"), r.writes.len() as f64 / last);
        }
    }

    async fn rest(&mut self) -> Result<()> {
        let versions = self.versions().await?;
        let (plans, writes) = self.operator.counters()?;
        let (cpu, seen) = (cpu_seconds(&[pid(self.operator)?])?, self.board.writes());
        tokio::time::sleep(REST).await;
        let (more_plans, more_writes) = self.operator.counters()?;
        let used = cpu_seconds(&[pid(self.operator)?])? - cpu;
        let now = self.versions().await?;
        let changed = now.iter().filter(|(name, version)| versions.get(*name) != Some(*version)).count();
        for (what, n) in [
            ("status writes in 30 s at rest", (more_writes - writes) as f64),
            ("changes seen in 30 s at rest", (self.board.writes() - seen) as f64),
            ("objects changed in 30 s at rest", changed as f64),
            ("plans in 30 s at rest", (more_plans - plans) as f64),
            ("operator CPU at rest, % of a core", 100.0 * used / REST.as_secs_f64()),
        ] {
            self.f.insert(what.into(), n);
        }
        Ok(())
    }

    /// resourceVersion of every object of ours.
    async fn versions(&self) -> Result<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        versions::<Remote>(&self.client, &mut all).await?;
        versions::<SyncObject>(&self.client, &mut all).await?;
        versions::<FederationPolicy>(&self.client, &mut all).await?;
        Ok(all)
    }

    async fn changes(&mut self) -> Result<()> {
        let changes = (0..CHANGES).map(|i| self.change(i));
        // In order, so that no Sync is changed twice at a time.
        let times: Vec<(f64, f64)> = stream::iter(changes).buffered(AT_ONCE).try_collect().await?;
        let (acknowledged, said): (Vec<f64>, Vec<f64>) = times.into_iter().unzip();
        for (what, seconds) in [("acknowledgement", acknowledged), ("status", said)] {
            let s = spread(seconds);
            for (name, ms) in [("p50", s.p50), ("p99", s.p99), ("max", s.max)] {
                self.f.insert(format!("change to {what}: {name} ms"), ms);
            }
        }
        Ok(())
    }

    /// Seconds until the agent has acknowledged another pattern, and until the status says so.
    async fn change(&self, i: usize) -> Result<(f64, f64)> {
        let (ns, name) = self.layout.sync(i % self.layout.syncs);
        let (full, wanted) = (format!("{ns}/{name}"), pattern(FIRST_CHANGE + i));
        let api: Api<SyncObject> = Api::namespaced(self.client.clone(), &ns);
        let patch = Patch::Merge(json!({"spec": {"match": wanted}}));
        let start = Instant::now();
        let changed = api.patch(&name, &PatchParams::default(), &patch).await?;
        let generation = changed.metadata.generation.context("an object without a generation")?;
        let both = async {
            let acknowledged = self.agents.acknowledged(&full, &wanted).await?;
            anyhow::Ok((acknowledged, self.board.programmed(&full, generation).await?))
        };
        let (acknowledged, said) = tokio::time::timeout(PATIENCE, both)
            .await
            .with_context(|| format!("a change of {full}; {}", self.agents.trouble()))??;
        Ok(((acknowledged - start).as_secs_f64(), (said - start).as_secs_f64()))
    }
}

fn pid(o: &Operator) -> Result<u32> {
    o.pid().context("no operator")
}

async fn versions<K>(client: &Client, all: &mut BTreeMap<String, String>) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    for o in api.list_metadata(&ListParams::default()).await?.items {
        let name = format!("{}/{}/{}", K::kind(&()), o.namespace().unwrap_or_default(), o.name_any());
        all.insert(name, o.resource_version().unwrap_or_default());
    }
    Ok(())
}
