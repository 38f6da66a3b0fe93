//! Text → tokens. Keywords are identifiers here; the parser compares them without regard to case.

use crate::diagnostic::{Diagnostic, MAX_DIAGNOSTICS, Span};
use mew_model::value::days_from_civil;
use std::ops::RangeInclusive;

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Ident(String),
    /// `#name` or `#"any string"`.
    Reference(String),
    /// `$name`, and whether a `?` follows.
    Param(String, bool),
    Str(String),
    Int(i64),
    Float(f64),
    /// Milliseconds since 1970.
    Timestamp(i64),
    /// Operators and brackets.
    Sym(&'static str),
}

/// Longest first.
const SYMBOLS: [&str; 29] = [
    "=>", "!=", "<=", ">=", "++", "..", "??", "->", "(", ")", "{", "}", "[", "]", ",", ":", ";", ".", "=", "<", ">",
    "+", "-", "*", "/", "%", "|", "?", "::",
];

/// Names of the parameters that must be given.
pub fn parameters(text: &str) -> impl Iterator<Item = String> {
    lex(text).0.into_iter().filter_map(|(t, _)| match t {
        Token::Param(p, false) => Some(p),
        _ => None,
    })
}

pub fn lex(src: &str) -> (Vec<(Token, Span)>, Vec<Diagnostic>) {
    let mut l = Lexer { src, at: 0, out: Vec::new(), bad: Vec::new() };
    while l.at < src.len() && l.bad.len() < MAX_DIAGNOSTICS {
        l.next();
    }
    (l.out, l.bad)
}

struct Lexer<'s> {
    src: &'s str,
    at: usize,
    out: Vec<(Token, Span)>,
    bad: Vec<Diagnostic>,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.src[self.at..]
    }

    fn push(&mut self, from: usize, t: Token) {
        self.out.push((t, from..self.at));
    }

    fn wrong(&mut self, d: Diagnostic) {
        if self.bad.len() < MAX_DIAGNOSTICS {
            self.bad.push(d);
        }
    }

    fn take_while(&mut self, f: impl Fn(char) -> bool) -> String {
        let n = self.rest().find(|c| !f(c)).unwrap_or(self.rest().len());
        let s = self.rest()[..n].to_owned();
        self.at += n;
        s
    }

    fn next(&mut self) {
        let from = self.at;
        let Some(c) = self.rest().chars().next() else { return };
        if c.is_whitespace() {
            self.at += c.len_utf8();
        } else if self.rest().starts_with("--") {
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        } else if self.rest().starts_with("/*") {
            match self.rest().find("*/") {
                Some(n) => self.at += n + 2,
                None => {
                    self.at = self.src.len();
                    self.wrong(Diagnostic::new(from..from + 2, "unterminated block comment").label("opened here"));
                }
            }
        } else if c.is_ascii_alphabetic() || c == '_' {
            let word = self.take_while(|c| c.is_alphanumeric() || c == '_');
            self.push(from, Token::Ident(word));
        } else if c.is_ascii_digit() {
            self.number(from);
        } else if c == '"' {
            if let Some(s) = self.string(from) {
                self.push(from, Token::Str(s));
            }
        } else if c == '#' || c == '$' {
            self.sigil(from, c);
        } else if c == '@' {
            self.timestamp(from);
        } else if let Some(s) = SYMBOLS.iter().filter(|s| self.rest().starts_with(**s)).max_by_key(|s| s.len()) {
            self.at += s.len();
            self.push(from, Token::Sym(s));
        } else {
            self.at += c.len_utf8();
            let d = Diagnostic::new(from..self.at, format!("unexpected character {c:?}"));
            self.wrong(if c == '\'' { d.help("strings are written in double quotes") } else { d });
        }
    }

    fn number(&mut self, from: usize) {
        self.take_while(|c| c.is_ascii_digit());
        let b = self.src.as_bytes();
        let digit = |i: usize| b.get(i).is_some_and(u8::is_ascii_digit);
        let mut float = false;
        if b.get(self.at) == Some(&b'.') && digit(self.at + 1) {
            float = true;
            self.at += 1;
            self.take_while(|c| c.is_ascii_digit());
        }
        if matches!(b.get(self.at), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(b.get(self.at + 1), Some(b'+' | b'-')));
            if digit(self.at + 1 + sign) {
                float = true;
                self.at += 1 + sign;
                self.take_while(|c| c.is_ascii_digit());
            }
        }
        let text = &self.src[from..self.at];
        let token = if float {
            text.parse().ok().filter(|x: &f64| x.is_finite()).map(Token::Float)
        } else {
            text.parse().ok().map(Token::Int)
        };
        match token {
            Some(t) => self.push(from, t),
            // The one integer whose absolute value does not fit: only sensible behind a minus.
            None if text == "9223372036854775808" && self.after_unary_minus() => {
                // From the minus on, which need not be the character before.
                let minus = self.out.pop().map_or(from, |(_, span)| span.start);
                self.push(minus, Token::Int(i64::MIN));
            }
            None => self.wrong(Diagnostic::new(from..self.at, "number does not fit in 64 bits")),
        }
    }

    /// Whether a minus was just read that cannot be a subtraction.
    fn after_unary_minus(&self) -> bool {
        let n = self.out.len();
        let value = |t: &Token| match t {
            Token::Sym(s) => matches!(*s, ")" | "]" | "}"),
            Token::Ident(s) => !crate::keywords::is_keyword(s),
            _ => true,
        };
        matches!(self.out.last(), Some((Token::Sym("-"), _))) && (n < 2 || !value(&self.out[n - 2].0))
    }

    fn sigil(&mut self, from: usize, c: char) {
        self.at += 1;
        if c == '#' && self.rest().starts_with('"') {
            if let Some(s) = self.string(self.at) {
                self.push(from, Token::Reference(s));
            }
            return;
        }
        let word = self.take_while(|c| c.is_alphanumeric() || c == '_');
        if word.is_empty() {
            let what = if c == '#' { "an id, as in #task_1 or #\"any id\"" } else { "a parameter name, as in $name" };
            self.wrong(Diagnostic::new(from..self.at, format!("expected {what}")));
        } else if c == '#' {
            self.push(from, Token::Reference(word));
        } else {
            let nullable = self.rest().starts_with('?') && !self.rest().starts_with("??");
            self.at += usize::from(nullable);
            self.push(from, Token::Param(word, nullable));
        }
    }

    /// Reads from the opening quote at `self.at`.
    fn string(&mut self, from: usize) -> Option<String> {
        self.at = from + 1;
        let mut out = String::new();
        loop {
            let Some(c) = self.rest().chars().next().filter(|c| *c != '\n') else {
                self.wrong(Diagnostic::new(from..self.at, "unterminated string").help("write a line break as \\n"));
                return None;
            };
            let here = self.at;
            self.at += c.len_utf8();
            match c {
                '"' => return Some(out),
                '\\' => {
                    let e = self.rest().chars().next().unwrap_or(' ');
                    self.at += e.len_utf8().min(self.rest().len());
                    match e {
                        '"' | '\\' | '/' => out.push(e),
                        'b' => out.push('\u{8}'),
                        'f' => out.push('\u{c}'),
                        'n' => out.push('\n'),
                        'r' => out.push('\r'),
                        't' => out.push('\t'),
                        'u' => match self.unicode() {
                            Some(c) => out.push(c),
                            None => {
                                self.wrong(Diagnostic::new(here..self.at, "\\u takes four hex digits of a character"))
                            }
                        },
                        _ => self.wrong(
                            Diagnostic::new(here..self.at, "unknown escape")
                                .help("known: \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX"),
                        ),
                    }
                }
                c => out.push(c),
            }
        }
    }

    /// Four hex digits, or two such escapes that form a surrogate pair.
    fn unicode(&mut self) -> Option<char> {
        let mut four = || {
            let v = hex4(self.rest())?;
            self.at += 4;
            Some(v)
        };
        let hi = four()?;
        if !(0xd800..0xdc00).contains(&hi) {
            return char::from_u32(hi);
        }
        if !self.rest().starts_with("\\u") {
            return None;
        }
        self.at += 2;
        let lo = hex4(self.rest()).filter(|l| (0xdc00..0xe000).contains(l))?;
        self.at += 4;
        char::from_u32(0x10000 + ((hi - 0xd800) << 10) + (lo - 0xdc00))
    }

    fn timestamp(&mut self, from: usize) {
        self.at += 1;
        let text = self.take_while(|c| c.is_ascii_digit() || "-:.TZ+".contains(c));
        match parse_timestamp(&text) {
            Some(ms) => self.push(from, Token::Timestamp(ms)),
            None => self.wrong(
                Diagnostic::new(from..self.at, "not a timestamp")
                    .help("write @2026-11-21 or @2026-11-21T09:30:00.000Z"),
            ),
        }
    }
}

