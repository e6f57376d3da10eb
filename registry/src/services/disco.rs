//! Service discovery (XEP-0030 v2.5.0): what the server and an account are, to those who may know; and the server's
//! entity capabilities, which are a hash of that (XEP-0115 v1.6.0 §6.3).

use plaza_core::adhoc;
use plaza_core::caps::{Caps, HashFunction, Info};
use plaza_core::iot::{Generation, Interface};
use plaza_core::jid::JidRef;
use plaza_core::ns;
use plaza_core::stanza::Condition;
use plaza_core::xml::read::Node;
use plaza_core::xml::write;

use super::{Component, ServiceConfig, enforcement};
use crate::pubsub;

/// Items in one answer. Beyond it the rest is left out: paging (XEP-0059) has to come before there are so many.
const ITEMS_MAX: usize = 100;

/// Who says that it understands something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Server,
    /// The server on behalf of each account.
    Account,
    Both,
}

/// All that is understood, by whom: a service that is added has its rows here. Sorted by bytes, so that the answer is the
/// same on every broker and a hash over it is, too.
const FEATURES: &[(&str, By)] = &[
    (ns::CAPS, By::Server),
    (ns::DISCO_INFO, By::Both),
    (ns::DISCO_ITEMS, By::Both),
    (ns::AVATAR, By::Account),
    (ns::PRIVATE, By::Both),
    (ns::ROSTER, By::Both),
    (ns::VERSION, By::Server),
    (ns::OFFLINE, By::Server),
    (ns::AVATAR_STORAGE, By::Account),
    (ns::BLOCKING, By::Both),
    (ns::CARBONS, By::Server),
    (ns::AVATAR_CONVERSION, By::Account),
    (ns::PING, By::Both),
    (ns::TIME, By::Server),
    (ns::VCARD, By::Both),
];

/// What an account with an archive understands beside (XEP-0313 §7, XEP-0359 §5).
const ARCHIVE_FEATURES: [&str; 3] = [ns::MAM, ns::MAM_EXTENDED, ns::STANZA_IDS];

/// What a server understands beside where registration is on (XEP-0077 §6.1, XEP-0348 §5).
const REGISTRATION_FEATURES: [&str; 2] = [ns::REGISTER, ns::SIGNED_FORMS];

/// What an account is. Its owner and subscribers of its presence are told, nobody else (§8).
const ACCOUNT_IDENTITIES: [Identity<'static>; 2] = [
    Identity { category: "account", kind: "registered", name: "" },
    Identity { category: "pubsub", kind: "pep", name: "" },
];

struct Identity<'a> {
    category: &'a str,
    kind: &'a str,
    /// "" for none.
    name: &'a str,
}

/// What the server is (§3).
///
/// # Errors
/// `item-not-found` (§7) for a node other than that of our own capabilities.
pub(super) fn server(query: &Node, config: &ServiceConfig) -> Result<Vec<u8>, Condition> {
    let node = query.attr("node");
    match node {
        None | Some("") => {}
        Some(node) if node == caps(config).query_node() => {}
        Some(_) => return Err(Condition::ItemNotFound),
    }
    Ok(server_info(node, config))
}

/// What an account is (§3), for its owner and for subscribers. `has_archive`: whether the one who asks may read one.
///
/// # Errors
/// `item-not-found` (§7): there are no nodes.
pub(super) fn account(query: &Node, has_archive: bool) -> Result<Vec<u8>, Condition> {
    refuse_node(query)?;
    let more: &[&str] = if has_archive { &ARCHIVE_FEATURES } else { &[] };
    Ok(info(query.attr("node"), &ACCOUNT_IDENTITIES, By::Account, more))
}

/// The services beside the server (§4): those whose names lie in its domain.
///
/// # Errors
/// `item-not-found` (§7): there are no nodes.
pub(super) fn server_items(query: &Node, server: JidRef<'_>, components: &[Component]) -> Result<Vec<u8>, Condition> {
    refuse_node(query)?;
    let beside = |component: &&Component| {
        let parent = component.jid.as_str().split_once('.').map_or("", |(_, parent)| parent);
        parent == server.as_str()
    };
    Ok(items(query.attr("node"), components.iter().filter(beside)))
}

/// What those who may not know are told of an account's items, whether it exists or not: that there are none, under
/// whatever node (§8).
pub(super) fn no_items(query: &Node) -> Vec<u8> {
    items(query.attr("node"), std::iter::empty())
}

/// What the Thing Registry is: its features are those of all generations, since each client looks for its own.
///
/// # Errors
/// `item-not-found` (§7): there are no nodes but those of its commands.
pub(super) fn things(query: &Node) -> Result<Vec<u8>, Condition> {
    if let Some(info) = query.attr("node").and_then(|node| adhoc::info(node, enforcement::COMMANDS)) {
        return Ok(info);
    }
    refuse_node(query)?;
    let of = |interface: Interface| Generation::ALL.map(|generation| interface.ns(generation));
    let mut features: Vec<&str> = Interface::ALL.into_iter().flat_map(of).collect();
    features.extend([ns::COMMANDS, ns::DISCO_INFO, ns::DISCO_ITEMS, ns::VERSION, ns::PING]);
    features.sort_unstable();
    features.dedup();
    let identity = Identity { category: "component", kind: "generic", name: "Thing Registry" };
    Ok(info_of(query.attr("node"), &[identity], features.into_iter()))
}

