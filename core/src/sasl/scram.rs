//! SCRAM (RFC 5802, RFC 7677): keys and the server's side of the exchange.
//!
//! The exchange is three typed steps: [`ClientFirst`] is what the client opens with and borrows its message;
//! [`Opened`] waits for the account's keys; [`Challenged`] waits for the proof. Logging in costs two HMACs and one hash,
//! never a key derivation. All comparisons with secrets take constant time.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use precis_core::profile::Profile;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{ChannelBinding, SaslFailure};

/// Longest output of a hash we use, in bytes.
const OUTPUT_BYTES_MAX: usize = 32;

/// Which hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "names of hashes")]
pub enum Hash {
    Sha1,
    Sha256,
}

impl Hash {
    /// Length of its output in bytes.
    pub const fn output_bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// `H(data)`.
    pub(super) fn digest(self, data: &[u8]) -> Output {
        match self {
            Self::Sha1 => Output::new(&Sha1::digest(data)),
            Self::Sha256 => Output::new(&Sha256::digest(data)),
        }
    }

    /// `HMAC(key, parts…)`.
    pub(crate) fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Output {
        match self {
            Self::Sha1 => hmac_of(Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes keys of any length"), parts),
            Self::Sha256 => hmac_of(Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length"), parts),
        }
    }

    /// `Hi(password, salt, iterations)`, which is PBKDF2.
    pub(super) fn salted_password(self, password: &str, salt: &[u8], iterations: u32) -> Zeroizing<Output> {
        let mut output = Zeroizing::new(Output { bytes: [0; OUTPUT_BYTES_MAX], len: self.output_bytes() });
        match self {
            Self::Sha1 => pbkdf2::pbkdf2_hmac::<Sha1>(password.as_bytes(), salt, iterations, output.as_mut()),
            Self::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), salt, iterations, output.as_mut()),
        }
        output
    }
}

fn hmac_of(mut mac: impl Mac, parts: &[&[u8]]) -> Output {
    for part in parts {
        mac.update(part);
    }
    Output::new(&mac.finalize().into_bytes())
}

/// The output of one of the hashes, on the stack.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    bytes: [u8; OUTPUT_BYTES_MAX],
    len: usize,
}

impl Output {
    fn new(output: &[u8]) -> Self {
        let mut bytes = [0; OUTPUT_BYTES_MAX];
        for (to, from) in bytes.iter_mut().zip(output) {
            *to = *from;
        }
        Self { bytes, len: output.len().min(OUTPUT_BYTES_MAX) }
    }

    /// This, exclusive-or another of the same length.
    pub(super) fn xor(mut self, other: &[u8]) -> Self {
        for (byte, other) in self.bytes.iter_mut().zip(other) {
            *byte ^= other;
        }
        self
    }
}

impl AsRef<[u8]> for Output {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

impl AsMut<[u8]> for Output {
    fn as_mut(&mut self) -> &mut [u8] {
        let len = self.len.min(OUTPUT_BYTES_MAX);
        self.bytes.split_at_mut(len).0
    }
}

impl zeroize::Zeroize for Output {
    fn zeroize(&mut self) {
        self.bytes.zeroize();
    }
}

/// What the server keeps of a password for one hash. Never the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// The hash the keys are of.
    pub hash: Hash,
    /// Salt, 16 bytes by default.
    pub salt: Box<[u8]>,
    /// PBKDF2 rounds.
    pub iterations: u32,
    /// StoredKey; 20 or 32 bytes.
    pub stored_key: Box<[u8]>,
    /// ServerKey; 20 or 32 bytes.
    pub server_key: Box<[u8]>,
}

