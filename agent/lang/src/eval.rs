//! Computes checked expressions. `null = null` is true and `<` with null is false; AND, OR and NOT are three-valued, and only
//! true passes a filter.

use crate::plan::{Expr, Match, Op, System};
use mew_model::{Number, Value, ValueRef, value::Kind};
use std::cmp::Ordering;
use thiserror::Error;

#[derive(Debug, Error, Clone, PartialEq)]
pub enum EvalError {
    #[error("missing parameter ${0}")]
    MissingParameter(String),
    #[error("parameter ${0}: expected {1}, found {2}")]
    ParameterKind(String, Kind, Value),
    #[error("Division by zero")]
    DivisionByZero,
    #[error("Duration overflow")]
    DurationOverflow,
    #[error("{0} does not work on {1} and {2}")]
    Kinds(&'static str, Value, Value),
    /// What a reference means, as it is written.
    #[error("{0} not found")]
    NotFound(String),
    #[error("{0}")]
    Other(String),
}

/// What the variables of an expression stand for.
pub trait Env {
    fn attr(&self, slot: usize, key: Number) -> ValueRef<'_>;
    fn system(&self, slot: usize, field: System) -> Value;
    /// Whether the entity in the slot is of the type or a subtype.
    fn is_type(&self, slot: usize, ty: Number) -> bool;
    fn param(&self, name: &str) -> Option<&Value>;
    /// The `sync_id` that a `#reference` means, as an ID; `NotFound` if there is no such entity.
    fn reference(&self, name: &str) -> Result<Value, EvalError>;
    fn exists(&self, m: &Match) -> Result<bool, EvalError>;
    /// Milliseconds since 1970; constant inside a transaction.
    fn now_ms(&self) -> u64;
}

/// A value where it lies, or one that had to be made. Most values are only looked at.
#[derive(Clone, Debug)]
pub enum Seen<'a> {
    There(ValueRef<'a>),
    Made(Value),
}

impl Seen<'_> {
    pub fn borrowed(&self) -> ValueRef<'_> {
        match self {
            Seen::There(v) => *v,
            Seen::Made(v) => v.borrowed(),
        }
    }

    pub fn into_value(self) -> Value {
        match self {
            Seen::There(v) => v.to_value(),
            Seen::Made(v) => v,
        }
    }

    /// As [`Value::coerce`].
    pub fn coerce(self, kind: Kind) -> Result<Self, Value> {
        match self.borrowed().kind() {
            Some(have) if have != kind => self.into_value().coerce(kind).map(Seen::Made),
            _ => Ok(self),
        }
    }
}

impl From<Value> for Seen<'_> {
    fn from(v: Value) -> Self {
        Seen::Made(v)
    }
}

pub fn eval(e: &Expr, env: &dyn Env) -> Result<Value, EvalError> {
    look(e, env).map(Seen::into_value)
}

/// As [`eval`], without a copy of what is there already.
pub fn look<'a>(e: &'a Expr, env: &'a dyn Env) -> Result<Seen<'a>, EvalError> {
    let v = match e {
        Expr::Value(v) => return Ok(Seen::There(v.borrowed())),
        Expr::Attr(slot, key) => return Ok(Seen::There(env.attr(*slot, *key))),
        Expr::Param(p, nullable, want) => return parameter(p, *nullable, *want, env),
        Expr::Entity(slot) => env.system(*slot, System::SyncId).into_id(),
        Expr::Reference(r) => env.reference(r)?,
        Expr::System(slot, f) => env.system(*slot, *f),
        Expr::Not(x) => match look(x, env)?.borrowed() {
            ValueRef::Bool(b) => Value::Bool(!b),
            _ => Value::Null,
        },
        Expr::Negate(x) => match look(x, env)?.borrowed() {
            ValueRef::Int(i) => Value::Int(i.wrapping_neg()),
            ValueRef::Float(f) => Value::Float(-f),
            ValueRef::Duration(d) => Value::Duration(d.checked_neg().ok_or(EvalError::DurationOverflow)?),
            _ => Value::Null,
        },
        Expr::Binary(a, op, b) => return binary(a, *op, b, env),
        Expr::IsNull(x, is) => Value::Bool(look(x, env)?.borrowed().is_null() == *is),
        Expr::In(x, list) => {
            let x = look(x, env)?;
            let v = x.borrowed();
            if v.is_null() {
                return Ok(Seen::There(ValueRef::Null));
            }
            let mut hit = false;
            for l in list {
                hit |= look(l, env)?.borrowed().query_eq(v);
            }
            Value::Bool(hit)
        }
        Expr::TypeTest(slot, ty) => Value::Bool(env.is_type(*slot, *ty)),
        Expr::Exists(m) => Value::Bool(env.exists(m)?),
        Expr::Now => Value::Timestamp(env.now_ms() as i64),
        Expr::Length(x) => match look(x, env)?.borrowed() {
            ValueRef::String(s) => Value::Int(s.chars().count() as i64),
            _ => Value::Null,
        },
        Expr::Count(_) => return Err(EvalError::Other("COUNT is computed over rows".into())),
    };
    Ok(Seen::Made(v))
}

fn parameter<'a>(p: &str, nullable: bool, want: Option<Kind>, env: &'a dyn Env) -> Result<Seen<'a>, EvalError> {
    let v = match env.param(p) {
        None | Some(Value::Null) if nullable => ValueRef::Null,
        None => return Err(EvalError::MissingParameter(p.to_owned())),
        Some(Value::Null) => {
            return Err(EvalError::Other(format!("parameter ${p} is null; write ${p}? where null is allowed")));
        }
        Some(v) => v.borrowed(),
    };
    match want {
        None => Ok(Seen::There(v)),
        Some(k) => Seen::There(v).coerce(k).map_err(|v| EvalError::ParameterKind(p.to_owned(), k, v)),
    }
}

