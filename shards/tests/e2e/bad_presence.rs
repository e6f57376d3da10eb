//! Presence and rosters under bad input: who asks for what is not theirs, asks everybody, or hands in what is no roster item.

use std::io::Write as _;

use crate::scene::Scene;
use crate::wire::Wire;

/// Addresses asked for their presence by one session.
const ASKED: usize = 10_000;
/// Roster items an account may have meanwhile.
const ITEMS_MAX: usize = 50;

#[test]
fn who_probes_a_stranger_hears_the_same_of_everybody_and_of_nobody() {
    let mut scene = Scene::open("");
    // Somebody who is there and says much, whatever shard, somebody who is away, and nobody.
    let mut there: Vec<Wire> = Vec::new();
    for user in ["bert", "cleo"] {
        let mut wire = Wire::available(&scene.broker, user, "there");
        wire.send("<presence><show>dnd</show><status>secret</status></presence>");
        wire.ping();
        there.push(wire);
    }
    let mut heard = Vec::new();
    for who in ["bert", "cleo", "dora", "nobody", "nobody.at.all", "bert", "nobody"] {
        let mut spy = Wire::available(&scene.broker, "anna", "spy");
        for to in [format!("{who}@localhost"), format!("{who}@localhost/there"), format!("{who}@localhost/gone")] {
            spy.send(format!("<presence type='probe' to='{to}'/>"));
            // What a probe is answered goes before the answer to a question that follows it.
            let mut said = spy.ask("get", &format!("{who}@localhost"), "<query xmlns='urn:example:unknown'/>");
            said.truncate(said.find("<iq ").unwrap());
            said.push_str(&spy.ping());
            scene.note("64 probe", &said, "");
            heard.push(said.replace(who, "…"));
        }
    }
    // Nobody asked for presence, so that nobody has to learn that it was denied (RFC 6121 §A.3.4).
    heard.sort_unstable();
    heard.dedup();
    scene.check("64 probe", heard == [""], &format!("there is something to hear: {heard:?}"));
    for wire in &mut there {
        let noticed = wire.ping();
        scene.check("64 probe", noticed.is_empty(), &format!("who was probed got {noticed}"));
    }
    drop(there);
    scene.close();
}

#[test]
fn who_asks_everybody_is_held_to_the_size_of_a_roster() {
    let mut scene = Scene::open(&format!("roster_items_max = {ITEMS_MAX}"));
    let mut anna = Wire::available(&scene.broker, "anna", "greedy");
    let mut socket = anna.socket.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        for number in 0..ASKED {
            let to = if number == ITEMS_MAX / 2 { "cleo".to_owned() } else { format!("thing-{number}") };
            socket.write_all(format!("<presence type='subscribe' to='{to}@localhost'/>").as_bytes()).unwrap();
        }
    });
    let mut refused = 0;
    while refused < ASKED - ITEMS_MAX {
        let said = anna.until("</presence>");
        let as_expected = said.matches("<presence ").count() == 1 && said.contains("<resource-constraint ");
        scene.check("65 one too many", as_expected, &said);
        refused += 1;
        if refused % 1_000 == 0 {
            scene.undisturbed("65 meanwhile");
        }
    }
    writer.join().unwrap();
    let after = anna.ask("get", "", "<query xmlns='jabber:iq:roster'/>");
    scene.note("65 all asked", &after, "<query xmlns='jabber:iq:roster'…</iq>");
    let items = after.matches("<item ").count();
    scene.check("65 all asked", items == ITEMS_MAX, &format!("{items} items"));
    scene.check("65 all asked", !after.contains("<presence"), &after);

    // Asking the same again and again reaches them once.
    let mut cleo = Wire::login(&scene.broker, "cleo", "asked");
    cleo.send("<presence/>");
    cleo.until("type='subscribe'");
    cleo.until("/>");
    for _ in 0..1_000 {
        anna.send("<presence type='subscribe' to='cleo@localhost'/>");
    }
    anna.ping();
    scene.check("65 the same again", cleo.ping().is_empty(), "was asked twice");
    scene.note("65 the same again", "", "");
    drop((anna, cleo));
    scene.close();
}

