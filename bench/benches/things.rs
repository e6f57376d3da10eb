//! A page of a hundred of all the things that are listed is found in milliseconds, whatever is asked of them.
//!
//! Among 100 000 things, or as many as `PLAZA_THINGS` says. How long the slowest take: `cargo run --example things`.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use plaza_bench::things::{self, Kind, Numbers};
use plaza_core::thing::NodeName;
use plaza_registry::things::index::{Budget, Limits};

fn bench(criterion: &mut Criterion) {
    let count = std::env::var("PLAZA_THINGS").ok().and_then(|count| count.parse().ok()).unwrap_or(100_000);
    let mut index = things::index(count);
    let size = if count >= 1_000_000 { format!("{}M", count / 1_000_000) } else { format!("{}k", count / 1_000) };
    let mut group = criterion.benchmark_group("things");
    group.throughput(Throughput::Elements(1));
    for (name, kind) in Kind::ALL {
        let mut numbers = Numbers::new(1);
        group.bench_function(format!("search/{name}/{size}"), |bencher| {
            bencher.iter_batched(
                || kind.search(count, &mut numbers),
                |search| {
                    // A search that takes too much is one, too.
                    black_box(index.search(&search, &mut Budget::new(Limits::default().search_work_max, None)).ok())
                },
                BatchSize::SmallInput,
            );
        });
    }
    let mut numbers = Numbers::new(2);
    group.bench_function(format!("put/again/{size}"), |bencher| {
        bencher.iter_batched(
            || (things::thing(numbers.below(count)), things::thing(numbers.below(count))),
            |((jid, _), (_, tags))| index.put(jid.as_jid(), &NodeName::default(), &tags),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
