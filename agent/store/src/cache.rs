//! Records that were read a moment ago: a statement looks at the same entity several times, and so does its commit.

use crate::log::{Loc, Record};
use crate::sync::{Mutex, PoisonError};
use bytes::Bytes;

/// Records that are kept, each with about 100 bytes around it.
const SLOTS: usize = 8192;
/// Longer ones are not kept.
const MOST_BYTES: usize = 2048;
/// So that readers do not wait for each other.
const SHARDS: usize = 16;

/// One slot for each remainder of a place. A place is never written twice, so nothing in here grows stale.
pub struct Cache(Vec<Mutex<Vec<Option<(Loc, Record, Bytes)>>>>);

impl Cache {
    pub fn new() -> Self {
        Cache((0..SHARDS).map(|_| Mutex::new(vec![None; SLOTS / SHARDS])).collect())
    }

    fn slot(loc: Loc) -> (usize, usize) {
        let h = (loc.raw().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize;
        (h % SHARDS, h / SHARDS % (SLOTS / SHARDS))
    }

    pub fn get(&self, loc: Loc) -> Option<(Record, Bytes)> {
        let (shard, slot) = Self::slot(loc);
        let slots = self.0[shard].lock().unwrap_or_else(PoisonError::into_inner);
        slots[slot].as_ref().filter(|x| x.0 == loc).map(|x| (x.1, x.2.clone()))
    }

    pub fn put(&self, loc: Loc, r: Record, body: &Bytes) {
        if body.len() > MOST_BYTES {
            return;
        }
        let (shard, slot) = Self::slot(loc);
        self.0[shard].lock().unwrap_or_else(PoisonError::into_inner)[slot] = Some((loc, r, body.clone()));
    }
}
