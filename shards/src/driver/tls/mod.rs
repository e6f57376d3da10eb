//! TLS of one connection: rustls without its buffers for the handshake, then, in TLS 1.3, [`records`] in its place.
//! Records are decrypted where the kernel put them, and what waits for a client is encrypted into as few records as
//! possible.
//!
//! Spec: RFC 8446, RFC 7590, RFC 9266 (tls-exporter), RFC 5929 §4 (tls-server-end-point).

pub mod laws;
mod records;

use std::cell::RefCell;
use std::sync::Arc;

use plaza_core::stream::TlsFacts;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{AlertDescription, ContentType, KeyLog, ServerConfig, Tls13CipherSuite};

use self::records::{Content, Records, SECRET_BYTES_MAX, Secret, expand_label, expander};
use super::guarded;
use crate::cert::TlsSnapshot;

thread_local! {
    /// Secrets that the call into rustls now running on this thread has made.
    static CAUGHT: RefCell<Option<Box<Secrets>>> = const { RefCell::new(None) };
}

/// Catches the TLS 1.3 secrets that outlive the handshake, which rustls's unbuffered connection does not offer
/// otherwise. Nothing is logged or shared: they go to the connection whose records this thread is processing.
#[derive(Debug)]
pub struct ExporterSecrets;

impl KeyLog for ExporterSecrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        CAUGHT.with_borrow_mut(|caught| {
            let secrets = caught.get_or_insert_default();
            let slot = match label {
                "EXPORTER_SECRET" => &mut secrets.exporter,
                "CLIENT_TRAFFIC_SECRET_0" => &mut secrets.client,
                "SERVER_TRAFFIC_SECRET_0" => &mut secrets.server,
                _ => return,
            };
            if let Some(room) = slot.get_mut(..secret.len()) {
                room.copy_from_slice(secret);
            }
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, "EXPORTER_SECRET" | "CLIENT_TRAFFIC_SECRET_0" | "SERVER_TRAFFIC_SECRET_0")
    }
}

/// The three of them (RFC 8446 §7.1), made together when the server has said its Finished.
struct Secrets {
    exporter: Secret,
    client: Secret,
    server: Secret,
}

/// Why a TLS connection ends.
#[derive(Debug)]
pub(super) enum TlsError {
    /// The peer broke the rules, or we can't go on.
    Rustls(rustls::Error),
    /// A handshake message takes more than [`PARTIAL_BYTES_MAX`] or [`HELLO_BYTES_MAX`] on the wire.
    MessageTooLarge,
    /// rustls panicked. Only this connection's state can be torn.
    Panicked,
}

impl std::fmt::Display for TlsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rustls(error) => error.fmt(f),
            Self::MessageTooLarge => f.write_str("a handshake message too large"),
            Self::Panicked => f.write_str("rustls panicked"),
        }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Rustls(error)
    }
}

impl TlsError {
    /// What a client that has heard nothing is told of it (RFC 8446 §6.2).
    fn alert(&self) -> Option<AlertDescription> {
        match self {
            Self::Rustls(rustls::Error::AlertReceived(_)) => None,
            Self::Rustls(rustls::Error::PeerMisbehaved(_)) => Some(AlertDescription::UnexpectedMessage),
            Self::Rustls(rustls::Error::InvalidMessage(_)) | Self::MessageTooLarge => {
                Some(AlertDescription::DecodeError)
            }
            Self::Rustls(_) => Some(AlertDescription::HandshakeFailure),
            Self::Panicked => Some(AlertDescription::InternalError),
        }
    }
}

/// A connection's TLS.
pub(super) struct Tls {
    state: State,
    /// The start of a record, or of a handshake message over several records, whose rest has not arrived.
    partial: Vec<u8>,
    /// Bytes to send before anything else: `<proceed/>`, handshake records, alerts.
    pub(super) raw_out: Vec<u8>,
    /// The handshake is over.
    pub(super) established: bool,
    /// The peer said close_notify.
    pub(super) closed: bool,
    /// rustls has said something to the client.
    said: bool,
}

enum State {
    /// The handshake, and all of a TLS 1.2 connection.
    Rustls(Box<Rustls>),
    /// TLS 1.3 after its handshake.
    Records(Records),
    /// It ended with an error: nothing is kept of it, and all there is left to send is in `raw_out`.
    Failed,
}

