//! All links of an agent: what they are configured to, who may connect, and what they say of themselves. A thread per link
//! runs its state machine; see `runner`.

mod runner;

pub(crate) use runner::Said;

use crate::certificates::{Certificates, NamedCertificate};
use crate::held;
use crate::outbox::{Outgoing, outbox};
use crate::records::{self, Voices};
use crate::traffic::Traffic;
use arc_swap::ArcSwapOption;
use mew_contract::{FlowReport, Problem, Reason, RemoteItem, RemoteReport, SyncItem};
use mew_kernel::Kernel;
use mew_sync::{Connected, Event, Local, Outstanding};
use mew_tls::{Material, Peer, SpiffeId, Trust, server_config};
use mew_wire as wire;
use runner::{Message, Runner, read};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Frames of a link that wait for its thread; beyond them the peer's stream is not read.
const INBOX: usize = 64;
/// A link is looked at this often even if nothing happens, so that its report (the lag) is true.
pub(crate) const LOOK: Duration = Duration::from_millis(500);
/// A link that is busy with its disk for longer has its report believed late rather than hold up the attachment.
const SETTLE: Duration = Duration::from_secs(2);

/// When a frame is shown to an observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    BeforeSend,
    /// Handed to the connection.
    Sent,
    Received,
}

/// Sees every frame; for failpoints.
pub type Observer = Arc<dyn Fn(&wire::Frame, Passing) + Send + Sync>;

#[derive(Clone)]
pub struct HubConfig {
    pub agent_version: String,
    pub observer: Option<Observer>,
    /// By how much the wall clock is ahead of the machine's; zero, but for tests.
    pub clock_offset_ms: i64,
}

/// Totals for the metrics.
#[derive(Default)]
pub struct Counters {
    pub connection_errors: AtomicU64,
    pub reconnections: AtomicU64,
}

pub struct Hub {
    pub(crate) kernel: Arc<Kernel>,
    local: Local,
    observer: Option<Observer>,
    runtime: Handle,
    shared: Arc<Shared>,
    links: Mutex<BTreeMap<String, LinkHandle>>,
    pub(crate) voices: Voices,
    /// The configuration in force, to work it out anew when the ontology changes.
    config: Mutex<(Vec<RemoteItem>, Vec<SyncItem>)>,
    /// Remotes whose links ended as another agent is this kernel now: nobody here knows any more what their peers have.
    left_behind: Mutex<BTreeSet<String>>,
    /// What the federation port accepts with; rebuilt when Remotes or the own certificate change.
    pub server: Arc<ArcSwapOption<rustls::ServerConfig>>,
    pub counters: Arc<Counters>,
}

struct Shared {
    certificates: Mutex<Certificates>,
    /// Which root of the own trust domain this agent's own certificate is of.
    own_root: Mutex<Option<String>>,
    next_conn: AtomicU64,
    started: Instant,
    clock_offset_ms: i64,
    /// The agent ends: links say what is outstanding as well, and ring when they have said it.
    draining: AtomicBool,
    said: watch::Sender<()>,
    /// Whoever reads a peer's frames.
    readers: TaskTracker,
}

impl Shared {
    fn wall_ms(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        now.saturating_add_signed(self.clock_offset_ms)
    }
}

struct LinkHandle {
    events: Sender<Message>,
    peer: SpiffeId,
    inbox: Arc<Semaphore>,
    woken: Arc<AtomicBool>,
    report: Arc<Mutex<Option<Said>>>,
    traffic: Arc<Traffic>,
    /// Number of the configuration that the link was given last.
    epoch: u64,
    config: RemoteItem,
    stop: CancellationToken,
}

impl LinkHandle {
    /// Whether its peer may connect now.
    fn accepts(&self) -> bool {
        self.config.accept && !self.config.suspend && self.config.blocked.is_none()
    }
}

/// Whom these links let in, and by which roots.
fn trust(links: &BTreeMap<String, LinkHandle>) -> Trust {
    let mut trust = Trust::default();
    for l in links.values().filter(|l| l.accepts()) {
        // A bundle that cannot be read is this Remote's problem, said when it dials or is planned.
        if trust.add_roots(&l.config.peer_trust_domain, l.config.roots.iter().map(String::as_str)).is_ok() {
            trust.expect(l.peer.clone());
        }
    }
    trust
}

