//! A device: registers its things, learns who owns them, and asks the broker about everybody else.
//!
//! Called by [`super::streets`] with each stanza; performs no I/O and reads no clock. Does what deployed devices do: keeps
//! decisions by the literal text of the question until it is told to forget them, and never asks about its owner.

use std::collections::HashMap;

use plaza_core::date::DateTime;
use plaza_core::iot::Interface;
use plaza_core::thing::{NodeName, TagValue};
use plaza_core::xml::read::Node;
use plaza_core::xml::write;

use super::funnel::{Stage, Timing};
use super::life::Life;
use super::town::{Draw, Kind, Thing, Town, Who};
use super::wire::{
    self, CATEGORIES, CONTROL, Names, News, SECOND_NS, SENSOR, SHORT, Turn, bare, categories, fields, is_interface,
    is_of, is_true, node_of, nodes, values, write_node, write_node_attrs,
};

/// How long a registration that was put off waits.
const AGAIN_NS: u64 = 3 * SECOND_NS;

/// What a device asks.
#[derive(Debug)]
enum Ask {
    /// Registers the thing of that index here.
    Register(usize),
    /// Tells something new of it.
    Update(usize),
    /// Whether somebody may see its presence.
    Friend(String, Vec<u8>),
    /// Whether somebody may do something.
    Decide(Box<Task>, Vec<u8>),
}

/// A request of somebody else that waits for a decision.
#[derive(Debug)]
struct Task {
    from: String,
    id: String,
    thing: usize,
    /// The request, of sensor data or control.
    request: Node,
}

/// One of the device's things.
#[derive(Debug)]
struct Own {
    /// Its number in the city.
    index: u32,
    owner: Option<String>,
    /// A lamp's.
    output: bool,
    read: u64,
}

/// A device.
#[derive(Debug)]
pub(crate) struct Device<'t> {
    town: &'t Town,
    number: u32,
    names: Names,
    things: Vec<Own>,
    life: Life<Ask>,
    /// Decisions by the literal text of the question.
    decisions: HashMap<Vec<u8>, Node>,
    /// Registrations that were put off.
    later: Vec<(u64, usize)>,
}

impl<'t> Device<'t> {
    /// The device of a number.
    pub(crate) fn new(town: &'t Town, number: u32) -> Self {
        let things = town.devices.get(number as usize).map_or(0..0, |device| device.things.clone());
        let own = |index| Own { index, owner: None, output: false, read: 0 };
        Self {
            town,
            number,
            names: town.names(Who::Device(number)),
            things: things.map(own).collect(),
            life: Life::new(),
            decisions: HashMap::new(),
            later: Vec::new(),
        }
    }

    /// The session has begun.
    pub(crate) fn ready(&mut self, turn: &mut Turn<'_>) {
        self.life.begin(self.town, u64::from(self.number), turn);
        for at in 0..self.things.len() {
            if self.things.get(at).is_some_and(|own| own.owner.is_some()) {
                self.update(at, turn);
            } else {
                self.register(at, turn);
            }
        }
    }

    /// The connection is gone.
    pub(crate) fn gone(&mut self) {
        self.life.end();
        self.later.clear();
    }

