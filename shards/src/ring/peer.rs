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
