use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::rosters;
use crate::store::StoreError;

#[test]
fn an_answer_is_a_rule_from_the_next_question_on_and_voids_what_the_device_keeps() {
    let world = World::new();
    for (kind, attrs, allowed) in [
        (Kind::Friend, "", "<R result='true'/>"),
        (Kind::Read, "m='true'", "<R m='true' result='true'/>"),
        (Kind::Control, "", "<R result='true'/>"),
    ] {
        let tell = only(world.can(LAMP, kind, attrs, "").1);
        let before = world.thing(LAMP, "");
        let origin = if kind == Kind::Friend { "" } else { "<fromJid/>" };
        let told = world.answer(&tell, "result='true'", origin).unwrap();
        assert_eq!((told.changed, told.payload), (vec![jid(LAMP)], vec![]));
        let after = world.thing(LAMP, "");
        assert!(after.pending.clear_cache && after.version > before.version);
        assert_eq!(world.can(LAMP, kind, attrs, ""), (allowed.to_owned(), vec![]));
        // An answer answers once.
        assert_eq!(world.answer(&tell, "result='true'", origin), Err(Condition::ItemNotFound));
    }
    assert_eq!((world.all(Table::Questions), world.all(Table::Rules).len()), (vec![], 3));
    // Of another one nothing is known.
    assert!(world.can(LAMP, Kind::Friend, "jid='c@x.example'", "").0.contains("result='false'"));
}

#[test]
fn an_answer_holds_for_whom_it_says() {
    for (kind, attrs, inside, same, domain, token, other) in [
        (Kind::Friend, "", "", true, false, false, false),
        (Kind::Friend, "range='Domain'", "", true, true, true, false),
        (Kind::Friend, "range='All'", "", true, true, true, true),
        (Kind::Read, "", "<fromJid/>", true, false, false, false),
        (Kind::Read, "", "<fromDomain/>", true, true, true, false),
        (Kind::Read, "", "<fromUser token='u'/>", false, false, true, false),
        (Kind::Control, "", "<fromDevice token='d'/>", false, false, true, false),
        (Kind::Control, "", "<fromService token='s'/>", false, false, true, false),
        (Kind::Control, "", "<all/>", true, true, true, true),
    ] {
        let world = World::with_tokens("x u d s");
        let inside = inside.replace("token='", &format!("token='{COMPONENT}:"));
        let tokens = format!("m='true' ut='{}' dt='{}' st='{}'", tokens("x u"), tokens("d"), tokens("s"));
        let tell = only(world.can(LAMP, kind, &tokens, "").1);
        world.answer(&tell, &format!("result='true' {attrs}"), &inside).unwrap();
        let may = |attrs: &str| world.can(LAMP, kind, attrs, "").0.contains("result='true'");
        let tokens = format!("jid='c@x.example' {tokens}");
        let found =
            [may("m='true'"), may("jid='c@x.example' m='true'"), may(&tokens), may("jid='c@y.example' m='true'")];
        assert_eq!(found, [same, domain, token, other], "{kind:?} {attrs} {inside}");
    }
}

#[test]
fn what_an_owner_leaves_out_of_an_answer_is_refused_and_not_asked_again() {
    let world = World::new();
    let fields = "<f n='T'/><f n='H'/>";
    let tell = only(world.can(LAMP, Kind::Read, "m='true' h='true'", fields).1);
    world.answer(&tell, "result='true'", "<partial m='true'><f n='T'/></partial><fromJid/>").unwrap();
    let (answer, tells) = world.can(LAMP, Kind::Read, "m='true' h='true'", fields);
    assert_eq!((answer.as_str(), tells), ("<R m='true' result='true'><f n='T'/></R>", vec![]));
    // What the owner was not shown is open still.
    let (answer, tells) = world.can(LAMP, Kind::Read, "m='true' i='true'", "<f n='T'/>");
    assert_eq!(answer, "<R m='true' result='true'><f n='T'/></R>");
    let tell = only(tells);
    assert!(tell.payload.ends_with(" i='true'><f n='T'/></canRead>"), "{}", tell.payload);
    world.answer(&tell, "result='true'", "<fromJid/>").unwrap();
    assert_eq!(world.all(Table::Rules).len(), 1, "one that says everything takes the place of all");
    let (answer, _) = world.can(LAMP, Kind::Read, "all='true'", "");
    assert_eq!(answer, "<R all='true' result='true'/>");
}

