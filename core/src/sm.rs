//! Stream management: its elements, the arithmetic of `h`, and what names a session to be resumed.
//!
//! Called by [`crate::stream`] before a session exists, and by the shards once it does. Pure: keeps no queue and counts
//! nothing by itself.
//!
//! Spec: XEP-0198 v1.6.3.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use crate::xml::read::Node;
use crate::xml::{Element, write};
use crate::{ns, stanza};

/// An element of stream management that a client may send (XEP-0198 v1.6.3 §3, §4, §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// `<enable/>`
    Enable(Enable),
    /// `<resume/>`
    Resume(Resume<'a>),
    /// `<r/>`: how many stanzas have we handled?
    Count,
    /// `<a/>`: so many has the client handled, modulo 2³².
    Handled(u32),
}

/// `<enable/>` (XEP-0198 v1.6.3 §3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Enable {
    /// The client wants to be able to resume the session.
    pub resume: bool,
    /// Seconds for which it would like to be able to, at most `u32::MAX`.
    pub max: Option<u32>,
}

/// `<resume/>` (XEP-0198 v1.6.3 §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume<'a> {
    /// Stanzas the client has handled, modulo 2³².
    pub h: u32,
    /// The session to resume, as sent: whether it can be one of ours is for [`SmId::parse`] to say.
    pub previd: Cow<'a, str>,
}

/// An attribute is missing, or not of the type that the schema gives it (XEP-0198 v1.6.3 §13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl<'a> Request<'a> {
    /// Reads an element of `urn:xmpp:sm:3`; `None` if it is none that a client sends.
    ///
    /// # Errors
    /// [`Malformed`], which ends the stream with `bad-format`.
    pub fn read(element: &Element<'a>) -> Result<Option<Self>, Malformed> {
        if element.ns() != ns::SM {
            return Ok(None);
        }
        Ok(Some(match element.name() {
            "enable" => Self::Enable(Enable::from_attributes(|name| value(element, name))?),
            "resume" => Self::Resume(Resume::from_attributes(|name| value(element, name))?),
            "r" => Self::Count,
            "a" => Self::Handled(unsigned_int(&value(element, "h").ok_or(Malformed)?)?),
            _ => return Ok(None),
        }))
    }
}

fn value<'a>(element: &Element<'a>, name: &str) -> Option<Cow<'a, str>> {
    element.attr(name).map(|attr| attr.value())
}

impl Enable {
    /// Reads an `<enable/>` inside another element.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(node: &Node) -> Result<Self, Malformed> {
        Self::from_attributes(|name| node.attr(name).map(Cow::Borrowed))
    }

    fn from_attributes<'a>(attribute: impl Fn(&str) -> Option<Cow<'a, str>>) -> Result<Self, Malformed> {
        Ok(Self {
            resume: attribute("resume").map_or(Ok(false), |resume| boolean(&resume))?,
            max: attribute("max").map(|max| positive_integer(&max)).transpose()?,
        })
    }
}

impl<'a> Resume<'a> {
    /// Reads a `<resume/>` inside another element.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(node: &'a Node) -> Result<Self, Malformed> {
        Self::from_attributes(|name| node.attr(name).map(Cow::Borrowed))
    }

    fn from_attributes(attribute: impl Fn(&str) -> Option<Cow<'a, str>>) -> Result<Self, Malformed> {
        Ok(Self { h: unsigned_int(&attribute("h").ok_or(Malformed)?)?, previd: attribute("previd").ok_or(Malformed)? })
    }
}

/// `xs:boolean` (XML Schema Part 2 §3.2.2).
fn boolean(text: &str) -> Result<bool, Malformed> {
    match text.trim_matches(WHITE) {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Malformed),
    }
}

/// `xs:unsignedInt` (XML Schema Part 2 §3.3.22).
fn unsigned_int(text: &str) -> Result<u32, Malformed> {
    digits(text)?.parse().map_err(|_| Malformed)
}

