//! Archives (XEP-0313 v1.1.3): messages an account keeps here to read them again, if the operator lets it.
//!
//! An account has an archive when its head is in the store; the operator makes it and takes it away ([`allow`],
//! [`forbid`]), and what goes into it the account says itself ([`Prefs`], XEP-0441). A message is stored as it was written
//! for its recipient, under an id that is its time and grows, so that the order of keys is the order of messages.
//!
//! Called by [`crate::errands`] for an account's home shard, by the service and by the operator's commands. Changes are
//! guarded by the head: two at once never lose one, and nothing is stored once the archive is gone.

mod id;
mod prefs;
mod query;

pub use id::ArchiveId;
#[cfg(any(test, fuzzing))]
pub(crate) use prefs::RECORDS as PREFERENCES;
pub use prefs::{Addresses, Mode, Modes, Prefs, load as load_prefs, save as save_prefs};
pub use query::{Found, Item, Query, QueryError, ends, query};

use plaza_core::jid::JidRef;

#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::owned::ATTEMPTS_MAX;
use crate::record::{Reader, put_bytes, put_count};
use crate::store::{Batch, CommitError, Guard, Lookup, Pair, Run, Store, StoreError, Table, Write, key};

/// Version of the head's record and of a message's.
const VERSION: u8 = 1;
/// What a message is counted with beside its own bytes: key, record, and what the engine adds.
const OVERHEAD_BYTES: u64 = 64;
/// Messages forgotten by one change at most. What is beyond goes with the next.
const FORGOTTEN_AT_ONCE_MAX: usize = 4_096;
/// Read from an archive in one trip.
const SLICE_MESSAGES: usize = 256;
const SLICE_BYTES: usize = 256 * 1024;

/// What the operator allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveConfig {
    /// What accounts may choose. Default none: there are no archives.
    pub modes: Modes,
    /// What holds for an account that has not chosen. Default [`Mode::Never`].
    pub default: Mode,
    /// Bounds.
    pub limits: ArchiveLimits,
    /// Random: makes ids that cannot be foretold.
    pub id_key: u64,
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        Self { modes: Modes::NONE, default: Mode::Never, limits: ArchiveLimits::default(), id_key: 0 }
    }
}

impl ArchiveConfig {
    /// Whether anything may be archived at all.
    pub const fn is_on(&self) -> bool {
        !self.modes.is_empty()
    }
}

/// Bounds of an account's archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveLimits {
    /// How long a message is kept, in milliseconds. Default 30 days.
    pub age_millis_max: u64,
    /// Messages kept. Default 10 000; for one more the oldest goes.
    pub messages_max: u32,
    /// Bytes of all of them. Default 16 777 216; the same. A message larger than that is not archived.
    pub bytes_max: u64,
    /// Messages given in answer to one query. Default 100; a client asks for the rest.
    pub page_max: u32,
    /// Bytes of them at which a page ends. Default 131 072: half of what a client's outbox holds.
    pub page_bytes_max: u32,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        Self {
            age_millis_max: 30 * 24 * 3_600_000,
            messages_max: 10_000,
            bytes_max: 16 << 20,
            page_max: 100,
            page_bytes_max: 128 * 1024,
        }
    }
}

impl ArchiveLimits {
    /// The least id of a message that is not too old.
    const fn floor(&self, unix_millis: u64) -> u64 {
        ArchiveId::first_of(unix_millis.saturating_sub(self.age_millis_max))
    }
}

/// A message to be archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who it is from or to, the other than the archive's owner, in normal form.
    pub with: Box<str>,
    /// As its recipient reads it, without an id of this archive.
    pub stanza: Box<[u8]>,
}

impl Entry {
    fn bytes(&self) -> u64 {
        cost(self.with.len(), self.stanza.len())
    }
}

const fn cost(with_len: usize, stanza_len: usize) -> u64 {
    (with_len + stanza_len) as u64 + OVERHEAD_BYTES
}

/// What an archive holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Head {
    count: u32,
    bytes: u64,
    /// No message has a smaller id.
    first: u64,
    /// The last id given.
    last: u64,
}

impl Head {
    fn encode(self) -> Vec<u8> {
        let mut record = vec![VERSION];
        put_count(&mut record, self.count.into());
        put_count(&mut record, self.bytes);
        record.extend_from_slice(&self.first.to_le_bytes());
        record.extend_from_slice(&self.last.to_le_bytes());
        record
    }

    fn decode(record: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader::open(record, VERSION)?;
        let count = u32::try_from(reader.count()?).map_err(|_| StoreError::Corrupt)?;
        let head = Self { count, bytes: reader.count()?, first: reader.u64()?, last: reader.u64()? };
        reader.close()?;
        Ok(head)
    }