    /// When there is something to do unasked.
    pub(crate) fn due_ns(&self) -> u64 {
        let later = self.later.iter().map(|(due_ns, _)| *due_ns).min().unwrap_or(u64::MAX);
        self.life.due_ns().min(later)
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, turn: &mut Turn<'_>) {
        for ask in self.life.tick(turn) {
            match ask {
                Ask::Register(_) => turn.trouble("no answer", "to register"),
                Ask::Update(_) => turn.trouble("no answer", "to update"),
                Ask::Friend(jid, _) => {
                    turn.trouble("no answer", "to isFriend");
                    turn.presence("unsubscribed", &jid);
                }
                Ask::Decide(task, _) => {
                    turn.trouble("no answer", format!("to {}", decision(&task.request)));
                    turn.refuse(Some(&task.from), &task.id, "forbidden");
                }
            }
        }
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(due_ns, _)| *due_ns <= turn.now_ns);
        self.later = later;
        let due: Vec<(u64, usize)> = due;
        for (_, at) in due {
            self.register(at, turn);
        }
    }

    /// Takes a stanza.
    pub(crate) fn take(&mut self, stanza: &Node, turn: &mut Turn<'_>) {
        let from = stanza.attr("from").unwrap_or_default();
        let payload = stanza.children.first();
        match (stanza.name.as_str(), stanza.attr("type").unwrap_or_default()) {
            ("iq", "result" | "error") => {
                if let Some((ask, since_ns)) = self.life.answered(stanza, turn) {
                    self.on_answer(ask, stanza, since_ns, turn);
                }
            }
            ("iq", "set") if payload.is_some_and(|node| is_of(node, Interface::Discovery)) => {
                self.on_registry(stanza, payload, turn);
            }
            ("iq", "set") if payload.is_some_and(|node| is_of(node, Interface::Device)) => {
                if from != self.town.registry || payload.is_none_or(|node| node.name != "clearCache") {
                    turn.trouble("out of place", format!("from {from} to a device"));
                    turn.refuse(Some(from), stanza.attr("id").unwrap_or_default(), "forbidden");
                    return;
                }
                self.decisions.clear();
                turn.tell(News::Note("decisions forgotten"));
                turn.result(stanza, b"");
            }
            ("iq", kind @ ("get" | "set")) => match payload {
                Some(node) if kind == "get" && node.name == "req" && is_interface(&node.ns, SENSOR) => {
                    self.on_request(stanza, node, turn);
                }
                Some(node) if kind == "set" && node.name == "set" && is_interface(&node.ns, CONTROL) => {
                    self.on_request(stanza, node, turn);
                }
                Some(_) | None => wire::bystander(stanza, turn),
            },
            ("presence", "subscribe") => self.on_subscribe(bare(from), turn),
            ("presence", _) => {}
            ("message", _) => self.on_message(stanza, turn),
            (name, kind) => turn.trouble("out of place", format!("<{name} type='{kind}'/> from {from}")),
        }
    }

    fn thing(&self, at: usize) -> Option<&'t Thing> {
        self.town.things.get(self.things.get(at)?.index as usize)
    }

    /// Which of its things has a name.
    fn named(&self, node: &NodeName) -> Option<usize> {
        (0..self.things.len()).find(|&at| self.thing(at).is_some_and(|thing| thing.node == *node))
    }

    fn register(&mut self, at: usize, turn: &mut Turn<'_>) {
        let Some(thing) = self.thing(at) else { return };
        let mut payload = Vec::new();
        payload.extend_from_slice(b"<register");
        write::attr(&mut payload, "xmlns", self.names.disco);
        write_node_attrs(&mut payload, self.names.spelling, &thing.node);
        payload.push(b'>');
        write_tags(&mut payload, thing);
        payload.extend_from_slice(b"</register>");
        let registry = &self.town.registry;
        self.life.ask(turn, "set", registry, &payload, turn.now_ns, Ask::Register(at));
    }

    /// Tells how often it was read, as something new.
    fn update(&mut self, at: usize, turn: &mut Turn<'_>) {
        let (Some(thing), Some(own)) = (self.thing(at), self.things.get(at)) else { return };
        let mut payload = Vec::new();
        payload.extend_from_slice(b"<update");
        write::attr(&mut payload, "xmlns", self.names.disco);
        write_node_attrs(&mut payload, self.names.spelling, &thing.node);
        payload.extend_from_slice(format!("><num name='READ' value='{}'/></update>", own.read).as_bytes());
        let registry = &self.town.registry;
        self.life.ask(turn, "set", registry, &payload, turn.now_ns, Ask::Update(at));
    }

    fn on_answer(&mut self, ask: Ask, stanza: &Node, since_ns: u64, turn: &mut Turn<'_>) {
        let took_ns = turn.now_ns.saturating_sub(since_ns);
        let failed = stanza.attr("type") == Some("error");
        let (condition, is_wait) = wire::condition(stanza);
        let disco = stanza.children.iter().find(|node| is_of(node, Interface::Discovery));
        if disco.is_some_and(|node| node.ns != self.names.disco) {
            turn.trouble("another generation", "than that of the request, from the registry");
        }
        match ask {
            Ask::Register(at) if failed && is_wait => {
                turn.tell(News::Note("asked to wait"));
                self.later.push((turn.now_ns + AGAIN_NS, at));
            }
            Ask::Register(_) if failed => turn.trouble("registration refused", condition),
            Ask::Register(at) => {
                let Some(index) = self.things.get(at).map(|own| own.index) else { return };
                turn.tell(News::Reached(Stage::Registered, index, 0));
                turn.tell(News::Took(Timing::Register, took_ns));
                match disco.filter(|node| node.name == "claimed") {
                    Some(claimed) => self.on_claimed(at, claimed, turn),
                    None => turn.tell(News::Registered(index)),
                }
            }
            // Only what is to be found is updated; the registry then says who has it.
            Ask::Update(at) if failed && condition == "item-not-found" => self.register(at, turn),
            Ask::Update(_) if failed => turn.trouble("update refused", condition),
            Ask::Update(_) if disco.is_some_and(|node| node.name == "disowned") => {
                turn.trouble("disowned", "says the registry of a thing that has an owner");
            }
            Ask::Update(_) => {}
            Ask::Friend(jid, payload) => {
                let Some(answer) = self.decision(stanza, &jid, "isFriendResponse", turn) else {
                    turn.presence("unsubscribed", &jid);
                    return;
                };
                turn.tell(News::Took(Timing::Decision, took_ns));
                befriend(&jid, &answer, turn);
                self.decisions.insert(payload, answer);
            }
            Ask::Decide(task, payload) => {
                let name = format!("{}Response", decision(&task.request));
                let Some(answer) = self.decision(stanza, bare(&task.from), &name, turn) else {
                    turn.refuse(Some(&task.from), &task.id, "forbidden");
                    return;
                };
                turn.tell(News::Took(Timing::Decision, took_ns));
                self.perform(&task, Some(&answer), turn);
                self.decisions.insert(payload, answer);
            }
        }
    }

    /// The decision in an answer, if it is one about whom was asked.
    fn decision(&self, stanza: &Node, jid: &str, name: &str, turn: &mut Turn<'_>) -> Option<Node> {
        let answer = stanza.child(name, self.names.device).filter(|answer| answer.attr("jid") == Some(jid));
        if answer.is_none() {
            let what = match stanza.attr("type") {
                Some("error") => wire::condition(stanza).0,
                _ => format!("no {name} about {jid}"),
            };
            turn.trouble("no decision", what);
        }
        answer.cloned()
    }

    /// Takes what the registry says unasked.
    fn on_registry(&mut self, stanza: &Node, payload: Option<&Node>, turn: &mut Turn<'_>) {
        let id = stanza.attr("id").unwrap_or_default();
        let from = stanza.attr("from");
        let Some(payload) = payload.filter(|_| from == Some(&self.town.registry)) else {
            turn.trouble("out of place", format!("{} says what the registry says", from.unwrap_or("nobody")));
            return turn.refuse(from, id, "forbidden");
        };
        let Some(at) = self.named(&node_of(payload)) else {
            turn.trouble("unknown node", format!("{} of {:?}", payload.name, node_of(payload)));
            return turn.refuse(from, id, "item-not-found");
        };
        match payload.name.as_str() {
            "claimed" => self.on_claimed(at, payload, turn),
            "removed" => turn.tell(News::Note("removed from the registry")),
            "disowned" => {
                if let Some(own) = self.things.get_mut(at) {
                    own.owner = None;
                }
                turn.tell(News::Note("disowned"));
                turn.result(stanza, b"");
                return self.register(at, turn);
            }
            name => {
                turn.trouble("out of place", format!("<{name}/> from the registry"));
                return turn.refuse(from, id, "feature-not-implemented");
            }
        }
        turn.result(stanza, b"");
    }

    fn on_claimed(&mut self, at: usize, claimed: &Node, turn: &mut Turn<'_>) {
        let thing = self.thing(at);
        let (Some(own), Some(owner)) = (self.things.get_mut(at), claimed.attr("jid")) else {
            return turn.trouble("claimed by nobody", "says the registry");
        };
        if thing.is_some_and(|thing| claimed.attr("public").is_some() && is_true(claimed, "public") != thing.public) {
            turn.trouble("not as claimed", "public to one and not to the other");
        }
        own.owner = Some(owner.to_owned());
        turn.tell(News::Told(own.index, owner.to_owned()));
    }

    /// Takes a request of somebody: to read, or to control.
    fn on_request(&mut self, stanza: &Node, request: &Node, turn: &mut Turn<'_>) {
        let from = stanza.attr("from").unwrap_or_default();
        let id = stanza.attr("id").unwrap_or_default();
        let node = nodes(request).next().unwrap_or_default();
        let Some(at) = self.named(&node) else {
            return turn.refuse(Some(from), id, "item-not-found");
        };
        let task = Task { from: from.to_owned(), id: id.to_owned(), thing: at, request: request.clone() };
        let who = bare(from);
        if self.things.get(at).is_some_and(|own| own.owner.as_deref() == Some(who)) {
            return self.perform(&task, None, turn);
        }
        let payload = self.question(who, request, &node);
        if let Some(answer) = self.decisions.get(&payload).cloned() {
            return self.perform(&task, Some(&answer), turn);
        }
        let ask = Ask::Decide(Box::new(task), payload.clone());
        self.life.ask(turn, "get", &self.town.registry, &payload, turn.now_ns, ask);
    }

    /// The question about a request.
    fn question(&self, who: &str, request: &Node, node: &NodeName) -> Vec<u8> {
        let name = decision(request);
        let mut payload = format!("<{name}").into_bytes();
        write::attr(&mut payload, "xmlns", self.names.device);
        write::attr(&mut payload, "jid", who);
        if name == "canRead" {
            let asked = categories(request);
            for (category, name) in CATEGORIES.into_iter().zip(self.names.spelling.categories) {
                if asked.contains(&category) {
                    write::attr(&mut payload, name, "true");
                }
            }
        }
        payload.push(b'>');
        write_node(&mut payload, self.names.spelling, node);
        if name == "canRead" {
            for field in fields(request) {
                let (element, attr) = self.names.spelling.field;
                payload.extend_from_slice(format!("<{element}").as_bytes());
                write::attr(&mut payload, attr, field);
                payload.extend_from_slice(b"/>");
            }
        } else {
            for parameter in parameters(request) {
                let (element, attr) = self.names.parameter;
                payload.extend_from_slice(format!("<{element}").as_bytes());
                write::attr(&mut payload, attr, parameter);
                payload.extend_from_slice(b"/>");
            }
        }
        payload.extend_from_slice(format!("</{name}>").as_bytes());
        payload
    }

    /// Does what was asked, as far as the decision goes; `None`: it is the owner who asks.
    fn perform(&mut self, task: &Task, decision: Option<&Node>, turn: &mut Turn<'_>) {
        let Some(thing) = self.thing(task.thing) else { return };
        let is_named = |answer: &Node| thing.node.is_device() || nodes(answer).any(|node| node == thing.node);
        if decision.is_some_and(|answer| !is_true(answer, "result")) {
            return turn.refuse(Some(&task.from), &task.id, "forbidden");
        }
        if decision.is_some_and(|answer| !is_named(answer)) {
            turn.trouble("half a decision", "the node is allowed and not named");
            return turn.refuse(Some(&task.from), &task.id, "forbidden");
        }
        if task.request.name == "req" {
            self.read(task, thing, decision, turn);
        } else {
            self.control(task, thing, decision, turn);
        }
    }

    fn read(&mut self, task: &Task, thing: &Thing, decision: Option<&Node>, turn: &mut Turn<'_>) {
        let allowed = decision.map(|answer| (categories(answer), fields(answer)));
        let asked = fields(&task.request);
        let wanted: Vec<&str> = categories(&task.request)
            .into_iter()
            .filter(|category| allowed.as_ref().is_none_or(|(categories, _)| categories.contains(category)))
            .collect();
        if wanted.is_empty() {
            turn.trouble("half a decision", "allowed to read, and no category named");
            return turn.refuse(Some(&task.from), &task.id, "forbidden");
        }
        let goes = |field: &str| {
            (asked.is_empty() || asked.contains(&field))
                && allowed.as_ref().is_none_or(|(_, fields)| fields.is_empty() || fields.contains(&field))
        };
        let Some(own) = self.things.get_mut(task.thing) else { return };
        own.read += 1;
        let value = self.town.draw(Draw::Value, u64::from(own.index) << 32 | own.read) % 400;
        let number = |name: &str, unit: &str| {
            let (whole, tenth) = (value / 10, value % 10);
            format!("<q n='{name}' v='{whole}.{tenth}' u='{unit}' m='true' ar='true'/>")
        };
        let (name, unit) = thing.kind.field();
        let main = match thing.kind {
            Kind::Meter | Kind::Sensor => number(name, unit),
            Kind::Lamp => format!("<b n='{name}' v='{}' m='true' ctr='true' ar='true'/>", own.output),
            Kind::Concentrator => format!("<i n='{name}' v='{}' m='true' ar='true'/>", self.town.census.nodes),
        };
        let mut payload = Vec::new();
        payload.extend_from_slice(b"<resp");
        write::attr(&mut payload, "xmlns", &task.request.ns);
        write::attr(&mut payload, "id", task.request.attr("id").unwrap_or_default());
        payload.push(b'>');
        if !thing.node.is_device() {
            payload.extend_from_slice(b"<nd");
            write_node_attrs(&mut payload, &SHORT, &thing.node);
            payload.push(b'>');
        }
        payload.extend_from_slice(format!("<ts v='{}'>", DateTime::from_unix_millis(turn.unix_ms)).as_bytes());
        if wanted.contains(&"m") {
            if goes(name) {
                payload.extend_from_slice(main.as_bytes());
            }
            let (second, unit) = if thing.kind == Kind::Meter { ("Power", "W") } else { ("Humidity", "%") };
            if matches!(thing.kind, Kind::Meter | Kind::Sensor) && goes(second) {
                payload.extend_from_slice(number(second, unit).as_bytes());
            }
        }
        if wanted.contains(&"i") && goes("Serial") {
            payload.extend_from_slice(b"<s n='Serial'");
            write::attr(&mut payload, "v", thing.tag("SN").unwrap_or_default());
            payload.extend_from_slice(b" i='true' ar='true'/>");
        }
        payload.extend_from_slice(b"</ts>");
        if !thing.node.is_device() {
            payload.extend_from_slice(b"</nd>");
        }
        payload.extend_from_slice(b"</resp>");
        turn.reply(Some(&task.from), &task.id, "result", &payload);
    }

    fn control(&mut self, task: &Task, thing: &Thing, decision: Option<&Node>, turn: &mut Turn<'_>) {
        let named = parameters(&task.request);
        if named.is_empty() || named.iter().any(|name| Some(*name) != thing.kind.parameter()) {
            return turn.refuse(Some(&task.from), &task.id, "item-not-found");
        }
        if let Some(answer) = decision {
            let mut allowed = values(answer, "parameter", "name");
            allowed.extend(values(answer, "p", "n"));
            if !allowed.is_empty() && named.iter().any(|name| !allowed.contains(name)) {
                return turn.refuse(Some(&task.from), &task.id, "forbidden");
            }
        }
        let values = task.request.children.iter().filter(|child| child.name == "b");
        let Some(own) = self.things.get_mut(task.thing) else { return };
        for value in values {
            own.output = is_true(value, "v");
        }
        let mut payload = Vec::new();
        payload.extend_from_slice(b"<resp");
        write::attr(&mut payload, "xmlns", &task.request.ns);
        payload.extend_from_slice(b"/>");
        turn.reply(Some(&task.from), &task.id, "result", &payload);
    }

    /// Somebody wants to see its presence.
    fn on_subscribe(&mut self, who: &str, turn: &mut Turn<'_>) {
        if self.things.first().is_some_and(|own| own.owner.as_deref() == Some(who)) {
            return turn.presence("subscribed", who);
        }
        let mut payload = Vec::new();
        payload.extend_from_slice(b"<isFriend");
        write::attr(&mut payload, "xmlns", self.names.device);
        write::attr(&mut payload, "jid", who);
        payload.extend_from_slice(b"/>");
        match self.decisions.get(&payload) {
            Some(answer) => befriend(who, answer, turn),
            None => {
                let ask = Ask::Friend(who.to_owned(), payload.clone());
                self.life.ask(turn, "get", &self.town.registry, &payload, turn.now_ns, ask);
            }
        }
    }

    /// Takes what decision support recommends.
    fn on_message(&mut self, stanza: &Node, turn: &mut Turn<'_>) {
        let from = stanza.attr("from").unwrap_or_default();
        let advice = stanza.children.iter().find(|node| is_of(node, Interface::Device));
        let jid = advice.and_then(|advice| advice.attr("jid"));
        match (advice.map(|advice| advice.name.as_str()), jid) {
            (Some("friend"), Some(jid)) if from == self.town.registry => {
                turn.tell(News::Note("friends recommended"));
                turn.presence("subscribe", bare(jid));
            }
            (Some("unfriend"), Some(jid)) if from == self.town.registry => {
                turn.tell(News::Note("friends given up"));
                turn.presence("unsubscribe", bare(jid));
                turn.presence("unsubscribed", bare(jid));
            }
            (name, _) => turn.trouble("out of place", format!("a message of {name:?} from {from} to a device")),
        }
    }
}

