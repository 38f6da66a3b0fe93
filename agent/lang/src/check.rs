//! Syntax tree + ontology → plan. Finds unknown names and kinds that cannot fit, and says what would.

mod actions;

use crate::ast::{self, ExprKind, Name, Op, PatternItem, StatementKind};
use crate::diagnostic::{Diagnostic, Span, nearest};
use crate::plan::*;
use crate::system;
use mew_model::ontology::{Attribute, Type};
use mew_model::value::Kind;
use mew_model::{Number, Ontology};
use std::collections::BTreeMap;

type Checked<T> = Result<T, Diagnostic>;

/// Variables that earlier statements of a script bound, with their types.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    bound: BTreeMap<String, Option<Number>>,
}

/// Checks one statement; names that it binds are added to `scope`.
pub fn check(o: &Ontology, scope: &mut Scope, s: &ast::Statement) -> Checked<Plan> {
    match &s.kind {
        StatementKind::Begin => Ok(Plan::Begin),
        StatementKind::Commit => Ok(Plan::Commit),
        StatementKind::Rollback => Ok(Plan::Rollback),
        StatementKind::Query(m, r) => {
            let mut c = Checker { o, scope, vars: Vec::new() };
            let matching = c.matching(m)?;
            let returns = c.returns(r)?;
            Ok(Plan::Query(Query { matching, returns }))
        }
        StatementKind::Mutate(m, actions, returning) => {
            let mut c = Checker { o, scope, vars: Vec::new() };
            let matching = m.as_ref().map(|m| c.matching(m)).transpose()?;
            let from_match = c.vars.len();
            let actions = actions.iter().map(|a| c.action(a)).collect::<Checked<Vec<_>>>()?;
            let returning = returning.as_ref().map(|r| c.returns(r)).transpose()?;
            let slots = c.vars.len();
            let new: Vec<(usize, Var)> = c.vars.into_iter().enumerate().skip(from_match).collect();
            let binds: Vec<_> = new.iter().filter(|(_, v)| v.name != "_").map(|(i, v)| (v.name.clone(), *i)).collect();
            // With a match the actions run once per row: which row a name would mean is not defined.
            let binds = if m.is_none() { binds } else { Vec::new() };
            for (_, v) in new.into_iter().filter(|(i, _)| binds.iter().any(|b| b.1 == *i)) {
                scope.bound.insert(v.name, v.ty);
            }
            Ok(Plan::Mutate(Mutate { matching, slots, actions, binds, returning }))
        }
    }
}

/// Checks `v: Type WHERE …` by itself, for the patterns of syncs.
pub fn check_match(o: &Ontology, m: &ast::Match) -> Checked<Match> {
    let scope = Scope::default();
    Checker { o, scope: &scope, vars: Vec::new() }.matching(m)
}

struct Checker<'a> {
    o: &'a Ontology,
    scope: &'a Scope,
    vars: Vec<Var>,
}

