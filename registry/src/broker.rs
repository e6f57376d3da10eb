//! Facts of the broker itself.

#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::record::{Reader, flag, put_count};
use crate::store::{Batch, CommitError, Guard, Store, StoreError, Table, Write};

/// Bytes of the server secret.
const SECRET_BYTES: usize = 32;
/// Key of the server secret in [`Table::Broker`].
const SECRET_KEY: &[u8] = b"secret";
/// Its record: a version byte, then the secret.
const SECRET_VERSION: u8 = 1;

/// The server secret, from which the salts of unknown accounts are made (RFC 5802 §5.1), so that they stay the same across
/// restarts. The first call stores `fresh`, which must be random, and every call gives what was stored first.
///
/// # Errors
/// [`StoreError`].
pub async fn secret<S: Store>(store: &S, fresh: [u8; SECRET_BYTES]) -> Result<[u8; SECRET_BYTES], StoreError> {
    if let Some(record) = store.get(Table::Broker, SECRET_KEY).await? {
        return decode(&record);
    }
    let mut record = vec![SECRET_VERSION];
    record.extend_from_slice(&fresh);
    let key = SECRET_KEY.to_vec();
    let batch = Batch {
        guards: vec![Guard::Absent { table: Table::Broker, key: key.clone() }],
        writes: vec![Write::Put { table: Table::Broker, key, value: record }],
    };
    match store.commit(batch).await {
        Ok(()) => Ok(fresh),
        Err(CommitError::Store(error)) => Err(error),
        // Another caller was first: theirs counts.
        Err(CommitError::Guard(_)) => decode(&store.get(Table::Broker, SECRET_KEY).await?.ok_or(StoreError::Corrupt)?),
    }
}

/// Key of what is known of the runs in [`Table::Broker`].
const RUN_KEY: &[u8] = b"run";
/// Its record: a version byte, whether a run goes on, and when one began behind one that did not end in order.
const RUN_VERSION: u8 = 1;

/// A run of the broker begins, at a time in milliseconds since 1970. If the one before it did not end in order
/// ([`end_run`]), answers may have been lost with it: [`last_outage`] is now.
///
/// # Errors
/// [`StoreError`].
pub async fn begin_run<S: Store>(store: &S, now: u64) -> Result<(), StoreError> {
    let record = store.get(Table::Broker, RUN_KEY).await?;
    let (goes_on, outage) = record.map_or(Ok((false, 0)), |record| decode_run(&record))?;
    put_run(store, true, if goes_on { now } else { outage }).await
}

/// The run ended in order: whatever was asked of it was answered, or the asking stream was ended.
///
/// # Errors
/// [`StoreError`].
pub async fn end_run<S: Store>(store: &S) -> Result<(), StoreError> {
    let outage = last_outage(store).await?;
    put_run(store, false, outage).await
}

/// When a run began behind one that did not end in order, the last time, in milliseconds since 1970; 0 for never.
///
/// # Errors
/// [`StoreError`].
pub async fn last_outage<S: Store>(store: &S) -> Result<u64, StoreError> {
    let record = store.get(Table::Broker, RUN_KEY).await?;
    Ok(record.map_or(Ok((false, 0)), |record| decode_run(&record))?.1)
}

async fn put_run<S: Store>(store: &S, goes_on: bool, outage: u64) -> Result<(), StoreError> {
    let mut value = vec![RUN_VERSION, flag(goes_on, 1)];
    put_count(&mut value, outage);
    let writes = vec![Write::Put { table: Table::Broker, key: RUN_KEY.to_vec(), value }];
    match store.commit(Batch { guards: Vec::new(), writes }).await {
        Ok(()) | Err(CommitError::Guard(_)) => Ok(()),
        Err(CommitError::Store(error)) => Err(error),
    }
}

fn decode_run(record: &[u8]) -> Result<(bool, u64), StoreError> {
    let mut reader = Reader::open(record, RUN_VERSION)?;
    let (flags, outage) = (reader.u8()?, reader.count()?);
    reader.close()?;
    Ok((flags & 1 != 0, outage))
}

fn decode(record: &[u8]) -> Result<[u8; SECRET_BYTES], StoreError> {
    let secret = record.strip_prefix(&[SECRET_VERSION]).ok_or(StoreError::Corrupt)?;
    secret.try_into().map_err(|_| StoreError::Corrupt)
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] =
    &[|record| decode(record).map(|_| record.to_vec()), |record| decode_run(record).map(|_| record.to_vec())];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::wait::block_on;

    #[test]
    fn the_first_secret_stays() {
        let store = MemoryStore::new();
        assert_eq!(block_on(secret(&store, [1; 32])), Ok([1; 32]));
        assert_eq!(block_on(secret(&store, [2; 32])), Ok([1; 32]));
    }

    #[test]
    fn a_run_that_did_not_end_in_order_is_an_outage_for_all_that_follow() {
        let store = MemoryStore::new();
        let outage = || block_on(last_outage(&store)).unwrap();
        for (now, ends, expected) in [(10, true, 0), (20, false, 0), (30, true, 30), (40, true, 30), (50, false, 30)] {
            block_on(begin_run(&store, now)).unwrap();
            assert_eq!(outage(), expected, "{now}");
            if ends {
                block_on(end_run(&store)).unwrap();
            }
            assert_eq!(outage(), expected, "{now}");
        }
        block_on(begin_run(&store, 60)).unwrap();
        assert_eq!(outage(), 60);
        assert_eq!(decode_run(&[1, 1]), Err(StoreError::Corrupt));
    }

    #[test]
    fn of_two_callers_at_once_the_first_wins_for_both() {
        let store = MemoryStore::new();
        store.hold();
        std::thread::scope(|scope| {
            let callers = [1, 2].map(|byte| {
                let store = store.clone();
                scope.spawn(move || block_on(secret(&store, [byte; 32])).unwrap())
            });
            while store.held() < 2 {
                std::thread::yield_now();
            }
            store.release_all();
            let [one, two] = callers.map(|caller| caller.join().unwrap());
            assert_eq!(one, two);
        });
    }

    #[test]
    fn a_record_of_another_length_is_corrupt() {
        assert_eq!(decode(&[SECRET_VERSION; 32]), Err(StoreError::Corrupt));
        assert_eq!(decode(&[2; 33]), Err(StoreError::Corrupt));
    }
}
