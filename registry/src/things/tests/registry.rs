//! The registry as it answers: every request in every style, and what is refused.

use plaza_core::iot::{Generation, Interface};
use plaza_core::stanza::{Condition, IqType, Kind};
use plaza_core::thing::NodeName;
use plaza_core::thing::wire::Dialect;

use super::super::testing::{LAMP, OTHER, OWNER, RACK, REGISTRY, STRANGER, World, in_ns};
use super::super::{
    Limits, Notice, Pending, State, acknowledged, asked_for_decision, load_all, notices, owned, rules_prefix,
};
use crate::services::{Effect, answer};
use crate::store::{Batch, Store, StoreError, Table, Write, key};
use crate::testing::jid;
use crate::wait::block_on;

const SET: &str = "<str name='SN' value='1'/><num name='V' value='1.5'/><str name='KEY' value='k'/>";

/// What is changed of whom.
fn changed(effects: &[Effect], account: &str) -> bool {
    effects == [Effect::ThingsChanged(vec![jid(account).bare()])]
}

#[test]
fn the_whole_story_in_every_generation_and_dialect() {
    for (generation, dialect) in [
        (Generation::Xsf, Dialect::Long),
        (Generation::Xsf, Dialect::Short),
        (Generation::Ieee, Dialect::Short),
        (Generation::Nf, Dialect::Short),
        (Generation::Nfi, Dialect::Short),
    ] {
        let world = World::new();
        let [id, src, _] = dialect.attrs();
        let at = format!("{id}='plc1' {src}='m'");
        let ns = Interface::Discovery.ns(generation);
        let ask = |caller: &str, request: &str| {
            let iq_type = if request.starts_with("<search") { IqType::Get } else { IqType::Set };
            let (answer, effects) = world.ask(caller, iq_type, &in_ns(generation, request));
            (answer.unwrap_or_else(|condition| condition.name().to_owned()), effects)
        };
        let node = NodeName { id: "plc1".into(), source: "m".into(), partition: "".into() };
        let thing = || block_on(load_all(&world.store, &jid(RACK).bare(), None, 2)).unwrap().pop();
        let told = || notices(&thing().unwrap());
        let rack = format!("jid='rack@things.example' {at}");

        let (answer, effects) = ask(RACK, &format!("<register {at}>{SET}</register>"));
        assert!(answer.is_empty() && changed(&effects, RACK), "{answer}");
        assert_eq!((thing().unwrap().node, thing().unwrap().style.dialect), (node.clone(), dialect));
        assert_eq!(ask(RACK, &format!("<register {at}>{SET}</register>")), (String::new(), vec![]));
        let update = format!("<update {at}><str name='ROOM' value='a'/></update>");
        assert_eq!(ask(RACK, &update), (format!("<disowned xmlns='{ns}' {at}/>"), vec![]));

        let (answer, effects) = ask(OWNER, &format!("<mine {at}>{SET}</mine>"));
        assert_eq!(answer, format!("<claimed xmlns='{ns}' {rack} public='true'/>"));
        assert!(changed(&effects, RACK));
        assert_eq!(
            told(),
            [
                (Notice::Claimed, format!("<claimed xmlns='{ns}' jid='owner@things.example' {at} public='true'/>")),
                (Notice::ClearCache, "<clearCache xmlns='urn:nf:iot:prov:d:1.0'/>".to_owned()),
            ]
        );
        let owns = block_on(owned(&world.store, jid(OWNER).as_jid().bare(), None, 2)).unwrap();
        assert_eq!(owns, [(jid(RACK).bare(), node.clone())]);
        let (answer, effects) = ask(RACK, &format!("<register {at}><str name='SN' value='2'/></register>"));
        assert_eq!(answer, format!("<claimed xmlns='{ns}' jid='owner@things.example' public='true'/>"));
        assert!(effects.is_empty());

        assert_eq!(ask(RACK, &update), (String::new(), vec![]));
        let by_owner = format!("<update {rack}><num name='LAT' value='-33.5'/></update>");
        assert_eq!(ask(OWNER, &by_owner), (String::new(), vec![]));
        let search = format!("<search {id}=''><strEq name='ROOM' value='a'/></search>");
        let whose = if generation == Generation::Xsf { " owner='owner@things.example'" } else { "" };
        assert_eq!(
            ask(OTHER, &search).0,
            format!(
                "<found xmlns='{ns}' more='false'><thing{whose} {rack}><str name='SN' value='1'/>\
                 <num name='V' value='1.5'/><str name='ROOM' value='a'/><num name='LAT' value='-33.5'/></thing></found>"
            )
        );

        let remove = format!("<remove {rack}/>");
        let (answer, effects) = ask(OWNER, &remove);
        assert!(answer.is_empty() && changed(&effects, RACK), "{answer}");
        assert_eq!(told()[1], (Notice::Removed, format!("<removed xmlns='{ns}' {at}/>")));
        assert_eq!(ask(OWNER, &remove), (String::new(), vec![]));
        assert_eq!(ask(OTHER, &search).0, format!("<found xmlns='{ns}' more='false'></found>"));
        for (caller, request) in [(RACK, &update), (OWNER, &by_owner)] {
            assert_eq!(ask(caller, request).0, "item-not-found");
        }
        let (answer, _) = ask(RACK, &format!("<register {at}>{SET}</register>"));
        assert_eq!(answer, format!("<claimed xmlns='{ns}' jid='owner@things.example' public='false'/>"));

        let (answer, effects) = ask(OWNER, &format!("<disown {rack}/>"));
        assert_eq!(answer, "later");
        let Some(Effect::Ask(ask_device)) = effects.into_iter().next() else { panic!("the device is asked") };
        assert_eq!((&ask_device.device, &ask_device.from), (&jid(RACK).bare(), &jid(REGISTRY)));
        assert_eq!(ask_device.payload, format!("<disowned xmlns='{ns}' {at}/>"));
        let (answer, effects) = world.asked(OWNER, *ask_device, true);
        assert!(answer.unwrap().is_empty() && changed(&effects, RACK));
        assert_eq!(thing().unwrap().state, State::Unclaimed);
        assert!(block_on(owned(&world.store, jid(OWNER).as_jid().bare(), None, 2)).unwrap().is_empty());
        assert_eq!(ask(RACK, &update).0, format!("<disowned xmlns='{ns}' {at}/>"));

        let (answer, effects) = ask(RACK, &format!("<unregister {at}/>"));
        assert!(answer.is_empty() && changed(&effects, RACK));
        assert_eq!(thing(), None);
        assert_eq!(ask(RACK, &format!("<unregister {at}/>")), (String::new(), vec![]));
        assert_eq!(ask(RACK, &update).0, "item-not-found");
        // Nothing is left of it.
        for table in [Table::Things, Table::Claims, Table::Owners, Table::Rules] {
            assert!(block_on(world.store.scan(table, &[], None, 1)).unwrap().is_empty(), "{table:?}");
        }
    }
}