struct Rustls {
    connection: UnbufferedServerConnection,
    /// Certificate and authorities in use when it began; dropped once the handshake is over.
    snapshot: Option<Arc<TlsSnapshot>>,
    /// Of TLS 1.3, from the server's Finished to the client's.
    secrets: Option<Box<Secrets>>,
    /// Nothing is written under the traffic secrets before the handshake is over.
    untouched: bool,
    /// The client is asked for a certificate.
    asks: bool,
    /// Bytes at the front of what it is shown that it has gone through already: whole records of a handshake message
    /// that goes on. It moves them about, and wants to be shown them again each time.
    kept: usize,
}

const _: () = assert!(size_of::<Tls>() <= 256, "all that TLS holds of an idle session, but for the ciphers' contexts");

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("established", &self.established).finish_non_exhaustive()
    }
}

/// What a connection keeps on the heap with its ciphers' contexts, measured: TLS 1.3 after the handshake, and the rest.
const RECORDS_BYTES: usize = 1_491;
const RUSTLS_BYTES: usize = 3_922;
/// Room for the header, nonce, padding and tag of a record that rustls writes.
const RECORD_OVERHEAD: usize = 64;
/// Plaintext in one record (RFC 8446 §5.1).
const RECORD_BYTES_MAX: usize = 16_384;
/// Most records sent behind an error: ServerHello, ChangeCipherSpec, the alert, and one to spare.
const LAST_RECORDS_MAX: usize = 4;
/// Most bytes kept of a record or handshake message that is not whole. A message has at most 64 KiB, as far as rustls
/// goes, and one as large in records of a kilobyte fits with their headers. In smaller ones it would take many times its
/// size.
const PARTIAL_BYTES_MAX: usize = 72 * 1024;
/// As many in a handshake in which the client has no certificate to show: its largest message is then its hello, of two
/// kilobytes with keys that quantum computers don't break. Nobody knows yet who it is, and it may be one of thousands.
const HELLO_BYTES_MAX: usize = 6 * 1024;

impl Tls {
    pub(super) fn new(tls: &crate::cert::Tls, direct: bool) -> Result<Self, TlsError> {
        let snapshot = tls.current();
        let config = Arc::clone(if direct { &snapshot.direct } else { &snapshot.starttls });
        Self::with_config(config, snapshot)
    }

    fn with_config(config: Arc<ServerConfig>, snapshot: Arc<TlsSnapshot>) -> Result<Self, TlsError> {
        let untouched = config.send_tls13_tickets == 0 && config.max_early_data_size == 0 && !config.send_half_rtt_data;
        let connection = UnbufferedServerConnection::new(config).map_err(TlsError::from)?;
        let asks = snapshot.asks_clients();
        let rustls = Box::new(Rustls { connection, snapshot: Some(snapshot), secrets: None, untouched, asks, kept: 0 });
        let state = State::Rustls(rustls);
        let (partial, raw_out) = (Vec::new(), Vec::new());
        Ok(Self { state, partial, raw_out, established: false, closed: false, said: false })
    }

