//! Agents without kernels: they attach as agents do, take every snapshot, and report what they are told to.

use super::objects::{DOMAIN, Layout};
use anyhow::{Context, Result, bail};
use mew_agent::{OperatorAddress, VERSION};
use mew_contract::report::{Inbound, Names};
use mew_contract::snapshot::Direction;
use mew_contract::{
    FlowReport, FlowState, LinkState, MAX_MESSAGE, PeerInfo, Problem, Reason, RemoteReport, Report, Roots, Snapshot,
    SyncItem,
};
use mew_wire::agent_message::Body;
use mew_wire::control_client::ControlClient;
use mew_wire::operator_message::Body as Said;
use mew_wire::{Accepted, AgentMessage, Hello};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

/// As an agent reports when nothing has changed, and as it tries to attach again.
const UNCHANGED: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(250);
const QUEUE: usize = 16;
/// A certificate that ends at some time in 2100.
const NOT_AFTER_MS: u64 = 4_102_444_800_000;

/// What becomes of a region's agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Well,
    /// Their links to peers are down.
    CutOff,
    /// They are not attached.
    Gone,
}

/// Which agents share their fate: every other Remote's.
pub const REGIONS: usize = 2;

#[derive(Default)]
struct Shared {
    /// By name of the Sync: its pattern in the last snapshot that was acknowledged, and when.
    acknowledged: Mutex<HashMap<String, (String, Instant)>>,
    /// Why an attachment last ended that should not have.
    trouble: Mutex<Option<String>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All of them; they end when this is dropped.
pub struct Agents {
    shared: Arc<Shared>,
    /// Changes with every snapshot that is acknowledged.
    news: watch::Sender<u64>,
    fates: Vec<watch::Sender<Fate>>,
    tasks: tokio::task::JoinSet<()>,
}

impl Agents {
    /// Writes a token for each into `dir`, and starts them.
    pub fn start(dir: &Path, port: u16, roots: &str, tokens: &[String], l: Layout) -> Result<Self> {
        let roots_file = dir.join("fleet.crt");
        std::fs::write(&roots_file, roots)?;
        let fates: Vec<_> = (0..REGIONS).map(|_| watch::Sender::new(Fate::Well)).collect();
        let mut a =
            Agents { shared: Arc::default(), news: watch::Sender::new(0), fates, tasks: tokio::task::JoinSet::new() };
        for (r, token) in tokens.iter().enumerate() {
            let token_file = dir.join(format!("fleet-{r}.token"));
            std::fs::write(&token_file, token)?;
            let address = OperatorAddress::Tls {
                host: "127.0.0.1".into(),
                port,
                trust_domain: DOMAIN.into(),
                token: token_file,
                roots: roots_file.clone(),
            };
            let agent = Agent {
                kernel: l.remote(r),
                address,
                shared: a.shared.clone(),
                news: a.news.clone(),
                fate: a.fates[r % REGIONS].subscribe(),
            };
            a.tasks.spawn(agent.run());
        }
        Ok(a)
    }

    pub fn set(&self, region: usize, fate: Fate) {
        self.fates[region].send_replace(fate);
    }

    /// Waits until the agent of a Sync has acknowledged this pattern of it; when that was.
    pub async fn acknowledged(&self, sync: &str, pattern: &str) -> Result<Instant> {
        let mut news = self.news.subscribe();
        loop {
            if let Some((has, at)) = lock(&self.shared.acknowledged).get(sync)
                && has == pattern
            {
                return Ok(*at);
            }
            news.changed().await?;
        }
    }