#[test]
fn an_answer_is_in_the_generation_of_its_request_whatever_the_thing_speaks() {
    let world = World::new();
    let request = |generation, request: &str| in_ns(generation, request);
    world.ask(LAMP, IqType::Set, &request(Generation::Xsf, &format!("<register>{SET}</register>"))).0.unwrap();
    let mine = request(Generation::Nfi, &format!("<mine>{SET}</mine>"));
    let claimed = "jid='lamp@things.example' public='true'/>";
    assert_eq!(world.ask(OWNER, IqType::Set, &mine).0, Ok(format!("<claimed xmlns='urn:nfi:iot:disco:1.0' {claimed}")));
    let thing = world.thing(LAMP, "").unwrap();
    assert!(notices(&thing)[0].1.starts_with("<claimed xmlns='urn:xmpp:iot:discovery' "));
    block_on(asked_for_decision(&world.store, &thing.jid, &thing.node, Generation::Ieee)).unwrap();
    let told = notices(&world.thing(LAMP, "").unwrap());
    assert_eq!(told[1].1, "<clearCache xmlns='urn:ieee:iot:prov:d:1.0'/>");
}

#[test]
fn what_a_device_was_told_is_told_until_it_has_heard_of_it() {
    let world = World::new();
    world.set(LAMP, &format!("<register>{SET}</register>")).unwrap();
    world.set(OWNER, &format!("<mine>{SET}</mine>")).unwrap();
    let told = world.thing(LAMP, "").unwrap();
    let hears = |notice, version| {
        block_on(acknowledged(&world.store, &told.jid, &told.node, notice, version)).unwrap();
        world.thing(LAMP, "").unwrap().pending
    };
    let all = Pending { claimed: true, removed: false, clear_cache: true, since: told.version };
    // An answer to something older.
    assert_eq!(hears(Notice::Claimed, told.version - 1), all);
    assert_eq!(hears(Notice::Removed, told.version), all);
    assert_eq!(hears(Notice::Claimed, told.version), Pending { claimed: false, ..all });
    assert_eq!(hears(Notice::Claimed, told.version), Pending { claimed: false, ..all });
    assert!(!hears(Notice::ClearCache, told.version).any());
    // Of what is not there nothing is to be noted.
    let no = NodeName { id: "no".into(), ..NodeName::default() };
    block_on(acknowledged(&world.store, &told.jid, &no, Notice::Claimed, 9)).unwrap();
    world.store.refuse(Some(StoreError::Busy));
    let refused = block_on(acknowledged(&world.store, &told.jid, &told.node, Notice::Claimed, 9));
    assert_eq!(refused, Err(StoreError::Busy));
}