/// Answers a wish to see one's presence.
fn befriend(who: &str, decision: &Node, turn: &mut Turn<'_>) {
    turn.presence(if is_true(decision, "result") { "subscribed" } else { "unsubscribed" }, who);
}

/// The name of the question about a request.
fn decision(request: &Node) -> &'static str {
    if request.name == "req" { "canRead" } else { "canControl" }
}

/// The parameters that a control request names.
fn parameters(request: &Node) -> Vec<&str> {
    request.children.iter().filter(|child| child.name != "nd").filter_map(|child| child.attr("n")).collect()
}

/// Appends all that is told of a thing.
pub(crate) fn write_tags(out: &mut Vec<u8>, thing: &Thing) {
    for tag in &thing.tags {
        let (element, value) = match &tag.value {
            TagValue::Str(value) => ("str", value.to_string()),
            TagValue::Num(value) => ("num", value.to_string()),
        };
        out.extend_from_slice(format!("<{element}").as_bytes());
        write::attr(out, "name", &tag.name);
        write::attr(out, "value", &value);
        out.extend_from_slice(b"/>");
    }
}

/// The bare JID of a device.
pub(crate) fn jid(town: &Town, thing: &Thing) -> String {
    town.jid(Who::Device(thing.device))
}

#[cfg(test)]
mod tests {
    use super::super::town::tests::census;
    use super::super::wire::tests::{during, stanza};
    use super::*;

