//! Listeners: one socket per shard and address, shared by SO_REUSEPORT so that the kernel spreads connections.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Connections the kernel holds for us between turns, per shard.
const BACKLOG: i32 = 4096;

/// How long what we sent may stay unacknowledged before the kernel gives the peer up (`TCP_USER_TIMEOUT`): so a peer that
/// vanished is noticed by what is sent to it, as by keep-alive when nothing is.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(120);

/// Opens a listening socket. Accepted sockets inherit its options: no Nagle, keep-alive after two minutes of silence,
/// and unacknowledged data given up after as long.
///
/// # Errors
/// The system's.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    tune(SockRef::from(&socket))?;
    Ok(socket.into())
}

/// Sets what accepted sockets inherit, and listens.
///
/// # Errors
/// The system's.
pub(crate) fn tune(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(120)).with_interval(Duration::from_secs(30)).with_retries(4);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    // The ring waits for connections itself.
    socket.set_nonblocking(false)?;
    socket.listen(BACKLOG)
}
