//! A store that takes its time, and at times cannot: each request of an errand waits for its turn, in no order, and some
//! are refused.
//!
//! What was acknowledged is there afterwards: clients note names in their rosters, and what they were told is kept has to
//! be there when all is over. Who is told nothing was told nothing for a reason that is counted.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use plaza_core::jid::Jid;
use plaza_core::ns;
use plaza_registry::errands::{self, Errand, Return};
use plaza_registry::rosters;
use plaza_registry::services::Reply;
use plaza_registry::store::memory::MemoryStore;
use plaza_registry::store::{Batch, CommitError, Found, Lookup, Pair, Run, Store, StoreError, Table, Write};
use plaza_registry::wait::block_on;
use plaza_shards::shard::ReplyTo;

use super::things::Cause;
use super::{Random, World};

/// Clients that note names: few, since a roster has its bound and subscriptions need room in it.
const NOTING_CLIENTS: usize = 8;

/// What was committed.
pub(super) enum Change {
    /// The record of a thing, by its key; `None` if it was deleted.
    Thing(Vec<u8>, Option<Vec<u8>>),
    /// A question to an owner, by its key, and whether it is put or answered.
    Question(Vec<u8>, bool),
}

/// A handle of the store whose requests wait for their turns, unless it is prompt.
#[derive(Clone)]
pub(super) struct SlowStore {
    store: MemoryStore,
    prompt: bool,
    /// Commits are done in the order in which they were asked for.
    in_order: bool,
    turns: Arc<Mutex<Turns>>,
    /// What became of things and questions since that was asked for last.
    changes: Arc<Mutex<Vec<Change>>>,
}

/// Requests by number: those that wait, and whether those whose turn it is may be done.
#[derive(Default)]
struct Turns {
    last: u64,
    waiting: Vec<u64>,
    /// Commits that are done in order.
    commits: VecDeque<u64>,
    given: HashMap<u64, Result<(), StoreError>>,
}

/// Work that waits for the store.
pub(super) struct Running {
    shard: usize,
    whose: Whose,
    work: Pin<Box<dyn Future<Output = Brought>>>,
}

/// Whose work it is.
pub(super) enum Whose {
    /// An account's errand, and whom of a session's services it answers with which id.
    Errand(Jid, Option<(Jid, String)>),
    /// A service's, and for whom its reply is.
    Service(Jid, ReplyTo, Cause),
    /// A device's that was answered: what follows from that.
    Inquiry(Jid),
}

/// What work brought.
pub(super) enum Brought {
    Return(Box<Return>),
    Reply(Reply),
}

/// Names that clients noted in their rosters.
#[derive(Default)]
pub(crate) struct Notes {
    said: u64,
    answered: u64,
    /// By account and contact: the last one that was acknowledged.
    kept: HashMap<(Jid, String), u64>,
}

impl SlowStore {
    pub(super) fn new(store: &MemoryStore, prompt: bool) -> Self {
        Self { store: store.clone(), prompt, in_order: false, turns: Arc::default(), changes: Arc::default() }
    }

    /// One whose commits are done in the order in which they were asked for, as some rely on.
    pub(super) fn in_order(store: &MemoryStore) -> Self {
        Self { in_order: true, ..Self::new(store, false) }
    }

    /// Requests under way are gone.
    pub(super) fn forget(&self) {
        let mut turns = self.turns();
        turns.waiting.clear();
        turns.commits.clear();
        turns.given.clear();
    }

    /// One of the requests has its turn, if there is one; it may be refused.
    pub(super) fn go_on(&self, random: &mut Random, refuses_percent: usize) -> Option<bool> {
        let mut turns = self.turns();
        let waiting = turns.waiting.len() + usize::from(!turns.commits.is_empty());
        if waiting == 0 {
            return None;
        }
        let at = random.below(waiting);
        let number =
            if at < turns.waiting.len() { turns.waiting.swap_remove(at) } else { turns.commits.pop_front()? };
        let refused = random.percent(refuses_percent);
        let error = if random.percent(50) { StoreError::Busy } else { StoreError::Failed };
        turns.given.insert(number, if refused { Err(error) } else { Ok(()) });
        Some(refused)
    }

    /// What became of things and questions since this was asked for last.
    pub(super) fn changes(&self) -> Vec<Change> {
        std::mem::take(&mut *self.changes.lock().unwrap())
    }

