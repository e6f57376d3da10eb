//! Stream management of sessions (XEP-0198 v1.6.3): what was sent is kept until the client has it, a session that is cut
//! off waits to be resumed, and what never arrived goes where it would have gone without it.
//!
//! The driver tells of connections that were cut off ([`Shard::hibernate`]) and of time that is over ([`Shard::expire`]).

use std::collections::VecDeque;

use aws_lc_rs::hmac;
use plaza_core::date::DateTime;
use plaza_core::jid::{Jid, JidRef};
use plaza_core::limits::ScanLimits;
use plaza_core::ns;
use plaza_core::sm::{self, SmId};
use plaza_core::stanza::{Class, Condition, IqType, MessageType, Stanza};
use plaza_core::stream::{self, Inline, NotResumed, Resumed};
use plaza_core::xml::{Element, Scanned, Scanner, StreamNamespaces};
use plaza_registry::offline;
use plaza_registry::resumables::Resumable;
use smallvec::SmallVec;

use super::batch::{Envelope, Handoff};
use super::deliver::{Body, Origin};
use super::session::SessionId;
use super::{Effect, Flow, Shard};
use crate::mesh::ShardId;
use crate::metrics::DropReason;
use crate::ring::{GENERATION_MAX, Key};

/// The connection of a session that has none.
pub(super) const NO_CONNECTION: Key = Key { index: u32::MAX, generation: 0 };

/// So many times its bounds may a connected session hold unacknowledged: what was under way when its senders were told to
/// wait.
const PATIENCE: usize = 4;

/// Bounds of stream management.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManagedLimits {
    /// Stanzas sent and not acknowledged. Default 500. Beyond it senders wait; a session that has no connection is given up,
    /// and so is one, with `resource-constraint`, that has four times as many. What did not arrive goes on to the account.
    pub stanzas_max: u32,
    /// Bytes of them. Default 524 288; the same.
    pub bytes_max: u32,
    /// Seconds for which a session that was cut off can be resumed. Default 600.
    pub resume_seconds_max: u32,
    /// Sessions of one account that wait to be resumed. Default 4; one more ends the one that has waited longest.
    pub hibernated_max: u16,
    /// Bytes that sessions of a shard may hold which wait to be resumed. Default no bound; the broker sets a share of its
    /// memory. Beyond it the one that has waited longest is given up.
    pub hibernated_bytes_max: u64,
}

impl Default for ManagedLimits {
    fn default() -> Self {
        Self {
            stanzas_max: 500,
            bytes_max: 512 * 1024,
            resume_seconds_max: 600,
            hibernated_max: 4,
            hibernated_bytes_max: u64::MAX,
        }
    }
}

/// A session's stream management.
#[derive(Debug, Default)]
pub(super) struct Managed {
    /// Names the session if it may be resumed.
    id: Option<SmId>,
    /// For so many seconds.
    seconds: u32,
    /// Stanzas taken from the client, modulo 2³².
    pub(super) handled: u32,
    /// Stanzas sent to it, modulo 2³².
    sent: u32,
    /// Of these, acknowledged.
    acked: u32,
    /// Sent and not acknowledged, the oldest first.
    unacked: VecDeque<Unacked>,
    /// Their bytes, from `start` on.
    bytes: Vec<u8>,
    start: usize,
    /// We asked how much it has, and it has not said.
    requested: bool,
    /// How many were sent when it was asked last: it is asked once for each, whatever it says.
    requested_at: Option<u32>,
    /// It asked how much we have: the answer, and shards that have not said that theirs is stored.
    asked: Option<(u32, u16)>,
    /// It asked again meanwhile: that answer may say more.
    asked_again: bool,
    /// Shards that may be storing something of what it sent.
    touched: SmallVec<[ShardId; 4]>,
    /// Cut off, until this moment of the driver's.
    hibernated: Option<u64>,
    /// Its place among the shard's that were cut off, the first first.
    pub(super) place: u64,
    /// When it was cut off, on the wall.
    lost: u64,
    /// It was cut off since the broker stopped, or is back since: it could not be resumed meanwhile, and may have as much
    /// for it as one that is connected.
    stopped: bool,
    /// Somebody waits for its acknowledgements.
    watch: Watch,
}

