//! A cpu's worth of sessions: routing, presence, outboxes and back-pressure, free of I/O.
//!
//! The driver feeds it what happened ([`Shard::bind`], [`Shard::stanza`], [`Shard::handoff`], [`Shard::end`], …) and then
//! carries out what it left to do: [`Shard::poll_effect`], [`Shard::next_dirty`] and the batches for other shards.
//! Everything of a bare JID is touched on its home shard only, so nothing here locks.

mod accounts;
mod archive;
mod arriving;
mod batch;
mod binding;
mod blocking;
mod caps;
mod carbons;
mod deliver;
mod enforce;
mod exchange;
mod fanning;
mod forged;
mod interest;
mod kept;
mod late;
mod managed;
mod memory;
mod outbox;
mod photo;
mod presence;
mod roster;
mod session;
mod settling;
mod strangers;
#[cfg(test)]
mod testing;
mod things;
mod tokens;
mod work;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use plaza_core::caps::Ver;
use plaza_core::jid::{Jid, JidRef, ParsedJid};
use plaza_core::limits::ScanLimits;
use plaza_core::rules::{self, Destination, DomainKind};
use plaza_core::sasl::SaslFailure;
use plaza_core::stanza::{
    Class, Condition, IqType, Kind, NotAStanza, PresenceType, Stanza, StanzaError, write_error, write_reply_start,
};
use plaza_core::stream::IssuedToken;
use plaza_core::subscription::Request as Subscribing;
use plaza_core::xml::{Element, Scanned, Scanner, StreamNamespaces};
use plaza_core::{ns, stream};
use plaza_registry::archive::ArchiveConfig;
use plaza_registry::directory::{CapsCache, Nodes};
use plaza_registry::errands::Errand;
use plaza_registry::offline::OfflineLimits;
use plaza_registry::provisioning::{After, Challenge, Proofs};
use plaza_registry::pubsub::Recipients;
use plaza_registry::services::{Ask, Component, Effect as ServiceEffect, Reply, Request, Target};
use plaza_registry::store::StoreError;
use plaza_registry::tokens::TokenLimits;
use slab::Slab;

use crate::home::Homes;
use crate::mesh::ShardId;
use crate::metrics::{Counters, DropReason};
use crate::ring::Key;
use accounts::Accounts;
pub use batch::{BATCH_BYTES_MAX, BATCH_OWN_BYTES_MAX, Batch};
use batch::{Envelope, Handoff};
use deliver::{Body, Origin};
pub use managed::ManagedLimits;
pub use session::SessionId;
use session::{Flags, Session, Waiter};
use settling::Settling;

/// Bounds and facts of the shards.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    /// Domains whose accounts live here.
    pub domains: Vec<Jid>,
    /// The services beside the server. One that has a home is served on the shard that the hash of its address says.
    pub services: Vec<Component>,
    /// Bytes on their way to one client beyond which all stanzas for it are refused. Default 1 048 576.
    pub outbox_bytes_max: u32,
    /// Bytes on their way to one client beyond which stanzas for it are refused, but for those that a sender had under way
    /// when it was asked to wait. Default 262 144.
    pub outbox_bytes_full: u32,
    /// Bytes on their way to one client beyond which its senders wait. Default 65 536.
    pub outbox_bytes_high: u32,
    /// Bytes on their way to one client below which they go on. Default 16 384.
    pub outbox_bytes_low: u32,
    /// Resources of one account at once (RFC 6120 §7.7.2.1). Default 20.
    pub sessions_per_account_max: u16,
    /// Addresses one session may have sent directed presence to. Default 100.
    pub directed_presence_max: u16,
    /// Bytes of facts kept of accounts that nobody uses, so that they need not be loaded again. Default 67 108 864.
    pub facts_bytes_max: usize,
    /// Open subscription requests of one account (RFC 6121 §3.1.3). Default 100; one more is `resource-constraint`.
    pub requests_max: u32,
    /// Strangers that an account may address in a minute (XEP-0205). Default 100; one more is `unexpected-request` with
    /// `too-many-stanzas`. 0 for as many as it likes.
    pub strangers_per_minute_max: u32,
    /// Bounds of what is kept for who is away (XEP-0160).
    pub offline: OfflineLimits,
    /// What clients can do, as all shards have learned (XEP-0115).
    pub caps: Arc<CapsCache>,
    /// Bounds of stream management (XEP-0198).
    pub managed: ManagedLimits,
    /// Random: makes names of resumable sessions that nobody can guess.
    pub managed_key: [u8; 32],
    /// Bounds of tokens (XEP-0484).
    pub tokens: TokenLimits,
    /// What the operator allows of archives (XEP-0313).
    pub archive: ArchiveConfig,
    /// Which tokens are proven, as all shards know.
    pub proofs: Proofs,
    /// Begins every id the broker makes, unlike any earlier run's: clients remember ids for a minute.
    pub id_prefix: String,
}