    /// Resolves when it is the request's turn, which begins to wait now.
    fn turn(&self, is_commit: bool) -> impl Future<Output = Result<(), StoreError>> + Send + 'static + use<> {
        let number = (!self.prompt).then(|| {
            let mut turns = self.turns();
            turns.last += 1;
            let number = turns.last;
            if is_commit && self.in_order {
                turns.commits.push_back(number);
            } else {
                turns.waiting.push(number);
            }
            number
        });
        let turns = Arc::clone(&self.turns);
        poll_fn(move |_| match &number {
            Some(number) => turns.lock().unwrap().given.remove(number).map_or(Poll::Pending, Poll::Ready),
            None => Poll::Ready(Ok(())),
        })
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap()
    }
}

impl Store for SlowStore {
    fn get(
        &self,
        table: Table,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + Send + 'static + use<> {
        let (turn, store, key) = (self.turn(false), self.store.clone(), key.to_vec());
        async move {
            turn.await?;
            store.get(table, &key).await
        }
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Pair>, StoreError>> + Send + 'static + use<> {
        let (turn, store) = (self.turn(false), self.store.clone());
        let (prefix, after) = (prefix.to_vec(), after.map(<[u8]>::to_vec));
        async move {
            turn.await?;
            store.scan(table, &prefix, after.as_deref(), limit).await
        }
    }

    fn run(&self, run: Run) -> impl Future<Output = Result<Vec<Pair>, StoreError>> + Send + 'static + use<> {
        let (turn, store) = (self.turn(false), self.store.clone());
        async move {
            turn.await?;
            store.run(run).await
        }
    }

    fn look_up(
        &self,
        lookups: Vec<Lookup>,
    ) -> impl Future<Output = Result<Vec<Option<Found>>, StoreError>> + Send + 'static + use<> {
        let (turn, store) = (self.turn(false), self.store.clone());
        async move {
            turn.await?;
            store.look_up(lookups).await
        }
    }

    fn commit(&self, batch: Batch) -> impl Future<Output = Result<(), CommitError>> + Send + 'static + use<> {
        let (turn, store, changes) = (self.turn(true), self.store.clone(), Arc::clone(&self.changes));
        async move {
            turn.await?;
            let committed: Vec<Change> = batch.writes.iter().filter_map(change).collect();
            store.commit(batch).await?;
            changes.lock().unwrap().extend(committed);
            Ok(())
        }
    }
}

/// What a write makes of a thing or a question, if it is about one.
fn change(write: &Write) -> Option<Change> {
    match write {
        Write::Put { table: Table::Things, key, value } => Some(Change::Thing(key.clone(), Some(value.clone()))),
        Write::Delete { table: Table::Things, key } => Some(Change::Thing(key.clone(), None)),
        Write::Put { table: Table::Questions, key, .. } => Some(Change::Question(key.clone(), true)),
        Write::Delete { table: Table::Questions, key } => Some(Change::Question(key.clone(), false)),
        Write::DeletePrefix { table: Table::Things, .. } => panic!("no account goes here"),
        Write::Put { .. } | Write::Delete { .. } | Write::DeletePrefix { .. } => None,
    }
}

impl Notes {
    /// A client has an answer.
    pub(super) fn answered(&mut self, account: Jid, client: usize, id: &str, kind: &str) {
        let Some(number) = id.strip_prefix('k').and_then(|digits| digits.parse().ok()) else { return };
        self.answered += 1;
        if kind == "result" {
            self.kept.insert((account, contact(client)), number);
        }
    }

    /// How many names were acknowledged, each contact's once.
    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// How many answers did not arrive.
    pub(super) fn unanswered(&self) -> u64 {
        self.said - self.answered
    }
}

fn contact(client: usize) -> String {
    format!("k{client}@elsewhere.example")
}

impl World {
    /// Begins an errand, which goes on as the store does.
    pub(super) fn begin_errand(&mut self, shard: usize, account: Jid, errand: Errand, serves: Option<(Jid, String)>) {
        let (config, store, owner) = (self.errand_config.clone(), self.slow_store.clone(), account.clone());
        let errand = async move { Brought::Return(Box::new(errands::run(&config, &store, &owner, errand, 0).await)) };
        self.begin(shard, Whose::Errand(account, serves), errand);
    }

    /// Begins some work, which goes on as the store does.
    pub(super) fn begin(&mut self, shard: usize, whose: Whose, work: impl Future<Output = Brought> + 'static) {
        self.running.push(Running { shard, whose, work: Box::pin(work) });
        self.go_on_working();
    }

