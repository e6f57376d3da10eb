use std::sync::Arc;

use plaza_core::sm;
use plaza_core::thing::NodeName;
use plaza_registry::accounts::{self, NewKeys};
use plaza_registry::archive::{self, Addresses, ArchiveConfig, Mode, Modes, Query};
use plaza_registry::errands::{self, ErrandConfig, Return};
use plaza_registry::offline::OfflineLimits;
use plaza_registry::services::{ServiceConfig, ServiceLimits};
use plaza_registry::store::memory::MemoryStore;
use plaza_registry::store::{self, Store, StoreError};
use plaza_registry::things::{State, ThingRecord};
use plaza_registry::wait::block_on;

use super::super::tests::{bind, feed, shards_with};
use super::*;
use crate::shard::{Batch, Effect};

const NOW: u64 = 1_767_323_045_000;
const OWNER: &str = "owner@things.example";
const LAMP: &str = "lamp@things.example";
const PLAIN: &str = "plain@things.example";

/// Shards with a store: `owner` and `lamp` have archives and want everything in them, `plain` has none.
struct World {
    shards: Vec<Shard>,
    store: MemoryStore,
    config: ErrandConfig,
    /// The clock.
    now: u64,
}

impl World {
    fn new(count: u16) -> Self {
        let archive = ArchiveConfig { modes: Modes::ALL, default: Mode::Always, ..ArchiveConfig::default() };
        let offline = OfflineLimits { messages_max: 1, ..OfflineLimits::default() };
        let (shards, _) = shards_with(count, |config| {
            config.archive = archive;
            config.offline = offline;
            config.facts_bytes_max = 1 << 20;
        });
        let services = ServiceConfig {
            name: String::new(),
            version: String::new(),
            node: String::new(),
            domains: vec![Jid::parse("things.example").unwrap()],
            components: Vec::new(),
            roster_items_max: 9,
            limits: ServiceLimits::default(),
            pubsub: plaza_registry::pubsub::Config::new(plaza_registry::pubsub::Limits::DEFAULT, Vec::new()),
            archive,
            things: plaza_registry::things::Config::new(plaza_registry::things::Limits::DEFAULT, None),
            registration: plaza_registry::registration::Registrar::off(),
            provisioning: plaza_registry::provisioning::Config::new(
                plaza_registry::provisioning::Limits::DEFAULT,
                [7; 32],
            ),
        };
        let config = ErrandConfig { roster_items_max: 9, requests_max: 9, offline, services: Arc::new(services) };
        let store = MemoryStore::new();
        let keys = NewKeys::derive("pencil", &[1; 32], 1).unwrap();
        for name in [OWNER, LAMP, PLAIN] {
            let bare = Jid::parse(name).unwrap();
            block_on(accounts::create(&store, bare.as_jid(), keys.clone(), false, 0)).unwrap();
            if name != PLAIN {
                block_on(archive::allow(&store, bare.as_jid())).unwrap();
            }
        }
        Self { shards, store, config, now: NOW }
    }

    fn home(&self, name: &str) -> usize {
        let jid = Jid::parse(name).unwrap();
        usize::from(self.shards[0].home(jid.as_jid()).0)
    }

    /// Logs in and becomes available.
    fn available(&mut self, name: &str, resource: &str) -> (usize, SessionId) {
        let home = self.home(name);
        let id = bind(&mut self.shards[home], name, resource);
        self.say((home, id), "<presence/>");
        self.heard((home, id));
        (home, id)
    }

    /// Says something, without running what it leads to.
    fn only_say(&mut self, (home, id): (usize, SessionId), text: &str) -> Flow {
        feed(&mut self.shards[home], id, text)
    }

    fn say(&mut self, session: (usize, SessionId), text: &str) {
        assert!(matches!(self.only_say(session, text), Flow::Continue | Flow::Blocked), "{text}");
        self.run();
    }

    /// Runs what is to be done until there is nothing left.
    fn run(&mut self) {
        loop {
            let mut idle = true;
            for home in 0..self.shards.len() {
                while let Some(effect) = self.shards[home].poll_effect() {
                    idle = false;
                    if let Effect::Errand(owner, errand) = effect {
                        let brought = block_on(errands::run(&self.config, &self.store, &owner, *errand, self.now));
                        self.shards[home].errand_done(&owner, brought);
                    }
                }
                for to in 0..self.shards.len() {
                    let to_id = crate::mesh::ShardId(to as u16);
                    if let Ok(mut batch) = self.shards[home].take_batch(to_id, Box::<Batch>::default()) {
                        idle = false;
                        let from = crate::mesh::ShardId(home as u16);
                        self.shards[to].handoff(from, &mut batch);
                    }
                }
            }
            if idle {
                return;
            }
        }
    }

