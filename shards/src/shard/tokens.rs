//! Tokens at login (XEP-0484 v0.2.0): decided from the home shard's memory, kept for good before the client hears of it.
//!
//! [`plaza_registry::tokens`] knows what follows from what. Here is the order: one client's change is kept before the next
//! is decided, so that a count lets in one login only, however many come at once.

use plaza_core::jid::JidRef;
use plaza_core::sasl::SaslFailure;
use plaza_core::stream::{IssuedToken, Proof};
use plaza_registry::errands::Errand;
use plaza_registry::store::CommitError;
use plaza_registry::tokens::{Settled, Tokens, Upkeep};

use super::work::{Running, Task};
use super::{Effect, Shard};
use crate::ring::Key;

/// Tokens that are being kept.
#[derive(Debug)]
pub(super) struct Keeping {
    connection: Key,
    /// The client used one: its login depends on what becomes of it.
    used: bool,
    after: Tokens,
    issued: Option<IssuedToken>,
}

impl Shard {
    /// A client has shown that it is this account's, at home here: its tokens become what follows from that, and
    /// [`Effect::Tokens`] says when they are kept for good.
    pub fn keep_tokens(&mut self, connection: Key, account: JidRef<'_>, upkeep: Box<Upkeep>) {
        let index = self.accounts.find_or_insert(self.homes.hash(account), account);
        self.enqueue(index, Task::Tokens(connection, upkeep));
    }

    /// Decides by what is true of the account now. `failed`: the store could not say.
    pub(super) fn settle_tokens(&mut self, index: u32, connection: Key, upkeep: &Upkeep, failed: bool) {
        let Some(account) = self.accounts.get(index) else { return };
        let answer = match &account.facts {
            None if failed => Err(SaslFailure::TemporaryAuthFailure),
            None => Err(SaslFailure::NotAuthorized),
            Some(facts) if facts.account.disabled => Err(SaslFailure::AccountDisabled),
            Some(facts) => match facts.tokens.settle(&facts.account, upkeep, &self.config.tokens) {
                Err(failure) => Err(failure),
                Ok(Settled { tokens: None, issued }) => Ok(issued),
                Ok(Settled { tokens: Some(after), issued }) => {
                    let (account, before) = (facts.account.clone(), facts.tokens.clone());
                    let errand = Errand::Tokens { account, before, after: after.clone() };
                    let used = matches!(upkeep.proof, Proof::Token(_));
                    let keeping = Keeping { connection, used, after, issued };
                    return self.send(index, Running::Tokens(Box::new(keeping)), errand);
                }
            },
        };
        self.effects.push_back(Effect::Tokens(connection, answer));
    }

