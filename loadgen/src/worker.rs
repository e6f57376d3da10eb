//! A load thread: its rings, its sessions, and the turns it takes.
//!
//! Started by [`crate::conductor`]. A turn: begin logins, send what is due, flush, submit and wait, feed what arrived.
//! A thread with one ring sleeps in it; a thread with several sleeps on an eventfd they all signal.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::SocketAddrV4;
use std::time::Duration;

use crate::login::Entry;
use crate::part::Part;
use crate::plan::{Control, Counters, Failure, Phase, Plan, Scenario};
use crate::ring::{self, Bell, Event, Ring, RingSettings};
use crate::session::{Bench, Fault, Session};
use crate::stage::{Deed, Topic, Who};
use crate::stats::Latencies;
use crate::traffic::{Talk, Tally};

/// How long a turn sleeps at most before it looks at the phase.
const NAP: Duration = Duration::from_millis(20);
/// Open loop: a session with more than this waiting means the server does not keep up.
const BACKLOG_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Sessions of a thread that subscribe at once: servers keep about a hundred requests that were not answered.
const PACED_MAX: u64 = 32;
/// Time between two pings of a session that is back.
const PING_NS: u64 = 1_000_000_000;
/// Descriptors of a ring beside those of sessions.
const DESCRIPTORS_SPARE: u32 = 8;

/// What a thread leaves behind.
#[derive(Debug)]
pub(crate) struct Yield {
    /// Latencies of the measured phase, or, from the second on, of each act.
    pub latencies: Vec<Latencies>,
    /// From connect to bound.
    pub logins: Latencies,
    /// Latencies of searches, by kind.
    pub searches: Vec<Latencies>,
    /// Latencies of pings of those who are back, and how many were not answered.
    pub pings: (Latencies, u64),
    /// `(session, stanzas sent, stanzas heard)` of all that took part.
    pub talks: Vec<(u32, u64, u64)>,
}

/// Runs a load thread until the end of the run.
pub(crate) fn run(plan: &Plan, control: &Control, thread: u32) -> Yield {
    let cpu = plan.cpus.get(thread as usize % plan.cpus.len().max(1)).copied();
    let worker = ring::pin(cpu).and_then(|()| Worker::new(plan, control, thread));
    match worker {
        Err(error) => {
            control.fail(Failure { what: setup_failure(&error), jid: String::new(), bytes: String::new() });
            let (latencies, searches, talks) = (Vec::new(), Vec::new(), Vec::new());
            Yield { latencies, logins: Latencies::new(), searches, pings: (Latencies::new(), 0), talks }
        }
        Ok(mut worker) => {
            if let Err(error) = worker.turns() {
                control.fail(Failure { what: error.to_string(), jid: String::new(), bytes: String::new() });
            }
            worker.finish()
        }
    }
}

fn setup_failure(error: &io::Error) -> String {
    let remedy = match error.raw_os_error() {
        Some(libc::EMFILE) => "; raise the descriptor limit (ulimit -n) or lower --ring-sessions",
        Some(libc::EPERM | libc::ENOSYS) => "; io_uring is missing or forbidden here (kernel.io_uring_disabled)",
        Some(libc::ENOMEM) => "; raise the limit of locked memory (ulimit -l)",
        _ => "",
    };
    format!("a load thread could not start: {error}{remedy}")
}

/// A ring, and the sessions that are its slots.
struct Home {
    ring: Ring,
    /// Sessions whose recv must be armed again.
    rearm: Vec<u32>,
    /// Numbers of its addresses: the server's, then the sources'.
    target: usize,
    sources: Vec<usize>,
}

