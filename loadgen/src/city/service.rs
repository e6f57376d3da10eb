//! A service: finds things, asks to be a friend of devices, reads their things on schedule, and controls those that can be.
//!
//! Called by [`super::streets`] with each stanza; performs no I/O and reads no clock. Who is refused at first asks again
//! later: nobody tells it that an owner has decided.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use plaza_core::xml::read::Node;
use plaza_core::xml::write;

use super::device;
use super::funnel::{Stage, Timing};
use super::life::Life;
use super::town::{Kind, Thing, Town, Who};
use super::wire::{self, Names, News, SECOND_NS, SHORT, Turn, bare, node_of, write_node};

/// How long somebody who was refused waits at first; then longer each time.
const AGAIN_NS_MIN: u64 = 2 * SECOND_NS;
/// And at most.
const AGAIN_NS_MAX: u64 = 8 * SECOND_NS;
/// How often a thing that is public is looked for.
const SEARCHES_MAX: u32 = 20;
/// So many read-outs for each control request.
const READS_PER_CONTROL: u64 = 3;

#[derive(Debug)]
enum Ask {
    Search(u32),
    Read(u32, String),
    Control(u32),
}

/// What is to be done at a time. A number tells which of a device's visits it was planned for: what was planned for a former
/// one is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Todo {
    Subscribe(u32),
    Search(u32),
    Read(u32, u32),
    Control(u32, u32),
}

/// A device as the service knows it.
#[derive(Debug, Default)]
struct Contact {
    /// Its full JID, while it is there.
    full: Option<String>,
    /// It said that its presence may be seen.
    friend: bool,
    declined: u32,
    /// How often it came.
    visits: u32,
    /// It went away, and was not read since.
    away: bool,
}

/// A thing as the service knows it.
#[derive(Debug, Default)]
struct Target {
    searches: u32,
    reads: u64,
    denied: u32,
    controls: u64,
    control_denied: u32,
    control_planned: bool,
}

/// A service.
#[derive(Debug)]
pub(crate) struct Service<'t> {
    town: &'t Town,
    number: u32,
    names: Names,
    life: Life<Ask>,
    is_ready: bool,
    contacts: BTreeMap<u32, Contact>,
    targets: BTreeMap<u32, Target>,
    todo: BinaryHeap<Reverse<(u64, Todo)>>,
    read_ids: u64,
}

impl<'t> Service<'t> {
    /// The service of a number.
    pub(crate) fn new(town: &'t Town, number: u32) -> Self {
        Self {
            town,
            number,
            names: town.names(Who::Service(number)),
            life: Life::new(),
            is_ready: false,
            contacts: BTreeMap::new(),
            targets: BTreeMap::new(),
            todo: BinaryHeap::new(),
            read_ids: 0,
        }
    }

    /// The session has begun.
    pub(crate) fn ready(&mut self, turn: &mut Turn<'_>) {
        self.is_ready = true;
        let account = self.town.account(Who::Service(self.number));
        self.life.begin(self.town, u64::from(account), turn);
    }

    /// The connection is gone.
    pub(crate) fn gone(&mut self) {
        self.is_ready = false;
        self.life.end();
        for contact in self.contacts.values_mut() {
            contact.full = None;
        }
    }

    /// A thing has an owner, and can be asked.
    pub(crate) fn welcome(&mut self, index: u32, turn: &mut Turn<'_>) {
        let Some(thing) = self.town.things.get(index as usize) else { return };
        self.targets.entry(index).or_default();
        if thing.public {
            self.plan(turn.now_ns, Todo::Search(index));
        }
        let contact = self.contacts.entry(thing.device).or_default();
        let visit = contact.visits;
        if contact.full.is_some() {
            self.plan(turn.now_ns, Todo::Read(index, visit));
        } else if thing.node.is_device() {
            self.plan(turn.now_ns, Todo::Subscribe(thing.device));
        }
    }

    fn plan(&mut self, due_ns: u64, todo: Todo) {
        self.todo.push(Reverse((due_ns, todo)));
    }