    /// A city of devices; the eleventh is a concentrator.
    fn town() -> Town {
        Town::new(census(11))
    }

    fn take(device: &mut Device<'_>, text: &str) -> (String, Vec<News>) {
        during(7, |turn| device.take(&stanza(text), turn))
    }

    /// The number of the last request in what was said.
    fn id(said: &str) -> &str {
        said.rsplit_once(" id='").unwrap().1.split_once('\'').unwrap().0
    }

    const DISCO: &str = "urn:nf:iot:disco:1.0";
    const DEVICE: &str = "urn:nf:iot:prov:d:1.0";

    #[test]
    fn a_device_registers_and_learns_who_owns_it() {
        let town = town();
        let mut device = Device::new(&town, 0);
        let (said, _) = during(0, |turn| device.ready(turn));
        assert!(said.contains("<query xmlns='jabber:iq:roster'/>") && said.contains("<presence/>"), "{said}");
        let register = "<iq type='set' id='2' to='things.city.example'><register xmlns='urn:nf:iot:disco:1.0'>\
                        <str name='MAN' value='maker0.example'/>";
        assert!(said.contains(register), "{said}");
        assert!(said.contains("<num name='V' value='1") && said.contains("<str name='KEY' value='"), "{said}");
        let (_, news) = take(&mut device, "<iq type='result' id='2' from='things.city.example'/>");
        assert!(
            news.contains(&News::Reached(Stage::Registered, 0, 0)) && news.contains(&News::Registered(0)),
            "{news:?}"
        );

        let public = town.things[0].public;
        let claimed = format!("<claimed xmlns='{DISCO}' jid='owner@city.example' public='{public}'/>");
        let notice = |from: &str| format!("<iq type='set' id='c1' from='{from}' to='x'>{claimed}</iq>");
        let (said, news) = take(&mut device, &notice("evil@city.example"));
        assert!(said.contains("<forbidden ") && matches!(news.as_slice(), [News::Trouble(..)]), "{said} {news:?}");
        let (said, news) = take(&mut device, &notice("things.city.example"));
        assert_eq!(said, "<iq type='result' id='c1' to='things.city.example'></iq>");
        assert_eq!(news, [News::Told(0, "owner@city.example".to_owned())]);

        // It comes back, and tells news; what is not to be found is registered again, and has an owner still.
        device.gone();
        let (said, _) = during(9, |turn| device.ready(turn));
        assert!(said.contains("<update xmlns='urn:nf:iot:disco:1.0'><num name='READ' value='0'/></update>"), "{said}");
        let gone = "<error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>";
        let gone = format!("<iq type='error' id='{}' from='things.city.example'>{gone}</iq>", id(&said));
        let (said, _) = take(&mut device, &gone);
        assert!(said.contains("<register "), "{said}");
        let answer = format!("<iq type='result' id='{}' from='things.city.example'>{claimed}</iq>", id(&said));
        let (_, news) = take(&mut device, &answer);
        assert!(news.contains(&News::Told(0, "owner@city.example".to_owned())), "{news:?}");
        assert!(!news.contains(&News::Registered(0)), "{news:?}");
    }

