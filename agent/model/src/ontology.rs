//! The node and edge types of a kernel, with everything inherited already written out, and the checks on values.
//!
//! Built by [`Builder`], which finds what is wrong with a set of declarations as a whole; the text is parsed in
//! `mew-lang`.

use crate::{Number, Value, ValueRef, name, value::Kind};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

#[derive(Clone, Debug, Default)]
pub struct Ontology {
    pub name: String,
    types: BTreeMap<String, Arc<Type>>,
    numbers: BTreeMap<Number, Arc<Type>>,
    attributes: BTreeMap<Number, String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Type {
    pub name: String,
    pub number: Number,
    /// Direct parents, as declared.
    pub parents: Vec<String>,
    /// Itself and every ancestor.
    pub lineage: BTreeSet<Number>,
    /// Own and inherited attributes by name.
    pub attrs: BTreeMap<String, Arc<Attribute>>,
    /// The same, ascending by number: as an entity holds them.
    numbered: Vec<Arc<Attribute>>,
    /// Of `attrs`: declaring type and number of those that are unique, and of those that are indexed.
    pub unique: Vec<(Number, Number)>,
    pub indexed: Vec<(Number, Number)>,
    /// Parameters of an edge type; `None` for a node type.
    pub edge: Option<Edge>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Edge {
    pub params: Vec<Param>,
    pub on_kill_source: OnKill,
    pub on_kill_target: OnKill,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    pub name: String,
    /// `None` is `any`.
    pub ty: Option<String>,
}

/// What the death of one end does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnKill {
    #[default]
    Unlink,
    /// The other end dies too.
    Cascade,
    /// The end may not be killed.
    Prevent,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Attribute {
    pub name: String,
    pub number: Number,
    pub kind: Kind,
    pub nullable: bool,
    pub required: bool,
    /// The type that declares it; uniqueness is among that type and its subtypes.
    pub unique_in: Option<Number>,
    /// The type that declares it; its values and those of its subtypes are kept in order, for comparisons.
    pub indexed_in: Option<Number>,
    pub default: Option<DefaultValue>,
    pub one_of: Vec<Value>,
    pub min: Option<Bound>,
    pub max: Option<Bound>,
    /// Inclusive, in Unicode scalar values.
    pub length: Option<(u32, u32)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    pub value: Value,
    pub inclusive: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum DefaultValue {
    Value(Value),
    /// Time of the write plus so many milliseconds.
    Now(i64),
}

impl DefaultValue {
    pub fn evaluate(&self, now_ms: u64) -> Value {
        match self {
            DefaultValue::Value(v) => v.clone(),
            DefaultValue::Now(offset) => Value::Timestamp((now_ms as i64).saturating_add(*offset)),
        }
    }
}

/// What a value or an entity violates. The wording contains the modifier's name, so that people can search for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Attribute {
    /// Whether both allow the same values. An index is no rule.
    fn has_rules_of(&self, other: &Attribute) -> bool {
        Attribute { indexed_in: None, ..self.clone() } == Attribute { indexed_in: None, ..other.clone() }
    }

    /// Checks a value that is to be stored; null means the attribute would have no value.
    pub fn check(&self, v: ValueRef<'_>) -> Result<(), Violation> {
        let bad = |why: String| Err(Violation(format!("attribute {}: {why}", self.name)));
        let Some(kind) = v.kind() else {
            return if self.required {
                bad("it is required and has no value".into())
            } else if self.nullable {
                Ok(())
            } else {
                bad(format!("null is not a {}; declare it {}? to allow null", self.kind, self.kind))
            };
        };
        if kind != self.kind {
            return bad(format!("expected type {}, found {kind} {v}", self.kind));
        }
        if !self.one_of.is_empty() && !self.one_of.iter().any(|o| v.query_eq(o.borrowed())) {
            let all: Vec<String> = self.one_of.iter().map(Value::to_string).collect();
            return bad(format!("{v} is not in [{}]", all.join(", ")));
        }
        if let Some(b) = &self.min
            && !v.query_cmp(b.value.borrowed()).is_some_and(|o| o.is_gt() || (b.inclusive && o.is_eq()))
        {
            return bad(format!(
                "{v} is below the range (must be {} {})",
                if b.inclusive { ">=" } else { ">" },
                b.value
            ));
        }
        if let Some(b) = &self.max
            && !v.query_cmp(b.value.borrowed()).is_some_and(|o| o.is_lt() || (b.inclusive && o.is_eq()))
        {
            return bad(format!(
                "{v} is above the range (must be {} {})",
                if b.inclusive { "<=" } else { "<" },
                b.value
            ));
        }
        if let (Some((lo, hi)), ValueRef::String(s)) = (self.length, v) {
            let n = s.chars().count();
            if n < lo as usize || n > hi as usize {
                return bad(format!("length {n} is outside {lo}..{hi}"));
            }
        }
        Ok(())
    }
}

impl Type {
    pub fn attribute(&self, n: Number) -> Option<&Attribute> {
        self.numbered.binary_search_by_key(&n, |a| a.number).ok().map(|i| &*self.numbered[i])
    }
}

impl Ontology {
    pub fn types(&self) -> impl Iterator<Item = &Type> {
        self.types.values().map(|t| &**t)
    }

    pub fn get(&self, name: &str) -> Option<&Type> {
        self.types.get(name).map(|t| &**t)
    }

    pub fn by_number(&self, n: Number) -> Option<&Type> {
        self.numbers.get(&n).map(|t| &**t)
    }

    /// Name of a type, or its number in hex if this ontology does not know it.
    pub fn type_name(&self, n: Number) -> String {
        self.numbers.get(&n).map_or_else(|| format!("{n:#010x}"), |t| t.name.clone())
    }

    pub fn attribute_name(&self, n: Number) -> Option<&str> {
        self.attributes.get(&n).map(String::as_str)
    }

    /// A type and everything that inherits from it.
    pub fn with_subtypes(&self, number: Number) -> BTreeSet<Number> {
        self.types.values().filter(|t| t.lineage.contains(&number)).map(|t| t.number).collect()
    }

    /// Whether `number` is one of `names` or inherits from one; `*` is everything.
    pub fn is_one_of<'a>(&self, number: Number, names: impl IntoIterator<Item = &'a str>) -> bool {
        let lineage = self.by_number(number).map(|t| &t.lineage);
        names.into_iter().any(|n| n == "*" || lineage.is_some_and(|l| l.contains(&name::number(n))))
    }

    /// Checks the attributes of one entity (not uniqueness, which needs the others), ascending by number. An attribute that
    /// the type does not know is a violation as well.
    pub fn check_entity<'a>(
        &self,
        ty: Number,
        attrs: impl Iterator<Item = (Number, ValueRef<'a>)>,
    ) -> Result<(), Violation> {
        let Some(t) = self.by_number(ty) else {
            return Err(Violation(format!("type {} is unknown here", self.type_name(ty))));
        };
        let mut attrs = attrs.peekable();
        for a in &t.numbered {
            if attrs.peek().is_some_and(|x| x.0 < a.number) {
                break;
            }
            let v = attrs.next_if(|x| x.0 == a.number).map_or(ValueRef::Null, |x| x.1);
            a.check(v).map_err(|v| Violation(format!("{}: {v}", t.name)))?;
        }
        match attrs.next() {
            Some((k, _)) => Err(Violation(format!("{}: it has no attribute with number {k:#010x}", t.name))),
            None => Ok(()),
        }
    }

    /// What changes from `self` to `next` beyond additions; such a change is refused and the old ontology stays.
    pub fn refused_changes(&self, next: &Ontology) -> Vec<String> {
        let mut out = Vec::new();
        for t in self.types() {
            let Some(n) = next.get(&t.name) else {
                out.push(format!("type {} is gone", t.name));
                continue;
            };
            if n.edge != t.edge {
                out.push(format!("the signature of edge {} changed", t.name));
            }
            if !t.lineage.is_subset(&n.lineage) {
                out.push(format!("type {} lost a parent", t.name));
            }
            for a in t.attrs.values() {
                match n.attrs.get(&a.name) {
                    None => out.push(format!("attribute {}.{} is gone", t.name, a.name)),
                    Some(b) if !b.has_rules_of(a) => out.push(format!("attribute {}.{} changed", t.name, a.name)),
                    Some(_) => {}
                }
            }
            for b in n.attrs.values().filter(|b| !t.attrs.contains_key(&b.name)) {
                if b.required || !b.nullable || b.unique_in.is_some() {
                    out.push(format!(
                        "new attribute {}.{} must be nullable and neither required nor unique, as entities without it exist",
                        t.name, b.name
                    ));
                }
            }
        }
        out
    }
}

/// A type as declared, before inheritance.
#[derive(Clone, Debug)]
pub struct Declared {
    pub name: String,
    pub parents: Vec<String>,
    pub attrs: Vec<Attribute>,
    pub edge: Option<Edge>,
}

/// What is wrong with a set of declarations; `about` names the type or `type.attribute` concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub about: String,
    pub message: String,
}

