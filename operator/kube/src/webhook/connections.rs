//! Connections to the webhook, as axum takes them: shaken hands with, bounded in number, and ended when nothing comes.

use futures::{Stream, StreamExt};
use mew_tls::MtlsStream;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

/// API servers have a few connections each, which they keep; each takes some 100 KiB here.
const CONNECTIONS: usize = 256;
/// After this without a byte. An API server closes what it does not use after 90 seconds, and asks whether a connection is alive
/// more often than that, so it never loses one that it is about to use.
const IDLE: Duration = Duration::from_secs(120);

pub struct Connections<S> {
    incoming: S,
    address: SocketAddr,
    places: Arc<Semaphore>,
    /// Cancelled when there will be none any more.
    deaf: CancellationToken,
}

impl<S> Connections<S> {
    pub fn new(incoming: S, address: SocketAddr, deaf: CancellationToken) -> Self {
        Connections { incoming, address, places: Arc::new(Semaphore::new(CONNECTIONS)), deaf }
    }
}

impl<S> axum::serve::Listener for Connections<S>
where
    S: Stream<Item = io::Result<MtlsStream>> + Unpin + Send + 'static,
{
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // It is never closed.
        let place = self.places.clone().acquire_owned().await.ok();
        loop {
            match self.incoming.next().await {
                Some(Ok(io)) => {
                    let from = io.connect_info().address;
                    return (Connection { io, idle: Box::pin(sleep(IDLE)), _place: place }, from);
                }
                Some(Err(e)) => tracing::debug!(error = %e, "accept"),
                None => {
                    self.deaf.cancel();
                    return std::future::pending().await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

pub struct Connection {
    io: MtlsStream,
    idle: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, b: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_read(cx, b) {
            Poll::Pending => self.idle.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
            read => {
                self.idle.as_mut().reset(Instant::now() + IDLE);
                read
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, b)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        b: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, b)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
