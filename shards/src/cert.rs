//! Certificates: the broker's own, the operator's, and what those of clients are good for.
//!
//! The control thread loads and reloads; a shard takes one [`TlsSnapshot`] per connection and keeps it for the handshake,
//! so that the certificate shown and the hash bound to (RFC 5929) are always of one piece. A reload swaps the snapshot
//! whole, or not at all.
//!
//! Spec: RFC 6120 §5 and §13.7, RFC 5929 §4 (`tls-server-end-point`), XEP-0178 v1.2 §2 (client certificates),
//! XEP-0368 v1.1 (ALPN).

pub mod laws;

use std::fmt::{self, Display};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use plaza_core::jid::Jid;
use plaza_core::sasl::ChannelBinding;
use plaza_tuning::Finding;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{CipherSuite, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use sha2::{Digest, Sha256, Sha384, Sha512};
use time::OffsetDateTime;
use x509_parser::asn1_rs::{Any, FromDer, Oid, Utf8String, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::signature_algorithm::SignatureAlgorithm;

use crate::config::{CertificateFiles, Settings};
use crate::driver::tls::ExporterSecrets;

/// Days the self-signed certificate is good for: the most that common clients take.
const OWN_CERTIFICATE_DAYS: i64 = 825;
/// It is made anew when fewer than these are left.
const OWN_CERTIFICATE_DAYS_LEFT_MIN: u64 = 30;
const DAY: Duration = Duration::from_secs(86_400);

/// What aws-lc-rs offers, the cheapest suite that is as good as any first: AES-128 with SHA-256, for which every processor
/// we run on has instructions, while a handshake over SHA-384 costs a tenth more.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let cheap = [CipherSuite::TLS13_AES_128_GCM_SHA256, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
    provider.cipher_suites.sort_by_key(|suite| !cheap.contains(&suite.suite()));
    provider
}

/// TLS as all shards share it: one snapshot, swapped on reload.
///
/// The lock is held for the cloning of an `Arc`, once per TLS connection; a handshake costs a thousand times as much.
#[derive(Debug)]
pub struct Tls {
    source: Source,
    current: RwLock<Arc<TlsSnapshot>>,
}

/// Where the material comes from.
#[derive(Debug, Clone)]
struct Source {
    /// The operator's files; `None`: our own, in the data directory.
    files: Option<CertificateFiles>,
    data: PathBuf,
    client_ca: Option<PathBuf>,
    domains: Vec<Jid>,
}

/// TLS as one connection sees it.
#[derive(Debug)]
pub struct TlsSnapshot {
    /// For STARTTLS listeners: no ALPN, since the stream has said already what it is.
    pub starttls: Arc<ServerConfig>,
    /// For direct TLS listeners: ALPN `xmpp-client` (XEP-0368 §5). A client that offers only others is refused.
    pub direct: Arc<ServerConfig>,
    /// `tls-server-end-point`: hash of the certificate (RFC 5929 §4.1); empty where that RFC defines none (Ed25519).
    pub server_end_point: Box<[u8]>,
    /// What the certificate says.
    pub certificate: CertificateFacts,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

/// What the operator wants to know of the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// File it was read from.
    pub file: PathBuf,
    /// File of its key.
    pub key_file: PathBuf,
    /// Made by Plaza.
    pub self_made: bool,
    /// The certificate itself.
    pub der: CertificateDer<'static>,
    /// End of its validity.
    pub not_after: SystemTime,
    /// SHA-256 over it, in hexadecimal.
    pub fingerprint: String,
}

/// Why there is no TLS.
#[derive(Debug)]
pub enum CertError {
    /// A file can't be read.
    Read(PathBuf, io::Error),
    /// A file can't be written.
    Write(PathBuf, io::Error),
    /// No PEM of this sort in a file: `certificate`, `private key`.
    Missing(PathBuf, &'static str),
    /// A certificate that is none.
    Malformed(PathBuf, String),
    /// Certificate and key don't fit together, or are of a kind we can't use.
    Unusable(PathBuf, rustls::Error),
    /// The authorities of client certificates can't be used.
    ClientCa(PathBuf, String),
    /// A self-signed one could not be made for these domains.
    Make(rcgen::Error),
}

impl Display for CertError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(file, error) => write!(out, "can't read {}: {error}", file.display()),
            Self::Write(file, error) => write!(out, "can't write {}: {error}", file.display()),
            Self::Missing(file, what) => write!(out, "{}: no {what} in PEM", file.display()),
            Self::Malformed(file, text) | Self::ClientCa(file, text) => write!(out, "{}: {text}", file.display()),
            Self::Unusable(file, rustls::Error::InconsistentKeys(_)) => {
                write!(out, "{}: the private key is not the certificate's", file.display())
            }
            Self::Unusable(file, error) => write!(out, "{}: {error}", file.display()),
            Self::Make(error) => write!(out, "can't make a certificate: {error}"),
        }
    }
}