/// Levels of inheritance: each is a call on the stack, and is gone through again for each type below it.
const MAX_LEVELS: usize = 64;
/// Of inheritance, that are told: each is compared with those before it.
const MAX_PROBLEMS: usize = 100;

/// Puts declarations together.
pub struct Builder {
    pub name: String,
    pub declared: Vec<Declared>,
}

impl Builder {
    pub fn build(self) -> Result<Ontology, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut by_name: BTreeMap<&str, &Declared> = BTreeMap::new();
        for d in &self.declared {
            if by_name.insert(&d.name, d).is_some() {
                problems.push(Problem { about: d.name.clone(), message: format!("type {} is declared twice", d.name) });
            }
        }
        let mut o = Ontology { name: self.name.clone(), ..Ontology::default() };
        for d in &self.declared {
            let mut lineage = Vec::new();
            collect_lineage(d, &by_name, &mut Vec::new(), &mut lineage, &mut problems);
            let mut attrs: BTreeMap<String, Arc<Attribute>> = BTreeMap::new();
            // Ancestors first: the type itself is last in `lineage`.
            for a in lineage.iter().flat_map(|l| &l.attrs) {
                if let Some(old) = attrs.get(&a.name)
                    && **old != *a
                {
                    let message = format!("attribute {} is already declared differently by an ancestor", a.name);
                    problems.push(Problem { about: format!("{}.{}", d.name, a.name), message });
                }
                attrs.insert(a.name.clone(), Arc::new(a.clone()));
            }
            for p in d.edge.iter().flat_map(|e| &e.params) {
                match p.ty.as_deref().map(|t| by_name.get(t)) {
                    Some(None) => problems.push(Problem {
                        about: d.name.clone(),
                        message: format!(
                            "edge parameter {} has the unknown type {}",
                            p.name,
                            p.ty.as_deref().unwrap_or("")
                        ),
                    }),
                    Some(Some(t)) if t.edge.is_some() => problems.push(Problem {
                        about: d.name.clone(),
                        message: format!("edge parameter {} must be a node type", p.name),
                    }),
                    _ => {}
                }
            }
            let all = || attrs.values();
            let mut numbered: Vec<Arc<Attribute>> = all().cloned().collect();
            numbered.sort_by_key(|a| a.number);
            let t = Arc::new(Type {
                unique: all().filter_map(|a| Some((a.unique_in?, a.number))).collect(),
                indexed: all().filter_map(|a| Some((a.indexed_in?, a.number))).collect(),
                name: d.name.clone(),
                number: name::number(&d.name),
                parents: d.parents.clone(),
                lineage: lineage.iter().map(|l| name::number(&l.name)).collect(),
                attrs,
                numbered,
                edge: d.edge.clone(),
            });
            o.number(&t, &mut problems);
            for a in t.attrs.values() {
                match o.attributes.insert(a.number, a.name.clone()) {
                    Some(other) if other != a.name => problems.push(Problem {
                        about: format!("{}.{}", t.name, a.name),
                        message: format!("attribute {} has the same number as {other}; rename one of them", a.name),
                    }),
                    _ => {}
                }
            }
            o.types.insert(t.name.clone(), t);
        }
        if problems.is_empty() { Ok(o) } else { Err(problems) }
    }
}