#[test]
fn a_question_that_grew_is_refused_as_far_as_it_was_shown() {
    let world = World::new();
    let tell = only(world.can(LAMP, Kind::Control, "", "<p n='A'/><p n='B'/>").1);
    assert_eq!(world.can(LAMP, Kind::Control, "", "<p n='C'/>").1, []);
    world.answer(&tell, "result='true'", "<partial><p n='A'/></partial><fromJid/>").unwrap();
    let (answer, tells) = world.can(LAMP, Kind::Control, "", "<p n='A'/><p n='B'/><p n='C'/>");
    assert_eq!(answer, "<R result='true'><p n='A'/></R>");
    assert!(only(tells).payload.ends_with("><p n='C'/></canControl>"));
}

#[test]
fn a_rejection_names_no_node_and_is_about_the_one_that_was_asked_about() {
    let world = World::new();
    let (_, tells) = world.can(RACK, Kind::Read, "m='true'", "<nd id='1'/><nd id='2'/>");
    let [first, second] = <[Tell; 2]>::try_from(tells).unwrap();
    assert_eq!(world.answer(&first, "result='false'", "<nd id='2'/><all/>"), Err(Condition::ItemNotFound));
    world.answer(&first, "result='false'", "<nd id=''/><all/>").unwrap();
    world.answer(&second, "result='true'", "<nd id='2'/><all/>").unwrap();
    let (answer, tells) = world.can(RACK, Kind::Read, "m='true'", "<nd id='1'/><nd id='2'/>");
    assert_eq!((answer.as_str(), tells), ("<R m='true' result='true'><nd id='2'/></R>", vec![]));
    assert!(world.thing(RACK, "1").pending.clear_cache && world.thing(RACK, "2").pending.clear_cache);
}

#[test]
fn an_answer_with_another_key_kind_or_stranger_or_from_another_is_to_no_question() {
    let world = World::new();
    let tell = only(world.can(LAMP, Kind::Friend, "", "").1);
    let change = |from: &str, to: &str| Tell { payload: tell.payload.replace(from, to), ..tell.clone() };
    let not_found = Err(Condition::ItemNotFound);
    assert_eq!(world.answer_as("other@things.example", &tell, "result='true'", ""), not_found);
    let key = Node::parse(&tell.payload, "").unwrap().attr("key").unwrap().to_owned();
    assert_eq!(world.answer(&change(&key, "0123"), "result='true'", ""), not_found);
    assert_eq!(world.answer(&change("b@x.example", "c@x.example"), "result='true'", ""), not_found);
    assert_eq!(world.answer(&change("lamp@", "rack@"), "result='true'", ""), not_found);
    assert_eq!(world.answer(&change("isFriend", "canRead"), "result='true'", "<all/>"), not_found);
    assert!(world.all(Table::Rules).is_empty() && !world.thing(LAMP, "").pending.clear_cache);
    world.answer(&tell, "result='true'", "").unwrap();
}

#[test]
fn a_former_owner_is_forbidden_and_a_new_one_begins_anew() {
    let world = World::new();
    let tell = only(world.can(LAMP, Kind::Friend, "", "").1);
    let other = only(world.can(LAMP, Kind::Control, "", "").1);
    world.answer(&other, "result='true'", "<all/>").unwrap();
    let (before, next) = (world.thing(LAMP, ""), jid("next@things.example"));
    // Disowned, with one question open and one rule made.
    let writes = block_on(purge(&world.store, &before, None)).unwrap();
    world.commit(writes);
    world.put(&thing(LAMP, "", None));
    assert_eq!(world.answer(&tell, "result='true'", ""), Err(Condition::Forbidden));
    assert_eq!(world.answer(&other, "result='true'", "<all/>"), Err(Condition::Forbidden));
    assert_eq!(world.answer_as("third@things.example", &tell, "result='true'", ""), Err(Condition::ItemNotFound));
    assert!(world.all(Table::Rules).is_empty());
    // Claimed by another one.
    let writes = block_on(purge(&world.store, &world.thing(LAMP, ""), Some(&next))).unwrap();
    world.commit(writes);
    world.put(&thing(LAMP, "", Some(next.as_str())));
    assert_eq!(world.answer(&tell, "result='true'", ""), Err(Condition::Forbidden));
    let (answer, tells) = world.can(LAMP, Kind::Control, "", "");
    assert_eq!(answer, "<R result='false'/>");
    assert_eq!(only(tells).to, next);
    // Whoever owns it again is no former owner.
    let writes = block_on(purge(&world.store, &world.thing(LAMP, ""), Some(&jid(OWNER)))).unwrap();
    world.commit(writes);
    world.put(&thing(LAMP, "", Some(OWNER)));
    assert_eq!(world.answer(&tell, "result='true'", ""), Err(Condition::ItemNotFound));
}

