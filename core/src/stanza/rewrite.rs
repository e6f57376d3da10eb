//! Writing a stanza for its recipient: a start tag of ours, `from` stamped, the children's bytes exactly as scanned
//! (CDATA re-written as text). Never allocates beyond `out`.

use super::{Detail, ErrorType, Kind, Stanza, StanzaError};
use crate::ns;
use crate::xml::{StreamNamespaces, write};

/// What the rewriting changes.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'a> {
    /// `from` to stamp (normal form).
    pub from: &'a str,
    /// `to` to write instead of the one sent; `None` keeps it.
    pub to: Option<&'a str>,
}

/// What a start tag, its end tag and two addresses need beyond the stanza's own bytes.
const SPARE_BYTES: usize = 96;

/// Appends the stanza for a recipient on a `jabber:client` stream. All attributes other than `from`, `to` and the content
/// namespace are kept as written; prefixes that only the sender's stream header declared are declared again where used.
pub fn write_stanza(out: &mut Vec<u8>, stanza: &Stanza<'_>, stamp: Stamp<'_>, ns: &StreamNamespaces) {
    let element = &stanza.element;
    out.reserve(element.raw().len() + stamp.from.len() + stamp.to.map_or(0, str::len) + SPARE_BYTES);
    let name = stanza.class.kind().name();
    // The content's default namespace is nearly always the stanza's own. A sender who gives stanzas a prefix may have
    // another, or none: then the prefix is needed to keep the two apart.
    let default_ns = element.default_ns();
    let prefix = if default_ns == element.ns() { "" } else { element.prefix() };
    out.push(b'<');
    push_name(out, prefix, name);
    write_attrs(out, stanza, stamp);
    if !prefix.is_empty() {
        write::attr(out, "xmlns", default_ns);
    }
    for (prefix, raw) in element.declarations().filter(|(prefix, _)| !prefix.is_empty()) {
        write::declaration_raw(out, prefix, raw);
    }
    if element.uses_stream_prefixes() {
        for (prefix, uri) in element.stream_prefixes(ns) {
            write::declaration(out, prefix, uri);
        }
    }
    let content = element.content();
    if content.is_empty() {
        return out.extend_from_slice(b"/>");
    }
    out.push(b'>');
    if element.has_cdata() {
        write::without_cdata(out, content);
    } else {
        out.extend_from_slice(content.as_bytes());
    }
    out.extend_from_slice(b"</");
    push_name(out, prefix, name);
    out.push(b'>');
}

fn write_attrs(out: &mut Vec<u8>, stanza: &Stanza<'_>, stamp: Stamp<'_>) {
    for (name, raw, compact) in stanza.element.attrs_written() {
        match (name, stamp.to, compact) {
            ("from", ..) => write::attr(out, name, stamp.from),
            ("to", Some(to), _) => write::attr(out, name, to),
            (_, _, Some(compact)) => {
                out.push(b' ');
                out.extend_from_slice(compact.as_bytes());
            }
            (_, _, None) => write::attr_raw(out, name, raw),
        }
    }
    if stanza.from.is_none() {
        write::attr(out, "from", stamp.from);
    }
    if let (None, Some(to)) = (stanza.to, stamp.to) {
        write::attr(out, "to", to);
    }
}

/// A stanza of ours, written by [`write_stanza`], with one more child at its end.
pub fn with_child(stanza: &[u8], child: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(stanza.len() + SPARE_BYTES);
    if let Some(start) = stanza.strip_suffix(b"/>") {
        let name = start.get(1..).and_then(|tag| tag.split(|&byte| byte == b' ').next()).unwrap_or_default();
        out.extend_from_slice(start);
        out.push(b'>');
        child(&mut out);
        out.extend_from_slice(b"</");
        out.extend_from_slice(name);
        out.push(b'>');
        return out;
    }
    let end = stanza.iter().rposition(|&byte| byte == b'<').unwrap_or(stanza.len());
    let (start, end) = stanza.split_at(end);
    out.extend_from_slice(start);
    child(&mut out);
    out.extend_from_slice(end);
    out
}

