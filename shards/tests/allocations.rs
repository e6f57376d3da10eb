//! Nothing is allocated per routed stanza: from the scanner through the shard into outboxes and batches, with buffers
//! recycled as the driver does. A counting allocator proves it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use plaza_core::jid::Jid;
use plaza_core::limits::ScanLimits;
use plaza_core::xml::{Scanned, Scanner, StreamNamespaces};
use plaza_registry::accounts::{self, NewKeys};
use plaza_registry::errands::Return;
use plaza_registry::facts;
use plaza_registry::store::memory::MemoryStore;
use plaza_registry::wait::block_on;
use plaza_shards::home::Homes;
use plaza_shards::mesh::ShardId;
use plaza_shards::ring::Key;
use plaza_shards::shard::{Batch, Flow, SessionId, Shard, ShardConfig};

/// The system's allocator, counting what this thread asks of it.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call is passed on to `System` as it came; counting touches a constant-initialised thread-local without a
// destructor, which allocates nothing.
#[expect(unsafe_code, reason = "an allocator is unsafe to write")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ROUNDS: u64 = 1_000;
const SHARDS: u16 = 2;

/// Shards, a session on each account, and the driver's part.
struct Broker {
    shards: Vec<Shard>,
    sessions: Vec<(usize, SessionId)>,
    scanner: Scanner,
    namespaces: StreamNamespaces,
    #[expect(clippy::vec_box, reason = "batches travel boxed")]
    spares: Vec<Box<Batch>>,
    written: usize,
}

impl Broker {
    /// Of the accounts `a0@` to `a9@things.example`, those two whose homes are as asked.
    fn new(same_home: bool) -> (Self, [String; 2]) {
        let config = Arc::new(ShardConfig {
            domains: vec![Jid::parse("things.example").unwrap()],
            services: Vec::new(),
            outbox_bytes_max: 1_048_576,
            outbox_bytes_full: 262_144,
            outbox_bytes_high: 65_536,
            outbox_bytes_low: 16_384,
            sessions_per_account_max: 20,
            facts_bytes_max: 1 << 20,
            requests_max: 100,
            strangers_per_minute_max: 100,
            caps: Arc::new(plaza_registry::directory::CapsCache::new(16)),
            managed: plaza_shards::shard::ManagedLimits::default(),
            managed_key: [7; 32],
            offline: plaza_registry::offline::OfflineLimits::default(),
            tokens: plaza_registry::tokens::TokenLimits::default(),
            directed_presence_max: 100,
            archive: plaza_registry::archive::ArchiveConfig::default(),
            proofs: plaza_registry::provisioning::Proofs::default(),
            id_prefix: "plaza-".into(),
        });
        let homes = Homes::new(SHARDS, 1);
        let mut shards: Vec<Shard> =
            (0..SHARDS).map(|id| Shard::new(ShardId(id), SHARDS, homes.clone(), Arc::clone(&config))).collect();
        let accounts: Vec<Jid> = (0..10).map(|n| Jid::parse(&format!("a{n}@things.example")).unwrap()).collect();
        let home = |jid: &Jid| usize::from(homes.shard(homes.hash(jid.as_jid())).0);
        let first = &accounts[0];
        let second = accounts[1..].iter().find(|jid| (home(jid) == home(first)) == same_home).unwrap();
        let (store, mut sessions) = (MemoryStore::new(), Vec::new());
        let jids = [first, second].map(|account| {
            let key = Key { index: sessions.len() as u32, generation: 1 };
            let keys = NewKeys::derive("pencil", &[1; 32], 1).unwrap();
            block_on(accounts::create(&store, account.as_jid(), keys, false, 0)).unwrap();
            let shard = &mut shards[home(account)];
            assert!(!shard.login(key, account.as_jid()));
            shard.errand_done(account, Return::Load(block_on(facts::load(&store, account.as_jid()))));
            while shard.poll_effect().is_some() {}
            let (id, jid) = shard.bind(key, account, Some("r"), 0).unwrap();
            sessions.push((home(account), id));
            jid.as_str().to_owned()
        });
        let broker = Self {
            shards,
            sessions,
            scanner: Scanner::new(),
            namespaces: StreamNamespaces::default(),
            spares: vec![Box::default(), Box::default()],
            written: 0,
        };
        (broker, jids)
    }

