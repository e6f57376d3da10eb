//! N shards in one thread, under a seed: everything around [`plaza_shards::shard::Shard`] is made up, at its worst.
//!
//! A seed draws a world ([`world::World`]) of shards, accounts, a mesh with little room and clients who stop reading. It
//! plays the driver's part in any order the driver's contract allows, then lets everything drain, and checks that
//! - stanzas between two addresses arrive in the order they were sent (RFC 6120 §10.1);
//! - each is delivered, answered with an error, or counted as dropped, and only one of these;
//! - nobody waits for ever, whoever ended meanwhile;
//! - nothing passes between those of whom one blocks the other, from the moment that is in effect (XEP-0191 §3.3);
//! - what the store acknowledged is there afterwards, however late it was and whatever it refused meanwhile;
//! - a broker that is killed and started anew has lost nothing that it acknowledged, and gives what it kept with its time;
//! - who is still there when its question or message fails hears so;
//! - a thing has one owner, and who is told of it is told what is so, once; keys are told nobody (XEP-0347);
//! - a device is told about strangers what follows from its owner's answers, also after a restart, and of these none from
//!   before the rules of the thing were deleted; whoever is there is asked what is undecided of its own things, and of
//!   nobody else's; a device whose rules changed is told to ask anew until it has heard, and no longer (XEP-0324);
//! - with a key that is good for N accounts N are created, whoever tries at once (XEP-0348);
//! - events of services reach whom they are for in the order they happened;
//! - outboxes and batches stay within their bounds;
//! - those who saw a session available learn once that it is gone (RFC 6121 §4.5.2, §4.6.3);
//! - when all sessions have ended, nothing of them is left.
//!
//! A failure prints its seed, and the command that replays it: `PLAZA_SEED=n` is the seed, and `PLAZA_TRACE=1` prints what
//! passes between clients and broker. `PLAZA_SEEDS=from..to` tries others, `PLAZA_LONG=1` thirty times as many.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "sim/random.rs"]
mod random;
#[path = "sim/world.rs"]
mod world;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{available_parallelism, scope};

use world::World;

/// Plays a world to its end.
fn simulate(seed: u64) -> World {
    let mut world = World::new(seed);
    world.live();
    world.drain();
    world.check();
    world.end();
    world
}

/// Worlds that found a bug once.
#[test]
fn seed_0_a_stanza_of_a_session_ended_from_this_side_is_counted() {
    simulate(0);
}

#[test]
fn seed_43_a_session_waits_for_an_answer_whoever_resumes_it() {
    simulate(43);
}

#[test]
fn seed_63_a_full_outbox_is_one_drop_or_one_error() {
    simulate(63);
}

#[test]
fn seed_157_what_one_resource_took_is_not_refused_for_another() {
    simulate(157);
}

#[test]
fn seed_28285_what_a_session_did_not_get_comes_before_what_waited_behind_it() {
    simulate(28285);
}

#[test]
fn seed_2218_what_was_being_archived_comes_behind_what_was_kept() {
    simulate(2218);
}

#[test]
fn seed_128_a_question_is_not_put_once_who_asks_is_blocked() {
    simulate(128);
}

#[test]
fn seed_193_what_was_kept_is_not_given_once_its_sender_is_blocked() {
    simulate(193);
}

#[test]
fn seed_6154_what_was_refused_for_want_of_room_is_not_lost() {
    simulate(6154);
}

#[test]
fn seed_4_what_a_device_acknowledged_while_it_was_read_is_not_told_again() {
    simulate(4);
}

#[test]
fn seed_1925_a_notice_that_found_no_room_is_told_at_the_next_presence() {
    simulate(1925);
}

#[test]
fn seed_2530_what_was_heard_of_a_thing_that_is_gone_is_nothing_of_the_next_of_its_name() {
    simulate(2530);
}

