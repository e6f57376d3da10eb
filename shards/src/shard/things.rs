//! Things at home here: what their devices have to be told, and what services ask of them (XEP-0347, XEP-0324).
//!
//! What a device has to be told is a state of its things in the store, not a queue: it is asked for when the account becomes
//! available and when its things change, and told to each available resource until one acknowledges it. So nothing is lost
//! that a crash or an absence came between.
//!
//! A device that asks whether somebody may do something has its answer from memory, in the same turn; what its owner has to be
//! asked goes its own way.
//!
//! A service may also ask a device before it goes on. The question is kept by the shard whose service it is; the device's
//! home tells the device, and brings the answer back. So are those asked who presented a token, by their full JID.

use plaza_core::iot::Interface;
use plaza_core::jid::{Jid, JidRef};
use plaza_core::stanza::{Class, IqType, MessageType, Stanza, write_reply_start};
use plaza_core::xml::write;
use plaza_registry::errands::Errand;
use plaza_registry::facts::Facts;
use plaza_registry::provisioning::{self, Answered, Challenge};
use plaza_registry::services::{self, Ask, Component, ComponentKind};
use plaza_registry::things::Told;

use super::session::SessionId;
use super::work::{Running, Task};
use super::{Effect, Flow, ReplyTo, Shard};
use crate::mesh::ShardId;

/// Notices one session may leave unanswered. What is beyond is told when others are answered, or at the next presence.
const UNANSWERED_MAX: usize = 64;
/// Challenges of tokens that one session may leave unanswered. Default 8, which is how many are under way at once: one more
/// takes the place of the oldest, whose time is over.
const CHALLENGES_MAX: usize = 8;
/// Longest payload of an answer that is read, in bytes. Default 1 024: what a challenge holds is short.
const ANSWER_BYTES_MAX: usize = 1_024;

/// Something a session was told in an iq, and has not answered.
#[derive(Debug)]
pub(super) struct Unanswered {
    /// Number in the iq's id.
    number: u64,
    about: About,
}

#[derive(Debug)]
enum About {
    /// A state of its things.
    Notice(Told),
    /// A question of a service on a shard, by its number there.
    Ask(ShardId, u64),
    /// The challenge of a token on a shard, by its number there.
    Challenge(ShardId, u64),
}

/// A question to a device that is under way.
#[derive(Debug)]
pub(super) struct Asking {
    what: What,
    /// Not to be waited for after this moment of the driver's.
    until: Option<u64>,
}

#[derive(Debug)]
enum What {
    /// A service's, and for whom its reply is.
    Service(Box<Ask>, ReplyTo),
    Token(Box<Challenge>),
}

impl Shard {
    // ---- what devices have to be told ---------------------------------------------------------------------------

    /// The things of an account changed in the store, or what others may do with them.
    pub(super) fn things_changed(&mut self, jid: JidRef<'_>) {
        let hash = self.homes.hash(jid);
        let home = self.homes.shard(hash);
        if home == self.id {
            self.renew_things(hash, jid);
        } else if let Some(batch) = self.batches.get_mut(usize::from(home.0)) {
            batch.changed(hash, jid);
        }
    }

    /// As [`Self::things_changed`], at home.
    pub(super) fn renew_things(&mut self, hash: u64, jid: JidRef<'_>) {
        let Some(index) = self.accounts.find_index(hash, jid) else { return };
        self.accounts.doubt_enforced(index);
        self.forget_facts(jid);
        // It went unless somebody uses it.
        let Some(index) = self.accounts.find_index(hash, jid) else { return };
        if self.accounts.get(index).is_some_and(|account| !account.sessions.is_empty()) {
            self.enqueue(index, Task::Notices);
        }
    }

    /// A resource became available: its device may have to be told something.
    pub(super) fn notice_things(&mut self, id: SessionId) {
        let Some(index) = self.get(id).map(|session| session.account) else { return };
        let facts = self.accounts.get(index).and_then(|account| account.facts.as_ref());
        if facts.is_none_or(|facts| has_untold(facts)) {
            self.enqueue(index, Task::Notices);
        }
    }

