//! The thread that owns the index, and how others reach it.
//!
//! It is told *which* thing changed, after the commit, and reads from the store what is so now. So it does not matter in
//! what order shards tell of changes: whatever is read after a change has it. While the index is filled, a page is on its way
//! while the one before is put in; what changed meanwhile is left out of it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

use crossbeam::channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use plaza_core::jid::Jid;
use plaza_core::thing::{NodeName, Test};

use super::{Budget, Found, Index, Patterns, Query, SearchError};
use crate::store::{Lookup, Pair, Run, Store, StoreError, Table, key};
use crate::things::record;
use crate::things::thing_key;
use crate::wait::{Promise, block_on, oneshot};

/// Things read from the store at once while the index is filled.
const FILL_THINGS: usize = 1_024;
/// Bytes of their records at most.
const FILL_BYTES: usize = 1 << 20;
/// Changes taken together, and between two searches.
const CHANGES: usize = 256;
/// Searches answered between two turns of one that takes long: it goes on, however many come.
const BETWEEN_MAX: usize = 16;
/// How long a store that is busy is left alone.
const PAUSE: Duration = Duration::from_millis(10);

/// What bounds the index's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Changes and searches that wait for the thread. Default 4 096. Who tells of a change waits for room; a search is
    /// refused.
    pub mailbox_max: usize,
    /// Searches under way for all. Default 256: at the most work allowed they are all answered in a quarter of a minute.
    pub searches_max: usize,
    /// Searches under way for one bare JID. Default 4.
    pub searches_per_jid_max: usize,
    /// Things in an answer. Default 100: clients that count on by what they asked for seldom ask for more.
    pub page_things_max: usize,
    /// Work of a search, in about nanoseconds. Default 50 000 000.
    pub search_work_max: u64,
    /// Time of a search that has to try a regular expression on many strings. Default 100 ms.
    pub search_time_max: Duration,
    /// After how long of a search those that wait and have no regular expression are answered. Default 5 ms: what a search is
    /// to take.
    pub search_turn: Duration,
    /// What regular expressions may take.
    pub patterns: Patterns,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            mailbox_max: 4_096,
            searches_max: 256,
            searches_per_jid_max: 4,
            page_things_max: 100,
            search_work_max: 50_000_000,
            search_time_max: Duration::from_millis(100),
            search_turn: Duration::from_millis(5),
            patterns: Patterns::DEFAULT,
        }
    }
}

/// Where the index stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Things in it.
    pub things: u64,
    /// About how much memory it takes.
    pub bytes: u64,
    /// Whether all that was in the store at the start is in it. Searches wait until then.
    pub is_filled: bool,
    /// Changes and searches that wait for the thread.
    pub waiting: u64,
}

/// The index, for any thread; cheap to clone. Its thread ends when the last clone is gone.
#[derive(Clone)]
pub struct Handle {
    mailbox: Sender<Job>,
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    things: AtomicU64,
    bytes: AtomicU64,
    is_filled: AtomicBool,
    /// Who waits for room in the mailbox.
    waiting: Mutex<Vec<Waker>>,
    searches: Mutex<Searches>,
}

#[derive(Default)]
struct Searches {
    count: usize,
    per_jid: HashMap<Jid, usize>,
}

enum Job {
    Changed(Jid, NodeName),
    Search(Question),
}

struct Question {
    search: Query,
    promise: Promise<Result<Found, SearchError>>,
    permit: Permit,
}

/// That a search may be under way. Given back when dropped.
struct Permit {
    shared: Arc<Shared>,
    asker: Jid,
}

/// Starts the thread, which begins to fill the index from the store.
///
/// # Errors
/// If the thread does not start.
pub fn spawn<S: Store + Send + 'static>(store: S, limits: Limits) -> io::Result<Handle> {
    let (mailbox, jobs) = bounded(limits.mailbox_max.max(1));
    let shared = Arc::new(Shared {
        limits,
        things: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        is_filled: AtomicBool::new(false),
        waiting: Mutex::default(),
        searches: Mutex::default(),
    });
    let worker = Worker {
        store,
        jobs,
        shared: shared.clone(),
        index: Index::default(),
        questions: VecDeque::new(),
        put_aside: None,
        fill: None,
        noted: HashSet::new(),
    };
    thread::Builder::new().name("plaza-things".to_owned()).spawn(|| worker.work())?;
    Ok(Handle { mailbox, shared })
}

