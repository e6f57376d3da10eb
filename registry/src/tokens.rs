//! Tokens: what clients log in with the next time, so that it costs one round trip and no password (XEP-0484 v0.2.0).
//!
//! Each client of an account has two places: the token that it uses, and the one that it was told since and has not used
//! yet (XEP-0484 §5). All of an account's are one record, small and bounded, which its home shard has in memory: a login
//! reads nothing, and what it changes is durable before the client hears of it.
//!
//! Called by the shard, which decides with [`Tokens::settle`] and has [`keep`] carried out as an errand.

use plaza_core::date::DateTime;
use plaza_core::jid::JidRef;
use plaza_core::sasl::SaslFailure;
use plaza_core::sasl::ht::{HtMechanism, TOKEN_BYTES, Token, TokenSecret};
use plaza_core::stream::{ClientId, IssuedToken, Proof, UsedToken};

use crate::accounts::{self, Account};
#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::record::{Reader, flag, put_count};

use crate::store::{Batch, CommitError, Guard, Store, StoreError, Table, Write, key};

/// Version of the record.
const VERSION: u8 = 1;
const FLAG_CURRENT: u8 = 1;
const FLAG_NEW: u8 = 1 << 1;

/// Bounds of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenLimits {
    /// Clients of one account that have tokens. Default 20; for one more, the client that has used its own least lately
    /// loses them.
    pub clients_max: u16,
    /// How long a token is good, in seconds. Default 21 days: a client that is away for longer needs its password.
    pub life_seconds: u64,
    /// After how many seconds a token that is used is followed by a new one. Default a day.
    pub renew_seconds: u64,
}

impl Default for TokenLimits {
    fn default() -> Self {
        Self { clients_max: 20, life_seconds: 21 * 86_400, renew_seconds: 86_400 }
    }
}

/// A token as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    secret: TokenSecret,
    mechanism: HtMechanism,
    /// Seconds since the Unix epoch.
    expires: u64,
    /// Counts below this one have been used.
    counted: u32,
}

/// What one client has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Client {
    id: ClientId,
    /// When it used or was told one, in seconds since the Unix epoch.
    seen: u64,
    /// The one that it uses.
    current: Option<Kept>,
    /// The one that it was told since.
    new: Option<Kept>,
}

/// The tokens of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    clients: Box<[Client]>,
}

/// What a client that has shown who it is does to its tokens.
#[derive(Debug, Clone)]
pub struct Upkeep {
    /// Which client.
    pub client: ClientId,
    /// How it has.
    pub proof: Proof,
    /// It wants a new token for this mechanism.
    pub wanted: Option<HtMechanism>,
    /// Fresh randomness.
    pub fresh: TokenSecret,
    /// The time on the wall, in seconds since the Unix epoch.
    pub unix_seconds: u64,
}

/// What is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The tokens from now on; `None` if they stay as they are.
    pub tokens: Option<Tokens>,
    /// What the client is told once they are kept.
    pub issued: Option<IssuedToken>,
}

impl Tokens {
    /// Those of a client, for it to be judged by: the new one first.
    pub fn of(&self, client: ClientId, unix_seconds: u64) -> [Option<Token>; 2] {
        let found = self.clients.iter().find(|known| known.id == client);
        let token = |kept: Kept| Token {
            secret: kept.secret,
            mechanism: kept.mechanism,
            counted: kept.counted,
            expired: kept.expires <= unix_seconds,
        };
        [found.and_then(|found| found.new).map(token), found.and_then(|found| found.current).map(token)]
    }