impl Keys {
    /// Keys of a password nobody has, for an account that does not exist: always the same for the same secret, so that
    /// asking twice tells nothing (RFC 5802 §5.1 leaves it to the server; docs/bad-input.md, 44).
    pub fn imaginary(hash: Hash, secret: &[u8; 32], iterations: u32) -> Self {
        let make = |label: &[u8]| Hash::Sha256.hmac(secret, &[label, &[hash as u8]]);
        let key = |label| make(label).as_ref().iter().copied().take(hash.output_bytes()).collect();
        Self {
            hash,
            salt: make(b"salt").as_ref().iter().copied().take(SALT_BYTES).collect(),
            iterations,
            stored_key: key(b"stored key"),
            server_key: key(b"server key"),
        }
    }

    /// Whether the lengths are those of the hash, and the rest is usable at all.
    pub fn is_sound(&self) -> bool {
        let bytes = self.hash.output_bytes();
        self.stored_key.len() == bytes && self.server_key.len() == bytes && self.iterations > 0 && !self.salt.is_empty()
    }
}

impl std::fmt::Debug for Keys {
    /// Leaves salt and keys out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("hash", &self.hash).field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// Length of the salts we make, in bytes.
pub const SALT_BYTES: usize = 16;

/// Derives the keys. Slow on purpose (milliseconds): never on a shard. The password is prepared with OpaqueString
/// (RFC 8265 §4); `None` if that refuses it or it is empty, or without a single iteration.
pub fn derive(hash: Hash, password: &str, salt: &[u8], iterations: u32) -> Option<Keys> {
    let password = prepare_password(password).filter(|_| iterations > 0)?;
    let salted = hash.salted_password(&password, salt, iterations);
    let client_key = Zeroizing::new(hash.hmac(salted.as_ref(), &[b"Client Key"]));
    Some(Keys {
        hash,
        salt: salt.into(),
        iterations,
        stored_key: hash.digest((*client_key).as_ref()).as_ref().into(),
        server_key: hash.hmac(salted.as_ref(), &[b"Server Key"]).as_ref().into(),
    })
}

/// Stands in for the secrets of an account that does not exist: the same for a name every time, so that nobody can tell
/// its salt from a real one's (RFC 5802 §5.1).
pub fn stand_in_secret(server_secret: &[u8; 32], bare: &str) -> [u8; 32] {
    let mut secret = [0; 32];
    secret.copy_from_slice(Hash::Sha256.hmac(server_secret, &[bare.as_bytes()]).as_ref());
    secret
}

/// Whether the password matches the keys (for PLAIN). Slow on purpose, constant-time comparison.
pub fn verify_password(keys: &Keys, password: &str) -> bool {
    derive(keys.hash, password, &keys.salt, keys.iterations)
        .is_some_and(|derived| derived.stored_key.ct_eq(&keys.stored_key).into())
}

/// The password as OpaqueString (RFC 8265 §4.2) makes it; printable ASCII, the common kind, is that already.
pub(super) fn prepare_password(password: &str) -> Option<Zeroizing<String>> {
    if password.is_empty() {
        return None;
    }
    if password.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Some(Zeroizing::new(password.to_owned()));
    }
    let prepared = precis_profiles::OpaqueString::new().enforce(password).ok()?;
    Some(Zeroizing::new(prepared.into_owned()))
}

/// What the client says about channel binding (RFC 5802 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindingFlag<'a> {
    /// `n`: it cannot.
    Unsupported,
    /// `y`: it could, and believes that we can't.
    Unoffered,
    /// `p=`: it does, with this type.
    Used(&'a str),
}

/// The client-first-message, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFirst<'a> {
    /// Channel binding.
    pub flag: BindingFlag<'a>,
    /// Whom to act as; empty: the account itself.
    pub authzid: Cow<'a, str>,
    /// The account's name, un-escaped.
    pub username: Cow<'a, str>,
    /// The client's nonce.
    nonce: &'a str,
    /// The gs2-header, which the client's last message repeats.
    header: &'a str,
    /// The message without the gs2-header.
    bare: &'a str,
}