impl Handle {
    /// Tells that a thing was registered, changed or removed. To be called after the commit. It is noted at once if there
    /// is room; the future waits for room if there is none, and for nothing else.
    pub fn changed(&self, jid: &Jid, node: &NodeName) -> impl Future<Output = ()> + Send + 'static + use<> {
        let this = self.clone();
        let mut job = this.try_send(Job::Changed(jid.bare(), node.clone())).err();
        poll_fn(move |context| {
            let Some(again) = job.take() else { return Poll::Ready(()) };
            // Listed before another try: if room comes in between, the try finds it or the thread finds us.
            lock(&this.shared.waiting).push(context.waker().clone());
            match this.try_send(again) {
                Ok(()) => Poll::Ready(()),
                Err(again) => {
                    job = Some(again);
                    Poll::Pending
                }
            }
        })
    }

    /// Searches on behalf of somebody. Sees every change told of before. Waits while the index is being filled.
    pub fn search(
        &self,
        asker: &Jid,
        mut search: Query,
    ) -> impl Future<Output = Result<Found, SearchError>> + Send + 'static + use<> {
        search.max = search.max.min(self.shared.limits.page_things_max);
        let (promise, answer) = oneshot();
        match self.permit(asker.bare()) {
            None => promise.complete(Err(SearchError::Busy)),
            Some(permit) => match self.try_send(Job::Search(Question { search, promise, permit })) {
                Ok(()) | Err(Job::Changed(..)) => {}
                Err(Job::Search(question)) => question.promise.complete(Err(SearchError::Busy)),
            },
        }
        async move { answer.await.unwrap_or(Err(SearchError::Closed)) }
    }

    /// Where the index stands.
    pub fn progress(&self) -> Progress {
        let Shared { things, bytes, is_filled, .. } = &*self.shared;
        Progress {
            things: things.load(Ordering::Relaxed),
            bytes: bytes.load(Ordering::Relaxed),
            is_filled: is_filled.load(Ordering::Relaxed),
            waiting: self.mailbox.len() as u64,
        }
    }

    /// Gives the job back if there is no room. If the thread is gone the job is dropped, and who awaits it told so.
    fn try_send(&self, job: Job) -> Result<(), Job> {
        match self.mailbox.try_send(job) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(job)) => Err(job),
        }
    }

    fn permit(&self, asker: Jid) -> Option<Permit> {
        let limits = &self.shared.limits;
        let mut searches = lock(&self.shared.searches);
        if searches.count >= limits.searches_max
            || searches.per_jid.get(&asker).is_some_and(|&count| count >= limits.searches_per_jid_max)
        {
            return None;
        }
        searches.count += 1;
        *searches.per_jid.entry(asker.clone()).or_default() += 1;
        drop(searches);
        Some(Permit { shared: self.shared.clone(), asker })
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("progress", &self.progress()).finish()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut searches = lock(&self.shared.searches);
        searches.count = searches.count.saturating_sub(1);
        if let Some(count) = searches.per_jid.get_mut(&self.asker) {
            *count -= 1;
            if *count == 0 {
                searches.per_jid.remove(&self.asker);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing inside the locks can panic halfway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's own.
struct Worker<S> {
    store: S,
    jobs: Receiver<Job>,
    shared: Arc<Shared>,
    index: Index,
    questions: VecDeque<Question>,
    /// What came while a search went on, and has to wait for its end: a change, which what comes behind it must see.
    put_aside: Option<Job>,
    /// The page on its way; `None` once all was read.
    fill: Option<Fill>,
    /// Keys of what changed since that page was asked for.
    noted: HashSet<Vec<u8>>,
}

struct Fill {
    page: Page,
    /// Behind which key it begins.
    after: Option<Vec<u8>>,
    /// Things in it at most.
    limit: usize,
    /// Records that could not be read so far.
    damaged: u64,
}

type Page = Pin<Box<dyn Future<Output = Result<Vec<Pair>, StoreError>> + Send>>;

/// Nobody is there any more, or the store is not.
struct Closed;

impl<S: Store> Worker<S> {
    fn work(mut self) {
        self.fill = Some(self.ask_page(None, FILL_THINGS, 0));
        while let Ok(()) = self.turn() {}
    }

    /// Notes what changed, then reads another page or answers a search.
    fn turn(&mut self) -> Result<(), Closed> {
        let changed = self.take_jobs()?;
        for waker in std::mem::take(&mut *lock(&self.shared.waiting)) {
            waker.wake();
        }
        self.note(&changed);
        match self.fill.take() {
            Some(fill) => {
                self.fill = self.read_page(fill)?;
                if self.fill.is_none() {
                    self.noted = HashSet::new();
                }
            }
            None => {
                if let Some(question) = self.questions.pop_front() {
                    self.answer(question);
                }
            }
        }
        if self.fill.is_some() || !self.questions.is_empty() {
            give_way();
        }
        let Shared { things, bytes, is_filled, .. } = &*self.shared;
        things.store(self.index.len() as u64, Ordering::Relaxed);
        bytes.store(self.index.bytes() as u64, Ordering::Relaxed);
        is_filled.store(self.fill.is_none(), Ordering::Relaxed);
        Ok(())
    }

    /// Takes what there is, and sleeps only if there is nothing else to do.
    fn take_jobs(&mut self) -> Result<Vec<(Jid, NodeName)>, Closed> {
        let mut changed = Vec::new();
        if let Some(job) = self.put_aside.take() {
            self.sort(job, &mut changed);
        } else if self.fill.is_none() && self.questions.is_empty() {
            let job = self.jobs.recv().map_err(|_| Closed)?;
            self.sort(job, &mut changed);
        }
        while changed.len() < CHANGES {
            match self.jobs.try_recv() {
                Ok(job) => self.sort(job, &mut changed),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) if self.questions.is_empty() => return Err(Closed),
                Err(TryRecvError::Disconnected) => break,
            }
        }
        Ok(changed)
    }

    fn sort(&mut self, job: Job, changed: &mut Vec<(Jid, NodeName)>) {
        match job {
            Job::Changed(jid, node) => changed.push((jid, node)),
            Job::Search(question) => self.questions.push_back(question),
        }
    }

    /// Reads what is so now of things that changed.
    fn note(&mut self, changed: &[(Jid, NodeName)]) {
        if changed.is_empty() {
            return;
        }
        let key = |(jid, node): &(Jid, NodeName)| thing_key(jid.as_jid(), node);
        let lookups: Vec<_> =
            changed.iter().map(|name| Lookup { table: Table::Things, key: key(name), below: false }).collect();
        if self.fill.is_some() {
            self.noted.extend(lookups.iter().map(|lookup| lookup.key.clone()));
        }
        match patiently(|| self.store.look_up(lookups.clone())) {
            Ok(found) => {
                for ((name, lookup), found) in changed.iter().zip(lookups).zip(found) {
                    self.put(name, found.map(|found| (lookup.key, found.value)));
                }
            }
            // One of them: each by itself, so that the others are noted.
            Err(StoreError::Corrupt) if changed.len() > 1 => {
                changed.iter().for_each(|name| self.note(std::slice::from_ref(name)));
            }
            Err(error) => {
                tracing::error!(%error, things = changed.len(), "changed things cannot be read: searches do not find them");
                changed.iter().for_each(|(jid, node)| self.index.remove(jid.as_jid(), node));
            }
        }
    }

    fn put(&mut self, (jid, node): &(Jid, NodeName), pair: Option<Pair>) {
        match pair.map(|pair| record::read(&pair)).transpose() {
            Ok(Some(thing)) if thing.is_listed() => self.index.put(jid.as_jid(), node, &thing.tags),
            Ok(_) => self.index.remove(jid.as_jid(), node),
            Err(error) => {
                tracing::error!(%error, "a thing's record cannot be read: searches do not find it");
                self.index.remove(jid.as_jid(), node);
            }
        }
    }

    fn ask_page(&self, after: Option<Vec<u8>>, limit: usize, damaged: u64) -> Fill {
        let run = Run {
            table: Table::Things,
            prefix: Vec::new(),
            after: after.clone(),
            before: None,
            backwards: false,
            limit,
            bytes_max: FILL_BYTES,
        };
        Fill { page: Box::pin(self.store.run(run)), after, limit, damaged }
    }

    /// Puts in a page of the store; gives the next one.
    fn read_page(&mut self, Fill { page, after, limit, mut damaged }: Fill) -> Result<Option<Fill>, Closed> {
        let noted = std::mem::take(&mut self.noted);
        let pairs = match block_on(page) {
            Ok(pairs) => pairs,
            Err(StoreError::Busy) => {
                thread::sleep(PAUSE);
                return Ok(Some(self.ask_page(after, limit, damaged)));
            }
            // Up to the damaged one they are read one by one.
            Err(StoreError::Corrupt) if limit > 1 => return Ok(Some(self.ask_page(after, 1, damaged))),
            // Its key is not told: the rest of its slot is left out, a 65 536th of all accounts.
            Err(StoreError::Corrupt) => {
                return Ok(match key::behind_slot(after.as_deref()) {
                    Some(after) => Some(self.ask_page(Some(after), FILL_THINGS, damaged + 1)),
                    None => filled(damaged + 1),
                });
            }
            Err(error @ StoreError::Failed) => {
                tracing::error!(%error, "the things cannot be read: there is no searching");
                return Err(Closed);
            }
        };
        let Some((last, _)) = pairs.last() else { return Ok(filled(damaged)) };
        let mut next = self.ask_page(Some(last.clone()), limit, 0);
        for pair in pairs.iter().filter(|(key, _)| !noted.contains(key)) {
            match record::read(pair) {
                Ok(thing) if thing.is_listed() => self.index.put(thing.jid.as_jid(), &thing.node, &thing.tags),
                Ok(_) => {}
                Err(_) => damaged += 1,
            }
        }
        next.damaged = damaged;
        Ok(Some(next))
    }

    /// Answers a search; in between, should it take long, those of others that wait.
    fn answer(&mut self, question: Question) {
        let Self { jobs, shared, index, questions, put_aside, .. } = self;
        let limits = &shared.limits;
        let mut between = || {
            give_way();
            // Who comes behind a change sees it, and so has to wait.
            while put_aside.is_none()
                && let Ok(job) = jobs.try_recv()
            {
                match job {
                    Job::Search(question) => questions.push_back(question),
                    Job::Changed(..) => *put_aside = Some(job),
                }
            }
            for _ in 0..BETWEEN_MAX {
                let Some(next) = questions.iter().position(Question::is_short) else { return };
                if let Some(question) = questions.remove(next) {
                    question.answer(index, limits.budget());
                }
            }
        };
        question.answer(index, limits.budget().in_turns(limits.search_turn, &mut between));
    }
}

impl Limits {
    fn budget<'a>(&self) -> Budget<'a> {
        let until = Instant::now() + self.search_time_max;
        Budget::new(self.search_work_max, Some(until)).with_patterns(self.patterns)
    }
}

impl Question {
    /// Whether its work is what it is counted as, and so short.
    fn is_short(&self) -> bool {
        !self.search.operators.iter().any(|operator| matches!(operator.test, Test::StrRegEx(_)))
    }

    fn answer(self, index: &Index, mut budget: Budget<'_>) {
        let Self { search, promise, permit } = self;
        // A search only reads, so that nothing is torn by one that panics; its promise is dropped, which answers it.
        let found = catch_unwind(AssertUnwindSafe(|| index.search(&search, &mut budget)));
        // Whoever is answered may search again.
        drop(permit);
        match found {
            Ok(found) => promise.complete(found),
            Err(_) => tracing::error!("a search panicked"),
        }
    }
}

/// All was read; told once, however much is damaged.
fn filled(damaged: u64) -> Option<Fill> {
    if damaged > 0 {
        tracing::error!(damaged, "things cannot be read: searches find neither them nor what lies beside them");
    }
    None
}

/// Lets others have this CPU, which may be a shard's: the kernel would take it from that for milliseconds on end.
fn give_way() {
    thread::yield_now();
}

/// Asks a store until it is not busy.
fn patiently<T, F>(ask: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    loop {
        match block_on(ask()) {
            Err(StoreError::Busy) => thread::sleep(PAUSE),
            answer => return answer,
        }
    }
}
