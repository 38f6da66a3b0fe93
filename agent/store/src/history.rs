//! What was replaced while somebody looks at an older commit, so that a look sees one commit and holds up no writer.
//!
//! A look names the commit that it sees. While one is open, each commit says here what it replaces; a look takes what is
//! current unless it was replaced after it. Nothing is kept while nobody looks. What is kept is bounded: a look that is too
//! old for it ends with an error.

use crate::disk::DiskFile;
use crate::index::{Between, OrderKey, OrderScope};
use crate::log::Loc;
use hashbrown::HashMap;
use mew_model::Number;
use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;

/// Replaced versions that are kept for looks; about 300 bytes each.
pub const MOST_REPLACED: usize = 1 << 20;
/// Versions that no look needs any more and that go at once: the state is locked meanwhile, and a look that was open for long,
/// such as a checkpoint's, leaves many. The next commits take the others; nobody sees them.
const MOST_DROPPED: usize = 4096;

/// An entity as the index had it.
#[derive(Clone, Debug, Default)]
pub struct Old {
    pub loc: Loc,
    /// Of a living entity.
    pub ty: Option<Number>,
    pub ends: Option<[u32; 2]>,
    pub uniques: Vec<u64>,
    pub ordered: Vec<(OrderScope, OrderKey)>,
}

enum Key {
    Entity(u32),
    Fact(Box<[u8]>),
    Id(Box<str>),
}

/// What is looked for, and by how many versions it is kept.
type Counted<K> = BTreeMap<K, u32>;

fn keep<K: Ord>(in_: &mut Counted<K>, k: K) {
    *in_.entry(k).or_default() += 1;
}

fn let_go<K: Ord>(in_: &mut Counted<K>, k: &K) {
    if let Some(n) = in_.get_mut(k) {
        *n -= 1;
        if *n == 0 {
            in_.remove(k);
        }
    }
}

/// Versions of one thing, each with the commit that replaced it, ascending.
type Replaced<T> = VecDeque<(u64, T)>;

pub struct History {
    /// Number of the newest commit, counted from when the store was opened. Compaction counts as one.
    commit: u64,
    /// Looks from before this commit have lost something.
    floor: u64,
    /// Indexes are not what they were before this commit.
    reindexed: u64,
    is_kept: bool,
    most: usize,
    order: VecDeque<(u64, Key)>,
    entities: HashMap<u32, Replaced<Old>>,
    facts: BTreeMap<Box<[u8]>, Replaced<Loc>>,
    /// What of `entities` the index has no more, by what one looks for.
    by_end: Counted<(u32, u32)>,
    by_unique: Counted<(u64, u32)>,
    by_order: Counted<(OrderScope, OrderKey, u32)>,
    /// Dead entities whose numbers are not known by their ids any more.
    by_id: HashMap<Box<str>, VecDeque<u32>>,
    /// Segments that were put away, each with the commit that did.
    files: Vec<(u64, u32, Arc<dyn DiskFile>)>,
}

/// The one that was there when `commit` was the newest.
fn at<T>(versions: Option<&Replaced<T>>, commit: u64) -> Option<&T> {
    let v = versions?;
    v.get(v.partition_point(|(replaced, _)| *replaced <= commit)).map(|x| &x.1)
}

impl History {
    pub fn new() -> Self {
        History {
            commit: 0,
            floor: 0,
            reindexed: 0,
            is_kept: false,
            most: MOST_REPLACED,
            order: VecDeque::new(),
            entities: HashMap::new(),
            facts: BTreeMap::new(),
            by_end: BTreeMap::new(),
            by_unique: BTreeMap::new(),
            by_order: BTreeMap::new(),
            by_id: HashMap::new(),
            files: Vec::new(),
        }
    }

    /// The newest commit.
    pub fn commit(&self) -> u64 {
        self.commit
    }

    pub fn serves(&self, commit: u64) -> bool {
        commit >= self.floor
    }

