//! Archives (XEP-0313, XEP-0441): kept only where operator, account and sender agree, read page by page, gone when told so.

use crate::broker::Broker;
use crate::wire::Wire;

/// Lines of the configuration behind its limits.
const ALLOWED: &str = "[archive]\nmodes = ['roster', 'always']\npage_max = 3\n";

const QUERY: &str = "<query xmlns='urn:xmpp:mam:2'/>";
const PREFS: &str = "<prefs xmlns='urn:xmpp:mam:2'/>";
const DISCO: &str = "<query xmlns='http://jabber.org/protocol/disco#info'/>";

fn want(wire: &mut Wire, default: &str) {
    let said = wire.ask("set", "", &format!("<prefs xmlns='urn:xmpp:mam:2' default='{default}'/>"));
    assert!(said.contains(&format!("<prefs xmlns='urn:xmpp:mam:2' default='{default}'>")), "{said}");
}

fn page(inside: &str) -> String {
    format!("<query xmlns='urn:xmpp:mam:2'><set xmlns='http://jabber.org/protocol/rsm'>{inside}</set></query>")
}

/// The bodies of what was said.
fn bodies(said: &str) -> Vec<&str> {
    said.split("<body>").skip(1).map(|rest| rest.split_once("</body>").unwrap().0).collect()
}

/// The text between two others.
fn between<'a>(said: &'a str, start: &str, end: &str) -> &'a str {
    let rest = said.split_once(start).unwrap_or_else(|| panic!("no {start} in {said}")).1;
    rest.split_once(end).unwrap().0
}

#[test]
fn nothing_is_kept_unless_operator_and_account_both_want_it() {
    let broker = Broker::start("");
    broker.cli(&["account", "archive", "anna@localhost", "allowed"]);
    let (mut ours, mut theirs) = (Wire::available(&broker, "anna", "a"), Wire::available(&broker, "bert", "b"));
    theirs.send("<message to='anna@localhost' type='chat'><body>in</body></message>");
    assert!(!ours.until("</message>").contains("stanza-id"));
    for payload in [QUERY, PREFS] {
        assert!(ours.ask("get", "", payload).contains("<service-unavailable "), "{payload}");
    }
    assert!(!ours.ask("get", "anna@localhost", DISCO).contains("urn:xmpp:mam:2"));
    drop((ours, theirs));
    broker.stop();

    let broker = Broker::start(ALLOWED);
    broker.cli(&["account", "archive", "anna@localhost", "allowed"]);
    let (mut ours, mut theirs) = (Wire::available(&broker, "anna", "a"), Wire::available(&broker, "bert", "b"));
    let features = "<feature var='urn:xmpp:mam:2'/><feature var='urn:xmpp:mam:2#extended'/>";
    assert!(ours.ask("get", "anna@localhost", DISCO).contains(features));
    assert!(!theirs.ask("get", "bert@localhost", DISCO).contains("urn:xmpp:mam:2"));
    assert!(!theirs.ask("get", "localhost", DISCO).contains("urn:xmpp:mam:2"));
    assert!(theirs.ask("set", "", QUERY).contains("<service-unavailable "));
    assert!(theirs.ask("set", "anna@localhost", QUERY).contains("<forbidden "));
    // The account has not chosen, and the operator's default is to keep nothing.
    theirs.send("<message to='anna@localhost' type='chat'><body>in</body></message>");
    assert!(!ours.until("</message>").contains("stanza-id"));
    assert!(ours.ask("set", "", QUERY).contains("<count>0</count>"));
    assert_eq!(broker.metric("plaza_archived_total", ""), 0);
    drop((ours, theirs));
    broker.stop();
}

