//! Leader election by a Lease. Every write carries the resourceVersion that was read, so two replicas cannot both win. Clocks
//! are not compared: each replica judges by its own waiting.

use crate::{CALL, MANAGER};
use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;

const NAME: &str = "mew-operator";
/// How long a lease holds without renewal, and how often it is renewed. A leader that could not renew for
/// [`GIVE_UP`] stops leading before another one may begin.
pub const DURATION: Duration = Duration::from_secs(15);
pub const RENEW: Duration = Duration::from_secs(3);
pub const GIVE_UP: Duration = Duration::from_secs(10);

/// For how long this replica may act as the leader, as all parts of it see it: one that was stopped for a while (a machine that
/// swaps, a debugger) finds out before it writes, not after.
#[derive(Clone, Debug)]
pub struct Tenure(Arc<Mutex<Instant>>);

impl Tenure {
    /// From when the request began that took the lease.
    pub fn new(renewed: Instant) -> Self {
        Tenure(Arc::new(Mutex::new(renewed)))
    }

    pub fn renew(&self, renewed: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = renewed;
    }

    /// What is left of it.
    pub fn left(&self) -> Duration {
        GIVE_UP.saturating_sub(self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed())
    }

    pub fn holds(&self) -> bool {
        !self.left().is_zero()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    Mine,
    Other(String),
}

pub struct Elector {
    api: Api<Lease>,
    me: String,
    /// What the lease said when it was last seen to change, and when that was.
    seen: Option<(Option<LeaseSpec>, Instant)>,
    created: Option<Timestamp>,
}

impl Elector {
    pub fn new(client: Client, namespace: &str, me: &str) -> Self {
        Elector { api: Api::namespaced(client, namespace), me: me.to_owned(), seen: None, created: None }
    }

    /// When the first leader ever began, by the API server's clock; nobody deletes the lease.
    pub fn in_use(&self) -> Option<Timestamp> {
        self.created
    }

    /// Takes or renews the lease, if that is possible now.
    pub async fn try_hold(&mut self) -> Result<Held> {
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let Some(mut lease) = timeout(CALL, self.api.get_opt(NAME)).await?? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() },
                spec: Some(self.spec(None, 0)),
            };
            return match timeout(CALL, self.api.create(&params, &lease)).await? {
                Ok(made) => {
                    self.created = made.metadata.creation_timestamp.map(|t| t.0);
                    Ok(Held::Mine)
                }
                Err(kube::Error::Api(s)) if s.is_already_exists() => Ok(Held::Other("another replica".into())),
                Err(e) => Err(e.into()),
            };
        };
        self.created = lease.metadata.creation_timestamp.as_ref().map(|t| t.0);
        let s = lease.spec.clone().unwrap_or_default();
        let holder = s.holder_identity.clone().unwrap_or_default();
        let transitions = s.lease_transitions.unwrap_or(0);
        lease.spec = Some(if holder == self.me {
            self.spec(s.acquire_time, transitions)
        } else if holder.is_empty() || self.expired(&lease) {
            self.spec(None, transitions + 1)
        } else {
            return Ok(Held::Other(holder));
        });
        match timeout(CALL, self.api.replace(NAME, &params, &lease)).await? {
            Ok(_) => Ok(Held::Mine),
            Err(kube::Error::Api(s)) if s.is_conflict() => Ok(Held::Other("another replica".into())),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether the lease has not changed for as long as it holds. A lease that was never seen before may have been renewed just
    /// now, whatever its time says by this machine's clock.
    fn expired(&mut self, lease: &Lease) -> bool {
        let seconds = lease.spec.as_ref().and_then(|s| s.lease_duration_seconds).unwrap_or(0).max(0);
        let holds = Duration::from_secs(seconds as u64);
        match &self.seen {
            Some((spec, at)) if *spec == lease.spec => at.elapsed() > holds,
            _ => {
                self.seen = Some((lease.spec.clone(), Instant::now()));
                false
            }
        }
    }

    fn spec(&self, acquired: Option<MicroTime>, transitions: i32) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: acquired.or(Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Gives the lease up, so that another replica need not wait for it to expire.
    pub async fn release(&self) {
        if let Ok(Ok(Some(mut lease))) = timeout(CALL, self.api.get_opt(NAME)).await
            && let Some(s) = &mut lease.spec
            && s.holder_identity.as_deref() == Some(&self.me)
        {
            s.holder_identity = None;
            let _ = timeout(CALL, self.api.replace(NAME, &PostParams::default(), &lease)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another replica waits for [`DURATION`] from a later moment on, as it sees a renewal after it was asked for.
    #[test]
    fn a_tenure_is_over_before_another_may_begin() {
        assert!(GIVE_UP + RENEW < DURATION, "also if the last try to renew begins just before it gives up");
        let now = Instant::now();
        let t = Tenure::new(now);
        assert!(t.holds() && t.left() <= GIVE_UP);
        let long_ago = now.checked_sub(GIVE_UP).expect("this machine is up for longer than that");
        t.renew(long_ago);
        assert!(!t.holds() && t.left().is_zero());
        t.renew(now);
        assert!(t.holds(), "for all who share it");
    }
}
