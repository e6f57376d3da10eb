//! A rehearsal: everybody in a small city and a broker that keeps to the protocol, in virtual time and without a socket.

use std::collections::{HashMap, HashSet, VecDeque};

use plaza_core::iot::{Generation, Interface};
use plaza_core::ns;
use plaza_core::thing::NodeName;
use plaza_core::xml::read::Node;

use super::device::Device;
use super::funnel::Stage;
use super::owner::Owner;
use super::service::Service;
use super::town::tests::census;
use super::town::{Census, Town, Who};
use super::wire::{LONG, News, SECOND_NS, SHORT, Turn, bare, is_true, node_of, nodes, write_node};

/// What the registry has of a thing.
#[derive(Default)]
struct Record {
    tags: Vec<(String, String)>,
    owner: Option<String>,
    public: bool,
}

/// A question: its kind, the device, the node, who asked.
type Question = (String, String, NodeName, String);

/// The broker: a registry, decision support, and what RFC 6121 asks of a server, for accounts of one resource each.
#[derive(Default)]
struct Broker {
    registry: String,
    things: HashMap<(String, NodeName), Record>,
    rules: HashSet<Question>,
    questions: HashMap<String, Question>,
    /// Who sees whose presence.
    subscriptions: HashSet<(String, String)>,
    online: HashMap<String, String>,
    /// Stanzas on their way.
    mail: VecDeque<(String, Node)>,
    sent: u32,
}

fn node(text: &str) -> Node {
    Node::parse(text, ns::CLIENT).unwrap_or_else(|| panic!("not XML: {text}"))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('\'', "&apos;")
}

fn attrs(node: &NodeName) -> String {
    format!(" id='{}' src='{}' pt='{}'", escape(&node.id), escape(&node.source), escape(&node.partition))
}

impl Broker {
    fn send(&mut self, to: &str, text: &str) {
        self.mail.push_back((bare(to).to_owned(), node(text)));
    }

    /// Asks a device something, as the registry.
    fn notify(&mut self, device: &str, payload: &str) {
        self.sent += 1;
        let iq = format!("<iq type='set' id='n{}' from='{}'>{payload}</iq>", self.sent, self.registry);
        self.send(device, &iq);
    }

    fn go_online(&mut self, who: &str, resource: u32) {
        self.online.insert(who.to_owned(), format!("{who}/{resource}"));
    }

    fn go_offline(&mut self, who: &str) {
        let full = self.online.remove(who).unwrap();
        self.broadcast(who, &format!("<presence type='unavailable' from='{full}'/>"));
    }

    fn broadcast(&mut self, who: &str, presence: &str) {
        let watchers: Vec<String> =
            self.subscriptions.iter().filter(|(_, of)| of == who).map(|(watcher, _)| watcher.clone()).collect();
        watchers
            .iter()
            .filter(|watcher| self.online.contains_key(*watcher))
            .cloned()
            .collect::<Vec<_>>()
            .iter()
            .for_each(|watcher| self.send(watcher, presence));
    }

    /// Takes a stanza of a client.
    fn take(&mut self, from: &str, mut stanza: Node) {
        let to = stanza.attr("to").unwrap_or_default().to_owned();
        let kind = stanza.attr("type").unwrap_or_default().to_owned();
        let full = self.online.get(from).cloned().unwrap();
        match (stanza.name.as_str(), to.as_str()) {
            ("iq", "") => {
                let id = stanza.attr("id").unwrap();
                self.send(from, &format!("<iq type='result' id='{id}'/>"));
            }
            ("iq", to) if to == self.registry => {
                if matches!(kind.as_str(), "get" | "set") {
                    let answer = self.answer(from, &stanza.children[0]);
                    let id = stanza.attr("id").unwrap();
                    let (kind, payload) = match answer {
                        Ok(payload) => ("result", payload),
                        Err(condition) => {
                            let error = format!("<{condition} xmlns='{}'/>", ns::STANZA_ERRORS);
                            ("error", format!("<error type='cancel'>{error}</error>"))
                        }
                    };
                    let iq = format!("<iq type='{kind}' id='{id}' from='{}'>{payload}</iq>", self.registry);
                    self.send(from, &iq);
                } else {
                    assert_eq!(kind, "result", "notices are acknowledged");
                }
            }
            ("iq", to) => {
                stanza.attrs.push(("from".to_owned(), full));
                if self.online.get(bare(to)).is_some_and(|online| online == to) {
                    self.mail.push_back((bare(to).to_owned(), stanza));
                }
            }
            ("presence", "") => self.broadcast(from, &format!("<presence from='{full}'/>")),
            ("presence", to) => {
                stanza.attrs.push(("from".to_owned(), from.to_owned()));
                self.mail.push_back((to.to_owned(), stanza));
                if kind == "subscribed" && self.subscriptions.insert((to.to_owned(), from.to_owned())) {
                    self.send(to, &format!("<presence from='{full}'/>"));
                }
            }
            (name, to) => panic!("<{name}/> from {from} to {to}"),
        }
    }