#[test]
fn an_owner_that_was_replaced_without_a_word_is_forbidden_too() {
    let world = World::new();
    let tell = only(world.can(LAMP, Kind::Friend, "", "").1);
    world.put(&thing(LAMP, "", Some("next@things.example")));
    assert_eq!(world.answer(&tell, "result='true'", ""), Err(Condition::Forbidden));
    assert!(world.all(Table::Rules).is_empty());
}

#[test]
fn a_friend_is_recommended_who_asked_and_one_that_is_none_any_more_is_given_up() {
    let world = World::new();
    let mut owner_less = world.ask(LAMP, "<isFriend xmlns='urn:ieee:iot:prov:d:1.0' jid='b@x.example'/>").1;
    let told = world.answer(&owner_less.remove(0), "result='true' range='Caller'", "").unwrap();
    let tell = only(told.tells);
    assert_eq!((tell.to.as_str(), tell.from.as_str()), (LAMP, COMPONENT));
    assert_eq!(tell.payload, "<friend xmlns='urn:ieee:iot:prov:d:1.0' jid='b@x.example'/>");
    let answered = |stranger: &str, attrs: &str| {
        let tell = only(world.can(LAMP, Kind::Friend, &format!("jid='{stranger}'"), "").1);
        world.answer(&tell, attrs, "").unwrap().tells
    };
    assert_eq!(answered("c@y.example", "result='false'"), [], "never a contact");
    assert_eq!(answered("d@y.example", "result='true' range='Domain'"), []);
    // A contact, by a subscription in either direction.
    let lamp = crate::testing::store_with(&jid(LAMP));
    let roster = |contact: &str| {
        let contact = jid(contact);
        block_on(rosters::update(&lamp, JidRef::from_normal(LAMP), contact.as_jid(), 9, |item| {
            item.subscription = rosters::Subscription::From;
        }))
        .unwrap();
    };
    roster("e@z.example");
    for (key, value) in block_on(lamp.scan(Table::Rosters, b"", None, 99)).unwrap() {
        world.commit(vec![Write::Put { table: Table::Rosters, key, value }]);
    }
    let tell = only(answered("e@z.example", "result='false'"));
    assert_eq!(tell.payload, "<unfriend xmlns='urn:nf:iot:prov:d:1.0' jid='e@z.example'/>");
}

#[test]
fn rules_of_a_thing_are_bounded() {
    let mut world = World::new();
    world.config.limits.rules_max = 2;
    for stranger in ["c@x.example", "d@x.example"] {
        let tell = only(world.can(LAMP, Kind::Friend, &format!("jid='{stranger}'"), "").1);
        world.answer(&tell, "result='true'", "").unwrap();
    }
    let tell = only(world.can(LAMP, Kind::Friend, "", "").1);
    assert_eq!(world.answer(&tell, "result='true'", ""), Err(Condition::ResourceConstraint));
    world.config.limits = Limits { origin_rules_max: 1, ..Limits::DEFAULT };
    let tell = only(world.can(LAMP, Kind::Control, "", "<p n='A'/>").1);
    world.answer(&tell, "result='true'", "<partial><p n='A'/></partial><fromJid/>").unwrap();
    let tell = only(world.can(LAMP, Kind::Control, "", "<p n='B'/>").1);
    let part = "<partial><p n='B'/></partial><fromJid/>";
    assert_eq!(world.answer(&tell, "result='true'", part), Err(Condition::ResourceConstraint));
    world.answer(&tell, "result='true'", "<fromJid/>").unwrap();
}

#[test]
fn two_answers_at_once_are_both_kept() {
    let world = World::new();
    let questions: Vec<Tell> =
        (0..8).map(|n| only(world.can(LAMP, Kind::Friend, &format!("jid='s{n}@x.example'"), "").1)).collect();
    std::thread::scope(|scope| {
        for tell in &questions {
            scope.spawn(|| world.answer(tell, "result='true'", "").unwrap());
        }
    });
    assert_eq!(world.all(Table::Rules).len(), 8);
    // How the device speaks was noted, too.
    assert_eq!(world.thing(LAMP, "").version, 9);
}

