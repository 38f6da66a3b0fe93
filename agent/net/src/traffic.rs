//! Bytes of data that go over a link, for the metrics.

use mew_wire as wire;
use prost::Message;
use std::sync::atomic::{AtomicU64, Ordering};
use wire::frame::Body;

#[derive(Default)]
pub(crate) struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// (sent, received).
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }
}

/// Bytes of a frame if it carries entities; the conversation about them does not count.
pub(crate) fn data_bytes(f: &wire::Frame) -> u64 {
    match &f.body {
        Some(Body::SyncPush(p)) => p.encoded_len() as u64,
        _ => 0,
    }
}
