//! Fanning out: messages of services on their way to many, a bounded number of recipients at a time.
//!
//! A message is written once; only `to` differs. What happened first is told first, to everyone, so that nobody hears of
//! two events in the wrong order: while the next page of the first message's recipients is being read, the others wait.
//! They wait as well while the batch for another shard is full.
//!
//! An account's event goes first to those who want it by their capabilities ([`super::interest`]), a recipient each
//! account, then to those who subscribed.

use std::collections::VecDeque;
use std::vec;

use plaza_core::jid::Jid;
use plaza_core::stanza::{Class, MessageType};
use plaza_registry::pubsub::{Message, Outgoing, Recipient, Recipients};
use plaza_registry::store::StoreError;

use super::batch::BATCH_BYTES_MAX;
use super::interest::Event;
use super::presence::write_addressed;
use super::{Effect, Shard};
use crate::metrics::DropReason;

/// Bytes of messages that wait, beyond which another one is dropped and counted: 256 of the largest. They are events, which
/// whoever missed them can ask for.
const FANNING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Messages on their way to many, in the order they happened.
#[derive(Debug, Default)]
pub(super) struct Fanning {
    queue: VecDeque<Leaving>,
    /// Of their texts.
    bytes: usize,
    /// The first one's next page is being read.
    is_reading: bool,
}

#[derive(Debug)]
struct Leaving {
    from: Jid,
    message_type: MessageType,
    text: Vec<u8>,
    /// The event's node, and the accounts that may want it.
    node: Box<str>,
    interested: vec::IntoIter<Jid>,
    page: vec::IntoIter<Recipient>,
    rest: Recipients,
}

impl Fanning {
    fn pop(&mut self) {
        if let Some(leaving) = self.queue.pop_front() {
            self.bytes -= leaving.text.len();
        }
    }
}

impl Shard {
    /// Takes what a service wants to be told; [`Shard::go_on_fanning`] tells it.
    pub(super) fn fan(&mut self, outgoing: Outgoing) {
        for message in outgoing.into_messages() {
            let Message { from, message_type, text, mut recipients, audience } = message;
            let page = recipients.take_ready();
            let interested = audience.as_ref().map_or_else(Vec::new, |to| self.interested(&from, to, &page));
            if page.is_empty() && !recipients.has_more() && interested.is_empty() {
                continue;
            }
            if self.fanning.bytes + text.len() > FANNING_BYTES_MAX {
                self.counters.drops[DropReason::MeshFull] += 1;
                continue;
            }
            self.fanning.bytes += text.len();
            let node = audience.map_or_else(Box::default, |audience| audience.node.into());
            let (interested, page) = (interested.into_iter(), page.into_iter());
            let leaving = Leaving { from, message_type, text, node, interested, page, rest: recipients };
            self.fanning.queue.push_back(leaving);
        }
    }

    /// Whether [`Shard::go_on_fanning`] has something to do before anything else happens.
    pub fn is_fanning(&self) -> bool {
        !self.fanning.is_reading && self.fanning.queue.front().is_some_and(|leaving| !self.must_wait(leaving))
    }

    /// Whether the next recipient's shard takes no more in this turn.
    fn must_wait(&self, leaving: &Leaving) -> bool {
        let interested = leaving.interested.as_slice().first();
        let Some(next) = interested.or_else(|| Some(&leaving.page.as_slice().first()?.jid)) else { return false };
        let home = self.home(next.as_jid());
        self.batches.get(usize::from(home.0)).is_some_and(|batch| batch.bytes() >= BATCH_BYTES_MAX)
    }

