//! Writing: what is written reads back as what it was, or is refused.

use std::fmt::{Display, Write as _};

use super::{Claim, JID, NODE_ID, PARTITION, REGISTRY, Reference, SOURCE, Search, URI_BYTES_MAX, Uri, UriError};
use crate::jid::Jid;
use crate::thing::{Comparison, KEY, NodeName, Operator, Range, Side, Tag, TagValue, Test};

impl Uri {
    /// The URI, escaped by percent-encoding alone, so that it is one by RFC 3986 too. `R` is the last of its tags.
    ///
    /// # Errors
    /// [`UriError`], as reading it would give, or [`UriError::Unsayable`].
    pub fn to_text(&self) -> Result<String, UriError> {
        let mut out = Text::default();
        match self {
            Self::Claim(Claim { tags, key, node, registry }) => {
                out.tags(tags);
                out.node(node);
                out.string(KEY, "=", key);
                out.registry(registry.as_ref());
            }
            Self::Search(Search { operators, registry }) => {
                for operator in operators {
                    out.operator(operator)?;
                }
                out.registry(registry.as_ref());
            }
            Self::Reference(Reference { jid, node, tags, registry }) => {
                out.string(JID, "=", jid.as_str());
                out.node(node);
                out.tags(tags);
                out.registry(registry.as_ref());
            }
        }
        let text = out.text;
        if text.len() > URI_BYTES_MAX {
            return Err(UriError::TooLong);
        }
        // Reading it is the proof that it says this and nothing else.
        if Self::parse(&text)? == *self { Ok(text) } else { Err(UriError::Unsayable) }
    }
}

#[derive(Default)]
struct Text {
    text: String,
}

impl Text {
    fn tags(&mut self, tags: &[Tag]) {
        for Tag { name, value } in tags {
            match value {
                TagValue::Str(text) => self.string(name, "=", text),
                TagValue::Num(number) => self.number(name, "=", *number),
            }
        }
    }

    fn node(&mut self, node: &NodeName) {
        for (name, value) in [(NODE_ID, &node.id), (SOURCE, &node.source), (PARTITION, &node.partition)] {
            if !value.is_empty() {
                self.string(name, "=", value);
            }
        }
    }

    fn registry(&mut self, registry: Option<&Jid>) {
        if let Some(registry) = registry {
            self.string(REGISTRY, "=", registry.as_str());
        }
    }

    fn operator(&mut self, operator: &Operator) -> Result<(), UriError> {
        let Operator { name, wildcard: None, test } = operator else { return Err(UriError::Unsayable) };
        match test {
            Test::Str(comparison, value) => self.string(name, sign(*comparison), value),
            Test::Num(comparison, value) => self.number(name, sign(*comparison), *value),
            Test::StrMask(mask, wildcard) => self.string(name, "~", &format!("{wildcard}{mask}")),
            Test::StrRange(range, side) => {
                for (sign, value) in bounds(range, *side)? {
                    self.string(name, sign, value);
                }
            }
            Test::NumRange(range, side) => {
                for (sign, value) in bounds(range, *side)? {
                    self.number(name, sign, *value);
                }
            }
            Test::StrRegEx(_) => return Err(UriError::Unsayable),
        }
        Ok(())
    }

    fn string(&mut self, name: &str, sign: &str, value: &str) {
        self.begin(name, sign, "");
        self.escaped(value);
    }

    /// The shortest digits that read back as the number.
    fn number(&mut self, name: &str, sign: &str, value: f64) {
        self.begin(name, sign, "#");
        self.put(format_args!("{value:?}"));
    }

    fn begin(&mut self, name: &str, sign: &str, mark: &str) {
        self.put(format_args!("{}{mark}", if self.text.is_empty() { "iotdisco:" } else { ";" }));
        self.escaped(name);
        self.put(sign);
    }

    fn escaped(&mut self, text: &str) {
        for &byte in text.as_bytes() {
            // Of what RFC 3986 allows in a path only what means nothing here, and to no decoder of forms (`+`).
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'@' | b'*' => {
                    self.text.push(char::from(byte));
                }
                _ => self.put(format_args!("%{byte:02X}")),
            }
        }
    }

    fn put(&mut self, what: impl Display) {
        write!(self.text, "{what}").expect("a string takes all text");
    }
}

const fn sign(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Equal => "=",
        Comparison::NotEqual => "<>",
        Comparison::Greater => ">",
        Comparison::GreaterOrEqual => ">=",
        Comparison::Less => "<",
        Comparison::LessOrEqual => "<=",
    }
}

/// The two comparisons that make a range: of what is inside, the lower bound first; of what is outside, the upper bound of
/// what is below it.
fn bounds<T: PartialOrd>(range: &Range<T>, side: Side) -> Result<[(&'static str, &T); 2], UriError> {
    let Range { min: Some((min, least)), max: Some((max, most)) } = range else { return Err(UriError::Unsayable) };
    let pick = |or_equal: bool, with: &'static str, without: &'static str| if or_equal { with } else { without };
    Ok(match side {
        Side::Inside => [(pick(*least, ">=", ">"), min), (pick(*most, "<=", "<"), max)],
        Side::Outside => [(pick(!*least, "<=", "<"), min), (pick(!*most, ">=", ">"), max)],
    })
}
