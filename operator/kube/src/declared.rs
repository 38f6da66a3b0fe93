//! What is declared, as the watches see it. *Empty is not deleted*: a set shrinks only by a delete event or after a
//! complete list, an object that cannot be decoded keeps its last good version, and objects that go because their
//! CustomResourceDefinition does stay in force.
//!
//! Owned by the task that plans; the watches send it what they see.

use crate::doubt::Doubt;
use jiff::Timestamp;
use mew_crds::{FederationPolicy, Remote, Sync};
use mew_plan::{Doubts, Objects};
use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::time::{Duration, Instant};

/// What is kept of objects that went with their CustomResourceDefinition, from when that is back.
pub const GRACE: Duration = Duration::from_secs(600);

/// All kinds.
pub struct Declared {
    pub remotes: Set<Remote>,
    pub syncs: Set<Sync>,
    pub policies: Set<FederationPolicy>,
}

pub enum Change {
    Remote(Of<Remote>),
    Sync(Of<Sync>),
    Policy(Of<FederationPolicy>),
}

/// What a watch says of the objects of its kind.
pub enum Of<K> {
    Put {
        /// `namespace/name`.
        name: String,
        /// Or why it cannot be decoded.
        object: Result<Box<K>, String>,
    },
    Deleted {
        name: String,
        /// By somebody, and not with its CustomResourceDefinition.
        withdrawn: bool,
    },
    Listed(Listed),
    /// After a list, another one is asked for and cannot be had: the definition is away.
    Away,
}

/// A list is complete.
pub struct Listed {
    /// As the names of the watch's namespace begin; empty if it is all of them.
    pub prefix: String,
    pub names: BTreeSet<String>,
    /// The first one of this watch.
    pub is_first: bool,
    /// What is missing went with its CustomResourceDefinition.
    pub is_orphaned: bool,
    /// Since when that is back, if it is there.
    pub back: Option<Instant>,
    /// When the list was complete, for people.
    pub wall: Timestamp,
    /// What the list may lack, judged by that definition.
    pub doubt: Doubt,
}

pub struct Set<K> {
    objects: BTreeMap<String, K>,
    /// Objects that do not decode: name → why.
    broken: BTreeMap<String, String>,
    /// Those of `objects` that went with their CustomResourceDefinition, and since when that is back. Nobody has withdrawn
    /// what they say, so it stays in force; there is no object to write a status to.
    orphans: BTreeMap<String, Option<Instant>>,
    /// First lists that are not complete: one of each namespace that is watched.
    due: usize,
    doubt: Doubt,
}

impl<K> Set<K> {
    fn new(due: usize) -> Self {
        let (objects, broken, orphans) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Set { objects, broken, orphans, due, doubt: Doubt::None }
    }

    pub fn is_orphan(&self, name: &str) -> bool {
        self.orphans.contains_key(name)
    }

    fn remove(&mut self, name: &str) {
        self.objects.remove(name);
        self.broken.remove(name);
        self.orphans.remove(name);
    }

    fn apply(&mut self, change: Of<K>) {
        match change {
            Of::Put { name, object } => self.put(name, object),
            Of::Deleted { name, withdrawn: true } => self.remove(&name),
            Of::Deleted { name, withdrawn: false } => {
                if self.objects.contains_key(&name) {
                    tracing::error!(%name, "its CustomResourceDefinition is gone; what it declares stays in force");
                    self.orphans.insert(name, None);
                } else {
                    self.remove(&name);
                }
            }
            Of::Listed(l) => self.listed(l),
            Of::Away => self.away(),
        }
    }

    fn put(&mut self, name: String, object: Result<Box<K>, String>) {
        self.orphans.remove(&name);
        match object {
            Ok(k) => {
                self.broken.remove(&name);
                self.objects.insert(name, *k);
            }
            Err(e) => {
                tracing::error!(%name, error = %e, "an object that cannot be decoded; its last good version stays in force");
                self.broken.insert(name, e);
            }
        }
    }

    /// What was to be applied again by some time cannot be while there is no definition. The next list says when that is back.
    fn away(&mut self) {
        if matches!(self.doubt, Doubt::Until { .. }) {
            self.doubt = Doubt::Away;
        }
    }

