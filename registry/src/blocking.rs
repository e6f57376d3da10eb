//! Whom an account blocks (XEP-0191 v1.3).
//!
//! Called by the service, and by the shards, which hold an account's [`BlockList`] with its facts and ask it about each
//! stanza. Stored as one record per account.
//!
//! Spec: XEP-0191 v1.3 §3 (the lists), §6 (what matches).

use std::fmt;

use plaza_core::jid::{Jid, JidRef};

#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::owned::{ATTEMPTS_MAX, OwnedError, commit, still, write};
use crate::record::{Reader, put_bytes, put_count};
use crate::store::{Store, StoreError, Table, key};

/// Version of a list's record.
const VERSION: u8 = 1;

/// Addresses an account blocks: sorted, none twice, in two allocations, or none if there are none.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct BlockList {
    /// The addresses one behind the other.
    text: Box<str>,
    /// Where each ends.
    ends: Box<[u32]>,
}

impl BlockList {
    /// A list of these addresses.
    pub fn new(jids: impl IntoIterator<Item = Jid>) -> Self {
        let mut jids: Vec<Jid> = jids.into_iter().collect();
        jids.sort_unstable();
        jids.dedup();
        let mut text = String::with_capacity(jids.iter().map(|jid| jid.as_str().len()).sum());
        let mut ends = Vec::with_capacity(jids.len());
        for jid in &jids {
            text.push_str(jid.as_str());
            ends.push(u32::try_from(text.len()).expect("a list is bounded far below 4 GiB"));
        }
        Self { text: text.into(), ends: ends.into() }
    }

    /// Whether nobody is blocked.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many addresses it has.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes it holds beside itself.
    pub fn heap_bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.ends)
    }

    /// The addresses, in order.
    pub fn iter(&self) -> impl Iterator<Item = JidRef<'_>> {
        (0..self.len()).map(|index| JidRef::from_normal(self.get(index)))
    }

    /// Whether stanzas from and to an address are blocked (§6): itself is listed, or its account, or its domain.
    ///
    /// Not to be asked about the account's own resources, which never block each other (§5), nor about the server's
    /// answers to it, whatever is listed.
    pub fn blocks(&self, jid: JidRef<'_>) -> bool {
        !self.is_empty()
            && (self.has(jid.as_str())
                || (!jid.is_bare() && self.has(jid.bare().as_str()))
                || (jid.local().is_some() && self.has(jid.domain())))
    }

    /// Whether an address is listed, itself or, by its bare form, with all its resources.
    pub fn lists(&self, jid: JidRef<'_>) -> bool {
        !self.is_empty() && (self.has(jid.as_str()) || (!jid.is_bare() && self.has(jid.bare().as_str())))
    }

    fn get(&self, index: usize) -> &str {
        let end = |index: usize| self.ends.get(index).map_or(0, |&end| end as usize);
        let start = index.checked_sub(1).map_or(0, end);
        self.text.get(start..end(index)).unwrap_or_default()
    }

    fn has(&self, text: &str) -> bool {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = from.midpoint(to);
            match self.get(middle).cmp(text) {
                std::cmp::Ordering::Less => from = middle + 1,
                std::cmp::Ordering::Equal => return true,
                std::cmp::Ordering::Greater => to = middle,
            }
        }
        false
    }
}

impl fmt::Debug for BlockList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(JidRef::as_str)).finish()
    }
}

/// A list that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it became.
    pub list: BlockList,
    /// Which addresses came into it, or left it.
    pub changed: Vec<Jid>,
}

/// How long a list may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Addresses.
    pub items_max: u32,
    /// Bytes of all addresses together.
    pub bytes_max: u32,
}

/// Loads an account's list; an empty one if there is none, or no account.
///
/// # Errors
/// [`StoreError`].
pub async fn load<S: Store>(store: &S, owner: JidRef<'_>) -> Result<BlockList, StoreError> {
    let record = store.get(Table::Blocklists, &key::account(owner)).await?;
    record.map_or(Ok(BlockList::default()), |record| decode(&record))
}

