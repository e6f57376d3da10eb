//! The embedded store: fjall behind one writer thread with group commit, and reader threads for cache misses.
//!
//! Opened by the binary, used through [`Store`] by every shard and the control thread. A shard never waits for the disk:
//! it queues a request and is woken with the answer. What is acknowledged is synced; a write or sync that failed leaves
//! the store read-only until it is opened again.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use super::group::{self, Changes, Commit, Engine, Health};
use super::table::PerTable;
use super::{Batch, CommitError, Found, Lookup, Pair, Run, Store, StoreError, Table, envelope, journal, manifests};
use crate::wait::{Promise, oneshot};

mod backup;
#[cfg(test)]
mod damage;

pub use backup::{BackupError, Copied, Snapshot};

/// The layout of keys and records this broker reads and writes.
pub const SCHEMA: u32 = 1;
/// Key of the schema version in [`Table::Broker`].
const SCHEMA_KEY: &[u8] = b"schema";

/// The engine's lock in its directory.
const LOCK: &str = "lock";

/// Bytes of a table kept in memory before they are written out as a sorted file.
const MEMTABLE_BYTES: u64 = 32 << 20;
/// Bytes of journal before the engine is made to write memtables out; bounds the time to reopen.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
/// Threads of the engine that write memtables out and compact.
const ENGINE_THREADS: usize = 2;
/// Reads waiting for a reader before [`StoreError::Busy`]. A login costs one, so this rides out a storm's first second.
const READS_QUEUED_MAX: usize = 16_384;

/// Sizes of the embedded store.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// Reader threads.
    pub readers: usize,
    /// Transactions in flight before `Busy`.
    pub in_flight_max: usize,
    /// Bytes of block cache.
    pub cache_bytes: u64,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self { readers: 2, in_flight_max: 256, cache_bytes: 64 << 20 }
    }
}

/// A handle; cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Gone once closed; the threads end when their queue has no sender left and is empty.
    queues: RwLock<Option<Queues>>,
    health: Arc<Health>,
    in_flight_max: usize,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// To be asked what it holds; gone once closed.
    database: Mutex<Asked>,
}

struct Asked(Option<Database>);

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Queues {
    commits: Sender<Commit>,
    reads: Sender<Read>,
}

#[derive(Debug)]
enum Read {
    Get { table: Table, key: Vec<u8>, promise: Promise<Result<Option<Vec<u8>>, StoreError>> },
    Run { run: Run, promise: Promise<Result<Vec<Pair>, StoreError>> },
    Scan { scan: Scan, promise: Promise<Result<Vec<Pair>, StoreError>> },
    LookUp { lookups: Vec<Lookup>, promise: Promise<Result<Vec<Option<Found>>, StoreError>> },
    Snapshot { promise: Promise<Snapshot> },
}

#[derive(Debug)]
struct Scan {
    table: Table,
    prefix: Vec<u8>,
    after: Option<Vec<u8>>,
    limit: usize,
}

