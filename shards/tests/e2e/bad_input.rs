//! What peers do wrong, against the running broker: each case has its reaction, and nobody else notices.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConnection;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::broker::{Broker, PASSWORD, PATIENCE};
use crate::wire::{HEADER, Wire};

const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
const BIND: &str = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";

/// A broker, and a session that must be served whatever others do.
struct Scene {
    broker: Broker,
    bystander: Wire,
    failures: Vec<String>,
}

impl Scene {
    fn open() -> Self {
        let broker = Broker::start("");
        let bystander = Wire::available(&broker, "fred", "bystander");
        Self { broker, bystander, failures: Vec::new() }
    }

    fn note(&mut self, case: &str, said: &str, expected: &str) {
        let unasked = self.bystander.ping();
        if !unasked.is_empty() {
            self.failures.push(format!("{case}: the bystander got {unasked}"));
        }
        let met = expected.split('…').try_fold(said, |rest, part| Some(&rest[rest.find(part)? + part.len()..]));
        if met.is_none() {
            self.failures.push(format!("{case}: expected {expected}, got {said}"));
        }
    }

    /// Says something on a fresh connection: the broker must answer as expected and end it.
    fn refused(&mut self, case: &str, input: impl AsRef<[u8]>, expected: &str) {
        let mut wire = Wire::connect(self.broker.plain);
        wire.try_send(input);
        let said = wire.drain();
        self.note(case, &said, expected);
    }

    /// Says something as a session: the broker must end the stream with this error.
    fn ended(&mut self, case: &str, input: impl AsRef<[u8]>, condition: &str) {
        let mut wire = Wire::available(&self.broker, "anna", "bad");
        wire.try_send(input);
        let said = wire.drain();
        self.note(case, &said, &format!("<stream:error><{condition} …</stream:stream>"));
    }

    /// Says something as a session, which lives on: what comes before the next pong.
    fn answered(&mut self, case: &str, input: &str, expected: &str) {
        let mut wire = Wire::available(&self.broker, "anna", "odd");
        wire.send(input);
        // Routed answers may come from another shard, behind the pong: give them a moment.
        let mut said = wire.ping();
        let end = Instant::now() + Duration::from_secs(2);
        while said.is_empty() && !expected.is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
            said = wire.ping();
        }
        if expected.is_empty() && !said.is_empty() {
            self.failures.push(format!("{case}: expected silence, got {said}"));
        }
        self.note(case, &said, expected);
    }

    fn close(self) {
        drop(self.bystander);
        assert!(self.failures.is_empty(), "\n{}\n", self.failures.join("\n"));
        self.broker.stop();
    }
}

fn error(condition: &str) -> String {
    format!("<stream:error><{condition} …</stream:stream>")
}

#[test]
fn bad_streams_and_bad_xml_end_the_stream() {
    let mut scene = Scene::open();
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
        ("8 latin-1", header(|it| it.replace("'1.0'?", "'1.0' encoding='ISO-8859-1'?")).into(), "unsupported-encoding"),
        ("8 UTF-16", HEADER.encode_utf16().flat_map(u16::to_le_bytes).collect(), ""),
        ("9 overlong", [HEADER.as_bytes(), b"<a>\xc0\xaf</a>"].concat(), ""),
        ("9 surrogate", [HEADER.as_bytes(), b"<a>\xed\xa0\x80</a>"].concat(), ""),
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
        ("22 elements", opened(&format!("<a>{}</a>", "<b/>".repeat(33))).into(), "policy-violation"),
        ("22 bytes", opened(&format!("<a>{long}</a>")).into(), "policy-violation"),
        ("26 stanza", opened("<message to='anna@localhost'><body>x</body></message>").into(), "not-authorized"),
        ("51 bind before auth", opened(BIND).into(), "not-authorized"),
    ];
    for (case, input, condition) in cases {
        if condition.is_empty() {
            scene.refused(case, input, "<stream:error>…</stream:stream>");
        } else {
            scene.refused(case, input, &error(condition));
        }
    }
    scene.refused(
        "6 version 2.0",
        header(|it| it.replace(" version='1.0' ", " version='2.0' ")) + "</stream:stream>",
        " version='1.0'…<stream:features>…</stream:stream>",
    );
    scene.refused("16 prefix", "<s:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams'></s:stream>", "<stream:features>…</stream:stream>");
    scene.refused(
        "28 behind the end",
        opened("</stream:stream><message/>garbage<"),
        "</stream:features></stream:stream>",
    );
    scene.close();
}

