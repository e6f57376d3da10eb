//! Any bytes as what a SASL2 request wishes for, and as messages: nothing panics, nobody gets in without a proof, a session
//! is granted once at most, and what we answer is well-formed.
//!
//! Up to the first byte 0xFF: the children of `<authenticate/>`, as they are. Then, message by message up to the next 0xFF:
//! the kind in a byte, the text behind it.
#![no_main]

use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use plaza_core::jid::Jid;
use plaza_core::sasl::Mechanism;
use plaza_core::sasl::ht::{HtMechanism, TOKEN_BYTES, Token, TokenSecret};
use plaza_core::sasl::scram::Keys;
use plaza_core::stanza::Condition;
use plaza_core::stream::{
    Action, Claimed, Credentials, Entropy, IssuedToken, Need, Proof, Stream, StreamConfig, TlsFacts, Wish, tagged,
};
use plaza_core::xml::Scanner;
use rxml::Parse;

const HEADER: &[u8] = b"<stream:stream to='things.example' version='1.0' xmlns='jabber:client' \
                        xmlns:stream='http://etherx.jabber.org/streams'>";

static CONFIG: LazyLock<Arc<StreamConfig>> = LazyLock::new(|| {
    Arc::new(StreamConfig {
        plain: true,
        sasl_attempts_max: 5,
        ..StreamConfig::new(vec![Jid::parse("things.example").expect("a domain")])
    })
});

fuzz_target!(|data: &[u8]| {
    let mut stream = Stream::new(Arc::clone(&CONFIG), Some(TlsFacts::default()), Entropy([1; 32]));
    let mut scanner = Scanner::new();
    let mut out = Vec::new();
    assert_eq!(stream.handle_bytes(&mut scanner, HEADER, &mut out), HEADER.len());

    let mut parts = data.split(|byte| *byte == 0xFF);
    let wishes = parts.next().unwrap_or_default();
    // With the right password, so that wishes are granted; then whatever.
    let mut elements = vec![authenticate(Mechanism::Plain.name(), b"\0user\0pencil", wishes)];
    for message in parts {
        let Some((kind, message)) = message.split_first() else { continue };
        elements.push(match Mechanism::OFFERED.get(usize::from(*kind)) {
            Some(mechanism) => authenticate(mechanism.name(), message, wishes),
            None if *kind == b'h' => authenticate(HtMechanism::Unbound.name(), message, wishes),
            None if *kind == b'a' => b"<abort xmlns='urn:xmpp:sasl:2'/>".to_vec(),
            None => {
                format!("<response xmlns='urn:xmpp:sasl:2'>{}</response>", STANDARD.encode(message)).into_bytes()
            }
        });
    }
    let (mut right, mut granted, mut resumes, mut binds) = (false, false, 0, 0);
    for element in elements {
        let mut rest = element.as_slice();
        loop {
            let taken = stream.handle_bytes(&mut scanner, rest, &mut out);
            rest = rest.get(taken..).expect("no more is taken than there is");
            let Some(action) = stream.poll_action() else { break };
            match action {
                Action::Authenticate { account, need: Need::Keys(hash) } => {
                    let credentials = match account.as_jid().local() {
                        Some("user") => Credentials::Keys(Keys::imaginary(hash, &[7; 32], 4096)),
                        _ => Credentials::Unknown { secret: [8; 32] },
                    };
                    stream.handle_credentials(credentials, Entropy([9; 32]), &mut out);
                }
                Action::Authenticate { need: Need::Tokens(_), .. } => {
                    let secret = TokenSecret([0x5a; TOKEN_BYTES]);
                    let token = Token { secret, mechanism: HtMechanism::Unbound, counted: 3, expired: false };
                    stream.handle_credentials(Credentials::Tokens([Some(token), None]), Entropy([9; 32]), &mut out);
                }
                Action::Tokens { account, proof, .. } => {
                    assert!(right && account.as_str() == "user@things.example" && matches!(proof, Proof::Keys(_)));
                    let secret = TokenSecret([0xa5; TOKEN_BYTES]);
                    stream.handle_tokens(Ok(Some(IssuedToken { secret, expiry: "2030".into() })), &mut out);
                }
                Action::VerifyPassword { password, .. } => {
                    right = &*password == "pencil";
                    stream.handle_password(Some(right), &mut out);
                }
                Action::Resume { account, .. } => {
                    assert!(right && account.as_str() == "user@things.example");
                    resumes += 1;
                    stream.handle_resume(Err(Condition::ItemNotFound.into()), &mut out);
                }
                Action::Bind { account, resource, inline } => {
                    assert!(right && account.as_str() == "user@things.example");
                    binds += 1;
                    let resource = match resource {
                        Wish::Any => "any".to_owned(),
                        Wish::Named(resource) => resource.into(),
                        Wish::Tagged { tag, client } => tagged(tag.as_deref(), [u8::from(client.is_some()); 12]),
                    };
                    let jid = account.with_resource(&resource).expect("a resource that can be one");
                    let sm = inline.sm.map(|_| Err(Condition::InternalServerError.into()));
                    stream.handle_bind(Ok(Claimed { jid, sm }), &mut out);
                }
                Action::Established(_) => {
                    assert!(!granted && right);
                    granted = true;
                }
                Action::Close(_) => break,
                other => panic!("{other:?} was not earned"),
            }
        }
    }
    assert!(resumes <= 5 && binds <= 5, "each within its bound");
    let mut parser = rxml::Parser::new();
    let mut answers = out.as_slice();
    while !answers.is_empty() {
        match parser.parse(&mut answers, false) {
            Ok(_) | Err(rxml::error::EndOrError::NeedMoreData) => {}
            Err(error) => panic!("{error:?} in {}", String::from_utf8_lossy(&out)),
        }
    }
});

fn authenticate(mechanism: &str, message: &[u8], wishes: &[u8]) -> Vec<u8> {
    let mut element = format!("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='{mechanism}'>").into_bytes();
    element.extend_from_slice(format!("<initial-response>{}</initial-response>", STANDARD.encode(message)).as_bytes());
    element.extend_from_slice(wishes);
    element.extend_from_slice(b"</authenticate>");
    element
}
