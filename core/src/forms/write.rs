//! Writing forms: what is asked, what is told, what is submitted.

use super::{Choice, FORM_TYPE, Field, Form, FormKind, Kind, Value, Values};
use crate::ns;
use crate::xml::write;

impl Form<'_> {
    /// Appends the form. As [`FormKind::Form`] every field is there with its label, its choices and how it is checked,
    /// and with its value if `values` has one; as a result or a submission, fields without a value are left out, and of
    /// the rest only name, type and values are said. A cancelled form says nothing but that.
    pub fn write(&self, out: &mut Vec<u8>, kind: FormKind, values: &Values) {
        out.extend_from_slice(b"<x");
        write::attr(out, "xmlns", ns::DATA_FORMS);
        write::attr(out, "type", kind.name());
        if kind == FormKind::Cancel {
            return out.extend_from_slice(b"/>");
        }
        out.push(b'>');
        if kind == FormKind::Form {
            text_element(out, "title", self.title);
            text_element(out, "instructions", self.instructions);
        }
        if !self.form_type.is_empty() {
            out.extend_from_slice(b"<field");
            write::attr(out, "var", FORM_TYPE);
            write::attr(out, "type", "hidden");
            out.push(b'>');
            value_element(out, self.form_type);
            out.extend_from_slice(b"</field>");
        }
        for field in &self.fields {
            match values.get(field.var) {
                value if kind == FormKind::Form => asked(out, field, value),
                Some(value) if field.kind != Kind::Fixed => told(out, field, value),
                Some(_) | None => {}
            }
        }
        out.extend_from_slice(b"</x>");
    }
}

/// A field of an empty form.
fn asked(out: &mut Vec<u8>, field: &Field<'_>, value: Option<&Value>) {
    out.extend_from_slice(b"<field");
    if !field.var.is_empty() {
        write::attr(out, "var", field.var);
    }
    write::attr(out, "type", field.kind.name());
    if field.kind == Kind::Fixed {
        out.push(b'>');
        value_element(out, field.label);
        return out.extend_from_slice(b"</field>");
    }
    if !field.label.is_empty() {
        write::attr(out, "label", field.label);
    }
    out.push(b'>');
    if field.required {
        out.extend_from_slice(b"<required/>");
    }
    validation(out, &field.kind);
    if let Some(value) = value {
        value_elements(out, value);
    }
    if let Kind::ListSingle { choices, .. } | Kind::ListMulti { choices, .. } = &field.kind {
        choices.iter().for_each(|choice| option(out, *choice));
    }
    out.extend_from_slice(b"</field>");
}

/// A field of a result or a submission.
fn told(out: &mut Vec<u8>, field: &Field<'_>, value: &Value) {
    out.extend_from_slice(b"<field");
    write::attr(out, "var", field.var);
    write::attr(out, "type", field.kind.name());
    out.push(b'>');
    value_elements(out, value);
    out.extend_from_slice(b"</field>");
}

/// How a client may check a field before it submits it (XEP-0122 §3); nothing where the type says all there is.
fn validation(out: &mut Vec<u8>, kind: &Kind<'_>) {
    let (datatype, range, method) = match *kind {
        Kind::Integer { min, max } => ("xs:integer", Some((min, max)), ""),
        Kind::IntegerOrMax { min, max } => ("pubsub:integer-or-max", Some((min, max)), ""),
        Kind::DateTime => ("xs:dateTime", None, "<basic/>"),
        Kind::ListSingle { open: true, .. } | Kind::ListMulti { open: true, .. } => ("xs:string", None, "<open/>"),
        Kind::Boolean
        | Kind::Fixed
        | Kind::Hidden
        | Kind::JidSingle
        | Kind::JidMulti
        | Kind::ListSingle { .. }
        | Kind::ListMulti { .. }
        | Kind::TextMulti
        | Kind::TextPrivate
        | Kind::TextSingle => return,
    };
    out.extend_from_slice(b"<validate");
    write::attr(out, "xmlns", ns::DATA_FORMS_VALIDATION);
    write::attr(out, "datatype", datatype);
    out.push(b'>');
    out.extend_from_slice(method.as_bytes());
    if let Some((min, max)) = range {
        out.extend_from_slice(b"<range");
        if min > i64::MIN {
            write::attr(out, "min", &min.to_string());
        }
        if max < i64::MAX {
            write::attr(out, "max", &max.to_string());
        }
        out.extend_from_slice(b"/>");
    }
    out.extend_from_slice(b"</validate>");
}

fn option(out: &mut Vec<u8>, choice: Choice<'_>) {
    out.extend_from_slice(b"<option");
    if !choice.label.is_empty() {
        write::attr(out, "label", choice.label);
    }
    out.push(b'>');
    value_element(out, choice.value);
    out.extend_from_slice(b"</option>");
}

fn value_elements(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Empty => {}
        Value::Boolean(value) => value_element(out, if *value { "true" } else { "false" }),
        Value::Integer(value) => value_element(out, &value.to_string()),
        Value::Max => value_element(out, "max"),
        Value::DateTime(moment) => value_element(out, &moment.to_string()),
        Value::Jid(jid) => value_element(out, jid.as_str()),
        Value::Jids(jids) => jids.iter().for_each(|jid| value_element(out, jid.as_str())),
        Value::Text(text) => value_element(out, text),
        Value::Texts(texts) => texts.iter().for_each(|text| value_element(out, text)),
    }
}

fn value_element(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(b"<value>");
    write::text(out, text);
    out.extend_from_slice(b"</value>");
}

/// An element with text, left out if there is none.
fn text_element(out: &mut Vec<u8>, name: &str, text: &str) {
    if text.is_empty() {
        return;
    }
    out.push(b'<');
    out.extend_from_slice(name.as_bytes());
    out.push(b'>');
    write::text(out, text);
    out.extend_from_slice(b"</");
    out.extend_from_slice(name.as_bytes());
    out.push(b'>');
}
