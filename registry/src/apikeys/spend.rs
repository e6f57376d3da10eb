//! Spending: an account is created with a key, and counted, all or nothing.
//!
//! The account, the nonce, the key's count and the account's place in the key's list are one commit, under guards: no such
//! account, no such nonce, the key as it was read, the count as it was. So N accounts are N, whatever comes at once and
//! wherever it is cut off.
//!
//! If each creation read the count, waited for its own commit and let the next one begin, a key would make as many
//! accounts a second as the disk syncs. So the count is also held here, as of the last commit that was *sent*: the next
//! creation sends its own behind it, expecting that one to succeed, and the store writes hundreds of them with one sync.
//! If one does not (its name is taken), those behind it fail by their guards, and each is sent again with the count as it
//! then is. Nothing rests on what is held here but speed.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plaza_core::jid::JidRef;
use zeroize::Zeroizing;

use super::record::{self, account_key, count_key, nonce_key, origin_key, settings_key};
use super::{ApiKey, Sealer};
use crate::accounts::{self, Account, NewKeys};
use crate::pace::Pace;
use crate::pubsub::turns::Turns;
use crate::store::{Batch, CommitError, Guard, Lookup, Store, StoreError, Table, Write, key};

/// Keys held in memory; when there are more in use, all are read again.
const KEYS_MAX: usize = 10_000;
/// How often a creation is sent again when what came before it failed.
const ATTEMPTS_MAX: usize = 16;

/// Keys in use; cheap to clone, shared by all shards.
#[derive(Debug, Clone)]
pub struct ApiKeys {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    sealer: Sealer,
    keys: Mutex<HashMap<String, Held>>,
    /// Keys that somebody is reading the count of.
    counting: Turns,
}

/// A key in use.
#[derive(Debug)]
struct Held {
    opened: Arc<Opened>,
    /// The count when all that was sent has succeeded; `None` until it was read.
    count: Option<u64>,
    /// How often what was expected did not happen: whoever read the count before does not know it.
    broken: u64,
    pace: Pace,
}

/// A key with its secret.
pub struct Opened {
    /// As stored.
    record: Vec<u8>,
    /// What is true of it.
    pub key: ApiKey,
    /// What its holder signs with.
    pub secret: Zeroizing<String>,
}

impl fmt::Debug for Opened {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Why no account was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpendError {
    /// There is no such key.
    NoKey,
    /// It was revoked.
    Revoked,
    /// Its time is over.
    Expired,
    /// It is not for this domain.
    WrongDomain,
    /// As many accounts were created with it as may be.
    Exhausted,
    /// The account exists.
    Exists,
    /// The nonce was used before.
    Replayed,
    /// The store cannot.
    Store(StoreError),
}

impl From<StoreError> for SpendError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// An account to be created with a key.
#[derive(Debug)]
pub struct Creation<'a> {
    /// Its bare JID.
    pub account: JidRef<'a>,
    /// Its keys.
    pub keys: &'a NewKeys,
    /// The id of the key.
    pub id: &'a str,
    /// What must not have been used before.
    pub nonce: &'a str,
    /// Until when the nonce is remembered, in seconds since the Unix epoch.
    pub nonce_until: u64,
    /// The time on the wall, in seconds since the Unix epoch.
    pub now: u64,
}

impl Opened {
    /// Whether the key may be used for an account in that domain.
    ///
    /// # Errors
    /// [`SpendError::Revoked`], [`SpendError::Expired`], [`SpendError::WrongDomain`].
    pub fn permits(&self, domain: &str, now: u64) -> Result<(), SpendError> {
        let key = &self.key;
        if !key.enabled {
            return Err(SpendError::Revoked);
        }
        if key.expires.is_some_and(|expires| expires <= now) {
            return Err(SpendError::Expired);
        }
        if !key.domains.is_empty() && key.domains.iter().all(|allowed| allowed.as_str() != domain) {
            return Err(SpendError::WrongDomain);
        }
        Ok(())
    }
}

