//! Things that are enforced: the broker applies their rules itself to what others ask of their devices (XEP-0323, XEP-0325 and
//! the generations after them; presence, RFC 6121 §3.1), so that a device that never asks is protected too, and a consent that
//! is taken back ends at once.
//!
//! Asked at the device's home about each stanza to it; an account without such a thing costs a branch. A decision needs the
//! account's facts: while they are not in memory, what asks something of the device waits for them, all else passes. Answers,
//! and what asks nothing, are not looked at twice.
//!
//! A command in a message (XEP-0325 §3.1) is one as in an iq. A subscription that is denied is answered with `unsubscribed`
//! in the device's name, as the device would answer that had asked for a decision: who asked is not left waiting, the rosters
//! of both agree, and once the owner has decided otherwise the device is recommended to ask the friend itself. RFC 6121
//! §3.1.3 keeps a server from approving in its user's stead, not from declining.

use plaza_core::jid::{Jid, JidRef};
use plaza_core::limits::ScanLimits;
use plaza_core::provisioning::Request;
use plaza_core::stanza::{Class, Condition, IqType, MessageType};
use plaza_core::subscription::Request as Subscribing;
use plaza_core::xml::{Element, Scanned, Scanner, StreamNamespaces, write};
use plaza_registry::errands::Errand;
use plaza_registry::provisioning::{self, After, Enforced, Inquiry, Unproven};
use plaza_registry::services::Reply;
use plaza_registry::subscriptions::Way;
use smallvec::SmallVec;

use super::batch::Envelope;
use super::deliver::{Body, Origin};
use super::work::{Inbound, Running};
use super::{Effect, Flow, ReplyTo, Shard};
use crate::metrics::DropReason;

/// Owners' questions about one account that are being asked at a time because of what others want of it. Beyond it nobody is
/// asked; the next time they come is another chance.
const INQUIRIES_MAX: u8 = 16;

/// What a stanza asks of its device: a payload each, `None` for one that cannot be told.
type Requests = SmallVec<[Option<Box<str>>; 1]>;

impl Shard {
    /// Whether a thing of an account is enforced, or may be for all that is known.
    pub(super) fn may_enforce(&self, index: u32) -> bool {
        self.accounts.get(index).is_some_and(|account| account.may_enforce)
    }

    /// A stanza on its way to an account: waits if nobody can decide about it yet, and is refused if it is not allowed.
    /// `None`: it may be delivered.
    pub(super) fn hold_to_enforce(
        &mut self,
        index: u32,
        envelope: &Envelope<'_>,
        origin: Origin,
        body: &Body<'_>,
    ) -> Option<Flow> {
        if !self.may_enforce(index) {
            return None;
        }
        let requests = self.requests(envelope.class, body);
        if requests.is_empty() {
            return None;
        }
        if !self.knows(index) {
            return Some(self.queue_inbound(envelope, origin, body));
        }
        self.refuse_denied(index, envelope, &requests)
    }

    /// The same of a stanza that has waited, when the account's facts are there.
    pub(super) fn enforce_inbound(&mut self, index: u32, envelope: &Envelope<'_>, stanza: &[u8]) -> Option<Flow> {
        // What the server answers itself its device does not get.
        if !self.may_enforce(index) || Self::is_account_iq(envelope) {
            return None;
        }
        let requests = self.requests(envelope.class, &Body::Bytes(stanza));
        self.refuse_denied(index, envelope, &requests)
    }

    /// Whether a stanza asks something of an account that may be enforced: without facts nobody can say whether it may.
    pub(super) fn needs_decision(&mut self, index: u32, class: Class, stanza: &[u8]) -> bool {
        self.may_enforce(index) && !self.requests(class, &Body::Bytes(stanza)).is_empty()
    }

