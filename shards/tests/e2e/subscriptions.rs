//! Subscriptions, presence between accounts and messages for who is away, over the running broker: two accounts that share
//! a shard, and two that do not.

use crate::broker::Broker;
use crate::wire::Wire;

/// Logs in, asks for the roster and becomes available.
fn there(broker: &Broker, user: &str, resource: &str) -> Wire {
    let mut wire = Wire::login(broker, user, resource);
    wire.send("<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq>");
    wire.until("id='roster'");
    wire.send("<presence/>");
    wire
}

#[test]
fn who_is_allowed_sees_presence_and_nobody_else() {
    let mut broker = Broker::start("");
    for (one, other) in broker.pairs() {
        let (mut ours, mut theirs) = (there(&broker, one, "a"), there(&broker, other, "b"));
        ours.ping();
        theirs.ping();
        ours.send(format!("<presence type='subscribe' to='{other}@localhost/any'/>"));
        let push = ours.until("</query></iq>");
        assert!(push.contains("ask='subscribe'") && push.contains(&format!("jid='{other}@localhost'")), "{push}");
        let question = theirs.until("/>");
        assert!(question.contains(&format!("from='{one}@localhost'")) && question.contains("type='subscribe'"));

        theirs.send(format!("<presence type='subscribed' to='{one}@localhost'/>"));
        let push = theirs.until("</query></iq>");
        assert!(push.contains("subscription='from'"), "{push}");
        let said = ours.until(&format!("from='{other}@localhost/b'"));
        assert!(said.contains("type='subscribed'") && said.contains("subscription='to'"), "{said}");

        // What changes is told; the other direction was not allowed.
        theirs.send("<presence><show>away</show></presence>");
        ours.until("<show>away</show>");
        ours.send("<presence><show>dnd</show></presence>");
        assert!(!theirs.ping().contains("dnd"));

        // A newcomer asks where its contacts are, and is told.
        let mut second = there(&broker, one, "second");
        let heard = second.until("<show>away</show>");
        assert!(heard.contains(&format!("from='{other}@localhost/b'")), "{heard}");
        drop(theirs);
        second.until(&format!("from='{other}@localhost/b'"));
        drop(second);

        // Removing the contact ends it all.
        let mut theirs = there(&broker, other, "b");
        theirs.ping();
        ours.ping();
        ours.send(format!(
            "<iq type='set' id='rm'><query xmlns='jabber:iq:roster'><item jid='{other}@localhost' subscription='remove'/></query></iq>"
        ));
        let told = theirs.until("type='unsubscribe'");
        assert!(told.contains(&format!("from='{one}@localhost'")), "{told}");
    }
    broker.stop();
}

#[test]
fn a_roster_is_told_again_only_to_who_has_not_its_version() {
    let mut broker = Broker::start("");
    let version = |said: &str| said.rsplit(" ver='").next().unwrap().split('\'').next().unwrap().to_owned();
    let get = |ver: &str| format!("<query xmlns='jabber:iq:roster' ver='{ver}'/>");
    for (one, other) in broker.pairs() {
        let (mut ours, mut theirs) = (Wire::available(&broker, one, "a"), Wire::available(&broker, other, "b"));
        let first = version(&ours.ask("get", "", &get("")));
        assert!(!ours.ask("get", "", &get(&first)).contains("<query"));
        // What a subscription changes is pushed with the version it makes.
        ours.send(format!("<presence type='subscribe' to='{other}@localhost'/>"));
        let second = version(&ours.until("</query></iq>"));
        assert!(ours.ask("get", "", &get(&first)).contains("ask='subscribe'"));
        assert!(!ours.ask("get", "", &get(&second)).contains("<query"));
        // Who was asked has nothing to show for it yet.
        theirs.until("type='subscribe'");
        let nothing = version(&theirs.ask("get", "", &get("")));
        theirs.send(format!("<presence type='subscribed' to='{one}@localhost'/>"));
        let answered = version(&theirs.until("</query></iq>"));
        assert_ne!(answered, nothing);
        let third = version(&ours.until("</query></iq>"));
        drop(ours);
        let mut ours = Wire::available(&broker, one, "a");
        assert!(!ours.ask("get", "", &get(&third)).contains("<query"));
    }
    broker.stop();
}

