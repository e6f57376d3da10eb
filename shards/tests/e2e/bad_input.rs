//! What peers do wrong with streams and XML, against the running broker: each case has its reaction, and nobody else
//! notices.

use std::time::Duration;

use crate::broker::PASSWORD;
use crate::scene::{Scene, error};
use crate::wire::{HEADER, Wire, auth, bind};

/// Most the broker may grow over something it refuses.
const GROWTH_MAX: u64 = 8 << 20;
/// Longest stanza after login, by default.
const STANZA_BYTES_MAX: usize = 256 * 1024;

#[test]
fn bad_streams_and_bad_xml_end_the_stream() {
    let mut scene = Scene::open("");
    let header = |change: fn(String) -> String| change(HEADER.to_owned());
    let opened = |rest: &str| format!("{HEADER}{rest}");
    let long = "x".repeat(9_000);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("1 HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), "not-well-formed"),
        ("2 ClientHello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaa".to_vec(), "not-well-formed"),
        ("3 stream namespace", header(|it| it.replace("etherx", "aether")).into(), "invalid-namespace"),
        ("4 server content", header(|it| it.replace("jabber:client", "jabber:server")).into(), "invalid-namespace"),
        ("5 no version", header(|it| it.replace(" version='1.0' ", " ")).into(), "unsupported-version"),
        ("5 version 0.9", header(|it| it.replace(" version='1.0' ", " version='0.9' ")).into(), "unsupported-version"),
        ("7 unknown host", header(|it| it.replace("localhost", "elsewhere.example")).into(), "host-unknown"),
        (
            "7 no address",
            header(|it| it.replace("to='localhost'", "to='localhost' from='@'")).into(),
            "improper-addressing",
        ),
        ("8 latin-1", header(|it| it.replace("'1.0'?", "'1.0' encoding='ISO-8859-1'?")).into(), "unsupported-encoding"),
        ("8 UTF-16", HEADER.encode_utf16().flat_map(u16::to_le_bytes).collect(), "unsupported-encoding"),
        ("8 byte order mark", format!("\u{feff}{HEADER}").into(), "unsupported-encoding"),
        ("9 overlong", [HEADER.as_bytes(), b"<a>\xc0\xaf</a>"].concat(), "unsupported-encoding"),
        ("9 surrogate", [HEADER.as_bytes(), b"<a>\xed\xa0\x80</a>"].concat(), "unsupported-encoding"),
        ("11 DTD", opened("<!DOCTYPE a [<!ENTITY b 'c'>]>").into(), "restricted-xml"),
        ("11 DTD ahead", "<?xml version='1.0'?><!DOCTYPE lolz [<!ENTITY a 'b'>]>".into(), "restricted-xml"),
        ("12 comment", opened("<!-- c -->").into(), "restricted-xml"),
        ("12 instruction", opened("<?php ?>").into(), "restricted-xml"),
        ("12 entity", opened("<auth>&foo;</auth>").into(), "restricted-xml"),
        ("14 &#0;", opened("<auth>&#0;</auth>").into(), "not-well-formed"),
        ("14 &#xD800;", opened("<auth>&#xD800;</auth>").into(), "not-well-formed"),
        ("14 raw control", opened("<auth>\u{1}</auth>").into(), "not-well-formed"),
        ("15 tags", opened("<auth></oath>").into(), "not-well-formed"),
        ("15 attributes", opened("<auth a='1' a='2'/>").into(), "not-well-formed"),
        ("15 through prefixes", opened("<a xmlns:b='u' xmlns:c='u' b:x='' c:x=''/>").into(), "not-well-formed"),
        ("15 prefix", opened("<b:a/>").into(), "not-well-formed"),
        ("15 xmlns:xml", opened("<a xmlns:xml=''/>").into(), "not-well-formed"),
        ("17 text", opened("hello").into(), "bad-format"),
        ("19 nesting", opened(&"<a>".repeat(100_000)).into(), "policy-violation"),
        ("20 attribute", opened(&format!("<a b='{long}'/>")).into(), "policy-violation"),
        ("20 name", opened(&format!("<{long}/>")).into(), "policy-violation"),
        ("22 elements", opened(&format!("<a>{}</a>", "<b/>".repeat(32))).into(), "policy-violation"),
        ("22 bytes", opened(&format!("<a>{long}</a>")).into(), "policy-violation"),
        ("26 stanza", opened("<message to='anna@localhost'><body>x</body></message>").into(), "not-authorized"),
        ("26 presence", opened("<presence/>").into(), "not-authorized"),
        ("51 bind before login", opened(&bind("x")).into(), "not-authorized"),
    ];
    for (case, input, condition) in cases {
        scene.refused(case, input, &error(condition));
    }
    scene.refused(
        "6 version 2.0",
        header(|it| it.replace(" version='1.0' ", " version='2.0' ")) + "</stream:stream>",
        " version='1.0'…<stream:features>…</stream:stream>",
    );
    scene.refused(
        "7 no host, and there is one only",
        header(|it| it.replace("to='localhost'", "")) + "</stream:stream>",
        " from='localhost'…<stream:features>…</stream:stream>",
    );
    scene.refused("16 prefix", "<s:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams'></s:stream>", "<stream:features>…</stream:stream>");
    scene.refused(
        "22 as much as is allowed",
        opened(&format!(
            "<auth xmlns='{}' mechanism='x'>{}</auth></stream:stream>",
            crate::wire::SASL,
            "<b/>".repeat(31)
        )),
        "<invalid-mechanism/>…</stream:stream>",
    );
    scene.refused(
        "28 behind the end",
        opened("</stream:stream><message/>garbage<"),
        "</stream:features></stream:stream>",
    );
    scene.close();
}