    /// The clients that have some: which, when each was seen, and until when its last one is good, in seconds since 1970.
    pub(crate) fn clients(&self) -> impl Iterator<Item = (ClientId, u64, Option<u64>)> {
        let until = |client: &Client| [client.current, client.new].into_iter().flatten().map(|kept| kept.expires).max();
        self.clients.iter().map(move |client| (client.id, client.seen, until(client)))
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.clients)
    }

    /// Decides what becomes of a client's tokens. `account` is what is true of the account now, and these are its tokens
    /// now: what the client has shown may have come to be wrong since it was judged.
    ///
    /// # Errors
    /// [`SaslFailure::NotAuthorized`] if so: another password, a token that is gone, a count that another login used.
    pub fn settle(&self, account: &Account, upkeep: &Upkeep, limits: &TokenLimits) -> Result<Settled, SaslFailure> {
        let Upkeep { client: id, ref proof, wanted, fresh, unix_seconds: now } = *upkeep;
        let before = self.clients.iter().find(|known| known.id == id).copied();
        let mut client = before.unwrap_or(Client { id, seen: now, current: None, new: None });
        let mut wanted = wanted;
        match proof {
            Proof::Certificate => {}
            Proof::Keys(keys) if account.keys(keys.hash) == keys => {}
            Proof::Keys(_) => return Err(SaslFailure::NotAuthorized),
            Proof::Token(used) => wanted = wanted.or(client.take(used, now, limits)?),
        }
        if let Some(mechanism) = wanted {
            let expires = now.saturating_add(limits.life_seconds);
            client.new = Some(Kept { secret: fresh, mechanism, expires, counted: 0 });
        }
        let issued = client.new.filter(|_| wanted.is_some()).map(|new| IssuedToken {
            secret: new.secret,
            expiry: DateTime::from_unix_millis(new.expires.saturating_mul(1_000)).to_string().into(),
        });
        if before.is_some_and(|before| before == client) {
            return Ok(Settled { tokens: None, issued });
        }
        client.seen = now;
        Ok(Settled { tokens: Some(self.with(client, limits, now)), issued })
    }

    /// With this client's as they are here; those whose time is over go, and if there are too many clients, the one that
    /// was seen least lately.
    fn with(&self, client: Client, limits: &TokenLimits, now: u64) -> Self {
        let good = |kept: &Kept| kept.expires > now;
        let mut clients: Vec<_> = self.clients.iter().filter(|known| known.id != client.id).copied().collect();
        clients.push(client);
        for client in &mut clients {
            client.current = client.current.filter(good);
            client.new = client.new.filter(good);
        }
        clients.retain(|client| client.current.is_some() || client.new.is_some());
        // The one at hand is the last, and has been seen now.
        clients.sort_by_key(|client| client.seen);
        let too_many = clients.len().saturating_sub(limits.clients_max.into());
        clients.drain(..too_many);
        Self { clients: clients.into() }
    }

    fn encode(&self) -> Vec<u8> {
        let mut record = vec![VERSION];
        put_count(&mut record, self.clients.len() as u64);
        for client in &self.clients {
            record.extend_from_slice(&client.id.0);
            record.extend_from_slice(&client.seen.to_le_bytes());
            record.push(flag(client.current.is_some(), FLAG_CURRENT) | flag(client.new.is_some(), FLAG_NEW));
            for kept in [client.current, client.new].into_iter().flatten() {
                record.extend_from_slice(&kept.secret.0);
                record.push(mechanism_byte(kept.mechanism));
                record.extend_from_slice(&kept.expires.to_le_bytes());
                put_count(&mut record, kept.counted.into());
            }
        }
        record
    }

    pub(crate) fn decode(record: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader::open(record, VERSION)?;
        let count = reader.count()?;
        let mut clients = Vec::new();
        for _ in 0..count {
            let (id, seen, flags) = (ClientId(reader.array()?), reader.u64()?, reader.u8()?);
            if flags & !(FLAG_CURRENT | FLAG_NEW) != 0 {
                return Err(StoreError::Corrupt);
            }
            let mut kept = |bit| (flags & bit != 0).then(|| Kept::decode(&mut reader)).transpose();
            let (current, new) = (kept(FLAG_CURRENT)?, kept(FLAG_NEW)?);
            clients.push(Client { id, seen, current, new });
        }
        reader.close()?;
        Ok(Self { clients: clients.into() })
    }
}

