//! What peers do wrong with TLS, with certificates and with channel binding.

use std::net::Shutdown;
use std::time::Duration;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rcgen::SanType;
use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, ConnectionTrafficSecrets};
use tempfile::TempDir;
use time::OffsetDateTime;

use crate::broker::{Broker, PASSWORD};
use crate::scene::{Scene, error};
use crate::tls::{Authority, Identity, any, client};
use crate::wire::{HEADER, SASL, STARTTLS, Wire, auth};

/// Most CPU time the broker may spend on one connection it has no reason to trust.
const HANDSHAKE_CPU_MAX: Duration = Duration::from_millis(400);

fn direct(broker: &Broker, config: rustls::ClientConfig) -> Wire {
    Wire::connect(broker.direct).secure(config, "localhost").unwrap()
}

#[test]
fn bad_starttls_is_refused() {
    let mut scene = Scene::open("");
    for (case, behind) in [
        ("31 pipelined in clear", "<message to='fred@localhost/bystander'><body>in clear</body></message>"),
        ("31 a login in clear", "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>"),
        ("31 white space", "\n"),
    ] {
        let mut wire = Wire::open(scene.broker.starttls);
        wire.try_send(format!("{STARTTLS}{behind}"));
        let said = wire.drain();
        scene.note(case, &said, "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>");
    }

    let mut wire = Wire::open(scene.broker.starttls);
    wire.send(auth("PLAIN", "\0anna\0open-sesame"));
    let said = wire.until_any(&["</failure>", "</stream:stream>", "</success>"]);
    scene.note("47 PLAIN without TLS", &said, "<encryption-required");
    drop(wire);

    let mut wire = Wire::proceed(scene.broker.starttls).secure(any(), "localhost").unwrap();
    let said = wire.begin();
    scene.note("features under TLS", &said, "SCRAM-SHA-256-PLUS");
    scene.check("32 not offered again", !said.contains("<starttls"), &said);
    wire.send(STARTTLS);
    let said = wire.drain();
    scene.note("32 STARTTLS twice", &said, "<failure …</stream:stream>");
    let mut wire = direct(&scene.broker, any());
    wire.begin();
    wire.send(STARTTLS);
    let said = wire.drain();
    scene.note("32 STARTTLS under direct TLS", &said, "<failure …</stream:stream>");

    let mut wire = Wire::proceed(scene.broker.starttls);
    wire.try_send("<message/>".repeat(10));
    wire.drain();
    scene.note("garbage for a handshake", "", "");
    scene.close();
}

/// A ClientHello that offers one cipher suite and no extensions.
fn hello(version: u8, suite: [u8; 2]) -> Vec<u8> {
    let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, version];
    hello.extend_from_slice(&[7; 32]);
    hello.extend_from_slice(&[0, 0, 2, suite[0], suite[1], 1, 0]);
    hello
}

#[test]
fn old_tls_wrong_protocols_and_unknown_names_are_refused() {
    let mut scene = Scene::open("");
    for (case, hello) in [
        ("34 TLS 1.0", hello(1, [0, 0x2f])),
        ("34 TLS 1.1", hello(2, [0, 0x2f])),
        ("34 SSL 3", hello(0, [0, 0x2f])),
        ("34 RC4", hello(3, [0, 0x05])),
        ("34 no encryption", hello(3, [0, 0x02])),
        ("34 the RSA key exchange", hello(3, [0, 0x2f])),
    ] {
        let mut wire = Wire::connect(scene.broker.direct);
        wire.send(hello);
        let said = wire.drain();
        scene.check(case, said.as_bytes().first() == Some(&0x15), &format!("no alert: {said:?}"));
        scene.note(case, &said, "");
    }

    for versions in [&[&TLS12], &[&TLS13]] {
        let mut config = client(versions, None);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let refused = Wire::connect(scene.broker.direct).secure(config, "localhost").err();
        let why = format!("{refused:?}");
        scene.check("35 ALPN", why.contains("NoApplicationProtocol"), &why);
        scene.note("35 ALPN", "", "");
    }

    let mut wire = Wire::connect(scene.broker.direct).secure(any(), "elsewhere.example").unwrap();
    wire.send(HEADER.replace("localhost", "elsewhere.example"));
    let said = wire.drain();
    scene.note("36 unknown name", &said, &error("host-unknown"));
    scene.close();
}