    /// The account's facts are there: asks the store what its devices have to be told, if anything.
    pub(super) fn read_notices(&mut self, index: u32) {
        let facts = self.accounts.get(index).and_then(|account| account.facts.as_ref());
        if facts.is_some_and(|facts| has_untold(facts)) {
            self.send(index, Running::Notices, Errand::Untold);
        }
    }

    /// Tells every available resource what it was not told yet.
    pub(super) fn tell_notices(&mut self, index: u32, untold: &[(Told, String)]) {
        let Some(bare) = self.accounts.get(index).map(|account| account.bare.clone()) else { return };
        let Some(from) = self.things_address(bare.as_jid()) else { return };
        // What one of them acknowledged while this was read need not be told again.
        let untold: Vec<_> = untold.iter().filter(|(told, _)| !self.is_being_noted(index, told)).collect();
        for id in self.sessions_of(bare.as_jid()) {
            for (told, payload) in &untold {
                let Some(session) = self.get_mut(id).filter(|session| session.priority.is_some()) else { break };
                let unanswered = &mut session.extras().unanswered;
                let is_told = |one: &Unanswered| matches!(&one.about, About::Notice(known) if known.covers(told));
                if unanswered.len() >= UNANSWERED_MAX {
                    break;
                }
                let is_known = unanswered.iter().any(is_told);
                if !is_known && !self.tell_device(id, from.as_jid(), payload, About::Notice(told.clone())) {
                    break;
                }
            }
        }
    }

    /// The service's address at an account's domain.
    pub(super) fn things_address(&self, bare: JidRef<'_>) -> Option<Jid> {
        let own = |service: &&Component| {
            let below = service.jid.as_str().strip_suffix(bare.domain()).is_some_and(|label| label.ends_with('.'));
            service.kind == ComponentKind::Things && below
        };
        self.config.services.iter().find(own).map(|service| service.jid.clone())
    }

    /// Tells a session something that it has to answer. Whether it had room for it: what it was not told it cannot answer.
    fn tell_device(&mut self, id: SessionId, from: JidRef<'_>, payload: &str, about: About) -> bool {
        self.ids += 1;
        let number = self.ids;
        let Some(session) = self.get(id) else { return false };
        let begin: &[u8] = if matches!(about, About::Challenge(..)) { b"<iq type='get'" } else { b"<iq type='set'" };
        let to = session.jid.clone();
        let name = format!("{}{number}", self.config.id_prefix);
        let is_told = self.tell(id, |out| {
            out.extend_from_slice(begin);
            write::attr(out, "id", &name);
            write::attr(out, "from", from.as_str());
            write::attr(out, "to", to.as_str());
            out.push(b'>');
            out.extend_from_slice(payload.as_bytes());
            out.extend_from_slice(b"</iq>");
        });
        if is_told && let Some(session) = self.get_mut(id) {
            session.extras().unanswered.push(Unanswered { number, about });
        }
        is_told
    }

    /// An iq of type result or error to a service: the answer to something the session was told, if it is one.
    pub(super) fn hear_device(&mut self, id: SessionId, stanza: &Stanza<'_>) -> bool {
        let number = stanza.id.and_then(|id| id.raw.strip_prefix(&*self.config.id_prefix)?.parse::<u64>().ok());
        let Some(session) = self.get_mut(id) else { return false };
        let account = session.account;
        let Some(unanswered) = session.extras.as_mut().map(|extras| &mut extras.unanswered) else { return false };
        let Some(at) = unanswered.iter().position(|one| Some(one.number) == number) else { return false };
        let Unanswered { about, .. } = unanswered.swap_remove(at);
        let acknowledged = stanza.class == Class::Iq(IqType::Result);
        match about {
            About::Notice(told) if acknowledged => self.enqueue(account, Task::Acknowledged(Box::new(told))),
            // It is told again when it next becomes available.
            About::Notice(_) => {}
            About::Ask(shard, number) => {
                if acknowledged || !self.is_asked(account, shard, number) {
                    self.answer_ask(shard, number, acknowledged, "");
                }
            }
            About::Challenge(shard, number) => {
                let payload = stanza.element.first_child().and_then(|child| stanza.element.standalone(&child));
                let payload = payload.filter(|payload| payload.len() <= ANSWER_BYTES_MAX).unwrap_or_default();
                self.answer_ask(shard, number, acknowledged, &payload);
            }
        }
        true
    }