    /// For a failure.
    pub fn trouble(&self) -> String {
        lock(&self.shared.trouble).clone().unwrap_or_else(|| "no agent had any trouble".to_owned())
    }
}

struct Agent {
    kernel: String,
    address: OperatorAddress,
    shared: Arc<Shared>,
    news: watch::Sender<u64>,
    fate: watch::Receiver<Fate>,
}

/// The configuration in force.
struct InForce {
    digest: String,
    kernel_id: String,
    remotes: Vec<String>,
    syncs: Vec<SyncItem>,
}

fn message(body: Body) -> AgentMessage {
    AgentMessage { body: Some(body) }
}

impl Agent {
    async fn run(mut self) {
        loop {
            // Ends when there is nobody left who decides.
            if self.fate.wait_for(|f| *f != Fate::Gone).await.is_err() {
                return;
            }
            if let Err(e) = self.attached().await {
                *lock(&self.shared.trouble) = Some(format!("{}: {e:#}", self.kernel));
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Until it is to be gone.
    async fn attached(&mut self) -> Result<()> {
        let (tx, rx) = mpsc::channel(QUEUE);
        let hello = Hello {
            kernel: self.kernel.clone(),
            incarnation: format!("incarnation of {}", self.kernel),
            instance: "bench".into(),
            agent_version: VERSION.into(),
        };
        tx.send(message(Body::Hello(hello))).await?;
        let mut client = ControlClient::new(self.address.connect().await?)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let mut from = client.attach(ReceiverStream::new(rx)).await?.into_inner();
        let mut tick = tokio::time::interval(UNCHANGED);
        let mut force: Option<InForce> = None;
        loop {
            tokio::select! {
                m = from.message() => match m?.context("the operator ended the attachment")?.body {
                    Some(Said::Snapshot(bytes)) => {
                        let s = in_force(&bytes)?;
                        tx.send(message(Body::Accepted(Accepted { digest: s.digest.clone() }))).await?;
                        self.took(&s);
                        force = Some(s);
                    }
                    Some(Said::Standby(s)) => bail!("another one holds the kernel: {}", s.message),
                    _ => continue,
                },
                changed = self.fate.changed() => {
                    changed?;
                    if *self.fate.borrow() == Fate::Gone {
                        return Ok(());
                    }
                }
                _ = tick.tick() => {}
            }
            if let Some(s) = &force {
                let report = serde_json::to_vec(&s.report(*self.fate.borrow()))?;
                tx.send(message(Body::Report(report.into()))).await?;
            }
        }
    }

    fn took(&self, s: &InForce) {
        let at = Instant::now();
        let mut all = lock(&self.shared.acknowledged);
        for sync in &s.syncs {
            match all.get_mut(&sync.name) {
                Some((pattern, _)) if *pattern == sync.pattern => {}
                Some(old) => *old = (sync.pattern.clone(), at),
                None => drop(all.insert(sync.name.clone(), (sync.pattern.clone(), at))),
            }
        }
        drop(all);
        self.news.send_modify(|n| *n += 1);
    }
}

fn in_force(bytes: &[u8]) -> Result<InForce> {
    let s = Snapshot::decode(bytes).context("a snapshot")?;
    let (remotes, syncs, rejected) = s.items();
    if let Some(r) = rejected.first() {
        bail!("{} {}: {}", r.kind, r.name, r.problem.message);
    }
    Ok(InForce {
        digest: Snapshot::digest(bytes),
        kernel_id: s.kernel_id,
        remotes: remotes.into_iter().map(|r| r.name).collect(),
        syncs,
    })
}

impl InForce {
    fn report(&self, fate: Fate) -> Report {
        let well = fate == Fate::Well;
        Report {
            kernel_id: self.kernel_id.clone(),
            incarnation: format!("incarnation of {}", self.kernel_id),
            agent_version: VERSION.into(),
            snapshot: self.digest.clone(),
            rejected: Vec::new(),
            remotes: self.remotes.iter().map(|name| remote(name, well)).collect(),
            syncs: self.syncs.iter().map(|item| flow(item, well)).collect(),
            silent: Some(Names::default()),
            certificate_not_after_ms: Some(NOT_AFTER_MS),
            certificate_root: None,
            problem: None,
        }
    }
}

fn remote(name: &str, well: bool) -> RemoteReport {
    let peer = PeerInfo {
        kernel_id: "peer".into(),
        incarnation: "peer".into(),
        agent_version: VERSION.into(),
        protocol: 1,
        certificate_not_after_ms: Some(NOT_AFTER_MS),
        roots: Roots::default(),
    };
    RemoteReport {
        name: name.to_owned(),
        state: if well { LinkState::Connected } else { LinkState::Disconnected },
        problem: (!well).then(|| Problem::new(Reason::Unreachable, "the peer does not answer")),
        endpoint: well.then(|| "127.0.0.1:9001".to_owned()),
        peer: Some(peer),
        latency_ms: well.then_some(1),
        inbound: Inbound::default(),
        certificate_not_after_ms: None,
    }
}

fn flow(item: &SyncItem, well: bool) -> FlowReport {
    FlowReport {
        name: item.name.clone(),
        remote: item.remote.clone(),
        direction: Direction::Push,
        state: if well { FlowState::Live } else { FlowState::Waiting },
        problem: None,
        lag_ms: well.then_some(0),
        pending: well.then_some(0),
        initial_percent: Some(100),
        applied: 1,
        rejected: 0,
        held: 0,
        conflicts: 0,
        needs_reconcile: false,
        revision: "revision".into(),
        reset: item.reset.clone(),
        last_error: None,
    }
}
