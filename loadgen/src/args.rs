//! The command line: what is asked for, turned into a [`Plan`] and a [`Course`], run, and reported.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::{Args, Parser, Subcommand};
use plaza_core::sasl::scram::{self, Hash};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::conductor::{Course, Logins, Outcome, conduct};
use crate::crowd::{self, Abuse};
use crate::payload::{PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN};
use crate::plan::{Mechanism, Plan, SaltCache, Scenario, TlsMode};
use crate::relay::{self, RelayProcess};
use crate::report::{self, Report, Returned, Rosters, Settings, Storm};
use crate::stage::Stage;
use crate::{ring, tls};

mod city;
mod staged;

use city::CityArgs;
use staged::{AbuseArgs, ContactsArgs, DecisionsArgs, OfflineArgs, PubsubArgs, RegisterArgs, ResumeArgs, SearchesArgs};

/// Drives an XMPP server with many client sessions, checks everything that arrives, and reports what it cost.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Log in and hold: memory per session, idle CPU; then, if asked, a ping now and then.
    Idle(IdleArgs),
    /// Sessions 2k and 2k + 1 exchange messages, in order and intact.
    Pairs(PairsArgs),
    /// Session 2k asks session 2k + 1 for a sensor read-out and gets it.
    Iq(IqArgs),
    /// Sessions ping the server (XEP-0199).
    Ping(PingArgs),
    /// Resources of an account see each other's presence.
    Presence(PresenceArgs),
    /// Connect, TLS, SASL, bind and presence as fast as possible.
    Storm(StormArgs),
    /// Sessions are cut off and come back by stream resumption (XEP-0198), compared with full logins.
    Resume(ResumeArgs),
    /// Messages to accounts that are away: how fast they are stored, and that all of them come later.
    Offline(OfflineArgs),
    /// Presence to contacts, beside as many messages; or, with --memory, what rosters cost.
    Contacts(ContactsArgs),
    /// Notifications to the subscribers of a node (XEP-0060), beside as many messages.
    Pubsub(PubsubArgs),
    /// Devices ask who may read their things (XEP-0324), beside as long a time of pings.
    Decisions(DecisionsArgs),
    /// Searches of the Thing Registry (XEP-0347), beside messages between pairs and without.
    Searches(SearchesArgs),
    /// Accounts are created with signed forms (XEP-0077, XEP-0348), as fast as can be.
    Register(RegisterArgs),
    /// Messages between pairs beside crowds that abuse the server, one after another, and without any.
    Abuse(AbuseArgs),
    /// Be a crowd that abuses a server, at the lowest priority, until standard input ends.
    Crowd(CrowdArgs),
    /// A city of things: they sign up, are claimed, befriended, read and controlled, all through the broker.
    City(CityArgs),
    /// Be the raw relay: pass bytes between connections 2k and 2k + 1, looking at none of them.
    Relay(RelayArgs),
    /// Print the accounts that a run needs, as CSV.
    Accounts(AccountArgs),
}

/// Where to.
#[derive(Debug, Args)]
struct Target {
    /// Address of the server, or name and port.
    #[arg(long, default_value = "127.0.0.1:5222")]
    server: String,
    /// Domain of the accounts.
    #[arg(long, default_value = "localhost")]
    domain: String,
    /// How connections are secured.
    #[arg(long, value_enum, default_value = "none")]
    tls: TlsMode,
    /// Verify the server's certificate against the authorities and certificates in this PEM file; without it, none is
    /// verified.
    #[arg(long)]
    ca: Option<PathBuf>,
}