    // ---- what services ask of devices ---------------------------------------------------------------------------

    /// A service goes on when a device has acknowledged something, or has not. Its caller may say more meanwhile.
    pub(super) fn ask_device(&mut self, ask: Box<Ask>, caller: &Jid, reply_to: ReplyTo) {
        let reply_to = match reply_to {
            ReplyTo::Session(_) => ReplyTo::Address(caller.clone()),
            ReplyTo::Address(_) => reply_to,
        };
        let (device, payload) = (ask.device.clone(), ask.payload.clone());
        // A domain that has devices has the service that they are asked by.
        let from = self.things_address(device.as_jid()).unwrap_or_else(|| device.clone());
        self.ask_whoever(What::Service(ask, reply_to), (&device, &from), &payload);
    }

    /// Challenges who presented a token, wherever it is, in the name of the service that has issued it: who presents it knows
    /// it from there, whatever its own domain is.
    pub(super) fn challenge(&mut self, challenge: Box<Challenge>) {
        let (to, from, payload) = (challenge.to().clone(), challenge.from().clone(), challenge.payload.clone());
        self.ask_whoever(What::Token(challenge), (&to, &from), &payload);
    }

    fn ask_whoever(&mut self, what: What, (device, from): (&Jid, &Jid), payload: &str) {
        self.ids += 1;
        let number = self.ids;
        self.asking.insert(number, Asking { what, until: None });
        self.effects.push_back(Effect::AskUntil(number));
        let hash = self.homes.hash(device.as_jid());
        let home = self.homes.shard(hash);
        if home == self.id {
            self.ask_here(hash, (device.as_jid(), from.as_jid()), (self.id, number), payload);
        } else if let Some(batch) = self.batches.get_mut(usize::from(home.0)) {
            batch.ask(hash, (device.as_jid(), from.as_jid()), number, payload);
        }
    }

    /// Sets the moment of the driver's until which a device is waited for; [`Self::asks_due`] is to be called then.
    pub fn ask_until(&mut self, number: u64, until: u64) {
        if let Some(asking) = self.asking.get_mut(&number) {
            asking.until = Some(until);
        }
    }

    /// A moment of the driver's has come: devices that were to answer by then have not.
    pub fn asks_due(&mut self, now: u64) {
        let is_due = |asking: &Asking| asking.until.is_some_and(|until| until <= now);
        let due: Vec<u64> =
            self.asking.iter().filter(|(_, asking)| is_due(asking)).map(|(&number, _)| number).collect();
        for number in due {
            self.asked(number, false, "");
        }
    }

    /// Asks a device at home here, each available resource of it; or, by a full JID, who presented a token.
    pub(super) fn ask_here(
        &mut self,
        hash: u64,
        (device, from): (JidRef<'_>, JidRef<'_>),
        (shard, number): (ShardId, u64),
        payload: &str,
    ) {
        let mut is_there = false;
        if device.resource().is_some() {
            if let Some(id) = self.session_of(hash, device) {
                self.forget_challenge(id);
                is_there = self.tell_device(id, from, payload, About::Challenge(shard, number));
            }
        } else if self.accounts.find_index(hash, device).is_some() {
            for id in self.sessions_of(device) {
                let Some(session) = self.get(id).filter(|session| session.priority.is_some()) else { continue };
                let unanswered = session.extras.as_ref().map_or(0, |extras| extras.unanswered.len());
                if unanswered < UNANSWERED_MAX {
                    is_there |= self.tell_device(id, from, payload, About::Ask(shard, number));
                }
            }
        }
        if !is_there {
            self.answer_ask(shard, number, false, "");
        }
    }

