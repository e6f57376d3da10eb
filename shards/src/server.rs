//! The broker: its shards' threads, the mesh between them, and the handle by which the rest of the process holds them.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use plaza_core::jid::Jid;
use plaza_core::stream::{self, StreamConfig};
use plaza_registry::apikeys::{ApiKeys, Sealer};
use plaza_registry::archive::ArchiveConfig;
use plaza_registry::directory::CapsCache;
use plaza_registry::errands::ErrandConfig;
use plaza_registry::helpers::Helpers;
use plaza_registry::registration::Registrar;
use plaza_registry::resumables::{self, Resumable};
use plaza_registry::services::{self, Component, ComponentKind, ServiceConfig};
use plaza_registry::store::embedded::EmbeddedStore;
use plaza_registry::things;
use plaza_registry::wait::block_on;
use plaza_registry::{provisioning, pubsub};

use crate::admission::Sources;
use crate::cert::Tls;
use crate::config::{Settings, TlsMode};
use crate::control::watchdog::Watched;
use crate::driver::{
    Command, Driver, DriverLimits, DriverParts, ListenerPlan, NewLimits, Parcel, Quiet, SETTLE_GRACE, random,
};
use crate::home::Homes;
use crate::memory::{Level, Subsystem, part};
use crate::mesh::{Inbox, Mesh, ShardId};
use crate::metrics::ShardMetrics;
use crate::pulse::Pulse;
use crate::ring::RingOptions;
use crate::shard::{ManagedLimits, Shard, ShardConfig};
use crate::sockets::Sockets;
use crate::sys::EventFd;

/// Everything the shards need, validated.
#[derive(Debug)]
pub struct BrokerConfig {
    /// Domains, listeners, limits, times.
    pub settings: Arc<Settings>,
    /// Certificates; `None` if no listener speaks TLS.
    pub tls: Option<Arc<Tls>>,
    /// The store.
    pub store: EmbeddedStore,
    /// The helper pool.
    pub helpers: Helpers,
    /// The Thing Registry, shared with the commands.
    pub things: things::Config,
    /// Makes the imaginary keys of accounts that do not exist (RFC 5802 §5.1); the same over restarts.
    pub server_secret: [u8; 32],
}

/// Why the shards did not start, or ended; a text for the operator.
#[derive(Debug)]
pub struct StartError(pub String);

impl StartError {
    fn shard(id: ShardId, what: &str, error: impl std::fmt::Display) -> Self {
        Self(format!("shard {}: {what}: {error}", id.0))
    }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// How an account was changed from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountChange {
    /// It is new.
    Created,
    /// It may not log in any more.
    Disabled,
    /// It is gone.
    Removed,
    /// Its password is another.
    Password,
    /// It may log in again.
    Enabled,
    /// It may keep an archive, or has none any more.
    Archive,
    /// Its things are others'.
    Things,
    /// Something that is kept of it was removed.
    Facts,
}

type ShardThread = ExecutorJoinHandle<io::Result<()>>;

/// The running shards.
pub struct Broker {
    threads: Vec<ShardThread>,
    inboxes: Vec<Arc<Inbox<Command>>>,
    metrics: Vec<Arc<ShardMetrics>>,
    watched: Vec<Watched>,
    quiet: Vec<Arc<Quiet>>,
    sockets: Vec<Arc<TcpListener>>,
    kept: Kept,
}

/// What stays when limits change: what is shared, remembered or made at random.
struct Kept {
    archive: ArchiveConfig,
    caps: Arc<CapsCache>,
    managed_key: [u8; 32],
    id_prefix: String,
    pubsub: pubsub::Config,
    registration: Registrar,
    things: things::Config,
    provisioning: provisioning::Config,
}

