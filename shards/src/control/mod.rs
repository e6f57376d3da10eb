//! The control thread: all of the broker that is not a shard.
//!
//! The process's main thread, running tokio on itself: it makes ready what the shards need, starts them, answers the
//! control socket and the metrics port, and waits for signals. It never touches a session; what it has to say to the
//! shards goes through [`Broker`].

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use plaza_registry::archive::{self, ArchiveConfig};
use plaza_registry::helpers::Helpers;
use plaza_registry::store::embedded::EmbeddedStore;
use plaza_registry::things::{Config as ThingsConfig, index};
use sd_notify::NotifyState;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tracing::{debug, info, warn};

use crate::cert::{Tls, TlsSnapshot};
use crate::cli::Failure;
use crate::config::{Settings, TlsMode};
use crate::driver;
use crate::metrics::ShardMetrics;
use crate::server::{AccountChange, Broker, BrokerConfig, StartError};
use crate::sockets::Sockets;

pub mod accounts;
pub mod apikeys;
pub mod backup;
pub mod command;
pub mod data;
mod http;
pub mod import;
mod memory;
mod reload;
pub mod socket;
pub mod subject;
pub mod things;
mod upgrade;
pub(crate) mod watchdog;

use accounts::{Accounts, Done};
use apikeys::Keys;
use backup::Backups;
use command::{Answer, Command, Refusal, Reply, Status};
use data::{DataDir, FirstStart};
pub use reload::Source;
use things::Things;
use upgrade::Program;
pub use upgrade::Successor;
use watchdog::Stalls;

/// How long it takes at most until a signal that came is seen.
const LAST_SIGNALS: Duration = Duration::from_millis(2);
/// Time beyond what the shards may take to end after which the process goes without them.
const STOP_GRACE: Duration = driver::STOP_GRACE.saturating_add(Duration::from_secs(1));

/// How often archives are rid of what is too old: a message is kept for at most so much longer than it may be.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3_600);

/// A broker that runs: the shards, and what the control thread keeps for them.
pub struct Control {
    source: Source,
    settings: Arc<Settings>,
    data: DataDir,
    tls: Arc<Tls>,
    store: EmbeddedStore,
    accounts: Accounts<EmbeddedStore>,
    things: Things<EmbeddedStore>,
    apikeys: Keys<EmbeddedStore>,
    index: index::Handle,
    socket: std::os::unix::net::UnixListener,
    metrics: Option<std::net::TcpListener>,
    broker: Broker,
    program: Program,
    first_start: Option<FirstStart>,
}

impl Control {
    /// With the settings that were read from a source. Opens the data directory, loads the certificate, takes the control
    /// socket and the metrics port, starts the shards, and makes an administrator if there is no account at all.
    ///
    /// # Errors
    /// [`Failure`], with its exit status.
    pub fn start(source: Source, mut settings: Settings) -> Result<Self, Failure> {
        listen_without_ipv6(&mut settings);
        let program = Program::of_this_process();
        let handed = |error| Failure::Config(format!("can't take the sockets that were handed over: {error}"));
        let mut handed = Sockets::inherit().map_err(handed)?;
        let data = DataDir::create(&settings.data)?;
        let store = data.open_store(&settings)?;
        let tls = Arc::new(Tls::load(&settings).map_err(Failure::certificate)?);
        let helpers = Helpers::start(settings.helper_threads, settings.helper_queue_max);
        let index = index_of_things(&store, &settings)?;
        let things = ThingsConfig::new(settings.things, Some(Arc::new(index.clone())));
        let accounts = Accounts::new(store.clone(), helpers.clone(), &settings, things.clone());
        let managed = Things::new(store.clone(), &settings, things.clone());
        let socket = data.listen()?;
        let metrics = settings.metrics.map(|address| listen_for_metrics(address, &mut handed)).transpose()?;
        let server_secret = data::secret(&store)?;
        let apikeys = Keys::new(store.clone(), &server_secret, settings.domains.clone());

        plaza_registry::wait::block_on(plaza_registry::broker::begin_run(&store, now_millis()))
            .map_err(|error| Failure::Failed(format!("the beginning of this run cannot be noted: {error}")))?;
        settings.memory = memory::found(settings.memory);
        let settings = Arc::new(settings);
        let speaks_tls = settings.listeners.iter().any(|listener| listener.tls != TlsMode::None);
        let config = BrokerConfig {
            settings: settings.clone(),
            tls: speaks_tls.then(|| tls.clone()),
            store: store.clone(),
            helpers,
            things,
            server_secret,
        };
        let broker = Broker::start(config, &mut handed).map_err(|error| Failure::Failed(error.to_string()))?;
        handed.refuse_rest();
        // Last, so that its password is told whenever it was made.
        let first_start = data::first_administrator(&accounts)?;
        Ok(Self {
            source,
            settings,
            data,
            tls,
            store,
            accounts,
            things: managed,
            apikeys,
            index,
            socket,
            metrics,
            broker,
            program,
            first_start,
        })
    }

