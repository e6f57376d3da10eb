//! Events of accounts to those who want them: resources of the owner and of its contacts that said `+notify` in their
//! capabilities (XEP-0163 v1.2.2 §4). Who wants what is known where it is at home, so that an event goes there with the
//! addresses of all contacts, once for each shard; and a resource that becomes available says there what it wants.

use plaza_core::jid::{Jid, JidRef};
use plaza_core::ns;
use plaza_core::stanza::{Class, Condition, IqType, MessageType, Stanza};
use plaza_core::xml::Child;
use plaza_registry::directory::Nodes;
use plaza_registry::pubsub::{Audience, Notification, Outgoing, Reach, Recipient};
use plaza_registry::services::{Request, Target};

use super::batch::{BATCH_OWN_BYTES_MAX, Envelope, Handoff};
use super::deliver::{Body, Origin};
use super::presence::write_addressed;
use super::work::Task;
use super::{Effect, Flow, ReplyTo, SessionId, Shard};
use crate::metrics::DropReason;

/// `FORM_TYPE` of an owner's decision on a subscription (XEP-0060 v1.30.0 §8.6).
const DECISION: &str = "http://jabber.org/protocol/pubsub#subscribe_authorization";

/// An event on its way to who wants it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event<'a> {
    /// The account's bare JID.
    pub(super) from: &'a str,
    pub(super) node: &'a str,
    /// The message but for `to`.
    pub(super) text: &'a [u8],
}

impl Event<'_> {
    /// Writes what all recipients on another shard have in common.
    fn begin(&self, bytes: &mut Vec<u8>) -> Handoff {
        bytes.extend_from_slice(self.from.as_bytes());
        bytes.extend_from_slice(self.node.as_bytes());
        bytes.extend_from_slice(self.text);
        Handoff::Event {
            from_len: self.from.len() as u16,
            node_len: self.node.len() as u16,
            text_len: self.text.len() as u32,
            recipients_len: 0,
        }
    }
}

/// Whether an element is a data form (XEP-0004).
pub(super) fn is_form(child: &Child<'_>) -> bool {
    child.is("x", ns::DATA_FORMS)
}

/// Whether a message is an owner's decision on a subscription.
pub(super) fn is_decision(stanza: &Stanza<'_>) -> bool {
    let Class::Message(message_type) = stanza.class else { return false };
    if message_type == MessageType::Error {
        return false;
    }
    let form = stanza.element.children().find(is_form).and_then(|form| stanza.element.read(&form));
    form.is_some_and(|form| {
        let mut fields = form.children.iter().filter(|child| child.attr("var") == Some("FORM_TYPE"));
        let value = fields.next().and_then(|field| field.children.iter().find(|child| *child.name == *"value"));
        value.is_some_and(|value| value.text == DECISION)
    })
}

impl Shard {
    // ---- services at addresses of their own ---------------------------------------------------------------------

    /// To a service beside the server: an iq, or the answer to a form, at home on one shard.
    pub(super) fn route_service(&mut self, id: SessionId, from: &Jid, stanza: &Stanza<'_>, to: JidRef<'_>) -> Flow {
        match stanza.class {
            Class::Iq(IqType::Get | IqType::Set) => {}
            Class::Message(MessageType::Error) | Class::Iq(IqType::Result | IqType::Error) => {
                return self.ignore(DropReason::Unanswerable);
            }
            Class::Message(_) if is_decision(stanza) => {}
            Class::Message(_) => return self.refuse(id, stanza, from, Condition::ServiceUnavailable),
            Class::Presence(_) => return self.ignore(DropReason::Unhandled),
        }
        if to.local().is_some() || to.resource().is_some() {
            return self.refuse(id, stanza, from, Condition::ServiceUnavailable);
        }
        let hash = self.homes.hash(to);
        let home = self.homes.shard(hash);
        if home == self.id {
            return self.call_service(from, stanza, Target::Service(to.to_jid()), true, ReplyTo::Session(id));
        }
        let envelope = Envelope { class: stanza.class, hash, to, from: from.as_str(), id: stanza.id.map(|id| id.raw) };
        let namespaces = self.namespaces(id, stanza);
        self.send_handoff(home, &envelope, id, &Body::Stanza { stanza, from: from.as_str(), namespaces: &namespaces })
    }

