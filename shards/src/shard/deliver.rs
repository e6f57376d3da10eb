//! The last step of a stanza's walk: into the outboxes of its recipients, or back as an error.

use plaza_core::jid::JidRef;
use plaza_core::rules::{self, Delivery};
use plaza_core::stanza::{
    Class, Condition, IqType, MessageType, PresenceType, Stamp, Stanza, write_error, write_stanza,
};
use plaza_core::stream;
use plaza_core::xml::StreamNamespaces;
use smallvec::SmallVec;

use super::batch::{BATCH_OWN_BYTES_MAX, Envelope, Handoff};
use super::session::{Waiter, is_under_way};
use super::{Flow, SessionId, Shard};
use crate::mesh::ShardId;
use crate::metrics::DropReason;

/// Whom a stanza came from, for back-pressure.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// A session of this shard: it can be made to wait.
    Local(SessionId),
    /// A session of another shard: it can be asked to send no more.
    Remote(ShardId, SessionId),
    /// The broker itself.
    Broker,
    /// A session that is gone and did not get it: it is older than whatever waits for the account.
    HandedOn,
}

/// A stanza's bytes: yet to be written from what was scanned, or written already.
pub(super) enum Body<'a> {
    Stanza { stanza: &'a Stanza<'a>, from: &'a str, namespaces: &'a StreamNamespaces },
    Bytes(&'a [u8]),
}

impl Body<'_> {
    pub(super) fn append(&self, out: &mut Vec<u8>, to: Option<&str>) {
        match self {
            Self::Stanza { stanza, from, namespaces } => write_stanza(out, stanza, Stamp { from, to }, namespaces),
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
        }
    }
}

impl Shard {
    /// Delivers a stanza to an account at home here (RFC 6121 §8.5). Only a local origin is ever stalled.
    pub(super) fn deliver(&mut self, envelope: &Envelope<'_>, origin: Origin, body: &Body<'_>) -> Flow {
        let Some(index) = self.accounts.find_index(envelope.hash, envelope.to) else {
            return self.deliver_unknown(envelope, origin, body);
        };
        if let Some(flow) = self.hold_to_archive(index, envelope, origin, body) {
            return flow;
        }
        if self.waits_for_store(index) {
            return self.queue_inbound(envelope, origin, body);
        }
        if self.blocks(index, envelope.from) {
            return self.refuse_blocked(envelope);
        }
        if let Some(flow) = self.hold_to_enforce(index, envelope, origin, body) {
            return flow;
        }
        if envelope.to.resource().is_some()
            && rules::reaches_resource(envelope.class)
            && let Some(recipient) = self.session_with(index, envelope.to)
        {
            return self.deliver_to(recipient, envelope, origin, body);
        }
        self.deliver_unknown(envelope, origin, body)
    }

    /// Delivers to an account of which perhaps nothing is known: what depends on that waits for the store.
    fn deliver_unknown(&mut self, envelope: &Envelope<'_>, origin: Origin, body: &Body<'_>) -> Flow {
        if self.needs_facts(envelope) {
            return self.queue_inbound(envelope, origin, body);
        }
        self.deliver_known(envelope, origin, body, true)
    }

    /// Whether nobody can say what becomes of a stanza without the account's facts: a message to be kept, a subscription, a
    /// probe.
    pub(super) fn needs_facts(&self, envelope: &Envelope<'_>) -> bool {
        match envelope.class {
            Class::Presence(_) => {
                !(rules::reaches_resource(envelope.class) && envelope.to.resource().is_some())
                    && self.unmatched(envelope, true) == Delivery::HandleForAccount
            }
            Class::Message(_) => self.is_kept(envelope, true),
            Class::Iq(_) => false,
        }
    }

    fn unmatched(&self, envelope: &Envelope<'_>, exists: bool) -> Delivery {
        let best = self.available(envelope).1;
        rules::unmatched(envelope.class, exists, envelope.to.is_bare(), best)
    }

    /// What becomes of a stanza that no session is there for by its full JID; `None` if one is.
    pub(super) fn delivery(&self, envelope: &Envelope<'_>, exists: bool) -> Option<Delivery> {
        let here = envelope.to.resource().is_some()
            && rules::reaches_resource(envelope.class)
            && self.session_of(envelope.hash, envelope.to).is_some();
        (!here).then(|| self.unmatched(envelope, exists))
    }

    /// Whether a message is to be kept until its account can take it: none of its resources can now.
    pub(super) fn is_kept(&self, envelope: &Envelope<'_>, exists: bool) -> bool {
        self.delivery(envelope, exists) == Some(Delivery::StoreOffline)
    }

