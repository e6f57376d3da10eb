//! Subscribing, unsubscribing, subscription options, and what an entity has at a service (XEP-0060 v1.30.0 §5.6, §5.7,
//! §6.1–6.4).
//!
//! An address subscribes once to a node, so there are no subscription ids: one that is sent is ignored (§6.2.3.5).

use plaza_core::forms::{Field, Form, FormKind, Kind, Values};
use plaza_core::jid::{Jid, JidRef};
use plaza_core::ns;
use plaza_core::rsm;
use plaza_core::stanza::Condition;
use plaza_core::xml::read::Node;
use plaza_core::xml::write;
use xxhash_rust::xxh3::xxh3_128;

use super::begin;
use super::call::{ATTEMPTS_MAX, Call, Loaded, Outcome, node_id};
use super::error::{Problem, Refusal};
use super::keys::{rest, rest_subscription};
use super::notify::{ApprovalRequest, write_subscription};
use super::options::{AccessModel, SendLast, SubscriptionOptions};
use super::record::{Affiliation, Subscription};
use crate::store::{Store, StoreError, Table};

impl<S: Store> Call<'_, S> {
    /// Subscribes an address of the caller's (§6.1), with options if it brings some (§6.3.7).
    pub(super) async fn subscribe(
        &self,
        subscribe: &Node,
        options: Option<&Node>,
        out: &mut Outcome,
    ) -> Result<Vec<u8>, Refusal> {
        let id = node_id(subscribe)?;
        let jid = self.own_jid(subscribe, Problem::InvalidJid)?;
        if options.is_some_and(|options| options.attr("node").or(options.attr("jid")).is_some()) {
            return Err(Condition::BadRequest.into());
        }
        let _turn = self.turn(id).await;
        for _ in 0..ATTEMPTS_MAX {
            let (mut loaded, affiliation) = self.existing(id).await?;
            if !loaded.node.config.subscribe {
                return Err(self.refuse(affiliation, Problem::Unsupported("subscribe")));
            }
            if let Err(problem) = self.check_access(&loaded, affiliation).await? {
                return Err(self.refuse(affiliation, problem));
            }
            let (current, stored) = self.subscription(id, jid.as_jid()).await?;
            if current.is_some_and(|current| current.pending) {
                return Err(Problem::PendingSubscription.into());
            }
            let waits = loaded.node.config.access == AccessModel::Authorize && affiliation.is_none();
            let new = || Subscription { pending: waits, options: SubscriptionOptions::DEFAULT, since: self.now };
            let mut subscription = current.unwrap_or_else(new);
            if let Some(options) = options {
                subscription.options.apply(options, self.now, &self.config.limits)?;
            }
            let answer = subscribed(id, jid.as_jid(), &subscription, options.is_some());
            if current == Some(subscription) {
                return Ok(answer);
            }
            if current.is_none() {
                self.check_room(&loaded, jid.as_jid(), waits).await?;
            }
            let sends_last = current.is_none() && !waits && loaded.node.config.send_last != SendLast::Never;
            let last = if sends_last { self.last_notification(&loaded, jid.clone()).await? } else { None };
            let requests = if waits { self.approval_requests(&loaded, jid.as_jid()).await? } else { Vec::new() };
            if !self.put_subscription(&mut loaded, jid.as_jid(), stored, Some(subscription)).await? {
                continue;
            }
            out.notifications.extend(last);
            out.requests.extend(requests);
            return Ok(answer);
        }
        Err(StoreError::Busy.into())
    }

    /// Ends a subscription, or the request for one (§6.2).
    pub(super) async fn unsubscribe(&self, unsubscribe: &Node) -> Result<Vec<u8>, Refusal> {
        let id = node_id(unsubscribe)?;
        let jid = self.own_jid(unsubscribe, Condition::Forbidden)?;
        let _turn = self.turn(id).await;
        for _ in 0..ATTEMPTS_MAX {
            let (mut loaded, affiliation) = self.existing(id).await?;
            let (current, stored) = self.subscription(id, jid.as_jid()).await?;
            if current.is_none() {
                return Err(self.refuse(affiliation, Problem::NoSuchSubscription));
            }
            if !self.put_subscription(&mut loaded, jid.as_jid(), stored, None).await? {
                continue;
            }
            let mut out = Vec::new();
            begin(&mut out, ns::PUBSUB);
            write_subscription(&mut out, Some(id), jid.as_jid(), "none", None);
            out.extend_from_slice(b"</pubsub>");
            return Ok(out);
        }
        Err(StoreError::Busy.into())
    }

    /// The options of a subscription (§6.3.2).
    pub(super) async fn get_options(&self, options: &Node) -> Result<Vec<u8>, Refusal> {
        let jid = self.own_jid(options, Condition::Forbidden)?;
        let id = node_id(options)?;
        let (_, affiliation) = self.existing(id).await?;
        let (current, _) = self.subscription(id, jid.as_jid()).await?;
        let current = current.ok_or_else(|| self.refuse(affiliation, Problem::NoSuchSubscriber))?;
        let mut out = Vec::new();
        begin(&mut out, ns::PUBSUB);
        out.extend_from_slice(b"<options");
        write::attr(&mut out, "node", id);
        write::attr(&mut out, "jid", jid.as_str());
        out.push(b'>');
        SubscriptionOptions::form().write(&mut out, FormKind::Form, &current.options.values());
        out.extend_from_slice(b"</options></pubsub>");
        Ok(out)
    }

    /// Changes the options of a subscription (§6.3.5).
    pub(super) async fn set_options(&self, options: &Node) -> Result<Vec<u8>, Refusal> {
        let jid = self.own_jid(options, Condition::Forbidden)?;
        let id = node_id(options)?;
        let _turn = self.turn(id).await;
        for _ in 0..ATTEMPTS_MAX {
            let (mut loaded, affiliation) = self.existing(id).await?;
            let (current, stored) = self.subscription(id, jid.as_jid()).await?;
            let mut subscription = current.ok_or_else(|| self.refuse(affiliation, Problem::NoSuchSubscriber))?;
            subscription.options.apply(options, self.now, &self.config.limits)?;
            if current == Some(subscription)
                || self.put_subscription(&mut loaded, jid.as_jid(), stored, Some(subscription)).await?
            {
                return Ok(Vec::new());
            }
        }
        Err(StoreError::Busy.into())
    }

    /// The options that a subscription has unless somebody says otherwise (§6.4).
    pub(super) async fn default_options(&self, default: &Node) -> Result<Vec<u8>, Refusal> {
        let node = default.attr("node").filter(|node| !node.is_empty());
        match node {
            Some(node) => {
                let (_, affiliation) = self.existing(node).await?;
                self.may_know(affiliation)?;
            }
            None => self.may_know(None)?,
        }
        let mut out = Vec::new();
        begin(&mut out, ns::PUBSUB);
        out.extend_from_slice(b"<default");
        if let Some(node) = node {
            write::attr(&mut out, "node", node);
        }
        out.push(b'>');
        SubscriptionOptions::form().write(&mut out, FormKind::Result, &SubscriptionOptions::DEFAULT.values());
        out.extend_from_slice(b"</default></pubsub>");
        Ok(out)
    }

    /// What the caller is subscribed to here (§5.6). Their number was bounded when they were put.
    pub(super) async fn own_subscriptions(&self, asked: &Node) -> Result<Vec<u8>, Refusal> {
        let only = asked.attr("node");
        let prefix = self.keys.subscriptions_of(self.caller);
        let mut out = Vec::new();
        begin(&mut out, ns::PUBSUB);
        begin_list(&mut out, "subscriptions", only);
        for (key, _) in self.store.scan(Table::PubSub, &prefix, None, usize::MAX).await? {
            let (node, jid) = rest_subscription(&key, &prefix)?;
            if only.is_some_and(|only| only != node) {
                continue;
            }
            // The subscription itself decides: this only says where to look.
            if let (Some(subscription), _) = self.subscription(&node, jid.as_jid()).await? {
                let expiry = subscription.options.expires;
                write_subscription(&mut out, Some(&node), jid.as_jid(), subscription.state(), expiry);
            }
        }
        out.extend_from_slice(b"</subscriptions></pubsub>");
        Ok(out)
    }

    /// What the caller is affiliated with here (§5.7), a page at a time.
    pub(super) async fn own_affiliations(&self, asked: &Node, page: &rsm::Request) -> Result<Vec<u8>, Refusal> {
        let after = page.forwards()?;
        let only = asked.attr("node").filter(|node| !node.is_empty());
        let len = page.page_len(self.config.limits.list_max as usize);
        let mut found = Vec::new();
        if let Some(only) = only {
            if self.load(only).await?.is_some()
                && let Some(affiliation) = self.affiliation(only, self.caller).await?
            {
                found.push((only.to_owned(), affiliation));
            }
        } else {
            found = self.affiliations_of_caller(after, len + 1).await?;
        }
        let has_more = found.len() > len;
        found.truncate(len);
        let mut out = Vec::new();
        begin(&mut out, ns::PUBSUB);
        begin_list(&mut out, "affiliations", None);
        for (node, affiliation) in &found {
            out.extend_from_slice(b"<affiliation");
            write::attr(&mut out, "node", node);
            write::attr(&mut out, "affiliation", affiliation.name());
            out.extend_from_slice(b"/>");
        }
        out.extend_from_slice(b"</affiliations>");
        if has_more || *page != rsm::Request::ALL {
            let ends = found.first().zip(found.last()).map(|((first, _), (last, _))| (first.as_str(), last.as_str()));
            rsm::Page { ends, index: None, count: None }.write(&mut out);
        }
        out.extend_from_slice(b"</pubsub>");
        Ok(out)
    }

    async fn affiliations_of_caller(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Affiliation)>, Refusal> {
        if self.is_own_account() {
            let after = after.map(|after| self.keys.node(after));
            let nodes = self.store.scan(Table::PubSub, &self.keys.nodes(), after.as_deref(), limit).await?;
            let read = |(key, _): &(Vec<u8>, Vec<u8>)| Ok((self.keys.node_id(key)?.to_owned(), Affiliation::Owner));
            return nodes.iter().map(read).collect();
        }
        let prefix = self.keys.affiliations_of(self.caller);
        let after = after.map(|after| self.keys.affiliation_of(self.caller, after));
        let pairs = self.store.scan(Table::PubSub, &prefix, after.as_deref(), limit).await?;
        pairs.iter().map(|(key, record)| Ok((rest(key, &prefix)?.to_owned(), Affiliation::decode(record)?))).collect()
    }

    /// Stores what a subscription has become; whether it was committed.
    pub(super) async fn put_subscription(
        &self,
        loaded: &mut Loaded,
        jid: JidRef<'_>,
        before: Option<Subscription>,
        after: Option<Subscription>,
    ) -> Result<bool, Refusal> {
        let mut change = self.change(loaded);
        self.set_subscription(&mut change, loaded, jid, before, after);
        self.put_node(&mut change, &loaded.id, &mut loaded.node);
        self.commit(change).await
    }

    /// Puts what a subscription becomes into a change.
    pub(super) fn set_subscription(
        &self,
        change: &mut super::call::Change,
        loaded: &mut Loaded,
        jid: JidRef<'_>,
        before: Option<Subscription>,
        after: Option<Subscription>,
    ) {
        loaded.node.count_subscription(before.as_ref(), after.as_ref());
        let (key, index) = (self.keys.subscription(&loaded.id, jid), self.keys.subscription_of(jid, &loaded.id));
        match after {
            Some(after) => {
                change.put(key, after.encode());
                change.put(index, Vec::new());
            }
            None => {
                change.delete(key);
                change.delete(index);
            }
        }
    }

    /// Whether there is room for one more subscription, at the node and of the entity (§6.1.3.9).
    async fn check_room(&self, loaded: &Loaded, jid: JidRef<'_>, waits: bool) -> Result<(), Refusal> {
        let limits = &self.config.limits;
        let (count, max) = if waits {
            (loaded.node.pending, limits.pending_max)
        } else {
            (loaded.node.subscribers, limits.subscribers_max)
        };
        if count >= max {
            return Err(Condition::ResourceConstraint.into());
        }
        let max = limits.subscriptions_max as usize;
        let prefix = self.keys.subscriptions_of(jid);
        if self.store.scan(Table::PubSub, &prefix, None, max).await?.len() >= max {
            return Err(Problem::TooManySubscriptions.into());
        }
        Ok(())
    }

    /// Requests to all owners to decide on a subscription (§8.6, §12.13).
    pub(super) async fn approval_requests(
        &self,
        loaded: &Loaded,
        subscriber: JidRef<'_>,
    ) -> Result<Vec<ApprovalRequest>, StoreError> {
        let owners = match self.host {
            super::Host::Account(owner) => vec![owner.clone()],
            super::Host::Service(_) => {
                let all = self.affiliations(&loaded.id).await?;
                all.into_iter().filter(|(_, one)| *one == Affiliation::Owner).map(|(jid, _)| jid).collect()
            }
        };
        Ok(self.requests_to(owners, loaded, subscriber))
    }

    /// Requests to these owners to decide on a subscription.
    pub(super) fn requests_to(
        &self,
        owners: Vec<Jid>,
        loaded: &Loaded,
        subscriber: JidRef<'_>,
    ) -> Vec<ApprovalRequest> {
        let seed = format!("{}\0{}\0{subscriber}\0{}", self.host.jid(), loaded.id, self.now);
        let id = format!("approve-{:016x}", xxh3_128(seed.as_bytes()) as u64);
        let values = Values::new()
            .with("pubsub#node", loaded.id.as_str())
            .with("pubsub#subscriber_jid", subscriber.to_jid())
            .with("pubsub#allow", false);
        let mut payload = Vec::new();
        approval_form().write(&mut payload, FormKind::Form, &values);
        let from = self.host.jid();
        let request = |to| ApprovalRequest { from: from.clone(), to, id: id.clone(), payload: payload.clone() };
        owners.into_iter().map(request).collect()
    }

    /// The address in a request, which must be the caller's, with or without a resource (§6.1.3.1).
    fn own_jid(&self, element: &Node, foreign: impl Into<Refusal>) -> Result<Jid, Refusal> {
        let jid = element.attr("jid").filter(|jid| !jid.is_empty()).ok_or(Problem::JidRequired)?;
        let jid = Jid::parse(jid).map_err(|_| Problem::InvalidJid)?;
        if jid.as_jid().bare() == self.caller.bare() { Ok(jid) } else { Err(foreign.into()) }
    }

    /// Whether the caller may know that there is a service.
    pub(super) fn may_know(&self, affiliation: Option<Affiliation>) -> Result<(), Refusal> {
        let unavailable = Refusal::from(Condition::ServiceUnavailable);
        // Whoever would be told so in any case is told so; what else would be said does not matter.
        if self.refuse(affiliation, Condition::Forbidden) == unavailable { Err(unavailable) } else { Ok(()) }
    }
}