impl EmbeddedStore {
    /// Opens or creates the store; one process per directory. A directory it creates is readable by its owner alone,
    /// since it will hold keys.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if a process has it open, [`OpenError::NewerSchema`] if a newer broker wrote it,
    /// [`OpenError::Damaged`] if a journal cannot be read to its end, [`OpenError::Altered`] if a list of tables is not what
    /// was written, [`OpenError::Engine`] with a text for the operator otherwise.
    pub fn open(path: &Path, options: EmbeddedOptions) -> Result<Self, OpenError> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let health = Arc::new(Health::default());
        let engine = Fjall::open(path, options.cache_bytes, Arc::clone(&health))?;
        let database = engine.database.clone();
        let (commits, queued_commits) = bounded(options.in_flight_max.max(1));
        let (reads, queued_reads) = bounded(READS_QUEUED_MAX);
        let mut threads = Vec::with_capacity(1 + options.readers.max(1));
        for index in 0..options.readers.max(1) {
            let (engine, queued_reads) = (engine.clone(), queued_reads.clone());
            let name = format!("plaza-reader-{index}");
            threads.push(thread::Builder::new().name(name).spawn(move || engine.answer_reads(&queued_reads))?);
        }
        let writer = {
            let health = health.clone();
            move || engine.write_until_closed(&queued_commits, &health)
        };
        threads.push(thread::Builder::new().name("plaza-store".to_owned()).spawn(writer)?);
        Ok(Self {
            shared: Arc::new(Shared {
                queues: RwLock::new(Some(Queues { commits, reads })),
                health,
                in_flight_max: options.in_flight_max.max(1),
                threads: Mutex::new(threads),
                database: Mutex::new(Asked(Some(database))),
            }),
        })
    }

    /// Bytes of memory that the engine holds: blocks it has read, and what it has not written out of its tables. Never called
    /// on a shard.
    pub fn memory_bytes(&self) -> u64 {
        let database = self.shared.database.lock().unwrap_or_else(PoisonError::into_inner);
        database.0.as_ref().map_or(0, |database| database.cache_size() + database.write_buffer_size())
    }

    /// Whether a write or sync failed: nothing is written any more until the store is opened again.
    pub fn is_read_only(&self) -> bool {
        self.shared.health.has_failed()
    }

    /// Reads that failed since it was opened: of a damaged record, or of a disk that does not answer.
    pub fn failed_reads(&self) -> u64 {
        self.shared.health.failed_reads()
    }

    /// Waits for what is in flight, syncs and closes: later requests of any handle answer [`StoreError::Failed`], and the
    /// directory may be opened again. Blocks; never called on a shard.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if a write or sync failed, now or before.
    pub fn close(&self) -> Result<(), StoreError> {
        drop(self.shared.queues.write().unwrap_or_else(PoisonError::into_inner).take());
        drop(self.shared.database.lock().unwrap_or_else(PoisonError::into_inner).0.take());
        let threads = std::mem::take(&mut *self.shared.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                self.shared.health.fail();
            }
        }
        if self.shared.health.has_failed() { Err(StoreError::Failed) } else { Ok(()) }
    }
}

impl Shared {
    fn queue_read(&self, read: Read) -> Result<(), StoreError> {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        let Some(queues) = &*queues else { return Err(StoreError::Failed) };
        queues.reads.try_send(read).map_err(refusal)
    }

    fn queue_commit(&self, batch: Batch, promise: Promise<Result<(), CommitError>>) -> Result<(), StoreError> {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        let Some(queues) = &*queues else { return Err(StoreError::Failed) };
        if self.health.has_failed() {
            return Err(StoreError::Failed);
        }
        let permit = self.health.enter(self.in_flight_max)?;
        queues.commits.try_send(Commit { batch, promise, permit }).map_err(refusal)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err gives; the request in it is dropped here")]
fn refusal<T>(error: TrySendError<T>) -> StoreError {
    match error {
        TrySendError::Full(_) => StoreError::Busy,
        TrySendError::Disconnected(_) => StoreError::Failed,
    }
}

impl Store for EmbeddedStore {
    fn get(
        &self,
        table: Table,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + Send + 'static + use<> {
        let (promise, answer) = oneshot();
        let queued = self.shared.queue_read(Read::Get { table, key: key.to_vec(), promise });
        async move {
            queued?;
            answer.await.unwrap_or(Err(StoreError::Failed))
        }
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Pair>, StoreError>> + Send + 'static + use<> {
        let (promise, answer) = oneshot();
        let scan = Scan { table, prefix: prefix.to_vec(), after: after.map(<[u8]>::to_vec), limit };
        let queued = self.shared.queue_read(Read::Scan { scan, promise });
        async move {
            queued?;
            answer.await.unwrap_or(Err(StoreError::Failed))
        }
    }

    fn run(&self, run: Run) -> impl Future<Output = Result<Vec<Pair>, StoreError>> + Send + 'static + use<> {
        let (promise, answer) = oneshot();
        let queued = self.shared.queue_read(Read::Run { run, promise });
        async move {
            queued?;
            answer.await.unwrap_or(Err(StoreError::Failed))
        }
    }

    fn look_up(
        &self,
        lookups: Vec<Lookup>,
    ) -> impl Future<Output = Result<Vec<Option<Found>>, StoreError>> + Send + 'static + use<> {
        let (promise, answer) = oneshot();
        let queued = self.shared.queue_read(Read::LookUp { lookups, promise });
        async move {
            queued?;
            answer.await.unwrap_or(Err(StoreError::Failed))
        }
    }

