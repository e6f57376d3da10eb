//! Reading: bytes from the kernel, through TLS, to the stream or the session, an element at a time.

use std::time::Instant;

use super::tls::{TlsError, TlsEvent};
use plaza_core::stream::{self, Violation};
use plaza_core::xml::{Scanned, Scanner, is_gap};

use super::connection::{Carry, Connection, Phase, Reading};
use super::{Driver, NO_NAMESPACES, TICK, WAITING_BYTES, guarded};
use crate::metrics::Handshake;
use crate::ring::{Completion, Key, Op, Rank};
use crate::shard::{Flow, SessionId};

impl Driver {
    /// Arms reading as the connection's phase and recent traffic ask for.
    pub(super) fn arm(&mut self, key: Key) {
        let tick = self.tick;
        let Some(connection) = self.connection_mut(key) else { return };
        let waits = connection.flags.waits() && !matches!(connection.phase, Phase::Closing);
        let flags = connection.flags;
        let never = flags.closed || flags.held || flags.lost || flags.ended;
        if connection.reading != Reading::None || never || waits {
            return;
        }
        let reading = match &connection.phase {
            Phase::Leaving(..) => return,
            Phase::Closing => Reading::Once,
            // What it says is read when its turn comes.
            Phase::Handshake(_) => Reading::Poll,
            Phase::Negotiating(stream) if stream.wants_bytes() => Reading::Poll,
            Phase::Negotiating(_) => return,
            // A client that has just bound goes on at once.
            Phase::Session(_) if connection.flags.fresh => {
                connection.flags.fresh = false;
                Reading::Once
            }
            // It goes on when its turn has come again.
            Phase::Session(_) if connection.flags.bulky => Reading::Once,
            // Two reads within a second make a session busy, and worth an armed receive.
            Phase::Session(_) if connection.flags.busy && tick.saturating_sub(connection.active) <= 10 => {
                Reading::Multi
            }
            Phase::Session(_) => Reading::Poll,
        };
        connection.reading = reading;
        connection.operations += 1;
        let (slot, is_there) = (connection.slot, connection.flags.bulky);
        match reading {
            // Unless it is there, what we have just said must reach the peer before it answers.
            Reading::Once => self.ring.recv(slot, key, !is_there, Rank::Session),
            Reading::Multi => {
                if !connection.flags.hot {
                    connection.flags.hot = true;
                    self.hot.push(key);
                }
                self.ring.recv_multi(slot, key);
            }
            Reading::Poll => self.ring.poll(slot, key),
            Reading::None | Reading::Cancelling | Reading::Waiting => {}
        }
    }

    /// A poll fired: there is something to read, once; if more follows soon, the next is a multishot.
    pub(super) fn on_readable(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        connection.reading = Reading::None;
        if connection.flags.waits() || connection.flags.closed || self.wait_for_turn(key) {
            return;
        }
        let Some(connection) = self.connection_mut(key) else { return };
        connection.reading = Reading::Once;
        connection.operations += 1;
        let slot = connection.slot;
        self.ring.recv(slot, key, false, Rank::Session);
    }

    pub(super) fn on_received(&mut self, key: Key, completion: &mut Completion) {
        let tick = self.tick;
        let Some(connection) = self.connection_mut(key) else { return };
        if !completion.more {
            connection.reading = Reading::None;
        }
        if let Some(received) = completion.received.as_mut().filter(|_| completion.result > 0) {
            connection.flags.busy = tick.saturating_sub(connection.active) <= 10;
            connection.active = tick;
            connection.flags.bulky = completion.crowded;
            // Who sends more than one receive takes goes on when its turn comes.
            if completion.crowded && matches!(connection.phase, Phase::Session(_)) {
                self.mark_ready(key);
            }
            self.shard.counters.bytes_in += completion.result as u64;
            self.receive(key, received.bytes());
            self.bound_input(key);
            return self.after_feed(key);
        }
        match completion.result.saturating_neg() {
            0 if self.connection(key).is_some_and(Connection::has_more) => self.on_last(key),
            0 => self.on_end(key),
            // All buffers of the pool were taken; by now they have been given back.
            libc::ENOBUFS => {
                self.shard.counters.receives_starved += 1;
                self.mark_ready(key);
            }
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => self.mark_ready(key),
            _ => self.on_end(key),
        }
    }

