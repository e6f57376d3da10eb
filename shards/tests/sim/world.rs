//! The world around the shards: clients, the mesh, services and the driver's part.

#[path = "blocks.rs"]
mod blocks;
#[path = "checks.rs"]
mod checks;
#[path = "clients.rs"]
mod clients;
#[path = "driving.rs"]
mod driving;
#[path = "faults.rs"]
mod faults;
#[path = "newcomers.rs"]
mod newcomers;
#[path = "orders.rs"]
mod orders;
#[path = "owners.rs"]
mod owners;
#[path = "plan.rs"]
mod plan;
#[path = "registry.rs"]
mod registry;
#[path = "restart.rs"]
mod restart;
#[path = "seeing.rs"]
mod seeing;
#[path = "things.rs"]
mod things;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use plaza_core::jid::Jid;
use plaza_core::xml::Scanner;
use plaza_registry::accounts;
use plaza_registry::errands::{Errand, ErrandConfig};
use plaza_registry::services::Request;
use plaza_registry::store::memory::MemoryStore;
use plaza_registry::wait::block_on;
use plaza_registry::{archive, broker};
use plaza_shards::home::Homes;
use plaza_shards::mesh::ShardId;
use plaza_shards::metrics::Counters;
use plaza_shards::shard::{Batch, ReplyTo, SessionId, Shard};

use super::random::Random;
use blocks::Blocks;
use faults::{Notes, Running, SlowStore};
use newcomers::Newcomers;
use owners::Owners;
use plan::{Plan, keys};
use registry::{DEVICES, Listing, NODES, Registry};
use things::Things;

const DOMAIN: &str = "things.example";
/// What a stanza has beside its body: addresses, stamps, tags.
const FRAME_BYTES: usize = 700;

/// A stanza waiting to be fed.
struct Pending {
    text: String,
    /// Its place in [`World::sent`], if it is followed.
    number: Option<usize>,
}

/// What became of a stanza whose id is `n` and its number.
struct Sent {
    sender: usize,
    /// How it begins.
    tag: String,
    /// Whom it is for, as said.
    to: String,
    /// It asks: an answer with its id is one to its sender.
    request: bool,
    /// Its own type is `error`: with this id it's never an answer.
    error: bool,
    taken: bool,
    /// When it was taken, in things that happened.
    taken_at: u64,
    /// It is a message, and its recipient was away; it was acknowledged before anybody was there.
    away: bool,
    durable: bool,
    /// Its sender blocked its recipient by then.
    held_up: bool,
    delivered: Vec<usize>,
    answers: u32,
}

/// A bound session, and the client at its other end.
struct Client {
    shard: usize,
    id: SessionId,
    jid: Jid,
    pending: VecDeque<Pending>,
    /// As the driver's: nothing is fed.
    paused: bool,
    /// A service owes it an answer.
    awaiting: bool,
    ended: bool,
    reads: bool,
    /// Bytes of the send that is under way.
    sending: Option<usize>,
    /// It wants to send more, as the driver's list says.
    flush: bool,
    /// Its last own presence was available.
    available: bool,
    /// Its priority, as it said last.
    priority: i32,
    directed: Vec<String>,
    /// Highest number seen from an address.
    latest: HashMap<(String, String, bool), usize>,
    /// Number of the last event, by `from` and `to`.
    events: HashMap<(String, String), u64>,
    /// The same of messages to its account that did not have to be kept.
    latest_live: HashMap<(String, String), usize>,
    /// By `from` and `to`: whether the last presence said available.
    seen: HashMap<(String, String), bool>,
    /// Whether the last presence from an address, to whichever of ours, said available.
    last: HashMap<String, bool>,
    /// It said it is unavailable at some time: then it may miss what others say.
    hid: bool,
    /// The name of its stream management, and how many stanzas it has, if its stream is managed.
    managed: Option<(String, u32)>,
    /// Cut off, and not back yet.
    cut: bool,
    /// In which life of the broker it was bound, and when.
    life: u32,
    bound_at: u64,
    /// Its stanzas that were taken since its stream is managed, by number if they are followed.
    said: Vec<Option<usize>>,
    /// It asked for that.
    enabling: bool,
    /// Up to when it knows what its account blocks.
    told_blocks: u64,
}

