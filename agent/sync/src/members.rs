//! Which entities the sink of a flow has: history, so it cannot be derived once compaction has dropped old versions.
//!
//! The set is kept in the source's store, in ranges of entity numbers, with the seq that it covers; what came after that is
//! read from the log, which compaction therefore leaves alone. It never forgets too early, and never comes too late: what
//! left the pattern stays in it until the sink has acknowledged the leave, and what enters by something that the log after
//! the saved seq does not tell is saved before it is sent. Of what was sent and not acknowledged it says that it is unsure.

mod floor;

pub use floor::{OpenTime, floor};

use crate::records;
use mew_kernel::{Kernel, KernelError};
use mew_store::{StoreError, View};
use mew_wire as wire;
use prost::Message;
use roaring::RoaringBitmap;
use std::collections::{BTreeSet, VecDeque};

/// Entity numbers in one fact: at most 128 KiB and a little.
const RANGE: u32 = 1 << 20;
/// The set is saved when the sink is so many changes beyond what is saved; until then compaction waits.
pub const SAVE_EVERY: u64 = 50_000;
/// It is saved this often even if nothing happens, so that it is seen to be alive: many times before it would count as abandoned.
const REFRESH_MS: u64 = 24 * 3_600_000;
/// After a failed save.
const RETRY_MS: u64 = 10_000;

#[derive(Default)]
pub struct Members {
    sink: String,
    flow: String,
    /// Whether anything is saved.
    pub known: bool,
    set: RoaringBitmap,
    /// Of those, the ones of which nobody knows whether the sink has them: sent before an end, and not acknowledged.
    unsure: RoaringBitmap,
    /// Sent or about to be: (seq, entity), until the sink has passed the seq.
    entering: VecDeque<(u64, u32)>,
    /// Left or died: (seq, entity), until the sink has passed the seq.
    leaving: VecDeque<(u64, u32)>,
    /// Ranges that differ from what is saved.
    dirty: BTreeSet<u32>,
    /// The set includes everything that was sent up to here.
    pub covers: u64,
    saved: u64,
    saved_at_ms: u64,
    not_before_ms: u64,
    /// It must be saved before anything more is sent.
    pub must_save: bool,
    /// History was lost in between: what was deleted meanwhile may still be at the sink.
    pub needs_reconcile: bool,
    /// Of the definition under which it is sent.
    pub generation: u64,
}

impl Members {
    pub fn contains(&self, ent: u32) -> bool {
        self.set.contains(ent)
    }

    /// Whether the sink is known to have it, or to be about to.
    pub fn is_sure(&self, ent: u32) -> bool {
        self.set.contains(ent) && !self.unsure.contains(ent)
    }

    /// As the log says, of what the sink has acknowledged. Whether it was not sure before.
    pub fn insert(&mut self, ent: u32) -> bool {
        let was_unsure = self.unsure.remove(ent);
        let new = self.set.insert(ent);
        if new {
            self.dirty.insert(ent / RANGE);
        }
        new || was_unsure
    }

    /// By the change at `told`, which the sink will hear of with everything up to `seq`. Whether it was not sure before.
    pub fn enter(&mut self, ent: u32, told: u64, seq: u64) -> bool {
        let is_saved = self.set.contains(ent);
        let new = self.insert(ent);
        if new {
            self.entering.push_back((seq, ent));
            self.must_save |= !is_saved && told <= self.saved;
        }
        new
    }

    /// Of what the sink is known to have dealt with.
    pub fn forget(&mut self, ent: u32) {
        self.unsure.remove(ent);
        if self.set.remove(ent) {
            self.dirty.insert(ent / RANGE);
        }
    }

    /// By the change at `seq`, which the sink still has to hear of.
    pub fn leave(&mut self, ent: u32, seq: u64) {
        self.unsure.remove(ent);
        if self.set.remove(ent) {
            self.leaving.push_back((seq, ent));
        }
    }

    pub fn acked(&mut self, upto: u64) {
        while self.leaving.front().is_some_and(|(seq, _)| *seq <= upto) {
            if let Some((_, ent)) = self.leaving.pop_front() {
                self.dirty.insert(ent / RANGE);
            }
        }
        while self.entering.front().is_some_and(|(seq, _)| *seq <= upto) {
            self.entering.pop_front();
        }
        self.covers = self.covers.max(upto);
    }

    /// What is saved for a flow.
    pub fn load(view: &View<'_>, sink: &str, flow: &str) -> Result<Members, StoreError> {
        let prefix = records::members_prefix(sink, flow);
        let mut m = Members { sink: sink.to_owned(), flow: flow.to_owned(), ..Members::default() };
        let mut head = None;
        for (k, value) in view.facts(&prefix)? {
            let bitmap = || {
                RoaringBitmap::deserialize_from(&*value)
                    .map_err(|e| StoreError::Inconsistent(format!("members of flow {flow}: {e}")))
            };
            match part_of(&k) {
                HEAD => head = wire::FlowMembers::decode(value).ok(),
                UNSURE => m.unsure = bitmap()?,
                _ => m.set |= bitmap()?,
            }
        }
        if let Some(h) = head {
            m.known = true;
            (m.covers, m.saved, m.saved_at_ms) = (h.seq, h.seq, h.saved_at_ms);
            (m.needs_reconcile, m.generation) = (h.needs_reconcile, h.generation);
        }
        Ok(m)
    }