    /// What a session was sent since it was last asked.
    fn heard(&mut self, (home, id): (usize, SessionId)) -> String {
        let bytes = self.shards[home].take_outbox(id);
        self.shards[home].written(id);
        String::from_utf8(bytes).unwrap()
    }

    /// The bodies in an account's archive, with their ids.
    fn archived(&self, name: &str) -> Vec<(String, String)> {
        let owner = Jid::parse(name).unwrap();
        let config = &self.config.services.archive;
        let found = block_on(archive::query(&self.store, owner.as_jid(), config, &Query::ALL, 0, self.now)).unwrap();
        let text = |stanza: &[u8]| {
            let stanza = std::str::from_utf8(stanza).unwrap();
            assert!(!stanza.contains("stanza-id"), "{stanza}");
            stanza.split_once("<body>").map_or(stanza, |(_, rest)| rest.split_once("</body>").unwrap().0).to_owned()
        };
        found.items.iter().map(|item| (text(&item.stanza), item.id.to_string())).collect()
    }

    fn bodies(&self, name: &str) -> Vec<String> {
        self.archived(name).into_iter().map(|(body, _)| body).collect()
    }
}

fn chat(to: &str, body: &str) -> String {
    format!("<message to='{to}' type='chat'><body>{body}</body></message>")
}

fn stanza_id(by: &str, id: &str) -> String {
    format!("<stanza-id xmlns='urn:xmpp:sid:0' by='{by}' id='{id}'/>")
}

#[test]
fn a_message_goes_into_both_archives_and_the_recipient_is_shown_its_id() {
    for count in [1, 2, 5] {
        let mut world = World::new(count);
        let (owner, lamp) = (world.available(OWNER, "r"), world.available(LAMP, "r"));
        for (to, body) in [(format!("{LAMP}/r"), "full"), (LAMP.to_owned(), "bare")] {
            world.say(owner, &chat(&to, body));
            let (_, id) = world.archived(LAMP).pop().unwrap();
            let said = format!(
                "<message to='{to}' type='chat' from='{OWNER}/r'><body>{body}</body>{}</message>",
                stanza_id(LAMP, &id)
            );
            assert_eq!(world.heard(lamp), said);
        }
        assert_eq!(world.bodies(OWNER), ["full", "bare"]);
        assert_eq!(world.bodies(LAMP), ["full", "bare"]);
        assert_ne!(world.archived(OWNER), world.archived(LAMP), "each has ids of its own");
        assert_eq!(world.heard(owner), "");
        let archived: u64 = world.shards.iter().map(|shard| shard.counters.archived).sum();
        assert_eq!(archived, 4);
    }
}

#[test]
fn nothing_is_delivered_before_it_is_stored_nor_out_of_order() {
    let mut world = World::new(1);
    let (owner, lamp) = (world.available(OWNER, "r"), world.available(LAMP, "r"));
    for body in ["one", "two", "three"] {
        assert_eq!(world.only_say(owner, &chat(LAMP, body)), Flow::Continue);
    }
    let ask = format!("<iq type='get' id='q' to='{LAMP}/r'><q xmlns='urn:q'/></iq>");
    assert_eq!(world.only_say(owner, &ask), Flow::Continue);
    assert_eq!(world.heard(lamp), "");
    world.run();
    let said = world.heard(lamp);
    let at = |text: &str| said.find(text).unwrap_or_else(|| panic!("{text} is not in {said}"));
    assert!(at("one") < at("two") && at("two") < at("three") && at("three") < at("<iq"), "{said}");
    assert_eq!(world.bodies(LAMP), ["one", "two", "three"]);
}

#[test]
fn an_account_without_an_archive_lets_its_messages_through() {
    let mut world = World::new(1);
    let (owner, plain) = (world.available(OWNER, "r"), world.available(PLAIN, "r"));
    world.only_say(owner, &chat(PLAIN, "in"));
    assert!(world.heard(plain).ends_with("<body>in</body></message>"));
    world.say(plain, &chat(OWNER, "out"));
    assert_eq!(world.bodies(OWNER), ["in", "out"]);
    // Where the operator allows none, nobody waits either.
    let (mut shards, _) = shards_with(1, |_| ());
    let ids = [bind(&mut shards[0], OWNER, "r"), bind(&mut shards[0], LAMP, "r")];
    feed(&mut shards[0], ids[0], &chat(&format!("{LAMP}/r"), "in"));
    assert!(!shards[0].take_outbox(ids[1]).is_empty());
    assert!(shards[0].poll_effect().is_none());
}