#[test]
fn a_peer_that_does_not_close_is_closed() {
    let mut scene = Scene::open("");
    let mut wire = Wire::connect(scene.broker.plain);
    wire.send("GET / HTTP/1.1\r\n\r\n");
    wire.until("</stream:stream>");
    // Nothing is said or closed on this side; what is still said is ignored.
    wire.try_send("GET / HTTP/1.1\r\n\r\n");
    let said = wire.drain();
    scene.note("1 a peer that stays", &said, "");
    scene.check("1 a peer that stays", said.is_empty(), &said);
    scene.close();
}

#[test]
fn bad_xml_of_a_session_ends_it_and_reaches_nobody() {
    let mut scene = Scene::open("");
    let to = "to='fred@localhost/bystander'";
    let body = |text: &str| format!("<message {to}><body>{text}</body></message>");
    let cases: Vec<(&str, String, &str)> = vec![
        ("4 server stanza", "<message xmlns='jabber:server'/>".into(), "invalid-namespace"),
        (
            "11 many laughs",
            format!("<!DOCTYPE l [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;'>]>{}", body("&b;")),
            "restricted-xml",
        ),
        ("11 external entity", format!("<!DOCTYPE l SYSTEM 'file:///etc/passwd'>{}", body("x")), "restricted-xml"),
        ("11 DTD inside", body("<!DOCTYPE l>"), "restricted-xml"),
        ("12 comment", body("<!-- -->"), "restricted-xml"),
        ("12 instruction", body("<?php ?>"), "restricted-xml"),
        ("12 entity", body("&foo;"), "restricted-xml"),
        ("12 entity in an attribute", format!("<message {to} id='&foo;'/>"), "restricted-xml"),
        ("14 &#0;", body("&#0;"), "not-well-formed"),
        ("14 &#xD800;", body("&#xD800;"), "not-well-formed"),
        ("14 &#x110000;", body("&#x110000;"), "not-well-formed"),
        ("14 raw control", body("\u{1}"), "not-well-formed"),
        ("14 raw noncharacter", body("\u{ffff}"), "not-well-formed"),
        ("15 tags", format!("<message {to}><body>x</message></body>"), "not-well-formed"),
        ("15 attributes", format!("<message {to} {to}><body>x</body></message>"), "not-well-formed"),
        (
            "15 through prefixes",
            format!("<message {to}><b xmlns:b='u' xmlns:c='&#117;' b:x='' c:x=''/></message>"),
            "not-well-formed",
        ),
        ("15 prefix", body("<b:a/>"), "not-well-formed"),
        ("15 xmlns:xml", body("<a xmlns:xml=''/>"), "not-well-formed"),
        ("15 markup in an attribute", format!("<message {to} id='<'/>"), "not-well-formed"),
        ("17 text", "hello".into(), "bad-format"),
        ("18 element", "<unknown/>".into(), "unsupported-stanza-type"),
        ("19 nesting", format!("<message {to}>{}", "<a>".repeat(100_000)), "policy-violation"),
        ("56 from", format!("<message {to} from='dora@localhost'><body>x</body></message>"), "invalid-from"),
        ("56 another resource", format!("<message {to} from='anna@localhost/other'/>"), "invalid-from"),
        ("56 no address", format!("<message {to} from='@'/>"), "invalid-from"),
    ];
    for (case, input, condition) in cases {
        scene.ended(case, input, condition);
    }
    scene.close();
}

