//! Newcomers: accounts that are created with signed forms (XEP-0348 v0.3), with a key that is good for so many.
//!
//! Many try at once, while the store takes its time and refuses, and the broker is killed. However it goes, there are never
//! more accounts than the key is good for, and as many as that in the end; who was told that it has one has one.

use std::cell::Cell;
use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use plaza_core::jid::Jid;
use plaza_core::register::{Claim, Offer, Registration};
use plaza_core::signed::{self, Fields, sign};
use plaza_core::stanza::{Condition, StanzaError};
use plaza_core::xml::read::Node;
use plaza_registry::accounts;
use plaza_registry::apikeys::{self, ApiKey, ApiKeys, Sealer};
use plaza_registry::helpers::Helpers;
use plaza_registry::registration::{Registrar, RegistrationConfig};
use plaza_registry::store::memory::MemoryStore;
use plaza_registry::wait::block_on;

use super::faults::SlowStore;
use super::{DOMAIN, Random, World};

const KEY: &str = "maker";
const SECRET: &str = "pencil";
/// Newcomers under way at once.
const UNDER_WAY: usize = 6;

thread_local! {
    /// How often a registrar drew randomness, which it does before it has keys derived.
    static DRAWN: Cell<u64> = const { Cell::new(0) };
}

/// Derives keys for all worlds, one after the other.
static HELPERS: LazyLock<Helpers> = LazyLock::new(|| Helpers::start(1, 1_024));

/// Who has an answer.
type Answer = Result<(), StanzaError>;

struct Newcomer {
    account: Jid,
    nonce: u64,
    work: Pin<Box<dyn Future<Output = Answer>>>,
}

/// Those who want an account.
pub(super) struct Newcomers {
    /// Of its own, so that newcomers change nothing else.
    random: Random,
    store: MemoryStore,
    slow: SlowStore,
    registrar: Registrar,
    /// What the key is good for.
    most: u64,
    store_refuses_percent: usize,
    under_way: Vec<Newcomer>,
    tried: u64,
    /// What several signed with, of whom at most one is right.
    replayed: HashSet<u64>,
    /// Accounts whose newcomers were told that they have them.
    told: Vec<Jid>,
}

impl Newcomers {
    pub(super) fn new(seed: u64, store: &MemoryStore, store_refuses_percent: usize) -> Self {
        let mut random = Random::new(seed.rotate_left(32));
        let most = random.below(8) as u64;
        let registrar = registrar();
        let key = ApiKey {
            owner: "ops@maker.example".to_owned(),
            accounts_max: most,
            per_minute: 0,
            enabled: true,
            created: 0,
            expires: None,
            domains: Vec::new(),
        };
        block_on(apikeys::create(store, registrar.keys().sealer(), KEY, SECRET, [1; 12], &key)).unwrap();
        Self {
            random,
            store: store.clone(),
            slow: SlowStore::in_order(store),
            registrar,
            most,
            store_refuses_percent,
            under_way: Vec::new(),
            tried: 0,
            replayed: HashSet::new(),
            told: Vec::new(),
        }
    }

    /// The broker is started anew: what was under way may have happened or not.
    pub(super) fn restart(&mut self) {
        self.under_way.clear();
        self.slow.forget();
        self.registrar = registrar();
        self.check();
    }

    /// Somebody comes, or goes on. Accounts that came to be.
    fn step(&mut self) -> Vec<Jid> {
        if self.under_way.len() < UNDER_WAY && self.tried < 4 * (self.most + 1) && self.random.percent(20) {
            let nonce = match self.tried.checked_sub(1).filter(|_| self.random.percent(10)) {
                Some(last) => {
                    self.replayed.insert(last);
                    last
                }
                None => self.tried,
            };
            // Some want the same name.
            let name = format!("new{}", self.random.below(self.most as usize * 3 + 1));
            self.come(&name, nonce);
        }
        self.slow.go_on(&mut self.random, self.store_refuses_percent);
        self.go_on()
    }

    fn come(&mut self, name: &str, nonce: u64) {
        self.tried += 1;
        let registration = signed_by_key(name, nonce);
        let (registrar, store, account) = (self.registrar.clone(), self.slow.clone(), registration.account.clone());
        let work = Box::pin(async move { registrar.register(&store, &registration, 0).await });
        self.under_way.push(Newcomer { account, nonce, work });
    }

    fn go_on(&mut self) -> Vec<Jid> {
        let mut created = Vec::new();
        let mut at = 0;
        while let Some(newcomer) = self.under_way.get_mut(at) {
            let Poll::Ready(answer) = poll(newcomer) else {
                at += 1;
                continue;
            };
            let newcomer = self.under_way.swap_remove(at);
            self.answered(&newcomer, answer);
            if answer.is_ok() {
                created.push(newcomer.account);
            }
        }
        created
    }

