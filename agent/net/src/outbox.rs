//! Frames on their way to a peer: as many as the windows of its flows allow, and none that it will never read.

use mew_wire as wire;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio_stream::Stream;

/// Frames that wait until the connection takes them. A flow has at most 32 batches without acknowledgement, so this is
/// room for a thousand flows with one peer, and an honest peer asks for no more answers than that. Only one that keeps
/// sending and does not read gets here.
pub const OUTBOX: usize = 32 << 10;

#[derive(Default)]
struct Queue {
    frames: VecDeque<wire::Frame>,
    /// Nothing is added any more.
    ended: bool,
    /// Nobody takes anything any more.
    gone: bool,
    waker: Option<Waker>,
}

/// The link's end. When it is dropped, the stream ends behind what was sent.
pub struct Outbox(Arc<Mutex<Queue>>);

/// The connection's end.
pub struct Outgoing(Arc<Mutex<Queue>>);

pub fn outbox() -> (Outbox, Outgoing) {
    let q = Arc::<Mutex<Queue>>::default();
    (Outbox(q.clone()), Outgoing(q))
}

fn lock(m: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outbox {
    /// `false` if there is no room. What is sent to a connection that is gone is lost; its end is told elsewhere.
    #[must_use]
    pub fn send(&self, f: wire::Frame) -> bool {
        let waker = {
            let mut q = lock(&self.0);
            if q.gone {
                return true;
            }
            if q.frames.len() >= OUTBOX {
                return false;
            }
            q.frames.push_back(f);
            q.waker.take()
        };
        if let Some(w) = waker {
            w.wake();
        }
        true
    }

    /// Ends the stream before what still waits. The connection may hold its end for as long as the peer does not read.
    pub fn discard(self) {
        lock(&self.0).frames = VecDeque::new();
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let waker = {
            let mut q = lock(&self.0);
            q.ended = true;
            q.waker.take()
        };
        if let Some(w) = waker {
            w.wake();
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let mut q = lock(&self.0);
        q.gone = true;
        q.frames = VecDeque::new();
    }
}

impl Stream for Outgoing {
    type Item = wire::Frame;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<wire::Frame>> {
        let mut q = lock(&self.0);
        match q.frames.pop_front() {
            Some(f) => Poll::Ready(Some(f)),
            None if q.ended => Poll::Ready(None),
            None => {
                q.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
