//! MATCH: binds variables step by step, the cheapest first, and tests each condition as soon as it can be.

use crate::error::KernelError;
use crate::names::{Bound, Params};
use crate::system::as_row;
use crate::tx::Tx;
use mew_lang::check::comparisons;
use mew_lang::eval::{Env, EvalError, look, passes};
use mew_lang::plan::{EdgePattern, Expr, Match, Op, System};
use mew_lang::system;
use mew_model::ontology::Type;
use mew_model::value::format_timestamp;
use mew_model::{Number, Value, ValueRef};
use mew_store::{OrderKey, Stored};
use roaring::RoaringBitmap;
use std::ops::{ControlFlow, RangeInclusive};

type Result<T> = std::result::Result<T, KernelError>;

/// Candidates that are counted to find the order of steps: beyond it more or less makes no difference.
const ENOUGH: usize = 1000;
/// Rows that one statement may hold in memory.
pub(crate) const MAX_ROWS: usize = 10_000_000;

/// One binding of the variables; slots of variables that are not bound yet are empty.
pub type Row = Vec<Option<Stored>>;

/// A row seen by expressions.
pub struct RowEnv<'a, 'v> {
    pub tx: &'a Tx<'v>,
    pub params: &'a Params,
    pub row: &'a Row,
    /// Names that earlier statements of the script bound.
    pub bound: Option<&'a Bound>,
}

impl RowEnv<'_, '_> {
    fn stored(&self, slot: usize) -> Option<&Stored> {
        self.row.get(slot).and_then(Option::as_ref)
    }
}

impl Env for RowEnv<'_, '_> {
    fn attr(&self, slot: usize, key: Number) -> ValueRef<'_> {
        self.stored(slot).and_then(|s| s.entity().ok()).map_or(ValueRef::Null, |e| e.attr_ref(key))
    }

    fn system(&self, slot: usize, field: System) -> Value {
        let Some(s) = self.stored(slot) else { return Value::Null };
        let Ok(e) = s.entity() else { return Value::Null };
        if let Some(t) = system::by_number(e.ty) {
            // A record has a name and a time; versions are of entities.
            return match field {
                System::Id | System::SyncId => Value::String(e.sync_id.to_owned()),
                System::Type => Value::String(t.name.clone()),
                System::UpdatedAt => Value::Timestamp(e.time.ms() as i64),
                System::Version | System::Origin => Value::Null,
            };
        }
        match field {
            System::Id => Value::String(self.tx.identity().local_id(s.ent)),
            System::Type => Value::String(self.tx.ontology().type_name(e.ty)),
            System::SyncId => Value::String(e.sync_id.to_owned()),
            System::UpdatedAt => Value::Timestamp(e.time.ms() as i64),
            System::Version => Value::String(format!(
                "{}+{}@{:016x}",
                format_timestamp(e.time.ms() as i64),
                e.time.0 & 0xffff,
                e.kernel.0
            )),
            System::Origin if s.origin.0 == 0 => Value::Null,
            System::Origin => Value::String(format!("{:016x}", s.origin.0)),
        }
    }

    fn is_type(&self, slot: usize, ty: Number) -> bool {
        let o = self.tx.ontology();
        self.stored(slot)
            .and_then(|s| s.entity().ok())
            .and_then(|e| o.by_number(e.ty).or_else(|| system::by_number(e.ty)))
            .is_some_and(|t| t.lineage.contains(&ty))
    }

    fn param(&self, name: &str) -> Option<&Value> {
        self.params.get(name)
    }

    fn reference(&self, name: &str) -> std::result::Result<Value, EvalError> {
        let bound = self.bound.and_then(|b| b.get(name)).map(|ent| self.tx.living(*ent));
        let found = bound.unwrap_or_else(|| self.tx.resolve(name));
        match found {
            Ok(Some(s)) => {
                s.entity().map(|e| Value::Id(e.sync_id.to_owned())).map_err(|e| EvalError::Other(e.to_string()))
            }
            Ok(None) => Err(EvalError::NotFound(format!("#{name}"))),
            Err(e) => Err(EvalError::Other(e.to_string())),
        }
    }

    fn exists(&self, m: &Match) -> std::result::Result<bool, EvalError> {
        let mut row: Row = self.row.clone();
        row.resize(m.vars.len(), None);
        let mut found = false;
        let r = Order::of(self.tx, self.params, m).and_then(|order| {
            Matcher { tx: self.tx, params: self.params, m, order: &order }.run(row, &mut |_| {
                found = true;
                Ok(ControlFlow::Break(()))
            })
        });
        match r {
            Ok(_) => Ok(found),
            Err(KernelError::Eval(e)) => Err(e),
            Err(KernelError::NotFound(what)) => Err(EvalError::NotFound(what)),
            Err(e) => Err(EvalError::Other(e.to_string())),
        }
    }

    fn now_ms(&self) -> u64 {
        self.tx.now_ms
    }
}

