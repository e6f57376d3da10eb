//! Stopping: streams are told one after the other, so that their clients do not come back all at once, and the shards end
//! together, so that nothing one of them still hands over is left behind.
//!
//! A shard that has told all its streams goes on for the others: it takes what they hand over, and stores it. Once none of
//! them has anything left to do ([`Quiet`]) all are told to finish; some time after the deadline each does so by itself.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use plaza_core::stream;
use plaza_registry::resumables;
use plaza_registry::store::StoreError;

use super::connection::Phase;
use super::{Driver, TICK};
use crate::mesh::ShardId;
use crate::ring::{ACCEPTS, Key};

/// Time beyond the deadline, when all were told, in which what they left behind is handed over and stored.
pub(crate) const SETTLE_GRACE: Duration = Duration::from_secs(1);
/// Time beyond that in which sessions are stored which wait for the next start.
const STORE_GRACE: Duration = Duration::from_secs(5);
/// A shard ends so long after its deadline at the latest.
pub(crate) const STOP_GRACE: Duration = SETTLE_GRACE.saturating_add(STORE_GRACE);

/// Since when a stopping shard has nothing to do any more. Written by that shard, read by whoever waits for all of them.
#[derive(Debug, Default)]
pub struct Quiet(AtomicU64);

impl Quiet {
    /// The turn since which there was nothing to do; 0 if there is something, or may be.
    pub fn since(&self) -> u64 {
        // Pairs with the Release of both writes below.
        self.0.load(Ordering::Acquire)
    }

    /// Whether no shard has anything left to do: each says so twice, and handed nothing over in between.
    ///
    /// What is handed over is in a queue, so that its sender has something to do; or it was taken out, by a shard that said
    /// before that it may have something to do. Whoever learns from the empty queue that its sender has nothing left learns
    /// of that too, if it looks at the taker afterwards, as the second look does.
    pub fn all(shards: &[impl AsRef<Self>]) -> bool {
        let look = || shards.iter().map(|quiet| quiet.as_ref().since()).collect::<Vec<_>>();
        let first = look();
        !first.contains(&0) && look() == first
    }

    fn set(&self, since: u64) {
        self.0.store(since, Ordering::Release);
    }
}

/// How far a stop has come.
pub(super) struct Stop {
    begun: Instant,
    deadline: Instant,
    told: u64,
    /// Sessions that go on being served until it is their turn.
    left: Vec<Key>,
    /// The turn since which there was nothing to do.
    quiet_since: u64,
    finishing: bool,
}

impl Driver {
    /// Graceful stop: no new connections, `system-shutdown` to every stream (RFC 6120 §4.9.3.20), to sessions at a rate.
    /// Streams that are being negotiated have nothing to lose, and end at once.
    pub(super) fn stop(&mut self, deadline: Instant) {
        if self.stopping.is_some() {
            return;
        }
        self.release_all_held();
        for id in self.shard.all_sessions() {
            self.shard.answer_late(id, u64::MAX);
        }
        for index in 0..self.accepting.len() {
            self.ring.cancel_accept(index as u32);
        }
        let mut left = Vec::new();
        let keys: Vec<Key> = self
            .connections
            .iter()
            .map(|(index, connection)| Key { index: index as u32, generation: connection.generation })
            .collect();
        for key in keys {
            let Some(connection) = self.connection_mut(key) else { continue };
            match &mut connection.phase {
                Phase::Negotiating(stream) => {
                    stream.handle_abort(stream::Condition::SystemShutdown, &mut connection.out);
                    self.finish(key);
                }
                Phase::Handshake(_) => self.close(key),
                Phase::Session(_) => left.push(key),
                Phase::Closing | Phase::Leaving(..) => {}
            }
        }
        let begun = Instant::now();
        self.stopping = Some(Stop { begun, deadline, told: 0, left, quiet_since: 0, finishing: false });
    }

    /// Tells those whose turn it is; at the deadline all that are left.
    pub(super) fn go_on_stopping(&mut self) {
        let rate = u64::from(self.parts.limits.stop_sessions_per_second);
        let Some(stop) = &mut self.stopping else { return };
        let now = Instant::now();
        let due = match rate {
            0 => u64::MAX,
            _ if now >= stop.deadline => u64::MAX,
            // Those of a tick at its beginning.
            rate => (stop.begun.elapsed() + TICK).as_millis() as u64 * rate / 1_000,
        };
        let count = usize::try_from(due.saturating_sub(stop.told)).unwrap_or(usize::MAX).min(stop.left.len());
        stop.told += count as u64;
        let late = now >= stop.deadline + SETTLE_GRACE;
        let turn = stop.left.split_off(stop.left.len() - count);
        for key in turn {
            self.tell_stop(key);
        }
        if late {
            self.keep_resumables();
        }
    }

