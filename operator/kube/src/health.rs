//! `/live`, `/ready` and `/metrics` of the operator.

use crate::lease::Tenure;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use mew_inject::Outcome;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Default)]
pub struct Health(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<Leadership>,
    status_writes: AtomicU64,
    status_errors: AtomicU64,
    /// Statuses that wait to be written.
    status_queue: AtomicU64,
    plans: AtomicU64,
    /// Of pods that were created.
    injected: AtomicU64,
    refused: AtomicU64,
}

#[derive(Default)]
struct Leadership {
    /// If this replica leads, for as long as it may.
    tenure: Option<Tenure>,
    leader: Option<String>,
    problem: Option<String>,
    /// Why the webhook cannot answer yet.
    webhook: Option<String>,
}

impl Leadership {
    /// Whether this replica leads, and who does. Nobody knows the latter when its own time has run out.
    fn leader(&self) -> (bool, Option<String>) {
        match &self.tenure {
            Some(t) if !t.holds() => (false, None),
            t => (t.is_some(), self.leader.clone()),
        }
    }
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, Leadership> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this replica leads, and who does.
    pub fn leader(&self) -> (bool, Option<String>) {
        self.lock().leader()
    }

    /// `tenure` is this replica's own, if it leads.
    pub fn set_leader(&self, tenure: Option<Tenure>, leader: Option<String>) {
        let mut s = self.lock();
        (s.tenure, s.leader) = (tenure, leader);
        s.problem = None;
    }

    pub fn set_problem(&self, p: Option<String>) {
        self.lock().problem = p;
    }

    pub fn set_webhook(&self, p: Option<String>) {
        self.lock().webhook = p;
    }

    pub fn count_review(&self, outcome: Outcome) {
        match outcome {
            Outcome::Injected => self.0.injected.fetch_add(1, Ordering::Relaxed),
            Outcome::Refused => self.0.refused.fetch_add(1, Ordering::Relaxed),
            Outcome::Unchanged | Outcome::Malformed => 0,
        };
    }

    pub fn count_write(&self) {
        self.0.status_writes.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_write_error(&self) {
        self.0.status_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub fn set_queue(&self, waiting: usize) {
        self.0.status_queue.store(waiting as u64, Ordering::Relaxed);
    }

    pub fn count_plan(&self) {
        self.0.plans.fetch_add(1, Ordering::Relaxed);
    }
}

pub async fn serve(health: Health, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
    let app = Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health);
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// A replica that follows a leader is as ready as the leader: it can take over.
async fn ready(State(h): State<Health>) -> impl IntoResponse {
    let s = h.lock();
    let (leads, leader) = s.leader();
    match (s.problem.as_ref().or(s.webhook.as_ref()), leader) {
        (Some(p), _) => (StatusCode::SERVICE_UNAVAILABLE, format!("{p}\n")),
        (None, None) => (StatusCode::SERVICE_UNAVAILABLE, "no leader yet\n".into()),
        (None, Some(l)) => (StatusCode::OK, if leads { "leading\n".into() } else { format!("following {l}\n") }),
    }
}

async fn metrics(State(h): State<Health>) -> impl IntoResponse {
    let mut r = Registry::default();
    r.register("mew_operator_leading", "1 on the leader", ConstGauge::new(i64::from(h.leader().0)));
    let waiting = i64::try_from(h.0.status_queue.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
    r.register("mew_operator_status_queue", "Statuses that wait to be written", ConstGauge::new(waiting));
    for (name, help, count) in [
        ("mew_operator_status_writes", "Statuses written to the API server", &h.0.status_writes),
        ("mew_operator_status_errors", "Writes of a status that failed and are repeated", &h.0.status_errors),
        ("mew_operator_plans", "Times that everything was planned", &h.0.plans),
        ("mew_operator_pods_injected", "Pods that were given an agent when they were created", &h.0.injected),
        ("mew_operator_pods_refused", "Pods that were refused for what they say of their agent", &h.0.refused),
    ] {
        r.register(name, help, ConstCounter::new(count.load(Ordering::Relaxed)));
    }
    let mut out = String::new();
    let _ = encode(&mut out, &r);
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::GIVE_UP;
    use std::time::Instant;

    /// A replica that was stopped for a while has not noticed yet that another one may lead.
    #[test]
    fn who_leads_does_so_no_longer_than_it_may() {
        let h = Health::default();
        assert_eq!(h.leader(), (false, None));
        let t = Tenure::new(Instant::now());
        h.set_leader(Some(t.clone()), Some("me".into()));
        assert_eq!(h.leader(), (true, Some("me".into())));
        t.renew(Instant::now().checked_sub(GIVE_UP).expect("this machine is up for longer than that"));
        assert_eq!(h.leader(), (false, None));
        h.set_leader(None, Some("another".into()));
        assert_eq!(h.leader(), (false, Some("another".into())));
    }
}
