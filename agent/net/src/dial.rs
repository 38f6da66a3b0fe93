//! Opens a session to a peer: resolve, connect, shake hands, start the stream. Each failure has its reason.

use crate::outbox::{Outbox, outbox};
use mew_contract::snapshot::Endpoint;
use mew_contract::{Problem, Reason, RemoteItem};
use mew_sync::Connected;
use mew_tls::{Failure, Material, SpiffeId, Trust, client_config, connect, failure_of};
use mew_wire as wire;
use std::error::Error as StdError;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::net::TcpStream;
use tonic::transport::{Endpoint as Channel, Uri};
use wire::federation_client::FederationClient;

/// HTTP/2 windows: the default of 64 KiB would allow 64 KiB per round trip.
pub const STREAM_WINDOW: u32 = 4 << 20;
pub const CONNECTION_WINDOW: u32 = 8 << 20;
/// A session has pings of its own. These are for connections without one, and for what is left of one whose session was given
/// up: a machine that is gone answers neither, and nothing else would ever end them.
pub const ALIVE_EVERY: Duration = Duration::from_secs(60);
pub const ALIVE_WITHIN: Duration = Duration::from_secs(60);
/// A message holds at most one batch; see the batch's own bound.
pub const MAX_MESSAGE: usize = 16 << 20;

pub struct Opened {
    pub connected: Connected,
    pub frames: tonic::Streaming<wire::Frame>,
    pub sender: Outbox,
}

/// Tries the endpoints in order; the problem of the last one if all fail. `own` may be why there is nothing to show.
pub async fn dial(r: &RemoteItem, own: Result<Material, Problem>, conn: u64) -> Result<Opened, Problem> {
    let own = own?;
    let mut last = Problem::new(Reason::Unreachable, "the Remote has no endpoint");
    for e in &r.endpoints {
        match one(r, e, &own, conn).await {
            Ok(o) => return Ok(o),
            Err(p) => last = p,
        }
    }
    Err(last)
}

async fn one(r: &RemoteItem, e: &Endpoint, own: &Material, conn: u64) -> Result<Opened, Problem> {
    let at = format!("{}:{}", e.host, e.port);
    let timeout = Duration::from_millis(r.connect_timeout_ms);
    let mut trust = Trust::default();
    trust
        .add_roots(&r.peer_trust_domain, r.roots.iter().map(String::as_str))
        .map_err(|e| Problem::new(Reason::BundleNotFound, format!("trust bundle of {}: {e}", r.peer_trust_domain)))?;
    trust.expect(SpiffeId::kernel(&r.peer_trust_domain, &r.peer_kernel_id));
    let tls = client_config(Some(own), trust.clone())
        .map_err(|e| Problem::new(Reason::CertificatePending, format!("this agent's certificate: {e}")))?;

    let host = e.host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let addresses: Vec<_> = tokio::time::timeout(timeout, tokio::net::lookup_host((host.as_str(), e.port)))
        .await
        .map_err(|_| Problem::new(Reason::DNSFailed, format!("{at}: the name was not resolved in time")))?
        .map_err(|err| Problem::new(Reason::DNSFailed, format!("{at}: the name cannot be resolved: {err}")))?
        .collect();
    let tcp = tokio::time::timeout(timeout, TcpStream::connect(addresses.as_slice()))
        .await
        .map_err(|_| Problem::new(Reason::Unreachable, format!("{at}: no answer within {} s", timeout.as_secs_f32())))?
        .map_err(|err| Problem::new(Reason::Unreachable, format!("{at}: {err}")))?;
    let name = e.server_name.clone().unwrap_or(host);
    let (io, peer) = tokio::time::timeout(timeout, connect(tcp, &name, tls))
        .await
        .map_err(|_| {
            Problem::new(Reason::Unreachable, format!("{at}: TLS was not answered within {} s", timeout.as_secs_f32()))
        })?
        .map_err(|err| handshake_problem(&at, &name, &err))?;

    let (sender, rx) = outbox();
    let session = async {
        // The connection exists already; the channel takes it once and is never asked for another.
        let io = Arc::new(Mutex::new(Some(io)));
        let channel = Channel::from_shared(format!("https://{at}"))
            .map_err(|e| Problem::new(Reason::InvalidSpec, format!("{at}: {e}")))?
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(ALIVE_EVERY)
            .keep_alive_timeout(ALIVE_WITHIN)
            .keep_alive_while_idle(true)
            .connect_with_connector(tower::service_fn(move |_: Uri| {
                let io = io.lock().unwrap_or_else(PoisonError::into_inner).take();
                async move { io.ok_or_else(|| io::Error::other("the connection is used up")) }
            }))
            .await
            .map_err(|err| tls_problem(&at, &err))?;
        let mut client = FederationClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        client.session(rx).await.map_err(|s| session_problem(&at, &s))
    };
    let frames = tokio::time::timeout(timeout, session)
        .await
        .map_err(|_| {
            Problem::new(Reason::Unreachable, format!("{at}: no session within {} s", timeout.as_secs_f32()))
        })??
        .into_inner();
    let connected = Connected {
        conn,
        dialled: true,
        endpoint: at,
        certificate_not_after_ms: peer.not_after_ms,
        root: trust.root_of(&peer),
    };
    Ok(Opened { connected, frames, sender })
}

