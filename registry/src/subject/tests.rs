use plaza_core::iot::Generation;
use plaza_core::jid::Jid;
use plaza_core::provisioning::{Categories, Kind, Part, Tokens};
use plaza_core::stanza::IqType;
use plaza_core::thing::wire::Style;
use plaza_core::thing::{Tag, TagValue};
use serde_json::json;

use super::*;
use crate::archive::{self, ArchiveConfig, Entry};
use crate::avatars::{self, Avatar};
use crate::blocking::{self, Bounds};
use crate::offline::{self, OfflineHead, OfflineLimits};
use crate::private;
use crate::provisioning::{Level, Rule};
use crate::pubsub::{Config, Limits, Request};
use crate::rosters;
use crate::store::memory::MemoryStore;
use crate::testing::{jid, store_with};
use crate::things::{State, key_hash, owned_key};
use crate::vcards::{self, Vcard};
use crate::wait::block_on;

const NOW: u64 = 1_767_323_045_000;
const SERVICE: &str = "pubsub.things.example";
const NAMES: [&str; 3] = ["lamp@things.example", "owner@things.example", "streetlamp@things.example"];

/// Three accounts with something of all kinds, each naming the others.
fn world() -> (MemoryStore, Config) {
    let jids = NAMES.map(jid);
    let store = store_with(&jids[0]);
    for bare in &jids[1..] {
        block_on(accounts::create(&store, bare.as_jid(), keys(), false, 7)).unwrap();
    }
    let config = Config::new(Limits::DEFAULT, vec![jid("things.example")]);
    for one in &jids {
        for other in jids.iter().filter(|other| *other != one) {
            know(&store, &config, one, other);
        }
    }
    (store, config)
}

fn keys() -> accounts::NewKeys {
    accounts::NewKeys::derive("secret", &[1; 32], 1).unwrap()
}

fn thing(of: &Jid, owner: &Jid) -> ThingRecord {
    ThingRecord {
        state: State::Claimed { owner: owner.clone(), public: true, removed: false },
        key: Some(key_hash("k")),
        claim: Some([9; 32]),
        style: Style::of(Generation::Xsf),
        tags: vec![Tag { name: "SN".into(), value: TagValue::Str("1".into()) }],
        created: 1,
        updated: 2,
        version: 3,
        ..ThingRecord::new(of.clone(), NodeName { id: owner.as_str().replace('@', "-").into(), ..NodeName::default() })
    }
}

fn ask(store: &MemoryStore, config: &Config, host: &Host, caller: &Jid, payload: &str) {
    let (caller, iq_type) = (caller.with_resource("r").unwrap(), IqType::Set);
    let payload = format!("<pubsub xmlns='http://jabber.org/protocol/pubsub'>{payload}</pubsub>");
    let request = Request { host, caller: &caller, iq_type, payload: &payload, unix_millis: NOW };
    let facts = pubsub::Facts { subscribed: true, ..pubsub::Facts::default() };
    let reply = block_on(pubsub::answer(config, store, request, &facts));
    assert!(reply.result.is_ok(), "{payload}: {:?}", reply.result);
}

