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

#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    kernel: Option<(Arc<Kernel>, Arc<Hub>)>,
    attached: bool,
    opening: bool,
    standby: Option<String>,
    stopping: bool,
    ontology: Option<String>,
}

impl Inner {
    /// Why the kernel is not open, if nobody else has it.
    fn lacks(&self) -> &'static str {
        if self.opening { "its data is being read" } else { "the operator has not said yet who this kernel is" }
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

    pub fn set_attached(&self, yes: bool) {
        self.lock().attached = yes;
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
            get(async |State(h): State<Health>| {
                let (both, attached) = {
                    let i = h.lock();
                    (i.kernel.clone(), i.attached)
                };
                let text = both.map_or_else(String::new, |(k, hub)| metrics::text(&k, &hub, attached));
                ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
                    .into_response()
            }),
        )
        .with_state(health);
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await
}

#[cfg(test)]
mod failing_disk;

#[cfg(test)]
mod tests {
    use super::Health;

    #[test]
    fn a_standby_is_ready_and_says_for_what_it_waits() {
        let h = Health::new();
        let said = h.ready().expect_err("the kernel is not open");
        assert!(said.contains("the operator has not said yet who this kernel is"), "{said}");
        h.set_standby(Some("pod-1 still holds kernel shop".to_owned()));
        assert_eq!(h.ready(), Ok("standby: pod-1 still holds kernel shop\n".to_owned()));
        h.set_opening();
        h.set_standby(None);
        let said = h.ready().expect_err("the kernel is not open");
        assert!(said.contains("its data is being read"), "{said}");
    }
}