    fn answered(&mut self, newcomer: &Newcomer, answer: Answer) {
        let Newcomer { account, nonce, .. } = newcomer;
        let count = self.check();
        let is_there = block_on(accounts::load(&self.store, account.as_jid())).unwrap().is_some();
        match answer.map_err(|error| error.condition) {
            Ok(()) => {
                assert!(is_there && !self.told.contains(account), "{account} was created, and is there: {is_there}");
                self.told.push(account.clone());
            }
            Err(Condition::Conflict) => assert!(is_there, "{account} is not there"),
            Err(Condition::NotAllowed) => assert_eq!(count, self.most, "it is good for more"),
            Err(Condition::BadRequest) => {
                assert!(self.replayed.contains(nonce), "{account} was signed for as it has to be");
            }
            // The store could not, or others were faster too often.
            Err(Condition::ResourceConstraint | Condition::InternalServerError) => {}
            Err(condition) => panic!("{account} was told {condition:?}"),
        }
    }

    /// How many accounts were created with the key, which are there; never more than it is good for.
    fn check(&self) -> u64 {
        let count = block_on(apikeys::show(&self.store, KEY)).unwrap().count;
        assert!(count <= self.most, "{count} accounts were created with a key that is good for {}", self.most);
        for account in &self.told {
            assert!(block_on(accounts::load(&self.store, account.as_jid())).unwrap().is_some(), "{account} is gone");
        }
        count
    }

    /// All that is under way comes to its end; then enough try one after the other.
    fn settle(&mut self) {
        self.store_refuses_percent = 0;
        for round in 0.. {
            if self.under_way.is_empty() {
                break;
            }
            assert!(round < 10_000, "newcomers wait for ever");
            self.slow.go_on(&mut self.random, 0);
            self.go_on();
        }
        for number in 0..=self.most {
            let before = self.check();
            self.come(&format!("late{number}"), self.tried);
            while !self.under_way.is_empty() {
                self.slow.go_on(&mut self.random, 0);
                self.go_on();
            }
            assert_eq!(
                self.check(),
                (before + 1).min(self.most),
                "one more was created, unless there are as many as may"
            );
        }
        let created = block_on(apikeys::accounts(&self.store, KEY, None, usize::MAX)).unwrap();
        assert_eq!((created.len() as u64, self.check()), (self.most, self.most));
    }
}

impl World {
    /// Somebody wants an account, or goes on to have one; a shard hears of those that came to be.
    pub(super) fn newcomers_go_on(&mut self) {
        let Some(newcomers) = &mut self.newcomers else { return };
        let created = newcomers.step();
        let shard = newcomers.random.below(self.shards.len());
        for account in created {
            self.activity += 1;
            self.shards[shard].account_created(account.as_jid());
        }
    }

    /// As many have come as may.
    pub(super) fn settle_newcomers(&mut self) {
        if let Some(newcomers) = &mut self.newcomers {
            newcomers.settle();
        }
    }
}

/// Goes on with a newcomer until it waits for the store, or for others.
fn poll(newcomer: &mut Newcomer) -> Poll<Answer> {
    let mut context = Context::from_waker(Waker::noop());
    let before = DRAWN.get();
    let polled = newcomer.work.as_mut().poll(&mut context);
    if polled.is_ready() || DRAWN.get() == before {
        return polled;
    }
    // Its keys are being derived. What is asked of the only helper now is done after them.
    block_on(HELPERS.run(|| ()));
    newcomer.work.as_mut().poll(&mut context)
}

fn registrar() -> Registrar {
    let config = RegistrationConfig { scram_iterations: 1, timestamp_seconds_max: 0, ..RegistrationConfig::default() };
    let random = || {
        DRAWN.set(DRAWN.get() + 1);
        [7; 32]
    };
    Registrar::new(config, HELPERS.clone(), ApiKeys::new(Sealer::new(&[1; 32])), random)
}

/// A form for an account of that name, filled in and signed.
fn signed_by_key(name: &str, nonce: u64) -> Registration {
    let offer = Offer::new(&[3; 32]);
    let mut out = Vec::new();
    offer.write(&mut out, None, false);
    let query = Node::parse(std::str::from_utf8(&out).unwrap(), "").unwrap();
    let mut x = query.child("x", plaza_core::ns::DATA_FORMS).unwrap().clone();
    x.attrs.iter_mut().find(|(name, _)| name == "type").unwrap().1 = "submit".to_owned();
    let fields = Fields::read(&x)
        .unwrap()
        .with("username", name)
        .with("password", "crayon")
        .with(signed::NONCE, &format!("nonce{nonce}"))
        .with(signed::TIMESTAMP, "0")
        .with(signed::CONSUMER_KEY, KEY);
    let token_secret = fields.get(signed::TOKEN_SECRET).unwrap().to_owned();
    let signature = sign(&fields, "", (SECRET, &token_secret)).unwrap();
    let form = Some(Box::new(fields.with(signed::SIGNATURE, &signature)));
    let claim = Claim { username: name.to_owned(), password: "crayon".to_owned().into(), form };
    claim.check(DOMAIN, None, Some(offer), false).unwrap()
}
