//! Hashed tokens: a secret that we made proves a client with one message, and us with the answer.
//!
//! Called by [`crate::stream`] with the tokens that the registry has of the client. Pure: what a token is good for, and
//! until when, is passed in. Comparisons take constant time, and as much work whether there are tokens or not.
//!
//! Spec: draft-schmaus-kitten-sasl-ht-09 (the mechanisms); XEP-0484 v0.2.0 §3, §5 (what a token is bound to).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use super::scram::Hash;
use super::{ChannelBinding, SaslFailure};

/// Random bytes of a token; the draft asks for 16 at least. A multiple of three, so that no character is left over.
pub const TOKEN_BYTES: usize = 24;
const _: () = assert!(TOKEN_BYTES >= 16 && TOKEN_BYTES.is_multiple_of(3));

/// A mechanism of the family. It differs in what it binds to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HtMechanism {
    /// HT-SHA-256-ENDP: `tls-server-end-point`.
    EndPoint,
    /// HT-SHA-256-EXPR: `tls-exporter`.
    Exporter,
    /// HT-SHA-256-NONE: nothing.
    Unbound,
}

impl HtMechanism {
    /// All of them, in the order we offer them.
    pub const OFFERED: [Self; 3] = [Self::Exporter, Self::EndPoint, Self::Unbound];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EndPoint => "HT-SHA-256-ENDP",
            Self::Exporter => "HT-SHA-256-EXPR",
            Self::Unbound => "HT-SHA-256-NONE",
        }
    }

    /// The mechanism of that name, if we speak it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::OFFERED.into_iter().find(|mechanism| mechanism.name() == name)
    }

    /// The data it binds to; `None` if the connection has none of that type.
    pub fn binding(self, binding: &ChannelBinding) -> Option<&[u8]> {
        let data = match self {
            Self::EndPoint => &binding.server_end_point,
            Self::Exporter => &binding.exporter,
            Self::Unbound => return Some(&[]),
        };
        Some(&**data).filter(|data| !data.is_empty())
    }
}

/// A token: what a client proves to have been given.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenSecret(pub [u8; TOKEN_BYTES]);

/// As the client is given it.
impl fmt::Display for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for TokenSecret {
    /// Leaves it out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSecret").finish_non_exhaustive()
    }
}

/// A token as the registry has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// What the client must have.
    pub secret: TokenSecret,
    /// The only mechanism that it is good for.
    pub mechanism: HtMechanism,
    /// Counts below this one have been used.
    pub counted: u32,
    /// Its time is over.
    pub expired: bool,
}

/// The client's one message.
#[derive(Debug, Clone, Copy)]
pub struct Initiator<'a> {
    /// Who it says it is.
    pub authcid: &'a str,
    hashed: &'a [u8],
}

impl<'a> Initiator<'a> {
    /// Reads it.
    ///
    /// # Errors
    /// [`SaslFailure::MalformedRequest`].
    pub fn parse(message: &'a [u8]) -> Result<Self, SaslFailure> {
        let at = message.iter().position(|byte| *byte == 0).ok_or(SaslFailure::MalformedRequest)?;
        let (authcid, rest) = message.split_at(at);
        let hashed = rest.get(1..).filter(|hashed| !hashed.is_empty()).ok_or(SaslFailure::MalformedRequest)?;
        let authcid = std::str::from_utf8(authcid).map_err(|_| SaslFailure::MalformedRequest)?;
        if authcid.is_empty() { Err(SaslFailure::MalformedRequest) } else { Ok(Self { authcid, hashed }) }
    }

    /// What is left to be judged once the tokens are known.
    pub fn offer(&self, mechanism: HtMechanism, count: Option<u32>) -> Offer {
        // Of another length it is wrong in any case, and so are 32 bytes that nobody could make.
        let hashed = <[u8; 32]>::try_from(self.hashed).ok();
        Offer { mechanism, count, hashed }
    }
}

/// A client's proof.
#[derive(Clone, Copy)]
pub struct Offer {
    mechanism: HtMechanism,
    count: Option<u32>,
    hashed: Option<[u8; 32]>,
}

impl fmt::Debug for Offer {
    /// Leaves the proof out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").field("mechanism", &self.mechanism).field("count", &self.count).finish_non_exhaustive()
    }
}

impl Offer {
    /// The token that the client has, and our answer. `stand_in` makes up for tokens that do not exist.
    ///
    /// # Errors
    /// [`SaslFailure::NotAuthorized`] if it has none of them, if it was made for another mechanism, or if the count has
    /// been used, which is a replay; [`SaslFailure::CredentialsExpired`] if its time is over.
    pub fn judge(
        self,
        tokens: [Option<Token>; 2],
        stand_in: &[u8],
        binding: &ChannelBinding,
    ) -> Result<(TokenSecret, [u8; 32]), SaslFailure> {
        let data = self.mechanism.binding(binding).ok_or(SaslFailure::NotAuthorized)?;
        let mut found = None;
        for token in tokens {
            let secret = token.map_or_else(|| imaginary(stand_in), |token| token.secret);
            let expected = initiator_hash(secret, data);
            let equal = bool::from(expected.ct_eq(&self.hashed.unwrap_or_default())) && self.hashed.is_some();
            found = found.or(token.filter(|_| equal));
        }
        let token = found.filter(|token| token.mechanism == self.mechanism).ok_or(SaslFailure::NotAuthorized)?;
        if token.expired {
            return Err(SaslFailure::CredentialsExpired);
        }
        if self.count.is_some_and(|count| count < token.counted) {
            return Err(SaslFailure::NotAuthorized);
        }
        Ok((token.secret, responder_hash(token.secret, data)))
    }
}

