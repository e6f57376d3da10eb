//! The loop around a shard: sockets and time on one side, [`Shard`] and [`Stream`] on the other.
//!
//! A turn is: submit and reap → feed what arrived → mesh, tasks, commands → effects → flush → hand over. The pure parts
//! decide; this room carries bytes. Only it, with `ring`, names glommio, io-uring and rustls.

mod admitting;
mod connection;
mod effects;
mod ending;
mod held;
pub(crate) mod listener;
mod memory;
mod negotiate;
mod pace;
mod reading;
mod stopping;
mod time;
pub mod tls;
mod writing;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use plaza_core::jid::Jid;
use plaza_core::limits::ScanLimits;
use plaza_core::stanza::StanzaError;
use plaza_core::stream::{self, Need, Stream, StreamConfig};
use plaza_core::xml::{Scanner, StreamNamespaces};
use plaza_registry::errands::{ErrandConfig, Return};
use plaza_registry::helpers::Helpers;
use plaza_registry::pubsub::{Notification, Recipient, Recipients};
use plaza_registry::resumables::Resumable;
use plaza_registry::services::{Reply, ServiceConfig};
use plaza_registry::store::StoreError;
use plaza_registry::store::embedded::EmbeddedStore;
use slab::Slab;

use crate::admission::{Buckets, Failures, NewcomerLimits, Newcomers, Seat, Source, Sources};
use crate::memory::Level;
use crate::mesh::{Bell, Inbox, Port, ShardId};
use crate::metrics::ShardMetrics;
use crate::pulse::{Pulse, Step};
use crate::ring::{ACCEPTS, Completion, GENERATION_MAX, Key, Op, Ring, RingOptions, Sending, Slot};
use crate::shard::{Batch, ReplyTo, SessionId, Shard, ShardConfig};
use crate::sys::EventFd;
use crate::tasks::Tasks;
use crate::wheel::Wheel;
pub use connection::Migrant;
use connection::{Carry, Connection, Counted, Flags, Phase, Reading};
pub use pace::Pace;
pub use stopping::Quiet;
use stopping::Stop;
pub(crate) use stopping::{SETTLE_GRACE, STOP_GRACE};
use tls::Tls;

/// What passes between shards.
#[derive(Debug)]
pub enum Parcel {
    /// Stanzas.
    Batch(Box<Batch>),
    /// A connection coming home.
    Migrant(Box<Migrant>),
}

/// What the control thread may ask of a shard.
#[derive(Debug, Clone)]
pub enum Command {
    /// An account was changed from outside: what is known of it is not true any more, and its sessions end if there is a
    /// condition.
    AccountChanged(Jid, Option<stream::Condition>),
    /// The things of an account were changed from outside.
    ThingsChanged(Jid),
    /// The limits are others.
    Limits(Arc<NewLimits>),
    /// How near the broker is to its bound of memory, and how much of what waits to be resumed this shard gives up.
    Memory(Level, u64),
    /// Much memory was freed a while ago: the kernel may have it.
    GiveBack,
    /// Stop: no new connections, `system-shutdown` to all, until then.
    Stop(Instant),
    /// No shard has anything left to do: keep the sessions that may be resumed, and end.
    Finish,
}

/// Limits as all shards have them, made once for all.
#[derive(Debug)]
pub struct NewLimits {
    /// The shard's.
    pub shard: Arc<ShardConfig>,
    /// The services'.
    pub services: Arc<ServiceConfig>,
    /// The errands'.
    pub errands: Arc<ErrandConfig>,
    /// What new streams offer and may do, by listener.
    pub streams: Vec<Arc<StreamConfig>>,
    /// The driver's; the sizes of its ring stay.
    pub driver: DriverLimits,
}

/// A listener as a shard sees it.
#[derive(Debug, Clone)]
pub struct ListenerPlan {
    /// Address to listen on.
    pub address: SocketAddr,
    /// What its streams offer.
    pub stream: Arc<StreamConfig>,
    /// Its TLS, if it has any.
    pub tls: Option<Arc<crate::cert::Tls>>,
    /// TLS from the first byte, rather than by STARTTLS.
    pub direct: bool,
}

