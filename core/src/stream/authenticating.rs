//! Authenticating: SASL names an account and proves it.
//!
//! Each exchange walks `Idle → (Begun) → Verifying → (Challenged) → success or failure`, and each `<auth/>` uses up one of
//! the attempts. Nothing here tells an account that does not exist from one whose password is wrong.
//!
//! Spec: RFC 6120 §6; XEP-0178 v1.2 §2 (EXTERNAL); RFC 5802 §5 (SCRAM); XEP-0474 v0.5.0 (downgrade protection).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use smallvec::SmallVec;
use zeroize::Zeroizing;

use super::error::{Violation, write_parts};
use super::opening::{Next, Opening};
use super::securing::on_starttls;
use super::{Action, Credentials, Entropy, Link, Need, State, outsider};
use crate::jid::{Jid, ParsedJid};
use crate::ns;
use crate::sasl::plain::Plain;
use crate::sasl::scram::{Challenged, ClientFirst, Hash, Keys, Opened};
use crate::sasl::{Mechanism, SaslFailure, downgrade};
use crate::xml::Element;

/// The hash whose keys PLAIN is verified against.
const PLAIN_HASH: Hash = Hash::Sha256;

/// An element of SASL is awaited.
#[derive(Debug)]
pub(super) struct Authenticating {
    attempts_left: u8,
    exchange: Exchange,
}

/// How far the attempt is.
#[derive(Debug)]
enum Exchange {
    /// None is under way.
    Idle,
    /// `<auth/>` came without an initial response, and our empty challenge asked for it (RFC 6120 §6.4.2).
    Begun(Mechanism),
    /// SCRAM's challenge is sent.
    Challenged(Jid, Box<Challenged>),
}

impl Authenticating {
    pub(super) const fn new(attempts_left: u8) -> Self {
        Self { attempts_left, exchange: Exchange::Idle }
    }

    /// Takes an element; `behind` bytes have already arrived behind it.
    ///
    /// # Errors
    /// What ends the stream.
    pub(super) fn on_element(
        mut self,
        link: &mut Link,
        element: &Element<'_>,
        behind: usize,
        out: &mut Vec<u8>,
    ) -> Result<State, Violation> {
        if element.is("starttls", ns::TLS) {
            return on_starttls(link, behind, out);
        }
        if !is_sasl(element) {
            return Err(outsider(element));
        }
        let step = match (element.name(), self.exchange) {
            ("auth", exchange) => {
                self.attempts_left = next_attempt(self.attempts_left, link)?;
                match exchange {
                    Exchange::Idle => on_auth(link, element),
                    Exchange::Begun(_) | Exchange::Challenged(..) => Err(SaslFailure::MalformedRequest),
                }
            }
            ("response", Exchange::Begun(mechanism)) => {
                message(element).and_then(|message| begin(link, mechanism, &message.unwrap_or_default()))
            }
            ("response", Exchange::Challenged(account, exchange)) => {
                return Ok(match message(element).and_then(|message| exchange.finish(&message.unwrap_or_default())) {
                    Ok(signature) => succeed(link, account, signature.server_final().as_bytes(), out),
                    Err(failure) => fail(link, self.attempts_left, failure, out),
                });
            }
            ("abort", Exchange::Begun(_) | Exchange::Challenged(..)) => Err(SaslFailure::Aborted),
            // `<response/>` or `<abort/>` to nothing: counted, so that it can't go on for ever.
            (name, Exchange::Idle) => {
                self.attempts_left = next_attempt(self.attempts_left, link)?;
                Err(if name == "abort" { SaslFailure::Aborted } else { SaslFailure::MalformedRequest })
            }
            // `is_sasl` lets nothing else through.
            (_, Exchange::Begun(_) | Exchange::Challenged(..)) => Err(SaslFailure::MalformedRequest),
        };
        Ok(match step {
            Ok(Step::Ask(mechanism)) => {
                write_challenge(b"", out);
                State::Authenticating(Self { attempts_left: self.attempts_left, exchange: Exchange::Begun(mechanism) })
            }
            Ok(Step::Verify(account, evidence)) => {
                link.action = Some(Action::Authenticate { account: account.clone(), need: evidence.need() });
                State::Verifying(Verifying { attempts_left: self.attempts_left, account, evidence })
            }
            Err(failure) => fail(link, self.attempts_left, failure, out),
        })
    }
}