    /// When there is something to do unasked.
    pub(crate) fn due_ns(&self) -> u64 {
        let todo = self.todo.peek().map(|Reverse((due_ns, _))| *due_ns);
        let todo = todo.filter(|_| self.is_ready).unwrap_or(u64::MAX);
        self.life.due_ns().min(todo)
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, turn: &mut Turn<'_>) {
        for ask in self.life.tick(turn) {
            match ask {
                Ask::Search(_) => turn.trouble("no answer", "to search"),
                Ask::Read(index, _) => self.missed(index, "read-out", turn),
                Ask::Control(index) => self.missed(index, "control", turn),
            }
        }
        while self.is_ready {
            let due = self.todo.peek().filter(|Reverse((due_ns, _))| *due_ns <= turn.now_ns).copied();
            let Some(Reverse((due_ns, todo))) = due else { return };
            self.todo.pop();
            self.act(due_ns, todo, turn);
        }
    }

    fn act(&mut self, due_ns: u64, todo: Todo, turn: &mut Turn<'_>) {
        match todo {
            Todo::Subscribe(device) => {
                if self.contacts.get(&device).is_some_and(|contact| !contact.friend) {
                    turn.presence("subscribe", &self.town.jid(Who::Device(device)));
                }
            }
            Todo::Search(index) => self.search(index, turn),
            Todo::Read(index, visit) => {
                let Some((thing, full)) = self.present(index, visit) else { return };
                self.read_ids += 1;
                let id = self.read_ids.to_string();
                let mut payload = Vec::new();
                payload.extend_from_slice(b"<req");
                write::attr(&mut payload, "xmlns", &self.names.sensor);
                payload.extend_from_slice(format!(" id='{id}' m='true' i='true'>").as_bytes());
                write_node(&mut payload, &SHORT, &thing.node);
                if index.is_multiple_of(3) {
                    let field = thing.kind.field().0;
                    payload.extend_from_slice(format!("<f n='{field}'/><f n='Serial'/>").as_bytes());
                }
                payload.extend_from_slice(b"</req>");
                self.life.ask(turn, "get", &full, &payload, due_ns, Ask::Read(index, id));
                if self.targets.get(&index).is_some_and(|target| target.reads > 0) {
                    self.plan(due_ns + self.town.census.interval_ns, todo);
                }
            }
            Todo::Control(index, visit) => {
                let Some((thing, full)) = self.present(index, visit) else { return };
                let (Some(parameter), Some(target)) = (thing.kind.parameter(), self.targets.get(&index)) else {
                    return;
                };
                let (value, again) = (target.controls.is_multiple_of(2), target.controls > 0);
                let mut payload = Vec::new();
                payload.extend_from_slice(b"<set");
                write::attr(&mut payload, "xmlns", &self.names.control);
                payload.push(b'>');
                write_node(&mut payload, &SHORT, &thing.node);
                payload.extend_from_slice(format!("<b n='{parameter}' v='{value}'/></set>").as_bytes());
                self.life.ask(turn, "set", &full, &payload, due_ns, Ask::Control(index));
                if again {
                    self.plan(due_ns + READS_PER_CONTROL * self.town.census.interval_ns, todo);
                }
            }
        }
    }

    /// A thing and where it is, if its device has not been away since that visit.
    fn present(&self, index: u32, visit: u32) -> Option<(&'t Thing, String)> {
        let thing = self.town.things.get(index as usize)?;
        let contact = self.contacts.get(&thing.device).filter(|contact| contact.visits == visit)?;
        Some((thing, contact.full.clone()?))
    }

    fn search(&mut self, index: u32, turn: &mut Turn<'_>) {
        let Some(thing) = self.town.things.get(index as usize) else { return };
        let mut payload = Vec::new();
        payload.extend_from_slice(b"<search");
        write::attr(&mut payload, "xmlns", self.names.disco);
        payload.extend_from_slice(b" offset='0' maxCount='20'>");
        for name in ["SN", "MAN"] {
            payload.extend_from_slice(b"<strEq");
            write::attr(&mut payload, "name", name);
            write::attr(&mut payload, "value", thing.tag(name).unwrap_or_default());
            payload.extend_from_slice(b"/>");
        }
        payload.extend_from_slice(b"</search>");
        self.life.ask(turn, "get", &self.town.registry, &payload, turn.now_ns, Ask::Search(index));
    }