    /// Bytes from the wire: through TLS if there is any, then into the stream.
    fn receive(&mut self, key: Key, bytes: &mut [u8]) {
        let Some(connection) = self.connection_mut(key) else { return };
        if matches!(connection.phase, Phase::Closing) {
            return;
        }
        let Some(mut tls) = connection.tls.take() else { return self.plaintext(key, bytes) };
        let mut goes_on = tls.is_partial();
        let result = tls.receive(bytes, |event| {
            goes_on = false;
            match event {
                TlsEvent::Established(facts) => self.on_secured(key, facts),
                TlsEvent::Plaintext(text) => self.plaintext(key, text),
            }
        });
        let (closed, has_output, partial) = (tls.closed, !tls.raw_out.is_empty(), tls.is_partial());
        let tick = self.tick;
        self.partial_records |= partial;
        if let Some(connection) = self.connection_mut(key) {
            connection.tls = Some(tls);
            // Inside an element it is the element that has to end in time.
            if partial && !goes_on && connection.carry.is_none() {
                connection.partial_since = tick;
            }
        }
        if has_output {
            self.mark_flush(key);
        }
        if let Err(error) = result {
            let in_handshake = matches!(self.connection(key).map(|found| &found.phase), Some(Phase::Handshake(_)));
            if in_handshake {
                self.shard.counters.tls_handshakes[Handshake::Failed] += 1;
            }
            if matches!(error, TlsError::Panicked) {
                self.shard.counters.panics += 1;
            }
            tracing::debug!(shard = self.parts.id.0, connection = key.index, %error, "TLS failed");
            self.lose_session(key);
            self.finish(key);
        } else if closed {
            self.on_last(key);
        }
    }

    /// The peer says no more. What a session has said is taken first.
    fn on_last(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        connection.flags.ended = matches!(connection.phase, Phase::Session(_)) && connection.has_more();
        if connection.flags.ended {
            return;
        }
        if connection.tls.as_ref().is_some_and(|tls| tls.closed) {
            self.lose_session(key);
            self.finish(key);
        } else {
            self.on_end(key);
        }
    }

    /// Bytes of the stream: behind what waits already, or fed as they are.
    fn plaintext(&mut self, key: Key, bytes: &[u8]) {
        let Some(connection) = self.connection_mut(key) else { return };
        if let Some(carry) = &mut connection.carry {
            if connection.flags.unauthenticated {
                carry.push_exact(bytes);
            } else {
                carry.push(bytes);
            }
            if !connection.flags.waits() && !connection.flags.ready {
                self.feed_carry(key);
            }
            return;
        }
        // White space is done with at once, and takes no memory.
        if connection.flags.waits() || connection.flags.ready && !is_gap(bytes) {
            return self.keep(key, bytes, false);
        }
        let mut scanner = std::mem::take(&mut self.scanner);
        let used = self.feed(key, bytes, &mut scanner);
        self.scanner = scanner;
        let rest = bytes.get(used..).unwrap_or_default();
        if rest.is_empty() {
            self.scanner.reset();
        } else {
            self.keep(key, rest, true);
        }
    }

    /// Keeps bytes for later, with the scanner that has begun on them.
    fn keep(&mut self, key: Key, bytes: &[u8], begun: bool) {
        // Who has not logged in gets no buffer that somebody's large stanza has left, nor the scanner's room for one.
        let stranger = self.connection(key).is_some_and(|connection| connection.flags.unauthenticated);
        let mut carry = if stranger { Box::default() } else { self.carries.pop().unwrap_or_default() };
        carry.clear();
        if stranger {
            carry.push_exact(bytes);
        } else {
            carry.push(bytes);
        }
        if begun {
            std::mem::swap(&mut carry.scanner, &mut self.scanner);
            if stranger {
                carry.scanner.shrink();
            }
        }
        let tick = self.tick;
        if let Some(connection) = self.connection_mut(key) {
            connection.partial_since = tick;
        }
        self.put_carry(key, carry);
    }

    pub(super) fn put_carry(&mut self, key: Key, carry: Box<Carry>) {
        let Some(connection) = self.connection_mut(key) else { return };
        if matches!(connection.phase, Phase::Closing) {
            return self.recycle_carry(carry);
        }
        connection.carry = Some(carry);
        self.carrying += 1;
    }

    pub(super) fn take_carry(&mut self, key: Key) -> Option<Box<Carry>> {
        let carry = self.connection_mut(key)?.carry.take()?;
        self.carrying -= 1;
        Some(carry)
    }

    fn feed_carry(&mut self, key: Key) {
        let Some(mut carry) = self.take_carry(key) else { return };
        let mut scanner = std::mem::take(&mut carry.scanner);
        let used = self.feed(key, carry.rest(), &mut scanner);
        carry.scanner = scanner;
        if used >= carry.rest().len() {
            self.recycle_carry(carry);
            return;
        }
        carry.take(used);
        let tick = self.tick;
        if let Some(connection) = self.connection_mut(key)
            && used > 0
        {
            connection.partial_since = tick;
        }
        self.put_carry(key, carry);
    }

    pub(super) fn recycle_carry(&mut self, mut carry: Box<Carry>) {
        if self.carries.len() < 256 && !self.full && carry.room() <= 64 * 1024 {
            carry.clear();
            self.carries.push(carry);
        }
    }

