//! All links of an agent: a thread per link runs its state machine, tasks move frames, commits wake them.

use crate::certificates::{Certificates, NamedCertificate};
use crate::dial::{self, Opened};
use crate::handover::Handover;
use crate::held;
use crate::outbox::{OUTBOX, Outbox, Outgoing, outbox};
use crate::records::{self, Voices};
use crate::traffic::{Traffic, data_bytes};
use arc_swap::ArcSwapOption;
use mew_contract::{FlowReport, Problem, Reason, RemoteItem, RemoteReport, SyncItem};
use mew_kernel::Kernel;
use mew_sync::{ConnId, Connected, Effect, Event, Link, Local, Now};
use mew_tls::{Material, Peer, SpiffeId, Trust, server_config};
use mew_wire as wire;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;

/// Frames of a link that wait for its thread; beyond them the peer's stream is not read.
const INBOX: usize = 64;
/// A link is looked at this often even if nothing happens, so that its report (the lag) is true.
pub(crate) const LOOK: Duration = Duration::from_millis(500);
/// A link that is busy with its disk for longer has its report believed late rather than hold up the attachment.
const SETTLE: Duration = Duration::from_secs(2);
/// A link that has said nothing for this long is stuck; what it said last is no longer known to be true.
const STALE: Duration = Duration::from_secs(10);

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
    /// What the federation port accepts with; rebuilt when Remotes or the own certificate change.
    pub server: Arc<ArcSwapOption<rustls::ServerConfig>>,
    pub counters: Arc<Counters>,
}

struct Shared {
    certificates: Mutex<Certificates>,
    next_conn: AtomicU64,
    started: Instant,
    clock_offset_ms: i64,
}

impl Shared {
    fn wall_ms(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        now.saturating_add_signed(self.clock_offset_ms)
    }
}

/// What a link said of itself, when, and under which configuration.
pub(crate) struct Said {
    epoch: u64,
    at: Instant,
    pub(crate) remote: RemoteReport,
    pub(crate) flows: Vec<FlowReport>,
}

