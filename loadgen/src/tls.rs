//! TLS on the client's side over rustls' unbuffered API, and what a bare handshake costs a server.
//!
//! Called by [`crate::session`]. Resumption is off, so that every login of a storm pays a full handshake; a session
//! holds nothing but rustls' own state between records.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

use crate::ring::thread_cpu_ns;

/// Why TLS failed, in words for the report.
pub(crate) type TlsError = String;

/// One client connection's TLS.
pub(crate) struct Tls {
    connection: UnbufferedClientConnection,
    established: bool,
}

/// How far a call got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TlsProgress {
    /// Bytes of the input done with; the rest is a partial record.
    pub used: usize,
    /// The peer closed the TLS connection.
    pub closed: bool,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("established", &self.established).finish_non_exhaustive()
    }
}

impl Tls {
    /// Begins a handshake: the ClientHello is appended to `wire`.
    ///
    /// # Errors
    /// rustls' own, in words.
    pub(crate) fn start(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        wire: &mut Vec<u8>,
    ) -> Result<Self, TlsError> {
        let connection = UnbufferedClientConnection::new(config, name).map_err(|error| error.to_string())?;
        let mut tls = Self { connection, established: false };
        tls.receive(&mut [], &mut Vec::new(), wire)?;
        Ok(tls)
    }

    /// Whether application data may be sent.
    pub(crate) fn is_established(&self) -> bool {
        self.established
    }

    /// What `tls-server-end-point` binds to: the hash of the server's certificate (RFC 5929 §4.1). `None` if it is signed
    /// with another hash than SHA-256 or SHA-384, or with SHA-1, where the binding says SHA-256.
    pub(crate) fn end_point(&self) -> Option<Box<[u8]>> {
        let certificate = self.connection.peer_certificates()?.first()?;
        let algorithm = signature_algorithm(certificate)?;
        let suite = if SIGNED_WITH_SHA256.contains(&algorithm) {
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
        } else if SIGNED_WITH_SHA384.contains(&algorithm) {
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384
        } else {
            return None;
        };
        Some(suite.tls13()?.common.hash_provider.hash(certificate).as_ref().into())
    }

    /// Takes records: plaintext is appended to `plain`, what must be sent to `wire`.
    ///
    /// # Errors
    /// rustls' own, in words.
    pub(crate) fn receive(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<TlsProgress, TlsError> {
        let mut progress = TlsProgress { used: 0, closed: false };
        loop {
            let rest = incoming.get_mut(progress.used..).unwrap_or_default();
            let (discard, step) = settle(self.connection.process_tls_records(rest), plain, wire)?;
            progress.used += discard;
            match step {
                Step::Again => {}
                Step::Blocked => return Ok(progress),
                Step::Open => {
                    self.established = true;
                    return Ok(progress);
                }
                Step::Closed => {
                    progress.closed = true;
                    return Ok(progress);
                }
            }
        }
    }

    /// Appends `plain` to `wire` as records.
    ///
    /// # Errors
    /// rustls' own, in words.
    pub(crate) fn encrypt(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), TlsError> {
        loop {
            let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut []);
            let mut traffic = match state.map_err(|error| error.to_string())? {
                ConnectionState::WriteTraffic(traffic) => traffic,
                ConnectionState::EncodeTlsData(mut data) => {
                    append(wire, 64, |room| match data.encode(room) {
                        Ok(written) => Ok(written),
                        Err(EncodeError::InsufficientSize(size)) => Err(Some(size.required_size)),
                        Err(EncodeError::AlreadyEncoded) => Err(None),
                    })?;
                    continue;
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    continue;
                }
                ConnectionState::ReadTraffic(_)
                | ConnectionState::ReadEarlyData(_)
                | ConnectionState::BlockedHandshake
                | ConnectionState::PeerClosed
                | ConnectionState::Closed
                | _ => return Err("TLS does not take data now".to_owned()),
            };
            return append(wire, plain.len() + 64, |room| match traffic.encrypt(plain, room) {
                Ok(written) => Ok(written),
                Err(EncryptError::InsufficientSize(size)) => Err(Some(size.required_size)),
                Err(EncryptError::EncryptExhausted) => Err(None),
            });
        }
    }
}

