//! Type shapes to and from the wire.

use mew_model::shape::{AttrShape, TypeShape};
use mew_model::{Number, Ontology, Value};
use mew_wire as wire;
use std::collections::BTreeSet;

pub fn of_types(o: &Ontology, types: &BTreeSet<Number>) -> Vec<wire::TypeShape> {
    o.types().filter(|t| types.contains(&t.number)).map(|t| to_wire(&TypeShape::of(t))).collect()
}

fn to_wire(s: &TypeShape) -> wire::TypeShape {
    let bound = |b: &Option<(Value, bool)>| {
        b.as_ref().map(|(v, inclusive)| wire::BoundShape { value: Some(value_to_wire(v)), inclusive: *inclusive })
    };
    wire::TypeShape {
        name: s.name.clone(),
        is_edge: s.is_edge,
        ends: s.ends.clone(),
        attrs: s
            .attrs
            .iter()
            .map(|a| wire::AttrShape {
                name: a.name.clone(),
                kind: a.kind.clone(),
                nullable: a.nullable,
                required: a.required,
                unique: a.unique,
                one_of: a.one_of.clone(),
                min: bound(&a.min),
                max: bound(&a.max),
                length: a.length.map(|(min, max)| wire::LengthShape { min, max }),
            })
            .collect(),
    }
}

pub fn from_wire(s: &wire::TypeShape) -> TypeShape {
    let bound = |b: &Option<wire::BoundShape>| {
        b.as_ref().map(|b| (b.value.clone().map_or(Value::Null, value_from_wire), b.inclusive))
    };
    TypeShape {
        name: s.name.clone(),
        ends: s.ends.clone(),
        is_edge: s.is_edge,
        attrs: s
            .attrs
            .iter()
            .map(|a| AttrShape {
                name: a.name.clone(),
                kind: a.kind.clone(),
                nullable: a.nullable,
                required: a.required,
                unique: a.unique,
                one_of: a.one_of.clone(),
                min: bound(&a.min),
                max: bound(&a.max),
                length: a.length.as_ref().map(|l| (l.min, l.max)),
            })
            .collect(),
    }
}

pub fn value_to_wire(v: &Value) -> wire::Value {
    use wire::value::Value as W;
    wire::Value {
        value: match v {
            Value::Null => None,
            Value::String(s) => Some(W::String(s.clone())),
            Value::Int(i) => Some(W::Int(*i)),
            Value::Float(x) => Some(W::Float(*x)),
            Value::Bool(b) => Some(W::Bool(*b)),
            Value::Timestamp(t) => Some(W::Timestamp(*t)),
            Value::Duration(d) => Some(W::Duration(*d)),
            Value::Id(s) => Some(W::Id(s.clone())),
        },
    }
}

pub fn value_from_wire(v: wire::Value) -> Value {
    use wire::value::Value as W;
    match v.value {
        None => Value::Null,
        Some(W::String(s)) => Value::String(s),
        Some(W::Int(i)) => Value::Int(i),
        Some(W::Float(x)) => Value::Float(x),
        Some(W::Bool(b)) => Value::Bool(b),
        Some(W::Timestamp(t)) => Value::Timestamp(t),
        Some(W::Duration(d)) => Value::Duration(d),
        Some(W::Id(s)) => Value::Id(s),
    }
}