fn know(store: &MemoryStore, config: &Config, one: &Jid, other: &Jid) {
    let (owner, contact) = (one.as_jid(), other.as_jid());
    block_on(rosters::update(store, owner, contact, 9, |item| item.name = "a name".into())).unwrap();
    block_on(blocking::block(store, owner, std::slice::from_ref(other), Bounds { items_max: 9, bytes_max: 999 }))
        .unwrap();
    let entry = private::Entry { ns: "urn:a".into(), name: "a".into(), xml: Some(format!("<a>{one}</a>")) };
    block_on(private::save(store, owner, &[entry], 9)).unwrap();
    block_on(vcards::save(store, owner, &Vcard { xml: "<vCard/>".into(), avatar: None })).unwrap();
    block_on(avatars::save(store, owner, Some(&Avatar { media_type: "image/png".into(), image: vec![1] }))).unwrap();
    let stanza = format!("<message from='{other}/r' to='{one}'><body>hello</body></message>");
    let (limits, mut head) = (OfflineLimits::default(), OfflineHead::default());
    let before = block_on(offline::load(store, owner, &limits, NOW)).unwrap().len();
    (0..=before).for_each(|_| assert!(head.admit(&limits, stanza.len())));
    block_on(offline::store(store, owner, head, &[stanza.as_bytes().into()], "things.example", NOW)).unwrap();
    block_on(archive::allow(store, owner)).unwrap();
    let entry = Entry { with: format!("{other}/r").into(), stanza: stanza.as_bytes().into() };
    block_on(archive::store(store, owner, &ArchiveConfig::default(), &[entry], NOW)).unwrap();
    let known = block_on(archive::load_prefs(store, owner)).unwrap().always;
    let always = archive::Addresses::new(known.iter().map(JidRef::to_jid).chain([other.clone()]));
    block_on(archive::save_prefs(store, owner, &archive::Prefs { always, ..archive::Prefs::default() })).unwrap();
    let service = Host::Service(jid(SERVICE));
    let node = format!("by-{}", one.as_jid().local().unwrap());
    if block_on(store.get(Table::PubSub, &pubsub::count_key(owner))).unwrap().is_none() {
        ask(store, config, &service, one, &format!("<create node='{node}'/>"));
        ask(
            store,
            config,
            &Host::Account(one.clone()),
            one,
            "<publish node='urn:x'><item id='1'><x xmlns='urn:x'/></item></publish>",
        );
    }
    ask(store, config, &service, other, &format!("<create node='{node}-{}'/>", other.as_jid().local().unwrap()));
    let subscribe = |node: &str| format!("<subscribe node='{node}' jid='{other}'/>");
    ask(store, config, &service, other, &subscribe(&node));
    ask(store, config, &Host::Account(one.clone()), other, &subscribe("urn:x"));
    let thing = thing(one, other);
    let rule = Rule {
        number: NOW,
        text: other.as_str().into(),
        names: None,
        kind: Kind::Control,
        level: Level::Jid,
        allow: true,
        categories: Kind::Control.categories(),
    };
    let ruled = NodeName { id: format!("{}-too", thing.node.id).into(), ..NodeName::default() };
    let writes = vec![
        thing.put(),
        Write::Put { table: Table::Owners, key: owned_key(contact, owner, &thing.node), value: Vec::new() },
        rule.put(owner, &ruled),
        Write::Put {
            table: Table::Claims,
            key: [&[7; 32], one.as_str().as_bytes(), &[0, 0, 0], thing.node.id.as_bytes()].concat(),
            value: Vec::new(),
        },
        Write::Put { table: Table::ApiKeys, key: [b"o", one.as_str().as_bytes()].concat(), value: b"maker".to_vec() },
    ];
    block_on(store.commit(Batch { guards: Vec::new(), writes })).unwrap();
    let inquiry = provisioning::Inquiry {
        device: one.clone(),
        component: jid("things.things.example"),
        kind: Kind::Read,
        generation: Generation::Nf,
        remote: jid("bob@elsewhere.example"),
        tokens: Tokens::default(),
        parts: vec![(thing.node, Part { categories: Categories::ALL, names: None })],
    };
    let decisions = provisioning::Config::new(provisioning::Limits::DEFAULT, [7; 32]);
    assert!(!block_on(provisioning::ask(&decisions, store, &inquiry, NOW)).unwrap().is_empty());
}