/// The form that an owner decides on a subscription with (§8.6, §17.4.1).
pub(super) fn approval_form() -> Form<'static> {
    Form {
        title: "Subscription request",
        instructions: "Allow or deny the subscription, and submit the form.",
        ..Form::new(
            ns::PUBSUB_SUBSCRIBE_AUTHORIZATION,
            vec![
                Field::new("pubsub#node", "The node", Kind::TextSingle).required(),
                Field::new("pubsub#subscriber_jid", "The subscriber's address", Kind::JidSingle).required(),
                Field::new("pubsub#allow", "Whether to allow the subscription", Kind::Boolean).required(),
            ],
        )
    }
}

/// The answer to a subscription (§6.1.2, §6.1.4), with its options if it brought some.
fn subscribed(node: &str, jid: JidRef<'_>, subscription: &Subscription, with_options: bool) -> Vec<u8> {
    let mut out = Vec::new();
    begin(&mut out, ns::PUBSUB);
    write_subscription(&mut out, Some(node), jid, subscription.state(), None);
    if with_options {
        out.extend_from_slice(b"<options>");
        SubscriptionOptions::form().write(&mut out, FormKind::Result, &subscription.options.values());
        out.extend_from_slice(b"</options>");
    }
    out.extend_from_slice(b"</pubsub>");
    out
}

/// The start tag of a list.
fn begin_list(out: &mut Vec<u8>, name: &str, node: Option<&str>) {
    out.push(b'<');
    out.extend_from_slice(name.as_bytes());
    if let Some(node) = node {
        write::attr(out, "node", node);
    }
    out.push(b'>');
}
