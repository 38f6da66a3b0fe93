//! The client port of an agent whose kernel is not open yet: whoever calls is told so at once, and why.

use crate::api::{foreign_host, not_run, refuse};
use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, Version, header};
use axum::response::Response;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Answers until `stop`; `why` says what the kernel waits for, and `hosts` are names besides loopback as for the API.
pub async fn serve_standby<W>(
    listener: TcpListener,
    hosts: Arc<[String]>,
    why: W,
    stop: CancellationToken,
) -> std::io::Result<()>
where
    W: Fn() -> String + Clone + Send + Sync + 'static,
{
    let answer = move |req: Request| {
        let text = format!("the kernel is not open yet: {}; try again", why());
        let hosts = hosts.clone();
        async move { unavailable(&req, &hosts, &text) }
    };
    axum::serve(listener, Router::new().fallback(answer)).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// In the language in which the call was made. What a kernel waits for is not for pages of other sites, whatever content they
/// claim to send; a browser speaks HTTP/2 only over TLS, and gRPC, which does without, names no Host.
fn unavailable(req: &Request, hosts: &[String], text: &str) -> Response {
    if req.version() < Version::HTTP_2
        && let Some(refused) = foreign_host(req.headers(), hosts)
    {
        return refused;
    }
    let kind = req.headers().get(header::CONTENT_TYPE).and_then(|t| t.to_str().ok());
    match kind {
        Some(t) if t.starts_with("application/grpc") => not_run(text).into_http(),
        _ => refuse(StatusCode::SERVICE_UNAVAILABLE, text),
    }
}
