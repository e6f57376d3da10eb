//! How many strangers an account may address in a minute: those who are not its contacts (XEP-0205 v1.0 §5).

use plaza_core::jid::JidRef;
use plaza_core::stanza::{Class, IqType, MessageType, PresenceType};

use super::{SessionId, Shard};

/// Strangers that an account addressed in the present minute.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// Since 1970.
    minute: u64,
    /// Who was addressed last, contact or not: most go on with whom they wrote to.
    last: u32,
    /// Parts of their hashes, which differ from start to start: two in four billion are taken for one.
    seen: Vec<u32>,
}

impl Strangers {
    /// Heap bytes, its own included.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.seen.capacity() * size_of::<u32>()
    }
}

impl Shard {
    /// Whether a stanza is addressed to one stranger more than a session's account may address in a minute. Answers do not
    /// count, nor does the account itself.
    pub(super) fn addresses_too_many(&mut self, id: SessionId, class: Class, hash: u64, to: JidRef<'_>) -> bool {
        let max = self.config.strangers_per_minute_max as usize;
        let counts = match class {
            Class::Message(kind) => kind != MessageType::Error,
            Class::Iq(kind) => matches!(kind, IqType::Get | IqType::Set),
            Class::Presence(kind) => matches!(kind, PresenceType::Available | PresenceType::Probe),
        };
        let Some(index) = self.get(id).map(|session| session.account).filter(|_| counts && max > 0) else {
            return false;
        };
        let (minute, part) = (self.unix_millis / 60_000, (hash >> 32) as u32);
        let Some(account) = self.accounts.get_mut(index) else { return false };
        if account.hash == hash {
            return false;
        }
        let is_new = account.strangers.is_none();
        let strangers = account.strangers.get_or_insert_default();
        if strangers.minute != minute {
            (strangers.minute, strangers.last) = (minute, 0);
            strangers.seen.clear();
        }
        if strangers.last == part || strangers.seen.contains(&part) {
            strangers.last = part;
            return false;
        }
        // Whose contacts nobody knows at the moment is not held to it.
        let facts = account.facts.as_ref();
        let stands = facts.map(|facts| facts.contacts.get(to.bare()));
        let known = stands.is_none_or(|state| state.from || state.to);
        let is_too_many = !known && strangers.seen.len() >= max;
        if !is_too_many {
            strangers.last = part;
            if !known {
                strangers.seen.push(part);
            }
        }
        if is_new || !known {
            self.accounts.recount(index);
        }
        is_too_many
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use plaza_registry::rosters::Subscription;

    use super::super::testing::World;

    #[test]
    fn an_account_addresses_so_many_strangers_a_minute_and_its_contacts_as_often_as_it_likes() {
        let mut world = World::new();
        let [anna, friend] = ["anna", "friend"].map(|name| world.account(name, 0));
        world.stand(&anna, &friend, Subscription::Both, Subscription::Both);
        for shard in &mut world.shards {
            let config = super::super::ShardConfig { strangers_per_minute_max: 3, ..(*shard.config).clone() };
            shard.set_config(Arc::new(config));
            shard.set_time(60_000_000);
        }
        let (one, two) = (world.bind(&anna, "one"), world.bind(&anna, "two"));
        let ask = |world: &mut World, id, to: &str| {
            let text = format!("<iq type='get' id='q' to='{to}'><query xmlns='urn:example:x'/></iq>");
            world.say(&anna, id, &text);
            world.sent(&anna, id).contains("<too-many-stanzas xmlns='urn:xmpp:errors'/>")
        };
        let stranger = |number: u32| format!("stranger{number}@things.example/r");
        for (id, number) in [(one, 1), (two, 2), (one, 3), (two, 1)] {
            assert!(!ask(&mut world, id, &stranger(number)), "{number} is one of three");
        }
        assert!(ask(&mut world, one, &stranger(4)) && ask(&mut world, two, &stranger(5)), "resources share them");
        for to in [friend.as_str(), anna.as_str(), "things.example", "pubsub.things.example"] {
            assert!(!ask(&mut world, one, to), "{to} is no stranger");
        }
        assert!(!ask(&mut world, one, &stranger(2)), "whom it addressed it may go on with");
        world.say(&anna, one, &format!("<iq type='result' id='q' to='{}'/>", stranger(6)));
        assert_eq!(world.sent(&anna, one), "", "answers are let through");
        for shard in &mut world.shards {
            shard.set_time(60_060_000);
        }
        assert!(!ask(&mut world, one, &stranger(4)), "the next minute begins anew");
    }
}