    /// Looks from before it cannot be served.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    pub fn serves_indexes(&self, commit: u64) -> bool {
        commit >= self.reindexed
    }

    /// The newest commit has indexes that were not there before it, or lacks some.
    pub fn reindexed(&mut self) {
        self.reindexed = self.commit;
    }

    #[cfg(test)]
    pub fn bound(&mut self, most: usize) {
        self.most = most;
    }

    /// What is replaced from here on belongs to a new commit.
    pub fn begin(&mut self) {
        self.commit += 1;
    }

    /// `oldest` is the commit of the oldest look that is open. From now on what is replaced is kept, if there is one; what
    /// only older ones would ask for goes; what is returned may be much, and is better dropped without the state's lock.
    #[must_use]
    pub fn look_out(&mut self, oldest: Option<u64>) -> Option<History> {
        self.is_kept = oldest.is_some();
        match oldest {
            Some(oldest) => {
                for _ in 0..MOST_DROPPED {
                    if self.order.front().is_none_or(|(replaced, _)| *replaced > oldest) {
                        break;
                    }
                    self.drop_first();
                }
                self.files.retain(|f| f.0 > oldest);
                None
            }
            None if self.is_empty() => None,
            None => {
                let (commit, floor, reindexed, most) = (self.commit, self.floor, self.reindexed, self.most);
                Some(std::mem::replace(self, History { commit, floor, reindexed, most, ..History::new() }))
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty() && self.files.is_empty()
    }

    /// Whether what is replaced now has to be told.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    pub fn replaced(&mut self, ent: u32, old: Old) {
        for end in old.ends.into_iter().flatten() {
            keep(&mut self.by_end, (end, ent));
        }
        for hash in &old.uniques {
            keep(&mut self.by_unique, (*hash, ent));
        }
        for (scope, key) in &old.ordered {
            keep(&mut self.by_order, (*scope, *key, ent));
        }
        // Nearly always there is one.
        self.entities.entry(ent).or_insert_with(|| VecDeque::with_capacity(1)).push_back((self.commit, old));
        self.push(Key::Entity(ent));
    }

    pub fn fact_replaced(&mut self, key: &[u8], old: Loc) {
        if self.is_kept {
            self.facts.entry(key.into()).or_default().push_back((self.commit, old));
            self.push(Key::Fact(key.into()));
        }
    }

    fn push(&mut self, key: Key) {
        self.order.push_back((self.commit, key));
        while self.order.len() > self.most
            && let Some((replaced, _)) = self.order.front()
        {
            self.floor = *replaced;
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        match self.order.pop_front() {
            Some((_, Key::Entity(ent))) => {
                let Some(versions) = self.entities.get_mut(&ent) else { return };
                let Some((_, old)) = versions.pop_front() else { return };
                for end in old.ends.into_iter().flatten() {
                    let_go(&mut self.by_end, &(end, ent));
                }
                for hash in old.uniques {
                    let_go(&mut self.by_unique, &(hash, ent));
                }
                for (scope, key) in old.ordered {
                    let_go(&mut self.by_order, &(scope, key, ent));
                }
                if versions.is_empty() {
                    self.entities.remove(&ent);
                }
            }
            Some((_, Key::Id(id))) => {
                if let Some(all) = self.by_id.get_mut(&id) {
                    all.pop_front();
                    if all.is_empty() {
                        self.by_id.remove(&id);
                    }
                }
            }
            Some((_, Key::Fact(key))) => {
                if let Some(versions) = self.facts.get_mut(&key) {
                    versions.pop_front();
                    if versions.is_empty() {
                        self.facts.remove(&key);
                    }
                }
            }
            None => {}
        }
    }

    pub fn put_away(&mut self, id: u32, file: Arc<dyn DiskFile>) {
        if self.is_kept {
            self.files.push((self.commit, id, file));
        }
    }

    pub fn forgotten(&mut self, sync_id: &str, ent: u32, loc: Loc) {
        if self.is_kept {
            self.by_id.entry(sync_id.into()).or_default().push_back(ent);
            self.push(Key::Id(sync_id.into()));
            let old = Old { loc, ..Old::default() };
            self.replaced(ent, old);
        }
    }

    pub fn file(&self, id: u32) -> Option<&Arc<dyn DiskFile>> {
        self.files.iter().find(|f| f.1 == id).map(|f| &f.2)
    }

    // ---------------------------------------------------------------- what a look sees

    /// How the entity was, if it was replaced after `commit`.
    pub fn entity(&self, ent: u32, commit: u64) -> Option<&Old> {
        at(self.entities.get(&ent), commit)
    }

    pub fn find(&self, sync_id: &str) -> impl Iterator<Item = u32> {
        self.by_id.get(sync_id).into_iter().flatten().copied()
    }

    /// As [`History::entity`], of all that were replaced.
    pub fn all(&self, commit: u64) -> impl Iterator<Item = (u32, &Old)> {
        self.entities.iter().filter_map(move |(ent, v)| Some((*ent, at(Some(v), commit)?)))
    }

    /// Where the fact was, if it was replaced after `commit`; [`Loc::NONE`] if it was not there.
    pub fn fact(&self, key: &[u8], commit: u64) -> Option<Loc> {
        at(self.facts.get(key), commit).copied()
    }

    /// Facts from this key on, as [`History::fact`], ascending.
    pub fn facts_from(&self, prefix: &[u8], commit: u64) -> impl Iterator<Item = (&[u8], Loc)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.facts.range::<[u8], _>(from).filter_map(move |(k, v)| Some((&**k, *at(Some(v), commit)?)))
    }

    /// Edges that were replaced and had this end; to be verified.
    pub fn edges_of(&self, ent: u32) -> impl Iterator<Item = u32> + '_ {
        self.by_end.range((ent, 0)..=(ent, u32::MAX)).map(|e| e.0.1)
    }

    /// Entities that were replaced and may have had the unique value; to be verified.
    pub fn unique(&self, hash: u64) -> impl Iterator<Item = u32> + '_ {
        self.by_unique.range((hash, 0)..=(hash, u32::MAX)).map(|e| e.0.1)
    }

    /// (hash, entity) of unique values that replaced entities had; to be verified.
    pub fn uniques(&self, hashes: RangeInclusive<u64>) -> impl Iterator<Item = (u64, u32)> + '_ {
        let (low, high) = hashes.into_inner();
        self.by_unique.range((low, 0)..=(high, u32::MAX)).map(|e| *e.0)
    }

    /// Entities that were replaced and had a value that lies between, in this direction; to be verified.
    pub fn ordered(
        &self,
        scope: OrderScope,
        (low, high): Between,
        descending: bool,
    ) -> impl Iterator<Item = (OrderKey, u32)> + '_ {
        let full = |(key, ent): (OrderKey, u32)| (scope, key, ent);
        let low = match low {
            Bound::Unbounded => Bound::Included(full((OrderKey::MIN, 0))),
            b => b.map(full),
        };
        let high = match high {
            Bound::Unbounded => Bound::Included(full((OrderKey::MAX, u32::MAX))),
            b => b.map(full),
        };
        let mut all = self.by_order.range((low, high));
        std::iter::from_fn(move || if descending { all.next_back() } else { all.next() }.map(|e| (e.0.1, e.0.2)))
    }
}

