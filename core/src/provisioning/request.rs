//! What somebody asks of a device itself: a read-out, events, a form of its parameters, setting them. A broker that decides in
//! the device's stead reads them here (XEP-0323 v0.6, XEP-0325 v0.5.1, and the generations after them).
//!
//! The device reads the same bytes after us, and perhaps less strictly. So what can be read in two ways is refused, what says
//! less than it may mean is taken for all of it, and children count whatever their namespace.

use std::borrow::Cow;

use super::spelling::{NamedCategories, NodePart};
use super::{CELLS_MAX, Categories, Kind, NAMES_MAX, NODES_MAX, NodeRef, Tokens};
use crate::iot::{Exchange, Generation};
use crate::limits::ScanLimits;
use crate::ns;
use crate::stanza::Condition;
use crate::xml::{Attr, Child, Element, Scanned, Scanner, StreamNamespaces};

static NO_NAMESPACES: StreamNamespaces = StreamNamespaces::NONE;

/// What is asked of a device.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// What.
    pub kind: Kind,
    /// The generation it was asked in.
    pub generation: Generation,
    /// The tokens that came with it.
    pub tokens: Tokens<'a>,
    /// Of which nodes; none is of the device itself.
    pub nodes: Vec<NodeRef<'a>>,
    /// Which categories of fields, all if it names none; for parameters the one that stands for all.
    pub categories: Categories,
    /// Which fields or parameters; none is all.
    pub names: Vec<Cow<'a, str>>,
}

impl<'a> Request<'a> {
    /// What an element asks, if it asks something of a device: `req` of sensor data and `subscribe` of events read, `set` and
    /// `getForm` of control control.
    pub fn kind_of(ns: &str, name: &str) -> Option<(Kind, Generation)> {
        let (exchange, generation) = Exchange::of(ns)?;
        let kind = match (exchange, name) {
            (Exchange::SensorData, "req") | (Exchange::Events, "subscribe") => Kind::Read,
            (Exchange::Control, "set" | "getForm") => Kind::Control,
            (Exchange::SensorData | Exchange::Events | Exchange::Control, _) => return None,
        };
        Some((kind, generation))
    }

    /// A subscription to presence: a stanza without a payload.
    pub const fn subscription() -> Self {
        Self {
            kind: Kind::Friend,
            generation: Generation::DEFAULT,
            tokens: Tokens { service: Cow::Borrowed(""), device: Cow::Borrowed(""), user: Cow::Borrowed("") },
            nodes: Vec::new(),
            categories: Kind::Friend.categories(),
            names: Vec::new(),
        }
    }

    /// Reads the payload of a stanza to a device, as written, `<` to `>`; `None` if it asks nothing of it.
    ///
    /// # Errors
    /// `bad-request` for what is not whole, or can be read in two ways; `policy-violation` beyond the bounds.
    pub fn read(scanner: &'a mut Scanner, payload: &'a str) -> Result<Option<Self>, Condition> {
        match scanner.next(&ScanLimits::SCANNED, &NO_NAMESPACES, payload.as_bytes()) {
            Ok(Scanned::Element { element, .. }) => Self::of(element),
            _ => Err(Condition::BadRequest),
        }
    }

    fn of(element: Element<'a>) -> Result<Option<Self>, Condition> {
        let Some((kind, generation)) = Self::kind_of(element.ns(), element.name()) else { return Ok(None) };
        let (nodes, names) = (Vec::new(), Vec::new());
        let (mut service, mut device, mut user) = (None, None, None);
        let mut categories = NamedCategories::default();
        for attr in element.attrs().filter(|attr| attr.prefix.is_empty()) {
            match attr.name {
                "st" | "serviceToken" => once(&mut service, attr)?,
                "dt" | "deviceToken" => once(&mut device, attr)?,
                "ut" | "userToken" => once(&mut user, attr)?,
                name if kind == Kind::Read => {
                    categories.take(name, &attr.value()).ok_or(Condition::BadRequest)?;
                }
                _ => {}
            }
        }
        let tokens = Tokens {
            service: service.unwrap_or_default(),
            device: device.unwrap_or_default(),
            user: user.unwrap_or_default(),
        };
        let categories = if categories.set.is_empty() { kind.categories() } else { categories.set };
        let mut request = Self { kind, generation, tokens, nodes, categories, names };
        for child in element.children() {
            request.take(&element, &child)?;
        }
        let cells = request.nodes.len().max(1) * request.names.len().max(1);
        if cells > CELLS_MAX { Err(Condition::PolicyViolation) } else { Ok(Some(request)) }
    }