    /// The administrator made at this start, if one was.
    pub fn first_start(&self) -> Option<&FirstStart> {
        self.first_start.as_ref()
    }

    /// The configuration in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The certificate in use.
    pub fn certificate(&self) -> Arc<TlsSnapshot> {
        self.tls.current()
    }

    /// Where metrics are served, if anywhere.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.local_addr().ok()
    }

    /// Serves until a signal says to stop, then stops in order. If it was to be upgraded, who is to take its place.
    ///
    /// # Errors
    /// [`Failure::Failed`] if a shard or the store ended badly.
    pub fn wait(self) -> Result<Option<Successor>, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Failed(format!("can't start the control thread: {error}")))?;
        let store = self.store.clone();
        let served = LocalSet::new().block_on(&runtime, self.serve());
        // A shard that did not end in time may hold a thread of the runtime: don't wait for it.
        runtime.shutdown_background();
        store.close().map_err(|error| Failure::Failed(format!("the store did not close well: {error:?}")))?;
        served
    }

    async fn serve(self) -> Result<Option<Successor>, Failure> {
        let broken = |what: &str, error: io::Error| Failure::Failed(format!("{what}: {error}"));
        let mut signals = Signals::install().map_err(|error| broken("can't receive signals", error))?;
        let metrics_address = self.metrics_address();
        let socket = UnixListener::from_std(self.socket).map_err(|error| broken("control socket", error))?;
        let mut sockets = self.broker.sockets().to_vec();
        if let Some(metrics) = &self.metrics {
            sockets.push(Arc::new(metrics.try_clone().map_err(|error| broken("metrics", error))?));
        }
        let metrics = self.metrics.map(TcpListener::from_std).transpose();
        let metrics = metrics.map_err(|error| broken("metrics", error))?;
        let watched = self.broker.watched().to_vec();
        let running = Rc::new(Running {
            shards: self.broker.metrics().to_vec(),
            broker: RefCell::new(Some(self.broker)),
            accounts: self.accounts,
            things: self.things,
            apikeys: self.apikeys,
            index: self.index,
            store: self.store.clone(),
            backups: Backups::new(self.store.clone(), self.settings.data.clone()),
            source: RefCell::new(self.source),
            stop_deadline: Cell::new(self.settings.stop_deadline),
            settings: self.settings,
            tls: self.tls,
            started: Instant::now(),
            reloads_failed: Cell::new(0),
            stalls: Rc::default(),
            memory: memory::Watch::default(),
            program: self.program,
            sockets,
            upgrading: Cell::new(false),
            upgrade: Notify::new(),
        });
        running.memory.set_marks(running.settings.memory);
        tokio::task::spawn_local(answer_commands(socket, running.clone()));
        if let Some(metrics) = metrics {
            tokio::task::spawn_local(http::serve(metrics, running.clone()));
        }
        tokio::task::spawn_local(memory::watch(running.clone()));
        tokio::task::spawn_local(watchdog::watch(watched, running.stalls.clone()));
        tokio::task::spawn_local(watchdog::feed(running.stalls.clone()));
        tokio::task::spawn_local(sweep_archives(self.store.clone(), running.settings.archive));
        tokio::task::spawn_local(prune_nonces(self.store.clone()));
        running.log_start(metrics_address);
        notify(&[NotifyState::Ready]);

        let upgrade = signals.until_stop(&running).await;
        if upgrade {
            running.notify_reloading();
        } else {
            running.upgrading.set(false);
            notify(&[NotifyState::Stopping]);
        }
        info!(deadline = ?running.stop_deadline.get(), upgrade, "stopping");
        let mut stopped = running.stop(&mut signals).await;
        if stopped.is_ok() {
            // Whoever asked something was answered, or knows that its stream ended.
            let noted = plaza_registry::broker::end_run(&self.store).await;
            stopped = noted.map_err(|error| Failure::Failed(format!("the end of this run cannot be noted: {error}")));
        }
        self.data.remove_socket();
        info!("stopped");
        if stopped.is_ok() && running.upgrading.get() {
            signals.last(&running).await;
        }
        stopped.map(|()| running.successor())
    }
}

