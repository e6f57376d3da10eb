//! SASL2 over the running broker: authenticated and bound in one round trip (XEP-0388, XEP-0386), with a password or with
//! a token (XEP-0484), on whichever shard the account is at home.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use plaza_core::sasl::ht::{TokenSecret, initiator_hash, responder_hash};

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

const BIND: &str = "<bind xmlns='urn:xmpp:bind:0'><tag>e2e</tag></bind>";
const REQUEST: &str = "<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-NONE'/>";

/// Logs in with the password for a token.
fn token_for(broker: &Broker, user: &str) -> TokenSecret {
    let (_wire, success) = enter(broker, &authenticate(user, PASSWORD, &format!("{CLIENT}{BIND}{REQUEST}")));
    assert!(success.contains("<token xmlns='urn:xmpp:fast:0' expiry='20"), "{success}");
    told(&success)
}

fn told(success: &str) -> TokenSecret {
    let token = between(success, " token='", "'");
    TokenSecret(URL_SAFE_NO_PAD.decode(token).unwrap().try_into().unwrap())
}

/// Logs in with a token; `fast`: the attributes of `<fast/>`.
fn with_token(broker: &Broker, user: &str, token: TokenSecret, fast: &str) -> (Wire, String) {
    let response = STANDARD.encode([user.as_bytes(), b"\0", &initiator_hash(token, b"")].concat());
    let (wire, answer) = enter(
        broker,
        &format!(
            "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='HT-SHA-256-NONE'><initial-response>{response}</initial-response>\
             {CLIENT}{BIND}<fast xmlns='urn:xmpp:fast:0'{fast}/></authenticate>"
        ),
    );
    let proven = STANDARD.encode(responder_hash(token, b""));
    assert!(!answer.contains("<success") || answer.contains(&format!("<additional-data>{proven}<")), "{answer}");
    (wire, answer)
}

fn is_refused(broker: &Broker, user: &str, token: TokenSecret, fast: &str) {
    let (_wire, failure) = with_token(broker, user, token, fast);
    assert!(failure.contains("<not-authorized "), "{failure}");
}

#[test]
fn a_client_is_back_with_its_token_and_all_it_said_at_once() {
    let broker = Broker::start("");
    for user in USERS {
        let token = token_for(&broker, user);
        for count in 1..=3 {
            let (mut wire, success) = with_token(&broker, user, token, &format!(" count='{count}'"));
            assert!(identifier(&success).starts_with(&format!("{user}@localhost/e2e~")), "{success}");
            assert!(success.contains("<bound ") && !success.contains("<token "), "{success}");
            wire.until("</stream:features>");
            wire.ping();
        }
        // What was heard of it cannot be said again (a replay), and it is this account's only.
        is_refused(&broker, user, token, " count='3'");
        let other = USERS.iter().find(|other| **other != user).unwrap();
        is_refused(&broker, other, token, " count='4'");
        is_refused(&broker, "nobody", token, " count='4'");
        let (_, success) = with_token(&broker, user, token, " count='4' invalidate='true'");
        assert!(success.contains("<bound "), "{success}");
        is_refused(&broker, user, token, " count='5'");
    }
    broker.stop();
}

#[test]
fn the_same_token_at_the_same_time_lets_one_in() {
    let broker = Broker::start("");
    let token = token_for(&broker, "anna");
    for count in 1..=5 {
        let fast = format!(" count='{count}'");
        let entered = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| with_token(&broker, "anna", token, &fast).1.contains("<success")))
                .collect();
            tries.into_iter().map(|entry| entry.join().unwrap()).filter(|entered| *entered).count()
        });
        assert_eq!(entered, 1);
    }
    broker.stop();
}

#[test]
fn tokens_and_counts_survive_a_broker_that_is_killed() {
    let mut broker = Broker::start("token_renewal = '0s'");
    let token = token_for(&broker, "anna");
    let (wire, success) = with_token(&broker, "anna", token, " count='1'");
    let next = told(&success);
    drop(wire);
    broker.restart();
    is_refused(&broker, "anna", token, " count='1'");
    // The next was told, but perhaps not heard: the former is good until it is used (XEP-0484 §3.5).
    assert!(with_token(&broker, "anna", next, " count='1'").1.contains("<bound "));
    is_refused(&broker, "anna", token, " count='2'");
    broker.stop();
}

#[test]
fn the_password_changes_and_tokens_are_good_no_more() {
    let broker = Broker::start("");
    let (anna, bert) = (token_for(&broker, "anna"), token_for(&broker, "bert"));
    broker.cli(&["account", "passwd", "anna@localhost", "--password", "another"]);
    is_refused(&broker, "anna", anna, " count='1'");
    broker.cli(&["account", "disable", "bert@localhost"]);
    let (wire, failure) = with_token(&broker, "bert", bert, " count='1'");
    assert!(failure.contains("<account-disabled "), "{failure}");
    drop(wire);
    broker.stop();
}

#[test]
fn a_token_ends_with_its_time_and_none_is_offered_where_they_have_none() {
    let broker = Broker::start("token_life = '1s'");
    let token = token_for(&broker, "anna");
    std::thread::sleep(std::time::Duration::from_millis(2_100));
    let (wire, failure) = with_token(&broker, "anna", token, " count='1'");
    assert!(failure.contains("<credentials-expired "), "{failure}");
    drop(wire);
    broker.stop();

    let broker = Broker::start("token_life = '0s'");
    let mut wire = Wire::connect(broker.sasl_plain);
    wire.send(HEADER);
    assert!(!wire.until("</stream:features>").contains("urn:xmpp:fast:0"));
    drop(wire);
    broker.stop();
}
