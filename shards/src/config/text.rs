//! How sizes and times are written in the configuration file, and which word a misspelt one is nearest to.

use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes: `65536`, or text with a unit: `"64 KiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

/// A time: text with its unit, `"500ms"`, `"15s"`, `"10m"`, `"1h"`, `"7d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Span {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

/// Units of size, the largest first.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
/// Units of time in microseconds, the largest first.
const TIMES: [(&str, u64); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

/// Splits `15s` or `64 KiB` and scales the number; `None` if there is no number, no such unit, or too much of it.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

/// Writes a number with the largest unit that divides it.
fn write(out: &mut fmt::Formatter<'_>, number: u64, units: &[(&str, u64)], gap: &str) -> fmt::Result {
    let (unit, scale) = units.iter().find(|(_, scale)| number.is_multiple_of(*scale)).unwrap_or(&("", 1));
    write!(out, "{}{gap}{unit}", number / scale)
}

impl FromStr for ByteSize {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        scaled(text, &SIZES).map(Self).ok_or("a size is a number of bytes, or text with a unit: \"256 KiB\", \"1 MiB\"")
    }
}

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let microseconds =
            scaled(text, &TIMES).ok_or("a time is text with a unit: \"500ms\", \"15s\", \"10m\", \"1h\"")?;
        Ok(Self(Duration::from_micros(microseconds)))
    }
}

impl Display for ByteSize {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // A plain number when no unit fits: 10 000 rather than "10000 B".
            bytes if bytes == 0 || !bytes.is_multiple_of(1024) => bytes.fmt(out),
            bytes => write(out, bytes, &SIZES, " "),
        }
    }
}

impl Display for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX) {
            0 => out.write_str("0s"),
            microseconds => write(out, microseconds, &TIMES, ""),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Size;
        impl Visitor<'_> for Size {
            type Value = ByteSize;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a size such as 65536 or \"64 KiB\"")
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes).map(ByteSize).map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Size)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The candidate whose last part is most like `word`; `None` if none is like it at all.
pub(super) fn nearest<'a>(word: &str, candidates: &'a [String]) -> Option<&'a String> {
    let alike = |candidate: &&String| {
        let name = candidate.rsplit('.').next().unwrap_or_default();
        // `depth` for `depth_max` is a likely slip, however far by letters.
        if name.starts_with(word) { 1 } else { distance(word, name) }
    };
    candidates.iter().min_by_key(alike).filter(|candidate| alike(candidate) <= 1 + word.len() / 4)
}

/// Letters to insert, remove, replace or swap with their neighbour to turn one word into the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut rows = vec![vec![0; other.len() + 1]; one.len() + 1];
    for i in 0..=one.len() {
        for j in 0..=other.len() {
            let at = |row: usize, column: usize| rows.get(row).and_then(|row| row.get(column)).copied().unwrap_or(0);
            let letters = |i: usize, j: usize| (one.get(i), other.get(j));
            let cost = if i == 0 || j == 0 {
                i + j
            } else {
                let (a, b) = letters(i - 1, j - 1);
                let replaced = at(i - 1, j - 1) + usize::from(a != b);
                let swapped = if i > 1 && j > 1 && letters(i - 2, j - 1).0 == b && letters(i - 1, j - 2).1 == a {
                    at(i - 2, j - 2) + 1
                } else {
                    usize::MAX
                };
                replaced.min(swapped).min(at(i - 1, j) + 1).min(at(i, j - 1) + 1)
            };
            if let Some(cell) = rows.get_mut(i).and_then(|row| row.get_mut(j)) {
                *cell = cost;
            }
        }
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_as_they_are_written() {
        for (text, bytes) in [("64 KiB", 65_536), ("1MiB", 1 << 20), ("2 GiB", 2 << 30), ("10 B", 10)] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
            assert_eq!(ByteSize(bytes).to_string().parse().unwrap_or(ByteSize(bytes)), ByteSize(bytes));
        }
        for (text, microseconds) in [("100us", 100), ("500ms", 500_000), ("15s", 15_000_000), ("1h", 3_600_000_000)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_micros(microseconds))), "{text}");
            assert_eq!(Span(Duration::from_micros(microseconds)).to_string(), text);
        }
        assert_eq!(ByteSize(10_000).to_string(), "10000");
        assert_eq!(Span::seconds(0).to_string(), "0s");
    }

    #[test]
    fn what_is_no_size_or_time_is_refused() {
        for text in ["", "KiB", "1 KB", "1.5 MiB", "-1 B", "99999999999 GiB", "64KiBs"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        for text in ["", "s", "15", "15 sec", "-1s", "99999999999999999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_nearest_word_is_a_slip_away() {
        for (one, other, letters) in [("tsl", "tls", 1), ("domain", "domains", 1), ("", "abc", 3), ("same", "same", 0)]
        {
            assert_eq!(distance(one, other), letters, "{one} {other}");
        }
        let words = ["address".to_owned(), "limits.depth_max".to_owned()];
        assert_eq!(nearest("adress", &words).map(String::as_str), Some("address"));
        assert_eq!(nearest("depth", &words).map(String::as_str), Some("limits.depth_max"));
        assert_eq!(nearest("colour", &words), None);
    }
}
