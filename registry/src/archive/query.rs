//! Reading an archive page by page (XEP-0313 v1.1.3 §4), in slices: never more of it is in memory than a page and a slice.

use plaza_core::jid::{Jid, JidRef};
use plaza_core::rsm::{Request, Start};

use super::{ArchiveConfig, ArchiveId, Entry, Head, OVERHEAD_BYTES, item, slice, trim};
use crate::store::{CommitError, Run, Store, StoreError, Table, key};

/// What is asked of an archive.
#[derive(Debug, Clone)]
pub struct Query {
    /// Only messages with this address (§4.1.1); a bare one stands for all of its resources.
    pub with: Option<Jid>,
    /// Only messages of this moment or later, in milliseconds since the Unix epoch (§4.1.2).
    pub start: Option<u64>,
    /// Only messages of this moment or earlier.
    pub end: Option<u64>,
    /// Only messages after this one (§4.1.3).
    pub after: Option<String>,
    /// Only messages before this one.
    pub before: Option<String>,
    /// Only these.
    pub ids: Option<Vec<String>>,
    /// Which page of them.
    pub page: Request,
}

impl Query {
    /// All messages, from the first on.
    pub const ALL: Self =
        Self { with: None, start: None, end: None, after: None, before: None, ids: None, page: Request::ALL };

    fn is_of_all(&self) -> bool {
        self.with.is_none()
            && self.start.is_none()
            && self.end.is_none()
            && self.after.is_none()
            && self.before.is_none()
            && self.ids.is_none()
    }
}

/// A message found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its id, which tells when it came.
    pub id: ArchiveId,
    /// As its recipient read it.
    pub stanza: Box<[u8]>,
}

/// A page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Its messages, in order.
    pub items: Vec<Item>,
    /// Whether nothing was left out for want of room, in the direction of the page.
    pub complete: bool,
    /// How many messages there are in all, if the query is of all.
    pub count: Option<u32>,
}

/// Why there is no page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryError {
    /// A message that was named is not in the archive (§4.1.3, §4.3.2).
    NotFound,
    /// A page can't be asked for by its place (XEP-0059 §2.6).
    Unsupported,
    /// There is no archive.
    NoArchive,
    /// The store can't.
    Store(StoreError),
}

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Reads a page. `item_bytes` are counted for each message beside its own, for what is written around it.
///
/// # Errors
/// [`QueryError`].
pub async fn query<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    config: &ArchiveConfig,
    query: &Query,
    item_bytes: usize,
    unix_millis: u64,
) -> Result<Found, QueryError> {
    let head = head(store, owner, config, unix_millis).await?;
    let named = |text: &String| ArchiveId::parse(text).ok_or(QueryError::NotFound);
    let floor = config.limits.floor(unix_millis);
    let mut range = Range { least: floor, most: u64::MAX };
    if let Some(start) = query.start {
        range.least = range.least.max(ArchiveId::first_of(start));
    }
    if let Some(end) = query.end {
        range.most = range.most.min(ArchiveId::last_of(end));
    }
    let (mut after, mut before) = (Vec::new(), Vec::new());
    after.extend(query.after.as_ref().map(named).transpose()?);
    before.extend(query.before.as_ref().map(named).transpose()?);
    match &query.page.start {
        Start::First | Start::Index(0) | Start::Last => {}
        Start::After(id) => after.push(named(id)?),
        Start::Before(id) => before.push(named(id)?),
        Start::Index(_) => return Err(QueryError::Unsupported),
    }
    let mut ids: Vec<ArchiveId> = query.ids.iter().flatten().map(named).collect::<Result<_, _>>()?;
    ids.sort_unstable();
    ids.dedup();
    for &id in after.iter().chain(&before).chain(&ids) {
        let key = key::archived_message(owner, id.0);
        if id.0 < floor || store.get(Table::Archives, &key).await?.is_none() {
            return Err(QueryError::NotFound);
        }
    }
    for id in after {
        range.least = range.least.max(id.0.saturating_add(1));
    }
    for id in before {
        range.most = range.most.min(id.0.saturating_sub(1));
    }
    let backwards = query.page.is_backwards();
    let mut page = Collected {
        items: Vec::new(),
        len: query.page.page_len(config.limits.page_max as usize),
        bytes_left: config.limits.page_bytes_max as usize,
        item_bytes,
        with: query.with.as_ref(),
    };
    let complete = if query.ids.is_some() {
        page.collect_named(store, owner, &ids, range, backwards).await?
    } else {
        page.collect(store, owner, range, backwards).await?
    };
    if backwards {
        page.items.reverse();
    }
    Ok(Found { items: page.items, complete, count: query.is_of_all().then_some(head.count) })
}

