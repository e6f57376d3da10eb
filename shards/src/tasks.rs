//! Tasks: the service futures of one shard, polled between its other work.
//!
//! Called by the shard loop, once per turn and with a budget. What a future waits for (a store completion, a reply from
//! another shard) may come from any thread: its waker queues the task and rings the shard's [`Bell`]. Nothing here
//! knows a runtime, a clock or a ring.
//!
//! A task is in the ready queue at most once: its flag `queued` is set by whoever puts it there, and cleared just before
//! it is polled, so that a wake during the poll queues it anew (`shards/loom/tests/tasks.rs` runs every interleaving).

#![forbid(unsafe_code)]

use std::pin::Pin;
use std::task::{Context, Wake, Waker};

use slab::Slab;

use crate::mesh::Bell;
use crate::sync::{Arc, AtomicBool, Ordering, SegQueue};

/// A shard's futures. Lives on that shard's thread (the futures need not be `Send`); its wakers may go anywhere, and may
/// outlive it.
pub struct Tasks {
    tasks: Slab<Task>,
    ready: Arc<Ready>,
    /// How many were ever spawned: tells a task from a former one in the same slot.
    spawned: u64,
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    summons: Arc<Summons>,
    /// Wakes by `summons`; kept so that a poll counts no references.
    waker: Waker,
}

/// Which task: its slot, and its number since the start.
#[derive(Clone, Copy, PartialEq, Eq)]
struct TaskId {
    slot: usize,
    serial: u64,
}

/// What the wakers of all tasks share.
struct Ready {
    queue: SegQueue<TaskId>,
    bell: Arc<Bell>,
}