impl std::error::Error for CertError {}

impl Tls {
    /// Loads the operator's certificate, or Plaza's own, made first if need be.
    ///
    /// # Errors
    /// Any [`CertError`], with the file.
    pub fn load(settings: &Settings) -> Result<Self, CertError> {
        let source = Source {
            files: settings.certificate.clone(),
            data: settings.data.clone(),
            client_ca: settings.client_ca.clone(),
            domains: settings.domains.clone(),
        };
        let current = RwLock::new(Arc::new(source.load()?));
        Ok(Self { source, current })
    }

    /// What a new connection shall use.
    pub fn current(&self) -> Arc<TlsSnapshot> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again. Connections that exist go on as they are.
    ///
    /// # Errors
    /// Any [`CertError`]; what was loaded before stays in use.
    pub fn reload(&self) -> Result<Arc<TlsSnapshot>, CertError> {
        let fresh = Arc::new(self.source.load()?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        Ok(fresh)
    }
}

impl TlsSnapshot {
    /// Whether clients are asked for certificates.
    pub(crate) const fn asks_clients(&self) -> bool {
        self.clients.is_some()
    }

    /// Reads certificate, key and authorities, without making anything.
    ///
    /// # Errors
    /// Any [`CertError`] but those of making and writing.
    pub fn read(files: &CertificateFiles, client_ca: Option<&Path>) -> Result<Self, CertError> {
        let chain = certificates(&files.certificate)?;
        let leaf = chain.first().ok_or_else(|| CertError::Missing(files.certificate.clone(), "certificate"))?.clone();
        let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
            .map_err(|_| CertError::Missing(files.key.clone(), "private key"))?;
        let provider = Arc::new(provider());
        let clients = client_ca.map(|file| client_verifier(file, &provider)).transpose()?;

        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| CertError::Unusable(files.certificate.clone(), error))?;
        let builder = match clients.clone() {
            Some(judge) => builder.with_client_cert_verifier(Arc::new(JudgedLater(judge))),
            None => builder.with_no_client_auth(),
        };
        let mut starttls = builder
            .with_single_cert(chain, key)
            .map_err(|error| CertError::Unusable(files.certificate.clone(), error))?;
        starttls.ignore_client_order = true;
        // No resumption: it saves no CPU worth the name over an ECDSA handshake, and costs memory per session.
        starttls.session_storage = Arc::new(NoServerSessionStorage {});
        starttls.send_tls13_tickets = 0;
        starttls.key_log = Arc::new(ExporterSecrets);
        let mut direct = starttls.clone();
        direct.alpn_protocols = vec![b"xmpp-client".to_vec()];

        let (_, parsed) = X509Certificate::from_der(&leaf)
            .map_err(|error| CertError::Malformed(files.certificate.clone(), error.to_string()))?;
        Ok(Self {
            starttls: Arc::new(starttls),
            direct: Arc::new(direct),
            server_end_point: server_end_point(&parsed, &leaf),
            certificate: CertificateFacts::of(files, &parsed, leaf.clone()),
            clients,
        })
    }

    /// Reads the certificate Plaza made itself.
    pub(crate) fn read_own(files: &CertificateFiles, client_ca: Option<&Path>) -> Result<Self, CertError> {
        let mut snapshot = Self::read(files, client_ca)?;
        snapshot.certificate.self_made = true;
        Ok(snapshot)
    }

