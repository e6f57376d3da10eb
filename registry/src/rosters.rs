//! Rosters: storage of contacts (RFC 6121 §2).
//!
//! Called by the roster service and by presence subscriptions. An account's roster is a head, which counts its items and
//! names its version, and a record per item; one trip loads it. Every change is a guarded read and write, so that changes at once are all
//! kept, the count is exact and no roster outlives its account.
//!
//! Spec: RFC 6121 §2.1.2 (items), §2.6 (versions), §3 and Appendix A (subscription states).

use std::fmt;

use plaza_core::jid::{Jid, JidRef};
use plaza_core::subscription::State;
use xxhash_rust::xxh3::xxh3_64;

#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::record::{Reader, flag, put_bytes, put_count};
use crate::store::{Batch, CommitError, Guard, Lookup, Pair, Store, StoreError, Table, Write, key};

/// Version of an item's record.
const VERSION: u8 = 1;
/// Version of the head's record; the first had no [`Version`].
const HEAD_VERSION: u8 = 2;
const FLAG_TO: u8 = 1;
const FLAG_FROM: u8 = 1 << 1;
const FLAG_ASK: u8 = 1 << 2;
const FLAG_APPROVED: u8 = 1 << 3;
const FLAG_REQUEST: u8 = 1 << 4;
const FLAG_UNLISTED: u8 = 1 << 5;
const FLAGS: u8 = FLAG_TO | FLAG_FROM | FLAG_ASK | FLAG_APPROVED | FLAG_REQUEST | FLAG_UNLISTED;
/// How often a change is tried again when another one came between. Each failure means another one succeeded.
const ATTEMPTS_MAX: usize = 16;

/// A contact in somebody's roster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterItem {
    /// The contact's bare JID.
    pub jid: Jid,
    /// The name the owner gave it, "" for none.
    pub name: String,
    /// The groups the owner put it in, none twice.
    pub groups: Vec<String>,
    /// Whose presence goes where.
    pub subscription: Subscription,
    /// The owner has asked to see the contact's presence and awaits the answer.
    pub ask: bool,
    /// The owner approved the contact before it asked (RFC 6121 §3.4).
    pub approved: bool,
    /// The contact's request to see the owner's presence, as it is to be delivered, until the owner has answered it.
    pub request: Option<Box<str>>,
    /// The owner's clients are shown it. An item that holds nothing but a request is not (RFC 6121 §3.1.3).
    pub listed: bool,
}

impl RosterItem {
    /// A contact without name, groups or subscription.
    pub fn new(jid: Jid) -> Self {
        Self {
            jid,
            name: String::new(),
            groups: Vec::new(),
            subscription: Subscription::None,
            ask: false,
            approved: false,
            request: None,
            listed: true,
        }
    }

    /// The item as the owner's clients are shown it; `None` if they are not.
    fn shown(&self) -> Option<Self> {
        self.listed.then(|| Self { request: None, ..self.clone() })
    }

    /// How owner and contact stand (RFC 6121 Appendix A).
    pub fn state(&self) -> State {
        State {
            to: self.subscription.to(),
            from: self.subscription.from(),
            ask: self.ask,
            pending_in: self.request.is_some(),
            approved: self.approved,
        }
    }
}

/// Names what a roster was at some time (RFC 6121 §2.6): a hash over all the changes the owner's clients were to be shown,
/// so that a roster made anew under an old name has other versions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Version(u64);

impl Version {
    /// The version a change leads to.
    fn after(self, item_key: &[u8], item: Option<&RosterItem>) -> Self {
        let mut text = self.0.to_le_bytes().to_vec();
        put_bytes(&mut text, item_key);
        if let Some(item) = item {
            text.extend_from_slice(&encode(item));
        }
        Self(xxh3_64(&text))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// State of the presence subscription between owner and contact, from the owner's side (RFC 6121 §2.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the protocol's own words")]
pub enum Subscription {
    None,
    To,
    From,
    Both,
}

impl Subscription {
    /// The state in which the owner sees the contact's presence (`to`) and the contact the owner's (`from`).
    pub const fn new(to: bool, from: bool) -> Self {
        match (to, from) {
            (false, false) => Self::None,
            (true, false) => Self::To,
            (false, true) => Self::From,
            (true, true) => Self::Both,
        }
    }

    /// Whether the owner sees the contact's presence.
    pub const fn to(self) -> bool {
        matches!(self, Self::To | Self::Both)
    }

    /// Whether the contact sees the owner's presence.
    pub const fn from(self) -> bool {
        matches!(self, Self::From | Self::Both)
    }

    /// The word on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::To => "to",
            Self::From => "from",
            Self::Both => "both",
        }
    }
}

