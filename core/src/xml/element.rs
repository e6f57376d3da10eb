//! What the scanner yields: views into the bytes it checked. No tree, no allocation.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use super::chars::{Name, decode, is_plain};
use super::read::Node;
use super::standalone::Standalone;
use super::tag::TagAttrs;
use crate::ns;

impl StreamNamespaces {
    /// The usual two, nothing else.
    pub const NONE: Self = Self { extra: None, unusual: None };
}

/// One attribute as written: `raw` is the text between the quotes, entity and character references untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr<'a> {
    /// The prefix, empty if none.
    pub prefix: &'a str,
    /// The local name.
    pub name: &'a str,
    /// The value as written, without its quotes. Never contains `<`; may contain `&…;` and the other quote.
    pub raw: &'a str,
}

impl<'a> Attr<'a> {
    /// The value with references resolved and white space normalised (XML 1.0 §3.3.3). Borrows unless it must change.
    pub fn value(&self) -> Cow<'a, str> {
        if is_plain(self.raw, true) {
            return Cow::Borrowed(self.raw);
        }
        let mut value = String::with_capacity(self.raw.len());
        decode(&mut value, self.raw, true);
        Cow::Owned(value)
    }
}

/// A child element one level below the top: enough to dispatch on without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child<'a> {
    /// Local name.
    pub name: &'a str,
    /// Namespace name, resolved through the prefixes in scope ("" if none).
    pub ns: &'a str,
    /// The whole child, `<` to `>`.
    pub raw: &'a str,
    /// What stands between its tags ("" for an empty-element tag).
    pub content: &'a str,
}

impl<'a> Child<'a> {
    /// Whether this is `{ns}name`.
    pub fn is(&self, name: &str, ns: &str) -> bool {
        self.name == name && self.ns == ns
    }
    /// Its attributes in document order, namespace declarations left out.
    pub fn attrs(&self) -> impl Iterator<Item = Attr<'a>> + use<'a> {
        let is_declaration =
            |attr: &Attr<'_>| attr.prefix == "xmlns" || (attr.prefix.is_empty() && attr.name == "xmlns");
        TagAttrs::of(self.raw).filter(move |attr| !is_declaration(attr))
    }
}

/// One complete, checked top-level element. Borrows the input and the scanner's working memory.
#[derive(Clone, Copy)]
pub struct Element<'a> {
    raw: &'a str,
    marks: &'a Marks,
    header: &'a StreamNamespaces,
}

