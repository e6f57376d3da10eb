//! TLS 1.3's record layer, once the handshake is over: two keys, and what the next ones are made from. rustls keeps two
//! and a half kilobytes for as much.
//!
//! Spec: RFC 8446 §4.6.3 (key update), §5 (records), §6 (alerts), §7 (key schedule).

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::tls13::{HkdfExpander, OkmBlock};
use rustls::{AlertDescription, CipherSuite, ContentType, Error, HandshakeType, PeerMisbehaved, Tls13CipherSuite};
use zeroize::Zeroizing;

/// Plaintext in one record (§5.1).
const PLAINTEXT_BYTES_MAX: usize = 16_384;
/// What follows a record's header (§5.2).
const BODY_BYTES_MAX: usize = PLAINTEXT_BYTES_MAX + 256;
const HEADER_BYTES: usize = 5;
const TAG_BYTES: usize = 16;
/// Header, inner type and tag.
const OVERHEAD_BYTES: usize = HEADER_BYTES + 1 + TAG_BYTES;
/// A KeyUpdate up to its only field, `request_update` (§4.6.3).
const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];

/// SHA-384 makes the longest secrets.
pub(super) const SECRET_BYTES_MAX: usize = 48;
/// A secret of the key schedule; the suite's hash says how much of it counts.
pub(super) type Secret = Zeroizing<[u8; SECRET_BYTES_MAX]>;

/// Both directions of a connection, at the server.
pub(super) struct Records {
    suite: &'static Tls13CipherSuite,
    read: Direction,
    write: Direction,
}

/// One direction's keys.
struct Direction {
    key: LessSafeKey,
    iv: Zeroizing<[u8; 12]>,
    /// Of the next record under this key.
    sequence: u64,
    /// `application_traffic_secret_N` (§7.2).
    secret: Secret,
    /// The peer wants other keys to be used before anything else is written.
    update_due: bool,
}

/// What a record held.
pub(super) enum Content<'a> {
    /// Bytes of the stream.
    Plaintext(&'a [u8]),
    /// Nothing for the stream.
    Nothing,
    /// close_notify.
    Closed,
}

/// Why a record ends the connection, and what to tell the peer.
pub(super) struct Refusal {
    pub(super) alert: Option<AlertDescription>,
    pub(super) error: Error,
}

impl Records {
    /// Takes over from the handshake: nothing has been read or written under these secrets. `None` for a suite that is
    /// not ours.
    pub(super) fn new(suite: &'static Tls13CipherSuite, client: &Secret, server: &Secret) -> Option<Self> {
        let read = Direction::new(suite, client.clone())?;
        let write = Direction::new(suite, server.clone())?;
        Some(Self { suite, read, write })
    }

