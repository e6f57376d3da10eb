//! The embedded store, through its queues and threads: durable commits and reads of what is in memory.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use plaza_registry::store::embedded::{EmbeddedOptions, EmbeddedStore};
use plaza_registry::store::{Batch, Store, Table, Write};
use plaza_registry::wait::block_on;

/// Requests in flight at once.
const WINDOW: usize = 64;
/// About an account's record.
const VALUE_BYTES: usize = 200;
const KEYS: u64 = 10_000;

fn put(n: u64) -> Batch {
    let write = Write::Put { table: Table::Accounts, key: key(n), value: vec![n as u8; VALUE_BYTES] };
    Batch { guards: Vec::new(), writes: vec![write] }
}

/// As long as an account's, and as scattered.
fn key(n: u64) -> Vec<u8> {
    let mut key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec();
    key.extend_from_slice(b"thing@things.example");
    key
}

fn bench(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory for the store");
    let store = EmbeddedStore::open(directory.path(), EmbeddedOptions::default()).expect("an empty store");
    let mut group = criterion.benchmark_group("store");
    group.measurement_time(Duration::from_secs(8)).throughput(Throughput::Elements(WINDOW as u64));

    let mut next = 0;
    group.bench_function(format!("commit/{WINDOW}"), |bencher| {
        bencher.iter(|| {
            let commits: Vec<_> = (next..next + WINDOW as u64).map(|n| store.commit(put(n))).collect();
            next += WINDOW as u64;
            commits.into_iter().for_each(|commit| block_on(commit).expect("committed"));
        });
    });

    for n in (0..KEYS).step_by(WINDOW) {
        let commits: Vec<_> = (n..n + WINDOW as u64).map(|n| store.commit(put(n))).collect();
        commits.into_iter().for_each(|commit| block_on(commit).expect("committed"));
    }
    let mut next = 0;
    group.bench_function("get/hot", |bencher| {
        bencher.iter(|| {
            let gets: Vec<_> = (0..WINDOW as u64)
                .map(|index| store.get(Table::Accounts, &key((next + index * 7_919) % KEYS)))
                .collect();
            next += 1;
            gets.into_iter().for_each(|get| assert!(block_on(get).expect("read").is_some()));
        });
    });
    group.finish();
    store.close().expect("closed");
}

criterion_group!(benches, bench);
criterion_main!(benches);
