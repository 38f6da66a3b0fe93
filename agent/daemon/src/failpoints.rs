//! Places at which a test makes the agent die: `MEW_FAILPOINT=<point>=<n>` aborts at the n-th time that the point is passed.
//!
//! Aborting flushes nothing and runs no destructor, like `kill -9` at exactly that moment. Without the variable nothing of
//! this is in the way.
//!
//! And a clock that a test makes wrong: `MEW_CLOCK_OFFSET=<seconds>s`, ahead, or behind if negative.

use mew_net::Passing;
use mew_store::{Disk, DiskOp, Hook, Hooked};
use mew_wire::Frame;
use mew_wire::frame::Body;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone)]
pub struct Failpoints(Option<Arc<Point>>);

struct Point {
    name: String,
    left: AtomicU64,
}

impl Failpoints {
    pub fn from_env() -> Self {
        let read = || {
            let text = std::env::var("MEW_FAILPOINT").ok()?;
            let (name, n) = text.split_once('=')?;
            Some(Arc::new(Point { name: name.to_owned(), left: AtomicU64::new(n.parse().ok()?) }))
        };
        Failpoints(read())
    }

    fn pass(&self, name: &str) {
        if let Some(p) = self.0.as_ref().filter(|p| p.name == name)
            && p.left.fetch_sub(1, Ordering::AcqRel) == 1
        {
            std::process::abort();
        }
    }

    pub fn disk(&self, disk: impl Disk + 'static) -> Arc<dyn Disk> {
        match self.0 {
            None => Arc::new(disk),
            Some(_) => Arc::new(Hooked::new(disk, self.clone())),
        }
    }

    /// What the links call when a frame passes; `None` if nothing is to be watched.
    pub fn frames(&self) -> Option<Arc<dyn Fn(&Frame, Passing) + Send + Sync>> {
        self.0.as_ref()?;
        let points = self.clone();
        Some(Arc::new(move |f, passing| match (&f.body, passing) {
            (Some(Body::SyncAck(_)), Passing::BeforeSend) => points.pass("ack.before"),
            (Some(Body::SyncPush(_)), Passing::Sent) => points.pass("push.after"),
            (_, Passing::Received) => points.pass("frame.received"),
            _ => {}
        }))
    }
}

impl Hook for Failpoints {
    fn after(&self, op: DiskOp<'_>) {
        match op {
            DiskOp::Rename { .. } => self.pass("store.rename"),
            DiskOp::Write { .. } => self.pass("store.write"),
            DiskOp::Sync => self.pass("store.sync"),
            _ => {}
        }
    }
}

/// Milliseconds by which the agent's wall clock is ahead. Versions, lags and the age of certificates go by it; TLS itself
/// goes by the machine's clock.
pub fn clock_offset_ms() -> i64 {
    let read = || {
        let text = std::env::var("MEW_CLOCK_OFFSET").ok()?;
        text.strip_suffix('s')?.parse::<i64>().ok()?.checked_mul(1000)
    };
    let ms = read().unwrap_or(0);
    if ms != 0 {
        tracing::warn!(ms, "MEW_CLOCK_OFFSET makes this agent's clock wrong");
    }
    ms
}
