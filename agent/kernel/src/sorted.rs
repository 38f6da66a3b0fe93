//! ORDER BY an indexed attribute with LIMIT: the index gives the rows in order, so nobody reads more than are asked for.

use crate::error::KernelError;
use crate::matching::{Access, MAX_ROWS, Matcher, Row, Step, access};
use crate::query::{Projected, project};
use mew_lang::plan::{Expr, Returns};
use mew_model::ontology::Attribute;
use mew_model::value::Kind;
use mew_store::OrderKey;

/// Entries of the index that are taken at once: the store's lock is held for so long.
const STEP: usize = 256;

/// Rows that hold all that `r` takes, or `None` if the index cannot tell: then everything has to be read and sorted.
pub(crate) fn first_rows(x: &Matcher<'_, '_>, r: &Returns) -> Result<Option<Vec<Projected>>, KernelError> {
    let (Some(limit), false, false, Some((Expr::Attr(v, key), descending))) =
        (r.limit, r.distinct, r.aggregate, r.order.first())
    else {
        return Ok(None);
    };
    let o = x.tx.ontology();
    let Some(wanted) = x.m.vars[*v].ty else { return Ok(None) };
    let Some((a, scope)) = o.by_number(wanted).and_then(|t| t.attribute(*key)).and_then(|a| Some((a, a.indexed_in?)))
    else {
        return Ok(None);
    };
    if !matches!(x.order.steps(), [Step::Node(only)] if only == v) {
        return Ok(None);
    }
    let (range, is_all) = match access(x.tx, x.params, x.m, *v)? {
        // A comparison leaves out whatever has no place in the index.
        Access::Range(s, k, range) if (s, k) == (scope, *key) => (range, true),
        Access::All => (OrderKey::MIN..=OrderKey::MAX, has_place(a)),
        _ => return Ok(None),
    };
    // What has no value comes first then.
    if *descending && !is_all {
        return Ok(None);
    }
    let enough = limit.saturating_add(r.offset);
    let mut found: Vec<(u32, Projected)> = Vec::new();
    let mut last: Option<(OrderKey, u32)> = None;
    let mut row = Row::new();
    row.resize(x.m.vars.len(), None);
    loop {
        let Some(some) = x.tx.first_ordered((scope, *key), range.clone(), last, *descending, STEP)? else {
            return Ok(None);
        };
        if some.is_empty() {
            // Those without a value would follow.
            return Ok(is_all.then(|| in_turn(found)));
        }
        for (k, ent) in some {
            // Values that share a key are in no order, so all of them are taken.
            if found.len() as u64 >= enough && last.is_some_and(|l| l.0 != k) {
                return Ok(Some(in_turn(found)));
            }
            last = Some((k, ent));
            let Some(s) = x.tx.living(ent)? else { continue };
            if !o.by_number(s.entity()?.ty).is_some_and(|t| t.lineage.contains(&wanted)) {
                continue;
            }
            row[*v] = Some(s);
            if x.passes(0, &row)? {
                found.push((ent, project(x.tx, x.params, &row, r)?));
            }
            if found.len() > MAX_ROWS {
                return Err(KernelError::Limit(format!("more than {MAX_ROWS} rows of one value")));
            }
        }
    }
}

/// Whether each entity has a place in the attribute's index: NaN has none.
fn has_place(a: &Attribute) -> bool {
    a.required && a.kind != Kind::Float
}

/// Of equal rows the older entity comes first, as in a scan.
fn in_turn(mut found: Vec<(u32, Projected)>) -> Vec<Projected> {
    found.sort_by_key(|f| f.0);
    found.into_iter().map(|f| f.1).collect()
}
