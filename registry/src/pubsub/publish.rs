//! Publishing and removing items (XEP-0060 v1.30.0 §7, §8.5, §12.11).

use plaza_core::forms::Values;
use plaza_core::jid::Jid;
use plaza_core::ns;
use plaza_core::stanza::Condition;
use plaza_core::xml::read::Node;
use plaza_core::xml::{NotStandalone, Standalone, write};
use xxhash_rust::xxh3::xxh3_128;

use super::call::{ATTEMPTS_MAX, Call, Change, Loaded, Outcome, node_id};
use super::error::{Problem, Refusal};
use super::keys::rest_number;
use super::notify::{self, EventKind};
use super::options::{NodeConfig, PublishModel, WhenFull, read_preconditions};
use super::record::{Affiliation, Item, NodeRecord, Place};
use crate::store::{Pair, Store, StoreError, Table};

/// Items found too old that are removed along with one publication. The rest goes with the next ones; none is told.
const EXPIRED_PER_PUBLISH: usize = 64;

/// An item as sent.
#[derive(Debug)]
struct NewItem {
    /// "" if the service is to choose one.
    id: String,
    payload: Option<Standalone>,
    /// There is more than one payload.
    has_more: bool,
}

/// What stands in a place that is to be cleared.
struct Cleared {
    number: u64,
    item: String,
}

