//! What an owner is told of the things it owns: the list of a search in the registry (XEP-0347 §3.13).

use plaza_core::iot::{Generation, Interface};
use plaza_core::thing::TagValue;
use plaza_core::xml::write;

use crate::things::ThingRecord;

/// Writes `<found/>` without any white space, over which clients stumble. The owner is told in the first generation alone,
/// whose schema wants it.
pub(super) fn write_found(out: &mut Vec<u8>, generation: Generation, things: &[ThingRecord], has_more: bool) {
    let is_first = generation == Generation::Xsf;
    out.extend_from_slice(b"<found");
    write::attr_raw(out, "xmlns", Interface::Discovery.ns(generation));
    write::attr_raw(out, "more", if has_more { "true" } else { "false" });
    out.push(b'>');
    for thing in things {
        out.extend_from_slice(b"<thing");
        write::attr(out, "jid", thing.jid.as_str());
        if is_first {
            write::attr(out, "owner", thing.owner().unwrap_or(&thing.jid).as_str());
        }
        let names = if is_first { ["nodeId", "sourceId", "cacheType"] } else { ["id", "src", "pt"] };
        let values = [&thing.node.id, &thing.node.source, &thing.node.partition];
        for (name, value) in names.into_iter().zip(values).filter(|(_, value)| !value.is_empty()) {
            write::attr(out, name, value);
        }
        out.push(b'>');
        for tag in &thing.tags {
            let (element, value) = match &tag.value {
                TagValue::Str(text) => ("str", text.to_string()),
                TagValue::Num(number) => ("num", number.to_string()),
            };
            out.push(b'<');
            out.extend_from_slice(element.as_bytes());
            write::attr(out, "name", &tag.name);
            write::attr(out, "value", &value);
            out.extend_from_slice(b"/>");
        }
        out.extend_from_slice(b"</thing>");
    }
    out.extend_from_slice(b"</found>");
}