impl<'a> ClientFirst<'a> {
    /// Takes the message apart (RFC 5802 §7). Extensions behind the nonce are ignored, as §5.1 asks.
    ///
    /// # Errors
    /// [`SaslFailure::MalformedRequest`] if attributes are missing, out of order or ill-formed, or `m=` demands an
    /// extension, of which we have none.
    pub fn parse(message: &'a [u8]) -> Result<Self, SaslFailure> {
        Self::parse_opt(message).ok_or(SaslFailure::MalformedRequest)
    }

    fn parse_opt(message: &'a [u8]) -> Option<Self> {
        let message = std::str::from_utf8(message).ok()?;
        let (flag, rest) = message.split_once(',')?;
        let (authzid, bare) = rest.split_once(',')?;
        let header = message.strip_suffix(bare)?;

        let flag = match flag {
            "n" => BindingFlag::Unsupported,
            "y" => BindingFlag::Unoffered,
            used => BindingFlag::Used(used.strip_prefix("p=").filter(|name| is_binding_name(name))?),
        };
        let authzid = match authzid {
            "" => Cow::Borrowed(""),
            named => unescape(named.strip_prefix("a=")?)?,
        };
        // `m=` stands where `n=` is expected, so it is refused here.
        let mut attributes = bare.split(',');
        let username = unescape(attributes.next()?.strip_prefix("n=")?).filter(|name| !name.is_empty())?;
        let nonce = attributes.next()?.strip_prefix("r=").filter(|nonce| is_nonce(nonce))?;
        attributes.all(is_extension).then_some(Self { flag, authzid, username, nonce, header, bare })
    }

    /// Keeps of the message what the exchange still needs.
    ///
    /// # Errors
    /// [`SaslFailure::MalformedRequest`] if the flag contradicts the mechanism: `p` belongs to `-PLUS` and to nothing
    /// else (RFC 5802 §6). [`SaslFailure::NotAuthorized`] for a type of binding this connection does not have, or for
    /// `y` although we offered `-PLUS`: somebody between us took it out.
    pub fn open(&self, hash: Hash, plus: bool, binding: &ChannelBinding) -> Result<Opened, SaslFailure> {
        let data = match (self.flag, plus) {
            (BindingFlag::Used(name), true) => binding.data(name).ok_or(SaslFailure::NotAuthorized)?,
            (BindingFlag::Unoffered, false) if !binding.is_empty() => return Err(SaslFailure::NotAuthorized),
            (BindingFlag::Unsupported | BindingFlag::Unoffered, false) => &[],
            (BindingFlag::Used(_), false) | (BindingFlag::Unsupported | BindingFlag::Unoffered, true) => {
                return Err(SaslFailure::MalformedRequest);
            }
        };
        let header_and_data = [self.header.as_bytes(), data].concat();
        let mut messages = String::with_capacity(self.bare.len() + self.nonce.len() + FIRST_BYTES);
        messages.push_str(self.bare);
        Ok(Opened { hash, messages, nonce: self.nonce.into(), binding: STANDARD.encode(header_and_data).into() })
    }
}

/// Room for the server-first-message beside the client's nonce, and for what is appended to it.
const FIRST_BYTES: usize = 144;

/// An exchange whose account is known, and its keys are not yet.
#[derive(Debug)]
pub struct Opened {
    hash: Hash,
    /// The client-first-message-bare.
    messages: String,
    nonce: Box<str>,
    /// The `c=` that the client must send.
    binding: Box<str>,
}

impl Opened {
    /// The hash of the mechanism.
    pub const fn hash(&self) -> Hash {
        self.hash
    }

