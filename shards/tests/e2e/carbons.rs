//! Copies of messages (XEP-0280) and clients that look away (XEP-0352).

use crate::broker::Broker;
use crate::wire::Wire;

pub(crate) fn copied(broker: &Broker, user: &str, resource: &str) -> Wire {
    let mut wire = Wire::login(broker, user, resource);
    wire.send("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>");
    let answer = wire.until("</iq>");
    assert!(answer.contains("type='result'") && answer.contains("id='c'"), "{answer}");
    wire
}

#[test]
fn sessions_that_want_them_get_copies_of_what_others_get_and_say() {
    let mut broker = Broker::start("");
    for (one, other) in broker.pairs() {
        let mut phone = copied(&broker, one, "phone");
        let mut desk = copied(&broker, one, "desk");
        let mut plain = Wire::available(&broker, one, "plain");
        let mut theirs = Wire::available(&broker, other, "b");

        theirs.send(format!("<message to='{one}@localhost/phone' type='chat' id='1'><body>in</body></message>"));
        assert!(phone.until("</message>").starts_with("<message to="));
        let copy = desk.until("</received></message>");
        assert!(copy.contains(&format!("<message from='{one}@localhost' to='{one}@localhost/desk'")), "{copy}");
        assert!(copy.contains("<received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'><message"));
        assert!(copy.contains("xmlns='jabber:client'") && copy.contains("<body>in</body>"), "{copy}");

        desk.send(format!("<message to='{other}@localhost/b' type='chat' id='2'><body>out</body></message>"));
        theirs.until("<body>out</body></message>");
        let copy = phone.until("</sent></message>");
        assert!(copy.contains("<body>out</body>") && copy.contains(&format!("from='{one}@localhost/desk'")), "{copy}");

        // Not these: what its sender wants to keep private, and what is no conversation; and a copy that somebody else
        // claims to send is a message like any other (case 67).
        for payload in [
            "<body>p</body><private xmlns='urn:xmpp:carbons:2'/>",
            "<body>h</body><no-copy xmlns='urn:xmpp:hints'/>",
            "<sent xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'/></sent>",
        ] {
            theirs.send(format!("<message to='{one}@localhost/phone' type='chat'>{payload}</message>"));
            phone.until("</message>");
        }
        theirs.send(format!("<message to='{one}@localhost/phone' type='headline'><body>x</body></message>"));
        phone.until("</message>");
        theirs.ping();
        assert!(!desk.ping().contains("<message") && !plain.ping().contains("<message"));

        phone.send("<iq type='set' id='d'><disable xmlns='urn:xmpp:carbons:2'/></iq>");
        phone.until("</iq>");
        desk.send(format!("<message to='{other}@localhost/b' type='chat'><body>alone</body></message>"));
        theirs.until("<body>alone</body></message>");
        assert!(!phone.ping().contains("alone"));
    }
    broker.stop();
}

#[test]
fn who_looks_away_hears_of_presence_when_it_looks_again() {
    let broker = Broker::start("");
    let mut ours = Wire::available(&broker, "anna", "a");
    let mut other = Wire::available(&broker, "anna", "b");
    ours.until("from='anna@localhost/b'");
    ours.ping();
    ours.send("<inactive xmlns='urn:xmpp:csi:0'/>");
    ours.ping();
    for show in ["away", "dnd", "xa"] {
        other.send(format!("<presence><show>{show}</show></presence>"));
    }
    other.ping();
    assert!(!ours.ping().contains("<presence"), "held");
    // A message does not wait, and what was held goes before it.
    other.send("<message to='anna@localhost/a' type='chat'><body>now</body></message>");
    let said = ours.until("<body>now</body></message>");
    assert!(said.contains("<show>xa</show>") && !said.contains("<show>dnd</show>"), "{said}");
    other.send("<presence><show>chat</show></presence>");
    other.ping();
    ours.send("<active xmlns='urn:xmpp:csi:0'/>");
    ours.until("<show>chat</show>");
    drop((ours, other));
    broker.stop();
}
