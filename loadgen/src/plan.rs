//! What a run shall do, fixed before its threads start, and what the threads and the conductor tell each other.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;

use crate::stage::{Act, Stage};

/// How connections are secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TlsMode {
    /// Plaintext.
    None,
    /// STARTTLS (RFC 6120 §5).
    Starttls,
    /// TLS from the first byte (XEP-0368).
    Direct,
}

/// What sessions do once they are bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scenario {
    /// Nothing.
    Idle,
    /// Sessions 2k and 2k + 1 exchange messages.
    Pairs,
    /// Session 2k asks, session 2k + 1 answers.
    Iq,
    /// Ask the server for a ping (XEP-0199).
    Ping,
    /// Broadcast presence to the account's own resources.
    Presence,
    /// The acts of [`Plan::stage`].
    Staged,
}

/// SASL mechanisms the tool speaks, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
pub(crate) enum Mechanism {
    /// SCRAM-SHA-256 (RFC 7677).
    #[value(name = "SCRAM-SHA-256", alias = "scram-sha-256")]
    ScramSha256,
    /// SCRAM-SHA-1 (RFC 5802).
    #[value(name = "SCRAM-SHA-1", alias = "scram-sha-1")]
    ScramSha1,
    /// PLAIN (RFC 4616).
    #[value(name = "PLAIN", alias = "plain")]
    Plain,
}

impl Mechanism {
    /// All, in the order of preference.
    pub(crate) const ALL: [Self; 3] = [Self::ScramSha256, Self::ScramSha1, Self::Plain];

    /// The registered name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha1 => "SCRAM-SHA-1",
            Self::Plain => "PLAIN",
        }
    }
}

/// A run.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What the sessions do.
    pub scenario: Scenario,
    /// Drive the raw relay: a hello instead of a login, and nothing stamped by a server.
    pub raw: bool,
    /// The server.
    pub server: SocketAddrV4,
    /// Its domain.
    pub domain: String,
    /// TLS.
    pub tls: TlsMode,
    /// Configuration of TLS, if there is any.
    pub tls_config: Option<Arc<ClientConfig>>,
    /// The domain as a certificate would name it.
    pub tls_name: Option<ServerName<'static>>,
    /// Sessions in all.
    pub sessions: u32,
    /// Prefix of account names.
    pub users: String,
    /// The one password.
    pub password: String,
    /// Accounts the sessions share.
    pub accounts: u32,
    /// Consecutive sessions that belong together and to one thread: 2 for pairs, resources per account for presence, a
    /// leader and its members on a stage.
    pub group: u32,
    /// The only mechanism to use, or the best offered.
    pub mechanism: Option<Mechanism>,
    /// Send header, bind and presence behind the SASL exchange without waiting (XEP-0305 calls it quickstart).
    pub pipeline: bool,
    /// Send initial presence.
    pub presence: bool,
    /// Logins in progress at once, over all threads.
    pub concurrency: u32,
    /// Load threads.
    pub threads: u32,
    /// CPUs to pin them to, in turn; none: not pinned.
    pub cpus: Vec<usize>,
    /// Source addresses; none: the system's choice.
    pub sources: Vec<Ipv4Addr>,
    /// Sessions per ring at most.
    pub ring_sessions_max: u32,
    /// Stanzas outstanding per direction.
    pub window: u32,
    /// Bytes of a message's body.
    pub bytes: usize,
    /// Stanzas per second over all sessions, sent on schedule (open loop); `None`: as the window allows (closed loop).
    pub rate: Option<f64>,
    /// Share of the sessions that take part in the traffic.
    pub fraction: f64,
    /// The acts, if the scenario has any.
    pub stage: Stage,
    /// SaltedPasswords known.
    pub salts: SaltCache,
}

impl Plan {
    /// The account a session logs in to. Sessions of a group of presence share one.
    pub(crate) fn account(&self, session: u32) -> u32 {
        match self.scenario {
            Scenario::Presence => session / self.group % self.accounts,
            Scenario::Idle | Scenario::Pairs | Scenario::Iq | Scenario::Ping => session % self.accounts,
            Scenario::Staged => (session + self.stage.empty_rosters) % self.accounts,
        }
    }

