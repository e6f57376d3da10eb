//! Scanning: where one top-level element of an XML stream ends, and that it is what XMPP allows.
//!
//! Called by [`crate::stream`] and by the driver of a bound session with whatever plaintext arrived. One pass notes names,
//! attributes and children as ranges of the input; when the element is complete its bytes are checked to be UTF-8 and
//! legal characters, and become an [`Element`]. A partial element is never scanned from its beginning again: each stage
//! goes on where it stopped, so the verdict on some bytes does not depend on how they arrived. Holds no byte of the input
//! and knows nothing of TLS, sessions or routing.
//!
//! Spec: RFC 6120 §11 (XML usage), §13.12 (denial of service), XML 1.0, Namespaces in XML 1.0.
#![expect(clippy::indexing_slicing, reason = "positions come from searches in the very slice they index")]

use memchr::memchr;

use super::chars::{
    CLASS, Name, START, are_chars, decode, find3, is_plain, is_space, name, reference, simple_name, skip_gap,
    skip_space,
};
use super::element::{AttrMark, ChildMark, DeclMark, Marks, Span, Uri, header_bit};
use super::{Attr, Element, StreamHeader, StreamNamespaces};
use crate::limits::ScanLimits;
use crate::ns;

/// What is wrong with the bytes. The stream error each ends in is given by [`crate::stream::Violation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XmlError {
    /// Not well-formed XML, or not well-formed with namespaces.
    NotWellFormed,
    /// Not UTF-8, or an encoding declaration that says so.
    Encoding,
    /// Comment, processing instruction, DTD or entity reference beyond the five (RFC 6120 §11.1).
    Restricted,
    /// Text other than white space between top-level elements.
    TextBetween,
    /// One of [`ScanLimits`] was reached; the name of the limit. Also `reference_bytes_max`, which is fixed.
    Limit(&'static str),
}

/// One top-level event of a stream.
#[derive(Debug)]
pub enum Scanned<'a> {
    /// Nothing complete in the input. The first `skip` bytes (white space) are done with; keep the rest and call
    /// again with it plus at least one more byte.
    Incomplete {
        /// Bytes of leading white space consumed.
        skip: usize,
    },
    /// A complete element; `consumed` bytes of the input, leading white space included, are done with.
    Element {
        /// The element.
        element: Element<'a>,
        /// Bytes consumed.
        consumed: usize,
    },
    /// `</stream:stream>` (whatever prefix the header had).
    Close {
        /// Bytes consumed.
        consumed: usize,
    },
}

/// Scans a stream's bytes. Its working memory is reused from element to element and may serve many streams, as long as
/// a stream whose element is incomplete keeps the scanner it was begun with (or calls [`Scanner::reset`] and rescans).
#[derive(Debug, Default)]
pub struct Scanner {
    stage: Stage,
    /// Where the stage goes on. Positions count from the element's first byte, in a header from the input's.
    at: usize,
    /// Bytes of a partial element whose characters are checked.
    checked: usize,
    tag: Tag,
    elements: u16,
    open: Vec<Open>,
    /// The tag's attributes with a prefix, while they are compared.
    prefixed: Vec<(Name, Uri)>,
    marks: Marks,
}

/// What is being read; where white space may follow, it may have begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// Between top-level elements, or before a header.
    #[default]
    Between,
    /// A header's XML declaration is done with.
    Declared,
    Text,
    Cdata,
    StartName,
    /// Behind a name or a value in a start tag.
    Gap,
    /// Behind white space in a start tag.
    Spaced,
    AttrName,
    Equals,
    Quote,
    /// In a value between apostrophes.
    Single,
    /// In a value between quotation marks.
    Double,
    /// Behind the `/` of an empty-element tag.
    Slash,
    EndName,
    EndSpace,
}

/// An [`XmlError`] in a byte, which keeps the scanner's results in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    NotWellFormed,
    Encoding,
    Restricted,
    StanzaBytes,
    Elements,
    Depth,
    Attributes,
    AttributeBytes,
    NameBytes,
    ReferenceBytes,
    Namespaces,
}

impl From<Fault> for XmlError {
    fn from(fault: Fault) -> Self {
        Self::Limit(match fault {
            Fault::NotWellFormed => return Self::NotWellFormed,
            Fault::Encoding => return Self::Encoding,
            Fault::Restricted => return Self::Restricted,
            Fault::StanzaBytes => "stanza_bytes_max",
            Fault::Elements => "elements_max",
            Fault::Depth => "depth_max",
            Fault::Attributes => "attributes_max",
            Fault::AttributeBytes => "attribute_bytes_max",
            Fault::NameBytes => "name_bytes_max",
            Fault::ReferenceBytes => "reference_bytes_max",
            Fault::Namespaces => "namespaces_max",
        })
    }
}

/// Why the stages do not go on.
enum Exit {
    /// The input ended; the stage goes on here when there is more.
    Pause(usize),
    /// The top-level element ends here.
    Done(usize),
    /// The stream's end tag ends here.
    Closed(usize),
    /// The input is refused.
    Refused(Fault),
}

impl From<Fault> for Exit {
    fn from(fault: Fault) -> Self {
        Self::Refused(fault)
    }
}

/// Where the next stage begins.
type Step = Result<usize, Exit>;

/// The start tag being read.
#[derive(Debug, Clone, Copy, Default)]
struct Tag {
    /// Its `<`.
    start: usize,
    name: Name,
    attr: Name,
    /// Where the value of `attr` begins.
    value: usize,
    attrs_base: usize,
    decls_base: usize,
    /// How many attributes it has so far, declarations included.
    attributes: u16,
    /// A bit for each attribute name seen, to look for duplicates only where there may be one.
    seen: u64,
    /// Whether an attribute has a prefix.
    prefixed: bool,
}

/// An element whose end tag is awaited.
#[derive(Debug, Clone, Copy)]
struct Open {
    name: Name,
    decls_base: u32,
}

/// What a pass is given.
#[derive(Clone, Copy)]
struct Given<'g> {
    input: &'g [u8],
    limits: &'g ScanLimits,
    /// `None` while the header itself is read.
    header: Option<&'g StreamNamespaces>,
}

/// Longest XML declaration looked at, in bytes.
const DECLARATION_BYTES_MAX: usize = 256;
/// The namespace of the prefix `xmlns` (Namespaces in XML §3).
const XMLNS: &str = "http://www.w3.org/2000/xmlns/";
const CDATA: &[u8] = b"<![CDATA[";

/// Whether input is nothing but what may be between stanzas: white space (RFC 6120 §11.7).
pub fn is_gap(input: &[u8]) -> bool {
    skip_gap(input) == input.len()
}

impl Scanner {
    /// A scanner; allocates nothing until used.
    pub fn new() -> Self {
        Self::default()
    }
    /// Forgets the partial element, keeps the working memory.
    pub fn reset(&mut self) {
        self.stage = Stage::Between;
        self.at = 0;
        self.checked = 0;
        self.elements = 0;
        self.open.clear();
        self.marks.clear();
    }

    /// Bytes of memory it holds beside itself.
    pub fn heap_bytes(&self) -> usize {
        self.open.capacity() * size_of::<Open>()
            + self.prefixed.capacity() * size_of::<(Name, Uri)>()
            + self.marks.heap_bytes()
    }

