//! Floods, receivers that do not read, and the end of the broker under load.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::broker::{Broker, PASSWORD, PATIENCE};
use crate::tls;
use crate::wire::Wire;

/// Senders that flood one receiver.
const SENDERS: usize = 3;
/// Messages each sends: some 33 MB together, far beyond the outbox and the sockets' buffers.
const MESSAGES: usize = 10_000;
/// Most the broker may grow meanwhile: the allocator takes a huge page and more for each size of buffer.
const GROWTH_MAX: u64 = 24 << 20;

#[test]
fn a_receiver_that_does_not_read_holds_its_senders_back_and_loses_nothing() {
    let mut broker = Broker::start("");
    for (sender, receiver) in broker.pairs() {
        flood(&broker, sender, receiver);
    }
    broker.stop();
}

#[test]
fn a_session_that_sends_more_than_its_share_waits_and_no_other_does() {
    let broker =
        Broker::start("inbound_stanzas_per_second = 50\ninbound_bytes_per_second = '16 KiB'\ninbound_burst = '1s'");
    let [mut loud, mut spacious] = ["loud", "spacious"].map(|resource| Wire::available(&broker, "anna", resource));
    let mut near = Wire::available(&broker, "anna", "near");
    let begun = Instant::now();
    let flood = std::thread::spawn(move || {
        loud.send("<presence><status>here</status></presence>".repeat(250));
        loud.ping();
        begun.elapsed()
    });
    let spaces = std::thread::spawn(move || {
        spacious.send(" ".repeat(160 << 10));
        // What was read already is taken with them; what follows waits until all is paid for.
        spacious.ping();
        spacious.ping();
        begun.elapsed()
    });
    while !flood.is_finished() || !spaces.is_finished() {
        let asked = Instant::now();
        near.ping();
        assert!(asked.elapsed() < Duration::from_secs(1), "30 a flood of presence: others wait {:?}", asked.elapsed());
        std::thread::sleep(Duration::from_millis(100));
        assert!(begun.elapsed() < PATIENCE, "30 a flood of presence: stuck\n{}", broker.gauges());
    }
    // Five and ten seconds' worth, of which one comes at once.
    for (what, took) in [("30 a flood of presence", flood.join().unwrap()), ("25 white space", spaces.join().unwrap())]
    {
        assert!(took > Duration::from_secs(3), "{what}: taken in {took:?}");
    }
    assert!(broker.metric("plaza_shaped_pauses_total", "") > 0, "nobody had to wait");
    drop(near);
    broker.stop();
}

#[test]
fn what_was_said_before_hanging_up_is_heard() {
    let mut broker = Broker::start("inbound_stanzas_per_second = 200\ninbound_burst = '1s'");
    for (user, is_secure, last) in [
        ("anna", false, "</stream:stream>"),
        ("anna", false, ""),
        ("bert", true, "</stream:stream>"),
        ("bert", true, ""),
    ] {
        let mut near = Wire::available(&broker, user, "near");
        let mut hasty = if is_secure {
            let mut wire = Wire::connect(broker.direct).secure(tls::any(), "localhost").unwrap();
            wire.begin();
            wire.scram(user, PASSWORD);
            wire.bind(user, "hasty")
        } else {
            Wire::login(&broker, user, "hasty")
        };
        // More than a turn takes of one, something that the rest has to wait for, and more than a second may bring.
        let message = |number| format!("<message to='{user}@localhost/near' id='m{number}'><body>bye</body></message>");
        let mut words: Vec<String> = (0..300).map(message).collect();
        words.insert(20, "<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>".to_owned());
        hasty.send(words.concat() + last);
        hasty.finish();
        let heard = near.until("id='m299'");
        assert_eq!(heard.matches("id='m").count(), 300, "secure {is_secure}, {last}");
        let broke = hasty.drain();
        assert_eq!(broke.ends_with("</stream:stream>"), !last.is_empty(), "secure {is_secure}, {last}: {broke}");
        broker.wait("for its end", |broker| broker.metric("plaza_sessions", "") == 1);
    }
    broker.stop();
}

