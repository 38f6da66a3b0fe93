//! What each commit writes, as a function of the seed and the commit's number, and so what a store holds after any of them.

use anyhow::{Result, ensure};
use mew_model::name::number;
use mew_model::{Draft, KernelKey, Value};
use mew_store::{Batch, Change, Store, Stored};
use mew_tests::sim::rng::Rng;
use std::collections::BTreeMap;

pub const KERNEL: &str = "power.k";
pub const ONTOLOGY: &str = "node Task { title: String? }";
/// The number of the last commit.
const FACT: &[u8] = b"commits";
/// So few that most are written again and again, and compaction has something to do.
const TASKS: u64 = 120;
/// Of one commit. It may say the same task more than once, and means the last.
const MOST_TASKS: u64 = 12;
/// Some pages, so that one commit is many sectors.
const LONGEST_TITLE: u64 = 2_500;
/// In percent.
const DELETED: u64 = 20;

/// By the number of the task: its title, or that it is deleted.
type Rows = BTreeMap<u64, Option<String>>;

fn written(seed: u64, commit: u64) -> Rows {
    let mut rng = Rng::new(seed.wrapping_add(commit));
    let row = |_| {
        let (task, long) = (rng.below(TASKS), rng.below(LONGEST_TITLE) as usize);
        let title = format!("{commit} {task} {}", "x".repeat(long));
        (task, (!rng.chance(DELETED)).then_some(title))
    };
    (0..1 + commit % MOST_TASKS).map(row).collect()
}

fn id(task: u64) -> String {
    format!("task-{task}")
}

fn title(found: Option<&Stored>) -> Result<Option<String>> {
    let Some(s) = found else { return Ok(None) };
    let e = s.entity()?;
    match e.attr(number("title")) {
        Value::String(title) if !e.deleted => Ok(Some(title)),
        _ => Ok(None),
    }
}

/// The commit with this number, for a store that holds all those before it.
pub fn batch(store: &Store, seed: u64, commit: u64) -> Result<Batch> {
    let view = store.view();
    let mut next = view.next_entity();
    let mut changes = Vec::new();
    for (task, new) in written(seed, commit) {
        let found = view.found(&id(task))?;
        // Who is not there cannot be deleted.
        if new.is_none() && title(found.as_ref())?.is_none() {
            continue;
        }
        let mut d = match &found {
            Some(s) => s.entity()?.to_draft(),
            None => Draft::new(number("Task"), id(task)),
        };
        let replaces = found.as_ref().map(|_| d.time);
        match new {
            Some(title) => {
                d.deleted = false;
                d.set(number("title"), Value::String(title));
            }
            None => d.delete(),
        }
        d.stamp(KernelKey::of(KERNEL), commit, replaces);
        let ent = found.as_ref().map_or(next, |s| s.ent);
        next += u32::from(found.is_none());
        changes.push(Change { ent, origin: KernelKey(0), bytes: d.encode().into(), found });
    }
    Ok(Batch { changes, facts: vec![(FACT.to_vec(), commit.to_string().into_bytes())] })
}

/// How many commits a store holds: each of them whole, all before it as well, and nothing else.
pub fn commits(store: &Store, seed: u64) -> Result<u64> {
    let view = store.view();
    let last: u64 = match view.fact(FACT)? {
        Some(text) => std::str::from_utf8(&text)?.parse()?,
        None => 0,
    };
    let mut all = Rows::new();
    for commit in 1..=last {
        all.extend(written(seed, commit));
    }
    for task in 0..TASKS {
        let (found, expected) = (title(view.found(&id(task))?.as_ref())?, all.get(&task).and_then(Option::as_ref));
        ensure!(
            found.as_ref() == expected,
            "after {last} commits task {task} is {}, not {}",
            shown(found.as_ref()),
            shown(expected)
        );
    }
    let (size, expected) = (view.size(number("Task"))?, all.values().flatten().count() as u64);
    ensure!(size == expected, "after {last} commits there are {size} tasks, not {expected}");
    Ok(last)
}

/// Without what makes it long.
fn shown(title: Option<&String>) -> &str {
    title.map_or("not there", |t| t.trim_end_matches('x'))
}
