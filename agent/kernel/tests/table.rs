//! One script for many rows of parameters.

use mew_kernel::{Kernel, KernelError, Params, Table};
use mew_lang::parse_ontology;
use mew_model::Value;
use mew_store::{MemDisk, Options, Store};
use std::sync::Arc;

const NOW_MS: u64 = 1_700_000_000_000;
const ONTOLOGY: &str = "ontology T { node Task { code: String [required, unique], n: Int [>= 0] } }";

fn kernel() -> Kernel {
    let o = parse_ontology(ONTOLOGY).expect("the ontology is right");
    let options = Options { kernel_id: "test.k".into(), new_incarnation: "i1".into(), segment_bytes: 1 << 20 };
    let (store, _) = Store::open(Arc::new(MemDisk::new()), Arc::new(o), options).expect("an empty store opens");
    Kernel::new(store)
}

fn table(rows: &[(&str, i64)]) -> Table {
    let row = |(code, n): &(&str, i64)| vec![Value::String((*code).to_owned()), Value::Int(*n)];
    Table { names: vec!["code".into(), "n".into()], rows: rows.iter().map(row).collect() }
}

const SPAWN: &str = "SPAWN Task {code = $code, n = $n}";

fn codes(k: &Kernel) -> Vec<Vec<Value>> {
    let rows = k.execute(NOW_MS, "MATCH t: Task RETURN t.code, t.n ORDER BY t.code", &Params::new());
    rows.expect("a query").rows
}

#[test]
fn all_rows_are_one_commit() {
    let k = kernel();
    let out = k.execute_table(NOW_MS, SPAWN, table(&[("a", 1), ("b", 2), ("c", 3)])).expect("they are right");
    assert_eq!((out.summary.spawned, out.seq), (3, 3));
    let set = "MATCH t: Task WHERE t.code = $code SET t.n = $n RETURNING t.n AS n";
    let out = k.execute_table(NOW_MS, set, table(&[("a", 10), ("c", 30)])).expect("they are right");
    assert_eq!((out.columns, out.summary.set), (vec!["n".to_owned()], 2));
    assert_eq!(out.rows, [[Value::Int(10)], [Value::Int(30)]]);
    let want = table(&[("a", 10), ("b", 2), ("c", 30)]).rows;
    assert_eq!(codes(&k), want);
}

#[test]
fn a_later_row_sees_an_earlier_one() {
    let k = kernel();
    let text = "SPAWN t: Task {code = $code, n = $n} SET t.n = $n + 1";
    k.execute_table(NOW_MS, text, table(&[("a", 1), ("b", 2)])).expect("names are bound anew in each row");
    assert_eq!(codes(&k), table(&[("a", 2), ("b", 3)]).rows);
    let e = k.execute_table(NOW_MS, SPAWN, table(&[("c", 1), ("c", 2)])).expect_err("the code is unique");
    assert!(matches!(&e, KernelError::Row(1, why) if matches!(**why, KernelError::Violation(_))), "{e}");
}

#[test]
fn one_bad_row_undoes_all_and_is_named() {
    let k = kernel();
    let e = k.execute_table(NOW_MS, SPAWN, table(&[("a", 1), ("b", -2), ("c", 3)])).expect_err("below the range");
    assert!(matches!(e, KernelError::Row(1, _)) && e.to_string().contains("range"), "{e}");
    assert!(codes(&k).is_empty());
    assert_eq!(k.head(), 0);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_done() {
    let k = kernel();
    let mut short = table(&[("a", 1), ("b", 2)]);
    short.rows[1].pop();
    let refused = |text: &str, t: Table| k.execute_table(NOW_MS, text, t).expect_err("it is refused").to_string();
    assert!(refused(SPAWN, short).starts_with("row 1: 1 values for 2 names"));
    assert!(refused("SPAWN Task {code = $other, n = 1}", table(&[("a", 1)])).contains("other"));
    for text in
        ["MATCH t: Task RETURN t.n", "BEGIN; SPAWN Task {code = $code, n = $n}; COMMIT", "SPAWN Tusk {code = $code}"]
    {
        refused(text, table(&[("a", 1)]));
    }
    assert!(codes(&k).is_empty());
}
