//! Group commit: many batches become one write of the engine.
//!
//! Called by the writer thread of the embedded store and by the store in memory. A [`Group`] takes batches in order,
//! checks their guards against what earlier ones of the group would leave and the engine below, and ends as one set of
//! changes. [`write_groups`] is the writer thread's loop: whatever has queued up during one sync makes the next group, so
//! the sync itself is the batching window and no timer is needed.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crossbeam::channel::Receiver;

use super::table::PerTable;
use super::{Batch, CommitError, Guard, StoreError, Table, Write};
use crate::wait::Promise;

/// Most batches in one group. Measured: beyond a few hundred a group gains little and its tail latency grows.
const GROUP_BATCHES_MAX: usize = 256;
/// Bytes of keys and values after which a group takes no further batch.
const GROUP_BYTES_MAX: usize = 1 << 20;

/// What a group becomes: per table the value each key shall have, `None` to delete it.
pub(super) type Changes = PerTable<BTreeMap<Vec<u8>, Option<Vec<u8>>>>;

/// What group commit needs of the engine below.
pub(super) trait Engine {
    /// The value under a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// All keys with a prefix.
    fn keys(&self, table: Table, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StoreError>;
    /// Makes all changes or none, durable when it returns.
    fn apply(&mut self, changes: Changes) -> Result<(), StoreError>;
}

/// Batches on their way into one write of the engine.
#[derive(Debug, Default)]
pub(super) struct Group {
    changes: Changes,
}

impl Group {
    /// Checks the batch's guards and takes its writes; on an error it takes none of them.
    pub(super) fn admit(&mut self, engine: &impl Engine, batch: Batch) -> Result<(), CommitError> {
        for (index, guard) in batch.guards.iter().enumerate() {
            if !self.holds(engine, guard)? {
                return Err(CommitError::Guard(index));
            }
        }
        // What can fail comes first, so that the taking below cannot stop halfway.
        let mut stored = Vec::new();
        for write in &batch.writes {
            if let Write::DeletePrefix { table, prefix } = write {
                stored.push(engine.keys(*table, prefix)?);
            }
        }
        let mut stored = stored.into_iter();
        for write in batch.writes {
            match write {
                Write::Put { table, key, value } => drop(self.changes.of_mut(table).insert(key, Some(value))),
                Write::Delete { table, key } => drop(self.changes.of_mut(table).insert(key, None)),
                Write::DeletePrefix { table, prefix } => {
                    let changes = self.changes.of_mut(table);
                    let from = (Bound::Included(&*prefix), Bound::Unbounded);
                    for (_, value) in changes.range_mut::<[u8], _>(from).take_while(|(key, _)| key.starts_with(&prefix))
                    {
                        *value = None;
                    }
                    changes.extend(stored.next().into_iter().flatten().map(|key| (key, None)));
                }
            }
        }
        Ok(())
    }

    /// Writes the group, if there is anything to write.
    pub(super) fn finish(self, engine: &mut impl Engine) -> Result<(), StoreError> {
        if Table::ALL.iter().all(|&table| self.changes.of(table).is_empty()) {
            return Ok(());
        }
        engine.apply(self.changes)
    }

    fn holds(&self, engine: &impl Engine, guard: &Guard) -> Result<bool, StoreError> {
        Ok(match guard {
            Guard::Absent { table, key } => self.get(engine, *table, key)?.is_none(),
            Guard::Present { table, key } => self.get(engine, *table, key)?.is_some(),
            Guard::Equals { table, key, value } => self.get(engine, *table, key)?.as_ref() == Some(value),
        })
    }

    fn get(&self, engine: &impl Engine, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.changes.of(table).get(key) {
            Some(change) => Ok(change.clone()),
            None => engine.get(table, key),
        }
    }
}

/// A batch waiting for the writer.
#[derive(Debug)]
pub(super) struct Commit {
    /// What to do.
    pub(super) batch: Batch,
    /// Who waits.
    pub(super) promise: Promise<Result<(), CommitError>>,
    /// Its place among those in flight.
    pub(super) permit: Permit,
}

/// What the handles of a store and its writer know of each other.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// A write or sync failed: the store is read-only until it is opened again. Only ever set.
    failed: AtomicBool,
    in_flight: AtomicUsize,
    failed_reads: AtomicU64,
}

