//! Reading a payload that has passed the scanner, for services: a small tree over quick-xml. Never on the routing path.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::chars::decode;
use super::element::push_lines;
use crate::ns;

/// An element of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Local name.
    pub name: String,
    /// Namespace name, "" if none.
    pub ns: String,
    /// Attributes without namespace declarations: `(prefix:name or name, value)`.
    pub attrs: Vec<(String, String)>,
    /// Child elements.
    pub children: Vec<Node>,
    /// Character data directly inside, concatenated.
    pub text: String,
}

impl Node {
    /// Reads one element; `default_ns` is the default namespace in scope around it. A prefix that the element does not
    /// declare itself stands for no namespace: [`super::Element::read`] knows those around it.
    /// `None` if it is not one well-formed element (then the scanner has a bug).
    pub fn parse(raw: &str, default_ns: &str) -> Option<Self> {
        Self::read(raw, default_ns, |prefix| (prefix == "xml").then_some(ns::XML))
    }

    /// The attribute of that name.
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attrs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The first child `{ns}name`.
    pub fn child(&self, name: &str, ns: &str) -> Option<&Node> {
        self.children.iter().find(|child| child.name == name && child.ns == ns)
    }

    /// Reads one element; `outer` names the namespace of a prefix declared around it.
    pub(super) fn read<'s>(raw: &str, default_ns: &str, outer: impl Fn(&str) -> Option<&'s str>) -> Option<Self> {
        let mut reader = Reader::from_str(raw);
        let mut scope = Scope { declared: vec![(String::new(), default_ns.to_owned())], outer };
        // Elements not ended yet, each with the declarations in scope around it.
        let mut open: Vec<(Node, usize)> = Vec::new();
        let mut root = None;
        loop {
            let event = reader.read_event().ok()?;
            match event {
                Event::Eof => return if open.is_empty() { root } else { None },
                _ if root.is_some() => return None,
                Event::Start(tag) => {
                    let around = scope.declared.len();
                    open.push((scope.enter(&tag)?, around));
                    continue;
                }
                Event::Empty(tag) => {
                    let around = scope.declared.len();
                    open.push((scope.enter(&tag)?, around));
                }
                Event::End(_) => {}
                Event::Text(text) => {
                    push_lines(&mut open.last_mut()?.0.text, &text.into_inner());
                    continue;
                }
                Event::GeneralRef(name) => {
                    decode(&mut open.last_mut()?.0.text, &format!("&{};", name.into_inner()), false);
                    continue;
                }
                Event::CData(section) => {
                    push_lines(&mut open.last_mut()?.0.text, &section.into_inner());
                    continue;
                }
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => return None,
            }
            let (node, around) = open.pop()?;
            scope.declared.truncate(around);
            match open.last_mut() {
                Some((parent, _)) => parent.children.push(node),
                None => root = Some(node),
            }
        }
    }
}

/// Namespace declarations, innermost last.
struct Scope<F> {
    declared: Vec<(String, String)>,
    outer: F,
}

impl<'s, F: Fn(&str) -> Option<&'s str>> Scope<F> {
    /// The node a start tag begins; its declarations come into scope.
    fn enter(&mut self, tag: &BytesStart<'_>) -> Option<Node> {
        let mut attrs = Vec::new();
        for attr in tag.attributes() {
            let attr = attr.ok()?;
            let name: &str = attr.key.into_inner();
            let mut value = String::new();
            decode(&mut value, &attr.value, true);
            match name.strip_prefix("xmlns") {
                Some("") => self.declared.push((String::new(), value)),
                Some(prefix) if prefix.starts_with(':') => self.declared.push((prefix[1..].to_owned(), value)),
                _ => attrs.push((name.to_owned(), value)),
            }
        }
        let name: &str = tag.name().into_inner();
        let (prefix, local) = name.split_once(':').unwrap_or(("", name));
        let known = self.declared.iter().rev().find(|(known, _)| known == prefix).map(|(_, uri)| uri.as_str());
        let ns = known.or_else(|| (self.outer)(prefix)).unwrap_or("");
        Some(Node { name: local.to_owned(), ns: ns.to_owned(), attrs, children: Vec::new(), text: String::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_becomes_a_tree() {
        let raw = "<query xmlns='jabber:iq:roster' ver=\"a&amp;b\"><item jid='x@y' p:q='1' xmlns:p='u&#58;p'>\
                   a<![CDATA[<&]]>b&lt;&#x41;\r\n</item><p:odd/><n xmlns=''/></query>";
        let node = Node::parse(raw, "jabber:client").expect("well-formed");
        assert_eq!(
            (node.name.as_str(), node.ns.as_str(), node.attr("ver")),
            ("query", "jabber:iq:roster", Some("a&b"))
        );
        let item = node.child("item", "jabber:iq:roster").expect("there is one");
        assert_eq!(item.text, "a<&b<A\n");
        assert_eq!((item.attr("jid"), item.attr("p:q"), item.attr("q")), (Some("x@y"), Some("1"), None));
        assert_eq!((node.children[1].name.as_str(), node.children[1].ns.as_str()), ("odd", ""));
        assert!(node.child("n", "").is_some());
        assert_eq!(Node::parse("<a/>", "jabber:client").map(|node| node.ns), Some("jabber:client".to_owned()));
    }

    #[test]
    fn what_is_not_one_element_is_no_tree() {
        for raw in ["", "text", "<a>", "<a></b>", "<a/><b/>", "<a/>text", "<!-- c -->", "<a><!-- c --></a>", "<a b/>"] {
            assert_eq!(Node::parse(raw, ""), None, "{raw}");
        }
    }
}
