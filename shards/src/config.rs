//! Configuration: the TOML file as written ([`Config`]) and as checked ([`Settings`]).
//!
//! Only this file knows TOML. Every key has a default, an unknown one is refused with a suggestion, every range is checked
//! here once, so that nothing downstream validates again. `docs/plaza.toml` is the same defaults with an explanation of
//! each key, and a test says so.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use plaza_core::jid::Jid;
use plaza_core::limits::ScanLimits;
use plaza_core::stream::StreamConfig;
use plaza_registry::archive::ArchiveConfig;
use plaza_registry::offline::OfflineLimits;
use plaza_registry::pubsub;
use plaza_registry::registration::RegistrationConfig;
use plaza_registry::services::ServiceLimits;
use plaza_registry::store::embedded::EmbeddedOptions;
use plaza_registry::things::Limits as ThingsLimits;
use plaza_registry::tokens::TokenLimits;

use crate::shard::ManagedLimits;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

mod archive;
mod registration;
mod text;
mod things;

pub use archive::{ArchiveTable, ModeName};
pub use registration::RegistrationTable;
use text::{ByteSize, Span, nearest};
pub use things::ThingsTable;

/// Every setting and its default, explained: what `plaza config defaults` prints.
pub const SAMPLE: &str = include_str!("../../docs/plaza.toml");

/// The configuration file. The keys are explained in [`SAMPLE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "each key is explained in docs/plaza.toml, its checked form in Settings")]
pub struct Config {
    pub domains: Vec<String>,
    pub data: PathBuf,
    pub shards: u16,
    pub cpus: Vec<usize>,
    pub scram_iterations: u32,
    pub legacy_session: bool,
    pub listeners: Vec<ListenerConfig>,
    pub tls: TlsFiles,
    pub limits: LimitsConfig,
    pub archive: ArchiveTable,
    pub registration: RegistrationTable,
    pub things: ThingsTable,
    pub store: StoreConfig,
    pub helpers: HelpersConfig,
    pub metrics: MetricsConfig,
    pub log: LogConfig,
}

/// `[[listeners]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct ListenerConfig {
    pub address: SocketAddr,
    #[serde(default)]
    pub kind: ListenerKind,
    #[serde(default)]
    pub tls: TlsMode,
    #[serde(default)]
    pub plain: bool,
}

/// `[tls]`. An empty path is none: Plaza's own self-signed certificate, no client certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub client_ca: PathBuf,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct LimitsConfig {
    pub connections_per_shard_max: u32,
    pub unauthenticated_per_shard_max: u32,
    pub sessions_per_account_max: u16,
    pub outbox_bytes_max: ByteSize,
    pub roster_items_max: u32,
    pub requests_max: u32,
    pub offline_messages_max: u32,
    pub offline_bytes_max: ByteSize,
    pub offline_age_max: Span,
    pub token_clients_max: u16,
    pub token_life: Span,
    pub token_renewal: Span,
    pub facts_bytes_max: ByteSize,
    pub unacknowledged_stanzas_max: u32,
    pub unacknowledged_bytes_max: ByteSize,
    pub resume_max: Span,
    pub hibernated_per_account_max: u16,
    pub private_entries_max: u32,
    pub private_entry_bytes_max: ByteSize,
    pub vcard_bytes_max: ByteSize,
    pub blocklist_items_max: u32,
    pub blocklist_bytes_max: ByteSize,
    pub pubsub_nodes_max: u32,
    pub pubsub_items_max: u32,
    pub pubsub_payload_bytes_max: ByteSize,
    pub pubsub_subscribers_max: u32,
    pub pubsub_pending_max: u32,
    pub pubsub_subscriptions_max: u32,
    pub pubsub_affiliations_max: u32,
    pub pubsub_page_max: u32,
    pub sasl_attempts_max: u8,
    pub stanzas_per_turn_max: u16,
    pub handshake_timeout: Span,
    pub negotiation_timeout: Span,
    pub stuck_timeout: Span,
    pub stop_deadline: Span,
    pub idle: Span,
    pub before_auth: ScanConfig<Before>,
    pub after_auth: ScanConfig<After>,
}

/// `[limits.before_auth]` and `[limits.after_auth]`, which differ in their defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, bound(serialize = "", deserialize = "ScanConfig<P>: Default"))]
#[expect(missing_docs, reason = "see Config")]
pub struct ScanConfig<P> {
    pub stanza_bytes_max: ByteSize,
    pub elements_max: u16,
    pub depth_max: u16,
    pub attributes_max: u16,
    pub attribute_bytes_max: ByteSize,
    pub name_bytes_max: u16,
    pub namespaces_max: u16,
    #[serde(skip)]
    phase: std::marker::PhantomData<P>,
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct StoreConfig {
    pub readers: usize,
    pub in_flight_max: usize,
    pub cache_bytes: ByteSize,
}

/// `[helpers]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct HelpersConfig {
    pub threads: usize,
    pub queue_max: usize,
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct MetricsConfig {
    pub address: String,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct LogConfig {
    pub level: String,
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people: time, level, spans, text; coloured on a terminal.
    #[default]
    Text,
    /// For machines: one JSON object per line.
    Json,
}

/// What TLS a listener speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// None: tests and benches, on loopback only.
    None,
    /// The client upgrades with STARTTLS and must do so before it logs in (RFC 6120 §5).
    #[default]
    StartTls,
    /// TLS from the first byte (XEP-0368).
    Direct,
}

/// Who connects to a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerKind {
    /// Clients: things, their owners and services (`jabber:client`).
    #[default]
    C2s,
}

