//! What statuses say, as a watch sees it: which objects are as they should be, when each came to be so, and every write.

use anyhow::{Result, bail, ensure};
use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use mew_crds::{Condition, Remote, Sync as SyncObject};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Ready's status and reason.
pub type Want = (&'static str, &'static str);
/// What an object should say, by its `namespace/name`.
type Goal = Box<dyn Fn(&str) -> Want + Send>;

#[derive(Clone, Debug, Default)]
struct Said {
    ready: (String, String),
    /// The newest generation that the agent is known to have.
    programmed: i64,
    is_good: bool,
}

impl Said {
    fn of(observed: Option<i64>, conditions: &[Condition]) -> Self {
        let find = |kind: &str| conditions.iter().find(|c| c.type_ == kind);
        let ready = find("Ready").map_or_else(Default::default, |c| (c.status.clone(), c.reason.clone()));
        let programmed = observed.filter(|_| find("Programmed").is_some_and(|c| c.status == "True")).unwrap_or(0);
        Said { ready, programmed, is_good: false }
    }
}

#[derive(Default)]
struct State {
    objects: HashMap<String, Said>,
    goal: Option<Goal>,
    good: usize,
    /// Since the goal was set: which object came to be as it should be, and when.
    reached: Vec<(String, Instant)>,
    /// Since then: all changes of objects.
    writes: Vec<Instant>,
    trouble: Option<String>,
}

impl State {
    fn saw(&mut self, name: String, mut said: Said, is_write: bool) {
        let now = Instant::now();
        // That it was created is no write of a status.
        if is_write && self.objects.contains_key(&name) {
            self.writes.push(now);
        }
        said.is_good = self.goal.as_ref().is_some_and(|g| is(&said, g(&name)));
        let was_good = self.objects.get(&name).is_some_and(|s| s.is_good);
        if said.is_good && !was_good {
            self.good += 1;
            self.reached.push((name.clone(), now));
        } else if was_good && !said.is_good {
            self.good -= 1;
        }
        self.objects.insert(name, said);
    }
}

fn is(said: &Said, want: Want) -> bool {
    (said.ready.0.as_str(), said.ready.1.as_str()) == want
}

pub struct Board {
    state: Mutex<State>,
    /// Changes whenever anything does.
    news: watch::Sender<u64>,
}

/// What was seen from when a goal was set until it was reached.
pub struct Reached {
    pub seconds: f64,
    /// In the order in which they came to be as they should be.
    pub order: Vec<String>,
    /// Seconds after the beginning, ascending.
    pub writes: Vec<f64>,
}

impl Board {
    /// Watches Remotes and Syncs of all namespaces, as long as the tasks live.
    pub fn start(client: &Client, tasks: &mut tokio::task::JoinSet<()>) -> Arc<Self> {
        let board = Arc::new(Board { state: Mutex::default(), news: watch::Sender::new(0) });
        tasks.spawn(board.clone().watch(Api::<Remote>::all(client.clone()), |o| {
            o.status.as_ref().map_or_else(Said::default, |s| Said::of(s.observed_generation, &s.conditions))
        }));
        tasks.spawn(board.clone().watch(Api::<SyncObject>::all(client.clone()), |o| {
            o.status.as_ref().map_or_else(Said::default, |s| Said::of(s.observed_generation, &s.conditions))
        }));
        board
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn watch<K>(self: Arc<Self>, api: Api<K>, read: fn(&K) -> Said)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
        while let Some(e) = events.next().await {
            let (o, is_write) = match e {
                Ok(Event::Apply(o)) => (o, true),
                Ok(Event::InitApply(o)) => (o, false),
                Ok(Event::Delete(_) | Event::Init | Event::InitDone) => continue,
                Err(e) => {
                    self.lock().trouble = Some(e.to_string());
                    continue;
                }
            };
            let name = format!("{}/{}", o.namespace().unwrap_or_default(), o.name_any());
            self.lock().saw(name, read(&o), is_write);
            self.news.send_modify(|n| *n += 1);
        }
    }

    /// From now on objects should say this.
    pub fn expect(&self, goal: impl Fn(&str) -> Want + Send + 'static) -> Instant {
        let mut state = self.lock();
        let s = &mut *state;
        (s.good, s.reached, s.writes) = (0, Vec::new(), Vec::new());
        for (name, said) in &mut s.objects {
            said.is_good = is(said, goal(name.as_str()));
            s.good += usize::from(said.is_good);
        }
        s.goal = Some(Box::new(goal));
        Instant::now()
    }

    /// Waits until so many objects say what they should; `since` is what [`Board::expect`] gave.
    pub async fn reached(&self, what: &str, since: Instant, objects: usize, limit: Duration) -> Result<Reached> {
        let mut news = self.news.subscribe();
        let is_reached = async {
            while self.lock().good < objects {
                news.changed().await?;
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(limit, is_reached).await {
            Ok(done) => done?,
            Err(_) => {
                let s = self.lock();
                let wrong = s.objects.iter().find(|(_, said)| !said.is_good);
                let trouble = s.trouble.clone().unwrap_or_default();
                bail!(
                    "{what}: after {} s {} of {objects} objects are as they should be; {wrong:?}; {trouble}",
                    limit.as_secs(),
                    s.good
                );
            }
        }
        let s = self.lock();
        let at = |t: &Instant| t.saturating_duration_since(since).as_secs_f64();
        Ok(Reached {
            // What was good from the start is no news.
            seconds: s.reached.last().map_or(0.0, |(_, t)| at(t)),
            order: s.reached.iter().map(|(name, _)| name.clone()).collect(),
            writes: s.writes.iter().map(at).collect(),
        })
    }

    /// Waits until a Sync says that its agent has this generation.
    pub async fn programmed(&self, name: &str, generation: i64) -> Result<Instant> {
        let mut news = self.news.subscribe();
        while self.lock().objects.get(name).is_none_or(|s| s.programmed < generation) {
            news.changed().await?;
        }
        Ok(Instant::now())
    }

    /// Waits until nothing has changed for so long.
    pub async fn quiet(&self, length: Duration, limit: Duration) -> Result<()> {
        let (mut news, start) = (self.news.subscribe(), Instant::now());
        while let Ok(changed) = tokio::time::timeout(length, news.changed()).await {
            changed?;
            ensure!(start.elapsed() < limit, "statuses are still written after {} s", limit.as_secs());
        }
        Ok(())
    }

    /// Changes of objects since the last goal was set.
    pub fn writes(&self) -> usize {
        self.lock().writes.len()
    }
}
