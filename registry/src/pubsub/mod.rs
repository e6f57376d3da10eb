//! Publish-subscribe (XEP-0060 v1.30.0): leaf nodes of a service with an address of its own, and of each account, which
//! is its owner's personal eventing service (XEP-0163 v1.2.2).
//!
//! [`answer`] takes an iq's payload and gives the payload of the result or a [`Refusal`], and what leaves unasked:
//! notifications and requests to owners, for the shard to carry out. [`decide`] takes an owner's answer to such a
//! request, and [`last_items`] says what a resource is told that became available. Whatever a change stores is durable
//! before these resolve; changes of a node take turns, and a guard on its record covers all that belongs to it.
//!
//! Nodes have no hierarchy (XEP-0248), subscriptions no ids, and nothing is digested (§12.9).

mod call;
mod disco;
mod error;
mod forget;
mod hot;
mod items;
mod keys;
mod manage;
mod notify;
mod options;
mod owner;
mod pending;
mod publish;
mod record;
pub(crate) mod subject;
mod subscribe;
#[cfg(test)]
mod tests;
pub(crate) mod turns;

use plaza_core::jid::{Jid, JidRef};
use plaza_core::ns;
use plaza_core::rsm;
use plaza_core::stanza::{Condition, IqType};
use plaza_core::xml::Standalone;
use plaza_core::xml::read::Node;
use plaza_core::xml::write;

use self::call::{Call, Outcome};
pub use self::disco::ACCOUNT_FEATURES;
pub use self::error::Refusal;
use self::hot::Hot;
use self::keys::Keys;
pub use self::notify::{
    ApprovalRequest, Audience, EventKind, Message, Notification, Outgoing, RECIPIENTS_PAGE, Reach, Recipient,
    Recipients,
};
use self::options::AccessModel;
pub use self::options::Shows;
#[cfg(any(test, fuzzing))]
pub(crate) use self::record::RECORDS;
use self::turns::Turns;
use crate::rosters;
use crate::store::{Store, StoreError};

/// Bounds of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Nodes that one creator has at a service, and an account at its own. Default 64: a client's XEPs need a dozen.
    /// Beyond it: `resource-constraint`, `max-nodes-exceeded`.
    pub nodes_max: u32,
    /// Longest node id, in bytes. Default 1 023, as long as a part of an address. Beyond it: `not-acceptable`.
    pub node_bytes_max: u16,
    /// Longest item id, in bytes. Default 1 023. Beyond it: `not-acceptable`.
    pub item_bytes_max: u16,
    /// Items a node keeps. Default 1 000. A node configured with more is refused: `not-acceptable`.
    pub items_max: u32,
    /// Items a service's node keeps unless it says otherwise. Default 20; an account's keeps 1 (XEP-0163 §2.1).
    pub items_default: u32,
    /// Largest payload, in bytes. Default 65 536, a stanza's. Beyond it: `not-acceptable`, `payload-too-big`.
    pub payload_bytes_max: u32,
    /// Entries of one request: items published or removed, affiliations or subscriptions changed. Default 100.
    /// Beyond it: `not-allowed` with `max-items-exceeded`, or `not-acceptable`.
    pub batch_max: u32,
    /// Subscriptions to a node. Default 100 000. Beyond it: `resource-constraint`.
    pub subscribers_max: u32,
    /// Subscriptions to a node that wait for approval. Default 1 000. Beyond it: `resource-constraint`.
    pub pending_max: u32,
    /// Subscriptions of one entity at a service. Default 1 000. Beyond it: `policy-violation`,
    /// `too-many-subscriptions`.
    pub subscriptions_max: u32,
    /// Affiliations with a node. Default 1 000. Beyond it a change is refused: `not-acceptable`.
    pub affiliations_max: u32,
    /// Items of one answer. Default 100; the rest is for the next page (XEP-0059).
    pub page_max: u32,
    /// Entries of one answer, but for items. Default 100; the rest is for the next page.
    pub list_max: u32,
    /// Bytes of items in one answer. Default 131 072: what does not fit is for the next page.
    pub reply_bytes_max: u32,
    /// Roster groups that a node names. Default 32. Beyond it: `not-acceptable`.
    pub groups_max: u16,
    /// Longest title, description, group or URI, in bytes. Default 1 024. Beyond it: `not-acceptable`.
    pub text_bytes_max: u32,
}

