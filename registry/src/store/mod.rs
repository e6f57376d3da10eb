//! The store seam: what the registry needs from a store; the embedded one, and one in memory for tests.
//!
//! Called by the rooms that keep facts (`accounts`, `rosters`, …). Knows tables, keys and bytes; nothing of what they
//! mean. Requests are queued when the method is called, answered through the future, and done even if it is dropped.

use std::fmt;
use std::future::Future;
use std::ops::Bound;

pub mod embedded;
mod envelope;
mod group;
mod journal;
pub(crate) mod key;
mod manifests;
pub mod memory;
mod table;

/// A table of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Accounts and their SCRAM keys.
    Accounts,
    /// Roster items.
    Rosters,
    /// Messages for who is away (XEP-0160).
    Offline,
    /// Private XML (XEP-0049).
    Private,
    /// vCards (XEP-0054) and the hashes of their photos.
    Vcards,
    /// Avatars (XEP-0008).
    Avatars,
    /// Whom an account blocks (XEP-0191).
    Blocklists,
    /// Sessions that wait to be resumed while the broker is restarted (XEP-0198).
    Resumables,
    /// Tokens for the next login (XEP-0484).
    Tokens,
    /// Nodes of publish-subscribe, and all that belongs to them.
    PubSub,
    /// Archives of messages (XEP-0313), and who wants what archived (XEP-0441).
    Archives,
    /// The broker's own facts: schema version, server secrets.
    Broker,
    /// Things, by account and node (XEP-0347).
    Things,
    /// Which things nobody owns yet, by the hash of the tags and the key that claim them.
    Claims,
    /// Who owns which things.
    Owners,
    /// What others may do with things (XEP-0324).
    Rules,
    /// What owners were asked, and have not answered.
    Questions,
    /// Certificates that tokens stand for.
    Certificates,
    /// Makers' keys, and what was created with them (XEP-0348).
    ApiKeys,
}

/// Why a store could not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// More requests in flight than the store takes: try again later.
    Busy,
    /// The store went read-only after a failed sync, or its thread is gone.
    Failed,
    /// A record failed its checksum or has a format we do not know.
    Corrupt,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "the store has too many requests in flight",
            Self::Failed => "the store no longer takes writes: a sync failed, or it was closed",
            Self::Corrupt => "a record is damaged or of an unknown format",
        })
    }
}

impl std::error::Error for StoreError {}

/// Why a commit did not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitError {
    /// A guard did not hold, by its index in the batch.
    Guard(usize),
    /// The store could not take it.
    Store(StoreError),
}

impl From<StoreError> for CommitError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guard(index) => write!(f, "guard {index} of the batch did not hold"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CommitError {}

/// A condition checked inside the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "named by what they are")]
pub enum Guard {
    /// The key must not exist.
    Absent { table: Table, key: Vec<u8> },
    /// The key must exist.
    Present { table: Table, key: Vec<u8> },
    /// The key must hold exactly this value.
    Equals { table: Table, key: Vec<u8>, value: Vec<u8> },
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "named by what they are")]
pub enum Write {
    Put {
        table: Table,
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Delete {
        table: Table,
        key: Vec<u8>,
    },
    /// Deletes every key with this prefix.
    DeletePrefix {
        table: Table,
        prefix: Vec<u8>,
    },
}

/// Guards and writes that happen all or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Checked first, in order, against the store and the batches before this one.
    pub guards: Vec<Guard>,
    /// Done in order.
    pub writes: Vec<Write>,
}

impl Batch {
    /// Bytes of all keys and values, which is what the batch costs in memory and in the journal.
    fn bytes(&self) -> usize {
        let guards = self.guards.iter().map(|guard| match guard {
            Guard::Absent { key, .. } | Guard::Present { key, .. } => key.len(),
            Guard::Equals { key, value, .. } => key.len() + value.len(),
        });
        let writes = self.writes.iter().map(|write| match write {
            Write::Put { key, value, .. } => key.len() + value.len(),
            Write::Delete { key, .. } => key.len(),
            Write::DeletePrefix { prefix, .. } => prefix.len(),
        });
        guards.sum::<usize>() + writes.sum::<usize>()
    }
}

/// A key and the value under it.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The least key of a range and the greatest.
type KeyBounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

impl Run {
    /// The bounds of its keys, `upper` being the end of the prefix; `None` if no key is between them.
    fn bounds(&self, upper: Bound<Vec<u8>>) -> Option<KeyBounds> {
        let low = match &self.after {
            Some(after) if *after >= self.prefix => Bound::Excluded(after.clone()),
            Some(_) | None => Bound::Included(self.prefix.clone()),
        };
        let high = match (&self.before, upper) {
            (Some(before), Bound::Excluded(end) | Bound::Included(end)) if *before >= end => Bound::Excluded(end),
            (Some(before), _) => Bound::Excluded(before.clone()),
            (None, upper) => upper,
        };
        let is_empty = match (&low, &high) {
            (Bound::Included(low), Bound::Excluded(high)) => low >= high,
            // Nothing lies between a key and the next one.
            (Bound::Excluded(low), Bound::Excluded(high)) => low >= high || [&**low, &[0]].concat() >= *high,
            _ => false,
        };
        (!is_empty).then_some((low, high))
    }

    /// Takes pairs until there are enough.
    fn take<E>(&self, pairs: impl Iterator<Item = Result<Pair, E>>) -> Result<Vec<Pair>, E> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        for pair in pairs.take(self.limit) {
            let pair = pair?;
            bytes += pair.1.len();
            taken.push(pair);
            if bytes >= self.bytes_max {
                break;
            }
        }
        Ok(taken)
    }
}

/// One of several reads made in one trip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// Where.
    pub table: Table,
    /// The key.
    pub key: Vec<u8>,
    /// If there is a value under the key, also those whose keys are longer and begin with it.
    pub below: bool,
}

/// Pairs of a table in a row, read from either end, within bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Where.
    pub table: Table,
    /// What their keys begin with.
    pub prefix: Vec<u8>,
    /// Only keys greater than this.
    pub after: Option<Vec<u8>>,
    /// Only keys smaller than this.
    pub before: Option<Vec<u8>>,
    /// Whether the greatest keys come first.
    pub backwards: bool,
    /// Pairs at most.
    pub limit: usize,
    /// Bytes of values at which it ends, even if there are more: at least one pair comes if there is one.
    pub bytes_max: usize,
}

/// What a [`Lookup`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The value under the key.
    pub value: Vec<u8>,
    /// In key order; empty if not asked for.
    pub below: Vec<Pair>,
}

/// What the registry needs from a store.
pub trait Store: Clone {
    /// The value under a key. Reads see every write that was acknowledged.
    fn get(
        &self,
        table: Table,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + Send + 'static + use<Self>;
    /// Key-value pairs whose key begins with `prefix` and is greater than `after` (if given), in key order, `limit` at most.
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Pair>, StoreError>> + Send + 'static + use<Self>;
    /// Pairs in a row.
    fn run(&self, run: Run) -> impl Future<Output = Result<Vec<Pair>, StoreError>> + Send + 'static + use<Self>;
    /// Several reads in one trip, answered in their order.
    fn look_up(
        &self,
        lookups: Vec<Lookup>,
    ) -> impl Future<Output = Result<Vec<Option<Found>>, StoreError>> + Send + 'static + use<Self>;
    /// All or nothing, durable when it resolves; guards are checked inside.
    fn commit(&self, batch: Batch) -> impl Future<Output = Result<(), CommitError>> + Send + 'static + use<Self>;
}