/// Appends a stanza of ours, written by [`write_stanza`], to stand inside an element of another namespace: it names its
/// own (XEP-0297 v1.0 §3.1). One with a prefix does so already.
pub fn write_forwarded(out: &mut Vec<u8>, stanza: &[u8]) {
    let name_end = stanza.iter().position(|byte| matches!(byte, b' ' | b'>' | b'/')).unwrap_or(0);
    let (name, rest) = stanza.split_at(name_end);
    out.extend_from_slice(name);
    if !name.contains(&b':') {
        write::attr(out, "xmlns", ns::CLIENT);
    }
    out.extend_from_slice(rest);
}

/// Appends the error answering a stanza: same kind, id echoed, `type='error'`, `from` and `to` as given (normal form,
/// "" leaves the attribute out), then the `<error/>`. The original payload is not echoed (RFC 6120 §8.3.1 MAY).
/// Takes the raw id, so that a handed-over stanza can be answered without scanning it again.
pub fn write_error(out: &mut Vec<u8>, kind: Kind, id_raw: Option<&str>, from: &str, to: &str, error: StanzaError) {
    write_error_with(out, kind, id_raw, from, to, &[], error);
}

/// As [`write_error`], with a payload in front of the `<error/>`, for protocols whose errors say more than that.
pub fn write_error_with(
    out: &mut Vec<u8>,
    kind: Kind,
    id_raw: Option<&str>,
    from: &str,
    to: &str,
    payload: &[u8],
    error: StanzaError,
) {
    out.push(b'<');
    out.extend_from_slice(kind.name().as_bytes());
    write::attr(out, "type", "error");
    write_addresses(out, id_raw, from, to);
    out.push(b'>');
    out.extend_from_slice(payload);
    out.extend_from_slice(b"<error");
    write::attr(out, "type", type_name(error.error_type));
    out.extend_from_slice(b"><");
    out.extend_from_slice(error.condition.name().as_bytes());
    write::attr(out, "xmlns", ns::STANZA_ERRORS);
    out.extend_from_slice(b"/>");
    if !error.text.is_empty() {
        out.extend_from_slice(b"<text");
        write::attr(out, "xmlns", ns::STANZA_ERRORS);
        write::attr(out, "xml:lang", "en");
        out.push(b'>');
        write::text(out, error.text);
        out.extend_from_slice(b"</text>");
    }
    if let Some(Detail { name, ns, attr }) = error.detail {
        out.push(b'<');
        out.extend_from_slice(name.as_bytes());
        write::attr(out, "xmlns", ns);
        if let Some((name, value)) = attr {
            write::attr(out, name, value);
        }
        out.extend_from_slice(b"/>");
    }
    out.extend_from_slice(b"</error></");
    out.extend_from_slice(kind.name().as_bytes());
    out.push(b'>');
}

/// Appends `<iq type='result' id='…' from='…' to='…'>` up to and including `>`; the caller appends payload and `</iq>`.
/// An empty `from` or `to` leaves the attribute out.
pub fn write_reply_start(out: &mut Vec<u8>, id_raw: &str, from: &str, to: &str) {
    out.extend_from_slice(b"<iq type='result'");
    write_addresses(out, Some(id_raw), from, to);
    out.push(b'>');
}

fn write_addresses(out: &mut Vec<u8>, id_raw: Option<&str>, from: &str, to: &str) {
    if let Some(id) = id_raw {
        write::attr_raw(out, "id", id);
    }
    for (name, address) in [("from", from), ("to", to)] {
        if !address.is_empty() {
            write::attr(out, name, address);
        }
    }
}

fn push_name(out: &mut Vec<u8>, prefix: &str, name: &str) {
    if !prefix.is_empty() {
        out.extend_from_slice(prefix.as_bytes());
        out.push(b':');
    }
    out.extend_from_slice(name.as_bytes());
}

