//! What a device is told that may have asked something before an outage.

use super::*;
use crate::broker::{begin_run, end_run};
use crate::things::{Notice, acknowledged, untold};

/// What a device is told when it comes back, and whether its home knows that it has to be told something.
fn told(world: &World, device: &str) -> (Vec<things::Told>, bool) {
    let has_untold = world.home(device).is_some_and(|things| things.has_untold());
    let untold = block_on(untold(&world.store, &jid(device))).unwrap();
    (untold.into_iter().map(|(told, _)| told).collect(), has_untold)
}

#[test]
fn whoever_may_have_asked_before_an_outage_forgets_its_answers_once() {
    let world = World::new();
    for (now, ends) in [(NOW, true), (NOW + 1, false)] {
        block_on(begin_run(&world.store, now)).unwrap();
        assert_eq!(told(&world, LAMP), (vec![], false));
        if ends {
            block_on(end_run(&world.store)).unwrap();
        }
    }
    // The rack comes back later, in a run after one that ended well.
    for now in [NOW + 2, NOW + 3] {
        block_on(begin_run(&world.store, now)).unwrap();
        block_on(end_run(&world.store)).unwrap();
    }
    block_on(begin_run(&world.store, NOW + 4)).unwrap();
    for device in [LAMP, RACK] {
        // It says nothing, and is told again.
        for _ in 0..2 {
            let (untold, has_untold) = told(&world, device);
            assert!(has_untold);
            assert_eq!(untold.iter().map(|told| told.notice).collect::<Vec<_>>(), [Notice::ClearCache], "{device}");
        }
        let (untold, _) = told(&world, device);
        let heard = &untold[0];
        block_on(acknowledged(&world.store, &jid(device), &heard.node, heard.notice, heard.version)).unwrap();
        assert_eq!(told(&world, device), (vec![], false), "{device}");
    }
}

#[test]
fn what_came_after_the_outage_or_is_nobodys_is_told_nothing() {
    let world = World::new();
    block_on(begin_run(&world.store, NOW)).unwrap();
    block_on(begin_run(&world.store, NOW + 9)).unwrap();
    world.put(&ThingRecord { created: NOW + 10, ..thing(LAMP, "", Some(OWNER)) });
    for id in ["1", "2"] {
        world.put(&thing(RACK, id, None));
    }
    assert_eq!(told(&world, LAMP), (vec![], false));
    assert_eq!(told(&world, RACK), (vec![], false));
}
