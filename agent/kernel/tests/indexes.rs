//! An index changes how fast something is found, never what; and a read holds up no writer.

use mew_kernel::{Kernel, KernelError, Params, Take, Tx};
use mew_lang::parse_ontology;
use mew_model::ontology::Type;
use mew_model::{Draft, Value};
use mew_store::{MemDisk, Options, Store};
use proptest::prelude::*;
use std::ops::ControlFlow;
use std::sync::Arc;

const NOW_MS: u64 = 1_700_000_000_000;
const PLAIN: &str =
    "ontology T { node A { id: Int [required], s: String?, i: Int?, f: Float?, b: Bool? } node B: A { } }";
const INDEXED: &str =
    "ontology T { node A { id: Int [required, indexed], s: String? [indexed], i: Int? [indexed], f: Float? [indexed],
                       b: Bool? [indexed] } node B: A { } }";

fn kernel(ontology: &str) -> Kernel {
    let o = parse_ontology(ontology).expect("the ontology is right");
    let options = Options { kernel_id: "test.k".into(), new_incarnation: "i1".into(), segment_bytes: 2000 };
    let (store, _) = Store::open(Arc::new(MemDisk::new()), Arc::new(o), options).expect("an empty store opens");
    Kernel::new(store)
}

const NAMES: [&str; 4] = ["s", "i", "f", "b"];

fn value(attr: usize) -> BoxedStrategy<Value> {
    let texts = prop_oneof![Just(String::new()), "[ab]{0,10}", "abcdefg[a-c]{0,3}", "[é\u{10000}]{1,3}"];
    let some = match attr {
        0 => texts.prop_map(Value::String).boxed(),
        1 => prop_oneof![any::<i64>(), -3_i64..4].prop_map(Value::Int).boxed(),
        2 => {
            let edges =
                prop::sample::select(vec![0.0, -0.0, f64::MIN, f64::MAX, f64::NAN, f64::INFINITY, 1e-300, -1e-300]);
            prop_oneof![any::<f64>(), -3.0_f64..3.0, edges].prop_map(Value::Float).boxed()
        }
        _ => any::<bool>().prop_map(Value::Bool).boxed(),
    };
    prop_oneof![1 => Just(Value::Null), 6 => some].boxed()
}

