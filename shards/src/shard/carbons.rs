//! Carbons (XEP-0280 v1.0.1): copies of an account's messages for those of its sessions that want to see the whole
//! conversation; and client state (XEP-0352 v1.0.0): who looks away hears of presence when it looks again, or when something
//! else comes.

use plaza_core::jid::{Jid, JidRef};
use plaza_core::limits::ScanLimits;
use plaza_core::ns;
use plaza_core::stanza::{Class, IqType, MessageType, PresenceType, Stanza, write_forwarded, write_reply_start};
use plaza_core::xml::{Element, Scanned, StreamNamespaces, write};
use smallvec::SmallVec;

use super::batch::Envelope;
use super::deliver::Body;
use super::session::SessionId;
use super::{Flow, Shard};
use crate::metrics::DropReason;

/// Presences kept for a session that looks away; one more and it gets them all.
const HELD_MAX: usize = 128;

impl Shard {
    // ---- carbons -----------------------------------------------------------------------------------------------

    /// A session's request to begin or to end copying, which concerns the session alone and is answered here.
    pub(super) fn answer_carbons(
        &mut self,
        id: SessionId,
        from: &Jid,
        stanza: &Stanza<'_>,
        to: Option<JidRef<'_>>,
    ) -> bool {
        let (Class::Iq(IqType::Set), Some(iq_id), Some(child)) =
            (stanza.class, stanza.id, stanza.element.first_child())
        else {
            return false;
        };
        let wanted = match child.name {
            "enable" if child.ns == ns::CARBONS => true,
            "disable" if child.ns == ns::CARBONS => false,
            _ => return false,
        };
        self.set_carbons(id, wanted);
        self.write(id, |out| {
            write_reply_start(out, iq_id.raw, to.map_or("", JidRef::as_str), from.as_str());
            out.extend_from_slice(b"</iq>");
        });
        true
    }

    /// Begins or ends copying to a session.
    pub(super) fn set_carbons(&mut self, id: SessionId, wanted: bool) {
        let Some(session) = self.get_mut(id) else { return };
        if std::mem::replace(&mut session.flags.carbons, wanted) == wanted {
            return;
        }
        let account = session.account;
        if let Some(account) = self.accounts.get_mut(account) {
            account.carbons = if wanted { account.carbons + 1 } else { account.carbons.saturating_sub(1) };
        }
    }

    /// A message arrived at sessions of an account: its others that want copies get them. One branch where nobody does.
    pub(super) fn copy_received(&mut self, envelope: &Envelope<'_>, body: &Body<'_>, had: &[SessionId]) {
        if !matches!(envelope.class, Class::Message(_)) {
            return;
        }
        let Some(account) = self.accounts.find(envelope.hash, envelope.to).filter(|account| account.carbons > 0) else {
            return;
        };
        let bare = account.bare.clone();
        // What an account says to itself was copied when it was said.
        if JidRef::from_normal(envelope.from).bare() != bare.as_jid() {
            self.copy(&bare, "received", (envelope.class, body), had);
        }
    }

    /// A session sent a message: the others of its account that want copies get them.
    pub(super) fn copy_sent(&mut self, id: SessionId, from: &Jid, to: JidRef<'_>, class: Class, body: &Body<'_>) {
        let Some(session) = self.get(id) else { return };
        if self.accounts.get(session.account).is_none_or(|account| account.carbons == 0) {
            return;
        }
        let bare = from.bare();
        let mut had: SmallVec<[SessionId; 2]> = SmallVec::from_slice(&[id]);
        if to.bare() == bare.as_jid() {
            had.extend(self.session_of(self.homes.hash(to), to));
        }
        self.copy(&bare, "sent", (class, body), &had);
    }

