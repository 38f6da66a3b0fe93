//! The client port of an agent whose kernel is not open yet: whoever calls is told so at once, and why.

use crate::api::refuse;
use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::Response;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Answers until `stop`; `why` says what the kernel waits for.
pub async fn serve_standby<W>(listener: TcpListener, why: W, stop: CancellationToken) -> std::io::Result<()>
where
    W: Fn() -> String + Clone + Send + Sync + 'static,
{
    let answer = move |req: Request| {
        let text = format!("the kernel is not open yet: {}; try again", why());
        async move { unavailable(&req, &text) }
    };
    axum::serve(listener, Router::new().fallback(answer)).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// In the language in which the call was made.
fn unavailable(req: &Request, text: &str) -> Response {
    let kind = req.headers().get(header::CONTENT_TYPE).and_then(|t| t.to_str().ok());
    match kind {
        Some(t) if t.starts_with("application/grpc") => Status::unavailable(text).into_http(),
        _ => refuse(StatusCode::SERVICE_UNAVAILABLE, text),
    }
}