    /// Gives back the memory it holds for elements larger than the one it has begun on.
    pub fn shrink(&mut self) {
        self.open.shrink_to_fit();
        self.prefixed = Vec::new();
        self.marks.shrink();
    }

    /// Scans for the XML declaration (optional) and the stream's opening tag. `None`: incomplete, keep all bytes.
    ///
    /// # Errors
    /// [`XmlError`].
    pub fn header<'a>(
        &'a mut self,
        limits: &ScanLimits,
        input: &'a [u8],
    ) -> Result<Option<(StreamHeader<'a>, StreamNamespaces, usize)>, XmlError> {
        match self.scan_header(limits, input) {
            Ok(None) => Ok(None),
            Ok(Some(text)) => {
                self.finish();
                Ok(Some(self.header_view(text)))
            }
            Err(fault) => {
                self.reset();
                Err(fault.into())
            }
        }
    }

    /// Scans for the next top-level element. Resumes where the last `Incomplete` left off: `input` must then begin with
    /// the bytes it was told to keep.
    ///
    /// # Errors
    /// [`XmlError`].
    pub fn next<'a>(
        &'a mut self,
        limits: &ScanLimits,
        ns: &'a StreamNamespaces,
        input: &'a [u8],
    ) -> Result<Scanned<'a>, XmlError> {
        let skip = if self.stage == Stage::Between { skip_gap(input) } else { 0 };
        let input = &input[skip..];
        if self.stage == Stage::Between {
            self.reset();
            match input.first() {
                None => return Ok(Scanned::Incomplete { skip }),
                Some(b'<') => self.stage = Stage::Text,
                Some(_) => return Err(XmlError::TextBetween),
            }
        }
        match self.scan(limits, Some(ns), input) {
            Ok(None) => Ok(Scanned::Incomplete { skip }),
            Ok(Some((text, End::Element))) => {
                self.finish();
                let element = Element::new(text, &self.marks, ns);
                Ok(Scanned::Element { element, consumed: skip + text.len() })
            }
            Ok(Some((text, End::Stream))) => {
                self.finish();
                Ok(Scanned::Close { consumed: skip + text.len() })
            }
            Err(fault) => {
                self.reset();
                Err(fault.into())
            }
        }
    }

    /// Leaves the marks to be read.
    fn finish(&mut self) {
        self.stage = Stage::Between;
        self.at = 0;
    }

    fn scan_header<'i>(&mut self, limits: &ScanLimits, input: &'i [u8]) -> Result<Option<&'i str>, Fault> {
        if self.stage == Stage::Between {
            if self.at == 0 {
                self.reset();
            }
            let begin = skip_space(input, self.at);
            self.at = begin;
            let Some(length) = declaration(&input[begin..])? else { return self.pause(limits, input).map(|()| None) };
            self.at = begin + length;
            self.stage = Stage::Declared;
        }
        if self.stage == Stage::Declared {
            let begin = skip_space(input, self.at);
            self.at = begin;
            match &input[begin..] {
                [] | [b'<'] => return self.pause(limits, input).map(|()| None),
                [b'<', byte, ..] if CLASS[usize::from(*byte)] & START != 0 => {
                    self.begin_tag(begin, limits)?;
                    self.stage = Stage::StartName;
                    self.at = begin + 1;
                }
                [b'<', b'!' | b'?', ..] => return Err(Fault::Restricted),
                _ => return Err(Fault::NotWellFormed),
            }
        }
        Ok(self.scan(limits, None, input)?.map(|(text, _)| text))
    }

    /// Runs the stages over what there is of the element. `None`: it is incomplete, and where to go on is noted.
    #[inline(always)]
    fn scan<'i>(
        &mut self,
        limits: &ScanLimits,
        header: Option<&StreamNamespaces>,
        input: &'i [u8],
    ) -> Result<Option<(&'i str, End)>, Fault> {
        // What lies behind the limit is not looked at.
        let bytes_max = limits.stanza_bytes_max as usize;
        let given = Given { input: &input[..input.len().min(bytes_max)], limits, header };
        let (mut stage, mut at) = (self.stage, self.at);
        let exit = loop {
            let step = match stage {
                Stage::Text => self.text(given, &mut stage, at),
                Stage::Cdata => cdata(given.input, &mut stage, at),
                Stage::EndName | Stage::EndSpace => self.end_tag(given, &mut stage, at),
                // A header left off and something else was asked for.
                Stage::Between | Stage::Declared => return Err(Fault::NotWellFormed),
                Stage::StartName
                | Stage::Gap
                | Stage::Spaced
                | Stage::AttrName
                | Stage::Equals
                | Stage::Quote
                | Stage::Single
                | Stage::Double
                | Stage::Slash => self.start_tag(given, &mut stage, at),
            };
            match step {
                Ok(next) => at = next,
                Err(exit) => break exit,
            }
        };
        let (end, what) = match exit {
            Exit::Done(end) => (end, End::Element),
            Exit::Closed(end) => (end, End::Stream),
            Exit::Refused(fault) => return Err(fault),
            Exit::Pause(at) => {
                (self.stage, self.at) = (stage, at);
                self.pause(limits, input)?;
                return Ok(None);
            }
        };
        let whole = &input[..end];
        let text = simdutf8::basic::from_utf8(whole).map_err(|_| Fault::Encoding)?;
        if !are_chars(whole) {
            return Err(Fault::NotWellFormed);
        }
        Ok(Some((text, what)))
    }

    /// The input ended inside the element: refuses what is too long already, and characters that can't be.
    fn pause(&mut self, limits: &ScanLimits, input: &[u8]) -> Result<(), Fault> {
        if input.len() > limits.stanza_bytes_max as usize {
            return Err(Fault::StanzaBytes);
        }
        let fresh = &input[self.checked..];
        let complete = match simdutf8::compat::from_utf8(fresh) {
            Ok(_) => fresh,
            Err(error) if error.error_len().is_none() => &fresh[..error.valid_up_to()],
            Err(_) => return Err(Fault::Encoding),
        };
        if !are_chars(complete) {
            return Err(Fault::NotWellFormed);
        }
        self.checked += complete.len();
        Ok(())
    }

    /// Character data, up to markup that is known for what it is.
    #[inline(always)]
    fn text(&mut self, given: Given<'_>, stage: &mut Stage, mut at: usize) -> Step {
        let input = given.input;
        loop {
            let hit = match input.get(at) {
                Some(b'<') => at,
                _ => match find3(input, at, [b'<', b'&', b']']) {
                    Some(hit) => hit,
                    None => return Err(Exit::Pause(input.len())),
                },
            };
            match input[hit] {
                b'<' => return self.markup(given, stage, hit),
                b'&' => match reference(&input[hit..])? {
                    Some(length) => at = hit + length,
                    None => return Err(Exit::Pause(hit)),
                },
                _ => match &input[hit + 1..] {
                    [b']', b'>', ..] => return Err(Fault::NotWellFormed.into()),
                    [] | [b']'] => return Err(Exit::Pause(hit)),
                    _ => at = hit + 1,
                },
            }
        }
    }

    /// What a `<` begins.
    #[inline(always)]
    fn markup(&mut self, given: Given<'_>, stage: &mut Stage, at: usize) -> Step {
        match given.input.get(at + 1) {
            None => Err(Exit::Pause(at)),
            Some(b'/') => {
                *stage = Stage::EndName;
                Ok(at + 2)
            }
            Some(b'!') => self.declared(given.input, stage, at),
            Some(b'?') => Err(Fault::Restricted.into()),
            Some(&byte) if CLASS[usize::from(byte)] & START != 0 => {
                self.begin_tag(at, given.limits)?;
                *stage = Stage::StartName;
                Ok(at + 1)
            }
            Some(_) => Err(Fault::NotWellFormed.into()),
        }
    }

    /// `<!`: a CDATA section inside an element; comments and DTDs are refused at their third byte (RFC 6120 §11.1).
    #[cold]
    fn declared(&mut self, input: &[u8], stage: &mut Stage, at: usize) -> Step {
        let markup = &input[at..];
        match markup.get(2) {
            None => Err(Exit::Pause(at)),
            Some(b'[') if self.open.is_empty() => Err(Fault::NotWellFormed.into()),
            Some(b'[') if markup.starts_with(CDATA) => {
                self.marks.has_cdata = true;
                *stage = Stage::Cdata;
                Ok(at + CDATA.len())
            }
            Some(b'[') if CDATA.starts_with(markup) => Err(Exit::Pause(at)),
            Some(b'-' | b'A'..=b'Z') => Err(Fault::Restricted.into()),
            Some(_) => Err(Fault::NotWellFormed.into()),
        }
    }

    fn begin_tag(&mut self, start: usize, limits: &ScanLimits) -> Result<(), Fault> {
        if self.elements >= limits.elements_max {
            return Err(Fault::Elements);
        }
        if self.open.len() >= usize::from(limits.depth_max) {
            return Err(Fault::Depth);
        }
        self.elements += 1;
        let (attrs_base, decls_base) = (self.marks.attrs.len(), self.marks.decls.len());
        self.tag = Tag { start, attrs_base, decls_base, ..Tag::default() };
        Ok(())
    }

    /// A start tag from its name to its `>`.
    #[inline(always)]
    fn start_tag(&mut self, given: Given<'_>, stage: &mut Stage, mut at: usize) -> Step {
        let Given { input, limits, .. } = given;
        let mut tag = self.tag;
        let pause = |scanner: &mut Self, tag, at| {
            scanner.tag = tag;
            Err(Exit::Pause(at))
        };
        if *stage == Stage::StartName {
            let Some((name, end)) = name(input, tag.start + 1, at, limits.name_bytes_max)? else {
                return pause(self, tag, input.len());
            };
            tag.name = name;
            at = end;
            *stage = Stage::Gap;
        }
        loop {
            if matches!(*stage, Stage::Gap | Stage::Spaced) {
                let Some(&byte) = input.get(at) else { return pause(self, tag, at) };
                if byte == b' '
                    && let Some((name, end)) = usual_attr(input, at + 1, limits)
                {
                    tag.attr = name;
                    tag.value = name.range().end + 2;
                    self.attribute(given, &mut tag, end)?;
                    at = end + 1;
                    *stage = Stage::Gap;
                    continue;
                }
                match byte {
                    b' ' | b'\t' | b'\n' | b'\r' => {
                        at = skip_space(input, at + 1);
                        *stage = Stage::Spaced;
                        continue;
                    }
                    b'>' => return self.opened(given, stage, tag, at + 1, false),
                    b'/' => {
                        at += 1;
                        *stage = Stage::Slash;
                    }
                    _ if *stage == Stage::Spaced && CLASS[usize::from(byte)] & START != 0 => {
                        tag.value = at;
                        *stage = Stage::AttrName;
                    }
                    _ => return Err(Fault::NotWellFormed.into()),
                }
            }
            if *stage == Stage::Slash {
                return match input.get(at) {
                    None => pause(self, tag, at),
                    Some(b'>') => self.opened(given, stage, tag, at + 1, true),
                    Some(_) => Err(Fault::NotWellFormed.into()),
                };
            }
            if *stage == Stage::AttrName {
                let Some((name, end)) = name(input, tag.value, at, limits.name_bytes_max)? else {
                    return pause(self, tag, input.len());
                };
                tag.attr = name;
                at = end;
                *stage = Stage::Equals;
            }
            if *stage == Stage::Equals {
                at = skip_space(input, at);
                match input.get(at) {
                    None => return pause(self, tag, at),
                    Some(b'=') => at += 1,
                    Some(_) => return Err(Fault::NotWellFormed.into()),
                }
                *stage = Stage::Quote;
            }
            if *stage == Stage::Quote {
                at = skip_space(input, at);
                match input.get(at) {
                    None => return pause(self, tag, at),
                    Some(b'\'') => *stage = Stage::Single,
                    Some(b'"') => *stage = Stage::Double,
                    Some(_) => return Err(Fault::NotWellFormed.into()),
                }
                at += 1;
                tag.value = at;
            }
            // The quote is a constant in either search.
            let (end, from) = if *stage == Stage::Single { value(input, b'\'', at)? } else { value(input, b'"', at)? };
            if end.unwrap_or(input.len()) - tag.value > limits.attribute_bytes_max as usize {
                return Err(Fault::AttributeBytes.into());
            }
            let Some(end) = end else { return pause(self, tag, from) };
            self.attribute(given, &mut tag, end)?;
            at = end + 1;
            *stage = Stage::Gap;
        }
    }

    /// Takes the attribute whose value ends here.
    #[inline(always)]
    fn attribute(&mut self, given: Given<'_>, tag: &mut Tag, end: usize) -> Result<(), Fault> {
        let input = given.input;
        let mark = AttrMark { name: tag.attr, value: Span::new(tag.value, end) };
        if tag.attributes == given.limits.attributes_max {
            return Err(Fault::Attributes);
        }
        tag.attributes += 1;
        let name = &input[tag.attr.range()];
        let (Some(first), Some(last)) = (name.first(), name.last()) else { return Err(Fault::NotWellFormed) };
        if *first == b'x' && (name == b"xmlns" || name.starts_with(b"xmlns:")) {
            return self.declaration(given, tag.decls_base, mark);
        }
        let bit = 1u64 << ((first ^ last.rotate_left(3) ^ name.len() as u8) & 63);
        if tag.seen & bit != 0
            && self.marks.attrs[tag.attrs_base..].iter().any(|other| &input[other.name.range()] == name)
        {
            return Err(Fault::NotWellFormed);
        }
        tag.seen |= bit;
        tag.prefixed |= tag.attr.prefix_len() != 0;
        self.marks.attrs.push(mark);
        Ok(())
    }

    /// Takes a namespace declaration (Namespaces in XML §3).
    #[inline(never)]
    fn declaration(&mut self, given: Given<'_>, decls_base: usize, mark: AttrMark) -> Result<(), Fault> {
        let input = given.input;
        let in_header = given.header.map_or(0, |header| header.extra().len());
        if self.marks.decls.len() + in_header >= usize::from(given.limits.namespaces_max) {
            return Err(Fault::Namespaces);
        }
        let local = mark.name.local();
        let prefix = if mark.name.prefix_len() == 0 { Span::default() } else { Span::new(local.start, local.end) };
        let name = &input[prefix.range()];
        if self.marks.decls[decls_base..].iter().any(|other| &input[other.prefix.range()] == name) {
            return Err(Fault::NotWellFormed);
        }
        let raw = simdutf8::basic::from_utf8(&input[mark.value.range()]).map_err(|_| Fault::Encoding)?;
        let uri = if is_plain(raw, true) {
            Uri::Input(mark.value)
        } else {
            let start = self.marks.decoded.len();
            decode(&mut self.marks.decoded, raw, true);
            Uri::Decoded(Span::new(start, self.marks.decoded.len()))
        };
        let text = if let Uri::Decoded(span) = uri { &self.marks.decoded[span.range()] } else { raw };
        let allowed = match name {
            b"xml" => text == ns::XML,
            b"xmlns" => false,
            b"" => text != ns::XML && text != XMLNS,
            _ => !text.is_empty() && text != ns::XML && text != XMLNS,
        };
        if !allowed {
            return Err(Fault::NotWellFormed);
        }
        self.marks.decls.push(DeclMark { prefix, raw: mark.value, uri });
        Ok(())
    }

    /// A start tag is complete: resolves its prefixes and enters the element.
    #[inline(always)]
    fn opened(&mut self, given: Given<'_>, stage: &mut Stage, tag: Tag, end: usize, is_empty: bool) -> Step {
        *stage = Stage::Text;
        let depth = self.open.len() + 1;
        let name = tag.name;
        let mut uri = Uri::None;
        if name.prefix_len() != 0 || depth <= 2 {
            uri = self.resolve(given, name)?;
        }
        if tag.prefixed {
            self.check_prefixed(given, tag.attrs_base)?;
        }
        if depth == 1 {
            self.marks.name = name;
            self.marks.ns = uri;
            self.marks.content = Span::new(end, end);
            if given.header.is_none() {
                return Err(if is_empty { Fault::NotWellFormed.into() } else { Exit::Done(end) });
            }
            if is_empty {
                return Err(Exit::Done(end));
            }
        } else {
            self.marks.attrs.truncate(tag.attrs_base);
            if depth == 2 {
                let (whole, content) = (Span::new(tag.start, end), Span::new(end, end));
                self.marks.children.push(ChildMark { name, ns: uri, whole, content });
            }
            if is_empty {
                self.marks.decls.truncate(tag.decls_base);
                return Ok(end);
            }
        }
        self.open.push(Open { name, decls_base: tag.decls_base as u32 });
        Ok(end)
    }

    /// The namespace of an element or of a prefixed attribute; a prefix must be declared (Namespaces in XML §5).
    #[inline]
    fn resolve(&mut self, given: Given<'_>, name: Name) -> Result<Uri, Fault> {
        let prefix = &given.input[name.prefix()];
        let own = self.marks.decls.iter().rev().find(|mark| &given.input[mark.prefix.range()] == prefix);
        if let Some(mark) = own {
            return Ok(mark.uri);
        }
        if prefix == b"xml" {
            return Ok(Uri::Xml);
        }
        let uri = match given.header {
            Some(header) => header.resolve(prefix),
            None => prefix.is_empty().then_some(Uri::None),
        };
        if let Some(Uri::Header(index)) = uri {
            self.marks.header_prefixes |= header_bit(index as usize);
        }
        uri.ok_or(Fault::NotWellFormed)
    }

    /// Checks that the prefixes of the tag's attributes are declared, and that no two attributes are the same once they
    /// are resolved (Namespaces in XML §6.3).
    #[inline(never)]
    fn check_prefixed(&mut self, given: Given<'_>, attrs_base: usize) -> Result<(), Fault> {
        self.prefixed.clear();
        for at in attrs_base..self.marks.attrs.len() {
            let name = self.marks.attrs[at].name;
            if name.prefix_len() == 0 {
                continue;
            }
            let uri = self.resolve(given, name)?;
            let is_same = |&(other, before): &(Name, Uri)| {
                given.input[other.local()] == given.input[name.local()]
                    && self.uri_bytes(given, before) == self.uri_bytes(given, uri)
            };
            if self.prefixed.iter().any(is_same) {
                return Err(Fault::NotWellFormed);
            }
            self.prefixed.push((name, uri));
        }
        Ok(())
    }

    fn uri_bytes<'s>(&'s self, given: Given<'s>, uri: Uri) -> &'s [u8] {
        match uri {
            Uri::Input(span) => &given.input[span.range()],
            Uri::None | Uri::Decoded(_) | Uri::Default | Uri::Stream | Uri::Xml | Uri::Header(_) => {
                self.marks.resolved(uri, "", given.header).as_bytes()
            }
        }
    }

    /// An end tag; `at` is behind its `</`, or in the white space behind its name.
    #[inline(always)]
    fn end_tag(&mut self, given: Given<'_>, stage: &mut Stage, mut at: usize) -> Step {
        let input = given.input;
        let start = at - 2;
        if *stage == Stage::EndName {
            let expected = match (self.open.last(), given.header) {
                (Some(open), _) => &input[open.name.range()],
                (None, Some(header)) => header.stream_name().as_bytes(),
                (None, None) => return Err(Fault::NotWellFormed.into()),
            };
            let rest = &input[at..];
            if !rest.starts_with(expected) {
                let may_become = expected.starts_with(rest);
                return Err(if may_become { Exit::Pause(at) } else { Fault::NotWellFormed.into() });
            }
            at += expected.len();
            if self.open.len() <= 2 {
                self.tag.start = start;
            }
        }
        if input.get(at) != Some(&b'>') {
            at = skip_space(input, at);
            match input.get(at) {
                None => {
                    *stage = Stage::EndSpace;
                    return Err(Exit::Pause(at));
                }
                Some(b'>') => {}
                Some(_) => return Err(Fault::NotWellFormed.into()),
            }
        }
        let end = at + 1;
        let Some(open) = self.open.pop() else { return Err(Exit::Closed(end)) };
        match self.open.len() {
            0 => {
                self.marks.content = Span::new(self.marks.content.range().start, self.tag.start);
                return Err(Exit::Done(end));
            }
            1 => {
                if let Some(child) = self.marks.children.last_mut() {
                    child.content = Span::new(child.content.range().start, self.tag.start);
                    child.whole = Span::new(child.whole.range().start, end);
                }
            }
            _ => {}
        }
        self.marks.decls.truncate(open.decls_base as usize);
        *stage = Stage::Text;
        Ok(end)
    }

    fn header_view<'a>(&'a self, text: &'a str) -> (StreamHeader<'a>, StreamNamespaces, usize) {
        let marks = &self.marks;
        let declared =
            || marks.decls.iter().map(|mark| (&text[mark.prefix.range()], marks.resolved(mark.uri, text, None)));
        let attr = |prefix: &str, name: &str| {
            let attrs = marks.attrs.iter().map(|mark| mark.view(text));
            attrs.into_iter().find(|attr: &Attr<'a>| attr.name == name && attr.prefix == prefix)
        };
        let header = StreamHeader {
            name: &text[marks.name.local()],
            ns: marks.resolved(marks.ns, text, None),
            default_ns: declared().find(|(prefix, _)| prefix.is_empty()).map_or("", |(_, uri)| uri),
            prefix: &text[marks.name.prefix()],
            to: attr("", "to"),
            from: attr("", "from"),
            id: attr("", "id"),
            version: attr("", "version"),
            lang: attr("xml", "lang"),
        };
        (header, StreamNamespaces::new(&text[marks.name.range()], declared()), text.len())
    }
}

