//! Whom accounts block (XEP-0191 v1.3): nothing from a blocked address is delivered, nothing goes to one.
//!
//! Asked about each stanza at both ends, each at its account's home. An account without a list costs a branch.
//!
//! Differs from XEP-0191 §3.3, a SHOULD: a blocked sender's messages are dropped, not answered with an error, since those
//! for who is merely away are kept without a word. A full JID on a list holds up what is from or to itself; presence goes
//! to its account, whose home shows it to all its resources.

use plaza_core::jid::{Jid, JidRef};
use plaza_core::limits::ScanLimits;
use plaza_core::stanza::{Class, Condition, IqType, Stanza, StanzaError};
use plaza_core::xml::{Scanned, StreamNamespaces};
use plaza_registry::blocking::BlockList;

use super::batch::Envelope;
use super::deliver::{Body, Origin};
use super::{Flow, SessionId, Shard};
use crate::metrics::DropReason;

impl Shard {
    /// Whether an account blocks an address, "" being the server's own. Its list comes with its facts, before it has
    /// sessions.
    pub(super) fn blocks(&self, index: u32, other: &str) -> bool {
        match self.accounts.get(index) {
            Some(account) => match &account.blocked {
                None => false,
                Some(list) => self.is_on(list, &account.bare, JidRef::from_normal(other)),
            },
            None => false,
        }
    }

    /// Whether a list holds up an address. The account's own resources and the server never are, whatever is listed
    /// (§5).
    fn is_on(&self, list: &BlockList, owner: &Jid, other: JidRef<'_>) -> bool {
        let server = other.local().is_none() && self.config.domains.iter().any(|own| own.as_str() == other.domain());
        !other.as_str().is_empty() && !server && other.bare() != owner.as_jid() && list.blocks(other)
    }

    /// What becomes of a stanza whose recipient blocks its sender (§3.3): to whom asks, the account appears to be away.
    pub(super) fn refuse_blocked(&mut self, envelope: &Envelope<'_>) -> Flow {
        if matches!(envelope.class, Class::Iq(IqType::Get | IqType::Set)) {
            return self.bounce(envelope, Condition::ServiceUnavailable, DropReason::Blocked);
        }
        self.drop_counted(DropReason::Blocked)
    }

    /// What becomes of a stanza whose sender blocks its recipient (§3.3).
    pub(super) fn refuse_to_blocked(&mut self, id: SessionId, from: &Jid, stanza: &Stanza<'_>) -> Flow {
        self.counters.stanzas_in[stanza.class.kind()] += 1;
        if !stanza.class.answerable() {
            return self.ignore(DropReason::Blocked);
        }
        self.refuse(id, stanza, from, StanzaError::BLOCKED)
    }

    /// An iq the server answers on behalf of an account waits until the account's facts are here, and is refused if the
    /// account blocks who asks. `None`: it may be answered.
    pub(super) fn hold_iq(&mut self, envelope: &Envelope<'_>, origin: Origin, body: &Body<'_>) -> Option<Flow> {
        let index = self.accounts.find_index(envelope.hash, envelope.to);
        let Some(index) = index.filter(|&index| self.knows(index) && !self.waits_for_store(index)) else {
            return Some(self.queue_inbound(envelope, origin, body));
        };
        self.blocks(index, envelope.from).then(|| self.refuse_blocked(envelope))
    }

    /// Whether what an account was sent earlier, and is given now, is from somebody whom it blocks by now (§3.3).
    pub(super) fn blocks_kept(&mut self, index: u32, stanza: &[u8]) -> bool {
        if self.accounts.get(index).is_none_or(|account| account.blocked.is_none()) {
            return false;
        }
        self.scanner.reset();
        let from = match self.scanner.next(&ScanLimits::SCANNED, &StreamNamespaces::default(), stanza) {
            Ok(Scanned::Element { element, .. }) => element.attr("from").map(|from| from.value().into_owned()),
            _ => None,
        };
        self.blocks(index, &from.unwrap_or_default())
    }

    /// An account's list has changed: who came onto it sees the account leave, who left it where it is (§3.3, §3.4), as
    /// far as they may see it.
    pub(super) fn blocklist_changed(&mut self, caller: &Jid, list: BlockList, blocked: Vec<Jid>, unblocked: Vec<Jid>) {
        let Some(index) = self.accounts.find_index(self.homes.hash(caller.as_jid()), caller.as_jid()) else { return };
        let owner = caller.bare();
        let (gone, back) = (BlockList::new(blocked), BlockList::new(unblocked));
        for contact in self.watchers(index, &owner, &gone) {
            self.show_presence(index, &contact, true);
        }
        self.end_directed(index, &owner, &gone);
        self.accounts.set_blocked(index, list);
        for contact in self.watchers(index, &owner, &back) {
            self.show_presence(index, &contact, false);
        }
    }

    /// Whom of a list the account's presence goes to, and is not held up from: contacts, and resources of contacts that
    /// are listed themselves.
    fn watchers(&self, index: u32, owner: &Jid, list: &BlockList) -> Vec<Jid> {
        let Some(account) = self.accounts.get(index).filter(|_| !list.is_empty()) else { return Vec::new() };
        let Some(facts) = &account.facts else { return Vec::new() };
        let contacts = facts.contacts.those(|state| state.from).filter(|jid| self.is_on(list, owner, *jid));
        let resources = list.iter().filter(|jid| {
            jid.local().is_some() && !jid.is_bare() && facts.contacts.get(*jid).from && !list.blocks(jid.bare())
        });
        let watchers = contacts.chain(resources);
        watchers.filter(|jid| !self.blocks(index, jid.as_str())).map(JidRef::to_jid).collect()
    }

