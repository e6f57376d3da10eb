//! What things, owners and strangers do with each other, from the first question to what is left of it.

mod decisions;
mod enforced;
mod outage;
mod owners;
mod questions;
mod verified;

use std::collections::BTreeSet;

use plaza_core::iot::{Generation, Interface};
use plaza_core::jid::JidRef;
use plaza_core::provisioning::{Categories, Kind, Part};
use plaza_core::stanza::{Condition, IqType};
use plaza_core::thing::NodeName;
use plaza_core::xml::read::Node;

use super::home::node_key;
use super::*;
use crate::store::memory::MemoryStore;
use crate::store::{Batch, Guard, Pair, Store, Table, Write};
use crate::testing::jid;
use crate::things::{self, Pending, State, ThingRecord};
use crate::wait::block_on;

const COMPONENT: &str = "things.things.example";
const LAMP: &str = "lamp@things.example";
const RACK: &str = "rack@things.example";
const OWNER: &str = "owner@things.example";
const STRANGER: &str = "b@x.example";
const NOW: u64 = 1_767_323_045_000;
const HOUR: u64 = 3_600_000;

fn node(id: &str) -> NodeName {
    NodeName { id: id.into(), ..NodeName::default() }
}

fn thing(device: &str, id: &str, owner: Option<&str>) -> ThingRecord {
    let state =
        owner.map_or(State::Unclaimed, |owner| State::Claimed { owner: jid(owner), public: true, removed: false });
    ThingRecord { state, ..ThingRecord::new(jid(device), node(id)) }
}

fn rule(number: u64, kind: Kind, level: Level, text: &str, allow: bool) -> Rule {
    Rule { number, text: text.into(), names: None, kind, level, allow, categories: kind.categories() }
}

/// A rule for a part: categories by their bits, and names with spaces between them.
fn partial(rule: Rule, bits: u8, names: &str) -> Rule {
    let names = names.split_ascii_whitespace().map(Box::from).collect::<BTreeSet<Box<str>>>();
    let names = (!names.is_empty()).then(|| names.into_iter().collect());
    Rule { names, categories: Categories::from_bits(bits).unwrap(), ..rule }
}

/// A broker with things, and all who talk to it.
struct World {
    store: MemoryStore,
    config: Config,
    now: u64,
}

impl World {
    /// The owner's lamp, the owner's rack with nodes `1` and `2`, and nobody's node `3` of it.
    fn new() -> Self {
        let world = Self { store: MemoryStore::new(), config: Config::new(Limits::DEFAULT, [7; 32]), now: NOW };
        for (device, id, owner) in
            [(LAMP, "", Some(OWNER)), (RACK, "1", Some(OWNER)), (RACK, "2", Some(OWNER)), (RACK, "3", None)]
        {
            world.put(&thing(device, id, owner));
        }
        world
    }

    /// The same, in which the lamp has proven tokens.
    fn with_tokens(random: &str) -> Self {
        let world = Self::new();
        world.config.proofs.prove(JidRef::from_normal(LAMP), &tokens(random), NOW);
        world
    }

    fn put(&self, thing: &ThingRecord) {
        let mut writes = vec![thing.put()];
        if let Some(owner) = thing.owner() {
            let key = things::owned_key(owner.as_jid(), thing.jid.as_jid(), &thing.node);
            writes.push(Write::Put { table: Table::Owners, key, value: Vec::new() });
        }
        self.commit(writes);
    }

    fn commit(&self, writes: Vec<Write>) {
        block_on(self.store.commit(Batch { guards: Vec::new(), writes })).unwrap();
    }

    fn thing(&self, device: &str, id: &str) -> ThingRecord {
        block_on(things::load(&self.store, &jid(device), &node(id))).unwrap().unwrap()
    }

    fn all(&self, table: Table) -> Vec<Pair> {
        block_on(self.store.scan(table, b"", None, usize::MAX)).unwrap()
    }

    fn home(&self, device: &str) -> Option<Box<HomeThings>> {
        block_on(HomeThings::load(&self.store, JidRef::from_normal(device))).unwrap()
    }

    /// A device asks; what it is told, and what its owner is.
    fn ask(&self, device: &str, payload: &str) -> (String, Vec<Tell>) {
        let things = self.home(device);
        let device = jid(&format!("{device}/r"));
        let answered =
            answer(things.as_deref(), device.as_jid(), COMPONENT, payload, (&self.config.proofs, self.now)).unwrap();
        let Answered { payload, after: After { inquiry, seen, unproven: _ } } = answered;
        if let Some(seen) = seen {
            block_on(note(&self.store, &seen)).unwrap();
        }
        let tells = inquiry.map(|inquiry| block_on(ask(&self.config, &self.store, &inquiry, self.now)).unwrap());
        (String::from_utf8(payload).unwrap(), tells.unwrap_or_default())
    }

    /// A device asks in today's namespace about the stranger; what stands between the quotes of `…`.
    fn can(&self, device: &str, kind: Kind, attrs: &str, inside: &str) -> (String, Vec<Tell>) {
        let name = kind.name();
        let ns = Interface::Device.ns(Generation::Nf);
        let jid = if attrs.contains("jid=") { String::new() } else { format!("jid='{STRANGER}' ") };
        let (answer, tells) = self.ask(device, &format!("<{name} xmlns='{ns}' {jid}{attrs}>{inside}</{name}>"));
        let answer = answer.replace(&format!(" xmlns='{ns}'"), "").replace(&format!(" jid='{STRANGER}'"), "");
        (answer.replace(&format!("{name}Response"), "R"), tells)
    }

    /// An owner asks.
    fn own(&self, owner: &str, iq_type: IqType, payload: &str) -> Result<Told, Condition> {
        let payload = Node::parse(payload, "jabber:client").unwrap();
        let caller = jid(&format!("{owner}/r"));
        let component = jid(COMPONENT);
        block_on(serve(&self.config, &self.store, caller.as_jid(), &component, (iq_type, &payload), self.now))
    }

    /// The owner answers the question in a message. `rule` is the rest of the element's name, attributes and content.
    fn answer(&self, tell: &Tell, attrs: &str, inside: &str) -> Result<Told, Condition> {
        self.answer_as(OWNER, tell, attrs, inside)
    }

    fn answer_as(&self, owner: &str, tell: &Tell, attrs: &str, inside: &str) -> Result<Told, Condition> {
        let question = Node::parse(&tell.payload, "jabber:client").unwrap();
        let of = |name: &str| question.attr(name).unwrap().to_owned();
        let (name, ns) = (&question.name, &question.ns);
        let (device, remote, key) = (of("jid"), of("remoteJid"), of("key"));
        let rule = format!(
            "<{name}Rule xmlns='{ns}' jid='{device}' remoteJid='{remote}' key='{key}' {attrs}>{inside}</{name}Rule>"
        );
        self.own(owner, IqType::Set, &rule)
    }
}

/// Tokens that the service issued, of what is random in them.
fn tokens(random: &str) -> String {
    let tokens: Vec<String> = random.split(' ').map(|random| format!("{COMPONENT}:{random}")).collect();
    tokens.join(" ")
}

fn only(tells: Vec<Tell>) -> Tell {
    let [tell] = <[Tell; 1]>::try_from(tells).unwrap();
    tell
}