/// A listener, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens. `[::]` takes IPv4 as well.
    pub address: SocketAddr,
    /// Who connects.
    pub kind: ListenerKind,
    /// What TLS it speaks.
    pub tls: TlsMode,
    /// Whether SASL PLAIN is offered: under TLS, or in the clear if `tls` is [`TlsMode::None`].
    pub plain: bool,
}

/// Bounds on what peers may make a shard hold or do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections per shard, negotiating or bound: the size of its table of direct descriptors. Default 16 384. At the
    /// bound the shard stops accepting until one ends.
    pub connections_per_shard_max: u32,
    /// Connections per shard that have not logged in. Default 1 024. At the bound newcomers are closed at once.
    pub unauthenticated_per_shard_max: u32,
    /// Sessions per account. Default 20. Beyond it bind is answered with `resource-constraint`.
    pub sessions_per_account_max: u16,
    /// Bytes waiting to be written to one session. Default 1 048 576. Senders wait from a sixteenth on; from a quarter on only
    /// what was under way then is taken, and the rest answered with `resource-constraint` or counted.
    pub outbox_bytes_max: u32,
    /// Contacts in one roster. Default 2 000. Beyond it a roster set is answered with `resource-constraint`.
    pub roster_items_max: u32,
    /// SASL attempts per stream, 2 to 5 (RFC 6120 §6.4.5). Default 3. One more ends the stream with
    /// `policy-violation`.
    pub sasl_attempts_max: u8,
    /// Subscription requests one account has not answered. Default 100. Beyond it who asks is told `resource-constraint`.
    pub requests_max: u32,
    /// What is kept for who is away: at most 100 messages of 512 KiB together, for 30 days. Beyond it their sender is told
    /// `service-unavailable`.
    pub offline: OfflineLimits,
    /// Tokens for the next login: at most 20 clients of an account, for 21 days, renewed after one. One client more, and the
    /// one that used its own least lately needs its password again. A life of nothing offers none.
    pub tokens: TokenLimits,
    /// Facts kept in memory per shard of accounts that nobody uses, in bytes. Default 64 MiB. Beyond it those least recently
    /// used are forgotten, and loaded again when they are needed.
    pub facts_bytes_max: u64,
    /// Stream management (XEP-0198): at most 500 stanzas of 512 KiB that the client has not acknowledged, then the stream ends
    /// with `resource-constraint`; sessions that were cut off can be resumed for 10 minutes, at most 4 of an account.
    pub managed: ManagedLimits,
    /// Publish-subscribe (XEP-0060): what nodes, items, subscribers and answers may amount to. At each bound the error that
    /// the XEP has for it.
    pub pubsub: pubsub::Limits,
    /// Bounds of what else an account keeps.
    pub services: ServiceLimits,
    /// Stanzas taken from one session per turn, so that it can't starve its neighbours. Default 64. The rest waits for the
    /// next turn.
    pub stanzas_per_turn_max: u16,
    /// Before authentication; beyond any of them the stream ends with `policy-violation`.
    pub before_auth: ScanLimits,
    /// After authentication; beyond any of them the stream ends with `policy-violation`.
    pub after_auth: ScanLimits,
}

/// The configuration, checked and complete.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Domains whose accounts live here; the first is the default. Never empty.
    pub domains: Vec<Jid>,
    /// Directory of the store, the certificate and the control socket.
    pub data: PathBuf,
    /// Number of shards, at least 1.
    pub shards: u16,
    /// CPUs the shards are pinned to, one each; empty: those the process may use, in order.
    pub cpus: Vec<usize>,
    /// PBKDF2 rounds of new passwords.
    pub scram_iterations: u32,
    /// Whether to offer the legacy `<session/>` feature.
    pub legacy_session: bool,
    /// Where to listen. Never empty.
    pub listeners: Vec<Listener>,
    /// Operator's certificate files; `None` is Plaza's own self-signed certificate.
    pub certificate: Option<CertificateFiles>,
    /// Certification authorities of client certificates (SASL EXTERNAL), PEM.
    pub client_ca: Option<PathBuf>,
    /// Bounds.
    pub limits: Limits,
    /// What accounts may keep in archives.
    pub archive: ArchiveConfig,
    /// Who may create accounts.
    pub registration: RegistrationConfig,
    /// Bounds of the Thing Registry.
    pub things: ThingsLimits,
    /// Longest TLS handshake; beyond it the connection is closed.
    pub handshake_timeout: Duration,
    /// Longest time to bind, from accept or the end of the TLS handshake; beyond it the stream ends with `connection-timeout`.
    pub negotiation_timeout: Duration,
    /// Longest time an element of a session may be incomplete, or a write to it make no progress. Default 30 s. Beyond it the
    /// stream ends with `connection-timeout`, or the connection is closed. As long may others wait for a client to acknowledge.
    pub stuck_timeout: Duration,
    /// Longest time from the signal to stop to the end of the process.
    pub stop_deadline: Duration,
    /// Idle seconds advertised (XEP-0478); 0 leaves them out.
    pub idle_seconds: u32,
    /// Sizes of the store.
    pub store: EmbeddedOptions,
    /// Helper threads.
    pub helper_threads: usize,
    /// Jobs waiting for a helper before `temporary-auth-failure`.
    pub helper_queue_max: usize,
    /// Where metrics are served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Log filter: a level, or directives as `tracing` writes them.
    pub log_level: String,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// PEM files of a certificate chain and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key: PKCS #8, PKCS #1 or SEC1.
    pub key: PathBuf,
}

