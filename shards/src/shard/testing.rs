//! Two shards over one store, with services and whoever brings their effects, for the tests of what passes between them.

use std::sync::Arc;

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plaza_core::caps::{Caps, HashFunction, Info};
use plaza_core::jid::Jid;
use plaza_core::ns;
use plaza_core::xml::read::Node;
use plaza_registry::accounts::{self, NewKeys};
use plaza_registry::errands::{self, ErrandConfig};
use plaza_registry::resumables::Resumable;
use plaza_registry::rosters::{self, Subscription};
use plaza_registry::services::{self, Component, ComponentKind, ServiceConfig, ServiceLimits};
use plaza_registry::store::memory::MemoryStore;
use plaza_registry::things;
use plaza_registry::wait::block_on;
use plaza_registry::{provisioning, pubsub};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize, date_time_ymd};

use super::tests::{feed, shards};
use super::{Effect, Flow, ReplyTo, SessionId, Shard, ShardConfig};
use crate::home::Homes;
use crate::mesh::ShardId;
use crate::ring::Key;

pub(super) const SERVICE: &str = "pubsub.things.example";
pub(super) const REGISTRY: &str = "things.things.example";

pub(super) fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

/// A session of this address that was cut off, as the store keeps it.
pub(super) fn cut_off(jid: Jid) -> Resumable {
    Resumable {
        jid,
        secret: [1; 16],
        number: 1,
        seconds: 60,
        handled: 0,
        sent: 0,
        priority: Some(0),
        interested: false,
        carbons: false,
        presence: None,
        unacked: Vec::new(),
    }
}

/// Two shards over one store, with services.
pub(super) struct World {
    pub(super) shards: Vec<Shard>,
    pub(super) homes: Homes,
    pub(super) store: MemoryStore,
    pub(super) config: ErrandConfig,
}

impl World {
    pub(super) fn new() -> Self {
        let (plain, homes) = shards(2);
        let pubsub = Component { jid: jid(SERVICE), name: String::new(), kind: ComponentKind::Pubsub };
        let things = Component { jid: jid(REGISTRY), name: String::new(), kind: ComponentKind::Things };
        let services = vec![pubsub, things];
        let provisioning = provisioning::Config::new(provisioning::Limits::DEFAULT, [7; 32]);
        let config = Arc::new(ShardConfig {
            services: services.clone(),
            proofs: provisioning.proofs().clone(),
            outbox_bytes_max: 1 << 20,
            outbox_bytes_full: 1 << 20,
            outbox_bytes_high: 1 << 19,
            ..(*plain[0].config).clone()
        });
        let make = |id| Shard::new(ShardId(id), 2, homes.clone(), Arc::clone(&config));
        let services = Arc::new(ServiceConfig {
            name: "Plaza".into(),
            version: "0".into(),
            node: "https://plaza.example".into(),
            domains: config.domains.clone(),
            components: services,
            roster_items_max: 20,
            limits: ServiceLimits::default(),
            pubsub: pubsub::Config::new(pubsub::Limits::DEFAULT, config.domains.clone()),
            archive: config.archive,
            things: things::Config::new(things::Limits::DEFAULT, None),
            registration: plaza_registry::registration::Registrar::off(),
            provisioning,
        });
        let config = ErrandConfig { roster_items_max: 20, requests_max: 20, offline: config.offline, services };
        Self { shards: vec![make(0), make(1)], homes, store: MemoryStore::new(), config }
    }

    /// Makes an account at home on a shard; its bare JID.
    pub(super) fn account(&self, name: &str, shard: u16) -> Jid {
        let at = |n: u32| jid(&format!("{name}{n}@things.example"));
        let account = (0..).map(at).find(|jid| self.homes.shard(self.homes.hash(jid.as_jid())) == ShardId(shard));
        let account = account.unwrap();
        let keys = NewKeys::derive("pencil", &[1; 32], 1).unwrap();
        block_on(accounts::create(&self.store, account.as_jid(), keys, false, 0)).unwrap();
        account
    }

    /// `owner` has `contact` in its roster so, and the other way round.
    pub(super) fn stand(&self, owner: &Jid, contact: &Jid, ours: Subscription, theirs: Subscription) {
        for (one, other, stands) in [(owner, contact, ours), (contact, owner, theirs)] {
            let put = rosters::update(&self.store, one.as_jid(), other.as_jid(), 20, |item| {
                item.subscription = stands;
                item.groups = vec!["friends".to_owned()];
            });
            block_on(put).unwrap();
        }
    }

    pub(super) fn shard(&mut self, account: &Jid) -> &mut Shard {
        let home = self.homes.shard(self.homes.hash(account.as_jid()));
        &mut self.shards[usize::from(home.0)]
    }

