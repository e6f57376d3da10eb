//! Asking the services as a client would, for the tests of all of them.

use std::sync::Arc;

use plaza_core::jid::Jid;
use plaza_core::stanza::{Condition, IqType, Kind, write_error};
use plaza_core::xml::read::Node;

use super::{Component, ComponentKind, Effect, Request, ServiceConfig, ServiceLimits, Target, answer};
use crate::archive::ArchiveConfig;
use crate::registration::RegistrationConfig;
use crate::store::memory::MemoryStore;
use crate::testing::{jid, store_with};
use crate::things;
use crate::wait::block_on;
use crate::{provisioning, pubsub};

pub(super) const OWNER: &str = "owner@things.example/desk";

/// The broker the services speak for.
pub(super) fn config() -> ServiceConfig {
    ServiceConfig {
        name: "Plaza".to_owned(),
        version: "0.1.0".to_owned(),
        node: "https://plaza.example".to_owned(),
        domains: vec![jid("things.example")],
        components: vec![
            Component {
                jid: jid("things.things.example"),
                name: "Things & more".to_owned(),
                kind: ComponentKind::Things,
            },
            Component { jid: jid("pubsub.things.example"), name: String::new(), kind: ComponentKind::Pubsub },
        ],
        roster_items_max: 2,
        limits: ServiceLimits::default(),
        pubsub: pubsub::Config::new(pubsub::Limits::DEFAULT, vec![jid("things.example")]),
        archive: ArchiveConfig::default(),
        things: things::Config::new(things::Limits::DEFAULT, None),
        registration: crate::registration::tests::registrar(RegistrationConfig::default()),
        provisioning: provisioning::Config::new(provisioning::Limits::DEFAULT, [7; 32]),
    }
}

/// Who asks, of what store.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) store: MemoryStore,
    pub(super) config: ServiceConfig,
    pub(super) jid: Jid,
    /// Whether whoever is asked gives this client presence.
    pub(super) subscribed: bool,
}

impl Client {
    /// The owner of the only account.
    pub(super) fn owner() -> Self {
        let owner = jid(OWNER);
        Self { store: store_with(&owner.bare()), config: config(), jid: owner, subscribed: false }
    }

    /// Somebody else, with the same store.
    pub(super) fn other(&self, subscribed: bool) -> Self {
        Self { jid: jid("other@things.example/x"), subscribed, ..self.clone() }
    }

    /// Asks; `to` "" stands for none. Gives the answer without its envelope's constant parts, and effects.
    pub(super) fn ask(&self, iq_type: IqType, to: &str, payload: &str) -> (String, Vec<Effect>) {
        let node = Node::parse(payload, "jabber:client").unwrap();
        let target = match to {
            "" => Target::Account(self.jid.bare()),
            _ if to.contains('@') => Target::Account(jid(to)),
            _ if self.config.components.iter().any(|component| component.jid.as_str() == to) => {
                Target::Service(jid(to))
            }
            _ => Target::Server(jid(to)),
        };
        let request = Request {
            caller: self.jid.clone(),
            target,
            addressed: !to.is_empty(),
            subscribed: self.subscribed,
            kind: Kind::Iq,
            iq_type,
            id_raw: "a&amp;1".into(),
            payload: payload.into(),
            payload_ns: node.ns.into(),
            payload_name: node.name.into(),
            unix_millis: 1_767_323_045_000,
        };
        let reply = block_on(answer(Arc::new(self.config.clone()), self.store.clone(), request));
        let stanza = String::from_utf8(reply.stanza).unwrap();
        let from = if to.is_empty() { String::new() } else { format!(" from='{to}'") };
        for kind in ["result", "error"] {
            let head = format!("<iq type='{kind}' id='a&amp;1'{from} to='{}'>", self.jid);
            if let Some(rest) = stanza.strip_prefix(&head) {
                return (rest.strip_suffix("</iq>").unwrap().to_owned(), reply.effects);
            }
        }
        panic!("{stanza}");
    }

    /// The answer to a get that has no effects.
    pub(super) fn get(&self, to: &str, payload: &str) -> String {
        let (answer, effects) = self.ask(IqType::Get, to, payload);
        assert_eq!(effects, []);
        answer
    }

    /// The answer to a set.
    pub(super) fn set(&self, to: &str, payload: &str) -> String {
        self.ask(IqType::Set, to, payload).0
    }
}

/// The answer that is an error with this condition.
pub(super) fn error(condition: Condition) -> String {
    let mut out = Vec::new();
    write_error(&mut out, Kind::Iq, None, "", "", condition.into());
    let out = String::from_utf8(out).unwrap();
    out.strip_prefix("<iq type='error'>").unwrap().strip_suffix("</iq>").unwrap().to_owned()
}