/// What ended.
enum End {
    Element,
    Stream,
}

/// The usual attribute, `name='value'` without prefix or reference, in one go: its name and where its value ends. `None`
/// sends the caller through the stages.
#[inline(always)]
fn usual_attr(input: &[u8], start: usize, limits: &ScanLimits) -> Option<(Name, usize)> {
    let name = simple_name(input, start, limits.name_bytes_max)?;
    let begin = name.range().end + 2;
    let end = match input.get(begin - 2..begin)? {
        b"='" => find3(input, begin, [b'\'', b'<', b'&']).filter(|&end| input[end] == b'\'')?,
        b"=\"" => find3(input, begin, [b'"', b'<', b'&']).filter(|&end| input[end] == b'"')?,
        _ => return None,
    };
    (end - begin <= limits.attribute_bytes_max as usize).then_some((name, end))
}

/// Finds the quote that ends a value and checks what stands before it. If the input ends first, the second position is
/// where to go on.
#[inline(always)]
fn value(input: &[u8], quote: u8, mut at: usize) -> Result<(Option<usize>, usize), Fault> {
    loop {
        let Some(hit) = find3(input, at, [quote, b'<', b'&']) else { return Ok((None, input.len())) };
        match input[hit] {
            b'<' => return Err(Fault::NotWellFormed),
            b'&' => match reference(&input[hit..])? {
                Some(length) => at = hit + length,
                None => return Ok((None, hit)),
            },
            _ => return Ok((Some(hit), hit)),
        }
    }
}

