//! A transaction: the newest commit, what earlier transactions of the same commit changed, and what this one changed.

mod writing;

use crate::error::KernelError;
use crate::identity::Identity;
use crate::system::{Records, Take};
use bytes::Bytes;
use hashbrown::HashMap;
use mew_model::ontology::Type;
use mew_model::{EntityRef, Number, Ontology, ValueRef, entity};
use mew_store::{Batch, Change, Loc, MAX_FRAME, OrderKey, Stored, View, is_fact};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;

type Result<T> = std::result::Result<T, KernelError>;
type UniqueKey = (Number, Number, Vec<u8>);

/// Changes on top of something.
#[derive(Default)]
struct Layer {
    /// In the order of first change.
    changes: Vec<Change>,
    at: HashMap<u32, usize>,
    ids: HashMap<String, u32>,
    /// Who holds a unique value now; `None` if it was given up.
    unique: HashMap<UniqueKey, Option<u32>>,
    /// (end, edge) → whether the edge is there now.
    by_end: BTreeMap<(u32, u32), bool>,
    ends: HashMap<u32, [u32; 2]>,
    /// (declaring type, attribute, key, entity) → whether an indexed value has this key now.
    ordered: BTreeMap<(Number, Number, OrderKey, u32), bool>,
    /// (type, entity) → whether it lives now.
    types: BTreeMap<(Number, u32), bool>,
    facts: BTreeMap<Vec<u8>, Vec<u8>>,
    new_entities: u32,
    /// Of changes and facts, with what surrounds them.
    bytes: usize,
}

/// Of one transaction, with what surrounds its records: two of them fit into one commit.
const MOST_BYTES: usize = MAX_FRAME / 2;
/// What surrounds a record.
const AROUND: usize = 64;

impl Layer {
    fn put(&mut self, mut c: Change) {
        self.bytes += c.bytes.len();
        match self.at.get(&c.ent) {
            Some(i) => {
                let was = &mut self.changes[*i];
                // The commit replaces what the first change found.
                c.found = was.found.take();
                self.bytes -= std::mem::replace(was, c).bytes.len();
            }
            None => {
                self.bytes += AROUND;
                self.at.insert(c.ent, self.changes.len());
                self.changes.push(c);
            }
        }
    }

    /// Taken away, if the value is empty.
    fn set_fact(&mut self, key: Vec<u8>, value: Vec<u8>) {
        let (of_key, of_value) = (key.len() + AROUND, value.len());
        self.bytes += of_value;
        match self.facts.insert(key, value) {
            Some(old) => self.bytes -= old.len(),
            None => self.bytes += of_key,
        }
    }

    fn absorb(&mut self, over: Layer) {
        if self.changes.is_empty() && self.facts.is_empty() {
            *self = over;
            return;
        }
        for c in over.changes {
            self.put(c);
        }
        self.ids.extend(over.ids);
        self.unique.extend(over.unique);
        self.by_end.extend(over.by_end);
        self.ends.extend(over.ends);
        self.ordered.extend(over.ordered);
        self.types.extend(over.types);
        for (k, v) in over.facts {
            self.set_fact(k, v);
        }
        self.new_entities += over.new_entities;
    }
}

pub struct Tx<'a> {
    view: &'a View<'a>,
    identity: &'a Identity,
    records: Option<&'a Records>,
    pub now_ms: u64,
    /// Changes of the transactions before this one in the same commit, then this one's.
    layers: [Layer; 2],
    /// Of the transactions that are kept.
    kept_bytes: usize,
}

impl<'a> Tx<'a> {
    pub(crate) fn new(view: &'a View<'a>, identity: &'a Identity, records: Option<&'a Records>, now_ms: u64) -> Self {
        Tx { view, identity, records, now_ms, layers: Default::default(), kept_bytes: 0 }
    }

    /// Keeps what this transaction did, for the commit, and begins the next one.
    pub(crate) fn keep(&mut self) {
        let top = std::mem::take(&mut self.layers[1]);
        self.kept_bytes += top.bytes;
        self.layers[0].absorb(top);
    }