/// All pages of an export, or of an erasure with its end.
fn all(store: &MemoryStore, subject: &str, erases: Option<&Config>) -> Page {
    let subject = jid(subject);
    let services = [jid(SERVICE)];
    let things = things::Config::new(things::Limits::DEFAULT, None);
    let eraser = erases.map(|pubsub| Eraser { pubsub, things: &things, services: &services, unix_millis: NOW });
    let mut all = Page::default();
    let mut from = Cursor::START;
    loop {
        let page = match &eraser {
            Some(eraser) => block_on(erase(eraser, store, subject.as_jid(), from)).unwrap(),
            None => block_on(export(store, subject.as_jid(), from)).unwrap(),
        };
        all.own.extend(page.own);
        page.traces.into_iter().for_each(|(trace, count)| *all.traces.entry(trace).or_default() += count);
        all.records += page.records;
        all.changed.extend(page.changed);
        let Some(next) = page.next else { break };
        from = Cursor::parse(&next.to_text()).unwrap();
        assert_eq!(from, next);
    }
    if let Some(eraser) = &eraser {
        block_on(finish(eraser, store, subject.as_jid())).unwrap();
    }
    all
}

fn everything(store: &MemoryStore) -> Vec<(Table, Vec<Pair>)> {
    Table::ALL.map(|table| (table, block_on(store.scan(table, &[], None, usize::MAX)).unwrap())).into()
}

/// What names an address elsewhere: table, what, how many.
fn elsewhere(page: &Page, subject: &str, removed: bool) -> Vec<(&'static str, &'static str, u64)> {
    let mut counts = BTreeMap::new();
    for (trace, count) in &page.traces {
        if trace.of != subject && trace.removed == removed {
            *counts.entry((trace.table, trace.what)).or_default() += count;
        }
    }
    counts.into_iter().map(|((table, what), count)| (table, what, count)).collect()
}

const KEPT: [(&str, &str, u64); 6] = [
    ("archives", "archive preference", 2),
    ("archives", "archived message", 2),
    ("blocklists", "blocked address", 2),
    ("offline", "message that waits for its recipient", 2),
    ("pubsub", "node it created, kept if another owns it too", 3),
    ("rosters", "contact", 2),
];

const REMOVED: [(&str, &str, u64); 10] = [
    ("apikeys", "which API key it was created with", 1),
    ("claims", "what claims its thing", 2),
    ("owners", "that its thing is owned", 2),
    ("pubsub", "affiliation", 3),
    ("pubsub", "count of its nodes", 1),
    ("pubsub", "index of its nodes", 7),
    ("pubsub", "subscription", 4),
    ("questions", "question about it", 2),
    ("rules", "rule about it", 2),
    ("things", "ownership of a thing", 2),
];

#[test]
fn an_export_tells_all_that_is_kept_and_changes_nothing() {
    let (store, _) = world();
    let before = everything(&store);
    let page = all(&store, NAMES[0], None);
    assert_eq!(everything(&store), before);
    assert_eq!(page.records, before.iter().map(|(_, pairs)| pairs.len() as u64).sum::<u64>());
    let mut told: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    page.own.iter().for_each(|(what, value)| told.entry(what).or_default().push(value));
    let counts: Vec<_> = told.iter().map(|(what, values)| (*what, values.len())).collect();
    let expected = [
        ("account", 1),
        ("affiliations_elsewhere", 3),
        ("archive", 2),
        ("archive_preferences", 1),
        ("avatar", 1),
        ("blocked", 1),
        ("created_with", 1),
        ("items", 1),
        ("nodes", 1),
        ("offline", 2),
        ("owned_things", 2),
        ("private", 1),
        ("questions", 2),
        ("roster", 2),
        ("rules", 2),
        ("subscriptions", 2),
        ("subscriptions_elsewhere", 4),
        ("things", 2),
        ("vcard", 1),
    ];
    assert_eq!(counts, expected);
    assert_eq!(told["roster"][0]["name"], "a name");
    assert_eq!(told["archive"][0]["with"], "owner@things.example/r");
    assert_eq!(told["archive"][0]["came"], "2026-01-02T03:04:05.000Z");
    assert_eq!(told["offline"][1]["number"], 1);
    assert_eq!(told["things"][0]["owner"], NAMES[1]);
    assert_eq!(told["owned_things"][0]["jid"], NAMES[1]);
    assert_eq!(told["affiliations_elsewhere"][0]["host"], SERVICE);
    assert_eq!(told["created_with"][0], &json!({ "key": "maker" }));
    assert_eq!((&told["rules"][0]["of"], &told["rules"][0]["name"]), (&json!("jid"), &json!(NAMES[1])));
    assert_eq!(told["questions"][0]["device"], NAMES[1]);
    assert_eq!(told["questions"][0]["from"], "bob@elsewhere.example");
    assert_eq!(told["things"][0]["style"], json!({ "namespaces": "urn:xmpp:iot:", "attributes": "long" }));
    assert_eq!(told["items"][0]["payload"], "<x xmlns='urn:x'/>");
    assert_eq!(elsewhere(&page, NAMES[0], true), REMOVED);
    assert_eq!(elsewhere(&page, NAMES[0], false), KEPT);
    // Neither the keys of the account nor those of its things.
    let text = page.own.iter().map(|(_, value)| value.to_string()).collect::<String>();
    let mut hash = String::new();
    hex(&mut hash, &key_hash("k"));
    assert!(!text.contains(&hash) && !text.contains("stored_key"));
}

