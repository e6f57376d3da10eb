//! Verifying: an account is named, and the registry or a helper is asked about it.
//!
//! Spec: RFC 6120 §6; RFC 5802 §5; XEP-0484 v0.2.0 §3.4.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::authenticating::Authenticating;
use super::profile::Attempt;
use super::{Action, ClientId, Credentials, Entropy, Link, Need, Proof, State, UsedToken};
use crate::jid::Jid;
use crate::sasl::SaslFailure;
use crate::sasl::ht::{Offer, Token};
use crate::sasl::scram::{Hash, Keys, Opened};

/// The hash whose keys PLAIN is verified against.
const PLAIN_HASH: Hash = Hash::Sha256;

/// An account is named; the registry, or the helper that verifies a password, is to answer.
#[derive(Debug)]
pub(super) struct Verifying {
    attempt: Attempt,
    account: Jid,
    evidence: Evidence,
}

/// What the client has shown for itself so far.
pub(super) enum Evidence {
    /// SCRAM's first message.
    Scram(Opened),
    /// A password, to be verified once the keys are known.
    Plain(Zeroizing<Box<str>>),
    /// A password that is being verified; against imaginary keys, if the account is not `known`.
    Password { known: bool },
    /// A certificate, which TLS has verified.
    Certificate,
    /// A token of this client.
    Token(ClientId, Offer),
}

impl Evidence {
    pub(super) const fn need(&self) -> Need {
        match self {
            Self::Scram(opened) => Need::Keys(opened.hash()),
            Self::Plain(_) | Self::Password { .. } => Need::Keys(PLAIN_HASH),
            Self::Certificate => Need::Account,
            Self::Token(client, _) => Need::Tokens(*client),
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
            Self::Token(..) => "Token",
        })
    }
}

impl Verifying {
    pub(super) const fn new(attempt: Attempt, account: Jid, evidence: Evidence) -> Self {
        Self { attempt, account, evidence }
    }

    /// Takes the registry's answer. Keys that don't fit what was asked are our own mistake, not the client's.
    pub(super) fn on_credentials(
        self,
        link: &mut Link,
        credentials: Credentials,
        entropy: Entropy,
        out: &mut Vec<u8>,
    ) -> State {
        let Self { mut attempt, account, evidence } = self;
        let (nonce, id) = entropy.halves();
        link.id = id;
        let (keys, known) = match (credentials, evidence.need()) {
            (Credentials::Refused(failure), _) => return attempt.fail(link, failure, out),
            (Credentials::Granted | Credentials::Keys(_), Need::Account) => {
                attempt.prove(|| Proof::Certificate);
                return attempt.succeed(link, account, b"", out);
            }
            (Credentials::Unknown { .. }, Need::Account) => {
                return attempt.fail(link, SaslFailure::NotAuthorized, out);
            }
            (Credentials::Keys(keys), Need::Keys(hash)) if keys.hash == hash && keys.is_sound() => (keys, true),
            (Credentials::Unknown { secret }, Need::Keys(hash)) => {
                (Keys::imaginary(hash, &secret, link.config.scram_iterations), false)
            }
            (Credentials::Tokens(tokens), Need::Tokens(_)) => {
                return Self { attempt, account, evidence }.on_tokens(link, tokens, &nonce, out);
            }
            (Credentials::Unknown { secret }, Need::Tokens(_)) => {
                return Self { attempt, account, evidence }.on_tokens(link, [None; 2], &secret, out);
            }
            (Credentials::Keys(_) | Credentials::Granted | Credentials::Tokens(_), _) => {
                return attempt.fail(link, SaslFailure::TemporaryAuthFailure, out);
            }
        };
        if known {
            attempt.prove(|| Proof::Keys(keys.clone()));
        }
        match evidence {
            Evidence::Scram(opened) => {
                let advertised = link.advertised(opened.hash());
                let challenged = opened.challenge(keys, &URL_SAFE_NO_PAD.encode(nonce), known, Some(&advertised));
                attempt.profile.write_challenge(challenged.server_first().as_bytes(), out);
                State::Authenticating(Authenticating::Challenged(attempt, account, Box::new(challenged)))
            }
            Evidence::Plain(mut password) => {
                link.action = Some(Action::VerifyPassword { keys, password: std::mem::take(&mut *password) });
                State::Verifying(Self { attempt, account, evidence: Evidence::Password { known } })
            }
            // The verdict on the password is what we wait for: this answers nothing we asked.
            Evidence::Password { .. } | Evidence::Certificate | Evidence::Token(..) => {
                State::Verifying(Self { attempt, account, evidence })
            }
        }
    }

    /// Takes the client's tokens. `stand_in`: 16 bytes or more that make up for those that do not exist.
    fn on_tokens(self, link: &mut Link, tokens: [Option<Token>; 2], stand_in: &[u8], out: &mut Vec<u8>) -> State {
        let Self { mut attempt, account, evidence } = self;
        let Evidence::Token(_, offer) = &evidence else { return State::Verifying(Self { attempt, account, evidence }) };
        match offer.judge(tokens, stand_in, &link.tls.binding) {
            Ok((secret, answer)) => {
                let fast = attempt.wishes.as_ref().and_then(|wishes| wishes.fast);
                let (count, invalidate) = fast.map_or((None, false), |fast| (fast.count, fast.invalidate));
                attempt.prove(|| Proof::Token(UsedToken { secret, count, invalidate }));
                attempt.succeed(link, account, &answer, out)
            }
            Err(failure) => attempt.fail(link, failure, out),
        }
    }

    /// Takes the verdict on the password; `None`: nobody had the time to verify it.
    pub(super) fn on_password(self, link: &mut Link, matches: Option<bool>, out: &mut Vec<u8>) -> State {
        match self.evidence {
            Evidence::Password { .. } if matches.is_none() => {
                self.attempt.fail(link, SaslFailure::TemporaryAuthFailure, out)
            }
            Evidence::Password { known } if matches == Some(true) && known => {
                self.attempt.succeed(link, self.account, b"", out)
            }
            Evidence::Password { .. } => self.attempt.fail(link, SaslFailure::NotAuthorized, out),
            Evidence::Scram(_) | Evidence::Plain(_) | Evidence::Certificate | Evidence::Token(..) => {
                State::Verifying(self)
            }
        }
    }
}