    /// Bare JIDs the client's certificate is good for (XEP-0178 §2), best called once after the handshake with
    /// `peer_certificates()`. Empty if it showed none, or one that our authorities, its validity or its names don't carry:
    /// then SASL EXTERNAL is not offered, and everything else is as usual.
    pub fn client_jids(&self, chain: &[CertificateDer<'_>]) -> Vec<Jid> {
        let (Some(judge), [leaf, intermediates @ ..]) = (&self.clients, chain) else { return Vec::new() };
        if judge.verify_client_cert(leaf, intermediates, UnixTime::now()).is_err() {
            return Vec::new();
        }
        xmpp_addresses(leaf).unwrap_or_default()
    }

    /// Channel-binding data of a connection; `exporter` is what `tls-exporter` gave (RFC 9266), or empty.
    pub fn binding(&self, exporter: Box<[u8]>) -> ChannelBinding {
        ChannelBinding { exporter, server_end_point: self.server_end_point.clone() }
    }

    /// What is good and bad about the certificate.
    pub fn findings(&self, domains: &[Jid]) -> Vec<Finding> {
        const SUBJECT: &str = "certificate";
        let facts = &self.certificate;
        let file = facts.file.display();
        let mut findings = Vec::new();
        match facts.days_left() {
            None => findings.push(Finding::warn(
                SUBJECT,
                format!("{file} has expired, clients will refuse it"),
                "replace it, then send SIGHUP",
            )),
            Some(days) if days < 14 => findings.push(Finding::warn(
                SUBJECT,
                format!("{file} expires in {days} days"),
                "replace it, then send SIGHUP",
            )),
            Some(days) => findings.push(Finding::info(
                SUBJECT,
                format!("{file}{}, {days} days left", if facts.self_made { ", self-signed" } else { "" }),
            )),
        }
        for domain in domains.iter().filter(|domain| !facts.covers(domain)) {
            findings.push(Finding::warn(
                SUBJECT,
                format!("{file} is not for {}", domain.as_str()),
                "get one with that name among its subject alternative names, or change `domains`",
            ));
        }
        let readable = fs::metadata(&facts.key_file).is_ok_and(|metadata| metadata.permissions().mode() & 0o044 != 0);
        if readable {
            findings.push(Finding::warn(
                SUBJECT,
                format!("others may read the private key {}", facts.key_file.display()),
                format!("run `chmod 600 {}`", facts.key_file.display()),
            ));
        }
        findings
    }
}

impl CertificateFacts {
    fn of(files: &CertificateFiles, parsed: &X509Certificate<'_>, der: CertificateDer<'static>) -> Self {
        Self {
            file: files.certificate.clone(),
            key_file: files.key.clone(),
            self_made: false,
            not_after: UNIX_EPOCH
                + Duration::from_secs(parsed.validity().not_after.timestamp().try_into().unwrap_or(0)),
            fingerprint: hex(&Sha256::digest(&der)),
            der,
        }
    }

    /// Whole days until it expires; `None` once it has.
    pub fn days_left(&self) -> Option<u64> {
        let left = self.not_after.duration_since(SystemTime::now()).ok()?;
        Some(left.as_secs() / DAY.as_secs())
    }