/// What the wakers of one task share.
struct Summons {
    task: TaskId,
    /// Whether `task` is in the ready queue, or about to be.
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Tasks {
    /// An empty set, whose wakers ring `bell`.
    pub fn new(bell: Arc<Bell>) -> Self {
        Self { tasks: Slab::new(), ready: Arc::new(Ready { queue: SegQueue::new(), bell }), spawned: 0 }
    }

    /// Adds `future`; it is first polled by the next [`Tasks::poll_ready`].
    pub fn spawn(&mut self, future: impl Future<Output = ()> + 'static) {
        let vacant = self.tasks.vacant_entry();
        let task = TaskId { slot: vacant.key(), serial: self.spawned };
        self.spawned += 1;
        let summons = Arc::new(Summons { task, queued: AtomicBool::new(true), ready: Arc::clone(&self.ready) });
        let waker = Waker::from(Arc::clone(&summons));
        vacant.insert(Task { future: Box::pin(future), summons, waker });
        self.ready.queue.push(task);
    }

    /// Polls tasks that are new or were woken, oldest call first, and gives how many ran. Bounded by `budget` and by
    /// what was ready when called: a task that wakes itself runs in the next call.
    pub fn poll_ready(&mut self, budget: usize) -> usize {
        let mut ran = 0;
        for _ in 0..self.ready.queue.len().min(budget) {
            let Some(id) = self.ready.queue.pop() else { break };
            // Late wakes of finished tasks find an empty slot, or another's.
            let Some(task) = self.tasks.get_mut(id.slot).filter(|task| task.summons.task == id) else { continue };
            // Pairs with the Release in `Summons::wake_by_ref`, of every waker since the last poll: those that found
            // the flag set continue the release sequence. A swap, since a plain store would read from none of them.
            task.summons.queued.swap(false, Ordering::Acquire);
            ran += 1;
            if task.future.as_mut().poll(&mut Context::from_waker(&task.waker)).is_ready() {
                self.tasks.remove(id.slot);
            }
        }
        ran
    }

    /// Whether nothing is ready to be polled: the look to take between [`Bell::prepare_sleep`] and waiting.
    pub fn is_idle(&self) -> bool {
        self.ready.queue.is_empty()
    }

    /// How many tasks have not finished.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether every task has finished.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

impl Wake for Summons {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Pairs with the Acquire in `Tasks::poll_ready`: the poll that answers this wake sees what came before it. Who
        // finds the flag set leaves queueing and ringing to whoever set it.
        if !self.queued.swap(true, Ordering::Release) {
            self.ready.queue.push(self.task);
            self.ready.bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Poll;
    use std::thread;

    use super::*;

    fn tasks() -> Tasks {
        Tasks::new(Arc::new(Bell::new(Box::new(|| ()))))
    }

    /// A future that counts its polls, leaves its waker, and is done once told.
    struct Probe {
        polls: Cell<usize>,
        waker: RefCell<Option<Waker>>,
        done: Cell<bool>,
    }

    impl Probe {
        fn spawn_in(tasks: &mut Tasks) -> Rc<Self> {
            let probe = Rc::new(Self { polls: Cell::new(0), waker: RefCell::new(None), done: Cell::new(false) });
            let inside = Rc::clone(&probe);
            tasks.spawn(poll_fn(move |cx| {
                inside.polls.set(inside.polls.get() + 1);
                *inside.waker.borrow_mut() = Some(cx.waker().clone());
                if inside.done.get() { Poll::Ready(()) } else { Poll::Pending }
            }));
            probe
        }

        fn wake(&self) {
            self.waker.borrow().as_ref().expect("polled before").wake_by_ref();
        }
    }

    #[test]
    fn a_task_is_polled_when_new_and_when_woken() {
        let mut tasks = tasks();
        let probe = Probe::spawn_in(&mut tasks);
        assert!(!tasks.is_idle());
        assert_eq!((tasks.poll_ready(9), tasks.poll_ready(9)), (1, 0));
        assert!(tasks.is_idle());
        probe.done.set(true);
        probe.wake();
        assert_eq!((tasks.len(), tasks.poll_ready(9), tasks.len()), (1, 1, 0));
        assert_eq!(probe.polls.get(), 2);
    }

    #[test]
    fn many_wakes_are_one_poll() {
        let mut tasks = tasks();
        let probe = Probe::spawn_in(&mut tasks);
        tasks.poll_ready(9);
        probe.wake();
        probe.wake();
        probe.wake();
        assert_eq!((tasks.poll_ready(9), tasks.poll_ready(9)), (1, 0));
    }

    #[test]
    fn the_budget_is_kept_and_what_is_left_runs_next() {
        let mut tasks = tasks();
        let probes: Vec<_> = (0..5).map(|_| Probe::spawn_in(&mut tasks)).collect();
        assert_eq!((tasks.poll_ready(2), tasks.poll_ready(2), tasks.poll_ready(2)), (2, 2, 1));
        assert!(probes.iter().all(|probe| probe.polls.get() == 1));
    }

    #[test]
    fn a_task_that_wakes_itself_runs_in_the_next_call() {
        let mut tasks = tasks();
        let mut left = 3;
        tasks.spawn(poll_fn(move |cx| {
            left -= 1;
            cx.waker().wake_by_ref();
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        }));
        assert_eq!((tasks.poll_ready(9), tasks.poll_ready(9), tasks.len()), (1, 1, 1));
        assert_eq!((tasks.poll_ready(9), tasks.len()), (1, 0));
        assert_eq!((tasks.poll_ready(9), tasks.is_idle()), (0, true), "its last wake came too late");
    }

    #[test]
    fn a_late_wake_does_not_reach_the_next_task_in_the_slot() {
        let mut tasks = tasks();
        let first = Probe::spawn_in(&mut tasks);
        first.done.set(true);
        tasks.poll_ready(9);
        let second = Probe::spawn_in(&mut tasks);
        tasks.poll_ready(9);
        first.wake();
        assert_eq!((tasks.poll_ready(9), tasks.is_idle()), (0, true));
        assert_eq!((first.polls.get(), second.polls.get()), (1, 1));
    }

    #[test]
    fn wakers_may_outlive_the_set() {
        let mut tasks = tasks();
        let probe = Probe::spawn_in(&mut tasks);
        tasks.poll_ready(9);
        drop(tasks);
        probe.wake();
    }

    #[test]
    fn a_wake_from_another_thread_rings_a_sleeping_shard() {
        let me = thread::current();
        let bell = Arc::new(Bell::new(Box::new(move || me.unpark())));
        let mut tasks = Tasks::new(Arc::clone(&bell));
        let replies = Arc::new(AtomicUsize::new(0));
        for _ in 0..64 {
            let replies = Arc::clone(&replies);
            let mut asked = false;
            tasks.spawn(poll_fn(move |cx| {
                if asked {
                    return Poll::Ready(());
                }
                asked = true;
                let (replies, waker) = (Arc::clone(&replies), cx.waker().clone());
                thread::spawn(move || {
                    replies.fetch_add(1, Ordering::Relaxed);
                    waker.wake();
                });
                Poll::Pending
            }));
        }
        while !tasks.is_empty() {
            if tasks.poll_ready(8) > 0 {
                continue;
            }
            bell.prepare_sleep();
            if tasks.is_idle() {
                thread::park();
            }
            bell.awake();
        }
        assert_eq!(replies.load(Ordering::Relaxed), 64);
    }
}