/// Why a configuration can't be used.
#[derive(Debug)]
pub enum ConfigError {
    /// The file can't be read.
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is not TOML, or a value has the wrong type. The text names line and column.
    Syntax(String),
    /// There is no such key.
    UnknownKey {
        /// As written.
        key: String,
        /// Line in the file, from 1.
        line: usize,
        /// What may have been meant.
        suggestion: Option<String>,
    },
    /// Values out of range or at odds with each other.
    Invalid(Vec<Problem>),
}

/// One value that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which key, with dots.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What it should be.
    pub expected: String,
}

impl Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { file, error } => write!(out, "{}: {error}", file.display()),
            Self::Syntax(text) => out.write_str(text.trim_end()),
            Self::UnknownKey { key, line, suggestion: Some(suggestion) } => {
                write!(out, "line {line}: no such key `{key}`; did you mean `{suggestion}`?")
            }
            Self::UnknownKey { key, line, suggestion: None } => {
                write!(out, "line {line}: no such key `{key}`; `plaza config defaults` lists all keys")
            }
            Self::Invalid(problems) => {
                let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
                out.write_str(&lines.join("\n"))
            }
        }
    }
}

impl Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} = {}: must be {}", self.key, self.value, self.expected)
    }
}

impl std::error::Error for ConfigError {}

/// Before authentication; picks the defaults of [`ScanConfig`].
#[derive(Debug, Clone, PartialEq)]
pub struct Before;
/// After authentication; picks the defaults of [`ScanConfig`].
#[derive(Debug, Clone, PartialEq)]
pub struct After;

impl Default for Config {
    fn default() -> Self {
        let listener = |address: &str, tls| ListenerConfig {
            address: address.parse().expect("a literal address"),
            kind: ListenerKind::C2s,
            tls,
            plain: false,
        };
        Self {
            domains: vec!["localhost".into()],
            data: "./plaza-data".into(),
            shards: 0,
            cpus: Vec::new(),
            scram_iterations: 10_000,
            legacy_session: true,
            listeners: vec![listener("[::]:5222", TlsMode::StartTls), listener("[::]:5223", TlsMode::Direct)],
            tls: TlsFiles::default(),
            limits: LimitsConfig::default(),
            archive: ArchiveTable::default(),
            registration: RegistrationTable::default(),
            things: ThingsTable::default(),
            store: StoreConfig::default(),
            helpers: HelpersConfig::default(),
            metrics: MetricsConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_per_shard_max: 16_384,
            unauthenticated_per_shard_max: 1_024,
            sessions_per_account_max: 20,
            outbox_bytes_max: ByteSize(1024 * 1024),
            roster_items_max: 2_000,
            requests_max: 100,
            offline_messages_max: 100,
            offline_bytes_max: ByteSize(512 * 1024),
            offline_age_max: Span::seconds(30 * 24 * 3600),
            token_clients_max: 20,
            token_life: Span::seconds(21 * 24 * 3600),
            token_renewal: Span::seconds(24 * 3600),
            facts_bytes_max: ByteSize(64 << 20),
            unacknowledged_stanzas_max: 500,
            unacknowledged_bytes_max: ByteSize(512 * 1024),
            resume_max: Span::seconds(600),
            hibernated_per_account_max: 4,
            private_entries_max: ServiceLimits::DEFAULT.private_entries_max,
            private_entry_bytes_max: ByteSize(ServiceLimits::DEFAULT.private_entry_bytes_max.into()),
            vcard_bytes_max: ByteSize(ServiceLimits::DEFAULT.vcard_bytes_max.into()),
            blocklist_items_max: ServiceLimits::DEFAULT.blocklist_items_max,
            blocklist_bytes_max: ByteSize(ServiceLimits::DEFAULT.blocklist_bytes_max.into()),
            pubsub_nodes_max: pubsub::Limits::DEFAULT.nodes_max,
            pubsub_items_max: pubsub::Limits::DEFAULT.items_max,
            pubsub_payload_bytes_max: ByteSize(pubsub::Limits::DEFAULT.payload_bytes_max.into()),
            pubsub_subscribers_max: pubsub::Limits::DEFAULT.subscribers_max,
            pubsub_pending_max: pubsub::Limits::DEFAULT.pending_max,
            pubsub_subscriptions_max: pubsub::Limits::DEFAULT.subscriptions_max,
            pubsub_affiliations_max: pubsub::Limits::DEFAULT.affiliations_max,
            pubsub_page_max: pubsub::Limits::DEFAULT.page_max,
            sasl_attempts_max: 3,
            stanzas_per_turn_max: 64,
            handshake_timeout: Span::seconds(15),
            negotiation_timeout: Span::seconds(30),
            stuck_timeout: Span::seconds(30),
            stop_deadline: Span::seconds(10),
            idle: Span::seconds(0),
            before_auth: ScanConfig::default(),
            after_auth: ScanConfig::default(),
        }
    }
}

