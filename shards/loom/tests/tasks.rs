//! The tasks' wake flag in every interleaving that loom can find.
//!
//! What a future waits for is read `Relaxed`, so that only the wake itself can make it visible. A lost wake-up shows as
//! a deadlock.

use std::future::poll_fn;
use std::task::{Poll, Waker};

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use plaza_loom::mesh::Bell;
use plaza_loom::sync::Arc;
use plaza_loom::tasks::Tasks;

/// Runs until every task has finished, sleeping as the shard loop does.
fn run(mut tasks: Tasks, bell: &Bell, event: &(Mutex<bool>, Condvar)) {
    while !tasks.is_empty() {
        if tasks.poll_ready(1) > 0 {
            continue;
        }
        bell.prepare_sleep();
        if tasks.is_idle() {
            let mut written = event.0.lock().expect("no panic holds it");
            while !*written {
                written = event.1.wait(written).expect("no panic holds it");
            }
            *written = false;
        }
        bell.awake();
    }
}

/// A task that gives its waker to as many threads as there are `facts` when first polled, and is done when it sees all
/// of them.
fn model(facts: usize) {
    let mut loom = loom::model::Builder::new();
    loom.preemption_bound = Some(3); // Without a bound, two wakers take many minutes.
    loom.check(move || {
        let event = Arc::new((Mutex::new(false), Condvar::new()));
        let written = Arc::clone(&event);
        let bell = Arc::new(Bell::new(Box::new(move || {
            *written.0.lock().expect("no panic holds it") = true;
            written.1.notify_one();
        })));
        let mut tasks = Tasks::new(Arc::clone(&bell));
        let facts: Vec<_> = (0..facts).map(|_| Arc::new(AtomicBool::new(false))).collect();
        let mut asked = false;
        tasks.spawn(poll_fn(move |cx| {
            if !asked {
                asked = true;
                for fact in &facts {
                    let (fact, waker): (_, Waker) = (Arc::clone(fact), cx.waker().clone());
                    thread::spawn(move || {
                        fact.store(true, Ordering::Relaxed);
                        waker.wake();
                    });
                }
            }
            // Looks while its wakers may already fire: the wake is one during the poll, or one after it.
            if facts.iter().all(|fact| fact.load(Ordering::Relaxed)) { Poll::Ready(()) } else { Poll::Pending }
        }));
        run(tasks, &bell, &event);
    });
}

#[test]
fn a_wake_during_the_poll_is_not_lost() {
    model(1);
}

#[test]
fn the_poll_that_answers_two_wakers_sees_what_both_did() {
    model(2);
}
