//! Keys from their making to their end, and that N accounts are N.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use plaza_core::sasl::scram::{Hash, Keys};

use super::*;
use crate::accounts::{self, AccountError, NewKeys};
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::store::memory::MemoryStore;
use crate::testing::jid;
use crate::wait::block_on;

const NOW: u64 = 1_000;
const SERVER_SECRET: [u8; 32] = [3; 32];

fn new_keys() -> NewKeys {
    let of = |hash, len| Keys {
        hash,
        salt: [1; 16].into(),
        iterations: 4_096,
        stored_key: vec![2; len].into(),
        server_key: vec![3; len].into(),
    };
    NewKeys { sha1: of(Hash::Sha1, 20), sha256: of(Hash::Sha256, 32) }
}

fn api_key(accounts_max: u64) -> ApiKey {
    ApiKey {
        owner: "ops@maker.example".to_owned(),
        accounts_max,
        per_minute: 0,
        enabled: true,
        created: NOW,
        expires: None,
        domains: Vec::new(),
    }
}

fn world<S: Store>(store: S, accounts_max: u64) -> (S, ApiKeys) {
    let keys = ApiKeys::new(Sealer::new(&SERVER_SECRET));
    block_on(create(&store, keys.sealer(), "maker", "s3cret", [1; 12], &api_key(accounts_max))).unwrap();
    (store, keys)
}

async fn spend<S: Store>(store: &S, keys: &ApiKeys, name: &str, nonce: &str) -> Result<(), SpendError> {
    let account = jid(&format!("{name}@things.example"));
    let creation =
        Creation { account: account.as_jid(), keys: &new_keys(), id: "maker", nonce, nonce_until: NOW + 10, now: NOW };
    keys.spend(store, &creation).await
}

fn created<S: Store>(store: &S) -> (u64, usize, usize) {
    let count = block_on(show(store, "maker")).unwrap().count;
    let listed = block_on(super::accounts(store, "maker", None, 10_000)).unwrap().len();
    (count, listed, block_on(accounts::list(store, None, 10_000)).unwrap().len())
}

#[test]
fn a_key_lives_from_create_to_revoke() {
    let (store, keys) = world(MemoryStore::new(), 2);
    let again = block_on(create(&store, keys.sealer(), "maker", "x", [2; 12], &api_key(1)));
    assert_eq!(again, Err(KeyError::Exists));
    let opened = block_on(keys.find(&store, "maker")).unwrap().unwrap();
    assert_eq!((&opened.key, opened.secret.as_str()), (&api_key(2), "s3cret"));
    assert!(!format!("{opened:?} {keys:?}").contains("s3cret"));
    assert!(block_on(keys.find(&store, "other")).unwrap().is_none());
    assert_eq!(block_on(spend(&store, &keys, "one", "1")), Ok(()));
    assert_eq!(block_on(origin(&store, jid("one@things.example").as_jid())), Ok(Some("maker".to_owned())));
    assert_eq!(block_on(revoke(&store, "maker")), Ok(()));
    // The key in memory says that it may be used.
    assert_eq!(block_on(spend(&store, &keys, "two", "2")), Err(SpendError::Revoked));
    let listed = block_on(list(&store, None, 10)).unwrap();
    assert_eq!(listed, [Listed { id: "maker".into(), key: ApiKey { enabled: false, ..api_key(2) }, count: 1 }]);
    assert_eq!(block_on(list(&store, Some("maker"), 10)), Ok(Vec::new()));
    assert_eq!(block_on(show(&store, "other")), Err(KeyError::NotFound));
    assert_eq!(block_on(revoke(&store, "other")), Err(KeyError::NotFound));
}

