//! Who leads: taking the lease, a term as the leader, and stopping all of it before the lease can be another's.

mod term;

use crate::health::Health;
use crate::lease::{Elector, Held, RENEW, Tenure};
use crate::{CALL, DRAIN, OperatorOptions};
use anyhow::{Result, anyhow, bail};
use kube::Client;
use mew_control::{Authorities, Registry};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// What a leader needs.
#[derive(Clone)]
pub struct Leader {
    pub client: Client,
    pub options: OperatorOptions,
    pub authorities: watch::Receiver<Arc<Authorities>>,
    pub registry: Arc<Registry>,
    pub health: Health,
}

struct Term {
    tenure: Tenure,
    stop: CancellationToken,
    task: JoinHandle<Result<()>>,
}

/// Leads whenever this replica has the lease, until `stop`. An error is a leader that came to its end by itself.
pub async fn run(leader: Leader, mut elector: Elector, stop: CancellationToken) -> Result<()> {
    let mut term = None;
    let ended = elect(&leader, &mut elector, &mut term, &stop).await;
    // Another one may lead as soon as the lease is given up.
    leader.health.set_leader(None, None);
    resign(&mut term, &leader.registry).await;
    // If it cannot be given up now, it expires.
    let _ = timeout(DRAIN, elector.release()).await;
    ended
}

async fn elect(l: &Leader, elector: &mut Elector, term: &mut Option<Term>, stop: &CancellationToken) -> Result<()> {
    loop {
        let began = Instant::now();
        // While leading, an answer that comes after the time to give up is none.
        let limit = term.as_ref().map_or(2 * CALL, |t| t.tenure.left());
        let held = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            held = timeout(limit, elector.try_hold()) => held,
        };
        match held.unwrap_or_else(|_| Err(anyhow!("no answer in time"))) {
            Ok(Held::Mine) => {
                let t = term.get_or_insert_with(|| begin(l, Tenure::new(began), elector, stop));
                t.tenure.renew(began);
                l.health.set_leader(Some(t.tenure.clone()), Some(l.options.identity.clone()));
            }
            Ok(Held::Other(who)) => {
                l.health.set_leader(None, Some(who));
                resign(term, &l.registry).await;
            }
            Err(e) => {
                tracing::warn!("the lease: {e:#}");
                if term.as_ref().is_none_or(|t| !t.tenure.holds()) {
                    l.health.set_leader(None, None);
                    resign(term, &l.registry).await;
                }
            }
        }
        let pause = term.as_ref().map_or(RENEW, |t| RENEW.min(t.tenure.left()));
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            why = over(term) => bail!("leading has ended by itself: {why:#}"),
            () = sleep(pause) => {}
        }
    }
}

fn begin(l: &Leader, tenure: Tenure, elector: &Elector, stop: &CancellationToken) -> Term {
    tracing::info!(identity = %l.options.identity, "leading");
    let stop = stop.child_token();
    let lead = term::lead(l.clone(), tenure.clone(), elector.in_use(), stop.clone());
    Term { tenure, stop, task: tokio::spawn(lead) }
}

/// Why the term came to an end that nobody asked for. A term that goes on has none.
async fn over(term: &mut Option<Term>) -> anyhow::Error {
    let Some(t) = term else { return std::future::pending().await };
    let ended = (&mut t.task).await;
    *term = None;
    match ended {
        Ok(Ok(())) => anyhow!("nobody asked for it"),
        Ok(Err(e)) => e,
        Err(e) => e.into(),
    }
}

async fn resign(term: &mut Option<Term>, registry: &Registry) {
    if let Some(t) = term.take() {
        // Agents look for the new leader, and what they said here is not taken for news in a later term.
        registry.end();
        tracing::info!("no longer leading");
        t.stop.cancel();
        if let Err(e) = t.task.await {
            tracing::error!("the term did not end as it should: {e}");
        }
        // What it delivered meanwhile must not be the first that agents get in a later term.
        registry.end();
    }
}
