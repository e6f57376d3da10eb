//! An owner: claims things by what is printed on them, and answers what the broker asks about strangers.
//!
//! Called by [`super::streets`] with each stanza; performs no I/O and reads no clock. Takes a while to answer, so that who
//! asks first is always refused first. Answers differ in how far they go, by the seed: the caller, its domain, everybody;
//! all that was asked, or named piece by piece.

use std::collections::{HashSet, VecDeque};

use plaza_core::iot::Interface;
use plaza_core::xml::read::Node;
use plaza_core::xml::write;

use super::device;
use super::funnel::Timing;
use super::life::Life;
use super::town::{Draw, Thing, Town, Who};
use super::wire::{
    self, Names, News, SECOND_NS, SHORT, Turn, bare, categories, is_of, is_true, node_of, values, write_node,
};

/// Claims under way at once.
const CLAIMS_MAX: usize = 8;
/// How long a claim that was put off waits.
const AGAIN_NS: u64 = 2 * SECOND_NS;
/// An owner thinks at least so long.
const THINK_NS_MIN: u64 = SECOND_NS / 5;
/// An owner thinks at most so long.
const THINK_NS_MAX: u64 = SECOND_NS;

#[derive(Debug)]
enum Ask {
    Claim(u32),
    Rule(&'static str),
}

/// An owner.
#[derive(Debug)]
pub(crate) struct Owner<'t> {
    town: &'t Town,
    number: u32,
    names: Names,
    life: Life<Ask>,
    is_ready: bool,
    to_claim: VecDeque<u32>,
    claims: usize,
    /// Claims that were put off.
    later: Vec<(u64, u32)>,
    /// Keys of questions that were answered, or will be.
    answered: HashSet<String>,
    /// Answers, and when they are given.
    answers: VecDeque<(u64, &'static str, Vec<u8>)>,
}

impl<'t> Owner<'t> {
    /// The owner of a number.
    pub(crate) fn new(town: &'t Town, number: u32) -> Self {
        Self {
            town,
            number,
            names: town.names(Who::Owner(number)),
            life: Life::new(),
            is_ready: false,
            to_claim: VecDeque::new(),
            claims: 0,
            later: Vec::new(),
            answered: HashSet::new(),
            answers: VecDeque::new(),
        }
    }

    /// The session has begun.
    pub(crate) fn ready(&mut self, turn: &mut Turn<'_>) {
        self.is_ready = true;
        let account = self.town.account(Who::Owner(self.number));
        self.life.begin(self.town, u64::from(account), turn);
        self.go_on(turn);
    }

    /// The connection is gone.
    pub(crate) fn gone(&mut self) {
        self.is_ready = false;
        self.life.end();
        self.claims = 0;
    }

    /// A thing of its own stands in the registry and can be claimed.
    pub(crate) fn claim(&mut self, thing: u32, turn: &mut Turn<'_>) {
        self.to_claim.push_back(thing);
        self.go_on(turn);
    }

    /// When there is something to do unasked.
    pub(crate) fn due_ns(&self) -> u64 {
        let later = self.later.iter().map(|(due_ns, _)| *due_ns);
        let answers = self.answers.iter().map(|(due_ns, ..)| *due_ns);
        let own = later.chain(answers).min().filter(|_| self.is_ready).unwrap_or(u64::MAX);
        self.life.due_ns().min(own)
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, turn: &mut Turn<'_>) {
        for ask in self.life.tick(turn) {
            match ask {
                Ask::Claim(_) => {
                    self.claims = self.claims.saturating_sub(1);
                    turn.trouble("no answer", "to mine");
                }
                Ask::Rule(name) => turn.trouble("no answer", format!("to {name}")),
            }
        }
        if !self.is_ready {
            return;
        }
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(due_ns, _)| *due_ns <= turn.now_ns);
        self.later = later;
        let due: Vec<(u64, u32)> = due;
        self.to_claim.extend(due.into_iter().map(|(_, thing)| thing));
        self.go_on(turn);
        for _ in 0..self.answers.len() {
            let Some((due_ns, name, rule)) = self.answers.pop_front() else { break };
            if due_ns <= turn.now_ns {
                self.life.ask(turn, "set", &self.town.registry, &rule, turn.now_ns, Ask::Rule(name));
            } else {
                self.answers.push_back((due_ns, name, rule));
            }
        }
    }