#[test]
fn a_key_permits_what_it_is_for() {
    let opened = |change: fn(&mut ApiKey)| {
        let (store, keys) = world(MemoryStore::new(), 1);
        let mut key = api_key(1);
        change(&mut key);
        block_on(create(&store, keys.sealer(), "changed", "s", [2; 12], &key)).unwrap();
        block_on(keys.find(&store, "changed")).unwrap().unwrap()
    };
    let permits = |change, now| opened(change).permits("things.example", now);
    assert_eq!(permits(|_| (), u64::MAX), Ok(()));
    assert_eq!(permits(|key| key.enabled = false, 0), Err(SpendError::Revoked));
    assert_eq!(permits(|key| key.expires = Some(5), 4), Ok(()));
    assert_eq!(permits(|key| key.expires = Some(5), 5), Err(SpendError::Expired));
    assert_eq!(permits(|key| key.domains = vec![jid("things.example")], 0), Ok(()));
    assert_eq!(permits(|key| key.domains = vec![jid("a.things.example")], 0), Err(SpendError::WrongDomain));
}

#[test]
fn a_quota_is_used_up_and_gives_nothing_back() {
    let (store, keys) = world(MemoryStore::new(), 2);
    assert_eq!(block_on(spend(&store, &keys, "one", "1")), Ok(()));
    assert_eq!(block_on(spend(&store, &keys, "one", "2")), Err(SpendError::Exists));
    assert_eq!(block_on(spend(&store, &keys, "two", "1")), Err(SpendError::Replayed));
    assert_eq!(created(&store), (1, 1, 1));
    assert_eq!(block_on(spend(&store, &keys, "two", "3")), Ok(()));
    assert_eq!(block_on(spend(&store, &keys, "three", "4")), Err(SpendError::Exhausted));
    let one = jid("one@things.example");
    assert_eq!(block_on(accounts::remove(&store, one.as_jid())), Ok(()));
    assert_eq!(block_on(accounts::remove(&store, one.as_jid())), Err(AccountError::NotFound));
    assert_eq!(created(&store), (2, 1, 1));
    assert_eq!(block_on(origin(&store, one.as_jid())), Ok(None));
    assert_eq!(block_on(spend(&store, &keys, "one", "5")), Err(SpendError::Exhausted));
}

#[test]
fn nonces_are_remembered_for_their_time() {
    let (store, keys) = world(MemoryStore::new(), 2);
    block_on(spend(&store, &keys, "one", "1")).unwrap();
    assert_eq!(block_on(prune(&store, NOW + 10)), Ok(0));
    // A broker that starts anew knows them.
    let keys_again = ApiKeys::new(Sealer::new(&SERVER_SECRET));
    assert_eq!(block_on(spend(&store, &keys_again, "two", "1")), Err(SpendError::Replayed));
    assert_eq!(block_on(prune(&store, NOW + 11)), Ok(1));
    assert_eq!(block_on(spend(&store, &keys, "two", "1")), Ok(()));
}

#[test]
fn what_can_be_foreseen_is() {
    let (store, keys) = world(MemoryStore::new(), 1);
    let (one, two) = (jid("one@things.example"), jid("two@things.example"));
    let foresee = |account: &Jid, nonce| block_on(keys.foresee(&store, account.as_jid(), "maker", nonce, 1));
    assert_eq!(foresee(&one, "1"), Ok(()));
    block_on(spend(&store, &keys, "one", "1")).unwrap();
    assert_eq!(foresee(&two, "1"), Err(SpendError::Replayed));
    assert_eq!(foresee(&one, "2"), Err(SpendError::Exists));
    assert_eq!(foresee(&two, "2"), Err(SpendError::Exhausted));
}

/// Polls futures in turn until all are done, always the least recently polled that may go on.
fn interleave<T>(mut futures: Vec<Pin<Box<dyn Future<Output = T> + '_>>>, mut between: impl FnMut()) -> Vec<T> {
    let mut results = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    while !futures.is_empty() {
        futures.retain_mut(|future| match future.as_mut().poll(&mut context) {
            Poll::Ready(result) => {
                results.push(result);
                false
            }
            Poll::Pending => true,
        });
        between();
    }
    results
}

