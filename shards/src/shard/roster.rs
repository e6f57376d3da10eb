//! Subscriptions between accounts (RFC 6121 §3): what a session sends goes through its account's roster, and from there to
//! the contact's; what each learns is pushed, and presence follows.

use plaza_core::jid::{Jid, JidRef};
use plaza_core::stanza::{Class, Condition, Kind, PresenceType, Stamp, Stanza, write_error, write_stanza};
use plaza_core::subscription::Request;
use plaza_registry::rosters::RosterItem;
use plaza_registry::services::roster_payload;
use plaza_registry::subscriptions::Applied;

use super::batch::Envelope;
use super::enforce::write_request;
use super::work::{Inbound, Task};
use super::{Flow, SessionId, Shard};
use crate::metrics::DropReason;

impl Shard {
    /// A session asks for, grants, gives up or denies a subscription: first its own roster, then the contact. Both
    /// addresses are bare from here on (§3.1.2).
    pub(super) fn send_request(
        &mut self,
        id: SessionId,
        from: &Jid,
        stanza: &Stanza<'_>,
        request: Request,
        to: JidRef<'_>,
    ) -> Flow {
        let (own, contact) = (from.bare(), to.bare());
        if own.as_jid() == contact {
            return self.ignore(DropReason::Unhandled); // Nobody needs leave to see what is theirs.
        }
        let namespaces = self.namespaces(id, stanza);
        let mut text = Vec::new();
        write_stanza(&mut text, stanza, Stamp { from: own.as_str(), to: Some(contact.as_str()) }, &namespaces);
        let Ok(text) = String::from_utf8(text) else { return self.ignore(DropReason::Unhandled) };
        if let Some(session) = self.get_mut(id) {
            session.flags.awaits = true;
        }
        let index = self.accounts.find_or_insert(self.homes.hash(own.as_jid()), own.as_jid());
        let contact = contact.to_jid();
        self.enqueue(index, Task::Outbound { session: id, contact, request, stanza: text.into() });
        Flow::Blocked
    }

    /// The owner's side is stored: show it, pass the request on, and let presence follow.
    pub(super) fn request_sent(
        &mut self,
        index: u32,
        (contact, request): (&Jid, Request),
        stanza: &str,
        applied: &Applied,
    ) {
        let Some(own) = self.accounts.get(index).map(|account| account.bare.clone()) else { return };
        self.push_item(&own, applied);
        // Who may no longer see the owner sees it leave, before hearing why (§3.2.2).
        if applied.before.from && !applied.step.state.from {
            self.show_presence(index, contact, true);
        }
        if applied.step.passes {
            self.route_request(&own, contact, request, stanza.as_bytes());
        }
        if !applied.before.from && applied.step.state.from {
            self.show_presence(index, contact, false);
        }
    }

    /// The contact's request is stored: show it to the owner, answer for the owner who has decided before.
    pub(super) fn request_received(
        &mut self,
        index: u32,
        (contact, request): (&Jid, Request),
        stanza: &[u8],
        applied: &Applied,
    ) {
        let Some(own) = self.accounts.get(index).map(|account| account.bare.clone()) else { return };
        if applied.step.passes {
            for id in self.sessions_of(own.as_jid()) {
                if self.get(id).is_some_and(|session| session.priority.is_some()) {
                    self.tell(id, |out| out.extend_from_slice(stanza));
                }
            }
        }
        self.push_item(&own, applied);
        if applied.before.from && !applied.step.state.from {
            self.show_presence(index, contact, true);
        }
        if !applied.before.to && applied.step.state.to {
            self.want_last_of(&own, contact);
        }
        if let Some(answer) = applied.step.answer {
            self.send_own_request(&own, contact, answer);
            self.show_presence(index, contact, false);
        }
        debug_assert!(applied.step.answer.is_none() || request == Request::Subscribe);
    }

    /// A contact was taken out of the roster: that ends subscriptions both ways (§2.5.2).
    pub(super) fn contact_removed(&mut self, owner: &Jid, removed: &RosterItem) {
        let state = removed.state();
        let Some(index) = self.accounts.find_index(self.homes.hash(owner.as_jid()), owner.as_jid()) else { return };
        if state.from {
            self.show_presence(index, &removed.jid, true);
        }
        if state.to || state.ask {
            self.send_own_request(owner, &removed.jid, Request::Unsubscribe);
        }
        if state.from || state.pending_in {
            self.send_own_request(owner, &removed.jid, Request::Unsubscribed);
        }
    }

    pub(super) fn send_own_request(&mut self, own: &Jid, contact: &Jid, request: Request) {
        let mut bytes = self.take_buffer();
        write_request(&mut bytes, own, contact, request);
        self.route_request(own, contact, request, &bytes);
        self.give_buffer(bytes);
    }

    /// To the contact's home, wherever that is.
    fn route_request(&mut self, own: &Jid, contact: &Jid, request: Request, stanza: &[u8]) {
        if self.is_local_account(contact.as_jid()) {
            let class = Class::Presence(request.presence());
            return self.route_own(class, contact.as_jid(), own.as_str(), stanza);
        }
        // No server-to-server stream exists (RFC 6120 §10.4). Who asked learns that nobody will answer.
        self.counters.drops[DropReason::NoRoute] += 1;
        if request != Request::Subscribe {
            return;
        }
        for id in self.sessions_of(own.as_jid()) {
            if self.get(id).is_some_and(|session| session.priority.is_some()) {
                self.tell(id, |out| {
                    let condition = Condition::RemoteServerNotFound.into();
                    write_error(out, Kind::Presence, None, contact.as_str(), own.as_str(), condition);
                });
            }
        }
    }

    /// A request of a session's own was not carried out.
    pub(super) fn refuse_request(&mut self, id: SessionId, contact: &Jid, _: Request, condition: Condition) {
        let Some(jid) = self.get(id).map(|session| session.jid.clone()) else { return };
        self.counters.stanza_errors[condition] += 1;
        self.write(id, |out| write_error(out, Kind::Presence, None, contact.as_str(), jid.as_str(), condition.into()));
        self.answered(id);
    }

    /// A question could not be kept for its addressee: who asked is told.
    pub(super) fn bounce_request(&mut self, own: &Jid, inbound: &Inbound, condition: Condition) {
        self.counters.stanza_errors[condition] += 1;
        let mut bytes = self.take_buffer();
        write_error(&mut bytes, Kind::Presence, inbound.id.as_deref(), own.as_str(), &inbound.from, condition.into());
        let to = JidRef::from_normal(&inbound.from);
        if self.is_local_account(to) {
            self.route_own(Class::Presence(PresenceType::Error), to, own.as_str(), &bytes);
        }
        self.give_buffer(bytes);
    }

    fn push_item(&mut self, own: &Jid, applied: &Applied) {
        if let (true, Some(item)) = (applied.push, &applied.item) {
            self.push_roster(own.as_jid(), &roster_payload(item, applied.version));
        }
    }

    /// Whether an address is of an account of this broker.
    pub(super) fn is_local_account(&self, jid: JidRef<'_>) -> bool {
        jid.local().is_some() && self.config.domains.iter().any(|own| own.as_str() == jid.domain())
    }

    /// An iq to an account, handed over by another shard: scanned again for its payload, which is rare enough.
    pub(super) fn is_account_iq(envelope: &Envelope<'_>) -> bool {
        use plaza_core::stanza::IqType;
        envelope.to.is_bare() && matches!(envelope.class, Class::Iq(IqType::Get | IqType::Set))
    }
}