/// Where the client's message leads.
enum Step {
    /// The initial response is still to come.
    Ask(Mechanism),
    /// The account must be looked up.
    Verify(Jid, Evidence),
}

/// Takes `<auth/>` (RFC 6120 §6.4.2).
fn on_auth(link: &Link, element: &Element<'_>) -> Result<Step, SaslFailure> {
    let mechanism = element.attr("mechanism").ok_or(SaslFailure::InvalidMechanism)?;
    let mechanism = Mechanism::from_name(&mechanism.value()).ok_or(SaslFailure::InvalidMechanism)?;
    link.permits(mechanism)?;
    match message(element)? {
        Some(message) => begin(link, mechanism, &message),
        None => Ok(Step::Ask(mechanism)),
    }
}

/// Takes a mechanism's first message: it names the account.
fn begin(link: &Link, mechanism: Mechanism, message: &[u8]) -> Result<Step, SaslFailure> {
    match mechanism {
        Mechanism::ScramSha256Plus | Mechanism::ScramSha256 => begin_scram(link, mechanism, Hash::Sha256, message),
        Mechanism::ScramSha1Plus | Mechanism::ScramSha1 => begin_scram(link, mechanism, Hash::Sha1, message),
        Mechanism::External => Ok(Step::Verify(certified_account(link, message)?, Evidence::Certificate)),
        Mechanism::Plain => {
            let plain = Plain::parse(message)?;
            let account = account_of(link, plain.username, plain.authzid)?;
            Ok(Step::Verify(account, Evidence::Plain(Zeroizing::new(plain.password.into()))))
        }
    }
}

fn begin_scram(link: &Link, mechanism: Mechanism, hash: Hash, message: &[u8]) -> Result<Step, SaslFailure> {
    let first = ClientFirst::parse(message)?;
    let opened = first.open(hash, mechanism.binds_channel(), &link.tls.binding)?;
    let account = account_of(link, &first.username, &first.authzid)?;
    Ok(Step::Verify(account, Evidence::Scram(opened)))
}

/// The account a user name means at this domain. `authzid` may only repeat it (RFC 6120 §6.3.8): nobody may act for
/// another.
fn account_of(link: &Link, username: &str, authzid: &str) -> Result<Jid, SaslFailure> {
    let account = Jid::from_parts(username, link.domain()).map_err(|_| SaslFailure::NotAuthorized)?;
    let own = authzid.is_empty()
        || authzid == account.as_str()
        || ParsedJid::parse(authzid).is_ok_and(|authzid| authzid.as_jid() == account.as_jid());
    if own { Ok(account) } else { Err(SaslFailure::InvalidAuthzid) }
}

/// The account a certificate is good for: the one `authzid` names, or the only one there is (XEP-0178 §2).
fn certified_account(link: &Link, authzid: &[u8]) -> Result<Jid, SaslFailure> {
    let mut certified = link.certified_accounts();
    if authzid.is_empty() {
        let only = certified.next().ok_or(SaslFailure::NotAuthorized)?;
        return if certified.next().is_none() { Ok(only.clone()) } else { Err(SaslFailure::NotAuthorized) };
    }
    let authzid = std::str::from_utf8(authzid).map_err(|_| SaslFailure::MalformedRequest)?;
    let authzid = ParsedJid::parse(authzid).map_err(|_| SaslFailure::InvalidAuthzid)?;
    certified.find(|jid| jid.as_jid() == authzid.as_jid()).cloned().ok_or(SaslFailure::InvalidAuthzid)
}

impl Link {
    /// The accounts of this domain that the client's certificate is good for.
    fn certified_accounts(&self) -> impl Iterator<Item = &Jid> {
        self.tls.certificate_jids.iter().filter(|jid| jid.as_jid().domain() == self.domain())
    }

    /// The mechanisms that may be used on this connection.
    pub(super) fn permitted(&self) -> impl Iterator<Item = Mechanism> {
        Mechanism::OFFERED.into_iter().filter(|mechanism| self.permits(*mechanism).is_ok())
    }

