//! Searches: what is found, by whom, how much at a time; and what never is.

use plaza_core::iot::Generation;
use plaza_core::stanza::{Condition, IqType};

use super::super::testing::{LAMP, OTHER, OWNER, RACK, STRANGER, World, in_ns};
use super::super::{Limits, thing_key};
use crate::store::{Batch, Store, Table, Write};
use crate::wait::block_on;

const ALL: &str = "<strEq name='CLASS' value='plc'/>";

/// A registry with so many things that are their own.
fn with_things(count: usize, limits: Limits, more: &str) -> World {
    let world = World::with(limits, true);
    for n in 0..count {
        let tags = format!("<str name='CLASS' value='plc'/><num name='N' value='{n}'/>{more}");
        world.set(RACK, &format!("<register id='{n:03}' selfOwned='true'>{tags}</register>")).unwrap();
    }
    world
}

fn lenient() -> Limits {
    Limits { searches_per_second_max: 1_000, ..Limits::DEFAULT }
}

#[test]
fn what_is_found_comes_in_pages() {
    let world = with_things(250, lenient(), "");
    let ids = |range: std::ops::Range<usize>| range.map(|n| format!("{n:03}")).collect::<Vec<_>>();
    assert_eq!(world.found("", ALL), (ids(0..100), true));
    assert_eq!(world.found("offset='100'", ALL), (ids(100..200), true));
    assert_eq!(world.found("offset='200'", ALL), (ids(200..250), false));
    assert_eq!(world.found("offset='150' maxCount='100'", ALL), (ids(150..250), false));
    assert_eq!(world.found("offset='3' maxCount='2'", ALL), (ids(3..5), true));
    assert_eq!(world.found("offset='250'", ALL), (vec![], false));
    assert_eq!(world.found("offset='99999999999999' maxCount='99999999999999'", ALL), (vec![], false));
    assert_eq!(world.found("maxCount='1000000' distributed='true'", ALL), (ids(0..100), true));
    assert_eq!(world.found("", &format!("{ALL}<numRange name='n' min='5' max='7' maxIncluded='0'/>")).0, ids(5..7));
    assert_eq!(world.found("", &format!("{ALL}<numNEq name='absent' value='1'/>")), (vec![], false));
}

#[test]
fn an_answer_is_no_longer_than_it_may_be() {
    let long = "<str name='A' value='LONG'/><str name='B' value='LONG'/>".replace("LONG", &"&lt;".repeat(128));
    let world = with_things(40, Limits { reply_bytes_max: 5_000, ..lenient() }, &long);
    let (mut seen, mut pages) = (0, 0);
    loop {
        let (found, more) = world.found(&format!("offset='{seen}'"), ALL);
        assert!((1..10).contains(&found.len()));
        assert!(world.search(OWNER, &format!("offset='{seen}'"), ALL).unwrap().len() < 5_000 + 200);
        seen += found.len();
        pages += 1;
        if !more {
            break;
        }
    }
    assert_eq!(seen, 40);
    assert!(pages > 4);
    // One thing at least, however long.
    let world = with_things(2, Limits { reply_bytes_max: 1, ..lenient() }, &long);
    assert_eq!(world.found("", ALL), (vec!["000".to_owned()], true));
}

#[test]
fn only_what_is_public_is_found_and_as_it_is_now() {
    let world = World::new();
    let tags = "<str name='CLASS' value='plc'/><str name='KEY' value='k'/>";
    world.set(LAMP, &format!("<register>{tags}</register>")).unwrap();
    let found = || world.found("", ALL).0.len();
    assert_eq!(found(), 0);
    world.set(OWNER, &format!("<mine public='false'>{tags}</mine>")).unwrap();
    assert_eq!(found(), 0);
    world.set(OWNER, &format!("<mine>{tags}</mine>")).unwrap();
    assert_eq!(found(), 1);
    world.set(OWNER, "<update jid='lamp@things.example'><str name='CLASS' value='lamp'/></update>").unwrap();
    assert_eq!(found(), 0);
    world.set(LAMP, "<update><str name='CLASS' value='plc'/></update>").unwrap();
    assert_eq!(found(), 1);
    world.disown(OWNER, "<disown jid='lamp@things.example'/>").unwrap();
    assert_eq!(found(), 0);
    world.set(LAMP, "<register selfOwned='true'><str name='CLASS' value='plc'/></register>").unwrap();
    assert_eq!(found(), 1);
    world.set(LAMP, "<unregister/>").unwrap();
    assert_eq!(found(), 0);
}