#[test]
fn bad_utf8_reaches_nobody_however_it_is_split() {
    let mut scene = Scene::open("");
    let bad: [(&str, &[u8]); 8] = [
        ("9 overlong", b"\xc0\xaf"),
        ("9 overlong, three bytes", b"\xe0\x80\xaf"),
        ("9 surrogate", b"\xed\xa0\x80"),
        ("9 beyond U+10FFFF", b"\xf4\x90\x80\x80"),
        ("9 truncated", b"\xe2\x82"),
        ("9 without a lead", b"\x80"),
        ("9 no UTF-8 at all", b"\xff"),
        ("10 smuggling", b"\xe2<message to='fred@localhost/bystander'><body>smuggled</body></message>"),
    ];
    for (case, bytes) in bad {
        let start = b"<message to='fred@localhost/bystander'><body>x";
        let stanza = [start.as_slice(), bytes, b"</body></message>"].concat();
        for at in (start.len()..).take(bytes.len().min(5)) {
            let mut wire = Wire::available(&scene.broker, "anna", "bad");
            wire.send(&stanza[..at]);
            wire.try_send(&stanza[at..]);
            let said = wire.drain();
            let refused = said.contains("<unsupported-encoding ") || said.contains("<not-well-formed ");
            scene.check(case, refused, &format!("split at {at}, got {said}"));
            scene.note(case, &said, "<stream:error><…</stream:stream>");
        }
    }
    scene.close();
}

#[test]
fn what_is_too_large_is_refused_at_the_limit() {
    let mut scene = Scene::open("");
    let to = "to='fred@localhost/bystander'";
    let attributes = |count: u32| (0..count).fold(String::new(), |all, at| all + &format!(" a{at}='x'"));
    let cases = [
        ("20 100 attributes", format!("<message {to}{}/>", attributes(100))),
        ("20 1 000 000 attributes", format!("<message {to}{}/>", attributes(1_000_000))),
        ("20 10 MB attribute", format!("<message {to} id='{}'/>", "x".repeat(10_000_000))),
        ("20 1 MB name", format!("<{}/>", "x".repeat(1_000_000))),
        ("20 1 MB prefix", format!("<{}:x/>", "x".repeat(1_000_000))),
        ("20 1 MB attribute name", format!("<message {to} {}=''/>", "x".repeat(1_000_000))),
        ("20 33 namespaces", {
            let declared = (0..33).fold(String::new(), |all, at| all + &format!(" xmlns:a{at}='u:{at}'"));
            format!("<message {to}><a{declared}/></message>")
        }),
        ("20 2 001 elements", format!("<message {to}>{}</message>", "<a/>".repeat(2_000))),
        ("23 10 MB stanza", format!("<message {to}><body>{}</body></message>", "x".repeat(10_000_000))),
    ];
    // The first time fills its pools; nothing may come of a second.
    for &(case, ref input) in &cases {
        scene.ended(case, input, "policy-violation");
    }
    let before = scene.broker.resident();
    for &(case, ref input) in &cases {
        scene.ended(case, input, "policy-violation");
        let grown = scene.broker.resident().saturating_sub(before);
        scene.check(case, grown < GROWTH_MAX, &format!("grew by {grown} bytes"));
    }
    // To the byte: one more is refused, and nothing of it was on its way already.
    let stanza = |bytes: usize| {
        let frame = format!("<message {to} id='m'><body></body></message>");
        frame.replace("></body", &format!(">{}</body", "x".repeat(bytes - frame.len())))
    };
    scene.ended("23 a byte too many", stanza(STANZA_BYTES_MAX + 1), "policy-violation");
    let mut wire = Wire::available(&scene.broker, "anna", "large");
    wire.send(stanza(STANZA_BYTES_MAX));
    let got = scene.bystander.until("</message>");
    scene.check("23 as large as can be", got.len() >= STANZA_BYTES_MAX, &format!("{} bytes came", got.len()));
    let said = wire.ping();
    scene.note("23 as large as can be", &said, "");
    drop(wire);
    scene.close();
}