    /// Whether another resource of the account was asked the same, and has not answered.
    fn is_asked(&self, account: u32, shard: ShardId, number: u64) -> bool {
        let Some(bare) = self.accounts.get(account).map(|account| account.bare.clone()) else { return false };
        self.sessions_of(bare.as_jid()).into_iter().any(|id| {
            let extras = self.get(id).and_then(|session| session.extras.as_ref());
            let mut unanswered = extras.iter().flat_map(|extras| &extras.unanswered);
            unanswered.any(|one| matches!(one.about, About::Ask(by, of) if (by, of) == (shard, number)))
        })
    }

    /// Makes room for one more challenge of a session.
    fn forget_challenge(&mut self, id: SessionId) {
        let Some(session) = self.get_mut(id) else { return };
        let unanswered = &mut session.extras().unanswered;
        let is_challenge = |one: &Unanswered| matches!(one.about, About::Challenge(..));
        if unanswered.iter().filter(|one| is_challenge(one)).count() >= CHALLENGES_MAX
            && let Some((at, _)) =
                unanswered.iter().enumerate().filter(|(_, one)| is_challenge(one)).min_by_key(|(_, one)| one.number)
        {
            unanswered.swap_remove(at);
        }
    }

    fn answer_ask(&mut self, shard: ShardId, number: u64, acknowledged: bool, payload: &str) {
        if shard == self.id {
            self.asked(number, acknowledged, payload);
        } else if let Some(batch) = self.batches.get_mut(usize::from(shard.0)) {
            batch.asked(number, acknowledged, payload);
        }
    }

    /// A device has answered, or will not: its service goes on. `payload` is what the result has in it.
    pub(super) fn asked(&mut self, number: u64, acknowledged: bool, payload: &str) {
        let Some(Asking { what, .. }) = self.asking.remove(&number) else { return };
        self.effects.push_back(match what {
            What::Service(ask, reply_to) => Effect::Asked(ask, reply_to, acknowledged),
            What::Token(challenge) => Effect::Challenged(challenge, acknowledged.then(|| payload.into())),
        });
    }

    // ---- what devices ask ---------------------------------------------------------------------------------------

    /// A device asks whether somebody may do something: answered from memory, here and now. `None` if it asks something
    /// else, or if what it may be told is not in memory.
    pub(super) fn decide_for_device(
        &mut self,
        id: SessionId,
        from: &Jid,
        stanza: &Stanza<'_>,
        to: JidRef<'_>,
    ) -> Option<Flow> {
        let (Class::Iq(IqType::Get), Some(iq_id)) = (stanza.class, stanza.id) else { return None };
        let child = stanza.element.first_child()?;
        let (Interface::Device, generation) = Interface::of(child.ns)? else { return None };
        if services::is_token(generation, child.name) {
            return None;
        }
        let facts = self.accounts.get(self.get(id)?.account)?.facts.as_ref()?;
        let payload = stanza.element.standalone(&child)?;
        let proofs = (&self.config.proofs, self.unix_millis);
        let answered = match provisioning::answer(facts.things.as_deref(), from.as_jid(), to.as_str(), &payload, proofs)
        {
            Ok(answered) => answered,
            Err(condition) => return Some(self.refuse(id, stanza, from, condition)),
        };
        self.counters.decisions += 1;
        self.write(id, |out| {
            write_reply_start(out, iq_id.raw, to.as_str(), from.as_str());
            out.extend_from_slice(&answered.payload);
            out.extend_from_slice(b"</iq>");
        });
        let Answered { after, .. } = answered;
        if !after.is_nothing() {
            if let Some(account) = self.get(id).map(|session| session.account).and_then(|at| self.accounts.get_mut(at))
            {
                account.inquiries = account.inquiries.saturating_add(1);
            }
            self.effects.push_back(Effect::Inquire(from.clone(), after));
        }
        Some(Flow::Continue)
    }

