//! What stands still: a shard that does not go on, a log that nobody reads. Whoever needs neither is served meanwhile.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;

use crate::broker::{Broker, PASSWORD, PATIENCE, USERS};
use crate::faults::Faults;
use crate::scene::Scene;
use crate::wire::Wire;

/// Who writes to whom, when the log is not read.
const PINGS: usize = 200;
/// Streams that are refused meanwhile, with a line of the log each.
const REFUSED: usize = 4_000;
/// Accounts that are made while a shard is stalled.
const ACCOUNTS: usize = 3_000;
/// For a machine that has other work.
const MARGIN: Duration = Duration::from_secs(8);

/// A user at home on each shard.
fn one_of_each(broker: &mut Broker) -> [&'static str; 2] {
    let mut found = [None, None];
    for user in USERS {
        found[broker.shard_of(user) as usize].get_or_insert(user);
    }
    // Now and then all of them are at home on one.
    for user in ["gina", "henk", "ines", "jens", "kurt", "lena", "mona", "nils"] {
        if found.contains(&None) {
            broker.cli(&["account", "add", &format!("{user}@localhost"), "--password", PASSWORD]);
            found[broker.shard_of(user) as usize].get_or_insert(user);
        }
    }
    found.map(|user| user.expect("fourteen users on two shards"))
}

/// A file of accounts, each of which all shards are told of.
fn accounts(faults: &Faults) -> PathBuf {
    let keys = |hash: &str, bytes: usize| {
        let key = BASE64.encode(vec![7; bytes]);
        format!("SCRAM-{hash}$10000:c2FsdA==${key}:{key}")
    };
    let (sha1, sha256) = (keys("SHA-1", 20), keys("SHA-256", 32));
    let lines = (0..ACCOUNTS).map(|account| format!("made-{account}@localhost,{sha1},{sha256}\n"));
    let path = faults.path("accounts.csv");
    fs::write(&path, format!("jid,scram-sha-1,scram-sha-256\n{}", lines.collect::<String>())).unwrap();
    path
}

#[test]
fn a_shard_that_stalls_is_told_of_and_the_other_serves_on() {
    const CASE: &str = "113 a stalled shard";
    let faults = Faults::new();
    let manager = UnixDatagram::bind(faults.path("manager")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut variables = faults.variables();
    variables.push(("NOTIFY_SOCKET", faults.path("manager").into()));
    variables.push(("WATCHDOG_USEC", "2000000".into()));
    let mut broker = Broker::start_with("", variables);
    let [well, wedged] = one_of_each(&mut broker);
    let (mut one, mut other) = (Wire::available(&broker, well, "a"), Wire::available(&broker, well, "b"));
    let mut victim = Wire::available(&broker, wedged, "a");
    let talk = |one: &mut Wire, other: &mut Wire| {
        let begun = Instant::now();
        one.send(format!("<message to='{well}@localhost/b'><body>still here</body></message>"));
        other.until("</message>");
        assert!(begun.elapsed() < Duration::from_secs(2), "{CASE}: others wait {:?}", begun.elapsed());
    };
    let fed = || {
        let mut message = [0; 64];
        manager.recv(&mut message).is_ok_and(|len| message[..len].starts_with(b"WATCHDOG=1"))
    };
    while !fed() {}
    assert_eq!((broker.metric("plaza_stalled_shards", ""), broker.metric("plaza_shard_stalls_total", "")), (0, 0));

    faults.begin("wedge-shard-1");
    // It wakes for this, and gets stuck.
    one.send(format!("<message to='{wedged}@localhost/a'><body>for later</body></message>"));
    let begun = Instant::now();
    // What operators do meanwhile waits for it and holds up nobody.
    broker.cli(&["account", "import", accounts(&faults).to_str().expect("UTF-8")]);
    broker.wait("for the stall to be seen", |broker| {
        talk(&mut one, &mut other);
        broker.metric("plaza_stalled_shards", "") == 1
    });
    assert!(begun.elapsed() > Duration::from_secs(8), "{CASE}: seen after {:?}", begun.elapsed());
    // What was sent to the service manager before that is read, then nothing comes for three seconds.
    while fed() {}
    talk(&mut one, &mut other);
    let log = broker.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("a shard is stalled")).collect();
    assert_eq!(lines.len(), 1, "{CASE}: {log}");
    for part in ["ERROR", "shard=1", "doing=\"receiving\"", "thread=shard-1", "S (sleeping)"] {
        assert!(lines[0].contains(part), "{CASE}: no {part} in {}", lines[0]);
    }
    assert_eq!(broker.metric("plaza_shard_stalls_total", ""), 1);

    faults.end("wedge-shard-1");
    assert!(victim.until("</message>").contains("for later"));
    victim.ping();
    broker.wait("for the shard to go on", |broker| broker.metric("plaza_stalled_shards", "") == 0);
    assert!(broker.log().contains("a shard goes on"), "{CASE}: {}", broker.log());
    assert!(fed(), "{CASE}: the service manager is not told that all is well");
    drop((one, other, victim));
    broker.stop();
}

#[test]
fn a_broker_with_a_stalled_shard_ends_in_time() {
    const CASE: &str = "113 the end with a stalled shard";
    let faults = Faults::new();
    let mut broker = Broker::start_with("", faults.variables());
    let wedged = one_of_each(&mut broker)[1];
    let mut victim = Wire::available(&broker, wedged, "a");
    faults.begin("wedge-shard-1");
    broker.terminate();
    // The deadline is 5 s; beyond it the shards may take 6 s to settle and to store, and a second is left to them.
    let status = broker.ended(Duration::from_secs(12) + MARGIN);
    assert_eq!(status.code(), Some(1), "{CASE}");
    let log = broker.log();
    assert!(log.contains("plaza: the shards did not stop in time"), "{CASE}: {log}");
    drop(victim.drain_bytes());
}