    /// A session's full JID.
    pub(crate) fn jid(&self, session: u32) -> String {
        format!("{}/r{session}", self.bare_jid(session))
    }

    /// The bare JID of a session's account.
    pub(crate) fn bare_jid(&self, session: u32) -> String {
        format!("{}@{}", self.user(session), self.domain)
    }

    /// The name of a session's account.
    pub(crate) fn user(&self, session: u32) -> String {
        format!("{}{}", self.users, self.account(session))
    }

    /// Where to write to a session: to its account, if the server chose the resource.
    pub(crate) fn address(&self, session: u32) -> String {
        if self.stage.tagged { self.bare_jid(session) } else { self.jid(session) }
    }

    /// The service that has the node of a leader.
    pub(crate) fn service(&self, leader: u32) -> String {
        self.stage.service.clone().unwrap_or_else(|| self.bare_jid(leader))
    }

    /// The node of a leader.
    pub(crate) fn node(&self, leader: u32) -> String {
        format!("{}{}", self.users, self.account(leader))
    }

    /// The act of that number, counted from 1.
    pub(crate) fn act(&self, number: u32) -> Option<&Act> {
        self.stage.acts.get((number as usize).checked_sub(1)?)
    }

    /// Whether a session is a leader that searches.
    pub(crate) const fn is_searcher(&self, session: u32) -> bool {
        session.is_multiple_of(self.group) && session / self.group < self.stage.searches.searchers
    }

    /// Whether a session enables stream management.
    pub(crate) fn is_managed(&self, session: u32) -> bool {
        self.stage.managed.is_some_and(|who| who.includes(session, self.group))
    }

    /// Sessions of thread `thread`, numbered from 0: groups are dealt out in turn.
    pub(crate) fn sessions_of(&self, thread: u32) -> u32 {
        let groups = self.sessions / self.group;
        let share = groups / self.threads + u32::from(thread < groups % self.threads);
        share * self.group
    }

    /// The number in all of a thread's session `local`.
    pub(crate) fn global(&self, thread: u32, local: u32) -> u32 {
        (local / self.group * self.threads + thread) * self.group + local % self.group
    }

    /// The number in its thread of session `global`.
    pub(crate) fn local(&self, global: u32) -> u32 {
        global / self.group / self.threads * self.group + global % self.group
    }

    /// How many of a thread's sessions are below the level `sessions` of all.
    pub(crate) fn level_of(&self, thread: u32, sessions: u32) -> u32 {
        let groups = sessions.min(self.sessions).div_ceil(self.group);
        let share = groups / self.threads + u32::from(thread < groups % self.threads);
        (share * self.group).min(self.sessions_of(thread))
    }

    /// Stanzas expected to arrive for each one sent.
    pub(crate) const fn fan_out(&self) -> u64 {
        match self.scenario {
            Scenario::Presence => self.group as u64,
            Scenario::Idle | Scenario::Pairs | Scenario::Iq | Scenario::Ping => 1,
            Scenario::Staged => self.group as u64 - 1,
        }
    }
}

/// SaltedPassword by mechanism, salt and iterations: the password is one for the whole run, and PBKDF2 takes ms.
#[derive(Debug, Default)]
pub(crate) struct SaltCache(Mutex<HashMap<String, Arc<[u8]>>>);

impl SaltCache {
    /// Filled from what [`Self::entries`] gave.
    pub(crate) fn from_entries(entries: HashMap<String, Vec<u8>>) -> Self {
        Self(Mutex::new(entries.into_iter().map(|(key, value)| (key, value.into())).collect()))
    }

    /// The SaltedPassword for a key.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<[u8]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Remembers one.
    pub(crate) fn put(&self, key: String, salted: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, salted.into());
    }

    /// All of them.
    pub(crate) fn entries(&self) -> HashMap<String, Vec<u8>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(key, value)| (key.clone(), value.to_vec())).collect()
    }
}

