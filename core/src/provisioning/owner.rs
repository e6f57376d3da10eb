//! What owners are asked, what they answer, and what else they want done with the rules of their things.

use super::spelling::{self, Form, NamedCategories, NodePart, boolean};
use super::{Categories, Kind, NAMES_MAX, Tokens};
use crate::iot::{Generation, Interface};
use crate::jid::Jid;
use crate::stanza::{Condition, IqType};
use crate::thing::NodeName;
use crate::xml::read::Node;
use crate::xml::write;

/// Longest name of a field or parameter in a rule, in bytes, and longest token. Beyond it: `policy-violation`.
const TEXT_BYTES_MAX: usize = 1_023;

/// A part of what may be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// These categories.
    pub categories: Categories,
    /// These fields or parameters; `None` is all.
    pub names: Option<Vec<Box<str>>>,
}

impl Part {
    /// Everything of a kind.
    pub const fn everything(kind: Kind) -> Self {
        Self { categories: kind.categories(), names: None }
    }
}

/// A question to an owner: the payload of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question<'a> {
    /// What is to be decided.
    pub kind: Kind,
    /// Bare JID of the device.
    pub device: &'a Jid,
    /// Which thing of it.
    pub node: &'a NodeName,
    /// Bare JID of whom it is about.
    pub remote: &'a Jid,
    /// What the answer has to name.
    pub key: &'a str,
    /// Tokens that came with the request.
    pub tokens: &'a Tokens<'a>,
    /// What was asked for.
    pub part: &'a Part,
}

impl Question<'_> {
    /// Writes it. Parameters stand in `<partial/>` by the schema; what clients of the second and third generation read is
    /// those that stand alone.
    pub fn write(&self, out: &mut Vec<u8>, generation: Generation) {
        out.push(b'<');
        out.extend_from_slice(self.kind.name().as_bytes());
        write::attr_raw(out, "xmlns", Interface::Owner.ns(generation));
        write::attr(out, "jid", self.device.as_str());
        write::attr(out, "remoteJid", self.remote.as_str());
        write::attr(out, "key", self.key);
        let Tokens { service, device, user } = self.tokens;
        for (name, tokens) in [("st", service), ("dt", device), ("ut", user)] {
            if !tokens.is_empty() && self.kind != Kind::Friend {
                write::attr(out, name, tokens);
            }
        }
        let names = self.part.names.as_deref().unwrap_or_default();
        match self.kind {
            Kind::Friend => return out.extend_from_slice(b"/>"),
            Kind::Read => {
                spelling::write_categories(out, self.part.categories);
                out.push(b'>');
                spelling::write_node_name(out, self.node);
                names.iter().for_each(|name| spelling::write_name(out, Form::Short, "f", "field", name));
            }
            Kind::Control => {
                out.push(b'>');
                spelling::write_node_name(out, self.node);
                let in_partial = generation == Generation::Nfi && !names.is_empty();
                out.extend_from_slice(if in_partial { b"<partial>" } else { b"" });
                names.iter().for_each(|name| spelling::write_name(out, Form::Short, "p", "parameter", name));
                out.extend_from_slice(if in_partial { b"</partial>" } else { b"" });
            }
        }
        out.extend_from_slice(b"</");
        out.extend_from_slice(self.kind.name().as_bytes());
        out.push(b'>');
    }
}

/// Of whom a rule is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "named by what they are")]
pub enum Origin {
    All,
    Domain,
    Jid,
    Service(Box<str>),
    Device(Box<str>),
    User(Box<str>),
}

/// An owner's answer to a question: a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleAnswer {
    /// What is decided.
    pub kind: Kind,
    /// Bare JID of the device.
    pub device: Jid,
    /// Bare JID of whom the question was about.
    pub remote: Jid,
    /// Which question.
    pub key: Box<str>,
    /// What the answer is.
    pub allow: bool,
    /// For whom it is to hold.
    pub origin: Origin,
    /// The node it names, if it does.
    pub node: Option<NodeName>,
    /// For what it is to hold; `None` is for everything.
    pub partial: Option<Part>,
}

