//! How a stream ends badly: what the peer did, the RFC's word for it, and the bytes that say so.
//!
//! Spec: RFC 6120 §4.9; XEP-0198 v1.6.3 §6.

use std::fmt;

use crate::ns;
use crate::sm::HandledCountTooHigh;
use crate::xml::{XmlError, write};

/// Stream error conditions (RFC 6120 §4.9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the protocol's own words")]
pub enum Condition {
    BadFormat,
    BadNamespacePrefix,
    Conflict,
    ConnectionTimeout,
    HostGone,
    HostUnknown,
    ImproperAddressing,
    InternalServerError,
    InvalidFrom,
    InvalidNamespace,
    InvalidXml,
    NotAuthorized,
    NotWellFormed,
    PolicyViolation,
    RemoteConnectionFailed,
    Reset,
    ResourceConstraint,
    RestrictedXml,
    SeeOtherHost,
    SystemShutdown,
    UndefinedCondition,
    UnsupportedEncoding,
    UnsupportedFeature,
    UnsupportedStanzaType,
    UnsupportedVersion,
}

impl Condition {
    /// Element name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadFormat => "bad-format",
            Self::BadNamespacePrefix => "bad-namespace-prefix",
            Self::Conflict => "conflict",
            Self::ConnectionTimeout => "connection-timeout",
            Self::HostGone => "host-gone",
            Self::HostUnknown => "host-unknown",
            Self::ImproperAddressing => "improper-addressing",
            Self::InternalServerError => "internal-server-error",
            Self::InvalidFrom => "invalid-from",
            Self::InvalidNamespace => "invalid-namespace",
            Self::InvalidXml => "invalid-xml",
            Self::NotAuthorized => "not-authorized",
            Self::NotWellFormed => "not-well-formed",
            Self::PolicyViolation => "policy-violation",
            Self::RemoteConnectionFailed => "remote-connection-failed",
            Self::Reset => "reset",
            Self::ResourceConstraint => "resource-constraint",
            Self::RestrictedXml => "restricted-xml",
            Self::SeeOtherHost => "see-other-host",
            Self::SystemShutdown => "system-shutdown",
            Self::UndefinedCondition => "undefined-condition",
            Self::UnsupportedEncoding => "unsupported-encoding",
            Self::UnsupportedFeature => "unsupported-feature",
            Self::UnsupportedStanzaType => "unsupported-stanza-type",
            Self::UnsupportedVersion => "unsupported-version",
        }
    }
}

/// What a peer did wrong. Ends the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// The bytes were not XML as XMPP allows it.
    Xml(XmlError),
    /// The first element was not `<stream/>`.
    NotAStream,
    /// The stream's namespace, its content namespace, or that of a stanza is not one of this kind of stream.
    InvalidNamespace,
    /// `version` is absent, ill-formed, or below 1.0.
    UnsupportedVersion,
    /// `to` is not a domain of ours.
    HostUnknown,
    /// `to` is absent though several domains live here, or `from` is not an address.
    ImproperAddressing,
    /// `from` is not the account that authenticated.
    InvalidFrom,
    /// `to` of the stream after SASL is another domain than that of the account.
    DomainChanged,
    /// A stanza before SASL has succeeded.
    StanzaBeforeAuth,
    /// A stanza other than the request to bind, before a resource is bound.
    StanzaBeforeBind,
    /// A top-level element that is no stanza and means nothing here.
    UnsupportedElement,
    /// `<starttls/>` where it was not offered: TLS is in place, or there is none to have.
    UnexpectedStartTls,
    /// Bytes in clear behind `<starttls/>`.
    PlaintextBehindStartTls {
        /// How many there were.
        bytes: u32,
    },
    /// One SASL attempt too many.
    TooManyAttempts {
        /// How many are allowed.
        max: u8,
    },
    /// One request to bind too many.
    TooManyBinds {
        /// How many are allowed.
        max: u8,
    },
    /// One request about registration too many.
    TooManyRegistrations {
        /// How many are allowed.
        max: u8,
    },
    /// An element of stream management whose attributes are missing or of the wrong type.
    MalformedStreamManagement,
    /// A request to resume that acknowledges more stanzas than were sent.
    HandledCountTooHigh(HandledCountTooHigh),
    /// Negotiation took too long.
    Timeout,
}

