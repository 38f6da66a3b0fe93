//! `GET /v1/backup`: one consistent copy of the store as a tar archive, while the store goes on.

use crate::api::{Api, refuse};
use crate::archive::Archive;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// Backups at the same time: each has a thread, and keeps the room of what compaction puts away meanwhile.
const MAX_BACKUPS: usize = 2;
/// Pieces that are read before the client takes them.
const AHEAD: usize = 4;

#[derive(Clone)]
struct Backups {
    api: Api,
    free: Arc<Semaphore>,
}

pub fn router(api: Api) -> Router<Api> {
    let state = Backups { api, free: Arc::new(Semaphore::new(MAX_BACKUPS)) };
    Router::new().route("/v1/backup", get(backup)).with_state(state)
}

async fn backup(State(b): State<Backups>) -> Response {
    let Ok(permit) = b.free.clone().try_acquire_owned() else {
        return refuse(StatusCode::TOO_MANY_REQUESTS, "other backups are being taken; try again when they are done");
    };
    let taken = tokio::task::spawn_blocking(move || take(&b.api)).await;
    let archive = match taken.unwrap_or_else(|e| Err(io::Error::other(e).into())) {
        Ok(a) => a,
        Err(e) => return refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("the store cannot be read: {e}")),
    };
    // With the length, a client notices an end that comes too early.
    let headers =
        [(header::CONTENT_TYPE, "application/x-tar".to_owned()), (header::CONTENT_LENGTH, archive.size().to_string())];
    let (tx, rx) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || send(&archive, &tx, permit));
    (headers, Body::from_stream(ReceiverStream::new(rx))).into_response()
}

fn take(api: &Api) -> mew_store::Result<Archive> {
    Ok(Archive::new(api.kernel.backup()?, api.hub.wall_ms())?)
}

/// The permit comes back with the end, whichever it is.
fn send(archive: &Archive, to: &mpsc::Sender<io::Result<Bytes>>, _permit: OwnedSemaphorePermit) {
    let mut gone = false;
    let r = archive.pieces(|piece| {
        to.blocking_send(Ok(piece)).map_err(|_| {
            gone = true;
            io::ErrorKind::BrokenPipe.into()
        })
    });
    if let Err(e) = r
        && !gone
    {
        tracing::error!(error = %e, "a backup ended early: the store cannot be read");
        let _ = to.blocking_send(Err(e));
    }
}
