//! What owners do about other entities: affiliations, subscriptions, and decisions on those that wait (XEP-0060 v1.30.0
//! §8.6, §8.8, §8.9).

use plaza_core::forms::{FormError, Submission};
use plaza_core::jid::{Jid, JidRef};
use plaza_core::ns;
use plaza_core::rsm;
use plaza_core::stanza::{Condition, ErrorType, StanzaError};
use plaza_core::xml::read::Node;
use plaza_core::xml::write;

use super::begin;
use super::call::{ATTEMPTS_MAX, Call, Change, Loaded, Outcome, node_id};
use super::error::{Problem, Refusal};
use super::keys::{rest_jid, rest_subscription};
use super::notify::write_subscription;
use super::options::{SendLast, SubscriptionOptions, form_limits};
use super::record::{Affiliation, Subscription};
use super::subscribe::approval_form;
use crate::store::{Store, StoreError, Table};

/// An entry of a list that is to be changed: whom it is about, and what it shall be there.
struct Entry<T> {
    jid: Jid,
    wanted: T,
}

/// What a subscription shall be (§4.2).
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    None,
    Pending,
    Unconfigured,
    Subscribed,
}

impl<S: Store> Call<'_, S> {
    /// All who are affiliated with a node (§8.9.1).
    pub(super) async fn get_affiliations(&self, asked: &Node, page: &rsm::Request) -> Result<Vec<u8>, Refusal> {
        let id = node_id(asked)?;
        self.owned(id).await?;
        let mut all = self.affiliations(id).await?;
        if self.is_account() {
            all.insert(0, (self.host.jid().clone(), Affiliation::Owner));
        }
        let find = |jid: &str| all.iter().position(|(known, _)| known.as_str() == jid);
        let range = page.page(all.len(), find, self.config.limits.list_max as usize)?;
        let found = all.get(range.clone()).unwrap_or_default();
        let mut out = Vec::new();
        begin(&mut out, ns::PUBSUB_OWNER);
        begin_list(&mut out, "affiliations", id);
        for (jid, affiliation) in found {
            write_affiliation(&mut out, jid, Some(*affiliation));
        }
        out.extend_from_slice(b"</affiliations>");
        if found.len() < all.len() || *page != rsm::Request::ALL {
            let ends = found.first().zip(found.last()).map(|((first, _), (last, _))| (first.as_str(), last.as_str()));
            rsm::Page { ends, index: Some(range.start), count: Some(all.len()) }.write(&mut out);
        }
        out.extend_from_slice(b"</pubsub>");
        Ok(out)
    }

    /// Changes affiliations (§8.9.2): those that can be, the others are named in the error.
    pub(super) async fn set_affiliations(&self, asked: &Node, out: &mut Outcome) -> Result<Vec<u8>, Refusal> {
        let id = node_id(asked)?;
        let _turn = self.turn(id).await;
        for _ in 0..ATTEMPTS_MAX {
            let mut loaded = self.owned(id).await?;
            let mut entries = self.entries(asked, "affiliation", |word| match word {
                "none" => Some(None),
                word => Affiliation::from_name(word).map(Some),
            })?;
            for entry in &mut entries {
                entry.jid = entry.jid.bare();
            }
            check_distinct(&entries)?;
            // Owners come before they go: whoever hands a node over need not care for the order.
            entries.sort_by_key(|entry| entry.wanted != Some(Affiliation::Owner));
            let mut change = self.change(&loaded);
            let (mut failed, mut ended) = (Vec::new(), Vec::new());
            for Entry { jid, wanted } in &entries {
                let before = self.affiliation(id, jid.as_jid()).await?;
                if before == *wanted {
                    continue;
                }
                let is_last_owner = match self.is_account() {
                    true => jid == self.host.jid(),
                    false => before == Some(Affiliation::Owner) && loaded.node.owners <= 1,
                };
                let is_full = before.is_none() && loaded.node.affiliations >= self.config.limits.affiliations_max;
                if is_last_owner || is_full {
                    failed.push((jid.clone(), before));
                    continue;
                }
                loaded.node.count_affiliation(before, *wanted);
                self.set_affiliation(&mut change, id, jid.as_jid(), *wanted);
                if *wanted == Some(Affiliation::Outcast) {
                    self.end_subscriptions(&mut change, &mut loaded, jid.as_jid(), &mut ended).await?;
                }
            }
            self.put_node(&mut change, id, &mut loaded.node);
            if !self.commit(change).await? {
                continue;
            }
            for jid in ended {
                out.notifications.push(self.state_notification(&loaded, jid, "none"));
            }
            return not_changed(&failed, |out| {
                begin_list(out, "affiliations", id);
                failed.iter().for_each(|(jid, before)| write_affiliation(out, jid, *before));
                out.extend_from_slice(b"</affiliations>");
            });
        }
        Err(StoreError::Busy.into())
    }

    /// Ends all subscriptions of an entity to a node (§4.1: an outcast is subscribed to nothing).
    async fn end_subscriptions(
        &self,
        change: &mut Change,
        loaded: &mut Loaded,
        entity: JidRef<'_>,
        ended: &mut Vec<Jid>,
    ) -> Result<(), Refusal> {
        let prefix = self.keys.subscriptions_of(entity);
        for (key, _) in self.store.scan(Table::PubSub, &prefix, None, usize::MAX).await? {
            let (node, jid) = rest_subscription(&key, &prefix)?;
            if node != loaded.id {
                continue;
            }
            let (_, stored) = self.subscription(&node, jid.as_jid()).await?;
            if stored.is_some() {
                self.set_subscription(change, loaded, jid.as_jid(), stored, None);
                ended.push(jid);
            }
        }
        Ok(())
    }

    /// All subscriptions to a node, a page at a time (§8.8.1). Those whose lease is over are passed over.
    pub(super) async fn get_subscriptions(&self, asked: &Node, page: &rsm::Request) -> Result<Vec<u8>, Refusal> {
        let id = node_id(asked)?;
        let loaded = self.owned(id).await?;
        let prefix = self.keys.subscriptions(id);
        let after = page.forwards()?.map(|after| self.keys.subscription(id, JidRef::from_normal(after)));
        let len = page.page_len(self.config.limits.list_max as usize);
        let limit = len.saturating_add(1);
        let pairs = self.store.scan(Table::PubSub, &prefix, after.as_deref(), limit).await?;
        let is_cut = pairs.len() > len;
        let mut out = Vec::new();
        begin(&mut out, ns::PUBSUB_OWNER);
        begin_list(&mut out, "subscriptions", id);
        let mut ends: Option<(Jid, Jid)> = None;
        for (key, record) in pairs.iter().take(len) {
            let jid = rest_jid(key, &prefix)?;
            let subscription = Subscription::decode(record)?;
            if !subscription.has_expired(self.now) {
                let expiry = subscription.options.expires;
                write_subscription(&mut out, None, jid.as_jid(), subscription.state(), expiry);
            }
            ends = Some((ends.map_or_else(|| jid.clone(), |(first, _)| first), jid));
        }
        out.extend_from_slice(b"</subscriptions>");
        if is_cut || *page != rsm::Request::ALL {
            let count = (loaded.node.subscribers + loaded.node.pending) as usize;
            let ends = ends.as_ref().map(|(first, last)| (first.as_str(), last.as_str()));
            rsm::Page { ends, index: None, count: Some(count) }.write(&mut out);
        }
        out.extend_from_slice(b"</pubsub>");
        Ok(out)
    }

    /// Changes subscriptions (§8.8.2): those that can be, the others are named in the error.
    pub(super) async fn set_subscriptions(&self, asked: &Node, out: &mut Outcome) -> Result<Vec<u8>, Refusal> {
        let id = node_id(asked)?;
        let _turn = self.turn(id).await;
        for _ in 0..ATTEMPTS_MAX {
            let mut loaded = self.owned(id).await?;
            let entries = self.entries(asked, "subscription", |word| match word {
                "none" => Some(State::None),
                "pending" => Some(State::Pending),
                "unconfigured" => Some(State::Unconfigured),
                "subscribed" => Some(State::Subscribed),
                _ => None,
            })?;
            check_distinct(&entries)?;
            let mut change = self.change(&loaded);
            let (mut failed, mut changed) = (Vec::new(), Vec::new());
            for Entry { jid, wanted } in entries {
                let (current, stored) = self.subscription(id, jid.as_jid()).await?;
                let after = match (wanted, current) {
                    (State::None, None) => continue,
                    (State::Pending, Some(now)) if now.pending => continue,
                    (State::Subscribed, Some(now)) if !now.pending => continue,
                    (State::None, Some(_)) => None,
                    (State::Subscribed, current) if self.may_be_subscribed(&loaded, jid.as_jid()).await? => {
                        let options = current.map_or(SubscriptionOptions::DEFAULT, |current| current.options);
                        Some(Subscription { pending: false, options, since: self.now })
                    }
                    (State::Subscribed | State::Pending | State::Unconfigured, current) => {
                        failed.push((jid, current));
                        continue;
                    }
                };
                self.set_subscription(&mut change, &mut loaded, jid.as_jid(), stored, after);
                changed.push((jid, after));
            }
            self.put_node(&mut change, id, &mut loaded.node);
            if !self.commit(change).await? {
                continue;
            }
            for (jid, after) in changed {
                self.tell_settled(&loaded, jid, after.is_some(), out).await?;
            }
            return not_changed(&failed, |out| {
                begin_list(out, "subscriptions", id);
                for (jid, current) in &failed {
                    let state = current.as_ref().map_or("none", Subscription::state);
                    write_subscription(out, None, jid.as_jid(), state, None);
                }
                out.extend_from_slice(b"</subscriptions>");
            });
        }
        Err(StoreError::Busy.into())
    }

    /// Whether one more subscription may come into force: there is room, and its entity is no outcast.
    async fn may_be_subscribed(&self, loaded: &Loaded, jid: JidRef<'_>) -> Result<bool, StoreError> {
        let affiliation = self.affiliation(&loaded.id, jid).await?;
        let is_barred = matches!(affiliation, Some(Affiliation::Outcast | Affiliation::PublishOnly));
        Ok(!is_barred && loaded.node.subscribers < self.config.limits.subscribers_max)
    }

    /// Takes an owner's decision on a subscription that waits (§8.6). A form given up leaves it waiting.
    pub(super) async fn decide(&self, x: &Node, out: &mut Outcome) -> Result<(), Refusal> {
        let limits = &self.config.limits;
        let Submission::Submitted(submitted) = approval_form().read(x, &form_limits(limits))? else { return Ok(()) };
        let values = submitted.values;
        let missing = |var: &str| Refusal::from(FormError::Missing(var.to_owned()));
        let id = values.text("pubsub#node").ok_or_else(|| missing("pubsub#node"))?;
        let jid = values.jid("pubsub#subscriber_jid").ok_or_else(|| missing("pubsub#subscriber_jid"))?;
        let allow = values.boolean("pubsub#allow").ok_or_else(|| missing("pubsub#allow"))?;
        let _turn = self.turn(id).await;
        for _ in 0..ATTEMPTS_MAX {
            let mut loaded = self.owned(id).await?;
            let (current, stored) = self.subscription(id, jid.as_jid()).await?;
            // Another owner was faster, or the subscriber thought better of it.
            let Some(waiting) = current.filter(|current| current.pending) else {
                return Err(Condition::ItemNotFound.into());
            };
            if allow && !self.may_be_subscribed(&loaded, jid.as_jid()).await? {
                return Err(Condition::ResourceConstraint.into());
            }
            let after = allow.then_some(Subscription { pending: false, since: self.now, ..waiting });
            if !self.put_subscription(&mut loaded, jid.as_jid(), stored, after).await? {
                continue;
            }
            self.tell_settled(&loaded, jid.clone(), allow, out).await?;
            return Ok(());
        }
        Err(StoreError::Busy.into())
    }

    /// Tells a subscriber what became of its subscription, and the last item if it is subscribed now (§6.1.7, §8.8.4).
    async fn tell_settled(
        &self,
        loaded: &Loaded,
        jid: Jid,
        is_subscribed: bool,
        out: &mut Outcome,
    ) -> Result<(), StoreError> {
        let state = if is_subscribed { "subscribed" } else { "none" };
        out.notifications.push(self.state_notification(loaded, jid.clone(), state));
        if is_subscribed && loaded.node.config.send_last != SendLast::Never {
            out.notifications.extend(self.last_notification(loaded, jid).await?);
        }
        Ok(())
    }

    /// The entries of a request. One that does not say what it shall be changes nothing.
    fn entries<T>(
        &self,
        asked: &Node,
        name: &str,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<Entry<T>>, Refusal> {
        let mut entries = Vec::new();
        let elements = asked.children.iter().filter(|child| child.name == name && child.ns == asked.ns);
        for (count, element) in elements.enumerate() {
            if count >= self.config.limits.batch_max as usize {
                return Err(Condition::NotAcceptable.into());
            }
            let jid = element.attr("jid").filter(|jid| !jid.is_empty()).ok_or(Problem::JidRequired)?;
            let jid = Jid::parse(jid).map_err(|_| Problem::InvalidJid)?;
            if let Some(word) = element.attr(name) {
                entries.push(Entry { jid, wanted: wanted(word).ok_or(Condition::BadRequest)? });
            }
        }
        Ok(entries)
    }
}