/// A CDATA section from `at` to its `]]>`.
#[cold]
fn cdata(input: &[u8], stage: &mut Stage, mut at: usize) -> Step {
    while let Some(offset) = memchr(b']', &input[at..]) {
        let hit = at + offset;
        match &input[hit + 1..] {
            [b']', b'>', ..] => {
                *stage = Stage::Text;
                return Ok(hit + 3);
            }
            [] | [b']'] => return Err(Exit::Pause(hit)),
            _ => at = hit + 1,
        }
    }
    Err(Exit::Pause(input.len()))
}

/// The length of the XML declaration a stream begins with (XML 1.0 §2.8), 0 if there is none, `None` if the input ends
/// first. What is not XML in UTF-8 is refused at its first or second byte.
///
/// Differs from XML 1.0 §2.8: white space before the declaration is let pass, since it may belong to the stream before a
/// restart.
fn declaration(input: &[u8]) -> Result<Option<usize>, Fault> {
    const BEGIN: &[u8] = b"<?xml";
    match input {
        [] | [b'<'] => return Ok(None),
        [b'<', b'?', ..] => {}
        // UTF-16 of either order, byte order marks.
        [0 | 0x80.., ..] | [b'<', 0, ..] => return Err(Fault::Encoding),
        [b'<', ..] => return Ok(Some(0)),
        _ => return Err(Fault::NotWellFormed),
    }
    let seen = input.len().min(BEGIN.len());
    if input[..seen] != BEGIN[..seen] || input.get(BEGIN.len()).is_some_and(|&byte| !is_space(byte)) {
        return Err(Fault::Restricted);
    }
    let looked_at = &input[..input.len().min(DECLARATION_BYTES_MAX)];
    let Some(end) = memchr(b'>', looked_at) else {
        let hopeless = looked_at.len() == DECLARATION_BYTES_MAX || looked_at[1..].contains(&b'<');
        return if hopeless { Err(Fault::NotWellFormed) } else { Ok(None) };
    };
    let inside = looked_at[BEGIN.len()..end].strip_suffix(b"?").ok_or(Fault::NotWellFormed)?;
    check_declaration(std::str::from_utf8(inside).map_err(|_| Fault::Encoding)?)?;
    Ok(Some(end + 1))
}