    /// An owner decides on a subscription to a node of its account.
    pub(super) fn decide(&mut self, id: SessionId, from: &Jid, stanza: &Stanza<'_>, addressed: bool) -> Flow {
        self.call_service(from, stanza, Target::Account(from.bare()), addressed, ReplyTo::Session(id))
    }

    // ---- events -------------------------------------------------------------------------------------------------

    /// An owner that changes its nodes has some from now on, for all that is known.
    pub(super) fn note_nodes(&mut self, request: &Request) {
        if let Target::Account(account) = &request.target
            && request.iq_type == IqType::Set
            && matches!(&*request.payload_ns, ns::PUBSUB | ns::PUBSUB_OWNER)
            && account.as_jid() == request.caller.as_jid().bare()
            && let Some(index) = self.accounts.find_index(self.homes.hash(account.as_jid()), account.as_jid())
            && let Some(facts) = self.facts_mut(index)
        {
            facts.has_nodes = true;
        }
    }

    /// Tells all whom these concern. Who an account's contacts are may have to be asked of the store first.
    pub(super) fn tell_of(&mut self, outgoing: Outgoing) {
        let audience = outgoing.notifications.iter().find(|one| one.audience.is_some());
        if let Some(from) = audience.map(|one| one.from.clone()) {
            let index = self.accounts.find_or_insert(self.homes.hash(from.as_jid()), from.as_jid());
            if !self.knows(index) {
                return self.enqueue(index, Task::Tell(Box::new(outgoing)));
            }
        }
        self.fan(outgoing);
    }

    /// The accounts that hear of an event by their capabilities: the owner's and its contacts', but for those that are
    /// among the recipients already.
    pub(super) fn interested(&self, from: &Jid, audience: &Audience, already: &[Recipient]) -> Vec<Jid> {
        let index = self.accounts.find_index(self.homes.hash(from.as_jid()), from.as_jid());
        let facts = index.and_then(|index| self.accounts.get(index)?.facts.as_ref().map(|facts| (index, facts)));
        let Some((index, facts)) = facts else { return Vec::new() };
        let is_new = |jid: JidRef<'_>| !already.iter().any(|one| one.jid.as_jid() == jid);
        let mut interested: Vec<Jid> = Some(from.clone()).filter(|own| is_new(own.as_jid())).into_iter().collect();
        let contacts = facts.contacts.iter().filter(|(contact, state)| {
            let has_access = match &audience.reach {
                Reach::Owner => false,
                Reach::Contacts => true,
                Reach::These(these) => these.iter().any(|one| one.as_jid() == *contact),
            };
            let is_outcast = || audience.outcasts.iter().any(|outcast| outcast.as_jid() == *contact);
            state.from && has_access && !is_outcast() && is_new(*contact) && !self.blocks(index, contact.as_str())
        });
        interested.extend(contacts.filter(|(contact, _)| self.is_local_account(*contact)).map(|(jid, _)| jid.to_jid()));
        interested
    }

    /// An event for those resources of an account that want it, here or on another shard.
    pub(super) fn pass_event(&mut self, number: u64, to: JidRef<'_>, event: &Event<'_>) {
        let home = self.home(to);
        if home == self.id {
            return self.notify(to, event);
        }
        let Some(batch) = self.batches.get_mut(usize::from(home.0)) else { return };
        if batch.fan(number, to, |bytes| event.begin(bytes)) {
            self.counters.handoffs_out += 1;
        }
    }

