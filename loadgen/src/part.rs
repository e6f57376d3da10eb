//! A session's part in the acts of a scenario, and the checks on what it hears: sender, order, integrity, time.
//!
//! Called by [`crate::worker`] when an act begins and by [`crate::session`] with each checked element; performs no I/O and
//! reads no clock.

use std::collections::VecDeque;

use plaza_core::ns;
use plaza_core::xml::Element;
use plaza_core::xml::read::Node;

use crate::management::{self, Management};
use crate::payload::{self, Payload};
use crate::plan::{Phase, Plan};
use crate::pubsub;
use crate::question::{Answer, Question};
use crate::search;
use crate::stage::{Deed, Topic};
use crate::traffic::{self, Tally};

/// An acknowledgement that was asked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// The count it must reach.
    h: u32,
    /// Messages that are then acknowledged.
    messages: u32,
    /// When they were sent.
    sent_ns: u64,
}

/// What the ids of pings of those who are back begin with; when they were due follows.
const BACK: &str = "back-";

/// One session's part.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// This session.
    me: u32,
    /// The leader of its group: itself, if it is one.
    leader: u32,
    /// Stanzas sent, rounds of one to each of the members.
    sent: u64,
    /// Stanzas heard from the leader.
    heard: u64,
    /// Acknowledgements that were asked for, in order; several only in an open loop.
    asked: VecDeque<Asked>,
    /// Deliveries that members got (leader).
    delivered: u64,
    /// Sessions of the group whose presence it is not subscribed to yet.
    missing: Vec<u32>,
    /// Publications that were not answered yet (leader).
    unanswered: u64,
}

impl Part {
    /// The part of session `me`.
    pub(crate) fn new(plan: &Plan, me: u32) -> Self {
        Self {
            me,
            leader: me / plan.group * plan.group,
            sent: 0,
            heard: 0,
            asked: VecDeque::new(),
            delivered: 0,
            missing: Vec::new(),
            unanswered: 0,
        }
    }

    /// The act has begun: appends what this session begins it with.
    pub(crate) fn begin(
        &mut self,
        plan: &Plan,
        tally: &mut Tally,
        deed: Deed,
        managed: Option<&mut Management>,
        out: &mut Vec<u8>,
    ) {
        match deed {
            Deed::Tell | Deed::Deliver if self.me == self.leader => {
                let stanzas = self.tell(plan, tally, tally.now_ns, out);
                if let Some(managed) = managed {
                    managed.count_outbound(stanzas);
                    if deed == Deed::Tell {
                        self.ask(managed, stanzas, tally.now_ns, out);
                    }
                }
            }
            Deed::Store if self.me == self.leader && plan.rate.is_none() => {
                if let Some(managed) = managed {
                    self.store(plan, tally, tally.now_ns, managed, out);
                }
            }
            Deed::Traffic(_) => (self.sent, self.heard, self.delivered) = (0, 0, 0),
            Deed::Befriend => {
                out.extend_from_slice(b"<iq type='get' id='contacts'><query xmlns='jabber:iq:roster'/></iq>");
                if let Some(managed) = managed {
                    managed.count_outbound(1);
                }
            }
            Deed::Create => pubsub::write_delete(&plan.service(self.me), &plan.node(self.me), out),
            Deed::Subscribe => {
                let (service, node) = (plan.service(self.leader), plan.node(self.leader));
                pubsub::write_subscribe(&service, &node, &plan.bare_jid(self.me), out);
            }
            Deed::Settle if self.me == self.leader && self.unanswered == 0 => tally.done += 1,
            Deed::Search if plan.is_searcher(self.me) => self.search(plan, tally, tally.now_ns, out),
            Deed::Search if self.me == self.leader => tally.done += 1,
            Deed::Tell
            | Deed::Deliver
            | Deed::Store
            | Deed::Collect
            | Deed::Settle
            | Deed::Search
            | Deed::Join
            | Deed::Enlist
            | Deed::Shake
            | Deed::Resume { .. }
            | Deed::Leave
            | Deed::Cut => {}
        }
    }

    /// One message to each member; gives how many.
    fn tell(&mut self, plan: &Plan, tally: &mut Tally, sent_ns: u64, out: &mut Vec<u8>) -> u32 {
        let members = plan.group - 1;
        let sequence = self.sent / u64::from(members.max(1));
        for member in self.leader + 1..self.leader + plan.group {
            let payload = Payload { sender: self.me, receiver: member, sequence, sent_ns };
            write_message(&plan.address(member), payload, plan.bytes, out);
        }
        self.sent += u64::from(members);
        tally.owed += plan.fan_out();
        members
    }