/// Bounds of the driver.
#[derive(Debug, Clone, Copy)]
pub struct DriverLimits {
    /// The ring's sizes.
    pub ring: RingOptions,
    /// Connections being negotiated at once; beyond it new ones are closed at once.
    pub unauthenticated_max: u32,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From accept to bind.
    pub negotiation_timeout: Duration,
    /// How long an answer is held back that refuses credentials or a registration.
    pub refusal_delay: Duration,
    /// Of a session: a send without progress, or an element or TLS record without end.
    pub stuck_timeout: Duration,
    /// Stanzas of one session in one turn.
    pub stanzas_per_turn_max: u16,
    /// Sessions told in a second that the broker stops; 0 for all at once.
    pub stop_sessions_per_second: u32,
    /// How fast a session is read.
    pub pace: Pace,
    /// After authentication.
    pub scan: ScanLimits,
    /// How fast newcomers get on.
    pub newcomers: NewcomerLimits,
    /// Input held of a connection that has not bound: of an element, and of a TLS record or message. Default 12 288. Beyond
    /// it the stream ends with `policy-violation`.
    pub unauthenticated_bytes_max: usize,
}

/// All a shard's thread is started with.
pub struct DriverParts {
    /// The shard's state.
    pub shard: Shard,
    /// Its end of the mesh.
    pub port: Port<Parcel>,
    /// Its id.
    pub id: ShardId,
    /// Shards there are.
    pub shards: u16,
    /// Commands from the control thread.
    pub inbox: Arc<Inbox<Command>>,
    /// Wakes this shard.
    pub bell: Arc<Bell>,
    /// What the bell rings.
    pub event: Arc<EventFd>,
    /// What is listened for.
    pub listeners: Vec<ListenerPlan>,
    /// The sockets this shard accepts on, of each listener.
    pub sockets: Vec<Vec<Arc<TcpListener>>>,
    /// Bounds.
    pub limits: DriverLimits,
    /// Who may connect; all shards count together.
    pub sources: Arc<Sources>,
    /// The store.
    pub store: EmbeddedStore,
    /// Threads for slow work.
    pub helpers: Helpers,
    /// What services state.
    pub services: Arc<ServiceConfig>,
    /// What errands need to know.
    pub errands: Arc<ErrandConfig>,
    /// Makes stand-in salts for accounts that do not exist.
    pub server_secret: [u8; 32],
    /// Sessions kept from before a restart.
    pub kept: Vec<Resumable>,
    /// Where counters are published.
    pub metrics: Arc<ShardMetrics>,
    /// Where it is said what the shard does.
    pub pulse: Arc<Pulse>,
    /// Where it shows that it has nothing to do any more, when it stops.
    pub quiet: Arc<Quiet>,
}

/// What a task brought.
enum Outcome {
    Errand(Jid, Return),
    Password(Key, Option<bool>),
    Registered(Key, Jid, Result<(), StanzaError>),
    Reply(Jid, ReplyTo, Reply),
    Inquired(Jid, Reply),
    Recipients(Recipients, Result<Option<Vec<Recipient>>, StoreError>),
    LastItems(Vec<Notification>),
}

/// A tick: the wheel's and the deadlines' unit.
const TICK: Duration = Duration::from_millis(100);
/// Commands carried out in a turn: more wait after a stall, if operators were busy meanwhile.
const COMMANDS_PER_TURN: usize = 1_024;
/// Of a turn, at least, for sessions that had sent more than it takes of one, and as much for what has waited for the store or a
/// helper: whoever is written to meanwhile waits for no more.
const SHARE: Duration = Duration::from_micros(25);
/// Of a turn that is long by what came in, these parts.
const SHARES: u32 = 4;
/// Tasks carried on between two looks at the clock.
const TASKS_AT_ONCE: usize = 8;
/// Recipients of services' messages told in a turn, so that an event for many does not hold up what else there is.
const FANNED_PER_TURN: usize = 64;
/// Presences told in a turn that had been withheld for want of memory.
const ANNOUNCED_PER_TURN: usize = 16;
/// How long the peer has to close after we did.
const LINGER: Duration = Duration::from_secs(2);
/// Ticks without bytes after which a session gives up its armed receive.
const QUIET_TICKS: u32 = 50;
/// Input kept for a session that has to wait, beyond which its receive is cancelled.
const WAITING_BYTES: usize = 16 * 1024;
/// Ticks between two looks at what all sessions hold.
const MEASURE_TICKS: u32 = 50;
/// Wheel token that re-arms the listeners.
const REARM: u64 = u64::MAX;
/// Token of the wheel: devices were to answer by now.
const ASKS: u64 = u64::MAX - 1;
/// Token of the wheel: the oldest of the held connections is due.
const HELD: u64 = u64::MAX - 2;
/// How long a device has to answer what a service asks it: a little less than its owner's client waits.
const ASK_TICKS: u32 = (Duration::from_secs(14).as_millis() / TICK.as_millis()) as u32;
/// Set in wheel tokens that name a session; the others name a connection, whose generation leaves the bit free.
const SESSION: u64 = 1 << 63;

