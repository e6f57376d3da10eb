//! Presence (RFC 6121 §4): among one's own resources, to contacts and from them, and directed.

use plaza_core::jid::{Jid, JidRef};
use plaza_core::stanza::{Class, Condition, Kind, PresenceType, Stamp, Stanza, write_stanza};
use plaza_core::subscription::State;
use plaza_core::xml::write;

use super::batch::{BATCH_OWN_BYTES_MAX, Envelope, Handoff};
use super::deliver::{Body, Origin};
use super::work::Task;
use super::{Flow, SessionId, Shard};
use crate::metrics::DropReason;

impl Shard {
    /// Presence without `to`: available or unavailable, for the account's own resources.
    pub(super) fn own_presence(
        &mut self,
        id: SessionId,
        from: &Jid,
        stanza: &Stanza<'_>,
        presence: PresenceType,
    ) -> Flow {
        if presence == PresenceType::Unavailable {
            let namespaces = self.namespaces(id, stanza);
            let mut text = self.take_buffer();
            write_stanza(&mut text, stanza, Stamp { from: from.as_str(), to: None }, &namespaces);
            self.tell_resources(from, PresenceType::Unavailable, &text);
            if self.get(id).is_some_and(|session| session.priority.is_some()) {
                self.broadcast_to_contacts(id, PresenceType::Unavailable, &text);
            }
            self.give_buffer(text);
            self.leave_directed(id, from, true);
            if let Some(session) = self.get_mut(id) {
                session.priority = None;
                if let Some(extras) = session.extras.as_mut() {
                    extras.presence = None;
                }
            }
            return Flow::Continue;
        }
        let Some(priority) = priority(stanza) else { return self.refuse(id, stanza, from, Condition::BadRequest) };
        let plain = stanza.element.content().is_empty() && stanza.element.attrs().len() == 0;
        let kept = (!plain).then(|| {
            let namespaces = self.namespaces(id, stanza);
            let mut text = Vec::new();
            write_stanza(&mut text, stanza, Stamp { from: from.as_str(), to: None }, &namespaces);
            String::from_utf8(text).unwrap_or_default().into_boxed_str()
        });
        let Some(session) = self.get_mut(id) else { return Flow::Continue };
        let initial = session.priority.is_none();
        let reachable = matches!(session.priority.replace(priority), Some(0..));
        if kept.is_some() || session.extras.is_some() {
            session.extras().presence = kept;
        }
        let wanted = self.notified_of(id);
        self.note_caps(id, stanza);
        if !self.arrives(id, initial) {
            self.appear(id, from, initial);
            if initial || self.notified_of(id) != wanted {
                self.want_last(id);
            }
        }
        if !reachable && priority >= 0 {
            self.fetch_kept(id);
        }
        Flow::Continue
    }

    /// Tells whom it concerns of an available session's presence as it is now; one that has just become available is told of
    /// them too.
    pub(super) fn appear(&mut self, id: SessionId, from: &Jid, initial: bool) {
        let mut text = self.take_buffer();
        self.write_presence(id, &mut text);
        self.tell_resources(from, PresenceType::Available, &text);
        self.give_buffer(text);
        if initial {
            self.greet(id, from);
        }
        self.announce(id);
        if initial {
            self.probe_contacts(id);
            self.ask_questions(id);
            self.notice_things(id);
        }
    }

    /// Presence, as written but for `to`, to every available resource of the account, the sender included (RFC 6121 §4.2.2,
    /// §4.4.2, §4.5.2).
    pub(super) fn tell_resources(&mut self, from: &Jid, presence: PresenceType, text: &[u8]) {
        for other in self.sessions_of(from.as_jid()) {
            let Some(session) = self.get(other).filter(|session| session.priority.is_some()) else { continue };
            let to = session.jid.clone();
            let write = |out: &mut Vec<u8>| write_addressed(out, text, to.as_str());
            if self.tell_own((other, &to), (Class::Presence(presence), from), write) {
                self.counters.stanzas_out[Kind::Presence] += 1;
            }
        }
    }