impl<S: Store> Call<'_, S> {
    /// Publishes items (§7.1): all of them or none.
    pub(super) async fn publish(
        &self,
        publish: &Node,
        raw: &str,
        options: Option<&Node>,
        out: &mut Outcome,
    ) -> Result<Vec<u8>, Refusal> {
        let id = node_id(publish)?;
        let mut items = self.read_items(publish, raw)?;
        let limits = &self.config.limits;
        let wanted = options.map(|options| read_preconditions(options, limits)).transpose()?;
        let _turn = self.turn(id).await;
        for _ in 0..ATTEMPTS_MAX {
            let (mut loaded, affiliation) = match self.load(id).await? {
                Some(loaded) => {
                    let affiliation = self.affiliation(id, self.caller).await?;
                    (loaded, affiliation)
                }
                None => (self.auto_create(id, wanted.as_ref())?, Some(Affiliation::Owner)),
            };
            self.check_publish(&loaded, affiliation).await?;
            if let (Some(wanted), Some(_)) = (&wanted, &loaded.before)
                && !loaded.node.config.meets(wanted, &NodeConfig::default_at(self.host, limits), limits)
            {
                return Err(Problem::PreconditionNotMet.into());
            }
            check_items(&items, &loaded.node.config)?;
            let reached = self.reached(&loaded).await?;
            let mut change = self.change(&loaded);
            let creation = match loaded.before {
                Some(_) => None,
                None => Some(self.begin_creation(&mut change, &loaded).await?),
            };
            let publisher = self.publisher(affiliation);
            let (published, removed) = self.place_items(&mut loaded, &mut items, publisher, &mut change).await?;
            // A node that keeps nothing is not changed by what it tells.
            if loaded.node.config.persist || creation.is_some() {
                self.put_node(&mut change, id, &mut loaded.node);
                if !self.commit(change).await? {
                    continue;
                }
            }
            self.tell_published(&loaded, &published, &removed, reached, out);
            return Ok(written(id, &published));
        }
        Err(StoreError::Busy.into())
    }

    /// Removes items (§7.2): all of them or none.
    pub(super) async fn retract(&self, retract: &Node, out: &mut Outcome) -> Result<Vec<u8>, Refusal> {
        let id = node_id(retract)?;
        let mut ids = Vec::new();
        for item in children(retract, "item")? {
            let item = item.attr("id").filter(|id| !id.is_empty()).ok_or(Problem::ItemRequired)?;
            if !ids.contains(&item) {
                ids.push(item);
            }
        }
        if ids.is_empty() {
            return Err(Problem::ItemRequired.into());
        }
        if ids.len() > self.config.limits.batch_max as usize {
            return Err(Problem::MaxItemsExceeded.into());
        }
        let asks_notify = matches!(retract.attr("notify"), Some("1" | "true"));
        let _turn = self.turn(id).await;
        for _ in 0..ATTEMPTS_MAX {
            let (mut loaded, affiliation) = self.existing(id).await?;
            if affiliation == Some(Affiliation::Outcast) {
                return Err(self.refuse(affiliation, Condition::Forbidden));
            }
            if !loaded.node.config.persist {
                return Err(self.refuse(affiliation, Problem::Unsupported("persistent-items")));
            }
            let mut change = self.change(&loaded);
            for item_id in &ids {
                let item = self.item(id, item_id).await?;
                let item = item.ok_or_else(|| self.refuse(affiliation, Condition::ItemNotFound))?;
                // An owner removes anything, anyone else what is its own (§4.1).
                let is_own = item.publisher.as_jid().bare() == self.caller.bare();
                if affiliation != Some(Affiliation::Owner) && !is_own {
                    return Err(self.refuse(affiliation, Condition::Forbidden));
                }
                change.delete(self.keys.item(id, item_id));
                change.delete(self.keys.place(id, item.number));
                loaded.node.items = loaded.node.items.saturating_sub(1);
            }
            if ids.contains(&&*loaded.node.last) {
                loaded.node.last = self.last_but(id, loaded.node.oldest, &ids).await?;
            }
            let notifies = asks_notify || loaded.node.config.notify_retract;
            let reached = if notifies { self.reached(&loaded).await? } else { None };
            self.put_node(&mut change, id, &mut loaded.node);
            if !self.commit(change).await? {
                continue;
            }
            if let Some(reached) = reached {
                let payload = notify::retract_event(id, ids.iter().copied());
                out.notifications.push(self.notification(&loaded.node, EventKind::Retract, payload, reached));
            }
            return Ok(Vec::new());
        }
        Err(StoreError::Busy.into())
    }

    /// Removes all items (§8.5).
    pub(super) async fn purge(&self, purge: &Node, out: &mut Outcome) -> Result<Vec<u8>, Refusal> {
        let id = node_id(purge)?;
        let _turn = self.turn(id).await;
        for _ in 0..ATTEMPTS_MAX {
            let mut loaded = self.owned(id).await?;
            if !loaded.node.config.persist {
                return Err(Problem::Unsupported("persistent-items").into());
            }
            let reached = self.reached(&loaded).await?;
            let mut change = self.change(&loaded);
            self.clear_items(&mut change, &mut loaded);
            self.put_node(&mut change, id, &mut loaded.node);
            if !self.commit(change).await? {
                continue;
            }
            if let Some(reached) = reached {
                let payload = notify::event(|out| {
                    out.extend_from_slice(b"<purge");
                    write::attr(out, "node", id);
                    out.extend_from_slice(b"/>");
                });
                out.notifications.push(self.notification(&loaded.node, EventKind::Purge, payload, reached));
            }
            return Ok(Vec::new());
        }
        Err(StoreError::Busy.into())
    }

    /// Takes all items of a node away.
    pub(super) fn clear_items(&self, change: &mut Change, loaded: &mut Loaded) {
        change.delete_all(self.keys.items(&loaded.id));
        change.delete_all(self.keys.places(&loaded.id));
        loaded.node.items = 0;
        loaded.node.oldest = loaded.node.next;
        loaded.node.last.clear();
    }

    /// Takes items away, from the oldest on, until `capacity` are left.
    pub(super) async fn trim_items(
        &self,
        change: &mut Change,
        loaded: &mut Loaded,
        capacity: u32,
    ) -> Result<(), Refusal> {
        let surplus = loaded.node.items.saturating_sub(capacity);
        if surplus == 0 {
            return Ok(());
        }
        let limit = surplus as usize + 1;
        for (number, place) in self.oldest_places(&loaded.id, loaded.node.oldest, limit).await? {
            if loaded.node.items <= capacity {
                loaded.node.oldest = number;
                break;
            }
            change.delete(self.keys.place(&loaded.id, number));
            change.delete(self.keys.item(&loaded.id, &place.item));
            loaded.node.items -= 1;
        }
        Ok(())
    }

    /// The places from the oldest on, at most `limit`.
    pub(super) async fn oldest_places(
        &self,
        node: &str,
        oldest: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Place)>, StoreError> {
        let prefix = self.keys.places(node);
        let after = oldest.checked_sub(1).map(|number| self.keys.place(node, number));
        let pairs = self.store.scan(Table::PubSub, &prefix, after.as_deref(), limit).await?;
        let read = |(key, record): Pair| Ok((rest_number(&key, &prefix)?, Place::decode(&record)?));
        pairs.into_iter().map(read).collect()
    }

    /// The item that is the last one if these are gone.
    async fn last_but(&self, node: &str, oldest: u64, gone: &[&str]) -> Result<String, StoreError> {
        let places = self.oldest_places(node, oldest, usize::MAX).await?;
        let last = places.into_iter().rev().find(|(_, place)| !gone.contains(&&*place.item));
        Ok(last.map(|(_, place)| place.item).unwrap_or_default())
    }

    /// The node that an owner's publication makes at its account (§7.1.4, XEP-0163 §3): the defaults, but for what the
    /// publication asks for.
    fn auto_create(&self, id: &str, wanted: Option<&Values>) -> Result<Loaded, Refusal> {
        match self.is_account() {
            true if self.is_own_account() => {}
            true => return Err(self.refuse(None, Condition::Forbidden)),
            false => return Err(Condition::ItemNotFound.into()),
        }
        let defaults = NodeConfig::default_at(self.host, &self.config.limits);
        let mut config = defaults.clone();
        if let Some(wanted) = wanted {
            config.apply(wanted, &defaults);
        }
        self.new_node(id, config)
    }

    /// Who may publish (§4.1, `pubsub#publish_model`).
    async fn check_publish(&self, loaded: &Loaded, affiliation: Option<Affiliation>) -> Result<(), Refusal> {
        let allowed = match affiliation {
            Some(Affiliation::Owner | Affiliation::Publisher | Affiliation::PublishOnly) => true,
            Some(Affiliation::Outcast) => false,
            Some(Affiliation::Member) | None => match loaded.node.config.publish_model {
                PublishModel::Publishers => false,
                PublishModel::Subscribers => self.is_subscribed(&loaded.id).await?,
                PublishModel::Open => true,
            },
        };
        if allowed { Ok(()) } else { Err(self.refuse(affiliation, Condition::Forbidden)) }
    }

    /// The address that is kept with what the caller publishes (§7.1.2.3).
    fn publisher(&self, affiliation: Option<Affiliation>) -> Jid {
        match affiliation {
            Some(Affiliation::Owner | Affiliation::Publisher | Affiliation::PublishOnly) => self.caller.bare().to_jid(),
            Some(Affiliation::Member | Affiliation::Outcast) | None => self.caller.to_jid(),
        }
    }

    /// Reads the items of a publication; `raw` is the `<publish/>` as it was sent.
    fn read_items(&self, publish: &Node, raw: &str) -> Result<Vec<NewItem>, Refusal> {
        let limits = &self.config.limits;
        let pieces = Standalone::read_children(raw, ns::PUBSUB, usize::MAX).map_err(|_| Condition::BadRequest)?;
        let elements = children(publish, "item")?;
        if pieces.len() != elements.len() {
            return Err(Condition::BadRequest.into());
        }
        if elements.len() > limits.batch_max as usize {
            return Err(Problem::MaxItemsExceeded.into());
        }
        let mut items: Vec<NewItem> = Vec::with_capacity(elements.len());
        for (element, piece) in elements.iter().zip(pieces) {
            let id = element.attr("id").unwrap_or_default();
            if id.len() > limits.item_bytes_max as usize {
                return Err(Condition::NotAcceptable.into());
            }
            // Twice the same id in one publication leaves open which one is meant.
            if !id.is_empty() && items.iter().any(|item| item.id == id) {
                return Err(Condition::BadRequest.into());
            }
            let payloads = Standalone::read_children(&piece.xml, ns::PUBSUB, limits.payload_bytes_max as usize);
            let mut payloads = payloads.map_err(|error| match error {
                NotStandalone::TooLong => Refusal::from(Problem::PayloadTooBig),
                NotStandalone::Malformed => Condition::BadRequest.into(),
            })?;
            payloads.truncate(2);
            let has_more = payloads.len() > 1;
            items.push(NewItem { id: id.to_owned(), payload: payloads.drain(..).next(), has_more });
        }
        Ok(items)
    }

    /// Gives the items their places, and takes away what they replace, what they push out and what is too old. Gives what
    /// is published, and the ids of what was pushed out.
    async fn place_items(
        &self,
        loaded: &mut Loaded,
        items: &mut [NewItem],
        publisher: Jid,
        change: &mut Change,
    ) -> Result<(Vec<(String, Item)>, Vec<String>), Refusal> {
        let Loaded { id: node_id, node, .. } = loaded;
        let capacity = node.config.capacity(&self.config.limits) as usize;
        if node.config.persist && items.len() > capacity {
            return Err(Problem::MaxItemsExceeded.into());
        }
        let mut next = node.next;
        let mut published = Vec::with_capacity(items.len());
        let mut replaced = Vec::new();
        for item in items {
            let before =
                if node.config.persist && !item.id.is_empty() { self.item(node_id, &item.id).await? } else { None };
            replaced.extend(before.map(|item| item.number));
            let id = if item.id.is_empty() { self.new_item_id(node_id, node, next).await? } else { item.id.clone() };
            let payload = item.payload.as_ref().map(|payload| payload.xml.clone()).unwrap_or_default();
            published.push((id, Item { number: next, published: self.now, publisher: publisher.clone(), payload }));
            next += 1;
        }
        if !node.config.persist {
            return Ok((published, Vec::new()));
        }
        let mut left = (node.items as usize).saturating_sub(replaced.len()) + published.len();
        let (cleared, pushed_out) = self.cleared(node_id, node, &replaced, &mut left, capacity).await?;
        for number in replaced {
            change.delete(self.keys.place(node_id, number));
        }
        for Cleared { number, item } in cleared {
            change.delete(self.keys.place(node_id, number));
            change.delete(self.keys.item(node_id, &item));
        }
        for (id, item) in &published {
            let place = Place { published: item.published, item: id.clone() };
            change.put(self.keys.place(node_id, item.number), place.encode());
            change.put(self.keys.item(node_id, id), item.encode());
            node.last.clone_from(id);
        }
        (node.next, node.items) = (next, u32::try_from(left).unwrap_or(u32::MAX));
        Ok((published, pushed_out))
    }

    /// What goes when `left` items would be there: what is too old, and from the oldest on what is beyond the capacity.
    async fn cleared(
        &self,
        node_id: &str,
        node: &mut NodeRecord,
        replaced: &[u64],
        left: &mut usize,
        capacity: usize,
    ) -> Result<(Vec<Cleared>, Vec<String>), Refusal> {
        let (mut cleared, mut pushed_out) = (Vec::new(), Vec::new());
        let surplus = left.saturating_sub(capacity);
        if surplus == 0 && node.config.item_expire.is_none() {
            return Ok((cleared, pushed_out));
        }
        let limit = surplus + replaced.len() + EXPIRED_PER_PUBLISH;
        for (number, place) in self.oldest_places(node_id, node.oldest, limit).await? {
            if replaced.contains(&number) {
                continue;
            }
            let has_expired = node.config.has_expired(place.published, self.now);
            if !has_expired && *left <= capacity {
                node.oldest = number;
                break;
            }
            if !has_expired && node.config.when_full == WhenFull::Reject {
                return Err(Problem::NodeFull.into());
            }
            if !has_expired && node.config.when_full == WhenFull::RetractOldest {
                pushed_out.push(place.item.clone());
            }
            *left -= 1;
            // All below is cleared, too, or replaced.
            node.oldest = number + 1;
            cleared.push(Cleared { number, item: place.item });
        }
        Ok((cleared, pushed_out))
    }

    /// An id that the node does not have.
    async fn new_item_id(&self, node_id: &str, node: &NodeRecord, number: u64) -> Result<String, StoreError> {
        let mut attempt = 0_u64;
        loop {
            let seed = format!("{}\0{node_id}\0{}\0{number}\0{}\0{attempt}", self.host.jid(), node.created, self.now);
            let id = format!("{:032x}", xxh3_128(seed.as_bytes()));
            if !node.config.persist || self.get(&self.keys.item(node_id, &id)).await?.is_none() {
                return Ok(id);
            }
            attempt += 1;
        }
    }

    fn tell_published(
        &self,
        loaded: &Loaded,
        published: &[(String, Item)],
        removed: &[String],
        reached: Option<(notify::Recipients, Option<notify::Audience>)>,
        out: &mut Outcome,
    ) {
        let Some(reached) = reached else { return };
        let config = &loaded.node.config;
        let retracts = !removed.is_empty() && config.notify_retract;
        let again = retracts.then(|| reached.clone());
        let items = published.iter().map(|(id, item)| (id.as_str(), item));
        let payload = notify::items_event(&loaded.id, config, items, None);
        out.notifications.push(self.notification(&loaded.node, EventKind::Items, payload, reached));
        if let Some(again) = again {
            let payload = notify::retract_event(&loaded.id, removed.iter().map(String::as_str));
            out.notifications.push(self.notification(&loaded.node, EventKind::Retract, payload, again));
        }
    }
}

