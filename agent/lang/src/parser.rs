//! Tokens → syntax tree: recursive descent for statements; expressions are in [`expressions`].

mod expressions;

use crate::ast::*;
use crate::diagnostic::{Diagnostic, MAX_DIAGNOSTICS, Span, nearest};
use crate::keywords::{KEYWORDS, STATEMENTS, is_keyword};
use crate::lexer::{Token, lex};

/// An expression and the name that AS gives it.
type Column = (Expr, Option<Name>);

/// Nesting beyond this is refused: a hostile text must not exhaust the stack.
const MAX_DEPTH: usize = 64;
/// Operators and arguments of one statement: a chain of them is a tree as deep as the chain is long. A list after IN is not.
const MAX_OPERATORS: usize = 200;

pub type Parsed<T> = Result<T, Diagnostic>;

/// All statements, or everything that is wrong with the text.
pub fn parse_script(src: &str) -> Result<Vec<Statement>, Vec<Diagnostic>> {
    let mut p = Parser::new(src)?;
    let mut out = Vec::new();
    let mut bad = Vec::new();
    while p.peek().is_some() && bad.len() < MAX_DIAGNOSTICS {
        if p.sym(";") {
            continue;
        }
        match p.statement() {
            Ok(s) => out.push(s),
            Err(d) => {
                bad.push(d);
                p.skip_to_statement();
            }
        }
    }
    if bad.is_empty() { Ok(out) } else { Err(bad) }
}

pub(crate) struct Parser<'s> {
    src: &'s str,
    tokens: Vec<(Token, Span)>,
    at: usize,
    depth: usize,
    operators: usize,
}

impl<'s> Parser<'s> {
    pub(crate) fn new(src: &'s str) -> Result<Self, Vec<Diagnostic>> {
        let (tokens, bad) = lex(src);
        if bad.is_empty() { Ok(Parser { src, tokens, at: 0, depth: 0, operators: 0 }) } else { Err(bad) }
    }