impl Limits {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        nodes_max: 64,
        node_bytes_max: 1_023,
        item_bytes_max: 1_023,
        items_max: 1_000,
        items_default: 20,
        payload_bytes_max: 65_536,
        batch_max: 100,
        subscribers_max: 100_000,
        pending_max: 1_000,
        subscriptions_max: 1_000,
        affiliations_max: 1_000,
        page_max: 100,
        list_max: 100,
        reply_bytes_max: 131_072,
        groups_max: 32,
        text_bytes_max: 1_024,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What a service needs to know. Clones share whose turn it is: all who change nodes of one broker clone one.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bounds.
    pub limits: Limits,
    /// Domains whose accounts may create nodes at a service.
    pub domains: Vec<Jid>,
    turns: Turns,
    hot: Hot,
}

impl Config {
    /// A configuration with turns of its own.
    pub fn new(limits: Limits, domains: Vec<Jid>) -> Self {
        Self { limits, domains, turns: Turns::default(), hot: Hot::default() }
    }
}

/// Whose nodes they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A service's, by its address.
    Service(Jid),
    /// An account's, by its bare JID.
    Account(Jid),
}

impl Host {
    /// Its address.
    pub const fn jid(&self) -> &Jid {
        match self {
            Self::Service(jid) | Self::Account(jid) => jid,
        }
    }
}

/// What somebody is to the owner of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The owner's presence is for it (from or both), or it is the owner.
    pub subscribed: bool,
    /// The groups the owner put it in.
    pub groups: Vec<String>,
}

impl Facts {
    /// As the owner's roster says. Takes as long whether the account exists or not.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read<S: Store>(store: &S, owner: JidRef<'_>, contact: JidRef<'_>) -> Result<Self, StoreError> {
        if owner.bare() == contact.bare() {
            return Ok(Self { subscribed: true, groups: Vec::new() });
        }
        let item = rosters::get(store, owner, contact.bare()).await?;
        Ok(item.map_or_else(Self::default, |item| Self { subscribed: item.subscription.from(), groups: item.groups }))
    }
}

/// An iq for a service.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Whom it addresses.
    pub host: &'a Host,
    /// Full JID of the sender.
    pub caller: &'a Jid,
    /// Get or set.
    pub iq_type: IqType,
    /// The payload element, as written, `<` to `>`; the default namespace around it is `jabber:client`.
    pub payload: &'a str,
    /// Milliseconds since the Unix epoch.
    pub unix_millis: u64,
}

/// What comes of a request.
#[derive(Debug)]
pub struct Reply {
    /// Payload of the result, or the error.
    pub result: Result<Vec<u8>, Refusal>,
    /// Events, in the order they happened. They may be there even if the request was refused in part.
    pub notifications: Vec<Notification>,
    /// Requests to owners to decide on a subscription.
    pub messages: Vec<ApprovalRequest>,
}

impl Reply {
    fn new(result: Result<Vec<u8>, Refusal>, outcome: Outcome) -> Self {
        Self { result, notifications: outcome.notifications, messages: outcome.requests }
    }
}

/// Answers an iq of `http://jabber.org/protocol/pubsub`, its `#owner`, of ad-hoc commands, or of service discovery. `facts`:
/// what the caller is to the account's owner; at a service they do not matter.
pub async fn answer<S: Store>(config: &Config, store: &S, request: Request<'_>, facts: &Facts) -> Reply {
    let call = Call::new(config, store, request.host, request.caller.as_jid(), facts, request.unix_millis);
    let mut outcome = Outcome::default();
    let result = match Node::parse(request.payload, ns::CLIENT) {
        Some(payload) => call.serve(request.iq_type, &payload, request.payload, &mut outcome).await,
        None => Err(Condition::BadRequest.into()),
    };
    Reply::new(result, outcome)
}

/// Takes the form with which an owner decides on a subscription (§8.6): the `<x/>` of a message to the service, as
/// written. The result has no payload; a refusal is for an error message.
pub async fn decide<S: Store>(config: &Config, store: &S, request: Request<'_>, facts: &Facts) -> Reply {
    let call = Call::new(config, store, request.host, request.caller.as_jid(), facts, request.unix_millis);
    let mut outcome = Outcome::default();
    let result = match Node::parse(request.payload, ns::CLIENT) {
        Some(form) => call.decide(&form, &mut outcome).await,
        None => Err(Condition::BadRequest.into()),
    };
    Reply::new(result.map(|()| Vec::new()), outcome)
}

/// What a resource is told that became available towards an account's owner, as the owner's roster says what it is to
/// it: see [`last_items`].
///
/// # Errors
/// [`StoreError`].
pub async fn last_items_of<S: Store>(
    config: &Config,
    store: &S,
    owner: Jid,
    resource: &Jid,
    wanted: &[Box<str>],
    unix_millis: u64,
) -> Result<Vec<Notification>, StoreError> {
    let facts = Facts::read(store, owner.as_jid(), resource.as_jid()).await?;
    let wanted: Vec<&str> = wanted.iter().map(|node| &**node).collect();
    last_items(config, store, &Host::Account(owner), resource, &facts, &wanted, unix_millis).await
}

