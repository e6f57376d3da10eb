//! Registration for who has an account already (XEP-0077 v2.4 §3.2, §3.3; XEP-0348 v0.3): another password, no account any
//! more, or another account, signed for with an API key.
//!
//! Every session is under TLS or on loopback, so passwords are not sent in the clear (§9). What a client says of its own
//! account needs no signature: it has logged in. Differs from §3.3: the old password is not asked for again.

use plaza_core::jid::Jid;
use plaza_core::register::{Asked, Claim, check_password};
use plaza_core::stanza::{Condition, IqType, StanzaError};

use super::{Effect, Request, ServiceConfig, Target, condition, read};
use crate::accounts::{self, AccountError};
use crate::pubsub::{self, Refusal};
use crate::rosters;
use crate::store::Store;
use crate::things::{self, AssignError};

/// Whether a request is this service's to answer.
pub(super) fn is_asked(config: &ServiceConfig, request: &Request) -> bool {
    let asked = match &request.target {
        Target::Server(_) => true,
        Target::Account(account) => account.as_jid() == request.caller.as_jid().bare(),
        Target::Service(_) => false,
    };
    asked && concerns_registration(request) && config.registration.config().enabled
}

/// Whether a request is about registration, at whatever address.
pub fn concerns_registration(request: &Request) -> bool {
    &*request.payload_ns == plaza_core::ns::REGISTER && &*request.payload_name == "query"
}

/// Answers a request: the form, or what became of it.
///
/// # Errors
/// Those of XEP-0077 §3 and XEP-0348 §4.
pub(super) async fn answer<S: Store>(
    config: &ServiceConfig,
    store: &S,
    request: &Request,
    effects: &mut Vec<Effect>,
) -> Result<Vec<u8>, Refusal> {
    let (Target::Server(asked) | Target::Account(asked) | Target::Service(asked)) = &request.target;
    let domain = asked.as_jid().domain();
    let caller = request.caller.as_jid();
    let registered = caller.local().filter(|_| caller.domain() == domain);
    let query = read(request)?;
    if request.iq_type == IqType::Get {
        let offer = config.registration.offer(&request.caller, request.unix_millis);
        let mut out = Vec::new();
        offer.write(&mut out, registered, config.registration.config().unsigned);
        return Ok(out);
    }
    // Whatever becomes of it, the form is answered.
    let offer = config.registration.answered(&request.caller, request.unix_millis);
    match Asked::read(&query)? {
        Asked::Remove if registered.is_none() => return Err(Condition::RegistrationRequired.into()),
        Asked::Remove => remove(config, store, request, effects).await?,
        Asked::Account(claim) if is_own(&claim, &request.caller, domain) => {
            check_password(&claim.password)?;
            config.registration.change_password(store, caller.bare(), claim.password).await?;
            effects.push(Effect::PasswordChanged);
        }
        Asked::Account(claim) => {
            let to = request.addressed.then(|| asked.as_str());
            let unsigned = config.registration.config().unsigned;
            let registration = claim.check(domain, to, offer, unsigned)?;
            let registered = config.registration.register(store, &registration, request.unix_millis).await;
            effects.push(match &registered {
                Ok(()) => Effect::AccountCreated(registration.account),
                Err(error) => Effect::NotRegistered(error.condition),
            });
            registered?;
        }
    }
    Ok(Vec::new())
}

/// Whether the account meant is that of the one who asks.
fn is_own(claim: &Claim, caller: &Jid, domain: &str) -> bool {
    Jid::from_parts(&claim.username, domain).is_ok_and(|named| named.as_jid() == caller.as_jid().bare())
}