impl Kept {
    /// What all shards have of these settings.
    fn limits(&self, settings: &Settings) -> NewLimits {
        let limits = &settings.limits;
        let shard = ShardConfig {
            domains: settings.domains.clone(),
            services: services_of(&settings.domains),
            outbox_bytes_max: limits.outbox_bytes_max,
            outbox_bytes_full: limits.outbox_bytes_max / 4,
            outbox_bytes_high: limits.outbox_bytes_max / 16,
            outbox_bytes_low: limits.outbox_bytes_max / 64,
            sessions_per_account_max: limits.sessions_per_account_max,
            directed_presence_max: 100,
            facts_bytes_max: usize::try_from(limits.facts_bytes_max).unwrap_or(usize::MAX),
            requests_max: limits.requests_max,
            strangers_per_minute_max: limits.strangers_per_minute_max,
            offline: limits.offline,
            caps: Arc::clone(&self.caps),
            managed: ManagedLimits {
                hibernated_bytes_max: settings.memory.hibernated_bytes_max(settings.shards),
                ..limits.managed
            },
            managed_key: self.managed_key,
            tokens: limits.tokens,
            archive: self.archive,
            proofs: self.provisioning.proofs().clone(),
            id_prefix: self.id_prefix.clone(),
        };
        let (mut pubsub, mut provisioning) = (self.pubsub.clone(), self.provisioning.clone());
        pubsub.limits = limits.pubsub;
        provisioning.limits = settings.provisioning;
        let services = Arc::new(ServiceConfig {
            name: "Plaza".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: env!("CARGO_PKG_REPOSITORY").to_owned(),
            domains: settings.domains.clone(),
            components: services_of(&settings.domains),
            roster_items_max: limits.roster_items_max,
            limits: limits.services,
            pubsub,
            archive: self.archive,
            registration: self.registration.clone(),
            things: self.things.clone(),
            provisioning,
        });
        let errands = ErrandConfig {
            roster_items_max: limits.roster_items_max,
            requests_max: limits.requests_max,
            offline: limits.offline,
            services: Arc::clone(&services),
        };
        let caps = services::caps(&services);
        let stream = |listener| StreamConfig { caps: Some(caps.clone()), ..settings.stream_config(listener) };
        NewLimits {
            shard: Arc::new(shard),
            errands: Arc::new(errands),
            services,
            streams: settings.listeners.iter().map(|listener| Arc::new(stream(listener))).collect(),
            driver: driver_limits(settings),
        }
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("shards", &self.threads.len()).finish_non_exhaustive()
    }
}

/// The services beside the server, at addresses below each domain.
pub(crate) fn services_of(domains: &[Jid]) -> Vec<Component> {
    let below = |label: &str, name: &str, kind| {
        let jids = domains.iter().filter_map(move |domain| Jid::parse(&format!("{label}.{domain}")).ok());
        let name = name.to_owned();
        jids.map(move |jid| Component { jid, name: name.clone(), kind }).collect::<Vec<_>>()
    };
    let mut services = below("pubsub", "Publish-subscribe", ComponentKind::Pubsub);
    services.extend(below("things", "Thing Registry", ComponentKind::Things));
    services
}

/// Batches in the queue of one ordered pair of shards.
const MESH_BATCHES: usize = 8;
/// Input of a connection that has not bound, beyond one element: what frames it, or comes behind it.
const UNAUTHENTICATED_SPARE: usize = 4 * 1024;
/// A shard accepts this many descriptors less than the process may have, for the store and the rest.
const SPARE_DESCRIPTORS: u32 = 64;

/// How often stopping shards are asked whether they have anything left to do.
const QUIET_INTERVAL: Duration = Duration::from_millis(5);

