//! Copies of a store, made while it is in use.
//!
//! A [`Snapshot`] is all that is in the store at one moment: everything that was acknowledged before, and of each batch
//! all or nothing, since a group of batches becomes one write of the engine. It is read and written by whoever holds it, on
//! a thread of its own, a bounded piece at a time; the store's threads have nothing to do with it.

use std::fs::{self, DirBuilder, File, Permissions};
use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use fjall::{PersistMode, Readable};

use super::{Fjall, Read, read_error};
use crate::store::embedded::EmbeddedStore;
use crate::store::{StoreError, Table, envelope};
use crate::wait::oneshot;

/// Bytes of keys and values that are written at once.
const PIECE_BYTES: usize = 1 << 20;
/// Block cache of the store that is written: nobody reads it.
const CACHE_BYTES: u64 = 1 << 20;

/// All that a store had at one moment. Holds the store's directory, and what has been replaced since, until it is dropped.
pub struct Snapshot {
    // Before the engine that it belongs to.
    snapshot: fjall::Snapshot,
    engine: Fjall,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

/// What was copied so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Records.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// Why there is no copy.
#[derive(Debug)]
pub enum BackupError {
    /// Something in the store cannot be read.
    Read(StoreError),
    /// It cannot be written, with a text for the operator.
    Write(String),
}

impl std::fmt::Display for BackupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read(error) => write!(f, "the store cannot be read: {error}"),
            Self::Write(text) => write!(f, "the copy cannot be written: {text}"),
        }
    }
}

impl std::error::Error for BackupError {}

impl From<io::Error> for BackupError {
    fn from(error: io::Error) -> Self {
        Self::Write(error.to_string())
    }
}

fn write_error(error: impl std::fmt::Display) -> BackupError {
    BackupError::Write(error.to_string())
}

impl EmbeddedStore {
    /// What is in the store now: everything that was acknowledged before, and no batch by half.
    ///
    /// # Errors
    /// [`StoreError::Busy`], [`StoreError::Failed`] once closed.
    pub fn snapshot(&self) -> impl Future<Output = Result<Snapshot, StoreError>> + Send + 'static + use<> {
        let (promise, answer) = oneshot();
        let queued = self.shared.queue_read(Read::Snapshot { promise });
        async move {
            queued?;
            answer.await.ok_or(StoreError::Failed)
        }
    }
}

impl Snapshot {
    pub(super) fn new(engine: Fjall) -> Self {
        Self { snapshot: engine.database.snapshot(), engine }
    }

    /// Writes all of it to a store of its own, whose directory must not exist, readable by its owner alone. The directory
    /// appears under its name when all of it is on the disk; what is not finished has `.partial` behind the name, and is
    /// removed after a failure. Blocks for as long as that takes; `told` hears of each piece.
    ///
    /// # Errors
    /// [`BackupError`]; a record that is damaged is one, too.
    pub fn write_to(self, path: &Path, told: impl FnMut(Copied)) -> Result<Copied, BackupError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(write_error(format!("{} names no directory", path.display())));
        };
        let mut partial = name.to_owned();
        partial.push(".partial");
        let partial = parent.join(partial);
        DirBuilder::new().mode(0o700).create(&partial).map_err(|error| {
            let text = format!("{}: {error}", partial.display());
            BackupError::Write(text)
        })?;
        let copied = self.copy(&partial, told).and_then(|copied| {
            protect(&partial)?;
            fs::rename(&partial, path)?;
            File::open(parent)?.sync_all()?;
            Ok(copied)
        });
        if copied.is_err() {
            // That it is not whole says its name, if it can't be removed.
            let _ = fs::remove_dir_all(&partial);
        }
        copied
    }

    fn copy(self, into: &Path, mut told: impl FnMut(Copied)) -> Result<Copied, BackupError> {
        let copy = Fjall::open_engine(into, CACHE_BYTES, Arc::default()).map_err(write_error)?;
        let mut copied = Copied::default();
        for table in Table::ALL {
            let target = copy.keyspaces.of(table);
            let mut pairs = self.snapshot.iter(self.engine.keyspaces.of(table));
            loop {
                let (mut batch, mut bytes) = (copy.database.batch().durability(Some(PersistMode::Buffer)), 0);
                let read = self.engine.read(|| {
                    while bytes < PIECE_BYTES {
                        let Some(pair) = pairs.next() else { break };
                        let (key, sealed) = pair.into_inner().map_err(read_error)?;
                        envelope::open(table, &key, &sealed)?;
                        bytes += key.len() + sealed.len();
                        batch.insert(target, key, sealed);
                    }
                    Ok(())
                });
                read.map_err(BackupError::Read)?;
                if batch.is_empty() {
                    break;
                }
                copied.records += batch.len() as u64;
                copied.bytes += bytes as u64;
                batch.commit().map_err(write_error)?;
                told(copied);
            }
        }
        copy.database.persist(PersistMode::SyncAll).map_err(write_error)?;
        Ok(copied)
    }
}