struct Worker<'a> {
    plan: &'a Plan,
    control: &'a Control,
    counters: &'a Counters,
    thread: u32,
    homes: Vec<Home>,
    /// Slots per ring.
    share: u32,
    bell: Bell,
    sessions: Vec<Session>,
    bench: Bench,
    tally: Tally,
    logins: Latencies,
    dirty: Vec<u32>,
    /// The next session to log in.
    next: u32,
    /// Sessions that the act lets log in or come back, or begin a few at a time.
    queue: VecDeque<u32>,
    /// Sessions that began the act a few at a time and are not done.
    paced: u64,
    logging_in: u32,
    concurrency: u32,
    schedule: Schedule,
    /// That of searches.
    searches: Schedule,
    /// Sessions that are back, by when their next ping is due.
    pings: BinaryHeap<Reverse<(u64, u32)>>,
    /// Sessions wait on a poll instead of an armed recv.
    lazy: bool,
}

/// The open loop's timetable: senders in turn, one each `period`.
#[derive(Debug, Default)]
struct Schedule {
    senders: Vec<u32>,
    start_ns: u64,
    period_ns: f64,
    sent: u64,
}

impl Schedule {
    /// Begins now, at a rate per second.
    fn begin(&mut self, rate: f64, now_ns: u64) {
        self.period_ns = 1e9 / rate.max(1e-3);
        self.start_ns = now_ns;
    }

    fn due_ns(&self) -> u64 {
        self.start_ns + (self.sent as f64 * self.period_ns) as u64
    }

    /// Who is due, and since when; or how long it is until somebody is.
    fn take(&mut self, now_ns: u64) -> Result<(u32, u64), Duration> {
        let due_ns = self.due_ns();
        if due_ns > now_ns {
            return Err(Duration::from_nanos(due_ns - now_ns).min(NAP));
        }
        let index = self.sent.checked_rem(self.senders.len() as u64).ok_or(NAP)?;
        let &sender = self.senders.get(index as usize).ok_or(NAP)?;
        self.sent += 1;
        Ok((sender, due_ns))
    }
}

impl<'a> Worker<'a> {
    fn new(plan: &'a Plan, control: &'a Control, thread: u32) -> io::Result<Self> {
        let sessions = plan.sessions_of(thread);
        let rings = sessions.div_ceil(plan.ring_sessions_max).max(1);
        let share = sessions.div_ceil(rings).max(1);
        let many = rings > 4;
        let settings = RingSettings {
            slots: share + DESCRIPTORS_SPARE,
            entries: if many { 1024 } else { 4096 },
            buffers: if many { 128 } else { 1024 },
            buffer_bytes: 4096,
        };
        let bell = Bell::new()?;
        let mut homes = Vec::new();
        for _ in 0..rings {
            let mut ring = Ring::new(settings)?;
            if rings > 1 {
                ring.signal(bell.descriptor())?;
            }
            let target = ring.address(plan.server);
            let sources = plan.sources.iter().map(|&ip| ring.address(SocketAddrV4::new(ip, 0))).collect();
            homes.push(Home { ring, rearm: Vec::new(), target, sources });
        }
        Ok(Self {
            plan,
            control,
            counters: control.counters.get(thread as usize).expect("counters for every thread"),
            thread,
            homes,
            share,
            bell,
            sessions: (0..sessions).map(|_| Session::new()).collect(),
            bench: Bench::new(),
            tally: Tally::new(plan),
            logins: Latencies::new(),
            dirty: Vec::new(),
            next: 0,
            queue: VecDeque::new(),
            paced: 0,
            logging_in: 0,
            concurrency: plan.concurrency.div_ceil(plan.threads),
            schedule: Schedule::default(),
            searches: Schedule::default(),
            pings: BinaryHeap::new(),
            lazy: matches!(plan.scenario, Scenario::Idle),
        })
    }

