//! Versions and causality.
//!
//! An entity's version is (time, writing kernel); its vector names, for each kernel that ever wrote it, the time of
//! that kernel's last write that it includes. Concurrent means: neither vector dominates.
//!
//! Invariant **dominates-implies-later**: if a vector dominates another, its version is later in (time, kernel) order, or is
//! the same write with more knowledge.
//! [`Hlc::next`](crate::Hlc::next) keeps it for local writes and [`Vector::merge`] under last-write-wins.

use crate::{Hlc, KernelKey};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub time: Hlc,
    pub kernel: KernelKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Causality {
    Equal,
    /// The left one is included in the right one.
    Before,
    /// The left one includes the right one.
    After,
    Concurrent,
}

/// Kernel → time of its last included write; ascending by kernel, no zero times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vector(Vec<(KernelKey, Hlc)>);

impl Vector {
    pub fn of(version: Version) -> Self {
        Vector(vec![(version.kernel, version.time)])
    }

    pub fn iter(&self) -> impl Iterator<Item = (KernelKey, Hlc)> + '_ {
        self.0.iter().copied()
    }

    pub fn get(&self, kernel: KernelKey) -> Hlc {
        self.0.binary_search_by_key(&kernel, |e| e.0).map_or(Hlc(0), |i| self.0[i].1)
    }

    /// Raises one kernel's time; never lowers it.
    pub fn raise(&mut self, kernel: KernelKey, time: Hlc) {
        match self.0.binary_search_by_key(&kernel, |e| e.0) {
            Ok(i) => self.0[i].1 = self.0[i].1.max(time),
            Err(i) => self.0.insert(i, (kernel, time)),
        }
    }

    /// Element-wise maximum.
    pub fn merge(&mut self, other: &Vector) {
        for (k, t) in other.iter() {
            self.raise(k, t);
        }
    }

    /// Forgets the oldest entries beyond `most`. Less knowledge can make a conflict of what followed; it never hides one.
    pub fn keep_newest(&mut self, most: usize) {
        if self.0.len() > most {
            self.0.sort_unstable_by_key(|(k, t)| std::cmp::Reverse((*t, *k)));
            self.0.truncate(most);
            self.0.sort_unstable_by_key(|(k, _)| *k);
        }
    }

    pub fn compare(&self, other: &Vector) -> Causality {
        let covers = |a: &Vector, b: &Vector| b.iter().all(|(k, t)| a.get(k) >= t);
        match (covers(self, other), covers(other, self)) {
            (true, true) => Causality::Equal,
            (true, false) => Causality::After,
            (false, true) => Causality::Before,
            (false, false) => Causality::Concurrent,
        }
    }
}
