//! Throttles: how often somebody may try something (XEP-0347 §6.5: keys can be guessed).
//!
//! Buckets of tokens that fill with time, as many as fit. Who was not heard of for longest is forgotten first, and begins
//! with a full bucket.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Buckets in each of two halves. With the room that a table keeps free a bucket takes some 50 bytes, so this is 7 MiB at most.
const HALF_MAX: usize = 65_536;

/// Buckets of one kind, by what they are for; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Throttle {
    /// Tokens of a full bucket.
    most: u32,
    /// Milliseconds in which an empty one fills.
    fills_in: u64,
    /// What peers name is hashed with a secret, so that nobody can choose whose bucket is shared.
    hasher: RandomState,
    buckets: Arc<Mutex<Buckets>>,
}

/// The halves: what was heard of lately is in the recent one, which becomes the old one when it is full.
#[derive(Debug, Default)]
struct Buckets {
    recent: HashMap<u64, Bucket>,
    old: HashMap<u64, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Tokens times what one takes in milliseconds to fill: no fraction is lost.
    level: u64,
    at: u64,
}

impl Throttle {
    /// Buckets for so many tries in so many milliseconds.
    pub(super) fn new(most: u32, fills_in: u64) -> Self {
        Self { most, fills_in, hasher: RandomState::new(), buckets: Arc::default() }
    }

    /// Takes a token; `false` if there is none.
    pub(super) fn take(&self, what: &[&str], now: u64) -> bool {
        self.with(what, now, |level, token| {
            let left = level.checked_sub(token);
            (left.unwrap_or(level), left.is_some())
        })
    }

    /// Gives one back, for a try that was none.
    pub(super) fn give_back(&self, what: &[&str], now: u64) {
        self.with(what, now, |level, token| (level + token, true));
    }

    /// Changes the level of a bucket, given what a token is.
    fn with(&self, what: &[&str], now: u64, change: impl FnOnce(u64, u64) -> (u64, bool)) -> bool {
        let (token, full) = (self.fills_in, u64::from(self.most) * self.fills_in);
        let key = self.hasher.hash_one(what);
        let mut buckets = self.lock();
        let known = buckets.recent.get(&key).copied().or_else(|| buckets.old.remove(&key));
        let level = known.map_or(full, |known| {
            let filled = now.saturating_sub(known.at).saturating_mul(u64::from(self.most));
            known.level.saturating_add(filled).min(full)
        });
        // The time on the wall may go back: then nothing fills until it is where it was.
        let at = known.map_or(now, |known| known.at.max(now));
        let (level, done) = change(level, token);
        buckets.recent.insert(key, Bucket { level: level.min(full), at });
        if buckets.recent.len() >= HALF_MAX {
            buckets.old = mem::take(&mut buckets.recent);
        }
        done
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        // Nothing inside the lock can panic halfway, so a poisoned table is whole.
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills_with_time() {
        let throttle = Throttle::new(10, 60_000);
        let tries = |what: &str, now| (0..20).filter(|_| throttle.take(&[what], now)).count();
        assert_eq!(tries("a", 1_000), 10);
        assert_eq!(tries("b", 1_000), 10);
        assert_eq!(tries("a", 6_999), 0);
        assert_eq!(tries("a", 7_000), 1);
        assert_eq!(tries("a", 19_000), 2);
        // A clock that was put back gives nothing away, and takes nothing.
        assert_eq!(tries("a", 0), 0);
        assert_eq!(tries("a", 10_000_000), 10);
        assert_eq!(tries("a", u64::MAX), 10);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_no_more() {
        let throttle = Throttle::new(2, 1_000);
        throttle.give_back(&["a"], 0);
        assert!(throttle.take(&["a"], 0) && throttle.take(&["a"], 0) && !throttle.take(&["a"], 0));
        throttle.give_back(&["a"], 0);
        assert!(throttle.take(&["a"], 0) && !throttle.take(&["a"], 0));
        // Names do not run into each other.
        assert!(throttle.take(&["a", "b"], 0) && throttle.take(&["ab"], 0) && throttle.take(&["", "ab"], 0));
    }

    #[test]
    fn the_table_is_bounded_and_who_keeps_trying_stays_in_it() {
        let throttle = Throttle::new(1, 1_000_000_000);
        assert!(throttle.take(&["guesser"], 0));
        for n in 0..3 * HALF_MAX {
            throttle.take(&[&n.to_string()], 0);
            if n % 10_000 == 0 {
                assert!(!throttle.take(&["guesser"], 0), "{n}");
            }
        }
        let buckets = throttle.lock();
        assert!(buckets.recent.len() + buckets.old.len() <= 2 * HALF_MAX);
    }
}
