//! Accounts: who may log in. SCRAM keys for SHA-1 and SHA-256, never passwords.
//!
//! Called by the shards at login and by the commands. Changes are guarded reads and writes: two at once never lose one.
//! Deriving keys takes milliseconds and is the caller's to place ([`crate::helpers`]).
//!
//! Spec: RFC 5802 §5.1 and RFC 7677 (what is kept of a password), RFC 7622 (names, in normal form).

use std::fmt;

use plaza_core::jid::{Jid, JidRef};
use plaza_core::sasl::scram::{Hash, Keys, derive};

use crate::apikeys;
#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::record::{Reader, flag, put_bytes, put_count};
use crate::store::{Batch, CommitError, Guard, Lookup, Store, StoreError, Table, Write, key};
use crate::{provisioning, things};

/// Version of an account's record.
const VERSION: u8 = 1;
const FLAG_DISABLED: u8 = 1;
const FLAG_ADMIN: u8 = 1 << 1;
/// How often a change is tried again when another one came between. Each failure means another one succeeded.
const ATTEMPTS_MAX: usize = 16;

/// An account as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Keys for SCRAM-SHA-1.
    pub sha1: Keys,
    /// Keys for SCRAM-SHA-256.
    pub sha256: Keys,
    /// May not log in.
    pub disabled: bool,
    /// May administer the broker.
    pub admin: bool,
    /// Seconds since the Unix epoch.
    pub created: u64,
}

impl Account {
    /// The keys for a hash.
    pub fn keys(&self, hash: Hash) -> &Keys {
        match hash {
            Hash::Sha1 => &self.sha1,
            Hash::Sha256 => &self.sha256,
        }
    }
}

/// Why an account operation did not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "named by what they are")]
pub enum AccountError {
    Exists,
    NotFound,
    /// OpaqueString refuses the password, or it is empty.
    BadPassword,
    Store(StoreError),
}