    /// Tells a resource of one of its own account's, behind what waits there; whether it was told at once.
    fn tell_own(
        &mut self,
        (id, to): (SessionId, &Jid),
        (class, from): (Class, &Jid),
        write: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        let Some(account) = self.get(id).map(|session| session.account) else { return false };
        if !self.waits_for_store(account) {
            if self.is_inactive(id) {
                return self.hold_presence(id, (class, from.as_str()), write);
            }
            return self.tell(id, write);
        }
        let mut bytes = self.take_buffer();
        write(&mut bytes);
        self.route_own(class, to.as_jid(), from.as_str(), &bytes);
        self.give_buffer(bytes);
        false
    }

    /// Tells a newly available resource of the others (RFC 6121 §4.2.2).
    fn greet(&mut self, id: SessionId, newcomer: &Jid) {
        for other in self.sessions_of(newcomer.as_jid()) {
            if other == id {
                continue;
            }
            if self.get(other).is_none_or(|session| session.priority.is_none()) {
                continue;
            }
            let mut text = self.take_buffer();
            self.write_presence(other, &mut text);
            self.tell(id, |out| write_addressed(out, &text, newcomer.as_str()));
            self.give_buffer(text);
        }
    }

    /// Remembers whom directed presence went to, so that they learn of its end (RFC 6121 §4.6.3).
    pub(super) fn note_directed(&mut self, id: SessionId, to: JidRef<'_>, presence: PresenceType) {
        let most = usize::from(self.config.directed_presence_max);
        let Some(session) = self.get_mut(id) else { return };
        match presence {
            PresenceType::Available => {
                let directed = &mut session.extras().directed;
                if directed.len() < most && !directed.iter().any(|known| known.as_jid() == to) {
                    directed.push(to.to_jid());
                }
            }
            PresenceType::Unavailable => {
                if let Some(extras) = session.extras.as_mut() {
                    extras.directed.retain(|known| known.as_jid() != to);
                }
            }
            PresenceType::Subscribe
            | PresenceType::Subscribed
            | PresenceType::Unsubscribe
            | PresenceType::Unsubscribed
            | PresenceType::Probe
            | PresenceType::Error => {}
        }
    }

    /// Those it sent directed presence to learn that it left, but for resources of its own account whom a broadcast has
    /// told already.
    fn leave_directed(&mut self, id: SessionId, from: &Jid, broadcast: bool) {
        let Some(session) = self.get_mut(id) else { return };
        let account = session.account;
        let Some(extras) = session.extras.as_mut() else { return };
        for to in std::mem::take(&mut extras.directed) {
            let hears = broadcast
                && (self.hears_broadcasts(account, from, to.as_jid())
                    || self.stands(account, to.as_jid()).is_some_and(|state| state.from));
            if to.as_jid() == from.as_jid() || hears {
                continue;
            }
            self.send_unavailable(from, &to);
        }
    }

    /// Tells a local address that a session left.
    pub(super) fn send_unavailable(&mut self, from: &Jid, to: &Jid) {
        let mut bytes = self.take_buffer();
        simple_presence(&mut bytes, from.as_str(), to.as_str(), true);
        self.route_own(Class::Presence(PresenceType::Unavailable), to.as_jid(), from.as_str(), &bytes);
        self.give_buffer(bytes);
    }

    /// Whether presence broadcast by `from` reaches `to`: its account, or a resource of it that is available. What waits
    /// there for the account may yet reach a resource that is not available now.
    fn hears_broadcasts(&self, account: u32, from: &Jid, to: JidRef<'_>) -> bool {
        let available = |id| self.get(id).is_some_and(|session| session.priority.is_some());
        to.bare() == from.as_jid().bare()
            && (to.is_bare() && !self.waits_for_store(account)
                || self.session_of(self.homes.hash(to), to).is_some_and(available))
    }

    /// A session is going: its account's other resources and those it sent directed presence to learn of it, once
    /// (RFC 6121 §4.5.2, §4.6.3).
    pub(super) fn presence_gone(&mut self, id: SessionId) {
        let Some(session) = self.get_mut(id) else { return };
        let from = session.jid.clone();
        let was_available = session.priority.take().is_some();
        if was_available {
            for other in self.sessions_of(from.as_jid()) {
                let Some(session) = self.get(other).filter(|session| session.priority.is_some()) else { continue };
                let to = session.jid.clone();
                let write = |out: &mut Vec<u8>| simple_presence(out, from.as_str(), to.as_str(), true);
                self.tell_own((other, &to), (Class::Presence(PresenceType::Unavailable), &from), write);
            }
            let mut text = self.take_buffer();
            simple_presence(&mut text, from.as_str(), "", true);
            self.broadcast_to_contacts(id, PresenceType::Unavailable, &text);
            self.give_buffer(text);
        }
        self.leave_directed(id, &from, was_available);
    }