    /// Whether a message that was kept asks what is not allowed any more. Who sent it was not told that it would be done.
    pub(super) fn denies_kept(&mut self, index: u32, stanza: &[u8]) -> bool {
        if !self.may_enforce(index) {
            return false;
        }
        let requests = self.requests(Class::Message(MessageType::Normal), &Body::Bytes(stanza));
        if requests.is_empty() {
            return false;
        }
        let namespaces = StreamNamespaces::default();
        self.scanner.reset();
        let from = match self.scanner.next(&ScanLimits::SCANNED, &namespaces, stanza) {
            Ok(Scanned::Element { element, .. }) => element.attr("from").map(|from| from.value().into_owned()),
            _ => None,
        };
        let from = from.unwrap_or_default();
        let passes = |payload: &Option<Box<str>>| {
            matches!(self.verdict(index, &from, payload.as_deref()).0, Ok(Enforced::Passes))
        };
        let denied = !requests.iter().all(passes);
        self.counters.enforced += u64::from(denied);
        denied
    }

    fn refuse_denied(&mut self, index: u32, envelope: &Envelope<'_>, requests: &Requests) -> Option<Flow> {
        for payload in requests {
            let (verdict, unproven) = self.verdict(index, envelope.from, payload.as_deref());
            let (condition, inquiry) = match verdict {
                Ok(Enforced::Passes) => (None, None),
                Ok(Enforced::Denied { inquiry }) => (Some(Condition::Forbidden), inquiry),
                Err(condition) => (Some(condition), None),
            };
            self.ask_owner(index, inquiry, unproven);
            let Some(condition) = condition else { continue };
            self.counters.enforced += 1;
            return Some(self.bounce(envelope, condition, DropReason::Unanswerable));
        }
        None
    }

    /// What becomes of a payload to a device, when its account's facts are there.
    fn verdict(
        &self,
        index: u32,
        from: &str,
        payload: Option<&str>,
    ) -> (Result<Enforced, Condition>, Option<Box<Unproven>>) {
        let mut scanner = Scanner::new();
        let things = self.accounts.get(index).and_then(|account| account.facts.as_ref()?.things.as_ref());
        // Whose requests nobody reads is nobody's business.
        if things.is_none_or(|things| !things.is_enforced()) || self.is_own_voice(from) {
            return (Ok(Enforced::Passes), None);
        }
        let request = payload.ok_or(Condition::BadRequest).and_then(|payload| Request::read(&mut scanner, payload));
        match request {
            Ok(None) => (Ok(Enforced::Passes), None),
            Ok(Some(request)) => {
                let (enforced, unproven) = self.decision(index, from, &request);
                (Ok(enforced), unproven)
            }
            Err(condition) => (Err(condition), None),
        }
    }

    /// What becomes of a request to a device, and the tokens in it that are to be challenged.
    fn decision(&self, index: u32, from: &str, request: &Request<'_>) -> (Enforced, Option<Box<Unproven>>) {
        let Some(account) = self.accounts.get(index) else { return (Enforced::Passes, None) };
        let things = account.facts.as_ref().and_then(|facts| facts.things.as_deref());
        let device = account.bare.as_jid();
        let component = self.things_address(device);
        let (from, proofs) = (JidRef::from_normal(from), (&self.config.proofs, self.unix_millis));
        let unproven = Unproven::in_request(proofs.0, component.as_ref(), from, request, proofs.1);
        (provisioning::enforce(things, device, component.as_ref(), from, request, proofs), unproven)
    }

    /// Whether a stanza is the broker's own word: the server's or a service's.
    fn is_own_voice(&self, from: &str) -> bool {
        let is = |jid: &Jid| jid.as_str() == from;
        from.is_empty()
            || self.config.domains.iter().any(is)
            || self.config.services.iter().any(|service| is(&service.jid))
    }