    /// Takes a stanza.
    pub(crate) fn take(&mut self, stanza: &Node, turn: &mut Turn<'_>) {
        let from = stanza.attr("from").unwrap_or_default();
        match (stanza.name.as_str(), stanza.attr("type").unwrap_or_default()) {
            ("iq", "result" | "error") => {
                if let Some((ask, since_ns)) = self.life.answered(stanza, turn) {
                    self.on_answer(ask, stanza, since_ns, turn);
                }
            }
            ("iq", _) => wire::bystander(stanza, turn),
            ("presence", kind) => match self.town.resident(bare(from)) {
                Some(Who::Device(device)) => self.on_presence(device, kind, from, stanza, turn),
                Some(Who::Service(service)) if service == self.number => {}
                Some(Who::Owner(_) | Who::Service(_)) | None => {
                    turn.trouble("out of place", format!("presence '{kind}' from {from} to a service"));
                }
            },
            (name, kind) => turn.trouble("out of place", format!("<{name} type='{kind}'/> from {from} to a service")),
        }
    }

    fn on_presence(&mut self, device: u32, kind: &str, from: &str, stanza: &Node, turn: &mut Turn<'_>) {
        let contact = self.contacts.entry(device).or_default();
        match kind {
            "" if from.contains('/') => {
                let is_news = contact.full.as_deref() != Some(from);
                contact.friend = true;
                turn.tell(News::Reached(Stage::Befriended, device, self.number));
                if is_news {
                    contact.full = Some(from.to_owned());
                    contact.visits += 1;
                    let visit = contact.visits;
                    let things = self.town.devices.get(device as usize).map_or(0..0, |device| device.things.clone());
                    for index in things {
                        if let Some(target) = self.targets.get_mut(&index) {
                            target.control_planned = false;
                            self.plan(turn.now_ns, Todo::Read(index, visit));
                        }
                    }
                }
            }
            "unavailable" if contact.full.as_deref() == Some(from) => {
                contact.full = None;
                contact.away = true;
                let forgotten = self.life.forget(from);
                (0..forgotten).for_each(|_| turn.tell(News::Note("requests to who had gone")));
            }
            "subscribed" => contact.friend = true,
            "unsubscribed" if contact.friend => turn.trouble("friendship ended", from),
            "unsubscribed" => {
                contact.declined += 1;
                let due_ns = turn.now_ns + again_ns(contact.declined);
                turn.tell(News::Note("friendships declined at first"));
                self.plan(due_ns, Todo::Subscribe(device));
            }
            "subscribe" => {
                turn.presence("subscribed", bare(from));
                if !contact.friend {
                    turn.presence("subscribe", bare(from));
                }
            }
            "error" => turn.trouble("presence refused", format!("{from}: {}", wire::condition(stanza).0)),
            _ => {}
        }
    }

    fn on_answer(&mut self, ask: Ask, stanza: &Node, since_ns: u64, turn: &mut Turn<'_>) {
        let took_ns = turn.now_ns.saturating_sub(since_ns);
        let failed = stanza.attr("type") == Some("error");
        let (condition, is_wait) = wire::condition(stanza);
        match ask {
            Ask::Search(index) if failed && is_wait => {
                turn.tell(News::Note("asked to wait"));
                self.plan(turn.now_ns + AGAIN_NS_MIN, Todo::Search(index));
            }
            Ask::Search(_) if failed => turn.trouble("search refused", condition),
            Ask::Search(index) => self.on_found(index, stanza, took_ns, turn),
            Ask::Read(index, _) if failed => self.on_denied(index, &condition, true, turn),
            Ask::Control(index) if failed => self.on_denied(index, &condition, false, turn),
            Ask::Read(index, id) => match self.check(index, &id, stanza) {
                Err(what) => turn.trouble("wrong data", what),
                Ok(()) => self.on_read(index, took_ns, turn),
            },
            Ask::Control(index) => {
                if stanza.child("resp", &self.names.control).is_none() {
                    return turn.trouble("wrong data", "no <resp/> to a control request");
                }
                let Some((target, visit)) = self.target(index) else { return };
                target.controls += 1;
                if target.controls > 1 {
                    turn.tell(News::Took(Timing::Control, took_ns));
                } else {
                    turn.tell(News::Reached(Stage::Controlled, index, self.number));
                    let due_ns = turn.now_ns + READS_PER_CONTROL * self.town.census.interval_ns;
                    self.plan(due_ns, Todo::Control(index, visit));
                }
            }
        }
    }

    /// A thing as it is known, and which visit of its device this is.
    fn target(&mut self, index: u32) -> Option<(&mut Target, u32)> {
        let device = self.town.things.get(index as usize)?.device;
        let visit = self.contacts.get(&device)?.visits;
        Some((self.targets.get_mut(&index)?, visit))
    }

