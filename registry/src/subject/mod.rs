//! A subject: all that is kept about one identity, wherever it lies, to be told or to be erased.
//!
//! Called by the commands of operators. Both walk through the whole store in pages, since an identity is named in what
//! others own; so both take as long for one who left few traces as for one who left many. What the subject owns is told
//! whole, but for secrets. Of what others own it is told that it names the subject, not what it says: it is about them too.
//!
//! Erased is what the subject owns, what the broker keeps about it, and whatever would count for somebody who takes its name
//! later: affiliations and subscriptions at others' nodes, rules and questions about it, its ownership of things. Kept is what
//! is others': their contacts and block lists, messages that reached them, what they want archived, and what was published at
//! their nodes. A [`Trace`] says which it was.
//!
//! Spec: none of XMPP; Regulation (EU) 2016/679 Articles 15, 17 and 20 are what it is for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use plaza_core::jid::{Jid, JidRef};
use plaza_core::thing::NodeName;
use serde_json::Value;

use crate::accounts::{self, AccountError};
use crate::provisioning;
use crate::pubsub::{self, Host};
use crate::store::{Batch, CommitError, Pair, Run, Store, StoreError, Table, Write, key};
use crate::things::{self, AssignError, ThingRecord};

mod own;
#[cfg(test)]
mod tests;
mod traces;

pub(crate) use self::own::time;

/// Records looked at for one page.
const PAGE_RECORDS: usize = 4_096;
/// Things read at once when their owners are looked for.
const PAGE_THINGS: usize = 100;
/// Bytes of their values at which a page ends: as JSON, what is told of them stays below what an answer may have.
const PAGE_BYTES: usize = 1024 * 1024;

/// Where the walk goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    table: Table,
    after: Option<Vec<u8>>,
}

impl Cursor {
    /// The beginning.
    pub const START: Self = Self { table: Table::Accounts, after: None };

    /// Reads what [`Cursor::to_text`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, digits) = text.split_once(':')?;
        let table = Table::ALL.into_iter().find(|table| table.name() == name)?;
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let after = digits.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>()?;
        Some(Self { table, after: (!after.is_empty()).then_some(after) })
    }

    /// For whoever carries it elsewhere and back.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}:", self.table.name());
        hex(&mut text, self.after.as_deref().unwrap_or_default());
        text
    }

    /// The table it is in.
    pub const fn table(&self) -> &'static str {
        self.table.name()
    }
}

fn hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes all text");
    }
}

/// What is kept, or was removed, of one kind in one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trace {
    /// The table.
    pub table: &'static str,
    /// Whose: an account, a service, or "" for the broker itself.
    pub of: String,
    /// What it is.
    pub what: &'static str,
    /// Whether it was removed, or would be.
    pub removed: bool,
}