/// `xs:positiveInteger` (XML Schema Part 2 §3.3.25); what is larger than we count is the most that we do.
fn positive_integer(text: &str) -> Result<u32, Malformed> {
    match digits(text)?.parse() {
        Ok(0) => Err(Malformed),
        Ok(number) => Ok(number),
        Err(_) => Ok(u32::MAX),
    }
}

/// White space that a value of these types may stand in.
const WHITE: [char; 4] = [' ', '\t', '\r', '\n'];

/// The digits of a number without a sign, or with a plus.
fn digits(text: &str) -> Result<&str, Malformed> {
    let text = text.trim_matches(WHITE);
    let digits = text.strip_prefix('+').unwrap_or(text);
    let sound = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    if sound { Ok(digits) } else { Err(Malformed) }
}

/// A client acknowledged more stanzas than it was sent (XEP-0198 v1.6.3 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandledCountTooHigh {
    /// What it acknowledged, modulo 2³².
    pub h: u32,
    /// What it was sent, modulo 2³².
    pub send_count: u32,
}

impl HandledCountTooHigh {
    /// Appends `<handled-count-too-high/>`.
    pub fn write(self, out: &mut Vec<u8>) {
        begin(out, "handled-count-too-high");
        write::attr(out, "h", &self.h.to_string());
        write::attr(out, "send-count", &self.send_count.to_string());
        out.extend_from_slice(b"/>");
    }
}

/// How many stanzas `h` acknowledges anew (XEP-0198 v1.6.3 §4): those from `acked`, the last `h`, up to it, while `sent`
/// have been sent in all. All three are modulo 2³², so fewer than 2³² may be unacknowledged; what goes back behind `acked`
/// cannot be told from what is ahead of `sent`.
///
/// # Errors
/// [`HandledCountTooHigh`] if `h` is not between the two.
pub const fn acknowledged(acked: u32, sent: u32, h: u32) -> Result<u32, HandledCountTooHigh> {
    let fresh = h.wrapping_sub(acked);
    if fresh <= sent.wrapping_sub(acked) { Ok(fresh) } else { Err(HandledCountTooHigh { h, send_count: sent }) }
}

/// Bytes of an SM-ID that nobody can guess.
const SECRET_BYTES: usize = 16;
/// Bytes of an SM-ID.
const SM_ID_BYTES: usize = SECRET_BYTES + size_of::<u64>();
/// Characters of an SM-ID. A multiple of four, so that no bit is left over and each has one spelling.
const SM_ID_CHARACTERS: usize = SM_ID_BYTES / 3 * 4;
const _: () = assert!(SM_ID_BYTES.is_multiple_of(3) && SM_ID_CHARACTERS <= 4000, "XEP-0198 §5");

/// An SM-ID: names a session that may be resumed (XEP-0198 v1.6.3 §5). The number says where to look for it, the secret
/// that whoever sends it was told it. Nothing in it depends on the shard.
#[derive(Clone, Copy)]
pub struct SmId {
    /// Random.
    pub secret: [u8; SECRET_BYTES],
    /// The session's number, unlike any other of this broker's run.
    pub session: u64,
}

impl SmId {
    /// Reads what [`fmt::Display`] writes; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != SM_ID_CHARACTERS {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (secret, rest) = bytes.split_first_chunk()?;
        Some(Self { secret: *secret, session: u64::from_be_bytes(rest.try_into().ok()?) })
    }

    fn bytes(&self) -> [u8; SM_ID_BYTES] {
        let mut bytes = [0; SM_ID_BYTES];
        let (secret, session) = bytes.split_at_mut(SECRET_BYTES);
        secret.copy_from_slice(&self.secret);
        session.copy_from_slice(&self.session.to_be_bytes());
        bytes
    }
}

impl PartialEq for SmId {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.bytes().ct_eq(&other.bytes()).into()
    }
}

impl Eq for SmId {}

impl fmt::Display for SmId {
    /// Base64 for URLs, without padding (RFC 4648 §5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.bytes()))
    }
}