    fn listed(&mut self, l: Listed) {
        let here = |n: &String| n.starts_with(&l.prefix) && !l.names.contains(n);
        let missing: Vec<String> = self.objects.keys().chain(self.broken.keys()).filter(|n| here(n)).cloned().collect();
        for name in missing {
            if self.objects.contains_key(&name) && (l.is_orphaned || self.orphans.contains_key(&name)) {
                let since = self.orphans.entry(name).or_default();
                *since = since.or(l.back);
            } else {
                self.remove(&name);
            }
        }
        self.doubt = match (l.is_first, self.doubt, l.back) {
            (true, was, _) => was.max(l.doubt),
            // It went again.
            (false, Doubt::Until { .. }, None) => Doubt::Away,
            (false, Doubt::Away, Some(back)) => Doubt::Until { end: back + GRACE, back: l.wall },
            (false, was, _) => was,
        };
        if l.is_first {
            self.due = self.due.saturating_sub(1);
        }
    }

    /// Ends what has lasted for as long as it may.
    fn expire(&mut self, now: Instant) {
        let is_over = |back: &Option<Instant>| back.is_some_and(|t| now.saturating_duration_since(t) >= GRACE);
        let over: Vec<String> = self.orphans.iter().filter(|(_, b)| is_over(b)).map(|(n, _)| n.clone()).collect();
        for name in over {
            tracing::warn!(%name, "it went with its CustomResourceDefinition and was not applied again");
            self.remove(&name);
        }
        if let Doubt::Until { end, .. } = self.doubt
            && now >= end
        {
            self.doubt = Doubt::None;
        }
    }
}

