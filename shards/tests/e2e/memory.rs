//! Memory that runs short: who comes waits, what can be done without is put off, and it comes back when there is more again.

use std::time::Duration;

use crate::broker::Broker;
use crate::managed::{managed, message};
use crate::scene::Scene;
use crate::tls;
use crate::wire::{HEADER, Wire};

const MIB: u64 = 1 << 20;
/// Bytes of one message's body; a session that waits to be resumed may hold 4 MiB of them.
const BODY_BYTES: usize = 200_000;
const BODIES: usize = 16;
/// Accounts whose sessions fill the memory, each with as many as may wait.
const FILLERS: [&str; 3] = ["anna", "cleo", "dora"];
const WAITING: usize = 4;

fn level(broker: &Broker) -> u64 {
    broker.metric("plaza_memory_level", "")
}

fn shed(broker: &Broker, what: &str) -> u64 {
    broker.metric("plaza_memory_sheds_total", &format!("what=\"{what}\""))
}

/// Sets the bound so that the watermarks are so many bytes above what is used now.
fn bound(scene: &mut Scene, above: [u64; 3]) {
    let used = scene.broker.metric("plaza_memory_used_bytes", "");
    assert!(used > 0, "nobody has looked");
    let limit = used + above[2] + 16 * MIB;
    let percents = above.map(|bytes| (used + bytes) * 100 / limit);
    scene.broker.reconfigure(|text| {
        text.replace("limit = '64 GiB'", &format!("limit = {limit}"))
            .replace("watermarks = [70, 80, 90]", &format!("watermarks = {percents:?}"))
    });
    scene.broker.hang_up();
    scene.broker.wait("for the bound", |broker| broker.metric("plaza_memory_limit_bytes", "") == limit);
}

/// The shards' receive buffers are made at the start and become resident as they are first used: here all of them are.
fn warm_up(scene: &mut Scene) {
    for user in ["anna", "bert", "cleo", "dora"] {
        let mut wire = Wire::login(&scene.broker, user, "warm");
        wire.send(vec![b' '; 6 << 20]);
        wire.ping();
    }
    scene.broker.wait("for them to leave", |broker| broker.metric("plaza_connections", "") == 2);
}

/// Sends messages to a session that waits, until the level is reached; whether it was.
fn fill(broker: &mut Broker, sender: &mut Wire, to: &str, sent: &mut usize, wanted: u64) -> bool {
    let text = "x".repeat(BODY_BYTES);
    while *sent < BODIES && level(broker) < wanted {
        sender.send(format!("<message to='{to}' type='headline'><body>{text}</body></message>"));
        sender.ping();
        *sent += 1;
        // The broker looks twice a second.
        std::thread::sleep(Duration::from_millis(50));
    }
    level(broker) >= wanted
}

#[test]
fn when_memory_runs_short_the_broker_gives_up_what_can_be_done_without_and_lives() {
    let mut scene = Scene::open(
        "unacknowledged_bytes_max = '4 MiB'\nunacknowledged_stanzas_max = 1000\n[memory]\nlimit = '64 GiB'\n\
         watermarks = [70, 80, 90]\nhibernated_percent_max = 100",
    );
    scene.broker.wait("for a look", |broker| broker.metric("plaza_memory_used_bytes", "") > 0);
    warm_up(&mut scene);
    let mut sender = Wire::available(&scene.broker, "bert", "sender");
    let mut slow = Vec::new();
    for user in FILLERS {
        let wires: Vec<Wire> =
            (0..WAITING).map(|number| managed(&scene.broker, user, &format!("r{number}")).0).collect();
        slow.push(wires);
    }
    drop(slow);
    let waiting = (FILLERS.len() * WAITING) as u64;
    scene.broker.wait("for all to wait", |broker| broker.metric("plaza_hibernated_sessions", "") == waiting);
    bound(&mut scene, [14 * MIB, 22 * MIB, 30 * MIB]);
    assert_eq!(level(&scene.broker), 0);

    let mut addresses =
        FILLERS.iter().flat_map(|user| (0..WAITING).map(move |number| format!("{user}@localhost/r{number}")));
    let (mut to, mut sent) = (addresses.next().unwrap(), 0);
    let mut newcomer = None;
    for wanted in 1..=3 {
        while !fill(&mut scene.broker, &mut sender, &to, &mut sent, wanted) {
            // At the last watermark sessions are given up as fast as they fill.
            if wanted == 3 && shed(&scene.broker, "hibernated") > 0 {
                break;
            }
            (to, sent) = (addresses.next().expect("enough to fill it"), 0);
        }
        match wanted {
            1 => {
                // The level is shown before the shards have heard of it.
                scene.broker.wait("for both shards", |broker| shed(broker, "accepting") == 2);
                let mut wire = Wire::connect(scene.broker.plain);
                wire.try_send(HEADER);
                std::thread::sleep(Duration::from_secs(1));
                let ended = wire.ended();
                scene.check("121 newcomers", !ended && wire.is_silent(), "a newcomer is not left to wait");
                newcomer = Some(wire);
                let stopped = shed(&scene.broker, "accepting");
                scene.check("121 newcomers", stopped == 2, &format!("{stopped} shards stopped accepting"));
            }
            2 => {
                // Who is there is reached.
                sender.send(message("emil@localhost/peer", "there"));
                let said = scene.peer_hears("<body>there</body></message>");
                scene.check("121 messages", said.contains("id='there'"), &said);
            }
            _ => scene.broker.wait("for sessions to be given up", |broker| shed(broker, "hibernated") > 0),
        }
        scene.note("121 the others", "", "");
    }
    scene.broker.wait("for the level to end", |broker| level(broker) < 3);
    let left = scene.broker.metric("plaza_hibernated_sessions", "");
    scene.check("121 given up", left < waiting, &format!("{left} of {waiting} are left"));
    scene.note("121 the others", "", "");

    // They go: what was put off is done.
    for user in FILLERS {
        scene.broker.cli(&["account", "disable", &format!("{user}@localhost")]);
    }
    // The level may have ended before, when sessions were given up, and the shards hear of an account in their next turn.
    scene.broker.wait("for what they held", |broker| broker.metric("plaza_memory_bytes", "hibernated") == 0);
    scene.broker.wait("for memory", |broker| level(broker) == 0);
    let mut newcomer = newcomer.expect("a newcomer");
    newcomer.until("</stream:features>");
    let (up, down) = ("memory runs short", "there is more memory again");
    let log = scene.broker.log();
    let lines = log.lines().filter(|line| line.contains(up) || line.contains(down)).count();
    scene.check("121 log", log.contains(up) && log.contains(down) && lines < 40, &format!("{lines} lines"));
    drop((sender, newcomer));
    scene.finish();
}

