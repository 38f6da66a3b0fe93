//! The agent process: a kernel, its links, and the attachment to an operator.
//!
//! It has no Kubernetes credentials and never sees a manifest. What it knows of itself is in its data directory: its
//! incarnation, its identity, its certificate and the last snapshot, with which it goes on when the operator is away.

mod attach;
mod certificate;
pub mod descriptors;
mod ending;
mod failpoints;
mod health;
mod metrics;
mod mounted;
pub mod offline;
mod older;
mod ontology;
mod operator;
mod ports;
mod state;
mod upkeep;

pub use operator::OperatorAddress;

use anyhow::{Context, Result};
use attach::Attachment;
use failpoints::Failpoints;
use mew_kernel::Kernel;
use mew_model::Ontology;
use mew_net::api::{Api, serve_api};
use mew_net::{Gate, Hub, HubConfig, serve_federation, serve_standby};
use mew_store::{DirDisk, Disk, Options, Store};
use older::UnknownFields;
use ports::Port;
use state::{Identity, StateDir};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Segments of the log: large enough that there are few, small enough that one is quickly copied.
const SEGMENT_BYTES: u32 = 64 << 20;
/// How often a directory that another process holds is tried.
const STANDBY_POLL: Duration = Duration::from_millis(500);
/// Clients and peers that still have something open are cut off after this.
const CUT_OFF: Duration = Duration::from_secs(2);

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
    /// After the signal to end, this process is killed when so much time has passed.
    pub grace: Duration,
}

/// Runs until `stop`, and then until peers have what is committed, as far as the grace period goes.
pub async fn run(options: AgentOptions, stop: CancellationToken) -> Result<()> {
    mew_tls::install_provider();
    descriptors::raise_limit();
    ontology::read(&options.ontology)?;
    // Ports first: a taken port must be said before anything else happens. Peers that call before the kernel is open are
    // refused, and applications are told why; nobody waits for a standby without knowing.
    let (api, early) = ports::twice(Port::take(options.listen, "the client API")?.listen()?)?;
    let federation = Port::take(options.federation, "the federation port")?;
    let health_listener = Port::take(options.health, "health and metrics")?.listen()?;
    let failpoints = Failpoints::from_env();
    let dir = StateDir::open(&options.data)?;
    let health = health::Health::new();
    // What is still done goes on until this; it is behind `stop` by the drain.
    let end = CancellationToken::new();
    let serving_health = tokio::spawn(health::serve(health.clone(), health_listener, end.clone()));
    let is_open = CancellationToken::new();
    let waits = health.clone();
    let hosts: Arc<[String]> = options.hosts.clone().into();
    let standing_by = tokio::spawn(serve_standby(early, hosts.clone(), move || waits.waits_for(), is_open.clone()));

    let identity = match dir.identity()? {
        Some(i) => i,
        None => {
            tracing::info!(operator = %options.operator, "waiting for the operator to say who this kernel is");
            let Some(i) = attach::first_identity(&options, &dir, &health, &stop).await else { return Ok(()) };
            dir.save_identity(&i)?;
            i
        }
    };
    health.set_opening();
    let (kernel, file) = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        opened = open(&options, &dir, &identity, &failpoints, &health) => opened?,
    };
    is_open.cancel();
    // From here on it accepts nobody.
    standing_by.abort();
    let _ = standing_by.await;
    let (api, federation) = (tokio::net::TcpListener::from_std(api)?, federation.listen()?);
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
        tasks.spawn(mounted.follow(hub.clone(), end.clone()));
    }
    let gate = Gate::default();
    let api = serve_api(Api { kernel: kernel.clone(), hub: hub.clone(), gate: gate.clone(), hosts }, api, end.clone());
    tasks.spawn(async move { api.await.context("the client API") });
    let peers = serve_federation(hub.clone(), federation, end.clone());
    tasks.spawn(async move { peers.await.context("the federation port") });
    tasks.spawn(upkeep::run(kernel.clone(), health.clone(), end.clone()));
    tasks.spawn(ontology::watch(file, kernel.clone(), hub.clone(), health.clone(), end.clone()));
    let (grace, is_ephemeral) = (options.grace, options.ephemeral);
    let left = Arc::new(OnceLock::new());
    let attachment = Attachment {
        options,
        dir,
        identity,
        kernel,
        hub: hub.clone(),
        health: health.clone(),
        unknown: UnknownFields::from_env(),
        left: left.clone(),
    };
    tasks.spawn(attachment.run(end.clone()));
    let first = tokio::select! {
        () = stop.cancelled() => None,
        failed = tasks.join_next() => failed,
    };
    health.set_stopping();
    if first.is_none() {
        let _ = left.set(ending::drain(&hub, &gate, grace, is_ephemeral).await);
    }
    hub.goodbye(ending::GOODBYE).await;
    end.cancel();
    // A stream that a client keeps open must not keep the process.
    if tokio::time::timeout(CUT_OFF, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
        tasks.abort_all();
    }
    hub.shutdown();
    serving_health.abort();
    first.unwrap_or(Ok(Ok(())))?
}