impl<'a> Element<'a> {
    pub(super) fn new(raw: &'a str, marks: &'a Marks, header: &'a StreamNamespaces) -> Self {
        Self { raw, marks, header }
    }
    /// Local name.
    pub fn name(&self) -> &'a str {
        &self.raw[self.marks.name.local()]
    }
    /// Namespace name.
    pub fn ns(&self) -> &'a str {
        self.resolved(self.marks.ns)
    }
    /// Whether this is `{ns}name`.
    pub fn is(&self, name: &str, ns: &str) -> bool {
        self.name() == name && self.ns() == ns
    }
    /// The whole element, `<` to `>`.
    pub fn raw(&self) -> &'a str {
        self.raw
    }
    /// What stands between the tags, exactly as sent.
    pub fn content(&self) -> &'a str {
        &self.raw[self.marks.content.range()]
    }
    /// Its attributes in document order, namespace declarations left out.
    pub fn attrs(&self) -> impl ExactSizeIterator<Item = Attr<'a>> + 'a {
        let raw = self.raw;
        self.marks.attrs.iter().map(move |mark| mark.view(raw))
    }
    /// The attribute without prefix of that name.
    pub fn attr(&self, name: &str) -> Option<Attr<'a>> {
        self.attrs().find(|attr| attr.name == name && attr.prefix.is_empty())
    }
    /// Its child elements.
    pub fn children(&self) -> impl ExactSizeIterator<Item = Child<'a>> + 'a {
        let element = *self;
        self.marks.children.iter().map(move |mark| Child {
            name: &element.raw[mark.name.local()],
            ns: element.resolved(mark.ns),
            raw: &element.raw[mark.whole.range()],
            content: &element.raw[mark.content.range()],
        })
    }
    /// Appends the element as it came, but for the children that `leaves_out` names.
    pub fn write_without(&self, out: &mut Vec<u8>, mut leaves_out: impl FnMut(&Child<'a>) -> bool) {
        let mut at = 0;
        for (mark, child) in self.marks.children.iter().zip(self.children()) {
            if leaves_out(&child) {
                let whole = mark.whole.range();
                out.extend_from_slice(self.raw.as_bytes().get(at..whole.start).unwrap_or_default());
                at = whole.end;
            }
        }
        out.extend_from_slice(self.raw.as_bytes().get(at..).unwrap_or_default());
    }
    /// The first child, if any.
    pub fn first_child(&self) -> Option<Child<'a>> {
        self.children().next()
    }
    /// The character data directly inside, references and CDATA resolved; child elements left out.
    pub fn text(&self) -> Cow<'a, str> {
        let content = self.content();
        if self.marks.children.is_empty() && !self.has_cdata() && is_plain(content, false) {
            return Cow::Borrowed(content);
        }
        let mut text = String::new();
        let Range { start: mut at, end } = self.marks.content.range();
        for child in &self.marks.children {
            let whole = child.whole.range();
            read_text(&mut text, &self.raw[at..whole.start]);
            at = whole.end;
        }
        read_text(&mut text, &self.raw[at..end]);
        if text.is_empty() { Cow::Borrowed("") } else { Cow::Owned(text) }
    }
    /// Whether the content holds a CDATA section anywhere (rewriting then re-writes it as text).
    pub fn has_cdata(&self) -> bool {
        self.marks.has_cdata
    }
    /// Namespace declarations on the top-level element itself that its content may rely on: `(prefix, raw uri)`;
    /// prefix "" is the default namespace.
    pub fn declarations(&self) -> impl ExactSizeIterator<Item = (&'a str, &'a str)> + 'a {
        let raw = self.raw;
        self.marks.decls.iter().map(move |mark| (&raw[mark.prefix.range()], &raw[mark.raw.range()]))
    }
    /// Whether a prefix that only the stream header declares is used anywhere in the element (other than `stream`).
    pub fn uses_stream_prefixes(&self) -> bool {
        self.marks.header_prefixes != 0
    }
    /// Reads one of its children into a tree, every prefix in scope resolved. `None` if the scanner has a bug.
    pub fn read(&self, child: &Child<'a>) -> Option<Node> {
        Node::read(child.raw, self.default_ns(), |prefix| self.lookup(prefix))
    }
    /// One of its children with all declarations it borrows from around it written on it, so that it can be handed on
    /// without them. The default namespace is taken to be `jabber:client` wherever that goes. Borrows nearly always.
    /// `None` if the scanner has a bug.
    pub fn standalone(&self, child: &Child<'a>) -> Option<Cow<'a, str>> {
        let declares_prefixes = self.declarations().any(|(prefix, _)| !prefix.is_empty());
        let may_borrow = declares_prefixes || self.uses_stream_prefixes() || child.raw.contains("stream:");
        if !may_borrow && self.default_ns() == ns::CLIENT {
            return Some(Cow::Borrowed(child.raw));
        }
        let outer = |prefix: &str| self.lookup(prefix);
        let read = Standalone::read_within(child.raw, self.default_ns(), usize::MAX, outer);
        read.ok().map(|element| Cow::Owned(element.xml))
    }

    /// The prefix of the element's own name, "" if none.
    pub(crate) fn prefix(&self) -> &'a str {
        &self.raw[self.marks.name.prefix()]
    }
    /// The default namespace its content begins with.
    pub fn default_ns(&self) -> &'a str {
        self.lookup("").unwrap_or("")
    }
    /// The prefixes of its stream's header that it uses, with their namespace names.
    pub(crate) fn stream_prefixes<'h>(
        &self,
        header: &'h StreamNamespaces,
    ) -> impl Iterator<Item = (&'h str, &'h str)> + use<'a, 'h> {
        let element = *self;
        header.extra().iter().enumerate().filter_map(move |(index, (prefix, uri))| {
            let used = element.marks.header_prefixes & header_bit(index) != 0;
            let hidden = || element.declarations().any(|(own, _)| *own == **prefix);
            (used && !hidden()).then_some((&**prefix, &**uri))
        })
    }
    /// The attributes in document order: name as written with its prefix, value as written, and the text from name to
    /// closing quote if that is the compact `name='value'`, which may be copied as it is.
    pub(crate) fn attrs_written(&self) -> impl Iterator<Item = (&'a str, &'a str, Option<&'a str>)> + 'a {
        let raw = self.raw;
        self.marks.attrs.iter().map(move |mark| {
            let (name, value) = (mark.name.range(), mark.value.range());
            let compact = (value.start == name.end + 2).then(|| &raw[name.start..value.end + 1]);
            (&raw[name], &raw[value], compact)
        })
    }

    fn lookup(&self, prefix: &str) -> Option<&'a str> {
        let own = self.marks.decls.iter().rev().find(|mark| &self.raw[mark.prefix.range()] == prefix);
        own.map_or_else(|| self.header.lookup(prefix), |mark| Some(self.resolved(mark.uri)))
    }
    fn resolved(&self, uri: Uri) -> &'a str {
        self.marks.resolved(uri, self.raw, Some(self.header))
    }
}