#[test]
fn erasing_removes_what_was_told_and_nothing_of_anybody_elses() {
    let (store, config) = world();
    let others = NAMES[1..].iter().map(|name| all(&store, name, None).own.len()).sum::<usize>();
    let told = all(&store, NAMES[0], None);
    let erased = all(&store, NAMES[0], Some(&config));
    assert_eq!(elsewhere(&erased, NAMES[0], false), KEPT);
    for kind in elsewhere(&erased, NAMES[0], true) {
        // An index may have gone with what it points to, in the same page.
        assert!(elsewhere(&told, NAMES[0], true).contains(&kind), "{kind:?}");
    }
    let changed: std::collections::BTreeSet<&str> = erased.changed.iter().map(Jid::as_str).collect();
    assert_eq!(changed.into_iter().collect::<Vec<_>>(), &NAMES[1..]);

    let left = all(&store, NAMES[0], None);
    assert_eq!((left.own.len(), elsewhere(&left, NAMES[0], true)), (0, vec![]));
    let kept: Vec<_> =
        KEPT.into_iter().filter(|(_, what, _)| *what != "node it created, kept if another owns it too").collect();
    assert_eq!(elsewhere(&left, NAMES[0], false), kept, "nodes without another owner went");
    assert!(left.traces.keys().all(|trace| trace.of != NAMES[0]));
    assert_eq!(block_on(accounts::load(&store, jid(NAMES[0]).as_jid())), Ok(None));

    // Each of the others has lost a thing that it owned, a rule, a question, a subscriber, and what it subscribed to: the
    // nodes of an account that is gone, and one at the service that nobody owns any more.
    let rest = NAMES[1..].iter().map(|name| all(&store, name, None).own.len()).sum::<usize>();
    assert_eq!(others - rest, 12);
    for name in &NAMES[1..] {
        let things = block_on(crate::things::load_all(&store, &jid(name), None, 9)).unwrap();
        let (nobodys, owned): (Vec<_>, Vec<_>) = things.iter().partition(|thing| thing.owner().is_none());
        assert_eq!((nobodys.len(), owned.len()), (1, 1));
        assert!(nobodys[0].key.is_none() && nobodys[0].tags.is_empty() && nobodys[0].pending.clear_cache);
        assert_eq!((nobodys[0].state.clone(), nobodys[0].version), (State::Unclaimed, 4));
    }
    // Done again it finds nothing more to do.
    let before = everything(&store);
    all(&store, NAMES[0], Some(&config));
    assert_eq!(everything(&store), before);
}

#[test]
fn somebody_without_an_account_is_erased_too() {
    let (store, config) = world();
    let (stranger, lamp) = (jid("bard@elsewhere.example"), jid(NAMES[0]));
    let thing = thing(&lamp, &stranger);
    let owns = owned_key(stranger.as_jid(), lamp.as_jid(), &thing.node);
    let writes = vec![thing.put(), Write::Put { table: Table::Owners, key: owns.clone(), value: Vec::new() }];
    block_on(store.commit(Batch { guards: Vec::new(), writes })).unwrap();
    let told = all(&store, stranger.as_str(), None);
    assert_eq!(told.own.len(), 1);
    assert_eq!(elsewhere(&told, stranger.as_str(), true), [("things", "ownership of a thing", 1)]);
    all(&store, stranger.as_str(), Some(&config));
    assert_eq!(block_on(store.get(Table::Owners, &owns)), Ok(None));
    assert!(all(&store, stranger.as_str(), None).traces.is_empty());
    assert!(block_on(accounts::load(&store, lamp.as_jid())).unwrap().is_some());
}