impl Client {
    /// Uses a token. Gives the mechanism of the one that must follow it, if one must.
    fn take(&mut self, used: &UsedToken, now: u64, limits: &TokenLimits) -> Result<Option<HtMechanism>, SaslFailure> {
        // The new one takes the place of the one that it was to follow, which is good no more (XEP-0484 §3.5, §5).
        if self.new.is_some_and(|new| new.secret == used.secret) {
            self.current = self.new.take();
        }
        let current = self.current.as_mut().filter(|current| current.secret == used.secret && current.expires > now);
        let current = current.ok_or(SaslFailure::NotAuthorized)?;
        if let Some(count) = used.count {
            if count < current.counted {
                return Err(SaslFailure::NotAuthorized);
            }
            current.counted = count.saturating_add(1);
        }
        let made = current.expires.saturating_sub(limits.life_seconds);
        let due = now.saturating_sub(made) >= limits.renew_seconds;
        let mechanism = current.mechanism;
        if used.invalidate {
            // Whoever logs out wants none of them to be good any more, told or not (XEP-0484 §3.6).
            (self.current, self.new) = (None, None);
            return Ok(None);
        }
        Ok(due.then_some(mechanism))
    }
}

impl Kept {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, StoreError> {
        let secret = TokenSecret(reader.array::<TOKEN_BYTES>()?);
        let byte = reader.u8()?;
        let mechanism = HtMechanism::OFFERED.into_iter().find(|&mechanism| mechanism_byte(mechanism) == byte);
        Ok(Self {
            secret,
            mechanism: mechanism.ok_or(StoreError::Corrupt)?,
            expires: reader.u64()?,
            counted: u32::try_from(reader.count()?).map_err(|_| StoreError::Corrupt)?,
        })
    }
}

/// A mechanism in a record. Never changed: data is stored with it.
const fn mechanism_byte(mechanism: HtMechanism) -> u8 {
    match mechanism {
        HtMechanism::Unbound => 0,
        HtMechanism::EndPoint => 1,
        HtMechanism::Exporter => 2,
    }
}

/// Keeps an account's tokens in place of those that were there; durable when it resolves. `account` is what the decision
/// was made for: a password that changed since, or an account that is gone, keeps it from happening.
///
/// # Errors
/// [`CommitError::Guard`] if so, or if the tokens are not those any more; [`CommitError::Store`].
pub async fn keep<S: Store>(
    store: &S,
    bare: JidRef<'_>,
    account: &Account,
    before: &Tokens,
    after: &Tokens,
) -> Result<(), CommitError> {
    let key = key::account(bare);
    let table = Table::Tokens;
    let unchanged = if before.clients.is_empty() {
        Guard::Absent { table, key: key.clone() }
    } else {
        Guard::Equals { table, key: key.clone(), value: before.encode() }
    };
    let same = Guard::Equals { table: Table::Accounts, key: key.clone(), value: accounts::encode(account) };
    let write = if after.clients.is_empty() {
        Write::Delete { table, key }
    } else {
        Write::Put { table, key, value: after.encode() }
    };
    store.commit(Batch { guards: vec![same, unchanged], writes: vec![write] }).await
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] = &[|record| Tokens::decode(record).map(|tokens| tokens.encode())];

#[cfg(test)]
mod tests {
    use plaza_core::jid::Jid;
    use plaza_core::sasl::scram::Hash;
    use proptest::prelude::*;

    use super::*;
    use crate::accounts::NewKeys;
    use crate::facts;
    use crate::store::memory::MemoryStore;
    use crate::testing::store_with;
    use crate::wait::block_on;

    const LIMITS: TokenLimits = TokenLimits { clients_max: 3, life_seconds: 1_000, renew_seconds: 100 };
    const CLIENT: ClientId = ClientId([1; 16]);

    fn secret(byte: u8) -> TokenSecret {
        TokenSecret([byte; TOKEN_BYTES])
    }

    /// An account, its store, and its tokens.
    struct World {
        owner: Jid,
        store: MemoryStore,
    }

    impl World {
        fn new() -> Self {
            let owner = Jid::parse("owner@things.example").unwrap();
            Self { store: store_with(&owner), owner }
        }

        fn tokens(&self) -> Tokens {
            block_on(facts::load(&self.store, self.owner.as_jid())).unwrap().unwrap().tokens
        }

        fn account(&self) -> Account {
            block_on(accounts::load(&self.store, self.owner.as_jid())).unwrap().unwrap()
        }