/// Opens the kernel, once the data directory is free, and what of the ontology's file is in force.
async fn open(
    options: &AgentOptions,
    dir: &StateDir,
    identity: &Identity,
    failpoints: &Failpoints,
    health: &health::Health,
) -> Result<(Arc<Kernel>, ontology::File)> {
    loop {
        // It may have changed while this pod waited.
        let given = ontology::read(&options.ontology)?;
        let (options, dir, identity) = (options.clone(), dir.clone(), identity.clone());
        let (failpoints, waits) = (failpoints.clone(), health.clone());
        // A large log is replayed for minutes.
        let opening = tokio::task::spawn_blocking(move || {
            let (data, ontology, instance) = (&options.data, &options.ontology, &options.instance);
            open_kernel(&Files { data, ontology, instance }, &dir, &identity, given, &failpoints, &waits)
        });
        match opening.await? {
            // The pod that is being replaced still has the directory. Waiting is being ready: otherwise it would never go.
            Err(e) if is_busy(&e) => {
                health.set_standby(Some(format!("{e:#}")));
                tokio::time::sleep(STANDBY_POLL).await;
            }
            r => return r,
        }
    }
}

/// Whether the data directory is in use by another process.
fn is_busy(e: &anyhow::Error) -> bool {
    let busy = |e: &std::io::Error| e.kind() == std::io::ErrorKind::ResourceBusy;
    e.chain().any(|c| c.downcast_ref::<std::io::Error>().is_some_and(busy))
}

/// What a kernel is opened from.
struct Files<'a> {
    data: &'a Path,
    ontology: &'a Path,
    /// Who has the directory then, for others that want it.
    instance: &'a str,
}

fn open_kernel(
    files: &Files<'_>,
    dir: &StateDir,
    identity: &Identity,
    given: (String, Ontology),
    failpoints: &Failpoints,
    health: &health::Health,
) -> Result<(Arc<Kernel>, ontology::File)> {
    let data = files.data;
    offline::check_restored(data, dir)?;
    let disk = || {
        let disk = DirDisk::new(dir.log()).with_context(|| format!("the data directory {}", data.display()))?;
        anyhow::Ok(disk.held_by(files.instance))
    };
    // Nobody else has it: what takes time from here on is reading it, and no other holder is to be blamed for that. If one
    // comes before the store has taken it, that is said again.
    drop(disk()?.lock().with_context(|| format!("the store in {}", data.display()))?);
    health.set_standby(None);
    let (kernel, file) = ontology::open(files.ontology, given, |ontology| {
        let store = Options {
            kernel_id: identity.kernel_id.clone(),
            new_incarnation: dir.incarnation().to_owned(),
            segment_bytes: SEGMENT_BYTES,
        };
        let (store, opened) = Store::open(failpoints.disk(disk()?), Arc::new(ontology), store)
            .with_context(|| format!("the store in {}", data.display()))?;
        if opened.cut_bytes > 0 {
            tracing::warn!(bytes = opened.cut_bytes, "a commit that was never acknowledged was cut off the log");
        }
        if let Some(why) = &opened.bad_checkpoint {
            tracing::warn!("the checkpoint was thrown away, and the whole log read instead; nothing is lost: {why}");
        }
        Ok(Kernel::new(store))
    })?;
    Ok((Arc::new(kernel), file))
}

#[cfg(test)]
mod tests {
    use super::{Failpoints, Files, Identity, StateDir, is_busy, open_kernel};
    use crate::health::Health;
    use mew_lang::parse_ontology;
    use std::path::Path;

    const ONTOLOGY: &str = "node Task { name: String? }";
    const ANOTHER: &str = "another pod has the directory";

    /// Why the kernel is not open, as a client is told, after a try of this kernel to open the directory.
    #[test]
    fn another_holder_is_named_only_as_long_as_there_is_one() {
        let tmp = tempfile::tempdir().expect("a directory");
        let dir = StateDir::open(tmp.path()).expect("a data directory");
        let health = Health::new();
        let open = |instance: &str, kernel_id: &str| {
            let identity = Identity { kernel_id: kernel_id.to_owned(), trust_domain: "here.example".to_owned() };
            let given = (ONTOLOGY.to_owned(), parse_ontology(ONTOLOGY).expect("an ontology"));
            health.set_standby(Some(ANOTHER.to_owned()));
            let files = Files { data: tmp.path(), ontology: Path::new("shop.ontology"), instance };
            let opened = open_kernel(&files, &dir, &identity, given, &Failpoints::from_env(), &health);
            (opened, health.waits_for())
        };
        let (holder, _) = open("pod-1", "team-a.shop");
        let holder = holder.expect("the directory is free");
        let (refused, waits_for) = open("pod-2", "team-a.shop");
        let e = refused.err().expect("two have one directory");
        assert!(is_busy(&e) && format!("{e:#}").contains("(the last to take it: pod-1)"), "{e:#}");
        assert_eq!(waits_for, ANOTHER);
        drop(holder);
        // The log is read after the directory was taken; here it turns out to be that of another kernel.
        let (refused, waits_for) = open("pod-2", "team-a.till");
        assert!(refused.err().is_some_and(|e| !is_busy(&e)), "it is the log of another kernel");
        assert_ne!(waits_for, ANOTHER);
    }
}
