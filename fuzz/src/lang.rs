//! The language: statements, patterns, ontologies, literals.

use crate::samples;
use mew_lang::ast::{ExprKind, StatementKind};
use mew_lang::check::{Scope, check};
use mew_lang::diagnostic::{Diagnostic, MAX_DIAGNOSTICS, Span};
use mew_lang::lexer::{Token, lex, parse_timestamp};
use mew_lang::{PatternText, parse_ontology, parse_script, render};
use mew_model::ontology::DefaultValue;
use mew_model::shape::{TypeShape, fingerprint, incompatibilities};
use mew_model::value::format_timestamp;
use mew_model::{EntityRef, Ontology, Value};
use mew_sync::shapes;
use std::fmt::Debug;

/// Each diagnostic says something and points into the text, between characters; the first can be shown.
fn points_into(text: &str, all: &[Diagnostic]) {
    assert!(!all.is_empty() && all.len() <= MAX_DIAGNOSTICS, "{} diagnostics of {text:?}", all.len());
    for d in all {
        let inside = d.span.start <= d.span.end && text.get(d.span.clone()).is_some();
        assert!(inside && !d.message.is_empty(), "{d:?} of {text:?}");
        let (line, column) = d.position(text);
        assert!((1..=text.matches('\n').count() + 1).contains(&line) && column >= 1, "{d:?} of {text:?}");
    }
    assert!(!render("text", text, &all[..1], false).is_empty());
}

/// The tokens with one space between them: another text that says the same. `None` if the text has no tokens.
fn respaced(text: &str) -> Option<String> {
    let (tokens, bad) = lex(text);
    if !bad.is_empty() {
        return None;
    }
    let mut end = 0;
    let mut out = Vec::new();
    for (token, span) in &tokens {
        assert!(end <= span.start && span.start < span.end, "tokens overlap at {span:?}: {text:?}");
        end = span.end;
        let part = text.get(span.clone()).unwrap_or_else(|| panic!("{span:?} splits a character: {text:?}"));
        let (again, bad) = lex(part);
        let alone = again.first().is_some_and(|(t, _)| t == token) && again.len() == 1 && bad.is_empty();
        assert!(alone, "{part:?} is {token:?} in {text:?}, and {again:?} {bad:?} alone");
        is_written(token);
        out.push(part);
    }
    Some(out.join(" "))
}

/// What a token stands for, written as the language writes it, is that token.
fn is_written(token: &Token) {
    let value = match token.clone() {
        Token::Str(s) => Value::String(s),
        Token::Int(i) => Value::Int(i),
        Token::Float(x) => Value::Float(x),
        Token::Timestamp(t) => Value::Timestamp(t),
        Token::Reference(r) => Value::Id(r),
        _ => return,
    };
    let (again, bad) = lex(&value.to_string());
    assert!(bad.is_empty() && again.len() == 1 && again[0].0 == *token, "{value}: {again:?}");
}

/// Without the places in the text, which are all that two texts of the same meaning may differ in.
fn unplaced(v: &impl Debug) -> Vec<u8> {
    let b = format!("{v:?}").into_bytes();
    let digits = |at: usize| b[at..].iter().take_while(|b| b.is_ascii_digit()).count();
    let (mut out, mut at) = (Vec::with_capacity(b.len()), 0);
    while at < b.len() {
        let n = digits(at);
        if n > 0 && b[at + n..].starts_with(b"..") && digits(at + n + 2) > 0 {
            out.extend_from_slice(b"..");
            at += n + 2 + digits(at + n + 2);
        } else {
            out.extend_from_slice(&b[at..at + n.max(1)]);
            at += n.max(1);
        }
    }
    out
}

fn same(a: &impl Debug, b: &impl Debug, text: &str) {
    assert!(unplaced(a) == unplaced(b), "with other spaces it means something else: {text:?}: {a:?} and {b:?}");
}

fn spans_ascend(spans: impl Iterator<Item = Span>, text: &str) {
    let mut end = 0;
    for s in spans {
        assert!(end <= s.start && s.start <= s.end && text.get(s.clone()).is_some(), "{s:?} of {text:?}");
        end = s.end;
    }
}

/// A script, checked against an ontology that has one of everything.
pub fn script(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let text = text.as_ref();
    let again = respaced(text).map(|t| parse_script(&t));
    let statements = match parse_script(text) {
        Ok(s) => s,
        Err(d) => {
            points_into(text, &d);
            assert!(again.is_none_or(|a| a.is_err()), "refused, and taken with other spaces: {text:?}");
            return;
        }
    };
    let again = again.and_then(Result::ok).unwrap_or_else(|| panic!("taken, and not with other spaces: {text:?}"));
    same(&statements, &again, text);
    spans_ascend(statements.iter().map(|s| s.span.clone()), text);
    let (mut scope, mut other) = (Scope::default(), Scope::default());
    for (s, t) in statements.iter().zip(&again) {
        match (check(samples::ontology(), &mut scope, s), check(samples::ontology(), &mut other, t)) {
            (Ok(p), Ok(q)) => assert!(p == q || unplaced(&p) == unplaced(&q), "{text:?}: {p:?} and {q:?}"),
            (Err(d), Err(_)) => return points_into(text, &[d]),
            (p, q) => panic!("with other spaces it means something else: {text:?}: {p:?} and {q:?}"),
        }
    }
}

