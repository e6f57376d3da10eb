//! Addresses: what it costs to take one from the wire, and to compare two.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use plaza_core::jid::{Jid, JidRef, ParsedJid};

/// 40 bytes of the common kind.
const FAST: &str = "sensor.0001@things.example.org/a8f14e45f";
/// In normal form, but for PRECIS and IDNA to say so.
const UNICODE: &str = "mätare.0001@sakér.example.org/Källare №1";
/// Common but for its case.
const UPPER: &str = "Sensor.0001@Things.Example.ORG/a8f14e45f";

fn parse(c: &mut Criterion) {
    assert!(FAST.len() == 40 && JidRef::parse_fast(FAST).is_some());
    let mut group = c.benchmark_group("jid/parse");
    group.throughput(Throughput::Bytes(FAST.len() as u64));
    group.bench_function("fast", |b| b.iter(|| JidRef::parse_fast(black_box(FAST))));
    group.bench_function("normal", |b| b.iter(|| JidRef::from_normal(black_box(FAST))));
    for (name, text) in [("any", FAST), ("upper", UPPER), ("unicode", UNICODE)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| b.iter(|| ParsedJid::parse(black_box(text))));
    }
    group.finish();
}

fn compare(c: &mut Criterion) {
    let mut group = c.benchmark_group("jid");
    group.throughput(Throughput::Elements(1));
    let (jid, same) = (Jid::parse(FAST).expect("it is valid"), String::from(FAST));
    let same = JidRef::from_normal(&same);
    group.bench_function("compare", |b| b.iter(|| *black_box(&jid) == black_box(same)));
    group.finish();
}

criterion_group!(benches, parse, compare);
criterion_main!(benches);