#[test]
fn what_xml_allows_is_delivered() {
    let mut scene = Scene::open("");
    let mut sender = Wire::available(&scene.broker, "bert", "pen");
    // Case 13, and the same stanza split at every byte.
    let stanza = "<message to='fred@localhost/bystander' id='m' type='chat'><body>a &amp; <![CDATA[<b>]]> ü\u{1f980}</body></message>";
    for at in 0..=stanza.len() {
        sender.send(&stanza.as_bytes()[..at]);
        std::thread::sleep(Duration::from_millis(1));
        sender.send(&stanza.as_bytes()[at..]);
        let got = scene.bystander.until("</message>");
        assert!(
            got.contains("<body>a &amp; &lt;b&gt; ü\u{1f980}</body>")
                || got.contains("<body>a &amp; &lt;b> ü\u{1f980}</body>"),
            "split at {at}: {got}"
        );
        assert!(got.contains("from='bert@localhost/pen'"), "{got}");
    }
    for byte in stanza.as_bytes() {
        sender.send([*byte]);
    }
    scene.bystander.until("</message>");
    // Case 56, the other way round: one's own address is allowed, and the full one is what arrives.
    for from in ["bert@localhost", "bert@localhost/pen", "BERT@localhost/pen"] {
        sender.send(format!("<message from='{from}' to='fred@localhost/bystander'><body>x</body></message>"));
        let got = scene.bystander.until("</message>");
        assert!(got.contains("from='bert@localhost/pen'") && got.matches("from=").count() == 1, "{got}");
    }
    // A login split at every byte.
    let plain = auth("PLAIN", &format!("\0anna\0{PASSWORD}"));
    let first = format!("{HEADER}{plain}{HEADER}{}", bind("desk"));
    for at in (0..first.len()).step_by(3) {
        let mut wire = Wire::connect(scene.broker.sasl_plain);
        wire.send(&first.as_bytes()[..at]);
        std::thread::sleep(Duration::from_millis(1));
        wire.send(&first.as_bytes()[at..]);
        wire.until("</jid>");
        wire.until("</iq>");
        wire.ping();
    }
    scene.note("13 and login", "", "");
    drop(sender);
    scene.close();
}

#[test]
fn white_space_costs_nothing() {
    let mut scene = Scene::open("");
    let spaces = " ".repeat(100_000);
    let mut session = Wire::available(&scene.broker, "bert", "pen");
    let mut stranger = Wire::open(scene.broker.plain);
    let before = scene.broker.resident();
    for _ in 0..1_000 {
        session.send(&spaces);
    }
    for _ in 0..100 {
        stranger.send(&spaces);
    }
    session.ping();
    let said = stranger.scram("anna", PASSWORD);
    let grown = scene.broker.resident().saturating_sub(before);
    scene.note("25 white space", &said, "<success");
    scene.check("25 white space", grown < GROWTH_MAX, &format!("grew by {grown} bytes"));
    drop((session, stranger));
    scene.close();
}