/// Where to, as whom, and how.
#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    target: Target,
    /// Sessions.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    sessions: u32,
    /// Prefix of the accounts' names: load0, load1, …
    #[arg(long, default_value = "load")]
    users: String,
    /// Their one password.
    #[arg(long, default_value = "secret")]
    password: String,
    /// Accounts that the sessions share, each session with a resource of its own; all have their own if not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    account_pool: Option<u32>,
    /// Use this SASL mechanism alone, instead of the best offered.
    #[arg(long, value_enum, ignore_case = true)]
    mechanism: Option<Mechanism>,
    /// Keep what SCRAM derives from the password in this file, so that a later run need not spend milliseconds per
    /// account. Worth as much as the password.
    #[arg(long)]
    salted_cache: Option<PathBuf>,
    /// Send stream header, bind and presence behind SASL's success at once, without waiting for features.
    #[arg(long)]
    pipeline: bool,
    /// Send no initial presence.
    #[arg(long)]
    no_presence: bool,
    /// Logins in progress at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: u32,
    /// Load threads; as many as CPUs given, else one.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// CPUs to pin the load threads to: 1 or 1,3 or 2-5.
    #[arg(long, value_parser = parse_cpus)]
    cpus: Option<Numbers>,
    /// Source addresses: 127.0.1.1-127.0.9.250 or a single one; picked by itself for a loopback server.
    #[arg(long, value_parser = parse_sources)]
    sources: Option<Sources>,
    /// Sessions per ring at most: direct descriptors are capped per ring by the descriptor limit.
    #[arg(long, default_value_t = 19_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    ring_sessions: u32,
    /// Spread the sessions over at least so many rings.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rings: u32,
    /// The server's process id: its CPU time and memory are measured.
    #[arg(long)]
    pid: Option<u32>,
    /// The server is the raw relay, not an XMPP server (`pairs` and `iq` only).
    #[arg(long)]
    raw: bool,
    /// Give up when logging in or draining makes no progress for so many seconds.
    #[arg(long, default_value_t = 30.0)]
    patience: f64,
    /// Write the report as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the report as one HTML page.
    #[arg(long)]
    html: Option<PathBuf>,
}

/// How long, and how fast.
#[derive(Debug, Args)]
struct Pace {
    /// Seconds measured.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Seconds of traffic before.
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// Closed loop: stanzas outstanding in each direction.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    window: u32,
    /// Open loop: stanzas per second over all sessions, on schedule; latency counts from the scheduled time.
    #[arg(long)]
    rate: Option<f64>,
}

/// The relay beside the broker.
#[derive(Debug, Args)]
struct Beside {
    /// Measure the raw relay with the same settings as well, plaintext, and print the ratio.
    #[arg(long)]
    relay: bool,
    /// CPU to pin that relay to.
    #[arg(long, value_parser = parse_cpus)]
    relay_cpus: Option<Numbers>,
}

#[derive(Debug, Args)]
struct IdleArgs {
    #[command(flatten)]
    common: Common,
    /// Sessions at which to look at memory, rising; the slope between the first and the last is reported.
    #[arg(long, value_delimiter = ',')]
    levels: Vec<u32>,
    /// Seconds to let things settle before each look.
    #[arg(long, default_value_t = 2.0)]
    settle: f64,
    /// Seconds to hold the sessions and measure the server's idle CPU.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Then let this share of the sessions ping.
    #[arg(long, default_value_t = 0.0)]
    ping_fraction: f64,
    /// Seconds between pings of one session.
    #[arg(long, default_value_t = 15.0)]
    interval: f64,
    /// Seconds of pinging.
    #[arg(long, default_value_t = 30.0)]
    ping_duration: f64,
}

#[derive(Debug, Args)]
struct PairsArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    pace: Pace,
    #[command(flatten)]
    beside: Beside,
    /// Bytes of each message's body.
    #[arg(long, default_value_t = 200, value_parser = parse_bytes)]
    bytes: usize,
}

#[derive(Debug, Args)]
struct IqArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    pace: Pace,
    #[command(flatten)]
    beside: Beside,
}

#[derive(Debug, Args)]
struct PingArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    pace: Pace,
    /// One ping per so many seconds from each session, instead of a window or a rate.
    #[arg(long, conflicts_with = "rate")]
    interval: Option<f64>,
}

#[derive(Debug, Args)]
struct PresenceArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    pace: Pace,
    /// Resources per account.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    resources: u32,
    /// Bytes of each status.
    #[arg(long, default_value_t = 64, value_parser = parse_bytes)]
    bytes: usize,
}

#[derive(Debug, Args)]
struct StormArgs {
    #[command(flatten)]
    common: Common,
    /// All sessions log in, are cut off, and come back at once to their streams (XEP-0198). Those who are back ping once a
    /// second; half of them come back to a message. Choose --concurrency as large as --sessions for all at the same moment.
    #[arg(long = "return")]
    returns: bool,
}

#[derive(Debug, Args)]
struct RelayArgs {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:5299")]
    listen: SocketAddrV4,
    /// CPU to pin it to.
    #[arg(long)]
    cpu: Option<usize>,
}

#[derive(Debug, Args)]
struct CrowdArgs {
    /// What it does.
    #[arg(value_enum)]
    abuse: Abuse,
    /// --sessions are those who abuse.
    #[command(flatten)]
    common: Common,
    /// The number of the first account that they use.
    #[arg(long, default_value_t = 0)]
    first: u32,
}

