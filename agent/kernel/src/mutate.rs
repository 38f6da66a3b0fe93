//! SPAWN, SET, KILL, LINK and UNLINK inside a transaction.

use crate::error::KernelError;
use crate::matching::{Matcher, Order, Row, RowEnv, rows_of};
use crate::names::{Bound, Params};
use crate::query::{Projected, finish, project};
use crate::rows::Summary;
use crate::tx::Tx;
use mew_lang::eval::{Seen, eval, look};
use mew_lang::plan::{Action, Expr, KillMode, Match, Mutate, Target};
use mew_model::ontology::{Attribute, OnKill, Violation};
use mew_model::{Draft, Number, Value, ValueRef, entity, name};
use mew_store::Stored;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

type Result<T> = std::result::Result<T, KernelError>;

/// How far a cascade of kills may reach, and how many entities it may take.
const MAX_CASCADE_DEPTH: usize = 100;
const MAX_CASCADE: usize = 10_000;

struct Run<'r, 'a> {
    tx: &'r mut Tx<'a>,
    params: &'r Params,
    bound: &'r mut Bound,
    summary: Summary,
}

/// Runs the actions once, or once for each row of the match, which is taken whole before the first change. `order` is that
/// of the match, kept for the next call.
pub fn run<'m>(
    tx: &mut Tx<'_>,
    params: &Params,
    bound: &mut Bound,
    m: &'m Mutate,
    order: &mut Option<Order<'m>>,
) -> Result<(Vec<Vec<Value>>, Summary)> {
    let rows = match &m.matching {
        Some(mm) => {
            let order = match order {
                Some(o) => o,
                None => order.insert(Order::of(tx, params, mm)?),
            };
            rows_of(&Matcher { tx, params, m: mm, order })?
        }
        None => vec![Row::new()],
    };
    let mut out: Vec<Projected> = Vec::new();
    let mut r = Run { tx, params, bound, summary: Summary::default() };
    for mut row in rows {
        row.resize(m.slots, None);
        for a in &m.actions {
            r.action(a, &mut row)?;
        }
        for (name, slot) in &m.binds {
            if let Some(s) = &row[*slot] {
                r.bound.insert(name.clone(), s.ent);
            }
        }
        if let Some(ret) = &m.returning {
            // As they are now, not as they were when the row was bound.
            for s in row.iter_mut().flatten() {
                if let Some(new) = r.tx.living(s.ent)? {
                    *s = new;
                }
            }
            out.push(project(r.tx, params, &row, ret)?);
        }
    }
    let summary = r.summary;
    let rows = m.returning.as_ref().map_or(Ok(Vec::new()), |ret| finish(out, ret))?;
    Ok((rows, summary))
}

impl Run<'_, '_> {
    fn value(&self, e: &Expr, row: &Row) -> Result<Value> {
        Ok(eval(e, &RowEnv { tx: self.tx, params: self.params, row, bound: Some(self.bound) })?)
    }

    fn target(&self, t: &Target, row: &Row) -> Result<Stored> {
        let gone = |what: String| KernelError::NotFound(what);
        match t {
            Target::Slot(i) => {
                let s = row.get(*i).and_then(Option::as_ref).ok_or_else(|| gone("the entity".into()))?;
                // It may have been changed or killed by an earlier action.
                if !self.tx.has_changed(s.ent) {
                    return Ok(s.clone());
                }
                self.tx.living(s.ent)?.ok_or_else(|| gone(format!("#{}", self.tx.identity().local_id(s.ent))))
            }
            Target::Bound(n) => {
                let ent = self.bound.get(n).copied().ok_or_else(|| gone(n.clone()))?;
                self.tx.living(ent)?.ok_or_else(|| gone(n.clone()))
            }
            Target::Reference(r) => self.tx.resolve(r)?.ok_or_else(|| gone(format!("#{r}"))),
            Target::Match(m, slot) => self.exactly_one(m, *slot),
        }
    }