/// What the driver shall do for a session after it fed a stanza.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Taken; feed the next.
    Continue,
    /// Taken; feed no more until [`Effect::Resume`], since the answer must come first.
    Blocked,
    /// Not taken, for want of room: present it again after [`Effect::Resume`].
    Stalled,
    /// The peer broke the stream's rules: end it with this.
    End(stream::StreamError),
}

/// What the shard wants done.
#[derive(Debug)]
pub enum Effect {
    /// Input of the session may be fed again.
    Resume(Key),
    /// End the session's stream with this error, after its outbox.
    End(Key, stream::Condition),
    /// Let the services answer; bring the reply to [`Shard::reply`].
    Service(Box<Request>, ReplyTo),
    /// Run the errand for the account; bring what it brought to [`Shard::errand_done`].
    Errand(Jid, Box<Errand>),
    /// The session was resumed over another connection: end this one's stream with `conflict`; it has none any more.
    Displace(Key),
    /// The session holds more than it may: bring it to [`Shard::expire`].
    Expire(SessionId),
    /// Read the next page of these; bring it to [`Shard::recipients_read`].
    Recipients(Box<Recipients>),
    /// Read the last items of the first one's nodes that the resource may be told of, of those it wants; bring them to
    /// [`Shard::last_items`].
    LastItems(Box<(Jid, Jid, Nodes)>),
    /// Others wait for the session's client to acknowledge: set a time ([`Shard::watch_until`]), and bring the session to
    /// [`Shard::expire`] then.
    Watch(SessionId),
    /// The session is to be answered late: set a time ([`Shard::late_until`]), and bring the session to [`Shard::expire`]
    /// then; or answer it at once ([`Shard::answer_late`]).
    Late(SessionId),
    /// The facts a login waits for ([`Shard::login`]) are there, or cannot be had.
    Login(Key, Result<(), StoreError>),
    /// The device of this address was answered: let its owner be asked what is undecided, how it speaks be noted, and tokens
    /// be challenged; bring what comes of it to [`Shard::inquired`].
    Inquire(Jid, After),
    /// A device was asked something: set a time ([`Shard::ask_until`]), and call [`Shard::asks_due`] then.
    AskUntil(u64),
    /// A device has acknowledged what a service asked, or has not: let the service go on, and bring its reply to
    /// [`Shard::reply`].
    Asked(Box<Ask>, ReplyTo, bool),
    /// Who presented a token answered the challenge with this payload, or did not: bring what comes of it to
    /// [`Shard::reply`], for whom the challenge was.
    Challenged(Box<Challenge>, Option<Box<str>>),
    /// A client's tokens are kept ([`Shard::keep_tokens`]): what it is to be told, or how its login fails after all.
    Tokens(Key, Result<Option<IssuedToken>, SaslFailure>),
}

/// Whom a service's reply is for.
#[derive(Debug, Clone)]
pub enum ReplyTo {
    /// A session here, which waits for it.
    Session(SessionId),
    /// A full JID somewhere.
    Address(Jid),
}

/// What the sessions of a shard hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// User-space bytes: slab entries, addresses, accounts, outboxes.
    pub held: usize,
    /// Bytes on their way to clients.
    pub unsent: usize,
}

