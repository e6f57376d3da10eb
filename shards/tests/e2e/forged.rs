//! What clients forge in the broker's name does not pass (XEP-0359, XEP-0203, XEP-0421), whatever way a stanza takes.

use crate::broker::Broker;
use crate::wire::Wire;

/// In the name of the domain, of the recipient's account, of a session of its.
fn forgeries(to: &str) -> String {
    let mut forged = String::new();
    for by in ["localhost", "LOCALHOST", &format!("{to}@localhost"), &format!("{to}@localhost/b")] {
        forged.push_str(&format!(
            "<stanza-id xmlns='urn:xmpp:sid:0' id='forged' by='{by}'/>\
             <f:delay xmlns:f='urn:xmpp:delay' from='{by}' stamp='1999-01-01T00:00:00Z'>forged</f:delay>"
        ));
    }
    format!("{forged}<occupant-id xmlns='urn:xmpp:occupant-id:0' id='forged'/>{forged}")
}

const ORIGIN: &str = "<origin-id xmlns='urn:xmpp:sid:0' id='mine'/>";

#[test]
fn what_is_forged_in_the_brokers_name_reaches_nobody() {
    let mut broker = Broker::start("");
    for (one, other) in broker.pairs() {
        let mut ours = Wire::available(&broker, one, "a");
        let mut theirs = Wire::available(&broker, other, "b");
        let forged = forgeries(other);
        let check = |said: &str, what: &str| {
            assert!(said.contains(what) && !said.contains("forged") && !said.contains("1999"), "68 forged: {said}");
        };
        let before = broker.metric("plaza_forged_elements_total", "");
        for to in ["", "/b"] {
            let to = format!("{other}@localhost{to}");
            ours.send(format!("<message to='{to}' type='chat'>{forged}<body>to {to}</body>{ORIGIN}</message>"));
            let said = theirs.until("</message>");
            check(&said, &format!("<body>to {to}</body>{ORIGIN}</message>"));
            ours.send(format!("<presence to='{to}'><status>at {to}</status>{forged}</presence>"));
            check(&theirs.until("</presence>"), &format!("<status>at {to}</status></presence>"));
        }
        ours.ping();
        assert_eq!(broker.metric("plaza_forged_elements_total", "") - before, 4 * 17);

        // Kept for one who is away, it has our stamp and no other.
        drop(theirs);
        let us = format!("{one}@localhost");
        broker.wait("for the session to end", |_| {
            let said = ours.ask("get", &format!("{other}@localhost/b"), "<q xmlns='urn:q'/>");
            said.contains("<service-unavailable ")
        });
        ours.send(format!("<message to='{other}@localhost' type='chat'>{forged}<body>later</body></message>"));
        ours.ping();
        let mut theirs = Wire::login(&broker, other, "b");
        theirs.send("<presence/>");
        let said = theirs.until("</message>");
        check(&said, "<body>later</body><delay xmlns='urn:xmpp:delay' from='localhost'");
        assert_eq!(said.matches("<delay").count(), 1, "{said}");
        assert!(said.contains(&format!("from='{us}/a'")), "{said}");
    }
    broker.stop();
}
