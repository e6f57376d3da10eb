//! Work: what an account has to do that needs the store, one thing at a time and in order.
//!
//! While an account's facts are not in memory, or something of it is being stored, what concerns it waits in its queue:
//! stanzas from others above all, so that order between two addresses holds across the store as well. An [`Errand`] goes
//! out as an effect, and [`Shard::errand_done`] brings what came of it.

use std::collections::VecDeque;

use plaza_core::jid::{Jid, JidRef};
use plaza_core::ns;
use plaza_core::stanza::{Class, Condition, IqType, PresenceType};
use plaza_core::subscription::{Request as Subscribing, State};
use plaza_registry::directory::Nodes;
use plaza_registry::errands::{Errand, Return};
use plaza_registry::pubsub::Outgoing;
use plaza_registry::rosters::RosterError;
use plaza_registry::services::{Request, Target, concerns_registration, may_change_photo};
use plaza_registry::store::{CommitError, StoreError};
use plaza_registry::subscriptions::Way;
use plaza_registry::things::Told;
use plaza_registry::tokens::Upkeep;

use super::archive::{Archived, Archiving, Sent};
use super::batch::{Envelope, Handoff};
use super::deliver::{Body, Origin};
use super::presence::Later;
use super::session::{SessionId, Waiter, is_under_way};
use super::tokens::Keeping;
use super::{Effect, Flow, ReplyTo, Shard};
use crate::memory::{Shed, Subsystem};
use crate::mesh::ShardId;
use crate::metrics::DropReason;
use crate::ring::Key;

/// What waits for an account's facts or for what is before it.
#[derive(Debug, Default)]
pub(super) struct Work {
    queue: VecDeque<Task>,
    running: Option<Running>,
    /// Of the queue and what runs: how many others' stanzas may not overtake.
    inbound: u32,
    /// Bytes of stanzas in the queue.
    bytes: usize,
    /// The epoch of the last that is to be stored, unless its end is in the queue ([`Settling`](super::settling::Settling)).
    stored_in: Option<u64>,
    /// Senders that wait for the queue to empty.
    pub(super) waiters: Vec<Waiter>,
    /// The store could not say.
    failed: Option<StoreError>,
    /// The account was changed from outside while its facts were being loaded: they are not to be trusted.
    stale: bool,
}

/// One thing to do.
#[derive(Debug)]
pub(super) enum Task {
    /// A connection wants to log in.
    Login(Key),
    /// A client that logs in changes its tokens, and is told when they are kept.
    Tokens(Key, Box<Upkeep>),
    /// A stanza for the account, from wherever.
    Inbound(Inbound),
    /// A subscription request of a session's.
    Outbound { session: SessionId, contact: Jid, request: Subscribing, stanza: Box<str> },
    /// A session became available before the account's facts were there: its contacts have to be told.
    Announce(SessionId),
    /// A service that changes what the facts say.
    Serve(Box<Request>, ReplyTo),
    /// Messages that were kept, for a session that can take them.
    Fetch(SessionId),
    /// Messages that were delivered.
    Forget(Vec<(u64, u64)>),
    /// Open questions, for a session that became available.
    Questions(SessionId),
    /// A message that one of its sessions sent, for its archive.
    Sent(Box<Sent>),
    /// All that came in this epoch to be stored is before it.
    Settle(u64),
    /// Events of the account, for its contacts.
    Tell(Box<Outgoing>),
    /// A session wants last items, and whose is not known yet.
    Wants(SessionId),
    /// A resource wants the last items of the account's nodes.
    Wanted(Jid, Nodes),
    /// A session says something, and whom its account blocks is not known.
    Meet(SessionId),
    /// What its devices have to be told.
    Notices,
    /// A device has heard something.
    Acknowledged(Box<Told>),
    /// A presence of the account's for its contacts.
    Fan(Box<Later>),
}

/// A stanza that waits, with what delivery needs.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) class: Class,
    pub(super) to: Jid,
    pub(super) from: Box<str>,
    pub(super) id: Option<Box<str>>,
    pub(super) stanza: Box<[u8]>,
    pub(super) archived: Archived,
    /// A session that is gone did not get it.
    pub(super) handed_on: bool,
}