/// How roots are named; those that cannot be read let nobody in, and have no name.
fn fingerprints(pems: &[String]) -> Vec<String> {
    pems.iter().flat_map(|pem| mew_tls::fingerprints(pem).unwrap_or_default()).collect()
}

pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// Must be called inside a tokio runtime.
    pub fn new(kernel: Arc<Kernel>, config: HubConfig) -> Arc<Self> {
        let hub = Arc::new(Hub {
            kernel: kernel.clone(),
            local: Local { agent_version: config.agent_version, save_every: mew_sync::SAVE_EVERY, fingerprints },
            observer: config.observer,
            runtime: Handle::current(),
            shared: Arc::new(Shared {
                certificates: Mutex::default(),
                own_root: Mutex::default(),
                next_conn: AtomicU64::new(1),
                started: Instant::now(),
                clock_offset_ms: config.clock_offset_ms,
                draining: AtomicBool::new(false),
                said: watch::Sender::new(()),
                readers: TaskTracker::new(),
            }),
            links: Mutex::default(),
            voices: Voices::default(),
            config: Mutex::default(),
            left_behind: Mutex::default(),
            server: Arc::new(ArcSwapOption::empty()),
            counters: Arc::default(),
        });
        let weak = Arc::downgrade(&hub);
        kernel.on_commit(move |_| {
            if let Some(hub) = weak.upgrade() {
                hub.wake_all();
            }
        });
        held::watch(&hub);
        records::keep(&hub);
        hub
    }

    /// This agent's wall clock, milliseconds since 1970: what its versions carry.
    pub fn wall_ms(&self) -> u64 {
        self.shared.wall_ms()
    }

    fn wake_all(&self) {
        for l in lock(&self.links).values() {
            if !l.woken.swap(true, Ordering::AcqRel) {
                let _ = l.events.send(Message::Wake);
            }
        }
    }

    /// This agent's certificate and key; connections that are up stay up.
    pub fn set_material(&self, m: Material) {
        lock(&self.shared.certificates).set_own(m);
        self.rebuild_server(&lock(&self.links));
        self.wake_all();
    }

    /// Which root the certificate comes from, if it is known. Connections that showed one of another root are made anew, once
    /// the peer says that it accepts this one.
    pub fn set_own_root(&self, root: Option<String>) {
        lock(&self.shared.own_root).clone_from(&root);
        for l in lock(&self.links).values() {
            let _ = l.events.send(Message::Event(Event::OwnRoot(root.clone()), None));
        }
    }

    /// All certificates that Remotes may name in place of this agent's own. Where one is another than before, a new
    /// connection takes the place of the one that is up.
    pub fn set_certificates(&self, named: BTreeMap<String, NamedCertificate>) {
        let changed = lock(&self.shared.certificates).set_named(named);
        if changed.is_empty() {
            return;
        }
        let links = lock(&self.links);
        self.rebuild_server(&links);
        for l in links.values().filter(|l| l.config.certificate.as_ref().is_some_and(|c| changed.contains(c))) {
            let _ = l.events.send(Message::Event(Event::Renewed, None));
        }
    }

    /// Of two that rebuild at once, the later one has the newer links and certificates, as both hold the links.
    fn rebuild_server(&self, links: &BTreeMap<String, LinkHandle>) {
        // It is shown before anybody knows who comes, so all Remotes that accept name the same one.
        let name = links.values().find(|l| l.accepts()).and_then(|l| l.config.certificate.as_deref());
        let Some(own) = lock(&self.shared.certificates).to_accept(name) else { return self.server.store(None) };
        match server_config(&own, Some(trust(links))) {
            Ok(c) => self.server.store(Some(c)),
            Err(e) => tracing::error!(error = %e, "this agent's certificate cannot be used"),
        }
    }

    /// Takes the whole configuration: starts, changes and stops links. Blocks until each link has it (or is too busy to say
    /// so for [`SETTLE`]), so that a report made afterwards is about this configuration.
    pub fn configure(&self, remotes: Vec<RemoteItem>, syncs: Vec<SyncItem>) {
        self.put_in_force(remotes, syncs);
        // After it: whoever looks meanwhile finds a link or this.
        lock(&self.left_behind).clear();
    }

    /// Another agent is this kernel now: all links end.
    pub fn stand_by(&self) {
        let names: Vec<String> = lock(&self.links).keys().cloned().collect();
        // Before it, for the same reason. A second time there are no links, and what was left behind stays so.
        lock(&self.left_behind).extend(names);
        self.put_in_force(Vec::new(), Vec::new());
    }

    fn put_in_force(&self, remotes: Vec<RemoteItem>, syncs: Vec<SyncItem>) {
        *lock(&self.config) = (remotes.clone(), syncs.clone());
        let (done, settled) = channel();
        {
            let mut links = lock(&self.links);
            links.retain(|name, l| {
                let keep = remotes
                    .iter()
                    .any(|r| r.name == *name && SpiffeId::kernel(&r.peer_trust_domain, &r.peer_kernel_id) == l.peer);
                if !keep {
                    l.stop.cancel();
                    let _ = l.events.send(Message::Stop);
                }
                keep
            });
            for r in &remotes {
                let l = links.entry(r.name.clone()).or_insert_with(|| self.start(r));
                l.config = r.clone();
                l.epoch += 1;
            }
            // Before a link asks its peer to come anew because of another certificate.
            self.rebuild_server(&links);
            let own_root = lock(&self.shared.own_root).clone();
            for r in remotes {
                let mine: Vec<SyncItem> = syncs.iter().filter(|s| s.remote == r.name).cloned().collect();
                if let Some(l) = links.get(&r.name) {
                    let _ = l.events.send(Message::Configure(l.epoch, Box::new(r), mine, done.clone()));
                    let _ = l.events.send(Message::Event(Event::OwnRoot(own_root.clone()), None));
                }
            }
        }
        drop(done);
        // Ends with an error once every link has dropped its end.
        while settled.recv_timeout(SETTLE).is_ok() {}
    }

    /// The ontology has changed: what may pass and what patterns mean is worked out anew.
    pub fn refresh(&self) {
        let (remotes, syncs) = self.configured();
        self.put_in_force(remotes, syncs);
    }

    pub(crate) fn configured(&self) -> (Vec<RemoteItem>, Vec<SyncItem>) {
        lock(&self.config).clone()
    }

    pub fn report(&self) -> (Vec<RemoteReport>, Vec<FlowReport>) {
        let (mut remotes, mut flows) = (Vec::new(), Vec::new());
        for l in lock(&self.links).values() {
            if let Some(s) = lock(&l.report).as_ref().filter(|s| s.epoch == l.epoch && s.is_fresh()) {
                let mut remote = s.remote.clone();
                self.complete(&l.config, &mut remote);
                remotes.push(remote);
                flows.extend(s.flows.iter().cloned());
            }
        }
        (remotes, flows)
    }

    /// What a link cannot know of the certificate that its Remote names. The lock is held for a moment, as queries need it.
    pub(crate) fn complete(&self, config: &RemoteItem, said: &mut RemoteReport) {
        if let Some(name) = &config.certificate {
            lock(&self.shared.certificates).complete(name, self.wall_ms(), said);
        }
    }

    /// These entities changed: what they blocked may be applied now.
    pub(crate) fn changed(&self, ids: Vec<String>) {
        let ids = Arc::new(ids);
        for l in lock(&self.links).values() {
            let _ = l.events.send(Message::Event(Event::Changed(ids.clone()), None));
        }
    }

    /// Bytes of data sent and received since this process has each link, by Remote.
    pub fn traffic(&self) -> Vec<(String, u64, u64)> {
        let of = |(name, l): (&String, &LinkHandle)| {
            let (sent, received) = l.traffic.totals();
            (name.clone(), sent, received)
        };
        lock(&self.links).iter().map(of).collect()
    }

    /// A peer opens a session. Its certificate was verified when it connected, which may be long ago: what is configured
    /// now decides.
    pub(crate) fn inbound<S>(&self, peer: &Peer, frames: S) -> Result<Outgoing, tonic::Status>
    where
        S: Stream<Item = Result<wire::Frame, tonic::Status>> + Send + Unpin + 'static,
    {
        let denied = || tonic::Status::permission_denied("refused");
        let links = lock(&self.links);
        let trust = trust(&links);
        let id = trust.readmits(peer).map_err(|why| {
            tracing::warn!(address = %peer.address, reason = %why, "a peer was refused");
            denied()
        })?;
        let l = links.values().find(|l| l.peer == id && l.accepts()).ok_or_else(denied)?;
        let (tx, rx) = outbox();
        let conn = self.shared.next_conn.fetch_add(1, Ordering::Relaxed);
        let connected = Connected {
            conn,
            dialled: false,
            endpoint: peer.address.to_string(),
            certificate_not_after_ms: peer.not_after_ms,
            root: trust.root_of(peer),
        };
        let stop = l.stop.child_token();
        let _ = l.events.send(Message::Opened(connected, tx, stop.clone()));
        let reader = read(conn, "the peer".into(), frames, l.events.clone(), l.inbox.clone(), stop);
        self.runtime.spawn(self.shared.readers.track_future(reader));
        Ok(rx)
    }

    fn start(&self, r: &RemoteItem) -> LinkHandle {
        let (tx, rx) = channel();
        let handle = LinkHandle {
            events: tx,
            peer: SpiffeId::kernel(&r.peer_trust_domain, &r.peer_kernel_id),
            inbox: Arc::new(Semaphore::new(INBOX)),
            woken: Arc::default(),
            report: Arc::default(),
            traffic: Arc::default(),
            epoch: 0,
            config: r.clone(),
            stop: CancellationToken::new(),
        };
        self.voices.add(&handle.report);
        let run = Runner::new(self, &handle, r);
        let name = format!("link {}", r.name);
        if let Err(e) = std::thread::Builder::new().name(name).spawn(move || run.run(&rx)) {
            tracing::error!(error = %e, "a link's thread cannot be started");
        }
        handle
    }

    /// Waits until every sink that is connected has confirmed everything, at most for `limit`; whoever writes must have
    /// stopped. Returns what no sink has confirmed then, also of those that are not connected.
    pub async fn drain(&self, limit: Duration) -> Vec<Outstanding> {
        let mut said = self.shared.said.subscribe();
        self.shared.draining.store(true, Ordering::Release);
        self.wake_all();
        let settled = async {
            while !self.is_drained() {
                if said.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(limit, settled).await;
        let head = self.kernel.head();
        let mut left = Vec::new();
        let links = lock(&self.links);
        for (name, l) in links.iter() {
            match lock(&l.report).as_ref().and_then(|s| s.outstanding.as_ref()) {
                Some(o) => left.extend(o.iter().cloned()),
                None => left.push(Outstanding::unknown(name, head, None)),
            }
        }
        let another = Problem::new(Reason::KernelClaimed, "another agent is this kernel now");
        for name in lock(&self.left_behind).iter().filter(|n| !links.contains_key(*n)) {
            left.push(Outstanding::unknown(name, head, Some(another.clone())));
        }
        left
    }

    fn is_drained(&self) -> bool {
        lock(&self.links).values().all(|l| {
            let said = lock(&l.report);
            let outstanding = said.as_ref().and_then(|s| s.outstanding.as_ref());
            outstanding.is_some_and(|all| all.iter().all(|o| !o.waits))
        })
    }

    /// Tells all peers that this agent ends, and waits until they have closed their connections; who has not within
    /// `limit` is cut off. What the links said before is what they say last.
    pub async fn goodbye(&self, limit: Duration) {
        for l in lock(&self.links).values() {
            let _ = l.events.send(Message::Goodbye);
        }
        self.shared.readers.close();
        let _ = tokio::time::timeout(limit, self.shared.readers.wait()).await;
        for l in lock(&self.links).values() {
            l.stop.cancel();
        }
    }

    /// Ends all links; what is in flight is sent again by whoever continues.
    pub fn shutdown(&self) {
        for (_, l) in std::mem::take(&mut *lock(&self.links)) {
            l.stop.cancel();
            let _ = l.events.send(Message::Stop);
        }
    }
}
