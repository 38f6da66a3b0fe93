//! The federation port.

use crate::dial::{ALIVE_EVERY, ALIVE_WITHIN, CONNECTION_WINDOW, MAX_MESSAGE, STREAM_WINDOW};
use crate::hub::Hub;
use mew_tls::{Peer, incoming};
use mew_wire as wire;
use std::pin::Pin;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use wire::federation_server::{Federation, FederationServer};

pub struct PeerServer {
    hub: Arc<Hub>,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl Federation for PeerServer {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<wire::Frame, Status>> + Send>>;

    async fn session(&self, req: Request<Streaming<wire::Frame>>) -> Result<Response<Self::SessionStream>, Status> {
        let peer = req.extensions().get::<Peer>().cloned().ok_or_else(|| Status::unauthenticated("no identity"))?;
        let rx = self.hub.inbound(&peer, req.into_inner())?;
        // Ends with the link's sender or with the server, whichever is first.
        let stop = self.stop.clone();
        let out = futures::StreamExt::take_until(rx, async move { stop.cancelled().await });
        Ok(Response::new(Box::pin(out.map(Ok))))
    }
}

/// Serves peers until `stop`.
pub async fn serve_federation(
    hub: Arc<Hub>,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let server = FederationServer::new(PeerServer { hub: hub.clone(), stop: stop.clone() })
        .max_decoding_message_size(MAX_MESSAGE);
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(ALIVE_EVERY))
        .http2_keepalive_timeout(Some(ALIVE_WITHIN))
        .add_service(server)
        .serve_with_incoming_shutdown(incoming(listener, hub.server.clone()), stop.cancelled_owned())
        .await
}