    // ---- contacts ----------------------------------------------------------------------------------------------

    /// Tells all contacts that may know of a session's presence as it is now (RFC 6121 §4.2.2, §4.4.2).
    pub(super) fn announce(&mut self, id: SessionId) {
        let Some(session) = self.get(id).filter(|session| session.priority.is_some()) else { return };
        let account = session.account;
        if self.is_short() {
            return self.withhold(id);
        }
        if !self.knows(account) {
            return self.enqueue(account, Task::Announce(id));
        }
        let mut text = self.take_buffer();
        self.write_presence(id, &mut text);
        self.broadcast_to_contacts(id, PresenceType::Available, &text);
        self.give_buffer(text);
    }

    /// Writes a session's available presence, without `to`, to an empty buffer.
    pub(super) fn write_presence(&mut self, id: SessionId, out: &mut Vec<u8>) {
        let Some(session) = self.get(id) else { return };
        let account = session.account;
        match session.extras.as_ref().and_then(|extras| extras.presence.as_ref()) {
            Some(text) => out.extend_from_slice(text.as_bytes()),
            None => simple_presence(out, session.jid.as_str(), "", false),
        }
        self.show_photo(account, out);
    }

    /// Presence, as written but for `to`, to every contact that may see the session's account.
    pub(super) fn broadcast_to_contacts(&mut self, id: SessionId, presence: PresenceType, text: &[u8]) {
        let Some(session) = self.get(id) else { return };
        let (account, from) = (session.account, session.jid.clone());
        self.fan_out(account, &Fan { presence, from: from.as_str(), text });
    }

    /// Asks every contact whose presence the account may see where it is (RFC 6121 §4.3.1). Contacts at home in this
    /// process answer from memory; who has no session there is silent.
    fn probe_contacts(&mut self, id: SessionId) {
        let Some(session) = self.get(id) else { return };
        let (account, from) = (session.account, session.jid.clone());
        self.fan_out(account, &Fan { presence: PresenceType::Probe, from: from.as_str(), text: b"" });
    }

    /// Asks again what was not answered (RFC 6121 §3.1.3).
    fn ask_questions(&mut self, id: SessionId) {
        let Some(account) = self.get(id).map(|session| session.account) else { return };
        let facts = self.accounts.get(account).and_then(|account| account.facts.as_ref());
        if facts.is_none_or(|facts| facts.contacts.requests() > 0) {
            self.enqueue(account, Task::Questions(id));
        }
    }

    /// One presence to many contacts, each told at its home: here at once, elsewhere in one handoff a shard. A probe goes to
    /// those whose presence the account may see, all else to those that may see the account's. If it is not known who they
    /// are, because what is known is being loaded anew, it goes when it is.
    pub(super) fn fan_out(&mut self, account: u32, fan: &Fan<'_>) {
        // Nobody else touches the facts meanwhile: presence changes none.
        let Some(facts) = self.accounts.get_mut(account).and_then(|account| account.facts.take()) else {
            let later = Later { presence: fan.presence, from: fan.from.into(), text: fan.text.into() };
            return self.enqueue(account, Task::Fan(Box::new(later)));
        };
        let chosen = |state: State| if fan.presence == PresenceType::Probe { state.to } else { state.from };
        self.fans += 1;
        for contact in facts.contacts.those(chosen) {
            if self.blocks(account, contact.as_str()) {
                continue;
            }
            if !self.is_local_account(contact) {
                self.counters.drops[DropReason::NoRoute] += 1; // No server-to-server stream exists.
                continue;
            }
            let hash = self.homes.hash(contact);
            let home = self.homes.shard(hash);
            if home == self.id {
                self.present(hash, contact, fan);
            } else if let Some(batch) = self.batches.get_mut(usize::from(home.0)) {
                if batch.bytes() >= BATCH_OWN_BYTES_MAX {
                    self.counters.drops[DropReason::MeshFull] += 1;
                } else {
                    self.counters.handoffs_out += u64::from(batch.fan(self.fans, contact, |bytes| fan.begin(bytes)));
                    if fan.presence == PresenceType::Probe {
                        batch.count_probe();
                    }
                    // Who goes cannot wait.
                    self.full |= fan.presence == PresenceType::Unavailable && batch.is_full();
                }
            }
        }
        if let Some(account) = self.accounts.get_mut(account) {
            account.facts = Some(facts);
        }
    }