#[test]
fn a_busy_store_stores_nothing_by_half() {
    let world = World::new();
    let tell = only(world.can(LAMP, Kind::Friend, "", "").1);
    world.store.refuse(Some(crate::store::StoreError::Busy));
    assert_eq!(world.answer(&tell, "result='true'", ""), Err(Condition::ResourceConstraint));
    world.store.refuse(None);
    assert!(world.all(Table::Rules).is_empty() && !world.thing(LAMP, "").pending.clear_cache);
    world.answer(&tell, "result='true'", "").unwrap();
}

#[test]
fn an_owner_sees_all_its_devices_in_pages_in_the_generation_it_asks_in() {
    let world = World::new();
    let tags = vec![
        plaza_core::thing::Tag { name: "CLASS".into(), value: plaza_core::thing::TagValue::Str("a<b".into()) },
        plaza_core::thing::Tag { name: "LAT".into(), value: plaza_core::thing::TagValue::Num(-33.5) },
    ];
    world.put(&ThingRecord { tags, ..world.thing(LAMP, "") });
    let get = |payload: &str| String::from_utf8(world.own(OWNER, IqType::Get, payload).unwrap().payload).unwrap();
    let lamp =
        "<thing jid='lamp@things.example'><str name='CLASS' value='a&lt;b'/><num name='LAT' value='-33.5'/></thing>";
    let rack = |id: &str| format!("<thing jid='rack@things.example' id='{id}'></thing>");
    for generation in [Generation::Ieee, Generation::Nf, Generation::Nfi] {
        let (asked, found) = (Interface::Owner.ns(generation), Interface::Discovery.ns(generation));
        let page = |attrs: &str| get(&format!("<getDevices xmlns='{asked}' {attrs}/>"));
        let expected = |more: bool, things: &str| format!("<found xmlns='{found}' more='{more}'>{things}</found>");
        assert_eq!(page(""), expected(false, &format!("{lamp}{}{}", rack("1"), rack("2"))));
        assert_eq!(page("maxCount='1'"), expected(true, lamp));
        assert_eq!(page("offset='1' maxCount='1'"), expected(true, &rack("1")));
        assert_eq!(page("offset='2' maxCount='1'"), expected(false, &rack("2")));
        assert_eq!(page("offset='9'"), expected(false, ""));
    }
    for n in 0..250 {
        world.put(&thing(RACK, &format!("n{n}"), Some(OWNER)));
    }
    let page = get("<getDevices xmlns='urn:nf:iot:prov:o:1.0' offset='150' maxCount='9999'/>");
    assert_eq!(page.matches("<thing ").count(), 100);
    assert!(page.contains("more='true'"));
    let page = get("<getDevices xmlns='urn:nf:iot:prov:o:1.0' offset='153'/>");
    assert_eq!((page.matches("<thing ").count(), page.contains("more='false'")), (100, true));
}

#[test]
fn caches_are_cleared_of_one_thing_of_a_device_or_of_all() {
    let clear = |attrs: &str| {
        let world = World::new();
        let told = world.own(OWNER, IqType::Set, &format!("<clearCache xmlns='urn:nf:iot:prov:o:1.0' {attrs}/>"));
        let things = [(LAMP, ""), (RACK, "1"), (RACK, "2"), (RACK, "3")];
        let pending = things.map(|(device, id)| world.thing(device, id).pending.clear_cache);
        (told.map(|told| told.changed), pending)
    };
    let (lamp, rack) = (jid(LAMP), jid(RACK));
    assert_eq!(clear(""), (Ok(vec![lamp.clone(), rack.clone()]), [true, true, true, false]));
    assert_eq!(clear("jid='lamp@things.example' id=''"), (Ok(vec![lamp]), [true, false, false, false]));
    assert_eq!(clear("jid='rack@things.example/r'"), (Ok(vec![rack.clone()]), [false, true, true, false]));
    assert_eq!(clear("jid='rack@things.example' id='2'"), (Ok(vec![rack]), [false, false, true, false]));
    for attrs in ["jid='rack@things.example' id='3'", "jid='rack@things.example' id='9'", "jid='no@things.example'"] {
        assert_eq!(clear(attrs), (Err(Condition::ItemNotFound), [false; 4]), "{attrs}");
    }
    let world = World::new();
    let all = "<clearCache xmlns='urn:nf:iot:prov:o:1.0'/>";
    assert_eq!(world.own("other@things.example", IqType::Set, all), Ok(Told::default()));
    let one = "<deleteRules xmlns='urn:nf:iot:prov:o:1.0' jid='lamp@things.example'/>";
    assert_eq!(world.own("other@things.example", IqType::Set, one), Err(Condition::ItemNotFound));
}

