//! Reading what was submitted, into values checked against the form's description.

use std::fmt;

use super::{Choice, FORM_TYPE, Field, Form, FormKind, Kind, Value, Values};
use crate::date::DateTime;
use crate::jid::{Jid, JidError};
use crate::ns;
use crate::stanza::Condition;
use crate::xml::read::Node;

/// Bounds of a submission. Beyond any of them it is refused as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormLimits {
    /// Most fields, unknown ones included. Default 128: three times the longest form there is.
    pub fields_max: u16,
    /// Most values of one field. Default 256.
    pub values_max: u16,
    /// Longest value, in bytes. Default 8 192.
    pub value_bytes_max: u32,
}

impl FormLimits {
    /// The defaults.
    pub const DEFAULT: Self = Self { fields_max: 128, values_max: 256, value_bytes_max: 8 * 1024 };
}

/// What the other side did with the form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submission {
    /// It gave up (`type='cancel'`).
    Cancelled,
    /// It filled it in.
    Submitted(Submitted),
}

/// A form filled in. Fields that were left out are not there: they keep the value they have (XEP-0004 §3.5).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Submitted {
    /// The fields of the description, checked.
    pub values: Values,
    /// Names of fields that the description does not have. They are ignored (XEP-0004 §3.1) but for services that must
    /// not.
    pub unknown: Vec<String>,
}

/// What is wrong with a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormError {
    /// Not `{jabber:x:data}x`, or not of type `submit` or `cancel`.
    NotASubmission,
    /// The form does not say what it is about.
    FormTypeMissing,
    /// The form is about something else.
    FormTypeUnknown,
    /// A field has no name, or the same one as another.
    Duplicate(String),
    /// A field that is required is not there or has no value.
    Missing(String),
    /// One of [`FormLimits`] was reached; its name.
    Limit(&'static str),
    /// What stands in a field may not stand there.
    Invalid {
        /// The field.
        var: String,
        /// Why.
        reason: Reason,
    },
}

/// Why a value may not stand in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// More than one value in a field for one.
    SeveralValues,
    /// Neither `0`, `1`, `true` nor `false`.
    NotABoolean,
    /// Not a whole number.
    NotAnInteger,
    /// A number outside these two.
    OutOfRange {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// Not an address.
    NotAJid(JidError),
    /// Not among the choices.
    NotAChoice,
    /// Not a moment as XEP-0082 writes it.
    NotADateTime,
}

impl FormError {
    /// The stanza error it ends in: `not-acceptable` for values (XEP-0004 §4), `bad-request` for what is no such form.
    pub const fn condition(&self) -> Condition {
        match self {
            Self::NotASubmission | Self::FormTypeMissing | Self::FormTypeUnknown | Self::Duplicate(_) => {
                Condition::BadRequest
            }
            Self::Missing(_) | Self::Limit(_) | Self::Invalid { .. } => Condition::NotAcceptable,
        }
    }

    /// What to change, for the sender's developer.
    pub const fn text(&self) -> &'static str {
        match self {
            Self::NotASubmission => "a data form of type 'submit' is expected",
            Self::FormTypeMissing => "the form has no FORM_TYPE",
            Self::FormTypeUnknown => "the form has another FORM_TYPE than expected",
            Self::Duplicate(_) => "each field must have a name of its own",
            Self::Missing(_) => "a required field is missing",
            Self::Limit(_) => "the form is too large",
            Self::Invalid { reason, .. } => match reason {
                Reason::SeveralValues => "a field for one value has several",
                Reason::NotABoolean => "a boolean is one of 0, 1, true and false",
                Reason::NotAnInteger => "a whole number is expected",
                Reason::OutOfRange { .. } => "a number is out of range",
                Reason::NotAJid(_) => "an address is malformed",
                Reason::NotAChoice => "a value is not among the choices",
                Reason::NotADateTime => "a date and time as in XEP-0082 is expected",
            },
        }
    }
}