/// What the tasks of the control thread share.
struct Running {
    /// Where the configuration is read again.
    source: RefCell<Source>,
    /// As it was started; what may change of it is elsewhere.
    settings: Arc<Settings>,
    stop_deadline: Cell<Duration>,
    tls: Arc<Tls>,
    accounts: Accounts<EmbeddedStore>,
    things: Things<EmbeddedStore>,
    apikeys: Keys<EmbeddedStore>,
    /// Of the things.
    index: index::Handle,
    store: EmbeddedStore,
    backups: Backups,
    /// Gone once stopping.
    broker: RefCell<Option<Broker>>,
    shards: Vec<Arc<ShardMetrics>>,
    started: Instant,
    reloads_failed: Cell<u64>,
    stalls: Rc<Stalls>,
    memory: memory::Watch,
    program: Program,
    /// What clients connect to, and the metrics' socket.
    sockets: Vec<Arc<std::net::TcpListener>>,
    /// Another program is being tried, or is to take this one's place.
    upgrading: Cell<bool>,
    /// It was tried, and is fit.
    upgrade: Notify,
}

impl Running {
    /// Carries out a command from the control socket.
    async fn execute(&self, command: Command) -> Answer {
        match command {
            Command::Status => Answer::Ok(Reply::Status(self.status())),
            Command::Upgrade => match self.upgrade().await {
                Ok(reply) => Answer::Ok(reply),
                Err(refusal) => Answer::Error(refusal),
            },
            Command::Subject(command) => match self.accounts.subject(command).await {
                Ok((part, changes)) => {
                    if let Some(broker) = self.broker.borrow().as_ref() {
                        changes.iter().for_each(|(bare, change)| broker.account_changed(bare, *change));
                    }
                    Answer::Ok(Reply::Subject(part))
                }
                Err(refusal) => Answer::Error(refusal),
            },
            Command::Account(command) => self.tell(self.accounts.run(command).await),
            Command::Thing(command) => self.tell(self.things.run(command).await),
            Command::Backup(command) => match self.backups.run(command).await {
                Ok(reply) => Answer::Ok(reply),
                Err(refusal) => Answer::Error(refusal),
            },
            Command::ApiKey(command) => match self.apikeys.run(command).await {
                Ok(reply) => Answer::Ok(reply),
                Err(refusal) => Answer::Error(refusal),
            },
        }
    }

    /// Tells the shards what has changed, then whoever asked.
    fn tell(&self, done: Result<Done, Refusal>) -> Answer {
        match done {
            Ok(done) => {
                if let Some(broker) = self.broker.borrow().as_ref() {
                    if let Some((bare, change)) = done.change {
                        broker.account_changed(&bare, change);
                    }
                    done.things_of.iter().for_each(|bare| broker.account_changed(bare, AccountChange::Things));
                    done.created.iter().for_each(|bare| broker.account_changed(bare, AccountChange::Created));
                }
                Answer::Ok(done.reply)
            }
            Err(refusal) => Answer::Error(refusal),
        }
    }

    fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            stopping: self.is_stopping() || self.upgrading.get(),
            domains: self.settings.domains.iter().map(|domain| domain.as_str().to_owned()).collect(),
            shards: self.shards.iter().map(|shard| shard.read().to_json()).collect(),
        }
    }

    fn is_stopping(&self) -> bool {
        self.broker.borrow().is_none()
    }

    /// Stops the shards and waits for them: until they end, the deadline and some grace have passed, or a second signal
    /// says not to wait.
    async fn stop(&self, signals: &mut Signals) -> Result<(), Failure> {
        let Some(broker) = self.broker.borrow_mut().take() else { return Ok(()) };
        let deadline = self.stop_deadline.get();
        broker.stop(deadline);
        let joined = tokio::task::spawn_blocking(move || broker.join(deadline));
        let late = tokio::time::sleep(deadline + STOP_GRACE);
        tokio::pin!(joined, late);
        loop {
            return tokio::select! {
                joined = &mut joined => match joined {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(StartError(text))) => Err(Failure::Failed(text)),
                    Err(panic) => Err(Failure::Failed(format!("a shard panicked: {panic}"))),
                },
                () = &mut late => Err(Failure::Failed("the shards did not stop in time".into())),
                () = signals.stop() => {
                    if self.upgrading.replace(false) {
                        info!("stopping for good");
                        notify(&[NotifyState::Stopping]);
                        continue;
                    }
                    Err(Failure::Failed("stopped by a second signal, without draining".into()))
                }
            };
        }
    }

    fn log_start(&self, metrics: Option<SocketAddr>) {
        for listener in &self.settings.listeners {
            info!(address = %listener.address, tls = ?listener.tls, "listening");
        }
        if let Some(address) = metrics {
            info!("metrics on http://{address}/metrics");
        }
        let domains: Vec<&str> = self.settings.domains.iter().map(|domain| domain.as_str()).collect();
        info!(shards = self.settings.shards, domains = domains.join(", "), "Plaza {}", env!("CARGO_PKG_VERSION"));
        log_findings(&self.tls.current(), &self.settings);
    }
}

