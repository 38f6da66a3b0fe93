//! Opens a port, for IPv4 and IPv6 alike where that is asked for.

use rustix::io::Errno;
use rustix::net::sockopt::set_ipv6_v6only;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::{TcpListener, TcpSocket};

/// Connections that the system has finished and nobody has taken yet; what the runtime asks for by itself.
const BACKLOG: u32 = 1024;

/// Opens a port. `[::]` means every address of the machine: IPv4 too, whatever the system's default for that is, and IPv4
/// alone where there is no IPv6.
pub async fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    if !(at.is_ipv6() && at.ip().is_unspecified()) {
        return TcpListener::bind(at).await;
    }
    match both(at) {
        Err(e) if has_no_ipv6(&e) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, at.port())).await,
        r => r,
    }
}

fn both(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    set_ipv6_v6only(&socket, false)?;
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
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
        let listener = listen((Ipv6Addr::UNSPECIFIED, 0).into()).await.expect("a port");
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
        let first = listen((Ipv6Addr::UNSPECIFIED, 0).into()).await.expect("a port");
        let port = first.local_addr().expect("its address").port();
        let e = listen((Ipv6Addr::UNSPECIFIED, port).into()).await.expect_err("it is taken");
        assert_eq!(e.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn only_a_machine_without_ipv6_falls_back() {
        assert!(has_no_ipv6(&io::Error::from_raw_os_error(Errno::AFNOSUPPORT.raw_os_error())));
        assert!(!has_no_ipv6(&io::Error::from_raw_os_error(Errno::ADDRINUSE.raw_os_error())));
    }
}
