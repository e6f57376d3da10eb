//! The blocking command over the running broker (XEP-0191), between accounts that share a shard and that do not.

use crate::broker::Broker;
use crate::wire::Wire;

fn command(wire: &mut Wire, name: &str, jid: &str) -> String {
    let payload = format!("<{name} xmlns='urn:xmpp:blocking'><item jid='{jid}'/></{name}>");
    let said = wire.ask("set", "", &payload);
    assert!(said.contains("type='result'"), "{said}");
    said
}

const LIST: &str = "<blocklist xmlns='urn:xmpp:blocking'/>";
const READ: &str = "<read xmlns='urn:example:sensors'/>";

#[test]
fn who_is_blocked_sees_the_account_leave_and_reaches_nobody_until_it_is_unblocked() {
    let mut broker = Broker::start("");
    for (one, other) in broker.pairs() {
        let (us, them) = (format!("{one}@localhost"), format!("{other}@localhost"));
        let (mut ours, mut theirs) = (Wire::available(&broker, one, "a"), Wire::available(&broker, other, "b"));
        theirs.send(format!("<presence type='subscribe' to='{us}'/>"));
        ours.until("type='subscribe'");
        ours.send(format!("<presence type='subscribed' to='{them}'/>"));
        theirs.until(&format!("from='{us}/a'"));

        let mut second = Wire::login(&broker, one, "second");
        second.ask("get", "", LIST);
        ours.ask("get", "", LIST);
        let said = command(&mut ours, "block", &them);
        let push = format!("<block xmlns='urn:xmpp:blocking'><item jid='{them}'/></block>");
        assert!(said.contains(&push), "the push comes before the answer: {said}");
        second.until(&push);
        let left = theirs.until(&format!("from='{us}/a'"));
        assert!(left.contains("<presence"), "{left}");
        theirs.until("type='unavailable'");

        // Nothing goes out, and presence is not shown.
        for stanza in ["message", "presence"] {
            ours.send(format!("<{stanza} to='{them}/b' id='out'/>"));
            let refused = ours.until(&format!("</{stanza}>"));
            assert!(refused.contains("<error type='cancel'><not-acceptable "), "{refused}");
            assert!(refused.contains("<blocked xmlns='urn:xmpp:blocking:errors'/>"), "{refused}");
        }
        ours.send(format!("<presence type='subscribe' to='{them}'/>"));
        assert!(ours.until("</presence>").contains("<blocked "));
        ours.send("<presence><show>dnd</show></presence>");
        ours.until("dnd");

        // Nothing comes in; who asks is told what one is told of who is away.
        let dropped = broker.metric("plaza_dropped_stanzas_total", "reason=\"blocked\"");
        theirs.send(format!("<message to='{us}' type='chat'><body>in</body></message>"));
        theirs.send(format!("<message to='{us}/a'><body>in</body></message>"));
        theirs.send(format!("<presence to='{us}/a'><status>in</status></presence>"));
        theirs.send(format!("<presence type='probe' to='{us}'/>"));
        theirs.send(format!("<presence type='unsubscribe' to='{us}'/>"));
        theirs.send("<presence><status>in</status></presence>");
        let mut heard = String::new();
        for to in [format!("{us}/a"), us.clone()] {
            let answer = theirs.ask("get", &to, READ);
            heard.push_str(&answer);
        }
        assert_eq!(heard.matches("<service-unavailable ").count(), 2, "{heard}");
        assert!(!heard.contains("dnd") && !heard.contains("unsubscribed"), "{heard}");
        assert!(!ours.ping().contains("in</"));
        let dropped = broker.metric("plaza_dropped_stanzas_total", "reason=\"blocked\"") - dropped;
        assert!(dropped >= 5, "{dropped}");

        // Nothing is kept for later either; the list is.
        drop((ours, second));
        theirs.ping();
        theirs.send(format!("<message to='{us}' type='chat'><body>in</body></message>"));
        theirs.ask("get", &us, READ);
        let mut ours = Wire::available(&broker, one, "a");
        assert!(!ours.ping().contains("<message"));
        let listed = ours.ask("get", "", LIST);
        assert!(listed.contains(&format!("<item jid='{them}'/>")), "{listed}");

        theirs.ping();
        command(&mut ours, "unblock", &them);
        let back = theirs.until(&format!("from='{us}/a'"));
        assert!(back.contains("<presence"), "{back}");
        theirs.send(format!("<message to='{us}' type='chat'><body>at last</body></message>"));
        ours.until("at last");
        ours.send(format!("<presence type='unsubscribed' to='{them}'/>"));
        ours.ping();
    }
    broker.stop();
}

#[test]
fn who_holds_a_block_list_still_reaches_itself_and_the_server() {
    let broker = Broker::start("");
    let mut ours = Wire::available(&broker, "anna", "a");
    command(&mut ours, "block", "localhost");
    command(&mut ours, "block", "anna@localhost");
    ours.ping();
    ours.send("<message to='anna@localhost/a'><body>to myself</body></message>");
    ours.until("to myself</body>");
    let version = "<query xmlns='jabber:iq:version'/>";
    assert!(ours.ask("get", "localhost", version).contains("type='result'"));
    ours.send("<message to='bert@localhost'><body/></message>");
    assert!(ours.until("</message>").contains("<blocked "), "a domain stands for all its accounts");
    drop(ours);
    broker.stop();
}
