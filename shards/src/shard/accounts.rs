//! The accounts that have sessions on this shard, found by the keyed hash of their bare JID.

use hashbrown::HashTable;
use plaza_core::jid::{Jid, JidRef};
use slab::Slab;
use smallvec::SmallVec;

/// An account with at least one session.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) bare: Jid,
    hash: u64,
    /// Slab indices of its sessions, in order of bind.
    pub(super) sessions: SmallVec<[u32; 2]>,
}

/// The table of them.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    table: HashTable<u32>,
    slab: Slab<Account>,
}

impl Accounts {
    pub(super) fn find(&self, hash: u64, jid: JidRef<'_>) -> Option<&Account> {
        let bare = jid.bare().as_str();
        let found = self.table.find(hash, |&index| {
            self.slab.get(index as usize).is_some_and(|account| account.hash == hash && account.bare.as_str() == bare)
        })?;
        self.slab.get(*found as usize)
    }

    /// The account's index; made if it has no session yet.
    pub(super) fn find_or_insert(&mut self, hash: u64, bare: &Jid) -> u32 {
        let slab = &mut self.slab;
        let entry = self.table.entry(
            hash,
            |&index| slab.get(index as usize).is_some_and(|account| account.hash == hash && account.bare == *bare),
            |&index| slab.get(index as usize).map_or(0, |account| account.hash),
        );
        match entry {
            hashbrown::hash_table::Entry::Occupied(entry) => *entry.get(),
            hashbrown::hash_table::Entry::Vacant(entry) => {
                let index = slab.insert(Account { bare: bare.clone(), hash, sessions: SmallVec::new() });
                let index = u32::try_from(index).expect("sessions are fewer than 2³²");
                entry.insert(index);
                index
            }
        }
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Account> {
        self.slab.get_mut(index as usize)
    }

    /// Takes a session out of its account, and the account out if that was the last one.
    pub(super) fn unlink(&mut self, index: u32, session: u32) {
        let Some(account) = self.slab.get_mut(index as usize) else { return };
        account.sessions.retain(|candidate| *candidate != session);
        if account.sessions.is_empty() {
            let hash = account.hash;
            if let Ok(entry) = self.table.find_entry(hash, |&candidate| candidate == index) {
                entry.remove();
            }
            self.slab.remove(index as usize);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }
}