#[test]
fn what_is_no_conversation_or_asks_to_be_forgotten_is_not_archived() {
    let mut world = World::new(1);
    let (owner, lamp) = (world.available(OWNER, "r"), world.available(LAMP, "r"));
    let to = format!("to='{LAMP}/r'");
    for not in [
        format!("<message {to} type='headline'><body>not</body></message>"),
        format!("<message {to} type='groupchat'><body>not</body></message>"),
        format!("<message {to} type='error'><body>not</body><error/></message>"),
        format!("<message {to} type='chat'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>"),
        format!("<message {to}><body>not</body><no-store xmlns='urn:xmpp:hints'/></message>"),
        format!("<message {to}><no-permanent-store xmlns='urn:xmpp:hints'/><body>not</body></message>"),
        format!("<message {to}><body xmlns='urn:other'>not</body></message>"),
    ] {
        world.say(owner, &not);
        let said = world.heard(lamp);
        assert!(said.starts_with("<message") && !said.contains("stanza-id"), "{not} {said}");
    }
    // What is refused is not received, though it was sent.
    world.say(owner, &format!("<message to='{LAMP}/gone'><body>refused</body></message>"));
    assert!(world.heard(owner).contains("<service-unavailable "));
    assert_eq!(world.bodies(LAMP), Vec::<String>::new());
    assert_eq!(world.bodies(OWNER), ["refused"]);
    world.say(owner, &format!("<message {to}><reading xmlns='urn:x'/><store xmlns='urn:xmpp:hints'/></message>"));
    assert_eq!(world.archived(LAMP).len(), 1);
}

#[test]
fn preferences_hold_at_once() {
    let mut world = World::new(1);
    let (owner, lamp) = (world.available(OWNER, "r"), world.available(LAMP, "r"));
    let prefs = |default: &str, never: &str| {
        format!(
            "<iq type='set' id='p'><prefs xmlns='urn:xmpp:mam:2' default='{default}'><never>{never}</never></prefs></iq>"
        )
    };
    world.say(lamp, &prefs("always", &format!("<jid>{OWNER}</jid>")));
    assert!(world.heard(lamp).contains("<iq type='result' id='p'"));
    world.say(owner, &chat(LAMP, "never"));
    world.say(lamp, &chat(OWNER, "neither"));
    assert!(!world.heard(lamp).contains("stanza-id"));
    assert_eq!(world.bodies(LAMP), Vec::<String>::new());
    world.say(lamp, &prefs("roster", ""));
    world.say(owner, &chat(LAMP, "stranger"));
    world.say(
        lamp,
        &format!("<iq type='set' id='r'><query xmlns='jabber:iq:roster'><item jid='{OWNER}'/></query></iq>"),
    );
    world.say(owner, &chat(LAMP, "contact"));
    world.say(lamp, &prefs("never", ""));
    world.say(owner, &chat(LAMP, "late"));
    assert_eq!(world.bodies(LAMP), ["contact"]);
    assert_eq!(world.bodies(OWNER), ["never", "neither", "stranger", "contact", "late"]);
    let facts = world.shards[0].facts(Jid::parse(LAMP).unwrap().as_jid()).unwrap();
    assert_eq!(facts.archive.as_ref().unwrap().never, Addresses::default());
}

#[test]
fn a_message_to_oneself_is_archived_once() {
    let mut world = World::new(1);
    let (desk, phone) = (world.available(OWNER, "desk"), world.available(OWNER, "phone"));
    world.heard(desk);
    world.say(desk, &chat(&format!("{OWNER}/phone"), "note"));
    let [(body, id)] = &*world.archived(OWNER) else { panic!("{:?}", world.archived(OWNER)) };
    assert_eq!(body, "note");
    assert!(world.heard(phone).contains(&stanza_id(OWNER, id)));
}