    /// Delivers to an account that is known to exist or not.
    pub(super) fn deliver_known(
        &mut self,
        envelope: &Envelope<'_>,
        origin: Origin,
        body: &Body<'_>,
        exists: bool,
    ) -> Flow {
        if envelope.to.resource().is_some()
            && rules::reaches_resource(envelope.class)
            && let Some(recipient) = self.session_of(envelope.hash, envelope.to)
        {
            return self.deliver_to(recipient, envelope, origin, body);
        }
        let (recipients, best) = self.available(envelope);
        match rules::unmatched(envelope.class, exists, envelope.to.is_bare(), best) {
            Delivery::MostAvailable => self.deliver_all(
                recipients.iter().filter(|(_, priority)| Some(*priority) == best),
                envelope,
                origin,
                body,
            ),
            Delivery::AllNonNegative => {
                self.deliver_all(recipients.iter().filter(|(_, priority)| *priority >= 0), envelope, origin, body)
            }
            Delivery::AllAvailable => self.deliver_all(recipients.iter(), envelope, origin, body),
            Delivery::StoreOffline => self.bounce(envelope, Condition::ServiceUnavailable, DropReason::Unanswerable),
            Delivery::Refuse(condition) => self.bounce(envelope, condition, DropReason::Unanswerable),
            Delivery::HandleForAccount => self.drop_counted(DropReason::Unhandled),
            Delivery::Ignore => self.drop_counted(DropReason::NoRoute),
        }
    }

    /// The account's available resources, and the highest priority among them.
    fn available(&self, envelope: &Envelope<'_>) -> (SmallVec<[(SessionId, i8); 4]>, Option<i8>) {
        let Some(account) = self.accounts.find(envelope.hash, envelope.to) else { return (SmallVec::new(), None) };
        let resources = account.sessions.iter().filter_map(|&index| {
            let session = self.sessions.get(index as usize)?;
            Some((SessionId { index, generation: session.generation }, session.priority?))
        });
        let resources: SmallVec<[(SessionId, i8); 4]> = resources.collect();
        let best = resources.iter().map(|&(_, priority)| priority).max();
        (resources, best)
    }