#[test]
fn a_question_waits_for_its_owner_and_is_asked_until_it_is_answered() {
    let mut broker = Broker::start("");
    for (one, other) in broker.pairs() {
        let mut ours = there(&broker, one, "a");
        ours.send(format!(
            "<presence type='subscribe' to='{other}@localhost' id='q'><status>please</status></presence>"
        ));
        ours.until("ask='subscribe'");
        for _ in 0..2 {
            let mut theirs = there(&broker, other, "b");
            let asked = theirs.until("<status>please</status>");
            assert!(asked.contains("type='subscribe'"), "{asked}");
        }
        let mut theirs = there(&broker, other, "b");
        theirs.until("<status>please</status>");
        theirs.send(format!("<presence type='unsubscribed' to='{one}@localhost'/>"));
        ours.until("type='unsubscribed'");
        let mut theirs = there(&broker, other, "c");
        assert!(!theirs.ping().contains("please"), "it was answered");
    }
    broker.stop();
}

#[test]
fn messages_for_who_is_away_arrive_in_order_with_the_time_they_came() {
    let mut broker = Broker::start("offline_messages_max = 5");
    for (one, other) in broker.pairs() {
        let mut ours = Wire::available(&broker, one, "a");
        for number in 0..4 {
            ours.send(format!(
                "<message to='{other}@localhost' id='m{number}' type='chat'><body>{number}</body></message>"
            ));
        }
        // Nobody could read these later, or would want to.
        ours.send(format!("<message to='{other}@localhost' type='headline'><body>h</body></message>"));
        ours.send(format!("<message to='{other}@localhost' type='chat'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>"));
        ours.send(format!(
            "<message to='{other}@localhost'><body>x</body><no-store xmlns='urn:xmpp:hints'/></message>"
        ));
        // A message without a body, as things send them, is kept as well, and then there is no more room.
        ours.send(format!(
            "<message to='{other}@localhost/gone' type='chat' id='m4'><x xmlns='urn:example:thing'/></message>"
        ));
        ours.send(format!("<message to='{other}@localhost' id='full'><body>5</body></message>"));
        let refused = ours.until("</message>");
        assert!(refused.contains("id='full'") && refused.contains("<service-unavailable"), "{refused}");

        let mut negative = Wire::login(&broker, other, "negative");
        negative.send("<presence><priority>-1</priority></presence>");
        assert!(!negative.ping().contains("<message"));

        let mut theirs = Wire::login(&broker, other, "b");
        theirs.send("<presence/>");
        let mut all = String::new();
        for number in 0..5 {
            let message = theirs.until("</message>");
            assert!(message.contains(&format!("id='m{number}'")), "{number}: {message}");
            assert!(message.contains("<delay xmlns='urn:xmpp:delay' from='localhost' stamp='20"), "{message}");
            all.push_str(&message);
        }
        assert!(!all.contains("composing") && !all.contains("no-store") && !all.contains("<body>h<"), "{all}");
        theirs.ping();
        drop(theirs);
        let mut again = Wire::login(&broker, other, "c");
        again.send("<presence/>");
        assert!(!again.ping().contains("<message"), "given once");
    }
    broker.stop();
}

#[test]
fn what_was_kept_survives_a_broker_that_is_killed() {
    let mut broker = Broker::start("");
    let mut ours = Wire::available(&broker, "anna", "a");
    for number in 0..20 {
        ours.send(format!("<message to='bert@localhost' type='chat'><body>kept {number}</body></message>"));
    }
    broker.wait("until all are stored", |broker| broker.metric("plaza_offline_kept_total", "") == 20);
    broker.restart();
    let mut theirs = Wire::login(&broker, "bert", "b");
    theirs.send("<presence/>");
    for number in 0..20 {
        let message = theirs.until("</message>");
        assert!(message.contains(&format!("kept {number}<")), "{message}");
    }
    drop((ours, theirs));
    broker.stop();
}