#[test]
fn bad_xml_of_a_session_ends_it_and_reaches_nobody() {
    let mut scene = Scene::open();
    let big = "x".repeat(300_000);
    let to = "to='fred@localhost/bystander'";
    scene.ended(
        "10 smuggling",
        [b"<message to='fred@localhost/bystander'><body>\xe2<message to='a'>".as_slice(), b"</body></message>"]
            .concat(),
        "not-well-formed",
    );
    scene.ended("12 comment", format!("<message {to}><body><!-- --></body></message>"), "restricted-xml");
    scene.ended("17 text", "hello", "bad-format");
    scene.ended("18 element", "<unknown/>", "unsupported-stanza-type");
    scene.ended("4 server stanza", "<message xmlns='jabber:server'/>", "invalid-namespace");
    scene.ended("19 nesting", "<a>".repeat(100_000), "policy-violation");
    let attributes: String = (0..100).fold(String::new(), |all, at| all + &format!(" a{at}='x'"));
    scene.ended("20 attributes", format!("<message {attributes}/>"), "policy-violation");
    scene.ended("23 size", format!("<message {to}><body>{big}</body></message>"), "policy-violation");
    scene.ended("56 from", format!("<message {to} from='dora@localhost'><body>x</body></message>"), "invalid-from");
    scene.close();
}

#[test]
fn what_xml_allows_is_delivered() {
    let mut scene = Scene::open();
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
    // Case 25: whitespace costs nothing.
    let before = scene.broker.resident();
    for _ in 0..100 {
        sender.send(" ".repeat(100_000));
    }
    sender.ping();
    let grown = scene.broker.resident().saturating_sub(before);
    assert!(grown < 8 << 20, "whitespace took {grown} bytes");
    drop(sender);
    // A login split at every byte.
    let first = format!(
        "{HEADER}<auth xmlns='{SASL}' mechanism='PLAIN'>{}</auth>{HEADER}{BIND}",
        STANDARD.encode(format!("\0anna\0{PASSWORD}"))
    );
    for at in (0..first.len()).step_by(3) {
        let mut wire = Wire::connect(scene.broker.sasl_plain);
        wire.send(&first.as_bytes()[..at]);
        std::thread::sleep(Duration::from_millis(1));
        wire.send(&first.as_bytes()[at..]);
        wire.until("</jid>");
        wire.until("</iq>");
        wire.ping();
    }
    scene.close();
}

