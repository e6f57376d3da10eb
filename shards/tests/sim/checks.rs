//! What has to be true when all is quiet.

use std::collections::HashSet;

use plaza_core::jid::Jid;
use plaza_core::rsm::Start;
use plaza_core::subscription::State;
use plaza_registry::archive::{self, Query};
use plaza_registry::offline;
use plaza_registry::rosters;
use plaza_registry::wait::block_on;
use plaza_shards::metrics::DropReason;
use plaza_shards::shard::Shard;

use super::{Client, World};

impl World {
    /// What became of every stanza.
    pub(crate) fn check(&self) {
        let (mut lost, mut numbers) = (Vec::new(), Vec::new());
        let kept = self.kept();
        for (number, sent) in self.sent.iter().enumerate() {
            self.check_durable(number, kept.contains(&number));
            if kept.contains(&number) {
                let handed_on = self.plan.managed_percent > 0;
                assert!(sent.taken && (sent.answers == 0 || handed_on), "n{number} is kept, and was refused");
                continue;
            }
            let outcomes = u32::from(!sent.delivered.is_empty()) + sent.answers;
            assert!(sent.taken || outcomes == 0, "n{number} came from nowhere");
            // One of several resources did not acknowledge a message, and nobody could take it in its place.
            let managed = sent.delivered.iter().any(|client| self.managed_clients.contains(client));
            let handed_on = managed || (self.plan.managed_percent > 0 && !sent.request);
            assert!(outcomes <= 1 || handed_on, "n{number}: {} copies, {} answers", sent.delivered.len(), sent.answers);
            // What was under way when the broker was killed is nowhere.
            if sent.taken && outcomes == 0 && sent.taken_at >= self.killed_at {
                numbers.push(number);
                lost.push((self.clients[sent.sender].jid.as_str(), sent.tag.as_str()));
            }
        }
        let drops = self.drops();
        let count = lost.len() as u64;
        assert!(count <= drops, "{drops} drops counted, {count} stanzas lost: {lost:?}");
        if self.plan.exact {
            // An answer to a command that nobody was there for is dropped as well.
            let most = count + self.blocks.unanswered() + self.notes.unanswered();
            // What was kept and is held up by now is so as often as the store does not forget it.
            let often = self.plan.blocks && self.plan.store_refuses_percent > 0;
            assert!(often || self.life > 0 || drops <= most, "{drops} drops, {most} stanzas: {lost:?}");
            self.check_silence(&numbers);
        }
        self.check_notes();
        self.check_presence();
        self.check_archives();
        if self.plan.things {
            self.check_things();
            self.check_owners();
        }
    }

    /// Archives hold what their heads say, in order and within their bounds.
    pub(super) fn check_archives(&self) {
        let config = &self.plan.config.archive;
        let mut stored = 0;
        for account in self.accounts.iter().filter(|_| config.is_on()) {
            let (mut ids, mut query) = (Vec::new(), Query::ALL);
            loop {
                let found = archive::query(&self.store, account.as_jid(), config, &query, 0, 0);
                let found = block_on(found).unwrap();
                ids.extend(found.items.iter().map(|item| item.id));
                if found.complete {
                    break;
                }
                query.page.start = Start::After(ids.last().unwrap().to_string());
            }
            let all = block_on(archive::query(&self.store, account.as_jid(), config, &Query::ALL, 0, 0)).unwrap();
            assert_eq!(all.count, Some(ids.len() as u32), "{account:?}");
            assert!(ids.is_sorted_by(|one, next| one < next) && ids.len() <= config.limits.messages_max as usize);
            stored += ids.len() as u64;
        }
        let archived = self.archived_before + self.archived();
        // What was stored when the broker was killed nobody has counted.
        assert!(self.life > 0 || stored <= archived, "{stored} stored, {archived} counted");
    }

    /// Numbers of the stanzas that are in the store.
    pub(super) fn kept(&self) -> HashSet<usize> {
        let mut kept = HashSet::new();
        for account in &self.accounts {
            for message in block_on(offline::load(&self.store, account.as_jid(), &self.plan.config.offline, 0)).unwrap()
            {
                let text = String::from_utf8(message.stanza).unwrap();
                let number = text.split(" id='n").nth(1).and_then(|rest| rest.split('\'').next());
                kept.extend(number.and_then(|number| number.parse::<usize>().ok()));
            }
        }
        kept
    }

    /// Two accounts that talk one after the other agree: what one calls "to" the other calls "from". When their requests
    /// cross they need not, for the protocol does not say which one an answer is to.
    pub(super) fn agree(&mut self) {
        if self.plan.exact {
            return; // The presence that follows is followed by nobody.
        }
        let store_refuses_percent = std::mem::take(&mut self.plan.store_refuses_percent);
        for _ in 0..3 {
            let (Some(one), Some(other)) = (self.someone(), self.someone()) else { break };
            let [ours, theirs] = [one, other].map(|client| self.clients[client].jid.bare());
            if ours == theirs {
                continue;
            }
            let request = |world: &mut Self, client: usize, to: &Jid, kind: &str| {
                world.queue(client, format!("<presence type='{kind}' to='{to}'/>"), None);
                world.settle();
            };
            for kind in ["unsubscribe", "unsubscribed"] {
                request(self, one, &theirs, kind);
                request(self, other, &ours, kind);
            }
            assert_eq!(self.states(&ours, &theirs).map(|state| state.to || state.from), [false, false]);
            request(self, one, &theirs, "subscribe");
            request(self, other, &ours, "subscribed");
            let [state, their_state] = self.states(&ours, &theirs);
            assert_eq!((state.to, their_state.to), (their_state.from, state.from), "{ours} and {theirs}");
        }
        self.plan.store_refuses_percent = store_refuses_percent;
    }

    pub(super) fn states(&self, one: &Jid, other: &Jid) -> [State; 2] {
        [(one, other), (other, one)].map(|(owner, contact)| {
            let item = block_on(rosters::get(&self.store, owner.as_jid(), contact.as_jid())).unwrap();
            item.map(|item| item.state()).unwrap_or_default()
        })
    }

    /// Who saw a session available and was there all the time has seen it go.
    pub(super) fn check_presence(&self) {
        let full = |shard: &Shard| {
            shard.counters.drops[DropReason::OutboxFull] > 0 || shard.counters.drops[DropReason::MeshFull] > 0
        };
        if self.shards.iter().any(full) {
            return; // Some were not told, by number.
        }
        assert!(self.told_twice.is_empty(), "{:?}", self.told_twice);
        let gone: HashSet<&str> =
            self.clients.iter().filter(|client| client.ended).map(|client| client.jid.as_str()).collect();
        // Whoever never was available hears what it asked for, and no more; and what was under way to a resource arrives at
        // the next session that has it.
        let there = |client: &&Client| {
            let anew = self.rebound.contains(client.jid.as_str());
            !client.ended && !client.hid && client.available && !anew
        };
        for client in self.clients.iter().filter(there) {
            for (from, available) in &client.last {
                let blocked = self.blocks.ever(&client.jid.bare(), from);
                if gone.contains(from.as_str()) && !self.rebound.contains(from) && !blocked {
                    assert!(!available, "{} never learnt that {from} left: {:?}", client.jid, client.managed);
                }
            }
        }
    }
}
