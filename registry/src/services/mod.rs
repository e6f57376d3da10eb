//! Services: answers to IQs addressed to the server or to an account (RFC 6120 §8.2.3, RFC 6121 §8.5.1).
//! XEP-0199 to the server is answered by the shard itself and needs not come here.
//!
//! Called by the shard that is home to the target, with requests its destination rules gave to us. [`answer`] is a table
//! from namespace and name to a service; a service gives the payload of the result, or the condition of the error. What
//! strangers are told about an account never depends on whether it exists, nor does the time it takes.

mod disco;
mod facts;
mod roster;

use std::sync::Arc;

use plaza_core::jid::Jid;
use plaza_core::ns;
use plaza_core::stanza::{Condition, IqType, Kind, write_error, write_reply_start};
use plaza_core::xml::read::Node;

use self::disco::Entity;
pub use self::roster::payload as roster_payload;
use crate::rosters::RosterItem;
use crate::store::{Store, StoreError};

/// Facts the services state about the broker.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// Software name (XEP-0092).
    pub name: String,
    /// Software version.
    pub version: String,
    /// Domains served.
    pub domains: Vec<Jid>,
    /// Most roster items per account.
    pub roster_items_max: u32,
}

/// Whom the IQ addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The server itself.
    Server(Jid),
    /// The bare JID of a local account (the caller's own if there was no `to`). It is at home on this shard.
    Account(Jid),
}

/// An IQ on its way to a service.
#[derive(Debug, Clone)]
pub struct Request {
    /// Full JID of the sender.
    pub caller: Jid,
    /// Addressee.
    pub target: Target,
    /// Whether the stanza had a `to` (then the answer has that `from`).
    pub addressed: bool,
    /// Get or set (never result or error).
    pub iq_type: IqType,
    /// `id` as written.
    pub id_raw: Box<str>,
    /// The payload element, as written, `<` to `>`. No prefix of its is declared around it, and the default namespace
    /// around it is `jabber:client`.
    pub payload: Box<str>,
    /// Namespace of the payload.
    pub payload_ns: Box<str>,
    /// Local name of the payload.
    pub payload_name: Box<str>,
    /// Seconds and milliseconds of wall-clock time, for XEP-0202.
    pub unix_millis: u64,
}

/// What a service wants done.
#[derive(Debug, Default)]
pub struct Reply {
    /// The complete answering stanza, to be appended to the caller's outbox.
    pub stanza: Vec<u8>,
    /// Further effects, in order, carried out before the answer is sent.
    pub effects: Vec<Effect>,
}

/// Something the shard does on behalf of a service.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// The caller's session is interested in roster pushes from now on (RFC 6121 §2.2).
    RosterInterested,
    /// Send each interested resource of the account an iq set with this payload (RFC 6121 §2.1.6). The shard writes
    /// `<iq type='set' id='…' to='full JID'>` around it.
    RosterPush {
        /// Payload, escaped XML.
        payload: String,
    },
    /// A contact stands with the account as it says.
    Contact(Box<RosterItem>),
    /// A contact was taken out of the roster: subscriptions end (RFC 6121 §2.5.2).
    ContactRemoved(Box<RosterItem>),
}

/// Answers one IQ. Whatever it asked to be stored is durable before this resolves.
pub async fn answer<S: Store>(config: Arc<ServiceConfig>, store: S, request: Request) -> Reply {
    let mut reply = Reply::default();
    let result = serve(&config, &store, &request, &mut reply.effects).await;
    let from = match &request.target {
        Target::Server(jid) | Target::Account(jid) if request.addressed => jid.as_str(),
        Target::Server(_) | Target::Account(_) => "",
    };
    let to = request.caller.as_str();
    match result {
        Ok(payload) => {
            write_reply_start(&mut reply.stanza, &request.id_raw, from, to);
            reply.stanza.extend_from_slice(&payload);
            reply.stanza.extend_from_slice(b"</iq>");
        }
        Err(condition) => {
            write_error(&mut reply.stanza, Kind::Iq, Some(&request.id_raw), from, to, condition.into());
        }
    }
    reply
}

/// Who is addressed, as seen by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Addressee {
    Server,
    /// The caller's own account.
    Own,
    /// Somebody else's, or nobody's.
    Other,
}

