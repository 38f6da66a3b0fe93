//! The ontology language: node and edge types with attributes and modifiers.

use crate::ast::{Expr, ExprKind, Name, Op};
use crate::diagnostic::{Diagnostic, MAX_DIAGNOSTICS, nearest};
use crate::lexer::Token;
use crate::parser::{Parsed, Parser};
use crate::system;
use mew_model::ontology::{Attribute, Bound, Builder, Declared, DefaultValue, Edge, OnKill, Param};
use mew_model::value::Kind;
use mew_model::{Ontology, Value, name};

const MODIFIERS: [&str; 9] = ["required", "unique", "indexed", "in", "length", ">=", "<=", ">", "<"];

/// Reads an ontology, or says everything that is wrong with it.
pub fn parse_ontology(src: &str) -> Result<Ontology, Vec<Diagnostic>> {
    let mut p = Parser::new(src)?;
    let (builder, places) = file(&mut p).map_err(|d| vec![d])?;
    builder.build().map_err(|problems| {
        let span_of = |about: &str| {
            let ty = about.split('.').next().unwrap_or(about);
            let hit = places.iter().find(|(n, _)| n == about).or_else(|| places.iter().rev().find(|(n, _)| n == ty));
            hit.map_or(0..0, |(_, s)| s.clone())
        };
        problems.into_iter().take(MAX_DIAGNOSTICS).map(|p| Diagnostic::new(span_of(&p.about), p.message)).collect()
    })
}

type Places = Vec<(String, std::ops::Range<usize>)>;

fn file(p: &mut Parser<'_>) -> Parsed<(Builder, Places)> {
    let mut b = Builder { name: String::new(), declared: Vec::new() };
    let mut places = Vec::new();
    let braced = p.keyword("ontology");
    if braced {
        b.name = p.name("the name of the ontology")?.text;
        p.expect_sym("{")?;
    }
    loop {
        if p.keyword("node") {
            let d = node(p, &mut places)?;
            b.declared.push(d);
        } else if p.keyword("edge") {
            let d = edge(p, &mut places)?;
            b.declared.push(d);
        } else if (braced && p.sym("}")) || (p.peek().is_none() && !braced) {
            break;
        } else {
            let near = match p.peek() {
                Some(Token::Ident(s)) => nearest(s, ["node", "edge", "ontology"]),
                _ => None,
            };
            return Err(p.expected("`node` or `edge`").suggest(near));
        }
    }
    match p.peek() {
        None => Ok((b, places)),
        Some(_) => Err(p.expected("the end of the ontology")),
    }
}

fn type_name(p: &mut Parser<'_>, places: &mut Places) -> Parsed<Name> {
    let n = p.word("a type name")?;
    if system::is_reserved(&n.text) {
        return Err(Diagnostic::new(n.span, format!("{}: names that begin with _ are reserved", n.text)));
    }
    if let Some(t) = system::by_number(name::number(&n.text)) {
        let message = format!("type {} has the same number as the built-in {}; rename it", n.text, t.name);
        return Err(Diagnostic::new(n.span, message));
    }
    if Kind::parse(&n.text).is_some() || n.text.eq_ignore_ascii_case("any") {
        return Err(Diagnostic::new(n.span, format!("{} is a built-in type", n.text)));
    }
    places.push((n.text.clone(), n.span.clone()));
    Ok(n)
}

fn node(p: &mut Parser<'_>, places: &mut Places) -> Parsed<Declared> {
    let n = type_name(p, places)?;
    let mut parents = Vec::new();
    if p.sym(":") {
        loop {
            parents.push(p.word("a parent type")?.text);
            if !p.sym(",") {
                break;
            }
        }
    }
    let attrs = attributes(p, &n.text, places)?;
    Ok(Declared { name: n.text, parents, attrs, edge: None })
}