impl<P> ScanConfig<P> {
    fn of(limits: ScanLimits) -> Self {
        Self {
            stanza_bytes_max: ByteSize(limits.stanza_bytes_max.into()),
            elements_max: limits.elements_max,
            depth_max: limits.depth_max,
            attributes_max: limits.attributes_max,
            attribute_bytes_max: ByteSize(limits.attribute_bytes_max.into()),
            name_bytes_max: limits.name_bytes_max,
            namespaces_max: limits.namespaces_max,
            phase: std::marker::PhantomData,
        }
    }
}

impl Default for ScanConfig<Before> {
    fn default() -> Self {
        Self::of(ScanLimits::BEFORE_AUTH)
    }
}

impl Default for ScanConfig<After> {
    fn default() -> Self {
        Self::of(ScanLimits::AFTER_AUTH)
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { readers: 2, in_flight_max: 2_048, cache_bytes: ByteSize(64 << 20) }
    }
}

impl Default for HelpersConfig {
    fn default() -> Self {
        Self { threads: 0, queue_max: 1_000 }
    }
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { address: "127.0.0.1:9464".into() }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

impl FromStr for Config {
    type Err = ConfigError;

    fn from_str(toml: &str) -> Result<Self, ConfigError> {
        toml::from_str(toml)
            .map_err(|error| unknown_key(toml, &error).unwrap_or(ConfigError::Syntax(error.to_string())))
    }
}

impl Config {
    /// Reads a file, or takes the defaults if there is none.
    ///
    /// # Errors
    /// [`ConfigError::Read`], [`ConfigError::Syntax`] or [`ConfigError::UnknownKey`].
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(file) = file else { return Ok(Self::default()) };
        fs::read_to_string(file).map_err(|error| ConfigError::Read { file: file.into(), error })?.parse()
    }

    /// Listeners and metrics on loopback, whatever the file says: what `--dev` asks for.
    pub fn on_loopback(mut self) -> Self {
        for listener in &mut self.listeners {
            listener.address.set_ip([127, 0, 0, 1].into());
        }
        let mut seen = BTreeSet::new();
        self.listeners.retain(|listener| seen.insert(listener.address));
        if let Ok(mut address) = self.metrics.address.parse::<SocketAddr>() {
            address.set_ip([127, 0, 0, 1].into());
            self.metrics.address = address.to_string();
        }
        self
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with all that is wrong.
    pub fn check(&self) -> Result<Settings, ConfigError> {
        let mut checks = Checks::default();
        let cpus = checks.cpus(self);
        let settings = Settings {
            domains: checks.domains(&self.domains),
            data: self.data.clone(),
            shards: match checks.within("shards", self.shards, 0..=SHARDS_MAX) {
                0 if !cpus.is_empty() => u16::try_from(cpus.len()).unwrap_or(SHARDS_MAX),
                0 => u16::try_from(cpus_available()).unwrap_or(SHARDS_MAX).min(SHARDS_MAX),
                shards => shards,
            },
            cpus,
            // RFC 5802 §5.1: at least 4 096.
            scram_iterations: checks.within("scram_iterations", self.scram_iterations, 4_096..=1_000_000),
            legacy_session: self.legacy_session,
            listeners: checks.listeners(&self.listeners),
            certificate: checks.certificate(&self.tls),
            client_ca: path(&self.tls.client_ca),
            limits: checks.limits(&self.limits),
            archive: checks.archive(&self.archive, self.limits.unacknowledged_stanzas_max),
            registration: checks.registration(&self.registration, self.scram_iterations),
            things: checks.things(&self.things),
            handshake_timeout: checks.seconds("limits.handshake_timeout", self.limits.handshake_timeout, 1..=600),
            negotiation_timeout: checks.seconds("limits.negotiation_timeout", self.limits.negotiation_timeout, 1..=600),
            stuck_timeout: checks.seconds("limits.stuck_timeout", self.limits.stuck_timeout, 1..=600),
            stop_deadline: checks.seconds("limits.stop_deadline", self.limits.stop_deadline, 0..=600),
            idle_seconds: checks
                .seconds("limits.idle", self.limits.idle, 0..=604_800)
                .as_secs()
                .try_into()
                .unwrap_or(u32::MAX),
            store: EmbeddedOptions {
                readers: checks.within("store.readers", self.store.readers, 1..=64),
                in_flight_max: checks.within("store.in_flight_max", self.store.in_flight_max, 1..=4_096),
                cache_bytes: checks.bytes("store.cache_bytes", self.store.cache_bytes, 1 << 20..=1 << 40),
            },
            helper_threads: match checks.within("helpers.threads", self.helpers.threads, 0..=64) {
                0 => cpus_available().div_ceil(8),
                threads => threads,
            },
            helper_queue_max: checks.within("helpers.queue_max", self.helpers.queue_max, 1..=100_000),
            metrics: checks.metrics(&self.metrics.address),
            log_level: checks.log_level(&self.log.level),
            log_format: self.log.format,
        };
        if settings.negotiation_timeout < settings.handshake_timeout {
            checks.refuse(
                "limits.negotiation_timeout",
                self.limits.negotiation_timeout,
                "no less than limits.handshake_timeout",
            );
        }
        if settings.limits.outbox_bytes_max < settings.limits.after_auth.stanza_bytes_max {
            checks.refuse(
                "limits.outbox_bytes_max",
                self.limits.outbox_bytes_max,
                "no less than limits.after_auth.stanza_bytes_max",
            );
        }
        if checks.problems.is_empty() { Ok(settings) } else { Err(ConfigError::Invalid(checks.problems)) }
    }
}

impl Settings {
    /// What a stream on this listener offers and demands, but for the server's capabilities, which its services know.
    pub fn stream_config(&self, listener: &Listener) -> StreamConfig {
        let in_the_clear = listener.tls == TlsMode::None;
        StreamConfig {
            domains: self.domains.clone(),
            starttls: listener.tls == TlsMode::StartTls,
            tls_required: !in_the_clear,
            plain: listener.plain,
            plain_without_tls: in_the_clear && listener.plain,
            legacy_session: self.legacy_session,
            offers_sm: true,
            offers_carbons: true,
            offers_csi: true,
            offers_fast: self.limits.tokens.life_seconds > 0,
            offers_registration: self.registration.enabled,
            unsigned_registration: self.registration.unsigned,
            sasl_attempts_max: self.limits.sasl_attempts_max,
            scram_iterations: self.scram_iterations,
            before_auth: self.limits.before_auth,
            after_auth: self.limits.after_auth,
            idle_seconds: self.idle_seconds,
            caps: None,
        }
    }