/// What a part of the walk found.
#[derive(Debug, Default)]
pub struct Page {
    /// What the subject owns: each with the name of what it is.
    pub own: Vec<(&'static str, Value)>,
    /// What it owns and what names it elsewhere, with how many of each.
    pub traces: BTreeMap<Trace, u64>,
    /// Records looked at.
    pub records: u64,
    /// Accounts of which something was removed: their homes have to load it anew.
    pub changed: Vec<Jid>,
    /// Where it goes on; `None` at the end.
    pub next: Option<Cursor>,
}

/// Whether a text is an address of the bare JID.
pub(crate) fn is_of(text: &str, bare: &str) -> bool {
    text.strip_prefix(bare).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What erasing needs beside the store.
#[derive(Debug)]
pub struct Eraser<'a> {
    /// For the nodes of others.
    pub pubsub: &'a pubsub::Config,
    /// For the things of others.
    pub things: &'a things::Config,
    /// Addresses that are services, not accounts.
    pub services: &'a [Jid],
    /// The time on the wall.
    pub unix_millis: u64,
}

/// A page of all that is kept about a bare JID.
///
/// # Errors
/// [`StoreError`].
pub async fn export<S: Store>(store: &S, subject: JidRef<'_>, from: Cursor) -> Result<Page, StoreError> {
    let walked = walk(store, subject, from).await?;
    Ok(walked.page)
}

/// As [`export`], and removes what names the subject in what others own, as far as this page goes. After the last page
/// [`finish`] removes what it owns itself. Done again it removes what came meanwhile.
///
/// # Errors
/// [`StoreError`]: something of the page may be removed already.
pub async fn erase<S: Store>(
    eraser: &Eraser<'_>,
    store: &S,
    subject: JidRef<'_>,
    from: Cursor,
) -> Result<Page, StoreError> {
    let Walked { mut page, hosts, things, writes } = walk(store, subject, from).await?;
    for host in hosts {
        let host = if eraser.services.contains(&host) { Host::Service(host) } else { Host::Account(host) };
        pubsub::forget_at(eraser.pubsub, store, &host, subject, eraser.unix_millis).await?;
    }
    for record in things {
        let thing = (&record.jid, &record.node);
        things::let_go(eraser.things, store, thing, subject.bare(), eraser.unix_millis).await.map_err(not_let_go)?;
    }
    if !writes.is_empty() {
        commit(store, writes).await?;
    }
    page.changed.sort_unstable();
    page.changed.dedup();
    Ok(page)
}

/// What became of a subject in the end.
#[derive(Debug, PartialEq, Eq)]
pub struct Finished {
    /// It had an account here, which is no more.
    pub account_removed: bool,
    /// Other accounts whose things it still owned: their homes have to load them anew.
    pub things_of: Vec<Jid>,
}

/// Removes the subject's account with all it owns. Its things are unregistered.
///
/// # Errors
/// [`StoreError`].
pub async fn finish<S: Store>(eraser: &Eraser<'_>, store: &S, subject: JidRef<'_>) -> Result<Finished, StoreError> {
    let owners = owners(store, subject).await?;
    let things_of = things::forget(eraser.things, store, subject, eraser.unix_millis).await.map_err(not_let_go)?;
    // It was noted with those who owned its things that they did.
    let writes = owners.iter().map(|owner| provisioning::forget_former(owner.as_jid(), subject)).collect();
    commit(store, writes).await?;
    let account_removed = match accounts::remove(store, subject).await {
        Ok(()) => true,
        // It may be somebody from elsewhere, or was removed before.
        Err(AccountError::NotFound) => false,
        Err(AccountError::Store(error)) => return Err(error),
        Err(AccountError::Exists | AccountError::BadPassword) => return Err(StoreError::Failed),
    };
    match accounts::remove_rest(store, subject).await {
        // If it exists, somebody made an account of that name just now: what is there is theirs.
        Ok(()) | Err(AccountError::Exists) => Ok(Finished { account_removed, things_of }),
        Err(AccountError::Store(error)) => Err(error),
        Err(AccountError::NotFound | AccountError::BadPassword) => Err(StoreError::Failed),
    }
}

/// Whose the subject's own things are.
async fn owners<S: Store>(store: &S, subject: JidRef<'_>) -> Result<BTreeSet<Jid>, StoreError> {
    let subject = subject.to_jid();
    let (mut owners, mut after) = (BTreeSet::new(), None);
    loop {
        let page = things::load_all(store, &subject, after.as_ref(), PAGE_THINGS).await?;
        owners.extend(page.iter().filter_map(ThingRecord::owner).cloned());
        if page.len() < PAGE_THINGS {
            return Ok(owners);
        }
        after = page.into_iter().next_back().map(|thing| thing.node);
    }
}

async fn commit<S: Store>(store: &S, writes: Vec<Write>) -> Result<(), StoreError> {
    store.commit(Batch { guards: Vec::new(), writes }).await.map_err(|error| match error {
        CommitError::Store(error) => error,
        // There is none.
        CommitError::Guard(_) => StoreError::Failed,
    })
}

fn not_let_go(error: AssignError) -> StoreError {
    match error {
        AssignError::Store(error) => error,
        // Letting go does not ask whose a thing is, nor for an account.
        AssignError::NotFound | AssignError::NoAccount | AssignError::Owned(_) => StoreError::Failed,
    }
}

/// A page, and what erasing has to do about it.
#[derive(Default)]
struct Walked {
    page: Page,
    /// Where the subject has a part in nodes.
    hosts: Vec<Jid>,
    /// What it owns of others' things.
    things: Vec<ThingRecord>,
    writes: Vec<Write>,
}

async fn walk<S: Store>(store: &S, subject: JidRef<'_>, from: Cursor) -> Result<Walked, StoreError> {
    let subject = subject.bare();
    let Cursor { table, after } = from;
    let run = Run {
        table,
        prefix: Vec::new(),
        after,
        before: None,
        backwards: false,
        limit: PAGE_RECORDS,
        bytes_max: PAGE_BYTES,
    };
    let pairs = store.run(run).await?;
    let mut walked = Walked::default();
    for pair in &pairs {
        walked.look_at(table, pair, subject)?;
    }
    walked.page.records = pairs.len() as u64;
    walked.page.next = match pairs.into_iter().next_back() {
        Some((last, _)) => Some(Cursor { table, after: Some(last) }),
        None => {
            let behind = Table::ALL.into_iter().skip_while(|&one| one != table).nth(1);
            behind.map(|table| Cursor { table, after: None })
        }
    };
    Ok(walked)
}

impl Walked {
    fn look_at(&mut self, table: Table, pair: &Pair, subject: JidRef<'_>) -> Result<(), StoreError> {
        let (key, record) = pair;
        let Some(place) = Place::of(table, key) else { return Ok(()) };
        if place.of == subject.as_str() {
            // What only counts or points is no more than what it counts and points to.
            // What can't be read is told as it lies there.
            self.page
                .own
                .extend(own::tell(table, subject, &place, pair).unwrap_or_else(|_| Some(own::damaged(&place, record))));
            self.count(Trace { table: table.name(), of: place.of.to_owned(), what: "its own", removed: true });
            return Ok(());
        }
        let found = traces::find(table, &place, record, subject);
        let Some(found) = found.unwrap_or(Some(traces::Found::Kept("record that can't be read"))) else {
            return Ok(());
        };
        let trace =
            Trace { table: table.name(), of: place.of.to_owned(), what: found.what(), removed: found.is_removed() };
        self.count(trace);
        // Its part in the nodes of others is its own, too, and so is what it came from.
        self.page.own.extend(own::tell_part(table, &place, record).unwrap_or_default());
        let delete = || Write::Delete { table, key: key.clone() };
        match found {
            traces::Found::Kept(_) => return Ok(()),
            traces::Found::Record(_) => self.writes.push(delete()),
            traces::Found::Nodes(_) => {
                let host = Jid::parse(place.of).map_err(|_| StoreError::Corrupt)?;
                if !self.hosts.contains(&host) {
                    self.hosts.push(host);
                }
            }
            traces::Found::Owner(record) => self.things.push(*record),
        }
        self.page.changed.extend(Jid::parse(place.of).ok().filter(|jid| jid.as_jid().local().is_some()));
        Ok(())
    }