#[test]
fn copies_show_the_id_too() {
    let mut world = World::new(1);
    let (desk, phone) = (world.available(OWNER, "desk"), world.available(OWNER, "phone"));
    let lamp = world.available(LAMP, "r");
    world.say(phone, "<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>");
    world.heard(phone);
    world.say(desk, &chat(LAMP, "out"));
    let id = world.archived(OWNER).pop().unwrap().1;
    let copy = world.heard(phone);
    assert!(copy.contains("<sent ") && copy.contains(&stanza_id(OWNER, &id)), "{copy}");
    assert!(!world.heard(lamp).contains(&stanza_id(OWNER, &id)));
    world.say(lamp, &chat(&format!("{OWNER}/desk"), "in"));
    let id = world.archived(OWNER).pop().unwrap().1;
    let copy = world.heard(phone);
    assert!(copy.contains("<received ") && copy.contains(&stanza_id(OWNER, &id)), "{copy}");
    // Copied, but not archived.
    world.say(
        desk,
        &format!("<message to='{LAMP}' type='chat'><active xmlns='http://jabber.org/protocol/chatstates'/></message>"),
    );
    let copy = world.heard(phone);
    assert!(copy.contains("<sent ") && !copy.contains("stanza-id"), "{copy}");
}

#[test]
fn who_is_away_finds_messages_in_the_archive_and_is_given_them_with_their_ids() {
    let mut world = World::new(2);
    let owner = world.available(OWNER, "r");
    // There is room for one only: the others are not refused, since they are in the archive.
    for body in ["one", "two", "three"] {
        world.say(owner, &chat(LAMP, body));
    }
    assert_eq!(world.heard(owner), "");
    assert_eq!(world.bodies(LAMP), ["one", "two", "three"]);
    let id = world.archived(LAMP)[0].1.clone();
    let home = world.home(LAMP);
    let lamp = (home, bind(&mut world.shards[home], LAMP, "r"));
    world.say(lamp, "<presence/>");
    let said = world.heard(lamp);
    assert!(said.contains("<body>one</body>") && said.contains(&stanza_id(LAMP, &id)), "{said}");
    assert!(!said.contains("two"), "{said}");
    // An account without an archive refuses them, as ever.
    world.say(owner, &chat(PLAIN, "one"));
    world.say(owner, &chat(PLAIN, "two"));
    assert!(world.heard(owner).contains("<service-unavailable "));
}

#[test]
fn what_is_sent_is_acknowledged_once_it_is_archived() {
    let mut world = World::new(1);
    let owner = world.available(OWNER, "r");
    let plain = world.available(PLAIN, "r");
    let enable = sm::Enable { resume: false, max: None };
    world.shards[0].enable_management(owner.1, enable).unwrap();
    world.only_say(owner, &chat(&format!("{PLAIN}/r"), "out"));
    assert!(world.heard(plain).contains("out"));
    world.only_say(owner, "<r xmlns='urn:xmpp:sm:3'/>");
    assert_eq!(world.heard(owner), "");
    world.run();
    assert_eq!(world.heard(owner), "<a xmlns='urn:xmpp:sm:3' h='1'/>");
    assert_eq!(world.bodies(OWNER), ["out"]);
}

#[test]
fn what_did_not_arrive_goes_on_without_being_archived_again() {
    let mut world = World::new(1);
    let owner = world.available(OWNER, "r");
    let lamp = world.available(LAMP, "r");
    let enable = sm::Enable { resume: false, max: None };
    world.shards[0].enable_management(lamp.1, enable).unwrap();
    world.say(lamp, "<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>");
    world.say(owner, &chat(LAMP, "lost"));
    world.say(lamp, "<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2'/></iq>");
    assert_eq!(world.heard(lamp).matches("lost").count(), 2);
    world.shards[0].end(lamp.1);
    world.run();
    let lamp = (0, bind(&mut world.shards[0], LAMP, "other"));
    world.say(lamp, "<presence/>");
    let said = world.heard(lamp);
    assert_eq!((said.matches("lost").count(), said.matches("stanza-id").count()), (1, 1), "{said}");
    assert!(!said.contains("<result"), "{said}");
    assert_eq!(world.bodies(LAMP), ["lost"]);
}

