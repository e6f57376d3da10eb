//! Stanza errors (RFC 6120 §8.3).

use std::fmt;

use crate::ns;

/// What the sender may do about it (RFC 6120 §8.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the protocol's own words")]
pub enum ErrorType {
    Auth,
    Cancel,
    Continue,
    Modify,
    Wait,
}

impl ErrorType {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Auth, Self::Cancel, Self::Continue, Self::Modify, Self::Wait];

    /// Value of the `type` attribute.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Cancel => "cancel",
            Self::Continue => "continue",
            Self::Modify => "modify",
            Self::Wait => "wait",
        }
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|error_type| error_type.name() == name)
    }
}

/// The defined conditions (RFC 6120 §8.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the protocol's own words")]
pub enum Condition {
    BadRequest,
    Conflict,
    FeatureNotImplemented,
    Forbidden,
    Gone,
    InternalServerError,
    ItemNotFound,
    JidMalformed,
    NotAcceptable,
    NotAllowed,
    NotAuthorized,
    PolicyViolation,
    RecipientUnavailable,
    Redirect,
    RegistrationRequired,
    RemoteServerNotFound,
    RemoteServerTimeout,
    ResourceConstraint,
    ServiceUnavailable,
    SubscriptionRequired,
    UndefinedCondition,
    UnexpectedRequest,
}

impl Condition {
    /// All of them, in the order of RFC 6120 §8.3.3.
    pub const ALL: [Self; 22] = [
        Self::BadRequest,
        Self::Conflict,
        Self::FeatureNotImplemented,
        Self::Forbidden,
        Self::Gone,
        Self::InternalServerError,
        Self::ItemNotFound,
        Self::JidMalformed,
        Self::NotAcceptable,
        Self::NotAllowed,
        Self::NotAuthorized,
        Self::PolicyViolation,
        Self::RecipientUnavailable,
        Self::Redirect,
        Self::RegistrationRequired,
        Self::RemoteServerNotFound,
        Self::RemoteServerTimeout,
        Self::ResourceConstraint,
        Self::ServiceUnavailable,
        Self::SubscriptionRequired,
        Self::UndefinedCondition,
        Self::UnexpectedRequest,
    ];

    /// Element name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::Conflict => "conflict",
            Self::FeatureNotImplemented => "feature-not-implemented",
            Self::Forbidden => "forbidden",
            Self::Gone => "gone",
            Self::InternalServerError => "internal-server-error",
            Self::ItemNotFound => "item-not-found",
            Self::JidMalformed => "jid-malformed",
            Self::NotAcceptable => "not-acceptable",
            Self::NotAllowed => "not-allowed",
            Self::NotAuthorized => "not-authorized",
            Self::PolicyViolation => "policy-violation",
            Self::RecipientUnavailable => "recipient-unavailable",
            Self::Redirect => "redirect",
            Self::RegistrationRequired => "registration-required",
            Self::RemoteServerNotFound => "remote-server-not-found",
            Self::RemoteServerTimeout => "remote-server-timeout",
            Self::ResourceConstraint => "resource-constraint",
            Self::ServiceUnavailable => "service-unavailable",
            Self::SubscriptionRequired => "subscription-required",
            Self::UndefinedCondition => "undefined-condition",
            Self::UnexpectedRequest => "unexpected-request",
        }
    }

    /// The type RFC 6120 §8.3.3 recommends for it; the first where it recommends two, `cancel` where it leaves it open
    /// (`undefined-condition`).
    pub const fn error_type(self) -> ErrorType {
        match self {
            Self::BadRequest | Self::JidMalformed | Self::NotAcceptable | Self::PolicyViolation | Self::Redirect => {
                ErrorType::Modify
            }
            Self::Conflict
            | Self::FeatureNotImplemented
            | Self::Gone
            | Self::InternalServerError
            | Self::ItemNotFound
            | Self::NotAllowed
            | Self::RemoteServerNotFound
            | Self::ServiceUnavailable
            | Self::UndefinedCondition => ErrorType::Cancel,
            Self::Forbidden | Self::NotAuthorized | Self::RegistrationRequired | Self::SubscriptionRequired => {
                ErrorType::Auth
            }
            Self::RecipientUnavailable
            | Self::RemoteServerTimeout
            | Self::ResourceConstraint
            | Self::UnexpectedRequest => ErrorType::Wait,
        }
    }

    /// The error of this condition with a text for the sender's developer.
    pub const fn with_text(self, text: &'static str) -> StanzaError {
        StanzaError { condition: self, error_type: self.error_type(), text, detail: None }
    }

    /// The one with this element name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|condition| condition.name() == name)
    }
}