    /// The hash of what the features have advertised (XEP-0474).
    fn advertised(&self, hash: Hash) -> String {
        let mechanisms: SmallVec<[_; Mechanism::OFFERED.len()]> = self.permitted().map(Mechanism::name).collect();
        let bindings: SmallVec<[_; 2]> = self.tls.binding.types().map(|(name, _)| name).collect();
        downgrade::hash(hash, &mechanisms, (!bindings.is_empty()).then_some(&bindings))
    }

    /// Whether a mechanism may be used on this connection: what is permitted is offered.
    ///
    /// # Errors
    /// How an attempt to use it anyway is answered.
    pub(super) fn permits(&self, mechanism: Mechanism) -> Result<(), SaslFailure> {
        if self.config.tls_required && !self.secure {
            return Err(SaslFailure::EncryptionRequired);
        }
        match mechanism {
            Mechanism::ScramSha256 | Mechanism::ScramSha1 => Ok(()),
            Mechanism::ScramSha256Plus | Mechanism::ScramSha1Plus if self.tls.binding.is_empty() => {
                Err(SaslFailure::InvalidMechanism)
            }
            Mechanism::ScramSha256Plus | Mechanism::ScramSha1Plus => Ok(()),
            Mechanism::External if !self.secure => Err(SaslFailure::EncryptionRequired),
            Mechanism::External if self.certified_accounts().next().is_none() => Err(SaslFailure::NotAuthorized),
            Mechanism::External => Ok(()),
            Mechanism::Plain => match (self.secure, self.config.plain, self.config.plain_without_tls) {
                (true, true, _) | (false, _, true) => Ok(()),
                (false, true, false) => Err(SaslFailure::EncryptionRequired),
                (true, false, _) | (false, false, false) => Err(SaslFailure::InvalidMechanism),
            },
        }
    }
}

/// An account is named; the registry, or the helper that verifies a password, is to answer.
#[derive(Debug)]
pub(super) struct Verifying {
    attempts_left: u8,
    account: Jid,
    evidence: Evidence,
}

/// What the client has shown for itself so far.
enum Evidence {
    /// SCRAM's first message.
    Scram(Opened),
    /// A password, to be verified once the keys are known.
    Plain(Zeroizing<Box<str>>),
    /// A password that is being verified; against imaginary keys, if the account is not `known`.
    Password { known: bool },
    /// A certificate, which TLS has verified.
    Certificate,
}

impl Evidence {
    const fn need(&self) -> Need {
        match self {
            Self::Scram(opened) => Need::Keys(opened.hash()),
            Self::Plain(_) | Self::Password { .. } => Need::Keys(PLAIN_HASH),
            Self::Certificate => Need::Account,
        }
    }
}

impl std::fmt::Debug for Evidence {
    /// Leaves the password out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Scram(_) => "Scram",
            Self::Plain(_) => "Plain",
            Self::Password { .. } => "Password",
            Self::Certificate => "Certificate",
        })
    }
}

impl Verifying {
    /// Takes the registry's answer. Keys that don't fit what was asked are our own mistake, not the client's.
    pub(super) fn on_credentials(
        self,
        link: &mut Link,
        credentials: Credentials,
        entropy: Entropy,
        out: &mut Vec<u8>,
    ) -> State {
        let Self { attempts_left, account, evidence } = self;
        let (nonce, id) = entropy.halves();
        link.id = id;
        let (keys, known) = match (credentials, evidence.need()) {
            (Credentials::Refused(failure), _) => return fail(link, attempts_left, failure, out),
            (Credentials::Granted | Credentials::Keys(_), Need::Account) => return succeed(link, account, b"", out),
            (Credentials::Unknown { .. }, Need::Account) => {
                return fail(link, attempts_left, SaslFailure::NotAuthorized, out);
            }
            (Credentials::Keys(keys), Need::Keys(hash)) if keys.hash == hash && keys.is_sound() => (keys, true),
            (Credentials::Unknown { secret }, Need::Keys(hash)) => {
                (Keys::imaginary(hash, &secret, link.config.scram_iterations), false)
            }
            (Credentials::Keys(_) | Credentials::Granted, Need::Keys(_)) => {
                return fail(link, attempts_left, SaslFailure::TemporaryAuthFailure, out);
            }
        };
        match evidence {
            Evidence::Scram(opened) => {
                let advertised = link.advertised(opened.hash());
                let challenged = opened.challenge(keys, &URL_SAFE_NO_PAD.encode(nonce), known, Some(&advertised));
                write_challenge(challenged.server_first().as_bytes(), out);
                let exchange = Exchange::Challenged(account, Box::new(challenged));
                State::Authenticating(Authenticating { attempts_left, exchange })
            }
            Evidence::Plain(mut password) => {
                link.action = Some(Action::VerifyPassword { keys, password: std::mem::take(&mut *password) });
                State::Verifying(Self { attempts_left, account, evidence: Evidence::Password { known } })
            }
            // The verdict on the password is what we wait for: this answers nothing we asked.
            Evidence::Password { .. } | Evidence::Certificate => {
                State::Verifying(Self { attempts_left, account, evidence })
            }
        }
    }

