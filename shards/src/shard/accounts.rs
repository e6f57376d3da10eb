//! The accounts at home on this shard that are in memory, found by the keyed hash of their bare JID: those with sessions,
//! those with work under way, and as many others as there is room for.

use std::collections::VecDeque;

use hashbrown::HashTable;
use plaza_core::jid::{Jid, JidRef};
use plaza_registry::blocking::BlockList;
use plaza_registry::facts::Facts;
use slab::Slab;
use smallvec::SmallVec;

use super::strangers::Strangers;
use super::work::Work;

/// An account in memory.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) bare: Jid,
    pub(super) hash: u64,
    /// Slab indices of its sessions, in order of bind.
    pub(super) sessions: SmallVec<[u32; 2]>,
    /// Of these, how many want copies of messages (XEP-0280).
    pub(super) carbons: u16,
    /// What the store says of it; `None` until it was asked.
    pub(super) facts: Option<Box<Facts>>,
    /// Whom it blocks (XEP-0191); `None` nearly always. It came with the facts, and stays when they are forgotten.
    pub(super) blocked: Option<Box<BlockList>>,
    /// It has an archive, or nobody knows whether it has. It came with the facts.
    pub(super) may_archive: bool,
    /// A thing of it is enforced, or nobody knows whether one is. It came with the facts, and stays when they are forgotten.
    pub(super) may_enforce: bool,
    /// Its sessions are there and nobody knows yet whom it blocks: its facts were forgotten between login and bind, or it was
    /// brought back without them. Until they are loaded its stanzas wait, and so do others' to it.
    pub(super) unmet: bool,
    /// Questions to owners about it that are being asked.
    pub(super) inquiries: u8,
    /// Strangers it wrote to of late.
    pub(super) strangers: Option<Box<Strangers>>,
    /// What waits for the store; `None` nearly always.
    pub(super) work: Option<Box<Work>>,
    /// The store says that there is no such account: to be asked by everybody, and found out by nobody, it is remembered
    /// like facts are.
    pub(super) absent: bool,
    /// On the idle list.
    idle: bool,
    /// Bytes it was counted with there.
    counted: u32,
    /// Bytes it was last counted with among all.
    held: u32,
    /// Used since it came to the front of the idle list.
    touched: bool,
}

impl Account {
    /// Heap bytes, beside the entry.
    pub(super) fn heap_bytes(&self) -> usize {
        let spilled = if self.sessions.spilled() { self.sessions.capacity() * size_of::<u32>() } else { 0 };
        spilled + self.facts_bytes() + self.strangers.as_ref().map_or(0, |strangers| strangers.bytes())
    }

    /// Bytes of what is known of it.
    fn facts_bytes(&self) -> usize {
        let blocked = self.blocked.as_ref().map_or(0, |list| size_of::<BlockList>() + list.heap_bytes());
        let absent = if self.absent { size_of::<Self>() + self.bare.as_str().len() } else { 0 };
        self.facts.as_ref().map_or(0, |facts| facts.bytes()) + blocked + absent
    }

    fn is_idle(&self) -> bool {
        self.sessions.is_empty() && self.work.is_none()
    }
}

/// The table of them.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    table: HashTable<u32>,
    slab: Slab<Account>,
    /// Accounts that may be forgotten, the least recently used first.
    idle: VecDeque<u32>,
    /// Bytes of their facts.
    idle_bytes: usize,
    /// Bytes of all in memory, as they were last counted.
    bytes: u64,
}

impl Accounts {
    pub(super) fn find(&self, hash: u64, jid: JidRef<'_>) -> Option<&Account> {
        self.slab.get(self.find_index(hash, jid)? as usize)
    }

    /// The account's index, if it is in memory.
    pub(super) fn find_index(&self, hash: u64, jid: JidRef<'_>) -> Option<u32> {
        let bare = jid.bare().as_str();
        self.table
            .find(hash, |&index| {
                self.slab
                    .get(index as usize)
                    .is_some_and(|account| account.hash == hash && account.bare.as_str() == bare)
            })
            .copied()
    }

    /// The account's index; made if it is not in memory.
    pub(super) fn find_or_insert(&mut self, hash: u64, bare: JidRef<'_>) -> u32 {
        if let Some(index) = self.find_index(hash, bare) {
            return index;
        }
        let account = Account {
            bare: bare.bare().to_jid(),
            hash,
            sessions: SmallVec::new(),
            carbons: 0,
            facts: None,
            blocked: None,
            may_archive: true,
            // Nobody logs in before the facts are there.
            may_enforce: false,
            unmet: false,
            inquiries: 0,
            strangers: None,
            work: None,
            absent: false,
            idle: false,
            counted: 0,
            held: 0,
            touched: false,
        };
        let index = u32::try_from(self.slab.insert(account)).expect("accounts in memory are fewer than 2³²");
        let slab = &self.slab;
        self.table.insert_unique(hash, index, |&index| slab.get(index as usize).map_or(0, |account| account.hash));
        self.recount(index);
        index
    }

