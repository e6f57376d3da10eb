//! Claims: who gets a thing, and who can't tell why not.

use plaza_core::iot::Generation;
use plaza_core::stanza::Condition;

use super::super::testing::{LAMP, OTHER, OWNER, RACK, World, in_ns, poll, said};
use super::super::{Limits, State, notices, owned};
use crate::services::Effect;
use crate::store::{Store, Table};
use crate::testing::jid;
use crate::wait::block_on;

const SET: &str = "<str name='MAN' value='m'/><str name='SN' value='1'/><str name='KEY' value='k'/>";
const NOT_FOUND: Result<String, Condition> = Err(Condition::ItemNotFound);

fn mine(tags: &str) -> String {
    format!("<mine>{tags}</mine>")
}

#[test]
fn nothing_but_all_tags_and_the_key_claims() {
    let world = World::with(Limits { failed_claims_per_minute_max: 100, ..Limits::DEFAULT }, false);
    world.set(LAMP, &format!("<register>{SET}</register>")).unwrap();
    for tags in [
        "",
        "<str name='KEY' value='k'/>",
        "<str name='MAN' value='m'/><str name='SN' value='1'/>",
        "<str name='MAN' value='m'/><str name='SN' value='1'/><str name='KEY' value='l'/>",
        "<str name='MAN' value='m'/><str name='SN' value='1'/><str name='KEY' value=''/>",
        "<str name='MAN' value='m'/><str name='SN' value='2'/><str name='KEY' value='k'/>",
        "<str name='MAN' value='m'/><num name='SN' value='1'/><str name='KEY' value='k'/>",
        "<str name='MAN' value='m'/><str name='SN' value='1'/><str name='X' value='1'/><str name='KEY' value='k'/>",
        "<str name='SN' value='1'/><str name='KEY' value='k'/>",
    ] {
        assert_eq!(world.set(OWNER, &mine(tags)), NOT_FOUND, "{tags}");
    }
    assert_eq!(world.set(OWNER, &format!("<mine id='x'>{SET}</mine>")), NOT_FOUND);
    // In another order, with names in another case, and with the registry's address, which is none of the tags.
    let other =
        "<str name='R' value='x'/><str name='key' value='k'/><str name='sn' value='1'/><str name='Man' value='m'/>";
    assert!(world.set(OWNER, &mine(other)).is_ok());
}

#[test]
fn without_a_key_things_are_claimed_where_the_operator_allows_it() {
    let tags = "<str name='SN' value='1'/>";
    for allowed in [false, true] {
        let world = World::with(Limits { claims_without_key: allowed, ..Limits::DEFAULT }, false);
        world.set(LAMP, &format!("<register>{tags}</register>")).unwrap();
        assert_eq!(world.set(OWNER, &mine(tags)).is_ok(), allowed);
        // Of which nothing is said, it is nobody's.
        world.set(RACK, "<register/>").unwrap();
        assert_eq!(world.set(OWNER, &mine("")), NOT_FOUND);
    }
}

#[test]
fn an_owner_may_claim_again_and_nobody_else() {
    let world = World::new();
    world.set(LAMP, &format!("<register>{SET}</register>")).unwrap();
    let claimed =
        |public| Ok(format!("<claimed xmlns='urn:nf:iot:disco:1.0' jid='lamp@things.example' public='{public}'/>"));
    assert_eq!(world.set(OWNER, &mine(SET)), claimed(true));
    let first = world.thing(LAMP, "").unwrap();
    // The key is gone: what else is said has to be as it was, whatever the thing says by now.
    world.set(LAMP, "<update><str name='SN' value=''/></update>").unwrap();
    assert_eq!(world.set(OWNER, &mine(SET)), claimed(true));
    assert_eq!(world.set(OWNER, &mine(&SET.replace("'k'", "'x'"))), claimed(true));
    assert_eq!(world.thing(LAMP, "").unwrap().version, first.version + 1);
    assert_eq!(world.set(OWNER, &mine("<str name='MAN' value='m'/><str name='KEY' value='k'/>")), NOT_FOUND);
    assert_eq!(world.set(OTHER, &mine(SET)), NOT_FOUND);
    assert_eq!(world.set(LAMP, &mine(SET)), NOT_FOUND);
    // It may be found or not, as was said last; also if it had been taken out.
    let private = format!("<mine public='false'>{SET}</mine>");
    assert_eq!(world.set(OWNER, &private), claimed(false));
    assert!(!world.thing(LAMP, "").unwrap().is_listed());
    assert!(notices(&world.thing(LAMP, "").unwrap())[0].1.ends_with("public='false'/>"));
    world.set(OWNER, "<remove jid='lamp@things.example'/>").unwrap();
    assert_eq!(world.set(OWNER, &mine(SET)), claimed(true));
    assert!(world.thing(LAMP, "").unwrap().is_listed());
    assert!(!world.thing(LAMP, "").unwrap().pending.removed);
    // Once it is given up, it has to register before anybody claims it; then anybody who knows.
    world.disown(OWNER, "<disown jid='lamp@things.example'/>").unwrap();
    for caller in [OWNER, OTHER] {
        for tags in [SET, ""] {
            assert_eq!(world.set(caller, &mine(tags)), NOT_FOUND);
        }
    }
    world.set(LAMP, &format!("<register>{SET}</register>")).unwrap();
    assert_eq!(world.set(OTHER, &mine(SET)), claimed(true));
}

