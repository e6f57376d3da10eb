//! Peers that take their time: each phase has its deadline, however many bytes trickle in.

use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::broker::PASSWORD;
use crate::scene::{Scene, error};
use crate::tls;
use crate::wire::{HEADER, Wire, auth};

/// Between two bytes.
const PAUSE: Duration = Duration::from_millis(100);

/// Says bytes one by one, over and over, until the broker has had enough: what it said, and after how long.
fn drip(mut wire: Wire, bytes: &[u8], pause: Duration, mut say: impl FnMut(&mut Wire, u8)) -> (String, Duration) {
    let begun = Instant::now();
    for byte in bytes.iter().cycle().take(200) {
        say(&mut wire, *byte);
        std::thread::sleep(pause);
        if wire.ended() {
            break;
        }
    }
    let after = begun.elapsed();
    (wire.drain(), after)
}

fn say(wire: &mut Wire, byte: u8) {
    wire.try_send([byte]);
}

#[test]
fn whoever_does_not_log_in_in_time_is_timed_out() {
    let mut scene = Scene::open("handshake_timeout = '1s'\nnegotiation_timeout = '2s'");
    let broker = &scene.broker;
    let mut challenged = Wire::open(broker.plain);
    challenged.send(auth("SCRAM-SHA-256", "n,,n=anna,r=abc"));
    challenged.until("</challenge>");
    let cases = [
        (
            "24 a header",
            Wire::connect(broker.plain),
            b"<stream:stream to='localhost' version='1.0' xmlns='jabber:client' ".as_slice(),
        ),
        ("24 white space", Wire::open(broker.starttls), b" "),
        ("24 an element", Wire::open(broker.plain), b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' "),
        ("24 an exchange", challenged, b"<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl' "),
        ("24 under TLS", Wire::connect(broker.direct).secure(tls::any(), "localhost").unwrap(), HEADER.as_bytes()),
        ("24 no resource", Wire::authenticated(broker, "anna"), HEADER.as_bytes()),
    ];
    let peers = cases.map(|(case, wire, bytes)| (case, std::thread::spawn(move || drip(wire, bytes, PAUSE, say))));
    for (case, peer) in peers {
        let (said, after) = peer.join().unwrap();
        scene.note(case, &said, &error("connection-timeout"));
        let in_time = Duration::from_millis(1_500)..Duration::from_secs(5);
        scene.check(case, in_time.contains(&after), &format!("ended after {after:?}"));
    }
    scene.close();
}

#[test]
fn a_handshake_that_is_not_finished_in_time_is_closed() {
    let mut scene = Scene::open("handshake_timeout = '1s'\nnegotiation_timeout = '2s'");
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    // A ClientHello in records of a byte each: legal, and never done.
    let records: Vec<u8> = hello[5..].iter().flat_map(|&byte| [0x16, 3, 1, 0, 1, byte]).collect();
    let broker = &scene.broker;
    let peers = [
        ("33 direct", Wire::connect(broker.direct), hello.to_vec()),
        ("33 after STARTTLS", Wire::proceed(broker.starttls), hello.to_vec()),
        ("33 records of a byte", Wire::connect(broker.direct), records),
    ]
    .map(|(case, wire, bytes)| (case, std::thread::spawn(move || drip(wire, &bytes, Duration::from_millis(30), say))));
    let mut silent = Wire::connect(broker.direct);
    for (case, peer) in peers {
        let (said, after) = peer.join().unwrap();
        scene.note(case, &said, "");
        let in_time = Duration::from_millis(700)..Duration::from_secs(4);
        scene.check(case, said.is_empty() && in_time.contains(&after), &format!("{said} after {after:?}"));
    }
    let said = silent.drain();
    scene.check("33 not a byte", said.is_empty(), &said);
    assert_eq!(scene.broker.metric("plaza_tls_handshakes_total", "timed-out"), 4);
    scene.close();
}

#[test]
fn an_element_that_does_not_end_in_time_ends_its_session() {
    let mut scene = Scene::open("stuck_timeout = '2s'");
    let start = b"<message to='fred@localhost/bystander'><body>";
    let in_clear = |user: &str| Wire::available(&scene.broker, user, "slow");
    let mut under_tls = Wire::connect(scene.broker.direct).secure(tls::any(), "localhost").unwrap();
    under_tls.begin();
    under_tls.scram("dora", PASSWORD);
    let mut peers = [
        ("24 byte by byte", in_clear("anna")),
        ("24 while others write to it", in_clear("bert")),
        ("24 under TLS", under_tls.bind("dora", "slow")),
    ];
    for (_, wire) in &mut peers {
        wire.ping();
        wire.send(start);
    }
    let peers = peers.map(|(case, wire)| (case, std::thread::spawn(move || drip(wire, b"x", PAUSE, say))));
    // What is written to a session does not help it.
    let mut writer = Wire::available(&scene.broker, "cleo", "writer");
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end && !peers.iter().all(|(_, peer)| peer.is_finished()) {
        writer.send("<message to='bert@localhost/slow' type='headline'><body>hello</body></message>");
        std::thread::sleep(Duration::from_millis(50));
    }
    for (case, peer) in peers {
        let (said, after) = peer.join().unwrap();
        scene.note(case, &said, &error("connection-timeout"));
        let in_time = Duration::from_millis(1_500)..Duration::from_millis(5_000);
        scene.check(case, in_time.contains(&after), &format!("ended after {after:?}"));
    }
    // The bystanders are as slow as they like between their stanzas.
    scene.note("24 the others", "", "");
    drop(writer);
    scene.close();
}

#[test]
fn a_record_that_does_not_end_in_time_ends_its_session() {
    let mut scene = Scene::open("stuck_timeout = '2s'");
    let mut wire = Wire::connect(scene.broker.direct).secure(tls::any(), "localhost").unwrap();
    wire.begin();
    wire.scram("dora", PASSWORD);
    let mut wire = wire.bind("dora", "slow");
    wire.ping();
    // The start of a record, below TLS.
    wire.socket.write_all(&[0x17, 3, 3, 0x40, 0]).unwrap();
    let (said, after) = drip(wire, b"x", PAUSE, |wire, byte| drop(wire.socket.write_all(&[byte])));
    let in_time = Duration::from_millis(1_500)..Duration::from_millis(5_000);
    scene.check("24 a record", in_time.contains(&after), &format!("ended after {after:?}"));
    scene.note("24 a record", &said, &error("connection-timeout"));
    scene.close();
}
