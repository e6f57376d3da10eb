//! The world around the shards: clients, the mesh, services and the driver's part.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use plaza_core::jid::{Jid, JidRef};
use plaza_core::limits::ScanLimits;
use plaza_core::ns;
use plaza_core::rsm::Start;
use plaza_core::sasl::scram::{Hash, Keys};
use plaza_core::sm::SmId;
use plaza_core::stanza::{Condition, IqType, Kind, MessageType, write_error, write_reply_start};
use plaza_core::stream::{self, NotResumed};
use plaza_core::subscription::State;
use plaza_core::xml::{Scanned, Scanner, StreamNamespaces};
use plaza_registry::accounts::{self, NewKeys};
use plaza_registry::archive::{self, ArchiveConfig, ArchiveLimits, Mode, Modes, Query};
use plaza_registry::errands::{self, Errand, ErrandConfig};
use plaza_registry::offline::{self, OfflineLimits};
use plaza_registry::rosters;
use plaza_registry::services::{Effect as ServiceEffect, Reply, Request, ServiceConfig, ServiceLimits, Target};
use plaza_registry::store::StoreError;
use plaza_registry::store::memory::MemoryStore;
use plaza_registry::wait::block_on;
use plaza_registry::{provisioning, pubsub};
use plaza_shards::home::Homes;
use plaza_shards::mesh::ShardId;
use plaza_shards::metrics::{Counters, DropReason};
use plaza_shards::ring::Key;
use plaza_shards::shard::ManagedLimits;
use plaza_shards::shard::{BATCH_BYTES_MAX, Batch, Effect, Flow, ReplyTo, SessionId, Shard, ShardConfig};

use super::random::Random;

const DOMAIN: &str = "things.example";
/// What a stanza has beside its body: addresses, stamps, tags.
const FRAME_BYTES: usize = 700;

/// What a seed draws once.
struct Plan {
    /// Every drop is accounted for: one resource per account, and no presence the broker makes itself.
    exact: bool,
    /// Of errands, those the store refuses.
    store_refuses_percent: usize,
    /// Of clients, those whose stream is managed.
    managed_percent: usize,
    /// Of our questions how much they have, those they answer.
    acknowledged_percent: usize,
    shards: u16,
    accounts: usize,
    clients_max: usize,
    steps: usize,
    body_bytes_max: usize,
    /// Of sends, those the mesh refuses for no reason.
    refused_percent: usize,
    lane_batches_max: usize,
    /// Of choices whether to read, those against it.
    idle_percent: usize,
    /// Of addresses, those that are the latest session's: everybody writes to one.
    crowd_percent: usize,
    config: ShardConfig,
}

/// Whatever anybody says is archived; few messages, so that the oldest go.
const ARCHIVED: ArchiveConfig = ArchiveConfig {
    modes: Modes::ALL,
    default: Mode::Always,
    limits: ArchiveLimits {
        age_millis_max: 1_000_000,
        messages_max: 20,
        bytes_max: 1 << 20,
        page_max: 10,
        page_bytes_max: 16 << 10,
    },
    id_key: 7,
};

impl Plan {
    fn draw(seed: u64, random: &mut Random) -> Self {
        let large = (seed + 4).is_multiple_of(5);
        let outbox_bytes_max = if large { 262_144 } else { 1024 << random.below(5) };
        Self {
            exact: seed.is_multiple_of(3),
            store_refuses_percent: random.pick(&[0, 0, 5, 30]),
            managed_percent: random.pick(&[0, 50, 100]),
            acknowledged_percent: random.pick(&[50, 100]),
            shards: 1 + random.below(4) as u16,
            accounts: 1 + random.below(9),
            clients_max: 4 + random.below(16),
            steps: if large { 300 } else { 300 + random.below(1200) },
            body_bytes_max: if large { 30_000 } else { 40 << random.below(6) },
            refused_percent: random.pick(&[0, 10, 50, 90]),
            lane_batches_max: 1 + random.below(3),
            idle_percent: random.pick(&[10, 50, 80, 97]),
            crowd_percent: random.pick(&[0, 0, 70]),
            config: ShardConfig {
                domains: vec![Jid::parse(DOMAIN).unwrap()],
                services: Vec::new(),
                outbox_bytes_max,
                outbox_bytes_full: outbox_bytes_max / 2,
                outbox_bytes_high: outbox_bytes_max / 4,
                outbox_bytes_low: outbox_bytes_max / 16,
                sessions_per_account_max: 4,
                directed_presence_max: 4,
                facts_bytes_max: random.pick(&[0, 1_000, 1 << 20]),
                requests_max: 3,
                caps: Arc::new(plaza_registry::directory::CapsCache::new(16)),
                managed: ManagedLimits {
                    stanzas_max: random.pick(&[10, 500]),
                    bytes_max: random.pick(&[16 << 10, 512 << 10]),
                    resume_seconds_max: 600,
                    hibernated_max: random.pick(&[0, 1, 4]),
                },
                managed_key: [7; 32],
                offline: OfflineLimits {
                    messages_max: random.pick(&[0, 3, 100]),
                    bytes_max: random.pick(&[2_000, 512 * 1024]),
                    age_millis_max: 1_000_000,
                },
                tokens: plaza_registry::tokens::TokenLimits::default(),
                // By the seed, not drawn: worlds that found a bug once stay what they were.
                archive: if seed % 4 == 2 { ARCHIVED } else { ArchiveConfig::default() },
                id_prefix: "plaza-".into(),
            },
        }
    }
}

