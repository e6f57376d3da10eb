//! Decision support and tokens, at the address of the things (XEP-0324 v0.5.1): brings requests to
//! [`crate::provisioning`], and back what leaves unasked.
//!
//! A device whose session is at its home is answered there from memory; who comes this way is answered from the store.

use plaza_core::iot::{Generation, Interface};
use plaza_core::jid::Jid;
use plaza_core::provisioning::TokenRequest;
use plaza_core::stanza::{Condition, IqType};

use super::{Effect, Request, ServiceConfig};
use crate::provisioning::{self, After, Challenge, HomeThings, Tell, Verified};
use crate::store::Store;

/// Answers a request in one of its namespaces.
pub(super) async fn answer<S: Store>(
    config: &ServiceConfig,
    store: &S,
    request: &Request,
    service: &Jid,
    effects: &mut Vec<Effect>,
) -> Result<Vec<u8>, Condition> {
    let (caller, now) = (request.caller.as_jid(), request.unix_millis);
    match Interface::of(&request.payload_ns) {
        Some((Interface::Device, generation)) if !is_token(generation, &request.payload_name) => {
            if request.iq_type != IqType::Get {
                return Err(Condition::BadRequest);
            }
            let things = HomeThings::load(store, caller.bare()).await.map_err(|error| super::condition(&error))?;
            let proofs = (config.provisioning.proofs(), now);
            let answered = provisioning::answer(things.as_deref(), caller, service.as_str(), &request.payload, proofs)?;
            effects.extend(inquire(config, store, answered.after, now).await);
            Ok(answered.payload)
        }
        Some((Interface::Device | Interface::Tokens, _)) => {
            let payload = super::read(request)?;
            let payload = (request.iq_type, &payload);
            provisioning::serve_tokens(&config.provisioning, store, &request.caller, service, payload, now).await
        }
        Some((Interface::Owner, _)) => {
            let payload = super::read(request)?;
            let payload = (request.iq_type, &payload);
            let told = provisioning::serve(&config.provisioning, store, caller, service, payload, now).await?;
            if !told.changed.is_empty() {
                effects.push(Effect::ThingsChanged(told.changed));
            }
            effects.extend(told.tells.into_iter().map(Effect::from));
            told.failed.map_or(Ok(told.payload), Err)
        }
        Some((Interface::Discovery, _)) | None => Err(Condition::ServiceUnavailable),
    }
}

/// What follows from an answer that a device has: an owner is asked what is undecided, how the device speaks is noted, and
/// tokens are challenged. If the store cannot, the device asks again.
pub async fn inquire<S: Store>(config: &ServiceConfig, store: &S, after: After, unix_millis: u64) -> Vec<Effect> {
    let mut effects = Vec::new();
    let After { inquiry, seen, unproven } = after;
    if let Some(seen) = seen
        && provisioning::note(store, &seen).await.is_ok()
    {
        effects.push(Effect::ThingsChanged(vec![seen.device]));
    }
    let is_asked_later = unproven.as_ref().is_some_and(|unproven| unproven.is_decided_again());
    if let Some(unproven) = unproven {
        let verified = provisioning::challenge(&config.provisioning, store, *unproven, unix_millis).await;
        effects.extend(verified.map(effects_of).unwrap_or_default());
    }
    if let Some(inquiry) = inquiry.filter(|_| !is_asked_later) {
        let tells = provisioning::ask(&config.provisioning, store, &inquiry, unix_millis).await;
        effects.extend(tells.unwrap_or_default().into_iter().map(Effect::from));
    }
    effects
}

/// What follows from the answer to a challenge, `None` if there is none.
pub async fn challenged<S: Store>(
    config: &ServiceConfig,
    store: &S,
    challenge: Challenge,
    response: Option<&str>,
    unix_millis: u64,
) -> Vec<Effect> {
    let verified = provisioning::challenged(&config.provisioning, store, challenge, response, unix_millis).await;
    verified.map(effects_of).unwrap_or_default()
}

fn effects_of(Verified { challenges, changed, tells }: Verified) -> Vec<Effect> {
    let changed = changed.map(|device| Effect::ThingsChanged(vec![device]));
    let tells = tells.into_iter().map(Effect::from);
    let challenges = challenges.into_iter().map(|challenge| Effect::Challenge(Box::new(challenge)));
    changed.into_iter().chain(tells).chain(challenges).collect()
}

/// Whether a name in a namespace for devices is about tokens, which the first generation has in the same one.
pub fn is_token(generation: Generation, name: &str) -> bool {
    generation == Generation::Xsf && TokenRequest::is_name(name)
}

impl From<Tell> for Effect {
    fn from(Tell { to, from, payload }: Tell) -> Self {
        Self::Tell { to, from, payload }
    }
}

#[cfg(test)]
mod tests {
    use plaza_core::thing::NodeName;
    use plaza_core::xml::read::Node;

    use super::super::testing::{Client, error};
    use super::*;
    use crate::store::Batch;
    use crate::testing::jid;
    use crate::things::{State, ThingRecord};
    use crate::wait::block_on;

    const THINGS: &str = "things.things.example";

    /// The owner, and its lamp, which has no account here.
    fn owner_and_lamp() -> (Client, Client) {
        let owner = Client::owner();
        let thing = ThingRecord {
            state: State::Claimed { owner: owner.jid.bare(), public: true, removed: false },
            ..ThingRecord::new(jid("lamp@things.example"), NodeName::default())
        };
        block_on(owner.store.commit(Batch { guards: Vec::new(), writes: vec![thing.put()] })).unwrap();
        let lamp = Client { jid: jid("lamp@things.example/a"), ..owner.clone() };
        (owner, lamp)
    }