/// A client of TLS 1.2 that may say whatever it likes under its keys.
struct Unbridled {
    wire: Wire,
    key: LessSafeKey,
    salt: [u8; 4],
    number: u64,
}

impl Unbridled {
    fn new(broker: &Broker) -> Self {
        let mut config = client(&[&TLS12], None);
        config.enable_secret_extraction = true;
        let mut wire = direct(broker, config);
        let secrets = wire.tls.take().unwrap().dangerous_extract_secrets().unwrap();
        let (number, secrets) = secrets.tx;
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = &secrets else { panic!("another cipher is preferred") };
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
        Self { wire, key, salt: *iv.as_ref().first_chunk().unwrap(), number }
    }

    /// The next record (RFC 5288 §3, RFC 5246 §6.2.3.3).
    fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let explicit = self.number.to_be_bytes();
        self.number += 1;
        let nonce = [&self.salt[..], &explicit].concat();
        let length = |bytes: usize| u16::try_from(bytes).unwrap().to_be_bytes();
        let header = |bytes: usize| [&[kind, 3, 3][..], &length(bytes)].concat();
        let mut sealed = content.to_vec();
        let bound = Aad::from([&explicit[..], &header(content.len())].concat());
        let nonce = Nonce::try_assume_unique_for_key(&nonce).unwrap();
        self.key.seal_in_place_append_tag(nonce, bound, &mut sealed).unwrap();
        [header(explicit.len() + sealed.len()), explicit.to_vec(), sealed].concat()
    }
}

/// Kinds of records: alert, handshake, application data.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

#[test]
fn renegotiation_is_refused_and_insisting_on_it_ends_the_connection() {
    let mut scene = Scene::open("negotiation_timeout = '2s'\nhandshake_timeout = '2s'");
    let again = &hello(3, [0xc0, 0x2b])[5..];
    // Once is warned of, and the stream goes on.
    let mut client = Unbridled::new(&scene.broker);
    let said = [client.record(HANDSHAKE, again), client.record(DATA, HEADER.as_bytes())].concat();
    client.wire.send(said);
    let said = client.wire.drain_bytes();
    let kinds: Vec<u8> = records(&said).collect();
    // The features, in time the error, and close_notify.
    scene.check("34 renegotiation", kinds == [ALERT, DATA, DATA, ALERT], &format!("{kinds:?}"));
    scene.note("34 renegotiation", "", "");
    // Twice is once too often.
    let mut client = Unbridled::new(&scene.broker);
    let said = [client.record(HANDSHAKE, again), client.record(HANDSHAKE, again)].concat();
    client.wire.send(said);
    let said = client.wire.drain_bytes();
    let kinds: Vec<u8> = records(&said).collect();
    scene.check("34 insisting", kinds.iter().all(|&kind| kind == ALERT) && !kinds.is_empty(), &format!("{kinds:?}"));
    scene.note("34 insisting", "", "");
    // Half of it, while there is something to say to the client.
    let mut client = Unbridled::new(&scene.broker);
    let said = [client.record(DATA, HEADER.as_bytes()), client.record(HANDSHAKE, &again[..20])].concat();
    client.wire.send(said);
    let said = client.wire.drain_bytes();
    let kinds: Vec<u8> = records(&said).collect();
    scene.check("34 half of it", kinds == [DATA, DATA, ALERT], &format!("{kinds:?}"));
    scene.note("34 half of it", "", "");
    scene.close();
}

/// The kinds of the records in some bytes.
fn records(mut bytes: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let (&[kind, _, _, high, low], rest) = bytes.split_first_chunk::<5>()?;
        bytes = rest.get(usize::from(u16::from_be_bytes([high, low]))..)?;
        Some(kind)
    })
}

