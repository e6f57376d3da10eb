//! Photos of vCards in presence (XEP-0153, XEP-0398), over the running broker: accounts that share a shard, and that do not.

use crate::broker::Broker;
use crate::wire::Wire;

/// SHA-1 of "abc" and of "ab".
const ABC: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";
const AB: &str = "da23614e02469a0d7c7bd1bdab5c9c474b1904dc";

fn vcard(photo: &str) -> String {
    format!("<vCard xmlns='vcard-temp'><FN>Somebody</FN>{photo}</vCard>")
}

fn photo(base64: &str) -> String {
    format!("<PHOTO><TYPE>image/png</TYPE><BINVAL>{base64}</BINVAL></PHOTO>")
}

fn x(hash: &str) -> String {
    format!("<x xmlns='vcard-temp:x:update'><photo>{hash}</photo></x>")
}

const NONE: &str = "<x xmlns='vcard-temp:x:update'><photo/></x>";

/// `to` is told `from`'s presence.
fn befriend(from: &mut Wire, one: &str, to: &mut Wire, other: &str) {
    to.send(format!("<presence type='subscribe' to='{one}@localhost'/>"));
    from.until("type='subscribe'");
    from.send(format!("<presence type='subscribed' to='{other}@localhost'/>"));
    to.until(&format!("from='{one}@localhost/a'"));
    to.until("/>");
    to.ping();
    from.ping();
}

/// The next presence of a resource.
fn presence(wire: &mut Wire, of: &str) -> String {
    loop {
        let said = wire.until_any(&["</presence>", "/>"]);
        let whole = if said.ends_with("/>") && said.contains("<x ") { said + &wire.until("</presence>") } else { said };
        if whole.contains("<presence") && whole.contains(&format!("from='{of}'")) {
            return whole;
        }
    }
}

#[test]
fn who_has_a_photo_shows_it_in_every_presence_whatever_the_client_knows() {
    let mut broker = Broker::start("");
    for (one, other) in broker.pairs() {
        let (us, them) = (format!("{one}@localhost/a"), format!("{other}@localhost/b"));
        let (mut ours, mut theirs) = (Wire::available(&broker, one, "a"), Wire::available(&broker, other, "b"));
        befriend(&mut ours, one, &mut theirs, other);
        assert!(!theirs.ping().contains("vcard-temp:x:update"), "there is none to show");

        // Set, and changed: those who see the session are told, its own among them.
        for (base64, hash) in [("YWJj", ABC), ("YWI=", AB), ("YWJj", ABC)] {
            let said = ours.ask("set", "", &vcard(&photo(base64)));
            assert!(said.contains(&format!("<presence to='{us}' from='{us}'>{}</presence>", x(hash))), "{said}");
            assert!(presence(&mut theirs, &us).contains(&x(hash)));
        }
        // Anything else in it is nobody's concern.
        ours.ask("set", "", &vcard(&photo("YWJj")).replace("Somebody", "Else"));
        assert_eq!(theirs.ping(), "");

        // Whatever it says from now on.
        for (said, shown) in [
            ("<presence><show>away</show></presence>", format!("<show>away</show>{}", x(ABC))),
            ("<presence><x xmlns='vcard-temp:x:update'/></presence>", x(ABC)),
            (&*format!("<presence>{}</presence>", x(AB)), x(ABC)),
            (&*format!("<presence>{NONE}<show>dnd</show></presence>"), format!("{NONE}<show>dnd</show>")),
            ("<presence id='p'/>", x(ABC)),
        ] {
            ours.send(said);
            assert!(presence(&mut theirs, &us).contains(&format!(">{shown}</presence>")), "{said}");
            assert!(presence(&mut ours, &us).contains(&format!(">{shown}</presence>")), "{said}");
        }
        // To whom it says so, who asks, and who comes later.
        ours.send(format!("<presence to='{them}'><x xmlns='http://jabber.org/protocol/muc'/></presence>"));
        let joined = format!("<x xmlns='http://jabber.org/protocol/muc'/>{}</presence>", x(ABC));
        assert!(theirs.until("</presence>").ends_with(&joined));
        theirs.send(format!("<presence type='probe' to='{one}@localhost'/>"));
        assert!(presence(&mut theirs, &us).contains(&x(ABC)));
        let mut late = Wire::login(&broker, one, "late");
        late.send("<presence/>");
        assert!(presence(&mut late, &us).contains(&x(ABC)));
        drop(late);
        theirs.until("type='unavailable'/>");
        ours.until("type='unavailable'/>");
        // What is said of leaving says nothing of photos.
        ours.send("<presence type='unavailable'/>");
        assert!(!presence(&mut theirs, &us).contains("vcard-temp"));
        ours.send("<presence/>");
        assert!(presence(&mut theirs, &us).contains(&x(ABC)));

        // Without a photo there is one time to say so.
        ours.ask("set", "", &vcard(""));
        assert!(presence(&mut theirs, &us).contains(NONE));
        ours.send("<presence><show>xa</show></presence>");
        assert!(presence(&mut theirs, &us).ends_with("><show>xa</show></presence>"));
    }
    // It is known at once after a restart.
    Wire::login(&broker, "anna", "a").ask("set", "", &vcard(&photo("YWJj")));
    broker.restart();
    let mut ours = Wire::login(&broker, "anna", "a");
    ours.send("<presence/>");
    assert!(presence(&mut ours, "anna@localhost/a").contains(&x(ABC)));
    drop(ours);
    broker.stop();
}