    /// Decrypts the first record of `bytes` where it lies; its content, and its length on the wire. `None` if it is
    /// incomplete.
    pub(super) fn open<'a>(&mut self, bytes: &'a mut [u8]) -> Result<Option<(usize, Content<'a>)>, Refusal> {
        let Some((&mut header, rest)) = bytes.split_first_chunk_mut::<HEADER_BYTES>() else { return Ok(None) };
        // The version is to be ignored (§5.1). ChangeCipherSpec is not, any more, after Finished (§5).
        let [kind, _, _, high, low] = header;
        let len = usize::from(u16::from_be_bytes([high, low]));
        if kind != u8::from(ContentType::ApplicationData) {
            return Err(Refusal::unexpected(kind.into()));
        }
        if len > BODY_BYTES_MAX {
            return Err(Refusal::oversized());
        }
        let Some(body) = rest.get_mut(..len) else { return Ok(None) };
        let inner = self
            .read
            .open(header, body)
            .ok_or(Refusal { alert: Some(AlertDescription::BadRecordMac), error: Error::DecryptError })?;
        // The type is the last byte that is not padding (§5.4).
        let end = inner.iter().rposition(|&byte| byte != 0);
        let Some((&kind, text)) = end.and_then(|end| inner.get(..=end)).and_then(<[u8]>::split_last) else {
            return Err(Refusal::misbehaved(
                AlertDescription::UnexpectedMessage,
                PeerMisbehaved::IllegalTlsInnerPlaintext,
            ));
        };
        if inner.len() > PLAINTEXT_BYTES_MAX + 1 {
            return Err(Refusal::oversized());
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "whatever else there is or will be is refused")]
        let content = match ContentType::from(kind) {
            ContentType::ApplicationData => Content::Plaintext(text),
            ContentType::Alert => read_alert(text)?,
            ContentType::Handshake => {
                self.read_handshake(text)?;
                Content::Nothing
            }
            other => return Err(Refusal::unexpected(other)),
        };
        Ok(Some((HEADER_BYTES + len, content)))
    }

    /// A KeyUpdate, alone in its record, since a change of keys falls between records (§5.1); a client has no other
    /// message to send after the handshake.
    fn read_handshake(&mut self, message: &[u8]) -> Result<(), Refusal> {
        let Some(request) = message.strip_prefix(&KEY_UPDATE) else {
            return Err(Refusal {
                alert: Some(AlertDescription::UnexpectedMessage),
                error: Error::InappropriateHandshakeMessage {
                    expect_types: vec![HandshakeType::KeyUpdate],
                    got_type: message.first().map_or(HandshakeType::Unknown(0), |&kind| kind.into()),
                },
            });
        };
        match request {
            [0] => {}
            // We answer when we next write: however many ask meanwhile, there is one answer (§4.6.3).
            [1] => self.write.update_due = true,
            [_] => {
                let error = Error::InvalidMessage(rustls::InvalidMessage::InvalidKeyUpdate);
                return Err(Refusal { alert: Some(AlertDescription::IllegalParameter), error });
            }
            _ => {
                let error = PeerMisbehaved::KeyEpochWithPendingFragment;
                return Err(Refusal::misbehaved(AlertDescription::UnexpectedMessage, error));
            }
        }
        self.read
            .advance(self.suite)
            .ok_or(Refusal { alert: Some(AlertDescription::InternalError), error: keys_failed() })
    }

    /// Appends `plaintext` in as few records as it takes.
    pub(super) fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        out.reserve(plaintext.len() + plaintext.len().div_ceil(PLAINTEXT_BYTES_MAX) * OVERHEAD_BYTES);
        for text in plaintext.chunks(PLAINTEXT_BYTES_MAX) {
            if self.write.update_due || self.write.sequence >= self.suite.common.confidentiality_limit {
                self.update_write(out)?;
            }
            self.write.seal(ContentType::ApplicationData, text, out)?;
        }
        Ok(())
    }

    /// Appends an alert (§6).
    pub(super) fn seal_alert(&mut self, alert: AlertDescription, out: &mut Vec<u8>) -> Result<(), Error> {
        let level = if alert == AlertDescription::CloseNotify { 1 } else { 2 };
        self.write.seal(ContentType::Alert, &[level, alert.into()], out)
    }

    /// Changes the keys we write with; a key is good for so many records only (§5.5).
    fn update_write(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let [kind, high, mid, low] = KEY_UPDATE;
        self.write.seal(ContentType::Handshake, &[kind, high, mid, low, 0], out)?;
        self.write.advance(self.suite).ok_or_else(keys_failed)
    }
}

impl Direction {
    fn new(suite: &Tls13CipherSuite, secret: Secret) -> Option<Self> {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "of all suites there are, TLS 1.3 has three that rustls knows"
        )]
        let algorithm = match suite.common.suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => &aead::AES_128_GCM,
            CipherSuite::TLS13_AES_256_GCM_SHA384 => &aead::AES_256_GCM,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => &aead::CHACHA20_POLY1305,
            _ => return None,
        };
        let expander = expander(suite, secret.as_slice())?;
        let mut key = Zeroizing::new([0; 32]);
        let key = key.get_mut(..algorithm.key_len())?;
        expand_label(expander.as_ref(), b"key", b"", key)?;
        let mut iv = Zeroizing::new([0; 12]);
        expand_label(expander.as_ref(), b"iv", b"", iv.as_mut_slice())?;
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?);
        Some(Self { key, iv, sequence: 0, secret, update_due: false })
    }

    /// The next generation of keys (§7.2).
    fn advance(&mut self, suite: &Tls13CipherSuite) -> Option<()> {
        let mut next = Secret::new([0; SECRET_BYTES_MAX]);
        let len = suite.common.hash_provider.output_len();
        let expander = expander(suite, self.secret.as_slice())?;
        expand_label(expander.as_ref(), b"traffic upd", b"", next.get_mut(..len)?)?;
        *self = Self::new(suite, next)?;
        Some(())
    }

    /// The nonce of the next record (§5.3).
    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; 12];
        let sequence = [0; 4].into_iter().chain(self.sequence.to_be_bytes());
        for (byte, (iv, sequence)) in nonce.iter_mut().zip(self.iv.iter().zip(sequence)) {
            *byte = iv ^ sequence;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn open<'a>(&mut self, header: [u8; HEADER_BYTES], body: &'a mut [u8]) -> Option<&'a [u8]> {
        let nonce = self.nonce();
        self.key.open_in_place(nonce, Aad::from(header), body).ok().map(|inner| &*inner)
    }

    /// Appends one record. The plaintext is copied once, to where it is encrypted.
    fn seal(&mut self, kind: ContentType, text: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let body_bytes = u16::try_from(text.len() + 1 + TAG_BYTES).map_err(|_| Error::EncryptError)?;
        let [high, low] = body_bytes.to_be_bytes();
        let header = [ContentType::ApplicationData.into(), 3, 3, high, low];
        let start = out.len();
        out.extend_from_slice(&header);
        out.extend_from_slice(text);
        out.push(kind.into());
        let nonce = self.nonce();
        let body = out.get_mut(start + HEADER_BYTES..).unwrap_or_default();
        match self.key.seal_in_place_separate_tag(nonce, Aad::from(header), body) {
            Ok(tag) => out.extend_from_slice(tag.as_ref()),
            Err(_) => {
                out.truncate(start);
                return Err(Error::EncryptError);
            }
        }
        Ok(())
    }
}

