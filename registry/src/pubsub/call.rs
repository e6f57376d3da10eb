//! One request at one service: who asks, what may be done, and how a change is committed.

use std::borrow::Cow;

use plaza_core::jid::{Jid, JidRef};
use plaza_core::stanza::{Condition, MessageType};
use plaza_core::xml::read::Node;

use super::error::{Problem, Refusal};
use super::keys::Keys;
use super::notify::{ApprovalRequest, Audience, EventKind, Notification, Reach, Recipients};
use super::options::AccessModel;
use super::record::{Affiliation, Item, NodeRecord, Subscription, decode_count, encode_count};
use super::turns::Turn;
use super::{Config, Facts, Host};
use crate::rosters;
use crate::store::{Batch, CommitError, Guard, Store, StoreError, Table, Write, key};

/// How often a change is tried again when another one came between. Turns make that rare: it takes another broker, or
/// another service's limits.
pub(super) const ATTEMPTS_MAX: usize = 16;

/// What a request leads to beside its answer.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) notifications: Vec<Notification>,
    pub(super) requests: Vec<ApprovalRequest>,
}

/// A request being served.
#[derive(Debug)]
pub(super) struct Call<'a, S> {
    pub(super) config: &'a Config,
    pub(super) store: &'a S,
    pub(super) host: &'a Host,
    pub(super) keys: Keys,
    /// Who asks, by full JID.
    pub(super) caller: JidRef<'a>,
    /// What the caller is to the owner of the account.
    pub(super) facts: &'a Facts,
    /// Milliseconds since the Unix epoch.
    pub(super) now: u64,
}

/// A node as read, and the record that a change of it is guarded by.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) id: String,
    /// `None` if it is being created.
    pub(super) before: Option<Vec<u8>>,
    pub(super) node: NodeRecord,
}

/// Guards and writes of a change.
#[derive(Debug, Default)]
pub(super) struct Change {
    batch: Batch,
    /// How many of the guards are about the account.
    account_guards: usize,
}

impl Change {
    /// The record must still be what was read.
    pub(super) fn still(&mut self, key: Vec<u8>, before: Option<Vec<u8>>) {
        let table = Table::PubSub;
        self.batch.guards.push(match before {
            Some(value) => Guard::Equals { table, key, value },
            None => Guard::Absent { table, key },
        });
    }

    /// Stores a record.
    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.batch.writes.push(Write::Put { table: Table::PubSub, key, value });
    }

    /// Removes a record.
    pub(super) fn delete(&mut self, key: Vec<u8>) {
        self.batch.writes.push(Write::Delete { table: Table::PubSub, key });
    }

    /// Removes all records with a prefix.
    pub(super) fn delete_all(&mut self, prefix: Vec<u8>) {
        self.batch.writes.push(Write::DeletePrefix { table: Table::PubSub, prefix });
    }
}

impl<'a, S: Store> Call<'a, S> {
    pub(super) fn new(
        config: &'a Config,
        store: &'a S,
        host: &'a Host,
        caller: JidRef<'a>,
        facts: &'a Facts,
        now: u64,
    ) -> Self {
        Self { config, store, host, keys: Keys::new(host.jid().as_jid()), caller, facts, now }
    }

    /// Whether it is an account's service.
    pub(super) const fn is_account(&self) -> bool {
        matches!(self.host, Host::Account(_))
    }

    /// Whether the account's owner asks.
    pub(super) fn is_own_account(&self) -> bool {
        self.is_account() && self.host.jid().as_jid() == self.caller.bare()
    }

    // ---- reading -----------------------------------------------------------------------------------------------

    /// A node, if there is one.
    pub(super) async fn load(&self, id: &str) -> Result<Option<Loaded>, StoreError> {
        let Some(record) = self.get(&self.keys.node(id)).await? else { return Ok(None) };
        let node = NodeRecord::decode(&record)?;
        Ok(Some(Loaded { id: id.to_owned(), before: Some(record), node }))
    }

    /// A node that must exist, and what the caller is at it.
    pub(super) async fn existing(&self, id: &str) -> Result<(Loaded, Option<Affiliation>), Refusal> {
        match self.load(id).await? {
            Some(loaded) => {
                let affiliation = self.affiliation(id, self.caller).await?;
                Ok((loaded, affiliation))
            }
            None => Err(self.refuse(None, Condition::ItemNotFound)),
        }
    }