    /// Asks a thing's owner about what is undecided, and who presents tokens to prove them.
    fn ask_owner(&mut self, index: u32, inquiry: Option<Box<Inquiry>>, unproven: Option<Box<Unproven>>) {
        let after = After { inquiry, seen: None, unproven };
        let Some(account) = self.accounts.get_mut(index) else { return };
        if after.is_nothing() || account.inquiries >= INQUIRIES_MAX {
            return;
        }
        account.inquiries += 1;
        let device = account.bare.clone();
        self.effects.push_back(Effect::Inquire(device, after));
    }

    /// What came of [`Effect::Inquire`] about a device.
    pub fn inquired(&mut self, device: &Jid, reply: Reply) {
        let hash = self.homes.hash(device.as_jid());
        let index = self.accounts.find_index(hash, device.as_jid());
        if let Some(account) = index.and_then(|index| self.accounts.get_mut(index)) {
            account.inquiries = account.inquiries.saturating_sub(1);
        }
        self.reply(device, ReplyTo::Address(device.clone()), reply);
    }

    /// Declines a subscription that is not allowed, in the device's name. Gives it back if it may go on.
    pub(super) fn decline_denied(&mut self, index: u32, inbound: Inbound) -> Option<Inbound> {
        if !self.may_enforce(index) || self.is_own_voice(&inbound.from) {
            return Some(inbound);
        }
        let inquiry = match self.decision(index, &inbound.from, &Request::subscription()).0 {
            Enforced::Passes => return Some(inbound),
            Enforced::Denied { inquiry } => inquiry,
        };
        self.ask_owner(index, inquiry, None);
        self.counters.enforced += 1;
        let contact = JidRef::from_normal(&inbound.from).bare().to_jid();
        let own = self.accounts.get(index).map(|account| account.bare.clone())?;
        let stands = self.stands(index, contact.as_jid()).unwrap_or_default();
        if stands.from || stands.pending_in {
            // What was between them ends on the device's side as well.
            let mut stanza = Vec::new();
            write_request(&mut stanza, &own, &contact, Subscribing::Unsubscribed);
            let stanza: Box<str> = String::from_utf8(stanza).unwrap_or_default().into();
            let (way, request) = (Way::Sent, Subscribing::Unsubscribed);
            let errand = Errand::Subscription {
                contact: contact.clone(),
                way,
                request,
                stanza: stanza.clone(),
                requests_left: 0,
            };
            self.send(index, Running::Declined { contact, stanza, inbound }, errand);
        } else {
            self.send_own_request(&own, &contact, Subscribing::Unsubscribed);
        }
        None
    }

    /// What a stanza asks of its device.
    fn requests(&mut self, class: Class, body: &Body<'_>) -> Requests {
        let asks = match class {
            Class::Iq(IqType::Get | IqType::Set) => true,
            Class::Message(message) => message != MessageType::Error,
            Class::Iq(IqType::Result | IqType::Error) | Class::Presence(_) => false,
        };
        if !asks {
            return Requests::new();
        }
        match body {
            Body::Stanza { stanza, .. } => requests_of(&stanza.element),
            Body::Bytes(bytes) => {
                let namespaces = StreamNamespaces::default();
                self.scanner.reset();
                match self.scanner.next(&ScanLimits::SCANNED, &namespaces, bytes) {
                    Ok(Scanned::Element { element, .. }) => requests_of(&element),
                    // What cannot be read cannot be allowed.
                    _ => [None].into_iter().collect(),
                }
            }
        }
    }
}

fn requests_of(element: &Element<'_>) -> Requests {
    let asking = element.children().filter(|child| Request::kind_of(child.ns, child.name).is_some());
    asking.map(|child| element.standalone(&child).map(|payload| payload.into())).collect()
}

/// Writes a subscription stanza.
pub(super) fn write_request(out: &mut Vec<u8>, own: &Jid, contact: &Jid, request: Subscribing) {
    out.extend_from_slice(b"<presence");
    write::attr(out, "from", own.as_str());
    write::attr(out, "to", contact.as_str());
    write::attr(out, "type", request.name());
    out.extend_from_slice(b"/>");
}

