//! The shards whole: senders that wait, and homes that learn of accounts. With what other tests begin with.

use super::session::UNDER_WAY_MAX;
use super::testing::World;
use super::*;

/// Shards, and a session of each account at home on one of them.
pub(super) fn shards(count: u16) -> (Vec<Shard>, Homes) {
    shards_with(count, |_| ())
}

pub(super) fn shards_with(count: u16, change: impl FnOnce(&mut ShardConfig)) -> (Vec<Shard>, Homes) {
    let mut config = ShardConfig {
        domains: vec![Jid::parse("things.example").unwrap()],
        services: vec![Component {
            jid: Jid::parse("pubsub.things.example").unwrap(),
            name: String::new(),
            kind: plaza_registry::services::ComponentKind::Pubsub,
        }],
        outbox_bytes_max: 16_384,
        outbox_bytes_full: 4096,
        outbox_bytes_high: 1024,
        outbox_bytes_low: 256,
        sessions_per_account_max: 4,
        directed_presence_max: 4,
        facts_bytes_max: 0,
        requests_max: 2,
        strangers_per_minute_max: 100,
        offline: OfflineLimits::default(),
        caps: Arc::new(CapsCache::new(16)),
        managed: ManagedLimits::default(),
        managed_key: [7; 32],
        tokens: TokenLimits::default(),
        archive: ArchiveConfig::default(),
        proofs: plaza_registry::provisioning::Proofs::default(),
        id_prefix: "plaza-".into(),
    };
    change(&mut config);
    let config = Arc::new(config);
    let homes = Homes::new(count, 1);
    let shards = (0..count).map(|id| Shard::new(ShardId(id), count, homes.clone(), Arc::clone(&config))).collect();
    (shards, homes)
}

pub(super) fn bind(shard: &mut Shard, account: &str, resource: &str) -> SessionId {
    let key = Key { index: 0, generation: 0 };
    let id = shard.bind(key, &Jid::parse(account).unwrap(), Some(resource), 0).unwrap().0;
    // As if its facts had been there: most tests have no store.
    let index = shard.get(id).unwrap().account;
    shard.accounts.get_mut(index).unwrap().unmet = false;
    id
}