    fn on_found(&mut self, index: u32, stanza: &Node, took_ns: u64, turn: &mut Turn<'_>) {
        let (Some(thing), Some(target)) = (self.town.things.get(index as usize), self.targets.get_mut(&index)) else {
            return;
        };
        turn.tell(News::Took(Timing::Search, took_ns));
        let Some(found) = stanza.child("found", self.names.disco) else {
            return turn.trouble("wrong data", "no <found/> in the answer to a search");
        };
        let jid = device::jid(self.town, thing);
        let of_tag = |tag: &Node| tag.attr("name").is_some_and(|name| name.eq_ignore_ascii_case("KEY"));
        if found.children.iter().any(|thing| thing.children.iter().any(of_tag)) {
            turn.trouble("a KEY was told", jid.clone());
        }
        if found.children.iter().any(|hit| hit.attr("jid") == Some(&jid) && node_of(hit) == thing.node) {
            turn.tell(News::Reached(Stage::Found, index, self.number));
            return;
        }
        target.searches += 1;
        if target.searches >= SEARCHES_MAX {
            turn.trouble("not found", format!("{jid} {:?}", thing.node));
        } else {
            turn.tell(News::Note("searches before the index knew"));
            self.plan(turn.now_ns + SECOND_NS, Todo::Search(index));
        }
    }

    fn on_read(&mut self, index: u32, took_ns: u64, turn: &mut Turn<'_>) {
        let Some(thing) = self.town.things.get(index as usize) else { return };
        let interval_ns = self.town.census.interval_ns;
        if let Some(contact) = self.contacts.get_mut(&thing.device)
            && std::mem::take(&mut contact.away)
        {
            turn.tell(News::Reached(Stage::Returned, thing.device, 0));
        }
        let number = self.number;
        let Some((target, visit)) = self.target(index) else { return };
        target.reads += 1;
        let first = target.reads == 1;
        let control = thing.kind == Kind::Lamp && !std::mem::replace(&mut target.control_planned, true);
        if first {
            turn.tell(News::Reached(Stage::Read, index, number));
            self.plan(turn.now_ns + interval_ns, Todo::Read(index, visit));
        } else {
            turn.tell(News::Took(Timing::Read, took_ns));
        }
        if control {
            self.plan(turn.now_ns, Todo::Control(index, visit));
        }
    }

    /// A request was refused: at first that is as it should be.
    fn on_denied(&mut self, index: u32, condition: &str, is_read: bool, turn: &mut Turn<'_>) {
        let what = if is_read { "read-out" } else { "control" };
        if matches!(condition, "service-unavailable" | "recipient-unavailable") {
            return self.missed(index, what, turn);
        }
        let Some((target, visit)) = self.target(index) else { return };
        let (done, denied) = match is_read {
            true => (target.reads, &mut target.denied),
            false => (target.controls, &mut target.control_denied),
        };
        if condition != "forbidden" {
            return turn.trouble("refused", format!("{what}: {condition}"));
        }
        if done > 0 {
            return turn.trouble("denied what was allowed", what);
        }
        *denied += 1;
        let due_ns = turn.now_ns + again_ns(*denied);
        turn.tell(News::Note(if is_read { "read-outs denied at first" } else { "controls denied at first" }));
        self.plan(due_ns, if is_read { Todo::Read(index, visit) } else { Todo::Control(index, visit) });
    }

    /// A request was not answered: by a device that goes away now and then, that may be.
    fn missed(&mut self, index: u32, what: &'static str, turn: &mut Turn<'_>) {
        let device = self.town.things.get(index as usize).map(|thing| thing.device);
        let leaves =
            device.and_then(|device| self.town.devices.get(device as usize)).is_some_and(|device| device.leaves);
        if leaves {
            turn.tell(News::Note("requests to who had gone"));
        } else {
            turn.trouble("no answer", format!("to {what}"));
        }
        let Some((target, visit)) = self.target(index) else { return };
        if what == "read-out" && target.reads == 0 {
            self.plan(turn.now_ns + AGAIN_NS_MIN, Todo::Read(index, visit));
        } else if what == "control" && target.controls == 0 {
            self.plan(turn.now_ns + AGAIN_NS_MIN, Todo::Control(index, visit));
        }
    }

