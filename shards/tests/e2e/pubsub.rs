//! Publish-subscribe over the running broker: the service beside the server, and accounts' own nodes.

use plaza_core::caps::{Caps, HashFunction, Info};
use plaza_core::xml::read::Node;

use crate::broker::Broker;
use crate::wire::Wire;

const SERVICE: &str = "pubsub.localhost";
const PUBSUB: &str = "http://jabber.org/protocol/pubsub";
const OWNER: &str = "http://jabber.org/protocol/pubsub#owner";
const NODE: &str = "urn:example:mood";

fn pubsub(ns: &str, inside: &str) -> String {
    format!("<pubsub xmlns='{ns}'>{inside}</pubsub>")
}

fn publish(node: &str, id: &str) -> String {
    pubsub(PUBSUB, &format!("<publish node='{node}'><item id='{id}'><e xmlns='urn:e'>{id}</e></item></publish>"))
}

/// What a client answers that wants to be told of [`NODE`].
fn info() -> String {
    format!(
        "<query xmlns='http://jabber.org/protocol/disco#info'><identity category='client' type='pc'/>\
         <feature var='http://jabber.org/protocol/disco#info'/><feature var='{NODE}+notify'/></query>"
    )
}

/// Says that it is there and wants to be told of [`NODE`], and answers if it is asked for more.
fn come(wire: &mut Wire, asked: bool) {
    let node = Node::parse(&info(), "jabber:client").unwrap();
    let caps = Caps::new("urn:example:client", Info::read(&node).unwrap().ver(HashFunction::Sha1));
    let mut presence = Vec::new();
    caps.write(&mut presence);
    wire.send(format!("<presence>{}</presence>", String::from_utf8(presence).unwrap()));
    if asked {
        let question = wire.until("</iq>");
        let id = question.rsplit("<iq").next().unwrap().split("id='").nth(1).unwrap().split('\'').next().unwrap();
        wire.send(format!("<iq type='result' id='{id}' to='localhost'>{}</iq>", info()));
    }
}

/// Lets `theirs` see the presence of `ours`.
fn befriend(ours: &mut Wire, theirs: &mut Wire, us: &str, them: &str) {
    theirs.send(format!("<presence type='subscribe' to='{us}'/>"));
    ours.until("type='subscribe'");
    ours.send(format!("<presence type='subscribed' to='{them}'/>"));
    theirs.until(&format!("from='{us}/a'"));
}

fn ok(answer: &str) {
    assert!(answer.contains("type='result'"), "{answer}");
}

#[test]
fn a_service_has_nodes_and_tells_who_subscribed() {
    let mut broker = Broker::start("");
    for (at, (one, other)) in broker.pairs().into_iter().enumerate() {
        let (mut ours, mut theirs) = (Wire::available(&broker, one, "a"), Wire::available(&broker, other, "b"));
        let node = format!("weather{at}");
        let items = ours.ask("get", "localhost", "<query xmlns='http://jabber.org/protocol/disco#items'/>");
        assert!(items.contains("<item jid='pubsub.localhost'"), "{items}");
        let info = theirs.ask("get", SERVICE, "<query xmlns='http://jabber.org/protocol/disco#info'/>");
        assert!(info.contains("<identity category='pubsub' type='service'/>"), "{info}");
        ok(&ours.ask("set", SERVICE, &pubsub(PUBSUB, &format!("<create node='{node}'/>"))));
        let subscribe = format!("<subscribe node='{node}' jid='{other}@localhost'/>");
        ok(&theirs.ask("set", SERVICE, &pubsub(PUBSUB, &subscribe)));
        for id in ["1", "2"] {
            ok(&ours.ask("set", SERVICE, &publish(&node, id)));
            let told = theirs.until("</message>");
            assert!(told.contains(&format!("<item id='{id}'><e xmlns='urn:e'>{id}</e></item>")), "{told}");
            assert!(told.contains("from='pubsub.localhost'"), "{told}");
        }
        let page = "<set xmlns='http://jabber.org/protocol/rsm'><max>1</max></set>";
        let items = theirs.ask("get", SERVICE, &pubsub(PUBSUB, &format!("<items node='{node}'/>{page}")));
        assert!(items.contains("<count>2</count>") && items.matches("<item id=").count() == 1, "{items}");
        let refused = theirs.ask("set", SERVICE, &publish(&node, "3"));
        assert!(refused.contains("<forbidden "), "{refused}");
        // Nobody is at home at an address of the service's.
        let refused = ours.ask("get", "x@pubsub.localhost", "<ping xmlns='urn:xmpp:ping'/>");
        assert!(refused.contains("<service-unavailable "), "{refused}");
        ok(&ours.ask("get", SERVICE, "<ping xmlns='urn:xmpp:ping'/>"));
        ok(&ours.ask("set", SERVICE, &pubsub(OWNER, &format!("<delete node='{node}'/>"))));
        assert!(theirs.until("</message>").contains("<delete node="));
    }
    broker.stop();
}

