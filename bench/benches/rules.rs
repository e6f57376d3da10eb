//! The rules: what it costs to decide where a stanza belongs.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use plaza_core::jid::JidRef;
use plaza_core::rules::{self, DomainKind};
use plaza_core::stanza::{Class, IqType, MessageType, PresenceType};

fn destination(c: &mut Criterion) {
    let from = JidRef::from_normal("controller@things.example.org/1");
    let to = [
        None,
        Some("controller@things.example.org"),
        Some("sensor.0001@things.example.org"),
        Some("sensor.0001@things.example.org/a8f14e45f"),
        Some("things.example.org"),
        Some("owner@example.net/phone"),
    ]
    .map(|to| to.map(JidRef::from_normal));
    let domain = |name: &str| if name == "things.example.org" { DomainKind::Local } else { DomainKind::Remote };
    let mut group = c.benchmark_group("rules");
    group.throughput(Throughput::Elements(to.len() as u64));
    group.bench_function("destination", |b| {
        b.iter(|| {
            for to in to {
                black_box(rules::destination(black_box(from), black_box(to), domain));
            }
        });
    });
    group.finish();
}

fn unmatched(c: &mut Criterion) {
    let cases = [
        (Class::Message(MessageType::Chat), true, true, Some(5)),
        (Class::Message(MessageType::Normal), true, false, None),
        (Class::Message(MessageType::Headline), true, true, Some(-1)),
        (Class::Presence(PresenceType::Available), true, true, Some(0)),
        (Class::Presence(PresenceType::Probe), false, true, None),
        (Class::Iq(IqType::Get), true, false, Some(0)),
    ];
    let mut group = c.benchmark_group("rules");
    group.throughput(Throughput::Elements(cases.len() as u64));
    group.bench_function("unmatched", |b| {
        b.iter(|| {
            for case in &cases {
                let (class, account_exists, to_is_bare, best) = *black_box(case);
                black_box(rules::unmatched(class, account_exists, to_is_bare, best));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, destination, unmatched);
criterion_main!(benches);
