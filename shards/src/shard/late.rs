//! Late: a session that asked for an account in vain is told so after a while, so that who guesses API keys or their secrets
//! guesses as slowly with an account as without one ([`crate::driver`] holds whoever has not logged in). The driver says
//! how long, and when that is over ([`Shard::expire`]).
//!
//! The session goes on meanwhile, but says nothing more of registration: that is refused at once and unseen, so that it
//! tells nothing of what was said. Hence a session has one late answer at most. It comes to wherever the session is resumed,
//! and is gone with it.
//!
//! Spec: XEP-0077 v2.4, XEP-0348 v0.3.

use plaza_core::stanza::{Condition, IqType, StanzaError};
use plaza_registry::services::{Request, concerns_registration};

use super::session::SessionId;
use super::{Effect, Shard};

/// What is told who would register while the answer to the last registration waits.
pub(super) const NOT_YET: StanzaError = Condition::ResourceConstraint.with_text("one registration after the other");

/// An answer that waits.
#[derive(Debug)]
pub(super) struct Late {
    /// The moment of the driver's at which it is given.
    due: u64,
    stanza: Box<[u8]>,
}

impl Late {
    /// User-space bytes it holds.
    pub(super) fn heap_bytes(&self) -> usize {
        self.stanza.len()
    }
}

impl Shard {
    /// Keeps a session's answer until the driver has set a time, and that has come.
    pub(super) fn keep_late(&mut self, id: SessionId, stanza: Vec<u8>) {
        let Some(session) = self.get_mut(id) else { return };
        session.extras().late = Some(Late { due: u64::MAX, stanza: stanza.into() });
        self.recount(id);
        self.effects.push_back(Effect::Late(id));
    }

    /// When a session is to be given its late answer ([`Shard::expire`]).
    pub fn late_until(&mut self, id: SessionId, due: u64) {
        let extras = self.get_mut(id).and_then(|session| session.extras.as_mut());
        if let Some(late) = extras.and_then(|extras| extras.late.as_mut()) {
            late.due = due;
        }
    }

    /// Gives a session its late answer, if there is one that is due by now.
    pub fn answer_late(&mut self, id: SessionId, now: u64) {
        let extras = self.get_mut(id).and_then(|session| session.extras.as_mut());
        if let Some(late) = extras.and_then(|extras| extras.late.take_if(|late| late.due <= now)) {
            self.write(id, |out| out.extend_from_slice(&late.stanza));
        }
    }