    #[test]
    fn a_registration_that_is_put_off_is_made_later_and_one_refused_is_told() {
        let town = town();
        let mut device = Device::new(&town, 0);
        during(0, |turn| device.ready(turn));
        let refused = |id: &str, kind: &str| {
            format!(
                "<iq type='error' id='{id}' from='things.city.example'><error type='{kind}'>\
                 <resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
            )
        };
        let (_, news) = take(&mut device, &refused("2", "wait"));
        assert_eq!(news, [News::Note("asked to wait")]);
        let (said, _) = during(7 + AGAIN_NS, |turn| device.tick(turn));
        assert!(said.contains("<register "), "{said}");
        let at = said.split_once("<register").unwrap().0;
        let (_, news) = take(&mut device, &refused(id(at), "cancel"));
        assert_eq!(news, [News::Trouble("registration refused", "resource-constraint".to_owned())]);
    }

    #[test]
    fn the_nodes_of_a_concentrator_are_things_of_their_own() {
        let town = town();
        let mut device = Device::new(&town, 10);
        let (said, _) = during(0, |turn| device.ready(turn));
        assert_eq!(said.matches("<register ").count(), 5);
        assert!(said.contains("<register xmlns='urn:nf:iot:disco:1.0' id='node 0' src='MeteringTopology'>"), "{said}");
        assert!(said.contains("id='node 1' src='MeteringTopology' pt='east &amp; west'>"), "{said}");
        let notice = |node: &str| {
            format!(
                "<iq type='set' id='c1' from='things.city.example'>\
                 <claimed xmlns='{DISCO}' jid='owner@city.example' id='{node}' src='MeteringTopology'/></iq>"
            )
        };
        let (_, news) = take(&mut device, &notice("node 0"));
        assert_eq!(news, [News::Told(11, "owner@city.example".to_owned())]);
        let (said, _) = take(&mut device, &notice("node 7"));
        assert!(said.contains("item-not-found"), "{said}");
    }