/// What lies below the Thing Registry at this address: its commands (XEP-0050 v1.3.0 §2.2), and nothing else that is found
/// this way.
///
/// # Errors
/// `item-not-found` (§7): there are no other nodes.
pub(super) fn things_items(query: &Node, jid: &str) -> Result<Vec<u8>, Condition> {
    if let Some(items) = query.attr("node").and_then(|node| adhoc::items(node, jid, enforcement::COMMANDS)) {
        return Ok(items);
    }
    refuse_node(query)?;
    Ok(no_items(query))
}

/// The server's capabilities: the hash of its own answer.
pub(super) fn caps(config: &ServiceConfig) -> Caps {
    let answer = server_info(None, config);
    let answer = std::str::from_utf8(&answer).ok().and_then(|answer| Node::parse(answer, ""));
    let info = answer.and_then(|answer| Info::read(&answer).ok()).expect("what we answer is well-formed");
    Caps::new(&config.node, info.ver(HashFunction::Sha1))
}

fn server_info(node: Option<&str>, config: &ServiceConfig) -> Vec<u8> {
    let more: &[&str] = if config.registration.config().enabled { &REGISTRATION_FEATURES } else { &[] };
    info(node, &[Identity { category: "server", kind: "im", name: &config.name }], By::Server, more)
}

/// Writes identities and features; the node asked about is mirrored (§3.2).
fn info(node: Option<&str>, identities: &[Identity<'_>], by: By, more: &[&str]) -> Vec<u8> {
    let pep = if by == By::Account { pubsub::ACCOUNT_FEATURES } else { &[] }; // XEP-0163 v1.2.2 §6.1
    let said = FEATURES.iter().filter(|(_, said_by)| *said_by == by || *said_by == By::Both);
    let said = said.map(|(feature, _)| *feature);
    info_of(node, identities, said.chain(more.iter().copied()).chain(pep.iter().copied()))
}

fn info_of<'f>(node: Option<&str>, identities: &[Identity<'_>], features: impl Iterator<Item = &'f str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    begin_query(&mut out, ns::DISCO_INFO, node);
    out.push(b'>');
    for identity in identities {
        out.extend_from_slice(b"<identity");
        write::attr(&mut out, "category", identity.category);
        write::attr(&mut out, "type", identity.kind);
        if !identity.name.is_empty() {
            write::attr(&mut out, "name", identity.name);
        }
        out.extend_from_slice(b"/>");
    }
    for feature in features {
        out.extend_from_slice(b"<feature");
        write::attr(&mut out, "var", feature);
        out.extend_from_slice(b"/>");
    }
    out.extend_from_slice(b"</query>");
    out
}

/// Writes items; an empty query if there are none (§4.1).
fn items<'c>(node: Option<&str>, items: impl Iterator<Item = &'c Component>) -> Vec<u8> {
    let mut out = Vec::new();
    begin_query(&mut out, ns::DISCO_ITEMS, node);
    let mut items = items.take(ITEMS_MAX).peekable();
    if items.peek().is_none() {
        out.extend_from_slice(b"/>");
        return out;
    }
    out.push(b'>');
    for Component { jid, name, .. } in items {
        out.extend_from_slice(b"<item");
        write::attr(&mut out, "jid", jid.as_str());
        if !name.is_empty() {
            write::attr(&mut out, "name", name);
        }
        out.extend_from_slice(b"/>");
    }
    out.extend_from_slice(b"</query>");
    out
}

fn begin_query(out: &mut Vec<u8>, ns: &str, node: Option<&str>) {
    out.extend_from_slice(b"<query");
    write::attr(out, "xmlns", ns);
    if let Some(node) = node {
        write::attr(out, "node", node);
    }
}

/// An empty node is none.
fn refuse_node(query: &Node) -> Result<(), Condition> {
    match query.attr("node") {
        None | Some("") => Ok(()),
        Some(_) => Err(Condition::ItemNotFound),
    }
}

#[cfg(test)]
mod tests {
    use plaza_core::caps::Ver;

    use super::super::ComponentKind;
    use super::super::testing::{Client, config, error};
    use super::*;
    use crate::testing::jid;

    const INFO: &str = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
    const ITEMS: &str = "<query xmlns='http://jabber.org/protocol/disco#items'/>";

    fn with_node(query: &str, node: &str) -> String {
        query.replace("/>", &format!(" node='{node}'/>"))
    }

    /// The features in an answer.
    fn features(answer: &str) -> Vec<String> {
        Info::read(&Node::parse(answer, "").unwrap()).unwrap().features
    }