/// Gives the payload of the result.
///
/// A namespace we do not know is `service-unavailable` (RFC 6120 §8.4), a use of one that we know but do not support
/// `feature-not-implemented` (§8.3.3.3).
async fn serve<S: Store>(
    config: &ServiceConfig,
    store: &S,
    request: &Request,
    effects: &mut Vec<Effect>,
) -> Result<Vec<u8>, Condition> {
    use Addressee::{Other, Own, Server};
    use IqType::{Get, Set};

    let addressee = match &request.target {
        Target::Server(_) => Server,
        Target::Account(jid) if jid.as_jid() == request.caller.as_jid().bare() => Own,
        Target::Account(_) => Other,
    };
    let owner = request.caller.as_jid().bare();
    match (&*request.payload_ns, &*request.payload_name, request.iq_type, addressee) {
        (ns::ROSTER, _, _, Other) => Err(Condition::Forbidden), // RFC 6121 §2.3.3
        (_, _, _, Other) => Err(Condition::ServiceUnavailable), // RFC 6121 §8.5.1
        (ns::ROSTER, "query", Get, Own) => roster::get(store, owner, effects).await,
        (ns::ROSTER, "query", Set, Own) => {
            roster::set(store, owner, &read(request)?, config.roster_items_max, effects).await
        }
        (ns::DISCO_INFO, "query", Get, Server) => disco::info(&read(request)?, Entity::Server { name: &config.name }),
        (ns::DISCO_INFO, "query", Get, Own) => disco::info(&read(request)?, Entity::OwnAccount),
        (ns::DISCO_ITEMS, "query", Get, Server | Own) => disco::items(&read(request)?),
        (ns::VERSION, "query", Get, Server) => Ok(facts::version(config)),
        (ns::TIME, "time", Get, Server) => Ok(facts::time(request.unix_millis)),
        (ns::PING, "ping", Get, Server | Own) => Ok(Vec::new()), // XEP-0199 v2.0.1 §4.2
        (ns::SESSION, "session", Set, Server | Own) => Ok(Vec::new()), // RFC 3921 §3
        (ns::BIND, "bind", Set, Server | Own) => Err(Condition::NotAllowed), // RFC 6120 §7.1: once a stream
        (
            ns::ROSTER | ns::DISCO_INFO | ns::DISCO_ITEMS | ns::VERSION | ns::TIME | ns::PING | ns::SESSION | ns::BIND,
            ..,
        ) => Err(Condition::FeatureNotImplemented),
        _ => Err(Condition::ServiceUnavailable),
    }
}

fn read(request: &Request) -> Result<Node, Condition> {
    Node::parse(&request.payload, ns::CLIENT).ok_or(Condition::BadRequest)
}

/// What a peer is told when the store cannot: to wait, or that it is our fault.
const fn condition(error: &StoreError) -> Condition {
    match error {
        StoreError::Busy => Condition::ResourceConstraint,
        StoreError::Failed | StoreError::Corrupt => Condition::InternalServerError,
    }
}

#[cfg(test)]
mod tests {
    use plaza_core::sasl::scram::{Hash, Keys};

    use super::*;
    use crate::accounts::{self, NewKeys};
    use crate::store::memory::MemoryStore;
    use crate::wait::block_on;

    const CALLER: &str = "owner@things.example/desk";

    fn jid(text: &str) -> Jid {
        Jid::parse(text).unwrap()
    }

    fn store() -> MemoryStore {
        let keys = |hash, len| Keys {
            hash,
            salt: [1; 16].into(),
            iterations: 1,
            stored_key: vec![1; len].into(),
            server_key: vec![1; len].into(),
        };
        let keys = NewKeys { sha1: keys(Hash::Sha1, 20), sha256: keys(Hash::Sha256, 32) };
        let store = MemoryStore::new();
        block_on(accounts::create(&store, jid(CALLER).as_jid(), keys, false, 0)).unwrap();
        store
    }

    /// Asks as the owner; `to` "" stands for none. Gives the answer without its envelope's constant parts, and effects.
    fn ask(store: &MemoryStore, iq_type: IqType, to: &str, payload: &str) -> (String, Vec<Effect>) {
        let node = Node::parse(payload, ns::CLIENT).unwrap();
        let target = match to {
            "" => Target::Account(jid(CALLER).bare()),
            _ if to.contains('@') => Target::Account(jid(to)),
            _ => Target::Server(jid(to)),
        };
        let request = Request {
            caller: jid(CALLER),
            target,
            addressed: !to.is_empty(),
            iq_type,
            id_raw: "a&amp;1".into(),
            payload: payload.into(),
            payload_ns: node.ns.into(),
            payload_name: node.name.into(),
            unix_millis: 1_767_323_045_000,
        };
        let config = ServiceConfig {
            name: "Plaza".to_owned(),
            version: "0.1.0".to_owned(),
            domains: vec![jid("things.example")],
            roster_items_max: 2,
        };
        let reply = block_on(answer(Arc::new(config), store.clone(), request));
        let stanza = String::from_utf8(reply.stanza).unwrap();
        let from = if to.is_empty() { String::new() } else { format!(" from='{to}'") };
        for kind in ["result", "error"] {
            let head = format!("<iq type='{kind}' id='a&amp;1'{from} to='{CALLER}'>");
            if let Some(rest) = stanza.strip_prefix(&head) {
                return (rest.strip_suffix("</iq>").unwrap().to_owned(), reply.effects);
            }
        }
        panic!("{stanza}");
    }