/// The connection may end before anybody has said who it is: what is asked for by name is then the first thing to look at.
fn handshake_problem(at: &str, server_name: &str, e: &io::Error) -> Problem {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let closed = matches!(e.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof);
    if !closed || failure_of(e).is_some() {
        return tls_problem(at, e);
    }
    let asked = match server_name.parse::<IpAddr>() {
        Ok(_) => "it was asked for no server name, as the host is an address".to_owned(),
        Err(_) => format!("it was asked for the server name {server_name}"),
    };
    let why = "a proxy that routes by server name does this if it does not know the name or reaches nobody behind it, and an \
               agent without a certificate";
    Problem::new(
        Reason::Unreachable,
        format!("{at}: the connection was closed during the TLS handshake; {asked}. {why}"),
    )
}

fn tls_problem(at: &str, e: &(dyn StdError + 'static)) -> Problem {
    match failure_of(e) {
        Some(f @ Failure::Expired(_)) => Problem::new(Reason::CertificateExpired, format!("{at}: {f}")),
        Some(f @ (Failure::WrongIdentity { .. } | Failure::NotAPeer(_))) => {
            Problem::new(Reason::IdentityMismatch, format!("{at}: {f}"))
        }
        // Another domain than the Remote names: it is another kernel.
        Some(f @ Failure::UnknownDomain(_)) => Problem::new(Reason::IdentityMismatch, format!("{at}: {f}")),
        Some(f) => Problem::new(Reason::TLSUntrustedPeer, format!("{at}: {f}; ask the peer for its current bundle")),
        None => other(at, e),
    }
}

/// Why a session ended or could not be opened. In TLS 1.3 the peer's refusal of this side's certificate shows only here.
pub fn session_problem(at: &str, s: &tonic::Status) -> Problem {
    if s.code() == tonic::Code::PermissionDenied {
        return Problem::new(
            Reason::TLSRefusedByPeer,
            format!(
                "{at}: the peer does not accept connections of this kernel now; it needs this side's trust bundle and a Remote for this kernel that accepts them"
            ),
        );
    }
    // What was said, there or where this side could not read it; a connection that broke has a cause instead.
    match s.source() {
        Some(e) => other(at, e),
        None if s.message().is_empty() => {
            Problem::new(Reason::Unreachable, format!("{at}: {}", s.code().description()))
        }
        None => Problem::new(Reason::Unreachable, format!("{at}: {}", s.message())),
    }
}

fn other(at: &str, e: &(dyn StdError + 'static)) -> Problem {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(s) = next {
        text = s.to_string();
        next = s.source();
    }
    if text.contains("received fatal alert") {
        let why = text.rsplit(": ").next().unwrap_or_default().to_owned();
        let (reason, todo) = if why.contains("Expired") {
            (Reason::CertificateExpired, "this agent's log says why it was not renewed")
        } else {
            (Reason::TLSRefusedByPeer, "it needs this side's trust bundle and a Remote for this kernel")
        };
        return Problem::new(reason, format!("{at}: the peer refuses this kernel's certificate ({why}); {todo}"));
    }
    Problem::new(Reason::Unreachable, format!("{at}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(server_name: &str, kind: io::ErrorKind) -> String {
        let p = handshake_problem("gate.example.com:9001", server_name, &io::Error::from(kind));
        assert_eq!(p.reason, Reason::Unreachable);
        p.message
    }

    #[test]
    fn what_a_peer_says_is_told_in_words_for_people() {
        use tonic::Status;
        let broken = io::Error::new(io::ErrorKind::ConnectionReset, "reset by the other side");
        for (status, reason, words) in [
            (Status::permission_denied("refused"), Reason::TLSRefusedByPeer, "it needs this side's trust bundle"),
            (Status::unavailable("it ends"), Reason::Unreachable, "gate:9001: it ends"),
            (Status::internal(""), Reason::Unreachable, "gate:9001: Internal error"),
            (Status::from_error(Box::new(broken)), Reason::Unreachable, "gate:9001: reset by the other side"),
        ] {
            let p = session_problem("gate:9001", &status);
            assert!(p.reason == reason && p.message.contains(words), "{p:?}");
            assert!(!["code:", "status:", "message:"].iter().any(|w| p.message.contains(w)), "gRPC's way: {p:?}");
        }
    }

    #[test]
    fn a_connection_that_is_closed_early_names_what_was_asked_for() {
        let m = said("us-west.example.com", io::ErrorKind::UnexpectedEof);
        assert!(m.starts_with("gate.example.com:9001: ") && m.contains("the server name us-west.example.com"), "{m}");
        assert!(said("2001:db8::7", io::ErrorKind::ConnectionReset).contains("no server name"));
        assert!(!said("us-west.example.com", io::ErrorKind::PermissionDenied).contains("server name"));
    }
}