#[test]
fn what_is_archived_is_read_page_by_page_and_survives_a_broker_that_is_killed() {
    let mut broker = Broker::start(ALLOWED);
    for (one, other) in broker.pairs() {
        broker.cli(&["account", "archive", one, "allowed"]);
        broker.cli(&["account", "archive", other, "allowed"]);
        let (us, them) = (format!("{one}@localhost"), format!("{other}@localhost"));
        let (mut ours, mut theirs) = (Wire::available(&broker, one, "a"), Wire::available(&broker, other, "b"));
        want(&mut ours, "always");
        want(&mut theirs, "always");
        let mut ids = Vec::new();
        for index in 0..7 {
            ours.send(format!("<message to='{them}/b' type='chat'><body>{index}</body></message>"));
            let said = theirs.until("</message>");
            ids.push(between(&said, &format!("<stanza-id xmlns='urn:xmpp:sid:0' by='{them}' id='"), "'/>").to_owned());
        }
        // What was shown is stored: forwards, from the end, flipped, and by id.
        drop((ours, theirs));
        broker.restart();
        let (mut ours, mut theirs) = (Wire::available(&broker, one, "a"), Wire::available(&broker, other, "b"));
        let said = theirs.ask("set", "", QUERY);
        assert_eq!(bodies(&said), ["0", "1", "2"]);
        let first = format!("<message from='{them}' to='{them}/b'><result xmlns='urn:xmpp:mam:2' id='{}'>", ids[0]);
        assert!(said.contains(&first) && said.contains("<count>7</count>") && !said.contains("complete"), "{said}");
        assert!(said.contains(&format!("<message xmlns='jabber:client' to='{them}/b' type='chat' from='{us}/a'>")));
        let said = theirs.ask("set", "", &page(&format!("<max>5</max><after>{}</after>", ids[4])));
        assert_eq!(bodies(&said), ["5", "6"]);
        assert!(said.contains("<fin xmlns='urn:xmpp:mam:2' complete='true'>"), "{said}");
        let last = page("<max>2</max><before/>").replace("</query>", "<flip-page/></query>");
        let said = theirs.ask("set", &them, &last);
        assert_eq!(bodies(&said), ["6", "5"]);
        assert!(said.contains(&format!("<first>{}</first><last>{}</last>", ids[5], ids[6])), "{said}");
        assert!(theirs.ask("set", "", &page("<after>unknown</after>")).contains("<item-not-found "));
        let said = theirs.ask("get", "", "<metadata xmlns='urn:xmpp:mam:2'/>");
        assert_eq!(between(&said, "<start id='", "'"), ids[0]);
        assert_eq!(between(&said, "<end id='", "'"), ids[6]);
        // The sender has its own, under ids of its own.
        let said = ours.ask("set", "", &page("<max>1</max>"));
        assert_eq!(bodies(&said), ["0"]);
        assert_ne!(between(&said, "<first>", "</first>"), ids[0]);

        // Away, it is given what was kept, and finds it in its archive.
        drop(theirs);
        broker.wait("for the session to end", |_| {
            ours.ask("get", &format!("{them}/b"), "<q xmlns='urn:q'/>").contains("<service-unavailable ")
        });
        let kept = broker.metric("plaza_offline_kept_total", "");
        ours.send(format!("<message to='{them}' type='chat'><body>later</body></message>"));
        broker.wait("for it to be kept", |broker| broker.metric("plaza_offline_kept_total", "") > kept);
        let mut theirs = Wire::login(&broker, other, "b");
        theirs.send("<presence/>");
        let said = theirs.until("</message>");
        let id = between(&said, &format!("<stanza-id xmlns='urn:xmpp:sid:0' by='{them}' id='"), "'/>").to_owned();
        assert!(said.contains("<delay "), "{said}");
        assert_eq!(bodies(&theirs.ask("set", "", &page(&format!("<after>{}</after>", ids[6])))), ["later"]);

        // The operator takes it away, with all that is in it.
        broker.cli(&["account", "archive", other, "off"]);
        assert!(theirs.ask("set", "", QUERY).contains("<service-unavailable "));
        ours.send(format!("<message to='{them}/b' type='chat'><body>after</body></message>"));
        assert!(!theirs.until("</message>").contains("stanza-id"));
        broker.cli(&["account", "archive", other, "allowed"]);
        assert!(theirs.ask("set", "", &page(&format!("<after>{id}</after>"))).contains("<item-not-found "));
        assert!(theirs.ask("get", "", PREFS).contains("default='never'"));
        // The next pair begins anew.
        broker.cli(&["account", "archive", one, "off"]);
    }
    broker.stop();
}

#[test]
fn a_flood_of_messages_is_archived_whole_and_read_back_whole() {
    const COUNT: usize = 500;
    let mut broker = Broker::start("[archive]\nmodes = ['always']\ndefault = 'always'\n");
    for (one, other) in broker.pairs() {
        broker.cli(&["account", "archive", other, "allowed"]);
        let (mut ours, mut theirs) = (Wire::available(&broker, one, "a"), Wire::available(&broker, other, "b"));
        let filler = "f".repeat(1_000);
        let flood: String = (0..COUNT)
            .map(|n| format!("<message to='{other}@localhost' type='chat'><body>{n}</body><x xmlns='urn:x'>{filler}</x></message>"))
            .collect();
        let sender = std::thread::spawn(move || {
            ours.send(flood);
            ours.ping();
            ours
        });
        let mut heard = Vec::new();
        for _ in 0..COUNT {
            heard.push(bodies(&theirs.until("</message>"))[0].to_owned());
        }
        drop(sender.join().unwrap());
        let expected: Vec<String> = (0..COUNT).map(|n| n.to_string()).collect();
        assert_eq!(heard, expected);
        let (mut read, mut after) = (Vec::new(), String::new());
        loop {
            let said = theirs.ask("set", "", &page(&format!("<after>{after}</after>")));
            let found = bodies(&said);
            assert!(!found.is_empty() && found.len() <= 100 && said.len() < 256 * 1024, "{}", said.len());
            read.extend(found.into_iter().map(str::to_owned));
            if said.contains("complete='true'") {
                break;
            }
            after = between(&said, "<last>", "</last>").to_owned();
        }
        assert_eq!(read, expected);
        drop(theirs);
        broker.cli(&["account", "remove", other]);
        broker.cli(&["account", "add", other, "--password", crate::broker::PASSWORD]);
        broker.cli(&["account", "archive", other, "allowed"]);
        let mut theirs = Wire::login(&broker, other, "b");
        assert!(theirs.ask("set", "", QUERY).contains("<count>0</count>"), "it went with the account");
        drop(theirs);
    }
    broker.stop();
}
