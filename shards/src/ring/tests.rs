//! The ring at its bounds: queues that are full, buffers that are taken.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::net::UnixStream;

use super::*;

/// Far more than any queue below has room for.
const MANY: u32 = 100;
/// Longest wait for what must come at once.
const SOON: Duration = Duration::from_secs(5);

fn ring(entries: u32, recv_buffers: u16) -> Ring {
    Ring::new(RingOptions { slots: 256, entries, recv_buffers, recv_buffer_bytes: 64 }).unwrap()
}

const fn key(index: u32) -> Key {
    Key { index, generation: 1 }
}

/// Sockets in the ring, with their other ends.
fn sockets(ring: &mut Ring, count: u32) -> Vec<(Slot, UnixStream)> {
    let mut theirs = BTreeMap::new();
    for _ in 0..count {
        let (ours, other) = UnixStream::pair().unwrap();
        theirs.insert(ring.import(ours.into(), 1), other);
    }
    let done = completed(ring, count as usize);
    done.iter().map(|done| (ring.imported(done).unwrap(), theirs.remove(&done.key.index).unwrap())).collect()
}

/// So many completions; more would be found by the next call.
fn completed(ring: &mut Ring, count: usize) -> Vec<Completion> {
    let mut done = Vec::new();
    while done.len() < count {
        ring.enter(true, Some(SOON)).unwrap();
        let before = done.len();
        done.extend(std::iter::from_fn(|| ring.next_completion()));
        assert!(done.len() > before, "{} of {count} completions", done.len());
    }
    assert_eq!(done.len(), count);
    done
}

/// Nothing more completes.
fn quiet(ring: &mut Ring) {
    ring.enter(true, Some(Duration::from_millis(50))).unwrap();
    assert!(ring.next_completion().is_none());
}

#[test]
fn what_a_full_submission_queue_has_no_room_for_goes_in_behind_it() {
    let mut ring = ring(4, 2);
    let mut sockets = sockets(&mut ring, MANY);
    for (index, (slot, _)) in (0..).zip(&sockets) {
        ring.poll(*slot, key(index));
    }
    assert!(!ring.backlog.is_empty());
    quiet(&mut ring);
    assert!(ring.backlog.is_empty());
    for index in [0, 50, 99] {
        sockets[index].1.write_all(b"x").unwrap();
        let done = completed(&mut ring, 1);
        assert_eq!((done[0].op, done[0].key), (Op::Poll, key(index as u32)));
    }
    quiet(&mut ring);
}

#[test]
fn what_strangers_want_goes_in_behind_what_sessions_want_and_a_few_at_a_time() {
    let mut ring = ring(64, 2);
    let sockets = sockets(&mut ring, 12);
    let mut sendings: Vec<Sending> = sockets.iter().map(|_| Sending::default()).collect();
    for (index, ((slot, _), sending)) in (0..).zip(sockets.iter().zip(&mut sendings)) {
        let rank = if index < 10 { Rank::Stranger } else { Rank::Session };
        ring.send(*slot, key(index), sending, b"x".to_vec(), rank);
    }
    ring.close(sockets[0].0, key(0), [Op::Poll]);
    let mut turn = || {
        ring.enter(true, Some(Duration::from_millis(50))).unwrap();
        std::iter::from_fn(|| ring.next_completion()).map(|done| (done.op, done.key.index)).collect::<Vec<_>>()
    };
    let sends = |keys: &[u32]| keys.iter().map(|key| (Op::Send, *key)).collect::<Vec<_>>();
    assert_eq!(turn(), sends(&[10, 11, 0, 1, 2, 3]));
    assert_eq!(turn(), sends(&[4, 5, 6, 7]));
    assert_eq!(turn(), [(Op::Send, 8), (Op::Send, 9), (Op::Cancel, 0), (Op::Close, 0)]);
    assert_eq!(turn(), []);
}

#[test]
fn what_a_full_completion_queue_has_no_room_for_comes_with_the_next_look() {
    let mut ring = ring(4, 2);
    let mut sockets = sockets(&mut ring, MANY);
    for (index, (slot, _)) in (0..).zip(&sockets) {
        ring.poll(*slot, key(index));
    }
    quiet(&mut ring);
    for (_, other) in &mut sockets {
        other.write_all(b"x").unwrap();
    }
    ring.enter(true, Some(SOON)).unwrap();
    let first: Vec<Completion> = std::iter::from_fn(|| ring.next_completion()).collect();
    assert!(first.len() <= 16, "the queue has room for four times the entries, {} came", first.len());
    let rest = completed(&mut ring, MANY as usize - first.len());
    let mut indices: Vec<u32> = first.iter().chain(&rest).map(|done| done.key.index).collect();
    indices.sort_unstable();
    assert!(indices.into_iter().eq(0..MANY), "each once");
    quiet(&mut ring);
}

#[test]
fn a_receive_that_finds_no_buffer_says_so_and_gets_all_bytes_when_it_is_begun_again() {
    let mut ring = ring(8, 2);
    let mut sockets = sockets(&mut ring, 3);
    for (index, (slot, other)) in (0..).zip(&mut sockets) {
        other.write_all(&[b'a' + index as u8; 10]).unwrap();
        ring.recv(*slot, key(index), false, Rank::Session);
    }
    let mut starved = Vec::new();
    for mut done in completed(&mut ring, 3) {
        match done.received.take() {
            Some(mut received) => {
                assert_eq!(received.bytes(), [b'a' + done.key.index as u8; 10]);
                ring.recycle(received);
            }
            None => {
                assert_eq!(done.result, -libc::ENOBUFS);
                starved.push(done.key);
            }
        }
    }
    assert_eq!(starved.len(), 1);
    ring.recv(sockets[starved[0].index as usize].0, starved[0], false, Rank::Session);
    let mut done = completed(&mut ring, 1);
    let mut received = done[0].received.take().unwrap();
    assert_eq!(received.bytes(), [b'a' + starved[0].index as u8; 10]);
    ring.recycle(received);
}

#[test]
fn a_receive_that_is_armed_ends_without_a_buffer_and_loses_nothing_of_what_came() {
    let mut ring = ring(8, 2);
    let mut sockets = sockets(&mut ring, 1);
    let sent: Vec<u8> = (0..250).collect();
    let mut got = Vec::new();
    ring.recv_multi(sockets[0].0, key(0));
    sockets[0].1.write_all(&sent).unwrap();
    let mut starved = 0;
    while got.len() < sent.len() {
        ring.enter(true, Some(SOON)).unwrap();
        let done: Vec<Completion> = std::iter::from_fn(|| ring.next_completion()).collect();
        assert!(!done.is_empty(), "{} bytes", got.len());
        for mut done in done {
            if let Some(mut received) = done.received.take() {
                got.extend_from_slice(received.bytes());
                ring.recycle(received);
            }
            if done.result == -libc::ENOBUFS {
                starved += 1;
            }
            if !done.more {
                ring.recv_multi(sockets[0].0, key(0));
            }
        }
    }
    assert_eq!(got, sent);
    assert!(starved > 0);
}
