//! Who may connect: bounds for each source, so that one that opens connections by the thousand takes none from others; and
//! how often what newcomers cost may be begun, in layers, so that a million who come back at once take nothing from those
//! who are there.
//!
//! A source is an IPv4 address, or the /64 of an IPv6 address, which is what one host has. Sources are counted in a table of
//! fixed size that all shards share, at places that a key drawn at the start chooses: it holds no memory for who comes, nobody
//! can choose whose place to share, and the price is that two sources in a few thousand are counted as one.

mod bucket;
mod failures;
mod newcomers;

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

pub use bucket::Bucket;
pub use failures::{FailureLimits, Failures, Tag};
pub use newcomers::Newcomers;

use ipnet::IpNet;

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Bounds of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Connections that have not bound a resource. Default 64. Beyond it newcomers are closed at once.
    pub negotiating_per_source_max: u32,
    /// Connections a second, on average. Default 20. Beyond it newcomers are closed at once.
    pub connections_per_source_per_second: u32,
    /// As many more at once, after a pause. Default 100.
    pub connections_per_source_burst: u32,
    /// Networks that are not counted. Default the loopback addresses.
    pub unlimited: Vec<IpNet>,
}

impl AdmissionLimits {
    /// The largest burst: what a place's bucket can count.
    pub const BURST_MAX: u32 = 10_000;
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        let loopback: [IpNet; 2] = [
            IpNet::new_assert(IpAddr::from([127, 0, 0, 0]), 8),
            IpNet::new_assert(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), 128),
        ];
        Self {
            negotiating_per_source_max: 64,
            connections_per_source_per_second: 20,
            connections_per_source_burst: 100,
            unlimited: loopback.to_vec(),
        }
    }
}

/// Why a connection was closed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The shard negotiates as many as it may.
    ShardCrowded,
    /// Its source has as many that are being negotiated.
    SourceCrowded,
    /// Its source connects too often.
    SourceTooFast,
}

/// A layer of admission: what a newcomer has to get through, each with a bucket of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layer {
    /// A connection is accepted. Beyond its rate newcomers wait in the listener's queue.
    Accept,
    /// A TLS handshake begins. Beyond its rate newcomers wait, their bytes in the kernel.
    Handshake,
    /// SASL names an account whose proof is cheap (SCRAM, EXTERNAL). Beyond its rate: `temporary-auth-failure`.
    Login,
    /// Keys are derived from a password (PLAIN, a new account). Beyond its rate: `temporary-auth-failure`.
    Password,
    /// A session is made. Beyond its rate the answer is late.
    Bind,
    /// A session becomes available, which its contacts are told. Beyond its rate they are told late.
    Presence,
}

/// How often newcomers' steps may be begun on one shard, by layer: a second each, 0 for as often as they come. A tenth of it
/// may come at once where the rest waits, and all of it where the rest is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewcomerLimits {
    /// [`Layer::Accept`]. Default 10 000.
    pub accepts: u32,
    /// [`Layer::Handshake`]. Default 5 000: about what one CPU has time for.
    pub handshakes: u32,
    /// [`Layer::Login`]. Default 10 000.
    pub logins: u32,
    /// [`Layer::Password`]. Default 1 000: more than the helpers of eight CPUs have time for.
    pub passwords: u32,
    /// [`Layer::Bind`]. Default 5 000.
    pub binds: u32,
    /// [`Layer::Presence`]. Default 5 000.
    pub presences: u32,
    /// Of each turn of a shard's loop newcomers get so much time while others may wait, and a step at least: as long as
    /// that takes is what a session may have to wait for them. Default 100 µs, less than a handshake.
    pub turn: Duration,
    /// Failed logins of one account from one source.
    pub failures: FailureLimits,
}

impl Default for NewcomerLimits {
    fn default() -> Self {
        Self {
            accepts: 10_000,
            handshakes: 5_000,
            logins: 10_000,
            passwords: 1_000,
            binds: 5_000,
            presences: 5_000,
            turn: Duration::from_micros(100),
            failures: FailureLimits::default(),
        }
    }
}

/// The buckets of one shard.
#[derive(Debug)]
pub struct Buckets {
    /// [`Layer::Accept`].
    pub accepts: Bucket,
    /// [`Layer::Handshake`].
    pub handshakes: Bucket,
    /// [`Layer::Login`].
    pub logins: Bucket,
    /// [`Layer::Password`].
    pub passwords: Bucket,
    /// [`Layer::Bind`].
    pub binds: Bucket,
}

impl Buckets {
    /// Bursts of what waits beyond its rate, in nanoseconds.
    pub const WAITING: u64 = 100_000_000;
    /// Bursts of what is refused beyond it.
    pub const REFUSED: u64 = 1_000_000_000;