    #[test]
    fn a_stranger_is_asked_about_and_the_answer_kept_until_it_is_to_be_forgotten() {
        let town = town();
        let mut device = Device::new(&town, 0);
        let subscribe = "<presence type='subscribe' from='service@city.example'/>";
        let (said, _) = take(&mut device, subscribe);
        let question = format!("<isFriend xmlns='{DEVICE}' jid='service@city.example'/>");
        assert_eq!(said, format!("<iq type='get' id='1' to='things.city.example'>{question}</iq>"));
        let answer = |id: &str, result: bool| {
            format!(
                "<iq type='result' id='{id}' from='things.city.example'>\
                 <isFriendResponse xmlns='{DEVICE}' jid='service@city.example' result='{result}'/></iq>"
            )
        };
        let declined = "<presence type='unsubscribed' to='service@city.example'/>";
        assert_eq!(take(&mut device, &answer("1", false)).0, declined);
        assert_eq!(take(&mut device, subscribe).0, declined, "the answer is kept");
        let forget = format!("<iq type='set' id='f' from='things.city.example'><clearCache xmlns='{DEVICE}'/></iq>");
        assert_eq!(take(&mut device, &forget).0, "<iq type='result' id='f' to='things.city.example'></iq>");
        let friend = format!(
            "<message from='things.city.example' to='x'><friend xmlns='{DEVICE}' jid='service@city.example'/></message>"
        );
        assert_eq!(take(&mut device, &friend).0, "<presence type='subscribe' to='service@city.example'/>");
        assert!(take(&mut device, subscribe).0.contains(&question));
        assert_eq!(take(&mut device, &answer("2", true)).0, "<presence type='subscribed' to='service@city.example'/>");

        // An answer about another is none.
        let (said, _) = take(&mut device, "<presence type='subscribe' from='other@city.example'/>");
        let (said, news) = take(&mut device, &answer(id(said.split_once(" to=").unwrap().0), true));
        assert_eq!(said, "<presence type='unsubscribed' to='other@city.example'/>");
        assert!(matches!(news.as_slice(), [News::Trouble("no decision", _)]), "{news:?}");
    }

