//! The sending end of a flow. Where the sink stands comes from the sink; which entities it has is saved now and then, and
//! follows from the log after that.

use crate::definition::Definition;
use crate::members::Members;
use bytes::Bytes;
use mew_contract::{Problem, Reason};
use mew_kernel::Kernel;
use mew_model::{EntityRef, KernelKey, Ontology};
use mew_store::{Place, StoreError, Stored, View};
use mew_wire as wire;
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Entities in one message.
const BATCH_ENTITIES: usize = 1000;
/// Bytes in one message, far from gRPC's limit of 4 MiB.
const BATCH_BYTES: usize = 512 << 10;
/// Messages without acknowledgement.
const WINDOW: usize = 32;
/// Changes that do not match move the position this seldom: a write that concerns nobody costs no message.
const ADVANCE: u64 = 10_000;

pub struct Source {
    pub definition: Definition,
    pub revision: String,
    ontology: Arc<Ontology>,
    peer: KernelKey,
    place: Place,
    /// The log had nothing more up to here, though compaction may have dropped what was there.
    read_to: u64,
    start: u64,
    /// Entities that the sink has, as far as the position says.
    pub members: Members,
    /// Up to here the sink holds what an earlier revision sent, with versions that need not be sent again.
    skip_to: u64,
    unread: VecDeque<Stored>,
    /// Edges that an entity brings along by entering the pattern, and the seq of that entity: the position stays before it
    /// until they are all sent.
    brought: (u64, VecDeque<Stored>),
    sent: u64,
    pub acked: u64,
    in_flight: VecDeque<InFlight>,
    /// Everything that existed when the copy began is durable at the sink, on this connection or an earlier one.
    live: bool,
    /// The log was read on this connection: what waits, and since when, is known.
    looked: bool,
    copy_from: u64,
    copy_to: u64,
    told_live: bool,
    told_pending: bool,
}

struct InFlight {
    upto: u64,
    bytes: usize,
    oldest_ms: u64,
    live: bool,
}

fn failed(e: StoreError) -> Problem {
    Problem::new(Reason::SourceError, format!("the source cannot read its log: {e}"))
}

impl Source {
    /// `members` is what the source remembers of the sink; `earlier` finds the definition that a revision stood for.
    pub fn begin(
        kernel: &Kernel,
        peer: KernelKey,
        definition: Definition,
        initial_full: bool,
        position: Option<&wire::Position>,
        members: Members,
        earlier: impl Fn(&str) -> Option<Definition>,
    ) -> Result<Self, Problem> {
        let revision = definition.revision();
        let head = kernel.head();
        let mut s = Source {
            revision,
            ontology: kernel.ontology(),
            peer,
            place: Place::default(),
            read_to: 0,
            start: 0,
            members,
            skip_to: 0,
            unread: VecDeque::new(),
            brought: (0, VecDeque::new()),
            sent: 0,
            acked: 0,
            in_flight: VecDeque::new(),
            live: false,
            looked: false,
            copy_from: 0,
            copy_to: head,
            told_live: false,
            told_pending: false,
            definition,
        };
        // What the sink has: under this revision up to `seq`, and under the previous one up to `skip_to`.
        let mut previous = None;
        match position {
            None if !initial_full => s.start = head,
            None => {}
            Some(p) if p.revision == s.revision => {
                (s.start, s.acked, s.live) = (p.start, p.seq, p.complete);
                previous = earlier(&p.previous_revision);
                s.skip_to = p.previous_seq;
            }
            Some(p) => {
                previous = earlier(&p.revision);
                s.start = p.start;
                s.skip_to = p.seq.max(p.previous_seq);
            }
        }
        s.acked = s.acked.max(s.start);
        match position {
            Some(_) => s.rebuild_members(kernel, previous.as_ref()).map_err(failed)?,
            None => s.members = s.members.emptied(),
        }
        s.place = Place::after(s.acked);
        s.sent = s.acked;
        s.copy_from = s.acked;
        Ok(s)
    }

    /// What the log says after what is saved: for each entity its newest version that the sink can have, under the
    /// revision that sent it.
    fn rebuild_members(&mut self, kernel: &Kernel, previous: Option<&Definition>) -> Result<(), StoreError> {
        let to = self.acked.max(self.skip_to);
        let mut place = Place::after(self.members.covers);
        let mut chunk = Vec::new();
        // Edges that lived so far, by end: they are brought along when an end enters the pattern later.
        let (mut by_end, mut alive): (BTreeMap<u32, Vec<u32>>, RoaringBitmap) = Default::default();
        while place.seq < to && kernel.history(&mut place, &mut chunk)? {
            let view = kernel.view();
            for s in chunk.drain(..).filter(|s| s.seq <= to) {
                let e = s.entity()?;
                if self.is_anothers(&s) {
                    continue;
                }
                let d = if s.seq <= self.acked { Some(&self.definition) } else { previous };
                if e.ends().next().is_none() {
                    // Nodes from before the flow's start were not sent.
                    if s.seq <= self.start || !d.is_some_and(|d| d.matches(&e, &self.ontology)) {
                        self.members.forget(s.ent);
                    } else if self.members.insert(s.ent) {
                        let brought = by_end.get(&s.ent).into_iter().flatten().filter(|x| alive.contains(**x));
                        for edge in brought {
                            self.members.insert(*edge);
                        }
                    }
                } else if e.deleted || !d.is_some_and(|d| d.edges && d.types.contains(&e.ty)) {
                    self.members.forget(s.ent);
                    alive.remove(s.ent);
                } else if let Some(ends) = ends_that_may_be_known(d, &view, &e)? {
                    if ends.iter().any(|n| self.members.contains(*n)) {
                        self.members.insert(s.ent);
                    }
                    for n in ends {
                        by_end.entry(n).or_default().push(s.ent);
                    }
                    alive.insert(s.ent);
                }
            }
        }
        self.members.covers = self.members.covers.max(to);
        Ok(())
    }