/// Why a roster was not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "named by what they are")]
pub enum RosterError {
    /// The owner has no account (any more).
    NoAccount,
    /// The contact is not in the roster.
    NotFound,
    /// The roster has as many items as it may.
    Full,
    Store(StoreError),
}

impl fmt::Display for RosterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAccount => f.write_str("there is no such account"),
            Self::NotFound => f.write_str("the contact is not in the roster"),
            Self::Full => f.write_str("the roster is full"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RosterError {}

impl From<StoreError> for RosterError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Loads a whole roster, in the order of the contacts' JIDs. Empty if there is none, or no account.
///
/// # Errors
/// [`StoreError`].
pub async fn load<S: Store>(store: &S, owner: JidRef<'_>) -> Result<Vec<RosterItem>, StoreError> {
    let prefix = key::roster(owner);
    // The number of items was bounded when they were put, so it is not bounded again here. The head lies at the prefix.
    read(owner, store.scan(Table::Rosters, &prefix, Some(&prefix), usize::MAX).await?)
}

/// Reads the items of a roster from what was read under its prefix.
pub(crate) fn read(owner: JidRef<'_>, pairs: Vec<Pair>) -> Result<Vec<RosterItem>, StoreError> {
    let prefix = key::roster(owner);
    pairs
        .into_iter()
        .map(|(key, record)| {
            let jid = key.strip_prefix(&*prefix).and_then(|jid| std::str::from_utf8(jid).ok());
            let jid = jid.and_then(|jid| Jid::parse(jid).ok()).ok_or(StoreError::Corrupt)?;
            decode(jid, &record)
        })
        .collect()
}

/// What version a roster is.
///
/// # Errors
/// [`StoreError`].
pub async fn version<S: Store>(store: &S, owner: JidRef<'_>) -> Result<Version, StoreError> {
    let head = store.get(Table::Rosters, &key::roster(owner)).await?;
    Ok(head.as_deref().map_or(Ok(Head::default()), Head::decode)?.version)
}

/// Loads a whole roster as [`load`] does, with the version it is.
///
/// # Errors
/// [`StoreError`].
pub async fn load_versioned<S: Store>(store: &S, owner: JidRef<'_>) -> Result<(Vec<RosterItem>, Version), StoreError> {
    let lookup = Lookup { table: Table::Rosters, key: key::roster(owner), below: true };
    let found = store.look_up(vec![lookup]).await?.pop().flatten();
    let Some(found) = found else { return Ok((Vec::new(), Version::default())) };
    Ok((read(owner, found.below)?, Head::decode(&found.value)?.version))
}

/// Loads one item.
///
/// # Errors
/// [`StoreError`].
pub async fn get<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    contact: JidRef<'_>,
) -> Result<Option<RosterItem>, StoreError> {
    let record = store.get(Table::Rosters, &key::roster_item(owner, contact)).await?;
    record.map(|record| decode(contact.to_jid(), &record)).transpose()
}

/// Edits an item, which is a new one if the contact is not in the roster, and gives what it became. `edit` may run more
/// than once, each time on what is stored by then; the item's JID stays what it is.
///
/// # Errors
/// [`RosterError::Full`] if the item would be new and the roster has `items_max` already, [`RosterError::NoAccount`] or
/// [`RosterError::Store`].
pub async fn update<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    contact: JidRef<'_>,
    items_max: u32,
    edit: impl Fn(&mut RosterItem),
) -> Result<(RosterItem, Version), RosterError> {
    let edited = |before: Option<&RosterItem>| {
        let mut item = before.cloned().unwrap_or_else(|| RosterItem::new(contact.to_jid()));
        edit(&mut item);
        Some(Some(item))
    };
    let change = change(store, owner, contact, items_max, edited).await?;
    change.after.map(|item| (item, change.version)).ok_or(RosterError::NotFound)
}

/// Removes an item and gives what it was.
///
/// # Errors
/// [`RosterError::NotFound`], also if the owner's clients are not shown it; [`RosterError::NoAccount`] or
/// [`RosterError::Store`].
pub async fn remove<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    contact: JidRef<'_>,
) -> Result<(RosterItem, Version), RosterError> {
    let gone = |before: Option<&RosterItem>| before.filter(|item| item.listed).map(|_| None);
    let change = change(store, owner, contact, u32::MAX, gone).await?;
    let removed = change.before.filter(|item| item.listed);
    removed.map(|item| (item, change.version)).ok_or(RosterError::NotFound)
}

/// What a change made of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What was stored before.
    pub before: Option<RosterItem>,
    /// What is stored now.
    pub after: Option<RosterItem>,
    /// The roster's version now: another one than before if the owner's clients are to be shown the change.
    pub version: Version,
}