    /// A session that may be resumed waits for that from now on, and what comes for it waits with it; others end.
    fn tell_stop(&mut self, key: Key) {
        let Some(&Phase::Session(id)) = self.connection(key).map(|connection| &connection.phase) else { return };
        if !self.shard.suspend(id) {
            return self.shard.terminate(id, stream::Condition::SystemShutdown);
        }
        self.shard.counters.stream_errors[stream::Condition::SystemShutdown] += 1;
        let Some(connection) = self.connection_mut(key) else { return };
        connection.phase = Phase::Closing;
        stream::write_error(&mut connection.out, stream::Condition::SystemShutdown, "");
        self.finish(key);
    }

    /// Sessions that may be resumed are kept for the next start; all others are over.
    pub(super) fn keep_resumables(&mut self) {
        let Some(stop) = self.stopping.as_mut().filter(|stop| !stop.finishing) else { return };
        stop.finishing = true;
        let mut kept = Vec::new();
        for id in self.shard.all_sessions() {
            kept.extend(self.shard.retire(id));
        }
        if kept.is_empty() {
            return;
        }
        let (store, keeping) = (self.parts.store.clone(), Rc::clone(&self.keeping));
        keeping.set(true);
        let shard = self.parts.id.0;
        self.tasks.spawn(async move {
            let stored = loop {
                match resumables::store(&store, &kept).await {
                    Err(StoreError::Busy) => next_turn().await,
                    stored => break stored,
                }
            };
            match stored {
                Ok(()) => tracing::debug!(shard, sessions = kept.len(), "sessions are kept for the next start"),
                Err(error) => tracing::error!(shard, %error, "sessions could not be kept for the next start"),
            }
            keeping.set(false);
        });
    }

    /// Whether a stopping shard has nothing to do, and has handed over all it had to.
    fn is_quiet(&self) -> bool {
        self.stopping.as_ref().is_some_and(|stop| stop.left.is_empty())
            && self.parts.port.is_empty()
            && self.parts.inbox.is_empty()
            && self.tasks.is_empty()
            && self.outcomes.borrow().is_empty()
            && !self.shard.is_storing()
            && !self.shard.is_fanning()
            && !self.batches_wait()
            && self.departures.is_empty()
            && self.lost.is_empty()
            && self.expired.is_empty()
            // Nobody is let in any more whom the next broker would not know.
            && self.accepting.iter().all(|accepting| accepting.idle.len() == ACCEPTS as usize)
            && (0..self.parts.shards).all(|shard| self.parts.port.depth(ShardId(shard)) == 0)
    }

    /// A turn begins, in which there may be something to do: said before anything is taken out of a queue. Whether there was
    /// nothing until now.
    pub(super) fn begin_quietly(&self) -> bool {
        if self.stopping.is_none() {
            return false;
        }
        self.parts.quiet.set(0);
        self.is_quiet()
    }

    /// A turn ends that began quietly or not, and in which so many batches were sent: shows whether there is anything to do,
    /// and if not, since when.
    pub(super) fn end_quietly(&mut self, began: bool, sent: u64) {
        let (quiet, turn) = (self.is_quiet(), self.shard.counters.turns.max(1));
        let Some(stop) = &mut self.stopping else { return };
        if !began || sent > 0 || stop.quiet_since == 0 {
            stop.quiet_since = turn;
        }
        if quiet {
            self.parts.quiet.set(stop.quiet_since);
        }
    }

    /// Whether a stop has nothing more to wait for.
    pub(super) fn has_stopped(&self) -> bool {
        let Some(stop) = &self.stopping else { return false };
        let now = Instant::now();
        let stored = !self.shard.is_storing() && !self.keeping.get();
        let closed = self.connections.is_empty() || now >= stop.deadline;
        stop.finishing && stored && closed || now >= stop.deadline + STOP_GRACE
    }
}

/// Resolves in the next turn.
async fn next_turn() {
    let mut came = false;
    poll_fn(|context| {
        if std::mem::replace(&mut came, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn shards_are_quiet_only_if_each_says_so() {
        let shards = [Arc::new(Quiet::default()), Arc::new(Quiet::default())];
        assert!(!Quiet::all(&shards));
        shards[0].set(7);
        assert!(!Quiet::all(&shards));
        shards[1].set(9);
        assert!(Quiet::all(&shards));
        shards[0].set(0);
        assert!(!Quiet::all(&shards));
    }
}