    /// Whether an answer is what the thing has to say.
    fn check(&self, index: u32, id: &str, stanza: &Node) -> Result<(), String> {
        let thing = self.town.things.get(index as usize).ok_or("no such thing")?;
        let resp = stanza.child("resp", &self.names.sensor).ok_or("no <resp/> to a read-out")?;
        if resp.attr("id") != Some(id) {
            return Err(format!("an answer to {:?}, not to {id}", resp.attr("id")));
        }
        let data = if thing.node.is_device() {
            resp
        } else {
            let nodes = resp.children.iter().filter(|child| child.name == "nd");
            nodes.into_iter().find(|child| node_of(child) == thing.node).ok_or("the node is missing")?
        };
        let time = data.children.iter().find(|child| child.name == "ts").ok_or("no time")?;
        let value = |name: &str| {
            let field = time.children.iter().find(|field| field.attr("n") == Some(name));
            field.and_then(|field| field.attr("v"))
        };
        let serial = thing.tag("SN");
        if value("Serial") != serial {
            return Err(format!("{:?} says it is {:?}", serial, value("Serial")));
        }
        let name = thing.kind.field().0;
        let main = value(name).ok_or_else(|| format!("no {name}"))?;
        let is_value =
            if thing.kind == Kind::Lamp { matches!(main, "true" | "false") } else { main.parse::<f64>().is_ok() };
        if is_value { Ok(()) } else { Err(format!("{name} is {main:?}")) }
    }
}

/// How long somebody waits who was refused so often.
fn again_ns(refusals: u32) -> u64 {
    AGAIN_NS_MIN.saturating_mul(u64::from(refusals)).min(AGAIN_NS_MAX)
}

#[cfg(test)]
mod tests {
    use super::super::town::tests::census;
    use super::super::wire::tests::{during, stanza};
    use super::*;

    fn town() -> Town {
        Town::new(census(40))
    }

    /// The first device of a kind, its address, and the service that befriends it.
    fn first(town: &Town, kind: Kind) -> (u32, u32, String) {
        let is_meant = |thing: &Thing| {
            thing.kind == kind && thing.node.is_device() && (thing.public || kind == Kind::Concentrator)
        };
        let thing = town.things.iter().position(is_meant).unwrap();
        let device = town.things[thing].device;
        (thing as u32, device, town.jid(Who::Device(device)))
    }