/// The errand that is out, with what its return is for.
#[derive(Debug)]
pub(super) enum Running {
    Load,
    Sent { session: SessionId, contact: Jid, request: Subscribing, stanza: Box<str> },
    Received { contact: Jid, request: Subscribing, inbound: Inbound },
    Declined { contact: Jid, stanza: Box<str>, inbound: Inbound },
    Keep(Vec<Inbound>),
    Archive(Vec<Archiving>),
    Fetch(SessionId),
    Forget,
    Questions(SessionId),
    Serve { caller: Jid, reply_to: ReplyTo },
    Notices,
    Acknowledged,
    Tokens(Box<Keeping>),
}

impl Task {
    /// Whether it is for others, who must not be overtaken by their own later stanzas.
    fn is_inbound(&self) -> bool {
        match self {
            Self::Inbound(_) | Self::Fetch(_) => true,
            Self::Login(_)
            | Self::Tokens(..)
            | Self::Outbound { .. }
            | Self::Announce(_)
            | Self::Serve(..)
            | Self::Forget(_)
            | Self::Questions(_)
            | Self::Sent(_)
            | Self::Settle(_)
            | Self::Tell(_)
            | Self::Wants(_)
            | Self::Wanted(..)
            | Self::Meet(_)
            | Self::Notices
            | Self::Acknowledged(_)
            | Self::Fan(_) => false,
        }
    }

    /// Whether it is stored on behalf of a session, which is told so (XEP-0198).
    fn is_stored(&self) -> bool {
        self.is_inbound() || matches!(self, Self::Sent(_))
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Inbound(inbound) => inbound.stanza.len() + size_of::<Inbound>(),
            Self::Outbound { stanza, .. } => stanza.len(),
            Self::Sent(sent) => sent.stanza.len() + size_of::<Sent>(),
            Self::Serve(request, _) => request.payload.len(),
            Self::Login(_)
            | Self::Tokens(..)
            | Self::Announce(_)
            | Self::Fetch(_)
            | Self::Forget(_)
            | Self::Questions(_)
            | Self::Settle(_)
            | Self::Tell(_)
            | Self::Wants(_)
            | Self::Wanted(..)
            | Self::Meet(_)
            | Self::Notices
            | Self::Acknowledged(_)
            | Self::Fan(_) => 0,
        }
    }
}

impl Work {
    /// Bytes of stanzas in the queue.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Messages stored by one errand at most.
const KEPT_AT_ONCE_MAX: usize = 64;

impl Shard {
    /// Whether others' stanzas for the account must queue behind what waits there.
    pub(super) fn waits_for_store(&self, index: u32) -> bool {
        let account = self.accounts.get(index);
        account.is_some_and(|account| account.unmet || account.work.as_ref().is_some_and(|work| work.inbound > 0))
    }

    /// Whether an account's sessions are there before anybody knows whom it blocks.
    pub(super) fn is_unmet(&self, index: u32) -> bool {
        self.accounts.get(index).is_some_and(|account| account.unmet)
    }

    /// Loads the facts of an account that is unmet; its session waits.
    pub(super) fn meet(&mut self, index: u32, id: SessionId) -> Flow {
        self.enqueue(index, Task::Meet(id));
        self.wait_for_work(index, id)
    }

    /// Queues a stanza for an account. A local sender waits if there is no room, one elsewhere is asked to.
    pub(super) fn queue_inbound(&mut self, envelope: &Envelope<'_>, origin: Origin, body: &Body<'_>) -> Flow {
        let index = self.accounts.find_or_insert(envelope.hash, envelope.to);
        let work = self.accounts.get(index).and_then(|account| account.work.as_ref());
        let bytes = work.map_or(0, |work| work.bytes);
        let under_way = match origin {
            Origin::Remote(shard, sender) => is_under_way(work.map_or(&[][..], |work| &work.waiters), shard, sender),
            Origin::Local(_) | Origin::Broker | Origin::HandedOn => false,
        };
        let most = if under_way { self.config.outbox_bytes_max } else { self.config.outbox_bytes_full };
        // A subscription request that is lost leaves two rosters that do not agree; each session has one under way at most.
        let request = matches!(envelope.class, Class::Presence(presence) if Subscribing::of(presence).is_some());
        if bytes >= self.config.outbox_bytes_high as usize {
            match origin {
                Origin::Local(sender) => return self.wait_for_work(index, sender),
                Origin::Remote(shard, sender) => {
                    let waiter = Waiter::Remote(shard, sender);
                    let Some(account) = self.accounts.get_mut(index) else { return Flow::Continue };
                    let work = account.work.get_or_insert_default();
                    if !work.waiters.contains(&waiter) {
                        work.waiters.push(waiter);
                        self.ask_to_pause(shard, sender);
                    }
                }
                Origin::Broker | Origin::HandedOn => {}
            }
        }
        if bytes >= most as usize && !request {
            return self.bounce(envelope, Condition::ResourceConstraint, DropReason::OutboxFull);
        }
        let mut stanza = Vec::new();
        body.append(&mut stanza, None);
        let inbound = Inbound {
            class: envelope.class,
            to: envelope.to.to_jid(),
            from: envelope.from.into(),
            id: envelope.id.map(Into::into),
            stanza: stanza.into(),
            archived: Archived::Undecided,
            handed_on: matches!(origin, Origin::HandedOn),
        };
        self.enqueue(index, Task::Inbound(inbound));
        Flow::Continue
    }