    // ---- what services say --------------------------------------------------------------------------------------

    /// A message from a service to an account, kept if nobody is there.
    pub(super) fn tell_account(&mut self, to: &Jid, from: &Jid, payload: &str) {
        let mut bytes = self.take_buffer();
        bytes.extend_from_slice(b"<message");
        write::attr(&mut bytes, "from", from.as_str());
        write::attr(&mut bytes, "to", to.as_str());
        bytes.push(b'>');
        bytes.extend_from_slice(payload.as_bytes());
        bytes.extend_from_slice(b"</message>");
        self.route_own(Class::Message(MessageType::Normal), to.as_jid(), from.as_str(), &bytes);
        self.give_buffer(bytes);
    }
}

/// Whether a device of an account has to be told something.
fn has_untold(facts: &Facts) -> bool {
    facts.things.as_ref().is_some_and(|things| things.has_untold())
}

#[cfg(test)]
mod tests {
    use plaza_core::thing::NodeName;
    use plaza_registry::rosters::Subscription;
    use plaza_registry::things::{self, State};
    use plaza_registry::wait::block_on;

    use super::super::testing::{Holder, REGISTRY, World};
    use super::*;

    const DISCO: &str = "urn:nf:iot:disco:1.0";
    const DEVICE: &str = "urn:nf:iot:prov:d:1.0";
    const OWNER: &str = "urn:nf:iot:prov:o:1.0";
    const TAGS: &str = "<str name='SN' value='1'/><str name='KEY' value='secret'/>";

    /// A device and its owner, at homes of their own, before the device registers.
    struct Pair {
        world: World,
        device: Jid,
        owner: Jid,
        ours: SessionId,
        theirs: SessionId,
    }

    impl Pair {
        fn new(device_home: u16) -> Self {
            let mut world = World::new();
            let device = world.account("device", device_home);
            let owner = world.account("owner", 1 - device_home);
            let theirs = world.there(&device, "d", &[]);
            let ours = world.there(&owner, "o", &[]);
            let mut pair = Self { world, device, owner, ours, theirs };
            pair.sent_to_device();
            pair.sent_to_owner();
            pair
        }

        /// The same, registered, claimed, and the device told.
        fn claimed(device_home: u16) -> Self {
            let mut pair = Self::new(device_home);
            pair.device_says("set", &format!("<register xmlns='{DISCO}'>{TAGS}</register>"));
            pair.owner_says("set", &format!("<mine xmlns='{DISCO}'>{TAGS}</mine>"));
            pair.acknowledge("result");
            assert_eq!(pair.acknowledge("result"), 0);
            pair.sent_to_owner();
            pair
        }

        fn sent_to_device(&mut self) -> String {
            self.world.sent(&self.device, self.theirs)
        }

        fn sent_to_owner(&mut self) -> String {
            self.world.sent(&self.owner, self.ours)
        }

        fn device_says(&mut self, kind: &str, payload: &str) {
            let iq = format!("<iq type='{kind}' id='d' to='{REGISTRY}'>{payload}</iq>");
            self.world.say(&self.device, self.theirs, &iq);
        }

        fn owner_says(&mut self, kind: &str, payload: &str) {
            let iq = format!("<iq type='{kind}' id='o' to='{REGISTRY}'>{payload}</iq>");
            self.world.say(&self.owner, self.ours, &iq);
        }

        /// The device answers all that it was told; how much that was.
        fn acknowledge(&mut self, kind: &str) -> usize {
            let sent = self.sent_to_device();
            let ids: Vec<&str> =
                sent.split("<iq type='set' id='").skip(1).filter_map(|rest| rest.split('\'').next()).collect();
            for id in &ids {
                let answer = format!("<iq type='{kind}' id='{id}' to='{REGISTRY}'/>");
                self.world.say(&self.device, self.theirs, &answer);
            }
            ids.len()
        }

