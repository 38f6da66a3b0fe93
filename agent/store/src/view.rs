//! A look at what is committed.

use crate::index::uniques;
use crate::log::Loc;
use crate::state::State;
use crate::types::{Result, Stored};
use bytes::Bytes;
use mew_model::{Number, Ontology, ValueRef};
use roaring::RoaringBitmap;
use std::sync::{Arc, RwLockReadGuard};

/// A consistent look at what is committed.
pub struct View<'a>(pub(crate) RwLockReadGuard<'a, State>);

impl View<'_> {
    pub fn ontology(&self) -> &Arc<Ontology> {
        &self.0.ontology
    }

    pub fn last_seq(&self) -> u64 {
        self.0.index.last_seq
    }

    pub fn next_entity(&self) -> u32 {
        self.0.index.next()
    }

    /// Also finds tombstones.
    pub fn find(&self, sync_id: &str) -> Result<Option<u32>> {
        self.0.find(sync_id)
    }

    /// The newest version, tombstones included.
    pub fn get(&self, ent: u32) -> Result<Option<Stored>> {
        self.0.get(ent)
    }

    /// Living entities of exactly this type.
    pub fn of_type(&self, ty: Number) -> Option<&RoaringBitmap> {
        self.0.index.of_type(ty)
    }

    /// Types that have ever had a living entity.
    pub fn types(&self) -> impl Iterator<Item = (Number, &RoaringBitmap)> {
        self.0.index.types()
    }

    pub fn edges_of(&self, ent: u32) -> impl Iterator<Item = u32> + '_ {
        self.0.index.edges_of(ent)
    }

    pub fn ends(&self, edge: u32) -> Option<[u32; 2]> {
        self.0.index.ends(edge)
    }

    /// The living entity that holds a unique value.
    pub fn unique(&self, scope: Number, attr: Number, v: ValueRef<'_>) -> Result<Option<u32>> {
        for ent in self.0.index.unique_candidates(scope, attr, v) {
            if let Some(s) = self.get(ent)? {
                let e = s.entity()?;
                if uniques(&e, &self.0.ontology).any(|(s, a, x)| s == scope && a == attr && x.query_eq(v)) {
                    return Ok(Some(ent));
                }
            }
        }
        Ok(None)
    }

    pub fn fact(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.0.index.fact(key).map(|l| self.fact_at(l)).transpose()
    }

    fn fact_at(&self, loc: Loc) -> Result<Bytes> {
        let (r, body) = self.0.read_record(loc)?;
        Ok(body.slice((r.ent as usize).min(body.len())..))
    }

    /// Facts whose key begins with `prefix`, ascending by key.
    pub fn facts(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>> {
        self.0.index.facts(prefix).map(|(k, l)| Ok((k.to_vec(), self.fact_at(l)?))).collect()
    }

    pub fn has_fact(&self, key: &[u8]) -> bool {
        self.0.index.fact(key).is_some()
    }

    /// Keys that begin with `prefix`, ascending.
    pub fn fact_keys(&self, prefix: &[u8]) -> impl Iterator<Item = &[u8]> {
        self.0.index.facts(prefix).map(|(k, _)| k)
    }

    pub fn count_facts(&self, prefix: &[u8]) -> usize {
        self.0.index.facts(prefix).count()
    }
}
