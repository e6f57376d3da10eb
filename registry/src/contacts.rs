//! Contacts: what a home shard keeps of a roster in memory, to broadcast presence and to judge who asks.
//!
//! Names and groups stay in the store. All addresses share one text, so that twenty contacts of 25 bytes take 660 bytes
//! and two allocations.

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
        Self::collect(items.iter().map(|item| (item.jid.as_str(), flags(item.state()))))
    }

    fn collect<'a>(contacts: impl Iterator<Item = (&'a str, u8)>) -> Self {
        let (mut text, mut entries) = (String::new(), Vec::new());
        for (jid, flags) in contacts {
            text.push_str(jid);
            // Rosters are bounded in items, and items in bytes, far below.
            entries.push(Entry { end: u32::try_from(text.len()).unwrap_or(u32::MAX), flags });
        }
        Self { text: text.into(), entries: entries.into() }
    }

    /// Each with how it stands.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (JidRef<'_>, State)> {
        self.raw().map(|(jid, flags)| (JidRef::from_normal(jid), state(flags)))
    }

    fn raw(&self) -> impl ExactSizeIterator<Item = (&str, u8)> {
        let mut start = 0;
        self.entries.iter().map(move |entry| {
            let end = entry.end as usize;
            let jid = self.text.get(start..end).unwrap_or_default();
            start = end;
            (jid, entry.flags)
        })
    }

    /// How a contact stands, by its bare JID; a stranger does not at all.
    pub fn get(&self, contact: JidRef<'_>) -> State {
        self.find(contact).unwrap_or_default()
    }

    /// How a contact stands, by its bare JID; `None` if it is not in the roster.
    pub fn find(&self, contact: JidRef<'_>) -> Option<State> {
        let bare = contact.bare().as_str();
        let address = |at: usize| {
            let start = at.checked_sub(1).and_then(|before| self.entries.get(before)).map_or(0, |entry| entry.end);
            let end = self.entries.get(at).map_or(0, |entry| entry.end);
            self.text.get(start as usize..end as usize).unwrap_or_default()
        };
        let (mut low, mut high) = (0, self.entries.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match address(middle).cmp(bare) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    return self.entries.get(middle).map(|entry| state(entry.flags));
                }
            }
        }
        None
    }

    /// Whether a contact is in the roster, by its bare JID: not one that has merely asked.
    pub fn lists(&self, contact: JidRef<'_>) -> bool {
        let asks = State { pending_in: true, ..State::default() };
        self.find(contact).is_some_and(|state| state != asks)
    }

    /// Sets how a contact stands; a contact that does not stand at all goes unless `keep`.
    pub fn set(&mut self, contact: &Jid, new: Option<State>) {
        let bare = contact.as_jid().bare();
        let mut contacts: Vec<(&str, u8)> = self.raw().filter(|(jid, _)| *jid != bare.as_str()).collect();
        if let Some(new) = new {
            let at = contacts.partition_point(|(jid, _)| *jid < bare.as_str());
            contacts.insert(at, (bare.as_str(), flags(new)));
        }
        let changed = Self::collect(contacts.into_iter());
        *self = changed;
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
    use std::collections::BTreeMap;

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
            let listed: Vec<_> = contacts.iter().map(|(jid, state)| (jid.to_jid(), state)).collect();
            let mut expected: Vec<_> = model.iter().map(|(jid, &state)| (jid.clone(), state)).collect();
            expected.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
            prop_assert_eq!(listed, expected);
            prop_assert_eq!(contacts.requests(), model.values().filter(|state| state.pending_in).count());
            for number in 0..40 {
                let jid = Jid::parse(&format!("c{number}@b")).unwrap();
                let full = jid.with_resource("r").unwrap();
                prop_assert_eq!(contacts.get(full.as_jid()), model.get(&jid).copied().unwrap_or_default());
            }
        }
    }
}
