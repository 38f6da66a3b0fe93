//! The operator on Kubernetes: watches, dereferencing, server-side apply of status, events, leader election.
//!
//! Every replica serves its probes and the webhook; only the leader plans, writes status and serves agents.

mod authority;
mod backend;
mod bundles;
mod declared;
mod definitions;
mod doubt;
mod follow;
mod health;
mod lead;
mod lease;
mod status;
mod watches;
mod webhook;

pub use authority::{Published, Stored, is_led, published};
pub use webhook::WebhookOptions;

use anyhow::{Context, Result, anyhow};
use backend::KubeBackend;
use follow::Follower;
use health::Health;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use lead::Leader;
use lease::Elector;
use mew_control::{Authorities, ControlService, Registry};
use mew_tls::incoming;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub const MANAGER: &str = "mew-operator";
/// A call to the API server that takes longer has failed.
const CALL: Duration = Duration::from_secs(15);
/// What is still open after this is cut off.
const DRAIN: Duration = Duration::from_secs(5);
/// Between tries at start, while the API server or the CA cannot be had.
const RETRY: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub struct OperatorOptions {
    /// Absent: the cluster that the process runs in, or KUBECONFIG.
    pub kubeconfig: Option<PathBuf>,
    pub trust_domain: String,
    /// The operator's own: CA, roots and Lease are there.
    pub namespace: String,
    /// Namespaces whose objects count; all if there are none.
    pub watched: Vec<String>,
    /// Where agents attach.
    pub listen: SocketAddr,
    pub health: SocketAddr,
    /// Name of this replica in the Lease.
    pub identity: String,
    /// Names under which agents reach this operator.
    pub dns: Vec<String>,
    /// Of agents' certificates.
    pub certificate_lifetime: Duration,
    /// Absent: no pod is injected here.
    pub webhook: Option<WebhookOptions>,
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

async fn client(o: &OperatorOptions) -> Result<Client> {
    let mut config = match &o.kubeconfig {
        Some(p) => {
            let k = Kubeconfig::read_from(p).with_context(|| p.display().to_string())?;
            Config::from_custom_kubeconfig(k, &KubeConfigOptions::default()).await?
        }
        None => Config::infer().await?,
    };
    // Without these a hung API server hangs the call, and a refusal is tried again for minutes inside it.
    config.read_timeout = None;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Runs until `stop`.
pub async fn run(o: OperatorOptions, stop: CancellationToken) -> Result<()> {
    mew_tls::install_provider();
    let listener = mew_tls::listen(o.listen).with_context(|| format!("agents cannot attach at {}", o.listen))?;
    let health_listener = mew_tls::listen(o.health).with_context(|| format!("health at {}", o.health))?;
    let hooks = match &o.webhook {
        Some(w) => Some(mew_tls::listen(w.listen).with_context(|| format!("the webhook at {}", w.listen))?),
        None => None,
    };
    let health = Health::default();
    health.set_webhook(hooks.is_some().then(|| "the webhook has no certificate yet".to_owned()));
    let mut tasks: JoinSet<(&'static str, Result<()>)> = JoinSet::new();
    let probes = health::serve(health.clone(), health_listener, stop.clone());
    tasks.spawn(async move { ("the probes", probes.await.map_err(Into::into)) });
    let client = client(&o).await?;
    let cas = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        cas = wait_for_ca(&client, &o, &health) => cas,
    };
    let follower = Follower::new(client.clone(), o.clone(), cas)?;
    let (cas, serving) = (follower.authorities(), follower.serving());
    let following = follower.run(stop.clone());
    tasks.spawn(async move {
        following.await;
        ("what follows the CAs", Ok(()))
    });
    let registry = Arc::new(Registry::default());
    let backend = Arc::new(KubeBackend::new(client.clone(), o.clone(), cas.clone(), health.clone()));
    let service = ControlService {
        backend,
        registry: registry.clone(),
        trust_domain: o.trust_domain.clone(),
        stop: stop.clone(),
    };
    let server = tonic::transport::Server::builder()
        .add_service(service.into_server())
        .serve_with_incoming_shutdown(incoming(listener, serving), stop.clone().cancelled_owned());
    tasks.spawn(async move { ("the service that agents attach to", server.await.map_err(Into::into)) });
    if let Some((w, listener)) = o.webhook.clone().zip(hooks) {
        let (client, namespace) = (client.clone(), o.namespace.clone());
        let webhook = webhook::run(client, namespace, w, cas.clone(), listener, health.clone(), stop.clone());
        tasks.spawn(async move { ("the webhook", webhook.await) });
    }

    let elector = Elector::new(client.clone(), &o.namespace, &o.identity);
    let leader = Leader { client, options: o.clone(), authorities: cas, registry, health };
    let mut leading = tokio::spawn(lead::run(leader, elector, stop.clone()));
    let ended = tokio::select! {
        // First, as everything ends after it.
        biased;
        () = stop.cancelled() => Ok(()),
        r = &mut leading => Err(over(r.map(|r| ("the election", r)))),
        Some(r) = tasks.join_next() => Err(over(r)),
    };
    // A part that is missing is missed by whoever depends on it: what starts this process starts it again, as a whole.
    if let Err(e) = &ended {
        tracing::error!("the operator ends: {e:#}");
    }
    stop.cancel();
    let rest = async {
        if !leading.is_finished() {
            let _ = (&mut leading).await;
        }
        while tasks.join_next().await.is_some() {}
    };
    if timeout(DRAIN, rest).await.is_err() {
        tracing::warn!("what was still open was cut off");
    }
    ended
}

/// What has ended that should not have, and why.
fn over(task: Result<(&'static str, Result<()>), JoinError>) -> anyhow::Error {
    match task {
        Ok((what, Ok(()))) => anyhow!("{what} has ended by itself"),
        Ok((what, Err(e))) => e.context(format!("{what} has ended")),
        Err(e) => anyhow!(e).context("a part of the operator has failed"),
    }
}

async fn wait_for_ca(client: &Client, o: &OperatorOptions, health: &Health) -> Authorities {
    loop {
        match authority::ensure(client, o).await {
            Ok(a) => return a,
            Err(e) => {
                health.set_problem(Some(format!("{e:#}")));
                tracing::error!("{e:#}");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
