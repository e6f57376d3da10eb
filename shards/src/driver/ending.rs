//! Ending: how a connection and its stream close, whoever begins it.

use plaza_core::stream::{self, Violation};

use super::connection::{Phase, Reading};
use super::{Driver, LINGER, SESSION, TICK};
use crate::ring::{Key, Op};

impl Driver {
    /// The peer broke the rules after bind.
    pub(super) fn violate(&mut self, key: Key, violation: Violation) {
        self.end_stream(key, violation.condition());
    }

    /// Ends a bound stream with an error, after what its outbox still holds (RFC 6120 §4.9).
    pub(super) fn end_stream(&mut self, key: Key, error: impl Into<stream::StreamError>) {
        let error = error.into();
        self.shard.counters.stream_errors[error.condition] += 1;
        let last = self.forget_session(key);
        if let Some(connection) = self.connection_mut(key) {
            connection.out.extend_from_slice(&last);
            stream::write_error(&mut connection.out, error, "");
        }
        self.shard.give_buffer(last);
        self.finish(key);
    }

    /// The session went to another connection: this one's stream ends with `conflict` (XEP-0198 v1.6.3 §5).
    pub(super) fn displace(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        if !matches!(connection.phase, Phase::Session(_)) {
            return;
        }
        connection.phase = Phase::Closing;
        stream::write_error(&mut connection.out, stream::Condition::Conflict, "");
        self.shard.counters.stream_errors[stream::Condition::Conflict] += 1;
        self.finish(key);
    }

    /// The connection was cut off: its session waits to be resumed if it may, and ends otherwise.
    pub(super) fn lose_session(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        let Phase::Session(id) = connection.phase else { return };
        let now = self.due(0);
        let mut until = 0;
        let waits = self.shard.hibernate(id, |seconds| {
            until = now + u64::from(seconds) * 1_000 / TICK.as_millis() as u64;
            until
        });
        if !waits {
            drop(self.forget_session(key));
            return;
        }
        self.wheel.insert(until, SESSION | id.to_token());
        if let Some(connection) = self.connection_mut(key) {
            connection.phase = Phase::Closing;
        }
    }

    /// The peer closed its stream: answer the close (RFC 6120 §4.4).
    pub(super) fn say_close(&mut self, key: Key) {
        if let Some(connection) = self.connection_mut(key) {
            connection.out.extend_from_slice(b"</stream:stream>");
        }
        self.finish(key);
    }

    /// Takes the session out of the shard; its last bytes are returned.
    pub(super) fn forget_session(&mut self, key: Key) -> Vec<u8> {
        let Some(connection) = self.connection_mut(key) else { return Vec::new() };
        let Phase::Session(id) = connection.phase else { return Vec::new() };
        connection.phase = Phase::Closing;
        self.shard.end(id)
    }

    /// Writes out what waits, then waits a little for the peer to close (RFC 6120 §4.4). Our side is not shut first: the
    /// ring hands a shutdown to a kernel thread, which costs more than all the rest of a connection's end.
    pub(super) fn finish(&mut self, key: Key) {
        if let Some(carry) = self.take_carry(key) {
            self.recycle_carry(carry);
        }
        let Some(connection) = self.connection_mut(key) else { return };
        connection.phase = Phase::Closing;
        connection.flags.ended = false;
        let held = connection.flags.held;
        self.release_negotiation(key);
        // What is held goes out first.
        self.set_deadline(key, if held { LINGER + self.parts.limits.refusal_delay } else { LINGER });
        self.mark_flush(key);
        self.arm(key);
    }

    pub(super) fn release_negotiation(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        if std::mem::take(&mut connection.flags.unauthenticated) {
            self.unauthenticated = self.unauthenticated.saturating_sub(1);
            self.shard.counters.negotiating = u64::from(self.unauthenticated);
            self.recount(key);
        }
        if let Some(seat) = self.connection_mut(key).and_then(|connection| connection.seat.take()) {
            self.parts.sources.leave(seat);
        }
    }

    /// Closes the socket at once.
    pub(super) fn close(&mut self, key: Key) {
        self.forget_session(key);
        self.release_negotiation(key);
        if let Some(carry) = self.take_carry(key) {
            self.recycle_carry(carry);
        }
        let Some(connection) = self.connection_mut(key) else { return };
        if connection.flags.closed {
            return;
        }
        connection.phase = Phase::Closing;
        connection.flags.closed = true;
        let armed = match connection.reading {
            Reading::None | Reading::Cancelling | Reading::Waiting => None,
            Reading::Once => Some(Op::Recv),
            Reading::Multi => Some(Op::RecvMulti),
            Reading::Poll => Some(Op::Poll),
        };
        let outstanding = [armed, connection.flags.sending.then_some(Op::Send)];
        let slot = connection.slot;
        connection.operations += 1 + outstanding.iter().flatten().count() as u16;
        self.ring.close(slot, key, outstanding.into_iter().flatten());
    }
}
