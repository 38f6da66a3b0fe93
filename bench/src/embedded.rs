//! A kernel in this process, on a disk, with the race's rows in it.

use crate::ours::{CHANGING, ONTOLOGY, SPAWN, UPDATE};
use crate::rows::{Task, task};
use anyhow::{Result, anyhow, ensure};
use mew_kernel::{Kernel, Summary, Table};
use mew_model::Value;
use mew_store::{DirDisk, Opened, Options, Place, Store};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// As an agent has them.
pub const SEGMENT_BYTES: u32 = 64 << 20;
/// Rows of one transaction while loading.
const LOAD: u64 = 2000;
/// What surrounds an entity in the log.
const RECORD: u64 = 32;
/// Deletes by a unique value.
pub const KILL: &str = "MATCH t: Task WHERE t.code = $code KILL t";

/// Which attributes there are indexes of. The log is the same whatever they are: an index is derived from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Indexes {
    /// `code` is unique.
    pub unique: bool,
    /// `due` is indexed.
    pub ordered: bool,
}

impl Indexes {
    pub const BOTH: Indexes = Indexes { unique: true, ordered: true };
    pub const UNIQUE: Indexes = Indexes { unique: true, ordered: false };
    pub const NONE: Indexes = Indexes { unique: false, ordered: false };

    /// The race's ontology, with these.
    fn ontology(self) -> Result<String> {
        let mut text = ONTOLOGY.to_owned();
        let mut with = |is: &str, becomes: &str| {
            ensure!(text.matches(is).count() == 1, "the race's ontology has no {is:?}");
            text = text.replace(is, becomes);
            Ok(())
        };
        if !self.unique {
            with("node Task {\n    code: String [required, unique]", "node Task {\n    code: String [required]")?;
        }
        if !self.ordered {
            with("due: Int [>= 0, indexed]", "due: Int [>= 0]")?;
        }
        Ok(text)
    }
}

pub fn open(log: &Path, indexes: Indexes) -> Result<(Store, Opened)> {
    let ontology = mew_lang::parse_ontology(&indexes.ontology()?).map_err(|d| anyhow!("{d:?}"))?;
    let options = Options { kernel_id: "bench.k".into(), new_incarnation: "i".into(), segment_bytes: SEGMENT_BYTES };
    Ok(Store::open(Arc::new(DirDisk::new(log)?), Arc::new(ontology), options)?)
}

pub fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Runs a statement for all rows, durably.
pub fn execute(k: &Kernel, text: &str, table: Table) -> Result<Summary> {
    Ok(k.execute_table(now_ms(), text, table)?.summary)
}

/// Makes the rows of these numbers.
pub fn load(k: &Kernel, all: Range<u64>) -> Result<()> {
    for first in all.clone().step_by(LOAD as usize) {
        execute(k, SPAWN, new_rows(first..all.end.min(first + LOAD)))?;
    }
    Ok(())
}

pub fn new_rows(ids: impl Iterator<Item = u64>) -> Table {
    let row = |i: u64| {
        let t = task(i, 0);
        [text(&t.id), text(&t.code), Value::Bool(t.shared)].into_iter().chain(changing(&t)).collect()
    };
    Table { names: names(&["id", "code", "shared"]), rows: ids.map(row).collect() }
}

/// Updates of rows that are there, found by their unique value.
pub fn updates(ids: &[u64], version: i64) -> Table {
    let row = |i: &u64| {
        let t = task(*i, version);
        [text(&t.code)].into_iter().chain(changing(&t)).collect()
    };
    Table { names: names(&["code"]), rows: ids.iter().map(row).collect() }
}

pub fn update(k: &Kernel, ids: &[u64], version: i64) -> Result<()> {
    let n = execute(k, UPDATE, updates(ids, version))?.set;
    ensure!(n as usize == ids.len(), "{n} rows were updated, not {}", ids.len());
    Ok(())
}

/// The rows with these numbers, to be deleted.
pub fn codes(ids: &[u64]) -> Table {
    Table { names: vec!["code".to_owned()], rows: ids.iter().map(|i| vec![text(&task(*i, 0).code)]).collect() }
}

fn names(first: &[&str]) -> Vec<String> {
    first.iter().chain(&CHANGING).map(|n| (*n).to_owned()).collect()
}

fn text(s: &str) -> Value {
    Value::String(s.to_owned())
}

fn changing(t: &Task) -> [Value; 8] {
    [
        text(&t.title),
        text(t.status),
        Value::Int(t.priority),
        text(&t.assignee),
        Value::Int(t.due),
        Value::Float(t.estimate),
        Value::Int(t.version),
        text(&t.note),
    ]
}

/// Living entities, and the bytes of their newest versions as they lie in the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Live {
    pub entities: u64,
    pub bytes: u64,
}

pub fn live(k: &Kernel) -> Result<Live> {
    let (mut out, mut place, mut chunk) = (Live::default(), Place::default(), Vec::new());
    while k.feed(&mut place, &mut chunk)? {
        for s in chunk.drain(..) {
            if !s.entity()?.deleted {
                out.entities += 1;
                out.bytes += RECORD + s.bytes.len() as u64;
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_of_indexes_is_an_ontology() {
        for indexes in [Indexes::BOTH, Indexes::UNIQUE, Indexes::NONE] {
            let o = mew_lang::parse_ontology(&indexes.ontology().expect("it has the attributes")).expect("it is right");
            let t = o.get("Task").expect("the type");
            assert_eq!((!t.unique.is_empty(), !t.indexed.is_empty()), (indexes.unique, indexes.ordered), "{indexes:?}");
        }
    }
}