    /// The same flow from the start: nothing is at the sink. What is saved is overwritten with the next save.
    pub fn emptied(self) -> Members {
        let dirty = self.set.iter().map(|e| e / RANGE).collect();
        Members { sink: self.sink, flow: self.flow, dirty, ..Members::default() }
    }

    /// If the sink is where these members do not begin: it was away for so long that they were forgotten, and history with
    /// them, or it was put back to an earlier copy of itself, and what left since then was told to another life of it. Then
    /// everything is gone through again, as another `generation`.
    pub fn reconsidered(self, position: &wire::Position, generation: u64) -> Members {
        if self.known && position.seq.max(position.previous_seq) >= self.covers {
            return self;
        }
        Members { needs_reconcile: true, generation, ..self.emptied() }
    }

    pub fn is_due(&self, now_ms: u64, every: u64) -> bool {
        // A clock that was ahead for a moment must not keep a flow that is alive from being seen.
        let due = !self.known
            || self.covers >= self.saved.saturating_add(every)
            || now_ms.abs_diff(self.saved_at_ms) >= REFRESH_MS;
        let waits = self.not_before_ms.saturating_sub(now_ms);
        due && (waits == 0 || waits > RETRY_MS)
    }

    /// After a failure.
    pub fn postpone(&mut self, now_ms: u64) {
        self.not_before_ms = now_ms + RETRY_MS;
    }

    /// Saves what changed, in one commit.
    pub fn save(&mut self, kernel: &Kernel, now_ms: u64) -> Result<(), KernelError> {
        let (sink, flow) = (&self.sink, &self.flow);
        let mut all = self.set.clone();
        all.extend(self.leaving.iter().map(|(_, ent)| *ent));
        self.dirty.extend(self.leaving.iter().map(|(_, ent)| ent / RANGE));
        let mut facts = Vec::new();
        for range in &self.dirty {
            let first = range * RANGE;
            let part: RoaringBitmap = all.range(first..=first + (RANGE - 1)).collect();
            facts.push((records::members_key(sink, flow, &format!("{range:08}")), encoded(&part)?));
        }
        let mut unsure = self.unsure.clone();
        unsure.extend(self.entering.iter().map(|(_, ent)| *ent));
        unsure &= &self.set;
        facts.push((records::members_key(sink, flow, UNSURE), encoded(&unsure)?));
        let (seq, needs_reconcile, generation) = (self.covers, self.needs_reconcile, self.generation);
        let (key, known) = (records::members_key(sink, flow, HEAD), self.known);
        kernel.write(now_ms, move |tx| {
            // It counted as abandoned until a moment ago: what was loaded before, and is not dirty, is gone.
            if known && tx.fact(&key)?.is_none() {
                return Err(KernelError::NotFound("what was saved of the entities that the sink has".to_owned()));
            }
            let saved_open_ms = records::open_ms(tx.fact(records::OPEN)?);
            let head = wire::FlowMembers { seq, saved_at_ms: now_ms, needs_reconcile, generation, saved_open_ms };
            facts.into_iter().for_each(|(k, v)| tx.set_fact(k, v));
            tx.set_fact(key, head.encode_to_vec());
            Ok(())
        })?;
        self.dirty.clear();
        (self.known, self.must_save) = (true, false);
        (self.saved, self.saved_at_ms) = (seq, now_ms);
        Ok(())
    }
}

const HEAD: &str = "head";
const UNSURE: &str = "unsure";

/// An empty set is no fact.
fn encoded(set: &RoaringBitmap) -> Result<Vec<u8>, KernelError> {
    let mut bytes = Vec::new();
    if !set.is_empty() {
        set.serialize_into(&mut bytes).map_err(|e| KernelError::Limit(e.to_string()))?;
    }
    Ok(bytes)
}

fn part_of(key: &[u8]) -> &str {
    let at = key.iter().rposition(|b| *b == 0).map_or(0, |i| i + 1);
    std::str::from_utf8(&key[at..]).unwrap_or_default()
}

