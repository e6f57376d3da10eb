//! The scanner makes an element of a stream's bytes, all checks included, faster than the network brings them.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use plaza_core::limits::ScanLimits;
use plaza_core::xml::{Scanned, Scanner, StreamNamespaces};

const MESSAGE: &str = include_str!("../data/message-231B.xml");
const IQ: &str = include_str!("../data/iq-4KiB.xml");

fn scan(c: &mut Criterion) {
    let mut group = c.benchmark_group("xml/scan");
    for (size, input) in [("231B", MESSAGE), ("4KiB", IQ)] {
        let (mut scanner, ns) = (Scanner::new(), StreamNamespaces::default());
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(size, |b| {
            b.iter(|| {
                let scanned = scanner.next(&ScanLimits::AFTER_AUTH, &ns, black_box(input.as_bytes()));
                let Ok(Scanned::Element { consumed, .. }) = scanned else { panic!("not an element") };
                consumed
            });
        });
    }
    group.finish();
}

criterion_group!(benches, scan);
criterion_main!(benches);
