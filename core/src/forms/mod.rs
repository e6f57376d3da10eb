//! Data forms (XEP-0004 v2.13.2) with their FORM_TYPE (XEP-0068 v1.3) and validation (XEP-0122 v1.0.2).
//!
//! Called by services that ask for settings. A [`Form`] describes what is asked; from it the form is written, with the
//! values of the moment, and what is submitted is read into typed values that are checked against it. What the other
//! side says of a field (its type, its label) is never trusted: the description decides.
//!
//! Regular expressions (XEP-0122 §3.2.4) are neither offered nor run. Tables of results (XEP-0004 §3.4) are not here.

mod read;
mod write;

pub use read::{FormError, FormLimits, Reason, Submission, Submitted, form_type};

use crate::date::DateTime;
use crate::jid::Jid;

/// The field that names what a form is about (XEP-0068 §3).
pub const FORM_TYPE: &str = "FORM_TYPE";

/// `type` of a form (XEP-0004 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the protocol's own words")]
pub enum FormKind {
    Form,
    Submit,
    Cancel,
    Result,
}

impl FormKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Form, Self::Submit, Self::Cancel, Self::Result];

    /// Value of the `type` attribute.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Submit => "submit",
            Self::Cancel => "cancel",
            Self::Result => "result",
        }
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What a form asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form<'a> {
    /// Value of FORM_TYPE; "" if what is around the form says what it is about, so that none is written, and whether one
    /// is submitted does not matter.
    pub form_type: &'a str,
    /// Shown above the form, "" for none.
    pub title: &'a str,
    /// What to do with it, "" for none.
    pub instructions: &'a str,
    /// The fields, in the order they are shown, no `var` twice.
    pub fields: Vec<Field<'a>>,
}

impl<'a> Form<'a> {
    /// A form about `form_type` with these fields, without title or instructions.
    pub const fn new(form_type: &'a str, fields: Vec<Field<'a>>) -> Self {
        Self { form_type, title: "", instructions: "", fields }
    }

    /// The field of that name.
    pub fn field(&self, var: &str) -> Option<&Field<'a>> {
        self.fields.iter().find(|field| field.var == var && !field.var.is_empty())
    }
}

/// One question of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name; "" only if it is [`Kind::Fixed`].
    pub var: &'a str,
    /// Shown beside it, "" for none. The text itself if it is fixed.
    pub label: &'a str,
    /// What may stand in it.
    pub kind: Kind<'a>,
    /// Whether a submission without it is refused.
    pub required: bool,
}

impl<'a> Field<'a> {
    /// A field that may be left out.
    pub const fn new(var: &'a str, label: &'a str, kind: Kind<'a>) -> Self {
        Self { var, label, kind, required: false }
    }

    /// The same field, which must not be left out.
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Text between the fields.
    pub const fn fixed(text: &'a str) -> Self {
        Self::new("", text, Kind::Fixed)
    }
}

/// What may stand in a field: its type (XEP-0004 §3.3) and how it is checked (XEP-0122 §3).
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the protocol's own words")]
pub enum Kind<'a> {
    Boolean,
    Fixed,
    Hidden,
    JidSingle,
    JidMulti,
    /// One of the choices; if `open`, of any other text too.
    ListSingle {
        choices: Vec<Choice<'a>>,
        open: bool,
    },
    /// Some of the choices, none twice; if `open`, any other texts too.
    ListMulti {
        choices: Vec<Choice<'a>>,
        open: bool,
    },
    TextMulti,
    TextPrivate,
    TextSingle,
    /// A `text-single` that holds an `xs:integer` from `min` to `max`.
    Integer {
        min: i64,
        max: i64,
    },
    /// A `text-single` that holds an integer from `min` to `max`, or the word `max` (XEP-0060 v1.30.0 §12.23).
    IntegerOrMax {
        min: i64,
        max: i64,
    },
    /// A `text-single` that holds an `xs:dateTime`.
    DateTime,
}