/// Object identifiers of signatures with SHA-256: ECDSA (RFC 5758 §3.2), RSA (RFC 4055 §5).
const SIGNED_WITH_SHA256: [&[u8]; 2] =
    [&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2], &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11]];
/// The same with SHA-384.
const SIGNED_WITH_SHA384: [&[u8]; 2] =
    [&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3], &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12]];

/// The object identifier of the algorithm that a certificate is signed with (RFC 5280 §4.1.1.2).
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (inside, _) = der(certificate, 0x30)?;
    let (_, behind) = der(inside, 0x30)?;
    let (algorithm, _) = der(behind, 0x30)?;
    Some(der(algorithm, 0x06)?.0)
}

/// What is in a DER element with that tag, and what is behind it.
fn der(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..0x80 => (usize::from(first), rest),
        _ => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().try_fold(0_usize, |sum, &digit| Some(sum.checked_mul(256)? + usize::from(digit)))?, rest)
        }
    };
    (found == tag).then(|| rest.split_at_checked(length))?
}

/// What to do after one step of a connection.
enum Step {
    Again,
    Blocked,
    Open,
    Closed,
}

fn settle<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: &mut Vec<u8>,
    wire: &mut Vec<u8>,
) -> Result<(usize, Step), TlsError> {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state.map_err(|error| error.to_string())? {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record.map_err(|error| error.to_string())?;
                plain.extend_from_slice(record.payload);
                discard += record.discard;
            }
            Step::Again
        }
        ConnectionState::EncodeTlsData(mut data) => {
            append(wire, 512, |room| match data.encode(room) {
                Ok(written) => Ok(written),
                Err(EncodeError::InsufficientSize(size)) => Err(Some(size.required_size)),
                Err(EncodeError::AlreadyEncoded) => Err(None),
            })?;
            Step::Again
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Step::Again
        }
        ConnectionState::BlockedHandshake => Step::Blocked,
        ConnectionState::WriteTraffic(_) => Step::Open,
        ConnectionState::PeerClosed | ConnectionState::Closed => Step::Closed,
        ConnectionState::ReadEarlyData(_) | _ => return Err("a TLS state that no client has".to_owned()),
    };
    Ok((discard, step))
}

/// Appends what `write` puts into the room it is given; `Err(Some(n))` asks for `n` bytes of room.
fn append(
    out: &mut Vec<u8>,
    guess: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), TlsError> {
    let start = out.len();
    let mut room = guess;
    loop {
        out.resize(start + room, 0);
        match write(out.get_mut(start..).unwrap_or_default()) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(Some(more)) if more > room => room = more,
            Err(_) => {
                out.truncate(start);
                return Err("TLS cannot encrypt any more".to_owned());
            }
        }
    }
}

/// The configuration of every session: TLS 1.3 or 1.2, no resumption; certificates are verified only against `ca`
/// (a PEM file), and not at all without it.
///
/// # Errors
/// In words: the file cannot be read, or holds no certificate.
pub(crate) fn client_config(ca: Option<&std::path::Path>, direct: bool) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = match ca {
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider.signature_verification_algorithms)))
            .with_no_client_auth(),
        Some(path) => {
            let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            let certificates = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| failed(&error))?;
            let mut roots = RootCertStore::empty();
            for certificate in &certificates {
                roots.add(certificate.clone()).map_err(|error| failed(&error))?;
            }
            let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| failed(&error))?;
            let verifier = Arc::new(Known { certificates, inner });
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
    };
    config.resumption = Resumption::disabled();
    if direct {
        config.alpn_protocols = vec![b"xmpp-client".to_vec()];
    }
    Ok(Arc::new(config))
}

