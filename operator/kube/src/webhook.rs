//! The admission webhook that injects agents. Every replica answers, whoever leads: a pod must not wait for an election.

mod authorities;
mod keeper;

use crate::health::Health;
use anyhow::Result;
use arc_swap::ArcSwapOption;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures::{Stream, StreamExt};
use keeper::Keeper;
use kube::Client;
use mew_control::Authorities;
use mew_inject::{Outcome, Settings, review};
use mew_tls::{MtlsStream, incoming};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

/// An object has at most 3 MiB in a request to the API server; a review may hold it twice, and what else was asked.
const BODY: usize = 7 << 20;
/// For reading one. The API server waits for at most 30 seconds.
const READ: Duration = Duration::from_secs(10);
/// Reviews at once: their bodies are in memory together. Others wait.
const REVIEWS: usize = 16;

#[derive(Clone, Debug)]
pub struct WebhookOptions {
    pub listen: SocketAddr,
    /// Names and addresses under which the API server reaches it.
    pub names: Vec<String>,
    /// The MutatingWebhookConfiguration that sends pods here.
    pub configuration: String,
    /// How agents are injected; the roots are this operator's.
    pub settings: Settings,
}

/// Serves, and keeps certificate and configuration as they must be, until `stop`.
pub async fn run(
    client: Client,
    namespace: String,
    options: WebhookOptions,
    authorities: watch::Receiver<Arc<Authorities>>,
    listener: TcpListener,
    health: Health,
    stop: CancellationToken,
) -> Result<()> {
    let certificate = Arc::new(ArcSwapOption::empty());
    let address = listener.local_addr()?;
    let (settings, places) = (options.settings, Semaphore::new(REVIEWS));
    let reviewer = Reviewer { settings, authorities, health: health.clone(), places };
    let app = Router::new().route("/inject", post(answer)).with_state(Arc::new(reviewer));
    let keeper = Keeper::new(&client, &namespace, options.configuration, options.names, certificate.clone());
    let tls = Tls { incoming: incoming(listener, certificate), address };
    let server = axum::serve(tls, app).with_graceful_shutdown(stop.clone().cancelled_owned());
    let (served, ()) = tokio::join!(async { server.await }, keeper.run(health, stop));
    Ok(served?)
}

struct Reviewer {
    settings: Settings,
    /// Every pod gets the roots of the day.
    authorities: watch::Receiver<Arc<Authorities>>,
    health: Health,
    places: Semaphore,
}

async fn answer(State(r): State<Arc<Reviewer>>, request: Request) -> Response {
    let Ok(_place) = r.places.acquire().await else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let body = match tokio::time::timeout(READ, to_bytes(request.into_body(), BODY)).await {
        Ok(Ok(body)) => body,
        Ok(Err(e)) => return (StatusCode::PAYLOAD_TOO_LARGE, format!("{e}\n")).into_response(),
        Err(_) => return (StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n").into_response(),
    };
    let settings = Settings { roots: r.authorities.borrow().bundle(), ..r.settings.clone() };
    let done = review(&body, &settings);
    r.health.count_review(done.outcome);
    let said = done.answer.pointer("/response/status/message").and_then(|m| m.as_str()).unwrap_or_default();
    tracing::debug!(outcome = ?done.outcome, said, "review");
    let status = if done.outcome == Outcome::Malformed { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    (status, Json(done.answer)).into_response()
}

/// Connections that are shaken hands with already, as axum takes them.
struct Tls<S> {
    incoming: S,
    address: SocketAddr,
}

impl<S> axum::serve::Listener for Tls<S>
where
    S: Stream<Item = io::Result<MtlsStream>> + Unpin + Send + 'static,
{
    type Io = MtlsStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (MtlsStream, SocketAddr) {
        loop {
            match self.incoming.next().await {
                Some(Ok(io)) => {
                    let from = io.connect_info().address;
                    return (io, from);
                }
                Some(Err(e)) => tracing::debug!(error = %e, "accept"),
                // It ends with the program only.
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
