//! Compatibility of shapes (A0-11): what each difference between the source's and the sink's types means, one row per
//! difference, and that fingerprints change with the shape and with nothing else.

use mew_model::name::number;
use mew_model::ontology::{Attribute, Bound, Builder, Declared, DefaultValue, Edge, OnKill, Param};
use mew_model::shape::{TypeShape, fingerprint, incompatibilities};
use mew_model::{Kind, Value};

fn attr(name: &str, kind: Kind) -> Attribute {
    Attribute {
        name: name.to_owned(),
        number: number(name),
        kind,
        nullable: true,
        required: false,
        unique_in: None,
        indexed_in: None,
        default: None,
        one_of: vec![],
        min: None,
        max: None,
        length: None,
    }
}

fn text() -> Attribute {
    attr("title", Kind::String)
}

fn int() -> Attribute {
    attr("size", Kind::Int)
}

fn with(mut a: Attribute, change: impl FnOnce(&mut Attribute)) -> Attribute {
    change(&mut a);
    a
}

fn required(a: Attribute) -> Attribute {
    with(a, |a| (a.required, a.nullable) = (true, false))
}

fn not_null(a: Attribute) -> Attribute {
    with(a, |a| a.nullable = false)
}

fn unique(a: Attribute) -> Attribute {
    with(a, |a| a.unique_in = Some(number("Task")))
}

fn one_of(values: &[&str]) -> Attribute {
    with(text(), |a| a.one_of = values.iter().map(|v| Value::String((*v).to_owned())).collect())
}

fn bound(value: i64, inclusive: bool) -> Option<Bound> {
    Some(Bound { value: Value::Int(value), inclusive })
}

/// Inclusive at both ends.
fn range(min: Option<i64>, max: Option<i64>) -> Attribute {
    with(int(), |a| {
        a.min = min.and_then(|v| bound(v, true));
        a.max = max.and_then(|v| bound(v, true));
    })
}

fn above(min: i64, inclusive: bool) -> Attribute {
    with(int(), |a| a.min = bound(min, inclusive))
}

fn below(max: i64, inclusive: bool) -> Attribute {
    with(int(), |a| a.max = bound(max, inclusive))
}

fn length(lo: u32, hi: u32) -> Attribute {
    with(text(), |a| a.length = Some((lo, hi)))
}

fn node(name: &str, attrs: Vec<Attribute>) -> Declared {
    Declared { name: name.to_owned(), parents: vec![], attrs, edge: None }
}

fn task(attrs: Vec<Attribute>) -> Vec<Declared> {
    vec![node("Task", attrs)]
}

fn edge(ends: &[Option<&str>]) -> Vec<Declared> {
    let params =
        ends.iter().enumerate().map(|(i, e)| Param { name: format!("p{i}"), ty: e.map(str::to_owned) }).collect();
    let edge = Edge { params, on_kill_source: OnKill::Unlink, on_kill_target: OnKill::Unlink };
    let link = Declared { name: "link".to_owned(), parents: vec![], attrs: vec![], edge: Some(edge) };
    vec![node("Task", vec![]), node("Person", vec![]), link]
}

fn shapes(declared: Vec<Declared>) -> Vec<TypeShape> {
    let o = Builder { name: "test".to_owned(), declared }.build().expect("the declarations are right");
    o.types().map(TypeShape::of).collect()
}

struct Row {
    name: &'static str,
    source: Vec<Declared>,
    sink: Vec<Declared>,
    /// All that is wrong; empty means compatible.
    expected: &'static [&'static str],
}