#[test]
fn bad_sasl_and_bad_binds_are_refused() {
    let mut scene = Scene::open();
    let plain = |text: &str| format!("<auth xmlns='{SASL}' mechanism='PLAIN'>{}</auth>", STANDARD.encode(text));
    let scram = |text: &str| format!("<auth xmlns='{SASL}' mechanism='SCRAM-SHA-256'>{}</auth>", STANDARD.encode(text));
    scene.broker.cli(&["account", "disable", "emil@localhost"]);
    let cases: Vec<(&str, String, &str)> = vec![
        ("41 mechanism", format!("<auth xmlns='{SASL}' mechanism='MAGIC'/>"), "invalid-mechanism"),
        ("42 Base64", format!("<auth xmlns='{SASL}' mechanism='SCRAM-SHA-256'>a b*=</auth>"), "incorrect-encoding"),
        ("43 no nonce", scram("n,,n=anna"), "malformed-request"),
        ("43 extension", scram("n,,m=x,n=anna,r=abc"), ""),
        ("43 commas", scram("n,,,,,,"), "malformed-request"),
        ("44 password", plain("\0anna\0wrong"), "not-authorized"),
        ("44 user", plain("\0nobody\0wrong"), "not-authorized"),
        ("45 authzid", plain("bert@localhost\0anna\0open-sesame"), "invalid-authzid"),
        ("46 binding in clear", scram("p=tls-exporter,,n=anna,r=abc"), ""),
        ("48 abort", format!("<abort xmlns='{SASL}'/>"), "aborted"),
        ("50 disabled", plain("\0emil\0open-sesame"), "account-disabled"),
    ];
    for (case, input, condition) in cases {
        let mut wire = Wire::open(scene.broker.sasl_plain);
        wire.send(input);
        let said = wire.until_any(&["</failure>", "</challenge>", "</success>"]);
        scene.note(case, &said, &format!("<failure …<{condition}"));
        // Another attempt is open.
        let said = wire.scram("anna", PASSWORD);
        scene.note(case, &said, "<success");
    }
    let mut wire = Wire::open(scene.broker.plain);
    wire.send(plain("\0anna\0open-sesame"));
    let said = wire.until("</failure>");
    scene.note("47 PLAIN where it is not offered", &said, "<failure");
    drop(wire);
    let mut wire = Wire::open(scene.broker.sasl_plain);
    for _ in 0..3 {
        wire.send(plain("\0anna\0wrong"));
        let said = wire.until("</failure>");
        scene.note("49 attempts", &said, "not-authorized");
    }
    wire.send(plain("\0anna\0wrong"));
    let said = wire.drain();
    scene.note("49 attempts", &said, &error("policy-violation"));
    // The same salt each time for a user that does not exist.
    let salts = [(); 2].map(|()| {
        let mut wire = Wire::open(scene.broker.plain);
        wire.send(scram("n,,n=nobody,r=abc"));
        let challenge = wire.until("</challenge>");
        let text = challenge.split(['>', '<']).rev().nth(2).unwrap();
        let text = String::from_utf8(STANDARD.decode(text).unwrap()).unwrap();
        text.split(',').nth(1).unwrap().to_owned()
    });
    assert_eq!(salts[0], salts[1]);

    let bind = |resource: &str| {
        format!(
            "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>{resource}</resource></bind></iq>"
        )
    };
    let mut wire = Wire::authenticated(&scene.broker, "anna");
    wire.send("<message/>");
    let said = wire.drain();
    scene.note("27 stanza instead of a restart", &said, "<stream:error>…</stream:stream>");
    for (case, resource) in [("52 long", "r".repeat(1024)), ("52 prohibited", "\u{7f}".to_owned())] {
        let mut wire = Wire::authenticated(&scene.broker, "anna");
        wire.send(format!("{HEADER}{}", bind(&resource)));
        wire.until("</stream:features>");
        let said = wire.until("</iq>");
        scene.note(case, &said, "type='error'…<bad-request");
    }
    scene.answered("51 second bind", BIND, "type='error'…<not-allowed");

    let mut old = Wire::available(&scene.broker, "bert", "same");
    let mut new = Wire::available(&scene.broker, "bert", "same");
    let said = old.drain();
    scene.note("53 conflict", &said, &error("conflict"));
    new.ping();
    let mut others: Vec<Wire> = (0..4).map(|at| Wire::login(&scene.broker, "bert", &format!("r{at}"))).collect();
    let mut wire = Wire::authenticated(&scene.broker, "bert");
    wire.send(format!("{HEADER}{}", bind("more")));
    wire.until("</stream:features>");
    let said = wire.until("</iq>");
    scene.note("54 resources", &said, "type='error'…<resource-constraint");
    others.iter_mut().for_each(|other| _ = other.ping());
    drop((wire, old, new, others));
    // Case 55: one account, however it is written.
    let mut wire = Wire::open(scene.broker.plain);
    let said = wire.scram("ＡＮＮＡ", PASSWORD);
    scene.note("55 case", &said, "<success");
    drop(wire);
    scene.close();
}

