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
//! - events of services reach whom they are for in the order they happened;
//! - outboxes and batches stay within their bounds;
//! - those who saw a session available learn once that it is gone (RFC 6121 §4.5.2, §4.6.3);
//! - when all sessions have ended, nothing of them is left.
//!
//! A failure prints its seed. `PLAZA_SEED=n` replays one, `PLAZA_LONG=1` runs thirty times as many.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "sim/random.rs"]
mod random;
#[path = "sim/world.rs"]
mod world;

use std::panic::catch_unwind;

use world::World;

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    world.live();
    world.drain();
    world.check();
    world.end();
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
fn events_arrive() {
    let mut seen = 0;
    for seed in 0..50 {
        let mut world = World::new(seed);
        world.live();
        world.drain();
        seen += world.events_seen;
    }
    assert!(seen > 100, "{seen} events arrived");
}

#[test]
fn lists_hold_up() {
    let (mut blocked, mut held_up) = (0, 0);
    for seed in (0..210).filter(|seed| matches!(seed % 7, 2 | 4)) {
        let mut world = World::new(seed);
        world.live();
        world.drain();
        blocked += world.blocks.blocked;
        held_up += world.blocks.held_up;
    }
    assert!(blocked > 100 && held_up > 100, "{blocked} addresses were blocked, {held_up} stanzas held up");
}

#[test]
fn stores_fail_and_brokers_are_killed() {
    let (mut refused, mut kept, mut lives, mut durable) = (0, 0, 0, 0);
    for seed in 0..200 {
        let mut world = World::new(seed);
        world.live();
        world.drain();
        refused += world.requests_refused;
        kept += world.notes.kept();
        lives += world.life;
        durable += world.durable();
    }
    assert!(refused > 100 && kept > 50, "{refused} requests were refused, {kept} notes kept");
    assert!(lives > 100 && durable > 10, "{lives} brokers were killed, {durable} messages had to be stored");
}

#[test]
fn seeds_keep_the_invariants() {
    if let Ok(seed) = std::env::var("PLAZA_SEED") {
        return simulate(seed.parse().expect("PLAZA_SEED is a number"));
    }
    let seeds = if std::env::var_os("PLAZA_LONG").is_some() { 30_000 } else { 1_000 };
    let failed: Vec<u64> = (0..seeds).filter(|&seed| catch_unwind(|| simulate(seed)).is_err()).collect();
    assert!(failed.is_empty(), "replay with PLAZA_SEED, one of {failed:?}");
}
