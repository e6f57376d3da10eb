//! The broker started with sockets that are handed to it.

use crate::broker::Broker;
use crate::managed::message;
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
