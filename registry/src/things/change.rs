//! Changing things: an event in the life of one, stored in one commit with all that hangs on it.

use plaza_core::iot::Generation;
use plaza_core::jid::{Jid, JidRef};
use plaza_core::stanza::Condition;
use plaza_core::thing::NodeName;

use super::life::{Event, Next, Notice, Refused, Said, step};
use super::record::count_key;
use super::{Config, ThingRecord, claims, owned_key, thing_key};
use crate::broker;
#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::owned::{self, ATTEMPTS_MAX};
use crate::provisioning;
use crate::record::{Reader, put_count};
use crate::store::{Batch, CommitError, Guard, Lookup, Store, StoreError, Table, Write, key};

/// Version of the record that counts an account's things.
const COUNT_VERSION: u8 = 1;
/// The same, with the outage that its device was told of.
const TOLD_VERSION: u8 = 2;

/// Things read at once while looking for one that an outage concerns.
const PAGE: usize = 256;

/// What came of a change.
#[derive(Debug, PartialEq)]
pub(super) struct Changed {
    /// What whoever asked is told.
    pub(super) said: Said,
    /// The thing as it is now, if it is.
    pub(super) thing: Option<ThingRecord>,
    /// Whether something of it changed that decisions about it hang on, or what it has to be told.
    pub(super) concerns_home: bool,
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotChanged {
    /// It is not there for whoever asked, or not in this state.
    Refused(Refused),
    /// Who asked has no account (any more).
    NoAccount,
    /// The account has as many things as it may.
    Full,
    /// The store could not.
    Store(StoreError),
}

impl From<Refused> for NotChanged {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<StoreError> for NotChanged {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<NotChanged> for Condition {
    fn from(error: NotChanged) -> Self {
        match error {
            NotChanged::Refused(Refused::NotFound) => Self::ItemNotFound,
            NotChanged::Refused(Refused::TooManyTags) | NotChanged::Full => Self::ResourceConstraint,
            NotChanged::NoAccount => Self::Forbidden,
            NotChanged::Store(error) => condition(&error),
        }
    }
}

/// Lets something happen to a thing, on behalf of an account that has to be there if one is named. What came of it is stored,
/// and noted by the index, when this resolves.
pub(super) async fn change<S: Store>(
    config: &Config,
    store: &S,
    by: Option<JidRef<'_>>,
    (jid, node): (&Jid, &NodeName),
    event: Event<'_>,
    now: u64,
) -> Result<Changed, NotChanged> {
    for _ in 0..ATTEMPTS_MAX {
        let (before, count) = read(store, jid, node).await?;
        let (next, said) = step(before.as_ref(), (jid, node), event, now)?;
        let after = match next {
            Next::Same => return Ok(Changed { said, thing: before, concerns_home: false }),
            Next::Is(after) => Some(*after),
            Next::Gone => None,
        };
        let account = by.map(|by| Guard::Present { table: Table::Accounts, key: key::account(by) });
        let mut guards: Vec<Guard> = account.into_iter().collect();
        guards.push(match &before {
            Some(before) => before.guard(),
            None => Guard::Absent { table: Table::Things, key: thing_key(jid.as_jid(), node) },
        });
        let mut writes = writes(before.as_ref(), after.as_ref());
        writes.extend(end_rules(store, before.as_ref(), after.as_ref()).await?);
        let counted = match (&before, &after) {
            (None, Some(_)) if count.things >= u64::from(config.limits.things_per_account_max) => {
                return Err(NotChanged::Full);
            }
            (None, Some(_)) => Some(count.things + 1),
            (Some(_), None) => Some(count.things.saturating_sub(1)),
            (Some(_), Some(_)) | (None, None) => None,
        };
        if let Some(things) = counted {
            let key = count_key(jid.as_jid());
            guards.push(owned::still(Table::Owners, &key, count.record));
            writes.push(owned::write(Table::Owners, key, (things > 0).then(|| encode_count(things, count.told))));
        }
        match store.commit(Batch { guards, writes }).await {
            Ok(()) => {}
            Err(CommitError::Guard(0)) if by.is_some() => return Err(NotChanged::NoAccount),
            Err(CommitError::Guard(_)) => continue,
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
        if let Some(index) = &config.index
            && [&before, &after].into_iter().flatten().any(ThingRecord::is_listed)
        {
            index.changed(jid, node).await;
        }
        let concerns_home = match (&before, &after) {
            (Some(before), Some(after)) => {
                let concern = |thing: &ThingRecord| (thing.state.clone(), thing.pending, thing.style, thing.enforced);
                concern(before) != concern(after)
            }
            (None, _) | (_, None) => true,
        };
        return Ok(Changed { said, thing: after, concerns_home });
    }
    // Others changed it all the time.
    Err(StoreError::Busy.into())
}

/// All that has to be written when a thing that was `before` becomes what it is `after`.
fn writes(before: Option<&ThingRecord>, after: Option<&ThingRecord>) -> Vec<Write> {
    let mut writes = Vec::new();
    match (before, after) {
        (_, Some(after)) => writes.push(after.put()),
        (Some(before), None) => {
            let key = thing_key(before.jid.as_jid(), &before.node);
            writes.push(Write::Delete { table: Table::Things, key });
        }
        (None, None) => {}
    }
    let mut replace = |table, old: Option<Vec<u8>>, new: Option<Vec<u8>>| {
        if old != new {
            writes.extend(old.map(|key| Write::Delete { table, key }));
            writes.extend(new.map(|key| Write::Put { table, key, value: Vec::new() }));
        }
    };
    replace(Table::Claims, before.and_then(claims::entry), after.and_then(claims::entry));
    let owners = |thing: &ThingRecord| Some(owned_key(thing.owner()?.as_jid(), thing.jid.as_jid(), &thing.node));
    replace(Table::Owners, before.and_then(owners), after.and_then(owners));
    writes
}

/// What stores all things of an account that has none: to fill a store that nobody uses yet. Who changes things that are
/// there goes through [`change`], which minds what others do.
pub fn settle(jid: JidRef<'_>, things: &[ThingRecord]) -> Vec<Write> {
    let mut all: Vec<Write> = things.iter().flat_map(|thing| writes(None, Some(thing))).collect();
    let count = encode_count(things.len() as u64, 0);
    all.push(Write::Put { table: Table::Owners, key: count_key(jid), value: count });
    all
}

/// What takes away all that was allowed with a thing and asked about it, when it changes hands or goes: what one owner
/// allowed is nothing to the next, and a thing of the same name that comes later is another one.
async fn end_rules<S: Store>(
    store: &S,
    before: Option<&ThingRecord>,
    after: Option<&ThingRecord>,
) -> Result<Vec<Write>, StoreError> {
    match before {
        Some(before) if after.is_none_or(|after| after.owner() != before.owner()) => {
            provisioning::purge(store, before, after.and_then(ThingRecord::owner)).await
        }
        Some(_) | None => Ok(Vec::new()),
    }
}

/// How many things an account has registered, as the store has it.
struct Count {
    things: u64,
    /// The last outage that its device was told of ([`broker::last_outage`]), 0 for none.
    told: u64,
    record: Option<Vec<u8>>,
}

async fn read<S: Store>(store: &S, jid: &Jid, node: &NodeName) -> Result<(Option<ThingRecord>, Count), StoreError> {
    let lookups = vec![
        Lookup { table: Table::Things, key: thing_key(jid.as_jid(), node), below: false },
        Lookup { table: Table::Owners, key: count_key(jid.as_jid()), below: false },
    ];
    let mut found = store.look_up(lookups).await?.into_iter();
    let mut next = || found.next().flatten().map(|found| found.value);
    let (thing, record) = (next(), next());
    let thing = thing.map(|record| ThingRecord::decode(jid, node.clone(), &record)).transpose()?;
    Ok((thing, Count::of(record)?))
}

impl Count {
    fn of(record: Option<Vec<u8>>) -> Result<Self, StoreError> {
        let (things, told) = record.as_deref().map_or(Ok((0, 0)), decode_count)?;
        Ok(Self { things, told, record })
    }
}

/// The outage that the device of an account was not told of, if there is one that concerns a thing of these.
pub(crate) async fn missed<S: Store>(store: &S, jid: JidRef<'_>, things: &[ThingRecord]) -> Result<bool, StoreError> {
    if !things.iter().any(|thing| thing.owner().is_some()) {
        return Ok(false);
    }
    let outage = broker::last_outage(store).await?;
    if !things.iter().any(|thing| is_concerned(thing, outage)) {
        return Ok(false);
    }
    let count = Count::of(store.get(Table::Owners, &count_key(jid)).await?)?;
    Ok(count.told < outage)
}

/// Whether a thing may have asked before an outage, and have had no answer.
fn is_concerned(thing: &ThingRecord, outage: u64) -> bool {
    thing.owner().is_some() && thing.created < outage
}

/// Notes that a device has to forget what it was told, if it may have asked something before an outage: what it got no answer
/// to it takes for denied. Once for each outage and device; from then on it is told until it has heard.
pub(super) async fn note_outage<S: Store>(store: &S, jid: &Jid) -> Result<(), StoreError> {
    let outage = broker::last_outage(store).await?;
    for _ in 0..ATTEMPTS_MAX {
        let key = count_key(jid.as_jid());
        let count = Count::of(store.get(Table::Owners, &key).await?)?;
        if count.told >= outage {
            return Ok(());
        }
        let mut after = None;
        let thing = loop {
            let mut page = super::load_all(store, jid, after.as_ref(), PAGE).await?;
            if let Some(at) = page.iter().position(|thing| is_concerned(thing, outage)) {
                break page.swap_remove(at);
            }
            if page.len() < PAGE {
                return Ok(());
            }
            after = page.pop().map(|thing| thing.node);
        };
        let writes = vec![
            provisioning::to_clear(&thing).put(),
            Write::Put { table: Table::Owners, key: key.clone(), value: encode_count(count.things, outage) },
        ];
        let guards = vec![thing.guard(), owned::still(Table::Owners, &key, count.record)];
        match store.commit(Batch { guards, writes }).await {
            Ok(()) => return Ok(()),
            Err(CommitError::Guard(_)) => {}
            Err(CommitError::Store(error)) => return Err(error),
        }
    }
    Err(StoreError::Busy)
}

/// That an account has no things, and registers none meanwhile.
///
/// # Errors
/// [`StoreError::Busy`] if it has some; [`StoreError`].
pub(crate) async fn none_registered<S: Store>(store: &S, account: JidRef<'_>) -> Result<Guard, StoreError> {
    let key = count_key(account);
    let count = store.get(Table::Owners, &key).await?;
    if store.scan(Table::Things, &key::things(account), None, 1).await?.is_empty() {
        Ok(owned::still(Table::Owners, &key, count))
    } else {
        Err(StoreError::Busy)
    }
}

/// What forgets how many things an account has registered, when it goes with all of them.
pub(crate) fn uncount(account: JidRef<'_>) -> Write {
    Write::Delete { table: Table::Owners, key: count_key(account) }
}

fn encode_count(things: u64, told: u64) -> Vec<u8> {
    let mut out = vec![if told == 0 { COUNT_VERSION } else { TOLD_VERSION }];
    put_count(&mut out, things);
    if told != 0 {
        put_count(&mut out, told);
    }
    out
}

fn decode_count(record: &[u8]) -> Result<(u64, u64), StoreError> {
    let is_told = record.first() == Some(&TOLD_VERSION);
    let mut reader = Reader::open(record, if is_told { TOLD_VERSION } else { COUNT_VERSION })?;
    let things = reader.count()?;
    let told = if is_told { reader.count()? } else { 0 };
    reader.close()?;
    Ok((things, told))
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] =
    &[|record| decode_count(record).map(|(things, told)| encode_count(things, told))];

/// Notes that a device has heard of something: as it was in that version of its record, so that what came between is told as
/// well.
///
/// # Errors
/// [`StoreError`]; it is told again.
pub async fn acknowledged<S: Store>(
    store: &S,
    jid: &Jid,
    node: &NodeName,
    notice: Notice,
    version: u64,
) -> Result<(), StoreError> {
    note(store, jid, node, Event::Acknowledge { notice, version }).await
}

/// Notes in which generation a device asks for decisions.
///
/// # Errors
/// [`StoreError`].
pub async fn asked_for_decision<S: Store>(
    store: &S,
    jid: &Jid,
    node: &NodeName,
    generation: Generation,
) -> Result<(), StoreError> {
    note(store, jid, node, Event::Asked(generation)).await
}

/// Lets something happen to a thing that nothing else hangs on, and that is no reason to change the time it was updated.
async fn note<S: Store>(store: &S, jid: &Jid, node: &NodeName, event: Event<'_>) -> Result<(), StoreError> {
    for _ in 0..ATTEMPTS_MAX {
        let Some(before) = super::load(store, jid, node).await? else { return Ok(()) };
        let Ok((Next::Is(after), _)) = step(Some(&before), (jid, node), event, before.updated) else { return Ok(()) };
        match store.commit(Batch { guards: vec![before.guard()], writes: vec![after.put()] }).await {
            Ok(()) => return Ok(()),
            Err(CommitError::Guard(_)) => {}
            Err(CommitError::Store(error)) => return Err(error),
        }
    }
    Err(StoreError::Busy)
}

pub(super) const fn condition(error: &StoreError) -> Condition {
    match error {
        StoreError::Busy => Condition::ResourceConstraint,
        StoreError::Failed | StoreError::Corrupt => Condition::InternalServerError,
    }
}
