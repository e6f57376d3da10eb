//! The broker upgraded in place, started with sockets that are handed to it, and stopped at a rate: nobody is refused, and
//! nothing acknowledged is lost.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::broker::{Broker, PASSWORD, PATIENCE, USERS};
use crate::managed::{SM, managed, message, resume};
use crate::wire::Wire;

/// How long there is load before, between and after upgrades.
const BETWEEN: Duration = Duration::from_millis(400);
/// How long a client waits between two messages.
const PAUSE: Duration = Duration::from_millis(5);

/// What two clients know of each other: how many messages each has sent, once it sends no more.
#[derive(Default)]
struct Sums(Mutex<BTreeMap<&'static str, usize>>);

impl Sums {
    fn of(&self, user: &str) -> Option<usize> {
        self.0.lock().unwrap().get(user).copied()
    }
}

/// A client that sends and receives, acknowledges, and resumes whenever its stream ends.
struct Client<'a> {
    broker: &'a Broker,
    user: &'static str,
    peer: &'static str,
    wire: Wire,
    name: String,
    said: String,
    /// Stanzas it was sent: its own presence, then messages.
    h: u32,
    got: Vec<usize>,
    sent: usize,
    acknowledged: usize,
    resumed: usize,
}

impl<'a> Client<'a> {
    fn new(broker: &'a Broker, user: &'static str, peer: &'static str) -> Self {
        let (wire, name) = managed(broker, user, "c");
        wire.socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let (said, got) = (String::new(), Vec::new());
        Self { broker, user, peer, wire, name, said, h: 1, got, sent: 0, acknowledged: 0, resumed: 0 }
    }

    /// Until it is told to stop, and all is acknowledged and received.
    fn run(mut self, stop: &AtomicBool, sums: &Sums) -> Self {
        let mut end = Instant::now() + 3 * PATIENCE;
        loop {
            assert!(Instant::now() < end, "{}: sent {}, got {}", self.user, self.acknowledged, self.got.len());
            if !stop.load(Ordering::Relaxed) {
                self.send_one(self.sent);
                self.sent += 1;
            } else if sums.of(self.user).is_none() {
                self.wire.try_send(format!("<r xmlns='{SM}'/>"));
                sums.0.lock().unwrap().insert(self.user, self.sent);
            } else if self.acknowledged == self.sent && sums.of(self.peer) == Some(self.got.len()) {
                return self;
            }
            std::thread::sleep(PAUSE);
            let (text, open) = self.wire.take();
            self.said.push_str(&text);
            let ended = self.listen();
            if ended || !open {
                self.resume();
                end = Instant::now() + 3 * PATIENCE;
            }
        }
    }

    fn send_one(&mut self, number: usize) {
        self.wire.try_send(message(&format!("{}@localhost/c", self.peer), &format!("n{number}.")));
        if number % 10 == 9 {
            self.wire.try_send(format!("<r xmlns='{SM}'/>"));
        }
    }

    /// Takes what was said; whether the stream ended.
    fn listen(&mut self) -> bool {
        loop {
            let ends = ["</message>", "/>", "</stream:stream>"];
            let next = ends.iter().filter_map(|end| self.said.find(end).map(|at| (at + end.len(), *end))).min();
            let Some((to, end)) = next else { return false };
            let rest = self.said.split_off(to);
            let element = std::mem::replace(&mut self.said, rest);
            if end == "</stream:stream>" {
                return true;
            } else if end == "</message>" {
                let number = element.split("<body>n").nth(1).and_then(|rest| rest.split('.').next()).unwrap();
                self.got.push(number.parse().unwrap());
                self.h += 1;
            } else if element.contains("<r xmlns=") {
                self.wire.try_send(format!("<a xmlns='{SM}' h='{}'/>", self.h));
            } else if let Some(h) = element.split("<a xmlns='urn:xmpp:sm:3' h='").nth(1) {
                self.acknowledge(h);
            } else {
                assert!(element.contains("<system-shutdown "), "{element}");
            }
        }
    }

    /// Its presence was the first that it sent.
    fn acknowledge(&mut self, h: &str) {
        self.acknowledged = h.split('\'').next().unwrap().parse::<usize>().unwrap() - 1;
    }

