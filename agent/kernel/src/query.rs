//! What a query gives back: the rows that match, and what RETURN makes of them.

use crate::error::KernelError;
use crate::matching::{MAX_ROWS, Matcher, Order, Row, RowEnv};
use crate::names::Params;
use crate::sorted::first_rows;
use crate::tx::Tx;
use mew_lang::eval::eval;
use mew_lang::plan::{Expr, Query, Returns};
use mew_model::Value;
use std::cmp::Ordering;
use std::ops::ControlFlow;

type Result<T> = std::result::Result<T, KernelError>;

pub fn query(tx: &Tx<'_>, params: &Params, q: &Query) -> Result<Vec<Vec<Value>>> {
    let simple = q.returns.order.is_empty() && !q.returns.distinct && !q.returns.aggregate;
    let enough = if simple { q.returns.limit.map(|l| l.saturating_add(q.returns.offset)) } else { None };
    let mut rows = Vec::new();
    if enough != Some(0) {
        let order = Order::of(tx, params, &q.matching)?;
        let matcher = Matcher { tx, params, m: &q.matching, order: &order };
        if let Some(rows) = first_rows(&matcher, &q.returns)? {
            return finish(rows, &q.returns);
        }
        let _ = matcher.run(Vec::new(), &mut |r| {
            if rows.len() >= MAX_ROWS {
                return Err(KernelError::Limit(format!("more than {MAX_ROWS} rows; use LIMIT")));
            }
            rows.push(project(tx, params, r, &q.returns)?);
            Ok(if enough.is_some_and(|n| rows.len() as u64 >= n) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
    }
    finish(rows, &q.returns)
}

/// Columns, and the keys to sort by.
pub type Projected = (Vec<Value>, Vec<Value>);

pub fn project(tx: &Tx<'_>, params: &Params, row: &Row, r: &Returns) -> Result<Projected> {
    let env = RowEnv { tx, params, row, bound: None };
    let column = |e: &Expr| match e {
        // What is counted: one for each row in which it is not null.
        Expr::Count(None) => Ok(Value::Bool(true)),
        Expr::Count(Some(x)) => eval(x, &env).map(|v| Value::Bool(!v.is_null())),
        e => eval(e, &env),
    };
    let columns = r.columns.iter().map(|(_, e)| column(e)).collect::<std::result::Result<_, _>>()?;
    let keys = r.order.iter().map(|(e, _)| column(e)).collect::<std::result::Result<_, _>>()?;
    Ok((columns, keys))
}

/// Counts, DISTINCT, ORDER BY, OFFSET and LIMIT.
pub fn finish(mut rows: Vec<Projected>, r: &Returns) -> Result<Vec<Vec<Value>>> {
    if r.aggregate {
        let count = |i: usize| rows.iter().filter(|(c, _)| matches!(c[i], Value::Bool(true))).count();
        let counted: Vec<Value> = (0..r.columns.len()).map(|i| Value::Int(count(i) as i64)).collect();
        return Ok(if r.limit == Some(0) || r.offset > 0 { Vec::new() } else { vec![counted] });
    }
    if r.distinct {
        let mut seen = std::collections::HashSet::new();
        rows.retain(|(c, _)| seen.insert(c.iter().map(Value::to_string).collect::<Vec<_>>()));
    }
    rows.sort_by(|(_, a), (_, b)| {
        let mut o = Ordering::Equal;
        for ((x, y), (_, descending)) in a.iter().zip(b).zip(&r.order) {
            let c = x.sort_cmp(y);
            o = o.then(if *descending { c.reverse() } else { c });
        }
        o
    });
    let limit = r.limit.map_or(usize::MAX, |l| l as usize);
    Ok(rows.into_iter().skip(r.offset as usize).take(limit).map(|(c, _)| c).collect())
}