#[cfg(test)]
mod tests {
    use plaza_core::iot::{Exchange, Generation};
    use plaza_core::provisioning::Kind;
    use plaza_core::thing::NodeName;
    use plaza_registry::provisioning::{Level, Rule};
    use plaza_registry::rosters;
    use plaza_registry::store::{Batch, Store as _, StoreError};
    use plaza_registry::things;
    use plaza_registry::wait::block_on;

    use super::super::SessionId;
    use super::super::testing::{Holder, REGISTRY, World, cut_off};
    use super::super::tests::feed;
    use super::*;

    const OWNER: &str = "urn:nf:iot:prov:o:1.0";
    const READER: usize = 2;

    /// A device, its owner, and somebody who wants something of it, by their places.
    struct Three {
        world: World,
        jids: [Jid; 3],
        ids: [SessionId; 3],
    }

    fn node(id: &str) -> NodeName {
        NodeName { id: id.into(), ..NodeName::default() }
    }

    fn read(generation: Generation, inside: &str) -> String {
        format!("<req xmlns='{}' m='true'>{inside}</req>", Exchange::SensorData.ns(generation))
    }

    impl Three {
        /// The device at home on a shard, its owner on the other, the reader where it is said; the device and its nodes are
        /// the owner's.
        fn new(home: u16, reader: u16, nodes: &[&str]) -> Self {
            let mut world = World::new();
            let jids =
                [world.account("device", home), world.account("owner", 1 - home), world.account("reader", reader)];
            let ids = [0, 1, 2].map(|at| world.there(&jids[at], "r", &[]));
            let mut three = Self { world, jids, ids };
            for id in ["", "f"].iter().chain(nodes) {
                let register =
                    format!("<register xmlns='urn:nf:iot:disco:1.0' id='{id}'><str name='S' value='1'/></register>");
                three.ask(0, "set", REGISTRY, &register);
                let (device, owner) = (three.jids[0].clone(), three.jids[1].clone());
                let config = &three.world.config.services.things;
                block_on(things::assign(config, &three.world.store, (&device, &node(id)), &owner, true, 0)).unwrap();
            }
            three.heard();
            three
        }

        fn enforced(home: u16, reader: u16) -> Self {
            let mut three = Self::new(home, reader, &[]);
            three.enforce("", true);
            three
        }

        /// The operator's command.
        fn enforce(&mut self, id: &str, on: bool) {
            let device = self.jids[0].clone();
            let config = &self.world.config.services.things;
            block_on(things::enforce(config, &self.world.store, (&device, &node(id)), on, 0)).unwrap();
            self.things_changed();
            self.world.settle();
            self.heard();
        }

        fn things_changed(&mut self) {
            let device = self.jids[0].clone();
            self.world.shards.iter_mut().for_each(|shard| shard.account_things_changed(device.as_jid()));
        }

        fn say(&mut self, who: usize, stanza: &str) {
            let (jid, id) = (self.jids[who].clone(), self.ids[who]);
            self.world.say(&jid, id, stanza);
        }

        fn ask(&mut self, who: usize, kind: &str, to: &str, payload: &str) {
            self.say(who, &format!("<iq type='{kind}' id='q' to='{to}'>{payload}</iq>"));
        }

        /// Asks something of the device; what the device and who asked were sent.
        fn ask_device(&mut self, who: usize, kind: &str, payload: &str) -> (String, String) {
            let to = format!("{}/r", self.jids[0].as_str());
            self.ask(who, kind, &to, payload);
            (self.sent(0), self.sent(who))
        }

        fn sent(&mut self, who: usize) -> String {
            let (jid, id) = (self.jids[who].clone(), self.ids[who]);
            self.world.sent(&jid, id)
        }

        fn heard(&mut self) {
            (0..3).for_each(|who| drop(self.sent(who)));
        }