    /// Distinct entities in a slot of a match, at most `most`.
    fn hits(&self, m: &Match, slot: usize, most: usize) -> Result<Vec<Stored>> {
        let mut hits: Vec<Stored> = Vec::new();
        let mut seen = BTreeSet::new();
        let order = Order::of(self.tx, self.params, m)?;
        let _ = Matcher { tx: self.tx, params: self.params, m, order: &order }.run(Row::new(), &mut |row| {
            if let Some(s) = row[slot].as_ref().filter(|s| seen.insert(s.ent)) {
                hits.push(s.clone());
            }
            Ok(if hits.len() >= most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(hits)
    }

    fn exactly_one(&self, m: &Match, slot: usize) -> Result<Stored> {
        let mut hits = self.hits(m, slot, 2)?;
        match (hits.len(), hits.pop()) {
            (1, Some(s)) => Ok(s),
            (0, _) => Err(KernelError::NotFound("the entity of {MATCH …}".into())),
            _ => Err(KernelError::Violation(Violation(
                "{MATCH …} must find exactly one entity, it found several".into(),
            ))),
        }
    }

    fn action(&mut self, a: &Action, row: &mut Row) -> Result<()> {
        match a {
            Action::Spawn { ty, attrs, sync_id, slot } => {
                let d = self.draft(*ty, attrs, sync_id.as_ref(), row)?;
                row[*slot] = Some(self.create(d)?);
                self.summary.spawned += 1;
            }
            Action::Set { target, attrs } => {
                let s = self.target(target, row)?;
                let ent = self.set(&s, attrs, row)?;
                let new = self.tx.get(ent)?;
                for slot in row.iter_mut().filter(|r| r.as_ref().is_some_and(|r| r.ent == ent)) {
                    *slot = new.clone();
                }
                self.summary.set += 1;
            }
            Action::Kill { target: Target::Match(m, slot), mode } => {
                // All that it finds; an earlier one's cascade may have taken a later one.
                for s in self.hits(m, *slot, usize::MAX)? {
                    if self.tx.living(s.ent)?.is_some() {
                        self.summary.add(kill(self.tx, s.ent, *mode)?);
                    }
                }
            }
            Action::Kill { target, mode } => {
                // The row may name an entity that an earlier row's cascade already took.
                if let Target::Slot(i) = target
                    && let Some(s) = &row[*i]
                    && self.tx.living(s.ent)?.is_none()
                {
                    return Ok(());
                }
                let s = self.target(target, row)?;
                self.summary.add(kill(self.tx, s.ent, *mode)?);
            }
            Action::Link { ty, ends, if_not_exists, attrs, sync_id, slot } => {
                let ends = ends.iter().map(|t| self.target(t, row)).collect::<Result<Vec<_>>>()?;
                if *if_not_exists && let Some(edge) = self.edge_between(*ty, &ends)? {
                    row[*slot] = Some(edge);
                    return Ok(());
                }
                let mut d = self.draft(*ty, attrs, sync_id.as_ref(), row)?;
                d.ends = ends.iter().map(|s| Ok(s.entity()?.sync_id.to_owned())).collect::<Result<_>>()?;
                row[*slot] = Some(self.create(d)?);
                self.summary.linked += 1;
            }
            Action::Unlink { target } => {
                // Several rows may name one edge.
                if let Target::Slot(i) = target
                    && let Some(s) = &row[*i]
                    && self.tx.living(s.ent)?.is_none()
                {
                    return Ok(());
                }
                let s = self.target(target, row)?;
                if self.tx.ends(s.ent)?.is_none() {
                    return Err(Violation("UNLINK takes an edge; a node is ended with KILL".into()).into());
                }
                self.unlink(s)?;
            }
            Action::UnlinkBetween { ty, ends } => {
                let ends = ends
                    .iter()
                    .map(|t| t.as_ref().map(|t| self.target(t, row)).transpose())
                    .collect::<Result<Vec<_>>>()?;
                let from = ends.iter().flatten().next();
                let all = match from {
                    Some(s) => self.tx.edges_of(s.ent)?,
                    None => self.tx.of_type(*ty)?.into_iter().collect(),
                };
                let mut hit = false;
                for edge in all {
                    let fits = self
                        .tx
                        .ends(edge)?
                        .is_some_and(|e| ends.iter().zip(e).all(|(w, e)| w.as_ref().is_none_or(|w| w.ent == e)));
                    if let Some(s) = self.tx.living(edge)?.filter(|_| fits)
                        && s.entity()?.ty == *ty
                    {
                        self.unlink(s)?;
                        hit = true;
                    }
                }
                if !hit {
                    return Err(KernelError::NotFound(format!(
                        "an edge {} between these",
                        self.tx.ontology().type_name(*ty)
                    )));
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, s: &Stored, attrs: &[(Number, Expr)], row: &Row) -> Result<u32> {
        let bytes = {
            let (o, e) = (self.tx.ontology(), s.entity()?);
            let t = o.by_number(e.ty);
            let env = RowEnv { tx: self.tx, params: self.params, row, bound: Some(self.bound) };
            let mut changes: Vec<(Number, Seen<'_>)> = Vec::with_capacity(attrs.len());
            for (key, x) in attrs {
                let Some(a) = t.and_then(|t| t.attribute(*key)) else {
                    let n = o.attribute_name(*key).unwrap_or("?");
                    let ty = t.map_or("?", |t| &t.name);
                    return Err(Violation(format!("{ty} has no attribute {n}")).into());
                };
                let v = look(x, &env)?.coerce(a.kind).map_err(|v| wrong_kind(a, &v))?;
                // Of two values for one attribute the later counts.
                match changes.binary_search_by_key(key, |c| c.0) {
                    Ok(i) => changes[i].1 = v,
                    Err(i) => changes.insert(i, (*key, v)),
                }
            }
            let changes: Vec<(Number, ValueRef<'_>)> = changes.iter().map(|(k, v)| (*k, v.borrowed())).collect();
            e.rewritten(self.tx.identity().key, self.tx.now_ms, &changes)
        };
        self.tx.write_checked(bytes.into(), Some(s))
    }

    fn unlink(&mut self, s: Stored) -> Result<()> {
        bury(self.tx, &s)?;
        self.summary.unlinked += 1;
        Ok(())
    }

    fn edge_between(&self, ty: Number, ends: &[Stored]) -> Result<Option<Stored>> {
        for edge in self.tx.edges_of(ends[0].ent)? {
            if self.tx.ends(edge)?.is_some_and(|e| e.iter().eq(ends.iter().map(|s| &s.ent)))
                && let Some(s) = self.tx.living(edge)?
                && s.entity()?.ty == ty
            {
                return Ok(Some(s));
            }
        }
        Ok(None)
    }

    /// A new entity's attributes: what is given, then defaults.
    fn draft(&self, ty: Number, attrs: &[(Number, Expr)], sync_id: Option<&Expr>, row: &Row) -> Result<Draft> {
        let id = match sync_id {
            Some(e) => match self.value(e, row)? {
                Value::String(s) => checked_sync_id(self.tx, s)?,
                v => return Err(Violation(format!("_sync_id must be a String, not {v}")).into()),
            },
            None => String::new(),
        };
        let mut d = Draft::new(ty, id);
        let o = self.tx.ontology().clone();
        let Some(t) = o.by_number(ty) else { return Ok(d) };
        for a in t.attrs.values() {
            let v = match attrs.iter().find(|(k, _)| *k == a.number) {
                Some((_, e)) => self.value(e, row)?.coerce(a.kind).map_err(|v| wrong_kind(a, &v))?,
                None => a.default.as_ref().map_or(Value::Null, |v| v.evaluate(self.tx.now_ms)),
            };
            d.set(a.number, v);
        }
        Ok(d)
    }

    fn create(&mut self, mut d: Draft) -> Result<Stored> {
        if d.sync_id.is_empty() {
            let id = self.tx.identity();
            d.sync_id = format!("{}/{}", id.kernel_id, id.local_id(self.tx.next_entity()));
        }
        // A tombstone of the same id may be there: the new version must be later than it, and follow from it.
        let old = match self.tx.find(&d.sync_id)? {
            Some(ent) => self.tx.get(ent)?,
            None => None,
        };
        if let Some(s) = &old {
            let e = s.entity()?;
            if !e.deleted {
                return Err(Violation(format!("_sync_id is unique and {:?} already exists", d.sync_id)).into());
            }
            if e.ty != d.ty {
                return Err(Violation(format!("{:?} was an entity of another type", d.sync_id)).into());
            }
            d.vector = e.vector();
        }
        let ent = self.tx.write_local(d, old.as_ref())?;
        self.tx.get(ent)?.ok_or_else(|| KernelError::NotFound("the new entity".into()))
    }
}

fn wrong_kind(a: &Attribute, v: &Value) -> Violation {
    Violation(format!("attribute {}: expected type {}, found {v}", a.name, a.kind))
}

/// An id that an application chose: it must not look as if another kernel had derived it.
fn checked_sync_id(tx: &Tx<'_>, s: String) -> Result<String> {
    if !entity::is_sync_id(&s) {
        return Err(Violation(format!("_sync_id must have 1 to {} bytes and no NUL", entity::MAX_SYNC_ID)).into());
    }
    match name::kernel_of_sync_id(&s) {
        Some(k) if k != tx.identity().kernel_id => Err(Violation(format!(
            "_sync_id {s:?} names the kernel {k}; ids with a slash begin with {}/",
            tx.identity().kernel_id
        ))
        .into()),
        _ => Ok(s),
    }
}

/// Replaces an entity by its tombstone, as a local write.
pub fn bury(tx: &mut Tx<'_>, s: &Stored) -> Result<()> {
    let mut d = s.entity()?.to_draft();
    d.delete();
    tx.write_local(d, Some(s)).map(|_| ())
}

/// What a kill would take: nodes and edges. Finds every Prevent before anything is changed.
pub fn kill_set(tx: &Tx<'_>, first: u32, mode: KillMode) -> Result<(BTreeSet<u32>, BTreeSet<u32>)> {
    let o = tx.ontology().clone();
    let (mut nodes, mut edges) = (BTreeSet::from([first]), BTreeSet::new());
    if tx.ends(first)?.is_some() {
        return Ok((BTreeSet::new(), BTreeSet::from([first])));
    }
    let mut front = vec![first];
    for depth in 0.. {
        let mut next = Vec::new();
        for node in front {
            for edge in tx.edges_of(node)? {
                let (Some(ends), Some(s)) = (tx.ends(edge)?, tx.living(edge)?) else { continue };
                let Some(t) = o.by_number(s.entity()?.ty).and_then(|t| t.edge.as_ref().map(|e| (&t.name, e))) else {
                    continue;
                };
                edges.insert(edge);
                for i in (0..ends.len()).filter(|i| ends[*i] == node) {
                    let other = ends[1 - i];
                    let declared = if i == 0 { t.1.on_kill_source } else { t.1.on_kill_target };
                    let action = match (declared, mode) {
                        (OnKill::Prevent, _) => OnKill::Prevent,
                        (_, KillMode::Cascade) => OnKill::Cascade,
                        (_, KillMode::NoCascade) => OnKill::Unlink,
                        (d, KillMode::Declared) => d,
                    };
                    match action {
                        OnKill::Prevent if other != node => {
                            let (n, e) = (tx.identity().local_id(node), tx.identity().local_id(edge));
                            return Err(
                                Violation(format!("#{n} cannot be killed: edge {} #{e} prevents it", t.0)).into()
                            );
                        }
                        OnKill::Cascade if nodes.insert(other) => next.push(other),
                        _ => {}
                    }
                }
            }
        }
        if next.is_empty() {
            break;
        }
        if depth >= MAX_CASCADE_DEPTH || nodes.len() + edges.len() > MAX_CASCADE {
            return Err(KernelError::Limit(format!(
                "the kill would cascade beyond {MAX_CASCADE_DEPTH} levels or {MAX_CASCADE} entities"
            )));
        }
        front = next;
    }
    Ok((nodes, edges))
}

fn kill(tx: &mut Tx<'_>, ent: u32, mode: KillMode) -> Result<Summary> {
    let (nodes, edges) = kill_set(tx, ent, mode)?;
    let mut sum = Summary::default();
    for e in edges.iter().chain(&nodes) {
        if let Some(s) = tx.living(*e)? {
            bury(tx, &s)?;
            if nodes.contains(e) { sum.killed += 1 } else { sum.unlinked += 1 }
        }
    }
    Ok(sum)
}
