//! One script for many rows of parameters: parsed and checked once, run for each row, all in one transaction.

use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::names::{Bound, Params};
use crate::rows::{Output, Summary};
use crate::script::{Orders, Script, columns_of, run_all};
use mew_lang::plan::Plan;
use mew_model::Value;

/// Rows of one request: they are one commit, whose size is bounded.
pub const MAX_ROWS: usize = 100_000;

/// Values of parameters, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub names: Vec<String>,
    pub rows: Vec<Vec<Value>>,
}

impl Table {
    fn checked(self) -> Result<Self, KernelError> {
        if self.rows.len() > MAX_ROWS {
            let n = self.rows.len();
            return Err(KernelError::Limit(format!("{n} rows; at most {MAX_ROWS} in one request")));
        }
        match self.rows.iter().position(|r| r.len() != self.names.len()) {
            Some(i) => {
                let (has, wants) = (self.rows[i].len(), self.names.len());
                let why = KernelError::Limit(format!("{has} values for {wants} names"));
                Err(KernelError::Row(i, Box::new(why)))
            }
            None => Ok(self),
        }
    }
}

impl Kernel {
    /// Runs the script for each row. It may hold statements that change something, and no transaction of its own. The
    /// first row that fails is named, and nothing of any row is done. What each row returns is put together.
    pub fn execute_table(&self, now_ms: u64, text: &str, table: Table) -> Result<Output, KernelError> {
        self.run_table(now_ms, self.script(text)?, table)
    }

    /// As [`Kernel::execute_table`], of a script that is checked already.
    pub fn run_table(&self, now_ms: u64, script: Script<'_>, table: Table) -> Result<Output, KernelError> {
        let table = table.checked()?;
        if script.plans.iter().any(|p| !matches!(p, Plan::Mutate(_))) {
            return Err(KernelError::Transaction(
                "a script that runs for rows holds only statements that change something; the rows are one transaction already",
            ));
        }
        script.needs_only(|p| table.names.contains(p))?;
        let plans = script.plans;
        let run = move |tx: &mut crate::Tx<'_>| {
            let mut params: Params = table.names.iter().map(|n| (n.clone(), Value::Null)).collect();
            let mut out = Output { columns: columns_of(plans.last()), ..Output::default() };
            let (mut summary, mut orders) = (Summary::default(), Orders::default());
            let places: Vec<usize> = table.names.iter().filter_map(|n| params.place(n)).collect();
            for (i, row) in table.rows.into_iter().enumerate() {
                for (place, v) in places.iter().zip(row) {
                    params.set(*place, v);
                }
                let done = run_all(tx, &params, Bound::new(), &plans, &mut orders);
                let done = done.map_err(|e| KernelError::Row(i, Box::new(e)))?;
                out.rows.extend(done.rows);
                summary.add(done.summary);
            }
            out.summary = summary;
            Ok(out)
        };
        let (out, seq) = self.write(now_ms, run)?;
        Ok(Output { seq, ..out })
    }
}
