//! What is derived from the log, in memory: never written per commit, rebuilt by replay.

mod locs;

use crate::history::Old;
use crate::log::Loc;
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use locs::Locs;
use mew_model::entity::value_key;
use mew_model::{EntityRef, Number, Ontology, ValueRef};
use roaring::RoaringBitmap;
use siphasher::sip::SipHasher13;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::ops::{Bound, RangeInclusive};

pub use locs::PAGE;

/// So that a growing table never stops the kernel for long.
pub const SHARDS: usize = 64;
/// Smaller ones: a checkpoint looks at each of their values under the lock.
pub const UNIQUE_SHARDS: usize = 1 << UNIQUE_BITS;
const UNIQUE_BITS: u32 = 10;

/// Of the hash of ids and values: peers choose those, so they must not know it. A checkpoint keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys(pub u64, pub u64);

impl Keys {
    fn fresh() -> Keys {
        let r = RandomState::new();
        Keys(r.hash_one(0u8), r.hash_one(1u8))
    }

    fn hash(self, what: impl Hash) -> u64 {
        let mut h = SipHasher13::new_with_keys(self.0, self.1);
        what.hash(&mut h);
        h.finish()
    }
}

/// Declaring type and attribute of an order index.
pub type OrderScope = (Number, Number);
/// See [`ValueRef::order_key`].
pub type OrderKey = u64;
/// A part of an order index.
pub type Between = (Bound<(OrderKey, u32)>, Bound<(OrderKey, u32)>);

/// All with such keys.
pub fn between(keys: RangeInclusive<OrderKey>) -> Between {
    let (low, high) = keys.into_inner();
    (Bound::Included((low, 0)), Bound::Included((high, u32::MAX)))
}

pub struct Index {
    pub keys: Keys,
    /// (32 bits of the hash of a `sync_id`, entity number). The id itself is only in the log: a hit is verified there.
    pub ids: Vec<HashTable<(u32, u32)>>,
    locs: Locs,
    /// Living entities by exact type.
    pub types: BTreeMap<Number, RoaringBitmap>,
    /// (hash of type, attribute and value, entity): living entities' unique values; verified in the log.
    unique: Vec<HashTable<(u64, u32)>>,
    /// Living entities by the values of indexed attributes; those whose values share a key are in no order.
    pub ordered: BTreeMap<OrderScope, BTreeSet<(OrderKey, u32)>>,
    /// (end, edge): living edges by either end.
    by_end: BTreeSet<(u32, u32)>,
    pub ends: HashMap<u32, [u32; 2], DefaultHashBuilder>,
    pub facts: BTreeMap<Box<[u8]>, Loc>,
    pub last_seq: u64,
}

fn shard_of(hash: u64) -> usize {
    (hash >> 58) as usize % SHARDS
}

fn unique_shard_of(hash: u64) -> usize {
    (hash >> (u64::BITS - UNIQUE_BITS)) as usize
}

/// Hashes of a shard of unique values.
pub fn hashes_of(shard: usize) -> RangeInclusive<u64> {
    let first = (shard as u64) << (u64::BITS - UNIQUE_BITS);
    first..=first | u64::MAX >> UNIQUE_BITS
}

fn spread(tag: u32) -> u64 {
    mixed(tag.into())
}

