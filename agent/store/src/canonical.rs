//! All derived state in one order: what it means that a store "rebuilds the same".
//!
//! Two stores hold the same exactly if these bytes are the same. They follow from what was committed and from the ontology:
//! not from the keys of hashes, which every rebuilding draws anew, and not from segments, so that compaction changes them
//! only where it forgets a tombstone. For that, an index is not copied but asked for each entity, as a reader asks it; what
//! it does not find, or holds besides, is an error.
//!
//! ```text
//! canonical    "MEWCAN01" | last seq u64 | next entity u32
//!              | entities: number u32 | seq u64 | origin u64 | crc32c u32 | type u32 | deleted u32 | id
//!                          | unique values: declaring type u32 | attribute u32
//!              | types: number u32 | living entities
//!              | indexed values: declaring type u32 | attribute u32 | (key u64 | entity u32)
//!              | edges: number u32 | source u32 | target u32
//!              | ends: entity u32 | edges
//!              | facts: key | crc32c u32
//! ```
//! Every list is its length and its items, ascending and little-endian, as in a checkpoint. Values and texts of entities and
//! facts are in their checksums.

use crate::index::{Index, order_keys, uniques};
use crate::log::Kind;
use crate::state::State;
use crate::store::Store;
use crate::types::{Result, StoreError};
use std::io::{self, Write};

const MAGIC: &[u8; 8] = b"MEWCAN01";

struct Out<'w>(&'w mut dyn Write);

impl Out<'_> {
    fn u32(&mut self, v: u32) -> io::Result<()> {
        self.0.write_all(&v.to_le_bytes())
    }
    fn u64(&mut self, v: u64) -> io::Result<()> {
        self.0.write_all(&v.to_le_bytes())
    }
    fn count(&mut self, n: usize) -> io::Result<()> {
        self.u32(n as u32)
    }
    fn bytes(&mut self, b: &[u8]) -> io::Result<()> {
        self.count(b.len())?;
        self.0.write_all(b)
    }
    fn all(&mut self, items: &[u32]) -> io::Result<()> {
        self.count(items.len())?;
        items.iter().try_for_each(|v| self.u32(*v))
    }
}

/// How much there is of each kind, as the entities say or as the indexes hold it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    entities: usize,
    living: usize,
    uniques: usize,
    ordered: usize,
    edges: usize,
}

impl Counts {
    fn of(i: &Index) -> Counts {
        Counts {
            entities: i.ids.iter().map(|shard| shard.len()).sum(),
            living: i.types().map(|(_, b)| b.len() as usize).sum(),
            uniques: i.uniques(),
            ordered: i.ordered.values().map(|set| set.len()).sum(),
            edges: i.ends.len(),
        }
    }
}

impl Store {
    /// Writes all derived state in one order; see the top of this file. It reads every entity, and commits wait meanwhile:
    /// it is for tests, and for a store that nobody else uses.
    pub fn canonical(&self, out: &mut dyn Write) -> Result<()> {
        let st = self.read();
        let mut out = Out(out);
        out.0.write_all(MAGIC)?;
        out.u64(st.index.last_seq)?;
        out.u32(st.index.next())?;
        let (said, held) = (entities(&st, &mut out)?, Counts::of(&st.index));
        if said != held {
            return Err(StoreError::Inconsistent(format!("the entities say {said:?}, and the indexes hold {held:?}")));
        }
        lists(&st.index, &mut out)?;
        edges(&st.index, &mut out)?;
        facts(&st, &mut out)
    }
}

