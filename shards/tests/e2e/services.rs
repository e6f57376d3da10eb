//! What accounts own, over the running broker: vCards, private XML, and what discovery says of them.

use crate::broker::Broker;
use crate::wire::Wire;

#[test]
fn a_vcard_is_its_owners_to_write_and_anybodys_to_read() {
    let mut broker = Broker::start("");
    for (one, other) in broker.pairs() {
        let (mut ours, mut theirs) = (Wire::login(&broker, one, "a"), Wire::login(&broker, other, "b"));
        let card = format!("<vCard xmlns='vcard-temp'><FN>{one} &amp; co</FN></vCard>");
        let us = format!("{one}@localhost");
        let answer = ours.ask("set", "", &card);
        assert!(answer.contains("type='result'"), "{answer}");
        for wire in [&mut ours, &mut theirs] {
            let read = wire.ask("get", &us, "<vCard xmlns='vcard-temp'/>");
            assert!(read.contains(&card), "{read}");
        }
        let refused = theirs.ask("set", &us, &card);
        assert!(refused.contains("type='error'"), "{refused}");
    }
    broker.stop();
}

#[test]
fn private_xml_is_its_owners_alone() {
    let mut broker = Broker::start("");
    let notes = "<notes xmlns='urn:example:notes'><note>1 &lt; 2</note></notes>";
    let get = "<query xmlns='jabber:iq:private'><notes xmlns='urn:example:notes'/></query>";
    let mut ours = Wire::login(&broker, "anna", "a");
    let answer = ours.ask("set", "", &format!("<query xmlns='jabber:iq:private'>{notes}</query>"));
    assert!(answer.contains("type='result'"), "{answer}");
    drop(ours);
    broker.restart();
    let (mut ours, mut theirs) = (Wire::login(&broker, "anna", "a"), Wire::login(&broker, "bert", "b"));
    let read = ours.ask("get", "", get);
    assert!(read.contains(notes), "{read}");
    let refused = theirs.ask("get", "anna@localhost", get);
    assert!(refused.contains("type='error'") && !refused.contains("note>"), "{refused}");
    drop((ours, theirs));
    broker.stop();
}

#[test]
fn an_account_is_discovered_by_who_sees_its_presence_and_nobody_else() {
    let mut broker = Broker::start("");
    let info = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
    for (one, other) in broker.pairs() {
        let (us, them) = (format!("{one}@localhost"), format!("{other}@localhost"));
        let (mut ours, mut theirs) = (Wire::available(&broker, one, "a"), Wire::available(&broker, other, "b"));
        let stranger = theirs.ask("get", &us, info);
        let nobody = theirs.ask("get", "nobody@localhost", info);
        for answer in [stranger, nobody] {
            assert!(answer.contains("<service-unavailable "), "{answer}");
        }
        theirs.send(format!("<presence type='subscribe' to='{us}'/>"));
        ours.until("type='subscribe'");
        ours.send(format!("<presence type='subscribed' to='{them}'/>"));
        theirs.until(&format!("from='{us}/a'"));
        let told = theirs.ask("get", &us, info);
        assert!(told.contains("<identity category='account' type='registered'/>"), "{told}");
        // Also when its account has nobody there.
        drop(ours);
        let told = theirs.ask("get", &us, info);
        assert!(told.contains("<identity category='account' type='registered'/>"), "{told}");
    }
    let mut anna = Wire::login(&broker, "anna", "x");
    let server = anna.ask("get", "localhost", info);
    for feature in ["urn:xmpp:blocking", "vcard-temp", "jabber:iq:private"] {
        assert!(server.contains(&format!("<feature var='{feature}'/>")), "{feature}: {server}");
    }
    drop(anna);
    broker.stop();
}