#[test]
fn odd_stanzas_are_answered_as_the_rules_say() {
    let mut scene = Scene::open();
    let query = "<query xmlns='urn:example:unknown'/>";
    let cases: Vec<(&str, String, &str)> = vec![
        ("57 no id", format!("<iq type='get' to='localhost'>{query}</iq>"), "type='error'…<bad-request"),
        ("57 type", format!("<iq type='foo' id='q' to='localhost'>{query}</iq>"), "type='error'…<bad-request"),
        ("57 no child", "<iq type='get' id='q' to='localhost'/>".into(), "id='q'…<bad-request"),
        ("57 two children", format!("<iq type='set' id='q' to='localhost'>{query}{query}</iq>"), "<bad-request"),
        ("58 namespace", format!("<iq type='get' id='q' to='localhost'>{query}</iq>"), "<service-unavailable"),
        ("58 own account", format!("<iq type='get' id='q'>{query}</iq>"), "<service-unavailable"),
        ("59 result", "<iq type='result' id='q' to='localhost'/>".into(), ""),
        ("59 error", "<iq type='error' id='q' to='localhost'><error type='cancel'/></iq>".into(), ""),
        ("60 error to nobody", "<message type='error' to='nobody@localhost'/>".into(), ""),
        ("61 @x", "<message to='@x'><body>x</body></message>".into(), "<jid-malformed"),
        ("61 a@", "<message to='a@'><body>x</body></message>".into(), "<jid-malformed"),
        ("61 long", format!("<message to='{}@localhost'><body>x</body></message>", "a".repeat(1024)), "<jid-malformed"),
        ("61 IDNA", "<message to='a@-x-.example'><body>x</body></message>".into(), "type='error'"),
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
        (
            "63 chat",
            "<message type='chat' to='cleo@localhost/gone'><body>x</body></message>".into(),
            "", // Kept for her (Table 1).
        ),
        (
            "63 chat, nobody's",
            "<message type='chat' to='nobody@localhost/gone'><body>x</body></message>".into(),
            "<service-unavailable",
        ),
        ("63 normal", "<message to='cleo@localhost/gone'><body>x</body></message>".into(), "<service-unavailable"),
        (
            "63 groupchat",
            "<message type='groupchat' to='cleo@localhost/gone'><body>x</body></message>".into(),
            "<service-unavailable",
        ),
        ("63 headline", "<message type='headline' to='cleo@localhost/gone'><body>x</body></message>".into(), ""),
        ("63 error", "<message type='error' to='cleo@localhost/gone'><body>x</body></message>".into(), ""),
        ("remote", "<message to='a@elsewhere.example'><body>x</body></message>".into(), "<remote-server-not-found"),
    ];
    for (case, input, expected) in cases {
        scene.answered(case, &input, expected);
    }
    // Case 64: strangers learn nothing, and the same of users who don't exist.
    let told = ["fred", "dora", "nobody"].map(|who| {
        let mut wire = Wire::available(&scene.broker, "anna", "spy");
        wire.send(format!("<presence type='probe' to='{who}@localhost'/>"));
        std::thread::sleep(Duration::from_millis(100));
        wire.ping()
    });
    // `unsubscribed` is for her roster, in which there is nothing to end (RFC 6121 Appendix A.3.4).
    assert!(told.iter().all(String::is_empty), "64: {told:?}");
    // Case 29: without a close tag, contacts told by directed presence learn of the end once.
    let mut anna = Wire::available(&scene.broker, "anna", "short");
    anna.send("<presence to='fred@localhost/bystander'/>");
    scene.bystander.until("from='anna@localhost/short'");
    scene.bystander.until_any(&["/>", "</presence>"]);
    anna.finish();
    anna.drain();
    let said = scene.bystander.until("type='unavailable'");
    assert!(said.contains("<presence"), "{said}");
    scene.bystander.until_any(&["/>", "</presence>"]);
    // Case 30: many presences; contacts see the last.
    let mut anna = Wire::available(&scene.broker, "anna", "busy");
    for at in 0..5_000 {
        anna.send(format!("<presence><status>{at}</status></presence>"));
    }
    let said = anna.ping();
    assert!(said.contains("4999") || said.is_empty(), "{said}");
    drop(anna);
    scene.close();
}

#[test]
fn slow_peers_time_out() {
    let mut broker = Broker::start("handshake_timeout = '1s'\nnegotiation_timeout = '2s'");
    let mut bystander = Wire::available(&broker, "fred", "bystander");
    // Cases 24 and 33.
    let slow = |port: u16, bytes: &'static [u8]| {
        std::thread::spawn(move || {
            let mut wire = Wire::connect(port);
            let begun = Instant::now();
            for byte in bytes.iter().cycle().take(60) {
                wire.try_send([*byte]);
                std::thread::sleep(Duration::from_millis(100));
            }
            (wire.drain(), begun.elapsed())
        })
    };
    let [clear, silent, stalled] = [
        slow(broker.plain, b"<stream:stream to='localhost' version='1.0' xmlns='jabber:client' "),
        slow(broker.starttls, b" "),
        slow(
            broker.direct,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ),
    ]
    .map(|peer| peer.join().unwrap().0);
    assert!(clear.contains("<connection-timeout"), "{clear}");
    assert!(silent.contains("<connection-timeout"), "{silent}");
    assert_eq!(stalled, "");
    assert_eq!(bystander.ping(), "");
    drop(bystander);
    broker.wait("for the slow to be gone", |broker| broker.metric("plaza_connections", "") == 0);
    broker.stop();
}

