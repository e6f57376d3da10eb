//! Writing: what waits for connections goes out, one send each at a time.

use super::Driver;
use super::connection::Phase;
use crate::ring::{Key, Rank};

impl Driver {
    pub(super) fn mark_flush(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        if !connection.flags.flushing {
            connection.flags.flushing = true;
            self.flushes.push(key);
        }
    }

    pub(super) fn flush_all(&mut self) {
        while let Some((_, key)) = self.shard.next_dirty() {
            self.flush(key);
        }
        while let Some(key) = self.flushes.pop() {
            if let Some(connection) = self.connection_mut(key) {
                connection.flags.flushing = false;
            }
            self.flush(key);
            self.recount(key);
        }
    }

    /// Hands what waits for a client to the kernel, one send at a time.
    fn flush(&mut self, key: Key) {
        let tick = self.tick;
        let Some(connection) =
            self.connections.get_mut(key.index as usize).filter(|found| found.generation == key.generation)
        else {
            return;
        };
        if connection.flags.sending || connection.flags.closed || connection.flags.held {
            return;
        }
        let mut plain = std::mem::take(&mut connection.out);
        if let Phase::Session(id) = connection.phase {
            let outbox = self.shard.take_outbox(id);
            if plain.is_empty() {
                self.shard.give_buffer(plain);
                plain = outbox;
            } else {
                plain.extend_from_slice(&outbox);
                self.shard.give_buffer(outbox);
            }
        }
        let closing = matches!(connection.phase, Phase::Closing);
        let wire = match &mut connection.tls {
            None => plain,
            Some(tls) => {
                let mut wire = self.shard.take_buffer();
                let ready = tls.established || plain.is_empty();
                let encrypted = if ready { tls.encrypt(&plain, &mut wire).is_ok() } else { false };
                if closing && tls.established && !connection.flags.said {
                    tls.close_notify(&mut wire);
                }
                self.shard.give_buffer(plain);
                if !encrypted {
                    wire.append(&mut std::mem::take(&mut tls.raw_out));
                }
                wire
            }
        };
        if wire.is_empty() {
            self.shard.give_buffer(wire);
            return;
        }
        connection.flags.said = closing;
        connection.flags.sending = true;
        connection.operations += 1;
        connection.sending_since = tick;
        self.shard.counters.bytes_out += wire.len() as u64;
        self.sends += 1;
        let rank = if matches!(connection.phase, Phase::Session(_)) { Rank::Session } else { Rank::Stranger };
        self.ring.send(connection.slot, key, &mut connection.sending, wire, rank);
    }

    pub(super) fn on_sent(&mut self, key: Key, result: i32) {
        let tick = self.tick;
        let Some(connection) =
            self.connections.get_mut(key.index as usize).filter(|found| found.generation == key.generation)
        else {
            return;
        };
        let Some(buffer) = self.ring.sent(connection.slot, key, &mut connection.sending, result) else {
            connection.operations += 1;
            connection.sending_since = tick;
            return;
        };
        connection.flags.sending = false;
        self.sends -= 1;
        self.shard.give_buffer(buffer);
        if result < 0 {
            return self.on_end(key);
        }
        match connection.phase {
            Phase::Session(id) => {
                if self.shard.written(id) || !connection.out.is_empty() {
                    self.mark_flush(key);
                }
            }
            Phase::Leaving(..) => self.leave(key),
            Phase::Closing | Phase::Handshake(_) | Phase::Negotiating(_) => self.mark_flush(key),
        }
    }
}
