//! What leaves a service unasked: notifications, to whom they go, and requests to owners.
//!
//! A notification's bytes are written once. Its recipients are not all loaded: a node may have a hundred thousand, so they
//! come in pages, of which the first is at hand. Who delivers takes a page, delivers it in slices of its own, and asks for
//! the next.
//!
//! Spec: XEP-0060 v1.30.0 §7.1.2 (notifications), §12.2–12.3 (whom they reach), XEP-0163 v1.2.2 §4.3.

use std::collections::HashSet;

use plaza_core::date::{DateTime, write_delay};
use plaza_core::jid::{Jid, JidRef};
use plaza_core::ns;
use plaza_core::stanza::MessageType;
use plaza_core::xml::write;

use super::Host;
use super::hot::Hot;
use super::keys::{Keys, rest_jid};
use super::options::{AccessModel, Shows};
use super::record::{Affiliation, Item, NodeRecord, Subscription};
use crate::rosters;
use crate::store::{Store, StoreError, Table};

/// Recipients in a page: about 100 KiB of them.
pub const RECIPIENTS_PAGE: usize = 1_000;

/// An event on its way to all whom it concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// The service, or the account's bare JID.
    pub from: Jid,
    /// The type of the message: headline or normal.
    pub message_type: MessageType,
    /// What kind of event it is.
    pub kind: EventKind,
    /// All between the message's tags: `<event/>`, and `<delay/>` if it is not news.
    pub payload: Vec<u8>,
    /// The addresses it is for.
    pub recipients: Recipients,
    /// Whom else it is for, if it is an account's: one that is also among the recipients gets it once.
    pub audience: Option<Audience>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Items were published (XEP-0060 §7.1.2).
    Items,
    /// Items were removed (§7.2.2).
    Retract,
    /// All items were (§8.5.2).
    Purge,
    /// The node was (§8.4.2).
    Delete,
    /// The node was configured (§8.2.5.3).
    Configuration,
    /// The recipient's own subscription changed (§12.14).
    Subscription,
}

/// Whom an account's event reaches without an explicit subscription (XEP-0060 §9.1, XEP-0163 §4): every available resource
/// of the owner, and of the contacts that have access, if it said in its capabilities that it wants `node` (`+notify`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience {
    /// The node whose id, with `+notify` behind it, is the interest to look for.
    pub node: String,
    /// Which contacts have access. The owner always has.
    pub reach: Reach,
    /// Bare JIDs that have none whatever else is said.
    pub outcasts: Vec<Jid>,
}

/// Which contacts have access to an account's node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// None.
    Owner,
    /// All that are subscribed to the owner's presence.
    Contacts,
    /// These of them, by bare JID: those in one of the node's groups of the owner's roster.
    These(Vec<Jid>),
}

/// A message to an owner, who is to decide on a subscription (XEP-0060 §8.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRequest {
    /// The service, or the account's bare JID.
    pub from: Jid,
    /// The owner.
    pub to: Jid,
    /// `id` of the message, which the answer repeats.
    pub id: String,
    /// The form.
    pub payload: Vec<u8>,
}

/// What leaves a service after a request, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// Events.
    pub notifications: Vec<Notification>,
    /// Requests to owners.
    pub messages: Vec<ApprovalRequest>,
}

impl Outgoing {
    /// Whether there is nothing to tell anyone.
    pub fn is_empty(&self) -> bool {
        self.notifications.is_empty() && self.messages.is_empty()
    }

    /// All of it as messages.
    pub fn into_messages(self) -> impl Iterator<Item = Message> {
        self.notifications.into_iter().map(Message::from).chain(self.messages.into_iter().map(Message::from))
    }
}

/// A message on its way to many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The service, or the account's bare JID.
    pub from: Jid,
    /// Its type.
    pub message_type: MessageType,
    /// The whole stanza, but for `to`.
    pub text: Vec<u8>,
    /// The addresses it is for.
    pub recipients: Recipients,
    /// Whom else it is for.
    pub audience: Option<Audience>,
}

impl From<Notification> for Message {
    fn from(event: Notification) -> Self {
        let Notification { from, message_type, kind: _, payload, recipients, audience } = event;
        Self { text: message(&from, message_type, "", &payload), from, message_type, recipients, audience }
    }
}

impl From<ApprovalRequest> for Message {
    fn from(request: ApprovalRequest) -> Self {
        let ApprovalRequest { from, to, id, payload } = request;
        let message_type = MessageType::Normal;
        let text = message(&from, message_type, &id, &payload);
        Self { text, from, message_type, recipients: Recipients::one(to), audience: None }
    }
}

