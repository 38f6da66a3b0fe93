//! The operator on a directory of manifests: the same planner, without Kubernetes.
//!
//! It listens on a Unix socket in its state directory (only this user may open it); agents, `mew get` and `mew describe`
//! use it. What an API server would keep (generations, creation times, status) is kept there as JSON.

mod backend;
mod ca;
mod objects;
mod trust;

pub use ca::{kept_authorities, replace_authorities};
pub use trust::{bundle_name, import};

use anyhow::{Context, Result, bail};
use backend::FilesBackend;
use ca::{Followed, authorities};
use mew_control::{ControlService, Registry};
use mew_plan::{Doubts, Inputs, plan};
use objects::State;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;

/// Whether manifests have changed is looked at this often; they are few.
const LOOK: Duration = Duration::from_millis(100);
/// Everything is planned this often even if nothing has changed: time alone makes an agent silent.
const PLAN: Duration = Duration::from_millis(500);
/// Reports that come close together are planned together.
const GATHER: Duration = Duration::from_millis(50);
/// What is still open after this is cut off.
const DRAIN: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct RunOptions {
    pub manifests: Vec<PathBuf>,
    pub state: PathBuf,
    /// Of objects that name none.
    pub namespace: String,
    pub trust_domain: String,
    /// Of agents' certificates.
    pub certificate_lifetime: Duration,
}

pub fn socket(state: &Path) -> PathBuf {
    state.join("operator.sock")
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Runs until `stop`.
pub async fn run(options: RunOptions, stop: CancellationToken) -> Result<()> {
    mew_tls::install_provider();
    std::fs::create_dir_all(&options.state)
        .with_context(|| format!("the state directory {}", options.state.display()))?;
    std::fs::set_permissions(&options.state, std::fs::Permissions::from_mode(0o700))?;
    let cas = watch::Sender::new(Arc::new(authorities(&options.state, &options.trust_domain, now_ms())?));
    let mut followed = Followed::new(&options.state);
    let listener = listen(&socket(&options.state))?;
    let registry = Arc::new(Registry::default());
    let backend = Arc::new(FilesBackend::new(options.clone(), cas.subscribe(), registry.clone()));
    let service = ControlService {
        backend: backend.clone(),
        registry: registry.clone(),
        trust_domain: options.trust_domain.clone(),
        stop: stop.clone(),
    };
    let server = tonic::transport::Server::builder()
        .add_service(service.into_server())
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.clone().cancelled_owned());
    let server = tokio::spawn(server);
    tracing::info!(trust_domain = %options.trust_domain, socket = %socket(&options.state).display(), "operator is ready");

    let mut state = State::load(&options)?;
    let since_ms = now_ms();
    let mut tick = tokio::time::interval(LOOK);
    let (mut planned, mut seen) = (None::<Instant>, Vec::new());
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => {
                let now = objects::marks(&options.manifests);
                let current = cas.borrow().clone();
                if let Some(next) = followed.changed(&current) {
                    tracing::info!(signer = next.signer().root(), "the CAs were changed");
                    cas.send_replace(Arc::new(next));
                } else if now == seen && planned.is_some_and(|p| p.elapsed() < PLAN) {
                    continue;
                }
                seen = now;
            }
            () = registry.changed.notified() => tokio::time::sleep(GATHER).await,
        }
        planned = Some(Instant::now());
        state.read_manifests(&options, now_ms());
        let (agents, own_roots) = (registry.states(), cas.borrow().roots());
        let p = plan(&Inputs {
            trust_domain: &options.trust_domain,
            own_roots: &own_roots,
            objects: &state.objects,
            agents: &agents,
            now_ms: now_ms(),
            since_ms,
            doubts: Doubts::default(),
        });
        registry.deliver(&p.snapshots, now_ms());
        registry.forget(&p.unused, now_ms());
        if state.take_status(p) {
            state.save(&options)?;
        }
        backend.publish(&state);
    }
    if tokio::time::timeout(DRAIN, server).await.is_err() {
        tracing::warn!("attachments were cut off");
    }
    let _ = std::fs::remove_file(socket(&options.state));
    Ok(())
}

/// Takes over a socket that a killed operator left behind, but not one that somebody serves.
fn listen(path: &Path) -> Result<UnixListener> {
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            bail!("another operator is running on {}", path.display());
        }
        std::fs::remove_file(path)?;
    }
    let l = UnixListener::bind(path).with_context(|| format!("the socket {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(l)
}