    pub(super) fn wait_for_work(&mut self, index: u32, sender: SessionId) -> Flow {
        let waiter = Waiter::Local(sender);
        let Some(account) = self.accounts.get_mut(index) else { return Flow::Continue };
        let waiters = &mut account.work.get_or_insert_default().waiters;
        if !waiters.contains(&waiter) {
            waiters.push(waiter);
        }
        self.counters.backpressure_pauses += 1;
        Flow::Stalled
    }

    /// Adds to an account's work and begins it if nothing is under way.
    pub(super) fn enqueue(&mut self, index: u32, task: Task) {
        let Some(account) = self.accounts.get_mut(index) else { return };
        let work = account.work.get_or_insert_default();
        work.bytes += task.bytes();
        self.counters.memory[Subsystem::Work] += task.bytes() as u64;
        work.inbound += u32::from(task.is_inbound());
        let now = self.settling.now();
        if let Some(epoch) = work.stored_in.take_if(|epoch| *epoch < now) {
            work.queue.push_back(Task::Settle(epoch));
        }
        if task.is_stored() && work.stored_in.is_none() {
            work.stored_in = Some(now);
            self.settling.begin();
        }
        // What is stored came before what waits: it is given before somebody is there for that. So did what a session that
        // is gone did not get, each behind the one before it.
        let handed_on = matches!(&task, Task::Inbound(inbound) if inbound.handed_on);
        let place = (handed_on || matches!(task, Task::Fetch(_)))
            .then(|| {
                let later = |waits: &Task| matches!(waits, Task::Inbound(inbound) if !(handed_on && inbound.handed_on));
                work.queue.iter().position(later)
            })
            .flatten();
        match place {
            Some(place) => work.queue.insert(place, task),
            None => work.queue.push_back(task),
        }
        self.work_off(index);
    }

    /// Tells a session when all that its shard sent here so far is stored, or was refused.
    pub(super) fn settle_for(&mut self, shard: ShardId, session: SessionId) {
        if !self.settling.ask(shard, session) {
            self.tell_settled(shard, session);
        }
    }

    /// An account has stored what it was given in an epoch, or refused it.
    fn one_settled(&mut self, epoch: u64) {
        self.settling.end(epoch);
        while let Some((shard, session)) = self.settling.next_settled() {
            self.tell_settled(shard, session);
        }
    }

    fn tell_settled(&mut self, shard: ShardId, session: SessionId) {
        if shard == self.id {
            self.settled(session);
        } else if let Some(batch) = self.batches.get_mut(usize::from(shard.0)) {
            batch.handoffs.push(Handoff::Settled(session));
        }
    }

    /// Goes on with an account's work; if some account's is being done already, after it.
    fn work_off(&mut self, index: u32) {
        self.to_work.push_back(index);
        if std::mem::replace(&mut self.working, true) {
            return;
        }
        while let Some(index) = self.to_work.pop_front() {
            self.go_on(index);
        }
        self.working = false;
    }

