//! Authenticating: SASL names an account and proves it, in either of its profiles.
//!
//! Each exchange walks `Idle → (Begun) → Verifying → (Challenged) → success or failure`, and each `<auth/>` or
//! `<authenticate/>` uses up one of the attempts. Nothing here tells an account that does not exist from one whose
//! password is wrong.
//!
//! Spec: RFC 6120 §6; XEP-0388 v1.0.4 §2; XEP-0178 v1.2 §2 (EXTERNAL); RFC 5802 §5 (SCRAM); XEP-0474
//! v0.5.0 (downgrade protection).

use smallvec::SmallVec;
use zeroize::Zeroizing;

use super::error::Violation;
use super::inline::Wishes;
use super::profile::{Attempt, Message, Profile, Said};
use super::securing::on_starttls;
use super::verifying::{Evidence, Verifying};
use super::{Action, Link, State, outsider, registering};
use crate::jid::{Jid, ParsedJid};
use crate::ns;
use crate::sasl::ht::{HtMechanism, Initiator};
use crate::sasl::plain::Plain;
use crate::sasl::scram::{Challenged, ClientFirst, Hash, ServerSignature};
use crate::sasl::{Mechanism, SaslFailure, downgrade};
use crate::xml::Element;

/// An element of SASL is awaited.
#[derive(Debug)]
pub(super) enum Authenticating {
    /// No attempt is under way.
    Idle { attempts_left: u8 },
    /// It was begun without an initial response, and our empty challenge asked for it (RFC 6120 §6.4.2).
    Begun(Attempt, Mechanism),
    /// SCRAM's challenge is sent.
    Challenged(Attempt, Jid, Box<Challenged>),
}

impl Authenticating {
    /// Takes an element; `behind` bytes have already arrived behind it.
    ///
    /// # Errors
    /// What ends the stream.
    pub(super) fn on_element(
        self,
        link: &mut Link,
        element: &Element<'_>,
        behind: usize,
        out: &mut Vec<u8>,
    ) -> Result<State, Violation> {
        if element.is("starttls", ns::TLS) {
            return on_starttls(link, behind, out);
        }
        let Some((profile, said)) = Said::of(element) else {
            return match self {
                Self::Idle { attempts_left } if registering::concerns(link, element) => {
                    registering::on_iq(link, attempts_left, element, out)
                }
                Self::Idle { .. } | Self::Begun(..) | Self::Challenged(..) => Err(outsider(element)),
            };
        };
        let (attempt, step) = match self {
            Self::Idle { attempts_left } => {
                let mut attempt = Attempt::new(next_attempt(attempts_left, link)?, profile);
                let step = match said {
                    Said::Begin => on_begin(link, &mut attempt, element),
                    // `<response/>` or `<abort/>` to nothing: counted, so that it can't go on for ever.
                    Said::Response => Err(SaslFailure::MalformedRequest),
                    Said::Abort => Err(SaslFailure::Aborted),
                };
                (attempt, step)
            }
            Self::Begun(attempt, mechanism) => {
                let (attempt, message) = on_next(link, attempt, profile, said, element)?;
                (attempt, message.and_then(|message| begin(link, profile, mechanism, &message)))
            }
            Self::Challenged(attempt, account, exchange) => {
                let (attempt, message) = on_next(link, attempt, profile, said, element)?;
                let signature = message.and_then(|message| exchange.finish(&message));
                (attempt, signature.map(|signature| Step::Succeed(account, signature)))
            }
        };
        Ok(match step {
            Ok(Step::Ask(mechanism)) => {
                profile.write_challenge(b"", out);
                State::Authenticating(Self::Begun(attempt, mechanism))
            }
            Ok(Step::Verify(account, evidence)) => {
                link.action = Some(Action::Authenticate { account: account.clone(), need: evidence.need() });
                State::Verifying(Verifying::new(attempt, account, evidence))
            }
            Ok(Step::Succeed(account, signature)) => {
                attempt.succeed(link, account, signature.server_final().as_bytes(), out)
            }
            Err(failure) => attempt.fail(link, failure, out),
        })
    }
}

/// Where the client's message leads.
enum Step {
    /// The initial response is still to come.
    Ask(Mechanism),
    /// The account must be looked up.
    Verify(Jid, Evidence),
    /// It is who it says it is.
    Succeed(Jid, ServerSignature),
}

/// Takes `<auth/>` (RFC 6120 §6.4.2) or `<authenticate/>` (XEP-0388 §2.3).
fn on_begin(link: &Link, attempt: &mut Attempt, element: &Element<'_>) -> Result<Step, SaslFailure> {
    let profile = attempt.profile;
    if profile == Profile::Sasl2 {
        if !link.offers_sasl2() {
            return Err(SaslFailure::EncryptionRequired);
        }
        attempt.wishes = Some(Box::new(Wishes::read(element)?));
    }
    let name = element.attr("mechanism").ok_or(SaslFailure::InvalidMechanism)?.value();
    if let Some(wishes) = &attempt.wishes
        && let Some(mechanism) = HtMechanism::from_name(&name)
    {
        return on_token(link, wishes, mechanism, profile.initial_response(element)?);
    }
    let mechanism = Mechanism::from_name(&name).ok_or(SaslFailure::InvalidMechanism)?;
    link.permits(mechanism)?;
    match profile.initial_response(element)? {
        Some(message) => begin(link, profile, mechanism, &message),
        None => Ok(Step::Ask(mechanism)),
    }
}

