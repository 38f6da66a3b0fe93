//! Actions: what a statement changes, and that it may.

use super::{Checked, Checker, names_nothing};
use crate::ast::{self, Name};
use crate::diagnostic::{Diagnostic, Span, nearest};
use crate::plan::{Action, Expr, Target};
use crate::system;
use mew_model::Number;
use mew_model::ontology::Type;
use mew_model::value::Kind;

/// Attribute values, and the `_sync_id` if one is given.
type Assignments = (Vec<(Number, Expr)>, Option<Expr>);

impl Checker<'_> {
    pub(super) fn action(&mut self, a: &ast::Action) -> Checked<Action> {
        Ok(match a {
            ast::Action::Spawn { var, ty, attrs } => {
                writable(system::get(&ty.text), &ty.span)?;
                let t = self.type_of(ty)?.clone();
                if t.edge.is_some() {
                    return Err(Diagnostic::new(ty.span.clone(), format!("{} is an edge type", ty.text))
                        .help("edges are made with LINK"));
                }
                let (attrs, sync_id) = self.assignments(Some(&t), attrs, true)?;
                let anonymous = Name { text: "_".into(), span: ty.span.clone() };
                let slot = self.declare(var.as_ref().unwrap_or(&anonymous), Some(t.number), false)?;
                Action::Spawn { ty: t.number, attrs, sync_id, slot }
            }
            ast::Action::Set { target, attrs } => {
                let (target, ty) = self.target(target)?;
                let t = ty.and_then(|t| self.o.by_number(t)).cloned();
                Action::Set { target, attrs: self.assignments(t.as_ref(), attrs, false)?.0 }
            }
            ast::Action::Kill { target, mode } => Action::Kill { target: self.target(target)?.0, mode: *mode },
            ast::Action::Link { ty, targets, if_not_exists, var, attrs } => {
                writable(system::get(&ty.text), &ty.span)?;
                let t = self.edge_type(ty, targets.len())?.clone();
                let params = t.edge.as_ref().map(|e| e.params.clone()).unwrap_or_default();
                let mut ends = Vec::new();
                for (x, p) in targets.iter().zip(&params) {
                    let (target, have) = self.target(x)?;
                    self.end_fits(have, p.ty.as_deref(), x, &ty.text)?;
                    ends.push(target);
                }
                let (attrs, sync_id) = self.assignments(Some(&t), attrs, true)?;
                let anonymous = Name { text: "_".into(), span: ty.span.clone() };
                let slot = self.declare(var.as_ref().unwrap_or(&anonymous), Some(t.number), true)?;
                Action::Link { ty: t.number, ends, if_not_exists: *if_not_exists, attrs, sync_id, slot }
            }
            ast::Action::Unlink { target: ast::UnlinkTarget::One(t) } => Action::Unlink { target: self.target(t)?.0 },
            ast::Action::Unlink { target: ast::UnlinkTarget::Between { ty, ends } } => {
                writable(system::get(&ty.text), &ty.span)?;
                let number = self.edge_type(ty, ends.len())?.number;
                let ends = ends
                    .iter()
                    .map(|e| e.as_ref().map(|t| self.target(t).map(|t| t.0)).transpose())
                    .collect::<Checked<Vec<_>>>()?;
                Action::UnlinkBetween { ty: number, ends }
            }
        })
    }

    fn end_fits(&self, have: Option<Number>, want: Option<&str>, t: &ast::Target, edge: &str) -> Checked<()> {
        let (Some(have), Some(want)) = (have, want) else { return Ok(()) };
        let n = mew_model::name::number(want);
        if self.o.with_subtypes(n).contains(&have) || self.o.with_subtypes(have).contains(&n) {
            return Ok(());
        }
        Err(Diagnostic::new(target_span(t), format!("edge {edge} takes a {want} here"))
            .label(format!("this is a {}", self.o.type_name(have))))
    }

    fn target(&self, t: &ast::Target) -> Checked<(Target, Option<Number>)> {
        let (target, ty) = match t {
            ast::Target::Reference(n) => match self.scope.bound.get(&n.text) {
                Some(ty) => (Target::Bound(n.text.clone()), *ty),
                None => (Target::Reference(n.text.clone()), None),
            },
            ast::Target::Var(n) if n.text == "_" => return Err(names_nothing(n)),
            ast::Target::Var(n) => match (self.find(&n.text), self.scope.bound.get(&n.text)) {
                (Some(i), _) => (Target::Slot(i), self.vars[i].ty),
                (None, Some(ty)) => (Target::Bound(n.text.clone()), *ty),
                (None, None) => {
                    let known = self.named().chain(self.scope.bound.keys().map(String::as_str));
                    return Err(Diagnostic::new(n.span.clone(), format!("unknown variable {}", n.text))
                        .suggest(nearest(&n.text, known))
                        .help("bind it with MATCH or SPAWN, or name an entity by #id"));
                }
            },
            ast::Target::Match(m, which, _) => {
                let mut c = Checker { o: self.o, scope: self.scope, vars: Vec::new() };
                let inner = c.matching(m)?;
                let slot = which.as_ref().map_or(Ok(0), |n| c.slot(n))?;
                let ty = inner.vars.get(slot).and_then(|v| v.ty);
                (Target::Match(Box::new(inner), slot), ty)
            }
        };
        writable(ty.and_then(system::by_number), &target_span(t))?;
        Ok((target, ty))
    }

    /// Attribute assignments, and `_sync_id` apart where it may be given.
    fn assignments(&self, t: Option<&Type>, attrs: &[(Name, ast::Expr)], creating: bool) -> Checked<Assignments> {
        let (mut out, mut sync_id) = (Vec::new(), None);
        for (n, e) in attrs {
            if n.text == "_sync_id" && creating {
                sync_id = Some(self.fitting(e, Kind::String, "_sync_id")?);
                continue;
            }
            if n.text.starts_with('_') {
                return Err(Diagnostic::new(
                    n.span.clone(),
                    format!("{} is kept by the kernel and cannot be set", n.text),
                ));
            }
            let (number, kind) = match t {
                Some(t) => {
                    let a = self.attribute(t, n)?;
                    (a.number, Some(a.kind))
                }
                None => match self.o.types().find_map(|t| t.attrs.get(&n.text)) {
                    Some(a) => (a.number, None),
                    None => {
                        return Err(Diagnostic::new(n.span.clone(), format!("no type has an attribute {}", n.text)));
                    }
                },
            };
            if out.iter().any(|(k, _)| *k == number) {
                return Err(Diagnostic::new(n.span.clone(), format!("attribute {} is given twice", n.text)));
            }
            let x = match kind {
                Some(k) => self.fitting(e, k, &n.text)?,
                None => self.expr(e, None)?.0,
            };
            out.push((number, x));
        }
        Ok((out, sync_id))
    }
}

/// Refuses to change what only the kernel writes.
fn writable(record: Option<&Type>, span: &Span) -> Checked<()> {
    match record {
        None => Ok(()),
        Some(t) => Err(Diagnostic::new(span.clone(), format!("{}: system records are read-only", t.name))
            .label("kept by the kernel")),
    }
}

fn target_span(t: &ast::Target) -> Span {
    match t {
        ast::Target::Var(n) | ast::Target::Reference(n) => n.span.clone(),
        ast::Target::Match(_, _, s) => s.clone(),
    }
}
