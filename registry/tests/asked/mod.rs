//! Services asked by anybody for anything, a line at a time: no request panics, each is answered, and what is answered or told
//! is well-formed and within its bound. For the fuzz targets, and for the properties that run without them.

use std::cell::RefCell;
use std::sync::{Arc, LazyLock};

use plaza_core::jid::Jid;
use plaza_core::limits::ScanLimits;
use plaza_core::sasl::scram::{Hash, Keys};
use plaza_core::stanza::{IqType, Kind};
use plaza_core::thing::wire::Request as ThingRequest;
use plaza_core::thing::{NodeName, Operator, Tag, TagValue};
use plaza_core::xml::read::Node;
use plaza_core::xml::{Scanned, Scanner, StreamNamespaces};
use plaza_registry::accounts::NewKeys;
use plaza_registry::archive::{ArchiveConfig, Entry};
use plaza_registry::pubsub::{self, Facts, Host};
use plaza_registry::registration::Registrar;
use plaza_registry::services::{
    Component, ComponentKind, Effect, Request, ServiceConfig, ServiceLimits, Target, answer,
};
use plaza_registry::store::memory::MemoryStore;
use plaza_registry::subject::{self, Cursor};
use plaza_registry::things::index::{Budget, Index};
use plaza_registry::things::{self, Query};
use plaza_registry::wait::block_on;
use plaza_registry::{accounts, archive, provisioning};

