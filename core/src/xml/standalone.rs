//! Elements that stand for themselves: what is taken out of a stanza to be stored, and put into another one later.
//!
//! A prefix or a default namespace declared further out would be missing there, and a stanza with an undeclared prefix
//! breaks the stream of who receives it. So the declarations an element borrows are written on it; all else stays as it
//! was sent, byte for byte, but for CDATA, which becomes text. Called by services and by the shards for them, never on
//! the routing path.
//!
//! Spec: Namespaces in XML 1.0 §6.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::chars::decode;
use super::write;
use crate::ns;

/// An element with all the namespace declarations it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standalone {
    /// Local name.
    pub name: String,
    /// Namespace name, "" if none.
    pub ns: String,
    /// The whole element.
    pub xml: String,
    /// It has no content and no attributes but declarations.
    pub is_empty: bool,
}

/// Why an element was not taken out of its context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStandalone {
    /// A prefix is declared nowhere that we know of, or it is not one well-formed element.
    Malformed,
    /// It would be longer than allowed.
    TooLong,
}

impl Standalone {
    /// Takes an element out; `default_ns` is the default namespace in scope around it, and no prefix is.
    ///
    /// # Errors
    /// [`NotStandalone`]; too long if it is beyond `bytes_max`, as it is or as it was sent.
    pub fn read(raw: &str, default_ns: &str, bytes_max: usize) -> Result<Self, NotStandalone> {
        Self::read_within(raw, default_ns, bytes_max, |_| None)
    }

    /// Takes each child of an element out, in order.
    ///
    /// # Errors
    /// [`NotStandalone`]; too long if all together are beyond `bytes_max`.
    pub fn read_children(raw: &str, default_ns: &str, bytes_max: usize) -> Result<Vec<Self>, NotStandalone> {
        read(raw, default_ns, 1, bytes_max, |_| None)
    }

    /// As [`Self::read`]; `outer` names the namespace of a prefix declared around it.
    pub(super) fn read_within<'s>(
        raw: &str,
        default_ns: &str,
        bytes_max: usize,
        outer: impl Fn(&str) -> Option<&'s str>,
    ) -> Result<Self, NotStandalone> {
        read(raw, default_ns, 0, bytes_max, outer)?.pop().ok_or(NotStandalone::Malformed)
    }
}

/// Takes out every element at a depth, the root being at 0.
fn read<'s>(
    raw: &str,
    default_ns: &str,
    depth: usize,
    bytes_max: usize,
    outer: impl Fn(&str) -> Option<&'s str>,
) -> Result<Vec<Standalone>, NotStandalone> {
    let mut reader = Reader::from_str(raw);
    let mut walk = Walk {
        scope: vec![(String::new(), default_ns.to_owned())],
        outer,
        open: Vec::new(),
        depth,
        taken: None,
        found: Vec::new(),
        bytes_left: bytes_max,
    };
    let mut begun = false;
    loop {
        let start = position(&reader);
        let event = reader.read_event().map_err(|_| NotStandalone::Malformed)?;
        match event {
            Event::Eof if walk.open.is_empty() && begun => return Ok(walk.found),
            Event::Eof => return Err(NotStandalone::Malformed),
            _ if begun && walk.open.is_empty() => return Err(NotStandalone::Malformed),
            Event::Start(tag) => walk.enter(&tag, start).ok_or(NotStandalone::Malformed)?,
            Event::Empty(tag) => {
                walk.enter(&tag, start).ok_or(NotStandalone::Malformed)?;
                walk.leave(raw, position(&reader))?;
            }
            Event::End(_) => walk.leave(raw, position(&reader))?,
            Event::Text(_) | Event::GeneralRef(_) | Event::CData(_) if walk.open.is_empty() => {
                return Err(NotStandalone::Malformed);
            }
            Event::Text(_) | Event::GeneralRef(_) | Event::CData(_) => walk.has_content(),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {
                return Err(NotStandalone::Malformed);
            }
        }
        begun = true;
    }
}

