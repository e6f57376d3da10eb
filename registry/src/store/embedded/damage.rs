//! Bytes flipped in each of the engine's files: the store does not open, or a read fails, or all is as it was.

use std::fs;

use fjall::Keyspace;

use super::*;
use crate::store::Write;
use crate::wait::block_on;

const RECORDS: u16 = 300;
/// Places of each file.
const FLIPS: usize = 4;

fn value(number: u16) -> Vec<u8> {
    number.to_be_bytes().repeat(40)
}

fn open(path: &Path) -> Result<EmbeddedStore, OpenError> {
    EmbeddedStore::open(path, EmbeddedOptions::default())
}

/// A store whose records are in tables, and none in a journal.
fn tables(path: &Path) {
    let store = open(path).unwrap();
    for number in 0..RECORDS {
        let put = |table| Write::Put { table, key: number.to_be_bytes().to_vec(), value: value(number) };
        let writes = vec![put(Table::Accounts), put(Table::Things)];
        block_on(store.commit(Batch { guards: Vec::new(), writes })).unwrap();
    }
    store.close().unwrap();
    let engine = Fjall::open(path, 1 << 20, Arc::default()).unwrap();
    for table in Table::ALL {
        Keyspace::rotate_memtable_and_wait(engine.keyspaces.of(table)).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// What came of reading every record, one by one and all together: whether any failed. None may be another or missing.
fn reads(store: &EmbeddedStore, what: &str) -> bool {
    let mut failed = false;
    for table in [Table::Accounts, Table::Things] {
        for number in 0..RECORDS {
            match block_on(store.get(table, &number.to_be_bytes())) {
                Ok(found) => assert_eq!(found, Some(value(number)), "{what}: {table:?} {number}"),
                Err(_) => failed = true,
            }
        }
        match block_on(store.scan(table, b"", None, usize::MAX)) {
            Ok(found) => {
                let expected = (0..RECORDS).map(|number| (number.to_be_bytes().to_vec(), value(number)));
                assert!(found.into_iter().eq(expected), "{what}: {table:?} by a scan");
            }
            Err(_) => failed = true,
        }
    }
    assert_eq!(failed, store.failed_reads() > 0, "{what}");
    failed
}

#[test]
fn a_flipped_byte_of_any_file_is_refused_or_told_and_never_leaves_something_out() {
    let directory = tempfile::tempdir().unwrap();
    let whole = directory.path().join("whole");
    tables(&whole);
    // Of the many keyspaces: the engine's own, and those that hold something.
    let engine = Fjall::open(&whole, 1 << 20, Arc::default()).unwrap();
    let kept: Vec<PathBuf> =
        [Table::Accounts, Table::Things].map(|table| engine.keyspaces.of(table).path().to_owned()).into();
    drop(engine);
    let mut all = Vec::new();
    files(&whole, &mut all);
    let own = whole.join("keyspaces/0");
    all.retain(|path| {
        path.extension().is_none_or(|extension| extension != "jnl")
            && (path.parent() == Some(&whole)
                || path.starts_with(&own)
                || kept.iter().any(|kept| path.starts_with(kept)))
    });
    all.sort();
    let (mut refused, mut told, mut harmless) = (0, 0, 0);
    for (index, file) in all.iter().enumerate() {
        let len = fs::metadata(file).unwrap().len() as usize;
        // A few places of each, others in each.
        for place in 0..FLIPS {
            if len == 0 {
                continue;
            }
            let at = (place * len / FLIPS + index * 37) % len;
            let what = format!("{} at {at}", file.strip_prefix(&whole).unwrap().display());
            let damaged = directory.path().join("damaged");
            copy(&whole, &damaged);
            let path = damaged.join(file.strip_prefix(&whole).unwrap());
            let mut bytes = fs::read(&path).unwrap();
            bytes[at] ^= 0x15;
            fs::write(&path, bytes).unwrap();
            match open(&damaged) {
                Ok(store) => {
                    if reads(&store, &what) {
                        told += 1
                    } else {
                        harmless += 1
                    }
                    let _ = store.close();
                }
                Err(error) => {
                    assert!(!error.to_string().contains('\n'), "{what}: {error}");
                    refused += 1;
                }
            }
            fs::remove_dir_all(&damaged).unwrap();
        }
    }
    println!("{} files: {refused} refused, {told} told, {harmless} harmless", all.len());
    assert!(refused > 0 && told > 0);
}