#[test]
fn a_device_whose_rules_are_deleted_begins_anew() {
    let world = World::new();
    for id in ["1", "2"] {
        let nd = format!("<nd id='{id}'/>");
        let tell = only(world.can(RACK, Kind::Control, "", &nd).1);
        world.answer(&tell, "result='true'", "<all/>").unwrap();
        assert_eq!(world.can(RACK, Kind::Friend, "", "").1, []);
        let tell = only(world.can(RACK, Kind::Read, "m='true'", &nd).1);
        assert_eq!(tell.to.as_str(), OWNER);
    }
    world.put(&ThingRecord { pending: Pending::default(), ..world.thing(RACK, "1") });
    world.put(&ThingRecord { pending: Pending::default(), ..world.thing(RACK, "2") });
    let delete = "<deleteRules xmlns='urn:nf:iot:prov:o:1.0' jid='rack@things.example' id='1'/>";
    assert_eq!(world.own(OWNER, IqType::Set, delete).unwrap().changed, [jid(RACK)]);
    assert!(world.thing(RACK, "1").pending.clear_cache && !world.thing(RACK, "2").pending.clear_cache);
    let (answer, tells) = world.can(RACK, Kind::Control, "", "<nd id='1'/><nd id='2'/>");
    assert_eq!(answer, "<R result='true'><nd id='2'/></R>");
    assert!(only(tells).payload.contains("<nd id='1'/>"));
    assert_eq!(world.can(RACK, Kind::Read, "m='true'", "<nd id='1'/><nd id='2'/>").1.len(), 1, "asked about again");
    let all = "<deleteRules xmlns='urn:nf:iot:prov:o:1.0'/>";
    assert_eq!(world.own(OWNER, IqType::Set, all).unwrap().changed, [jid(LAMP), jid(RACK)]);
    assert!(world.all(Table::Rules).is_empty() && world.all(Table::Questions).is_empty());
}

#[test]
fn what_was_changed_before_the_store_failed_is_told() {
    let world = World::new();
    for n in 100..220 {
        world.put(&thing(RACK, &format!("n{n}"), Some(OWNER)));
    }
    let Write::Put { table, key, .. } = thing(RACK, "n219", Some(OWNER)).put() else { panic!() };
    let writes = vec![Write::Put { table, key, value: vec![0xFF] }];
    block_on(world.store.commit(Batch { guards: Vec::new(), writes })).unwrap();
    let told = world.own(OWNER, IqType::Set, "<deleteRules xmlns='urn:nf:iot:prov:o:1.0'/>").unwrap();
    assert_eq!(told.changed, [jid(LAMP), jid(RACK)]);
    assert_eq!(told.failed, Some(Condition::InternalServerError));
    assert!(world.thing(RACK, "n110").pending.clear_cache && !world.thing(RACK, "n218").pending.clear_cache);
}

#[test]
fn a_rule_that_is_stored_is_held_with_the_accounts_facts() {
    let store = crate::testing::store_with(&jid(LAMP));
    let world = World { store, ..World::new() };
    let facts = || block_on(crate::facts::load(&world.store, JidRef::from_normal(LAMP))).unwrap().unwrap();
    assert_eq!(facts().things, None);
    let empty = facts().bytes();
    world.put(&thing(LAMP, "", Some(OWNER)));
    let tell = only(world.can(LAMP, Kind::Friend, "", "").1);
    world.answer(&tell, "result='true'", "").unwrap();
    let facts = facts();
    let things = facts.things.as_deref().unwrap();
    let one = things.iter().next().unwrap();
    assert_eq!((one.node(), one.owner.as_ref(), one.rules().len()), (node(""), Some(&jid(OWNER)), 1));
    assert!(one.pending.clear_cache && !one.enforced && one.has_rules());
    assert!(facts.bytes() >= empty + things.heap_bytes());
}

#[test]
fn an_account_that_is_removed_leaves_no_rule_and_no_question() {
    let world = World::new();
    let tell = only(world.can(LAMP, Kind::Friend, "", "").1);
    world.answer(&tell, "result='true'", "").unwrap();
    world.can(LAMP, Kind::Control, "", "");
    for account in [LAMP, OWNER] {
        let writes = block_on(forget(&world.store, JidRef::from_normal(account))).unwrap();
        world.commit(writes);
    }
    assert!(world.all(Table::Rules).is_empty() && world.all(Table::Questions).is_empty());
}