pub(super) fn feed(shard: &mut Shard, id: SessionId, text: &str) -> Flow {
    let (mut scanner, namespaces) = (Scanner::new(), StreamNamespaces::default());
    match scanner.next(&ScanLimits::AFTER_AUTH, &namespaces, text.as_bytes()) {
        Ok(Scanned::Element { element, .. }) => shard.stanza(id, element),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_home_that_knew_of_no_account_is_told_when_there_is_one() {
    let (mut shards, homes) = shards_with(2, |config| config.facts_bytes_max = 1 << 20);
    let lamp = Jid::parse("lamp@things.example").unwrap();
    let home = usize::from(homes.shard(homes.hash(lamp.as_jid())).0);
    let key = Key { index: 0, generation: 0 };
    let asks = |shard: &mut Shard| {
        assert!(!shard.login(key, lamp.as_jid()));
        let mut asked = false;
        while let Some(effect) = shard.poll_effect() {
            asked |= matches!(effect, Effect::Errand(..));
        }
        asked
    };
    assert!(asks(&mut shards[home]));
    shards[home].errand_done(&lamp, plaza_registry::errands::Return::Load(Ok(None)));
    assert!(!asks(&mut shards[home]), "it remembers that there is none");
    let other = 1 - home;
    shards[other].account_created(lamp.as_jid());
    let to = ShardId(home as u16);
    let mut batch = shards[other].take_batch(to, Box::default()).unwrap();
    shards[home].handoff(ShardId(other as u16), &mut batch);
    assert!(asks(&mut shards[home]), "it asks again");
    shards[home].errand_done(&lamp, plaza_registry::errands::Return::Load(Ok(None)));
    shards[home].account_created(lamp.as_jid());
    assert!(asks(&mut shards[home]), "so it does when it was created here");
}

#[test]
fn a_client_that_does_not_read_bounds_what_others_of_its_account_say() {
    let (mut shards, _) = shards(1);
    let shard = &mut shards[0];
    let stuck = bind(shard, "lamp@things.example", "stuck");
    assert_eq!(feed(shard, stuck, "<presence/>"), Flow::Continue);
    for _ in 0..1_000 {
        let other = bind(shard, "lamp@things.example", "other");
        assert_eq!(feed(shard, other, "<presence/>"), Flow::Continue);
        shard.end(other);
    }
    assert!(shard.take_outbox(stuck).len() < 4096 + 200);
    assert!(shard.counters.drops[DropReason::OutboxFull] > 0);
}

#[test]
fn errors_for_a_shard_that_takes_no_batches_are_bounded() {
    let (mut shards, homes) = shards(2);
    let home = |name: &str| homes.shard(homes.hash(Jid::parse(name).unwrap().as_jid()));
    let at = |shard| (0..).map(|n| format!("a{n}@things.example")).find(|name| home(name) == ShardId(shard)).unwrap();
    let (sender, nobody) = (at(0), at(1));
    let id = bind(&mut shards[0], &sender, "r");
    let message = format!("<message id='{}' to='{nobody}/gone'><body/></message>", "i".repeat(2_000));
    let mut spare = Box::default();
    for _ in 0..1_000 {
        assert_eq!(feed(&mut shards[0], id, &message), Flow::Continue);
        let mut batch = shards[0].take_batch(ShardId(1), spare).unwrap();
        shards[1].handoff(ShardId(0), &mut batch);
        spare = batch;
    }
    let answers = shards[1].take_batch(ShardId(0), spare).unwrap();
    assert!(answers.bytes() < BATCH_OWN_BYTES_MAX + 3_000, "{} bytes", answers.bytes());
    assert_eq!(answers.len() as u64 + shards[1].counters.drops[DropReason::MeshFull], 1_000);
}

#[test]
fn what_a_sender_had_under_way_when_it_was_asked_to_wait_is_taken() {
    let (mut shards, homes) = shards(2);
    let home = |name: &str| homes.shard(homes.hash(Jid::parse(name).unwrap().as_jid()));
    let at = |shard| (0..).map(|n| format!("a{n}@things.example")).find(|name| home(name) == ShardId(shard)).unwrap();
    let (sender, stuck) = (at(0), at(1));
    let (first, second) = (bind(&mut shards[0], &sender, "first"), bind(&mut shards[0], &sender, "second"));
    bind(&mut shards[1], &stuck, "r");
    let message = format!("<message to='{stuck}/r'><body>{}</body></message>", "x".repeat(900));
    let hand_over = |shards: &mut Vec<Shard>, sender, times| {
        let refused = shards[1].counters.stanza_errors[Condition::ResourceConstraint];
        for _ in 0..times {
            assert_eq!(feed(&mut shards[0], sender, &message), Flow::Continue);
        }
        let mut batch = shards[0].take_batch(ShardId(1), Box::default()).unwrap();
        shards[1].handoff(ShardId(0), &mut batch);
        shards[1].counters.stanza_errors[Condition::ResourceConstraint] - refused
    };
    // From high on it is asked to wait, and what comes until it has heard of that goes beyond full.
    assert_eq!(hand_over(&mut shards, first, 10), 0);
    // So it is with another that had never been asked when it was full.
    assert_eq!(hand_over(&mut shards, second, 2), 0);
    // In the end there is a bound for all.
    assert!((10..20).contains(&hand_over(&mut shards, first, 20)));
    let mut answers = shards[1].take_batch(ShardId(0), Box::default()).unwrap();
    shards[0].handoff(ShardId(1), &mut answers);
    assert_eq!(feed(&mut shards[0], first, &message), Flow::Stalled);
    assert_eq!(feed(&mut shards[0], second, &message), Flow::Stalled);
}

#[test]
fn a_full_outbox_is_full_for_a_crowd_that_was_never_asked_to_wait() {
    let (mut shards, homes) = shards(2);
    let home = |name: &str| homes.shard(homes.hash(Jid::parse(name).unwrap().as_jid()));
    let mut names = (0..).map(|n| format!("a{n}@things.example"));
    let stuck = names.find(|name| home(name) == ShardId(1)).unwrap();
    bind(&mut shards[1], &stuck, "r");
    let filling = format!("<message to='{stuck}/r'><body>{}</body></message>", "x".repeat(4096));
    let message = format!("<message to='{stuck}/r'/>");
    for name in names.filter(|name| home(name) == ShardId(0)).take(UNDER_WAY_MAX + 10) {
        let sender = bind(&mut shards[0], &name, "r");
        let first = shards[1].counters.backpressure_pauses == 0;
        for text in first.then_some(&filling).into_iter().chain([&message]) {
            assert_eq!(feed(&mut shards[0], sender, text), Flow::Continue);
        }
        let mut batch = shards[0].take_batch(ShardId(1), Box::default()).unwrap();
        shards[1].handoff(ShardId(0), &mut batch);
    }
    assert_eq!(shards[1].counters.stanza_errors[Condition::ResourceConstraint], 10);
    assert_eq!(shards[1].counters.backpressure_pauses, UNDER_WAY_MAX as u64 + 10, "all are asked");
}

#[test]
fn who_asks_what_was_handled_waits_until_it_is_stored_and_not_for_what_came_later() {
    let mut world = World::new();
    let away = world.account("away", 0);
    let senders = ["one", "two", "three"].map(|name| {
        let account = world.account(name, 0);
        let id = world.bind_met(&account, "r");
        world.shards[0].enable_management(id, plaza_core::sm::Enable { resume: false, max: None }).unwrap();
        (account, id)
    });
    for (_, id) in &senders {
        feed(&mut world.shards[0], *id, &format!("<message to='{away}'><body>b</body></message>"));
        feed(&mut world.shards[0], *id, "<r xmlns='urn:xmpp:sm:3'/>");
    }
    let mut told = Vec::new();
    while let Some(effect) = world.shards[0].poll_effect() {
        assert!(matches!(effect, Effect::Errand(..)));
        world.carry_out(0, effect);
        for (account, id) in &senders {
            if world.sent(account, *id).contains("<a xmlns='urn:xmpp:sm:3' h='1'/>") {
                told.push((account.clone(), world.shards[0].counters.offline_kept));
            }
        }
    }
    assert_eq!(told, senders.into_iter().map(|(account, _)| account).zip(1..).collect::<Vec<_>>());
    assert!(!world.shards[0].is_storing());
}
