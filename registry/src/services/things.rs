//! The Thing Registry (XEP-0347 v0.5.1) as a service beside the server: brings requests to [`crate::things`], and back what
//! leaves unasked. What else things ask is told apart here by its interface.

use std::sync::Arc;

use plaza_core::iot::Interface;
use plaza_core::jid::Jid;
use plaza_core::ns;
use plaza_core::stanza::{Condition, IqType, Kind};
use plaza_core::xml::read::Node;

use super::{ComponentKind, Effect, Reply, Request, ServiceConfig, Target, disco, facts, finish, provisioning, read};
use crate::pubsub::Refusal;
use crate::store::Store;
use crate::things::{self, Answer, Asks, Call};

/// Something that a device has to hear before a request goes on.
#[derive(Debug, PartialEq, Eq)]
pub struct Ask {
    /// Bare JID of the device: any of its resources may answer.
    pub device: Jid,
    /// Who asks.
    pub from: Jid,
    /// Payload of the set, escaped XML.
    pub payload: String,
    /// The request that goes on.
    request: Request,
    /// Which claim ends then.
    claim: u64,
}

impl Ask {
    /// Who waits for what comes of it.
    pub const fn caller(&self) -> &Jid {
        &self.request.caller
    }
}

/// Whether a request is for a registry.
pub(super) fn is_for_it(config: &ServiceConfig, request: &Request) -> bool {
    matches!(&request.target, Target::Service(service) if config.kind_of(service) == Some(ComponentKind::Things))
}

/// Answers a request to a registry.
pub(super) async fn answer<S: Store>(
    config: &ServiceConfig,
    store: &S,
    request: &Request,
    effects: &mut Vec<Effect>,
) -> Result<Vec<u8>, Condition> {
    if request.kind != Kind::Iq {
        return Err(Condition::ServiceUnavailable);
    }
    match (&*request.payload_ns, &*request.payload_name, request.iq_type) {
        (ns::DISCO_INFO, "query", IqType::Get) => return disco::things(&read(request)?),
        (ns::DISCO_ITEMS, "query", IqType::Get) => {
            let (Target::Service(jid) | Target::Server(jid) | Target::Account(jid)) = &request.target;
            return disco::things_items(&read(request)?, jid.as_str());
        }
        (ns::PING, "ping", IqType::Get) => return Ok(Vec::new()),
        (ns::VERSION, "query", IqType::Get) => return Ok(facts::version(config)),
        (ns::COMMANDS | ns::DISCO_INFO | ns::DISCO_ITEMS | ns::PING | ns::VERSION, ..) => {
            return Err(Condition::FeatureNotImplemented);
        }
        _ => {}
    }
    match Interface::of(&request.payload_ns) {
        Some((Interface::Discovery, _)) => {
            let payload = read(request)?;
            let answer = things::answer(&config.things, store, call(config, request, &payload)).await?;
            Ok(take(answer, request, effects))
        }
        Some((Interface::Device | Interface::Owner | Interface::Tokens, _)) => match &request.target {
            Target::Service(service) => provisioning::answer(config, store, request, service, effects).await,
            Target::Server(_) | Target::Account(_) => Err(Condition::ServiceUnavailable),
        },
        None => Err(Condition::ServiceUnavailable),
    }
}

/// Goes on with a request when the device was asked: it has heard, or it has not in the time it had.
pub async fn asked<S: Store>(config: Arc<ServiceConfig>, store: S, ask: Ask, acknowledged: bool) -> Reply {
    let request = &ask.request;
    let mut reply = Reply::default();
    let result =
        if acknowledged { go_on(&config, &store, &ask, &mut reply.effects).await } else { Err(Condition::NotAllowed) };
    finish(&mut reply, request, result.map_err(Refusal::from));
    reply
}

async fn go_on<S: Store>(
    config: &ServiceConfig,
    store: &S,
    Ask { request, claim, .. }: &Ask,
    effects: &mut Vec<Effect>,
) -> Result<Vec<u8>, Condition> {
    let payload = read(request)?;
    let answer = things::disowned(&config.things, store, call(config, request, &payload), *claim).await?;
    Ok(take(answer, request, effects))
}

/// A request to the registry, and whether it comes from one of our accounts.
fn call<'a>(config: &ServiceConfig, request: &'a Request, payload: &'a Node) -> Call<'a> {
    let caller = request.caller.as_jid();
    let is_ours = config.domains.iter().any(|domain| domain.as_str() == caller.domain());
    Call {
        caller: &request.caller,
        is_local: is_ours && caller.local().is_some(),
        iq_type: request.iq_type,
        payload,
        now: request.unix_millis,
    }
}

fn take(answer: Answer, request: &Request, effects: &mut Vec<Effect>) -> Vec<u8> {
    effects.extend(answer.changed.map(|account| Effect::ThingsChanged(vec![account])));
    if let (Some(Asks { device, payload, claim }), Target::Service(from)) = (answer.ask, &request.target) {
        let request = request.clone();
        effects.push(Effect::Ask(Box::new(Ask { device, from: from.clone(), payload, request, claim })));
    }
    answer.payload
}