/// A service with its name, that of the fuzz target and of the folder its seeds are in, and how many texts a test tries.
pub(crate) type Reader = (&'static str, u32, fn(&str));

/// All of them.
#[allow(dead_code, reason = "a fuzz target has one of them")]
pub(crate) const READERS: [Reader; 3] = [("pubsub", 200, pubsub), ("services", 400, services), ("search", 200, search)];

/// Most bytes of an answer: what it may hold of items, and what is around them.
const REPLY_BYTES_MAX: usize = 2 * 131_072;
/// A day in 2026.
const NOW: u64 = 1_767_323_045_000;
/// Most lines of a text that are asked.
const LINES_MAX: usize = 12;

fn jid(text: &str) -> Jid {
    Jid::parse(text).expect("an address")
}

/// The lines that a stream lets through, each as one element.
fn elements(text: &str) -> impl Iterator<Item = &str> {
    let passes = |line: &&str| {
        let (mut scanner, ns) = (Scanner::new(), StreamNamespaces::default());
        let scanned = scanner.next(&ScanLimits::AFTER_AUTH, &ns, line.as_bytes());
        matches!(scanned, Ok(Scanned::Element { consumed, .. }) if consumed == line.len())
    };
    text.lines().map(str::trim_ascii).filter(passes).take(LINES_MAX)
}

fn is_well_formed(written: &[u8], asked: &str) {
    let written = str::from_utf8(written).expect("UTF-8");
    assert!(Node::parse(written, "jabber:client").is_some(), "{written} of {asked}");
}

/// Publish-subscribe (XEP-0060), of a service and of an account, asked by its owner and by another.
pub(crate) fn pubsub(text: &str) {
    for host in [Host::Service(jid("pubsub.denmark.lit")), Host::Account(jid("hamlet@denmark.lit"))] {
        let config = pubsub::Config::new(pubsub::Limits::DEFAULT, vec![jid("denmark.lit")]);
        let store = MemoryStore::new();
        for payload in elements(text) {
            for (iq_type, caller) in [
                (IqType::Set, "hamlet@denmark.lit/elsinore"),
                (IqType::Set, "francisco@denmark.lit/barracks"),
                (IqType::Get, "hamlet@denmark.lit/elsinore"),
                (IqType::Get, "francisco@denmark.lit/barracks"),
            ] {
                let facts = Facts { subscribed: caller.starts_with("hamlet"), groups: Vec::new() };
                let caller = jid(caller);
                let request = || pubsub::Request { host: &host, caller: &caller, iq_type, payload, unix_millis: NOW };
                for reply in [
                    block_on(pubsub::answer(&config, &store, request(), &facts)),
                    block_on(pubsub::decide(&config, &store, request(), &facts)),
                ] {
                    let answered = match &reply.result {
                        Ok(payload) => payload,
                        Err(refusal) => &refusal.payload,
                    };
                    assert!(answered.len() <= REPLY_BYTES_MAX, "{} bytes for {payload}", answered.len());
                    let told = reply.notifications.iter().map(|one| &one.payload);
                    told.chain([answered]).filter(|written| !written.is_empty()).for_each(|written| {
                        is_well_formed(written, payload);
                    });
                }
            }
        }
    }
}

static SERVICES: LazyLock<Arc<ServiceConfig>> = LazyLock::new(|| {
    let component = |name: &str, kind| Component { jid: jid(name), name: name.to_owned(), kind };
    Arc::new(ServiceConfig {
        name: "Plaza".to_owned(),
        version: "0".to_owned(),
        node: "https://plaza.example".to_owned(),
        domains: vec![jid("things.example")],
        components: vec![
            component("things.things.example", ComponentKind::Things),
            component("pubsub.things.example", ComponentKind::Pubsub),
        ],
        roster_items_max: 5,
        limits: ServiceLimits::DEFAULT,
        pubsub: pubsub::Config::new(pubsub::Limits::DEFAULT, vec![jid("things.example")]),
        archive: ArchiveConfig::default(),
        things: things::Config::new(things::Limits::DEFAULT, None),
        registration: Registrar::off(),
        provisioning: provisioning::Config::new(provisioning::Limits::DEFAULT, [7; 32]),
    })
});

/// A store with an account that has an archive, with messages in it.
fn account(owner: &Jid) -> MemoryStore {
    let keys = |hash, bytes: usize| Keys {
        hash,
        salt: [1; 16].into(),
        iterations: 1,
        stored_key: vec![1; bytes].into(),
        server_key: vec![1; bytes].into(),
    };
    let store = MemoryStore::new();
    let keys = NewKeys { sha1: keys(Hash::Sha1, 20), sha256: keys(Hash::Sha256, 32) };
    block_on(accounts::create(&store, owner.as_jid(), keys, false, 7)).expect("an account");
    block_on(archive::allow(&store, owner.as_jid())).expect("an archive");
    for number in 0..3 {
        let stanza = format!("<message from='lamp@things.example' to='{owner}'><body>{number}</body></message>");
        let entries = [Entry { with: "lamp@things.example".into(), stanza: stanza.into_bytes().into() }];
        let stored = archive::store(&store, owner.as_jid(), &SERVICES.archive, &entries, NOW - 60_000 + number);
        block_on(stored).expect("an archive takes messages");
    }
    store
}

/// Rosters, archives, vCards and whatever else is asked of the server, an account or a service of it. What was kept can be read
/// afterwards, all of it.
pub(crate) fn services(text: &str) {
    let caller = jid("owner@things.example/desk");
    let owner = caller.bare();
    let store = account(&owner);
    for payload in elements(text) {
        let node = Node::parse(payload, "jabber:client").expect("well-formed");
        for (iq_type, target) in [
            (IqType::Set, Target::Account(owner.clone())),
            (IqType::Get, Target::Account(owner.clone())),
            (IqType::Get, Target::Account(jid("other@things.example"))),
            (IqType::Get, Target::Server(jid("things.example"))),
            (IqType::Set, Target::Server(jid("things.example"))),
            (IqType::Set, Target::Service(jid("things.things.example"))),
        ] {
            let request = Request {
                caller: caller.clone(),
                target,
                addressed: true,
                subscribed: true,
                kind: Kind::Iq,
                iq_type,
                id_raw: "1".into(),
                payload: payload.into(),
                payload_ns: node.ns.as_str().into(),
                payload_name: node.name.as_str().into(),
                unix_millis: NOW,
            };
            let reply = block_on(answer(Arc::clone(&SERVICES), store.clone(), request));
            let is_put_off = reply.effects.iter().any(|effect| matches!(effect, Effect::Ask(_) | Effect::Challenge(_)));
            assert!(reply.stanza.len() <= REPLY_BYTES_MAX, "{} bytes for {payload}", reply.stanza.len());
            assert!(is_put_off || !reply.stanza.is_empty(), "no answer to {payload}");
            if !reply.stanza.is_empty() {
                is_well_formed(&reply.stanza, payload);
            }
            for effect in &reply.effects {
                if let Effect::RosterPush { payload: told } | Effect::BlocklistPush { payload: told } = effect {
                    is_well_formed(told.as_bytes(), payload);
                }
            }
        }
    }
    let mut from = Some(Cursor::START);
    while let Some(cursor) = from {
        let again = Cursor::parse(&cursor.to_text());
        assert_eq!(again.as_ref(), Some(&cursor));
        let page = block_on(subject::export(&store, owner.as_jid(), cursor)).expect("a page");
        let damaged = page.own.iter().find(|(what, _)| *what == "damaged");
        assert!(damaged.is_none(), "{damaged:?} after {text}");
        from = page.next;
    }
}

/// Things that the index holds beside those of the text, so that sets are made of them and it does not look at each.
const OTHERS: usize = 5_000;

thread_local! {
    static INDEX: RefCell<Index> = RefCell::new({
        let mut index = Index::default();
        for number in 0..OTHERS {
            let tag = Tag { name: "other".into(), value: TagValue::Str(format!("{:x}", number * 7_919).into()) };
            index.put(jid("others@things.example").as_jid(), &node(number), &[tag]);
        }
        index
    });
}

fn node(number: usize) -> NodeName {
    NodeName { id: number.to_string().into(), ..NodeName::default() }
}

/// Which of the things are found, and whether pages of one give the same; `None` if that is too much work, or no search.
fn found(index: &Index, operators: &[Operator]) -> Option<Vec<NodeName>> {
    let search = |offset, max| {
        let query = Query { operators: operators.to_vec(), offset, max, telling: None };
        index.search(&query, &mut Budget::new(1_000_000_000, None)).ok()
    };
    let all = search(0, usize::MAX)?;
    assert!(!all.more);
    for (offset, thing) in all.things.iter().enumerate().take(3) {
        let page = search(offset, 1)?;
        assert_eq!((&page.things[..], page.more), (std::slice::from_ref(thing), offset + 1 < all.things.len()));
    }
    let ours = all.things.into_iter().filter(|(jid, _)| jid.as_str() == "ours@things.example").map(|(_, node)| node);
    Some(ours.collect())
}

/// Things and searches for them (XEP-0347): among thousands the same of them are found as of each by itself.
pub(crate) fn search(text: &str) {
    let (mut things, mut searches) = (Vec::new(), Vec::new());
    for payload in elements(text) {
        let payload = Node::parse(payload, "jabber:client").expect("well-formed");
        for iq_type in [IqType::Get, IqType::Set] {
            match ThingRequest::read(&payload, iq_type) {
                Some((_, Ok(ThingRequest::Register { tags, .. } | ThingRequest::Update { tags, .. }))) => {
                    things.push(tags.list);
                }
                Some((_, Ok(ThingRequest::Search(search)))) => searches.push(search.operators),
                Some(_) | None => {}
            }
        }
    }
    let ours = jid("ours@things.example");
    INDEX.with_borrow_mut(|index| {
        for (number, tags) in things.iter().enumerate() {
            index.put(ours.as_jid(), &node(number), tags);
        }
        for operators in &searches {
            let Some(mut among) = found(index, operators) else { continue };
            among.sort_unstable_by(|one, other| one.id.cmp(&other.id));
            let alone = (0..things.len()).map(node).filter(|node| {
                let mut index = Index::default();
                let number = node.id.parse::<usize>().expect("a number");
                index.put(ours.as_jid(), node, things.get(number).expect("a thing"));
                found(&index, operators).is_some_and(|found| found.len() == 1)
            });
            assert_eq!(among, alone.collect::<Vec<_>>(), "{operators:?}");
        }
        for number in 0..things.len() {
            index.remove(ours.as_jid(), &node(number));
        }
        assert_eq!(index.len(), OTHERS);
    });
}
