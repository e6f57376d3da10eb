//! Loom's atomics, and stand-ins for crossbeam's queues, which we trust, promising no more than those do: an item pushed
//! (Release) is visible to whoever learns that the queue is not empty (Acquire), and to nobody else. In particular the look
//! at an empty queue takes no mutex: one would order the sleeper's flag before the next push, and a forgotten fence in the
//! wake-up protocol would go unnoticed.
//!
//! `Arc` is `std`'s: [`std::task::Wake`] and `self: &Arc<Self>` accept no other, and its counting is not ours to prove.

use std::collections::VecDeque;
pub use std::sync::Arc;

use loom::sync::Mutex;
use loom::sync::atomic::AtomicUsize;
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// Stands in for [`crossbeam::queue::ArrayQueue`].
pub struct ArrayQueue<T> {
    items: Mutex<VecDeque<T>>,
    /// Written with the mutex held, read without.
    len: AtomicUsize,
    capacity: usize,
}

impl<T> ArrayQueue<T> {
    /// An empty queue for at most `capacity` items.
    pub fn new(capacity: usize) -> Self {
        Self { items: Mutex::new(VecDeque::new()), len: AtomicUsize::new(0), capacity }
    }

    /// Appends `item`.
    ///
    /// # Errors
    /// The item itself, if the queue is full.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut items = self.items.lock().expect("no model panics with the queue locked");
        if items.len() == self.capacity {
            return Err(item);
        }
        items.push_back(item);
        self.len.store(items.len(), Ordering::Release); // Pairs with the Acquire in `len`.
        Ok(())
    }

    /// Takes the oldest item.
    pub fn pop(&self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let mut items = self.items.lock().expect("no model panics with the queue locked");
        let item = items.pop_front();
        self.len.store(items.len(), Ordering::Release); // Pairs with the Acquire in `len`.
        item
    }

    /// How many items are there, as far as this thread can see.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire) // Pairs with the Release in `push` and `pop`.
    }

    /// Whether this thread can see no item.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Stands in for [`crossbeam::queue::SegQueue`].
pub struct SegQueue<T>(ArrayQueue<T>);

impl<T> SegQueue<T> {
    /// An empty queue.
    #[expect(clippy::new_without_default, reason = "only what we use of crossbeam's")]
    pub fn new() -> Self {
        Self(ArrayQueue::new(usize::MAX))
    }

    /// Appends `item`.
    pub fn push(&self, item: T) {
        let Ok(()) = self.0.push(item) else { unreachable!("no model pushes usize::MAX items") };
    }

    /// Takes the oldest item.
    pub fn pop(&self) -> Option<T> {
        self.0.pop()
    }

    /// How many items are there, as far as this thread can see.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether this thread can see no item.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
