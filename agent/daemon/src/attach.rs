//! The attachment: snapshots come, reports go. While the operator is away, the last snapshot stays in force.

use crate::certificate::{self, OwnTrust, Renewal, Validity};
use crate::health::Health;
use crate::older::UnknownFields;
use crate::operator::{OperatorChannel, Refusal};
use crate::state::{Identity, StateDir};
use crate::{AgentOptions, VERSION};
use anyhow::{Context, Result, bail};
use mew_contract::report::Names;
use mew_contract::{MAX_MESSAGE, Problem, Reason, Rejection, Report, Snapshot};
use mew_kernel::Kernel;
use mew_net::Hub;
use mew_wire::agent_message::Body as AgentBody;
use mew_wire::control_client::ControlClient;
use mew_wire::operator_message::Body as OperatorBody;
use mew_wire::{Accepted, AgentMessage, Drained, Hello, OperatorMessage, OwnRoots};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// A changed state is reported this often at most, an unchanged one this seldom.
const REPORT_CHANGED: Duration = Duration::from_millis(250);
const REPORT_UNCHANGED: Duration = Duration::from_secs(5);
/// Between tries to reach the operator.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Between tries to keep a snapshot.
const KEEP_UP: Duration = Duration::from_secs(2);
const QUEUE: usize = 16;
/// The operator ends the attachment when it has heard the last words; one that does not is not waited for.
const FAREWELL: Duration = Duration::from_secs(1);
/// What an agent that failed says is left.
const NOT_DRAINED: &str = "this agent failed and did not drain: what its peers have not got is not known";

fn hello(options: &AgentOptions, dir: &StateDir) -> AgentMessage {
    let h = Hello {
        kernel: options.kernel.clone(),
        incarnation: dir.incarnation().to_owned(),
        instance: options.instance.clone(),
        agent_version: VERSION.to_owned(),
    };
    AgentMessage { body: Some(AgentBody::Hello(h)) }
}

struct Stream {
    tx: mpsc::Sender<AgentMessage>,
    rx: tonic::Streaming<OperatorMessage>,
    channel: OperatorChannel,
}

async fn open(options: &AgentOptions, dir: &StateDir) -> Result<Stream> {
    let channel = options.operator.connect_knowing(dir.roots().as_deref()).await?;
    let (tx, rx) = mpsc::channel(QUEUE);
    tx.send(hello(options, dir)).await.ok();
    let rx = ControlClient::new(channel.clone())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
        .attach(ReceiverStream::new(rx))
        .await
        .map_err(|s| Refusal::of(&s))?
        .into_inner();
    Ok(Stream { tx, rx, channel })
}

