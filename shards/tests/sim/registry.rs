//! Clients that register things, claim them and give them up, and the registry they do it at (XEP-0347 v0.5.1).
//!
//! Few things, and many who want them. Devices answer what they are told, refuse it, or say nothing for long.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, ready};
use std::sync::{Arc, Mutex};

use plaza_core::iot::Interface;
use plaza_core::jid::Jid;
use plaza_core::thing::{Comparison, NodeName, Operator, Test};
use plaza_core::xml::read::Node;
use plaza_registry::services::{self, Ask, Component, ComponentKind, Reply, Request};
use plaza_registry::store::StoreError;
use plaza_registry::store::memory::MemoryStore;
use plaza_registry::things::index::{Budget, Index};
use plaza_registry::things::{self, Noting, Query, Search, Searching, ThingRecord};
use plaza_registry::wait::block_on;
use plaza_shards::metrics::DropReason;
use plaza_shards::shard::ReplyTo;

use super::faults::{Brought, Whose};
use super::things::{Asked, Cause, What, node_id, secret};
use super::{World, owners};

pub(super) const REGISTRY: &str = "things.things.example";
/// Accounts that have things, each one of these nodes: few, so that many want the same.
pub(super) const DEVICES: usize = 2;
pub(super) const NODES: [&str; 2] = ["", "n"];
/// Work of a search: more than any here takes.
const WORK: u64 = 1 << 40;
/// How often everybody goes and comes back until all has been heard: an outbox may hold one notice at a time.
const ROUNDS: usize = 12;

/// What there is beside the server where things are.
pub(super) fn component() -> Component {
    Component { jid: Jid::parse(REGISTRY).unwrap(), name: String::new(), kind: ComponentKind::Things }
}

/// The index of things, without its thread: it reads what changed when it is told.
#[derive(Debug)]
pub(super) struct Listing {
    store: MemoryStore,
    index: Mutex<Index>,
}

impl Listing {
    /// Of all that is in the store.
    pub(super) fn new(store: &MemoryStore) -> Self {
        let listing = Self { store: store.clone(), index: Mutex::default() };
        for thing in block_on(things::list(store, None, usize::MAX)).unwrap() {
            listing.put(&thing.jid, &thing.node, Some(&thing));
        }
        listing
    }

    fn put(&self, jid: &Jid, node: &NodeName, thing: Option<&ThingRecord>) {
        let mut index = self.index.lock().unwrap();
        match thing.filter(|thing| thing.is_listed()) {
            Some(thing) => index.put(jid.as_jid(), node, &thing.tags),
            None => index.remove(jid.as_jid(), node),
        }
    }

    /// What is found of a thing.
    fn find(&self, thing: usize) -> Vec<(Jid, NodeName)> {
        let test = Test::Str(Comparison::Equal, format!("s{thing}").into());
        let operator = Operator { name: "SN".into(), wildcard: None, test };
        let query = Query { operators: vec![operator], offset: 0, max: 9, telling: None };
        self.index.lock().unwrap().search(&query, &mut Budget::new(WORK, None)).unwrap().things
    }
}

impl Search for Listing {
    fn changed(&self, jid: &Jid, node: &NodeName) -> Noting {
        let thing = block_on(things::load(&self.store, jid, node)).unwrap();
        self.put(jid, node, thing.as_ref());
        Box::pin(ready(()))
    }

    fn search(&self, _: &Jid, query: Query) -> Searching {
        let found = self.index.lock().unwrap().search(&query, &mut Budget::new(WORK, None));
        Box::pin(ready(found))
    }
}

/// What passes between the registry and its clients.
#[derive(Default)]
pub(crate) struct Registry {
    /// What devices are asked and waited for: by shard, until when.
    asking: VecDeque<(usize, u64)>,
    asked: u64,
    /// Notices that clients did not answer.
    unanswered: Vec<(usize, String)>,
    /// By client, thing and name: the ids of what it was told, and when.
    told: HashMap<(usize, usize, String), HashMap<String, u64>>,
    /// By client: notices it refused.
    refused: HashMap<usize, usize>,
    /// Everybody answers at once, and never refuses.
    is_attentive: bool,
}