#[test]
fn what_the_store_does_not_take_arrives_all_the_same() {
    let mut world = World::new(1);
    let (owner, lamp) = (world.available(OWNER, "r"), world.available(LAMP, "r"));
    world.only_say(owner, &chat(LAMP, "in"));
    while let Some(effect) = world.shards[0].poll_effect() {
        let Effect::Errand(account, _) = effect else { panic!("{effect:?}") };
        world.shards[0].errand_done(&account, Return::Archive(Err(CommitError::Store(StoreError::Busy))));
    }
    let said = world.heard(lamp);
    assert!(said.contains("in") && !said.contains("stanza-id"), "{said}");
    assert_eq!(world.shards[0].counters.not_archived, 2);
    // The operator takes the archive away while something is on its way into it.
    world.only_say(owner, &chat(LAMP, "late"));
    block_on(archive::forbid(&world.store, Jid::parse(LAMP).unwrap().as_jid())).unwrap();
    world.run();
    assert!(world.heard(lamp).contains("late"));
    world.only_say(owner, &chat(LAMP, "after"));
    assert!(world.heard(lamp).contains("after"), "it has none, and nobody waits");
    // And gives it back.
    block_on(archive::allow(&world.store, Jid::parse(LAMP).unwrap().as_jid())).unwrap();
    world.shards[0].account_changed(Jid::parse(LAMP).unwrap().as_jid());
    world.say(owner, &chat(LAMP, "again"));
    assert_eq!(world.bodies(LAMP), ["again"]);
}

#[test]
fn a_page_comes_before_its_end_and_after_what_was_said_before() {
    let mut world = World::new(1);
    let (owner, lamp) = (world.available(OWNER, "r"), world.available(LAMP, "r"));
    for body in ["one", "two"] {
        world.only_say(owner, &chat(LAMP, body));
    }
    let query = "<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2' queryid='7'/></iq>";
    assert_eq!(world.only_say(owner, query), Flow::Blocked);
    world.run();
    let said = world.heard(owner);
    let at = |text: &str| said.find(text).unwrap_or_else(|| panic!("{text} is not in {said}"));
    assert!(at("<body>one") < at("<body>two") && at("<body>two") < at("<fin"), "{said}");
    assert_eq!(said.matches("<result xmlns='urn:xmpp:mam:2' queryid='7'").count(), 2, "{said}");
    world.heard(lamp);
}

#[test]
fn a_recipient_that_does_not_read_holds_its_senders_up() {
    let mut world = World::new(1);
    let (owner, lamp) = (world.available(OWNER, "r"), world.available(LAMP, "r"));
    let message = chat(LAMP, &"m".repeat(200));
    let mut taken = 0;
    while world.only_say(owner, &message) == Flow::Continue {
        world.run();
        taken += 1;
        assert!(taken < 100, "nobody is held up");
    }
    assert_eq!(world.heard(lamp).matches("<body>").count(), taken);
    world.run();
    assert_eq!(world.only_say(owner, &message), Flow::Continue);
    // So does an archive that is not written.
    let mut taken = 0;
    while world.only_say(owner, &chat(PLAIN, &"m".repeat(200))) == Flow::Continue {
        taken += 1;
        assert!(taken < 100, "nobody is held up");
    }
    world.run();
    assert_eq!(world.only_say(owner, &message), Flow::Continue);
}

#[test]
fn what_an_enforced_thing_is_not_let_have_is_not_archived_either() {
    for count in [1, 2] {
        let mut world = World::new(count);
        let thing = ThingRecord {
            state: State::Claimed { owner: Jid::parse(PLAIN).unwrap(), public: true, removed: false },
            enforced: true,
            ..ThingRecord::new(Jid::parse(LAMP).unwrap(), NodeName::default())
        };
        block_on(world.store.commit(store::Batch { guards: Vec::new(), writes: vec![thing.put()] })).unwrap();
        let (owner, lamp) = (world.available(OWNER, "o"), world.available(LAMP, "l"));
        let command = "<body>set</body><set xmlns='urn:nf:iot:ctr:1.0'><b n='Output' v='true'/></set>";
        // While one is being stored it waits among others that will be stored together.
        world.only_say(owner, &chat(LAMP, "first"));
        world.only_say(owner, &chat(LAMP, "before"));
        world.only_say(owner, &format!("<message to='{LAMP}' type='chat'>{command}</message>"));
        world.only_say(owner, &chat(LAMP, "behind"));
        world.run();
        let heard = world.heard(lamp);
        assert!(heard.contains("before") && heard.contains("behind") && !heard.contains("<set "), "{heard}");
        assert!(world.heard(owner).contains("<forbidden "));
        assert_eq!(world.bodies(LAMP), ["first", "before", "behind"]);
        // Nor is it kept, or archived, while nobody is there.
        world.shards[lamp.0].end(lamp.1);
        world.say(owner, &format!("<message to='{LAMP}' type='chat'>{command}</message>"));
        assert!(world.heard(owner).contains("<forbidden "));
        assert_eq!(world.bodies(LAMP), ["first", "before", "behind"]);
    }
}
