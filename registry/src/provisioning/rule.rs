//! Rules: what an owner has decided, as they lie in the store and as they are held in memory.

use plaza_core::jid::JidRef;
use plaza_core::provisioning::{Categories, Kind, Part};
use plaza_core::thing::NodeName;

#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::record::{Reader, flag, put_bytes, put_count};
use crate::store::{Pair, StoreError, Table, Write};
use crate::things::rules_prefix;

const VERSION: u8 = 1;
const SEPARATOR: u8 = 0;
/// Bytes of a rule's number and of the separator before it, the end of its key.
const NUMBER_BYTES: usize = 9;

/// How specific the origin of a rule is, the most specific first: the first that says something wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Who presents this token of a user.
    User = 1,
    /// Who presents this token of a device.
    Device = 2,
    /// Who presents this token of a service.
    Service = 3,
    /// This bare JID.
    Jid = 4,
    /// Everybody of this domain.
    Domain = 5,
    /// Everybody.
    All = 6,
}

impl Level {
    const ALL: [Self; 6] = [Self::User, Self::Device, Self::Service, Self::Jid, Self::Domain, Self::All];
}

/// A rule. About 80 bytes with what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// When it was made, in milliseconds since 1970, or later: a newer one has a greater number.
    pub number: u64,
    /// The token, JID or domain; empty for everybody.
    pub text: Box<str>,
    /// For which fields or parameters, in order; `None` is for all.
    pub names: Option<Box<[Box<str>]>>,
    /// What it is about.
    pub kind: Kind,
    /// Of whom.
    pub level: Level,
    /// What it says.
    pub allow: bool,
    /// For which categories.
    pub categories: Categories,
}

const _: () = assert!(size_of::<Rule>() <= 48);

impl Rule {
    /// Whether a newer rule of the same origin leaves nothing of this one.
    pub(super) fn is_replaced_by(&self, newer: &Self) -> bool {
        let same = (self.kind, self.level, &self.text) == (newer.kind, newer.level, &newer.text);
        let names = match (&self.names, &newer.names) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(own), Some(newer)) => own.iter().all(|name| newer.binary_search(name).is_ok()),
        };
        same && names && newer.categories.or(self.categories) == newer.categories
    }

    /// Whether it says something about all of a part.
    pub(super) fn covers(&self, part: &Part) -> bool {
        let names = match (&part.names, &self.names) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(asked), Some(own)) => asked.iter().all(|name| own.binary_search(name).is_ok()),
        };
        names && self.categories.or(part.categories) == self.categories
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let names = self.names.iter().flatten().map(|name| size_of::<Box<str>>() + name.len());
        self.text.len() + names.sum::<usize>()
    }

    /// What stores it. An owner's answer becomes rules by [`super::serve`], which keeps to the bounds there are.
    pub fn put(&self, device: JidRef<'_>, node: &NodeName) -> Write {
        Write::Put { table: Table::Rules, key: rule_key(device, node, self.number), value: self.encode() }
    }

    /// What deletes it.
    pub(super) fn delete(&self, device: JidRef<'_>, node: &NodeName) -> Write {
        Write::Delete { table: Table::Rules, key: rule_key(device, node, self.number) }
    }

    /// version · kind · level · flags · categories · text · names behind their count.
    fn encode(&self) -> Vec<u8> {
        let flags = flag(self.allow, 1) | flag(self.names.is_some(), 2);
        let mut out = vec![VERSION, self.kind as u8, self.level as u8, flags, self.categories.bits()];
        put_bytes(&mut out, self.text.as_bytes());
        if let Some(names) = &self.names {
            put_count(&mut out, names.len() as u64);
            names.iter().for_each(|name| put_bytes(&mut out, name.as_bytes()));
        }
        out
    }

    /// Reads the record of a rule.
    pub(super) fn decode(number: u64, record: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader::open(record, VERSION)?;
        let [kind, level, flags, categories] = reader.array()?;
        let kind = Kind::from_number(kind).ok_or(StoreError::Corrupt)?;
        let level = Level::ALL.into_iter().find(|&known| known as u8 == level).ok_or(StoreError::Corrupt)?;
        let categories = Categories::from_bits(categories).ok_or(StoreError::Corrupt)?;
        let text = reader.text()?.into();
        let names = if flags & 2 == 0 {
            None
        } else {
            let count = reader.count()?;
            let mut names = Vec::new();
            for _ in 0..count {
                names.push(reader.text()?.into());
            }
            Some(names.into())
        };
        reader.close()?;
        Ok(Self { number, text, names, kind, level, allow: flags & 1 != 0, categories })
    }
}