/// Leaves files to their owner alone.
fn protect(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let is_directory = entry.file_type()?.is_dir();
        fs::set_permissions(entry.path(), Permissions::from_mode(if is_directory { 0o700 } else { 0o600 }))?;
        if is_directory {
            protect(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::EmbeddedOptions;
    use super::*;
    use crate::store::{Batch, Store, Write};
    use crate::wait::block_on;

    fn open(path: &Path) -> EmbeddedStore {
        EmbeddedStore::open(path, EmbeddedOptions::default()).unwrap()
    }

    fn batch(number: u32) -> Batch {
        let key = |table: u8| [&[table][..], &number.to_be_bytes()].concat();
        let put = |table, key, bytes: usize| Write::Put { table, key, value: vec![number as u8; bytes] };
        let writes =
            vec![put(Table::Owners, key(1), 3), put(Table::Things, key(1), 2000), put(Table::Things, key(2), 9)];
        Batch { guards: Vec::new(), writes }
    }

    fn numbers(store: &EmbeddedStore, table: Table, prefix: u8) -> Vec<u32> {
        let pairs = block_on(store.scan(table, &[prefix], None, usize::MAX)).unwrap();
        pairs.iter().map(|(key, _)| u32::from_be_bytes(key[1..].try_into().unwrap())).collect()
    }

    #[test]
    fn a_copy_has_what_was_acknowledged_before_it_and_no_batch_by_half_while_the_store_is_written() {
        const BEFORE: u32 = 1500;
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory.path().join("store"));
        for number in 0..BEFORE {
            block_on(store.commit(batch(number))).unwrap();
        }
        let writing = {
            let store = store.clone();
            std::thread::spawn(move || {
                (BEFORE..BEFORE + 400).for_each(|number| block_on(store.commit(batch(number))).unwrap())
            })
        };
        let copy = directory.path().join("copy");
        let mut told = Vec::new();
        let copied = block_on(store.snapshot()).unwrap().write_to(&copy, |copied| told.push(copied)).unwrap();
        writing.join().unwrap();
        store.close().unwrap();
        assert!(told.len() > 3 && told.is_sorted_by_key(|copied| copied.bytes), "{told:?}");
        assert_eq!(told.last(), Some(&copied));
        let copy = open(&copy);
        let owners = numbers(&copy, Table::Owners, 1);
        assert!(
            owners.len() >= BEFORE as usize && owners.iter().copied().eq(0..owners.len() as u32),
            "{}",
            owners.len()
        );
        assert_eq!(numbers(&copy, Table::Things, 1), owners);
        assert_eq!(numbers(&copy, Table::Things, 2), owners);
        assert_eq!(copied.records, 3 * owners.len() as u64 + 1, "and the schema version");
        block_on(copy.commit(batch(7))).unwrap();
        copy.close().unwrap();
    }

    #[test]
    fn a_copy_is_its_owners_alone_and_takes_nobodys_place() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory.path().join("store"));
        let copy = directory.path().join("copy");
        block_on(store.snapshot()).unwrap().write_to(&copy, |_| ()).unwrap();
        let mut folders = vec![copy.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        assert!(block_on(store.snapshot()).unwrap().write_to(&copy, |_| ()).is_err(), "it is there");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        let nowhere = directory.path().join("nowhere/copy");
        assert!(matches!(block_on(store.snapshot()).unwrap().write_to(&nowhere, |_| ()), Err(BackupError::Write(_))));
        store.close().unwrap();
        assert!(matches!(block_on(store.snapshot()), Err(StoreError::Failed)));
    }

    #[test]
    fn a_damaged_record_is_told_and_leaves_no_copy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        open(&path).close().unwrap();
        let engine = Fjall::open(&path, 1 << 20, Arc::default()).unwrap();
        engine.keyspaces.of(Table::Rules).insert(b"bad", b"value").unwrap();
        let copy = directory.path().join("copy");
        let refused = Snapshot::new(engine).write_to(&copy, |_| ());
        assert!(matches!(refused, Err(BackupError::Read(StoreError::Corrupt))), "{refused:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
