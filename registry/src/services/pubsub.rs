//! Publish-subscribe of services and accounts (XEP-0060 v1.30.0, XEP-0163 v1.2.2): brings requests to [`crate::pubsub`],
//! and back what leaves unasked.

use plaza_core::ns;
use plaza_core::stanza::{IqType, Kind};

use super::{ComponentKind, Effect, Request, ServiceConfig, Target, photo};
use crate::pubsub::{self, Facts, Host, Outgoing, Refusal};
use crate::store::Store;

/// Whose nodes a request is about. Discovery of an account's nodes is for its owner and who has its presence, as of the
/// account itself.
pub(super) fn host(config: &ServiceConfig, request: &Request) -> Option<Host> {
    let (host, may_know) = match &request.target {
        Target::Server(_) => return None,
        Target::Service(service) if config.kind_of(service) == Some(ComponentKind::Pubsub) => {
            (Host::Service(service.clone()), true)
        }
        Target::Service(_) => return None,
        Target::Account(account) => {
            let is_own = account.as_jid() == request.caller.as_jid().bare();
            (Host::Account(account.clone()), is_own || request.subscribed)
        }
    };
    let has_node = || super::read(request).is_ok_and(|query| query.attr("node").is_some_and(|node| !node.is_empty()));
    let is_for_it = match &*request.payload_ns {
        ns::PUBSUB | ns::PUBSUB_OWNER | ns::COMMANDS => true,
        // An owner's decision on a subscription (XEP-0060 §8.6).
        ns::DATA_FORMS => request.kind == Kind::Message,
        ns::DISCO_ITEMS => may_know,
        ns::DISCO_INFO => may_know && (matches!(host, Host::Service(_)) || has_node()),
        _ => false,
    };
    is_for_it.then_some(host)
}

/// Answers a request to a service. Of an account the owner's roster is asked first, whether there is such an account or
/// not; a node that is there costs a stranger one more read than one that is not.
pub(super) async fn answer<S: Store>(
    config: &ServiceConfig,
    store: &S,
    request: &Request,
    host: &Host,
    effects: &mut Vec<Effect>,
) -> Result<Vec<u8>, Refusal> {
    let facts = match host {
        Host::Account(owner) => {
            let mut facts = Facts::read(store, owner.as_jid(), request.caller.as_jid()).await?;
            facts.subscribed |= request.subscribed;
            facts
        }
        Host::Service(_) => Facts::default(),
    };
    let asked = pubsub::Request {
        host,
        caller: &request.caller,
        iq_type: request.iq_type,
        payload: &request.payload,
        unix_millis: request.unix_millis,
    };
    let reply = match request.kind {
        Kind::Message => pubsub::decide(&config.pubsub, store, asked, &facts).await,
        Kind::Iq | Kind::Presence => pubsub::answer(&config.pubsub, store, asked, &facts).await,
    };
    let outgoing = Outgoing { notifications: reply.notifications, messages: reply.messages };
    if !outgoing.is_empty() {
        effects.push(Effect::Pubsub(Box::new(outgoing)));
    }
    let is_own = *host == Host::Account(request.caller.bare());
    if reply.result.is_ok() && is_own && request.iq_type == IqType::Set && photo::may_change_photo(request) {
        photo::published(config, store, request, effects).await.unwrap_or_default();
    }
    reply.result
}

#[cfg(test)]
mod tests {
    use plaza_core::stanza::{Condition, IqType};

    use super::super::testing::{Client, error};
    use super::*;
    use crate::pubsub::Message;

    fn wrapped(ns: &str, inside: &str) -> String {
        format!("<pubsub xmlns='{ns}'>{inside}</pubsub>")
    }

    #[test]
    fn an_account_publishes_and_says_whom_to_tell() {
        let owner = Client::owner();
        let publish = "<publish node='urn:n'><item id='1'><e xmlns='urn:e'/></item></publish>";
        let (answer, effects) = owner.ask(IqType::Set, "", &wrapped(ns::PUBSUB, publish));
        assert_eq!(answer, wrapped(ns::PUBSUB, "<publish node='urn:n'><item id='1'/></publish>"));
        let Some(Effect::Pubsub(outgoing)) = effects.into_iter().next() else { panic!("something is to be told") };
        let messages: Vec<Message> = outgoing.into_messages().collect();
        let [message] = &messages[..] else { panic!("{messages:?}") };
        assert_eq!(
            std::str::from_utf8(&message.text).unwrap(),
            "<message from='owner@things.example' type='headline'>\
             <event xmlns='http://jabber.org/protocol/pubsub#event'>\
             <items node='urn:n'><item id='1'><e xmlns='urn:e'/></item></items></event></message>"
        );
        assert_eq!(message.audience.as_ref().map(|audience| &*audience.node), Some("urn:n"));
        let nodes = "<query xmlns='http://jabber.org/protocol/disco#items'/>";
        let (answer, _) = owner.ask(IqType::Get, "", nodes);
        assert_eq!(answer, nodes.replace("/>", "><item jid='owner@things.example' node='urn:n'/></query>"));
    }

    #[test]
    fn a_form_in_an_iq_is_no_decision_and_is_answered() {
        let owner = Client::owner();
        let form = "<x xmlns='jabber:x:data' type='submit'/>";
        for iq_type in [IqType::Get, IqType::Set] {
            for to in ["", "owner@things.example", "things.example"] {
                assert_eq!(owner.ask(iq_type, to, form).0, error(Condition::ServiceUnavailable));
            }
        }
    }

    #[test]
    fn refusals_are_written_with_what_they_say() {
        let owner = Client::owner();
        let (answer, effects) = owner.ask(IqType::Get, "", &wrapped(ns::PUBSUB, "<items/>"));
        assert_eq!(
            (&*answer, effects.len()),
            (
                "<error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>\
                 <nodeid-required xmlns='http://jabber.org/protocol/pubsub#errors'/></error>",
                0
            )
        );
        owner.ask(IqType::Set, "", &wrapped(ns::PUBSUB, "<create node='a'/>"));
        let list = "<affiliations node='a'><affiliation jid='owner@things.example' affiliation='WORD'/></affiliations>";
        let set = wrapped(ns::PUBSUB_OWNER, &list.replace("WORD", "none"));
        let (answer, _) = owner.ask(IqType::Set, "", &set);
        let kept = wrapped(ns::PUBSUB_OWNER, &list.replace("WORD", "owner"));
        assert!(answer.starts_with(&kept) && answer.contains("<not-acceptable "), "{answer}");
    }

    #[test]
    fn a_stranger_is_told_the_same_of_everyone() {
        let owner = Client::owner();
        let items = wrapped(ns::PUBSUB, "<items node='a'/>");
        let answers = ["other@things.example", "nobody@things.example"]
            .map(|to| owner.ask(IqType::Get, to, &items).0.replace(to, ""));
        assert_eq!(answers[0], answers[1]);
        assert!(answers[0].contains("<service-unavailable "));
    }
}
