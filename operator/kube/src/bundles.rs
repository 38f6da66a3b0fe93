//! The ConfigMaps that Remotes refer to, read beside everything else: there is no right to list or watch them, and planning
//! waits for none.

use crate::CALL;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use mew_plan::{Name, Objects, namespace_of};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// Each one is read again this often, if they are few.
const REFRESH: Duration = Duration::from_secs(3);
/// Read again in one round, at once: so many namespaces with a bundle each cost the API server no more than 32 reads a second,
/// and a change in one of a thousand is seen within half a minute.
const READS: usize = 16;
const ROUND: Duration = Duration::from_millis(500);

/// Keys and texts of a ConfigMap.
type Data = BTreeMap<String, String>;

pub struct Bundles {
    client: Client,
    known: Mutex<BTreeMap<Name, Known>>,
    wanted: Notify,
    /// Rung when one is another than before.
    pub changed: Notify,
}

#[derive(Default)]
struct Known {
    /// Absent until it was read; then what there is, if there is one.
    found: Option<Option<Data>>,
    tried: Option<Instant>,
}

/// What is known of the bundles of these objects.
pub struct Read {
    pub bundles: BTreeMap<Name, Data>,
    /// Namespaces with a bundle that could not be read yet. Not known is not gone: they have to wait.
    pub waiting: BTreeSet<String>,
}

impl Bundles {
    pub fn new(client: Client) -> Self {
        Bundles { client, known: Mutex::default(), wanted: Notify::new(), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says which ones are wanted from now on, too.
    pub fn of(&self, objects: &Objects) -> Read {
        let mut wanted = BTreeSet::new();
        for (name, r) in &objects.remotes {
            let ns = namespace_of(name);
            wanted.extend(r.spec.peer.trust_bundle_refs.iter().map(|b| format!("{ns}/{}", b.name)));
        }
        let mut known = self.lock();
        known.retain(|n, _| wanted.contains(n));
        for name in wanted {
            known.entry(name).or_insert_with(|| {
                self.wanted.notify_one();
                Known::default()
            });
        }
        let mut read = Read { bundles: BTreeMap::new(), waiting: BTreeSet::new() };
        for (name, k) in known.iter() {
            match &k.found {
                Some(found) => read.bundles.extend(found.as_ref().map(|data| (name.clone(), data.clone()))),
                None => read.waiting.extend([namespace_of(name).to_owned()]),
            }
        }
        read
    }

    /// Reads what is wanted, for as long as it is polled.
    pub async fn run(&self) {
        loop {
            let names = due(&self.lock(), Instant::now());
            let mut reads = std::pin::pin!(futures::stream::iter(names).map(|n| self.read(n)).buffer_unordered(READS));
            while let Some((name, found)) = reads.next().await {
                self.take(name, found);
            }
            tokio::select! {
                () = self.wanted.notified() => {}
                () = sleep(ROUND) => {}
            }
        }
    }

    /// `None` if it is not known.
    async fn read(&self, name: Name) -> (Name, Option<Option<Data>>) {
        let (ns, n) = name.split_once('/').unwrap_or(("", &name));
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), ns);
        let found = match timeout(CALL, api.get_opt(n)).await {
            Ok(Ok(found)) => Some(found.map(|c| c.data.unwrap_or_default())),
            Ok(Err(e)) => {
                tracing::warn!(%name, error = %e, "a trust bundle cannot be read");
                None
            }
            Err(_) => {
                tracing::warn!(%name, "a trust bundle was not read in time");
                None
            }
        };
        (name, found)
    }

    fn take(&self, name: Name, found: Option<Option<Data>>) {
        let mut known = self.lock();
        let Some(k) = known.get_mut(&name) else { return };
        k.tried = Some(Instant::now());
        if found.is_some() && k.found != found {
            k.found = found;
            self.changed.notify_one();
        }
    }
}

/// What is to be read now: everything that was never tried, and of the rest what was read the longest ago.
fn due(known: &BTreeMap<Name, Known>, now: Instant) -> Vec<Name> {
    let mut names: Vec<Name> = known.iter().filter(|(_, k)| k.tried.is_none()).map(|(n, _)| n.clone()).collect();
    let again = known.iter().filter_map(|(n, k)| Some((k.tried?, n)));
    let mut again: Vec<_> = again.filter(|(t, _)| now.saturating_duration_since(*t) >= REFRESH).collect();
    again.sort();
    names.extend(again.into_iter().take(READS).map(|(_, n)| n.clone()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_ones_are_read_at_once_and_others_in_turn() {
        let now = Instant::now() + Duration::from_secs(3600);
        let tried = |seconds: u64| Known { found: None, tried: Some(now - Duration::from_secs(seconds)) };
        let mut known: BTreeMap<Name, Known> = (0..40).map(|i| (format!("a/{i:02}"), tried(10 + i))).collect();
        known.insert("a/fresh".into(), tried(1));
        for i in 0..100 {
            known.insert(format!("new/{i:02}"), Known::default());
        }
        let names = due(&known, now);
        assert_eq!(names.len(), 100 + READS);
        assert!(names[..100].iter().all(|n| n.starts_with("new/")));
        assert_eq!((names[100].as_str(), names[115].as_str()), ("a/39", "a/24"), "the longest ago first");
    }
}