/// Exactly four hex digits.
fn hex4(s: &str) -> Option<u32> {
    let four = s.get(..4).filter(|f| f.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u32::from_str_radix(four, 16).ok()
}

/// The years 0 to 9999: a time that a zone moves out of these could not be written again.
const WRITABLE: RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

/// `YYYY-MM-DD[THH:MM[:SS[.mmm]][Z|±hh:mm]]` to milliseconds since 1970; without a zone it is UTC.
pub fn parse_timestamp(text: &str) -> Option<i64> {
    timestamp(text).filter(|ms| WRITABLE.contains(ms))
}

fn timestamp(text: &str) -> Option<i64> {
    fn num(s: &str, digits: usize) -> Option<(i64, &str)> {
        let part = s.get(..digits).filter(|p| p.bytes().all(|b| b.is_ascii_digit()))?;
        Some((part.parse().ok()?, &s[digits..]))
    }
    let (y, s) = num(text, 4)?;
    let (m, s) = num(s.strip_prefix('-')?, 2)?;
    let (d, mut s) = num(s.strip_prefix('-')?, 2)?;
    let mut ms = days_from_civil(y, m, d)?.checked_mul(86_400_000)?;
    let Some(time) = s.strip_prefix('T') else { return s.is_empty().then_some(ms) };
    let (h, rest) = num(time, 2)?;
    let (min, rest) = num(rest.strip_prefix(':')?, 2)?;
    s = rest;
    let mut sec = 0;
    if let Some(r) = s.strip_prefix(':') {
        (sec, s) = num(r, 2)?;
        if let Some(r) = s.strip_prefix('.') {
            let n = r.bytes().take_while(u8::is_ascii_digit).count();
            let digits: String =
                r.get(..n).filter(|_| (1..=9).contains(&n))?.chars().chain("000".chars()).take(3).collect();
            ms += digits.parse::<i64>().ok()?;
            s = &r[n..];
        }
    }
    if h > 23 || min > 59 || sec > 59 {
        return None;
    }
    ms += (h * 3600 + min * 60 + sec) * 1000;
    match s {
        "" | "Z" => Some(ms),
        zone => {
            let sign = if zone.starts_with('+') { 1 } else { -1 };
            let (zh, r) = num(zone.strip_prefix(['+', '-'])?, 2)?;
            let (zm, r) = num(r.strip_prefix(':')?, 2)?;
            (r.is_empty() && zh < 24 && zm < 60).then_some(ms - sign * (zh * 60 + zm) * 60_000)
        }
    }
}
