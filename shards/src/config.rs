//! Configuration: the TOML file as written ([`Config`]) and as checked ([`Settings`]).
//!
//! Only this module knows TOML. Every key has a default, an unknown one is refused with a suggestion, every range is checked
//! here once, so that nothing downstream validates again. `docs/plaza.toml` is the same defaults with an explanation of
//! each key, and a test says so.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use plaza_core::jid::Jid;
use plaza_core::stream::StreamConfig;
use plaza_registry::archive::ArchiveConfig;
use plaza_registry::provisioning::Limits as ProvisioningLimits;
use plaza_registry::registration::RegistrationConfig;
use plaza_registry::store::embedded::EmbeddedOptions;
use plaza_registry::things::{Limits as ThingsLimits, index};
use serde::{Deserialize, Serialize};

use crate::admission::{AdmissionLimits, NewcomerLimits};
use crate::memory::Watermarks;

mod admission;
mod archive;
mod checks;
mod error;
mod limits;
mod memory;
mod provisioning;
mod registration;
mod reload;
mod text;
mod things;

pub use admission::AdmissionTable;
pub use archive::{ArchiveTable, ModeName};
use checks::Checks;
use error::unknown_key;
pub use error::{ConfigError, Problem, keys};
pub use limits::{After, Before, Limits, LimitsConfig, ScanConfig};
pub use memory::MemoryTable;
pub use provisioning::ProvisioningTable;
pub use registration::RegistrationTable;
pub use reload::Reload;
use text::ByteSize;
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
    pub memory: MemoryTable,
    pub admission: AdmissionTable,
    pub archive: ArchiveTable,
    pub registration: RegistrationTable,
    pub things: ThingsTable,
    pub provisioning: ProvisioningTable,
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
    /// Bytes the process may use, and at how many what is given up.
    pub memory: Watermarks,
    /// What accounts may keep in archives.
    pub archive: ArchiveConfig,
    /// How many connections a source may open.
    pub admission: AdmissionLimits,
    /// How fast newcomers get on.
    pub newcomers: NewcomerLimits,
    /// Who may create accounts.
    pub registration: RegistrationConfig,
    /// Bounds of the Thing Registry.
    pub things: ThingsLimits,
    /// What bounds the work of searches.
    pub things_index: index::Limits,
    /// Bounds of decision support.
    pub provisioning: ProvisioningLimits,
    /// Longest TLS handshake; beyond it the connection is closed.
    pub handshake_timeout: Duration,
    /// Longest time to bind, from accept or the end of the TLS handshake; beyond it the stream ends with `connection-timeout`.
    pub negotiation_timeout: Duration,
    /// How long an answer is held back that refuses credentials, or a registration before login. Default 1 s: three guesses
    /// per connection in three seconds, and nobody who mistypes minds.
    pub refusal_delay: Duration,
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
            memory: MemoryTable::default(),
            archive: ArchiveTable::default(),
            admission: AdmissionTable::default(),
            registration: RegistrationTable::default(),
            things: ThingsTable::default(),
            provisioning: ProvisioningTable::default(),
            store: StoreConfig::default(),
            helpers: HelpersConfig::default(),
            metrics: MetricsConfig::default(),
            log: LogConfig::default(),
        }
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
            memory: checks.memory(&self.memory),
            archive: checks.archive(&self.archive, self.limits.unacknowledged_stanzas_max),
            admission: checks.admission(&self.admission),
            newcomers: checks.newcomers(&self.admission),
            registration: checks.registration(&self.registration, self.scram_iterations),
            things: checks.things(&self.things),
            things_index: checks.things_index(&self.things),
            provisioning: checks.provisioning(&self.provisioning),
            handshake_timeout: checks.seconds("limits.handshake_timeout", self.limits.handshake_timeout, 1..=600),
            negotiation_timeout: checks.seconds("limits.negotiation_timeout", self.limits.negotiation_timeout, 1..=600),
            refusal_delay: checks.millis("limits.refusal_delay", self.limits.refusal_delay, 0..=10_000),
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

#[cfg(test)]
mod tests;