    /// Takes the verdict on the password; `None`: nobody had the time to verify it.
    pub(super) fn on_password(self, link: &mut Link, matches: Option<bool>, out: &mut Vec<u8>) -> State {
        match self.evidence {
            Evidence::Password { .. } if matches.is_none() => {
                fail(link, self.attempts_left, SaslFailure::TemporaryAuthFailure, out)
            }
            Evidence::Password { known } if matches == Some(true) && known => succeed(link, self.account, b"", out),
            Evidence::Password { .. } => fail(link, self.attempts_left, SaslFailure::NotAuthorized, out),
            Evidence::Scram(_) | Evidence::Plain(_) | Evidence::Certificate => State::Verifying(self),
        }
    }
}

/// Uses up one attempt (RFC 6120 §6.4.5).
pub(super) fn next_attempt(attempts_left: u8, link: &Link) -> Result<u8, Violation> {
    attempts_left.checked_sub(1).ok_or(Violation::TooManyAttempts { max: link.config.sasl_attempts_max })
}

/// Whether this is one of the three elements a client says in SASL.
pub(super) fn is_sasl(element: &Element<'_>) -> bool {
    element.ns() == ns::SASL && matches!(element.name(), "auth" | "response" | "abort")
}

/// The message inside `<auth/>` or `<response/>`: `None` if there is none at all, empty if it is `=` (RFC 6120 §6.4.2).
fn message(element: &Element<'_>) -> Result<Option<Zeroizing<Vec<u8>>>, SaslFailure> {
    match &*element.text() {
        "" => Ok(None),
        "=" => Ok(Some(Zeroizing::default())),
        text => match STANDARD.decode(text) {
            Ok(message) => Ok(Some(Zeroizing::new(message))),
            Err(_) => Err(SaslFailure::IncorrectEncoding),
        },
    }
}

/// Ends the exchange with success: the client opens a new stream (RFC 6120 §6.4.6).
fn succeed(link: &mut Link, account: Jid, data: &[u8], out: &mut Vec<u8>) -> State {
    link.attempt = Some(Ok(()));
    write_sasl("success", data, out);
    link.header_sent = false;
    State::Opening(Opening::new(Next::Binding(account)))
}

/// Ends the exchange with failure; the client may try again (RFC 6120 §6.4.5).
fn fail(link: &mut Link, attempts_left: u8, failure: SaslFailure, out: &mut Vec<u8>) -> State {
    link.attempt = Some(Err(failure));
    write_failure(failure, out);
    State::Authenticating(Authenticating::new(attempts_left))
}

pub(super) fn write_failure(failure: SaslFailure, out: &mut Vec<u8>) {
    write_parts(out, &["<failure xmlns='", ns::SASL, "'><", failure.name(), "/></failure>"]);
}

fn write_challenge(data: &[u8], out: &mut Vec<u8>) {
    write_sasl("challenge", data, out);
}

/// Writes an element of SASL with its data in Base64.
fn write_sasl(name: &str, data: &[u8], out: &mut Vec<u8>) {
    write_parts(out, &["<", name, " xmlns='", ns::SASL]);
    if data.is_empty() {
        return out.extend_from_slice(b"'/>");
    }
    write_parts(out, &["'>", &STANDARD.encode(data), "</", name, ">"]);
}
