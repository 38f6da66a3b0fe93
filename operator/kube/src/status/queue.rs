//! Statuses that are to be written, in the order in which they matter. Of each object only the newest counts, one at a time
//! is written, and none is lost. Pure: time is an argument.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Every so many writes the one that waits the longest is next, whatever it is: those that keep coming must not keep the
/// others back for ever.
const FAIR: u64 = 8;
/// How long a watch may take to show what was written. Later it is taken for somebody else's doing, and written again, which
/// changes nothing if it was not.
const ECHO: Duration = Duration::from_secs(10);
/// Between tries of one object.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Remote,
    Sync,
    Policy,
}

/// Kind, and `namespace/name`.
pub type Key = (Kind, String);

/// The most urgent first: what is wrong with a Remote explains its Syncs, and what has failed matters more than what works
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    RemoteWorse,
    Remote,
    Worse,
    Other,
}

/// `E`: what is said about it besides.
#[derive(Debug)]
pub struct Change<E> {
    pub rank: Rank,
    /// The status, as JSON.
    pub status: String,
    pub event: Option<E>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Written,
    /// There is no such object any more.
    Gone,
    Failed,
}

/// When there is something to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Now,
    At(Instant),
    Never,
}

struct Entry<E> {
    change: Arc<Change<E>>,
    /// Ascending by age.
    place: u64,
    /// That failed one after the other.
    tries: u32,
    /// Not before this.
    at: Option<Instant>,
}

pub struct Queue<E> {
    waiting: BTreeMap<Key, Entry<E>>,
    /// Those of `waiting` that may be written now, by urgency and by age.
    urgent: BTreeMap<(Rank, u64), Key>,
    oldest: BTreeMap<u64, Key>,
    /// Those that failed, by when their time comes. The rest of `waiting` are those that are being written in an older version.
    later: BTreeMap<(Instant, u64), Key>,
    writing: BTreeMap<Key, Entry<E>>,
    /// What was written and no watch has shown yet.
    written: BTreeMap<Key, (String, Instant)>,
    places: u64,
    picks: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Queue {
            waiting: BTreeMap::new(),
            urgent: BTreeMap::new(),
            oldest: BTreeMap::new(),
            later: BTreeMap::new(),
            writing: BTreeMap::new(),
            written: BTreeMap::new(),
            places: 0,
            picks: 0,
        }
    }
}

impl<E> Queue<E> {
    /// Waiting or being written.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.writing.len()
    }

    /// The object shall have this status and has another one. What waited for it counts no more; its place in the queue does.
    pub fn put(&mut self, key: Key, change: Change<E>, now: Instant) {
        let same = |status: &str| status == change.status;
        let is_known = self.writing.get(&key).is_some_and(|w| same(&w.change.status))
            || self.written.get(&key).is_some_and(|(s, at)| same(s) && now.saturating_duration_since(*at) < ECHO);
        if is_known {
            self.drop_waiting(&key);
            return;
        }
        let entry = match self.drop_waiting(&key) {
            Some(old) => Entry { change: Arc::new(change), ..old },
            None => {
                self.places += 1;
                Entry { change: Arc::new(change), place: self.places, tries: 0, at: None }
            }
        };
        self.wait(key, entry);
    }

    /// The object has the status that it shall have.
    pub fn settled(&mut self, key: &Key) {
        self.drop_waiting(key);
        self.written.remove(key);
    }

    /// Forgets objects that are gone.
    pub fn retain(&mut self, exists: impl Fn(&Key) -> bool) {
        let gone: Vec<Key> = self.waiting.keys().chain(self.written.keys()).filter(|k| !exists(k)).cloned().collect();
        for key in gone {
            self.settled(&key);
        }
    }

    pub fn due(&self, now: Instant) -> Due {
        if !self.urgent.is_empty() {
            return Due::Now;
        }
        match self.later.first_key_value() {
            Some(((at, _), _)) if *at <= now => Due::Now,
            Some(((at, _), _)) => Due::At(*at),
            None => Due::Never,
        }
    }

    /// What is written next, if something is due; [`Queue::done`] must follow.
    pub fn next(&mut self, now: Instant) -> Option<(Key, Arc<Change<E>>)> {
        while let Some(entry) = self.later.first_entry().filter(|e| e.key().0 <= now) {
            let key = entry.remove();
            if let Some(e) = self.waiting.get_mut(&key) {
                e.at = None;
                self.urgent.insert((e.change.rank, e.place), key.clone());
                self.oldest.insert(e.place, key);
            }
        }
        self.picks += 1;
        let next =
            if self.picks.is_multiple_of(FAIR) { self.oldest.values().next() } else { self.urgent.values().next() };
        let key = next?.clone();
        let entry = self.drop_waiting(&key)?;
        let change = entry.change.clone();
        self.writing.insert(key.clone(), entry);
        Some((key, change))
    }

    pub fn done(&mut self, key: &Key, outcome: Outcome, now: Instant) {
        let Some(was) = self.writing.remove(key) else { return };
        // What came meanwhile is written instead.
        let newer = self.waiting.remove(key);
        match outcome {
            Outcome::Written => {
                self.written.insert(key.clone(), (was.change.status.clone(), now));
                if let Some(e) = newer {
                    self.wait(key.clone(), e);
                }
            }
            Outcome::Gone => {
                self.written.remove(key);
            }
            Outcome::Failed => {
                let change = newer.map_or(was.change, |e| e.change);
                let at = Some(now + backoff(was.tries));
                self.wait(key.clone(), Entry { change, at, tries: was.tries.saturating_add(1), place: was.place });
            }
        }
    }

    fn wait(&mut self, key: Key, entry: Entry<E>) {
        if !self.writing.contains_key(&key) {
            match entry.at {
                Some(at) => drop(self.later.insert((at, entry.place), key.clone())),
                None => {
                    self.urgent.insert((entry.change.rank, entry.place), key.clone());
                    self.oldest.insert(entry.place, key.clone());
                }
            }
        }
        self.waiting.insert(key, entry);
    }

    fn drop_waiting(&mut self, key: &Key) -> Option<Entry<E>> {
        let e = self.waiting.remove(key)?;
        match e.at {
            Some(at) => drop(self.later.remove(&(at, e.place))),
            None => {
                self.urgent.remove(&(e.change.rank, e.place));
                self.oldest.remove(&e.place);
            }
        }
        Some(e)
    }
}