impl Checker<'_> {
    fn type_of(&self, n: &Name) -> Checked<&Type> {
        let found = self.o.get(&n.text).or_else(|| system::get(&n.text));
        found.ok_or_else(|| {
            let known = self.o.types().map(|t| t.name.as_str()).chain(system::types().map(|t| t.name.as_str()));
            Diagnostic::new(n.span.clone(), format!("unknown type {}", n.text))
                .label("no such type in the ontology")
                .suggest(nearest(&n.text, known))
        })
    }

    fn by_number(&self, n: Number) -> Option<&Type> {
        self.o.by_number(n).or_else(|| system::by_number(n))
    }

    fn edge_type(&self, n: &Name, arity: usize) -> Checked<&Type> {
        let t = self.type_of(n)?;
        match &t.edge {
            None => Err(Diagnostic::new(n.span.clone(), format!("{} is a node type, not an edge type", n.text))),
            Some(e) if e.params.len() != arity => Err(Diagnostic::new(
                n.span.clone(),
                format!("edge {} has {} ends, {arity} given", n.text, e.params.len()),
            )),
            Some(_) => Ok(t),
        }
    }

    /// Never `_`, of which there may be several.
    fn find(&self, name: &str) -> Option<usize> {
        self.vars.iter().position(|v| v.name == name && v.name != "_")
    }

    fn slot(&self, n: &Name) -> Checked<usize> {
        self.find(&n.text).ok_or_else(|| {
            if n.text == "_" {
                return names_nothing(n);
            }
            let d = Diagnostic::new(n.span.clone(), format!("unknown variable {}", n.text));
            if self.scope.bound.contains_key(&n.text) {
                return d
                    .help("an earlier statement binds it, to be changed, linked or killed; MATCH it here to read it");
            }
            let d = d.suggest(nearest(&n.text, self.named()));
            match self.vars.iter().find(|v| v.name == "_") {
                Some(v) if d.suggestion.is_none() => {
                    let help = self.naming(v, &n.text);
                    d.help(help)
                }
                _ => d,
            }
        })
    }

    /// Variables that may be meant: `_` is what was given no name.
    fn named(&self) -> impl Iterator<Item = &str> {
        self.vars.iter().map(|v| v.name.as_str()).filter(|n| *n != "_")
    }

    /// How to write what has no name with this one.
    fn naming(&self, v: &Var, name: &str) -> String {
        let ty = v.ty.and_then(|t| self.by_number(t)).map_or("any", |t| t.name.as_str());
        let named = if v.is_edge { format!("{ty}(…) AS {name}") } else { format!("{name}: {ty}") };
        format!("nothing has that name here; to give it one, write {named}")
    }

    fn declare(&mut self, n: &Name, ty: Option<Number>, is_edge: bool) -> Checked<usize> {
        if self.find(&n.text).is_some() {
            return Err(Diagnostic::new(n.span.clone(), format!("variable {} is declared twice", n.text)));
        }
        self.vars.push(Var { name: n.text.clone(), ty, is_edge });
        Ok(self.vars.len() - 1)
    }

    fn matching(&mut self, m: &ast::Match) -> Checked<Match> {
        let outer = self.vars.len();
        // Nodes first, so that an edge pattern may stand before the variables it joins.
        for p in &m.patterns {
            if let PatternItem::Node { var, ty } = p {
                let t = if ty.text.eq_ignore_ascii_case("any") { None } else { Some(self.type_of(ty)?) };
                if t.is_some_and(|t| t.edge.is_some()) {
                    return Err(Diagnostic::new(ty.span.clone(), format!("{} is an edge type", ty.text))
                        .help("match it as edge(a, b) AS variable"));
                }
                let t = t.map(|t| t.number);
                self.declare(var, t, false)?;
            }
        }
        let mut edges = Vec::new();
        for p in &m.patterns {
            let PatternItem::Edge { ty, args, alias } = p else { continue };
            let t = self.edge_type(ty, args.len())?;
            let (number, params) = (t.number, t.edge.as_ref().map(|e| e.params.clone()).unwrap_or_default());
            let mut ends = Vec::new();
            for (a, p) in args.iter().zip(&params) {
                if a.text == "_" {
                    ends.push(None);
                    continue;
                }
                let slot = self.slot(a)?;
                self.fits(slot, p.ty.as_deref(), &a.span, &ty.text)?;
                ends.push(Some(slot));
            }
            let slot = alias.as_ref().map(|a| self.declare(a, Some(number), true)).transpose()?;
            edges.push(EdgePattern { ty: number, ends, slot });
        }
        let filter = m.filter.as_ref().map(|f| self.condition(f)).transpose()?;
        Ok(Match { vars: self.vars.clone(), edges, filter, outer })
    }

    /// Whether the variable's type can be at an edge's end of type `want`.
    fn fits(&self, slot: usize, want: Option<&str>, span: &Span, edge: &str) -> Checked<()> {
        if let Some(t) = self.vars[slot].ty.and_then(system::by_number) {
            return Err(Diagnostic::new(span.clone(), format!("{}: system records have no edges", t.name)));
        }
        let (Some(want), Some(have)) = (want, self.vars[slot].ty) else { return Ok(()) };
        let want_number = mew_model::name::number(want);
        let related =
            self.o.with_subtypes(want_number).contains(&have) || self.o.with_subtypes(have).contains(&want_number);
        if related {
            return Ok(());
        }
        Err(Diagnostic::new(span.clone(), format!("edge {edge} takes a {want} here")).label(format!(
            "{} is a {}",
            self.vars[slot].name,
            self.o.type_name(have)
        )))
    }

    fn condition(&self, e: &ast::Expr) -> Checked<Expr> {
        let (x, kind) = self.expr(e, Some(Kind::Bool))?;
        match kind {
            None | Some(Kind::Bool) => Ok(x),
            Some(k) => Err(Diagnostic::new(e.span.clone(), format!("a condition must be a Bool, this is a {k}"))),
        }
    }

    fn returns(&mut self, r: &ast::Return) -> Checked<Returns> {
        let mut columns = Vec::new();
        if r.columns.is_empty() {
            for (i, v) in self.vars.iter().enumerate().filter(|(_, v)| v.name != "_") {
                columns.push((v.name.clone(), Expr::Entity(i)));
            }
        }
        for (e, alias) in &r.columns {
            let x = self.column(e)?;
            let name = alias.as_ref().map_or_else(|| default_column(e), |a| a.text.clone());
            columns.push((name, x));
        }
        let counts = columns.iter().filter(|(_, e)| matches!(e, Expr::Count(_))).count();
        if counts > 0 && counts < columns.len() {
            return Err(Diagnostic::new(r.span.clone(), "COUNT cannot stand beside other columns")
                .help("return the count alone, or the rows"));
        }
        let mut order = Vec::new();
        for (e, descending) in &r.order {
            let alias = match &e.kind {
                ExprKind::Var(v) => columns.iter().find(|(n, _)| n == v).map(|(_, x)| x.clone()),
                _ => None,
            };
            order.push((alias.map_or_else(|| self.expr(e, None).map(|x| x.0), Ok)?, *descending));
        }
        Ok(Returns { columns, distinct: r.distinct, order, limit: r.limit, offset: r.offset, aggregate: counts > 0 })
    }

    fn column(&self, e: &ast::Expr) -> Checked<Expr> {
        match &e.kind {
            ExprKind::Count(inner) => {
                Ok(Expr::Count(inner.as_ref().map(|i| self.expr(i, None).map(|x| Box::new(x.0))).transpose()?))
            }
            _ => self.expr(e, None).map(|x| x.0),
        }
    }

    fn attribute<'t>(&self, t: &'t Type, n: &Name) -> Checked<&'t Attribute> {
        t.attrs.get(&n.text).map(|a| &**a).ok_or_else(|| {
            Diagnostic::new(n.span.clone(), format!("{} has no attribute {}", t.name, n.text))
                .label("unknown attribute")
                .suggest(nearest(&n.text, t.attrs.keys().map(String::as_str)))
        })
    }

    fn fitting(&self, e: &ast::Expr, want: Kind, what: &str) -> Checked<Expr> {
        let (x, kind) = self.expr(e, Some(want))?;
        match kind {
            None => Ok(x),
            Some(k) if k == want => Ok(x),
            Some(Kind::Int) if want == Kind::Float => Ok(x),
            Some(Kind::String) if want == Kind::Id => Ok(x),
            Some(k) => {
                Err(Diagnostic::new(e.span.clone(), format!("type mismatch: {what} is a {want}, this is a {k}")))
            }
        }
    }

    // ---------------------------------------------------------------- expressions

    /// The expression and its kind, if it is known before the data is; `want` is what its place asks of a parameter.
    fn expr(&self, e: &ast::Expr, want: Option<Kind>) -> Checked<(Expr, Option<Kind>)> {
        let boxed = |x: &ast::Expr, w| self.expr(x, w).map(|(x, k)| (Box::new(x), k));
        Ok(match &e.kind {
            ExprKind::Value(v) => (Expr::Value(v.clone()), v.kind()),
            ExprKind::Reference(r) => (Expr::Reference(r.clone()), Some(Kind::Id)),
            ExprKind::Param(p, nullable) => (Expr::Param(p.clone(), *nullable, want), want),
            ExprKind::Var(v) => {
                (Expr::Entity(self.slot(&Name { text: v.clone(), span: e.span.clone() })?), Some(Kind::Id))
            }
            ExprKind::Attr(var, attr) => {
                let slot = self.slot(var)?;
                if let Some((s, kind)) = System::parse(&attr.text) {
                    return Ok((Expr::System(slot, s), Some(kind)));
                }
                let Some(t) = self.vars[slot].ty.and_then(|t| self.by_number(t)) else {
                    return Err(Diagnostic::new(
                        attr.span.clone(),
                        format!("{} may be of any type: its attributes are unknown", var.text),
                    )
                    .help("only _id, _type, _sync_id and the other fields with _ can be used, or give it a type"));
                };
                let a = self.attribute(t, attr).map_err(|d| match d.suggestion {
                    None => d.suggest(nearest(&attr.text, System::ALL.map(|(name, ..)| name))),
                    Some(_) => d,
                })?;
                (Expr::Attr(slot, a.number), Some(a.kind))
            }
            ExprKind::Not(x) => (Expr::Not(Box::new(self.condition(x)?)), Some(Kind::Bool)),
            ExprKind::Negate(x) => {
                let (y, k) = boxed(x, want)?;
                match k {
                    None | Some(Kind::Int | Kind::Float | Kind::Duration) => (Expr::Negate(y), k),
                    Some(k) => return Err(Diagnostic::new(x.span.clone(), format!("a {k} cannot be negated"))),
                }
            }
            ExprKind::Binary(a, op, b) => self.binary(e, a, *op, b, want)?,
            ExprKind::IsNull(x, is) => (Expr::IsNull(boxed(x, None)?.0, *is), Some(Kind::Bool)),
            ExprKind::In(x, list) => {
                let (y, k) = boxed(x, None)?;
                let mut out = Vec::new();
                for l in list {
                    let (z, lk) = self.expr(l, k)?;
                    comparable((x.as_ref(), k), (l, lk), &l.span)?;
                    out.push(z);
                }
                (Expr::In(y, out), Some(Kind::Bool))
            }
            ExprKind::TypeTest(v, t) => (Expr::TypeTest(self.slot(v)?, self.type_of(t)?.number), Some(Kind::Bool)),
            ExprKind::Exists(m) => {
                let mut inner = Checker { o: self.o, scope: self.scope, vars: self.vars.clone() };
                (Expr::Exists(Box::new(inner.matching(m)?)), Some(Kind::Bool))
            }
            ExprKind::Count(_) => {
                return Err(Diagnostic::new(e.span.clone(), "COUNT may only stand as a column of RETURN"));
            }
            ExprKind::Call(f, args) => self.call(f, args)?,
        })
    }

    fn call(&self, f: &Name, args: &[ast::Expr]) -> Checked<(Expr, Option<Kind>)> {
        match (f.text.to_ascii_lowercase().as_str(), args) {
            ("now", []) => Ok((Expr::Now, Some(Kind::Timestamp))),
            ("length", [x]) => Ok((Expr::Length(Box::new(self.fitting(x, Kind::String, "length")?)), Some(Kind::Int))),
            ("coalesce", [first @ .., last]) if !first.is_empty() => {
                let join = |b: ast::Expr, a: &ast::Expr| ast::Expr {
                    span: a.span.start..b.span.end,
                    kind: ExprKind::Binary(Box::new(a.clone()), Op::Coalesce, Box::new(b)),
                };
                self.expr(&first.iter().rev().fold(last.clone(), join), None)
            }
            ("now" | "length" | "coalesce", _) => {
                Err(Diagnostic::new(f.span.clone(), format!("{} does not take {} arguments", f.text, args.len())))
            }
            _ => Err(Diagnostic::new(f.span.clone(), format!("unknown function {}", f.text))
                .suggest(nearest(&f.text, ["now", "length", "coalesce"]))
                .help("functions: now(), length(text), coalesce(a, b)")),
        }
    }

    fn binary(
        &self,
        whole: &ast::Expr,
        a: &ast::Expr,
        op: Op,
        b: &ast::Expr,
        want: Option<Kind>,
    ) -> Checked<(Expr, Option<Kind>)> {
        if matches!(op, Op::And | Op::Or) {
            let (x, y) = (self.condition(a)?, self.condition(b)?);
            return Ok((Expr::Binary(Box::new(x), op, Box::new(y)), Some(Kind::Bool)));
        }
        let compares = matches!(op, Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge);
        let text = matches!(op, Op::Concat | Op::Contains | Op::StartsWith | Op::EndsWith);
        // In arithmetic the sides need not be of the kind of the result (a Timestamp minus a Duration).
        let hint = match op {
            _ if text => Some(Kind::String),
            Op::Coalesce => want,
            _ => None,
        };
        let (mut x, mut ka) = self.expr(a, hint)?;
        let (y, kb) = self.expr(b, if compares { ka } else { hint })?;
        if compares && ka.is_none() && takes_hint(a) {
            (x, ka) = self.expr(a, kb)?;
        }
        let kind = if compares {
            comparable((a, ka), (b, kb), &whole.span)?;
            Some(Kind::Bool)
        } else if text {
            for (k, e) in [(ka, a), (kb, b)] {
                if let Some(k) = k.filter(|k| *k != Kind::String) {
                    return Err(Diagnostic::new(e.span.clone(), format!("expected a String, this is a {k}")));
                }
            }
            Some(if op == Op::Concat { Kind::String } else { Kind::Bool })
        } else {
            arithmetic(op, ka, kb).map_err(|m| {
                let d = Diagnostic::new(whole.span.clone(), m);
                if op == Op::Add && ka == Some(Kind::String) { d.help("strings are joined with ++") } else { d }
            })?
        };
        Ok((Expr::Binary(Box::new(x), op, Box::new(y)), kind))
    }
}