impl Health {
    /// Whether the store refuses writes.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Refuses writes from now on.
    pub(super) fn fail(&self) {
        // Relaxed here and above: the flag only spares a queue trip, the writer refuses by its own order of events.
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Reads that failed.
    pub(super) fn failed_reads(&self) -> u64 {
        // Relaxed here and below: a number to look at.
        self.failed_reads.load(Ordering::Relaxed)
    }

    /// Counts a read that failed.
    pub(super) fn read_failed(&self) {
        self.failed_reads.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a place in flight, of `max`.
    pub(super) fn enter(self: &Arc<Self>, max: usize) -> Result<Permit, StoreError> {
        // Relaxed: a count guards no other memory; the queue hands the batch over.
        self.in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < max).then_some(count + 1))
            .map_err(|_| StoreError::Busy)?;
        Ok(Permit(self.clone()))
    }
}

/// A place in flight, given back when dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<Health>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The writer: makes groups of what is queued until every sender is gone and the queue is empty.
///
/// After a failed write nothing is retried: what reached the disk is unknown, so every commit of that group and all later
/// ones answer [`StoreError::Failed`]. A guard's refusal waits for the group's write too, since it may rest on a change
/// that would be lost with it.
pub(super) fn write_groups(engine: &mut impl Engine, commits: &Receiver<Commit>, health: &Health) {
    let mut verdicts = Vec::with_capacity(GROUP_BATCHES_MAX);
    while let Ok(first) = commits.recv() {
        if health.has_failed() {
            first.answer(Err(StoreError::Failed.into()));
            continue;
        }
        let mut group = Group::default();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(Commit { batch, promise, permit }) = next {
            bytes += batch.bytes();
            verdicts.push((group.admit(engine, batch), promise, permit));
            let is_full = verdicts.len() >= GROUP_BATCHES_MAX || bytes >= GROUP_BYTES_MAX;
            next = if is_full { None } else { commits.try_recv().ok() };
        }
        let written = group.finish(engine);
        if written.is_err() {
            health.fail();
        }
        for (verdict, promise, permit) in verdicts.drain(..) {
            drop(permit);
            promise.complete(if written.is_ok() { verdict } else { Err(StoreError::Failed.into()) });
        }
    }
}

impl Commit {
    fn answer(self, verdict: Result<(), CommitError>) {
        // First the place, then the answer: who is woken by it may commit again at once.
        drop(self.permit);
        self.promise.complete(verdict);
    }
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::{Sender, unbounded};

    use super::*;
    use crate::wait::{Answer, block_on, oneshot};

    /// An engine in memory that counts its syncs and fails one of them.
    #[derive(Default)]
    struct Faulty {
        kept: Changes,
        applied: usize,
        fails_at: Option<usize>,
        corrupt_key: Option<Vec<u8>>,
    }