/// Checks `version`, then `encoding`, then `standalone`; only the first must be there (XML 1.0 §2.8; RFC 6120 §11.5,
/// §11.6).
fn check_declaration(mut rest: &str) -> Result<(), Fault> {
    const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];
    let mut last = 0;
    loop {
        let trimmed = rest.trim_start_matches(SPACE);
        if trimmed.is_empty() {
            return if last == 0 { Err(Fault::NotWellFormed) } else { Ok(()) };
        }
        let (name, value) = trimmed.split_once('=').ok_or(Fault::NotWellFormed)?;
        let value = value.trim_start_matches(SPACE);
        let quote = value.chars().next().filter(|c| matches!(c, '\'' | '"')).ok_or(Fault::NotWellFormed)?;
        let (value, after) = value[1..].split_once(quote).ok_or(Fault::NotWellFormed)?;
        let order = match (name.trim_end_matches(SPACE), value) {
            ("version", "1.0") => 1,
            ("encoding", value) if value.eq_ignore_ascii_case("utf-8") => 2,
            ("encoding", _) => return Err(Fault::Encoding),
            ("standalone", "yes" | "no") => 3,
            _ => return Err(Fault::NotWellFormed),
        };
        let in_order = order > last && (order == 1) == (last == 0) && rest.len() != trimmed.len();
        if !in_order {
            return Err(Fault::NotWellFormed);
        }
        last = order;
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ScanLimits = ScanLimits::AFTER_AUTH;
    const HEADER: &str = "<stream:stream to='things.example' version='1.0' xmlns='jabber:client' \
                          xmlns:stream='http://etherx.jabber.org/streams'>";

    /// What came of some bytes, without borrowing them.
    #[derive(Debug, PartialEq, Eq)]
    enum Outcome {
        Incomplete,
        Element(usize),
        Close(usize),
        Error(XmlError),
    }
    use Outcome::{Close, Error, Incomplete};

    fn whole(limits: &ScanLimits, ns: &StreamNamespaces, input: &[u8]) -> Outcome {
        match Scanner::new().next(limits, ns, input) {
            Ok(Scanned::Incomplete { .. }) => Incomplete,
            Ok(Scanned::Element { element, consumed }) => {
                assert!(input[..consumed].ends_with(element.raw().as_bytes()));
                Outcome::Element(consumed)
            }
            Ok(Scanned::Close { consumed }) => Close(consumed),
            Err(error) => Error(error),
        }
    }

    fn dripped(limits: &ScanLimits, ns: &StreamNamespaces, input: &[u8]) -> Outcome {
        let (mut scanner, mut kept) = (Scanner::new(), 0);
        for end in 1..=input.len() {
            match scanner.next(limits, ns, &input[kept..end]) {
                Ok(Scanned::Incomplete { skip }) => kept += skip,
                Ok(Scanned::Element { consumed, .. }) => return Outcome::Element(kept + consumed),
                Ok(Scanned::Close { consumed }) => return Close(kept + consumed),
                Err(error) => return Error(error),
            }
        }
        Incomplete
    }

    fn outcome_within(limits: &ScanLimits, input: &[u8]) -> Outcome {
        let ns = StreamNamespaces::default();
        let (outcome, slow) = (whole(limits, &ns, input), dripped(limits, &ns, input));
        let text = String::from_utf8_lossy(input);
        match (&outcome, &slow) {
            // The bytes that are wrong may be found in another order.
            (Error(_), Error(_)) => {}
            _ => assert_eq!(outcome, slow, "dripped differs: {text}"),
        }
        outcome
    }

    fn check(input: &str, expected: Outcome) {
        assert_eq!(outcome_within(&LIMITS, input.as_bytes()), expected, "{input}");
    }

    fn accepts(input: &str) {
        check(input, Outcome::Element(input.len()));
        check(&format!(" \r\n\t{input}<next/>"), Outcome::Element(input.len() + 4));
    }

    fn refuses(error: XmlError, inputs: &[&str]) {
        for input in inputs {
            check(input, Error(error));
        }
    }

    #[test]
    fn what_xmpp_allows_is_accepted() {
        accepts("<a/>");
        accepts("<a ></a >");
        accepts("<a\n\tb = 'c'\r\nd=\"e'f\" />");
        accepts("<message to='x@y'><body>on &amp; off &#65;&#x1F600; é漢😀 ]] ]&gt; ></body></message>");
        accepts("<a><![CDATA[ <b> & ]] ]> </a> ]]]]><![CDATA[]]></a>");
        accepts("<a b='>' c='/>' d=']]>'>></a>");
        accepts("<é:漢.1-·  xmlns:é='urn:x' é:_='1'/>");
        accepts("<a xmlns='' xmlns:p='urn:p'><p:b p:c='1' c='2' xml:lang='en'/></a>");
        accepts("<a xmlns:p='1'><b xmlns:p='2' p:x=''><p:c/></b><p:c/></a>");
        accepts("<stream:features/>");
        accepts("<a xmlns:xml='http://www.w3.org/XML/1998/namespace'/>");
        accepts("<a><a><a><a/></a><a/></a></a>");
        accepts("<a>\u{7f}\u{85}\u{fffd}\u{10ffff}\t\r\n</a>");
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        refuses(
            XmlError::NotWellFormed,
            &[
                "<>",
                "< a/>",
                "<1/>",
                "<-/>",
                "</a>",
                "</stream:streams>",
                "<a></b>",
                "<a><b></a></b>",
                "<a></a b>",
                "<a></ a>",
                "<a/ >",
                "<a b/>",
                "<a b=c/>",
                "<a b='1'c='2'/>",
                "<a b='<'/>",
                "<a b='1' b='2'/>",
                "<a b'1'/>",
                "<a =''/>",
                "<a 1b=''/>",
                "<a/b>",
                "<a'/>",
                "<a<b/>",
                "<a>]]></a>",
                "<a>]]]></a>",
                "<a>&</a>",
                "<a>& b</a>",
                "<a>&#0;</a>",
                "<a>&#xD800;</a>",
                "<a b='&#1;'/>",
                "<a>&#xFFFF;</a>",
                "<a>\u{1}</a>",
                "<a>\0</a>",
                "<a b='\u{b}'/>",
                "<a>\u{fffe}</a>",
                "<a>\u{ffff}</a>",
                "<a\u{1}/>",
                "<a><![CDATA[\u{1}]]></a>",
                "<a><![cdata[]]></a>",
                "<a><!x></a>",
                "<![CDATA[x]]>",
                "<×/>",
                "<a\u{2028}b='c'/>",
                "<a><b/></a\u{a0}>",
            ],
        );
    }

    #[test]
    fn what_is_not_well_formed_with_namespaces_is_refused() {
        refuses(
            XmlError::NotWellFormed,
            &[
                "<p:a/>",
                "<a p:b=''/>",
                "<a:b:c xmlns:a='u'/>",
                "<:a/>",
                "<a:/>",
                "<a:1 xmlns:a='u'/>",
                "<a xmlns:p='u' xmlns:q='u' p:b='' q:b=''/>",
                "<a xmlns:p='u&#58;' xmlns:q='u:' p:b='' q:b=''/>",
                "<a xmlns:p='u' xmlns:p='v'/>",
                "<a xmlns='u' xmlns='v'/>",
                "<a xmlns:p=''/>",
                "<a xmlns:xml=''/>",
                "<a xmlns:xml='urn:x'/>",
                "<a xmlns:xmlns='urn:x'/>",
                "<a xmlns:xmlns='http://www.w3.org/2000/xmlns/'/>",
                "<a xmlns='http://www.w3.org/2000/xmlns/'/>",
                "<a xmlns:p='http://www.w3.org/2000/xmlns/'/>",
                "<a xmlns='http://www.w3.org/XML/1998/namespace'/>",
                "<xmlns:a/>",
                "<a xmlns:='u'/>",
                "<a xmlns:p='http://www.w3.org/XML/1998/names&#112;ace'/>",
                "<a xmlns:b:c='u'/>",
                "<a><b xmlns:p='u'/><p:c/></a>",
                "<a><b><p:c/></b></a>",
                "<a><b><c p:d=''/></b></a>",
            ],
        );
    }

    #[test]
    fn comments_dtds_instructions_and_entities_are_restricted() {
        refuses(
            XmlError::Restricted,
            &[
                "<!D",
                "<!DOCTYPE a>",
                "<!--",
                "<!-",
                "<?",
                "<?xml version='1.0'?>",
                "<a><!-- c --></a>",
                "<a><?pi?></a>",
                "<a>&foo;</a>",
                "<a b='&foo;'/>",
                "<a>&nbsp",
                "<a><!ENTITY x 'y'></a>",
            ],
        );
    }

    #[test]
    fn text_between_elements_is_refused() {
        refuses(XmlError::TextBetween, &["x", "  x", "&#32;", "\u{feff}<a/>", "]]>"]);
        check(" \t\r\n", Incomplete);
        check("", Incomplete);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_refused_as_they_arrive() {
        let bad: [&[u8]; 10] = [
            b"\xff",
            b"\xc0\x80",
            b"\xc1\xbf",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"\xf5",
            b"\x80",
            b"\xe2<",
            b"\xe2\x82<",
            b"\xe0\x80\x80",
        ];
        for bytes in bad {
            for (before, after) in [("<a>", "/a>"), ("<a b='", "'/>"), ("<a>x", ""), ("<a><![CDATA[", "")] {
                let input = [before.as_bytes(), bytes, after.as_bytes()].concat();
                let outcome = outcome_within(&LIMITS, &input);
                assert!(
                    matches!(outcome, Error(XmlError::Encoding | XmlError::NotWellFormed)),
                    "{input:x?} {outcome:?}"
                );
            }
        }
        assert_eq!(outcome_within(&LIMITS, b"<a>\xe2\x82"), Incomplete);
        assert_eq!(outcome_within(&LIMITS, b"<a>\xf0\x9f\x98"), Incomplete);
        // A lead byte can't swallow the markup behind it.
        let smuggled = outcome_within(&LIMITS, b"<message><body>\xe2<message to='x'/></body></message>");
        assert_eq!(smuggled, Error(XmlError::Encoding));
    }

    #[test]
    fn limits_hold_for_incomplete_elements_too() {
        let limits = ScanLimits {
            stanza_bytes_max: 100,
            elements_max: 4,
            depth_max: 3,
            attributes_max: 2,
            attribute_bytes_max: 10,
            name_bytes_max: 8,
            namespaces_max: 2,
        };
        let check = |input: &str, expected| {
            assert_eq!(outcome_within(&limits, input.as_bytes()), expected, "{input}");
        };
        let limit = |name| Error(XmlError::Limit(name));
        let body = |bytes: usize| format!("<a>{}</a>", "x".repeat(bytes - 7));
        check(&body(100), Outcome::Element(100));
        check(&format!("{}{}", " ".repeat(200), body(100)), Outcome::Element(300));
        check(&body(101), limit("stanza_bytes_max"));
        check(&format!("<a>{}", "x".repeat(98)), limit("stanza_bytes_max"));
        check("<a><b><c/><c/></b></a>", Outcome::Element(22));
        check("<a><b><c/><c/><c", limit("elements_max"));
        check("<a><b><c><d", limit("depth_max"));
        check("<a b='' c=''/>", Outcome::Element(14));
        check("<a b='' c='' d=''", limit("attributes_max"));
        check("<a b='' xmlns:c='d' d=''", limit("attributes_max"));
        check("<a b='1234567890'/>", Outcome::Element(19));
        check("<a b='12345678901", limit("attribute_bytes_max"));
        check("<a b='12345678901'/>", limit("attribute_bytes_max"));
        check("<a2345678/>", Outcome::Element(11));
        check("<a23456789", limit("name_bytes_max"));
        check("<a b23456789", limit("name_bytes_max"));
        check("<a><b xmlns='b' xmlns:c='c'/><b xmlns='b' xmlns:c='c'/></a>", Outcome::Element(59));
        check("<a xmlns='a'><b xmlns='b' xmlns:c='c'", limit("namespaces_max"));
        let deep = "<a>".repeat(100_000);
        assert_eq!(whole(&LIMITS, &StreamNamespaces::default(), deep.as_bytes()), limit("depth_max"));
    }

    #[test]
    fn the_end_of_the_stream_is_the_headers_name() {
        check("</stream:stream>", Close(16));
        check(" </stream:stream \n>x", Close(19));
        check("</stream:strea", Incomplete);
        check("</stream>", Error(XmlError::NotWellFormed));
        check("</stream:stream/>", Error(XmlError::NotWellFormed));
    }

    #[test]
    fn an_element_shows_its_parts() {
        let input = "<p:m xmlns:p='u&#58;p' xmlns='urn:d' a='1' p:a=\"2'\" xml:lang = 'en'>t&lt;<b xmlns='urn:b' c='x'>\
                     in</b><![CDATA[&]]><p:c/>\r\n<q:d xmlns:q='urn:q'/></p:m>";
        let (mut scanner, ns) = (Scanner::new(), StreamNamespaces::default());
        let scanned = scanner.next(&LIMITS, &ns, input.as_bytes());
        let Ok(Scanned::Element { element, .. }) = scanned else { panic!("{scanned:?}") };
        assert!(element.is("m", "u:p"));
        assert_eq!((element.raw(), element.prefix(), element.default_ns()), (input, "p", "urn:d"));
        let attrs: Vec<_> = element.attrs().map(|attr| (attr.prefix, attr.name, attr.raw)).collect();
        assert_eq!(attrs, [("", "a", "1"), ("p", "a", "2'"), ("xml", "lang", "en")]);
        assert_eq!((element.attr("a").map(|attr| attr.raw), element.attr("lang")), (Some("1"), None));
        let children: Vec<_> =
            element.children().map(|child| (child.name, child.ns, child.raw, child.content)).collect();
        assert_eq!(
            children,
            [
                ("b", "urn:b", "<b xmlns='urn:b' c='x'>in</b>", "in"),
                ("c", "u:p", "<p:c/>", ""),
                ("d", "urn:q", "<q:d xmlns:q='urn:q'/>", ""),
            ]
        );
        assert_eq!(element.text(), "t<&\n");
        assert!(element.has_cdata() && !element.uses_stream_prefixes());
        assert_eq!(element.declarations().collect::<Vec<_>>(), [("p", "u&#58;p"), ("", "urn:d")]);
        let read = element.children().filter_map(|child| element.read(&child)).map(|node| node.ns);
        assert_eq!(read.collect::<Vec<_>>(), ["urn:b", "u:p", "urn:q"]);
    }

    #[test]
    fn prefixes_of_the_stream_header_are_in_scope() {
        let header = HEADER.replace("version", "xmlns:x='urn:x' xmlns:y='urn:y' version");
        let mut scanner = Scanner::new();
        let (_, ns, _) = scanner.header(&LIMITS, header.as_bytes()).expect("allowed").expect("complete");
        let mut uses = |input: &str| {
            let scanned = scanner.next(&LIMITS, &ns, input.as_bytes());
            let Ok(Scanned::Element { element, .. }) = scanned else { panic!("{scanned:?}") };
            (element.uses_stream_prefixes(), element.first_child().map(|child| child.ns.to_owned()))
        };
        assert_eq!(uses("<a><x:b/></a>"), (true, Some("urn:x".to_owned())));
        assert_eq!(uses("<a><b><c x:d=''/></b></a>"), (true, Some("jabber:client".to_owned())));
        assert_eq!(uses("<a xmlns:x='urn:z'><x:b/></a>"), (false, Some("urn:z".to_owned())));
        assert_eq!(uses("<a><stream:b/></a>"), (false, Some(ns::STREAMS.to_owned())));
        assert_eq!(whole(&LIMITS, &ns, b"<a><z:b/></a>"), Error(XmlError::NotWellFormed));
    }

    /// A header's outcome, which must not depend on how it arrives.
    fn header(input: &[u8]) -> Result<Option<(String, StreamNamespaces, usize)>, XmlError> {
        let owned = |found: Option<(StreamHeader<'_>, StreamNamespaces, usize)>| {
            found.map(|(header, ns, end)| (format!("{header:?}"), ns, end))
        };
        let limits = ScanLimits::BEFORE_AUTH;
        let outcome = Scanner::new().header(&limits, input).map(owned);
        let mut scanner = Scanner::new();
        let mut slow = Ok(None);
        for end in 1..=input.len() {
            slow = scanner.header(&limits, &input[..end]).map(owned);
            if !matches!(slow, Ok(None)) {
                break;
            }
        }
        assert_eq!(outcome.is_err(), slow.is_err(), "{}", String::from_utf8_lossy(input));
        if outcome.is_ok() {
            assert_eq!(outcome, slow);
        }
        outcome
    }

    #[test]
    fn a_header_shows_its_parts() {
        let input = "\n<?xml version='1.0' encoding=\"utf-8\" standalone='yes'?>\n<s:stream xmlns:s='http://etherx.jabber.org/streams' \
                     xmlns='jabber:client' from='a@b' to='b' id='&amp;' version='1.0' xml:lang='en' lang='x' x:to='no' xmlns:x='urn:x'>";
        let mut scanner = Scanner::new();
        let (header, ns, end) = scanner.header(&LIMITS, input.as_bytes()).expect("allowed").expect("complete");
        assert_eq!((header.name, header.prefix, header.ns), ("stream", "s", ns::STREAMS));
        assert_eq!((header.default_ns, end), (ns::CLIENT, input.len()));
        let raw = |attr: Option<Attr<'_>>| attr.map(|attr| attr.raw.to_owned());
        assert_eq!((raw(header.from), raw(header.to)), (Some("a@b".to_owned()), Some("b".to_owned())));
        assert_eq!((raw(header.id), raw(header.version)), (Some("&amp;".to_owned()), Some("1.0".to_owned())));
        assert_eq!(raw(header.lang), Some("en".to_owned()));
        assert_eq!(whole(&LIMITS, &ns, b"</s:stream>"), Close(11));
        assert_eq!(whole(&LIMITS, &ns, b"</stream:stream>"), Error(XmlError::NotWellFormed));
        assert_eq!(whole(&LIMITS, &ns, b"<s:error/>"), Outcome::Element(10));
        assert_eq!(whole(&LIMITS, &ns, b"<stream:error/>"), Error(XmlError::NotWellFormed));
    }

    #[test]
    fn the_usual_header_holds_nothing_on_the_heap() {
        let (_, ns, end) = header(HEADER.as_bytes()).expect("allowed").expect("complete");
        assert_eq!((ns, end), (StreamNamespaces::default(), HEADER.len()));
        let (_, ns, _) =
            header(b"<stream xmlns='http://etherx.jabber.org/streams'>").expect("allowed").expect("complete");
        assert_eq!(whole(&LIMITS, &ns, b"</stream>"), Close(9));
        let odd = "<s:stream xmlns:s='http://etherx.jabber.org/streams' xmlns:stream='urn:x' xmlns='jabber:client'>";
        let (_, ns, _) = header(odd.as_bytes()).expect("allowed").expect("complete");
        let mut scanner = Scanner::new();
        let scanned = scanner.next(&LIMITS, &ns, b"<stream:a/>");
        let Ok(Scanned::Element { element, .. }) = scanned else { panic!("{scanned:?}") };
        assert!(element.is("a", "urn:x") && element.uses_stream_prefixes());
    }

    #[test]
    fn what_is_no_stream_is_refused_at_once() {
        let check = |input: &[u8], expected| {
            let outcome = header(input).map(|found| found.is_some());
            assert_eq!(outcome, expected, "{}", String::from_utf8_lossy(input));
        };
        check(HEADER.as_bytes(), Ok(true));
        check(b"", Ok(false));
        check(b" \r\n ", Ok(false));
        check(b"<?xml version='1.0'", Ok(false));
        check(b"<?xm", Ok(false));
        check(b"<?xml version='1.0'?> ", Ok(false));
        check(b"<stream:stream xmlns='jabber", Ok(false));
        for (error, inputs) in [
            (
                XmlError::NotWellFormed,
                &[
                    &b"G"[..],
                    b"GET / HTTP/1.1\r\n",
                    b"\x16\x03\x01",
                    b"<?xml version='1.1'?>",
                    b"<?xml encoding='utf-8'?>",
                    b"<?xml version='1.0'encoding='utf-8'?>",
                    b"<?xml version='1.0' standalone='maybe'?>",
                    b"<?xml version='1.0'>",
                    b"<?xml version='1.0' standalone='no' encoding='utf-8'?>",
                    b"<?xml ?>",
                    b"<?xml version='1.0'<",
                    b"</stream:stream>",
                    b"<stream:stream xmlns:stream='urn:x'/>",
                    b"<stream:stream>",
                    b"< a>",
                    b"<?xml version='1.0'?>x",
                    b"<a b='1' b='2'>",
                    b"<a \x01='1'>",
                    b"<a b='\x01",
                    b"<a p:b=''>",
                ][..],
            ),
            (
                XmlError::Encoding,
                &[
                    &b"\xef\xbb\xbf<"[..],
                    b"\xef",
                    b"\xfe\xff",
                    b"\xff\xfe",
                    b"\0<",
                    b"<\0",
                    b"<?xml version='1.0' encoding='ISO-8859-1'?>",
                    b"<?xml version='1.0' encoding='UTF-16'?>",
                    b"<a b='\xff",
                ],
            ),
            (
                XmlError::Restricted,
                &[
                    &b"<!D"[..],
                    b"<!-",
                    b"<?x ",
                    b"<?xml-stylesheet?>",
                    b"<?php",
                    b"<?xml version='1.0'?><!DOCTYPE",
                    b"<?xml version='1.0'?><?xml version='1.0'?>",
                    b"<a b='&x;'>",
                ],
            ),
        ] {
            inputs.iter().for_each(|input| check(input, Err(error)));
        }
        let endless = [b"<?xml version='1.0' ".as_slice(), &b" ".repeat(300)].concat();
        check(&endless, Err(XmlError::NotWellFormed));
        check(&b" ".repeat(9_000), Err(XmlError::Limit("stanza_bytes_max")));
        let many = format!("<a {}", (0..40).map(|at| format!("xmlns:a{at}='u' ")).collect::<String>());
        check(many.as_bytes(), Err(XmlError::Limit("namespaces_max")));
    }

    #[test]
    fn an_element_is_written_without_some_of_its_children() {
        let input = "<a b='1'> <c/>x<d>1</d><![CDATA[<d/>]]><d/></a >";
        let (mut scanner, ns) = (Scanner::new(), StreamNamespaces::default());
        let Ok(Scanned::Element { element, .. }) = scanner.next(&LIMITS, &ns, input.as_bytes()) else { panic!() };
        let check = |name: &str, expected: &str| {
            let mut out = b"before".to_vec();
            element.write_without(&mut out, |child| child.name == name);
            assert_eq!(String::from_utf8(out).unwrap(), format!("before{expected}"));
        };
        check("c", "<a b='1'> x<d>1</d><![CDATA[<d/>]]><d/></a >");
        check("d", "<a b='1'> <c/>x<![CDATA[<d/>]]></a >");
        check("e", input);
    }

    #[test]
    fn memory_is_used_again() {
        let input = "<a xmlns:p='u&#58;' b='1' p:c='2'><d><e f='3' xmlns='&amp;'/></d><g/></a>".repeat(50);
        let (mut scanner, ns) = (Scanner::new(), StreamNamespaces::default());
        let mut rest = input.as_bytes();
        let mut held = None;
        while !rest.is_empty() {
            let scanned = scanner.next(&LIMITS, &ns, rest);
            let Ok(Scanned::Element { consumed, .. }) = scanned else { panic!("{scanned:?}") };
            rest = &rest[consumed..];
            let marks = &scanner.marks;
            let now = [
                scanner.open.capacity(),
                marks.attrs.capacity(),
                marks.decls.capacity(),
                marks.children.capacity(),
                marks.decoded.capacity(),
            ];
            assert_eq!(*held.get_or_insert(now), now);
        }
        let _ = scanner.next(&LIMITS, &ns, b"<a><b");
        scanner.reset();
        assert!(matches!(scanner.next(&LIMITS, &ns, b"<c/>"), Ok(Scanned::Element { consumed: 4, .. })));
    }

    #[test]
    fn a_dripped_element_costs_no_more_than_its_length() {
        // A quadratic scan of these would take minutes.
        let size = 200_000;
        let limits = ScanLimits { attribute_bytes_max: size as u32, ..LIMITS };
        for (before, filler, after) in [
            ("<a>", "x", "</a>"),
            ("<a>", "]", "</a>"),
            ("<a b='", "x", "'/>"),
            ("<a ", " ", "/>"),
            ("<a b", " ", "=''/>"),
            ("<a></a", " ", ">"),
            ("<a><![CDATA[", "]", "]]></a>"),
        ] {
            let input = format!("{before}{}{after}", filler.repeat(size));
            assert_eq!(dripped(&limits, &StreamNamespaces::default(), input.as_bytes()), Outcome::Element(input.len()));
        }
    }
}