impl Broker {
    /// Starts the shards; returns when all of them listen.
    ///
    /// # Errors
    /// [`StartError`]; what was started is stopped again.
    pub fn start(config: BrokerConfig, handed: &mut Sockets) -> Result<Self, StartError> {
        let settings = &*config.settings;
        let shards = settings.shards.max(1);
        let mut key = [0; 16];
        getrandom::fill(&mut key).map_err(|error| StartError(format!("no randomness: {error}")))?;
        let homes = Homes::new(shards, u64::from_le_bytes(key.first_chunk().copied().unwrap_or_default()));
        let mut managed_key = [0; 32];
        getrandom::fill(&mut managed_key).map_err(|error| StartError(format!("no randomness: {error}")))?;
        let mut id_key = [0; 8];
        getrandom::fill(&mut id_key).map_err(|error| StartError(format!("no randomness: {error}")))?;
        let archive = ArchiveConfig { id_key: u64::from_le_bytes(id_key), ..settings.archive };
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| StartError(format!("no randomness: {error}")))?;
        // The same after a restart, since owners answer questions that were asked before.
        let secret = block_on(plaza_registry::broker::secret(&config.store, secret))
            .map_err(|error| StartError(format!("the server secret cannot be read: {error}")))?;
        let kept = Kept {
            archive,
            caps: Arc::new(CapsCache::new(CapsCache::ENTRIES_MAX)),
            managed_key,
            id_prefix: format!("{:016x}-", u64::from_le_bytes(key.last_chunk().copied().unwrap_or_default())),
            pubsub: pubsub::Config::new(settings.limits.pubsub, settings.domains.clone()),
            registration: Registrar::new(
                settings.registration,
                config.helpers.clone(),
                ApiKeys::new(Sealer::new(&config.server_secret)),
                random,
            ),
            things: config.things.clone(),
            provisioning: provisioning::Config::new(settings.provisioning, secret).with_helpers(config.helpers.clone()),
        };
        let NewLimits { shard: shard_config, services, errands, streams, driver } = kept.limits(settings);
        let mut sockets = vec![Vec::new(); usize::from(shards)];
        for listener in &settings.listeners {
            let given = handed
                .of_shards(listener.address, shards)
                .map_err(|error| StartError(format!("can't listen on {}: {error}", listener.address)))?;
            for (sockets, given) in sockets.iter_mut().zip(given) {
                sockets.push(given);
            }
        }
        let mut all: Vec<Arc<TcpListener>> = sockets.iter().flatten().flatten().cloned().collect();
        all.sort_unstable_by_key(|socket| socket.as_raw_fd());
        all.dedup_by_key(|socket| socket.as_raw_fd());
        // Before anybody can come back for them.
        let mut resumables = block_on(resumables::take(&config.store))
            .map_err(|error| StartError(format!("the sessions that wait to be resumed cannot be read: {error}")))?;
        let at_home = |session: &Resumable| homes.shard(homes.hash(session.jid.as_jid()));
        let listeners = plans(settings, config.tls.as_ref(), streams);
        let mesh: Arc<Mesh<Parcel>> = Mesh::new(shards, MESH_BATCHES);
        let (threads, inboxes, metrics, quiet) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut broker = Self { threads, inboxes, metrics, watched: Vec::new(), quiet, sockets: all, kept };
        let (report, reports) = mpsc::channel();
        let sources = Arc::new(Sources::new(settings.admission.clone(), crate::admission::PLACES));
        for (id, sockets) in (0..shards).map(ShardId).zip(sockets) {
            let event = Arc::new(EventFd::new().map_err(|error| StartError::shard(id, "eventfd", error))?);
            let ringer = Arc::clone(&event);
            let port = mesh.port(id, Box::new(move || ringer.signal()));
            let bell = Arc::clone(port.bell());
            let inbox = Arc::new(Inbox::new(Arc::clone(&bell)));
            let metrics = Arc::new(ShardMetrics::default());
            broker.inboxes.push(Arc::clone(&inbox));
            broker.metrics.push(Arc::clone(&metrics));
            let pulse = Arc::new(Pulse::default());
            broker.watched.push(Watched { pulse: Arc::clone(&pulse), bell: Arc::clone(&bell) });
            let quiet = Arc::new(Quiet::default());
            broker.quiet.push(Arc::clone(&quiet));
            let shard = (id, shards, homes.clone(), Arc::clone(&shard_config));
            let made = Made {
                port,
                inbox,
                bell,
                event,
                listeners: listeners.clone(),
                sockets,
                limits: driver,
                sources: Arc::clone(&sources),
                store: config.store.clone(),
                helpers: config.helpers.clone(),
                services: Arc::clone(&services),
                errands: Arc::clone(&errands),
                server_secret: config.server_secret,
                kept: resumables.extract_if(.., |session| at_home(session) == id).collect(),
                metrics,
                pulse,
                quiet,
            };
            let report = report.clone();
            let thread = LocalExecutorBuilder::new(placement(settings, id))
                .name(&format!("shard-{}", id.0))
                .io_memory(64 * 1024)
                .spawn(move || async move {
                    let (id, shards, homes, config) = shard;
                    let parts = made.into_parts(Shard::new(id, shards, homes, config), id, shards);
                    run(parts, id, &report)
                })
                .map_err(|error| StartError::shard(id, "its thread did not start", error))?;
            broker.threads.push(thread);
        }
        drop(report);
        for _ in 0..shards {
            match reports.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    broker.stop(Duration::ZERO);
                    return Err(error);
                }
                Err(_) => return Err(StartError("a shard ended before it listened".to_owned())),
            }
        }
        Ok(broker)
    }

    /// The shards' numbers, in order of shard.
    pub fn metrics(&self) -> &[Arc<ShardMetrics>] {
        &self.metrics
    }

    /// Where each shard is watched, in order of shard.
    pub(crate) fn watched(&self) -> &[Watched] {
        &self.watched
    }

    /// Tells an account's home that it was changed from outside; its sessions end if they may not go on (RFC 6120 §4.9.3).
    pub fn account_changed(&self, bare: &Jid, change: AccountChange) {
        let condition = match change {
            AccountChange::Disabled | AccountChange::Removed => Some(stream::Condition::NotAuthorized),
            AccountChange::Password => Some(stream::Condition::Reset),
            AccountChange::Created
            | AccountChange::Enabled
            | AccountChange::Archive
            | AccountChange::Things
            | AccountChange::Facts => None,
        };
        let command = match change {
            AccountChange::Things | AccountChange::Facts => Command::ThingsChanged(bare.clone()),
            AccountChange::Created
            | AccountChange::Enabled
            | AccountChange::Archive
            | AccountChange::Disabled
            | AccountChange::Removed
            | AccountChange::Password => Command::AccountChanged(bare.clone(), condition),
        };
        // Every shard is told; all but the home know nothing of the account.
        self.tell(&command);
    }

    /// Lets other limits hold on all shards: each gets what was made once for all of them, in one message. The settings
    /// differ in nothing else from those that the broker was started with.
    pub fn limit(&self, settings: &Settings) {
        self.tell(&Command::Limits(Arc::new(self.kept.limits(settings))));
    }

    /// Bytes that the shards say they hold.
    pub fn memory_bytes(&self) -> u64 {
        let shards = self.metrics.iter().map(|shard| shard.read());
        shards.map(|counters| crate::metrics::Counters::total(&counters.memory)).sum()
    }

    /// How near the broker is to its bound of memory. Of what waits to be resumed so many bytes are given up, on each shard
    /// as much of them as it holds of all.
    pub fn press(&self, level: Level, excess: u64) {
        let held = self.metrics.iter().map(|shard| shard.read().memory[Subsystem::Hibernated]);
        let held: Vec<u64> = held.collect();
        let all = held.iter().sum();
        for (inbox, own) in self.inboxes.iter().zip(held) {
            inbox.push(Command::Memory(level, part(excess, own, all)));
        }
    }

    /// Has the shards let go of memory that they have freed and do not use.
    pub fn give_back(&self) {
        self.tell(&Command::GiveBack);
    }

    fn tell(&self, command: &Command) {
        for inbox in &self.inboxes {
            inbox.push(command.clone());
        }
    }

    /// Begins to stop: no new connections, `system-shutdown` to every stream, at the latest an end after `deadline`.
    pub fn stop(&self, deadline: Duration) {
        self.tell(&Command::Stop(Instant::now() + deadline));
    }

    /// The sockets that clients connect to, open for as long as anybody has them.
    pub fn sockets(&self) -> &[Arc<TcpListener>] {
        &self.sockets
    }

    /// Waits until every shard has stopped. They end together, once none has anything left to do, or some time after the
    /// deadline that they were given, which is as far away.
    ///
    /// # Errors
    /// The first shard that did not end well.
    pub fn join(self, deadline: Duration) -> Result<(), StartError> {
        let end = Instant::now() + deadline + SETTLE_GRACE;
        while Instant::now() < end && !Quiet::all(&self.quiet) {
            std::thread::sleep(QUIET_INTERVAL);
        }
        self.tell(&Command::Finish);
        for (index, thread) in self.threads.into_iter().enumerate() {
            let id = ShardId(index as u16);
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(StartError::shard(id, "io_uring", error)),
                Err(error) => return Err(StartError::shard(id, "its thread", error)),
            }
        }
        Ok(())
    }
}