// ---- TLS ---------------------------------------------------------------------------------------------------------

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn tls_over(socket: TcpStream, alpn: &[u8], name: &'static str) -> StreamOwned<ClientConnection, TcpStream> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = if alpn.is_empty() { Vec::new() } else { vec![alpn.to_vec()] };
    let client = ClientConnection::new(Arc::new(config), ServerName::try_from(name).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(client, socket)
}

fn read_until(tls: &mut impl std::io::Read, end: &str) -> String {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains(end) {
        match tls.read(&mut buffer) {
            Ok(0) => break,
            Err(error) => return format!("{}, {error}", String::from_utf8_lossy(&seen)),
            Ok(count) => seen.extend_from_slice(&buffer[..count]),
        }
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn bad_tls_is_refused() {
    const START: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
    let mut scene = Scene::open();
    let mut wire = Wire::open(scene.broker.starttls);
    wire.try_send(format!("{START}<message to='fred@localhost'><body>in clear</body></message>"));
    let said = wire.drain();
    scene.note("31 pipelined in clear", &said, "<failure …</stream:stream>");

    let mut wire = Wire::open(scene.broker.starttls);
    wire.send(format!("<auth xmlns='{SASL}' mechanism='PLAIN'>{}</auth>", STANDARD.encode("\0anna\0open-sesame")));
    let said = wire.until_any(&["</failure>", "</stream:stream>", "</success>"]);
    scene.note("47 PLAIN without TLS", &said, "<encryption-required");
    drop(wire);

    let start = |scene: &Scene| {
        let mut wire = Wire::open(scene.broker.starttls);
        wire.send(START);
        wire.until("<proceed");
        wire.until("/>");
        wire
    };
    let wire = start(&scene);
    let mut tls = tls_over(wire.socket, b"", "localhost");
    tls.write_all(HEADER.as_bytes()).unwrap();
    let said = read_until(&mut tls, "</stream:features>");
    scene.note("features under TLS", &said, "SCRAM-SHA-256-PLUS");
    tls.write_all(START.as_bytes()).unwrap();
    let said = read_until(&mut tls, "</stream:stream>");
    scene.note("32 STARTTLS twice", &said, "<failure …</stream:stream>");

    let mut wire = start(&scene);
    wire.try_send("<message/>".repeat(10));
    wire.drain();
    scene.note("garbage for a handshake", "", "");

    let direct = scene.broker.direct;
    let socket = || TcpStream::connect(("127.0.0.1", direct)).unwrap();
    let mut tls = tls_over(socket(), b"h2", "localhost");
    let refused = tls.write_all(HEADER.as_bytes()).and_then(|()| tls.read(&mut [0; 1]));
    assert!(refused.is_err() || matches!(refused, Ok(0)), "35 wrong ALPN was taken");
    let mut tls = tls_over(socket(), b"xmpp-client", "elsewhere.example");
    let said = match tls.write_all(HEADER.replace("localhost", "elsewhere.example").as_bytes()) {
        Ok(()) => read_until(&mut tls, "</stream:stream>"),
        Err(error) => format!("<host-unknown: {error}"),
    };
    scene.note("36 unknown name", &said, "<host-unknown");

    // Case 34: TLS 1.1 gets an alert: a ClientHello that offers no more than that.
    let mut old = socket();
    old.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 2];
    hello.extend_from_slice(&[7; 32]);
    hello.extend_from_slice(&[0, 0, 2, 0, 0x2f, 1, 0]);
    old.write_all(&hello).unwrap();
    let mut answer = Vec::new();
    let _ = old.read_to_end(&mut answer);
    assert_eq!(answer.first(), Some(&0x15), "34 no alert: {answer:x?}");

    // Case 37: cut off in the middle of a stanza; nothing of it is delivered.
    let mut tls = tls_over(socket(), b"xmpp-client", "localhost");
    tls.write_all(HEADER.as_bytes()).unwrap();
    read_until(&mut tls, "</stream:features>");
    tls.write_all(b"<message to='fred@localhost/bystander'><bo").unwrap();
    tls.flush().unwrap();
    drop(tls);
    scene.note("37 truncation", "", "");
    scene.close();
}
