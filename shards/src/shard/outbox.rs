//! What waits to be written to a session, and who waits for that.

use super::*;

impl Shard {
    /// Takes a session's waiting bytes for a write. They count as in flight until [`Shard::written`].
    pub fn take_outbox(&mut self, id: SessionId) -> Vec<u8> {
        self.request_count(id);
        let Some(session) = self.get_mut(id) else { return Vec::new() };
        let bytes = std::mem::take(&mut session.outbox);
        session.in_flight = session.in_flight.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.recount(id);
        bytes
    }

    /// What was taken has been sent: who waited for room may go on. Returns whether more waits.
    pub fn written(&mut self, id: SessionId) -> bool {
        let low = self.config.outbox_bytes_low as usize;
        let Some(session) = self.get_mut(id) else { return false };
        session.in_flight = 0;
        let waits = !session.outbox.is_empty();
        let waited_for = session.is_waited_for();
        let given = !waits
            && session.managed.is_none()
            && session.extras.as_ref().is_some_and(|extras| !extras.given.is_empty());
        if waited_for && self.unsent(id) <= low {
            self.release_waiters(id);
        }
        if given {
            self.forget_given(id);
        }
        waits
    }

    /// A buffer for reuse.
    pub fn give_buffer(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 0 && buffer.capacity() <= POOL_BUFFER_BYTES && self.pool.len() < POOL_BUFFERS {
            buffer.clear();
            self.pool.push(buffer);
        }
    }

    /// A buffer from the pool, or a new one.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        self.pool.pop().unwrap_or_default()
    }

    /// Appends to a session's outbox and puts it on the dirty list.
    pub(super) fn write(&mut self, id: SessionId, append: impl FnOnce(&mut Vec<u8>)) {
        let Some(session) = self.sessions.get_mut(id.index as usize) else { return };
        if session.generation != id.generation {
            return;
        }
        if session.outbox.capacity() == 0
            && let Some(buffer) = self.pool.pop()
        {
            session.outbox = buffer;
        }
        let start = session.outbox.len();
        append(&mut session.outbox);
        if session.managed.is_some() {
            self.keep_unacked(id, start);
        }
        self.recount(id);
        self.mark_dirty(id);
    }

    /// As [`Shard::write`], for what is no stanza: it is not counted, and nothing for a session without a connection.
    pub(super) fn write_unmanaged(&mut self, id: SessionId, append: impl FnOnce(&mut Vec<u8>)) {
        let Some(session) = self.get_mut(id).filter(|session| session.connection != managed::NO_CONNECTION) else {
            return;
        };
        append(&mut session.outbox);
        self.recount(id);
        self.mark_dirty(id);
    }

    pub(super) fn mark_dirty(&mut self, id: SessionId) {
        let Some(session) = self.get_mut(id) else { return };
        if !session.flags.dirty && !session.outbox.is_empty() {
            session.flags.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Bytes on their way to a session's client, or as many as its unacknowledged stanzas weigh. A session that has no
    /// connection holds nobody up: it has bounds of its own.
    pub(super) fn unsent(&self, id: SessionId) -> usize {
        let Some(session) = self.get(id) else { return 0 };
        match &session.managed {
            None => session.unsent(),
            Some(managed) if managed.is_hibernated() => 0,
            // It may have acknowledged all of it, and not be heard: who waited for it might be the one it waits for.
            Some(_) if session.flags.stalled || session.flags.awaits || session.paused > 0 => session.unsent(),
            Some(managed) => {
                session.unsent().max(managed.pressure(&self.config.managed, self.config.outbox_bytes_full))
            }
        }
    }

    /// A session is not heard for now, and so cannot acknowledge: who waits for that alone goes on, since it may be whom the
    /// session itself waits for.
    pub(super) fn release_deaf(&mut self, id: SessionId) {
        let low = self.config.outbox_bytes_low as usize;
        if self.get(id).is_some_and(|session| session.managed.is_some() && session.unsent() <= low) {
            self.release_waiters(id);
        }
    }

    pub(super) fn is_managed(&self, id: SessionId) -> bool {
        self.get(id).is_some_and(|session| session.managed.is_some())
    }

    /// As [`Shard::write`], within the outbox's bound: for what comes from others than the session itself, and nobody
    /// can be made to wait for.
    pub(super) fn tell(&mut self, id: SessionId, append: impl FnOnce(&mut Vec<u8>)) -> bool {
        if self.unsent(id) >= self.config.outbox_bytes_full as usize {
            self.counters.drops[DropReason::OutboxFull] += 1;
            return false;
        }
        self.write(id, append);
        true
    }

    /// Lets `sender` wait until `recipient` has room.
    pub(super) fn wait_for(&mut self, sender: SessionId, recipient: SessionId) -> Flow {
        if let Some(session) = self.get_mut(recipient) {
            let waiter = Waiter::Local(sender);
            let waiters = &mut session.extras().waiters;
            if !waiters.contains(&waiter) {
                waiters.push(waiter);
            }
        }
        self.watch(recipient);
        self.counters.backpressure_pauses += 1;
        Flow::Stalled
    }

    pub(super) fn release_waiters(&mut self, id: SessionId) {
        let Some(extras) = self.get_mut(id).and_then(|session| session.extras.as_mut()) else { return };
        let waiters = std::mem::take(&mut extras.waiters);
        self.release(waiters);
    }

    pub(super) fn release(&mut self, waiters: Vec<Waiter>) {
        for waiter in waiters {
            match waiter {
                Waiter::Local(sender) => self.resume(sender),
                Waiter::Remote(shard, sender) => {
                    if let Some(batch) = self.batches.get_mut(usize::from(shard.0)) {
                        batch.handoffs.push(Handoff::Resume(sender));
                    }
                }
            }
        }
    }

    pub(super) fn resume(&mut self, id: SessionId) {
        if let Some(session) = self.get(id).filter(|session| session.connection != managed::NO_CONNECTION) {
            self.effects.push_back(Effect::Resume(session.connection));
        }
    }
}
