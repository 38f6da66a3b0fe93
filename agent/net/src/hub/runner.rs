//! A link's thread: runs its state machine, carries out what it decides, and says how it is.

use super::{Counters, Hub, LOOK, LinkHandle, Observer, Passing, Shared, lock};
use crate::dial::{self, Opened};
use crate::outbox::{OUTBOX, Outbox};
use crate::traffic::{Traffic, data_bytes};
use mew_contract::{FlowReport, Problem, Reason, RemoteItem, RemoteReport, SyncItem};
use mew_kernel::Kernel;
use mew_sync::{ConnId, Connected, Effect, Event, Link, Now, Outstanding};
use mew_wire as wire;
use std::collections::HashMap;
use std::mem::replace;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;

/// A link that has said nothing for this long is stuck; what it said last is no longer known to be true.
const STALE: Duration = Duration::from_secs(10);

/// What a link said of itself, when, and under which configuration.
pub(crate) struct Said {
    pub(super) epoch: u64,
    at: Instant,
    pub(crate) remote: RemoteReport,
    pub(crate) flows: Vec<FlowReport>,
    /// While the agent ends.
    pub(super) outstanding: Option<Vec<Outstanding>>,
}

impl Said {
    pub(crate) fn is_fresh(&self) -> bool {
        self.at.elapsed() < STALE
    }
}

pub(super) enum Message {
    Event(Event, Option<OwnedSemaphorePermit>),
    Opened(Connected, Outbox, CancellationToken),
    /// The Remote and its Syncs, and a bell for when they are in force and reported.
    Configure(u64, Box<RemoteItem>, Vec<SyncItem>, Sender<()>),
    Wake,
    /// The agent ends; nothing is reported after it.
    Goodbye,
    Stop,
}

pub(super) struct Runner {
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
    stop: CancellationToken,
    /// Ends the dials that are on their way.
    dialling: CancellationToken,
    conns: HashMap<ConnId, (Outbox, CancellationToken)>,
    random: std::hash::RandomState,
    draws: u64,
    ended: bool,
}

impl Runner {
    pub(super) fn new(hub: &Hub, handle: &LinkHandle, r: &RemoteItem) -> Self {
        Runner {
            link: Link::new(hub.local.clone(), r.clone(), &hub.kernel),
            kernel: hub.kernel.clone(),
            observer: hub.observer.clone(),
            shared: hub.shared.clone(),
            runtime: hub.runtime.clone(),
            counters: hub.counters.clone(),
            events: handle.events.clone(),
            inbox: handle.inbox.clone(),
            woken: handle.woken.clone(),
            report: handle.report.clone(),
            traffic: handle.traffic.clone(),
            epoch: 0,
            stop: handle.stop.clone(),
            dialling: handle.stop.child_token(),
            conns: HashMap::new(),
            random: std::hash::RandomState::new(),
            draws: 0,
            ended: false,
        }
    }

    fn now(&self) -> Now {
        Now { wall_ms: self.shared.wall_ms(), mono_ms: self.shared.started.elapsed().as_millis() as u64 }
    }

    pub(super) fn run(mut self, rx: &Receiver<Message>) {
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
                Ok(Message::Goodbye) => {
                    self.ended = true;
                    self.handle(Event::Goodbye);
                    // The streams end behind the last frame; the other ends are the peers'.
                    self.conns.clear();
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
        if matches!(e, Event::ConnectFailed(_)) {
            self.counters.connection_errors.fetch_add(1, Ordering::Relaxed);
        }
        if matches!(&e, Event::Configure(r, _) if r.endpoints != self.link.config().endpoints) {
            replace(&mut self.dialling, self.stop.child_token()).cancel();
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
        if self.ended {
            return;
        }
        let draining = self.shared.draining.load(Ordering::Acquire);
        let (remote, flows) = self.link.report(now.wall_ms, &self.kernel);
        let outstanding = draining.then(|| self.link.outstanding(&self.kernel));
        *lock(&self.report) = Some(Said { epoch: self.epoch, at: Instant::now(), remote, flows, outstanding });
        if draining {
            self.shared.said.send_replace(());
        }
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
        let (readers, given_up) = (self.shared.readers.clone(), self.dialling.clone());
        self.runtime.spawn(async move {
            let dialled = tokio::select! {
                dialled = dial::dial(&config, own, conn) => dialled,
                () = given_up.cancelled() => return drop(events.send(Message::Event(Event::GivenUp, None))),
            };
            match dialled {
                Err(p) => drop(events.send(Message::Event(Event::ConnectFailed(p), None))),
                Ok(Opened { connected, frames, sender }) => {
                    let at = connected.endpoint.clone();
                    let _ = events.send(Message::Opened(connected, sender, stop.clone()));
                    readers.track_future(read(conn, at, frames, events, inbox, stop)).await;
                }
            }
        });
    }
}

/// Moves frames from the stream to the link until either ends.
pub(super) async fn read<S>(
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