/// The first and the last message of an archive (§5); `None` if it is empty.
///
/// # Errors
/// [`QueryError`].
pub async fn ends<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    config: &ArchiveConfig,
    unix_millis: u64,
) -> Result<Option<(ArchiveId, ArchiveId)>, QueryError> {
    head(store, owner, config, unix_millis).await?;
    let range = Range { least: config.limits.floor(unix_millis), most: u64::MAX };
    let mut ends = [None, None];
    for (end, backwards) in ends.iter_mut().zip([false, true]) {
        let run = Run { limit: 1, ..slice(owner, range.keys(owner), backwards) };
        *end = store.run(run).await?.first().map(|pair| item(owner, pair)).transpose()?;
    }
    let [first, last] = ends.map(|end| end.map(|(id, _)| id));
    Ok(first.zip(last))
}

/// What an archive holds, once it is rid of what is too old.
async fn head<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    config: &ArchiveConfig,
    unix_millis: u64,
) -> Result<Head, QueryError> {
    match trim(store, owner, config, unix_millis).await {
        Ok(_) => {}
        Err(CommitError::Guard(_)) => return Err(QueryError::NoArchive),
        // It can be read all the same; what is too old is left out.
        Err(CommitError::Store(StoreError::Busy | StoreError::Failed)) => {}
        Err(CommitError::Store(error)) => return Err(error.into()),
    }
    let record = store.get(Table::Archives, &key::archive_head(owner)).await?;
    Ok(Head::decode(&record.ok_or(QueryError::NoArchive)?)?)
}

/// Ids from one to another, both included.
#[derive(Debug, Clone, Copy)]
struct Range {
    least: u64,
    most: u64,
}

impl Range {
    /// The keys around it, outside of it.
    fn keys(self, owner: JidRef<'_>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let after = self.least.checked_sub(1).map(|id| key::archived_message(owner, id));
        let before = self.most.checked_add(1).map(|id| key::archived_message(owner, id));
        (after, before)
    }
}

/// A page being filled.
struct Collected<'a> {
    items: Vec<Item>,
    len: usize,
    bytes_left: usize,
    item_bytes: usize,
    with: Option<&'a Jid>,
}

impl Collected<'_> {
    /// Takes messages of a range; whether there were no more.
    async fn collect<S: Store>(
        &mut self,
        store: &S,
        owner: JidRef<'_>,
        range: Range,
        backwards: bool,
    ) -> Result<bool, StoreError> {
        let (mut after, mut before) = range.keys(owner);
        if range.least > range.most {
            return Ok(true);
        }
        loop {
            let run = slice(owner, (after.clone(), before.clone()), backwards);
            let pairs = store.run(run).await?;
            let Some((last, _)) = pairs.last() else { return Ok(true) };
            *(if backwards { &mut before } else { &mut after }) = Some(last.clone());
            for pair in &pairs {
                let (id, entry) = item(owner, pair)?;
                if !self.take(id, entry) {
                    return Ok(false);
                }
            }
        }
    }

    /// Takes those of these messages that are in a range; whether there were no more.
    async fn collect_named<S: Store>(
        &mut self,
        store: &S,
        owner: JidRef<'_>,
        ids: &[ArchiveId],
        range: Range,
        backwards: bool,
    ) -> Result<bool, StoreError> {
        let mut ids: Vec<ArchiveId> =
            ids.iter().copied().filter(|id| (range.least..=range.most).contains(&id.0)).collect();
        if backwards {
            ids.reverse();
        }
        for id in ids {
            let key = key::archived_message(owner, id.0);
            let Some(record) = store.get(Table::Archives, &key).await? else { continue };
            let (id, entry) = item(owner, &(key, record))?;
            if !self.take(id, entry) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes a message if it is asked for; `false` if it is and there is no room for it.
    fn take(&mut self, id: ArchiveId, entry: Entry) -> bool {
        if self.with.is_some_and(|with| !matches(with, &entry.with)) {
            return true;
        }
        let bytes = entry.stanza.len() + self.item_bytes + OVERHEAD_BYTES as usize;
        let fits = bytes <= self.bytes_left || (self.items.is_empty() && self.len > 0);
        if self.items.len() >= self.len || !fits {
            return false;
        }
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.items.push(Item { id, stanza: entry.stanza });
        true
    }
}

/// Whether the other end of a message is who is asked for (§4.1.1). Asked for its owner, an archive gives what the owner
/// said to itself: only then is the owner the other end.
fn matches(with: &Jid, other: &str) -> bool {
    let (with, other) = (with.as_jid(), JidRef::from_normal(other));
    with == other || (with.is_bare() && with == other.bare())
}