    fn turns(&mut self) -> io::Result<()> {
        let mut events = Vec::new();
        loop {
            let phase = self.control.phase();
            if phase == Phase::Stop || self.control.is_aborted() {
                return Ok(());
            }
            self.tally.now_ns = self.control.now_ns();
            let act = self.control.act();
            if act != self.tally.act {
                self.on_act(act);
            }
            if phase != self.tally.phase {
                self.on_phase(phase);
            }
            self.begin_logins();
            let nap = self.send_due().min(self.send_pings());
            self.flush();
            let single = self.homes.len() == 1;
            for home in 0..self.homes.len() {
                let Some(Home { ring, .. }) = self.homes.get_mut(home) else { continue };
                if single || !ring.is_quiet() {
                    ring.submit(single.then_some(nap))?;
                    ring.reap(&mut events);
                }
                for event in events.drain(..) {
                    self.on_event(home, event);
                }
            }
            self.publish();
            // An enter runs a bounded amount of the kernel's deferred work: what is left does not ring the bell again.
            if !single && self.dirty.is_empty() && self.homes.iter_mut().all(|home| home.ring.is_quiet()) {
                self.bell.wait(nap);
            }
        }
    }

    fn publish(&mut self) {
        if self.tally.owed > 0 {
            Counters::add(&self.counters.owed, std::mem::take(&mut self.tally.owed));
        }
        if self.tally.arrived > 0 {
            Counters::add(&self.counters.arrived, std::mem::take(&mut self.tally.arrived));
        }
        if self.tally.done > 0 {
            let done = std::mem::take(&mut self.tally.done);
            self.paced = self.paced.saturating_sub(done);
            Counters::add(&self.counters.done, done);
        }
    }

    fn finish(mut self) -> Yield {
        self.tally.end_pings();
        let talks = self.sessions.iter().filter_map(|session| session.talk.as_ref());
        Yield {
            talks: talks.map(|talk| (talk.me, talk.sent, talk.heard)).collect(),
            latencies: self.tally.latencies,
            searches: self.tally.searches,
            pings: (self.tally.pings, self.tally.never_answered),
            logins: self.logins,
        }
    }

    fn global(&self, local: u32) -> u32 {
        self.plan.global(self.thread, local)
    }

    /// The deed of the act.
    fn deed(&self) -> Option<Deed> {
        self.plan.act(self.tally.act).map(|act| act.deed)
    }

    /// Begins an act: each participant does what it begins with.
    fn on_act(&mut self, number: u32) {
        self.tally.act = number;
        let Some(&act) = self.plan.act(number) else { return };
        self.paced = 0;
        (self.schedule, self.searches) = (Schedule::default(), Schedule::default());
        for local in 0..self.sessions.len() as u32 {
            let global = self.global(local);
            let Some(session) = self.sessions.get_mut(local as usize) else { continue };
            session.part.get_or_insert_with(|| Box::new(Part::new(self.plan, global)));
            match act.deed {
                // Who hears and who speaks differ: leaders speak, whoever the act waits for.
                Deed::Tell | Deed::Deliver | Deed::Store | Deed::Settle | Deed::Search | Deed::Traffic(_) => {
                    self.begin_part(local, act.deed);
                }
                Deed::Join
                | Deed::Enlist
                | Deed::Shake
                | Deed::Resume { .. }
                | Deed::Collect
                | Deed::Befriend
                | Deed::Create
                | Deed::Subscribe
                | Deed::Leave
                | Deed::Cut
                    if !act.who.includes(local, self.plan.group) => {}
                Deed::Join
                | Deed::Enlist
                | Deed::Shake
                | Deed::Resume { .. }
                | Deed::Collect
                | Deed::Befriend
                | Deed::Create
                | Deed::Subscribe => self.queue.push_back(local),
                Deed::Leave => match session.close(self.plan, &mut self.bench) {
                    Ok(()) => self.mark(local),
                    Err(fault) => self.fail(local, fault),
                },
                Deed::Cut => {
                    session.cut();
                    if let Some(home) = self.homes.get_mut((local / self.share) as usize) {
                        home.ring.shutdown(local % self.share);
                    }
                }
            }
        }
        if act.deed == Deed::Store {
            let leaders =
                (0..self.sessions.len() as u32).filter(|&local| Who::Leaders.includes(local, self.plan.group));
            self.schedule.senders = leaders.collect();
            self.begin_schedule();
        }
    }