#[derive(Debug, Args)]
struct AccountArgs {
    /// Accounts.
    #[arg(long, default_value_t = 1000)]
    count: u32,
    /// Prefix of their names.
    #[arg(long, default_value = "load")]
    users: String,
    /// Their one password.
    #[arg(long, default_value = "secret")]
    password: String,
    /// Print SCRAM-SHA-256 keys (salt, iterations, StoredKey, ServerKey; Base64) instead of the password, with one
    /// salt for all: then a million logins derive the password once. For load tests only.
    #[arg(long)]
    keys: bool,
    /// PBKDF2 rounds of the keys.
    #[arg(long, default_value_t = 10_000)]
    iterations: u32,
}

/// A list of CPUs.
type Numbers = Vec<usize>;
/// A list of addresses.
type Sources = Vec<Ipv4Addr>;

fn parse_cpus(text: &str) -> Result<Numbers, String> {
    let number = |text: &str| text.trim().parse::<usize>().map_err(|error| format!("{text:?}: {error}"));
    let mut cpus = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            Some((first, last)) => cpus.extend(number(first)?..=number(last)?),
            None => cpus.push(number(part)?),
        }
    }
    if cpus.is_empty() || cpus.iter().any(|&cpu| cpu >= libc::CPU_SETSIZE as usize) {
        return Err(format!("no such CPUs: {text}"));
    }
    Ok(cpus)
}

fn parse_sources(text: &str) -> Result<Sources, String> {
    let address = |text: &str| text.trim().parse::<Ipv4Addr>().map_err(|error| format!("{text:?}: {error}"));
    let mut sources = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            None => sources.push(address(part)?),
            Some((first, last)) => {
                let (first, last) = (u32::from(address(first)?), u32::from(address(last)?));
                if last.checked_sub(first).is_none_or(|count| count > 65_535) {
                    return Err(format!("{part}: not a rising range of at most 65 536 addresses"));
                }
                // .0 and .255 are left out: fine on loopback, broadcast elsewhere.
                sources.extend((first..=last).map(Ipv4Addr::from).filter(|ip| !matches!(ip.octets()[3], 0 | 255)));
            }
        }
    }
    Ok(sources)
}

fn parse_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse().map_err(|error| format!("{error}"))?;
    if !(PAYLOAD_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&bytes) {
        return Err(format!("must be {PAYLOAD_BYTES_MIN} to {PAYLOAD_BYTES_MAX}: a payload carries its own checks"));
    }
    Ok(bytes)
}

/// Sessions per source address that is picked by itself: far below the 28 000 ports there are.
const SESSIONS_PER_SOURCE: u32 = 8_000;

fn resolve(server: &str) -> Result<SocketAddrV4, String> {
    let addresses = server.to_socket_addrs().map_err(|error| format!("{server}: {error}"))?;
    let found = addresses.into_iter().find_map(|address| match address {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    });
    found.ok_or_else(|| format!("{server} has no IPv4 address"))
}

impl Target {
    /// The configuration of TLS, if there is any, and the name a certificate must have.
    fn security(&self) -> Result<(Option<Arc<ClientConfig>>, ServerName<'static>), String> {
        let config = match self.tls {
            TlsMode::None => None,
            TlsMode::Starttls | TlsMode::Direct => {
                Some(tls::client_config(self.ca.as_deref(), self.tls == TlsMode::Direct)?)
            }
        };
        let name = match self.domain.parse::<IpAddr>() {
            Ok(ip) => ServerName::from(ip),
            Err(_) => ServerName::try_from(self.domain.clone()).map_err(|error| error.to_string())?,
        };
        Ok((config, name))
    }
}

/// Source addresses for so many sessions: what was asked for, or enough for a server on loopback.
fn sources_for(asked: Option<&Sources>, server: SocketAddrV4, sessions: u32) -> Vec<Ipv4Addr> {
    match asked {
        Some(sources) => sources.clone(),
        None if ring::is_loopback(*server.ip()) && sessions > SESSIONS_PER_SOURCE => (0..sessions
            .div_ceil(SESSIONS_PER_SOURCE))
            .map(|index| Ipv4Addr::new(127, 0, 1 + (index / 250) as u8, 1 + (index % 250) as u8))
            .collect(),
        None => Vec::new(),
    }
}

