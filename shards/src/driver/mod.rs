//! The loop around a shard: sockets and time on one side, [`Shard`] and [`Stream`] on the other.
//!
//! A turn is: submit and reap → feed what arrived → mesh, tasks, commands → effects → flush → hand over. The pure parts
//! decide; this room carries bytes. Only it, with `ring`, names glommio, io-uring and rustls.

mod connection;
mod listener;
mod negotiate;
pub mod tls;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use plaza_core::jid::Jid;
use plaza_core::limits::ScanLimits;
use plaza_core::stream::{self, Need, Stream, StreamConfig, Violation};
use plaza_core::xml::{Scanned, Scanner, StreamNamespaces};
use plaza_registry::directory::Nodes;
use plaza_registry::errands::{self, Errand, ErrandConfig, Return};
use plaza_registry::helpers::Helpers;
use plaza_registry::pubsub::{self, Notification, Recipient, Recipients};
use plaza_registry::resumables::{self, Resumable};
use plaza_registry::services::{self, Reply, Request, ServiceConfig};
use plaza_registry::store::StoreError;
use plaza_registry::store::embedded::EmbeddedStore;
use slab::Slab;

use crate::mesh::{Bell, Inbox, Port, ShardId};
use crate::metrics::{DropReason, Handshake, ShardMetrics};
use crate::ring::{Completion, GENERATION_MAX, Key, Op, Ring, RingOptions, Sending, Slot};
use crate::shard::{Batch, Effect, Flow, ReplyTo, SessionId, Shard};
use crate::sys::EventFd;
use crate::tasks::Tasks;
use crate::wheel::Wheel;
pub use connection::Migrant;
use connection::{Carry, Connection, Flags, Phase, Reading};
use tls::{Tls, TlsError, TlsEvent};

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
    /// Stop: no new connections, `system-shutdown` to all, until then.
    Stop(Instant),
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
    /// Of a session: a send without progress, or an element or TLS record without end.
    pub stuck_timeout: Duration,
    /// Stanzas of one session in one turn.
    pub stanzas_per_turn_max: u16,
    /// After authentication.
    pub scan: ScanLimits,
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
    /// Where to listen.
    pub listeners: Vec<ListenerPlan>,
    /// Bounds.
    pub limits: DriverLimits,
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
}

/// What a task brought.
enum Outcome {
    Errand(Jid, Return),
    Password(Key, Option<bool>),
    Reply(Jid, ReplyTo, Reply),
    Recipients(Recipients, Result<Option<Vec<Recipient>>, StoreError>),
    LastItems(Vec<Notification>),
}

/// A tick: the wheel's and the deadlines' unit.
const TICK: Duration = Duration::from_millis(100);
/// Recipients of services' messages told in a turn, so that an event for many does not hold up what else there is.
const FANNED_PER_TURN: usize = 256;
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
/// Set in wheel tokens that name a session; the others name a connection, whose generation leaves the bit free.
const SESSION: u64 = 1 << 63;

/// One shard's loop.
pub struct Driver {
    ring: Ring,
    shard: Shard,
    parts: Rest,
    listeners: Vec<Listener>,
    connections: Slab<Connection>,
    generation: u32,
    unauthenticated: u32,
    wheel: Wheel,
    started: Instant,
    tick: u32,
    scanner: Scanner,
    #[expect(clippy::vec_box, reason = "a carry moves into a connection, which holds a pointer only")]
    carries: Vec<Box<Carry>>,
    ready: VecDeque<Key>,
    flushes: Vec<Key>,
    hot: Vec<Key>,
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
    stopping: Option<Instant>,
    /// Sessions are being stored for the next start.
    keeping: Rc<Cell<bool>>,
}

/// An open listener.
struct Listener {
    socket: TcpListener,
    plan: ListenerPlan,
    /// An accept is outstanding.
    armed: bool,
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
    store: EmbeddedStore,
    helpers: Helpers,
    services: Arc<ServiceConfig>,
    errands: Arc<ErrandConfig>,
    server_secret: [u8; 32],
    metrics: Arc<ShardMetrics>,
}

static NO_NAMESPACES: StreamNamespaces = StreamNamespaces::NONE;

