//! Reading requests.

use super::super::{BadTag, KEY, NodeName, TAG_VALUE_CHARS_MAX, Tag, TagValue, check_tag_name};
use super::search::Search;
use super::{Dialect, NODE_BYTES_MAX, Problem, Style, TAG_BYTES_MAX, TAGS_MAX};
use crate::iot::Interface;
use crate::jid::Jid;
use crate::stanza::IqType;
use crate::xml::read::Node;

/// The tag that names a registry in a URI: it says where a request goes, and is none of the thing's.
const REGISTRY: &str = "R";

/// A request to the registry.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// From a device, about itself or a node of it (XEP-0347 §3.6 to §3.8).
    Register {
        /// Whose node; the sender's if it is not said.
        jid: Option<Jid>,
        /// Which.
        node: NodeName,
        /// It is nobody's to claim.
        self_owned: bool,
        /// What is said of it.
        tags: Tags,
    },
    /// From somebody who claims a thing (§3.9).
    Mine {
        /// Which node, if that is said.
        node: NodeName,
        /// It stays to be found by others.
        public: bool,
        /// All that was said of it.
        tags: Tags,
    },
    /// From a device or the owner (§3.13, §3.14).
    Update {
        /// Bare JID of the device, if the owner asks.
        jid: Option<Jid>,
        /// Which node.
        node: NodeName,
        /// What changes.
        tags: Tags,
    },
    /// From the owner: not to be found any more (§3.10).
    Remove {
        /// Bare JID of the device.
        jid: Jid,
        /// Which node.
        node: NodeName,
    },
    /// From a device: as if it had never been registered (§3.16).
    Unregister {
        /// Whose node; the sender's if it is not said.
        jid: Option<Jid>,
        /// Which.
        node: NodeName,
    },
    /// From the owner: nobody's any more (§3.17).
    Disown {
        /// Bare JID of the device.
        jid: Jid,
        /// Which node.
        node: NodeName,
    },
    /// From anybody (§3.15).
    Search(Search),
}

/// What a request says of a thing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tags {
    /// Names are unique; the key is not among them.
    pub list: Vec<Tag>,
    /// The secret of the thing and its owner, not empty.
    pub key: Option<Box<str>>,
}

/// A node as a request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAttrs {
    /// Which.
    pub name: NodeName,
    /// By which attributes, if there was one.
    pub dialect: Option<Dialect>,
}

impl Request {
    /// Reads a request of [`Interface::Discovery`], and how to answer it. `None` if the payload is of another namespace.
    pub fn read(payload: &Node, iq_type: IqType) -> Option<(Style, Result<Self, Problem>)> {
        let (Interface::Discovery, generation) = Interface::of(&payload.ns)? else { return None };
        let style = Style::of(generation);
        Some(match read_node(payload) {
            Ok(NodeAttrs { name, dialect }) => (style.with(dialect), Self::read_as(payload, iq_type, name)),
            Err(problem) => (style, Err(problem)),
        })
    }

    fn read_as(payload: &Node, iq_type: IqType, node: NodeName) -> Result<Self, Problem> {
        match (&*payload.name, iq_type) {
            ("register", IqType::Set) => Ok(Self::Register {
                jid: device(payload)?,
                node,
                self_owned: boolean(payload, "selfOwned", false)?,
                tags: Tags::read(payload)?,
            }),
            ("mine", IqType::Set) => {
                Ok(Self::Mine { node, public: boolean(payload, "public", true)?, tags: Tags::read(payload)? })
            }
            ("update", IqType::Set) => Ok(Self::Update { jid: device(payload)?, node, tags: Tags::read(payload)? }),
            ("remove", IqType::Set) => Ok(Self::Remove { jid: device(payload)?.ok_or(Problem::Jid)?, node }),
            ("unregister", IqType::Set) => Ok(Self::Unregister { jid: device(payload)?, node }),
            ("disown", IqType::Set) => Ok(Self::Disown { jid: device(payload)?.ok_or(Problem::Jid)?, node }),
            ("search", IqType::Get) => Search::read(payload).map(Self::Search),
            _ => Err(Problem::Unknown),
        }
    }
}