    /// What a third kernel introduced is not ours to pass on.
    fn is_anothers(&self, s: &Stored) -> bool {
        s.origin != KernelKey(0) && s.origin != self.peer
    }

    /// The peer has what it wrote last itself.
    fn is_theirs(&self, e: &EntityRef<'_>) -> bool {
        e.kernel == self.peer
    }

    pub fn ack(&mut self, upto: u64) {
        while self.in_flight.front().is_some_and(|f| f.upto <= upto) {
            if let Some(f) = self.in_flight.pop_front() {
                self.live |= f.live;
            }
        }
        self.acked = self.acked.max(upto);
        self.members.acked(upto);
    }

    /// Live: the initial copy, or the rescan, is durable at the sink.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Whether the log was read on this connection.
    pub fn has_looked(&self) -> bool {
        self.looked
    }

    pub fn percent(&self) -> u8 {
        if self.live {
            return 100;
        }
        let (done, all) = (self.acked.saturating_sub(self.copy_from), self.copy_to.saturating_sub(self.copy_from));
        (done.min(all) * 99).checked_div(all).unwrap_or(99) as u8
    }

    /// Age of the oldest matching change that the sink has not acknowledged; `None` before the log was read.
    pub fn lag_ms(&self, now_ms: u64) -> Option<u64> {
        let waiting = self.in_flight.iter().map(|f| f.oldest_ms).filter(|t| *t > 0);
        let unread = self.unread.iter().filter_map(|s| s.entity().ok().map(|e| e.time.ms()));
        self.looked.then(|| waiting.chain(unread).min().map_or(0, |t| now_ms.saturating_sub(t)))
    }

    /// Up to here the sink has everything that matches.
    pub fn confirmed(&self) -> u64 {
        // What does not match is not told to it.
        let all = self.in_flight.is_empty() && self.unread.is_empty() && self.brought.1.is_empty();
        if all { self.place.seq.max(self.read_to).max(self.acked) } else { self.acked }
    }

    pub fn pending(&self, head: u64) -> u64 {
        head.saturating_sub(self.confirmed())
    }

    /// Bytes that were sent and are not acknowledged yet.
    pub fn bytes_in_flight(&self) -> usize {
        self.in_flight.iter().map(|f| f.bytes).sum()
    }

    /// The next batch, if there is one and the window has room.
    pub fn next(&mut self, kernel: &Kernel, flow: u32) -> Result<Option<wire::SyncPush>, Problem> {
        if self.in_flight.len() >= WINDOW {
            return Ok(None);
        }
        self.looked = true;
        let mut out = Batch::default();
        let mut exhausted = false;
        while !out.is_full() {
            if let Some(x) = self.brought.1.pop_front() {
                self.edge(&kernel.view(), x, self.brought.0, &mut out).map_err(failed)?;
                out.upto = self.brought.0 - u64::from(!self.brought.1.is_empty());
                continue;
            }
            if self.unread.is_empty() {
                let mut chunk = Vec::new();
                let head = kernel.head();
                if !kernel.feed(&mut self.place, &mut chunk).map_err(failed)? {
                    (exhausted, self.read_to) = (true, head);
                    break;
                }
                self.unread = chunk.into();
                continue;
            }
            let view = kernel.view();
            while let Some(s) = self.unread.pop_front() {
                out.upto = s.seq;
                self.one(&view, s, &mut out).map_err(failed)?;
                if out.is_full() || !self.brought.1.is_empty() {
                    break;
                }
            }
        }
        let caught_up = exhausted && self.unread.is_empty();
        // Superseded records at the end of what was read are behind it as well.
        let all_read = self.unread.is_empty() && self.brought.1.is_empty();
        let upto = if all_read { self.place.seq.max(out.upto) } else { out.upto }.max(self.start);
        let empty = out.entities.is_empty() && out.leaves.is_empty();
        let now_live = caught_up && !self.told_live;
        let pending = if caught_up { 0 } else { kernel.head().saturating_sub(upto) };
        // A sink that was told of more must learn that there is no more.
        let nothing_more = caught_up && self.told_pending;
        if empty && !now_live && !nothing_more && upto < self.sent.saturating_add(ADVANCE) {
            return Ok(None);
        }
        self.told_pending = pending > 0;
        self.told_live |= caught_up;
        let after = std::mem::replace(&mut self.sent, upto);
        self.in_flight.push_back(InFlight { upto, bytes: out.bytes, oldest_ms: out.oldest_ms, live: self.told_live });
        let percent = self.percent().into();
        Ok(Some(wire::SyncPush {
            flow,
            revision: self.revision.clone(),
            start: self.start,
            after,
            upto,
            entities: out.entities,
            crcs: out.crcs,
            leaves: out.leaves,
            pending,
            oldest_ms: out.oldest_ms,
            live: self.told_live,
            percent,
        }))
    }

