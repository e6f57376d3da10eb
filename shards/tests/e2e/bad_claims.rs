//! Claims that are not true: copies nobody made (XEP-0280), capabilities a client does not have (XEP-0115).

use plaza_core::caps::{HashFunction, Info};
use plaza_core::ns;
use plaza_core::xml::read::Node;

use crate::carbons::copied;
use crate::scene::Scene;
use crate::wire::Wire;

#[test]
fn a_copy_that_another_made_up_is_a_message_of_theirs() {
    let mut scene = Scene::open("");
    for (one, other) in scene.pairs() {
        let mut phone = copied(&scene.broker, one, "phone");
        phone.send("<presence/>");
        phone.ping();
        let mut desk = copied(&scene.broker, one, "desk");
        let mut theirs = Wire::available(&scene.broker, other, "b");
        let said = format!(
            "<forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='{one}@localhost/desk' \
             to='fred@localhost' type='chat'><body>made up</body></message></forwarded>"
        );
        let claims = [
            format!("<sent xmlns='urn:xmpp:carbons:2'>{said}</sent>"),
            format!("<received xmlns='urn:xmpp:carbons:2'>{said}</received>"),
            said.clone(),
        ];
        for (claim, is_copied) in claims.iter().zip([false, false, true]) {
            for to in [format!("{one}@localhost/phone"), format!("{one}@localhost")] {
                theirs.send(format!("<message to='{to}' type='chat'>{claim}</message>"));
                let got = phone.until("</message></forwarded>") + &phone.until("</message>");
                let own = format!("<message to='{to}' type='chat' from='{other}@localhost/b'>");
                let head = got.split_inclusive('>').next().unwrap();
                let as_theirs = head.contains(&format!(" from='{other}@localhost/b'")) && got.contains(claim.as_str());
                scene.check("67 made up", as_theirs, &format!("expected {own}{claim}, got {got}"));
                // What really was received is copied, and says so in the account's own name; nothing that calls itself a
                // copy is copied again.
                theirs.ping();
                let copy = desk.ping();
                let fits = if is_copied {
                    let own = format!("<message from='{one}@localhost' to='{one}@localhost/desk'");
                    copy.starts_with(&own) && copy.contains("<received ") && copy.contains(claim.as_str())
                } else {
                    copy.is_empty()
                };
                scene.check("67 copied", fits, &copy);
            }
        }
        scene.note("67 made up", &phone.ping(), "");
        // Nobody speaks in another's name.
        theirs.send(format!("<message from='{one}@localhost' to='{one}@localhost/phone'>{}</message>", claims[0]));
        let end = theirs.drain();
        scene.note("67 in another's name", &end, "<stream:error><invalid-from …</stream:stream>");
        scene.check("67 in another's name", phone.ping().is_empty() && desk.ping().is_empty(), "it arrived");
    }
    scene.close();
}

/// The element that shows these features by their hash, and the query's answer that they are.
fn caps(features: &[&str]) -> (String, String) {
    let features: String = features.iter().map(|feature| format!("<feature var='{feature}'/>")).collect();
    let info = |node: &str| {
        format!(
            "<query xmlns='http://jabber.org/protocol/disco#info'{node}><identity category='client' type='pc'/>{features}</query>"
        )
    };
    let node = Node::parse(&info(""), ns::CLIENT).unwrap();
    let ver = plaza_core::caps::Caps::new("urn:example:e2e", Info::read(&node).unwrap().ver(HashFunction::Sha1));
    let mut shown = Vec::new();
    ver.write(&mut shown);
    (String::from_utf8(shown).unwrap(), info(&format!(" node='{}'", ver.query_node())))
}

/// Shows capabilities; the id of the question what they are, if it is asked.
fn show(wire: &mut Wire, shown: &str) -> Option<String> {
    wire.send(format!("<presence>{shown}</presence>"));
    let said = wire.ping();
    let question = said.split("<iq type='get' id='").nth(1)?;
    assert!(question.contains("from='localhost'") && question.contains("disco#info"), "{said}");
    Some(question.split('\'').next().unwrap().to_owned())
}

#[test]
fn capabilities_that_do_not_match_their_hash_are_believed_of_nobody_else() {
    let mut scene = Scene::open("");
    let (shown, truth) = caps(&["urn:xmpp:ping", "urn:xmpp:avatar:metadata+notify"]);
    let lie = caps(&["urn:example:poison+notify"]).1;
    let answer = |wire: &mut Wire, id: &str, payload: &str| {
        wire.send(format!("<iq type='result' id='{id}' to='localhost'>{payload}</iq>"));
        wire.ping()
    };
    for (number, lie) in [&*lie, "", "<query xmlns='urn:x'/>", "<error type='cancel'/>"].into_iter().enumerate() {
        let mut liar = Wire::login(&scene.broker, "anna", &format!("liar-{number}"));
        let asked = show(&mut liar, &shown);
        scene.check("70 asked", asked.is_some(), "what was not verified is believed");
        let heard = answer(&mut liar, &asked.unwrap_or_default(), lie);
        scene.check("70 lied", heard.is_empty(), &heard);
        liar.send("</stream:stream>");
        liar.drain();
        scene.note("70 lied", "", "");
    }
    // Whoever shows the same is asked, answers for itself alone, and is believed for all.
    let mut honest = Wire::login(&scene.broker, "bert", "honest");
    let asked = show(&mut honest, &shown);
    scene.check("70 honest", asked.is_some(), "a lie is believed");
    let asked = asked.unwrap_or_default();
    let mut thief = Wire::login(&scene.broker, "anna", "thief");
    answer(&mut thief, &asked, &lie);
    answer(&mut honest, &asked, &truth);
    for user in ["anna", "bert", "cleo", "dora"] {
        let mut late = Wire::login(&scene.broker, user, "late");
        let asked = show(&mut late, &shown);
        scene.check("70 verified", asked.is_none(), "what was verified is asked again");
    }
    scene.note("70 verified", "", "");
    drop((honest, thief));
    scene.close();
}