/// A table looks at the first and the last bits, and in a shard the first are the same.
fn mixed(hash: u64) -> u64 {
    hash.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Index {
    pub fn new() -> Self {
        Self::with_keys(Keys::fresh())
    }

    pub fn with_keys(keys: Keys) -> Self {
        Index {
            keys,
            ids: (0..SHARDS).map(|_| HashTable::new()).collect(),
            locs: Locs::default(),
            types: BTreeMap::new(),
            unique: (0..UNIQUE_SHARDS).map(|_| HashTable::new()).collect(),
            ordered: BTreeMap::new(),
            by_end: BTreeSet::new(),
            ends: HashMap::default(),
            facts: BTreeMap::new(),
            last_seq: 0,
        }
    }

    /// Entities whose id may be this one; to be verified.
    pub fn candidates(&self, sync_id: &str) -> impl Iterator<Item = u32> + use<'_> {
        let hash = self.keys.hash(sync_id);
        let tag = hash as u32;
        let shard = &self.ids[shard_of(hash)];
        shard.iter_hash(spread(tag)).filter(move |e| e.0 == tag).map(|e| e.1)
    }

    pub fn insert_id(&mut self, sync_id: &str, ent: u32) {
        let hash = self.keys.hash(sync_id);
        let tag = hash as u32;
        self.ids[shard_of(hash)].insert_unique(spread(tag), (tag, ent), |e| spread(e.0));
    }

    /// Puts back what a checkpoint kept of a shard.
    pub fn restore_id(&mut self, shard: usize, tag: u32, ent: u32) {
        self.ids[shard % SHARDS].insert_unique(spread(tag), (tag, ent), |e| spread(e.0));
    }

    pub fn reserve_ids(&mut self, shard: usize, n: usize) {
        self.ids[shard % SHARDS].reserve(n, |e| spread(e.0));
    }

    /// For so many in all, spread evenly.
    pub fn reserve_unique(&mut self, n: usize) {
        self.unique.iter_mut().for_each(|shard| shard.reserve(n.div_ceil(UNIQUE_SHARDS), |x| mixed(x.0)));
    }

    pub fn restore_unique(&mut self, hash: u64, ent: u32) {
        self.unique[unique_shard_of(hash)].insert_unique(mixed(hash), (hash, ent), |x| mixed(x.0));
    }

    pub fn uniques(&self) -> usize {
        self.unique.iter().map(HashTable::len).sum()
    }

    /// Those of one shard, in no order.
    pub fn uniques_of(&self, shard: usize) -> impl Iterator<Item = (u64, u32)> {
        self.unique[shard % UNIQUE_SHARDS].iter().copied()
    }

    pub fn restore_ends(&mut self, edge: u32, ends: [u32; 2]) {
        self.ends.insert(edge, ends);
        for end in ends {
            self.by_end.insert((end, edge));
        }
    }

    /// Forgets a dead entity for good; its number is not used again.
    pub fn forget(&mut self, ent: u32, sync_id: &str) {
        let hash = self.keys.hash(sync_id);
        let tag = hash as u32;
        if let Ok(hit) = self.ids[shard_of(hash)].find_entry(spread(tag), |e| *e == (tag, ent)) {
            hit.remove();
        }
        self.set_loc(ent, Loc::NONE);
    }

    /// The number that the next new entity gets.
    pub fn next(&self) -> u32 {
        self.locs.next()
    }

    /// Numbers below this were given out, also those of entities that are forgotten.
    pub fn raise_next(&mut self, entities: u32) {
        self.locs.raise_next(entities);
    }

    pub fn loc(&self, ent: u32) -> Loc {
        self.locs.get(ent)
    }

    pub fn set_loc(&mut self, ent: u32, loc: Loc) {
        self.locs.set(ent, loc);
    }

    /// How many entities there are, living and dead.
    pub fn held(&self) -> u32 {
        self.locs.held()
    }

    /// Their numbers, ascending.
    pub fn entities(&self) -> impl Iterator<Item = u32> + '_ {
        self.locs.entities()
    }

    /// Of the first [`PAGE`] numbers from this one's on in which an entity lies: the first number, and where they lie.
    pub fn page_from(&self, ent: u32) -> Option<(u32, &[Loc])> {
        self.locs.page_from(ent)
    }

    pub fn of_type(&self, ty: Number) -> Option<&RoaringBitmap> {
        self.types.get(&ty)
    }

    pub fn types(&self) -> impl Iterator<Item = (Number, &RoaringBitmap)> {
        self.types.iter().map(|(t, b)| (*t, b))
    }

    pub fn edges_of(&self, ent: u32) -> impl Iterator<Item = u32> + '_ {
        self.by_end.range((ent, 0)..=(ent, u32::MAX)).map(|e| e.1)
    }

    pub fn ends(&self, edge: u32) -> Option<[u32; 2]> {
        self.ends.get(&edge).copied()
    }

    /// Entities that may hold the unique value; to be verified.
    pub fn unique_with(&self, hash: u64) -> impl Iterator<Item = u32> + '_ {
        self.unique[unique_shard_of(hash)].iter_hash(mixed(hash)).filter(move |e| e.0 == hash).map(|e| e.1)
    }

    pub fn unique_hash(&self, scope: Number, attr: Number, v: ValueRef<'_>) -> u64 {
        self.keys.hash((scope, attr, value_key(v)))
    }

    /// Whether anything is derived from the entity's attributes or ends, so that its old form matters on update.
    pub fn needs_old(&self, ty: Number, o: &Ontology) -> bool {
        o.by_number(ty).is_none_or(|t| t.edge.is_some() || !t.unique.is_empty() || !t.indexed.is_empty())
    }

    /// Tells where an entity is found, for those who look at an older commit.
    pub fn places(&self, ent: u32, e: &EntityRef<'_>, o: &Ontology, old: &mut Old) {
        if e.deleted {
            return;
        }
        old.ends = self.ends(ent);
        old.uniques = uniques(e, o).map(|(scope, attr, v)| self.unique_hash(scope, attr, v)).collect();
        old.uniques.shrink_to_fit();
        old.ordered = order_keys(e, o).collect();
        old.ordered.shrink_to_fit();
    }

    /// Takes an entity from where its last version was found to where the new one is. Most of that is the same, and stays as it
    /// is. `old` is the last version, if anything is derived from it; `ends` are the entity numbers of a living edge's ends, in
    /// order. (While the log is replayed, they may be found later than the version that has them.)
    pub fn replace(
        &mut self,
        ent: u32,
        old: Option<&EntityRef<'_>>,
        new: &EntityRef<'_>,
        ends: Option<[u32; 2]>,
        o: &Ontology,
    ) {
        let (was, is) = (old.filter(|e| !e.deleted), Some(new).filter(|e| !e.deleted));
        if is.is_some() {
            self.types.entry(new.ty).or_default().insert(ent);
        } else if let Some(living) = self.types.get_mut(&new.ty) {
            living.remove(ent);
        }
        // An entity has its type for ever.
        if let Some(t) = o.by_number(new.ty) {
            for (scope, attr) in &t.unique {
                let before = was.map_or(ValueRef::Null, |e| e.attr_ref(*attr));
                let after = is.map_or(ValueRef::Null, |e| e.attr_ref(*attr));
                // Numbers of two kinds may be equal, and are found by different hashes.
                if before.kind() == after.kind() && before.query_eq(after) {
                    continue;
                }
                if !before.is_null() {
                    self.remove_unique(self.unique_hash(*scope, *attr, before), ent);
                }
                if !after.is_null() {
                    self.restore_unique(self.unique_hash(*scope, *attr, after), ent);
                }
            }
            for of in &t.indexed {
                let before = was.and_then(|e| e.attr_ref(of.1).order_key());
                let after = is.and_then(|e| e.attr_ref(of.1).order_key());
                if before == after {
                    continue;
                }
                let set = self.ordered.entry(*of).or_default();
                if let Some(key) = before {
                    set.remove(&(key, ent));
                }
                if let Some(key) = after {
                    set.insert((key, ent));
                }
            }
        }
        if self.ends(ent) != ends {
            for end in self.ends.remove(&ent).into_iter().flatten() {
                self.by_end.remove(&(end, ent));
            }
            if let Some(ends) = ends {
                self.restore_ends(ent, ends);
            }
        }
    }

    fn remove_unique(&mut self, hash: u64, ent: u32) {
        if let Ok(hit) = self.unique[unique_shard_of(hash)].find_entry(mixed(hash), |x| *x == (hash, ent)) {
            hit.remove();
        }
    }

    /// All that lie between, in this direction.
    pub fn ordered(
        &self,
        scope: OrderScope,
        (low, high): Between,
        descending: bool,
    ) -> impl Iterator<Item = (OrderKey, u32)> + '_ {
        let mut all = self.ordered.get(&scope).map(|s| s.range((low, high)));
        std::iter::from_fn(move || {
            let all = all.as_mut()?;
            if descending { all.next_back() } else { all.next() }.copied()
        })
    }

    pub fn fact(&self, key: &[u8]) -> Option<Loc> {
        self.facts.get(key).copied()
    }

    /// Facts whose key begins with `prefix`, ascending.
    pub fn facts(&self, prefix: &[u8]) -> impl Iterator<Item = (&[u8], Loc)> {
        self.facts.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded)).map(|(k, l)| (&**k, *l)).take_while({
            let p = prefix.to_vec();
            move |(k, _)| k.starts_with(&p)
        })
    }

    pub fn set_fact(&mut self, key: &[u8], loc: Option<Loc>) {
        match loc {
            Some(l) => drop(self.facts.insert(key.into(), l)),
            None => drop(self.facts.remove(key)),
        }
    }
}

/// The unique values of an entity: (declaring type, attribute, value). Nulls are exempt.
pub fn uniques<'e>(e: &EntityRef<'e>, o: &Ontology) -> impl Iterator<Item = (Number, Number, ValueRef<'e>)> {
    let e = *e;
    let all = o.by_number(e.ty).into_iter().flat_map(|t| &t.unique);
    all.map(move |(scope, attr)| (*scope, *attr, e.attr_ref(*attr))).filter(|(_, _, v)| !v.is_null())
}

/// The indexed values of an entity.
pub fn order_keys(e: &EntityRef<'_>, o: &Ontology) -> impl Iterator<Item = (OrderScope, OrderKey)> {
    let e = *e;
    let all = o.by_number(e.ty).into_iter().flat_map(|t| &t.indexed);
    all.filter_map(move |of| Some((*of, e.attr_ref(of.1).order_key()?)))
}
