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
        let contacts = facts.contacts.iter().filter(|(jid, state)| state.from && self.is_on(list, owner, *jid));
        let resources = list.iter().filter(|jid| {
            jid.local().is_some() && !jid.is_bare() && facts.contacts.get(*jid).from && !list.blocks(jid.bare())
        });
        let watchers = contacts.map(|(jid, _)| jid).chain(resources);
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
