//! Logging in: from the stream header to a bound resource, as a client of any XMPP server (RFC 6120 §4–7).
//!
//! Called by [`crate::session`] with each checked element; performs no I/O.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use plaza_core::ns;
use plaza_core::sasl::client::ScramClient;
use plaza_core::sasl::scram::Hash;
use plaza_core::xml::Element;

use crate::plan::{Mechanism, Plan, TlsMode};

/// What the session must do after an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoginStep {
    /// Wait for the next element.
    Wait,
    /// Begin the TLS handshake; then a new stream is opened.
    StartTls,
    /// The stream begins anew: the next thing to arrive is a header.
    Restart,
    /// The resource is bound and initial presence sent.
    Bound,
}

/// Where the negotiation stands.
#[derive(Debug)]
enum State {
    /// Waits for features before authentication.
    Opening,
    /// Waits for `<proceed/>`.
    Securing,
    /// Waits for the challenge.
    Challenged { scram: ScramClient, mechanism: Mechanism },
    /// Waits for `<success/>`; SCRAM's must prove itself.
    Proving { scram: Option<ScramClient> },
    /// Waits for features after authentication.
    Binding,
    /// Waits for the answer to bind.
    Bind { session: bool },
    /// Waits for the answer to the legacy session request.
    Session,
}

/// A login in progress.
#[derive(Debug)]
pub(crate) struct Login {
    state: State,
    secure: bool,
    /// Bind was sent ahead of the features.
    ahead: bool,
}

impl Login {
    /// A login that has sent nothing. `secure`: TLS stands already.
    pub(crate) fn new(secure: bool) -> Self {
        Self { state: State::Opening, secure, ahead: false }
    }

    /// TLS stands: a new stream follows.
    pub(crate) fn secured(&mut self) {
        self.secure = true;
        self.state = State::Opening;
    }

    /// Appends the stream header.
    pub(crate) fn open(plan: &Plan, out: &mut Vec<u8>) {
        out.extend_from_slice(b"<?xml version='1.0'?><stream:stream to='");
        out.extend_from_slice(plan.domain.as_bytes());
        out.extend_from_slice(
            b"' version='1.0' xml:lang='en' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>",
        );
    }

    /// Takes an element of session `session`.
    ///
    /// # Errors
    /// In words: the server refused, or said something that does not belong here.
    pub(crate) fn take(
        &mut self,
        plan: &Plan,
        session: u32,
        element: &Element<'_>,
        out: &mut Vec<u8>,
    ) -> Result<LoginStep, String> {
        if element.is("error", ns::STREAMS) {
            return Err("stream error".to_owned());
        }
        match &mut self.state {
            State::Opening if element.is("features", ns::STREAMS) => self.on_features(plan, session, element, out),
            State::Securing if element.is("proceed", ns::TLS) => Ok(LoginStep::StartTls),
            State::Challenged { .. } if element.is("challenge", ns::SASL) => self.on_challenge(plan, element, out),
            State::Proving { scram } if element.is("success", ns::SASL) => {
                if let Some(scram) = scram {
                    let proof = decode(&element.text())?;
                    if !scram.verify(&proof) {
                        return Err("the server could not prove that it knows the account".to_owned());
                    }
                }
                self.state = State::Binding;
                Self::open(plan, out);
                if plan.pipeline {
                    self.ahead = true;
                    self.request_bind(session, false, out);
                    presence(plan, out);
                }
                Ok(LoginStep::Restart)
            }
            State::Bind { .. } if self.ahead && element.is("features", ns::STREAMS) => Ok(LoginStep::Wait),
            State::Binding if element.is("features", ns::STREAMS) => {
                let legacy = element.children().find(|child| child.is("session", ns::SESSION));
                let session_wanted = legacy.is_some_and(|child| !child.content.contains("optional"));
                if !element.children().any(|child| child.is("bind", ns::BIND)) {
                    return Err("the server does not offer to bind a resource".to_owned());
                }
                self.request_bind(session, session_wanted, out);
                Ok(LoginStep::Wait)
            }
            State::Bind { session: legacy } if element.attr("id").is_some_and(|id| id.raw == "bind") => {
                if element.attr("type").is_none_or(|kind| kind.raw != "result") {
                    return Err("bind was refused".to_owned());
                }
                let wanted = plan.jid(session);
                let bound = element.first_child().and_then(|bind| between(bind.content, "<jid>", "</jid>"));
                if bound != Some(wanted.as_str()) {
                    return Err(format!("asked for {wanted}, bound {}", bound.unwrap_or("nothing")));
                }
                if *legacy {
                    out.extend_from_slice(b"<iq type='set' id='session'><session xmlns='");
                    out.extend_from_slice(ns::SESSION.as_bytes());
                    out.extend_from_slice(b"'/></iq>");
                    self.state = State::Session;
                    return Ok(LoginStep::Wait);
                }
                if !self.ahead {
                    presence(plan, out);
                }
                Ok(LoginStep::Bound)
            }
            State::Session if element.attr("id").is_some_and(|id| id.raw == "session") => {
                presence(plan, out);
                Ok(LoginStep::Bound)
            }
            _ if element.is("failure", ns::SASL) => {
                let condition = element.first_child().map_or("no reason given", |child| child.name);
                Err(format!("the server refused to authenticate: {condition}"))
            }
            // What is meant for the account may come as soon as it is bound.
            State::Bind { .. } | State::Session if matches!(element.name(), "presence" | "message" | "iq") => {
                Ok(LoginStep::Wait)
            }
            State::Opening
            | State::Securing
            | State::Challenged { .. }
            | State::Proving { .. }
            | State::Binding
            | State::Bind { .. }
            | State::Session => Err(format!("<{}/> does not belong here", element.name())),
        }
    }

