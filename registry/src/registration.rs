//! Registration: accounts are created for who may (XEP-0077 v2.4), which is shown by a signature made with an API key
//! (XEP-0348 v0.3).
//!
//! Called by the driver for streams that have not authenticated, and by the services for those that have. A
//! [`Registrar`] is what both share. What is cheap comes first, so that who may not costs little: the key, the signature,
//! the time, the pace; then what the store knows; then the derivation of keys, which takes milliseconds and is done by the
//! helpers, whose queue is bounded; then the commit.
//!
//! Differs from XEP-0348 §4: a signature that does not do is `bad-request` whatever is wrong with it, a key that is revoked,
//! expired or used up is `not-allowed` with a text, which only its holder can come to read.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use plaza_core::jid::{Jid, JidRef};
use plaza_core::register::{BAD_SIGNATURE, Offer, Registration, Signed};
use plaza_core::stanza::{Condition, StanzaError};
use zeroize::Zeroizing;

use crate::accounts::{self, AccountError, NewKeys};
use crate::apikeys::{ApiKeys, Creation, Sealer, SpendError};
use crate::helpers::Helpers;
use crate::pace::Pace;
use crate::store::{Store, StoreError};

/// Draws 32 random bytes.
pub type Random = fn() -> [u8; 32];

/// Forms given to sessions and not answered, at once. Beyond it, those asked for longest ago go.
const OFFERS_MAX: usize = 10_000;
/// How long a session may take to answer a form, in milliseconds.
const OFFER_MILLIS: u64 = 600_000;

/// What the operator wants of registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistrationConfig {
    /// Accounts can be created, passwords changed and accounts removed by those who have them. Default true: without an API
    /// key nobody creates anything.
    pub enabled: bool,
    /// Accounts are created for anybody, without a signature. Default false.
    pub unsigned: bool,
    /// Accounts created without a signature in a minute, by everybody together. Default 60. Beyond it `resource-constraint`.
    pub unsigned_per_minute: u32,
    /// How far the time of a signature may be from ours, in seconds. Default a day, since devices have bad clocks; a
    /// signature is good once in any case. 0: whatever it says.
    pub timestamp_seconds_max: u64,
    /// PBKDF2 rounds of the accounts' keys.
    pub scram_iterations: u32,
}

impl Default for RegistrationConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            unsigned: false,
            unsigned_per_minute: 60,
            timestamp_seconds_max: 86_400,
            scram_iterations: 10_000,
        }
    }
}

/// How long a nonce is remembered when the time of a signature does not matter, in seconds.
const NONCE_SECONDS: u64 = 86_400;

/// Creates accounts and changes passwords; cheap to clone, shared by all shards.
#[derive(Clone)]
pub struct Registrar {
    config: RegistrationConfig,
    helpers: Helpers,
    keys: ApiKeys,
    random: Random,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    unsigned: Mutex<Pace>,
    offers: Mutex<Offers>,
}