impl fmt::Display for AccountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists => f.write_str("the account exists already"),
            Self::NotFound => f.write_str("there is no such account"),
            Self::BadPassword => f.write_str("the password is empty or has characters that are not allowed"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for AccountError {}

impl From<StoreError> for AccountError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// New credentials: both key sets, derived off the shards.
#[derive(Debug, Clone)]
pub struct NewKeys {
    /// SHA-1 keys.
    pub sha1: Keys,
    /// SHA-256 keys.
    pub sha256: Keys,
}

impl NewKeys {
    /// Derives both key sets; milliseconds of work. `salt`: 32 random bytes, half for each. `None` if OpaqueString
    /// refuses the password, or it is empty.
    pub fn derive(password: &str, salt: &[u8; 32], iterations: u32) -> Option<Self> {
        let (sha1_salt, sha256_salt) = salt.split_at(16);
        Some(Self {
            sha1: derive(Hash::Sha1, password, sha1_salt, iterations)?,
            sha256: derive(Hash::Sha256, password, sha256_salt, iterations)?,
        })
    }
}

/// Loads an account by its bare JID.
///
/// # Errors
/// [`StoreError`].
pub async fn load<S: Store>(store: &S, bare: JidRef<'_>) -> Result<Option<Account>, StoreError> {
    let record = store.get(Table::Accounts, &key::account(bare)).await?;
    record.map(|record| decode(&record)).transpose()
}

/// Creates an account; exactly one of two concurrent creations of the same address succeeds. `now`: seconds since the
/// Unix epoch.
///
/// # Errors
/// [`AccountError::Exists`] or [`AccountError::Store`].
pub async fn create<S: Store>(
    store: &S,
    bare: JidRef<'_>,
    keys: NewKeys,
    admin: bool,
    now: u64,
) -> Result<(), AccountError> {
    let account = Account { sha1: keys.sha1, sha256: keys.sha256, disabled: false, admin, created: now };
    let key = key::account(bare);
    let batch = Batch {
        guards: vec![Guard::Absent { table: Table::Accounts, key: key.clone() }],
        writes: vec![Write::Put { table: Table::Accounts, key, value: encode(&account) }],
    };
    store.commit(batch).await.map_err(|error| match error {
        CommitError::Guard(_) => AccountError::Exists,
        CommitError::Store(error) => AccountError::Store(error),
    })
}

/// What stores an account, whether it is there or not: to fill a store that nobody uses yet. `now`: seconds since the Unix
/// epoch.
pub fn settle(bare: JidRef<'_>, keys: &NewKeys, now: u64) -> Write {
    let NewKeys { sha1, sha256 } = keys.clone();
    let account = Account { sha1, sha256, disabled: false, admin: false, created: now };
    Write::Put { table: Table::Accounts, key: key::account(bare), value: encode(&account) }
}

/// Removes an account and everything of it.
///
/// # Errors
/// [`AccountError::NotFound`] or [`AccountError::Store`], which is [`StoreError::Busy`] while it has things: they are
/// forgotten first ([`things::forget`]), so that the index of things does not list what is gone.
pub async fn remove<S: Store>(store: &S, bare: JidRef<'_>) -> Result<(), AccountError> {
    for _ in 0..ATTEMPTS_MAX {
        let no_more_things = things::none_registered(store, bare).await?;
        let (still, mut writes) = apikeys::forget(bare, apikeys::origin(store, bare).await?);
        writes.extend(all_of(bare));
        writes.extend(provisioning::forget(store, bare).await?);
        let account = Guard::Present { table: Table::Accounts, key: key::account(bare) };
        match store.commit(Batch { guards: vec![account, still, no_more_things], writes }).await {
            Ok(()) => return Ok(()),
            Err(CommitError::Guard(0)) => return Err(AccountError::NotFound),
            Err(CommitError::Guard(_)) => {}
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
    }
    Err(StoreError::Busy.into())
}

/// What deletes an account and everything of it.
fn all_of(bare: JidRef<'_>) -> impl Iterator<Item = Write> {
    Table::ALL.into_iter().filter_map(move |table| erase(table, bare)).chain([things::uncount(bare)])
}

/// Removes what lies under an address that has no account, such as what somebody from elsewhere owns here.
///
/// # Errors
/// [`AccountError::Exists`] or [`AccountError::Store`].
pub(crate) async fn remove_rest<S: Store>(store: &S, bare: JidRef<'_>) -> Result<(), AccountError> {
    let guards = vec![Guard::Absent { table: Table::Accounts, key: key::account(bare) }];
    store.commit(Batch { guards, writes: all_of(bare).collect() }).await.map_err(|error| match error {
        CommitError::Guard(_) => AccountError::Exists,
        CommitError::Store(error) => AccountError::Store(error),
    })
}

/// What deletes all that an account has in a table, its own record included; `None` where accounts have nothing.
fn erase(table: Table, bare: JidRef<'_>) -> Option<Write> {
    Some(match table {
        // Only the key itself: names that begin alike are other accounts.
        Table::Accounts | Table::Vcards | Table::Avatars | Table::Blocklists | Table::Tokens => {
            Write::Delete { table, key: key::account(bare) }
        }
        Table::Rosters => Write::DeletePrefix { table, prefix: key::roster(bare) },
        Table::Offline => Write::DeletePrefix { table, prefix: key::offline(bare) },
        Table::Private => Write::DeletePrefix { table, prefix: key::private(bare) },
        Table::Resumables => Write::DeletePrefix { table, prefix: key::resumables(bare) },
        Table::PubSub => Write::DeletePrefix { table, prefix: key::pubsub(bare) },
        Table::Archives => Write::DeletePrefix { table, prefix: key::archive(bare) },
        Table::Things | Table::Rules => Write::DeletePrefix { table, prefix: key::things(bare) },
        // Its things stay claimed; but who takes its name later owns none of them.
        Table::Owners | Table::Questions => Write::DeletePrefix { table, prefix: key::owned_things(bare) },
        // What says which key made it is forgotten where that is known.
        Table::Claims | Table::Certificates | Table::ApiKeys | Table::Broker => return None,
    })
}

/// What became of an account that was to be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// It was created.
    Created,
    /// It was there, with these keys.
    Same,
    /// It was there, with others, and stays as it is.
    Different,
}

/// Creates accounts that are not there, many at once: they share the store's syncs. `now`: seconds since the Unix epoch.
///
/// # Errors
/// [`StoreError`]; then some were created, perhaps, and who imports them again is told so.
pub async fn import<S: Store>(store: &S, rows: &[(Jid, NewKeys)], now: u64) -> Result<Vec<Imported>, StoreError> {
    let create = |(bare, keys): &(Jid, NewKeys)| {
        let NewKeys { sha1, sha256 } = keys.clone();
        let account = Account { sha1, sha256, disabled: false, admin: false, created: now };
        let (table, key) = (Table::Accounts, key::account(bare.as_jid()));
        let guards = vec![Guard::Absent { table, key: key.clone() }];
        store.commit(Batch { guards, writes: vec![Write::Put { table, key, value: encode(&account) }] })
    };
    // All are sent before any is waited for.
    let commits: Vec<_> = rows.iter().map(create).collect();
    let mut imported = Vec::with_capacity(rows.len());
    for (commit, (bare, keys)) in commits.into_iter().zip(rows) {
        imported.push(match commit.await {
            Ok(()) => Imported::Created,
            Err(CommitError::Store(error)) => return Err(error),
            Err(CommitError::Guard(_)) => {
                let found = load(store, bare.as_jid()).await?;
                let same = found.is_some_and(|found| found.sha1 == keys.sha1 && found.sha256 == keys.sha256);
                if same { Imported::Same } else { Imported::Different }
            }
        });
    }
    Ok(imported)
}

/// Loads many accounts in one trip.
///
/// # Errors
/// [`StoreError`].
pub async fn load_all<S: Store>(store: &S, bare: &[Jid]) -> Result<Vec<Option<Account>>, StoreError> {
    let lookup = |bare: &Jid| Lookup { table: Table::Accounts, key: key::account(bare.as_jid()), below: false };
    let found = store.look_up(bare.iter().map(lookup).collect()).await?;
    found.into_iter().map(|found| found.map(|found| decode(&found.value)).transpose()).collect()
}

/// Replaces the keys. Tokens that were given for the old password go with it.
///
/// # Errors
/// [`AccountError::NotFound`] or [`AccountError::Store`].
pub async fn set_keys<S: Store>(store: &S, bare: JidRef<'_>, keys: NewKeys) -> Result<(), AccountError> {
    let NewKeys { sha1, sha256 } = keys;
    let tokens = vec![Write::Delete { table: Table::Tokens, key: key::account(bare) }];
    change(store, bare, tokens, |account| {
        account.sha1.clone_from(&sha1);
        account.sha256.clone_from(&sha256);
    })
    .await
}

/// Allows or forbids logging in.
///
/// # Errors
/// [`AccountError::NotFound`] or [`AccountError::Store`].
pub async fn set_disabled<S: Store>(store: &S, bare: JidRef<'_>, disabled: bool) -> Result<(), AccountError> {
    change(store, bare, Vec::new(), |account| account.disabled = disabled).await
}

/// Lists accounts in store order after `after`, at most `limit`. The order is stable and means nothing.
///
/// # Errors
/// [`StoreError`].
pub async fn list<S: Store>(store: &S, after: Option<&Jid>, limit: usize) -> Result<Vec<(Jid, Account)>, StoreError> {
    let after = after.map(|after| key::account(after.as_jid()));
    let pairs = store.scan(Table::Accounts, &[], after.as_deref(), limit).await?;
    pairs
        .into_iter()
        .map(|(key, record)| {
            let jid = Jid::parse(key::account_jid(&key)?).map_err(|_| StoreError::Corrupt)?;
            Ok((jid, decode(&record)?))
        })
        .collect()
}

/// Reads, edits and writes an account, again if another change came between; `also` is written with it.
async fn change<S: Store>(
    store: &S,
    bare: JidRef<'_>,
    also: Vec<Write>,
    edit: impl Fn(&mut Account),
) -> Result<(), AccountError> {
    let key = key::account(bare);
    for _ in 0..ATTEMPTS_MAX {
        let before = store.get(Table::Accounts, &key).await?.ok_or(AccountError::NotFound)?;
        let mut account = decode(&before)?;
        edit(&mut account);
        let mut writes = vec![Write::Put { table: Table::Accounts, key: key.clone(), value: encode(&account) }];
        writes.extend_from_slice(&also);
        let guards = vec![Guard::Equals { table: Table::Accounts, key: key.clone(), value: before }];
        let batch = Batch { guards, writes };
        match store.commit(batch).await {
            Ok(()) => return Ok(()),
            Err(CommitError::Guard(_)) => {}
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
    }
    Err(StoreError::Busy.into())
}

/// version · flags · seconds since the epoch in 8 bytes · keys for SHA-1 · keys for SHA-256; keys are
/// rounds · salt · StoredKey · ServerKey, each of the three behind its length.
pub(crate) fn encode(account: &Account) -> Vec<u8> {
    let mut record = Vec::with_capacity(192);
    record.push(VERSION);
    record.push(flag(account.disabled, FLAG_DISABLED) | flag(account.admin, FLAG_ADMIN));
    record.extend_from_slice(&account.created.to_le_bytes());
    for keys in [&account.sha1, &account.sha256] {
        put_count(&mut record, keys.iterations.into());
        put_bytes(&mut record, &keys.salt);
        put_bytes(&mut record, &keys.stored_key);
        put_bytes(&mut record, &keys.server_key);
    }
    record
}

pub(crate) fn decode(record: &[u8]) -> Result<Account, StoreError> {
    let mut reader = Reader::open(record, VERSION)?;
    let flags = reader.u8()?;
    if flags & !(FLAG_DISABLED | FLAG_ADMIN) != 0 {
        return Err(StoreError::Corrupt);
    }
    let created = reader.u64()?;
    let account = Account {
        sha1: decode_keys(&mut reader, Hash::Sha1)?,
        sha256: decode_keys(&mut reader, Hash::Sha256)?,
        disabled: flags & FLAG_DISABLED != 0,
        admin: flags & FLAG_ADMIN != 0,
        created,
    };
    reader.close()?;
    Ok(account)
}

fn decode_keys(reader: &mut Reader<'_>, hash: Hash) -> Result<Keys, StoreError> {
    let iterations = u32::try_from(reader.count()?).map_err(|_| StoreError::Corrupt)?;
    let salt = reader.bytes()?.into();
    let (stored_key, server_key) = (reader.bytes()?, reader.bytes()?);
    let key_bytes = match hash {
        Hash::Sha1 => 20,
        Hash::Sha256 => 32,
    };
    if stored_key.len() != key_bytes || server_key.len() != key_bytes {
        return Err(StoreError::Corrupt);
    }
    Ok(Keys { hash, salt, iterations, stored_key: stored_key.into(), server_key: server_key.into() })
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] = &[|record| decode(record).map(|account| encode(&account))];

#[cfg(test)]
mod tests {
    use plaza_core::sasl::scram::verify_password;
    use proptest::prelude::*;

    use super::*;
    use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
    use crate::store::memory::MemoryStore;
    use crate::wait::block_on;

    fn keys(byte: u8) -> NewKeys {
        let of = |hash, len| Keys {
            hash,
            salt: vec![byte; 16].into(),
            iterations: 10_000,
            stored_key: vec![byte; len].into(),
            server_key: vec![byte ^ 0xff; len].into(),
        };
        NewKeys { sha1: of(Hash::Sha1, 20), sha256: of(Hash::Sha256, 32) }
    }

    fn jid(text: &str) -> Jid {
        Jid::parse(text).unwrap()
    }

    proptest! {
        #[test]
        fn an_account_reads_back(byte: u8, iterations: u32, disabled: bool, admin: bool, created: u64) {
            let NewKeys { mut sha1, sha256 } = keys(byte);
            sha1.iterations = iterations;
            let account = Account { sha1, sha256, disabled, admin, created };
            prop_assert_eq!(decode(&encode(&account)), Ok(account));
        }
    }

    #[test]
    fn a_record_cut_short_or_too_long_is_corrupt() {
        let NewKeys { sha1, sha256 } = keys(1);
        let mut record = encode(&Account { sha1, sha256, disabled: false, admin: true, created: 1 });
        for len in 0..record.len() {
            assert_eq!(decode(&record[..len]), Err(StoreError::Corrupt));
        }
        record.push(0);
        assert_eq!(decode(&record), Err(StoreError::Corrupt));
    }

    #[test]
    fn new_keys_are_of_the_password_and_of_two_salts() {
        let salt = std::array::from_fn(|index| index as u8);
        let NewKeys { sha1, sha256 } = NewKeys::derive("pencil", &salt, 10).unwrap();
        assert_eq!([&*sha1.salt, &*sha256.salt].concat(), salt);
        for keys in [sha1, sha256] {
            assert!(verify_password(&keys, "pencil"));
            assert!(!verify_password(&keys, "Pencil"));
        }
        assert!(NewKeys::derive("", &salt, 10).is_none());
    }

    #[test]
    fn an_account_lives_from_create_to_remove() {
        let store = MemoryStore::new();
        let lamp = jid("lamp@things.example");
        let lamp = lamp.as_jid();
        assert_eq!(block_on(load(&store, lamp)), Ok(None));
        assert_eq!(block_on(create(&store, lamp, keys(1), true, 7)), Ok(()));
        assert_eq!(block_on(create(&store, lamp, keys(2), false, 8)), Err(AccountError::Exists));
        assert_eq!(block_on(set_keys(&store, lamp, keys(3))), Ok(()));
        assert_eq!(block_on(set_disabled(&store, lamp, true)), Ok(()));
        let account = block_on(load(&store, lamp)).unwrap().unwrap();
        assert_eq!((&account.sha1, account.keys(Hash::Sha256)), (&keys(3).sha1, &keys(3).sha256));
        assert!(account.disabled && account.admin);
        assert_eq!(account.created, 7);
        assert_eq!(block_on(remove(&store, lamp)), Ok(()));
        assert_eq!(block_on(remove(&store, lamp)), Err(AccountError::NotFound));
        assert_eq!(block_on(set_disabled(&store, lamp, false)), Err(AccountError::NotFound));
    }

    #[test]
    fn an_account_goes_with_all_it_owns_and_no_other_does() {
        let store = MemoryStore::new();
        let names = ["lamp@things.example", "lamp@things.example.org"].map(jid);
        let keys_of = |table, bare: &Jid| match erase(table, bare.as_jid()) {
            Some(Write::Delete { key, .. }) => vec![key],
            Some(Write::DeletePrefix { prefix, .. }) => vec![[&*prefix, b"more"].concat(), prefix],
            Some(Write::Put { .. }) => panic!("that keeps it"),
            None => Vec::new(),
        };
        for bare in &names {
            block_on(create(&store, bare.as_jid(), keys(1), false, 0)).unwrap();
            let others = Table::ALL.into_iter().filter(|&table| table != Table::Accounts);
            let writes = others.flat_map(|table| {
                keys_of(table, bare).into_iter().map(move |key| Write::Put { table, key, value: b"mine".to_vec() })
            });
            block_on(store.commit(Batch { guards: Vec::new(), writes: writes.collect() })).unwrap();
        }
        let [lamp, other] = &names;
        // Its things are taken out one by one before.
        assert_eq!(block_on(remove(&store, lamp.as_jid())), Err(StoreError::Busy.into()));
        let writes = erase(Table::Things, lamp.as_jid()).into_iter().collect();
        block_on(store.commit(Batch { guards: Vec::new(), writes })).unwrap();
        block_on(remove(&store, lamp.as_jid())).unwrap();
        for table in Table::ALL {
            for (bare, kept) in [(lamp, false), (other, true)] {
                for key in keys_of(table, bare) {
                    assert_eq!(block_on(store.get(table, &key)).unwrap().is_some(), kept, "{table:?} of {bare:?}");
                }
            }
            let nobodys = matches!(table, Table::Broker | Table::Claims | Table::Certificates | Table::ApiKeys);
            assert_eq!(keys_of(table, lamp).is_empty(), nobodys, "{table:?}");
        }
    }

    #[test]
    fn an_import_creates_what_is_not_there_and_changes_nothing() {
        let store = MemoryStore::new();
        let rows: Vec<_> = (0..5).map(|n| (jid(&format!("lamp{n}@things.example")), keys(n))).collect();
        block_on(create(&store, rows[1].0.as_jid(), keys(1), true, 7)).unwrap();
        block_on(create(&store, rows[2].0.as_jid(), keys(9), false, 7)).unwrap();
        let imported = block_on(import(&store, &rows, 8)).unwrap();
        use Imported::{Created, Different, Same};
        assert_eq!(imported, [Created, Same, Different, Created, Created]);
        assert_eq!(block_on(import(&store, &rows, 9)).unwrap(), [Same, Same, Different, Same, Same]);
        let names: Vec<_> = rows.iter().map(|(bare, _)| bare.clone()).chain([jid("nobody@things.example")]).collect();
        let found = block_on(load_all(&store, &names)).unwrap();
        let created = |n: usize| found[n].as_ref().map(|account| (account.created, account.sha1.salt[0]));
        assert_eq!([created(0), created(1), created(2), created(5)], [Some((8, 0)), Some((7, 1)), Some((7, 9)), None]);
        store.refuse(Some(StoreError::Busy));
        assert_eq!(block_on(import(&store, &rows, 9)), Err(StoreError::Busy));
    }

    #[test]
    fn of_many_creations_at_once_exactly_one_succeeds() {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(directory.path(), EmbeddedOptions::default()).unwrap();
        for round in 0..20 {
            let lamp = jid(&format!("lamp{round}@things.example"));
            let winners = std::thread::scope(|scope| {
                let creations: Vec<_> = (0..8)
                    .map(|byte| {
                        let (store, lamp) = (store.clone(), lamp.clone());
                        scope
                            .spawn(move || block_on(create(&store, lamp.as_jid(), keys(byte), false, 0)).map(|()| byte))
                    })
                    .collect();
                let results: Vec<_> = creations.into_iter().map(|creation| creation.join().unwrap()).collect();
                results.into_iter().filter_map(Result::ok).collect::<Vec<u8>>()
            });
            let [winner] = *winners else { panic!("{} winners", winners.len()) };
            let account = block_on(load(&store, lamp.as_jid())).unwrap().unwrap();
            assert_eq!(account.sha1, keys(winner).sha1);
        }
        store.close().unwrap();
    }

    #[test]
    fn changes_at_once_are_all_kept() {
        let store = MemoryStore::new();
        let lamp = jid("lamp@things.example");
        block_on(create(&store, lamp.as_jid(), keys(1), false, 0)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| block_on(set_keys(&store, lamp.as_jid(), keys(2))).unwrap());
            scope.spawn(|| block_on(set_disabled(&store, lamp.as_jid(), true)).unwrap());
        });
        let account = block_on(load(&store, lamp.as_jid())).unwrap().unwrap();
        assert_eq!((account.sha1, account.disabled), (keys(2).sha1, true));
    }

    #[test]
    fn listing_by_pages_gives_every_account_once() {
        let store = MemoryStore::new();
        let mut names: Vec<_> = (0..25).map(|index| format!("thing{index}@things.example")).collect();
        for name in &names {
            block_on(create(&store, jid(name).as_jid(), keys(1), false, 0)).unwrap();
        }
        let mut listed: Vec<Jid> = Vec::new();
        loop {
            let page = block_on(list(&store, listed.last(), 7)).unwrap();
            if page.is_empty() {
                break;
            }
            listed.extend(page.into_iter().map(|(jid, _)| jid));
        }
        let mut listed: Vec<_> = listed.iter().map(|jid| jid.as_str().to_owned()).collect();
        listed.sort();
        names.sort();
        assert_eq!(listed, names);
    }
}