/// Asks until the operator says who this kernel is; `None` if stopped before.
pub async fn first_identity(
    options: &AgentOptions,
    dir: &StateDir,
    health: &Health,
    stop: &CancellationToken,
) -> Option<Identity> {
    let ask = async {
        let mut wait = RETRY_MIN;
        loop {
            let r = async {
                let mut s = open(options, dir).await?;
                while let Some(m) = s.rx.message().await.map_err(|s| Refusal::of(&s))? {
                    match m.body {
                        Some(OperatorBody::Welcome(w)) => {
                            return Ok(Identity { kernel_id: w.kernel_id, trust_domain: w.trust_domain });
                        }
                        Some(OperatorBody::Standby(b)) => health.set_standby(Some(b.message)),
                        _ => {}
                    }
                }
                bail!("the operator ended the attachment")
            };
            match r.await {
                Ok(i) => return i,
                // Another pod of the workload is this kernel until it ends, with data that ends with it; it would never end
                // if this one were not ready before.
                Err(e) if options.ephemeral && is_refused_claim(&e) => health.set_standby(Some(format!("{e:#}"))),
                Err(e) => {
                    health.set_unidentified(format!("{e:#}"));
                    // Whoever holds it now does not end because this one waits.
                    if is_refused_claim(&e) {
                        health.set_standby(None);
                    }
                    tracing::warn!("{e:#}");
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    };
    tokio::select! {
        () = stop.cancelled() => None,
        i = ask => Some(i),
    }
}

/// Whether the operator says that another directory holds the kernel.
fn is_refused_claim(e: &anyhow::Error) -> bool {
    e.downcast_ref::<Refusal>().is_some_and(|r| r.code == tonic::Code::FailedPrecondition)
}

pub struct Attachment {
    pub options: AgentOptions,
    pub dir: StateDir,
    pub identity: Identity,
    pub kernel: Arc<Kernel>,
    pub hub: Arc<Hub>,
    pub health: Health,
    pub unknown: UnknownFields,
    /// What peers had not got when the agent ended, once that is known; never, if it failed.
    pub left: Arc<OnceLock<Vec<String>>>,
}

/// What is in force.
#[derive(Default)]
struct InForce {
    digest: String,
    /// What it holds, by name.
    names: Names,
    rejected: Vec<Rejection>,
    certificate: Option<Validity>,
    renewal: Renewal,
    /// What the operator has said of its roots.
    own: Option<OwnTrust>,
    random: RandomState,
    /// The snapshot, if it could not be kept for the next start yet: a full disk must not end the attachment.
    unsaved: Option<Vec<u8>>,
}

impl Attachment {
    pub async fn run(self, stop: CancellationToken) -> Result<()> {
        let certificate = certificate::load(&self.dir, &self.hub, self.hub.wall_ms());
        let mut force = InForce { certificate, ..InForce::default() };
        if let Some(bytes) = self.dir.snapshot() {
            match self.apply(&bytes, &mut force) {
                Ok(()) => tracing::info!("going on with the last snapshot until the operator answers"),
                Err(e) => tracing::error!("the last snapshot cannot be used: {e:#}"),
            }
        }
        let mut wait = RETRY_MIN;
        while !stop.is_cancelled() {
            let was = std::time::Instant::now();
            if let Err(e) = self.attached(&mut force, &stop).await {
                self.health.set_attached(false);
                tracing::warn!("{e:#}");
            }
            // Long attachments start the schedule anew.
            wait = if was.elapsed() > RETRY_MAX { RETRY_MIN } else { (wait * 2).min(RETRY_MAX) };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        }
        Ok(())
    }

    /// How it ended, and what is left; then the claim on the kernel is given up.
    async fn leave(&self, s: Stream, last: Option<Report>) -> Result<()> {
        let Stream { tx, mut rx, channel: _channel } = s;
        if let Some(r) = last {
            tx.send(AgentMessage { body: Some(AgentBody::Report(serde_json::to_vec(&r)?.into())) }).await?;
        }
        let left = self.left.get().cloned().unwrap_or_else(|| vec![NOT_DRAINED.to_owned()]);
        tx.send(AgentMessage { body: Some(AgentBody::Drained(Drained { left })) }).await?;
        drop(tx);
        while rx.message().await?.is_some() {}
        Ok(())
    }

    async fn attached(&self, force: &mut InForce, stop: &CancellationToken) -> Result<()> {
        let mut s = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            s = open(&self.options, &self.dir) => s?,
        };
        let mut tick = tokio::time::interval(REPORT_CHANGED);
        let mut last: (Option<Report>, std::time::Instant) = (None, std::time::Instant::now());
        let mut keep_up_at = std::time::Instant::now();
        let mut welcome = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    let last = welcome.then(|| self.report(force));
                    let _ = tokio::time::timeout(FAREWELL, self.leave(s, last)).await;
                    return Ok(());
                }
                m = s.rx.message() => match m.map_err(|s| Refusal::of(&s))?.and_then(|m| m.body) {
                    None => bail!("the operator ended the attachment"),
                    Some(OperatorBody::Standby(b)) => {
                        // Somebody else is this kernel now: two of them must not speak for it.
                        tokio::task::block_in_place(|| self.hub.stand_by());
                        force.digest.clear();
                        force.names = Names::default();
                        self.health.set_standby(Some(b.message));
                    }
                    Some(OperatorBody::Welcome(w)) => {
                        if w.kernel_id != self.identity.kernel_id || w.trust_domain != self.identity.trust_domain {
                            bail!("this data directory belongs to {} of {}, the operator says {} of {}; use another directory",
                                self.identity.kernel_id, self.identity.trust_domain, w.kernel_id, w.trust_domain);
                        }
                        welcome = true;
                        self.health.set_standby(None);
                        self.health.set_attached(true);
                    }
                    Some(OperatorBody::Roots(r)) => self.learn(r, force),
                    Some(OperatorBody::Snapshot(bytes)) => {
                        self.apply(&bytes, force)?;
                        force.unsaved = Some(bytes.to_vec());
                        self.save(force);
                        s.tx.send(AgentMessage { body: Some(AgentBody::Accepted(Accepted { digest: force.digest.clone() })) }).await?;
                        last.0 = None;
                    }
                },
                _ = tick.tick(), if welcome => {
                    if keep_up_at <= std::time::Instant::now() {
                        keep_up_at = std::time::Instant::now() + KEEP_UP;
                        self.save(force);
                    }
                    if self.must_renew(force) {
                        self.renew(force, s.channel.clone()).await;
                    }
                    let r = self.report(force);
                    if last.0.as_ref() != Some(&r) || last.1.elapsed() >= REPORT_UNCHANGED {
                        let bytes = serde_json::to_vec(&r)?;
                        s.tx.send(AgentMessage { body: Some(AgentBody::Report(bytes.into())) }).await.ok().context("the operator ended the attachment")?;
                        last = (Some(r), std::time::Instant::now());
                    }
                }
            }
        }
    }

    /// Keeps the snapshot in force for the next start.
    fn save(&self, force: &mut InForce) {
        let Some(bytes) = &force.unsaved else { return };
        match self.dir.save_snapshot(bytes) {
            Ok(()) => force.unsaved = None,
            Err(e) => tracing::warn!("the snapshot is in force, and the next start would not know it: {e:#}"),
        }
    }

    /// Keeps the roots by which this agent will know its operator, also after the next start.
    fn learn(&self, r: OwnRoots, force: &mut InForce) {
        let trusted = match mew_tls::fingerprints(&r.pem) {
            Ok(trusted) if trusted.contains(&r.signer) => trusted,
            Ok(_) => return tracing::warn!("the operator signs by a root that it does not name"),
            Err(e) => return tracing::warn!("the operator's roots cannot be read: {e}"),
        };
        if self.dir.roots().as_deref() != Some(r.pem.as_str())
            && let Err(e) = self.dir.save_roots(&r.pem)
        {
            tracing::warn!("the operator's roots cannot be kept: {e:#}");
        }
        force.own = Some(OwnTrust { signer: r.signer, trusted });
    }

    /// Whether to ask for a certificate now.
    fn must_renew(&self, force: &mut InForce) -> bool {
        let (now_ms, now) = (self.hub.wall_ms(), std::time::Instant::now());
        let random = force.random.hash_one(now);
        force.renewal.is_due(force.certificate.as_ref(), force.own.as_ref(), now_ms, now, random)
    }

    async fn renew(&self, force: &mut InForce, channel: OperatorChannel) {
        let now_ms = self.hub.wall_ms();
        match certificate::renew(&self.options.kernel, channel, &self.dir, &self.hub, now_ms).await {
            Ok(v) => force.certificate = Some(v),
            Err(e) => tracing::warn!("{e:#}"),
        }
    }

    fn apply(&self, bytes: &[u8], force: &mut InForce) -> Result<()> {
        let mut s = Snapshot::decode(bytes).context("a snapshot that this agent cannot read")?;
        if s.kernel_id != self.identity.kernel_id {
            bail!("a snapshot for {}, this is {}", s.kernel_id, self.identity.kernel_id);
        }
        self.unknown.mark(&mut s);
        let (remotes, syncs, rejected) = s.items();
        for r in &rejected {
            tracing::error!(kind = %r.kind, name = %r.name, "{}", r.problem.message);
        }
        tokio::task::block_in_place(|| self.hub.configure(remotes, syncs));
        force.digest = Snapshot::digest(bytes);
        force.names = Names::of(&s);
        force.rejected = rejected;
        Ok(())
    }

    fn report(&self, force: &InForce) -> Report {
        let (remotes, syncs) = self.hub.report();
        let broken = self.kernel.broken().map(|w| Problem::new(Reason::SinkError, w));
        let ontology = self.health.ontology_problem().map(|w| Problem::new(Reason::OntologyMismatch, w));
        let report = Report {
            kernel_id: self.identity.kernel_id.clone(),
            incarnation: self.kernel.incarnation().to_owned(),
            agent_version: VERSION.to_owned(),
            snapshot: force.digest.clone(),
            rejected: force.rejected.clone(),
            remotes,
            syncs,
            silent: None,
            certificate_not_after_ms: force.certificate.as_ref().map(|v| v.until_ms),
            certificate_root: force.certificate.as_ref().and_then(|v| v.root.clone()),
            problem: broken.or(ontology),
        };
        report.holding(&force.names)
    }
}