/// A shard's state.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    config: Arc<ShardConfig>,
    homes: Homes,
    sessions: Slab<Session>,
    generation: u32,
    accounts: Accounts,
    /// This turn's handoffs, by target shard.
    batches: Box<[Box<Batch>]>,
    /// Sessions here that wait for room in the batch to a shard.
    mesh_waiters: Box<[Vec<SessionId>]>,
    /// A batch should be handed over before the turn ends.
    full: bool,
    dirty: Vec<SessionId>,
    effects: VecDeque<Effect>,
    pool: Vec<Vec<u8>>,
    scanner: Scanner,
    ids: u64,
    /// Presences that went to many, to tell them apart in a batch.
    fans: u64,
    /// Accounts with work to go on with, and whether somebody is at it.
    to_work: VecDeque<u32>,
    working: bool,
    /// Sessions that can be resumed, by the number in their name.
    resumables: HashMap<u64, SessionId>,
    /// Questions to clients what they can do, by number, and who waits for the answers.
    caps_asked: HashMap<u64, caps::Asked>,
    caps_waiting: HashMap<Ver, caps::Waiting>,
    /// Which accounts here are storing what they were sent, and who waits until they have.
    settling: Settling,
    /// Messages of services on their way to many.
    fanning: fanning::Fanning,
    /// Questions of services here to devices, by number.
    asking: HashMap<u64, things::Asking>,
    /// Sessions that became available and wait until others are told.
    arriving: arriving::Arriving,
    /// How near the broker is to its bound of memory, and what this shard does about it.
    memory: memory::Pressed,
    /// The time on the wall, as the driver said last.
    unix_millis: u64,
    /// What happened, for the metrics.
    pub counters: Counters,
}

/// Outbox buffers kept for reuse, and the largest worth keeping.
const POOL_BUFFERS: usize = 1024;
const POOL_BUFFER_BYTES: usize = 16 * 1024;

impl Shard {
    /// An empty shard.
    pub fn new(id: ShardId, shards: u16, homes: Homes, config: Arc<ShardConfig>) -> Self {
        Self {
            id,
            config,
            homes,
            sessions: Slab::new(),
            generation: 0,
            accounts: Accounts::default(),
            batches: (0..shards).map(|_| Box::default()).collect(),
            mesh_waiters: (0..shards).map(|_| Vec::new()).collect(),
            full: false,
            dirty: Vec::new(),
            effects: VecDeque::new(),
            pool: Vec::new(),
            scanner: Scanner::new(),
            ids: 0,
            fans: 0,
            to_work: VecDeque::new(),
            working: false,
            resumables: HashMap::default(),
            caps_asked: HashMap::new(),
            caps_waiting: HashMap::new(),
            settling: Settling::new(),
            arriving: arriving::Arriving::default(),
            unix_millis: 0,
            fanning: fanning::Fanning::default(),
            asking: HashMap::new(),
            memory: memory::Pressed::default(),
            counters: Counters::default(),
        }
    }

    /// From now on these bounds hold; nothing that is held already is taken away.
    pub fn set_config(&mut self, config: Arc<ShardConfig>) {
        self.config = config;
    }

    /// Sets the time on the wall, in milliseconds since 1970.
    pub const fn set_time(&mut self, unix_millis: u64) {
        self.unix_millis = unix_millis;
    }

    /// Sessions held.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Which shard an account is at home on.
    pub fn home(&self, jid: JidRef<'_>) -> ShardId {
        self.homes.shard(self.homes.hash(jid))
    }

    /// What the sessions hold. Walks all of them.
    pub fn measure(&self) -> Held {
        let accounts: usize =
            self.accounts.iter().map(|account| size_of::<accounts::Account>() + account.heap_bytes()).sum();
        let mut held = Held { held: self.sessions.len() * size_of::<Session>() + accounts, unsent: 0 };
        for (_, session) in &self.sessions {
            held.held += session.heap_bytes();
            held.unsent += session.unsent();
        }
        held
    }

    // ---- stanzas -----------------------------------------------------------------------------------------------

    /// Takes one top-level element from a session and brings it where it belongs.
    pub fn stanza(&mut self, id: SessionId, element: Element<'_>) -> Flow {
        let flow = self.take_stanza(id, element);
        if let Some(session) = self.get_mut(id) {
            session.flags.stalled = flow == Flow::Stalled;
            if flow == Flow::Stalled && session.managed.is_some() {
                self.release_deaf(id);
            }
        }
        // XEP-0198 §4: handled is what was taken, whatever became of it; elements that are no stanzas do not count.
        if matches!(flow, Flow::Continue | Flow::Blocked)
            && element.ns() == ns::CLIENT
            && let Some(managed) = self.get_mut(id).and_then(|session| session.managed.as_mut())
        {
            managed.handled = managed.handled.wrapping_add(1);
        }
        flow
    }

