//! API keys: what makers create their devices' accounts with (XEP-0348).
//!
//! A person asks the operator for one and gives it to a maker, who signs with it. It says how many accounts may be made,
//! how fast, in which domains and until when; revoked, it makes none any more, at once. Which accounts were made with it is
//! remembered with the key, so that a batch can be listed or removed. An account that is removed gives nothing back.
//!
//! [`ApiKeys`] is what the shards share: keys that are in use, with their secrets, and the counts as far as they have been
//! sent to the store. Called by [`crate::registration`] and by the commands.

mod record;
mod seal;
mod spend;

use std::fmt;

use plaza_core::jid::{Jid, JidRef};

#[cfg(any(test, fuzzing))]
pub(crate) use self::record::RECORDS;
pub(crate) use self::record::decode_moment;
use self::record::{account_key, accounts_prefix, count_key, origin_key, settings_id, settings_key};
pub use self::seal::{SEAL_NONCE_BYTES, Sealer};
pub use self::spend::{ApiKeys, Creation, Opened, SpendError};
use crate::owned::ATTEMPTS_MAX;
use crate::store::{Batch, CommitError, Guard, Lookup, Store, StoreError, Table, Write};

/// Nonces looked at in one go.
const PRUNED_AT_ONCE: usize = 1_000;

/// What is true of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Whom to ask about it: an address, a name.
    pub owner: String,
    /// Accounts that may be created with it, all in all.
    pub accounts_max: u64,
    /// Accounts that may be created with it in a minute; 0: as many as one likes.
    pub per_minute: u32,
    /// It may be used.
    pub enabled: bool,
    /// When it was made, in seconds since the Unix epoch.
    pub created: u64,
    /// From when on it may not be used any more, in seconds since the Unix epoch.
    pub expires: Option<u64>,
    /// Domains in which accounts may be created with it; none: all of them.
    pub domains: Vec<Jid>,
}

/// A key in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id, which is no secret.
    pub id: String,
    /// What is true of it.
    pub key: ApiKey,
    /// Accounts created with it.
    pub count: u64,
}