    /// One round of the traffic, meant to leave at `sent_ns`.
    pub(crate) fn say(&mut self, plan: &Plan, tally: &mut Tally, topic: Topic, sent_ns: u64, out: &mut Vec<u8>) {
        let members = u64::from(plan.group - 1);
        let sequence = self.sent / members.max(1);
        let payload = Payload { sender: self.me, receiver: self.me, sequence, sent_ns };
        match topic {
            Topic::Chat | Topic::Pairs { .. } => {
                self.tell(plan, tally, sent_ns, out);
                return;
            }
            Topic::Presence => {
                out.extend_from_slice(b"<presence><status>");
                payload.write(out, plan.bytes);
                out.extend_from_slice(b"</status></presence>");
            }
            Topic::Event => {
                pubsub::write_publish(&plan.service(self.me), &plan.node(self.me), payload, plan.bytes, out);
                self.unanswered += 1;
            }
            Topic::Ask(question) => {
                question.write(plan, self.me, self.sent, sent_ns, out);
                self.sent += question.steps();
                tally.owed += 1;
                return;
            }
        }
        self.sent += members;
        tally.owed += members;
    }

    /// A ping of one who is back, due at `due_ns`.
    pub(crate) fn ping(
        &self,
        plan: &Plan,
        tally: &mut Tally,
        due_ns: u64,
        managed: Option<&mut Management>,
        out: &mut Vec<u8>,
    ) {
        let (domain, id) = (&plan.domain, BACK);
        let ping = format!("<iq type='get' to='{domain}' id='{id}{due_ns}'><ping xmlns='urn:xmpp:ping'/></iq>");
        out.extend_from_slice(ping.as_bytes());
        tally.unanswered.insert((due_ns, self.me));
        if let Some(managed) = managed {
            managed.count_outbound(1);
        }
    }

    /// The next search, due at `sent_ns`.
    pub(crate) fn search(&mut self, plan: &Plan, tally: &mut Tally, sent_ns: u64, out: &mut Vec<u8>) {
        search::write(plan, self.me, self.sent, sent_ns, out);
        self.sent += 1;
        tally.owed += 1;
    }

    /// Takes the answer to a search. One may overtake another: they are not answered by who holds the session.
    fn on_found(&mut self, plan: &Plan, tally: &mut Tally, element: &Element<'_>) -> Result<(), String> {
        let raw = |name| element.attr(name).map_or("", |attr| attr.raw);
        let id = raw("id");
        let (number, sent_ns) = payload::read_id(id.as_bytes()).ok_or_else(|| format!("unknown id {id:?}"))?;
        if raw("type") == "error" {
            let error = element.children().find(|child| child.name == "error");
            return Err(format!("an error answers search {number}: {}", error.map_or("", |error| error.content)));
        }
        search::check(plan, self.me, number, element)?;
        tally.found(search::kind(number), sent_ns);
        if plan.act(tally.act).is_some_and(|act| act.deed == Deed::Search) {
            tally.record(sent_ns);
            tally.done += 1;
        }
        Ok(())
    }

    /// Members got so many deliveries; gives how many rounds the window has room for.
    pub(crate) fn delivered(&mut self, plan: &Plan, count: u64) -> u32 {
        self.delivered += count;
        let members = u64::from(plan.group - 1).max(1);
        let outstanding = self.sent.saturating_sub(self.delivered).div_ceil(members);
        u64::from(plan.window).saturating_sub(outstanding) as u32
    }

    /// The next window of messages to the members' accounts in turn, if any are left, and the request to acknowledge them.
    pub(crate) fn store(
        &mut self,
        plan: &Plan,
        tally: &mut Tally,
        sent_ns: u64,
        managed: &mut Management,
        out: &mut Vec<u8>,
    ) {
        let members = u64::from(plan.group - 1);
        let end = (self.sent + u64::from(plan.window)).min(members * plan.stage.messages);
        let count = (end - self.sent) as u32;
        if count == 0 {
            return;
        }
        while self.sent < end {
            let member = self.leader + 1 + (self.sent % members) as u32;
            let sequence = self.sent / members;
            let payload = Payload { sender: self.me, receiver: member, sequence, sent_ns };
            write_message(&plan.bare_jid(member), payload, plan.bytes, out);
            self.sent += 1;
        }
        tally.owed += u64::from(count);
        managed.count_outbound(count);
        self.ask(managed, count, sent_ns, out);
    }

    fn ask(&mut self, managed: &Management, messages: u32, sent_ns: u64, out: &mut Vec<u8>) {
        self.asked.push_back(Asked { h: managed.outbound(), messages, sent_ns });
        management::request(out);
    }

