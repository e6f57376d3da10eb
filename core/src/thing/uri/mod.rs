//! `iotdisco:` URIs: what is printed on a thing, so that its owner can claim it, and what names things to search for.
//!
//! Pure. Read and written by tools; the broker never meets one on the wire. A tag is `[#]name op value`, tags stand between
//! `;`, `#` marks a number, a URI has at most [`URI_BYTES_MAX`] bytes. Bytes are written as `%XX`; a `\` makes the character
//! behind it, `;` or `\`, part of a value. Both are undone in one pass, so that what one of them stands for is never taken
//! for the other. Whatever is not understood to the last byte is refused.
//!
//! Which of three things a URI is, is seen from its tags: with `KEY` it is a [`Claim`], with `JID` a [`Reference`], else a
//! [`Search`]. `R`, `JID`, `NID`, `SID` and `PT` are addresses, and no tags of a thing.
//!
//! Spec: XEP-0347 v0.5.1 §3.6 for the older text form `IoTDisco;…`, which is read, too, and never written; the URI is of the
//! later generations.

use std::fmt;

use super::{BadTag, NodeName, Operator, Tag};
use crate::jid::Jid;

mod read;
#[cfg(test)]
mod tests;
mod write;

/// Longest URI, in bytes: the most that a QR code of the lowest level holds is 2 953, so that what is longer was never on a
/// label.
pub const URI_BYTES_MAX: usize = 4096;

/// Names that have a meaning of their own in a URI: the key, the registry's address, and those of a node.
const RESERVED: [&str; 6] = [super::KEY, REGISTRY, JID, NODE_ID, SOURCE, PARTITION];
const REGISTRY: &str = "R";
const JID: &str = "JID";
const NODE_ID: &str = "NID";
const SOURCE: &str = "SID";
const PARTITION: &str = "PT";

/// What a URI says.
#[derive(Debug, Clone, PartialEq)]
pub enum Uri {
    /// What it takes to own a thing.
    Claim(Claim),
    /// What to look for.
    Search(Search),
    /// Which thing is meant.
    Reference(Reference),
}

/// What it takes to own a thing.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// What the thing says of itself, but for its key.
    pub tags: Vec<Tag>,
    /// The secret of the thing and whoever owns it next, not empty.
    pub key: Box<str>,
    /// Which node of its account, if the URI says so; almost none does, as tags and key are enough.
    pub node: NodeName,
    /// Where to claim it. Some clients take a URI without it for none of theirs.
    pub registry: Option<Jid>,
}

/// What to look for.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// All of them hold of what is looked for; at least one.
    pub operators: Vec<Operator>,
    /// Where to search.
    pub registry: Option<Jid>,
}

/// Which thing is meant.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Bare JID of its account.
    pub jid: Jid,
    /// Which node of it.
    pub node: NodeName,
    /// What else is said of it.
    pub tags: Vec<Tag>,
    /// The registry that knows it.
    pub registry: Option<Jid>,
}

impl Claim {
    /// All that is to be said to the registry: the tags, and the key as the last of them.
    pub fn all_tags(&self) -> Vec<Tag> {
        let key = Tag { name: super::KEY.into(), value: super::TagValue::Str(self.key.clone()) };
        self.tags.iter().cloned().chain([key]).collect()
    }
}

/// Why a text is no URI, or something can't be written as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UriError {
    /// It has more than [`URI_BYTES_MAX`] bytes.
    TooLong,
    /// It does not begin with `iotdisco:`.
    NotIotdisco,
    /// It has no tag, or an empty one.
    Empty,
    /// A tag without an operator, by its text.
    NoOperator(Box<str>),
    /// A `%` without two hexadecimal digits, or a `\` before anything but `;` and `\`.
    BadEscape,
    /// Bytes that are no UTF-8.
    NotUtf8,
    /// A character that XML does not have.
    BadCharacter,
    /// A tag that can't be one, by its name.
    Tag(Box<str>, BadTag),
    /// A name for the second time, unless one bounds a value from below and the other from above.
    Repeated(Box<str>),
    /// A name that must be text with `=`, and not empty: [`KEY`](super::KEY) and the addresses, by their name.
    Reserved(Box<str>),
    /// An address that is none, by its name.
    Address(Box<str>),
    /// A mask for a number, or without the character that stands for anything.
    Mask(Box<str>),
    /// Comparisons beside what is meant to claim a thing or to name one.
    Comparison(Box<str>),
    /// It has a key and a thing's address, or a node's name without the thing's: it could be meant either way.
    Mixed,
    /// The URI has no words for it: a regular expression, a wildcard in a name, a mask whose wildcard is not one character, a
    /// range that is open or empty, or names that mean something else in it.
    Unsayable,
}

impl fmt::Display for UriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "an iotdisco URI has at most {URI_BYTES_MAX} bytes"),
            Self::NotIotdisco => f.write_str("it does not begin with iotdisco:"),
            Self::Empty => f.write_str("there is no tag, or an empty one"),
            Self::NoOperator(tag) => write!(f, "{tag:?} is no tag: there is no = in it, and no other operator"),
            Self::BadEscape => f.write_str("a % without two hexadecimal digits, or a \\ before neither ; nor \\"),
            Self::NotUtf8 => f.write_str("it is no UTF-8"),
            Self::BadCharacter => f.write_str("a control character"),
            Self::Tag(name, error) => write!(f, "{name:?}: {error}"),
            Self::Repeated(name) => write!(f, "{name:?} is there more than once"),
            Self::Reserved(name) => write!(f, "{name} is text, given with = and not empty"),
            Self::Address(name) => write!(f, "{name} is no address"),
            Self::Mask(name) => write!(f, "{name:?}: a mask is of text, and begins with its wildcard"),
            Self::Comparison(name) => {
                write!(f, "{name:?}: what has a KEY or a JID is no search, each tag is given with =")
            }
            Self::Mixed => f.write_str(
                "it neither claims a thing nor names one: of KEY and JID it has both, or NID, SID or PT without either",
            ),
            Self::Unsayable => f.write_str("this can't be said in an iotdisco URI"),
        }
    }
}

impl std::error::Error for UriError {}
