//! A registry to ask, for the tests of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use plaza_core::iot::{Generation, Interface};
use plaza_core::stanza::{Condition, IqType, Kind};
use plaza_core::thing::NodeName;
use plaza_core::xml::read::Node;

use super::{Config, Limits, Search, ThingRecord, index, load};
use crate::accounts::{self, NewKeys};
use crate::archive::ArchiveConfig;
use crate::pubsub;
use crate::services::{
    Ask, Component, ComponentKind, Effect, Reply, Request, ServiceConfig, ServiceLimits, Target, answer, asked,
};
use crate::store::memory::MemoryStore;
use crate::testing::jid;
use crate::wait::block_on;

pub(crate) const REGISTRY: &str = "things.things.example";
pub(crate) const LAMP: &str = "lamp@things.example/bulb";
pub(crate) const RACK: &str = "rack@things.example/plcs";
pub(crate) const OWNER: &str = "owner@things.example/desk";
pub(crate) const OTHER: &str = "other@things.example/x";
pub(crate) const STRANGER: &str = "stranger@far.example/y";

/// A registry with five accounts: two devices, two owners, and one that comes in no test but its own.
pub(crate) struct World {
    pub(crate) store: MemoryStore,
    pub(crate) config: Arc<ServiceConfig>,
    pub(crate) now: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Limits { searches_per_second_max: 1_000, ..Limits::DEFAULT }, true)
    }

    pub(crate) fn with(limits: Limits, has_index: bool) -> Self {
        let store = MemoryStore::new();
        for account in [LAMP, RACK, OWNER, OTHER] {
            let keys = NewKeys::derive("pencil", &[1; 32], 1).unwrap();
            block_on(accounts::create(&store, jid(account).as_jid(), keys, false, 0)).unwrap();
        }
        let kind = ComponentKind::Things;
        let spawn = || index::spawn(store.clone(), index::Limits::default()).unwrap();
        let index = has_index.then(|| Arc::new(spawn()) as Arc<dyn Search>);
        let config = ServiceConfig {
            name: "Plaza".to_owned(),
            version: "0.1.0".to_owned(),
            node: "https://plaza.example".to_owned(),
            domains: vec![jid("things.example")],
            components: vec![Component { jid: jid(REGISTRY), name: String::new(), kind }],
            roster_items_max: 2,
            limits: ServiceLimits::default(),
            pubsub: pubsub::Config::new(pubsub::Limits::DEFAULT, vec![jid("things.example")]),
            archive: ArchiveConfig::default(),
            things: Config::new(limits, index),
            provisioning: crate::provisioning::Config::new(crate::provisioning::Limits::DEFAULT, [7; 32]),
            registration: crate::registration::tests::registrar(crate::registration::RegistrationConfig::default()),
        };
        Self { store, config: Arc::new(config), now: 1_767_323_045_000 }
    }

    pub(crate) fn request(&self, caller: &str, iq_type: IqType, payload: &str) -> Request {
        let node = Node::parse(payload, "jabber:client").unwrap();
        Request {
            caller: jid(caller),
            target: Target::Service(jid(REGISTRY)),
            addressed: true,
            subscribed: false,
            kind: Kind::Iq,
            iq_type,
            id_raw: "1".into(),
            payload: payload.into(),
            payload_ns: node.ns.into(),
            payload_name: node.name.into(),
            unix_millis: self.now,
        }
    }

    /// A request under way.
    pub(crate) fn begin(&self, caller: &str, payload: &str) -> Pin<Box<dyn Future<Output = Reply>>> {
        let request = self.request(caller, IqType::Set, payload);
        Box::pin(answer(Arc::clone(&self.config), self.store.clone(), request))
    }

    /// Asks: the payload of the result, or the condition; and the effects.
    pub(crate) fn ask(&self, caller: &str, iq_type: IqType, payload: &str) -> (Result<String, Condition>, Vec<Effect>) {
        let request = self.request(caller, iq_type, payload);
        let reply = block_on(answer(Arc::clone(&self.config), self.store.clone(), request));
        (said(&reply, caller), reply.effects)
    }

    /// A set, in today's generation: what is asked after its name, before its end.
    pub(crate) fn set(&self, caller: &str, request: &str) -> Result<String, Condition> {
        self.ask(caller, IqType::Set, &in_ns(Generation::Nf, request)).0
    }

    /// A search, in today's generation.
    pub(crate) fn search(&self, caller: &str, attrs: &str, operators: &str) -> Result<String, Condition> {
        let request = format!("<search {attrs}>{operators}</search>");
        self.ask(caller, IqType::Get, &in_ns(Generation::Nf, &request)).0
    }

    /// The ids of the nodes that a search found, and whether there are more.
    pub(crate) fn found(&self, attrs: &str, operators: &str) -> (Vec<String>, bool) {
        let found = self.search(OWNER, attrs, operators).unwrap();
        let found = Node::parse(&found, "").unwrap();
        let id = |thing: &Node| thing.attr("id").unwrap_or_default().to_owned();
        (found.children.iter().map(id).collect(), found.attr("more") == Some("true"))
    }

    /// Goes on with what a device was asked.
    pub(crate) fn asked(&self, caller: &str, ask: Ask, acknowledged: bool) -> (Result<String, Condition>, Vec<Effect>) {
        let reply = block_on(asked(Arc::clone(&self.config), self.store.clone(), ask, acknowledged));
        (said(&reply, caller), reply.effects)
    }

    /// Disowns, the device having heard of it.
    pub(crate) fn disown(&self, caller: &str, request: &str) -> Result<String, Condition> {
        let (answer, effects) = self.ask(caller, IqType::Set, &in_ns(Generation::Nf, request));
        match effects.into_iter().next() {
            Some(Effect::Ask(ask)) => self.asked(caller, *ask, true).0,
            _ => answer,
        }
    }

    pub(crate) fn thing(&self, jid_text: &str, id: &str) -> Option<ThingRecord> {
        let node = NodeName { id: id.into(), ..NodeName::default() };
        block_on(load(&self.store, &jid(jid_text).bare(), &node)).unwrap()
    }
}

/// A request as it is written in a generation.
pub(crate) fn in_ns(generation: Generation, request: &str) -> String {
    let end = request.find([' ', '>', '/']).unwrap();
    let (name, rest) = request.split_at(end);
    format!("{name} xmlns='{}'{rest}", Interface::Discovery.ns(generation))
}

/// What a reply says: the payload of a result, or a condition.
pub(crate) fn said(reply: &Reply, caller: &str) -> Result<String, Condition> {
    let stanza = String::from_utf8(reply.stanza.clone()).unwrap();
    if stanza.is_empty() {
        return Ok("later".to_owned());
    }
    let inside = |kind: &str| {
        let head = format!("<iq type='{kind}' id='1' from='{REGISTRY}' to='{caller}'>");
        stanza.strip_prefix(&head)?.strip_suffix("</iq>")
    };
    match inside("result") {
        Some(payload) => Ok(payload.to_owned()),
        None => {
            let error = Node::parse(inside("error").unwrap(), "").unwrap();
            Err(Condition::from_name(&error.children[0].name).unwrap())
        }
    }
}

/// Drives a future a step.
pub(crate) fn poll<T>(future: &mut Pin<Box<dyn Future<Output = T>>>) -> Option<T> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}