/// Believes any certificate, but checks that the peer holds its key: for loopback, and said so in the report.
#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Believes what the given authorities signed, and the given certificates themselves: self-signed ones often say they
/// are authorities, which then may not be used by servers (RFC 5280 §4.2.1.9).
#[derive(Debug)]
struct Known {
    certificates: Vec<CertificateDer<'static>>,
    inner: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.certificates.contains(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// What a rustls server spends on a full TLS 1.3 handshake with an ECDSA P-256 certificate and nothing around it: in
/// memory, on the calling thread, the client's share left out.
pub(crate) struct BareHandshake {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: ServerName<'static>,
    spent_ns: u64,
    rounds: u64,
}

impl BareHandshake {
    /// Makes the certificate and both configurations.
    ///
    /// # Errors
    /// In words; none is expected.
    pub(crate) fn new() -> Result<Self, TlsError> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|error| said(&error))?;
        let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
            .and_then(|parameters| parameters.self_signed(&key))
            .map_err(|error| said(&error))?;
        let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key))
            .map_err(|error| said(&error))?;
        server.send_tls13_tickets = 0;
        let name = ServerName::try_from("localhost").map_err(|error| said(&error))?;
        let mut bare =
            Self { server: Arc::new(server), client: client_config(None, false)?, name, spent_ns: 0, rounds: 0 };
        for _ in 0..WARM_HANDSHAKES {
            bare.round()?;
        }
        (bare.spent_ns, bare.rounds) = (0, 0);
        Ok(bare)
    }

    /// One more handshake.
    ///
    /// # Errors
    /// In words; none is expected.
    pub(crate) fn round(&mut self) -> Result<(), TlsError> {
        let (mut to_server, mut to_client, mut none) = (Vec::new(), Vec::new(), Vec::new());
        let mut from = Tls::start(Arc::clone(&self.client), self.name.clone(), &mut to_server)?;
        let start = thread_cpu_ns();
        let mut to = UnbufferedServerConnection::new(Arc::clone(&self.server)).map_err(|error| error.to_string())?;
        let mut cost = thread_cpu_ns() - start;
        let mut open = false;
        while !(open && from.is_established()) {
            let start = thread_cpu_ns();
            let mut at = 0;
            loop {
                let rest = to_server.get_mut(at..).unwrap_or_default();
                let (discard, step) = settle(to.process_tls_records(rest), &mut none, &mut to_client)?;
                at += discard;
                match step {
                    Step::Again => {}
                    Step::Blocked => break,
                    Step::Open => {
                        open = true;
                        break;
                    }
                    Step::Closed => return Err("the bare handshake was closed".to_owned()),
                }
            }
            cost += thread_cpu_ns() - start;
            to_server.drain(..at);
            let used = from.receive(&mut to_client, &mut none, &mut to_server)?.used;
            to_client.drain(..used);
        }
        self.spent_ns += cost;
        self.rounds += 1;
        Ok(())
    }

    /// Mean so far, in ns; `None` before the first round.
    pub(crate) fn mean_ns(&self) -> Option<u64> {
        self.spent_ns.checked_div(self.rounds)
    }
}

/// Handshakes before the first that counts.
const WARM_HANDSHAKES: u32 = 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_handshake_ends_and_costs_something() {
        let mut bare = BareHandshake::new().unwrap();
        assert_eq!(bare.mean_ns(), None);
        for _ in 0..10 {
            bare.round().unwrap();
        }
        let cost = bare.mean_ns().unwrap();
        assert!((20_000..20_000_000).contains(&cost), "{cost} ns");
    }

    #[test]
    fn the_end_point_is_the_hash_that_the_certificate_is_signed_with() {
        for (algorithm, oids) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(SIGNED_WITH_SHA256)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(SIGNED_WITH_SHA384)),
            (&rcgen::PKCS_ED25519, None),
        ] {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            let certificate = certificate.self_signed(&key).unwrap();
            let found = signature_algorithm(certificate.der()).unwrap();
            assert_eq!(oids.is_some_and(|oids| oids.contains(&found)), oids.is_some());
            assert_eq!(signature_algorithm(&certificate.der()[..40]), None);
        }
        assert_eq!(der(&[0x30, 0xff], 0x30), None);
    }

    #[test]
    fn a_file_that_is_no_certificate_is_refused() {
        assert!(client_config(Some(std::path::Path::new("/dev/null/none")), false).is_err());
    }
}
