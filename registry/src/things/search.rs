//! Searching: what the registry asks of the index of things, and how it tells what was found (XEP-0347 §3.15).

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use plaza_core::jid::Jid;
use plaza_core::stanza::Condition;
use plaza_core::thing::wire::{self, Style};
use plaza_core::thing::{KEY, NodeName, Operator};

use super::{Config, ThingRecord, index, thing_key};
use crate::store::{Lookup, Store, Table};

/// An index of all things that strangers find.
pub trait Search: fmt::Debug + Send + Sync {
    /// A thing that is listed, or was, is another now, or no more: what it is the index reads from the store. Called after
    /// each commit, from any thread.
    fn changed(&self, jid: &Jid, node: &NodeName) -> Noting;
    /// Looks for things on behalf of somebody, in an order that stays the same from page to page. It sees all changes that
    /// were noted before.
    fn search(&self, searcher: &Jid, query: Query) -> Searching;
}

/// That an index has noted something.
pub type Noting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What an index answers, when it has found it.
pub type Searching = Pin<Box<dyn Future<Output = Result<Found, SearchError>> + Send>>;

impl Search for index::Handle {
    fn changed(&self, jid: &Jid, node: &NodeName) -> Noting {
        Box::pin(Self::changed(self, jid, node))
    }

    fn search(&self, searcher: &Jid, query: Query) -> Searching {
        Box::pin(Self::search(self, searcher, query))
    }
}

/// What to look for.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// A thing is found that passes all of them.
    pub operators: Vec<Operator>,
    /// Things to leave out at the beginning.
    pub offset: usize,
    /// Things to find at most.
    pub max: usize,
    /// How they are to be told, if the index is to do that.
    pub telling: Option<Telling>,
}

/// How things that were found are to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Telling {
    /// In which generation.
    pub style: Style,
    /// At how many bytes a page ends, unless it has only one thing.
    pub bytes_max: usize,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Which things, if they are not told.
    pub things: Vec<(Jid, NodeName)>,
    /// The things as they are told, if that was asked for and the index knows all that is said of them.
    pub told: Option<Vec<u8>>,
    /// Whether there are more behind them.
    pub more: bool,
}

/// Why nothing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchError {
    /// A regular expression is none, or of a kind that is not understood.
    BadPattern,
    /// It would take too much work.
    TooMuch,
    /// Too many searches are under way.
    Busy,
    /// The index is gone.
    Closed,
}

impl SearchError {
    const fn condition(self) -> Condition {
        match self {
            Self::BadPattern => Condition::BadRequest,
            Self::TooMuch | Self::Busy => Condition::ResourceConstraint,
            Self::Closed => Condition::InternalServerError,
        }
    }
}

impl fmt::Display for SearchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadPattern => "a regular expression is not well-formed",
            Self::TooMuch => "the search takes too much work",
            Self::Busy => "too many searches are under way",
            Self::Closed => "the search index is closed",
        })
    }
}

impl std::error::Error for SearchError {}

/// Searches, and writes what was found. The index tells it, which spares a page a hundred reads; what it does not know all
/// of is read from the store, where what is not listed any more is left out.
pub(super) async fn search<S: Store>(
    config: &Config,
    store: &S,
    searcher: &Jid,
    search: wire::Search,
    style: Style,
    now: u64,
) -> Result<Vec<u8>, Condition> {
    let Some(index) = &config.index else { return Err(Condition::ServiceUnavailable) };
    if !config.searchers.take(&[searcher.as_jid().bare().as_str()], now) {
        return Err(Condition::ResourceConstraint);
    }
    // No index has keys: this saves looking for one.
    let found = if search.operators.iter().any(|operator| operator.name.eq_ignore_ascii_case(KEY)) {
        Found::default()
    } else {
        let most = config.limits.page_max;
        let max = search.max.map_or(most, |max| max.min(most)) as usize;
        let telling = Telling { style, bytes_max: config.limits.reply_bytes_max as usize };
        let query = Query { operators: search.operators, offset: search.offset as usize, max, telling: Some(telling) };
        index.search(searcher, query).await.map_err(SearchError::condition)?
    };
    let (things, more) = match found.told {
        Some(told) => (told, found.more),
        None => read(config, store, found, style).await?,
    };
    let mut out = Vec::with_capacity(things.len() + 128);
    wire::begin_found(&mut out, style, more);
    out.extend_from_slice(&things);
    wire::end_found(&mut out);
    Ok(out)
}

/// Reads what is said of things that were found, and writes it; whether there is more.
async fn read<S: Store>(config: &Config, store: &S, found: Found, style: Style) -> Result<(Vec<u8>, bool), Condition> {
    let lookup = |(jid, node): &(Jid, NodeName)| {
        let key = thing_key(jid.as_jid(), node);
        Lookup { table: Table::Things, key, below: false }
    };
    let mut records = Vec::new();
    if !found.things.is_empty() {
        let lookups = found.things.iter().map(lookup).collect();
        records = store.look_up(lookups).await.map_err(|error| super::change::condition(&error))?;
    }
    let (mut things, mut more) = (Vec::new(), found.more);
    for ((jid, node), record) in found.things.into_iter().zip(records) {
        let Some(record) = record else { continue };
        let thing = ThingRecord::decode(&jid, node, &record.value).map_err(|error| super::change::condition(&error))?;
        if !thing.is_listed() {
            continue;
        }
        let end = things.len();
        let owner = thing.owner().map(Jid::as_jid);
        wire::thing(&mut things, style, jid.as_jid(), &thing.node, owner, &thing.tags);
        if end > 0 && things.len() > config.limits.reply_bytes_max as usize {
            things.truncate(end);
            more = true;
            break;
        }
    }
    Ok((things, more))
}
