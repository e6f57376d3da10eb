//! Stanzas that are wrong, lead nowhere or come unasked: each is answered as the rules say, or not at all.

use std::time::Duration;

use crate::scene::Scene;
use crate::wire::Wire;

#[test]
fn odd_stanzas_are_answered_as_the_rules_say() {
    let mut scene = Scene::open("");
    let query = "<query xmlns='urn:example:unknown'/>";
    let cases: Vec<(&str, String, &str)> = vec![
        ("57 no id", format!("<iq type='get' to='localhost'>{query}</iq>"), "type='error'…<bad-request"),
        ("57 type", format!("<iq type='foo' id='q' to='localhost'>{query}</iq>"), "type='error'…<bad-request"),
        ("57 no type", format!("<iq id='q' to='localhost'>{query}</iq>"), "type='error'…<bad-request"),
        ("57 no child", "<iq type='get' id='q' to='localhost'/>".into(), "id='q'…<bad-request"),
        ("57 two children", format!("<iq type='set' id='q' to='localhost'>{query}{query}</iq>"), "<bad-request"),
        (
            "57 no child, to another",
            "<iq type='set' id='q' to='fred@localhost/bystander'/>".into(),
            "id='q'…<bad-request",
        ),
        ("58 namespace", format!("<iq type='get' id='q' to='localhost'>{query}</iq>"), "<service-unavailable"),
        ("58 own account", format!("<iq type='get' id='q'>{query}</iq>"), "<service-unavailable"),
        ("59 result", "<iq type='result' id='q' to='localhost'/>".into(), ""),
        ("59 result to an account", "<iq type='result' id='q' to='fred@localhost'/>".into(), ""),
        ("59 error", "<iq type='error' id='q' to='localhost'><error type='cancel'/></iq>".into(), ""),
        ("60 error to nobody", "<message type='error' to='nobody@localhost'/>".into(), ""),
        ("60 error to no resource", "<message type='error' to='fred@localhost/gone'/>".into(), ""),
        ("60 presence error", "<presence type='error' to='nobody@localhost'/>".into(), ""),
        ("60 iq error", "<iq type='error' id='q' to='nobody@localhost'/>".into(), ""),
        ("60 iq error to another domain", "<iq type='error' id='q' to='a@elsewhere.example'/>".into(), ""),
        ("61 @x", "<message to='@x'><body>x</body></message>".into(), "<jid-malformed"),
        ("61 a@", "<message to='a@'><body>x</body></message>".into(), "<jid-malformed"),
        ("61 a@b/", "<message to='a@localhost/'><body>x</body></message>".into(), "<jid-malformed"),
        ("61 empty", "<iq type='get' id='q' to=''><query xmlns='urn:x'/></iq>".into(), "<jid-malformed"),
        ("61 long", format!("<message to='{}@localhost'><body>x</body></message>", "a".repeat(1024)), "<jid-malformed"),
        (
            "61 long resource",
            format!("<message to='a@localhost/{}'><body>x</body></message>", "a".repeat(1024)),
            "<jid-malformed",
        ),
        ("61 prohibited", "<message to='a&lt;b@localhost'><body>x</body></message>".into(), "<jid-malformed"),
        ("61 IDNA", "<message to='a@-x-.example'><body>x</body></message>".into(), "<jid-malformed"),
        ("61 in an error", "<message type='error' to='@x'/>".into(), ""),
        (
            "62 unknown user",
            format!("<iq type='get' id='q' to='nobody@localhost/x'>{query}</iq>"),
            "<service-unavailable",
        ),
        (
            "62 offline user",
            format!("<iq type='get' id='q' to='dora@localhost/x'>{query}</iq>"),
            "<service-unavailable",
        ),
        ("remote", "<message to='a@elsewhere.example'><body>x</body></message>".into(), "<remote-server-not-found"),
    ];
    for (case, input, expected) in cases {
        scene.answered(case, &input, expected);
    }
    scene.close();
}

