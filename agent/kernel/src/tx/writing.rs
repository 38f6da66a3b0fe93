//! What a transaction writes: checked against the ontology, and indexed for what it reads afterwards.

use super::{Result, Tx};
use crate::error::KernelError;
use bytes::Bytes;
use mew_model::ontology::{Type, Violation};
use mew_model::{Draft, EntityRef, KernelKey, Number, Ontology, ValueRef, entity};
use mew_store::{Change, MOST_ENTITIES, StoreError, Stored};

impl Tx<'_> {
    pub fn set_fact(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.layers[1].set_fact(key, value);
    }

    pub fn delete_fact(&mut self, key: Vec<u8>) {
        self.layers[1].set_fact(key, Vec::new());
    }

    /// The local number that the next new entity gets; [`MOST_ENTITIES`] if there is none left.
    pub fn next_entity(&self) -> u32 {
        self.layers.iter().fold(self.view.next_entity(), |next, l| next.saturating_add(l.new_entities))
    }

    /// Checks everything that the ontology asks of a living entity: attributes, unique values, and that an edge's ends
    /// are there and of the right types. `old` is what it replaces.
    pub fn check(&self, old: Option<&Stored>, e: &EntityRef<'_>) -> Result<()> {
        let o = self.ontology();
        let was = old.map(Stored::entity).transpose()?.filter(|was| !was.deleted && was.ty == e.ty);
        o.check_entity(e.ty, e.attr_refs())?;
        let Some(t) = o.by_number(e.ty) else { return Ok(()) };
        for (scope, attr) in &t.unique {
            let v = e.attr_ref(*attr);
            // What it had already nobody else has.
            if v.is_null() || was.is_some_and(|was| was.attr_ref(*attr).query_eq(v)) {
                continue;
            }
            self.check_unique(t, (*scope, *attr), v, old.map(|old| old.ent))?;
        }
        self.check_ends(t, e)
    }

    /// As [`Tx::check`], of what is stored, as if it were to be written now. A tombstone fits everywhere.
    pub(crate) fn check_stored(&self, s: &Stored) -> Result<()> {
        let (o, e) = (self.ontology(), s.entity()?);
        if e.deleted {
            return Ok(());
        }
        o.check_entity(e.ty, e.attr_refs())?;
        let Some(t) = o.by_number(e.ty) else { return Ok(()) };
        for (scope, attr) in &t.unique {
            let v = e.attr_ref(*attr);
            if !v.is_null() {
                self.check_unique(t, (*scope, *attr), v, Some(s.ent))?;
            }
        }
        self.check_ends(t, &e)
    }

    /// Whether nobody has the value but this entity.
    fn check_unique(&self, t: &Type, (scope, attr): (Number, Number), v: ValueRef<'_>, own: Option<u32>) -> Result<()> {
        match self.unique(scope, attr, v)? {
            Some(holder) if own != Some(holder.ent) => {
                let name = self.ontology().attribute_name(attr).unwrap_or("?");
                let id = self.identity.local_id(holder.ent);
                Err(Violation(format!("{}: attribute {name} is unique and #{id} already has {v}", t.name)).into())
            }
            _ => Ok(()),
        }
    }

    fn check_ends(&self, t: &Type, e: &EntityRef<'_>) -> Result<()> {
        let o = self.ontology();
        let ends: Vec<&str> = e.ends().collect();
        let params = t.edge.as_ref().map(|e| e.params.as_slice()).unwrap_or_default();
        if ends.len() != params.len() {
            return Err(Violation(format!("{}: {} ends given, {} declared", t.name, ends.len(), params.len())).into());
        }
        for (end, p) in ends.iter().zip(params) {
            let node =
                self.living_as(end)?.ok_or_else(|| KernelError::NotFound(format!("end {end} of edge {}", t.name)))?;
            let ty = node.entity()?.ty;
            if !p.ty.as_deref().is_none_or(|want| o.is_one_of(ty, [want])) {
                let want = p.ty.as_deref().unwrap_or("any");
                return Err(Violation(format!(
                    "{}: end {} must be a {want}, {end} is a {}",
                    t.name,
                    p.name,
                    o.type_name(ty)
                ))
                .into());
            }
        }
        Ok(())
    }

    /// Stores a version as it is, in place of what the transaction finds under its `sync_id`, if anything. The caller has
    /// checked it, or it is a tombstone. Returns the entity's number.
    pub fn put(&mut self, bytes: Bytes, origin: KernelKey, replaces: Option<&Stored>) -> Result<u32> {
        let new = EntityRef::read(&bytes).map_err(|e| KernelError::Limit(e.to_string()))?;
        let o = self.ontology().clone();
        let ent = match replaces {
            Some(old) => old.ent,
            None => {
                let ent = self.next_entity();
                // The store would refuse it, and all that share the commit with it.
                if ent == MOST_ENTITIES {
                    return Err(KernelError::Limit(StoreError::NoNumbers.to_string()));
                }
                let top = &mut self.layers[1];
                top.new_entities += 1;
                top.ids.insert(new.sync_id.to_owned(), ent);
                ent
            }
        };
        let was = replaces.map(Stored::entity).transpose()?.filter(|was| !was.deleted);
        self.reindex(ent, was.as_ref(), Some(&new).filter(|new| !new.deleted), &o)?;
        self.layers[1].put(Change { ent, origin, bytes, found: replaces.cloned() });
        Ok(ent)
    }

    /// Where the entity is found from now on: what both living versions say stays as it is.
    fn reindex(
        &mut self,
        ent: u32,
        was: Option<&EntityRef<'_>>,
        is: Option<&EntityRef<'_>>,
        o: &Ontology,
    ) -> Result<()> {
        let Some(ty) = was.or(is).map(|e| e.ty) else { return Ok(()) };
        if !ends_of(was).eq(ends_of(is)) {
            let before = if was.is_some() { self.ends(ent)? } else { None };
            let after = ends_of(is).map(|id| self.find(id)).collect::<Result<Vec<_>>>()?;
            let top = &mut self.layers[1];
            for end in before.into_iter().flatten() {
                top.by_end.insert((end, ent), false);
            }
            if let [Some(a), Some(b)] = after[..] {
                top.ends.insert(ent, [a, b]);
                top.by_end.insert((a, ent), true);
                top.by_end.insert((b, ent), true);
            }
        }
        let top = &mut self.layers[1];
        if was.is_some() != is.is_some() {
            top.types.insert((ty, ent), is.is_some());
        }
        let Some(t) = o.by_number(ty) else { return Ok(()) };
        for (scope, attr) in &t.indexed {
            let before = was.and_then(|e| e.attr_ref(*attr).order_key());
            let after = is.and_then(|e| e.attr_ref(*attr).order_key());
            if before != after {
                for (key, here) in [(before, false), (after, true)] {
                    if let Some(key) = key {
                        top.ordered.insert((*scope, *attr, key, ent), here);
                    }
                }
            }
        }
        for (scope, attr) in &t.unique {
            let before = was.map_or(ValueRef::Null, |e| e.attr_ref(*attr));
            let after = is.map_or(ValueRef::Null, |e| e.attr_ref(*attr));
            if before.query_eq(after) {
                continue;
            }
            for (v, holder) in [(before, None), (after, Some(ent))] {
                if !v.is_null() {
                    top.unique.insert((*scope, *attr, entity::value_key(v)), holder);
                }
            }
        }
        Ok(())
    }

    /// A local write: stamps the draft with this kernel's version, checks it and stores it.
    pub fn write_local(&mut self, mut d: Draft, replaces: Option<&Stored>) -> Result<u32> {
        let old_time = match replaces {
            Some(s) => Some(s.entity()?.time),
            None => None,
        };
        d.stamp(self.identity.key, self.now_ms, old_time);
        self.write_checked(d.encode().into(), replaces)
    }

    /// A local write of a new version, stamped already.
    pub(crate) fn write_checked(&mut self, bytes: Bytes, replaces: Option<&Stored>) -> Result<u32> {
        if bytes.len() > entity::MAX_ENTITY {
            return Err(KernelError::Limit(format!(
                "the entity has {} bytes; at most {} are allowed",
                bytes.len(),
                entity::MAX_ENTITY
            )));
        }
        let e = EntityRef::read(&bytes).map_err(|e| KernelError::Limit(e.to_string()))?;
        if !e.deleted {
            self.check(replaces, &e)?;
        }
        self.put(bytes.clone(), replaces.map_or(KernelKey(0), |s| s.origin), replaces)
    }
}

fn ends_of<'e>(e: Option<&EntityRef<'e>>) -> impl Iterator<Item = &'e str> + use<'e> {
    e.copied().into_iter().flat_map(|e| e.ends())
}
