//! Events of accounts to those who want them: resources of the owner and of its contacts that said `+notify` in their
//! capabilities (XEP-0163 v1.2.2 §4). Who wants what is known where it is at home, so that an event goes there with the
//! addresses of all contacts, once for each shard; and a resource that becomes available says there what it wants.

use std::collections::HashSet;

use plaza_core::jid::{Jid, JidRef};
use plaza_core::ns;
use plaza_core::stanza::{Class, Condition, IqType, MessageType, Stanza};
use plaza_core::xml::Child;
use plaza_registry::directory::Nodes;
use plaza_registry::pubsub::{Audience, Notification, Outgoing, Reach, Recipient};
use plaza_registry::services::{ComponentKind, Request, Target};

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

    /// To a service beside the server: an iq, or the answer to a form. One that has a home is served there, another one here.
    pub(super) fn route_service(
        &mut self,
        id: SessionId,
        from: &Jid,
        stanza: &Stanza<'_>,
        (index, to): (u16, JidRef<'_>),
    ) -> Flow {
        match stanza.class {
            Class::Iq(IqType::Get | IqType::Set) => {}
            Class::Iq(IqType::Result | IqType::Error) => {
                if self.hear_device(id, stanza) {
                    return Flow::Continue;
                }
                return self.ignore(DropReason::Unanswerable);
            }
            Class::Message(MessageType::Error) => return self.ignore(DropReason::Unanswerable),
            Class::Message(_) if is_decision(stanza) => {}
            Class::Message(_) => return self.refuse(id, stanza, from, Condition::ServiceUnavailable),
            Class::Presence(_) => return self.ignore(DropReason::Unhandled),
        }
        if to.local().is_some() || to.resource().is_some() {
            return self.refuse(id, stanza, from, Condition::ServiceUnavailable);
        }
        if let Some(flow) = self.decide_for_device(id, from, stanza, to) {
            return flow;
        }
        let hash = self.homes.hash(to);
        let home = self.homes.shard(hash);
        let service = self.config.services.get(usize::from(index));
        let has_home = service.is_none_or(|service| service.kind == ComponentKind::Pubsub);
        if home == self.id || !has_home {
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
        let already: HashSet<&str> = already.iter().map(|one| one.jid.as_str()).collect();
        let is_new = |jid: JidRef<'_>| !already.contains(jid.as_str());
        let mut interested: Vec<Jid> = Some(from.clone()).filter(|own| is_new(own.as_jid())).into_iter().collect();
        let contacts = facts.contacts.those(|state| state.from).filter(|contact| {
            let has_access = match &audience.reach {
                Reach::Owner => false,
                Reach::Contacts => true,
                Reach::These(these) => these.iter().any(|one| one.as_jid() == *contact),
            };
            let is_outcast = || audience.outcasts.iter().any(|outcast| outcast.as_jid() == *contact);
            has_access && !is_outcast() && is_new(*contact) && !self.blocks(index, contact.as_str())
        });
        interested.extend(contacts.filter(|contact| self.is_local_account(*contact)).map(JidRef::to_jid));
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
        if !self.knows(index) {
            return self.enqueue(index, Task::Wants(id));
        }
        let mut accounts = vec![from.bare()];
        if let Some(facts) = self.accounts.get(index).and_then(|account| account.facts.as_ref()) {
            let seen = facts.contacts.those(|state| state.to).filter(|contact| self.is_local_account(*contact));
            accounts.extend(seen.map(JidRef::to_jid));
        }
        self.say_wants(&from, &nodes, accounts);
    }

    /// The account may see somebody's presence from now on: its resources are told the last items of those nodes.
    pub(super) fn want_last_of(&mut self, account: &Jid, owner: &Jid) {
        if !self.is_local_account(owner.as_jid()) {
            return;
        }
        for id in self.sessions_of(account.as_jid()) {
            let Some(nodes) = self.notified_of(id).filter(|nodes| !nodes.is_empty()) else { continue };
            let Some(session) = self.get(id).filter(|session| session.priority.is_some()) else { continue };
            let from = session.jid.clone();
            self.say_wants(&from, &nodes, vec![owner.clone()]);
        }
    }

    /// Says what a resource wants where these accounts are at home.
    fn say_wants(&mut self, from: &Jid, nodes: &Nodes, accounts: Vec<Jid>) {
        self.fans += 1;
        for owner in accounts {
            let home = self.home(owner.as_jid());
            if home == self.id {
                self.is_wanted(owner.as_jid(), from.as_jid(), nodes);
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

#[cfg(test)]
mod tests {
    use plaza_registry::rosters::Subscription;

    use super::super::testing::{REGISTRY, SERVICE, World, presence};
    use super::super::tests::feed;
    use super::*;

    const NODE: &str = "urn:example:mood";

    #[test]
    fn a_registry_answers_where_whoever_asks_is_at_home() {
        let mut world = World::new();
        let set = "<str name='SN' value='1'/><str name='KEY' value='k'/>";
        let ns = "urn:nf:iot:disco:1.0";
        let say = |world: &mut World, shard: u16, name: &str, inside: &str| {
            let account = world.account(name, shard);
            let id = world.bind_met(&account, "r");
            let iq = format!("<iq type='set' id='1' to='{REGISTRY}'>{inside}</iq>");
            feed(&mut world.shards[usize::from(shard)], id, &iq);
            let effects: Vec<_> = std::iter::from_fn(|| world.shards[usize::from(shard)].poll_effect()).collect();
            let asks = effects.iter().filter(|effect| matches!(effect, Effect::Service(..))).count();
            effects.into_iter().for_each(|effect| world.carry_out(usize::from(shard), effect));
            world.settle();
            let out = world.shards[usize::from(shard)].take_outbox(id);
            (asks, String::from_utf8(out).unwrap(), account)
        };
        for shard in [0, 1] {
            let register = format!("<register xmlns='{ns}'>{set}</register>");
            let (asked, answer, lamp) = say(&mut world, shard, "lamp", &register);
            assert_eq!(asked, 1);
            assert!(
                answer.ends_with(&format!("<iq type='result' id='1' from='{REGISTRY}' to='{lamp}/r'></iq>")),
                "{answer}"
            );
            let (asked, answer, _) = say(&mut world, 1 - shard, "owner", &format!("<mine xmlns='{ns}'>{set}</mine>"));
            assert_eq!(asked, 1);
            assert!(answer.contains(&format!("<claimed xmlns='{ns}' jid='{lamp}' public='true'/>")), "{answer}");
        }
    }

    #[test]
    fn an_event_reaches_who_wants_it_wherever_that_is_at_home() {
        use Subscription::{Both, From, To};
        let mut world = World::new();
        let owner = world.account("owner", 0);
        let (here, there) = (world.account("here", 0), world.account("there", 1));
        let (unasked, denied, blocked) =
            (world.account("unasked", 1), world.account("denied", 1), world.account("b", 1));
        world.stand(&owner, &here, From, To);
        for contact in [&there, &unasked, &blocked] {
            world.stand(&owner, contact, Both, Both);
        }
        world.stand(&owner, &denied, To, From);
        let stranger = world.account("stranger", 1);
        let desk = world.there(&owner, "desk", &[NODE]);
        let wants = [&here, &there].map(|contact| (contact, world.there(contact, "wants", &[NODE, "other"])));
        let does_not = [(&there, world.there(&there, "not", &["other"])), (&unasked, world.there(&unasked, "r", &[]))];
        let may_not = [&denied, &stranger, &blocked].map(|one| (one, world.there(one, "r", &[NODE])));
        // Away, though it said before what it wants.
        let away = world.there(&there, "away", &[NODE]);
        world.say(&there, away, "<presence type='unavailable'/>");
        let block = format!("<block xmlns='{}'><item jid='{owner}'/></block>", ns::BLOCKING);
        world.say(&blocked, may_not[2].1, &format!("<iq type='set' id='b'>{block}</iq>"));

        world.publish(&owner, desk, "", NODE, "1");
        for (account, id, resource) in
            [(&owner, desk, "desk"), (wants[0].0, wants[0].1, "wants"), (wants[1].0, wants[1].1, "wants")]
        {
            let event = format!(
                " to='{account}/{resource}' from='{owner}' type='headline'><event xmlns='{}'><items node='{NODE}'>\
                 <item id='1'><e xmlns='urn:e'/></item></items></event>",
                ns::PUBSUB_EVENT
            );
            assert_eq!(world.told(account, id), [event]);
        }
        for (account, id) in does_not.into_iter().chain(may_not).chain([(&there, away)]) {
            assert_eq!(world.told(account, id), [""; 0], "{account}");
        }
    }

    #[test]
    fn who_subscribed_as_well_is_told_once() {
        let mut world = World::new();
        let (owner, contact) = (world.account("owner", 0), world.account("contact", 1));
        world.stand(&owner, &contact, Subscription::Both, Subscription::Both);
        let desk = world.there(&owner, "desk", &[]);
        let id = world.there(&contact, "r", &[NODE]);
        world.publish(&owner, desk, "", NODE, "1");
        assert_eq!(world.told(&contact, id).len(), 1);
        let node = format!("<subscribe node='{NODE}' jid='{contact}'/>");
        world.ask(&contact, id, owner.as_str(), &node);
        assert_eq!(world.told(&contact, id).len(), 1, "the last item");
        world.publish(&owner, desk, "", NODE, "2");
        let told = world.told(&contact, id);
        assert!(told.len() == 1 && told[0].contains("id='2'"), "{told:?}");
    }

    #[test]
    fn last_items_come_with_presence_and_with_new_wishes() {
        let mut world = World::new();
        let owner = world.account("owner", 0);
        let contacts = [world.account("a", 0), world.account("b", 1)];
        let outcast = world.account("outcast", 1);
        for contact in contacts.iter().chain([&outcast]) {
            world.stand(&owner, contact, Subscription::Both, Subscription::Both);
        }
        let desk = world.there(&owner, "desk", &[]);
        world.publish(&owner, desk, "", NODE, "1");
        world.publish(&owner, desk, "", "urn:other", "2");
        let list =
            format!("<affiliations node='{NODE}'><affiliation jid='{outcast}' affiliation='outcast'/></affiliations>");
        let set = format!("<iq type='set' id='a'><pubsub xmlns='{}'>{list}</pubsub></iq>", ns::PUBSUB_OWNER);
        world.say(&owner, desk, &set);
        let late = world.there(&owner, "late", &[NODE]);
        assert_eq!(world.told(&owner, late).len(), 1);
        for contact in &contacts {
            let id = world.bind(contact, "r");
            let wish = presence(&world.shards[0], &[NODE]);
            world.say(contact, id, &wish);
            let told = world.told(contact, id);
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].contains(&format!("from='{owner}'")) && told[0].contains("<item id='1'>"), "{told:?}");
            assert!(told[0].contains("<delay xmlns='urn:xmpp:delay'"), "{told:?}");
            // What it has it is not told again; with another wish it is told of both.
            world.say(contact, id, &wish);
            assert_eq!(world.told(contact, id), [""; 0]);
            let wish = presence(&world.shards[0], &[NODE, "urn:other"]);
            world.say(contact, id, &wish);
            assert_eq!(world.told(contact, id).len(), 2);
        }
        let id = world.there(&outcast, "r", &[NODE]);
        assert_eq!(world.told(&outcast, id), [""; 0]);
    }

    #[test]
    fn who_may_see_the_owner_from_now_on_is_told_the_last_items() {
        for shard in [0, 1] {
            let mut world = World::new();
            let (owner, contact) = (world.account("owner", 0), world.account("contact", shard));
            let desk = world.there(&owner, "desk", &[]);
            world.publish(&owner, desk, "", NODE, "1");
            let ids = [&[NODE][..], &[]].map(|nodes| world.there(&contact, &format!("r{}", nodes.len()), nodes));
            world.say(&contact, ids[0], &format!("<presence type='subscribe' to='{owner}'/>"));
            assert_eq!(world.told(&contact, ids[0]), [""; 0]);
            world.say(&owner, desk, &format!("<presence type='subscribed' to='{contact}'/>"));
            let told = world.told(&contact, ids[0]);
            assert!(told.len() == 1 && told[0].contains("<item id='1'>"), "{told:?}");
            assert_eq!(world.told(&contact, ids[1]), [""; 0]);
        }
    }

    #[test]
    fn an_owner_decides_by_message_and_a_decision_is_no_stanza_of_its_session() {
        for shard in [0, 1] {
            let mut world = World::new();
            // The service is at home on one of them.
            let (owner, fan) = (world.account("owner", shard), world.account("fan", 1 - shard));
            let (desk, id) = (world.there(&owner, "desk", &[]), world.there(&fan, "r", &[]));
            let model = format!(
                "<create node='n'/><configure><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>{}</value>\
                 </field><field var='pubsub#access_model'><value>authorize</value></field></x></configure>",
                ns::PUBSUB_NODE_CONFIG
            );
            world.ask(&owner, desk, SERVICE, &model);
            world.ask(&fan, id, SERVICE, &format!("<subscribe node='n' jid='{fan}'/>"));
            let asked = world.told(&owner, desk);
            assert!(asked.len() == 1 && asked[0].contains("pubsub#subscribe_authorization"), "{asked:?}");
            world.told(&fan, id);
            world.say(&owner, desk, "<enable xmlns='urn:xmpp:sm:3'/>");
            let held = |world: &mut World| {
                let managed = world.shard(&owner).get(desk).and_then(|session| session.managed.as_ref());
                managed.expect("it was enabled").heap_bytes()
            };
            let before = held(&mut world);
            let field = |var: &str, value: &str| format!("<field var='{var}'><value>{value}</value></field>");
            let form = [
                field("FORM_TYPE", DECISION),
                field("pubsub#node", "n"),
                field("pubsub#subscriber_jid", fan.as_str()),
                field("pubsub#allow", "1"),
            ]
            .concat();
            world.say(
                &owner,
                desk,
                &format!("<message to='{SERVICE}'><x xmlns='jabber:x:data' type='submit'>{form}</x></message>"),
            );
            assert_eq!((world.told(&owner, desk), held(&mut world)), (Vec::new(), before));
            let told = world.told(&fan, id);
            assert!(told.len() == 1 && told[0].contains("subscription='subscribed'"), "{told:?}");
        }
    }

    #[test]
    fn other_words_to_a_service_are_refused() {
        let mut world = World::new();
        let owner = world.account("owner", 0);
        let desk = world.there(&owner, "desk", &[]);
        let refused = "<service-unavailable ";
        for (stanza, expected) in [
            (format!("<message to='{SERVICE}' id='m'><body>hi</body></message>"), refused),
            (format!("<iq type='get' id='i' to='x@{SERVICE}'><query xmlns='{}'/></iq>", ns::DISCO_INFO), refused),
            (format!("<iq type='get' id='i' to='{SERVICE}/r'><query xmlns='{}'/></iq>", ns::DISCO_INFO), refused),
            (format!("<iq type='get' id='i' to='{SERVICE}'><query xmlns='jabber:iq:roster'/></iq>"), refused),
            (
                format!("<iq type='get' id='i' to='{SERVICE}'><query xmlns='{}'/></iq>", ns::DISCO_INFO),
                "type='service'",
            ),
            (format!("<iq type='result' id='i' to='{SERVICE}'/>"), ""),
            (format!("<message type='error' to='{SERVICE}'/>"), ""),
            (format!("<presence to='{SERVICE}'/>"), ""),
        ] {
            world.shard(&owner).take_outbox(desk);
            world.say(&owner, desk, &stanza);
            let said = String::from_utf8(world.shard(&owner).take_outbox(desk)).unwrap();
            assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{stanza}: {said}");
        }
    }
}