    fn is_over(&self, limits: &ArchiveLimits, floor: u64) -> bool {
        self.count > 0 && (self.count > limits.messages_max || self.bytes > limits.bytes_max || self.first < floor)
    }
}

/// version · the other's address behind its length · the stanza.
fn encode(entry: &Entry) -> Vec<u8> {
    let mut record = Vec::with_capacity(entry.with.len() + entry.stanza.len() + 4);
    record.push(VERSION);
    put_bytes(&mut record, entry.with.as_bytes());
    record.extend_from_slice(&entry.stanza);
    record
}

/// The other's address and the stanza.
pub(crate) fn decode(record: &[u8]) -> Result<(&str, &[u8]), StoreError> {
    let mut reader = Reader::open(record, VERSION)?;
    let with = reader.text()?;
    Ok((with, reader.rest()))
}

/// Gives an account an archive, if it has none.
///
/// # Errors
/// [`CommitError::Guard`] if there is no such account, [`CommitError::Store`].
pub async fn allow<S: Store>(store: &S, owner: JidRef<'_>) -> Result<(), CommitError> {
    let key = key::archive_head(owner);
    if store.get(Table::Archives, &key).await?.is_some() {
        return Ok(());
    }
    let account = Guard::Present { table: Table::Accounts, key: key::account(owner) };
    let absent = Guard::Absent { table: Table::Archives, key: key.clone() };
    let head = Write::Put { table: Table::Archives, key, value: Head::default().encode() };
    match store.commit(Batch { guards: vec![account, absent], writes: vec![head] }).await {
        Err(CommitError::Guard(1)) => Ok(()), // Somebody else was faster.
        done => done,
    }
}

/// Takes an account's archive away, with all that is in it and what was wanted in it.
///
/// # Errors
/// [`CommitError::Guard`] if there is no such account, [`CommitError::Store`].
pub async fn forbid<S: Store>(store: &S, owner: JidRef<'_>) -> Result<(), CommitError> {
    let account = Guard::Present { table: Table::Accounts, key: key::account(owner) };
    let all = Write::DeletePrefix { table: Table::Archives, prefix: key::archive(owner) };
    store.commit(Batch { guards: vec![account], writes: vec![all] }).await
}

/// Which of these accounts have an archive, in one trip.
///
/// # Errors
/// [`StoreError`].
pub async fn have<S: Store>(store: &S, owners: impl Iterator<Item = JidRef<'_>>) -> Result<Vec<bool>, StoreError> {
    let lookups = owners.map(|owner| head_of(owner)).collect();
    Ok(store.look_up(lookups).await?.iter().map(Option::is_some).collect())
}

/// Where an account's archive is found, if it has one.
pub(crate) fn head_of(owner: JidRef<'_>) -> Lookup {
    Lookup { table: Table::Archives, key: key::archive_head(owner), below: false }
}

/// Archives messages in order; durable when it resolves. Gives each its id, `None` for one that is too large. The oldest go
/// to make room.
///
/// # Errors
/// [`CommitError::Guard`] if there is no archive (any more), [`CommitError::Store`].
pub async fn store<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    config: &ArchiveConfig,
    entries: &[Entry],
    unix_millis: u64,
) -> Result<Vec<Option<ArchiveId>>, CommitError> {
    let mut ids = Vec::with_capacity(entries.len());
    let id_key = ArchiveId::key(config.id_key, owner);
    change(store, owner, config, unix_millis, |head, writes| {
        ids.clear();
        for entry in entries {
            if entry.bytes() > config.limits.bytes_max || config.limits.messages_max == 0 {
                ids.push(None);
                continue;
            }
            let id = ArchiveId::next(head.last, unix_millis, id_key, &entry.stanza);
            if head.count == 0 {
                head.first = id.0;
            }
            (head.count, head.bytes, head.last) = (head.count + 1, head.bytes + entry.bytes(), id.0);
            let key = key::archived_message(owner, id.0);
            writes.push(Write::Put { table: Table::Archives, key, value: encode(entry) });
            ids.push(Some(id));
        }
    })
    .await?;
    Ok(ids)
}

/// Forgets what is too old, or too much. Whether there is more to forget.
///
/// # Errors
/// [`CommitError`], as for [`store()`].
pub async fn trim<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    config: &ArchiveConfig,
    unix_millis: u64,
) -> Result<bool, CommitError> {
    let head = change(store, owner, config, unix_millis, |_, _| {}).await?;
    Ok(head.is_over(&config.limits, config.limits.floor(unix_millis)))
}