    /// Does what can be done without the store, and sends the next errand.
    fn go_on(&mut self, index: u32) {
        loop {
            let Some(account) = self.accounts.get_mut(index) else { return };
            let Some(work) = &mut account.work else { return };
            if work.running.is_some() {
                return;
            }
            if work.queue.is_empty() {
                let (waiters, stored_in) = (std::mem::take(&mut work.waiters), work.stored_in);
                account.work = None;
                if let Some(epoch) = stored_in {
                    self.one_settled(epoch);
                }
                self.release(waiters);
                return self.accounts.settle(index, self.facts_bytes_max());
            }
            if account.facts.is_none() && !account.absent && work.failed.is_none() {
                return self.send(index, Running::Load, Errand::Load);
            }
            let Some(task) = work.queue.pop_front() else { return };
            work.inbound -= u32::from(task.is_inbound());
            work.bytes -= task.bytes();
            self.counters.memory[Subsystem::Work] -= task.bytes() as u64;
            self.perform(index, task);
        }
    }

    pub(super) fn send(&mut self, index: u32, running: Running, errand: Errand) {
        let Some(account) = self.accounts.get_mut(index) else { return };
        let work = account.work.get_or_insert_default();
        if running.is_inbound() {
            work.inbound += 1;
            if work.stored_in.is_none() {
                work.stored_in = Some(self.settling.now());
                self.settling.begin();
            }
        }
        work.running = Some(running);
        self.effects.push_back(Effect::Errand(account.bare.clone(), Box::new(errand)));
    }

    fn perform(&mut self, index: u32, task: Task) {
        let Some(account) = self.accounts.get(index) else { return };
        let failed = account.work.as_ref().and_then(|work| work.failed.clone());
        match task {
            Task::Login(key) => self.effects.push_back(Effect::Login(key, failed.map_or(Ok(()), Err))),
            Task::Tokens(connection, upkeep) => self.settle_tokens(index, connection, &upkeep, failed.is_some()),
            Task::Inbound(inbound) => match failed {
                Some(error) => self.resolve_without_facts(index, &inbound, condition(&error)),
                None => self.resolve(index, inbound),
            },
            Task::Outbound { session, contact, request, stanza } => match failed {
                Some(error) => self.refuse_request(session, &contact, request, condition(&error)),
                None => {
                    let errand = Errand::Subscription {
                        contact: contact.clone(),
                        way: Way::Sent,
                        request,
                        stanza: stanza.clone(),
                        requests_left: 0,
                    };
                    self.send(index, Running::Sent { session, contact, request, stanza }, errand);
                }
            },
            // Without facts there is nobody to tell.
            Task::Announce(session) if account.facts.is_some() => self.announce(session),
            Task::Announce(_) => {}
            Task::Serve(request, reply_to) => {
                let running = Running::Serve { caller: request.caller.clone(), reply_to };
                self.send(index, running, Errand::Serve(request));
            }
            Task::Fetch(session) => {
                let waits = account.facts.as_ref().is_some_and(|facts| facts.offline.count > 0);
                if waits && self.can_take_messages(session) {
                    self.send(index, Running::Fetch(session), Errand::Fetch);
                }
            }
            Task::Forget(messages) => {
                let Some(facts) = self.accounts.get_mut(index).and_then(|account| account.facts.as_mut()) else {
                    return;
                };
                let bytes: u64 = messages.iter().map(|&(_, bytes)| bytes).sum();
                facts.offline.count = facts.offline.count.saturating_sub(messages.len() as u32);
                facts.offline.bytes = facts.offline.bytes.saturating_sub(bytes);
                let head = facts.offline;
                let numbers = messages.into_iter().map(|(number, _)| number).collect();
                self.send(index, Running::Forget, Errand::Forget { head, numbers });
            }
            Task::Sent(sent) => self.resolve_sent(index, *sent),
            Task::Settle(epoch) => self.one_settled(epoch),
            // Of an account that is gone nobody hears.
            Task::Tell(outgoing) if account.facts.is_some() => self.fan(*outgoing),
            Task::Wants(session) if account.facts.is_some() => self.want_last(session),
            Task::Tell(_) | Task::Wants(_) => {}
            Task::Wanted(resource, nodes) => self.read_last(index, resource, nodes),
            // Of an account that is gone, or about which the store cannot say, nobody is told.
            Task::Fan(later) if account.facts.is_some() => self.fan_out(index, &later.fan()),
            Task::Fan(_) => {}
            Task::Meet(session) if failed.is_some() => {
                self.terminate(session, plaza_core::stream::Condition::InternalServerError);
            }
            Task::Meet(_) => {}
            Task::Notices => self.read_notices(index),
            Task::Acknowledged(told) => self.send(index, Running::Acknowledged, Errand::Heard(told)),
            Task::Questions(session) => {
                if account.facts.as_ref().is_some_and(|facts| facts.contacts.requests() > 0) {
                    self.send(index, Running::Questions(session), Errand::Requests);
                }
            }
        }
    }

