//! Dates and times as XMPP writes them (XEP-0082 v1.1), and the note of a delay (XEP-0203 v2.0).
//!
//! Read by services whose payloads hold a moment, written by all that stamp one. Reads no clock: a moment is passed in.
//! Years are 0000 to 9999; those that XML Schema has beyond are no dates here (XEP-0082 §5 lets applications ignore
//! them).

use std::fmt;

use crate::ns;
use crate::xml::write;

const MILLIS_PER_SECOND: i64 = 1_000;
const MILLIS_PER_MINUTE: i64 = 60 * MILLIS_PER_SECOND;
const MILLIS_PER_HOUR: i64 = 60 * MILLIS_PER_MINUTE;
const MILLIS_PER_DAY: i64 = 24 * MILLIS_PER_HOUR;
/// Days from 0000-03-01, where the count of [`day_of_year_start`] begins, to 1970-01-01.
const EPOCH_DAY: i64 = 719_468;
/// 0000-01-01T00:00:00.000Z.
const MILLIS_MIN: i64 = -62_167_219_200_000;
/// 9999-12-31T23:59:59.999Z.
const MILLIS_MAX: i64 = 253_402_300_799_999;
/// Furthest that a local time is from UTC, in minutes (XML Schema 1.1 part 2, §3.3.7).
const OFFSET_MINUTES_MAX: i64 = 14 * 60;

/// A moment, to the millisecond (XEP-0082 §3.2): what is read is rounded down to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DateTime {
    /// Since the Unix epoch; from the year 0000 to the year 9999.
    unix_millis: i64,
}

impl DateTime {
    /// The moment that many milliseconds after the Unix epoch. A clock beyond the year 9999 is broken: it stays at its
    /// end.
    pub fn from_unix_millis(unix_millis: u64) -> Self {
        Self { unix_millis: i64::try_from(unix_millis).unwrap_or(MILLIS_MAX).min(MILLIS_MAX) }
    }

    /// Milliseconds since the Unix epoch, negative before it.
    pub const fn unix_millis(self) -> i64 {
        self.unix_millis
    }

    /// Reads `CCYY-MM-DDThh:mm:ss[.sss]TZD`: any number of digits in the fraction, the zone `Z` or an offset. `None` if
    /// it is not that, or no such moment exists. 24:00:00 is the end of a day (XML Schema, which overrules).
    pub fn parse(text: &str) -> Option<Self> {
        let mut reader = Reader::new(text);
        let date = reader.date()?;
        reader.sign(b'T')?;
        let millis = reader.time()?;
        let offset = reader.zone()??;
        reader.end()?;
        let unix_millis = date.days() * MILLIS_PER_DAY + millis - i64::from(offset) * MILLIS_PER_MINUTE;
        (MILLIS_MIN..=MILLIS_MAX).contains(&unix_millis).then_some(Self { unix_millis })
    }
}

/// In UTC, with milliseconds: `2026-01-02T03:04:05.000Z`, always 24 bytes.
impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.unix_millis.div_euclid(MILLIS_PER_DAY);
        let time = Time { millis: self.unix_millis.rem_euclid(MILLIS_PER_DAY) as u32, offset: Some(0) };
        write!(f, "{}T{time}", Date::from_days(days))
    }
}

/// A day (XEP-0082 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

impl Date {
    /// Reads `CCYY-MM-DD`. A zone behind it, which XML Schema allows, says in which zone it is that day, and is not kept.
    pub fn parse(text: &str) -> Option<Self> {
        let mut reader = Reader::new(text);
        let date = reader.date()?;
        reader.zone()?;
        reader.end()?;
        Some(date)
    }

    /// Year (0 to 9999), month (1 to 12) and day (1 to 31).
    pub const fn year_month_day(self) -> (u16, u8, u8) {
        (self.year, self.month, self.day)
    }

