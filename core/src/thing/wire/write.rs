//! Writing answers and notices. There is no whitespace between elements: clients stumble over it.

use super::super::{NodeName, Tag, TagValue};
use super::{Dialect, Style};
use crate::iot::{Generation, Interface};
use crate::jid::JidRef;
use crate::xml::write;

/// Magnitudes that are written without an exponent.
const PLAIN: std::ops::Range<f64> = 1e-5..1e16;

/// Whose a thing is: to the owner the thing's address, to the thing the owner's. The node is that of the thing, if it is to
/// be said. Whether it may be found is always said, since schema and text differ in what its absence means.
pub fn claimed(out: &mut Vec<u8>, style: Style, jid: JidRef<'_>, node: Option<&NodeName>, public: bool) {
    begin(out, style, "claimed");
    write::attr(out, "jid", jid.as_str());
    if let Some(node) = node {
        write_node(out, style.dialect, node);
    }
    write::attr(out, "public", if public { "true" } else { "false" });
    out.extend_from_slice(b"/>");
}

/// A thing is nobody's.
pub fn disowned(out: &mut Vec<u8>, style: Style, node: &NodeName) {
    about_node(out, style, "disowned", node);
}

/// A thing was taken out of the registry.
pub fn removed(out: &mut Vec<u8>, style: Style, node: &NodeName) {
    about_node(out, style, "removed", node);
}

/// What a device decided before is void (XEP-0324). All of it, whatever node changed: so do devices take it.
pub fn clear_cache(out: &mut Vec<u8>, generation: Generation) {
    out.extend_from_slice(b"<clearCache");
    write::attr(out, "xmlns", Interface::Device.ns(generation));
    out.extend_from_slice(b"/>");
}

/// Begins what was found.
pub fn begin_found(out: &mut Vec<u8>, style: Style, more: bool) {
    begin(out, style, "found");
    write::attr(out, "more", if more { "true" } else { "false" });
    out.push(b'>');
}

/// Ends it.
pub fn end_found(out: &mut Vec<u8>) {
    out.extend_from_slice(b"</found>");
}

/// A thing that was found. Whose it is only the first generation says, which demands it; a thing of its own names itself.
pub fn thing(
    out: &mut Vec<u8>,
    style: Style,
    jid: JidRef<'_>,
    node: &NodeName,
    owner: Option<JidRef<'_>>,
    tags: &[Tag],
) {
    begin_thing(out, style, jid, [&node.id, &node.source, &node.partition], owner);
    for Tag { name, value } in tags {
        match value {
            TagValue::Str(text) => text_tag(out, name, text),
            TagValue::Num(value) => number_tag(out, name, *value),
        }
    }
    end_thing(out);
}

/// Begins a thing that was found, as [`thing`] does; its node by id, source and partition. Its tags follow, and
/// [`end_thing`].
pub fn begin_thing(out: &mut Vec<u8>, style: Style, jid: JidRef<'_>, node: [&str; 3], owner: Option<JidRef<'_>>) {
    out.extend_from_slice(b"<thing");
    if style.generation == Generation::Xsf {
        write::attr(out, "owner", owner.unwrap_or(jid).as_str());
    }
    write::attr(out, "jid", jid.as_str());
    node_attrs(out, style.dialect, node);
    out.push(b'>');
}

/// A tag of a thing that is a string.
pub fn text_tag(out: &mut Vec<u8>, name: &str, value: &str) {
    tag(out, b"<str", name, value);
}

/// A tag of a thing that is a number.
pub fn number_tag(out: &mut Vec<u8>, name: &str, value: f64) {
    tag(out, b"<num", name, &number(value));
}

fn tag(out: &mut Vec<u8>, element: &[u8], name: &str, value: &str) {
    out.extend_from_slice(element);
    write::attr(out, "name", name);
    write::attr(out, "value", value);
    out.extend_from_slice(b"/>");
}

/// Ends a thing that was found.
pub fn end_thing(out: &mut Vec<u8>) {
    out.extend_from_slice(b"</thing>");
}

/// Appends the attributes of a node: those that are not empty.
pub fn write_node(out: &mut Vec<u8>, dialect: Dialect, node: &NodeName) {
    node_attrs(out, dialect, [&node.id, &node.source, &node.partition]);
}

fn node_attrs(out: &mut Vec<u8>, dialect: Dialect, node: [&str; 3]) {
    for (name, value) in dialect.attrs().into_iter().zip(node) {
        if !value.is_empty() {
            write::attr(out, name, value);
        }
    }
}

/// A number as an `xs:double`: the shortest that reads back as the same.
pub fn number(value: f64) -> String {
    if value == 0.0 || PLAIN.contains(&value.abs()) { value.to_string() } else { format!("{value:e}") }
}

fn about_node(out: &mut Vec<u8>, style: Style, name: &str, node: &NodeName) {
    begin(out, style, name);
    write_node(out, style.dialect, node);
    out.extend_from_slice(b"/>");
}

fn begin(out: &mut Vec<u8>, style: Style, name: &str) {
    out.push(b'<');
    out.extend_from_slice(name.as_bytes());
    write::attr(out, "xmlns", Interface::Discovery.ns(style.generation));
}