/// What the threads shall be doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub(crate) enum Phase {
    /// Log in up to the target, then hold.
    Login = 0,
    /// Traffic, not measured yet.
    Warmup = 1,
    /// Traffic, measured.
    Measure = 2,
    /// No new traffic; what is under way may arrive.
    Drain = 3,
    /// Close the streams.
    Close = 4,
    /// End.
    Stop = 5,
}

impl Phase {
    const fn of(number: u32) -> Self {
        match number {
            0 => Self::Login,
            1 => Self::Warmup,
            2 => Self::Measure,
            3 => Self::Drain,
            4 => Self::Close,
            _ => Self::Stop,
        }
    }
}

/// A thread's counters: it alone writes them, the conductor reads them. Relaxed, since nothing is ordered by them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    /// Sessions ready.
    pub ready: AtomicU64,
    /// Sessions whose stream is closed.
    pub closed: AtomicU64,
    /// Arrivals owed by the server: stanzas sent times fan-out.
    pub owed: AtomicU64,
    /// Stanzas of the scenario that arrived.
    pub arrived: AtomicU64,
    /// Participants done with their acts.
    pub done: AtomicU64,
}

impl Counters {
    /// Adds to one of them; the only writer is the calling thread.
    pub(crate) fn add(counter: &AtomicU64, more: u64) {
        counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }
}

/// Something that must not happen.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Failure {
    /// What.
    pub what: String,
    /// The session it happened to.
    pub jid: String,
    /// The bytes in question, shortened.
    pub bytes: String,
}

/// Failures kept and printed; more are only counted.
pub(crate) const FAILURES_MAX: usize = 10;

/// What the threads and the conductor share.
#[derive(Debug)]
pub(crate) struct Control {
    epoch: Instant,
    phase: AtomicU32,
    target: AtomicU32,
    act: AtomicU32,
    measure_from: AtomicU64,
    aborted: AtomicBool,
    failure_count: AtomicU64,
    failures: Mutex<Vec<Failure>>,
    /// By thread.
    pub counters: Box<[Counters]>,
}

impl Control {
    /// For so many threads; nobody logs in yet.
    pub(crate) fn new(threads: u32) -> Self {
        Self {
            epoch: Instant::now(),
            phase: AtomicU32::new(Phase::Login as u32),
            target: AtomicU32::new(0),
            act: AtomicU32::new(0),
            measure_from: AtomicU64::new(u64::MAX),
            aborted: AtomicBool::new(false),
            failure_count: AtomicU64::new(0),
            failures: Mutex::default(),
            counters: (0..threads).map(|_| Counters::default()).collect(),
        }
    }

    /// The run's clock, in ns.
    pub(crate) fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// The phase. Pairs with the Release in [`Self::enter`].
    pub(crate) fn phase(&self) -> Phase {
        Phase::of(self.phase.load(Ordering::Acquire))
    }

    /// Begins a phase. Pairs with the Acquire in [`Self::phase`].
    pub(crate) fn enter(&self, phase: Phase) {
        if phase == Phase::Measure {
            self.measure_from.store(self.now_ns(), Ordering::Relaxed);
        }
        self.phase.store(phase as u32, Ordering::Release);
    }

    /// Latencies of stanzas sent from then on count.
    pub(crate) fn measure_from(&self) -> u64 {
        self.measure_from.load(Ordering::Relaxed)
    }

    /// Sessions that shall be logged in.
    pub(crate) fn target(&self) -> u32 {
        self.target.load(Ordering::Relaxed)
    }

    /// Sets it.
    pub(crate) fn aim(&self, sessions: u32) {
        self.target.store(sessions, Ordering::Relaxed);
    }

    /// The number of the act, from 1; 0 before the first. Pairs with the Release in [`Self::perform`].
    pub(crate) fn act(&self) -> u32 {
        self.act.load(Ordering::Acquire)
    }

    /// Begins an act. Pairs with the Acquire in [`Self::act`].
    pub(crate) fn perform(&self, number: u32) {
        self.act.store(number, Ordering::Release);
    }