const fn type_name(error_type: ErrorType) -> &'static str {
    match error_type {
        ErrorType::Auth => "auth",
        ErrorType::Cancel => "cancel",
        ErrorType::Continue => "continue",
        ErrorType::Modify => "modify",
        ErrorType::Wait => "wait",
    }
}

#[cfg(test)]
mod tests {
    use super::super::Condition;
    use super::*;
    use crate::limits::ScanLimits;
    use crate::xml::{Scanned, Scanner};

    const STAMP: Stamp<'_> = Stamp { from: "a@b/c", to: None };

    fn rewritten_within(header: &str, input: &str, stamp: Stamp<'_>) -> String {
        let (mut scanner, limits) = (Scanner::new(), ScanLimits::AFTER_AUTH);
        let (_, ns, _) = scanner.header(&limits, header.as_bytes()).expect("allowed").expect("complete");
        let scanned = scanner.next(&limits, &ns, input.as_bytes());
        let Ok(Scanned::Element { element, .. }) = scanned else { panic!("{input}: {scanned:?}") };
        let stanza = Stanza::classify(element, ns::CLIENT).expect("a stanza");
        let mut out = Vec::new();
        write_stanza(&mut out, &stanza, stamp, &ns);
        String::from_utf8(out).expect("UTF-8 stays UTF-8")
    }

    fn rewritten(input: &str, stamp: Stamp<'_>) -> String {
        let header = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";
        rewritten_within(header, input, stamp)
    }

    #[test]
    fn the_start_tag_is_ours_and_the_content_theirs() {
        let check = |input: &str, expected: &str| assert_eq!(rewritten(input, STAMP), expected);
        check("<message/>", "<message from='a@b/c'/>");
        check("<message></message>", "<message from='a@b/c'/>");
        check(
            "<message  from = 'x'\n to=\"it's\"  id = \"1'&amp;\" xmlns='jabber:client' xml:lang='en'><body >on </body > </message>",
            "<message from='a@b/c' to=\"it's\" id='1&apos;&amp;' xml:lang='en'><body >on </body > </message>",
        );
        check(
            "<message xmlns:p='urn:p' p:x = '1' xmlns:q=\"&apos;'\"><p:y/></message>",
            "<message p:x='1' from='a@b/c' xmlns:p='urn:p' xmlns:q='&apos;&apos;'><p:y/></message>",
        );
        check(
            "<c:message xmlns:c='jabber:client'><c:b/></c:message>",
            "<message from='a@b/c' xmlns:c='jabber:client'><c:b/></message>",
        );
    }

    #[test]
    fn addresses_are_stamped_in_normal_form() {
        let stamp = Stamp { from: "o'neil@b/<&>", to: Some("x@y") };
        let from = "from='o&apos;neil@b/&lt;&amp;&gt;'";
        assert_eq!(rewritten("<message to='X@Y' id='1'/>", stamp), format!("<message to='x@y' id='1' {from}/>"));
        assert_eq!(rewritten("<message from='f' id='1'/>", stamp), format!("<message {from} id='1' to='x@y'/>"));
    }

    #[test]
    fn cdata_becomes_text() {
        let check = |content: &str, expected: &str| {
            let out = rewritten(&format!("<message>{content}</message>"), STAMP);
            assert_eq!(out, format!("<message from='a@b/c'>{expected}</message>"));
        };
        check("<body><![CDATA[a<b>&c]]]]></body>", "<body>a&lt;b&gt;&amp;c]]</body>");
        check("<![CDATA[<![CDATA[]]>", "&lt;![CDATA[");
        check("x<![CDATA[]]>y<![CDATA[1]]>", "xy1");
        check("<![CDATA[]]]]>>", "]]&gt;");
        check("]]<![CDATA[]]>>", "]]&gt;");
        check("]<![CDATA[]]><![CDATA[]]>]>", "]]&gt;");
        check("]<![CDATA[]]]>>", "]]&gt;");
        check("<b>></b><![CDATA[>]]>", "<b>></b>&gt;");
    }

