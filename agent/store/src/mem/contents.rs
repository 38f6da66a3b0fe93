//! What a file of a disk in memory holds, and what a power loss leaves of it.

use super::random;

/// What a power loss leaves of a write: each sector of it is there or not. Smaller than real ones, as tests are.
const SECTOR: usize = 64;

#[derive(Default, Clone)]
pub struct Contents {
    durable: Vec<u8>,
    now: Vec<u8>,
    /// What came between the two.
    unsynced: Vec<Unsynced>,
}

#[derive(Clone)]
enum Unsynced {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Unsynced {
    fn arrive(&self, on: &mut Vec<u8>) {
        match self {
            Unsynced::Write(at, bytes) => put(on, *at, bytes),
            Unsynced::Length(len) => on.resize(*len, 0),
        }
    }
}

fn put(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[at..end].copy_from_slice(bytes);
}

impl Contents {
    /// All of it is durable.
    pub fn of(bytes: Vec<u8>) -> Self {
        Contents { durable: bytes.clone(), now: bytes, unsynced: vec![] }
    }

    pub fn len(&self) -> usize {
        self.now.len()
    }

    /// Returns how much there was.
    pub fn read(&self, buf: &mut [u8], at: usize) -> usize {
        let from = at.min(self.now.len());
        let n = buf.len().min(self.now.len() - from);
        buf[..n].copy_from_slice(&self.now[from..from + n]);
        n
    }

    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        self.changed(Unsynced::Write(at, bytes.to_vec()));
    }

    pub fn set_len(&mut self, len: usize) {
        self.changed(Unsynced::Length(len));
    }

    fn changed(&mut self, u: Unsynced) {
        u.arrive(&mut self.now);
        self.unsynced.push(u);
    }

    pub fn edit(&mut self, f: impl FnOnce(&mut Vec<u8>)) {
        f(&mut self.now);
        *self = Contents::of(std::mem::take(&mut self.now));
    }

    pub fn sync(&mut self) {
        for u in std::mem::take(&mut self.unsynced) {
            u.arrive(&mut self.durable);
        }
    }

    /// No later sync makes durable what this one was to: systems take it for written.
    pub fn fail_to_sync(&mut self) {
        self.unsynced.clear();
    }

    /// What is durable, and the first `torn` bytes of what lies behind that.
    pub fn with_tail(&self, torn: usize) -> Vec<u8> {
        let keep = self.now.len().min(self.durable.len() + torn);
        let tail = self.now.get(self.durable.len()..keep).unwrap_or_default();
        [&self.durable[..], tail].concat()
    }

    /// What is durable, and of everything after it what chance leaves: nothing, all, or some sectors.
    pub fn after_power_loss(&self, seed: &mut u64) -> Vec<u8> {
        let mut left = self.durable.clone();
        for u in &self.unsynced {
            let fate = random(seed) % 3;
            match u {
                _ if fate == 0 => {}
                Unsynced::Write(at, bytes) if fate == 2 => {
                    let mut from = 0;
                    while from < bytes.len() {
                        let to = bytes.len().min(((at + from) / SECTOR + 1) * SECTOR - at);
                        if random(seed) >> 63 == 0 {
                            put(&mut left, at + from, &bytes[from..to]);
                        }
                        from = to;
                    }
                }
                _ => u.arrive(&mut left),
            }
        }
        left
    }
}
