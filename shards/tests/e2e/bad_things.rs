//! The Thing Registry and decision support over the running broker, asked by those who guess, race, pretend or ask for too
//! much.

use std::time::Duration;

use crate::broker::PASSWORD;
use crate::scene::Scene;
use crate::wire::Wire;

const REGISTRY: &str = "things.localhost";
const DISCO: &str = "urn:nf:iot:disco:1.0";
const DEVICE: &str = "urn:nf:iot:prov:d:1.0";
const OWNER: &str = "urn:nf:iot:prov:o:1.0";

fn register(wire: &mut Wire, attrs: &str, tags: &str) -> String {
    wire.ask("set", REGISTRY, &format!("<register xmlns='{DISCO}'{attrs}>{tags}</register>"))
}

fn mine(wire: &mut Wire, tags: &str) -> String {
    wire.ask("set", REGISTRY, &format!("<mine xmlns='{DISCO}'>{tags}</mine>"))
}

fn search(wire: &mut Wire, attrs: &str, operators: &str) -> String {
    wire.ask("get", REGISTRY, &format!("<search xmlns='{DISCO}'{attrs}>{operators}</search>"))
}

fn tags(serial: &str, key: &str) -> String {
    format!("<str name='MAN' value='maker.example'/><str name='SN' value='{serial}'/><str name='KEY' value='{key}'/>")
}

