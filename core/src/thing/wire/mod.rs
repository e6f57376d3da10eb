//! The wire form of the Thing Registry (XEP-0347 v0.5.1 and its successors): requests read, answers and notices written, in
//! any generation.
//!
//! There is one model of it all. What a request was written in, a [`Style`], selects how the answer to it is written; nothing
//! else differs between the generations, and what a later one added is understood in all. Pure; who may do what, and what
//! comes of it, is `registry`'s.

mod read;
mod search;
#[cfg(test)]
mod tests;
mod write;

use std::fmt;

pub use self::read::{NodeAttrs, Request, Tags, read_node};
pub use self::search::Search;
pub use self::write::{
    begin_found, begin_thing, claimed, clear_cache, disowned, end_found, end_thing, number, number_tag, removed,
    text_tag, thing, write_node,
};
use super::BadTag;
use crate::iot::Generation;
use crate::stanza::Condition;

/// Tags of a thing, but for its key. Default 64: there are 22 predefined ones. Beyond it a request is
/// `resource-constraint`.
pub const TAGS_MAX: usize = 64;
/// Bytes of a thing's tags, names and values, but for its key. Default 1 024: things are kept by the million. Beyond it a
/// request is `resource-constraint`.
pub const TAG_BYTES_MAX: usize = 1_024;
/// Operators of a search. Default 32: more than there are predefined tags. Beyond it a search is `resource-constraint`.
pub const OPERATORS_MAX: usize = 32;
/// Characters of what an operator compares with, regular expressions among it. Default 256: twice the longest value.
pub const PATTERN_CHARS_MAX: usize = 256;
/// Bytes of the three attributes that name a node. Default 768: they are part of keys.
pub const NODE_BYTES_MAX: usize = 768;

/// How the attributes are called that name a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `nodeId`, `sourceId`, `cacheType`: the text of XEP-0347, in the first generation alone.
    Long,
    /// `id`, `src`, `pt`: all later generations, and clients of the first.
    Short,
}

impl Dialect {
    /// Names of the attributes for id, source and partition.
    pub const fn attrs(self) -> [&'static str; 3] {
        match self {
            Self::Long => ["nodeId", "sourceId", "cacheType"],
            Self::Short => ["id", "src", "pt"],
        }
    }
}

/// What a peer writes, and so reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Style {
    /// Which namespaces.
    pub generation: Generation,
    /// Which attributes.
    pub dialect: Dialect,
}

impl Style {
    /// What the text of a generation says.
    pub const fn of(generation: Generation) -> Self {
        let dialect = match generation {
            Generation::Xsf => Dialect::Long,
            Generation::Ieee | Generation::Nf | Generation::Nfi => Dialect::Short,
        };
        Self { generation, dialect }
    }

    /// The same generation, written as somebody wrote it; only in the first there is a choice.
    #[must_use]
    pub const fn with(self, seen: Option<Dialect>) -> Self {
        match (self.generation, seen) {
            (Generation::Xsf, Some(dialect)) => Self { dialect, ..self },
            (Generation::Xsf | Generation::Ieee | Generation::Nf | Generation::Nfi, _) => self,
        }
    }
}

impl Default for Style {
    fn default() -> Self {
        Self::of(Generation::DEFAULT)
    }
}

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// There is no such request, or not as a get or a set.
    Unknown,
    /// A tag.
    Tag(BadTag),
    /// A tag or an operator lacks an attribute.
    Missing,
    /// Neither `true` nor `false`.
    NotABoolean,
    /// No count.
    NotACount,
    /// The device is not named, or by no address.
    Jid,
    /// A node's name is longer than [`NODE_BYTES_MAX`].
    NodeTooLong,
    /// More than [`TAGS_MAX`], or than [`TAG_BYTES_MAX`].
    TooManyTags,
    /// A search for everything.
    NoOperator,
    /// An operator that is not known: without it, more would be found than was asked for.
    UnknownOperator,
    /// More than [`OPERATORS_MAX`].
    TooManyOperators,
}

impl Problem {
    /// How it is answered.
    pub const fn condition(self) -> Condition {
        match self {
            Self::Unknown => Condition::FeatureNotImplemented,
            Self::Jid => Condition::JidMalformed,
            Self::NodeTooLong | Self::TooManyTags | Self::TooManyOperators => Condition::ResourceConstraint,
            Self::Tag(_)
            | Self::Missing
            | Self::NotABoolean
            | Self::NotACount
            | Self::NoOperator
            | Self::UnknownOperator => Condition::BadRequest,
        }
    }
}

impl From<BadTag> for Problem {
    fn from(bad: BadTag) -> Self {
        Self::Tag(bad)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "there is no such request",
            Self::Tag(bad) => return bad.fmt(f),
            Self::Missing => "an attribute is missing",
            Self::NotABoolean => "a truth value is neither true nor false",
            Self::NotACount => "a count is none",
            Self::Jid => "the device is not named by an address",
            Self::NodeTooLong => "the name of a node is too long",
            Self::TooManyTags => "there are too many tags, or they are too long",
            Self::NoOperator => "a search asks for nothing",
            Self::UnknownOperator => "an operator is not known",
            Self::TooManyOperators => "there are too many operators",
        })
    }
}

impl std::error::Error for Problem {}
