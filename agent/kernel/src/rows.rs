//! What a statement gives back.

use mew_model::Value;

/// Counts of what was changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub spawned: u64,
    pub set: u64,
    pub killed: u64,
    pub linked: u64,
    pub unlinked: u64,
}

impl Summary {
    pub fn add(&mut self, o: Summary) {
        self.spawned += o.spawned;
        self.set += o.set;
        self.killed += o.killed;
        self.linked += o.linked;
        self.unlinked += o.unlinked;
    }
}

/// The last statement's rows, and what all statements changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
    pub summary: Summary,
    /// The newest seq that the request committed; 0 if it changed nothing.
    pub seq: u64,
}