impl Ontology {
    fn number(&mut self, t: &Arc<Type>, problems: &mut Vec<Problem>) {
        match self.numbers.insert(t.number, t.clone()) {
            Some(other) if other.name != t.name => problems.push(Problem {
                about: t.name.clone(),
                message: format!("type {} has the same number as {}; rename one of them", t.name, other.name),
            }),
            _ => {}
        }
    }
}

/// Depth first, each type once; a type that is its own ancestor is a problem, not a loop.
fn collect_lineage<'a>(
    d: &'a Declared,
    all: &BTreeMap<&str, &'a Declared>,
    path: &mut Vec<&'a str>,
    out: &mut Vec<&'a Declared>,
    problems: &mut Vec<Problem>,
) {
    let mut problem = |message: String| {
        let p = Problem { about: d.name.clone(), message };
        if problems.len() < MAX_PROBLEMS && !problems.contains(&p) {
            problems.push(p);
        }
    };
    if path.contains(&d.name.as_str()) {
        return problem(format!("type {} inherits from itself (circular)", d.name));
    }
    if path.len() >= MAX_LEVELS {
        return problem(format!("type {} is inherited through more than {MAX_LEVELS} levels", d.name));
    }
    if out.iter().any(|o| o.name == d.name) {
        return;
    }
    let mut parents = Vec::new();
    for p in &d.parents {
        match all.get(p.as_str()) {
            None => problem(format!("unknown parent type {p}")),
            Some(p) if p.edge.is_some() != d.edge.is_some() => {
                problem(format!("{} cannot inherit from {}", d.name, p.name))
            }
            Some(p) => parents.push(*p),
        }
    }
    path.push(&d.name);
    for p in parents {
        collect_lineage(p, all, path, out, problems);
    }
    path.pop();
    out.push(d);
}
