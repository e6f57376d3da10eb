//! How fast a session is read: what it may send in a second, and how much at once after a pause.
//!
//! Each stanza and each byte takes its share of a second. What was sent is paid for by the time that passes; a session may
//! be ahead of it by the burst, and is not read while it is further ahead. TCP tells the peer. The clock is the driver's,
//! in ticks, so that nothing is asked of the kernel; a burst is many ticks long.

use std::time::Duration;

/// What a session may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Time that a stanza takes, in ns; 0 for none.
    stanza_ns: u64,
    /// Time that a byte takes, in ns; 0 for none.
    byte_ns: u64,
    /// How far ahead it may be, in ns.
    burst_ns: u64,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Pace {
    /// So many a second, 0 being as many as come, and as many more at once as `burst` would bring.
    pub fn new(stanzas_per_second: u32, bytes_per_second: u64, burst: Duration) -> Self {
        let share = |rate: u64| SECOND_NS.checked_div(rate).unwrap_or(0);
        Self {
            stanza_ns: share(u64::from(stanzas_per_second)),
            byte_ns: share(bytes_per_second),
            burst_ns: u64::try_from(burst.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// Takes what came at `now_ns` into account: `paid_ns` is when all that came before is paid for. Gives how long nothing
    /// more is to be read.
    pub(super) fn charge(&self, paid_ns: &mut u64, now_ns: u64, stanzas: u16, bytes: usize) -> Option<Duration> {
        let bytes_ns = (bytes as u64).saturating_mul(self.byte_ns);
        let takes = bytes_ns.saturating_add(u64::from(stanzas) * self.stanza_ns);
        *paid_ns = (*paid_ns).max(now_ns).saturating_add(takes);
        let ahead = paid_ns.saturating_sub(now_ns.saturating_add(self.burst_ns));
        (takes > 0 && ahead > 0).then(|| Duration::from_nanos(ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_burst_is_free_and_then_each_stanza_waits_its_share() {
        let (pace, mut paid) = (Pace::new(10, 0, Duration::from_secs(2)), 0);
        for _ in 0..20 {
            assert_eq!(pace.charge(&mut paid, 5_000 * MS, 1, 10_000), None);
        }
        assert_eq!(pace.charge(&mut paid, 5_000 * MS, 1, 0), Some(Duration::from_millis(100)));
        assert_eq!(pace.charge(&mut paid, 5_100 * MS, 1, 0), Some(Duration::from_millis(100)));
        assert_eq!(pace.charge(&mut paid, 5_300 * MS, 1, 0), None);
        // A pause pays for everything, and no longer one for more than the burst.
        for _ in 0..20 {
            assert_eq!(pace.charge(&mut paid, 60_000 * MS, 1, 0), None);
        }
        assert!(pace.charge(&mut paid, 60_000 * MS, 1, 0).is_some());
    }

    #[test]
    fn bytes_between_stanzas_are_paid_for_as_well() {
        let (pace, mut paid) = (Pace::new(0, 1_000, Duration::from_secs(1)), 0);
        assert_eq!(pace.charge(&mut paid, MS, 0, 1_000), None);
        assert_eq!(pace.charge(&mut paid, MS, 0, 500), Some(Duration::from_millis(500)));
    }

    #[test]
    fn without_rates_nothing_waits() {
        let (pace, mut paid) = (Pace::new(0, 0, Duration::ZERO), 0);
        assert_eq!(pace.charge(&mut paid, 7, u16::MAX, usize::MAX), None);
        let (dear, mut paid) = (Pace::new(1, 1, Duration::ZERO), 0);
        assert!(dear.charge(&mut paid, 7, u16::MAX, usize::MAX).is_some(), "no overflow");
    }
}
