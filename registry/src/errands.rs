//! Errands: what an account's home shard asks of the store, by value, one at a time for each account.
//!
//! The shard makes an [`Errand`] and goes on; whoever runs it (the driver's tasks, the simulator) brings the [`Return`]
//! back. So nothing an account's order of events depends on is ever decided out of order.

use std::sync::Arc;

use plaza_core::jid::Jid;
use plaza_core::subscription::Request as Subscribing;

use crate::accounts::Account;
use crate::archive::{self, ArchiveId, Entry};
use crate::facts::{self, Facts};
use crate::offline::{self, OfflineHead, OfflineLimits, OfflineMessage};
use crate::rosters::{self, RosterError};
use crate::services::{self, Reply, Request, ServiceConfig};
use crate::store::{CommitError, Store, StoreError};
use crate::subscriptions::{self, Applied, Way};
use crate::things::{self, Told};
use crate::tokens::{self, Tokens};

/// What all errands need to know.
#[derive(Debug, Clone)]
pub struct ErrandConfig {
    /// Most roster items per account, open questions included.
    pub roster_items_max: u32,
    /// Most open questions per account. Default 100.
    pub requests_max: u32,
    /// Bounds of what is kept for who is away.
    pub offline: OfflineLimits,
    /// What services state.
    pub services: Arc<ServiceConfig>,
}

/// Something to fetch or to keep.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "named by what they are")]
pub enum Errand {
    /// The account's facts.
    Load,
    /// A subscription request, sent to `contact` or received from it.
    Subscription { contact: Jid, way: Way, request: Subscribing, stanza: Box<str>, requests_left: u32 },
    /// Messages for later; `head` counts them already.
    Keep { head: OfflineHead, messages: Vec<Box<[u8]>> },
    /// Messages for the account's archive, in order.
    Archive(Vec<Entry>),
    /// All messages kept.
    Fetch,
    /// Messages that were delivered; `head` counts them no more.
    Forget { head: OfflineHead, numbers: Vec<u64> },
    /// All open questions.
    Requests,
    /// The account's tokens, for those that were there.
    Tokens { account: Account, before: Tokens, after: Tokens },
    /// What the account's devices have to be told.
    Untold,
    /// A device has heard something.
    Heard(Box<Told>),
    /// An iq whose service changes what the facts say.
    Serve(Box<Request>),
}

/// What an errand brought.
#[derive(Debug)]
#[expect(missing_docs, reason = "each answers the errand of its name")]
pub enum Return {
    Load(Result<Option<Facts>, StoreError>),
    Subscription(Result<Applied, RosterError>),
    Keep(Result<(), CommitError>),
    Archive(Result<Vec<Option<ArchiveId>>, CommitError>),
    Fetch(Result<Vec<OfflineMessage>, StoreError>),
    Forget(Result<(), CommitError>),
    Requests(Result<Vec<Box<str>>, StoreError>),
    Tokens(Result<(), CommitError>),
    Untold(Result<Vec<(Told, String)>, StoreError>),
    Heard(Result<(), StoreError>),
    Serve(Box<Reply>),
}

/// Runs an errand for an account. What it keeps is durable when it resolves. `unix_millis`: the time on the wall.
pub async fn run<S: Store>(config: &ErrandConfig, store: &S, owner: &Jid, errand: Errand, unix_millis: u64) -> Return {
    let bare = owner.as_jid();
    match errand {
        Errand::Load => Return::Load(facts::load(store, bare).await),
        Errand::Subscription { contact, way, request, stanza, requests_left } => {
            let items_max = config.roster_items_max;
            let apply =
                subscriptions::apply(store, bare, contact.as_jid(), (way, request), &stanza, items_max, requests_left);
            Return::Subscription(apply.await)
        }
        Errand::Keep { head, messages } => {
            Return::Keep(offline::store(store, bare, head, &messages, bare.domain(), unix_millis).await)
        }
        Errand::Archive(entries) => {
            Return::Archive(archive::store(store, bare, &config.services.archive, &entries, unix_millis).await)
        }
        Errand::Fetch => Return::Fetch(offline::load(store, bare, &config.offline, unix_millis).await),
        Errand::Forget { head, numbers } => Return::Forget(offline::forget(store, bare, head, &numbers).await),
        Errand::Requests => {
            let items = rosters::load(store, bare).await;
            Return::Requests(items.map(|items| items.into_iter().filter_map(|item| item.request).collect()))
        }
        Errand::Tokens { account, before, after } => {
            Return::Tokens(tokens::keep(store, bare, &account, &before, &after).await)
        }
        Errand::Untold => Return::Untold(things::untold(store, owner).await),
        Errand::Heard(told) => {
            let Told { node, notice, version, since: _ } = *told;
            Return::Heard(things::acknowledged(store, owner, &node, notice, version).await)
        }
        Errand::Serve(mut request) => {
            request.unix_millis = unix_millis;
            Return::Serve(Box::new(services::answer(Arc::clone(&config.services), store.clone(), *request).await))
        }
    }
}
