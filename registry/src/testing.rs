//! What the tests of several rooms need.

use plaza_core::jid::Jid;
use plaza_core::sasl::scram::{Hash, Keys};

use crate::accounts::{self, NewKeys};
use crate::store::memory::MemoryStore;
use crate::wait::block_on;

pub(crate) fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

/// A store with this account and no other, created in the seventh second.
pub(crate) fn store_with(account: &Jid) -> MemoryStore {
    let keys = |hash, len| Keys {
        hash,
        salt: [1; 16].into(),
        iterations: 1,
        stored_key: vec![1; len].into(),
        server_key: vec![1; len].into(),
    };
    let keys = NewKeys { sha1: keys(Hash::Sha1, 20), sha256: keys(Hash::Sha256, 32) };
    let store = MemoryStore::new();
    block_on(accounts::create(&store, account.as_jid(), keys, false, 7)).unwrap();
    store
}
