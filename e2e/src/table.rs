//! What `kubectl get` prints, cell by column.

use crate::cluster::Cluster;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

pub type Row = BTreeMap<String, String>;

/// Every row of a namespace by its name. An empty cell would shift the others, so it is an error.
pub fn rows(c: &Cluster, kind: &str, namespace: &str) -> Result<BTreeMap<String, Row>> {
    let text = c.kubectl(&["get", kind, "-n", namespace])?;
    let mut lines = text.lines().map(|l| l.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let columns = lines.next().with_context(|| format!("no {kind} in {namespace}"))?;
    let mut all = BTreeMap::new();
    for cells in lines {
        ensure!(cells.len() == columns.len(), "a cell is empty:\n{text}");
        let name = cells.first().cloned().unwrap_or_default();
        all.insert(name, columns.iter().cloned().zip(cells).collect());
    }
    Ok(all)
}

/// The cells that the row of this name must have.
pub fn check(rows: &BTreeMap<String, Row>, name: &str, want: &[(&str, &str)]) -> Result<()> {
    let row = rows.get(name).with_context(|| format!("{name} is not among {:?}", rows.keys()))?;
    shows(row, want).with_context(|| name.to_owned())
}

/// The cells that a row must have, and what it has instead.
pub fn shows(row: &Row, want: &[(&str, &str)]) -> Result<()> {
    for (column, value) in want {
        ensure!(row.get(*column).is_some_and(|v| v == value), "{column} is not {value:?} in {row:?}");
    }
    Ok(())
}