impl Refusal {
    fn misbehaved(alert: AlertDescription, how: PeerMisbehaved) -> Self {
        Self { alert: Some(alert), error: how.into() }
    }

    fn unexpected(got_type: ContentType) -> Self {
        let error = Error::InappropriateMessage { expect_types: vec![ContentType::ApplicationData], got_type };
        Self { alert: Some(AlertDescription::UnexpectedMessage), error }
    }

    fn oversized() -> Self {
        Self { alert: Some(AlertDescription::RecordOverflow), error: Error::PeerSentOversizedRecord }
    }
}

/// In TLS 1.3 the level says nothing, and all but two end the connection at once, unanswered (§6).
fn read_alert(alert: &[u8]) -> Result<Content<'static>, Refusal> {
    let &[_, description] = alert else {
        let error = Error::InvalidMessage(rustls::InvalidMessage::MessageTooShort);
        return Err(Refusal { alert: Some(AlertDescription::DecodeError), error });
    };
    let description = AlertDescription::from(description);
    if description == AlertDescription::CloseNotify {
        return Ok(Content::Closed);
    }
    // close_notify follows it (§6.1).
    if description == AlertDescription::UserCanceled {
        return Ok(Content::Nothing);
    }
    Err(Refusal { alert: None, error: Error::AlertReceived(description) })
}

/// Our own libraries refused to make a key.
fn keys_failed() -> Error {
    Error::General("no next traffic keys".into())
}

/// What expands a secret of a suite, which may have room behind it.
pub(super) fn expander(suite: &Tls13CipherSuite, secret: &[u8]) -> Option<Box<dyn HkdfExpander>> {
    let secret = secret.get(..suite.common.hash_provider.output_len())?;
    Some(suite.hkdf_provider.expander_for_okm(&OkmBlock::new(secret)))
}

