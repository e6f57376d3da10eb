//! Forgetting an entity: what an account that is removed has at the nodes of others goes with it.
//!
//! Its own nodes lie below its key and go with the account; its affiliations and subscriptions lie with the nodes they are to.
//! A service's node that loses its last owner goes, too, since nobody could ever change it; its subscribers are not told.

use std::collections::BTreeMap;

use plaza_core::jid::Jid;

use super::call::{ATTEMPTS_MAX, Call};
use super::error::Refusal;
use super::keys::{rest, rest_subscription};
use super::record::Affiliation;
use crate::store::{Store, StoreError, Table};

impl<S: Store> Call<'_, S> {
    /// Takes the caller out of all nodes of this service.
    pub(super) async fn forget(&self) -> Result<(), Refusal> {
        let mut nodes: BTreeMap<String, Vec<Jid>> = BTreeMap::new();
        let prefix = self.keys.affiliations_of(self.caller);
        for (key, _) in self.store.scan(Table::PubSub, &prefix, None, usize::MAX).await? {
            nodes.entry(rest(&key, &prefix)?.to_owned()).or_default();
        }
        let prefix = self.keys.subscriptions_of(self.caller);
        for (key, _) in self.store.scan(Table::PubSub, &prefix, None, usize::MAX).await? {
            let (node, jid) = rest_subscription(&key, &prefix)?;
            nodes.entry(node).or_default().push(jid);
        }
        for (node, subscribed) in nodes {
            self.forget_at(&node, &subscribed).await?;
        }
        Ok(())
    }

    async fn forget_at(&self, id: &str, subscribed: &[Jid]) -> Result<(), Refusal> {
        let _turn = self.turn(id).await;
        for _ in 0..ATTEMPTS_MAX {
            // What only says where to look may outlive its node.
            let Some(mut loaded) = self.load(id).await? else { return Ok(()) };
            let affiliation = self.affiliation(id, self.caller).await?;
            if affiliation == Some(Affiliation::Owner) && loaded.node.owners <= 1 {
                let subscribers = self.all_subscribers(id).await?;
                if self.remove_node(&loaded, &subscribers).await? {
                    return Ok(());
                }
                continue;
            }
            let mut change = self.change(&loaded);
            if affiliation.is_some() {
                loaded.node.count_affiliation(affiliation, None);
                self.set_affiliation(&mut change, id, self.caller, None);
            }
            for jid in subscribed {
                let (_, stored) = self.subscription(id, jid.as_jid()).await?;
                self.set_subscription(&mut change, &mut loaded, jid.as_jid(), stored, None);
            }
            self.put_node(&mut change, id, &mut loaded.node);
            if self.commit(change).await? {
                return Ok(());
            }
        }
        Err(StoreError::Busy.into())
    }
}