pub(crate) struct World {
    random: Random,
    plan: Plan,
    shards: Vec<Shard>,
    homes: Homes,
    /// How often the broker was killed, and when last, in things that happened.
    pub(crate) life: u32,
    killed_at: u64,
    /// Messages archived in former lives.
    archived_before: u64,
    /// Batches under way, by sender and receiver.
    lanes: Vec<Vec<VecDeque<Box<Batch>>>>,
    #[expect(clippy::vec_box, reason = "batches travel boxed")]
    spares: Vec<Box<Batch>>,
    clients: Vec<Client>,
    sent: Vec<Sent>,
    services: Vec<(usize, Box<Request>, ReplyTo)>,
    accounts: Vec<Jid>,
    /// Resources ever bound, to write to those that are gone as well.
    resources: Vec<String>,
    scanner: Scanner,
    /// Things that happened: none in a round means that all is quiet.
    activity: u64,
    /// Of its own, so that what is about events changes nothing else.
    event_random: Random,
    /// Events made, and those that arrived.
    events: u64,
    pub(crate) events_seen: u64,
    /// JIDs bound more than once.
    rebound: HashSet<String>,
    /// Who was told twice in a row that somebody left.
    told_twice: Vec<String>,
    /// What is kept, by the code that keeps it for the broker.
    store: MemoryStore,
    errands: Vec<(usize, Jid, Errand)>,
    /// The store as errands see it where it takes its time, and those that wait for it.
    slow_store: SlowStore,
    running: Vec<Running>,
    pub(crate) requests_refused: u64,
    pub(crate) notes: Notes,
    /// Clients whose stream was managed at some time.
    managed_clients: HashSet<usize>,
    errand_config: ErrandConfig,
    /// Sessions whose clients are waited for to acknowledge, by shard.
    watched: VecDeque<(usize, SessionId)>,
    pub(crate) blocks: Blocks,
    /// Clients that log in: account, resource.
    logging_in: Vec<(Jid, String)>,
    pub(crate) things: Things,
    pub(crate) owners: Owners,
    registry: Registry,
    newcomers: Option<Newcomers>,
    /// What strangers find.
    listing: Option<Arc<Listing>>,
    /// What passes is printed.
    is_told: bool,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::draw(seed, &mut random);
        let homes = Homes::new(plan.shards, random.next());
        let shards = restart::start(&plan, &homes, 0);
        let count = usize::from(plan.shards);
        let accounts: Vec<Jid> = (0..plan.accounts).map(|n| Jid::parse(&format!("a{n}@{DOMAIN}")).unwrap()).collect();
        let store = MemoryStore::new();
        for account in &accounts {
            block_on(accounts::create(&store, account.as_jid(), keys(), false, 0)).unwrap();
            if plan.config.archive.is_on() {
                block_on(archive::allow(&store, account.as_jid())).unwrap();
            }
        }
        block_on(broker::begin_run(&store, 0)).unwrap();
        let newcomers = plan.newcomers.then(|| Newcomers::new(seed, &store, plan.store_refuses_percent));
        let listing = plan.things.then(|| Arc::new(Listing::new(&store)));
        let errand_config = restart::errand_config(&plan, listing.as_ref());
        let slow_store = SlowStore::new(&store, !plan.slow);
        let things = if plan.things { &accounts[..accounts.len().min(DEVICES)] } else { &[] };
        let is_told = std::env::var_os("PLAZA_TRACE").is_some();
        let mut things = Things::new(things, &NODES);
        things.is_told = is_told;
        Self {
            random,
            plan,
            shards,
            homes,
            life: 0,
            killed_at: 0,
            archived_before: 0,
            lanes: (0..count).map(|_| (0..count).map(|_| VecDeque::new()).collect()).collect(),
            spares: Vec::new(),
            clients: Vec::new(),
            sent: Vec::new(),
            services: Vec::new(),
            accounts,
            resources: Vec::new(),
            scanner: Scanner::new(),
            activity: 0,
            event_random: Random::new(!seed),
            events: 0,
            events_seen: 0,
            rebound: HashSet::new(),
            told_twice: Vec::new(),
            slow_store,
            store,
            errands: Vec::new(),
            running: Vec::new(),
            requests_refused: 0,
            notes: Notes::default(),
            managed_clients: HashSet::new(),
            errand_config,
            watched: VecDeque::new(),
            blocks: Blocks::default(),
            logging_in: Vec::new(),
            things,
            owners: Owners::default(),
            registry: Registry::default(),
            newcomers,
            listing,
            is_told,
        }
    }

    /// Steps of any kind in any order.
    pub(crate) fn live(&mut self) {
        for _ in 0..self.plan.steps {
            let shard = self.random.below(self.shards.len());
            // Now and then the time of one is over who is waited for.
            if self.activity.is_multiple_of(64)
                && let Some((shard, id)) = self.watched.pop_front()
            {
                self.activity += 1;
                self.shards[shard].expire(id, Some(0));
            }
            if self.plan.killed && self.random.below(self.plan.steps) < 2 {
                self.kill();
            }
            if self.plan.slow && self.random.percent(30) {
                self.store_goes_on();
            }
            if self.plan.things && self.random.below(500) == 0 {
                self.ask_is_due();
            }
            self.newcomers_go_on();
            match self.random.below(24) {
                0 => self.bind(),
                1..=5 => self.say(),
                6..=10 => self.feed_someone(),
                11..=13 => self.flush(shard),
                14..=16 => self.read_someone(),
                17 | 18 => {
                    self.shards[shard].go_on_fanning(3);
                    self.hand_over(shard);
                }
                19 | 20 => self.arrive(shard),
                21 if self.random.percent(30) => {
                    let cut: Vec<usize> = (0..self.clients.len()).filter(|&at| self.clients[at].cut).collect();
                    if !cut.is_empty() {
                        let back = self.random.pick(&cut);
                        self.come_back(back);
                    }
                }
                21 => {
                    let most = self.random.below(8);
                    self.carry_out(shard, most);
                }
                22 if self.random.percent(50) => self.serve(),
                22 => self.run_errand(),
                _ => self.disturb(),
            }
        }
    }

    /// Everybody reads and the mesh has room, until nothing happens any more: then nobody may be waiting.
    pub(crate) fn drain(&mut self) {
        self.plan.refused_percent = 0;
        self.plan.acknowledged_percent = 100;
        for client in &mut self.clients {
            client.reads = true;
        }
        self.attend();
        self.settle();
        for client in 0..self.clients.len() {
            self.come_back(client);
        }
        self.settle();
        // Some did not answer when they were asked.
        for client in 0..self.clients.len() {
            self.acknowledge(client);
        }
        self.settle();
        for (index, client) in self.clients.iter().enumerate().filter(|(_, client)| !client.ended) {
            let state = (
                client.paused,
                client.awaiting,
                client.cut,
                &client.managed,
                client.sending,
                client
                    .pending
                    .iter()
                    .map(|pending| pending.text.chars().take(60).collect::<String>())
                    .collect::<Vec<_>>(),
            );
            assert!(!client.paused && !client.awaiting, "{} waits for ever: {state:?}", client.jid);
            assert!(client.pending.is_empty(), "{index}");
        }
        if self.plan.blocks {
            self.make_up();
        }
        self.tell_all();
        self.ask_anew();
        self.settle_newcomers();
        self.agree();
        // A pause nobody takes back shows only when something is said.
        for index in 0..self.clients.len() {
            if !self.clients[index].ended {
                self.send(index, "iq", "get", DOMAIN, "<ping xmlns='urn:xmpp:ping'/>");
            }
        }
        self.settle();
        for client in self.clients.iter().filter(|client| !client.ended) {
            assert!(client.pending.is_empty() && !client.paused, "{} is never resumed", client.jid);
        }
    }

    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 20_000, "the world does not come to rest");
            let before = self.activity;
            for client in 0..self.clients.len() {
                self.read(client);
                self.feed(client);
            }
            while !self.services.is_empty() || !self.errands.is_empty() || !self.running.is_empty() {
                self.serve();
                self.run_errand();
                self.store_goes_on();
            }
            for shard in 0..self.shards.len() {
                self.flush(shard);
                self.activity += u64::from(self.shards[shard].is_fanning());
                self.shards[shard].go_on_fanning(256);
                self.hand_over(shard);
                self.arrive(shard);
                self.carry_out(shard, usize::MAX);
            }
            if self.activity == before && !self.ask_is_due() {
                return;
            }
        }
    }

    /// Ends every session; nothing of them may be left.
    pub(crate) fn end(&mut self) {
        for client in 0..self.clients.len() {
            self.disconnect(client);
            if self.random.percent(30) {
                self.settle();
            }
        }
        self.settle();
        for (index, shard) in self.shards.iter_mut().enumerate() {
            shard.trim_facts(0);
            assert_eq!(shard.sessions(), 0);
            assert_eq!(shard.measure().held, 0, "tables of shard {index}");
            shard.show_memory();
            let memory = shard.counters.memory;
            assert_eq!(Counters::total(&memory), 0, "shard {index} counts what is gone: {memory:?}");
            assert!(shard.next_dirty().is_none());
            assert!(shard.poll_effect().is_none());
            assert!((0..self.plan.shards).all(|to| !shard.has_batch(ShardId(to))));
        }
    }
}