    /// The server has handled the first `h` stanzas.
    pub(crate) fn acknowledged(
        &mut self,
        plan: &Plan,
        tally: &mut Tally,
        h: u32,
        managed: &mut Management,
        out: &mut Vec<u8>,
    ) {
        let stores = plan.act(tally.act).is_some_and(|act| act.deed == Deed::Store);
        let before = self.asked.len();
        while let Some(&asked) = self.asked.front().filter(|asked| h >= asked.h) {
            self.asked.pop_front();
            if stores {
                tally.arrived += u64::from(asked.messages);
                (0..asked.messages).for_each(|_| tally.record(asked.sent_ns));
            }
        }
        if !self.asked.is_empty() || before == 0 {
            return;
        }
        if stores && self.sent < u64::from(plan.group - 1) * plan.stage.messages {
            if plan.rate.is_none() {
                self.store(plan, tally, tally.now_ns, managed, out);
            }
            return;
        }
        tally.done += 1;
    }

    /// Takes an element, and appends what it is answered with.
    ///
    /// # Errors
    /// In words: wrong sender, out of order, damaged, or nothing that belongs here.
    pub(crate) fn hear(
        &mut self,
        plan: &Plan,
        tally: &mut Tally,
        element: &Element<'_>,
        managed: Option<&mut Management>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let raw = |name| element.attr(name).map_or("", |attr| attr.raw);
        if let Some(Topic::Ask(question)) = plan.act(tally.act).and_then(|act| act.deed.topic())
            && element.name() == "iq"
            && matches!(raw("type"), "result" | "error")
        {
            return self.on_asked(plan, tally, question, element, out);
        }
        match (element.name(), raw("type")) {
            ("iq", "result") if raw("id").starts_with(BACK) => {
                let due_ns = raw("id").strip_prefix(BACK).and_then(|due_ns| due_ns.parse().ok());
                tally.pinged(due_ns.ok_or("a ping's answer with another id")?, self.me);
                Ok(())
            }
            ("iq", "result" | "error") if plan.is_searcher(self.me) => self.on_found(plan, tally, element),
            ("iq", "result" | "error") if raw("id").starts_with("node-") => self.on_answer(plan, tally, element, out),
            ("message" | "presence" | "iq", "error") => Err("an error stanza".to_owned()),
            ("message", "chat") => self.on_message(plan, tally, element),
            ("message", "" | "normal" | "headline") if pubsub::is_event(element) => self.on_event(plan, tally, element),
            ("presence", "") => self.on_presence(plan, tally, element),
            ("presence", "subscribe") => {
                out.extend_from_slice(format!("<presence type='subscribed' to='{}'/>", raw("from")).as_bytes());
                if let Some(managed) = managed {
                    managed.count_outbound(1);
                }
                Ok(())
            }
            ("presence", "unsubscribed") => Err("a subscription was refused".to_owned()),
            ("iq", "result") if raw("id") == "contacts" => {
                self.on_contacts(plan, tally, element, out)?;
                if let Some(managed) = managed {
                    managed.count_outbound(self.missing.len() as u32);
                }
                Ok(())
            }
            _ => {
                let before = out.len();
                self.on_push(plan, tally, element);
                traffic::bystander(element, out)?;
                if let Some(managed) = managed.filter(|_| out.len() > before) {
                    managed.count_outbound(1);
                }
                Ok(())
            }
        }
    }

    fn on_message(&mut self, plan: &Plan, tally: &mut Tally, element: &Element<'_>) -> Result<(), String> {
        let deed = plan.act(tally.act).map(|act| act.deed);
        let kept = element.children().any(|child| child.is("delay", ns::DELAY));
        if kept && deed.is_some_and(Deed::is_preparation) {
            return Ok(()); // Left over from an earlier run.
        }
        traffic::check_from(element, &plan.jid(self.leader))?;
        let payload = traffic::read_payload(element, "body")?;
        traffic::check_payload(&payload, self.leader, self.me, self.heard)?;
        match deed {
            Some(Deed::Resume { missed: true, .. }) => {}
            Some(Deed::Deliver) => tally.record(payload.sent_ns),
            Some(Deed::Traffic(Topic::Chat | Topic::Pairs { .. })) => {
                self.heard(tally, payload.sent_ns);
                return Ok(());
            }
            Some(Deed::Collect) => {
                if !kept {
                    return Err("a message kept for later without <delay/>".to_owned());
                }
            }
            Some(
                Deed::Traffic(Topic::Presence | Topic::Event | Topic::Ask(_))
                | Deed::Befriend
                | Deed::Create
                | Deed::Subscribe
                | Deed::Settle
                | Deed::Search
                | Deed::Tell
                | Deed::Store
                | Deed::Join
                | Deed::Enlist
                | Deed::Shake
                | Deed::Resume { missed: false, .. }
                | Deed::Leave
                | Deed::Cut,
            )
            | None => return Err("a message that nobody should hear now".to_owned()),
        }
        self.heard += 1;
        tally.arrived += 1;
        if deed != Some(Deed::Collect) || self.heard == plan.stage.messages {
            tally.done += 1;
        }
        Ok(())
    }

