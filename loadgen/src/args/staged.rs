//! The command line of scenarios in acts ([`crate::stage`]).

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};

use super::city::read_keys;
use super::{Common, NO_RELAY, Pace, parse_bytes, positive};
use crate::conductor::Course;
use crate::crowd::{Abuse, Recruiting};
use crate::plan::{Plan, Scenario, TlsMode};
use crate::question::SignUp;
use crate::search::Searches;
use crate::stage::{Returns, Stage};

#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    common: Common,
    /// Contacts of each session, the others of its group, made if they are not in its roster yet. One of a group stays and
    /// sends the others a message while they are cut off; --sessions counts all.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    contacts: u32,
    /// They are no contacts of each other: rosters are as they are.
    #[arg(long)]
    strangers: bool,
    /// Bytes of each message's body.
    #[arg(long, default_value_t = 200, value_parser = parse_bytes)]
    bytes: usize,
    /// Come back inside SASL2's request as well, with the password (XEP-0388, XEP-0198 §8). Needs --tls, like --fast.
    #[arg(long)]
    inline: bool,
    /// Come back in one round trip as well, authenticated with a token that was asked for before (XEP-0388, XEP-0484).
    #[arg(long)]
    fast: bool,
}

#[derive(Debug, Args)]
pub(super) struct OfflineArgs {
    /// --sessions are the senders here.
    #[command(flatten)]
    common: Common,
    /// Accounts that are away: a multiple of the senders, each of whom has its own; as many as there are senders if not
    /// given. Their numbers follow upon those of their senders.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    recipients: Option<u32>,
    /// Messages to each of them: servers keep about a hundred.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    per_recipient: u64,
    /// Messages between two requests to acknowledge them, the next of which waits for the former's answer.
    #[arg(long, default_value_t = 1, conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    window: u32,
    /// Open loop: messages per second over all senders, on schedule; latency counts from the scheduled time.
    #[arg(long)]
    rate: Option<f64>,
    /// Bytes of each message's body.
    #[arg(long, default_value_t = 1024, value_parser = parse_bytes)]
    bytes: usize,
}

#[derive(Debug, Args)]
pub(super) struct ContactsArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    pace: Pace,
    /// Contacts who are subscribed to the presence of each publisher, or with --memory and --prepare contacts in each
    /// roster; --sessions counts all. [default: 100, with --memory and --prepare 20]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    contacts: Option<u32>,
    /// Bytes of each status and body.
    #[arg(long, default_value_t = 64, value_parser = parse_bytes)]
    bytes: usize,
    /// Only fill rosters for --memory: everybody in a group subscribes to everybody.
    #[arg(long, conflicts_with = "memory")]
    prepare: bool,
    /// Measure memory instead: as many sessions with empty rosters, then the same number with those that --prepare filled;
    /// the former use as many accounts more. Start the server anew before.
    #[arg(long, requires = "pid")]
    memory: bool,
}

#[derive(Debug, Args)]
pub(super) struct PubsubArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    pace: Pace,
    /// Subscribers of each publisher's node; --sessions counts all.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    subscribers: u32,
    /// Bytes of what each item and each body carries.
    #[arg(long, default_value_t = 64, value_parser = parse_bytes)]
    bytes: usize,
    /// The service that has the nodes; pubsub.DOMAIN if not given.
    #[arg(long)]
    service: Option<String>,
    /// The service is each publisher's own account instead (XEP-0163).
    #[arg(long, conflicts_with = "service")]
    personal: bool,
}

