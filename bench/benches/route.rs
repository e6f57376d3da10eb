//! A stanza is brought from its bytes to its recipient's outbox in about a microsecond, on its shard or on another.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
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

/// To `lamp-0001@things.example/r0`.
const MESSAGE: &str = include_str!("../data/message-231B.xml");
const PING: &str = "<iq type='get' id='ping-0001' to='things.example'><ping xmlns='urn:xmpp:ping'/></iq>";
const LAMP: &str = "lamp-0001@things.example";

/// Two shards: the lamp's, and a sender's that is the same or the other.
struct Broker {
    shards: [Shard; 2],
    lamp: usize,
    sender: (usize, SessionId),
    scanner: Scanner,
    namespaces: StreamNamespaces,
    spare: Box<Batch>,
}

impl Broker {
    fn new(same_shard: bool) -> Self {
        let config = Arc::new(ShardConfig {
            domains: vec![Jid::parse("things.example").expect("a domain")],
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
        let homes = Homes::new(2, 1);
        let mut shards = [0, 1].map(|id| Shard::new(ShardId(id), 2, homes.clone(), Arc::clone(&config)));
        let home = |jid: &Jid| usize::from(homes.shard(homes.hash(jid.as_jid())).0);
        let store = MemoryStore::new();
        let mut bind = |jid: &Jid, index| {
            let shard = shards.get_mut(home(jid)).expect("one of two");
            let keys = NewKeys::derive("pencil", &[1; 32], 1).expect("a password");
            block_on(accounts::create(&store, jid.as_jid(), keys, false, 0)).expect("an account");
            assert!(!shard.login(Key { index, generation: 1 }, jid.as_jid()));
            shard.errand_done(jid, Return::Load(block_on(facts::load(&store, jid.as_jid()))));
            while shard.poll_effect().is_some() {}
            let (id, _) = shard.bind(Key { index, generation: 1 }, jid, Some("r0"), 0).expect("room");
            (home(jid), id)
        };
        let lamp = Jid::parse(LAMP).expect("a JID");
        let (lamp, _) = bind(&lamp, 0);
        let senders = (0..64).map(|n| Jid::parse(&format!("owner-{n}@things.example")).expect("a JID"));
        let sender = senders.into_iter().find(|jid| (home(jid) == lamp) == same_shard).expect("one of many");
        let sender = bind(&sender, 1);
        let (scanner, namespaces) = (Scanner::new(), StreamNamespaces::default());
        Self { shards, lamp, sender, scanner, namespaces, spare: Box::default() }
    }

    fn feed(&mut self, text: &str) {
        let (shard, id) = self.sender;
        let scanned = self.scanner.next(&ScanLimits::AFTER_AUTH, &self.namespaces, text.as_bytes());
        let Ok(Scanned::Element { element, .. }) = scanned else { panic!("not an element") };
        let Some(shard) = self.shards.get_mut(shard) else { return };
        assert_eq!(shard.stanza(id, element), Flow::Continue);
    }

    /// Hands the sender's batch to the lamp's shard.
    fn hand_over(&mut self) {
        let (from, to) = (ShardId(self.sender.0 as u16), ShardId(self.lamp as u16));
        let [first, second] = &mut self.shards;
        let (ours, theirs) = if from.0 == 0 { (first, second) } else { (second, first) };
        let spare = std::mem::take(&mut self.spare);
        let mut batch = ours.take_batch(to, spare).expect("something to hand over");
        ours.batch_sent(to);
        theirs.handoff(from, &mut batch);
        self.spare = batch;
    }

    /// Takes what waits on a shard, as sends do.
    fn write(&mut self, shard: usize) -> usize {
        let mut written = 0;
        let Some(shard) = self.shards.get_mut(shard) else { return written };
        while let Some((id, _)) = shard.next_dirty() {
            let bytes = shard.take_outbox(id);
            written += bytes.len();
            shard.give_buffer(bytes);
            shard.written(id);
        }
        written
    }
}

fn route(c: &mut Criterion) {
    let throughput = Throughput::Bytes(MESSAGE.len() as u64);

    let mut group = c.benchmark_group("route/message/same-shard");
    group.throughput(throughput.clone());
    group.bench_function("231B", |b| {
        let mut broker = Broker::new(true);
        b.iter(|| {
            broker.feed(black_box(MESSAGE));
            broker.write(broker.lamp)
        });
    });
    group.finish();

    // A batch of 16, as a busy turn makes.
    let mut group = c.benchmark_group("route/message/cross-shard");
    for (name, messages) in [("231B", 1), ("16x231B", 16)] {
        group.throughput(Throughput::Bytes(messages * MESSAGE.len() as u64));
        group.bench_function(name, |b| {
            let mut broker = Broker::new(false);
            b.iter(|| {
                for _ in 0..messages {
                    broker.feed(black_box(MESSAGE));
                }
                broker.hand_over();
                broker.write(broker.lamp)
            });
        });
    }
    group.finish();

    let mut group = c.benchmark_group("ping");
    group.throughput(Throughput::Bytes(PING.len() as u64));
    group.bench_function("answer", |b| {
        let mut broker = Broker::new(true);
        b.iter(|| {
            broker.feed(black_box(PING));
            broker.write(broker.lamp)
        });
    });
    group.finish();
}

criterion_group!(benches, route);
criterion_main!(benches);