    fn resume(&mut self) {
        self.wire.finish();
        self.said.clear();
        let end = Instant::now() + PATIENCE;
        let said = loop {
            assert!(Instant::now() < end, "{} is not let in again", self.user);
            // A connection is never refused, though a shard may say that it ends as well.
            let mut wire = Wire::connect(self.broker.plain);
            let (user, name, h) = (self.user, &self.name, self.h);
            let said = catch_unwind(AssertUnwindSafe(|| {
                wire.begin();
                assert!(wire.scram(user, PASSWORD).contains("<success"));
                wire.begin();
                wire.send(format!("<resume xmlns='{SM}' h='{h}' previd='{name}'/>"));
                wire.until("/>")
            }));
            if let Ok(said) = said {
                self.wire = wire;
                break said;
            }
        };
        assert!(said.contains("<resumed "), "{}: {said}", self.user);
        self.wire.socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        self.acknowledge(said.split(" h='").nth(1).unwrap());
        for number in self.acknowledged..self.sent {
            self.send_one(number);
        }
        self.wire.try_send(format!("<r xmlns='{SM}'/>"));
        self.resumed += 1;
    }
}

/// By a process of its own: what this one has open for writing, children of other tests may have as well, and then it can't
/// be run.
fn copy_of(file: impl AsRef<OsStr>, to: &Path) {
    assert!(Command::new("cp").arg("-p").arg(file).arg(to).status().unwrap().success());
}

fn copy(to: &Path) {
    copy_of(env!("CARGO_BIN_EXE_plaza"), to);
}

/// Puts a file that says something, with its permissions, where a program was.
fn script(text: &'static str, mode: u32) -> impl FnOnce(&Path) {
    move |path: &Path| {
        let draft = path.with_extension("draft");
        fs::write(&draft, text).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(mode)).unwrap();
        copy_of(&draft, path);
    }
}

/// Its descriptors by kind, but for files.
fn descriptors(broker: &Broker) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", broker.pid())).unwrap() {
        let Ok(leads_to) = fs::read_link(entry.unwrap().path()) else { continue };
        let leads_to = leads_to.to_string_lossy().into_owned();
        if let Some((kind, _)) = leads_to.split_once(':') {
            *kinds.entry(kind.to_owned()).or_default() += 1;
        }
    }
    kinds
}

#[test]
fn a_broker_upgraded_under_load_refuses_nobody_and_loses_nothing() {
    upgrade_under_load("", 3);
}

#[test]
fn what_comes_for_sessions_that_were_told_of_an_upgrade_while_others_are_served_arrives_once() {
    upgrade_under_load("stop_sessions_per_second = 2", 1);
}

/// Three pairs of clients who talk all the time, while others connect and the broker is upgraded so many times.
fn upgrade_under_load(limits: &str, upgrades: usize) {
    let mut broker = Broker::start_copy(limits);
    let pid = broker.pid();
    let before = descriptors(&broker);
    let (stop, sums) = (AtomicBool::new(false), Sums::default());
    let clients: Vec<Client<'_>> = std::thread::scope(|scope| {
        let [a, b, c, d, e, f] = USERS;
        let users = [(a, b), (b, a), (c, d), (d, c), (e, f), (f, e)];
        let clients = users.map(|(user, peer)| Client::new(&broker, user, peer));
        let running = clients.map(|client| {
            let (stop, sums) = (&stop, &sums);
            scope.spawn(move || client.run(stop, sums))
        });
        let newcomers = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                TcpStream::connect(("127.0.0.1", broker.plain)).expect("nobody is refused");
                std::thread::sleep(PAUSE);
            }
        });
        for _ in 0..upgrades {
            std::thread::sleep(BETWEEN);
            broker.replace(copy);
            broker.cli(&["upgrade"]);
        }
        std::thread::sleep(BETWEEN);
        stop.store(true, Ordering::Relaxed);
        let clients = running.into_iter().map(|client| client.join().unwrap()).collect();
        newcomers.join().unwrap();
        clients
    });
    assert_eq!(broker.log().matches("handing over").count(), upgrades);
    for client in &clients {
        assert_eq!(client.resumed, upgrades, "{}", client.user);
        assert!(
            client.got.iter().copied().eq(0..sums.of(client.peer).unwrap()),
            "{} got {:?}",
            client.user,
            client.got
        );
    }
    for mut client in clients {
        client.wire.send(format!("<a xmlns='{SM}' h='{}'/></stream:stream>", client.h));
        client.wire.drain();
    }
    assert_eq!(pid, broker.pid());
    // Before, a connection that has just been closed may have been there as well.
    let no_more = |now: &BTreeMap<String, usize>| now.iter().all(|(kind, count)| before.get(kind) >= Some(count));
    broker.wait("for no more descriptors than before", |broker| no_more(&descriptors(broker)));
    assert!(broker.try_cli(&["status"]).status.success());
    broker.stop();
}