fn log_findings(snapshot: &TlsSnapshot, settings: &Settings) {
    for finding in snapshot.findings(&settings.domains) {
        if finding.severity >= plaza_tuning::Severity::Warn {
            warn!("{finding}");
        }
    }
}

/// The signals that mean something to us.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined2())?,
        })
    }

    /// Until SIGTERM or SIGINT.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => (),
            _ = self.interrupt.recv() => (),
        }
    }

    /// Nobody looks for signals any more until the next program does: from here on one that says to stop ends the process by
    /// itself, and if one came before, the broker stops for good.
    async fn last(&mut self, running: &Running) {
        crate::sys::end_at_signals();
        tokio::select! {
            () = self.stop() => running.upgrading.set(false),
            () = tokio::time::sleep(LAST_SIGNALS) => {}
        }
    }

    /// Reloads at each SIGHUP, until it is time to stop; whether another program is to take this one's place.
    async fn until_stop(&mut self, running: &Rc<Running>) -> bool {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return false,
                _ = self.interrupt.recv() => return false,
                () = running.upgrade.notified() => return true,
                _ = self.user.recv() => running.upgrade_by_signal(),
                _ = self.hangup.recv() => {
                    running.notify_reloading();
                    running.reload();
                    notify(&[NotifyState::Ready]);
                }
            }
        }
    }
}

async fn answer_commands(socket: UnixListener, running: Rc<Running>) {
    socket::serve(socket, move |command| {
        let running = running.clone();
        async move { running.execute(command).await }
    })
    .await;
}

/// The time, in milliseconds since 1970.
fn now_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Forgets what archives have kept for too long, whether anybody asks for it or not.
async fn sweep_archives(store: EmbeddedStore, config: ArchiveConfig) {
    let mut hours = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        hours.tick().await;
        match archive::sweep(&store, &config, now_millis()).await {
            Ok(archives) => debug!(archives, "archives swept"),
            Err(error) => warn!(%error, "archives not swept"),
        }
    }
}

/// Forgets nonces of signatures that would not be taken any more (XEP-0348).
async fn prune_nonces(store: EmbeddedStore) {
    let mut hours = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        hours.tick().await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        match plaza_registry::apikeys::prune(&store, now.as_secs()).await {
            Ok(nonces) => debug!(nonces, "nonces forgotten"),
            Err(error) => warn!(%error, "nonces not forgotten"),
        }
    }
}

/// Tells the service manager, if there is one. That it can't be told changes nothing here.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "the service manager can't be told");
    }
}

/// Starts the index of things, which fills itself from the store while all else begins.
fn index_of_things(store: &EmbeddedStore, settings: &Settings) -> Result<index::Handle, Failure> {
    let started = index::spawn(store.clone(), settings.things_index.clone());
    started.map_err(|error| Failure::Failed(format!("the index of things did not start: {error}")))
}

fn listen_for_metrics(address: SocketAddr, handed: &mut Sockets) -> Result<std::net::TcpListener, Failure> {
    let given = handed.take(address).pop();
    let listening = given.map_or_else(|| std::net::TcpListener::bind(address), Ok).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listening.map_err(|error| {
        Failure::CantCreate(format!("can't serve metrics on {address}: {error}; change metrics.address"))
    })
}

/// On a host without IPv6, `[::]` means all IPv4 addresses.
pub(crate) fn listen_without_ipv6(settings: &mut Settings) {
    if socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).is_ok() {
        return;
    }
    for listener in &mut settings.listeners {
        if listener.address.is_ipv6() && listener.address.ip().is_unspecified() {
            listener.address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, listener.address.port()));
        }
    }
}