#[test]
fn a_thing_of_its_own_is_found_at_once_and_nobodys_to_claim() {
    let world = World::new();
    assert_eq!(world.set(LAMP, &format!("<register selfOwned='true'>{SET}</register>")), Ok(String::new()));
    let sn = "<strEq name='SN' value='1'/>";
    assert_eq!(world.found("", sn).0.len(), 1);
    for owner in [OWNER, LAMP] {
        assert_eq!(world.set(owner, &format!("<mine>{SET}</mine>")), Err(Condition::ItemNotFound));
    }
    let generation = Generation::Xsf;
    let search = in_ns(generation, &format!("<search>{sn}</search>"));
    let found = world.ask(STRANGER, IqType::Get, &search).0.unwrap();
    assert!(found.contains("<thing owner='lamp@things.example' jid='lamp@things.example'>"), "{found}");
    assert_eq!(world.set(LAMP, "<update><str name='SN' value=''/></update>"), Ok(String::new()));
    assert_eq!(world.found("", sn).0.len(), 0);
    // It names itself as somebody else would.
    assert_eq!(
        world.set(LAMP, "<update jid='lamp@things.example/x'><str name='SN' value='1'/></update>"),
        Ok(String::new())
    );
    assert_eq!(world.found("", sn).0.len(), 1);
    assert_eq!(world.set(LAMP, &format!("<register>{SET}</register>")), Ok(String::new()));
    assert_eq!(world.found("", sn).0.len(), 0);
    assert!(world.set(OWNER, &format!("<mine>{SET}</mine>")).is_ok());
}

#[test]
fn what_is_not_ones_own_is_as_if_it_were_not_there() {
    let world = World::new();
    world.set(LAMP, &format!("<register>{SET}</register>")).unwrap();
    let check = |caller: &str| {
        for device in ["lamp", "nothing"] {
            for request in [
                format!("<update jid='{device}@things.example'><str name='A' value='b'/></update>"),
                format!("<remove jid='{device}@things.example'/>"),
                format!("<disown jid='{device}@things.example'/>"),
            ] {
                assert_eq!(world.set(caller, &request), Err(Condition::ItemNotFound), "{request}");
            }
        }
    };
    check(OWNER);
    world.set(OWNER, &format!("<mine>{SET}</mine>")).unwrap();
    let before = world.thing(LAMP, "");
    check(OTHER);
    // Others' nodes are not to be registered, nor to be taken away.
    let register = "<register jid='lamp@things.example'><str name='A' value='b'/></register>";
    assert_eq!(world.set(OTHER, register), Err(Condition::Forbidden));
    assert_eq!(world.set(OTHER, "<unregister jid='lamp@things.example'/>"), Ok(String::new()));
    assert_eq!(world.thing(LAMP, ""), before);
}