    fn ready(town: &Town) -> Service<'_> {
        let mut service = Service::new(town, 0);
        during(0, |turn| service.ready(turn));
        service
    }

    fn take(service: &mut Service<'_>, now_ns: u64, text: &str) -> (String, Vec<News>) {
        during(now_ns, |turn| service.take(&stanza(text), turn))
    }

    fn tick(service: &mut Service<'_>, now_ns: u64) -> String {
        during(now_ns, |turn| service.tick(turn)).0
    }

    /// The ids of an iq and of what it asks to read.
    fn ids(said: &str) -> (String, String) {
        let iq = said.rsplit_once("<iq ").unwrap().1;
        let id = |text: &str| text.split_once(" id='").unwrap().1.split_once('\'').unwrap().0.to_owned();
        (id(iq), iq.split_once("<req").map(|(_, req)| id(req)).unwrap_or_default())
    }

    /// A service that was declined and then accepted, at a time when the device is there.
    fn befriended<'t>(town: &'t Town, index: u32, device: u32, jid: &str) -> Service<'t> {
        let mut service = ready(town);
        during(0, |turn| service.welcome(index, turn));
        let said = tick(&mut service, 0);
        assert!(said.contains(&format!("<presence type='subscribe' to='{jid}'/>")), "{said}");
        let (_, news) = take(&mut service, 1, &format!("<presence type='unsubscribed' from='{jid}'/>"));
        assert_eq!(news, [News::Note("friendships declined at first")]);
        let said = tick(&mut service, 1 + AGAIN_NS_MIN);
        assert!(said.contains("type='subscribe'"), "{said}");
        take(&mut service, 2, &format!("<presence type='subscribed' from='{jid}'/>"));
        let (_, news) = take(&mut service, 3, &format!("<presence from='{jid}/1'/>"));
        assert_eq!(news, [News::Reached(Stage::Befriended, device, 0)]);
        service
    }

    #[test]
    fn a_device_that_declines_is_asked_again_and_one_that_asks_is_answered() {
        let town = town();
        let (index, device, jid) = first(&town, Kind::Sensor);
        befriended(&town, index, device, &jid);
        let mut service = ready(&town);
        let subscribe = format!("<presence type='subscribe' from='{jid}'/>");
        let both = format!("<presence type='subscribed' to='{jid}'/><presence type='subscribe' to='{jid}'/>");
        assert_eq!(take(&mut service, 0, &subscribe).0, both);
        take(&mut service, 0, &format!("<presence type='subscribed' from='{jid}'/>"));
        assert_eq!(take(&mut service, 0, &subscribe).0, format!("<presence type='subscribed' to='{jid}'/>"));
        let (_, news) = take(&mut service, 0, "<presence from='stranger@city.example/1'/>");
        assert!(matches!(news.as_slice(), [News::Trouble("out of place", _)]), "{news:?}");
    }

    #[test]
    fn a_thing_is_read_once_it_may_be_and_then_on_schedule() {
        let town = town();
        let (index, device, jid) = first(&town, Kind::Sensor);
        let mut service = befriended(&town, index, device, &jid);
        let said = tick(&mut service, 2 * AGAIN_NS_MIN);
        let (iq, _) = ids(&said);
        let full = format!("{jid}/1");
        assert!(
            said.contains(&format!(" to='{full}'><req xmlns='urn:nf:iot:sd:1.0' id='1' m='true' i='true'>")),
            "{said}"
        );
        let denied = |iq: &str| {
            format!(
                "<iq type='error' id='{iq}' from='{full}'><error type='cancel'>\
                 <forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
            )
        };
        let (_, news) = take(&mut service, 10, &denied(&iq));
        assert_eq!(news, [News::Note("read-outs denied at first")]);
        let said = tick(&mut service, 10 + AGAIN_NS_MIN);
        let (iq, id) = ids(&said);
        let serial = town.things[index as usize].tag("SN").unwrap();
        let data = |iq: &str, id: &str, serial: &str| {
            format!(
                "<iq type='result' id='{iq}' from='{full}'><resp xmlns='urn:nf:iot:sd:1.0' id='{id}'>\
                 <ts v='2026-01-02T03:04:05.000Z'><q n='Temperature' v='21.4' u='C' m='true'/>\
                 <s n='Serial' v='{serial}' i='true'/></ts></resp></iq>"
            )
        };
        let (_, news) = take(&mut service, 20, &data(&iq, &id, serial));
        assert_eq!(news, [News::Reached(Stage::Read, index, 0)]);
        let due_ns = 20 + town.census.interval_ns;
        assert!(service.due_ns() <= due_ns);
        let said = tick(&mut service, due_ns + 5);
        let (iq, id) = ids(said.split_once("<ping").map_or(said.as_str(), |(_, rest)| rest));
        let (_, news) = take(&mut service, due_ns + 7, &data(&iq, &id, serial));
        assert_eq!(news, [News::Took(Timing::Read, 7)], "from when it was due");
        let said = tick(&mut service, due_ns + town.census.interval_ns);
        let (iq, id) = ids(said.split_once("<ping").map_or(said.as_str(), |(_, rest)| rest));
        let (_, news) = take(&mut service, due_ns, &data(&iq, &id, "another"));
        assert!(matches!(news.as_slice(), [News::Trouble("wrong data", _)]), "{news:?}");
        let said = tick(&mut service, due_ns + 2 * town.census.interval_ns);
        let (iq, _) = ids(said.split_once("<ping").map_or(said.as_str(), |(_, rest)| rest));
        let (_, news) = take(&mut service, due_ns, &denied(&iq));
        assert!(matches!(news.as_slice(), [News::Trouble("denied what was allowed", _)]), "{news:?}");
    }

    #[test]
    fn a_device_that_comes_back_is_read_again_and_that_is_told() {
        let town = town();
        let (index, device, jid) = first(&town, Kind::Sensor);
        let mut service = befriended(&town, index, device, &jid);
        tick(&mut service, 2 * AGAIN_NS_MIN);
        let (_, news) = take(&mut service, 5, &format!("<presence type='unavailable' from='{jid}/1'/>"));
        assert_eq!(news, [News::Note("requests to who had gone")]);
        take(&mut service, 6, &format!("<presence from='{jid}/2'/>"));
        let said = tick(&mut service, 2 * AGAIN_NS_MIN);
        assert_eq!(said.matches("<req ").count(), 1, "not also what was planned before: {said}");
        let (iq, id) = ids(&said);
        let serial = town.things[index as usize].tag("SN").unwrap();
        let data = format!(
            "<iq type='result' id='{iq}' from='{jid}/2'><resp xmlns='urn:nf:iot:sd:1.0' id='{id}'><ts v='x'>\
             <q n='Temperature' v='1' u='C'/><s n='Serial' v='{serial}'/></ts></resp></iq>"
        );
        let (_, news) = take(&mut service, 20, &data);
        assert_eq!(news, [News::Reached(Stage::Returned, device, 0), News::Reached(Stage::Read, index, 0)]);
    }

    #[test]
    fn public_things_are_found_and_keys_never() {
        let town = town();
        let (index, _, _) = first(&town, Kind::Concentrator);
        let index = index + 2; // A node.
        let thing = &town.things[index as usize];
        let jid = device::jid(&town, thing);
        let mut service = ready(&town);
        service.targets.insert(index, Target::default());
        service.plan(0, Todo::Search(index));
        let said = tick(&mut service, 0);
        let serial = thing.tag("SN").unwrap();
        let search = format!(
            "<search xmlns='urn:nf:iot:disco:1.0' offset='0' maxCount='20'><strEq name='SN' value='{serial}'/>\
             <strEq name='MAN' value='maker0.example'/></search>"
        );
        assert!(said.contains(&search), "{said}");
        let found = |iq: &str, node: &str, tags: &str| {
            format!(
                "<iq type='result' id='{iq}' from='things.city.example'><found xmlns='urn:nf:iot:disco:1.0' more='false'>\
                 <thing jid='{jid}' id='{node}' src='MeteringTopology' pt='east &amp; west'>{tags}</thing></found></iq>"
            )
        };
        let (_, news) = take(&mut service, 9, &found(&ids(&said).0, "other", ""));
        assert_eq!(news, [News::Took(Timing::Search, 9), News::Note("searches before the index knew")]);
        let said = tick(&mut service, 9 + SECOND_NS);
        let (_, news) = take(&mut service, 9, &found(&ids(&said).0, "node 1", "<str name='Key' value='x'/>"));
        assert!(news.contains(&News::Reached(Stage::Found, index, 0)), "{news:?}");
        assert!(news.iter().any(|news| matches!(news, News::Trouble("a KEY was told", _))), "{news:?}");
    }

    #[test]
    fn a_lamp_is_read_and_then_controlled_and_others_only_read() {
        let town = town();
        let (index, device, jid) = first(&town, Kind::Lamp);
        let mut service = befriended(&town, index, device, &jid);
        let said = tick(&mut service, 2 * AGAIN_NS_MIN);
        let (iq, id) = ids(&said);
        let serial = town.things[index as usize].tag("SN").unwrap();
        let data = format!(
            "<iq type='result' id='{iq}' from='{jid}/1'><resp xmlns='urn:nf:iot:sd:1.0' id='{id}'><ts v='x'>\
             <b n='Output' v='false'/><s n='Serial' v='{serial}'/></ts></resp></iq>"
        );
        take(&mut service, 20, &data);
        let said = tick(&mut service, 2 * AGAIN_NS_MIN);
        let set = "<set xmlns='urn:nf:iot:ctr:1.0'><b n='Output' v='true'/></set>";
        assert!(said.contains("type='set'") && said.contains(set), "{said}");
        let answer =
            format!("<iq type='result' id='{}' from='{jid}/1'><resp xmlns='urn:nf:iot:ctr:1.0'/></iq>", ids(&said).0);
        let (_, news) = take(&mut service, 30, &answer);
        assert_eq!(news, [News::Reached(Stage::Controlled, index, 0)]);
    }

    #[test]
    fn a_request_without_an_answer_is_told_unless_the_device_may_have_gone() {
        let mut town = town();
        let (index, device, jid) = first(&town, Kind::Sensor);
        for leaves in [false, true] {
            town.devices[device as usize].leaves = leaves;
            let mut service = befriended(&town, index, device, &jid);
            tick(&mut service, 2 * AGAIN_NS_MIN);
            service.life.hush();
            let (said, news) = during(u64::MAX / 2, |turn| service.tick(turn));
            let told =
                news.iter().any(|news| matches!(news, News::Trouble("no answer", what) if what == "to read-out"));
            assert_eq!(told, !leaves, "{news:?}");
            assert!(said.is_empty() && service.due_ns() < u64::MAX, "it is tried again later");
        }
    }
}
