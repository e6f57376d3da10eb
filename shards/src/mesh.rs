//! The mesh: one bounded lock-free queue of batches per ordered pair of shards, and the bell that wakes a sleeping
//! shard.
//!
//! Called by the shard loop: once per turn it hands over a batch for each shard it has something for, and drains what
//! the others sent. The control thread reaches a shard through an [`Inbox`], which rings the same [`Bell`]. The mesh never
//! blocks and never buffers without bound: when a queue is full the sender keeps its batch and decides there and then. It
//! knows nothing of what the batches hold.
//!
//! # Who sleeps
//!
//! A shard with nothing to do says so, looks once more, and only then waits; a producer publishes first and looks for a
//! sleeper second. Between each side's write and its read stands a `SeqCst` fence, so that at least one of the two sees
//! the other (`shards/loom/tests/mesh.rs` runs every interleaving):
//!
//! ```text
//! producer: publish → fence → asleep? → swap(asleep, false)? → write the eventfd          (Bell::ring)
//! shard:    asleep = true → fence       → look at every queue → wait → asleep = false     (prepare_sleep … awake)
//! ```

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::sync::OnceLock;

use crossbeam::utils::CachePadded;

use crate::sync::{Arc, ArrayQueue, AtomicBool, Ordering, SegQueue, fence};

/// A shard, by its number from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Ends a shard's wait, from any thread: writes the shard's eventfd. Must neither block nor panic, and must be
/// remembered if the shard does not wait yet.
pub type WakeHandle = Box<dyn Fn() + Send + Sync>;

/// Every shard's queues and bell; shared by all of them.
///
/// Between two shards the order of sending is kept. `T` is a batch: an operation costs some 50 ns and a fence, so it
/// should carry all that a turn has for one shard.
pub struct Mesh<T> {
    doors: Box<[Door<T>]>,
}

/// Where one shard receives.
struct Door<T> {
    bell: Arc<Bell>,
    /// By sender. A shard has a queue to itself too, so that no caller needs to tell that case apart.
    lanes: Box<[CachePadded<ArrayQueue<T>>]>,
}

impl<T> Mesh<T> {
    /// A mesh between `shards` shards, each of whose queues holds at most `capacity` batches. Memory for all of them is
    /// taken here: `shards² × capacity` batches.
    ///
    /// # Panics
    /// If `capacity` is 0.
    pub fn new(shards: u16, capacity: usize) -> Arc<Self> {
        assert!(capacity > 0, "a queue of no batches carries none");
        let lanes = || (0..shards).map(|_| CachePadded::new(ArrayQueue::new(capacity))).collect();
        let doors = (0..shards).map(|_| Door { bell: Arc::new(Bell::hang(OnceLock::new())), lanes: lanes() });
        Arc::new(Self { doors: doors.collect() })
    }

    /// The end of the mesh that `shard`'s thread owns. `wake` ends that thread's wait. To be called once per shard,
    /// before or after others have begun to send to it.
    ///
    /// # Panics
    /// If the mesh has no such shard, or its port was handed out before.
    pub fn port(self: &Arc<Self>, shard: ShardId, wake: WakeHandle) -> Port<T> {
        let door = self.door(shard).expect("the caller numbers shards from 0 up to what it gave to Mesh::new");
        assert!(door.bell.wake.set(wake).is_ok(), "shard {shard} has its port already");
        Port { mesh: Arc::clone(self), shard, first: Cell::new(0) }
    }

    /// The bell of `shard`, for its other producers; known before the shard has taken its port.
    pub fn bell(&self, shard: ShardId) -> Option<&Arc<Bell>> {
        self.door(shard).map(|door| &door.bell)
    }

    fn door(&self, shard: ShardId) -> Option<&Door<T>> {
        self.doors.get(usize::from(shard.0))
    }
}

