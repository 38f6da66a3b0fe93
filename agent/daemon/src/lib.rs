//! The agent process: a kernel, its links, and the attachment to an operator.
//!
//! It has no Kubernetes credentials and never sees a manifest. What it knows of itself is in its data directory: its
//! incarnation, its identity, its certificate and the last snapshot, with which it goes on when the operator is away.

mod attach;
mod certificate;
mod failpoints;
mod health;
mod metrics;
mod mounted;
pub mod offline;
mod older;
mod operator;
mod state;
mod upkeep;

pub use operator::OperatorAddress;

use anyhow::{Context, Result, bail};
use attach::Attachment;
use failpoints::Failpoints;
use mew_kernel::Kernel;
use mew_lang::{parse_ontology, render};
use mew_model::Ontology;
use mew_net::api::{Api, serve_api};
use mew_net::{Hub, HubConfig, serve_federation};
use mew_store::{DirDisk, Options, Store};
use older::UnknownFields;
use state::{Identity, StateDir};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Segments of the log: large enough that there are few, small enough that one is quickly copied.
const SEGMENT_BYTES: u32 = 64 << 20;
/// How often the ontology file is looked at; mounted files change by a swapped link, which file events miss.
const ONTOLOGY_POLL: Duration = Duration::from_secs(2);
/// How often a directory that another process holds is tried.
const STANDBY_POLL: Duration = Duration::from_millis(500);
/// What is still open after this is cut off.
const DRAIN: Duration = Duration::from_secs(5);

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Name of the kernel, as the workload's label says it.
    pub kernel: String,
    pub data: PathBuf,
    /// The data ends with this agent: another one of the kernel begins with nothing, once this one is gone.
    pub ephemeral: bool,
    pub ontology: PathBuf,
    /// A directory of certificates that Remotes name by `auth.certificateRef`.
    pub certificates: Option<PathBuf>,
    pub operator: OperatorAddress,
    /// For applications; loopback.
    pub listen: SocketAddr,
    /// Names besides loopback by which applications may call it.
    pub hosts: Vec<String>,
    /// For peers.
    pub federation: SocketAddr,
    /// `/live`, `/ready`, `/metrics`.
    pub health: SocketAddr,
    /// Pod or process, for people.
    pub instance: String,
}

/// Runs until `stop`.
pub async fn run(options: AgentOptions, stop: CancellationToken) -> Result<()> {
    mew_tls::install_provider();
    let ontology = read_ontology(&options.ontology)?;
    // Ports first: a taken port must be said before anything else happens.
    let api = bind(options.listen, "the client API").await?;
    let federation = bind(options.federation, "the federation port").await?;
    let health_listener = bind(options.health, "health and metrics").await?;
    let failpoints = Failpoints::from_env();
    let dir = StateDir::open(&options.data)?;
    let health = health::Health::new();
    let serving_health = tokio::spawn(health::serve(health.clone(), health_listener, stop.clone()));

    let identity = match dir.identity()? {
        Some(i) => i,
        None => {
            tracing::info!(operator = %options.operator, "waiting for the operator to say who this kernel is");
            let Some(i) = attach::first_identity(&options, &dir, &health, &stop).await else { return Ok(()) };
            dir.save_identity(&i)?;
            i
        }
    };
    let kernel = loop {
        match open_kernel(&options, &dir, &identity, ontology.clone(), &failpoints) {
            // The pod that is being replaced still has the directory. Waiting is being ready: otherwise it would never go.
            Err(e) if is_busy(&e) => {
                health.set_standby(Some(format!("{e:#}")));
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(STANDBY_POLL) => {}
                }
            }
            r => break r?,
        }
    };
    health.set_standby(None);
    tracing::info!(kernel_id = %identity.kernel_id, incarnation = %kernel.incarnation(), api = %options.listen, federation = %options.federation, "kernel is open");
    let config = HubConfig {
        agent_version: VERSION.to_owned(),
        observer: failpoints.frames(),
        clock_offset_ms: failpoints::clock_offset_ms(),
    };
    let hub = Hub::new(kernel.clone(), config);
    health.set_kernel(kernel.clone(), hub.clone());

    let mut tasks = tokio::task::JoinSet::new();
    if let Some(dir) = options.certificates.clone() {
        let mut mounted = mounted::Mounted::new(dir, &identity);
        // Before the first Remote asks for one.
        mounted.look(&hub);
        tasks.spawn(mounted.follow(hub.clone(), stop.clone()));
    }
    let api = serve_api(
        Api { kernel: kernel.clone(), hub: hub.clone(), hosts: options.hosts.clone().into() },
        api,
        stop.clone(),
    );
    tasks.spawn(async move { api.await.context("the client API") });
    let peers = serve_federation(hub.clone(), federation, stop.clone());
    tasks.spawn(async move { peers.await.context("the federation port") });
    tasks.spawn(upkeep::run(kernel.clone(), hub.clone(), stop.clone()));
    tasks.spawn(watch_ontology(options.ontology.clone(), kernel.clone(), hub.clone(), health.clone(), stop.clone()));
    let unknown = UnknownFields::from_env();
    let attachment = Attachment { options, dir, identity, kernel, hub: hub.clone(), health, unknown };
    tasks.spawn(attachment.run(stop.clone()));
    let first = tasks.join_next().await;
    stop.cancel();
    hub.shutdown();
    // A stream that a client keeps open must not keep the process.
    if tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
        tasks.abort_all();
    }
    serving_health.abort();
    first.unwrap_or(Ok(Ok(())))?
}