    /// Answers what is asked of registry and decision support.
    fn answer(&mut self, from: &str, asked: &Node) -> Result<String, &'static str> {
        let ns = &asked.ns;
        let (interface, _) = Interface::of(ns).ok_or("feature-not-implemented")?;
        let tags = || {
            let value = |tag: &Node| (tag.attr("name").unwrap().to_owned(), tag.attr("value").unwrap().to_owned());
            let mut tags: Vec<_> = asked.children.iter().map(value).collect();
            tags.sort();
            tags
        };
        match (interface, asked.name.as_str()) {
            (Interface::Discovery, "register") => {
                let record = self.things.entry((from.to_owned(), node_of(asked))).or_default();
                if let Some(owner) = &record.owner {
                    return Ok(format!("<claimed xmlns='{ns}' jid='{owner}' public='{}'/>", record.public));
                }
                record.tags = tags();
                Ok(String::new())
            }
            (Interface::Discovery, "update") => {
                let record = self.things.get(&(from.to_owned(), node_of(asked)));
                record.filter(|record| record.public).map(|_| String::new()).ok_or("item-not-found")
            }
            (Interface::Discovery, "mine") => {
                let tags = tags();
                let found = self.things.iter_mut().find(|(_, record)| record.owner.is_none() && record.tags == tags);
                let ((jid, name), record) = found.ok_or("item-not-found")?;
                (record.owner, record.public) = (Some(from.to_owned()), is_true(asked, "public"));
                let (jid, name, public) = (jid.clone(), attrs(name), record.public);
                let claimed = |jid: &str| format!("<claimed xmlns='{ns}' jid='{jid}'{name} public='{public}'/>");
                self.notify(&jid, &claimed(from));
                Ok(claimed(&jid))
            }
            (Interface::Discovery, "search") => {
                let matches = |record: &Record| {
                    record.public
                        && asked.children.iter().all(|test| {
                            let wanted =
                                (test.attr("name").unwrap().to_owned(), test.attr("value").unwrap().to_owned());
                            record.tags.contains(&wanted)
                        })
                };
                let found = self.things.iter().filter(|(_, record)| matches(record));
                let found: String =
                    found.map(|((jid, name), _)| format!("<thing jid='{jid}'{}/>", attrs(name))).collect();
                Ok(format!("<found xmlns='{ns}' more='false'>{found}</found>"))
            }
            (Interface::Device, question) => Ok(self.decide(from, question, asked)),
            (Interface::Owner, rule) => {
                let key = asked.attr("key").unwrap();
                let question = self.questions.remove(key).ok_or("item-not-found")?;
                assert_eq!(rule, format!("{}Rule", question.0));
                assert_eq!(asked.attr("remoteJid"), Some(question.3.as_str()));
                let device = question.1.clone();
                let is_friend = question.0 == "isFriend";
                let remote = question.3.clone();
                self.rules.insert(question);
                let ns = Interface::Device.ns(Generation::Nf);
                self.notify(&device, &format!("<clearCache xmlns='{ns}'/>"));
                if is_friend {
                    let friend = format!("<friend xmlns='{ns}' jid='{remote}'/>");
                    self.send(&device, &format!("<message from='{}'>{friend}</message>", self.registry));
                }
                Ok(String::new())
            }
            (Interface::Discovery | Interface::Tokens, name) => panic!("nobody asks for {name}"),
        }
    }

    fn decide(&mut self, device: &str, question: &str, asked: &Node) -> String {
        let remote = asked.attr("jid").unwrap();
        let name = nodes(asked).next().unwrap_or_default();
        let key = (question.to_owned(), device.to_owned(), name.clone(), remote.to_owned());
        let nd = if name.is_device() { String::new() } else { format!("<nd{}/>", attrs(&name)) };
        let categories = if question == "canRead" { " m='true' i='true'" } else { "" };
        let allowed = self.rules.contains(&key);
        if !allowed && !self.questions.values().any(|open| *open == key) {
            self.sent += 1;
            let id = format!("key{}", self.sent);
            let owner =
                self.things.get(&(device.to_owned(), name.clone())).and_then(|record| record.owner.clone()).unwrap();
            let ns = Interface::Owner.ns(Generation::Nf);
            let ask = format!(
                "<{question} xmlns='{ns}' jid='{device}' remoteJid='{remote}' key='{id}'{categories}>{nd}</{question}>"
            );
            self.send(&owner, &format!("<message from='{}'>{ask}</message>", self.registry));
            self.questions.insert(id, key);
        }
        // It is answered as it was asked.
        let ns = &asked.ns;
        let spelling = if *ns == Interface::Device.ns(Generation::Xsf) { &LONG } else { &SHORT };
        let mut nd = Vec::new();
        write_node(&mut nd, spelling, &name);
        let nd = String::from_utf8(nd).unwrap();
        let [momentary, .., identity, _] = spelling.categories;
        let categories =
            if question == "canRead" { format!(" {momentary}='true' {identity}='true'") } else { String::new() };
        format!(
            "<{question}Response xmlns='{ns}' jid='{remote}' result='{allowed}'{categories}>{nd}</{question}Response>"
        )
    }
}