    /// `None` if there is no such day.
    fn new(year: u16, month: u8, day: u8) -> Option<Self> {
        let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 => 28 + u8::from(is_leap),
            _ => return None,
        };
        (1..=days).contains(&day).then_some(Self { year, month, day })
    }

    /// Days since the Unix epoch. Counted in years that begin in March, so that the leap day is the last one.
    fn days(self) -> i64 {
        let (year, month) = (i64::from(self.year), i64::from(self.month));
        let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
        day_of_year_start(year) + day_of_month_start(month) + i64::from(self.day) - 1 - EPOCH_DAY
    }

    /// The day that many days after the Unix epoch, within the years 0000 to 9999.
    fn from_days(days: i64) -> Self {
        let days = days + EPOCH_DAY;
        // 400 years have 146 097 days, so this is the year or, at its edges, one beside it.
        let mut year = (days * 400).div_euclid(146_097);
        while day_of_year_start(year) > days {
            year -= 1;
        }
        while day_of_year_start(year + 1) <= days {
            year += 1;
        }
        let day = days - day_of_year_start(year);
        let month = (0..12).rev().find(|&month| day_of_month_start(month) <= day).unwrap_or(0);
        let day = day - day_of_month_start(month) + 1;
        let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
        Self { year: year as u16, month: month as u8, day: day as u8 }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// An instant that recurs each day (XEP-0082 §3.3), to the millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Time {
    /// Since midnight, less than a day.
    millis: u32,
    /// Minutes ahead of UTC, if a zone was named.
    offset: Option<i16>,
}

impl Time {
    /// Reads `hh:mm:ss[.sss][TZD]`. 24:00:00 is midnight, as XML Schema has it.
    pub fn parse(text: &str) -> Option<Self> {
        let mut reader = Reader::new(text);
        let millis = (reader.time()? % MILLIS_PER_DAY) as u32;
        let offset = reader.zone()?;
        reader.end()?;
        Some(Self { millis, offset })
    }

    /// Milliseconds since midnight where the clock hangs, less than a day.
    pub const fn millis(self) -> u32 {
        self.millis
    }

    /// Minutes that clock is ahead of UTC, -840 to 840; `None` if no zone was named.
    pub const fn offset_minutes(self) -> Option<i16> {
        self.offset
    }
}

/// With milliseconds, and with the zone if there is one.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.millis / 1_000, self.millis % 1_000);
        write!(f, "{:02}:{:02}:{:02}.{millis:03}", seconds / 3_600, seconds / 60 % 60, seconds % 60)?;
        match self.offset {
            None => Ok(()),
            Some(0) => f.write_str("Z"),
            Some(offset) => {
                let sign = if offset < 0 { '-' } else { '+' };
                let minutes = offset.unsigned_abs();
                write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
        }
    }
}

/// Appends `<delay/>` (XEP-0203 §2). `from`: who delayed the stanza, or sent it first; "" leaves it out. `stamp`: when
/// it was sent. `reason`: why it was delayed, for people; "" for none.
pub fn write_delay(out: &mut Vec<u8>, from: &str, stamp: DateTime, reason: &str) {
    out.extend_from_slice(b"<delay");
    write::attr(out, "xmlns", ns::DELAY);
    if !from.is_empty() {
        write::attr(out, "from", from);
    }
    write::attr(out, "stamp", &stamp.to_string());
    if reason.is_empty() {
        return out.extend_from_slice(b"/>");
    }
    out.push(b'>');
    write::text(out, reason);
    out.extend_from_slice(b"</delay>");
}

/// Days from 0000-03-01 to the first of March of a year.
const fn day_of_year_start(year: i64) -> i64 {
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400)
}

/// Days from the first of March to the first of a month, 0 being March: 31 and 30 by turns, twice 31 in July and August
/// and in December and January, which is 30.6 a month.
const fn day_of_month_start(month: i64) -> i64 {
    (306 * month + 5) / 10
}

