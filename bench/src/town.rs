//! A town: accounts as the load tool names them, the first of them devices with a thing each, and rules about these.
//!
//! What is allowed follows from numbers alone, so that the load tool's `decisions` knows what to expect. Of the rules of
//! thing `i`, the first denies everybody to read, the second allows it to all of [`PARTNERS`]; number `k` is about the JID
//! `friend{i + k}` and allows unless `i + k` is a multiple of three: reading (`k` mod 4 is 2), control (3), friendship (0),
//! and reading Temperature alone (1).

use plaza_core::iot::Generation;
use plaza_core::jid::Jid;
use plaza_core::provisioning::{Categories, Kind};
use plaza_core::thing::NodeName;
use plaza_core::thing::wire::Style;
use plaza_registry::accounts::{self, NewKeys};
use plaza_registry::provisioning::{Level, Rule};
use plaza_registry::store::Write;
use plaza_registry::things::{State, ThingRecord, settle};

use crate::things;

/// The domain whose JIDs may all read.
pub const PARTNERS: &str = "partners.example";
/// Rules of a thing that has any: fewer would leave out what is asked about.
pub const RULES_MIN: u64 = 3;

/// How large a town is, and how its accounts are called.
#[derive(Debug, Clone)]
pub struct Town {
    /// Their domain.
    pub domain: String,
    /// Prefix of their names.
    pub users: String,
    /// Accounts.
    pub accounts: u64,
    /// So many of them, the first, are devices with a thing; it belongs to one of the rest, or to a neighbour if there is
    /// no rest.
    pub things: u64,
    /// Rules of each thing: none, or at least [`RULES_MIN`].
    pub rules: u64,
}

impl Town {
    /// The bare JID of an account.
    ///
    /// # Panics
    /// If prefix and domain make no address: whoever builds a town has checked that.
    pub fn jid(&self, number: u64) -> Jid {
        Jid::parse(&format!("{}{number}@{}", self.users, self.domain)).expect("prefix and domain make an address")
    }

    /// All that is stored of an account. `keys`: of the one password that all accounts have; `now` in seconds.
    pub fn writes(&self, number: u64, keys: &NewKeys, now: u64) -> Vec<Write> {
        let jid = self.jid(number);
        let mut writes = vec![accounts::settle(jid.as_jid(), keys, now)];
        if number < self.things {
            let thing = self.thing(number, &jid, now * 1_000);
            writes.extend(settle(jid.as_jid(), &[thing]));
            let rules = (0..self.rules).map(|rule| self.rule(number, rule, now * 1_000));
            writes.extend(rules.map(|rule| rule.put(jid.as_jid(), &NodeName::default())));
        }
        writes
    }

    fn owner(&self, number: u64) -> Jid {
        let rest = self.accounts - self.things;
        self.jid(match number.checked_rem(rest) {
            Some(place) => self.things + place,
            None => (number + 1) % self.accounts,
        })
    }

    fn thing(&self, number: u64, jid: &Jid, now: u64) -> ThingRecord {
        ThingRecord {
            state: State::Claimed { owner: self.owner(number), public: true, removed: false },
            style: Style::of(Generation::Nf),
            device: Some(Generation::Nf),
            tags: things::thing(number).1,
            created: now,
            updated: now,
            ..ThingRecord::new(jid.clone(), NodeName::default())
        }
    }

    fn rule(&self, thing: u64, rule: u64, now: u64) -> Rule {
        let friend = thing + rule;
        let (kind, names) = match rule % 4 {
            0 if rule > 0 => (Kind::Friend, None),
            1 if rule > 1 => (Kind::Read, Some([Box::from("Temperature")].into())),
            3 => (Kind::Control, None),
            _ => (Kind::Read, None),
        };
        let (level, text, allow) = match rule {
            0 => (Level::All, String::new(), false),
            1 => (Level::Domain, PARTNERS.to_owned(), true),
            _ => (Level::Jid, format!("friend{friend}@{}", self.domain), !friend.is_multiple_of(3)),
        };
        let categories = if kind == Kind::Read { Categories::ALL } else { kind.categories() };
        Rule { number: now + rule, text: text.into(), names, kind, level, allow, categories }
    }
}