    /// Logs in.
    pub(super) fn bind(&mut self, account: &Jid, resource: &str) -> SessionId {
        let key = Key { index: 0, generation: 0 };
        if !self.shard(account).login(key, account.as_jid()) {
            self.settle();
        }
        self.shard(account).bind(key, account, Some(resource), 0).unwrap().0
    }

    /// Logs in, and what there is to know of its account is known.
    pub(super) fn bind_met(&mut self, account: &Jid, resource: &str) -> SessionId {
        let id = self.bind(account, resource);
        self.say(account, id, "<iq type='get' id='p' to='things.example'><ping xmlns='urn:xmpp:ping'/></iq>");
        assert!(self.sent(account, id).contains("id='p'"));
        id
    }

    /// Logs in and says that it is there, and what it wants to be told of.
    pub(super) fn there(&mut self, account: &Jid, resource: &str, nodes: &[&str]) -> SessionId {
        let id = self.bind(account, resource);
        self.say(account, id, &presence(&self.shards[0], nodes));
        id
    }

    pub(super) fn say(&mut self, account: &Jid, id: SessionId, text: &str) {
        let flow = feed(self.shard(account), id, text);
        self.settle();
        // What its account's facts were not there for is said again, as the driver does.
        if flow == Flow::Stalled {
            feed(self.shard(account), id, text);
            self.settle();
        }
    }

    /// All that a session was sent since it was last asked.
    pub(super) fn sent(&mut self, account: &Jid, id: SessionId) -> String {
        let shard = self.shard(account);
        let text = String::from_utf8(shard.take_outbox(id)).unwrap();
        shard.written(id);
        text
    }

    /// What a session was told since it was last asked: its messages.
    pub(super) fn told(&mut self, account: &Jid, id: SessionId) -> Vec<String> {
        let shard = self.shard(account);
        let text = String::from_utf8(shard.take_outbox(id)).unwrap();
        shard.written(id);
        let messages = text.split("<message").skip(1).map(|rest| rest.split("</message>").next().unwrap().to_owned());
        messages.collect()
    }

    pub(super) fn publish(&mut self, owner: &Jid, id: SessionId, to: &str, node: &str, item: &str) {
        let publish = format!("<publish node='{node}'><item id='{item}'><e xmlns='urn:e'/></item></publish>");
        self.ask(owner, id, to, &publish);
    }

    pub(super) fn ask(&mut self, owner: &Jid, id: SessionId, to: &str, inside: &str) {
        let (ns, to) = (ns::PUBSUB, if to.is_empty() { String::new() } else { format!(" to='{to}'") });
        self.say(owner, id, &format!("<iq type='set' id='1'{to}><pubsub xmlns='{ns}'>{inside}</pubsub></iq>"));
    }

    /// Runs all that is to be done.
    pub(super) fn settle(&mut self) {
        let mut is_quiet = false;
        while !std::mem::replace(&mut is_quiet, true) {
            for at in 0..self.shards.len() {
                while let Some(effect) = self.shards[at].poll_effect() {
                    is_quiet = false;
                    self.carry_out(at, effect);
                }
                while self.shards[at].is_fanning() {
                    is_quiet = false;
                    self.shards[at].go_on_fanning(3);
                }
                let other = ShardId(1 - at as u16);
                if let Ok(mut batch) = self.shards[at].take_batch(other, Box::default()) {
                    is_quiet = false;
                    self.shards[1 - at].handoff(ShardId(at as u16), &mut batch);
                }
            }
        }
    }

