//! What is kept of a thing.

use plaza_core::iot::Generation;
use plaza_core::jid::{Jid, JidRef};
use plaza_core::thing::wire::{Dialect, Style};
use plaza_core::thing::{NodeName, Tag, TagValue};
use sha2::{Digest, Sha256};

#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::record::{Reader, flag, put_bytes, put_count};
use crate::store::{Guard, Pair, Store, StoreError, Table, Write, key};

const VERSION: u8 = 1;
/// The same, with the claim by which the thing is its owner's.
const CLAIM_VERSION: u8 = 2;
const SEPARATOR: u8 = 0;

/// Where a thing is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Registered, and nobody's: whoever knows its tags and its key may claim it.
    Unclaimed,
    /// Registered as its own owner: to be found, and nobody's to claim.
    SelfOwned,
    /// Somebody's.
    Claimed {
        /// Bare JID.
        owner: Jid,
        /// To be found by others.
        public: bool,
        /// Taken out of the registry by its owner: not to be found, and its tags no longer updated.
        removed: bool,
    },
}

/// What a device has not acknowledged yet. It is told when it is there, and again until it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pending {
    /// That it was claimed.
    pub claimed: bool,
    /// That it was taken out of the registry.
    pub removed: bool,
    /// That its cached decisions are void.
    pub clear_cache: bool,
    /// The version of the record in which something was added to this last: what a device acknowledges is what it was told
    /// of an older one or of this.
    pub since: u64,
}

impl Pending {
    /// Whether there is something.
    pub const fn any(self) -> bool {
        self.claimed || self.removed || self.clear_cache
    }
}

/// A thing.
#[derive(Debug, Clone, PartialEq)]
pub struct ThingRecord {
    /// Bare JID of its account.
    pub jid: Jid,
    /// Which node of it.
    pub node: NodeName,
    /// Whose.
    pub state: State,
    /// Hash of its key ([`key_hash`]), while it has one.
    pub key: Option<[u8; 32]>,
    /// Hash of the tags that it was claimed by, but for its key, while it is claimed: its owner may claim it again by them.
    pub claim: Option<[u8; 32]>,
    /// By which claim it is its owner's: that of no other, of whoever it may be. 0 if it is nobody's, or was claimed before
    /// claims were told apart.
    pub claim_id: u64,
    /// How it spoke to the registry last, in which it is told of what becomes of it.
    pub style: Style,
    /// In which generation it asked for a decision last, if it did.
    pub device: Option<Generation>,
    /// The broker applies the rules itself to what others send the thing.
    pub enforced: bool,
    /// What it has to be told.
    pub pending: Pending,
    /// What is said of it, but for its key; names are unique.
    pub tags: Vec<Tag>,
    /// When it was registered first, in milliseconds since 1970.
    pub created: u64,
    /// When it last changed.
    pub updated: u64,
    /// Counts the changes, so that a change that came between is seen.
    pub version: u64,
}

/// The hash by which a key is known. A key is random and long, so that no salt is needed; what a maker printed that is short
/// can be guessed with this as well as without.
pub fn key_hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

impl ThingRecord {
    /// A thing that nobody owns and of which nothing is known yet, not even when.
    pub fn new(jid: Jid, node: NodeName) -> Self {
        Self {
            jid,
            node,
            state: State::Unclaimed,
            key: None,
            claim: None,
            claim_id: 0,
            style: Style::default(),
            device: None,
            enforced: false,
            pending: Pending::default(),
            tags: Vec::new(),
            created: 0,
            updated: 0,
            version: 0,
        }
    }

    /// Its owner.
    pub const fn owner(&self) -> Option<&Jid> {
        match &self.state {
            State::Claimed { owner, .. } => Some(owner),
            State::Unclaimed | State::SelfOwned => None,
        }
    }

    /// Whether strangers find it.
    pub const fn is_listed(&self) -> bool {
        matches!(self.state, State::SelfOwned | State::Claimed { public: true, removed: false, .. })
    }