#[test]
fn who_has_no_account_here_can_search_and_nothing_else() {
    let world = World::new();
    for request in [
        format!("<register>{SET}</register>"),
        format!("<mine>{SET}</mine>"),
        format!("<update>{SET}</update>"),
        "<remove jid='lamp@things.example'/>".to_owned(),
        "<disown jid='lamp@things.example'/>".to_owned(),
    ] {
        // From afar, and from an account that is gone meanwhile.
        assert_eq!(world.set(STRANGER, &request), Err(Condition::Forbidden), "{request}");
        assert!(world.set("gone@things.example/x", &request).is_err(), "{request}");
    }
    assert_eq!(world.set(STRANGER, "<unregister/>"), Ok(String::new()));
    assert!(world.search(STRANGER, "", "<strEq name='SN' value='1'/>").is_ok());
    world.set(LAMP, &format!("<register>{SET}</register>")).unwrap();
    let gone = Write::Delete { table: Table::Accounts, key: key::account(jid(LAMP).as_jid()) };
    block_on(world.store.commit(Batch { guards: Vec::new(), writes: vec![gone] })).unwrap();
    assert_eq!(world.set(LAMP, "<register><str name='A' value='b'/></register>"), Err(Condition::Forbidden));
    assert_eq!(world.set(LAMP, "<unregister/>"), Ok(String::new()));
}

#[test]
fn bad_requests_have_their_conditions() {
    let world = World::new();
    let many: String = (0..10_000).map(|n| format!("<num name='n{n}' value='1'/>")).collect();
    for (request, condition) in [
        (format!("<register>{many}</register>"), Condition::ResourceConstraint),
        ("<register><num name='V' value='1e999'/></register>".to_owned(), Condition::BadRequest),
        ("<register><num name='V' value='NaN'/></register>".to_owned(), Condition::BadRequest),
        ("<register><str name='' value='x'/></register>".to_owned(), Condition::BadRequest),
        ("<remove jid='@'/>".to_owned(), Condition::JidMalformed),
        ("<claimed jid='lamp@things.example'/>".to_owned(), Condition::FeatureNotImplemented),
        ("<search><strEq name='A' value='b'/></search>".to_owned(), Condition::FeatureNotImplemented),
    ] {
        assert_eq!(world.set(LAMP, &request), Err(condition), "{condition:?}");
    }
    assert_eq!(world.search(LAMP, "", ""), Err(Condition::BadRequest));
    assert_eq!(world.thing(LAMP, ""), None);
    assert_eq!(world.ask(LAMP, IqType::Set, "<x xmlns='urn:unknown'/>").0, Err(Condition::ServiceUnavailable));
    let mut message = world.request(LAMP, IqType::Set, "<x xmlns='jabber:x:data' type='submit'/>");
    message.kind = Kind::Message;
    let reply = block_on(answer(world.config.clone(), world.store.clone(), message));
    assert!(String::from_utf8(reply.stanza).unwrap().contains("<service-unavailable "));
}

#[test]
fn a_node_is_named_by_all_three_attributes_and_an_empty_one_is_none() {
    let world = World::new();
    let names =
        ["", "id='1'", "src='1'", "pt='1'", "id='1' src='1'", "id='1' pt='1'", "id='11'", "id='1' src='1' pt='1'"];
    for (n, name) in names.iter().enumerate() {
        let register = format!("<register {name} selfOwned='true'><num name='N' value='{n}'/></register>");
        assert_eq!(world.set(RACK, &register), Ok(String::new()));
    }
    assert_eq!(block_on(load_all(&world.store, &jid(RACK).bare(), None, 99)).unwrap().len(), names.len());
    for same in ["id='1' src='1' pt=''", "id='' src='1'", "id='' src='' pt=''"] {
        world.set(RACK, &format!("<register {same} selfOwned='true'/>")).unwrap();
    }
    let things = block_on(load_all(&world.store, &jid(RACK).bare(), None, 99)).unwrap();
    assert_eq!(things.len(), names.len());
    assert_eq!(things.iter().filter(|thing| thing.tags.is_empty()).count(), 3);
}

#[test]
fn an_account_registers_as_many_things_as_it_may() {
    let world = World::with(Limits { things_per_account_max: 2, ..Limits::DEFAULT }, true);
    let register = |id: &str| world.set(RACK, &format!("<register id='{id}'>{SET}</register>"));
    assert_eq!((register("1"), register("2")), (Ok(String::new()), Ok(String::new())));
    for _ in 0..3 {
        assert_eq!(register("3"), Err(Condition::ResourceConstraint));
    }
    // What is there can change, be claimed and disowned; of others there is room.
    assert_eq!(world.set(RACK, "<register id='1'><str name='A' value='b'/></register>"), Ok(String::new()));
    assert!(world.set(OWNER, &format!("<mine>{SET}</mine>")).is_ok());
    assert!(world.disown(OWNER, "<disown jid='rack@things.example' id='2'/>").is_ok());
    assert_eq!(world.set(LAMP, &format!("<register>{SET}</register>")), Ok(String::new()));
    assert_eq!(register("3"), Err(Condition::ResourceConstraint));
    assert_eq!(world.set(RACK, "<unregister id='3'/>"), Ok(String::new()));
    assert_eq!(register("3"), Err(Condition::ResourceConstraint));
    assert_eq!(world.set(RACK, "<unregister id='2'/>"), Ok(String::new()));
    assert_eq!((register("3"), register("4")), (Ok(String::new()), Err(Condition::ResourceConstraint)));
}

