//! A stanza is classified and written for its recipient at little more than the cost of copying it.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use plaza_core::limits::ScanLimits;
use plaza_core::ns;
use plaza_core::stanza::{Stamp, Stanza, write_stanza};
use plaza_core::xml::{Scanned, Scanner, StreamNamespaces};

const MESSAGE: &str = include_str!("../data/message-231B.xml");

fn stanza(c: &mut Criterion) {
    let (mut scanner, header) = (Scanner::new(), StreamNamespaces::default());
    let scanned = scanner.next(&ScanLimits::AFTER_AUTH, &header, MESSAGE.as_bytes());
    let Ok(Scanned::Element { element, .. }) = scanned else { panic!("not an element") };
    let stanza = Stanza::classify(element, ns::CLIENT).expect("a message");
    let throughput = Throughput::Bytes(MESSAGE.len() as u64);

    let mut group = c.benchmark_group("stanza/classify");
    group.throughput(throughput.clone());
    group.bench_function("231B", |b| {
        b.iter(|| Stanza::classify(black_box(element), ns::CLIENT).map(|stanza| stanza.class));
    });
    group.finish();

    let mut group = c.benchmark_group("stanza/rewrite");
    group.throughput(throughput);
    let mut out = Vec::new();
    let stamp = Stamp { from: "owner@things.example/home", to: None };
    group.bench_function("231B", |b| {
        b.iter(|| {
            out.clear();
            write_stanza(&mut out, black_box(&stanza), black_box(stamp), &header);
            out.len()
        });
    });
    group.finish();
}

criterion_group!(benches, stanza);
criterion_main!(benches);
