//! Computes checked expressions. `null = null` is true and `<` with null is false; AND, OR and NOT are three-valued, and only
//! true passes a filter.

use crate::plan::{Expr, Match, Op, System};
use mew_model::{Number, Value, value::Kind};
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
    #[error("{0}")]
    Other(String),
}

/// What the variables of an expression stand for.
pub trait Env {
    fn attr(&self, slot: usize, key: Number) -> Value;
    fn system(&self, slot: usize, field: System) -> Value;
    /// Whether the entity in the slot is of the type or a subtype.
    fn is_type(&self, slot: usize, ty: Number) -> bool;
    fn param(&self, name: &str) -> Option<Value>;
    /// The `sync_id` that a `#reference` means, as an ID; an error if there is no such entity.
    fn reference(&self, name: &str) -> Result<Value, EvalError>;
    fn exists(&self, m: &Match) -> Result<bool, EvalError>;
    /// Milliseconds since 1970; constant inside a transaction.
    fn now_ms(&self) -> u64;
}

pub fn eval(e: &Expr, env: &dyn Env) -> Result<Value, EvalError> {
    Ok(match e {
        Expr::Value(v) => v.clone(),
        Expr::Param(p, nullable, want) => match (env.param(p), want) {
            (None | Some(Value::Null), _) if *nullable => Value::Null,
            (None, _) => return Err(EvalError::MissingParameter(p.clone())),
            (Some(Value::Null), _) => {
                return Err(EvalError::Other(format!("parameter ${p} is null; write ${p}? where null is allowed")));
            }
            (Some(v), None) => v,
            (Some(v), Some(k)) => v.coerce(*k).map_err(|v| EvalError::ParameterKind(p.clone(), *k, v))?,
        },
        Expr::Entity(slot) => env.system(*slot, System::SyncId).into_id(),
        Expr::Reference(r) => env.reference(r)?,
        Expr::Attr(slot, key) => env.attr(*slot, *key),
        Expr::System(slot, f) => env.system(*slot, *f),
        Expr::Not(x) => match eval(x, env)? {
            Value::Bool(b) => Value::Bool(!b),
            _ => Value::Null,
        },
        Expr::Negate(x) => match eval(x, env)? {
            Value::Int(i) => Value::Int(i.wrapping_neg()),
            Value::Float(f) => Value::Float(-f),
            Value::Duration(d) => Value::Duration(d.checked_neg().ok_or(EvalError::DurationOverflow)?),
            _ => Value::Null,
        },
        Expr::Binary(a, op, b) => binary(a, *op, b, env)?,
        Expr::IsNull(x, is) => Value::Bool(eval(x, env)?.is_null() == *is),
        Expr::In(x, list) => {
            let v = eval(x, env)?;
            if v.is_null() {
                return Ok(Value::Null);
            }
            let mut hit = false;
            for l in list {
                hit |= eval(l, env)?.query_eq(&v);
            }
            Value::Bool(hit)
        }
        Expr::TypeTest(slot, ty) => Value::Bool(env.is_type(*slot, *ty)),
        Expr::Exists(m) => Value::Bool(env.exists(m)?),
        Expr::Now => Value::Timestamp(env.now_ms() as i64),
        Expr::Length(x) => match eval(x, env)? {
            Value::String(s) => Value::Int(s.chars().count() as i64),
            _ => Value::Null,
        },
        Expr::Count(_) => return Err(EvalError::Other("COUNT is computed over rows".into())),
    })
}

/// Whether a filter lets the row pass.
pub fn passes(filter: Option<&Expr>, env: &dyn Env) -> Result<bool, EvalError> {
    filter.map_or(Ok(true), |f| Ok(matches!(eval(f, env)?, Value::Bool(true))))
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

fn binary(a: &Expr, op: Op, b: &Expr, env: &dyn Env) -> Result<Value, EvalError> {
    let x = eval(a, env)?;
    // Short circuits; null is "unknown".
    match (op, &x) {
        (Op::And, Value::Bool(false)) => return Ok(Value::Bool(false)),
        (Op::Or, Value::Bool(true)) => return Ok(Value::Bool(true)),
        (Op::Coalesce, v) if !v.is_null() => return Ok(x),
        _ => {}
    }
    let y = eval(b, env)?;
    Ok(match op {
        Op::And => match (&x, &y) {
            (_, Value::Bool(false)) => Value::Bool(false),
            (Value::Bool(true), Value::Bool(true)) => Value::Bool(true),
            _ => Value::Null,
        },
        Op::Or => match (&x, &y) {
            (_, Value::Bool(true)) => Value::Bool(true),
            (Value::Bool(false), Value::Bool(false)) => Value::Bool(false),
            _ => Value::Null,
        },
        Op::Coalesce => y,
        // null = null is true and null != x is true, unlike the order comparisons.
        Op::Eq => Value::Bool(x.query_eq(&y)),
        Op::Ne => Value::Bool(!x.query_eq(&y)),
        Op::Lt | Op::Le | Op::Gt | Op::Ge => Value::Bool(x.query_cmp(&y).is_some_and(|o| match op {
            Op::Lt => o.is_lt(),
            Op::Le => o.is_le(),
            Op::Gt => o.is_gt(),
            _ => o.is_ge(),
        })),
        Op::Contains | Op::StartsWith | Op::EndsWith => match (&x, &y) {
            (Value::String(s), Value::String(t)) => Value::Bool(match op {
                Op::Contains => s.contains(t.as_str()),
                Op::StartsWith => s.starts_with(t.as_str()),
                _ => s.ends_with(t.as_str()),
            }),
            _ => Value::Null,
        },
        Op::Concat => match (x, y) {
            (Value::String(s), Value::String(t)) => Value::String(s + &t),
            _ => Value::Null,
        },
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Rem => arithmetic(x, op, y)?,
    })
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