    /// The tag of a name.
    pub fn tag(&self, name: &str) -> Option<&Tag> {
        self.tags.iter().find(|tag| tag.is(name))
    }

    /// That nobody changed it since it was read.
    pub fn guard(&self) -> Guard {
        Guard::Equals { table: Table::Things, key: thing_key(self.jid.as_jid(), &self.node), value: self.encode() }
    }

    /// Its next state, to be stored.
    pub fn put(&self) -> Write {
        Write::Put { table: Table::Things, key: thing_key(self.jid.as_jid(), &self.node), value: self.encode() }
    }

    /// The record.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![if self.claim_id == 0 { VERSION } else { CLAIM_VERSION }];
        let (owner, state) = match &self.state {
            State::Unclaimed => (None, 0),
            State::SelfOwned => (None, 1),
            State::Claimed { owner, public, removed } => (Some(owner), 2 | flag(*public, 4) | flag(*removed, 8)),
        };
        out.push(state | flag(self.key.is_some(), 16) | flag(self.enforced, 32) | flag(self.claim.is_some(), 64));
        let Pending { claimed, removed, clear_cache, since } = self.pending;
        out.push(flag(claimed, 1) | flag(removed, 2) | flag(clear_cache, 4));
        let device = self.device.map_or(0, |generation| generation as u8);
        out.push(self.style.generation as u8 | flag(self.style.dialect == Dialect::Long, 8) | device << 4);
        for hash in [&self.key, &self.claim].into_iter().flatten() {
            out.extend_from_slice(hash);
        }
        put_bytes(&mut out, owner.map_or("", |owner| owner.as_str()).as_bytes());
        for number in [since, self.created, self.updated, self.version, self.tags.len() as u64] {
            put_count(&mut out, number);
        }
        if self.claim_id != 0 {
            put_count(&mut out, self.claim_id);
        }
        for Tag { name, value } in &self.tags {
            put_bytes(&mut out, name.as_bytes());
            match value {
                TagValue::Str(text) => {
                    out.push(0);
                    put_bytes(&mut out, text.as_bytes());
                }
                TagValue::Num(number) => {
                    out.push(1);
                    out.extend_from_slice(&number.to_bits().to_le_bytes());
                }
            }
        }
        out
    }

    /// Reads the record of a thing.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn decode(jid: &Jid, node: NodeName, record: &[u8]) -> Result<Self, StoreError> {
        let has_claim_id = record.first() == Some(&CLAIM_VERSION);
        let mut reader = Reader::open(record, if has_claim_id { CLAIM_VERSION } else { VERSION })?;
        let (flags, pending, spoken) = (reader.u8()?, reader.u8()?, reader.u8()?);
        let dialect = if spoken & 8 == 0 { Dialect::Short } else { Dialect::Long };
        let style = Style { generation: Generation::from_number(spoken & 7).ok_or(StoreError::Corrupt)?, dialect };
        let device = match spoken >> 4 {
            0 => None,
            number => Some(Generation::from_number(number).ok_or(StoreError::Corrupt)?),
        };
        let key = if flags & 16 == 0 { None } else { Some(reader.array()?) };
        let claim = if flags & 64 == 0 { None } else { Some(reader.array()?) };
        let owner = reader.text()?;
        let state = match flags & 3 {
            0 => State::Unclaimed,
            1 => State::SelfOwned,
            2 => State::Claimed {
                owner: Jid::parse(owner).map_err(|_| StoreError::Corrupt)?,
                public: flags & 4 != 0,
                removed: flags & 8 != 0,
            },
            _ => return Err(StoreError::Corrupt),
        };
        let (claimed, removed, clear_cache) = (pending & 1 != 0, pending & 2 != 0, pending & 4 != 0);
        let pending = Pending { claimed, removed, clear_cache, since: reader.count()? };
        let (created, updated, version, count) = (reader.count()?, reader.count()?, reader.count()?, reader.count()?);
        let claim_id = if has_claim_id { reader.count()? } else { 0 };
        let mut tags = Vec::new();
        for _ in 0..count {
            let name = reader.text()?.into();
            let value = match reader.u8()? {
                0 => TagValue::Str(reader.text()?.into()),
                1 => TagValue::Num(f64::from_bits(reader.u64()?)),
                _ => return Err(StoreError::Corrupt),
            };
            tags.push(Tag { name, value });
        }
        reader.close()?;
        let enforced = flags & 32 != 0;
        let jid = jid.clone();
        Ok(Self {
            jid,
            node,
            state,
            key,
            claim,
            claim_id,
            style,
            device,
            enforced,
            pending,
            tags,
            created,
            updated,
            version,
        })
    }
}