/// HKDF-Expand-Label (§7.1), as long as `out` is.
pub(super) fn expand_label(expander: &dyn HkdfExpander, label: &[u8], context: &[u8], out: &mut [u8]) -> Option<()> {
    let len_bytes = u16::try_from(out.len()).ok()?.to_be_bytes();
    let label_len = [u8::try_from(label.len() + 6).ok()?];
    let context_len = [u8::try_from(context.len()).ok()?];
    expander.expand_slice(&[&len_bytes, &label_len, b"tls13 ", label, &context_len, context], out).ok()
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::cipher_suite;

    use super::*;

    /// A client and a server that share secrets.
    fn pair() -> (Records, Records) {
        let suite = cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
        let (client, server) = (Secret::new([1; SECRET_BYTES_MAX]), Secret::new([2; SECRET_BYTES_MAX]));
        (Records::new(suite, &server, &client).unwrap(), Records::new(suite, &client, &server).unwrap())
    }

    /// A record with this inner plaintext, whatever it is.
    fn record(from: &mut Records, kind: u8, text: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        from.write.seal(kind.into(), text, &mut wire).unwrap();
        wire
    }

    fn read(to: &mut Records, mut wire: &[u8]) -> Result<Vec<u8>, Refusal> {
        let mut heard = Vec::new();
        while let Some((len, content)) = to.open(&mut wire.to_vec())? {
            match content {
                Content::Plaintext(text) => heard.extend_from_slice(text),
                Content::Nothing => {}
                Content::Closed => heard.extend_from_slice(b"(closed)"),
            }
            wire = wire.get(len..).unwrap();
        }
        assert!(wire.is_empty());
        Ok(heard)
    }

    #[test]
    fn padding_is_stripped_and_what_holds_nothing_is_nothing() {
        let check = |kind: u8, text: &[u8], expected: &[u8]| {
            let (mut client, mut server) = pair();
            let wire = record(&mut client, kind, text);
            assert_eq!(read(&mut server, &wire).ok().unwrap(), expected);
        };
        check(0, b"text\x17", b"text");
        check(0, b"text\x17\0\0\0\0", b"text");
        check(0, b"\0\0\x17\0", b"\0\0");
        check(23, b"", b"");
        check(0, b"\x01\0\x15\0\0", b"(closed)");
        check(21, &[2, 90], b"");
        check(0, &[&[b'x'; 16_383][..], &[23]].concat(), &[b'x'; 16_383]);
        check(23, &[b'x'; 16_384], &[b'x'; 16_384]);
    }

    #[test]
    fn what_a_client_may_not_send_is_refused_with_an_alert() {
        let check = |kind: u8, text: &[u8], alert: Option<AlertDescription>| {
            let (mut client, mut server) = pair();
            let wire = record(&mut client, kind, text);
            let refusal = read(&mut server, &wire).expect_err("refused");
            assert_eq!(refusal.alert, alert, "{kind} {:?}", text.get(..8.min(text.len())));
        };
        let unexpected = Some(AlertDescription::UnexpectedMessage);
        check(0, b"", unexpected);
        check(0, b"\0\0\0", unexpected);
        check(20, &[1], unexpected);
        check(24, b"heartbeat", unexpected);
        check(22, b"", unexpected);
        check(22, &[24, 0, 0, 1], unexpected);
        check(22, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0], unexpected);
        check(22, &[1, 0, 0, 0], unexpected);
        check(22, &[24, 0, 0, 1, 2], Some(AlertDescription::IllegalParameter));
        check(21, &[2], Some(AlertDescription::DecodeError));
        check(21, &[2, 40], None);
        check(23, &[b'x'; 16_385], Some(AlertDescription::RecordOverflow));
    }

    #[test]
    fn headers_are_judged_before_the_rest_arrives() {
        let check = |header: [u8; 5], expected: Option<AlertDescription>| {
            let (_, mut server) = pair();
            let got = server.open(&mut header.to_vec()).err().and_then(|refusal| refusal.alert);
            assert_eq!(got, expected, "{header:?}");
        };
        check([23, 3, 3, 65, 0], None);
        check([23, 9, 9, 0, 17], None);
        check([23, 3, 3, 65, 1], Some(AlertDescription::RecordOverflow));
        check([20, 3, 3, 0, 1], Some(AlertDescription::UnexpectedMessage));
        check([21, 3, 3, 0, 2], Some(AlertDescription::UnexpectedMessage));
        check([b'G', b'E', b'T', b' ', b'/'], Some(AlertDescription::UnexpectedMessage));
        check([23, 3, 3, 0, 0], Some(AlertDescription::BadRecordMac));
    }

    #[test]
    fn records_can_neither_be_repeated_nor_left_out() {
        let (mut client, mut server) = pair();
        let [first, second, third] = [b"1", b"2", b"3"].map(|text| record(&mut client, 23, text));
        assert_eq!(read(&mut server, &first).ok().unwrap(), b"1");
        assert!(read(&mut server, &first).is_err());
        let (mut client, mut server) = pair();
        assert_eq!(record(&mut client, 23, b"1"), first);
        assert!(read(&mut server, &third).is_err());
        drop(second);
    }

    #[test]
    fn keys_are_changed_before_they_have_been_used_too_often() {
        let (mut client, mut server) = pair();
        let limit = server.suite.common.confidentiality_limit;
        assert!(limit <= 23_726_566, "2^24.5 (RFC 8446 §5.5)");
        (server.write.sequence, client.read.sequence) = (limit - 1, limit - 1);
        let mut wire = Vec::new();
        server.seal(b"last", &mut wire).unwrap();
        server.seal(b", first", &mut wire).unwrap();
        assert_eq!(server.write.sequence, 1);
        assert_eq!(read(&mut client, &wire).ok().unwrap(), b"last, first");
    }
}