        /// The owner answers the question that it was sent last.
        fn rule(&mut self, question: &str, result: bool) {
            let key = question.split("key='").nth(1).expect("a question").split('\'').next().unwrap().to_owned();
            let kind = question.split(&format!(" xmlns='{OWNER}'")).next().unwrap().rsplit('<').next().unwrap();
            let (device, reader) = (self.jids[0].as_str(), self.jids[READER].as_str());
            let rule = format!(
                "<{kind}Rule xmlns='{OWNER}' jid='{device}' remoteJid='{reader}' key='{key}' result='{result}'>\
                 <fromJid/></{kind}Rule>"
            );
            self.ask(1, "set", REGISTRY, &rule);
            assert!(self.sent(1).contains("type='result'"));
        }

        fn delete_rules(&mut self) {
            let delete = format!("<deleteRules xmlns='{OWNER}' jid='{}'/>", self.jids[0].as_str());
            self.ask(1, "set", REGISTRY, &delete);
            assert!(self.sent(1).contains("type='result'"));
        }

        fn stands(&self, owner: usize, contact: usize) -> (bool, bool, bool) {
            let item = rosters::get(&self.world.store, self.jids[owner].as_jid(), self.jids[contact].as_jid());
            let item = block_on(item).unwrap();
            item.map_or((false, false, false), |item| {
                (item.subscription.to(), item.subscription.from(), item.ask || item.state().pending_in)
            })
        }
    }

    fn is_forbidden(answer: &str) -> bool {
        answer.contains("type='error'") && answer.contains("<error type='auth'><forbidden ")
    }

