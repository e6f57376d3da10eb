//! Waiting without a runtime: a value handed from one of our threads to whoever awaits it.
//!
//! The store and the helper pool answer through [`oneshot`]; any executor can await the answer, since all it needs is a
//! `Waker`. Dropping the answer is fine: the work still happens, its result is dropped.

use std::future::Future;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// Runs a future to its end on this thread, which sleeps meanwhile. For commands, tests and benches; never on a shard.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// A value on its way: the end that gives it and the end that awaits it.
pub(crate) fn oneshot<T>() -> (Promise<T>, Answer<T>) {
    let cell = Arc::new(Cell(Mutex::new(State::Waiting(None))));
    (Promise { cell: Some(cell.clone()) }, Answer { cell })
}

/// The giving end. Dropped without [`Promise::complete`], it answers `None`.
#[derive(Debug)]
pub(crate) struct Promise<T> {
    cell: Option<Arc<Cell<T>>>,
}

impl<T> Promise<T> {
    /// Gives the value and wakes who awaits it.
    pub(crate) fn complete(mut self, value: T) {
        if let Some(cell) = self.cell.take() {
            cell.settle(State::Ready(value));
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if let Some(cell) = self.cell.take() {
            cell.settle(State::Done);
        }
    }
}

/// The awaiting end: `None` if the value will never come.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    cell: Arc<Cell<T>>,
}

impl<T> Future for Answer<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.cell.lock();
        match mem::replace(&mut *state, State::Done) {
            State::Ready(value) => Poll::Ready(Some(value)),
            State::Done => Poll::Ready(None),
            State::Waiting(before) => {
                let waker = before.filter(|waker| waker.will_wake(context.waker()));
                *state = State::Waiting(Some(waker.unwrap_or_else(|| context.waker().clone())));
                Poll::Pending
            }
        }
    }
}

#[derive(Debug)]
struct Cell<T>(Mutex<State<T>>);

#[derive(Debug)]
enum State<T> {
    /// Not given yet; who to wake, if anyone has asked.
    Waiting(Option<Waker>),
    Ready(T),
    /// Taken, or never to come.
    Done,
}

impl<T> Cell<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing inside the lock can panic halfway, so a poisoned cell is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves `Waiting`; wakes outside the lock, since a waker may run anything.
    fn settle(&self, to: State<T>) {
        let before = mem::replace(&mut *self.lock(), to);
        if let State::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_given_by_another_thread_wakes_who_waits() {
        let (promise, answer) = oneshot();
        let giver = thread::spawn(move || {
            thread::sleep(std::time::Duration::from_millis(5));
            promise.complete(7);
        });
        assert_eq!(block_on(answer), Some(7));
        giver.join().unwrap();
    }

    #[test]
    fn a_promise_dropped_answers_none() {
        let (promise, answer) = oneshot::<u8>();
        drop(promise);
        assert_eq!(block_on(answer), None);
    }

    #[test]
    fn an_answer_dropped_harms_nobody() {
        let (promise, answer) = oneshot();
        drop(answer);
        promise.complete(1);
    }

    #[test]
    fn the_last_waker_is_the_one_woken() {
        #[derive(Default)]
        struct Count(std::sync::atomic::AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (promise, mut answer) = oneshot();
        for count in [&first, &second] {
            let waker = Waker::from(count.clone());
            assert!(Pin::new(&mut answer).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        promise.complete(());
        assert_eq!(first.0.load(std::sync::atomic::Ordering::Relaxed), 0);
        assert_eq!(second.0.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}