    fn get(to: &str, payload: &str) -> String {
        let (answer, effects) = ask(&store(), IqType::Get, to, payload);
        assert_eq!(effects, []);
        answer
    }

    fn set(to: &str, payload: &str) -> String {
        ask(&store(), IqType::Set, to, payload).0
    }

    fn error(condition: Condition) -> String {
        let mut out = Vec::new();
        write_error(&mut out, Kind::Iq, None, "", "", condition.into());
        let out = String::from_utf8(out).unwrap();
        out.strip_prefix("<iq type='error'>").unwrap().strip_suffix("</iq>").unwrap().to_owned()
    }

    const INFO: &str = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
    const ITEMS: &str = "<query xmlns='http://jabber.org/protocol/disco#items'/>";
    const ROSTER: &str = "<query xmlns='jabber:iq:roster'/>";
    const VERSION: &str = "<query xmlns='jabber:iq:version'/>";
    const TIME: &str = "<time xmlns='urn:xmpp:time'/>";
    const PING: &str = "<ping xmlns='urn:xmpp:ping'/>";
    const SESSION: &str = "<session xmlns='urn:ietf:params:xml:ns:xmpp-session'/>";

    #[test]
    fn the_server_says_what_it_is() {
        assert_eq!(
            get("things.example", INFO),
            "<query xmlns='http://jabber.org/protocol/disco#info'><identity category='server' type='im' name='Plaza'/>\
             <feature var='http://jabber.org/protocol/disco#info'/>\
             <feature var='http://jabber.org/protocol/disco#items'/><feature var='jabber:iq:roster'/>\
             <feature var='jabber:iq:version'/><feature var='urn:xmpp:ping'/><feature var='urn:xmpp:time'/></query>"
        );
        assert_eq!(get("things.example", ITEMS), ITEMS);
        assert_eq!(
            get("things.example", VERSION),
            "<query xmlns='jabber:iq:version'><name>Plaza</name><version>0.1.0</version></query>"
        );
        assert_eq!(
            get("things.example", TIME),
            "<time xmlns='urn:xmpp:time'><tzo>+00:00</tzo><utc>2026-01-02T03:04:05.000Z</utc></time>"
        );
        assert_eq!(get("things.example", PING), "");
        assert_eq!(set("things.example", SESSION), "");
    }

    #[test]
    fn an_account_says_what_it_is_to_its_owner() {
        for to in ["", "owner@things.example"] {
            assert_eq!(
                get(to, INFO),
                "<query xmlns='http://jabber.org/protocol/disco#info'>\
                 <identity category='account' type='registered'/>\
                 <feature var='http://jabber.org/protocol/disco#info'/>\
                 <feature var='http://jabber.org/protocol/disco#items'/><feature var='jabber:iq:roster'/>\
                 <feature var='urn:xmpp:ping'/></query>"
            );
            assert_eq!(get(to, ITEMS), ITEMS);
            assert_eq!(get(to, PING), "");
            assert_eq!(set(to, SESSION), "");
        }
    }

    #[test]
    fn strangers_learn_nothing_and_the_store_is_not_asked() {
        let store = store();
        store.hold();
        for to in ["other@things.example", "nobody@things.example"] {
            for payload in [INFO, ITEMS, VERSION, TIME, PING, "<x xmlns='urn:unknown'/>"] {
                let (answer, effects) = ask(&store, IqType::Get, to, payload);
                assert_eq!((answer, effects), (error(Condition::ServiceUnavailable), vec![]), "{payload}");
            }
            for iq_type in [IqType::Get, IqType::Set] {
                assert_eq!(ask(&store, iq_type, to, ROSTER).0, error(Condition::Forbidden));
            }
        }
        assert_eq!(store.held(), 0);
    }