    /// Whether a client takes it for this domain (RFC 6125 §6.4), as rustls judges.
    pub fn covers(&self, domain: &Jid) -> bool {
        let Some(name) = server_name(domain) else { return false };
        ParsedCertificate::try_from(&self.der).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
    }
}

impl Source {
    fn load(&self) -> Result<TlsSnapshot, CertError> {
        let client_ca = self.client_ca.as_deref();
        if let Some(files) = &self.files {
            return TlsSnapshot::read(files, client_ca);
        }
        let own = own_files(&self.data);
        let usable = |snapshot: &TlsSnapshot| {
            let facts = &snapshot.certificate;
            facts.days_left().is_some_and(|days| days >= OWN_CERTIFICATE_DAYS_LEFT_MIN)
                && self.domains.iter().all(|domain| facts.covers(domain))
        };
        match TlsSnapshot::read_own(&own, client_ca) {
            Ok(snapshot) if usable(&snapshot) => Ok(snapshot),
            Err(error @ CertError::ClientCa(..)) => Err(error),
            Ok(_) | Err(_) => {
                make(&own, &self.domains)?;
                TlsSnapshot::read_own(&own, client_ca)
            }
        }
    }
}

/// Where Plaza's own certificate is.
pub(crate) fn own_files(data: &Path) -> CertificateFiles {
    CertificateFiles { certificate: data.join("tls/certificate.pem"), key: data.join("tls/key.pem") }
}

/// Makes a self-signed certificate (ECDSA P-256) for the domains and writes both files.
fn make(files: &CertificateFiles, domains: &[Jid]) -> Result<(), CertError> {
    let names: Vec<_> = domains.iter().filter_map(server_name).map(|name| name.to_str().into_owned()).collect();
    let mut params = CertificateParams::new(names).map_err(CertError::Make)?;
    let common_name = domains.first().map_or("localhost", Jid::as_str);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // An hour of grace for devices whose clocks are behind.
    params.not_before = OffsetDateTime::now_utc() - time::Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + time::Duration::days(OWN_CERTIFICATE_DAYS);

    let key = KeyPair::generate().map_err(CertError::Make)?;
    let certificate = params.self_signed(&key).map_err(CertError::Make)?;
    // The key first: a certificate without its key would be refused at the next start, a key alone is replaced.
    write(&files.key, key.serialize_pem().as_bytes(), 0o600)?;
    write(&files.certificate, certificate.pem().as_bytes(), 0o644)
}

/// Writes a file whole or not at all, making its directory.
fn write(file: &Path, bytes: &[u8], mode: u32) -> Result<(), CertError> {
    let written = || -> io::Result<()> {
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory)?;
        }
        let partial = file.with_extension("partial");
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&partial)?;
        out.set_permissions(fs::Permissions::from_mode(mode))?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(partial, file)
    };
    written().map_err(|error| CertError::Write(file.to_owned(), error))
}

fn read(file: &Path) -> Result<Vec<u8>, CertError> {
    fs::read(file).map_err(|error| CertError::Read(file.to_owned(), error))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
    CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<_, _>>()
        .map_err(|error| CertError::Malformed(file.to_owned(), error.to_string()))
}

/// A domain as TLS writes it: A-labels, addresses without brackets.
fn server_name(domain: &Jid) -> Option<ServerName<'static>> {
    let name = domain.as_str();
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.to_owned().try_into().ok(),
        None => idna::domain_to_ascii(name).ok()?.try_into().ok(),
    }
}

/// `id-on-xmppAddr` (RFC 6120 §13.7.1.4).
const XMPP_ADDR: Oid<'static> = oid!(1.3.6.1.5.5.7.8.5);

fn xmpp_addresses(certificate: &CertificateDer<'_>) -> Option<Vec<Jid>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let extension = certificate.subject_alternative_name().ok()??;
    let address = |name: &GeneralName<'_>| {
        let GeneralName::OtherName(kind, tagged) = name else { return None };
        if *kind != XMPP_ADDR {
            return None;
        }
        let (_, explicit) = Any::from_der(tagged).ok()?;
        let (_, text) = Utf8String::from_der(explicit.data).ok()?;
        let jid = Jid::parse(text.as_ref()).ok()?;
        jid.as_jid().local().is_some().then(|| jid.bare())
    };
    Some(extension.value.general_names.iter().filter_map(address).collect())
}

