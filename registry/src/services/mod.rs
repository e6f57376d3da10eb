//! Services: answers to IQs addressed to the server or to an account (RFC 6120 §8.2.3, RFC 6121 §8.5.1).
//! XEP-0199 to the server is answered by the shard itself and needs not come here.
//!
//! Called by the shard that is home to the target, with requests its destination rules gave to us. [`answer`] is a table
//! from namespace and name to a service; a service gives the payload of the result, or the condition of the error. What
//! strangers are told about an account never depends on whether it exists, nor does the time it takes.

mod archive;
mod avatar;
mod blocking;
mod disco;
mod enforcement;
mod facts;
mod photo;
mod private;
mod provisioning;
mod pubsub;
mod register;
mod roster;
#[cfg(test)]
mod testing;
mod things;
mod vcard;

use std::sync::Arc;

use plaza_core::caps::Caps;
use plaza_core::jid::Jid;
use plaza_core::ns;
use plaza_core::stanza::{Condition, IqType, Kind, write_error_with, write_reply_start};
use plaza_core::xml::NotStandalone;
use plaza_core::xml::read::Node;

pub use self::photo::may_change_photo;
pub use self::provisioning::{challenged, inquire, is_token};
pub use self::register::concerns_registration;
pub use self::roster::payload as roster_payload;
pub use self::things::{Ask, asked};
use crate::archive::{ArchiveConfig, Prefs};
use crate::blocking::BlockList;
use crate::owned::OwnedError;
use crate::provisioning::{Challenge, Config as ProvisioningConfig};
use crate::pubsub::{Config as PubsubConfig, Outgoing, Refusal};
use crate::registration::Registrar;
use crate::rosters::RosterItem;
use crate::store::{Store, StoreError};
use crate::things::Config as ThingsConfig;
use crate::vcards::AvatarHash;

/// Facts the services state about the broker.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// Software name (XEP-0092).
    pub name: String,
    /// Software version.
    pub version: String,
    /// A URI that names the software, best a page about it: `node` of the server's capabilities (XEP-0115 §4).
    pub node: String,
    /// Domains served.
    pub domains: Vec<Jid>,
    /// Services beside the server, at addresses of their own.
    pub components: Vec<Component>,
    /// Most roster items per account.
    pub roster_items_max: u32,
    /// Bounds of what accounts keep.
    pub limits: ServiceLimits,
    /// Bounds of publish-subscribe, and whose turn it is.
    pub pubsub: PubsubConfig,
    /// What the operator allows of archives (XEP-0313).
    pub archive: ArchiveConfig,
    /// Bounds of the Thing Registry (XEP-0347), and its index.
    pub things: ThingsConfig,
    /// Creates accounts and changes passwords (XEP-0077).
    pub registration: Registrar,
    /// Bounds of decision support, and whose turn it is.
    pub provisioning: ProvisioningConfig,
}

impl ServiceConfig {
    /// What there is at an address beside the server.
    fn kind_of(&self, service: &Jid) -> Option<ComponentKind> {
        self.components.iter().find(|component| component.jid == *service).map(|component| component.kind)
    }
}

/// Bounds of what an account may keep here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceLimits {
    /// Entries of private XML (XEP-0049), of one name and namespace each. Default 100: a client has one or two. Beyond
    /// it a set is `resource-constraint`.
    pub private_entries_max: u32,
    /// Bytes of one entry. Default 65 536: bookmarks by the hundred. Beyond it a set is `not-acceptable`.
    pub private_entry_bytes_max: u32,
    /// Bytes of a vCard (XEP-0054). Default 65 536: a photo of 8 KiB, as XEP-0153 §4.6 has it, and of more. Beyond it a
    /// set is `not-acceptable`.
    pub vcard_bytes_max: u32,
    /// Addresses on a block list (XEP-0191). Default 1 000: more than people block one by one. Beyond it a set is
    /// `resource-constraint`, as it is beyond the next.
    pub blocklist_items_max: u32,
    /// Bytes of all addresses on a block list. Default 131 072: a shard holds it with the account's facts.
    pub blocklist_bytes_max: u32,
}

