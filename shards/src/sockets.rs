//! Listening sockets: opened here, or handed over by a service manager, or by the broker whose place this one takes
//! (sd_listen_fds(3)). What waits in their queues is never lost, whoever has them.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use socket2::{SockRef, Socket, Type};
use tracing::warn;

use crate::driver::listener::{listen, tune};
use crate::sys;

/// Sockets that were handed to this process, until whoever they are for takes them.
#[derive(Debug, Default)]
pub struct Sockets {
    inherited: Vec<(SocketAddr, TcpListener)>,
}

impl Sockets {
    /// Those of this process. What is no TCP socket with an address is refused, with a line in the log.
    ///
    /// # Errors
    /// The environment says something that cannot be.
    pub fn inherit() -> io::Result<Self> {
        let mut inherited = Vec::new();
        for fd in sys::inherited()? {
            let number = fd.as_raw_fd();
            let socket = Socket::from(fd);
            let address = socket.local_addr().ok().and_then(|address| address.as_socket());
            match address.filter(|_| socket.r#type().is_ok_and(|kind| kind == Type::STREAM)) {
                Some(address) => inherited.push((address, TcpListener::from(socket))),
                None => warn!(descriptor = number, "a socket was handed over that is none of TCP; it is not used"),
            }
        }
        Ok(Self { inherited })
    }

    /// Takes those of an address.
    pub fn take(&mut self, address: SocketAddr) -> Vec<TcpListener> {
        self.inherited.extract_if(.., |(own, _)| *own == address).map(|(_, socket)| socket).collect()
    }

    /// Takes those of an address, or opens some, so that each shard has one or more. Whatever was handed over is accepted on,
    /// however many shards there were before; where there are more now, they open their own, or share those that
    /// cannot be had twice: without SO_REUSEPORT, or opened by another user, as a service manager is (socket(7)).
    ///
    /// # Errors
    /// The system's.
    pub fn of_shards(&mut self, address: SocketAddr, shards: u16) -> io::Result<Vec<Vec<Arc<TcpListener>>>> {
        let found = self.take(address);
        let mut may_open = true;
        for socket in &found {
            tune(SockRef::from(socket))?;
            may_open &= SockRef::from(socket).reuse_port()?;
        }
        let found: Vec<Arc<TcpListener>> = found.into_iter().map(Arc::new).collect();
        let shards = usize::from(shards.max(1));
        let mut given = vec![Vec::new(); shards];
        for (at, sockets) in given.iter_mut().enumerate() {
            sockets.extend(found.iter().skip(at).step_by(shards).cloned());
            if sockets.is_empty() {
                let opened = if may_open { listen(address) } else { Err(ErrorKind::AddrInUse.into()) };
                sockets.push(match (opened, found.get(at % found.len().max(1))) {
                    (Ok(socket), _) => Arc::new(socket),
                    (Err(error), Some(shared)) if error.kind() == ErrorKind::AddrInUse => Arc::clone(shared),
                    (Err(error), _) => return Err(error),
                });
            }
        }
        Ok(given)
    }

    /// Closes those that nobody took.
    pub fn refuse_rest(self) {
        for (address, _) in self.inherited {
            warn!(%address, "a socket was handed over that no listener is configured for; it is closed");
        }
    }
}

/// Has a program take this process's place, with these sockets and no other descriptors. Returns only if it cannot.
pub fn hand_over(program: &Path, arguments: &[OsString], sockets: &[RawFd]) -> io::Error {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("LISTEN_PID", std::process::id().to_string())
        .env("LISTEN_FDS", sockets.len().to_string())
        .env("LISTEN_FDNAMES", vec!["plaza"; sockets.len()].join(":"));
    sys::exec_with(sockets, || command.exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(count: usize) -> (SocketAddr, Sockets) {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let mut inherited = vec![(address, first)];
        inherited.extend((1..count).map(|_| (address, listen(address).unwrap())));
        (address, Sockets { inherited })
    }

    fn distinct(given: &[Vec<Arc<TcpListener>>]) -> usize {
        let all: std::collections::HashSet<RawFd> = given.iter().flatten().map(|socket| socket.as_raw_fd()).collect();
        all.len()
    }

    #[test]
    fn every_socket_is_accepted_on_however_many_shards_there_are() {
        for (sockets, shards, each) in [(2, 2, vec![1, 1]), (4, 1, vec![4]), (3, 2, vec![2, 1]), (1, 3, vec![1, 1, 1])]
        {
            let (address, mut handed) = handed(sockets);
            let given = handed.of_shards(address, shards).unwrap();
            assert_eq!(given.iter().map(Vec::len).collect::<Vec<_>>(), each);
            assert_eq!(distinct(&given), sockets.max(usize::from(shards)));
            assert!(handed.inherited.is_empty());
        }
    }

    #[test]
    fn a_socket_that_cannot_be_had_twice_is_shared_and_one_for_nobody_is_left() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let mut handed = Sockets { inherited: vec![(address, socket)] };
        assert!(handed.take("127.0.0.1:1".parse().unwrap()).is_empty());
        let given = handed.of_shards(address, 3).unwrap();
        assert_eq!((given.len(), distinct(&given)), (3, 1));
    }
}
