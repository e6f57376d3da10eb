//! Things: their names, what is said of them, and what is asked about them (XEP-0347 v0.5.1).
//!
//! Pure. Who owns what is `registry`'s; what a tag's name may look like is checked here.

use std::fmt;

pub mod uri;
pub mod wire;

/// Longest name of a tag, in characters (XEP-0347 §3.2 allows 32, later generations 64).
pub const TAG_NAME_CHARS_MAX: usize = 64;
/// Longest string in a tag, in characters.
pub const TAG_VALUE_CHARS_MAX: usize = 128;
/// The tag that is a secret of a thing and its owner: never told to anybody and never searched for.
pub const KEY: &str = "KEY";

/// Which of the things behind a JID: the three attributes of a node. All empty for the device itself; an attribute that is
/// empty is one that is not there, since clients write either.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName {
    /// `id`; `nodeId` in XEP-0347.
    pub id: Box<str>,
    /// `src`; `sourceId` in XEP-0347.
    pub source: Box<str>,
    /// `pt`; `cacheType` in XEP-0347.
    pub partition: Box<str>,
}

impl NodeName {
    /// Whether this is the device itself.
    pub fn is_device(&self) -> bool {
        self.id.is_empty() && self.source.is_empty() && self.partition.is_empty()
    }
}

/// What a tag says.
#[derive(Debug, Clone, PartialEq)]
pub enum TagValue {
    /// A string.
    Str(Box<str>),
    /// A number, finite.
    Num(f64),
}

/// Something that is said of a thing.
#[derive(Debug, Clone, PartialEq)]
pub struct Tag {
    /// Its name as given; names that differ in the case of ASCII letters alone are the same.
    pub name: Box<str>,
    /// What it says.
    pub value: TagValue,
}

impl Tag {
    /// Whether this is the tag of a name.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// How a value compares with the one that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named by what they are")]
pub enum Comparison {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// From where to where, an end that is not there being open.
#[derive(Debug, Clone, PartialEq)]
pub struct Range<T> {
    /// The least, and whether it is in.
    pub min: Option<(T, bool)>,
    /// The greatest, and whether it is in.
    pub max: Option<(T, bool)>,
}

/// What is asked of a tag. Strings compare by their bytes; a tag of the other type does not match, nor does one that is not
/// there, whatever is asked of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// `strEq` and its kin.
    Str(Comparison, Box<str>),
    /// `strRange`, or `strNRange` if it is to lie outside.
    StrRange(Range<Box<str>>, Side),
    /// `strMask`: a mask, and the text in it that stands for anything.
    StrMask(Box<str>, Box<str>),
    /// `strRegEx`: a regular expression for the whole value.
    StrRegEx(Box<str>),
    /// `numEq` and its kin.
    Num(Comparison, f64),
    /// `numRange`, or `numNRange` if it is to lie outside.
    NumRange(Range<f64>, Side),
}

/// On which side of a range a value is to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named by what they are")]
pub enum Side {
    Inside,
    Outside,
}

/// One of what a search asks for; a thing is found that passes all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Operator {
    /// Name of the tag. `_` and `:` are the same in it, since harmonised interfaces are written both ways.
    pub name: Box<str>,
    /// The text in the name that stands for anything (`nameWildcard`): then one of the tags so named has to pass.
    pub wildcard: Option<Box<str>>,
    /// What is asked.
    pub test: Test,
}

/// What is wrong with a tag or an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named by what they are")]
pub enum BadTag {
    Name,
    TooLong,
    NotANumber,
}

impl fmt::Display for BadTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "a tag's name is empty, or has whitespace or one of : # = < > in it",
            Self::TooLong => "a tag's name or value is too long",
            Self::NotANumber => "a number is none, or is not finite",
        })
    }
}

impl std::error::Error for BadTag {}

/// Checks the name of a tag (XEP-0347 §3.2; what is more would break the URI it goes into).
///
/// # Errors
/// [`BadTag`].
pub fn check_tag_name(name: &str) -> Result<(), BadTag> {
    let is_bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | '#' | '=' | '<' | '>');
    if name.is_empty() || name.chars().any(is_bad) {
        return Err(BadTag::Name);
    }
    if name.chars().count() > TAG_NAME_CHARS_MAX { Err(BadTag::TooLong) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tags_are_short_and_fit_into_a_uri() {
        let check = |name: &str, expected| assert_eq!(check_tag_name(name), expected, "{name:?}");
        check("SN", Ok(()));
        check("urn_nfi_iot_hi_sensor_temperature", Ok(()));
        check("höhe", Ok(()));
        check(&"x".repeat(TAG_NAME_CHARS_MAX), Ok(()));
        check(&"x".repeat(TAG_NAME_CHARS_MAX + 1), Err(BadTag::TooLong));
        for bad in ["", "a b", "a:b", "#V", "a=b", "a<b", "a>b", "a\u{1}", "a\u{a0}"] {
            check(bad, Err(BadTag::Name));
        }
    }
}