/// Changes one item as `decide` says of what is stored: `None` leaves it, `Some(None)` removes it. `decide` may run more
/// than once, each time on what is stored by then.
///
/// # Errors
/// [`RosterError::Full`] if the item would be new and the roster has `items_max` already, [`RosterError::NoAccount`] or
/// [`RosterError::Store`].
pub async fn change<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    contact: JidRef<'_>,
    items_max: u32,
    decide: impl Fn(Option<&RosterItem>) -> Option<Option<RosterItem>>,
) -> Result<Change, RosterError> {
    let at = Place::new(owner, contact);
    for _ in 0..ATTEMPTS_MAX {
        let (stored, stored_head) = at.read(store).await?;
        let before = stored.as_deref().map(|record| decode(contact.to_jid(), record)).transpose()?;
        let head = stored_head.as_deref().map_or(Ok(Head::default()), Head::decode)?;
        let Some(after) = decide(before.as_ref()) else {
            return Ok(Change { after: before.clone(), before, version: head.version });
        };
        let mut batch = at.batch(stored);
        batch.writes.push(match &after {
            Some(item) => Write::Put { table: Table::Rosters, key: at.item.clone(), value: encode(item) },
            None => Write::Delete { table: Table::Rosters, key: at.item.clone() },
        });
        let mut new = head;
        if before.is_some() != after.is_some() {
            if after.is_some() && head.count >= items_max {
                return Err(RosterError::Full);
            }
            new.count = if after.is_some() { head.count + 1 } else { head.count.saturating_sub(1) };
        }
        let (shown, shows) = (before.as_ref().and_then(RosterItem::shown), after.as_ref().and_then(RosterItem::shown));
        if shown != shows {
            new.version = head.version.after(&at.item, shows.as_ref());
        }
        if new != head {
            batch.guards.push(still(&at.head, stored_head));
            batch.writes.push(Write::Put { table: Table::Rosters, key: at.head.clone(), value: new.encode() });
        }
        if at.commit(store, batch).await? {
            return Ok(Change { before, after, version: new.version });
        }
    }
    Err(StoreError::Busy.into())
}

/// The keys a change of one item touches.
struct Place {
    account: Vec<u8>,
    head: Vec<u8>,
    item: Vec<u8>,
}

impl Place {
    fn new(owner: JidRef<'_>, contact: JidRef<'_>) -> Self {
        Self { account: key::account(owner), head: key::roster(owner), item: key::roster_item(owner, contact) }
    }

    /// A batch that happens only if the account exists and the item's record is still the one read.
    fn batch(&self, before: Option<Vec<u8>>) -> Batch {
        let account = Guard::Present { table: Table::Accounts, key: self.account.clone() };
        Batch { guards: vec![account, still(&self.item, before)], writes: Vec::new() }
    }

    /// The records of the item and of the head.
    async fn read(&self, store: &impl Store) -> Result<(Option<Vec<u8>>, Option<Vec<u8>>), StoreError> {
        let lookup = |key: &[u8]| Lookup { table: Table::Rosters, key: key.to_vec(), below: false };
        let found = store.look_up(vec![lookup(&self.item), lookup(&self.head)]).await?;
        let mut values = found.into_iter().map(|found| found.map(|found| found.value));
        Ok((values.next().flatten(), values.next().flatten()))
    }

    /// Whether it was committed; if not, another change came between.
    async fn commit(&self, store: &impl Store, batch: Batch) -> Result<bool, RosterError> {
        match store.commit(batch).await {
            Ok(()) => Ok(true),
            Err(CommitError::Guard(0)) => Err(RosterError::NoAccount),
            Err(CommitError::Guard(_)) => Ok(false),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }
}

/// The guard that holds while a record of the rosters is what was read.
fn still(key: &[u8], before: Option<Vec<u8>>) -> Guard {
    let (table, key) = (Table::Rosters, key.to_vec());
    match before {
        Some(value) => Guard::Equals { table, key, value },
        None => Guard::Absent { table, key },
    }
}

/// What is known of a roster as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Head {
    /// Items, those that are not listed among them.
    count: u32,
    version: Version,
}

impl Head {
    fn encode(self) -> Vec<u8> {
        let mut record = vec![HEAD_VERSION];
        put_count(&mut record, self.count.into());
        record.extend_from_slice(&self.version.0.to_le_bytes());
        record
    }

