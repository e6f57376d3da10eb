//! Contacts: what a home shard keeps of a roster in memory, to broadcast presence and to judge who asks.
//!
//! Names and groups stay in the store. All addresses share one text, so that twenty contacts of 25 bytes take 660 bytes
//! and two allocations.

use std::cmp::Ordering;

use plaza_core::jid::{Jid, JidRef};
use plaza_core::subscription::State;

use crate::rosters::RosterItem;

/// A roster's addresses and subscriptions, in the order of the addresses' bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contacts {
    /// The bare JIDs, one behind the other.
    text: Box<str>,
    entries: Box<[Entry]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// Where its address ends in the text.
    end: u32,
    flags: u8,
}

const TO: u8 = 1;
const FROM: u8 = 1 << 1;
const ASK: u8 = 1 << 2;
const PENDING_IN: u8 = 1 << 3;
const APPROVED: u8 = 1 << 4;

impl Contacts {
    /// Of a roster's items, in the order of their addresses.
    pub fn new(items: &[RosterItem]) -> Self {
        let mut text = String::with_capacity(items.iter().map(|item| item.jid.as_str().len()).sum());
        let entry = |item: &RosterItem| {
            text.push_str(item.jid.as_str());
            Entry { end: offset(text.len()), flags: flags(item.state()) }
        };
        let entries = items.iter().map(entry).collect();
        Self { text: text.into(), entries }
    }

    /// Those that stand as `wanted`.
    pub fn those(&self, wanted: impl Fn(State) -> bool) -> impl Iterator<Item = JidRef<'_>> {
        let chosen = self.entries.iter().enumerate().filter(move |(_, entry)| wanted(state(entry.flags)));
        chosen.map(|(at, _)| JidRef::from_normal(self.address(at)))
    }

    fn address(&self, at: usize) -> &str {
        let end = self.entries.get(at).map_or(0, |entry| entry.end as usize);
        self.text.get(self.start(at)..end).unwrap_or_default()
    }

    /// Where a contact's address begins in the text; for one more than there are, where the text ends.
    fn start(&self, at: usize) -> usize {
        at.checked_sub(1).and_then(|before| self.entries.get(before)).map_or(0, |entry| entry.end as usize)
    }

    /// Where a bare JID is, or would be.
    fn place(&self, bare: &str) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.entries.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.address(middle).cmp(bare) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// How a contact stands, by its bare JID; a stranger does not at all.
    pub fn get(&self, contact: JidRef<'_>) -> State {
        self.find(contact).unwrap_or_default()
    }

    /// How a contact stands, by its bare JID; `None` if it is not in the roster.
    pub fn find(&self, contact: JidRef<'_>) -> Option<State> {
        let at = self.place(contact.bare().as_str()).ok()?;
        self.entries.get(at).map(|entry| state(entry.flags))
    }

    /// Whether a contact is in the roster, by its bare JID: not one that has merely asked.
    pub fn lists(&self, contact: JidRef<'_>) -> bool {
        let asks = State { pending_in: true, ..State::default() };
        self.find(contact).is_some_and(|state| state != asks)
    }

    /// Sets how a contact stands; without `new` it goes.
    pub fn set(&mut self, contact: &Jid, new: Option<State>) {
        let bare = contact.as_jid().bare().as_str();
        match (self.place(bare), new) {
            (Ok(at), Some(new)) => {
                if let Some(entry) = self.entries.get_mut(at) {
                    entry.flags = flags(new);
                }
            }
            (Ok(at), None) => self.splice(at, 1, "", None),
            (Err(at), Some(new)) => self.splice(at, 0, bare, Some(flags(new))),
            (Err(_), None) => {}
        }
    }

    /// Puts an address, or none, in the place of `gone` contacts.
    fn splice(&mut self, at: usize, gone: usize, address: &str, flags: Option<u8>) {
        let (start, end) = (self.start(at), self.start(at + gone));
        let (before, after) = (self.text.get(..start).unwrap_or_default(), self.text.get(end..).unwrap_or_default());
        let text = [before, address, after].concat();
        let moved = |entry: &Entry| Entry { end: entry.end - offset(end - start) + offset(address.len()), ..*entry };
        let (first, rest) = (self.entries.iter().take(at), self.entries.iter().skip(at + gone));
        let new = flags.map(|flags| Entry { end: offset(start + address.len()), flags });
        let mut entries = Vec::with_capacity(self.entries.len() + 1 - gone);
        entries.extend(first.copied().chain(new).chain(rest.map(moved)));
        (self.text, self.entries) = (text.into(), entries.into());
    }

    /// Requests the owner has not answered.
    pub fn requests(&self) -> usize {
        self.entries.iter().filter(|entry| entry.flags & PENDING_IN != 0).count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.entries)
    }
}

/// Rosters are bounded in items, and items in bytes, far below.
fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

const fn flags(state: State) -> u8 {
    let State { to, from, ask, pending_in, approved } = state;
    (to as u8 * TO)
        | (from as u8 * FROM)
        | (ask as u8 * ASK)
        | (pending_in as u8 * PENDING_IN)
        | (approved as u8 * APPROVED)
}

const fn state(flags: u8) -> State {
    State {
        to: flags & TO != 0,
        from: flags & FROM != 0,
        ask: flags & ASK != 0,
        pending_in: flags & PENDING_IN != 0,
        approved: flags & APPROVED != 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn twenty_contacts_are_small() {
        let items: Vec<_> = (0..20)
            .map(|number| RosterItem::new(Jid::parse(&format!("device-{number:05}@things.example")).unwrap()))
            .collect();
        assert!(Contacts::new(&items).heap_bytes() <= 700);
    }

    proptest! {
        #[test]
        fn contacts_are_a_sorted_map(changes in prop::collection::vec((0_u8..40, prop::option::of(0_u8..32)), 0..60)) {
            let (mut contacts, mut model) = (Contacts::default(), BTreeMap::new());
            for (number, change) in changes {
                let jid = Jid::parse(&format!("c{number}@b")).unwrap();
                contacts.set(&jid, change.map(state));
                match change {
                    Some(flags) => drop(model.insert(jid, state(flags))),
                    None => drop(model.remove(&jid)),
                }
            }
            let listed: Vec<_> = contacts.those(|_| true).map(|jid| (jid.to_jid(), contacts.get(jid))).collect();
            let mut expected: Vec<_> = model.iter().map(|(jid, &state)| (jid.clone(), state)).collect();
            expected.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
            prop_assert_eq!(listed, expected);
            let seen = model.iter().filter(|(_, state)| state.from).map(|(jid, _)| jid.as_str());
            let seen: BTreeSet<_> = seen.collect();
            prop_assert_eq!(contacts.those(|state| state.from).map(JidRef::as_str).collect::<BTreeSet<_>>(), seen);
            prop_assert_eq!(contacts.requests(), model.values().filter(|state| state.pending_in).count());
            for number in 0..40 {
                let jid = Jid::parse(&format!("c{number}@b")).unwrap();
                let full = jid.with_resource("r").unwrap();
                prop_assert_eq!(contacts.get(full.as_jid()), model.get(&jid).copied().unwrap_or_default());
            }
        }
    }
}