    /// Takes the account's keys and our part of the nonce (printable ASCII without comma); the exchange's challenge is
    /// then [`Challenged::server_first`]. `known`: the account exists; otherwise the keys are imaginary, and whatever the
    /// proof, it is refused. `advertised`: [`super::downgrade::hash`] of the lists, to be sent as attribute `h`
    /// (XEP-0474 v0.5.0 §6.1).
    pub fn challenge(self, keys: Keys, server_nonce: &str, known: bool, advertised: Option<&str>) -> Challenged {
        let Self { mut messages, nonce, binding, hash: _ } = self;
        let bare_bytes = messages.len();
        messages.push_str(",r=");
        messages.push_str(&nonce);
        messages.push_str(server_nonce);
        let nonce_bytes = nonce.len() + server_nonce.len();
        messages.push_str(",s=");
        STANDARD.encode_string(&keys.salt, &mut messages);
        messages.push_str(",i=");
        messages.push_str(&keys.iterations.to_string());
        if let Some(advertised) = advertised {
            messages.push_str(",h=");
            messages.push_str(advertised);
        }
        Challenged { keys, known, messages, bare_bytes, nonce_bytes, binding }
    }
}

/// An exchange whose challenge is sent: the proof is awaited.
#[derive(Debug)]
pub struct Challenged {
    keys: Keys,
    known: bool,
    /// The client-first-message-bare, a comma, and the server-first-message: the AuthMessage so far.
    messages: String,
    bare_bytes: usize,
    nonce_bytes: usize,
    binding: Box<str>,
}

impl Challenged {
    /// The server-first-message.
    pub fn server_first(&self) -> &str {
        self.messages.get(self.bare_bytes + 1..).unwrap_or_default()
    }

    fn nonce(&self) -> &str {
        self.server_first().get(2..2 + self.nonce_bytes).unwrap_or_default()
    }

    /// Verifies the client-final-message; gives the server-final-message's signature (without `v=`, not yet Base64).
    ///
    /// # Errors
    /// [`SaslFailure::MalformedRequest`] if attributes are missing, out of order or ill-formed, or `m=` demands an
    /// extension. [`SaslFailure::NotAuthorized`] if the proof is wrong, the channel binding or the nonce is not ours, or
    /// the account does not exist.
    pub fn finish(&self, client_final: &[u8]) -> Result<ServerSignature, SaslFailure> {
        let hash = self.keys.hash;
        let ClientFinal { binding, nonce, without_proof, proof } =
            ClientFinal::parse(client_final, hash).ok_or(SaslFailure::MalformedRequest)?;

        let auth_message = [self.messages.as_bytes(), b",", without_proof.as_bytes()];
        let client_key = hash.hmac(&self.keys.stored_key, &auth_message).xor(proof.as_ref());
        let proven = hash.digest(client_key.as_ref()).as_ref().ct_eq(&self.keys.stored_key);
        let signature = hash.hmac(&self.keys.server_key, &auth_message);

        // `&`, not `&&`: all of it is always computed, so that no answer is faster than another.
        if bool::from(proven) & self.known & (binding == &*self.binding) & (nonce == self.nonce()) {
            Ok(ServerSignature(signature))
        } else {
            Err(SaslFailure::NotAuthorized)
        }
    }
}

/// The server's proof that it knows the keys.
#[derive(Clone, Copy)]
pub struct ServerSignature(Output);

impl ServerSignature {
    /// The server-final-message: `v=` and the signature.
    pub fn server_final(&self) -> String {
        let mut message = String::with_capacity(2 + 44);
        message.push_str("v=");
        STANDARD.encode_string(self.0, &mut message);
        message
    }
}

impl std::fmt::Debug for ServerSignature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerSignature").finish_non_exhaustive()
    }
}

/// The client-final-message, taken apart.
struct ClientFinal<'a> {
    binding: &'a str,
    nonce: &'a str,
    without_proof: &'a str,
    proof: Output,
}

