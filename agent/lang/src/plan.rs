//! A checked statement: names are numbers, variables are slots of a row, and kinds fit where they are known.

pub use crate::ast::{KillMode, Op};
use mew_model::value::Kind;
use mew_model::{Number, Value};

#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    Begin,
    Commit,
    Rollback,
    Query(Query),
    Mutate(Mutate),
}

/// Variables bound by a match. Slot `i` of a row holds `vars[i]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Match {
    pub vars: Vec<Var>,
    pub edges: Vec<EdgePattern>,
    pub filter: Option<Expr>,
    /// Slots that an enclosing match binds (for EXISTS): the first `outer` ones.
    pub outer: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Var {
    pub name: String,
    /// `None` is any type.
    pub ty: Option<Number>,
    /// Bound by an edge pattern's `AS`, not enumerated by itself.
    pub is_edge: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EdgePattern {
    pub ty: Number,
    /// Slot of each end; `None` matches anything.
    pub ends: Vec<Option<usize>>,
    pub slot: Option<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub matching: Match,
    pub returns: Returns,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Returns {
    pub columns: Vec<(String, Expr)>,
    pub distinct: bool,
    /// Expression and whether descending.
    pub order: Vec<(Expr, bool)>,
    pub limit: Option<u64>,
    pub offset: u64,
    /// The columns are counts over all rows.
    pub aggregate: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Mutate {
    pub matching: Option<Match>,
    /// Slots that the match and the actions bind.
    pub slots: usize,
    pub actions: Vec<Action>,
    /// Names that later statements of the script may use, and their slots.
    pub binds: Vec<(String, usize)>,
    pub returning: Option<Returns>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Spawn {
        ty: Number,
        attrs: Vec<(Number, Expr)>,
        sync_id: Option<Expr>,
        slot: usize,
    },
    Set {
        target: Target,
        attrs: Vec<(Number, Expr)>,
    },
    Kill {
        target: Target,
        mode: KillMode,
    },
    Link {
        ty: Number,
        ends: Vec<Target>,
        if_not_exists: bool,
        attrs: Vec<(Number, Expr)>,
        sync_id: Option<Expr>,
        slot: usize,
    },
    Unlink {
        target: Target,
    },
    UnlinkBetween {
        ty: Number,
        ends: Vec<Option<Target>>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Slot(usize),
    /// Bound by an earlier statement of the script.
    Bound(String),
    /// A local id or a `sync_id`.
    Reference(String),
    /// The entity in a slot of the match.
    Match(Box<Match>, usize),
}

/// Fields that every entity has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    Id,
    Type,
    SyncId,
    UpdatedAt,
    /// `<time>@<kernel key>` of the version, for people and tests.
    Version,
    /// The peer that introduced it; null for an entity of this kernel.
    Origin,
}

impl System {
    pub const ALL: [(&'static str, System, Kind); 6] = [
        ("_id", System::Id, Kind::String),
        ("_type", System::Type, Kind::String),
        ("_sync_id", System::SyncId, Kind::String),
        ("_updated_at", System::UpdatedAt, Kind::Timestamp),
        ("_version", System::Version, Kind::String),
        ("_origin", System::Origin, Kind::String),
    ];

    pub fn parse(name: &str) -> Option<(System, Kind)> {
        Self::ALL.iter().find(|(n, ..)| *n == name).map(|(_, s, k)| (*s, *k))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    Value(Value),
    /// Parameter, whether it may be null, and the kind its context asks for.
    Param(String, bool, Option<Kind>),
    /// The entity in a slot; as a value its id.
    Entity(usize),
    Reference(String),
    Attr(usize, Number),
    System(usize, System),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    Binary(Box<Expr>, Op, Box<Expr>),
    IsNull(Box<Expr>, bool),
    In(Box<Expr>, Vec<Expr>),
    /// Whether the entity in the slot is of the type or a subtype.
    TypeTest(usize, Number),
    Exists(Box<Match>),
    Now,
    Length(Box<Expr>),
    /// Rows where the expression is not null; all rows without one.
    Count(Option<Box<Expr>>),
}