impl ServiceLimits {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        private_entries_max: 100,
        private_entry_bytes_max: 64 * 1024,
        vcard_bytes_max: 64 * 1024,
        blocklist_items_max: 1_000,
        blocklist_bytes_max: 128 * 1024,
    };
}

impl Default for ServiceLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A service with an address of its own, found by asking the server for its items (XEP-0030 §4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Its address: things remember it for ever.
    pub jid: Jid,
    /// A name for people, "" for none.
    pub name: String,
    /// What it is.
    pub kind: ComponentKind,
}

/// What a service beside the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComponentKind {
    /// Publish-subscribe (XEP-0060). It is served where it is at home, so that its events stay in order.
    Pubsub,
    /// The Thing Registry (XEP-0347), and what goes with it. It is served where whoever asks is at home.
    Things,
}

/// Whom the IQ addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The server itself.
    Server(Jid),
    /// The bare JID of a local account (the caller's own if there was no `to`). It is at home on this shard.
    Account(Jid),
    /// One of [`ServiceConfig::components`], by its address. If it has a home ([`ComponentKind`]), that is this shard.
    Service(Jid),
}

/// An IQ on its way to a service; or a message, whose payload is then a form that answers one of ours (`jabber:x:data`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Full JID of the sender.
    pub caller: Jid,
    /// Addressee.
    pub target: Target,
    /// Whether the stanza had a `to` (then the answer has that `from`).
    pub addressed: bool,
    /// The account's roster gives the caller presence (from/both). Nothing is asked of it for the caller's own account.
    pub subscribed: bool,
    /// An iq; or a message, which is a submitted form and has no answer but an error.
    pub kind: Kind,
    /// Get or set (never result or error); of a message, set.
    pub iq_type: IqType,
    /// `id` as written, "" if a message has none.
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
    /// The complete answering stanza, to be appended to the caller's outbox. Empty for a message that was in order, and if
    /// there is an [`Effect::Ask`]: the answer comes when that is done.
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
    /// The caller's session is interested in pushes of the block list from now on (XEP-0191 §3.3).
    BlocklistInterested,
    /// Send each resource of the account that is interested in the block list an iq set with this payload, as with the
    /// roster's.
    BlocklistPush {
        /// Payload, escaped XML.
        payload: String,
    },
    /// A message to the caller's session, the complete stanza.
    Message(Vec<u8>),
    /// The account wants this archived from now on (XEP-0441).
    ArchivePrefs(Box<Prefs>),
    /// The account's block list is this now. Whoever came onto it is sent unavailable presence, whoever left it the
    /// present one, as far as they may have the account's presence (XEP-0191 §3.3, §3.4).
    Blocklist {
        /// What it became, for the shard to hold.
        list: BlockList,
        /// Who came onto it.
        blocked: Vec<Jid>,
        /// Who left it.
        unblocked: Vec<Jid>,
    },
    /// The photo in the account's vCard has this hash now, or there is none: presence shows it (XEP-0153, XEP-0398).
    Photo(Option<AvatarHash>),
    /// The caller's account has another password: what is known of it is not true any more, and its other sessions end
    /// with `not-authorized`.
    PasswordChanged,
    /// The caller's account is gone: its sessions end with `not-authorized`, the caller's own behind the answer.
    AccountRemoved,
    /// There is such an account now.
    AccountCreated(Jid),
    /// An account was asked for, and there is none: the answer, which says why, is given late, and who asked goes on
    /// meanwhile.
    NotRegistered(Condition),
    /// Tell all whom these concern, in order, a bounded number of them at a time.
    Pubsub(Box<Outgoing>),
    /// The things of these accounts changed, or what others may do with them: where they are at home, bare JIDs are loaded
    /// anew, and their devices told what is pending.
    ThingsChanged(Vec<Jid>),
    /// A message without body and type, from a service to an account; kept if nobody is there for it.
    Tell {
        /// Bare JID.
        to: Jid,
        /// Address of the service.
        from: Jid,
        /// Payload, escaped XML.
        payload: String,
    },
    /// Ask a device, and go on with [`asked`].
    Ask(Box<Ask>),
    /// Ask who presented a token, by a get to its full JID, and go on with [`challenged`].
    Challenge(Box<Challenge>),
}