    /// A contact's presence reaches an account at home here, or asks for its.
    pub(super) fn present(&mut self, hash: u64, to: JidRef<'_>, fan: &Fan<'_>) {
        let Some(index) = self.accounts.find_index(hash, to) else { return };
        if self.blocks(index, fan.from) {
            self.drop_counted(DropReason::Blocked);
            return;
        }
        if fan.presence == PresenceType::Probe {
            if self.knows(index) {
                self.answer_probe(index, fan.from);
            }
            return;
        }
        if self.waits_for_store(index) {
            let mut text = self.take_buffer();
            write_addressed(&mut text, fan.text, to.as_str());
            let envelope = Envelope { class: Class::Presence(fan.presence), hash, to, from: fan.from, id: None };
            self.queue_inbound(&envelope, Origin::Broker, &Body::Bytes(&text));
            return self.give_buffer(text);
        }
        for at in 0.. {
            let Some(account) = self.accounts.get(index) else { return };
            let Some(&session) = account.sessions.get(at) else { return };
            let Some(session) = self.sessions.get(session as usize).map(|found| (session, found)) else { continue };
            let (slot, session) = session;
            let id = SessionId { index: slot, generation: session.generation };
            if session.priority.is_none() {
                continue;
            }
            let class = Class::Presence(fan.presence);
            if self.hold_presence(id, (class, fan.from), |out| write_addressed(out, fan.text, to.as_str())) {
                continue;
            }
            if self.tell(id, |out| write_addressed(out, fan.text, to.as_str())) {
                self.counters.stanzas_out[Kind::Presence] += 1;
            }
        }
    }

    /// Answers a probe for an account whose facts are known, or which is known not to exist (RFC 6121 §4.3.2): where its
    /// resources are, to who may know; that there is no subscription, to anybody else, whether the account exists or not.
    pub(super) fn answer_probe(&mut self, index: u32, prober: &str) {
        let to = JidRef::from_normal(prober);
        let Some(account) = self.accounts.get(index) else { return };
        let bare = account.bare.clone();
        let allowed = to.bare() == bare.as_jid() || self.stands(index, to).is_some_and(|state| state.from);
        let mut bytes = self.take_buffer();
        if !allowed {
            bytes.extend_from_slice(b"<presence");
            write::attr(&mut bytes, "from", bare.as_str());
            write::attr(&mut bytes, "to", to.bare().as_str());
            bytes.extend_from_slice(b" type='unsubscribed'/>");
            let class = Class::Presence(PresenceType::Unsubscribed);
            self.route_own(class, to.bare(), bare.as_str(), &bytes);
            return self.give_buffer(bytes);
        }
        for id in self.sessions_of(bare.as_jid()) {
            let Some(session) = self.get(id).filter(|session| session.priority.is_some()) else { continue };
            let from = session.jid.clone();
            let mut text = self.take_buffer();
            self.write_presence(id, &mut text);
            bytes.clear();
            write_addressed(&mut bytes, &text, prober);
            self.give_buffer(text);
            self.route_own(Class::Presence(PresenceType::Available), to, from.as_str(), &bytes);
        }
        self.give_buffer(bytes);
    }

    /// Tells a contact where the account's resources are, or that they are gone, for it may see them no longer.
    pub(super) fn show_presence(&mut self, index: u32, contact: &Jid, gone: bool) {
        if !self.is_local_account(contact.as_jid()) || self.blocks(index, contact.as_str()) {
            return;
        }
        let Some(account) = self.accounts.get(index) else { return };
        let bare = account.bare.clone();
        for id in self.sessions_of(bare.as_jid()) {
            let Some(session) = self.get(id).filter(|session| session.priority.is_some()) else { continue };
            let from = session.jid.clone();
            let (mut text, mut bytes) = (self.take_buffer(), self.take_buffer());
            let presence = if gone {
                simple_presence(&mut text, from.as_str(), "", true);
                PresenceType::Unavailable
            } else {
                self.write_presence(id, &mut text);
                PresenceType::Available
            };
            write_addressed(&mut bytes, &text, contact.as_str());
            self.route_own(Class::Presence(presence), contact.as_jid(), from.as_str(), &bytes);
            self.give_buffer(text);
            self.give_buffer(bytes);
        }
    }
}