    /// Work and requests under way are gone; whose errands they were.
    pub(super) fn drop_errands(&mut self) -> Vec<Jid> {
        self.slow_store.forget();
        let account = |running: Running| match running.whose {
            Whose::Errand(account, _) => Some(account),
            Whose::Service(..) | Whose::Inquiry(_) => None,
        };
        self.running.drain(..).filter_map(account).collect()
    }

    /// One of the requests has its turn.
    pub(super) fn store_goes_on(&mut self) {
        let given = self.slow_store.go_on(&mut self.random, self.plan.store_refuses_percent);
        assert!(self.running.is_empty() || given.is_some(), "some work waits for nothing");
        let Some(refused) = given else { return };
        self.activity += 1;
        self.requests_refused += u64::from(refused);
        self.go_on_working();
    }

    fn go_on_working(&mut self) {
        let mut at = 0;
        while let Some(running) = self.running.get_mut(at) {
            let polled = running.work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            let (changes, now) = (self.slow_store.changes(), (self.activity, self.life));
            self.owners.happened(&mut self.things, &self.store, &running.whose, changes, now);
            match polled {
                Poll::Pending => at += 1,
                Poll::Ready(brought) => {
                    let Running { shard, whose, work: _ } = self.running.swap_remove(at);
                    self.finish(shard, whose, brought);
                    // It may have had a turn that another waits for.
                    at = 0;
                }
            }
        }
    }

    fn finish(&mut self, shard: usize, whose: Whose, brought: Brought) {
        match (whose, brought) {
            (Whose::Errand(account, serves), Brought::Return(brought)) => {
                self.finish_errand(shard, &account, serves, *brought);
            }
            (Whose::Service(caller, reply_to, cause), Brought::Reply(reply)) => {
                self.spread(shard, &reply, Some(&cause));
                self.finish_service(shard, &caller, reply_to, reply);
            }
            (Whose::Inquiry(device), Brought::Reply(reply)) => {
                self.spread(shard, &reply, None);
                self.shards[shard].inquired(&device, reply);
            }
            (Whose::Errand(..), Brought::Reply(_)) | (Whose::Service(..) | Whose::Inquiry(_), Brought::Return(_)) => {
                panic!("it brought something else")
            }
        }
    }

    /// Homes of devices hear what some work on a shard brought.
    fn spread(&mut self, shard: usize, reply: &Reply, cause: Option<&Cause>) {
        let home = |device: &Jid| usize::from(self.shards[shard].home(device.as_jid()).0);
        self.owners.spreads(shard, home, reply, cause);
    }

    /// A client notes a name in its roster.
    pub(super) fn say_note(&mut self, client: usize) {
        if client >= NOTING_CLIENTS {
            return;
        }
        self.notes.said += 1;
        let (number, contact) = (self.notes.said, contact(client));
        let item = format!("<query xmlns='{}'><item jid='{contact}' name='{number}'/></query>", ns::ROSTER);
        self.queue(client, format!("<iq type='set' id='k{number}'>{item}</iq>"), None);
    }

    /// What was acknowledged is there, or what was said after it.
    pub(super) fn check_notes(&self) {
        for ((account, contact), number) in &self.notes.kept {
            let jid = Jid::parse(contact).unwrap();
            let item = block_on(rosters::get(&self.store, account.as_jid(), jid.as_jid())).unwrap();
            let kept = item.and_then(|item| item.name.parse::<u64>().ok());
            assert!(kept >= Some(*number), "{account} was told that k{number} is kept, and {kept:?} is");
        }
    }

    /// Who asked, or sent a message that is not for the moment, and is there still, was not left without an answer.
    pub(super) fn check_silence(&self, lost: &[usize]) {
        use plaza_shards::metrics::DropReason::{Blocked, MeshFull, NotKept, OutboxFull};
        let drops = |reason| self.shards.iter().map(|shard| shard.counters.drops[reason]).sum::<u64>();
        if drops(OutboxFull) + drops(MeshFull) > 0 {
            return; // Some answers had no room, by number.
        }
        let told = |number: &&usize| {
            let sent = &self.sent[**number];
            let fleeting =
                ["type='headline'", "type='groupchat'", "type='error'"].iter().any(|kind| sent.tag.contains(kind));
            (sent.request || sent.tag.starts_with("<message") && !fleeting) && !self.clients[sent.sender].ended
        };
        let silent: Vec<&str> = lost.iter().filter(told).map(|&number| &*self.sent[number].tag).collect();
        let blocked = drops(Blocked) + drops(NotKept);
        assert!(silent.len() as u64 <= blocked, "{blocked} were held up, nobody was told of {silent:?}");
    }
}