#[derive(Clone, Debug)]
enum Step {
    Spawn(bool, Vec<Value>),
    Set(usize, usize, Value),
    Kill(usize),
    /// Comparisons of attributes with values, all of which must hold.
    Find(bool, Vec<(usize, &'static str, Value)>),
    /// The first of them by an attribute, up or down, from and how many; with or without a comparison.
    First(bool, usize, bool, u8, u8, Option<(usize, &'static str, Value)>),
}

fn attr_and_value() -> impl Strategy<Value = (usize, Value)> {
    (0_usize..4).prop_flat_map(|a| (Just(a), value(a)))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let op = || prop::sample::select(vec!["=", "<", "<=", ">", ">="]);
    // Null is an error in a comparison, and which rows are asked first is not laid down.
    let some = attr_and_value().prop_filter("not null", |(_, v)| !v.is_null());
    let test = (some, op()).prop_map(|((a, v), op)| (a, op, v)).boxed();
    let step = prop_oneof![
        4 => (any::<bool>(), (value(0), value(1), value(2), value(3))).prop_map(|(b, v)| Step::Spawn(b, vec![v.0, v.1, v.2, v.3])),
        2 => (0_usize..30, attr_and_value()).prop_map(|(n, (a, v))| Step::Set(n, a, v)),
        1 => (0_usize..30).prop_map(Step::Kill),
        6 => (any::<bool>(), prop::collection::vec(test.clone(), 1..4)).prop_map(|(b, t)| Step::Find(b, t)),
        6 => (any::<bool>(), 0_usize..5, any::<bool>(), 0_u8..4, 0_u8..6, prop::option::of(test))
            .prop_map(|(b, a, down, from, most, t)| Step::First(b, a, down, from, most, t)),
    ];
    prop::collection::vec(step, 1..60)
}

/// The statement and its parameters.
fn script(step: &Step, next_id: &mut i64) -> (String, Params) {
    let ty = |narrow: bool| if narrow { "B" } else { "A" };
    let mut params = Params::new();
    let text = match step {
        Step::Spawn(narrow, values) => {
            *next_id += 1;
            let attrs = NAMES.iter().zip(values).map(|(n, v)| {
                params.insert((*n).to_owned(), v.clone());
                format!("{n} = ${n}")
            });
            let attrs = attrs.collect::<Vec<_>>().join(", ");
            format!("SPAWN {} {{id = {next_id}, {attrs}}}", ty(*narrow))
        }
        Step::Set(n, a, v) => {
            params.insert("v".into(), v.clone());
            format!("MATCH x: A WHERE x.id = {n} SET x.{} = $v", NAMES[*a])
        }
        Step::Kill(n) => format!("MATCH x: A WHERE x.id = {n} KILL x"),
        Step::Find(narrow, tests) => {
            let tests = tests.iter().enumerate().map(|(i, (a, op, v))| {
                params.insert(format!("v{i}"), v.clone());
                format!("x.{} {op} $v{i}", NAMES[*a])
            });
            let tests = tests.collect::<Vec<_>>().join(" AND ");
            format!("MATCH x: {} WHERE {tests} RETURN x.id ORDER BY x.id", ty(*narrow))
        }
        Step::First(narrow, by, down, from, most, test) => {
            let test = test.as_ref().map(|(a, op, v)| {
                params.insert("v".into(), v.clone());
                format!("WHERE x.{} {op} $v", NAMES[*a])
            });
            let by = if *by == NAMES.len() { "id" } else { NAMES[*by] };
            format!(
                "MATCH x: {} {} RETURN x.id ORDER BY x.{by} {} LIMIT {most} OFFSET {from}",
                ty(*narrow),
                test.unwrap_or_default(),
                if *down { "DESC" } else { "ASC" }
            )
        }
    };
    (text, params)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_index_finds_what_a_scan_finds(steps in steps(), build_at in 0_usize..60) {
        // One scans, one has indexes from the start, one gets them while it is full.
        let kernels = [kernel(PLAIN), kernel(INDEXED), kernel(PLAIN)];
        let mut ids = [0; 3];
        for (i, step) in steps.iter().enumerate() {
            if i == build_at {
                let indexed = parse_ontology(INDEXED).expect("it is right");
                kernels[2].set_ontology(INDEXED, indexed).expect("an index is no new rule");
            }
            let mut found = kernels.iter().zip(&mut ids).map(|(k, id)| {
                let (text, params) = script(step, id);
                k.execute(NOW_MS, &text, &params).map(|o| o.rows).map_err(|e| e.to_string())
            });
            let scanned = found.next().expect("three kernels");
            for other in found {
                prop_assert_eq!(&scanned, &other, "step {}: {:?}", i, step);
            }
        }
    }
}

/// The read is in the middle of its work when the write is done; it goes on with what it began with.
#[test]
fn a_read_holds_up_no_writer_and_sees_one_commit() {
    let k: &'static Kernel = Box::leak(Box::new(kernel(INDEXED)));
    k.execute(NOW_MS, "SPAWN A {id = 1, i = 1}; SPAWN A {id = 2, i = 2}", &Params::new()).expect("they are right");
    k.keep_records(|_: &Tx<'_>, ty: &Type, take: Take<'_>| -> Result<ControlFlow<()>, KernelError> {
        let write = || k.execute(NOW_MS, "MATCH a: A KILL a; SPAWN A {id = 3, i = 1}", &Params::new());
        std::thread::spawn(write).join().expect("it does not panic").expect("it is not held up");
        take(Draft::new(ty.number, "held/1".into()))
    });
    let rows = k
        .execute(NOW_MS, "MATCH h: _Held, a: A WHERE a.i >= 1 RETURN a.id ORDER BY a.id", &Params::new())
        .expect("a query")
        .rows;
    assert_eq!(rows, [[Value::Int(1)], [Value::Int(2)]]);
    let rows = k.execute(NOW_MS, "MATCH a: A RETURN a.id", &Params::new()).expect("a query").rows;
    assert_eq!(rows, [[Value::Int(3)]]);
}

/// Who asks for the first row by an index pays for that row: the one that cannot be computed is never looked at.
#[test]
fn the_first_rows_by_an_index_are_all_that_is_read() {
    let first = |k: &Kernel, order: &str| {
        let text = format!("MATCH a: A WHERE 10 / a.id > 0 RETURN a.id ORDER BY a.i {order} LIMIT 1");
        k.execute(NOW_MS, &text, &Params::new()).map(|o| o.rows)
    };
    for (ontology, up_reads_all) in [(PLAIN, true), (INDEXED, false)] {
        let k = kernel(ontology);
        k.execute(NOW_MS, "SPAWN A {id = 1, i = 1}; SPAWN A {id = 2, i = 2}; SPAWN A {id = 0, i = 3}", &Params::new())
            .expect("they are right");
        assert_eq!(first(&k, "ASC").is_err(), up_reads_all, "{ontology}");
        assert!(first(&k, "DESC").is_err(), "{ontology}");
    }
    let k = kernel(INDEXED);
    k.execute(NOW_MS, "SPAWN A {id = 7, i = 1}; SPAWN A {id = 0, i = 2}", &Params::new()).expect("they are right");
    assert_eq!(first(&k, "ASC").expect("only the first is read"), [[Value::Int(7)]]);
}