#[test]
fn what_is_read_from_the_store_and_is_not_there_is_left_out() {
    let world = with_things(3, lenient(), "");
    // The index has all of them; the first generation wants to know the owners, which are in the store.
    assert_eq!(world.found("", ALL).0.len(), 3);
    let thing = world.thing(RACK, "001").unwrap();
    let key = thing_key(thing.jid.as_jid(), &thing.node);
    let writes = vec![Write::Delete { table: Table::Things, key }];
    block_on(world.store.commit(Batch { guards: Vec::new(), writes })).unwrap();
    let request = in_ns(Generation::Xsf, &format!("<search>{ALL}</search>"));
    let told = world.ask(OWNER, IqType::Get, &request).0.unwrap();
    assert_eq!(told.matches("<thing owner='rack@things.example'").count(), 2, "{told}");
    assert!(told.contains("'000'") && told.contains("'002'") && !told.contains("'001'"), "{told}");
    // The index tells what it knows, and knows what it is told of.
    let index = world.config.things.index.as_ref().unwrap();
    block_on(index.changed(&thing.jid, &thing.node));
    assert_eq!(world.found("", ALL), (vec!["000".to_owned(), "002".to_owned()], false));
}

#[test]
fn a_key_is_never_found_nor_told() {
    let world = World::new();
    let tags = "<str name='CLASS' value='plc'/><str name='KEY' value='secret'/>";
    world.set(LAMP, &format!("<register selfOwned='1'>{tags}</register>")).unwrap();
    world.set(RACK, &format!("<register>{tags}</register>")).unwrap();
    world.set(OWNER, &format!("<mine>{tags}</mine>")).unwrap();
    assert!(!world.search(OWNER, "", ALL).unwrap().contains("KEY"));
    for operator in [
        "<strEq name='KEY' value='secret'/>",
        "<strNEq name='KEY' value='x'/>",
        "<strEq name='key' value='secret'/>",
        "<strMask name='KEY' value='s*' wildcard='*'/>",
        "<strRegEx name='KEY' value='.*'/>",
        "<strRange name='Key' min=''/>",
        "<strEq name='K*' nameWildcard='*' value='secret'/>",
        "<strEq name='*' nameWildcard='*' value='secret'/>",
    ] {
        assert_eq!(world.found("", operator), (vec![], false), "{operator}");
        assert_eq!(world.found("", &format!("{ALL}{operator}")), (vec![], false), "{operator}");
    }
    assert_eq!(world.found("", "<strEq name='*' nameWildcard='*' value='plc'/>").0.len(), 2);
}

#[test]
fn who_searches_too_often_has_to_wait() {
    let mut world = with_things(1, Limits::DEFAULT, "");
    let search = |world: &World, caller: &str| world.search(caller, "", ALL);
    for _ in 0..5 {
        assert!(search(&world, OTHER).is_ok());
    }
    assert_eq!(search(&world, OTHER), Err(Condition::ResourceConstraint));
    assert_eq!(search(&world, "other@things.example/elsewhere"), Err(Condition::ResourceConstraint));
    assert!(search(&world, STRANGER).is_ok());
    world.now += 200;
    assert!(search(&world, OTHER).is_ok());
    assert_eq!(search(&world, OTHER), Err(Condition::ResourceConstraint));
}

#[test]
fn what_cannot_be_searched_is_refused() {
    let world = World::new();
    assert_eq!(world.search(OWNER, "", "<strRegEx name='A' value='('/>"), Err(Condition::BadRequest));
    let operators = ALL.repeat(33);
    assert_eq!(world.search(OWNER, "", &operators), Err(Condition::ResourceConstraint));
    let without = World::with(Limits::DEFAULT, false);
    assert_eq!(without.search(OWNER, "", ALL), Err(Condition::ServiceUnavailable));
}