/// Hash of the certificate by the hash of its own signature, MD5 and SHA-1 replaced by SHA-256 (RFC 5929 §4.1).
fn server_end_point(certificate: &X509Certificate<'_>, der: &[u8]) -> Box<[u8]> {
    const SHA384: [Oid<'static>; 3] =
        [oid!(1.2.840.113549.1.1.12), oid!(1.2.840.10045.4.3.3), oid!(2.16.840.1.101.3.4.2.2)];
    const SHA512: [Oid<'static>; 3] =
        [oid!(1.2.840.113549.1.1.13), oid!(1.2.840.10045.4.3.4), oid!(2.16.840.1.101.3.4.2.3)];
    let signature = &certificate.signature_algorithm;
    let parsed = SignatureAlgorithm::try_from(signature);
    let algorithm = match &parsed {
        // One signature algorithm, the hash among its parameters.
        Ok(SignatureAlgorithm::RSASSA_PSS(params)) => params.hash_algorithm_oid(),
        // No hash of its own: not defined.
        Ok(SignatureAlgorithm::ED25519) | Err(_) => return Box::default(),
        Ok(
            SignatureAlgorithm::RSA
            | SignatureAlgorithm::RSAAES_OAEP(_)
            | SignatureAlgorithm::DSA
            | SignatureAlgorithm::ECDSA,
        ) => &signature.algorithm,
    };
    if SHA384.contains(algorithm) {
        Sha384::digest(der).as_slice().into()
    } else if SHA512.contains(algorithm) {
        Sha512::digest(der).as_slice().into()
    } else {
        Sha256::digest(der).as_slice().into()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn client_verifier(file: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, CertError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| CertError::ClientCa(file.to_owned(), error.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| CertError::ClientCa(file.to_owned(), error.to_string()))
}

/// Takes any client certificate whose key the client proves to have, and leaves the judgement to
/// [`TlsSnapshot::client_jids`]: an expired or unknown one closes the way of SASL EXTERNAL, not the connection.
#[derive(Debug)]
struct JudgedLater(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for JudgedLater {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CustomExtension, IsCa, Issuer, OtherNameValue, SanType};
    use rustls::client::Resumption;
    use rustls::{ClientConfig, ClientConnection, ServerConnection};

    use super::*;
    use crate::config::Config;

    fn settings(data: &Path, domains: &[&str]) -> Settings {
        let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
        Config { domains, data: data.into(), ..Config::default() }.check().unwrap()
    }

    fn made(domains: &[&str]) -> (tempfile::TempDir, Settings, Tls) {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path(), domains);
        let tls = Tls::load(&settings).unwrap();
        (directory, settings, tls)
    }

    #[test]
    fn a_certificate_of_our_own_is_made_once_for_every_domain() {
        let (directory, settings, tls) = made(&["localhost", "things.example", "bücher.example", "[::1]"]);
        let facts = tls.current().certificate.clone();
        assert!(settings.domains.iter().all(|domain| facts.covers(domain)));
        assert!(facts.self_made && facts.days_left().is_some_and(|days| (820..=825).contains(&days)));
        let mode = |file: &Path| fs::metadata(file).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&facts.key_file), mode(&facts.file)), (0o600, 0o644));
        assert!(tls.current().findings(&settings.domains).iter().all(|finding| finding.remedy.is_empty()));
        assert_eq!(Tls::load(&settings).unwrap().current().certificate, facts);

        let more = super::tests::settings(directory.path(), &["localhost", "other.example"]);
        let remade = Tls::load(&more).unwrap().current().certificate.clone();
        assert_ne!(remade.fingerprint, facts.fingerprint);
        assert!(more.domains.iter().all(|domain| remade.covers(domain)));
    }

    #[test]
    fn a_damaged_certificate_of_our_own_is_made_anew() {
        let (_directory, settings, tls) = made(&["localhost"]);
        fs::write(&tls.current().certificate.key_file, "half a k").unwrap();
        assert!(Tls::load(&settings).is_ok());
    }

    fn covers(params: &CertificateParams, domain: &str) -> bool {
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        let facts = CertificateFacts::of(&own_files(Path::new("data")), &parsed, der.clone());
        facts.covers(&Jid::parse(domain).unwrap())
    }

    #[test]
    fn a_certificate_is_for_its_names_and_a_wildcard_for_one_label() {
        let names = ["*.Example.org", "xn--bcher-kva.example", "10.0.0.1", "::1"].map(str::to_owned);
        let params = CertificateParams::new(names).unwrap();
        for domain in ["things.example.org", "bücher.example", "10.0.0.1", "[::1]"] {
            assert!(covers(&params, domain), "{domain}");
        }
        for domain in ["example.org", "a.things.example.org", "buecher.example", "10.0.0.2", "[::2]"] {
            assert!(!covers(&params, domain), "{domain}");
        }
    }

    #[test]
    fn a_certificate_that_clients_refuse_for_a_name_of_an_unknown_kind_is_for_none() {
        let named = |first: &[u8]| {
            let names = [&[0x30, 13], first, b"\x82\x09localhost"].concat();
            let mut params = CertificateParams::default();
            params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], names)];
            params
        };
        assert!(covers(&named(b"\x82\x00"), "localhost"));
        assert!(!covers(&named(b"\x89\x00"), "localhost"));
    }

    /// Writes a certificate and its key as an operator would.
    fn operators(directory: &Path, signed_by: &'static rcgen::SignatureAlgorithm) -> CertificateFiles {
        let key = KeyPair::generate_for(signed_by).unwrap();
        let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
        let files = CertificateFiles { certificate: directory.join("cert.pem"), key: directory.join("key.pem") };
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn the_end_point_is_hashed_as_the_certificate_is_signed() {
        let check = |signed_by, hash: fn(&[u8]) -> Vec<u8>| {
            let directory = tempfile::tempdir().unwrap();
            let files = operators(directory.path(), signed_by);
            let der = CertificateDer::from_pem_file(&files.certificate).unwrap();
            let snapshot = TlsSnapshot::read(&files, None).unwrap();
            assert_eq!(*snapshot.server_end_point, *hash(&der));
            assert_eq!(snapshot.binding(Box::default()).server_end_point, snapshot.server_end_point);
        };
        check(&rcgen::PKCS_ECDSA_P256_SHA256, |der| Sha256::digest(der).to_vec());
        check(&rcgen::PKCS_ECDSA_P384_SHA384, |der| Sha384::digest(der).to_vec());
        check(&rcgen::PKCS_ECDSA_P521_SHA512, |der| Sha512::digest(der).to_vec());
        check(&rcgen::PKCS_RSA_SHA512, |der| Sha512::digest(der).to_vec());
        check(&rcgen::PKCS_ED25519, |_| Vec::new());
    }

    #[test]
    fn a_reload_takes_what_is_whole_and_keeps_the_old_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let files = operators(directory.path(), &rcgen::PKCS_ECDSA_P256_SHA256);
        let mut settings = settings(directory.path(), &["localhost"]);
        settings.certificate = Some(files.clone());
        let tls = Tls::load(&settings).unwrap();
        let before = tls.current().certificate.fingerprint.clone();
        let whole = fs::read_to_string(&files.certificate).unwrap();

        let other = tempfile::tempdir().unwrap();
        let others = operators(other.path(), &rcgen::PKCS_ECDSA_P256_SHA256);
        let check = |what: &str, expected: &str| {
            let error = tls.reload().expect_err(what).to_string();
            assert!(error.contains(expected), "{what}: {error}");
            assert_eq!(tls.current().certificate.fingerprint, before, "{what}");
        };
        fs::copy(&others.certificate, &files.certificate).unwrap();
        check("the key of another", "not the certificate's");
        fs::write(&files.certificate, whole.get(..whole.len() / 2).unwrap()).unwrap();
        check("half a file", "cert.pem");
        fs::write(&files.certificate, "").unwrap();
        check("an empty file", "no certificate in PEM");
        fs::write(&files.certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        check("rubbish in PEM", "cert.pem");
        fs::remove_file(&files.certificate).unwrap();
        check("no file", "can't read");

        fs::copy(&others.certificate, &files.certificate).unwrap();
        fs::copy(&others.key, &files.key).unwrap();
        assert_ne!(tls.reload().unwrap().certificate.fingerprint, before);
    }

    #[test]
    fn expiry_names_and_a_readable_key_are_warned_of() {
        let directory = tempfile::tempdir().unwrap();
        let files = operators(directory.path(), &rcgen::PKCS_ECDSA_P256_SHA256);
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).unwrap();
        let mut snapshot = TlsSnapshot::read(&files, None).unwrap();
        let told = |snapshot: &TlsSnapshot| {
            let lines: Vec<String> =
                snapshot.findings(&[Jid::parse("a.example").unwrap()]).iter().map(Finding::to_string).collect();
            lines.join("\n")
        };
        assert!(told(&snapshot).contains("is not for a.example") && told(&snapshot).contains("chmod 600"));
        snapshot.certificate.not_after = SystemTime::now() + DAY * 3;
        assert!(told(&snapshot).contains("expires in"));
        snapshot.certificate.not_after = UNIX_EPOCH;
        assert!(told(&snapshot).contains("has expired"));
    }

    /// A handshake in memory: the server's end of it, or the error of whoever ended it.
    fn handshake(server: &Arc<ServerConfig>, client: ClientConfig) -> Result<ServerConnection, rustls::Error> {
        let mut server = ServerConnection::new(server.clone())?;
        let mut client = ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap())?;
        while server.is_handshaking() || client.is_handshaking() {
            let (mut there, mut back) = (Vec::new(), Vec::new());
            client.write_tls(&mut there).unwrap();
            server.read_tls(&mut &*there).unwrap();
            server.process_new_packets()?;
            server.write_tls(&mut back).unwrap();
            client.read_tls(&mut &*back).unwrap();
            client.process_new_packets()?;
        }
        // What the client sent last: its certificate, in TLS 1.3.
        let mut there = Vec::new();
        client.write_tls(&mut there).unwrap();
        server.read_tls(&mut &*there).unwrap();
        server.process_new_packets()?;
        Ok(server)
    }

    fn client(
        snapshot: &TlsSnapshot,
        identity: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&snapshot.certificate.file).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match identity {
            Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
            None => builder.with_no_client_auth(),
        }
    }

    #[test]
    fn direct_tls_wants_xmpp_client_if_alpn_is_offered_at_all() {
        let (_directory, _, tls) = made(&["localhost"]);
        let snapshot = tls.current();
        let offer = |protocols: &[&str]| {
            let mut config = client(&snapshot, None);
            config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
            config.resumption = Resumption::disabled();
            config
        };
        let agreed = handshake(&snapshot.direct, offer(&["h2", "xmpp-client"])).unwrap();
        assert_eq!(agreed.alpn_protocol(), Some(&b"xmpp-client"[..]));
        assert_eq!(agreed.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert!(handshake(&snapshot.direct, offer(&[])).is_ok());
        assert!(matches!(handshake(&snapshot.direct, offer(&["h2"])), Err(rustls::Error::NoApplicationProtocol)));
        assert!(handshake(&snapshot.starttls, offer(&["h2"])).is_ok());
    }

    /// A certificate for a client, by an authority whose own is written to `file`.
    fn client_certificate(
        file: &Path,
        address: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(file, authority.self_signed(&authority_key).unwrap().pem()).unwrap();
        let issuer = Issuer::from_params(&authority, &authority_key);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let xmpp_addr: Vec<u64> = XMPP_ADDR.iter().unwrap().collect();
        params.subject_alt_names =
            vec![SanType::OtherName((xmpp_addr, OtherNameValue::Utf8String(address.to_owned())))];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    #[test]
    fn a_client_certificate_is_good_for_its_xmpp_addresses() {
        let directory = tempfile::tempdir().unwrap();
        let files = operators(directory.path(), &rcgen::PKCS_ECDSA_P256_SHA256);
        let authority = directory.path().join("ca.pem");
        let log_in = |identity, authority: &Path| {
            let snapshot = TlsSnapshot::read(&files, Some(authority)).unwrap();
            let server =
                handshake(&snapshot.direct, client(&snapshot, identity)).expect("the connection is made anyway");
            let jids = snapshot.client_jids(server.peer_certificates().unwrap_or_default());
            jids.iter().map(|jid| jid.as_str().to_owned()).collect::<Vec<_>>()
        };
        let good = client_certificate(&authority, "Lamp@localhost/kitchen", |_| ());
        assert_eq!(log_in(Some(good), &authority), ["lamp@localhost"]);
        assert_eq!(log_in(None, &authority), [""; 0]);

        let expired = client_certificate(&authority, "lamp@localhost", |params| {
            params.not_after = OffsetDateTime::now_utc() - time::Duration::days(1);
        });
        assert_eq!(log_in(Some(expired), &authority), [""; 0]);
        let nameless = client_certificate(&authority, "localhost", |_| ());
        assert_eq!(log_in(Some(nameless), &authority), [""; 0]);
        let unknown = client_certificate(&directory.path().join("other.pem"), "lamp@localhost", |_| ());
        assert_eq!(log_in(Some(unknown), &authority), [""; 0]);
    }

    #[test]
    fn authorities_that_are_none_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let files = operators(directory.path(), &rcgen::PKCS_ECDSA_P256_SHA256);
        let empty = directory.path().join("ca.pem");
        fs::write(&empty, "").unwrap();
        assert!(matches!(TlsSnapshot::read(&files, Some(&empty)), Err(CertError::ClientCa(..))));
    }
}