#[test]
fn who_is_idle_or_was_cut_off_before_an_upgrade_resumes_and_has_all_that_was_acknowledged() {
    let mut broker = Broker::start_copy("");
    for (one, other) in broker.pairs() {
        let third = USERS.into_iter().find(|user| *user != one && *user != other).unwrap();
        let (mut ours, our_name) = managed(&broker, one, "a");
        let (mut idle, stays) = managed(&broker, other, "b");
        let (cut, waits) = managed(&broker, other, "c");
        drop(cut);
        broker.wait("to be missed", |broker| broker.metric("plaza_hibernated_sessions", "") == 1);
        for to in [format!("{other}@localhost/b"), format!("{other}@localhost/c"), format!("{third}@localhost")] {
            ours.send(message(&to, &format!("for {to}")));
        }
        let mut plain = Wire::login(&broker, one, "plain");
        plain.ping();
        ours.send(format!("<r xmlns='{SM}'/>"));
        // Presence and three messages.
        ours.until("<a xmlns='urn:xmpp:sm:3' h='4'/>");
        broker.cli(&["upgrade"]);
        for wire in [&mut ours, &mut idle, &mut plain] {
            assert!(wire.drain().contains("<system-shutdown "));
        }
        let (mut ours, said) = resume(&broker, one, &our_name, 1, "/>");
        assert!(said.contains("<resumed ") && said.contains("h='4'"), "{said}");
        // Each had its presence and the other's.
        for (name, resource) in [(stays, "b"), (waits, "c")] {
            let own = format!("<body>for {other}@localhost/{resource}</body></message>");
            let (mut back, said) = resume(&broker, other, &name, 2, &own);
            assert!(said.contains("<resumed "), "{said}");
            ours.send(message(&format!("{other}@localhost/{resource}"), "afterwards"));
            let said = back.until("<body>afterwards</body></message>");
            assert_eq!(said.matches("<message").count(), 1, "{said}");
            back.send(format!("<a xmlns='{SM}' h='4'/></stream:stream>"));
            back.drain();
        }
        ours.send("</stream:stream>");
        ours.drain();
        let mut later = Wire::login(&broker, third, "later");
        later.send("<presence/>");
        later.until(&format!("<body>for {third}@localhost</body>"));
    }
    broker.stop();
}

#[test]
fn a_program_that_is_gone_when_it_is_to_take_over_ends_the_broker_and_sessions_wait_for_the_next_start() {
    let mut broker = Broker::start_copy("");
    let (mut wire, name) = managed(&broker, "anna", "a");
    // Fit when it is tried, and then nowhere.
    broker.replace(script("#!/bin/sh\nrm \"$0\"\n", 0o700));
    broker.upgrade();
    assert!(wire.drain().contains("<system-shutdown "));
    assert_eq!(broker.ended(PATIENCE).code(), Some(70));
    assert!(broker.log().contains("can't be upgraded any more"), "{}", broker.log());
    assert!(TcpStream::connect(("127.0.0.1", broker.plain)).is_err(), "its sockets are closed");
    broker.replace(copy);
    resumes_after_a_start(broker, &name);
}

/// The broker is started again, and a session of anna's is there; then it is stopped.
fn resumes_after_a_start(mut broker: Broker, name: &str) {
    broker.try_start_again().unwrap();
    let (mut wire, said) = resume(&broker, "anna", name, 1, "/>");
    assert!(said.contains("<resumed "), "{said}");
    wire.send("</stream:stream>");
    wire.drain();
    broker.stop();
}

#[test]
fn a_signal_to_stop_during_an_upgrade_stops_for_good() {
    let mut broker = Broker::start_copy("stop_sessions_per_second = 1");
    let (mut second, name) = managed(&broker, "anna", "b");
    let mut first = Wire::login(&broker, "anna", "a");
    broker.upgrade();
    assert!(first.drain().contains("<system-shutdown "));
    second.ping();
    broker.terminate();
    assert!(second.drain().contains("<system-shutdown "));
    let status = broker.ended(PATIENCE);
    broker.check_end(status);
    assert!(!broker.log().contains("handing over"), "{}", broker.log());
    resumes_after_a_start(broker, &name);
}

