//! What devices ask. This is read often, by devices that come back all at once: nothing is copied that need not be.

use std::borrow::Cow;

use super::spelling::{Form, NamedCategories, NodePart};
use super::{CELLS_MAX, Categories, Kind, NAMES_MAX, NODES_MAX, NodeRef, Tokens};
use crate::iot::{Generation, Interface};
use crate::jid::{Jid, JidRef, ParsedJid};
use crate::limits::ScanLimits;
use crate::stanza::Condition;
use crate::xml::{Attr, Child, Element, Scanned, Scanner, StreamNamespaces};

static NO_NAMESPACES: StreamNamespaces = StreamNamespaces::NONE;

/// A question of a device: whether somebody may do something with it.
#[derive(Debug, Clone)]
pub struct Query<'a> {
    /// What.
    pub kind: Kind,
    /// The generation it was asked in.
    pub generation: Generation,
    /// The tokens that came with the request that it is about.
    pub tokens: Tokens<'a>,
    /// About which nodes; none is about the device itself.
    pub nodes: Vec<NodeRef<'a>>,
    /// Of which fields or parameters; none is all.
    pub names: Vec<Cow<'a, str>>,
    asker: ParsedJid<'a>,
    pub(super) asker_raw: &'a str,
    pub(super) categories: NamedCategories,
    pub(super) spelling: Spelling,
}

/// How it names things.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spelling {
    pub(super) node: Option<Form>,
    pub(super) node_attrs: Option<Form>,
    pub(super) names: Option<Form>,
}

impl<'a> Query<'a> {
    /// Reads the payload of an iq get that a device sent to the service, as written, `<` to `>`.
    ///
    /// # Errors
    /// `bad-request` for what is no question, or not a whole one; that includes answers and notices, which only the
    /// service sends. `policy-violation` beyond the bounds. `feature-not-implemented` for what the interface has, or may
    /// have, and we do not.
    pub fn read(scanner: &'a mut Scanner, payload: &'a str) -> Result<Self, Condition> {
        match scanner.next(&ScanLimits::SCANNED, &NO_NAMESPACES, payload.as_bytes()) {
            Ok(Scanned::Element { element, .. }) => Self::of(element),
            _ => Err(Condition::BadRequest),
        }
    }

    /// Reads it from an element that was scanned.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn of(element: Element<'a>) -> Result<Self, Condition> {
        let Some((Interface::Device, generation)) = Interface::of(element.ns()) else {
            return Err(Condition::BadRequest);
        };
        let kind = match element.name() {
            "isFriend" => Kind::Friend,
            "canRead" => Kind::Read,
            "canControl" => Kind::Control,
            // What only the service sends.
            "isFriendResponse" | "canReadResponse" | "canControlResponse" | "clearCache" | "clearCacheResponse"
            | "friend" | "unfriend" => return Err(Condition::BadRequest),
            _ => return Err(Condition::FeatureNotImplemented),
        };
        let mut asker = None;
        let mut query = Self {
            kind,
            generation,
            tokens: Tokens::default(),
            nodes: Vec::new(),
            names: Vec::new(),
            asker: ParsedJid::Borrowed(JidRef::from_normal("")),
            asker_raw: "",
            categories: NamedCategories::default(),
            spelling: Spelling::default(),
        };
        for attr in element.attrs().filter(|attr| attr.prefix.is_empty()) {
            match attr.name {
                "jid" => asker = Some((attr.raw, parse_jid(attr)?)),
                "st" | "serviceToken" => query.tokens.service = attr.value(),
                "dt" | "deviceToken" => query.tokens.device = attr.value(),
                "ut" | "userToken" => query.tokens.user = attr.value(),
                name if kind == Kind::Read => {
                    query.categories.take(name, &attr.value()).ok_or(Condition::BadRequest)?;
                }
                _ => {}
            }
        }
        (query.asker_raw, query.asker) = asker.ok_or(Condition::BadRequest)?;
        if kind == Kind::Friend {
            return Ok(query);
        }
        let ns = element.ns();
        for child in element.children().filter(|child| child.ns == ns) {
            query.take(&child)?;
        }
        let cells = query.nodes.len().max(1) * query.names.len().max(1);
        if query.nodes.len() > NODES_MAX || query.names.len() > NAMES_MAX || cells > CELLS_MAX {
            return Err(Condition::PolicyViolation);
        }
        Ok(query)
    }

    /// The bare JID of whom it is about.
    pub fn asker(&self) -> JidRef<'_> {
        self.asker.as_jid().bare()
    }

    /// Which categories it is about; for a question that knows none, the one that stands for all.
    pub const fn categories(&self) -> Categories {
        match self.kind {
            Kind::Read => self.categories.set,
            kind @ (Kind::Friend | Kind::Control) => kind.categories(),
        }
    }

    fn take(&mut self, child: &Child<'a>) -> Result<(), Condition> {
        let (form, attr) = match (child.name, self.kind) {
            ("nd", _) => return self.take_node(child, Form::Short),
            ("node", _) => return self.take_node(child, Form::Long),
            ("f", Kind::Read) | ("p", Kind::Control) => (Form::Short, "n"),
            ("field", Kind::Read) | ("parameter", Kind::Control) => (Form::Long, "name"),
            _ => return Ok(()),
        };
        let name = child.attrs().find(|found| found.prefix.is_empty() && found.name == attr);
        let name = name.ok_or(Condition::BadRequest)?.value();
        Form::note(&mut self.spelling.names, form);
        if !self.names.contains(&name) {
            self.names.push(name);
        }
        // Whoever names too many is told so before all are compared.
        if self.names.len() > NAMES_MAX { Err(Condition::PolicyViolation) } else { Ok(()) }
    }

    fn take_node(&mut self, child: &Child<'a>, form: Form) -> Result<(), Condition> {
        Form::note(&mut self.spelling.node, form);
        let mut node = NodeRef::default();
        for attr in child.attrs().filter(|attr| attr.prefix.is_empty()) {
            let Some(part) = NodePart::of(attr.name) else { continue };
            Form::note(&mut self.spelling.node_attrs, part.form());
            *match part {
                NodePart::Id(_) => &mut node.id,
                NodePart::Source(_) => &mut node.source,
                NodePart::Partition(_) => &mut node.partition,
            } = attr.value();
        }
        if !self.nodes.contains(&node) {
            self.nodes.push(node);
        }
        if self.nodes.len() > NODES_MAX { Err(Condition::PolicyViolation) } else { Ok(()) }
    }
}

fn parse_jid<'a>(attr: Attr<'a>) -> Result<ParsedJid<'a>, Condition> {
    let parsed = match attr.value() {
        Cow::Borrowed(text) => ParsedJid::parse(text),
        Cow::Owned(text) => Jid::parse(&text).map(ParsedJid::Owned),
    };
    parsed.map_err(|_| Condition::BadRequest)
}