    /// An event reaches an account at home here.
    pub(super) fn notify(&mut self, to: JidRef<'_>, event: &Event<'_>) {
        let hash = self.homes.hash(to);
        let Some(index) = self.accounts.find_index(hash, to) else { return };
        if self.blocks(index, event.from) {
            self.drop_counted(DropReason::Blocked);
            return;
        }
        for id in self.sessions_of(to) {
            if !self.is_notified_of(id, event.node) {
                continue;
            }
            let Some(session) = self.get(id).filter(|session| session.priority.is_some()) else { continue };
            let jid = session.jid.clone();
            let mut bytes = self.take_buffer();
            write_addressed(&mut bytes, event.text, jid.as_str());
            let class = Class::Message(MessageType::Headline);
            let envelope = Envelope { class, hash, to: jid.as_jid(), from: event.from, id: None };
            self.deliver(&envelope, Origin::Broker, &Body::Bytes(&bytes));
            self.give_buffer(bytes);
        }
    }

    // ---- last items ---------------------------------------------------------------------------------------------

    /// A resource became available, or said what it wants: it is told the last items of its own account's nodes and of
    /// those accounts' whose presence it has (XEP-0163 §4.3.4).
    pub(super) fn want_last(&mut self, id: SessionId) {
        let Some(nodes) = self.notified_of(id).filter(|nodes| !nodes.is_empty()) else { return };
        let Some(session) = self.get(id).filter(|session| session.priority.is_some()) else { return };
        let (index, from) = (session.account, session.jid.clone());
        let mut accounts = vec![from.bare()];
        if let Some(facts) = self.accounts.get(index).and_then(|account| account.facts.as_ref()) {
            let seen = facts.contacts.iter().filter(|(contact, state)| state.to && self.is_local_account(*contact));
            accounts.extend(seen.map(|(contact, _)| contact.to_jid()));
        }
        self.fans += 1;
        for owner in accounts {
            let home = self.home(owner.as_jid());
            if home == self.id {
                self.is_wanted(owner.as_jid(), from.as_jid(), &nodes);
            } else if let Some(batch) = self.batches.get_mut(usize::from(home.0)) {
                if batch.bytes() >= BATCH_OWN_BYTES_MAX {
                    self.counters.drops[DropReason::MeshFull] += 1;
                    continue;
                }
                let begin = |bytes: &mut Vec<u8>| {
                    let nodes = nodes.join("\0");
                    bytes.extend_from_slice(from.as_str().as_bytes());
                    bytes.extend_from_slice(nodes.as_bytes());
                    let (from_len, nodes_len) = (from.as_str().len() as u16, nodes.len() as u32);
                    Handoff::Wants { from_len, nodes_len, recipients_len: 0 }
                };
                if batch.fan(self.fans, owner.as_jid(), begin) {
                    self.counters.handoffs_out += 1;
                }
            }
        }
    }

    /// Somebody wants to be told the last items of an account at home here.
    pub(super) fn is_wanted(&mut self, owner: JidRef<'_>, resource: JidRef<'_>, nodes: &Nodes) {
        let index = self.accounts.find_or_insert(self.homes.hash(owner), owner);
        if self.knows(index) {
            return self.read_last(index, resource.to_jid(), Nodes::clone(nodes));
        }
        self.enqueue(index, Task::Wanted(resource.to_jid(), Nodes::clone(nodes)));
    }

    /// The account's facts are here: what the resource may be told is read, if there can be anything.
    pub(super) fn read_last(&mut self, index: u32, resource: Jid, nodes: Nodes) {
        let Some(account) = self.accounts.get(index) else { return };
        if !account.facts.as_ref().is_some_and(|facts| facts.has_nodes) {
            return;
        }
        let owner = account.bare.clone();
        let is_own = owner.as_jid() == resource.as_jid().bare();
        let may = is_own || self.stands(index, resource.as_jid()).is_some_and(|state| state.from);
        if may && !self.blocks(index, resource.as_str()) {
            self.effects.push_back(Effect::LastItems(Box::new((owner, resource, nodes))));
        }
    }

    /// The last items for a resource were read.
    pub fn last_items(&mut self, notifications: Vec<Notification>) {
        self.fan(Outgoing { notifications, messages: Vec::new() });
    }
}