/// One shard's loop.
pub struct Driver {
    ring: Ring,
    shard: Shard,
    parts: Rest,
    listeners: Vec<ListenerPlan>,
    accepting: Vec<Accepting>,
    connections: Slab<Connection>,
    generation: u32,
    unauthenticated: u32,
    wheel: Wheel,
    started: Instant,
    tick: u32,
    /// When this turn began, in nanoseconds since the start.
    nanos: u64,
    scanner: Scanner,
    #[expect(clippy::vec_box, reason = "a carry moves into a connection, which holds a pointer only")]
    carries: Vec<Box<Carry>>,
    ready: VecDeque<Key>,
    flushes: Vec<Key>,
    hot: Vec<Key>,
    /// Connections that were refused something and are not told yet, and when they are: the first first.
    held: VecDeque<(u32, Key)>,
    sweep_at: u32,
    measured_at: u32,
    sends: u32,
    carrying: u32,
    /// Some session may wait for the rest of a record: the sweep finds out.
    partial_records: bool,
    /// The session made for the bind being answered, or resumed: then it is sent again what its client does not have.
    binding: Option<(SessionId, bool)>,
    #[expect(clippy::vec_box, reason = "a batch moves through the mesh as a pointer")]
    spares: Vec<Box<Batch>>,
    departures: VecDeque<(ShardId, Box<Migrant>)>,
    arrivals: HashMap<u32, Arrival>,
    /// Logins that wait for their account's facts.
    lookups: HashMap<Key, (Jid, Need)>,
    tasks: Tasks,
    outcomes: Rc<RefCell<VecDeque<Outcome>>>,
    stopping: Option<Stop>,
    /// The wheel will arm the listeners again.
    rearms: bool,
    /// No connection is accepted, for want of memory.
    full: bool,
    /// Tick at which the numbers were shown last.
    shown_at: u32,
    /// Sessions are being stored for the next start.
    keeping: Rc<Cell<bool>>,
    /// Connections that have not bound a resource and can be read.
    newcomers: Newcomers<Key>,
    /// What was read of them, until what sessions want of the turn has been sent.
    strangers: VecDeque<Completion>,
    buckets: Buckets,
    failures: Failures,
    /// Sessions to be made when their turn comes.
    bindings: VecDeque<admitting::Binding>,
    /// Newcomers wait in the listeners' queues.
    accept_paused: bool,
    /// Connections of sessions that have broken, and sessions whose time was over, that end in the turns to come.
    lost: VecDeque<Key>,
    expired: VecDeque<u64>,
    /// Sessions that may yet end in this turn.
    ends_left: u32,
}

/// A socket of a listener's. It stays open when the shard ends: whoever connects meanwhile waits in its queue.
struct Accepting {
    socket: Arc<TcpListener>,
    listener: u16,
    /// Places of accepts that are not outstanding.
    idle: smallvec::SmallVec<[u32; ACCEPTS as usize]>,
}

/// A connection that came home, while its socket is taken into the ring.
struct Arrival {
    tls: Option<Box<Tls>>,
    stream: Box<Stream>,
    carry: Option<Box<Carry>>,
    listener: u16,
    account: Jid,
    need: Need,
    deadline: Instant,
    source: Source,
    seat: Option<Seat>,
}

