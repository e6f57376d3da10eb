//! Memory: how near the broker is to its bound, and what it gives up for that, in which order, before the kernel ends it.
//!
//! The control thread takes a [`Reading`] twice a second and tells the shards when the [`Level`] changes; what a shard does
//! then is in `shard::memory` and in the driver. Nothing here asks the time or the kernel but [`host`].

pub mod host;

use std::time::{Duration, Instant};

use crate::metrics::Label as _;

/// How near the broker is to its bound. Each level keeps up what those below it do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// There is enough.
    #[default]
    Ample,
    /// The first watermark is reached: no connection is accepted. Those that are there go on.
    Scarce,
    /// The second: presence is not told to contacts, no message is kept for who is away, and only facts in use are in memory.
    Short,
    /// The third: sessions that wait to be resumed are given up, the oldest first.
    Critical,
}

/// What holds memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subsystem {
    /// Entries, addresses and presence of sessions that have a connection.
    Sessions,
    /// What waits for their clients, or for being acknowledged (XEP-0198).
    Outboxes,
    /// All of sessions that wait to be resumed.
    Hibernated,
    /// What is known of accounts: keys, rosters, block lists, things, rules.
    Facts,
    /// Stanzas that wait for the store.
    Work,
    /// Entries of connections that carry a session, their input that is not whole, and what the kernel has not taken.
    Connections,
    /// Their TLS.
    Tls,
    /// All of connections that have not bound a resource.
    Negotiating,
}

/// What was given up for want of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shed {
    /// Times a shard stopped accepting connections.
    Accepting,
    /// Presences that contacts were not told of; the last one is told later.
    Presence,
    /// Messages for who is away that were refused.
    Offline,
    /// Accounts whose facts were forgotten.
    Facts,
    /// Sessions that waited to be resumed, at the third watermark.
    Hibernated,
    /// Such sessions, beyond their share of the memory.
    HibernatedShare,
}

/// The bound and its watermarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// Bytes the broker may use; 0: as the host says ([`host::Host::limit`]).
    pub limit: u64,
    /// Percent of it at which each [`Level`] above [`Level::Ample`] begins, ascending. Default 70, 80, 90.
    pub percents: [u8; 3],
    /// Percent of it that sessions may hold which wait to be resumed, each shard its part. Default 25. Beyond it the oldest of
    /// the shard is given up.
    pub hibernated_percent_max: u8,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self { limit: 0, percents: [70, 80, 90], hibernated_percent_max: 25 }
    }
}

/// Percent of the bound by which use has to fall below a watermark until its level ends, so that a level does not come and go
/// with every message.
const SLACK_PERCENT: u64 = 3;

/// For so long may the allocator keep what was given back to it, before it counts as used.
const RETENTION: Duration = Duration::from_secs(60);

/// As many bytes may it keep for longer than that.
const KEPT_BYTES_MAX: u64 = 16 << 20;

impl Watermarks {
    fn share(&self, percent: u64) -> u64 {
        u64::try_from(u128::from(self.limit) * u128::from(percent) / 100).unwrap_or(u64::MAX)
    }

    /// The level that begins at or below so many bytes.
    fn at(&self, used: u64) -> Level {
        let levels = [Level::Scarce, Level::Short, Level::Critical];
        let reached = levels.iter().zip(self.percents).filter(|(_, percent)| used >= self.share(u64::from(*percent)));
        reached.map(|(level, _)| *level).max().unwrap_or_default()
    }

    /// Bytes that sessions may hold on each of so many shards which wait to be resumed.
    pub fn hibernated_bytes_max(&self, shards: u16) -> u64 {
        self.share(u64::from(self.hibernated_percent_max)) / u64::from(shards.max(1))
    }
}

/// What was found at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Bytes of the process as the kernel counts them, those of files left out.
    pub resident: u64,
    /// Bytes that the subsystems know of.
    pub accounted: u64,
}

/// What follows of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Bytes used, for the watermarks.
    pub used: u64,
    /// The level in force from now on.
    pub level: Level,
    /// Bytes to be given up at once; 0 below [`Level::Critical`].
    pub excess: u64,
    /// The allocator has kept [`KEPT_BYTES_MAX`] or more of what was given back to it for [`RETENTION`].
    pub kept: bool,
}

/// Judges readings, one after another.
///
/// The kernel counts as resident what the allocator has been given back and has not let go of yet. Were that all, a level would
/// last after its reason is gone, and sessions would be given up for nothing. So what the subsystems do not know of is measured
/// when they hold the most, and until they hold more, or [`RETENTION`] is over, use is that and what they hold.
#[derive(Debug, Default)]
pub struct Gauge {
    level: Level,
    /// When the subsystems held the most of late, and what was found then.
    peak: Option<(Instant, Reading)>,
}

impl Gauge {
    /// The level in force.
    pub const fn level(&self) -> Level {
        self.level
    }