    impl Engine for Faulty {
        fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            if self.corrupt_key.as_deref() == Some(key) {
                return Err(StoreError::Corrupt);
            }
            Ok(self.kept.of(table).get(key).cloned().flatten())
        }
        fn keys(&self, table: Table, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
            Ok(self.kept.of(table).keys().filter(|key| key.starts_with(prefix)).cloned().collect())
        }
        fn apply(&mut self, changes: Changes) -> Result<(), StoreError> {
            self.applied += 1;
            if self.fails_at == Some(self.applied) {
                return Err(StoreError::Failed);
            }
            for (table, changes) in changes.into_iter() {
                self.kept.of_mut(table).extend(changes);
                self.kept.of_mut(table).retain(|_, value| value.is_some());
            }
            Ok(())
        }
    }

    fn put(key: &str, value: &str) -> Write {
        Write::Put { table: Table::Accounts, key: key.into(), value: value.into() }
    }
    fn absent(key: &str) -> Guard {
        Guard::Absent { table: Table::Accounts, key: key.into() }
    }
    fn equals(key: &str, value: &str) -> Guard {
        Guard::Equals { table: Table::Accounts, key: key.into(), value: value.into() }
    }
    fn batch<const G: usize, const W: usize>(guards: [Guard; G], writes: [Write; W]) -> Batch {
        Batch { guards: guards.into(), writes: writes.into() }
    }

    type Verdict = Answer<Result<(), CommitError>>;

    fn queue(sender: &Sender<Commit>, health: &Arc<Health>, batch: Batch) -> Verdict {
        let (promise, answer) = oneshot();
        sender.send(Commit { batch, promise, permit: health.enter(usize::MAX).unwrap() }).unwrap();
        answer
    }

    /// Runs the writer over batches that are all queued before it starts.
    fn run(engine: &mut Faulty, batches: impl IntoIterator<Item = Batch>) -> Vec<Result<(), CommitError>> {
        let (sender, commits) = unbounded();
        let health = Arc::new(Health::default());
        let answers: Vec<Verdict> = batches.into_iter().map(|batch| queue(&sender, &health, batch)).collect();
        drop(sender);
        write_groups(engine, &commits, &health);
        assert_eq!(health.in_flight.load(Ordering::Relaxed), 0);
        answers.into_iter().map(|answer| block_on(answer).unwrap()).collect()
    }

    #[test]
    fn guards_see_earlier_batches_of_the_group() {
        let mut engine = Faulty::default();
        let verdicts = run(
            &mut engine,
            [
                batch([absent("a")], [put("a", "1")]),
                batch([absent("a")], [put("a", "2")]),
                batch([absent("b"), equals("a", "2")], [put("b", "1")]),
                batch([equals("a", "1")], [put("a", "3")]),
            ],
        );
        assert_eq!(verdicts, [Ok(()), Err(CommitError::Guard(0)), Err(CommitError::Guard(1)), Ok(())]);
        assert_eq!(engine.applied, 1);
        assert_eq!(engine.get(Table::Accounts, b"a"), Ok(Some(b"3".to_vec())));
        assert_eq!(engine.get(Table::Accounts, b"b"), Ok(None));
    }

    #[test]
    fn a_prefix_is_deleted_in_the_engine_and_in_the_group() {
        let mut engine = Faulty::default();
        run(&mut engine, [batch([], [put("p1", ""), put("q", "")])]);
        let wipe = Write::DeletePrefix { table: Table::Accounts, prefix: b"p".to_vec() };
        let verdicts = run(
            &mut engine,
            [
                batch([], [put("p2", "")]),
                batch([], [put("p3", ""), wipe, put("p4", "")]),
                batch([absent("p1"), absent("p2"), absent("p3")], []),
            ],
        );
        assert_eq!(verdicts, [Ok(()), Ok(()), Ok(())]);
        assert_eq!(engine.keys(Table::Accounts, b""), Ok(vec![b"p4".to_vec(), b"q".to_vec()]));
    }

    #[test]
    fn a_failed_sync_fails_its_whole_group_and_everything_after() {
        let mut engine = Faulty { fails_at: Some(2), ..Faulty::default() };
        let filler = "x".repeat(GROUP_BYTES_MAX);
        let verdicts = run(
            &mut engine,
            [
                batch([], [put("kept", &filler)]),
                batch([], [put("lost", "1")]),
                batch([absent("lost")], [put("never", "1")]),
                batch([], [put("big", &filler)]),
                batch([], [put("late", "1")]),
            ],
        );
        let failed = Err(CommitError::Store(StoreError::Failed));
        assert_eq!(verdicts, [Ok(()), failed.clone(), failed.clone(), failed.clone(), failed]);
        assert_eq!(engine.applied, 2, "nothing is retried");
    }

    #[test]
    fn a_group_is_bounded_in_batches_and_bytes() {
        let mut engine = Faulty::default();
        run(&mut engine, (0..GROUP_BATCHES_MAX + 1).map(|index| batch([], [put(&index.to_string(), "")])));
        assert_eq!(engine.applied, 2);
        let filler = "x".repeat(GROUP_BYTES_MAX / 2);
        let mut engine = Faulty::default();
        run(&mut engine, ["a", "b", "c"].map(|key| batch([], [put(key, &filler)])));
        assert_eq!(engine.applied, 2);
    }

    #[test]
    fn a_corrupt_record_refuses_only_the_batch_that_reads_it() {
        let mut engine = Faulty { corrupt_key: Some(b"bad".to_vec()), ..Faulty::default() };
        let verdicts = run(&mut engine, [batch([absent("bad")], [put("a", "")]), batch([], [put("b", "")])]);
        assert_eq!(verdicts, [Err(CommitError::Store(StoreError::Corrupt)), Ok(())]);
    }

    #[test]
    fn places_in_flight_are_counted_and_given_back() {
        let health = Arc::new(Health::default());
        let permit = health.enter(1).unwrap();
        assert_eq!(health.enter(1).unwrap_err(), StoreError::Busy);
        drop(permit);
        assert!(health.enter(1).is_ok());
    }
}
