//! What a transaction writes: checked against the ontology, and indexed for what it reads afterwards.

use super::{Result, Tx, UniqueKey};
use crate::error::KernelError;
use bytes::Bytes;
use mew_model::ontology::{Type, Violation};
use mew_model::{Draft, EntityRef, KernelKey, Number, Ontology, ValueRef, entity};
use mew_store::{Change, Stored, is_alike, order_keys};

impl Tx<'_> {
    pub fn set_fact(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.layers[1].set_fact(key, value);
    }

    pub fn delete_fact(&mut self, key: Vec<u8>) {
        self.layers[1].set_fact(key, Vec::new());
    }

    /// The local number that the next new entity gets.
    pub fn next_entity(&self) -> u32 {
        self.view.next_entity() + self.layers.iter().map(|l| l.new_entities).sum::<u32>()
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
            Some(old) => {
                if is_alike(&old.entity()?, &new, &o) {
                    let ent = old.ent;
                    self.layers[1].put(Change { ent, origin, bytes, found: Some(old.clone()) });
                    return Ok(ent);
                }
                self.unindex(old.ent, &old.entity()?, &o)?;
                old.ent
            }
            None => {
                let ent = self.next_entity();
                let top = &mut self.layers[1];
                top.new_entities += 1;
                top.ids.insert(new.sync_id.to_owned(), ent);
                ent
            }
        };
        if !new.deleted {
            let ends = new.ends().map(|e| self.find(e)).collect::<Result<Vec<_>>>()?;
            let top = &mut self.layers[1];
            top.types.insert((new.ty, ent), true);
            for ((scope, attr), key) in order_keys(&new, &o) {
                top.ordered.insert((scope, attr, key, ent), true);
            }
            for (scope, attr, key) in unique_keys(&new, &o) {
                top.unique.insert((scope, attr, key), Some(ent));
            }
            if let [Some(a), Some(b)] = ends.as_slice() {
                top.ends.insert(ent, [*a, *b]);
                top.by_end.insert((*a, ent), true);
                top.by_end.insert((*b, ent), true);
            }
        }
        self.layers[1].put(Change { ent, origin, bytes, found: replaces.cloned() });
        Ok(ent)
    }

    fn unindex(&mut self, ent: u32, old: &EntityRef<'_>, o: &Ontology) -> Result<()> {
        if old.deleted {
            return Ok(());
        }
        let ends = self.ends(ent)?;
        let top = &mut self.layers[1];
        top.types.insert((old.ty, ent), false);
        for ((scope, attr), key) in order_keys(old, o) {
            top.ordered.insert((scope, attr, key, ent), false);
        }
        for (scope, attr, key) in unique_keys(old, o) {
            top.unique.insert((scope, attr, key), None);
        }
        for end in ends.into_iter().flatten() {
            top.by_end.insert((end, ent), false);
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

fn unique_keys(e: &EntityRef<'_>, o: &Ontology) -> Vec<UniqueKey> {
    let Some(t) = o.by_number(e.ty) else { return Vec::new() };
    t.unique
        .iter()
        .map(|(scope, attr)| (*scope, *attr, e.attr_ref(*attr)))
        .filter(|(_, _, v)| !v.is_null())
        .map(|(s, a, v)| (s, a, entity::value_key(v)))
        .collect()
}