/// One presence on its way to many.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fan<'a> {
    /// Available, unavailable, or a probe.
    pub(super) presence: PresenceType,
    /// Full JID of the sender.
    pub(super) from: &'a str,
    /// The stanza but for `to`; empty for a probe.
    pub(super) text: &'a [u8],
}

/// A [`Fan`] that waits.
#[derive(Debug)]
pub(super) struct Later {
    presence: PresenceType,
    from: Box<str>,
    text: Box<[u8]>,
}

impl Later {
    pub(super) fn fan(&self) -> Fan<'_> {
        Fan { presence: self.presence, from: &self.from, text: &self.text }
    }
}

impl Fan<'_> {
    /// Writes what all recipients on another shard have in common.
    fn begin(&self, bytes: &mut Vec<u8>) -> Handoff {
        bytes.extend_from_slice(self.from.as_bytes());
        bytes.extend_from_slice(self.text);
        Handoff::Fan {
            presence: self.presence,
            from_len: self.from.len() as u16,
            text_len: self.text.len() as u32,
            recipients_len: 0,
        }
    }
}

/// Appends a stanza written without `to`, addressed.
pub(super) fn write_addressed(out: &mut Vec<u8>, text: &[u8], to: &str) {
    let name_end = text.iter().position(|&byte| byte == b' ').unwrap_or(text.len());
    let (name, rest) = text.split_at(name_end);
    out.extend_from_slice(name);
    write::attr(out, "to", to);
    out.extend_from_slice(rest);
}

/// `<priority/>` of an available presence; 0 if absent, `None` if it is no number from -128 to 127 (RFC 6121 §4.7.2.3).
fn priority(stanza: &Stanza<'_>) -> Option<i8> {
    let found = stanza.element.children().find(|child| child.name == "priority");
    found.map_or(Some(0), |child| child.content.trim().parse().ok())
}

fn simple_presence(out: &mut Vec<u8>, from: &str, to: &str, unavailable: bool) {
    out.extend_from_slice(b"<presence");
    write::attr(out, "from", from);
    if !to.is_empty() {
        write::attr(out, "to", to);
    }
    if unavailable {
        out.extend_from_slice(b" type='unavailable'");
    }
    out.extend_from_slice(b"/>");
}

#[cfg(test)]
mod tests {
    use plaza_registry::accounts::{self, NewKeys};
    use plaza_registry::errands::Return;
    use plaza_registry::facts;
    use plaza_registry::rosters::{self, Subscription};
    use plaza_registry::store::memory::MemoryStore;
    use plaza_registry::wait::block_on;

    use super::super::Effect;
    use super::super::batch::BATCH_BYTES_MAX;
    use super::super::tests::{bind, feed, shards};
    use super::*;
    use crate::home::Homes;
    use crate::mesh::ShardId;

    /// Sessions that become available in one turn.
    const SESSIONS: usize = 1_000;

    /// Accounts at home on a shard.
    fn at(homes: &Homes, shard: u16) -> impl Iterator<Item = Jid> {
        let names = (0..).map(|number| Jid::parse(&format!("a{number}@things.example")).unwrap());
        names.filter(move |name| homes.shard(homes.hash(name.as_jid())) == ShardId(shard))
    }

    /// Puts these accounts on a shard, each a friend of somebody on the other, and gives each a session.
    fn district(shard: &mut Shard, names: &[Jid], friend: &Jid) -> Vec<SessionId> {
        let store = MemoryStore::new();
        let keys = NewKeys::derive("pencil", &[1; 32], 1).unwrap();
        let known = |name: &Jid| {
            block_on(accounts::create(&store, name.as_jid(), keys.clone(), false, 0)).unwrap();
            let both = |item: &mut rosters::RosterItem| item.subscription = Subscription::Both;
            block_on(rosters::update(&store, name.as_jid(), friend.as_jid(), 9, both)).unwrap();
            block_on(facts::load(&store, name.as_jid()))
        };
        let mut sessions = Vec::new();
        for name in names {
            let id = bind(shard, name.as_str(), "r");
            shard.login(crate::ring::Key { index: 0, generation: 0 }, name.as_jid());
            assert!(matches!(shard.poll_effect(), Some(Effect::Errand(..))));
            shard.errand_done(name, Return::Load(known(name)));
            assert!(matches!(shard.poll_effect(), Some(Effect::Login(_, Ok(())))));
            sessions.push(id);
        }
        sessions
    }

