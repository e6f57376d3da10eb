//! Facts about the server: its software's version (XEP-0092 v1.1) and its time (XEP-0202 v2.0).

use plaza_core::ns;
use plaza_core::xml::write;
use time::OffsetDateTime;

use super::ServiceConfig;

/// Name and version. The operating system is nobody's business (XEP-0092 §4).
pub(super) fn version(config: &ServiceConfig) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(b"<query");
    write::attr(&mut out, "xmlns", ns::VERSION);
    out.extend_from_slice(b"><name>");
    write::text(&mut out, &config.name);
    out.extend_from_slice(b"</name><version>");
    write::text(&mut out, &config.version);
    out.extend_from_slice(b"</version></query>");
    out
}

/// The time, in UTC and to the millisecond.
pub(super) fn time(unix_millis: u64) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(b"<time");
    write::attr(&mut out, "xmlns", ns::TIME);
    out.extend_from_slice(b"><tzo>+00:00</tzo><utc>");
    write::text(&mut out, &date_time(unix_millis));
    out.extend_from_slice(b"</utc></time>");
    out
}

/// A moment as XEP-0082 v1.1 §3.2 writes it.
pub(crate) fn date_time(unix_millis: u64) -> String {
    let seconds = i64::try_from(unix_millis / 1_000).ok();
    // A clock beyond the year 9999 is broken; an answer that is plainly wrong tells so without failing.
    let at = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = at.to_hms();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", unix_millis % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_utc_with_milliseconds() {
        fn check(unix_millis: u64, text: &str) {
            assert_eq!(date_time(unix_millis), text);
        }
        check(0, "1970-01-01T00:00:00.000Z");
        check(1_767_323_045_000, "2026-01-02T03:04:05.000Z");
        check(1_709_251_199_999, "2024-02-29T23:59:59.999Z");
        check(253_402_300_799_999, "9999-12-31T23:59:59.999Z");
        check(u64::MAX, "1970-01-01T00:00:00.615Z");
    }
}