/// What a shard's thread gets, before its [`Shard`], which never leaves that thread.
struct Made {
    port: crate::mesh::Port<Parcel>,
    inbox: Arc<Inbox<Command>>,
    bell: Arc<crate::mesh::Bell>,
    event: Arc<EventFd>,
    listeners: Vec<ListenerPlan>,
    sockets: Vec<Vec<Arc<TcpListener>>>,
    limits: DriverLimits,
    sources: Arc<Sources>,
    store: EmbeddedStore,
    helpers: Helpers,
    services: Arc<ServiceConfig>,
    errands: Arc<ErrandConfig>,
    server_secret: [u8; 32],
    kept: Vec<Resumable>,
    metrics: Arc<ShardMetrics>,
    pulse: Arc<Pulse>,
    quiet: Arc<Quiet>,
}

impl Made {
    fn into_parts(self, shard: Shard, id: ShardId, shards: u16) -> DriverParts {
        let Self { port, inbox, bell, event, listeners, sockets, limits, sources, .. } = self;
        let Self { store, helpers, services, errands, server_secret, kept, metrics, pulse, quiet, .. } = self;
        DriverParts {
            shard,
            port,
            id,
            shards,
            inbox,
            bell,
            event,
            listeners,
            sockets,
            limits,
            sources,
            store,
            helpers,
            services,
            errands,
            server_secret,
            kept,
            metrics,
            pulse,
            quiet,
        }
    }
}