    /// What becomes of a stanza now that all is known about the account.
    fn resolve(&mut self, index: u32, inbound: Inbound) {
        let Some(account) = self.accounts.get(index) else { return };
        let exists = account.facts.is_some();
        if self.blocks(index, &inbound.from) {
            let (class, to) = (inbound.class, inbound.to.as_jid());
            let envelope = Envelope { class, hash: 0, to, from: &inbound.from, id: inbound.id.as_deref() };
            self.refuse_blocked(&envelope);
            return;
        }
        if let Class::Presence(presence) = inbound.class
            && let Some(request) = Subscribing::of(presence)
        {
            if exists {
                let inbound = match request {
                    Subscribing::Subscribe => self.decline_denied(index, inbound),
                    Subscribing::Subscribed | Subscribing::Unsubscribe | Subscribing::Unsubscribed => Some(inbound),
                };
                let Some(inbound) = inbound else { return };
                self.receive_request(index, request, inbound);
            } else {
                self.counters.drops[DropReason::NoRoute] += 1;
            }
            return;
        }
        if inbound.class == Class::Presence(PresenceType::Probe) {
            return self.answer_probe(index, &inbound.from);
        }
        let to = inbound.to.as_jid();
        let envelope = Envelope { class: inbound.class, hash: 0, to, from: &inbound.from, id: inbound.id.as_deref() };
        if self.enforce_inbound(index, &envelope, &inbound.stanza).is_some() {
            return;
        }
        let Some(inbound) = self.archive_received(index, inbound) else { return };
        let hash = self.homes.hash(inbound.to.as_jid());
        let to = inbound.to.clone();
        let envelope =
            Envelope { class: inbound.class, hash, to: to.as_jid(), from: &inbound.from, id: inbound.id.as_deref() };
        if matches!(inbound.class, Class::Iq(IqType::Get | IqType::Set)) && to.as_jid().is_bare() {
            let stanza = std::str::from_utf8(&inbound.stanza).unwrap_or_default();
            return self.serve_handoff(&envelope, stanza);
        }
        if !self.is_kept(&envelope, exists) {
            self.deliver_known(&envelope, Origin::Broker, &Body::Bytes(&inbound.stanza), exists);
            return;
        }
        self.keep(index, inbound);
    }

    /// What becomes of a stanza when the store cannot say what the account is: what somebody is there for arrives.
    fn resolve_without_facts(&mut self, index: u32, inbound: &Inbound, condition: Condition) {
        let to = inbound.to.as_jid();
        let (class, hash) = (inbound.class, self.homes.hash(to));
        let envelope = Envelope { class, hash, to, from: &inbound.from, id: inbound.id.as_deref() };
        if self.blocks(index, envelope.from) {
            self.refuse_blocked(&envelope);
        } else if self.is_unmet(index)
            || self.needs_facts(&envelope)
            || Self::is_account_iq(&envelope)
            || self.needs_decision(index, class, &inbound.stanza)
        {
            self.bounce(&envelope, condition, DropReason::Unanswerable);
        } else {
            self.deliver_known(&envelope, Origin::Broker, &Body::Bytes(&inbound.stanza), true);
        }
    }

    /// Stores a message, and those right behind it that are to be stored as well.
    fn keep(&mut self, index: u32, first: Inbound) {
        let mut kept = Vec::new();
        let mut next = Some(first);
        while let Some(inbound) = next.take() {
            let len = inbound.stanza.len();
            let limits = self.config.offline;
            // What a session that is gone did not get was acknowledged, perhaps.
            let shed = self.is_short() && !inbound.handed_on;
            if !self.is_worth_keeping(&inbound) {
                self.counters.drops[DropReason::NotKept] += 1;
            } else if !shed && self.facts_mut(index).is_some_and(|facts| facts.offline.admit(&limits, len)) {
                kept.push(inbound);
            } else if inbound.archived == Archived::Yes {
                // Its account finds it there.
                self.counters.drops[DropReason::NotKept] += 1;
            } else {
                self.counters.sheds[Shed::Offline] += u64::from(shed);
                self.bounce_inbound(&inbound, Condition::ServiceUnavailable);
            }
            if kept.len() < KEPT_AT_ONCE_MAX {
                next = self.next_to_keep(index);
            }
        }
        let Some(head) = self.facts_mut(index).map(|facts| facts.offline).filter(|_| !kept.is_empty()) else { return };
        let messages = kept.iter().map(|inbound| inbound.stanza.clone()).collect();
        self.send(index, Running::Keep(kept), Errand::Keep { head, messages });
    }