#[test]
fn a_stanza_cut_off_reaches_nobody() {
    let mut scene = Scene::open("");
    let stanza = "<message to='fred@localhost/bystander' id='m'><body>not all of it</body></message>";
    for (case, orderly) in [("37 cut off", false), ("37 closed in the middle", true)] {
        for versions in [&[&TLS12], &[&TLS13]] {
            let mut wire = direct(&scene.broker, client(versions, None));
            wire.begin();
            wire.scram("anna", PASSWORD);
            let mut wire = wire.bind("anna", "cut");
            wire.send("<presence to='fred@localhost/bystander'/>");
            scene.bystander.until("from='anna@localhost/cut'");
            scene.bystander.until_any(&["/>", "</presence>"]);
            wire.send(&stanza[..stanza.len() - 1]);
            if orderly {
                wire.finish();
            } else {
                wire.socket.shutdown(Shutdown::Write).unwrap();
            }
            // Its end is all that is heard of it.
            let said = scene.bystander.until_any(&["type='unavailable'/>", "type='unavailable'></presence>"]);
            scene.check(case, said.starts_with("<presence ") && !said.contains("not all"), &said);
            wire.drain();
            scene.note(case, "", "");
        }
    }
    scene.close();
}

/// A scene whose broker takes certificates of an authority.
fn with_authority(authority: &Authority) -> (TempDir, Scene) {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("authority.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let scene = Scene::open(&format!("[tls]\nclient_ca = '{}'", file.display()));
    (directory, scene)
}

#[test]
fn a_certificate_logs_in_and_a_bad_one_leaves_the_other_mechanisms() {
    let authority = Authority::new();
    let (_directory, mut scene) = with_authority(&authority);
    let external = |authzid: &str| match authzid {
        "" => format!("<auth xmlns='{SASL}' mechanism='EXTERNAL'>=</auth>"),
        _ => auth("EXTERNAL", authzid),
    };
    let good = |addresses: &[&str]| authority.certify(addresses, |_| ());
    let cases: Vec<(&str, Identity, &str, &str)> = vec![
        ("38 valid", good(&["anna@localhost"]), "", ""),
        ("38 valid, with its address", good(&["Anna@localhost/lamp"]), "anna@localhost", ""),
        ("38 two addresses, one of them here", good(&["x@elsewhere.example", "anna@localhost"]), "", ""),
        ("38 two addresses and a choice", good(&["bert@localhost", "anna@localhost"]), "anna@localhost", ""),
        ("38 two addresses and none", good(&["bert@localhost", "anna@localhost"]), "", "invalid-authzid"),
        ("38 another's address", good(&["bert@localhost"]), "anna@localhost", "invalid-authzid"),
        ("38 nobody's address", good(&["nobody@localhost"]), "", "not-authorized"),
        ("38 an address elsewhere", good(&["anna@elsewhere.example"]), "", "not-authorized"),
        ("38 no account's address", good(&["localhost"]), "", "not-authorized"),
        ("38 no address", good(&["@"]), "", "not-authorized"),
        ("38 no names at all", good(&[]), "", "not-authorized"),
        (
            "38 expired",
            authority.certify(&["anna@localhost"], |params| {
                params.not_after = OffsetDateTime::now_utc() - time::Duration::days(1);
            }),
            "",
            "not-authorized",
        ),
        (
            "38 not yet valid",
            authority.certify(&["anna@localhost"], |params| {
                params.not_before = OffsetDateTime::now_utc() + time::Duration::days(1);
            }),
            "",
            "not-authorized",
        ),
        (
            "38 for servers",
            authority.certify(&["anna@localhost"], |params| {
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
            }),
            "",
            "not-authorized",
        ),
        ("38 unknown authority", Authority::new().certify(&["anna@localhost"], |_| ()), "", "not-authorized"),
    ];
    for (case, identity, authzid, failure) in cases {
        for versions in [&[&TLS12], &[&TLS13]] {
            let identity = (identity.0.clone(), identity.1.clone_key());
            let mut wire = direct(&scene.broker, client(versions, Some(identity)));
            let features = wire.begin();
            wire.send(external(authzid));
            let said = wire.until_any(&["</failure>", "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"]);
            if failure.is_empty() {
                scene.check(case, features.contains("<mechanism>EXTERNAL</mechanism>"), &features);
                scene.note(case, &said, "<success");
                wire = wire.bind("anna", "certified");
                wire.ping();
                continue;
            }
            scene.note(case, &said, &format!("<{failure}/></failure>"));
            let hopeless = failure == "not-authorized" && !case.contains("nobody");
            scene.check(case, !hopeless || !features.contains("EXTERNAL"), &features);
            // The password is as good as ever.
            let said = wire.scram("anna", PASSWORD);
            scene.note(case, &said, "<success");
        }
    }
    scene.close();
}

#[test]
fn huge_certificates_cost_little_and_are_refused() {
    let authority = Authority::new();
    let (_directory, mut scene) = with_authority(&authority);
    let leaf = || authority.certify(&["anna@localhost"], |_| ());
    // Certificates that are genuine and lead nowhere, to a size.
    let chain = |bytes: usize| {
        let (mut chain, key) = leaf();
        let other = Authority::new();
        let mut size = chain[0].len();
        while size < bytes {
            let (more, _) = other.certify(&["x@localhost"], |params| {
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)
            });
            size += more[0].len() + 5;
            chain.extend(more);
        }
        (chain, key)
    };
    let names = |count: u32| {
        authority.certify(&["anna@localhost"], |params| {
            params
                .subject_alt_names
                .extend((0..count).map(|at| SanType::DnsName(format!("a{at}.example").try_into().unwrap())));
        })
    };
    let addresses = |count: u32| {
        let addresses: Vec<String> = (0..count).map(|at| format!("a{at}@localhost")).collect();
        authority.certify(&addresses.iter().map(String::as_str).collect::<Vec<_>>(), |_| ())
    };
    // What fits into a handshake message is judged. What does not ends the connection, without an alert: rustls has none
    // for a message that it stops reading.
    let cases: Vec<(&str, Identity, bool)> = vec![
        ("39 a chain of 60 kB", chain(60_000), true),
        ("39 a chain of 100 kB", chain(100_000), false),
        ("39 3 000 names", names(3_000), true),
        ("39 10 000 names", names(10_000), false),
        ("39 1 500 addresses", addresses(1_500), true),
        ("39 10 000 addresses", addresses(10_000), false),
    ];
    for (case, identity, fits) in cases {
        for versions in [&[&TLS12], &[&TLS13]] {
            let identity = (identity.0.clone(), identity.1.clone_key());
            let before = scene.broker.cpu();
            // In TLS 1.3 the client learns of the refusal behind its own last message.
            let mut wire =
                match Wire::connect(scene.broker.direct).secure(client(versions, Some(identity)), "localhost") {
                    Ok(wire) => wire,
                    Err(error) => {
                        scene.check(case, !fits, &format!("{error:?}"));
                        continue;
                    }
                };
            wire.try_send(HEADER);
            if fits {
                wire.until("</stream:features>");
                let said = wire.scram("anna", PASSWORD);
                scene.note(case, &said, "<success");
            } else {
                let said = wire.drain();
                let why = format!("{said} {:?}", wire.broken);
                scene.check(case, said.is_empty() && wire.broken.is_some(), &why);
            }
            let spent = scene.broker.cpu() - before;
            eprintln!("{case}: {spent:?}");
            scene.check(case, spent < HANDSHAKE_CPU_MAX, &format!("took {spent:?}"));
            scene.note(case, "", "");
        }
    }
    scene.close();
}

