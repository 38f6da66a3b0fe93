//! What is suggested for a name that is not known: a name that can stand there, or how to make it known.

use mew_lang::check::{Scope, check};
use mew_lang::{Diagnostic, parse_ontology, parse_script};

/// Why the script is refused, if it is.
fn refusal(script: &str) -> Option<Diagnostic> {
    let o = parse_ontology("node Task { n: Int? } edge next(a: Task, b: Task)").expect("the ontology is right");
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
