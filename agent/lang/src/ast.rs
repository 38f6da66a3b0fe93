//! The syntax tree of a script. Names are unresolved and keep their spans.

use crate::diagnostic::Span;
use mew_model::Value;

#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    pub text: String,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    pub span: Span,
    pub kind: StatementKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum StatementKind {
    Begin,
    Commit,
    Rollback,
    /// `MATCH … RETURN …`
    Query(Match, Return),
    /// Mutations, once for each row of the match if there is one.
    Mutate(Option<Match>, Vec<Action>, Option<Return>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    pub patterns: Vec<PatternItem>,
    pub filter: Option<Expr>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PatternItem {
    /// `v: Type`; `any` and a variable `_` are allowed.
    Node { var: Name, ty: Name },
    /// `e(a, b) [AS v]`; `_` stands for any end.
    Edge { ty: Name, args: Vec<Name>, alias: Option<Name> },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Return {
    pub distinct: bool,
    /// `*` is an empty list.
    pub columns: Vec<(Expr, Option<Name>)>,
    pub order: Vec<(Expr, bool)>,
    pub limit: Option<u64>,
    pub offset: u64,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Spawn { var: Option<Name>, ty: Name, attrs: Vec<(Name, Expr)> },
    Set { target: Target, attrs: Vec<(Name, Expr)> },
    Kill { target: Target, mode: KillMode },
    Link { ty: Name, targets: Vec<Target>, if_not_exists: bool, var: Option<Name>, attrs: Vec<(Name, Expr)> },
    Unlink { target: UnlinkTarget },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillMode {
    /// As the edge types say.
    Declared,
    Cascade,
    NoCascade,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Var(Name),
    Reference(Name),
    /// `{ MATCH … [RETURN v] }`: the named variable, or the first one.
    Match(Box<Match>, Option<Name>, Span),
}

#[derive(Clone, Debug, PartialEq)]
pub enum UnlinkTarget {
    One(Target),
    Between { ty: Name, ends: Vec<Option<Target>> },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    pub span: Span,
    pub kind: ExprKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    Value(Value),
    Reference(String),
    Param(String, bool),
    Var(String),
    Attr(Name, Name),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    Binary(Box<Expr>, Op, Box<Expr>),
    IsNull(Box<Expr>, bool),
    In(Box<Expr>, Vec<Expr>),
    TypeTest(Name, Name),
    Exists(Box<Match>),
    Call(Name, Vec<Expr>),
    /// `COUNT(*)` or `COUNT(v)`.
    Count(Option<Box<Expr>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Or,
    And,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Add,
    Sub,
    Concat,
    Mul,
    Div,
    Rem,
    Coalesce,
    Contains,
    StartsWith,
    EndsWith,
}