/// A message without `to`.
fn message(from: &Jid, message_type: MessageType, id: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 128);
    out.extend_from_slice(b"<message");
    write::attr(&mut out, "from", from.as_str());
    if message_type == MessageType::Headline {
        out.extend_from_slice(b" type='headline'");
    }
    if !id.is_empty() {
        write::attr(&mut out, "id", id);
    }
    out.push(b'>');
    out.extend_from_slice(payload);
    out.extend_from_slice(b"</message>");
    out
}

/// One recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The subscribed address, bare or full.
    pub jid: Jid,
    /// The presence states in which it wants notifications, where its presence is known.
    pub shows: Shows,
}

/// The addresses a notification is for, a page at a time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipients {
    ready: Vec<Recipient>,
    rest: Option<Box<Rest>>,
}

/// Subscriptions not looked at yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rest {
    prefix: Vec<u8>,
    after: Vec<u8>,
    /// When the event was: who subscribed later has no part in it.
    at: u64,
    /// Whose subscriptions count, by bare JID; `None` for everyone's.
    allowed: Option<HashSet<Box<str>>>,
}

impl Recipients {
    /// Nobody.
    pub const NONE: Self = Self { ready: Vec::new(), rest: None };

    /// One address.
    pub(super) fn one(jid: Jid) -> Self {
        Self::these(vec![jid])
    }

    /// These addresses.
    pub fn these(jids: Vec<Jid>) -> Self {
        Self { ready: jids.into_iter().map(|jid| Recipient { jid, shows: Shows::ALL }).collect(), rest: None }
    }

    /// Those subscribed to a node, the first page loaded. The caller has the node's turn.
    pub(super) async fn of_node<S: Store>(
        store: &S,
        keys: &Keys,
        node: &NodeRecord,
        id: &str,
        host: &Host,
        at: u64,
        hot: &Hot,
    ) -> Result<Self, StoreError> {
        if node.subscribers == 0 {
            return Ok(Self::NONE);
        }
        let depends_on_subscriptions = matches!(node.config.access, AccessModel::Open | AccessModel::Authorize);
        if depends_on_subscriptions && let Some(ready) = hot.get(&keys.node(id)) {
            return Ok(Self { ready: ready.to_vec(), rest: None });
        }
        let prefix = keys.subscriptions(id);
        let allowed = allowed(store, keys, node, id, host).await?;
        let mut recipients =
            Self { ready: Vec::new(), rest: Some(Box::new(Rest { after: prefix.clone(), prefix, at, allowed })) };
        let lasts = recipients.load(store).await?;
        if depends_on_subscriptions && lasts && recipients.rest.is_none() {
            hot.put(keys.node(id), &recipients.ready);
        }
        Ok(recipients)
    }

    /// Whether there are none, as far as is known without looking further.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.rest.is_none()
    }

    /// Those at hand, perhaps none; [`Self::next`] has the others.
    pub fn take_ready(&mut self) -> Vec<Recipient> {
        std::mem::take(&mut self.ready)
    }

    /// Whether there may be more than those at hand.
    pub const fn has_more(&self) -> bool {
        self.rest.is_some()
    }

    /// The next page, at most [`RECIPIENTS_PAGE`] long; `None` if there are no more. The first is at hand, a later one is
    /// read from the store as it is by then.
    ///
    /// # Errors
    /// [`StoreError`]; the same page may be asked for again.
    pub async fn next<S: Store>(&mut self, store: &S) -> Result<Option<Vec<Recipient>>, StoreError> {
        while self.ready.is_empty() && self.rest.is_some() {
            self.load(store).await?;
        }
        Ok(if self.ready.is_empty() { None } else { Some(std::mem::take(&mut self.ready)) })
    }

    /// Reads a page of subscriptions, of which some, or none, are recipients. Whether none of them is for a time.
    async fn load<S: Store>(&mut self, store: &S) -> Result<bool, StoreError> {
        let Some(rest) = &mut self.rest else { return Ok(true) };
        let mut lasts = true;
        // One more than a page says whether there is another.
        let mut pairs = store.scan(Table::PubSub, &rest.prefix, Some(&rest.after), RECIPIENTS_PAGE + 1).await?;
        let is_last = pairs.len() <= RECIPIENTS_PAGE;
        pairs.truncate(RECIPIENTS_PAGE);
        for (key, record) in pairs {
            let subscription = Subscription::decode(&record)?;
            let jid = rest_jid(&key, &rest.prefix)?;
            rest.after = key;
            lasts &= subscription.options.expires.is_none() && subscription.since <= rest.at;
            let counts = !subscription.pending
                && subscription.options.deliver
                && subscription.since <= rest.at
                && !subscription.has_expired(rest.at)
                && rest.allowed.as_ref().is_none_or(|allowed| allowed.contains(jid.as_jid().bare().as_str()));
            if counts {
                self.ready.push(Recipient { jid, shows: subscription.options.shows });
            }
        }
        if is_last {
            self.rest = None;
        }
        Ok(lasts)
    }
}