impl fmt::Debug for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Element").field(&self.raw).finish()
    }
}

/// Appends checked character data, references and CDATA resolved.
fn read_text(out: &mut String, raw: &str) {
    let mut rest = raw;
    while let Some((before, section)) = rest.split_once("<![CDATA[") {
        decode(out, before, false);
        let (inside, after) = section.split_once("]]>").unwrap_or((section, ""));
        push_lines(out, inside);
        rest = after;
    }
    decode(out, rest, false);
}

/// Appends text in which `&` means itself, line ends normalised (XML 1.0 §2.11).
pub(super) fn push_lines(out: &mut String, text: &str) {
    let mut lines = text.split('\r');
    out.push_str(lines.next().unwrap_or(""));
    for line in lines {
        if !line.starts_with('\n') {
            out.push('\n');
        }
        out.push_str(line);
    }
}

/// A stream's opening tag (RFC 6120 §4.7), checked for well-formedness only.
#[derive(Debug, Clone, Copy)]
pub struct StreamHeader<'a> {
    /// Local name as sent; must be `stream`.
    pub name: &'a str,
    /// Namespace of the element.
    pub ns: &'a str,
    /// Default namespace declared on it ("" if none).
    pub default_ns: &'a str,
    /// Prefix of the element.
    pub prefix: &'a str,
    /// `to`.
    pub to: Option<Attr<'a>>,
    /// `from`.
    pub from: Option<Attr<'a>>,
    /// `id`.
    pub id: Option<Attr<'a>>,
    /// `version`.
    pub version: Option<Attr<'a>>,
    /// `xml:lang`.
    pub lang: Option<Attr<'a>>,
}

/// The namespace declarations in scope for every element of a stream: those of its header (RFC 6120 §4.8). A stream
/// that declares only the usual two (`jabber:client` by default, `stream` for the stream itself) holds nothing on the
/// heap; that is also the `Default`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamNamespaces {
    /// Prefixes beside `stream` and the default namespace: `(prefix, namespace name)`, references resolved.
    pub extra: Option<Box<[Declared]>>,
    /// What is not as usual; `None` on nearly every stream.
    unusual: Option<Box<Unusual>>,
}

/// A prefix and what it stands for.
type Declared = (Box<str>, Box<str>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Unusual {
    /// The header's name as written, which its end tag repeats.
    name: Box<str>,
    default_ns: Box<str>,
    /// Whether the prefix `stream` is bound to the stream's namespace.
    stream_prefix: bool,
}

impl StreamNamespaces {
    pub(super) fn new<'a>(name: &str, declared: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut extra = Vec::new();
        let mut unusual = Unusual { name: name.into(), default_ns: "".into(), stream_prefix: false };
        for (prefix, uri) in declared {
            match prefix {
                "" => unusual.default_ns = uri.into(),
                "stream" if uri == ns::STREAMS => unusual.stream_prefix = true,
                "xml" => {}
                _ => extra.push((prefix.into(), uri.into())),
            }
        }
        let usual = &*unusual.name == "stream:stream" && &*unusual.default_ns == ns::CLIENT && unusual.stream_prefix;
        Self { extra: (!extra.is_empty()).then(|| extra.into()), unusual: (!usual).then(|| Box::new(unusual)) }
    }
    /// The name the stream's end tag must have.
    pub(super) fn stream_name(&self) -> &str {
        self.unusual.as_ref().map_or("stream:stream", |unusual| &unusual.name)
    }
    pub(super) fn default_ns(&self) -> &str {
        self.unusual.as_ref().map_or(ns::CLIENT, |unusual| &unusual.default_ns)
    }
    pub(super) fn extra(&self) -> &[Declared] {
        self.extra.as_deref().unwrap_or(&[])
    }
    pub(super) fn resolve(&self, prefix: &[u8]) -> Option<Uri> {
        match prefix {
            b"" => Some(Uri::Default),
            b"stream" if self.unusual.as_ref().is_none_or(|unusual| unusual.stream_prefix) => Some(Uri::Stream),
            _ => self.extra().iter().position(|(known, _)| known.as_bytes() == prefix).map(|at| Uri::Header(at as u32)),
        }
    }
    fn lookup(&self, prefix: &str) -> Option<&str> {
        if prefix == "xml" {
            return Some(ns::XML);
        }
        self.resolve(prefix.as_bytes()).map(|uri| self.name_of(uri))
    }
    fn name_of(&self, uri: Uri) -> &str {
        match uri {
            Uri::Default => self.default_ns(),
            Uri::Stream => ns::STREAMS,
            Uri::Xml => ns::XML,
            Uri::Header(at) => self.extra().get(at as usize).map_or("", |(_, uri)| uri),
            Uri::None | Uri::Input(_) | Uri::Decoded(_) => "",
        }
    }
}