fn position(reader: &Reader<&[u8]>) -> usize {
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

/// A way through an element.
struct Walk<F> {
    /// Namespace declarations, innermost last.
    scope: Vec<(String, String)>,
    outer: F,
    /// Elements not ended yet, each with the number of declarations around it.
    open: Vec<usize>,
    /// Depth of what is taken out.
    depth: usize,
    taken: Option<Taken>,
    found: Vec<Standalone>,
    bytes_left: usize,
}

/// An element being taken out.
struct Taken {
    /// Where it begins, and where its name ends.
    start: usize,
    name_end: usize,
    /// How many declarations are around it.
    around: usize,
    name: String,
    ns: String,
    is_empty: bool,
    /// What it uses and does not declare: prefix ("" for the default namespace) and namespace name.
    borrowed: Vec<(String, String)>,
}

impl<'s, F: Fn(&str) -> Option<&'s str>> Walk<F> {
    /// A start tag that begins at a position. `None` if a prefix is unknown.
    fn enter(&mut self, tag: &BytesStart<'_>, start: usize) -> Option<()> {
        let around = self.scope.len();
        let name: &str = tag.name().into_inner();
        let (prefix, local) = name.split_once(':').unwrap_or(("", name));
        let mut used = vec![prefix.to_owned()];
        let mut has_attributes = false;
        for attr in tag.attributes() {
            let attr = attr.ok()?;
            let name: &str = attr.key.into_inner();
            let declared = match name.split_once(':') {
                None => (name == "xmlns").then_some(""),
                Some(("xmlns", prefix)) => Some(prefix),
                Some((prefix, _)) => {
                    used.push(prefix.to_owned());
                    None
                }
            };
            has_attributes |= declared.is_none();
            if let Some(prefix) = declared {
                let mut uri = String::new();
                decode(&mut uri, &attr.value, true);
                self.scope.push((prefix.to_owned(), uri));
            }
        }
        if self.open.len() == self.depth {
            self.taken = Some(Taken {
                start,
                name_end: start + 1 + name.len(),
                around,
                name: local.to_owned(),
                ns: self.lookup(prefix)?.1,
                is_empty: !has_attributes,
                borrowed: Vec::new(),
            });
        } else {
            self.has_content();
        }
        self.open.push(around);
        used.iter().try_for_each(|prefix| self.borrow(prefix))
    }

    /// An end tag that ends at a position.
    fn leave(&mut self, raw: &str, end: usize) -> Result<(), NotStandalone> {
        self.scope.truncate(self.open.pop().ok_or(NotStandalone::Malformed)?);
        if self.open.len() != self.depth {
            return Ok(());
        }
        let Taken { start, name_end, name, ns, is_empty, borrowed, .. } =
            self.taken.take().ok_or(NotStandalone::Malformed)?;
        let (Some(begin), Some(rest)) = (raw.get(start..name_end), raw.get(name_end..end)) else {
            return Err(NotStandalone::Malformed);
        };
        let declarations: usize =
            borrowed.iter().map(|(prefix, uri)| " xmlns:=''".len() + prefix.len() + uri.len()).sum();
        if end - start + declarations > self.bytes_left {
            return Err(NotStandalone::TooLong);
        }
        let mut xml = Vec::with_capacity(end - start + declarations);
        xml.extend_from_slice(begin.as_bytes());
        for (prefix, uri) in &borrowed {
            match &**prefix {
                "" => write::attr(&mut xml, "xmlns", uri),
                prefix => write::declaration(&mut xml, prefix, uri),
            }
        }
        write::without_cdata(&mut xml, rest);
        self.bytes_left = self.bytes_left.checked_sub(xml.len()).ok_or(NotStandalone::TooLong)?;
        let xml = String::from_utf8(xml).map_err(|_| NotStandalone::Malformed)?;
        self.found.push(Standalone { name, ns, xml, is_empty });
        Ok(())
    }

    fn has_content(&mut self) {
        if let Some(taken) = &mut self.taken {
            taken.is_empty = false;
        }
    }

    /// Notes a prefix in use, if the element that is taken out has it from further out.
    fn borrow(&mut self, prefix: &str) -> Option<()> {
        if prefix == "xml" || self.taken.is_none() {
            return Some(());
        }
        let (at, uri) = self.lookup(prefix)?;
        let taken = self.taken.as_mut()?;
        let is_own = at.is_some_and(|at| at >= taken.around);
        if !is_own && !taken.borrowed.iter().any(|(known, _)| known == prefix) {
            taken.borrowed.push((prefix.to_owned(), uri));
        }
        Some(())
    }

    /// What a prefix stands for, and which declaration says so, if it is not one of `outer`.
    fn lookup(&self, prefix: &str) -> Option<(Option<usize>, String)> {
        let known = self.scope.iter().enumerate().rev().find(|(_, (known, _))| known == prefix);
        match known {
            Some((at, (_, uri))) => Some((Some(at), uri.clone())),
            None if prefix == "xml" => Some((None, ns::XML.to_owned())),
            None => Some((None, (self.outer)(prefix)?.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(raw: &str) -> Result<String, NotStandalone> {
        Standalone::read(raw, "jabber:client", 1_000).map(|element| element.xml)
    }

    #[test]
    fn what_declares_all_it_uses_stays_as_it_was_sent() {
        for raw in [
            "<vCard xmlns='vcard-temp'/>",
            "<vCard  xmlns = \"vcard-temp\" ><FN>a &amp; b</FN>\n<p:x xmlns:p='urn:p' p:y='1' z=\"'\"/> text</vCard >",
            "<p:a xmlns:p='urn:p'><p:b/></p:a>",
            "<a xmlns=''><b xml:lang='de'/></a>",
        ] {
            assert_eq!(read_one(raw), Ok(raw.to_owned()));
        }
    }

    #[test]
    fn what_it_borrows_is_written_on_it() {
        let check = |raw: &str, expected: &str| assert_eq!(read_one(raw), Ok(expected.to_owned()));
        check("<a b='c'/>", "<a xmlns='jabber:client' b='c'/>");
        check("<p:a xmlns:p='urn:p'><b/></p:a>", "<p:a xmlns='jabber:client' xmlns:p='urn:p'><b/></p:a>");
        let children = Standalone::read_children(
            "<query xmlns='urn:q' xmlns:p='urn:&apos;p'><a/>text<p:b><p:c xmlns:p='urn:other'/><d p:e=''/></p:b>\
             <f xmlns='urn:f'/></query>",
            "jabber:client",
            1_000,
        )
        .unwrap();
        let xml: Vec<_> = children.iter().map(|child| &*child.xml).collect();
        assert_eq!(
            xml,
            [
                "<a xmlns='urn:q'/>",
                "<p:b xmlns:p='urn:&apos;p' xmlns='urn:q'><p:c xmlns:p='urn:other'/><d p:e=''/></p:b>",
                "<f xmlns='urn:f'/>",
            ]
        );
        let names: Vec<_> = children.iter().map(|child| (&*child.name, &*child.ns, child.is_empty)).collect();
        assert_eq!(names, [("a", "urn:q", true), ("b", "urn:'p", false), ("f", "urn:f", true)]);
        assert_eq!(Standalone::read_children("<a/>", "", 0), Ok(vec![]));
    }

    #[test]
    fn empty_is_without_content_and_attributes() {
        let is_empty = |raw| Standalone::read(raw, "", 1_000).unwrap().is_empty;
        assert!(is_empty("<a xmlns='urn:a'></a>"));
        for raw in ["<a b=''/>", "<a> </a>", "<a><b/></a>", "<a><![CDATA[]]></a>", "<a>&lt;</a>"] {
            assert!(!is_empty(raw), "{raw}");
        }
    }

    #[test]
    fn cdata_becomes_text() {
        assert_eq!(read_one("<a xmlns='urn:a'><![CDATA[<b>]]></a>"), Ok("<a xmlns='urn:a'>&lt;b&gt;</a>".to_owned()));
    }

    #[test]
    fn prefixes_nobody_declared_and_what_is_not_one_element_are_refused() {
        for raw in ["<p:a/>", "<a p:b=''/>", "<a><p:b/></a>", "<a><b xmlns:p='u'/><p:c/></a>"] {
            assert_eq!(read_one(raw), Err(NotStandalone::Malformed), "{raw}");
        }
        for raw in ["", "text", "<a>", "<a></b>", "<a/><b/>", "<a/>text", "<!-- c -->", "<a><!-- c --></a>", "<a b/>"] {
            assert_eq!(read_one(raw), Err(NotStandalone::Malformed), "{raw}");
        }
    }

    #[test]
    fn the_bound_is_on_what_was_sent_and_on_what_is_written() {
        let raw = "<a xmlns='urn:a'><![CDATA[&]]></a>";
        let written = "<a xmlns='urn:a'>&amp;</a>".len();
        let read = |bytes_max| Standalone::read(raw, "", bytes_max).map(|element| element.xml.len());
        assert_eq!((read(raw.len()), read(written)), (Ok(written), Err(NotStandalone::TooLong)));
        let raw = "<a><b/><b/></a>";
        let each = "<b xmlns='urn:long'/>".len();
        let children = |bytes_max| Standalone::read_children(raw, "urn:long", bytes_max).map(|found| found.len());
        assert_eq!(children(2 * each + 1), Ok(2));
        assert_eq!(children(2 * each - 1), Err(NotStandalone::TooLong));
    }
}