/// The pattern of a Sync, as it comes from a manifest or from a peer.
pub fn pattern(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let text = text.as_ref();
    let o = samples::ontology();
    let parsed = match PatternText::parse(text) {
        Ok(p) => p,
        Err(d) => return points_into(text, &d),
    };
    let again = respaced(text).and_then(|t| PatternText::parse(&t).ok());
    same(&Some(&parsed), &again.as_ref(), text);
    let checked = match parsed.check(o) {
        Ok(p) => p,
        Err(d) => return points_into(text, &[d]),
    };
    assert_eq!(checked.types.is_none(), parsed.type_name.is_none(), "{text:?}");
    for bytes in samples::matched() {
        let e = EntityRef::validate(bytes).expect("a sample");
        let matches = checked.matches(&e, o);
        assert!(!matches || checked.types.as_ref().is_none_or(|t| t.contains(&e.ty)), "{text:?} matches {e:?}");
        let mut dead = e.to_draft();
        dead.deleted = true;
        let dead = dead.encode();
        assert!(!checked.matches(&EntityRef::read(&dead).expect("a sample"), o), "{text:?} matches the dead");
    }
}

/// An ontology. It keeps what it says in another spacing and on the wire, and fits itself.
pub fn ontology(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let text = text.as_ref();
    let again = respaced(text).map(|t| parse_ontology(&t));
    let o = match parse_ontology(text) {
        Ok(o) => o,
        Err(d) => {
            points_into(text, &d);
            assert!(again.is_none_or(|a| a.is_err()), "refused, and taken with other spaces: {text:?}");
            return;
        }
    };
    let again = again.and_then(Result::ok).unwrap_or_else(|| panic!("taken, and not with other spaces: {text:?}"));
    assert!(format!("{o:?}") == format!("{again:?}"), "with other spaces it means something else: {text:?}");
    assert!(o.refused_changes(&again).is_empty(), "{text:?}");
    // A kernel that runs takes it only if it takes nothing away.
    let _ = samples::ontology().refused_changes(&o);
    is_consistent(&o, text);
}

fn is_consistent(o: &Ontology, text: &str) {
    for t in o.types() {
        assert!(t.lineage.contains(&t.number) && o.by_number(t.number).is_some_and(|x| x.name == t.name), "{text:?}");
        assert!(o.with_subtypes(t.number).contains(&t.number), "{text:?}");
        for a in t.attrs.values() {
            assert_eq!(o.attribute_name(a.number), Some(a.name.as_str()), "{text:?}");
            if let Some(d) = &a.default {
                let v = d.evaluate(samples::NOW_MS);
                // What is computed from the clock may be outside of a range; a constant may not.
                let now = matches!(d, DefaultValue::Now(_));
                assert!(now || a.check(v.borrowed()).is_ok(), "the default of {}.{}: {text:?}", t.name, a.name);
            }
        }
    }
    let own: Vec<TypeShape> = o.types().map(TypeShape::of).collect();
    let wrong = incompatibilities(&own, &own);
    assert!(wrong.is_empty(), "it does not fit itself: {wrong:?}: {text:?}");
    let numbers = o.types().map(|t| t.number).collect();
    let told: Vec<TypeShape> = shapes::of_types(o, &numbers).iter().map(shapes::from_wire).collect();
    assert_eq!(told, own, "{text:?}");
    assert_eq!(fingerprint(&told), fingerprint(&own));
}

/// A time. What is read can be written, and is then read as the same.
pub fn timestamp(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(ms) = parse_timestamp(&text) {
        let written = format_timestamp(ms);
        assert_eq!(parse_timestamp(&written), Some(ms), "{text:?} is written as {written:?}");
        // Without a zone it is UTC.
        assert_eq!(parse_timestamp(written.trim_end_matches('Z')), Some(ms), "{written:?}");
    }
}

/// A value, its kind before it: as the language writes it, it can be read.
pub fn literal(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let text = || String::from_utf8_lossy(rest).into_owned();
    let number = || {
        let mut b = [0; 8];
        let n = rest.len().min(8);
        b[..n].copy_from_slice(&rest[..n]);
        i64::from_le_bytes(b)
    };
    let value = match kind % 8 {
        0 => Value::String(text()),
        1 => Value::Int(number()),
        2 => Value::Float(f64::from_bits(number() as u64)),
        3 => Value::Bool(rest.len() % 2 == 1),
        4 => Value::Timestamp(number()),
        5 => Value::Duration(number()),
        6 => Value::Id(text()),
        _ => Value::Null,
    };
    let written = value.to_string();
    let readable = match value {
        Value::Float(x) => x.is_finite(),
        // The language has the years that have four digits.
        Value::Timestamp(t) => parse_timestamp(&format_timestamp(t)).is_some(),
        _ => true,
    };
    let script = format!("MATCH x: any RETURN {written}");
    let Ok(statements) = parse_script(&script) else {
        assert!(!readable, "{script}");
        return;
    };
    let [s] = statements.as_slice() else { panic!("{script}: {statements:?}") };
    let StatementKind::Query(_, r) = &s.kind else { panic!("{script}: {s:?}") };
    let [(e, None)] = r.columns.as_slice() else { panic!("{script}: {r:?}") };
    let read = match &e.kind {
        ExprKind::Value(v) => v.clone(),
        ExprKind::Reference(r) => Value::Id(r.clone()),
        other => {
            assert!(!readable, "{script}: {other:?}");
            return;
        }
    };
    assert_eq!(read, value, "{script}");
}