    fn decode(record: &[u8]) -> Result<Self, StoreError> {
        let is_first = record.first() == Some(&VERSION);
        let mut reader = Reader::open(record, if is_first { VERSION } else { HEAD_VERSION })?;
        let count = u32::try_from(reader.count()?).map_err(|_| StoreError::Corrupt)?;
        let version = if is_first { Version::default() } else { Version(reader.u64()?) };
        reader.close()?;
        Ok(Self { count, version })
    }
}

/// version · flags · name · number of groups · groups · request, if there is one; texts behind their length. The JID is in
/// the key.
fn encode(item: &RosterItem) -> Vec<u8> {
    let mut record =
        Vec::with_capacity(4 + item.name.len() + item.groups.iter().map(|group| 2 + group.len()).sum::<usize>());
    record.push(VERSION);
    record.push(
        flag(item.subscription.to(), FLAG_TO)
            | flag(item.subscription.from(), FLAG_FROM)
            | flag(item.ask, FLAG_ASK)
            | flag(item.approved, FLAG_APPROVED)
            | flag(item.request.is_some(), FLAG_REQUEST)
            | flag(!item.listed, FLAG_UNLISTED),
    );
    put_bytes(&mut record, item.name.as_bytes());
    put_count(&mut record, item.groups.len() as u64);
    for group in &item.groups {
        put_bytes(&mut record, group.as_bytes());
    }
    if let Some(request) = &item.request {
        put_bytes(&mut record, request.as_bytes());
    }
    record
}

