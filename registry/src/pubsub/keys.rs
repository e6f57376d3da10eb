//! Keys in [`crate::store::Table::PubSub`]: where a service's nodes lie, and an account's.
//!
//! All of a service begins with its JID behind its slot, so that all of an account goes with it. Then comes a letter for
//! what it is. Neither node ids nor item ids nor addresses hold a NUL (XML 1.0 §2.2), so it separates them.

use plaza_core::jid::{Jid, JidRef};

use crate::store::{StoreError, key};

const SEPARATOR: u8 = 0;
pub(super) const NODE: u8 = b'n';
pub(super) const AFFILIATION: u8 = b'a';
pub(super) const AFFILIATION_OF: u8 = b'A';
pub(super) const SUBSCRIPTION: u8 = b's';
pub(super) const SUBSCRIPTION_OF: u8 = b'S';
const ORDER: u8 = b'o';
pub(super) const ITEM: u8 = b'i';
pub(super) const CREATOR: u8 = b'c';
const TOTAL: u8 = b't';

/// The keys of one service.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: Vec<u8>,
}

impl Keys {
    /// Those of the service with that address.
    pub(super) fn new(host: JidRef<'_>) -> Self {
        Self { prefix: key::pubsub(host) }
    }

    /// A node: its configuration and its counts.
    pub(super) fn node(&self, node: &str) -> Vec<u8> {
        self.of(NODE, &[node], false)
    }

    /// All nodes, in the order of their ids.
    pub(super) fn nodes(&self) -> Vec<u8> {
        self.of(NODE, &[], false)
    }

    /// The id of a node in a key of [`Self::node`].
    pub(super) fn node_id<'k>(&self, key: &'k [u8]) -> Result<&'k str, StoreError> {
        let id = key.strip_prefix(&*self.nodes()).ok_or(StoreError::Corrupt)?;
        std::str::from_utf8(id).map_err(|_| StoreError::Corrupt)
    }

    /// How an entity, by its bare JID, is affiliated with a node.
    pub(super) fn affiliation(&self, node: &str, entity: JidRef<'_>) -> Vec<u8> {
        self.of(AFFILIATION, &[node, entity.bare().as_str()], false)
    }

    /// All affiliations of a node.
    pub(super) fn affiliations(&self, node: &str) -> Vec<u8> {
        self.of(AFFILIATION, &[node], true)
    }

    /// That an entity is affiliated with a node.
    pub(super) fn affiliation_of(&self, entity: JidRef<'_>, node: &str) -> Vec<u8> {
        self.of(AFFILIATION_OF, &[entity.bare().as_str(), node], false)
    }

    /// All nodes that an entity is affiliated with.
    pub(super) fn affiliations_of(&self, entity: JidRef<'_>) -> Vec<u8> {
        self.of(AFFILIATION_OF, &[entity.bare().as_str()], true)
    }

    /// The subscription of an address to a node.
    pub(super) fn subscription(&self, node: &str, jid: JidRef<'_>) -> Vec<u8> {
        self.of(SUBSCRIPTION, &[node, jid.as_str()], false)
    }

    /// All subscriptions to a node.
    pub(super) fn subscriptions(&self, node: &str) -> Vec<u8> {
        self.of(SUBSCRIPTION, &[node], true)
    }

    /// The id of the node that a key of [`Self::subscription`] or [`Self::subscriptions`] is of, if it is one.
    pub(super) fn subscribed_node<'k>(&self, key: &'k [u8]) -> Option<&'k str> {
        let rest = key.strip_prefix(&*self.prefix)?.strip_prefix(&[SUBSCRIPTION])?;
        std::str::from_utf8(rest.split(|&byte| byte == SEPARATOR).next()?).ok()
    }

    /// That an address of an entity is subscribed to a node.
    pub(super) fn subscription_of(&self, jid: JidRef<'_>, node: &str) -> Vec<u8> {
        self.of(SUBSCRIPTION_OF, &[jid.bare().as_str(), node, jid.as_str()], false)
    }

    /// All nodes that an entity is subscribed to.
    pub(super) fn subscriptions_of(&self, entity: JidRef<'_>) -> Vec<u8> {
        self.of(SUBSCRIPTION_OF, &[entity.bare().as_str()], true)
    }

    /// The place of an item in the order of publication.
    pub(super) fn place(&self, node: &str, number: u64) -> Vec<u8> {
        let mut key = self.places(node);
        key.extend_from_slice(&number.to_be_bytes());
        key
    }

    /// All places of a node.
    pub(super) fn places(&self, node: &str) -> Vec<u8> {
        self.of(ORDER, &[node], true)
    }

    /// An item.
    pub(super) fn item(&self, node: &str, item: &str) -> Vec<u8> {
        self.of(ITEM, &[node, item], false)
    }

    /// All items of a node.
    pub(super) fn items(&self, node: &str) -> Vec<u8> {
        self.of(ITEM, &[node], true)
    }

    /// How many nodes an entity has created.
    pub(super) fn creator(&self, entity: JidRef<'_>) -> Vec<u8> {
        self.of(CREATOR, &[entity.bare().as_str()], false)
    }

    /// How many nodes there are.
    pub(super) fn total(&self) -> Vec<u8> {
        self.of(TOTAL, &[], false)
    }

    /// The parts with separators between them, and one behind the last if it is the prefix of more.
    fn of(&self, letter: u8, parts: &[&str], is_prefix: bool) -> Vec<u8> {
        let len = parts.iter().map(|part| part.len() + 1).sum::<usize>();
        let mut key = Vec::with_capacity(self.prefix.len() + 9 + len);
        key.extend_from_slice(&self.prefix);
        key.push(letter);
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                key.push(SEPARATOR);
            }
            key.extend_from_slice(part.as_bytes());
        }
        if is_prefix {
            key.push(SEPARATOR);
        }
        key
    }
}

/// What stands behind a prefix in a key, as text.
pub(super) fn rest<'k>(key: &'k [u8], prefix: &[u8]) -> Result<&'k str, StoreError> {
    let rest = key.strip_prefix(prefix).ok_or(StoreError::Corrupt)?;
    std::str::from_utf8(rest).map_err(|_| StoreError::Corrupt)
}

/// The address behind a prefix in a key.
pub(super) fn rest_jid(key: &[u8], prefix: &[u8]) -> Result<Jid, StoreError> {
    Jid::parse(rest(key, prefix)?).map_err(|_| StoreError::Corrupt)
}

/// The node and the address in a key of [`Keys::subscription_of`], behind the prefix of its entity.
pub(super) fn rest_subscription(key: &[u8], prefix: &[u8]) -> Result<(String, Jid), StoreError> {
    let (node, jid) = rest(key, prefix)?.split_once('\0').ok_or(StoreError::Corrupt)?;
    Ok((node.to_owned(), Jid::parse(jid).map_err(|_| StoreError::Corrupt)?))
}

/// The number in a key of [`Keys::place`], behind the prefix of its node.
pub(super) fn rest_number(key: &[u8], prefix: &[u8]) -> Result<u64, StoreError> {
    let number = key.strip_prefix(prefix).and_then(|rest| rest.try_into().ok()).ok_or(StoreError::Corrupt)?;
    Ok(u64::from_be_bytes(number))
}