    fn take_stanza(&mut self, id: SessionId, element: Element<'_>) -> Flow {
        // Ended from this side, and the driver has not heard of it yet.
        let Some(session) = self.get(id).filter(|session| !session.flags.ended) else {
            return self.ignore(DropReason::Stale);
        };
        if session.paused > 0 || session.flags.awaits {
            return Flow::Stalled;
        }
        // Whatever we take may have to be answered: without room for an answer, wait for this client to read.
        // What it has not acknowledged does not count here: it may be about to.
        if session.unsent() >= self.config.outbox_bytes_high as usize {
            return self.wait_for(id, id);
        }
        let (from, account) = (session.jid.clone(), session.account);
        if self.is_unmet(account) {
            return self.meet(account, id);
        }
        let stanza = match Stanza::classify(element, ns::CLIENT) {
            Ok(stanza) => stanza,
            Err(NotAStanza::Unsupported) => return self.manage(id, &element),
            Err(NotAStanza::InvalidNamespace) => return Flow::End(stream::Condition::InvalidNamespace.into()),
            Err(NotAStanza::BadRequest) => return self.refuse_malformed(id, element, &from),
        };
        // RFC 6120 §8.1.2.1: `from`, if given, must be the sender's own full or bare JID.
        if let Some(attr) = stanza.from
            && !is_own(&attr.value(), &from)
        {
            return Flow::End(stream::Condition::InvalidFrom.into());
        }
        if let Some(flow) = self.take_without_forged(id, stanza.class.kind(), &from, &stanza.element) {
            return flow;
        }
        let Some(to) = stanza.to else {
            let flow = self.without_to(id, &from, &stanza);
            if flow != Flow::Stalled {
                self.counters.stanzas_in[stanza.class.kind()] += 1;
            }
            return flow;
        };
        let text = to.value();
        let Ok(parsed) = ParsedJid::parse(&text) else {
            self.counters.stanzas_in[stanza.class.kind()] += 1;
            return self.refuse(id, &stanza, &from, Condition::JidMalformed);
        };
        let to = parsed.as_jid();
        if self.blocks(account, to.as_str()) {
            return self.refuse_to_blocked(id, &from, &stanza);
        }
        if let Class::Presence(presence) = stanza.class
            && let Some(request) = Subscribing::of(presence)
        {
            self.counters.stanzas_in[Kind::Presence] += 1;
            return self.send_request(id, &from, &stanza, request, to);
        }
        let destination = rules::destination(from.as_jid(), Some(to), |domain| self.domain_kind(domain));
        let flow = match destination {
            Destination::Resource(to) | Destination::Account(to) => self.route_account(id, &from, &stanza, to),
            Destination::OwnAccount if interest::is_decision(&stanza) => self.decide(id, &from, &stanza, true),
            Destination::OwnAccount => self.route_account(id, &from, &stanza, to),
            Destination::Server(to) => self.route_server(id, &from, &stanza, Some(to)),
            Destination::Service(index, to) => self.route_service(id, &from, &stanza, (index, to)),
            // No server-to-server stream exists (RFC 6120 §10.4).
            Destination::Remote(_) => self.refuse(id, &stanza, &from, Condition::RemoteServerNotFound),
        };
        if flow != Flow::Stalled {
            self.counters.stanzas_in[stanza.class.kind()] += 1;
        }
        flow
    }

    /// RFC 6120 §10.3: no `to`.
    fn without_to(&mut self, id: SessionId, from: &Jid, stanza: &Stanza<'_>) -> Flow {
        match stanza.class {
            Class::Presence(presence) => match presence {
                PresenceType::Available | PresenceType::Unavailable => match self.stall_to_present(id) {
                    Some(stalled) => stalled,
                    None => self.own_presence(id, from, stanza, presence),
                },
                PresenceType::Probe
                | PresenceType::Subscribe
                | PresenceType::Subscribed
                | PresenceType::Unsubscribe
                | PresenceType::Unsubscribed => self.refuse(id, stanza, from, Condition::BadRequest),
                PresenceType::Error => self.ignore(DropReason::Unhandled),
            },
            // §10.3.1: as if addressed to the sender's own bare JID.
            Class::Message(_) if interest::is_decision(stanza) => self.decide(id, from, stanza, false),
            Class::Message(_) => self.route_account(id, from, stanza, from.as_jid().bare()),
            Class::Iq(_) => self.route_server(id, from, stanza, None),
        }
    }

