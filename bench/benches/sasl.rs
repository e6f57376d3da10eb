//! What a login costs the server: SCRAM's two messages, against the key derivation that it spares.
//!
//! `sasl/…/server-verify` is the server's whole part of one exchange but for Base64 and XML: take the first message apart,
//! write the challenge, verify the proof, sign. `sasl/derive/10000` is what PLAIN, or setting a password, costs.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use plaza_core::sasl::ChannelBinding;
use plaza_core::sasl::client::ScramClient;
use plaza_core::sasl::scram::{ClientFirst, Hash, Keys, derive};

const SERVER_NONCE: &str = "3rfcNHYJY1ZVvWVs7jAAAA";

fn exchange(first: &str, hash: Hash, keys: Keys) -> plaza_core::sasl::scram::Challenged {
    let first = ClientFirst::parse(first.as_bytes()).unwrap();
    first.open(hash, false, &ChannelBinding::default()).unwrap().challenge(keys, SERVER_NONCE, true, None)
}

fn server_verify(c: &mut Criterion) {
    let mut group = c.benchmark_group("sasl");
    group.throughput(Throughput::Elements(1));
    for (name, hash) in [("scram-sha-256", Hash::Sha256), ("scram-sha-1", Hash::Sha1)] {
        let keys = derive(hash, "pencil", b"0123456789abcdef", 10_000).unwrap();
        let (mut client, first) = ScramClient::start(hash, "device-0001", "pencil", "fyko+d2lbbFgONRv9qkxdawL", None);
        let challenge = exchange(&first, hash, keys.clone());
        let last = client.answer(challenge.server_first(), None).unwrap();
        assert!(client.verify(&challenge.finish(last.as_bytes()).unwrap().server_final()));

        group.bench_function(format!("{name}/server-verify"), |b| {
            b.iter_batched(
                || keys.clone(),
                |keys| {
                    let challenged = exchange(black_box(&first), hash, keys);
                    challenged.finish(black_box(last.as_bytes())).unwrap().server_final()
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.bench_function("derive/10000", |b| {
        b.iter(|| derive(Hash::Sha256, black_box("pencil"), b"0123456789abcdef", 10_000).unwrap());
    });
    group.finish();
}

criterion_group!(benches, server_verify);
criterion_main!(benches);