        fn state(&self) -> State {
            let thing = block_on(things::load(&self.world.store, &self.device, &NodeName::default()));
            thing.unwrap().unwrap().state
        }
    }

    #[test]
    fn a_device_is_told_of_its_owner_until_it_has_heard() {
        for home in 0..2 {
            let mut pair = Pair::new(home);
            pair.device_says("set", &format!("<register xmlns='{DISCO}'>{TAGS}</register>"));
            pair.owner_says("set", &format!("<mine xmlns='{DISCO}'>{TAGS}</mine>"));
            let claimed = format!("<claimed xmlns='{DISCO}' jid='{}' public='true'/>", pair.owner.as_str());
            let said = pair.sent_to_device();
            assert!(said.contains(&claimed) && said.contains(&format!("from='{REGISTRY}'")), "{said}");
            // It says nothing, and comes back; it cannot, and comes back.
            for answer in ["", "error"] {
                let device = pair.device.clone();
                pair.world.shard(&device).end(pair.theirs);
                pair.theirs = pair.world.there(&device, "d", &[]);
                let said = pair.sent_to_device();
                assert_eq!(said.matches(&claimed).count(), 1, "{said}");
                let id = said.split("<iq type='set' id='").nth(1).unwrap().split('\'').next().unwrap().to_owned();
                if !answer.is_empty() {
                    pair.world.say(&device, pair.theirs, &format!("<iq type='{answer}' id='{id}' to='{REGISTRY}'/>"));
                }
            }
            let device = pair.device.clone();
            pair.world.shard(&device).end(pair.theirs);
            pair.theirs = pair.world.there(&device, "d", &[]);
            assert!(pair.acknowledge("result") > 0);
            pair.acknowledge("result");
            pair.world.shard(&device).end(pair.theirs);
            pair.theirs = pair.world.there(&device, "d", &[]);
            let said = pair.sent_to_device();
            assert!(!said.contains("<iq type='set'"), "{said}");
        }
    }

    #[test]
    fn a_device_that_is_there_is_told_what_an_operator_does_with_its_things() {
        for home in 0..2 {
            let mut pair = Pair::new(home);
            pair.device_says("set", &format!("<register xmlns='{DISCO}'>{TAGS}</register>"));
            pair.sent_to_device();
            let (device, owner) = (pair.device.clone(), pair.owner.clone());
            let name = (&device, &NodeName::default());
            let config = &pair.world.config.services.things;
            block_on(things::assign(config, &pair.world.store, name, &owner, true, 0)).unwrap();
            // Every shard is told, since nobody outside knows which is the home.
            pair.world.shards.iter_mut().for_each(|shard| shard.account_things_changed(device.as_jid()));
            pair.world.settle();
            let said = pair.sent_to_device();
            assert!(said.contains(&format!("<claimed xmlns='{DISCO}' jid='{}'", owner.as_str())), "{said}");
        }
    }

    #[test]
    fn a_stranger_is_denied_until_the_owner_answers_and_the_device_has_heard_of_that() {
        for home in 0..2 {
            let mut pair = Pair::claimed(home);
            let can_read = format!("<canRead xmlns='{DEVICE}' jid='reader@x.example' m='true'/>");
            pair.device_says("get", &can_read);
            let said = pair.sent_to_device();
            assert!(said.contains("result='false'"), "{said}");
            let question = pair.sent_to_owner();
            assert!(question.contains(&format!("<canRead xmlns='{OWNER}'")), "{question}");
            let key = question.split("key='").nth(1).unwrap().split('\'').next().unwrap().to_owned();
            // Once for all that it asks meanwhile.
            pair.device_says("get", &can_read);
            assert_eq!(pair.sent_to_owner(), "");
            let device = pair.device.clone();
            pair.owner_says(
                "set",
                &format!(
                    "<canReadRule xmlns='{OWNER}' jid='{}' remoteJid='reader@x.example' key='{key}' result='true'>\
                     <fromJid/></canReadRule>",
                    device.as_str()
                ),
            );
            assert!(pair.sent_to_owner().contains("type='result'"));
            let said = pair.sent_to_device();
            assert!(said.contains(&format!("<clearCache xmlns='{DEVICE}'/>")), "{said}");
            let decisions = pair.world.shard(&device).counters.decisions;
            pair.device_says("get", &can_read);
            let said = pair.sent_to_device();
            assert!(said.contains("result='true'") && said.contains("m='true'"), "{said}");
            assert_eq!(pair.world.shard(&device).counters.decisions, decisions + 1, "it was answered from memory");
        }
    }