    fn take(&mut self, element: &Element<'a>, child: &Child<'a>) -> Result<(), Condition> {
        match (child.name, self.kind) {
            ("nd" | "node", _) => self.take_node(child),
            ("x", Kind::Control) if child.ns == ns::DATA_FORMS => {
                let form = element.standalone(child).ok_or(Condition::BadRequest)?;
                form_fields(&form)?.into_iter().try_for_each(|name| self.take_name(Cow::Owned(name)))
            }
            ("f" | "field", _) | (_, Kind::Control) => {
                let mut name = None;
                for attr in child.attrs().filter(|attr| attr.prefix.is_empty() && matches!(attr.name, "n" | "name")) {
                    once(&mut name, attr)?;
                }
                self.take_name(name.unwrap_or_default())
            }
            (_, Kind::Read | Kind::Friend) => Ok(()),
        }
    }

    fn take_name(&mut self, name: Cow<'a, str>) -> Result<(), Condition> {
        // No name is as good as none given, and would allow what others are asked for.
        if name.is_empty() {
            return Err(Condition::BadRequest);
        }
        if !self.names.contains(&name) {
            self.names.push(name);
        }
        // Whoever names too many is told so before all are compared.
        if self.names.len() > NAMES_MAX { Err(Condition::PolicyViolation) } else { Ok(()) }
    }

    fn take_node(&mut self, child: &Child<'a>) -> Result<(), Condition> {
        let (mut id, mut source, mut partition) = (None, None, None);
        for attr in child.attrs().filter(|attr| attr.prefix.is_empty()) {
            let part = match NodePart::of(attr.name) {
                Some(NodePart::Id(_)) => &mut id,
                Some(NodePart::Source(_)) => &mut source,
                Some(NodePart::Partition(_)) => &mut partition,
                None => continue,
            };
            once(part, attr)?;
        }
        let part = Option::unwrap_or_default;
        let node = NodeRef { id: part(id), source: part(source), partition: part(partition) };
        if !self.nodes.contains(&node) {
            self.nodes.push(node);
        }
        if self.nodes.len() > NODES_MAX { Err(Condition::PolicyViolation) } else { Ok(()) }
    }
}

/// Takes what may be given once, or twice alike, in its short form and its long one.
fn once<'a>(place: &mut Option<Cow<'a, str>>, attr: Attr<'a>) -> Result<(), Condition> {
    let value = attr.value();
    if place.as_ref().is_some_and(|known| *known != value) {
        return Err(Condition::BadRequest);
    }
    *place = Some(value);
    Ok(())
}

/// The names of the fields of a data form (XEP-0004), but for its type.
fn form_fields(form: &str) -> Result<Vec<String>, Condition> {
    let mut scanner = Scanner::new();
    let Ok(Scanned::Element { element, .. }) = scanner.next(&ScanLimits::SCANNED, &NO_NAMESPACES, form.as_bytes())
    else {
        return Err(Condition::BadRequest);
    };
    let fields = element.children().filter(|child| child.name == "field");
    let names = fields.map(|field| {
        let var = field.attrs().find(|attr| attr.prefix.is_empty() && attr.name == "var");
        var.map_or_else(String::new, |var| var.value().into_owned())
    });
    Ok(names.filter(|name| name != "FORM_TYPE").take(NAMES_MAX + 1).collect())
}