impl<'a> Kind<'a> {
    /// One of these values, which stand for themselves.
    pub fn one_of(values: &[&'a str]) -> Self {
        Self::ListSingle { choices: values.iter().copied().map(Choice::plain).collect(), open: false }
    }

    /// Some of these values, which stand for themselves.
    pub fn some_of(values: &[&'a str]) -> Self {
        Self::ListMulti { choices: values.iter().copied().map(Choice::plain).collect(), open: false }
    }

    /// Value of the `type` attribute.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Fixed => "fixed",
            Self::Hidden => "hidden",
            Self::JidSingle => "jid-single",
            Self::JidMulti => "jid-multi",
            Self::ListSingle { .. } => "list-single",
            Self::ListMulti { .. } => "list-multi",
            Self::TextMulti => "text-multi",
            Self::TextPrivate => "text-private",
            Self::TextSingle | Self::Integer { .. } | Self::IntegerOrMax { .. } | Self::DateTime => "text-single",
        }
    }
}

/// One choice of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice<'a> {
    /// What is submitted.
    pub value: &'a str,
    /// What is shown, "" for the value itself.
    pub label: &'a str,
}

impl<'a> Choice<'a> {
    /// A value that stands for itself.
    pub const fn plain(value: &'a str) -> Self {
        Self { value, label: "" }
    }
}

/// What stands in a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing: the field is there without a value, or with an empty one where the type has no empty value
    /// (XEP-0004 §3.6). What that means is the service's to say.
    Empty,
    /// Of a boolean.
    Boolean(bool),
    /// Of an integer.
    Integer(i64),
    /// The word `max`.
    Max,
    /// Of a date and time.
    DateTime(DateTime),
    /// Of a jid-single.
    Jid(Jid),
    /// Of a jid-multi, none twice.
    Jids(Vec<Jid>),
    /// Of a text-single, text-private, hidden field or list-single.
    Text(String),
    /// Of a text-multi (its lines) or list-multi (what is chosen, none twice).
    Texts(Vec<String>),
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<DateTime> for Value {
    fn from(value: DateTime) -> Self {
        Self::DateTime(value)
    }
}

impl From<Jid> for Value {
    fn from(value: Jid) -> Self {
        Self::Jid(value)
    }
}

impl From<Vec<Jid>> for Value {
    fn from(values: Vec<Jid>) -> Self {
        Self::Jids(values)
    }
}

impl From<Vec<String>> for Value {
    fn from(values: Vec<String>) -> Self {
        Self::Texts(values)
    }
}

/// The values of a form's fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values(Vec<(String, Value)>);

impl Values {
    /// None at all.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// These values and one more, which replaces an earlier one of that field.
    #[must_use]
    pub fn with(mut self, var: &str, value: impl Into<Value>) -> Self {
        self.set(var, value);
        self
    }

    /// Sets a field's value.
    pub fn set(&mut self, var: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.0.iter_mut().find(|(known, _)| known == var) {
            Some((_, old)) => *old = value,
            None => self.0.push((var.to_owned(), value)),
        }
    }

    /// A field's value.
    pub fn get(&self, var: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == var).map(|(_, value)| value)
    }

    /// All of them, in the order they came.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(var, value)| (var.as_str(), value))
    }

    /// The value of a boolean that is there and not empty.
    pub fn boolean(&self, var: &str) -> Option<bool> {
        if let Some(Value::Boolean(value)) = self.get(var) { Some(*value) } else { None }
    }

    /// The value of an integer that is there and not empty.
    pub fn integer(&self, var: &str) -> Option<i64> {
        if let Some(Value::Integer(value)) = self.get(var) { Some(*value) } else { None }
    }

    /// The value of a date and time that is there and not empty.
    pub fn date_time(&self, var: &str) -> Option<DateTime> {
        if let Some(Value::DateTime(value)) = self.get(var) { Some(*value) } else { None }
    }

    /// The value of a field with one text.
    pub fn text(&self, var: &str) -> Option<&str> {
        if let Some(Value::Text(value)) = self.get(var) { Some(value) } else { None }
    }

    /// The values of a field with several texts.
    pub fn texts(&self, var: &str) -> Option<&[String]> {
        if let Some(Value::Texts(values)) = self.get(var) { Some(values) } else { None }
    }

    /// The address in a field.
    pub fn jid(&self, var: &str) -> Option<&Jid> {
        if let Some(Value::Jid(value)) = self.get(var) { Some(value) } else { None }
    }
}

#[cfg(test)]
mod tests;