/// Keys nobody logs in with.
fn keys() -> NewKeys {
    let keys = |hash, len| Keys {
        hash,
        salt: [1; 16].into(),
        iterations: 1,
        stored_key: vec![1; len].into(),
        server_key: vec![1; len].into(),
    };
    NewKeys { sha1: keys(Hash::Sha1, 20), sha256: keys(Hash::Sha256, 32) }
}

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
    /// It asks: an answer with its id is one to its sender.
    request: bool,
    /// Its own type is `error`: with this id it's never an answer.
    error: bool,
    taken: bool,
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
}

pub(crate) struct World {
    random: Random,
    plan: Plan,
    shards: Vec<Shard>,
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
    /// Clients whose stream was managed at some time.
    managed_clients: HashSet<usize>,
    errand_config: ErrandConfig,
    /// Sessions whose clients are waited for to acknowledge, by shard.
    watched: VecDeque<(usize, SessionId)>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::draw(seed, &mut random);
        let homes = Homes::new(plan.shards, random.next());
        let config = Arc::new(plan.config.clone());
        let shards = (0..plan.shards)
            .map(|shard| Shard::new(ShardId(shard), plan.shards, homes.clone(), Arc::clone(&config)))
            .collect();
        let count = usize::from(plan.shards);
        let accounts: Vec<Jid> = (0..plan.accounts).map(|n| Jid::parse(&format!("a{n}@{DOMAIN}")).unwrap()).collect();
        let store = MemoryStore::new();
        for account in &accounts {
            block_on(accounts::create(&store, account.as_jid(), keys(), false, 0)).unwrap();
            if plan.config.archive.is_on() {
                block_on(archive::allow(&store, account.as_jid())).unwrap();
            }
        }
        let errand_config = ErrandConfig {
            roster_items_max: 20,
            requests_max: plan.config.requests_max,
            offline: plan.config.offline,
            services: Arc::new(ServiceConfig {
                name: "Plaza".into(),
                version: "0".into(),
                node: "https://plaza.example".into(),
                domains: plan.config.domains.clone(),
                components: Vec::new(),
                roster_items_max: 20,
                limits: ServiceLimits::default(),
                pubsub: pubsub::Config::new(pubsub::Limits::DEFAULT, plan.config.domains.clone()),
                archive: plan.config.archive,
                things: plaza_registry::things::Config::new(plaza_registry::things::Limits::DEFAULT, None),
                registration: plaza_registry::registration::Registrar::off(),
                provisioning: provisioning::Config::new(provisioning::Limits::DEFAULT, [7; 32]),
            }),
        };
        Self {
            random,
            plan,
            shards,
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
            store,
            errands: Vec::new(),
            managed_clients: HashSet::new(),
            errand_config,
            watched: VecDeque::new(),
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
            while !self.services.is_empty() || !self.errands.is_empty() {
                self.serve();
                self.run_errand();
            }
            for shard in 0..self.shards.len() {
                self.flush(shard);
                self.activity += u64::from(self.shards[shard].is_fanning());
                self.shards[shard].go_on_fanning(256);
                self.hand_over(shard);
                self.arrive(shard);
                self.carry_out(shard, usize::MAX);
            }
            if self.activity == before {
                return;
            }
        }
    }

    /// What became of every stanza.
    pub(crate) fn check(&self) {
        let mut lost = Vec::new();
        let kept = self.kept();
        for (number, sent) in self.sent.iter().enumerate() {
            if kept.contains(&number) {
                let handed_on = self.plan.managed_percent > 0;
                assert!(sent.taken && (sent.answers == 0 || handed_on), "n{number} is kept, and was refused");
                continue;
            }
            let outcomes = u32::from(!sent.delivered.is_empty()) + sent.answers;
            assert!(sent.taken || outcomes == 0, "n{number} came from nowhere");
            // One of several resources did not acknowledge a message, and nobody could take it in its place.
            let managed = sent.delivered.iter().any(|client| self.managed_clients.contains(client));
            let handed_on = managed || (self.plan.managed_percent > 0 && !sent.request);
            assert!(outcomes <= 1 || handed_on, "n{number}: {} copies, {} answers", sent.delivered.len(), sent.answers);
            if sent.taken && outcomes == 0 {
                lost.push((self.clients[sent.sender].jid.as_str(), sent.tag.as_str()));
            }
        }
        let drops: u64 = self.shards.iter().map(|shard| Counters::total(&shard.counters.drops)).sum();
        let count = lost.len() as u64;
        assert!(count <= drops, "{drops} drops counted, {count} stanzas lost: {lost:?}");
        if self.plan.exact {
            assert_eq!(count, drops, "each drop is one stanza's: {lost:?}");
        }
        self.check_presence();
        self.check_archives();
    }

    /// Archives hold what their heads say, in order and within their bounds.
    fn check_archives(&self) {
        let config = &self.plan.config.archive;
        let mut stored = 0;
        for account in self.accounts.iter().filter(|_| config.is_on()) {
            let (mut ids, mut query) = (Vec::new(), Query::ALL);
            loop {
                let found = archive::query(&self.store, account.as_jid(), config, &query, 0, 0);
                let found = block_on(found).unwrap();
                ids.extend(found.items.iter().map(|item| item.id));
                if found.complete {
                    break;
                }
                query.page.start = Start::After(ids.last().unwrap().to_string());
            }
            let all = block_on(archive::query(&self.store, account.as_jid(), config, &Query::ALL, 0, 0)).unwrap();
            assert_eq!(all.count, Some(ids.len() as u32), "{account:?}");
            assert!(ids.is_sorted_by(|one, next| one < next) && ids.len() <= config.limits.messages_max as usize);
            stored += ids.len() as u64;
        }
        let archived: u64 = self.shards.iter().map(|shard| shard.counters.archived).sum();
        assert!(stored <= archived, "{stored} stored, {archived} counted");
    }

    /// Numbers of the stanzas that are in the store.
    fn kept(&self) -> HashSet<usize> {
        let mut kept = HashSet::new();
        for account in &self.accounts {
            for message in block_on(offline::load(&self.store, account.as_jid(), &self.plan.config.offline, 0)).unwrap()
            {
                let text = String::from_utf8(message.stanza).unwrap();
                let number = text.split(" id='n").nth(1).and_then(|rest| rest.split('\'').next());
                kept.extend(number.and_then(|number| number.parse::<usize>().ok()));
            }
        }
        kept
    }

    /// Two accounts that talk one after the other agree: what one calls "to" the other calls "from". When their requests
    /// cross they need not, for the protocol does not say which one an answer is to.
    fn agree(&mut self) {
        if self.plan.exact {
            return; // The presence that follows is followed by nobody.
        }
        let store_refuses_percent = std::mem::take(&mut self.plan.store_refuses_percent);
        for _ in 0..3 {
            let (Some(one), Some(other)) = (self.someone(), self.someone()) else { break };
            let [ours, theirs] = [one, other].map(|client| self.clients[client].jid.bare());
            if ours == theirs {
                continue;
            }
            let request = |world: &mut Self, client: usize, to: &Jid, kind: &str| {
                world.queue(client, format!("<presence type='{kind}' to='{to}'/>"), None);
                world.settle();
            };
            for kind in ["unsubscribe", "unsubscribed"] {
                request(self, one, &theirs, kind);
                request(self, other, &ours, kind);
            }
            assert_eq!(self.states(&ours, &theirs).map(|state| state.to || state.from), [false, false]);
            request(self, one, &theirs, "subscribe");
            request(self, other, &ours, "subscribed");
            let [state, their_state] = self.states(&ours, &theirs);
            assert_eq!((state.to, their_state.to), (their_state.from, state.from), "{ours} and {theirs}");
        }
        self.plan.store_refuses_percent = store_refuses_percent;
    }

    fn states(&self, one: &Jid, other: &Jid) -> [State; 2] {
        [(one, other), (other, one)].map(|(owner, contact)| {
            let item = block_on(rosters::get(&self.store, owner.as_jid(), contact.as_jid())).unwrap();
            item.map(|item| item.state()).unwrap_or_default()
        })
    }

    /// Who saw a session available and was there all the time has seen it go.
    fn check_presence(&self) {
        let full = |shard: &Shard| {
            shard.counters.drops[DropReason::OutboxFull] > 0 || shard.counters.drops[DropReason::MeshFull] > 0
        };
        if self.shards.iter().any(full) {
            return; // Some were not told, by number.
        }
        assert!(self.told_twice.is_empty(), "{:?}", self.told_twice);
        let gone: HashSet<&str> =
            self.clients.iter().filter(|client| client.ended).map(|client| client.jid.as_str()).collect();
        // Whoever never was available hears what it asked for, and no more; and what was under way to a resource arrives at
        // the next session that has it.
        let there = |client: &&Client| {
            let anew = self.rebound.contains(client.jid.as_str());
            !client.ended && !client.hid && client.available && !anew
        };
        for client in self.clients.iter().filter(there) {
            for (from, available) in &client.last {
                if gone.contains(from.as_str()) && !self.rebound.contains(from) {
                    assert!(!available, "{} never learnt that {from} left: {:?}", client.jid, client.managed);
                }
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
            assert!(shard.next_dirty().is_none());
            assert!(shard.poll_effect().is_none());
            assert!((0..self.plan.shards).all(|to| !shard.has_batch(ShardId(to))));
        }
    }

    // ---- clients -----------------------------------------------------------------------------------------------

    fn someone(&mut self) -> Option<usize> {
        let alive: Vec<usize> =
            self.clients.iter().enumerate().filter(|(_, client)| !client.ended).map(|(index, _)| index).collect();
        (!alive.is_empty()).then(|| self.random.pick(&alive))
    }

    fn bind(&mut self) {
        let alive = self.clients.iter().filter(|client| !client.ended).count();
        if alive >= self.plan.clients_max {
            return;
        }
        let account = self.random.pick(&self.accounts);
        let index = self.clients.len();
        let resource = match self.random.below(10) {
            _ if self.plan.exact => "r".to_owned(),
            0..=1 => "r".to_owned(),
            _ => format!("r{index}"),
        };
        let shard = usize::from(self.shards[0].home(account.as_jid()).0);
        let key = Key { index: index as u32, generation: 1 };
        let Ok((id, jid)) = self.shards[shard].bind(key, &account, Some(&resource), 0) else { return };
        if self.resources.iter().any(|known| known == jid.as_str()) {
            self.rebound.insert(jid.as_str().to_owned());
        } else {
            self.resources.push(jid.as_str().to_owned());
        }
        self.clients.push(Client {
            shard,
            id,
            jid,
            pending: VecDeque::new(),
            paused: false,
            awaiting: false,
            ended: false,
            reads: true,
            sending: None,
            flush: false,
            available: false,
            directed: Vec::new(),
            latest: HashMap::new(),
            events: HashMap::new(),
            latest_live: HashMap::new(),
            seen: HashMap::new(),
            last: HashMap::new(),
            hid: false,
            managed: None,
            cut: false,
        });
        if !self.plan.exact && self.random.percent(self.plan.managed_percent) {
            self.managed_clients.insert(index);
            self.queue(index, "<enable xmlns='urn:xmpp:sm:3' resume='true'/>".into(), None);
        }
        if self.random.percent(90) {
            self.appear(index);
        }
    }

    /// Available, with a priority, and at times a long status.
    fn appear(&mut self, client: usize) {
        let priority = if self.random.percent(10) { -1 } else { self.random.below(3) as i32 };
        let payload = match self.random.below(3) {
            0 => String::new(),
            1 => format!("<priority>{priority}</priority>"),
            _ => format!("<priority>{priority}</priority><status>{}</status>", self.body()),
        };
        self.clients[client].available = true;
        if self.plan.exact {
            self.send(client, "presence", "", "", &payload);
        } else {
            self.queue(client, format!("<presence>{payload}</presence>"), None);
        }
    }

    fn say(&mut self) {
        let Some(client) = self.someone() else { return };
        for _ in 0..=self.random.below(6) {
            match self.random.below(20) {
                0..=9 => self.say_message(client),
                10..=13 => self.say_iq(client),
                14 => self.send(client, "iq", "get", DOMAIN, "<ping xmlns='urn:xmpp:ping'/>"),
                15 => {
                    let odd = self.random.pick(&["x@elsewhere.example/r", "@@", "x@things.example/", DOMAIN]);
                    self.send(client, "message", "chat", odd, "<body/>");
                }
                16 => self.send(client, "iq", "get", DOMAIN, ""),
                _ if self.plan.exact => {}
                17 if self.random.percent(30) => {
                    if std::mem::take(&mut self.clients[client].available) {
                        self.clients[client].hid = true;
                        self.clients[client].directed.clear();
                        self.queue(client, "<presence type='unavailable'/>".into(), None);
                    }
                }
                17 => self.appear(client),
                _ => self.say_directed(client),
            }
        }
    }

    fn say_message(&mut self, client: usize) {
        let message_type = self.random.pick(&["chat", "chat", "normal", "headline", "groupchat", "error", ""]);
        let body = format!("<body>{}</body>", self.body());
        let to = match self.address() {
            // Which of several resources had no room is no stanza's drop.
            to if message_type == "headline" && !to.contains('/') => String::new(),
            to => to,
        };
        self.send(client, "message", message_type, &to, &body);
    }

    fn say_iq(&mut self, client: usize) {
        let iq_type = self.random.pick(&["get", "set", "result", "error"]);
        let to = match self.random.below(4) {
            0 => String::new(),
            1 => DOMAIN.to_owned(),
            _ => self.address(),
        };
        self.send(client, "iq", iq_type, &to, "<query xmlns='jabber:iq:roster'/>");
    }

    fn say_directed(&mut self, client: usize) {
        let to = self.address();
        if self.random.percent(30) {
            return self.send(client, "presence", "error", &to, "");
        }
        if self.random.percent(50) {
            // Not followed: what becomes of them is looked at when all is quiet.
            let kinds = ["subscribe", "subscribe", "subscribed", "subscribed", "unsubscribe", "unsubscribed", "probe"];
            let kind = self.random.pick(&kinds);
            // Who asks before it is available is answered, and not told what follows.
            self.clients[client].hid |= kind == "probe";
            return self.queue(client, format!("<presence type='{kind}' to='{to}'/>"), None);
        }
        let known = self.clients[client].directed.iter().position(|known| *known == to);
        match known {
            // To its own account, what it says itself and what the broker says would add up.
            Some(at) if !to.starts_with(self.clients[client].jid.bare().as_str()) && self.random.percent(50) => {
                self.clients[client].directed.remove(at);
                self.send(client, "presence", "unavailable", &to, "");
            }
            None if self.clients[client].directed.len() < 4 => {
                self.clients[client].directed.push(to.clone());
                self.send(client, "presence", "", &to, "");
            }
            Some(_) => self.send(client, "presence", "", &to, ""),
            None => {}
        }
    }

    /// A JID here: bare or full, bound, gone or never there.
    fn address(&mut self) -> String {
        if self.random.percent(self.plan.crowd_percent)
            && let Some(latest) = self.resources.last()
        {
            return latest.clone();
        }
        match self.random.below(8) {
            0 | 1 => self.random.pick(&self.accounts).as_str().to_owned(),
            2 => format!("nobody@{DOMAIN}/r"),
            _ if self.resources.is_empty() => format!("a0@{DOMAIN}/gone"),
            3 => self.random.pick(&self.resources),
            // The later ones are more likely alive.
            _ => {
                let last = self.resources.len();
                self.resources[last - 1 - self.random.below(last.min(6))].clone()
            }
        }
    }

    fn body(&mut self) -> String {
        "b".repeat(self.random.below(self.plan.body_bytes_max))
    }

    /// Queues a stanza that is followed to its end.
    fn send(&mut self, client: usize, name: &str, kind: &str, to: &str, payload: &str) {
        let number = self.sent.len();
        let mut text = format!("<{name} id='n{number}'");
        for (attr, value) in [("type", kind), ("to", to)] {
            if !value.is_empty() {
                text.push_str(&format!(" {attr}='{value}'"));
            }
        }
        text.push_str(&format!(">{payload}</{name}>"));
        self.sent.push(Sent {
            sender: client,
            tag: text.chars().take(100).collect(),
            request: name == "iq" && matches!(kind, "get" | "set"),
            error: kind == "error",
            taken: false,
            delivered: Vec::new(),
            answers: 0,
        });
        self.queue(client, text, Some(number));
    }

    fn queue(&mut self, client: usize, text: String, number: Option<usize>) {
        self.clients[client].pending.push_back(Pending { text, number });
    }

    /// What comes from outside: a client leaves or stops reading, an account is shut.
    fn disturb(&mut self) {
        let Some(client) = self.someone() else { return };
        match self.random.below(9) {
            0 => self.disconnect(client),
            8 => self.cut(client),
            1 if self.random.percent(20) => {
                let account = self.clients[client].jid.bare();
                let shard = self.clients[client].shard;
                self.shards[shard].terminate_account(account.as_jid(), stream::Condition::NotAuthorized);
            }
            _ => self.clients[client].reads = !self.random.percent(self.plan.idle_percent),
        }
    }

    // ---- the driver's part -------------------------------------------------------------------------------------

    fn feed_someone(&mut self) {
        let Some(client) = self.someone() else { return };
        for _ in 0..=self.random.below(8) {
            self.feed(client);
        }
    }

    /// Feeds the next stanza, if the session takes any.
    fn feed(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.ended || client.paused {
            return;
        }
        let Some(next) = client.pending.front() else { return };
        let namespaces = StreamNamespaces::default();
        let scanned = self.scanner.next(&ScanLimits::AFTER_AUTH, &namespaces, next.text.as_bytes());
        let Ok(Scanned::Element { element, .. }) = scanned else { panic!("not an element: {}", next.text) };
        let iq = element.name() == "iq";
        let shard = &mut self.shards[client.shard];
        let stale = shard.counters.drops[DropReason::Stale];
        let flow = shard.stanza(client.id, element);
        // It may have been ended from the other side, of which nobody has told the driver yet.
        let heard = flow != Flow::Stalled && shard.counters.drops[DropReason::Stale] == stale;
        assert!(!client.awaiting || !heard, "{} was heard before its answer", client.jid);
        self.activity += 1;
        match flow {
            Flow::Stalled => client.paused = true,
            Flow::End(condition) => panic!("{} was ended: {condition:?}", client.jid),
            Flow::Continue | Flow::Blocked => {
                if let Some(number) = next.number {
                    self.sent[number].taken = true;
                }
                client.pending.pop_front();
                client.paused = flow == Flow::Blocked;
                client.awaiting = flow == Flow::Blocked && iq;
            }
        }
    }

    fn flush(&mut self, shard: usize) {
        while let Some((_, key)) = self.shards[shard].next_dirty() {
            self.write(key.index as usize);
        }
        for client in 0..self.clients.len() {
            if self.clients[client].shard == shard && std::mem::take(&mut self.clients[client].flush) {
                self.write(client);
            }
        }
    }

    /// Takes what waits for a client for a send, one at a time.
    fn write(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.ended || client.sending.is_some() {
            return;
        }
        let shard = &mut self.shards[client.shard];
        let bytes = shard.take_outbox(client.id);
        if !bytes.is_empty() {
            client.sending = Some(bytes.len());
            self.activity += 1;
        }
        self.receive(index, &bytes);
        let shard = self.clients[index].shard;
        self.shards[shard].give_buffer(bytes);
    }

    fn read_someone(&mut self) {
        if let Some(client) = self.someone() {
            self.read(client);
        }
    }

    /// The client takes what was sent.
    fn read(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.ended || !client.reads {
            return;
        }
        let Some(in_flight) = client.sending.take() else { return };
        self.activity += 1;
        let more = self.shards[client.shard].written(client.id);
        client.flush = more;
        if more && self.random.percent(50) {
            // At once: what waited while the send was under way is known to the byte.
            self.write(index);
            let waiting = self.clients[index].sending.unwrap_or(0);
            let most = self.plan.config.outbox_bytes_max as usize + self.plan.body_bytes_max + 2 * FRAME_BYTES;
            assert!(in_flight + waiting <= most, "{in_flight} + {waiting} bytes unsent");
        }
    }

    fn disconnect(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.ended {
            return;
        }
        client.ended = true;
        client.paused = true;
        let last = self.shards[client.shard].end(client.id);
        self.activity += 1;
        self.receive(index, &last);
        let shard = self.clients[index].shard;
        self.shards[shard].give_buffer(last);
    }

    fn acknowledge(&mut self, client: usize) {
        if let Some((_, has)) = self.clients[client].managed.as_ref().filter(|_| !self.clients[client].ended) {
            let text = format!("<a xmlns='urn:xmpp:sm:3' h='{has}'/>");
            self.queue(client, text, None);
        }
    }

    /// The connection breaks, whatever was under way is lost; the session waits if its stream is managed.
    fn cut(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.ended || client.cut {
            return;
        }
        self.activity += 1;
        if !self.shards[client.shard].hibernate(client.id, |_| 0) {
            return self.disconnect(index);
        }
        if client.managed.is_none() {
            // It never heard the name.
            client.ended = true;
            return self.shards[client.shard].expire(client.id, Some(0));
        }
        // What it had not been heard to say it says again; here all that it says was heard, or not begun.
        client.pending.retain(|pending| !pending.text.starts_with("<a "));
        (client.cut, client.paused, client.sending, client.flush) = (true, true, None, false);
    }

    /// A client that was cut off comes back, under another connection; one in a while it is too late.
    fn come_back(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if !client.cut || client.ended {
            return;
        }
        self.activity += 1;
        let shard = &mut self.shards[client.shard];
        let (name, has) = client.managed.clone().unwrap();
        let key = Key { index: index as u32, generation: 1 };
        let resumed = shard.resume_session(key, &client.jid.bare(), &SmId::parse(&name).unwrap(), has);
        let (id, resumed) = match resumed {
            Ok(resumed) => resumed,
            Err(NotResumed::HandledCountTooHigh(counts)) => panic!("{} has {has}: {counts:?}", client.jid),
            // It was given up: too many of its account waited, or too much for it.
            Err(NotResumed::Failed(_)) => {
                (client.ended, client.cut) = (true, false);
                return;
            }
        };
        assert_eq!((id, &resumed.jid), (client.id, &client.jid));
        (client.cut, client.paused, client.awaiting) = (false, false, false);
        shard.send_again(id);
    }

    fn hand_over(&mut self, from: usize) {
        for to in 0..self.shards.len() {
            let target = ShardId(to as u16);
            let spare = self.spares.pop().unwrap_or_default();
            let batch = match self.shards[from].take_batch(target, spare) {
                Ok(batch) => batch,
                Err(spare) => {
                    self.spares.push(spare);
                    continue;
                }
            };
            let most = 4 * BATCH_BYTES_MAX + self.plan.body_bytes_max + FRAME_BYTES;
            assert!(batch.bytes() <= most, "a batch of {} bytes", batch.bytes());
            let full = self.lanes[from][to].len() >= self.plan.lane_batches_max;
            if full || self.random.percent(self.plan.refused_percent) {
                self.spares.extend(self.shards[from].restore_batch(target, batch));
                continue;
            }
            self.activity += 1;
            self.lanes[from][to].push_back(batch);
            self.shards[from].batch_sent(target);
        }
    }

    fn arrive(&mut self, to: usize) {
        for from in 0..self.shards.len() {
            if let Some(mut batch) = self.lanes[from][to].pop_front() {
                self.activity += 1;
                self.shards[to].handoff(ShardId(from as u16), &mut batch);
                assert!(batch.is_empty());
                self.spares.push(batch);
            }
        }
    }

    fn carry_out(&mut self, shard: usize, most: usize) {
        for _ in 0..most {
            let Some(effect) = self.shards[shard].poll_effect() else { return };
            self.activity += 1;
            match effect {
                Effect::Resume(key) => {
                    let client = &mut self.clients[key.index as usize];
                    client.paused = client.ended || client.cut;
                }
                Effect::End(key, _) => self.disconnect(key.index as usize),
                Effect::Service(request, reply_to) => self.services.push((shard, request, reply_to)),
                Effect::Errand(account, errand) => self.errands.push((shard, account, *errand)),
                Effect::Login(..) | Effect::Tokens(..) => panic!("nobody logs in here"),
                Effect::Inquire(..) | Effect::AskUntil(_) | Effect::Asked(..) => panic!("nobody has things here"),
                Effect::Displace(_) => panic!("nobody comes back twice"),
                Effect::Expire(id) => self.shards[shard].expire(id, None),
                Effect::Recipients(mut recipients) => {
                    let page = block_on(recipients.next(&self.store));
                    self.shards[shard].recipients_read(*recipients, page);
                }
                Effect::LastItems(wanted) => {
                    let (owner, resource, nodes) = *wanted;
                    let config = &self.errand_config.services.pubsub;
                    let items = block_on(pubsub::last_items_of(config, &self.store, owner, &resource, &nodes, 0));
                    self.shards[shard].last_items(items.unwrap_or_default());
                }
                Effect::Watch(id) => {
                    self.shards[shard].watch_until(id, 0);
                    self.watched.push_back((shard, id));
                }
            }
        }
    }

    /// Some errand is run, in no order; at times the store cannot.
    fn run_errand(&mut self) {
        if self.errands.is_empty() {
            return;
        }
        let at = self.random.below(self.errands.len());
        let (shard, account, errand) = self.errands.swap_remove(at);
        self.activity += 1;
        let refused = self.random.percent(self.plan.store_refuses_percent);
        self.store.refuse(refused.then_some(StoreError::Busy));
        let serves = if let Errand::Serve(request) = &errand { Some(request.caller.clone()) } else { None };
        let brought = block_on(errands::run(&self.errand_config, &self.store, &account, errand, 0));
        self.store.refuse(None);
        if let Some(caller) = serves {
            self.no_longer_awaits(shard, &caller);
        }
        self.shards[shard].errand_done(&account, brought);
    }

    fn no_longer_awaits(&mut self, shard: usize, caller: &Jid) {
        for client in self.clients.iter_mut().filter(|client| client.shard == shard && client.jid == *caller) {
            client.awaiting = false;
        }
    }

    /// Some service answers, in no order.
    fn serve(&mut self) {
        if self.services.is_empty() {
            return;
        }
        let at = self.random.below(self.services.len());
        let (shard, request, reply_to) = self.services.swap_remove(at);
        self.activity += 1;
        let mut reply = Reply::default();
        let from = match &request.target {
            Target::Server(jid) | Target::Account(jid) | Target::Service(jid) if request.addressed => jid.as_str(),
            Target::Server(_) | Target::Account(_) | Target::Service(_) => "",
        };
        let to = request.caller.as_str();
        if self.random.percent(50) {
            write_reply_start(&mut reply.stanza, &request.id_raw, from, to);
            reply.stanza.extend_from_slice(b"</iq>");
        } else {
            write_error(&mut reply.stanza, Kind::Iq, Some(&request.id_raw), from, to, Condition::ItemNotFound.into());
        }
        if matches!(reply_to, ReplyTo::Session(_)) && !self.plan.exact {
            let of_roster = self.random.percent(50);
            reply.effects.push(match (request.iq_type == IqType::Get, of_roster) {
                (true, true) => ServiceEffect::RosterInterested,
                (true, false) => ServiceEffect::BlocklistInterested,
                (false, true) => {
                    let payload = format!("<query xmlns='{}'><group>{}</group></query>", ns::ROSTER, self.body());
                    ServiceEffect::RosterPush { payload }
                }
                (false, false) => {
                    let payload = format!("<block xmlns='{}'><x>{}</x></block>", ns::BLOCKING, self.body());
                    ServiceEffect::BlocklistPush { payload }
                }
            });
        }
        if !self.plan.exact && self.event_random.percent(50) {
            // Its service is the account's that was asked: it is at home on this shard.
            let from = match &request.target {
                Target::Account(account) => account.bare(),
                Target::Server(_) | Target::Service(_) => request.caller.bare(),
            };
            reply.effects.push(ServiceEffect::Pubsub(Box::new(self.event(&from))));
        }
        if let ReplyTo::Session(id) = &reply_to
            && let Some(client) =
                self.clients.iter_mut().find(|client| client.shard == shard && client.id == *id && !client.ended)
        {
            client.awaiting = false;
        }
        self.shards[shard].reply(&request.caller, reply_to, reply);
    }

    /// An event of somebody's for some clients, by their full or bare JIDs, numbered.
    fn event(&mut self, from: &Jid) -> pubsub::Outgoing {
        self.events += 1;
        let mut recipients = Vec::new();
        for index in 0..self.clients.len() {
            if self.event_random.percent(30) {
                let jid = &self.clients[index].jid;
                let jid = if self.event_random.percent(50) { jid.clone() } else { jid.bare() };
                if !recipients.contains(&jid) {
                    recipients.push(jid);
                }
            }
        }
        let notification = pubsub::Notification {
            from: from.clone(),
            message_type: MessageType::Headline,
            kind: pubsub::EventKind::Items,
            payload: format!("<event xmlns='{}'>{}</event>", ns::PUBSUB_EVENT, self.events).into_bytes(),
            recipients: pubsub::Recipients::these(recipients),
            audience: None,
        };
        pubsub::Outgoing { notifications: vec![notification], messages: Vec::new() }
    }

    // ---- what clients see --------------------------------------------------------------------------------------

    fn receive(&mut self, client: usize, bytes: &[u8]) {
        let mut scanner = Scanner::new();
        let namespaces = StreamNamespaces::default();
        let mut at = 0;
        while at < bytes.len() {
            let scanned = scanner.next(&ScanLimits::AFTER_AUTH, &namespaces, &bytes[at..]);
            let Ok(Scanned::Element { element, consumed }) = scanned else { panic!("no whole stanza was sent") };
            at += consumed;
            let attr = |name| element.attr(name).map(|attr| attr.value().into_owned()).unwrap_or_default();
            let (id, kind, from, to) = (attr("id"), attr("type"), attr("from"), attr("to"));
            match element.name() {
                "enabled" => self.clients[client].managed = Some((id.clone(), 0)),
                "r" if self.random.percent(self.plan.acknowledged_percent) => self.acknowledge(client),
                "message" | "presence" | "iq" => {
                    if let Some((_, has)) = &mut self.clients[client].managed {
                        *has += 1;
                    }
                }
                _ => {}
            }
            if element.ns() != ns::CLIENT {
                continue;
            }
            if let Some(number) = id.strip_prefix('n').and_then(|digits| digits.parse().ok()) {
                let late = element.children().any(|child| child.is("delay", ns::DELAY));
                self.see(client, number, element.name(), &kind, (&from, &to), late);
            }
            if let Some(event) = element.children().find(|child| child.is("event", ns::PUBSUB_EVENT)) {
                let number: u64 = event.content.parse().unwrap();
                let latest = self.clients[client].events.entry((from.clone(), to.clone())).or_insert(0);
                assert!(*latest < number, "event {number} of {from} for {to} after {latest}");
                *latest = number;
                self.events_seen += 1;
            }
            if element.name() == "presence" && matches!(&*kind, "" | "unavailable") {
                self.see_presence(client, kind.is_empty(), from, to);
            }
        }
    }

    fn see(&mut self, index: usize, number: usize, name: &str, kind: &str, (from, to): (&str, &str), late: bool) {
        let sender = self.clients[self.sent[number].sender].jid.clone();
        let sent = &mut self.sent[number];
        let client = &mut self.clients[index];
        let answers = kind == "error" && !sent.error || kind == "result" && sent.request;
        if answers && sender == client.jid {
            sent.answers += 1;
            return;
        }
        assert!(!answers, "{} got an answer to n{number} of {sender}", client.jid);
        assert_eq!(from, sender.as_str());
        let bare = client.jid.bare();
        let addressed = to.is_empty() || JidRef::from_normal(to).bare() == bare.as_jid();
        assert!(addressed, "{} got a {name} for {to}", client.jid);
        // A message that could not be forgotten is given again.
        // What managed clients of the account did not acknowledge is given to its others, who may have it.
        let own = to == client.jid.as_str();
        let handed_on = self.plan.managed_percent > 0 && !own && sent.delivered.contains(&index)
            || sent.delivered.iter().any(|other| self.managed_clients.contains(other));
        let again = late && self.plan.store_refuses_percent > 0 || handed_on;
        assert!(
            again || !sent.delivered.contains(&index),
            "n{number} was delivered twice to {}, late {late}, to {to}, managed {:?}, delivered {:?}: {}",
            client.jid,
            client.managed,
            sent.delivered,
            sent.tag
        );
        sent.delivered.push(index);
        let overtaken = self.plan.managed_percent > 0 && !own && name == "message";
        if again || overtaken {
            return;
        }
        // Who becomes available is given what was kept before anything that came later.
        if name == "message" && !to.contains('/') {
            let live = client.latest_live.entry((from.to_owned(), to.to_owned())).or_insert(0);
            assert!(*live <= number, "{} got n{number} of {from} after n{live}, late {late}: {}", client.jid, sent.tag);
            if !late {
                *live = number;
            }
        }
        // Between two addresses. What was kept comes late, and in order; what a resource that took no messages was sent
        // may be before it.
        let latest = client.latest.entry((from.to_owned(), to.to_owned(), late)).or_insert(0);
        assert!(*latest <= number, "{} got n{number} of {from} after n{latest}, to {to}: {}", client.jid, sent.tag);
        *latest = number;
    }

    fn see_presence(&mut self, index: usize, available: bool, from: String, to: String) {
        let client = &mut self.clients[index];
        let rebound = self.rebound.contains(&from);
        // What one says to its own account may wait for the store, and reach who came after it had left.
        if to.contains('/') || !from.starts_with(client.jid.bare().as_str()) {
            client.last.insert(from.clone(), available);
        }
        let before = client.seen.insert((from.clone(), to.clone()), available);
        // Who of an account hears what is for all of it depends on who is available then.
        let again = !available && before == Some(false) && to.contains('/');
        if again && !rebound {
            self.told_twice.push(format!("{} learnt twice that {from} left (to {to})", client.jid));
        }
    }
}
