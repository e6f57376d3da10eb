//! The mesh's wake-up protocol in every interleaving that loom can find.
//!
//! A lost wake-up shows as a deadlock. Each model is the smallest that could fail.

use loom::sync::{Condvar, Mutex};
use loom::thread;
use plaza_loom::mesh::{Bell, Inbox, Mesh, Port, ShardId, WakeHandle};
use plaza_loom::sync::Arc;

const HERE: ShardId = ShardId(0);
const THERE: ShardId = ShardId(1);

/// An eventfd: remembers that it was written, forgets when read.
#[derive(Clone)]
struct Event(Arc<(Mutex<bool>, Condvar)>);

impl Event {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(false), Condvar::new())))
    }

    fn writer(&self) -> WakeHandle {
        let event = self.clone();
        Box::new(move || {
            *event.0.0.lock().expect("no panic holds it") = true;
            event.0.1.notify_one();
        })
    }

    fn read(&self) {
        let mut written = self.0.0.lock().expect("no panic holds it");
        while !*written {
            written = self.0.1.wait(written).expect("no panic holds it");
        }
        *written = false;
    }
}

/// Sleeps until `port` has something, as the shard loop does, and gives it all.
fn receive(port: &mut Port<u32>, event: &Event) -> Vec<(ShardId, u32)> {
    let mut received = Vec::new();
    while port.drain(|from, batch| received.push((from, batch))) == 0 {
        sleep_unless(port.bell(), event, || !port.is_empty());
    }
    received
}

/// For the larger models: every interleaving with at most three preemptions; without a bound they take many
/// minutes.
fn bounded(model: impl Fn() + Send + Sync + 'static) {
    let mut loom = loom::model::Builder::new();
    loom.preemption_bound = Some(3);
    loom.check(model);
}

fn sleep_unless(bell: &Bell, event: &Event, work: impl FnOnce() -> bool) {
    bell.prepare_sleep();
    if !work() {
        event.read();
    }
    bell.awake();
}

#[test]
fn a_sleeper_always_sees_the_batch() {
    loom::model(|| {
        let mesh = Mesh::new(2, 1);
        let event = Event::new();
        let sender = mesh.port(HERE, Box::new(|| ()));
        let mut receiver = mesh.port(THERE, event.writer());
        let sending = thread::spawn(move || sender.try_send(THERE, 1).unwrap());
        assert_eq!(receive(&mut receiver, &event), [(HERE, 1)]);
        sending.join().unwrap();
    });
}

#[test]
fn a_sleeper_sees_the_batch_that_follows_one_it_woke_for() {
    bounded(|| {
        let mesh = Mesh::new(2, 2);
        let event = Event::new();
        let sender = mesh.port(HERE, Box::new(|| ()));
        let mut receiver = mesh.port(THERE, event.writer());
        let sending = thread::spawn(move || {
            sender.try_send(THERE, 1).unwrap();
            sender.try_send(THERE, 2).unwrap();
        });
        let mut received = Vec::new();
        while received.len() < 2 {
            received.extend(receive(&mut receiver, &event));
        }
        assert_eq!(received, [(HERE, 1), (HERE, 2)]);
        sending.join().unwrap();
    });
}

#[test]
fn two_sleepers_call_and_reply() {
    loom::model(|| {
        let mesh = Mesh::new(2, 1);
        let (here_event, there_event) = (Event::new(), Event::new());
        let mut here = mesh.port(HERE, here_event.writer());
        let mut there = mesh.port(THERE, there_event.writer());
        let answering = thread::spawn(move || {
            assert_eq!(receive(&mut there, &there_event), [(HERE, 1)]);
            there.try_send(HERE, 2).unwrap();
        });
        here.try_send(THERE, 1).unwrap();
        assert_eq!(receive(&mut here, &here_event), [(THERE, 2)]);
        answering.join().unwrap();
    });
}

#[test]
fn when_the_queue_is_full_the_sender_keeps_the_batch() {
    loom::model(|| {
        let mesh = Mesh::new(2, 1);
        let event = Event::new();
        let sender = mesh.port(HERE, Box::new(|| ()));
        let mut receiver = mesh.port(THERE, event.writer());
        let sending = thread::spawn(move || {
            sender.try_send(THERE, 1).unwrap();
            sender.try_send(THERE, 2).err()
        });
        let mut seen = receive(&mut receiver, &event);
        let kept = sending.join().unwrap();
        receiver.drain(|from, batch| seen.push((from, batch)));
        match kept {
            None => assert_eq!(seen, [(HERE, 1), (HERE, 2)]),
            Some(batch) => assert_eq!((batch, seen), (2, vec![(HERE, 1)])),
        }
    });
}

#[test]
fn two_producers_ring_one_bell_and_neither_is_missed() {
    bounded(|| {
        let event = Event::new();
        let bell = Arc::new(Bell::new(event.writer()));
        let inboxes = [0, 1].map(|_| Arc::new(Inbox::new(Arc::clone(&bell))));
        let pushing = [0, 1].map(|producer: usize| {
            let inbox = Arc::clone(&inboxes[producer]);
            thread::spawn(move || inbox.push(producer))
        });
        let mut received = 0;
        while received < 2 {
            let before = received;
            for (producer, inbox) in inboxes.iter().enumerate() {
                if let Some(item) = inbox.pop() {
                    assert_eq!(item, producer);
                    received += 1;
                }
            }
            if received == before {
                sleep_unless(&bell, &event, || inboxes.iter().any(|inbox| !inbox.is_empty()));
            }
        }
        for producer in pushing {
            producer.join().unwrap();
        }
    });
}