fn rule_key(device: JidRef<'_>, node: &NodeName, number: u64) -> Vec<u8> {
    let mut key = rules_prefix(device, node);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// A rule and the rest of its key behind that of its account: the key of its node.
pub(super) fn read_pair<'a>(prefix: &[u8], pair: &'a Pair) -> Result<(&'a str, Rule), StoreError> {
    let (key, record) = pair;
    read(key.get(prefix.len()..).ok_or(StoreError::Corrupt)?, record)
}

/// The same from the rest of the key.
pub(super) fn read<'a>(rest: &'a [u8], record: &[u8]) -> Result<(&'a str, Rule), StoreError> {
    let split = rest.len().checked_sub(NUMBER_BYTES).ok_or(StoreError::Corrupt)?;
    let (node, number) = rest.split_at(split);
    let (separator, number) = number.split_first_chunk::<1>().ok_or(StoreError::Corrupt)?;
    let number = number.try_into().map(u64::from_be_bytes).map_err(|_| StoreError::Corrupt)?;
    let node = std::str::from_utf8(node).map_err(|_| StoreError::Corrupt)?;
    if *separator != [SEPARATOR] { Err(StoreError::Corrupt) } else { Ok((node, Rule::decode(number, record)?)) }
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] = &[|record| Rule::decode(1, record).map(|rule| rule.encode())];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::key;
    use crate::testing::jid;

    fn rule(number: u64, names: Option<&[&str]>, bits: u8) -> Rule {
        let names = names.map(|names| names.iter().map(|&name| name.into()).collect());
        let categories = Categories::from_bits(bits).unwrap();
        Rule { number, text: "b@x.example".into(), names, kind: Kind::Read, level: Level::Jid, allow: true, categories }
    }

    #[test]
    fn a_rule_reads_back_and_a_part_of_it_does_not() {
        let (device, node) = (jid("lamp@things.example"), NodeName { id: "1".into(), ..NodeName::default() });
        for rule in [rule(7, None, 0x3f), rule(u64::MAX, Some(&["A", "T"]), 1)] {
            let Write::Put { key, value, .. } = rule.put(device.as_jid(), &node) else { panic!("it is stored") };
            let pair = (key, value.clone());
            let prefix = key::things(device.as_jid());
            assert_eq!(read_pair(&prefix, &pair), Ok(("\0\x001", rule.clone())));
            for len in 0..value.len() {
                assert!(Rule::decode(7, &value[..len]).is_err(), "{len}");
            }
            assert!(size_of::<Rule>() + rule.heap_bytes() <= 100);
        }
    }

    #[test]
    fn a_rule_is_replaced_by_a_newer_one_that_says_all_it_says() {
        let part = rule(1, Some(&["A"]), 0b11);
        assert!(part.is_replaced_by(&rule(2, None, 0x3f)));
        assert!(part.is_replaced_by(&rule(2, Some(&["A", "T"]), 0b11)));
        assert!(!part.is_replaced_by(&rule(2, Some(&["T"]), 0b11)));
        assert!(!part.is_replaced_by(&rule(2, None, 0b01)));
        assert!(!rule(1, None, 1).is_replaced_by(&rule(2, Some(&["A"]), 1)));
        assert!(!part.is_replaced_by(&Rule { text: "c@x.example".into(), ..rule(2, None, 0x3f) }));
        assert!(!part.is_replaced_by(&Rule { kind: Kind::Control, ..rule(2, None, 0x3f) }));
        assert!(!part.is_replaced_by(&Rule { level: Level::All, ..rule(2, None, 0x3f) }));
    }
}
