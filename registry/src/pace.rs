//! Pace: how many in a minute, with as many at once as a minute allows.
//!
//! Two numbers, no timer: it remembers up to when its allowance is used (the generic cell rate algorithm).

/// Microseconds of the allowance that may be used ahead of time.
const MINUTE_MICROS: u64 = 60_000_000;

/// Counts what happens against an allowance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pace {
    /// What one costs, in microseconds; 0: nothing.
    each_micros: u64,
    /// Up to when the allowance is used.
    used_micros: u64,
}

impl Pace {
    /// So many a minute; 0: as many as one likes.
    pub(crate) const fn per_minute(count: u32) -> Self {
        let each_micros = if count == 0 { 0 } else { MINUTE_MICROS.div_ceil(count as u64) };
        Self { each_micros, used_micros: 0 }
    }

    /// Takes one, if there is one to be had now.
    pub(crate) fn take(&mut self, unix_millis: u64) -> bool {
        let now = unix_millis.saturating_mul(1_000);
        // A clock that is set back must not lock anybody out for longer than a minute.
        self.used_micros = self.used_micros.clamp(now, now.saturating_add(MINUTE_MICROS));
        let next = self.used_micros.saturating_add(self.each_micros);
        if next > now.saturating_add(MINUTE_MICROS) {
            return false;
        }
        self.used_micros = next;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pace: &mut Pace, unix_millis: u64) -> usize {
        (0..1_000).take_while(|_| pace.take(unix_millis)).count()
    }

    #[test]
    fn a_minutes_worth_is_had_at_once_and_then_as_it_comes() {
        let mut pace = Pace::per_minute(60);
        assert_eq!(taken(&mut pace, 1_000_000), 60);
        assert_eq!(taken(&mut pace, 1_000_999), 0);
        assert_eq!(taken(&mut pace, 1_001_000), 1);
        assert_eq!(taken(&mut pace, 1_031_000), 30);
        assert_eq!(taken(&mut pace, 9_000_000), 60);
        // A clock that is set back.
        assert_eq!(taken(&mut pace, 1_000), 0);
        assert_eq!(taken(&mut pace, 61_000), 60);
    }

    #[test]
    fn without_a_bound_there_is_none() {
        assert_eq!(taken(&mut Pace::per_minute(0), 1), 1_000);
    }
}