    #[test]
    fn a_stranger_becomes_a_friend_by_the_owners_answer() {
        for generation in Generation::ALL {
            let (owner, lamp) = owner_and_lamp();
            let (device, asked) = (Interface::Device.ns(generation), Interface::Owner.ns(Generation::Nf));
            let is_friend = format!("<isFriend xmlns='{device}' jid='b@x.example'/>");
            let (answer, effects) = lamp.ask(IqType::Get, THINGS, &is_friend);
            assert!(
                answer.starts_with(&format!("<isFriendResponse xmlns='{device}' jid='b@x.example' result='false'"))
            );
            let [Effect::ThingsChanged(changed), Effect::Tell { to, from, payload }] = &effects[..] else {
                panic!("{effects:?}")
            };
            // How it speaks is known from now on.
            assert_eq!(*changed, [jid("lamp@things.example")]);
            assert_eq!((to.as_str(), from.as_str()), ("owner@things.example", THINGS));
            let question = Node::parse(payload, "").unwrap();
            let key = question.attr("key").unwrap();
            let rule = format!(
                "<isFriendRule xmlns='{asked}' jid='lamp@things.example' remoteJid='b@x.example' key='{key}' result='true'/>"
            );
            let (answer, effects) = owner.ask(IqType::Set, THINGS, &rule);
            let friend = format!("<friend xmlns='{device}' jid='b@x.example'/>");
            let tell = Effect::Tell { to: jid("lamp@things.example"), from: jid(THINGS), payload: friend };
            assert_eq!(effects, [Effect::ThingsChanged(vec![jid("lamp@things.example")]), tell]);
            assert_eq!(answer, "");
            let answer = lamp.get(THINGS, &is_friend);
            assert!(answer.contains("result='true'"), "{answer}");
        }
    }

    #[test]
    fn what_only_the_service_sends_is_not_taken_from_anybody() {
        let (owner, lamp) = owner_and_lamp();
        for generation in Generation::ALL {
            let (device, own) = (Interface::Device.ns(generation), Interface::Owner.ns(generation));
            for name in
                ["canReadResponse", "isFriendResponse", "canControlResponse", "clearCache", "friend", "unfriend"]
            {
                let payload = format!("<{name} xmlns='{device}' jid='b@x.example' all='true' result='true'/>");
                for client in [&owner, &lamp, &owner.other(false)] {
                    for iq_type in [IqType::Get, IqType::Set] {
                        assert_eq!(client.ask(iq_type, THINGS, &payload), (error(Condition::BadRequest), vec![]));
                    }
                }
            }
            let payload = format!("<isFriend xmlns='{device}' jid='b@x.example'/>");
            assert_eq!(lamp.set(THINGS, &payload), error(Condition::BadRequest));
            let payload =
                format!("<isFriend xmlns='{own}' jid='lamp@things.example' remoteJid='b@x.example' key='k'/>");
            assert_eq!(owner.set(THINGS, &payload), error(Condition::BadRequest));
            let payload = format!("<canAccess xmlns='{device}'/>");
            assert_eq!(lamp.get(THINGS, &payload), error(Condition::FeatureNotImplemented));
        }
    }

    #[test]
    fn tokens_are_in_a_namespace_of_their_own_but_in_the_first_generation() {
        let (_, lamp) = owner_and_lamp();
        for generation in Generation::ALL {
            let ns = Interface::Tokens.ns(generation);
            let get = format!("<getCertificate xmlns='{ns}' token='t'/>");
            assert_eq!(lamp.get(THINGS, &get), error(Condition::ItemNotFound));
            assert_eq!(lamp.set(THINGS, &get), error(Condition::BadRequest));
        }
        let elsewhere = "<getToken xmlns='urn:nf:iot:prov:d:1.0'>AA==</getToken>";
        assert_eq!(lamp.get(THINGS, elsewhere), error(Condition::FeatureNotImplemented));
    }

    #[test]
    fn it_is_served_at_the_address_of_the_things_alone() {
        let (_, lamp) = owner_and_lamp();
        let payload = "<isFriend xmlns='urn:nf:iot:prov:d:1.0' jid='b@x.example'/>";
        for to in ["things.example", "log.things.example", "lamp@things.example", "owner@things.example"] {
            assert_eq!(lamp.ask(IqType::Get, to, payload), (error(Condition::ServiceUnavailable), vec![]), "{to}");
        }
    }

    #[test]
    fn a_device_has_its_answer_though_its_owner_cannot_be_asked() {
        let (_, lamp) = owner_and_lamp();
        lamp.store.hold();
        let payload = "<isFriend xmlns='urn:nf:iot:prov:d:1.0' jid='b@x.example'/>";
        let asking = std::thread::spawn({
            let lamp = lamp.clone();
            move || lamp.ask(IqType::Get, THINGS, payload)
        });
        // Things, the last outage, and rules; then the store is too busy for the question.
        for _ in 0..3 {
            while lamp.store.held() == 0 {
                std::thread::yield_now();
            }
            lamp.store.release();
        }
        while lamp.store.held() == 0 {
            std::thread::yield_now();
        }
        lamp.store.refuse(Some(crate::store::StoreError::Busy));
        lamp.store.release_all();
        let (answer, effects) = asking.join().unwrap();
        assert!(answer.contains("result='false'") && effects.is_empty(), "{answer}");
    }
}