/// The server's capabilities, for the stream features (XEP-0115 §6.3): they are a hash of what [`answer`] says of it.
pub fn caps(config: &ServiceConfig) -> Caps {
    disco::caps(config)
}

/// Answers one IQ. Whatever it asked to be stored is durable before this resolves.
pub async fn answer<S: Store>(config: Arc<ServiceConfig>, store: S, request: Request) -> Reply {
    let mut reply = Reply::default();
    let result = match things::is_for_it(&config, &request) {
        true if enforcement::is_asked(&request) => {
            enforcement::answer(&config, &store, &request, &mut reply.effects).await
        }
        true => things::answer(&config, &store, &request, &mut reply.effects).await.map_err(Refusal::from),
        false => match pubsub::host(&config, &request) {
            Some(host) => pubsub::answer(&config, &store, &request, &host, &mut reply.effects).await,
            None if register::is_asked(&config, &request) => {
                register::answer(&config, &store, &request, &mut reply.effects).await
            }
            None => serve(&config, &store, &request, &mut reply.effects).await.map_err(Refusal::from),
        },
    };
    finish(&mut reply, &request, result);
    reply
}

/// Writes the answer, unless it is to come later.
fn finish(reply: &mut Reply, request: &Request, result: Result<Vec<u8>, Refusal>) {
    let is_message = request.kind == Kind::Message;
    let from = match &request.target {
        Target::Server(jid) | Target::Account(jid) | Target::Service(jid) if request.addressed => jid.as_str(),
        Target::Server(_) | Target::Account(_) | Target::Service(_) => "",
    };
    let to = request.caller.as_str();
    match result {
        Ok(_) if is_message || reply.effects.iter().any(|effect| matches!(effect, Effect::Ask(_))) => {}
        Ok(payload) => {
            write_reply_start(&mut reply.stanza, &request.id_raw, from, to);
            reply.stanza.extend_from_slice(&payload);
            reply.stanza.extend_from_slice(b"</iq>");
        }
        Err(Refusal { error, payload }) => {
            let id = Some(&*request.id_raw).filter(|id| !id.is_empty());
            write_error_with(&mut reply.stanza, request.kind, id, from, to, &payload, error);
        }
    }
}

/// Who is addressed, as seen by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Addressee {
    Server,
    /// The caller's own account.
    Own,
    /// Somebody else's, or nobody's.
    Other,
    /// A service beside the server.
    Service,
}