#[test]
fn messages_for_who_is_away_are_refused_while_memory_is_short() {
    let mut scene = Scene::open("[memory]\nlimit = '64 GiB'\nwatermarks = [70, 80, 90]");
    scene.broker.wait("for a look", |broker| broker.metric("plaza_memory_used_bytes", "") > 0);
    let mut sender = Wire::available(&scene.broker, "bert", "sender");
    // What is used is past the second watermark already, and far from the third.
    let used = scene.broker.metric("plaza_memory_used_bytes", "");
    let limit = used * 2;
    scene.broker.reconfigure(|text| {
        text.replace("limit = '64 GiB'", &format!("limit = {limit}"))
            .replace("watermarks = [70, 80, 90]", "watermarks = [10, 20, 95]")
    });
    scene.broker.hang_up();
    scene.broker.wait("for the level", |broker| level(broker) == 2 && shed(broker, "accepting") == 2);
    sender.send(message("anna@localhost", "away"));
    let said = sender.until("</message>");
    scene.note("121 away", &said, "type='error'…<service-unavailable ");
    sender.send(message("emil@localhost/nobody", "there"));
    sender.ping();
    scene.broker.reconfigure(|text| text.replace("watermarks = [10, 20, 95]", "watermarks = [80, 90, 95]"));
    scene.broker.hang_up();
    scene.broker.wait("for memory", |broker| level(broker) == 0);
    sender.send(message("anna@localhost", "kept"));
    sender.ping();
    scene.broker.wait("for it to be kept", |broker| broker.metric("plaza_offline_kept_total", "") == 1);
    scene.check("121 counted", shed(&scene.broker, "offline") == 1, "not counted once");
    drop(sender);
    scene.finish();
}

#[test]
fn who_has_not_logged_in_makes_the_broker_hold_little_and_not_for_long() {
    /// Most that may be held of one: hardening against floods starts here.
    const HELD_MAX: u64 = 16 * 1024;
    let mut scene = Scene::open("handshake_timeout = '12s'\nnegotiation_timeout = '12s'");
    let partial = format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{}", "A".repeat(8_000));
    // A record and a handshake message that are never whole, and bytes up to what is held of them.
    let mut hello = vec![0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3];
    hello.resize(6_000, b'a');
    let mut record = vec![0x17, 3, 3, 0x40, 0];
    record.resize(11_000, b'a');

    warm_up(&mut scene);
    let before = scene.broker.resident();
    let mut peers: Vec<Wire> = Vec::new();
    for _ in 0..60 {
        let mut wire = Wire::open(scene.broker.plain);
        wire.send(&partial);
        peers.push(wire);
    }
    let plain = held(&mut scene, 60);
    scene.check("in clear", plain <= HELD_MAX, &format!("{plain} bytes are held of each"));
    for _ in 0..60 {
        let mut wire = Wire::connect(scene.broker.direct);
        wire.send(&hello);
        peers.push(wire);
    }
    let both = held(&mut scene, 120);
    scene.check("a handshake", 2 * both - plain <= HELD_MAX, &format!("{} bytes are held of each", 2 * both - plain));
    for _ in 0..60 {
        let mut wire = Wire::connect(scene.broker.direct).secure(tls::any(), "localhost").unwrap();
        wire.begin();
        std::io::Write::write_all(&mut wire.socket, &record).unwrap();
        peers.push(wire);
    }
    let all = held(&mut scene, 180);
    let secured = (3 * all).saturating_sub(2 * both);
    scene.check("a record", secured <= HELD_MAX, &format!("{secured} bytes are held of each"));
    let grown = scene.broker.resident().saturating_sub(before) / 180;
    eprintln!(
        "held of each: {plain} in clear, {} in a handshake, {secured} in a record; resident {grown}",
        2 * both - plain
    );
    scene.check("resident", grown <= 4 * HELD_MAX, &format!("the process grew by {grown} bytes for each"));
    scene.note("the others", "", "");

    scene.broker.wait("for all to be timed out", |broker| broker.metric("plaza_negotiating_connections", "") == 0);
    drop(peers);
    scene.broker.wait("for them to be gone", |broker| {
        broker.metric("plaza_memory_bytes", "negotiating") == 0 && broker.metric("plaza_connections", "") == 2
    });
    scene.close();
}

/// Bytes held of each of so many that have not logged in, once all they said has arrived.
fn held(scene: &mut Scene, count: u64) -> u64 {
    scene.broker.wait("for all of them", |broker| broker.metric("plaza_negotiating_connections", "") == count);
    let mut last = 0;
    scene.broker.wait("for what they said", |broker| {
        std::thread::sleep(Duration::from_millis(300));
        let now = broker.metric("plaza_memory_bytes", "negotiating");
        std::mem::replace(&mut last, now) == now && now > 0
    });
    last / count
}
