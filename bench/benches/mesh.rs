//! The mesh's claim: a batch costs about what a single stanza costs, so stanzas are cheap in batches; and a shard's
//! timers cost tens of nanoseconds however many there are.

use std::hint::{black_box, spin_loop};
use std::io::{Read, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use plaza_shards::mesh::{Mesh, Port, ShardId, WakeHandle};
use plaza_shards::wheel::Wheel;

const HERE: ShardId = ShardId(0);
const THERE: ShardId = ShardId(1);

/// Spins, but lets the other thread run if it has no cpu of its own.
#[derive(Default)]
struct Idle {
    turns: u32,
}

impl Idle {
    fn turn(&mut self, idle: bool) {
        self.turns = if idle { self.turns + 1 } else { 0 };
        if self.turns.is_multiple_of(1_000) && idle {
            thread::yield_now();
        } else if idle {
            spin_loop();
        }
    }
}

/// Two shards that never sleep: how long until `batches` batches of `size` words have crossed.
fn hand_over(size: usize, batches: u64) -> Duration {
    let mesh = Mesh::<Vec<u64>>::new(2, 256);
    let sender = mesh.port(HERE, Box::new(|| ()));
    let receiver = mesh.port(THERE, Box::new(|| ()));
    thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let (mut left, mut idle) = (batches, Idle::default());
            while left > 0 {
                let taken = receiver.drain(|_, batch| {
                    black_box(batch);
                });
                left -= taken as u64;
                idle.turn(taken == 0);
            }
        });
        let mut idle = Idle::default();
        let start = Instant::now();
        for n in 0..batches {
            let mut batch = Vec::with_capacity(size);
            batch.resize(size, n);
            while let Err(full) = sender.try_send(THERE, batch) {
                batch = full;
                idle.turn(true);
            }
            idle.turn(false);
        }
        receiver.join().expect("the receiver only counts");
        start.elapsed()
    })
}

fn handoff(c: &mut Criterion) {
    let mut group = c.benchmark_group("mesh/handoff");
    for size in [1, 64] {
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter_custom(|batches| hand_over(size as usize, batches));
        });
    }
    group.finish();
}

/// The same on one thread, taken every 256 batches: our own instructions, without two caches talking.
fn local(c: &mut Criterion) {
    let mut group = c.benchmark_group("mesh/local");
    group.throughput(Throughput::Elements(1));
    let mesh = Mesh::<u64>::new(32, 256);
    let sender = mesh.port(HERE, Box::new(|| ()));
    let receiver = mesh.port(THERE, Box::new(|| ()));
    group.bench_function("handoff", |b| {
        b.iter(|| {
            if sender.try_send(THERE, black_box(7)).is_err() {
                receiver.drain(|_, batch| {
                    black_box(batch);
                });
            }
        });
    });
    receiver.drain(|_, _| ());
    group.bench_function("drain-nothing-from-32", |b| b.iter(|| receiver.drain(|_, _| ())));
    group.finish();
}

/// A shard that sleeps on a pipe, which here stands in for its eventfd.
struct Sleeper {
    port: Port<u64>,
    wait: Box<dyn FnMut() + Send>,
}

impl Sleeper {
    fn new(mesh: &Arc<Mesh<u64>>, shard: ShardId) -> Self {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let wake: WakeHandle = Box::new(move || (&writer).write_all(&[1]).expect("room for a byte"));
        let wait = Box::new(move || reader.read_exact(&mut [0]).expect("a byte per wake"));
        Self { port: mesh.port(shard, wake), wait }
    }

    fn receive(&mut self) -> u64 {
        let mut received = None;
        while self.port.drain(|_, batch| received = Some(batch)) == 0 {
            self.port.bell().prepare_sleep();
            if self.port.is_empty() {
                (self.wait)();
            }
            self.port.bell().awake();
        }
        received.expect("drain gave one")
    }
}

fn wake(c: &mut Criterion) {
    c.bench_function("mesh/wake", |b| {
        b.iter_custom(|trips| {
            let mesh = Mesh::new(2, 2);
            let mut here = Sleeper::new(&mesh, HERE);
            let mut there = Sleeper::new(&mesh, THERE);
            thread::scope(|scope| {
                scope.spawn(move || {
                    for _ in 0..trips {
                        let batch = there.receive();
                        there.port.try_send(HERE, batch).expect("one batch is on its way at a time");
                    }
                });
                let start = Instant::now();
                for n in 0..trips {
                    here.port.try_send(THERE, n).expect("one batch is on its way at a time");
                    assert_eq!(here.receive(), n);
                }
                start.elapsed()
            })
        });
    });
}

/// A timer in and a timer out, with 100 000 sessions' timers in the wheel, due in 30 s to 5 min of 100 ms ticks.
fn insert_advance(c: &mut Criterion) {
    const TIMERS: u64 = 100_000;
    const PER_TICK: u64 = 64;
    let mut group = c.benchmark_group("wheel");
    group.throughput(Throughput::Elements(PER_TICK));
    group.bench_function("insert-advance", |b| {
        let mut wheel = Wheel::new();
        let ahead = |token: u64| 300 + token.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 2_700;
        for token in 0..TIMERS {
            wheel.insert(ahead(token), token);
        }
        let (mut now, mut token) = (0, TIMERS);
        b.iter(|| {
            now += 1;
            let mut fired = 0;
            wheel.advance(now, |token| fired += u64::from(black_box(token) != u64::MAX));
            for _ in 0..PER_TICK {
                token += 1;
                wheel.insert(now + ahead(token), token);
            }
            fired
        });
    });
    group.finish();
}

criterion_group!(benches, handoff, local, wake, insert_advance);
criterion_main!(benches);
