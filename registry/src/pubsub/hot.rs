//! Hot nodes: the recipients of those that publish often, so that a publication does not read a thousand subscriptions
//! again.
//!
//! Entries are made and dropped by who has the node's turn ([`super::turns`]), and a change of a subscription drops the
//! node's entry before it is stored. So an entry is never older than the store. Nodes are left out whose recipients also
//! depend on something else: a roster, affiliations, the time.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::notify::Recipient;

/// Nodes remembered, each with at most [`super::RECIPIENTS_PAGE`] recipients: some 12 MiB. Beyond it all are forgotten, and
/// those that still publish come back.
const NODES_MAX: usize = 128;

/// The recipients by the node's key.
type Nodes = HashMap<Vec<u8>, Arc<[Recipient]>>;

/// Those remembered; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Hot {
    nodes: Arc<Mutex<Nodes>>,
}

impl Hot {
    pub(super) fn get(&self, node: &[u8]) -> Option<Arc<[Recipient]>> {
        self.lock().get(node).map(Arc::clone)
    }

    pub(super) fn put(&self, node: Vec<u8>, recipients: &[Recipient]) {
        let mut nodes = self.lock();
        if nodes.len() >= NODES_MAX {
            nodes.clear();
        }
        nodes.insert(node, recipients.into());
    }

    pub(super) fn drop_node(&self, node: &[u8]) {
        self.lock().remove(node);
    }

    fn lock(&self) -> MutexGuard<'_, Nodes> {
        // Nothing inside the lock can panic halfway, so a poisoned table is whole.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Hot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hot").field("nodes", &self.lock().len()).finish()
    }
}