        /// Settles and keeps; the token that was told, by its byte.
        fn settle(&self, upkeep: &Upkeep) -> Result<Option<u8>, SaslFailure> {
            let (account, before) = (self.account(), self.tokens());
            let settled = before.settle(&account, upkeep, &LIMITS)?;
            if let Some(after) = settled.tokens {
                block_on(keep(&self.store, self.owner.as_jid(), &account, &before, &after)).unwrap();
                assert_eq!(self.tokens(), after);
            }
            Ok(settled.issued.map(|issued| issued.secret.0[0]))
        }

        fn password(&self, fresh: u8, now: u64) -> Upkeep {
            let keys = self.account().keys(Hash::Sha256).clone();
            let wanted = Some(HtMechanism::Unbound);
            Upkeep { client: CLIENT, proof: Proof::Keys(keys), wanted, fresh: secret(fresh), unix_seconds: now }
        }

        fn good(&self, now: u64) -> [Option<u8>; 2] {
            let good = |token: Option<Token>| token.filter(|token| !token.expired).map(|token| token.secret.0[0]);
            self.tokens().of(CLIENT, now).map(good)
        }
    }

    fn token(byte: u8, count: Option<u32>, fresh: u8, now: u64) -> Upkeep {
        let proof = Proof::Token(UsedToken { secret: secret(byte), count, invalidate: false });
        Upkeep { client: CLIENT, proof, wanted: None, fresh: secret(fresh), unix_seconds: now }
    }

    #[test]
    fn a_token_is_told_used_and_followed_by_another() {
        let world = World::new();
        assert_eq!(world.settle(&world.password(1, 0)), Ok(Some(1)));
        assert_eq!(world.good(0), [Some(1), None]);
        // Used, and too young to be followed.
        assert_eq!(world.settle(&token(1, Some(1), 2, 99)), Ok(None));
        assert_eq!(world.good(99), [None, Some(1)]);
        // Old enough: the new one is told, and both are good until it is used (XEP-0484 §3.5).
        assert_eq!(world.settle(&token(1, Some(2), 3, 100)), Ok(Some(3)));
        assert_eq!(world.good(100), [Some(3), Some(1)]);
        // It got lost on its way: another takes its place.
        assert_eq!(world.settle(&token(1, Some(3), 4, 110)), Ok(Some(4)));
        assert_eq!(world.good(110), [Some(4), Some(1)]);
        assert_eq!(world.settle(&token(3, Some(1), 5, 120)), Err(SaslFailure::NotAuthorized));
        assert_eq!(world.settle(&token(4, Some(1), 5, 120)), Ok(None));
        assert_eq!(world.good(120), [None, Some(4)]);
        assert_eq!(world.settle(&token(1, Some(9), 5, 120)), Err(SaslFailure::NotAuthorized));
        // Its time ends.
        assert_eq!(world.good(1_109), [None, Some(4)]);
        assert_eq!(world.good(1_110), [None, None]);
        assert_eq!(world.settle(&token(4, Some(2), 5, 1_110)), Err(SaslFailure::NotAuthorized));
    }

    #[test]
    fn a_count_is_used_once() {
        let world = World::new();
        world.settle(&world.password(1, 0)).unwrap();
        assert_eq!(world.settle(&token(1, Some(5), 2, 1)), Ok(None));
        for count in [0, 4, 5] {
            assert_eq!(world.settle(&token(1, Some(count), 2, 1)), Err(SaslFailure::NotAuthorized), "{count}");
        }
        assert_eq!(world.settle(&token(1, Some(6), 2, 1)), Ok(None));
        assert_eq!(world.tokens().of(CLIENT, 1)[1].unwrap().counted, 7);
        // A client that does not count changes nothing, and nothing is written.
        let settled = world.tokens().settle(&world.account(), &token(1, None, 2, 1), &LIMITS).unwrap();
        assert_eq!(settled, Settled { tokens: None, issued: None });
    }

    #[test]
    fn what_is_told_says_until_when() {
        let world = World::new();
        let settled = world.tokens().settle(&world.account(), &world.password(1, 500), &LIMITS).unwrap();
        assert_eq!(&*settled.issued.unwrap().expiry, "1970-01-01T00:25:00.000Z");
    }

