//! Reading: the URI, and the older text form.

use super::{
    Claim, JID, NODE_ID, PARTITION, REGISTRY, RESERVED, Reference, SOURCE, Search, URI_BYTES_MAX, Uri, UriError,
};
use crate::jid::Jid;
use crate::thing::{
    BadTag, Comparison, KEY, NodeName, Operator, Range, Side, TAG_VALUE_CHARS_MAX, Tag, TagValue, Test, check_tag_name,
};

const SCHEME: &str = "iotdisco";

/// How a name stands to its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Compares(Comparison),
    Masked,
}

/// As they are written, the longer before what they begin with.
const RELATIONS: [(&str, Relation); 7] = [
    ("<>", Relation::Compares(Comparison::NotEqual)),
    ("<=", Relation::Compares(Comparison::LessOrEqual)),
    (">=", Relation::Compares(Comparison::GreaterOrEqual)),
    ("=", Relation::Compares(Comparison::Equal)),
    ("<", Relation::Compares(Comparison::Less)),
    (">", Relation::Compares(Comparison::Greater)),
    ("~", Relation::Masked),
];

/// `[#]name op value`, its escapes undone.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    is_number: bool,
    name: Box<str>,
    relation: Relation,
    value: Box<str>,
}

impl Uri {
    /// Reads a URI, or the older text form.
    ///
    /// # Errors
    /// [`UriError`]; all but [`UriError::Unsayable`].
    pub fn parse(text: &str) -> Result<Self, UriError> {
        if text.len() > URI_BYTES_MAX {
            return Err(UriError::TooLong);
        }
        if text.contains(is_bad) {
            return Err(UriError::BadCharacter);
        }
        let scheme = text.get(..SCHEME.len()).filter(|scheme| scheme.eq_ignore_ascii_case(SCHEME));
        let rest = scheme.and_then(|_| text.get(SCHEME.len()..)).ok_or(UriError::NotIotdisco)?;
        let parts: Result<_, _> = match (rest.strip_prefix(':'), rest.strip_prefix(';')) {
            (Some(tags), _) => split(tags).map(read_part).collect(),
            (None, Some(tags)) => split(tags).map(read_older_part).collect(),
            (None, None) => return Err(UriError::NotIotdisco),
        };
        classify(parts?)
    }

    /// What tags say that come from elsewhere, without escapes and each with `=`: whether it is a number, its name, its value.
    ///
    /// # Errors
    /// [`UriError`], as for [`Uri::parse`].
    pub fn of_tags<'a>(tags: impl IntoIterator<Item = (bool, &'a str, &'a str)>) -> Result<Self, UriError> {
        let relation = Relation::Compares(Comparison::Equal);
        let part = |(is_number, name, value): (bool, &str, &str)| {
            let bad = name.contains(is_bad) || value.contains(is_bad);
            if bad {
                Err(UriError::BadCharacter)
            } else {
                Ok(Part { is_number, name: name.into(), relation, value: value.into() })
            }
        };
        classify(tags.into_iter().map(part).collect::<Result<_, _>>()?)
    }
}

/// What XML does not have (XML 1.0 §2.2), and so no stanza.
fn is_bad(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

/// What stands between `;` that have no `\` before them.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let ends = c == ';' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })
}

fn read_part(text: &str) -> Result<Part, UriError> {
    let (is_number, rest) = number_mark(text)?;
    let at = rest.find(['=', '<', '>', '~']).ok_or_else(|| UriError::NoOperator(text.into()))?;
    let (name, rest) = rest.split_at(at);
    let found = RELATIONS.into_iter().find_map(|(sign, relation)| Some((relation, rest.strip_prefix(sign)?)));
    let (relation, value) = found.ok_or_else(|| UriError::NoOperator(text.into()))?;
    Ok(Part { is_number, name: unescape(name, true)?, relation, value: unescape(value, true)? })
}

/// The older form has `:` behind the name, and no percent-encoding.
fn read_older_part(text: &str) -> Result<Part, UriError> {
    let (is_number, rest) = number_mark(text)?;
    let (name, value) = rest.split_once(':').ok_or_else(|| UriError::NoOperator(text.into()))?;
    let relation = Relation::Compares(Comparison::Equal);
    Ok(Part { is_number, name: name.into(), relation, value: unescape(value, false)? })
}

