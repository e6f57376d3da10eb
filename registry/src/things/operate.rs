//! What operators do with things, and what becomes of them when an account goes.

use std::fmt;

use plaza_core::jid::{Jid, JidRef};
use plaza_core::stanza::Condition;
use plaza_core::thing::NodeName;

use super::change::{NotChanged, change};
use super::life::{Event, Said};
use super::{Config, ThingRecord, load, load_all, owned};
use crate::store::{Store, StoreError};

/// Things read at once.
const PAGE: usize = 100;

/// Why a thing was not given to somebody, or taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssignError {
    /// There is no such thing, or it is nobody's.
    NotFound,
    /// Who is to own it has no account.
    NoAccount,
    /// It is somebody else's.
    Owned(Jid),
    /// The store could not.
    Store(StoreError),
}

impl fmt::Display for AssignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("there is no such thing, or it is nobody's"),
            Self::NoAccount => f.write_str("there is no such account"),
            Self::Owned(owner) => write!(f, "it is {owner}'s"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for AssignError {}

impl From<StoreError> for AssignError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<NotChanged> for AssignError {
    fn from(error: NotChanged) -> Self {
        match error {
            NotChanged::Refused(_) => Self::NotFound,
            NotChanged::NoAccount => Self::NoAccount,
            // Nothing is registered here, so that there is always room.
            NotChanged::Full => Self::Store(StoreError::Failed),
            NotChanged::Store(error) => Self::Store(error),
        }
    }
}

/// Gives a thing to an account, whatever it says of itself and whether it is to be claimed or not. Its device is told.
///
/// # Errors
/// [`AssignError`].
pub async fn assign<S: Store>(
    config: &Config,
    store: &S,
    (jid, node): (&Jid, &NodeName),
    owner: &Jid,
    public: bool,
    now: u64,
) -> Result<ThingRecord, AssignError> {
    let event = Event::Assign { owner, public, id: config.claim_id(now) };
    let changed = change(config, store, Some(owner.as_jid()), (jid, node), event, now).await?;
    match changed.said {
        Said::Owned { owner, .. } => Err(AssignError::Owned(owner)),
        Said::Done | Said::Unowned => changed.thing.ok_or(AssignError::NotFound),
    }
}

/// Takes a thing from its owner without asking its device: that it learns when it says something of itself.
///
/// # Errors
/// [`AssignError`].
pub async fn release<S: Store>(
    config: &Config,
    store: &S,
    (jid, node): (&Jid, &NodeName),
    now: u64,
) -> Result<(), AssignError> {
    let thing = load(store, jid, node).await?;
    let thing = thing.ok_or(AssignError::NotFound)?;
    let owner = thing.owner().ok_or(AssignError::NotFound)?.as_jid();
    change(config, store, None, (jid, node), Event::Disown { owner, claim: Some(thing.claim_id) }, now).await?;
    Ok(())
}

/// Makes a thing nobody's if it is still this owner's, as [`release`] does.
///
/// # Errors
/// [`AssignError::Store`].
pub(crate) async fn let_go<S: Store>(
    config: &Config,
    store: &S,
    (jid, node): (&Jid, &NodeName),
    owner: JidRef<'_>,
    now: u64,
) -> Result<(), AssignError> {
    match change(config, store, None, (jid, node), Event::Disown { owner, claim: None }, now).await {
        // Somebody else was faster.
        Ok(_) | Err(NotChanged::Refused(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Has the broker apply a thing's rules to what others ask of it, or leaves that to its device again. Who takes the thing from
/// its owner ends it.
///
/// # Errors
/// [`AssignError::NotFound`], [`AssignError::Store`].
pub async fn enforce<S: Store>(
    config: &Config,
    store: &S,
    (jid, node): (&Jid, &NodeName),
    enforced: bool,
    now: u64,
) -> Result<ThingRecord, AssignError> {
    let changed = change(config, store, None, (jid, node), Event::Enforce(enforced), now).await?;
    changed.thing.ok_or(AssignError::NotFound)
}

/// As [`enforce`], for whoever asks; only the thing's owner may. Gives what the thing is now, and whether that is news to its
/// device's home.
///
/// # Errors
/// `item-not-found`, whether there is such a thing or not, and what the store could not.
pub(crate) async fn enforce_by<S: Store>(
    config: &Config,
    store: &S,
    (jid, node): (&Jid, &NodeName),
    owner: JidRef<'_>,
    enforced: bool,
    now: u64,
) -> Result<(ThingRecord, bool), Condition> {
    let event = Event::EnforceBy { owner, enforced };
    let changed = change(config, store, Some(owner), (jid, node), event, now).await?;
    Ok((changed.thing.ok_or(Condition::ItemNotFound)?, changed.concerns_home))
}

/// Lets go of all that an account has here, before it is removed: its own things are unregistered, those that it owns become
/// nobody's. Gives the accounts whose things changed, but for its own.
///
/// # Errors
/// [`AssignError::Store`]; what is done by then stays done.
pub async fn forget<S: Store>(
    config: &Config,
    store: &S,
    account: JidRef<'_>,
    now: u64,
) -> Result<Vec<Jid>, AssignError> {
    let account = account.bare().to_jid();
    loop {
        let things = load_all(store, &account, None, PAGE).await?;
        for thing in &things {
            change(config, store, None, (&account, &thing.node), Event::Unregister, now).await?;
        }
        if things.len() < PAGE {
            break;
        }
    }
    let (mut changed, mut after): (Vec<Jid>, Option<(Jid, NodeName)>) = (Vec::new(), None);
    loop {
        let behind = after.as_ref().map(|(jid, node)| (jid, node));
        let page = owned(store, account.as_jid(), behind, PAGE).await?;
        for (jid, node) in &page {
            let_go(config, store, (jid, node), account.as_jid(), now).await?;
            if changed.last() != Some(jid) {
                changed.push(jid.clone());
            }
        }
        if page.len() < PAGE {
            return Ok(changed);
        }
        after = page.into_iter().next_back();
    }
}