    /// Forgets what this transaction did.
    pub(crate) fn undo(&mut self) {
        self.layers[1] = Layer::default();
    }

    /// Whether the store takes what this transaction did: what it does not take would fail all that share the commit.
    pub(crate) fn fits(&self) -> Result<()> {
        let top = &self.layers[1];
        if let Some(c) = top.changes.iter().find(|c| c.bytes.len() > entity::MAX_ENTITY) {
            let n = c.bytes.len();
            return Err(KernelError::Limit(format!(
                "an entity of {n} bytes; at most {} are allowed",
                entity::MAX_ENTITY
            )));
        }
        if top.bytes > MOST_BYTES {
            return Err(KernelError::Limit(format!(
                "a transaction of {} bytes; at most {MOST_BYTES} are allowed",
                top.bytes
            )));
        }
        match top.facts.iter().find(|(k, v)| !is_fact(k, v)) {
            Some((k, v)) => {
                Err(KernelError::Limit(format!("a record of {} + {} bytes is too large", k.len(), v.len())))
            }
            None => Ok(()),
        }
    }

    /// Whether another transaction has room in the same commit.
    pub(crate) fn has_room(&self) -> bool {
        self.kept_bytes <= MOST_BYTES
    }

    pub(crate) fn into_batch(self) -> Batch {
        let [base, _] = self.layers;
        let mut changes = base.changes;
        // A living edge must follow its ends, also when it was changed before them.
        let is_edge = |c: &Change| EntityRef::read(&c.bytes).is_ok_and(|e| !e.deleted && e.ends().next().is_some());
        if changes.iter().any(is_edge) {
            changes.sort_by_cached_key(is_edge);
        }
        Batch { changes, facts: base.facts.into_iter().collect() }
    }

    pub fn ontology(&self) -> &Arc<Ontology> {
        self.view.ontology()
    }

    pub fn identity(&self) -> &Identity {
        self.identity
    }

    fn over(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().rev()
    }

    // ---------------------------------------------------------------- reading

    /// Also finds tombstones.
    pub fn find(&self, sync_id: &str) -> Result<Option<u32>> {
        match self.over().find_map(|l| l.ids.get(sync_id)) {
            Some(e) => Ok(Some(*e)),
            None => Ok(self.view.find(sync_id)?),
        }
    }

    /// What [`Tx::find`] finds.
    pub fn found(&self, sync_id: &str) -> Result<Option<Stored>> {
        if let Some(e) = self.over().find_map(|l| l.ids.get(sync_id)) {
            return self.get(*e);
        }
        match self.view.found(sync_id)? {
            Some(s) if self.has_changed(s.ent) => self.get(s.ent),
            found => Ok(found),
        }
    }

    /// The newest version, tombstones included.
    pub fn get(&self, ent: u32) -> Result<Option<Stored>> {
        for l in self.over() {
            if let Some(i) = l.at.get(&ent) {
                let c = &l.changes[*i];
                let (origin, bytes, place) = (c.origin, c.bytes.clone(), Loc::NONE);
                return Ok(Some(Stored { ent, seq: 0, origin, crc: 0, bytes, place }));
            }
        }
        Ok(self.view.get(ent)?)
    }

    /// Whether this commit changes it; otherwise what was read of it before is still so.
    pub(crate) fn has_changed(&self, ent: u32) -> bool {
        self.layers.iter().any(|l| l.at.contains_key(&ent))
    }

    pub fn living(&self, ent: u32) -> Result<Option<Stored>> {
        living(self.get(ent)?)
    }

    /// The newest version of what lives under this id.
    pub fn living_as(&self, sync_id: &str) -> Result<Option<Stored>> {
        living(self.found(sync_id)?)
    }

    /// Living entities of exactly this type.
    pub fn of_type(&self, ty: Number) -> Result<RoaringBitmap> {
        let mut all = self.view.of_type(ty)?;
        for l in &self.layers {
            for ((_, ent), here) in l.types.range((ty, 0)..=(ty, u32::MAX)) {
                if *here {
                    all.insert(*ent);
                } else {
                    all.remove(*ent);
                }
            }
        }
        Ok(all)
    }