    /// To the server, or (an iq without `to`) to the sender's own account, which the server answers for.
    fn route_server(&mut self, id: SessionId, from: &Jid, stanza: &Stanza<'_>, to: Option<JidRef<'_>>) -> Flow {
        match stanza.class {
            Class::Iq(IqType::Get | IqType::Set) => {}
            Class::Iq(IqType::Result | IqType::Error) => {
                if self.learn_caps(id, stanza) {
                    return Flow::Continue;
                }
                return self.ignore(DropReason::Unanswerable);
            }
            Class::Message(_) => return self.refuse(id, stanza, from, Condition::ServiceUnavailable),
            Class::Presence(_) => return self.ignore(DropReason::Unhandled),
        }
        if self.answer_ping(id, from, stanza, to) {
            return Flow::Continue;
        }
        let target = match to {
            Some(domain) => Target::Server(domain.to_jid()),
            None => Target::Account(from.bare()),
        };
        self.call_service(from, stanza, target, to.is_some(), ReplyTo::Session(id))
    }

    /// XEP-0199 to the server: answered here and now, into the sender's own outbox.
    fn answer_ping(&mut self, id: SessionId, from: &Jid, stanza: &Stanza<'_>, to: Option<JidRef<'_>>) -> bool {
        let (Class::Iq(IqType::Get), Some(iq_id), Some(child)) =
            (stanza.class, stanza.id, stanza.element.first_child())
        else {
            return false;
        };
        if !child.is("ping", ns::PING) {
            return false;
        }
        self.counters.pings += 1;
        self.write(id, |out| {
            write_reply_start(out, iq_id.raw, to.map_or("", JidRef::as_str), from.as_str());
            out.extend_from_slice(b"</iq>");
        });
        true
    }

    /// To a local account, bare or full, the sender's own included.
    fn route_account(&mut self, id: SessionId, from: &Jid, stanza: &Stanza<'_>, to: JidRef<'_>) -> Flow {
        let hash = self.homes.hash(to);
        if self.addresses_too_many(id, stanza.class, hash, to) {
            return self.refuse(id, stanza, from, StanzaError::TOO_MANY_STRANGERS);
        }
        let envelope = Envelope { class: stanza.class, hash, to, from: from.as_str(), id: stanza.id.map(|id| id.raw) };
        let namespaces = self.namespaces(id, stanza);
        let with_photo = self.directed_with_photo(id, from, stanza, &namespaces);
        let body = match &with_photo {
            Some(text) => Body::Bytes(text),
            None => Body::Stanza { stanza, from: from.as_str(), namespaces: &namespaces },
        };
        let home = self.homes.shard(hash);
        if let Some(stalled) = self.stall_to_archive(id, stanza.class) {
            return stalled;
        }
        if home == self.id && Self::is_account_iq(&envelope) {
            // RFC 6121 §8.5.2.1.3: the server answers on behalf of the account.
            if to != from.as_jid().bare()
                && let Some(flow) = self.hold_iq(&envelope, Origin::Local(id), &body)
            {
                return flow;
            }
            return self.call_service(from, stanza, Target::Account(to.to_jid()), true, ReplyTo::Session(id));
        }
        let flow = if home == self.id {
            self.deliver(&envelope, Origin::Local(id), &body)
        } else {
            self.send_handoff(home, &envelope, id, &body)
        };
        if matches!(stanza.class, Class::Message(_)) && flow != Flow::Stalled {
            if self.is_managed(id) {
                self.touch(id, home);
            }
            if !self.archive_sent(id, from, to, stanza.class, &body) {
                self.copy_sent(id, from, to, stanza.class, &body);
            }
        }
        if let Class::Presence(presence) = stanza.class
            && flow != Flow::Stalled
        {
            self.note_directed(id, to, presence);
        }
        flow
    }

    /// The namespaces to re-declare when writing the stanza; empty but for streams that declared more than the usual.
    fn namespaces(&self, id: SessionId, stanza: &Stanza<'_>) -> StreamNamespaces {
        if !stanza.element.uses_stream_prefixes() {
            return StreamNamespaces::default();
        }
        let extras = self.get(id).and_then(|session| session.extras.as_ref());
        extras.map(|extras| extras.namespaces.clone()).unwrap_or_default()
    }