    /// Those on a list to whom presence was directed see the sessions leave, and are forgotten.
    fn end_directed(&mut self, index: u32, owner: &Jid, list: &BlockList) {
        if list.is_empty() {
            return;
        }
        for id in self.sessions_of(owner.as_jid()) {
            let Some(session) = self.get(id) else { continue };
            let Some(extras) = &session.extras else { continue };
            let ended = extras.directed.iter().filter(|to| self.is_on(list, owner, to.as_jid()));
            let ended: Vec<Jid> = ended.cloned().collect();
            let (from, shown) = (session.jid.clone(), session.priority.is_some());
            for to in ended {
                self.note_directed(id, to.as_jid(), plaza_core::stanza::PresenceType::Unavailable);
                let told = shown && self.stands(index, to.as_jid()).is_some_and(|state| state.from);
                if !told {
                    self.send_unavailable(&from, &to);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use plaza_registry::blocking::{self, Bounds};
    use plaza_registry::errands::Return;
    use plaza_registry::rosters::Subscription;
    use plaza_registry::store::StoreError;
    use plaza_registry::wait::block_on;

    use super::super::Effect;
    use super::super::testing::{World, cut_off};
    use super::super::tests::feed;
    use super::*;

    const BOUNDS: Bounds = Bounds { items_max: 10, bytes_max: 1_000 };

    /// Somebody, whom it blocks, and a friend of its, both of them logged in.
    struct Village {
        world: World,
        anna: Jid,
        blocked: (Jid, SessionId),
        friend: (Jid, SessionId),
    }

    impl Village {
        fn new(home: u16, theirs: u16) -> Self {
            let mut world = World::new();
            let anna = world.account("anna", home);
            let mut other = |name: &str| {
                let account = world.account(name, theirs);
                world.stand(&anna, &account, Subscription::Both, Subscription::Both);
                let id = world.bind_met(&account, "r");
                (account, id)
            };
            let (blocked, friend) = (other("mallory"), other("friend"));
            block_on(blocking::block(&world.store, anna.as_jid(), std::slice::from_ref(&blocked.0), BOUNDS)).unwrap();
            Self { world, anna, blocked, friend }
        }

        /// What arrives of what both write to a resource of hers, and what they are told.
        fn write_to(&mut self, resource: &str, anna: SessionId) -> [String; 3] {
            for (account, id) in [self.blocked.clone(), self.friend.clone()] {
                let to = self.anna.with_resource(resource).unwrap();
                let text = format!("<iq type='get' to='{to}' id='q'><ping xmlns='urn:xmpp:ping'/></iq>");
                self.world.say(&account, id, &text);
            }
            let (anna_jid, blocked, friend) = (self.anna.clone(), self.blocked.clone(), self.friend.clone());
            [(anna_jid, anna), blocked, friend].map(|(account, id)| self.world.sent(&account, id))
        }
    }

    #[test]
    fn a_session_whose_facts_were_forgotten_as_it_came_is_protected_before_they_are_known_again() {
        for (home, theirs) in [(0, 0), (0, 1), (1, 0)] {
            let mut village = Village::new(home, theirs);
            let (anna, blocked) = (village.anna.clone(), village.blocked.0.clone());
            let id = village.world.bind(&anna, "r");
            assert!(village.world.shard(&anna).facts(anna.as_jid()).is_none(), "nothing is kept of who is not there");
            let [arrived, told, _] = village.write_to("r", id);
            assert!(!arrived.contains("mallory") && arrived.contains("friend"), "{arrived}");
            assert!(told.contains("<service-unavailable "), "{told}");
            // The same for what she says first.
            village.world.shard(&anna).end(id);
            let id = village.world.bind(&anna, "r");
            assert!(village.world.shard(&anna).facts(anna.as_jid()).is_none());
            village.world.say(&anna, id, &format!("<message to='{blocked}'><body>hm</body></message>"));
            let told = village.world.sent(&anna, id);
            assert!(told.contains("<blocked xmlns='urn:xmpp:blocking:errors'/>"), "{told}");
        }
    }

    #[test]
    fn a_session_from_before_a_restart_is_protected_as_well() {
        let mut village = Village::new(0, 1);
        let anna = village.anna.clone();
        let kept = cut_off(anna.with_resource("r").unwrap());
        let id = village.world.shard(&anna).restore(kept, 1).unwrap();
        let [_, told, friend] = village.write_to("r", id);
        assert!(told.contains("<service-unavailable ") && friend.is_empty(), "{told} {friend}");
    }

    #[test]
    fn who_cannot_be_known_is_neither_written_to_nor_heard() {
        let mut village = Village::new(0, 0);
        let (anna, friend) = (village.anna.clone(), village.friend.clone());
        let id = village.world.bind(&anna, "r");
        let shard = village.world.shard(&anna);
        let text = format!("<iq type='get' to='{anna}/r' id='q'><ping xmlns='urn:xmpp:ping'/></iq>");
        feed(shard, friend.1, &text);
        let said = feed(shard, id, "<presence/>");
        assert_eq!(said, Flow::Stalled);
        shard.errand_done(&anna, Return::Load(Err(StoreError::Failed)));
        let ended = std::iter::from_fn(|| shard.poll_effect()).any(|effect| matches!(effect, Effect::End(..)));
        assert!(ended, "its own stream ends");
        let told = village.world.sent(&friend.0, friend.1);
        assert!(told.contains("type='error'"), "{told}");
    }
}