    /// What the preflight shall look for.
    pub fn needs(&self) -> plaza_tuning::Needs {
        plaza_tuning::Needs {
            shards: self.shards,
            cpus: self.cpus.clone(),
            descriptors_per_shard: self.limits.connections_per_shard_max,
        }
    }
}

/// Most shards: the mesh has a queue per ordered pair.
const SHARDS_MAX: u16 = 256;

fn cpus_available() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn path(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

/// Collects what is wrong, so that the operator sees all of it at once.
#[derive(Default)]
struct Checks {
    problems: Vec<Problem>,
}

impl Checks {
    fn refuse(&mut self, key: &str, value: impl Display, expected: impl Display) {
        self.problems.push(Problem { key: key.into(), value: value.to_string(), expected: expected.to_string() });
    }

    fn within<T: PartialOrd + Display + Copy>(&mut self, key: &str, value: T, range: RangeInclusive<T>) -> T {
        if !range.contains(&value) {
            self.refuse(key, value, format_args!("between {} and {}", range.start(), range.end()));
        }
        value
    }

    fn bytes(&mut self, key: &str, value: ByteSize, range: RangeInclusive<u64>) -> u64 {
        if !range.contains(&value.0) {
            let (least, most) = (ByteSize(*range.start()), ByteSize(*range.end()));
            self.refuse(key, value, format_args!("between {least} and {most}"));
        }
        value.0
    }

    /// Like [`Self::bytes`], for a range that fits `u32`.
    fn bytes_u32(&mut self, key: &str, value: ByteSize, range: RangeInclusive<u32>) -> u32 {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        u32::try_from(self.bytes(key, value, range)).unwrap_or(u32::MAX)
    }

    fn seconds(&mut self, key: &str, value: Span, range: RangeInclusive<u64>) -> Duration {
        if !(Duration::from_secs(*range.start())..=Duration::from_secs(*range.end())).contains(&value.0) {
            let (least, most) = (Span::seconds(*range.start()), Span::seconds(*range.end()));
            self.refuse(key, value, format_args!("between {least} and {most}"));
        }
        value.0
    }

    fn domains(&mut self, domains: &[String]) -> Vec<Jid> {
        if domains.is_empty() {
            self.refuse("domains", "[]", "at least one domain");
        }
        let mut checked: Vec<Jid> = Vec::new();
        for domain in domains {
            match Jid::parse(domain) {
                Ok(jid) if checked.contains(&jid) => self.refuse("domains", domain, "named once"),
                Ok(jid) if jid.as_jid().domain() == jid.as_str() => checked.push(jid),
                Ok(_) | Err(_) => self.refuse("domains", domain, "a domain name such as `things.example`"),
            }
        }
        checked
    }

    fn cpus(&mut self, config: &Config) -> Vec<usize> {
        let distinct: BTreeSet<usize> = config.cpus.iter().copied().collect();
        if distinct.len() != config.cpus.len() {
            self.refuse("cpus", format_args!("{:?}", config.cpus), "CPUs named once each");
        } else if !config.cpus.is_empty() && usize::from(config.shards) > config.cpus.len() {
            self.refuse("cpus", format_args!("{:?}", config.cpus), "a CPU for every shard");
        }
        config.cpus.clone()
    }

    fn listeners(&mut self, listeners: &[ListenerConfig]) -> Vec<Listener> {
        if listeners.is_empty() {
            self.refuse("listeners", "[]", "at least one listener");
        }
        let mut seen = BTreeSet::new();
        for listener in listeners {
            if !seen.insert(listener.address) {
                self.refuse("listeners.address", listener.address, "used once");
            }
            if listener.tls == TlsMode::None && !listener.address.ip().is_loopback() {
                self.refuse("listeners.address", listener.address, "a loopback address, since `tls` is \"none\"");
            }
        }
        let checked = |listener: &ListenerConfig| Listener {
            address: listener.address,
            kind: listener.kind,
            tls: listener.tls,
            plain: listener.plain,
        };
        listeners.iter().map(checked).collect()
    }

    fn certificate(&mut self, files: &TlsFiles) -> Option<CertificateFiles> {
        match (path(&files.certificate), path(&files.key)) {
            (Some(certificate), Some(key)) => Some(CertificateFiles { certificate, key }),
            (None, None) => None,
            (Some(certificate), None) => {
                self.refuse("tls.certificate", certificate.display(), "accompanied by `tls.key`");
                None
            }
            (None, Some(key)) => {
                self.refuse("tls.key", key.display(), "accompanied by `tls.certificate`");
                None
            }
        }
    }

    fn limits(&mut self, limits: &LimitsConfig) -> Limits {
        Limits {
            connections_per_shard_max: self.within(
                "limits.connections_per_shard_max",
                limits.connections_per_shard_max,
                16..=1_048_576,
            ),
            unauthenticated_per_shard_max: self.within(
                "limits.unauthenticated_per_shard_max",
                limits.unauthenticated_per_shard_max,
                1..=1_048_576,
            ),
            sessions_per_account_max: self.within(
                "limits.sessions_per_account_max",
                limits.sessions_per_account_max,
                1..=1_000,
            ),
            outbox_bytes_max: self.bytes_u32("limits.outbox_bytes_max", limits.outbox_bytes_max, 16 << 10..=1 << 30),
            roster_items_max: self.within("limits.roster_items_max", limits.roster_items_max, 1..=100_000),
            requests_max: self.within("limits.requests_max", limits.requests_max, 1..=100_000),
            offline: OfflineLimits {
                messages_max: self.within("limits.offline_messages_max", limits.offline_messages_max, 0..=1_000_000),
                bytes_max: self.bytes("limits.offline_bytes_max", limits.offline_bytes_max, 0..=1 << 30),
                age_millis_max: u64::try_from(
                    self.seconds("limits.offline_age_max", limits.offline_age_max, 60..=31_536_000).as_millis(),
                )
                .unwrap_or(u64::MAX),
            },
            tokens: TokenLimits {
                clients_max: self.within("limits.token_clients_max", limits.token_clients_max, 1..=1_000),
                life_seconds: self.seconds("limits.token_life", limits.token_life, 0..=31_536_000).as_secs(),
                renew_seconds: self.seconds("limits.token_renewal", limits.token_renewal, 0..=31_536_000).as_secs(),
            },
            facts_bytes_max: self.bytes("limits.facts_bytes_max", limits.facts_bytes_max, 0..=1 << 40),
            managed: ManagedLimits {
                stanzas_max: self.within(
                    "limits.unacknowledged_stanzas_max",
                    limits.unacknowledged_stanzas_max,
                    10..=100_000,
                ),
                bytes_max: self.bytes_u32(
                    "limits.unacknowledged_bytes_max",
                    limits.unacknowledged_bytes_max,
                    16 << 10..=1 << 30,
                ),
                resume_seconds_max: self.seconds("limits.resume_max", limits.resume_max, 0..=86_400).as_secs() as u32,
                hibernated_max: self.within(
                    "limits.hibernated_per_account_max",
                    limits.hibernated_per_account_max,
                    0..=1_000,
                ),
            },
            pubsub: self.pubsub(limits),
            services: self.services(limits),
            sasl_attempts_max: self.within("limits.sasl_attempts_max", limits.sasl_attempts_max, 2..=5),
            stanzas_per_turn_max: self.within("limits.stanzas_per_turn_max", limits.stanzas_per_turn_max, 1..=10_000),
            before_auth: self.scan("limits.before_auth", &limits.before_auth, 2_048),
            // RFC 6120 §13.12: at least 10 000 bytes.
            after_auth: self.scan("limits.after_auth", &limits.after_auth, 10_000),
        }
    }

    fn services(&mut self, limits: &LimitsConfig) -> ServiceLimits {
        ServiceLimits {
            private_entries_max: self.within("limits.private_entries_max", limits.private_entries_max, 0..=10_000),
            private_entry_bytes_max: self.bytes_u32(
                "limits.private_entry_bytes_max",
                limits.private_entry_bytes_max,
                1 << 10..=16 << 20,
            ),
            vcard_bytes_max: self.bytes_u32("limits.vcard_bytes_max", limits.vcard_bytes_max, 1 << 10..=16 << 20),
            blocklist_items_max: self.within("limits.blocklist_items_max", limits.blocklist_items_max, 0..=100_000),
            blocklist_bytes_max: self.bytes_u32("limits.blocklist_bytes_max", limits.blocklist_bytes_max, 0..=16 << 20),
        }
    }

    fn pubsub(&mut self, limits: &LimitsConfig) -> pubsub::Limits {
        let page_max = self.within("limits.pubsub_page_max", limits.pubsub_page_max, 1..=1_000);
        pubsub::Limits {
            nodes_max: self.within("limits.pubsub_nodes_max", limits.pubsub_nodes_max, 1..=100_000),
            items_max: self.within("limits.pubsub_items_max", limits.pubsub_items_max, 1..=100_000),
            payload_bytes_max: self.bytes_u32(
                "limits.pubsub_payload_bytes_max",
                limits.pubsub_payload_bytes_max,
                1 << 10..=16 << 20,
            ),
            subscribers_max: self.within(
                "limits.pubsub_subscribers_max",
                limits.pubsub_subscribers_max,
                1..=10_000_000,
            ),
            pending_max: self.within("limits.pubsub_pending_max", limits.pubsub_pending_max, 1..=100_000),
            subscriptions_max: self.within(
                "limits.pubsub_subscriptions_max",
                limits.pubsub_subscriptions_max,
                1..=100_000,
            ),
            affiliations_max: self.within(
                "limits.pubsub_affiliations_max",
                limits.pubsub_affiliations_max,
                1..=100_000,
            ),
            page_max,
            list_max: page_max,
            ..pubsub::Limits::DEFAULT
        }
    }

    fn scan<P>(&mut self, table: &str, scan: &ScanConfig<P>, stanza_bytes_min: u32) -> ScanLimits {
        let key = |name: &str| format!("{table}.{name}");
        ScanLimits {
            stanza_bytes_max: self.bytes_u32(
                &key("stanza_bytes_max"),
                scan.stanza_bytes_max,
                stanza_bytes_min..=16 << 20,
            ),
            elements_max: self.within(&key("elements_max"), scan.elements_max, 8..=60_000),
            depth_max: self.within(&key("depth_max"), scan.depth_max, 4..=1_024),
            attributes_max: self.within(&key("attributes_max"), scan.attributes_max, 8..=1_024),
            attribute_bytes_max: self.bytes_u32(
                &key("attribute_bytes_max"),
                scan.attribute_bytes_max,
                // A full JID is 3 071 bytes, which escaping may lengthen.
                4_096..=16 << 20,
            ),
            name_bytes_max: self.within(&key("name_bytes_max"), scan.name_bytes_max, 32..=4_096),
            namespaces_max: self.within(&key("namespaces_max"), scan.namespaces_max, 4..=1_024),
        }
    }

    fn metrics(&mut self, address: &str) -> Option<SocketAddr> {
        if address == "none" {
            return None;
        }
        let parsed = address.parse().ok();
        if parsed.is_none() {
            self.refuse("metrics.address", address, "an address with its port such as `127.0.0.1:9464`, or `none`");
        }
        parsed
    }

    fn log_level(&mut self, level: &str) -> String {
        if let Err(error) = EnvFilter::builder().parse(level) {
            self.refuse("log.level", level, format_args!("error, warn, info, debug or trace, or filters ({error})"));
        }
        level.to_owned()
    }
}

/// Turns serde's "unknown field `x`, expected one of `a`, `b`" into the key, its line, and the key that was meant: one of
/// that table, or one that lives in another table.
fn unknown_key(toml: &str, error: &toml::de::Error) -> Option<ConfigError> {
    let mut quoted = error.message().strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let key = quoted.next()?.to_owned();
    let here: Vec<String> = quoted.map(str::to_owned).collect();
    let elsewhere = keys();
    let line = toml.get(..error.span()?.start)?.matches('\n').count() + 1;
    let suggestion = elsewhere
        .iter()
        .find(|path| path.rsplit('.').next() == Some(&key))
        .or_else(|| nearest(&key, &here))
        .or_else(|| nearest(&key, &elsewhere))
        .cloned();
    Some(ConfigError::UnknownKey { key, line, suggestion })
}

/// All keys of the file, with dots.
pub fn keys() -> Vec<String> {
    fn walk(prefix: &str, value: &toml::Value, keys: &mut Vec<String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    walk(&path, value, keys);
                }
            }
            toml::Value::Array(array) if array.first().is_some_and(toml::Value::is_table) => {
                walk(prefix, array.first().expect("just looked at"), keys);
            }
            toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_) => keys.push(prefix.to_owned()),
        }
    }
    let mut keys = Vec::new();
    if let Ok(defaults) = toml::Value::try_from(Config::default()) {
        walk("", &defaults, &mut keys);
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(toml: &str) -> String {
        let config: Config = toml.parse().expect(toml);
        config.check().expect_err(toml).to_string()
    }

    #[test]
    fn the_sample_equals_the_defaults_and_names_every_key() {
        assert_eq!(SAMPLE.parse::<Config>().unwrap(), Config::default());
        let sample: toml::Value = toml::from_str(SAMPLE).unwrap();
        for key in keys() {
            let found = key.split('.').try_fold(&sample, |value, part| {
                value.as_array().and_then(|array| array.first()).unwrap_or(value).get(part)
            });
            assert!(found.is_some(), "docs/plaza.toml lacks {key}");
        }
    }

    #[test]
    fn the_operations_manual_names_every_key() {
        let manual = include_str!("../../docs/operations.md");
        for key in keys() {
            assert!(manual.contains(&format!("`{key}`")), "docs/operations.md lacks `{key}`");
        }
    }

    #[test]
    fn the_defaults_are_valid_and_have_a_shard_per_cpu() {
        let settings = Config::default().check().unwrap();
        assert_eq!(usize::from(settings.shards), cpus_available());
        assert_eq!(settings.domains[0].as_str(), "localhost");
        assert_eq!(settings.limits.before_auth, ScanLimits::BEFORE_AUTH);
        assert_eq!(settings.limits.after_auth, ScanLimits::AFTER_AUTH);
        assert_eq!(settings.limits.outbox_bytes_max, 1_048_576);
        assert_eq!(settings.limits.pubsub, pubsub::Limits::DEFAULT);
        assert_eq!(settings.things, ThingsLimits::DEFAULT);
        assert_eq!(settings.limits.services, ServiceLimits::DEFAULT);
        assert!(settings.helper_threads >= 1);
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!("".parse::<Config>().unwrap(), Config::default());
        assert_eq!("[limits.after_auth]\n".parse::<Config>().unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_key_is_refused_with_a_suggestion() {
        let check = |toml: &str, expected: &str| {
            assert_eq!(toml.parse::<Config>().expect_err(toml).to_string(), expected);
        };
        check("domain = ['a.example']", "line 1: no such key `domain`; did you mean `domains`?");
        check(
            "\n\n[limits]\noutbox_byte_max = 1",
            "line 4: no such key `outbox_byte_max`; did you mean `outbox_bytes_max`?",
        );
        check(
            "outbox_bytes_max = 1",
            "line 1: no such key `outbox_bytes_max`; did you mean `limits.outbox_bytes_max`?",
        );
        check("[[listeners]]\naddress = '[::]:1'\ntsl = 'none'", "line 3: no such key `tsl`; did you mean `tls`?");
        check("[limits.before_auth]\ndepth = 1", "line 2: no such key `depth`; did you mean `depth_max`?");
        check("colour = 1", "line 1: no such key `colour`; `plaza config defaults` lists all keys");
    }

    #[test]
    fn a_wrong_type_is_refused_with_its_line() {
        let error = "shards = 'many'".parse::<Config>().expect_err("text for a number").to_string();
        assert!(error.contains("line 1"), "{error}");
        let error = "[limits]\noutbox_bytes_max = '1 parsec'".parse::<Config>().expect_err("no size").to_string();
        assert!(error.contains("line 2") && error.contains("256 KiB"), "{error}");
        let error = "[limits]\nstop_deadline = '1 parsec'".parse::<Config>().expect_err("no time").to_string();
        assert!(error.contains("15s"), "{error}");
    }

    #[test]
    fn every_range_is_checked_and_all_problems_are_told() {
        let all = problems(
            "shards = 300\nscram_iterations = 1\ndomains = []\nlisteners = []\n[limits]\nsasl_attempts_max = 9\n\
             pubsub_nodes_max = 0\npubsub_payload_bytes_max = '1 GiB'\n\
             [limits.after_auth]\nstanza_bytes_max = 9999\n[things]\npage_max = 0\npage_bytes_max = '1 GiB'\n[metrics]\naddress = 'x'\n[log]\nlevel = 'plaza=loud'",
        );
        for key in [
            "shards = 300: must be between 0 and 256",
            "scram_iterations = 1: must be between 4096 and 1000000",
            "domains = []",
            "listeners = []",
            "limits.sasl_attempts_max = 9: must be between 2 and 5",
            "limits.pubsub_nodes_max = 0: must be between 1 and 100000",
            "limits.pubsub_payload_bytes_max = 1 GiB: must be between 1 KiB and 16 MiB",
            "limits.after_auth.stanza_bytes_max = 9999: must be between 10000 and 16 MiB",
            "things.page_max = 0: must be between 1 and 1000",
            "things.page_bytes_max = 1 GiB: must be between 16 KiB and 1 MiB",
            "metrics.address = x",
            "log.level = plaza=loud",
        ] {
            assert!(all.contains(key), "{key} is not in\n{all}");
        }
    }

    #[test]
    fn values_at_odds_are_refused() {
        let check = |toml: &str, expected: &str| {
            let told = problems(toml);
            assert!(told.contains(expected), "{expected} is not in\n{told}");
        };
        check("[limits]\nnegotiation_timeout = '5s'", "no less than limits.handshake_timeout");
        check("[limits]\noutbox_bytes_max = '32 KiB'", "no less than limits.after_auth.stanza_bytes_max");
        check("[tls]\nkey = 'key.pem'", "accompanied by `tls.certificate`");
        check("shards = 3\ncpus = [0, 1]", "a CPU for every shard");
        check("cpus = [1, 1]", "named once each");
        check("domains = ['a.example', 'A.example']", "named once");
        check("domains = ['me@a.example']", "a domain name");
        check("[[listeners]]\naddress = '0.0.0.0:5222'\ntls = 'none'", "a loopback address");
        check("[[listeners]]\naddress = '[::]:1'\n[[listeners]]\naddress = '[::]:1'", "used once");
    }

    #[test]
    fn plaintext_is_for_loopback_and_plain_stays_off_unless_asked() {
        let config: Config = "[[listeners]]\naddress = '127.0.0.1:5222'\ntls = 'none'\nplain = true".parse().unwrap();
        let settings = config.check().unwrap();
        let stream = settings.stream_config(&settings.listeners[0]);
        assert!(stream.plain_without_tls && !stream.tls_required && !stream.starttls);
        let settings = Config::default().check().unwrap();
        let stream = settings.stream_config(&settings.listeners[0]);
        assert!(!stream.plain && !stream.plain_without_tls && stream.tls_required && stream.starttls);
    }

    #[test]
    fn dev_listens_on_loopback_only() {
        let settings = Config::default().on_loopback().check().unwrap();
        assert!(settings.listeners.iter().all(|listener| listener.address.ip().is_loopback()));
        assert_eq!(settings.listeners.iter().map(|listener| listener.address.port()).collect::<Vec<_>>(), [5222, 5223]);
        assert!(settings.metrics.unwrap().ip().is_loopback());
    }

    #[test]
    fn given_cpus_decide_the_number_of_shards() {
        let config: Config = "cpus = [0, 2, 4]".parse().unwrap();
        assert_eq!(config.check().unwrap().shards, 3);
    }
}
