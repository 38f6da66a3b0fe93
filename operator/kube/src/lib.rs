//! The operator on Kubernetes: watches, dereferencing, server-side apply of status, events, leader election.
//!
//! Every replica serves its probes and the webhook; only the leader plans, writes status and serves agents.

mod authority;
mod backend;
mod bundles;
mod declared;
mod definitions;
mod doubt;
mod health;
mod lead;
mod lease;
mod status;
mod watches;
mod webhook;

pub use authority::{Published, published};
pub use webhook::WebhookOptions;

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwapOption;
use backend::KubeBackend;
use health::Health;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use lead::Leader;
use lease::Elector;
use mew_control::{ControlService, Registry};
use mew_tls::{Authority, Material, SpiffeId, incoming, server_config};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub const MANAGER: &str = "mew-operator";
/// Lifetime of the operator's own certificate, which only agents see, and when it is renewed.
const SERVING_SECONDS: i64 = 72 * 3600;
const SERVING_RENEW: Duration = Duration::from_secs(24 * 3600);
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
    let listener =
        TcpListener::bind(o.listen).await.with_context(|| format!("agents cannot attach at {}", o.listen))?;
    let health_listener = TcpListener::bind(o.health).await.with_context(|| format!("health at {}", o.health))?;
    let hooks = match &o.webhook {
        Some(w) => Some(TcpListener::bind(w.listen).await.with_context(|| format!("the webhook at {}", w.listen))?),
        None => None,
    };
    let health = Health::default();
    health.set_webhook(hooks.is_some().then(|| "the webhook has no certificate yet".to_owned()));
    let mut tasks: JoinSet<(&'static str, Result<()>)> = JoinSet::new();
    let probes = health::serve(health.clone(), health_listener, stop.clone());
    tasks.spawn(async move { ("the probes", probes.await.map_err(Into::into)) });
    let client = client(&o).await?;
    let ca = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        ca = wait_for_ca(&client, &o, &health) => Arc::new(ca),
    };
    let serving = Arc::new(ArcSwapOption::empty());
    renew_serving(&ca, &o, &serving)?;
    let registry = Arc::new(Registry::default());
    let backend = Arc::new(KubeBackend::new(client.clone(), o.clone(), ca.clone(), health.clone()));
    let service = ControlService {
        backend,
        registry: registry.clone(),
        trust_domain: o.trust_domain.clone(),
        stop: stop.clone(),
    };
    let server = tonic::transport::Server::builder()
        .add_service(service.into_server())
        .serve_with_incoming_shutdown(incoming(listener, serving.clone()), stop.clone().cancelled_owned());
    tasks.spawn(async move { ("the service that agents attach to", server.await.map_err(Into::into)) });
    if let Some((mut w, listener)) = o.webhook.clone().zip(hooks) {
        w.settings.roots.clone_from(&ca.cert_pem);
        let webhook = webhook::run(client.clone(), o.namespace.clone(), w, listener, health.clone(), stop.clone());
        tasks.spawn(async move { ("the webhook", webhook.await) });
    }

    let elector = Elector::new(client.clone(), &o.namespace, &o.identity);
    let leader = Leader { client, options: o.clone(), ca: ca.clone(), registry, health };
    let mut leading = tokio::spawn(lead::run(leader, elector, stop.clone()));
    let mut renew = tokio::time::interval(SERVING_RENEW);
    let ended = loop {
        tokio::select! {
            // First, as everything ends after it.
            biased;
            () = stop.cancelled() => break Ok(()),
            r = &mut leading => break Err(over(r.map(|r| ("the election", r)))),
            Some(r) = tasks.join_next() => break Err(over(r)),
            _ = renew.tick() => {
                if let Err(e) = renew_serving(&ca, &o, &serving) {
                    break Err(e);
                }
            }
        }
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

async fn wait_for_ca(client: &Client, o: &OperatorOptions, health: &Health) -> Authority {
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

fn renew_serving(ca: &Authority, o: &OperatorOptions, to: &ArcSwapOption<rustls::ServerConfig>) -> Result<()> {
    let request = mew_tls::new_request()?;
    let chain_pem = ca.sign(&request.pem, &SpiffeId::operator(&o.trust_domain), &o.dns, SERVING_SECONDS)?;
    to.store(Some(server_config(&Material { chain_pem, key_pem: request.key_pem }, None)?));
    Ok(())
}