    #[test]
    fn what_only_the_stream_header_declared_is_declared_again() {
        let header = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' \
                      xmlns:x='urn:x&apos;' xmlns:y='urn:y'>";
        let check = |input: &str, expected: &str| assert_eq!(rewritten_within(header, input, STAMP), expected);
        check("<message><x:a/></message>", "<message from='a@b/c' xmlns:x='urn:x&apos;'><x:a/></message>");
        check("<message y:a='1'/>", "<message y:a='1' from='a@b/c' xmlns:y='urn:y'/>");
        check("<message><a xmlns:x='u' x:b=''/></message>", "<message from='a@b/c'><a xmlns:x='u' x:b=''/></message>");
    }

    #[test]
    fn a_stanza_with_a_prefix_keeps_it_where_the_default_namespace_is_another() {
        let header = "<stream xmlns='http://etherx.jabber.org/streams' xmlns:c='jabber:client'>";
        let check = |input: &str, expected: &str| assert_eq!(rewritten_within(header, input, STAMP), expected);
        check(
            "<c:message><c:body/><odd/></c:message>",
            "<c:message from='a@b/c' xmlns='http://etherx.jabber.org/streams' xmlns:c='jabber:client'><c:body/><odd/></c:message>",
        );
        check(
            "<c:message xmlns=''><a/></c:message>",
            "<c:message from='a@b/c' xmlns='' xmlns:c='jabber:client'><a/></c:message>",
        );
        check("<message xmlns='jabber:client'><body/></message>", "<message from='a@b/c'><body/></message>");
    }

    #[test]
    fn an_error_says_what_the_protocol_calls_it() {
        let detail = Detail { name: "unsupported", ns: "urn:errors", attr: Some(("feature", "it's")) };
        let error = StanzaError::from(Condition::FeatureNotImplemented).with_text("no").with_detail(detail);
        let mut out = Vec::new();
        write_error_with(&mut out, Kind::Iq, Some("1"), "a@b", "", b"<x/>", error);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "<iq type='error' id='1' from='a@b'><x/><error type='cancel'>\
             <feature-not-implemented xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas' xml:lang='en'>no</text>\
             <unsupported xmlns='urn:errors' feature='it&apos;s'/></error></iq>"
        );
    }

    #[test]
    fn a_child_is_added_at_the_end_and_a_forwarded_stanza_names_its_namespace() {
        let check = |stanza: &str, with: &str, forwarded: &str| {
            let added = with_child(stanza.as_bytes(), |out| out.extend_from_slice(b"<x/>"));
            assert_eq!(String::from_utf8(added).unwrap(), with);
            let mut out = Vec::new();
            write_forwarded(&mut out, stanza.as_bytes());
            assert_eq!(String::from_utf8(out).unwrap(), forwarded);
        };
        check("<message/>", "<message><x/></message>", "<message xmlns='jabber:client'/>");
        check("<message from='a'/>", "<message from='a'><x/></message>", "<message xmlns='jabber:client' from='a'/>");
        check(
            "<message><b>1</b></message>",
            "<message><b>1</b><x/></message>",
            "<message xmlns='jabber:client'><b>1</b></message>",
        );
        let prefixed = "<c:message xmlns='' xmlns:c='jabber:client'>";
        check(
            &format!("{prefixed}<a/></c:message>"),
            &format!("{prefixed}<a/><x/></c:message>"),
            &format!("{prefixed}<a/></c:message>"),
        );
    }

    #[test]
    fn a_reply_echoes_the_id() {
        let mut out = Vec::new();
        write_reply_start(&mut out, "it's &amp;", "a@b", "c@d/e'");
        assert_eq!(out, b"<iq type='result' id='it&apos;s &amp;' from='a@b' to='c@d/e&apos;'>");
        out.clear();
        write_reply_start(&mut out, "1", "", "");
        assert_eq!(out, b"<iq type='result' id='1'>");
    }
}