    /// Takes bytes from the wire, in place, and passes on what they decrypt to, and once that the handshake is over.
    /// Both may come of one call, in either order: a client may send its first bytes with its last handshake message.
    pub(super) fn receive(&mut self, bytes: &mut [u8], mut event: impl FnMut(TlsEvent<'_>)) -> Result<(), TlsError> {
        let received = self.take_in(bytes, &mut event);
        if let Err(error) = &received {
            self.state = State::Failed;
            self.partial = Vec::new();
            // rustls has no alert for some hellos. Once it has said something, one in the clear may be out of place.
            if !self.said
                && let Some(alert) = error.alert()
            {
                self.raw_out.extend_from_slice(&[ContentType::Alert.into(), 3, 3, 0, 2, 2, alert.into()]);
            }
        }
        received
    }

    fn take_in(&mut self, bytes: &mut [u8], event: &mut impl FnMut(TlsEvent<'_>)) -> Result<(), TlsError> {
        let mut rest = bytes;
        if !self.partial.is_empty() {
            let mut all = std::mem::take(&mut self.partial);
            let wanted = match self.state {
                State::Rustls(_) => rest.len(),
                State::Records(_) => missing(&all, rest),
                State::Failed => 0,
            };
            let head = rest.split_off_mut(..wanted).unwrap_or_default();
            all.extend_from_slice(head);
            let used = self.process(&mut all, event)?;
            if used < all.len() && !self.closed {
                all.drain(..used);
                all.shrink_to(all.len().max(512));
                self.partial = all;
                return self.check_partial();
            }
        }
        let used = self.process(rest, event)?;
        let rest = rest.get(used..).unwrap_or_default();
        if !self.closed {
            self.partial.extend_from_slice(rest);
        }
        self.check_partial()
    }

    fn check_partial(&self) -> Result<(), TlsError> {
        let most = match &self.state {
            State::Rustls(rustls) if !self.established && !rustls.asks => HELLO_BYTES_MAX,
            State::Rustls(_) | State::Records(_) | State::Failed => PARTIAL_BYTES_MAX,
        };
        if self.partial.len() > most { Err(TlsError::MessageTooLarge) } else { Ok(()) }
    }

    fn process(&mut self, bytes: &mut [u8], event: &mut impl FnMut(TlsEvent<'_>)) -> Result<usize, TlsError> {
        let mut used = 0;
        // Of a handshake rustls sees a record more at a time: those behind Finished may be ours to read.
        let mut whole = match &self.state {
            State::Rustls(rustls) => rustls.kept,
            State::Records(_) | State::Failed => 0,
        };
        let mut shown = if self.established { bytes.len() } else { next_record(bytes, &mut whole) };
        loop {
            let rustls = match &mut self.state {
                State::Rustls(rustls) => &mut **rustls,
                State::Records(_) => return Ok(used + self.open(bytes.get_mut(used..).unwrap_or_default(), event)?),
                State::Failed => return Ok(bytes.len()),
            };
            let Some(rest) = bytes.get_mut(used..shown) else { return Ok(used) };
            let empty = rest.is_empty();
            let UnbufferedStatus { mut discard, state, .. } = go_through(&mut rustls.connection, rest)?;
            if !self.established {
                rustls.secrets = CAUGHT.take().or(rustls.secrets.take());
            }
            let mut done = false;
            let mut ended = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        event(TlsEvent::Plaintext(record.payload));
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    self.said = true;
                    encode(&mut data, &mut self.raw_out)?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::WriteTraffic(_)) => {
                    ended = !self.established;
                    done = empty || discard == 0;
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    self.closed = true;
                    return Ok(used + discard);
                }
                Ok(_) => done = true,
                Err(error) => {
                    let rest = bytes.get_mut(used + discard..shown).unwrap_or_default();
                    let start = self.raw_out.len();
                    rustls.flush_alert(rest, &mut self.raw_out);
                    self.said |= self.raw_out.len() > start;
                    return Err(error.into());
                }
            }
            used += discard;
            if ended {
                self.established = true;
                done = false;
                let facts = rustls.facts();
                if let Some(records) = rustls.records() {
                    self.state = State::Records(records);
                }
                event(TlsEvent::Established(facts));
            }
            if done {
                if shown == bytes.len() {
                    if let State::Rustls(rustls) = &mut self.state {
                        rustls.kept = whole.saturating_sub(used);
                    }
                    return Ok(used);
                }
                shown = next_record(bytes, &mut whole);
            }
        }
    }

    /// As [`Tls::process`], with our own record layer.
    fn open(&mut self, bytes: &mut [u8], event: &mut impl FnMut(TlsEvent<'_>)) -> Result<usize, TlsError> {
        let State::Records(records) = &mut self.state else { return Ok(0) };
        let mut used = 0;
        while !self.closed {
            match records.open(bytes.get_mut(used..).unwrap_or_default()) {
                Ok(Some((len, content))) => {
                    used += len;
                    match content {
                        Content::Plaintext(text) => event(TlsEvent::Plaintext(text)),
                        Content::Nothing => {}
                        Content::Closed => self.closed = true,
                    }
                }
                Ok(None) => break,
                Err(refusal) => {
                    if let Some(alert) = refusal.alert {
                        records.seal_alert(alert, &mut self.raw_out).map_err(TlsError::from)?;
                    }
                    return Err(refusal.error.into());
                }
            }
        }
        Ok(used)
    }

    /// Whether the rest of a record or handshake message is awaited.
    pub(super) fn is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Bytes held of it.
    pub(super) fn partial_bytes(&self) -> usize {
        self.partial.len()
    }

    /// Encrypts, behind whatever must go out first.
    pub(super) fn encrypt(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        out.append(&mut std::mem::take(&mut self.raw_out));
        if plaintext.is_empty() {
            return Ok(());
        }
        match &mut self.state {
            State::Records(records) => records.seal(plaintext, out).map_err(TlsError::from),
            State::Rustls(rustls) => rustls.encrypt(plaintext, &mut self.partial, out),
            State::Failed => Ok(()),
        }
    }

    /// User-space bytes held: what a connection and its ciphers keep was measured, the rest is counted.
    pub(super) fn bytes(&self) -> usize {
        let kept = match &self.state {
            State::Records(_) => RECORDS_BYTES,
            State::Rustls(_) => RUSTLS_BYTES,
            State::Failed => 0,
        };
        kept + self.partial.capacity() + self.raw_out.capacity()
    }

    /// Appends close_notify.
    pub(super) fn close_notify(&mut self, out: &mut Vec<u8>) {
        match &mut self.state {
            // What can't be encrypted is not sent: the connection closes anyway.
            State::Records(records) => drop(records.seal_alert(AlertDescription::CloseNotify, out)),
            State::Rustls(rustls) => rustls.close_notify(&mut self.partial, out),
            State::Failed => {}
        }
    }
}

/// All of them are shown what there is of an incomplete handshake message, since rustls wants that each time.
impl Rustls {
    /// After an error rustls has an alert to send, behind what it had to say before: it hands them out before it looks at
    /// anything else. To ask once more would have it meet the error again.
    fn flush_alert(&mut self, rest: &mut [u8], out: &mut Vec<u8>) {
        for _ in 0..LAST_RECORDS_MAX {
            let start = out.len();
            let Ok(UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(mut data)), .. }) =
                go_through(&mut self.connection, rest)
            else {
                return;
            };
            // What can't be encoded is not sent: the connection closes anyway.
            let encoded = encode(&mut data, out);
            // The alert, or something under keys, which of a handshake that fails is the alert as well.
            if encoded.is_err() || out.get(start).is_some_and(|content| matches!(content, 0x15 | 0x17)) {
                return;
            }
        }
    }