fn entities(st: &State, out: &mut Out<'_>) -> Result<Counts> {
    let (index, o) = (&st.index, &*st.ontology);
    let mut n = Counts::default();
    out.count(Counts::of(index).entities)?;
    for ent in index.entities() {
        let Some(s) = st.get(ent)? else { continue };
        let e = s.entity()?;
        let missed = |by: &str| StoreError::Inconsistent(format!("entity {ent} is not found by {by}"));
        if !index.candidates(e.sync_id).any(|x| x == ent) {
            return Err(missed("its id"));
        }
        n.entities += 1;
        out.u32(ent)?;
        out.u64(s.seq)?;
        out.u64(s.origin.0)?;
        out.u32(s.crc)?;
        out.u32(e.ty)?;
        out.u32(e.deleted.into())?;
        out.bytes(e.sync_id.as_bytes())?;
        if e.deleted {
            out.count(0)?;
            continue;
        }
        n.living += 1;
        if !index.of_type(e.ty).is_some_and(|all| all.contains(ent)) {
            return Err(missed("its type"));
        }
        let values: Vec<_> = uniques(&e, o).collect();
        out.count(values.len())?;
        for (scope, attr, v) in values {
            let hash = index.unique_hash(scope, attr, v);
            if index.unique_with(hash).filter(|x| *x == ent).count() != 1 {
                return Err(missed("a unique value, or twice"));
            }
            n.uniques += 1;
            out.u32(scope)?;
            out.u32(attr)?;
        }
        for (scope, key) in order_keys(&e, o) {
            if !index.ordered.get(&scope).is_some_and(|set| set.contains(&(key, ent))) {
                return Err(missed("an indexed value"));
            }
            n.ordered += 1;
        }
        if e.ends().count() == 2 {
            if index.ends(ent).is_none() {
                return Err(missed("its ends"));
            }
            n.edges += 1;
        }
    }
    Ok(n)
}

/// What is in order by itself. A type or an index that is empty may be there or not.
fn lists(index: &Index, out: &mut Out<'_>) -> Result<()> {
    let types: Vec<_> = index.types().filter(|(_, all)| !all.is_empty()).collect();
    out.count(types.len())?;
    for (ty, all) in types {
        out.u32(ty)?;
        out.all(&all.iter().collect::<Vec<u32>>())?;
    }
    let indexes: Vec<_> = index.ordered.iter().filter(|(_, set)| !set.is_empty()).collect();
    out.count(indexes.len())?;
    for ((ty, attr), set) in indexes {
        out.u32(*ty)?;
        out.u32(*attr)?;
        out.count(set.len())?;
        for (key, ent) in set {
            out.u64(*key)?;
            out.u32(*ent)?;
        }
    }
    Ok(())
}

fn edges(index: &Index, out: &mut Out<'_>) -> Result<()> {
    let mut all: Vec<(u32, [u32; 2])> = index.ends.iter().map(|(edge, ends)| (*edge, *ends)).collect();
    all.sort_unstable();
    out.count(all.len())?;
    for (edge, [source, target]) in &all {
        [*edge, *source, *target].into_iter().try_for_each(|v| out.u32(v))?;
    }
    // By end, each edge is there once for each of its ends, and nothing is there besides.
    let mut left: usize = all.iter().map(|(_, [source, target])| 1 + usize::from(source != target)).sum();
    let by_end = |ent: &u32| index.edges_of(*ent).next().is_some();
    let ends: Vec<u32> = index.entities().filter(by_end).collect();
    out.count(ends.len())?;
    for end in ends {
        let here: Vec<u32> = index.edges_of(end).collect();
        if let Some(edge) = here.iter().find(|edge| !index.ends(**edge).is_some_and(|e| e.contains(&end))) {
            return Err(StoreError::Inconsistent(format!("{edge} is no edge of entity {end}")));
        }
        left = left.saturating_sub(here.len());
        out.u32(end)?;
        out.all(&here)?;
    }
    if left > 0 {
        return Err(StoreError::Inconsistent(format!("{left} ends of edges are not found by their entities")));
    }
    Ok(())
}

fn facts(st: &State, out: &mut Out<'_>) -> Result<()> {
    out.count(st.index.facts.len())?;
    for (key, loc) in &st.index.facts {
        let (r, body) = st.read_record(*loc)?;
        if r.kind != Kind::Fact || r.ent as usize != key.len() || !body.starts_with(key) {
            let key = String::from_utf8_lossy(key);
            return Err(StoreError::Inconsistent(format!("what is at {loc:?} is not fact {key:?}")));
        }
        out.bytes(key)?;
        out.u32(r.crc)?;
    }
    Ok(())
}
