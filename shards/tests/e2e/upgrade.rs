//! The broker started with sockets that are handed to it, and stopped at a rate.

use std::time::{Duration, Instant};

use crate::broker::{Broker, PATIENCE};
use crate::managed::{SM, managed, message, resume};
use crate::wire::Wire;

#[test]
fn a_socket_that_is_handed_over_is_listened_on_by_all_shards_and_another_is_refused() {
    let mut broker = Broker::start_handed("");
    for (one, other) in broker.pairs() {
        let mut to = Wire::available(&broker, other, "b");
        let mut from = Wire::available(&broker, one, "a");
        from.send(message(&format!("{other}@localhost/b"), "hello"));
        to.until("<body>hello</body></message>");
    }
    assert_eq!(broker.log().matches("no listener is configured for").count(), 1, "{}", broker.log());
    broker.stop();
}

#[test]
fn streams_are_told_of_a_stop_one_after_the_other_and_served_until_then() {
    let mut broker = Broker::start("stop_sessions_per_second = 2");
    let mut wires: Vec<Wire> = (0..5).map(|at| Wire::login(&broker, "anna", &format!("r{at}"))).collect();
    // The latest is told first, if they share a shard.
    let (mut theirs, name) = managed(&broker, "bert", "b");
    let begun = Instant::now();
    broker.terminate();
    let said = theirs.drain();
    assert!(said.contains("<system-shutdown "), "118 {said}");
    // It is not there any more, and what comes for it waits.
    let mut latest = wires.remove(0);
    latest.send(message("bert@localhost/b", "meanwhile"));
    latest.ping();
    for mut wire in wires {
        let said = wire.drain();
        assert!(said.contains("<system-shutdown "), "118 {said}");
    }
    let said = latest.drain();
    assert!(said.contains("<system-shutdown "), "118 {said}");
    assert!(begun.elapsed() > Duration::from_secs(2), "118 all told within {:?}", begun.elapsed());
    let status = broker.ended(PATIENCE);
    broker.check_end(status);
    broker.try_start_again().unwrap();
    let (mut theirs, said) = resume(&broker, "bert", &name, 1, "</message>");
    assert!(said.contains("<resumed ") && said.contains("<body>meanwhile</body>"), "118 {said}");
    theirs.send(format!("<a xmlns='{SM}' h='2'/></stream:stream>"));
    theirs.drain();
    broker.stop();
}