/// A request to publish an item in a node that anybody may read.
fn publish(node: &str, id: &str, payload: &str) -> String {
    format!(
        "<pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='urn:xmpp:avatar:{node}'><item id='{id}'>\
         <{node} xmlns='urn:xmpp:avatar:{node}'>{payload}</{node}></item></publish>\
         <publish-options><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'>\
         <value>http://jabber.org/protocol/pubsub#publish-options</value></field>\
         <field var='pubsub#access_model'><value>open</value></field></x></publish-options></pubsub>"
    )
}

fn metadata(id: &str) -> String {
    publish("metadata", id, &format!("<info bytes='3' id='{id}' type='image/png'/>"))
}

#[test]
fn an_avatar_that_is_published_is_the_photo_of_the_vcard_and_the_other_way_round() {
    let mut broker = Broker::start("");
    for (one, other) in broker.pairs() {
        let us = format!("{one}@localhost/a");
        let (mut ours, mut theirs) = (Wire::available(&broker, one, "a"), Wire::available(&broker, other, "b"));
        befriend(&mut ours, one, &mut theirs, other);
        let about = ours.ask("get", "", "<query xmlns='http://jabber.org/protocol/disco#info'/>");
        assert!(about.contains("<feature var='urn:xmpp:pep-vcard-conversion:0'/>"), "{about}");
        ours.ask("set", "", &vcard(""));
        for (base64, hash) in [("YWJj", ABC), ("YWI=", AB)] {
            assert!(ours.ask("set", "", &publish("data", hash, base64)).contains("type='result'"));
            assert!(ours.ask("set", "", &metadata(hash)).contains("type='result'"));
            assert!(presence(&mut theirs, &us).contains(&x(hash)));
            let read = theirs.ask("get", &format!("{one}@localhost"), "<vCard xmlns='vcard-temp'/>");
            assert!(
                read.contains("<FN>Somebody</FN>") && read.contains(&format!("<BINVAL>{base64}</BINVAL>")),
                "{read}"
            );
        }
        // The other way.
        ours.ask("set", "", &vcard(&photo("YWJj")));
        assert!(presence(&mut theirs, &us).contains(&x(ABC)));
        let items = "<pubsub xmlns='http://jabber.org/protocol/pubsub'><items node='urn:xmpp:avatar:metadata' max_items='1'/></pubsub>";
        let read = theirs.ask("get", &format!("{one}@localhost"), items);
        assert!(read.contains(&format!("<info bytes='3' id='{ABC}' type='image/png'/>")), "{read}");
        // Disabled (XEP-0084 §3.5).
        ours.ask("set", "", &publish("metadata", "none", ""));
        assert!(presence(&mut theirs, &us).contains(NONE));
        let read = theirs.ask("get", &format!("{one}@localhost"), "<vCard xmlns='vcard-temp'/>");
        assert!(read.contains("<FN>Somebody</FN>") && !read.contains("PHOTO"), "{read}");
    }
    broker.stop();
}