impl fmt::Debug for Registrar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registrar").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Registrar {
    /// A registrar; `keys` are shared with whoever else uses them.
    pub fn new(config: RegistrationConfig, helpers: Helpers, keys: ApiKeys, random: Random) -> Self {
        let unsigned = Mutex::new(Pace::per_minute(config.unsigned_per_minute));
        Self { config, helpers, keys, random, shared: Arc::new(Shared { unsigned, offers: Mutex::default() }) }
    }

    /// A registrar where nobody registers, for tests and simulations of all else.
    pub fn off() -> Self {
        let config = RegistrationConfig { enabled: false, ..RegistrationConfig::default() };
        Self::new(config, Helpers::start(1, 1), ApiKeys::new(Sealer::new(&[0; 32])), || [0; 32])
    }

    /// What the operator wants.
    pub const fn config(&self) -> &RegistrationConfig {
        &self.config
    }

    /// The API keys in use.
    pub const fn keys(&self) -> &ApiKeys {
        &self.keys
    }

    /// Creates the account, if who asks for it may; it is durable when this resolves.
    ///
    /// # Errors
    /// What is to be told: `conflict` if there is such an account, `bad-request` for a signature that does not do,
    /// `not-allowed` for a key that must not be used, `resource-constraint` for too many at once.
    pub async fn register<S: Store>(
        &self,
        store: &S,
        registration: &Registration,
        unix_millis: u64,
    ) -> Result<(), StanzaError> {
        if !self.config.enabled {
            return Err(Condition::NotAllowed.into());
        }
        match &registration.signed {
            Some(signed) => self.register_signed(store, registration, signed, unix_millis).await,
            None if self.config.unsigned => self.register_unsigned(store, registration, unix_millis).await,
            None => Err(Condition::NotAllowed.into()),
        }
    }

    async fn register_signed<S: Store>(
        &self,
        store: &S,
        registration: &Registration,
        signed: &Signed,
        unix_millis: u64,
    ) -> Result<(), StanzaError> {
        let (now, id) = (unix_millis / 1_000, &*signed.consumer_key);
        let account = registration.account.as_jid();
        let mut opened = self.keys.find(store, id).await.map_err(store_error)?.ok_or(BAD_SIGNATURE)?;
        if !signed.is_signed_with(&opened.secret) {
            return Err(BAD_SIGNATURE);
        }
        if opened.permits(account.domain(), now).is_err() {
            // What is in memory may be old.
            opened = self.keys.read(store, id).await.map_err(store_error)?.ok_or(BAD_SIGNATURE)?;
            opened.permits(account.domain(), now).map_err(spend_error)?;
        }
        let window = self.config.timestamp_seconds_max;
        if window > 0 && signed.timestamp.abs_diff(now) > window {
            return Err(Condition::BadRequest.with_text("oauth_timestamp is too far from the time here"));
        }
        // As long as the signature would be taken again.
        let nonce_until = if window > 0 { signed.timestamp.saturating_add(window) } else { now + NONCE_SECONDS };
        if !self.keys.keeps_pace(id, unix_millis) {
            return Err(Condition::ResourceConstraint.with_text("too many registrations with this key at once"));
        }
        let (nonce, accounts_max) = (&*signed.nonce, opened.key.accounts_max);
        self.keys.foresee(store, account, id, nonce, accounts_max).await.map_err(spend_error)?;
        let keys = &self.derive(registration.password.clone()).await?;
        let creation = Creation { account, keys, id, nonce, nonce_until, now };
        self.keys.spend(store, &creation).await.map_err(spend_error)
    }

    async fn register_unsigned<S: Store>(
        &self,
        store: &S,
        registration: &Registration,
        unix_millis: u64,
    ) -> Result<(), StanzaError> {
        let account = registration.account.as_jid();
        let has_room = self.shared.unsigned.lock().unwrap_or_else(PoisonError::into_inner).take(unix_millis);
        if !has_room {
            return Err(Condition::ResourceConstraint.with_text("too many registrations at once"));
        }
        if accounts::load(store, account).await.map_err(store_error)?.is_some() {
            return Err(Condition::Conflict.into());
        }
        let keys = self.derive(registration.password.clone()).await?;
        accounts::create(store, account, keys, false, unix_millis / 1_000).await.map_err(account_error)
    }

    /// Gives an account another password; its tokens are gone (XEP-0077 §3.3).
    ///
    /// # Errors
    /// What is to be told: `resource-constraint` if there is too much to do.
    pub async fn change_password<S: Store>(
        &self,
        store: &S,
        account: JidRef<'_>,
        password: Zeroizing<String>,
    ) -> Result<(), StanzaError> {
        let keys = self.derive(password).await?;
        accounts::set_keys(store, account, keys).await.map_err(account_error)
    }

    async fn derive(&self, password: Zeroizing<String>) -> Result<NewKeys, StanzaError> {
        let (salt, iterations) = ((self.random)(), self.config.scram_iterations);
        let derived = self.helpers.run(move || NewKeys::derive(&password, &salt, iterations)).await;
        let busy = Condition::ResourceConstraint.with_text("too many registrations at once");
        derived.ok_or(busy)?.ok_or(Condition::NotAcceptable.with_text("the password cannot be used"))
    }

    /// A form for a session, which answers it within ten minutes; one for each.
    pub fn offer(&self, session: &Jid, unix_millis: u64) -> Offer {
        let offer = Offer::new(&(self.random)());
        self.shared.offers.lock().unwrap_or_else(PoisonError::into_inner).put(session, offer.clone(), unix_millis);
        offer
    }

    /// The form that a session answers, if it has one; it is answered by that.
    pub fn answered(&self, session: &Jid, unix_millis: u64) -> Option<Offer> {
        self.shared.offers.lock().unwrap_or_else(PoisonError::into_inner).take(session, unix_millis)
    }
}