    /// Takes the next in the queue if it is a message to be kept.
    fn next_to_keep(&mut self, index: u32) -> Option<Inbound> {
        let Task::Inbound(inbound) = self.accounts.get(index)?.work.as_ref()?.queue.front()? else { return None };
        if inbound.archived == Archived::Undecided && self.may_archive(index, inbound.class) {
            return None;
        }
        let to = inbound.to.as_jid();
        let envelope = Envelope { class: inbound.class, hash: self.homes.hash(to), to, from: "", id: None };
        if !self.is_kept(&envelope, true) || self.blocks(index, &inbound.from) || self.may_enforce(index) {
            return None;
        }
        let Task::Inbound(inbound) = self.take_task_if(index, |_| true)? else { return None };
        Some(inbound)
    }

    /// Takes the next in an account's queue if it is as asked.
    pub(super) fn take_task_if(&mut self, index: u32, is_it: impl FnOnce(&Task) -> bool) -> Option<Task> {
        let work = self.accounts.get_mut(index)?.work.as_mut()?;
        let task = if is_it(work.queue.front()?) { work.queue.pop_front()? } else { return None };
        work.inbound -= u32::from(task.is_inbound());
        work.bytes -= task.bytes();
        self.counters.memory[Subsystem::Work] -= task.bytes() as u64;
        Some(task)
    }

    /// Puts a task to the front of an account's queue, for whoever goes on with it; but behind what fetches what is kept, which
    /// came before all that waits.
    pub(super) fn put_task_back(&mut self, index: u32, task: Task) {
        let Some(work) = self.accounts.get_mut(index).and_then(|account| account.work.as_mut()) else { return };
        work.inbound += u32::from(task.is_inbound());
        work.bytes += task.bytes();
        self.counters.memory[Subsystem::Work] += task.bytes() as u64;
        let fetches = work.queue.iter().rposition(|waits| matches!(waits, Task::Fetch(_)));
        work.queue.insert(fetches.map_or(0, |last| last + 1), task);
    }

    /// Whether a kept message was delivered and waits to be forgotten.
    pub(super) fn is_being_forgotten(&self, index: u32, number: u64) -> bool {
        let work = self.accounts.get(index).and_then(|account| account.work.as_ref());
        work.is_some_and(|work| {
            let mut tasks = work.queue.iter();
            tasks.any(|task| matches!(task, Task::Forget(given) if given.iter().any(|&(known, _)| known == number)))
        })
    }

    /// Whether a device has heard of this, which waits to be noted.
    pub(super) fn is_being_noted(&self, index: u32, told: &Told) -> bool {
        let work = self.accounts.get(index).and_then(|account| account.work.as_ref());
        work.is_some_and(|work| {
            let mut tasks = work.queue.iter();
            tasks.any(|task| matches!(task, Task::Acknowledged(heard) if heard.covers(told)))
        })
    }

    pub(super) fn facts_mut(&mut self, index: u32) -> Option<&mut plaza_registry::facts::Facts> {
        self.accounts.get_mut(index)?.facts.as_deref_mut()
    }

    fn receive_request(&mut self, index: u32, request: Subscribing, inbound: Inbound) {
        let contact = JidRef::from_normal(&inbound.from).bare().to_jid();
        let open = self.accounts.get(index).and_then(|account| account.facts.as_ref());
        let open = open.map_or(0, |facts| facts.contacts.requests());
        let requests_left = self.config.requests_max.saturating_sub(open as u32);
        let stanza = std::str::from_utf8(&inbound.stanza).unwrap_or_default().into();
        let errand =
            Errand::Subscription { contact: contact.clone(), way: Way::Received, request, stanza, requests_left };
        self.send(index, Running::Received { contact, request, inbound }, errand);
    }

