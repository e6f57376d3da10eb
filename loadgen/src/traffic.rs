//! What bound sessions say to each other, and the checks on what they hear: sender, order, integrity.
//!
//! Called by [`crate::session`] with each checked element; performs no I/O and reads no clock.

use std::collections::BTreeSet;

use plaza_core::ns;
use plaza_core::xml::Element;

use crate::payload::{self, Payload};
use crate::plan::{Phase, Plan, Scenario};
use crate::search;
use crate::stats::Latencies;

/// A thread's running account of the traffic.
#[derive(Debug)]
pub(crate) struct Tally {
    /// The phase of this turn.
    pub phase: Phase,
    /// The run's clock, as of this turn or completion.
    pub now_ns: u64,
    /// Stanzas sent from then on count in `latencies`.
    pub measure_from: u64,
    /// Arrivals owed since the counters were last published.
    pub owed: u64,
    /// Arrivals likewise.
    pub arrived: u64,
    /// Latencies of the measured phase, or of each act.
    pub latencies: Vec<Latencies>,
    /// Latencies of the measured phases' searches, by kind.
    pub searches: Vec<Latencies>,
    /// The number of the act, from 1; 0 if there is none.
    pub act: u32,
    /// Participants done with it since the counters were last published.
    pub done: u64,
    /// Deliveries that leaders wait for and their members got: `(leader, how many)`.
    pub delivered: Vec<(u32, u64)>,
    /// From when each ping of those who are back was due to its answer.
    pub pings: Latencies,
    /// Pings that were not answered yet: when each was due, and whose it is.
    pub unanswered: BTreeSet<(u64, u32)>,
    /// Those that never were.
    pub never_answered: u64,
}

impl Tally {
    /// At the beginning of a run.
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            phase: Phase::Login,
            now_ns: 0,
            measure_from: u64::MAX,
            owed: 0,
            arrived: 0,
            latencies: plan.stage.acts.iter().map(|_| Latencies::new()).chain([Latencies::new()]).collect(),
            searches: vec![Latencies::new(); search::KINDS.len()],
            act: 0,
            done: 0,
            delivered: Vec::new(),
            pings: Latencies::new(),
            unanswered: BTreeSet::new(),
            never_answered: 0,
        }
    }

    /// A stanza of the traffic arrived.
    pub(crate) fn heard(&mut self, sent_ns: u64) {
        self.arrived += 1;
        if self.phase == Phase::Measure && sent_ns >= self.measure_from {
            self.record(sent_ns);
        }
    }

    /// A ping of one who is back was answered.
    pub(crate) fn pinged(&mut self, due_ns: u64, me: u32) {
        if self.unanswered.remove(&(due_ns, me)) {
            self.pings.record(self.now_ns.saturating_sub(due_ns));
        }
    }

    /// The streams are closed: a ping that is not answered yet counts as if its answer came now.
    pub(crate) fn end_pings(&mut self) {
        for (due_ns, _) in std::mem::take(&mut self.unanswered) {
            self.never_answered += 1;
            self.pings.record(self.now_ns.saturating_sub(due_ns));
        }
    }

    /// A search of a kind was answered.
    pub(crate) fn found(&mut self, kind: usize, sent_ns: u64) {
        self.arrived += 1;
        let is_measured = self.phase == Phase::Measure && sent_ns >= self.measure_from;
        if let Some(latencies) = self.searches.get_mut(kind).filter(|_| is_measured) {
            latencies.record(self.now_ns.saturating_sub(sent_ns));
        }
    }

    /// What a leader sent reached one of its members.
    pub(crate) fn delivered(&mut self, leader: u32) {
        match self.delivered.last_mut().filter(|(last, _)| *last == leader) {
            Some((_, count)) => *count += 1,
            None => self.delivered.push((leader, 1)),
        }
    }

    /// Something begun at `begun_ns` is over.
    pub(crate) fn record(&mut self, begun_ns: u64) {
        let latency = self.now_ns.saturating_sub(begun_ns);
        if let Some(latencies) = self.latencies.get_mut(self.act as usize) {
            latencies.record(latency);
        }
    }
}

