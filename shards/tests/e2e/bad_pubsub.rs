//! Publish-subscribe at a service and at accounts (XEP-0060, XEP-0163) over the running broker: with slixmpp, between
//! accounts that share a shard and accounts that do not; and asked for more than it gives.

use std::path::Path;
use std::process::Command;

use crate::broker::{Broker, PASSWORD, USERS};
use crate::clients::{python, run};
use crate::scene::Scene;
use crate::wire::Wire;

const SERVICE: &str = "pubsub.localhost";
const PUBSUB: &str = "http://jabber.org/protocol/pubsub";
const OWNER: &str = "http://jabber.org/protocol/pubsub#owner";

fn pubsub(ns: &str, inside: &str) -> String {
    format!("<pubsub xmlns='{ns}'>{inside}</pubsub>")
}

/// Asks for something; what was answered.
fn ask(wire: &mut Wire, iq_type: &str, to: &str, inside: &str) -> String {
    wire.ask(iq_type, to, &pubsub(PUBSUB, inside))
}

/// Publishes an item of that many bytes.
fn publish(wire: &mut Wire, node: &str, bytes: usize) -> String {
    let payload = format!("<e xmlns='urn:e'>{}</e>", "x".repeat(bytes));
    ask(wire, "set", SERVICE, &format!("<publish node='{node}'><item id='1'>{payload}</item></publish>"))
}

#[test]
fn slixmpp_publishes_and_subscribes_on_one_shard_and_over_two() {
    let mut broker = Broker::start("");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/clients/pubsub.py");
    for (owner, contact) in broker.pairs() {
        let stranger = USERS.iter().find(|user| ![owner, contact].contains(user)).unwrap();
        let mut command = Command::new(python());
        command.arg(&script).arg(broker.starttls.to_string()).args([PASSWORD, owner, contact, stranger]);
        run(&mut command);
        // The next pair begins where this one did.
        broker.cli(&["account", "remove", &format!("{owner}@localhost")]);
        broker.cli(&["account", "add", &format!("{owner}@localhost"), "--password", PASSWORD]);
    }
    broker.stop();
}

#[test]
fn what_is_too_much_is_refused_and_costs_nobody_else() {
    let mut scene = Scene::open("pubsub_nodes_max = 10\npubsub_items_max = 50\npubsub_page_max = 20");
    let mut wire = Wire::available(&scene.broker, "anna", "greedy");

    // A payload that no node takes is refused; one that no stanza may have ends the stream.
    ask(&mut wire, "set", SERVICE, "<create node='mine'/>");
    let said = publish(&mut wire, "mine", 100 << 10);
    scene.note("69 a payload too big", &said, "type='error'…<not-acceptable …<payload-too-big xmlns=");
    let mut large = Wire::available(&scene.broker, "anna", "large");
    let megabyte = "x".repeat(1 << 20);
    large.try_send(format!(
        "<iq type='set' id='m' to='{SERVICE}'><pubsub xmlns='{PUBSUB}'><publish node='mine'><item id='2'>\
         <e xmlns='urn:e'>{megabyte}</e></item></publish></pubsub></iq>"
    ));
    scene.note("69 a megabyte", &large.drain(), "<policy-violation …</stream:stream>");
    let kept = ask(&mut wire, "get", SERVICE, "<items node='mine'/>");
    scene.note("69 nothing of either is kept", &kept, "<items node='mine'");
    scene.check("69 nothing of either is kept", !kept.contains("<item "), &kept);

    // Nodes by the ten thousand: as many as there may be, and no more.
    let mut made = 1;
    for number in 0..1_000 {
        let said = ask(&mut wire, "set", SERVICE, &format!("<create node='n{number}'/>"));
        if said.contains("type='result'") {
            made += 1;
        } else {
            scene.check("69 a node too many", said.contains("<max-nodes-exceeded xmlns="), &said);
            scene.check("69 a node too many", said.contains("<resource-constraint "), &said);
        }
    }
    scene.check("69 as many nodes as there may be", made == 10, &format!("{made} were made"));
    let own = wire.ask("set", "", &pubsub(PUBSUB, &format!("<create node='{}'/>", "n".repeat(2_000))));
    scene.note("69 a name too long", &own, "<not-acceptable ");

    // In somebody else's name, or nobody's.
    for jid in ["emil@localhost", "emil@localhost/peer", "anna@elsewhere.example", "@", "a b@c", ""] {
        let said = ask(&mut wire, "set", SERVICE, &format!("<subscribe node='mine' jid='{jid}'/>"));
        scene.note(&format!("69 subscribing {jid}"), &said, "<bad-request …<…jid");
    }

    // More items than there may be, in words that no number type has.
    for max in ["1000000000000", "51", "0", "-1", "1e3", "99999999999999999999999999999"] {
        let form = format!(
            "<configure node='mine'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>{PUBSUB}#node_config\
             </value></field><field var='pubsub#max_items'><value>{max}</value></field></x></configure>"
        );
        let said = wire.ask("set", SERVICE, &pubsub(OWNER, &form));
        scene.note(&format!("69 max_items {max}"), &said, "type='error'…<not-acceptable ");
        let said = ask(&mut wire, "get", SERVICE, &format!("<items node='mine' max_items='{max}'/>"));
        let answered = said.contains("<items node='mine'") || said.contains("<bad-request ");
        scene.check(&format!("69 items max_items {max}"), answered, &said);
    }

    // What looks like a query is a name like any other: paging goes on from nowhere.
    for id in ["' OR '1'='1", "1; DROP TABLE items", "%27%20--", "\u{1F980}"] {
        let id = id.replace('\'', "&apos;");
        let set = format!("<set xmlns='http://jabber.org/protocol/rsm'><max>1000000000</max><after>{id}</after></set>");
        let said = wire.ask("get", SERVICE, &pubsub(PUBSUB, &format!("<items node='mine'/>{set}")));
        scene.note(&format!("69 paging behind {id}"), &said, "<item-not-found ");
        let said = ask(
            &mut wire,
            "set",
            SERVICE,
            &format!("<publish node='mine'><item id='{id}'><e xmlns='urn:e'/></item></publish>"),
        );
        scene.note(&format!("69 an item called {id}"), &said, "type='result'");
        let said = ask(&mut wire, "set", SERVICE, &format!("<retract node='mine'><item id='{id}'/></retract>"));
        scene.note(&format!("69 removing {id}"), &said, "type='result'");
    }
    drop((wire, large));
    scene.close();
}