fn backoff(tries: u32) -> Duration {
    RETRY_MIN.saturating_mul(2_u32.saturating_pow(tries)).min(RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(name: &str) -> Key {
        (Kind::Sync, name.to_owned())
    }

    fn change(rank: Rank, status: &str) -> Change<&'static str> {
        Change { rank, status: status.to_owned(), event: Some("event") }
    }

    /// Writes everything that is due, one after the other.
    fn written(q: &mut Queue<&'static str>, now: Instant) -> Vec<String> {
        let mut out = Vec::new();
        while let Some((key, c)) = q.next(now) {
            q.done(&key, Outcome::Written, now);
            out.push(format!("{} {}", key.1, c.status));
        }
        out
    }

    #[test]
    fn remotes_first_and_worsening_before_improving() {
        let (mut q, now) = (Queue::default(), Instant::now());
        q.put(sync("better"), change(Rank::Other, "1"), now);
        q.put(sync("worse"), change(Rank::Worse, "1"), now);
        q.put((Kind::Remote, "better-remote".into()), change(Rank::Remote, "1"), now);
        q.put((Kind::Remote, "worse-remote".into()), change(Rank::RemoteWorse, "1"), now);
        q.put(sync("worse-too"), change(Rank::Worse, "1"), now);
        let order = ["worse-remote 1", "better-remote 1", "worse 1", "worse-too 1", "better 1"];
        assert_eq!(written(&mut q, now), order);
        assert_eq!((q.len(), q.due(now)), (0, Due::Never));
    }

    #[test]
    fn the_newest_status_is_written_once_in_the_place_of_the_first() {
        let (mut q, now) = (Queue::default(), Instant::now());
        q.put(sync("a"), change(Rank::Worse, "1"), now);
        q.put(sync("b"), change(Rank::Worse, "1"), now);
        q.put(sync("a"), change(Rank::Worse, "2"), now);
        assert_eq!(q.len(), 2);
        assert_eq!(written(&mut q, now), ["a 2", "b 1"]);
        // It has come back to what it was: there is nothing to write.
        q.put(sync("c"), change(Rank::Worse, "1"), now);
        q.settled(&sync("c"));
        assert_eq!((q.len(), q.due(now)), (0, Due::Never));
    }

    #[test]
    fn what_was_written_is_not_written_again_while_the_watch_is_behind() {
        let (mut q, now) = (Queue::default(), Instant::now());
        q.put(sync("a"), change(Rank::Worse, "1"), now);
        assert_eq!(written(&mut q, now), ["a 1"]);
        q.put(sync("a"), change(Rank::Worse, "1"), now + ECHO / 2);
        assert_eq!(q.len(), 0);
        q.put(sync("a"), change(Rank::Other, "2"), now + ECHO / 2);
        q.put(sync("a"), change(Rank::Worse, "1"), now + ECHO / 2);
        assert_eq!(q.len(), 0, "and what would undo it is dropped");
        q.put(sync("a"), change(Rank::Worse, "1"), now + ECHO);
        assert_eq!(written(&mut q, now + ECHO), ["a 1"], "somebody else has changed it since");
        q.settled(&sync("a"));
        q.put(sync("a"), change(Rank::Worse, "1"), now + ECHO);
        assert_eq!(q.len(), 1, "the watch has shown it, and another one after it");
    }

    #[test]
    fn one_object_is_written_by_one_at_a_time() {
        let (mut q, now) = (Queue::default(), Instant::now());
        q.put(sync("a"), change(Rank::Worse, "1"), now);
        let (key, _) = q.next(now).expect("it is due");
        q.put(sync("a"), change(Rank::Worse, "1"), now);
        assert_eq!(q.len(), 1, "the same is on its way");
        q.put(sync("a"), change(Rank::Other, "2"), now);
        assert_eq!((q.len(), q.due(now)), (2, Due::Never));
        assert!(q.next(now).is_none());
        q.done(&key, Outcome::Written, now);
        assert_eq!(written(&mut q, now), ["a 2"]);
    }

    #[test]
    fn what_fails_is_tried_again_later_and_in_its_newest_version() {
        let (mut q, mut now) = (Queue::default(), Instant::now());
        q.put(sync("a"), change(Rank::Worse, "1"), now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let (key, c) = q.next(now).expect("it is due");
            assert_eq!((c.status.as_str(), c.event), ("1", Some("event")), "nothing of it is lost");
            q.done(&key, Outcome::Failed, now);
            let Due::At(at) = q.due(now) else { panic!("it is not due yet") };
            assert!(q.next(at - Duration::from_millis(1)).is_none());
            waits.push((at - now).as_secs());
            now = at;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        q.put(sync("a"), change(Rank::Worse, "2"), now - Duration::from_secs(1));
        assert_eq!(q.due(now - Duration::from_secs(1)), Due::At(now), "news do not make it due");

        // Something newer came while it failed.
        let (key, _) = q.next(now).expect("it is due");
        q.put(sync("a"), change(Rank::Worse, "3"), now);
        q.done(&key, Outcome::Failed, now);
        let Due::At(at) = q.due(now) else { panic!("it is not due yet") };
        assert_eq!(written(&mut q, at), ["a 3"]);
        assert_eq!(q.len(), 0);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let (mut q, now) = (Queue::default(), Instant::now());
        q.put(sync("a"), change(Rank::Worse, "1"), now);
        q.put(sync("b"), change(Rank::Worse, "1"), now);
        let (key, _) = q.next(now).expect("it is due");
        q.done(&key, Outcome::Gone, now);
        q.retain(|_| false);
        assert_eq!((q.len(), q.due(now)), (0, Due::Never));
        assert!(q.written.is_empty() && q.urgent.is_empty() && q.oldest.is_empty());
    }

    #[test]
    fn nothing_waits_for_ever_behind_what_keeps_coming() {
        let (mut q, now) = (Queue::default(), Instant::now());
        q.put(sync("patient"), change(Rank::Other, "1"), now);
        for i in 0..2 * FAIR {
            q.put((Kind::Remote, format!("{i}")), change(Rank::RemoteWorse, "1"), now);
        }
        let first: Vec<String> = written(&mut q, now).into_iter().take(FAIR as usize).collect();
        assert!(first.contains(&"patient 1".to_owned()), "{first:?}");
    }

    /// As when a region is lost, and half of it comes back before it is told.
    #[test]
    fn ten_thousand_transitions_are_ten_thousand_writes_at_most() {
        let (mut q, now) = (Queue::default(), Instant::now());
        for i in 0..10_000 {
            q.put(sync(&format!("{i:05}")), change(Rank::Worse, "down"), now);
        }
        for i in 0..5_000 {
            q.settled(&sync(&format!("{i:05}")));
        }
        for i in 5_000..10_000 {
            q.put(sync(&format!("{i:05}")), change(Rank::Worse, "still down"), now);
        }
        let all = written(&mut q, now);
        assert_eq!(all.len(), 5_000);
        assert!(all.iter().all(|w| w.ends_with(" still down")));
    }
}
