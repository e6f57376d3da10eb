//! Messages on their way into archives (XEP-0313 v1.1.3 §6.1): those that accounts receive before they are delivered, so
//! that what a client is shown an id of is stored (§3.4); those that they send beside.
//!
//! An account without an archive costs a branch. One with an archive lets its messages wait in its work until they are
//! stored, as those for who is away; what is archived is acknowledged to its sender (XEP-0198) only then.
//!
//! Archived are chat and normal messages with a body, or whose sender asks for it (XEP-0334 v0.4.0 §4.4), unless it asks
//! for the opposite; no headlines, no groupchat, no errors.

use plaza_core::jid::{Jid, JidRef};
use plaza_core::limits::ScanLimits;
use plaza_core::ns;
use plaza_core::rules::Delivery;
use plaza_core::stanza::{Class, MessageType, with_child};
use plaza_core::xml::{Scanned, StreamNamespaces, write};
use plaza_registry::archive::{ArchiveId, Entry, Prefs};
use plaza_registry::errands::Errand;
use plaza_registry::store::CommitError;

use super::batch::Envelope;
use super::deliver::{Body, Origin};
use super::work::{Inbound, Running, Task};
use super::{Flow, SessionId, Shard};

/// Messages archived by one errand at most.
const ARCHIVED_AT_ONCE_MAX: usize = 64;

/// What is known of a message's way into its recipient's archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Archived {
    /// Nobody has asked yet.
    Undecided,
    /// It does not go there.
    No,
    /// It is there.
    Yes,
}

/// A message that a session sent, for its own account's archive.
#[derive(Debug)]
pub(super) struct Sent {
    session: SessionId,
    from: Jid,
    to: Jid,
    class: Class,
    pub(super) stanza: Box<[u8]>,
}

/// A message that is being archived.
#[derive(Debug)]
pub(super) enum Archiving {
    Received(Inbound),
    Sent(Sent),
}

impl Archiving {
    fn entry(&self) -> Entry {
        match self {
            Self::Received(inbound) => Entry { with: inbound.from.clone(), stanza: inbound.stanza.clone() },
            Self::Sent(sent) => Entry { with: sent.to.as_str().into(), stanza: sent.stanza.clone() },
        }
    }
}

const fn is_conversation(class: Class) -> bool {
    matches!(class, Class::Message(MessageType::Chat | MessageType::Normal))
}

impl Shard {
    /// Whether messages of an account may have to be archived: it has an archive, or nobody knows.
    pub(super) fn may_archive(&self, index: u32, class: Class) -> bool {
        self.config.archive.is_on()
            && is_conversation(class)
            && self.accounts.get(index).is_some_and(|account| account.may_archive)
    }

    // ---- received ----------------------------------------------------------------------------------------------

    /// A message that may go into its recipient's archive waits for that, and its sender for who will get it. `None`: it may
    /// be delivered.
    pub(super) fn hold_to_archive(
        &mut self,
        index: u32,
        envelope: &Envelope<'_>,
        origin: Origin,
        body: &Body<'_>,
    ) -> Option<Flow> {
        if !self.may_archive(index, envelope.class) {
            return None;
        }
        let stalled = self.stall_for_recipient(index, envelope, origin);
        Some(stalled.unwrap_or_else(|| self.queue_inbound(envelope, origin, body)))
    }

    /// Archives a message that has come to the front of its account's work. It comes there again when it is stored; gives it
    /// back if it does not go into the archive.
    pub(super) fn archive_received(&mut self, index: u32, inbound: Inbound) -> Option<Inbound> {
        if inbound.archived != Archived::Undecided || !self.may_archive(index, inbound.class) {
            return Some(inbound);
        }
        if !self.is_received_for_archive(index, &inbound) {
            return Some(Inbound { archived: Archived::No, ..inbound });
        }
        self.archive(index, Archiving::Received(inbound));
        None
    }

    fn is_received_for_archive(&mut self, index: u32, inbound: &Inbound) -> bool {
        let from = JidRef::from_normal(&inbound.from);
        if !self.wants_archived(index, from) || !self.is_accepted(inbound) {
            return false;
        }
        self.is_worth_archiving(index, &inbound.stanza)
    }