#[test]
fn receivers_without_a_buffer_are_begun_again_and_lose_nothing() {
    const CASE: &str = "112 no receive buffer is free";
    // Many shards have pools of 1 MiB. Together this is more, each no more than a socket takes that is not read.
    const SHARDS: u64 = 9;
    const SENDERS: usize = 80;
    const MESSAGES: usize = 60;
    let faults = Faults::new();
    let limits = "sessions_per_account_max = 100\noutbox_bytes_max = '64 MiB'\nstanzas_per_turn_max = 10000";
    let mut broker = Broker::start_sharded(SHARDS, limits, faults.variables());
    let homes = USERS.map(|user| broker.shard_of(user));
    let other = homes.iter().position(|home| *home != homes[0]).expect("six users on nine shards");
    let (well, wedged, fault) = (USERS[0], USERS[other], format!("wedge-shard-{}", homes[other]));
    let mut near = Wire::available(&broker, well, "near");
    let mut senders: Vec<Wire> = (0..SENDERS).map(|at| Wire::login(&broker, wedged, &format!("s{at}"))).collect();
    // They are busy: the shard has a receive armed for each.
    for sender in &mut senders {
        for _ in 0..5 {
            sender.ping();
        }
    }
    faults.begin(&fault);
    near.send(format!("<message to='{wedged}@localhost/s0'><body>wake up</body></message>"));
    std::thread::sleep(Duration::from_millis(500));
    let padding = "x".repeat(1_000);
    for (at, sender) in senders.iter_mut().enumerate() {
        let stanza = |number: usize| {
            let to = format!("{well}@localhost/near");
            format!("<message to='{to}' id='{at}-{number}'><body>{padding}</body></message>")
        };
        sender.send((0..MESSAGES).map(stanza).collect::<String>());
    }
    faults.end(&fault);
    let mut next = [0; SENDERS];
    for _ in 0..SENDERS * MESSAGES {
        let said = near.until("</message>");
        let id = said.split_once("id='").and_then(|(_, rest)| rest.split_once('\'')).expect("an id").0;
        let (at, number) = id.split_once('-').unwrap();
        let (at, number): (usize, usize) = (at.parse().unwrap(), number.parse().unwrap());
        assert_eq!(number, next[at], "{CASE}: {said}");
        next[at] += 1;
    }
    for sender in &mut senders {
        sender.ping();
    }
    broker.wait("for receives without a buffer", |broker| broker.metric("plaza_starved_receives_total", "") > 0);
    drop((near, senders));
    broker.stop();
}

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    const CASE: &str = "124 the log is not read";
    let (log, pipe) = std::io::pipe().unwrap();
    let debug = vec![("RUST_LOG", "debug".into())];
    let mut scene = Scene::of(Broker::start_logging("", debug, pipe));
    // Each is a line of the log.
    let port = scene.broker.plain;
    let strangers: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..REFUSED / 4 {
                    let mut wire = Wire::connect(port);
                    wire.try_send("GET / HTTP/1.1\r\n\r\n");
                    wire.until("</stream:stream>");
                }
            })
        })
        .collect();
    for _ in 0..PINGS {
        let asked = Instant::now();
        scene.bystander.ping();
        let waited = asked.elapsed();
        scene.check(CASE, waited < Duration::from_secs(2), &format!("a ping took {waited:?}"));
    }
    for stranger in strangers {
        stranger.join().unwrap();
    }
    let dropped = scene.broker.metric("plaza_log_lines_dropped_total", "");
    scene.check(CASE, dropped > 100, &format!("{dropped} lines were dropped"));
    scene.undisturbed(CASE);

    // It is read again: what waited comes, then how much is missing, then what is new.
    let (lines, read) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(log).lines() {
            if lines.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    let mut refused = 0;
    let told = loop {
        let line = read.recv_timeout(PATIENCE).expect("124 the log is read again: a line");
        refused += usize::from(line.contains("stream refused"));
        if line.contains("lines of this log were dropped") {
            break line;
        }
    };
    scene.check(CASE, told.contains(&format!("dropped={dropped}")), &told);
    scene.check(CASE, refused as u64 + dropped >= REFUSED as u64, &format!("{refused} lines came"));
    scene.refused("124 the log is read again", "GET / HTTP/1.1\r\n\r\n", "<stream:error><not-well-formed …");
    let line = read.recv_timeout(PATIENCE).expect("124 the log is read again: what is new");
    scene.check("124 the log is read again", line.contains("stream refused"), &line);
    scene.close();
    reader.join().unwrap();
}

#[test]
fn a_broker_whose_log_is_not_read_ends_in_time() {
    const CASE: &str = "124 the end with a log that is not read";
    let (log, pipe) = std::io::pipe().unwrap();
    let mut broker = Broker::start_logging("", vec![("RUST_LOG", "debug".into())], pipe);
    let mut lines = 0;
    while broker.metric("plaza_log_lines_dropped_total", "") == 0 {
        for _ in 0..200 {
            let mut wire = Wire::connect(broker.plain);
            wire.try_send("GET / HTTP/1.1\r\n\r\n");
            wire.until("</stream:stream>");
        }
        lines += 200;
        assert!(lines < 2 * REFUSED, "{CASE}: nothing is dropped");
    }
    broker.terminate();
    let status = broker.ended(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0), "{CASE}");
    drop(log);
}
