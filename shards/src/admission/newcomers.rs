//! Newcomers whose bytes have arrived and wait for their turn, so that those who are logged in never wait for them.
//!
//! A connection that has not bound a resource is not read as soon as it can be: it is put here, its bytes stay in the
//! kernel's buffer, and in each turn of the shard's loop only as many are read as the turn has time for. So a burst of
//! handshakes takes its bounded share of each of many turns instead of one that nobody else can get into, and whoever waits
//! holds nothing but its own connection.
//!
//! Who has begun goes before who has not: their handshake is paid for, and they leave room when they are done.

use std::collections::VecDeque;

use super::bucket::Bucket;

/// Those who wait. `T` names a connection.
#[derive(Debug)]
pub struct Newcomers<T> {
    /// Their TLS handshake has not begun: the dearest step is ahead of them.
    fresh: VecDeque<T>,
    /// They have begun it, or negotiate their stream.
    begun: VecDeque<T>,
    /// Nanoseconds that a step takes, as a running mean.
    step: u64,
    /// Of those who have not begun, how many came since [`Self::held`] was asked.
    came: usize,
    /// Steps since one was of those who have not begun.
    since_fresh: u32,
}

/// One step in so many is of those who have not begun, if there are any: they are never starved.
const FRESH_EVERY: u32 = 4;
/// Steps of a turn, whatever they take: newcomers get on even if a single step takes longer than a turn's share, as that of a
/// handshake does.
const STEPS_MIN: u32 = 1;
/// Steps of a turn, however little they take.
const STEPS_MAX: u32 = 64;
/// A step weighs one in so many in the mean.
const MEAN_OF: u64 = 16;

impl<T> Default for Newcomers<T> {
    fn default() -> Self {
        // What a handshake takes, until it is known better.
        Self { fresh: VecDeque::new(), begun: VecDeque::new(), step: 150_000, came: 0, since_fresh: 0 }
    }
}

impl<T> Newcomers<T> {
    /// Bytes of a connection arrived. `begun`: its handshake, or its stream, is under way.
    pub fn wait(&mut self, newcomer: T, begun: bool) {
        self.came += usize::from(!begun);
        let queue = if begun { &mut self.begun } else { &mut self.fresh };
        queue.push_back(newcomer);
    }

    /// A step took so many nanoseconds.
    pub fn took(&mut self, nanos: u64) {
        self.step = (self.step * (MEAN_OF - 1) + nanos.min(1_000_000_000)) / MEAN_OF;
    }

    /// Steps that fit into so many nanoseconds of a turn.
    pub fn share(&self, nanos: u64) -> u32 {
        let steps = nanos / self.step.max(1);
        u32::try_from(steps).unwrap_or(STEPS_MAX).clamp(STEPS_MIN, STEPS_MAX)
    }

    /// Whose turn it is, and whether it had begun. A handshake takes a token.
    pub fn next(&mut self, handshakes: &mut Bucket, now: u64) -> Option<(T, bool)> {
        let fresh_first = self.since_fresh + 1 >= FRESH_EVERY || self.begun.is_empty();
        if fresh_first && !self.fresh.is_empty() && handshakes.take(now) {
            self.since_fresh = 0;
            return self.fresh.pop_front().map(|newcomer| (newcomer, false));
        }
        self.since_fresh = self.since_fresh.saturating_add(1);
        self.begun.pop_front().map(|newcomer| (newcomer, true))
    }

    /// Nanoseconds until the next may go on; `None` if nobody waits.
    pub fn due(&self, handshakes: &Bucket, now: u64) -> Option<u64> {
        if !self.begun.is_empty() {
            return Some(0);
        }
        (!self.fresh.is_empty()).then(|| handshakes.wait(now))
    }

    /// How many of those who came since this was asked last wait for a handshake now.
    pub fn held(&mut self) -> u64 {
        std::mem::take(&mut self.came).min(self.fresh.len()) as u64
    }

    /// How many wait for a handshake.
    pub fn fresh(&self) -> usize {
        self.fresh.len()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.fresh.len() + self.begun.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(newcomers: &mut Newcomers<u32>, share: u32, handshakes: &mut Bucket, now: u64) -> Vec<(u32, bool)> {
        let mut taken = Vec::new();
        for _ in 0..share {
            taken.extend(newcomers.next(handshakes, now));
        }
        taken
    }

    #[test]
    fn a_thousand_handshakes_take_no_more_of_a_turn_than_their_share() {
        let mut newcomers = Newcomers::default();
        (0..1_000).for_each(|number| newcomers.wait(number, false));
        let share = newcomers.share(2_000_000);
        assert_eq!(share, 13, "150 µs each");
        let first = turn(&mut newcomers, share, &mut Bucket::new(0, 0), 0);
        assert_eq!(first, (0..13).map(|number| (number, false)).collect::<Vec<_>>());
        assert_eq!(newcomers.len(), 987);
        (0..200).for_each(|_| newcomers.took(1_000_000));
        assert_eq!(newcomers.share(2_000_000), 2);
        assert_eq!(newcomers.share(100_000), STEPS_MIN, "slower, but never none");
        (0..200).for_each(|_| newcomers.took(1_000));
        assert_eq!(newcomers.share(2_000_000), STEPS_MAX, "there is an end to it");
    }

    #[test]
    fn who_has_begun_goes_first_and_who_has_not_gets_a_share() {
        let mut newcomers = Newcomers::default();
        (0..100).for_each(|number| newcomers.wait(number, false));
        (100..200).for_each(|number| newcomers.wait(number, true));
        // However few steps a turn has.
        let taken: Vec<_> = (0..12).flat_map(|_| turn(&mut newcomers, 1, &mut Bucket::new(0, 0), 0)).collect();
        assert_eq!(taken.iter().filter(|(_, begun)| *begun).count(), 9);
        assert_eq!(taken.iter().filter(|(number, _)| *number < 3).count(), 3, "in order");
    }

    #[test]
    fn handshakes_wait_for_their_tokens_and_others_do_not_wait_for_them() {
        let mut newcomers = Newcomers::default();
        let mut handshakes = Bucket::new(10, 0);
        (0..5).for_each(|number| newcomers.wait(number, false));
        (5..7).for_each(|number| newcomers.wait(number, true));
        let now = 1_000_000_000;
        let taken = turn(&mut newcomers, 12, &mut handshakes, now);
        assert_eq!(taken, [(5, true), (6, true), (0, false)]);
        assert_eq!(newcomers.due(&handshakes, now), Some(100_000_000));
        assert!(turn(&mut newcomers, 12, &mut handshakes, now + 99_999_999).is_empty());
        // One in a tenth of a second, until all had their turn.
        for number in 1..5 {
            let at = now + u64::from(number) * 100_000_000;
            assert_eq!(newcomers.due(&handshakes, at), Some(0));
            assert_eq!(turn(&mut newcomers, 12, &mut handshakes, at), [(number, false)]);
        }
        assert_eq!(newcomers.due(&handshakes, now), None);
        assert!(newcomers.is_empty());
    }
}