/// One session's side of the traffic.
#[derive(Debug)]
pub(crate) struct Talk {
    /// This session.
    pub me: u32,
    /// The one it talks to; the first of its group for presence.
    peer: u32,
    /// Who stanzas must come from, as the server stamps it; empty if nobody stamps.
    from: Box<str>,
    /// The stanza up to its id.
    opening: Box<[u8]>,
    /// Stanzas sent.
    pub sent: u64,
    /// Stanzas heard from the peer.
    pub heard: u64,
    /// The next sequence number of each resource of the account (presence).
    heard_of: Box<[u64]>,
}

impl Talk {
    /// The talk of session `me`.
    pub(crate) fn new(plan: &Plan, me: u32) -> Self {
        let pair = me ^ 1;
        let to = plan.jid(pair);
        let (peer, from, opening, resources) = match plan.scenario {
            Scenario::Pairs => (pair, to.clone(), format!("<message to='{to}' type='chat' id='"), 0),
            Scenario::Iq => (pair, to.clone(), format!("<iq type='get' to='{to}' id='"), 0),
            Scenario::Presence => {
                let first = me / plan.group * plan.group;
                (first, String::new(), "<presence><status>".to_owned(), plan.group)
            }
            Scenario::Ping | Scenario::Idle | Scenario::Staged => {
                (me, plan.domain.clone(), format!("<iq type='get' to='{}' id='", plan.domain), 0)
            }
        };
        Self {
            me,
            peer,
            from: if plan.raw { Box::default() } else { from.into() },
            opening: opening.into_bytes().into(),
            sent: 0,
            heard: 0,
            heard_of: vec![0; resources as usize].into(),
        }
    }

    /// Whether it begins exchanges, rather than only answering.
    pub(crate) fn begins(&self, plan: &Plan) -> bool {
        plan.scenario != Scenario::Iq || self.me.is_multiple_of(2)
    }

    /// Appends the next stanza, meant to leave at `sent_ns`.
    pub(crate) fn say(&mut self, plan: &Plan, tally: &mut Tally, sent_ns: u64, out: &mut Vec<u8>) {
        let payload = Payload { sender: self.me, receiver: self.peer, sequence: self.sent, sent_ns };
        self.sent += 1;
        tally.owed += plan.fan_out();
        out.extend_from_slice(&self.opening);
        match plan.scenario {
            Scenario::Pairs => {
                payload::write_id(out, payload.sequence, sent_ns);
                out.extend_from_slice(b"'><body>");
                payload.write(out, plan.bytes);
                out.extend_from_slice(b"</body></message>");
            }
            Scenario::Iq => {
                payload::write_id(out, payload.sequence, sent_ns);
                out.extend_from_slice(b"'><req xmlns='urn:nf:iot:sd:1.0' id='a1' m='true'/></iq>");
            }
            Scenario::Presence => {
                payload.write(out, plan.bytes);
                out.extend_from_slice(b"</status></presence>");
            }
            Scenario::Ping | Scenario::Idle | Scenario::Staged => {
                payload::write_id(out, payload.sequence, sent_ns);
                out.extend_from_slice(b"'><ping xmlns='urn:xmpp:ping'/></iq>");
            }
        }
    }

