//! The directory of a disk in memory: which file has which name, and what of that a power loss takes back.

use std::collections::{BTreeMap, BTreeSet};

/// A file, whatever its name is.
pub type FileId = u64;

type Entries = BTreeMap<String, FileId>;

#[derive(Default, Clone)]
pub struct Names {
    durable: Entries,
    now: Entries,
    /// What came between the two.
    unsynced: Vec<Unsynced>,
}

/// It says of which file, because what came before it may be lost.
#[derive(Clone)]
enum Unsynced {
    /// The file has this name, and no other: a new one, or one that is renamed.
    Given(String, FileId),
    Taken(String, FileId),
}

impl Unsynced {
    fn arrive(&self, on: &mut Entries) {
        match self {
            Unsynced::Given(name, file) => {
                on.retain(|_, f| *f != *file);
                on.insert(name.clone(), *file);
            }
            Unsynced::Taken(name, file) => {
                if on.get(name) == Some(file) {
                    on.remove(name);
                }
            }
        }
    }
}

impl Names {
    pub fn find(&self, name: &str) -> Option<FileId> {
        self.now.get(name).copied()
    }

    pub fn list(&self) -> Vec<String> {
        self.now.keys().cloned().collect()
    }

    /// In place of what has the name.
    pub fn give(&mut self, name: &str, file: FileId) {
        self.changed(Unsynced::Given(name.to_owned(), file));
    }

    /// Whether it was there.
    pub fn take(&mut self, name: &str) -> bool {
        let found = self.find(name);
        if let Some(file) = found {
            self.changed(Unsynced::Taken(name.to_owned(), file));
        }
        found.is_some()
    }

    fn changed(&mut self, u: Unsynced) {
        u.arrive(&mut self.now);
        self.unsynced.push(u);
    }

    pub fn sync(&mut self) {
        self.durable.clone_from(&self.now);
        self.unsynced.clear();
    }

    /// Of what was not synced, that stays which `survives`, whatever came before or after it.
    pub fn lose_power(&mut self, mut survives: impl FnMut() -> bool) {
        for u in std::mem::take(&mut self.unsynced) {
            if survives() {
                u.arrive(&mut self.durable);
            }
        }
        self.now.clone_from(&self.durable);
    }

    /// The files that have a name, or may have one again after a power loss.
    pub fn files(&self) -> BTreeSet<FileId> {
        let unsynced = self.unsynced.iter().map(|u| match u {
            Unsynced::Given(_, file) | Unsynced::Taken(_, file) => *file,
        });
        self.durable.values().chain(self.now.values()).copied().chain(unsynced).collect()
    }
}