#[test]
fn a_message_to_a_resource_that_is_gone_goes_where_table_1_says() {
    let mut scene = Scene::open("");
    let types = ["chat", "normal", "groupchat", "headline", "error"];
    let message = |kind: &str| format!("<message type='{kind}' to='cleo@localhost/gone'><body>{kind}</body></message>");
    // Nobody of that account is there.
    for kind in types {
        let expected = if matches!(kind, "normal" | "groupchat") { "<service-unavailable" } else { "" };
        scene.answered(&format!("63 {kind}, alone"), &message(kind), expected);
    }
    // Somebody else of that account is: a chat message is taken by them (RFC 6121 §8.5.3.2.1).
    let mut here = Wire::login(&scene.broker, "cleo", "here");
    here.send("<presence/>");
    // Of those the chat message alone was kept.
    let kept = here.until("</message>");
    scene.check("63 kept", kept.contains("<body>chat</body>") && kept.contains("<delay "), &kept);
    scene.check("63 kept", here.ping().is_empty(), "more was kept");
    for kind in types {
        let expected = if matches!(kind, "normal" | "groupchat") { "<service-unavailable" } else { "" };
        scene.answered(&format!("63 {kind}"), &message(kind), expected);
        let got = if kind == "chat" { here.until("</message>") } else { here.ping() };
        let right = if kind == "chat" { got.contains("<body>chat</body>") } else { got.is_empty() };
        scene.check(&format!("63 {kind}"), right, &format!("the one who is there got {got}"));
    }
    drop(here);
    scene.close();
}

#[test]
fn strangers_learn_nothing_of_presence() {
    let mut scene = Scene::open("");
    let mut heard = ["fred", "nobody", "dora"].map(|who| {
        let mut wire = Wire::available(&scene.broker, "anna", "spy");
        wire.send(format!("<presence type='probe' to='{who}@localhost'/>"));
        std::thread::sleep(Duration::from_millis(100));
        let said = wire.ping().replace(who, "…");
        let leaks = !said.is_empty() && !said.contains("unsubscribed");
        scene.check("64 probe", !leaks, &said);
        said
    });
    heard.sort_unstable();
    assert_eq!(heard[0], heard[2], "64 who is online, offline or does not exist sounds alike");
    scene.note("64 probe", "", "");
    scene.close();
}

#[test]
fn presence_ends_once_and_the_last_of_many_counts() {
    let mut scene = Scene::open("");
    // Without a close tag, those told by directed presence learn of the end once.
    let mut anna = Wire::available(&scene.broker, "anna", "short");
    anna.send("<presence to='fred@localhost/bystander'/>");
    scene.bystander.until("from='anna@localhost/short'");
    scene.bystander.until_any(&["/>", "</presence>"]);
    anna.finish();
    anna.drain();
    let said = scene.bystander.until("type='unavailable'");
    assert!(said.contains("<presence"), "{said}");
    scene.bystander.until_any(&["/>", "</presence>"]);
    scene.note("29 an end without a close", "", "");
    let mut wire = Wire::available(&scene.broker, "anna", "odd");
    wire.send("<message to='anna@localhost/short'><body>x</body></message>");
    let said = wire.until("</message>");
    scene.note("29 it is gone", &said, "<service-unavailable");
    drop(wire);

    // Many presences: one's other resource sees them in order, the last at last.
    let mut desk = Wire::available(&scene.broker, "anna", "desk");
    let mut busy = Wire::available(&scene.broker, "anna", "busy");
    desk.until("from='anna@localhost/busy'");
    for at in 0..5_000 {
        busy.send(format!("<presence><status>{at}</status></presence>"));
        if at % 100 == 98 {
            desk.ping();
        }
    }
    busy.ping();
    desk.until("<status>4999</status></presence>");
    scene.note("30 many presences", &desk.ping(), "");
    drop((desk, busy));
    scene.close();
}
