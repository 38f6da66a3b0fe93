//! The service itself.

use crate::authorities::Authorities;
use crate::claims::{Claim, Registry};
use crate::strangers::{Bounded, Known};
use mew_contract::problem::shortened;
use mew_contract::{MAX_MESSAGE, Report};
use mew_plan::KernelName;
use mew_tls::SpiffeId;
use mew_wire::agent_message::Body as AgentBody;
use mew_wire::control_server::{Control, ControlServer};
use mew_wire::operator_message::Body;
use mew_wire::{
    AgentMessage, Drained, Hello, ObjectsRequest, ObjectsResponse, OperatorMessage, OwnRoots, SignRequest,
    SignResponse, Standby, Welcome,
};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// An agent reports at least every few seconds; one that says nothing for this long has lost the connection.
const SILENT: Duration = Duration::from_secs(30);
/// An agent is handed one snapshot at a time, and the newest after it: it would get to another one no sooner, and with thousands
/// of objects each takes it a while. After this it gets the newest all the same: a withdrawal is not to wait for an answer.
const UNDER_WAY: Duration = Duration::from_secs(4);
const QUEUE: usize = 8;
/// Lines that an agent may leave in the log when it ends; it sends half as many.
const MAX_LEFT: usize = 64;

/// What differs between Kubernetes and a directory of manifests.
#[tonic::async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Which kernel a caller may speak for. `token` is its bearer token, `kernel` what it claims.
    async fn authenticate(&self, token: Option<&str>, kernel: &str) -> Result<KernelName, Status>;
    /// Objects with their status, as JSON, for `mew get`.
    fn objects(&self, kind: &str, name: &str) -> Result<Vec<String>, Status>;
    /// Fails with where to go instead, if this replica does not serve agents now. It is asked right before each thing that only
    /// the leader may do.
    fn serves(&self) -> Result<(), Status>;
    /// The CAs of the trust domain, as they are now and as they change.
    fn authorities(&self) -> watch::Receiver<Arc<Authorities>>;
    /// How long a new certificate of an agent is valid.
    fn certificate_lifetime(&self) -> Duration;
}

pub struct ControlService<B> {
    pub backend: Arc<B>,
    pub registry: Arc<Registry>,
    pub trust_domain: String,
    /// Ends all attachments.
    pub stop: CancellationToken,
}

