//! The table of sources in every interleaving that loom can find.

use std::net::IpAddr;

use loom::thread;
use plaza_loom::admission::{AdmissionLimits, Sources};
use plaza_loom::sync::Arc;

/// Two shards take a connection of one source each while a third does; how many were let in. Those leave again.
fn race(negotiating: u32, burst: u32, expected: usize) {
    loom::model(move || {
        let limits = AdmissionLimits {
            negotiating_per_source_max: negotiating,
            connections_per_source_burst: burst,
            ..AdmissionLimits::default()
        };
        let sources = Arc::new(Sources::new(limits, 1));
        let enter = |sources: &Sources| sources.enter_at(IpAddr::from([192, 0, 2, 1]), 1_000).ok().flatten();
        let others: Vec<_> = (0..2)
            .map(|_| {
                let sources = Arc::clone(&sources);
                thread::spawn(move || enter(&sources))
            })
            .collect();
        let mut seats: Vec<_> = enter(&sources).into_iter().collect();
        seats.extend(others.into_iter().filter_map(|other| other.join().expect("no panic")));
        assert_eq!(seats.len(), expected);
        for seat in seats {
            sources.leave(seat);
        }
        // Nothing is left behind by those who were refused: as many get in again as the bucket lets.
        let again = enter(&sources).is_some();
        assert_eq!(again, burst as usize > expected);
    });
}

#[test]
fn one_negotiates_where_one_may() {
    race(1, 9, 1);
}

#[test]
fn one_comes_where_the_bucket_holds_one() {
    race(9, 1, 1);
}

#[test]
fn two_come_where_the_bucket_holds_two() {
    race(9, 2, 2);
}