    /// About how many living entities of exactly this type there are.
    pub fn size(&self, ty: Number) -> Result<u64> {
        let new = self.layers.iter().map(|l| l.types.range((ty, 0)..=(ty, u32::MAX)).filter(|x| *x.1).count() as u64);
        Ok(self.view.size(ty)? + new.sum::<u64>())
    }

    /// All living nodes.
    pub fn all_nodes(&self) -> Result<RoaringBitmap> {
        let mut all = RoaringBitmap::new();
        for t in self.ontology().types().filter(|t| t.edge.is_none()) {
            all |= self.of_type(t.number)?;
        }
        Ok(all)
    }

    /// Living entities with a value of an indexed attribute in a range, as [`View::ordered`].
    pub fn ordered(
        &self,
        scope: Number,
        attr: Number,
        range: RangeInclusive<OrderKey>,
    ) -> Result<Vec<(OrderKey, u32)>> {
        let of_view = self.view.ordered(scope, attr, range.clone())?;
        let (low, high) = range.into_inner();
        let here = || (scope, attr, low, 0)..=(scope, attr, high, u32::MAX);
        if self.layers.iter().all(|l| l.ordered.range(here()).next().is_none()) {
            return Ok(of_view);
        }
        let changes = self.layers.iter().flat_map(|l| l.ordered.range(here()));
        Ok(changed(of_view, changes.map(|((_, _, key, ent), here)| ((*key, *ent), *here))))
    }

    /// As [`View::first_ordered`]; `None` if this commit changes the index, as nothing is merged here.
    pub(crate) fn first_ordered(
        &self,
        (scope, attr): (Number, Number),
        range: RangeInclusive<OrderKey>,
        after: Option<(OrderKey, u32)>,
        descending: bool,
        most: usize,
    ) -> Result<Option<Vec<(OrderKey, u32)>>> {
        let here = (scope, attr, OrderKey::MIN, 0)..=(scope, attr, OrderKey::MAX, u32::MAX);
        if self.layers.iter().any(|l| l.ordered.range(here.clone()).next().is_some()) {
            return Ok(None);
        }
        Ok(Some(self.view.first_ordered(scope, attr, range, after, descending, most)?))
    }

    /// About how many [`Tx::ordered`] would find; at most `most`.
    pub fn count_ordered(
        &self,
        scope: Number,
        attr: Number,
        range: RangeInclusive<OrderKey>,
        most: usize,
    ) -> Result<usize> {
        Ok(self.view.count_ordered(scope, attr, range, most)?)
    }

    pub fn edges_of(&self, ent: u32) -> Result<Vec<u32>> {
        let of_view = self.view.edges_of(ent)?;
        let here = || (ent, 0)..=(ent, u32::MAX);
        if self.layers.iter().all(|l| l.by_end.range(here()).next().is_none()) {
            return Ok(of_view);
        }
        let changes = self.layers.iter().flat_map(|l| l.by_end.range(here()));
        Ok(changed(of_view, changes.map(|((_, edge), here)| (*edge, *here))))
    }

    pub fn ends(&self, edge: u32) -> Result<Option<[u32; 2]>> {
        match self.over().find_map(|l| l.ends.get(&edge)) {
            Some(ends) => Ok(Some(*ends)),
            None => Ok(self.view.ends(edge)?),
        }
    }

    /// The living entity that holds a unique value.
    pub fn unique(&self, scope: Number, attr: Number, v: ValueRef<'_>) -> Result<Option<Stored>> {
        if self.over().any(|l| !l.unique.is_empty()) {
            let key = (scope, attr, entity::value_key(v));
            match self.over().find_map(|l| l.unique.get(&key)) {
                Some(Some(holder)) => return self.get(*holder),
                Some(None) => return Ok(None),
                None => {}
            }
        }
        match self.view.unique(scope, attr, v)? {
            // It may have been changed otherwise meanwhile.
            Some(s) if self.has_changed(s.ent) => self.get(s.ent),
            found => Ok(found),
        }
    }

