//! The scanner's promises on generated and mutated XML: any split gives the same, what it accepts other parsers accept
//! with the same tree, and what is written scans as what was meant.
#![expect(clippy::indexing_slicing, reason = "a test may panic")]

mod oracle;

use oracle::{HEADER, Tree, agree};
use plaza_core::limits::ScanLimits;
use plaza_core::ns;
use plaza_core::stanza::{Stamp, Stanza, write_stanza};
use plaza_core::xml::{Scanned, Scanner, Standalone, StreamNamespaces, write};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const LIMITS: ScanLimits = ScanLimits::AFTER_AUTH;

/// Start tags that need no declaration around them; duplicates among the attributes do not occur.
fn tag() -> impl Strategy<Value = (String, String)> {
    let name = select(vec!["a", "message", "é", "x.y-1", "_", "p:a", "stream:b", "漢:字"]);
    let attrs = vec![
        "id='1'",
        "to=\"x@y/z\"",
        "b = 'c'",
        "xml:lang='en'",
        "p:id='2'",
        "q='it&apos;s &#x26; \" > \t\r\n'",
        "r=''",
        "s:t=\"'\" xmlns:s='urn:s'",
        "long='01234567890123456789012345678901234567890123456789'",
        "ü='漢😀'",
    ];
    let spaces = select(vec![" ", "  ", "\n", "\t", "\r\n"]);
    let defaults = select(vec!["", " xmlns='urn:d'", " xmlns=''", " xmlns='jabber:client'", " xmlns='a&amp;b'"]);
    (name, proptest::sample::subsequence(attrs, 0..4), spaces, defaults).prop_map(|(name, attrs, space, default)| {
        let mut tag = format!("{name}{default} xmlns:p='urn:p' xmlns:漢='u&#58;h'");
        for attr in attrs {
            tag = format!("{tag}{space}{attr}");
        }
        (name.to_owned(), tag)
    })
}

fn text() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "on",
        " ",
        "\r\n",
        "\r",
        "]",
        "]]",
        ">",
        "&lt;",
        "&amp;",
        "&#65;",
        "&#x1F600;",
        "é",
        "漢字",
        "😀",
        "\u{fffd}",
        "'",
        "\"",
        "<![CDATA[]]>",
        "<![CDATA[<b>&amp;]]>",
        "<![CDATA[]]]]>",
        "<![CDATA[>]]>",
        "a longer run of text that no word-sized search finds the end of; it goes on",
    ]);
    // `]]>` may come about.
    vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

fn element() -> impl Strategy<Value = String> {
    let leaf = (tag(), text()).prop_map(|((name, tag), text)| match text.as_str() {
        "" => format!("<{tag}/>"),
        _ => format!("<{tag}>{text}</{name} >"),
    });
    leaf.prop_recursive(4, 24, 4, |inner| {
        let content = vec(prop_oneof![inner, text()], 0..4);
        (tag(), content).prop_map(|((name, tag), content)| format!("<{tag}>{}</{name}>", content.concat()))
    })
}