#[test]
fn nodes_and_subscriptions_survive_a_restart() {
    let mut broker = Broker::start("");
    let (mut ours, mut theirs) = (Wire::available(&broker, "anna", "a"), Wire::available(&broker, "bert", "b"));
    ok(&ours.ask("set", SERVICE, &pubsub(PUBSUB, "<create node='n'/>")));
    ok(&theirs.ask("set", SERVICE, &pubsub(PUBSUB, "<subscribe node='n' jid='bert@localhost'/>")));
    ok(&ours.ask("set", SERVICE, &publish("n", "1")));
    drop((ours, theirs));
    broker.restart();
    let (mut ours, mut theirs) = (Wire::available(&broker, "anna", "a"), Wire::available(&broker, "bert", "b"));
    let items = theirs.ask("get", SERVICE, &pubsub(PUBSUB, "<items node='n'/>"));
    assert!(items.contains("<item id='1'>"), "{items}");
    ok(&ours.ask("set", SERVICE, &publish("n", "2")));
    assert!(theirs.until("</message>").contains("<item id='2'>"));
    drop((ours, theirs));
    broker.stop();
}

#[test]
fn an_accounts_event_reaches_who_wants_it_and_the_last_one_whoever_comes() {
    let mut broker = Broker::start("");
    for (at, (one, other)) in broker.pairs().into_iter().enumerate() {
        let (us, them) = (format!("{one}@localhost"), format!("{other}@localhost"));
        let (mut ours, mut theirs) = (Wire::available(&broker, one, "a"), Wire::available(&broker, other, "b"));
        let mut deaf = Wire::available(&broker, other, "deaf");
        befriend(&mut ours, &mut theirs, &us, &them);
        // The first who shows this hash is asked what it means, and nobody after that, on whatever shard.
        come(&mut theirs, at == 0);
        theirs.ping();
        ok(&ours.ask("set", "", &publish(NODE, "1")));
        let told = theirs.until("</message>");
        assert!(told.contains(&format!("<items node='{NODE}'><item id='1'>")), "{told}");
        assert!(told.contains(&format!("from='{us}'")) && told.contains("type='headline'"), "{told}");
        // Who comes is told, with the time it happened: contacts, and one's own resources.
        for (user, resource) in [(other, "late"), (one, "own")] {
            let mut late = Wire::login(&broker, user, resource);
            come(&mut late, false);
            let told = late.until("</message>");
            assert!(told.contains("<item id='1'>") && told.contains("<delay "), "{told}");
            ok(&ours.ask("set", "", &publish(NODE, "1")));
            late.until("<item id='1'>");
            drop(late);
        }
        assert!(!deaf.ping().contains("<message"), "it did not ask for any");
        // A node for nobody else.
        let form = "<publish-options><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'>\
                    <value>http://jabber.org/protocol/pubsub#publish-options</value></field>\
                    <field var='pubsub#access_model'><value>whitelist</value></field></x></publish-options>";
        let private = publish("urn:example:private", "1").replace("</pubsub>", &format!("{form}</pubsub>"));
        ok(&ours.ask("set", "", &private));
        let read = pubsub(PUBSUB, "<items node='urn:example:private'/>");
        assert!(ours.ask("get", "", &read).contains("<item id='1'>"));
        assert!(theirs.ask("get", &us, &read).contains("type='error'"));
        drop((ours, theirs, deaf));
    }
    broker.stop();
}

#[test]
fn an_owner_decides_who_may_subscribe() {
    let mut broker = Broker::start("");
    for (at, (one, other)) in broker.pairs().into_iter().enumerate() {
        let (mut ours, mut theirs) = (Wire::available(&broker, one, "a"), Wire::available(&broker, other, "b"));
        let node = format!("guarded{at}");
        let configure = "<configure><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'>\
                         <value>http://jabber.org/protocol/pubsub#node_config</value></field>\
                         <field var='pubsub#access_model'><value>authorize</value></field></x></configure>";
        ok(&ours.ask("set", SERVICE, &pubsub(PUBSUB, &format!("<create node='{node}'/>{configure}"))));
        let subscribe = format!("<subscribe node='{node}' jid='{other}@localhost'/>");
        let answer = theirs.ask("set", SERVICE, &pubsub(PUBSUB, &subscribe));
        assert!(answer.contains("subscription='pending'"), "{answer}");
        let asked = ours.until("</message>");
        assert!(asked.contains("pubsub#subscribe_authorization") && asked.contains(&format!("{other}@localhost")));
        let decide = |node: &str, allow: bool| {
            format!(
                "<message to='{SERVICE}' id='d'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' \
                 type='hidden'><value>http://jabber.org/protocol/pubsub#subscribe_authorization</value></field>\
                 <field var='pubsub#node'><value>{node}</value></field><field var='pubsub#subscriber_jid'>\
                 <value>{other}@localhost</value></field><field var='pubsub#allow'><value>{allow}</value></field>\
                 </x></message>"
            )
        };
        theirs.send(decide(&node, true));
        assert!(theirs.until("</message>").contains("type='error'"), "not its to decide");
        ours.send(decide(&node, true));
        let told = theirs.until("</message>");
        assert!(told.contains("subscription='subscribed'"), "{told}");
        ok(&ours.ask("set", SERVICE, &publish(&node, "1")));
        assert!(theirs.until("</message>").contains("<item id='1'>"));
    }
    broker.stop();
}
