//! Presence of one's own resources, and directed presence (RFC 6121 §4.2, §4.4, §4.5, §4.6).

use plaza_core::jid::{Jid, JidRef};
use plaza_core::stanza::{Class, Condition, PresenceType, Stamp, Stanza, write_stanza};
use plaza_core::xml::write;

use super::{Flow, SessionId, Shard};

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
            self.broadcast(id, from, stanza);
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
        session.priority = Some(priority);
        if kept.is_some() || session.extras.is_some() {
            session.extras().presence = kept;
        }
        self.broadcast(id, from, stanza);
        if initial {
            self.greet(id, from);
        }
        Flow::Continue
    }

    /// To every available resource of the account, the sender included (RFC 6121 §4.2.2, §4.4.2, §4.5.2).
    fn broadcast(&mut self, id: SessionId, from: &Jid, stanza: &Stanza<'_>) {
        let namespaces = self.namespaces(id, stanza);
        for other in self.sessions_of(from.as_jid()) {
            let Some(session) = self.get(other) else { continue };
            if session.priority.is_none() {
                continue;
            }
            let to = session.jid.clone();
            let stamp = Stamp { from: from.as_str(), to: Some(to.as_str()) };
            if self.tell(other, |out| write_stanza(out, stanza, stamp, &namespaces)) {
                self.counters.stanzas_out[stanza.class.kind()] += 1;
            }
        }
    }

    /// Tells a newly available resource of the others (RFC 6121 §4.2.2).
    fn greet(&mut self, id: SessionId, newcomer: &Jid) {
        for other in self.sessions_of(newcomer.as_jid()) {
            if other == id {
                continue;
            }
            let Some(session) = self.get(other).filter(|session| session.priority.is_some()) else { continue };
            let from = session.jid.clone();
            let kept = session.extras.as_ref().and_then(|extras| extras.presence.clone());
            self.tell(id, |out| match &kept {
                // Kept as `<presence from='…'…`: `to` goes in front.
                Some(text) => {
                    out.extend_from_slice(b"<presence");
                    write::attr(out, "to", newcomer.as_str());
                    out.extend_from_slice(text.strip_prefix("<presence").unwrap_or(text).as_bytes());
                }
                None => simple_presence(out, from.as_str(), newcomer.as_str(), false),
            });
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
        let Some(extras) = self.get_mut(id).and_then(|session| session.extras.as_mut()) else { return };
        for to in std::mem::take(&mut extras.directed) {
            if to.as_jid() == from.as_jid() || (broadcast && self.hears_broadcasts(from, to.as_jid())) {
                continue;
            }
            let mut bytes = self.take_buffer();
            simple_presence(&mut bytes, from.as_str(), to.as_str(), true);
            self.route_own(Class::Presence(PresenceType::Unavailable), to.as_jid(), from.as_str(), &bytes);
            self.give_buffer(bytes);
        }
    }

    /// Whether presence broadcast by `from` reaches `to`: its account, or a resource of it that is available.
    fn hears_broadcasts(&self, from: &Jid, to: JidRef<'_>) -> bool {
        let available = |id| self.get(id).is_some_and(|session| session.priority.is_some());
        to.bare() == from.as_jid().bare()
            && (to.is_bare() || self.session_of(self.homes.hash(to), to).is_some_and(available))
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
                self.tell(other, |out| simple_presence(out, from.as_str(), to.as_str(), true));
            }
        }
        self.leave_directed(id, &from, was_available);
    }
}

/// `<priority/>` of an available presence; 0 if absent, `None` if it is no number from -128 to 127 (RFC 6121 §4.7.2.3).
fn priority(stanza: &Stanza<'_>) -> Option<i8> {
    let found = stanza.element.children().find(|child| child.name == "priority");
    found.map_or(Some(0), |child| child.content.trim().parse().ok())
}

fn simple_presence(out: &mut Vec<u8>, from: &str, to: &str, unavailable: bool) {
    out.extend_from_slice(b"<presence");
    write::attr(out, "from", from);
    write::attr(out, "to", to);
    if unavailable {
        out.extend_from_slice(b" type='unavailable'");
    }
    out.extend_from_slice(b"/>");
}