impl Driver {
    /// Opens the ring and the listeners. On the thread that will run it.
    ///
    /// # Errors
    /// The system's, with what was tried.
    pub fn new(parts: DriverParts) -> Result<Self, (String, std::io::Error)> {
        let DriverParts { shard, port, id, shards, inbox, bell, event, listeners, limits, store, .. } = parts;
        let mut ring = Ring::new(limits.ring).map_err(|error| ("io_uring".to_owned(), error))?;
        let mut open = Vec::new();
        for plan in listeners {
            let socket = listener::listen(plan.address).map_err(|error| (plan.address.to_string(), error))?;
            ring.accept(&socket, open.len() as u32);
            open.push(Listener { socket, plan, armed: true });
        }
        ring.watch(&event);
        let tasks = Tasks::new(Arc::clone(&bell));
        let parts_kept = parts.kept;
        let (helpers, services, errands) = (parts.helpers, parts.services, parts.errands);
        let (server_secret, metrics) = (parts.server_secret, parts.metrics);
        let parts = Rest {
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
        };
        let mut driver = Self {
            ring,
            shard,
            parts,
            listeners: open,
            connections: Slab::new(),
            generation: 0,
            unauthenticated: 0,
            wheel: Wheel::new(),
            started: Instant::now(),
            tick: 1,
            scanner: Scanner::new(),
            carries: Vec::new(),
            ready: VecDeque::new(),
            flushes: Vec::new(),
            hot: Vec::new(),
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
            keeping: Rc::default(),
        };
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
            if let Some(deadline) = self.stopping
                && (self.is_done() || Instant::now() >= deadline)
            {
                self.publish();
                return Ok(());
            }
        }
    }

    /// Whether a stop has nothing more to wait for.
    fn is_done(&self) -> bool {
        self.connections.is_empty() && !self.shard.is_storing() && !self.keeping.get()
    }

    /// One turn.
    fn turn(&mut self) -> std::io::Result<()> {
        if self.nothing_waits() {
            let timeout = self.sleep_time();
            self.publish();
            self.parts.bell.prepare_sleep();
            // Whoever published before the bell was up is seen here; whoever comes later rings.
            let wait = self.nothing_waits();
            let result = self.ring.enter(wait, timeout);
            self.parts.bell.awake();
            result?;
        } else {
            self.ring.enter(false, None)?;
        }
        self.shard.counters.turns += 1;
        self.tick = self.now_tick();
        self.shard.set_time(unix_millis());
        let began = self.tick;
        while let Some(completion) = self.ring.next_completion() {
            self.on_completion(completion);
            self.hand_over_full();
        }
        self.drain_mesh();
        while let Some(command) = self.parts.inbox.pop() {
            self.on_command(command);
        }
        self.tasks.poll_ready(256);
        self.take_outcomes();
        self.feed_ready();
        self.on_time();
        self.shard.go_on_fanning(FANNED_PER_TURN);
        self.carry_out();
        self.flush_all();
        self.hand_over();
        if self.now_tick() > began + 1 {
            self.shard.counters.late_turns += 1;
        }
        Ok(())
    }

    fn nothing_waits(&self) -> bool {
        self.ready.is_empty()
            && self.flushes.is_empty()
            && self.parts.port.is_empty()
            && self.parts.inbox.is_empty()
            && self.tasks.is_idle()
            && !self.shard.is_fanning()
    }

    fn batches_wait(&self) -> bool {
        (0..self.parts.shards).any(|shard| self.shard.has_batch(ShardId(shard)))
    }

    fn now_tick(&self) -> u32 {
        (self.started.elapsed().as_millis() / TICK.as_millis()) as u32 + 1
    }

    /// How long the ring may wait: to the next deadline, or for ever.
    fn sleep_time(&self) -> Option<Duration> {
        if self.batches_wait() || !self.departures.is_empty() {
            // The mesh had no room: its reader does not ring, so look again soon.
            return Some(Duration::from_millis(1));
        }
        let incomplete = self.carrying > 0 || self.partial_records;
        let watched = !self.hot.is_empty() || self.sends > 0 || incomplete || self.stopping.is_some();
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
        let depth = |shard| self.parts.port.depth(ShardId(shard)) as u64;
        self.shard.counters.queue_depth = (0..self.parts.shards).map(depth).sum();
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
        if known && !completion.more {
            self.operation_done(key);
        }
    }

    /// Forgets a closed connection when the kernel is done with all of it.
    fn operation_done(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        connection.operations = connection.operations.saturating_sub(1);
        if connection.flags.closed && connection.operations == 0 {
            self.connections.remove(key.index as usize);
            self.shard.counters.connections = self.connections.len() as u64;
        }
    }

    fn on_accept(&mut self, completion: &Completion) {
        let index = completion.key.index;
        if !completion.more {
            self.accept_again(index, completion.result < 0);
        }
        let Ok(slot) = u32::try_from(completion.result) else {
            self.shard.counters.accept_errors += 1;
            return;
        };
        self.shard.counters.accepted += 1;
        let Some(Listener { plan, .. }) = self.listeners.get(index as usize) else { return };
        let tls = match (&plan.tls, plan.direct) {
            (Some(tls), true) => Tls::new(tls, true).ok(),
            _ => None,
        };
        let phase = if plan.direct {
            Phase::Handshake(None)
        } else {
            Phase::Negotiating(Box::new(Stream::new(Arc::clone(&plan.stream), None, entropy())))
        };
        let refused = self.stopping.is_some() || self.unauthenticated >= self.parts.limits.unauthenticated_max;
        let direct_without_tls = plan.direct && tls.is_none();
        let key = self.insert(Slot(slot), index as u16, phase, tls.map(Box::new));
        if refused || direct_without_tls {
            self.shard.counters.accept_errors += 1;
            return self.close(key);
        }
        let timeout = if matches!(self.connection(key).map(|found| &found.phase), Some(Phase::Handshake(_))) {
            self.parts.limits.handshake_timeout
        } else {
            self.parts.limits.negotiation_timeout
        };
        self.set_deadline(key, timeout);
        self.arm(key);
    }

    fn insert(&mut self, slot: Slot, listener: u16, phase: Phase, tls: Option<Box<Tls>>) -> Key {
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
            reading: Reading::None,
            flags,
        });
        self.shard.counters.connections = self.connections.len() as u64;
        self.shard.counters.negotiating = u64::from(self.unauthenticated);
        Key { index: index as u32, generation }
    }

    fn connection(&self, key: Key) -> Option<&Connection> {
        self.connections.get(key.index as usize).filter(|connection| connection.generation == key.generation)
    }

    fn connection_mut(&mut self, key: Key) -> Option<&mut Connection> {
        self.connections.get_mut(key.index as usize).filter(|connection| connection.generation == key.generation)
    }

    // ---- reading -----------------------------------------------------------------------------------------------

    /// Arms reading as the connection's phase and recent traffic ask for.
    fn arm(&mut self, key: Key) {
        let tick = self.tick;
        let Some(connection) = self.connection_mut(key) else { return };
        let waits = connection.flags.paused && !matches!(connection.phase, Phase::Closing);
        if connection.reading != Reading::None || connection.flags.closed || waits {
            return;
        }
        let reading = match &connection.phase {
            Phase::Leaving(..) => return,
            Phase::Handshake(_) | Phase::Closing => Reading::Once,
            Phase::Negotiating(stream) if stream.wants_bytes() => Reading::Once,
            Phase::Negotiating(_) => return,
            // A client that has just bound goes on at once.
            Phase::Session(_) if connection.flags.fresh => {
                connection.flags.fresh = false;
                Reading::Once
            }
            // Two reads within a second make a session busy, and worth an armed receive.
            Phase::Session(_) if connection.flags.busy && tick.saturating_sub(connection.active) <= 10 => {
                Reading::Multi
            }
            Phase::Session(_) => Reading::Poll,
        };
        connection.reading = reading;
        connection.operations += 1;
        let slot = connection.slot;
        match reading {
            // What we have just said must reach the peer before it answers.
            Reading::Once => self.ring.recv(slot, key, true),
            Reading::Multi => {
                if !connection.flags.hot {
                    connection.flags.hot = true;
                    self.hot.push(key);
                }
                self.ring.recv_multi(slot, key);
            }
            Reading::Poll => self.ring.poll(slot, key),
            Reading::None | Reading::Cancelling => {}
        }
    }

    /// A poll fired: there is something to read, once; if more follows soon, the next is a multishot.
    fn on_readable(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        connection.reading = Reading::None;
        if connection.flags.paused || connection.flags.closed {
            return;
        }
        connection.reading = Reading::Once;
        connection.operations += 1;
        let slot = connection.slot;
        self.ring.recv(slot, key, false);
    }

    fn on_received(&mut self, key: Key, completion: &mut Completion) {
        let tick = self.tick;
        let Some(connection) = self.connection_mut(key) else { return };
        if !completion.more {
            connection.reading = Reading::None;
        }
        if let Some(received) = completion.received.as_mut().filter(|_| completion.result > 0) {
            connection.flags.busy = tick.saturating_sub(connection.active) <= 10;
            connection.active = tick;
            self.shard.counters.bytes_in += completion.result as u64;
            self.receive(key, received.bytes());
            return self.after_feed(key);
        }
        match completion.result.saturating_neg() {
            0 => self.on_end(key),
            libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN => self.mark_ready(key),
            _ => self.on_end(key),
        }
    }

    /// The peer closed its side, or the connection broke.
    fn on_end(&mut self, key: Key) {
        self.lose_session(key);
        self.close(key);
    }

    /// Bytes from the wire: through TLS if there is any, then into the stream.
    fn receive(&mut self, key: Key, bytes: &mut [u8]) {
        let Some(connection) = self.connection_mut(key) else { return };
        if matches!(connection.phase, Phase::Closing) {
            return;
        }
        let Some(mut tls) = connection.tls.take() else { return self.plaintext(key, bytes) };
        let mut goes_on = tls.is_partial();
        let result = tls.receive(bytes, |event| {
            goes_on = false;
            match event {
                TlsEvent::Established(facts) => self.on_secured(key, facts),
                TlsEvent::Plaintext(text) => self.plaintext(key, text),
            }
        });
        let (closed, has_output, partial) = (tls.closed, !tls.raw_out.is_empty(), tls.is_partial());
        let tick = self.tick;
        self.partial_records |= partial;
        if let Some(connection) = self.connection_mut(key) {
            connection.tls = Some(tls);
            // Inside an element it is the element that has to end in time.
            if partial && !goes_on && connection.carry.is_none() {
                connection.partial_since = tick;
            }
        }
        if has_output {
            self.mark_flush(key);
        }
        if let Err(error) = result {
            let in_handshake = matches!(self.connection(key).map(|found| &found.phase), Some(Phase::Handshake(_)));
            if in_handshake {
                self.shard.counters.tls_handshakes[Handshake::Failed] += 1;
            }
            if matches!(error, TlsError::Panicked) {
                self.shard.counters.panics += 1;
            }
            tracing::debug!(shard = self.parts.id.0, connection = key.index, %error, "TLS failed");
            self.lose_session(key);
            self.finish(key);
        } else if closed {
            self.lose_session(key);
            self.finish(key);
        }
    }

    /// Bytes of the stream: behind what waits already, or fed as they are.
    fn plaintext(&mut self, key: Key, bytes: &[u8]) {
        let Some(connection) = self.connection_mut(key) else { return };
        if let Some(carry) = &mut connection.carry {
            carry.bytes.extend_from_slice(bytes);
            if !connection.flags.paused && !connection.flags.ready {
                self.feed_carry(key);
            }
            return;
        }
        if connection.flags.paused {
            return self.keep(key, bytes, false);
        }
        let mut scanner = std::mem::take(&mut self.scanner);
        let used = self.feed(key, bytes, &mut scanner);
        self.scanner = scanner;
        let rest = bytes.get(used..).unwrap_or_default();
        if rest.is_empty() {
            self.scanner.reset();
        } else {
            self.keep(key, rest, true);
        }
    }

    /// Keeps bytes for later, with the scanner that has begun on them.
    fn keep(&mut self, key: Key, bytes: &[u8], begun: bool) {
        let mut carry = self.carries.pop().unwrap_or_default();
        carry.bytes.clear();
        carry.bytes.extend_from_slice(bytes);
        carry.scanner.reset();
        if begun {
            std::mem::swap(&mut carry.scanner, &mut self.scanner);
        }
        let tick = self.tick;
        if let Some(connection) = self.connection_mut(key) {
            connection.partial_since = tick;
        }
        self.put_carry(key, carry);
    }

    fn put_carry(&mut self, key: Key, carry: Box<Carry>) {
        let Some(connection) = self.connection_mut(key) else { return };
        if matches!(connection.phase, Phase::Closing) {
            return self.recycle_carry(carry);
        }
        connection.carry = Some(carry);
        self.carrying += 1;
    }

    fn take_carry(&mut self, key: Key) -> Option<Box<Carry>> {
        let carry = self.connection_mut(key)?.carry.take()?;
        self.carrying -= 1;
        Some(carry)
    }

    fn feed_carry(&mut self, key: Key) {
        let Some(mut carry) = self.take_carry(key) else { return };
        let mut scanner = std::mem::take(&mut carry.scanner);
        let used = self.feed(key, &carry.bytes, &mut scanner);
        carry.scanner = scanner;
        if used >= carry.bytes.len() {
            self.recycle_carry(carry);
            return;
        }
        carry.bytes.drain(..used);
        let tick = self.tick;
        if let Some(connection) = self.connection_mut(key)
            && used > 0
        {
            connection.partial_since = tick;
        }
        self.put_carry(key, carry);
    }

    fn recycle_carry(&mut self, mut carry: Box<Carry>) {
        if self.carries.len() < 256 && carry.bytes.capacity() <= 64 * 1024 {
            carry.bytes.clear();
            carry.scanner.reset();
            self.carries.push(carry);
        }
    }

    /// Feeds plaintext to whatever the connection is, and returns how many bytes are done with. A panic in the stream's
    /// own code ends that stream alone: its state is dropped whole, so nothing shared can be torn.
    fn feed(&mut self, key: Key, bytes: &[u8], scanner: &mut Scanner) -> usize {
        let mut used = 0;
        loop {
            let Some(connection) = self.connection(key) else { return bytes.len() };
            let rest = bytes.get(used..).unwrap_or_default();
            match connection.phase {
                Phase::Closing => return bytes.len(),
                Phase::Leaving(..) | Phase::Handshake(_) => return used,
                Phase::Session(id) => return used + self.feed_session(key, id, rest, scanner),
                Phase::Negotiating(_) => {
                    used += self.feed_negotiation(key, rest, scanner);
                    // Once bound, the rest of the bytes are the session's.
                    let bound = self.connection(key).is_some_and(|found| matches!(found.phase, Phase::Session(_)));
                    if !bound || used >= bytes.len() {
                        return used;
                    }
                    scanner.reset();
                }
            }
        }
    }

    fn feed_session(&mut self, key: Key, id: SessionId, bytes: &[u8], scanner: &mut Scanner) -> usize {
        let mut used = 0;
        let mut budget = self.parts.limits.stanzas_per_turn_max;
        let limits = self.parts.limits.scan;
        let own = self.shard.stream_namespaces(id).cloned();
        let namespaces = own.as_ref().unwrap_or(&NO_NAMESPACES);
        let shard = &mut self.shard;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            if rest.is_empty() {
                return used;
            }
            let own_scanner = &mut *scanner;
            let Some(scanned) = guarded(move || own_scanner.next(&limits, namespaces, rest)) else {
                self.shard.counters.panics += 1;
                self.end_stream(key, stream::Condition::InternalServerError);
                return bytes.len();
            };
            let (consumed, flow) = match scanned {
                Ok(Scanned::Incomplete { skip }) => return used + skip,
                Ok(Scanned::Close { .. }) => {
                    self.forget_session(key);
                    self.say_close(key);
                    return bytes.len();
                }
                Ok(Scanned::Element { element, consumed }) => (consumed, shard.stanza(id, element)),
                Err(error) => {
                    self.violate(key, Violation::Xml(error));
                    return bytes.len();
                }
            };
            match flow {
                Flow::Continue => used += consumed,
                Flow::Blocked => {
                    self.pause(key);
                    return used + consumed;
                }
                Flow::Stalled => {
                    scanner.reset();
                    self.pause(key);
                    return used;
                }
                Flow::End(condition) => {
                    self.end_stream(key, condition);
                    return bytes.len();
                }
            }
            budget -= 1;
            if budget == 0 {
                // Its neighbours first; the rest next turn.
                if used < bytes.len() {
                    self.mark_ready(key);
                }
                return used;
            }
        }
    }

    fn pause(&mut self, key: Key) {
        if let Some(connection) = self.connection_mut(key) {
            connection.flags.paused = true;
        }
    }

    /// After input was fed: arm the next read, or stop an armed one whose session has to wait.
    fn after_feed(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        let waiting = connection.carry.as_ref().map_or(0, |carry| carry.bytes.len());
        let held = connection.flags.paused || connection.flags.ready;
        if held && connection.reading == Reading::Multi && waiting >= WAITING_BYTES {
            connection.reading = Reading::Cancelling;
            connection.operations += 1;
            self.ring.cancel(Op::RecvMulti, key);
            return;
        }
        if !connection.flags.ready {
            self.arm(key);
        }
    }

    fn mark_ready(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        if !connection.flags.ready {
            connection.flags.ready = true;
            self.ready.push_back(key);
        }
    }

    fn feed_ready(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else { return };
            let Some(connection) = self.connection_mut(key) else { continue };
            connection.flags.ready = false;
            if connection.flags.paused {
                continue;
            }
            if connection.carry.is_some() {
                self.feed_carry(key);
            }
            self.after_feed(key);
        }
    }

    // ---- ending ------------------------------------------------------------------------------------------------

    /// The peer broke the rules after bind.
    fn violate(&mut self, key: Key, violation: Violation) {
        self.end_stream(key, violation.condition());
    }

    /// Ends a bound stream with an error, after what its outbox still holds (RFC 6120 §4.9).
    fn end_stream(&mut self, key: Key, error: impl Into<stream::StreamError>) {
        let error = error.into();
        self.shard.counters.stream_errors[error.condition] += 1;
        let last = self.forget_session(key);
        if let Some(connection) = self.connection_mut(key) {
            connection.out.extend_from_slice(&last);
            stream::write_error(&mut connection.out, error, "");
        }
        self.shard.give_buffer(last);
        self.finish(key);
    }

    /// The session went to another connection: this one's stream ends with `conflict` (XEP-0198 v1.6.3 §5).
    fn displace(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        if !matches!(connection.phase, Phase::Session(_)) {
            return;
        }
        connection.phase = Phase::Closing;
        stream::write_error(&mut connection.out, stream::Condition::Conflict, "");
        self.shard.counters.stream_errors[stream::Condition::Conflict] += 1;
        self.finish(key);
    }

    /// The connection was cut off: its session waits to be resumed if it may, and ends otherwise.
    fn lose_session(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        let Phase::Session(id) = connection.phase else { return };
        let now = self.due(0);
        let mut until = 0;
        let waits = self.shard.hibernate(id, |seconds| {
            until = now + u64::from(seconds) * 1_000 / TICK.as_millis() as u64;
            until
        });
        if !waits {
            drop(self.forget_session(key));
            return;
        }
        self.wheel.insert(until, SESSION | id.to_token());
        if let Some(connection) = self.connection_mut(key) {
            connection.phase = Phase::Closing;
        }
    }

    /// The peer closed its stream: answer the close (RFC 6120 §4.4).
    fn say_close(&mut self, key: Key) {
        if let Some(connection) = self.connection_mut(key) {
            connection.out.extend_from_slice(b"</stream:stream>");
        }
        self.finish(key);
    }

    /// Takes the session out of the shard; its last bytes are returned.
    fn forget_session(&mut self, key: Key) -> Vec<u8> {
        let Some(connection) = self.connection_mut(key) else { return Vec::new() };
        let Phase::Session(id) = connection.phase else { return Vec::new() };
        connection.phase = Phase::Closing;
        let bytes = self.shard.end(id);
        self.shard.counters.sessions = self.shard.sessions() as u64;
        bytes
    }

    /// Writes out what waits, then waits a little for the peer to close (RFC 6120 §4.4). Our side is not shut first: the
    /// ring hands a shutdown to a kernel thread, which costs more than all the rest of a connection's end.
    fn finish(&mut self, key: Key) {
        if let Some(carry) = self.take_carry(key) {
            self.recycle_carry(carry);
        }
        let Some(connection) = self.connection_mut(key) else { return };
        connection.phase = Phase::Closing;
        self.release_negotiation(key);
        self.set_deadline(key, LINGER);
        self.mark_flush(key);
        self.arm(key);
    }

    fn release_negotiation(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        if std::mem::take(&mut connection.flags.unauthenticated) {
            self.unauthenticated = self.unauthenticated.saturating_sub(1);
            self.shard.counters.negotiating = u64::from(self.unauthenticated);
        }
    }

    /// Closes the socket at once.
    fn close(&mut self, key: Key) {
        self.forget_session(key);
        self.release_negotiation(key);
        if let Some(carry) = self.take_carry(key) {
            self.recycle_carry(carry);
        }
        let Some(connection) = self.connection_mut(key) else { return };
        if connection.flags.closed {
            return;
        }
        connection.phase = Phase::Closing;
        connection.flags.closed = true;
        let armed = match connection.reading {
            Reading::None | Reading::Cancelling => None,
            Reading::Once => Some(Op::Recv),
            Reading::Multi => Some(Op::RecvMulti),
            Reading::Poll => Some(Op::Poll),
        };
        let outstanding = [armed, connection.flags.sending.then_some(Op::Send)];
        let slot = connection.slot;
        connection.operations += 1 + outstanding.iter().flatten().count() as u16;
        for op in outstanding.into_iter().flatten() {
            self.ring.cancel(op, key);
        }
        self.ring.close(slot, key);
    }

    // ---- writing -----------------------------------------------------------------------------------------------

    fn mark_flush(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        if !connection.flags.flushing {
            connection.flags.flushing = true;
            self.flushes.push(key);
        }
    }

    fn flush_all(&mut self) {
        while let Some((_, key)) = self.shard.next_dirty() {
            self.flush(key);
        }
        while let Some(key) = self.flushes.pop() {
            if let Some(connection) = self.connection_mut(key) {
                connection.flags.flushing = false;
            }
            self.flush(key);
        }
    }

    /// Hands what waits for a client to the kernel, one send at a time.
    fn flush(&mut self, key: Key) {
        let tick = self.tick;
        let Some(connection) =
            self.connections.get_mut(key.index as usize).filter(|found| found.generation == key.generation)
        else {
            return;
        };
        if connection.flags.sending || connection.flags.closed {
            return;
        }
        let mut plain = std::mem::take(&mut connection.out);
        if let Phase::Session(id) = connection.phase {
            let outbox = self.shard.take_outbox(id);
            if plain.is_empty() {
                self.shard.give_buffer(plain);
                plain = outbox;
            } else {
                plain.extend_from_slice(&outbox);
                self.shard.give_buffer(outbox);
            }
        }
        let closing = matches!(connection.phase, Phase::Closing);
        let wire = match &mut connection.tls {
            None => plain,
            Some(tls) => {
                let mut wire = self.shard.take_buffer();
                let ready = tls.established || plain.is_empty();
                let encrypted = if ready { tls.encrypt(&plain, &mut wire).is_ok() } else { false };
                if closing && tls.established && !connection.flags.said {
                    tls.close_notify(&mut wire);
                }
                self.shard.give_buffer(plain);
                if !encrypted {
                    wire.append(&mut std::mem::take(&mut tls.raw_out));
                }
                wire
            }
        };
        if wire.is_empty() {
            self.shard.give_buffer(wire);
            return;
        }
        connection.flags.said = closing;
        connection.flags.sending = true;
        connection.operations += 1;
        connection.sending_since = tick;
        self.shard.counters.bytes_out += wire.len() as u64;
        self.sends += 1;
        self.ring.send(connection.slot, key, &mut connection.sending, wire);
    }

    fn on_sent(&mut self, key: Key, result: i32) {
        let tick = self.tick;
        let Some(connection) =
            self.connections.get_mut(key.index as usize).filter(|found| found.generation == key.generation)
        else {
            return;
        };
        let Some(buffer) = self.ring.sent(connection.slot, key, &mut connection.sending, result) else {
            connection.operations += 1;
            connection.sending_since = tick;
            return;
        };
        connection.flags.sending = false;
        self.sends -= 1;
        self.shard.give_buffer(buffer);
        if result < 0 {
            return self.on_end(key);
        }
        match connection.phase {
            Phase::Session(id) => {
                if self.shard.written(id) || !connection.out.is_empty() {
                    self.mark_flush(key);
                }
            }
            Phase::Leaving(..) => self.leave(key),
            Phase::Closing | Phase::Handshake(_) | Phase::Negotiating(_) => self.mark_flush(key),
        }
    }

    // ---- between shards ----------------------------------------------------------------------------------------

    fn drain_mesh(&mut self) {
        let mut arrived = Vec::new();
        let (port, shard, spares) = (&self.parts.port, &mut self.shard, &mut self.spares);
        port.drain(|from, parcel| match parcel {
            Parcel::Batch(mut batch) => {
                shard.handoff(from, &mut batch);
                spares.push(batch);
                if shard.take_full() {
                    send_batches(port, self.parts.shards, shard, spares);
                }
            }
            Parcel::Migrant(migrant) => arrived.push(migrant),
        });
        spares.truncate(64);
        for migrant in arrived {
            self.on_migrant(*migrant);
        }
    }

    /// Hands batches over before the turn ends, if one is full: so a turn that does much drops nothing for want of room.
    fn hand_over_full(&mut self) {
        if self.shard.take_full() {
            send_batches(&self.parts.port, self.parts.shards, &mut self.shard, &mut self.spares);
        }
    }

    fn hand_over(&mut self) {
        send_batches(&self.parts.port, self.parts.shards, &mut self.shard, &mut self.spares);
        while let Some((shard, migrant)) = self.departures.pop_front() {
            if let Err(Parcel::Migrant(migrant)) = self.parts.port.try_send(shard, Parcel::Migrant(migrant)) {
                self.departures.push_front((shard, migrant));
                break;
            }
        }
        // Senders that waited for the mesh may go on now.
        self.carry_out();
    }

    fn carry_out(&mut self) {
        let tick = self.tick;
        while let Some(effect) = self.shard.poll_effect() {
            match effect {
                Effect::Resume(key) => {
                    if let Some(connection) = self.connection_mut(key)
                        && matches!(connection.phase, Phase::Session(_))
                    {
                        connection.flags.paused = false;
                        // What came before the pause could not go on meanwhile.
                        connection.partial_since = tick;
                        self.mark_ready(key);
                    }
                }
                Effect::End(key, condition) => self.end_stream(key, condition),
                Effect::Service(request, reply_to) => self.call_service(*request, reply_to),
                Effect::Errand(account, errand) => self.run_errand(account, *errand),
                Effect::Recipients(recipients) => self.read_recipients(*recipients),
                Effect::LastItems(wanted) => self.read_last_items(*wanted),
                Effect::Login(key, known) => self.on_known(key, known),
                Effect::Displace(key) => self.displace(key),
                Effect::Expire(id) => self.shard.expire(id, None),
                Effect::Watch(id) => {
                    let due = u64::from(self.tick) + u64::from(self.stuck_ticks()).max(1);
                    self.shard.watch_until(id, due);
                    self.wheel.insert(due, SESSION | id.to_token());
                }
                Effect::Tokens(key, kept) => self.on_tokens(key, kept),
            }
        }
    }

    fn run_errand(&mut self, account: Jid, errand: Errand) {
        let (config, store) = (Arc::clone(&self.parts.errands), self.parts.store.clone());
        let outcomes = Rc::clone(&self.outcomes);
        let now = unix_millis();
        self.tasks.spawn(async move {
            let brought = errands::run(&config, &store, &account, errand, now).await;
            outcomes.borrow_mut().push_back(Outcome::Errand(account, brought));
        });
    }

    fn call_service(&mut self, mut request: Request, reply_to: ReplyTo) {
        request.unix_millis = unix_millis();
        let caller = request.caller.clone();
        let answer = services::answer(Arc::clone(&self.parts.services), self.parts.store.clone(), request);
        let outcomes = Rc::clone(&self.outcomes);
        self.tasks.spawn(async move {
            let reply = answer.await;
            outcomes.borrow_mut().push_back(Outcome::Reply(caller, reply_to, reply));
        });
    }

    fn read_recipients(&mut self, mut recipients: Recipients) {
        let (store, outcomes) = (self.parts.store.clone(), Rc::clone(&self.outcomes));
        self.tasks.spawn(async move {
            let page = recipients.next(&store).await;
            outcomes.borrow_mut().push_back(Outcome::Recipients(recipients, page));
        });
    }

    fn read_last_items(&mut self, (owner, resource, nodes): (Jid, Jid, Nodes)) {
        let (services, store) = (Arc::clone(&self.parts.services), self.parts.store.clone());
        let outcomes = Rc::clone(&self.outcomes);
        self.tasks.spawn(async move {
            match pubsub::last_items_of(&services.pubsub, &store, owner, &resource, &nodes, unix_millis()).await {
                Ok(items) => outcomes.borrow_mut().push_back(Outcome::LastItems(items)),
                Err(error) => tracing::warn!(%error, "last items could not be read"),
            }
        });
    }

    fn take_outcomes(&mut self) {
        loop {
            let Some(outcome) = self.outcomes.borrow_mut().pop_front() else { return };
            match outcome {
                Outcome::Errand(account, brought) => self.shard.errand_done(&account, brought),
                Outcome::Password(key, matches) => self.on_password(key, matches),
                Outcome::Reply(caller, reply_to, reply) => self.shard.reply(&caller, reply_to, reply),
                Outcome::Recipients(recipients, page) => self.shard.recipients_read(recipients, page),
                Outcome::LastItems(items) => self.shard.last_items(items),
            }
        }
    }

    // ---- time and commands -------------------------------------------------------------------------------------

    fn set_deadline(&mut self, key: Key, after: Duration) {
        let ticks = u32::try_from(after.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX).max(1);
        let due = self.tick.saturating_add(ticks);
        let Some(connection) = self.connection_mut(key) else { return };
        connection.due = due;
        self.wheel.insert(u64::from(due), u64::from(key.generation) << 32 | u64::from(key.index));
    }

    fn on_time(&mut self) {
        let mut fired = Vec::new();
        self.wheel.advance(u64::from(self.tick), |token| fired.push(token));
        for token in fired {
            if token == REARM {
                self.arm_listeners();
                continue;
            }
            if token & SESSION != 0 {
                self.shard.expire(SessionId::from_token(token & !SESSION), Some(u64::from(self.tick)));
                self.hand_over_full();
                continue;
            }
            let key = Key { index: token as u32, generation: (token >> 32) as u32 };
            self.on_deadline(key);
        }
        if self.tick >= self.sweep_at {
            self.sweep_at = self.tick + 10;
            self.sweep();
        }
    }

    /// An accept ended: at once again, or, out of descriptors most likely, in a second rather than spinning.
    fn accept_again(&mut self, index: u32, later: bool) {
        let Some(listener) = self.listeners.get_mut(index as usize) else { return };
        listener.armed = false;
        if later {
            self.wheel.insert(u64::from(self.tick) + 10, REARM);
        } else {
            self.arm_listeners();
        }
    }

    fn arm_listeners(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            if !listener.armed {
                listener.armed = true;
                self.ring.accept(&listener.socket, index as u32);
            }
        }
    }

    fn on_deadline(&mut self, key: Key) {
        let tick = self.tick;
        let Some(connection) = self.connection_mut(key) else { return };
        if connection.due == 0 || connection.due > tick || connection.flags.closed {
            return;
        }
        connection.due = 0;
        match &mut connection.phase {
            Phase::Session(_) => {}
            Phase::Handshake(_) => {
                self.shard.counters.tls_handshakes[Handshake::TimedOut] += 1;
                self.close(key);
            }
            Phase::Closing => self.close(key),
            Phase::Leaving(..) => self.set_deadline(key, Duration::from_secs(1)),
            Phase::Negotiating(stream) => {
                stream.handle_timeout(&mut connection.out);
                self.shard.counters.stream_errors[stream::Condition::ConnectionTimeout] += 1;
                self.finish(key);
            }
        }
    }

    /// Once a second while there is traffic: quiet sessions give up their armed receive, and streams that are stuck end.
    fn sweep(&mut self) {
        let tick = self.tick;
        let hot = std::mem::take(&mut self.hot);
        for key in hot {
            let Some(connection) = self.connection_mut(key) else { continue };
            if connection.reading != Reading::Multi {
                connection.flags.hot = false;
                continue;
            }
            if tick.saturating_sub(connection.active) < QUIET_TICKS {
                self.hot.push(key);
                continue;
            }
            connection.reading = Reading::Cancelling;
            connection.flags.busy = false;
            connection.flags.hot = false;
            connection.operations += 1;
            self.ring.cancel(Op::RecvMulti, key);
        }
        let limit = self.stuck_ticks();
        let late = |since: u32| tick.saturating_sub(since) > limit;
        self.partial_records = false;
        let (mut unsent, mut unended) = (Vec::new(), Vec::new());
        for (index, connection) in &self.connections {
            if !matches!(connection.phase, Phase::Session(_)) {
                continue;
            }
            let key = Key { index: index as u32, generation: connection.generation };
            if connection.flags.sending && late(connection.sending_since) {
                unsent.push(key);
            } else if connection.is_partial() && !connection.flags.paused {
                self.partial_records |= connection.carry.is_none();
                if late(connection.partial_since) {
                    unended.push(key);
                }
            }
        }
        for key in unsent {
            self.shard.counters.drops[DropReason::OutboxFull] += 1;
            self.lose_session(key);
            self.close(key);
        }
        for key in unended {
            self.end_stream(key, stream::Condition::ConnectionTimeout);
        }
    }

    /// How long a session may make no progress.
    fn stuck_ticks(&self) -> u32 {
        (self.parts.limits.stuck_timeout.as_millis() / TICK.as_millis()) as u32
    }

    /// Sessions that may be resumed are kept for the next start; their streams end like all others.
    fn keep_resumables(&mut self) {
        let mut kept = Vec::new();
        let mut streams = Vec::new();
        for (index, connection) in &self.connections {
            if let Phase::Session(id) = connection.phase
                && self.shard.is_resumable(id)
            {
                streams.push(Key { index: index as u32, generation: connection.generation });
            }
        }
        for id in self.shard.all_sessions() {
            kept.extend(self.shard.retire(id));
        }
        for key in streams {
            let Some(connection) = self.connection_mut(key) else { continue };
            connection.phase = Phase::Closing;
            stream::write_error(&mut connection.out, stream::Condition::SystemShutdown, "");
            self.finish(key);
        }
        if kept.is_empty() {
            return;
        }
        let (store, keeping) = (self.parts.store.clone(), Rc::clone(&self.keeping));
        keeping.set(true);
        let shard = self.parts.id.0;
        self.tasks.spawn(async move {
            if let Err(error) = resumables::store(&store, &kept).await {
                tracing::error!(shard, %error, "sessions could not be kept for the next start");
            }
            keeping.set(false);
        });
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::AccountChanged(bare, condition) => {
                self.shard.account_changed(bare.as_jid());
                if let Some(condition) = condition {
                    self.shard.terminate_account(bare.as_jid(), condition);
                }
            }
            Command::Stop(deadline) => self.stop(deadline),
        }
    }

    /// Graceful stop: no new connections, `system-shutdown` to every stream (RFC 6120 §4.9.3.20).
    fn stop(&mut self, deadline: Instant) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(deadline);
        for index in 0..self.listeners.len() {
            self.ring.cancel_accept(index as u32);
        }
        self.keep_resumables();
        for id in self.shard.all_sessions() {
            self.shard.terminate(id, stream::Condition::SystemShutdown);
        }
        let keys: Vec<Key> = self
            .connections
            .iter()
            .map(|(index, connection)| Key { index: index as u32, generation: connection.generation })
            .collect();
        for key in keys {
            let Some(connection) = self.connection_mut(key) else { continue };
            match &mut connection.phase {
                Phase::Negotiating(stream) => {
                    stream.handle_abort(stream::Condition::SystemShutdown, &mut connection.out);
                    self.finish(key);
                }
                Phase::Handshake(_) => self.close(key),
                Phase::Session(_) | Phase::Closing | Phase::Leaving(..) => {}
            }
        }
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