    /// Takes an element, and appends what it is answered with: in a closed loop, the next stanza.
    ///
    /// # Errors
    /// In words: wrong sender, out of order, damaged, or nothing that belongs here.
    pub(crate) fn hear(
        &mut self,
        plan: &Plan,
        tally: &mut Tally,
        element: &Element<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let kind = element.attr("type").map_or("", |attr| attr.raw);
        match (plan.scenario, element.name(), kind) {
            (_, "message" | "presence" | "iq", "error") => return Err("an error stanza".to_owned()),
            (Scenario::Pairs, "message", "chat") => {
                self.check_sender(element)?;
                let payload = read_payload(element, "body")?;
                let sequence = std::mem::replace(&mut self.heard, payload.sequence + 1);
                check_payload(&payload, self.peer, self.me, sequence)?;
                tally.heard(payload.sent_ns);
            }
            (Scenario::Presence, "presence", "") => {
                let Some(status) = element.children().find(|child| child.name == "status") else {
                    return Ok(()); // Initial presence of another resource.
                };
                let payload = Payload::read(status.content.as_bytes()).map_err(|damage| damage.to_string())?;
                let at = payload.sender.wrapping_sub(self.peer) as usize;
                let Some(next) = self.heard_of.get_mut(at) else {
                    return Err(format!("presence of session {}, which is not of this account", payload.sender));
                };
                let sequence = std::mem::replace(next, payload.sequence + 1);
                check_payload(&payload, payload.sender, self.peer, sequence)?;
                if !plan.raw && element.attr("from").is_none_or(|from| from.raw != plan.jid(payload.sender)) {
                    return Err(format!("presence of {} under another name", plan.jid(payload.sender)));
                }
                tally.heard(payload.sent_ns);
                if payload.sender != self.me {
                    return Ok(());
                }
            }
            (Scenario::Iq, "iq", "get") if !self.me.is_multiple_of(2) => {
                self.check_sender(element)?;
                let id = element.attr("id").map_or("", |id| id.raw);
                self.check_id(tally, id)?;
                self.answer(plan, tally, id, out);
                return Ok(());
            }
            (Scenario::Iq, "iq", "result") => {
                self.check_sender(element)?;
                let id = element.attr("id").map_or("", |id| id.raw);
                let seal = payload::seal(id.as_bytes());
                let content = element.first_child().map_or("", |child| child.content);
                if !std::str::from_utf8(&seal).is_ok_and(|seal| content.contains(seal)) {
                    return Err("the read-out does not carry the request's checksum".to_owned());
                }
                self.check_id(tally, id)?;
            }
            (Scenario::Ping | Scenario::Idle, "iq", "result") => {
                if element.attr("from").is_some_and(|from| *from.raw != *self.from) {
                    return Err("a ping's answer from somebody else".to_owned());
                }
                self.check_id(tally, element.attr("id").map_or("", |id| id.raw))?;
            }
            _ => return bystander(element, out),
        }
        if plan.rate.is_none() && tally.phase < Phase::Drain {
            let now_ns = tally.now_ns;
            self.say(plan, tally, now_ns, out);
        }
        Ok(())
    }

    fn check_sender(&self, element: &Element<'_>) -> Result<(), String> {
        if self.from.is_empty() { Ok(()) } else { check_from(element, &self.from) }
    }

    /// Checks that an id is the next in order, and counts it.
    fn check_id(&mut self, tally: &mut Tally, id: &str) -> Result<(), String> {
        let (sequence, sent_ns) = payload::read_id(id.as_bytes()).ok_or_else(|| format!("unknown id {id:?}"))?;
        let wanted = std::mem::replace(&mut self.heard, sequence + 1);
        check_order(sequence, wanted)?;
        tally.heard(sent_ns);
        Ok(())
    }

    /// Answers a read-out request as a small climate sensor would.
    fn answer(&mut self, plan: &Plan, tally: &mut Tally, id: &str, out: &mut Vec<u8>) {
        self.sent += 1;
        tally.owed += plan.fan_out();
        // The opening is `<iq type='get' to='…' id='`; the answer differs in its type alone.
        out.extend_from_slice(b"<iq type='result'");
        out.extend_from_slice(self.opening.strip_prefix(b"<iq type='get'").unwrap_or_default());
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(
            b"'><resp xmlns='urn:nf:iot:sd:1.0' id='a1'><ts v='2026-01-02T03:04:05.000Z'>\
              <q n='Temperature' v='21.4' u='C' m='true' ar='true'/>\
              <q n='Humidity' v='48.2' u='%' m='true' ar='true'/>\
              <q n='Battery' v='97' u='%' s='true' ar='true'/>\
              <s n='Checksum' v='",
        );
        out.extend_from_slice(&payload::seal(id.as_bytes()));
        out.extend_from_slice(b"' i='true' ar='true'/></ts></resp></iq>");
    }
}

/// Takes what is not part of the scenario: presence is welcome, the server may ask something, all else is an error.
///
/// # Errors
/// In words.
pub(crate) fn bystander(element: &Element<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let raw = |name| element.attr(name).map_or("", |attr| attr.raw);
    match (element.name(), raw("type")) {
        ("presence", kind) if kind != "error" => Ok(()),
        ("iq", "result") if raw("id") == "session" => Ok(()),
        ("iq", "set") if element.first_child().is_some_and(|child| child.is("query", ns::ROSTER)) => {
            let id = raw("id");
            out.extend_from_slice(format!("<iq type='result' id='{id}'/>").as_bytes());
            Ok(())
        }
        ("iq", "get" | "set") => {
            let pinged = element.first_child().is_some_and(|child| child.is("ping", ns::PING));
            let (kind, payload) = match pinged {
                true => ("result", ""),
                false => (
                    "error",
                    "<error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>",
                ),
            };
            let (id, to) = (raw("id"), raw("from"));
            let to = if to.is_empty() { String::new() } else { format!(" to='{to}'") };
            out.extend_from_slice(format!("<iq type='{kind}'{to} id='{id}'>{payload}</iq>").as_bytes());
            Ok(())
        }
        (name, kind) => Err(format!("unexpected <{name} type='{kind}'/>")),
    }
}