#[cfg(test)]
mod tests {
    use super::{History, MOST_DROPPED, Old};
    use crate::log::Loc;

    const MANY: u32 = 10_000;

    fn is_at(offset: u32) -> Old {
        Old { loc: Loc::new(0, offset), ends: Some([offset, offset]), uniques: vec![offset.into()], ..Old::default() }
    }

    /// A look that was open for long leaves much: none of it is seen by those that are younger, and it goes in parts, so that
    /// nobody waits for all of it.
    #[test]
    fn what_only_an_old_look_would_ask_for_goes_in_parts() {
        let mut h = History::new();
        assert!(h.look_out(Some(0)).is_none());
        h.begin();
        (0..MANY).for_each(|ent| h.replaced(ent, is_at(ent)));
        h.fact_replaced(b"f", Loc::new(0, 1));
        h.forgotten("gone", MANY, Loc::new(0, 2));
        // The oldest look that is left is of this commit, and each of these was replaced after it once more.
        h.begin();
        (0..MANY).step_by(2).for_each(|ent| h.replaced(ent, is_at(MANY + ent)));
        h.begin();
        let newer = 2;
        (0..100).for_each(|ent| h.replaced(ent, is_at(2 * MANY + ent)));
        h.fact_replaced(b"f", Loc::new(0, 3));
        let kept = 101;

        let mut calls = 0;
        while h.order.len() > kept {
            let before = h.order.len();
            assert!(h.look_out(Some(newer)).is_none(), "not all of it goes");
            let dropped = before - h.order.len();
            assert!(dropped > 0 && dropped <= MOST_DROPPED, "{dropped} at once");
            calls += 1;
            for ent in [0, 1, 99, 100, 101, 5000, MANY - 1, MANY] {
                let right = (ent < 100).then(|| Loc::new(0, 2 * MANY + ent));
                assert_eq!(h.entity(ent, newer).map(|old| old.loc), right, "entity {ent} after {calls}");
            }
            assert_eq!(h.fact(b"f", newer), Some(Loc::new(0, 3)), "after {calls}");
            assert_eq!(h.all(newer).count(), 100, "after {calls}");
            assert!(h.serves(newer) && h.is_kept());
        }
        assert!(calls > 3, "in {calls} parts");
        // Nothing that one would look by is left of what went.
        assert_eq!((h.entities.len(), h.facts.len(), h.by_id.len()), (100, 1, 0));
        assert_eq!((h.by_end.len(), h.by_unique.len()), (100, 100));
        assert!(h.look_out(Some(newer)).is_none());
        assert_eq!(h.order.len(), kept, "that is still looked at");
        assert!(h.look_out(None).is_some_and(|all| all.order.len() == kept) && h.is_empty());
    }
}
