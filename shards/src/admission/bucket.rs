//! A token bucket of one shard: how often something may be begun.
//!
//! Two numbers and no clock of its own: whoever asks says what time it is. It remembers when the next token would be due if
//! they came one by one, and lets that run ahead of the time by no more than its burst.

/// How often something may be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Nanoseconds between two tokens; 0: as many as are asked for.
    interval: u64,
    /// How far ahead of the time `due` may be.
    ahead: u64,
    /// When the next token would be due, in nanoseconds since the start.
    due: u64,
}

const SECOND: u64 = 1_000_000_000;

impl Bucket {
    /// So many tokens a second, and after a pause as many at once as `burst` nanoseconds bring, but at least one.
    /// 0: no bound.
    pub const fn new(per_second: u32, burst: u64) -> Self {
        let interval = match SECOND.checked_div(per_second as u64) {
            Some(interval) if interval > 0 => interval,
            _ => 0,
        };
        Self { interval, ahead: burst.saturating_sub(interval), due: 0 }
    }

    /// Another rate from now on; what was taken stays taken.
    pub const fn set(&mut self, per_second: u32, burst: u64) {
        *self = Self { due: self.due, ..Self::new(per_second, burst) };
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: u64) -> bool {
        let there = self.wait(now) == 0;
        if there {
            self.owe(now);
        }
        there
    }

    /// Takes a token that may not be there yet: for what has happened already. Those after it wait the longer.
    pub fn owe(&mut self, now: u64) {
        self.due = self.due.max(now).saturating_add(self.interval);
    }

    /// Nanoseconds until a token is there.
    pub const fn wait(&self, now: u64) -> u64 {
        if self.interval == 0 {
            return 0;
        }
        self.due.saturating_sub(now).saturating_sub(self.ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = SECOND / 1_000;

    fn taken(bucket: &mut Bucket, now: u64) -> usize {
        (0..100_000).take_while(|_| bucket.take(now)).count()
    }

    #[test]
    fn a_burst_comes_at_once_and_then_the_rate() {
        let mut bucket = Bucket::new(1_000, 100 * MILLISECOND);
        assert_eq!(taken(&mut bucket, SECOND), 100);
        assert_eq!(taken(&mut bucket, SECOND), 0);
        assert_eq!(bucket.wait(SECOND), MILLISECOND);
        assert_eq!(taken(&mut bucket, SECOND + 7 * MILLISECOND), 7);
        // However long nobody came, no more than a burst has been saved up.
        assert_eq!(taken(&mut bucket, 3_600 * SECOND), 100);
    }

    #[test]
    fn over_any_time_no_more_come_than_the_rate_and_a_burst() {
        let mut bucket = Bucket::new(250, 100 * MILLISECOND);
        let count: usize = (0..10_000).map(|at| taken(&mut bucket, SECOND + at * MILLISECOND)).sum();
        assert_eq!(count, 25 + 2_499);
    }

    #[test]
    fn a_slow_rate_has_one_at_a_time() {
        let mut bucket = Bucket::new(2, 100 * MILLISECOND);
        assert_eq!(taken(&mut bucket, SECOND), 1);
        assert_eq!(bucket.wait(SECOND), SECOND / 2);
        assert_eq!(taken(&mut bucket, SECOND + SECOND / 2), 1);
    }

    #[test]
    fn no_rate_is_no_bound() {
        let mut bucket = Bucket::new(0, SECOND);
        assert_eq!(taken(&mut bucket, 0), 100_000);
        assert_eq!(bucket.wait(0), 0);
        bucket.owe(0);
        assert!(bucket.take(0));
    }

    #[test]
    fn what_is_owed_is_waited_for() {
        let mut bucket = Bucket::new(1_000, MILLISECOND);
        for _ in 0..16 {
            bucket.owe(SECOND);
        }
        assert_eq!(bucket.wait(SECOND), 16 * MILLISECOND);
        assert!(!bucket.take(SECOND + 15 * MILLISECOND));
        assert!(bucket.take(SECOND + 16 * MILLISECOND));
    }

    #[test]
    fn another_rate_holds_from_now_on() {
        let mut bucket = Bucket::new(1, MILLISECOND);
        assert!(bucket.take(SECOND));
        assert!(!bucket.take(SECOND));
        bucket.set(0, MILLISECOND);
        assert!(bucket.take(SECOND));
        bucket.set(1, MILLISECOND);
        assert!(!bucket.take(SECOND + 1));
        assert!(bucket.take(2 * SECOND));
    }
}
