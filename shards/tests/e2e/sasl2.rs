//! SASL2 over the running broker: authenticated and bound in one round trip (XEP-0388, XEP-0386), on whichever shard
//! the account is at home.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::broker::{Broker, PASSWORD, USERS};
use crate::wire::{HEADER, Wire};

/// Which installation of a client this is.
const CLIENT: &str = "<user-agent id='d4565fa7-4d72-4749-b3d3-740edbf87770'><software>e2e</software></user-agent>";

/// A request to authenticate with the password; `wishes`: what else is asked for.
fn authenticate(user: &str, password: &str, wishes: &str) -> String {
    let response = STANDARD.encode(format!("\0{user}\0{password}"));
    format!(
        "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>{response}</initial-response>{wishes}</authenticate>"
    )
}

/// Connects, says all at once, and takes what comes up to the success.
fn enter(broker: &Broker, request: &str) -> (Wire, String) {
    let mut wire = Wire::connect(broker.sasl_plain);
    wire.send(format!("{HEADER}{request}"));
    wire.until("</stream:features>");
    let success = wire.until_any(&["</success>", "</failure>"]);
    (wire, success)
}

/// The text of an element, or of an attribute.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    text.split(before).nth(1).and_then(|rest| rest.split(after).next()).unwrap()
}

fn identifier(success: &str) -> &str {
    between(success, "<authorization-identifier>", "<")
}

#[test]
fn a_client_is_bound_with_all_it_said_at_once() {
    let broker = Broker::start("");
    let wishes = format!("<bind xmlns='urn:xmpp:bind:0'><tag>e2e</tag></bind>{CLIENT}");
    let mut resources = Vec::new();
    for user in USERS {
        let request = authenticate(user, PASSWORD, &wishes);
        // What is asked of the session is behind it already.
        let (mut wire, success) = enter(&broker, &format!("{request}<presence/>"));
        assert!(success.contains("<bound xmlns='urn:xmpp:bind:0'/>"), "{success}");
        let jid = identifier(&success).to_owned();
        assert!(jid.starts_with(&format!("{user}@localhost/e2e~")), "{jid}");
        let features = wire.until("</stream:features>");
        assert!(!features.contains("urn:ietf:params:xml:ns:xmpp-bind"), "{features}");
        let heard = wire.ping();
        assert!(heard.contains("<presence") && heard.contains(&jid), "{heard}");

        // The same client again: it has the same resource, and its old stream ends.
        let (mut again, success) = enter(&broker, &request);
        assert_eq!(identifier(&success), jid);
        let last = wire.drain();
        assert!(last.contains("<conflict "), "{last}");
        again.until("</stream:features>");
        again.ping();
        resources.push(jid.split_once('/').unwrap().1.to_owned());

        // Another one that does not say which it is.
        let (_other, success) = enter(&broker, &authenticate(user, PASSWORD, "<bind xmlns='urn:xmpp:bind:0'/>"));
        assert!(identifier(&success).starts_with(&format!("{user}@localhost/")) && identifier(&success) != jid);
    }
    resources.sort();
    resources.dedup();
    assert_eq!(resources.len(), USERS.len(), "accounts cannot be told to have the same client");
    broker.stop();
}

#[test]
fn who_only_authenticates_binds_as_of_old() {
    let broker = Broker::start("");
    let (mut wire, success) = enter(&broker, &authenticate("anna", PASSWORD, ""));
    assert_eq!(identifier(&success), "anna@localhost");
    wire.until("<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>");
    wire.until("</stream:features>");
    wire.send(
        "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>r</resource></bind></iq>",
    );
    wire.until("<jid>anna@localhost/r</jid>");
    wire.ping();
    drop(wire);

    // A former session is none of ours, wherever it is asked for.
    let resume = "<resume xmlns='urn:xmpp:sm:3' h='1' previd='paWlpaWlpaWlpaWlpaWlpQAAAAAAAAAH'/>";
    let wishes = format!("{resume}<bind xmlns='urn:xmpp:bind:0'/>");
    let (mut wire, success) = enter(&broker, &authenticate("bert", PASSWORD, &wishes));
    assert!(success.contains("<failed xmlns='urn:xmpp:sm:3'>") && success.contains("<bound "), "{success}");
    wire.until("</stream:features>");
    wire.ping();
    drop(wire);

    let (wire, failure) = enter(&broker, &authenticate("anna", "wrong", "<bind xmlns='urn:xmpp:bind:0'/>"));
    assert!(failure.contains("<not-authorized "), "{failure}");
    drop(wire);
    broker.stop();
}