    /// Whether a request comes before a late answer that it has to wait for.
    pub(super) fn is_early(&self, id: SessionId, request: &Request) -> bool {
        let extras = self.get(id).and_then(|session| session.extras.as_ref());
        let waits = extras.is_some_and(|extras| extras.late.is_some());
        waits && request.iq_type == IqType::Set && concerns_registration(request)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use plaza_core::jid::Jid;
    use plaza_core::sm::Enable;
    use plaza_registry::apikeys::{ApiKeys, Sealer};
    use plaza_registry::helpers::Helpers;
    use plaza_registry::registration::{Registrar, RegistrationConfig};
    use plaza_registry::services::ServiceConfig;

    use super::super::testing::World;
    use super::*;
    use crate::memory::Subsystem;
    use crate::metrics::Counters;
    use crate::ring::Key;

    /// Shards where anybody registers, and a device; late is ten ticks late.
    fn world() -> (World, Jid) {
        let mut world = World::new();
        let config = RegistrationConfig { unsigned: true, scram_iterations: 1, ..RegistrationConfig::default() };
        let keys = ApiKeys::new(Sealer::new(&[0; 32]));
        let registration = Registrar::new(config, Helpers::start(1, 1), keys, || [0; 32]);
        let services = ServiceConfig { registration, ..(*world.config.services).clone() };
        world.config.services = Arc::new(services);
        let lamp = world.account("lamp", 0);
        (world, lamp)
    }

    fn register(world: &mut World, lamp: &Jid, id: SessionId, name: &str) {
        world.say(
            lamp,
            id,
            &format!(
                "<iq type='set' id='{name}' to='things.example'><query xmlns='jabber:iq:register'>\
                 <username>{name}</username><password>pencil</password></query></iq>"
            ),
        );
    }

    /// A session, and the name of an account that there is already.
    fn bind(world: &mut World, lamp: &Jid) -> (SessionId, String) {
        let taken = lamp.as_jid().local().unwrap().to_owned() + "s";
        let id = world.bind_met(lamp, "r");
        register(world, lamp, id, &taken);
        assert!(world.sent(lamp, id).contains("type='result'"));
        (id, taken)
    }

    /// All that sessions hold is counted.
    fn counted(world: &mut World, lamp: &Jid) -> u64 {
        let shard = world.shard(lamp);
        shard.show_memory();
        let counted = Counters::total(&shard.counters.memory) - shard.counters.memory[Subsystem::Work];
        assert_eq!(counted, shard.measure().held as u64);
        counted
    }

    #[test]
    fn who_registers_in_vain_is_told_late_and_goes_on_meanwhile() {
        let (mut world, lamp) = world();
        let (id, taken) = bind(&mut world, &lamp);
        register(&mut world, &lamp, id, &taken);
        world.shard(&lamp).expire(id, Some(9));
        assert_eq!(world.sent(&lamp, id), "");
        world.say(&lamp, id, "<iq type='get' id='p' to='things.example'><ping xmlns='urn:xmpp:ping'/></iq>");
        assert!(world.sent(&lamp, id).contains("<iq type='result' id='p'"));
        // Whatever it says of registration is not looked at.
        for name in ["fresh", &taken] {
            register(&mut world, &lamp, id, name);
            let said = world.sent(&lamp, id);
            assert!(said.contains("<error type='wait'><resource-constraint "), "{said}");
        }
        world.shard(&lamp).expire(id, Some(10));
        let said = world.sent(&lamp, id);
        assert!(said.contains(&format!("id='{taken}'")) && said.contains("<conflict "), "{said}");
        world.shard(&lamp).expire(id, Some(11));
        assert_eq!(world.sent(&lamp, id), "");
        assert_eq!(world.shard(&lamp).counters.not_registered[Condition::Conflict], 1);
        register(&mut world, &lamp, id, "fresh");
        assert!(world.sent(&lamp, id).contains("type='result'"));
    }

    #[test]
    fn a_late_answer_is_the_sessions_wherever_that_is() {
        let (mut world, lamp) = world();
        let (id, taken) = bind(&mut world, &lamp);
        let enabled = world.shard(&lamp).enable_management(id, Enable { resume: true, max: None }).unwrap();
        let name = enabled.resumable.unwrap().0;
        for (number, now) in [(0, 10), (1, u64::MAX)] {
            register(&mut world, &lamp, id, &taken);
            counted(&mut world, &lamp);
            assert!(world.shard(&lamp).hibernate(id, |_| 100));
            // Its time comes, or the broker stops.
            world.shard(&lamp).answer_late(id, now);
            counted(&mut world, &lamp);
            let key = Key { index: 1, generation: 1 };
            let (resumed, _) = world.shard(&lamp).resume_session(key, &lamp, &name, number).unwrap();
            assert_eq!(resumed, id);
            world.shard(&lamp).send_again(id);
            assert!(world.sent(&lamp, id).contains("<conflict "));
        }
    }

    #[test]
    fn a_late_answer_goes_with_its_session() {
        let (mut world, lamp) = world();
        let (id, taken) = bind(&mut world, &lamp);
        let other = world.bind(&lamp, "other");
        let before = counted(&mut world, &lamp);
        register(&mut world, &lamp, id, &taken);
        assert!(counted(&mut world, &lamp) > before + 100);
        world.shard(&lamp).end(id);
        world.shard(&lamp).expire(id, Some(10));
        world.settle();
        assert!(counted(&mut world, &lamp) < before);
        register(&mut world, &lamp, other, "fresh");
        assert!(world.sent(&lamp, other).contains("type='result'"));
    }
}