/// Checks that there is a process whose costs can be read.
fn check_pid(pid: Option<u32>) -> Result<(), String> {
    match pid.filter(|&pid| ring::process_cpu_ns(pid).is_none()) {
        Some(pid) => Err(format!("there is no process {pid}, or it may not be read")),
        None => Ok(()),
    }
}

impl Common {
    /// The plan of a scenario; `group` sessions belong together.
    fn plan(&self, scenario: Scenario, group: u32) -> Result<Plan, String> {
        let server = resolve(&self.target.server)?;
        if self.raw && (!matches!(scenario, Scenario::Pairs | Scenario::Iq) || self.target.tls != TlsMode::None) {
            return Err("the raw relay passes bytes between pairs, in plaintext: it can do nothing else".to_owned());
        }
        let sessions = self.sessions / group * group;
        if sessions == 0 {
            return Err(format!("at least {group} sessions are needed"));
        }
        let accounts = match scenario {
            Scenario::Presence => sessions / group,
            Scenario::Idle | Scenario::Pairs | Scenario::Iq | Scenario::Ping | Scenario::Staged => sessions,
        };
        let (tls_config, tls_name) = self.target.security()?;
        let cpus = self.cpus.clone().unwrap_or_default();
        let threads = self.threads.unwrap_or(cpus.len().max(1) as u32).min(sessions / group);
        let descriptors = ring::raise_descriptors().saturating_sub(64).max(1) as u32;
        Ok(Plan {
            scenario,
            raw: self.raw,
            server,
            domain: self.target.domain.clone(),
            tls: self.target.tls,
            tls_config,
            tls_name: Some(tls_name),
            sessions,
            users: self.users.clone(),
            password: self.password.clone(),
            accounts: self.account_pool.unwrap_or(accounts).min(accounts),
            group,
            mechanism: self.mechanism,
            pipeline: self.pipeline,
            presence: !self.no_presence,
            concurrency: self.concurrency,
            threads,
            sources: sources_for(self.sources.as_ref(), server, sessions),
            cpus,
            ring_sessions_max: self.ring_sessions.min(descriptors).min(sessions.div_ceil(self.rings)),
            window: 1,
            bytes: PAYLOAD_BYTES_MIN,
            rate: None,
            fraction: 1.0,
            stage: Stage::default(),
            salts: self.read_salts(),
        })
    }

    fn course(&self, title: &str, plan: &Plan) -> Result<Course, String> {
        check_pid(self.pid)?;
        Ok(Course {
            title: title.to_owned(),
            warm_logins: 0,
            levels: vec![plan.sessions],
            settle: Duration::from_millis(200),
            hold: None,
            traffic: None,
            pid: self.pid,
            patience: seconds(self.patience, "--patience")?,
            handshakes: false,
        })
    }

    fn read_salts(&self) -> SaltCache {
        let text = self.salted_cache.as_ref().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let entries: HashMap<String, String> = serde_json::from_str(&text).unwrap_or_default();
        let decoded = entries.into_iter().filter_map(|(key, value)| Some((key, BASE64_STANDARD.decode(value).ok()?)));
        SaltCache::from_entries(decoded.collect())
    }

    fn write_salts(&self, salts: &SaltCache) -> Result<(), String> {
        let Some(path) = &self.salted_cache else { return Ok(()) };
        let entries: HashMap<_, _> =
            salts.entries().into_iter().map(|(key, value)| (key, BASE64_STANDARD.encode(value))).collect();
        let text = serde_json::to_string(&entries).map_err(|error| error.to_string())?;
        write_file(path, &text)
    }