#[derive(Debug, Args)]
pub(super) struct DecisionsArgs {
    /// The accounts are devices: those of the example `town` of the benches.
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    pace: Pace,
    /// Rules of each thing, as `town` was told: its --rules ÷ its --things.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(3..))]
    rules: u32,
    /// Where decision support is; things.DOMAIN if not given.
    #[arg(long)]
    service: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct SearchesArgs {
    /// Sessions 2k write to sessions 2k + 1, but for those that search; --sessions counts all.
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    pace: Pace,
    /// Bytes of each message's body.
    #[arg(long, default_value_t = 200, value_parser = parse_bytes)]
    bytes: usize,
    /// Things that there are: those of the example `town` of the benches.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    things: u32,
    /// Sessions that search.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    searchers: u32,
    /// Searches per second over all of them, on schedule; latency counts from the scheduled time. The registry takes five a
    /// second of an account unless it is told otherwise.
    #[arg(long, default_value_t = 50.0)]
    search_rate: f64,
    /// Where the registry is; things.DOMAIN if not given.
    #[arg(long)]
    service: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct AbuseArgs {
    /// Sessions 2k write to sessions 2k + 1; the accounts behind theirs are the crowd's.
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    pace: Pace,
    /// Bytes of each message's body.
    #[arg(long, default_value_t = 200, value_parser = parse_bytes)]
    bytes: usize,
    /// What the crowds do, one after another; everything if not given.
    #[arg(long, value_enum, value_delimiter = ',')]
    abuse: Vec<Abuse>,
    /// How many a crowd is.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    crowd: u32,
    /// Where it connects: a listener without TLS; --server if not given.
    #[arg(long)]
    crowd_server: Option<String>,
    /// Where it begins handshakes: a listener with TLS from the first byte.
    #[arg(long)]
    crowd_tls_server: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct RegisterArgs {
    /// The sessions create accounts one at a time each; their own accounts are there.
    #[command(flatten)]
    common: Common,
    /// Seconds measured.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Seconds of sign-ups before.
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// The API key and its secret, KEY:SECRET.
    #[arg(long)]
    api_key: Option<String>,
    /// A file with it: a secret on the command line is no secret.
    #[arg(long)]
    api_keys: Option<PathBuf>,
    /// PBKDF2 rounds that the server is configured to, to tell what deriving keys takes of an account's CPU.
    #[arg(long, default_value_t = 10_000)]
    iterations: u32,
    /// Prefix of the names of accounts that are created; the time follows, so that each run creates others.
    #[arg(long, default_value = "made")]
    created: String,
}

impl Common {
    /// The plan and the course of a scenario in acts.
    fn staged(&self, name: &str, stage: Stage, group: u32) -> Result<(Plan, Course), String> {
        if self.no_presence {
            return Err("presence is part of this scenario: --no-presence cannot be".to_owned());
        }
        let plan = Plan { stage, ..self.plan(Scenario::Staged, group)? };
        if plan.accounts < plan.sessions {
            return Err("each session needs an account of its own here: --account-pool cannot be".to_owned());
        }
        let course = Course { levels: Vec::new(), ..self.course(name, &plan)? };
        Ok((plan, course))
    }
}

impl Common {
    /// `storm --return`.
    pub(super) fn run_return(&self) -> Result<bool, String> {
        let (plan, mut course) = self.staged("storm, return", Stage::back(), 2)?;
        course.settle = RETURN_SETTLE;
        self.conclude("storm, return", plan, &course, NO_RELAY)
    }
}

impl ResumeArgs {
    pub(super) fn run(self) -> Result<bool, String> {
        let secure = self.common.target.tls != TlsMode::None;
        if (self.inline || self.fast) && !secure {
            return Err(
                "SASL2 and its tokens are for streams under TLS alone: --inline and --fast need --tls".to_owned()
            );
        }
        let stage =
            Stage::resume(Returns { inline: self.inline, token: self.fast, tls: secure, contacts: !self.strangers });
        let (mut plan, course) = self.common.staged("resume", stage, self.contacts + 1)?;
        plan.bytes = self.bytes;
        self.common.conclude("resume", plan, &course, NO_RELAY)
    }
}

impl ContactsArgs {
    pub(super) fn run(mut self) -> Result<bool, String> {
        let group = 1 + self.contacts.unwrap_or(if self.memory || self.prepare { 20 } else { 100 });
        if self.memory {
            return self.measure_memory(group);
        }
        let stage = if self.prepare { Stage::prepare() } else { Stage::contacts() };
        self.common.sessions = self.common.sessions.max(group);
        let (mut plan, mut course) = self.common.staged("contacts", stage, group)?;
        if !self.prepare {
            self.pace.apply(&mut plan, &mut course)?;
        }
        plan.bytes = self.bytes;
        self.common.conclude("contacts", plan, &course, NO_RELAY)
    }

    fn measure_memory(mut self, group: u32) -> Result<bool, String> {
        let sessions = self.common.sessions.max(2 * group) / group * group;
        self.common.sessions = sessions.saturating_mul(2);
        let (plan, mut course) = self.common.staged("contacts", Stage::memory(sessions), group)?;
        let first = (sessions / 10).max(group) / group * group;
        course.levels = vec![first, sessions, sessions + first, 2 * sessions];
        course.settle = Duration::from_secs(2);
        self.common.conclude("contacts, memory", plan, &course, NO_RELAY)
    }
}

impl PubsubArgs {
    pub(super) fn run(mut self) -> Result<bool, String> {
        let group = 1 + self.subscribers;
        self.common.sessions = self.common.sessions.max(group);
        let named = self.service.unwrap_or_else(|| format!("pubsub.{}", self.common.target.domain));
        let stage = Stage::pubsub((!self.personal).then_some(named));
        let (mut plan, mut course) = self.common.staged("pubsub", stage, group)?;
        self.pace.apply(&mut plan, &mut course)?;
        plan.bytes = self.bytes;
        self.common.conclude("pubsub", plan, &course, NO_RELAY)
    }
}

impl DecisionsArgs {
    pub(super) fn run(self) -> Result<bool, String> {
        let service = self.service.unwrap_or_else(|| format!("things.{}", self.common.target.domain));
        let (mut plan, mut course) = self.common.staged("decisions", Stage::decisions(service, self.rules), 1)?;
        self.pace.apply(&mut plan, &mut course)?;
        self.common.conclude("decisions", plan, &course, NO_RELAY)
    }
}

impl SearchesArgs {
    pub(super) fn run(mut self) -> Result<bool, String> {
        let service = self.service.unwrap_or_else(|| format!("things.{}", self.common.target.domain));
        let rate = positive(self.search_rate, "--search-rate")?;
        let searches = Searches { service, things: self.things, searchers: self.searchers, rate };
        // Beside those that search, somebody has to write.
        self.common.sessions = self.common.sessions.max(2 * self.searchers + 2);
        let (mut plan, mut course) = self.common.staged("searches", Stage::searches(searches), 2)?;
        self.pace.apply(&mut plan, &mut course)?;
        plan.bytes = self.bytes;
        self.common.conclude("searches", plan, &course, NO_RELAY)
    }
}

impl AbuseArgs {
    pub(super) fn run(self) -> Result<bool, String> {
        let cases = if self.abuse.is_empty() { Abuse::value_variants() } else { self.abuse.as_slice() };
        let target = &self.common.target;
        let plain = self.crowd_server.clone().unwrap_or_else(|| target.server.clone());
        let arguments = |server: &str, tls: &str| {
            let mut arguments: Vec<String> = [
                ("--server", server),
                ("--domain", target.domain.as_str()),
                ("--tls", tls),
                ("--users", self.common.users.as_str()),
                ("--password", self.common.password.as_str()),
                ("--sessions", self.crowd.to_string().as_str()),
                ("--first", self.common.sessions.to_string().as_str()),
            ]
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value.to_owned()])
            .collect();
            if let Some(path) = &self.common.salted_cache {
                arguments.extend(["--salted-cache".to_owned(), path.display().to_string()]);
            }
            arguments
        };
        if cases.contains(&Abuse::Handshakes) && self.crowd_tls_server.is_none() {
            return Err("handshakes need --crowd-tls-server".to_owned());
        }
        let recruiting = Recruiting {
            arguments: arguments(&plain, "none"),
            tls_arguments: self.crowd_tls_server.as_deref().map_or(Vec::new(), |server| arguments(server, "direct")),
        };
        let (mut plan, mut course) = self.common.staged("abuse", Stage::abuse(cases, recruiting), 2)?;
        self.pace.apply(&mut plan, &mut course)?;
        plan.bytes = self.bytes;
        // What a crowd leaves behind has so long to end.
        course.settle = Duration::from_secs(1);
        self.common.conclude("abuse", plan, &course, NO_RELAY)
    }
}

impl RegisterArgs {
    pub(super) fn run(self) -> Result<bool, String> {
        let given: Vec<String> = self.api_key.into_iter().collect();
        let key = read_keys(&given, self.api_keys.as_deref())?.into_iter().next().ok_or("an --api-key is needed")?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(|error| error.to_string())?;
        let sign_up = SignUp { key, users: self.created, unix_seconds: now.as_secs(), iterations: self.iterations };
        let (mut plan, mut course) = self.common.staged("register", Stage::register(sign_up), 1)?;
        // A session has one form at a time.
        let pace = Pace { duration: self.duration, warmup: self.warmup, window: 1, rate: None };
        pace.apply(&mut plan, &mut course)?;
        self.common.conclude("register", plan, &course, NO_RELAY)
    }
}

impl OfflineArgs {
    pub(super) fn run(mut self) -> Result<bool, String> {
        let senders = self.common.sessions;
        let recipients = self.recipients.unwrap_or(senders);
        if !recipients.is_multiple_of(senders) {
            return Err(format!("--recipients must be a multiple of the {senders} senders"));
        }
        self.common.sessions = senders.saturating_add(recipients);
        let stage = Stage::offline(self.per_recipient);
        let (mut plan, mut course) = self.common.staged("offline", stage, 1 + recipients / senders)?;
        plan.rate = self.rate.map(|rate| positive(rate, "--rate")).transpose()?;
        (plan.window, plan.bytes) = (self.window, self.bytes);
        course.settle = OFFLINE_SETTLE;
        self.common.conclude("offline", plan, &course, NO_RELAY)
    }
}

/// Between two acts of a return: what is under way arrives, and of those who are back each has pinged.
const RETURN_SETTLE: Duration = Duration::from_secs(2);
/// What is left of an earlier run has so long to arrive.
const OFFLINE_SETTLE: Duration = Duration::from_millis(500);