fn imaginary(stand_in: &[u8]) -> TokenSecret {
    let mut secret = [0; TOKEN_BYTES];
    for (to, from) in secret.iter_mut().zip(stand_in) {
        *to = *from;
    }
    TokenSecret(secret)
}

/// `HMAC(token, "Initiator" || cb-data)`, which is what a client sends behind its name and a NUL.
pub fn initiator_hash(secret: TokenSecret, data: &[u8]) -> [u8; 32] {
    hash(secret, b"Initiator", data)
}

/// `HMAC(token, "Responder" || cb-data)`, which is what it must be answered.
pub fn responder_hash(secret: TokenSecret, data: &[u8]) -> [u8; 32] {
    hash(secret, b"Responder", data)
}

fn hash(secret: TokenSecret, role: &[u8], data: &[u8]) -> [u8; 32] {
    let output = Hash::Sha256.hmac(secret.to_string().as_bytes(), &[role, data]);
    *output.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: TokenSecret = TokenSecret([7; TOKEN_BYTES]);

    fn token(mechanism: HtMechanism) -> Token {
        Token { secret: SECRET, mechanism, counted: 0, expired: false }
    }

    fn binding() -> ChannelBinding {
        ChannelBinding { exporter: Box::new([1; 32]), server_end_point: Box::new([2; 32]) }
    }

    fn offer(mechanism: HtMechanism, data: &[u8], count: Option<u32>) -> Offer {
        let message = [b"user\0", &initiator_hash(SECRET, data)[..]].concat();
        let initiator = Initiator::parse(&message).unwrap();
        assert_eq!(initiator.authcid, "user");
        initiator.offer(mechanism, count)
    }

    #[test]
    fn the_hashes_are_those_of_hmac() {
        // python3: hmac.new(base64.urlsafe_b64encode(bytes([7]*24)), b'Initiator', 'sha256').hexdigest()
        let hex = |bytes: [u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(SECRET.to_string(), "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH");
        assert_eq!(
            hex(initiator_hash(SECRET, b"")),
            "4d7dd68fa65332c265baa5e446939049683d831f025f947c5175ee210ceeceed"
        );
        assert_eq!(
            hex(responder_hash(SECRET, &[1; 32])),
            "fbeb18c0646671247600a465dacd61dc716a7e03ec3295ca7cd8ec544682922c"
        );
    }

    #[test]
    fn each_mechanism_proves_with_what_it_binds_to() {
        for mechanism in HtMechanism::OFFERED {
            assert_eq!(HtMechanism::from_name(mechanism.name()), Some(mechanism));
            let data = mechanism.binding(&binding()).unwrap().to_vec();
            let judged = offer(mechanism, &data, None).judge([None, Some(token(mechanism))], &[0; 32], &binding());
            assert_eq!(judged, Ok((SECRET, responder_hash(SECRET, &data))));
            for other in HtMechanism::OFFERED.into_iter().filter(|other| *other != mechanism) {
                let judged = offer(mechanism, &data, None).judge([Some(token(other)), None], &[0; 32], &binding());
                assert_eq!(judged, Err(SaslFailure::NotAuthorized), "a token is bound to its mechanism");
            }
        }
        assert_eq!(HtMechanism::from_name("HT-SHA-256-UNIQ"), None);
        assert_eq!(HtMechanism::Exporter.binding(&ChannelBinding::default()), None);
    }

    #[test]
    fn a_count_is_used_once_and_time_ends() {
        let judge = |counted, expired, count| {
            let token = Token { counted, expired, ..token(HtMechanism::Unbound) };
            offer(HtMechanism::Unbound, b"", count).judge([Some(token), None], &[0; 32], &binding()).map(drop)
        };
        assert_eq!(judge(0, false, None), Ok(()));
        assert_eq!(judge(0, false, Some(0)), Ok(()));
        assert_eq!(judge(8, false, Some(8)), Ok(()));
        assert_eq!(judge(8, false, Some(7)), Err(SaslFailure::NotAuthorized));
        assert_eq!(judge(0, true, Some(7)), Err(SaslFailure::CredentialsExpired));
    }

    #[test]
    fn who_does_not_have_the_token_learns_nothing_of_it() {
        let expired = Token { expired: true, ..token(HtMechanism::Unbound) };
        let wrong = Initiator::parse(b"user\0wrong").unwrap().offer(HtMechanism::Unbound, None);
        let zeros = Initiator::parse(&[b"user\0", &[0; 32][..]].concat()).unwrap().offer(HtMechanism::Unbound, None);
        for offer in [wrong, zeros] {
            for tokens in [[None, None], [Some(expired), None]] {
                assert_eq!(offer.judge(tokens, &[0; 32], &binding()), Err(SaslFailure::NotAuthorized));
            }
        }
        // What stands in for a token is none.
        let stand_in = [7; 32];
        let lucky = offer(HtMechanism::Unbound, b"", None);
        assert_eq!(lucky.judge([None, None], &stand_in, &binding()), Err(SaslFailure::NotAuthorized));
        assert_eq!(format!("{SECRET:?}"), "TokenSecret { .. }");
    }

    #[test]
    fn a_message_is_a_name_a_nul_and_a_hash() {
        for message in [&b""[..], b"user", b"user\0", b"\0hash", b"\xff\0hash"] {
            assert_eq!(Initiator::parse(message).err(), Some(SaslFailure::MalformedRequest), "{message:?}");
        }
        assert!(Initiator::parse(b"user\0\0").is_ok(), "a hash may have zeros");
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(message: Vec<u8>) {
            if let Ok(initiator) = Initiator::parse(&message) {
                let judged = initiator.offer(HtMechanism::Unbound, None).judge([None; 2], &[1; 32], &binding());
                prop_assert_eq!(judged, Err(SaslFailure::NotAuthorized));
            }
        }
    }
}