#[test]
fn who_is_asked_by_many_hears_of_so_many_and_the_others_are_told() {
    let mut scene = Scene::open("requests_max = 2");
    let mut told = 0;
    let mut asking: Vec<Wire> = Vec::new();
    for user in ["anna", "bert", "cleo"] {
        let mut wire = Wire::available(&scene.broker, user, "asks");
        wire.send("<presence type='subscribe' to='dora@localhost' id='q'/>");
        // Each is settled before the next asks: the answer to an iq comes from where the question went.
        let answer = wire.ask("get", "dora@localhost", "<query xmlns='urn:x'/>");
        asking.push(wire);
        scene.note("65 many", &answer, "<service-unavailable");
        told += usize::from(answer.contains("type='error'") && answer.contains("<resource-constraint "));
    }
    scene.check("65 many", told == 1, &format!("{told} were told that there is no room"));
    let mut dora = Wire::login(&scene.broker, "dora", "asked");
    dora.send("<presence/>");
    let heard = dora.ask("get", "", "<query xmlns='jabber:iq:roster'/>") + &dora.ping();
    let questions = heard.matches("type='subscribe'").count();
    scene.check("65 many", questions == 2, &format!("{questions} questions: {heard}"));
    drop((asking, dora));
    scene.close();
}

#[test]
fn what_is_no_roster_item_changes_no_roster() {
    let mut scene = Scene::open("");
    let set = |items: &str| format!("<iq type='set' id='q'><query xmlns='jabber:iq:roster'>{items}</query></iq>");
    let mut anna = Wire::available(&scene.broker, "anna", "looks");
    let query = "<query xmlns='jabber:iq:roster'/>";
    anna.ask("get", "", query);
    anna.send(set("<item jid='lamp@localhost' name='Lamp'><group>home</group></item>"));
    anna.until("<iq type='result' id='q'");
    let before = anna.ask("get", "", query);
    anna.ping();

    let groups: String = (0..100).map(|number| format!("<group>{number}</group>")).collect();
    let long = "x".repeat(2_000);
    let cases: Vec<(&str, String, &str)> = vec![
        ("66 no item", String::new(), "<bad-request"),
        ("66 two items", "<item jid='a@b'/><item jid='c@b'/>".into(), "<bad-request"),
        ("66 another's item", "<item xmlns='urn:x' jid='a@b'/>".into(), "<bad-request"),
        ("66 no address", "<item name='x'/>".into(), "<bad-request"),
        ("66 bad address", "<item jid='@b'/>".into(), "<jid-malformed"),
        ("66 a resource", "<item jid='a@b/c'/>".into(), "<bad-request"),
        ("66 own address", "<item jid='anna@localhost'/>".into(), "<not-allowed"),
        ("66 own address, written otherwise", "<item jid='ANNA@LocalHost/x'/>".into(), "<not-allowed"),
        ("66 own address removed", "<item jid='anna@localhost' subscription='remove'/>".into(), "<not-allowed"),
        ("66 a group twice", "<item jid='lamp@localhost'><group>a</group><group>a</group></item>".into(), "<bad-req"),
        ("66 an empty group", "<item jid='lamp@localhost'><group/></item>".into(), "<not-acceptable"),
        ("66 a long group", format!("<item jid='lamp@localhost'><group>{long}</group></item>"), "<not-acceptable"),
        ("66 a long name", format!("<item jid='lamp@localhost' name='{long}'/>"), "<not-acceptable"),
        ("66 many groups", format!("<item jid='lamp@localhost'>{groups}</item>"), "<not-acceptable"),
        ("66 nobody removed", "<item jid='a@b' subscription='remove'/>".into(), "<item-not-found"),
    ];
    for (case, items, expected) in cases {
        scene.answered(case, &set(&items), &format!("type='error'…{expected}"));
    }
    for who in ["fred", "dora", "nobody"] {
        for (kind, payload) in [
            ("get", query.to_owned()),
            ("set", "<query xmlns='jabber:iq:roster'><item jid='anna@localhost' subscription='both'/></query>".into()),
        ] {
            let iq = format!("<iq type='{kind}' id='q' to='{who}@localhost'>{payload}</iq>");
            scene.answered("66 another's roster", &iq, "type='error'…<forbidden");
        }
    }
    let unasked = anna.ping();
    scene.check("66 pushes", !unasked.contains("<iq"), &unasked);
    let after = anna.ask("get", "", query);
    let item = "<item jid='lamp@localhost' name='Lamp' subscription='none'><group>home</group></item>";
    scene.check("66 roster", after.contains(item) && after.matches("<item").count() == 1, &after);
    let version = |said: &str| said.split(" ver='").nth(1).map(|rest| rest.split('\'').next().unwrap().to_owned());
    scene.check("66 roster", version(&before) == version(&after), "another version");
    drop(anna);
    scene.close();
}
