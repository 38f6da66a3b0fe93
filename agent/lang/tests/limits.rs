//! Texts that are small and could cost much: a hostile pattern comes from a peer, and everything else from a file that grew.

use mew_lang::check::{Scope, check};
use mew_lang::diagnostic::MAX_DIAGNOSTICS;
use mew_lang::lexer::parse_timestamp;
use mew_lang::{PatternText, parse_ontology, parse_script};
use mew_model::Ontology;
use mew_model::value::format_timestamp;

fn ontology() -> Ontology {
    parse_ontology("node T { n: Int, s: String? }").expect("the ontology is right")
}

fn first_message(text: &str) -> String {
    parse_ontology(text).expect_err("it must be refused").remove(0).message
}

/// Checked twice at each level, this would take two to the power of its depth.
#[test]
fn nested_comparisons_of_nothing_known_are_checked_once() {
    let mut filter = "null".to_owned();
    for _ in 0..50 {
        filter = format!("({filter} = 1) + null");
    }
    let pattern = PatternText::parse(&format!("t: T WHERE {filter}")).expect("it is a pattern");
    assert!(pattern.check(&ontology()).is_ok());
    let script = format!("MATCH t: T WHERE {} RETURN t", filter.replace("null", "$p"));
    let statements = parse_script(&script).expect("it is a statement");
    assert!(check(&ontology(), &mut Scope::default(), &statements[0]).is_ok());
}

/// A parameter still learns its kind from what it is compared with.
#[test]
fn a_parameter_on_the_left_has_the_kind_of_the_right() {
    let hinted = |filter: &str| {
        let s = parse_script(&format!("MATCH t: T WHERE {filter} RETURN t")).expect("it is a statement");
        format!("{:?}", check(&ontology(), &mut Scope::default(), &s[0]).expect("it fits"))
    };
    assert!(hinted("$p = t.s").contains(r#"Param("p", false, Some(String))"#));
    assert!(hinted("-$p < t.n").contains(r#"Param("p", false, Some(Int))"#));
    assert!(hinted("($p ?? $q) = t.n").contains(r#"Param("q", false, Some(Int))"#));
}

/// Compared letter by letter, two long names would take the product of their lengths.
#[test]
fn nothing_is_suggested_for_a_word_that_is_no_word() {
    let (a, b) = ("a".repeat(8_000), "b".repeat(8_000));
    let pattern = PatternText::parse(&format!("{a}: T WHERE {b}.n = 1")).expect("it is a pattern");
    let d = pattern.check(&ontology()).expect_err("there is no such variable");
    assert_eq!(d.suggestion, None);
    let near = PatternText::parse("task: T WHERE tsak.n = 1").expect("it is a pattern");
    let d = near.check(&ontology()).expect_err("there is no such variable");
    assert_eq!(d.suggestion.as_deref(), Some("task"));
}

#[test]
fn only_the_first_mistakes_are_told() {
    for text in ["~".repeat(5_000), "MATCH ".repeat(5_000)] {
        let d = parse_script(&text).expect_err("it is no script");
        assert_eq!(d.len(), MAX_DIAGNOSTICS);
    }
}

/// A list is no chain: it makes no tree deeper, however long it is.
#[test]
fn lists_and_ontologies_may_be_long() {
    let list: Vec<String> = (0..3_000).map(|n| n.to_string()).collect();
    let script = format!("MATCH t: T WHERE t.n IN [{}] RETURN t", list.join(", "));
    assert!(parse_script(&script).is_ok());
    let attributes: Vec<String> = (0..300).map(|n| format!("a{n}: Int [0..9, in: [1, 2]] = 1")).collect();
    assert!(parse_ontology(&format!("node Wide {{ {} }}", attributes.join("\n"))).is_ok());
    let chain = vec!["t.n"; 1_000].join(" + ");
    let d = parse_script(&format!("MATCH t: T RETURN {chain}")).expect_err("it is a chain");
    assert!(d[0].message.contains("operators"), "{d:?}");
    let call = format!("MATCH t: T RETURN coalesce({})", vec!["t.n"; 1_000].join(", "));
    assert!(parse_script(&call).is_err());
}

#[test]
fn inheritance_has_so_many_levels() {
    let chain = |n: usize| {
        let mut text = "node T0 {}".to_owned();
        for i in 1..n {
            text.push_str(&format!(" node T{i} : T{} {{}}", i - 1));
        }
        text
    };
    assert!(parse_ontology(&chain(60)).is_ok());
    let why = first_message(&chain(3_000));
    assert!(why.contains("levels"), "{why}");
}

/// What is read can be written, and read again.
#[test]
fn a_time_outside_of_the_years_that_have_four_digits_is_none() {
    for text in ["0000-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"] {
        assert_eq!(parse_timestamp(text), None, "{text}");
    }
    for text in ["0000-01-01", "9999-12-31T23:59:59.999Z"] {
        let ms = parse_timestamp(text).unwrap_or_else(|| panic!("{text} is a time"));
        assert_eq!(parse_timestamp(&format_timestamp(ms)), Some(ms), "{text}");
    }
}
