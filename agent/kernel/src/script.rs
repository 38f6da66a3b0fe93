//! Scripts: checked as a whole, cut into transactions, and run.

use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::matching::Order;
use crate::mutate;
use crate::names::{Bound, Params};
use crate::query::query;
use crate::rows::{Output, Summary};
use crate::tx::Tx;
use mew_lang::check::{Scope, check};
use mew_lang::eval::EvalError;
use mew_lang::parse_script;
use mew_lang::plan::{Plan, Returns};
use mew_model::Value;

type Result<T> = std::result::Result<T, KernelError>;

/// Statements that one request may hold.
const MAX_STATEMENTS: usize = 100_000;

/// Statements that are checked against the ontology, with their text.
pub struct Script<'t> {
    text: &'t str,
    pub(crate) plans: Vec<Plan>,
}

impl Script<'_> {
    pub fn writes(&self) -> bool {
        self.plans.iter().any(|p| matches!(p, Plan::Mutate(_)))
    }

    /// Every `$name` must be given, also where no row would come to ask for it.
    pub(crate) fn needs_only(&self, is_given: impl Fn(&String) -> bool) -> Result<()> {
        let missing = mew_lang::lexer::parameters(self.text).find(|p| !is_given(p));
        missing.map_or(Ok(()), |p| Err(EvalError::MissingParameter(p).into()))
    }
}

impl Kernel {
    /// All of a script is checked before any of it runs: a typo in line 90 must not leave 89 lines done.
    pub fn script<'t>(&self, text: &'t str) -> Result<Script<'t>> {
        let statements = parse_script(text).map_err(KernelError::Text)?;
        if statements.len() > MAX_STATEMENTS {
            return Err(KernelError::Limit(format!(
                "{} statements; at most {MAX_STATEMENTS} in one request",
                statements.len()
            )));
        }
        let (o, mut scope) = (self.ontology(), Scope::default());
        let plans = statements.iter().map(|s| check(&o, &mut scope, s)).collect::<std::result::Result<_, _>>();
        Ok(Script { text, plans: plans.map_err(|d| KernelError::Text(vec![d]))? })
    }

    /// Runs a script. Each statement is a transaction of its own, unless BEGIN … COMMIT joins several. The first error
    /// ends the script; what was committed before stays.
    pub fn execute(&self, now_ms: u64, text: &str, params: &Params) -> Result<Output> {
        self.run(now_ms, self.script(text)?, params)
    }

    /// As [`Kernel::execute`], of a script that is checked already.
    pub fn run(&self, now_ms: u64, script: Script<'_>, params: &Params) -> Result<Output> {
        script.needs_only(|p| params.contains_key(p))?;
        let mut out = Output::default();
        let mut bound = Bound::default();
        for unit in units(script.plans)? {
            match unit {
                Unit::Read(Plan::Query(q)) => {
                    let view = self.view();
                    let rows = query(&self.tx(&view, now_ms), params, &q)?;
                    (out.columns, out.rows) = (columns(Some(&q.returns)), rows);
                }
                Unit::Read(_) => {}
                Unit::Write(plans) => {
                    let (params, start) = (params.clone(), bound.clone());
                    let run = move |tx: &mut Tx<'_>| run_all(tx, &params, start, &plans, &mut Orders::default());
                    let (done, seq) = self.write(now_ms, run)?;
                    bound = done.bound;
                    out.summary.add(done.summary);
                    (out.columns, out.rows, out.seq) = (done.columns, done.rows, seq);
                }
                Unit::Discard(plans) => {
                    let view = self.view();
                    let tx = &mut self.tx(&view, now_ms);
                    let done = run_all(tx, params, bound.clone(), &plans, &mut Orders::default())?;
                    (out.columns, out.rows) = (done.columns, done.rows);
                }
            }
        }
        Ok(out)
    }
}

pub(crate) struct Done {
    bound: Bound,
    columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
    pub summary: Summary,
}

/// Of statements that run several times, in what order each binds its variables.
pub(crate) type Orders<'p> = Vec<Option<Order<'p>>>;

/// The statements of one transaction, in order.
pub(crate) fn run_all<'p>(
    tx: &mut Tx<'_>,
    params: &Params,
    bound: Bound,
    plans: &'p [Plan],
    orders: &mut Orders<'p>,
) -> Result<Done> {
    let mut d = Done { bound, columns: Vec::new(), rows: Vec::new(), summary: Summary::default() };
    orders.resize_with(plans.len(), || None);
    for (p, order) in plans.iter().zip(orders) {
        match p {
            Plan::Query(q) => (d.columns, d.rows) = (columns(Some(&q.returns)), query(tx, params, q)?),
            Plan::Mutate(m) => {
                let (rows, summary) = mutate::run(tx, params, &mut d.bound, m, order)?;
                (d.columns, d.rows) = (columns(m.returning.as_ref()), rows);
                d.summary.add(summary);
            }
            Plan::Begin | Plan::Commit | Plan::Rollback => {}
        }
    }
    Ok(d)
}

/// Of what the last statement returns.
pub(crate) fn columns_of(last: Option<&Plan>) -> Vec<String> {
    match last {
        Some(Plan::Mutate(m)) => columns(m.returning.as_ref()),
        _ => Vec::new(),
    }
}

fn columns(r: Option<&Returns>) -> Vec<String> {
    r.map(|r| r.columns.iter().map(|(n, _)| n.clone()).collect()).unwrap_or_default()
}

enum Unit {
    Read(Plan),
    Write(Vec<Plan>),
    /// Run for its rows and errors, then forgotten.
    Discard(Vec<Plan>),
}

/// Cuts a script into transactions.
fn units(plans: Vec<Plan>) -> Result<Vec<Unit>> {
    let mut out = Vec::new();
    let mut open: Option<Vec<Plan>> = None;
    for p in plans {
        match (p, &mut open) {
            (Plan::Begin, None) => open = Some(Vec::new()),
            (Plan::Begin, Some(_)) => return Err(KernelError::Transaction("BEGIN inside a transaction")),
            (Plan::Commit, Some(_)) => out.extend(open.take().map(Unit::Write)),
            (Plan::Rollback, Some(_)) => out.extend(open.take().map(Unit::Discard)),
            (Plan::Commit, None) => return Err(KernelError::Transaction("COMMIT without BEGIN")),
            (Plan::Rollback, None) => return Err(KernelError::Transaction("ROLLBACK without BEGIN")),
            (p, Some(list)) => list.push(p),
            (p @ Plan::Query(_), None) => out.push(Unit::Read(p)),
            (p, None) => out.push(Unit::Write(vec![p])),
        }
    }
    match open {
        Some(_) => Err(KernelError::Transaction("the transaction has BEGIN and no COMMIT; nothing of it was done")),
        None => Ok(out),
    }
}
