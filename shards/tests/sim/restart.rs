//! The broker is killed, and started anew over the same store: what its shards had in memory is gone, what was committed
//! is not.
//!
//! A client whose stream is managed and that was told that a message is handled (XEP-0198 §4) may forget it: if its
//! recipient was away all the time until then, the message is stored by then, and arrives whatever happens. What was said
//! in a former life of the broker arrives with the time it was kept at (XEP-0203), and not without.

use std::sync::{Arc, LazyLock};

use plaza_core::jid::Jid;
use plaza_registry::directory::CapsCache;
use plaza_registry::errands::ErrandConfig;
use plaza_registry::registration::Registrar;
use plaza_registry::services::{ServiceConfig, ServiceLimits};
use plaza_registry::things::{self, Search};
use plaza_registry::wait::block_on;
use plaza_registry::{broker, provisioning, pubsub};
use plaza_shards::home::Homes;
use plaza_shards::mesh::ShardId;
use plaza_shards::metrics::Counters;
use plaza_shards::shard::Shard;

use super::registry::Listing;
use super::{Plan, World};

/// A broker's shards, of its life of that number.
pub(super) fn start(plan: &Plan, homes: &Homes, life: u32) -> Vec<Shard> {
    let mut config = plan.config.clone();
    config.caps = Arc::new(CapsCache::new(16));
    config.id_prefix = format!("plaza{life}-");
    let config = Arc::new(config);
    (0..plan.shards).map(|shard| Shard::new(ShardId(shard), plan.shards, homes.clone(), Arc::clone(&config))).collect()
}

/// What all errands and services need to know, in one life of a broker.
pub(super) fn errand_config(plan: &Plan, listing: Option<&Arc<Listing>>) -> ErrandConfig {
    /// As many tries as one likes: no time passes.
    const TRIES: u32 = 1_000_000;
    /// Nobody registers an account as a service; one for all, since it has a thread.
    static NOBODY: LazyLock<Registrar> = LazyLock::new(Registrar::off);

    let index = listing.map(|listing| Arc::clone(listing) as Arc<dyn Search>);
    let things = things::Limits {
        failed_claims_per_minute_max: TRIES,
        searches_per_second_max: TRIES,
        ..things::Limits::DEFAULT
    };
    ErrandConfig {
        roster_items_max: 20,
        requests_max: plan.config.requests_max,
        offline: plan.config.offline,
        services: Arc::new(ServiceConfig {
            name: "Plaza".into(),
            version: "0".into(),
            node: "https://plaza.example".into(),
            domains: plan.config.domains.clone(),
            components: plan.config.services.clone(),
            roster_items_max: 20,
            limits: ServiceLimits::default(),
            pubsub: pubsub::Config::new(pubsub::Limits::DEFAULT, plan.config.domains.clone()),
            archive: plan.config.archive,
            things: things::Config::new(things, index),
            registration: NOBODY.clone(),
            provisioning: provisioning::Config::new(provisioning::Limits::DEFAULT, [7; 32]),
        }),
    }
}

impl World {
    /// The process ends, whatever is under way, and begins anew.
    pub(super) fn kill(&mut self) {
        self.activity += 1;
        self.life += 1;
        if self.is_told {
            eprintln!("{:6} the broker is killed", self.activity);
        }
        self.killed_at = self.activity;
        self.archived_before += self.archived();
        for client in self.clients.iter_mut().filter(|client| !client.ended) {
            (client.ended, client.paused, client.cut) = (true, true, false);
            client.pending.clear();
        }
        for lane in self.lanes.iter_mut().flatten() {
            lane.clear();
        }
        self.services.clear();
        self.watched.clear();
        // What was asked of the store and not answered may have happened or not.
        let mut unsure: Vec<Jid> = self.errands.drain(..).map(|(_, account, _)| account).collect();
        unsure.extend(self.drop_errands());
        self.shards = start(&self.plan, &self.homes, self.life);
        self.forget_registry();
        self.owners.start_anew();
        if let Some(newcomers) = &mut self.newcomers {
            newcomers.restart();
        }
        if self.plan.things {
            self.listing = Some(Arc::new(Listing::new(&self.store)));
            self.errand_config = errand_config(&self.plan, self.listing.as_ref());
        }
        block_on(broker::begin_run(&self.store, self.activity)).unwrap();
        for account in &self.accounts {
            self.blocks.load_anew(&self.store, account, self.activity, unsure.contains(account));
        }
    }

    /// Messages archived in this life, by the shards' counters.
    pub(super) fn archived(&self) -> u64 {
        self.shards.iter().map(|shard| shard.counters.archived).sum()
    }

    /// Stanzas dropped in this life.
    pub(super) fn drops(&self) -> u64 {
        self.shards.iter().map(|shard| Counters::total(&shard.counters.drops)).sum()
    }

    /// A managed client asks how much the broker has.
    pub(super) fn ask_count(&mut self, client: usize) {
        if self.clients[client].managed.is_some() {
            self.queue(client, "<r xmlns='urn:xmpp:sm:3'/>".into(), None);
        }
    }

    /// A stanza was taken: whether it is a message for somebody who is away.
    pub(super) fn note_away(&mut self, number: usize) {
        let sent = &self.sent[number];
        // Of those for a resource that is gone only chat is kept (RFC 6121 §8.5.3.2.1).
        let chat = sent.tag.contains("type='chat'");
        let normal = !sent.tag.contains("type=") || sent.tag.contains("type='normal'");
        let lasting = chat || normal && !sent.to.contains('/');
        let Ok(to) = Jid::parse(&sent.to) else { return };
        let (to, from) = (to.bare(), self.clients[sent.sender].jid.bare());
        let there = self.clients.iter().any(|client| !client.ended && client.jid.bare() == to);
        let certain = self.plan.store_refuses_percent == 0 && !self.plan.blocks;
        self.sent[number].away = certain
            && lasting
            && sent.tag.starts_with("<message")
            && self.accounts.contains(&to)
            && to != from
            && !there;
    }

    /// The broker has handled so many stanzas of a client: it may forget them.
    pub(super) fn handled(&mut self, client: usize, h: usize) {
        for number in self.clients[client].said.iter().take(h).flatten() {
            let sent = &mut self.sent[*number];
            let to = Jid::parse(&sent.to).map(|to| to.bare());
            let bound = self.clients.iter().filter(|client| to.as_ref().is_ok_and(|to| client.jid.bare() == *to));
            let came = bound.map(|client| client.bound_at).max().unwrap_or(0);
            sent.durable |= sent.away && came < sent.taken_at;
        }
    }

    /// Messages that had to be stored by the time their senders were told.
    pub(crate) fn durable(&self) -> usize {
        self.sent.iter().filter(|sent| sent.durable).count()
    }

    /// Nothing that was acknowledged is lost without a word.
    pub(super) fn check_durable(&self, number: usize, is_kept: bool) {
        let sent = &self.sent[number];
        // Who was told that it was refused, for want of room, knows better.
        let there = is_kept || !sent.delivered.is_empty() || sent.answers > 0;
        assert!(!sent.durable || there, "n{number} was acknowledged, and is lost: {}", sent.tag);
    }
}
