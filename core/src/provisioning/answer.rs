//! What devices are told.

use super::query::Query;
use super::spelling::{self, Form};
use super::{Categories, Kind};
use crate::iot::{Generation, Interface};
use crate::xml::write;

/// How much of what was asked for is allowed: all of it for each of the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission<'p> {
    /// For which of the nodes that were asked about, by their places, in order. If none was named, it is for the device
    /// and this is not looked at.
    pub nodes: Vec<usize>,
    /// Which of the categories.
    pub categories: Categories,
    /// Which fields or parameters; `None` if there were none named and all are allowed.
    pub names: Option<Vec<&'p str>>,
}

impl Query<'_> {
    /// Writes the answer, spelt as the question was.
    ///
    /// A device reads what is in the answer and not what it asked for, so all that is allowed is repeated.
    pub fn write_answer(&self, out: &mut Vec<u8>, permission: Option<&Permission<'_>>) {
        let result = if permission.is_some() { "true" } else { "false" };
        out.push(b'<');
        out.extend_from_slice(self.kind.name().as_bytes());
        out.extend_from_slice(b"Response");
        write::attr_raw(out, "xmlns", Interface::Device.ns(self.generation));
        write::attr_raw(out, "jid", self.asker_raw);
        if self.kind == Kind::Read {
            let categories = permission.map_or(Categories::ALL, |permission| permission.categories);
            self.categories.write(out, categories, self.generation);
        }
        write::attr_raw(out, "result", result);
        if self.kind == Kind::Friend && self.generation == Generation::Xsf {
            write::attr_raw(out, "secondaryTrustAllowed", "false");
        }
        let before = out.len();
        out.push(b'>');
        if let Some(permission) = permission {
            self.write_parts(out, permission);
        }
        if out.len() == before + 1 {
            out.truncate(before);
            out.extend_from_slice(b"/>");
        } else {
            out.extend_from_slice(b"</");
            out.extend_from_slice(self.kind.name().as_bytes());
            out.extend_from_slice(b"Response>");
        }
    }

    fn write_parts(&self, out: &mut Vec<u8>, permission: &Permission<'_>) {
        let usual = Form::of(self.generation);
        let (element, attrs) = (self.spelling.node.unwrap_or(usual), self.spelling.node_attrs.unwrap_or(usual));
        for node in permission.nodes.iter().filter_map(|&at| self.nodes.get(at)) {
            spelling::write_node(out, element, attrs, node);
        }
        let (form, short, long) = match self.kind {
            Kind::Friend => return,
            Kind::Read => (self.spelling.names.unwrap_or(usual), "f", "field"),
            Kind::Control => (self.spelling.names.unwrap_or(Form::of_parameters(self.generation)), "p", "parameter"),
        };
        // A field is read by either name; who mixed them is told with those of the generation.
        let form = if self.kind == Kind::Read && form == Form::Both { usual } else { form };
        for name in permission.names.iter().flatten() {
            spelling::write_name(out, form, short, long, name);
        }
    }
}

/// Writes `<clearCache/>`, the payload of an iq set that tells a device to ask anew.
pub fn write_clear_cache(out: &mut Vec<u8>, generation: Generation) {
    out.extend_from_slice(b"<clearCache");
    write::attr_raw(out, "xmlns", Interface::Device.ns(generation));
    out.extend_from_slice(b"/>");
}

/// Writes `<friend/>` or `<unfriend/>`, the payload of a message that recommends a device to ask somebody for presence,
/// or to end what is between them.
pub fn write_recommendation(out: &mut Vec<u8>, generation: Generation, is_friend: bool, jid: &str) {
    out.extend_from_slice(if is_friend { b"<friend" } else { b"<unfriend" });
    write::attr_raw(out, "xmlns", Interface::Device.ns(generation));
    write::attr(out, "jid", jid);
    out.extend_from_slice(b"/>");
}