/// The parts that stay as they were given.
struct Rest {
    port: Port<Parcel>,
    id: ShardId,
    shards: u16,
    inbox: Arc<Inbox<Command>>,
    bell: Arc<Bell>,
    event: Arc<EventFd>,
    limits: DriverLimits,
    sources: Arc<Sources>,
    store: EmbeddedStore,
    helpers: Helpers,
    services: Arc<ServiceConfig>,
    errands: Arc<ErrandConfig>,
    server_secret: [u8; 32],
    metrics: Arc<ShardMetrics>,
    pulse: Arc<Pulse>,
    quiet: Arc<Quiet>,
}

static NO_NAMESPACES: StreamNamespaces = StreamNamespaces::NONE;

impl Driver {
    /// Opens the ring and begins to accept. On the thread that will run it.
    ///
    /// # Errors
    /// The system's, with what was tried.
    pub fn new(parts: DriverParts) -> Result<Self, (String, std::io::Error)> {
        let DriverParts { shard, port, id, shards, inbox, bell, event, listeners, limits, sources, store, .. } = parts;
        let mut ring = Ring::new(limits.ring).map_err(|error| ("io_uring".to_owned(), error))?;
        let mut accepting = Vec::new();
        for (listener, sockets) in (0..).zip(parts.sockets) {
            let accept = |socket| Accepting { socket, listener, idle: (0..ACCEPTS).collect() };
            accepting.extend(sockets.into_iter().map(accept));
        }
        ring.watch(&event);
        let tasks = Tasks::new(Arc::clone(&bell));
        let parts_kept = parts.kept;
        let (helpers, services, errands) = (parts.helpers, parts.services, parts.errands);
        let (server_secret, metrics, pulse) = (parts.server_secret, parts.metrics, parts.pulse);
        let quiet = parts.quiet;
        pulse.settle();
        let parts = Rest {
            sources,
            port,
            id,
            shards,
            inbox,
            bell,
            event,
            limits,
            store,
            helpers,
            services,
            errands,
            server_secret,
            metrics,
            pulse,
            quiet,
        };
        let mut driver = Self {
            ring,
            shard,
            parts,
            listeners,
            accepting,
            connections: Slab::new(),
            generation: 0,
            unauthenticated: 0,
            wheel: Wheel::new(),
            started: Instant::now(),
            tick: 1,
            nanos: 0,
            scanner: Scanner::new(),
            carries: Vec::new(),
            ready: VecDeque::new(),
            flushes: Vec::new(),
            hot: Vec::new(),
            held: VecDeque::new(),
            sweep_at: 0,
            measured_at: 0,
            sends: 0,
            carrying: 0,
            partial_records: false,
            binding: None,
            spares: Vec::new(),
            departures: VecDeque::new(),
            arrivals: HashMap::new(),
            lookups: HashMap::new(),
            tasks,
            outcomes: Rc::default(),
            stopping: None,
            rearms: false,
            full: false,
            shown_at: 0,
            keeping: Rc::default(),
            newcomers: Newcomers::default(),
            strangers: VecDeque::new(),
            buckets: Buckets::new(&limits.newcomers),
            failures: Failures::default(),
            bindings: VecDeque::new(),
            accept_paused: false,
            lost: VecDeque::new(),
            expired: VecDeque::new(),
            ends_left: 0,
        };
        driver.shard.set_presences_per_second(limits.newcomers.presences);
        driver.arm_listeners();
        driver.shard.set_time(unix_millis());
        for kept in parts_kept {
            let until = driver.due(kept.seconds);
            if let Some(id) = driver.shard.restore(kept, until) {
                driver.wheel.insert(until, SESSION | id.to_token());
            }
        }
        Ok(driver)
    }

    /// The tick in so many seconds.
    fn due(&self, seconds: u32) -> u64 {
        u64::from(self.tick) + u64::from(seconds) * 1_000 / TICK.as_millis() as u64
    }

