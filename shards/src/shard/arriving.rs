//! Sessions that become available, at a bounded rate: what their contacts are told and asked is the dearest part of coming
//! back, and of it only the last word counts. Beyond the rate a session waits here for its turn, a second at most; meanwhile it
//! is available to whoever writes to it, and what it says of itself replaces what it said before.
//!
//! Spec: RFC 6121 §4.2.2, which sets no time within which contacts must know.

use std::collections::VecDeque;

use super::{SessionId, Shard};
use crate::admission::{Bucket, Buckets, Layer};

/// The longest that contacts wait, in nanoseconds.
const HELD_MAX: u64 = 1_000_000_000;

/// Who waits, and since when.
#[derive(Debug)]
pub(super) struct Arriving {
    waiting: VecDeque<(SessionId, u64)>,
    presences: Bucket,
    /// When the turn began, as the driver said, in nanoseconds since the start.
    nanos: u64,
}

impl Default for Arriving {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), presences: Bucket::new(0, 0), nanos: 0 }
    }
}

impl Shard {
    /// So many sessions become available in a second; 0: as many as want to.
    pub fn set_presences_per_second(&mut self, rate: u32) {
        self.arriving.presences.set(rate, Buckets::WAITING);
    }

    /// Sets the time, in nanoseconds since the start.
    pub const fn set_nanos(&mut self, nanos: u64) {
        self.arriving.nanos = nanos;
    }

    /// Nanoseconds until the next of those who wait may go on; `None` if nobody waits.
    pub fn arriving_due(&self) -> Option<u64> {
        let Arriving { waiting, presences, nanos } = &self.arriving;
        let (_, since) = waiting.front()?;
        Some(presences.wait(*nanos).min((since + HELD_MAX).saturating_sub(*nanos)))
    }

    /// Whether a session that says it is available waits until others are told.
    pub(super) fn arrives(&mut self, id: SessionId, initial: bool) -> bool {
        if self.get(id).is_some_and(|session| session.flags.arriving) {
            return true;
        }
        let Arriving { waiting, presences, nanos } = &mut self.arriving;
        if !initial || (waiting.is_empty() && presences.take(*nanos)) {
            self.counters.admitted[Layer::Presence] += u64::from(initial);
            return false;
        }
        waiting.push_back((id, *nanos));
        self.counters.held[Layer::Presence] += 1;
        if let Some(session) = self.get_mut(id) {
            session.flags.arriving = true;
        }
        true
    }

    /// Lets those go on whose turn has come, at most `budget`.
    pub fn go_on_arriving(&mut self, budget: usize) {
        for _ in 0..budget {
            if self.arriving_due() != Some(0) {
                return;
            }
            let Some((id, _)) = self.arriving.waiting.pop_front() else { return };
            let Some(session) = self.get_mut(id) else { continue };
            session.flags.arriving = false;
            // It has left again, and nobody knows that it came.
            if session.priority.is_none() {
                continue;
            }
            let from = session.jid.clone();
            let nanos = self.arriving.nanos;
            self.arriving.presences.owe(nanos);
            self.counters.admitted[Layer::Presence] += 1;
            self.appear(id, &from, true);
            self.want_last(id);
        }
    }
}