fn number_mark(text: &str) -> Result<(bool, &str), UriError> {
    match text.strip_prefix('#') {
        _ if text.is_empty() => Err(UriError::Empty),
        Some(rest) => Ok((true, rest)),
        None => Ok((false, text)),
    }
}

fn unescape(text: &str, percent: bool) -> Result<Box<str>, UriError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => bytes.next().filter(|byte| matches!(byte, b';' | b'\\')).ok_or(UriError::BadEscape)?,
            b'%' if percent => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit().ok_or(UriError::BadEscape)?, digit().ok_or(UriError::BadEscape)?);
                (high << 4 | low) as u8
            }
            byte => byte,
        });
    }
    let text = String::from_utf8(out).map_err(|_| UriError::NotUtf8)?;
    if text.contains(is_bad) { Err(UriError::BadCharacter) } else { Ok(text.into()) }
}

/// What has a meaning of its own.
#[derive(Default)]
struct Special {
    key: Option<Box<str>>,
    registry: Option<Jid>,
    jid: Option<Jid>,
    node: NodeName,
}

impl Special {
    /// Takes a part if it is one of them; gives it back if it is not.
    fn take(&mut self, part: Part) -> Result<Option<Part>, UriError> {
        let Some(name) = RESERVED.into_iter().find(|name| part.name.eq_ignore_ascii_case(name)) else {
            return Ok(Some(part));
        };
        let Part { is_number: false, relation: Relation::Compares(Comparison::Equal), value, .. } = part else {
            return Err(UriError::Reserved(name.into()));
        };
        if value.is_empty() {
            return Err(UriError::Reserved(name.into()));
        }
        let address = || Jid::parse(&value).map(|jid| jid.bare()).map_err(|_| UriError::Address(name.into()));
        let repeated = match name {
            KEY if value.chars().count() > TAG_VALUE_CHARS_MAX => return Err(too_long(name)),
            REGISTRY => self.registry.replace(address()?).is_some(),
            JID => self.jid.replace(address()?).is_some(),
            NODE_ID => !std::mem::replace(&mut self.node.id, value).is_empty(),
            SOURCE => !std::mem::replace(&mut self.node.source, value).is_empty(),
            PARTITION => !std::mem::replace(&mut self.node.partition, value).is_empty(),
            _ => self.key.replace(value).is_some(),
        };
        if repeated { Err(UriError::Repeated(name.into())) } else { Ok(None) }
    }
}

fn too_long(name: &str) -> UriError {
    UriError::Tag(name.into(), BadTag::TooLong)
}

fn classify(parts: Vec<Part>) -> Result<Uri, UriError> {
    let mut special = Special::default();
    let mut rest = Vec::with_capacity(parts.len());
    for part in parts {
        rest.extend(special.take(part)?);
    }
    let Special { key, registry, jid, node } = special;
    match (key, jid) {
        (Some(key), None) => Ok(Uri::Claim(Claim { tags: tags(rest)?, key, node, registry })),
        (None, Some(jid)) => Ok(Uri::Reference(Reference { jid, node, tags: tags(rest)?, registry })),
        (None, None) if node.is_device() => Ok(Uri::Search(Search { operators: operators(rest)?, registry })),
        (Some(_), Some(_)) | (None, None) => Err(UriError::Mixed),
    }
}

fn tags(parts: Vec<Part>) -> Result<Vec<Tag>, UriError> {
    let mut tags: Vec<Tag> = Vec::with_capacity(parts.len());
    for part in parts {
        let Part { name, .. } = &part;
        if part.relation != Relation::Compares(Comparison::Equal) {
            return Err(UriError::Comparison(name.clone()));
        }
        check_tag_name(name).map_err(|error| UriError::Tag(name.clone(), error))?;
        if tags.iter().any(|tag| tag.is(name)) {
            return Err(UriError::Repeated(name.clone()));
        }
        let value = if part.is_number { TagValue::Num(number(&part)?) } else { TagValue::Str(string(&part)?) };
        tags.push(Tag { name: part.name, value });
    }
    Ok(tags)
}

