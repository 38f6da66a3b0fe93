//! The admission webhook that injects agents. Every replica answers, whoever leads: a pod must not wait for an election.

mod authorities;
mod bodies;
mod connections;
mod keeper;

use crate::health::Health;
use anyhow::{Result, bail, ensure};
use arc_swap::ArcSwapOption;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bodies::Bodies;
use connections::Connections;
use keeper::Keeper;
use kube::Client;
use mew_inject::{Outcome, Settings, review};
use mew_tls::incoming;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Reviews at once: each is work for a processor, done in milliseconds, and may take as much memory as mew-inject lets a review
/// have. Others wait.
const REVIEWS: usize = 2;

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
    listener: TcpListener,
    health: Health,
    stop: CancellationToken,
) -> Result<()> {
    let certificate = Arc::new(ArcSwapOption::empty());
    let address = listener.local_addr()?;
    let reviewer = Reviewer {
        settings: options.settings,
        health: health.clone(),
        bodies: Bodies::default(),
        places: Arc::new(Semaphore::new(REVIEWS)),
    };
    let app = Router::new().route("/inject", post(answer)).with_state(Arc::new(reviewer));
    let keeper = Keeper::new(&client, &namespace, options.configuration, options.names, certificate.clone());
    let deaf = CancellationToken::new();
    let connections = Connections::new(incoming(listener, certificate), address, deaf.clone());
    let server = axum::serve(connections, app).with_graceful_shutdown(stop.clone().cancelled_owned());
    let mut server = server.into_future();
    tokio::select! {
        served = &mut server => served?,
        () = keeper.run(health, stop.clone()) => {
            ensure!(stop.is_cancelled(), "nobody renews the webhook's certificate any more");
            server.await?;
        }
        () = deaf.cancelled() => bail!("nobody accepts connections for the webhook any more"),
    }
    ensure!(stop.is_cancelled(), "the webhook's server has ended by itself");
    Ok(())
}

struct Reviewer {
    settings: Settings,
    health: Health,
    bodies: Bodies,
    places: Arc<Semaphore>,
}

async fn answer(State(r): State<Arc<Reviewer>>, request: Request) -> Response {
    // Before there is a place for the review: whoever sends slowly must not keep others from theirs.
    let (body, room) = match r.bodies.read(request.into_body()).await {
        Ok(read) => read,
        Err(e) => return (e.status(), format!("{e}\n")).into_response(),
    };
    let Ok(place) = r.places.clone().acquire_owned().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let reviewer = r.clone();
    // The room and the place are taken until it is done, also if nobody waits for the answer any more.
    let reviewing = tokio::task::spawn_blocking(move || {
        let _taken = (room, place);
        review(&body, &reviewer.settings)
    });
    let Ok(done) = reviewing.await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    r.health.count_review(done.outcome);
    let said = done.answer.pointer("/response/status/message").and_then(|m| m.as_str()).unwrap_or_default();
    tracing::debug!(outcome = ?done.outcome, said, "review");
    let status = if done.outcome == Outcome::Malformed { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    (status, Json(done.answer)).into_response()
}