/// The namespaces that something below is of, at some address and for some type.
const NAMESPACES: &[&str] = &[
    ns::ROSTER,
    ns::REGISTER,
    ns::PRIVATE,
    ns::VCARD,
    ns::AVATAR,
    ns::AVATAR_STORAGE,
    ns::BLOCKING,
    ns::MAM,
    ns::DISCO_INFO,
    ns::DISCO_ITEMS,
    ns::VERSION,
    ns::TIME,
    ns::PING,
    ns::SESSION,
    ns::BIND,
];

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
    use Addressee::{Other, Own, Server, Service};
    use IqType::{Get, Set};

    let addressee = match &request.target {
        Target::Server(_) => Server,
        Target::Account(jid) if jid.as_jid() == request.caller.as_jid().bare() => Own,
        Target::Account(_) => Other,
        Target::Service(_) => Service,
    };
    let owner = request.caller.as_jid().bare();
    let (Target::Server(asked) | Target::Account(asked) | Target::Service(asked)) = &request.target;
    let asked = asked.as_jid();
    match (&*request.payload_ns, &*request.payload_name, request.iq_type, addressee) {
        (ns::ROSTER, _, _, Other) => Err(Condition::Forbidden), // RFC 6121 §2.3.3
        (ns::MAM, _, _, Other) => Err(Condition::Forbidden),    // XEP-0313 §8.1
        (ns::MAM, _, _, Server) => Err(Condition::ServiceUnavailable), // it has none
        (ns::MAM, ..) if !archive::is_there(store, owner, &config.archive).await? => Err(Condition::ServiceUnavailable),
        (ns::PRIVATE, _, _, Server | Other) => Err(Condition::Forbidden), // XEP-0049 §3
        (ns::VCARD, "vCard", Set, Server | Other) => Err(Condition::Forbidden), // XEP-0054 §3.2
        (ns::VCARD, "vCard", Get, Other) => vcard::get_other(store, asked).await,
        (known @ (ns::AVATAR | ns::AVATAR_STORAGE), "query", Get, Other) if request.subscribed => {
            avatar::get(store, asked, known).await
        }
        (ns::DISCO_INFO, "query", Get, Other) if request.subscribed => disco::account(&read(request)?, false),
        (ns::DISCO_ITEMS, "query", Get, Other) => Ok(disco::no_items(&read(request)?)),
        (_, _, _, Other) => Err(Condition::ServiceUnavailable), // RFC 6121 §8.5.1, XEP-0030 §8
        (ns::PING, "ping", Get, Service) => Ok(Vec::new()),
        (ns::VERSION, "query", Get, Service) => Ok(facts::version(config)),
        (_, _, _, Service) => Err(Condition::ServiceUnavailable),
        // Whatever else is said of it; and all of it, where it is off.
        (ns::REGISTER, ..) if !config.registration.config().enabled => Err(Condition::ServiceUnavailable),
        (ns::ROSTER, "query", Get, Own) => roster::get(store, owner, &read(request)?, effects).await,
        (ns::ROSTER, "query", Set, Own) => {
            roster::set(store, owner, &read(request)?, config.roster_items_max, effects).await
        }
        (ns::PRIVATE, "query", Get, Own) => private::get(store, owner, &read(request)?, &config.limits).await,
        (ns::PRIVATE, "query", Set, Own) => private::set(store, owner, &request.payload, &config.limits).await,
        (ns::VCARD, "vCard", Get, Own) => vcard::get_own(store, owner).await,
        (ns::VCARD, "vCard", Set, Own) => vcard::set(config, store, request, effects).await,
        (ns::VCARD, "vCard", Get, Server) => Err(Condition::ServiceUnavailable), // XEP-0054 §3.3: it has none
        (known @ (ns::AVATAR | ns::AVATAR_STORAGE), "query", Get, Own) => avatar::get(store, owner, known).await,
        (ns::AVATAR_STORAGE, "query", Set, Own) => avatar::set(store, owner, &read(request)?).await,
        (ns::BLOCKING, "blocklist", Get, Own) => blocking::get(store, owner, effects).await,
        (ns::BLOCKING, "block", Set, Own) => {
            blocking::block(store, owner, &read(request)?, &config.limits, effects).await
        }
        (ns::BLOCKING, "unblock", Set, Own) => blocking::unblock(store, owner, &read(request)?, effects).await,
        (ns::MAM, "query", Get, Own) => Ok(archive::fields()),
        (ns::MAM, "query", Set, Own) => archive::query(store, request, &read(request)?, &config.archive, effects).await,
        (ns::MAM, "metadata", Get, Own) => archive::metadata(store, owner, &config.archive, request.unix_millis).await,
        (ns::MAM, "prefs", Get, Own) => archive::prefs(store, owner, &config.archive).await,
        (ns::MAM, "prefs", Set, Own) => {
            archive::set_prefs(store, owner, &read(request)?, &config.archive, effects).await
        }
        (ns::DISCO_INFO, "query", Get, Server) => disco::server(&read(request)?, config),
        (ns::DISCO_INFO, "query", Get, Own) => {
            disco::account(&read(request)?, archive::is_there(store, owner, &config.archive).await?)
        }
        (ns::DISCO_ITEMS, "query", Get, Server) => disco::server_items(&read(request)?, asked, &config.components),
        (ns::VERSION, "query", Get, Server) => Ok(facts::version(config)),
        (ns::TIME, "time", Get, Server) => Ok(facts::time(request.unix_millis)),
        (ns::PING, "ping", Get, Server | Own) => Ok(Vec::new()), // XEP-0199 v2.0.1 §4.2
        (ns::SESSION, "session", Set, Server | Own) => Ok(Vec::new()), // RFC 3921 §3
        (ns::BIND, "bind", Set, Server | Own) => Err(Condition::NotAllowed), // RFC 6120 §7.1: once a stream
        (known, ..) if NAMESPACES.contains(&known) => Err(Condition::FeatureNotImplemented),
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

/// What a peer is told when something of an account was not stored.
fn refusal(error: OwnedError) -> Condition {
    match error {
        OwnedError::NoAccount => Condition::ServiceUnavailable,
        OwnedError::Full => Condition::ResourceConstraint,
        OwnedError::Store(error) => condition(&error),
    }
}

/// What a peer is told of an element that can't be stored.
const fn not_standalone(error: NotStandalone) -> Condition {
    match error {
        NotStandalone::Malformed => Condition::BadRequest,
        NotStandalone::TooLong => Condition::NotAcceptable,
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Client, error};
    use super::*;

    const ROSTER: &str = "<query xmlns='jabber:iq:roster'/>";
    const VERSION: &str = "<query xmlns='jabber:iq:version'/>";
    const TIME: &str = "<time xmlns='urn:xmpp:time'/>";
    const PING: &str = "<ping xmlns='urn:xmpp:ping'/>";
    const SESSION: &str = "<session xmlns='urn:ietf:params:xml:ns:xmpp-session'/>";

    #[test]
    fn the_server_states_its_facts() {
        let owner = Client::owner();
        assert_eq!(
            owner.get("things.example", VERSION),
            "<query xmlns='jabber:iq:version'><name>Plaza</name><version>0.1.0</version></query>"
        );
        assert_eq!(
            owner.get("things.example", TIME),
            "<time xmlns='urn:xmpp:time'><tzo>+00:00</tzo><utc>2026-01-02T03:04:05.000Z</utc></time>"
        );
    }

    #[test]
    fn pings_and_legacy_sessions_are_answered() {
        for to in ["", "owner@things.example", "things.example"] {
            assert_eq!(Client::owner().get(to, PING), "");
            assert_eq!(Client::owner().set(to, SESSION), "");
        }
    }

    #[test]
    fn strangers_learn_nothing_and_the_store_is_not_asked() {
        let stranger = Client::owner().other(false);
        stranger.store.hold();
        for to in ["owner@things.example", "nobody@things.example"] {
            for payload in [VERSION, TIME, PING, "<x xmlns='urn:unknown'/>"] {
                assert_eq!(stranger.get(to, payload), error(Condition::ServiceUnavailable), "{payload}");
            }
            for iq_type in [IqType::Get, IqType::Set] {
                assert_eq!(stranger.ask(iq_type, to, ROSTER).0, error(Condition::Forbidden));
            }
        }
        assert_eq!(stranger.store.held(), 0);
    }

    #[test]
    fn what_is_not_there_is_refused_with_its_condition() {
        let owner = Client::owner();
        for to in ["", "things.example"] {
            assert_eq!(owner.get(to, "<query xmlns='urn:unknown'/>"), error(Condition::ServiceUnavailable));
            assert_eq!(owner.set(to, VERSION), error(Condition::FeatureNotImplemented));
            assert_eq!(owner.get(to, SESSION), error(Condition::FeatureNotImplemented));
            assert_eq!(owner.get(to, "<pong xmlns='urn:xmpp:ping'/>"), error(Condition::FeatureNotImplemented));
        }
        let bind = "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>";
        assert_eq!(owner.set("", bind), error(Condition::NotAllowed));
        assert_eq!(owner.get("things.example", ROSTER), error(Condition::FeatureNotImplemented));
        assert_eq!(owner.get("", TIME), error(Condition::FeatureNotImplemented));
    }

    #[test]
    fn a_store_that_cannot_is_told_apart_from_one_that_will() {
        let owner = Client::owner();
        for (refused, told) in [
            (StoreError::Busy, Condition::ResourceConstraint),
            (StoreError::Failed, Condition::InternalServerError),
            (StoreError::Corrupt, Condition::InternalServerError),
        ] {
            owner.store.refuse(Some(refused));
            let set = "<query xmlns='jabber:iq:roster'><item jid='lamp@b'/></query>";
            assert_eq!(owner.ask(IqType::Get, "", ROSTER), (error(told), vec![]));
            assert_eq!(owner.ask(IqType::Set, "", set), (error(told), vec![]));
        }
    }
}