/// What is not read yet. White space around a date means nothing (XML Schema 1.1 part 2, §4.3.6).
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text.trim_matches([' ', '\t', '\n', '\r']).as_bytes() }
    }

    fn next_is(&mut self, sign: u8) -> bool {
        let rest = self.rest.strip_prefix(&[sign]);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn sign(&mut self, sign: u8) -> Option<()> {
        self.next_is(sign).then_some(())
    }

    /// The digit that comes next.
    fn digit(&mut self) -> Option<u16> {
        let (digit, rest) = self.rest.split_first().filter(|(digit, _)| digit.is_ascii_digit())?;
        self.rest = rest;
        Some(u16::from(digit - b'0'))
    }

    /// Exactly that many digits, four at most.
    fn digits(&mut self, count: u8) -> Option<u16> {
        (0..count).try_fold(0, |number, _| Some(number * 10 + self.digit()?))
    }

    fn date(&mut self) -> Option<Date> {
        let year = self.digits(4)?;
        self.sign(b'-')?;
        let month = self.digits(2)?;
        self.sign(b'-')?;
        let day = self.digits(2)?;
        Date::new(year, month as u8, day as u8)
    }

    /// `hh:mm:ss[.sss]` as milliseconds since midnight; 24:00:00 is a whole day.
    fn time(&mut self) -> Option<i64> {
        let (hour, minute) = self.hour_minute()?;
        self.sign(b':')?;
        let second = i64::from(self.digits(2)?);
        let millis = if self.next_is(b'.') { self.fraction()? } else { 0 };
        let all = hour * MILLIS_PER_HOUR + minute * MILLIS_PER_MINUTE + second * MILLIS_PER_SECOND + millis;
        (second < 60 && all <= MILLIS_PER_DAY).then_some(all)
    }

    fn hour_minute(&mut self) -> Option<(i64, i64)> {
        let hour = self.digits(2)?;
        self.sign(b':')?;
        let minute = self.digits(2)?;
        (minute < 60).then_some((i64::from(hour), i64::from(minute)))
    }

    /// One digit or more, of which three count.
    fn fraction(&mut self) -> Option<i64> {
        let mut millis = 100 * self.digit()?;
        for worth in [10, 1] {
            millis += worth * self.digit().unwrap_or(0);
        }
        while self.digit().is_some() {}
        Some(i64::from(millis))
    }

    /// A zone in minutes ahead of UTC, or none; `None` if something else stands there.
    fn zone(&mut self) -> Option<Option<i16>> {
        if self.rest.is_empty() {
            return Some(None);
        }
        if self.next_is(b'Z') {
            return Some(Some(0));
        }
        let sign = if self.next_is(b'-') { -1 } else { i16::from(self.next_is(b'+')) };
        let (hour, minute) = self.hour_minute().filter(|_| sign != 0)?;
        let minutes = hour * 60 + minute;
        (minutes <= OFFSET_MINUTES_MAX).then_some(Some(sign * minutes as i16))
    }

    fn end(&self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(unix_millis in MILLIS_MIN..=MILLIS_MAX) {
            let moment = DateTime { unix_millis };
            let text = moment.to_string();
            prop_assert_eq!(text.len(), 24);
            prop_assert_eq!(DateTime::parse(&text), Some(moment));
        }

        #[test]
        fn each_day_has_the_next_behind_it(days in -719_528_i64..2_932_896) {
            let (one, next) = (Date::from_days(days), Date::from_days(days + 1));
            prop_assert_eq!((one.days(), next.days()), (days, days + 1));
            prop_assert!(one < next);
            let (year, month, day) = next.year_month_day();
            prop_assert_eq!(Date::new(year, month, day), Some(next));
        }

        #[test]
        fn no_text_makes_reading_panic(text: String, digits in "[-+:.TZ0-9]{0,40}") {
            for text in [text, digits] {
                let _ = (DateTime::parse(&text), Date::parse(&text), Time::parse(&text));
            }
        }
    }

    #[test]
    fn moments_are_written_in_utc_with_milliseconds() {
        fn check(unix_millis: u64, text: &str) {
            assert_eq!(DateTime::from_unix_millis(unix_millis).to_string(), text);
        }
        check(0, "1970-01-01T00:00:00.000Z");
        check(1_767_323_045_000, "2026-01-02T03:04:05.000Z");
        check(1_709_251_199_999, "2024-02-29T23:59:59.999Z");
        check(1_709_251_200_000, "2024-03-01T00:00:00.000Z");
        check(253_402_300_799_999, "9999-12-31T23:59:59.999Z");
        check(253_402_300_800_000, "9999-12-31T23:59:59.999Z");
        check(u64::MAX, "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn moments_are_read_with_offsets_and_fractions() {
        fn check(text: &str, utc: &str) {
            assert_eq!(DateTime::parse(text).map(|moment| moment.to_string()), Some(utc.to_owned()), "{text}");
        }
        // XEP-0082 v1.1 §3.2, both examples.
        check("1969-07-21T02:56:15Z", "1969-07-21T02:56:15.000Z");
        check("1969-07-20T21:56:15-05:00", "1969-07-21T02:56:15.000Z");
        check("2026-01-02T03:04:05.6Z", "2026-01-02T03:04:05.600Z");
        check("2026-01-02T03:04:05.67Z", "2026-01-02T03:04:05.670Z");
        check("2026-01-02T03:04:05.678999999999999Z", "2026-01-02T03:04:05.678Z");
        check("2026-01-01T00:00:00+05:30", "2025-12-31T18:30:00.000Z");
        check("2026-01-01T00:00:00-00:00", "2026-01-01T00:00:00.000Z");
        check("2026-01-01T00:00:00+14:00", "2025-12-31T10:00:00.000Z");
        check("2026-12-31T24:00:00Z", "2027-01-01T00:00:00.000Z");
        check(" \t2026-01-01T00:00:00Z\r\n", "2026-01-01T00:00:00.000Z");
        check("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000Z");
        check("2000-02-29T00:00:00Z", "2000-02-29T00:00:00.000Z");
        assert_eq!(DateTime::parse("1969-12-31T23:59:59.999Z").map(DateTime::unix_millis), Some(-1));
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "2026-01-02",
            "03:04:05Z",
            "2026-01-02T03:04:05",
            "2026-01-02 03:04:05Z",
            "2026-01-02t03:04:05z",
            "2026-01-02T03:04Z",
            "2026-01-02T03:04:05.Z",
            "2026-01-02T03:04:05,5Z",
            "2026-01-02T03:04:60Z",
            "2026-01-02T03:60:00Z",
            "2026-01-02T24:00:00.001Z",
            "2026-01-02T25:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-1-2T03:04:05Z",
            "20260102T03:04:05",
            "-2026-01-02T03:04:05Z",
            "12026-01-02T03:04:05Z",
            "2026-01-02T03:04:05+0100",
            "2026-01-02T03:04:05+14:01",
            "2026-01-02T03:04:05+01:60",
            "2026-01-02T03:04:05 01:00",
            "2026-01-02T03:04:05ZZ",
            "0000-01-01T00:00:00+00:01",
            "9999-12-31T24:00:00Z",
            "2026-01-02T03:04:0٥Z",
        ] {
            assert_eq!(DateTime::parse(text), None, "{text}");
        }
    }

    #[test]
    fn days_and_recurring_times_are_read_and_written() {
        // XEP-0082 v1.1 §3.1 and §3.3.
        assert_eq!(Date::parse("1776-07-04").map(Date::year_month_day), Some((1776, 7, 4)));
        assert_eq!(Date::parse("1776-07-04-05:00").map(|date| date.to_string()), Some("1776-07-04".to_owned()));
        assert_eq!(Date::parse("1776-07-04T00:00:00Z"), None);
        let tea = Time::parse("16:00:00").unwrap();
        assert_eq!((tea.millis(), tea.offset_minutes(), &*tea.to_string()), (57_600_000, None, "16:00:00.000"));
        assert_eq!(Time::parse("16:00:00.5+07:00").map(|time| time.to_string()), Some("16:00:00.500+07:00".to_owned()));
        assert_eq!(Time::parse("16:00:00-03:30").map(|time| time.to_string()), Some("16:00:00.000-03:30".to_owned()));
        assert_eq!(Time::parse("24:00:00Z").map(|time| time.to_string()), Some("00:00:00.000Z".to_owned()));
        assert_eq!(Time::parse("16:00"), None);
    }

    #[test]
    fn a_delay_names_who_and_when_and_perhaps_why() {
        let stamp = DateTime::parse("2002-09-10T23:08:25Z").unwrap();
        let written = |from, reason| {
            let mut out = Vec::new();
            write_delay(&mut out, from, stamp, reason);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            written("capulet.com", "Offline Storage"),
            "<delay xmlns='urn:xmpp:delay' from='capulet.com' stamp='2002-09-10T23:08:25.000Z'>Offline Storage</delay>"
        );
        assert_eq!(written("", ""), "<delay xmlns='urn:xmpp:delay' stamp='2002-09-10T23:08:25.000Z'/>");
        assert_eq!(
            written("o'neil@b", "<"),
            "<delay xmlns='urn:xmpp:delay' from='o&apos;neil@b' stamp='2002-09-10T23:08:25.000Z'>&lt;</delay>"
        );
    }
}
