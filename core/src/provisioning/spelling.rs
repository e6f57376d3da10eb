//! How a request was spelt, which is how its answer is: XEP-0324 has long names, what came after it short ones, and
//! clients have mixed them.

use super::{Categories, NodeRef};
use crate::iot::Generation;
use crate::thing::NodeName;
use crate::xml::write;

/// Categories by their places: the short name and the long one.
const CATEGORIES: [(&str, &str); Categories::COUNT] =
    [("m", "momentary"), ("p", "peak"), ("s", "status"), ("c", "computed"), ("i", "identity"), ("h", "historical")];

/// The place of historical values, of which XEP-0324 has many kinds.
const HISTORICAL: usize = 5;

/// The long names of historical values.
const HISTORICAL_NAMES: [&str; 10] = [
    "historical",
    "historicalSecond",
    "historicalMinute",
    "historicalHour",
    "historicalDay",
    "historicalWeek",
    "historicalMonth",
    "historicalQuarter",
    "historicalYear",
    "historicalOther",
];

/// Which names are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Long,
    Short,
    Both,
}

impl Form {
    /// What is usual in a generation.
    pub(super) const fn of(generation: Generation) -> Self {
        match generation {
            Generation::Xsf => Self::Long,
            Generation::Ieee | Generation::Nf | Generation::Nfi => Self::Short,
        }
    }

    /// How to name parameters to somebody who named none: clients of the second and the third generation read the
    /// first's form only, against their schema.
    pub(super) const fn of_parameters(generation: Generation) -> Self {
        match generation {
            Generation::Xsf | Generation::Ieee | Generation::Nf => Self::Long,
            Generation::Nfi => Self::Both,
        }
    }

    pub(super) const fn is_long(self) -> bool {
        matches!(self, Self::Long | Self::Both)
    }

    pub(super) const fn is_short(self) -> bool {
        matches!(self, Self::Short | Self::Both)
    }

    /// What was seen before, if anything, and this.
    pub(super) fn note(seen: &mut Option<Self>, form: Self) {
        *seen = Some(match *seen {
            None => form,
            Some(before) if before == form => form,
            Some(_) => Self::Both,
        });
    }
}

/// The categories of a request as they were named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct NamedCategories {
    pub(super) set: Categories,
    /// `all` was said.
    all: bool,
    /// Which of [`HISTORICAL_NAMES`] were said.
    historical: u16,
    form: Option<Form>,
}

impl NamedCategories {
    /// Takes an attribute; whether it was one of these. `None` if its value is no boolean.
    pub(super) fn take(&mut self, name: &str, value: &str) -> Option<bool> {
        let historical = HISTORICAL_NAMES.iter().position(|&known| known == name);
        let short = CATEGORIES.iter().position(|&(known, _)| known == name);
        let long = || CATEGORIES.iter().position(|&(_, known)| known == name);
        let (place, form) = match (historical, short) {
            _ if name == "all" => (None, None),
            (Some(_), _) => (Some(HISTORICAL), Some(Form::Long)),
            (None, Some(place)) => (Some(place), Some(Form::Short)),
            (None, None) => match long() {
                Some(place) => (Some(place), Some(Form::Long)),
                None => return Some(false),
            },
        };
        if !boolean(value)? {
            return Some(true);
        }
        if let Some(form) = form {
            Form::note(&mut self.form, form);
        }
        match place {
            Some(place) => self.set = self.set.with(place),
            None => (self.all, self.set) = (true, Categories::ALL),
        }
        if let Some(bit) = historical {
            self.historical |= 1 << bit;
        }
        Some(true)
    }

    /// Writes those of them that are in the set, as they were named.
    pub(super) fn write(&self, out: &mut Vec<u8>, set: Categories, generation: Generation) {
        let set = set.and(self.set);
        if self.all && set == Categories::ALL {
            return write::attr(out, "all", "true");
        }
        let form = self.form.unwrap_or(Form::of(generation));
        for (place, &(short, long)) in CATEGORIES.iter().enumerate().filter(|&(place, _)| set.has(place)) {
            if form.is_short() {
                write::attr(out, short, "true");
            }
            if !form.is_long() {
            } else if place == HISTORICAL && self.historical != 0 {
                let said = HISTORICAL_NAMES.iter().enumerate().filter(|&(bit, _)| self.historical >> bit & 1 != 0);
                said.for_each(|(_, name)| write::attr(out, name, "true"));
            } else {
                write::attr(out, long, "true");
            }
        }
    }
}

/// Writes categories with their short names.
pub(super) fn write_categories(out: &mut Vec<u8>, set: Categories) {
    if set == Categories::ALL {
        return write::attr(out, "all", "true");
    }
    for (_, &(short, _)) in CATEGORIES.iter().enumerate().filter(|&(place, _)| set.has(place)) {
        write::attr(out, short, "true");
    }
}

/// Which part of a node's name an attribute gives, and in which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodePart {
    Id(Form),
    Source(Form),
    Partition(Form),
}

impl NodePart {
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "id" => Self::Id(Form::Short),
            "src" => Self::Source(Form::Short),
            "pt" => Self::Partition(Form::Short),
            "nodeId" => Self::Id(Form::Long),
            "sourceId" => Self::Source(Form::Long),
            "cacheType" => Self::Partition(Form::Long),
            _ => return None,
        })
    }

    pub(super) const fn form(self) -> Form {
        match self {
            Self::Id(form) | Self::Source(form) | Self::Partition(form) => form,
        }
    }
}

/// Writes the attributes of a node; those that are empty are left out.
pub(super) fn write_node_attrs(out: &mut Vec<u8>, form: Form, id: &str, source: &str, partition: &str) {
    let names = match form {
        Form::Long => ["nodeId", "sourceId", "cacheType"],
        Form::Short | Form::Both => ["id", "src", "pt"],
    };
    for (name, value) in names.into_iter().zip([id, source, partition]).filter(|(_, value)| !value.is_empty()) {
        write::attr(out, name, value);
    }
}

/// Writes a node as an element; `element` is the form of its name, `attrs` that of its attributes.
pub(super) fn write_node(out: &mut Vec<u8>, element: Form, attrs: Form, node: &NodeRef<'_>) {
    out.extend_from_slice(if element == Form::Long { b"<node" } else { b"<nd" });
    write_node_attrs(out, attrs, &node.id, &node.source, &node.partition);
    out.extend_from_slice(b"/>");
}

/// Writes a node with its short names, but for the device itself, which is what is meant without.
pub(super) fn write_node_name(out: &mut Vec<u8>, node: &NodeName) {
    if !node.is_device() {
        out.extend_from_slice(b"<nd");
        write_node_attrs(out, Form::Short, &node.id, &node.source, &node.partition);
        out.extend_from_slice(b"/>");
    }
}

/// Writes `<short n='…'/>`, `<long name='…'/>`, or both.
pub(super) fn write_name(out: &mut Vec<u8>, form: Form, short: &str, long: &str, name: &str) {
    let mut put = |element: &str, attr: &str| {
        out.push(b'<');
        out.extend_from_slice(element.as_bytes());
        write::attr(out, attr, name);
        out.extend_from_slice(b"/>");
    };
    if form.is_short() {
        put(short, "n");
    }
    if form.is_long() {
        put(long, "name");
    }
}

/// A boolean (XML Schema part 2 §3.2.2).
pub(super) fn boolean(value: &str) -> Option<bool> {
    match value.trim_ascii() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}