#[derive(Debug, Clone)]
enum Edit {
    Insert(Index, Vec<u8>),
    Replace(Index, Vec<u8>),
    Delete(Index, usize),
    Copy(Index, Index, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let known = select(vec![
        "<",
        ">",
        "/",
        "</",
        "/>",
        "'",
        "\"",
        "&",
        ";",
        "]]>",
        "]",
        "<![CDATA[",
        "<!--",
        "-->",
        "<?x?>",
        "<!DOCTYPE a>",
        " ",
        "=",
        ":",
        "p:",
        "a",
        "1",
        " a='1'",
        " xmlns:p='u'",
        " xmlns='u'",
        "xmlns",
        "xml:",
        "&#",
        "&#0;",
        "&#x1;",
        "&x;",
        "&lt;",
        "\0",
        "\u{1}",
        "\u{7f}",
        "\u{fffe}",
        "\u{ffff}",
        "×",
        "·",
        "\u{feff}",
        "<a/>",
        "</stream:stream>",
        "\u{2028}",
        " p:id=''",
    ]);
    let bytes = prop_oneof![
        3 => known.prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..3),
        1 => select(vec![&b"\xff"[..], b"\xe2", b"\xe2\x82", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"]).prop_map(<[u8]>::to_vec),
    ];
    prop_oneof![
        4 => (any::<Index>(), bytes.clone()).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        2 => (any::<Index>(), bytes).prop_map(|(at, bytes)| Edit::Replace(at, bytes)),
        2 => (any::<Index>(), 1..6usize).prop_map(|(at, length)| Edit::Delete(at, length)),
        1 => (any::<Index>(), any::<Index>(), 1..12usize).prop_map(|(from, to, length)| Edit::Copy(from, to, length)),
    ]
}

fn edited(mut bytes: Vec<u8>, edits: Vec<Edit>) -> Vec<u8> {
    for edit in edits {
        let within = |at: Index| at.index(bytes.len() + 1);
        match edit {
            Edit::Insert(at, new) => drop(bytes.splice(within(at)..within(at), new)),
            Edit::Replace(at, new) => drop(bytes.splice(within(at)..bytes.len().min(within(at) + new.len()), new)),
            Edit::Delete(at, length) => drop(bytes.drain(within(at)..bytes.len().min(within(at) + length))),
            Edit::Copy(from, to, length) => {
                let copy = bytes[within(from)..bytes.len().min(within(from) + length)].to_vec();
                drop(bytes.splice(within(to)..within(to), copy));
            }
        }
    }
    bytes
}

/// Bytes that a failing test shows as text.
#[derive(Clone)]
struct Input(Vec<u8>);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

fn mutated() -> impl Strategy<Value = Input> {
    (element(), vec(edit(), 0..3)).prop_map(|(element, edits)| Input(edited(element.into_bytes(), edits)))
}

/// All events of some bytes that arrive in pieces; an error ends them.
fn events(limits: &ScanLimits, input: &[u8], pieces: impl IntoIterator<Item = usize>) -> Vec<String> {
    let (mut scanner, ns) = (Scanner::new(), StreamNamespaces::default());
    let (mut seen, mut kept, mut arrived) = (Vec::new(), 0, 0);
    let mut pieces = pieces.into_iter();
    loop {
        match scanner.next(limits, &ns, &input[kept..arrived]) {
            Ok(Scanned::Incomplete { skip }) => {
                kept += skip;
                if arrived == input.len() {
                    return seen;
                }
                arrived = input.len().min(arrived + pieces.next().unwrap_or(usize::MAX - arrived));
            }
            Ok(Scanned::Element { element, consumed }) => {
                kept += consumed;
                let children: Vec<_> = element.children().collect();
                seen.push(format!(
                    "{kept}: {:?} {:?} {:?} {children:?}",
                    Tree::of(&element),
                    element.raw(),
                    element.content()
                ));
            }
            Ok(Scanned::Close { consumed }) => {
                kept += consumed;
                seen.push(format!("{kept}: close"));
            }
            // Which of several faults is found first may depend on the split, that one is found may not.
            Err(_) => {
                seen.push("error".to_owned());
                return seen;
            }
        }
    }
}

fn written(header: &str, input: &str) -> Option<(String, Tree)> {
    let mut scanner = Scanner::new();
    let (_, ns, _) = scanner.header(&LIMITS, header.as_bytes()).expect("allowed").expect("complete");
    let Ok(Scanned::Element { element, .. }) = scanner.next(&LIMITS, &ns, input.as_bytes()) else { return None };
    let stanza = Stanza::classify(element, ns::CLIENT).expect("a message");
    let mut out = Vec::new();
    write_stanza(&mut out, &stanza, Stamp { from: "o'neil@b/<&>", to: Some("x@y") }, &ns);
    Some((String::from_utf8(out).expect("UTF-8 stays UTF-8"), Tree::of(&element)))
}

/// A header's outcome, `None` if it is incomplete.
fn header_of(scanner: &mut Scanner, input: &[u8]) -> Option<String> {
    match scanner.header(&ScanLimits::BEFORE_AUTH, input) {
        Ok(found) => found.map(|(header, ns, end)| format!("{header:?} {ns:?} {end}")),
        Err(_) => Some("error".to_owned()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_we_accept_others_accept_with_the_same_tree(input in mutated()) {
        agree(&input.0);
    }

    #[test]
    fn a_child_taken_out_is_the_same_tree_elsewhere(
        children in vec(element(), 1..4),
        borrows in any::<bool>(),
        default in select(vec!["", " xmlns='jabber:client'", " xmlns='urn:d'", " xmlns='a&amp;b'", " xmlns=''"]),
    ) {
        let mut content = children.concat();
        if borrows {
            content = content.replace(" xmlns:p='urn:p' xmlns:漢='u&#58;h'", "");
        }
        let input = format!("<iq{default} xmlns:p='urn:p' xmlns:漢='u&#58;h'>{content}</iq>");
        let (mut scanner, header) = (Scanner::new(), StreamNamespaces::default());
        let scanned = scanner.next(&LIMITS, &header, input.as_bytes());
        // `]]>` may have come about.
        let Ok(Scanned::Element { element, .. }) = scanned else { return Ok(()) };
        let trees = Tree::of(&element).children;
        let within = Standalone::read_children(&input.replace("<iq", "<iq xmlns:stream='http://etherx.jabber.org/streams'"), ns::CLIENT, usize::MAX);
        let within = within.expect("every prefix is declared");
        prop_assert_eq!((within.len(), element.children().len()), (trees.len(), trees.len()));
        for ((child, within), tree) in element.children().zip(within).zip(trees) {
            let handed_on = element.standalone(&child).expect("every prefix is declared");
            let handed_on = Standalone::read(&handed_on, ns::CLIENT, usize::MAX).expect("it was declared on it");
            for taken in [within, handed_on] {
                prop_assert_eq!((&*taken.name, &*taken.ns), (&*tree.name, &*tree.ns));
                prop_assert!(!taken.xml.contains("<![CDATA["));
                let elsewhere = format!("<x xmlns='urn:elsewhere'>{}</x>", taken.xml);
                let (mut scanner, header) = (Scanner::new(), StreamNamespaces::default());
                let scanned = scanner.next(&LIMITS, &header, elsewhere.as_bytes());
                let Ok(Scanned::Element { element, .. }) = scanned else { panic!("{elsewhere}: {scanned:?}") };
                prop_assert_eq!(&Tree::of(&element).children, std::slice::from_ref(&tree), "{}", elsewhere);
            }
        }
    }

    #[test]
    fn any_split_gives_the_same_events(
        inputs in vec(mutated(), 1..3),
        between in select(vec!["", " ", "\n\t"]),
        sizes in vec(1..20usize, 1..50),
        tight in any::<bool>(),
    ) {
        let tight_limits = ScanLimits {
            stanza_bytes_max: 150,
            elements_max: 3,
            depth_max: 2,
            attributes_max: 4,
            attribute_bytes_max: 20,
            name_bytes_max: 7,
            namespaces_max: 3,
        };
        let limits = if tight { tight_limits } else { LIMITS };
        let inputs: Vec<_> = inputs.into_iter().map(|input| input.0).collect();
        let input = inputs.join(between.as_bytes());
        let whole = events(&limits, &input, []);
        prop_assert_eq!(&whole, &events(&limits, &input, std::iter::repeat(1)));
        prop_assert_eq!(&whole, &events(&limits, &input, sizes.into_iter().cycle()));
    }

    #[test]
    fn a_written_stanza_scans_as_what_was_meant(
        content in vec(prop_oneof![element(), text()], 0..3),
        attrs in select(vec!["", " from='f' to='t' id='&lt;\"'", " x:y = \"it's\" xml:lang='en'", " to='t'", " xmlns='jabber:client'"]),
        header in select(vec![
            HEADER.replace('>', " xmlns:x='urn:x' xmlns:漢='&amp;'>"),
            "<stream xmlns='http://etherx.jabber.org/streams' xmlns:x='urn:x' xmlns:c='jabber:client' \
             xmlns:stream='http://etherx.jabber.org/streams'>".to_owned(),
            "<s:stream xmlns:s='http://etherx.jabber.org/streams' xmlns:stream='urn:s' xmlns:c='jabber:client' xmlns:x='urn:x' \
             xmlns='jabber:client'>".to_owned(),
        ]),
        prefix in select(vec!["", "c:"]),
        inner in select(vec!["", "<x:a/>", "<x:a xmlns:x='urn:y'/>", "<stream:a/>", "<odd/>", "<a x:b='1'/>"]),
    ) {
        // Only in one of the headers is a prefix declared, only in the others has the default namespace stanzas.
        let streams_default = header.starts_with("<stream ");
        let is_prefixed = prefix == "c:" && header.contains("xmlns:c");
        let prefix = if streams_default || is_prefixed { "c:" } else { "" };
        let attrs = if prefix.is_empty() { attrs } else { attrs.trim_end_matches(" xmlns='jabber:client'") };
        let input = format!("<{prefix}message{attrs}>{}{inner}</{prefix}message>", content.concat());
        // `]]>` may have come about.
        let Some((first, mut meant)) = written(&header, &input) else { return Ok(()) };
        let (_, tree) = written(HEADER, &first).expect("ours is allowed");
        meant.attrs.retain(|(name, _)| name != "from" && name != "to");
        meant.attrs.extend([("from".to_owned(), "o'neil@b/<&>".to_owned()), ("to".to_owned(), "x@y".to_owned())]);
        meant.attrs.sort();
        prop_assert_eq!(&meant, &tree, "{} became {}", input, first);
        prop_assert!(!first.contains("<![CDATA["));
        agree(first.as_bytes());
    }

    #[test]
    fn escaped_text_reads_as_it_was(text in "[^\u{0}-\u{8}\u{b}\u{c}\u{e}-\u{1f}\u{fffe}\u{ffff}]{0,40}", edge in "[<>&'\"\r\n\t\\]]{0,8}") {
        let text = format!("{edge}{text}{edge}");
        let mut out = b"<a".to_vec();
        write::attr(&mut out, "b", &text);
        out.push(b'>');
        write::text(&mut out, &text);
        out.extend_from_slice(b"</a>");
        let (mut scanner, ns) = (Scanner::new(), StreamNamespaces::default());
        let scanned = scanner.next(&LIMITS, &ns, &out);
        let Ok(Scanned::Element { element, .. }) = scanned else { panic!("{scanned:?}: {text:?}") };
        let attr = element.attr("b").expect("written");
        prop_assert_eq!((&*attr.value(), &*element.text()), (&*text, &*text));
        let mut again = Vec::new();
        write::attr_raw(&mut again, "b", attr.raw);
        prop_assert!(out[2..].starts_with(&again));
    }

    #[test]
    fn a_header_does_not_depend_on_its_split(edits in vec(edit(), 0..3), declaration in any::<bool>()) {
        let declaration = if declaration { "<?xml version='1.0' encoding='utf-8'?>" } else { "" };
        let input = edited(format!("{declaration}{HEADER}").into_bytes(), edits);
        let whole = header_of(&mut Scanner::new(), &input);
        let mut scanner = Scanner::new();
        let slow = (1..=input.len()).find_map(|end| header_of(&mut scanner, &input[..end]));
        prop_assert_eq!(whole, slow);
    }
}