    /// Whether somebody will get it, or it will be kept for later: what is refused is not archived (§6.1).
    fn is_accepted(&self, inbound: &Inbound) -> bool {
        let to = inbound.to.as_jid();
        let envelope = Envelope { class: inbound.class, hash: self.homes.hash(to), to, from: &inbound.from, id: None };
        match self.delivery(&envelope, true) {
            None => true,
            Some(delivery) => match delivery {
                Delivery::MostAvailable
                | Delivery::AllNonNegative
                | Delivery::AllAvailable
                | Delivery::StoreOffline => true,
                Delivery::Refuse(_) | Delivery::HandleForAccount | Delivery::Ignore => false,
            },
        }
    }

    // ---- sent --------------------------------------------------------------------------------------------------

    /// A session whose account has too much to archive waits. `None`: it may go on.
    pub(super) fn stall_to_archive(&mut self, id: SessionId, class: Class) -> Option<Flow> {
        let index = self.get(id)?.account;
        if !self.may_archive(index, class) {
            return None;
        }
        let waiting = self.accounts.get(index)?.work.as_ref()?.bytes();
        (waiting >= self.config.outbox_bytes_high as usize).then(|| self.wait_for_work(index, id))
    }

    /// A message was sent: it goes into the archive of its sender's account, and copies of it (XEP-0280) once it is there.
    /// Whether it may do so.
    pub(super) fn archive_sent(
        &mut self,
        id: SessionId,
        from: &Jid,
        to: JidRef<'_>,
        class: Class,
        body: &Body<'_>,
    ) -> bool {
        let Some(index) = self.get(id).map(|session| session.account) else { return false };
        // What an account says to itself it receives as well: once is enough.
        if !self.may_archive(index, class) || to.bare() == from.as_jid().bare() {
            return false;
        }
        let mut stanza = Vec::new();
        body.append(&mut stanza, None);
        let sent = Sent { session: id, from: from.clone(), to: to.to_jid(), class, stanza: stanza.into() };
        if self.is_managed(id) {
            self.touch(id, self.id);
        }
        self.enqueue(index, Task::Sent(Box::new(sent)));
        true
    }

    /// A message that was sent has come to the front of its account's work.
    pub(super) fn resolve_sent(&mut self, index: u32, sent: Sent) {
        if self.is_sent_for_archive(index, &sent) {
            self.archive(index, Archiving::Sent(sent));
        } else {
            self.copy_archived(&sent, None);
        }
    }

    fn is_sent_for_archive(&mut self, index: u32, sent: &Sent) -> bool {
        self.wants_archived(index, sent.to.as_jid()) && self.is_worth_archiving(index, &sent.stanza)
    }

    fn copy_archived(&mut self, sent: &Sent, id: Option<ArchiveId>) {
        let stanza = id.map(|id| with_stanza_id(&sent.stanza, &sent.from.bare(), id));
        let body = Body::Bytes(stanza.as_deref().unwrap_or(&sent.stanza));
        let bare = sent.from.bare();
        let account = self.accounts.find(self.homes.hash(bare.as_jid()), bare.as_jid());
        if account.is_some_and(|account| account.carbons > 0) {
            self.copy(&bare, "sent", (sent.class, &body), &[sent.session]);
        }
    }

    // ---- both --------------------------------------------------------------------------------------------------

    /// Archives a message and those right behind it that go into the archive as well.
    fn archive(&mut self, index: u32, first: Archiving) {
        let mut batch = vec![first];
        while batch.len() < ARCHIVED_AT_ONCE_MAX
            && let Some(next) = self.next_to_archive(index)
        {
            batch.push(next);
        }
        let entries = batch.iter().map(Archiving::entry).collect();
        self.send(index, Running::Archive(batch), Errand::Archive(entries));
    }

    /// Takes the next in the queue if it goes into the archive.
    fn next_to_archive(&mut self, index: u32) -> Option<Archiving> {
        let undecided = |inbound: &Inbound| inbound.archived == Archived::Undecided && is_conversation(inbound.class);
        let task = self.take_task_if(index, |task| {
            matches!(task, Task::Sent(_)) || matches!(task, Task::Inbound(inbound) if undecided(inbound))
        })?;
        match task {
            Task::Sent(sent) if self.is_sent_for_archive(index, &sent) => return Some(Archiving::Sent(*sent)),
            Task::Inbound(inbound)
                if !self.blocks(index, &inbound.from)
                    && !self.may_enforce(index)
                    && self.is_received_for_archive(index, &inbound) =>
            {
                return Some(Archiving::Received(inbound));
            }
            Task::Sent(_)
            | Task::Inbound(_)
            | Task::Login(_)
            | Task::Tokens(..)
            | Task::Outbound { .. }
            | Task::Announce(_)
            | Task::Serve(..)
            | Task::Fetch(_)
            | Task::Forget(_)
            | Task::Questions(_)
            | Task::Settle(_)
            | Task::Tell(_)
            | Task::Wanted(..)
            | Task::Wants(_)
            | Task::Meet(_)
            | Task::Notices
            | Task::Acknowledged(_)
            | Task::Fan(_) => self.put_task_back(index, task),
        }
        None
    }