/// Removes the account of the one who asks with all that is its own; those in its roster are told (XEP-0077 §3.2), and what it
/// owned is nobody's.
async fn remove<S: Store>(
    config: &ServiceConfig,
    store: &S,
    request: &Request,
    effects: &mut Vec<Effect>,
) -> Result<(), StanzaError> {
    let owner = request.caller.as_jid().bare();
    let failed = |error| StanzaError::from(condition(&error));
    let items = rosters::load(store, owner).await.map_err(failed)?;
    let services: Vec<Jid> = config.components.iter().map(|component| component.jid.clone()).collect();
    pubsub::forget(&config.pubsub, store, &services, owner, request.unix_millis).await.map_err(failed)?;
    let changed =
        things::forget(&config.things, store, owner, request.unix_millis).await.map_err(|error| match error {
            AssignError::Store(error) => failed(error),
            // Who lets go of everything is told of nothing else.
            AssignError::NotFound | AssignError::NoAccount | AssignError::Owned(_) => {
                Condition::InternalServerError.into()
            }
        })?;
    accounts::remove(store, owner).await.map_err(|error| match error {
        AccountError::Store(error) => failed(error),
        AccountError::NotFound | AccountError::Exists | AccountError::BadPassword => {
            Condition::RegistrationRequired.into()
        }
    })?;
    effects.extend(items.into_iter().map(|item| Effect::ContactRemoved(Box::new(item))));
    if !changed.is_empty() {
        effects.push(Effect::ThingsChanged(changed));
    }
    effects.push(Effect::AccountRemoved);
    Ok(())
}

#[cfg(test)]
mod tests {
    use plaza_core::register::Offer;
    use plaza_core::sasl::scram::verify_password;
    use plaza_core::signed::{self, Fields};
    use plaza_core::thing::NodeName;
    use plaza_core::xml::read::Node;

    use super::super::testing::{Client, error};
    use super::*;
    use crate::registration::RegistrationConfig;
    use crate::registration::tests::{api_key, fill_in, registrar};
    use crate::testing::jid;
    use crate::things::State;
    use crate::wait::block_on;

    const GET: &str = "<query xmlns='jabber:iq:register'/>";
    const REMOVE: &str = "<query xmlns='jabber:iq:register'><remove/></query>";

    fn submission(fields: &Fields) -> String {
        let mut xml = "<query xmlns='jabber:iq:register'><x xmlns='jabber:x:data' type='submit'>".to_owned();
        for (var, value) in fields.iter() {
            xml.push_str(&format!("<field var='{var}'><value>{value}</value></field>"));
        }
        xml + "</x></query>"
    }

    fn password(name: &str, password: &str) -> String {
        format!("<query xmlns='jabber:iq:register'><username>{name}</username><password>{password}</password></query>")
    }

    /// An owner who has the key of a maker.
    fn owner() -> Client {
        let mut owner = Client::owner();
        // The services' time in tests is before that of the keys'.
        let config = RegistrationConfig { timestamp_seconds_max: 0, ..RegistrationConfig::default() };
        owner.config.registration = registrar(config);
        api_key(&owner.store, &owner.config.registration, "maker", |_| ());
        owner
    }

    #[test]
    fn who_has_an_account_is_told_so_with_a_form_for_another() {
        let owner = owner();
        for to in ["", "things.example", "owner@things.example"] {
            let answer = owner.get(to, GET);
            let query = Node::parse(&answer, "").unwrap();
            assert!(query.child("registered", "jabber:iq:register").is_some());
            assert_eq!(query.child("username", "jabber:iq:register").unwrap().text, "owner");
            assert!(query.child("x", "jabber:x:data").is_some());
        }
    }

    #[test]
    fn a_form_is_good_for_one_account() {
        let owner = owner();
        let offer = Offer::new(&[7; 32]);
        let fields = fill_in(&offer, |fields| fields);
        owner.get("things.example", GET);
        let (answer, effects) = owner.ask(IqType::Set, "things.example", &submission(&fields));
        assert_eq!((&*answer, effects), ("", vec![Effect::AccountCreated(jid("lamp@things.example"))]));
        assert!(block_on(accounts::load(&owner.store, jid("lamp@things.example").as_jid())).unwrap().is_some());
        let again = fill_in(&offer, |fields| fields.with("username", "second").with(signed::NONCE, "n2"));
        let (answer, effects) = owner.ask(IqType::Set, "things.example", &submission(&again));
        assert!(answer.contains("<bad-request ") && effects.is_empty(), "{answer}");
        // Without a signature there is none.
        let (answer, effects) = owner.ask(IqType::Set, "", &password("third", "pencil"));
        assert!(answer.contains("<not-allowed ") && effects.is_empty(), "{answer}");
    }

