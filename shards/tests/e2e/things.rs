//! The Thing Registry over the running broker: what is acknowledged is there after a power cut, whoever asks from wherever.

use serde_json::Value;

use crate::broker::{Broker, USERS};
use crate::wire::Wire;

const REGISTRY: &str = "things.localhost";
const GENERATIONS: [&str; 4] =
    ["urn:xmpp:iot:discovery", "urn:ieee:iot:disco:1.0", "urn:nf:iot:disco:1.0", "urn:nfi:iot:disco:1.0"];

fn tags(serial: usize) -> String {
    format!(
        "<str name='MAN' value='maker.example'/><num name='SN' value='{serial}'/><str name='KEY' value='k{serial}'/>"
    )
}

fn json(broker: &Broker, words: &[&str]) -> Value {
    let output = broker.try_cli(&[&["thing", "--json"], words].concat());
    assert!(output.status.success(), "{words:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_registry_is_found_beside_the_server() {
    let broker = Broker::start("");
    let mut anna = Wire::login(&broker, "anna", "a");
    let items = anna.ask("get", "localhost", "<query xmlns='http://jabber.org/protocol/disco#items'/>");
    assert!(items.contains("<item jid='things.localhost' name='Thing Registry'/>"), "{items}");
    let info = anna.ask("get", REGISTRY, "<query xmlns='http://jabber.org/protocol/disco#info'/>");
    for ns in GENERATIONS {
        assert!(info.contains(&format!("<feature var='{ns}'/>")), "{info}");
    }
    drop(anna);
    broker.stop();
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_in_every_generation() {
    let mut broker = Broker::start("");
    let pairs = broker.pairs();
    let all = || pairs.iter().flat_map(|pair| GENERATIONS.into_iter().map(move |ns| (pair, ns))).enumerate();
    for (serial, ((device, owner), ns)) in all() {
        let mut theirs = Wire::login(&broker, device, "d");
        let register = format!("<register xmlns='{ns}' id='n{serial}'>{}</register>", tags(serial));
        let answer = theirs.ask("set", REGISTRY, &register);
        assert!(answer.contains("type='result'") && answer.contains("from='things.localhost'"), "{answer}");
        drop(theirs);
        broker.restart();
        let mut ours = Wire::login(&broker, owner, "o");
        let wrong = ours.ask("set", REGISTRY, &format!("<mine xmlns='{ns}'>{}</mine>", tags(1_000)));
        assert!(wrong.contains("<item-not-found "), "{wrong}");
        let claimed = ours.ask("set", REGISTRY, &format!("<mine xmlns='{ns}'>{}</mine>", tags(serial)));
        assert!(claimed.contains(&format!("<claimed xmlns='{ns}' jid='{device}@localhost' ")), "{claimed}");
        drop(ours);
        broker.restart();
        let mut theirs = Wire::login(&broker, device, "d");
        let answer = theirs.ask("set", REGISTRY, &register);
        let told = format!("<claimed xmlns='{ns}' jid='{owner}@localhost' public='true'/>");
        assert!(answer.contains(&told), "{answer}");
        drop(theirs);
    }
    let listed = json(&broker, &["list"]);
    assert_eq!(listed["things"]["things"].as_array().unwrap().len(), all().count());
    broker.stop();
}

/// A device that comes back is told to ask anew, if that is expected; it acknowledges that if it is to.
fn cleared(broker: &Broker, device: &str, expected: bool, acknowledges: bool) {
    let mut wire = Wire::available(broker, device, "d");
    let mut said = wire.ping();
    // What the store is asked first comes behind the first answers.
    for _ in 0..if expected { 400 } else { 20 } {
        if said.contains("<clearCache ") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
        said.push_str(&wire.ping());
    }
    assert_eq!(said.matches("<clearCache ").count(), usize::from(expected), "{said}");
    if acknowledges {
        let (before, _) = said.split_once("<clearCache ").unwrap();
        let id = before.rsplit(" id='").next().unwrap().split('\'').next().unwrap();
        wire.send(format!("<iq type='result' id='{id}' to='{REGISTRY}'/>"));
        wire.ping();
    }
    wire.finish();
}

#[test]
fn a_device_forgets_its_answers_behind_a_power_cut_and_not_behind_a_stop() {
    let mut broker = Broker::start("");
    let [(device, owner), ..] = broker.pairs()[..] else { panic!("pairs") };
    let ns = GENERATIONS[2];
    let mut theirs = Wire::login(&broker, device, "d");
    theirs.ask("set", REGISTRY, &format!("<register xmlns='{ns}'>{}</register>", tags(1)));
    theirs.finish();
    let mut ours = Wire::login(&broker, owner, "o");
    assert!(ours.ask("set", REGISTRY, &format!("<mine xmlns='{ns}'>{}</mine>", tags(1))).contains("<claimed "));
    ours.finish();
    // Its owner is a new one.
    cleared(&broker, device, true, true);
    cleared(&broker, device, false, false);
    broker.restart_in_order();
    cleared(&broker, device, false, false);
    broker.restart();
    cleared(&broker, device, true, false);
    // It has not heard.
    cleared(&broker, device, true, true);
    cleared(&broker, device, false, false);
    broker.restart_in_order();
    cleared(&broker, device, false, false);
    broker.stop();
}

#[test]
fn public_things_are_found_in_every_generation_also_after_a_restart() {
    let mut broker = Broker::start("[things]\nsearches_per_second_max = 1000");
    let [(device, owner), ..] = broker.pairs()[..] else { panic!("pairs") };
    let other = USERS.into_iter().find(|user| ![device, owner].contains(user)).unwrap();
    let mut theirs = Wire::login(&broker, device, "d");
    let register = |serial: usize, ns: &str, attrs: &str| {
        format!("<register xmlns='{ns}' id='n{serial}' {attrs}>{}</register>", tags(serial))
    };
    for (serial, ns) in GENERATIONS.into_iter().enumerate() {
        theirs.ask("set", REGISTRY, &register(serial, ns, "selfOwned='true'"));
    }
    for serial in [4, 5] {
        theirs.ask("set", REGISTRY, &register(serial, GENERATIONS[2], ""));
        let mut ours = Wire::login(&broker, owner, "o");
        let public = serial == 4;
        let mine = format!("<mine xmlns='{}' public='{public}'>{}</mine>", GENERATIONS[2], tags(serial));
        assert!(ours.ask("set", REGISTRY, &mine).contains("<claimed "));
    }
    drop(theirs);
    for restarted in [false, true] {
        if restarted {
            broker.restart();
        }
        for ns in GENERATIONS {
            let mut anybody = Wire::login(&broker, other, "x");
            let search = |attrs: &str, operators: &str| format!("<search xmlns='{ns}' {attrs}>{operators}</search>");
            let maker = "<strMask name='man' value='maker*' wildcard='*'/>";
            let found = anybody.ask("get", REGISTRY, &search("maxCount='4'", maker));
            assert!(found.contains(&format!("<found xmlns='{ns}' more='true'><thing ")), "{found}");
            assert_eq!(found.matches("<thing ").count(), 4, "{found}");
            assert!(!found.contains("KEY"), "{found}");
            let found = anybody.ask("get", REGISTRY, &search("offset='4'", maker));
            assert!(found.contains("more='false'") && found.matches("<thing ").count() == 1, "{found}");
            let found = anybody.ask("get", REGISTRY, &search("", "<numGtEq name='SN' value='4'/>"));
            assert_eq!(found.matches("<thing ").count(), 1, "{found}");
            let whose = found.contains(&format!("owner='{owner}@localhost'"));
            assert_eq!(whose, ns == GENERATIONS[0], "{found}");
            let key = anybody.ask("get", REGISTRY, &search("", "<strEq name='KEY' value='k1'/>"));
            assert!(key.contains(&format!("<found xmlns='{ns}' more='false'></found>")), "{key}");
        }
    }
    broker.stop();
}

#[test]
fn operators_see_things_give_them_away_and_take_them() {
    let mut broker = Broker::start("");
    let [(device, owner), ..] = broker.pairs()[..] else { panic!("pairs") };
    let ns = GENERATIONS[2];
    let mut theirs = Wire::login(&broker, device, "d");
    for serial in 0..3 {
        let register = format!("<register xmlns='{ns}' id='n{serial}'>{}</register>", tags(serial));
        assert!(theirs.ask("set", REGISTRY, &register).contains("type='result'"));
    }
    broker.cli(&["thing", "claim", device, "--owner", owner, "--id", "n1", "--private"]);
    let thing = json(&broker, &["show", device, "--id", "n1"])["thing"].clone();
    assert_eq!(
        (thing["owner"].as_str(), thing["public"].as_bool()),
        (Some(&*format!("{owner}@localhost")), Some(false))
    );
    assert_eq!(thing["tags"]["SN"].as_f64(), Some(1.0));
    assert!(!thing.to_string().contains("KEY") && !thing.to_string().contains("k1"), "{thing}");
    assert_eq!(json(&broker, &["list", "--owner", owner])["things"]["things"].as_array().unwrap().len(), 1);
    broker.cli(&["thing", "disown", device, "--id", "n1"]);
    let update = format!("<update xmlns='{ns}' id='n1'><str name='NAME' value='x'/></update>");
    let answer = theirs.ask("set", REGISTRY, &update);
    assert!(answer.contains(&format!("<disowned xmlns='{ns}' id='n1'/>")), "{answer}");
    let refused = broker.try_cli(&["thing", "disown", device, "--id", "n1"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    // Whose account goes owns nothing any more.
    let mut ours = Wire::login(&broker, owner, "o");
    let mine = format!("<mine xmlns='{ns}'>{}</mine>", tags(2));
    assert!(ours.ask("set", REGISTRY, &mine).contains("<claimed "));
    broker.cli(&["account", "remove", owner]);
    assert!(ours.ended());
    let answer = theirs.ask("set", REGISTRY, &update.replace("n1", "n2"));
    assert!(answer.contains("<disowned "), "{answer}");
    drop(theirs);
    broker.cli(&["account", "remove", device]);
    assert_eq!(json(&broker, &["list"])["things"]["things"].as_array().unwrap().len(), 0);
    broker.stop();
}

#[test]
fn operators_have_a_thing_enforced_and_devices_that_are_there_told_of_their_owners() {
    let mut broker = Broker::start("");
    for (device, owner) in broker.pairs() {
        let stranger = USERS.into_iter().find(|user| ![device, owner].contains(user)).unwrap();
        let ns = GENERATIONS[3];
        let mut theirs = Wire::available(&broker, device, "d");
        assert!(theirs.ask("set", REGISTRY, &format!("<register xmlns='{ns}'/>")).contains("type='result'"));
        broker.cli(&["thing", "claim", device, "--owner", owner]);
        theirs.until(&format!("<claimed xmlns='{ns}' jid='{owner}@localhost'"));
        let mut ours = Wire::available(&broker, owner, "o");
        let mut other = Wire::available(&broker, stranger, "s");
        let set = "<set xmlns='urn:nfi:iot:ctr:1.0'><b n='Output' v='true'/></set>";
        let command = format!("<iq type='set' id='c' to='{device}@localhost/d'>{set}</iq>");
        other.send(&command);
        theirs.until(set);
        broker.cli(&["thing", "enforce", device, "on"]);
        assert_eq!(json(&broker, &["show", device])["thing"]["enforced"].as_bool(), Some(true));
        // The shards hear of it in a moment.
        let mut is_refused = || {
            other.send(&command);
            loop {
                if theirs.ping().contains(set) {
                    return false;
                }
                if other.ping().contains("<forbidden ") {
                    return true;
                }
            }
        };
        assert!((0..20).any(|_| is_refused()));
        assert!(is_refused(), "and stays so");
        ours.until("<canControl xmlns='urn:nf:iot:prov:o:1.0'");
        ours.send(&command);
        theirs.until(set);
        broker.cli(&["thing", "disown", device]);
        assert_eq!(json(&broker, &["show", device])["thing"]["enforced"].as_bool(), Some(false));
    }
    broker.stop();
}