    fn commit(&self, batch: Batch) -> impl Future<Output = Result<(), CommitError>> + Send + 'static + use<> {
        let (promise, answer) = oneshot();
        let queued = self.shared.queue_commit(batch, promise);
        async move {
            queued?;
            answer.await.unwrap_or(Err(CommitError::Store(StoreError::Failed)))
        }
    }
}

/// The engine and its keyspaces. Each thread has a clone; the directory is unlocked when the last is gone.
#[derive(Clone)]
struct Fjall {
    // Fields drop in order: the keyspaces before the database they belong to.
    keyspaces: PerTable<Keyspace>,
    database: Database,
    health: Arc<Health>,
}

impl Fjall {
    fn open(path: &Path, cache_bytes: u64, health: Arc<Health>) -> Result<Self, OpenError> {
        // Whoever has it open may be writing; the engine takes the lock for itself.
        if let Ok(lock) = std::fs::File::open(path.join(LOCK))
            && matches!(lock.try_lock(), Err(std::fs::TryLockError::WouldBlock))
        {
            return Err(OpenError::Locked(path.to_owned()));
        }
        if let Some((path, at)) = journal::settle(path)? {
            return Err(OpenError::Damaged { path, at });
        }
        if let Some(path) = manifests::altered(path)? {
            return Err(OpenError::Altered(path));
        }
        // The engine expects of its files what it wrote, and panics at some that are not so.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let mut engine = Self::open_engine(path, cache_bytes, health)?;
            engine.check_schema()?;
            Ok(engine)
        }));
        opened.unwrap_or_else(|_| Err(OpenError::Engine("a file of it is damaged".to_owned())))
    }

    fn open_engine(path: &Path, cache_bytes: u64, health: Arc<Health>) -> Result<Self, OpenError> {
        let database = Database::builder(path)
            .cache_size(cache_bytes)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(ENGINE_THREADS)
            .open()
            .map_err(|error| open_error(path, error))?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let keyspaces = PerTable::try_new(|table| database.keyspace(table.name(), options))
            .map_err(|error| open_error(path, error))?;
        Ok(Self { keyspaces, database, health })
    }

    /// Refuses data this broker would misread; marks a new store as ours.
    fn check_schema(&mut self) -> Result<(), OpenError> {
        let record = self
            .get(Table::Broker, SCHEMA_KEY)
            .map_err(|error| OpenError::Engine(format!("the schema version cannot be read: {error}")))?;
        let Some(record) = record else {
            for table in Table::ALL {
                if self.keyspaces.of(table).first_key_value().is_some() {
                    return Err(OpenError::Engine("there is data, but no schema version".to_owned()));
                }
            }
            let mut changes = Changes::default();
            changes.of_mut(Table::Broker).insert(SCHEMA_KEY.to_vec(), Some(SCHEMA.to_le_bytes().to_vec()));
            return self.apply(changes).map_err(|error| OpenError::Engine(error.to_string()));
        };
        let found = record.try_into().map(u32::from_le_bytes);
        match found {
            Ok(SCHEMA) => Ok(()),
            Ok(found) if found > SCHEMA => Err(OpenError::NewerSchema { found, known: SCHEMA }),
            Ok(_) | Err(_) => Err(OpenError::Engine("the schema version makes no sense".to_owned())),
        }
    }

    /// The writer thread.
    fn write_until_closed(mut self, commits: &Receiver<Commit>, health: &Health) {
        group::write_groups(&mut self, commits, health);
        if !health.has_failed()
            && let Err(error) = self.database.persist(PersistMode::SyncAll)
        {
            tracing::error!(%error, "the store could not be synced on closing");
            health.fail();
        }
    }

    /// Reads. What fails is counted; a panic of the engine, at a block that is not what it wrote, is a failure like others.
    fn read<T>(&self, read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let done = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
            tracing::error!("a read ended in a panic");
            Err(StoreError::Corrupt)
        });
        done.inspect_err(|_| self.health.read_failed())
    }

    /// A reader thread.
    fn answer_reads(self, reads: &Receiver<Read>) {
        for read in reads {
            match read {
                Read::Get { table, key, promise } => promise.complete(self.get(table, &key)),
                Read::Run { run, promise } => promise.complete(self.run(&run)),
                Read::Scan { scan, promise } => promise.complete(self.scan(&scan)),
                Read::LookUp { lookups, promise } => {
                    promise.complete(lookups.into_iter().map(|lookup| self.look_up(lookup)).collect());
                }
                Read::Snapshot { promise } => promise.complete(Snapshot::new(self.clone())),
            }
        }
    }

    fn look_up(&self, Lookup { table, key, below }: Lookup) -> Result<Option<Found>, StoreError> {
        let Some(value) = self.get(table, &key)? else { return Ok(None) };
        let below = match below {
            true => self.scan(&Scan { table, prefix: key.clone(), after: Some(key), limit: usize::MAX })?,
            false => Vec::new(),
        };
        Ok(Some(Found { value, below }))
    }

    /// Reads a run as of one moment.
    fn run(&self, run: &Run) -> Result<Vec<Pair>, StoreError> {
        let upper = fjall::util::prefix_to_range(&run.prefix).end_bound().map(|key| key.to_vec());
        let Some(bounds) = run.bounds(upper) else { return Ok(Vec::new()) };
        let open = |guard: fjall::Guard| {
            let (key, sealed) = guard.into_inner().map_err(read_error)?;
            let value = envelope::open(run.table, &key, &sealed)?.to_vec();
            Ok((key.to_vec(), value))
        };
        self.read(|| {
            let range = self.database.snapshot().range(self.keyspaces.of(run.table), bounds);
            if run.backwards { run.take(range.rev().map(open)) } else { run.take(range.map(open)) }
        })
    }

    /// Reads a range as of one moment, so that no batch is seen by half.
    fn scan(&self, scan: &Scan) -> Result<Vec<Pair>, StoreError> {
        let Scan { table, prefix, after, limit } = scan;
        let upper = fjall::util::prefix_to_range(prefix).end_bound().map(|key| key.to_vec());
        let lower = match after {
            Some(after) if after >= prefix && !after.starts_with(prefix) => return Ok(Vec::new()),
            Some(after) if after >= prefix => Bound::Excluded(after.clone()),
            Some(_) | None => Bound::Included(prefix.clone()),
        };
        self.read(|| {
            let range = self.database.snapshot().range(self.keyspaces.of(*table), (lower, upper));
            let open = |pair: fjall::Guard| {
                let (key, sealed) = pair.into_inner().map_err(read_error)?;
                let value = envelope::open(*table, &key, &sealed)?.to_vec();
                Ok((key.to_vec(), value))
            };
            range.take(*limit).map(open).collect()
        })
    }
}