    /// Runs until told to stop.
    ///
    /// # Errors
    /// The ring's: the shard cannot go on.
    pub fn run(&mut self) -> std::io::Result<()> {
        loop {
            self.turn()?;
            if self.has_stopped() {
                // Last words reach the kernel.
                self.ring.enter(false, None)?;
                while self.ring.strangers_wait() {
                    while self.ring.next_completion().is_some() {}
                    self.ring.enter(false, None)?;
                }
                self.publish();
                self.at(Step::Ended);
                return Ok(());
            }
        }
    }

    /// Says what the shard does from here on.
    fn at(&self, step: Step) {
        self.parts.pulse.at(self.shard.counters.turns, step);
    }

    /// One turn.
    fn turn(&mut self) -> std::io::Result<()> {
        if self.nothing_waits() {
            let timeout = self.sleep_time();
            self.publish();
            self.parts.bell.prepare_sleep();
            // Whoever published before the bell was up is seen here; whoever comes later rings.
            let wait = self.nothing_waits();
            self.at(Step::Resting);
            let result = self.ring.enter(wait, timeout);
            self.parts.bell.awake();
            result?;
        } else {
            self.at(Step::Submitting);
            self.ring.enter(false, None)?;
        }
        self.shard.counters.turns += 1;
        self.at(Step::Receiving);
        self.tick = self.now_tick();
        self.nanos = self.started.elapsed().as_nanos() as u64;
        self.shard.set_time(unix_millis());
        self.shard.set_nanos(self.nanos);
        let began = self.tick;
        let (was_quiet, sent) = (self.begin_quietly(), self.shard.counters.handoff_batches_out);
        while let Some(completion) = self.ring.next_completion() {
            if self.is_of_stranger(&completion) {
                self.strangers.push_back(completion);
            } else {
                self.on_completion(completion);
                self.hand_over_full();
            }
        }
        self.at(Step::Taking);
        self.drain_mesh();
        for _ in 0..COMMANDS_PER_TURN {
            let Some(command) = self.parts.inbox.pop() else { break };
            self.on_command(command);
        }
        self.send_first()?;
        self.at(Step::Tasks);
        self.go_on_with_tasks();
        self.at(Step::Feeding);
        self.feed_ready();
        self.at(Step::Timers);
        self.on_time();
        self.go_on_stopping();
        self.go_on_ending();
        self.at(Step::Receiving);
        self.hear_strangers();
        self.admit_newcomers();
        self.at(Step::Fanning);
        self.shard.go_on_fanning(FANNED_PER_TURN);
        self.shard.announce_withheld(ANNOUNCED_PER_TURN);
        self.at(Step::Writing);
        self.carry_out();
        self.flush_all();
        self.hand_over();
        if self.tick > self.shown_at {
            self.show();
        }
        self.end_quietly(was_quiet, self.shard.counters.handoff_batches_out - sent);
        if self.now_tick() > began + 1 {
            self.shard.counters.late_turns += 1;
        }
        Ok(())
    }

    /// Sends what has come of this turn so far, if there are those who go on in shares of it or strangers, whose handshakes take
    /// longer than all else: nobody waits for them.
    fn send_first(&mut self) -> std::io::Result<()> {
        if self.tasks.is_idle() && self.ready.is_empty() && self.strangers.is_empty() {
            return Ok(());
        }
        self.at(Step::Writing);
        self.carry_out();
        self.flush_all();
        self.hand_over();
        self.ring.submit()
    }

    /// Until when those go on who have a share of this turn. It grows with the turn, so that they are not starved.
    fn share(&self) -> Instant {
        let now = Instant::now();
        let so_far = now.saturating_duration_since(self.started + Duration::from_nanos(self.nanos));
        now + SHARE.max(so_far / SHARES)
    }

    fn nothing_waits(&self) -> bool {
        self.ready.is_empty()
            && self.flushes.is_empty()
            && self.parts.port.is_empty()
            && self.parts.inbox.is_empty()
            && self.tasks.is_idle()
            && !self.shard.is_fanning()
            && self.lost.is_empty()
            && self.expired.is_empty()
            && self.newcomers_due() != Some(Duration::ZERO)
            && !self.shard.may_announce()
            && !self.ring.strangers_wait()
    }

    fn batches_wait(&self) -> bool {
        (0..self.parts.shards).any(|shard| self.shard.has_batch(ShardId(shard)))
    }

