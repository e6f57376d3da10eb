//! Creating, configuring and deleting nodes (XEP-0060 v1.30.0 §8.1–8.4).

use plaza_core::forms::{FormError, FormKind};
use plaza_core::jid::Jid;
use plaza_core::ns;
use plaza_core::stanza::Condition;
use plaza_core::xml::read::Node;
use plaza_core::xml::write;
use xxhash_rust::xxh3::xxh3_128;

use super::call::{ATTEMPTS_MAX, Call, Change, Loaded, Outcome, node_id};
use super::error::{Problem, Refusal};
use super::keys::rest_jid;
use super::notify::{self, EventKind, RECIPIENTS_PAGE, Recipients};
use super::options::{NodeConfig, read_config};
use super::pending::is_command;
use super::record::{Affiliation, NodeRecord};
use super::turns::Turn;
use super::{Host, begin};
use crate::store::{Store, StoreError, Table};

impl<S: Store> Call<'_, S> {
    /// Creates a node (§8.1), configured if it is to be (§8.1.3); one without a name gets one (instant node).
    pub(super) async fn create(&self, create: &Node, configure: Option<&Node>) -> Result<Vec<u8>, Refusal> {
        self.may_create()?;
        if configure.is_some_and(|configure| configure.attr("node").is_some()) {
            return Err(Condition::BadRequest.into());
        }
        let limits = &self.config.limits;
        let defaults = NodeConfig::default_at(self.host, limits);
        let mut config = defaults.clone();
        if let Some(values) = configure.map(|configure| read_config(configure, limits)).transpose()?.flatten() {
            config.apply(&values, &defaults);
        }
        let named = create.attr("node").filter(|node| !node.is_empty());
        for attempt in 0..ATTEMPTS_MAX {
            let id = named.map_or_else(|| self.instant_id(attempt), str::to_owned);
            let _turn = self.turn(&id).await;
            if self.load(&id).await?.is_some() {
                match named {
                    Some(_) => return Err(Condition::Conflict.into()),
                    None => continue,
                }
            }
            let mut loaded = self.new_node(&id, config.clone())?;
            let mut change = self.change(&loaded);
            let _creation = self.begin_creation(&mut change, &loaded).await?;
            self.put_node(&mut change, &id, &mut loaded.node);
            if !self.commit(change).await? {
                continue;
            }
            let mut out = Vec::new();
            begin(&mut out, ns::PUBSUB);
            out.extend_from_slice(b"<create");
            write::attr(&mut out, "node", &id);
            out.extend_from_slice(b"/></pubsub>");
            return Ok(out);
        }
        Err(StoreError::Busy.into())
    }

    /// Who may create nodes: the owner at an account, the accounts of our domains at a service (§8.1.1).
    fn may_create(&self) -> Result<(), Refusal> {
        let may = match self.host {
            Host::Account(_) => self.is_own_account(),
            Host::Service(_) => {
                let domain = self.caller.domain();
                self.caller.local().is_some() && self.config.domains.iter().any(|ours| ours.as_str() == domain)
            }
        };
        if may { Ok(()) } else { Err(self.refuse(None, Condition::Forbidden)) }
    }

    /// A name for a node without one. It need not be hard to guess: the access model guards the node.
    fn instant_id(&self, attempt: usize) -> String {
        let seed = format!("{}\0{}\0{}\0{attempt}", self.host.jid(), self.caller, self.now);
        format!("{:032x}", xxh3_128(seed.as_bytes()))
    }

    /// A node of the caller's that does not exist yet.
    pub(super) fn new_node(&self, id: &str, config: NodeConfig) -> Result<Loaded, Refusal> {
        if id.len() > self.config.limits.node_bytes_max as usize || is_command(id) {
            return Err(Condition::NotAcceptable.into());
        }
        let mut node = NodeRecord::new(config, self.caller.bare().to_jid(), self.now);
        // Who owns an account owns its nodes, without being told so at each.
        if !self.is_account() {
            node.count_affiliation(None, Some(Affiliation::Owner));
        }
        Ok(Loaded { id: id.to_owned(), before: None, node })
    }

    /// Puts what comes with a new node into a change. The turn is kept until the commit: nodes created at once all change
    /// the count of nodes.
    pub(super) async fn begin_creation(&self, change: &mut Change, loaded: &Loaded) -> Result<Turn, Refusal> {
        let turn = self.config.turns.take(&self.keys.total()).await;
        let creator = loaded.node.creator.as_jid();
        self.count_node(change, creator, 1).await?;
        if !self.is_account() {
            self.set_affiliation(change, &loaded.id, creator, Some(Affiliation::Owner));
        }
        Ok(turn)
    }

    /// Puts what an affiliation becomes into a change; the node's counts are the caller's to change.
    pub(super) fn set_affiliation(
        &self,
        change: &mut Change,
        node: &str,
        entity: plaza_core::jid::JidRef<'_>,
        after: Option<Affiliation>,
    ) {
        let (key, index) = (self.keys.affiliation(node, entity), self.keys.affiliation_of(entity, node));
        match after {
            Some(after) => {
                change.put(key, after.encode());
                change.put(index, after.encode());
            }
            None => {
                change.delete(key);
                change.delete(index);
            }
        }
    }

    /// The configuration form (§8.2.1).
    pub(super) async fn get_config(&self, configure: &Node) -> Result<Vec<u8>, Refusal> {
        let id = node_id(configure)?;
        let loaded = self.owned(id).await?;
        let mut out = Vec::new();
        begin(&mut out, ns::PUBSUB_OWNER);
        out.extend_from_slice(b"<configure");
        write::attr(&mut out, "node", id);
        out.push(b'>');
        let form = NodeConfig::form(ns::PUBSUB_NODE_CONFIG, &self.config.limits);
        form.write(&mut out, FormKind::Form, &loaded.node.config.values());
        out.extend_from_slice(b"</configure></pubsub>");
        Ok(out)
    }

    /// Configures a node (§8.2.4). Items that it no longer holds are removed.
    pub(super) async fn set_config(&self, configure: &Node, out: &mut Outcome) -> Result<Vec<u8>, Refusal> {
        let id = node_id(configure)?;
        let limits = &self.config.limits;
        let _turn = self.turn(id).await;
        for _ in 0..ATTEMPTS_MAX {
            // First of all, whoever asks: what is submitted is nobody else's concern.
            let mut loaded = self.owned(id).await?;
            if configure.child("x", ns::DATA_FORMS).is_none() {
                return Err(FormError::NotASubmission.into());
            }
            let Some(values) = read_config(configure, limits)? else { return Ok(Vec::new()) };
            let mut change = self.change(&loaded);
            loaded.node.config.apply(&values, &NodeConfig::default_at(self.host, limits));
            if loaded.node.config.persist {
                let capacity = loaded.node.config.capacity(limits);
                self.trim_items(&mut change, &mut loaded, capacity).await?;
            } else {
                self.clear_items(&mut change, &mut loaded);
            }
            let reached = if loaded.node.config.notify_config { self.reached(&loaded).await? } else { None };
            self.put_node(&mut change, id, &mut loaded.node);
            if !self.commit(change).await? {
                continue;
            }
            if let Some(reached) = reached {
                let payload = self.config_event(&loaded);
                out.notifications.push(self.notification(&loaded.node, EventKind::Configuration, payload, reached));
            }
            return Ok(Vec::new());
        }
        Err(StoreError::Busy.into())
    }

    /// The event of a configuration (§8.2.5.3): with the configuration, if the node delivers payloads.
    fn config_event(&self, loaded: &Loaded) -> Vec<u8> {
        notify::event(|out| {
            out.extend_from_slice(b"<configuration");
            write::attr(out, "node", &loaded.id);
            if !loaded.node.config.deliver_payloads {
                return out.extend_from_slice(b"/>");
            }
            out.push(b'>');
            let form = NodeConfig::form(ns::PUBSUB_NODE_CONFIG, &self.config.limits);
            form.write(out, FormKind::Result, &loaded.node.config.values());
            out.extend_from_slice(b"</configuration>");
        })
    }

    /// How a node is configured unless somebody says otherwise (§8.3).
    pub(super) fn default_config(&self, default: &Node) -> Result<Vec<u8>, Refusal> {
        self.may_know(None)?;
        if !matches!(default.attr("type"), None | Some("leaf")) {
            return Err(Problem::Unsupported("collections").into());
        }
        let limits = &self.config.limits;
        let mut out = Vec::new();
        begin(&mut out, ns::PUBSUB_OWNER);
        out.extend_from_slice(b"<default>");
        let values = NodeConfig::default_at(self.host, limits).values();
        NodeConfig::form(ns::PUBSUB_NODE_CONFIG, limits).write(&mut out, FormKind::Form, &values);
        out.extend_from_slice(b"</default></pubsub>");
        Ok(out)
    }

    /// Deletes a node and all it has (§8.4). Where it moved, if it did, is told along; later requests are not redirected.
    pub(super) async fn delete(&self, delete: &Node, out: &mut Outcome) -> Result<Vec<u8>, Refusal> {
        let id = node_id(delete)?;
        let redirect = delete.child("redirect", &delete.ns).map(|redirect| redirect.attr("uri").unwrap_or_default());
        if redirect.is_some_and(|uri| uri.is_empty() || uri.len() > self.config.limits.text_bytes_max as usize) {
            return Err(Condition::BadRequest.into());
        }
        let _turn = self.turn(id).await;
        for _ in 0..ATTEMPTS_MAX {
            let loaded = self.owned(id).await?;
            // What tells of the end must be known before it.
            let subscribers = self.all_subscribers(id).await?;
            let reached = if loaded.node.config.notify_delete { self.reached(&loaded).await? } else { None };
            if !self.remove_node(&loaded, &subscribers).await? {
                continue;
            }
            if let Some((_, audience)) = reached {
                let payload = delete_event(id, redirect);
                let reached = (Recipients::these(subscribers), audience);
                out.notifications.push(self.notification(&loaded.node, EventKind::Delete, payload, reached));
            }
            return Ok(Vec::new());
        }
        Err(StoreError::Busy.into())
    }

    /// Removes a node with all it has; whether it was committed. `subscribers`: all of them.
    pub(super) async fn remove_node(&self, loaded: &Loaded, subscribers: &[Jid]) -> Result<bool, Refusal> {
        let id = &*loaded.id;
        let mut change = self.change(loaded);
        change.delete(self.keys.node(id));
        for prefix in
            [self.keys.subscriptions(id), self.keys.affiliations(id), self.keys.places(id), self.keys.items(id)]
        {
            change.delete_all(prefix);
        }
        for (entity, _) in self.affiliations(id).await? {
            change.delete(self.keys.affiliation_of(entity.as_jid(), id));
        }
        let creation = self.config.turns.take(&self.keys.total()).await;
        self.count_node(&mut change, loaded.node.creator.as_jid(), -1).await?;
        if !self.commit(change).await? {
            return Ok(false);
        }
        drop(creation);
        self.forget_subscriptions(id, subscribers).await;
        Ok(true)
    }

    /// Every address with a subscription, in force or waiting (§8.4.2: pending ones hear of the end, too).
    pub(super) async fn all_subscribers(&self, node: &str) -> Result<Vec<Jid>, StoreError> {
        let prefix = self.keys.subscriptions(node);
        let mut subscribers = Vec::new();
        let mut after = prefix.clone();
        loop {
            let page = self.store.scan(Table::PubSub, &prefix, Some(&after), RECIPIENTS_PAGE).await?;
            let is_last = page.len() < RECIPIENTS_PAGE;
            for (key, _) in page {
                subscribers.push(rest_jid(&key, &prefix)?);
                after = key;
            }
            if is_last {
                return Ok(subscribers);
            }
        }
    }

    /// Removes what said where to look for subscriptions that are gone. If that fails, it says so in vain until a
    /// subscription of that address to a node of that name comes or goes.
    async fn forget_subscriptions(&self, node: &str, subscribers: &[Jid]) {
        for page in subscribers.chunks(RECIPIENTS_PAGE) {
            let mut change = Change::default();
            for jid in page {
                change.delete(self.keys.subscription_of(jid.as_jid(), node));
            }
            if let Err(refusal) = self.commit(change).await {
                tracing::warn!(error = %refusal.error, "an index of subscriptions was not cleared");
                return;
            }
        }
    }
}

/// The event of a node's end (§8.4.2).
fn delete_event(node: &str, redirect: Option<&str>) -> Vec<u8> {
    notify::event(|out| {
        out.extend_from_slice(b"<delete");
        write::attr(out, "node", node);
        let Some(uri) = redirect else { return out.extend_from_slice(b"/>") };
        out.extend_from_slice(b"><redirect");
        write::attr(out, "uri", uri);
        out.extend_from_slice(b"/></delete>");
    })
}