    /// In an open loop, gives the senders a timetable.
    fn begin_schedule(&mut self) {
        let Some(rate) = self.plan.rate else { return };
        let mine = rate * f64::from(self.plan.sessions_of(self.thread)) / f64::from(self.plan.sessions);
        self.schedule.begin(mine, self.tally.now_ns);
    }

    fn begin_part(&mut self, local: u32, deed: Deed) {
        let Self { plan, sessions, bench, tally, .. } = self;
        let Some(session) = sessions.get_mut(local as usize).filter(|session| session.is_ready()) else { return };
        match session.act(bench, |part, managed, out| part.begin(plan, tally, deed, managed, out)) {
            Err(fault) => self.fail(local, fault),
            Ok(()) => self.mark(local),
        }
    }

    fn on_phase(&mut self, phase: Phase) {
        let before = std::mem::replace(&mut self.tally.phase, phase);
        if matches!(before, Phase::Login | Phase::Drain) && matches!(phase, Phase::Warmup | Phase::Measure) {
            self.begin_traffic();
        }
        match phase {
            Phase::Measure => {
                self.tally.measure_from = self.control.measure_from();
                self.logins = Latencies::new();
            }
            Phase::Close => {
                self.tally.end_pings();
                for local in 0..self.sessions.len() as u32 {
                    let Some(session) = self.sessions.get_mut(local as usize) else { continue };
                    if session.close(self.plan, &mut self.bench).is_ok() {
                        self.mark(local);
                    }
                }
            }
            Phase::Login | Phase::Warmup | Phase::Drain | Phase::Stop => {}
        }
    }

    /// Gives the participants their part; in a closed loop they fill their windows, in an open one they get a timetable.
    fn begin_traffic(&mut self) {
        (self.schedule, self.searches) = (Schedule::default(), Schedule::default());
        let searching = self.deed().and_then(Deed::topic) == Some(Topic::Pairs { searching: true });
        let groups = (self.sessions.len() as u32 / self.plan.group) as f64;
        let participants =
            ((groups * self.plan.fraction).ceil() as u32 * self.plan.group).min(match self.plan.scenario {
                Scenario::Staged => u32::MAX,
                Scenario::Idle | Scenario::Pairs | Scenario::Iq | Scenario::Ping | Scenario::Presence => self.next,
            });
        for local in 0..participants {
            let me = self.global(local);
            let Some(session) = self.sessions.get_mut(local as usize).filter(|session| session.is_ready()) else {
                continue;
            };
            if self.plan.is_searcher(me) {
                if searching {
                    self.searches.senders.push(local);
                }
                continue;
            }
            let begins = if self.plan.scenario == Scenario::Staged {
                Who::Leaders.includes(me, self.plan.group)
            } else {
                let talk = Talk::new(self.plan, me);
                let begins = talk.begins(self.plan);
                session.talk = Some(Box::new(talk));
                begins
            };
            if begins {
                self.schedule.senders.push(local);
            }
        }
        self.begin_schedule();
        let all = &self.plan.stage.searches;
        let mine = all.rate * self.searches.senders.len() as f64 / f64::from(all.searchers.max(1));
        self.searches.begin(mine, self.tally.now_ns);
        if self.plan.rate.is_none() {
            for index in 0..self.schedule.senders.len() {
                let Some(&local) = self.schedule.senders.get(index) else { continue };
                let now_ns = self.tally.now_ns;
                self.say(local, self.plan.window, now_ns);
            }
        }
    }