    /// Messages are in the archive, or can't be: they go where they would have gone, with their ids.
    pub(super) fn archived(
        &mut self,
        index: u32,
        batch: Vec<Archiving>,
        done: Result<Vec<Option<ArchiveId>>, CommitError>,
    ) {
        let ids = match done {
            Ok(ids) => ids,
            Err(error) => {
                // What nobody can store still arrives. A guard that does not hold: the archive is gone.
                self.counters.not_archived += batch.len() as u64;
                if matches!(error, CommitError::Guard(_)) {
                    self.accounts.set_facts(index, None);
                }
                Vec::new()
            }
        };
        let Some(bare) = self.accounts.get(index).map(|account| account.bare.clone()) else { return };
        let mut ids = ids.into_iter();
        let mut again = Vec::new();
        for message in batch {
            let id = ids.next().flatten();
            self.counters.archived += u64::from(id.is_some());
            match (message, id) {
                (Archiving::Sent(sent), id) => self.copy_archived(&sent, id),
                (Archiving::Received(inbound), None) => again.push(Inbound { archived: Archived::No, ..inbound }),
                (Archiving::Received(mut inbound), Some(id)) => {
                    inbound.stanza = with_stanza_id(&inbound.stanza, &bare, id).into();
                    again.push(Inbound { archived: Archived::Yes, ..inbound });
                }
            }
        }
        for inbound in again.into_iter().rev() {
            self.put_task_back(index, Task::Inbound(inbound));
        }
    }

    /// Whether an account wants its messages with somebody archived (XEP-0441).
    fn wants_archived(&self, index: u32, with: JidRef<'_>) -> bool {
        let Some(facts) = self.accounts.get(index).and_then(|account| account.facts.as_ref()) else { return false };
        let in_roster = || facts.contacts.lists(with);
        facts.archive.as_ref().is_some_and(|prefs| prefs.wants(&self.config.archive, with, in_roster))
    }

    /// Whether a message is one that is archived: it says something, does not ask to be forgotten (XEP-0334 §4), and is not
    /// in the archive already: then it has an id of it, which nobody can forge.
    fn is_worth_archiving(&mut self, index: u32, stanza: &[u8]) -> bool {
        let Some(account) = self.accounts.get(index) else { return false };
        let namespaces = StreamNamespaces::default();
        self.scanner.reset();
        let scanned = self.scanner.next(&ScanLimits::SCANNED, &namespaces, stanza);
        let Ok(Scanned::Element { element, .. }) = scanned else { return false };
        let (mut says, mut refused) = (false, false);
        for child in element.children() {
            match (child.ns, child.name) {
                (ns::CLIENT, "body") | (ns::HINTS, "store") => says = true,
                (ns::HINTS, "no-store" | "no-permanent-store") => refused = true,
                (ns::STANZA_IDS, "stanza-id") => {
                    let id = element.read(&child);
                    refused |= id.is_some_and(|id| id.attr("by") == Some(account.bare.as_str()));
                }
                _ => {}
            }
        }
        says && !refused
    }

    /// An account wants something else archived from now on.
    pub(super) fn set_archive_prefs(&mut self, caller: &Jid, prefs: Box<Prefs>) {
        let bare = caller.bare();
        let index = self.accounts.find_index(self.homes.hash(bare.as_jid()), bare.as_jid());
        if let Some(facts) = index.and_then(|index| self.facts_mut(index))
            && facts.archive.is_some()
        {
            facts.archive = Some(prefs);
        }
    }
}

/// The stanza with the id it has in an archive (XEP-0359 v0.7.0 §2.1).
fn with_stanza_id(stanza: &[u8], by: &Jid, id: ArchiveId) -> Vec<u8> {
    with_child(stanza, |out| {
        out.extend_from_slice(b"<stanza-id");
        write::attr(out, "xmlns", ns::STANZA_IDS);
        write::attr(out, "by", by.as_str());
        write::attr(out, "id", &id.to_string());
        out.extend_from_slice(b"/>");
    })
}

#[cfg(test)]
mod tests;