    /// The namespaces the scanner needs for a session's bytes; `None` for the usual two.
    pub fn stream_namespaces(&self, id: SessionId) -> Option<&StreamNamespaces> {
        self.get(id)?.extras.as_ref().map(|extras| &extras.namespaces)
    }

    fn call_service(
        &mut self,
        from: &Jid,
        stanza: &Stanza<'_>,
        target: Target,
        addressed: bool,
        reply_to: ReplyTo,
    ) -> Flow {
        let (iq_type, child) = match stanza.class {
            Class::Iq(iq_type) => (iq_type, stanza.element.first_child()),
            Class::Message(_) => (IqType::Set, stanza.element.children().find(interest::is_form)),
            Class::Presence(_) => return self.ignore(DropReason::Unhandled),
        };
        if let (ReplyTo::Session(id), Target::Account(account)) = (&reply_to, &target)
            && account.as_jid() == from.as_jid().bare()
            && self.answer_carbons(*id, from, stanza, addressed.then_some(account.as_jid()))
        {
            return Flow::Continue;
        }
        let Some(child) = child else { return self.ignore(DropReason::Unhandled) };
        let Some(payload) = stanza.element.standalone(&child) else { return self.ignore(DropReason::Unhandled) };
        let subscribed = match &target {
            Target::Account(account) => {
                let index = self.accounts.find_index(self.homes.hash(account.as_jid()), account.as_jid());
                index.and_then(|index| self.stands(index, from.as_jid())).is_some_and(|state| state.from)
            }
            Target::Server(_) | Target::Service(_) => false,
        };
        let request = Request {
            caller: from.clone(),
            target,
            addressed,
            subscribed,
            kind: stanza.class.kind(),
            iq_type,
            id_raw: stanza.id.map_or("", |id| id.raw).into(),
            payload: payload.into(),
            payload_ns: child.ns.into(),
            payload_name: child.name.into(),
            unix_millis: 0,
        };
        if let ReplyTo::Session(id) = reply_to
            && self.is_early(id, &request)
        {
            return self.refuse(id, stanza, from, late::NOT_YET);
        }
        self.note_nodes(&request);
        let mut waits = false;
        let in_order = work::changes_facts(&request);
        if let ReplyTo::Session(id) = reply_to
            && let Some(session) = self.get_mut(id)
        {
            session.flags.awaits = true;
            waits = true;
        }
        if in_order {
            self.serve_in_order(from.as_jid().bare(), Box::new(request), reply_to);
        } else {
            self.effects.push_back(Effect::Service(Box::new(request), reply_to));
        }
        if waits { Flow::Blocked } else { Flow::Continue }
    }