#[test]
fn of_a_thousand_at_once_as_many_succeed_as_may() {
    // The store answers late and one at a time.
    let (store, keys) = world(MemoryStore::new(), 10);
    store.hold();
    let names: Vec<_> = (0..1_000).map(|number| format!("sensor{number}")).collect();
    let creations =
        names.iter().map(|name| Box::pin(spend(&store, &keys, name, name)) as Pin<Box<dyn Future<Output = _>>>);
    let results = interleave(creations.collect(), || _ = store.release());
    store.release_all();
    let of = |wanted: Result<(), SpendError>| results.iter().filter(|&result| *result == wanted).count();
    assert_eq!((of(Ok(())), of(Err(SpendError::Exhausted))), (10, 990));
    assert_eq!(created(&store), (10, 10, 10));
}

#[test]
fn those_that_fail_take_nobodys_place() {
    // Of those that were sent, some fail: their names are taken, or their nonces. Those behind them do not.
    let (store, keys) = world(MemoryStore::new(), 6);
    store.hold();
    let names = ["a", "b", "a", "c", "b", "d", "e", "a", "f", "g", "h"];
    let creations = names.iter().enumerate().map(|(number, name)| {
        let (store, keys) = (&store, &keys);
        Box::pin(async move { spend(store, keys, name, &number.to_string()).await }) as Pin<Box<dyn Future<Output = _>>>
    });
    let results = interleave(creations.collect(), || _ = store.release());
    store.release_all();
    let of = |wanted: Result<(), SpendError>| results.iter().filter(|&result| *result == wanted).count();
    assert_eq!((of(Ok(())), of(Err(SpendError::Exists))), (6, 3), "{results:?}");
    assert_eq!(of(Err(SpendError::Exhausted)), 2);
    assert_eq!(created(&store), (6, 6, 6));
}

#[test]
fn a_broker_cut_off_in_the_middle_has_counted_what_there_is() {
    // Many threads at once, on disk; some give up waiting, and then all of memory is gone.
    let directory = tempfile::tempdir().unwrap();
    let open = || EmbeddedStore::open(directory.path(), EmbeddedOptions::default()).unwrap();
    let (store, keys) = world(open(), 10);
    let succeeded = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, keys, succeeded) = (store.clone(), keys.clone(), &succeeded);
            scope.spawn(move || {
                for number in 0..50 {
                    let name = format!("s{thread}-{number}");
                    if number % 3 == 0 {
                        // Sent, and nobody waits for it.
                        let mut sent = pin!(spend(&store, &keys, &name, &name));
                        let _ = sent.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                    } else if block_on(spend(&store, &keys, &name, &name)) == Ok(()) {
                        succeeded.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    drop(keys);
    store.close().unwrap();
    let store = open();
    let keys = ApiKeys::new(Sealer::new(&SERVER_SECRET));
    assert_eq!(created(&store), (10, 10, 10));
    assert!(succeeded.load(Ordering::Relaxed) <= 10);
    assert_eq!(block_on(spend(&store, &keys, "late", "late")), Err(SpendError::Exhausted));
    store.close().unwrap();
}

#[test]
fn creations_share_the_stores_syncs() {
    // With one after the other each would wait for a sync of its own.
    let directory = tempfile::tempdir().unwrap();
    let store =
        EmbeddedStore::open(directory.path(), EmbeddedOptions { in_flight_max: 2_048, ..EmbeddedOptions::default() })
            .unwrap();
    let (store, keys) = world(store, 1_000_000);
    let names: Arc<Vec<String>> = Arc::new((0..1_024).map(|number| format!("sensor{number}")).collect());
    let began = Instant::now();
    let mut polls = 0;
    let creations =
        names.iter().map(|name| Box::pin(spend(&store, &keys, name, name)) as Pin<Box<dyn Future<Output = _>>>);
    let results = interleave(creations.collect(), || {
        polls += 1;
        std::thread::sleep(std::time::Duration::from_millis(1));
    });
    assert!(results.iter().all(Result::is_ok), "{:?}", results.iter().find(|result| result.is_err()));
    assert_eq!(created(&store), (1_024, 1_024, 1_024));
    let took = began.elapsed();
    assert!(polls < 200, "{polls} rounds, {took:?}");
    store.close().unwrap();
}