/// Key of a thing's record in [`Table::Things`]: below those of its account, ordered by source, partition and id.
pub fn thing_key(jid: JidRef<'_>, node: &NodeName) -> Vec<u8> {
    let mut out = key::things(jid);
    put_node(&mut out, node);
    out
}

fn put_node(out: &mut Vec<u8>, node: &NodeName) {
    // XML has no NUL, so neither has a name.
    for part in [&node.source, &node.partition] {
        out.extend_from_slice(part.as_bytes());
        out.push(SEPARATOR);
    }
    out.extend_from_slice(node.id.as_bytes());
}

fn read_node(rest: &[u8]) -> Result<NodeName, StoreError> {
    let text = std::str::from_utf8(rest).map_err(|_| StoreError::Corrupt)?;
    let mut parts = text.split('\0');
    let mut next = || parts.next().map(Box::from).ok_or(StoreError::Corrupt);
    let (source, partition, id) = (next()?, next()?, next()?);
    if parts.next().is_some() { Err(StoreError::Corrupt) } else { Ok(NodeName { id, source, partition }) }
}

/// The thing of a pair in [`Table::Things`].
///
/// # Errors
/// [`StoreError::Corrupt`].
pub(super) fn read((key, record): &Pair) -> Result<ThingRecord, StoreError> {
    let jid = Jid::parse(key::things_owner(key)?).map_err(|_| StoreError::Corrupt)?;
    let rest = key.get(key::things(jid.as_jid()).len()..).ok_or(StoreError::Corrupt)?;
    ThingRecord::decode(&jid, read_node(rest)?, record)
}

/// Reads a thing; `None` if it is not registered.
///
/// # Errors
/// [`StoreError`].
pub async fn load<S: Store>(store: &S, jid: &Jid, node: &NodeName) -> Result<Option<ThingRecord>, StoreError> {
    let found = store.get(Table::Things, &thing_key(jid.as_jid(), node)).await?;
    found.map(|record| ThingRecord::decode(jid, node.clone(), &record)).transpose()
}

/// A page of the things of an account, in the order of their keys: those behind `after`.
///
/// # Errors
/// [`StoreError`].
pub async fn load_all<S: Store>(
    store: &S,
    jid: &Jid,
    after: Option<&NodeName>,
    limit: usize,
) -> Result<Vec<ThingRecord>, StoreError> {
    let prefix = key::things(jid.as_jid());
    let after = after.map(|node| thing_key(jid.as_jid(), node));
    let pairs = store.scan(Table::Things, &prefix, after.as_deref(), limit).await?;
    pairs.iter().map(|(key, record)| read_thing(jid, key, record)).collect()
}

/// The thing of an account that is stored under a key.
pub(crate) fn read_thing(jid: &Jid, key: &[u8], record: &[u8]) -> Result<ThingRecord, StoreError> {
    let prefix = key::things(jid.as_jid()).len();
    let node = read_node(key.get(prefix..).ok_or(StoreError::Corrupt)?)?;
    ThingRecord::decode(jid, node, record)
}