    #[test]
    fn a_device_gets_what_its_owner_allows_and_no_longer_than_that() {
        for (home, reader) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for generation in Generation::ALL {
                let mut three = Three::new(home, reader, &[]);
                let read = read(generation, "");
                let (asked, answer) = three.ask_device(READER, "get", &read);
                assert!(asked.contains("<req ") && answer.is_empty(), "who is not enforced decides: {answer}");
                three.enforce("", true);
                let (asked, answer) = three.ask_device(READER, "get", &read);
                assert!(!asked.contains("<req ") && is_forbidden(&answer), "{asked} {answer}");
                let question = three.sent(1);
                assert!(question.contains(&format!("<canRead xmlns='{OWNER}'")), "{question}");
                // Asked again, the owner is not asked again.
                assert!(is_forbidden(&three.ask_device(READER, "get", &read).1));
                assert_eq!(three.sent(1), "");
                three.rule(&question, true);
                let (asked, answer) = three.ask_device(READER, "get", &read);
                assert!(asked.contains("<req ") && answer.is_empty(), "{asked} {answer}");
                // What the device answers passes.
                let to = format!("{}/r", three.jids[READER].as_str());
                three.say(0, &format!("<iq type='result' id='q' to='{to}'><resp xmlns='urn:nf:iot:sd:1.0'/></iq>"));
                assert!(three.sent(READER).contains("<resp "));
                three.delete_rules();
                let (asked, answer) = three.ask_device(READER, "get", &read);
                assert!(!asked.contains("<req ") && is_forbidden(&answer), "{asked} {answer}");
                three.enforce("", false);
                assert!(three.ask_device(READER, "get", &read).0.contains("<req "));
            }
        }
    }

    #[test]
    fn commands_are_decided_in_iqs_and_in_messages_and_all_else_passes() {
        let mut three = Three::enforced(0, 1);
        let set = |name: &str| format!("<set xmlns='urn:nf:iot:ctr:1.0'><b n='{name}' v='true'/></set>");
        let device = format!("{}/r", three.jids[0].as_str());
        for payload in [set("Output"), "<getForm xmlns='urn:nf:iot:ctr:1.0'/>".to_owned()] {
            let (asked, answer) = three.ask_device(READER, "set", &payload);
            assert!(!asked.contains(":ctr:") && is_forbidden(&answer), "{asked} {answer}");
        }
        let bare = three.jids[0].as_str().to_owned();
        for to in [&device, &bare] {
            for before in ["", "<body>x</body>", "<getForm xmlns='urn:x'/>"] {
                three.say(READER, &format!("<message to='{to}'>{before}{}</message>", set("Output")));
                let answer = three.sent(READER);
                assert!(answer.starts_with("<message ") && is_forbidden(&answer), "{answer}");
                assert!(!three.sent(0).contains("<set "));
            }
        }
        let question = three.sent(1);
        assert!(question.contains(&format!("<canControl xmlns='{OWNER}'")), "{question}");
        // What can be read in two ways is refused as what it is.
        let twice = "<set xmlns='urn:nf:iot:ctr:1.0'><b n='a' name='b'/></set>";
        assert!(three.ask_device(READER, "set", twice).1.contains("<bad-request "));
        for other in ["<ping xmlns='urn:xmpp:ping'/>", "<cancel xmlns='urn:nf:iot:sd:1.0'/>"] {
            assert!(!three.ask_device(READER, "get", other).0.is_empty(), "{other}");
        }
        three.say(READER, &format!("<message to='{device}'><body>x</body></message>"));
        assert!(three.sent(0).contains("<body>x</body>"));
        // Whose it is, and it itself, need no leave.
        assert!(three.ask_device(1, "set", &set("Output")).0.contains("<set "));
        assert!(three.ask_device(0, "set", &set("Output")).0.contains("<set "));
        let denied: u64 = three.world.shards.iter().map(|shard| shard.counters.enforced).sum();
        assert_eq!(denied, 9);
    }

    #[test]
    fn a_command_to_a_device_that_is_away_is_not_kept() {
        let mut three = Three::enforced(1, 0);
        let (device, id) = (three.jids[0].clone(), three.ids[0]);
        three.world.shard(&device).end(id);
        three.world.shard(&device).trim_facts(0);
        let to = device.as_str().to_owned();
        let set = "<set xmlns='urn:xmpp:iot:control'><boolean name='Output' value='true'/></set>";
        // All wait for the account's facts, and what is kept is stored together.
        let (reader, id) = (three.jids[READER].clone(), three.ids[READER]);
        for inside in [set, "<body>hello</body>", set] {
            feed(three.world.shard(&reader), id, &format!("<message to='{to}'>{inside}</message>"));
        }
        three.world.settle();
        let answer = three.sent(READER);
        assert_eq!(answer.matches("<forbidden ").count(), 2, "{answer}");
        three.ids[0] = three.world.there(&device, "r", &[]);
        let kept = three.sent(0);
        assert!(kept.contains("hello") && !kept.contains("<set "), "{kept}");
    }

    #[test]
    fn a_command_that_was_kept_is_not_given_once_its_leave_is_taken_back() {
        for revoked in [false, true] {
            let mut three = Three::enforced(1, 0);
            let set = "<set xmlns='urn:nf:iot:ctr:1.0'><b n='Output' v='true'/></set>";
            three.ask_device(READER, "set", set);
            let question = three.sent(1);
            three.rule(&question, true);
            let (device, id) = (three.jids[0].clone(), three.ids[0]);
            three.world.shard(&device).end(id);
            three.say(READER, &format!("<message to='{}'>{set}</message>", device.as_str()));
            three.say(READER, &format!("<message to='{}'><body>hello</body></message>", device.as_str()));
            assert_eq!(three.sent(READER), "");
            if revoked {
                three.delete_rules();
            }
            // Once, and neither comes again.
            for is_first in [true, false] {
                three.ids[0] = three.world.there(&device, "r", &[]);
                let kept = three.sent(0);
                assert_eq!(
                    (kept.contains("<set "), kept.contains("hello")),
                    (is_first && !revoked, is_first),
                    "{kept}"
                );
                three.world.settle();
                let id = three.ids[0];
                three.world.shard(&device).end(id);
            }
        }
    }

    #[test]
    fn a_node_concerns_its_own_thing() {
        for home in 0..2 {
            let mut three = Three::new(home, 0, &["a"]);
            three.enforce("a", true);
            let mut asks = |ids: &[&str]| {
                let inside: String = ids.iter().map(|id| format!("<nd id='{id}'/>")).collect();
                let (asked, answer) = three.ask_device(READER, "get", &read(Generation::Nf, &inside));
                assert_eq!(asked.contains("<req "), !is_forbidden(&answer), "{asked} {answer}");
                asked.contains("<req ")
            };
            assert_eq!([asks(&[]), asks(&["f"]), asks(&["a"]), asks(&["f", "a"])], [true, true, false, false]);
            let question = three.sent(1);
            assert!(question.contains("<nd id='a'/>") || question.contains(" id='a'"), "{question}");
            // Presence is the device's.
            let device = three.jids[0].as_str().to_owned();
            three.say(READER, &format!("<presence type='subscribe' to='{device}'/>"));
            assert!(three.sent(0).contains("type='subscribe'"));
        }
    }

    #[test]
    fn a_subscription_that_is_not_allowed_is_declined_on_both_sides() {
        for (home, reader) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let mut three = Three::enforced(home, reader);
            let (device, reader) = (three.jids[0].as_str().to_owned(), three.jids[READER].as_str().to_owned());
            let subscribe = format!("<presence type='subscribe' to='{device}'/>");
            let declined = format!("<presence from='{device}' to='{reader}' type='unsubscribed'/>");
            three.say(READER, &subscribe);
            let answer = three.sent(READER);
            assert!(answer.contains(&declined), "{answer}");
            assert!(!three.sent(0).contains("type='subscribe'"));
            let nothing = (false, false, false);
            assert_eq!([three.stands(READER, 0), three.stands(0, READER)], [nothing; 2]);
            let question = three.sent(1);
            assert!(question.contains(&format!("<isFriend xmlns='{OWNER}'")), "{question}");
            three.rule(&question, true);
            assert!(three.sent(0).contains("<friend "), "the device is recommended to ask the friend");
            three.say(READER, &subscribe);
            assert!(three.sent(0).contains("type='subscribe'"));
            three.say(0, &format!("<presence type='subscribed' to='{reader}'/>"));
            assert_eq!(
                [three.stands(READER, 0), three.stands(0, READER)],
                [(true, false, false), (false, true, false)]
            );
            // The owner thinks better of it: whoever asks again has none.
            three.delete_rules();
            three.heard();
            three.say(READER, &subscribe);
            let answer = three.sent(READER);
            assert!(answer.contains(&declined), "{answer}");
            assert!(!three.sent(0).contains("type='subscribe'"));
            assert_eq!([three.stands(READER, 0), three.stands(0, READER)], [nothing; 2]);
        }
    }

    #[test]
    fn what_is_not_known_yet_is_waited_for_and_what_cannot_be_known_is_refused() {
        let mut three = Three::enforced(0, 0);
        let (device, reader, id) = (three.jids[0].clone(), three.jids[READER].clone(), three.ids[READER]);
        let iq = format!("<iq type='get' id='q' to='{}/r'>{}</iq>", device.as_str(), read(Generation::Nfi, ""));
        // The rules changed a moment ago, and the store has not said how.
        three.things_changed();
        feed(three.world.shard(&reader), id, &iq);
        assert_eq!((three.sent(0), three.sent(READER)), (String::new(), String::new()));
        let ping = iq.replace("<req xmlns='urn:nfi:iot:sd:1.0' m='true'></req>", "<ping xmlns='urn:xmpp:ping'/>");
        three.world.settle();
        assert!(!three.sent(0).contains("<req "));
        assert!(is_forbidden(&three.sent(READER)));
        // The store says nothing.
        three.things_changed();
        three.world.store.refuse(Some(StoreError::Busy));
        three.say(READER, &iq);
        assert!(three.sent(READER).contains("<resource-constraint "));
        three.say(READER, &ping);
        let asked = three.sent(0);
        assert!(asked.contains("<ping ") && !asked.contains("<req "), "{asked}");
        three.world.store.refuse(None);
        three.say(READER, &iq);
        assert!(is_forbidden(&three.sent(READER)));
    }

    #[test]
    fn a_session_from_before_a_restart_is_protected_before_anything_is_known_of_its_account() {
        let mut three = Three::enforced(0, 1);
        let (device, id) = (three.jids[0].clone(), three.ids[0]);
        three.world.shard(&device).end(id);
        three.world.shard(&device).trim_facts(0);
        let kept = cut_off(device.with_resource("r").unwrap());
        three.ids[0] = three.world.shard(&device).restore(kept, 1).unwrap();
        assert_eq!(three.world.shard(&device).facts(device.as_jid()).map(|_| ()), None);
        let (asked, answer) = three.ask_device(READER, "get", &read(Generation::Ieee, ""));
        assert!(asked.is_empty() && is_forbidden(&answer), "{asked} {answer}");
    }

    #[test]
    fn owners_are_not_asked_more_at_a_time_than_there_may_be() {
        let mut three = Three::enforced(0, 0);
        let (reader, id) = (three.jids[READER].clone(), three.ids[READER]);
        let device = three.jids[0].clone();
        for n in 0..40 {
            let read = read(Generation::Nf, &format!("<f n='{n}'/>"));
            let iq = format!("<iq type='get' id='q' to='{}/r'>{read}</iq>", device.as_str());
            feed(three.world.shard(&reader), id, &iq);
        }
        let shard = three.world.shard(&device);
        let asking = shard.effects.iter().filter(|effect| matches!(effect, Effect::Inquire(..))).count();
        assert_eq!(asking, usize::from(INQUIRIES_MAX));
        three.world.settle();
        assert_eq!(three.sent(READER).matches("<forbidden ").count(), 40);
        // When they are done, others are.
        three.delete_rules();
        let (jid, hash) = (device.as_jid(), three.world.homes.hash(device.as_jid()));
        let account = three.world.shards[0].accounts.find(hash, jid).unwrap();
        assert_eq!(account.inquiries, 0);
    }

    #[test]
    fn who_presents_a_token_is_challenged_wherever_it_is_and_passes_when_it_has_proven_it() {
        for (home, reader) in [(0, 0), (0, 1), (1, 0)] {
            let mut three = Three::enforced(home, reader);
            let (jid, id) = (three.jids[READER].clone(), three.ids[READER]);
            let holder = Holder::new(&mut three.world, &jid, id);
            let kind = Kind::Read;
            let rule = Rule {
                number: 1,
                text: holder.token.as_str().into(),
                names: None,
                kind,
                level: Level::User,
                allow: true,
                categories: kind.categories(),
            };
            let writes = vec![rule.put(three.jids[0].as_jid(), &node(""))];
            block_on(three.world.store.commit(Batch { guards: Vec::new(), writes })).unwrap();
            three.things_changed();
            three.world.settle();
            let read = read(Generation::Nf, "").replace(" m='true'", &format!(" m='true' ut='{}'", holder.token));
            let (asked, answer) = three.ask_device(READER, "get", &read);
            assert!(!asked.contains("<req ") && is_forbidden(&answer), "{asked} {answer}");
            let challenge = holder.answer(&answer).unwrap();
            three.say(READER, &challenge);
            let (asked, answer) = three.ask_device(READER, "get", &read);
            assert!(asked.contains("<req ") && answer.is_empty(), "{asked} {answer}");
            // Somebody else with the same words has nothing.
            let (asked, _) = three.ask_device(READER, "get", &read.replace(&holder.token, "secret"));
            assert!(!asked.contains("<req "));
        }
    }
}