pub(crate) enum Step<'m> {
    /// Enumerate a node variable.
    Node(usize),
    /// Follow an edge pattern from an end that is bound already, or enumerate the edges of its type.
    Edge(&'m EdgePattern),
}

/// In which order a match binds its variables. It decides about the time only, so what runs for many rows of parameters
/// finds it once.
pub struct Order<'m> {
    steps: Vec<Step<'m>>,
    /// Conditions to test after each step.
    tests: Vec<Vec<&'m Expr>>,
}

/// A match in its order, under these parameters.
pub struct Matcher<'m, 'v> {
    pub tx: &'m Tx<'v>,
    pub params: &'m Params,
    pub m: &'m Match,
    pub order: &'m Order<'m>,
}

type Found<'f> = &'f mut dyn FnMut(&Row) -> Result<ControlFlow<()>>;

impl<'m> Order<'m> {
    pub fn of(tx: &Tx<'_>, params: &Params, m: &'m Match) -> Result<Self> {
        let mut bound: Vec<bool> = (0..m.vars.len()).map(|i| i < m.outer).collect();
        let mut left: Vec<&EdgePattern> = m.edges.iter().collect();
        let mut steps = Vec::new();
        let mut tests = Vec::new();
        let mut conditions = conjuncts(m.filter.as_ref());
        loop {
            // Sizes decide only where there is something to decide.
            let free: Vec<usize> = (0..m.vars.len()).filter(|i| !bound[*i] && !m.vars[*i].is_edge).collect();
            let sizes = match free.as_slice() {
                [] | [_] if left.is_empty() => vec![0; free.len()],
                free => free.iter().map(|i| size(tx, params, m, *i)).collect::<Result<_>>()?,
            };
            let smallest = free.iter().zip(sizes).min_by_key(|(_, n)| *n);
            let cheap = smallest.filter(|(_, n)| *n <= 1).map(|(i, _)| *i);
            let joined = left.iter().position(|e| e.ends.iter().flatten().any(|s| bound[*s]));
            let step = if let Some(v) = cheap {
                Step::Node(v)
            } else if let Some(i) = joined {
                Step::Edge(left.remove(i))
            } else if let Some((v, _)) = smallest {
                Step::Node(*v)
            } else if !left.is_empty() {
                Step::Edge(left.remove(0))
            } else {
                break;
            };
            match &step {
                Step::Node(v) => bound[*v] = true,
                Step::Edge(e) => e.ends.iter().flatten().chain(&e.slot).for_each(|s| bound[*s] = true),
            }
            steps.push(step);
            let (now, later): (Vec<&Expr>, Vec<&Expr>) =
                conditions.into_iter().partition(|c| slots(c).iter().all(|s| bound[*s]));
            tests.push(now);
            conditions = later;
        }
        if let Some(last) = tests.last_mut() {
            last.extend(conditions);
        } else {
            tests.push(conditions);
        }
        Ok(Order { steps, tests })
    }

    pub(crate) fn steps(&self) -> &[Step<'m>] {
        &self.steps
    }
}

impl Matcher<'_, '_> {
    /// Calls `found` for each row, until it breaks. `row` has the outer slots filled.
    pub fn run(&self, mut row: Row, found: Found<'_>) -> Result<ControlFlow<()>> {
        row.resize(self.m.vars.len(), None);
        if self.order.steps.is_empty() {
            return if self.passes(0, &row)? { found(&row) } else { Ok(ControlFlow::Continue(())) };
        }
        self.step(0, &mut row, found)
    }