impl ApiKeys {
    /// No keys in use yet.
    pub fn new(sealer: Sealer) -> Self {
        Self { shared: Arc::new(Shared { sealer, keys: Mutex::default(), counting: Turns::default() }) }
    }

    /// What seals the secrets.
    pub fn sealer(&self) -> &Sealer {
        &self.shared.sealer
    }

    /// A key by its id, from memory if it is in use. What it says may have changed since: [`Self::spend`] finds out.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn find<S: Store>(&self, store: &S, id: &str) -> Result<Option<Arc<Opened>>, StoreError> {
        if let Some(held) = self.lock().get(id) {
            return Ok(Some(Arc::clone(&held.opened)));
        }
        self.read(store, id).await
    }

    /// A key by its id, as it is in the store now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read<S: Store>(&self, store: &S, id: &str) -> Result<Option<Arc<Opened>>, StoreError> {
        let Some(record) = store.get(Table::ApiKeys, &settings_key(id)).await? else {
            self.lock().remove(id);
            return Ok(None);
        };
        let (key, sealed) = record::decode(&record)?;
        let secret = self.shared.sealer.open(id, &sealed)?;
        let opened = Arc::new(Opened { record, key, secret });
        let mut keys = self.lock();
        if let Some(held) = keys.get_mut(id) {
            held.opened = Arc::clone(&opened);
        } else {
            if keys.len() >= KEYS_MAX {
                keys.clear();
            }
            let pace = Pace::per_minute(opened.key.per_minute);
            keys.insert(id.to_owned(), Held { opened: Arc::clone(&opened), count: None, broken: 0, pace });
        }
        Ok(Some(opened))
    }

    /// Whether one more creation is within the key's rate. It counts, whatever becomes of it.
    pub fn keeps_pace(&self, id: &str, unix_millis: u64) -> bool {
        self.lock().get_mut(id).is_none_or(|held| held.pace.take(unix_millis))
    }

    /// Whether it is of use to prepare this creation: nothing is known yet that would keep it from happening.
    ///
    /// # Errors
    /// As [`Self::spend`], for what the store says now.
    pub async fn foresee<S: Store>(
        &self,
        store: &S,
        account: JidRef<'_>,
        id: &str,
        nonce: &str,
        accounts_max: u64,
    ) -> Result<(), SpendError> {
        let at = |table, key| Lookup { table, key, below: false };
        let lookups = vec![
            at(Table::Accounts, key::account(account)),
            at(Table::ApiKeys, nonce_key(id, nonce)),
            at(Table::ApiKeys, count_key(id)),
        ];
        let mut found = store.look_up(lookups).await?.into_iter().map(|found| found.map(|found| found.value));
        let (account, nonce, count) = (found.next().flatten(), found.next().flatten(), found.next().flatten());
        // Who signs the same twice is told so whatever became of the first.
        if nonce.is_some() {
            return Err(SpendError::Replayed);
        }
        if account.is_some() {
            return Err(SpendError::Exists);
        }
        match count {
            Some(count) if record::decode_count(&count)? >= accounts_max => Err(SpendError::Exhausted),
            Some(_) => Ok(()),
            None => Err(StoreError::Corrupt.into()),
        }
    }

    /// Creates an account with a key; both the account and its being counted are durable when this resolves.
    ///
    /// # Errors
    /// [`SpendError`]; then nothing was changed.
    pub async fn spend<S: Store>(&self, store: &S, creation: &Creation<'_>) -> Result<(), SpendError> {
        for _ in 0..ATTEMPTS_MAX {
            let opened = self.find(store, creation.id).await?.ok_or(SpendError::NoKey)?;
            opened.permits(creation.account.domain(), creation.now)?;
            let Some(Sent { commit, broken, last }) = self.send(store, creation, &opened) else {
                self.count(store, creation.id).await?;
                continue;
            };
            let failed = match commit.await {
                Ok(()) if last => return Err(SpendError::Exhausted),
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            self.break_off(creation.id, broken);
            // Of a batch that only asks whether the count is what it seems to be, the guards stand in the same places.
            match failed {
                CommitError::Store(error) => return Err(error.into()),
                CommitError::Guard(GUARD_ACCOUNT) => return Err(SpendError::Exists),
                CommitError::Guard(GUARD_NONCE) => return Err(SpendError::Replayed),
                CommitError::Guard(GUARD_SETTINGS) => drop(self.read(store, creation.id).await?),
                CommitError::Guard(_) => {}
            }
        }
        Err(StoreError::Busy.into())
    }

    /// Sends the commit behind all that were sent before; `None` if the count is not known.
    fn send<S: Store>(
        &self,
        store: &S,
        creation: &Creation<'_>,
        opened: &Opened,
    ) -> Option<Sent<impl Future<Output = Result<(), CommitError>> + use<S>>> {
        let mut keys = self.lock();
        let held = keys.get_mut(creation.id)?;
        let count = held.count?;
        // If it seems to be used up, those who were counted may fail yet: the store says, behind them, whether they did.
        let last = count >= opened.key.accounts_max;
        let batch = batch(creation, opened, count, last);
        if !last {
            held.count = Some(count + 1);
        }
        // Sent while nobody else can send: the order of commits is the order of counts.
        Some(Sent { commit: store.commit(batch), broken: held.broken, last })
    }

    /// Reads the count, behind all that was sent. One does, and the others wait for it.
    async fn count<S: Store>(&self, store: &S, id: &str) -> Result<(), SpendError> {
        let _turn = self.shared.counting.take(id.as_bytes()).await;
        let broken = match self.lock().get(id) {
            Some(held) if held.count.is_none() => held.broken,
            Some(_) | None => return Ok(()),
        };
        // An empty batch is done when those before it are.
        match store.commit(Batch::default()).await {
            Ok(()) | Err(CommitError::Guard(_)) => {}
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
        let record = store.get(Table::ApiKeys, &count_key(id)).await?.ok_or(SpendError::NoKey)?;
        let count = record::decode_count(&record)?;
        if let Some(held) = self.lock().get_mut(id)
            && held.count.is_none()
            && held.broken == broken
        {
            held.count = Some(count);
        }
        Ok(())
    }

    /// A creation was not what those behind it expect: the count is read again. Only the first of them says so.
    fn break_off(&self, id: &str, broken: u64) {
        if let Some(held) = self.lock().get_mut(id)
            && held.broken == broken
        {
            held.broken += 1;
            held.count = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        // Nothing inside the lock can panic halfway, so a poisoned table is whole.
        self.shared.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A commit on its way.
struct Sent<F> {
    commit: F,
    /// Of the key, when it was sent.
    broken: u64,
    /// It creates nothing, and succeeds if the key is used up.
    last: bool,
}

const GUARD_ACCOUNT: usize = 0;
const GUARD_NONCE: usize = 1;
const GUARD_SETTINGS: usize = 2;

/// All that happens at once; `last`: nothing, if the key is used up.
fn batch(creation: &Creation<'_>, opened: &Opened, count: u64, last: bool) -> Batch {
    let Creation { account, keys, id, nonce, nonce_until, now } = *creation;
    let (table, place) = (Table::ApiKeys, key::account(account));
    let guards = vec![
        Guard::Absent { table: Table::Accounts, key: place.clone() },
        Guard::Absent { table, key: nonce_key(id, nonce) },
        Guard::Equals { table, key: settings_key(id), value: opened.record.clone() },
        Guard::Equals { table, key: count_key(id), value: record::encode_count(count) },
    ];
    if last {
        return Batch { guards, writes: Vec::new() };
    }
    let NewKeys { sha1, sha256 } = keys.clone();
    let record = accounts::encode(&Account { sha1, sha256, disabled: false, admin: false, created: now });
    let writes = vec![
        Write::Put { table: Table::Accounts, key: place, value: record },
        Write::Put { table, key: nonce_key(id, nonce), value: record::encode_moment(nonce_until) },
        Write::Put { table, key: count_key(id), value: record::encode_count(count + 1) },
        Write::Put { table, key: account_key(id, account), value: record::encode_moment(now) },
        Write::Put { table, key: origin_key(account), value: id.as_bytes().to_vec() },
    ];
    Batch { guards, writes }
}