fn edge(p: &mut Parser<'_>, places: &mut Places) -> Parsed<Declared> {
    let n = type_name(p, places)?;
    p.expect_sym("(")?;
    let mut params = Vec::new();
    loop {
        let param = p.word("a parameter")?.text;
        p.expect_sym(":")?;
        let ty = p.word("a node type")?.text;
        params.push(Param { name: param, ty: (!ty.eq_ignore_ascii_case("any")).then_some(ty) });
        if !p.sym(",") {
            break;
        }
    }
    p.expect_sym(")")?;
    if params.len() != 2 {
        return Err(Diagnostic::new(
            n.span,
            format!("edge {} has {} ends; an edge joins two nodes", n.text, params.len()),
        ));
    }
    let mut e = Edge { params, on_kill_source: OnKill::Unlink, on_kill_target: OnKill::Unlink };
    if p.sym("[") {
        loop {
            let m = p.word("an edge modifier")?;
            p.expect_sym(":")?;
            let a = p.word("unlink, cascade or prevent")?;
            let what = match a.text.as_str() {
                "unlink" => OnKill::Unlink,
                "cascade" => OnKill::Cascade,
                "prevent" => OnKill::Prevent,
                _ => {
                    return Err(Diagnostic::new(a.span, format!("unknown referential action {}", a.text))
                        .suggest(nearest(&a.text, ["unlink", "cascade", "prevent"])));
                }
            };
            match m.text.as_str() {
                "on_kill_source" => e.on_kill_source = what,
                "on_kill_target" => e.on_kill_target = what,
                _ => {
                    return Err(Diagnostic::new(m.span, format!("unknown edge modifier {}", m.text))
                        .suggest(nearest(&m.text, ["on_kill_source", "on_kill_target"])));
                }
            }
            if !p.sym(",") {
                break;
            }
        }
        p.expect_sym("]")?;
    }
    let attrs = attributes(p, &n.text, places)?;
    Ok(Declared { name: n.text, parents: Vec::new(), attrs, edge: Some(e) })
}

fn attributes(p: &mut Parser<'_>, ty: &str, places: &mut Places) -> Parsed<Vec<Attribute>> {
    let mut out: Vec<Attribute> = Vec::new();
    if !p.sym("{") {
        return Ok(out);
    }
    while !p.sym("}") {
        let n = p.word("an attribute")?;
        if system::is_reserved(&n.text) {
            return Err(Diagnostic::new(n.span, format!("{}: names that begin with _ are reserved", n.text)));
        }
        if out.iter().any(|a| a.name == n.text) {
            return Err(Diagnostic::new(n.span, format!("attribute {} is declared twice", n.text)));
        }
        places.push((format!("{ty}.{}", n.text), n.span.clone()));
        out.push(attribute(p, n, ty)?);
        p.sym(",");
    }
    Ok(out)
}

fn attribute(p: &mut Parser<'_>, n: Name, ty: &str) -> Parsed<Attribute> {
    p.begin_tree();
    p.expect_sym(":")?;
    let k = p.word("a scalar type")?;
    let kind = Kind::parse(&k.text).ok_or_else(|| {
        Diagnostic::new(k.span.clone(), format!("unknown scalar type {}", k.text))
            .suggest(nearest(&k.text, Kind::ALL.iter().map(|k| k.name())))
            .help("scalar types: String, Int, Float, Bool, Timestamp, Duration, ID")
    })?;
    let nullable = p.sym("?");
    let number = name::number(&n.text);
    let mut a = Attribute {
        name: n.text.clone(),
        number,
        kind,
        nullable,
        required: false,
        unique_in: None,
        indexed_in: None,
        default: None,
        one_of: Vec::new(),
        min: None,
        max: None,
        length: None,
    };
    if p.sym("[") {
        while !p.sym("]") {
            modifier(p, &mut a, ty)?;
            if !p.sym(",") && !matches!(p.peek(), Some(Token::Sym("]"))) {
                return Err(p.expected("`,` or `]`"));
            }
        }
    }
    if a.required && nullable {
        return Err(Diagnostic::new(n.span, format!("attribute {} is required and nullable at once", a.name))
            .help("leave one of them out"));
    }
    if p.sym("=") {
        let e = p.expr()?;
        a.default = Some(default_value(&e, kind)?);
    }
    // Without a default nothing else could fill it, so a SPAWN that leaves it out is refused: it is required in effect.
    a.required |= !a.nullable && a.default.is_none();
    if let Some(DefaultValue::Value(v)) = &a.default {
        a.check(v.borrowed())
            .map_err(|v| Diagnostic::new(n.span, format!("the default breaks the attribute's own rules: {v}")))?;
    }
    Ok(a)
}