    /// With these limits.
    pub const fn new(limits: &NewcomerLimits) -> Self {
        Self {
            accepts: Bucket::new(limits.accepts, Self::WAITING),
            handshakes: Bucket::new(limits.handshakes, Self::WAITING),
            logins: Bucket::new(limits.logins, Self::REFUSED),
            passwords: Bucket::new(limits.passwords, Self::REFUSED),
            binds: Bucket::new(limits.binds, Self::WAITING),
        }
    }

    /// Other limits from now on.
    pub const fn set(&mut self, limits: &NewcomerLimits) {
        self.accepts.set(limits.accepts, Self::WAITING);
        self.handshakes.set(limits.handshakes, Self::WAITING);
        self.logins.set(limits.logins, Self::REFUSED);
        self.passwords.set(limits.passwords, Self::REFUSED);
        self.binds.set(limits.binds, Self::WAITING);
    }
}

/// Where a source is counted, for [`Sources::leave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat(std::num::NonZeroU32);

/// A source, as its connections remember it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Source(u64);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(number(address.to_canonical()))
    }
}

/// An IPv4 address, or the /64 of an IPv6 address.
fn number(canonical: IpAddr) -> u64 {
    match canonical {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        // Global addresses begin with bits that no IPv4 address widened to 64 has.
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

/// Places of the table: 256 KiB of them.
pub const PLACES: usize = 16_384;

/// Thousandths: what a connection adds to a bucket, and a second takes from it for each connection a second.
const WHOLE: u64 = 1_000;
/// Bits of a bucket that count; those above are the millisecond of its last connection.
const LEVEL_BITS: u32 = 24;
const LEVEL: u64 = (1 << LEVEL_BITS) - 1;

/// Two numbers of the sources that are counted there.
#[derive(Debug, Default)]
struct Place {
    negotiating: AtomicU32,
    /// A bucket that leaks: the last time, and how full it was then.
    bucket: AtomicU64,
}

/// All sources. Every shard has it.
#[derive(Debug)]
pub struct Sources {
    limits: AdmissionLimits,
    places: Box<[Place]>,
    key: RandomState,
    started: Instant,
}

impl Sources {
    /// With so many places, [`PLACES`] but in tests.
    pub fn new(limits: AdmissionLimits, places: usize) -> Self {
        let places = (0..places.max(1)).map(|_| Place::default()).collect();
        Self { limits, places, key: RandomState::new(), started: Instant::now() }
    }

    /// Takes a newcomer in, or says why not. `None`: it is not counted, and need not leave.
    ///
    /// # Errors
    /// Its source has too many, or is too fast.
    pub fn enter(&self, source: IpAddr) -> Result<Option<Seat>, Refusal> {
        self.enter_at(source, u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// As [`Sources::enter`], so many milliseconds after the start.
    ///
    /// # Errors
    /// As there.
    pub fn enter_at(&self, source: IpAddr, now: u64) -> Result<Option<Seat>, Refusal> {
        let source = source.to_canonical();
        if self.limits.unlimited.iter().any(|net| net.contains(&source)) {
            return Ok(None);
        }
        let index = (self.key.hash_one(number(source)) % self.places.len() as u64) as u32;
        let Some(place) = self.places.get(index as usize) else { return Ok(None) };
        if place.negotiating.fetch_add(1, Ordering::Relaxed) >= self.limits.negotiating_per_source_max {
            place.negotiating.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::SourceCrowded);
        }
        if !self.pour(&place.bucket, now) {
            place.negotiating.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::SourceTooFast);
        }
        Ok(std::num::NonZeroU32::new(index + 1).map(Seat))
    }

    /// What tells logins to this account from this source from all others, whether or not the source is counted.
    pub fn tag(&self, source: Source, account: &str) -> Tag {
        Tag(NonZeroU64::new(self.key.hash_one((source.0, account))).unwrap_or(NonZeroU64::MIN))
    }

    /// The connection has bound a resource, or ended. Once for each that entered.
    pub fn leave(&self, seat: Seat) {
        if let Some(place) = self.places.get(seat.0.get() as usize - 1) {
            place.negotiating.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Adds a connection to a bucket, unless it would overflow.
    fn pour(&self, bucket: &AtomicU64, now: u64) -> bool {
        let most = WHOLE * u64::from(self.limits.connections_per_source_burst.min(AdmissionLimits::BURST_MAX));
        let mut before = bucket.load(Ordering::Relaxed);
        loop {
            // Another shard may have looked at the clock a little later and been here first.
            let elapsed = now.saturating_sub(before >> LEVEL_BITS);
            // A thousandth of a second takes as many thousandths as the rate has connections.
            let leaked = elapsed.saturating_mul(u64::from(self.limits.connections_per_source_per_second));
            let level = (before & LEVEL).saturating_sub(leaked) + WHOLE;
            if level > most {
                return false;
            }
            let after = (now.max(before >> LEVEL_BITS) << LEVEL_BITS) | level;
            match bucket.compare_exchange_weak(before, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(changed) => before = changed,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn sources(negotiating: u32, per_second: u32, burst: u32) -> Sources {
        let limits = AdmissionLimits {
            negotiating_per_source_max: negotiating,
            connections_per_source_per_second: per_second,
            connections_per_source_burst: burst,
            ..AdmissionLimits::default()
        };
        Sources::new(limits, PLACES)
    }

    #[test]
    fn a_source_negotiates_as_many_as_it_may_and_then_as_many_as_leave() {
        let sources = sources(2, 1_000, 1_000);
        let seats: Vec<Seat> = (0..2).map(|_| sources.enter_at(SOURCE, 0).unwrap().unwrap()).collect();
        assert_eq!(sources.enter_at(SOURCE, 0), Err(Refusal::SourceCrowded));
        for seat in seats {
            sources.leave(seat);
            assert!(sources.enter_at(SOURCE, 0).is_ok());
            assert_eq!(sources.enter_at(SOURCE, 0), Err(Refusal::SourceCrowded));
        }
    }

    #[test]
    fn a_burst_is_let_in_and_then_the_rate() {
        let sources = sources(u32::MAX, 20, 100);
        let entered = |now| (0..1_000).filter(|_| sources.enter_at(SOURCE, now).is_ok()).count();
        assert_eq!(entered(0), 100);
        assert_eq!(sources.enter_at(SOURCE, 0), Err(Refusal::SourceTooFast));
        assert_eq!(entered(49), 0);
        assert_eq!(entered(50), 1);
        assert_eq!(entered(1_050), 20);
        assert_eq!(entered(3_600_000), 100);
        // A clock that was read before the last one takes nothing away.
        assert_eq!(entered(0), 0);
        assert_eq!(entered(3_601_000), 20);
    }

    #[test]
    fn who_is_refused_holds_nothing() {
        let sources = sources(1_000, 1, 1);
        let seat = sources.enter_at(SOURCE, 0).unwrap().unwrap();
        for _ in 0..10_000 {
            assert_eq!(sources.enter_at(SOURCE, 0), Err(Refusal::SourceTooFast));
        }
        sources.leave(seat);
        assert!(sources.places.iter().all(|place| place.negotiating.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn sources_are_counted_apart_and_a_host_with_many_addresses_as_one() {
        let sources = sources(1, 1_000, 1_000);
        let mut entered = 0;
        for last in 0..=255 {
            entered += u32::from(sources.enter_at(IpAddr::from([198, 51, 100, last]), 0).is_ok());
        }
        // Two in 16 384 places: two collisions among 256 are expected, and forty are not.
        assert!(entered > 216, "{entered}");
        let host = |low: u16| IpAddr::from([0x2001, 0xdb8, 1, 2, 3, 4, 5, low]);
        let sources = self::sources(1, 1_000, 1_000);
        assert!(sources.enter_at(host(1), 0).is_ok());
        assert_eq!(sources.enter_at(host(2), 0), Err(Refusal::SourceCrowded));
        let mapped = |last: u8| std::net::Ipv4Addr::new(203, 0, 113, last).to_ipv6_mapped();
        assert!(sources.enter_at(IpAddr::V6(mapped(1)), 0).is_ok());
        assert_eq!(sources.enter_at(IpAddr::from([203, 0, 113, 1]), 0), Err(Refusal::SourceCrowded));
    }

    #[test]
    fn logins_are_told_apart_by_account_and_source() {
        let sources = sources(1, 1, 1);
        let tag = |address: [u8; 4], account| sources.tag(IpAddr::from(address).into(), account);
        assert_eq!(tag([127, 0, 0, 1], "anna@localhost"), tag([127, 0, 0, 1], "anna@localhost"));
        assert_ne!(tag([127, 0, 0, 1], "anna@localhost"), tag([127, 0, 0, 2], "anna@localhost"));
        assert_ne!(tag([127, 0, 0, 1], "anna@localhost"), tag([127, 0, 0, 1], "bert@localhost"));
        let host = |low: u16| Source::from(IpAddr::from([0x2001, 0xdb8, 1, 2, 3, 4, 5, low]));
        assert_eq!(host(1), host(2));
    }

    #[test]
    fn what_is_unlimited_is_not_counted() {
        let sources = sources(1, 1, 1);
        for address in [IpAddr::from([127, 9, 9, 9]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])] {
            for _ in 0..100 {
                assert_eq!(sources.enter(address), Ok(None));
            }
        }
    }
}
