//! The client's side of SCRAM, for the load tool and tests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::downgrade;
use super::scram::{self, Hash, Output};

/// Most iterations we let a server ask of us: beyond it, it wastes our time on purpose.
const ITERATIONS_MAX: u32 = 1_000_000;

/// One SCRAM exchange as client.
pub struct ScramClient {
    hash: Hash,
    /// Prepared; empty if OpaqueString refuses it, and then nothing is answered.
    password: Zeroizing<String>,
    nonce: Box<str>,
    /// The `c=` to send.
    binding: String,
    bare: String,
    salted: Zeroizing<Vec<u8>>,
    expected: Option<Output>,
    /// The hash of the lists as they reached us.
    advertised: Option<String>,
}

impl std::fmt::Debug for ScramClient {
    /// Leaves everything secret out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScramClient").field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl ScramClient {
    /// Begins: returns the exchange and the client-first-message (not yet Base64).
    /// `binding`: the gs2 channel-binding name and data for -PLUS, else `None` (gs2 flag `n`).
    pub fn start(
        hash: Hash,
        username: &str,
        password: &str,
        nonce: &str,
        binding: Option<(&str, &[u8])>,
    ) -> (Self, String) {
        let (header, data) = match binding {
            Some((name, data)) => (format!("p={name},,"), data),
            None => ("n,,".to_owned(), &[][..]),
        };
        let bare = format!("n={},r={nonce}", escape(username));
        let first = format!("{header}{bare}");
        let client = Self {
            hash,
            password: scram::prepare_password(password).unwrap_or_default(),
            nonce: nonce.into(),
            binding: STANDARD.encode([header.as_bytes(), data].concat()),
            bare,
            salted: Zeroizing::default(),
            expected: None,
            advertised: None,
        };
        (client, first)
    }

    /// Remembers what the server advertised, so that [`Self::answer`] notices if somebody in between has changed it
    /// (XEP-0474 v0.5.0 §6.2). Arguments as of [`downgrade::hash`].
    pub fn expect_advertised(&mut self, mechanisms: &[&str], bindings: Option<&[&str]>) {
        self.advertised = Some(downgrade::hash(self.hash, mechanisms, bindings));
    }

    /// Answers the server-first-message with the client-final-message. `salted` caches SaltedPassword across logins that
    /// share salt and iterations (the load tool's million logins). `None`: the server's message is not one we answer.
    pub fn answer(&mut self, server_first: &str, salted: Option<&[u8]>) -> Option<String> {
        let mut attributes = server_first.split(',');
        let nonce = attributes.next()?.strip_prefix("r=").filter(|nonce| scram::is_nonce(nonce))?;
        let salt = attributes.next()?.strip_prefix("s=")?;
        let iterations: u32 = attributes.next()?.strip_prefix("i=")?.parse().ok()?;
        let ours = nonce.len() > self.nonce.len() && nonce.starts_with(&*self.nonce);
        if !ours || !(1..=ITERATIONS_MAX).contains(&iterations) || self.password.is_empty() {
            return None;
        }
        let sent = attributes.find_map(|attribute| attribute.strip_prefix("h="));
        if let (Some(sent), Some(received)) = (sent, &self.advertised)
            && sent != received
        {
            return None;
        }

        let hash = self.hash;
        self.salted = match salted {
            Some(salted) => Zeroizing::new(salted.to_vec()),
            None => {
                let salt = STANDARD.decode(salt).ok()?;
                Zeroizing::new(hash.salted_password(&self.password, &salt, iterations).as_ref().to_vec())
            }
        };
        let without_proof = format!("c={},r={nonce}", self.binding);
        let auth_message = [self.bare.as_bytes(), b",", server_first.as_bytes(), b",", without_proof.as_bytes()];
        let client_key = hash.hmac(&self.salted, &[b"Client Key"]);
        let stored_key = hash.digest(client_key.as_ref());
        let proof = hash.hmac(stored_key.as_ref(), &auth_message).xor(client_key.as_ref());
        let server_key = hash.hmac(&self.salted, &[b"Server Key"]);
        self.expected = Some(hash.hmac(server_key.as_ref(), &auth_message));
        Some(format!("{without_proof},p={}", STANDARD.encode(proof)))
    }

    /// SaltedPassword as used by the last [`Self::answer`].
    pub fn salted_password(&self) -> &[u8] {
        &self.salted
    }

    /// Whether the server-final-message proves the server knows the keys.
    pub fn verify(&self, server_final: &str) -> bool {
        let signature = server_final.strip_prefix("v=").and_then(|v| v.split(',').next());
        let signature = signature.and_then(|v| scram::decode_output(v, self.hash));
        match (signature, &self.expected) {
            (Some(signature), Some(expected)) => signature.as_ref().ct_eq(expected.as_ref()).into(),
            _ => false,
        }
    }
}

