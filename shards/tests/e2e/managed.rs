//! Stream management (XEP-0198) over the running broker: what is acknowledged, what is sent again, what goes elsewhere.

use crate::broker::Broker;
use crate::wire::{HEADER, Wire};

pub(crate) const SM: &str = "urn:xmpp:sm:3";

/// Logs in, binds, manages the stream and becomes available; the name of the session.
pub(crate) fn managed(broker: &Broker, user: &str, resource: &str) -> (Wire, String) {
    let mut wire = Wire::login(broker, user, resource);
    wire.send(format!("<enable xmlns='{SM}' resume='true'/>"));
    let enabled = wire.until("/>");
    assert!(enabled.contains("resume='true'") && enabled.contains("max='"), "{enabled}");
    let name = enabled.split("id='").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    wire.send("<presence/>");
    wire.until("<r xmlns='urn:xmpp:sm:3'/>");
    (wire, name)
}

/// Authenticates and asks to resume; what is answered up to `until`.
pub(crate) fn resume(broker: &Broker, user: &str, name: &str, h: u32, until: &str) -> (Wire, String) {
    let mut wire = Wire::authenticated(broker, user);
    wire.send(HEADER);
    let features = wire.until("</stream:features>");
    assert!(features.contains("<sm xmlns='urn:xmpp:sm:3'/>"), "{features}");
    wire.send(format!("<resume xmlns='{SM}' h='{h}' previd='{name}'/>"));
    let said = wire.until(until);
    (wire, said)
}

pub(crate) fn message(to: &str, text: &str) -> String {
    format!("<message to='{to}' type='chat' id='{text}'><body>{text}</body></message>")
}

#[test]
fn what_is_not_acknowledged_is_sent_again_to_who_resumes() {
    let mut broker = Broker::start("");
    for (one, other) in broker.pairs() {
        let mut ours = Wire::available(&broker, one, "a");
        let (mut theirs, name) = managed(&broker, other, "b");
        ours.send(message(&format!("{other}@localhost/b"), "first"));
        theirs.until("<body>first</body></message>");
        // Its own presence, and the first message; then the line is cut with two more under way.
        theirs.send(format!("<a xmlns='{SM}' h='2'/>"));
        theirs.ping();
        drop(theirs);
        broker.wait("to be missed", |broker| broker.metric("plaza_hibernated_sessions", "") == 1);
        for text in ["second", "third"] {
            ours.send(message(&format!("{other}@localhost/b"), text));
        }
        ours.ping();
        // Nobody sees it leave meanwhile, and nobody else may have it.
        let (_, said) = resume(&broker, one, &name, 2, "/></failed>");
        assert!(said.contains("<item-not-found"), "{said}");
        // The ping's answer was the third it was sent.
        let (mut theirs, said) = resume(&broker, other, &name, 3, "<body>third</body></message>");
        assert!(said.contains("<resumed xmlns='urn:xmpp:sm:3' h='2'") && !said.contains("first"), "{said}");
        assert!(said.find("second").unwrap() < said.find("third").unwrap(), "{said}");
        ours.send(message(&format!("{other}@localhost/b"), "fourth"));
        theirs.until("<body>fourth</body></message>");
        theirs.send("</stream:stream>");
        theirs.drain();
        assert_eq!(broker.metric("plaza_hibernated_sessions", ""), 0);
        // It closed without acknowledging: what it may not have goes to its account.
        let mut later = Wire::login(&broker, other, "later");
        later.send("<presence/>");
        for text in ["second", "third", "fourth"] {
            later.until(&format!("<body>{text}</body>"));
        }
        later.ping();
    }
    broker.stop();
}

#[test]
fn of_two_who_resume_one_has_the_session() {
    let broker = Broker::start("");
    let (mut first, name) = managed(&broker, "anna", "a");
    let (mut second, said) = resume(&broker, "anna", &name, 1, "/>");
    assert!(said.contains("<resumed"), "{said}");
    assert!(first.drain().contains("<conflict"));
    let mut other = Wire::available(&broker, "bert", "b");
    other.send(message("anna@localhost/a", "hello"));
    second.until("<body>hello</body></message>");
    let (mut third, said) = resume(&broker, "anna", &name, 2, "/>");
    assert!(said.contains("<resumed"), "{said}");
    assert!(second.drain().contains("<conflict"));
    third.ping();
    for wire in [third, other] {
        drop(wire);
    }
    broker.stop_with_hibernated();
}