/// What a resource is told that became available towards an account's owner: the last items of the nodes that it wants
/// (`+notify` in its capabilities, here without it) and may read (XEP-0060 §6.1.7, XEP-0163 §4.3.4). Nodes beyond the most
/// that an account may have are passed over.
///
/// # Errors
/// [`StoreError`].
pub async fn last_items<S: Store>(
    config: &Config,
    store: &S,
    owner: &Host,
    resource: &Jid,
    facts: &Facts,
    wanted: &[&str],
    unix_millis: u64,
) -> Result<Vec<Notification>, StoreError> {
    Call::new(config, store, owner, resource.as_jid(), facts, unix_millis).last_items(wanted).await
}

/// Takes an account that is about to be removed out of the nodes of others: of these services, and of the accounts in its
/// roster. A node elsewhere is open to it only by a subscription that whoever owns it can see and end.
///
/// # Errors
/// [`StoreError`]: not all of it is done, and may be done again.
pub async fn forget<S: Store>(
    config: &Config,
    store: &S,
    services: &[Jid],
    account: JidRef<'_>,
    unix_millis: u64,
) -> Result<(), StoreError> {
    let contacts = rosters::load(store, account).await?.into_iter().map(|item| Host::Account(item.jid));
    let services = services.iter().cloned().map(Host::Service);
    for host in services.chain(contacts) {
        forget_at(config, store, &host, account, unix_millis).await?;
    }
    Ok(())
}

/// Takes an entity out of all nodes of one service, or of one account.
///
/// # Errors
/// [`StoreError`]: not all of it is done, and may be done again.
pub async fn forget_at<S: Store>(
    config: &Config,
    store: &S,
    host: &Host,
    entity: JidRef<'_>,
    unix_millis: u64,
) -> Result<(), StoreError> {
    let facts = Facts::default();
    let forgotten = Call::new(config, store, host, entity, &facts, unix_millis).forget().await;
    match forgotten.map_err(|refusal| refusal.error.condition) {
        // If so, the contact's account was removed meanwhile, with all its nodes.
        Ok(()) | Err(Condition::ServiceUnavailable) => Ok(()),
        Err(Condition::ResourceConstraint) => Err(StoreError::Busy),
        Err(_) => Err(StoreError::Failed),
    }
}

/// The payload of an item that anybody may read: `None` if there is none, or if its node is not open to all.
///
/// # Errors
/// [`StoreError`].
pub async fn open_item<S: Store>(
    config: &Config,
    store: &S,
    host: &Host,
    node: &str,
    item: &str,
    unix_millis: u64,
) -> Result<Option<String>, StoreError> {
    let facts = Facts::default();
    let call = Call::new(config, store, host, host.jid().as_jid(), &facts, unix_millis);
    let Some(loaded) = call.load(node).await?.filter(|loaded| loaded.node.config.access == AccessModel::Open) else {
        return Ok(None);
    };
    let item = call.item(node, item).await?;
    let item = item.filter(|item| !loaded.node.config.has_expired(item.published, unix_millis));
    Ok(item.map(|item| item.payload))
}

/// Where the number of nodes of a service is, in [`crate::store::Table::PubSub`], if there are any.
pub fn count_key(host: JidRef<'_>) -> Vec<u8> {
    Keys::new(host).total()
}

