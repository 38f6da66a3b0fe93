//! Ports that are taken at the start and served later.

use anyhow::{Context, Result, bail};
use mew_tls::BACKLOG;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket};

/// A port of this process that refuses connections until it is listened to.
pub struct Port {
    socket: TcpSocket,
    at: SocketAddr,
    what: &'static str,
}

impl Port {
    /// `what` is for people, if another process has it.
    pub fn take(at: SocketAddr, what: &'static str) -> Result<Self> {
        Ok(Port { socket: mew_tls::bind(at).or_else(|e| explained(e, at, what))?, at, what })
    }

    pub fn listen(self) -> Result<TcpListener> {
        self.socket.listen(BACKLOG).or_else(|e| explained(e, self.at, self.what))
    }
}

/// One port for two servers, one after the other.
pub fn twice(l: TcpListener) -> io::Result<(std::net::TcpListener, TcpListener)> {
    let first = l.into_std()?;
    Ok((first.try_clone()?, TcpListener::from_std(first)?))
}

fn explained<T>(e: io::Error, at: SocketAddr, what: &str) -> Result<T> {
    if e.kind() == ErrorKind::AddrInUse {
        bail!("{what} cannot listen on {at}: another process uses this port; stop it or choose another port");
    }
    Err(e).with_context(|| format!("{what} cannot listen on {at}"))
}