/// What an owner asks of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnerRequest {
    /// `isFriendRule`, `canReadRule` or `canControlRule`.
    Rule(Box<RuleAnswer>),
    /// `getDevices`.
    GetDevices {
        /// How many to pass over.
        offset: u64,
        /// How many at most, if that was said.
        count_max: Option<u64>,
    },
    /// `clearCache`: of all that are owned, or of some.
    ClearCache(Option<Things>),
    /// `deleteRules`, likewise.
    DeleteRules(Option<Things>),
}

/// The things at an address, or one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Things {
    /// Bare JID of the device.
    pub device: Jid,
    /// Which; `None` if none was named.
    pub node: Option<NodeName>,
}

impl OwnerRequest {
    /// Reads the payload of an iq.
    ///
    /// # Errors
    /// `bad-request` for what is not whole; `policy-violation` beyond the bounds; `feature-not-implemented` for another
    /// name.
    pub fn read(iq_type: IqType, payload: &Node) -> Result<Self, Condition> {
        let is_set = match iq_type {
            IqType::Set => true,
            IqType::Get => false,
            IqType::Result | IqType::Error => return Err(Condition::BadRequest),
        };
        match (&*payload.name, is_set) {
            ("isFriendRule", true) => RuleAnswer::read(Kind::Friend, payload).map(Self::rule),
            ("canReadRule", true) => RuleAnswer::read(Kind::Read, payload).map(Self::rule),
            ("canControlRule", true) => RuleAnswer::read(Kind::Control, payload).map(Self::rule),
            ("clearCache", true) => Ok(Self::ClearCache(Things::read(payload)?)),
            ("deleteRules", true) => Ok(Self::DeleteRules(Things::read(payload)?)),
            ("getDevices", false) => {
                let offset = number(payload, "offset")?.unwrap_or(0);
                let count_max = number(payload, "maxCount")?;
                if count_max == Some(0) {
                    Err(Condition::BadRequest)
                } else {
                    Ok(Self::GetDevices { offset, count_max })
                }
            }
            // Known, the other way round or from the other side.
            (
                "isFriendRule" | "canReadRule" | "canControlRule" | "clearCache" | "deleteRules" | "getDevices"
                | "isFriend" | "canRead" | "canControl",
                _,
            ) => Err(Condition::BadRequest),
            _ => Err(Condition::FeatureNotImplemented),
        }
    }

    fn rule(answer: RuleAnswer) -> Self {
        Self::Rule(Box::new(answer))
    }
}

impl Things {
    fn read(payload: &Node) -> Result<Option<Self>, Condition> {
        let node = node_of(payload);
        match payload.attr("jid").filter(|jid| !jid.is_empty()) {
            Some(_) => {
                Ok(Some(Self { device: jid(payload, "jid")?, node: Some(node).filter(|node| !node.is_device()) }))
            }
            // A node of no device.
            None if !node.is_device() => Err(Condition::BadRequest),
            None => Ok(None),
        }
    }
}