#[cfg(test)]
mod tests {
    use plaza_core::thing::TagValue;
    use plaza_registry::provisioning::{HomeThings, answer};
    use plaza_registry::store::memory::MemoryStore;
    use plaza_registry::store::{Batch, Store};
    use plaza_registry::things::{load, owned};
    use plaza_registry::wait::block_on;

    use super::*;

    fn filled(town: &Town) -> MemoryStore {
        let (store, keys) = (MemoryStore::new(), NewKeys::derive("secret", &[7; 32], 1).unwrap());
        for number in 0..town.accounts {
            let writes = town.writes(number, &keys, 1_000);
            block_on(store.commit(Batch { guards: Vec::new(), writes })).unwrap();
        }
        store
    }

    fn town(accounts: u64, things: u64, rules: u64) -> Town {
        Town { domain: "localhost".to_owned(), users: "load".to_owned(), accounts, things, rules }
    }

    #[test]
    fn rules_decide_as_the_load_tool_expects_and_leave_nothing_open() {
        let town = town(8, 6, 10);
        let store = filled(&town);
        for number in 0..6 {
            let jid = town.jid(number);
            let home = block_on(HomeThings::load(&store, jid.as_jid())).unwrap().unwrap();
            for (asker, allowed) in [
                (format!("friend{}@localhost", number + 2), !(number + 2).is_multiple_of(3)),
                (format!("friend{}@localhost", number + 5), !(number + 5).is_multiple_of(3)),
                (format!("friend{number}@{PARTNERS}"), true),
                (format!("friend{number}@elsewhere.example"), false),
            ] {
                let question = format!(
                    "<canRead xmlns='urn:nf:iot:prov:d:1.0' jid='{asker}' m='true' i='true'>\
                     <f n='Humidity'/><f n='Temperature'/></canRead>"
                );
                let answered = answer(
                    Some(&*home),
                    jid.as_jid(),
                    "things.localhost",
                    &question,
                    (&plaza_registry::provisioning::Proofs::default(), 0),
                )
                .unwrap();
                let text = String::from_utf8(answered.payload).unwrap();
                assert!(text.contains(&format!("result='{allowed}'")), "{number}, {asker}: {text}");
                assert!(answered.after.inquiry.is_none(), "{number}, {asker}");
            }
        }
    }

    #[test]
    fn a_thing_says_what_the_load_tool_searches_for() {
        let (_, tags) = things::thing(7);
        let says = |name: &str| tags.iter().find(|tag| tag.is(name)).map(|tag| tag.value.clone());
        for (name, value) in [("SN", "YLYUH5JGU4ICJ"), ("CITY", "City of 304"), ("CLASS", "Sensor")] {
            assert_eq!(says(name), Some(TagValue::Str(value.into())));
        }
        assert_eq!((says("LAT"), says("LON")), (Some(TagValue::Num(2.140968)), Some(TagValue::Num(33.751625))));
    }

    #[test]
    fn things_are_listed_and_somebodys_and_the_rest_are_accounts_alone() {
        for (town, owner) in [(town(8, 6, 0), 7), (town(6, 6, 3), 4)] {
            let store = filled(&town);
            let thing = block_on(load(&store, &town.jid(3), &NodeName::default())).unwrap().unwrap();
            assert!(thing.is_listed() && thing.owner() == Some(&town.jid(owner)) && thing.tags.len() == 8);
            let owned = block_on(owned(&store, town.jid(owner).as_jid(), None, 9)).unwrap();
            assert!(owned.contains(&(town.jid(3), NodeName::default())));
            assert!(block_on(accounts::load(&store, town.jid(town.accounts - 1).as_jid())).unwrap().is_some());
            assert_eq!(block_on(load(&store, &town.jid(7), &NodeName::default())).unwrap(), None);
        }
    }
}