#[test]
fn guesses_races_and_pretences_are_refused_and_cost_nobody_else() {
    let mut scene = Scene::open("[things]\nsearches_per_second_max = 1000");
    let pairs = scene.pairs();
    for user in ["gina@localhost", "hugo@localhost"] {
        scene.broker.cli(&["account", "add", user, "--password", PASSWORD]);
    }
    for (&(device, owner), guesses) in pairs.iter().zip([1_000, 20]) {
        let other = "hugo";
        let mut theirs = Wire::available(&scene.broker, device, "d");
        let mut ours = Wire::available(&scene.broker, owner, "o");
        let mut others = Wire::available(&scene.broker, other, "x");

        let mut guesser = Wire::available(&scene.broker, "gina", "g");

        // Guessing: all are told the same, and after ten in a minute the right one is no better.
        register(&mut theirs, " id='g'", &tags("guess", "right"));
        for number in 0..guesses {
            let said = mine(&mut guesser, &tags("guess", &format!("wrong{number}")));
            scene.check("96 a wrong key", said.contains("<item-not-found "), &said);
        }
        let said = mine(&mut guesser, &tags("guess", "right"));
        scene.note("96 a thousand guesses", &said, "type='error'…<item-not-found ");

        // Two at once: one has it, and the thing hears of one.
        register(&mut theirs, " id='r'", &tags("race", "both"));
        for wire in [&mut ours, &mut others] {
            let tags = tags("race", "both");
            wire.send(format!("<iq type='set' id='race' to='{REGISTRY}'><mine xmlns='{DISCO}'>{tags}</mine></iq>"));
        }
        let said = [ours.until("</iq>"), others.until("</iq>")];
        let won = said.iter().filter(|said| said.contains("<claimed ")).count();
        let lost = said.iter().filter(|said| said.contains("<item-not-found ")).count();
        scene.check("97 two owners at once", won + lost == 2 && won <= 1, &said.join(" and "));
        let mut heard = if won == 1 { theirs.until("<claimed ") } else { String::new() };
        heard += &theirs.ping();
        let told = heard.matches("<claimed ").count();
        scene.check("97 the thing is told once", told == won, &format!("{won} won, it was told {told} times"));

        // What is claimed stays what it was; another's nodes are another's.
        register(&mut theirs, " id='c'", &tags("claimed", "key"));
        let said = mine(&mut ours, &tags("claimed", "key"));
        scene.note("98 claimed", &said, "<claimed ");
        let said = register(&mut theirs, " id='c'", "<str name='SN' value='changed'/>");
        scene.note("98 registered again", &said, &format!("<claimed …jid='{owner}@localhost'…"));
        let said = search(&mut others, "", "<strEq name='SN' value='changed'/>");
        scene.check("98 its tags are what they were", !said.contains("<thing "), &said);
        let said = register(&mut others, &format!(" jid='{device}@localhost' id='c'"), &tags("theirs", "key"));
        scene.note("98 another's node", &said, "type='error'…<forbidden ");

        // Too much, and what is no number.
        let many: String = (0..600).map(|number| format!("<str name='T{number}' value='x'/>")).collect();
        scene.note("99 tags by the hundred", &register(&mut theirs, " id='m'", &many), "<resource-constraint ");
        for number in ["1e999", "NaN", "INF", "0x10", ""] {
            let said = register(&mut theirs, " id='m'", &format!("<num name='V' value='{number}'/>"));
            scene.note(&format!("99 the number {number}"), &said, "<bad-request ");
        }
        let said = register(&mut theirs, " id='m'", "<str name='' value='x'/>");
        scene.note("99 no name", &said, "<bad-request ");
        let said = search(&mut others, "", "<strEq name='KEY' value='key'/>");
        scene.check("99 a key is not searched for", !said.contains("<thing "), &said);
        let said = search(&mut others, "", "<strEq name='SN' value='claimed'/>");
        scene.note("99 a key is not told", &said, "<thing …");
        scene.check("99 a key is not told", !said.contains("KEY"), &said);

        // A search for everything is told a page, and one that is too dear is refused.
        for number in 0..120 {
            let own = format!("<str name='MAN' value='maker.example'/><str name='SN' value='s{number}'/>");
            register(&mut theirs, &format!(" selfOwned='true' id='s{number}'"), &own);
        }
        let everything = "<strEq name='MAN' value='maker.example'/>";
        let said = search(&mut ours, " maxCount='100000'", everything);
        scene.note("100 everything", &said, "more='true'");
        scene.check("100 a page of it", said.matches("<thing ").count() == 100, &said);
        let said = search(&mut ours, " offset='100'", everything);
        scene.check("100 the rest of it", said.matches("<thing ").count() >= 20, &said);
        let said = search(&mut ours, "", "<strRegEx name='SN' value='('/>");
        scene.note("100 an expression that is none", &said, "<bad-request ");
        // None of them is refused for being one of too many in a second.
        std::thread::sleep(Duration::from_secs(1));
        for pattern in [r"(a{1,100}){1,100}", r"\w{1000}", r"(?i)([\pL\pN]{20}){20}"] {
            let said = search(&mut others, "", &format!("<strRegEx name='SN' value='{pattern}'/>"));
            scene.note("100 an expression that asks for much", &said, "<resource-constraint ");
        }
        let said = search(&mut others, "", "<strRegEx name='SN' value='s[0-9]{1,9}'/>");
        scene.note("100 an expression", &said, "<thing ");

        // In the registry's name.
        for payload in [
            format!("<claimed xmlns='{DISCO}' jid='{other}@localhost'/>"),
            format!("<clearCache xmlns='{DEVICE}'/>"),
            format!("<canReadResponse xmlns='{DEVICE}' jid='{other}@localhost' result='true'/>"),
        ] {
            let said = others.ask("set", REGISTRY, &payload);
            scene.note("101 to the registry", &said, "type='error'…");
            let said = others.ask("set", &format!("{device}@localhost"), &payload);
            scene.note("101 to a device's account", &said, "type='error'…");
        }
        let heard = theirs.ping();
        scene.check("101 nothing of it is passed on as the registry's", !heard.contains("iq type='set'"), &heard);

        // A question is asked, the thing changes hands, and the former owner answers.
        let reader = format!("{device}-{owner}@elsewhere.example");
        let said = theirs.ask(
            "get",
            REGISTRY,
            &format!("<canRead xmlns='{DEVICE}' jid='{reader}' m='true'><nd id='c'/></canRead>"),
        );
        scene.note("102 nobody has decided", &said, "result='false'");
        let question = ours.until("</message>");
        let key =
            question.split("key='").nth(1).and_then(|rest| rest.split('\'').next()).unwrap_or_default().to_owned();
        scene.broker.cli(&["thing", "disown", &format!("{device}@localhost"), "--id", "c"]);
        let rule = format!(
            "<canReadRule xmlns='{OWNER}' jid='{device}@localhost' remoteJid='{reader}' key='{key}' result='true'><fromJid/></canReadRule>"
        );
        let said = ours.ask("set", REGISTRY, &rule);
        scene.note("102 from who owned it", &said, "type='error'…<forbidden ");

        // Empty is not there; all else is another.
        for attrs in [" id='q'", " id='q' src=''", " src='' pt='' id='q'"] {
            register(&mut theirs, attrs, &tags("quad", "one"));
        }
        register(&mut theirs, " id='q' src='s'", &tags("quad-s", "one"));
        register(&mut theirs, " id='q' pt='s'", &tags("quad-p", "one"));
        for serial in ["quad", "quad-s", "quad-p"] {
            let said = mine(&mut ours, &tags(serial, "one"));
            scene.note(&format!("108 {serial}"), &said, "<claimed ");
        }
        // Who guesses at a thing does not hold up its owner.
        register(&mut theirs, " id='h'", &tags("held", "right"));
        for number in 0..20 {
            mine(&mut guesser, &tags("held", &format!("wrong{number}")));
        }
        let said = mine(&mut ours, &tags("held", "right"));
        scene.note("96 who has not guessed", &said, "<claimed ");
        let said = unregister_all(&mut theirs);
        scene.check("108 all are let go", said.contains("type='result'"), &said);
    }
    scene.close();
}

/// Unregisters what the account registered, as far as the next pair needs it.
fn unregister_all(wire: &mut Wire) -> String {
    let mut said = String::new();
    let nodes = (0..120).map(|number| format!("id='s{number}'"));
    let named =
        ["id='g'", "id='h'", "id='r'", "id='c'", "id='q'", "id='q' src='s'", "id='q' pt='s'"].map(str::to_owned);
    for node in nodes.chain(named) {
        said = wire.ask("set", REGISTRY, &format!("<unregister xmlns='{DISCO}' {node}/>"));
    }
    said
}
