//! Connections: an accept loop of our own under tonic, and a dialler.

use crate::ca::not_after_ms_der;
use arc_swap::ArcSwapOption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// Connections that are shaken hands with and not yet taken over.
const READY: usize = 64;
/// Connections that are shaking hands or wait to be among those: whoever is not known yet must not take all memory and file
/// descriptors. Further ones wait in the system's queue; a handshake is over after [`HANDSHAKE`] at the latest.
const UNFINISHED: usize = 512;
/// A client that does not finish the handshake is dropped.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// After a failed accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is at the other end, as it was when the connection was made.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    pub not_after_ms: Option<u64>,
    /// What it showed, its own certificate first; empty where clients need none. See `Trust::readmits`.
    pub chain: Arc<[CertificateDer<'static>]>,
}

impl Peer {
    fn new(address: SocketAddr, shown: Option<&[CertificateDer<'static>]>) -> Self {
        let chain: Arc<[CertificateDer<'static>]> = shown.unwrap_or_default().into();
        let not_after_ms = chain.first().and_then(|c| not_after_ms_der(c));
        Peer { address, not_after_ms, chain }
    }
}

pub struct MtlsStream {
    io: tokio_rustls::server::TlsStream<TcpStream>,
    peer: Peer,
}

impl tonic::transport::server::Connected for MtlsStream {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for MtlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, b: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, b)
    }
}

impl AsyncWrite for MtlsStream {
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

/// Accepts with whatever configuration is current; with none, connections are closed. Handshakes run side by side, time
/// out, and never end the server.
pub fn incoming(
    listener: TcpListener,
    config: Arc<ArcSwapOption<ServerConfig>>,
) -> ReceiverStream<io::Result<MtlsStream>> {
    let (tx, rx) = mpsc::channel(READY);
    let places = Arc::new(Semaphore::new(UNFINISHED));
    tokio::spawn(async move {
        loop {
            let place = tokio::select! {
                () = tx.closed() => return,
                p = places.clone().acquire_owned() => match p {
                    Ok(p) => p,
                    Err(_) => return,
                },
            };
            let (tcp, address) = tokio::select! {
                () = tx.closed() => return,
                r = listener.accept() => match r {
                    Ok(x) => x,
                    Err(e) => {
                        tracing::warn!(error = %e, "accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let Some(c) = config.load_full() else { continue };
            let tx = tx.clone();
            tokio::spawn(async move {
                // Given back when the connection is taken over or dropped.
                let _place = place;
                let _ = tcp.set_nodelay(true);
                // On a port for both, IPv4 comes in the clothes of IPv6.
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                let acceptor = tokio_rustls::TlsAcceptor::from(c);
                match tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await {
                    Ok(Ok(io)) => {
                        let peer = Peer::new(address, io.get_ref().1.peer_certificates());
                        let _ = tx.send(Ok(MtlsStream { io, peer })).await;
                    }
                    Ok(Err(e)) => tracing::debug!(%address, error = %e, "TLS handshake"),
                    Err(_) => tracing::debug!(%address, "TLS handshake timed out"),
                }
            });
        }
    });
    ReceiverStream::new(rx)
}

/// Shakes hands over a TCP connection. `server_name` is only what is asked for by SNI. Returns the stream for tonic and
/// who answered.
pub async fn connect(
    tcp: TcpStream,
    server_name: &str,
    config: Arc<ClientConfig>,
) -> io::Result<(hyper_util::rt::TokioIo<tokio_rustls::client::TlsStream<TcpStream>>, Peer)> {
    tcp.set_nodelay(true)?;
    let address = tcp.peer_addr()?;
    let name = ServerName::try_from(server_name.to_owned()).map_err(io::Error::other)?;
    let io = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await?;
    let peer = Peer::new(address, io.get_ref().1.peer_certificates());
    Ok((hyper_util::rt::TokioIo::new(io), peer))
}