impl World {
    fn disco(&self) -> &'static str {
        Interface::Discovery.ns(self.plan.generation)
    }

    // ---- what clients ask ---------------------------------------------------------------------------------------

    /// A client asks the registry something.
    pub(super) fn say_thing(&mut self, client: usize) {
        let account = self.clients[client].jid.bare();
        let own: Vec<usize> = (0..DEVICES * NODES.len())
            .filter(|&thing| self.things.names.get(thing).is_some_and(|(jid, _)| *jid == account))
            .collect();
        let thing = match own.is_empty() || self.random.percent(40) {
            true => self.random.below(self.things.names.len()),
            false => self.random.pick(&own),
        };
        let what = if own.contains(&thing) && self.random.percent(70) {
            match self.random.below(10) {
                0..=5 => What::Register { self_owned: self.random.percent(15) },
                6..=8 => What::Update,
                _ => What::Unregister,
            }
        } else {
            let known: Vec<usize> = self.things.registrations(thing).take(3).collect();
            let is_owner = self.things.now(thing).is_some_and(|thing| thing.is_owned_by(account.as_jid()));
            match self.random.below(20) {
                // Mostly by what it said last.
                number if !known.is_empty() && number < if is_owner { 2 } else { 14 } => {
                    let at = self.random.below(10).saturating_sub(7).min(known.len() - 1);
                    let (right, public) = (!self.random.percent(10), self.random.percent(70));
                    What::Mine { of: known[at], right, public }
                }
                2..=15 => What::Disown,
                16 => What::Remove,
                // Whoever names itself is the device.
                17 if own.contains(&thing) => What::Update,
                17 => What::UpdateBy,
                _ => What::Search,
            }
        };
        self.ask_registry(client, what, thing);
    }

    /// A client asks something of a thing; the request's number.
    pub(super) fn ask_registry(&mut self, client: usize, what: What, thing: usize) -> usize {
        let caller = self.clients[client].jid.clone();
        let number = self.things.ask(client, &caller, what.clone(), thing);
        let (jid, node) = self.things.names[thing].clone();
        let ns = self.disco();
        let id = if node.id.is_empty() { String::new() } else { format!(" id='{}'", node.id) };
        let tags = |of: usize, key: &str| {
            format!("<str name='SN' value='s{thing}'/><num name='REG' value='{of}'/><str name='KEY' value='{key}'/>")
        };
        let news = format!("<str name='U' value='u{number}'/>");
        let payload = match what {
            What::Register { self_owned } => {
                let tags = tags(number, &secret(number));
                format!("<register xmlns='{ns}'{id} selfOwned='{self_owned}'>{tags}</register>")
            }
            What::Mine { of, right, public } => {
                let key = if right { secret(of) } else { format!("{}-not", secret(of)) };
                format!("<mine xmlns='{ns}' public='{public}'>{}</mine>", tags(of, &key))
            }
            What::Update => format!("<update xmlns='{ns}'{id}>{news}</update>"),
            What::UpdateBy => format!("<update xmlns='{ns}' jid='{jid}'{id}>{news}</update>"),
            What::Remove => format!("<remove xmlns='{ns}' jid='{jid}'{id}/>"),
            What::Disown => format!("<disown xmlns='{ns}' jid='{jid}'{id}/>"),
            What::Unregister => format!("<unregister xmlns='{ns}'{id}/>"),
            What::Search => format!("<search xmlns='{ns}'><strEq name='SN' value='s{thing}'/></search>"),
        };
        let kind = if what == What::Search { "get" } else { "set" };
        let request = format!("<iq type='{kind}' id='t{number}' to='{REGISTRY}'>{payload}</iq>");
        if self.plan.owners {
            self.queue_soon(client, request);
        } else {
            self.queue(client, request, None);
        }
        number
    }

    // ---- the registry -------------------------------------------------------------------------------------------

    /// The registry begins to answer.
    pub(super) fn begin_service(&mut self, shard: usize, mut request: Request, reply_to: ReplyTo) {
        request.unix_millis = self.unix_millis();
        let (id, caller) = (&*request.id_raw, request.caller.clone());
        let cause = self.owners.begin(id, self.things.now_is(), self.activity).unwrap_or_else(|| self.things.begin(id));
        let answer = services::answer(Arc::clone(&self.errand_config.services), self.slow_store.clone(), request);
        let whose = Whose::Service(caller, reply_to, cause);
        self.begin_with_the_store(shard, whose, async move { Brought::Reply(answer.await) });
    }

    /// A device was asked, and has heard or has not: the registry goes on.
    pub(super) fn go_on_asked(&mut self, shard: usize, ask: Ask, reply_to: ReplyTo, acknowledged: bool) {
        let (caller, device) = (ask.caller().clone(), ask.device.clone());
        let cause = Cause::Disowned { caller: caller.clone(), device, acknowledged };
        let (config, store) = (Arc::clone(&self.errand_config.services), self.slow_store.clone());
        let answer = services::asked(config, store, ask, acknowledged);
        let whose = Whose::Service(caller, reply_to, cause);
        self.begin_with_the_store(shard, whose, async move { Brought::Reply(answer.await) });
    }

    /// What follows from what a device was answered.
    pub(super) fn inquire(&mut self, shard: usize, device: Jid, after: plaza_registry::provisioning::After) {
        let (config, store) = (Arc::clone(&self.errand_config.services), self.slow_store.clone());
        let now = self.unix_millis();
        let inquiry = async move {
            let effects = services::inquire(&config, &store, after, now).await;
            Brought::Reply(Reply { effects, ..Reply::default() })
        };
        self.begin_with_the_store(shard, Whose::Inquiry(device), inquiry);
    }

    fn unix_millis(&self) -> u64 {
        self.activity + self.owners.days * owners::DAY_MILLIS
    }

    /// Begins work that a prompt store may refuse as a whole; a slow one refuses as it goes on.
    fn begin_with_the_store(&mut self, shard: usize, whose: Whose, work: impl Future<Output = Brought> + 'static) {
        let refused = !self.plan.slow && self.random.percent(self.plan.store_refuses_percent);
        self.store.refuse(refused.then_some(StoreError::Busy));
        self.begin(shard, whose, work);
        self.store.refuse(None);
    }

    pub(super) fn finish_service(&mut self, shard: usize, caller: &Jid, reply_to: ReplyTo, reply: Reply) {
        if !reply.stanza.is_empty() {
            let text = std::str::from_utf8(&reply.stanza).unwrap();
            let fails = self.plan.slow || self.plan.store_refuses;
            let stanza = Node::parse(text, plaza_core::ns::CLIENT).unwrap();
            self.things.answered(&stanza, fails);
            self.owners.answered(&self.things, &caller.bare(), &stanza, fails);
        }
        self.is_answered(shard, &reply_to);
        self.shards[shard].reply(caller, reply_to, reply);
    }

    /// A device is waited for.
    pub(super) fn ask_until(&mut self, shard: usize, number: u64) {
        self.registry.asked += 1;
        let until = self.registry.asked;
        self.shards[shard].ask_until(number, until);
        self.registry.asking.push_back((shard, until));
    }

    /// The time of the device that was asked first is over, if one was.
    pub(super) fn ask_is_due(&mut self) -> bool {
        let Some((shard, until)) = self.registry.asking.pop_front() else { return false };
        self.activity += 1;
        self.shards[shard].asks_due(until);
        true
    }

    /// The registry is gone with the broker.
    pub(super) fn forget_registry(&mut self) {
        self.registry.asking.clear();
        self.registry.unanswered.clear();
    }

    // ---- what clients hear --------------------------------------------------------------------------------------

    /// A client is sent something by the registry.
    pub(super) fn hear_registry(&mut self, client: usize, stanza: &Node) {
        let (id, kind) = (stanza.attr("id").unwrap_or_default(), stanza.attr("type").unwrap_or_default());
        match (&*stanza.name, kind) {
            ("iq", "set") => self.hear_notice(client, id, &stanza.children[0]),
            ("iq", "result" | "error") => {
                if let Some(number) = self.things.hears(id, kind) {
                    self.hear_of_thing(client, number, kind);
                }
                self.hear_answer(client, id, stanza);
            }
            ("message", "") => self.hear_message(client, &stanza.children[0]),
            _ => panic!("nobody asked for {stanza:?}"),
        }
    }

    /// A client has the answer to a request about a thing.
    fn hear_of_thing(&mut self, client: usize, number: usize, kind: &str) {
        let Asked { client: asked, what, thing, .. } = &self.things.asked[number];
        assert_eq!(self.clients[*asked].jid, self.clients[client].jid, "an answer to {what:?} is another's");
        let (thing, is_for_claims) = (*thing, kind == "result" && *what == What::Register { self_owned: false });
        if self.plan.owners && is_for_claims && self.random.percent(80) {
            // Where there are to be owners, somebody claims it at once.
            let client = self.someone().unwrap_or(client);
            self.ask_registry(client, What::Mine { of: number, right: true, public: true }, thing);
        }
    }

    fn hear_notice(&mut self, client: usize, id: &str, notice: &Node) {
        let device = self.clients[client].jid.bare();
        let thing = self.things.find(&device, node_id(notice).unwrap_or_default());
        let thing = thing.unwrap_or_else(|| panic!("{device} was told {notice:?} of a thing it never had"));
        self.things.notices += 1;
        if &*notice.name == "claimed" {
            let owner = notice.attr("jid").unwrap_or_default();
            assert!(self.things.was_owned_by(thing, owner), "{device} was told that {owner} owns it");
        }
        let told = self.registry.told.entry((client, thing, notice.name.to_string())).or_default();
        told.insert(id.to_owned(), self.things.now_is());
        let (often, refused) = (told.len(), self.registry.refused.get(&client).copied().unwrap_or(0));
        if &*notice.name == "claimed" && !self.plan.store_refuses {
            let most = self.things.claimed_often(thing) + refused;
            assert!(often <= most, "{device} was told {often} times that it is claimed, which it was {most} times");
        }
        if &*notice.name == "clearCache" && !self.plan.store_refuses {
            let most = self.things.cleared_often(&device) + refused;
            assert!(often <= most, "{device} was told {often} times to ask anew, which it had to {most} times");
        }
        let answer = match self.random.below(10) {
            _ if self.registry.is_attentive => "result",
            0 | 1 => return self.registry.unanswered.push((client, id.to_owned())),
            2 => "error",
            _ => "result",
        };
        if answer == "error" {
            *self.registry.refused.entry(client).or_default() += 1;
        } else {
            self.acknowledges(client, id);
        }
        self.answer_notice(client, id, answer);
    }

    /// A client acknowledges what it was told, whatever that was about.
    fn acknowledges(&mut self, client: usize, id: &str) {
        for ((of, thing, name), ids) in &self.registry.told {
            let Some(&told) = ids.get(id).filter(|_| *of == client) else { continue };
            match &**name {
                "disowned" => self.things.has_heard(*thing),
                "claimed" => self.things.knows(*thing, told),
                "clearCache" => self.things.clears(self.things.names[*thing].0.clone(), told),
                _ => {}
            }
        }
    }

    fn answer_notice(&mut self, client: usize, id: &str, answer: &str) {
        self.queue(client, format!("<iq type='{answer}' id='{id}' to='{REGISTRY}'/>"), None);
    }

    // ---- when all is quiet --------------------------------------------------------------------------------------

    /// Everybody answers from now on, also what was left unanswered.
    pub(super) fn attend(&mut self) {
        self.registry.is_attentive = true;
        for (client, id) in std::mem::take(&mut self.registry.unanswered) {
            if !self.clients[client].ended {
                self.acknowledges(client, &id);
                self.answer_notice(client, &id, "result");
            }
        }
    }

    /// Everybody hears what there is to be told.
    pub(super) fn tell_all(&mut self) {
        let refused = std::mem::take(&mut self.plan.store_refuses_percent);
        for round in 0.. {
            let untold = self.untold();
            if untold.is_empty() {
                break;
            }
            assert!(round < ROUNDS, "{untold:?} are never told what became of their things");
            for client in 0..self.clients.len() {
                if !self.clients[client].ended {
                    self.hide(client);
                    self.queue(client, "<presence/>".into(), None);
                    (self.clients[client].available, self.clients[client].priority) = (true, 0);
                }
            }
            self.settle();
        }
        self.plan.store_refuses_percent = refused;
    }

    /// Accounts that are there, and have to be told something of their things.
    fn untold(&self) -> Vec<Jid> {
        let is_there = |account: &Jid| {
            self.clients.iter().any(|client| !client.ended && client.available && client.jid.bare() == *account)
        };
        let things = (0..self.things.names.len())
            .filter(|&thing| self.things.now(thing).is_some_and(|thing| thing.pending.any() && is_there(&thing.jid)));
        things.map(|thing| self.things.names[thing].0.clone()).collect()
    }

    /// The store, its lists and the index say the same of all things, which is what became of them.
    pub(super) fn check_things(&self) {
        let all = block_on(things::list(&self.store, None, usize::MAX)).unwrap();
        let known: Vec<&ThingRecord> =
            (0..self.things.names.len()).filter_map(|thing| self.things.now(thing)).collect();
        assert_eq!(all.len(), known.len(), "{all:?}");
        assert!(all.iter().all(|thing| known.contains(&thing)), "{all:?} is stored, {known:?} is what became of it");
        for account in &self.accounts {
            let mut owned = block_on(things::owned(&self.store, account.as_jid(), None, usize::MAX)).unwrap();
            let owns = known.iter().filter(|thing| thing.is_owned_by(account.as_jid()));
            let mut owns: Vec<_> = owns.map(|thing| (thing.jid.clone(), thing.node.clone())).collect();
            owned.sort_by(|one, other| format!("{one:?}").cmp(&format!("{other:?}")));
            owns.sort_by(|one, other| format!("{one:?}").cmp(&format!("{other:?}")));
            assert_eq!(owned, owns, "{account}");
        }
        let anew = Listing::new(&self.store);
        for (number, (jid, node)) in self.things.names.iter().enumerate() {
            let is_listed = self.things.now(number).is_some_and(ThingRecord::is_listed);
            let expected: Vec<_> = is_listed.then(|| (jid.clone(), node.clone())).into_iter().collect();
            let listing = self.listing.as_ref().unwrap();
            assert_eq!((listing.find(number), anew.find(number)), (expected.clone(), expected), "{jid} {node:?}");
        }
        let room = |reason| self.shards.iter().all(|shard| shard.counters.drops[reason] == 0);
        if room(DropReason::OutboxFull) && room(DropReason::MeshFull) {
            let there = |asked: &&super::things::Asked| !self.clients[asked.client].ended;
            for asked in self.things.asked.iter().filter(there) {
                assert!(asked.heard, "{} has no answer to {asked:?}", self.clients[asked.client].jid);
            }
        }
    }
}
