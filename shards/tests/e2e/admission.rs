//! One source that opens connections as if it were alone.

use std::time::Duration;

use crate::broker::PASSWORD;
use crate::scene::Scene;
use crate::wire::Wire;

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