/// A page of all things, in the order of the store: those behind `after`.
///
/// # Errors
/// [`StoreError`].
pub async fn list<S: Store>(
    store: &S,
    after: Option<(&Jid, &NodeName)>,
    limit: usize,
) -> Result<Vec<ThingRecord>, StoreError> {
    let after = after.map(|(jid, node)| thing_key(jid.as_jid(), node));
    let pairs = store.scan(Table::Things, &[], after.as_deref(), limit).await?;
    let read = |(key, record): &(Vec<u8>, Vec<u8>)| {
        let jid = Jid::parse(key::archive_owner(key)?).map_err(|_| StoreError::Corrupt)?;
        let rest = key.get(key::things(jid.as_jid()).len()..).ok_or(StoreError::Corrupt)?;
        ThingRecord::decode(&jid, read_node(rest)?, record)
    };
    pairs.iter().map(read).collect()
}

/// Prefix in [`Table::Rules`] of what others may do with a thing: goes with its owner.
pub fn rules_prefix(jid: JidRef<'_>, node: &NodeName) -> Vec<u8> {
    let mut out = thing_key(jid, node);
    out.push(SEPARATOR);
    out
}

/// Key in [`Table::Owners`] of how many things an account has registered. It lies beside what the account owns.
pub(super) fn count_key(jid: JidRef<'_>) -> Vec<u8> {
    key::account(jid)
}

/// Key in [`Table::Owners`] that says that somebody owns a thing. There is nothing under it.
pub fn owned_key(owner: JidRef<'_>, jid: JidRef<'_>, node: &NodeName) -> Vec<u8> {
    let mut out = key::owned_things(owner);
    put_name(&mut out, jid, node);
    out
}

/// A page of what somebody owns, in the order of JIDs and nodes: those behind `after`.
///
/// # Errors
/// [`StoreError`].
pub async fn owned<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    after: Option<(&Jid, &NodeName)>,
    limit: usize,
) -> Result<Vec<(Jid, NodeName)>, StoreError> {
    let prefix = key::owned_things(owner);
    let after = after.map(|(jid, node)| owned_key(owner, jid.as_jid(), node));
    let pairs = store.scan(Table::Owners, &prefix, after.as_deref(), limit).await?;
    pairs.iter().map(|(key, _)| read_name(key.get(prefix.len()..).unwrap_or_default())).collect()
}

/// Appends which thing of all: the rest of a key that lists things of many accounts.
pub(super) fn put_name(out: &mut Vec<u8>, jid: JidRef<'_>, node: &NodeName) {
    out.extend_from_slice(jid.bare().as_str().as_bytes());
    out.push(SEPARATOR);
    put_node(out, node);
}