#[test]
fn part_of_everything_is_no_part() {
    // The owner allows all that was asked for by naming it: nothing is left to refuse.
    let world = World::new();
    let tell = only(world.can(LAMP, Kind::Read, "m='true'", "<f n='T'/>").1);
    world
        .answer(&tell, "result='true'", "<partial m='true' p='true'><f n='T'/><f n='H'/></partial><fromJid/>")
        .unwrap();
    assert_eq!(world.all(Table::Rules).len(), 1);
    assert_eq!(Part::everything(Kind::Read).categories, Categories::ALL);
    let still = Guard::Present { table: Table::Rules, key: world.all(Table::Rules)[0].0.clone() };
    block_on(world.store.commit(Batch { guards: vec![still], writes: vec![] })).unwrap();
}

#[test]
fn more_things_and_rules_than_a_page_holds_are_all_held() {
    let world = World::new();
    for n in 0..1_500 {
        let thing = thing(RACK, &format!("n{n}"), Some(OWNER));
        let rule = rule(n, Kind::Read, Level::Jid, STRANGER, true);
        world.commit(vec![thing.put(), rule.put(thing.jid.as_jid(), &thing.node)]);
    }
    let home = world.home(RACK).unwrap();
    assert_eq!(home.iter().count(), 1_503);
    assert_eq!(home.iter().filter(|thing| thing.has_rules()).count(), 1_500);
}

#[test]
fn whoever_gave_a_thing_back_has_nothing_to_say_about_it_any_more() {
    let world = World::new();
    let tell = only(world.can(LAMP, Kind::Friend, "", "").1);
    let other = only(world.can(LAMP, Kind::Control, "", "").1);
    world.answer(&other, "result='true'", "<all/>").unwrap();
    let registry = things::Config::new(things::Limits::DEFAULT, None);
    block_on(things::release(&registry, &world.store, (&jid(LAMP), &node("")), NOW)).unwrap();
    assert_eq!(world.answer(&tell, "result='true'", ""), Err(Condition::Forbidden));
    assert!(world.all(Table::Rules).is_empty());
    let lamp = world.thing(LAMP, "");
    assert!(lamp.pending.clear_cache && lamp.owner().is_none());
    assert_eq!(world.can(LAMP, Kind::Control, "", ""), ("<R result='false'/>".to_owned(), vec![]));
}

#[test]
fn a_device_that_forgot_what_it_was_told_before_a_rule_has_to_forget_again() {
    let world = World::new();
    let answered = |attrs: &str| {
        let tell = only(world.can(LAMP, Kind::Friend, attrs, "").1);
        world.answer(&tell, "result='true'", "").unwrap();
        world.thing(LAMP, "").version
    };
    let first = answered("jid='c@x.example'");
    let second = answered("jid='d@x.example'");
    let acknowledged = |version| {
        let (lamp, node) = (jid(LAMP), node(""));
        block_on(things::acknowledged(&world.store, &lamp, &node, things::Notice::ClearCache, version)).unwrap();
        world.thing(LAMP, "").pending.clear_cache
    };
    assert!(acknowledged(first), "it has not heard of the second");
    assert!(!acknowledged(second));
}

#[test]
fn an_answer_that_fails_at_some_request_to_the_store_is_no_rule() {
    for requests in 0.. {
        let world = World::new();
        let tell = only(world.can(LAMP, Kind::Friend, "", "").1);
        let question = Node::parse(&tell.payload, "jabber:client").unwrap();
        let (ns, key) = (&question.ns, question.attr("key").unwrap());
        let rule =
            format!("<isFriendRule xmlns='{ns}' jid='{LAMP}' remoteJid='{STRANGER}' key='{key}' result='false'/>");
        let rule = Node::parse(&rule, "jabber:client").unwrap();
        let (owner, component) = (jid(OWNER), jid(COMPONENT));
        world.store.hold();
        let caller = owner.as_jid();
        let mut answer = pin!(serve(&world.config, &world.store, caller, &component, (IqType::Set, &rule), NOW));
        let mut done = 0;
        let told = loop {
            if let Poll::Ready(told) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                break told;
            }
            world.store.refuse((done == requests).then_some(StoreError::Busy));
            world.store.release();
            done = requests.min(done + 1);
        };
        world.store.refuse(None);
        world.store.release_all();
        assert_eq!(told.is_ok(), !world.all(Table::Rules).is_empty(), "{told:?} after {requests} requests");
        if told.is_ok() {
            return;
        }
    }
}