    fn sensor(town: &Town) -> u32 {
        town.things.iter().find(|thing| thing.kind == Kind::Sensor && thing.node.is_device()).unwrap().device
    }

    fn request(node: &str) -> String {
        format!(
            "<iq type='get' id='q1' from='service@city.example/a'>\
             <req xmlns='urn:nf:iot:sd:1.0' id='r1' m='true' i='true'>{node}</req></iq>"
        )
    }

    #[test]
    fn reading_is_asked_about_and_answered_as_far_as_it_is_allowed() {
        let town = town();
        let mut device = Device::new(&town, sensor(&town));
        let (said, _) = take(&mut device, &request(""));
        assert_eq!(
            said,
            format!(
                "<iq type='get' id='1' to='things.city.example'>\
                 <canRead xmlns='{DEVICE}' jid='service@city.example' m='true' i='true'></canRead></iq>"
            )
        );
        let answer = |id: &str, attrs: &str| {
            format!(
                "<iq type='result' id='{id}' from='things.city.example'>\
                 <canReadResponse xmlns='{DEVICE}' jid='service@city.example' {attrs}/></iq>"
            )
        };
        let (said, _) = take(&mut device, &answer("1", "result='false'"));
        assert!(said.starts_with("<iq type='error' id='q1' to='service@city.example/a'>"), "{said}");
        assert!(said.contains("<error type='cancel'><forbidden "), "{said}");
        device.decisions.clear();
        take(&mut device, &request(""));
        let (said, _) = take(&mut device, &answer("2", "result='true' m='true'"));
        let head = "<iq type='result' id='q1' to='service@city.example/a'><resp xmlns='urn:nf:iot:sd:1.0' id='r1'>\
                    <ts v='2026-01-02T03:04:05.000Z'><q n='Temperature' v='";
        assert!(said.starts_with(head), "{said}");
        assert!(!said.contains("Serial"), "that was not allowed: {said}");
        device.decisions.clear();
        take(&mut device, &request(""));
        let (said, news) = take(&mut device, &answer("3", "result='true'"));
        assert!(said.contains("<forbidden "), "{said}");
        assert!(news.iter().any(|news| matches!(news, News::Trouble("half a decision", _))), "{news:?}");
    }