#[test]
fn bad_stream_management_is_refused() {
    let broker = Broker::start("");
    // Case 71: before bind, and twice.
    let mut wire = Wire::authenticated(&broker, "anna");
    wire.send(HEADER);
    wire.until("</stream:features>");
    wire.send(format!("<enable xmlns='{SM}'/>"));
    assert!(wire.until("</failed>").contains("<unexpected-request"));
    drop(wire);
    let (mut wire, _) = managed(&broker, "anna", "a");
    wire.send(format!("<enable xmlns='{SM}'/>"));
    assert!(wire.until("</failed>").contains("<unexpected-request"));
    wire.send(format!("<resume xmlns='{SM}' h='0' previd='x'/>"));
    assert!(wire.until("</failed>").contains("<unexpected-request"));
    // Case 72.
    wire.send(format!("<a xmlns='{SM}' h='1000'/>"));
    let said = wire.drain();
    assert!(said.contains("<undefined-condition") && said.contains("<handled-count-too-high"), "{said}");
    // Case 73.
    for h in ["-1", "many", "4294967296", ""] {
        let (mut wire, _) = managed(&broker, "anna", "a");
        wire.send(format!("<a xmlns='{SM}' h='{h}'/>"));
        assert!(wire.drain().contains("<bad-format"), "{h}");
    }
    // Case 74: unknown, then an ordinary bind.
    let (mut wire, said) = resume(&broker, "anna", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 0, "</failed>");
    assert!(said.contains("<item-not-found"), "{said}");
    wire.send("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>");
    wire.until("</iq>");
    drop(wire);
    broker.stop();
}

#[test]
fn an_acknowledgement_comes_when_what_it_covers_is_stored() {
    let mut broker = Broker::start("offline_messages_max = 1000");
    for (one, other) in broker.pairs() {
        let (mut ours, _) = managed(&broker, one, "a");
        for number in 0..50 {
            ours.send(message(&format!("{other}@localhost"), &format!("m{number}")));
        }
        ours.send(format!("<r xmlns='{SM}'/>"));
        // Presence and fifty messages.
        ours.until("<a xmlns='urn:xmpp:sm:3' h='51'/>");
        broker.restart();
        let mut theirs = Wire::login(&broker, other, "b");
        theirs.send("<presence/>");
        for number in 0..50 {
            theirs.until(&format!("<body>m{number}</body>"));
        }
        theirs.ping();
    }
    broker.stop();
}

#[test]
fn whoever_asks_behind_each_message_is_answered_for_the_last() {
    let mut broker = Broker::start("offline_messages_max = 1000");
    for (one, other) in broker.pairs() {
        let (mut ours, _) = managed(&broker, one, "a");
        let asked: String = (0..100)
            .map(|number| format!("{}<r xmlns='{SM}'/>", message(&format!("{other}@localhost"), &format!("m{number}"))))
            .collect();
        ours.send(asked);
        ours.until("<a xmlns='urn:xmpp:sm:3' h='101'/>");
    }
    broker.stop();
}

#[test]
fn a_session_outlives_a_restart_of_the_broker() {
    let mut broker = Broker::start("");
    for (one, other) in broker.pairs() {
        let mut ours = Wire::available(&broker, one, "a");
        let (mut connected, stays) = managed(&broker, other, "b");
        let (cut, waits) = managed(&broker, other, "c");
        drop(cut);
        broker.wait("to be missed", |broker| broker.metric("plaza_hibernated_sessions", "") == 1);
        for resource in ["b", "c"] {
            ours.send(message(&format!("{other}@localhost/{resource}"), &format!("for {resource}")));
        }
        ours.ping();
        connected.until("<body>for b</body></message>");
        broker.restart_in_order();
        assert!(connected.drain().contains("<system-shutdown"));
        // The answer to its ping was not counted by either: each had its presence and the other's.
        for (name, text) in [(stays, "for b"), (waits, "for c")] {
            let (mut back, said) = resume(&broker, other, &name, 2, &format!("<body>{text}</body></message>"));
            assert!(said.contains("<resumed xmlns='urn:xmpp:sm:3' h='1'"), "{said}");
            back.send(format!("<a xmlns='{SM}' h='3'/></stream:stream>"));
            back.drain();
        }
        assert_eq!(broker.metric("plaza_hibernated_sessions", ""), 0);
    }
    broker.stop();
}

#[test]
fn a_client_that_never_acknowledges_has_bounds() {
    let broker = Broker::start("unacknowledged_stanzas_max = 20\nresume_max = '1s'\noffline_messages_max = 1000");
    let (mut deaf, _) = managed(&broker, "anna", "deaf");
    let mut ours = Wire::available(&broker, "bert", "a");
    let sender = std::thread::spawn(move || {
        for number in 0..200 {
            ours.send(message("anna@localhost/deaf", &format!("m{number}")));
        }
        ours
    });
    // It reads, and says nothing: who writes to it waits, or it is told to go (case 77).
    std::thread::sleep(std::time::Duration::from_millis(500));
    deaf.finish();
    let said = deaf.drain();
    assert!(said.matches("<message").count() <= 4 * 20 + 1, "{}", said.matches("<message").count());
    let mut ours = sender.join().unwrap();
    ours.ping();
    let mut later = Wire::login(&broker, "anna", "later");
    later.send("<presence/>");
    for number in 0..200 {
        later.until(&format!("<body>m{number}</body>"));
    }
    later.ping();
    drop((later, ours));
    broker.stop();
}
