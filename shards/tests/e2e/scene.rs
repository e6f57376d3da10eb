//! A broker under bad input, and two sessions that must not notice.

use std::time::{Duration, Instant};

use crate::broker::{Broker, PATIENCE, USERS};
use crate::wire::Wire;

/// Most the broker may have grown when a scene is over: what it keeps of its pools, and what its allocator does.
const GROWTH_MAX: u64 = 24 << 20;

/// What a broker holds of its peers, and must have given back when they are gone.
const HELD: [&str; 3] = ["plaza_connections", "plaza_negotiating_connections", "plaza_sessions"];
/// Bytes that may be on their way to the bystanders.
const UNSENT_MAX: u64 = 4 << 10;

/// A broker, and two sessions of different accounts that must be served whatever others do.
pub(crate) struct Scene {
    pub(crate) broker: Broker,
    /// `fred@localhost/bystander`.
    pub(crate) bystander: Wire,
    /// `emil@localhost/peer`.
    peer: Wire,
    /// At the beginning, with the two.
    held: [u64; HELD.len()],
    resident: u64,
    notes: u64,
    failures: Vec<String>,
}

impl Scene {
    pub(crate) fn open(limits: &str) -> Self {
        Self::of(Broker::start(limits))
    }

    pub(crate) fn of(mut broker: Broker) -> Self {
        let bystander = Wire::available(&broker, "fred", "bystander");
        let peer = Wire::available(&broker, "emil", "peer");
        // Shards show their numbers when they have nothing else to do.
        broker.wait("for the bystanders to count", |broker| held(broker)[1..3] == [0, 2]);
        let (held, resident) = (held(&broker), broker.resident());
        Self { broker, bystander, peer, held, resident, notes: 0, failures: Vec::new() }
    }

    /// What the other bystander hears up to something.
    pub(crate) fn peer_hears(&mut self, until: &str) -> String {
        self.peer.until(until)
    }

    /// Two pairs of users who are no bystanders: two who share a shard, and two who don't (of four, nearly always).
    pub(crate) fn pairs(&mut self) -> Vec<(&'static str, &'static str)> {
        let users: Vec<&str> = USERS.into_iter().filter(|user| !matches!(*user, "emil" | "fred")).collect();
        let homes: Vec<u64> = users.iter().map(|user| self.broker.shard_of(user)).collect();
        let pair = |apart: bool| {
            let pairs = (0..users.len()).flat_map(|one| (one + 1..users.len()).map(move |other| (one, other)));
            let (one, other) = pairs.into_iter().find(|&(one, other)| (homes[one] != homes[other]) == apart)?;
            Some((users[one], users[other]))
        };
        [pair(false), pair(true)].into_iter().flatten().collect()
    }

    /// Notes whether a case went as expected, `…` standing for anything, and that the bystanders did not notice.
    pub(crate) fn note(&mut self, case: &str, said: &str, expected: &str) {
        self.undisturbed(case);
        let met = expected.split('…').try_fold(said, |rest, part| Some(&rest[rest.find(part)? + part.len()..]));
        self.check(case, met.is_some(), &format!("expected {expected}, got {said}"));
    }

    /// Notes whether something is so.
    pub(crate) fn check(&mut self, case: &str, so: bool, otherwise: &str) {
        if !so {
            self.failures.push(format!("{case}: {otherwise}"));
        }
    }

    /// Each bystander writes to the other, and gets what the other wrote and nothing else.
    pub(crate) fn undisturbed(&mut self, case: &str) {
        self.notes += 1;
        let begun = Instant::now();
        let text = format!("undisturbed {}", self.notes);
        let (mut from, mut to) = (&mut self.bystander, &mut self.peer);
        for address in ["emil@localhost/peer", "fred@localhost/bystander"] {
            from.send(format!("<message to='{address}'><body>{text}</body></message>"));
            let got = to.until("</message>");
            if got.matches("<message ").count() != 1 || !got.starts_with("<message ") || !got.contains(&text) {
                self.failures.push(format!("{case}: {address} got {got}"));
            }
            std::mem::swap(&mut from, &mut to);
        }
        if begun.elapsed() > Duration::from_secs(2) {
            self.failures.push(format!("{case}: the bystanders waited {:?}", begun.elapsed()));
        }
    }

    /// Says something on a fresh connection: the broker must answer as expected and end it.
    pub(crate) fn refused(&mut self, case: &str, input: impl AsRef<[u8]>, expected: &str) {
        let mut wire = Wire::connect(self.broker.plain);
        wire.try_send(input);
        let said = wire.drain();
        self.note(case, &said, expected);
    }

    /// Says something as a session: the broker must end the stream with this error.
    pub(crate) fn ended(&mut self, case: &str, input: impl AsRef<[u8]>, condition: &str) {
        let mut wire = Wire::available(&self.broker, "anna", "bad");
        wire.try_send(input);
        let said = wire.drain();
        self.note(case, &said, &error(condition));
    }

    /// Says something as a session, which lives on: what comes before the next pong.
    pub(crate) fn answered(&mut self, case: &str, input: &str, expected: &str) {
        let mut wire = Wire::available(&self.broker, "anna", "odd");
        wire.send(input);
        // Routed answers may come from another shard, behind the pong: give them a moment.
        let mut said = wire.ping();
        let end = Instant::now() + Duration::from_secs(2);
        while said.is_empty() && !expected.is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
            said = wire.ping();
        }
        self.check(case, !expected.is_empty() || said.is_empty(), &format!("expected silence, got {said}"));
        self.note(case, &said, expected);
    }

    /// What the broker holds by now is no growth: its pools are filled, and its allocator has what it will have.
    pub(crate) fn settle(&mut self) {
        self.resident = self.broker.resident();
    }

    /// The bystanders have heard of nothing, the broker holds no more than before, and everything expected came.
    pub(crate) fn close(mut self) {
        for wire in [&mut self.bystander, &mut self.peer] {
            let unasked = wire.ping();
            if !unasked.is_empty() {
                self.failures.push(format!("in the end a bystander got {unasked}"));
            }
        }
        let end = Instant::now() + PATIENCE;
        let (before, mut now, mut unsent, mut grown) = (self.held, self.held, 0, 0);
        while Instant::now() < end {
            // A shard that rests does not look at what it holds, nor gives back what it holds no more.
            self.undisturbed("in the end");
            (now, unsent) = (held(&self.broker), self.broker.metric("plaza_outbox_bytes", ""));
            grown = self.broker.resident().saturating_sub(self.resident);
            if now == before && unsent <= UNSENT_MAX && grown < GROWTH_MAX {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.check("memory", now == before, &format!("{HELD:?} are {now:?}, were {before:?}"));
        self.check("memory", unsent <= UNSENT_MAX, &format!("{unsent} bytes wait to be sent"));
        self.check("memory", grown < GROWTH_MAX, &format!("the broker grew by {grown} bytes"));
        self.finish();
    }

    /// As [`Scene::close`], where the broker may keep what its allocator was given back.
    pub(crate) fn finish(self) {
        drop((self.bystander, self.peer));
        assert!(self.failures.is_empty(), "\n{}\n", self.failures.join("\n"));
        self.broker.stop();
    }
}

fn held(broker: &Broker) -> [u64; HELD.len()] {
    HELD.map(|name| broker.metric(name, ""))
}

/// A stream's end by an error, as [`Scene::note`] expects it.
pub(crate) fn error(condition: &str) -> String {
    format!("<stream:error><{condition} …</stream:stream>")
}
