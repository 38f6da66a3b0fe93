//! A look in parts, which a checkpoint is made of: each is read under the lock for a moment only.

use super::View;
use crate::index::{OrderKey, OrderScope, PAGE, SHARDS, hashes_of};
use crate::log::Loc;
use crate::types::Result;
use std::collections::BTreeMap;
use std::ops::{Bound, RangeInclusive};

/// Items of a part: so few that a commit hardly waits for them. Fewer where schedules are explored, so that there are several.
pub const PART: usize = if cfg!(feature = "shuttle") { 3 } else { 16 << 10 };

/// Keys, and where they lie.
pub type Facts = Vec<(Box<[u8]>, Loc)>;

const ALL_KEYS: RangeInclusive<OrderKey> = OrderKey::MIN..=OrderKey::MAX;

impl View<'_> {
    /// Where these entities lie.
    pub(crate) fn places_of(&self, ents: impl Iterator<Item = u32>) -> Result<Vec<Loc>> {
        let st = self.state()?;
        if self.is_newest(&st) {
            return Ok(ents.map(|ent| st.index.loc(ent)).collect());
        }
        Ok(ents.map(|ent| self.old(&st, ent).map_or_else(|| st.index.loc(ent), |old| old.loc)).collect())
    }

    /// Where entities lie, a page at a time: of the first page from this number's on in which something lies now, the first
    /// number, and where all of it lie for this look. Numbers are forgotten by upkeep alone, of which this is a part, so in
    /// what is passed over nothing lies.
    pub(crate) fn places_from(&self, ent: u32) -> Result<Option<(u32, Vec<Loc>)>> {
        let st = self.state()?;
        let Some((first, now)) = st.index.page_from(ent).filter(|(first, _)| *first < self.next_entity) else {
            return Ok(None);
        };
        let numbers = first..self.next_entity.min(first.saturating_add(PAGE));
        let now = numbers.zip(now.iter().copied());
        if self.is_newest(&st) {
            return Ok(Some((first, now.map(|(_, loc)| loc).collect())));
        }
        Ok(Some((first, now.map(|(ent, loc)| self.old(&st, ent).map_or(loc, |old| old.loc)).collect())))
    }

    /// Where this fact lies, if it is there.
    pub(crate) fn place_of_fact(&self, key: &[u8]) -> Result<Option<Loc>> {
        let st = self.state()?;
        let loc = st.history.fact(key, self.commit).or_else(|| st.index.fact(key));
        Ok(loc.filter(|loc| *loc != Loc::NONE))
    }

    /// (tag, entity) of all in a shard, also of dead ones. Numbers are forgotten by upkeep alone, of which this is a part.
    pub(crate) fn ids_of(&self, shard: usize) -> Result<Vec<(u32, u32)>> {
        let st = self.state()?;
        // Also one that was forgotten can be written again since.
        let was_there = |ent: u32| ent < self.next_entity && self.old(&st, ent).is_none_or(|old| old.loc != Loc::NONE);
        Ok(st.index.ids[shard % SHARDS].iter().filter(|(_, ent)| was_there(*ent)).copied().collect())
    }

    /// (hash, entity) of all unique values in a shard.
    pub(crate) fn uniques_of(&self, shard: usize) -> Result<Vec<(u64, u32)>> {
        let st = self.state()?;
        let now = st.index.uniques_of(shard);
        if self.is_newest(&st) {
            return Ok(now.collect());
        }
        let had = |hash: u64, ent: u32| self.old(&st, ent).is_some_and(|old| old.uniques.contains(&hash));
        let then = st.history.uniques(hashes_of(shard)).filter(|(hash, ent)| had(*hash, *ent));
        Ok(now.filter(|(_, ent)| self.old(&st, *ent).is_none()).chain(then).collect())
    }

    /// Those of these that are living edges, each with its ends.
    pub(crate) fn ends_of(&self, edges: &[u32]) -> Result<Vec<(u32, [u32; 2])>> {
        let st = self.state()?;
        let ends = |edge: u32| self.old(&st, edge).map_or_else(|| st.index.ends(edge), |old| old.ends);
        Ok(edges.iter().filter_map(|edge| Some((*edge, ends(*edge)?))).collect())
    }

    /// The first facts behind `after`, ascending, and behind what there may be more.
    pub(crate) fn facts_behind(&self, after: &[u8]) -> Result<(Facts, Option<Box<[u8]>>)> {
        let st = self.state()?;
        let behind = (Bound::Excluded(after), Bound::<&[u8]>::Unbounded);
        let mut all: BTreeMap<Box<[u8]>, Loc> =
            st.index.facts.range::<[u8], _>(behind).take(PART).map(|(k, loc)| (k.clone(), *loc)).collect();
        // What was replaced lies between the others, and beyond them if there are no others.
        let last = if all.len() < PART { None } else { all.keys().next_back().cloned() };
        let replaced = st.history.facts_from(after, self.commit).filter(|(k, _)| *k > after);
        for (k, loc) in replaced.take_while(|(k, _)| last.as_deref().is_none_or(|last| *k <= last)) {
            all.insert(k.into(), loc);
        }
        Ok((all.into_iter().filter(|x| x.1 != Loc::NONE).collect(), last))
    }

    /// The first values of an order index behind `after`, ascending.
    pub(crate) fn ordered_behind(
        &self,
        (ty, attr): OrderScope,
        after: Option<(OrderKey, u32)>,
    ) -> Result<Vec<(OrderKey, u32)>> {
        self.first_ordered(ty, attr, ALL_KEYS, after, false, PART)
    }
}