/// One shard's end of the mesh; owned by that shard's thread.
pub struct Port<T> {
    mesh: Arc<Mesh<T>>,
    shard: ShardId,
    /// Whom the next [`Port::drain`] hears first. With it a port is not `Sync`: order between two shards is the order in
    /// which one thread sends.
    first: Cell<usize>,
}

impl<T> Port<T> {
    /// Hands `batch` to shard `to`, and wakes it if it sleeps. Never blocks.
    ///
    /// # Errors
    /// The batch itself, if the queue is full (or the mesh has no such shard): the sender decides what becomes of it.
    pub fn try_send(&self, to: ShardId, batch: T) -> Result<(), T> {
        let Some((bell, lane)) = self.lane(to) else { return Err(batch) };
        lane.push(batch)?;
        bell.ring();
        Ok(())
    }

    /// Takes what the other shards (and this one) have sent, in each sender's order, and gives how many batches that
    /// were. Bounded: from each sender, what was there when its turn came, at most the queue's capacity. The sender
    /// heard first changes with every call. `each` may send.
    pub fn drain(&self, mut each: impl FnMut(ShardId, T)) -> usize {
        let Some(door) = self.mesh.door(self.shard) else { return 0 };
        let lanes = (0..).map(ShardId).zip(&door.lanes);
        let mut drained = 0;
        let first = self.first.get();
        for (from, lane) in lanes.clone().skip(first).chain(lanes.take(first)) {
            for _ in 0..lane.len() {
                let Some(batch) = lane.pop() else { break };
                each(from, batch);
                drained += 1;
            }
        }
        self.first.set((first + 1) % door.lanes.len());
        drained
    }

    /// Whether nothing waits to be drained: the look to take between [`Bell::prepare_sleep`] and waiting.
    pub fn is_empty(&self) -> bool {
        self.mesh.door(self.shard).is_none_or(|door| door.lanes.iter().all(|lane| lane.is_empty()))
    }

    /// How many of our batches `to` has not taken yet.
    pub fn depth(&self, to: ShardId) -> usize {
        self.lane(to).map_or(0, |(_, lane)| lane.len())
    }

    /// The shard whose end this is.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// This shard's bell: to sleep by, and to give to its other producers.
    pub fn bell(&self) -> &Arc<Bell> {
        self.mesh.bell(self.shard).expect("Mesh::port found this shard")
    }

    /// The bell of `to` and the queue from this shard to it.
    fn lane(&self, to: ShardId) -> Option<(&Bell, &ArrayQueue<T>)> {
        let door = self.mesh.door(to)?;
        Some((&door.bell, door.lanes.get(usize::from(self.shard.0))?))
    }
}

/// Wakes one shard if, and only if, it sleeps: that it may sleep is a flag in memory, so that ringing for a shard that
/// is awake costs a fence and a load.
pub struct Bell {
    /// Whether the shard waits, or is about to. Carries no data: that is published by the queues.
    asleep: CachePadded<AtomicBool>,
    /// Empty until the shard has taken its port: so long it can't sleep, and will look before it does.
    wake: OnceLock<WakeHandle>,
}

impl Bell {
    /// A bell that calls `wake` when rung for a sleeper.
    pub fn new(wake: WakeHandle) -> Self {
        Self::hang(OnceLock::from(wake))
    }

    fn hang(wake: OnceLock<WakeHandle>) -> Self {
        Self { asleep: CachePadded::new(AtomicBool::new(false)), wake }
    }

    /// Called by a producer, on any thread, *after* it has published something for the shard.
    pub fn ring(&self) {
        // Pairs with the fence in `prepare_sleep`: whichever comes first, either the load below sees the sleeper, or
        // the sleeper's look at its queues sees what was published.
        fence(Ordering::SeqCst);
        // The load (no partner of its own: ordered by the fences) spares a busy shard's bell the write. Of several
        // producers the swap lets one write the eventfd. Its Release pairs with the Acquire in `awake`.
        if self.asleep.load(Ordering::Relaxed)
            && self.asleep.swap(false, Ordering::Release)
            && let Some(wake) = self.wake.get()
        {
            wake();
        }
    }

