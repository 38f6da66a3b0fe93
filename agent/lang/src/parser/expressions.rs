//! Expressions: precedence climbing.

use super::{MAX_DEPTH, MAX_OPERATORS, Parsed, Parser};
use crate::ast::*;
use crate::diagnostic::{Diagnostic, nearest};
use crate::lexer::Token;
use mew_model::Value;

impl Parser<'_> {
    pub(super) fn nested<T>(&mut self, f: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= MAX_DEPTH {
            return Err(Diagnostic::new(self.span(), format!("nested more than {MAX_DEPTH} levels deep")));
        }
        self.depth += 1;
        let r = f(self);
        self.depth -= 1;
        r
    }

    pub(crate) fn expr(&mut self) -> Parsed<Expr> {
        self.nested(|p| p.binary(0))
    }

    fn operator(&self) -> Option<(Op, u8, usize)> {
        let next_is =
            |k: &str| matches!(self.tokens.get(self.at + 1), Some((Token::Ident(s), _)) if s.eq_ignore_ascii_case(k));
        Some(match self.peek()? {
            Token::Sym(s) => match *s {
                "??" => (Op::Coalesce, 1, 1),
                "=" => (Op::Eq, 4, 1),
                "!=" => (Op::Ne, 4, 1),
                "<" => (Op::Lt, 5, 1),
                "<=" => (Op::Le, 5, 1),
                ">" => (Op::Gt, 5, 1),
                ">=" => (Op::Ge, 5, 1),
                "+" => (Op::Add, 6, 1),
                "-" => (Op::Sub, 6, 1),
                "++" => (Op::Concat, 6, 1),
                "*" => (Op::Mul, 7, 1),
                "/" => (Op::Div, 7, 1),
                "%" => (Op::Rem, 7, 1),
                _ => return None,
            },
            Token::Ident(s) => match s.to_ascii_uppercase().as_str() {
                "OR" => (Op::Or, 2, 1),
                "AND" => (Op::And, 3, 1),
                "CONTAINS" => (Op::Contains, 5, 1),
                "STARTS" if next_is("WITH") => (Op::StartsWith, 5, 2),
                "ENDS" if next_is("WITH") => (Op::EndsWith, 5, 2),
                _ => return None,
            },
            _ => return None,
        })
    }

    /// One more of what makes a tree deeper.
    fn deepen(&mut self) -> Parsed<()> {
        self.operators += 1;
        if self.operators <= MAX_OPERATORS {
            return Ok(());
        }
        let why = format!("more than {MAX_OPERATORS} operators in one statement");
        Err(Diagnostic::new(self.span(), why).help("use IN [..] for many values"))
    }

    fn binary(&mut self, min: u8) -> Parsed<Expr> {
        let from = self.span().start;
        let mut left = self.unary()?;
        loop {
            if min <= 5 && (self.is_keyword("IS") || self.is_keyword("IN") || self.is_keyword("NOT")) {
                self.deepen()?;
                left = self.postfix(left, from)?;
                continue;
            }
            let Some((op, power, tokens)) = self.operator().filter(|o| o.1 >= min) else { return Ok(left) };
            self.deepen()?;
            self.at += tokens;
            // `??` groups to the right, everything else to the left.
            let right = self.nested(|p| p.binary(if op == Op::Coalesce { power } else { power + 1 }))?;
            left = Expr { span: self.since(from), kind: ExprKind::Binary(Box::new(left), op, Box::new(right)) };
        }
    }

    fn postfix(&mut self, left: Expr, from: usize) -> Parsed<Expr> {
        let kind = if self.keyword("IS") {
            let not = self.keyword("NOT");
            self.expect_keyword("NULL")?;
            ExprKind::IsNull(Box::new(left), !not)
        } else {
            let not = self.keyword("NOT");
            self.expect_keyword("IN")?;
            self.expect_sym("[")?;
            let mut list = Vec::new();
            while !self.sym("]") {
                list.push(self.expr()?);
                if !self.sym(",") && !matches!(self.peek(), Some(Token::Sym("]"))) {
                    return Err(self.expected("`,` or `]`"));
                }
            }
            let inside = ExprKind::In(Box::new(left), list);
            if not { ExprKind::Not(Box::new(Expr { span: self.since(from), kind: inside })) } else { inside }
        };
        Ok(Expr { span: self.since(from), kind })
    }

    fn unary(&mut self) -> Parsed<Expr> {
        let from = self.span().start;
        let kind = if self.keyword("NOT") {
            // Binds looser than comparison: `not a = b` is `not (a = b)`.
            ExprKind::Not(Box::new(self.nested(|p| p.binary(4))?))
        } else if self.sym("-") {
            match self.nested(Self::unary)? {
                Expr { kind: ExprKind::Value(Value::Int(i)), .. } => ExprKind::Value(Value::Int(i.wrapping_neg())),
                Expr { kind: ExprKind::Value(Value::Float(x)), .. } => ExprKind::Value(Value::Float(-x)),
                Expr { kind: ExprKind::Value(Value::Duration(d)), .. } => {
                    ExprKind::Value(Value::Duration(d.wrapping_neg()))
                }
                e => ExprKind::Negate(Box::new(e)),
            }
        } else {
            return self.primary();
        };
        Ok(Expr { span: self.since(from), kind })
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let span = self.span();
        let from = span.start;
        let Some(token) = self.peek().cloned() else {
            return Err(self.expected("a value"));
        };
        let simple = |v| Ok(ExprKind::Value(v));
        self.at += 1;
        let kind = match token {
            Token::Str(s) => simple(Value::String(s)),
            Token::Float(x) => simple(Value::Float(x)),
            Token::Timestamp(t) => simple(Value::Timestamp(t)),
            Token::Int(i) => self.int_or_duration(i, from),
            Token::Reference(r) => Ok(ExprKind::Reference(r)),
            Token::Param(p, nullable) => Ok(ExprKind::Param(p, nullable)),
            Token::Sym("(") => {
                let e = self.expr()?;
                self.expect_sym(")")?;
                return Ok(Expr { span: self.since(from), kind: e.kind });
            }
            Token::Ident(word) => match word.to_ascii_uppercase().as_str() {
                "TRUE" => simple(Value::Bool(true)),
                "FALSE" => simple(Value::Bool(false)),
                "NULL" => simple(Value::Null),
                "EXISTS" => {
                    self.expect_sym("(")?;
                    let m = self.nested(Self::matching)?;
                    self.expect_sym(")")?;
                    Ok(ExprKind::Exists(Box::new(m)))
                }
                "COUNT" => {
                    self.expect_sym("(")?;
                    let inner = if self.sym("*") { None } else { Some(Box::new(self.expr()?)) };
                    self.expect_sym(")")?;
                    Ok(ExprKind::Count(inner))
                }
                _ => {
                    self.at -= 1;
                    self.named()
                }
            },
            Token::Sym(_) => {
                self.at -= 1;
                Err(self
                    .expected("a value")
                    .help("a value is a literal, a variable's attribute such as t.name, or a parameter such as $name"))
            }
        }?;
        Ok(Expr { span: self.since(from), kind })
    }

    fn named(&mut self) -> Parsed<ExprKind> {
        let n = self.name("a value")?;
        if self.sym(".") {
            return Ok(ExprKind::Attr(n, self.word("an attribute")?));
        }
        if self.sym(":") {
            return Ok(ExprKind::TypeTest(n, self.word("a type")?));
        }
        if !self.sym("(") {
            return Ok(ExprKind::Var(n.text));
        }
        let mut args = Vec::new();
        while !self.sym(")") {
            self.deepen()?;
            args.push(self.expr()?);
            if !self.sym(",") && !matches!(self.peek(), Some(Token::Sym(")"))) {
                return Err(self.expected("`,` or `)`"));
            }
        }
        Ok(ExprKind::Call(n, args))
    }

    /// `5` or `5.minutes`.
    fn int_or_duration(&mut self, i: i64, from: usize) -> Parsed<ExprKind> {
        if !matches!(self.peek(), Some(Token::Sym("."))) {
            return Ok(ExprKind::Value(Value::Int(i)));
        }
        self.at += 1;
        let unit = self.name("a unit of time such as hours")?;
        match unit_ms(&unit.text) {
            Some(ms) => i
                .checked_mul(ms)
                .map(|d| ExprKind::Value(Value::Duration(d)))
                .ok_or_else(|| Diagnostic::new(self.since(from), "Duration overflow")),
            None => Err(Diagnostic::new(unit.span, format!("unknown unit of time {}", unit.text))
                .suggest(nearest(&unit.text, ["ms", "seconds", "minutes", "hours", "days", "weeks"]))
                .help("units: ms, seconds, minutes, hours, days, weeks")),
        }
    }
}

/// Milliseconds of a unit of time; singular, plural or short.
pub fn unit_ms(unit: &str) -> Option<i64> {
    Some(match unit {
        "ms" | "millisecond" | "milliseconds" => 1,
        "s" | "second" | "seconds" => 1000,
        "min" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        "day" | "days" => 86_400_000,
        "week" | "weeks" => 604_800_000,
        _ => return None,
    })
}
