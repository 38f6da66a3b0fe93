//! The `match` of a Sync: one variable, its own attributes and constants. Nothing else, so that whether an entity is a
//! member depends on that entity alone.

use crate::ast::{self, ExprKind, Name, PatternItem};
use crate::diagnostic::Diagnostic;
use crate::eval::{Env, EvalError, passes};
use crate::parser::Parser;
use crate::plan::{Expr, Match, System};
use crate::system;
use mew_model::{EntityRef, Number, Ontology, Value, ValueRef};
use std::collections::BTreeSet;

/// A pattern as the operator sees it: syntax only, no ontology.
#[derive(Clone, Debug, PartialEq)]
pub struct PatternText {
    /// `None` is `any`.
    pub type_name: Option<String>,
    matching: ast::Match,
}

impl PatternText {
    pub fn parse(text: &str) -> Result<Self, Vec<Diagnostic>> {
        let mut p = Parser::new(text)?;
        if p.is_keyword("MATCH") {
            return Err(vec![
                p.expected("a pattern such as `t: Task WHERE t.shared = true`").help("leave the word MATCH out"),
            ]);
        }
        let one = |d: Diagnostic| vec![d];
        let matching = p.matching().map_err(one)?;
        if p.peek().is_some() {
            return Err(one(p
                .expected("the end of the pattern")
                .help("a sync's pattern is `v: Type` and at most one WHERE")));
        }
        let span = 0..text.len();
        let [PatternItem::Node { ty, .. }] = matching.patterns.as_slice() else {
            return Err(one(Diagnostic::new(span, "a sync's pattern has exactly one node variable")
                .help("edges follow by the field edges")));
        };
        no_record(ty).map_err(one)?;
        if let Some(f) = &matching.filter {
            only_own_attributes(f).map_err(one)?;
        }
        let type_name = (!ty.text.eq_ignore_ascii_case("any")).then(|| ty.text.clone());
        Ok(PatternText { type_name, matching })
    }

    /// Resolves names against an ontology.
    pub fn check(&self, o: &Ontology) -> Result<Pattern, Diagnostic> {
        let m = crate::check::check_match(o, &self.matching)?;
        let types = m.vars[0].ty.map(|t| o.with_subtypes(t));
        Ok(Pattern { types, filter: m.filter })
    }
}

/// System records are this kernel's own and never travel.
fn no_record(ty: &Name) -> Result<(), Diagnostic> {
    if !system::is_reserved(&ty.text) {
        return Ok(());
    }
    Err(Diagnostic::new(ty.span.clone(), format!("{}: system records never sync", ty.text))
        .help("`_: any` is every entity of the ontology's types"))
}

/// Refuses what would make membership depend on more than the entity.
fn only_own_attributes(e: &ast::Expr) -> Result<(), Diagnostic> {
    let no = |what: &str| {
        Err(Diagnostic::new(e.span.clone(), format!("{what} is not allowed in a sync's pattern"))
            .help("whether an entity is sent must depend on its own attributes and constants alone"))
    };
    match &e.kind {
        ExprKind::Exists(_) => no("EXISTS"),
        ExprKind::Param(..) => no("a parameter"),
        ExprKind::Count(_) => no("COUNT"),
        ExprKind::Call(f, _) if f.text.eq_ignore_ascii_case("now") => no("now()"),
        ExprKind::Call(_, args) => args.iter().try_for_each(only_own_attributes),
        ExprKind::Not(x) | ExprKind::Negate(x) | ExprKind::IsNull(x, _) => only_own_attributes(x),
        ExprKind::Binary(a, _, b) => only_own_attributes(a).and_then(|()| only_own_attributes(b)),
        ExprKind::In(x, l) => only_own_attributes(x).and_then(|()| l.iter().try_for_each(only_own_attributes)),
        ExprKind::TypeTest(_, ty) => no_record(ty),
        _ => Ok(()),
    }
}

/// A pattern that can be asked of entities.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern {
    /// Types that can match, subtypes included; `None` is every node type.
    pub types: Option<BTreeSet<Number>>,
    pub filter: Option<Expr>,
}

impl Pattern {
    /// Whether the (living) entity matches. An expression that cannot be computed for it does not match.
    pub fn matches(&self, e: &EntityRef<'_>, o: &Ontology) -> bool {
        !e.deleted
            && self.types.as_ref().is_none_or(|t| t.contains(&e.ty))
            && passes(self.filter.as_ref(), &One { entity: e, ontology: o }).unwrap_or(false)
    }
}

/// The only variable is the entity itself.
struct One<'a> {
    entity: &'a EntityRef<'a>,
    ontology: &'a Ontology,
}

impl Env for One<'_> {
    fn attr(&self, _: usize, key: Number) -> ValueRef<'_> {
        self.entity.attr_ref(key)
    }
    fn system(&self, _: usize, field: System) -> Value {
        match field {
            System::SyncId => Value::String(self.entity.sync_id.to_owned()),
            System::UpdatedAt => Value::Timestamp(self.entity.time.ms() as i64),
            System::Type => Value::String(self.ontology.type_name(self.entity.ty)),
            System::Id | System::Version | System::Origin => Value::Null,
        }
    }
    fn is_type(&self, _: usize, ty: Number) -> bool {
        self.ontology.by_number(self.entity.ty).is_some_and(|t| t.lineage.contains(&ty))
    }
    fn param(&self, _: &str) -> Option<&Value> {
        None
    }
    fn reference(&self, name: &str) -> Result<Value, EvalError> {
        Ok(Value::Id(name.to_owned()))
    }
    fn exists(&self, _: &Match) -> Result<bool, EvalError> {
        Err(EvalError::Other("EXISTS in a sync's pattern".into()))
    }
    fn now_ms(&self) -> u64 {
        0
    }
}