impl Said {
    pub(crate) fn is_fresh(&self) -> bool {
        self.at.elapsed() < STALE
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

enum Message {
    Event(Event, Option<tokio::sync::OwnedSemaphorePermit>),
    Opened(Connected, Outbox, CancellationToken),
    /// The Remote and its Syncs, and a bell for when they are in force and reported.
    Configure(u64, Box<RemoteItem>, Vec<SyncItem>, Sender<()>),
    Wake,
    Stop,
}

pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// Must be called inside a tokio runtime.
    pub fn new(kernel: Arc<Kernel>, config: HubConfig) -> Arc<Self> {
        let hub = Arc::new(Hub {
            kernel: kernel.clone(),
            local: Local { agent_version: config.agent_version, save_every: mew_sync::SAVE_EVERY },
            observer: config.observer,
            runtime: Handle::current(),
            shared: Arc::new(Shared {
                certificates: Mutex::default(),
                next_conn: AtomicU64::new(1),
                started: Instant::now(),
                clock_offset_ms: config.clock_offset_ms,
            }),
            links: Mutex::default(),
            voices: Voices::default(),
            config: Mutex::default(),
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
            for r in remotes {
                let mine: Vec<SyncItem> = syncs.iter().filter(|s| s.remote == r.name).cloned().collect();
                if let Some(l) = links.get(&r.name) {
                    let _ = l.events.send(Message::Configure(l.epoch, Box::new(r), mine, done.clone()));
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
        self.configure(remotes, syncs);
    }

    pub(crate) fn configured(&self) -> (Vec<RemoteItem>, Vec<SyncItem>) {
        lock(&self.config).clone()
    }

    pub fn report(&self) -> (Vec<RemoteReport>, Vec<FlowReport>) {
        let (mut remotes, mut flows) = (Vec::new(), Vec::new());
        let now_ms = self.wall_ms();
        for l in lock(&self.links).values() {
            if let Some(s) = lock(&l.report).as_ref().filter(|s| s.epoch == l.epoch && s.is_fresh()) {
                let mut remote = s.remote.clone();
                if let Some(name) = &l.config.certificate {
                    lock(&self.shared.certificates).complete(name, now_ms, &mut remote);
                }
                remotes.push(remote);
                flows.extend(s.flows.iter().cloned());
            }
        }
        (remotes, flows)
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
        let id = trust(&links).readmits(peer).map_err(|why| {
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
        };
        let stop = l.stop.child_token();
        let _ = l.events.send(Message::Opened(connected, tx, stop.clone()));
        self.runtime.spawn(read(conn, "the peer".into(), frames, l.events.clone(), l.inbox.clone(), stop));
        Ok(rx)
    }

    fn start(&self, r: &RemoteItem) -> LinkHandle {
        let (tx, rx) = channel();
        let handle = LinkHandle {
            events: tx.clone(),
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
        let run = Runner {
            link: Link::new(self.local.clone(), r.clone(), &self.kernel),
            kernel: self.kernel.clone(),
            observer: self.observer.clone(),
            shared: self.shared.clone(),
            runtime: self.runtime.clone(),
            counters: self.counters.clone(),
            events: tx,
            inbox: handle.inbox.clone(),
            woken: handle.woken.clone(),
            report: handle.report.clone(),
            traffic: handle.traffic.clone(),
            epoch: 0,
            handover: Handover::default(),
            stop: handle.stop.clone(),
            conns: HashMap::new(),
            random: std::hash::RandomState::new(),
            draws: 0,
        };
        let name = format!("link {}", r.name);
        if let Err(e) = std::thread::Builder::new().name(name).spawn(move || run.run(&rx)) {
            tracing::error!(error = %e, "a link's thread cannot be started");
        }
        handle
    }

    /// Ends all links; what is in flight is sent again by whoever continues.
    pub fn shutdown(&self) {
        for (_, l) in std::mem::take(&mut *lock(&self.links)) {
            l.stop.cancel();
            let _ = l.events.send(Message::Stop);
        }
    }
}

struct Runner {
    link: Link,
    observer: Option<Observer>,
    kernel: Arc<Kernel>,
    shared: Arc<Shared>,
    runtime: Handle,
    counters: Arc<Counters>,
    events: Sender<Message>,
    inbox: Arc<Semaphore>,
    woken: Arc<AtomicBool>,
    report: Arc<Mutex<Option<Said>>>,
    traffic: Arc<Traffic>,
    epoch: u64,
    handover: Handover,
    stop: CancellationToken,
    conns: HashMap<ConnId, (Outbox, CancellationToken)>,
    random: std::hash::RandomState,
    draws: u64,
}

impl Runner {
    fn now(&self) -> Now {
        Now { wall_ms: self.shared.wall_ms(), mono_ms: self.shared.started.elapsed().as_millis() as u64 }
    }

    fn run(mut self, rx: &Receiver<Message>) {
        loop {
            let due = self.link.wake_at().map(|t| Duration::from_millis(t.saturating_sub(self.now().mono_ms)));
            let event = match rx.recv_timeout(due.map_or(LOOK, |d| d.min(LOOK))) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Message::Wake) => {
                    self.woken.store(false, Ordering::Release);
                    Event::Wake
                }
                Err(RecvTimeoutError::Timeout) => Event::Wake,
                Ok(Message::Configure(epoch, r, syncs, done)) => {
                    self.epoch = epoch;
                    self.handle(Event::Configure(r, syncs));
                    let _ = done.send(());
                    continue;
                }
                Ok(Message::Opened(c, tx, stop)) => {
                    self.conns.insert(c.conn, (tx, stop));
                    Event::Connected(c)
                }
                // The permit is given back when the event has been handled.
                Ok(Message::Event(e, permit)) => {
                    self.handle(e);
                    drop(permit);
                    continue;
                }
            };
            self.handle(event);
        }
    }

    fn observe(&self, f: &wire::Frame, passing: Passing) {
        if let Some(o) = &self.observer {
            o(f, passing);
        }
    }

    fn handle(&mut self, e: Event) {
        use std::hash::BuildHasher;
        if let Event::Frame(_, f) = &e {
            self.traffic.received(data_bytes(f));
            self.observe(f, Passing::Received);
        }
        if let Event::Closed(conn, _) = &e {
            self.conns.remove(conn);
            self.counters.reconnections.fetch_add(1, Ordering::Relaxed);
        }
        match &e {
            Event::Connected(_) | Event::Closed(..) => {
                if let Some(s) = lock(&self.report).as_ref() {
                    self.handover.begin(Instant::now(), &s.remote, &s.flows);
                }
            }
            // What was said before is not about this configuration.
            Event::Configure(..) => self.handover = Handover::default(),
            _ => {}
        }
        if matches!(e, Event::ConnectFailed(_)) {
            self.counters.connection_errors.fetch_add(1, Ordering::Relaxed);
        }
        self.draws += 1;
        let random = self.random.hash_one(self.draws);
        let now = self.now();
        for effect in self.link.handle(now, random, e, &self.kernel) {
            match effect {
                Effect::Send(conn, frame) => {
                    if let Some((tx, _)) = self.conns.get(&conn) {
                        self.observe(&frame, Passing::BeforeSend);
                        let copy = self.observer.as_ref().map(|_| frame.clone());
                        let bytes = data_bytes(&frame);
                        if !tx.send(frame) {
                            self.give_up(conn);
                            continue;
                        }
                        self.traffic.sent(bytes);
                        if let Some(f) = copy {
                            self.observe(&f, Passing::Sent);
                        }
                    }
                }
                Effect::Close(conn) => {
                    if let Some((_, stop)) = self.conns.remove(&conn) {
                        stop.cancel();
                    }
                }
                Effect::Dial => self.dial(),
            }
        }
        let (remote, flows) = self.link.report(now.wall_ms, &self.kernel);
        let (remote, flows) = self.handover.say(Instant::now(), remote, flows);
        *lock(&self.report) = Some(Said { epoch: self.epoch, at: Instant::now(), remote, flows });
    }

    /// The peer sends and does not read what it is answered; nothing is kept for it any longer.
    fn give_up(&mut self, conn: ConnId) {
        let Some((tx, stop)) = self.conns.remove(&conn) else { return };
        tx.discard();
        stop.cancel();
        let why = format!("the peer does not read what it is sent: {OUTBOX} messages wait for it");
        let closed = Event::Closed(conn, Some(Problem::new(Reason::Unreachable, why)));
        let _ = self.events.send(Message::Event(closed, None));
    }

    fn dial(&self) {
        let conn = self.shared.next_conn.fetch_add(1, Ordering::Relaxed);
        let config = self.link.config();
        let own = lock(&self.shared.certificates).to_dial(config.certificate.as_deref(), self.shared.wall_ms());
        let (config, events, inbox, stop) =
            (config.clone(), self.events.clone(), self.inbox.clone(), self.stop.child_token());
        self.runtime.spawn(async move {
            match dial::dial(&config, own, conn).await {
                Err(p) => drop(events.send(Message::Event(Event::ConnectFailed(p), None))),
                Ok(Opened { connected, frames, sender }) => {
                    let at = connected.endpoint.clone();
                    let _ = events.send(Message::Opened(connected, sender, stop.clone()));
                    read(conn, at, frames, events, inbox, stop).await;
                }
            }
        });
    }
}

/// Moves frames from the stream to the link until either ends.
async fn read<S>(
    conn: ConnId,
    at: String,
    mut frames: S,
    events: Sender<Message>,
    inbox: Arc<Semaphore>,
    stop: CancellationToken,
) where
    S: Stream<Item = Result<wire::Frame, tonic::Status>> + Send + Unpin,
{
    let why: Option<Problem> = loop {
        let permit = tokio::select! {
            () = stop.cancelled() => return,
            p = inbox.clone().acquire_owned() => p.ok(),
        };
        let next = tokio::select! {
            () = stop.cancelled() => return,
            f = frames.next() => f,
        };
        match next {
            Some(Ok(f)) => {
                if events.send(Message::Event(Event::Frame(conn, f), permit)).is_err() {
                    return;
                }
            }
            Some(Err(s)) => break Some(dial::session_problem(&at, &s)),
            None => break None,
        }
    };
    let _ = events.send(Message::Event(Event::Closed(conn, why), None));
}