/// Whether a kind that is asked of an expression reaches a parameter in it. Nothing that holds a comparison is among these:
/// checked again at each level of nesting, it would take twice the time for each.
fn takes_hint(e: &ast::Expr) -> bool {
    match &e.kind {
        ExprKind::Param(..) | ExprKind::Value(_) => true,
        ExprKind::Negate(x) => takes_hint(x),
        ExprKind::Binary(a, Op::Coalesce, b) => takes_hint(a) && takes_hint(b),
        _ => false,
    }
}

/// A place that asks for one entity, and `_` in it.
fn names_nothing(n: &Name) -> Diagnostic {
    Diagnostic::new(n.span.clone(), "`_` names nothing: it is whatever may be there")
        .label("this cannot be read or changed")
        .help("give what is meant a name, as in `v: Type` or `edge(a, b) AS v`, and use that")
}

/// Two expressions, each with its kind, if that is known.
fn comparable(a: (&ast::Expr, Option<Kind>), b: (&ast::Expr, Option<Kind>), span: &Span) -> Checked<()> {
    for (e, (other, kind)) in [(a.0, b), (b.0, a)] {
        if kind == Some(Kind::Id) && names_entity(other) {
            no_local_id(e)?;
        }
    }
    let numeric = |k| matches!(k, Kind::Int | Kind::Float);
    let textual = |k| matches!(k, Kind::String | Kind::Id);
    match (a.1, b.1) {
        (Some(a), Some(b)) if a != b && !(numeric(a) && numeric(b)) && !(textual(a) && textual(b)) => {
            Err(Diagnostic::new(span.clone(), format!("Cannot compare {a} with {b}")))
        }
        _ => Ok(()),
    }
}