/// A name as `saslname` (RFC 5802 §5.1).
fn escape(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

#[cfg(test)]
mod tests {
    use super::super::scram::{ClientFirst, derive};
    use super::super::{ChannelBinding, SaslFailure};
    use super::*;

    #[test]
    fn the_exchange_is_that_of_the_rfc_examples() {
        // RFC 5802 §5 and RFC 7677 §3.
        for (hash, nonce, first, server_first, last, server_final) in [
            (
                Hash::Sha1,
                "fyko+d2lbbFgONRv9qkxdawL",
                "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
                "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
                "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
                "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
            ),
            (
                Hash::Sha256,
                "rOprNGfwEbeRWgbNEkqO",
                "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
                "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
                "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                 p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
                "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
            ),
        ] {
            let (mut client, client_first) = ScramClient::start(hash, "user", "pencil", nonce, None);
            assert_eq!(client_first, first);
            assert_eq!(client.answer(server_first, None).as_deref(), Some(last));
            assert!(client.verify(server_final));
            assert!(!client.verify("v=AAAA"));
            assert!(!client.verify("e=other-error"));

            let salted = client.salted_password().to_vec();
            let (mut cached, _) = ScramClient::start(hash, "user", "pencil", nonce, None);
            assert_eq!(cached.answer(server_first, Some(&salted)).as_deref(), Some(last));
        }
    }

    #[test]
    fn client_and_server_agree_with_channel_binding_and_awkward_names() {
        let data = [5; 32];
        let binding = ChannelBinding { exporter: data.into(), server_end_point: Box::default() };
        for hash in [Hash::Sha1, Hash::Sha256] {
            let (mut client, first) =
                ScramClient::start(hash, "a=b,c", "pass wörd", "abc", Some(("tls-exporter", &data)));
            let server = ClientFirst::parse(first.as_bytes()).unwrap();
            assert_eq!(server.username, "a=b,c");
            let keys = derive(hash, "pass wörd", b"0123456789abcdef", 3).unwrap();
            let server = server.open(hash, true, &binding).unwrap().challenge(keys, "xyz", true, None);
            let last = client.answer(server.server_first(), None).unwrap();
            assert!(client.verify(&server.finish(last.as_bytes()).unwrap().server_final()));
        }
    }

    #[test]
    fn lists_that_were_changed_on_the_way_are_noticed_by_one_side_or_the_other() {
        let all = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1"];
        let few = ["SCRAM-SHA-1"];
        let begin = |advertised: &[&str]| {
            let (mut client, first) = ScramClient::start(Hash::Sha1, "user", "pencil", "abc", None);
            client.expect_advertised(advertised, None);
            let keys = derive(Hash::Sha1, "pencil", b"0123456789abcdef", 3).unwrap();
            let opened = ClientFirst::parse(first.as_bytes()).unwrap();
            let opened = opened.open(Hash::Sha1, false, &ChannelBinding::default()).unwrap();
            (client, opened.challenge(keys, "xyz", true, Some(&downgrade::hash(Hash::Sha1, &all, None))))
        };
        let (mut client, server) = begin(&all);
        let last = client.answer(server.server_first(), None).unwrap();
        assert!(client.verify(&server.finish(last.as_bytes()).unwrap().server_final()));

        // XEP-0474 §5.2: the stronger mechanisms were taken out.
        let (mut client, server) = begin(&few);
        assert_eq!(client.answer(server.server_first(), None), None);
        // §6.2: and the hash was changed to fit, or taken out.
        let changed = |from: &str, to: &str| {
            let (mut client, server) = begin(&few);
            let last = client.answer(&server.server_first().replace(from, to), None).unwrap();
            assert_eq!(server.finish(last.as_bytes()).unwrap_err(), SaslFailure::NotAuthorized);
        };
        let sent = downgrade::hash(Hash::Sha1, &all, None);
        changed(&sent, &downgrade::hash(Hash::Sha1, &few, None));
        changed(&format!(",h={sent}"), "");
    }

    #[test]
    fn a_server_that_answers_another_nonce_or_asks_too_much_is_not_answered() {
        let (mut client, _) = ScramClient::start(Hash::Sha1, "user", "pencil", "abc", None);
        for first in [
            "",
            "r=abc,s=QSXCR+Q6sek8bf92,i=1",
            "r=abx1,s=QSXCR+Q6sek8bf92,i=1",
            "r=abc1,s=QSXCR+Q6sek8bf92,i=0",
            "r=abc1,s=QSXCR+Q6sek8bf92,i=1000001",
            "r=abc1,s=*,i=1",
            "r=abc1,s=QSXCR+Q6sek8bf92",
            "m=x,r=abc1,s=QQ==,i=1",
        ] {
            assert_eq!(client.answer(first, None), None, "{first}");
        }
        assert!(!client.verify("v=rmF9pqV8S7suAoZWja4dJRkFsKQ="));
    }
}