    /// Tells at most `budget` recipients.
    pub fn go_on_fanning(&mut self, budget: usize) {
        let mut left = budget;
        let mut bytes = self.take_buffer();
        while left > 0 && self.is_fanning() {
            let Some(mut leaving) = self.fanning.queue.pop_front() else { break };
            let class = Class::Message(leaving.message_type);
            self.fans += 1;
            while left > 0 && !self.must_wait(&leaving) {
                let Some(jid) = leaving.interested.next() else { break };
                left -= 1;
                let event = Event { from: leaving.from.as_str(), node: &leaving.node, text: &leaving.text };
                self.pass_event(self.fans, jid.as_jid(), &event);
            }
            while left > 0 && !self.must_wait(&leaving) {
                let Some(Recipient { jid, .. }) = leaving.page.next() else { break };
                left -= 1;
                if !self.is_local_account(jid.as_jid()) {
                    self.counters.drops[DropReason::NoRoute] += 1; // No server-to-server stream exists.
                    continue;
                }
                bytes.clear();
                write_addressed(&mut bytes, &leaving.text, jid.as_str());
                self.route_own(class, jid.as_jid(), leaving.from.as_str(), &bytes);
            }
            let is_done = leaving.interested.as_slice().is_empty() && leaving.page.as_slice().is_empty();
            let rest = std::mem::take(&mut leaving.rest);
            if is_done && rest.has_more() {
                self.fanning.is_reading = true;
                self.effects.push_back(Effect::Recipients(Box::new(rest)));
            } else {
                leaving.rest = rest;
            }
            let has_ended = is_done && !self.fanning.is_reading;
            self.fanning.queue.push_front(leaving);
            if has_ended {
                self.fanning.pop();
            }
        }
        self.give_buffer(bytes);
    }

