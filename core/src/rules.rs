//! Where a stanza belongs (RFC 6120 §10, RFC 6121 §8). Pure functions with the RFC's tables as their tests.
//!
//! A stanza's way: [`destination`] names the place. At the home of a local account a bare JID asks [`unmatched`]; a full
//! JID whose resource is connected gets the stanza if [`reaches_resource`] says so, and asks [`unmatched`] otherwise.

use crate::jid::JidRef;
use crate::stanza::{Class, Condition, IqType, MessageType, PresenceType};

/// What a domain name is to this broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainKind {
    /// A domain whose accounts live here.
    Local,
    /// A service of ours at a subdomain, by index in the configuration.
    Service(u16),
    /// Somebody else's.
    Remote,
}

/// Where a stanza belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination<'a> {
    /// The sender's own account: no `to`, or `to` is the sender's bare JID (RFC 6120 §10.3).
    OwnAccount,
    /// The server itself: `to` is one of our domains.
    Server(JidRef<'a>),
    /// A service of ours.
    Service(u16, JidRef<'a>),
    /// A local account's bare JID.
    Account(JidRef<'a>),
    /// A local account's full JID.
    Resource(JidRef<'a>),
    /// A remote domain.
    Remote(JidRef<'a>),
}

/// Names where a stanza from a bound session belongs (RFC 6120 §10): no `to` (§10.3), a remote domain (§10.4), or one
/// of ours (§10.5), where an address without a localpart is the server itself whether it has a resourcepart or not.
pub fn destination<'a>(
    from: JidRef<'_>,
    to: Option<JidRef<'a>>,
    domain: impl FnOnce(&str) -> DomainKind,
) -> Destination<'a> {
    let Some(to) = to else { return Destination::OwnAccount };
    match domain(to.domain()) {
        DomainKind::Remote => Destination::Remote(to),
        DomainKind::Service(index) => Destination::Service(index, to),
        DomainKind::Local if to.local().is_none() => Destination::Server(to),
        DomainKind::Local if !to.is_bare() => Destination::Resource(to),
        DomainKind::Local if to == from.bare() => Destination::OwnAccount,
        DomainKind::Local => Destination::Account(to),
    }
}

/// A resource as the delivery rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceState {
    /// Priority of its last available presence; `None` before initial presence or after unavailable.
    pub priority: Option<i8>,
}

/// What to do with a stanza for a bare JID, or for a full JID no resource of which matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Deliver to every resource that shares the highest priority, which is not negative.
    MostAvailable,
    /// Deliver to every resource with non-negative priority.
    AllNonNegative,
    /// Deliver to every available resource, whatever its priority (presence).
    AllAvailable,
    /// The server answers or handles it on behalf of the account.
    HandleForAccount,
    /// Store it for later; without a store, answer `service-unavailable`.
    StoreOffline,
    /// Drop it silently.
    Ignore,
    /// Answer with this condition.
    Refuse(Condition),
}

/// Whether a stanza for a full JID goes to the connected resource that has it (RFC 6121 §8.5.3.1). Subscriptions (§3)
/// and probes (§4.3) concern the account instead.
pub const fn reaches_resource(class: Class) -> bool {
    match class {
        Class::Message(_) | Class::Iq(_) => true,
        Class::Presence(presence) => {
            matches!(presence, PresenceType::Available | PresenceType::Unavailable | PresenceType::Error)
        }
    }
}