    pub fn fact(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.over().find_map(|l| l.facts.get(key)) {
            Some(v) if v.is_empty() => Ok(None),
            Some(v) => Ok(Some(Bytes::copy_from_slice(v))),
            None => Ok(self.view.fact(key)?),
        }
    }

    /// Facts whose key begins with `prefix`, ascending by key.
    pub fn facts(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>> {
        let mut all: BTreeMap<Vec<u8>, Bytes> = self.view.facts(prefix)?.into_iter().collect();
        for l in &self.layers {
            for (k, v) in l.facts.range(prefix.to_vec()..).take_while(|(k, _)| k.starts_with(prefix)) {
                if v.is_empty() {
                    all.remove(k);
                } else {
                    all.insert(k.clone(), Bytes::copy_from_slice(v));
                }
            }
        }
        Ok(all.into_iter().collect())
    }

    /// Whether there is a fact whose key begins with `prefix`. One that this commit takes away may count.
    pub fn may_have_facts(&self, prefix: &[u8]) -> Result<bool> {
        let added = |l: &Layer| l.facts.range(prefix.to_vec()..).next().is_some_and(|(k, _)| k.starts_with(prefix));
        Ok(self.view.has_facts(prefix)? || self.layers.iter().any(added))
    }

    /// Keys of facts that begin with `prefix`, ascending.
    pub fn fact_keys(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut all: BTreeSet<Vec<u8>> = self.view.fact_keys(prefix)?.into_iter().collect();
        for l in &self.layers {
            for (k, v) in l.facts.range(prefix.to_vec()..).take_while(|(k, _)| k.starts_with(prefix)) {
                if v.is_empty() {
                    all.remove(k);
                } else {
                    all.insert(k.clone());
                }
            }
        }
        Ok(all.into_iter().collect())
    }

    /// Number of facts whose key begins with `prefix`.
    pub fn count_facts(&self, prefix: &[u8]) -> Result<usize> {
        let mut n = self.view.count_facts(prefix)? as isize;
        let mut seen = BTreeSet::new();
        for l in self.over() {
            for (k, v) in l.facts.range(prefix.to_vec()..).take_while(|(k, _)| k.starts_with(prefix)) {
                if seen.insert(k) {
                    let was = self.view.has_fact(k)?;
                    n += isize::from(!v.is_empty()) - isize::from(was);
                }
            }
        }
        Ok(n.max(0) as usize)
    }

    /// Keys of committed facts with the prefix beyond the newest `keep`.
    pub fn oldest_facts_beyond(&self, prefix: &[u8], keep: usize) -> Result<Vec<Vec<u8>>> {
        let n = self.view.count_facts(prefix)?;
        let mut all = if n > keep { self.view.fact_keys(prefix)? } else { Vec::new() };
        all.truncate(n.saturating_sub(keep));
        Ok(all)
    }

    /// Records of a system type; none if nobody keeps any.
    pub(crate) fn records(&self, ty: &Type, take: Take<'_>) -> Result<ControlFlow<()>> {
        self.records.map_or(Ok(ControlFlow::Continue(())), |r| r(self, ty, take))
    }

    /// An entity named by local id or `sync_id`.
    pub fn resolve(&self, reference: &str) -> Result<Option<Stored>> {
        if let Some(ent) = self.identity.parse_local(reference)
            && let Some(s) = self.living(ent)?
        {
            return Ok(Some(s));
        }
        self.living_as(reference)
    }
}

fn living(found: Option<Stored>) -> Result<Option<Stored>> {
    Ok(match found {
        Some(s) if !s.entity()?.deleted => Some(s),
        _ => None,
    })
}

/// Ascending, with what was added since and without what was taken away, in the order in which that happened.
fn changed<T: Ord>(before: Vec<T>, changes: impl Iterator<Item = (T, bool)>) -> Vec<T> {
    let mut all: BTreeSet<T> = before.into_iter().collect();
    for (x, here) in changes {
        if here {
            all.insert(x);
        } else {
            all.remove(&x);
        }
    }
    all.into_iter().collect()
}
