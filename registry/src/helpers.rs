//! The helper pool: bounded threads for work that takes milliseconds (PBKDF2), awaited like the store.
//!
//! Called by the driver and by commands. Never runs anything that waits.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::wait::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// A bounded pool of helper threads; cheap to clone. The threads end when the last clone is gone and the queue is done.
#[derive(Clone)]
pub struct Helpers {
    queue: Sender<Job>,
}

impl Helpers {
    /// Starts the threads, at least one; `queue_max` is how many jobs may wait for a thread.
    pub fn start(threads: usize, queue_max: usize) -> Self {
        let (queue, jobs) = bounded::<Job>(queue_max);
        for index in 0..threads.max(1) {
            let jobs = jobs.clone();
            if let Err(error) = thread::Builder::new().name(format!("plaza-helper-{index}")).spawn(|| work(jobs)) {
                // With no thread at all the queue is closed and every job answers `None`.
                tracing::error!(%error, "a helper thread did not start");
            }
        }
        Self { queue }
    }

    /// Runs the job on a helper; it is queued at once, not when the future is first polled. `None`: the queue is full,
    /// or the job panicked.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send + 'static {
        let (promise, answer) = oneshot();
        // A job refused is dropped with its promise, which answers `None`.
        let _ = self.queue.try_send(Box::new(move || promise.complete(job())));
        answer
    }
}

impl fmt::Debug for Helpers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Helpers").field("waiting", &self.queue.len()).finish()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the thread owns its end of the queue")]
fn work(jobs: Receiver<Job>) {
    for job in &jobs {
        // A job owns all it touches, so nothing torn outlives it; its promise is dropped by the unwinding.
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("a helper's job panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::block_on;

    #[test]
    fn a_job_answers_with_its_result() {
        let helpers = Helpers::start(2, 4);
        assert_eq!(block_on(helpers.run(|| 6 * 7)), Some(42));
    }

    #[test]
    fn a_panic_answers_none_and_the_thread_goes_on() {
        let helpers = Helpers::start(1, 4);
        assert_eq!(block_on(helpers.run(|| -> u8 { panic!("as tested") })), None);
        assert_eq!(block_on(helpers.run(|| 1)), Some(1));
    }

    #[test]
    fn a_full_queue_answers_none_at_once() {
        let helpers = Helpers::start(1, 1);
        let (started, has_started) = bounded(0);
        let (release, released) = bounded::<()>(0);
        let running = helpers.run(move || {
            started.send(()).unwrap();
            released.recv().unwrap();
            1
        });
        has_started.recv().unwrap();
        let waiting = helpers.run(|| 2);
        assert_eq!(block_on(helpers.run(|| 3)), None);
        release.send(()).unwrap();
        assert_eq!(block_on(running), Some(1));
        assert_eq!(block_on(waiting), Some(2));
    }

    #[test]
    fn a_dropped_future_does_not_stop_the_job() {
        let helpers = Helpers::start(1, 1);
        let (done, is_done) = bounded(1);
        drop(helpers.run(move || done.send(()).unwrap()));
        is_done.recv_timeout(std::time::Duration::from_secs(5)).unwrap();
    }
}