/// What one pass over an element noted: ranges of the input, nothing of its own but namespace names that had to be
/// decoded. The memory is the scanner's and used again for the next element.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub(super) name: Name,
    pub(super) ns: Uri,
    pub(super) content: Span,
    /// Of the top-level element. While a deeper tag is read, its attributes stand behind.
    pub(super) attrs: Vec<AttrMark>,
    /// Declarations in scope, innermost last. At the end those of the top-level element.
    pub(super) decls: Vec<DeclMark>,
    pub(super) children: Vec<ChildMark>,
    pub(super) decoded: String,
    pub(super) has_cdata: bool,
    /// A bit for each prefix of the stream header in use, see [`header_bit`].
    pub(super) header_prefixes: u64,
}

impl Marks {
    /// Bytes of memory they hold beside themselves.
    pub(super) fn heap_bytes(&self) -> usize {
        self.attrs.capacity() * size_of::<AttrMark>()
            + self.decls.capacity() * size_of::<DeclMark>()
            + self.children.capacity() * size_of::<ChildMark>()
            + self.decoded.capacity()
    }

    /// Gives back what they hold beyond what is in use.
    pub(super) fn shrink(&mut self) {
        self.attrs.shrink_to_fit();
        self.decls.shrink_to_fit();
        self.children.shrink_to_fit();
        self.decoded.shrink_to_fit();
    }
}

/// The bit of a header prefix in [`Marks::header_prefixes`]; the last stands for all beyond.
pub(super) fn header_bit(index: usize) -> u64 {
    1 << index.min(63)
}

impl Marks {
    pub(super) fn clear(&mut self) {
        self.attrs.clear();
        self.decls.clear();
        self.children.clear();
        self.decoded.clear();
        self.has_cdata = false;
        self.header_prefixes = 0;
    }
    /// The namespace name behind a mark.
    pub(super) fn resolved<'a>(&'a self, uri: Uri, raw: &'a str, header: Option<&'a StreamNamespaces>) -> &'a str {
        match uri {
            Uri::Input(span) => &raw[span.range()],
            Uri::Decoded(span) => &self.decoded[span.range()],
            Uri::Xml => ns::XML,
            Uri::None | Uri::Default | Uri::Stream | Uri::Header(_) => header.map_or("", |header| header.name_of(uri)),
        }
    }
}

/// A range of the input, in one word so that it moves as one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span(u64);

impl Span {
    #[inline]
    pub(super) fn new(start: usize, end: usize) -> Self {
        Self(start as u64 & 0xffff_ffff | (end as u64) << 32)
    }
    #[inline]
    pub(super) fn range(self) -> Range<usize> {
        self.0 as u32 as usize..(self.0 >> 32) as usize
    }
}

/// Where a namespace name stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Uri {
    /// There is none: no namespace.
    #[default]
    None,
    /// In the element.
    Input(Span),
    /// In [`Marks::decoded`].
    Decoded(Span),
    /// The stream's default.
    Default,
    /// The stream's own.
    Stream,
    /// That of the prefix `xml`.
    Xml,
    /// One of [`StreamNamespaces::extra`].
    Header(u32),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct AttrMark {
    pub(super) name: Name,
    pub(super) value: Span,
}

impl AttrMark {
    pub(super) fn view(self, raw: &str) -> Attr<'_> {
        Attr { prefix: &raw[self.name.prefix()], name: &raw[self.name.local()], raw: &raw[self.value.range()] }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct DeclMark {
    /// Empty for the default namespace.
    pub(super) prefix: Span,
    pub(super) raw: Span,
    pub(super) uri: Uri,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ChildMark {
    pub(super) name: Name,
    pub(super) ns: Uri,
    pub(super) whole: Span,
    pub(super) content: Span,
}