impl Violation {
    /// The stream error this ends in (RFC 6120 §4.9.3). The two about STARTTLS are answered with its `<failure/>` instead
    /// (§5.4.2.2); the condition is then for the log.
    pub const fn condition(self) -> Condition {
        match self {
            Self::Xml(XmlError::NotWellFormed) => Condition::NotWellFormed, // §4.9.3.13
            Self::Xml(XmlError::Encoding) => Condition::UnsupportedEncoding, // §4.9.3.22
            Self::Xml(XmlError::Restricted) => Condition::RestrictedXml,    // §4.9.3.18
            Self::Xml(XmlError::TextBetween) | Self::NotAStream | Self::MalformedStreamManagement => {
                Condition::BadFormat
            } // §4.9.3.1
            Self::Xml(XmlError::Limit(_))
            | Self::TooManyAttempts { .. }
            | Self::TooManyBinds { .. }
            | Self::TooManyRegistrations { .. }
            | Self::UnexpectedStartTls
            | Self::PlaintextBehindStartTls { .. } => Condition::PolicyViolation, // §4.9.3.14
            Self::InvalidNamespace => Condition::InvalidNamespace,          // §4.9.3.10
            Self::UnsupportedVersion => Condition::UnsupportedVersion,      // §4.9.3.25
            Self::HostUnknown => Condition::HostUnknown,                    // §4.9.3.6
            Self::ImproperAddressing => Condition::ImproperAddressing,      // §4.9.3.7
            Self::InvalidFrom => Condition::InvalidFrom,                    // §4.9.3.9
            Self::DomainChanged | Self::StanzaBeforeAuth | Self::StanzaBeforeBind => Condition::NotAuthorized, // §4.9.3.12
            Self::UnsupportedElement => Condition::UnsupportedStanzaType, // §4.9.3.24
            Self::HandledCountTooHigh(_) => Condition::UndefinedCondition, // §4.9.3.21
            Self::Timeout => Condition::ConnectionTimeout,                // §4.9.3.4
        }
    }

    /// The stream error with all that it says.
    pub(super) fn error(self) -> StreamError {
        if let Self::HandledCountTooHigh(counts) = self { counts.into() } else { self.condition().into() }
    }

    /// The violation as a metric's label; for a limit, the limit's name.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Xml(XmlError::NotWellFormed) => "not-well-formed",
            Self::Xml(XmlError::Encoding) => "encoding",
            Self::Xml(XmlError::Restricted) => "restricted-xml",
            Self::Xml(XmlError::TextBetween) => "text-between-elements",
            Self::Xml(XmlError::Limit(name)) => name,
            Self::NotAStream => "not-a-stream",
            Self::InvalidNamespace => "invalid-namespace",
            Self::UnsupportedVersion => "unsupported-version",
            Self::HostUnknown => "host-unknown",
            Self::ImproperAddressing => "improper-addressing",
            Self::InvalidFrom => "invalid-from",
            Self::DomainChanged => "domain-changed",
            Self::StanzaBeforeAuth => "stanza-before-auth",
            Self::StanzaBeforeBind => "stanza-before-bind",
            Self::UnsupportedElement => "unsupported-element",
            Self::UnexpectedStartTls => "unexpected-starttls",
            Self::PlaintextBehindStartTls { .. } => "plaintext-behind-starttls",
            Self::TooManyAttempts { .. } => "too-many-attempts",
            Self::TooManyBinds { .. } => "too-many-binds",
            Self::TooManyRegistrations { .. } => "too-many-registrations",
            Self::MalformedStreamManagement => "malformed-stream-management",
            Self::HandledCountTooHigh(_) => "handled-count-too-high",
            Self::Timeout => "timeout",
        }
    }

    /// Text for the peer's developer where the condition alone would leave them guessing, else "".
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Xml(XmlError::Limit(_)) => "the element is too large, too deep, or has too many parts",
            Self::ImproperAddressing => "'to' must name a domain, and 'from', if present, be an address",
            Self::DomainChanged => "'to' must name the domain of the account",
            Self::TooManyAttempts { .. } => "too many attempts to authenticate",
            Self::TooManyBinds { .. } => "too many attempts to bind",
            Self::TooManyRegistrations { .. } => "too many requests about registration",
            Self::StanzaBeforeBind => "bind a resource first",
            Self::MalformedStreamManagement => "'h' must be a number below 2^32, and 'previd' be there",
            Self::Xml(XmlError::NotWellFormed | XmlError::Encoding | XmlError::Restricted | XmlError::TextBetween)
            | Self::NotAStream
            | Self::InvalidNamespace
            | Self::UnsupportedVersion
            | Self::HostUnknown
            | Self::InvalidFrom
            | Self::StanzaBeforeAuth
            | Self::UnsupportedElement
            | Self::UnexpectedStartTls
            | Self::PlaintextBehindStartTls { .. }
            | Self::HandledCountTooHigh(_)
            | Self::Timeout => "",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())?;
        match self {
            Self::PlaintextBehindStartTls { bytes } => write!(f, " ({bytes} bytes)"),
            Self::TooManyAttempts { max } | Self::TooManyBinds { max } | Self::TooManyRegistrations { max } => {
                write!(f, " (at most {max})")
            }
            Self::HandledCountTooHigh(HandledCountTooHigh { h, send_count }) => write!(f, " ({h} of {send_count})"),
            Self::Xml(_)
            | Self::NotAStream
            | Self::InvalidNamespace
            | Self::UnsupportedVersion
            | Self::HostUnknown
            | Self::ImproperAddressing
            | Self::InvalidFrom
            | Self::DomainChanged
            | Self::StanzaBeforeAuth
            | Self::StanzaBeforeBind
            | Self::UnsupportedElement
            | Self::UnexpectedStartTls
            | Self::MalformedStreamManagement
            | Self::Timeout => Ok(()),
        }
    }
}

