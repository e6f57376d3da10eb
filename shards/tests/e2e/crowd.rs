//! Crowds: hundreds who do not read, hundreds who want to know of the same, many who write to one. They hold up nobody but
//! those who write to them, and the broker holds no more for them than it said it would.

use std::io::{ErrorKind, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::broker::{Broker, PATIENCE};
use crate::scene::Scene;
use crate::wire::Wire;

/// Accounts of the crowd.
const CROWD: [&str; 3] = ["anna", "bert", "cleo"];
/// Sessions of each.
const EACH: usize = 60;
const SESSIONS: &str = "sessions_per_account_max = 100\n";
/// What a session may have waiting, in these tests.
const OUTBOX_BYTES_MAX: u64 = 256 << 10;
/// Longest time that an exchange of a neighbour may take meanwhile, on a host under load.
const NEIGHBOUR_MAX: Duration = Duration::from_secs(2);

/// A crowd logs in, an account in a thread.
fn crowd(broker: &Broker) -> Vec<Wire> {
    thread::scope(|scope| {
        let come =
            |user| move || (0..EACH).map(|at| Wire::available(broker, user, &format!("r{at}"))).collect::<Vec<_>>();
        let threads = CROWD.map(|user| scope.spawn(come(user)));
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn hundreds_who_do_not_read_hold_up_those_who_write_to_them_and_nobody_else() {
    let mut scene = Scene::open(&format!("{SESSIONS}outbox_bytes_max = '256 KiB'\nstuck_timeout = '8s'"));
    hold_up(&mut scene);
    // Memory that the first crowd had is there for the second, which takes no more.
    scene.settle();
    hold_up(&mut scene);
    scene.close();
}

/// A crowd comes, does not read what is written to it, and goes.
fn hold_up(scene: &mut Scene) {
    const CASE: &str = "119 hundreds who do not read";
    let deaf = crowd(&scene.broker);
    for wire in &deaf {
        SockRef::from(&wire.socket).set_recv_buffer_size(1).unwrap();
    }
    let sessions = scene.broker.metric("plaza_sessions", "");
    assert_eq!(sessions as usize, 2 + CROWD.len() * EACH);
    let pauses = scene.broker.metric("plaza_backpressure_pauses_total", "");
    // A headline goes to each of an account's sessions.
    let over = Arc::new(AtomicBool::new(false));
    let padding = "x".repeat(2_000);
    let writers: Vec<_> = CROWD
        .into_iter()
        .map(|user| {
            let mut wire = Wire::login(&scene.broker, "dora", &format!("to-{user}"));
            let over = Arc::clone(&over);
            let text = format!("<message to='{user}@localhost' type='headline'><body>{padding}</body></message>");
            wire.socket.set_nonblocking(true).unwrap();
            thread::spawn(move || {
                let (mut sent, mut waited) = (0_u64, false);
                while !over.load(Ordering::Relaxed) {
                    let at = usize::try_from(sent).unwrap() % text.len();
                    match wire.socket.write(&text.as_bytes()[at..]) {
                        Ok(count) => sent += count as u64,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            waited = true;
                            thread::sleep(Duration::from_millis(5));
                        }
                        Err(_) => break,
                    }
                }
                (sent, waited)
            })
        })
        .collect();
    let before = scene.broker.resident();
    let bound = (CROWD.len() * EACH) as u64 * OUTBOX_BYTES_MAX;
    let (mut outbox, mut resident) = (0, 0);
    let end = Instant::now() + Duration::from_secs(6);
    while Instant::now() < end {
        scene.undisturbed(CASE);
        outbox = scene.broker.metric("plaza_outbox_bytes", "").max(outbox);
        resident = scene.broker.resident().max(resident);
        thread::sleep(Duration::from_millis(50));
    }
    scene.check(CASE, outbox > 0 && outbox <= bound, &format!("{outbox} bytes waited, of {bound}"));
    let grown = resident.saturating_sub(before);
    scene.check(CASE, grown <= bound, &format!("the broker grew by {grown} bytes, {outbox} of them waiting"));
    let pauses = scene.broker.metric("plaza_backpressure_pauses_total", "") - pauses;
    scene.check(CASE, pauses >= CROWD.len() as u64, "those who write were not held back");
    // Who takes nothing for too long is no session any more, and what waited for it is free.
    scene.broker.wait("for the deaf to be given up", |broker| broker.metric("plaza_sessions", "") < sessions);
    over.store(true, Ordering::Relaxed);
    for writer in writers {
        let (sent, waited) = writer.join().unwrap();
        scene.check(CASE, sent > 0 && waited, &format!("{sent} bytes were written, without a wait"));
    }
    drop(deaf);
    scene.broker.wait("for the crowd to be gone", |broker| broker.metric("plaza_sessions", "") == 2);
    scene.undisturbed(CASE);
}

/// Reads what there is for each of a crowd, until each has so many of something; returns all of it.
fn hear(crowd: Vec<Wire>, what: &str, count: usize) -> Vec<String> {
    let mut heard: Vec<(Wire, Vec<u8>)> = crowd.into_iter().map(|wire| (wire, Vec::new())).collect();
    let end = Instant::now() + PATIENCE * 3;
    let mut buffer = vec![0; 64 * 1024];
    for (wire, _) in &heard {
        wire.socket.set_nonblocking(true).unwrap();
    }
    loop {
        let mut missing = 0;
        for (wire, text) in &mut heard {
            match wire.socket.read(&mut buffer) {
                Ok(0) => panic!("123: a session was ended"),
                Ok(len) => text.extend_from_slice(&buffer[..len]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            missing += usize::from(memchr::memmem::find_iter(text, what).count() < count);
        }
        if missing == 0 {
            return heard.into_iter().map(|(_, text)| String::from_utf8(text).unwrap()).collect();
        }
        assert!(Instant::now() < end, "123: {missing} of the crowd have not got all");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_node_with_hundreds_of_subscribers_tells_each_of_each_item_and_holds_up_nobody_else() {
    const CASE: &str = "123 a node with hundreds of subscribers";
    const ITEMS: usize = 60;
    let mut scene = Scene::open(SESSIONS);
    let pubsub = |inside: &str| format!("<pubsub xmlns='http://jabber.org/protocol/pubsub'>{inside}</pubsub>");
    let mut owner = Wire::login(&scene.broker, "dora", "owner");
    let said = owner.ask("set", "pubsub.localhost", &pubsub("<create node='hot'/>"));
    assert!(said.contains("type='result'"), "{said}");
    let mut crowd = crowd(&scene.broker);
    for (at, wire) in crowd.iter_mut().enumerate() {
        let jid = format!("{}@localhost/r{}", CROWD[at / EACH], at % EACH);
        let said = wire.ask("set", "pubsub.localhost", &pubsub(&format!("<subscribe node='hot' jid='{jid}'/>")));
        assert!(said.contains("subscription='subscribed'"), "{said}");
    }
    let (first, second) = (crowd.split_off(crowd.len() / 2), crowd);
    let readers = [first, second].map(|crowd| thread::spawn(move || hear(crowd, "</event></message>", ITEMS)));
    // As fast as they are taken.
    let publisher = thread::spawn(move || {
        for number in 0..ITEMS {
            let item = format!("<item id='{number}'><e xmlns='urn:e'>{number}</e></item>");
            let publish = format!("<publish node='hot'>{item}</publish>");
            owner.send(format!(
                "<iq type='set' id='p{number}' to='pubsub.localhost'><pubsub xmlns='http://jabber.org/protocol/pubsub'>{publish}</pubsub></iq>"
            ));
        }
        let mut said = String::new();
        for number in 0..ITEMS {
            said.push_str(&owner.until(&format!("id='p{number}'")));
        }
        said
    });
    while !readers.iter().all(|reader| reader.is_finished()) {
        scene.undisturbed(CASE);
        thread::sleep(Duration::from_millis(20));
    }
    let said = publisher.join().unwrap();
    scene.check(CASE, !said.contains("type='error'"), &said);
    for reader in readers {
        for text in reader.join().unwrap() {
            let ids = text.split("<item id='").skip(1).map(|rest| rest.split_once('\'').unwrap().0.to_owned());
            let each_once = ids.eq((0..ITEMS).map(|number| number.to_string()));
            scene.check(CASE, each_once, "a subscriber was not told of each item once, in order");
        }
    }
    scene.undisturbed(CASE);
    scene.close();
}

#[test]
fn an_account_that_many_write_to_holds_them_back_and_not_its_neighbours() {
    const CASE: &str = "123 an account that many write to";
    const SENDERS: usize = 5;
    const MESSAGES: usize = 2_000;
    let mut scene = Scene::open(SESSIONS);
    for (sender, receiver) in scene.pairs() {
        let hot = Wire::available(&scene.broker, receiver, "hot");
        // A neighbour on the same shard: another session of the same account.
        let mut near = Wire::available(&scene.broker, receiver, "near");
        let writers: Vec<_> = (0..SENDERS)
            .map(|at| {
                let mut wire = Wire::login(&scene.broker, sender, &format!("s{at}"));
                thread::spawn(move || {
                    wire.socket.set_write_timeout(Some(PATIENCE * 3)).unwrap();
                    for number in 0..MESSAGES {
                        wire.send(format!(
                            "<message to='{receiver}@localhost/hot' id='{at}-{number}'><body>as fast as it goes</body></message>"
                        ));
                    }
                    wire.ping()
                })
            })
            .collect();
        let reader = thread::spawn(move || hear(vec![hot], "</message>", SENDERS * MESSAGES).remove(0));
        while !reader.is_finished() {
            scene.undisturbed(CASE);
            let asked = Instant::now();
            near.send(format!("<message to='{receiver}@localhost/near' id='n'><body>echo</body></message>"));
            near.until("</message>");
            let waited = asked.elapsed();
            scene.check(CASE, waited < NEIGHBOUR_MAX, &format!("its neighbour waits {waited:?}"));
            thread::sleep(Duration::from_millis(20));
        }
        for writer in writers {
            let errors = writer.join().unwrap();
            scene.check(CASE, errors.is_empty(), &errors);
        }
        let mut next = [0; SENDERS];
        for id in reader.join().unwrap().split(" id='").skip(1).map(|rest| rest.split_once('\'').unwrap().0) {
            let (at, number) = id.split_once('-').unwrap();
            let (at, number): (usize, usize) = (at.parse().unwrap(), number.parse().unwrap());
            scene.check(CASE, number == next[at], "a message is missing, or out of order");
            next[at] = number + 1;
        }
        scene.check(CASE, next == [MESSAGES; SENDERS], &format!("{next:?} arrived"));
        drop(near);
    }
    scene.close();
}
