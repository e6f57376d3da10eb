//! What connections hold, counted as it changes, and what the driver does when there is too little memory.

use plaza_core::stream;

use super::Driver;
use super::connection::{Counted, Phase};
use crate::memory::{Level, Shed, Subsystem};
use crate::ring::Key;

impl Driver {
    /// A connection holds more, or less, than it did.
    pub(super) fn recount(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        let now = connection.count();
        let was = std::mem::replace(&mut connection.counted, now);
        if was != now {
            self.count(was, now);
        }
    }

    /// Counts one instead of the other.
    pub(super) fn count(&mut self, was: Counted, now: Counted) {
        let memory = &mut self.shard.counters.memory;
        let subsystems = |counted: Counted| {
            if counted.negotiating { [Subsystem::Negotiating; 2] } else { [Subsystem::Connections, Subsystem::Tls] }
        };
        for (subsystem, bytes) in subsystems(was).into_iter().zip([was.own, was.tls]) {
            memory[subsystem] -= u64::from(bytes);
        }
        for (subsystem, bytes) in subsystems(now).into_iter().zip([now.own, now.tls]) {
            memory[subsystem] += u64::from(bytes);
        }
    }

    /// The broker is so near to its bound of memory, and so many bytes of sessions that wait to be resumed are given up.
    pub(super) fn press(&mut self, level: Level, excess: u64) {
        let full = level >= Level::Scarce;
        let was_full = std::mem::replace(&mut self.full, full);
        if full && !was_full && self.stopping.is_none() {
            self.shard.counters.sheds[Shed::Accepting] += 1;
            for index in 0..self.accepting.len() {
                self.ring.cancel_accept(index as u32);
            }
        }
        self.shard.press(level, excess);
        self.hand_over_full();
        if level >= Level::Short {
            self.give_back();
        }
        if was_full && !full {
            self.arm_listeners();
        }
    }

    /// Gives the kernel what is in memory for no more than use in the future.
    pub(super) fn give_back(&mut self) {
        self.carries = Vec::new();
        self.spares = Vec::new();
        crate::sys::give_back_pages();
    }

    /// Who has not bound may make us hold so much and no more: the stream ends with `policy-violation`. In a handshake TLS has
    /// a bound of its own.
    pub(super) fn bound_input(&mut self, key: Key) {
        let most = self.parts.limits.unauthenticated_bytes_max;
        let Some(connection) = self.connection_mut(key) else { return };
        if !connection.flags.unauthenticated || connection.input_bytes() <= most {
            return;
        }
        if let Phase::Negotiating(stream) = &mut connection.phase {
            stream.handle_abort(stream::Condition::PolicyViolation, &mut connection.out);
            self.shard.counters.stream_errors[stream::Condition::PolicyViolation] += 1;
            self.finish(key);
        }
    }
}