fn row(name: &'static str, source: Vec<Declared>, sink: Vec<Declared>, expected: &'static [&'static str]) -> Row {
    Row { name, source, sink, expected }
}

/// The same attribute on both sides, one way or another.
fn attr_row(name: &'static str, source: Attribute, sink: Attribute, expected: &'static [&'static str]) -> Row {
    row(name, task(vec![source]), task(vec![sink]), expected)
}

const FEWER: &[&str] = &["attribute Task.title allows fewer values at the sink"];
const NARROWER: &[&str] = &["attribute Task.size has a narrower range at the sink"];
const SHORTER: &[&str] = &["attribute Task.title has a narrower length at the sink"];
const SIGNATURE: &[&str] = &["type link has another signature at the sink"];
const VALUE_AT_SINK: &[&str] = &["attribute Task.title must have a value at the sink only"];
const UNKNOWN: &[&str] = &["attribute Task.size is required at the sink and unknown at the source"];

fn type_rows() -> Vec<Row> {
    vec![
        row("the same", task(vec![text(), int()]), task(vec![text(), int()]), &[]),
        row("nothing is synced", vec![], task(vec![text()]), &[]),
        row(
            "a type more at the sink",
            task(vec![]),
            vec![node("Task", vec![]), node("Extra", vec![required(text())])],
            &[],
        ),
        row(
            "a type that is missing",
            task(vec![text()]),
            vec![node("Other", vec![text()])],
            &["type Task does not exist at the sink"],
        ),
        row(
            "the same name in another case",
            task(vec![]),
            vec![node("task", vec![])],
            &["type Task does not exist at the sink"],
        ),
        row(
            "a node that is an edge at the sink",
            vec![node("link", vec![])],
            edge(&[Some("Task"), Some("Person")]),
            SIGNATURE,
        ),
        row("an edge that is the same", edge(&[Some("Task"), None]), edge(&[Some("Task"), None]), &[]),
        row(
            "an edge between others",
            edge(&[Some("Task"), Some("Person")]),
            edge(&[Some("Task"), Some("Task")]),
            SIGNATURE,
        ),
        row(
            "an edge the other way",
            edge(&[Some("Task"), Some("Person")]),
            edge(&[Some("Person"), Some("Task")]),
            SIGNATURE,
        ),
        row(
            "an edge of any, narrower at the sink",
            edge(&[Some("Task"), None]),
            edge(&[Some("Task"), Some("Person")]),
            SIGNATURE,
        ),
        row(
            "an edge with another number of ends",
            edge(&[Some("Task"), Some("Person")]),
            edge(&[Some("Task"), Some("Person"), Some("Person")]),
            SIGNATURE,
        ),
    ]
}

fn attribute_rows() -> Vec<Row> {
    let inheriting = || {
        let child = Declared { parents: vec!["Thing".to_owned()], ..node("Task", vec![]) };
        vec![node("Thing", vec![text()]), child]
    };
    vec![
        row(
            "an attribute that is missing",
            task(vec![text(), int()]),
            task(vec![int()]),
            &["attribute Task.title does not exist at the sink"],
        ),
        row("an attribute that the sink inherits", task(vec![text()]), inheriting(), &[]),
        row("an optional attribute more at the sink", task(vec![text()]), task(vec![text(), int()]), &[]),
        row("a required attribute more at the sink", task(vec![text()]), task(vec![text(), required(int())]), UNKNOWN),
        row(
            "an attribute more at the sink that may not be null",
            task(vec![text()]),
            task(vec![text(), not_null(int())]),
            UNKNOWN,
        ),
        row("a unique attribute more at the sink", task(vec![text()]), task(vec![text(), unique(int())]), &[]),
        attr_row(
            "another kind",
            int(),
            attr("size", Kind::String),
            &["attribute Task.size is Int at the source and String at the sink"],
        ),
        attr_row(
            "another number kind",
            int(),
            attr("size", Kind::Float),
            &["attribute Task.size is Int at the source and Float at the sink"],
        ),
        attr_row(
            "a text that is an ID at the sink",
            text(),
            attr("title", Kind::Id),
            &["attribute Task.title is String at the source and ID at the sink"],
        ),
        attr_row("required at both", required(text()), required(text()), &[]),
        attr_row("required at the sink only", text(), required(text()), VALUE_AT_SINK),
        attr_row("required at the source only", required(text()), text(), &[]),
        attr_row("may not be null at the sink only", text(), not_null(text()), VALUE_AT_SINK),
        attr_row("may not be null at the source only", not_null(text()), text(), &[]),
        attr_row("unique at both", unique(text()), unique(text()), &[]),
        attr_row(
            "unique at the sink only",
            text(),
            unique(text()),
            &["attribute Task.title is unique at the sink only"],
        ),
        attr_row("unique at the source only", unique(text()), text(), &[]),
        attr_row(
            "another default",
            text(),
            with(text(), |a| a.default = Some(DefaultValue::Value(Value::String("x".into())))),
            &[],
        ),
    ]
}

fn constraint_rows() -> Vec<Row> {
    vec![
        attr_row("the same values", one_of(&["a", "b"]), one_of(&["a", "b"]), &[]),
        attr_row("the same values in another order", one_of(&["a", "b"]), one_of(&["b", "a"]), &[]),
        attr_row("fewer values at the sink", one_of(&["a", "b"]), one_of(&["a"]), FEWER),
        attr_row("other values at the sink", one_of(&["a", "b"]), one_of(&["a", "c"]), FEWER),
        attr_row("more values at the sink", one_of(&["a"]), one_of(&["a", "b"]), &[]),
        attr_row("any value at the sink", one_of(&["a"]), text(), &[]),
        attr_row("any value at the source", text(), one_of(&["a"]), FEWER),
        attr_row("the same range", range(Some(0), Some(10)), range(Some(0), Some(10)), &[]),
        attr_row("a wider range", range(Some(0), Some(10)), range(Some(-5), Some(20)), &[]),
        attr_row("a range that begins later", range(Some(0), Some(10)), range(Some(1), Some(10)), NARROWER),
        attr_row("a range that ends earlier", range(Some(0), Some(10)), range(Some(0), Some(9)), NARROWER),
        attr_row("a range elsewhere", range(Some(0), Some(10)), range(Some(20), Some(30)), NARROWER),
        attr_row("a range at the sink only", int(), range(Some(0), Some(10)), NARROWER),
        attr_row("a range at the source only", range(Some(0), Some(10)), int(), &[]),
        attr_row("no end at the sink", range(Some(0), Some(10)), range(Some(0), None), &[]),
        attr_row("no end at the source", range(Some(0), None), range(Some(0), Some(10)), NARROWER),
        attr_row("no beginning at the source", range(None, Some(10)), range(Some(0), Some(10)), NARROWER),
        attr_row("the beginning excluded at the sink", above(0, true), above(0, false), NARROWER),
        attr_row("the beginning excluded at the source", above(0, false), above(0, true), &[]),
        attr_row("the beginning excluded at both", above(0, false), above(0, false), &[]),
        attr_row("the end excluded at the sink", below(9, true), below(9, false), NARROWER),
        attr_row("the end excluded at the source", below(9, false), below(9, true), &[]),
        attr_row("the same length", length(1, 5), length(1, 5), &[]),
        attr_row("a wider length", length(1, 5), length(0, 6), &[]),
        attr_row("a greater least length", length(1, 5), length(2, 5), SHORTER),
        attr_row("a smaller greatest length", length(1, 5), length(1, 4), SHORTER),
        attr_row("a length at the sink only", text(), length(0, 1000), SHORTER),
        attr_row("a length at the source only", length(1, 5), text(), &[]),
    ]
}

fn rows() -> Vec<Row> {
    [type_rows(), attribute_rows(), constraint_rows()].into_iter().flatten().collect()
}

#[test]
fn each_difference_means_what_the_table_says() {
    let mut wrong = Vec::new();
    for r in rows() {
        // Only the types that are synced are compared, so the source never names more than it sends.
        let found = incompatibilities(&shapes(r.source), &shapes(r.sink));
        if found != r.expected {
            wrong.push(format!("{}: expected {:?}, found {found:?}", r.name, r.expected));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_type_fits_itself() {
    for r in rows() {
        for side in [r.source, r.sink] {
            let s = shapes(side);
            assert_eq!(incompatibilities(&s, &s), Vec::<String>::new(), "{}", r.name);
        }
    }
}

#[test]
fn all_reasons_are_given_at_once() {
    let source = vec![
        node("Gone", vec![]),
        node("Task", vec![text(), int(), attr("lost", Kind::Bool), attr("due", Kind::Timestamp)]),
    ];
    let sink = task(vec![
        unique(with(required(text()), |a| a.length = Some((1, 2)))),
        attr("size", Kind::Bool),
        attr("due", Kind::Timestamp),
        required(attr("owner", Kind::Id)),
    ]);
    let mut found = incompatibilities(&shapes(source), &shapes(sink));
    found.sort();
    assert_eq!(
        found,
        [
            "attribute Task.lost does not exist at the sink",
            "attribute Task.owner is required at the sink and unknown at the source",
            "attribute Task.size is Int at the source and Bool at the sink",
            "attribute Task.title has a narrower length at the sink",
            "attribute Task.title is unique at the sink only",
            "attribute Task.title must have a value at the sink only",
            "type Gone does not exist at the sink",
        ]
    );
}

#[test]
fn only_the_named_types_are_described() {
    let declared = vec![node("Task", vec![text()]), node("Person", vec![])];
    let o = Builder { name: "test".to_owned(), declared }.build().expect("the declarations are right");
    let found = TypeShape::of_all(&o, ["Person", "Nothing"]);
    assert_eq!(found.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["Person"]);
}

#[test]
fn a_fingerprint_does_not_depend_on_order_or_defaults() {
    let a = shapes(vec![node("Task", vec![text(), int()]), node("Person", vec![])]);
    let mut b = shapes(vec![
        node("Person", vec![]),
        node("Task", vec![int(), with(text(), |a| a.default = Some(DefaultValue::Now(0)))]),
    ]);
    assert_eq!(fingerprint(&a), fingerprint(&b));
    b.reverse();
    assert_eq!(fingerprint(&a), fingerprint(&b));
    let order = |v: &[&str]| fingerprint(&shapes(task(vec![one_of(v)])));
    assert_eq!(order(&["a", "b"]), order(&["b", "a"]));
    assert_ne!(order(&["a", "b"]), order(&["a"]));
}

/// Kernels with equal fingerprints skip the comparison, so whatever is incompatible must differ.
#[test]
fn what_does_not_fit_has_another_fingerprint() {
    for r in rows().into_iter().filter(|r| !r.expected.is_empty()) {
        let names: Vec<String> = r.source.iter().map(|d| d.name.clone()).collect();
        let of = |declared: Vec<Declared>| -> Vec<TypeShape> {
            shapes(declared).into_iter().filter(|t| names.contains(&t.name)).collect()
        };
        let (source, sink) = (of(r.source), of(r.sink));
        assert_ne!(fingerprint(&source), fingerprint(&sink), "{}", r.name);
    }
}