    fn on_features(
        &mut self,
        plan: &Plan,
        session: u32,
        element: &Element<'_>,
        out: &mut Vec<u8>,
    ) -> Result<LoginStep, String> {
        if plan.tls == TlsMode::Starttls && !self.secure {
            if !element.children().any(|child| child.is("starttls", ns::TLS)) {
                return Err("the server does not offer STARTTLS".to_owned());
            }
            out.extend_from_slice(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
            self.state = State::Securing;
            return Ok(LoginStep::Wait);
        }
        let offered = element.children().find(|child| child.is("mechanisms", ns::SASL));
        let offered = offered.map_or("", |child| child.content);
        let mechanism = Mechanism::ALL
            .into_iter()
            .filter(|&mechanism| plan.mechanism.is_none_or(|only| only == mechanism))
            .find(|mechanism| offered.contains(&format!(">{}<", mechanism.name())))
            .ok_or_else(|| format!("no mechanism in common with {offered:?}"))?;
        let user = format!("{}{}", plan.users, plan.account(session));
        let initial = match mechanism {
            Mechanism::Plain => {
                self.state = State::Proving { scram: None };
                format!("\0{user}\0{}", plan.password)
            }
            Mechanism::ScramSha256 | Mechanism::ScramSha1 => {
                let hash = if mechanism == Mechanism::ScramSha1 { Hash::Sha1 } else { Hash::Sha256 };
                let (scram, first) = ScramClient::start(hash, &user, &plan.password, &nonce()?, None);
                self.state = State::Challenged { scram, mechanism };
                first
            }
        };
        out.extend_from_slice(b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='");
        out.extend_from_slice(mechanism.name().as_bytes());
        out.extend_from_slice(b"'>");
        out.extend_from_slice(BASE64_STANDARD.encode(initial).as_bytes());
        out.extend_from_slice(b"</auth>");
        Ok(LoginStep::Wait)
    }

    fn on_challenge(&mut self, plan: &Plan, element: &Element<'_>, out: &mut Vec<u8>) -> Result<LoginStep, String> {
        let State::Challenged { mut scram, mechanism } = std::mem::replace(&mut self.state, State::Opening) else {
            return Err("a challenge does not belong here".to_owned());
        };
        let first = decode(&element.text())?;
        // What follows the nonce is salt and iterations: all that SaltedPassword depends on beside the password.
        let (_, salt) = first.split_once(",s=").ok_or("the challenge holds no salt")?;
        let key = format!("{} {salt}", mechanism.name());
        let known = plan.salts.get(&key);
        let answer = scram.answer(&first, known.as_deref()).ok_or("the challenge was not to be answered")?;
        if known.is_none() {
            plan.salts.put(key, scram.salted_password());
        }
        out.extend_from_slice(b"<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>");
        out.extend_from_slice(BASE64_STANDARD.encode(answer).as_bytes());
        out.extend_from_slice(b"</response>");
        self.state = State::Proving { scram: Some(scram) };
        Ok(LoginStep::Wait)
    }

    fn request_bind(&mut self, session: u32, legacy: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>r");
        out.extend_from_slice(session.to_string().as_bytes());
        out.extend_from_slice(b"</resource></bind></iq>");
        self.state = State::Bind { session: legacy };
    }
}

fn presence(plan: &Plan, out: &mut Vec<u8>) {
    if plan.presence {
        out.extend_from_slice(b"<presence/>");
    }
}

fn decode(text: &str) -> Result<String, String> {
    let bytes = BASE64_STANDARD.decode(text.trim()).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split_once(end).map(|(inner, _)| inner)
}

fn nonce() -> Result<String, String> {
    let mut bytes = [0; 18];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    Ok(BASE64_STANDARD.encode(bytes))
}