#[test]
fn a_handshake_in_tiny_records_costs_little() {
    let mut scene = Scene::open("");
    // A ClientHello as large as one can be, in records of a byte each.
    let body = 60_000_u32;
    let mut message = vec![1, 0, (body >> 8) as u8, body as u8, 3, 3];
    message.resize(body as usize + 4, 7);
    let bytes: Vec<u8> = message.iter().flat_map(|&byte| [0x16, 3, 1, 0, 1, byte]).collect();
    let before = scene.broker.cpu();
    let mut wire = Wire::connect(scene.broker.direct);
    wire.try_send(bytes);
    wire.drain();
    let spent = scene.broker.cpu() - before;
    eprintln!("tiny records: {spent:?}");
    scene.check("33 records of a byte", spent < HANDSHAKE_CPU_MAX, &format!("took {spent:?}"));
    scene.note("33 records of a byte", "", "");
    scene.close();
}

#[test]
fn a_login_is_bound_to_its_channel() {
    let mut scene = Scene::open("");
    let mut connections: Vec<(&str, Wire)> = Vec::new();
    for (name, versions) in [("TLS 1.2", &[&TLS12]), ("TLS 1.3", &[&TLS13])] {
        connections.push((name, direct(&scene.broker, client(versions, None))));
        let wire = Wire::proceed(scene.broker.starttls).secure(client(versions, None), "localhost").unwrap();
        connections.push((name, wire));
    }
    let other = direct(&scene.broker, client(ALL_VERSIONS, None));
    for (name, mut wire) in connections {
        let features = wire.begin();
        let exports = name == "TLS 1.3";
        scene.check(name, features.contains("<channel-binding type='tls-exporter'/>") == exports, &features);
        scene.note(name, &features, "SCRAM-SHA-256-PLUS…<channel-binding type='tls-server-end-point'/>");
        // Data of another connection, or of nothing; both are what a man in the middle would have.
        for (case, kind, data) in [
            ("46 another connection's exporter", "tls-exporter", other.binding("tls-exporter")),
            ("46 another certificate", "tls-server-end-point", vec![7; 32]),
            ("46 no data", "tls-server-end-point", Vec::new()),
        ] {
            let said = wire.scram_bound("SCRAM-SHA-256-PLUS", "anna", PASSWORD, Some((kind, &data)));
            scene.note(&format!("{case}, {name}"), &said, "<not-authorized/></failure>");
        }
    }
    for (kind, versions) in
        [("tls-exporter", &[&TLS13]), ("tls-server-end-point", &[&TLS13]), ("tls-server-end-point", &[&TLS12])]
    {
        for mechanism in ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS"] {
            let case = format!("46 {mechanism} with {kind}");
            let mut wire = direct(&scene.broker, client(versions, None));
            wire.begin();
            // The client believes -PLUS was not offered: somebody took it off the list.
            wire.send(auth(mechanism.trim_end_matches("-PLUS"), "y,,n=anna,r=abc"));
            let said = wire.until("</failure>");
            scene.note("46 a list cut short", &said, "<not-authorized/></failure>");
            // Bound, under the name of the mechanism that does not bind; and the other way round.
            wire.send(auth(mechanism.trim_end_matches("-PLUS"), &format!("p={kind},,n=anna,r=abc")));
            let said = wire.until("</failure>");
            scene.note("46 bound, and not", &said, "<malformed-request/></failure>");
            let data = wire.binding(kind);
            let said = wire.scram_bound(mechanism, "anna", PASSWORD, Some((kind, &data)));
            scene.note(&case, &said, "<success");
            let mut wire = wire.bind("anna", "bound");
            wire.ping();
            let mut wire = direct(&scene.broker, client(versions, None));
            wire.begin();
            let said = wire.scram_bound(mechanism, "anna", PASSWORD, None);
            scene.note("46 not bound, and said to be", &said, "</failure>");
            let data = wire.binding(kind);
            let said = wire.scram_bound(mechanism, "anna", "wrong", Some((kind, &data)));
            scene.note("46 the wrong password", &said, "<not-authorized/></failure>");
        }
    }
    drop(other);
    scene.close();
}
