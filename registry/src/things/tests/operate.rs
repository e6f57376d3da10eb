//! What operators do, and what is left when an account goes.

use plaza_core::stanza::Condition;
use plaza_core::thing::NodeName;

use super::super::testing::{LAMP, OTHER, OWNER, RACK, World};
use super::super::{AssignError, State, assign, enforce, forget, load_all, owned, release};
use crate::accounts;
use crate::store::{Store, StoreError, Table};
use crate::testing::jid;
use crate::wait::block_on;

const SET: &str = "<str name='SN' value='1'/><str name='KEY' value='k'/>";

fn give(world: &World, device: &str, owner: &str, public: bool) -> Result<(), AssignError> {
    let (device, owner) = (jid(device).bare(), jid(owner).bare());
    let name = (&device, &NodeName::default());
    block_on(assign(&world.config.things, &world.store, name, &owner, public, world.now)).map(drop)
}

fn take(world: &World, device: &str) -> Result<(), AssignError> {
    let name = (&jid(device).bare(), &NodeName::default());
    block_on(release(&world.config.things, &world.store, name, world.now))
}

#[test]
fn an_operator_gives_things_and_takes_them() {
    let world = World::new();
    assert_eq!(give(&world, LAMP, OWNER, true), Err(AssignError::NotFound));
    assert_eq!(take(&world, LAMP), Err(AssignError::NotFound));
    world.set(LAMP, &format!("<register>{SET}</register>")).unwrap();
    assert_eq!(take(&world, LAMP), Err(AssignError::NotFound));
    assert_eq!(give(&world, LAMP, "nobody@things.example", true), Err(AssignError::NoAccount));
    assert_eq!(give(&world, LAMP, OWNER, true), Ok(()));
    let thing = world.thing(LAMP, "").unwrap();
    assert!(thing.is_owned_by(jid(OWNER).as_jid()) && thing.pending.claimed && thing.pending.clear_cache);
    assert_eq!((thing.key, world.found("", "<strEq name='SN' value='1'/>").0.len()), (None, 1));
    // As if it had been claimed: nobody else can, the owner can again.
    let mine = format!("<mine public='false'>{SET}</mine>");
    assert_eq!(world.set(OTHER, &mine), Err(Condition::ItemNotFound));
    assert!(world.set(OWNER, &mine).is_ok());
    assert_eq!(give(&world, LAMP, OTHER, true), Err(AssignError::Owned(jid(OWNER).bare())));
    assert_eq!(give(&world, LAMP, OWNER, true), Ok(()));
    assert!(world.thing(LAMP, "").unwrap().is_listed());
    assert_eq!(take(&world, LAMP), Ok(()));
    let thing = world.thing(LAMP, "").unwrap();
    assert_eq!((thing.state, thing.tags.len()), (State::Unclaimed, 0));
    // What was disowned can be given away without registering anew, and so can what was its own.
    assert_eq!(give(&world, LAMP, OTHER, false), Ok(()));
    world.set(RACK, &format!("<register selfOwned='true'>{SET}</register>")).unwrap();
    assert_eq!(give(&world, RACK, OTHER, true), Ok(()));
    assert_eq!(block_on(owned(&world.store, jid(OTHER).bare().as_jid(), None, 9)).unwrap().len(), 2);
}

#[test]
fn an_operator_has_a_thing_enforced_until_it_is_taken_from_its_owner() {
    let world = World::new();
    let set = |enforced| {
        let name = (&jid(LAMP).bare(), &NodeName::default());
        block_on(enforce(&world.config.things, &world.store, name, enforced, world.now)).map(|thing| thing.enforced)
    };
    assert_eq!(set(true), Err(AssignError::NotFound));
    world.set(LAMP, &format!("<register>{SET}</register>")).unwrap();
    for enforced in [true, true, false, true] {
        assert_eq!(set(enforced), Ok(enforced));
        assert_eq!(world.thing(LAMP, "").unwrap().enforced, enforced);
    }
    // Whose it is, and what it says of itself, changes nothing; who takes it from its owner does.
    assert_eq!(give(&world, LAMP, OWNER, true), Ok(()));
    world.set(LAMP, "<update><str name='NAME' value='x'/></update>").unwrap();
    assert!(world.thing(LAMP, "").unwrap().enforced);
    assert_eq!(take(&world, LAMP), Ok(()));
    assert!(!world.thing(LAMP, "").unwrap().enforced);
}

#[test]
fn nothing_is_left_of_an_account_that_goes_and_what_it_owned_is_nobodys() {
    let world = World::new();
    for n in 0..250 {
        world.set(RACK, &format!("<register id='{n}'><num name='N' value='{n}'/>{SET}</register>")).unwrap();
    }
    for (caller, range) in [(OWNER, 0..120), (OTHER, 120..130)] {
        for n in range {
            assert!(world.set(caller, &format!("<mine><num name='N' value='{n}'/>{SET}</mine>")).is_ok());
        }
    }
    world.set(OWNER, "<register id='own' selfOwned='1'/>").unwrap();
    // What it has is let go of first: the index would list it for ever.
    let removed = block_on(accounts::remove(&world.store, jid(OWNER).as_jid().bare()));
    assert_eq!(removed, Err(accounts::AccountError::Store(StoreError::Busy)));
    let go = |account: &str| {
        let account = jid(account).bare();
        let changed = block_on(forget(&world.config.things, &world.store, account.as_jid(), world.now)).unwrap();
        block_on(accounts::remove(&world.store, account.as_jid())).unwrap();
        changed
    };
    assert_eq!(go(OWNER), [jid(RACK).bare()]);
    let things = block_on(load_all(&world.store, &jid(RACK).bare(), None, 999)).unwrap();
    assert_eq!(things.iter().filter(|thing| thing.is_owned_by(jid(OTHER).as_jid())).count(), 10);
    assert_eq!(things.iter().filter(|thing| thing.owner().is_some()).count(), 10);
    assert_eq!(world.thing(OWNER, "own"), None);
    assert!(go(RACK).is_empty());
    for table in [Table::Things, Table::Claims, Table::Owners, Table::Rules] {
        assert!(block_on(world.store.scan(table, &[], None, 1)).unwrap().is_empty(), "{table:?}");
    }
    assert_eq!(world.found("", "<strEq name='SN' value='1'/>").0, [""; 0]);
}
