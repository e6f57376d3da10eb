//! Whether the engine's journals are whole, before it reads them.
//!
//! The engine ends a journal at the first entry it cannot read, and cuts off the rest. That is right for a record that a
//! power cut tore, which nobody was told of, and wrong for one whose length or mark was damaged later: what was acknowledged
//! behind it would be gone without a word. So the journals are walked here first, by the engine's own layout (that of its
//! format 3; the manifest pins the version), and a journal that goes on behind what can be read is refused.
//!
//! Layout: a batch is a start (1, u32 items, u64 sequence number), its items (2, u8 kind, u8 compression, u64 keyspace,
//! u16 key, u32 value, u32 value on disk, then both) or clears (4, u64 keyspace), and an end (3, u64 checksum of what is
//! between, the magic). Numbers are little endian; behind the last batch there are zeros, or nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use memchr::memmem;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8] = b"FJL\x03";
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const START_BYTES: usize = 13;
const ITEM_BYTES: usize = 21;
const END_BYTES: usize = 13;
const CLEAR_BYTES: usize = 9;

/// Finds the first journal in a directory that is damaged, and from which byte on. There may be none, or no directory.
///
/// # Errors
/// The system's, with the name of the file it is about.
pub(super) fn damaged(directory: &Path) -> io::Result<Option<(PathBuf, u64)>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            journals.push(path);
        }
    }
    journals.sort();
    for path in journals {
        let bytes =
            fs::read(&path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        if let Some(at) = damage(&bytes) {
            return Ok(Some((path, at as u64)));
        }
    }
    Ok(None)
}

/// Where a journal is damaged, if it is: where its last batch ends that is whole, if what is behind cannot be one that was
/// torn while it was written.
fn damage(journal: &[u8]) -> Option<usize> {
    let bytes = without_zeros(journal);
    let (mut at, mut before) = (0, None);
    loop {
        match batch(bytes.get(at..)?) {
            // Sequence numbers grow; the engine has no checksum of them.
            Read::Whole { number, .. } if before.is_some_and(|before| number <= before) => return Some(at),
            Read::Whole { number, len } => (at, before) = (at + len, Some(number)),
            // A torn batch has no end.
            Read::Torn => return memmem::find(bytes.get(at..)?, MAGIC).map(|_| at),
            Read::Bad => return Some(at),
        }
    }
}

/// What is before the zeros at the end, of which there may be 64 MiB.
fn without_zeros(mut bytes: &[u8]) -> &[u8] {
    const ZEROS: [u8; 4096] = [0; 4096];
    while let Some(rest) = bytes.strip_suffix(&ZEROS) {
        bytes = rest;
    }
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.get(..end).unwrap_or_default()
}

enum Read {
    Whole {
        number: u64,
        len: usize,
    },
    /// There is no more of it.
    Torn,
    Bad,
}

fn batch(bytes: &[u8]) -> Read {
    let Some(&first) = bytes.first() else { return Read::Torn };
    if first != START {
        return Read::Bad;
    }
    let (Some(mut left), Some(number)) = (self::number::<4>(bytes, 1), self::number::<8>(bytes, 5)) else {
        return Read::Torn;
    };
    let mut at = START_BYTES;
    loop {
        let Some(&tag) = bytes.get(at) else { return Read::Torn };
        match tag {
            ITEM if left > 0 => {
                let Some(header) = bytes.get(at..at + ITEM_BYTES) else { return Read::Torn };
                let (Some(key), Some(value)) = (self::number::<2>(header, 11), self::number::<4>(header, 17)) else {
                    return Read::Torn;
                };
                at += ITEM_BYTES + key as usize + value as usize;
                left -= 1;
            }
            CLEAR if left > 0 => {
                at += CLEAR_BYTES;
                left -= 1;
            }
            END if left == 0 => {
                let Some(end) = bytes.get(at..at + END_BYTES) else { return Read::Torn };
                let checksum = bytes.get(START_BYTES..at).map(xxh3_64);
                let is_whole = end.ends_with(MAGIC) && checksum == self::number::<8>(end, 1);
                return if is_whole { Read::Whole { number, len: at + END_BYTES } } else { Read::Bad };
            }
            _ => return Read::Bad,
        }
        if at > bytes.len() {
            return Read::Torn;
        }
    }
}