    /// Claims what waits to be, a few at a time.
    fn go_on(&mut self, turn: &mut Turn<'_>) {
        while self.is_ready && self.claims < CLAIMS_MAX {
            let Some(index) = self.to_claim.pop_front() else { return };
            let Some(thing) = self.town.things.get(index as usize) else { continue };
            let mut payload = Vec::new();
            payload.extend_from_slice(b"<mine");
            write::attr(&mut payload, "xmlns", self.names.disco);
            write::attr(&mut payload, "public", if thing.public { "true" } else { "false" });
            payload.push(b'>');
            device::write_tags(&mut payload, thing);
            payload.extend_from_slice(b"</mine>");
            self.claims += 1;
            self.life.ask(turn, "set", &self.town.registry, &payload, turn.now_ns, Ask::Claim(index));
        }
    }

    /// Takes a stanza.
    pub(crate) fn take(&mut self, stanza: &Node, turn: &mut Turn<'_>) {
        let from = stanza.attr("from").unwrap_or_default();
        match (stanza.name.as_str(), stanza.attr("type").unwrap_or_default()) {
            ("iq", "result" | "error") => {
                if let Some((ask, since_ns)) = self.life.answered(stanza, turn) {
                    self.on_answer(&ask, stanza, since_ns, turn);
                }
            }
            ("iq", _) => wire::bystander(stanza, turn),
            ("presence", "subscribe") => turn.presence("subscribed", bare(from)),
            ("presence", _) => {}
            ("message", _) => self.on_message(stanza, turn),
            (name, kind) => turn.trouble("out of place", format!("<{name} type='{kind}'/> from {from}")),
        }
    }

    fn on_answer(&mut self, ask: &Ask, stanza: &Node, since_ns: u64, turn: &mut Turn<'_>) {
        let took_ns = turn.now_ns.saturating_sub(since_ns);
        let failed = stanza.attr("type") == Some("error");
        let (condition, is_wait) = wire::condition(stanza);
        match *ask {
            Ask::Rule(name) if failed => turn.trouble("rule refused", format!("{name}: {condition}")),
            Ask::Rule(_) => turn.tell(News::Note("questions answered")),
            Ask::Claim(index) => {
                self.claims = self.claims.saturating_sub(1);
                if failed && is_wait {
                    turn.tell(News::Note("asked to wait"));
                    self.later.push((turn.now_ns + AGAIN_NS, index));
                } else if failed {
                    turn.trouble("claim refused", condition);
                } else {
                    self.on_claimed(index, stanza, took_ns, turn);
                }
                self.go_on(turn);
            }
        }
    }

    fn on_claimed(&mut self, index: u32, stanza: &Node, took_ns: u64, turn: &mut Turn<'_>) {
        let Some(thing) = self.town.things.get(index as usize) else { return };
        let Some(claimed) = stanza.child("claimed", self.names.disco) else {
            return turn.trouble("claim refused", "no <claimed/> in the answer");
        };
        let jid = device::jid(self.town, thing);
        if claimed.attr("jid") != Some(&jid) || node_of(claimed) != thing.node {
            let found = format!("{:?} {:?}", claimed.attr("jid"), node_of(claimed));
            return turn.trouble("another thing claimed", format!("{found} in place of {jid} {:?}", thing.node));
        }
        if claimed.attr("public").is_some() && is_true(claimed, "public") != thing.public {
            turn.trouble("not as claimed", "public, or not");
        }
        turn.tell(News::Took(Timing::Claim, took_ns));
        turn.tell(News::Won(index));
    }