impl fmt::Debug for SmId {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmId").field("session", &self.session).finish_non_exhaustive()
    }
}

/// The answer to `<enable/>` where it is granted (XEP-0198 v1.6.3 §3). Without `location`: any address will do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Enabled {
    /// The session may be resumed, under this name, within so many seconds of being cut off.
    pub resumable: Option<(SmId, u32)>,
}

impl Enabled {
    /// Appends `<enabled/>`.
    pub fn write(&self, out: &mut Vec<u8>) {
        begin(out, "enabled");
        if let Some((id, max)) = self.resumable {
            write::attr(out, "id", &id.to_string());
            write::attr(out, "resume", "true");
            write::attr(out, "max", &max.to_string());
        }
        out.extend_from_slice(b"/>");
    }
}

/// Appends `<resumed/>`: we have handled `h` stanzas of the session (XEP-0198 v1.6.3 §5).
pub fn write_resumed(out: &mut Vec<u8>, h: u32, previd: &SmId) {
    begin(out, "resumed");
    write::attr(out, "h", &h.to_string());
    write::attr(out, "previd", &previd.to_string());
    out.extend_from_slice(b"/>");
}

/// Why a request of stream management was not granted (XEP-0198 v1.6.3 §5, §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// The stanza error condition for it.
    pub condition: stanza::Condition,
    /// Stanzas we had handled of a session that has timed out, if we still know.
    pub h: Option<u32>,
}

impl From<stanza::Condition> for Failed {
    fn from(condition: stanza::Condition) -> Self {
        Self { condition, h: None }
    }
}

