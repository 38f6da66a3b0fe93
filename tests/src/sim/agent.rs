//! One agent: a kernel on a disk that survives it, and a link for each peer. Stopping and starting it loses everything
//! but the disk.

use super::invariants::{STORE_SOUND, Violation, violated};
use super::rng::Rng;
use super::scenario::ontology;
use mew_kernel::Kernel;
use mew_model::{EntityRef, KernelKey};
use mew_store::{MemDisk, Options, Place, Store, StoreError, Stored};
use mew_sync::{Link, Now, records};
use std::collections::BTreeMap;
use std::sync::Arc;

const START_MS: u64 = 1_700_000_000_000;
/// Clocks are wrong by up to so much, so two of them differ by less than the 60 s that a sink accepts.
const SKEW_MS: u64 = 20_000;

pub struct Agent {
    pub id: String,
    pub key: KernelKey,
    pub disk: MemDisk,
    skew_ms: i64,
    /// Counts the starts; what was meant for an earlier one is void.
    pub epoch: u64,
    /// Counts the data directories.
    pub incarnation: u32,
    pub up: Option<Running>,
    /// Up to here the ledger has the log.
    pub read_to: u64,
    segment_bytes: u32,
}

pub struct Running {
    pub kernel: Kernel,
    pub links: BTreeMap<usize, Link>,
    /// When each link is to be woken, as far as that is scheduled.
    pub timers: BTreeMap<usize, u64>,
    /// The ledger's place in the log.
    pub read: Place,
    watched: Place,
    /// The links will hear of a commit.
    pub woken: bool,
    /// The watcher of held entities will hear of a commit.
    pub told: bool,
}

pub fn store_error(e: StoreError) -> Violation {
    violated(STORE_SOUND, e.to_string())
}

pub fn entity(s: &Stored) -> Result<EntityRef<'_>, Violation> {
    s.entity().map_err(store_error)
}

impl Agent {
    pub fn new(number: usize, rng: &mut Rng) -> Self {
        let id = format!("sim.k{number}");
        let mut a = Agent {
            key: KernelKey::of(&id),
            id,
            disk: MemDisk::new(),
            skew_ms: 0,
            epoch: 0,
            incarnation: 0,
            up: None,
            read_to: 0,
            segment_bytes: rng.between(400, 6_000) as u32,
        };
        a.set_clock(rng);
        a
    }

    pub fn set_clock(&mut self, rng: &mut Rng) {
        self.skew_ms = rng.between(0, 2 * SKEW_MS) as i64 - SKEW_MS as i64;
    }

    pub fn clock(&self, mono_ms: u64) -> Now {
        Now { wall_ms: (START_MS + mono_ms).saturating_add_signed(self.skew_ms), mono_ms }
    }

    /// Opens the kernel; the links are the caller's.
    pub fn open(&mut self) -> Result<(), Violation> {
        let options = Options {
            kernel_id: self.id.clone(),
            new_incarnation: format!("{}-{}", self.id, self.incarnation),
            segment_bytes: self.segment_bytes,
        };
        let mut opened = Store::open(Arc::new(self.disk.clone()), ontology(), options.clone());
        if opened.is_err() && self.disk.stopped() {
            // The machine stopped again while the store was opening.
            self.disk.crash(0);
            opened = Store::open(Arc::new(self.disk.clone()), ontology(), options);
        }
        let (store, _) = opened.map_err(|e| violated(STORE_SOUND, format!("{} does not open again: {e}", self.id)))?;
        let kernel = Kernel::new(store);
        self.epoch += 1;
        self.up = Some(Running {
            links: BTreeMap::new(),
            timers: BTreeMap::new(),
            read: Place::after(self.read_to),
            // As `watch_held` of agent/net/src/hub.rs begins.
            watched: Place::after(kernel.head()),
            woken: false,
            told: false,
            kernel,
        });
        Ok(())
    }

    /// Power loss: of what was not synced, `torn` bytes survive.
    pub fn crash(&mut self, torn: usize) {
        self.up = None;
        self.epoch += 1;
        self.disk.crash(torn);
    }

    /// The data directory is lost; the next start makes another.
    pub fn wipe(&mut self) {
        self.up = None;
        self.epoch += 1;
        self.disk.wipe();
        self.incarnation += 1;
        self.read_to = 0;
    }

    pub fn kernel(&self) -> Option<&Kernel> {
        self.up.as_ref().map(|r| &r.kernel)
    }

    /// Living entities that this kernel introduced: id, number of the type, and whether it is an edge.
    pub fn own(&self) -> Vec<(String, u32, bool)> {
        let Some(kernel) = self.kernel() else { return Vec::new() };
        let view = kernel.view();
        let all = (0..view.next_entity()).filter_map(|n| view.get(n).ok().flatten());
        all.filter(|s| s.origin == KernelKey(0))
            .filter_map(|s| {
                let e = s.entity().ok().filter(|e| !e.deleted)?;
                Some((e.sync_id.to_owned(), e.ty, e.ends().next().is_some()))
            })
            .collect()
    }
}

impl Running {
    /// What `watch_held` of agent/net/src/hub.rs does with one signal: the entities that changed, if anything is held.
    pub fn changed(&mut self) -> Option<Arc<Vec<String>>> {
        self.told = false;
        if self.kernel.view().count_facts(records::HELD).is_ok_and(|n| n == 0) {
            self.watched = Place::after(self.kernel.head());
            return None;
        }
        let (mut ids, mut chunk) = (Vec::new(), Vec::new());
        while let Ok(true) = self.kernel.feed(&mut self.watched, &mut chunk) {
            ids.extend(chunk.drain(..).filter_map(|s| s.entity().ok().map(|e| e.sync_id.to_owned())));
        }
        Some(Arc::new(ids))
    }
}

/// Everything in a kernel, tombstones included.
pub fn everything(kernel: &Kernel) -> Result<BTreeMap<String, Stored>, Violation> {
    let view = kernel.view();
    let mut all = BTreeMap::new();
    for n in 0..view.next_entity() {
        if let Some(s) = view.get(n).map_err(store_error)? {
            let id = entity(&s)?.sync_id.to_owned();
            all.insert(id, s);
        }
    }
    Ok(all)
}