/// Blocks addresses. Those that are listed already stay so.
///
/// # Errors
/// [`OwnedError::Full`] if the list would be longer than it may be, [`OwnedError::NoAccount`] or [`OwnedError::Store`].
pub async fn block<S: Store>(store: &S, owner: JidRef<'_>, jids: &[Jid], bounds: Bounds) -> Result<Change, OwnedError> {
    change(store, owner, |list| {
        let mut new: Vec<Jid> = jids.iter().filter(|jid| !list.has(jid.as_str())).cloned().collect();
        new.sort_unstable();
        new.dedup();
        let longer = BlockList::new(list.iter().map(JidRef::to_jid).chain(new.iter().cloned()));
        let fits = longer.len() <= bounds.items_max as usize && longer.text.len() <= bounds.bytes_max as usize;
        if new.is_empty() || fits { Ok(Change { list: longer, changed: new }) } else { Err(OwnedError::Full) }
    })
    .await
}

/// Unblocks addresses, those of them that are listed, or all there are.
///
/// # Errors
/// [`OwnedError::NoAccount`] or [`OwnedError::Store`].
pub async fn unblock<S: Store>(store: &S, owner: JidRef<'_>, jids: Option<&[Jid]>) -> Result<Change, OwnedError> {
    let named = jids.map(|jids| BlockList::new(jids.iter().cloned()));
    change(store, owner, |list| {
        let leaves = |jid: &Jid| named.as_ref().is_none_or(|named| named.has(jid.as_str()));
        let (gone, kept): (Vec<Jid>, Vec<Jid>) = list.iter().map(JidRef::to_jid).partition(leaves);
        Ok(Change { list: BlockList::new(kept), changed: gone })
    })
    .await
}

/// Reads, edits and writes a list, again if another change came between. What changes nothing is not written.
async fn change<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    edit: impl Fn(&BlockList) -> Result<Change, OwnedError>,
) -> Result<Change, OwnedError> {
    let key = key::account(owner);
    for _ in 0..ATTEMPTS_MAX {
        let before = store.get(Table::Blocklists, &key).await?;
        let list = before.as_deref().map_or(Ok(BlockList::default()), decode)?;
        let change = edit(&list)?;
        if change.changed.is_empty() {
            return Ok(change);
        }
        let record = (!change.list.is_empty()).then(|| encode(&change.list));
        let writes = vec![write(Table::Blocklists, key.clone(), record)];
        if commit(store, owner, [still(Table::Blocklists, &key, before)], writes).await? {
            return Ok(change);
        }
    }
    Err(StoreError::Busy.into())
}

/// version · number of addresses · addresses behind their length.
fn encode(list: &BlockList) -> Vec<u8> {
    let mut record = Vec::with_capacity(list.text.len() + 2 * list.len() + 8);
    record.push(VERSION);
    put_count(&mut record, list.len() as u64);
    for jid in list.iter() {
        put_bytes(&mut record, jid.as_str().as_bytes());
    }
    record
}