    /// A node that the caller owns (XEP-0060 §8).
    pub(super) async fn owned(&self, id: &str) -> Result<Loaded, Refusal> {
        match self.existing(id).await? {
            (loaded, Some(Affiliation::Owner)) => Ok(loaded),
            (_, affiliation) => Err(self.refuse(affiliation, Condition::Forbidden)),
        }
    }

    pub(super) async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(Table::PubSub, key).await
    }

    /// What an entity is at a node. An account's owner owns all its nodes (XEP-0163 §2.2).
    pub(super) async fn affiliation(&self, node: &str, entity: JidRef<'_>) -> Result<Option<Affiliation>, StoreError> {
        if self.is_account() && entity.bare() == self.host.jid().as_jid() {
            return Ok(Some(Affiliation::Owner));
        }
        let record = self.get(&self.keys.affiliation(node, entity)).await?;
        record.map(|record| Affiliation::decode(&record)).transpose()
    }

    /// The subscription of an address to a node, if its lease is not over, and its record in any case.
    pub(super) async fn subscription(
        &self,
        node: &str,
        jid: JidRef<'_>,
    ) -> Result<(Option<Subscription>, Option<Subscription>), StoreError> {
        let record = self.get(&self.keys.subscription(node, jid)).await?;
        let stored = record.map(|record| Subscription::decode(&record)).transpose()?;
        Ok((stored.filter(|subscription| !subscription.has_expired(self.now)), stored))
    }

    /// Whether the caller is subscribed to a node, by its account or by this resource.
    pub(super) async fn is_subscribed(&self, node: &str) -> Result<bool, StoreError> {
        for jid in [self.caller.bare(), self.caller] {
            if let (Some(subscription), _) = self.subscription(node, jid).await?
                && !subscription.pending
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// An item of a node.
    pub(super) async fn item(&self, node: &str, id: &str) -> Result<Option<Item>, StoreError> {
        let record = self.get(&self.keys.item(node, id)).await?;
        record.map(|record| Item::decode(&record)).transpose()
    }

    /// The item published last, if it is there and not too old.
    pub(super) async fn last_item(&self, loaded: &Loaded) -> Result<Option<(String, Item)>, StoreError> {
        if loaded.node.last.is_empty() {
            return Ok(None);
        }
        let item = self.item(&loaded.id, &loaded.node.last).await?;
        let item = item.filter(|item| !loaded.node.config.has_expired(item.published, self.now));
        Ok(item.map(|item| (loaded.node.last.clone(), item)))
    }

    // ---- access ------------------------------------------------------------------------------------------------

    /// What the caller is to a node's owner: as the shard says at an account, as the creator's roster says at a service.
    async fn facts_at(&self, node: &NodeRecord) -> Result<Cow<'_, Facts>, StoreError> {
        match self.host {
            Host::Account(_) => Ok(Cow::Borrowed(self.facts)),
            Host::Service(_) => {
                let facts = Facts::read(self.store, node.creator.as_jid(), self.caller.bare()).await?;
                Ok(Cow::Owned(facts))
            }
        }
    }

    /// Whether the caller may subscribe to a node, and read from it if it is subscribed where that is needed
    /// (XEP-0060 §4.5).
    pub(super) async fn check_access(
        &self,
        loaded: &Loaded,
        affiliation: Option<Affiliation>,
    ) -> Result<Result<(), Problem>, Refusal> {
        match affiliation {
            Some(Affiliation::Outcast | Affiliation::PublishOnly) => {
                return Err(self.refuse(affiliation, Condition::Forbidden));
            }
            Some(Affiliation::Owner | Affiliation::Publisher | Affiliation::Member) => return Ok(Ok(())),
            None => {}
        }
        let node = &loaded.node;
        Ok(match node.config.access {
            AccessModel::Open | AccessModel::Authorize => Ok(()),
            AccessModel::Whitelist => Err(Problem::ClosedNode),
            AccessModel::Presence | AccessModel::Roster => {
                let facts = self.facts_at(node).await?;
                let in_group = || facts.groups.iter().any(|group| node.config.groups.contains(group));
                if node.config.access == AccessModel::Roster && !(facts.subscribed && in_group()) {
                    Err(Problem::NotInRosterGroup)
                } else if facts.subscribed {
                    Ok(())
                } else {
                    Err(Problem::PresenceSubscriptionRequired)
                }
            }
        })
    }

    /// Whether the caller may retrieve items (XEP-0060 §6.5.1).
    pub(super) async fn check_read(&self, loaded: &Loaded, affiliation: Option<Affiliation>) -> Result<(), Refusal> {
        if let Err(problem) = self.check_access(loaded, affiliation).await? {
            return Err(self.refuse(affiliation, problem));
        }
        let needs_subscription = loaded.node.config.access == AccessModel::Authorize && affiliation.is_none();
        if needs_subscription && !self.is_subscribed(&loaded.id).await? {
            return Err(self.refuse(affiliation, Problem::NotSubscribed));
        }
        Ok(())
    }

    /// What a caller is told that may not do what it asks.
    ///
    /// Differs from XEP-0060 §6.1.3 and §6.5.9: somebody who has nothing to do with an account, neither a subscription to
    /// its presence nor an affiliation, is told what everyone is told who addresses no account at all. The XEP's errors
    /// would say which accounts exist, and which nodes they have.
    pub(super) fn refuse(&self, affiliation: Option<Affiliation>, refusal: impl Into<Refusal>) -> Refusal {
        let is_stranger = self.is_account()
            && !self.is_own_account()
            && !self.facts.subscribed
            && matches!(affiliation, None | Some(Affiliation::Outcast));
        if is_stranger { Condition::ServiceUnavailable.into() } else { refusal.into() }
    }

    // ---- changing ----------------------------------------------------------------------------------------------

    /// Waits until it is our turn to change a node.
    pub(super) async fn turn(&self, node: &str) -> Turn {
        self.config.turns.take(&self.keys.node(node)).await
    }

    /// A change of a node that happens only if the node is still what was read, and the account still there.
    pub(super) fn change(&self, loaded: &Loaded) -> Change {
        let mut change = Change::default();
        if let Host::Account(owner) = self.host {
            change.batch.guards.push(Guard::Present { table: Table::Accounts, key: key::account(owner.as_jid()) });
            change.account_guards = 1;
        }
        change.still(self.keys.node(&loaded.id), loaded.before.clone());
        change
    }

    /// Stores what the node has become.
    pub(super) fn put_node(&self, change: &mut Change, id: &str, node: &mut NodeRecord) {
        node.revision += 1;
        change.put(self.keys.node(id), node.encode());
    }

    /// Whether the change was committed; if not, another one came between.
    pub(super) async fn commit(&self, change: Change) -> Result<bool, Refusal> {
        let account_guards = change.account_guards;
        for write in &change.batch.writes {
            let (Write::Put { key, .. } | Write::Delete { key, .. } | Write::DeletePrefix { prefix: key, .. }) = write;
            if let Some(node) = self.keys.subscribed_node(key) {
                self.config.hot.drop_node(&self.keys.node(node));
            }
        }
        match self.store.commit(change.batch).await {
            Ok(()) => Ok(true),
            Err(CommitError::Guard(index)) if index < account_guards => Err(Condition::ServiceUnavailable.into()),
            Err(CommitError::Guard(_)) => Ok(false),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// Counts a node that comes (`1`) or goes (`-1`), of its creator and of all.
    pub(super) async fn count_node(&self, change: &mut Change, creator: JidRef<'_>, by: i32) -> Result<(), Refusal> {
        for (key, max) in [(self.keys.creator(creator), self.config.limits.nodes_max), (self.keys.total(), u32::MAX)] {
            let before = self.get(&key).await?;
            let count = decode_count(before.as_deref())?;
            if by > 0 && count >= max {
                return Err(Problem::MaxNodesExceeded.into());
            }
            let after = count.saturating_add_signed(by);
            change.still(key.clone(), before);
            if after == 0 { change.delete(key) } else { change.put(key, encode_count(after)) }
        }
        Ok(())
    }

    // ---- telling -----------------------------------------------------------------------------------------------

    /// To whom an event of a node goes at this moment: its subscribers, and at an account its audience. `None` if the node
    /// does not tell anyone.
    pub(super) async fn reached(&self, loaded: &Loaded) -> Result<Option<(Recipients, Option<Audience>)>, StoreError> {
        let node = &loaded.node;
        if !node.config.deliver_notifications {
            return Ok(None);
        }
        let recipients =
            Recipients::of_node(self.store, &self.keys, node, &loaded.id, self.host, self.now, &self.config.hot)
                .await?;
        let audience = if self.is_account() { Some(self.audience(loaded).await?) } else { None };
        Ok((!recipients.is_empty() || audience.is_some()).then_some((recipients, audience)))
    }

    /// The contacts with the owner's presence that are in one of some groups of its roster.
    async fn contacts_in(&self, groups: &[String]) -> Result<Vec<Jid>, StoreError> {
        let items = rosters::load(self.store, self.host.jid().as_jid()).await?.into_iter();
        let chosen =
            items.filter(|item| item.subscription.from() && item.groups.iter().any(|one| groups.contains(one)));
        Ok(chosen.map(|item| item.jid).collect())
    }

    async fn audience(&self, loaded: &Loaded) -> Result<Audience, StoreError> {
        let config = &loaded.node.config;
        let reach = match config.access {
            AccessModel::Open | AccessModel::Presence => Reach::Contacts,
            AccessModel::Roster => Reach::These(self.contacts_in(&config.groups).await?),
            AccessModel::Authorize | AccessModel::Whitelist => Reach::Owner,
        };
        let mut outcasts = Vec::new();
        if loaded.node.outcasts > 0 {
            for (jid, affiliation) in self.affiliations(&loaded.id).await? {
                if affiliation == Affiliation::Outcast {
                    outcasts.push(jid);
                }
            }
        }
        Ok(Audience { node: loaded.id.clone(), reach, outcasts })
    }

    /// All who are affiliated with a node. Their number was bounded when they were put.
    pub(super) async fn affiliations(&self, node: &str) -> Result<Vec<(Jid, Affiliation)>, StoreError> {
        let prefix = self.keys.affiliations(node);
        let pairs = self.store.scan(Table::PubSub, &prefix, None, usize::MAX).await?;
        let read = |(key, record): (Vec<u8>, Vec<u8>)| {
            Ok((super::keys::rest_jid(&key, &prefix)?, Affiliation::decode(&record)?))
        };
        pairs.into_iter().map(read).collect()
    }

    /// A notification of a node.
    pub(super) fn notification(
        &self,
        node: &NodeRecord,
        kind: EventKind,
        payload: Vec<u8>,
        (recipients, audience): (Recipients, Option<Audience>),
    ) -> Notification {
        let message_type = if node.config.headline { MessageType::Headline } else { MessageType::Normal };
        Notification { from: self.host.jid().clone(), message_type, kind, payload, recipients, audience }
    }

    /// Tells an address that its subscription changed.
    pub(super) fn state_notification(&self, loaded: &Loaded, jid: Jid, state: &str) -> Notification {
        let payload = super::notify::subscription_event(&loaded.id, jid.as_jid(), state);
        self.notification(&loaded.node, EventKind::Subscription, payload, (Recipients::one(jid), None))
    }

    /// Tells an address the item published last, if the node is to do so and there is one.
    pub(super) async fn last_notification(&self, loaded: &Loaded, to: Jid) -> Result<Option<Notification>, StoreError> {
        if !loaded.node.config.deliver_notifications {
            return Ok(None);
        }
        let Some((id, item)) = self.last_item(loaded).await? else { return Ok(None) };
        let items = std::iter::once((id.as_str(), &item));
        let payload = super::notify::items_event(&loaded.id, &loaded.node.config, items, Some(item.published));
        Ok(Some(self.notification(&loaded.node, EventKind::Items, payload, (Recipients::one(to), None))))
    }
}

/// The node that an element names.
pub(super) fn node_id(element: &Node) -> Result<&str, Refusal> {
    element.attr("node").filter(|node| !node.is_empty()).ok_or_else(|| Problem::NodeIdRequired.into())
}