    pub(crate) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|t| &t.0)
    }

    pub(crate) fn span(&self) -> Span {
        self.tokens.get(self.at).map_or(self.src.len()..self.src.len(), |t| t.1.clone())
    }

    fn since(&self, from: usize) -> Span {
        from..self.at.checked_sub(1).and_then(|i| self.tokens.get(i)).map_or(from, |t| t.1.end.max(from))
    }

    pub(crate) fn sym(&mut self, s: &str) -> bool {
        let hit = matches!(self.peek(), Some(Token::Sym(t)) if *t == s);
        self.at += usize::from(hit);
        hit
    }

    pub(crate) fn is_keyword(&self, k: &str) -> bool {
        matches!(self.peek(), Some(Token::Ident(s)) if s.eq_ignore_ascii_case(k))
    }

    pub(crate) fn keyword(&mut self, k: &str) -> bool {
        let hit = self.is_keyword(k);
        self.at += usize::from(hit);
        hit
    }

    fn found(&self) -> String {
        match self.peek() {
            None => "the text ends here".into(),
            Some(_) => format!("found `{}`", &self.src[self.span()]),
        }
    }

    pub(crate) fn expected(&self, what: &str) -> Diagnostic {
        Diagnostic::new(self.span(), format!("expected {what}")).label(self.found())
    }

    pub(crate) fn expect_sym(&mut self, s: &str) -> Parsed<()> {
        if self.sym(s) { Ok(()) } else { Err(self.expected(&format!("`{s}`"))) }
    }

    pub(crate) fn expect_keyword(&mut self, k: &str) -> Parsed<()> {
        if self.keyword(k) {
            return Ok(());
        }
        let near = match self.peek() {
            Some(Token::Ident(s)) => nearest(s, [k]),
            _ => None,
        };
        Err(self.expected(&format!("`{k}`")).suggest(near))
    }

    /// An identifier that is no keyword.
    pub(crate) fn name(&mut self, what: &str) -> Parsed<Name> {
        match self.peek() {
            Some(Token::Ident(s)) if !is_keyword(s) => {
                let n = Name { text: s.clone(), span: self.span() };
                self.at += 1;
                Ok(n)
            }
            Some(Token::Ident(s)) => {
                let help = format!("{} is a keyword", s.to_uppercase());
                Err(self.expected(what).help(help))
            }
            _ => Err(self.expected(what)),
        }
    }

    /// Any identifier, for places where only a name can stand: `count` and `order` are good attribute names.
    pub(crate) fn word(&mut self, what: &str) -> Parsed<Name> {
        match self.peek() {
            Some(Token::Ident(s)) => {
                let n = Name { text: s.clone(), span: self.span() };
                self.at += 1;
                Ok(n)
            }
            _ => Err(self.expected(what)),
        }
    }

    fn skip_to_statement(&mut self) {
        self.at += 1;
        while self.peek().is_some() && !STATEMENTS.iter().any(|k| self.is_keyword(k)) && !self.sym(";") {
            self.at += 1;
        }
    }

    /// What follows is no longer part of the same tree.
    pub(crate) fn begin_tree(&mut self) {
        self.operators = 0;
    }

    fn statement(&mut self) -> Parsed<Statement> {
        self.begin_tree();
        let from = self.span().start;
        let kind = if self.keyword("BEGIN") {
            StatementKind::Begin
        } else if self.keyword("COMMIT") {
            StatementKind::Commit
        } else if self.keyword("ROLLBACK") {
            StatementKind::Rollback
        } else if self.keyword("MATCH") {
            let m = self.matching()?;
            if self.is_keyword("RETURN") || self.is_keyword("ORDER") {
                StatementKind::Query(m, self.returns()?)
            } else {
                let actions = self.actions()?;
                if actions.is_empty() {
                    return Err(self
                        .expected("`RETURN`, or `SET`, `KILL`, `LINK`, `UNLINK`, `SPAWN`")
                        .suggest(match self.peek() {
                            Some(Token::Ident(s)) => nearest(s, ["RETURN", "WHERE", "SET", "KILL", "LINK", "UNLINK"]),
                            _ => None,
                        })
                        .help("a MATCH says what it is for: RETURN something, or change what it found"));
                }
                StatementKind::Mutate(Some(m), actions, self.returning()?)
            }
        } else {
            match self.action()? {
                Some(a) => StatementKind::Mutate(None, vec![a], self.returning()?),
                None => {
                    let near = match self.peek() {
                        Some(Token::Ident(s)) => nearest(s, STATEMENTS.iter().copied()),
                        _ => None,
                    };
                    return Err(self
                        .expected("a statement")
                        .suggest(near)
                        .help(format!("statements begin with {}", STATEMENTS.join(", "))));
                }
            }
        };
        if self.peek().is_some() && !self.sym(";") && !STATEMENTS.iter().any(|k| self.is_keyword(k)) {
            let near = match self.peek() {
                Some(Token::Ident(s)) => nearest(s, KEYWORDS.iter().copied()),
                _ => None,
            };
            return Err(Diagnostic::new(self.span(), "unexpected text after the statement")
                .label(self.found())
                .suggest(near));
        }
        Ok(Statement { span: self.since(from), kind })
    }

    fn actions(&mut self) -> Parsed<Vec<Action>> {
        let mut out = Vec::new();
        while let Some(a) = self.action()? {
            out.push(a);
        }
        Ok(out)
    }

    fn action(&mut self) -> Parsed<Option<Action>> {
        Ok(Some(if self.keyword("SPAWN") {
            self.spawn()?
        } else if self.keyword("SET") {
            self.set()?
        } else if self.keyword("KILL") {
            let target = self.target()?;
            let mode = if self.keyword("CASCADE") {
                KillMode::Cascade
            } else if self.keyword("NO") {
                self.expect_keyword("CASCADE")?;
                KillMode::NoCascade
            } else {
                KillMode::Declared
            };
            Action::Kill { target, mode }
        } else if self.keyword("LINK") {
            self.link()?
        } else if self.keyword("UNLINK") {
            self.unlink()?
        } else {
            return Ok(None);
        }))
    }

    fn spawn(&mut self) -> Parsed<Action> {
        let first = self.word("a type or `variable: Type`")?;
        let (mut var, ty) = if self.sym(":") { (Some(first), self.word("a type")?) } else { (None, first) };
        let attrs = self.braces()?;
        if var.is_none() && self.keyword("AS") {
            var = Some(self.name("a variable")?);
        }
        Ok(Action::Spawn { var, ty, attrs })
    }

    fn set(&mut self) -> Parsed<Action> {
        let target = self.target()?;
        if self.sym(".") {
            let attr = self.word("an attribute")?;
            self.expect_sym("=")?;
            let e = self.expr()?;
            return Ok(Action::Set { target, attrs: vec![(attr, e)] });
        }
        if !matches!(self.peek(), Some(Token::Sym("{"))) {
            return Err(self.expected("`.attribute = value` or `{attribute = value, …}`"));
        }
        Ok(Action::Set { target, attrs: self.braces()? })
    }

    fn link(&mut self) -> Parsed<Action> {
        let if_not_exists = self.keyword("IF");
        if if_not_exists {
            self.expect_keyword("NOT")?;
            self.expect_keyword("EXISTS")?;
        }
        let ty = self.word("an edge type")?;
        self.expect_sym("(")?;
        let mut targets = vec![self.target()?];
        while self.sym(",") {
            targets.push(self.target()?);
        }
        self.expect_sym(")")?;
        let var = if self.keyword("AS") { Some(self.name("a variable")?) } else { None };
        let attrs = self.braces()?;
        Ok(Action::Link { ty, targets, if_not_exists, var, attrs })
    }

    fn unlink(&mut self) -> Parsed<Action> {
        let is_call = matches!(self.tokens.get(self.at + 1), Some((Token::Sym("("), _)));
        if !is_call {
            return Ok(Action::Unlink { target: UnlinkTarget::One(self.target()?) });
        }
        let ty = self.word("an edge type")?;
        self.expect_sym("(")?;
        let mut ends = Vec::new();
        loop {
            let wild = matches!(self.peek(), Some(Token::Ident(s)) if s == "_");
            ends.push(if wild {
                self.at += 1;
                None
            } else {
                Some(self.target()?)
            });
            if !self.sym(",") {
                break;
            }
        }
        self.expect_sym(")")?;
        Ok(Action::Unlink { target: UnlinkTarget::Between { ty, ends } })
    }

    fn target(&mut self) -> Parsed<Target> {
        let span = self.span();
        if let Some(Token::Reference(r)) = self.peek() {
            let n = Name { text: r.clone(), span };
            self.at += 1;
            return Ok(Target::Reference(n));
        }
        if self.sym("{") {
            self.expect_keyword("MATCH")?;
            let m = self.nested(Self::matching)?;
            let which = if self.keyword("RETURN") { Some(self.name("the variable to return")?) } else { None };
            self.expect_sym("}")?;
            return Ok(Target::Match(Box::new(m), which, self.since(span.start)));
        }
        self.name("a variable, an #id or {MATCH …}").map(Target::Var)
    }

    /// `{a = 1, b = 2}`, or nothing.
    fn braces(&mut self) -> Parsed<Vec<(Name, Expr)>> {
        let mut out = Vec::new();
        if !self.sym("{") {
            return Ok(out);
        }
        while !self.sym("}") {
            let a = self.word("an attribute")?;
            if !self.sym("=") {
                let colon = matches!(self.peek(), Some(Token::Sym(":")));
                return Err(self.expected("`=`").suggest(colon.then_some(" =")));
            }
            out.push((a, self.expr()?));
            if !self.sym(",") && !matches!(self.peek(), Some(Token::Sym("}"))) {
                return Err(self.expected("`,` or `}`"));
            }
        }
        Ok(out)
    }

    /// Everything after MATCH up to RETURN or an action.
    pub(crate) fn matching(&mut self) -> Parsed<Match> {
        let mut patterns = vec![self.pattern_item()?];
        while self.sym(",") {
            patterns.push(self.pattern_item()?);
        }
        let filter = if self.keyword("WHERE") { Some(self.expr()?) } else { None };
        Ok(Match { patterns, filter })
    }

    fn pattern_item(&mut self) -> Parsed<PatternItem> {
        let first = match self.tokens.get(self.at + 1) {
            // `order(a, b)` is an edge pattern, whatever else the word may be.
            Some((Token::Sym("("), _)) => self.word("an edge type")?,
            _ => self.name("a pattern such as `t: Task` or `edge(a, b)`")?,
        };
        if self.sym(":") {
            return Ok(PatternItem::Node { var: first, ty: self.word("a type")? });
        }
        if !self.sym("(") {
            return Err(self
                .expected("`:` or `(`")
                .help("write `variable: Type` for a node, `edge(a, b)` for an edge"));
        }
        let mut args = vec![self.name("a variable")?];
        while self.sym(",") {
            args.push(self.name("a variable")?);
        }
        self.expect_sym(")")?;
        let alias = if self.keyword("AS") { Some(self.name("a variable")?) } else { None };
        Ok(PatternItem::Edge { ty: first, args, alias })
    }

    fn returning(&mut self) -> Parsed<Option<Return>> {
        let span = self.span();
        if !self.keyword("RETURNING") {
            return Ok(None);
        }
        let (distinct, columns) = self.columns()?;
        Ok(Some(Return { distinct, columns, order: vec![], limit: None, offset: 0, span }))
    }

    /// `RETURN … ORDER BY … LIMIT … OFFSET …`; ORDER BY may also stand first.
    fn returns(&mut self) -> Parsed<Return> {
        let span = self.span();
        let mut order = self.order()?;
        self.expect_keyword("RETURN")?;
        let (distinct, columns) = self.columns()?;
        if order.is_empty() {
            order = self.order()?;
        }
        let (mut limit, mut offset) = (None, 0);
        loop {
            if self.keyword("LIMIT") {
                limit = Some(self.count("LIMIT")?);
            } else if self.keyword("OFFSET") {
                offset = self.count("OFFSET")?;
            } else {
                return Ok(Return { distinct, columns, order, limit, offset, span });
            }
        }
    }

    fn columns(&mut self) -> Parsed<(bool, Vec<Column>)> {
        let distinct = self.keyword("DISTINCT");
        if self.sym("*") {
            return Ok((distinct, Vec::new()));
        }
        let mut out = Vec::new();
        loop {
            let e = self.expr()?;
            let alias = if self.keyword("AS") { Some(self.word("a column name")?) } else { None };
            out.push((e, alias));
            if !self.sym(",") {
                return Ok((distinct, out));
            }
        }
    }

    fn order(&mut self) -> Parsed<Vec<(Expr, bool)>> {
        let mut out = Vec::new();
        if !self.keyword("ORDER") {
            return Ok(out);
        }
        self.expect_keyword("BY")?;
        loop {
            let e = self.expr()?;
            let descending = self.keyword("DESC");
            if !descending {
                self.keyword("ASC");
            }
            out.push((e, descending));
            if !self.sym(",") {
                return Ok(out);
            }
        }
    }

    fn count(&mut self, what: &str) -> Parsed<u64> {
        match self.peek() {
            Some(Token::Int(n)) if *n >= 0 => {
                let n = *n as u64;
                self.at += 1;
                Ok(n)
            }
            _ => Err(self.expected(&format!("a non-negative whole number after {what}"))),
        }
    }
}