    /// Feeds plaintext to whatever the connection is, and returns how many bytes are done with. A panic in the stream's
    /// own code ends that stream alone: its state is dropped whole, so nothing shared can be torn.
    fn feed(&mut self, key: Key, bytes: &[u8], scanner: &mut Scanner) -> usize {
        let mut used = 0;
        loop {
            let Some(connection) = self.connection(key) else { return bytes.len() };
            let rest = bytes.get(used..).unwrap_or_default();
            match connection.phase {
                Phase::Closing => return bytes.len(),
                Phase::Leaving(..) | Phase::Handshake(_) => return used,
                Phase::Session(id) => return used + self.feed_session(key, id, rest, scanner),
                Phase::Negotiating(_) => {
                    used += self.feed_negotiation(key, rest, scanner);
                    // Once bound, the rest of the bytes are the session's.
                    let bound = self.connection(key).is_some_and(|found| matches!(found.phase, Phase::Session(_)));
                    if !bound || used >= bytes.len() {
                        return used;
                    }
                    scanner.reset();
                }
            }
        }
    }

    fn feed_session(&mut self, key: Key, id: SessionId, bytes: &[u8], scanner: &mut Scanner) -> usize {
        let mut budget = self.parts.limits.stanzas_per_turn_max;
        let used = self.take_stanzas(key, id, bytes, scanner, &mut budget);
        let taken = self.parts.limits.stanzas_per_turn_max - budget;
        let (pace, now_ns) = (self.parts.limits.pace, u64::from(self.tick) * TICK.as_nanos() as u64);
        let Some(connection) = self.connection_mut(key) else { return used };
        if let Some(wait) = pace.charge(&mut connection.paid_ns, now_ns, taken, used)
            && matches!(connection.phase, Phase::Session(_))
        {
            connection.flags.shaped = true;
            self.shard.counters.shaped += 1;
            self.set_deadline(key, wait);
        }
        used
    }

    /// Takes stanzas until there is none whole left, one has to wait, or `budget` is spent.
    fn take_stanzas(
        &mut self,
        key: Key,
        id: SessionId,
        bytes: &[u8],
        scanner: &mut Scanner,
        budget: &mut u16,
    ) -> usize {
        let mut used = 0;
        let limits = self.parts.limits.scan;
        let own = self.shard.stream_namespaces(id).cloned();
        let namespaces = own.as_ref().unwrap_or(&NO_NAMESPACES);
        let shard = &mut self.shard;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            if rest.is_empty() {
                return used;
            }
            let own_scanner = &mut *scanner;
            let Some(scanned) = guarded(move || own_scanner.next(&limits, namespaces, rest)) else {
                self.shard.counters.panics += 1;
                self.end_stream(key, stream::Condition::InternalServerError);
                return bytes.len();
            };
            let (consumed, flow) = match scanned {
                Ok(Scanned::Incomplete { skip }) => return used + skip,
                Ok(Scanned::Close { .. }) => {
                    self.forget_session(key);
                    self.say_close(key);
                    return bytes.len();
                }
                Ok(Scanned::Element { element, consumed }) => (consumed, shard.stanza(id, element)),
                Err(error) => {
                    self.violate(key, Violation::Xml(error));
                    return bytes.len();
                }
            };
            match flow {
                Flow::Continue => used += consumed,
                Flow::Blocked => {
                    self.pause(key);
                    return used + consumed;
                }
                Flow::Stalled => {
                    scanner.reset();
                    self.pause(key);
                    return used;
                }
                Flow::End(condition) => {
                    self.end_stream(key, condition);
                    return bytes.len();
                }
            }
            *budget -= 1;
            if *budget == 0 {
                // Its neighbours first; the rest next turn.
                if used < bytes.len() {
                    self.mark_ready(key);
                }
                return used;
            }
        }
    }

    fn pause(&mut self, key: Key) {
        if let Some(connection) = self.connection_mut(key) {
            connection.flags.paused = true;
        }
    }

    /// After input was fed: arm the next read, or stop an armed one whose session has to wait.
    fn after_feed(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        let waiting = connection.carry.as_ref().map_or(0, |carry| carry.rest().len());
        let held = connection.flags.waits() || connection.flags.ready;
        if held && connection.reading == Reading::Multi && waiting >= WAITING_BYTES {
            connection.reading = Reading::Cancelling;
            connection.operations += 1;
            self.ring.cancel(Op::RecvMulti, key);
            return;
        }
        if !connection.flags.ready {
            self.arm(key);
        }
    }

    pub(super) fn mark_ready(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        if !connection.flags.ready {
            connection.flags.ready = true;
            self.ready.push_back(key);
        }
    }

    /// Goes on with those who had sent more than a turn takes of one, in turn. They have a share of it together: whoever sends
    /// a little waits for that, and not for some of each of them.
    pub(super) fn feed_ready(&mut self) {
        let until = self.share();
        for _ in 0..self.ready.len() {
            if Instant::now() >= until {
                return;
            }
            let Some(key) = self.ready.pop_front() else { return };
            let Some(connection) = self.connection_mut(key) else { continue };
            connection.flags.ready = false;
            if connection.flags.waits() {
                continue;
            }
            if connection.carry.is_some() {
                self.feed_carry(key);
            }
            let is_over = |found: &Connection| found.flags.ended && !found.has_more();
            if self.connection(key).is_some_and(is_over) {
                self.on_last(key);
            } else {
                self.after_feed(key);
            }
        }
    }
}