    /// Called by the shard when it found nothing to do. It **must** then look at everything that this bell is rung for
    /// ([`Port::is_empty`], [`Inbox::is_empty`], [`Tasks::is_idle`](crate::tasks::Tasks::is_idle)) and wait only if all
    /// of it is empty; in either case [`Bell::awake`] follows.
    pub fn prepare_sleep(&self) {
        // Pairs with the load and swap in `ring`, through the fences. A plain store would do on paper, where a swap in
        // `ring` that found the flag down cannot come after this; loom does not know that of a swap, and every write
        // being one costs only those who go to sleep.
        self.asleep.swap(true, Ordering::Relaxed);
        // Pairs with the fence in `ring`.
        fence(Ordering::SeqCst);
    }

    /// Called by the shard after its wait, whatever ended it, or instead of it. What was published before the ring that
    /// woke it is visible from here on.
    pub fn awake(&self) {
        // Pairs with the Release of the swap in `ring`.
        self.asleep.swap(false, Ordering::Acquire);
    }
}

/// A queue into one shard from threads that are not shards and must not wait for it: the control thread. Shared; the shard
/// alone takes from it.
///
/// It has no bound of its own, since a shard that stalls must hold up neither its watchdog nor what the others are told: what
/// it holds is what operators asked for meanwhile.
pub struct Inbox<T> {
    items: SegQueue<T>,
    bell: Arc<Bell>,
}

impl<T> Inbox<T> {
    /// An inbox whose shard is woken by `bell`.
    pub fn new(bell: Arc<Bell>) -> Self {
        Self { items: SegQueue::new(), bell }
    }

    /// Appends `item`, and wakes the shard if it sleeps. Never waits.
    pub fn push(&self, item: T) {
        self.items.push(item);
        self.bell.ring();
    }

    /// Takes the oldest item.
    pub fn pop(&self) -> Option<T> {
        self.items.pop()
    }

    /// Whether nothing waits: the look to take between [`Bell::prepare_sleep`] and waiting.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    /// A wake handle that counts its calls.
    fn counting() -> (WakeHandle, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let handle = Arc::clone(&calls);
        (
            Box::new(move || {
                handle.fetch_add(1, Ordering::Relaxed);
            }),
            calls,
        )
    }

    fn ports(shards: u16, capacity: usize) -> Vec<Port<u32>> {
        let mesh = Mesh::new(shards, capacity);
        (0..shards).map(|shard| mesh.port(ShardId(shard), Box::new(|| ()))).collect()
    }

    fn drained(port: &mut Port<u32>) -> Vec<(u16, u32)> {
        let mut batches = Vec::new();
        let count = port.drain(|from, batch| batches.push((from.0, batch)));
        assert_eq!(count, batches.len());
        batches
    }

    #[test]
    fn batches_arrive_in_order_with_their_sender() {
        let mut ports = ports(3, 4);
        ports[0].try_send(ShardId(2), 1).unwrap();
        ports[1].try_send(ShardId(2), 10).unwrap();
        ports[0].try_send(ShardId(2), 2).unwrap();
        ports[2].try_send(ShardId(2), 20).unwrap();
        assert_eq!(drained(&mut ports[2]), [(0, 1), (0, 2), (1, 10), (2, 20)]);
        assert!(ports[2].is_empty());
        assert_eq!(drained(&mut ports[0]), []);
    }

    #[test]
    fn a_full_queue_gives_the_batch_back() {
        let mut ports = ports(2, 2);
        ports[0].try_send(ShardId(1), 1).unwrap();
        ports[0].try_send(ShardId(1), 2).unwrap();
        assert_eq!(ports[0].try_send(ShardId(1), 3), Err(3));
        assert_eq!(ports[0].depth(ShardId(1)), 2);
        assert_eq!(ports[1].try_send(ShardId(0), 4), Ok(()), "the other direction has room of its own");
        assert_eq!(drained(&mut ports[1]), [(0, 1), (0, 2)]);
        assert_eq!(ports[0].try_send(ShardId(1), 3), Ok(()));
    }