fn number(part: &Part) -> Result<f64, UriError> {
    let number = part.value.parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| UriError::Tag(part.name.clone(), BadTag::NotANumber))
}

fn string(part: &Part) -> Result<Box<str>, UriError> {
    let fits = part.value.chars().count() <= TAG_VALUE_CHARS_MAX;
    if fits { Ok(part.value.clone()) } else { Err(too_long(&part.name)) }
}

fn operators(parts: Vec<Part>) -> Result<Vec<Operator>, UriError> {
    let mut operators: Vec<(String, Operator)> = Vec::with_capacity(parts.len());
    for part in parts {
        // The names of harmonised interfaces are searched with `:` in them, too.
        let plain = part.name.replace(':', "_");
        check_tag_name(&plain).map_err(|error| UriError::Tag(part.name.clone(), error))?;
        let test = test(&part)?;
        match operators.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(&plain)) {
            Some((_, known)) => {
                known.test = both(&known.test, &test).ok_or_else(|| UriError::Repeated(part.name.clone()))?;
            }
            None => operators.push((plain, Operator { name: part.name, wildcard: None, test })),
        }
    }
    if operators.is_empty() { Err(UriError::Empty) } else { Ok(operators.into_iter().map(|(_, one)| one).collect()) }
}

fn test(part: &Part) -> Result<Test, UriError> {
    Ok(match part.relation {
        Relation::Compares(comparison) if part.is_number => Test::Num(comparison, number(part)?),
        Relation::Compares(comparison) => Test::Str(comparison, string(part)?),
        Relation::Masked => {
            let mut mask = part.value.chars();
            let wildcard = mask.next().filter(|_| !part.is_number).ok_or_else(|| UriError::Mask(part.name.clone()))?;
            if mask.clone().count() > TAG_VALUE_CHARS_MAX {
                return Err(too_long(&part.name));
            }
            Test::StrMask(mask.as_str().into(), wildcard.to_string().into())
        }
    })
}

/// The range that two bounds make, one from below and the other from above; `None` if they are anything else.
fn both(first: &Test, second: &Test) -> Option<Test> {
    match (first, second) {
        (Test::Num(first, one), Test::Num(second, other)) => {
            range((*first, *one), (*second, *other)).map(|(range, side)| Test::NumRange(range, side))
        }
        (Test::Str(first, one), Test::Str(second, other)) => {
            range((*first, one.clone()), (*second, other.clone())).map(|(range, side)| Test::StrRange(range, side))
        }
        _ => None,
    }
}

/// A bound as it is in a comparison: the value, and whether it is in.
enum Bound<T> {
    Lower(T, bool),
    Upper(T, bool),
}

fn bound<T>((comparison, value): (Comparison, T)) -> Option<Bound<T>> {
    match comparison {
        Comparison::Greater => Some(Bound::Lower(value, false)),
        Comparison::GreaterOrEqual => Some(Bound::Lower(value, true)),
        Comparison::Less => Some(Bound::Upper(value, false)),
        Comparison::LessOrEqual => Some(Bound::Upper(value, true)),
        Comparison::Equal | Comparison::NotEqual => None,
    }
}

/// The lower bound below the upper one is what lies between them. The other way round nothing would be both, so it is what
/// lies outside; then a bound that is met is no part of the range. If they are the same, the order in which they stand says
/// which is meant.
fn range<T: PartialOrd>(first: (Comparison, T), second: (Comparison, T)) -> Option<(Range<T>, Side)> {
    let (lower, upper, lower_first) = match (bound(first)?, bound(second)?) {
        (Bound::Lower(lower, least), Bound::Upper(upper, most)) => ((lower, least), (upper, most), true),
        (Bound::Upper(upper, most), Bound::Lower(lower, least)) => ((lower, least), (upper, most), false),
        (Bound::Lower(..), Bound::Lower(..)) | (Bound::Upper(..), Bound::Upper(..)) => return None,
    };
    if lower.0 < upper.0 || (lower.0 == upper.0 && lower_first) {
        return Some((Range { min: Some(lower), max: Some(upper) }, Side::Inside));
    }
    let ((lower, least), (upper, most)) = (lower, upper);
    Some((Range { min: Some((upper, !most)), max: Some((lower, !least)) }, Side::Outside))
}