/// Goes through all archives and forgets what is too old. Accounts without one cost nothing. How many there are.
///
/// # Errors
/// [`StoreError`].
pub async fn sweep<S: Store>(store: &S, config: &ArchiveConfig, unix_millis: u64) -> Result<u64, StoreError> {
    let (mut archives, mut after) = (0, None);
    loop {
        let next = Run {
            table: Table::Archives,
            prefix: Vec::new(),
            after: after.take(),
            before: None,
            backwards: false,
            limit: 1,
            bytes_max: usize::MAX,
        };
        let Some((found, _)) = store.run(next).await?.pop() else { return Ok(archives) };
        let bare = key::archive_owner(&found)?;
        archives += 1;
        let owner = JidRef::from_normal(bare);
        loop {
            match trim(store, owner, config, unix_millis).await {
                Ok(true) => {}
                Ok(false) | Err(CommitError::Guard(_)) => break,
                Err(CommitError::Store(error)) => return Err(error),
            }
        }
        // Behind all keys of this one.
        after = Some([&*key::archive(owner), &[u8::MAX]].concat());
    }
}

/// Reads the head, edits it, makes room and writes, again if another change came between.
async fn change<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    config: &ArchiveConfig,
    unix_millis: u64,
    mut edit: impl FnMut(&mut Head, &mut Vec<Write>),
) -> Result<Head, CommitError> {
    let head_key = key::archive_head(owner);
    for _ in 0..ATTEMPTS_MAX {
        let before = store.get(Table::Archives, &head_key).await?.ok_or(CommitError::Guard(0))?;
        let mut head = Head::decode(&before)?;
        let mut writes = Vec::new();
        let oldest = head;
        edit(&mut head, &mut writes);
        make_room(store, owner, (&mut head, oldest), &config.limits, unix_millis, &mut writes).await?;
        if head == oldest && writes.is_empty() {
            return Ok(head);
        }
        writes.push(Write::Put { table: Table::Archives, key: head_key.clone(), value: head.encode() });
        let guard = Guard::Equals { table: Table::Archives, key: head_key.clone(), value: before };
        match store.commit(Batch { guards: vec![guard], writes }).await {
            Ok(()) => return Ok(head),
            Err(CommitError::Guard(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::Busy.into())
}

/// Forgets the oldest messages until the rest fits: of those that are stored (`was`), not of those about to be.
async fn make_room<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    (head, was): (&mut Head, Head),
    limits: &ArchiveLimits,
    unix_millis: u64,
    writes: &mut Vec<Write>,
) -> Result<(), StoreError> {
    let floor = limits.floor(unix_millis);
    let (mut stored, mut forgotten) = (was.count, 0);
    let mut after = None;
    while stored > 0 && head.is_over(limits, floor) && forgotten < FORGOTTEN_AT_ONCE_MAX {
        let slice = slice(owner, (after.take(), None), false);
        let pairs = store.run(slice).await?;
        if pairs.is_empty() {
            return Err(StoreError::Corrupt);
        }
        for (key, record) in pairs {
            let (id, bytes) = (message_id(owner, &key)?, size(&record)?);
            if id > was.last || !(id < floor || head.count > limits.messages_max || head.bytes > limits.bytes_max) {
                head.first = id.min(head.last);
                return Ok(());
            }
            (head.count, head.bytes) = (head.count.saturating_sub(1), head.bytes.saturating_sub(bytes));
            head.first = id + 1;
            stored = stored.saturating_sub(1);
            forgotten += 1;
            writes.push(Write::Delete { table: Table::Archives, key: key.clone() });
            after = Some(key);
        }
    }
    Ok(())
}

/// A slice of an archive between two keys.
fn slice(owner: JidRef<'_>, (after, before): (Option<Vec<u8>>, Option<Vec<u8>>), backwards: bool) -> Run {
    Run {
        table: Table::Archives,
        prefix: key::archived(owner),
        after,
        before,
        backwards,
        limit: SLICE_MESSAGES,
        bytes_max: SLICE_BYTES,
    }
}

fn message_id(owner: JidRef<'_>, key: &[u8]) -> Result<u64, StoreError> {
    let id = key.strip_prefix(&*key::archived(owner)).and_then(|id| id.try_into().ok());
    id.map(u64::from_be_bytes).ok_or(StoreError::Corrupt)
}

/// What a stored message was counted with.
fn size(record: &[u8]) -> Result<u64, StoreError> {
    let (with, stanza) = decode(record)?;
    Ok(cost(with.len(), stanza.len()))
}

/// An id and a record.
fn item(owner: JidRef<'_>, (key, record): &Pair) -> Result<(ArchiveId, Entry), StoreError> {
    let (with, stanza) = decode(record)?;
    Ok((ArchiveId(message_id(owner, key)?), Entry { with: with.into(), stanza: stanza.into() }))
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] = &[
    |record| Head::decode(record).map(Head::encode),
    |record| decode(record).map(|(with, stanza)| encode(&Entry { with: with.into(), stanza: stanza.into() })),
];

#[cfg(test)]
mod tests;