    /// Takes a question, which comes from the registry alone.
    fn on_message(&mut self, stanza: &Node, turn: &mut Turn<'_>) {
        let from = stanza.attr("from").unwrap_or_default();
        let question = stanza.children.iter().find(|node| is_of(node, Interface::Owner));
        let Some(question) = question.filter(|_| from == self.town.registry) else {
            return turn.trouble("out of place", format!("a message from {from} to an owner"));
        };
        let (name, rule) = match question.name.as_str() {
            "isFriend" => ("isFriendRule", self.friend_rule(question)),
            "canRead" => ("canReadRule", self.rule("canReadRule", question)),
            "canControl" => ("canControlRule", self.rule("canControlRule", question)),
            name => return turn.trouble("out of place", format!("<{name}/> to an owner")),
        };
        let rule = match rule {
            Ok(rule) => rule,
            Err(what) => return turn.trouble("a question nobody can answer", what),
        };
        let key = question.attr("key").unwrap_or_default();
        if !self.answered.insert(key.to_owned()) {
            return turn.tell(News::Note("questions again"));
        }
        let think_ns = self.town.pause_ns(self.answered.len() as u64, THINK_NS_MIN, THINK_NS_MAX);
        self.answers.push_back((turn.now_ns + think_ns, name, rule));
    }

    /// The thing that a question is about.
    fn concerned(&self, question: &Node) -> Result<(u32, &'t Thing), String> {
        let jid = question.attr("jid").unwrap_or_default();
        let node = question.children.iter().find(|child| child.name == "nd").map(node_of).unwrap_or_default();
        let found = match self.town.resident(jid) {
            Some(Who::Device(device)) => self.town.thing_of(device, &node),
            Some(Who::Owner(_) | Who::Service(_)) | None => None,
        };
        let found = found.filter(|(_, thing)| thing.owner == self.number);
        let found = found.ok_or_else(|| format!("not the owner of {jid} {node:?}"))?;
        let remote = question.attr("remoteJid").unwrap_or_default();
        if !matches!(self.town.resident(remote), Some(Who::Service(_))) {
            return Err(format!("nobody is {remote:?}"));
        }
        if question.attr("key").is_none_or(str::is_empty) {
            return Err("no key".to_owned());
        }
        Ok(found)
    }

    /// The beginning of a rule, without its end.
    fn begin(&self, name: &str, question: &Node) -> Vec<u8> {
        let mut rule = format!("<{name}").into_bytes();
        write::attr(&mut rule, "xmlns", &question.ns);
        for attr in ["jid", "remoteJid", "key"] {
            write::attr(&mut rule, attr, question.attr(attr).unwrap_or_default());
        }
        write::attr(&mut rule, "result", "true");
        rule
    }

    fn friend_rule(&self, question: &Node) -> Result<Vec<u8>, String> {
        let (index, _) = self.concerned(question)?;
        let mut rule = self.begin("isFriendRule", question);
        match self.town.draw(Draw::Style, u64::from(index)) % 4 {
            0 => {} // Caller is what it says if nothing is said.
            1 => write::attr(&mut rule, "range", "Caller"),
            2 => write::attr(&mut rule, "range", "Domain"),
            _ => write::attr(&mut rule, "range", "All"),
        }
        rule.extend_from_slice(b"/>");
        Ok(rule)
    }

    fn rule(&self, name: &str, question: &Node) -> Result<Vec<u8>, String> {
        let (index, thing) = self.concerned(question)?;
        let style = self.town.draw(Draw::Style, u64::from(index) << 2 | u64::from(name == "canReadRule")) % 8;
        let mut rule = self.begin(name, question);
        rule.push(b'>');
        write_node(&mut rule, &SHORT, &thing.node);
        if style.is_multiple_of(2) {
            write_partial(&mut rule, question);
        }
        rule.extend_from_slice(match style / 2 {
            0 | 1 => b"<fromJid/>",
            2 => b"<fromDomain/>",
            _ => b"<all/>",
        });
        rule.extend_from_slice(format!("</{name}>").as_bytes());
        Ok(rule)
    }
}