    /// They are kept, or could not be: then the client has no new one, and one that was used lets nobody in, since it
    /// could be used again.
    pub(super) fn tokens_kept(&mut self, index: u32, keeping: Keeping, done: Result<(), CommitError>) {
        let Keeping { connection, used, after, issued } = keeping;
        let answer = match done {
            Ok(()) => {
                if let Some(facts) = self.facts_mut(index) {
                    facts.tokens = after;
                }
                Ok(issued)
            }
            Err(error) => {
                // Whatever the reason, what is known of the account is in doubt.
                self.accounts.set_facts(index, None);
                match error {
                    // The account was changed meanwhile: what the client has shown may be wrong by now.
                    CommitError::Guard(_) => Err(SaslFailure::TemporaryAuthFailure),
                    CommitError::Store(_) if used => Err(SaslFailure::TemporaryAuthFailure),
                    CommitError::Store(_) => Ok(None),
                }
            }
        };
        self.effects.push_back(Effect::Tokens(connection, answer));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use plaza_core::jid::Jid;
    use plaza_core::sasl::ht::{HtMechanism, TOKEN_BYTES, TokenSecret};
    use plaza_core::sasl::scram::Hash;
    use plaza_core::stream::{ClientId, UsedToken};
    use plaza_registry::accounts::{self, NewKeys};
    use plaza_registry::errands::Return;
    use plaza_registry::facts;
    use plaza_registry::offline::OfflineLimits;
    use plaza_registry::store::StoreError;
    use plaza_registry::store::memory::MemoryStore;
    use plaza_registry::tokens::{TokenLimits, keep};
    use plaza_registry::wait::block_on;

    use super::*;
    use crate::home::Homes;
    use crate::mesh::ShardId;
    use crate::shard::{ManagedLimits, ShardConfig};

    type Answer = Result<Option<IssuedToken>, SaslFailure>;

    const KEY: Key = Key { index: 0, generation: 0 };
    const SECRET: TokenSecret = TokenSecret([7; TOKEN_BYTES]);

    /// A shard, its store and an account.
    struct World {
        shard: Shard,
        store: MemoryStore,
        owner: Jid,
        /// Trips to the store.
        loads: usize,
        /// What the next token is made of; the first is [`SECRET`].
        fresh: u8,
    }

    impl World {
        fn new() -> Self {
            let config = ShardConfig {
                domains: vec![Jid::parse("things.example").unwrap()],
                services: Vec::new(),
                outbox_bytes_max: 4096,
                outbox_bytes_full: 4096,
                outbox_bytes_high: 1024,
                outbox_bytes_low: 256,
                sessions_per_account_max: 4,
                directed_presence_max: 4,
                facts_bytes_max: 1 << 20,
                requests_max: 2,
                strangers_per_minute_max: 0,
                offline: OfflineLimits::default(),
                caps: Arc::new(plaza_registry::directory::CapsCache::new(16)),
                managed: ManagedLimits::default(),
                managed_key: [7; 32],
                tokens: TokenLimits::default(),
                archive: plaza_registry::archive::ArchiveConfig::default(),
                proofs: plaza_registry::provisioning::Proofs::default(),
                id_prefix: "plaza-".into(),
            };
            let owner = Jid::parse("owner@things.example").unwrap();
            let store = MemoryStore::new();
            let keys = NewKeys::derive("pencil", &[1; 32], 1).unwrap();
            block_on(accounts::create(&store, owner.as_jid(), keys, false, 0)).unwrap();
            let shard = Shard::new(ShardId(0), 1, Homes::new(1, 1), Arc::new(config));
            Self { shard, store, owner, loads: 0, fresh: 7 }
        }

        fn ask(&mut self, proof: Proof, wanted: Option<HtMechanism>) {
            let client = ClientId([1; 16]);
            let fresh = TokenSecret([self.fresh; TOKEN_BYTES]);
            self.fresh += 1;
            let upkeep = Upkeep { client, proof, wanted, fresh, unix_seconds: 0 };
            self.shard.keep_tokens(KEY, self.owner.as_jid(), Box::new(upkeep));
        }

        /// Asks with a count, as a client does that has the token.
        fn count(&mut self, count: u32) {
            self.ask(Proof::Token(UsedToken { secret: SECRET, count: Some(count), invalidate: false }), None);
        }

        /// Runs errands until there is no effect left; what was answered.
        fn answers(&mut self) -> Vec<Answer> {
            let mut answers = Vec::new();
            while let Some(effect) = self.shard.poll_effect() {
                match effect {
                    Effect::Tokens(_, answer) => answers.push(answer),
                    Effect::Errand(owner, errand) => {
                        let brought = match *errand {
                            Errand::Load => {
                                self.loads += 1;
                                Return::Load(block_on(facts::load(&self.store, owner.as_jid())))
                            }
                            Errand::Tokens { account, before, after } => {
                                let kept = keep(&self.store, owner.as_jid(), &account, &before, &after);
                                Return::Tokens(block_on(kept))
                            }
                            Errand::Subscription { .. }
                            | Errand::Keep { .. }
                            | Errand::Archive(_)
                            | Errand::Fetch
                            | Errand::Forget { .. }
                            | Errand::Requests
                            | Errand::Untold
                            | Errand::Heard(_)
                            | Errand::Serve(_) => panic!("nobody asked for that"),
                        };
                        self.shard.errand_done(&owner, brought);
                    }
                    Effect::Resume(_)
                    | Effect::End(..)
                    | Effect::Service(..)
                    | Effect::Login(..)
                    | Effect::Displace(_)
                    | Effect::Recipients(_)
                    | Effect::LastItems(_)
                    | Effect::Expire(_)
                    | Effect::Watch(_)
                    | Effect::Late(_)
                    | Effect::Inquire(..)
                    | Effect::AskUntil(_)
                    | Effect::Asked(..)
                    | Effect::Challenged(..) => {
                        panic!("nobody asked for that")
                    }
                }
            }
            answers
        }

        fn keys(&self) -> Proof {
            let account = block_on(accounts::load(&self.store, self.owner.as_jid())).unwrap().unwrap();
            Proof::Keys(account.keys(Hash::Sha256).clone())
        }

        /// With a token.
        fn with_token() -> Self {
            let mut world = Self::new();
            world.ask(world.keys(), Some(HtMechanism::Unbound));
            let answers = world.answers();
            assert!(matches!(&*answers, [Ok(Some(issued))] if issued.secret == SECRET));
            world
        }
    }

    #[test]
    fn of_counts_that_come_at_once_each_lets_one_in_and_nothing_is_read() {
        let mut world = World::with_token();
        assert_eq!(world.loads, 1);
        for count in [1, 1, 2, 2, 1] {
            world.count(count);
        }
        let refused = || Err(SaslFailure::NotAuthorized);
        assert_eq!(world.answers(), [Ok(None), refused(), Ok(None), refused(), refused()]);
        assert_eq!(world.loads, 1);
    }

    #[test]
    fn a_count_that_cannot_be_kept_lets_nobody_in_and_a_token_that_cannot_is_not_told() {
        let mut world = World::with_token();
        world.count(1);
        world.ask(world.keys(), Some(HtMechanism::Unbound));
        // Only what is under way: both are kept one after the other.
        let Some(Effect::Errand(owner, errand)) = world.shard.poll_effect() else { panic!("nothing to keep") };
        assert!(matches!(*errand, Errand::Tokens { .. }));
        assert!(world.shard.poll_effect().is_none());
        world.shard.errand_done(&owner, Return::Tokens(Err(CommitError::Store(StoreError::Busy))));
        let answers = world.answers();
        assert!(matches!(&*answers, [Err(SaslFailure::TemporaryAuthFailure), Ok(Some(_))]), "{answers:?}");

        world.ask(world.keys(), Some(HtMechanism::Unbound));
        let Some(Effect::Errand(owner, _)) = world.shard.poll_effect() else { panic!("nothing to keep") };
        world.shard.errand_done(&owner, Return::Tokens(Err(CommitError::Store(StoreError::Busy))));
        assert_eq!(world.answers(), [Ok(None)]);
    }

    #[test]
    fn a_password_that_changed_gives_no_token() {
        let mut world = World::with_token();
        let old = world.keys();
        let keys = NewKeys::derive("other", &[2; 32], 1).unwrap();
        block_on(accounts::set_keys(&world.store, world.owner.as_jid(), keys)).unwrap();
        // The shard has not heard of it yet: the store refuses.
        world.ask(old.clone(), Some(HtMechanism::Unbound));
        assert_eq!(world.answers(), [Err(SaslFailure::TemporaryAuthFailure)]);
        // Now it has.
        world.shard.account_changed(world.owner.as_jid());
        world.ask(old, Some(HtMechanism::Unbound));
        world.count(1);
        assert_eq!(world.answers(), [Err(SaslFailure::NotAuthorized), Err(SaslFailure::NotAuthorized)]);
    }

    #[test]
    fn a_store_that_says_nothing_lets_nobody_in() {
        let mut world = World::new();
        world.store.refuse(Some(StoreError::Failed));
        world.count(1);
        assert_eq!(world.answers(), [Err(SaslFailure::TemporaryAuthFailure)]);
    }
}