impl fmt::Display for FormError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())?;
        match self {
            Self::Duplicate(var) | Self::Missing(var) => write!(f, ": {var:?}"),
            Self::Limit(name) => write!(f, ": {name}"),
            Self::Invalid { var, reason: Reason::OutOfRange { min, max } } => write!(f, ": {var:?}, {min} to {max}"),
            Self::Invalid { var, .. } => write!(f, ": {var:?}"),
            Self::NotASubmission | Self::FormTypeMissing | Self::FormTypeUnknown => Ok(()),
        }
    }
}

impl std::error::Error for FormError {}

/// What a form is about: the value of its FORM_TYPE. In a form or a result, a field of that name counts only if it is
/// hidden (XEP-0068 §4.3).
pub fn form_type(x: &Node) -> Option<&str> {
    let needs_hidden = !matches!(kind_of(x)?, FormKind::Submit | FormKind::Cancel);
    let field = fields(x).find(|field| field.attr("var") == Some(FORM_TYPE))?;
    if needs_hidden && field.attr("type") != Some("hidden") {
        return None;
    }
    values(field).next()
}

impl Form<'_> {
    /// Reads a submission of this form.
    ///
    /// # Errors
    /// [`FormError`], for the first thing found wrong.
    pub fn read(&self, x: &Node, limits: &FormLimits) -> Result<Submission, FormError> {
        match kind_of(x) {
            Some(FormKind::Cancel) => return Ok(Submission::Cancelled),
            Some(FormKind::Submit) => {}
            Some(FormKind::Form | FormKind::Result) | None => return Err(FormError::NotASubmission),
        }
        if fields(x).count() > usize::from(limits.fields_max) {
            return Err(FormError::Limit("fields_max"));
        }
        match form_type(x) {
            _ if self.form_type.is_empty() => {}
            Some(found) if found == self.form_type => {}
            Some(_) => return Err(FormError::FormTypeUnknown),
            None => return Err(FormError::FormTypeMissing),
        }
        let mut submitted = Submitted::default();
        let mut seen: Vec<&str> = Vec::new();
        for field in fields(x) {
            check_size(field, limits)?;
            // Text between the fields, which some clients send back.
            if field.attr("type") == Some("fixed") && field.attr("var").is_none() {
                continue;
            }
            let var = field.attr("var").unwrap_or_default();
            if var.is_empty() || seen.contains(&var) {
                return Err(FormError::Duplicate(var.to_owned()));
            }
            seen.push(var);
            match self.field(var) {
                _ if var == FORM_TYPE => {}
                Some(asked) => {
                    let value = read_value(asked, field)
                        .map_err(|reason| FormError::Invalid { var: var.to_owned(), reason })?;
                    submitted.values.set(var, value);
                }
                None => submitted.unknown.push(var.to_owned()),
            }
        }
        let missing =
            |field: &&Field<'_>| field.required && matches!(submitted.values.get(field.var), None | Some(Value::Empty));
        match self.fields.iter().find(missing) {
            Some(field) => Err(FormError::Missing(field.var.to_owned())),
            None => Ok(Submission::Submitted(submitted)),
        }
    }
}

fn kind_of(x: &Node) -> Option<FormKind> {
    if x.name != "x" || x.ns != ns::DATA_FORMS {
        return None;
    }
    FormKind::from_name(x.attr("type")?)
}

fn fields(x: &Node) -> impl Iterator<Item = &Node> {
    x.children.iter().filter(|child| child.name == "field" && child.ns == ns::DATA_FORMS)
}

fn values(field: &Node) -> impl Iterator<Item = &str> {
    let values = field.children.iter().filter(|child| child.name == "value" && child.ns == ns::DATA_FORMS);
    values.map(|value| value.text.as_str())
}

