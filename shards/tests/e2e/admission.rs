//! One source that opens connections as if it were alone, and many that come back at once.

use std::thread;
use std::time::{Duration, Instant};

use crate::broker::{Broker, PASSWORD};
use crate::scene::Scene;
use crate::tls::any;
use crate::wire::{Wire, auth};

/// Where our own sessions come from is not counted; all else of this host is.
const LIMITS: &str = "[admission]\nnegotiating_per_source_max = 8\nconnections_per_source_per_second = 50\n\
                      connections_per_source_burst = 20\nunlimited = ['127.0.0.0/31']";
const CROWD: [u8; 4] = [127, 0, 0, 9];

/// Those of so many new connections that the broker goes on to hear.
fn admitted(scene: &Scene, source: [u8; 4], count: usize) -> Vec<Wire> {
    let mut wires: Vec<Wire> = (0..count).map(|_| Wire::connect_from(source, scene.broker.plain)).collect();
    wires.retain_mut(Wire::is_heard);
    wires
}

#[test]
fn a_source_has_its_share_of_newcomers_and_leaves_others_theirs() {
    let mut scene = Scene::open(LIMITS);
    let refused = |scene: &Scene, reason: &str| scene.broker.metric("plaza_refused_connections_total", reason);

    let mut held = admitted(&scene, CROWD, 12);
    scene.check("crowd", held.len() == 8, &format!("{} of 12 are heard", held.len()));
    let count = refused(&scene, "source-crowded");
    scene.check("crowd", count == 4, &format!("{count} are counted as refused"));
    scene.undisturbed("crowd");
    let others = admitted(&scene, [127, 0, 0, 10], 1);
    scene.check("another", others.len() == 1, "is not heard");

    // Who logs in makes room for another, on whichever shard the account is at home; so does who leaves.
    for user in ["anna", "bert"] {
        let mut wire = held.pop().unwrap();
        let answer = wire.scram(user, PASSWORD);
        scene.note(user, &answer, "<success ");
        let wire = wire.bind(user, "crowd");
        let more = admitted(&scene, CROWD, 2);
        scene.check(user, more.len() == 1, &format!("makes room for {}", more.len()));
        held.extend(more);
        drop(wire);
    }
    drop(held);
    scene.broker.wait("those who left to be forgotten", |broker| {
        broker.metric("plaza_negotiating_connections", "") == others.len() as u64
    });
    std::thread::sleep(Duration::from_millis(500));
    let held = admitted(&scene, CROWD, 8);
    scene.check("left", held.len() == 8, &format!("{} are heard where 8 left", held.len()));
    drop(held);

    // One after another, none of which stays: a burst, and then the rate.
    let before = refused(&scene, "source-too-fast");
    let source = [127, 0, 0, 11];
    for _ in 0..60 {
        let mut wire = Wire::connect_from(source, scene.broker.plain);
        wire.try_send("</stream:stream>");
        while !wire.ended() {}
    }
    let count = refused(&scene, "source-too-fast") - before;
    scene.check("fast", count > 0, "none of sixty at once is refused");
    scene.undisturbed("fast");
    std::thread::sleep(Duration::from_secs(1));
    let again = admitted(&scene, source, 5);
    scene.check("slow", again.len() == 5, &format!("{} of 5 are heard after a pause", again.len()));
    drop((again, others));
    scene.close();
}

#[test]
fn who_comes_at_once_gets_in_one_after_another_and_who_is_there_is_served() {
    let mut scene = Scene::open("[admission]\nhandshakes_per_shard_per_second = 5");
    let (port, crowd) = (scene.broker.direct, 24);
    let begun = Instant::now();
    let newcomers: Vec<_> = (0..crowd)
        .map(|_| {
            thread::spawn(move || {
                let mut wire = Wire::connect(port).secure(any(), "localhost").unwrap();
                let features = wire.begin();
                (wire, features, begun.elapsed())
            })
        })
        .collect();
    // Meanwhile those who are there are heard in time; the scene minds each answer.
    let mut slowest = Duration::ZERO;
    while newcomers.iter().any(|newcomer| !newcomer.is_finished()) {
        let asked = Instant::now();
        scene.undisturbed("crowd");
        slowest = slowest.max(asked.elapsed());
        thread::sleep(Duration::from_millis(50));
    }
    let mut last = Duration::ZERO;
    for newcomer in newcomers {
        let (wire, features, took) = newcomer.join().unwrap();
        scene.check("crowd", features.contains("SCRAM-SHA-256"), &features);
        last = last.max(took);
        drop(wire);
    }
    // Two shards of five a second, or one of them at worst, and all within what a handshake may take.
    scene.check("crowd", last > Duration::from_millis(1_500), &format!("the last was in after {last:?}"));
    scene.check("crowd", last < Duration::from_secs(12), &format!("the last was in after {last:?}"));
    scene.check("crowd", slowest < Duration::from_secs(1), &format!("the bystanders waited {slowest:?}"));
    let admitted = scene.broker.metric("plaza_admitted_newcomers_total", "handshake");
    scene.check("crowd", admitted == crowd, &format!("{admitted} handshakes are counted"));
    let held = scene.broker.metric("plaza_held_newcomers_total", "handshake");
    scene.check("crowd", held >= 12, &format!("{held} are counted as held"));
    scene.close();
}