    /// The next page of the first message's recipients. If the store could not say, they are not told, and counted once.
    pub fn recipients_read(&mut self, rest: Recipients, page: Result<Option<Vec<Recipient>>, StoreError>) {
        if !std::mem::take(&mut self.fanning.is_reading) {
            return;
        }
        match page {
            Ok(Some(page)) => {
                if let Some(leaving) = self.fanning.queue.front_mut() {
                    (leaving.page, leaving.rest) = (page.into_iter(), rest);
                }
            }
            Ok(None) => self.fanning.pop(),
            Err(_) => {
                self.counters.drops[DropReason::Unhandled] += 1;
                self.fanning.pop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use plaza_core::stanza::{Condition, IqType};
    use plaza_registry::errands::Return;
    use plaza_registry::pubsub::{self, Config, EventKind, Facts, Host, Limits, Notification, Outgoing, Request};
    use plaza_registry::store::memory::MemoryStore;
    use plaza_registry::wait::block_on;

    use super::super::tests::{bind, feed, shards};
    use super::super::{SessionId, Shard};
    use super::*;
    use crate::mesh::ShardId;

    fn jid(text: &str) -> Jid {
        Jid::parse(text).unwrap()
    }

    fn event(number: usize, recipients: Recipients) -> Notification {
        Notification {
            from: jid("owner@things.example"),
            message_type: MessageType::Headline,
            kind: EventKind::Items,
            payload: format!("<event n='{number}'/>").into_bytes(),
            recipients,
            audience: None,
        }
    }

    fn outgoing(notifications: Vec<Notification>) -> Outgoing {
        Outgoing { notifications, messages: Vec::new() }
    }

    fn online(shard: &mut Shard, account: &str) -> SessionId {
        let id = bind(shard, account, "r");
        feed(shard, id, "<presence/>");
        while let Some(effect) = shard.poll_effect() {
            if let Effect::Errand(account, _) = effect {
                shard.errand_done(&account, Return::Load(Ok(None)));
            }
        }
        shard.take_outbox(id);
        id
    }

    fn text(shard: &mut Shard, id: SessionId) -> String {
        String::from_utf8(shard.take_outbox(id)).unwrap()
    }

    #[test]
    fn recipients_are_told_in_slices_and_in_order() {
        let (mut shards, _) = shards(1);
        let shard = &mut shards[0];
        let names: Vec<_> = (0..5).map(|n| format!("fan{n}@things.example")).collect();
        let fans: Vec<_> = names.iter().map(|name| online(shard, name)).collect();
        let all = || Recipients::these(names.iter().map(|name| jid(name)).collect());
        shard.fan(outgoing(vec![event(1, all()), event(2, all()), event(3, Recipients::NONE)]));
        assert!(shard.is_fanning());
        assert_eq!(text(shard, fans[0]), "");
        shard.go_on_fanning(7);
        let one = |n: usize, fan: &str| {
            format!("<message to='{fan}' from='owner@things.example' type='headline'><event n='{n}'/></message>")
        };
        assert_eq!(text(shard, fans[1]), one(1, &names[1]) + &one(2, &names[1]));
        assert_eq!(text(shard, fans[2]), one(1, &names[2]));
        shard.go_on_fanning(7);
        assert_eq!(text(shard, fans[2]), one(2, &names[2]));
        assert!(!shard.is_fanning() && shard.fanning.queue.is_empty());
        assert_eq!(shard.fanning.bytes, 0);
    }

    #[test]
    fn ten_thousand_subscribers_are_told_no_more_of_a_turn_than_its_budget() {
        const BUDGET: usize = 256;
        let (mut shards, _) = shards(1);
        let shard = &mut shards[0];
        let all = (0..10_000).map(|n| jid(&format!("fan{n}@things.example"))).collect();
        shard.fan(outgoing(vec![event(1, Recipients::these(all))]));
        let mut told = Vec::new();
        while shard.is_fanning() {
            let before = shard.counters.drops[DropReason::NoRoute];
            shard.go_on_fanning(BUDGET);
            told.push((shard.counters.drops[DropReason::NoRoute] - before) as usize);
        }
        // None of them is there, so each is counted once.
        assert_eq!((told.iter().sum::<usize>(), told.len()), (10_000, 10_000_usize.div_ceil(BUDGET)));
        assert!(told.iter().all(|&told| told <= BUDGET));
    }

    #[test]
    fn who_is_elsewhere_is_told_there_once_the_mesh_has_room() {
        let (mut shards, homes) = shards(2);
        let home = |name: &str| homes.shard(homes.hash(jid(name).as_jid()));
        let name = (0..).map(|n| format!("a{n}@things.example")).find(|name| home(name) == ShardId(1)).unwrap();
        let id = online(&mut shards[1], &name);
        let big = Notification { payload: vec![b'x'; 100 * 1024], ..event(0, Recipients::NONE) };
        let to = || Recipients::these(vec![jid(&name), jid("someone@elsewhere.example")]);
        shards[0].fan(outgoing((0..5).map(|_| Notification { recipients: to(), ..big.clone() }).collect()));
        let mut rounds = 0;
        let mut told = 0;
        while shards[0].is_fanning() || shards[0].has_batch(ShardId(1)) {
            shards[0].go_on_fanning(256);
            let mut batch = shards[0].take_batch(ShardId(1), Box::default()).unwrap();
            assert!(batch.bytes() < BATCH_BYTES_MAX + 101 * 1024, "{} bytes", batch.bytes());
            shards[1].handoff(ShardId(0), &mut batch);
            told += text(&mut shards[1], id).matches("</message>").count();
            shards[1].written(id);
            rounds += 1;
        }
        assert_eq!((rounds, shards[0].counters.drops[DropReason::MeshFull]), (2, 0));
        assert_eq!(shards[0].counters.drops[DropReason::NoRoute], 5);
        // An outbox takes one that large at a time; the service is told of the others.
        assert_eq!(told as u64 + shards[1].counters.stanza_errors[Condition::ResourceConstraint], 5);
        assert!(told >= 2);
    }

    #[test]
    fn what_is_too_much_is_dropped_and_counted() {
        let (mut shards, _) = shards(1);
        let shard = &mut shards[0];
        let large = |_| Notification {
            payload: vec![b'x'; 60 * 1024],
            ..event(0, Recipients::these(vec![jid("fan@things.example")]))
        };
        shard.fan(outgoing((0..300).map(large).collect()));
        assert!(shard.fanning.bytes <= FANNING_BYTES_MAX);
        let kept = shard.fanning.queue.len() as u64;
        assert!(kept > 250);
        assert_eq!(shard.counters.drops[DropReason::MeshFull], 300 - kept);
        shard.go_on_fanning(1_000);
        assert_eq!((shard.fanning.bytes, shard.is_fanning()), (0, false));
    }

    /// A node with more subscribers than a page, and the event of a publication there.
    fn published(store: &MemoryStore, count: usize) -> Outgoing {
        let limits = Limits { subscriptions_max: 10, ..Limits::DEFAULT };
        let config = Config::new(limits, vec![jid("things.example")]);
        let host = Host::Service(jid("pubsub.things.example"));
        let ask = |caller: &str, inside: &str| {
            let payload = format!("<pubsub xmlns='http://jabber.org/protocol/pubsub'>{inside}</pubsub>");
            let request =
                Request { host: &host, caller: &jid(caller), iq_type: IqType::Set, payload: &payload, unix_millis: 1 };
            let reply = block_on(pubsub::answer(&config, store, request, &Facts::default()));
            assert!(reply.result.is_ok(), "{reply:?}");
            outgoing(reply.notifications)
        };
        let owner = "owner@things.example/r";
        ask(owner, "<create node='n'/>");
        for n in 0..count {
            ask(&format!("fan{n}@things.example/r"), &format!("<subscribe node='n' jid='fan{n}@things.example'/>"));
        }
        ask(owner, "<publish node='n'><item id='1'><e xmlns='urn:e'/></item></publish>")
    }

    #[test]
    fn later_pages_are_read_when_the_first_is_told_and_the_next_message_waits() {
        let store = MemoryStore::new();
        let count = pubsub::RECIPIENTS_PAGE + 3;
        let first = published(&store, count);
        let (mut shards, _) = shards(1);
        let shard = &mut shards[0];
        let fans: Vec<_> = (0..count).map(|n| online(shard, &format!("fan{n}@things.example"))).collect();
        shard.fan(first);
        shard.fan(outgoing(vec![event(2, Recipients::these(vec![jid("fan0@things.example")]))]));
        while shard.is_fanning() {
            shard.go_on_fanning(256);
        }
        assert_eq!(shard.fanning.queue.len(), 2);
        assert!(!text(shard, fans[0]).contains("n='2'"));
        let Some(Effect::Recipients(mut recipients)) = shard.poll_effect() else { panic!("a page is to be read") };
        let page = block_on(recipients.next(&store));
        shard.recipients_read(*recipients, page);
        while shard.is_fanning() {
            shard.go_on_fanning(256);
        }
        assert!(shard.poll_effect().is_none() && shard.fanning.queue.is_empty());
        assert!(text(shard, fans[0]).contains("n='2'"));
        let told = fans.iter().skip(1).filter(|&&fan| text(shard, fan).contains("<item id='1'>")).count();
        assert_eq!(told, count - 1);
    }

    #[test]
    fn a_page_that_cannot_be_read_ends_its_message_and_no_other() {
        let store = MemoryStore::new();
        let first = published(&store, pubsub::RECIPIENTS_PAGE + 3);
        let (mut shards, _) = shards(1);
        let shard = &mut shards[0];
        let fan = online(shard, "fan0@things.example");
        shard.fan(first);
        shard.fan(outgoing(vec![event(2, Recipients::these(vec![jid("fan0@things.example")]))]));
        shard.go_on_fanning(10_000);
        let Some(Effect::Recipients(recipients)) = shard.poll_effect() else { panic!("a page is to be read") };
        shard.recipients_read(*recipients, Err(StoreError::Busy));
        assert_eq!(shard.counters.drops[DropReason::Unhandled], 1);
        shard.go_on_fanning(10);
        assert!(text(shard, fan).contains("n='2'") && shard.fanning.queue.is_empty());
    }
}
