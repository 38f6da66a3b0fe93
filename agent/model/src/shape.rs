//! The shape of a type as kernels compare it at handshake (A0-10, A0-11): a canonical description, its fingerprint, and
//! whether entities of one shape fit another.

use crate::ontology::{Attribute, Bound, Ontology, Type};
use crate::{Value, name::hex_digest};

/// What a peer needs to know about one type. `None` bounds mean no bound; `one_of` empty means any value.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeShape {
    pub name: String,
    /// Types of an edge's ends (`any` for any); empty for a node type.
    pub ends: Vec<String>,
    pub is_edge: bool,
    /// Ascending by name.
    pub attrs: Vec<AttrShape>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AttrShape {
    pub name: String,
    pub kind: String,
    pub nullable: bool,
    pub required: bool,
    pub unique: bool,
    pub one_of: Vec<String>,
    pub min: Option<(Value, bool)>,
    pub max: Option<(Value, bool)>,
    pub length: Option<(u32, u32)>,
}

impl TypeShape {
    pub fn of(t: &Type) -> Self {
        TypeShape {
            name: t.name.clone(),
            ends: t.edge.iter().flat_map(|e| &e.params).map(|p| p.ty.clone().unwrap_or_else(|| "any".into())).collect(),
            is_edge: t.edge.is_some(),
            attrs: t.attrs.values().map(|a| AttrShape::of(a)).collect(),
        }
    }

    /// Shapes of the named types; a name that the ontology lacks is left out.
    pub fn of_all<'a>(o: &Ontology, names: impl IntoIterator<Item = &'a str>) -> Vec<TypeShape> {
        names.into_iter().filter_map(|n| o.get(n)).map(TypeShape::of).collect()
    }

    /// Independent of declaration order, comments and defaults.
    pub fn fingerprint(&self) -> String {
        hex_digest(format!("{self:?}").as_bytes())
    }
}

impl AttrShape {
    fn of(a: &Attribute) -> Self {
        let bound = |b: &Option<Bound>| b.as_ref().map(|b| (b.value.clone(), b.inclusive));
        let mut one_of: Vec<String> = a.one_of.iter().map(Value::to_string).collect();
        one_of.sort();
        AttrShape {
            name: a.name.clone(),
            kind: a.kind.name().to_owned(),
            nullable: a.nullable,
            required: a.required,
            unique: a.unique_in.is_some(),
            one_of,
            min: bound(&a.min),
            max: bound(&a.max),
            length: a.length,
        }
    }
}

/// One fingerprint for a set of types.
pub fn fingerprint(shapes: &[TypeShape]) -> String {
    let mut all: Vec<String> = shapes.iter().map(TypeShape::fingerprint).collect();
    all.sort();
    hex_digest(all.join("").as_bytes())
}

/// Whether entities of `source` can be stored where types look like `sink`: every type and attribute is there, with the
/// same kind, and the sink's constraints are no narrower. Returns all reasons why not.
pub fn incompatibilities(source: &[TypeShape], sink: &[TypeShape]) -> Vec<String> {
    let mut out = Vec::new();
    for s in source {
        let Some(d) = sink.iter().find(|d| d.name == s.name) else {
            out.push(format!("type {} does not exist at the sink", s.name));
            continue;
        };
        if s.is_edge != d.is_edge || s.ends != d.ends {
            out.push(format!("type {} has another signature at the sink", s.name));
        }
        for a in &s.attrs {
            match d.attrs.iter().find(|b| b.name == a.name) {
                None => out.push(format!("attribute {}.{} does not exist at the sink", s.name, a.name)),
                Some(b) => compare(s, a, b, &mut out),
            }
        }
        for b in d.attrs.iter().filter(|b| !s.attrs.iter().any(|a| a.name == b.name)) {
            if b.required || !b.nullable {
                out.push(format!("attribute {}.{} is required at the sink and unknown at the source", s.name, b.name));
            }
        }
    }
    out
}

fn compare(t: &TypeShape, a: &AttrShape, b: &AttrShape, out: &mut Vec<String>) {
    let mut say = |what: &str| out.push(format!("attribute {}.{} {what}", t.name, a.name));
    if a.kind != b.kind {
        return say(&format!("is {} at the source and {} at the sink", a.kind, b.kind));
    }
    if (b.required && !a.required) || (!b.nullable && a.nullable) {
        say("must have a value at the sink only");
    }
    if b.unique && !a.unique {
        say("is unique at the sink only");
    }
    if !b.one_of.is_empty() && (a.one_of.is_empty() || !a.one_of.iter().all(|v| b.one_of.contains(v))) {
        say("allows fewer values at the sink");
    }
    let narrower = |src: &Option<(Value, bool)>, dst: &Option<(Value, bool)>, lower: bool| match (src, dst) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some((sv, si)), Some((dv, di))) => match sv.query_cmp(dv) {
            Some(o) if o.is_eq() => *si && !*di,
            Some(o) => o.is_lt() == lower,
            None => true,
        },
    };
    if narrower(&a.min, &b.min, true) || narrower(&a.max, &b.max, false) {
        say("has a narrower range at the sink");
    }
    match (a.length, b.length) {
        (_, None) => {}
        (Some((lo, hi)), Some((dlo, dhi))) if lo >= dlo && hi <= dhi => {}
        _ => say("has a narrower length at the sink"),
    }
}