    fn count(&mut self, trace: Trace) {
        *self.page.traces.entry(trace).or_default() += 1;
    }
}

/// Whose a record is, and what stands behind that in its key.
struct Place<'a> {
    of: &'a str,
    rest: &'a [u8],
}

impl<'a> Place<'a> {
    /// `None` for what is of no account and names none.
    fn of(table: Table, key: &'a [u8]) -> Option<Self> {
        match table {
            Table::Broker => None,
            // A hash, and then the thing that it claims.
            Table::Claims => Some(Self { of: "", rest: key.get(32..)? }),
            Table::Certificates | Table::ApiKeys => Some(Self { of: "", rest: key }),
            Table::Accounts
            | Table::Rosters
            | Table::Offline
            | Table::Private
            | Table::Vcards
            | Table::Avatars
            | Table::Blocklists
            | Table::Resumables
            | Table::Tokens
            | Table::PubSub
            | Table::Archives
            | Table::Things
            | Table::Owners
            | Table::Rules
            | Table::Questions => {
                let (owner, rest) = key::split_owner(key).ok()?;
                Some(Self { of: owner, rest })
            }
        }
    }

    /// The address that it begins with, behind so many bytes that say what it is.
    fn begins_with(&self, skipped: usize) -> Option<&'a str> {
        let behind = self.rest.get(skipped..)?;
        std::str::from_utf8(behind.split(|&byte| byte == 0).next()?).ok()
    }

    /// Its parts between NULs, those that are text.
    fn parts(&self) -> impl Iterator<Item = &'a str> {
        self.rest.split(|&byte| byte == 0).filter_map(|part| std::str::from_utf8(part).ok())
    }

    /// The node of a thing that the rest of its key names.
    fn node(&self) -> Option<NodeName> {
        let mut parts = self.parts().map(Box::from);
        Some(NodeName { source: parts.next()?, partition: parts.next()?, id: parts.next()? })
    }
}