    fn encrypt(&mut self, plaintext: &[u8], partial: &mut [u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        let records = plaintext.len() / RECORD_BYTES_MAX + 1;
        let start = out.len();
        out.resize(start + plaintext.len() + records * RECORD_OVERHEAD, 0);
        let UnbufferedStatus { state, .. } = go_through(&mut self.connection, partial)?;
        let ConnectionState::WriteTraffic(mut traffic) = state? else {
            return Err(rustls::Error::General("not ready to write".into()).into());
        };
        let room = out.get_mut(start..).unwrap_or_default();
        let written = traffic.encrypt(plaintext, room).map_err(|error| match error {
            EncryptError::EncryptExhausted => rustls::Error::EncryptError,
            EncryptError::InsufficientSize(_) => rustls::Error::General("record overhead".into()),
        })?;
        out.truncate(start + written);
        Ok(())
    }

    fn close_notify(&mut self, partial: &mut [u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + RECORD_OVERHEAD, 0);
        let written = match go_through(&mut self.connection, partial) {
            Ok(UnbufferedStatus { state: Ok(ConnectionState::WriteTraffic(mut traffic)), .. }) => {
                out.get_mut(start..).and_then(|room| traffic.queue_close_notify(room).ok()).unwrap_or(0)
            }
            _ => 0,
        };
        out.truncate(start + written);
    }

    /// TLS 1.3's suite, and its secrets.
    fn tls13(&self) -> Option<(&'static Tls13CipherSuite, &Secrets)> {
        self.connection.negotiated_cipher_suite()?.tls13().zip(self.secrets.as_deref())
    }

    /// The record layer, ours from the client's Finished on; `None` if rustls has to go on.
    fn records(&self) -> Option<Records> {
        let (suite, secrets) = self.tls13().filter(|_| self.untouched)?;
        Records::new(suite, &secrets.client, &secrets.server)
    }

    fn facts(&mut self) -> TlsFacts {
        let exporter = self.tls13().and_then(|(suite, secrets)| exporter(suite, &secrets.exporter)).unwrap_or_default();
        let Some(snapshot) = self.snapshot.take() else { return TlsFacts::default() };
        let chain = self.connection.peer_certificates().unwrap_or_default();
        TlsFacts { binding: snapshot.binding(exporter), certificate_jids: snapshot.client_jids(chain) }
    }
}

impl Default for Secrets {
    fn default() -> Self {
        let none = || Secret::new([0; SECRET_BYTES_MAX]);
        Self { exporter: none(), client: none(), server: none() }
    }
}

/// What processing records brought.
pub(super) enum TlsEvent<'a> {
    /// The handshake is over.
    Established(TlsFacts),
    /// Bytes of the stream.
    Plaintext(&'a [u8]),
}

fn encode<D>(data: &mut rustls::unbuffered::EncodeTlsData<'_, D>, out: &mut Vec<u8>) -> Result<(), TlsError> {
    let start = out.len();
    let mut room = 1024;
    loop {
        out.resize(start + room, 0);
        match data.encode(out.get_mut(start..).unwrap_or_default()) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needed)) => room = needed.required_size,
            Err(EncodeError::AlreadyEncoded) => {
                out.truncate(start);
                return Err(rustls::Error::General("record encoded twice".into()).into());
            }
        }
    }
}