    /// Runs, reports, and says whether all went well.
    fn conclude(&self, name: &str, plan: Plan, course: &Course, beside: Beside) -> Result<bool, String> {
        let relay_plan = beside.relay.then(|| raw(&plan, &beside)).transpose()?;
        let broker = conduct(&plan, course);
        self.write_salts(&plan.salts)?;
        let mut report = Report::new(Settings::of(name, &plan, course, self.target.ca.is_some()), broker);
        if let Some((plan, relay)) = relay_plan.filter(|_| report.broker.failure_count == 0) {
            report.compare(measure_relay(&plan, course, &relay));
        }
        let Logins { server_cpu_us, handshake_ns, .. } = report.broker.logins;
        report.storm =
            server_cpu_us.zip(handshake_ns).map(|(login_us, handshake_ns)| Storm::new(login_us, handshake_ns));
        if plan.stage.pings && report.broker.failure_count == 0 {
            report.returned = Returned::new(&report.broker, u64::from(plan.sessions / plan.group * (plan.group - 1)));
        }
        report.compare_scenes(&plan.stage.comparisons);
        if let Some(sign_up) = &plan.stage.sign_up {
            ring::pin(plan.cpus.first().copied()).map_err(|error| error.to_string())?;
            report.derivation_us = sign_up.derivation_us(&plan.password, DERIVATIONS);
        }
        if let Some(contrast) = plan.stage.contrast {
            report.contrast_scenes(contrast);
        }
        report.compare_bystanders();
        if plan.stage.empty_rosters > 0 {
            report.rosters = Rosters::new(&report.broker.levels, plan.group - 1);
        }
        report::print(&report);
        if let Some(path) = &self.json {
            write_file(path, &serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?)?;
        }
        if let Some(path) = &self.html {
            write_file(path, &report::html(&report)?)?;
        }
        Ok(report.is_clean())
    }
}

/// The same plan for the relay, which is started here, so that a failure shows before the broker is measured.
fn raw(plan: &Plan, beside: &Beside) -> Result<(Plan, RelayProcess), String> {
    let cpu = beside.relay_cpus.as_ref().and_then(|cpus| cpus.first()).copied();
    let relay = RelayProcess::start(cpu).map_err(|error| error.to_string())?;
    let plan = Plan {
        raw: true,
        server: relay.address,
        domain: plan.domain.clone(),
        tls: TlsMode::None,
        tls_config: None,
        tls_name: None,
        users: plan.users.clone(),
        password: String::new(),
        cpus: plan.cpus.clone(),
        sources: plan.sources.clone(),
        stage: Stage::default(),
        salts: SaltCache::default(),
        ..*plan
    };
    Ok((plan, relay))
}

fn measure_relay(plan: &Plan, course: &Course, relay: &RelayProcess) -> Outcome {
    let course = Course { title: "relay".to_owned(), pid: Some(relay.pid()), ..course.clone() };
    conduct(plan, &course)
}

fn write_file(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn seconds(value: f64, name: &str) -> Result<Duration, String> {
    Duration::try_from_secs_f64(value).map_err(|error| format!("{name}: {error}"))
}

/// Derivations of keys that are measured: a second or so.
const DERIVATIONS: u32 = 300;

const NO_RELAY: Beside = Beside { relay: false, relay_cpus: None };

impl Pace {
    fn apply(&self, plan: &mut Plan, course: &mut Course) -> Result<(), String> {
        if self.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return Err("--rate must be above 0".to_owned());
        }
        plan.window = self.window;
        plan.rate = self.rate;
        course.traffic = Some((seconds(self.warmup, "--warmup")?, seconds(self.duration, "--duration")?));
        Ok(())
    }
}

impl Cli {
    /// Does what was asked. `Ok(false)`: it was done, and something went wrong on the way.
    ///
    /// # Errors
    /// In words: it cannot be done.
    pub(crate) fn run(self) -> Result<bool, String> {
        match self.command {
            Command::Idle(args) => args.run(),
            Command::Pairs(PairsArgs { common, pace, beside, bytes }) => {
                let mut plan = common.plan(Scenario::Pairs, 2)?;
                let mut course = common.course("pairs", &plan)?;
                pace.apply(&mut plan, &mut course)?;
                plan.bytes = bytes;
                common.conclude("pairs", plan, &course, beside)
            }
            Command::Iq(IqArgs { common, pace, beside }) => {
                let mut plan = common.plan(Scenario::Iq, 2)?;
                let mut course = common.course("iq", &plan)?;
                pace.apply(&mut plan, &mut course)?;
                common.conclude("iq", plan, &course, beside)
            }
            Command::Ping(PingArgs { common, pace, interval }) => {
                let mut plan = common.plan(Scenario::Ping, 1)?;
                let mut course = common.course("ping", &plan)?;
                pace.apply(&mut plan, &mut course)?;
                if let Some(interval) = interval {
                    plan.rate = Some(f64::from(plan.sessions) / positive(interval, "--interval")?);
                }
                common.conclude("ping", plan, &course, NO_RELAY)
            }
            Command::Presence(PresenceArgs { common, pace, resources, bytes }) => {
                let mut plan = common.plan(Scenario::Presence, resources)?;
                let mut course = common.course("presence", &plan)?;
                pace.apply(&mut plan, &mut course)?;
                plan.bytes = bytes;
                common.conclude("presence", plan, &course, NO_RELAY)
            }
            Command::Storm(StormArgs { common, returns: true }) => common.run_return(),
            Command::Storm(StormArgs { common, returns: false }) => {
                let plan = common.plan(Scenario::Idle, 1)?;
                let mut course = common.course("storm", &plan)?;
                course.settle = Duration::from_millis(500);
                course.handshakes = true;
                if plan.accounts < plan.sessions {
                    course.warm_logins = plan.accounts;
                }
                common.conclude("storm", plan, &course, NO_RELAY)
            }
            Command::Resume(args) => args.run(),
            Command::Offline(args) => args.run(),
            Command::Contacts(args) => args.run(),
            Command::Pubsub(args) => args.run(),
            Command::Decisions(args) => args.run(),
            Command::Searches(args) => args.run(),
            Command::Register(args) => args.run(),
            Command::Abuse(args) => args.run(),
            Command::Crowd(CrowdArgs { abuse, common, first }) => {
                let mut plan = common.plan(Scenario::Idle, 1)?;
                crowd::run(abuse, &mut plan, first).map(|()| true)
            }
            Command::City(args) => args.run(),
            Command::Relay(RelayArgs { listen, cpu }) => {
                relay::run(listen, cpu).map_err(|error| format!("the relay: {error}"))?;
                Ok(true)
            }
            Command::Accounts(args) => args.run(),
        }
    }
}