/// Forms given to sessions and not answered.
#[derive(Debug, Default)]
struct Offers {
    given: HashMap<Jid, (u64, Offer)>,
}

impl Offers {
    fn put(&mut self, session: &Jid, offer: Offer, unix_millis: u64) {
        if self.given.len() >= OFFERS_MAX && !self.given.contains_key(session) {
            self.given.retain(|_, (until, _)| *until > unix_millis);
            let oldest = self.given.iter().min_by_key(|(_, (until, _))| *until).map(|(session, _)| session.clone());
            if let Some(oldest) = oldest.filter(|_| self.given.len() >= OFFERS_MAX) {
                self.given.remove(&oldest);
            }
        }
        self.given.insert(session.clone(), (unix_millis.saturating_add(OFFER_MILLIS), offer));
    }

    fn take(&mut self, session: &Jid, unix_millis: u64) -> Option<Offer> {
        let (until, offer) = self.given.remove(session)?;
        (until > unix_millis).then_some(offer)
    }
}

fn spend_error(error: SpendError) -> StanzaError {
    match error {
        SpendError::NoKey | SpendError::Replayed => BAD_SIGNATURE,
        SpendError::Revoked => Condition::NotAllowed.with_text("the API key was revoked"),
        SpendError::Expired => Condition::NotAllowed.with_text("the API key has expired"),
        SpendError::WrongDomain => Condition::NotAllowed.with_text("the API key is not for this domain"),
        SpendError::Exhausted => {
            Condition::NotAllowed.with_text("as many accounts were created with the API key as may be")
        }
        SpendError::Exists => Condition::Conflict.into(),
        SpendError::Store(error) => store_error(error),
    }
}

fn account_error(error: AccountError) -> StanzaError {
    match error {
        AccountError::Exists => Condition::Conflict.into(),
        AccountError::NotFound => Condition::RegistrationRequired.into(),
        AccountError::BadPassword => Condition::NotAcceptable.into(),
        AccountError::Store(error) => store_error(error),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "given to map_err")]