/// Has rustls go through records. A panic there can only have torn the connection.
fn go_through<'c, 'i>(
    connection: &'c mut UnbufferedServerConnection,
    records: &'i mut [u8],
) -> Result<UnbufferedStatus<'c, 'i, ServerConnectionData>, TlsError> {
    guarded(move || connection.process_tls_records(records)).ok_or(TlsError::Panicked)
}

/// Where the record behind the `whole` ones ends, which it then is one of; or, if its rest has not come, where the bytes
/// end.
fn next_record(bytes: &[u8], whole: &mut usize) -> usize {
    let Some(&[_, _, _, high, low]) = bytes.get(*whole..).and_then(<[u8]>::first_chunk) else { return bytes.len() };
    let end = *whole + 5 + usize::from(u16::from_be_bytes([high, low]));
    if end > bytes.len() {
        return bytes.len();
    }
    *whole = end;
    end
}

/// How much of `more` completes the record that begins with `partial`.
fn missing(partial: &[u8], more: &[u8]) -> usize {
    let mut len = partial.iter().chain(more).skip(3);
    let (Some(&high), Some(&low)) = (len.next(), len.next()) else { return more.len() };
    (5 + usize::from(u16::from_be_bytes([high, low]))).saturating_sub(partial.len()).min(more.len())
}