    /// A stanza of the traffic was heard.
    fn heard(&mut self, tally: &mut Tally, sent_ns: u64) {
        self.heard += 1;
        tally.heard(sent_ns);
        tally.delivered(self.leader);
    }

    fn on_presence(&mut self, plan: &Plan, tally: &mut Tally, element: &Element<'_>) -> Result<(), String> {
        let status = element.children().find(|child| child.name == "status");
        let Some(status) = status.filter(|_| self.me != self.leader) else {
            return Ok(()); // Somebody came, or it is the leader's own.
        };
        match plan.act(tally.act).and_then(|act| act.deed.topic()) {
            Some(Topic::Presence) => {}
            Some(Topic::Chat | Topic::Event | Topic::Pairs { .. } | Topic::Ask(_)) => {
                return Err("presence that nobody should hear now".to_owned());
            }
            None => return Ok(()),
        }
        traffic::check_from(element, &plan.jid(self.leader))?;
        let payload = Payload::read(status.content.as_bytes()).map_err(|damage| damage.to_string())?;
        traffic::check_payload(&payload, self.leader, self.leader, self.heard)?;
        self.heard(tally, payload.sent_ns);
        Ok(())
    }

    /// Takes the answer to what it asks over and over; in a closed loop, asks again.
    fn on_asked(
        &mut self,
        plan: &Plan,
        tally: &mut Tally,
        question: Question,
        element: &Element<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let id = element.attr("id").map_or("", |id| id.raw);
        let (number, sent_ns) = payload::read_id(id.as_bytes()).ok_or_else(|| format!("unknown id {id:?}"))?;
        traffic::check_order(number, self.heard)?;
        self.heard += 1;
        let answer = question.answered(plan, self.me, (number, sent_ns, tally.now_ns), element, out)?;
        if answer == Answer::Done {
            tally.heard(sent_ns);
            if plan.rate.is_none() && tally.phase < Phase::Drain {
                self.say(plan, tally, Topic::Ask(question), tally.now_ns, out);
            }
        }
        Ok(())
    }

    /// Takes a service's answer to a request about a node.
    fn on_answer(
        &mut self,
        plan: &Plan,
        tally: &mut Tally,
        element: &Element<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let raw = |name| element.attr(name).map_or("", |attr| attr.raw);
        let (service, node) = (plan.service(self.leader), plan.node(self.leader));
        traffic::check_from(element, &service)?;
        match (raw("id"), raw("type")) {
            (pubsub::DELETE, kind) if kind == "result" || pubsub::is_not_found(element) => {
                pubsub::write_create(&service, &node, out);
            }
            (id, "error") => return Err(format!("an error answers {id}")),
            (pubsub::CREATE, _) => tally.done += 1,
            (pubsub::SUBSCRIBE, _) => {
                pubsub::check_subscribed(element, &node, &plan.bare_jid(self.me))?;
                tally.done += 1;
            }
            (id, _) if id.starts_with(pubsub::PUBLISH) && self.unanswered > 0 => {
                self.unanswered -= 1;
                if self.unanswered == 0 && plan.act(tally.act).is_some_and(|act| act.deed == Deed::Settle) {
                    tally.done += 1;
                }
            }
            (id, _) => return Err(format!("an answer to {id:?}, which was not asked")),
        }
        Ok(())
    }

    /// Takes a notification. What is left of an earlier run may come before the traffic, nothing after it.
    fn on_event(&mut self, plan: &Plan, tally: &mut Tally, element: &Element<'_>) -> Result<(), String> {
        let Some(Deed::Traffic(topic)) = plan.act(tally.act).map(|act| act.deed) else { return Ok(()) };
        if topic != Topic::Event || self.me == self.leader {
            return Err("an event that nobody should hear now".to_owned());
        }
        traffic::check_from(element, &plan.service(self.leader))?;
        let payload = pubsub::read_event(element, &plan.node(self.leader))?;
        traffic::check_payload(&payload, self.leader, self.leader, self.heard)?;
        self.heard(tally, payload.sent_ns);
        Ok(())
    }

    /// Takes the roster: subscribes to who is missing.
    fn on_contacts(
        &mut self,
        plan: &Plan,
        tally: &mut Tally,
        element: &Element<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let known = subscribed(element);
        let group = self.leader..self.leader + plan.group;
        self.missing = group
            .filter(|&contact| match plan.stage.mesh {
                true => self.me >= plan.stage.empty_rosters && contact != self.me,
                false => self.me != self.leader && contact == self.leader,
            })
            .filter(|&contact| !known.contains(&plan.bare_jid(contact)))
            .collect();
        match self.missing.first() {
            Some(&contact) if plan.stage.prepared => {
                return Err(format!("{} is no contact yet: --prepare makes them", plan.bare_jid(contact)));
            }
            None if self.me < plan.stage.empty_rosters && !known.is_empty() => {
                return Err("a roster that should be empty is not".to_owned());
            }
            None => tally.done += 1,
            Some(_) => {}
        }
        for &contact in &self.missing {
            let to = plan.bare_jid(contact);
            out.extend_from_slice(format!("<presence type='subscribe' to='{to}'/>").as_bytes());
        }
        Ok(())
    }

