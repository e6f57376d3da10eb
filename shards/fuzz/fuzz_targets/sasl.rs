//! Any bytes as SASL messages, in any order: nothing panics, nobody gets in without the password, and all ends in time.
//!
//! The first byte of a message picks what it is wrapped in; the rest, up to a byte 0xFF, is the message.
#![no_main]

use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use plaza_core::jid::Jid;
use plaza_core::sasl::plain::Plain;
use plaza_core::sasl::scram::{ClientFirst, Keys};
use plaza_core::sasl::{ChannelBinding, Mechanism};
use plaza_core::stream::{Action, Credentials, Entropy, Need, Stream, StreamConfig, TlsFacts};
use plaza_core::xml::Scanner;

const HEADER: &[u8] = b"<stream:stream to='things.example' version='1.0' xmlns='jabber:client' \
                        xmlns:stream='http://etherx.jabber.org/streams'>";

static CONFIG: LazyLock<Arc<StreamConfig>> = LazyLock::new(|| {
    Arc::new(StreamConfig {
        plain: true,
        ..StreamConfig::new(vec![Jid::parse("things.example").expect("a domain")])
    })
});

fuzz_target!(|data: &[u8]| {
    let facts = TlsFacts {
        binding: ChannelBinding { exporter: Box::new([1; 32]), server_end_point: Box::new([2; 32]) },
        certificate_jids: Vec::new(),
    };
    let mut stream = Stream::new(Arc::clone(&CONFIG), Some(facts), Entropy([1; 32]));
    let mut scanner = Scanner::new();
    let mut out = Vec::new();
    assert_eq!(stream.handle_bytes(&mut scanner, HEADER, &mut out), HEADER.len());

    for (round, message) in data.split(|byte| *byte == 0xFF).enumerate() {
        let Some((kind, message)) = message.split_first() else { continue };
        let _ = ClientFirst::parse(message);
        let _ = Plain::parse(message);

        let text = STANDARD.encode(message);
        let element = match Mechanism::OFFERED.get(usize::from(*kind)) {
            Some(mechanism) => {
                format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='{}'>{text}</auth>", mechanism.name())
            }
            None if *kind == b'a' => "<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>".to_owned(),
            None => format!("<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{text}</response>"),
        };
        let taken = stream.handle_bytes(&mut scanner, element.as_bytes(), &mut out);
        assert_eq!(taken, element.len(), "an element is taken whole");
        while let Some(action) = stream.poll_action() {
            match action {
                Action::Authenticate { account, need: Need::Keys(hash) } => {
                    assert_eq!(account.as_jid().domain(), "things.example");
                    let credentials = match account.as_jid().local() {
                        Some("user") => Credentials::Keys(Keys::imaginary(hash, &[7; 32], 4096)),
                        _ => Credentials::Unknown { secret: [8; 32] },
                    };
                    stream.handle_credentials(credentials, Entropy([round as u8; 32]), &mut out);
                }
                Action::VerifyPassword { .. } => stream.handle_password(Some(false), &mut out),
                Action::Close(_) => return,
                other => panic!("{other:?} was not earned"),
            }
        }
        assert_eq!(stream.account(), None, "nobody gets in");
    }
});