    pub(super) fn copy(&mut self, bare: &Jid, way: &str, (class, body): (Class, &Body<'_>), had: &[SessionId]) {
        let mut message = self.take_buffer();
        body.append(&mut message, None);
        if !self.is_copied(class, &message) {
            return self.give_buffer(message);
        }
        for id in self.sessions_of(bare.as_jid()) {
            let Some(session) = self.get(id).filter(|session| session.flags.carbons && !had.contains(&id)) else {
                continue;
            };
            let to = session.jid.clone();
            self.tell(id, |out| {
                out.extend_from_slice(b"<message");
                write::attr(out, "from", bare.as_str());
                write::attr(out, "to", to.as_str());
                if class == Class::Message(MessageType::Chat) {
                    out.extend_from_slice(b" type='chat'");
                }
                out.extend_from_slice(b"><");
                out.extend_from_slice(way.as_bytes());
                write::attr(out, "xmlns", ns::CARBONS);
                out.extend_from_slice(b"><forwarded");
                write::attr(out, "xmlns", ns::FORWARD);
                out.push(b'>');
                write_forwarded(out, &message);
                out.extend_from_slice(b"</forwarded></");
                out.extend_from_slice(way.as_bytes());
                out.extend_from_slice(b"></message>");
            });
        }
        self.give_buffer(message);
    }

    /// Whether a message is one that is copied (§6): chat, and normal messages that say something, unless their sender asked
    /// otherwise.
    fn is_copied(&mut self, class: Class, message: &[u8]) -> bool {
        let chat = match class {
            Class::Message(MessageType::Chat) => true,
            Class::Message(MessageType::Normal) => false,
            Class::Message(_) | Class::Presence(_) | Class::Iq(_) => return false,
        };
        let namespaces = StreamNamespaces::default();
        self.scanner.reset();
        let scanned = self.scanner.next(&ScanLimits::AFTER_AUTH, &namespaces, message);
        let Ok(Scanned::Element { element, .. }) = scanned else { return false };
        let (mut says, mut refused) = (chat, element.default_ns() != ns::CLIENT);
        for child in element.children() {
            says |= child.name == "body" || matches!(child.ns, ns::RECEIPTS | ns::CHAT_MARKERS);
            refused |= child.ns == ns::CARBONS; // `private`, or a copy already.
            refused |= child.ns == ns::HINTS && child.name == "no-copy";
        }
        says && !refused
    }

    // ---- client state ------------------------------------------------------------------------------------------

    /// `<active/>` or `<inactive/>`; whether it was one of them.
    pub(super) fn client_state(&mut self, id: SessionId, element: &Element<'_>) -> Option<Flow> {
        if element.ns() != ns::CSI {
            return None;
        }
        let active = match element.name() {
            "active" => true,
            "inactive" => false,
            _ => return None,
        };
        self.set_active(id, active);
        Some(Flow::Continue)
    }

    /// The client looks, or looks away.
    pub(super) fn set_active(&mut self, id: SessionId, active: bool) {
        if let Some(session) = self.get_mut(id) {
            session.flags.inactive = !active;
        }
        if active {
            self.give_held(id);
        }
    }

    /// Whether a session's user looks away.
    pub(super) fn is_inactive(&self, id: SessionId) -> bool {
        self.get(id).is_some_and(|session| session.flags.inactive)
    }

    /// Presence for a session that looks away is held, the last of each sender. Whether it is.
    pub(super) fn hold_presence(
        &mut self,
        id: SessionId,
        (class, from): (Class, &str),
        write: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        if !self.is_inactive(id)
            || !matches!(class, Class::Presence(PresenceType::Available | PresenceType::Unavailable))
        {
            return false;
        }
        let mut stanza = Vec::new();
        write(&mut stanza);
        let Some(session) = self.get_mut(id) else { return false };
        let held = &mut session.extras().held;
        // The last word of each, in the order of last words.
        held.retain(|(sender, _)| **sender != *from);
        held.push((from.into(), stanza.into()));
        if held.len() > HELD_MAX {
            self.give_held(id);
        }
        true
    }

    /// Gives a session the presence that was held for it.
    pub(super) fn give_held(&mut self, id: SessionId) {
        let Some(extras) = self.get_mut(id).and_then(|session| session.extras.as_mut()) else { return };
        if extras.held.is_empty() {
            return;
        }
        for (_, stanza) in std::mem::take(&mut extras.held) {
            if !self.tell(id, |out| out.extend_from_slice(&stanza)) {
                self.counters.drops[DropReason::OutboxFull] += 1;
            }
        }
    }
}