impl<S: Store> Call<'_, S> {
    /// A table from what is asked to who answers.
    async fn serve(&self, iq_type: IqType, payload: &Node, raw: &str, out: &mut Outcome) -> Result<Vec<u8>, Refusal> {
        use IqType::{Get, Set};

        let page = rsm::Request::of(payload)?;
        match (&*payload.ns, &*payload.name, iq_type) {
            (ns::DISCO_INFO, "query", Get) => return self.disco_info(payload).await,
            (ns::DISCO_ITEMS, "query", Get) => return self.disco_items(payload, page).await,
            (ns::PUBSUB | ns::PUBSUB_OWNER, "pubsub", Get | Set) => {}
            (ns::COMMANDS, "command", Set) => return self.command(payload, out).await,
            (ns::PUBSUB | ns::PUBSUB_OWNER | ns::COMMANDS | ns::DISCO_INFO | ns::DISCO_ITEMS, ..) => {
                return Err(self.refuse(None, Condition::FeatureNotImplemented));
            }
            _ => return Err(Condition::ServiceUnavailable.into()),
        }
        let (index, action, companion) = self.action(payload)?;
        let with = |name| match companion {
            Some(companion) if companion.name == name => Ok(Some(companion)),
            Some(_) => Err(Refusal::from(Condition::BadRequest)),
            None => Ok(None),
        };
        if !matches!(&*action.name, "create" | "publish" | "subscribe") && companion.is_some() {
            return Err(Condition::BadRequest.into());
        }
        let list = page.clone().unwrap_or(rsm::Request::ALL);
        match (&*payload.ns, &*action.name, iq_type) {
            (ns::PUBSUB, "create", Set) => self.create(action, with("configure")?).await,
            (ns::PUBSUB, "publish", Set) => {
                let pieces = Standalone::read_children(raw, ns::CLIENT, usize::MAX);
                let pieces = pieces.map_err(|_| Condition::BadRequest)?;
                let raw = pieces.get(index).ok_or(Condition::BadRequest)?;
                self.publish(action, &raw.xml, with("publish-options")?, out).await
            }
            (ns::PUBSUB, "retract", Set) => self.retract(action, out).await,
            (ns::PUBSUB, "subscribe", Set) => self.subscribe(action, with("options")?, out).await,
            (ns::PUBSUB, "unsubscribe", Set) => self.unsubscribe(action).await,
            (ns::PUBSUB, "options", Get) => self.get_options(action).await,
            (ns::PUBSUB, "options", Set) => self.set_options(action).await,
            (ns::PUBSUB, "default", Get) => self.default_options(action).await,
            (ns::PUBSUB, "items", Get) => self.items(action, page).await,
            (ns::PUBSUB, "subscriptions", Get) => self.own_subscriptions(action).await,
            (ns::PUBSUB, "affiliations", Get) => self.own_affiliations(action, &list).await,
            (ns::PUBSUB_OWNER, "configure", Get) => self.get_config(action).await,
            (ns::PUBSUB_OWNER, "configure", Set) => self.set_config(action, out).await,
            (ns::PUBSUB_OWNER, "default", Get) => self.default_config(action),
            (ns::PUBSUB_OWNER, "delete", Set) => self.delete(action, out).await,
            (ns::PUBSUB_OWNER, "purge", Set) => self.purge(action, out).await,
            (ns::PUBSUB_OWNER, "affiliations", Get) => self.get_affiliations(action, &list).await,
            (ns::PUBSUB_OWNER, "affiliations", Set) => self.set_affiliations(action, out).await,
            (ns::PUBSUB_OWNER, "subscriptions", Get) => self.get_subscriptions(action, &list).await,
            (ns::PUBSUB_OWNER, "subscriptions", Set) => self.set_subscriptions(action, out).await,
            _ => Err(self.refuse(None, Condition::FeatureNotImplemented)),
        }
    }

    /// What a payload asks for, where it stands, and what goes with it (`<configure/>`, `<options/>`,
    /// `<publish-options/>`). Anything else in it is none of ours and ignored (RFC 6120 §8.4).
    fn action<'n>(&self, payload: &'n Node) -> Result<(usize, &'n Node, Option<&'n Node>), Refusal> {
        let mut ours = payload.children.iter().enumerate().filter(|(_, child)| child.ns == payload.ns);
        let (index, action) = ours.next().ok_or_else(|| self.refuse(None, Condition::BadRequest))?;
        let companion = ours.next().map(|(_, companion)| companion);
        if ours.next().is_some() {
            return Err(Condition::BadRequest.into());
        }
        Ok((index, action, companion))
    }

    async fn last_items(&self, wanted: &[&str]) -> Result<Vec<Notification>, StoreError> {
        let mut notifications = Vec::new();
        for (at, id) in wanted.iter().take(self.config.limits.nodes_max as usize).enumerate() {
            if wanted.get(..at).is_some_and(|before| before.contains(id)) {
                continue;
            }
            let Some(loaded) = self.load(id).await? else { continue };
            if loaded.node.config.send_last != options::SendLast::OnSubAndPresence {
                continue;
            }
            let affiliation = self.affiliation(id, self.caller).await?;
            if self.check_read(&loaded, affiliation).await.is_ok() {
                notifications.extend(self.last_notification(&loaded, self.caller.to_jid()).await?);
            }
        }
        Ok(notifications)
    }
}

/// The start tag of an answer.
fn begin(out: &mut Vec<u8>, ns: &str) {
    out.extend_from_slice(b"<pubsub");
    write::attr(out, "xmlns", ns);
    out.push(b'>');
}