    pub(crate) fn passes(&self, at: usize, row: &Row) -> Result<bool> {
        let env = RowEnv { tx: self.tx, params: self.params, row, bound: None };
        for t in &self.order.tests[at] {
            if !passes(Some(t), &env)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn descend(&self, at: usize, row: &mut Row, found: Found<'_>) -> Result<ControlFlow<()>> {
        if !self.passes(at, row)? {
            return Ok(ControlFlow::Continue(()));
        }
        if at + 1 == self.order.steps.len() { found(row) } else { self.step(at + 1, row, found) }
    }

    fn step(&self, at: usize, row: &mut Row, found: Found<'_>) -> Result<ControlFlow<()>> {
        let go_on = Ok(ControlFlow::Continue(()));
        match &self.order.steps[at] {
            Step::Node(v) => {
                if let Some(ty) = self.m.vars[*v].ty.and_then(system::by_number) {
                    return self.records(ty, *v, at, row, found);
                }
                let access = access(self.tx, self.params, self.m, *v)?;
                if let Access::One(scope, attr, value) = access {
                    let Some(s) = self.tx.unique(scope, attr, value.borrowed())? else { return go_on };
                    let own = self.tx.ontology().by_number(s.entity()?.ty).zip(self.m.vars[*v].ty);
                    if !own.is_some_and(|(t, wanted)| t.lineage.contains(&wanted)) {
                        return go_on;
                    }
                    row[*v] = Some(s);
                    let r = self.descend(at, row, found);
                    row[*v] = None;
                    return r;
                }
                for ent in self.candidates(access, *v)? {
                    let Some(s) = self.tx.living(ent)? else { continue };
                    row[*v] = Some(s);
                    if self.descend(at, row, found)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                row[*v] = None;
            }
            Step::Edge(p) => {
                let from =
                    p.ends.iter().enumerate().find_map(|(i, s)| s.and_then(|s| row[s].as_ref()).map(|x| (i, x.ent)));
                let edges = match from {
                    Some((_, ent)) => self.tx.edges_of(ent)?,
                    None => self.tx.of_type(p.ty)?.into_iter().collect(),
                };
                for edge in edges {
                    if self.edge(p, edge, at, row, found)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Binds a variable of a system type to each of its records.
    fn records(&self, ty: &Type, v: usize, at: usize, row: &mut Row, found: Found<'_>) -> Result<ControlFlow<()>> {
        let r = self.tx.records(ty, &mut |record| {
            row[v] = Some(as_row(&record));
            self.descend(at, row, found)
        });
        row[v] = None;
        r
    }

    /// Tries one edge against a pattern: type, ends that are bound, types of ends that are not.
    fn edge(&self, p: &EdgePattern, edge: u32, at: usize, row: &mut Row, found: Found<'_>) -> Result<ControlFlow<()>> {
        let go_on = Ok(ControlFlow::Continue(()));
        let (Some(s), Some(ends)) = (self.tx.living(edge)?, self.tx.ends(edge)?) else { return go_on };
        if s.entity()?.ty != p.ty {
            return go_on;
        }
        let mut set = Vec::new();
        let mut fits = true;
        for (slot, end) in p.ends.iter().zip(ends) {
            let Some(slot) = *slot else { continue };
            match &row[slot] {
                Some(x) => fits &= x.ent == end,
                None => {
                    let Some(node) = self.tx.living(end)? else {
                        fits = false;
                        break;
                    };
                    let o = self.tx.ontology();
                    let ty = node.entity()?.ty;
                    fits &= self.m.vars[slot]
                        .ty
                        .is_none_or(|want| o.by_number(ty).is_some_and(|t| t.lineage.contains(&want)));
                    row[slot] = Some(node);
                    set.push(slot);
                }
            }
        }
        let r = if fits {
            if let Some(slot) = p.slot {
                row[slot] = Some(s);
                set.push(slot);
            }
            self.descend(at, row, found)
        } else {
            go_on
        };
        for slot in set {
            row[slot] = None;
        }
        r
    }

    fn candidates(&self, access: Access, v: usize) -> Result<RoaringBitmap> {
        match access {
            Access::Range(scope, attr, range) => {
                let mut found: RoaringBitmap =
                    self.tx.ordered(scope, attr, range)?.into_iter().map(|(_, ent)| ent).collect();
                // The index is of the type that declares the attribute, and this may be a narrower one.
                if self.m.vars[v].ty != Some(scope) {
                    found &= self.of_type(v)?;
                }
                Ok(found)
            }
            Access::All => self.of_type(v),
            Access::One(..) | Access::None => Ok(RoaringBitmap::new()),
        }
    }

    fn of_type(&self, v: usize) -> Result<RoaringBitmap> {
        let Some(t) = self.m.vars[v].ty else { return self.tx.all_nodes() };
        let mut all = RoaringBitmap::new();
        for t in self.tx.ontology().with_subtypes(t) {
            all |= self.tx.of_type(t)?;
        }
        Ok(all)
    }
}

/// How the entities that a variable may stand for are found; each is tested afterwards.
pub(crate) enum Access {
    /// The holder of a unique value, by declaring type and attribute.
    One(Number, Number, Value),
    /// Those with an indexed value that has such a key.
    Range(Number, Number, RangeInclusive<OrderKey>),
    All,
    /// The conditions exclude each other.
    None,
}

pub(crate) fn access(tx: &Tx<'_>, params: &Params, m: &Match, v: usize) -> Result<Access> {
    let o = tx.ontology();
    let (Some(filter), Some(t)) = (m.filter.as_ref(), m.vars[v].ty.and_then(|t| o.by_number(t))) else {
        return Ok(Access::All);
    };
    let mut ranges: Vec<(Number, Number, RangeInclusive<OrderKey>)> = Vec::new();
    for (key, op, value) in comparisons(filter, v) {
        let Some(a) = t.attribute(key) else { continue };
        if a.unique_in.or(a.indexed_in).is_none() {
            continue;
        }
        // What is wrong with it is said where it is tested.
        let (empty, bound) = (Row::new(), None);
        let env = RowEnv { tx, params, row: &empty, bound };
        let Ok(value) = look(value, &env) else { continue };
        // Values of another kind may still be equal (1 and 1.0): those are left to the scan.
        let Ok(value) = value.coerce(a.kind) else { continue };
        let Some(k) = value.borrowed().order_key() else { continue };
        if let (Some(scope), Op::Eq) = (a.unique_in, op) {
            return Ok(Access::One(scope, key, value.into_value()));
        }
        let Some(scope) = a.indexed_in else { continue };
        let at = match ranges.iter().position(|r| r.1 == key) {
            Some(i) => i,
            None => {
                ranges.push((scope, key, OrderKey::MIN..=OrderKey::MAX));
                ranges.len() - 1
            }
        };
        // Different values may share a key, so the ends always belong to it.
        let (low, high) = ranges[at].2.clone().into_inner();
        ranges[at].2 = match op {
            Op::Eq => low.max(k)..=high.min(k),
            Op::Lt | Op::Le => low..=high.min(k),
            _ => low.max(k)..=high,
        };
    }
    if ranges.iter().any(|r| r.2.is_empty()) {
        return Ok(Access::None);
    }
    // The narrower in keys is likely the narrower in entities; it decides about the time only.
    let narrowest = ranges.into_iter().min_by_key(|r| r.2.end().saturating_sub(*r.2.start()));
    Ok(narrowest.map_or(Access::All, |(scope, attr, range)| Access::Range(scope, attr, range)))
}

/// About how many entities a variable may stand for. System records count as none: they are made anew by each reading, so
/// they are read first, and once.
fn size(tx: &Tx<'_>, params: &Params, m: &Match, v: usize) -> Result<u64> {
    let Some(t) = m.vars[v].ty else { return Ok(u64::MAX) };
    match access(tx, params, m, v)? {
        Access::One(..) => Ok(1),
        Access::None => Ok(0),
        Access::Range(scope, attr, range) => Ok(tx.count_ordered(scope, attr, range, ENOUGH)? as u64),
        Access::All => tx.ontology().with_subtypes(t).into_iter().map(|t| tx.size(t)).sum(),
    }
}

fn conjuncts(e: Option<&Expr>) -> Vec<&Expr> {
    let mut out = Vec::new();
    let mut todo: Vec<&Expr> = e.into_iter().collect();
    while let Some(e) = todo.pop() {
        match e {
            Expr::Binary(a, Op::And, b) => todo.extend([b.as_ref(), a.as_ref()]),
            e => out.push(e),
        }
    }
    out
}

/// Slots that an expression reads.
fn slots(e: &Expr) -> Vec<usize> {
    match e {
        Expr::Entity(s) | Expr::Attr(s, _) | Expr::System(s, _) | Expr::TypeTest(s, _) => vec![*s],
        Expr::Not(x) | Expr::Negate(x) | Expr::IsNull(x, _) | Expr::Length(x) => slots(x),
        Expr::Binary(a, _, b) => [slots(a), slots(b)].concat(),
        Expr::In(x, l) => l.iter().flat_map(slots).chain(slots(x)).collect(),
        Expr::Exists(m) => (0..m.outer).collect(),
        Expr::Count(Some(x)) => slots(x),
        Expr::Value(_) | Expr::Param(..) | Expr::Reference(_) | Expr::Now | Expr::Count(None) => Vec::new(),
    }
}

pub fn rows_of(x: &Matcher<'_, '_>) -> Result<Vec<Row>> {
    let mut out = Vec::new();
    let _ = x.run(Vec::new(), &mut |r| {
        if out.len() >= MAX_ROWS {
            return Err(KernelError::Limit(format!("more than {MAX_ROWS} rows")));
        }
        out.push(r.clone());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}
