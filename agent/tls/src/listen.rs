//! Takes and opens ports, for IPv4 and IPv6 alike where that is asked for.

use rustix::io::Errno;
use rustix::net::sockopt::set_ipv6_v6only;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::{TcpListener, TcpSocket};

/// Connections that the system has finished and nobody has taken yet; what the runtime asks for by itself.
pub const BACKLOG: u32 = 1024;

/// Takes a port, which refuses connections until it is listened to. `[::]` means every address of the machine: IPv4 too,
/// whatever the system's default for that is, and IPv4 alone where there is no IPv6.
pub fn bind(at: SocketAddr) -> io::Result<TcpSocket> {
    match at {
        SocketAddr::V6(a) if a.ip().is_unspecified() => match both(at) {
            Err(e) if has_no_ipv6(&e) => bound(TcpSocket::new_v4()?, (Ipv4Addr::UNSPECIFIED, at.port()).into()),
            r => r,
        },
        SocketAddr::V6(_) => bound(TcpSocket::new_v6()?, at),
        SocketAddr::V4(_) => bound(TcpSocket::new_v4()?, at),
    }
}

/// Opens a port; see [`bind`]. Must be called inside a tokio runtime.
pub fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    bind(at)?.listen(BACKLOG)
}

fn both(at: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v6()?;
    set_ipv6_v6only(&socket, false)?;
    bound(socket, at)
}

fn bound(socket: TcpSocket, at: SocketAddr) -> io::Result<TcpSocket> {
    // Connections of the process before this one may not be quite over.
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    Ok(socket)
}

fn has_no_ipv6(e: &io::Error) -> bool {
    let none = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL];
    none.iter().any(|n| e.raw_os_error() == Some(n.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn a_port_of_all_addresses_is_reached_by_ipv4_and_by_ipv6_if_there_is_one() {
        let listener = listen((Ipv6Addr::UNSPECIFIED, 0).into()).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("by IPv4");
        let (_, from) = listener.accept().await.expect("it came");
        assert!(from.ip().to_canonical().is_ipv4(), "{from}");
        // A machine without IPv6 cannot connect by it either.
        if TcpSocket::new_v6().and_then(|s| s.bind((Ipv6Addr::LOCALHOST, 0).into())).is_ok() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.expect("by IPv6");
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_said_to_be() {
        let first = listen((Ipv6Addr::UNSPECIFIED, 0).into()).expect("a port");
        let port = first.local_addr().expect("its address").port();
        let e = listen((Ipv6Addr::UNSPECIFIED, port).into()).expect_err("it is taken");
        assert_eq!(e.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_port_that_is_taken_and_not_listened_to_refuses() {
        let socket = bind((Ipv6Addr::UNSPECIFIED, 0).into()).expect("a port");
        let port = socket.local_addr().expect("its address").port();
        let e = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect_err("nobody listens");
        assert_eq!(e.kind(), io::ErrorKind::ConnectionRefused);
        let _listener = socket.listen(BACKLOG).expect("it is ours");
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("by IPv4");
    }

    #[test]
    fn only_a_machine_without_ipv6_falls_back() {
        assert!(has_no_ipv6(&io::Error::from_raw_os_error(Errno::AFNOSUPPORT.raw_os_error())));
        assert!(!has_no_ipv6(&io::Error::from_raw_os_error(Errno::ADDRINUSE.raw_os_error())));
    }
}