/// Takes a client's token (XEP-0484 §3.4), which comes in one message: there is no other step.
fn on_token(
    link: &Link,
    wishes: &Wishes,
    mechanism: HtMechanism,
    message: Option<Message>,
) -> Result<Step, SaslFailure> {
    if !link.offers_fast() || !link.permits_token(mechanism) {
        return Err(SaslFailure::InvalidMechanism);
    }
    let (Some(fast), Some(client), Some(message)) = (wishes.fast, wishes.client, message) else {
        return Err(SaslFailure::MalformedRequest);
    };
    let initiator = Initiator::parse(&message)?;
    let account = account_of(link, initiator.authcid, "")?;
    // XEP-0484 §4.1: `from` is to be the address that authenticates. Differs: it may be left out.
    if link.from.as_ref().is_some_and(|from| *from != account) {
        return Err(SaslFailure::NotAuthorized);
    }
    Ok(Step::Verify(account, Evidence::Token(client, initiator.offer(mechanism, fast.count))))
}

/// Takes what follows the beginning: the attempt that goes on, and the message to it or how it fails.
///
/// # Errors
/// Within XEP-0388's exchange only its own elements are taken (§2.4). Differs from it: white space between them is let
/// pass, as everywhere between elements; it does no harm, and line ends are common.
fn on_next(
    link: &Link,
    attempt: Attempt,
    profile: Profile,
    said: Said,
    element: &Element<'_>,
) -> Result<(Attempt, Result<Message, SaslFailure>), Violation> {
    if attempt.profile == Profile::Sasl2 && (profile != Profile::Sasl2 || said == Said::Begin) {
        return Err(Violation::UnsupportedElement);
    }
    let message = match said {
        Said::Begin => {
            let attempt = Attempt::new(next_attempt(attempt.left, link)?, profile);
            return Ok((attempt, Err(SaslFailure::MalformedRequest)));
        }
        Said::Abort => Err(SaslFailure::Aborted),
        Said::Response if attempt.profile != profile => Err(SaslFailure::MalformedRequest),
        Said::Response => profile.response(element),
    };
    Ok((attempt, message))
}

/// Takes a mechanism's first message: it names the account.
fn begin(link: &Link, profile: Profile, mechanism: Mechanism, message: &[u8]) -> Result<Step, SaslFailure> {
    let (account, authzid_given, evidence) = match mechanism {
        Mechanism::ScramSha256Plus | Mechanism::ScramSha256 | Mechanism::ScramSha1Plus | Mechanism::ScramSha1 => {
            let hash = mechanism.hash().ok_or(SaslFailure::InvalidMechanism)?;
            let first = ClientFirst::parse(message)?;
            let opened = first.open(hash, mechanism.binds_channel(), &link.tls.binding)?;
            let account = account_of(link, &first.username, &first.authzid)?;
            (account, !first.authzid.is_empty(), Evidence::Scram(opened))
        }
        Mechanism::External => (certified_account(link, message)?, !message.is_empty(), Evidence::Certificate),
        Mechanism::Plain => {
            let plain = Plain::parse(message)?;
            let account = account_of(link, plain.username, plain.authzid)?;
            (account, !plain.authzid.is_empty(), Evidence::Plain(Zeroizing::new(plain.password.into())))
        }
    };
    // XEP-0388 §2.3, §4.4: an authorization string must not be another than the address that the stream is from.
    let from = link.from.as_ref().filter(|_| profile == Profile::Sasl2 && authzid_given);
    if from.is_some_and(|from| *from != account) {
        return Err(SaslFailure::InvalidAuthzid);
    }
    Ok(Step::Verify(account, evidence))
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
        return if certified.next().is_none() { Ok(only.clone()) } else { Err(SaslFailure::InvalidAuthzid) };
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

    /// Whether XEP-0388's profile is offered: only under TLS (§3), or where everything is offered without.
    pub(super) fn offers_sasl2(&self) -> bool {
        (self.secure || self.config.plain_without_tls) && self.permitted().next().is_some()
    }

    /// Whether tokens are offered (XEP-0484): where SASL2 is, which is under TLS (§6).
    pub(super) fn offers_fast(&self) -> bool {
        self.config.offers_fast && self.offers_sasl2()
    }

    /// Whether a token can be used in this way on this connection.
    pub(super) fn permits_token(&self, mechanism: HtMechanism) -> bool {
        mechanism.binding(&self.tls.binding).is_some()
    }

    /// The hash of what the features have advertised, the same in both profiles (XEP-0474).
    pub(super) fn advertised(&self, hash: Hash) -> String {
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

/// Uses up one attempt (RFC 6120 §6.4.5).
pub(super) fn next_attempt(attempts_left: u8, link: &Link) -> Result<u8, Violation> {
    attempts_left.checked_sub(1).ok_or(Violation::TooManyAttempts { max: link.config.sasl_attempts_max })
}