impl<B: Backend> ControlService<B> {
    /// As it is served.
    pub fn into_server(self) -> Bounded<Self> {
        let server = ControlServer::new(self);
        Bounded::new(server.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
    }
}

fn token<T>(r: &Request<T>) -> Option<String> {
    r.metadata().get("authorization")?.to_str().ok()?.strip_prefix("Bearer ").map(str::to_owned)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

type Sender = mpsc::Sender<Result<OperatorMessage, Status>>;

async fn send(tx: &Sender, body: Body) -> Result<(), ()> {
    tx.send(Ok(OperatorMessage { body: Some(body) })).await.map_err(|_| ())
}

#[tonic::async_trait]
impl<B: Backend> Control for ControlService<B> {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<OperatorMessage, Status>> + Send>>;

    async fn attach(&self, req: Request<Streaming<AgentMessage>>) -> Result<Response<Self::AttachStream>, Status> {
        let mut ended = self.registry.ended();
        self.backend.serves()?;
        let token = token(&req);
        let known = req.extensions().get::<Known>().cloned().unwrap_or_default();
        let mut from = req.into_inner();
        let first =
            tokio::time::timeout(SILENT, from.message()).await.map_err(|_| Status::deadline_exceeded("no hello"))??;
        let Some(AgentBody::Hello(hello)) = first.and_then(|m| m.body) else {
            return Err(Status::invalid_argument("the first message must be hello"));
        };
        let kernel = self.backend.authenticate(token.as_deref(), &hello.kernel).await?;
        known.admit();
        // Another replica may lead by now.
        self.backend.serves()?;
        if ended.has_changed().unwrap_or(true) {
            return Err(Status::unavailable("no longer the leader"));
        }
        let (tx, rx) = mpsc::channel(QUEUE);
        let session = Session {
            backend: self.backend.clone(),
            registry: self.registry.clone(),
            authorities: self.backend.authorities(),
            trust_domain: self.trust_domain.clone(),
            kernel,
            hello,
        };
        let stop = self.stop.child_token();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = ended.changed() => {}
                () = session.run(from, tx) => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    async fn sign(&self, req: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        self.backend.serves()?;
        let token = token(&req);
        let r = req.into_inner();
        let kernel = self.backend.authenticate(token.as_deref(), &r.kernel).await?;
        // Another replica may lead by now.
        self.backend.serves()?;
        let cas = self.backend.authorities().borrow().clone();
        let id = SpiffeId::kernel(&self.trust_domain, &kernel.kernel_id());
        let seconds = self.backend.certificate_lifetime().as_secs() as i64;
        let chain_pem = cas
            .signer()
            .authority()
            .sign(&r.csr_pem, &id, &[], seconds)
            .map_err(|e| Status::invalid_argument(format!("the request cannot be signed: {e}")))?;
        tracing::info!(%id, "signed a certificate");
        Ok(Response::new(SignResponse { chain_pem, ca_pem: cas.bundle() }))
    }

    async fn objects(&self, req: Request<ObjectsRequest>) -> Result<Response<ObjectsResponse>, Status> {
        let r = req.into_inner();
        Ok(Response::new(ObjectsResponse { json: self.backend.objects(&r.kind, &r.name)? }))
    }
}

struct Session<B> {
    backend: Arc<B>,
    registry: Arc<Registry>,
    authorities: watch::Receiver<Arc<Authorities>>,
    trust_domain: String,
    kernel: KernelName,
    hello: Hello,
}

/// Gives the kernel up however the session ends.
struct Held<'a>(&'a Registry, &'a KernelName, u64);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.release(self.1, self.2);
    }
}

impl<B: Backend> Session<B> {
    async fn run(mut self, mut from: Streaming<AgentMessage>, tx: Sender) {
        let id = loop {
            // Who has waited for long, or a replica that was stopped for a while, comes here when another one leads.
            if let Err(s) = self.backend.serves() {
                let _ = tx.send(Err(s)).await;
                return;
            }
            match self.registry.claim(&self.kernel, &self.hello.instance, &self.hello.incarnation, now_ms()) {
                Claim::Held(id) => break id,
                Claim::Refused(p) => {
                    let _ = tx.send(Err(Status::failed_precondition(p.message))).await;
                    return;
                }
                Claim::Standby(message, mut released) => {
                    if send(&tx, Body::Standby(Standby { message })).await.is_err() {
                        return;
                    }
                    tokio::select! {
                        r = released.changed() => if r.is_err() { return },
                        // A standby that goes away must not hold its place.
                        m = from.next() => if !matches!(m, Some(Ok(_))) { return },
                    }
                }
            }
        };
        let _held = Held(&self.registry, &self.kernel, id);
        tracing::info!(kernel = %self.kernel.name, instance = %self.hello.instance, "agent attached");
        let welcome = Welcome { kernel_id: self.kernel.kernel_id(), trust_domain: self.trust_domain.clone() };
        if send(&tx, Body::Welcome(welcome)).await.is_err() {
            return;
        }
        let mut snapshots = self.registry.snapshots(&self.kernel);
        snapshots.mark_changed();
        self.authorities.mark_changed();
        let mut heard = Instant::now();
        // The snapshot that it has not answered yet, and until when it has the time to.
        let mut under_way: Option<(String, Instant)> = None;
        loop {
            tokio::select! {
                r = snapshots.changed(), if under_way.is_none() => {
                    if r.is_err() {
                        return;
                    }
                    let Some((digest, bytes)) = self.registry.hand_out(&self.kernel, &mut snapshots) else { continue };
                    under_way = Some((digest, Instant::now() + UNDER_WAY));
                    // A peer that does not read any more is as gone as one that does not speak.
                    match tokio::time::timeout(SILENT, send(&tx, Body::Snapshot(bytes.into()))).await {
                        Ok(Ok(())) => {}
                        _ => return,
                    }
                }
                () = sleep_until(under_way.as_ref().map_or(heard, |(_, end)| *end)), if under_way.is_some() => {
                    under_way = None;
                }
                r = self.authorities.changed() => {
                    if r.is_err() {
                        return;
                    }
                    let cas = self.authorities.borrow_and_update().clone();
                    let roots = OwnRoots { pem: cas.bundle(), signer: cas.signer().root().to_owned() };
                    match tokio::time::timeout(SILENT, send(&tx, Body::Roots(roots))).await {
                        Ok(Ok(())) => {}
                        _ => return,
                    }
                }
                m = tokio::time::timeout_at(heard + SILENT, from.message()) => match m {
                    Ok(Ok(Some(m))) => {
                        heard = Instant::now();
                        match m.body {
                        Some(AgentBody::Report(b)) => match serde_json::from_slice::<Report>(&b) {
                            Ok(r) => self.registry.report(&self.kernel, id, r, now_ms()),
                            Err(e) => tracing::warn!(kernel = %self.kernel.name, error = %e, "a report that cannot be read"),
                        },
                        Some(AgentBody::Accepted(a)) if under_way.as_ref().is_some_and(|(d, _)| *d == a.digest) => {
                            under_way = None;
                        }
                        Some(AgentBody::Drained(d)) => return self.drained(&d),
                        _ => {}
                    }
                    },
                    _ => {
                        tracing::info!(kernel = %self.kernel.name, instance = %self.hello.instance, "agent detached");
                        return;
                    }
                },
            }
        }
    }

    /// The agent has ended, and says what its peers have not got.
    fn drained(&self, d: &Drained) {
        let (kernel, instance) = (&self.kernel.name, &self.hello.instance);
        if d.left.is_empty() {
            tracing::info!(%kernel, %instance, "the agent has ended; its peers have everything");
        }
        for line in d.left.iter().take(MAX_LEFT) {
            tracing::warn!(%kernel, %instance, "the agent has ended, and something is left: {}", shortened(line));
        }
    }
}
