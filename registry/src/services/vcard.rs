//! vCards (XEP-0054 v1.3.0): an owner keeps one, everybody may read it.

use plaza_core::jid::JidRef;
use plaza_core::ns;
use plaza_core::stanza::Condition;
use plaza_core::xml::Standalone;
use plaza_core::xml::read::Node;

use super::{Effect, Request, ServiceConfig, condition, not_standalone, photo, refusal};
use crate::store::Store;
use crate::vcards::{self, Vcard, avatar_hash};

/// One's own (§3.1).
///
/// # Errors
/// `item-not-found` if there is none.
pub(super) async fn get_own<S: Store>(store: &S, owner: JidRef<'_>) -> Result<Vec<u8>, Condition> {
    get(store, owner, Condition::ItemNotFound).await
}

/// Somebody else's (§3.3).
///
/// # Errors
/// `service-unavailable` if there is none, as if there were no account.
pub(super) async fn get_other<S: Store>(store: &S, owner: JidRef<'_>) -> Result<Vec<u8>, Condition> {
    get(store, owner, Condition::ServiceUnavailable).await
}

async fn get<S: Store>(store: &S, owner: JidRef<'_>, missing: Condition) -> Result<Vec<u8>, Condition> {
    let vcard = vcards::load(store, owner).await.map_err(|error| condition(&error))?;
    Ok(vcard.ok_or(missing)?.xml.into_bytes())
}

/// Replaces one's own (§3.2). The hash of its photo is stored beside it, and shown in presence from now on; another one is
/// published (XEP-0398).
///
/// # Errors
/// `not-acceptable` if it is too large.
pub(super) async fn set<S: Store>(
    config: &ServiceConfig,
    store: &S,
    request: &Request,
    effects: &mut Vec<Effect>,
) -> Result<Vec<u8>, Condition> {
    let (owner, bytes_max) = (request.caller.as_jid().bare(), config.limits.vcard_bytes_max as usize);
    let vcard = Standalone::read(&request.payload, ns::CLIENT, bytes_max).map_err(not_standalone)?;
    let node = Node::parse(&vcard.xml, "").ok_or(Condition::BadRequest)?;
    let vcard = Vcard { avatar: avatar_hash(&node), xml: vcard.xml };
    let before = vcards::avatar(store, owner).await.map_err(|error| condition(&error))?;
    vcards::save(store, owner, &vcard).await.map_err(refusal)?;
    effects.push(Effect::Photo(vcard.avatar));
    if before != vcard.avatar {
        photo::vcard_set(config, store, request, &node, effects).await;
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use plaza_core::stanza::IqType;

    use super::super::testing::{Client, error};
    use super::*;
    use crate::testing::jid;
    use crate::wait::block_on;

    const EMPTY: &str = "<vCard xmlns='vcard-temp'/>";
    const PETER: &str = "<vCard xmlns='vcard-temp'><FN>Peter Saint-Andre</FN>\n\
                         <PHOTO><TYPE>image/png</TYPE><BINVAL>YW\nJj</BINVAL></PHOTO></vCard>";

    #[test]
    fn ones_own_is_stored_replaced_and_read() {
        let owner = Client::owner();
        assert_eq!(owner.get("", EMPTY), error(Condition::ItemNotFound));
        let hash = *b"\xa9\x99\x3e\x36\x47\x06\x81\x6a\xba\x3e\x25\x71\x78\x50\xc2\x6c\x9c\xd0\xd8\x9d";
        let (answer, effects) = owner.ask(IqType::Set, "", PETER);
        assert_eq!((&*answer, &effects[0]), ("", &Effect::Photo(Some(hash))));
        for to in ["", "owner@things.example"] {
            assert_eq!(owner.get(to, EMPTY), PETER);
        }
        let avatar = || block_on(vcards::avatar(&owner.store, jid("owner@things.example").as_jid())).unwrap();
        assert_eq!(avatar(), Some(hash));
        // Some clients set it at their bare JID.
        let (answer, effects) = owner.ask(IqType::Set, "owner@things.example", EMPTY);
        assert_eq!((&*answer, &effects[0]), ("", &Effect::Photo(None)));
        assert_eq!((owner.get("", EMPTY), avatar()), (EMPTY.to_owned(), None));
    }

    #[test]
    fn anybody_may_read_it_and_learns_nothing_where_there_is_none() {
        let owner = Client::owner();
        let other = owner.other(false);
        for to in ["owner@things.example", "nobody@things.example", "things.example"] {
            assert_eq!(other.get(to, EMPTY), error(Condition::ServiceUnavailable));
        }
        assert_eq!(owner.set("", PETER), "");
        assert_eq!(other.get("owner@things.example", EMPTY), PETER);
        // The store is asked the same of both, so the time it takes tells no more.
        other.store.hold();
        let mut asked = Vec::new();
        for to in ["owner@things.example", "nobody@things.example"] {
            std::thread::scope(|scope| {
                let other = &other;
                let answer = scope.spawn(move || other.get(to, EMPTY));
                let mut reads = 0;
                while !answer.is_finished() {
                    reads += usize::from(other.store.release());
                    std::thread::yield_now();
                }
                asked.push(reads);
            });
        }
        assert_eq!(asked, [1, 1]);
    }

    #[test]
    fn nobody_but_the_owner_may_set_it() {
        let owner = Client::owner();
        owner.store.hold();
        for to in ["owner@things.example", "nobody@things.example", "things.example"] {
            assert_eq!(owner.other(true).ask(IqType::Set, to, PETER), (error(Condition::Forbidden), vec![]));
        }
        assert_eq!(owner.store.held(), 0);
    }

    #[test]
    fn one_too_large_is_refused_and_the_old_one_stays() {
        let mut owner = Client::owner();
        owner.config.limits.vcard_bytes_max = PETER.len() as u32;
        assert_eq!(owner.set("", PETER), "");
        assert_eq!(owner.set("", &PETER.replace("Peter", "Petra ")), error(Condition::NotAcceptable));
        assert_eq!(owner.get("", EMPTY), PETER);
    }

    #[test]
    fn the_wrong_element_is_not_understood() {
        let owner = Client::owner();
        for iq_type in [IqType::Get, IqType::Set] {
            let (answer, _) = owner.ask(iq_type, "", "<VCARD xmlns='vcard-temp'/>");
            assert_eq!(answer, error(Condition::FeatureNotImplemented));
        }
    }
}
