//! What a snapshot holds, in short: enough to tell whether an agent has confirmed an item as it is planned now. Whole
//! snapshots of 10,000 items would be kept several times over for that.

use crate::Name;
use mew_contract::Snapshot;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The field of a Remote's item that may differ for a moment, see `remote::is_confirmed`.
const ROOTS: &str = "roots";

/// Stands for the content of an item: the same bytes give the same mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    all: [u8; 16],
    /// Of everything but the roots, if it has any.
    but_roots: [u8; 16],
}

impl Mark {
    fn of(item: &Value) -> Self {
        let all = digest(item);
        let but_roots = match item.as_object() {
            Some(fields) if fields.contains_key(ROOTS) => {
                let others: BTreeMap<&String, &Value> = fields.iter().filter(|(f, _)| *f != ROOTS).collect();
                digest(&others)
            }
            _ => all,
        };
        Mark { all, but_roots }
    }

    pub(crate) fn is_same_but_for_roots(self, other: Mark) -> bool {
        self.but_roots == other.but_roots
    }
}

fn digest<T: Serialize>(t: &T) -> [u8; 16] {
    let digest = Sha256::digest(serde_json::to_vec(t).unwrap_or_default());
    let mut out = [0; 16];
    out.copy_from_slice(&digest[..16]);
    out
}

/// An item as it goes into a snapshot.
pub(crate) struct Item {
    value: Value,
    pub mark: Mark,
}

impl Item {
    pub fn of<T: Serialize>(t: &T) -> Option<Self> {
        let value = serde_json::to_value(t).ok()?;
        Some(Item { mark: Mark::of(&value), value })
    }

    /// The item itself. It is taken once; afterwards only the mark is left.
    pub fn take(&mut self) -> Value {
        self.value.take()
    }
}

/// The marks of a snapshot's items, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Items {
    remotes: BTreeMap<Name, Mark>,
    syncs: BTreeMap<Name, Mark>,
}

impl Items {
    pub fn of(s: &Snapshot) -> Self {
        let marks = |list: &[Value]| -> BTreeMap<Name, Mark> {
            let named = list.iter().filter_map(|i| Some((i.get("name")?.as_str()?.to_owned(), Mark::of(i))));
            named.collect()
        };
        Items { remotes: marks(&s.remotes), syncs: marks(&s.syncs) }
    }

    /// Whether each of the others is here, and the same.
    pub(crate) fn has_all_of(&self, others: &Items) -> bool {
        let has =
            |here: &BTreeMap<Name, Mark>, all: &BTreeMap<Name, Mark>| all.iter().all(|(n, m)| here.get(n) == Some(m));
        has(&self.remotes, &others.remotes) && has(&self.syncs, &others.syncs)
    }

    pub(crate) fn remote(&self, name: &str) -> Option<Mark> {
        self.remotes.get(name).copied()
    }

    pub(crate) fn sync(&self, name: &str) -> Option<Mark> {
        self.syncs.get(name).copied()
    }
}