/// Whose subscriptions count, if not everyone's: what was allowed once may be no longer, since access models, rosters and
/// whitelists change (XEP-0060 §14.3).
async fn allowed<S: Store>(
    store: &S,
    keys: &Keys,
    node: &NodeRecord,
    id: &str,
    host: &Host,
) -> Result<Option<HashSet<Box<str>>>, StoreError> {
    let owner = match host {
        Host::Account(owner) => owner,
        Host::Service(_) => &node.creator,
    };
    let mut allowed = HashSet::new();
    match node.config.access {
        // An authorisation stays until an owner takes it back.
        AccessModel::Open | AccessModel::Authorize => return Ok(None),
        AccessModel::Whitelist => {}
        AccessModel::Presence | AccessModel::Roster => {
            for item in rosters::load(store, owner.as_jid()).await? {
                let in_group = node.config.access == AccessModel::Presence
                    || item.groups.iter().any(|group| node.config.groups.contains(group));
                if item.subscription.from() && in_group {
                    allowed.insert(item.jid.as_str().into());
                }
            }
        }
    }
    if let Host::Account(owner) = host {
        allowed.insert(owner.as_str().into());
    }
    let prefix = keys.affiliations(id);
    for (key, record) in store.scan(Table::PubSub, &prefix, None, usize::MAX).await? {
        if Affiliation::decode(&record)?.may_read() {
            allowed.insert(rest_jid(&key, &prefix)?.as_str().into());
        }
    }
    Ok(Some(allowed))
}

/// Writes `<event/>` around what `inside` writes.
pub(super) fn event(inside: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"<event");
    write::attr(&mut out, "xmlns", ns::PUBSUB_EVENT);
    out.push(b'>');
    inside(&mut out);
    out.extend_from_slice(b"</event>");
    out
}

/// The event of items published, or of the last one (XEP-0060 §6.1.7), which is not news.
pub(super) fn items_event<'i>(
    node: &str,
    config: &super::options::NodeConfig,
    items: impl Iterator<Item = (&'i str, &'i Item)>,
    published_before: Option<u64>,
) -> Vec<u8> {
    let mut out = event(|out| {
        begin_items(out, node);
        for (id, item) in items {
            write_item(out, id, item, config.tell_publisher, config.deliver_payloads);
        }
        out.extend_from_slice(b"</items>");
    });
    if let Some(published) = published_before {
        write_delay(&mut out, "", DateTime::from_unix_millis(published), "");
    }
    out
}

/// The event of items removed (XEP-0060 §7.2.2.1).
pub(super) fn retract_event<'i>(node: &str, items: impl Iterator<Item = &'i str>) -> Vec<u8> {
    event(|out| {
        begin_items(out, node);
        for item in items {
            out.extend_from_slice(b"<retract");
            write::attr(out, "id", item);
            out.extend_from_slice(b"/>");
        }
        out.extend_from_slice(b"</items>");
    })
}

/// The event of a subscription whose state changed (XEP-0060 §12.14).
pub(super) fn subscription_event(node: &str, jid: JidRef<'_>, state: &str) -> Vec<u8> {
    event(|out| write_subscription(out, Some(node), jid, state, None))
}

/// `<items>` with its node.
fn begin_items(out: &mut Vec<u8>, node: &str) {
    out.extend_from_slice(b"<items");
    write::attr(out, "node", node);
    out.push(b'>');
}

/// An item, as it is told and as it is retrieved.
pub(super) fn write_item(out: &mut Vec<u8>, id: &str, item: &Item, with_publisher: bool, with_payload: bool) {
    out.extend_from_slice(b"<item");
    if !id.is_empty() {
        write::attr(out, "id", id);
    }
    if with_publisher {
        write::attr(out, "publisher", item.publisher.as_str());
    }
    if item.payload.is_empty() || !with_payload {
        return out.extend_from_slice(b"/>");
    }
    out.push(b'>');
    out.extend_from_slice(item.payload.as_bytes());
    out.extend_from_slice(b"</item>");
}

/// A subscription, as it is told: `expiry` is the end of its lease.
pub(super) fn write_subscription(
    out: &mut Vec<u8>,
    node: Option<&str>,
    jid: JidRef<'_>,
    state: &str,
    expiry: Option<u64>,
) {
    out.extend_from_slice(b"<subscription");
    if let Some(node) = node {
        write::attr(out, "node", node);
    }
    write::attr(out, "jid", jid.as_str());
    write::attr(out, "subscription", state);
    if let Some(expiry) = expiry {
        write::attr(out, "expiry", &DateTime::from_unix_millis(expiry).to_string());
    }
    out.extend_from_slice(b"/>");
}
