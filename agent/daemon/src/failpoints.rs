//! Places at which a test makes the agent die: `MEW_FAILPOINT=<point>=<n>` aborts at the n-th time that the point is passed.
//!
//! Aborting flushes nothing and runs no destructor, like `kill -9` at exactly that moment. Without the variable nothing of
//! this is in the way.
//!
//! And a clock that a test makes wrong: `MEW_CLOCK_OFFSET=<seconds>s`, ahead, or behind if negative.

use mew_net::Passing;
use mew_store::{Disk, DiskFile};
use mew_wire::Frame;
use mew_wire::frame::Body;
use std::io;
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
            Some(_) => Arc::new(FailDisk { disk: Arc::new(disk), points: self.clone() }),
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

struct FailDisk {
    disk: Arc<dyn Disk>,
    points: Failpoints,
}

struct FailFile {
    file: Arc<dyn DiskFile>,
    points: Failpoints,
}

impl Disk for FailDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(FailFile { file: self.disk.open(name)?, points: self.points.clone() }))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(FailFile { file: self.disk.create(name)?, points: self.points.clone() }))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)?;
        self.points.pass("store.rename");
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_names()
    }
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }
}

impl DiskFile for FailFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)?;
        self.points.pass("store.write");
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()?;
        self.points.pass("store.sync");
        Ok(())
    }
}