#[test]
fn a_program_or_configuration_that_is_not_fit_does_not_take_over() {
    let mut broker = Broker::start_copy("");
    let mut wire = Wire::available(&broker, "anna", "a");
    let programs = [
        ("#!/bin/sh\necho of no use >&2\nexit 7\n", 0o700, "of no use"),
        ("not a program", 0o600, "can't be run"),
        ("\u{7f}ELF, almost", 0o700, "can't be run"),
    ];
    for (text, mode, told) in programs {
        broker.replace(script(text, mode));
        let output = broker.try_cli(&["upgrade"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(told), "{said}");
        assert!(wire.ping().is_empty());
    }
    broker.replace(copy);
    let config = broker.scratch().join("plaza.toml");
    let right = fs::read_to_string(&config).unwrap();
    for (wrong, told) in [("shards = 999", "shards = 999"), ("[tls]\ncertificate = 'x'\nkey = 'y'\n[metrics]", "x: ")] {
        let from = if wrong.starts_with("shards") { "shards = 2" } else { "[metrics]" };
        let before = broker.log().matches("not upgraded").count();
        broker.reconfigure(|text| text.replace(from, wrong));
        broker.upgrade();
        broker.wait("to refuse", |broker| broker.log().matches("not upgraded").count() > before);
        let log = broker.log();
        let line = log.rsplit("not upgraded").next().unwrap().to_owned();
        assert!(line.contains(told), "{line}");
        assert!(wire.ping().is_empty());
        broker.reconfigure(|_| right.clone());
    }
    // By signal as well, once all is right; with another number of shards.
    broker.reconfigure(|text| text.replace("shards = 2", "shards = 3"));
    broker.upgrade();
    let said = wire.drain();
    assert!(said.contains("<system-shutdown "), "{said}");
    broker.wait("for the other", |broker| served(broker) == 3);
    Wire::available(&broker, "anna", "b").ping();
    broker.reconfigure(|text| text.replace("shards = 3", "shards = 1"));
    broker.cli(&["upgrade"]);
    assert_eq!(served(&broker), 1);
    // Whichever socket the kernel chooses is accepted on.
    for _ in 0..20 {
        drop(Wire::open(broker.plain));
    }
    broker.stop();
}

/// How many shards there are, when it answers.
fn served(broker: &Broker) -> usize {
    let output = broker.try_cli(&["status", "--json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.matches("\"accepted\":").count()
}

#[test]
fn a_socket_that_is_handed_over_is_listened_on_by_all_shards_and_another_is_refused() {
    let mut broker = Broker::start_handed("");
    for (one, other) in broker.pairs() {
        let mut to = Wire::available(&broker, other, "b");
        let mut from = Wire::available(&broker, one, "a");
        from.send(message(&format!("{other}@localhost/b"), "hello"));
        to.until("<body>hello</body></message>");
    }
    assert_eq!(broker.log().matches("no listener is configured for").count(), 1, "{}", broker.log());
    broker.stop();
}

#[test]
fn streams_are_told_of_a_stop_one_after_the_other_and_served_until_then() {
    let mut broker = Broker::start("stop_sessions_per_second = 2");
    let mut wires: Vec<Wire> = (0..5).map(|at| Wire::login(&broker, "anna", &format!("r{at}"))).collect();
    // The latest is told first, if they share a shard.
    let (mut theirs, name) = managed(&broker, "bert", "b");
    let begun = Instant::now();
    broker.terminate();
    let said = theirs.drain();
    assert!(said.contains("<system-shutdown "), "118 {said}");
    // It is not there any more, and what comes for it waits.
    let mut latest = wires.remove(0);
    latest.send(message("bert@localhost/b", "meanwhile"));
    latest.ping();
    for mut wire in wires {
        let said = wire.drain();
        assert!(said.contains("<system-shutdown "), "118 {said}");
    }
    let said = latest.drain();
    assert!(said.contains("<system-shutdown "), "118 {said}");
    assert!(begun.elapsed() > Duration::from_secs(2), "118 all told within {:?}", begun.elapsed());
    let status = broker.ended(PATIENCE);
    broker.check_end(status);
    broker.try_start_again().unwrap();
    let (mut theirs, said) = resume(&broker, "bert", &name, 1, "</message>");
    assert!(said.contains("<resumed ") && said.contains("<body>meanwhile</body>"), "118 {said}");
    theirs.send(format!("<a xmlns='{SM}' h='2'/></stream:stream>"));
    theirs.drain();
    broker.stop();
}