/// The flows that a kernel takes from here and declares itself, as far as they are saved: their names, and up to where it has
/// everything at least. They are saved so seldom that it mostly has more.
pub fn pulled(kernel: &Kernel, sink: &str) -> Result<Vec<(String, u64)>, StoreError> {
    let view = kernel.view();
    let prefix = records::pulled_prefix(sink, &kernel.identity().kernel_id);
    let mut all = Vec::new();
    for key in view.fact_keys(&prefix)? {
        let name = key.strip_prefix(prefix.as_slice()).and_then(|k| k.strip_suffix(HEAD.as_bytes()));
        let Some(name) = name.and_then(|k| k.strip_suffix(b"\0")) else { continue };
        let head = records::read::<wire::FlowMembers>(view.fact(&key)?).unwrap_or_default();
        all.push((String::from_utf8_lossy(name).into_owned(), head.seq));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mew_store::{MemDisk, Options, Store};
    use std::sync::Arc;

    pub(super) fn kernel(disk: &MemDisk) -> Kernel {
        let o = mew_lang::parse_ontology("ontology T { node Task { n: Int } }").expect("an ontology");
        let options = Options { kernel_id: "t.k".into(), new_incarnation: "i".into(), segment_bytes: 1 << 20 };
        Kernel::new(Store::open(Arc::new(disk.clone()), Arc::new(o), options).expect("the store opens").0)
    }

    pub(super) fn load(k: &Kernel) -> Members {
        Members::load(&k.view(), "sink", "flow").expect("what is saved can be read")
    }

    fn at(seq: u64) -> wire::Position {
        wire::Position { seq, ..wire::Position::default() }
    }

    #[test]
    fn what_is_saved_is_loaded_and_never_forgets_too_early() {
        let disk = MemDisk::new();
        let k = kernel(&disk);
        let mut m = load(&k);
        assert!(!m.known && m.is_due(5, SAVE_EVERY));
        for (ent, seq) in [(1, 10), (RANGE - 1, 11), (RANGE, 12), (5 * RANGE + 7, 13)] {
            assert!(m.enter(ent, seq, seq), "it is new");
        }
        m.acked(12);
        m.leave(1, 14);
        m.save(&k, 1_000).expect("there is room");
        let l = load(&kernel_again(k, &disk));
        assert!(l.known && l.covers == 12 && !l.is_due(1_001, SAVE_EVERY));
        assert!(l.contains(1), "the sink has not heard of the leave");
        assert!(l.is_sure(RANGE - 1) && l.is_sure(RANGE));
        assert!(l.contains(5 * RANGE + 7) && !l.is_sure(5 * RANGE + 7), "it was sent and not acknowledged");
    }

    pub(super) fn kernel_again(k: Kernel, disk: &MemDisk) -> Kernel {
        drop(k);
        kernel(disk)
    }

    #[test]
    fn what_the_sink_has_passed_is_forgotten() {
        let disk = MemDisk::new();
        let k = kernel(&disk);
        let mut m = load(&k);
        m.enter(3, 1, 1);
        m.acked(1);
        m.save(&k, 1).expect("there is room");
        m.leave(3, 2);
        m.acked(2);
        m.save(&k, 2).expect("there is room");
        assert!(!load(&k).contains(3));
    }

    /// A sink that is behind what is saved is not the one that it was saved for.
    #[test]
    fn a_sink_from_an_earlier_time_gets_everything_again() {
        let disk = MemDisk::new();
        let k = kernel(&disk);
        let mut m = load(&k);
        m.enter(3, 1, 1);
        m.acked(100);
        m.save(&k, 1).expect("there is room");
        let same = load(&k).reconsidered(&at(100), 7);
        assert!(same.contains(3) && !same.needs_reconcile && same.generation == 0);
        let other = load(&k).reconsidered(&at(99), 7);
        assert!(!other.contains(3) && other.needs_reconcile && other.generation == 7 && other.covers == 0);
        let rescans = wire::Position { previous_seq: 100, ..at(2) };
        assert!(load(&k).reconsidered(&rescans, 7).contains(3), "a rescan is no earlier time");
    }

    /// Or a flow that is alive would count as abandoned after a week.
    #[test]
    fn a_flow_is_saved_as_alive_also_after_the_clock_was_ahead() {
        const AHEAD_MS: u64 = 30 * REFRESH_MS;
        let disk = MemDisk::new();
        let k = kernel(&disk);
        let mut m = load(&k);
        m.save(&k, AHEAD_MS).expect("there is room");
        assert!(!m.is_due(AHEAD_MS + 1, SAVE_EVERY));
        assert!(m.is_due(1, SAVE_EVERY), "the clock was put right");
        m.postpone(AHEAD_MS);
        assert!(m.is_due(1, SAVE_EVERY), "and that was long before");
        m.postpone(1);
        assert!(!m.is_due(RETRY_MS, SAVE_EVERY));
        assert!(m.is_due(1 + RETRY_MS, SAVE_EVERY));
    }

    #[test]
    fn what_was_forgotten_meanwhile_is_not_passed_off_as_saved() {
        let disk = MemDisk::new();
        let k = kernel(&disk);
        let mut m = load(&k);
        m.enter(3, 1, 1);
        m.save(&k, 1).expect("there is room");
        let mut loaded = load(&k);
        k.write(2, |tx| {
            tx.fact_keys(records::MEMBERS)?.into_iter().for_each(|key| tx.delete_fact(key));
            Ok(())
        })
        .expect("there is room");
        let e = loaded.save(&k, 3).expect_err("its set is gone");
        assert!(matches!(e, KernelError::NotFound(_)), "{e}");
        assert!(!load(&k).known);
    }
}