/// A number of `N` bytes, if they are there.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + N)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::{EmbeddedOptions, EmbeddedStore, OpenError};
    use crate::store::{Batch, Store, Table, Write};
    use crate::wait::block_on;

    const COMMITS: u8 = 12;

    /// A store that was written and killed: its journal up to where the zeros begin.
    fn written(directory: &Path) -> (PathBuf, Vec<u8>) {
        let store = EmbeddedStore::open(directory, EmbeddedOptions::default()).unwrap();
        for number in 0..COMMITS {
            let put =
                |table| Write::Put { table, key: vec![b'k', number], value: vec![number; usize::from(number) * 9] };
            let writes = vec![put(Table::Accounts), put(Table::Rosters)];
            block_on(store.commit(Batch { guards: Vec::new(), writes })).unwrap();
        }
        store.close().unwrap();
        let mut journals: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        journals.retain(|path| path.extension().is_some_and(|extension| extension == "jnl"));
        assert_eq!(journals.len(), 1, "{journals:?}");
        let path = journals.remove(0);
        let mut bytes = fs::read(&path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        bytes.truncate(end);
        (path, bytes)
    }

    /// What a store opened on this journal has, by its keys; `None` if it is refused.
    fn reopened(directory: &Path) -> Option<Vec<Vec<u8>>> {
        match EmbeddedStore::open(directory, EmbeddedOptions::default()) {
            Ok(store) => {
                let pairs = block_on(store.scan(Table::Accounts, b"k", None, usize::MAX)).ok();
                store.close().unwrap();
                pairs.map(|pairs| pairs.into_iter().map(|(key, _)| key).collect())
            }
            Err(OpenError::Damaged { .. } | OpenError::Engine(_)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn all() -> Vec<Vec<u8>> {
        (0..COMMITS).map(|number| vec![b'k', number]).collect()
    }

    #[test]
    fn a_journal_as_the_engine_writes_it_is_whole_wherever_it_is_torn() {
        let directory = tempfile::tempdir().unwrap();
        let (_, bytes) = written(directory.path());
        assert_eq!(damage(&bytes), None);
        let whole: Vec<usize> = memmem::find_iter(&bytes, MAGIC).map(|at| at + MAGIC.len()).collect();
        assert!(whole.len() >= usize::from(COMMITS));
        for end in 0..bytes.len() {
            let torn = bytes.get(..end).unwrap();
            assert_eq!(damage(torn), None, "torn at {end}");
            assert_eq!(damage(&[torn, &[0; 64]].concat()), None, "torn at {end}, zeros behind");
        }
    }

    #[test]
    fn a_flipped_bit_is_found_or_leaves_nothing_out() {
        let directory = tempfile::tempdir().unwrap();
        let (path, bytes) = written(directory.path());
        let mut passed = 0;
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            *flipped.get_mut(at / 8).unwrap() ^= 1 << (at % 8);
            if damage(&flipped).is_some() {
                continue;
            }
            // A sequence number that still is between its neighbours, or the last: nothing is lost by it.
            passed += 1;
            if passed % 9 == 1 {
                fs::write(&path, &flipped).unwrap();
                if let Some(keys) = reopened(directory.path()) {
                    assert_eq!(keys, all(), "the flip of bit {at} lost something");
                }
            }
        }
        assert!(passed < bytes.len() / 4, "{passed} of {} flips are not found", bytes.len() * 8);
    }

    #[test]
    fn a_damaged_journal_is_refused_by_name_and_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let (path, mut bytes) = written(directory.path());
        // The mark of an item in the middle: the engine would take what is before for all there is.
        let ends: Vec<usize> = memmem::find_iter(&bytes, MAGIC).map(|at| at + MAGIC.len()).collect();
        let middle = ends.get(ends.len() / 2).unwrap();
        *bytes.get_mut(middle + START_BYTES).unwrap() ^= 0x40;
        fs::write(&path, &bytes).unwrap();
        for _ in 0..2 {
            let error = EmbeddedStore::open(directory.path(), EmbeddedOptions::default()).unwrap_err();
            let told = error.to_string();
            assert!(matches!(error, OpenError::Damaged { at, .. } if at == *middle as u64), "{told}");
            assert!(told.contains(path.to_str().unwrap()) && !told.contains('\n'), "{told}");
            assert_eq!(fs::read(&path).unwrap(), bytes, "it is left for whoever mends it");
        }
    }
}
