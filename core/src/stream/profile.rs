//! The two profiles of SASL: what wraps a mechanism's messages, and where success leads.
//!
//! Spec: RFC 6120 §6; XEP-0388 v1.0.4.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::authenticating::Authenticating;
use super::error::write_parts;
use super::granting::Granting;
use super::inline::Wishes;
use super::opening::{Next, Opening};
use super::{Link, Proof, State};
use crate::jid::Jid;
use crate::ns;
use crate::sasl::SaslFailure;
use crate::xml::Element;

/// A profile of SASL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    /// That of RFC 6120 §6: success restarts the stream.
    Sasl1,
    /// That of XEP-0388: success goes on with new features.
    Sasl2,
}

/// What a client says in SASL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// `<auth/>`, `<authenticate/>`
    Begin,
    /// `<response/>`
    Response,
    /// `<abort/>`
    Abort,
}

impl Said {
    /// Which it is and in which profile; `None` if it is something else.
    ///
    /// XEP-0388's `<next/>` and `<task-data/>` are something else: we never ask for tasks (§2.6.3).
    pub(super) fn of(element: &Element<'_>) -> Option<(Profile, Self)> {
        Some(match (element.ns(), element.name()) {
            (ns::SASL, "auth") => (Profile::Sasl1, Self::Begin),
            (ns::SASL, "response") => (Profile::Sasl1, Self::Response),
            (ns::SASL, "abort") => (Profile::Sasl1, Self::Abort),
            (ns::SASL2, "authenticate") => (Profile::Sasl2, Self::Begin),
            (ns::SASL2, "response") => (Profile::Sasl2, Self::Response),
            (ns::SASL2, "abort") => (Profile::Sasl2, Self::Abort),
            _ => return None,
        })
    }
}

/// An attempt to authenticate.
#[derive(Debug)]
pub(super) struct Attempt {
    /// How many more there may be.
    pub(super) left: u8,
    /// The profile it speaks.
    pub(super) profile: Profile,
    /// What else the client wants, which only XEP-0388's profile lets it say.
    pub(super) wishes: Option<Box<Wishes>>,
    /// How the client shows who it is, if its tokens depend on it.
    pub(super) proof: Option<Box<Proof>>,
}

impl Attempt {
    pub(super) const fn new(left: u8, profile: Profile) -> Self {
        Self { left, profile, wishes: None, proof: None }
    }

    /// Ends it with success. The client opens a new stream (RFC 6120 §6.4.6), or gets what else it wants and goes on with
    /// this one (XEP-0388 §2.6.1). `data`: what the mechanism says last.
    pub(super) fn succeed(self, link: &mut Link, account: Jid, data: &[u8], out: &mut Vec<u8>) -> State {
        match self.profile {
            Profile::Sasl1 => {
                link.attempt = Some(Ok(()));
                self.profile.write("success", data, out);
                link.header_sent = false;
                State::Opening(Opening::new(Next::Binding(account)))
            }
            Profile::Sasl2 => Granting::begin(link, self, account, data, out),
        }
    }

    /// Remembers how the client shows who it is, if that will matter: a token that was used must be kept account of, and
    /// one that is wanted is given for what is true of the account.
    pub(super) fn prove(&mut self, proof: impl FnOnce() -> Proof) {
        if self.wishes.as_ref().is_some_and(|wishes| wishes.fast.is_some() || wishes.token.is_some()) {
            self.proof = Some(Box::new(proof()));
        }
    }

    /// Ends it with failure; the client may try again (RFC 6120 §6.4.5, XEP-0388 §2.6.2).
    pub(super) fn fail(self, link: &mut Link, failure: SaslFailure, out: &mut Vec<u8>) -> State {
        link.attempt = Some(Err(failure));
        self.profile.write_failure(failure, out);
        State::Authenticating(Authenticating::Idle { attempts_left: self.left })
    }
}

/// A mechanism's message, which may hold a password.
pub(super) type Message = Zeroizing<Vec<u8>>;

impl Profile {
    const fn ns(self) -> &'static str {
        match self {
            Self::Sasl1 => ns::SASL,
            Self::Sasl2 => ns::SASL2,
        }
    }

    /// The message that came with the beginning, if one did (RFC 6120 §6.4.2, XEP-0388 §2.3).
    pub(super) fn initial_response(self, element: &Element<'_>) -> Result<Option<Message>, SaslFailure> {
        match self {
            Self::Sasl1 => match &*element.text() {
                "" => Ok(None),
                "=" => Ok(Some(Message::default())),
                text => decode(text).map(Some),
            },
            Self::Sasl2 => {
                let mut responses = element.children().filter(|child| child.is("initial-response", ns::SASL2));
                match (responses.next(), responses.next()) {
                    (None, _) => Ok(None),
                    (Some(response), None) => {
                        let node = element.read(&response).ok_or(SaslFailure::MalformedRequest)?;
                        decode(&node.text).map(Some)
                    }
                    (Some(_), Some(_)) => Err(SaslFailure::MalformedRequest),
                }
            }
        }
    }

    /// The message of a `<response/>`, empty if it is: in RFC 6120's profile that may be written `=`.
    pub(super) fn response(self, element: &Element<'_>) -> Result<Message, SaslFailure> {
        match (self, &*element.text()) {
            (Self::Sasl1, "=") => Ok(Message::default()),
            (Self::Sasl1 | Self::Sasl2, text) => decode(text),
        }
    }

    pub(super) fn write_failure(self, failure: SaslFailure, out: &mut Vec<u8>) {
        write_parts(out, &["<failure xmlns='", self.ns(), "'><", failure.name()]);
        // The conditions stay those of RFC 6120, in their namespace (XEP-0388 §2.6.2).
        match self {
            Self::Sasl1 => write_parts(out, &["/></failure>"]),
            Self::Sasl2 => write_parts(out, &[" xmlns='", ns::SASL, "'/></failure>"]),
        }
    }

    pub(super) fn write_challenge(self, data: &[u8], out: &mut Vec<u8>) {
        self.write("challenge", data, out);
    }

    /// Writes an element of SASL with its data in Base64.
    fn write(self, name: &str, data: &[u8], out: &mut Vec<u8>) {
        write_parts(out, &["<", name, " xmlns='", self.ns()]);
        if data.is_empty() {
            return out.extend_from_slice(b"'/>");
        }
        write_parts(out, &["'>", &STANDARD.encode(data), "</", name, ">"]);
    }
}

/// Strict Base64: no white space, all of the padding (RFC 6120 §6.5.5, XEP-0388 §2.2).
fn decode(text: &str) -> Result<Message, SaslFailure> {
    STANDARD.decode(text).map(Zeroizing::new).map_err(|_| SaslFailure::IncorrectEncoding)
}