    /// What an errand for an account brought.
    pub fn errand_done(&mut self, bare: &Jid, brought: Return) {
        let Some(index) = self.accounts.find_index(self.homes.hash(bare.as_jid()), bare.as_jid()) else { return };
        let Some(work) = self.accounts.get_mut(index).and_then(|account| account.work.as_mut()) else { return };
        let Some(running) = work.running.take() else { return };
        work.inbound -= u32::from(running.is_inbound());
        match (running, brought) {
            (Running::Load, Return::Load(found)) => self.loaded(index, found),
            (Running::Sent { session, contact, request, stanza }, Return::Subscription(done)) => match done {
                Ok(applied) => {
                    self.set_contact(index, &contact, applied.item.as_ref());
                    self.request_sent(index, (&contact, request), &stanza, &applied);
                    self.answered(session);
                }
                Err(error) => self.refuse_request(session, &contact, request, roster_condition(&error)),
            },
            (Running::Received { contact, request, inbound }, Return::Subscription(done)) => match done {
                Ok(applied) => {
                    self.set_contact(index, &contact, applied.item.as_ref());
                    self.request_received(index, (&contact, request), &inbound.stanza, &applied);
                }
                // Of the four only a question has somebody who waits to hear of it.
                Err(error) if request == Subscribing::Subscribe => {
                    self.bounce_request(bare, &inbound, roster_condition(&error));
                }
                Err(_) => self.counters.drops[DropReason::Unhandled] += 1,
            },
            (Running::Declined { contact, stanza, inbound }, Return::Subscription(done)) => match done {
                Ok(applied) => {
                    self.set_contact(index, &contact, applied.item.as_ref());
                    self.request_sent(index, (&contact, Subscribing::Unsubscribed), &stanza, &applied);
                }
                Err(error) => self.bounce_request(bare, &inbound, roster_condition(&error)),
            },
            (Running::Keep(messages), Return::Keep(done)) => {
                if let Err(error) = done {
                    self.accounts.set_facts(index, None);
                    for inbound in &messages {
                        self.bounce_inbound(inbound, commit_condition(&error));
                    }
                } else {
                    self.counters.offline_kept += messages.len() as u64;
                }
            }
            (Running::Archive(batch), Return::Archive(done)) => self.archived(index, batch, done),
            (Running::Fetch(session), Return::Fetch(Ok(messages))) => self.give_messages(index, session, messages),
            (Running::Questions(session), Return::Requests(Ok(questions))) => {
                for question in questions {
                    if self.blocks_kept(index, question.as_bytes()) {
                        continue; // It is asked once its sender is blocked no more.
                    }
                    self.tell(session, |out| out.extend_from_slice(question.as_bytes()));
                }
            }
            // They stay where they are, and are given at the next login.
            (Running::Fetch(_) | Running::Questions(_), _) => {}
            (Running::Forget, Return::Forget(done)) => {
                if done.is_err() {
                    self.accounts.set_facts(index, None);
                }
            }
            (Running::Tokens(keeping), Return::Tokens(done)) => self.tokens_kept(index, *keeping, done),
            (Running::Notices, Return::Untold(Ok(untold))) => self.tell_notices(index, &untold),
            // They are told when it next becomes available.
            (Running::Notices, Return::Untold(Err(_))) => {}
            // What is left to be told is known from the store.
            (Running::Acknowledged, Return::Heard(_)) => {
                self.accounts.set_facts(index, None);
                self.enqueue(index, Task::Notices);
            }
            (Running::Serve { caller, reply_to }, Return::Serve(reply)) => self.reply(&caller, reply_to, *reply),
            (running, brought) => debug_assert!(false, "{brought:?} answers no {running:?}"),
        }
        self.work_off(index);
    }

    fn loaded(&mut self, index: u32, found: Result<Option<plaza_registry::facts::Facts>, StoreError>) {
        let Some(work) = self.accounts.get_mut(index).and_then(|account| account.work.as_mut()) else { return };
        if std::mem::take(&mut work.stale) {
            return;
        }
        match found {
            Ok(Some(facts)) => self.accounts.set_facts(index, Some(Box::new(facts))),
            Ok(None) => self.accounts.set_absent(index),
            Err(error) => work.failed = Some(error),
        }
    }