impl std::error::Error for Violation {}

/// What a stream error says: a defined condition, and for some protocols a word of their own beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamError {
    /// The defined condition (RFC 6120 §4.9.3).
    pub condition: Condition,
    /// The application-specific condition (RFC 6120 §4.9.4).
    pub application: Option<Application>,
}

/// Application-specific conditions (RFC 6120 §4.9.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Application {
    /// More stanzas acknowledged than sent (XEP-0198 v1.6.3 §6).
    HandledCountTooHigh(HandledCountTooHigh),
}

impl From<Condition> for StreamError {
    fn from(condition: Condition) -> Self {
        Self { condition, application: None }
    }
}

impl From<HandledCountTooHigh> for StreamError {
    fn from(counts: HandledCountTooHigh) -> Self {
        Self { condition: Condition::UndefinedCondition, application: Some(Application::HandledCountTooHigh(counts)) }
    }
}

/// Appends `<stream:error>…</stream:error></stream:stream>` for a stream whose header was sent already. `text` is for the
/// peer's developer, "" for none.
pub fn write_error(out: &mut Vec<u8>, error: impl Into<StreamError>, text: &str) {
    let StreamError { condition, application } = error.into();
    write_parts(out, &["<stream:error><", condition.name(), " xmlns='", ns::STREAM_ERRORS, "'/>"]);
    if !text.is_empty() {
        write_parts(out, &["<text xmlns='", ns::STREAM_ERRORS, "' xml:lang='en'>"]);
        write::text(out, text);
        out.extend_from_slice(b"</text>");
    }
    match application {
        Some(Application::HandledCountTooHigh(counts)) => counts.write(out),
        None => {}
    }
    out.extend_from_slice(b"</stream:error>");
    write_close(out);
}

/// Appends `</stream:stream>` (RFC 6120 §4.4).
pub fn write_close(out: &mut Vec<u8>) {
    out.extend_from_slice(b"</stream:stream>");
}

/// Appends constants of ours, which need no escaping.
pub(super) fn write_parts(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_closes_the_stream() {
        let mut out = Vec::new();
        write_error(&mut out, Condition::SystemShutdown, "");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "<stream:error><system-shutdown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
        );
    }

    #[test]
    fn an_application_has_its_own_word_behind_the_condition() {
        let mut out = Vec::new();
        write_error(&mut out, HandledCountTooHigh { h: 10, send_count: 8 }, "count again");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "<stream:error><undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>count again</text>\
             <handled-count-too-high xmlns='urn:xmpp:sm:3' h='10' send-count='8'/></stream:error></stream:stream>"
        );
    }

    #[test]
    fn a_violation_names_its_numbers() {
        assert_eq!(Violation::TooManyAttempts { max: 3 }.to_string(), "too-many-attempts (at most 3)");
        assert_eq!(Violation::Xml(XmlError::Limit("depth_max")).to_string(), "depth_max");
    }
}