/// Whether an ID is that of an entity, and so its `_sync_id`. What an attribute holds may be anything.
fn names_entity(e: &ast::Expr) -> bool {
    match &e.kind {
        ExprKind::Reference(_) | ExprKind::Var(_) => true,
        ExprKind::Binary(a, Op::Coalesce, b) => names_entity(a) || names_entity(b),
        ExprKind::Call(_, all) => all.iter().any(names_entity),
        _ => false,
    }
}

/// An entity is compared by its `_sync_id`, which an `_id` never equals: nothing would be found.
fn no_local_id(e: &ast::Expr) -> Checked<()> {
    let ExprKind::Attr(v, field) = &e.kind else { return Ok(()) };
    if field.text != "_id" {
        return Ok(());
    }
    let v = &v.text;
    Err(Diagnostic::new(e.span.clone(), format!("{v}._id is a text and never equals an ID"))
        .label("the id that the entity has in this kernel")
        .suggest(Some(v.as_str()))
        .help(format!("an entity is compared by itself: `{v} = #<id>`, where the id may be its _id or its _sync_id")))
}

fn arithmetic(op: Op, a: Option<Kind>, b: Option<Kind>) -> Result<Option<Kind>, String> {
    use Kind::*;
    let (Some(a), Some(b)) = (a, b) else {
        return Ok(if op == Op::Coalesce { a.or(b) } else { None });
    };
    Ok(Some(match (a, op, b) {
        (a, Op::Coalesce, b) if a == b => a,
        (Int, Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Rem, Int) => Int,
        (Int | Float, Op::Coalesce | Op::Add | Op::Sub | Op::Mul | Op::Div, Int | Float) => Float,
        (Timestamp, Op::Sub, Timestamp) => Duration,
        (Timestamp, Op::Add | Op::Sub, Duration) | (Duration, Op::Add, Timestamp) => Timestamp,
        (Duration, Op::Add | Op::Sub, Duration) | (Duration, Op::Mul | Op::Div, Int) | (Int, Op::Mul, Duration) => {
            Duration
        }
        _ => return Err(format!("this does not work between {a} and {b}")),
    }))
}

