//! Runs the language cases in `tests/cases/*.case` against a kernel in memory.
//!
//! A case file begins with an optional ontology between `ontology` and `end` lines, used by all cases after it. A case:
//!
//! ```text
//! case <title>
//! <script lines>
//! param <name> = <literal>      (any number, before the script's result)
//! => <column> | <column>        the header; then one line per row, values as the language writes them
//! <value> | <value>
//! end
//! ```
//! Instead of `=>` a case may end with `error <substring of the message>` or `ok`. Every case starts with an empty kernel;
//! `given` … `end` before the cases is a script that runs first in each. Each kernel has two system records; see `held`.

use mew_kernel::{Kernel, KernelError, Params, Take, Tx};
use mew_lang::{parse_ontology, parse_script, render, system};
use mew_model::ontology::Type;
use mew_model::{Draft, Hlc, Value, name};
use mew_store::{MemDisk, Options, Store};
use std::ops::ControlFlow;
use std::sync::Arc;

const NOW_MS: u64 = 1_700_000_000_000;

fn kernel(ontology: &str) -> Kernel {
    let o = parse_ontology(ontology).unwrap_or_else(|d| panic!("{}", render("ontology", ontology, &d, false)));
    let options = Options { kernel_id: "test.k".into(), new_incarnation: "i1".into(), segment_bytes: 1 << 20 };
    let (store, _) = Store::open(Arc::new(MemDisk::new()), Arc::new(o), options).expect("an empty store opens");
    let k = Kernel::new(store);
    k.keep_records(held);
    k
}

/// Two entities are held.
fn held(_: &Tx<'_>, ty: &Type, take: Take<'_>) -> Result<ControlFlow<()>, KernelError> {
    let records = [("task-2", "MissingEnd", 2_000), ("task-9", "NotOwner", 1_000)];
    for (id, reason, at) in records.into_iter().filter(|_| ty.name == system::HELD) {
        let mut d = Draft::new(ty.number, format!("held/{id}"));
        d.time = Hlc::from_ms(at);
        d.set(name::number("sync_id"), Value::String(id.into()));
        d.set(name::number("reason"), Value::String(reason.into()));
        d.set(name::number("since"), Value::Timestamp(at as i64));
        if take(d)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn literal(text: &str) -> Value {
    let script = format!("MATCH x: any RETURN {text}");
    let parsed = parse_script(&script).expect("a literal");
    let mew_lang::ast::StatementKind::Query(_, r) = &parsed[0].kind else { panic!("a literal: {text}") };
    match &r.columns[0].0.kind {
        mew_lang::ast::ExprKind::Value(v) => v.clone(),
        mew_lang::ast::ExprKind::Reference(r) => Value::Id(r.clone()),
        other => panic!("not a literal: {other:?}"),
    }
}

struct File {
    ontology: String,
    given: String,
    cases: Vec<Case>,
}

struct Case {
    title: String,
    script: String,
    params: Params,
    expect: Expect,
}

enum Expect {
    Ok,
    Error(String),
    Table(Vec<Vec<String>>),
}

fn read(text: &str) -> File {
    let mut f = File { ontology: String::new(), given: String::new(), cases: Vec::new() };
    let mut lines = text.lines();
    let cells = |l: &str| -> Vec<String> { l.split(" | ").map(|c| c.trim().to_owned()).collect() };
    while let Some(line) = lines.next() {
        match line.trim() {
            "ontology" => f.ontology = lines.by_ref().take_while(|l| l.trim() != "end").collect::<Vec<_>>().join("\n"),
            "given" => f.given = lines.by_ref().take_while(|l| l.trim() != "end").collect::<Vec<_>>().join("\n"),
            l if l.starts_with("case ") => {
                let mut c =
                    Case { title: l[5..].to_owned(), script: String::new(), params: Params::new(), expect: Expect::Ok };
                for l in lines.by_ref() {
                    let t = l.trim();
                    if let Expect::Table(rows) = &mut c.expect {
                        if t == "end" {
                            break;
                        }
                        rows.push(cells(t));
                    } else if let Some(p) = t.strip_prefix("param ") {
                        let (name, v) = p.split_once('=').expect("param name = literal");
                        c.params.insert(name.trim().to_owned(), literal(v.trim()));
                    } else if let Some(h) = t.strip_prefix("=>") {
                        c.expect = Expect::Table(vec![cells(h)]);
                    } else if let Some(e) = t.strip_prefix("error ") {
                        c.expect = Expect::Error(e.to_owned());
                        break;
                    } else if t == "ok" {
                        break;
                    } else {
                        c.script.push_str(l);
                        c.script.push('\n');
                    }
                }
                f.cases.push(c);
            }
            l if l.is_empty() || l.starts_with('#') => {}
            l => panic!("unexpected line: {l}"),
        }
    }
    f
}

fn check(f: &File, c: &Case) -> Result<(), String> {
    let k = kernel(&f.ontology);
    k.execute(NOW_MS, &f.given, &Params::new()).map_err(|e| format!("given: {e}"))?;
    let got = k.execute(NOW_MS, &c.script, &c.params);
    match (&c.expect, got) {
        (Expect::Ok, Ok(_)) => Ok(()),
        (Expect::Error(want), Err(e)) if e.to_string().contains(want.as_str()) => Ok(()),
        (Expect::Error(want), Err(e)) => Err(format!("expected an error with {want:?}, got: {e}")),
        (Expect::Error(want), Ok(_)) => Err(format!("expected an error with {want:?}, it worked")),
        (_, Err(e)) => Err(format!("failed: {e}")),
        (Expect::Table(want), Ok(out)) => {
            let rows = out.rows.iter().map(|r| r.iter().map(Value::to_string).collect());
            let got: Vec<Vec<String>> = std::iter::once(out.columns.clone()).chain(rows).collect();
            if *want == got { Ok(()) } else { Err(format!("expected {want:#?}\ngot {got:#?}")) }
        }
    }
}

#[test]
fn cases() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let (mut count, mut bad) = (0, Vec::new());
    let mut files: Vec<_> = std::fs::read_dir(&dir).expect("the cases").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    for path in files {
        let f = read(&std::fs::read_to_string(&path).expect("a case file"));
        for c in &f.cases {
            count += 1;
            if let Err(why) = check(&f, c) {
                bad.push(format!("{} «{}»: {why}", path.file_name().unwrap_or_default().to_string_lossy(), c.title));
            }
        }
    }
    assert!(bad.is_empty(), "{} of {count} cases failed:\n{}", bad.len(), bad.join("\n"));
    assert!(count >= 80, "only {count} cases were found");
}