#[test]
fn a_thing_of_an_erased_owner_is_claimed_by_nobody_and_one_of_an_erased_device_is_gone() {
    let [lamp, owner, _] = NAMES.map(jid);
    let store = store_with(&lamp);
    block_on(accounts::create(&store, owner.as_jid(), keys(), false, 7)).unwrap();
    let config = Config::new(Limits::DEFAULT, vec![jid("things.example")]);
    let things = things::Config::new(things::Limits::DEFAULT, None);
    let unclaimed = ThingRecord { state: State::Unclaimed, claim: None, ..thing(&lamp, &owner) };
    block_on(store.commit(Batch { guards: Vec::new(), writes: vec![unclaimed.put()] })).unwrap();
    block_on(things::assign(&things, &store, (&lamp, &unclaimed.node), &owner, true, NOW)).unwrap();
    let count = |table| block_on(store.scan(table, &[], None, 9)).unwrap().len();
    assert_eq!([Table::Things, Table::Claims, Table::Owners].map(count), [1, 1, 1]);
    all(&store, owner.as_str(), Some(&config));
    assert_eq!([Table::Things, Table::Claims, Table::Owners].map(count), [1, 0, 0]);
    assert_eq!(block_on(things::load(&store, &lamp, &unclaimed.node)).unwrap().unwrap().state, State::Unclaimed);
    all(&store, lamp.as_str(), Some(&config));
    assert_eq!([Table::Things, Table::Claims, Table::Owners].map(count), [0, 0, 0]);
}

#[test]
fn what_can_not_be_read_is_told_as_it_lies_there_and_ends_nothing() {
    let (store, config) = world();
    let [lamp, owner, _] = NAMES.map(jid);
    let broken = |table, key| Write::Put { table, key, value: vec![0xff] };
    let writes = vec![
        broken(Table::Vcards, key::account(lamp.as_jid())),
        broken(Table::Blocklists, key::account(owner.as_jid())),
    ];
    block_on(store.commit(Batch { guards: Vec::new(), writes })).unwrap();
    let told = all(&store, NAMES[0], None);
    assert!(told.own.iter().any(|(what, value)| *what == "damaged" && value["base64"] == "/w=="));
    assert!(elsewhere(&told, NAMES[0], false).contains(&("blocklists", "record that can't be read", 1)));
    all(&store, NAMES[0], Some(&config));
    assert!(all(&store, NAMES[0], None).own.is_empty());
}

#[test]
fn a_long_walk_comes_in_pages_that_each_have_a_bound() {
    let store = store_with(&jid(NAMES[0]));
    let lamp = jid(NAMES[0]);
    let put = |number: u64| Write::Put {
        table: Table::Private,
        key: [key::private(lamp.as_jid()), number.to_be_bytes().to_vec()].concat(),
        value: [&[1], &*vec![b'x'; 300]].concat(),
    };
    let writes = (0..10_000).map(put).collect();
    block_on(store.commit(Batch { guards: Vec::new(), writes })).unwrap();
    let (mut from, mut pages, mut records) = (Cursor::START, 0, 0);
    loop {
        let page = block_on(export(&store, lamp.as_jid(), from)).unwrap();
        assert!(page.records <= PAGE_RECORDS as u64 && page.records * 300 <= PAGE_BYTES as u64 + 301);
        records += page.records;
        pages += u32::from(page.records > 0);
        let Some(next) = page.next else { break };
        from = next;
    }
    assert_eq!((records, pages), (10_001, 4));
}