/// Appends just what was asked for, piece by piece, if it was named.
fn write_partial(rule: &mut Vec<u8>, question: &Node) {
    let categories = categories(question);
    let fields = values(question, "f", "n");
    let mut parameters = values(question, "p", "n");
    parameters.extend(values(question, "parameter", "name"));
    for partial in question.children.iter().filter(|child| child.name == "partial") {
        parameters.extend(values(partial, "p", "n"));
    }
    if categories.is_empty() && fields.is_empty() && parameters.is_empty() {
        return;
    }
    rule.extend_from_slice(b"<partial");
    for category in categories {
        write::attr(rule, category, "true");
    }
    rule.push(b'>');
    for (element, names) in [("f", fields), ("p", parameters)] {
        for name in names {
            rule.extend_from_slice(format!("<{element}").as_bytes());
            write::attr(rule, "n", name);
            rule.extend_from_slice(b"/>");
        }
    }
    rule.extend_from_slice(b"</partial>");
}

#[cfg(test)]
mod tests {
    use super::super::town::tests::census;
    use super::super::wire::tests::{during, stanza};
    use super::*;

    const OWNER: &str = "urn:nf:iot:prov:o:1.0";

    fn town() -> Town {
        Town::new(census(11))
    }

    fn take(owner: &mut Owner<'_>, text: &str) -> (String, Vec<News>) {
        during(7, |turn| owner.take(&stanza(text), turn))
    }

    /// The owner of a thing, and the thing's number, node and JID.
    fn owned(town: &Town, index: u32) -> (Owner<'_>, String) {
        let thing = &town.things[index as usize];
        (Owner::new(town, thing.owner), device::jid(town, thing))
    }

    #[test]
    fn a_thing_is_claimed_by_all_that_is_told_of_it() {
        let town = town();
        let (mut owner, jid) = owned(&town, 0);
        let (said, _) = during(0, |turn| owner.claim(0, turn));
        assert_eq!(said, "", "it is not there yet");
        let (said, _) = during(0, |turn| owner.ready(turn));
        let thing = &town.things[0];
        let head = format!("<mine xmlns='urn:nf:iot:disco:1.0' public='{}'><str name='MAN' ", thing.public);
        assert!(said.contains(&head), "{said}");
        let key = thing.tag("KEY").unwrap();
        assert!(said.ends_with(&format!("<str name='KEY' value='{key}'/></mine></iq>")), "{said}");
        let claimed = |jid: &str| {
            format!(
                "<iq type='result' id='2' from='things.city.example'>\
                 <claimed xmlns='urn:nf:iot:disco:1.0' jid='{jid}' public='{}'/></iq>",
                thing.public
            )
        };
        let (_, news) = take(&mut owner, &claimed(&jid));
        assert_eq!(news, [News::Took(Timing::Claim, 7), News::Won(0)]);
        during(0, |turn| owner.claim(0, turn));
        let (_, news) = take(&mut owner, &claimed("other@city.example").replace("'2'", "'3'"));
        assert!(matches!(news.as_slice(), [News::Trouble("another thing claimed", _)]), "{news:?}");
    }

    #[test]
    fn a_few_claims_are_under_way_at_once_and_what_is_put_off_comes_later() {
        let town = Town::new(census(30));
        let mut owner = Owner::new(&town, 0);
        during(0, |turn| owner.ready(turn));
        let (said, _) = during(0, |turn| (0..10).for_each(|thing| owner.claim(thing, turn)));
        assert_eq!(said.matches("<mine ").count(), CLAIMS_MAX);
        let refused = |id: u32, kind: &str, condition: &str| {
            format!(
                "<iq type='error' id='{id}' from='things.city.example'><error type='{kind}'>\
                 <{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
            )
        };
        let (said, news) = take(&mut owner, &refused(2, "wait", "resource-constraint"));
        assert_eq!((said.matches("<mine ").count(), news), (1, vec![News::Note("asked to wait")]));
        let (said, news) = take(&mut owner, &refused(3, "cancel", "item-not-found"));
        assert_eq!(said.matches("<mine ").count(), 1);
        assert_eq!(news, [News::Trouble("claim refused", "item-not-found".to_owned())]);
        take(&mut owner, &refused(4, "cancel", "item-not-found"));
        let (said, _) = during(7 + AGAIN_NS, |turn| owner.tick(turn));
        assert_eq!(said.matches("<mine ").count(), 1, "the one that was put off");
    }

