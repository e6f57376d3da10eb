//! Facts of the broker itself.

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

fn decode(record: &[u8]) -> Result<[u8; SECRET_BYTES], StoreError> {
    let secret = record.strip_prefix(&[SECRET_VERSION]).ok_or(StoreError::Corrupt)?;
    secret.try_into().map_err(|_| StoreError::Corrupt)
}

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