    #[test]
    fn what_is_signed_with_a_wrong_secret_is_refused_late() {
        let owner = owner();
        api_key(&owner.store, &owner.config.registration, "other", |_| ());
        owner.get("things.example", GET);
        let fields = fill_in(&Offer::new(&[7; 32]), |fields| fields).with(signed::CONSUMER_KEY, "other");
        let (answer, effects) = owner.ask(IqType::Set, "things.example", &submission(&fields));
        assert!(answer.contains("<bad-request "), "{answer}");
        assert_eq!(effects, [Effect::NotRegistered(Condition::BadRequest)]);
    }

    #[test]
    fn a_password_is_changed_by_whose_it_is() {
        let owner = owner();
        for (to, name, pencil) in
            [("", "owner", "one"), ("things.example", "OWNER", "two"), ("owner@things.example", "owner", "three")]
        {
            let (answer, effects) = owner.ask(IqType::Set, to, &password(name, pencil));
            assert_eq!((&*answer, effects), ("", vec![Effect::PasswordChanged]));
            let account = block_on(accounts::load(&owner.store, owner.jid.as_jid())).unwrap().unwrap();
            assert!(verify_password(&account.sha256, pencil));
        }
        assert!(owner.set("", &password("owner", "")).contains("<not-acceptable "));
        assert!(owner.set("", &password("", "x")).contains("<not-allowed "));
    }

    #[test]
    fn an_account_is_removed_with_all_that_is_its_own() {
        let owner = owner();
        let contact = jid("friend@things.example");
        let update =
            rosters::update(&owner.store, owner.jid.as_jid().bare(), contact.as_jid(), 9, |item| item.ask = true);
        block_on(update).unwrap();
        assert!(owner.set("", &REMOVE.replace("<remove/>", "<remove/><x/>")).contains("<bad-request "));
        let (answer, effects) = owner.ask(IqType::Set, "", REMOVE);
        assert_eq!(answer, "");
        assert!(matches!(&*effects, [Effect::ContactRemoved(item), Effect::AccountRemoved] if item.jid == contact));
        assert!(block_on(accounts::load(&owner.store, owner.jid.as_jid())).unwrap().is_none());
        let (answer, effects) = owner.ask(IqType::Set, "", REMOVE);
        assert_eq!((answer, effects), (error(Condition::RegistrationRequired), vec![]));
    }

    #[test]
    fn what_an_account_owned_is_nobodys_when_it_is_removed_and_its_own_things_are_gone() {
        let owner = owner();
        let device = owner.other(false);
        let keys = accounts::NewKeys::derive("pencil", &[1; 32], 1).unwrap();
        block_on(accounts::create(&owner.store, device.jid.as_jid().bare(), keys, false, 0)).unwrap();
        let register = "<register xmlns='urn:nf:iot:disco:1.0'><str name='SN' value='1'/></register>";
        for client in [&owner, &device] {
            assert_eq!(client.set("things.things.example", register), "");
        }
        let node = NodeName::default();
        let name = (&device.jid.bare(), &node);
        block_on(things::assign(&owner.config.things, &owner.store, name, &owner.jid.bare(), true, 0)).unwrap();
        let (answer, effects) = owner.ask(IqType::Set, "", REMOVE);
        assert_eq!(
            (&*answer, effects),
            ("", vec![Effect::ThingsChanged(vec![name.0.clone()]), Effect::AccountRemoved])
        );
        let load = |jid: &Jid| block_on(things::load(&owner.store, jid, &node)).unwrap();
        assert_eq!(load(name.0).unwrap().state, State::Unclaimed);
        assert_eq!(load(&owner.jid.bare()), None);
        assert_eq!(block_on(things::owned(&owner.store, owner.jid.as_jid().bare(), None, 9)).unwrap(), []);
    }

    #[test]
    fn nobody_registers_at_others_nor_where_it_is_off() {
        let mut owner = owner();
        let stranger = owner.other(true);
        for payload in [GET, REMOVE] {
            assert_eq!(stranger.set("owner@things.example", payload), error(Condition::ServiceUnavailable));
        }
        assert_eq!(owner.get("", "<other xmlns='jabber:iq:register'/>"), error(Condition::FeatureNotImplemented));
        let off = RegistrationConfig { enabled: false, ..RegistrationConfig::default() };
        owner.config.registration = registrar(off);
        for to in ["", "things.example"] {
            assert_eq!(owner.get(to, GET), error(Condition::ServiceUnavailable));
            assert_eq!(owner.set(to, REMOVE), error(Condition::ServiceUnavailable));
        }
    }
}