    pub(super) fn get(&self, index: u32) -> Option<&Account> {
        self.slab.get(index as usize)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Account> {
        self.slab.get_mut(index as usize)
    }

    /// An account lost a session or ended its work: if nothing holds it any more, it goes, or waits on the idle list while
    /// there is room.
    pub(super) fn settle(&mut self, index: u32, idle_bytes_max: usize) {
        let Some(account) = self.slab.get_mut(index as usize) else { return };
        if !account.is_idle() {
            account.touched = true;
            return;
        }
        self.recount(index);
        let Some(account) = self.slab.get_mut(index as usize) else { return };
        if account.facts.is_none() && !account.absent {
            return self.remove(index);
        }
        if account.idle {
            account.touched = true;
            return;
        }
        account.counted = account.facts_bytes() as u32;
        self.idle_bytes += account.counted as usize;
        account.idle = true;
        account.touched = false;
        self.idle.push_back(index);
        self.trim(idle_bytes_max);
    }

    /// Forgets idle accounts until their facts take no more bytes than that.
    pub(super) fn trim(&mut self, idle_bytes_max: usize) {
        while self.idle_bytes > idle_bytes_max {
            let Some(index) = self.idle.pop_front() else {
                self.idle_bytes = 0;
                return;
            };
            // An account that was removed left its place in the list behind.
            let Some(account) = self.slab.get_mut(index as usize).filter(|account| account.idle) else { continue };
            account.idle = false;
            self.idle_bytes -= account.counted as usize;
            if !account.is_idle() {
                continue; // In use again: it comes back when it is not.
            }
            if std::mem::take(&mut account.touched) && idle_bytes_max > 0 {
                account.idle = true;
                account.counted = account.facts_bytes() as u32;
                self.idle_bytes += account.counted as usize;
                self.idle.push_back(index);
            } else {
                self.remove(index);
            }
        }
    }

    /// Replaces what is known of an account; the bytes of those on the idle list stay right.
    pub(super) fn set_facts(&mut self, index: u32, mut facts: Option<Box<Facts>>) {
        self.replace(index, |account| {
            if let Some(facts) = &mut facts {
                let blocked = std::mem::take(&mut facts.blocked);
                account.blocked = (!blocked.is_empty()).then(|| Box::new(blocked));
            }
            if let Some(facts) = &facts {
                account.may_enforce = facts.things.as_ref().is_some_and(|things| things.is_enforced());
            }
            account.may_archive = facts.as_ref().is_none_or(|facts| facts.archive.is_some());
            account.unmet &= facts.is_none();
            account.facts = facts;
            account.absent = false;
        });
    }

    /// There is no such account.
    pub(super) fn set_absent(&mut self, index: u32) {
        self.replace(index, |account| {
            (account.facts, account.blocked, account.absent) = (None, None, true);
            (account.may_enforce, account.unmet) = (false, false);
        });
    }

    /// Whether a thing of an account is enforced is not known until its facts are loaded.
    pub(super) fn doubt_enforced(&mut self, index: u32) {
        if let Some(account) = self.get_mut(index) {
            account.may_enforce = true;
        }
    }

    /// Replaces whom an account blocks.
    pub(super) fn set_blocked(&mut self, index: u32, list: BlockList) {
        self.replace(index, |account| account.blocked = (!list.is_empty()).then(|| Box::new(list)));
    }

    fn replace(&mut self, index: u32, set: impl FnOnce(&mut Account)) {
        let Some(account) = self.slab.get_mut(index as usize) else { return };
        set(account);
        if account.idle {
            self.idle_bytes -= account.counted as usize;
            account.counted = account.facts_bytes() as u32;
            self.idle_bytes += account.counted as usize;
        }
        self.recount(index);
    }

    fn remove(&mut self, index: u32) {
        let Some(account) = self.slab.try_remove(index as usize) else { return };
        self.bytes -= u64::from(account.held);
        if account.idle {
            self.idle_bytes -= account.counted as usize;
        }
        if let Ok(entry) = self.table.find_entry(account.hash, |&candidate| candidate == index) {
            entry.remove();
        }
    }

    /// Takes a session out of its account.
    pub(super) fn unlink(&mut self, index: u32, session: u32, idle_bytes_max: usize) {
        if let Some(account) = self.slab.get_mut(index as usize) {
            account.sessions.retain(|candidate| *candidate != session);
        }
        self.settle(index, idle_bytes_max);
    }

    /// Bytes of all of them.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// What is known of an account has grown or shrunk.
    pub(super) fn recount(&mut self, index: u32) {
        let Some(account) = self.slab.get_mut(index as usize) else { return };
        let now = u32::try_from(size_of::<Account>() + account.heap_bytes()).unwrap_or(u32::MAX);
        let was = std::mem::replace(&mut account.held, now);
        self.bytes = self.bytes - u64::from(was) + u64::from(now);
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Account> {
        self.slab.iter().map(|(_, account)| account)
    }
}