#[test]
fn of_things_that_are_the_same_none_is_claimed_unless_it_is_named() {
    let world = World::new();
    for id in ["1", "2", "3"] {
        world.set(RACK, &format!("<register id='{id}'>{SET}</register>")).unwrap();
    }
    assert_eq!(world.set(OWNER, &mine(SET)), NOT_FOUND);
    let named = world.set(OWNER, &format!("<mine id='2'>{SET}</mine>")).unwrap();
    assert!(named.contains("id='2'"), "{named}");
    world.set(RACK, "<unregister id='1'/>").unwrap();
    let left = world.set(OTHER, &mine(SET)).unwrap();
    assert!(left.contains("id='3'"), "{left}");
    // Both of one owner: which of them is claimed again has to be said.
    world.set(RACK, &format!("<register id='4'>{SET}</register>")).unwrap();
    assert!(world.set(OWNER, &mine(SET)).unwrap().contains("id='4'"));
    assert_eq!(world.set(OWNER, &mine(SET)), NOT_FOUND);
    assert!(world.set(OWNER, &format!("<mine id='2'>{SET}</mine>")).is_ok());
}

#[test]
fn of_two_owners_at_once_one_gets_it_and_the_thing_is_told_once() {
    let mut outcomes = [0, 0];
    // Each number is an order in which the two go on.
    for order in 0..1_u32 << 10 {
        let world = World::with(Limits::DEFAULT, false);
        world.set(LAMP, &format!("<register>{SET}</register>")).unwrap();
        world.store.hold();
        let begin = |owner| world.begin(owner, &in_ns(Generation::Nf, &mine(SET)));
        let mut claims = [(begin(OWNER), None), (begin(OTHER), None)];
        let mut left = order;
        while claims.iter().any(|(_, reply)| reply.is_none()) {
            let (future, reply) = &mut claims[(left & 1) as usize];
            left = left >> 1 | (left & 1) << 9;
            if reply.is_none() {
                *reply = poll(future);
            }
            // Whoever is at it, the store does one thing.
            if !world.store.release() {
                for (future, reply) in claims.iter_mut().filter(|(_, reply)| reply.is_none()) {
                    *reply = poll(future);
                }
            }
        }
        world.store.release_all();
        let replies = claims.map(|(_, reply)| reply.unwrap());
        let told = replies.iter().flat_map(|reply| &reply.effects);
        assert_eq!(told.filter(|effect| matches!(effect, Effect::ThingsChanged(_))).count(), 1, "{order:b}");
        let answers = [said(&replies[0], OWNER), said(&replies[1], OTHER)];
        let winner = answers.iter().position(Result::is_ok).unwrap();
        assert_eq!(answers[1 - winner], NOT_FOUND, "{order:b}");
        let thing = world.thing(LAMP, "").unwrap();
        assert!(thing.is_owned_by(jid([OWNER, OTHER][winner]).as_jid()), "{order:b}");
        for (n, owner) in [OWNER, OTHER].into_iter().enumerate() {
            let owns = block_on(owned(&world.store, jid(owner).as_jid().bare(), None, 2)).unwrap();
            assert_eq!(owns.len(), usize::from(n == winner), "{order:b}");
        }
        assert_eq!(block_on(world.store.scan(Table::Claims, &[], None, 9)).unwrap().len(), 1);
        outcomes[winner] += 1;
    }
    assert!(outcomes[0] > 0 && outcomes[1] > 0, "{outcomes:?}");
}