fn positive(value: f64, name: &str) -> Result<f64, String> {
    if value.is_finite() && value > 0.0 { Ok(value) } else { Err(format!("{name} must be above 0")) }
}

impl IdleArgs {
    fn run(self) -> Result<bool, String> {
        let mut plan = self.common.plan(Scenario::Idle, 1)?;
        let mut course = self.common.course("idle", &plan)?;
        course.levels = self.levels.iter().copied().filter(|&level| level < plan.sessions).collect();
        if !course.levels.is_sorted_by(|a, b| a < b) {
            return Err("--levels must rise".to_owned());
        }
        course.levels.push(plan.sessions);
        course.settle = seconds(self.settle, "--settle")?;
        course.hold = Some(seconds(self.duration, "--duration")?);
        if self.ping_fraction > 0.0 {
            plan.fraction = self.ping_fraction.min(1.0);
            plan.rate = Some(f64::from(plan.sessions) * plan.fraction / positive(self.interval, "--interval")?);
            course.traffic = Some((Duration::from_secs(2), seconds(self.ping_duration, "--ping-duration")?));
        }
        self.common.conclude("idle", plan, &course, NO_RELAY)
    }
}

impl AccountArgs {
    fn run(self) -> Result<bool, String> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let secret = if self.keys {
            let mut salt = [0; 16];
            getrandom::fill(&mut salt).map_err(|error| error.to_string())?;
            let keys = scram::derive(Hash::Sha256, &self.password, &salt, self.iterations)
                .ok_or("the password is refused (RFC 8265 §4)")?;
            let encode = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
            let (salt, stored, server) = (encode(&keys.salt), encode(&keys.stored_key), encode(&keys.server_key));
            format!("SCRAM-SHA-256,{salt},{},{stored},{server}", keys.iterations)
        } else {
            self.password
        };
        for number in 0..self.count {
            writeln!(out, "{}{number},{secret}", self.users).map_err(|error| error.to_string())?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn ranges_of_cpus_and_addresses_are_read() {
        assert_eq!(parse_cpus("1,3-5"), Ok(vec![1, 3, 4, 5]));
        assert!(parse_cpus("x").is_err());
        assert!(parse_cpus("99999").is_err());
        assert_eq!(parse_sources("127.0.1.254-127.0.2.1").unwrap().len(), 2);
        assert_eq!(parse_sources("127.0.1.1,127.0.1.9").unwrap().len(), 2);
        assert!(parse_sources("127.0.2.1-127.0.1.1").is_err());
        assert!(parse_bytes("63").is_err());
        assert_eq!(parse_bytes("200"), Ok(200));
    }

    #[test]
    fn a_million_sessions_get_enough_sources() {
        let cli = Cli::parse_from(["plaza-loadgen", "idle", "--sessions", "1000000"]);
        let Command::Idle(args) = cli.command else { unreachable!("idle was asked for") };
        let plan = args.common.plan(Scenario::Idle, 1).unwrap();
        assert_eq!(plan.sources.len(), 125);
        assert!(plan.ring_sessions_max <= 19_000);
    }
}