/// Whether the data directory is in use by another process.
fn is_busy(e: &anyhow::Error) -> bool {
    let busy = |e: &std::io::Error| e.kind() == std::io::ErrorKind::ResourceBusy;
    e.chain().any(|c| c.downcast_ref::<std::io::Error>().is_some_and(busy))
}

async fn bind(at: SocketAddr, what: &str) -> Result<TcpListener> {
    match mew_tls::listen(at).await {
        Ok(l) => Ok(l),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("{what} cannot listen on {at}: another process uses this port; stop it or choose another port")
        }
        Err(e) => Err(e).with_context(|| format!("{what} cannot listen on {at}")),
    }
}

fn read_ontology(path: &Path) -> Result<Ontology> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("the ontology {} cannot be read", path.display()))?;
    parse_ontology(&text).map_err(|d| {
        anyhow::anyhow!("the ontology is wrong:\n{}", render(&path.display().to_string(), &text, &d, false))
    })
}

fn open_kernel(
    options: &AgentOptions,
    dir: &StateDir,
    identity: &Identity,
    ontology: Ontology,
    failpoints: &Failpoints,
) -> Result<Arc<Kernel>> {
    let disk = DirDisk::new(dir.log()).with_context(|| format!("the data directory {}", options.data.display()))?;
    let store = Options {
        kernel_id: identity.kernel_id.clone(),
        new_incarnation: dir.incarnation().to_owned(),
        segment_bytes: SEGMENT_BYTES,
    };
    let (store, opened) = Store::open(failpoints.disk(disk), Arc::new(ontology), store)
        .with_context(|| format!("the store in {}", options.data.display()))?;
    if opened.cut_bytes > 0 {
        tracing::warn!(bytes = opened.cut_bytes, "a commit that was never acknowledged was cut off the log");
    }
    Ok(Arc::new(Kernel::new(store)))
}

/// Follows changes of the ontology file: additive ones apply, others are refused by name and the old one stays.
async fn watch_ontology(
    path: PathBuf,
    kernel: Arc<Kernel>,
    hub: Arc<Hub>,
    health: health::Health,
    stop: CancellationToken,
) -> Result<()> {
    let mut last = std::fs::read(&path).ok();
    let mut tick = tokio::time::interval(ONTOLOGY_POLL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let now = std::fs::read(&path).ok();
        if now.is_none() || now == last {
            continue;
        }
        last = now;
        let why = match read_ontology(&path) {
            Err(e) => Some(format!("{e:#}")),
            // It may build indexes.
            Ok(o) => tokio::task::block_in_place(|| kernel.set_ontology(o))
                .err()
                .map(|why| format!("the new ontology is refused and the old one stays: {}", why.join("; "))),
        };
        match &why {
            None => {
                tracing::info!("the ontology was updated");
                tokio::task::block_in_place(|| hub.refresh());
            }
            Some(w) => tracing::error!("{w}"),
        }
        health.set_ontology_problem(why);
    }
}