    #[test]
    fn what_is_not_there_is_refused_with_its_condition() {
        let node = "<query xmlns='http://jabber.org/protocol/disco#info' node='x'/>";
        assert_eq!(get("things.example", node), error(Condition::ItemNotFound));
        assert_eq!(get("", &node.replace("#info", "#items")), error(Condition::ItemNotFound));
        for to in ["", "things.example"] {
            assert_eq!(get(to, "<query xmlns='urn:unknown'/>"), error(Condition::ServiceUnavailable));
            assert_eq!(set(to, VERSION), error(Condition::FeatureNotImplemented));
            assert_eq!(set(to, INFO), error(Condition::FeatureNotImplemented));
            assert_eq!(get(to, SESSION), error(Condition::FeatureNotImplemented));
            assert_eq!(get(to, "<pong xmlns='urn:xmpp:ping'/>"), error(Condition::FeatureNotImplemented));
        }
        let bind = "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>";
        assert_eq!(set("", bind), error(Condition::NotAllowed));
        assert_eq!(get("things.example", ROSTER), error(Condition::FeatureNotImplemented));
        assert_eq!(get("", TIME), error(Condition::FeatureNotImplemented));
    }

    fn item(attrs: &str, groups: &str) -> String {
        format!("<query xmlns='jabber:iq:roster'><item {attrs}>{groups}</item></query>")
    }

    #[test]
    fn a_roster_is_edited_pushed_and_read_back() {
        let store = store();
        let empty = "<query xmlns='jabber:iq:roster'></query>".to_owned();
        assert_eq!(ask(&store, IqType::Get, "", ROSTER), (empty.clone(), vec![Effect::RosterInterested]));

        let (answer, effects) =
            ask(&store, IqType::Set, "", &item("jid='lamp@b' name='Lamp' subscription='both'", "<group>home</group>"));
        let stored = "<query xmlns='jabber:iq:roster'><item jid='lamp@b' name='Lamp' subscription='none'>\
                      <group>home</group></item></query>";
        assert_eq!((&*answer, &effects[0]), ("", &Effect::RosterPush { payload: stored.to_owned() }));
        assert!(matches!(&effects[1..], [Effect::Contact(item)] if item.name == "Lamp"), "{effects:?}");
        assert_eq!(ask(&store, IqType::Get, "owner@things.example", ROSTER).0, stored);

        let (_, effects) = ask(&store, IqType::Set, "", &item("jid='lamp@b'", ""));
        let payload = "<query xmlns='jabber:iq:roster'><item jid='lamp@b' subscription='none'/></query>".to_owned();
        assert_eq!(effects[0], Effect::RosterPush { payload });

        let (answer, effects) = ask(&store, IqType::Set, "", &item("jid='lamp@b' subscription='remove'", ""));
        let payload = "<query xmlns='jabber:iq:roster'><item jid='lamp@b' subscription='remove'/></query>".to_owned();
        assert_eq!((&*answer, &effects[0]), ("", &Effect::RosterPush { payload }));
        assert!(matches!(&effects[1..], [Effect::ContactRemoved(_)]), "{effects:?}");
        assert_eq!(ask(&store, IqType::Get, "", ROSTER).0, empty);
    }

    #[test]
    fn a_roster_set_refused_changes_and_pushes_nothing() {
        let store = store();
        for index in 0..2 {
            assert_eq!(ask(&store, IqType::Set, "", &item(&format!("jid='lamp{index}@b'"), "")).0, "");
        }
        let before = ask(&store, IqType::Get, "", ROSTER).0;
        for (attrs, refused) in [
            ("jid='lamp2@b'", Condition::ResourceConstraint),
            ("jid='lamp2@b' subscription='remove'", Condition::ItemNotFound),
            ("jid='owner@things.example'", Condition::NotAllowed),
        ] {
            let (answer, effects) = ask(&store, IqType::Set, "", &item(attrs, ""));
            assert_eq!((answer, effects), (error(refused), vec![]), "{attrs}");
        }
        assert_eq!(ask(&store, IqType::Get, "", ROSTER).0, before);
    }

    #[test]
    fn a_store_that_cannot_is_told_apart_from_one_that_will() {
        let store = store();
        for (refused, told) in [
            (StoreError::Busy, Condition::ResourceConstraint),
            (StoreError::Failed, Condition::InternalServerError),
            (StoreError::Corrupt, Condition::InternalServerError),
        ] {
            store.refuse(Some(refused));
            assert_eq!(ask(&store, IqType::Get, "", ROSTER), (error(told), vec![]));
            assert_eq!(ask(&store, IqType::Set, "", &item("jid='lamp@b'", "")), (error(told), vec![]));
        }
    }
}