#[test]
fn a_quota_holds_when_all_register_at_once() {
    let world = World::with(Limits { things_per_account_max: 5, ..Limits::DEFAULT }, false);
    world.store.hold();
    let begin = |n| world.begin(RACK, &in_ns(Generation::Nf, &format!("<register id='{n}'>{SET}</register>")));
    let mut all: Vec<_> = (0..12).map(|n| (begin(n), None)).collect();
    while all.iter().any(|(_, done)| done.is_none()) {
        for (future, done) in all.iter_mut().filter(|(_, done)| done.is_none()) {
            *done = super::super::testing::poll(future).map(|reply| super::super::testing::said(&reply, RACK));
        }
        world.store.release();
    }
    world.store.release_all();
    let taken = all.iter().filter(|(_, done)| *done == Some(Ok(String::new()))).count();
    assert!(all.iter().all(|(_, done)| matches!(done, Some(Ok(_) | Err(Condition::ResourceConstraint)))));
    assert_eq!(taken, 5);
    assert_eq!(block_on(load_all(&world.store, &jid(RACK).bare(), None, 99)).unwrap().len(), 5);
}

#[test]
fn a_device_that_has_not_heard_keeps_its_owner() {
    let world = World::new();
    world.set(LAMP, &format!("<register>{SET}</register>")).unwrap();
    world.set(OWNER, &format!("<mine>{SET}</mine>")).unwrap();
    let disown = in_ns(Generation::Nf, "<disown jid='lamp@things.example'/>");
    let ask = || match world.ask(OWNER, IqType::Set, &disown).1.pop() {
        Some(Effect::Ask(ask)) => *ask,
        other => panic!("{other:?}"),
    };
    assert_eq!(world.asked(OWNER, ask(), false), (Err(Condition::NotAllowed), vec![]));
    assert!(world.thing(LAMP, "").unwrap().is_owned_by(jid(OWNER).as_jid()));
    // Asked twice at once: the second is too late.
    let (first, second) = (ask(), ask());
    assert_eq!(world.asked(OWNER, first, true).0, Ok(String::new()));
    assert_eq!(world.asked(OWNER, second, true), (Err(Condition::ItemNotFound), vec![]));
    assert_eq!(world.set(OWNER, "<disown jid='lamp@things.example'/>"), Err(Condition::ItemNotFound));
}

#[test]
fn a_disown_under_way_ends_no_later_claim() {
    let world = World::new();
    let register = || world.set(LAMP, &format!("<register>{SET}</register>")).unwrap();
    let claim = || world.set(OWNER, &format!("<mine>{SET}</mine>")).unwrap();
    let ask =
        || match world.ask(OWNER, IqType::Set, &in_ns(Generation::Nf, "<disown jid='lamp@things.example'/>")).1.pop() {
            Some(Effect::Ask(ask)) => *ask,
            other => panic!("{other:?}"),
        };
    register();
    claim();
    // It leaves and comes back, all in the same millisecond.
    let under_way = ask();
    world.set(LAMP, "<unregister/>").unwrap();
    register();
    claim();
    assert_eq!(world.asked(OWNER, under_way, true), (Err(Condition::ItemNotFound), vec![]));
    // It is given up and claimed again.
    let (first, second) = (ask(), ask());
    assert_eq!(world.asked(OWNER, first, true).0, Ok(String::new()));
    register();
    claim();
    assert_eq!(world.asked(OWNER, second, true), (Err(Condition::ItemNotFound), vec![]));
    assert!(world.thing(LAMP, "").unwrap().is_owned_by(jid(OWNER).as_jid()));
    // What its device or its owner says of it meanwhile makes no other claim of it.
    let last = ask();
    world.set(LAMP, "<update><str name='NAME' value='x'/></update>").unwrap();
    world.set(OWNER, "<remove jid='lamp@things.example'/>").unwrap();
    assert_eq!(world.asked(OWNER, last, true).0, Ok(String::new()));
}