/// What happened in worlds, so that none of it is kept by chance.
#[derive(Debug, Default)]
struct Happened {
    events: u64,
    blocked: u64,
    held_up: u64,
    requests_refused: u64,
    notes_kept: u64,
    kills: u64,
    durable: u64,
    things_claimed: u64,
    claims_refused: u64,
    things_given_up: u64,
    notices: u64,
    decided: u64,
    allowed: u64,
    asked: u64,
    ruled: u64,
    answers_refused: u64,
    begun_anew: u64,
    rules_deleted: u64,
    cleared: u64,
    orders_refused: u64,
}

impl Happened {
    fn add(&mut self, world: &World) {
        self.events += world.events_seen;
        self.blocked += world.blocks.blocked;
        self.held_up += world.blocks.held_up;
        self.requests_refused += world.requests_refused;
        self.notes_kept += world.notes.kept() as u64;
        self.kills += u64::from(world.life);
        self.durable += world.durable() as u64;
        self.things_claimed += world.things.claims;
        self.claims_refused += world.things.refused;
        self.things_given_up += world.things.disowned;
        self.notices += world.things.notices;
        self.decided += world.owners.decided;
        self.allowed += world.owners.allowed;
        self.asked += world.owners.asked;
        self.ruled += world.owners.ruled;
        self.answers_refused += world.owners.refused;
        self.begun_anew += world.owners.orders.begun_anew;
        self.rules_deleted += world.owners.orders.rules_deleted;
        self.cleared += world.owners.orders.cleared;
        self.orders_refused += world.owners.orders.refused;
    }

    fn enough(&self) {
        let Self { events, blocked, held_up, requests_refused, notes_kept, kills, durable, .. } = self;
        assert!(*events > 1_000 && *blocked > 500 && *held_up > 500, "{self:?}");
        assert!(*requests_refused > 500 && *notes_kept > 200 && *kills > 500 && *durable > 20, "{self:?}");
        let Self { things_claimed, claims_refused, things_given_up, notices, .. } = self;
        assert!(*things_claimed > 100 && *claims_refused > 1_000, "{self:?}");
        assert!(*things_given_up > 10 && *notices > 500, "{self:?}");
        let Self { decided, allowed, asked, ruled, answers_refused, .. } = self;
        assert!(*decided > 5_000 && *allowed > 300 && *asked > 500, "{self:?}");
        assert!(*ruled > 100 && *answers_refused > 100, "{self:?}");
        let Self { begun_anew, rules_deleted, cleared, orders_refused, .. } = self;
        assert!(*begun_anew > 200 && *rules_deleted > 200, "{self:?}");
        assert!(*cleared > 100 && *orders_refused > 100, "{self:?}");
    }
}

/// Which seeds to try, by what the environment says; and whether they are those that are always tried.
fn seeds() -> (Range<u64>, bool) {
    let number = |text: &str| text.parse().expect("seeds are numbers");
    let said = |name| std::env::var(name).ok();
    if let Some(seed) = said("PLAZA_SEED") {
        let seed = number(&seed);
        return (seed..seed + 1, false);
    }
    if let Some(seeds) = said("PLAZA_SEEDS") {
        let (from, to) = seeds.split_once("..").expect("PLAZA_SEEDS is a range");
        return (number(from)..number(to), false);
    }
    if said("PLAZA_LONG").is_some() { (0..30_000, false) } else { (0..1_000, true) }
}

#[test]
fn seeds_keep_the_invariants() {
    let (seeds, is_usual) = seeds();
    let next = AtomicU64::new(seeds.start);
    let (failed, happened) = (Mutex::new(Vec::new()), Mutex::new(Happened::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            match catch_unwind(|| simulate(seed)) {
                Ok(world) => happened.lock().unwrap().add(&world),
                Err(_) => failed.lock().unwrap().push(seed),
            }
        }
    };
    let threads = available_parallelism().map_or(1, NonZeroUsize::get);
    scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let (mut failed, happened) = (failed.into_inner().unwrap(), happened.into_inner().unwrap());
    failed.sort_unstable();
    if let Some(first) = failed.first() {
        panic!(
            "{failed:?} fail; replay one, and see what passes:\n\
             PLAZA_SEED={first} PLAZA_TRACE=1 cargo test -p plaza-shards --test sim seeds_keep"
        );
    }
    println!("{happened:?}");
    if is_usual {
        happened.enough();
    }
}
