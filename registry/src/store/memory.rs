//! The store in memory, for tests and simulation: the same answers, no disk and no threads.
//!
//! It answers at once, or under the test's control: [`MemoryStore::hold`] queues every request until the test releases
//! it, and [`MemoryStore::refuse`] makes every request fail. What is committed is gone with the last handle.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::group::{Changes, Engine, Group};
use super::table::PerTable;
use super::{Batch, CommitError, Found, Lookup, Pair, Run, Store, StoreError, Table};
use crate::wait::{Answer, oneshot};

/// A handle; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    tables: Tables,
    is_held: bool,
    held: VecDeque<Request>,
    refusal: Option<StoreError>,
}

/// Does its work on the tables, or refuses it; gives back what completes the answer, to be called outside the lock.
type Request = Box<dyn FnOnce(Result<&mut Tables, StoreError>) -> Complete + Send>;
type Complete = Box<dyn FnOnce() + Send>;

impl MemoryStore {
    /// An empty store that answers at once.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on requests wait for [`Self::release`].
    pub fn hold(&self) {
        self.lock().is_held = true;
    }

    /// Does the oldest held request and answers it; whether there was one.
    pub fn release(&self) -> bool {
        let mut inner = self.lock();
        let Some(complete) = inner.perform_held() else { return false };
        drop(inner);
        complete();
        true
    }

    /// Does all held requests in order, and answers at once from now on.
    pub fn release_all(&self) {
        loop {
            let mut inner = self.lock();
            let Some(complete) = inner.perform_held() else {
                inner.is_held = false;
                return;
            };
            drop(inner);
            complete();
        }
    }

    /// How many requests are held.
    pub fn held(&self) -> usize {
        self.lock().held.len()
    }

    /// From now on every request performed fails with this error; `None` ends it.
    pub fn refuse(&self, error: Option<StoreError>) {
        self.lock().refusal = error;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request<T: Send + 'static, E: From<StoreError> + Send + 'static, W>(
        &self,
        work: W,
    ) -> impl Future<Output = Result<T, E>> + Send + 'static + use<T, E, W>
    where
        W: FnOnce(&mut Tables) -> Result<T, E> + Send + 'static,
    {
        let (promise, answer): (_, Answer<Result<T, E>>) = oneshot();
        let request: Request = Box::new(move |tables| {
            let result = tables.map_err(E::from).and_then(work);
            Box::new(move || promise.complete(result))
        });
        let mut inner = self.lock();
        if inner.is_held {
            inner.held.push_back(request);
        } else {
            let complete = inner.perform(request);
            drop(inner);
            complete();
        }
        async move { answer.await.unwrap_or_else(|| Err(StoreError::Failed.into())) }
    }
}

impl Inner {
    fn perform(&mut self, request: Request) -> Complete {
        request(self.refusal.clone().map_or(Ok(&mut self.tables), Err))
    }

    fn perform_held(&mut self) -> Option<Complete> {
        let request = self.held.pop_front()?;
        Some(self.perform(request))
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("is_held", &self.is_held).field("held", &self.held.len()).finish_non_exhaustive()
    }
}

impl Store for MemoryStore {
    fn get(
        &self,
        table: Table,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + Send + 'static + use<> {
        let key = key.to_vec();
        self.request(move |tables| tables.get(table, &key))
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Pair>, StoreError>> + Send + 'static + use<> {
        let (prefix, after) = (prefix.to_vec(), after.map(<[u8]>::to_vec));
        self.request(move |tables| {
            let pairs = tables.pairs(table, &prefix).filter(|&(key, _)| after.as_ref().is_none_or(|after| key > after));
            Ok(pairs.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
        })
    }

    fn run(&self, run: Run) -> impl Future<Output = Result<Vec<Pair>, StoreError>> + Send + 'static + use<> {
        self.request(move |tables| {
            // The prefix's end is left to the walk, which stops there.
            let Some(bounds) = run.bounds(Bound::Unbounded) else { return Ok(Vec::new()) };
            let pairs = tables.0.of(run.table).range::<Vec<u8>, _>(bounds);
            let pairs = pairs.filter(|(key, _)| key.starts_with(&run.prefix));
            let pairs = pairs.map(|(key, value)| Ok((key.clone(), value.clone())));
            if run.backwards { run.take(pairs.rev()) } else { run.take(pairs) }
        })
    }

    fn look_up(
        &self,
        lookups: Vec<Lookup>,
    ) -> impl Future<Output = Result<Vec<Option<Found>>, StoreError>> + Send + 'static + use<> {
        self.request(move |tables| {
            let find = |Lookup { table, key, below }: Lookup| {
                let value = tables.0.of(table).get(&key)?.clone();
                let under = tables.pairs(table, &key).filter(|&(found, _)| below && *found != key);
                Some(Found { value, below: under.map(|(key, value)| (key.clone(), value.clone())).collect() })
            };
            Ok(lookups.into_iter().map(find).collect())
        })
    }

    fn commit(&self, batch: Batch) -> impl Future<Output = Result<(), CommitError>> + Send + 'static + use<> {
        self.request(move |tables| {
            let mut group = Group::default();
            group.admit(tables, batch)?;
            Ok(group.finish(tables)?)
        })
    }
}

#[derive(Default)]
struct Tables(PerTable<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Tables {
    fn pairs(&self, table: Table, prefix: &[u8]) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.0.of(table).range::<[u8], _>(from).take_while(move |(key, _)| key.starts_with(prefix))
    }
}

impl Engine for Tables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.of(table).get(key).cloned())
    }

    fn keys(&self, table: Table, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        Ok(self.pairs(table, prefix).map(|(key, _)| key.clone()).collect())
    }

    fn apply(&mut self, changes: Changes) -> Result<(), StoreError> {
        for (table, changes) in changes.into_iter() {
            let pairs = self.0.of_mut(table);
            for (key, value) in changes {
                match value {
                    Some(value) => drop(pairs.insert(key, value)),
                    None => drop(pairs.remove(&key)),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::super::Write;
    use super::*;
    use crate::wait::block_on;

    fn put(key: &[u8]) -> Batch {
        let write = Write::Put { table: Table::Broker, key: key.to_vec(), value: b"value".to_vec() };
        Batch { guards: Vec::new(), writes: vec![write] }
    }

    #[test]
    fn held_requests_are_done_in_order_as_released() {
        let store = MemoryStore::new();
        store.hold();
        let mut commit = pin!(store.commit(put(b"key")));
        let get = store.get(Table::Broker, b"key");
        assert!(commit.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(store.held(), 2);
        assert!(store.release());
        assert_eq!(block_on(commit), Ok(()));
        store.release_all();
        assert_eq!(block_on(get), Ok(Some(b"value".to_vec())));
        assert!(!store.release());
    }

    #[test]
    fn a_refusal_changes_nothing_and_ends() {
        let store = MemoryStore::new();
        store.refuse(Some(StoreError::Busy));
        assert_eq!(block_on(store.commit(put(b"key"))), Err(CommitError::Store(StoreError::Busy)));
        store.refuse(None);
        assert_eq!(block_on(store.get(Table::Broker, b"key")), Ok(None));
    }
}