/// Why something was not done to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "named by what they are")]
pub enum KeyError {
    Exists,
    NotFound,
    Store(StoreError),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists => f.write_str("there is such a key already"),
            Self::NotFound => f.write_str("there is no such key"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for KeyError {}

impl From<StoreError> for KeyError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Makes a key. `id`: 1 to 128 bytes without NUL; `nonce`: random.
///
/// # Errors
/// [`KeyError::Exists`] or [`KeyError::Store`].
pub async fn create<S: Store>(
    store: &S,
    sealer: &Sealer,
    id: &str,
    secret: &str,
    nonce: [u8; SEAL_NONCE_BYTES],
    key: &ApiKey,
) -> Result<(), KeyError> {
    let (settings, table) = (settings_key(id), Table::ApiKeys);
    let batch = Batch {
        guards: vec![Guard::Absent { table, key: settings.clone() }],
        writes: vec![
            Write::Put { table, key: settings, value: record::encode(key, &sealer.seal(id, secret, nonce)) },
            Write::Put { table, key: count_key(id), value: record::encode_count(0) },
        ],
    };
    store.commit(batch).await.map_err(|error| match error {
        CommitError::Guard(_) => KeyError::Exists,
        CommitError::Store(error) => error.into(),
    })
}

/// A key, and how many accounts were created with it.
///
/// # Errors
/// [`KeyError::NotFound`] or [`KeyError::Store`].
pub async fn show<S: Store>(store: &S, id: &str) -> Result<Listed, KeyError> {
    let lookups = [settings_key(id), count_key(id)].map(|key| Lookup { table: Table::ApiKeys, key, below: false });
    let mut found = store.look_up(lookups.into()).await?.into_iter().map(|found| found.map(|found| found.value));
    let (Some(settings), count) = (found.next().flatten(), found.next().flatten()) else {
        return Err(KeyError::NotFound);
    };
    let count = record::decode_count(&count.ok_or(StoreError::Corrupt)?)?;
    let (key, _) = record::decode(&settings)?;
    Ok(Listed { id: id.to_owned(), key, count })
}

/// Lists keys in order of their ids, after `after`, at most `limit`.
///
/// # Errors
/// [`StoreError`].
pub async fn list<S: Store>(store: &S, after: Option<&str>, limit: usize) -> Result<Vec<Listed>, StoreError> {
    let after = after.map(settings_key);
    let pairs = store.scan(Table::ApiKeys, &settings_key(""), after.as_deref(), limit).await?;
    let ids = pairs.iter().map(|(key, _)| settings_id(key)).collect::<Result<Vec<_>, _>>()?;
    let counts = ids.iter().map(|id| Lookup { table: Table::ApiKeys, key: count_key(id), below: false }).collect();
    let counts = store.look_up(counts).await?;
    let listed = ids.iter().zip(&pairs).zip(counts).map(|((id, (_, settings)), count)| {
        let (key, _) = record::decode(settings)?;
        let count = record::decode_count(&count.ok_or(StoreError::Corrupt)?.value)?;
        Ok(Listed { id: (*id).to_owned(), key, count })
    });
    listed.collect()
}

/// Lets a key make no account any more: none that is not in the store already.
///
/// # Errors
/// [`KeyError::NotFound`] or [`KeyError::Store`].
pub async fn revoke<S: Store>(store: &S, id: &str) -> Result<(), KeyError> {
    let (table, place) = (Table::ApiKeys, settings_key(id));
    for _ in 0..ATTEMPTS_MAX {
        let before = store.get(table, &place).await?.ok_or(KeyError::NotFound)?;
        let (mut key, sealed) = record::decode(&before)?;
        key.enabled = false;
        let batch = Batch {
            guards: vec![Guard::Equals { table, key: place.clone(), value: before }],
            writes: vec![Write::Put { table, key: place.clone(), value: record::encode(&key, &sealed) }],
        };
        match store.commit(batch).await {
            Ok(()) => return Ok(()),
            Err(CommitError::Guard(_)) => {}
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
    }
    Err(StoreError::Busy.into())
}

/// The accounts there are that were created with a key, in order of address, after `after`, at most `limit`; each with
/// when it was, in seconds since the Unix epoch.
///
/// # Errors
/// [`StoreError`].
pub async fn accounts<S: Store>(
    store: &S,
    id: &str,
    after: Option<&Jid>,
    limit: usize,
) -> Result<Vec<(Jid, u64)>, StoreError> {
    let (prefix, after) = (accounts_prefix(id), after.map(|after| account_key(id, after.as_jid())));
    let pairs = store.scan(Table::ApiKeys, &prefix, after.as_deref(), limit).await?;
    let account = |(key, record): (Vec<u8>, Vec<u8>)| {
        let bare = key.get(prefix.len()..).and_then(|bare| std::str::from_utf8(bare).ok());
        let jid = bare.and_then(|bare| Jid::parse(bare).ok()).ok_or(StoreError::Corrupt)?;
        Ok((jid, record::decode_moment(&record)?))
    };
    pairs.into_iter().map(account).collect()
}

/// The id of the key that an account was created with, if it was with one.
///
/// # Errors
/// [`StoreError`].
pub async fn origin<S: Store>(store: &S, bare: JidRef<'_>) -> Result<Option<String>, StoreError> {
    let record = store.get(Table::ApiKeys, &origin_key(bare)).await?;
    record.map(|record| String::from_utf8(record).map_err(|_| StoreError::Corrupt)).transpose()
}

/// What forgets which key an account was created with, and the guard under which it is all there is to forget. `id`: what
/// [`origin`] said.
pub(crate) fn forget(bare: JidRef<'_>, id: Option<String>) -> (Guard, Vec<Write>) {
    let (table, place) = (Table::ApiKeys, origin_key(bare));
    match id {
        None => (Guard::Absent { table, key: place }, Vec::new()),
        Some(id) => {
            let writes =
                vec![Write::Delete { table, key: place.clone() }, Write::Delete { table, key: account_key(&id, bare) }];
            (Guard::Equals { table, key: place, value: id.into_bytes() }, writes)
        }
    }
}

/// Forgets nonces whose time is over; gives how many. `now`: seconds since the Unix epoch.
///
/// # Errors
/// [`StoreError`].
pub async fn prune<S: Store>(store: &S, now: u64) -> Result<usize, StoreError> {
    let (mut after, mut forgotten) = (None::<Vec<u8>>, 0);
    loop {
        let page = store.scan(Table::ApiKeys, record::NONCES, after.as_deref(), PRUNED_AT_ONCE).await?;
        let is_last = page.len() < PRUNED_AT_ONCE;
        after = page.last().map(|(key, _)| key.clone());
        let mut writes = Vec::new();
        for (key, until) in page {
            if record::decode_moment(&until)? < now {
                writes.push(Write::Delete { table: Table::ApiKeys, key });
            }
        }
        forgotten += writes.len();
        if !writes.is_empty() {
            match store.commit(Batch { guards: Vec::new(), writes }).await {
                Ok(()) | Err(CommitError::Guard(_)) => {}
                Err(CommitError::Store(error)) => return Err(error),
            }
        }
        if is_last {
            return Ok(forgotten);
        }
    }
}

#[cfg(test)]
mod tests;
