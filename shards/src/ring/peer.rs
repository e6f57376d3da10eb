//! Where the kernel writes who connects.

use std::cell::UnsafeCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address and its length, at a place that does not move while an accept is outstanding.
pub(super) struct Peer(Box<UnsafeCell<(libc::sockaddr_storage, libc::socklen_t)>>);

impl Peer {
    pub(super) fn new() -> Self {
        // SAFETY: a `sockaddr_storage` is plain numbers, for which zeros are a value (AF_UNSPEC).
        let address = unsafe { std::mem::zeroed() };
        Self(Box::new(UnsafeCell::new((address, 0))))
    }

    /// Makes room for an address; the pointers are good for as long as this lives.
    pub(super) fn reset(&self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        let cell = self.0.get();
        // SAFETY: only the kernel writes there beside us, and only between an accept's submission and its completion; the
        // caller has no other accept outstanding at this place.
        unsafe {
            (*cell).1 = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            ((&raw mut (*cell).0).cast(), &raw mut (*cell).1)
        }
    }

    /// What was written there, if it is an address of the Internet. After the accept's completion.
    pub(super) fn address(&self) -> Option<IpAddr> {
        // SAFETY: as in `reset`; all bits that the kernel writes are numbers.
        let (storage, len) = unsafe { &*self.0.get() };
        match (i32::from(storage.ss_family), *len as usize) {
            (libc::AF_INET, len) if len >= size_of::<libc::sockaddr_in>() => {
                // SAFETY: the family says which structure it is, and it is long enough and aligned for any.
                let address = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
                Some(IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(address.sin_addr.s_addr))))
            }
            (libc::AF_INET6, len) if len >= size_of::<libc::sockaddr_in6>() => {
                // SAFETY: as above.
                let address = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
                Some(IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes an address as the kernel does.
    fn written<T>(peer: &Peer, address: T, len: usize) -> Option<IpAddr> {
        let (place, room) = peer.reset();
        // SAFETY: the place has room for any address, and `room` is its length; both are the peer's, and nobody reads them now.
        unsafe {
            assert!(size_of::<T>() <= *room as usize);
            place.cast::<T>().write(address);
            *room = len as libc::socklen_t;
        }
        peer.address()
    }

    fn v4(family: i32) -> libc::sockaddr_in {
        libc::sockaddr_in {
            sin_family: family as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 9]) },
            sin_zero: [0; 8],
        }
    }

    #[test]
    fn an_address_is_read_as_the_kernel_wrote_it_and_nothing_else_is() {
        let peer = Peer::new();
        assert_eq!(peer.address(), None);
        let len = size_of::<libc::sockaddr_in>();
        assert_eq!(written(&peer, v4(libc::AF_INET), len), Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9))));
        assert_eq!(written(&peer, v4(libc::AF_INET), len - 1), None, "cut off");
        assert_eq!(written(&peer, v4(libc::AF_UNIX), len), None);
        let sixth = libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: Ipv6Addr::LOCALHOST.octets() },
            sin6_scope_id: 0,
        };
        let len = size_of::<libc::sockaddr_in6>();
        assert_eq!(written(&peer, sixth, len), Some(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        assert_eq!(written(&peer, sixth, len - 1), None, "cut off");
    }
}