    fn now_tick(&self) -> u32 {
        (self.started.elapsed().as_millis() / TICK.as_millis()) as u32 + 1
    }

    /// How long the ring may wait: to the next deadline, until a newcomer's turn comes, or for ever.
    fn sleep_time(&self) -> Option<Duration> {
        let newcomers = self.newcomers_due().map(|due| due.max(Duration::from_millis(1)));
        [newcomers, self.deadline_time()].into_iter().flatten().min()
    }

    fn deadline_time(&self) -> Option<Duration> {
        if self.batches_wait() || !self.departures.is_empty() {
            // The mesh had no room: its reader does not ring, so look again soon.
            return Some(Duration::from_millis(1));
        }
        if self.stopping.is_some() {
            return Some(TICK);
        }
        let incomplete = self.carrying > 0 || self.partial_records;
        let watched = !self.hot.is_empty() || self.sends > 0 || incomplete;
        let sweep = watched.then_some(u64::from(self.sweep_at.max(self.tick)));
        let next = match (self.wheel.next_tick(), sweep) {
            (Some(wheel), Some(sweep)) => wheel.min(sweep),
            (Some(tick), None) | (None, Some(tick)) => tick,
            (None, None) => return None,
        };
        let at = TICK * u32::try_from(next).unwrap_or(u32::MAX);
        Some(at.saturating_sub(self.started.elapsed()).max(Duration::from_millis(1)))
    }

    /// Shows the numbers to the control thread; those that need a walk over all sessions now and then only.
    fn publish(&mut self) {
        if self.tick >= self.measured_at {
            self.measured_at = self.tick + MEASURE_TICKS;
            let tls: usize = self.connections.iter().map(|(_, connection)| connection.bytes()).sum();
            let sessions = self.shard.measure();
            self.shard.counters.session_bytes = (tls + sessions.held) as u64;
            self.shard.counters.outbox_bytes = sessions.unsent as u64;
        }
        self.shard.counters.sessions = self.shard.sessions() as u64;
        let depth = |shard| self.parts.port.depth(ShardId(shard)) as u64;
        self.shard.counters.newcomers = self.newcomers.len() as u64 + self.bindings.len() as u64;
        self.shard.counters.queue_depth = (0..self.parts.shards).map(depth).sum();
        self.show();
    }

    /// Shows the numbers as they stand.
    fn show(&mut self) {
        self.shown_at = self.tick;
        self.shard.show_memory();
        self.parts.metrics.publish(&self.shard.counters);
    }

    // ---- completions -------------------------------------------------------------------------------------------

    fn on_completion(&mut self, mut completion: Completion) {
        match completion.op {
            Op::Accept => return self.on_accept(&completion),
            Op::Wake => {
                self.parts.event.clear();
                if !completion.more {
                    let event = Arc::clone(&self.parts.event);
                    self.ring.watch(&event);
                }
                return;
            }
            Op::Import => return self.on_import(&completion),
            Op::Cancel if completion.key.index == u32::MAX => return,
            Op::Recv | Op::RecvMulti | Op::Poll | Op::Send | Op::Cancel | Op::Close | Op::Export => {}
        }
        let key = completion.key;
        let known = self.connection(key).is_some();
        if known {
            match completion.op {
                Op::Recv | Op::RecvMulti => self.on_received(key, &mut completion),
                Op::Poll => self.on_readable(key),
                Op::Send => self.on_sent(key, completion.result),
                Op::Export => self.on_exported(key, &completion),
                Op::Accept | Op::Cancel | Op::Close | Op::Import | Op::Wake => {}
            }
        }
        if let Some(received) = completion.received.take() {
            self.ring.recycle(received);
        }
        if known {
            self.recount(key);
            if !completion.more {
                self.operation_done(key);
            }
        }
    }

    /// Forgets a closed connection when the kernel is done with all of it.
    fn operation_done(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        connection.operations = connection.operations.saturating_sub(1);
        if connection.flags.closed && connection.operations == 0 {
            let removed = self.connections.remove(key.index as usize);
            self.count(removed.counted, Counted::default());
            self.shard.counters.connections = self.connections.len() as u64;
        }
    }

