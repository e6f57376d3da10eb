//! The atomics and queues that the lock-free parts are written with.
//!
//! Used by [`crate::mesh`], [`crate::tasks`] and [`crate::admission`]. `shards/loom` compiles the same files with loom's in
//! their place, so that the very code that ships runs through every interleaving.

#![forbid(unsafe_code)]

pub use std::sync::Arc;
pub use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

pub use crossbeam::queue::{ArrayQueue, SegQueue};