    /// A service's reply: its effects, then the answer, then the caller may go on.
    pub fn reply(&mut self, caller: &Jid, reply_to: ReplyTo, reply: Reply) {
        let (mut removed, mut late) = (false, false);
        for effect in reply.effects {
            match effect {
                ServiceEffect::PasswordChanged => {
                    self.account_changed(caller.as_jid());
                    self.end_others(caller);
                }
                ServiceEffect::AccountRemoved => removed = true,
                ServiceEffect::AccountCreated(account) => {
                    self.counters.registered += 1;
                    self.account_created(account.as_jid());
                }
                ServiceEffect::NotRegistered(condition) => {
                    self.counters.not_registered[condition] += 1;
                    late = true;
                }
                ServiceEffect::RosterInterested => self.flag(caller.as_jid(), |flags| flags.interested = true),
                ServiceEffect::RosterPush { payload } => self.push(caller.as_jid(), &payload, |flags| flags.interested),
                ServiceEffect::BlocklistInterested => {
                    self.flag(caller.as_jid(), |flags| flags.blocklist_interested = true);
                }
                ServiceEffect::Contact(item) => self.set_contact_of(caller, &item.jid, Some(&item)),
                ServiceEffect::ContactRemoved(item) => {
                    self.set_contact_of(caller, &item.jid, None);
                    self.contact_removed(&caller.bare(), &item);
                }
                ServiceEffect::Photo(photo) => self.set_photo(caller, photo),
                ServiceEffect::BlocklistPush { payload } => {
                    self.push(caller.as_jid(), &payload, |flags| flags.blocklist_interested);
                }
                ServiceEffect::ArchivePrefs(prefs) => self.set_archive_prefs(caller, prefs),
                ServiceEffect::Message(stanza) => {
                    if let ReplyTo::Session(id) = reply_to {
                        self.write(id, |out| out.extend_from_slice(&stanza));
                        self.counters.stanzas_out[Kind::Message] += 1;
                    }
                }
                ServiceEffect::Blocklist { list, blocked, unblocked } => {
                    self.blocklist_changed(caller, list, blocked, unblocked);
                }
                ServiceEffect::Pubsub(outgoing) => self.tell_of(*outgoing),
                ServiceEffect::ThingsChanged(accounts) => {
                    accounts.iter().for_each(|account| self.things_changed(account.as_jid()));
                }
                ServiceEffect::Tell { to, from, payload } => self.tell_account(&to, &from, &payload),
                ServiceEffect::Ask(ask) => self.ask_device(ask, caller, reply_to.clone()),
                ServiceEffect::Challenge(challenge) => self.challenge(challenge),
            }
        }
        match reply_to {
            ReplyTo::Session(id) => {
                let Some(session) = self.get_mut(id) else {
                    self.counters.drops[DropReason::Stale] += 1;
                    return;
                };
                session.flags.awaits = false;
                // A message that was taken has no answer, and nothing is no stanza to be acknowledged.
                if late {
                    self.keep_late(id, reply.stanza);
                } else if !reply.stanza.is_empty() {
                    self.write(id, |out| out.extend_from_slice(&reply.stanza));
                }
                self.resume(id);
            }
            ReplyTo::Address(_) if reply.stanza.is_empty() => {}
            ReplyTo::Address(to) => self.route_own(Class::Iq(IqType::Result), to.as_jid(), "", &reply.stanza),
        }
        if removed {
            self.account_changed(caller.as_jid());
            self.terminate_account(caller.as_jid().bare(), stream::Condition::NotAuthorized);
        }
    }

    /// Ends all sessions of an account but this one: its password is another.
    fn end_others(&mut self, jid: &Jid) {
        for id in self.sessions_of(jid.as_jid().bare()) {
            if self.get(id).is_some_and(|session| session.jid != *jid) {
                self.terminate(id, stream::Condition::NotAuthorized);
            }
        }
    }

    /// RFC 6121 §2.1.6: every interested resource of the account.
    pub(super) fn push_roster(&mut self, account: JidRef<'_>, payload: &str) {
        self.push(account, payload, |flags| flags.interested);
    }

    /// Notes something about a session, if it is still there.
    fn flag(&mut self, jid: JidRef<'_>, note: impl FnOnce(&mut Flags)) {
        if let Some(id) = self.session_of(self.homes.hash(jid), jid)
            && let Some(session) = self.get_mut(id)
        {
            note(&mut session.flags);
        }
    }

    /// RFC 6121 §2.1.6, XEP-0191 §3.3: every interested resource of the account.
    fn push(&mut self, account: JidRef<'_>, payload: &str, is_interested: impl Fn(Flags) -> bool) {
        for id in self.sessions_of(account) {
            let Some(session) = self.get(id) else { continue };
            if !is_interested(session.flags) {
                continue;
            }
            let to = session.jid.clone();
            self.ids += 1;
            let number = self.ids;
            let prefix = Arc::clone(&self.config);
            self.tell(id, |out| {
                out.extend_from_slice(b"<iq type='set'");
                plaza_core::xml::write::attr(out, "id", &format!("{}{number}", prefix.id_prefix));
                plaza_core::xml::write::attr(out, "to", to.as_str());
                out.push(b'>');
                out.extend_from_slice(payload.as_bytes());
                out.extend_from_slice(b"</iq>");
            });
        }
    }

    // ---- refusing ----------------------------------------------------------------------------------------------

    /// Answers a stanza with an error on behalf of whom it addresses; never an error or a result (RFC 6120 §8.3.1).
    fn refuse(&mut self, id: SessionId, stanza: &Stanza<'_>, from: &Jid, error: impl Into<StanzaError>) -> Flow {
        if !stanza.class.answerable() {
            return self.ignore(DropReason::Unanswerable);
        }
        let error = error.into();
        let condition = error.condition;
        self.counters.stanza_errors[condition] += 1;
        // `jid-malformed` comes from the server: what was addressed is not an address (RFC 6120 §8.3.3.8).
        let by = stanza.to.filter(|_| condition != Condition::JidMalformed).map(|to| to.value());
        self.write(id, |out| {
            write_error(
                out,
                stanza.class.kind(),
                stanza.id.map(|id| id.raw),
                by.as_deref().unwrap_or(""),
                from.as_str(),
                error,
            );
        });
        Flow::Continue
    }