/// An error to answer a stanza with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StanzaError {
    /// The condition.
    pub condition: Condition,
    /// What the sender may do.
    pub error_type: ErrorType,
    /// Text for the sender's developer, "" for none. Says what to change and nothing of our insides.
    pub text: &'static str,
    /// What the protocol in question calls it, if it has a name for it.
    pub detail: Option<Detail>,
}

/// An application-specific condition (RFC 6120 §8.3.4): an element of a protocol's own error namespace, empty but for an
/// attribute at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detail {
    /// Element name.
    pub name: &'static str,
    /// Namespace.
    pub ns: &'static str,
    /// Its attribute: name and value.
    pub attr: Option<(&'static str, &'static str)>,
}

impl StanzaError {
    /// The sender's own account blocks whom it addresses (XEP-0191 v1.3 §3.3).
    pub const BLOCKED: Self = Self {
        condition: Condition::NotAcceptable,
        error_type: ErrorType::Cancel,
        text: "",
        detail: Some(Detail { name: "blocked", ns: ns::BLOCKING_ERRORS, attr: None }),
    };

    /// The sender addresses too many in too short a time (XEP-0205 v1.0 §5).
    pub const TOO_MANY_STRANGERS: Self = Self {
        condition: Condition::UnexpectedRequest,
        error_type: ErrorType::Wait,
        text: "too many addresses that are no contacts",
        detail: Some(Detail { name: "too-many-stanzas", ns: ns::ERRORS, attr: None }),
    };

    /// The same error with another type than the recommended one.
    #[must_use]
    pub const fn with_type(mut self, error_type: ErrorType) -> Self {
        self.error_type = error_type;
        self
    }

    /// The same error with a text for the sender's developer.
    #[must_use]
    pub const fn with_text(mut self, text: &'static str) -> Self {
        self.text = text;
        self
    }

    /// The same error with an application-specific condition.
    #[must_use]
    pub const fn with_detail(mut self, detail: Detail) -> Self {
        self.detail = Some(detail);
        self
    }
}

impl From<Condition> for StanzaError {
    fn from(condition: Condition) -> Self {
        Self { condition, error_type: condition.error_type(), text: "", detail: None }
    }
}

impl fmt::Display for StanzaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.condition.name(), self.error_type.name())?;
        if let Some(detail) = self.detail {
            write!(f, ", {}", detail.name)?;
        }
        if self.text.is_empty() { Ok(()) } else { write!(f, ": {}", self.text) }
    }
}

impl std::error::Error for StanzaError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_have_the_names_and_types_of_rfc_6120_section_8_3_3() {
        let table = [
            ("bad-request", "modify"),
            ("conflict", "cancel"),
            ("feature-not-implemented", "cancel"),
            ("forbidden", "auth"),
            ("gone", "cancel"),
            ("internal-server-error", "cancel"),
            ("item-not-found", "cancel"),
            ("jid-malformed", "modify"),
            ("not-acceptable", "modify"),
            ("not-allowed", "cancel"),
            ("not-authorized", "auth"),
            ("policy-violation", "modify"),
            ("recipient-unavailable", "wait"),
            ("redirect", "modify"),
            ("registration-required", "auth"),
            ("remote-server-not-found", "cancel"),
            ("remote-server-timeout", "wait"),
            ("resource-constraint", "wait"),
            ("service-unavailable", "cancel"),
            ("subscription-required", "auth"),
            ("undefined-condition", "cancel"),
            ("unexpected-request", "wait"),
        ];
        let ours = Condition::ALL.map(|condition| (condition.name(), condition.error_type().name()));
        assert_eq!(ours, table);
    }

    #[test]
    fn names_lead_back() {
        for condition in Condition::ALL {
            assert_eq!(Condition::from_name(condition.name()), Some(condition));
        }
        for error_type in ErrorType::ALL {
            assert_eq!(ErrorType::from_name(error_type.name()), Some(error_type));
        }
        assert_eq!(Condition::from_name("Bad-Request"), None);
        assert_eq!(ErrorType::from_name(""), None);
    }

    #[test]
    fn an_error_takes_the_recommended_type() {
        let error = StanzaError::from(Condition::ResourceConstraint);
        assert_eq!((error.error_type, error.text), (ErrorType::Wait, ""));
        assert_eq!(error.to_string(), "resource-constraint (wait)");
        let detail = Detail { name: "closed-node", ns: "urn:errors", attr: None };
        let error = error.with_type(ErrorType::Cancel).with_detail(detail).with_text("ask the owner");
        assert_eq!(error.to_string(), "resource-constraint (cancel), closed-node: ask the owner");
    }
}