impl RuleAnswer {
    fn read(kind: Kind, payload: &Node) -> Result<Self, Condition> {
        let key: Box<str> = payload.attr("key").filter(|key| !key.is_empty()).ok_or(Condition::BadRequest)?.into();
        let (device, remote) = (jid(payload, "jid")?, jid(payload, "remoteJid")?);
        let allow = payload.attr("result").and_then(boolean).ok_or(Condition::BadRequest)?;
        let mut answer = Self { kind, device, remote, key, allow, origin: Origin::Jid, node: None, partial: None };
        if kind == Kind::Friend {
            answer.origin = match payload.attr("range") {
                None | Some("Caller") => Origin::Jid,
                Some("Domain") => Origin::Domain,
                Some("All") => Origin::All,
                Some(_) => return Err(Condition::BadRequest),
            };
            return Ok(answer);
        }
        let mut origin = None;
        for child in payload.children.iter().filter(|child| child.ns == payload.ns) {
            let found = match &*child.name {
                "nd" | "node" => {
                    answer.node = Some(node_of(child)).filter(|node| !node.is_device());
                    continue;
                }
                "partial" => {
                    answer.partial = Some(read_part(kind, child)?);
                    continue;
                }
                "fromJid" => Origin::Jid,
                "fromDomain" => Origin::Domain,
                "fromService" => Origin::Service(token(child)?),
                "fromDevice" => Origin::Device(token(child)?),
                "fromUser" => Origin::User(token(child)?),
                "all" => Origin::All,
                _ => continue,
            };
            if origin.replace(found).is_some() {
                return Err(Condition::BadRequest);
            }
        }
        answer.origin = origin.ok_or(Condition::BadRequest)?;
        Ok(answer)
    }
}

fn read_part(kind: Kind, partial: &Node) -> Result<Part, Condition> {
    let mut categories = NamedCategories::default();
    for (name, value) in &partial.attrs {
        if kind == Kind::Read {
            categories.take(name, value).ok_or(Condition::BadRequest)?;
        }
    }
    let mut names: Vec<Box<str>> = Vec::new();
    for child in partial.children.iter().filter(|child| child.ns == partial.ns) {
        let attr = match (&*child.name, kind) {
            ("f", Kind::Read) | ("p", Kind::Control) => "n",
            ("field", Kind::Read) | ("parameter", Kind::Control) => "name",
            _ => continue,
        };
        names.push(bounded(child.attr(attr).ok_or(Condition::BadRequest)?)?);
        if names.len() > NAMES_MAX {
            return Err(Condition::PolicyViolation);
        }
    }
    names.sort_unstable();
    names.dedup();
    let names = Some(names).filter(|names| !names.is_empty());
    match (categories.set, names) {
        // A part that says nothing is not everything.
        (Categories::NONE, None) => Err(Condition::BadRequest),
        (Categories::NONE, names) => Ok(Part { categories: kind.categories(), names }),
        (set, names) => Ok(Part { categories: set, names }),
    }
}

fn token(origin: &Node) -> Result<Box<str>, Condition> {
    let token = origin.attr("token").map(str::trim_ascii).filter(|token| !token.is_empty());
    let token = token.ok_or(Condition::BadRequest)?;
    if token.contains(|c: char| c.is_ascii_whitespace()) { Err(Condition::BadRequest) } else { bounded(token) }
}

fn bounded(text: &str) -> Result<Box<str>, Condition> {
    if text.len() > TEXT_BYTES_MAX { Err(Condition::PolicyViolation) } else { Ok(text.into()) }
}

fn jid(payload: &Node, attr: &str) -> Result<Jid, Condition> {
    let parsed = payload.attr(attr).and_then(|text| Jid::parse(text).ok());
    parsed.map(|jid| jid.bare()).ok_or(Condition::BadRequest)
}

/// The node that an element's attributes name; those that are empty are as good as not there.
fn node_of(element: &Node) -> NodeName {
    let mut node = NodeName::default();
    for (name, value) in &element.attrs {
        match NodePart::of(name) {
            Some(NodePart::Id(_)) => node.id = value.as_str().into(),
            Some(NodePart::Source(_)) => node.source = value.as_str().into(),
            Some(NodePart::Partition(_)) => node.partition = value.as_str().into(),
            None => {}
        }
    }
    node
}

fn number(payload: &Node, attr: &str) -> Result<Option<u64>, Condition> {
    let Some(text) = payload.attr(attr).map(str::trim_ascii) else { return Ok(None) };
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // What is beyond all that can be counted is as good as the most.
    if is_number { Ok(Some(text.parse().unwrap_or(u64::MAX))) } else { Err(Condition::BadRequest) }
}