    /// Takes a roster push: a contact that was missing may be there now.
    fn on_push(&mut self, plan: &Plan, tally: &mut Tally, element: &Element<'_>) {
        if self.missing.is_empty() || element.attr("type").is_none_or(|kind| kind.raw != "set") {
            return;
        }
        let known = subscribed(element);
        self.missing.retain(|&contact| !known.contains(&plan.bare_jid(contact)));
        if self.missing.is_empty() {
            tally.done += 1;
        }
    }
}

/// Whose presence a roster says is subscribed to: bare JIDs (RFC 6121 §2.1.2).
fn subscribed(element: &Element<'_>) -> Vec<String> {
    let query = element.first_child().filter(|child| child.is("query", ns::ROSTER));
    let items: Vec<Node> = query.and_then(|query| element.read(&query)).map_or(Vec::new(), |query| query.children);
    items
        .iter()
        .filter(|item| matches!(item.attr("subscription"), Some("to" | "both")))
        .filter_map(|item| item.attr("jid").map(str::to_owned))
        .collect()
}

/// Appends a message whose body is a payload.
fn write_message(to: &str, payload: Payload, bytes: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"<message to='");
    out.extend_from_slice(to.as_bytes());
    out.extend_from_slice(b"' type='chat' id='");
    payload::write_id(out, payload.sequence, payload.sent_ns);
    out.extend_from_slice(b"'><body>");
    payload.write(out, bytes);
    out.extend_from_slice(b"</body></message>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;
    use crate::plan::{Plan, Scenario};
    use crate::session::tests::with_element;
    use crate::stage::{Returns, Stage};

    /// A group of three on a stage, and the number of the first act with that deed.
    fn staged(stage: Stage, deed: impl Fn(Deed) -> bool) -> (Plan, Tally) {
        let mut plan = plan(Scenario::Staged, 3, 1, 3);
        plan.stage = stage;
        let mut tally = Tally::new(&plan);
        tally.act = plan.stage.acts.iter().position(|act| deed(act.deed)).unwrap() as u32 + 1;
        (plan, tally)
    }

    fn hear(part: &mut Part, plan: &Plan, tally: &mut Tally, text: &str) -> Result<(), String> {
        with_element(text, |element| part.hear(plan, tally, element, None, &mut Vec::new()))
    }

    /// A message as the server would hand it on.
    fn message(plan: &Plan, sender: u32, receiver: u32, sequence: u64) -> String {
        let mut out = Vec::new();
        write_message(&plan.jid(receiver), Payload { sender, receiver, sequence, sent_ns: 5 }, 64, &mut out);
        let text = String::from_utf8(out).unwrap();
        text.replacen("<message ", &format!("<message from='{}' ", plan.jid(sender)), 1)
    }

    #[test]
    fn a_resumed_session_hears_its_message_once_and_from_its_leader() {
        let (plan, mut tally) =
            staged(Stage::resume(Returns::default()), |deed| matches!(deed, Deed::Resume { missed: true, .. }));
        let mut part = Part::new(&plan, 1);
        assert!(hear(&mut part, &plan, &mut tally, &message(&plan, 2, 1, 0)).unwrap_err().contains("expected from"));
        assert!(hear(&mut part, &plan, &mut tally, &message(&plan, 0, 2, 0)).unwrap_err().contains("for 2"));
        assert!(hear(&mut part, &plan, &mut tally, &message(&plan, 0, 1, 1)).unwrap_err().contains("lost"));
        assert_eq!(hear(&mut part, &plan, &mut tally, &message(&plan, 0, 1, 0)), Ok(()));
        assert_eq!((tally.arrived, tally.done), (1, 1));
        assert!(hear(&mut part, &plan, &mut tally, &message(&plan, 0, 1, 0)).unwrap_err().contains("again"));
    }

    #[test]
    fn a_message_where_there_should_be_none_is_a_failure() {
        let (plan, mut tally) =
            staged(Stage::resume(Returns::default()), |deed| matches!(deed, Deed::Resume { missed: false, .. }));
        let mut part = Part::new(&plan, 1);
        let said = hear(&mut part, &plan, &mut tally, &message(&plan, 0, 1, 0));
        assert!(said.unwrap_err().contains("nobody should hear"));
        assert!(hear(&mut part, &plan, &mut tally, "<message type='error' from='x'/>").is_err());
    }

    #[test]
    fn what_an_earlier_run_left_is_heard_while_preparing_and_nothing_else_then() {
        let left = |plan: &Plan| {
            let delay = "<delay xmlns='urn:xmpp:delay' stamp='2026-01-02T03:04:05Z'/></message>";
            message(plan, 2, 1, 7).replacen("</message>", delay, 1)
        };
        let (plan, mut tally) = staged(Stage::contacts(), |deed| deed == Deed::Join);
        let mut part = Part::new(&plan, 1);
        assert_eq!(hear(&mut part, &plan, &mut tally, &left(&plan)), Ok(()));
        assert!(hear(&mut part, &plan, &mut tally, &message(&plan, 0, 1, 0)).unwrap_err().contains("nobody should"));
        let (plan, mut tally) = staged(Stage::contacts(), |deed| deed == Deed::Traffic(Topic::Chat));
        assert!(hear(&mut part, &plan, &mut tally, &left(&plan)).unwrap_err().contains("expected from"));
    }

    #[test]
    fn what_a_leader_tells_its_members_is_done_once_acknowledged() {
        let (plan, mut tally) = staged(Stage::resume(Returns::default()), |deed| deed == Deed::Tell);
        let (mut part, mut out) = (Part::new(&plan, 0), Vec::new());
        let mut managed = Management::enable(true, &mut Vec::new());
        managed.count_outbound(2);
        part.begin(&plan, &mut tally, Deed::Tell, Some(&mut managed), &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("<message ").count(), 2);
        assert!(text.ends_with("<r xmlns='urn:xmpp:sm:3'/>"), "{text}");
        assert_eq!((managed.outbound(), tally.owed), (4, 2));
        part.acknowledged(&plan, &mut tally, 3, &mut managed, &mut Vec::new());
        assert_eq!(tally.done, 0);
        part.acknowledged(&plan, &mut tally, 4, &mut managed, &mut Vec::new());
        part.acknowledged(&plan, &mut tally, 4, &mut managed, &mut Vec::new());
        assert_eq!(tally.done, 1);
    }

    #[test]
    fn senders_go_on_once_a_window_is_stored_until_all_is() {
        let (mut plan, mut tally) = staged(Stage::offline(3), |deed| deed == Deed::Store);
        plan.window = 4;
        let (mut part, mut out) = (Part::new(&plan, 0), Vec::new());
        let mut managed = Management::enable(false, &mut Vec::new());
        part.begin(&plan, &mut tally, Deed::Store, Some(&mut managed), &mut out);
        assert_eq!((managed.outbound(), tally.owed), (4, 4));
        part.acknowledged(&plan, &mut tally, 4, &mut managed, &mut out);
        assert_eq!((managed.outbound(), tally.arrived, tally.done), (6, 4, 0));
        part.acknowledged(&plan, &mut tally, 6, &mut managed, &mut out);
        assert_eq!((managed.outbound(), tally.arrived, tally.done), (6, 6, 1));
        let text = String::from_utf8(out).unwrap();
        for account in ["load1", "load2"] {
            assert_eq!(text.matches(&format!("<message to='{account}@localhost' ")).count(), 3, "{account}");
        }
        assert_eq!(text.matches("<r ").count(), 2);
        assert_eq!(tally.latencies[tally.act as usize].summary().unwrap().count, 6);
    }

    #[test]
    fn in_an_open_loop_senders_do_not_wait_for_what_is_stored() {
        let (mut plan, mut tally) = staged(Stage::offline(1), |deed| deed == Deed::Store);
        plan.rate = Some(10.0);
        let (mut part, mut out) = (Part::new(&plan, 0), Vec::new());
        let mut managed = Management::enable(false, &mut Vec::new());
        part.begin(&plan, &mut tally, Deed::Store, Some(&mut managed), &mut out);
        assert!(out.is_empty());
        tally.now_ns = 500_000;
        for sent_ns in [100_000, 200_000, 300_000] {
            part.store(&plan, &mut tally, sent_ns, &mut managed, &mut out);
        }
        assert_eq!((managed.outbound(), tally.owed), (2, 2));
        part.acknowledged(&plan, &mut tally, 1, &mut managed, &mut out);
        assert_eq!((tally.arrived, tally.done), (1, 0));
        part.acknowledged(&plan, &mut tally, 2, &mut managed, &mut out);
        part.acknowledged(&plan, &mut tally, 2, &mut managed, &mut out);
        assert_eq!((tally.arrived, tally.done), (2, 1));
        let latency = tally.latencies[tally.act as usize].summary().unwrap();
        assert!((399.0..402.0).contains(&latency.max_us), "{latency:?}");
    }

    #[test]
    fn what_was_stored_comes_in_order_with_its_delay_and_all_of_it() {
        let (plan, mut tally) = staged(Stage::offline(2), |deed| deed == Deed::Collect);
        let mut part = Part::new(&plan, 1);
        let kept = |sequence| {
            let delay = "<delay xmlns='urn:xmpp:delay' stamp='2026-01-02T03:04:05Z'/></message>";
            message(&plan, 0, 1, sequence).replacen("</message>", delay, 1)
        };
        let bare = message(&plan, 0, 1, 0);
        assert!(hear(&mut part.clone(), &plan, &mut tally, &bare).unwrap_err().contains("delay"));
        assert!(hear(&mut part.clone(), &plan, &mut tally, &kept(1)).unwrap_err().contains("lost"));
        assert_eq!(hear(&mut part, &plan, &mut tally, &kept(0)), Ok(()));
        assert_eq!(tally.done, 0);
        assert_eq!(hear(&mut part, &plan, &mut tally, &kept(1)), Ok(()));
        assert_eq!((tally.arrived, tally.done), (2, 1));
        assert!(hear(&mut part, &plan, &mut tally, &kept(1)).unwrap_err().contains("again"));
    }

    #[test]
    fn presence_of_the_leader_is_checked_and_counted_for_it() {
        let (plan, mut tally) = staged(Stage::contacts(), |deed| deed == Deed::Traffic(Topic::Presence));
        let (mut leader, mut out) = (Part::new(&plan, 0), Vec::new());
        leader.say(&plan, &mut tally, Topic::Presence, 3, &mut out);
        assert_eq!(tally.owed, 2);
        let text = String::from_utf8(out).unwrap();
        let from = |jid: &str| text.replacen("<presence", &format!("<presence from='{jid}'"), 1);
        let mut part = Part::new(&plan, 1);
        assert!(hear(&mut part.clone(), &plan, &mut tally, &from("load2@localhost/r2")).is_err());
        assert_eq!(hear(&mut part, &plan, &mut tally, "<presence from='load0@localhost/r0'/>"), Ok(()));
        assert_eq!(hear(&mut part, &plan, &mut tally, &from("load0@localhost/r0")), Ok(()));
        assert!(hear(&mut part, &plan, &mut tally, &from("load0@localhost/r0")).unwrap_err().contains("again"));
        assert_eq!((tally.arrived, tally.delivered.clone()), (1, vec![(0, 1)]));
        assert_eq!(leader.delivered(&plan, 1), 0, "the other has not got it");
        assert_eq!(leader.delivered(&plan, 1), 1);
    }

    /// What a session says to an element.
    fn said(part: &mut Part, plan: &Plan, tally: &mut Tally, text: &str) -> Result<String, String> {
        let mut out = Vec::new();
        with_element(text, |element| part.hear(plan, tally, element, None, &mut out))?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_node_is_made_anew_whether_it_was_there_or_not() {
        let (plan, mut tally) = staged(Stage::pubsub(Some("pubsub.localhost".to_owned())), |deed| deed == Deed::Create);
        let (mut leader, mut out) = (Part::new(&plan, 0), Vec::new());
        leader.begin(&plan, &mut tally, Deed::Create, None, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("to='pubsub.localhost'") && text.contains("<delete node='load0'/>"), "{text}");
        let refused = |condition: &str| {
            format!(
                "<iq type='error' from='pubsub.localhost' id='node-delete'><error type='cancel'>\
                 <{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
            )
        };
        for answer in [refused("item-not-found"), "<iq type='result' from='pubsub.localhost' id='node-delete'/>".into()]
        {
            let text = said(&mut leader, &plan, &mut tally, &answer).unwrap();
            assert!(text.contains("<create node='load0'/>") && text.contains("<value>open</value>"), "{text}");
        }
        assert!(said(&mut leader, &plan, &mut tally, &refused("forbidden")).unwrap_err().contains("node-delete"));
        let created = "<iq type='result' from='pubsub.localhost' id='node-create'/>";
        assert!(said(&mut leader, &plan, &mut tally, &created.replace("pubsub.", "other.")).is_err());
        assert_eq!((said(&mut leader, &plan, &mut tally, created), tally.done), (Ok(String::new()), 1));
        assert!(said(&mut leader, &plan, &mut tally, &created.replace("'result'", "'error'")).is_err());
    }

    #[test]
    fn members_subscribe_and_make_sure_that_they_are() {
        let (plan, mut tally) = staged(Stage::pubsub(None), |deed| deed == Deed::Subscribe);
        let (mut member, mut out) = (Part::new(&plan, 2), Vec::new());
        member.begin(&plan, &mut tally, Deed::Subscribe, None, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("to='load0@localhost'"), "the leader's account is the service: {text}");
        assert!(text.contains("<subscribe node='load0' jid='load2@localhost'/>"), "{text}");
        let answer = "<iq type='result' from='load0@localhost' id='node-subscribe'>\
                      <pubsub xmlns='http://jabber.org/protocol/pubsub'>\
                      <subscription node='load0' jid='load2@localhost' subscription='subscribed'/></pubsub></iq>";
        assert!(said(&mut member, &plan, &mut tally, &answer.replace("'subscribed'", "'pending'")).is_err());
        assert_eq!((said(&mut member, &plan, &mut tally, answer), tally.done), (Ok(String::new()), 1));
    }

    #[test]
    fn notifications_are_checked_and_publications_answered() {
        let (plan, mut tally) = staged(Stage::pubsub(None), |deed| deed == Deed::Traffic(Topic::Event));
        let (mut leader, mut out) = (Part::new(&plan, 0), Vec::new());
        leader.say(&plan, &mut tally, Topic::Event, 3, &mut out);
        assert_eq!(tally.owed, 2);
        let text = String::from_utf8(out).unwrap();
        let item = text.split_once("<publish node='load0'>").unwrap().1.split_once("</publish>").unwrap().0;
        let event = format!(
            "<message from='load0@localhost' type='headline'><event xmlns='http://jabber.org/protocol/pubsub#event'>\
             <items node='load0'>{item}</items></event></message>"
        );
        let mut part = Part::new(&plan, 1);
        assert!(hear(&mut part.clone(), &plan, &mut tally, &event.replace("load0@", "load2@")).is_err());
        assert_eq!(hear(&mut part, &plan, &mut tally, &event), Ok(()));
        assert!(hear(&mut part, &plan, &mut tally, &event).unwrap_err().contains("again"));
        assert_eq!((tally.arrived, tally.delivered.clone()), (1, vec![(0, 1)]));
        tally.act += 1;
        assert_eq!(plan.act(tally.act).unwrap().deed, Deed::Settle);
        leader.begin(&plan, &mut tally, Deed::Settle, None, &mut Vec::new());
        assert_eq!(tally.done, 0);
        let answer = "<iq type='result' from='load0@localhost' id='node-publish-0'/>";
        assert_eq!(hear(&mut leader, &plan, &mut tally, answer), Ok(()));
        assert_eq!(tally.done, 1);
        assert!(hear(&mut leader, &plan, &mut tally, answer).unwrap_err().contains("not asked"));
        tally.act += 1;
        assert!(hear(&mut part, &plan, &mut tally, &event).unwrap_err().contains("nobody should hear"));
    }

    #[test]
    fn subscriptions_are_made_once_and_answered() {
        let (plan, mut tally) = staged(Stage::contacts(), |deed| deed == Deed::Befriend);
        let roster = |subscription: &str, frame: &str| {
            format!(
                "<iq {frame}><query xmlns='jabber:iq:roster'><item jid='load0@localhost' \
                 subscription='{subscription}'/></query></iq>"
            )
        };
        let mut say = |part: &mut Part, text: &str| {
            let mut out = Vec::new();
            with_element(text, |element| part.hear(&plan, &mut tally, element, None, &mut out)).unwrap();
            (String::from_utf8(out).unwrap(), tally.done)
        };
        let mut part = Part::new(&plan, 1);
        let asked = say(&mut part, &roster("from", "type='result' id='contacts'"));
        assert_eq!(asked, ("<presence type='subscribe' to='load0@localhost'/>".to_owned(), 0));
        let pushed = say(&mut part, &roster("none", "type='set' id='p1'"));
        assert_eq!(pushed, ("<iq type='result' id='p1'/>".to_owned(), 0));
        assert_eq!(say(&mut part, &roster("to", "type='set' id='p2'")).1, 1);
        assert_eq!(say(&mut part, &roster("both", "type='result' id='contacts'")), (String::new(), 2));
        let answer = say(&mut Part::new(&plan, 0), "<presence type='subscribe' from='load1@localhost'/>");
        assert_eq!(answer.0, "<presence type='subscribed' to='load1@localhost'/>");
    }

    #[test]
    fn making_contacts_on_a_managed_stream_is_counted() {
        let returns = Returns { contacts: true, ..Returns::default() };
        let (plan, mut tally) = staged(Stage::resume(returns), |deed| deed == Deed::Befriend);
        let mut part = Part::new(&plan, 1);
        let mut managed = Management::enable(true, &mut Vec::new());
        part.begin(&plan, &mut tally, Deed::Befriend, Some(&mut managed), &mut Vec::new());
        assert_eq!(managed.outbound(), 1);
        let roster = "<iq type='result' id='contacts'><query xmlns='jabber:iq:roster'/></iq>";
        let push = "<iq type='set' id='p1'><query xmlns='jabber:iq:roster'><item jid='load0@localhost' \
                    subscription='none'/></query></iq>";
        for (text, count) in [(roster, 3), ("<presence type='subscribe' from='load2@localhost'/>", 4), (push, 5)] {
            let hear =
                |element: &Element<'_>| part.hear(&plan, &mut tally, element, Some(&mut managed), &mut Vec::new());
            with_element(text, hear).unwrap();
            assert_eq!(managed.outbound(), count, "{text}");
        }
    }
}