#[test]
fn a_claim_and_a_registration_at_once_leave_no_half() {
    for claim_first in [true, false] {
        let world = World::with(Limits::DEFAULT, false);
        world.set(LAMP, &format!("<register>{SET}</register>")).unwrap();
        world.store.hold();
        let mut claim = world.begin(OWNER, &in_ns(Generation::Nf, &mine(SET)));
        let new = "<register><str name='SN' value='2'/><str name='KEY' value='n'/></register>";
        let mut register = world.begin(LAMP, &in_ns(Generation::Nf, new));
        let (mut claimed, mut registered) = (None, None);
        while claimed.is_none() || registered.is_none() {
            if claimed.is_none() && (claim_first || registered.is_some()) {
                claimed = poll(&mut claim);
            }
            if registered.is_none() && (!claim_first || claimed.is_some()) {
                registered = poll(&mut register);
            }
            world.store.release();
        }
        world.store.release_all();
        let thing = world.thing(LAMP, "").unwrap();
        let is_claimed = said(&claimed.unwrap(), OWNER).is_ok();
        assert_eq!(is_claimed, claim_first);
        assert_eq!(matches!(thing.state, State::Claimed { .. }), is_claimed);
        assert_eq!(said(&registered.unwrap(), LAMP).unwrap().starts_with("<claimed "), is_claimed);
        assert_eq!(
            thing.tag("SN").cloned(),
            Some(plaza_core::thing::Tag {
                name: "SN".into(),
                value: plaza_core::thing::TagValue::Str(if is_claimed { "1" } else { "2" }.into()),
            })
        );
        assert_eq!(block_on(world.store.scan(Table::Claims, &[], None, 9)).unwrap().len(), 1);
    }
}

#[test]
fn who_guesses_is_told_the_same_for_ever_and_gets_nothing() {
    let mut world = World::new();
    world.set(LAMP, &format!("<register>{SET}</register>")).unwrap();
    let wrong = |n: u32| mine(&SET.replace("'k'", &format!("'{n}'")));
    for n in 0..1_000 {
        assert_eq!(world.set(OTHER, &wrong(n)), NOT_FOUND);
    }
    // Now it would be right.
    assert_eq!(world.set(OTHER, &mine(SET)), NOT_FOUND);
    // Other things are not concerned, nor are others who claim.
    let another = "<str name='MAN' value='m'/><str name='SN' value='2'/><str name='KEY' value='k'/>";
    world.set(RACK, &format!("<register>{another}</register>")).unwrap();
    assert_eq!(world.set(OTHER, &mine(another)), NOT_FOUND);
    assert!(world.set(OWNER, &mine(another)).is_ok());
    // Nor is who has not guessed, of that thing; who has failed a few times is.
    for n in 0..3 {
        assert_eq!(world.set(RACK, &wrong(n)), NOT_FOUND);
    }
    assert_eq!(world.set(RACK, &mine(SET)), NOT_FOUND);
    assert_eq!(world.set(OWNER, &wrong(0)), NOT_FOUND);
    assert!(world.set(OWNER, &mine(SET)).is_ok());
    // After a while the guesser may go on, here as anywhere.
    world.now += 6_000;
    let third = another.replace("'2'", "'3'");
    world.set(RACK, &format!("<register id='3'>{third}</register>")).unwrap();
    assert!(world.set(OTHER, &mine(&third)).is_ok());
}

#[test]
fn claims_that_succeed_are_not_counted() {
    let world = World::new();
    for n in 0..50 {
        let tags = format!("<str name='MAN' value='m'/><str name='SN' value='{n}'/><str name='KEY' value='k'/>");
        world.set(RACK, &format!("<register id='{n}'>{tags}</register>")).unwrap();
        for _ in 0..2 {
            assert!(world.set(OWNER, &mine(&tags)).is_ok(), "{n}");
        }
    }
}