    /// What one change of the feed means to the sink.
    fn one(&mut self, view: &View<'_>, s: Stored, out: &mut Batch) -> Result<(), StoreError> {
        let e = s.entity()?;
        let member = self.members.contains(s.ent);
        if self.is_anothers(&s) {
            return Ok(());
        }
        if e.ends().next().is_some() {
            let seq = s.seq;
            return self.edge(view, s, seq, out);
        }
        let matches = self.definition.matches(&e, &self.ontology);
        if matches {
            let held_already = self.is_theirs(&e) || (self.members.is_sure(s.ent) && s.seq <= self.skip_to);
            let (ent, seq) = (s.ent, s.seq);
            if !held_already {
                out.push(s);
            }
            if self.members.enter(ent, seq, seq) && self.definition.edges {
                // The edges that the feed has passed already come with it; the others follow by themselves.
                let edges = view.edges_of(ent)?.into_iter().map(|edge| view.get(edge)).filter_map(Result::transpose);
                let passed = edges.filter(|x| x.as_ref().map_or(true, |x| x.seq < seq));
                self.brought = (seq, passed.collect::<Result<_, _>>()?);
                out.upto = seq - u64::from(!self.brought.1.is_empty());
            }
        } else if member && self.is_theirs(&e) {
            self.members.forget(s.ent);
        } else if member {
            self.members.leave(s.ent, s.seq);
            if e.deleted {
                out.push(s);
            } else {
                out.leaves.push(wire::Leave { sync_id: e.sync_id.to_owned(), time: e.time.0, kernel: e.kernel.0 });
                out.oldest(e.time.ms());
            }
        }
        Ok(())
    }

    /// An edge, told of with everything up to `seq`: its own, or that of the end that brings it.
    fn edge(&mut self, view: &View<'_>, s: Stored, seq: u64, out: &mut Batch) -> Result<(), StoreError> {
        let e = s.entity()?;
        if self.is_anothers(&s) || !self.definition.edges || !self.definition.types.contains(&e.ty) {
            return Ok(());
        }
        if e.deleted {
            if self.is_theirs(&e) {
                self.members.forget(s.ent);
            } else if self.members.contains(s.ent) {
                self.members.leave(s.ent, s.seq);
                out.push(s);
            }
            return Ok(());
        }
        let ends = ends_that_may_be_known(Some(&self.definition), view, &e)?;
        if !ends.is_some_and(|ends| ends.iter().any(|n| self.members.contains(*n))) {
            return Ok(());
        }
        let known = self.is_theirs(&e) || (self.members.is_sure(s.ent) && s.seq <= self.skip_to);
        self.members.enter(s.ent, s.seq, seq);
        if !known {
            out.push(s);
        }
        Ok(())
    }
}

/// Numbers of an edge's ends, if the peer may know of the types of all of them. From the edge's bytes, as a dead edge has
/// no ends in the index.
fn ends_that_may_be_known(
    d: Option<&Definition>,
    view: &View<'_>,
    e: &EntityRef<'_>,
) -> Result<Option<Vec<u32>>, StoreError> {
    let mut out = Vec::new();
    for id in e.ends() {
        let Some(n) = view.find(id)? else { return Ok(None) };
        let Some(node) = view.get(n)? else { return Ok(None) };
        let ty = node.entity()?.ty;
        if !d.is_some_and(|d| d.types.contains(&ty)) {
            return Ok(None);
        }
        out.push(n);
    }
    Ok(Some(out))
}

#[derive(Default)]
struct Batch {
    entities: Vec<Bytes>,
    crcs: Vec<u32>,
    leaves: Vec<wire::Leave>,
    bytes: usize,
    oldest_ms: u64,
    upto: u64,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.entities.len() + self.leaves.len() >= BATCH_ENTITIES || self.bytes >= BATCH_BYTES
    }

    fn push(&mut self, s: Stored) {
        if let Ok(e) = s.entity() {
            self.oldest(e.time.ms());
        }
        self.bytes += s.bytes.len();
        self.crcs.push(s.crc);
        self.entities.push(s.bytes);
    }

    fn oldest(&mut self, ms: u64) {
        self.oldest_ms = if self.oldest_ms == 0 { ms } else { self.oldest_ms.min(ms) };
    }
}

#[cfg(test)]
mod rebuilt;