/// No entity may be there twice (§8.9.2.4; §8.8.2.4, since there are no subscription ids).
fn check_distinct<T>(entries: &[Entry<T>]) -> Result<(), Refusal> {
    let mut jids: Vec<&str> = entries.iter().map(|entry| entry.jid.as_str()).collect();
    jids.sort_unstable();
    let is_twice = jids.windows(2).any(|pair| matches!(pair, [one, other] if one == other));
    if is_twice { Err(Condition::BadRequest.into()) } else { Ok(()) }
}

/// The answer to a change of several: an error with the entries that could not be, as they are (§8.8.2.4, §8.9.2.4).
fn not_changed<T>(failed: &[T], list: impl FnOnce(&mut Vec<u8>)) -> Result<Vec<u8>, Refusal> {
    if failed.is_empty() {
        return Ok(Vec::new());
    }
    let mut payload = Vec::new();
    begin(&mut payload, ns::PUBSUB_OWNER);
    list(&mut payload);
    payload.extend_from_slice(b"</pubsub>");
    let error = StanzaError::from(Condition::NotAcceptable).with_type(ErrorType::Modify);
    Err(Refusal { error, payload })
}

fn begin_list(out: &mut Vec<u8>, name: &str, node: &str) {
    out.push(b'<');
    out.extend_from_slice(name.as_bytes());
    write::attr(out, "node", node);
    out.push(b'>');
}

fn write_affiliation(out: &mut Vec<u8>, jid: &Jid, affiliation: Option<Affiliation>) {
    out.extend_from_slice(b"<affiliation");
    write::attr(out, "jid", jid.as_str());
    write::attr(out, "affiliation", affiliation.map_or("none", Affiliation::name));
    out.extend_from_slice(b"/>");
}