    #[test]
    fn owners_need_not_be_asked_about() {
        let town = town();
        let mut device = Device::new(&town, sensor(&town));
        device.things[0].owner = Some("service@city.example".to_owned());
        let (said, _) = take(&mut device, &request("<f n='Serial'/>"));
        let serial = town.things[device.things[0].index as usize].tag("SN").unwrap();
        assert!(said.contains(&format!("<s n='Serial' v='{serial}' i='true' ar='true'/></ts></resp>")), "{said}");
        assert!(!said.contains("Temperature"), "it was not asked for: {said}");
        let (said, _) = take(&mut device, "<presence type='subscribe' from='service@city.example'/>");
        assert_eq!(said, "<presence type='subscribed' to='service@city.example'/>");
    }

    #[test]
    fn a_node_is_read_only_if_the_decision_names_it() {
        let town = town();
        let mut device = Device::new(&town, 10);
        let node = "<nd id='node 1' src='MeteringTopology' pt='east &amp; west'/>";
        let (said, _) = take(&mut device, &request(node));
        assert!(said.contains(&format!("i='true'>{node}</canRead>")), "{said}");
        let answer = |id: &str, inside: &str| {
            format!(
                "<iq type='result' id='{id}' from='things.city.example'>\
                 <canReadResponse xmlns='{DEVICE}' jid='service@city.example' result='true' m='true' i='true'>\
                 {inside}</canReadResponse></iq>"
            )
        };
        let (said, _) = take(&mut device, &answer("1", node));
        assert!(said.contains("><nd id='node 1' src='MeteringTopology' pt='east &amp; west'><ts v="), "{said}");
        device.decisions.clear();
        take(&mut device, &request(node));
        assert!(take(&mut device, &answer("2", "")).0.contains("<forbidden "));
        assert!(take(&mut device, &request("<nd id='node 9'/>")).0.contains("item-not-found"));
    }

    #[test]
    fn a_lamp_is_switched_by_who_may() {
        let town = town();
        let lamp = town.things.iter().find(|thing| thing.kind == Kind::Lamp && thing.node.is_device()).unwrap();
        let mut device = Device::new(&town, lamp.device);
        let set = |name: &str| {
            format!(
                "<iq type='set' id='s1' from='service@city.example/a'>\
                 <set xmlns='urn:nf:iot:ctr:1.0'><b n='{name}' v='true'/></set></iq>"
            )
        };
        let (said, _) = take(&mut device, &set("Output"));
        let question = "<parameter name='Output'/></canControl>";
        assert!(said.contains("<canControl ") && said.contains(question), "{said}");
        let answer = |id: &str, inside: &str| {
            format!(
                "<iq type='result' id='{id}' from='things.city.example'>\
                 <canControlResponse xmlns='{DEVICE}' jid='service@city.example' result='true'>{inside}\
                 </canControlResponse></iq>"
            )
        };
        assert!(take(&mut device, &answer("1", "<parameter name='Other'/>")).0.contains("<forbidden "));
        assert!(!device.things[0].output);
        for allowed in ["<parameter name='Output'/>", "<p n='Output'/>", ""] {
            device.decisions.clear();
            device.things[0].output = false;
            let (said, _) = take(&mut device, &set("Output"));
            let (said, _) = take(&mut device, &answer(id(said.split_once(" to=").unwrap().0), allowed));
            assert!(said.ends_with("<resp xmlns='urn:nf:iot:ctr:1.0'/></iq>"), "{said}");
            assert!(device.things[0].output);
        }
        device.decisions.clear();
        let (said, _) = take(&mut device, &set("Colour"));
        let (said, _) = take(&mut device, &answer(id(said.split_once(" to=").unwrap().0), ""));
        assert!(said.contains("item-not-found"), "{said}");
    }

    #[test]
    fn what_is_not_answered_in_time_is_told_and_refused() {
        let town = town();
        let mut device = Device::new(&town, 0);
        take(&mut device, "<presence type='subscribe' from='service@city.example'/>");
        take(&mut device, &request(""));
        let due_ns = device.due_ns();
        assert_eq!(due_ns, 7 + wire::REQUEST_NS_MAX);
        let (said, news) = during(due_ns, |turn| device.tick(turn));
        assert!(said.contains("unsubscribed") && said.contains("<forbidden "), "{said}");
        assert_eq!(news.len(), 2, "{news:?}");
    }
}