    /// An account was changed from outside: what is known of it is not true any more.
    pub(super) fn forget_facts(&mut self, bare: JidRef<'_>) {
        let Some(index) = self.accounts.find_index(self.homes.hash(bare), bare) else { return };
        self.accounts.set_facts(index, None);
        if let Some(work) = self.accounts.get_mut(index).and_then(|account| account.work.as_mut()) {
            work.stale = matches!(work.running, Some(Running::Load));
            work.failed = None;
        }
        self.accounts.settle(index, self.facts_bytes_max());
    }

    fn set_contact(&mut self, index: u32, contact: &Jid, item: Option<&plaza_registry::rosters::RosterItem>) {
        if let Some(facts) = self.facts_mut(index) {
            facts.contacts.set(contact, item.map(plaza_registry::rosters::RosterItem::state));
        }
    }

    /// As [`Self::set_contact`], for a service's caller.
    pub(super) fn set_contact_of(
        &mut self,
        caller: &Jid,
        contact: &Jid,
        item: Option<&plaza_registry::rosters::RosterItem>,
    ) {
        if let Some(index) = self.accounts.find_index(self.homes.hash(caller.as_jid()), caller.as_jid()) {
            self.set_contact(index, contact, item);
        }
    }

    /// How an account stands with somebody, if its facts are in memory.
    pub(super) fn stands(&self, index: u32, contact: JidRef<'_>) -> Option<State> {
        Some(self.accounts.get(index)?.facts.as_ref()?.contacts.get(contact))
    }

    /// Whether what is known of the account suffices to decide about it.
    pub(super) fn knows(&self, index: u32) -> bool {
        self.accounts.get(index).is_some_and(|account| account.facts.is_some())
    }

    /// Serves a request that changes what the facts say, behind what is under way.
    pub(super) fn serve_in_order(&mut self, owner: JidRef<'_>, request: Box<Request>, reply_to: ReplyTo) {
        let index = self.accounts.find_or_insert(self.homes.hash(owner), owner);
        self.enqueue(index, Task::Serve(request, reply_to));
    }

    fn bounce_inbound(&mut self, inbound: &Inbound, condition: Condition) {
        let envelope = Envelope {
            class: inbound.class,
            hash: 0,
            to: inbound.to.as_jid(),
            from: &inbound.from,
            id: inbound.id.as_deref(),
        };
        self.bounce(&envelope, condition, DropReason::Unanswerable);
    }

    /// The answer a session waited for has been given: it may say more.
    pub(super) fn answered(&mut self, session: SessionId) {
        if let Some(session) = self.get_mut(session) {
            session.flags.awaits = false;
        }
        self.resume(session);
    }
}

impl Running {
    fn is_inbound(&self) -> bool {
        match self {
            Self::Received { .. } | Self::Declined { .. } | Self::Keep(_) | Self::Fetch(_) => true,
            Self::Archive(batch) => batch.iter().any(|message| matches!(message, Archiving::Received(_))),
            Self::Load
            | Self::Sent { .. }
            | Self::Forget
            | Self::Questions(_)
            | Self::Serve { .. }
            | Self::Tokens(_)
            | Self::Notices
            | Self::Acknowledged => false,
        }
    }
}

/// Whether a service changes what an account's facts say, or tells what was stored before, so that it takes its turn.
pub(super) fn changes_facts(request: &Request) -> bool {
    let own = matches!(&request.target, Target::Account(account) if account.as_jid() == request.caller.as_jid().bare());
    let held = matches!(&*request.payload_ns, ns::ROSTER | ns::BLOCKING) || may_change_photo(request);
    // What is said of one's own account may as well be said to the server.
    let own_account = own || matches!(request.target, Target::Server(_));
    let registers = own_account && request.iq_type == IqType::Set && concerns_registration(request);
    registers || own && (request.iq_type == IqType::Set && held || &*request.payload_ns == ns::MAM)
}

const fn condition(error: &StoreError) -> Condition {
    match error {
        StoreError::Busy => Condition::ResourceConstraint,
        StoreError::Failed | StoreError::Corrupt => Condition::InternalServerError,
    }
}

const fn roster_condition(error: &RosterError) -> Condition {
    match error {
        RosterError::Full => Condition::ResourceConstraint,
        RosterError::NoAccount | RosterError::NotFound => Condition::ServiceUnavailable,
        RosterError::Store(error) => condition(error),
    }
}

const fn commit_condition(error: &CommitError) -> Condition {
    match error {
        CommitError::Guard(_) => Condition::ServiceUnavailable,
        CommitError::Store(error) => condition(error),
    }
}
