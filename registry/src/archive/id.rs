//! Ids of archived messages: 64 bits, the time in milliseconds above 20 bits of which 19 cannot be foretold, greater than any
//! id before. They are written as 16 hexadecimal digits.
//!
//! Differs from XEP-0359 v0.7.0 §6, a SHOULD: the time can be read from an id. Whoever sees one has the message.

use std::fmt;

use plaza_core::date::DateTime;
use plaza_core::jid::JidRef;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bits below the milliseconds.
const LOW_BITS: u32 = 20;
const LOW: u64 = (1 << LOW_BITS) - 1;
/// The last millisecond there is room for, in the year 2527.
const MILLIS_MAX: u64 = u64::MAX >> LOW_BITS;
/// Ids of the same millisecond are at most this far apart, so that thousands have room in it.
const STEP_MAX: u64 = 256;

/// Names a message within its archive (XEP-0313 v1.1.3 §3, §5.2): never used again, greater for later messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArchiveId(pub(super) u64);

impl ArchiveId {
    /// The least id of a millisecond.
    pub(super) const fn first_of(unix_millis: u64) -> u64 {
        if unix_millis > MILLIS_MAX { u64::MAX } else { unix_millis << LOW_BITS }
    }

    /// The greatest id of a millisecond.
    pub(super) const fn last_of(unix_millis: u64) -> u64 {
        Self::first_of(unix_millis) | LOW
    }

    /// The key of an account's ids: whoever knows the id a message has for one end does not know that of the other.
    pub(super) fn key(key: u64, owner: JidRef<'_>) -> u64 {
        xxh3_64_with_seed(owner.as_str().as_bytes(), key)
    }

    /// The id of a message that comes after `last`. It grows even if the clock was put back.
    pub(super) fn next(last: u64, unix_millis: u64, key: u64, stanza: &[u8]) -> Self {
        let random = xxh3_64_with_seed(stanza, key ^ last);
        let timely = Self::first_of(unix_millis) | random & LOW >> 1;
        Self(timely.max(last.saturating_add(1 + random % STEP_MAX)))
    }

    /// When the message came.
    pub fn moment(self) -> DateTime {
        DateTime::from_unix_millis(self.0 >> LOW_BITS)
    }

    /// The id with this text. `None` if it is none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_767_323_045_678;

    #[test]
    fn ids_grow_whatever_the_clock_does_and_tell_the_time() {
        let mut last = 0;
        for now in [NOW, NOW, NOW, NOW + 1, NOW - 5_000, NOW + 2, 0, u64::MAX] {
            let id = ArchiveId::next(last, now, 7, b"<message/>");
            assert!(id.0 > last, "{now}");
            if now == NOW {
                assert_eq!(id.moment().to_string(), "2026-01-02T03:04:05.678Z");
            }
            last = id.0;
        }
        let far_apart = (0..2_000).fold(0, |last, _| ArchiveId::next(last, NOW, 7, b"<message/>").0);
        assert_eq!(ArchiveId(far_apart).moment(), DateTime::from_unix_millis(NOW));
    }

    #[test]
    fn whoever_lacks_the_key_cannot_foretell_an_id() {
        let ids: std::collections::BTreeSet<u64> =
            (0..100).map(|key| ArchiveId::next(0, NOW, key, b"<message/>").0).collect();
        assert!(ids.len() > 95, "{}", ids.len());
    }

    #[test]
    fn an_id_reads_back_and_nothing_else_does() {
        let id = ArchiveId(0x0123_4567_89ab_cdef);
        assert_eq!((id.to_string().as_str(), ArchiveId::parse("0123456789abcdef")), ("0123456789abcdef", Some(id)));
        for text in
            ["", "123456789abcdef", "0123456789ABCDEF", "+123456789abcdef", "0123456789abcdef0", "é23456789abcde"]
        {
            assert_eq!(ArchiveId::parse(text), None, "{text}");
        }
    }
}