    #[test]
    fn a_thing_is_given_up_once_its_device_has_heard_and_not_before() {
        for home in 0..2 {
            let mut pair = Pair::claimed(home);
            let disown = format!("<disown xmlns='{DISCO}' jid='{}'/>", pair.device.as_str());
            for answer in ["error", ""] {
                pair.owner_says("set", &disown);
                let said = pair.sent_to_owner();
                assert!(!said.contains("id='o'"), "before the device has answered: {said}");
                if answer.is_empty() {
                    assert!(pair.sent_to_device().contains("<disowned"));
                    // Who asked may say something meanwhile.
                    pair.owner_says("get", "<ping xmlns='urn:xmpp:ping'/>");
                    assert!(pair.sent_to_owner().contains("type='result'"));
                    let owner = pair.owner.clone();
                    pair.world.shard(&owner).asks_due(1);
                    pair.world.settle();
                } else {
                    assert_eq!(pair.acknowledge(answer), 1);
                }
                let said = pair.sent_to_owner();
                assert!(said.contains("id='o'") && said.contains("<not-allowed "), "{said}");
                assert!(matches!(pair.state(), State::Claimed { .. }));
            }
            let device = pair.device.clone();
            pair.world.shard(&device).end(pair.theirs);
            pair.owner_says("set", &disown);
            assert!(pair.sent_to_owner().contains("<not-allowed "), "nobody is there");
            pair.theirs = pair.world.there(&device, "d", &[]);
            pair.sent_to_device();
            pair.owner_says("set", &disown);
            assert_eq!(pair.acknowledge("result"), 1);
            let said = pair.sent_to_owner();
            assert!(said.contains("type='result'") && said.contains("id='o'"), "{said}");
            assert_eq!(pair.state(), State::Unclaimed);
        }
    }

    #[test]
    fn contacts_hear_that_a_device_leaves_while_what_is_known_of_it_is_loaded_anew() {
        for home in 0..2 {
            let mut pair = Pair::new(home);
            let (device, owner) = (pair.device.clone(), pair.owner.clone());
            pair.world.stand(&device, &owner, Subscription::Both, Subscription::Both);
            for account in [&device, &owner] {
                pair.world.shard(account).forget_facts(account.as_jid());
            }
            let gone = format!("<presence to='{}' from='{}/d' type='unavailable'/>", owner.as_str(), device.as_str());
            pair.world.shard(&device).end(pair.theirs);
            pair.world.settle();
            let said = pair.sent_to_owner();
            assert_eq!(said, gone);
            // It comes back, and its things change in the same moment.
            pair.theirs = pair.world.bind_met(&device, "d");
            super::super::tests::feed(pair.world.shard(&device), pair.theirs, "<presence/>");
            pair.world.shard(&device).things_changed(device.as_jid());
            pair.world.settle();
            assert_eq!(pair.sent_to_owner().matches("<presence").count(), 1);
        }
    }