/// RFC 6121 §8.5.1–8.5.3 / Table 1: the account exists or not, the address is bare or full without a matching resource.
/// `best` is the highest priority among available resources, `None` if none is available.
///
/// Where the RFC leaves a choice:
/// - messages for the account go to the "most available" resources, which are all that share the highest priority,
///   and not to all non-negative ones (§8.5.2.1.1): a device of low priority is a fallback;
/// - a normal or groupchat message for a resource that is gone is refused and not dropped (§8.5.3.2.1): nothing is lost
///   without the sender knowing, and a room learns that its occupant left. A headline is dropped, as Table 1 has it;
/// - an unknown account refuses what an offline account without a store would refuse, and drops what it would drop
///   (§8.5.1), so that the answers do not tell one from the other. A probe is handled as for an account that knows
///   nobody (§4.3.2), for the same reason.
pub const fn unmatched(class: Class, account_exists: bool, to_is_bare: bool, best: Option<i8>) -> Delivery {
    match class {
        Class::Message(message) => {
            // Negative priorities never get what was not sent to their full JID.
            let reachable = account_exists && matches!(best, Some(0..));
            unmatched_message(message, account_exists, to_is_bare, reachable)
        }
        Class::Presence(presence) => unmatched_presence(presence, account_exists, to_is_bare, best.is_some()),
        Class::Iq(iq) => match iq {
            _ if account_exists && to_is_bare => Delivery::HandleForAccount, // §8.5.2.1.3, §8.5.2.2.3
            IqType::Get | IqType::Set => UNAVAILABLE,                        // §8.5.1, §8.5.3.2.3
            IqType::Result | IqType::Error => Delivery::Ignore,
        },
    }
}

const UNAVAILABLE: Delivery = Delivery::Refuse(Condition::ServiceUnavailable);

/// Messages: §8.5.1, §8.5.2.1.1, §8.5.2.2.1, §8.5.3.2.1.
const fn unmatched_message(message: MessageType, account_exists: bool, to_is_bare: bool, reachable: bool) -> Delivery {
    match message {
        MessageType::Error => Delivery::Ignore,
        MessageType::Headline if to_is_bare && reachable => Delivery::AllNonNegative,
        MessageType::Headline => Delivery::Ignore,
        MessageType::Groupchat => UNAVAILABLE,
        MessageType::Normal if !to_is_bare => UNAVAILABLE,
        MessageType::Normal | MessageType::Chat if !account_exists => UNAVAILABLE,
        MessageType::Normal | MessageType::Chat if reachable => Delivery::MostAvailable,
        MessageType::Normal | MessageType::Chat => Delivery::StoreOffline,
    }
}