    #[test]
    fn a_client_that_logs_out_has_no_token_but_the_one_it_asks_for() {
        let world = World::new();
        for wanted in [None, Some(HtMechanism::Exporter)] {
            world.settle(&world.password(1, 0)).unwrap();
            world.settle(&token(1, None, 2, 100)).unwrap();
            assert_eq!(world.good(100), [Some(2), Some(1)]);
            let proof = Proof::Token(UsedToken { secret: secret(1), count: None, invalidate: true });
            let out = Upkeep { client: CLIENT, proof, wanted, fresh: secret(9), unix_seconds: 100 };
            assert_eq!(world.settle(&out), Ok(wanted.map(|_| 9)));
            assert_eq!(world.good(100), [wanted.map(|_| 9), None]);
            assert_eq!(world.settle(&out), Err(SaslFailure::NotAuthorized));
        }
    }

    #[test]
    fn the_password_changes_and_no_token_is_good_or_given_any_more() {
        let world = World::new();
        world.settle(&world.password(1, 0)).unwrap();
        let (account, before, old) = (world.account(), world.tokens(), world.password(2, 0));
        let keys = NewKeys::derive("other", &[3; 32], 1).unwrap();
        block_on(accounts::set_keys(&world.store, world.owner.as_jid(), keys)).unwrap();
        assert_eq!(world.tokens(), Tokens::default());
        assert_eq!(world.settle(&old), Err(SaslFailure::NotAuthorized));
        // Decided before the change, kept after it.
        let after = before.settle(&account, &old, &LIMITS).unwrap().tokens.unwrap();
        let kept = block_on(keep(&world.store, world.owner.as_jid(), &account, &before, &after));
        assert_eq!(kept, Err(CommitError::Guard(0)));
        let kept = block_on(keep(&world.store, world.owner.as_jid(), &world.account(), &before, &after));
        assert_eq!(kept, Err(CommitError::Guard(1)));
    }

    #[test]
    fn tokens_go_with_their_account() {
        let world = World::new();
        world.settle(&world.password(1, 0)).unwrap();
        let account = world.account();
        block_on(accounts::remove(&world.store, world.owner.as_jid())).unwrap();
        let key = key::account(world.owner.as_jid());
        assert_eq!(block_on(world.store.get(Table::Tokens, &key)), Ok(None));
        let kept = block_on(keep(&world.store, world.owner.as_jid(), &account, &Tokens::default(), &Tokens::default()));
        assert_eq!(kept, Err(CommitError::Guard(0)));
    }

    #[test]
    fn the_client_that_was_away_longest_makes_room() {
        let world = World::new();
        for client in 1..=4 {
            let wanted = Upkeep { client: ClientId([client; 16]), ..world.password(client, client.into()) };
            world.settle(&wanted).unwrap();
        }
        let has = |client: u8, now| world.tokens().of(ClientId([client; 16]), now)[0].is_some();
        assert_eq!([1, 2, 3, 4].map(|client| has(client, 5)), [false, true, true, true]);
        // Those whose time is over go first.
        world.settle(&Upkeep { client: ClientId([9; 16]), ..world.password(9, 1_003) }).unwrap();
        assert_eq!(world.tokens().clients.len(), 2);
        assert!(has(4, 1_003) && has(9, 1_003));
    }

    fn kept() -> impl Strategy<Value = Option<Kept>> {
        prop::option::of((any::<[u8; TOKEN_BYTES]>(), 0..3_usize, any::<u64>(), any::<u32>()).prop_map(
            |(secret, mechanism, expires, counted)| Kept {
                secret: TokenSecret(secret),
                mechanism: HtMechanism::OFFERED[mechanism],
                expires,
                counted,
            },
        ))
    }

    proptest! {
        #[test]
        fn tokens_read_back(clients in prop::collection::vec((any::<[u8; 16]>(), any::<u64>(), kept(), kept()), 0..5)) {
            let clients = clients.into_iter().map(|(id, seen, current, new)| {
                Client { id: ClientId(id), seen, current, new }
            });
            let tokens = Tokens { clients: clients.collect() };
            prop_assert_eq!(Tokens::decode(&tokens.encode()), Ok(tokens));
        }
    }
}
