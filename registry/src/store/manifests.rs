//! Whether the engine's lists of its files are what it wrote, before it reads them.
//!
//! Each keyspace of the engine has a file `current`: which list holds (u64), the list's XXH3-128, and 0 for that hash; and
//! the list, `v` and its number, of the tables that there are. The engine reads both without looking at the hash, and deletes
//! what is in no list: a flipped bit in a count would be the end of good data. So the hash is looked at here. What is in the
//! tables has checksums that the engine looks at itself, block by block, when it reads them.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

const KEYSPACES: &str = "keyspaces";
const CURRENT: &str = "current";
const TABLES: &str = "tables";
/// A list's number, its hash, and the kind of hash.
const CURRENT_BYTES: usize = 8 + 16 + 1;
/// How much of a list is in memory at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Finds a list that is not what the engine wrote. There may be none, or no keyspace.
///
/// # Errors
/// The system's, with the name of the file it is about.
pub(super) fn altered(directory: &Path) -> io::Result<Option<PathBuf>> {
    let keyspaces = match fs::read_dir(directory.join(KEYSPACES)) {
        Ok(keyspaces) => keyspaces,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for keyspace in keyspaces {
        let keyspace = keyspace?.path();
        if keyspace.is_dir()
            && let Some(path) = altered_in(&keyspace)?
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn altered_in(keyspace: &Path) -> io::Result<Option<PathBuf>> {
    let path = keyspace.join(CURRENT);
    let current = match fs::read(&path) {
        Ok(current) => current,
        // One that was not finished when it was made has no tables; the engine deletes it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(has_tables(keyspace)?.then_some(path)),
        Err(error) => return Err(named(&path, &error)),
    };
    let Ok(current) = <[u8; CURRENT_BYTES]>::try_from(current) else { return Ok(Some(path)) };
    let (Some((number, rest)), Some(&kind)) = (current.split_first_chunk::<8>(), current.last()) else {
        return Ok(Some(path));
    };
    let list = keyspace.join(format!("v{}", u64::from_le_bytes(*number)));
    let hash = match hash(&list) {
        Ok(hash) => hash,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(path)),
        Err(error) => return Err(named(&list, &error)),
    };
    Ok((kind != 0 || !rest.starts_with(&hash)).then_some(list))
}

fn has_tables(keyspace: &Path) -> io::Result<bool> {
    match fs::read_dir(keyspace.join(TABLES)) {
        Ok(mut tables) => Ok(tables.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn hash(path: &Path) -> io::Result<[u8; 16]> {
    let (mut file, mut hash, mut piece) = (File::open(path)?, Xxh3::new(), vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(hash.digest128().to_le_bytes()),
            Ok(read) => hash.update(piece.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::{EmbeddedOptions, EmbeddedStore, OpenError};

    fn store() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        EmbeddedStore::open(directory.path(), EmbeddedOptions::default()).unwrap().close().unwrap();
        directory
    }

    #[test]
    fn what_the_engine_wrote_is_as_it_was_and_an_empty_directory_is_too() {
        let directory = store();
        assert_eq!(altered(directory.path()).unwrap(), None);
        assert_eq!(altered(tempfile::tempdir().unwrap().path()).unwrap(), None);
    }

    #[test]
    fn each_flipped_bit_of_a_list_or_of_what_names_it_is_found() {
        let directory = store();
        let keyspace = directory.path().join("keyspaces/0");
        let current = fs::read(keyspace.join(CURRENT)).unwrap();
        let list = format!("v{}", current[0]);
        for name in [CURRENT, &list] {
            let path = keyspace.join(name);
            let whole = fs::read(&path).unwrap();
            for bit in 0..whole.len() * 8 {
                let mut flipped = whole.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, &flipped).unwrap();
                let found = altered(directory.path()).unwrap().expect(name);
                assert!(found.starts_with(&keyspace), "{}", found.display());
            }
            for cut in 0..whole.len() {
                fs::write(&path, &whole[..cut]).unwrap();
                assert!(altered(directory.path()).unwrap().is_some(), "{name} cut at {cut}");
            }
            fs::write(&path, &whole).unwrap();
        }
        assert_eq!(altered(directory.path()).unwrap(), None);
    }

    #[test]
    fn tables_that_no_list_names_are_not_given_to_the_engine_to_delete() {
        let directory = store();
        let keyspace = directory.path().join("keyspaces/0");
        assert!(has_tables(&keyspace).unwrap());
        fs::remove_file(keyspace.join(CURRENT)).unwrap();
        let refused = EmbeddedStore::open(directory.path(), EmbeddedOptions::default()).unwrap_err();
        assert!(matches!(&refused, OpenError::Altered(path) if path.starts_with(&keyspace)), "{refused}");
        assert!(has_tables(&keyspace).unwrap());
    }
}
