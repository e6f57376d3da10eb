//! Accounts created with an API key: what a signature costs, and how many creations a second one key makes durable, the
//! derivation of their keys left out (it is `sasl`'s, and the helpers').

use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use plaza_core::jid::Jid;
use plaza_core::signed::{self, Fields, sign, verify};
use plaza_registry::accounts::NewKeys;
use plaza_registry::apikeys::{self, ApiKey, ApiKeys, Creation, Sealer, SpendError};
use plaza_registry::store::embedded::{EmbeddedOptions, EmbeddedStore};
use plaza_registry::wait::block_on;

/// Creations on their way at once.
const WINDOW: usize = 256;

fn signature(criterion: &mut Criterion) {
    let fields = [
        ("FORM_TYPE", "urn:xmpp:xdata:signature:oauth1"),
        ("username", "sensor.0001"),
        ("password", "Pa55-w0rd"),
        (signed::VERSION, "1.0"),
        (signed::METHOD, "HMAC-SHA1"),
        (signed::TOKEN, "3bd6a5d2a4ec8b1e0c4f7e0a1b2c3d4e"),
        (signed::NONCE, "00112233445566778899aabbccddeeff"),
        (signed::TIMESTAMP, "1546300800"),
        (signed::CONSUMER_KEY, "4d5a0e7b9c"),
    ];
    let fields = fields.into_iter().fold(Fields::default(), |fields, (var, value)| fields.with(var, value));
    let secrets = ("c0nsumer+secret/==", "ts-93ab71");
    let signature = sign(&fields, "", secrets).expect("a known method");
    let (good, bad) = (fields.clone().with(signed::SIGNATURE, &signature), fields.with(signed::SIGNATURE, "x"));
    let addresses = ["", "things.example"];
    criterion
        .bench_function("signature/good", |bencher| bencher.iter(|| verify(black_box(&good), &addresses, secrets)));
    criterion.bench_function("signature/bad", |bencher| bencher.iter(|| verify(black_box(&bad), &addresses, secrets)));
}

fn creation(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory for the store");
    let options = EmbeddedOptions { in_flight_max: 2_048, ..EmbeddedOptions::default() };
    let store = EmbeddedStore::open(directory.path(), options).expect("an empty store");
    let api_keys = ApiKeys::new(Sealer::new(&[1; 32]));
    let key = ApiKey {
        owner: "ops@maker.example".to_owned(),
        accounts_max: u64::MAX,
        per_minute: 0,
        enabled: true,
        created: 0,
        expires: None,
        domains: Vec::new(),
    };
    block_on(apikeys::create(&store, api_keys.sealer(), "maker", "secret", [1; 12], &key)).expect("created");
    let keys = NewKeys::derive("pencil", &[1; 32], 1).expect("a password");
    let mut group = criterion.benchmark_group("registration");
    group.measurement_time(Duration::from_secs(8)).throughput(Throughput::Elements(WINDOW as u64));
    let mut next = 0;
    group.bench_function(format!("create/{WINDOW}"), |bencher| {
        bencher.iter(|| {
            let names: Vec<_> = (next..next + WINDOW).map(|number| format!("sensor{number}@things.example")).collect();
            next += WINDOW;
            let create = |name: &String| {
                let (store, api_keys, keys, name) = (&store, &api_keys, &keys, name.clone());
                let created: Pin<Box<dyn Future<Output = Result<(), SpendError>>>> = Box::pin(async move {
                    let account = Jid::parse(&name).expect("an address");
                    let account = account.as_jid();
                    let creation = Creation { account, keys, id: "maker", nonce: &name, nonce_until: 1_000, now: 0 };
                    api_keys.spend(store, &creation).await
                });
                created
            };
            let mut created: Vec<_> = names.iter().map(create).collect();
            // All are sent before any is waited for.
            let mut context = Context::from_waker(Waker::noop());
            created.retain_mut(|creation| creation.as_mut().poll(&mut context).is_pending());
            created.into_iter().for_each(|creation| block_on(creation).expect("created"));
        });
    });
    group.finish();
    store.close().expect("closed");
}

criterion_group!(benches, signature, creation);
criterion_main!(benches);