/// A shard's thread, from opening its ring to its end. The loop blocks in its own ring, since nothing of ours waits on
/// glommio's; a panic here would leave a broker with a dead shard, so it ends the process (style: errors).
fn run(parts: DriverParts, id: ShardId, report: &mpsc::Sender<Result<(), StartError>>) -> io::Result<()> {
    let mut driver = match Driver::new(parts) {
        Ok(driver) => driver,
        Err((what, error)) => {
            let _ = report.send(Err(StartError::shard(id, &what, error)));
            return Ok(());
        }
    };
    let _ = report.send(Ok(()));
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| driver.run())) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => crate::fatal(&format!("shard {}: its ring failed: {error}", id.0)),
        Err(_) => crate::fatal(&format!("shard {}: a bug ended it", id.0)),
    }
}

fn placement(settings: &Settings, id: ShardId) -> Placement {
    let chosen = settings.cpus.get(usize::from(id.0) % settings.cpus.len().max(1)).copied();
    match chosen {
        Some(cpu) => Placement::Fixed(cpu),
        None if usize::from(settings.shards) <= std::thread::available_parallelism().map_or(1, usize::from) => {
            Placement::Fixed(usize::from(id.0))
        }
        // More shards than CPUs (a table of descriptors each): the kernel spreads them.
        None => Placement::Unbound,
    }
}

fn driver_limits(settings: &Settings) -> DriverLimits {
    let slots =
        settings.limits.connections_per_shard_max.min(crate::sys::descriptors_max().saturating_sub(SPARE_DESCRIPTORS));
    DriverLimits {
        ring: RingOptions {
            slots,
            entries: 1024,
            recv_buffers: recv_buffers(settings.shards),
            recv_buffer_bytes: 4096,
        },
        unauthenticated_max: settings.limits.unauthenticated_per_shard_max,
        handshake_timeout: settings.handshake_timeout,
        negotiation_timeout: settings.negotiation_timeout,
        refusal_delay: settings.refusal_delay,
        stuck_timeout: settings.stuck_timeout,
        stanzas_per_turn_max: settings.limits.stanzas_per_turn_max,
        stop_sessions_per_second: settings.limits.stop_sessions_per_second,
        pace: settings.limits.pace,
        scan: settings.limits.after_auth,
        newcomers: settings.newcomers,
        unauthenticated_bytes_max: settings.limits.before_auth.stanza_bytes_max as usize + UNAUTHENTICATED_SPARE,
    }
}

/// Receive buffers of a shard: 4 MiB each up to eight shards, then less, so that many shards stay affordable.
fn recv_buffers(shards: u16) -> u16 {
    if shards <= 8 { 1024 } else { 256 }
}

fn plans(settings: &Settings, tls: Option<&Arc<Tls>>, streams: Vec<Arc<StreamConfig>>) -> Vec<ListenerPlan> {
    let plan = |(listener, stream): (&crate::config::Listener, Arc<StreamConfig>)| {
        let secured = listener.tls != TlsMode::None;
        ListenerPlan {
            address: listener.address,
            stream,
            tls: tls.filter(|_| secured).cloned(),
            direct: listener.tls == TlsMode::Direct,
        }
    };
    settings.listeners.iter().zip(streams).map(plan).collect()
}