    /// Takes a reading.
    pub fn take(&mut self, now: Instant, reading: Reading, marks: &Watermarks) -> Sample {
        let unknown = |reading: Reading| reading.resident.saturating_sub(reading.accounted);
        let (since, peak) = self.peak.unwrap_or((now, reading));
        let late = now.saturating_duration_since(since) >= RETENTION;
        let kept = late && unknown(reading).saturating_sub(unknown(peak)) >= KEPT_BYTES_MAX;
        let renewed = reading.accounted >= peak.accounted || unknown(reading) < unknown(peak) || late;
        let peak = if renewed {
            (now, reading)
        } else {
            // By what it has grown beyond then, nothing that is kept was enough.
            (since, Reading { resident: peak.resident.max(reading.resident), ..peak })
        };
        self.peak = Some(peak);
        let used = reading.accounted.saturating_add(unknown(peak.1)).min(reading.resident);

        let reached = marks.at(used);
        let slack = marks.share(SLACK_PERCENT);
        let held = marks.at(used.saturating_add(slack)).min(self.level);
        self.level = reached.max(held);
        let [_, _, last] = marks.percents;
        let target = marks.share(u64::from(last)).saturating_sub(slack);
        let excess = if self.level == Level::Critical { used.saturating_sub(target) } else { 0 };
        Sample { used, level: self.level, excess, kept }
    }
}

/// The part of what is to be given up that falls to a shard, by what its sessions hold that wait to be resumed.
pub fn part(excess: u64, own: u64, all: u64) -> u64 {
    let part = u128::from(excess) * u128::from(own) / u128::from(all.max(1));
    u64::try_from(part).unwrap_or(u64::MAX).min(own)
}

impl Level {
    /// As a number: 0 to 3.
    pub fn number(self) -> u8 {
        self.index() as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn marks() -> Watermarks {
        Watermarks { limit: 100 * MIB, ..Watermarks::default() }
    }

    fn reading(resident: u64, accounted: u64) -> Reading {
        Reading { resident: resident * MIB, accounted: accounted * MIB }
    }

    #[test]
    fn each_watermark_begins_a_level_and_ends_it_with_some_slack() {
        let (mut gauge, now) = (Gauge::default(), Instant::now());
        let mut level = |resident: u64| gauge.take(now, reading(resident, resident), &marks()).level;
        assert_eq!(level(69), Level::Ample);
        assert_eq!(level(70), Level::Scarce);
        assert_eq!(level(68), Level::Scarce, "within the slack");
        assert_eq!(level(66), Level::Ample);
        assert_eq!(level(95), Level::Critical, "all at once");
        assert_eq!(level(88), Level::Critical);
        assert_eq!(level(85), Level::Short);
        assert_eq!(level(78), Level::Short);
        assert_eq!(level(76), Level::Scarce);
        assert_eq!(level(10), Level::Ample);
    }

    #[test]
    fn at_the_last_watermark_it_says_how_much_is_too_much() {
        let (mut gauge, now) = (Gauge::default(), Instant::now());
        assert_eq!(gauge.take(now, reading(89, 50), &marks()).excess, 0);
        assert_eq!(gauge.take(now, reading(92, 53), &marks()).excess, 5 * MIB, "down to where the level ends");
        // Done: what is left may be the allocator's.
        let sample = gauge.take(now, reading(92, 47), &marks());
        assert_eq!((sample.used, sample.level, sample.excess), (86 * MIB, Level::Short, 0));
        assert_eq!(part(5 * MIB, 30, 40), 30, "no more than there is");
        assert_eq!((part(40, 30, 60), part(40, 0, 60), part(40, 0, 0)), (20, 0, 0));
    }

    #[test]
    fn what_the_allocator_keeps_counts_as_used_after_a_while_only() {
        let (mut gauge, now) = (Gauge::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(gauge.take(now, reading(80, 60), &marks()).used, 80 * MIB);
        assert_eq!(gauge.take(at(1), reading(80, 10), &marks()).used, 30 * MIB, "fifty were given back");
        assert_eq!(gauge.take(at(2), reading(50, 10), &marks()).used, 30 * MIB, "and let go of by and by");
        assert_eq!(gauge.take(at(3), reading(25, 10), &marks()).used, 25 * MIB, "never more than there is");
        assert_eq!(gauge.take(at(4), reading(26, 10), &marks()).used, 26 * MIB, "what nobody knows of has grown");
        assert_eq!(gauge.take(at(5), reading(90, 70), &marks()).used, 90 * MIB);
        assert_eq!(gauge.take(at(6), reading(90, 10), &marks()).used, 30 * MIB);
        assert_eq!(gauge.take(at(7), reading(93, 10), &marks()).used, 33 * MIB, "what it grows by is counted");
        assert_eq!(gauge.take(at(8), reading(93, 60), &marks()).used, 83 * MIB);
        assert_eq!(gauge.take(at(9), reading(93, 10), &marks()).used, 33 * MIB);
        assert_eq!(gauge.take(at(65), reading(93, 10), &marks()).used, 93 * MIB, "a minute is long enough");
    }

    #[test]
    fn what_the_allocator_keeps_for_long_is_asked_back_once() {
        let (mut gauge, now) = (Gauge::default(), Instant::now());
        let mut kept = |seconds, resident, accounted| {
            gauge.take(now + Duration::from_secs(seconds), reading(resident, accounted), &marks()).kept
        };
        assert!(!kept(0, 80, 60) && !kept(59, 80, 10));
        assert!(kept(60, 80, 10), "fifty are kept");
        assert!(!kept(61, 80, 10) && !kept(121, 80, 10), "it was asked once, and what is left is in use");
        assert!(!kept(122, 95, 25) && !kept(182, 95, 10), "fifteen are no matter");
    }

    #[test]
    fn sessions_that_wait_to_be_resumed_have_their_share() {
        assert_eq!(marks().hibernated_bytes_max(4), 100 * MIB / 16);
        assert_eq!(Watermarks { limit: u64::MAX, ..marks() }.hibernated_bytes_max(1), u64::MAX / 4);
    }
}
