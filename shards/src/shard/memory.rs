//! What a shard's memory is held by, counted as it is taken and given back, and what the shard gives up when there is too
//! little ([`Level`]).
//!
//! The control thread says how near the broker is to its bound ([`Shard::press`]). What was acknowledged is never given up: a
//! session that waits to be resumed hands on what it holds, as if its time were over.

use std::collections::{BTreeMap, VecDeque};

use super::session::Counted;
use super::{Effect, SessionId, Shard};
use crate::memory::{Level, Shed, Subsystem};

/// How near the broker is to its bound, and what this shard does about it.
#[derive(Debug, Default)]
pub(super) struct Pressed {
    level: Level,
    /// Sessions that wait to be resumed, in the order in which they were cut off.
    pub(super) asleep: BTreeMap<u64, SessionId>,
    /// The next one's place.
    next: u64,
    /// They hold more than they may, and the driver was asked to bring one of them to [`Shard::expire`].
    crowded: bool,
    /// Whose presence contacts are to be told of later.
    withheld: VecDeque<SessionId>,
}

impl Shard {
    /// From now on this level holds, and so many bytes of sessions that wait to be resumed are given up.
    pub fn press(&mut self, level: Level, excess: u64) {
        let was = std::mem::replace(&mut self.memory.level, level);
        if level >= Level::Short && was < Level::Short {
            let before = self.accounts.len();
            self.trim_facts(0);
            self.counters.sheds[Shed::Facts] += before.saturating_sub(self.accounts.len()) as u64;
            self.pool = Vec::new();
        }
        self.drop_oldest(excess, Shed::Hibernated);
    }

    /// Whether what can be done without is not done.
    pub(super) fn is_short(&self) -> bool {
        self.memory.level >= Level::Short
    }

    /// Bytes of facts of accounts that nobody uses.
    pub(super) fn facts_bytes_max(&self) -> usize {
        if self.is_short() { 0 } else { self.config.facts_bytes_max }
    }

    // ---- counting ----------------------------------------------------------------------------------------------

    /// Shows what is not counted where it changes; no walk over anything.
    pub fn show_memory(&mut self) {
        self.counters.memory[Subsystem::Facts] = self.accounts.bytes();
    }

    /// A session holds more, or less, than it did.
    pub(super) fn recount(&mut self, id: SessionId) {
        let Some(session) = self.get_mut(id) else { return };
        let now = session.count();
        let was = std::mem::replace(&mut session.counted, now);
        if was == now {
            return;
        }
        self.count(was, now);
        if now.hibernated && !self.memory.crowded && self.hibernated_excess() > 0 {
            self.memory.crowded = true;
            self.effects.push_back(Effect::Expire(id));
        }
    }

    /// A session is about to be taken out of the table.
    pub(super) fn discount(&mut self, id: SessionId) {
        let Some(session) = self.get_mut(id) else { return };
        let was = std::mem::take(&mut session.counted);
        self.count(was, Counted::default());
    }

    fn count(&mut self, was: Counted, now: Counted) {
        let memory = &mut self.counters.memory;
        if was.hibernated {
            memory[Subsystem::Hibernated] -= was.all();
        } else {
            memory[Subsystem::Sessions] -= u64::from(was.own);
            memory[Subsystem::Outboxes] -= u64::from(was.waiting);
        }
        if now.hibernated {
            memory[Subsystem::Hibernated] += now.all();
        } else {
            memory[Subsystem::Sessions] += u64::from(now.own);
            memory[Subsystem::Outboxes] += u64::from(now.waiting);
        }
    }

    // ---- sessions that wait to be resumed ----------------------------------------------------------------------

    /// A session was cut off.
    pub(super) fn falls_asleep(&mut self, id: SessionId) {
        self.memory.next += 1;
        let place = self.memory.next;
        let Some(managed) = self.get_mut(id).and_then(|session| session.managed.as_mut()) else { return };
        managed.place = place;
        self.memory.asleep.insert(place, id);
        self.recount(id);
    }

    /// Bytes that sessions hold which wait to be resumed, beyond their bound.
    fn hibernated_excess(&self) -> u64 {
        self.counters.memory[Subsystem::Hibernated].saturating_sub(self.config.managed.hibernated_bytes_max)
    }

    /// Gives up the oldest if they hold more than they may.
    pub(super) fn thin_out(&mut self) {
        if std::mem::take(&mut self.memory.crowded) {
            self.drop_oldest(self.hibernated_excess(), Shed::HibernatedShare);
        }
    }

