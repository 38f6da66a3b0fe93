//! What is suggested for a name that is not known: a name that can stand there, or how to make it known.

use mew_lang::check::{Scope, check};
use mew_lang::{Diagnostic, PatternText, parse_ontology, parse_script};
use mew_model::Ontology;

fn ontology() -> Ontology {
    parse_ontology("node Task { n: Int?, told: ID? } edge next(a: Task, b: Task)").expect("the ontology is right")
}

/// Why the script is refused, if it is.
fn refusal(script: &str) -> Option<Diagnostic> {
    let o = ontology();
    let mut scope = Scope::default();
    let statements = parse_script(script).expect("it is a script");
    statements.iter().find_map(|s| check(&o, &mut scope, s).err())
}

fn refused(script: &str) -> Diagnostic {
    refusal(script).unwrap_or_else(|| panic!("it is taken: {script}"))
}

#[test]
fn what_has_no_name_is_not_suggested() {
    let unnamed = [
        ("SPAWN Task {n = 1} RETURNING c._id", "write c: Task"),
        ("SPAWN Task {n = 1} RETURNING c", "write c: Task"),
        ("MATCH _: Task RETURN c._id", "write c: Task"),
        ("MATCH _: any RETURN c._id", "write c: any"),
        ("MATCH t: Task, u: Task LINK next(t, u) RETURNING e._id", "write next(…) AS e"),
        ("MATCH _: Task KILL t", "bind it with MATCH or SPAWN"),
    ];
    for (script, help) in unnamed {
        let d = refused(script);
        assert!(d.message.starts_with("unknown variable"), "{script}: {}", d.message);
        assert_eq!(d.suggestion, None, "{script}");
        assert!(d.help.as_deref().is_some_and(|h| h.contains(help)), "{script}: {:?}", d.help);
    }
    // As the help says.
    for script in
        ["SPAWN c: Task {n = 1} RETURNING c._id", "MATCH t: Task, u: Task LINK next(t, u) AS e RETURNING e._id"]
    {
        assert_eq!(refusal(script), None, "{script}");
    }
}

/// `?` is where `_` is used as if it were a variable.
#[test]
fn anything_is_never_read() {
    let used = [
        "MATCH _: Task RETURN ?.n",
        "MATCH _: Task RETURN ?._id",
        "MATCH _: Task RETURN ?",
        "MATCH _: Task RETURN COUNT(?)",
        "MATCH t: Task, _: Task RETURN t ORDER BY ?.n",
        "MATCH _: Task WHERE ?.n = 1 RETURN COUNT(*)",
        "MATCH _: Task WHERE ?: Task RETURN COUNT(*)",
        "MATCH _: Task, _: Task WHERE ?.n = 1 RETURN COUNT(*)",
        "MATCH t: Task WHERE exists(_: Task WHERE ?.n = t.n) RETURN t",
        "MATCH t: Task, next(_, t) RETURN ?.n",
        "MATCH next(_, _) AS _ RETURN ?._id",
        "MATCH _: Task SET ?.n = 1",
        "MATCH _: Task KILL ?",
        "MATCH next(_, _) AS _ UNLINK ?",
        "MATCH t: Task, _: Task LINK next(t, ?)",
        "MATCH t: Task SPAWN Task {n = 1} LINK next(t, ?)",
        "KILL {MATCH _: Task RETURN ?}",
        "SPAWN _: Task {n = 1} RETURNING ?.n",
        "SPAWN _: Task {n = 1}; KILL ?",
    ];
    for marked in used {
        let at = marked.find('?').expect("a mark");
        let d = refused(&marked.replace('?', "_"));
        assert!(d.message.starts_with("`_` names nothing"), "{marked}: {}", d.message);
        assert_eq!((d.span, d.suggestion), (at..at + 1, None), "{marked}");
        assert!(d.help.is_some_and(|h| h.contains("a name")), "{marked}");
    }
    for script in [
        "MATCH _: Task RETURN COUNT(*)",
        "MATCH _: Task, _: any, next(_, _) AS _ RETURN COUNT(*)",
        "MATCH t: Task WHERE exists(next(t, _)) RETURN t",
        "SPAWN _: Task {n = 1}; SPAWN Task {n = 2} AS _",
        "UNLINK next(_, _)",
    ] {
        assert_eq!(refusal(script), None, "{script}");
    }
    let o = ontology();
    let pattern = |text: &str| PatternText::parse(text).expect("it is a pattern").check(&o).err().map(|d| d.span);
    assert_eq!(pattern("_: Task WHERE _.n = 1"), Some(14..15));
    assert_eq!((pattern("_: Task"), pattern("t: Task WHERE t.n = 1")), (None, None));
}

#[test]
fn a_name_of_an_earlier_statement_is_explained() {
    let d = refused("SPAWN task: Task {n = 1}; MATCH tasks: Task RETURN task._id");
    assert_eq!((d.message.as_str(), d.suggestion), ("unknown variable task", None));
    assert!(d.help.is_some_and(|h| h.contains("MATCH it here to read it")));
}

#[test]
fn a_slip_of_a_name_that_can_stand_there_is_mended() {
    let slips = [
        ("MATCH task: Task, _: Task RETURN tsak._id", "task"),
        ("MATCH T: Task RETURN t.n", "T"),
        ("MATCH task: Task RETURN task._sycn_id", "_sync_id"),
        ("MATCH task: Task RETURN task.id", "_id"),
        ("MATCH task: Task RETURN task.m", "none"),
        // The kernel's own fields cannot be set.
        ("MATCH task: Task SET task.id = 1", "none"),
    ];
    for (script, want) in slips {
        assert_eq!(refused(script).suggestion.as_deref().unwrap_or("none"), want, "{script}");
    }
}

/// The kinds of text would let it pass, and it would find nothing.
#[test]
fn an_entity_is_not_compared_by_its_local_id() {
    let wrong = [
        "MATCH t: Task WHERE t._id = #e1_7 RETURN t",
        "MATCH t: Task WHERE #\"task-7\" != t._id RETURN t",
        "MATCH t: Task WHERE t._id IN [#e1_7] RETURN t",
        "MATCH t: Task WHERE #e1_7 IN [\"task-7\", t._id] RETURN t",
        "MATCH t: any, u: Task WHERE u.n = 1 AND t._id = u RETURN t",
        "MATCH t: Task WHERE t._id = coalesce($id?, #e1_7) KILL t",
    ];
    for script in wrong {
        let at = script.find("t._id").expect("a mark");
        let d = refused(script);
        assert_eq!((d.span, d.suggestion.as_deref()), (at..at + 5, Some("t")), "{script}: {}", d.message);
        assert!(d.help.is_some_and(|h| h.contains("`t = #<id>`")), "{script}");
    }
    for script in [
        "MATCH t: Task WHERE t = #e1_7 RETURN t",
        "MATCH t: Task WHERE t IN [#e1_7] RETURN t",
        "MATCH t: Task WHERE t._sync_id = #e1_7 RETURN t",
        "MATCH t: Task WHERE t._id = $id OR t._id = \"e1_7\" RETURN t",
        "MATCH t: Task, u: Task WHERE t._id != u._id RETURN t",
        // It may hold what an application read as an _id.
        "MATCH t: Task, u: Task WHERE t._id = u.told RETURN t",
    ] {
        assert_eq!(refusal(script), None, "{script}");
    }
    let o = ontology();
    let pattern = PatternText::parse("t: Task WHERE t._id = #e1_7").expect("it is a pattern");
    assert_eq!(pattern.check(&o).err().map(|d| d.span), Some(14..19));
}
