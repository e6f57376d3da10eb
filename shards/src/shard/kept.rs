//! Messages that were kept for an account (XEP-0160): given to the first session that can take them, and forgotten once
//! they are written to it.

use plaza_core::limits::ScanLimits;
use plaza_core::ns;
use plaza_core::stanza::{Class, Kind, MessageType};
use plaza_core::xml::{Scanned, StreamNamespaces};
use plaza_registry::offline::OfflineMessage;

use super::work::{Inbound, Task};
use super::{SessionId, Shard};
use crate::metrics::DropReason;

impl Shard {
    /// Whether a session takes messages for its account: it is available, and not with a negative priority.
    pub(super) fn can_take_messages(&self, id: SessionId) -> bool {
        self.get(id).is_some_and(|session| !session.flags.ended && matches!(session.priority, Some(0..)))
    }

    /// Asks for what was kept, for a session that has just become able to take it.
    pub(super) fn fetch_kept(&mut self, id: SessionId) {
        let Some(index) = self.get(id).map(|session| session.account) else { return };
        let waits = self.accounts.get(index).and_then(|account| account.facts.as_ref());
        if waits.is_none_or(|facts| facts.offline.count > 0) || self.waits_for_store(index) {
            self.enqueue(index, Task::Fetch(id));
        }
    }

    /// Gives a session what was kept. It stays stored until it is written.
    pub(super) fn give_messages(&mut self, index: u32, id: SessionId, messages: Vec<OfflineMessage>) {
        if !self.can_take_messages(id) {
            return;
        }
        if self.may_enforce(index) && !self.knows(index) {
            // What may be done with its things changed meanwhile.
            return self.enqueue(index, Task::Fetch(id));
        }
        let bare = self.accounts.get(index).map(|account| account.bare.clone());
        let sessions = bare.map(|bare| self.sessions_of(bare.as_jid())).unwrap_or_default();
        let mut given = Vec::with_capacity(messages.len());
        for message in messages {
            // Some session was given it, and it is about to be forgotten.
            let held = sessions.iter().filter_map(|&id| self.get(id)?.extras.as_ref());
            let held = held.flat_map(|extras| &extras.given).any(|&(number, _)| number == message.number);
            if held || self.is_being_forgotten(index, message.number) {
                continue;
            }
            given.push((message.number, message.bytes));
            if message.expired || self.denies_kept(index, &message.stanza) {
                continue;
            }
            if self.blocks_kept(index, &message.stanza) {
                self.drop_counted(DropReason::Blocked);
                continue;
            }
            self.write(id, |out| out.extend_from_slice(&message.stanza));
            self.mark_kept(id);
            self.counters.stanzas_out[Kind::Message] += 1;
        }
        let Some(session) = self.get_mut(id) else { return };
        if given.is_empty() {
            return;
        }
        if session.unsent() == 0 && session.managed.is_none() {
            return self.enqueue(index, Task::Forget(given));
        }
        session.extras().given.extend(given);
    }

    /// All of a session's bytes are written: what was kept and given to it is forgotten.
    pub(super) fn forget_given(&mut self, id: SessionId) {
        let Some(session) = self.get_mut(id) else { return };
        let account = session.account;
        let Some(extras) = session.extras.as_mut().filter(|extras| !extras.given.is_empty()) else { return };
        let given = std::mem::take(&mut extras.given);
        self.enqueue(account, Task::Forget(given));
    }

    /// Whether a message is to be kept: not what says it is for the moment (XEP-0334 v0.4.0 §4), nor notices that somebody
    /// is typing (XEP-0160 §3, XEP-0085). Messages without a body are: things say what they have to say in extensions.
    pub(super) fn is_worth_keeping(&mut self, inbound: &Inbound) -> bool {
        let Class::Message(message_type) = inbound.class else { return false };
        let namespaces = StreamNamespaces::default();
        self.scanner.reset();
        let scanned = self.scanner.next(&ScanLimits::AFTER_AUTH, &namespaces, &inbound.stanza);
        let Ok(Scanned::Element { element, .. }) = scanned else { return false };
        let (mut children, mut states) = (0, 0);
        let mut refused = false;
        for child in element.children() {
            children += 1;
            states += u32::from(child.ns == ns::CHAT_STATES || child.name == "thread");
            refused |= child.ns == ns::HINTS && matches!(child.name, "no-store" | "no-permanent-store");
        }
        let typing = message_type == MessageType::Chat && children > 0 && children == states;
        !refused && !typing
    }
}