    /// Gives up the oldest that wait to be resumed, until so many bytes are given back or none is left.
    fn drop_oldest(&mut self, bytes: u64, why: Shed) {
        let mut given = 0;
        while given < bytes {
            let Some((_, id)) = self.memory.asleep.pop_first() else { return };
            given += self.get(id).map_or(0, |session| session.counted.all());
            self.counters.sheds[why] += 1;
            self.give_up(id);
        }
    }

    // ---- presence ----------------------------------------------------------------------------------------------

    /// Contacts are told of a session's presence when there is memory again, of the last one if there are several.
    pub(super) fn withhold(&mut self, id: SessionId) {
        self.counters.sheds[Shed::Presence] += 1;
        if let Some(session) = self.get_mut(id)
            && !std::mem::replace(&mut session.flags.withheld, true)
        {
            self.memory.withheld.push_back(id);
        }
    }

    /// Whether presence was withheld that may be told now.
    pub fn may_announce(&self) -> bool {
        !self.is_short() && !self.memory.withheld.is_empty()
    }

    /// Tells contacts of so many presences that were withheld.
    pub fn announce_withheld(&mut self, most: usize) {
        for _ in 0..most {
            if !self.may_announce() {
                return;
            }
            let Some(id) = self.memory.withheld.pop_front() else { return };
            if let Some(session) = self.get_mut(id) {
                session.flags.withheld = false;
                self.announce(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use plaza_core::sm::{Enable, SmId};
    use plaza_registry::rosters::Subscription;

    use super::super::testing::World;
    use super::*;
    use crate::memory::{Gauge, Reading, Watermarks, part};
    use crate::metrics::Counters;

    fn message(to: &str, text: &str) -> String {
        format!("<message xmlns='jabber:client' to='{to}' type='chat' id='{text}'><body>{text}</body></message>")
    }

    /// A managed session that is available, with its name.
    fn managed(world: &mut World, account: &plaza_core::jid::Jid, resource: &str) -> (SessionId, SmId) {
        let id = world.bind(account, resource);
        let enabled = world.shard(account).enable_management(id, Enable { resume: true, max: None }).unwrap();
        world.say(account, id, "<presence xmlns='jabber:client'/>");
        (id, enabled.resumable.unwrap().0)
    }

    fn held(shard: &mut Shard) -> u64 {
        shard.show_memory();
        Counters::total(&shard.counters.memory)
    }

    /// All that sessions hold is counted, and nothing else.
    fn check_counts(shard: &mut Shard) {
        let measured = shard.measure().held as u64;
        let counted = held(shard) - shard.counters.memory[Subsystem::Work];
        assert_eq!(counted, measured, "{:?}", shard.counters.memory);
    }

    #[test]
    fn what_sessions_hold_is_counted_until_they_are_gone() {
        let mut world = World::new();
        let (owner, lamp) = (world.account("owner", 0), world.account("lamp", 0));
        let before = held(world.shard(&owner));
        let desk = world.bind(&owner, "desk");
        let (id, name) = managed(&mut world, &lamp, "lamp");
        check_counts(world.shard(&owner));
        for number in 0..20 {
            world.say(&owner, desk, &message(&format!("{lamp}/lamp"), &format!("n{number}")));
            check_counts(world.shard(&owner));
        }
        assert!(world.shard(&owner).counters.memory[Subsystem::Outboxes] > 2_000);
        assert_eq!(world.shard(&owner).counters.memory[Subsystem::Hibernated], 0);
        assert!(world.shard(&lamp).hibernate(id, |_| 10));
        check_counts(world.shard(&owner));
        assert!(world.shard(&owner).counters.memory[Subsystem::Hibernated] > 2_000);
        world.say(&owner, desk, &message(&format!("{lamp}/lamp"), "more"));
        check_counts(world.shard(&owner));
        let key = crate::ring::Key { index: 1, generation: 1 };
        let (id, _) = world.shard(&lamp).resume_session(key, &lamp, &name, 3).unwrap();
        world.shard(&lamp).send_again(id);
        check_counts(world.shard(&owner));
        assert_eq!(world.shard(&owner).counters.memory[Subsystem::Hibernated], 0);
        assert!(world.shard(&lamp).hibernate(id, |_| 20));
        world.shard(&lamp).expire(id, Some(20));
        world.settle();
        check_counts(world.shard(&owner));
        world.shard(&owner).end(desk);
        world.settle();
        world.shard(&owner).trim_facts(0);
        assert_eq!(held(world.shard(&owner)), before, "{:?}", world.shard(&owner).counters.memory);
        assert!(world.shard(&owner).memory.asleep.is_empty());
    }

    #[test]
    fn the_oldest_that_waits_is_given_up_first_and_what_it_holds_is_kept() {
        let mut world = World::new();
        let (owner, lamp, lock) = (world.account("owner", 0), world.account("lamp", 0), world.account("lock", 0));
        let desk = world.bind(&owner, "desk");
        let (first, _) = managed(&mut world, &lamp, "a");
        let (second, _) = managed(&mut world, &lock, "b");
        for (account, id) in [(&lamp, first), (&lock, second)] {
            assert!(world.shard(account).hibernate(id, |_| 100));
        }
        world.say(&owner, desk, &message(&format!("{lamp}/a"), "undelivered"));
        // A fake reading, beyond the third watermark by a byte.
        let marks = Watermarks { limit: 1_000_000, ..Watermarks::default() };
        let sample = Gauge::default().take(Instant::now(), Reading { resident: 900_000, accounted: 900_000 }, &marks);
        assert_eq!(sample.level, Level::Critical);
        let own = world.shard(&owner).counters.memory[Subsystem::Hibernated];
        let excess = part(1, own, own);
        world.shard(&owner).press(sample.level, excess);
        world.settle();
        let shard = world.shard(&owner);
        assert_eq!((shard.counters.sheds[Shed::Hibernated], shard.counters.hibernated), (1, 1));
        assert!(shard.get(first).is_none() && shard.get(second).is_some());
        assert_eq!(shard.counters.offline_kept, 1, "what was taken is not refused, however short memory is");
        let later = Gauge::default().take(
            Instant::now() + Duration::from_secs(1),
            Reading { resident: 100_000, accounted: 100_000 },
            &marks,
        );
        shard.press(later.level, later.excess);
        assert!(shard.get(second).is_some() && !shard.is_short());
    }

    #[test]
    fn those_that_wait_have_a_share_beyond_which_the_oldest_goes() {
        let mut world = World::new();
        let (owner, lamp, lock) = (world.account("owner", 0), world.account("lamp", 0), world.account("lock", 0));
        let desk = world.bind(&owner, "desk");
        let (first, _) = managed(&mut world, &lamp, "a");
        let (second, _) = managed(&mut world, &lock, "b");
        let mut config = (*world.shard(&owner).config).clone();
        config.managed.hibernated_bytes_max = 4_000;
        world.shard(&owner).set_config(config.into());
        for (account, id) in [(&lamp, first), (&lock, second)] {
            assert!(world.shard(account).hibernate(id, |_| 100));
        }
        world.settle();
        assert_eq!(world.shard(&owner).counters.hibernated, 2, "there is room for both");
        for number in 0..30 {
            world.say(&owner, desk, &message(&format!("{lock}/b"), &format!("n{number}")));
        }
        world.settle();
        let shard = world.shard(&owner);
        assert!(shard.get(first).is_none(), "the oldest went, though the other grew");
        assert!(shard.counters.sheds[Shed::HibernatedShare] >= 1);
        assert!(shard.counters.memory[Subsystem::Hibernated] <= 4_000 && !shard.memory.crowded);
    }

    #[test]
    fn while_the_broker_is_restarted_a_session_may_have_as_much_for_it_as_if_it_was_connected() {
        let mut world = World::new();
        let (owner, lamp) = (world.account("owner", 0), world.account("lamp", 0));
        let mut config = (*world.shard(&lamp).config).clone();
        config.managed.stanzas_max = 4;
        world.shard(&lamp).set_config(config.into());
        let desk = world.bind(&owner, "desk");
        let (id, name) = managed(&mut world, &lamp, "lamp");
        assert!(world.shard(&lamp).suspend(id));
        assert!(!world.shard(&owner).suspend(desk), "it can't be resumed");
        let say = |world: &mut World, text: &str| {
            world.say(&owner, desk, &message(&format!("{lamp}/lamp"), text));
            world.settle();
        };
        for number in 0..10 {
            say(&mut world, &format!("n{number}"));
        }
        let kept = world.shard(&lamp).retire(id).unwrap();
        assert_eq!(kept.unacked.len(), 11, "its own presence, and all that came");
        let id = world.shard(&lamp).restore(kept, 100).unwrap();
        say(&mut world, "after");
        let key = crate::ring::Key { index: 1, generation: 1 };
        let (resumed, _) = world.shard(&lamp).resume_session(key, &lamp, &name, 1).unwrap();
        assert_eq!(resumed, id);
        // From here on it is cut off like any other.
        assert!(world.shard(&lamp).hibernate(id, |_| 100));
        say(&mut world, "too much");
        let shard = world.shard(&lamp);
        assert!(shard.get(id).is_none());
        assert_eq!(shard.counters.offline_kept, 12);
    }

    #[test]
    fn what_is_for_a_session_that_cannot_come_back_goes_to_its_account() {
        let mut world = World::new();
        let (owner, lamp) = (world.account("owner", 0), world.account("lamp", 0));
        let desk = world.bind(&owner, "desk");
        let (id, _) = managed(&mut world, &lamp, "lamp");
        assert!(world.shard(&lamp).suspend(id));
        world.say(&owner, desk, &message(&format!("{lamp}/lamp"), "hello"));
        world.settle();
        let kept = world.shard(&lamp).retire(id).unwrap();
        world.bind(&lamp, "lamp");
        assert!(world.shard(&lamp).restore(kept, 100).is_none());
        world.settle();
        let counters = &world.shard(&lamp).counters;
        assert_eq!((counters.offline_kept, counters.hibernated), (1, 0));
    }

    #[test]
    fn while_memory_is_short_messages_for_who_is_away_are_refused() {
        let mut world = World::new();
        let (owner, lamp) = (world.account("owner", 0), world.account("lamp", 0));
        let desk = world.bind(&owner, "desk");
        world.say(&owner, desk, &message(lamp.as_str(), "kept"));
        world.shard(&owner).press(Level::Short, 0);
        world.say(&owner, desk, &message(lamp.as_str(), "refused"));
        let said = world.sent(&owner, desk);
        assert!(said.contains("id='refused'") && said.contains("<service-unavailable"), "{said}");
        assert!(!said.contains("id='kept'"), "{said}");
        assert_eq!(world.shard(&owner).counters.sheds[Shed::Offline], 1);
        // Who is there is reached.
        let there = world.bind(&lamp, "lamp");
        world.say(&lamp, there, "<presence xmlns='jabber:client'/>");
        world.say(&owner, desk, &message(lamp.as_str(), "arrives"));
        assert!(world.sent(&lamp, there).contains("<body>arrives</body>"));
    }

    #[test]
    fn contacts_are_told_of_the_last_presence_when_there_is_memory_again() {
        let mut world = World::new();
        let (owner, lamp) = (world.account("owner", 0), world.account("lamp", 0));
        world.stand(&owner, &lamp, Subscription::Both, Subscription::Both);
        let desk = world.bind(&owner, "desk");
        world.say(&owner, desk, "<presence xmlns='jabber:client'/>");
        let there = world.bind(&lamp, "lamp");
        world.say(&lamp, there, "<presence xmlns='jabber:client'/>");
        world.sent(&owner, desk);
        world.shard(&owner).press(Level::Short, 0);
        for status in ["first", "second"] {
            world.say(&lamp, there, &format!("<presence xmlns='jabber:client'><status>{status}</status></presence>"));
        }
        let said = world.sent(&owner, desk);
        assert!(!said.contains("<status>"), "{said}");
        assert!(!world.shard(&owner).may_announce());
        assert_eq!(world.shard(&owner).counters.sheds[Shed::Presence], 2);
        world.shard(&owner).press(Level::Scarce, 0);
        assert!(world.shard(&owner).may_announce());
        world.shard(&owner).announce_withheld(16);
        world.settle();
        let said = world.sent(&owner, desk);
        assert!(said.contains("<status>second</status>") && !said.contains("first"), "{said}");
        assert!(!world.shard(&owner).may_announce());
    }

    #[test]
    fn while_memory_is_short_only_facts_in_use_are_kept() {
        let mut world = World::new();
        let (owner, lamp) = (world.account("owner", 0), world.account("lamp", 0));
        let mut config = (*world.shard(&owner).config).clone();
        config.facts_bytes_max = 1 << 20;
        world.shard(&owner).set_config(config.into());
        world.bind(&owner, "desk");
        let there = world.bind(&lamp, "lamp");
        world.shard(&lamp).end(there);
        assert!(world.shard(&lamp).facts(lamp.as_jid()).is_some());
        world.shard(&owner).press(Level::Short, 0);
        assert!(
            world.shard(&lamp).facts(lamp.as_jid()).is_none() && world.shard(&owner).facts(owner.as_jid()).is_some()
        );
        assert_eq!(world.shard(&owner).counters.sheds[Shed::Facts], 1);
        let there = world.bind(&lamp, "lamp");
        world.shard(&lamp).end(there);
        assert!(world.shard(&lamp).facts(lamp.as_jid()).is_none());
    }
}
