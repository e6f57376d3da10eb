//! Time and commands: deadlines, the sweep over slow connections, what the control thread asks for.

use std::sync::Arc;
use std::time::Duration;

use plaza_core::stream;

use super::connection::{Phase, Reading};
use super::{ASKS, Command, Driver, DriverLimits, HELD, NewLimits, QUIET_TICKS, REARM, SESSION, TICK};
use crate::metrics::{DropReason, Handshake};
use crate::ring::{Key, Op};

impl Driver {
    pub(super) fn set_deadline(&mut self, key: Key, after: Duration) {
        let ticks = u32::try_from(after.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX).max(1);
        let due = self.tick.saturating_add(ticks);
        let Some(connection) = self.connection_mut(key) else { return };
        connection.due = due;
        self.wheel.insert(u64::from(due), u64::from(key.generation) << 32 | u64::from(key.index));
    }

    pub(super) fn on_time(&mut self) {
        let mut fired = Vec::new();
        self.wheel.advance(u64::from(self.tick), |token| fired.push(token));
        for token in fired {
            if token == REARM {
                self.rearms = false;
                self.arm_listeners();
                continue;
            }
            if token == ASKS {
                self.shard.asks_due(u64::from(self.tick));
                continue;
            }
            if token == HELD {
                self.release_held();
                continue;
            }
            if token & SESSION != 0 {
                self.expired.push_back(token & !SESSION);
                continue;
            }
            let key = Key { index: token as u32, generation: (token >> 32) as u32 };
            self.on_deadline(key);
        }
        if self.tick >= self.sweep_at {
            self.sweep_at = self.tick + 10;
            self.sweep();
        }
    }

    /// An accept ended: at once again, or, out of descriptors most likely, in a second rather than spinning.
    pub(super) fn accept_again(&mut self, key: Key, later: bool) {
        let Some(accepting) = self.accepting.get_mut(key.index as usize) else { return };
        accepting.idle.push(key.generation);
        if !later || self.full {
            self.arm_listeners();
        } else if !std::mem::replace(&mut self.rearms, true) {
            self.wheel.insert(u64::from(self.tick) + 10, REARM);
        }
    }

    fn on_deadline(&mut self, key: Key) {
        let tick = self.tick;
        let Some(connection) = self.connection_mut(key) else { return };
        if connection.due == 0 || connection.due > tick || connection.flags.closed {
            return;
        }
        connection.due = 0;
        match &mut connection.phase {
            Phase::Session(_) => {
                connection.flags.shaped = false;
                // What came before could not go on meanwhile.
                connection.partial_since = tick;
                self.mark_ready(key);
            }
            Phase::Handshake(_) => {
                self.shard.counters.tls_handshakes[Handshake::TimedOut] += 1;
                self.close(key);
            }
            Phase::Closing => self.close(key),
            Phase::Leaving(..) => self.set_deadline(key, Duration::from_secs(1)),
            Phase::Negotiating(stream) => {
                stream.handle_timeout(&mut connection.out);
                self.shard.counters.stream_errors[stream::Condition::ConnectionTimeout] += 1;
                self.finish(key);
            }
        }
    }

    /// Once a second while there is traffic: quiet sessions give up their armed receive, and streams that are stuck end.
    fn sweep(&mut self) {
        let tick = self.tick;
        let hot = std::mem::take(&mut self.hot);
        for key in hot {
            let Some(connection) = self.connection_mut(key) else { continue };
            if connection.reading != Reading::Multi {
                connection.flags.hot = false;
                continue;
            }
            if tick.saturating_sub(connection.active) < QUIET_TICKS {
                self.hot.push(key);
                continue;
            }
            connection.reading = Reading::Cancelling;
            connection.flags.busy = false;
            connection.flags.hot = false;
            connection.operations += 1;
            self.ring.cancel(Op::RecvMulti, key);
        }
        let limit = self.stuck_ticks();
        let late = |since: u32| tick.saturating_sub(since) > limit;
        self.partial_records = false;
        let (mut unsent, mut unended) = (Vec::new(), Vec::new());
        for (index, connection) in &self.connections {
            if !matches!(connection.phase, Phase::Session(_)) {
                continue;
            }
            let key = Key { index: index as u32, generation: connection.generation };
            if connection.flags.sending && late(connection.sending_since) {
                unsent.push(key);
            } else if connection.is_partial() && !connection.flags.waits() {
                self.partial_records |= connection.carry.is_none();
                if late(connection.partial_since) {
                    unended.push(key);
                }
            }
        }
        for key in unsent {
            self.shard.counters.drops[DropReason::OutboxFull] += 1;
            self.lose_session(key);
            self.close(key);
        }
        for key in unended {
            self.end_stream(key, stream::Condition::ConnectionTimeout);
        }
    }

    /// How long a session may make no progress.
    pub(super) fn stuck_ticks(&self) -> u32 {
        (self.parts.limits.stuck_timeout.as_millis() / TICK.as_millis()) as u32
    }

    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::AccountChanged(bare, condition) => {
                self.shard.account_changed(bare.as_jid());
                if let Some(condition) = condition {
                    self.shard.terminate_account(bare.as_jid(), condition);
                }
            }
            Command::ThingsChanged(bare) => self.shard.account_things_changed(bare.as_jid()),
            Command::Limits(limits) => self.limit(&limits),
            Command::Memory(level, excess) => self.press(level, excess),
            Command::GiveBack => self.give_back(),
            Command::Stop(deadline) => self.stop(deadline),
            Command::Finish => self.keep_resumables(),
        }
    }

    /// From now on these limits hold. What was begun under the old ones, such as a deadline or a stream that is
    /// negotiated, ends under them.
    fn limit(&mut self, new: &NewLimits) {
        self.shard.set_config(Arc::clone(&new.shard));
        self.parts.services = Arc::clone(&new.services);
        self.parts.errands = Arc::clone(&new.errands);
        self.parts.limits = DriverLimits { ring: self.parts.limits.ring, ..new.driver };
        self.buckets.set(&new.driver.newcomers);
        self.shard.set_presences_per_second(new.driver.newcomers.presences);
        for (listener, stream) in self.listeners.iter_mut().zip(&new.streams) {
            listener.stream = Arc::clone(stream);
        }
    }
}
