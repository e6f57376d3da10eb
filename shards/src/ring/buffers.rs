//! The pool of receive buffers that the kernel picks from: a ring of entries shared with it, and the pages they name.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::sys::Pages;

/// Bytes the kernel put into a buffer of the pool. Ours until given back.
#[derive(Debug)]
pub struct Received {
    start: *mut u8,
    len: usize,
    id: u16,
}

impl Received {
    /// The bytes; they may be changed in place (TLS decrypts there).
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the kernel handed out this buffer with its completion and does not touch it until it is given back,
        // which consumes `self`; `len` bytes of it were written.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

/// The pool.
#[derive(Debug)]
pub(super) struct Buffers {
    entries: Pages,
    pages: Pages,
    count: u16,
    each: usize,
    tail: u16,
}

impl Buffers {
    pub(super) fn new(count: u16, each: u32) -> io::Result<Self> {
        if !count.is_power_of_two() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "receive buffers must be a power of two"));
        }
        let each = each as usize;
        let entries = Pages::map(usize::from(count) * size_of::<BufRingEntry>())?;
        let pages = Pages::map(usize::from(count) * each)?;
        let mut pool = Self { entries, pages, count, each, tail: 0 };
        for id in 0..count {
            pool.put(id);
        }
        Ok(pool)
    }

    pub(super) fn entries_address(&self) -> u64 {
        self.entries.start().as_ptr() as u64
    }

    pub(super) fn take(&self, id: u16, len: usize) -> Received {
        let offset = usize::from(id % self.count) * self.each;
        // SAFETY: `id` is below `count`, so the offset is inside the mapping.
        let start = unsafe { self.pages.start().as_ptr().add(offset) };
        Received { start, len: len.min(self.each), id }
    }

    pub(super) fn give(&mut self, received: Received) {
        self.put(received.id);
    }

    fn put(&mut self, id: u16) {
        let ring = self.entries.start().as_ptr().cast::<BufRingEntry>();
        let position = usize::from(self.tail & (self.count - 1));
        let address = self.take(id, self.each).start as u64;
        // SAFETY: `position` is below `count`; the kernel reads this entry only after the tail below is published.
        let entry = unsafe { &mut *ring.add(position) };
        entry.set_addr(address);
        entry.set_len(u32::try_from(self.each).unwrap_or(u32::MAX));
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lives in the first entry's spare field, is aligned, and is shared with the kernel alone.
        // The Release pairs with the kernel's Acquire load of the tail.
        unsafe { &*BufRingEntry::tail(ring).cast::<AtomicU16>() }.store(self.tail, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel finds at a place of the ring.
    fn entry(pool: &Buffers, position: usize) -> (u64, u32, u16) {
        let ring = pool.entries.start().as_ptr().cast::<BufRingEntry>();
        // SAFETY: `position` is below the pool's count, and nobody else has the entry.
        let entry = unsafe { &*ring.add(position) };
        (entry.addr(), entry.len(), entry.bid())
    }

    #[test]
    fn the_kernel_finds_each_buffer_once_and_what_it_writes_is_ours_until_it_is_given_back() {
        let mut pool = Buffers::new(4, 64).unwrap();
        let base = pool.pages.start().as_ptr() as u64;
        for id in 0..4 {
            assert_eq!(entry(&pool, usize::from(id)), (base + u64::from(id) * 64, 64, id));
        }
        let mut taken = [pool.take(2, 64), pool.take(0, 10), pool.take(3, 1000)];
        for (number, received) in taken.iter_mut().enumerate() {
            received.bytes().fill(number as u8 + 1);
        }
        let lens: Vec<_> = taken.iter_mut().map(|received| received.bytes().len()).collect();
        assert_eq!(lens, [64, 10, 64], "no more than there is");
        for (number, received) in taken.iter_mut().enumerate() {
            assert!(received.bytes().iter().all(|byte| *byte == number as u8 + 1), "they do not overlap");
        }
        taken.into_iter().for_each(|received| pool.give(received));
        assert_eq!([0, 1, 2].map(|position| entry(&pool, position).2), [2, 0, 3]);
        assert_eq!(pool.tail, 7);
        for _ in 0..u16::MAX {
            let received = pool.take(1, 1);
            pool.give(received);
        }
        assert_eq!(pool.tail, 6, "it wraps around");
        assert!(Buffers::new(3, 64).is_err());
    }
}