fn store_error(error: StoreError) -> StanzaError {
    match error {
        StoreError::Busy => Condition::ResourceConstraint.into(),
        StoreError::Failed | StoreError::Corrupt => Condition::InternalServerError.into(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use plaza_core::register::{Asked, Claim};
    use plaza_core::sasl::scram::verify_password;
    use plaza_core::signed::{self, Fields, sign};
    use plaza_core::xml::read::Node;

    use super::*;
    use crate::apikeys::{self, ApiKey};
    use crate::store::memory::MemoryStore;
    use crate::testing::jid;
    use crate::wait::block_on;

    const NOW: u64 = 1_800_000_000;

    /// A registrar without randomness, whose keys take no time.
    pub(crate) fn registrar(config: RegistrationConfig) -> Registrar {
        let config = RegistrationConfig { scram_iterations: 1, ..config };
        Registrar::new(config, Helpers::start(1, 8), ApiKeys::new(Sealer::new(&[1; 32])), || [7; 32])
    }

    /// A key for accounts of anybody, whose secret is `secret`.
    pub(crate) fn api_key(store: &MemoryStore, registrar: &Registrar, id: &str, change: impl FnOnce(&mut ApiKey)) {
        let mut key = ApiKey {
            owner: "ops@maker.example".to_owned(),
            accounts_max: 100,
            per_minute: 0,
            enabled: true,
            created: NOW,
            expires: None,
            domains: Vec::new(),
        };
        change(&mut key);
        block_on(apikeys::create(store, registrar.keys().sealer(), id, "secret", [1; 12], &key)).unwrap();
    }

    /// The form of an offer, filled in and signed with the key `maker`.
    pub(crate) fn fill_in(offer: &Offer, change: impl FnOnce(Fields) -> Fields) -> Fields {
        let mut out = Vec::new();
        offer.write(&mut out, None, false);
        let query = Node::parse(std::str::from_utf8(&out).unwrap(), "").unwrap();
        let mut x = query.child("x", "jabber:x:data").unwrap().clone();
        x.attrs.iter_mut().find(|(name, _)| name == "type").unwrap().1 = "submit".to_owned();
        let fields = Fields::read(&x)
            .unwrap()
            .with("username", "lamp")
            .with("password", "pencil")
            .with(signed::NONCE, "n1")
            .with(signed::TIMESTAMP, &NOW.to_string())
            .with(signed::CONSUMER_KEY, "maker");
        let fields = change(fields);
        let token_secret = fields.get(signed::TOKEN_SECRET).unwrap().to_owned();
        let signature = sign(&fields, "", ("secret", &token_secret)).unwrap();
        fields.with(signed::SIGNATURE, &signature)
    }

    fn submitted(change: impl FnOnce(Fields) -> Fields) -> Registration {
        let offer = Offer::new(&[3; 32]);
        let fields = fill_in(&offer, change);
        let claim = Claim {
            username: fields.get("username").unwrap().to_owned(),
            password: fields.get("password").unwrap().to_owned().into(),
            form: Some(Box::new(fields)),
        };
        claim.check("things.example", None, Some(offer), false).unwrap()
    }

    fn unsigned(name: &str) -> Registration {
        let query =
            format!("<query xmlns='jabber:iq:register'><username>{name}</username><password>pencil</password></query>");
        let Ok(Asked::Account(claim)) = Asked::read(&Node::parse(&query, "").unwrap()) else { panic!("an account") };
        claim.check("things.example", None, None, true).unwrap()
    }

    struct World {
        store: MemoryStore,
        registrar: Registrar,
    }

    impl World {
        fn new(config: RegistrationConfig, change: impl FnOnce(&mut ApiKey)) -> Self {
            let (store, registrar) = (MemoryStore::new(), registrar(config));
            api_key(&store, &registrar, "maker", change);
            Self { store, registrar }
        }

        fn register_at(&self, registration: &Registration, now: u64) -> Result<(), Condition> {
            let registered = block_on(self.registrar.register(&self.store, registration, now * 1_000));
            registered.map_err(|error| error.condition)
        }

        fn register(&self, change: impl FnOnce(Fields) -> Fields) -> Result<(), Condition> {
            self.register_at(&submitted(change), NOW)
        }
    }

    #[test]
    fn who_signs_gets_an_account_to_log_in_with() {
        let world = World::new(RegistrationConfig::default(), |_| ());
        assert_eq!(world.register(|fields| fields), Ok(()));
        let lamp = jid("lamp@things.example");
        let account = block_on(accounts::load(&world.store, lamp.as_jid())).unwrap().unwrap();
        assert!(verify_password(&account.sha1, "pencil") && verify_password(&account.sha256, "pencil"));
        assert_eq!((account.created, account.admin), (NOW, false));
        assert_eq!(block_on(apikeys::origin(&world.store, lamp.as_jid())), Ok(Some("maker".to_owned())));
        assert_eq!(world.register(|fields| fields.with(signed::NONCE, "n2")), Err(Condition::Conflict));
        let changed = world.registrar.change_password(&world.store, lamp.as_jid(), Zeroizing::new("crayon".to_owned()));
        assert_eq!(block_on(changed), Ok(()));
        let account = block_on(accounts::load(&world.store, lamp.as_jid())).unwrap().unwrap();
        assert!(verify_password(&account.sha256, "crayon"));
    }

    #[test]
    fn a_signature_is_good_once() {
        let world = World::new(RegistrationConfig::default(), |_| ());
        assert_eq!(world.register(|fields| fields), Ok(()));
        let replayed = world.register(|fields| fields.with("username", "other"));
        assert_eq!(replayed, Err(Condition::BadRequest));
        assert_eq!(world.register(|fields| fields), Err(Condition::BadRequest), "rather than a conflict");
    }

    #[test]
    fn a_signature_has_to_do() {
        let world = World::new(RegistrationConfig::default(), |_| ());
        assert_eq!(world.register(|fields| fields.with(signed::CONSUMER_KEY, "other")), Err(Condition::BadRequest));
        api_key(&world.store, &world.registrar, "second", |_| ());
        let mut registration = submitted(|fields| fields);
        registration.signed.as_mut().unwrap().consumer_key = "second".to_owned();
        // All keys of this test have one secret: the key is signed as well.
        assert_eq!(world.register_at(&registration, NOW), Ok(()));
        let another = World::new(RegistrationConfig::default(), |_| ());
        let sealer = another.registrar.keys().sealer();
        let key = ApiKey {
            owner: String::new(),
            accounts_max: 1,
            per_minute: 0,
            enabled: true,
            created: 0,
            expires: None,
            domains: Vec::new(),
        };
        block_on(apikeys::create(&another.store, sealer, "third", "another", [2; 12], &key)).unwrap();
        let refused = another.register(|fields| fields.with(signed::CONSUMER_KEY, "third"));
        assert_eq!(refused, Err(Condition::BadRequest));
    }

    #[test]
    fn the_time_of_a_signature_is_within_bounds() {
        let world = World::new(RegistrationConfig::default(), |_| ());
        let at = |timestamp: u64, nonce: &str| {
            world.register(|fields| {
                fields
                    .with(signed::TIMESTAMP, &timestamp.to_string())
                    .with(signed::NONCE, nonce)
                    .with("username", nonce)
            })
        };
        assert_eq!(at(NOW - 86_401, "a"), Err(Condition::BadRequest));
        assert_eq!(at(NOW + 86_401, "b"), Err(Condition::BadRequest));
        assert_eq!(at(NOW - 86_400, "c"), Ok(()));
        assert_eq!(at(NOW + 86_400, "d"), Ok(()));
        assert_eq!(at(0, "e"), Err(Condition::BadRequest));
        let world = World::new(RegistrationConfig { timestamp_seconds_max: 0, ..Default::default() }, |_| ());
        assert_eq!(world.register(|fields| fields.with(signed::TIMESTAMP, "0")), Ok(()));
        // Within minutes, if the operator wants it.
        let world = World::new(RegistrationConfig { timestamp_seconds_max: 300, ..Default::default() }, |_| ());
        for late in [-600, 600] {
            let timestamp = NOW.checked_add_signed(late).unwrap().to_string();
            assert_eq!(world.register(|fields| fields.with(signed::TIMESTAMP, &timestamp)), Err(Condition::BadRequest));
        }
    }

    #[test]
    fn a_key_that_must_not_be_used_says_why_to_its_holder_only() {
        let text = |change: fn(&mut ApiKey), sign_with: &'static str| {
            let world = World::new(RegistrationConfig::default(), change);
            let registration = submitted(|fields| fields.with("username", sign_with));
            block_on(world.registrar.register(&world.store, &registration, NOW * 1_000)).unwrap_err()
        };
        for (change, expected) in [
            ((|key| key.enabled = false) as fn(&mut ApiKey), "the API key was revoked"),
            (|key| key.expires = Some(NOW), "the API key has expired"),
            (|key| key.domains = vec![jid("other.example")], "the API key is not for this domain"),
            (|key| key.accounts_max = 0, "as many accounts were created with the API key as may be"),
        ] {
            let error = text(change, "lamp");
            assert_eq!((error.condition, error.text), (Condition::NotAllowed, expected));
        }
        let world = World::new(RegistrationConfig::default(), |key| key.enabled = false);
        let mut registration = submitted(|fields| fields);
        registration.signed.as_mut().unwrap().consumer_key = "unknown".to_owned();
        assert_eq!(world.register_at(&registration, NOW), Err(Condition::BadRequest));
    }

    #[test]
    fn a_key_keeps_its_pace() {
        let world = World::new(RegistrationConfig::default(), |key| key.per_minute = 2);
        let name =
            |name: &'static str| submitted(move |fields| fields.with("username", name).with(signed::NONCE, name));
        assert_eq!(world.register_at(&name("a"), NOW), Ok(()));
        assert_eq!(world.register_at(&name("b"), NOW), Ok(()));
        assert_eq!(world.register_at(&name("c"), NOW), Err(Condition::ResourceConstraint));
        assert_eq!(world.register_at(&name("c"), NOW + 30), Ok(()));
    }

    #[test]
    fn without_a_signature_there_is_an_account_only_where_that_is_said() {
        let world = World::new(RegistrationConfig::default(), |_| ());
        assert_eq!(world.register_at(&unsigned("bill"), NOW), Err(Condition::NotAllowed));
        let open = RegistrationConfig { unsigned: true, unsigned_per_minute: 2, ..RegistrationConfig::default() };
        let world = World::new(open, |_| ());
        assert_eq!(world.register_at(&unsigned("bill"), NOW), Ok(()));
        assert_eq!(world.register_at(&unsigned("bill"), NOW), Err(Condition::Conflict));
        assert_eq!(world.register_at(&unsigned("ben"), NOW), Err(Condition::ResourceConstraint));
        let off = World::new(RegistrationConfig { enabled: false, unsigned: true, ..open }, |_| ());
        assert_eq!(off.register_at(&unsigned("bill"), NOW), Err(Condition::NotAllowed));
        assert_eq!(off.register(|fields| fields), Err(Condition::NotAllowed));
    }

    #[test]
    fn a_full_queue_of_helpers_is_told() {
        let (store, mut registrar) = (MemoryStore::new(), registrar(RegistrationConfig::default()));
        api_key(&store, &registrar, "maker", |_| ());
        let (release, released) = std::sync::mpsc::channel::<()>();
        registrar.helpers = Helpers::start(1, 1);
        let (started, has_started) = std::sync::mpsc::channel();
        drop(registrar.helpers.run(move || {
            started.send(()).unwrap();
            let _ = released.recv();
        }));
        has_started.recv().unwrap();
        drop(registrar.helpers.run(|| ()));
        let refused = block_on(registrar.register(&store, &submitted(|fields| fields), NOW * 1_000));
        assert_eq!(refused.unwrap_err().condition, Condition::ResourceConstraint);
        drop(release);
    }

    #[test]
    fn a_form_given_to_a_session_is_answered_once_and_in_time() {
        let registrar = registrar(RegistrationConfig::default());
        let (one, other) = (jid("a@b.example/1"), jid("a@b.example/2"));
        let offer = registrar.offer(&one, 0);
        assert_eq!(registrar.answered(&other, 1), None);
        assert_eq!(registrar.answered(&one, 1), Some(offer));
        assert_eq!(registrar.answered(&one, 1), None);
        registrar.offer(&one, 0);
        assert_eq!(registrar.answered(&one, OFFER_MILLIS), None);
    }

    #[test]
    fn forms_that_nobody_answers_are_bounded() {
        let mut offers = Offers::default();
        for number in 0..=OFFERS_MAX as u64 {
            offers.put(&jid(&format!("a@b.example/{number}")), Offer::new(&[0; 32]), number);
        }
        assert_eq!(offers.given.len(), OFFERS_MAX);
        assert!(offers.take(&jid("a@b.example/0"), 1).is_none() && offers.take(&jid("a@b.example/1"), 1).is_some());
    }
}