/// RFC 9266 §2: TLS-Exporter("EXPORTER-Channel-Binding", "", 32), by RFC 8446 §7.5. TLS 1.2 has no exporter secret of
/// that kind; there tls-server-end-point is what we offer.
fn exporter(suite: &Tls13CipherSuite, secret: &Secret) -> Option<Box<[u8]>> {
    let hash = suite.common.hash_provider;
    let empty = hash.start().finish();
    let mut derived = Secret::new([0; SECRET_BYTES_MAX]);
    let room = derived.get_mut(..hash.output_len())?;
    expand_label(expander(suite, secret.as_slice())?.as_ref(), b"EXPORTER-Channel-Binding", empty.as_ref(), room)?;
    let mut exported = vec![0; 32].into_boxed_slice();
    expand_label(expander(suite, derived.as_slice())?.as_ref(), b"exporter", empty.as_ref(), &mut exported)?;
    Some(exported)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use plaza_core::sasl::ChannelBinding;
    use rustls::crypto::aws_lc_rs::{self, cipher_suite};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedCipherSuite};

    use super::*;
    use crate::config::Config;

    const SUITES: [SupportedCipherSuite; 3] = [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    const TLS12: SupportedCipherSuite = cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;

    fn server_side() -> (crate::cert::Tls, CertificateDer<'static>) {
        let directory = tempfile::tempdir().unwrap();
        let config = Config { domains: vec!["localhost".into()], data: directory.path().into(), ..Config::default() };
        let tls = crate::cert::Tls::load(&config.check().unwrap()).unwrap();
        let certificate = CertificateDer::from_pem_file(&tls.current().certificate.file).unwrap();
        (tls, certificate)
    }

    /// A rustls client and us, with what we have heard from it.
    struct Pair {
        client: ClientConnection,
        server: Tls,
        heard: Vec<u8>,
        binding: Option<ChannelBinding>,
    }

    impl Pair {
        fn new((tls, certificate): &(crate::cert::Tls, CertificateDer<'static>), suite: SupportedCipherSuite) -> Self {
            let mut roots = RootCertStore::empty();
            roots.add(certificate.clone()).unwrap();
            let mut provider = aws_lc_rs::default_provider();
            provider.cipher_suites = vec![suite];
            let config = ClientConfig::builder_with_provider(Arc::new(provider))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let mut client = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
            client.set_buffer_limit(None);
            Self { client, server: Tls::new(tls, false).unwrap(), heard: Vec::new(), binding: None }
        }

        fn established(suite: SupportedCipherSuite) -> Self {
            let mut pair = Self::new(&server_side(), suite);
            pair.shake_hands();
            pair
        }

        fn shake_hands(&mut self) {
            while !self.server.established {
                let wire = self.client_writes(b"");
                self.receive(&wire).unwrap();
                let wire = self.server_writes(b"");
                assert_eq!(self.client_reads(&wire), b"");
            }
        }

        fn client_writes(&mut self, text: &[u8]) -> Vec<u8> {
            std::io::Write::write_all(&mut self.client.writer(), text).unwrap();
            let mut wire = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut wire).unwrap();
            }
            wire
        }

        fn client_reads(&mut self, mut wire: &[u8]) -> Vec<u8> {
            let mut text = Vec::new();
            while !wire.is_empty() {
                self.client.read_tls(&mut wire).unwrap();
                self.client.process_new_packets().unwrap();
                let _ = self.client.reader().read_to_end(&mut text);
            }
            text
        }

        fn server_writes(&mut self, text: &[u8]) -> Vec<u8> {
            let mut wire = Vec::new();
            self.server.encrypt(text, &mut wire).unwrap();
            wire
        }

        fn receive(&mut self, wire: &[u8]) -> Result<(), rustls::Error> {
            let Self { server, heard, binding, .. } = self;
            let result = server.receive(&mut wire.to_vec(), |event| match event {
                TlsEvent::Established(facts) => assert!(binding.replace(facts.binding).is_none()),
                TlsEvent::Plaintext(text) => heard.extend_from_slice(text),
            });
            result.map_err(|error| match error {
                TlsError::Rustls(error) => error,
                TlsError::MessageTooLarge | TlsError::Panicked => rustls::Error::General(error.to_string()),
            })
        }

        /// Both sides say something and are understood.
        fn talk(&mut self, len: usize) {
            let text: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let wire = self.client_writes(&text);
            self.receive(&wire).unwrap();
            assert_eq!(std::mem::take(&mut self.heard), text);
            assert!(self.server.partial.is_empty());
            let wire = self.server_writes(&text);
            assert_eq!(self.client_reads(&wire), text);
        }

        fn is_lean(&self) -> bool {
            matches!(self.server.state, State::Records(_))
        }
    }

    #[test]
    fn every_suite_carries_data_both_ways() {
        for suite in SUITES.into_iter().chain([TLS12]) {
            let mut pair = Pair::established(suite);
            assert_eq!(pair.is_lean(), suite != TLS12, "{suite:?}");
            for len in [1, 200, 16_384, 16_385, 100_000] {
                pair.talk(len);
            }
        }
    }

    #[test]
    fn what_we_write_takes_as_few_records_as_it_can() {
        let mut pair = Pair::established(SUITES[0]);
        for (len, records) in [(1, 1), (16_384, 1), (16_385, 2), (100_000, 7)] {
            assert_eq!(pair.server_writes(&vec![0; len]).len(), len + records * 22);
        }
        assert_eq!(pair.server_writes(b""), b"");
    }

    #[test]
    fn bytes_may_arrive_split_anywhere() {
        for suite in [SUITES[0], TLS12] {
            let mut pair = Pair::new(&server_side(), suite);
            while !pair.server.established {
                for byte in pair.client_writes(b"") {
                    pair.receive(&[byte]).unwrap();
                }
                let wire = pair.server_writes(b"");
                pair.client_reads(&wire);
            }
            assert!(pair.server.partial.is_empty());
            let two = |pair: &mut Pair| [pair.client_writes(b"one"), pair.client_writes(b"two")].concat();
            let wire = two(&mut pair);
            pair.receive(&wire).unwrap();
            for at in 1..wire.len() {
                let wire = two(&mut pair);
                let (head, tail) = wire.split_at(at);
                pair.receive(head).unwrap();
                pair.receive(tail).unwrap();
                assert!(pair.server.partial.is_empty());
            }
            assert_eq!(pair.heard, b"onetwo".repeat(wire.len()));
        }
    }

    #[test]
    fn first_bytes_may_come_with_the_last_handshake_message() {
        for suite in SUITES {
            let mut pair = Pair::new(&server_side(), suite);
            let hello = pair.client_writes(b"");
            pair.receive(&hello).unwrap();
            let flight = pair.server_writes(b"");
            pair.client_reads(&flight);
            let mut wire = pair.client_writes(b"<stream>");
            pair.client.refresh_traffic_keys().unwrap();
            wire.extend(pair.client_writes(&[b'x'; 20_000]));
            pair.receive(&wire).unwrap();
            assert!(pair.is_lean());
            assert_eq!(std::mem::take(&mut pair.heard), [&b"<stream>"[..], &[b'x'; 20_000]].concat());
            pair.talk(200);
        }
    }

    /// The records of some handshake messages, cut into smaller ones.
    fn in_records_of(mut wire: &[u8], bytes: usize) -> Vec<u8> {
        let mut cut = Vec::new();
        while !wire.is_empty() {
            let (record, rest) = wire.split_at(next_record(wire, &mut 0));
            wire = rest;
            let (header, message) = record.split_at(5);
            for part in message.chunks(bytes) {
                cut.extend_from_slice(&header[..3]);
                cut.extend_from_slice(&(part.len() as u16).to_be_bytes());
                cut.extend_from_slice(part);
            }
        }
        cut
    }

    #[test]
    fn a_hello_may_come_in_several_records_and_reads() {
        for (record, read) in [(50, usize::MAX), (1, usize::MAX), (50, 1), (1, 1), (1, 7), (50, 60), (3, 100)] {
            let mut pair = Pair::new(&server_side(), SUITES[0]);
            let hello = pair.client_writes(b"");
            for bytes in in_records_of(&hello, record).chunks(read) {
                pair.receive(bytes).unwrap();
            }
            let flight = pair.server_writes(b"");
            pair.client_reads(&flight);
            pair.shake_hands();
            pair.talk(200);
        }
    }

    #[test]
    fn a_handshake_message_that_is_too_large_is_refused() {
        // As large as can be said, and more than rustls takes; then what rustls would take, in very many records.
        for (message, record) in [(0xff_ffff, 16_384), (0xfff0, 1)] {
            let mut pair = Pair::new(&server_side(), SUITES[0]);
            let mut wire = vec![0x16, 3, 1, 0, 0, 1, (message >> 16) as u8, (message >> 8) as u8, message as u8];
            wire.resize(wire.len() + 200_000, 0);
            let length = wire.len() - 5;
            let cut: Vec<u8> = wire[5..]
                .chunks(record)
                .flat_map(|part| [&[0x16, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat())
                .collect();
            assert!(length > message.min(100_000));
            let refused = cut.chunks(4096).map(|bytes| pair.receive(bytes)).find(Result::is_err);
            assert!(refused.is_some());
            assert_eq!(pair.server.bytes(), pair.server.raw_out.capacity(), "nothing is kept but the alert");
        }
    }

    #[test]
    fn a_panic_in_rustls_ends_the_connection_alone() {
        let mut pair = Pair::new(&server_side(), SUITES[0]);
        let hello = in_records_of(&pair.client_writes(b""), 50);
        pair.receive(&hello[..110]).unwrap();
        // What it must be shown again is gone.
        pair.server.partial.clear();
        if let State::Rustls(rustls) = &mut pair.server.state {
            rustls.kept = 0;
        }
        assert_eq!(pair.receive(&hello[110..165]), Err(rustls::Error::General(TlsError::Panicked.to_string())));
    }

    #[test]
    fn handshakes_that_overlap_keep_their_secrets_apart() {
        let tls = server_side();
        let mut pairs = [Pair::new(&tls, SUITES[0]), Pair::new(&tls, SUITES[1]), Pair::new(&tls, SUITES[0])];
        for _ in 0..2 {
            for pair in &mut pairs {
                let wire = pair.client_writes(b"");
                pair.receive(&wire).unwrap();
                let wire = pair.server_writes(b"");
                pair.client_reads(&wire);
            }
        }
        for pair in &mut pairs {
            let expected = [0; 32];
            let expected =
                pair.client.export_keying_material(expected, b"EXPORTER-Channel-Binding", Some(b"")).unwrap();
            assert_eq!(*pair.binding.as_ref().unwrap().exporter, expected);
            pair.talk(200);
        }
        assert!(CAUGHT.take().is_none());
    }

    #[test]
    fn a_client_may_change_its_keys_and_have_us_change_ours() {
        for suite in SUITES {
            let mut pair = Pair::established(suite);
            for _ in 0..3 {
                // rustls asks for our update with its own; however often, one answer is due.
                pair.client.refresh_traffic_keys().unwrap();
                pair.client.refresh_traffic_keys().unwrap();
                let wire = pair.client_writes(b"other keys");
                pair.receive(&wire).unwrap();
                assert_eq!(std::mem::take(&mut pair.heard), b"other keys");
                for expected in [27 + 23, 23] {
                    let wire = pair.server_writes(b"x");
                    assert_eq!(wire.len(), expected);
                    assert_eq!(pair.client_reads(&wire), b"x");
                }
            }
        }
    }

    #[test]
    fn close_notify_is_said_and_heard() {
        for suite in [SUITES[0], TLS12] {
            let mut pair = Pair::established(suite);
            let mut wire = pair.server_writes(b"bye");
            pair.server.close_notify(&mut wire);
            assert_eq!(pair.client_reads(&wire), b"bye");
            assert_eq!(pair.client.reader().read(&mut [0; 8]).unwrap(), 0, "a clean end");

            let mut wire = pair.client_writes(b"bye");
            pair.client.send_close_notify();
            wire.extend(pair.client_writes(b""));
            wire.extend_from_slice(b"what comes behind it is not read");
            pair.receive(&wire).unwrap();
            assert!(pair.server.closed && pair.server.partial.is_empty());
            assert_eq!(pair.heard, b"bye");
        }
    }

    #[test]
    fn a_record_altered_on_the_way_ends_the_connection_with_an_alert() {
        for suite in SUITES {
            let mut pair = Pair::established(suite);
            let mut wire = pair.client_writes(b"switch on");
            *wire.last_mut().unwrap() ^= 1;
            assert_eq!(pair.receive(&wire), Err(rustls::Error::DecryptError));
            assert_eq!(pair.heard, b"");
            let wire = pair.server_writes(b"");
            pair.client.read_tls(&mut &*wire).unwrap();
            let told = pair.client.process_new_packets().unwrap_err();
            assert_eq!(told, rustls::Error::AlertReceived(AlertDescription::BadRecordMac));
        }
    }

    #[test]
    fn a_client_whose_hello_is_refused_is_told_why() {
        let check = |hello: &[u8], alert| {
            let mut pair = Pair::new(&server_side(), SUITES[0]);
            assert!(pair.receive(hello).is_err());
            assert_eq!(pair.server_writes(b""), [0x15, 3, 3, 0, 2, 2, u8::from(alert)]);
        };
        check(include_bytes!("../../../fuzz/seeds/handshake/unsigned"), AlertDescription::HandshakeFailure);
        check(include_bytes!("../../../fuzz/seeds/handshake/interleaved"), AlertDescription::UnexpectedMessage);
        check(include_bytes!("../../../fuzz/seeds/handshake/too_large"), AlertDescription::DecodeError);
        check(&[&[0x16, 3, 1, 64, 0, 1, 0, 0x3f, 0xfc][..], &[0; 12_000]].concat(), AlertDescription::DecodeError);
    }

    #[test]
    fn what_is_no_tls_is_refused_at_once() {
        let mut pair = Pair::new(&server_side(), SUITES[0]);
        assert!(pair.receive(b"GET / HTTP/1.1\r\n").is_err());
    }
}