impl Tags {
    /// Reads the tags below an element, of whatever generation. Of several of one name the last counts.
    fn read(payload: &Node) -> Result<Self, Problem> {
        let mut tags = Self::default();
        for child in &payload.children {
            let is_tag = matches!(Interface::of(&child.ns), Some((Interface::Discovery, _)));
            let is_number = match &*child.name {
                "str" if is_tag => false,
                "num" if is_tag => true,
                _ => continue,
            };
            let (Some(name), Some(value)) = (child.attr("name"), child.attr("value")) else {
                return Err(Problem::Missing);
            };
            check_tag_name(name)?;
            let value = if is_number { TagValue::Num(finite(value)?) } else { TagValue::Str(text(value)?) };
            if name.eq_ignore_ascii_case(KEY) {
                // A key of digits alone may be written as either; it is the same text.
                tags.key = child.attr("value").filter(|key| !key.is_empty()).map(text).transpose()?;
            } else if !name.eq_ignore_ascii_case(REGISTRY) {
                tags.set(Tag { name: name.into(), value });
            }
            if tags.list.len() > TAGS_MAX {
                return Err(Problem::TooManyTags);
            }
        }
        tags.check()?;
        Ok(tags)
    }

    /// Says something, in place of what was said under that name.
    pub fn set(&mut self, tag: Tag) {
        match self.list.iter_mut().find(|known| known.is(&tag.name)) {
            Some(known) => *known = tag,
            None => self.list.push(tag),
        }
    }

    /// Whether they are few and short enough to be kept.
    ///
    /// # Errors
    /// [`Problem::TooManyTags`].
    pub fn check(&self) -> Result<(), Problem> {
        let bytes = |tag: &Tag| {
            tag.name.len()
                + match &tag.value {
                    TagValue::Str(text) => text.len(),
                    TagValue::Num(_) => size_of::<f64>(),
                }
        };
        let total: usize = self.list.iter().map(bytes).sum();
        if self.list.len() > TAGS_MAX || total > TAG_BYTES_MAX { Err(Problem::TooManyTags) } else { Ok(()) }
    }
}

/// Reads which node an element names. Of the two ways to write an attribute the long one counts if there are both.
///
/// # Errors
/// [`Problem::NodeTooLong`].
pub fn read_node(element: &Node) -> Result<NodeAttrs, Problem> {
    let [long, short] = [Dialect::Long, Dialect::Short].map(|dialect| dialect.attrs().map(|name| element.attr(name)));
    let is_there = |attrs: &[Option<&str>; 3]| attrs.iter().any(Option::is_some);
    let dialect = match (is_there(&long), is_there(&short)) {
        (true, _) => Some(Dialect::Long),
        (false, true) => Some(Dialect::Short),
        (false, false) => None,
    };
    let ([id, source, partition], [short_id, short_source, short_partition]) = (long, short);
    let part = |long: Option<&str>, short: Option<&str>| -> Box<str> { long.or(short).unwrap_or_default().into() };
    let name = NodeName {
        id: part(id, short_id),
        source: part(source, short_source),
        partition: part(partition, short_partition),
    };
    if name.id.len() + name.source.len() + name.partition.len() > NODE_BYTES_MAX {
        return Err(Problem::NodeTooLong);
    }
    Ok(NodeAttrs { name, dialect })
}

/// The device that an element names: the account of it, whatever resource was written. An attribute that is empty is not
/// there.
fn device(element: &Node) -> Result<Option<Jid>, Problem> {
    let Some(text) = element.attr("jid").filter(|text| !text.is_empty()) else { return Ok(None) };
    Jid::parse(text).map(|jid| Some(jid.bare())).map_err(|_| Problem::Jid)
}

/// The value of an `xs:boolean`.
pub(super) fn boolean(element: &Node, name: &str, default: bool) -> Result<bool, Problem> {
    match element.attr(name).map(str::trim) {
        None => Ok(default),
        Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(_) => Err(Problem::NotABoolean),
    }
}

/// The value of an `xs:double` that is a finite number.
pub(super) fn finite(text: &str) -> Result<f64, BadTag> {
    let text = text.trim();
    // What else Rust takes are names of what is no number.
    if !text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E')) {
        return Err(BadTag::NotANumber);
    }
    let number: f64 = text.parse().map_err(|_| BadTag::NotANumber)?;
    // There is one nought.
    if number.is_finite() { Ok(number + 0.0) } else { Err(BadTag::NotANumber) }
}

fn text(value: &str) -> Result<Box<str>, BadTag> {
    if value.chars().count() > TAG_VALUE_CHARS_MAX { Err(BadTag::TooLong) } else { Ok(value.into()) }
}