#[test]
fn sessions_are_made_and_announced_at_their_rate_and_passwords_beyond_theirs_are_refused() {
    let limits = "[admission]\nbinds_per_shard_per_second = 3\npresences_per_shard_per_second = 2\n\
                  passwords_per_shard_per_second = 1";
    let broker = Broker::start(limits);
    let (plain, begun) = (broker.plain, Instant::now());
    let sessions: Vec<_> = (0..5)
        .map(|at| {
            thread::spawn(move || {
                let mut wire = Wire::open(plain);
                assert!(wire.scram("anna", PASSWORD).contains("<success"));
                let mut wire = wire.bind("anna", &format!("r{at}"));
                let bound = begun.elapsed();
                wire.send("<presence/>");
                // Its own presence comes back to it, whenever it is told.
                wire.until(&format!("from='anna@localhost/r{at}'"));
                (wire, bound)
            })
        })
        .collect();
    let sessions: Vec<_> = sessions.into_iter().map(|session| session.join().unwrap()).collect();
    let last = sessions.iter().map(|(_, bound)| *bound).max().unwrap();
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(10)).contains(&last),
        "the fifth was bound after {last:?}"
    );
    for layer in ["bind", "presence"] {
        assert!(broker.metric("plaza_held_newcomers_total", layer) > 0, "{layer}");
    }
    drop(sessions);
    let login = |wire: &mut Wire| {
        wire.send(auth("PLAIN", &format!("\0bert\0{PASSWORD}")));
        wire.until_any(&["</failure>", "<success"])
    };
    let (mut one, mut other) = (Wire::open(broker.sasl_plain), Wire::open(broker.sasl_plain));
    let said = login(&mut one);
    assert!(said.contains("<success"), "{said}");
    let said = login(&mut other);
    assert!(said.contains("<temporary-auth-failure"), "{said}");
    // SCRAM derives nothing here.
    let said = other.scram("bert", PASSWORD);
    assert!(said.contains("<success"), "{said}");
    assert_eq!(broker.metric("plaza_turned_down_newcomers_total", "password"), 1);
    drop((one, other));
    broker.stop();
}

#[test]
fn who_guesses_passwords_is_not_looked_at_and_the_owner_logs_in_from_elsewhere() {
    let mut scene = Scene::open("refusal_delay = '0s'\n[admission]\nfailures_max = 3\nfailures_back_off = '3s'");
    let port = scene.broker.plain;
    let login = |source: [u8; 4], user: &str, password: &str| {
        let mut wire = Wire::connect_from(source, port);
        wire.begin();
        wire.scram(user, password)
    };
    let (here, elsewhere) = ([127, 0, 0, 1], [127, 0, 0, 2]);
    for _ in 0..3 {
        let said = login(here, "anna", "guessed");
        scene.note("guessed", &said, "<not-authorized");
    }
    let last = Instant::now();
    let said = login(here, "anna", PASSWORD);
    scene.note("from there", &said, "<temporary-auth-failure");
    let said = login(elsewhere, "anna", PASSWORD);
    scene.note("from elsewhere", &said, "<success");
    let said = login(here, "bert", PASSWORD);
    scene.note("another from there", &said, "<success");
    let barred = scene.broker.metric("plaza_barred_logins_total", "");
    scene.check("metric", barred == 1, &format!("{barred} are counted"));
    // Trying on does not make it longer.
    while last.elapsed() < Duration::from_secs(2) {
        let said = login(here, "anna", "guessed");
        scene.note("tried on", &said, "<temporary-auth-failure");
        thread::sleep(Duration::from_millis(200));
    }
    thread::sleep(Duration::from_millis(2_100).saturating_sub(last.elapsed().saturating_sub(Duration::from_secs(2))));
    let said = login(here, "anna", PASSWORD);
    scene.note("after the back-off", &said, "<success");
    scene.close();
}