fn decode(jid: Jid, record: &[u8]) -> Result<RosterItem, StoreError> {
    let mut reader = Reader::open(record, VERSION)?;
    let flags = reader.u8()?;
    if flags & !FLAGS != 0 {
        return Err(StoreError::Corrupt);
    }
    let name = reader.text()?.to_owned();
    let groups = reader.count()?;
    let groups = (0..groups).map(|_| reader.text().map(str::to_owned)).collect::<Result<_, _>>()?;
    let request = (flags & FLAG_REQUEST != 0).then(|| reader.text().map(Into::into)).transpose()?;
    reader.close()?;
    Ok(RosterItem {
        jid,
        name,
        groups,
        subscription: Subscription::new(flags & FLAG_TO != 0, flags & FLAG_FROM != 0),
        ask: flags & FLAG_ASK != 0,
        approved: flags & FLAG_APPROVED != 0,
        request,
        listed: flags & FLAG_UNLISTED == 0,
    })
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] = &[
    |record| Head::decode(record).map(Head::encode),
    |record| decode(Jid::parse("lamp@things.example").expect("an address"), record).map(|item| encode(&item)),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::accounts;
    use crate::testing::store_with;
    use crate::wait::block_on;

    fn jid(text: &str) -> Jid {
        Jid::parse(text).unwrap()
    }

    proptest! {
        #[test]
        fn an_item_reads_back(
            name: String, groups: Vec<String>, to: bool, from: bool, ask: bool, approved: bool,
            request: Option<String>, listed: bool,
        ) {
            let jid = jid("lamp@things.example");
            let (subscription, request) = (Subscription::new(to, from), request.map(Into::into));
            let item = RosterItem { jid: jid.clone(), name, groups, subscription, ask, approved, request, listed };
            prop_assert_eq!(decode(jid, &encode(&item)), Ok(item));
        }
    }

    #[test]
    fn a_hostile_group_count_is_corrupt_and_costs_nothing() {
        let mut record = vec![VERSION, 0, 0];
        put_count(&mut record, u64::MAX);
        assert_eq!(decode(jid("lamp@things.example"), &record), Err(StoreError::Corrupt));
    }

    #[test]
    fn an_item_is_added_edited_and_removed() {
        let (owner, lamp) = (jid("owner@things.example"), jid("lamp@things.example"));
        let store = store_with(&owner);
        let (owner, lamp) = (owner.as_jid(), lamp.as_jid());
        assert_eq!(block_on(load(&store, owner)), Ok(vec![]));
        block_on(update(&store, owner, lamp, 10, |item| item.name = "Lamp".into())).unwrap();
        let changed = block_on(update(&store, owner, lamp, 10, |item| item.subscription = Subscription::To));
        let (item, version) = changed.unwrap();
        assert_eq!((&*item.name, item.subscription), ("Lamp", Subscription::To));
        assert_eq!(block_on(load(&store, owner)), Ok(vec![item.clone()]));
        assert_eq!(block_on(get(&store, owner, lamp)), Ok(Some(item.clone())));
        let (removed, last) = block_on(remove(&store, owner, lamp)).unwrap();
        assert_eq!(removed, item);
        assert_ne!(last, version);
        assert_eq!(block_on(remove(&store, owner, lamp)), Err(RosterError::NotFound));
        assert_eq!(block_on(load(&store, owner)), Ok(vec![]));
    }

    #[test]
    fn rosters_of_names_that_begin_alike_do_not_mix() {
        let (owner, longer) = (jid("owner@things.example"), jid("owner@things.example.org"));
        let store = store_with(&owner);
        block_on(update(&store, owner.as_jid(), longer.as_jid(), 10, |_| {})).unwrap();
        assert_eq!(block_on(load(&store, longer.as_jid())), Ok(vec![]));
        assert_eq!(block_on(load(&store, owner.as_jid())).unwrap().len(), 1);
    }

    #[test]
    fn the_limit_is_exact_when_adding_at_once() {
        let owner = jid("owner@things.example");
        let store = store_with(&owner);
        let added = std::thread::scope(|scope| {
            let adding: Vec<_> = (0..4)
                .map(|index| {
                    let (store, owner, lamp) = (&store, owner.as_jid(), jid(&format!("lamp{index}@things.example")));
                    scope.spawn(move || block_on(update(store, owner, lamp.as_jid(), 3, |_| {})))
                })
                .collect();
            adding.into_iter().map(|adding| adding.join().unwrap()).filter(Result::is_ok).count()
        });
        assert_eq!(added, 3);
        assert_eq!(block_on(load(&store, owner.as_jid())).unwrap().len(), 3);
        let lamp = block_on(load(&store, owner.as_jid())).unwrap().remove(0);
        assert!(block_on(update(&store, owner.as_jid(), lamp.jid.as_jid(), 3, |item| item.ask = true)).is_ok());
        block_on(remove(&store, owner.as_jid(), lamp.jid.as_jid())).unwrap();
        assert!(block_on(update(&store, owner.as_jid(), lamp.jid.as_jid(), 3, |_| {})).is_ok());
    }

    #[test]
    fn a_roster_goes_with_its_account_and_none_comes_after() {
        let (owner, lamp) = (jid("owner@things.example"), jid("lamp@things.example"));
        let store = store_with(&owner);
        block_on(update(&store, owner.as_jid(), lamp.as_jid(), 3, |_| {})).unwrap();
        block_on(accounts::remove(&store, owner.as_jid())).unwrap();
        assert_eq!(block_on(load(&store, owner.as_jid())), Ok(vec![]));
        let refused = block_on(update(&store, owner.as_jid(), lamp.as_jid(), 3, |_| {}));
        assert_eq!(refused, Err(RosterError::NoAccount));
    }

    #[test]
    fn a_version_changes_with_what_the_owners_clients_are_shown_and_with_nothing_else() {
        let (owner, lamp, fan) = (jid("owner@things.example"), jid("lamp@things.example"), jid("fan@things.example"));
        let store = store_with(&owner);
        let owner = owner.as_jid();
        let now = || block_on(version(&store, owner)).unwrap();
        assert_eq!(now(), Version::default());
        let (_, first) = block_on(update(&store, owner, lamp.as_jid(), 9, |item| item.name = "Lamp".into())).unwrap();
        assert_eq!(now(), first);
        assert_ne!(first, Version::default());
        let (_, same) = block_on(update(&store, owner, lamp.as_jid(), 9, |item| item.name = "Lamp".into())).unwrap();
        assert_eq!((same, now()), (first, first));
        let asks = |item: &mut RosterItem| (item.listed, item.request) = (false, Some("asks".into()));
        let (_, unseen) = block_on(update(&store, owner, fan.as_jid(), 9, asks)).unwrap();
        assert_eq!((unseen, now()), (first, first));
        let (_, other) = block_on(update(&store, owner, lamp.as_jid(), 9, |item| item.name = "Sun".into())).unwrap();
        let (_, back) = block_on(update(&store, owner, lamp.as_jid(), 9, |item| item.name = "Lamp".into())).unwrap();
        assert!(other != first && back != first && back != other);
        let (items, version) = block_on(load_versioned(&store, owner)).unwrap();
        assert_eq!((items.len(), version), (2, back));
        let (_, gone) = block_on(remove(&store, owner, lamp.as_jid())).unwrap();
        assert_eq!(now(), gone);
        assert_ne!(gone, back);
    }

    #[test]
    fn a_head_reads_back_also_one_without_a_version() {
        let head = Head { count: 300, version: Version(u64::MAX - 7) };
        assert_eq!(Head::decode(&head.encode()), Ok(head));
        assert_eq!(Head::decode(&[VERSION, 0xac, 0x02]), Ok(Head { count: 300, version: Version::default() }));
        assert_eq!(Head::decode(&[VERSION + 2, 0]), Err(StoreError::Corrupt));
    }
}