    #[test]
    fn nobody_answers_for_a_device_or_for_the_registry() {
        let mut pair = Pair::claimed(0);
        let (owner, device) = (pair.owner.clone(), pair.device.clone());
        let before = pair.state();
        // The owner answers what its device was asked.
        pair.owner_says("set", &format!("<disown xmlns='{DISCO}' jid='{}'/>", device.as_str()));
        let said = pair.sent_to_device();
        let id = said.split("<iq type='set' id='").nth(1).unwrap().split('\'').next().unwrap().to_owned();
        pair.world.say(&owner, pair.ours, &format!("<iq type='result' id='{id}' to='{REGISTRY}'/>"));
        assert_eq!(pair.state(), before);
        // What only the registry says, from a client.
        for payload in
            [format!("<claimed xmlns='{DISCO}' jid='x@y.example'/>"), format!("<clearCache xmlns='{DEVICE}'/>")]
        {
            pair.owner_says("set", &payload);
            assert!(pair.sent_to_owner().contains("type='error'"));
            assert_eq!(pair.state(), before);
        }
    }

    #[test]
    fn a_device_that_was_shown_a_token_is_challenged_and_the_token_counts_when_it_has_answered() {
        for home in 0..2 {
            let mut pair = Pair::claimed(home);
            let (owner, ours) = (pair.owner.clone(), pair.ours);
            let holder = Holder::new(&mut pair.world, &owner, ours);
            let ask = format!("<canRead xmlns='{DEVICE}' jid='b@x.example' m='true' ut='{}'/>", holder.token);
            pair.device_says("get", &ask);
            let sent = pair.sent_to_device();
            assert!(sent.contains("result='false'"), "{sent}");
            assert!(sent.contains(&format!("from='{REGISTRY}'")) && sent.contains("/d'"), "{sent}");
            assert_eq!(pair.sent_to_owner(), "", "the owner is asked when it is known what is proven");
            // It is asked once.
            pair.device_says("get", &ask);
            assert!(holder.answer(&pair.sent_to_device()).is_none());
            let device = pair.device.clone();
            pair.world.say(&device, pair.theirs, &holder.answer(&sent).unwrap());
            let question = pair.sent_to_owner();
            assert!(question.contains(&format!("ut='{}'", holder.token)), "{question}");
            let of = |name: &str| question.split(&format!(" {name}='")).nth(1).unwrap().split('\'').next().unwrap();
            let rule = format!(
                "<canReadRule xmlns='{OWNER}' jid='{}' remoteJid='{}' key='{}' result='true'><fromUser token='{}'/></canReadRule>",
                device.as_str(),
                of("remoteJid"),
                of("key"),
                holder.token
            );
            pair.owner_says("set", &rule);
            assert!(pair.sent_to_device().contains("<clearCache "));
            pair.device_says("get", &ask);
            let sent = pair.sent_to_device();
            assert!(sent.contains("result='true'") && holder.answer(&sent).is_none(), "{sent}");
            // Without the token the same one may not.
            pair.device_says("get", &ask.replace(&holder.token, ""));
            assert!(pair.sent_to_device().contains("result='false'"));
        }
    }

    #[test]
    fn whoever_does_not_answer_a_challenge_or_refuses_has_proven_nothing() {
        for refuses in [false, true] {
            let mut pair = Pair::claimed(0);
            let (owner, ours) = (pair.owner.clone(), pair.ours);
            let holder = Holder::new(&mut pair.world, &owner, ours);
            let ask = format!("<canRead xmlns='{DEVICE}' jid='b@x.example' m='true' ut='{}'/>", holder.token);
            pair.device_says("get", &ask);
            let sent = pair.sent_to_device();
            let answer = holder.answer(&sent).unwrap();
            let device = pair.device.clone();
            if refuses {
                let error = answer.replace("type='result'", "type='error'");
                pair.world.say(&device, pair.theirs, &error);
            } else {
                pair.world.shard(&device).asks_due(1);
                pair.world.settle();
            }
            let question = pair.sent_to_owner();
            assert!(question.contains("<canRead ") && !question.contains(&holder.token), "{question}");
            // Too late, and it is not asked again now.
            pair.world.say(&device, pair.theirs, &answer);
            pair.device_says("get", &ask);
            let sent = pair.sent_to_device();
            assert!(sent.contains("result='false'") && holder.answer(&sent).is_none(), "{sent}");
            assert!(!sent.contains("<clearCache "));
        }
    }
}