    fn say(&mut self, local: u32, count: u32, sent_ns: u64) {
        let Self { plan, sessions, bench, tally, .. } = self;
        let Some(session) = sessions.get_mut(local as usize) else { return };
        let deed = plan.act(tally.act).map(|act| act.deed);
        let spoken = if let Some(topic) = deed.and_then(Deed::topic) {
            session.act(bench, |part, _, out| (0..count).for_each(|_| part.say(plan, tally, topic, sent_ns, out)))
        } else if deed == Some(Deed::Store) {
            session.act(bench, |part, managed, out| {
                if let Some(managed) = managed {
                    part.store(plan, tally, sent_ns, managed, out);
                }
            })
        } else {
            session.speak(bench, |talk, out| (0..count).for_each(|_| talk.say(plan, tally, sent_ns, out)))
        };
        let backlog = session.output_bytes();
        match spoken {
            Err(fault) => self.fail(local, fault),
            Ok(()) if backlog > BACKLOG_BYTES_MAX => {
                self.fail(local, Fault::from(format!("{backlog} bytes wait: the server does not keep up")));
            }
            Ok(()) => self.mark(local),
        }
    }

    /// Sends what the timetable says is due, and gives how long to sleep until the next.
    fn send_due(&mut self) -> Duration {
        let goes_on = matches!(self.tally.phase, Phase::Warmup | Phase::Measure) || self.deed() == Some(Deed::Store);
        if !goes_on {
            return NAP;
        }
        let until_search = loop {
            match self.searches.take(self.tally.now_ns) {
                Ok((local, due_ns)) => self.search(local, due_ns),
                Err(nap) => break nap,
            }
        };
        if self.plan.rate.is_none() {
            return until_search;
        }
        loop {
            match self.schedule.take(self.tally.now_ns) {
                Ok((local, due_ns)) => self.say(local, 1, due_ns),
                Err(nap) => return nap.min(until_search),
            }
        }
    }

    /// Lets those who are back ping, each once a second, and gives how long to sleep until the next.
    fn send_pings(&mut self) -> Duration {
        while let Some(&Reverse((due_ns, local))) = self.pings.peek() {
            if due_ns > self.tally.now_ns {
                return Duration::from_nanos(due_ns - self.tally.now_ns).min(NAP);
            }
            self.pings.pop();
            let goes_on = matches!(self.deed(), Some(Deed::Resume { .. })) && self.tally.phase < Phase::Close;
            let Self { plan, sessions, bench, tally, .. } = self;
            let Some(session) = sessions.get_mut(local as usize).filter(|session| goes_on && session.is_ready()) else {
                continue;
            };
            match session.act(bench, |part, managed, out| part.ping(plan, tally, due_ns, managed, out)) {
                Err(fault) => self.fail(local, fault),
                Ok(()) => self.mark(local),
            }
            self.pings.push(Reverse((due_ns + PING_NS, local)));
        }
        NAP
    }

    fn search(&mut self, local: u32, due_ns: u64) {
        let Self { plan, sessions, bench, tally, .. } = self;
        let Some(session) = sessions.get_mut(local as usize) else { return };
        match session.act(bench, |part, _, out| part.search(plan, tally, due_ns, out)) {
            Err(fault) => self.fail(local, fault),
            Ok(()) => self.mark(local),
        }
    }

    fn begin_logins(&mut self) {
        let level = self.plan.level_of(self.thread, self.control.target());
        while self.next < level && self.logging_in < self.concurrency {
            let local = self.next;
            self.next += 1;
            self.begin_login(local, Entry::Login);
        }
        if let Some(deed) = self.deed().filter(|deed| deed.is_paced()) {
            while self.paced < PACED_MAX {
                let Some(local) = self.queue.pop_front() else { break };
                self.paced += 1;
                self.begin_part(local, deed);
            }
            return;
        }
        let entry = self.deed().map_or(Entry::Login, Deed::entry);
        while self.logging_in < self.concurrency {
            let Some(local) = self.queue.pop_front() else { break };
            if self.sessions.get(local as usize).is_some_and(|session| session.sending) {
                self.queue.push_back(local); // The old connection still has the buffer.
                break;
            }
            self.begin_login(local, entry);
        }
    }

    fn begin_login(&mut self, local: u32, entry: Entry) {
        self.logging_in += 1;
        let global = self.global(local) as usize;
        let now_ns = self.tally.now_ns;
        if let Some(session) = self.sessions.get_mut(local as usize) {
            session.begin(now_ns, entry);
        }
        let (home, slot) = (local / self.share, local % self.share);
        if let Some(Home { ring, target, sources, .. }) = self.homes.get_mut(home as usize) {
            let source = sources.get(global % sources.len().max(1)).copied();
            ring.connect(slot, source, *target);
        }
    }