impl Engine for Fjall {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|| {
            let sealed = self.keyspaces.of(table).get(key).map_err(read_error)?;
            sealed.map(|sealed| envelope::open(table, key, &sealed).map(<[u8]>::to_vec)).transpose()
        })
    }

    fn keys(&self, table: Table, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        self.read(|| {
            let pairs = self.keyspaces.of(table).range(fjall::util::prefix_to_range(prefix));
            pairs.map(|pair| Ok(pair.key().map_err(read_error)?.to_vec())).collect()
        })
    }

    fn apply(&mut self, changes: Changes) -> Result<(), StoreError> {
        // The sync is of data and what is needed to find it (fdatasync); the engine shows the batch to readers after it.
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (table, changes) in changes.into_iter() {
            let keyspace = self.keyspaces.of(table);
            for (key, value) in changes {
                match value {
                    Some(value) => {
                        let sealed = envelope::seal(table, &key, &value);
                        batch.insert(keyspace, key, sealed);
                    }
                    None => batch.remove(keyspace, key),
                }
            }
        }
        let committed = catch_unwind(AssertUnwindSafe(|| batch.commit().map_err(|error| error.to_string())));
        committed.unwrap_or_else(|_| Err("a panic".to_owned())).map_err(|error| {
            tracing::error!(%error, "a write failed: the store is read-only until the broker is restarted");
            StoreError::Failed
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err gives")]
fn read_error(error: fjall::Error) -> StoreError {
    tracing::error!(%error, "a read failed");
    if matches!(error, fjall::Error::Io(_) | fjall::Error::Storage(fjall::LsmError::Io(_)) | fjall::Error::Poisoned) {
        return StoreError::Failed;
    }
    // Blocks carry checksums of their own: what is left is a block that does not decode.
    StoreError::Corrupt
}

/// Why the store could not be opened.
#[derive(Debug)]
#[expect(missing_docs, reason = "named by what they are")]
pub enum OpenError {
    /// Another process holds the directory.
    Locked(PathBuf),
    /// Data of a newer broker.
    NewerSchema { found: u32, known: u32 },
    /// A journal that goes on behind what can be read of it: what was acknowledged would be left out.
    Damaged { path: PathBuf, at: u64 },
    /// A list of the engine's tables that is not what was written: what is in the tables would be left out, and deleted.
    Altered(PathBuf),
    /// The engine said no.
    Engine(String),
}

fn open_error(path: &Path, error: fjall::Error) -> OpenError {
    if matches!(error, fjall::Error::Locked) {
        return OpenError::Locked(path.to_owned());
    }
    OpenError::Engine(error.to_string())
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Engine(error.to_string())
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked(path) => write!(f, "{} is in use by another process", path.display()),
            Self::NewerSchema { found, known } => {
                write!(f, "the data has schema {found}, written by a newer broker; this one knows {known}")
            }
            Self::Damaged { path, at } => {
                write!(f, "{} is damaged at byte {at}: what is behind cannot be read", path.display())
            }
            Self::Altered(path) => write!(f, "{} is damaged: it is not what was written", path.display()),
            Self::Engine(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for OpenError {}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use proptest::prelude::*;

    use super::super::memory::MemoryStore;
    use super::super::{Guard, Write};
    use super::*;
    use crate::wait::block_on;

    fn open(path: &Path) -> EmbeddedStore {
        EmbeddedStore::open(path, EmbeddedOptions::default()).unwrap()
    }

    fn put(key: &[u8], value: &[u8]) -> Batch {
        let write = Write::Put { table: Table::Accounts, key: key.to_vec(), value: value.to_vec() };
        Batch { guards: Vec::new(), writes: vec![write] }
    }

    #[test]
    fn what_was_committed_is_read_and_survives_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        block_on(store.commit(put(b"key", b"value"))).unwrap();
        assert_eq!(block_on(store.get(Table::Accounts, b"key")), Ok(Some(b"value".to_vec())));
        assert_eq!(block_on(store.get(Table::Rosters, b"key")), Ok(None));
        store.close().unwrap();
        let store = open(directory.path());
        assert_eq!(block_on(store.get(Table::Accounts, b"key")), Ok(Some(b"value".to_vec())));
        store.close().unwrap();
    }

    #[test]
    fn a_second_opening_is_refused_until_the_first_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let refused = EmbeddedStore::open(directory.path(), EmbeddedOptions::default());
        assert!(matches!(refused, Err(OpenError::Locked(path)) if path == directory.path()));
        store.close().unwrap();
        open(directory.path()).close().unwrap();
    }

    #[test]
    fn a_closed_store_refuses_and_closes_again_without_harm() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let other = store.clone();
        let queued = store.commit(put(b"key", b"value"));
        store.close().unwrap();
        assert_eq!(block_on(queued), Ok(()), "what was in flight is done first");
        assert_eq!(block_on(other.get(Table::Accounts, b"key")), Err(StoreError::Failed));
        assert_eq!(block_on(other.commit(Batch::default())), Err(CommitError::Store(StoreError::Failed)));
        other.close().unwrap();
    }

    #[test]
    fn beyond_the_places_in_flight_a_commit_is_busy_and_later_ones_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions { in_flight_max: 2, ..EmbeddedOptions::default() };
        let store = EmbeddedStore::open(directory.path(), options).unwrap();
        let commits: Vec<_> = (0..500_u32).map(|index| store.commit(put(&index.to_le_bytes(), b"value"))).collect();
        let verdicts: Vec<_> = commits.into_iter().map(block_on).collect();
        let busy = Err(CommitError::Store(StoreError::Busy));
        assert_eq!(verdicts[..2], [Ok(()), Ok(())]);
        assert!(verdicts.contains(&busy));
        assert!(verdicts.iter().all(|verdict| verdict.is_ok() || *verdict == busy));
        assert_eq!(block_on(store.commit(put(b"later", b"value"))), Ok(()));
        store.close().unwrap();
    }

    #[test]
    fn a_flipped_record_is_reported_and_its_neighbours_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        block_on(store.commit(put(b"bad", b"value"))).unwrap();
        block_on(store.commit(put(b"good", b"value"))).unwrap();
        store.close().unwrap();
        let engine = Fjall::open(directory.path(), 1 << 20, Arc::default()).unwrap();
        let accounts = engine.keyspaces.of(Table::Accounts);
        let mut sealed = accounts.get(b"bad").unwrap().unwrap().to_vec();
        sealed[2] ^= 1;
        accounts.insert(b"bad", sealed).unwrap();
        drop(engine);
        let store = open(directory.path());
        assert_eq!(block_on(store.get(Table::Accounts, b"bad")), Err(StoreError::Corrupt));
        assert_eq!(block_on(store.get(Table::Accounts, b"good")), Ok(Some(b"value".to_vec())));
        assert_eq!(block_on(store.scan(Table::Accounts, b"", None, 10)), Err(StoreError::Corrupt));
        let mut guarded = put(b"new", b"value");
        guarded.guards.push(Guard::Absent { table: Table::Accounts, key: b"bad".to_vec() });
        assert_eq!(block_on(store.commit(guarded)), Err(CommitError::Store(StoreError::Corrupt)));
        store.close().unwrap();
    }

    #[test]
    fn data_of_a_newer_broker_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        open(directory.path()).close().unwrap();
        let mut engine = Fjall::open(directory.path(), 1 << 20, Arc::default()).unwrap();
        let mut changes = Changes::default();
        changes.of_mut(Table::Broker).insert(SCHEMA_KEY.to_vec(), Some((SCHEMA + 1).to_le_bytes().to_vec()));
        engine.apply(changes).unwrap();
        drop(engine);
        let refused = EmbeddedStore::open(directory.path(), EmbeddedOptions::default());
        assert!(matches!(refused, Err(OpenError::NewerSchema { found: 2, known: 1 })));
    }

    #[test]
    fn a_dropped_commit_is_done_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let mut commit = Box::pin(store.commit(put(b"key", b"value")));
        let _ = pin!(&mut commit).poll(&mut Context::from_waker(Waker::noop()));
        drop(commit);
        store.close().unwrap();
        let store = open(directory.path());
        assert_eq!(block_on(store.get(Table::Accounts, b"key")), Ok(Some(b"value".to_vec())));
        store.close().unwrap();
    }

    #[test]
    fn the_directory_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        open(&path).close().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0);
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0, 1, 0xff]), 0..4)
    }
    fn table() -> impl Strategy<Value = Table> {
        prop::sample::select(vec![Table::Accounts, Table::Rosters])
    }
    /// fjall refuses an empty key; ours are never empty.
    fn stored_key() -> impl Strategy<Value = Vec<u8>> {
        key().prop_map(|mut key| {
            key.insert(0, 7);
            key
        })
    }
    fn batch() -> impl Strategy<Value = Batch> {
        let value = || prop::collection::vec(any::<u8>(), 0..2);
        let guard = prop_oneof![
            (table(), stored_key()).prop_map(|(table, key)| Guard::Absent { table, key }),
            (table(), stored_key()).prop_map(|(table, key)| Guard::Present { table, key }),
            (table(), stored_key(), value()).prop_map(|(table, key, value)| Guard::Equals { table, key, value }),
        ];
        let write = prop_oneof![
            4 => (table(), stored_key(), value()).prop_map(|(table, key, value)| Write::Put { table, key, value }),
            1 => (table(), stored_key()).prop_map(|(table, key)| Write::Delete { table, key }),
            1 => (table(), stored_key()).prop_map(|(table, prefix)| Write::DeletePrefix { table, prefix }),
        ];
        (prop::collection::vec(guard, 0..2), prop::collection::vec(write, 0..4))
            .prop_map(|(guards, writes)| Batch { guards, writes })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

        #[test]
        fn both_stores_agree_on_every_verdict_and_every_range(
            batches in prop::collection::vec(batch(), 1..40),
            ranges in prop::collection::vec((table(), key(), prop::option::of(key()), 0_usize..5), 8),
            runs in prop::collection::vec(
                (
                    table(), key(), prop::option::of(stored_key()), prop::option::of(stored_key()),
                    any::<bool>(), 0_usize..5, 0_usize..4,
                ),
                16,
            ),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let (embedded, memory) = (open(directory.path()), MemoryStore::new());
            let verdicts: Vec<_> = batches.iter().map(|batch| embedded.commit(batch.clone())).collect();
            for (verdict, batch) in verdicts.into_iter().zip(batches) {
                prop_assert_eq!(block_on(verdict), block_on(memory.commit(batch)));
            }
            for (table, prefix, after, limit) in ranges {
                let mut prefix = prefix;
                if limit > 2 { prefix.insert(0, 7); }
                let found = block_on(embedded.scan(table, &prefix, after.as_deref(), limit));
                prop_assert_eq!(found, block_on(memory.scan(table, &prefix, after.as_deref(), limit)));
            }
            for (table, prefix, after, before, backwards, limit, bytes_max) in runs {
                let run = Run { table, prefix, after, before, backwards, limit, bytes_max };
                let found = block_on(embedded.run(run.clone()));
                prop_assert_eq!(&found, &block_on(memory.run(run.clone())));
                // What it is: all there is of it, filtered, turned round and cut off.
                let all = block_on(memory.scan(run.table, &run.prefix, None, usize::MAX)).unwrap();
                let is_in = |(key, _): &Pair| {
                    run.after.as_ref().is_none_or(|after| key > after)
                        && run.before.as_ref().is_none_or(|before| key < before)
                };
                let mut expected: Vec<Pair> = all.into_iter().filter(is_in).collect();
                if run.backwards {
                    expected.reverse();
                }
                prop_assert_eq!(found, run.take(expected.into_iter().map(Ok)));
            }
            embedded.close().unwrap();
        }
    }
}
