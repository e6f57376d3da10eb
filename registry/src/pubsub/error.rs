//! Why a request is refused, in the words of XEP-0060: one table from what is wrong to what the peer reads.

use plaza_core::forms::FormError;
use plaza_core::ns;
use plaza_core::rsm::RsmError;
use plaza_core::stanza::{Condition, Detail, ErrorType, StanzaError};

use crate::store::StoreError;

/// The error that answers a request, and what stands in front of it in the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error.
    pub error: StanzaError,
    /// The entries of the request that failed, as they are (XEP-0060 §8.8.2.4, §8.9.2.4); mostly empty.
    pub payload: Vec<u8>,
}

/// What is wrong, where XEP-0060 has a condition of its own for it, or another error type than RFC 6120 recommends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Problem {
    /// §6.1.3.4, §6.5.9.8: not on the whitelist.
    ClosedNode,
    /// §6.1.3.1: another entity's address, or none.
    InvalidJid,
    /// §6.3.4.3: no address.
    JidRequired,
    /// §6.3.6.2: options that cannot be.
    InvalidOptions,
    /// §7.1.3.6: not exactly one payload, or one of another namespace than the node's.
    InvalidPayload,
    /// §7.1.3.7: an item for a node that tells of events without items.
    ItemForbidden,
    /// §7.1.3.7, §7.2.3.4: no item, or one without id.
    ItemRequired,
    /// §7.1.3.7: no payload.
    PayloadRequired,
    /// §7.1.3.5: the payload is larger than the node takes.
    PayloadTooBig,
    /// §12.11: more items at once than the node holds.
    MaxItemsExceeded,
    /// §7.1.3.4: the node is full and takes no more.
    NodeFull,
    /// §17.2: more nodes than one may have.
    MaxNodesExceeded,
    /// §7.2.3.3, §8.2.3.3: no node.
    NodeIdRequired,
    /// §6.1.3.3, §6.5.9.7: not in the roster groups.
    NotInRosterGroup,
    /// §6.1.3.2, §6.5.9.6: no subscription to the owner's presence.
    PresenceSubscriptionRequired,
    /// §6.5.9.3: only subscribers may read.
    NotSubscribed,
    /// §6.2.3.2: nothing to end.
    NoSuchSubscription,
    /// §6.3.4.2: nothing to set options of.
    NoSuchSubscriber,
    /// §6.1.3.7: already asked.
    PendingSubscription,
    /// §6.1.3.9: more subscriptions than one entity may have.
    TooManySubscriptions,
    /// §7.1.5: the node is not as the publisher takes it to be.
    PreconditionNotMet,
    /// §8.1.2: no such access model.
    UnsupportedAccessModel,
    /// Throughout: the feature that we do not have.
    Unsupported(&'static str),
}

impl Problem {
    /// What the peer reads. The type is the one that XEP-0060's examples have.
    const fn parts(self) -> (Condition, ErrorType, &'static str) {
        use {Condition as C, ErrorType as T};
        match self {
            Self::ClosedNode => (C::NotAllowed, T::Cancel, "closed-node"),
            Self::InvalidJid => (C::BadRequest, T::Modify, "invalid-jid"),
            Self::JidRequired => (C::BadRequest, T::Modify, "jid-required"),
            Self::InvalidOptions => (C::BadRequest, T::Modify, "invalid-options"),
            Self::InvalidPayload => (C::BadRequest, T::Modify, "invalid-payload"),
            Self::ItemForbidden => (C::BadRequest, T::Modify, "item-forbidden"),
            Self::ItemRequired => (C::BadRequest, T::Modify, "item-required"),
            Self::PayloadRequired => (C::BadRequest, T::Modify, "payload-required"),
            Self::PayloadTooBig => (C::NotAcceptable, T::Modify, "payload-too-big"),
            Self::MaxItemsExceeded => (C::NotAllowed, T::Cancel, "max-items-exceeded"),
            Self::NodeFull => (C::Conflict, T::Cancel, "node-full"),
            Self::MaxNodesExceeded => (C::ResourceConstraint, T::Wait, "max-nodes-exceeded"),
            Self::NodeIdRequired => (C::BadRequest, T::Modify, "nodeid-required"),
            Self::NotInRosterGroup => (C::NotAuthorized, T::Auth, "not-in-roster-group"),
            Self::PresenceSubscriptionRequired => (C::NotAuthorized, T::Auth, "presence-subscription-required"),
            Self::NotSubscribed => (C::NotAuthorized, T::Auth, "not-subscribed"),
            Self::NoSuchSubscription => (C::UnexpectedRequest, T::Cancel, "not-subscribed"),
            Self::NoSuchSubscriber => (C::UnexpectedRequest, T::Modify, "not-subscribed"),
            Self::PendingSubscription => (C::NotAuthorized, T::Auth, "pending-subscription"),
            Self::TooManySubscriptions => (C::PolicyViolation, T::Wait, "too-many-subscriptions"),
            Self::PreconditionNotMet => (C::Conflict, T::Cancel, "precondition-not-met"),
            Self::UnsupportedAccessModel => (C::NotAcceptable, T::Modify, "unsupported-access-model"),
            Self::Unsupported(_) => (C::FeatureNotImplemented, T::Cancel, "unsupported"),
        }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let (condition, error_type, name) = problem.parts();
        let attr = if let Problem::Unsupported(feature) = problem { Some(("feature", feature)) } else { None };
        let detail = Detail { name, ns: ns::PUBSUB_ERRORS, attr };
        StanzaError::from(condition).with_type(error_type).with_detail(detail).into()
    }
}

impl From<StanzaError> for Refusal {
    fn from(error: StanzaError) -> Self {
        Self { error, payload: Vec::new() }
    }
}

impl From<Condition> for Refusal {
    fn from(condition: Condition) -> Self {
        StanzaError::from(condition).into()
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy => Condition::ResourceConstraint,
            StoreError::Failed | StoreError::Corrupt => Condition::InternalServerError,
        }
        .into()
    }
}

impl From<RsmError> for Refusal {
    fn from(error: RsmError) -> Self {
        error.condition().into()
    }
}

impl From<FormError> for Refusal {
    fn from(error: FormError) -> Self {
        StanzaError::from(error.condition()).with_text(error.text()).into()
    }
}