    fn question(name: &str, jid: &str, remote: &str, rest: &str) -> String {
        format!(
            "<message from='things.city.example' to='x'>\
             <{name} xmlns='{OWNER}' jid='{jid}' remoteJid='{remote}' key='k1' {rest}</{name}></message>"
        )
    }

    /// What is said once the owner has thought about it.
    fn thought(owner: &mut Owner<'_>) -> String {
        let due_ns = owner.due_ns();
        assert!((7 + THINK_NS_MIN..7 + THINK_NS_MAX).contains(&due_ns));
        during(due_ns, |turn| owner.tick(turn)).0
    }

    #[test]
    fn friends_are_allowed_after_a_while_and_once() {
        let town = town();
        let remote = town.jid(Who::Service(0));
        let (mut owner, jid) = owned(&town, 0);
        owner.is_ready = true;
        let asked = question("isFriend", &jid, &remote, ">");
        assert_eq!(take(&mut owner, &asked), (String::new(), Vec::new()));
        assert_eq!(take(&mut owner, &asked).1, [News::Note("questions again")]);
        let said = thought(&mut owner);
        let rule = format!("<isFriendRule xmlns='{OWNER}' jid='{jid}' remoteJid='{remote}' key='k1' result='true'");
        assert!(said.starts_with(&format!("<iq type='set' id='1' to='things.city.example'>{rule}")), "{said}");
        let (_, news) = take(&mut owner, "<iq type='result' id='1' from='things.city.example'/>");
        assert_eq!(news, [News::Note("questions answered")]);
    }

    #[test]
    fn rules_name_the_node_and_one_origin_and_go_as_far_as_the_seed_says() {
        let town = Town::new(census(60));
        let remote = town.jid(Who::Service(1));
        let (mut partial, mut origins) = (0, HashSet::new());
        for index in 0..town.things.len() as u32 {
            let node = &town.things[index as usize].node;
            let mut nd = Vec::new();
            write_node(&mut nd, &SHORT, node);
            let nd = String::from_utf8(nd).unwrap();
            for (name, rest) in [
                ("canRead", format!("m='true' i='true'>{nd}<f n='Serial'/>")),
                ("canControl", format!(">{nd}<p n='Output'/>")),
            ] {
                let (mut owner, jid) = owned(&town, index);
                owner.is_ready = true;
                assert_eq!(take(&mut owner, &question(name, &jid, &remote, &rest)).1, []);
                let said = thought(&mut owner);
                assert!(said.contains(&format!("result='true'>{nd}")), "{said}");
                if said.contains("<partial") {
                    partial += 1;
                    let whole = match name {
                        "canRead" => "<partial m='true' i='true'><f n='Serial'/></partial>",
                        _ => "<partial><p n='Output'/></partial>",
                    };
                    assert!(said.contains(whole), "{said}");
                }
                let found: Vec<&str> = ["<fromJid/>", "<fromDomain/>", "<all/>"]
                    .into_iter()
                    .filter(|origin| said.contains(origin))
                    .collect();
                assert_eq!(found.len(), 1, "{said}");
                origins.extend(found);
            }
        }
        assert!(partial > 10, "{partial}");
        assert_eq!(origins.len(), 3);
    }

    #[test]
    fn questions_about_others_from_others_or_without_a_key_are_told() {
        let town = town();
        let remote = town.jid(Who::Service(0));
        let (mut owner, jid) = owned(&town, 0);
        let mut told = |text: &str| {
            let (said, news) = take(&mut owner, text);
            assert_eq!(said, "");
            assert!(matches!(news.as_slice(), [News::Trouble(..)]), "{text} {news:?}");
        };
        let asked = question("canRead", &jid, &remote, "m='true'>");
        told(&asked.replace("from='things", "from='other"));
        told(&asked.replace(&jid, "other@city.example"));
        told(&asked.replace(&remote, "nobody@city.example"));
        told(&asked.replace("key='k1'", "key=''"));
        told(&question("canDance", &jid, &remote, ">"));
    }
}