    #[test]
    fn a_district_that_becomes_available_at_once_waits_for_the_mesh_and_is_seen_whole() {
        let (mut both, homes) = shards(2);
        let friend = at(&homes, 1).next().unwrap();
        let names: Vec<Jid> = at(&homes, 0).take(SESSIONS).collect();
        let mut waiting = district(&mut both[0], &names, &friend);
        let presence = format!("<presence><status>{}</status></presence>", "x".repeat(3_000));
        let (mut spare, mut batches, mut seen) = (Box::default(), 0, 0);
        while !waiting.is_empty() {
            // As the driver does: whoever is told to wait comes again when it is told to go on.
            waiting.retain(|&id| feed(&mut both[0], id, &presence) == Flow::Stalled);
            let mut batch = both[0].take_batch(ShardId(1), spare).unwrap();
            assert!(batch.bytes() < BATCH_BYTES_MAX + 8_000, "{} bytes", batch.bytes());
            seen += batch.handoffs.iter().filter(|handoff| is_available(handoff)).count();
            batches += 1;
            both[0].batch_sent(ShardId(1));
            batch.clear();
            spare = batch;
        }
        assert_eq!((seen, both[0].counters.drops[DropReason::MeshFull]), (SESSIONS, 0));
        assert!(batches > 10, "{batches} batches");
        assert_eq!(both[0].counters.stanzas_in[Kind::Presence], SESSIONS as u64);
        let resumed = std::iter::from_fn(|| both[0].poll_effect()).filter(|effect| matches!(effect, Effect::Resume(_)));
        assert!(resumed.count() < SESSIONS * batches);
    }

    fn is_available(handoff: &Handoff) -> bool {
        matches!(handoff, Handoff::Fan { presence: PresenceType::Available, .. })
    }

    #[test]
    fn a_district_that_leaves_at_once_is_handed_over_as_it_goes() {
        let (mut both, homes) = shards(2);
        let friend = at(&homes, 1).next().unwrap();
        let names: Vec<Jid> = at(&homes, 0).take(SESSIONS).collect();
        let sessions = district(&mut both[0], &names, &friend);
        let status = format!("<presence type='unavailable'><status>{}</status></presence>", "x".repeat(3_000));
        let (mut spare, mut left) = (Box::default(), 0);
        for (number, &id) in sessions.iter().enumerate() {
            assert_eq!(feed(&mut both[0], id, "<presence/>"), Flow::Continue);
            let mut batch = both[0].take_batch(ShardId(1), spare).unwrap();
            both[0].batch_sent(ShardId(1));
            batch.clear();
            spare = batch;
            assert!(!both[0].take_full(), "{number}");
        }
        for &id in &sessions {
            assert_eq!(feed(&mut both[0], id, &status), Flow::Continue);
            if both[0].take_full() {
                let mut batch = both[0].take_batch(ShardId(1), spare).unwrap();
                assert!(batch.bytes() < BATCH_BYTES_MAX + 8_000, "{} bytes", batch.bytes());
                left += batch.len();
                both[0].batch_sent(ShardId(1));
                batch.clear();
                spare = batch;
            }
        }
        left += both[0].take_batch(ShardId(1), spare).map_or(0, |batch| batch.len());
        assert_eq!((left, both[0].counters.drops[DropReason::MeshFull]), (SESSIONS, 0));
    }

    #[test]
    fn probes_leave_room_for_their_answers() {
        let (mut both, homes) = shards(2);
        let friend = at(&homes, 1).next().unwrap();
        let names: Vec<Jid> = at(&homes, 0).take(SESSIONS).collect();
        let sessions = district(&mut both[0], &names, &friend);
        let taken = sessions.iter().take_while(|&&id| feed(&mut both[0], id, "<presence/>") == Flow::Continue).count();
        let batch = both[0].take_batch(ShardId(1), Box::default()).unwrap();
        assert!(!both[0].take_full(), "who can wait does");
        assert!(
            (300..700).contains(&taken) && batch.bytes() < BATCH_BYTES_MAX / 2,
            "{taken} in {} bytes",
            batch.bytes()
        );
    }
}