    fn feed(&mut self, session: usize, text: &str) {
        let (shard, id) = self.sessions[session];
        let scanned = self.scanner.next(&ScanLimits::AFTER_AUTH, &self.namespaces, text.as_bytes());
        let Ok(Scanned::Element { element, .. }) = scanned else { panic!("not an element") };
        assert_eq!(self.shards[shard].stanza(id, element), Flow::Continue);
    }

    /// The rest of a turn: batches change hands, outboxes are written.
    fn turn(&mut self) {
        for (from, to) in [(0, 1), (1, 0)] {
            let spare = self.spares.pop().unwrap_or_default();
            match self.shards[from].take_batch(ShardId(to as u16), spare) {
                Ok(mut batch) => {
                    self.shards[from].batch_sent(ShardId(to as u16));
                    self.shards[to].handoff(ShardId(from as u16), &mut batch);
                    self.spares.push(batch);
                }
                Err(spare) => self.spares.push(spare),
            }
        }
        for shard in &mut self.shards {
            while let Some((id, _)) = shard.next_dirty() {
                let bytes = shard.take_outbox(id);
                self.written += bytes.len();
                shard.give_buffer(bytes);
                shard.written(id);
            }
            assert!(shard.poll_effect().is_none());
        }
    }
}

/// Each session sends its text, turn after turn: after some to warm up, none may allocate.
fn check(same_home: bool, texts: impl Fn(&[String; 2]) -> [String; 2]) {
    let (mut broker, jids) = Broker::new(same_home);
    let texts = texts(&jids);
    let round = |broker: &mut Broker| {
        for (session, text) in texts.iter().enumerate() {
            broker.feed(session, text);
        }
        broker.turn();
    };
    for _ in 0..8 {
        round(&mut broker);
    }
    broker.written = 0;
    let before = ALLOCATIONS.get();
    for _ in 0..ROUNDS {
        round(&mut broker);
    }
    let allocations = ALLOCATIONS.get() - before;
    assert!(broker.written as u64 > ROUNDS * 100, "{} bytes were written", broker.written);
    assert_eq!(allocations, 0, "allocations in {ROUNDS} rounds");
}

fn message(to: &str) -> String {
    format!("<message to='{to}' id='0001' type='chat'><body>the lamp was switched on at seven</body></message>")
}

#[test]
fn a_message_on_one_shard_allocates_nothing() {
    check(true, |[first, second]| [message(second), message(first)]);
}

#[test]
fn a_message_to_another_shard_allocates_nothing() {
    check(false, |[first, second]| [message(second), message(first)]);
}

#[test]
fn a_message_with_an_id_of_its_own_allocates_nothing() {
    let message = |to: &str| {
        let id = "<origin-id xmlns='urn:xmpp:sid:0' id='de305d54-75b4-431b-adb2-eb6b9e546013'/>";
        format!("<message to='{to}' id='0001' type='chat'><body>the lamp was switched on at seven</body>{id}</message>")
    };
    check(true, |[first, second]| [message(second), message(first)]);
}

#[test]
fn an_answered_ping_allocates_nothing() {
    let ping = "<iq type='get' id='p1' to='things.example'><ping xmlns='urn:xmpp:ping'/></iq>";
    check(true, |_| [ping.to_owned(), ping.to_owned()]);
}

#[test]
fn a_directed_iq_and_its_answer_allocate_nothing() {
    for same_home in [true, false] {
        check(same_home, |[first, second]| {
            [
                format!("<iq type='get' id='q1' to='{second}'><read xmlns='urn:example:sensors'/></iq>"),
                format!("<iq type='result' id='q1' to='{first}'><value xmlns='urn:example:sensors'>412</value></iq>"),
            ]
        });
    }
}

#[test]
fn a_refused_message_allocates_nothing() {
    check(true, |_| {
        ["<message to='nobody@things.example/r'><body/></message>".to_owned(), message("x@elsewhere.example")]
    });
}