/// Whether the items are as the node wants them (§4.3, §7.1.3).
fn check_items(items: &[NewItem], config: &NodeConfig) -> Result<(), Refusal> {
    let is_event_only = !config.persist && !config.deliver_payloads;
    match items.is_empty() {
        true if is_event_only => return Ok(()),
        true => return Err(Problem::ItemRequired.into()),
        false if is_event_only => return Err(Problem::ItemForbidden.into()),
        false => {}
    }
    for item in items {
        if item.has_more {
            return Err(Problem::InvalidPayload.into());
        }
        match &item.payload {
            None if config.deliver_payloads => return Err(Problem::PayloadRequired.into()),
            None => {}
            Some(payload) if !config.payload_ns.is_empty() && payload.ns != config.payload_ns => {
                return Err(Problem::InvalidPayload.into());
            }
            Some(payload) if payload.xml.len() > config.payload_bytes_max as usize => {
                return Err(Problem::PayloadTooBig.into());
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The children of an element, all of which must have that name.
fn children<'n>(element: &'n Node, name: &str) -> Result<Vec<&'n Node>, Refusal> {
    let fits = |child: &&Node| child.name == name && child.ns == element.ns;
    if !element.children.iter().all(|child| fits(&child)) {
        return Err(Condition::BadRequest.into());
    }
    Ok(element.children.iter().collect())
}

/// The answer to a publication, which names what was published (§7.1.2).
fn written(node: &str, published: &[(String, Item)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(192);
    super::begin(&mut out, ns::PUBSUB);
    out.extend_from_slice(b"<publish");
    write::attr(&mut out, "node", node);
    out.push(b'>');
    for (id, _) in published {
        out.extend_from_slice(b"<item");
        write::attr(&mut out, "id", id);
        out.extend_from_slice(b"/>");
    }
    out.extend_from_slice(b"</publish></pubsub>");
    out
}
