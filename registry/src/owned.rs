//! Records an account owns, beside its own: written only while it exists, so that nothing outlives it.
//!
//! Called by the rooms of what accounts own. Changes are guarded reads and writes: two at once never lose one.

use std::fmt;

use plaza_core::jid::JidRef;

use crate::store::{Batch, CommitError, Guard, Store, StoreError, Table, Write, key};

/// How often a change is tried again when another one came between. Each failure means another one succeeded.
pub(crate) const ATTEMPTS_MAX: usize = 16;

/// Why something of an account was not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "named by what they are")]
pub enum OwnedError {
    /// The owner has no account (any more).
    NoAccount,
    /// There are as many of them as there may be.
    Full,
    Store(StoreError),
}

impl fmt::Display for OwnedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAccount => f.write_str("there is no such account"),
            Self::Full => f.write_str("there is no room for more"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OwnedError {}

impl From<StoreError> for OwnedError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Commits writes if the account exists and the guards hold. `false` if a guard did not, since another change came
/// between.
pub(crate) async fn commit<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    guards: impl IntoIterator<Item = Guard>,
    writes: Vec<Write>,
) -> Result<bool, OwnedError> {
    let account = Guard::Present { table: Table::Accounts, key: key::account(owner) };
    let batch = Batch { guards: std::iter::once(account).chain(guards).collect(), writes };
    match store.commit(batch).await {
        Ok(()) => Ok(true),
        Err(CommitError::Guard(0)) => Err(OwnedError::NoAccount),
        Err(CommitError::Guard(_)) => Ok(false),
        Err(CommitError::Store(error)) => Err(error.into()),
    }
}

/// Stores the one record an account has in a table, or deletes it; whatever was there.
pub(crate) async fn replace<S: Store>(
    store: &S,
    table: Table,
    owner: JidRef<'_>,
    record: Option<Vec<u8>>,
) -> Result<(), OwnedError> {
    let key = key::account(owner);
    commit(store, owner, [], vec![write(table, key, record)]).await.map(drop)
}

/// What stores a record, or deletes it.
pub(crate) fn write(table: Table, key: Vec<u8>, record: Option<Vec<u8>>) -> Write {
    match record {
        Some(value) => Write::Put { table, key, value },
        None => Write::Delete { table, key },
    }
}

/// The guard that holds while a record is what was read.
pub(crate) fn still(table: Table, key: &[u8], before: Option<Vec<u8>>) -> Guard {
    let key = key.to_vec();
    match before {
        Some(value) => Guard::Equals { table, key, value },
        None => Guard::Absent { table, key },
    }
}