    #[test]
    fn features_are_sorted_and_said_once() {
        assert!(FEATURES.is_sorted_by(|(one, _), (other, _)| one < other));
    }

    #[test]
    fn the_server_says_what_it_is_and_what_is_beside_it() {
        let owner = Client::owner();
        let answer = owner.get("things.example", INFO);
        assert!(answer.starts_with(
            "<query xmlns='http://jabber.org/protocol/disco#info'><identity category='server' type='im' name='Plaza'/>\
             <feature var='http://jabber.org/protocol/caps'/><feature var='http://jabber.org/protocol/disco#info'/>"
        ));
        for feature in [ns::VERSION, ns::REGISTER, ns::SIGNED_FORMS] {
            assert!(features(&answer).contains(&feature.to_owned()), "{feature}");
        }
        assert_eq!(
            owner.get("things.example", ITEMS),
            "<query xmlns='http://jabber.org/protocol/disco#items'>\
             <item jid='things.things.example' name='Things &amp; more'/><item jid='pubsub.things.example'/></query>"
        );
        let mut alone = owner;
        alone.config.components.clear();
        assert_eq!(alone.get("things.example", ITEMS), ITEMS);
    }

    #[test]
    fn no_more_items_are_listed_than_one_answer_holds() {
        let mut owner = Client::owner();
        let component = |number| {
            let jid = jid(&format!("c{number}.things.example"));
            Component { jid, name: String::new(), kind: ComponentKind::Pubsub }
        };
        owner.config.components = (0..=ITEMS_MAX).map(component).collect();
        assert_eq!(owner.get("things.example", ITEMS).matches("<item ").count(), ITEMS_MAX);
    }

    #[test]
    fn the_servers_capabilities_are_the_hash_of_its_answer() {
        let owner = Client::owner();
        let caps = super::super::caps(&config());
        let answer = owner.get("things.example", INFO);
        let info = Info::read(&Node::parse(&answer, "").unwrap()).unwrap();
        assert_eq!(caps.ver(), Some(info.ver(HashFunction::Sha1)));
        assert_eq!(Ver::parse("sha-1", &caps.ver), caps.ver());
        // XEP-0115 §6.2: whoever saw them asks about this node, which is mirrored.
        let node = format!("https://plaza.example#{}", caps.ver);
        assert_eq!(caps.query_node(), node);
        let of_node = owner.get("things.example", &with_node(INFO, &node));
        assert_eq!(of_node, answer.replacen('>', &format!(" node='{node}'>"), 1));
        for other in ["https://plaza.example", "https://plaza.example#", "x"] {
            assert_eq!(owner.get("things.example", &with_node(INFO, other)), error(Condition::ItemNotFound));
        }
        // The node is no item (§6.2), and another answer has another hash.
        assert_eq!(owner.get("things.example", &with_node(ITEMS, &node)), error(Condition::ItemNotFound));
        let renamed = ServiceConfig { name: "Other".to_owned(), ..config() };
        assert_ne!(super::super::caps(&renamed).ver, caps.ver);
    }

    #[test]
    fn an_account_says_what_it_is_to_its_owner_and_to_subscribers() {
        let owner = Client::owner();
        let subscriber = owner.other(true);
        let answer = owner.get("", INFO);
        assert!(answer.starts_with(
            "<query xmlns='http://jabber.org/protocol/disco#info'><identity category='account' type='registered'/>\
             <identity category='pubsub' type='pep'/><feature var='http://jabber.org/protocol/disco#info'/>"
        ));
        assert!(!features(&answer).contains(&ns::VERSION.to_owned()));
        for (client, to) in [(&owner, "owner@things.example"), (&subscriber, "owner@things.example")] {
            assert_eq!(client.get(to, INFO), answer);
            assert_eq!(client.get(to, ITEMS), ITEMS);
            for query in [INFO, ITEMS] {
                assert_eq!(client.get(to, &with_node(query, "x")), error(Condition::ItemNotFound));
            }
        }
        assert_eq!(owner.get("", &with_node(INFO, "")), answer.replacen('>', " node=''>", 1));
    }

    #[test]
    fn strangers_learn_no_more_of_an_account_than_of_none() {
        // XEP-0030 v2.5.0 §8.
        let stranger = Client::owner().other(false);
        stranger.store.hold();
        for to in ["owner@things.example", "nobody@things.example"] {
            for info in [INFO.to_owned(), with_node(INFO, "x")] {
                assert_eq!(stranger.get(to, &info), error(Condition::ServiceUnavailable));
            }
            for items in [ITEMS.to_owned(), with_node(ITEMS, "x")] {
                assert_eq!(stranger.get(to, &items), items);
            }
        }
        assert_eq!(stranger.store.held(), 0);
    }

    #[test]
    fn discovery_is_a_get() {
        let owner = Client::owner();
        for to in ["", "things.example"] {
            for query in [INFO, ITEMS] {
                assert_eq!(owner.set(to, query), error(Condition::FeatureNotImplemented));
            }
        }
    }
}