    #[test]
    fn a_shard_the_mesh_lacks_takes_nothing() {
        let ports = ports(2, 1);
        assert_eq!(ports[0].try_send(ShardId(2), 7), Err(7));
        assert_eq!(ports[0].depth(ShardId(2)), 0);
    }

    #[test]
    fn who_is_heard_first_rotates() {
        let mut ports = ports(2, 1);
        let mut heard = Vec::new();
        for _ in 0..3 {
            ports[0].try_send(ShardId(0), 0).unwrap();
            ports[1].try_send(ShardId(0), 0).unwrap();
            heard.push(drained(&mut ports[0])[0].0);
        }
        assert_eq!(heard, [0, 1, 0]);
    }

    #[test]
    fn what_arrives_during_a_drain_waits_for_the_next() {
        let mesh = Mesh::new(1, 4);
        let mut port = mesh.port(ShardId(0), Box::new(|| ()));
        let lane = &mesh.doors[0].lanes[0];
        port.try_send(ShardId(0), 0).unwrap();
        assert_eq!(port.drain(|_, batch| lane.push(batch + 1).unwrap()), 1);
        assert_eq!(drained(&mut port), [(0, 1)]);
    }

    #[test]
    fn only_a_sleeper_is_woken_and_only_once() {
        let (wake, calls) = counting();
        let bell = Arc::new(Bell::new(wake));
        let inbox = Inbox::new(Arc::clone(&bell));
        inbox.push('a');
        assert_eq!(calls.load(Ordering::Relaxed), 0);
        bell.prepare_sleep();
        inbox.push('b');
        bell.ring();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        bell.awake();
        bell.ring();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        assert_eq!((inbox.pop(), inbox.pop(), inbox.pop()), (Some('a'), Some('b'), None));
    }

    #[test]
    fn a_batch_sent_before_the_port_was_taken_is_there() {
        let mesh = Mesh::new(2, 1);
        let sender = mesh.port(ShardId(0), Box::new(|| ()));
        sender.try_send(ShardId(1), 5).unwrap();
        mesh.bell(ShardId(1)).unwrap().ring();
        let mut late = mesh.port(ShardId(1), Box::new(|| ()));
        assert_eq!(drained(&mut late), [(0, 5)]);
    }

    #[test]
    fn four_sleeping_shards_lose_nothing() {
        const EACH: u32 = 20_000;
        let mesh = Mesh::new(4, 8);
        thread::scope(|scope| {
            for shard in 0..4u16 {
                let mesh = &mesh;
                scope.spawn(move || {
                    let me = thread::current();
                    let port = mesh.port(ShardId(shard), Box::new(move || me.unpark()));
                    let mut next_from = [0; 4];
                    let mut next_to = [0; 4];
                    while next_from != [EACH; 4] || next_to != [EACH; 4] {
                        let taken = port.drain(|from, batch| {
                            let next = &mut next_from[usize::from(from.0)];
                            assert_eq!(*next, batch, "in order, none lost, none twice");
                            *next += 1;
                        });
                        let mut blocked = false;
                        for to in 0..4 {
                            let next = &mut next_to[usize::from(to)];
                            while *next < EACH && !blocked {
                                match port.try_send(ShardId(to), *next) {
                                    Ok(()) => *next += 1,
                                    Err(batch) => blocked = batch == *next,
                                }
                            }
                        }
                        if blocked {
                            thread::yield_now(); // A full queue does not ring when it empties: senders come back.
                        } else if taken == 0 {
                            port.bell().prepare_sleep();
                            if port.is_empty() && next_from != [EACH; 4] {
                                thread::park();
                            }
                            port.bell().awake();
                        }
                    }
                });
            }
        });
    }
}