    /// Whether enough went wrong to stop.
    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed)
    }

    /// Ends the run.
    pub(crate) fn abort(&self) {
        self.aborted.store(true, Ordering::Relaxed);
    }

    /// Reports a failure; enough of them end the run.
    pub(crate) fn fail(&self, failure: Failure) {
        let count = self.failure_count.fetch_add(1, Ordering::Relaxed) + 1;
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < FAILURES_MAX {
            failures.push(failure);
        }
        drop(failures);
        if count >= FAILURES_MAX as u64 {
            self.abort();
        }
    }

    /// How many failures there were, and the first of them.
    pub(crate) fn failures(&self) -> (u64, Vec<Failure>) {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        (self.failure_count.load(Ordering::Relaxed), failures.clone())
    }

    /// One counter over all threads.
    pub(crate) fn sum(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.counters.iter().map(|counters| counter(counters).load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A plan of `sessions` over `threads`, to be changed as a test needs.
    pub(crate) fn plan(scenario: Scenario, sessions: u32, threads: u32, group: u32) -> Plan {
        Plan {
            scenario,
            raw: false,
            server: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5222),
            domain: "localhost".to_owned(),
            tls: TlsMode::None,
            tls_config: None,
            tls_name: None,
            sessions,
            users: "load".to_owned(),
            password: "secret".to_owned(),
            accounts: sessions,
            group,
            mechanism: None,
            pipeline: false,
            presence: true,
            concurrency: 64,
            threads,
            cpus: Vec::new(),
            sources: Vec::new(),
            ring_sessions_max: 19_000,
            window: 1,
            bytes: 200,
            rate: None,
            fraction: 1.0,
            stage: Stage::default(),
            salts: SaltCache::default(),
        }
    }

    #[test]
    fn sessions_are_dealt_out_in_whole_groups_and_none_twice() {
        for (sessions, threads, group) in [(10, 3, 2), (12, 2, 4), (1, 1, 1), (20, 7, 1)] {
            let plan = plan(Scenario::Pairs, sessions, threads, group);
            let mut seen = vec![false; sessions as usize];
            for thread in 0..threads {
                for local in 0..plan.sessions_of(thread) {
                    let global = plan.global(thread, local);
                    assert_eq!(plan.local(global), local);
                    assert!(!std::mem::replace(&mut seen[global as usize], true), "{global} twice");
                }
                assert_eq!(plan.level_of(thread, sessions), plan.sessions_of(thread));
                assert_eq!(plan.level_of(thread, 0), 0);
            }
            assert!(seen.iter().all(|&seen| seen));
        }
    }

    #[test]
    fn levels_add_up_over_the_threads() {
        let plan = plan(Scenario::Pairs, 20_000, 3, 2);
        for level in [2, 2_000, 18_000, 20_000, 30_000] {
            let sum: u32 = (0..3).map(|thread| plan.level_of(thread, level)).sum();
            assert_eq!(sum, level.min(20_000));
        }
    }

    #[test]
    fn sessions_share_a_pool_of_accounts_with_resources_of_their_own() {
        let mut plan = plan(Scenario::Idle, 10, 1, 1);
        plan.accounts = 4;
        assert_eq!(plan.jid(1), "load1@localhost/r1");
        assert_eq!(plan.jid(9), "load1@localhost/r9");
        plan.scenario = Scenario::Presence;
        plan.group = 5;
        assert_eq!((plan.account(4), plan.account(5)), (0, 1));
    }

    #[test]
    fn enough_failures_end_the_run_and_only_the_first_are_kept() {
        let control = Control::new(1);
        for number in 0..FAILURES_MAX + 5 {
            assert_eq!(control.is_aborted(), number >= FAILURES_MAX);
            control.fail(Failure { what: number.to_string(), jid: String::new(), bytes: String::new() });
        }
        let (count, kept) = control.failures();
        assert_eq!((count, kept.len()), (FAILURES_MAX as u64 + 5, FAILURES_MAX));
    }
}
