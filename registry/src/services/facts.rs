//! Facts about the server: its software's version (XEP-0092 v1.1) and its time (XEP-0202 v2.0).

use plaza_core::date::DateTime;
use plaza_core::ns;
use plaza_core::xml::write;

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
    write::text(&mut out, &DateTime::from_unix_millis(unix_millis).to_string());
    out.extend_from_slice(b"</utc></time>");
    out
}
