//! `/live`, `/ready` and `/metrics`.

use crate::metrics;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use mew_kernel::Kernel;
use mew_net::Hub;
use std::mem::replace;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    kernel: Option<(Arc<Kernel>, Arc<Hub>)>,
    attached: bool,
    upkeep_failures: u32,
    opening: bool,
    /// Why the operator did not say who this kernel is, when it was asked last.
    unidentified: Option<String>,
    standby: Option<String>,
    stopping: bool,
    ontology: Option<String>,
}

impl Inner {
    /// Why the kernel is not open, if nobody else has it.
    fn lacks(&self) -> &str {
        match &self.unidentified {
            _ if self.opening => "its data is being read",
            Some(why) => why,
            None => "the operator has not said yet who this kernel is",
        }
    }
}

impl Health {
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_kernel(&self, k: Arc<Kernel>, h: Arc<Hub>) {
        self.lock().kernel = Some((k, h));
    }

    /// Who this kernel is is known; a large log is read for minutes.
    pub fn set_opening(&self) {
        self.lock().opening = true;
    }

    /// The operator was asked who this kernel is, and did not say.
    pub fn set_unidentified(&self, why: String) {
        self.lock().unidentified = Some(why);
    }

    pub fn set_attached(&self, yes: bool) {
        self.lock().attached = yes;
    }

    /// How often upkeep has failed since it last succeeded.
    pub fn set_upkeep_failures(&self, in_a_row: u32) {
        self.lock().upkeep_failures = in_a_row;
    }

    /// Another holder has the kernel. The pod is ready all the same, so that a rolling update does not wait for ever. It is said
    /// once, however often it is tried meanwhile.
    pub fn set_standby(&self, why: Option<String>) {
        let was = replace(&mut self.lock().standby, why.clone());
        match why {
            Some(why) if was.as_ref() != Some(&why) => tracing::info!("standing by: {why}"),
            None if was.is_some() => tracing::info!("no longer a standby"),
            _ => {}
        }
    }

    /// Why the kernel is not open, before it is.
    pub fn waits_for(&self) -> String {
        let i = self.lock();
        i.standby.clone().unwrap_or_else(|| i.lacks().to_owned())
    }

    /// Applications are not to be sent here any more.
    pub fn set_stopping(&self) {
        self.lock().stopping = true;
    }

    pub fn set_ontology_problem(&self, why: Option<String>) {
        self.lock().ontology = why;
    }

    pub fn ontology_problem(&self) -> Option<String> {
        self.lock().ontology.clone()
    }

    fn ready(&self) -> Result<String, String> {
        let i = self.lock();
        if i.stopping {
            return Err("stopping: what peers have not got yet is sent\n".into());
        }
        match (&i.kernel, &i.standby) {
            (_, Some(why)) => Ok(format!("standby: {why}\n")),
            (None, None) => Err(format!("the kernel is not open yet: {}\n", i.lacks())),
            (Some((k, _)), None) => match k.stuck() {
                Some(w) => Err(format!("the store cannot be written: {w}\n")),
                None => Ok("ready\n".to_owned()),
            },
        }
    }

    fn metrics(&self) -> Result<String, std::fmt::Error> {
        let (open, stands_by, attached, failures) = {
            let i = self.lock();
            (i.kernel.clone(), i.standby.is_some(), i.attached, i.upkeep_failures)
        };
        match open {
            Some((kernel, hub)) => metrics::of_open(&kernel, &hub, !stands_by, attached, failures),
            None => metrics::of_waiting(),
        }
    }
}

pub async fn serve(health: Health, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
    let app = Router::new()
        .route("/live", get(async || "live\n"))
        .route(
            "/ready",
            get(async |State(h): State<Health>| match h.ready() {
                Ok(s) => (StatusCode::OK, s),
                Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
            }),
        )
        .route(
            "/metrics",
            get(async |State(h): State<Health>| match h.metrics() {
                Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
                Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
            }),
        )
        .with_state(health);
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await
}

#[cfg(test)]
mod failing_disk;

#[cfg(test)]
mod tests {
    use super::failing_disk::{listener, send};
    use super::{Health, serve};
    use tokio_util::sync::CancellationToken;

    #[test]
    fn a_standby_is_ready_and_says_for_what_it_waits() {
        let h = Health::new();
        let said = h.ready().expect_err("the kernel is not open");
        assert!(said.contains("the operator has not said yet who this kernel is"), "{said}");
        // It is asked again, and until then there is a reason.
        let refused = "the operator refuses this agent: kernel shop is held by pod-1 with another data directory";
        h.set_unidentified(refused.to_owned());
        assert_eq!(h.ready(), Err(format!("the kernel is not open yet: {refused}\n")));
        assert_eq!(h.waits_for(), refused, "applications are told the same");
        h.set_standby(Some("pod-1 still holds kernel shop".to_owned()));
        assert_eq!(h.ready(), Ok("standby: pod-1 still holds kernel shop\n".to_owned()));
        h.set_opening();
        h.set_standby(None);
        let said = h.ready().expect_err("the kernel is not open");
        assert!(said.contains("its data is being read"), "{said}");
    }

    #[tokio::test]
    async fn an_agent_that_waits_for_its_kernel_has_a_page_of_metrics() {
        let h = Health::new();
        let (port, address) = listener().await;
        let stop = CancellationToken::new();
        tokio::spawn(serve(h.clone(), port, stop.clone()));
        for standby in [None, Some("pod-1 still holds kernel shop".to_owned())] {
            h.set_standby(standby.clone());
            let (code, page) = send(address, "GET /metrics HTTP/1.1\r\nHost: localhost", "").await;
            assert_eq!(code, 200, "{standby:?}: {page}");
            // What a scraper reads until: without it the page is cut off, and all of it is thrown away.
            assert!(page.ends_with("# EOF\n"), "{standby:?}: {page}");
            for known in ["\nmew_agent_serving 0\n", "\nmew_agent_info{version=\""] {
                assert!(page.contains(known), "{known:?}, {standby:?}: {page}");
            }
            // There is an alert on it that says that data flows on.
            assert!(!page.contains("mew_agent_attached"), "{standby:?}: {page}");
        }
        stop.cancel();
    }
}