/// # Errors
/// [`StoreError::Corrupt`].
pub(crate) fn decode(record: &[u8]) -> Result<BlockList, StoreError> {
    let mut reader = Reader::open(record, VERSION)?;
    let count = reader.count()?;
    let jids = (0..count).map(|_| Jid::parse(reader.text()?).map_err(|_| StoreError::Corrupt));
    let list = BlockList::new(jids.collect::<Result<Vec<_>, _>>()?);
    reader.close()?;
    Ok(list)
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] = &[|record| decode(record).map(|list| encode(&list))];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{jid, store_with};
    use crate::wait::block_on;

    const BOUNDS: Bounds = Bounds { items_max: 3, bytes_max: 1_000 };

    fn list(jids: &[&str]) -> BlockList {
        BlockList::new(jids.iter().map(|text| jid(text)))
    }

    fn names(jids: &[Jid]) -> Vec<&str> {
        jids.iter().map(Jid::as_str).collect()
    }

    #[test]
    fn addresses_match_as_section_6_has_it() {
        // Rows: what is listed; columns: who is it about.
        let about = ["u@d/r", "u@d/s", "u@d", "v@d/r", "d/r", "d/s", "d", "u@e/r", "e"];
        for (listed, matches) in [
            ("u@d/r", &["u@d/r"][..]),
            ("u@d", &["u@d/r", "u@d/s", "u@d"]),
            ("d/r", &["d/r"]),
            ("d", &["u@d/r", "u@d/s", "u@d", "v@d/r", "d/r", "d/s", "d"]),
        ] {
            let list = list(&["a@a", listed, "z@z/z"]);
            let blocked: Vec<_> = about.into_iter().filter(|about| list.blocks(jid(about).as_jid())).collect();
            assert_eq!(blocked, matches, "{listed}");
        }
        assert!(!BlockList::default().blocks(jid("u@d/r").as_jid()));
    }

    #[test]
    fn an_empty_list_holds_nothing_and_a_short_one_little() {
        assert_eq!((list(&[]), list(&[]).heap_bytes()), (BlockList::default(), 0));
        assert_eq!(list(&["b@d", "a@d", "b@d"]).heap_bytes(), "a@db@d".len() + 8);
        assert_eq!(size_of::<BlockList>(), 32);
    }

    #[test]
    fn addresses_are_blocked_and_unblocked() {
        let owner = jid("owner@things.example");
        let store = store_with(&owner);
        let owner = owner.as_jid();
        let (romeo, iago, d) = (jid("romeo@d"), jid("iago@d"), jid("d"));
        let blocked = block_on(block(&store, owner, &[romeo.clone(), iago.clone(), romeo.clone()], BOUNDS)).unwrap();
        assert_eq!(
            (&blocked.list, names(&blocked.changed)),
            (&list(&["iago@d", "romeo@d"]), vec!["iago@d", "romeo@d"])
        );
        assert_eq!(block_on(load(&store, owner)), Ok(blocked.list));
        let again = block_on(block(&store, owner, &[iago, d.clone()], BOUNDS)).unwrap();
        assert_eq!(names(&again.changed), ["d"]);
        let unblocked = block_on(unblock(&store, owner, Some(&[romeo, jid("nobody@d")]))).unwrap();
        assert_eq!((unblocked.list, names(&unblocked.changed)), (list(&["d", "iago@d"]), vec!["romeo@d"]));
        let none = block_on(unblock(&store, owner, None)).unwrap();
        assert_eq!((none.list, names(&none.changed)), (BlockList::default(), vec!["d", "iago@d"]));
        assert_eq!(block_on(store.scan(Table::Blocklists, &[], None, 10)), Ok(vec![]));
        let nobody = jid("nobody@things.example");
        assert_eq!(block_on(block(&store, nobody.as_jid(), &[d], BOUNDS)), Err(OwnedError::NoAccount));
    }

    #[test]
    fn a_list_has_bounds_and_what_is_on_it_stays() {
        let owner = jid("owner@things.example");
        let store = store_with(&owner);
        let owner = owner.as_jid();
        let jids = ["a@d", "b@d", "c@d", "d@d"].map(jid);
        assert_eq!(block_on(block(&store, owner, &jids, BOUNDS)), Err(OwnedError::Full));
        block_on(block(&store, owner, &jids[..3], BOUNDS)).unwrap();
        assert_eq!(block_on(block(&store, owner, &jids[3..], BOUNDS)), Err(OwnedError::Full));
        assert!(block_on(block(&store, owner, &jids[..2], BOUNDS)).unwrap().changed.is_empty());
        let short = Bounds { items_max: 10, bytes_max: 11 };
        assert_eq!(block_on(block(&store, owner, &jids[3..], short)), Err(OwnedError::Full));
        assert!(block_on(block(&store, owner, &jids[3..], Bounds { bytes_max: 12, ..short })).is_ok());
    }

    #[test]
    fn changes_at_once_are_all_kept() {
        let owner = jid("owner@things.example");
        let store = store_with(&owner);
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (store, owner, other) = (&store, owner.as_jid(), jid(&format!("a{number}@d")));
                scope
                    .spawn(move || block_on(block(store, owner, &[other], Bounds { items_max: 4, ..BOUNDS })).unwrap());
            }
        });
        assert_eq!(block_on(load(&store, owner.as_jid())).unwrap().len(), 4);
    }

    proptest! {
        #[test]
        fn a_list_reads_back_and_has_what_was_put_in(locals in proptest::collection::vec("[a-z]{1,3}", 0..20)) {
            let jids: Vec<_> = locals.iter().map(|local| jid(&format!("{local}@d"))).collect();
            let list = BlockList::new(jids.clone());
            prop_assert!(jids.iter().all(|jid| list.has(jid.as_str())));
            prop_assert_eq!(list.iter().filter(|jid| jids.iter().all(|one| one.as_jid() != *jid)).count(), 0);
            prop_assert!(!list.has("aaaa@d") && !list.has(""));
            prop_assert_eq!(decode(&encode(&list)), Ok(list));
        }
    }
}