fn default_column(e: &ast::Expr) -> String {
    match &e.kind {
        ExprKind::Attr(v, a) => format!("{}.{}", v.text, a.text),
        ExprKind::Var(v) => v.clone(),
        ExprKind::Count(_) => "count".into(),
        _ => "value".into(),
    }
}

/// Constants that a pattern compares an attribute with, for index look-ups: `v.attr < constant` and the like among the ANDs,
/// the attribute on the left.
pub fn comparisons(filter: &Expr, slot: usize) -> Vec<(Number, Op, &Expr)> {
    let mut out = Vec::new();
    let mut todo = vec![filter];
    while let Some(e) = todo.pop() {
        let Expr::Binary(a, op, b) = e else { continue };
        let turned = match op {
            Op::And => {
                todo.extend([a.as_ref(), b.as_ref()]);
                continue;
            }
            Op::Eq => Op::Eq,
            Op::Lt => Op::Gt,
            Op::Le => Op::Ge,
            Op::Gt => Op::Lt,
            Op::Ge => Op::Le,
            _ => continue,
        };
        match (a.as_ref(), b.as_ref()) {
            (Expr::Attr(s, k), c @ (Expr::Value(_) | Expr::Param(..))) if *s == slot => out.push((*k, *op, c)),
            (c @ (Expr::Value(_) | Expr::Param(..)), Expr::Attr(s, k)) if *s == slot => out.push((*k, turned, c)),
            _ => {}
        }
    }
    out
}