/// Checks who a stanza is from, as the server stamped it.
pub(crate) fn check_from(element: &Element<'_>, wanted: &str) -> Result<(), String> {
    match element.attr("from") {
        Some(from) if from.raw == wanted => Ok(()),
        from => Err(format!("expected from {wanted}, got {}", from.map_or("nobody", |from| from.raw))),
    }
}

pub(crate) fn read_payload(element: &Element<'_>, child: &str) -> Result<Payload, String> {
    let found = element.children().find(|candidate| candidate.name == child);
    let content = found.ok_or_else(|| format!("no <{child}/>"))?.content;
    Payload::read(content.as_bytes()).map_err(|damage| damage.to_string())
}

pub(crate) fn check_payload(payload: &Payload, sender: u32, receiver: u32, sequence: u64) -> Result<(), String> {
    if (payload.sender, payload.receiver) != (sender, receiver) {
        return Err(format!(
            "written by session {} for {}, arrived as if by {sender} for {receiver}",
            payload.sender, payload.receiver
        ));
    }
    check_order(payload.sequence, sequence)
}

pub(crate) fn check_order(sequence: u64, wanted: u64) -> Result<(), String> {
    match sequence.cmp(&wanted) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(format!("number {sequence} before {wanted}: lost or reordered")),
        std::cmp::Ordering::Less => Err(format!("number {sequence} again or late, {wanted} was next")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    fn tally() -> Tally {
        let plan = plan(Scenario::Pairs, 2, 1, 2);
        Tally { phase: Phase::Measure, now_ns: 50, measure_from: 0, ..Tally::new(&plan) }
    }

    #[test]
    fn a_ping_that_is_never_answered_counts_with_its_age() {
        let mut tally = Tally { now_ns: 3_000_000, unanswered: BTreeSet::from([(0, 1), (2_000_000, 0)]), ..tally() };
        tally.pinged(2_000_000, 0);
        tally.end_pings();
        tally.pinged(0, 1);
        let summary = tally.pings.summary().unwrap();
        assert_eq!((summary.count, tally.never_answered), (2, 1));
        assert!(summary.p50_us < 1_100.0 && summary.max_us >= 3_000.0, "{summary:?}");
    }

    #[test]
    fn order_sender_and_receiver_are_checked() {
        let payload = Payload { sender: 1, receiver: 0, sequence: 5, sent_ns: 0 };
        assert!(check_payload(&payload, 1, 0, 5).is_ok());
        assert!(check_payload(&payload, 1, 0, 4).unwrap_err().contains("lost or reordered"));
        assert!(check_payload(&payload, 1, 0, 6).unwrap_err().contains("again or late"));
        assert!(check_payload(&payload, 3, 0, 5).is_err());
        assert!(check_payload(&payload, 1, 2, 5).is_err());
    }

    #[test]
    fn a_message_has_the_body_asked_for() {
        let plan = plan(Scenario::Pairs, 2, 1, 2);
        let (mut talk, mut tally, mut out) = (Talk::new(&plan, 0), tally(), Vec::new());
        talk.say(&plan, &mut tally, 7, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("<message to='load1@localhost/r1' type='chat' id='"), "{text}");
        let body = text.split_once("<body>").unwrap().1.split_once("</body></message>").unwrap().0;
        assert_eq!(body.len(), plan.bytes);
        let wanted = Payload { sender: 0, receiver: 1, sequence: 0, sent_ns: 7 };
        assert_eq!(Payload::read(body.as_bytes()), Ok(wanted));
        assert_eq!((talk.sent, tally.owed), (1, 1));
    }

    #[test]
    fn only_latencies_of_the_measured_phase_count() {
        let mut tally = tally();
        tally.measure_from = 40;
        tally.heard(39);
        tally.heard(40);
        tally.phase = Phase::Drain;
        tally.heard(45);
        assert_eq!(tally.arrived, 3);
        assert_eq!(tally.latencies[0].summary().map(|summary| summary.count), Some(1));
    }
}