    fn mark(&mut self, local: u32) {
        let Some(session) = self.sessions.get_mut(local as usize) else { return };
        if session.has_output() && !session.sending && !std::mem::replace(&mut session.dirty, true) {
            self.dirty.push(local);
        }
    }

    /// One send for each session that has something to say and none in flight; recvs that ended are armed again.
    fn flush(&mut self) {
        for local in self.dirty.drain(..) {
            let Some(session) = self.sessions.get_mut(local as usize) else { continue };
            session.dirty = false;
            if session.sending || !session.has_output() {
                continue;
            }
            session.sending = true;
            let buffer = session.take_output();
            if let Some(home) = self.homes.get_mut((local / self.share) as usize) {
                home.ring.send(local % self.share, buffer);
            }
        }
        for index in 0..self.homes.len() {
            let Some(Home { ring, rearm, .. }) = self.homes.get_mut(index) else { continue };
            for slot in rearm.drain(..) {
                let local = index as u32 * self.share + slot;
                let Some(session) = self.sessions.get(local as usize) else { continue };
                arm(ring, slot, self.lazy, session.is_ready());
            }
        }
    }

    fn on_event(&mut self, home: usize, event: Event) {
        let base = home as u32 * self.share;
        match event {
            Event::Connected(slot, result) => self.on_connected(home, slot, base + slot, result),
            Event::Readable(slot) => {
                if let Some(home) = self.homes.get_mut(home) {
                    home.ring.receive(slot);
                }
            }
            Event::Received(slot, lent, more) => {
                let local = base + slot;
                let global = self.global(local);
                self.tally.now_ns = self.control.now_ns();
                let Self { plan, homes, sessions, bench, tally, .. } = self;
                let (Some(home), Some(session)) = (homes.get_mut(home), sessions.get_mut(local as usize)) else {
                    return;
                };
                let was_ready = session.is_ready();
                let result = if session.may_end() {
                    Ok(())
                } else {
                    session.arrive(plan, bench, tally, global, home.ring.bytes(&lent))
                };
                let ready = session.is_ready();
                let started_ns = session.started_ns;
                home.ring.recycle(lent);
                if !more {
                    home.rearm.push(slot);
                }
                if ready && !was_ready {
                    self.logging_in = self.logging_in.saturating_sub(1);
                    self.logins.record(self.tally.now_ns.saturating_sub(started_ns));
                    Counters::add(&self.counters.ready, 1);
                    self.on_ready(local, started_ns);
                }
                match result {
                    Ok(()) => self.mark(local),
                    Err(fault) => self.fail(local, fault),
                }
                while let Some((leader, count)) = self.tally.delivered.pop() {
                    self.on_delivered(leader, count);
                }
            }
            Event::Starved(slot) => {
                if let Some(home) = self.homes.get_mut(home) {
                    home.rearm.push(slot);
                }
            }
            Event::Ended(slot, error) => self.on_ended(home, slot, base + slot, error),
            Event::Sent(slot, error, buffer) => {
                self.bench.keep(buffer);
                let local = base + slot;
                let Some(session) = self.sessions.get_mut(local as usize) else { return };
                session.sending = false;
                if error == 0 && session.is_shaken() && !session.has_output() {
                    if let Some(home) = self.homes.get_mut(home) {
                        home.ring.finish(slot);
                    }
                } else if error == 0 {
                    self.mark(local);
                } else if !session.may_end() {
                    let error = io::Error::from_raw_os_error(error);
                    self.fail(local, Fault::from(format!("sending failed: {error}")));
                }
            }
            Event::Accepted(_) | Event::AcceptEnded => {}
        }
    }

