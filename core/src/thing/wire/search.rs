//! Reading searches (XEP-0347 §3.15): operators, and which page of what they find.

use super::super::{BadTag, Comparison, Operator, Range, Side, TAG_NAME_CHARS_MAX, Test};
use super::read::{boolean, finite};
use super::{OPERATORS_MAX, PATTERN_CHARS_MAX, Problem};
use crate::iot::Interface;
use crate::xml::read::Node;

/// What somebody looks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// A thing is found that passes all of them; at least one.
    pub operators: Vec<Operator>,
    /// Things to leave out at the beginning.
    pub offset: u32,
    /// Things to be told of at most, if that was said; at least one.
    pub max: Option<u32>,
    /// Others may be asked if nothing is found here.
    pub distributed: bool,
}

impl Search {
    pub(super) fn read(payload: &Node) -> Result<Self, Problem> {
        if payload.children.len() > OPERATORS_MAX {
            return Err(Problem::TooManyOperators);
        }
        let operators: Vec<Operator> = payload.children.iter().map(operator).collect::<Result<_, _>>()?;
        if operators.is_empty() {
            return Err(Problem::NoOperator);
        }
        let max = payload.attr("maxCount").map(count).transpose()?;
        if max == Some(0) {
            return Err(Problem::NotACount);
        }
        Ok(Self {
            operators,
            offset: payload.attr("offset").map_or(Ok(0), count)?,
            max,
            distributed: boolean(payload, "distributed", false)?,
        })
    }
}

fn operator(element: &Node) -> Result<Operator, Problem> {
    if !matches!(Interface::of(&element.ns), Some((Interface::Discovery, _))) {
        return Err(Problem::UnknownOperator);
    }
    let name = element.attr("name").ok_or(Problem::Missing)?;
    if name.is_empty() {
        return Err(BadTag::Name.into());
    }
    if name.chars().count() > TAG_NAME_CHARS_MAX {
        return Err(BadTag::TooLong.into());
    }
    let wildcard = element.attr("nameWildcard").filter(|wildcard| !wildcard.is_empty());
    Ok(Operator { name: name.into(), wildcard: wildcard.map(pattern).transpose()?, test: test(element)? })
}

/// What an operator asks of a tag: strings first, since most are.
fn test(element: &Node) -> Result<Test, Problem> {
    let (is_number, rest) = match (element.name.strip_prefix("str"), element.name.strip_prefix("num")) {
        (Some(rest), _) => (false, rest),
        (None, Some(rest)) => (true, rest),
        (None, None) => return Err(Problem::UnknownOperator),
    };
    let attr = |name: &str| element.attr(name).ok_or(Problem::Missing);
    let side = match rest {
        "Range" => Some(Side::Inside),
        "NRange" => Some(Side::Outside),
        _ => None,
    };
    if let Some(side) = side {
        return Ok(if is_number {
            Test::NumRange(range(element, |text| Ok(finite(text)?))?, side)
        } else {
            Test::StrRange(range(element, pattern)?, side)
        });
    }
    let comparison = match rest {
        "Eq" => Comparison::Equal,
        "NEq" => Comparison::NotEqual,
        "Gt" => Comparison::Greater,
        "GtEq" => Comparison::GreaterOrEqual,
        "Lt" => Comparison::Less,
        "LtEq" => Comparison::LessOrEqual,
        "Mask" if !is_number => {
            let wildcard = pattern(attr("wildcard")?)?;
            // Nothing stands everywhere.
            if wildcard.is_empty() {
                return Err(Problem::Missing);
            }
            return Ok(Test::StrMask(pattern(attr("value")?)?, wildcard));
        }
        "RegEx" if !is_number => return Ok(Test::StrRegEx(pattern(attr("value")?)?)),
        _ => return Err(Problem::UnknownOperator),
    };
    let value = attr("value")?;
    Ok(if is_number { Test::Num(comparison, finite(value)?) } else { Test::Str(comparison, pattern(value)?) })
}

/// A range that is closed unless it says otherwise, and has one end at least.
fn range<T>(element: &Node, read: impl Fn(&str) -> Result<T, Problem>) -> Result<Range<T>, Problem> {
    let end = |name: &str, included: &str| {
        let included = boolean(element, included, true)?;
        let end = element.attr(name).map(&read).transpose()?;
        Ok::<_, Problem>(end.map(|end| (end, included)))
    };
    let range = Range { min: end("min", "minIncluded")?, max: end("max", "maxIncluded")? };
    if range.min.is_none() && range.max.is_none() { Err(Problem::Missing) } else { Ok(range) }
}

fn pattern(text: &str) -> Result<Box<str>, Problem> {
    if text.chars().count() > PATTERN_CHARS_MAX { Err(BadTag::TooLong.into()) } else { Ok(text.into()) }
}

/// An `xs:nonNegativeInteger`; one beyond what there can be is the most.
fn count(text: &str) -> Result<u32, Problem> {
    let text = text.trim();
    let digits = text.strip_prefix('+').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Problem::NotACount);
    }
    Ok(digits.parse().unwrap_or(u32::MAX))
}