    fn insert(
        &mut self,
        slot: Slot,
        listener: u16,
        phase: Phase,
        tls: Option<Box<Tls>>,
        (source, seat): (Source, Option<Seat>),
    ) -> Key {
        self.generation = (self.generation + 1) & GENERATION_MAX;
        self.unauthenticated += 1;
        let generation = self.generation;
        let flags = Flags { unauthenticated: true, ..Flags::default() };
        let index = self.connections.insert(Connection {
            phase,
            tls,
            carry: None,
            out: Vec::new(),
            sending: Sending::default(),
            slot,
            generation,
            operations: 0,
            listener,
            due: 0,
            active: self.tick,
            sending_since: 0,
            partial_since: 0,
            source,
            seat,
            paid_ns: 0,
            tag: None,
            reading: Reading::None,
            flags,
            counted: Counted::default(),
        });
        self.shard.counters.connections = self.connections.len() as u64;
        self.shard.counters.negotiating = u64::from(self.unauthenticated);
        let key = Key { index: index as u32, generation };
        self.recount(key);
        key
    }

    fn connection(&self, key: Key) -> Option<&Connection> {
        self.connections.get(key.index as usize).filter(|connection| connection.generation == key.generation)
    }

    fn connection_mut(&mut self, key: Key) -> Option<&mut Connection> {
        self.connections.get_mut(key.index as usize).filter(|connection| connection.generation == key.generation)
    }
}

/// Runs a stream's own code. A panic there can only have torn that stream: `None` ends it.
fn guarded<T>(step: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(step)).ok()
}

/// The time on the wall.
fn unix_millis() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// Randomness fetched ahead: a login takes four draws, and each would be a system call.
struct Ahead {
    bytes: [u8; 4096],
    left: usize,
}

thread_local! {
    static AHEAD: RefCell<Ahead> = const { RefCell::new(Ahead { bytes: [0; 4096], left: 0 }) };
}

/// Fresh randomness for a stream: the system's, fetched ahead and wiped as it is drawn.
///
/// The system's generator does not fail once it is up; if it did, nothing here would be safe to go on with.
fn entropy() -> stream::Entropy {
    let mut drawn = [0; 32];
    AHEAD.with_borrow_mut(|Ahead { bytes, left }| {
        if *left < drawn.len() {
            if let Err(error) = getrandom::fill(bytes) {
                crate::fatal(&format!("no randomness: {error}"));
            }
            *left = bytes.len();
        }
        let start = *left - drawn.len();
        if let Some(fresh) = bytes.get_mut(start..*left) {
            drawn.copy_from_slice(fresh);
            fresh.fill(0);
        }
        *left = start;
    });
    stream::Entropy(drawn)
}

/// 32 random bytes.
pub(crate) fn random() -> [u8; 32] {
    let stream::Entropy(bytes) = entropy();
    bytes
}

/// Gives each other shard its batch; one whose queue is full keeps it for another time.
#[expect(clippy::vec_box, reason = "a batch moves through the mesh as a pointer")]
fn send_batches(port: &Port<Parcel>, shards: u16, shard: &mut Shard, spares: &mut Vec<Box<Batch>>) {
    for to in (0..shards).map(ShardId) {
        if !shard.has_batch(to) {
            continue;
        }
        let spare = spares.pop().unwrap_or_default();
        let batch = match shard.take_batch(to, spare) {
            Ok(batch) => batch,
            Err(spare) => {
                spares.push(spare);
                continue;
            }
        };
        match port.try_send(to, Parcel::Batch(batch)) {
            Ok(()) => {
                shard.counters.handoff_batches_out += 1;
                shard.batch_sent(to);
            }
            Err(Parcel::Batch(batch)) => {
                shard.counters.mesh_full += 1;
                spares.extend(shard.restore_batch(to, batch));
            }
            Err(Parcel::Migrant(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_randomness_is_drawn_twice() {
        let drawn: HashSet<[u8; 32]> = (0..1_000).map(|_| entropy().0).collect();
        assert_eq!(drawn.len(), 1_000);
        assert!(!drawn.contains(&[0; 32]));
    }
}