impl<'a> ClientFinal<'a> {
    fn parse(message: &'a [u8], hash: Hash) -> Option<Self> {
        let message = std::str::from_utf8(message).ok()?;
        let (without_proof, proof) = message.rsplit_once(",p=")?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next()?.strip_prefix("c=").filter(|binding| !binding.is_empty())?;
        let nonce = attributes.next()?.strip_prefix("r=").filter(|nonce| is_nonce(nonce))?;
        if !attributes.all(is_extension) {
            return None;
        }
        Some(Self { binding, nonce, without_proof, proof: decode_output(proof, hash)? })
    }
}

/// Decodes the Base64 of a value as long as the hash's output.
pub(super) fn decode_output(base64: &str, hash: Hash) -> Option<Output> {
    let mut bytes = [0; OUTPUT_BYTES_MAX + 4];
    let len = STANDARD.decode_slice(base64, &mut bytes).ok().filter(|len| *len == hash.output_bytes())?;
    bytes.get(..len).map(Output::new)
}

/// `cb-name` (RFC 5802 §7).
fn is_binding_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
}

/// `printable`, at least one (RFC 5802 §7); the comma is gone already.
pub(super) fn is_nonce(nonce: &str) -> bool {
    !nonce.is_empty() && nonce.bytes().all(|byte| byte.is_ascii_graphic())
}

/// `attr-val` that we may ignore (RFC 5802 §7): any letter but `m`, which must not be ignored (§5.1).
fn is_extension(attribute: &str) -> bool {
    match attribute.as_bytes() {
        [letter, b'=', value @ ..] => {
            letter.is_ascii_alphabetic() && *letter != b'm' && !value.is_empty() && !value.contains(&0)
        }
        _ => false,
    }
}