fn check_size(field: &Node, limits: &FormLimits) -> Result<(), FormError> {
    let too_long = |value: &str| value.len() > limits.value_bytes_max as usize;
    if values(field).count() > usize::from(limits.values_max) {
        return Err(FormError::Limit("values_max"));
    }
    if values(field).any(too_long) || field.attr("var").is_some_and(too_long) {
        return Err(FormError::Limit("value_bytes_max"));
    }
    Ok(())
}

fn read_value(asked: &Field<'_>, field: &Node) -> Result<Value, Reason> {
    match &asked.kind {
        Kind::TextMulti => return Ok(Value::Texts(values(field).map(str::to_owned).collect())),
        Kind::ListMulti { choices, open } => {
            let mut chosen: Vec<String> = Vec::new();
            for value in values(field) {
                check_choice(choices, *open, value)?;
                if chosen.iter().all(|known| known != value) {
                    chosen.push(value.to_owned());
                }
            }
            return Ok(Value::Texts(chosen));
        }
        Kind::JidMulti => {
            let mut jids = Vec::new();
            // One empty value is how some clients write none.
            for value in values(field).filter(|value| !value.is_empty()) {
                let jid = Jid::parse(value).map_err(Reason::NotAJid)?;
                if !jids.contains(&jid) {
                    jids.push(jid);
                }
            }
            return Ok(Value::Jids(jids));
        }
        Kind::Boolean
        | Kind::Fixed
        | Kind::Hidden
        | Kind::JidSingle
        | Kind::ListSingle { .. }
        | Kind::TextPrivate
        | Kind::TextSingle
        | Kind::Integer { .. }
        | Kind::IntegerOrMax { .. }
        | Kind::DateTime => {}
    }
    let mut values = values(field);
    let value = values.next().unwrap_or_default();
    if values.next().is_some() {
        return Err(Reason::SeveralValues);
    }
    read_single(&asked.kind, value)
}

fn read_single(kind: &Kind<'_>, value: &str) -> Result<Value, Reason> {
    Ok(match kind {
        Kind::TextSingle | Kind::TextPrivate | Kind::Hidden | Kind::Fixed => Value::Text(value.to_owned()),
        Kind::ListSingle { choices, .. }
            if value.is_empty() && choices.iter().all(|choice| !choice.value.is_empty()) =>
        {
            Value::Empty
        }
        Kind::ListSingle { choices, open } => {
            check_choice(choices, *open, value)?;
            Value::Text(value.to_owned())
        }
        _ if value.is_empty() => Value::Empty,
        // XEP-0004 §3.3 with XML Schema Part 2: the lexical forms of xs:boolean.
        Kind::Boolean => match value {
            "1" | "true" => Value::Boolean(true),
            "0" | "false" => Value::Boolean(false),
            _ => return Err(Reason::NotABoolean),
        },
        Kind::JidSingle => Value::Jid(Jid::parse(value).map_err(Reason::NotAJid)?),
        Kind::IntegerOrMax { .. } if value == "max" => Value::Max,
        Kind::Integer { min, max } | Kind::IntegerOrMax { min, max } => Value::Integer(integer(value, *min, *max)?),
        Kind::DateTime => Value::DateTime(DateTime::parse(value).ok_or(Reason::NotADateTime)?),
        // Fields for several values are read by the caller.
        Kind::JidMulti | Kind::ListMulti { .. } | Kind::TextMulti => Value::Empty,
    })
}

fn integer(text: &str, min: i64, max: i64) -> Result<i64, Reason> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Reason::NotAnInteger);
    }
    // What does not fit 64 bits is out of any range.
    let number = text.parse().ok().filter(|number| (min..=max).contains(number));
    number.ok_or(Reason::OutOfRange { min, max })
}

fn check_choice(choices: &[Choice<'_>], open: bool, value: &str) -> Result<(), Reason> {
    if open || choices.iter().any(|choice| choice.value == value) { Ok(()) } else { Err(Reason::NotAChoice) }
}