/// How long those have waited who wait for a client to acknowledge.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// Nobody does.
    #[default]
    None,
    /// The driver was asked to set a time, the last or not.
    Asked { again: bool },
    /// If it has acknowledged no more than this by this moment of the driver's, it is asked once more, and then given up.
    Until { acked: u32, due: u64, again: bool },
}

#[derive(Debug, Clone, Copy)]
struct Unacked {
    len: u32,
    /// A message that was kept: it stays stored until it is acknowledged.
    kept: bool,
}

impl Managed {
    /// Whether the session has no connection.
    pub(super) fn is_hibernated(&self) -> bool {
        self.hibernated.is_some()
    }

    /// Keeps a stanza that was just written.
    fn keep(&mut self, stanza: &[u8]) {
        self.bytes.extend_from_slice(stanza);
        self.unacked.push_back(Unacked { len: u32::try_from(stanza.len()).unwrap_or(u32::MAX), kept: false });
        self.sent = self.sent.wrapping_add(1);
    }

    fn waiting(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Forgets the oldest stanzas; whether one of them was a kept message.
    fn forget(&mut self, count: u32) -> bool {
        let mut kept = false;
        for _ in 0..count {
            let Some(oldest) = self.unacked.pop_front() else { break };
            self.start += oldest.len as usize;
            kept |= oldest.kept;
        }
        self.acked = self.acked.wrapping_add(count);
        if self.unacked.is_empty() {
            self.bytes.clear();
            self.start = 0;
            // An idle session owns no memory for what it might be sent.
            self.bytes.shrink_to(0);
            self.unacked.shrink_to(0);
        } else if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        kept
    }

    /// How full it is, in bytes of an outbox of `outbox_max`: senders wait from a quarter on.
    pub(super) fn pressure(&self, limits: &ManagedLimits, outbox_max: u32) -> usize {
        let share = |part: usize, whole: u32| part.saturating_mul(outbox_max as usize) / whole.max(1) as usize;
        share(self.unacked.len(), limits.stanzas_max).max(share(self.waiting().len(), limits.bytes_max)) / PATIENCE
    }

    fn is_over(&self, limits: &ManagedLimits) -> bool {
        let times = if self.is_hibernated() && !self.stopped { 1 } else { PATIENCE };
        let (stanzas_max, bytes_max) = (limits.stanzas_max as usize, limits.bytes_max as usize);
        self.unacked.len() > times * stanzas_max || self.waiting().len() > times * bytes_max
    }

    /// User-space bytes it holds.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity() + self.unacked.capacity() * size_of::<Unacked>()
    }
}

impl Shard {
    /// An element that is no stanza: one of stream management, or none we know.
    pub(super) fn manage(&mut self, id: SessionId, element: &Element<'_>) -> Flow {
        if let Some(flow) = self.client_state(id, element) {
            return flow;
        }
        let request = match sm::Request::read(element) {
            Ok(Some(request)) => request,
            Ok(None) => return Flow::End(stream::Condition::UnsupportedStanzaType.into()),
            Err(sm::Malformed) => return Flow::End(stream::Condition::BadFormat.into()),
        };
        match request {
            sm::Request::Enable(enable) => {
                let answer = self.enable_management(id, enable);
                self.write_unmanaged(id, |out| match answer {
                    Ok(enabled) => enabled.write(out),
                    Err(failed) => failed.write(out),
                });
                Flow::Continue
            }
            // §5: before a resource is bound, or not at all.
            sm::Request::Resume(_) => {
                let failed = sm::Failed::from(Condition::UnexpectedRequest);
                self.write_unmanaged(id, |out| failed.write(out));
                Flow::Continue
            }
            sm::Request::Count => self.count_handled(id),
            sm::Request::Handled(h) => match self.acknowledge(id, h) {
                Ok(()) => Flow::Continue,
                Err(counts) => Flow::End(counts.into()),
            },
        }
    }

    /// Manages a session's stream from here on (§3).
    ///
    /// # Errors
    /// `unexpected-request` if it is managed already.
    pub fn enable_management(&mut self, id: SessionId, enable: sm::Enable) -> Result<sm::Enabled, sm::Failed> {
        let (limits, own) = (self.config.managed, self.fresh_id());
        let Some(session) = self.get_mut(id).filter(|session| session.managed.is_none()) else {
            return Err(Condition::UnexpectedRequest.into());
        };
        let seconds = enable.max.unwrap_or(u32::MAX).min(limits.resume_seconds_max);
        let resumable = enable.resume && seconds > 0;
        let managed = Managed { id: resumable.then_some(own), seconds, ..Managed::default() };
        session.managed = Some(Box::new(managed));
        if resumable {
            self.resumables.insert(own.session, id);
        }
        Ok(sm::Enabled { resumable: resumable.then_some((own, seconds)) })
    }