    pub(super) fn carry_out(&mut self, at: usize, effect: Effect) {
        let shard = &mut self.shards[at];
        match effect {
            Effect::Errand(account, errand) => {
                let brought = block_on(errands::run(&self.config, &self.store, &account, *errand, 1_000));
                shard.errand_done(&account, brought);
            }
            Effect::Service(request, reply_to) => {
                let caller = request.caller.clone();
                let services = Arc::clone(&self.config.services);
                let reply = block_on(services::answer(services, self.store.clone(), *request));
                shard.reply(&caller, reply_to, reply);
            }
            Effect::Recipients(mut recipients) => {
                let page = block_on(recipients.next(&self.store));
                shard.recipients_read(*recipients, page);
            }
            Effect::LastItems(wanted) => {
                let (owner, resource, nodes) = *wanted;
                let config = &self.config.services.pubsub;
                let items = pubsub::last_items_of(config, &self.store, owner, &resource, &nodes, 1_000);
                shard.last_items(block_on(items).unwrap());
            }
            Effect::Inquire(device, after) => {
                let services = Arc::clone(&self.config.services);
                let effects = services::inquire(&services, &self.store, after, 1_000);
                let reply = services::Reply { effects: block_on(effects), ..services::Reply::default() };
                shard.inquired(&device, reply);
            }
            Effect::AskUntil(number) => shard.ask_until(number, 1),
            Effect::Late(id) => shard.late_until(id, 10),
            Effect::Asked(ask, reply_to, acknowledged) => {
                let caller = ask.caller().clone();
                let services = Arc::clone(&self.config.services);
                let reply = block_on(services::asked(services, self.store.clone(), *ask, acknowledged));
                shard.reply(&caller, reply_to, reply);
            }
            Effect::Challenged(challenge, response) => {
                let (presenter, services) = (challenge.to().clone(), Arc::clone(&self.config.services));
                let effects = services::challenged(&services, &self.store, *challenge, response.as_deref(), 1_000);
                let reply = services::Reply { effects: block_on(effects), ..services::Reply::default() };
                shard.reply(&presenter, ReplyTo::Address(presenter.clone()), reply);
            }
            Effect::Expire(id) => shard.expire(id, None),
            Effect::Resume(_) | Effect::Login(..) => {}
            Effect::End(..) | Effect::Displace(_) | Effect::Tokens(..) | Effect::Watch(_) => {
                panic!("nobody asked for that")
            }
        }
    }
}

/// Presence that shows capabilities which every shard knows already.
pub(super) fn presence(shard: &Shard, nodes: &[&str]) -> String {
    let features: String = nodes.iter().map(|node| format!("<feature var='{node}+notify'/>")).collect();
    let query = format!("<query xmlns='{}'><identity category='client' type='pc'/>{features}</query>", ns::DISCO_INFO);
    let info = Info::read(&Node::parse(&query, ns::CLIENT).unwrap()).unwrap();
    let ver = info.ver(HashFunction::Sha1);
    shard.config.caps.learn(ver, &info);
    let mut caps = Vec::new();
    Caps::new("urn:test", ver).write(&mut caps);
    format!("<presence>{}</presence>", String::from_utf8(caps).unwrap())
}

/// Who holds a private key, and has a token for its certificate.
pub(super) struct Holder {
    key: KeyPair,
    pub(super) token: String,
}

impl Holder {
    /// A session gets a token.
    pub(super) fn new(world: &mut World, account: &Jid, id: SessionId) -> Self {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let mut params = CertificateParams::new(vec!["holder.example".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(1970, 1, 1), date_time_ymd(2100, 1, 1));
        let certificate = STANDARD.encode(params.self_signed(&key).unwrap().der());
        let mut holder = Self { key, token: String::new() };
        let mut ask = |payload: &str| {
            world.say(account, id, &format!("<iq type='get' id='t' to='{REGISTRY}'>{payload}</iq>"));
            world.sent(account, id)
        };
        let ns = "urn:nf:iot:prov:t:1.0";
        let challenge = ask(&format!("<getToken xmlns='{ns}'>{certificate}</getToken>"));
        let number = challenge.split("seqnr='").nth(1).unwrap().split('\'').next().unwrap().to_owned();
        let told = holder.open(&challenge);
        let answer = ask(&format!(
            "<getTokenChallengeResponse xmlns='{ns}' seqnr='{number}'>{told}</getTokenChallengeResponse>"
        ));
        holder.token = answer.split("token='").nth(1).unwrap().split('\'').next().unwrap().to_owned();
        holder
    }

    /// What the challenge in a text holds.
    fn open(&self, text: &str) -> String {
        let sealed = text.split("okenChallenge ").nth(1).unwrap().split('>').nth(1).unwrap();
        let sealed = STANDARD.decode(sealed.split('<').next().unwrap()).unwrap();
        let key = PrivateDecryptingKey::from_pkcs8(&self.key.serialize_der()).unwrap();
        let key = OaepPrivateDecryptingKey::new(key).unwrap();
        let mut out = vec![0; key.min_output_size()];
        STANDARD.encode(key.decrypt(&OAEP_SHA1_MGF1SHA1, &sealed, &mut out, None).unwrap())
    }

    /// The answer to the challenge of the token in what a session was sent, if there is one.
    pub(super) fn answer(&self, sent: &str) -> Option<String> {
        let (before, _) = sent.split_once("<tokenChallenge ")?;
        assert!(sent.contains(&format!("token='{}'", self.token)), "{sent}");
        let id = before.rsplit("<iq type='get' id='").next().unwrap().split('\'').next().unwrap();
        let told = self.open(sent);
        let inside = format!("<tokenChallengeResponse xmlns='urn:nf:iot:prov:t:1.0'>{told}</tokenChallengeResponse>");
        Some(format!("<iq type='result' id='{id}' to='{REGISTRY}'>{inside}</iq>"))
    }
}