#[test]
fn what_an_owner_allowed_goes_with_it() {
    let world = World::new();
    let (lamp, rule) = (jid(LAMP).bare(), || vec![1]);
    let rule_key = |id: &str| {
        let node = NodeName { id: id.into(), ..NodeName::default() };
        [rules_prefix(lamp.as_jid(), &node), b"rule".to_vec()].concat()
    };
    let allow = || {
        let put = |key| Write::Put { table: Table::Rules, key, value: rule() };
        let batch = Batch { guards: Vec::new(), writes: vec![put(rule_key("1")), put(rule_key("12"))] };
        block_on(world.store.commit(batch)).unwrap();
    };
    let rules = || block_on(world.store.scan(Table::Rules, &[], None, 9)).unwrap().len();
    let register = format!("<register id='1'>{SET}</register>");
    world.set(LAMP, &register).unwrap();
    allow();
    world.set(OWNER, &format!("<mine>{SET}</mine>")).unwrap();
    assert_eq!(rules(), 1);
    allow();
    world.set(OWNER, &format!("<mine public='false'>{SET}</mine>")).unwrap();
    world.set(OWNER, "<remove jid='lamp@things.example' id='1'/>").unwrap();
    world.set(LAMP, &register).unwrap();
    assert_eq!(rules(), 2);
    world.disown(OWNER, "<disown jid='lamp@things.example' id='1'/>").unwrap();
    assert_eq!(rules(), 1);
    allow();
    world.set(LAMP, "<unregister id='1'/>").unwrap();
    assert_eq!(rules(), 1);
}

#[test]
fn a_store_that_cannot_is_told_apart_from_one_that_will() {
    let world = World::new();
    for (refused, told) in
        [(StoreError::Busy, Condition::ResourceConstraint), (StoreError::Failed, Condition::InternalServerError)]
    {
        world.store.refuse(Some(refused));
        for request in [
            format!("<register>{SET}</register>"),
            format!("<mine>{SET}</mine>"),
            format!("<update>{SET}</update>"),
            "<remove jid='lamp@things.example'/>".to_owned(),
            "<disown jid='lamp@things.example'/>".to_owned(),
            "<unregister/>".to_owned(),
        ] {
            assert_eq!(world.set(LAMP, &request), Err(told), "{request}");
        }
    }
}

#[test]
fn the_registry_says_what_it_is() {
    let world = World::new();
    let info = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
    let (answer, _) = world.ask(STRANGER, IqType::Get, info);
    let answer = answer.unwrap();
    assert!(answer.starts_with(
        "<query xmlns='http://jabber.org/protocol/disco#info'>\
         <identity category='component' type='generic' name='Thing Registry'/>"
    ));
    let features: Vec<&str> =
        answer.split("<feature var='").skip(1).map(|rest| rest.split('\'').next().unwrap()).collect();
    assert!(features.is_sorted());
    for generation in Generation::ALL {
        for interface in Interface::ALL {
            assert_eq!(features.iter().filter(|one| **one == interface.ns(generation)).count(), 1);
        }
    }
    assert_eq!(features.len(), 3 * 4 + 2 + 5);
    let items = "<query xmlns='http://jabber.org/protocol/disco#items'/>";
    assert_eq!(world.ask(STRANGER, IqType::Get, items).0, Ok(items.to_owned()));
    for query in [info, items] {
        let of_node = query.replace("/>", " node='x'/>");
        assert_eq!(world.ask(STRANGER, IqType::Get, &of_node).0, Err(Condition::ItemNotFound));
        assert_eq!(world.ask(STRANGER, IqType::Set, query).0, Err(Condition::FeatureNotImplemented));
    }
    assert_eq!(world.ask(STRANGER, IqType::Get, "<ping xmlns='urn:xmpp:ping'/>").0, Ok(String::new()));
    let version = world.ask(STRANGER, IqType::Get, "<query xmlns='jabber:iq:version'/>").0.unwrap();
    assert!(version.contains("<name>Plaza</name>"));
    // It is no publish-subscribe service.
    let pubsub = "<pubsub xmlns='http://jabber.org/protocol/pubsub'><create node='a'/></pubsub>";
    assert_eq!(world.ask(OWNER, IqType::Set, pubsub).0, Err(Condition::ServiceUnavailable));
}
