//! What devices have to be told, read from the store when they are there.
//!
//! Called by [`crate::errands`] on behalf of the account's home shard.

use plaza_core::jid::Jid;
use plaza_core::thing::NodeName;

use super::change::note_outage;
use super::{Notice, load_all, notices};
use crate::store::{Store, StoreError};

/// Notices read at once, or a few more. What is beyond comes when those have been heard.
const UNTOLD_MAX: usize = 64;
/// Things read at once while looking for them.
const PAGE: usize = 256;

/// What a device was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Of which thing.
    pub node: NodeName,
    /// What.
    pub notice: Notice,
    /// [`super::ThingRecord::version`] then: what came since has to be told as well.
    pub version: u64,
    /// The version in which the last of what it has to be told came.
    pub since: u64,
}

impl Told {
    /// Whether who was told this was told `other` by it.
    pub fn covers(&self, other: &Self) -> bool {
        self.notice == other.notice && self.node == other.node && other.since <= self.version
    }
}

/// What the devices of an account have to be told, each with the payload of the set that tells it: also that what they asked
/// before an outage may have had no answer.
///
/// # Errors
/// [`StoreError`].
pub async fn untold<S: Store>(store: &S, jid: &Jid) -> Result<Vec<(Told, String)>, StoreError> {
    note_outage(store, jid).await?;
    let mut untold = Vec::new();
    let mut after = None;
    loop {
        let page = load_all(store, jid, after.as_ref(), PAGE).await?;
        for thing in page.iter().filter(|thing| thing.pending.any()) {
            let told =
                |notice| Told { node: thing.node.clone(), notice, version: thing.version, since: thing.pending.since };
            untold.extend(notices(thing).into_iter().map(|(notice, payload)| (told(notice), payload)));
        }
        if page.len() < PAGE || untold.len() >= UNTOLD_MAX {
            return Ok(untold);
        }
        after = page.into_iter().last().map(|thing| thing.node);
    }
}