impl Failed {
    /// Appends `<failed/>`.
    pub fn write(self, out: &mut Vec<u8>) {
        begin(out, "failed");
        if let Some(h) = self.h {
            write::attr(out, "h", &h.to_string());
        }
        for part in ["><", self.condition.name(), " xmlns='", ns::STANZA_ERRORS, "'/></failed>"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
}

/// Appends `<r/>` (XEP-0198 v1.6.3 §4).
pub fn write_request(out: &mut Vec<u8>) {
    begin(out, "r");
    out.extend_from_slice(b"/>");
}

/// Appends `<a/>`: we have handled `h` stanzas (XEP-0198 v1.6.3 §4).
pub fn write_ack(out: &mut Vec<u8>, h: u32) {
    begin(out, "a");
    write::attr(out, "h", &h.to_string());
    out.extend_from_slice(b"/>");
}

/// Appends the start tag of an element, open for attributes.
fn begin(out: &mut Vec<u8>, name: &str) {
    out.push(b'<');
    out.extend_from_slice(name.as_bytes());
    write::attr(out, "xmlns", ns::SM);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::ScanLimits;
    use crate::xml::{Scanned, Scanner, StreamNamespaces};

    const ID: SmId = SmId { secret: [0xa5; 16], session: 7 };

    /// What an element of stream management with these attributes is read as, from a stream and from inside another.
    fn read(name: &str, attributes: &str) -> Result<Option<Request<'static>>, Malformed> {
        let raw = format!("<{name} xmlns='urn:xmpp:sm:3' {attributes}/>");
        let mut scanner = Scanner::new();
        let scanned = scanner.next(&ScanLimits::AFTER_AUTH, &StreamNamespaces::NONE, raw.as_bytes());
        let Ok(Scanned::Element { element, .. }) = scanned else { panic!("{raw} is not an element") };
        let request = Request::read(&element).map(|request| request.map(owned));

        let node = Node::parse(&raw, "jabber:client").unwrap();
        match name {
            "enable" => assert_eq!(Enable::read(&node).map(|enable| Some(Request::Enable(enable))), request, "{raw}"),
            "resume" => {
                let inside = Resume::read(&node).map(|resume| Some(owned(Request::Resume(resume))));
                assert_eq!(inside, request, "{raw}");
            }
            _ => {}
        }
        request
    }

    fn owned(request: Request<'_>) -> Request<'static> {
        match request {
            Request::Resume(Resume { h, previd }) => Request::Resume(Resume { h, previd: previd.into_owned().into() }),
            Request::Enable(enable) => Request::Enable(enable),
            Request::Count => Request::Count,
            Request::Handled(h) => Request::Handled(h),
        }
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn requests_are_read() {
        let check = |name, attributes, expected| assert_eq!(read(name, attributes), Ok(Some(expected)), "{attributes}");
        let enable = |resume, max| Request::Enable(Enable { resume, max });
        check("enable", "", enable(false, None));
        check("enable", "resume='true'", enable(true, None));
        check("enable", "resume=' 1 ' max='300'", enable(true, Some(300)));
        check("enable", "resume='0' max='+0300'", enable(false, Some(300)));
        check("enable", "resume='false' max='99999999999999999999'", enable(false, Some(u32::MAX)));
        check("resume", "h='3' previd='a&amp;b'", Request::Resume(Resume { h: 3, previd: "a&b".into() }));
        check("resume", "h='0' previd=''", Request::Resume(Resume { h: 0, previd: "".into() }));
        check("r", "", Request::Count);
        check("a", "h='4294967295'", Request::Handled(u32::MAX));
        check("a", "h='&#48;7'", Request::Handled(7));
    }

    #[test]
    fn attributes_that_the_schema_refuses_are_malformed() {
        // Negative, text, overflow.
        for h in ["", "h=''", "h='-1'", "h='ten'", "h='1.0'", "h='0x1'", "h='4294967296'", "h='1 2'", "h='+'"] {
            assert_eq!(read("a", h), Err(Malformed), "{h}");
            assert_eq!(read("resume", &format!("{h} previd='x'")), Err(Malformed), "{h}");
        }
        assert_eq!(read("resume", "h='1'"), Err(Malformed));
        for attributes in ["resume='yes'", "resume=''", "max='0'", "max='-5'", "max='soon'", "max=''"] {
            assert_eq!(read("enable", attributes), Err(Malformed), "{attributes}");
        }
    }

    #[test]
    fn what_a_client_does_not_send_is_no_request() {
        for name in ["enabled", "resumed", "failed", "sm", "x"] {
            assert_eq!(read(name, ""), Ok(None), "{name}");
        }
        let raw = b"<r xmlns='urn:xmpp:sm:2'/>";
        let mut scanner = Scanner::new();
        let scanned = scanner.next(&ScanLimits::AFTER_AUTH, &StreamNamespaces::NONE, raw);
        let Ok(Scanned::Element { element, .. }) = scanned else { panic!("not an element") };
        assert_eq!(Request::read(&element), Ok(None));
    }

    #[test]
    fn answers_are_written() {
        let id = ID.to_string();
        assert_eq!(id, "paWlpaWlpaWlpaWlpaWlpQAAAAAAAAAH");
        assert_eq!(written(|out| Enabled::default().write(out)), "<enabled xmlns='urn:xmpp:sm:3'/>");
        assert_eq!(
            written(|out| Enabled { resumable: Some((ID, 600)) }.write(out)),
            format!("<enabled xmlns='urn:xmpp:sm:3' id='{id}' resume='true' max='600'/>")
        );
        assert_eq!(
            written(|out| write_resumed(out, 345, &ID)),
            format!("<resumed xmlns='urn:xmpp:sm:3' h='345' previd='{id}'/>")
        );
        assert_eq!(
            written(|out| Failed { condition: stanza::Condition::ItemNotFound, h: Some(5) }.write(out)),
            "<failed xmlns='urn:xmpp:sm:3' h='5'>\
             <item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
        );
        assert_eq!(
            written(|out| Failed::from(stanza::Condition::UnexpectedRequest).write(out)),
            "<failed xmlns='urn:xmpp:sm:3'>\
             <unexpected-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
        );
        assert_eq!(written(write_request), "<r xmlns='urn:xmpp:sm:3'/>");
        assert_eq!(written(|out| write_ack(out, 1)), "<a xmlns='urn:xmpp:sm:3' h='1'/>");
    }

    #[test]
    fn an_sm_id_has_one_spelling_and_hides_its_secret() {
        for text in [
            "",
            "x",
            "paWlpaWlpaWlpaWlpaWlpQAAAAAAAAA",
            "paWlpaWlpaWlpaWlpaWlpQAAAAAAAAAH=",
            "+aWlpaWlpaWlpaWlpaWlpQAAAAAAAAAH",
        ] {
            assert_eq!(SmId::parse(text), None, "{text}");
        }
        assert_eq!(SmId::parse(&"ä".repeat(16)), None);
        assert_eq!(format!("{ID:?}"), "SmId { session: 7, .. }");
    }

    #[test]
    fn h_is_counted_across_the_wrap() {
        let check = |acked, sent, h, expected| assert_eq!(acknowledged(acked, sent, h), expected, "{acked} {sent} {h}");
        let too_high = |h, send_count| Err(HandledCountTooHigh { h, send_count });
        check(0, 0, 0, Ok(0));
        check(0, 8, 8, Ok(8));
        check(0, 8, 10, too_high(10, 8)); // the example of XEP-0198 §6
        check(5, 8, 4, too_high(4, 8));
        check(u32::MAX, 1, u32::MAX, Ok(0));
        check(u32::MAX, 1, 0, Ok(1));
        check(u32::MAX, 1, 1, Ok(2));
        check(u32::MAX, 1, 2, too_high(2, 1));
        check(u32::MAX - 1, u32::MAX, 0, too_high(0, u32::MAX));
    }

    proptest! {
        #[test]
        fn an_h_between_acked_and_sent_acknowledges_the_difference_wherever_the_count_stands(
            acked: u32,
            (unacknowledged, fresh) in any::<u32>().prop_flat_map(|count| (Just(count), 0..=count)),
        ) {
            let sent = acked.wrapping_add(unacknowledged);
            prop_assert_eq!(acknowledged(acked, sent, acked.wrapping_add(fresh)), Ok(fresh));
        }

        #[test]
        fn any_other_h_is_too_high_wherever_the_count_stands(
            acked: u32,
            (unacknowledged, beyond) in (0..u32::MAX).prop_flat_map(|count| (Just(count), count + 1..=u32::MAX)),
        ) {
            let sent = acked.wrapping_add(unacknowledged);
            let h = acked.wrapping_add(beyond);
            prop_assert_eq!(acknowledged(acked, sent, h), Err(HandledCountTooHigh { h, send_count: sent }));
        }

        #[test]
        fn one_stanza_at_a_time_or_many_come_to_the_same(start: u32, steps in prop::collection::vec(0_u32..1000, 0..20)) {
            let sent = steps.iter().fold(start, |sum, step| sum.wrapping_add(*step));
            let mut acked = start;
            let mut total = 0;
            for step in &steps {
                let h = acked.wrapping_add(*step);
                total += acknowledged(acked, sent, h).unwrap();
                acked = h;
            }
            prop_assert_eq!(acked, sent);
            prop_assert_eq!(acknowledged(start, sent, sent), Ok(total));
        }

        #[test]
        fn an_sm_id_reads_back(secret: [u8; 16], session: u64) {
            let id = SmId { secret, session };
            let text = id.to_string();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')));
            prop_assert_eq!(SmId::parse(&text), Some(id));
        }

        #[test]
        fn an_sm_id_equals_no_other(secret: [u8; 16], session: u64, bit in 0_usize..192) {
            let id = SmId { secret, session };
            let mut bytes = id.bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(SmId::parse(&URL_SAFE_NO_PAD.encode(bytes)), Some(id));
        }

        #[test]
        fn no_text_makes_reading_panic(text: String) {
            let _ = (SmId::parse(&text), unsigned_int(&text), positive_integer(&text), boolean(&text));
        }
    }
}