    fn on_connected(&mut self, home: usize, slot: u32, local: u32, result: Result<(), i32>) {
        let global = self.global(local);
        let Some(session) = self.sessions.get_mut(local as usize).filter(|session| session.is_connecting()) else {
            return;
        };
        let said = match result {
            Ok(()) => session.connected(self.plan, &mut self.bench, global),
            Err(error) => {
                let error = io::Error::from_raw_os_error(error);
                Err(Fault::from(format!("connecting to {} failed: {error}", self.plan.server)))
            }
        };
        match said {
            Err(fault) => self.fail(local, fault),
            Ok(()) => {
                if let Some(home) = self.homes.get_mut(home) {
                    arm(&mut home.ring, slot, self.lazy, false);
                }
                self.mark(local);
            }
        }
    }

    /// Members got what their leader sent: in a closed loop, it goes on.
    fn on_delivered(&mut self, leader: u32, count: u64) {
        let local = self.plan.local(leader);
        let goes_on = self.plan.rate.is_none() && self.tally.phase < Phase::Drain;
        let Some(session) = self.sessions.get_mut(local as usize).filter(|session| session.is_ready()) else { return };
        let rounds = session.part.as_mut().map_or(0, |part| part.delivered(self.plan, count));
        if goes_on && rounds > 0 {
            let now_ns = self.tally.now_ns;
            self.say(local, rounds, now_ns);
        }
    }

    /// A session has logged in or come back.
    fn on_ready(&mut self, local: u32, started_ns: u64) {
        if self.plan.stage.pings && matches!(self.deed(), Some(Deed::Resume { .. })) {
            self.pings.push(Reverse((self.tally.now_ns, local)));
        }
        let leads = local.is_multiple_of(self.plan.group);
        match self.deed() {
            Some(Deed::Join | Deed::Enlist | Deed::Resume { missed: false, .. }) => {
                self.tally.record(started_ns);
                self.tally.done += 1;
            }
            Some(Deed::Resume { missed: true, .. }) => {
                self.tally.record(started_ns);
                // Its members are done when they hear the message, and nobody writes to it.
                self.tally.done += u64::from(leads);
            }
            Some(_) | None => {}
        }
    }

    fn on_ended(&mut self, home: usize, slot: u32, local: u32, error: i32) {
        let Some(session) = self.sessions.get_mut(local as usize) else { return };
        if !session.may_end() {
            let reason = match error {
                0 => "the server closed the connection".to_owned(),
                error => format!("the connection broke: {}", io::Error::from_raw_os_error(error)),
            };
            self.fail(local, Fault::from(reason));
            return;
        }
        if session.is_shaken() {
            self.logging_in = self.logging_in.saturating_sub(1);
            self.tally.record(session.started_ns);
        }
        let closing = session.is_closing() || session.is_shaken();
        session.bury();
        if closing && self.deed().is_some_and(Deed::is_parting) {
            self.tally.done += 1;
        }
        Counters::add(&self.counters.closed, 1);
        if let Some(home) = self.homes.get_mut(home) {
            home.ring.close(slot);
        }
    }

    fn fail(&mut self, local: u32, fault: Fault) {
        let Some(session) = self.sessions.get_mut(local as usize) else { return };
        if !session.is_ready() {
            self.logging_in = self.logging_in.saturating_sub(1);
        }
        session.bury();
        self.control.fail(Failure {
            what: fault.what,
            jid: self.plan.jid(self.plan.global(self.thread, local)),
            bytes: String::from_utf8_lossy(&fault.bytes).into_owned(),
        });
        if let Some(home) = self.homes.get_mut((local / self.share) as usize) {
            home.ring.close(local % self.share);
        }
    }
}

/// Arms a slot's next read: an idle session only waits for something to read, a lazy one reads once at a time while it
/// logs in.
fn arm(ring: &mut Ring, slot: u32, lazy: bool, ready: bool) {
    match (lazy, ready) {
        (true, true) => ring.poll(slot),
        (true, false) => ring.receive(slot),
        (false, _) => ring.receive_all(slot),
    }
}
