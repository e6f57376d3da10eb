//! What publish-subscribe keeps about an entity: its own nodes, and what it is and has at the nodes of others.
//!
//! Called by [`crate::subject`] with each record below a host's prefix.

use plaza_core::jid::JidRef;
use serde_json::{Value, json};

use super::keys::{AFFILIATION, AFFILIATION_OF, CREATOR, ITEM, NODE, SUBSCRIPTION, SUBSCRIPTION_OF};
use super::record::{Affiliation, Item, NodeRecord, Subscription};
use crate::store::StoreError;
use crate::subject::is_of;

/// What a record is about another than its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trace {
    /// It is affiliated with a node, or subscribed to it: [`super::forget_at`] takes that away.
    Part(&'static str),
    /// That it has so many nodes here.
    Count,
    /// It made a node that others own now, or published an item: theirs.
    Author(&'static str),
}

/// The parts of a key behind the letter for what it is.
fn split(rest: &[u8]) -> Option<(u8, Vec<&str>)> {
    let (&letter, parts) = rest.split_first()?;
    Some((letter, std::str::from_utf8(parts).ok()?.split('\0').collect()))
}

/// A record of a host's own nodes, with the name of what it is. `None` for what only says where others are.
pub(crate) fn own(rest: &[u8], record: &[u8]) -> Result<Option<(&'static str, Value)>, StoreError> {
    let Some((letter, parts)) = split(rest) else { return Ok(None) };
    Ok(match (letter, &*parts) {
        (NODE, [node]) => {
            let NodeRecord { config, creator, created, items, .. } = NodeRecord::decode(record)?;
            let about = json!({
                "node": node, "title": config.title, "description": config.description, "access": config.access.name(),
                "creator": creator.as_str(), "created": created, "items": items,
            });
            Some(("nodes", about))
        }
        (ITEM, [node, id]) => {
            let Item { published, publisher, payload, .. } = Item::decode(record)?;
            let item = json!({
                "node": node, "id": id, "published": published, "publisher": publisher.as_str(), "payload": payload,
            });
            Some(("items", item))
        }
        (AFFILIATION, [node, jid]) => {
            let affiliation = Affiliation::decode(record)?.name();
            Some(("affiliations", json!({ "node": node, "jid": jid, "affiliation": affiliation })))
        }
        (SUBSCRIPTION, [node, jid]) => {
            let subscription = Subscription::decode(record)?;
            let (state, since) = (subscription.state(), subscription.since);
            Some(("subscriptions", json!({ "node": node, "jid": jid, "subscription": state, "since": since })))
        }
        _ => None,
    })
}

/// What a record says about an entity, by its bare JID.
pub(crate) fn trace(rest: &[u8], record: &[u8], entity: JidRef<'_>) -> Result<Option<Trace>, StoreError> {
    let Some((letter, parts)) = split(rest) else { return Ok(None) };
    let is = |jid: &str| is_of(jid, entity.as_str());
    Ok(match (letter, &*parts) {
        (AFFILIATION, [_, jid]) if is(jid) => Some(Trace::Part("affiliation")),
        (SUBSCRIPTION, [_, jid]) if is(jid) => Some(Trace::Part("subscription")),
        // The same again, by entity.
        (AFFILIATION_OF | SUBSCRIPTION_OF, [jid, ..]) if is(jid) => Some(Trace::Part("index of its nodes")),
        (CREATOR, [jid]) if is(jid) => Some(Trace::Count),
        (NODE, [_]) if is(NodeRecord::decode(record)?.creator.as_str()) => {
            Some(Trace::Author("node it created, kept if another owns it too"))
        }
        (ITEM, [_, _]) if is(Item::decode(record)?.publisher.as_str()) => {
            Some(Trace::Author("item it published, kept as long as its node"))
        }
        _ => None,
    })
}
