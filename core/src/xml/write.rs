//! Writing XML: escaping into a byte buffer.

/// Appends character data, escaped.
pub fn text(out: &mut Vec<u8>, text: &str) {
    escape(out, text, |byte| match byte {
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        b'\r' => Some("&#13;"),
        _ => None,
    });
}

/// Appends ` name='value'`, the value escaped.
pub fn attr(out: &mut Vec<u8>, name: &str, value: &str) {
    begin_attr(out, "", name);
    value_end(out, value);
}

/// Appends ` xmlns:prefix='uri'`, the name escaped.
pub(crate) fn declaration(out: &mut Vec<u8>, prefix: &str, uri: &str) {
    begin_attr(out, "xmlns:", prefix);
    value_end(out, uri);
}

/// Appends ` xmlns:prefix='raw'` for a name that is escaped already.
pub(crate) fn declaration_raw(out: &mut Vec<u8>, prefix: &str, raw: &str) {
    begin_attr(out, "xmlns:", prefix);
    raw_end(out, raw);
}

/// Appends ` name='raw'` for a value that is escaped already (as scanned), escaping only what our quotes demand.
pub fn attr_raw(out: &mut Vec<u8>, name: &str, raw: &str) {
    begin_attr(out, "", name);
    raw_end(out, raw);
}

/// Appends the inside of a CDATA section as character data. A carriage return stays what it is to a reader: a line end.
pub(crate) fn section(out: &mut Vec<u8>, inside: &str) {
    escape(out, inside, |byte| match byte {
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        _ => None,
    });
}

/// Appends content with each CDATA section as the character data it stands for.
pub(crate) fn without_cdata(out: &mut Vec<u8>, content: &str) {
    let (mut rest, mut joins) = (content, false);
    loop {
        // No `<` stands in an attribute, so this begins a section and nothing else.
        let (before, section) = rest.split_once("<![CDATA[").map_or((rest, None), |(a, b)| (a, Some(b)));
        // Brackets on both sides of a section's edge may come together as `]]>`, which is not allowed in text.
        let brackets = before.len() - before.trim_start_matches(']').len();
        match before.split_at(brackets) {
            (brackets, after) if joins && after.starts_with('>') => {
                out.extend_from_slice(brackets.as_bytes());
                out.extend_from_slice(b"&gt;");
                out.extend_from_slice(after.strip_prefix('>').unwrap_or(after).as_bytes());
            }
            _ => out.extend_from_slice(before.as_bytes()),
        }
        let Some((inside, after)) = section.and_then(|section| section.split_once("]]>")) else { return };
        self::section(out, inside);
        (rest, joins) = (after, true);
    }
}

fn begin_attr(out: &mut Vec<u8>, before: &str, name: &str) {
    out.push(b' ');
    out.extend_from_slice(before.as_bytes());
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"='");
}

fn value_end(out: &mut Vec<u8>, value: &str) {
    escape(out, value, |byte| match byte {
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        b'\'' => Some("&apos;"),
        b'\t' => Some("&#9;"),
        b'\n' => Some("&#10;"),
        b'\r' => Some("&#13;"),
        _ => None,
    });
    out.push(b'\'');
}

fn raw_end(out: &mut Vec<u8>, raw: &str) {
    escape(out, raw, |byte| (byte == b'\'').then_some("&apos;"));
    out.push(b'\'');
}

/// Copies runs of bytes that stand for themselves whole.
#[inline(always)]
fn escape(out: &mut Vec<u8>, text: &str, replacement: impl Fn(u8) -> Option<&'static str>) {
    let mut rest = text.as_bytes();
    // A fold without a way out looks at many bytes at once; text that needs nothing is the common case.
    if rest.iter().fold(false, |any, &byte| any | replacement(byte).is_some()) {
        while let Some((at, with)) = rest.iter().enumerate().find_map(|(at, &byte)| Some((at, replacement(byte)?))) {
            let (before, special) = rest.split_at(at);
            out.extend_from_slice(before);
            out.extend_from_slice(with.as_bytes());
            rest = special.get(1..).unwrap_or_default();
        }
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("escaping keeps UTF-8")
    }

    #[test]
    fn what_would_be_markup_is_escaped() {
        assert_eq!(written(|out| text(out, "a<b>&c'\"\t\r\n ä")), "a&lt;b&gt;&amp;c'\"\t&#13;\n ä");
        assert_eq!(written(|out| attr(out, "n", "a<b>&c'\"\t\r\n ä")), " n='a&lt;b&gt;&amp;c&apos;\"&#9;&#13;&#10; ä'");
        assert_eq!(written(|out| attr_raw(out, "x:n", "it's &amp; \"")), " x:n='it&apos;s &amp; \"'");
        assert_eq!(written(|out| section(out, "]]>\r&")), "]]&gt;\r&amp;");
        assert_eq!(written(|out| text(out, &"<".repeat(100))), "&lt;".repeat(100));
        assert_eq!(written(|out| text(out, "")), "");
    }
}