/// Whether a filter lets the row pass.
pub fn passes(filter: Option<&Expr>, env: &dyn Env) -> Result<bool, EvalError> {
    filter.map_or(Ok(true), |f| Ok(matches!(look(f, env)?.borrowed(), ValueRef::Bool(true))))
}

trait IntoId {
    fn into_id(self) -> Value;
}

impl IntoId for Value {
    fn into_id(self) -> Value {
        match self {
            Value::String(s) => Value::Id(s),
            v => v,
        }
    }
}

fn binary<'a>(a: &'a Expr, op: Op, b: &'a Expr, env: &'a dyn Env) -> Result<Seen<'a>, EvalError> {
    let x = look(a, env)?;
    // Short circuits; null is "unknown".
    match (op, x.borrowed()) {
        (Op::And, ValueRef::Bool(false)) => return Ok(Seen::There(ValueRef::Bool(false))),
        (Op::Or, ValueRef::Bool(true)) => return Ok(Seen::There(ValueRef::Bool(true))),
        (Op::Coalesce, v) if !v.is_null() => return Ok(x),
        _ => {}
    }
    let y = look(b, env)?;
    let v = match op {
        Op::Coalesce => return Ok(y),
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Rem => arithmetic(x.into_value(), op, y.into_value())?,
        _ => compared(x.borrowed(), op, y.borrowed()),
    };
    Ok(Seen::Made(v))
}

/// Logic, comparisons and texts; null for what cannot be said.
fn compared(x: ValueRef<'_>, op: Op, y: ValueRef<'_>) -> Value {
    match op {
        Op::And => match (x, y) {
            (_, ValueRef::Bool(false)) => Value::Bool(false),
            (ValueRef::Bool(true), ValueRef::Bool(true)) => Value::Bool(true),
            _ => Value::Null,
        },
        Op::Or => match (x, y) {
            (_, ValueRef::Bool(true)) => Value::Bool(true),
            (ValueRef::Bool(false), ValueRef::Bool(false)) => Value::Bool(false),
            _ => Value::Null,
        },
        // null = null is true and null != x is true, unlike the order comparisons.
        Op::Eq => Value::Bool(x.query_eq(y)),
        Op::Ne => Value::Bool(!x.query_eq(y)),
        Op::Lt => Value::Bool(x.query_cmp(y).is_some_and(Ordering::is_lt)),
        Op::Le => Value::Bool(x.query_cmp(y).is_some_and(Ordering::is_le)),
        Op::Gt => Value::Bool(x.query_cmp(y).is_some_and(Ordering::is_gt)),
        Op::Ge => Value::Bool(x.query_cmp(y).is_some_and(Ordering::is_ge)),
        _ => match (x, y) {
            (ValueRef::String(s), ValueRef::String(t)) => match op {
                Op::Contains => Value::Bool(s.contains(t)),
                Op::StartsWith => Value::Bool(s.starts_with(t)),
                Op::EndsWith => Value::Bool(s.ends_with(t)),
                Op::Concat => Value::String([s, t].concat()),
                _ => Value::Null,
            },
            _ => Value::Null,
        },
    }
}

fn arithmetic(x: Value, op: Op, y: Value) -> Result<Value, EvalError> {
    use Value::*;
    let over = EvalError::DurationOverflow;
    Ok(match (x, op, y) {
        (Null, ..) | (_, _, Null) => Null,
        (Int(_) | Duration(_), Op::Div | Op::Rem, Int(0)) => return Err(EvalError::DivisionByZero),
        (Int(a), Op::Add, Int(b)) => Int(a.wrapping_add(b)),
        (Int(a), Op::Sub, Int(b)) => Int(a.wrapping_sub(b)),
        (Int(a), Op::Mul, Int(b)) => Int(a.wrapping_mul(b)),
        (Int(a), Op::Div, Int(b)) => Int(a.wrapping_div(b)),
        (Int(a), Op::Rem, Int(b)) => Int(a.wrapping_rem(b)),
        (Int(a), op, Float(b)) => float(a as f64, op, b),
        (Float(a), op, Int(b)) => float(a, op, b as f64),
        (Float(a), op, Float(b)) => float(a, op, b),
        (Timestamp(a), Op::Sub, Timestamp(b)) => Duration(a.checked_sub(b).ok_or(over)?),
        (Timestamp(a), Op::Add, Duration(b)) | (Duration(a), Op::Add, Timestamp(b)) => {
            Timestamp(a.checked_add(b).ok_or(over)?)
        }
        (Timestamp(a), Op::Sub, Duration(b)) => Timestamp(a.checked_sub(b).ok_or(over)?),
        (Duration(a), Op::Add, Duration(b)) => Duration(a.checked_add(b).ok_or(over)?),
        (Duration(a), Op::Sub, Duration(b)) => Duration(a.checked_sub(b).ok_or(over)?),
        (Duration(a), Op::Mul, Int(b)) | (Int(a), Op::Mul, Duration(b)) => Duration(a.checked_mul(b).ok_or(over)?),
        (Duration(a), Op::Div, Int(b)) => Duration(a.checked_div(b).ok_or(over)?),
        (x, _, y) => return Err(EvalError::Kinds("arithmetic", x, y)),
    })
}

fn float(a: f64, op: Op, b: f64) -> Value {
    Value::Float(match op {
        Op::Add => a + b,
        Op::Sub => a - b,
        Op::Mul => a * b,
        Op::Div => a / b,
        _ => a % b,
    })
}