fn modifier(p: &mut Parser<'_>, a: &mut Attribute, ty: &str) -> Parsed<()> {
    for (sym, low, inclusive) in [(">=", true, true), ("<=", false, true), (">", true, false), ("<", false, false)] {
        if p.sym(sym) {
            let b = Bound { value: literal(p, a.kind)?, inclusive };
            *(if low { &mut a.min } else { &mut a.max }) = Some(b);
            return Ok(());
        }
    }
    if matches!(p.peek(), Some(Token::Int(_) | Token::Float(_) | Token::Sym("-"))) {
        let lo = literal(p, a.kind)?;
        p.expect_sym("..")?;
        a.min = Some(Bound { value: lo, inclusive: true });
        a.max = Some(Bound { value: literal(p, a.kind)?, inclusive: true });
        return Ok(());
    }
    if p.keyword("in") {
        p.expect_sym(":")?;
        p.expect_sym("[")?;
        let span = p.span();
        while !p.sym("]") {
            a.one_of.push(literal(p, a.kind)?);
            if !p.sym(",") && !matches!(p.peek(), Some(Token::Sym("]"))) {
                return Err(p.expected("`,` or `]`"));
            }
        }
        return if a.one_of.is_empty() { Err(Diagnostic::new(span, "an empty list allows no value")) } else { Ok(()) };
    }
    let m = p.word("a modifier")?;
    match m.text.as_str() {
        "required" => a.required = true,
        "unique" => a.unique_in = Some(name::number(ty)),
        "indexed" => {
            // Both directions are read from one index; saying one is allowed and changes nothing.
            if p.sym(":") {
                let d = p.word("asc or desc")?;
                if !["asc", "desc"].contains(&d.text.as_str()) {
                    return Err(Diagnostic::new(d.span, format!("unknown order {}", d.text))
                        .suggest(nearest(&d.text, ["asc", "desc"])));
                }
            }
            a.indexed_in = Some(name::number(ty));
        }
        "length" => {
            p.expect_sym(":")?;
            if a.kind != Kind::String {
                return Err(Diagnostic::new(m.span, format!("length is for String, {} is a {}", a.name, a.kind)));
            }
            let lo = whole(p)?;
            p.expect_sym("..")?;
            a.length = Some((lo, whole(p)?));
        }
        _ => {
            return Err(Diagnostic::new(m.span, format!("unknown modifier {}", m.text))
                .suggest(nearest(&m.text, MODIFIERS))
                .help(format!("modifiers: {}, and a range such as 0..10", MODIFIERS.join(", "))));
        }
    }
    Ok(())
}

fn whole(p: &mut Parser<'_>) -> Parsed<u32> {
    let span = p.span();
    match literal(p, Kind::Int)? {
        Value::Int(i) => u32::try_from(i).map_err(|_| Diagnostic::new(span, "expected a non-negative whole number")),
        _ => Err(Diagnostic::new(span, "expected a whole number")),
    }
}

fn literal(p: &mut Parser<'_>, kind: Kind) -> Parsed<Value> {
    let span = p.span();
    let e = p.expr()?;
    match e.kind {
        ExprKind::Value(v) if !v.is_null() => {
            v.coerce(kind).map_err(|v| Diagnostic::new(span, format!("type mismatch: expected {kind}, found {v}")))
        }
        _ => Err(Diagnostic::new(span, format!("expected a {kind} constant"))),
    }
}

/// A constant, `now()`, or `now() ± duration`.
fn default_value(e: &Expr, kind: Kind) -> Parsed<DefaultValue> {
    let is_now =
        |e: &Expr| matches!(&e.kind, ExprKind::Call(f, args) if f.text.eq_ignore_ascii_case("now") && args.is_empty());
    let wrong = || {
        Diagnostic::new(e.span.clone(), format!("the default must be a {kind} constant"))
            .help("for a Timestamp also now(), or now() plus or minus a duration")
    };
    if kind == Kind::Timestamp {
        if is_now(e) {
            return Ok(DefaultValue::Now(0));
        }
        if let ExprKind::Binary(a, op @ (Op::Add | Op::Sub), b) = &e.kind
            && is_now(a)
            && let ExprKind::Value(Value::Duration(d)) = b.kind
        {
            let offset = if *op == Op::Sub { d.checked_neg() } else { Some(d) };
            return offset.map(DefaultValue::Now).ok_or_else(wrong);
        }
    }
    match &e.kind {
        ExprKind::Value(v) if !v.is_null() => v.clone().coerce(kind).map(DefaultValue::Value).map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}