    /// Begins a new session as its client asked (XEP-0386 v1.1.0 §3.2), and says what became of stream management if that
    /// was part of it. Negotiation hands over only what the listener offers.
    pub fn begin_with(&mut self, id: SessionId, inline: Inline) -> Option<Result<sm::Enabled, sm::Failed>> {
        if inline.carbons {
            self.set_carbons(id, true);
        }
        if let Some(active) = inline.active {
            self.set_active(id, active);
        }
        inline.sm.map(|enable| self.enable_management(id, enable))
    }

    /// A name nobody can guess: a keyed hash of a number never used before.
    fn fresh_id(&mut self) -> SmId {
        self.ids += 1;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.config.managed_key);
        let mut text = [0; 10];
        let (shard, number) = text.split_at_mut(2);
        shard.copy_from_slice(&self.id.0.to_be_bytes());
        number.copy_from_slice(&self.ids.to_be_bytes());
        let tag = hmac::sign(&key, &text);
        let (secret, rest) = tag.as_ref().split_first_chunk().unwrap_or((&[0; 16], &[]));
        let session = rest.first_chunk().map_or(self.ids, |bytes| u64::from_be_bytes(*bytes));
        SmId { secret: *secret, session }
    }

    // ---- what we have ------------------------------------------------------------------------------------------

    /// The session gave a stanza to an account on a shard, which may be storing it: an acknowledgement has to wait for that.
    pub(super) fn touch(&mut self, id: SessionId, shard: ShardId) {
        if let Some(managed) = self.get_mut(id).and_then(|session| session.managed.as_mut())
            && !managed.touched.contains(&shard)
        {
            managed.touched.push(shard);
        }
    }

    /// `<r/>` (§4): what we have handled, once all of it that is to be stored is stored.
    fn count_handled(&mut self, id: SessionId) -> Flow {
        let own = self.id;
        let Some(managed) = self.get_mut(id).and_then(|session| session.managed.as_mut()) else {
            return Flow::End(stream::Condition::UnsupportedStanzaType.into());
        };
        if managed.asked.is_some() {
            // The answer to that question is on its way and may say less: the next one is for all that asked since.
            managed.asked_again = true;
            return Flow::Continue;
        }
        let touched = std::mem::take(&mut managed.touched);
        managed.asked = Some((managed.handled, touched.len() as u16));
        for shard in &touched {
            if *shard == own {
                self.settle_for(own, id);
            } else if let Some(batch) = self.batches.get_mut(usize::from(shard.0)) {
                batch.handoffs.push(Handoff::Settle(id));
            }
        }
        if touched.is_empty() {
            self.answer_count(id);
        }
        Flow::Continue
    }

    /// Another shard, or this one, has stored what a session sent it.
    pub(super) fn settled(&mut self, id: SessionId) {
        let Some(managed) = self.get_mut(id).and_then(|session| session.managed.as_mut()) else { return };
        let Some((_, waits)) = &mut managed.asked else { return };
        *waits = waits.saturating_sub(1);
        if *waits == 0 {
            self.answer_count(id);
        }
    }

    fn answer_count(&mut self, id: SessionId) {
        let Some(managed) = self.get_mut(id).and_then(|session| session.managed.as_mut()) else { return };
        let Some((h, _)) = managed.asked.take() else { return };
        let again = std::mem::take(&mut managed.asked_again);
        self.write_unmanaged(id, |out| sm::write_ack(out, h));
        if again {
            self.count_handled(id);
        }
    }

    // ---- what the client has -----------------------------------------------------------------------------------

    fn acknowledge(&mut self, id: SessionId, h: u32) -> Result<(), sm::HandledCountTooHigh> {
        let low = self.config.outbox_bytes_low as usize;
        let Some(session) = self.get_mut(id) else { return Ok(()) };
        let Some(managed) = session.managed.as_mut() else { return Ok(()) };
        let fresh = sm::acknowledged(managed.acked, managed.sent, h)?;
        managed.requested = false;
        let kept = managed.forget(fresh);
        let more_kept = managed.unacked.iter().any(|unacked| unacked.kept);
        self.recount(id);
        let Some(session) = self.get_mut(id) else { return Ok(()) };
        if session.is_waited_for() && self.unsent(id) <= low {
            self.release_waiters(id);
        }
        if kept && !more_kept {
            self.forget_given(id);
        }
        // What was written since we asked: if nobody writes more, nobody would ask again.
        self.request_count(id);
        self.mark_dirty(id);
        Ok(())
    }

    /// Keeps what was just written to a managed session; whether it was to be written at all, or only kept.
    pub(super) fn keep_unacked(&mut self, id: SessionId, start: usize) {
        let limits = self.config.managed;
        let Some(session) = self.sessions.get_mut(id.index as usize) else { return };
        let Some(managed) = session.managed.as_mut() else { return };
        managed.keep(session.outbox.get(start..).unwrap_or_default());
        if managed.is_hibernated() {
            session.outbox.truncate(start);
        }
        if managed.is_over(&limits) {
            self.effects.push_back(Effect::Expire(id));
        }
    }

    /// The last stanza written to a session was a message that is stored as well.
    pub(super) fn mark_kept(&mut self, id: SessionId) {
        let managed = self.get_mut(id).and_then(|session| session.managed.as_mut());
        if let Some(last) = managed.and_then(|managed| managed.unacked.back_mut()) {
            last.kept = true;
        }
    }

    /// Asks the client how much it has, behind what is about to be written to it (§4).
    pub(super) fn request_count(&mut self, id: SessionId) {
        let Some(session) = self.get_mut(id).filter(|session| session.connection != NO_CONNECTION) else { return };
        if let Some(managed) = session.managed.as_mut()
            && !managed.requested
            && !managed.unacked.is_empty()
            && managed.requested_at != Some(managed.sent)
        {
            managed.requested = true;
            managed.requested_at = Some(managed.sent);
            sm::write_request(&mut session.outbox);
        }
    }

    // ---- cut off, resumed, given up ----------------------------------------------------------------------------

    /// The broker stops: a session that may be resumed has no connection any more, and what comes for it waits until it is
    /// kept ([`Shard::retire`]). However many of its account do so. Whether it may be resumed.
    pub fn suspend(&mut self, id: SessionId) -> bool {
        let managed = self.get_mut(id).and_then(|session| session.managed.as_mut());
        let Some(managed) = managed.filter(|managed| managed.id.is_some()) else { return false };
        managed.stopped = true;
        self.cut_off(id, |_| u64::MAX).is_some()
    }

    /// A session's connection is gone, and the session waits until a moment; its account, if it may be resumed.
    fn cut_off(&mut self, id: SessionId, until: impl FnOnce(u32) -> u64) -> Option<u32> {
        self.give_held(id);
        let lost = self.unix_millis;
        let session = self.get_mut(id).filter(|session| !session.flags.ended)?;
        session.flags.inactive = false;
        let account = session.account;
        let managed = session.managed.as_mut().filter(|managed| managed.id.is_some())?;
        managed.hibernated = Some(until(managed.seconds));
        managed.lost = lost;
        managed.requested = false;
        session.outbox = Vec::new();
        session.in_flight = 0;
        session.connection = NO_CONNECTION;
        self.counters.hibernated += 1;
        self.release_waiters(id);
        self.falls_asleep(id);
        Some(account)
    }

    /// A session's connection was cut off. Whether the session waits to be resumed, and for how many seconds; else it has
    /// to be ended.
    pub fn hibernate(&mut self, id: SessionId, until: impl FnOnce(u32) -> u64) -> bool {
        let Some(account) = self.cut_off(id, until) else { return false };
        // The account's oldest makes room.
        let most = usize::from(self.config.managed.hibernated_max);
        let sessions = self.accounts.get(account).map(|account| account.sessions.clone()).unwrap_or_default();
        let mut waiting: Vec<(u64, SessionId)> = sessions
            .iter()
            .filter_map(|&index| {
                let session = self.sessions.get(index as usize)?;
                let until = session.managed.as_ref()?.hibernated?;
                Some((until, SessionId { index, generation: session.generation }))
            })
            .collect();
        if waiting.len() > most {
            waiting.sort_unstable_by_key(|(until, _)| *until);
            if let Some(&(_, oldest)) = waiting.first() {
                self.give_up(oldest);
                return oldest != id;
            }
        }
        true
    }

    /// A moment of the driver's has come: a session is given its late answer; one that waits no longer to be resumed is given
    /// up, and so is one whose client has acknowledged nothing while others waited for it. One that is connected and over its
    /// bounds ends at once (`now` is `None`).
    pub fn expire(&mut self, id: SessionId, now: Option<u64>) {
        match now {
            Some(now) => self.answer_late(id, now),
            None => self.thin_out(),
        }
        let Some(session) = self.get(id) else { return };
        let Some(managed) = &session.managed else { return };
        match (managed.hibernated, now) {
            (_, None) if !managed.is_over(&self.config.managed) => {} // Another was meant, or it is resumed.
            (Some(_), None) => self.give_up(id),
            (Some(until), Some(now)) if until <= now => self.give_up(id),
            (Some(_), Some(_)) => {}
            (None, None) => self.terminate(id, stream::Condition::ResourceConstraint),
            (None, Some(now)) => self.check_watch(id, now),
        }
    }

    /// Somebody waits for a session. If it is for acknowledgements, the wait has an end: [`Effect::Watch`].
    pub(super) fn watch(&mut self, id: SessionId) {
        let Some(managed) = self.get_mut(id).and_then(|session| session.managed.as_mut()) else { return };
        if managed.watch == Watch::None && !managed.is_hibernated() {
            managed.watch = Watch::Asked { again: false };
            self.effects.push_back(Effect::Watch(id));
        }
    }

    /// When a session that others wait for is to be looked at again ([`Shard::expire`]).
    pub fn watch_until(&mut self, id: SessionId, due: u64) {
        if let Some(managed) = self.get_mut(id).and_then(|session| session.managed.as_mut()) {
            let again = managed.watch == Watch::Asked { again: true };
            managed.watch = Watch::Until { acked: managed.acked, due, again };
        }
    }

    /// Gives a session up that has all it was sent, and has acknowledged none of it while others waited (XEP-0198 §4: what is
    /// not acknowledged in time may be held for lost).
    fn check_watch(&mut self, id: SessionId, now: u64) {
        let low = self.config.outbox_bytes_low as usize;
        let Some(session) = self.get_mut(id) else { return };
        let Some(managed) = session.managed.as_mut() else { return };
        let Watch::Until { acked, due, again } = managed.watch else { return };
        if due > now {
            return;
        }
        managed.watch = Watch::None;
        let said_nothing = managed.acked == acked;
        let (has_all, waited_for) = (session.unsent() <= low, session.is_waited_for());
        if !waited_for {
            return;
        }
        let overdue = said_nothing && has_all && self.unsent(id) > low;
        let Some(managed) = self.get_mut(id).and_then(|session| session.managed.as_mut()) else { return };
        if overdue && (again || managed.requested) {
            return self.terminate(id, stream::Condition::ResourceConstraint);
        }
        // It answered, before it had handled them perhaps.
        managed.watch = Watch::Asked { again: overdue };
        managed.requested_at = None;
        self.effects.push_back(Effect::Watch(id));
        self.request_count(id);
        self.mark_dirty(id);
    }

    /// Ends a session that has no connection.
    pub(super) fn give_up(&mut self, id: SessionId) {
        let last = self.end(id);
        self.give_buffer(last);
    }

    /// Gives the connection a session of this account that was cut off, or that another connection still has (§5).
    ///
    /// # Errors
    /// [`Condition::ItemNotFound`] if there is none; the client acknowledged more than it was sent.
    pub fn resume_session(
        &mut self,
        connection: Key,
        account: &Jid,
        previd: &SmId,
        h: u32,
    ) -> Result<(SessionId, Resumed), NotResumed> {
        let known = self.resumables.get(&previd.session).copied();
        let found = known.filter(|&id| {
            self.get(id).is_some_and(|session| {
                let named = session.managed.as_ref().and_then(|managed| managed.id.as_ref()) == Some(previd);
                named && !session.flags.ended && session.jid.as_jid().bare() == account.as_jid()
            })
        });
        let Some(id) = found else { return Err(Condition::ItemNotFound.into()) };
        self.acknowledge(id, h).map_err(NotResumed::HandledCountTooHigh)?;
        // The slab index stays; a new generation keeps what was under way for the old connection from the new one.
        let Some(session) = self.get_mut(id) else { return Err(Condition::ItemNotFound.into()) };
        let old = std::mem::replace(&mut session.connection, connection);
        let jid = session.jid.clone();
        session.outbox.clear();
        session.in_flight = 0;
        session.paused = 0;
        session.flags.waits_for_mesh = false;
        let Some(managed) = session.managed.as_mut() else { return Err(Condition::ItemNotFound.into()) };
        let hibernated = managed.hibernated.take().is_some();
        let place = managed.place;
        managed.requested = false;
        managed.requested_at = None;
        (managed.asked, managed.asked_again) = (None, false);
        managed.watch = Watch::None;
        managed.stopped = false;
        let resumed = Resumed { jid, h: managed.handled };
        self.recount(id);
        if hibernated {
            self.memory.asleep.remove(&place);
            self.counters.hibernated = self.counters.hibernated.saturating_sub(1);
        } else if old != NO_CONNECTION {
            self.effects.push_back(Effect::Displace(old));
        }
        self.counters.resumed += 1;
        if self.can_take_messages(id) {
            self.fetch_kept(id); // What came while the broker was restarted.
        }
        Ok((id, resumed))
    }

    /// Sends again what the client does not have, behind `<resumed/>`.
    pub fn send_again(&mut self, id: SessionId) {
        let mut buffer = self.take_buffer();
        let Some(session) = self.get_mut(id) else { return self.give_buffer(buffer) };
        if let Some(managed) = &session.managed {
            buffer.extend_from_slice(managed.waiting());
        }
        let old = std::mem::replace(&mut session.outbox, buffer);
        self.give_buffer(old);
        self.recount(id);
        self.mark_dirty(id);
    }

    /// Takes a session that may be resumed out of the shard, to be kept while the broker is restarted. Nobody is told that it
    /// leaves, since it does not. `None` if it can't be resumed.
    pub fn retire(&mut self, id: SessionId) -> Option<Resumable> {
        let session = self.get_mut(id).filter(|session| !session.flags.ended)?;
        session.managed.as_ref().filter(|managed| managed.id.is_some())?;
        let carbons = session.flags.carbons;
        self.give_held(id);
        self.forget_caps(id);
        self.set_carbons(id, false);
        self.discount(id);
        let session = self.get_mut(id)?;
        let managed = session.managed.take()?;
        session.flags.ended = true;
        let (account, priority, interested) = (session.account, session.priority, session.flags.interested);
        let presence = session.extras.as_ref().and_then(|extras| extras.presence.clone());
        let jid = session.jid.clone();
        self.accounts.unlink(account, id.index, self.facts_bytes_max());
        self.sessions.remove(id.index as usize);
        self.memory.asleep.remove(&managed.place);
        self.counters.hibernated = self.counters.hibernated.saturating_sub(u64::from(managed.is_hibernated()));
        let own = managed.id?;
        self.resumables.remove(&own.session);
        let mut rest = managed.waiting();
        let unacked = managed.unacked.iter().map_while(|unacked| {
            let (stanza, others) = rest.split_at_checked(unacked.len as usize)?;
            rest = others;
            Some((stanza.into(), unacked.kept))
        });
        Some(Resumable {
            jid,
            secret: own.secret,
            number: own.session,
            seconds: managed.seconds,
            handled: managed.handled,
            sent: managed.sent,
            priority,
            interested,
            carbons,
            presence,
            unacked: unacked.collect(),
        })
    }

    /// Brings a session back that was kept while the broker was restarted: it waits until the moment given. `None` if its
    /// address is taken already, or its account may have no further session: then what it did not acknowledge goes on.
    pub fn restore(&mut self, kept: Resumable, until: u64) -> Option<SessionId> {
        let own = SmId { secret: kept.secret, session: kept.number };
        let acked = kept.sent.wrapping_sub(kept.unacked.len() as u32);
        let mut managed = Managed {
            id: Some(own),
            seconds: kept.seconds,
            handled: kept.handled,
            sent: acked,
            acked,
            lost: self.unix_millis,
            stopped: true,
            ..Managed::default()
        };
        for (stanza, kept) in &kept.unacked {
            managed.keep(stanza);
            if let Some(last) = managed.unacked.back_mut() {
                last.kept = *kept;
            }
        }
        let bare = kept.jid.bare();
        let resource = kept.jid.as_jid().resource()?.to_owned();
        let taken = self.session_of(self.homes.hash(bare.as_jid()), kept.jid.as_jid()).is_some();
        let bound = (!taken).then(|| self.bind(NO_CONNECTION, &bare, Some(&resource), 0));
        let Some(Ok((id, _))) = bound else {
            self.hand_on(&kept.jid, managed);
            return None;
        };
        managed.hibernated = Some(until);
        let session = self.get_mut(id)?;
        session.managed = Some(Box::new(managed));
        session.priority = kept.priority;
        session.flags.interested = kept.interested;
        let carbons = kept.carbons;
        if kept.presence.is_some() {
            session.extras().presence = kept.presence;
        }
        self.set_carbons(id, carbons);
        self.resumables.insert(own.session, id);
        self.counters.hibernated += 1;
        self.falls_asleep(id);
        Some(id)
    }

    /// Whether a session is managed and can be resumed.
    pub fn is_resumable(&self, id: SessionId) -> bool {
        self.get(id).and_then(|session| session.managed.as_ref()).is_some_and(|managed| managed.id.is_some())
    }

    /// What a session that is gone was sent and did not acknowledge goes where it would have gone had the session not been
    /// there: messages to its account, with the time at which they did not arrive, questions back as errors (§4, §5).
    pub(super) fn hand_on(&mut self, jid: &Jid, managed: Managed) {
        if let Some(id) = &managed.id {
            self.resumables.remove(&id.session);
        }
        let mut lost = self.unix_millis;
        if managed.is_hibernated() {
            self.counters.hibernated = self.counters.hibernated.saturating_sub(1);
            self.memory.asleep.remove(&managed.place);
            lost = managed.lost;
        }
        let lost = DateTime::from_unix_millis(lost);
        let (mut scanner, namespaces) = (Scanner::new(), StreamNamespaces::default());
        let mut rest = managed.waiting();
        for unacked in &managed.unacked {
            let Some((stanza, others)) = rest.split_at_checked(unacked.len as usize) else { return };
            rest = others;
            if unacked.kept {
                continue; // It is in the store still.
            }
            scanner.reset();
            let scanned = scanner.next(&ScanLimits::AFTER_AUTH, &namespaces, stanza);
            let Ok(Scanned::Element { element, .. }) = scanned else { continue };
            let Ok(parsed) = Stanza::classify(element, ns::CLIENT) else { continue };
            self.hand_on_one(jid, &parsed, stanza, lost);
        }
    }

    fn hand_on_one(&mut self, jid: &Jid, parsed: &Stanza<'_>, stanza: &[u8], lost: DateTime) {
        let from = parsed.from.map(|from| from.value().into_owned()).unwrap_or_default();
        let id = parsed.id.map(|id| id.raw);
        let to = match parsed.class {
            // Its account has other resources, or keeps it.
            Class::Message(MessageType::Normal | MessageType::Chat) => jid.as_jid().bare(),
            Class::Message(_) | Class::Presence(_) | Class::Iq(_) => jid.as_jid(),
        };
        let envelope = Envelope { class: parsed.class, hash: self.homes.hash(to), to, from: &from, id };
        // The broker's own word to this session: copies (XEP-0280), pages of an archive (XEP-0313). Nobody else asked for it.
        if from == jid.as_jid().bare().as_str() {
            self.counters.drops[DropReason::Stale] += 1;
            return;
        }
        match parsed.class {
            Class::Message(MessageType::Normal | MessageType::Chat) => {
                let stanza = offline::with_delay(stanza, jid.as_jid().domain(), lost);
                self.deliver(&envelope, Origin::HandedOn, &Body::Bytes(&stanza));
            }
            Class::Iq(IqType::Get | IqType::Set) | Class::Message(MessageType::Groupchat)
                if JidRef::parse_fast(&from).is_some() =>
            {
                self.bounce(&envelope, Condition::RecipientUnavailable, DropReason::Stale);
            }
            Class::Message(_) | Class::Presence(_) | Class::Iq(_) => {
                self.counters.drops[DropReason::Stale] += 1;
            }
        }
    }
}

const _: () = assert!(GENERATION_MAX < u32::MAX, "a session's name has room for its generation");