fn flood(broker: &Broker, sender: &'static str, receiver: &'static str) {
    let mut deaf = Wire::available(broker, receiver, "deaf");
    let mut near = Wire::available(broker, receiver, "near");
    deaf.ping();
    let before = broker.resident();
    let padding = "x".repeat(1_000);
    let senders: Vec<_> = (0..SENDERS)
        .map(|at| {
            let mut wire = Wire::available(broker, sender, &format!("s{at}"));
            let padding = padding.clone();
            std::thread::spawn(move || {
                wire.socket.set_write_timeout(Some(PATIENCE * 3)).unwrap();
                for number in 0..MESSAGES {
                    let stanza = format!(
                        "<message to='{receiver}@localhost/deaf' id='{at}-{number}'><body>{padding}</body></message>"
                    );
                    wire.socket.write_all(stanza.as_bytes()).unwrap();
                }
                // Behind all of them: by then each is on its way.
                let errors = wire.ping();
                (wire, errors)
            })
        })
        .collect();

    // While it is deaf: bounded memory, and everyone else is served.
    let deaf_until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deaf_until {
        let asked = Instant::now();
        near.send(format!("<message to='{receiver}@localhost/near' id='n'><body>echo</body></message>"));
        near.until("</message>");
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "119 a receiver that does not read: others wait {:?}",
            asked.elapsed()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let grown = broker.resident().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "grew by {grown} bytes");
    assert!(broker.metric("plaza_backpressure_pauses_total", "") > 0, "nobody was paused");

    // It reads again: everything arrives in order, or was answered by an error.
    let mut next = [0; SENDERS];
    let mut missing: HashSet<String> = HashSet::new();
    let end = Instant::now() + PATIENCE * 3;
    while senders.iter().any(|sender| !sender.is_finished()) {
        assert!(Instant::now() < end, "{sender} → {receiver}: stuck at {next:?}\n{}", broker.gauges());
        take(&deaf.ping(), &mut next, &mut missing);
    }
    let (mut wires, mut errors): (Vec<Wire>, Vec<String>) =
        senders.into_iter().map(|sender| sender.join().unwrap()).unzip();
    // What another shard had taken over by then follows.
    loop {
        take(&deaf.ping(), &mut next, &mut missing);
        for (wire, errors) in wires.iter_mut().zip(&mut errors) {
            errors.push_str(&wire.ping());
        }
        let never =
            next.iter().enumerate().flat_map(|(at, &next)| (next..MESSAGES).map(move |number| name(at, number)));
        let lost: Vec<String> = never
            .chain(missing.iter().cloned())
            .filter(|id| !errors.iter().any(|errors| errors.contains(&format!("id='{id}'"))))
            .collect();
        if lost.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "{sender} → {receiver}: lost without an error: {lost:?}\n{}", broker.gauges());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn name(sender: usize, number: usize) -> String {
    format!("{sender}-{number}")
}

/// Notes which messages have come; those left out in between are missing.
fn take(said: &str, next: &mut [usize; SENDERS], missing: &mut HashSet<String>) {
    for part in said.split("<message ").skip(1) {
        let id = part.split("id='").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
        let (at, number) = id.split_once('-').unwrap();
        let (at, number): (usize, usize) = (at.parse().unwrap(), number.parse().unwrap());
        assert!(number >= next[at], "{id} came after {}", next[at]);
        missing.extend((next[at]..number).map(|number| name(at, number)));
        next[at] = number + 1;
    }
}

#[test]
fn a_stop_under_load_tells_everyone_and_ends_in_time() {
    let mut broker = Broker::start("");
    let stop = Arc::new(AtomicBool::new(false));
    let peers: Vec<_> = ["anna", "bert", "cleo", "dora"]
        .into_iter()
        .map(|user| {
            let mut wire = Wire::available(&broker, user, "load");
            let mut sender = wire.socket.try_clone().unwrap();
            let stop = Arc::clone(&stop);
            let writer = std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for to in ["anna", "bert", "cleo", "dora"] {
                        let stanza = format!("<message to='{to}@localhost/load'><body>under load</body></message>");
                        if sender.write_all(stanza.as_bytes()).is_err() {
                            return;
                        }
                    }
                }
            });
            let reader = std::thread::spawn(move || {
                wire.socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                wire.drain()
            });
            (reader, writer)
        })
        .collect();
    let mut half_way = Wire::open(broker.plain);
    let mut idle = Wire::available(&broker, "emil", "idle");
    std::thread::sleep(Duration::from_millis(500));
    broker.terminate();
    let status = broker.ended(Duration::from_secs(8));
    stop.store(true, Ordering::Relaxed);
    broker.check_end(status);
    for said in [half_way.drain(), idle.drain()] {
        assert!(said.contains("<system-shutdown"), "118 a stop under load: {said}");
    }
    for (reader, writer) in peers {
        writer.join().unwrap();
        let said = reader.join().unwrap();
        let tail = &said[said.len().saturating_sub(300)..];
        assert!(tail.contains("<system-shutdown"), "{tail}");
        assert!(tail.ends_with("</stream:stream>"), "{tail}");
    }
}
