//! Private XML: what an account's clients keep for themselves (XEP-0049 v1.2).
//!
//! Called by the service. Kept by element: a record for each name and namespace, and an index of them, through which
//! their number is exact. One prefix holds it all.

use plaza_core::jid::JidRef;

#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::owned::{ATTEMPTS_MAX, OwnedError, commit, still, write};
use crate::record::{Reader, put_bytes, put_count};
use crate::store::{Store, StoreError, Table, Write, key};

/// Version of an entry's record and of the index.
const VERSION: u8 = 1;
/// Between namespace and name. XML has no such character.
const SEPARATOR: u8 = 0;

/// What is stored under a name and a namespace: one or more elements of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Namespace of the elements.
    pub ns: String,
    /// Their local name.
    pub name: String,
    /// The elements, each with the declarations it needs; `None` if there is nothing.
    pub xml: Option<String>,
}

/// Loads what is stored under a name and a namespace.
///
/// # Errors
/// [`StoreError`].
pub async fn load<S: Store>(store: &S, owner: JidRef<'_>, ns: &str, name: &str) -> Result<Option<String>, StoreError> {
    let record = store.get(Table::Private, &at(owner, &entry_key(ns, name))).await?;
    record.map(|record| decode(&record)).transpose()
}

/// Stores entries, all or none, each in place of what was under its name and namespace; one without elements is deleted.
/// None may be there twice.
///
/// # Errors
/// [`OwnedError::Full`] if there would be more than `entries_max`, [`OwnedError::NoAccount`] or [`OwnedError::Store`].
pub async fn save<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    entries: &[Entry],
    entries_max: u32,
) -> Result<(), OwnedError> {
    let index_key = key::private(owner);
    for _ in 0..ATTEMPTS_MAX {
        let before = store.get(Table::Private, &index_key).await?;
        let had = before.as_deref().map_or(Ok(Vec::new()), decode_index)?;
        let mut index = had.clone();
        for entry in entries {
            let key = entry_key(&entry.ns, &entry.name);
            index.retain(|known| *known != key);
            if entry.xml.is_some() {
                index.push(key);
            }
        }
        if index.len() > had.len() && index.len() > entries_max as usize {
            return Err(OwnedError::Full);
        }
        let mut writes: Vec<Write> = entries
            .iter()
            .map(|entry| {
                let key = at(owner, &entry_key(&entry.ns, &entry.name));
                write(Table::Private, key, entry.xml.as_deref().map(encode))
            })
            .collect();
        let record = (!index.is_empty()).then(|| encode_index(&index));
        writes.push(write(Table::Private, index_key.clone(), record));
        if commit(store, owner, [still(Table::Private, &index_key, before)], writes).await? {
            return Ok(());
        }
    }
    Err(StoreError::Busy.into())
}

/// What tells an entry from the account's others.
fn entry_key(ns: &str, name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(ns.len() + name.len() + 1);
    key.extend_from_slice(ns.as_bytes());
    key.push(SEPARATOR);
    key.extend_from_slice(name.as_bytes());
    key
}

fn at(owner: JidRef<'_>, entry: &[u8]) -> Vec<u8> {
    let mut key = key::private(owner);
    key.extend_from_slice(entry);
    key
}

/// version · elements.
fn encode(xml: &str) -> Vec<u8> {
    let mut record = Vec::with_capacity(1 + xml.len());
    record.push(VERSION);
    record.extend_from_slice(xml.as_bytes());
    record
}

pub(crate) fn decode(record: &[u8]) -> Result<String, StoreError> {
    let xml = record.strip_prefix(&[VERSION]).ok_or(StoreError::Corrupt)?;
    String::from_utf8(xml.to_vec()).map_err(|_| StoreError::Corrupt)
}

/// version · number of entries · the end of each one's key behind its length.
fn encode_index(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut record = vec![VERSION];
    put_count(&mut record, entries.len() as u64);
    for entry in entries {
        put_bytes(&mut record, entry);
    }
    record
}

fn decode_index(record: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut reader = Reader::open(record, VERSION)?;
    let count = reader.count()?;
    let entries = (0..count).map(|_| reader.bytes().map(<[u8]>::to_vec)).collect::<Result<_, _>>()?;
    reader.close()?;
    Ok(entries)
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] = &[
    |record| decode(record).map(|xml| encode(&xml)),
    |record| decode_index(record).map(|entries| encode_index(&entries)),
];

#[cfg(test)]
mod tests {
    use plaza_core::jid::Jid;
    use proptest::prelude::*;

    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::testing::{jid, store_with};
    use crate::wait::block_on;

    fn entry(name: &str, xml: Option<&str>) -> Entry {
        Entry { ns: "urn:a".to_owned(), name: name.to_owned(), xml: xml.map(str::to_owned) }
    }

    fn save_all(store: &MemoryStore, owner: &Jid, entries: &[Entry], entries_max: u32) -> Result<(), OwnedError> {
        block_on(save(store, owner.as_jid(), entries, entries_max))
    }

    fn load_one(store: &MemoryStore, owner: &Jid, name: &str) -> Option<String> {
        block_on(load(store, owner.as_jid(), "urn:a", name)).unwrap()
    }

    #[test]
    fn entries_are_stored_replaced_and_deleted() {
        let owner = jid("owner@things.example");
        let store = store_with(&owner);
        save_all(&store, &owner, &[entry("a", Some("1")), entry("b", Some("2"))], 2).unwrap();
        assert_eq!(load_one(&store, &owner, "a").as_deref(), Some("1"));
        assert_eq!(block_on(load(&store, owner.as_jid(), "urn:", "aa")), Ok(None));
        assert_eq!(save_all(&store, &owner, &[entry("c", Some("3"))], 2), Err(OwnedError::Full));
        save_all(&store, &owner, &[entry("c", Some("3")), entry("a", None), entry("b", Some("4"))], 2).unwrap();
        let found = ["a", "b", "c"].map(|name| load_one(&store, &owner, name));
        assert_eq!(found, [None, Some("4".to_owned()), Some("3".to_owned())]);
        // What is there stays editable when the bound has come down.
        save_all(&store, &owner, &[entry("b", Some("5"))], 1).unwrap();
        save_all(&store, &owner, &[entry("b", None), entry("c", None), entry("d", None)], 0).unwrap();
        assert_eq!(block_on(store.scan(Table::Private, &[], None, 10)), Ok(vec![]));
    }

    #[test]
    fn without_an_account_nothing_is_stored() {
        let store = store_with(&jid("owner@things.example"));
        let nobody = jid("nobody@things.example");
        assert_eq!(save_all(&store, &nobody, &[entry("a", Some("1"))], 2), Err(OwnedError::NoAccount));
    }

    #[test]
    fn the_limit_is_exact_when_adding_at_once() {
        let owner = jid("owner@things.example");
        let store = store_with(&owner);
        let added = std::thread::scope(|scope| {
            let adding: Vec<_> = (0..4)
                .map(|index| {
                    let (store, owner) = (&store, &owner);
                    scope.spawn(move || save_all(store, owner, &[entry(&format!("e{index}"), Some("1"))], 3))
                })
                .collect();
            adding.into_iter().map(|adding| adding.join().unwrap()).filter(Result::is_ok).count()
        });
        assert_eq!(added, 3);
        assert_eq!((0..4).filter_map(|index| load_one(&store, &owner, &format!("e{index}"))).count(), 3);
    }

    proptest! {
        #[test]
        fn an_index_reads_back(entries: Vec<Vec<u8>>) {
            prop_assert_eq!(decode_index(&encode_index(&entries)), Ok(entries));
        }
    }
}