    /// A stanza that breaks RFC 6120 §8.2.3: `bad-request`, unless it calls itself an error or a result.
    fn refuse_malformed(&mut self, id: SessionId, element: Element<'_>, from: &Jid) -> Flow {
        let kind = match element.name() {
            "message" => Kind::Message,
            "presence" => Kind::Presence,
            _ => Kind::Iq,
        };
        self.counters.stanzas_in[kind] += 1;
        if element.attr("type").is_some_and(|attr| matches!(attr.raw, "error" | "result")) {
            return self.ignore(DropReason::Unanswerable);
        }
        self.counters.stanza_errors[Condition::BadRequest] += 1;
        self.write(id, |out| {
            let iq_id = element.attr("id").map(|attr| attr.raw);
            write_error(out, kind, iq_id, "", from.as_str(), Condition::BadRequest.into());
        });
        Flow::Continue
    }

    fn ignore(&mut self, reason: DropReason) -> Flow {
        self.counters.drops[reason] += 1;
        Flow::Continue
    }

    // ---- what the driver drains --------------------------------------------------------------------------------

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The next session with bytes to write, and its connection.
    pub fn next_dirty(&mut self) -> Option<(SessionId, Key)> {
        while let Some(id) = self.dirty.pop() {
            if let Some(session) = self.get_mut(id) {
                session.flags.dirty = false;
                if session.connection != managed::NO_CONNECTION {
                    return Some((id, session.connection));
                }
            }
        }
        None
    }

    /// Every session, for a graceful stop.
    pub fn all_sessions(&self) -> Vec<SessionId> {
        self.sessions
            .iter()
            .map(|(index, session)| SessionId { index: index as u32, generation: session.generation })
            .collect()
    }

    // ---- small things ------------------------------------------------------------------------------------------

    fn get(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(id.index as usize).filter(|session| session.generation == id.generation)
    }

    fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(id.index as usize).filter(|session| session.generation == id.generation)
    }

    fn domain_kind(&self, domain: &str) -> DomainKind {
        if self.config.domains.iter().any(|own| own.as_str() == domain) {
            return DomainKind::Local;
        }
        let service = self.config.services.iter().position(|own| own.jid.as_str() == domain);
        service.map_or(DomainKind::Remote, |index| DomainKind::Service(index as u16))
    }

    fn session_of(&self, hash: u64, full: JidRef<'_>) -> Option<SessionId> {
        self.session_with(self.accounts.find_index(hash, full)?, full)
    }

    fn session_with(&self, account: u32, full: JidRef<'_>) -> Option<SessionId> {
        let account = self.accounts.get(account)?;
        account.sessions.iter().find_map(|&index| {
            let session = self.sessions.get(index as usize)?;
            // While one is taken out of its account, others of it may be told so: it is no recipient any more.
            let is_it = !session.flags.ended && session.jid.as_str() == full.as_str();
            is_it.then_some(SessionId { index, generation: session.generation })
        })
    }

    fn sessions_of(&self, jid: JidRef<'_>) -> smallvec::SmallVec<[SessionId; 4]> {
        let Some(account) = self.accounts.find(self.homes.hash(jid), jid) else { return smallvec::SmallVec::new() };
        let ids = account.sessions.iter().filter_map(|&index| {
            let session = self.sessions.get(index as usize)?;
            Some(SessionId { index, generation: session.generation })
        });
        ids.collect()
    }
}

/// Whether `text` is the session's own full or bare JID.
fn is_own(text: &str, full: &Jid) -> bool {
    if text == full.as_str() || text == full.as_jid().bare().as_str() {
        return true;
    }
    ParsedJid::parse(text).is_ok_and(|parsed| {
        let jid = parsed.as_jid();
        jid == full.as_jid() || jid == full.as_jid().bare()
    })
}

const _: () = assert!(size_of::<Session>() <= 128, "a session's entry stays small");

#[cfg(test)]
pub(super) mod tests;