/// Presence: §8.5.1, §8.5.2.1.2, §8.5.2.2.2, §8.5.3.2.2.
const fn unmatched_presence(
    presence: PresenceType,
    account_exists: bool,
    to_is_bare: bool,
    available: bool,
) -> Delivery {
    match presence {
        PresenceType::Probe => Delivery::HandleForAccount, // §4.3.2
        _ if !account_exists => Delivery::Ignore,
        PresenceType::Subscribe => Delivery::HandleForAccount, // §3.1.3
        _ if !to_is_bare => Delivery::Ignore,
        PresenceType::Subscribed | PresenceType::Unsubscribe | PresenceType::Unsubscribed => {
            Delivery::HandleForAccount // §3.1.6, §3.2.3, §3.3.3
        }
        // The RFC is silent on errors. They answer presence sent in the account's name, a subscription request to a
        // domain that can't be reached above all, and whoever is there should hear of it.
        PresenceType::Available | PresenceType::Unavailable | PresenceType::Error => {
            if available {
                Delivery::AllAvailable
            } else {
                Delivery::Ignore
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Delivery = Delivery::AllNonNegative;
    const E: Delivery = UNAVAILABLE;
    const H: Delivery = Delivery::HandleForAccount;
    const M: Delivery = Delivery::MostAvailable;
    const O: Delivery = Delivery::StoreOffline;
    const P: Delivery = Delivery::AllAvailable;
    const S: Delivery = Delivery::Ignore;

    /// The conditions of Table 1: the account exists, the address is bare, the best priority.
    #[rustfmt::skip]
    const CONDITIONS: [(&str, bool, bool, Option<i8>); 10] = [
        ("§8.5.1 no such account, bare",                 false, true,  None),
        ("§8.5.1 no such account, full",                 false, false, None),
        ("§8.5.2.2 no active resources, bare",           true,  true,  None),
        ("§8.5.3.2 no active resources, full",           true,  false, None),
        ("§8.5.2.1 only negative resources, bare",       true,  true,  Some(-1)),
        ("§8.5.3.2 only negative resources, full",       true,  false, Some(-128)),
        ("§8.5.2.1 a resource of priority 0, bare",      true,  true,  Some(0)),
        ("§8.5.3.2 a resource of priority 0, full",      true,  false, Some(0)),
        ("§8.5.2.1 resources of priority over 0, bare",  true,  true,  Some(127)),
        ("§8.5.3.2 resources of priority over 0, full",  true,  false, Some(1)),
    ];

    fn check<const N: usize>(classes: [Class; N], expected: [[Delivery; N]; 10]) {
        for ((row, account_exists, to_is_bare, best), expected) in CONDITIONS.into_iter().zip(expected) {
            let ours = classes.map(|class| unmatched(class, account_exists, to_is_bare, best));
            assert_eq!(ours, expected, "{row}: {classes:?}");
        }
    }

    /// RFC 6121 Table 1. Where it has S for a normal or groupchat message to a full JID, and for an unknown account,
    /// the text of §8.5.1 and §8.5.3.2.1 lets the server answer E instead, as we do. "D", deliver to the one
    /// resource, is M or A with one resource.
    #[test]
    fn messages_follow_table_1() {
        use MessageType::{Chat, Error, Groupchat, Headline, Normal};
        #[rustfmt::skip]
        check([Normal, Chat, Groupchat, Headline, Error].map(Class::Message), [
            [E, E, E, S, S], // no such account
            [E, E, E, S, S],
            [O, O, E, S, S], // no active resources
            [E, O, E, S, S],
            [O, O, E, S, S], // only negative resources
            [E, O, E, S, S],
            [M, M, E, A, S], // non-negative resources
            [E, M, E, S, S],
            [M, M, E, A, S],
            [E, M, E, S, S],
        ]);
    }

    #[test]
    fn presence_follows_sections_3_4_3_and_8_5() {
        use PresenceType::{Available, Error, Probe, Subscribe, Subscribed, Unavailable, Unsubscribe, Unsubscribed};
        let classes = [Available, Unavailable, Error, Subscribe, Subscribed, Unsubscribe, Unsubscribed, Probe];
        #[rustfmt::skip]
        check(classes.map(Class::Presence), [
            [S, S, S, S, S, S, S, H], // no such account
            [S, S, S, S, S, S, S, H],
            [S, S, S, H, H, H, H, H], // no active resources
            [S, S, S, H, S, S, S, H],
            [P, P, P, H, H, H, H, H], // only negative resources: they get presence
            [S, S, S, H, S, S, S, H],
            [P, P, P, H, H, H, H, H], // non-negative resources
            [S, S, S, H, S, S, S, H],
            [P, P, P, H, H, H, H, H],
            [S, S, S, H, S, S, S, H],
        ]);
    }

    #[test]
    fn iqs_are_answered_for_the_account_or_refused() {
        use IqType::{Error, Get, Result, Set};
        #[rustfmt::skip]
        check([Get, Set, Result, Error].map(Class::Iq), [
            [E, E, S, S], // no such account
            [E, E, S, S],
            [H, H, H, H], // no active resources
            [E, E, S, S],
            [H, H, H, H], // only negative resources
            [E, E, S, S],
            [H, H, H, H], // non-negative resources
            [E, E, S, S],
            [H, H, H, H],
            [E, E, S, S],
        ]);
    }

    #[test]
    fn a_connected_resource_gets_all_but_subscriptions_and_probes() {
        for class in classes() {
            let managed = matches!(
                class,
                Class::Presence(
                    PresenceType::Subscribe
                        | PresenceType::Subscribed
                        | PresenceType::Unsubscribe
                        | PresenceType::Unsubscribed
                        | PresenceType::Probe
                )
            );
            assert_eq!(reaches_resource(class), !managed, "{class:?}");
        }
    }

    #[test]
    fn an_unknown_account_answers_like_an_offline_one_without_a_store() {
        let seen = |delivery| if delivery == O { E } else { delivery };
        for class in classes() {
            for to_is_bare in [true, false] {
                let (unknown, offline) =
                    (unmatched(class, false, to_is_bare, None), unmatched(class, true, to_is_bare, None));
                // The account's own answers are its service's care: they refuse a stranger as these do.
                if offline != H {
                    assert_eq!(unknown, seen(offline), "{class:?}");
                }
            }
        }
    }

    #[test]
    fn what_may_not_be_answered_is_never_refused() {
        for class in classes().filter(|class| !class.answerable()) {
            for (row, account_exists, to_is_bare, best) in CONDITIONS {
                let delivery = unmatched(class, account_exists, to_is_bare, best);
                assert!(!matches!(delivery, Delivery::Refuse(_) | Delivery::StoreOffline), "{row}: {class:?}");
            }
        }
    }

    fn classes() -> impl Iterator<Item = Class> {
        use MessageType::{Chat, Groupchat, Headline, Normal};
        use PresenceType::{Available, Probe, Subscribe, Subscribed, Unavailable, Unsubscribe, Unsubscribed};
        let messages = [Normal, Chat, Groupchat, Headline, MessageType::Error].map(Class::Message);
        let presences =
            [Available, Unavailable, Subscribe, Subscribed, Unsubscribe, Unsubscribed, Probe, PresenceType::Error]
                .map(Class::Presence);
        let iqs = [IqType::Get, IqType::Set, IqType::Result, IqType::Error].map(Class::Iq);
        messages.into_iter().chain(presences).chain(iqs)
    }

    fn kind(domain: &str) -> DomainKind {
        match domain {
            "example.org" | "example.com" => DomainKind::Local,
            "things.example.org" => DomainKind::Service(3),
            _ => DomainKind::Remote,
        }
    }

    #[test]
    fn stanzas_belong_where_rfc_6120_section_10_says() {
        let from = JidRef::from_normal("juliet@example.org/balcony");
        type Place = fn(JidRef<'static>) -> Destination<'static>;
        let table: [(&'static str, Place); 13] = [
            ("juliet@example.org", |_| Destination::OwnAccount), // §10.3 by its own bare JID
            ("romeo@example.net", Destination::Remote),          // §10.4
            ("romeo@example.net/orchard", Destination::Remote),
            ("example.net", Destination::Remote),
            ("example.org", Destination::Server), // §10.5.1, §10.5.2
            ("example.org/x", Destination::Server),
            ("example.com", Destination::Server),
            ("romeo@example.org", Destination::Account),           // §10.5.3
            ("juliet@example.com", Destination::Account),          // another domain's Juliet
            ("romeo@example.org/orchard", Destination::Resource),  // §10.5.4
            ("juliet@example.org/balcony", Destination::Resource), // a session may write to itself
            ("things.example.org", |to| Destination::Service(3, to)),
            ("x@things.example.org/y", |to| Destination::Service(3, to)),
        ];
        for (to, expected) in table {
            let to = JidRef::from_normal(to);
            assert_eq!(destination(from, Some(to), kind), expected(to), "{to}");
        }
        assert_eq!(destination(from, None, |_| unreachable!()), Destination::OwnAccount); // §10.3
    }

    proptest! {
        #[test]
        fn nothing_for_a_bare_jid_reaches_a_negative_priority_but_presence(best in proptest::option::of(-128_i8..0)) {
            for class in classes() {
                for to_is_bare in [true, false] {
                    let delivery = unmatched(class, true, to_is_bare, best);
                    prop_assert!(!matches!(delivery, M | A), "{class:?}");
                    prop_assert!(delivery != P || (best.is_some() && matches!(class, Class::Presence(_))));
                }
            }
        }
    }
}