impl Declared {
    /// Of these namespaces; of all if there are none.
    pub fn new(namespaces: &[String]) -> Self {
        let due = namespaces.len().max(1);
        Declared { remotes: Set::new(due), syncs: Set::new(due), policies: Set::new(due) }
    }

    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Remote(c) => self.remotes.apply(c),
            Change::Sync(c) => self.syncs.apply(c),
            Change::Policy(c) => self.policies.apply(c),
        }
    }

    /// The first lists are complete: half a list would look like deletions.
    pub fn ready(&self) -> bool {
        (self.remotes.due, self.syncs.due, self.policies.due) == (0, 0, 0)
    }

    pub fn expire(&mut self, now: Instant) {
        self.remotes.expire(now);
        self.syncs.expire(now);
        self.policies.expire(now);
    }

    /// Of which kinds something may be missing that nobody withdrew, and that this leader has never seen.
    pub fn doubts(&self) -> Doubts {
        Doubts {
            remotes: self.remotes.doubt.incomplete(),
            syncs: self.syncs.doubt.incomplete(),
            policies: self.policies.doubt.incomplete(),
        }
    }

    /// Everything to plan by; [`Declared::give_back`] must follow. With 10,000 objects there is no time to copy them.
    pub fn lend(&mut self) -> Objects {
        let unread = self.policies.broken.keys().filter(|n| !self.policies.objects.contains_key(*n));
        Objects {
            unreadable: unread.cloned().collect(),
            remotes: take(&mut self.remotes.objects),
            syncs: take(&mut self.syncs.objects),
            policies: take(&mut self.policies.objects),
            bundles: BTreeMap::new(),
        }
    }

    pub fn give_back(&mut self, o: Objects) {
        self.remotes.objects = o.remotes;
        self.syncs.objects = o.syncs;
        self.policies.objects = o.policies;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(name: &str, object: &'static str) -> Of<&'static str> {
        Of::Put { name: name.into(), object: Ok(Box::new(object)) }
    }

    fn listed(names: &[&str], back: Option<Instant>) -> Listed {
        Listed {
            prefix: String::new(),
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            is_first: false,
            is_orphaned: false,
            back,
            wall: Timestamp::UNIX_EPOCH,
            doubt: Doubt::None,
        }
    }

    fn names<K>(s: &Set<K>) -> Vec<&str> {
        s.objects.keys().map(String::as_str).collect()
    }

    /// Two objects, completely listed.
    fn known() -> Set<&'static str> {
        let mut s = Set::new(1);
        s.apply(put("a/x", "x"));
        s.apply(put("a/y", "y"));
        s.apply(Of::Listed(Listed { is_first: true, ..listed(&["a/x", "a/y"], Some(Instant::now())) }));
        assert_eq!((s.due, s.doubt), (0, Doubt::None));
        s
    }

    #[test]
    fn what_somebody_deletes_is_gone() {
        let mut s = known();
        s.apply(Of::Deleted { name: "a/x".into(), withdrawn: true });
        assert_eq!(names(&s), ["a/y"]);
        s.apply(Of::Listed(listed(&[], Some(Instant::now()))));
        assert!(names(&s).is_empty(), "missing in a complete list of the same definition");
    }

    #[test]
    fn what_goes_with_its_definition_stays_until_the_grace_is_over() {
        let mut s = known();
        s.apply(Of::Deleted { name: "a/x".into(), withdrawn: false });
        // The other one was gone before the watch saw it.
        s.apply(Of::Listed(Listed { is_orphaned: true, ..listed(&[], None) }));
        let long = Instant::now() + 100 * GRACE;
        s.expire(long);
        assert_eq!(names(&s), ["a/x", "a/y"], "the definition is not back");
        assert!(s.is_orphan("a/x") && s.is_orphan("a/y"));

        let back = long;
        s.apply(Of::Listed(Listed { is_orphaned: true, ..listed(&[], Some(back)) }));
        s.apply(Of::Listed(listed(&[], Some(back + GRACE / 2))));
        s.apply(put("a/x", "applied again"));
        assert!(!s.is_orphan("a/x"));
        s.expire(back + GRACE - Duration::from_secs(1));
        assert_eq!(names(&s), ["a/x", "a/y"]);
        s.expire(back + GRACE);
        assert_eq!(names(&s), ["a/x"], "counted from when the definition came back, not from the last list");
    }

    #[test]
    fn what_cannot_be_decoded_keeps_its_last_good_version() {
        let mut s = known();
        s.apply(Of::Put { name: "a/x".into(), object: Err("unknown field quota".into()) });
        assert_eq!(s.objects.get("a/x"), Some(&"x"));
        s.apply(Of::Listed(listed(&["a/x", "a/y"], Some(Instant::now()))));
        assert_eq!(names(&s), ["a/x", "a/y"]);
        s.apply(Of::Deleted { name: "a/x".into(), withdrawn: true });
        assert!(s.broken.is_empty());
    }

    #[test]
    fn a_list_of_one_namespace_says_nothing_of_the_others() {
        let mut s = known();
        s.apply(put("b/z", "z"));
        s.apply(Of::Listed(Listed { prefix: "a/".into(), ..listed(&["a/y"], Some(Instant::now())) }));
        assert_eq!(names(&s), ["a/y", "b/z"]);
    }

    #[test]
    fn doubt_ends_a_grace_after_the_definition_is_back() {
        let mut s: Set<&str> = Set::new(2);
        s.apply(Of::Listed(Listed { is_first: true, ..listed(&[], Some(Instant::now())) }));
        s.apply(Of::Listed(Listed { is_first: true, doubt: Doubt::Away, ..listed(&[], None) }));
        assert_eq!((s.due, s.doubt), (0, Doubt::Away), "one doubtful list is enough");
        s.expire(Instant::now() + 100 * GRACE);
        assert_eq!(s.doubt, Doubt::Away);
        let back = Instant::now();
        s.apply(Of::Listed(listed(&[], Some(back))));
        s.apply(Of::Listed(listed(&[], Some(back + GRACE / 2))));
        assert_eq!(s.doubt, Doubt::Until { end: back + GRACE, back: Timestamp::UNIX_EPOCH });
        s.expire(back + GRACE);
        assert_eq!(s.doubt, Doubt::None);
    }

    /// While the definition is away again, nothing can be applied.
    #[test]
    fn doubt_does_not_end_while_the_definition_is_away_again() {
        let back = Instant::now();
        let until = |back: Instant| Doubt::Until { end: back + GRACE, back: Timestamp::UNIX_EPOCH };
        let goes: [fn() -> Of<&'static str>; 2] = [|| Of::Away, || Of::Listed(listed(&[], None))];
        for gone in goes {
            let mut s: Set<&str> = Set::new(1);
            s.apply(Of::Listed(Listed { is_first: true, doubt: until(back), ..listed(&[], Some(back)) }));
            s.apply(gone());
            s.expire(back + 2 * GRACE);
            assert_eq!(s.doubt, Doubt::Away);
            let again = back + 3 * GRACE;
            s.apply(Of::Listed(listed(&[], Some(again))));
            s.expire(again + GRACE - Duration::from_secs(1));
            assert_eq!(s.doubt, until(again), "whoever applies it has the whole time again");
            s.expire(again + GRACE);
            assert_eq!(s.doubt, Doubt::None);
        }
        // What has never been in doubt is remembered.
        let mut s = known();
        s.apply(Of::Away);
        assert_eq!(s.doubt, Doubt::None);
    }
}
