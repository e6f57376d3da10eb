//! What other parsers make of the bytes the scanner is given, for the property tests and for fuzzing.
#![allow(unreachable_pub, reason = "a module of several crates")]
#![expect(clippy::indexing_slicing, reason = "a test may panic")]

use plaza_core::limits::ScanLimits;
use plaza_core::ns;
use plaza_core::xml::read::Node;
use plaza_core::xml::{Element, Scanned, Scanner, StreamNamespaces, XmlError};
use rxml::error::EndOrError;
use rxml::{Event, Parse, Parser};

/// The usual header of a client's stream.
pub const HEADER: &str = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";

/// An element with all there is to know of it, and nothing of how it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    pub ns: String,
    pub name: String,
    /// Local names and values, sorted.
    pub attrs: Vec<(String, String)>,
    pub text: String,
    pub children: Vec<Tree>,
}

impl Tree {
    /// Through the scanner, its children through quick-xml.
    pub fn of(element: &Element<'_>) -> Self {
        let attrs = element.attrs().map(|attr| (attr.name.to_owned(), attr.value().into_owned()));
        let children = element.children().map(|child| {
            let node = element.read(&child).expect("quick-xml accepts what the scanner accepts");
            assert_eq!((node.name.as_str(), node.ns.as_str()), (child.name, child.ns), "a child as both see it");
            Self::from(node)
        });
        let (ns, name) = (element.ns().to_owned(), element.name().to_owned());
        Self { ns, name, attrs: sorted(attrs), text: element.text().into_owned(), children: children.collect() }
    }
}

impl From<Node> for Tree {
    fn from(node: Node) -> Self {
        let local = |name: String| name.split_once(':').map(|(_, local)| local.to_owned()).unwrap_or(name);
        Self {
            attrs: sorted(node.attrs.into_iter().map(|(name, value)| (local(name), value))),
            children: node.children.into_iter().map(Self::from).collect(),
            ns: node.ns,
            name: node.name,
            text: node.text,
        }
    }
}

fn sorted(attrs: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    let mut attrs: Vec<_> = attrs.collect();
    attrs.sort();
    attrs
}

/// What comes first on a stream behind [`HEADER`].
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    Element {
        tree: Tree,
        consumed: usize,
    },
    Close,
    Incomplete,
    Refused,
    /// Character data between elements, which only XMPP forbids.
    Text,
}

/// What rxml sees.
pub fn by_rxml(input: &[u8]) -> Seen {
    let mut parser = Parser::new();
    let mut rest = HEADER.as_bytes();
    let header = parser.parse(&mut rest, false);
    assert!(matches!(header, Ok(Some(Event::StartElement(..)))), "{header:?}");
    // rxml forgets a carriage return at the end of an attribute's run of text; as a line feed it means the same
    // (XML 1.0 §2.11).
    let mut input = input.to_vec();
    for at in 0..input.len() {
        if input[at] == b'\r' && input.get(at + 1) != Some(&b'\n') {
            input[at] = b'\n';
        }
    }
    let mut rest = input.as_slice();
    let mut open: Vec<Tree> = Vec::new();
    loop {
        match parser.parse(&mut rest, false) {
            Ok(Some(Event::StartElement(_, (ns, name), attrs))) => {
                let attrs = attrs.iter().map(|((_, name), value)| (name.to_string(), value.clone()));
                let (ns, name) = (ns.to_string(), name.to_string());
                open.push(Tree { ns, name, attrs: sorted(attrs), text: String::new(), children: Vec::new() });
            }
            Ok(Some(Event::Text(_, text))) => match open.last_mut() {
                Some(tree) => tree.text.push_str(&text),
                None if text.chars().all(|c| c.is_ascii_whitespace()) => {}
                None => return Seen::Text,
            },
            Ok(Some(Event::EndElement(_))) => match (open.pop(), open.last_mut()) {
                (Some(tree), Some(parent)) => parent.children.push(tree),
                (Some(tree), None) => return Seen::Element { tree, consumed: input.len() - rest.len() },
                (None, _) => return Seen::Close,
            },
            Ok(Some(Event::XmlDeclaration(..)) | None) => return Seen::Refused,
            Err(EndOrError::NeedMoreData) => return Seen::Incomplete,
            Err(EndOrError::Error(_)) => return Seen::Refused,
        }
    }
}

/// Scans the input's first element with the scanner and both oracles; panics where they disagree.
pub fn agree(input: &[u8]) {
    let (mut scanner, header) = (Scanner::new(), StreamNamespaces::default());
    let theirs = by_rxml(input);
    let shown = || String::from_utf8_lossy(input).into_owned();
    match scanner.next(&ScanLimits::AFTER_AUTH, &header, input) {
        // rxml leaves U+FDF0 to U+FFFD out of names; XML 1.0 §2.3 does not.
        Ok(Scanned::Element { element, .. })
            if theirs == Seen::Refused && element.raw().contains(|c| matches!(c, '\u{fdf0}'..='\u{fffd}')) => {}
        Ok(Scanned::Element { element, consumed }) => {
            assert_eq!(theirs, Seen::Element { tree: Tree::of(&element), consumed }, "{}", shown());
        }
        Ok(Scanned::Close { .. }) => assert_eq!(theirs, Seen::Close, "{}", shown()),
        // rxml may be sure of an error sooner, and it looks at characters as they come.
        Ok(Scanned::Incomplete { .. }) => {
            assert!(matches!(theirs, Seen::Incomplete | Seen::Refused), "{theirs:?}: {}", shown());
        }
        // Bounds are ours alone, and so is what may stand between elements.
        Err(XmlError::Limit(_) | XmlError::TextBetween) => {}
        // Each of the two lets something pass: rxml two default namespaces on one element, quick-xml much else.
        Err(error) => {
            let both_accept = match &theirs {
                Seen::Element { consumed, .. } => {
                    let text = std::str::from_utf8(&input[..*consumed]).unwrap_or_default();
                    Node::parse(text.trim_start(), ns::CLIENT).is_some()
                }
                Seen::Close => true,
                Seen::Incomplete | Seen::Refused | Seen::Text => false,
            };
            assert!(!both_accept, "{error:?}, {theirs:?}: {}", shown());
        }
    }
}