/// Reads which thing, as [`put_name`] wrote it.
pub(super) fn read_name(rest: &[u8]) -> Result<(Jid, NodeName), StoreError> {
    let end = rest.iter().position(|&byte| byte == SEPARATOR).ok_or(StoreError::Corrupt)?;
    let (jid, node) = (rest.get(..end).unwrap_or_default(), rest.get(end + 1..).unwrap_or_default());
    let jid = std::str::from_utf8(jid).ok().and_then(|jid| Jid::parse(jid).ok()).ok_or(StoreError::Corrupt)?;
    Ok((jid, read_node(node)?))
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] = &[
    |record| {
        let jid = Jid::parse("lamp@things.example").expect("an address");
        ThingRecord::decode(&jid, NodeName::default(), record).map(|thing| thing.encode())
    },
    |rest| {
        let (jid, node) = read_name(rest)?;
        let mut name = Vec::new();
        put_name(&mut name, jid.as_jid(), &node);
        Ok(name)
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Batch;
    use crate::store::memory::MemoryStore;
    use crate::wait::block_on;

    fn jid(text: &str) -> Jid {
        Jid::parse(text).unwrap()
    }

    fn node(id: &str, source: &str, partition: &str) -> NodeName {
        NodeName { id: id.into(), source: source.into(), partition: partition.into() }
    }

    fn thing(jid: &Jid, node: NodeName, state: State) -> ThingRecord {
        let tags = vec![
            Tag { name: "SN".into(), value: TagValue::Str("394872348732948723".into()) },
            Tag { name: "V".into(), value: TagValue::Num(1.2) },
        ];
        let pending = Pending { claimed: true, removed: false, clear_cache: true, since: 500 };
        ThingRecord {
            jid: jid.clone(),
            node,
            state,
            key: Some(key_hash("4857402340298342")),
            claim: Some([9; 32]),
            claim_id: 300,
            style: Style::of(Generation::Xsf),
            device: Some(Generation::Nfi),
            enforced: true,
            pending,
            tags,
            created: 1,
            updated: 300,
            version: 7,
        }
    }

    #[test]
    fn records_read_back_and_damage_is_found() {
        let lamp = jid("lamp@things.example");
        let owner = jid("owner@things.example");
        let states = [
            State::Unclaimed,
            State::SelfOwned,
            State::Claimed { owner: owner.clone(), public: true, removed: false },
            State::Claimed { owner, public: false, removed: true },
        ];
        for state in states {
            for (key, claim, generation) in [
                (None, None, Generation::Xsf),
                (Some([7; 32]), None, Generation::Ieee),
                (None, Some([8; 32]), Generation::Nf),
                (Some([7; 32]), Some([8; 32]), Generation::Nfi),
            ] {
                let (tags, device, style) = (vec![], None, Style::of(generation));
                let pending = Pending::default();
                let thing = thing(&lamp, node("a", "", ""), state.clone());
                let claim_id = u64::from(claim.is_some());
                let thing = ThingRecord { key, claim, claim_id, tags, device, style, pending, ..thing };
                let record = thing.encode();
                assert_eq!(ThingRecord::decode(&lamp, thing.node.clone(), &record), Ok(thing.clone()));
                for len in 0..record.len() {
                    assert!(ThingRecord::decode(&lamp, thing.node.clone(), &record[..len]).is_err(), "{len}");
                }
            }
            let thing = thing(&lamp, NodeName::default(), state);
            assert_eq!(ThingRecord::decode(&lamp, NodeName::default(), &thing.encode()), Ok(thing));
        }
    }

    #[test]
    fn things_of_an_account_and_of_an_owner_come_in_pages() {
        let store = MemoryStore::new();
        let owner = jid("owner@things.example");
        let rack = jid("rack@things.example");
        let claimed = State::Claimed { owner: owner.clone(), public: true, removed: false };
        let names =
            [NodeName::default(), node("1", "", ""), node("1", "m", ""), node("1", "m", "p"), node("2", "m", "p")];
        let mut writes = Vec::new();
        for jid in [&rack, &jid("rac@things.example"), &jid("rack@things.exampl")] {
            for name in &names {
                writes.push(thing(jid, name.clone(), claimed.clone()).put());
                let key = owned_key(owner.as_jid(), jid.as_jid(), name);
                writes.push(Write::Put { table: Table::Owners, key, value: Vec::new() });
            }
        }
        block_on(store.commit(Batch { guards: Vec::new(), writes })).unwrap();
        let all = block_on(load_all(&store, &rack, None, 99)).unwrap();
        let found: Vec<_> = all.iter().map(|thing| thing.node.clone()).collect();
        assert_eq!(found, names);
        let rest = block_on(load_all(&store, &rack, Some(&found[1]), 2)).unwrap();
        assert_eq!(rest, all[2..4]);
        assert_eq!(block_on(load(&store, &rack, &names[3])).unwrap().as_ref(), Some(&all[3]));
        assert_eq!(block_on(load(&store, &rack, &node("3", "", ""))).unwrap(), None);
        let whole = block_on(list(&store, None, 99)).unwrap();
        assert_eq!(whole.len(), 3 * names.len());
        let (jid, name) = (&whole[6].jid, &whole[6].node);
        assert_eq!(block_on(list(&store, Some((jid, name)), 2)).unwrap(), whole[7..9]);
        let owns = block_on(owned(&store, owner.as_jid(), None, 99)).unwrap();
        assert_eq!(owns.len(), 3 * names.len());
        let (jid, name) = &owns[6];
        let rest = block_on(owned(&store, owner.as_jid(), Some((jid, name)), 99)).unwrap();
        assert_eq!(rest, owns[7..]);
        assert!(block_on(owned(&store, rack.as_jid(), None, 99)).unwrap().is_empty());
    }
}