/// `saslname` (RFC 5802 §5.1): `=2C` is a comma, `=3D` an equals sign, and any other `=` an error.
fn unescape(name: &str) -> Option<Cow<'_, str>> {
    if name.contains('\0') {
        return None;
    }
    let Some((first, escaped)) = name.split_once('=') else { return Some(Cow::Borrowed(name)) };
    let mut text = String::with_capacity(name.len());
    text.push_str(first);
    for part in escaped.split('=') {
        let (code, rest) = part.split_at_checked(2)?;
        text.push(match code {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        text.push_str(rest);
    }
    Some(Cow::Owned(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5802 §5 and RFC 7677 §3: the messages of one login.
    struct Vector {
        hash: Hash,
        client_first: &'static str,
        server_nonce: &'static str,
        server_first: &'static str,
        client_final: &'static str,
        server_final: &'static str,
        salt: &'static str,
        stored_key: &'static str,
        server_key: &'static str,
    }

    const SHA1: Vector = Vector {
        hash: Hash::Sha1,
        client_first: "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
        server_nonce: "3rfcNHYJY1ZVvWVs7j",
        server_first: "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        client_final: "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        server_final: "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        salt: "QSXCR+Q6sek8bf92",
        stored_key: "6dlGYMOdZcOPutkcNY8U2g7vK9Y=",
        server_key: "D+CSWLOshSulAsxiupA+qs2/fTE=",
    };

    const SHA256: Vector = Vector {
        hash: Hash::Sha256,
        client_first: "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        server_nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        server_first: "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        client_final: "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                       p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        server_final: "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        salt: "W22ZaJ0SNY7soEsUEjb6gQ==",
        stored_key: "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=",
        server_key: "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
    };

    fn keys(vector: &Vector) -> Keys {
        derive(vector.hash, "pencil", &STANDARD.decode(vector.salt).unwrap(), 4096).unwrap()
    }

    fn challenged(vector: &Vector, known: bool) -> Challenged {
        ClientFirst::parse(vector.client_first.as_bytes())
            .unwrap()
            .open(vector.hash, false, &ChannelBinding::default())
            .unwrap()
            .challenge(keys(vector), vector.server_nonce, known, None)
    }

    #[test]
    fn keys_are_those_of_the_rfc_examples() {
        for vector in [SHA1, SHA256] {
            let keys = keys(&vector);
            assert_eq!(STANDARD.encode(&keys.stored_key), vector.stored_key);
            assert_eq!(STANDARD.encode(&keys.server_key), vector.server_key);
            assert!(keys.is_sound());
            assert!(verify_password(&keys, "pencil"));
            assert!(!verify_password(&keys, "pencil "));
            assert!(!verify_password(&keys, ""));
        }
    }

    #[test]
    fn the_exchange_is_that_of_the_rfc_examples() {
        for vector in [SHA1, SHA256] {
            let exchange = challenged(&vector, true);
            assert_eq!(exchange.server_first(), vector.server_first);
            let signature = exchange.finish(vector.client_final.as_bytes()).unwrap();
            assert_eq!(signature.server_final(), vector.server_final);
        }
    }

    #[test]
    fn an_account_that_does_not_exist_is_refused_even_with_the_right_proof() {
        for vector in [SHA1, SHA256] {
            let refused = challenged(&vector, false).finish(vector.client_final.as_bytes()).unwrap_err();
            assert_eq!(refused, SaslFailure::NotAuthorized);
        }
    }

    #[test]
    fn imaginary_keys_are_stable_and_differ_by_secret_and_hash() {
        let keys = Keys::imaginary(Hash::Sha256, &[7; 32], 10_000);
        assert!(keys.is_sound());
        assert_eq!(keys.salt.len(), SALT_BYTES);
        assert_eq!(keys, Keys::imaginary(Hash::Sha256, &[7; 32], 10_000));
        assert_ne!(keys.salt, Keys::imaginary(Hash::Sha256, &[8; 32], 10_000).salt);
        assert_ne!(keys.salt, Keys::imaginary(Hash::Sha1, &[7; 32], 10_000).salt);
        assert!(Keys::imaginary(Hash::Sha1, &[7; 32], 10_000).is_sound());
    }

    #[test]
    fn names_are_unescaped() {
        let check = |message: &str, authzid: &str, username: &str| {
            let first = ClientFirst::parse(message.as_bytes()).expect(message);
            assert_eq!((&*first.authzid, &*first.username), (authzid, username), "{message}");
        };
        check("n,,n=user,r=a", "", "user");
        check("n,a=,n=user,r=a", "", "user");
        check("y,a=b=2Cc,n=u=3D=2Cs,r=a", "b,c", "u=,s");
        check("p=tls-exporter,,n==2C,r=a,x=ignored", "", ",");
        check("n,,n=é,r=!~", "", "é");
    }

    #[test]
    fn ill_formed_first_messages_are_refused() {
        for message in [
            "",
            "n",
            "n,",
            "n,,",
            ",,n=user,r=a",
            "x,,n=user,r=a",
            "N,,n=user,r=a",
            "p,,n=user,r=a",
            "p=,,n=user,r=a",
            "p=a b,,n=user,r=a",
            "n,b=c,n=user,r=a",
            "n,user,n=user,r=a",
            "n,,n=,r=a",
            "n,,n=user",
            "n,,n=user,r=",
            "n,,r=a,n=user",
            "n,,m=ext,n=user,r=a",
            "n,,n=user,r=a,m=ext",
            "n,,n=user,r=a,",
            "n,,n=user,,r=a",
            "n,,n=user,r=a,1=b",
            "n,,n=user,r=a,x=",
            "n,,n=user,r=a,xy",
            "n,,n=us=er,r=a",
            "n,,n=user=2c,r=a",
            "n,,n=user=,r=a",
            "n,,n=us=é,r=a",
            "n,,n=user,r=a b",
            "n,,n=user,r=é",
            "n,,n=us\0er,r=a",
            "n,,n=user,r=\u{7f}",
        ] {
            assert_eq!(ClientFirst::parse(message.as_bytes()), Err(SaslFailure::MalformedRequest), "{message}");
        }
        assert_eq!(ClientFirst::parse(b"n,,n=us\xffer,r=a"), Err(SaslFailure::MalformedRequest));
    }

    #[test]
    fn ill_formed_final_messages_are_refused() {
        let exchange = challenged(&SHA256, true);
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let proof = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        for message in [
            String::new(),
            format!("c=biws,r={nonce}"),
            format!("r={nonce},c=biws,p={proof}"),
            format!("c=,r={nonce},p={proof}"),
            format!("c=biws,p={proof}"),
            format!("c=biws,r=,p={proof}"),
            format!("c=biws,r={nonce},p="),
            format!("c=biws,r={nonce},p={proof}="),
            format!("c=biws,r={nonce},p={proof},x=y"),
            format!("c=biws,r={nonce},m=ext,p={proof}"),
            format!("m=ext,c=biws,r={nonce},p={proof}"),
            format!("c=biws,r={nonce},,p={proof}"),
            format!("c=biws,r={nonce},p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="),
            format!("c=biws,r={nonce},p={}", "A".repeat(4096)),
        ] {
            assert_eq!(exchange.finish(message.as_bytes()).unwrap_err(), SaslFailure::MalformedRequest, "{message}");
        }
    }

    #[test]
    fn wrong_proof_nonce_and_binding_are_not_authorized() {
        let exchange = challenged(&SHA256, true);
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let proof = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        for message in [
            format!("c=biws,r={nonce},p={}", STANDARD.encode([0; 32])),
            format!("c=eSws,r={nonce},p={proof}"),
            format!("c=biws,r={nonce}x,p={proof}"),
            format!("c=biws,r=rOprNGfwEbeRWgbNEkqO,p={proof}"),
            format!("c=biws,r={nonce},x=y,p={proof}"),
        ] {
            assert_eq!(exchange.finish(message.as_bytes()).unwrap_err(), SaslFailure::NotAuthorized, "{message}");
        }
    }

    #[test]
    fn the_channel_binding_flag_must_fit_mechanism_and_connection() {
        let none = ChannelBinding::default();
        let exporter = ChannelBinding { exporter: Box::new([9; 32]), server_end_point: Box::default() };
        let check = |flag: &str, plus: bool, binding: &ChannelBinding, expected: Option<SaslFailure>| {
            let message = format!("{flag},,n=user,r=a");
            let opened = ClientFirst::parse(message.as_bytes()).unwrap().open(Hash::Sha256, plus, binding);
            assert_eq!(opened.err(), expected, "{flag} {plus}");
        };
        check("n", false, &none, None);
        check("n", false, &exporter, None);
        check("y", false, &none, None);
        check("y", false, &exporter, Some(SaslFailure::NotAuthorized));
        check("p=tls-exporter", true, &exporter, None);
        check("p=tls-exporter", true, &none, Some(SaslFailure::NotAuthorized));
        check("p=tls-unique", true, &exporter, Some(SaslFailure::NotAuthorized));
        check("p=tls-exporter", false, &exporter, Some(SaslFailure::MalformedRequest));
        check("n", true, &exporter, Some(SaslFailure::MalformedRequest));
        check("y", true, &exporter, Some(SaslFailure::MalformedRequest));
    }

    #[test]
    fn passwords_are_prepared() {
        // RFC 8265 §4.3: non-ASCII spaces become the ASCII one; composed and decomposed forms are one.
        let keys = derive(Hash::Sha1, "caf\u{e9}\u{3000}", b"salt", 1).unwrap();
        assert!(verify_password(&keys, "cafe\u{301} "));
        assert_eq!(derive(Hash::Sha1, "", b"salt", 1), None);
        assert_eq!(derive(Hash::Sha1, "a\u{7}", b"salt", 1), None);
        assert_eq!(derive(Hash::Sha1, "pencil", b"salt", 0), None);
    }

    #[test]
    fn keys_are_not_printed() {
        assert_eq!(format!("{:?}", keys(&SHA1)), "Keys { hash: Sha1, iterations: 4096, .. }");
    }
}
