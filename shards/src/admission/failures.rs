//! Who failed to log in how often, by account and source: so that nobody tries passwords by the thousand, and nobody can
//! keep an account's owner from logging in from elsewhere.
//!
//! An account's logins are all decided on its home shard, so each shard has a table of its own, of fixed size. A place is
//! found by a tag, a keyed hash of account and source: two that meet are told apart by it, and where a set of places is full
//! the one that failed least gives way. So failing with a million names locks out nobody, whatever it makes the table forget.

use std::num::NonZeroU64;

/// An account and a source, hashed together with a key drawn at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(pub NonZeroU64);

/// Sets of places.
const SETS: usize = 1_024;
/// Places in a set.
const WAYS: usize = 4;

/// How often one failed, and when it did last.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    tag: u64,
    count: u32,
    second: u32,
}

/// Failures of one shard's accounts: 64 KiB.
#[derive(Debug)]
pub struct Failures {
    sets: Box<[[Place; WAYS]]>,
}

impl Default for Failures {
    fn default() -> Self {
        Self { sets: vec![[Place::default(); WAYS]; SETS].into_boxed_slice() }
    }
}

/// How many failures are one too many, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureLimits {
    /// Failures of one account from one source, with no more than a back-off between two of them. Default 20; 0: no bound.
    /// Then its logins from there are answered with `temporary-auth-failure`, unseen.
    pub count_max: u32,
    /// For so many seconds after the last failure. Default 900.
    pub back_off_seconds: u32,
}

impl Default for FailureLimits {
    fn default() -> Self {
        Self { count_max: 20, back_off_seconds: 900 }
    }
}

impl Failures {
    fn set(&mut self, Tag(tag): Tag) -> &mut [Place; WAYS] {
        let index = (tag.get() % self.sets.len() as u64) as usize;
        self.sets.get_mut(index).expect("a remainder is below what it was divided by")
    }

    fn place(&mut self, tag: Tag) -> Option<&mut Place> {
        self.set(tag).iter_mut().find(|place| place.tag == tag.0.get())
    }

    /// Whether this account's logins from this source are not looked at now. Seconds since the start.
    pub fn is_barred(&mut self, tag: Tag, limits: FailureLimits, now: u32) -> bool {
        limits.count_max > 0
            && self.place(tag).is_some_and(|place| {
                place.count >= limits.count_max && now.saturating_sub(place.second) < limits.back_off_seconds
            })
    }

    /// It failed.
    pub fn failed(&mut self, tag: Tag, limits: FailureLimits, now: u32) {
        let is_over = |place: &Place| now.saturating_sub(place.second) >= limits.back_off_seconds;
        let fresh = Place { tag: tag.0.get(), count: 1, second: now };
        if let Some(place) = self.place(tag) {
            *place = if is_over(place) { fresh } else { Place { count: place.count.saturating_add(1), ..fresh } };
            return;
        }
        let least = self.set(tag).iter_mut().min_by_key(|place| if is_over(place) { 0 } else { place.count });
        if let Some(place) = least {
            *place = fresh;
        }
    }

    /// It succeeded: what failed before is forgotten.
    pub fn succeeded(&mut self, tag: Tag) {
        if let Some(place) = self.place(tag) {
            *place = Place::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: FailureLimits = FailureLimits { count_max: 20, back_off_seconds: 900 };

    fn tag(number: u64) -> Tag {
        Tag(NonZeroU64::new(number).unwrap())
    }

    #[test]
    fn twenty_failures_bar_for_a_quarter_of_an_hour() {
        let mut failures = Failures::default();
        for second in 0..20 {
            assert!(!failures.is_barred(tag(7), LIMITS, second));
            failures.failed(tag(7), LIMITS, second);
        }
        assert!(failures.is_barred(tag(7), LIMITS, 19));
        assert!(failures.is_barred(tag(7), LIMITS, 918));
        assert!(!failures.is_barred(tag(7), LIMITS, 919));
        // From then on it begins anew.
        failures.failed(tag(7), LIMITS, 919);
        assert!(!failures.is_barred(tag(7), LIMITS, 919));
    }

    #[test]
    fn one_that_is_barred_bars_no_other_place_in_its_set() {
        let mut failures = Failures::default();
        let neighbours = (0..WAYS as u64).map(|way| tag(7 + way * SETS as u64));
        (0..20).for_each(|_| failures.failed(tag(7), LIMITS, 0));
        for neighbour in neighbours.skip(1) {
            assert!(!failures.is_barred(neighbour, LIMITS, 0));
        }
        assert!(failures.is_barred(tag(7), LIMITS, 0));
    }

    #[test]
    fn success_and_time_forget() {
        let mut failures = Failures::default();
        (0..19).for_each(|_| failures.failed(tag(7), LIMITS, 0));
        failures.succeeded(tag(7));
        failures.failed(tag(7), LIMITS, 1);
        assert!(!failures.is_barred(tag(7), LIMITS, 1));
        (0..18).for_each(|_| failures.failed(tag(7), LIMITS, 2));
        failures.failed(tag(7), LIMITS, 1_000);
        assert!(!failures.is_barred(tag(7), LIMITS, 1_000), "an old failure does not count any more");
    }

    #[test]
    fn no_bound_bars_nobody() {
        let mut failures = Failures::default();
        let limits = FailureLimits { count_max: 0, ..LIMITS };
        (0..1_000).for_each(|_| failures.failed(tag(7), limits, 0));
        assert!(!failures.is_barred(tag(7), limits, 0));
    }

    #[test]
    fn a_million_names_bar_nobody_and_push_out_only_who_failed_less() {
        let mut failures = Failures::default();
        (0..20).for_each(|_| failures.failed(tag(7), LIMITS, 0));
        for number in 8..1_000_000 {
            failures.failed(tag(number), LIMITS, 1);
        }
        assert!(failures.is_barred(tag(7), LIMITS, 1));
        assert!(!failures.is_barred(tag(1_000_001), LIMITS, 1));
    }
}