enum Role<'t> {
    Device(Box<Device<'t>>),
    Owner(Box<Owner<'t>>),
    Service(Box<Service<'t>>),
}

struct Rehearsal<'t> {
    town: &'t Town,
    broker: Broker,
    roles: Vec<Role<'t>>,
    now_ns: u64,
    reached: HashSet<(Stage, u32, u32)>,
    notes: HashMap<&'static str, u32>,
    known: HashMap<u32, u32>,
}

impl<'t> Rehearsal<'t> {
    fn new(town: &'t Town) -> Self {
        let roles = (0..town.accounts()).map(|account| match town.who(account) {
            Who::Device(number) => Role::Device(Box::new(Device::new(town, number))),
            Who::Owner(number) => Role::Owner(Box::new(Owner::new(town, number))),
            Who::Service(number) => Role::Service(Box::new(Service::new(town, number))),
        });
        let broker = Broker { registry: town.registry.clone(), ..Broker::default() };
        let (reached, notes, known) = Default::default();
        Self { town, broker, roles: roles.collect(), now_ns: 0, reached, notes, known }
    }

    /// Lets somebody do something; what it says goes to the broker, what it tells to whom it concerns.
    fn act(&mut self, account: u32, act: impl FnOnce(&mut Role<'t>, &mut Turn<'_>)) {
        let (mut out, mut news) = (Vec::new(), Vec::new());
        let mut turn = Turn { now_ns: self.now_ns, unix_ms: 0, out: &mut out, news: &mut news };
        act(&mut self.roles[account as usize], &mut turn);
        let from = self.town.jid(self.town.who(account));
        let said = node(&format!("<said xmlns='jabber:client'>{}</said>", String::from_utf8(out).unwrap()));
        for stanza in said.children {
            self.broker.take(&from, stanza);
        }
        for news in news {
            self.on_news(news);
        }
    }

    fn on_news(&mut self, news: News) {
        match news {
            News::Trouble(kind, what) => panic!("{kind}: {what}"),
            News::Note(what) => *self.notes.entry(what).or_default() += 1,
            News::Took(..) => {}
            News::Reached(stage, who, what) => drop(self.reached.insert((stage, who, what))),
            News::Registered(thing) => {
                let owner = self.town.account(Who::Owner(self.town.things[thing as usize].owner));
                self.act(owner, |role, turn| {
                    if let Role::Owner(owner) = role {
                        owner.claim(thing, turn);
                    }
                });
            }
            News::Told(thing, _) | News::Won(thing) => {
                let known = self.known.entry(thing).or_default();
                *known += 1;
                if *known != 2 {
                    return;
                }
                for service in self.town.devices[self.town.things[thing as usize].device as usize].services.clone() {
                    self.act(self.town.account(Who::Service(service)), |role, turn| {
                        if let Role::Service(service) = role {
                            service.welcome(thing, turn);
                        }
                    });
                }
            }
        }
    }

    fn come(&mut self, account: u32, resource: u32) {
        self.broker.go_online(&self.town.jid(self.town.who(account)), resource);
        self.act(account, |role, turn| match role {
            Role::Device(device) => device.ready(turn),
            Role::Owner(owner) => owner.ready(turn),
            Role::Service(service) => service.ready(turn),
        });
    }

    /// Goes on until a time.
    fn until(&mut self, end_ns: u64) {
        while self.now_ns < end_ns {
            while let Some((to, stanza)) = self.broker.mail.pop_front() {
                if !self.broker.online.contains_key(&to) {
                    continue;
                }
                let account = self.town.account(self.town.resident(&to).unwrap());
                self.act(account, |role, turn| match role {
                    Role::Device(device) => device.take(&stanza, turn),
                    Role::Owner(owner) => owner.take(&stanza, turn),
                    Role::Service(service) => service.take(&stanza, turn),
                });
            }
            let due_ns = |role: &Role<'_>| match role {
                Role::Device(device) => device.due_ns(),
                Role::Owner(owner) => owner.due_ns(),
                Role::Service(service) => service.due_ns(),
            };
            let (account, due_ns) = (0..).zip(self.roles.iter().map(due_ns)).min_by_key(|(_, due_ns)| *due_ns).unwrap();
            self.now_ns = self.now_ns.max(due_ns).min(end_ns);
            if due_ns <= self.now_ns {
                self.act(account, |role, turn| match role {
                    Role::Device(device) => device.tick(turn),
                    Role::Owner(owner) => owner.tick(turn),
                    Role::Service(service) => service.tick(turn),
                });
            }
        }
    }

    fn count(&self, stage: Stage) -> usize {
        self.reached.iter().filter(|(reached, ..)| *reached == stage).count()
    }
}