    fn deliver_all<'r>(
        &mut self,
        recipients: impl Iterator<Item = &'r (SessionId, i8)>,
        envelope: &Envelope<'_>,
        origin: Origin,
        body: &Body<'_>,
    ) -> Flow {
        let mut recipients = recipients.map(|&(id, _)| id);
        let Some(first) = recipients.next() else { return self.drop_counted(DropReason::NoRoute) };
        // The first may stall the sender; once it need not, the rest take the stanza as it comes.
        if let Some(stalled) = self.stall(first, origin) {
            return stalled;
        }
        let mut taken = self.append(first, envelope, origin, body);
        let mut full = u64::from(!taken);
        let mut had: SmallVec<[SessionId; 4]> = SmallVec::from_slice(&[first]);
        for recipient in recipients {
            had.push(recipient);
            if self.append(recipient, envelope, Origin::Broker, body) {
                taken = true;
            } else {
                full += 1;
            }
        }
        if !taken {
            if self.get(first).is_none_or(|session| session.flags.ended) {
                return self.deliver_unknown(envelope, origin, body); // It was given up just now.
            }
            return self.bounce(envelope, Condition::ResourceConstraint, DropReason::OutboxFull);
        }
        self.copy_received(envelope, body, &had);
        // It arrived: an error would deny that.
        self.counters.drops[DropReason::OutboxFull] += full;
        Flow::Continue
    }

    fn deliver_to(&mut self, recipient: SessionId, envelope: &Envelope<'_>, origin: Origin, body: &Body<'_>) -> Flow {
        if let Some(stalled) = self.stall(recipient, origin) {
            return stalled;
        }
        if !self.append(recipient, envelope, origin, body) {
            if self.get(recipient).is_none_or(|session| session.flags.ended) {
                return self.deliver_unknown(envelope, origin, body); // It was given up just now.
            }
            return self.bounce(envelope, Condition::ResourceConstraint, DropReason::OutboxFull);
        }
        self.copy_received(envelope, body, &[recipient]);
        Flow::Continue
    }

    /// Lets a sender of this shard wait if the recipient's outbox is high.
    fn stall(&mut self, recipient: SessionId, origin: Origin) -> Option<Flow> {
        let Origin::Local(sender) = origin else { return None };
        let high = self.unsent(recipient) >= self.config.outbox_bytes_high as usize;
        high.then(|| self.wait_for(sender, recipient))
    }

    /// Lets a sender wait, or asks it to, if the outbox of who will get its message is high.
    pub(super) fn stall_for_recipient(&mut self, index: u32, envelope: &Envelope<'_>, origin: Origin) -> Option<Flow> {
        let full = envelope.to.resource().and_then(|_| self.session_with(index, envelope.to));
        let recipient = full.or_else(|| {
            let (resources, best) = self.available(envelope);
            resources.iter().find(|(_, priority)| Some(*priority) == best).map(|&(id, _)| id)
        })?;
        if let Origin::Remote(shard, sender) = origin
            && self.unsent(recipient) >= self.config.outbox_bytes_high as usize
        {
            self.pause_remote(recipient, shard, sender);
        }
        self.stall(recipient, origin)
    }

    /// Appends to a recipient's outbox, within its bound. Whether it had room.
    fn append(&mut self, recipient: SessionId, envelope: &Envelope<'_>, origin: Origin, body: &Body<'_>) -> bool {
        if self.get(recipient).is_none() {
            return false;
        }
        let unsent = self.unsent(recipient);
        let refused = unsent >= self.config.outbox_bytes_full as usize && !self.may_overfill(recipient, unsent, origin);
        if unsent >= self.config.outbox_bytes_high as usize
            && let Origin::Remote(shard, sender) = origin
        {
            self.pause_remote(recipient, shard, sender);
        }
        if refused {
            // A client that acknowledges nothing is given up; what it was sent goes on to its account, and so does this.
            if self.is_managed(recipient) {
                self.terminate(recipient, stream::Condition::ResourceConstraint);
            }
            return false;
        }
        if self.hold_presence(recipient, (envelope.class, envelope.from), |out| body.append(out, None)) {
            return true;
        }
        // What somebody says may be about presence that was held.
        if self.is_inactive(recipient) {
            self.give_held(recipient);
        }
        self.write(recipient, |out| body.append(out, None));
        self.counters.stanzas_out[envelope.class.kind()] += 1;
        true
    }

    /// Whether a full outbox takes a stanza still: its sender had it under way.
    fn may_overfill(&self, recipient: SessionId, unsent: usize, origin: Origin) -> bool {
        let Origin::Remote(shard, sender) = origin else { return false };
        let extras = self.get(recipient).and_then(|session| session.extras.as_ref());
        let waiters = extras.map_or(&[][..], |extras| &extras.waiters);
        unsent < self.config.outbox_bytes_max as usize && is_under_way(waiters, shard, sender)
    }

    fn pause_remote(&mut self, recipient: SessionId, shard: ShardId, sender: SessionId) {
        let Some(session) = self.get_mut(recipient) else { return };
        let waiter = Waiter::Remote(shard, sender);
        let waiters = &mut session.extras().waiters;
        if waiters.contains(&waiter) {
            return;
        }
        waiters.push(waiter);
        self.watch(recipient);
        self.ask_to_pause(shard, sender);
    }

    /// Asks a session of another shard to send no more until told otherwise.
    pub(super) fn ask_to_pause(&mut self, shard: ShardId, sender: SessionId) {
        self.counters.backpressure_pauses += 1;
        if let Some(batch) = self.batches.get_mut(usize::from(shard.0)) {
            batch.handoffs.push(Handoff::Pause(sender));
        }
    }

    /// Answers the sender with an error, wherever it is; what has no answer, an error or a result above all, is dropped
    /// and counted for the reason given (RFC 6120 §8.3.1).
    pub(super) fn bounce(&mut self, envelope: &Envelope<'_>, condition: Condition, reason: DropReason) -> Flow {
        let silent = !envelope.class.answerable() || matches!(envelope.class, Class::Presence(_));
        if silent {
            return self.drop_counted(reason);
        }
        self.counters.stanza_errors[condition] += 1;
        let mut answer = self.take_buffer();
        let kind = envelope.class.kind();
        write_error(&mut answer, kind, envelope.id, envelope.to.as_str(), envelope.from, condition.into());
        let class = match envelope.class {
            Class::Message(_) => Class::Message(MessageType::Error),
            Class::Presence(_) => Class::Presence(PresenceType::Error),
            Class::Iq(_) => Class::Iq(IqType::Error),
        };
        self.route_own(class, JidRef::from_normal(envelope.from), envelope.to.as_str(), &answer);
        self.give_buffer(answer);
        Flow::Continue
    }

    /// Routes a stanza of the broker's own to a local address, here or on another shard.
    pub(super) fn route_own(&mut self, class: Class, to: JidRef<'_>, from: &str, bytes: &[u8]) {
        let hash = self.homes.hash(to);
        let envelope = Envelope { class, hash, to, from, id: None };
        let home = self.homes.shard(hash);
        if home == self.id {
            self.deliver(&envelope, Origin::Broker, &Body::Bytes(bytes));
        } else if let Some(batch) = self.batches.get_mut(usize::from(home.0)) {
            if batch.bytes() >= BATCH_OWN_BYTES_MAX {
                self.counters.drops[DropReason::MeshFull] += 1;
                return;
            }
            batch.stanza(&envelope, None, |out| out.extend_from_slice(bytes));
            self.full |= batch.is_full();
            self.counters.handoffs_out += 1;
        }
    }

    pub(super) fn drop_counted(&mut self, reason: DropReason) -> Flow {
        self.counters.drops[reason] += 1;
        Flow::Continue
    }
}
