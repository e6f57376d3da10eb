//! Turns: who changes a node next.
//!
//! A change of a node is read, worked out and committed under a guard, so nothing is ever lost; but of many changes at
//! once all but one would fail and start over. So they wait for each other here, in the order they came. No thread waits:
//! a turn is awaited like the store.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::wait::{Promise, oneshot};

/// Nodes that somebody is changing; cheap to clone. Lives as long as the service's configuration.
#[derive(Clone, Default)]
pub(crate) struct Turns {
    waiting: Arc<Mutex<Waiting>>,
}

/// Who waits for each key that somebody is at.
type Waiting = HashMap<Vec<u8>, VecDeque<Promise<Turn>>>;

/// The turn, until it is dropped.
pub(crate) struct Turn {
    turns: Turns,
    key: Vec<u8>,
}

impl Turns {
    /// Waits until nobody else is at that key, and keeps the others waiting until the turn is dropped.
    pub(crate) async fn take(&self, key: &[u8]) -> Turn {
        let answer = {
            let mut waiting = self.lock();
            let Some(queue) = waiting.get_mut(key) else {
                waiting.insert(key.to_vec(), VecDeque::new());
                return Turn { turns: self.clone(), key: key.to_vec() };
            };
            let (promise, answer) = oneshot();
            queue.push_back(promise);
            answer
        };
        match answer.await {
            Some(turn) => turn,
            // A promise is only dropped with the whole table, and then nobody is left to wait for.
            None => Turn { turns: Self::default(), key: Vec::new() },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing inside the lock can panic halfway, so a poisoned table is whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut waiting = self.turns.lock();
            let next = waiting.get_mut(&self.key).and_then(VecDeque::pop_front);
            if next.is_none() {
                waiting.remove(&self.key);
            }
            next
        };
        // Handed on outside the lock, since it wakes. Whoever gave up waiting drops it, and so hands it on again.
        if let Some(promise) = next {
            promise.complete(Self { turns: self.turns.clone(), key: self.key.clone() });
        }
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").field("keys", &self.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::wait::block_on;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn turns_come_in_the_order_they_were_asked_for() {
        let turns = Turns::default();
        let first = block_on(turns.take(b"a"));
        let (mut second, mut third) = (pin!(turns.take(b"a")), pin!(turns.take(b"a")));
        assert!(poll(second.as_mut()).is_pending() && poll(third.as_mut()).is_pending());
        let other = block_on(turns.take(b"b"));
        drop(first);
        assert!(poll(third.as_mut()).is_pending());
        let Poll::Ready(second) = poll(second.as_mut()) else { panic!("its turn") };
        drop(second);
        let Poll::Ready(third) = poll(third.as_mut()) else { panic!("its turn") };
        drop((third, other));
        assert!(turns.lock().is_empty());
    }

    #[test]
    fn who_gives_up_waiting_is_passed_over() {
        let turns = Turns::default();
        let first = block_on(turns.take(b"a"));
        let mut last = pin!(turns.take(b"a"));
        {
            let mut gone = pin!(turns.take(b"a"));
            let mut gone_too = pin!(turns.take(b"a"));
            assert!(poll(gone.as_mut()).is_pending() && poll(gone_too.as_mut()).is_pending());
        }
        assert!(poll(last.as_mut()).is_pending());
        drop(first);
        assert!(poll(last.as_mut()).is_ready());
        assert!(turns.lock().is_empty());
    }
}