#[test]
fn a_city_comes_as_far_as_it_is_planned_and_its_devices_come_back() {
    let mixed = Generation::ALL.to_vec();
    for (seed, friends, generations) in [(1, 1, vec![Generation::Nf]), (2, 2, mixed), (3, 1, vec![Generation::Xsf])] {
        let town = Town::new(Census { seed, friends, generations, ..census(30) });
        let mut rehearsal = Rehearsal::new(&town);
        (0..town.accounts()).for_each(|account| rehearsal.come(account, 1));
        rehearsal.until(40 * SECOND_NS);
        let friends = friends as usize;
        let lamps = town.things.iter().filter(|thing| thing.kind.parameter().is_some()).count();
        let public = town.things.iter().filter(|thing| thing.public).count();
        for (stage, goal) in [
            (Stage::Registered, town.things.len()),
            (Stage::Befriended, town.devices.len() * friends),
            (Stage::Found, public * friends),
            (Stage::Read, town.things.len() * friends),
            (Stage::Controlled, lamps * friends),
            (Stage::Returned, 0),
        ] {
            assert_eq!(rehearsal.count(stage), goal, "{stage:?}");
        }
        for note in ["friendships declined at first", "read-outs denied at first", "controls denied at first"] {
            assert!(rehearsal.notes.contains_key(note), "{note}: {:?}", rehearsal.notes);
        }
        // One answer to each question, and none asked twice.
        let asked = town.devices.len() + town.things.len() + lamps;
        assert_eq!(rehearsal.notes["questions answered"] as usize, asked * friends);
        assert_eq!(rehearsal.broker.subscriptions.len(), town.devices.len() * friends * 2);

        let leaver = (0..).zip(&town.devices).find(|(_, device)| device.leaves).unwrap().0;
        let account = town.account(Who::Device(leaver));
        rehearsal.broker.go_offline(&town.jid(Who::Device(leaver)));
        if let Role::Device(device) = &mut rehearsal.roles[account as usize] {
            device.gone();
        }
        rehearsal.until(45 * SECOND_NS);
        rehearsal.come(account, 2);
        rehearsal.until(60 * SECOND_NS);
        assert!(rehearsal.reached.contains(&(Stage::Returned, leaver, 0)));
    }
}
