//! Logging in: from the stream header to a bound resource, as a client of any XMPP server (RFC 6120 §4–7).
//!
//! Called by [`crate::session`] with each checked element; performs no I/O.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use plaza_core::ns;
use plaza_core::sasl::client::ScramClient;
use plaza_core::sasl::scram::Hash;
use plaza_core::xml::Element;

use crate::management::{self, Management};
use crate::plan::{Mechanism, Plan, TlsMode};
use crate::tls::Tls;

mod sasl2;

pub(crate) use sasl2::Fast;

/// How a session comes back to the stream that was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// SASL, a stream begun anew, and `<resume/>` on it (XEP-0198 v1.6.3 §5).
    Classic,
    /// `<resume/>` inside SASL2's request, with the password (§8.2).
    Inline,
    /// The same with the token, in one round trip.
    Token,
}

/// How a session comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// SASL, then a resource is bound (RFC 6120 §6, §7).
    Login,
    /// SASL2, which binds a resource as well, and asks for a token (XEP-0388, XEP-0386, XEP-0484).
    Enlist,
    /// To the stream that was cut off (XEP-0198 v1.6.3 §5).
    Resume(Way),
    /// TLS and nothing more.
    Handshake,
}

/// What the session must do after an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoginStep {
    /// Wait for the next element.
    Wait,
    /// Begin the TLS handshake; then a new stream is opened.
    StartTls,
    /// The stream begins anew: the next thing to arrive is a header.
    Restart,
    /// The resource is bound and initial presence sent, or the stream resumed.
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
    /// Waits for the success of SASL2, which tells of session and token as well.
    Enlisting { scram: Option<ScramClient> },
    /// The token was shown: waits for success, which tells of the stream as well.
    Returning { binding: Box<[u8]> },
    /// The same, with the password.
    Rejoining { scram: Option<ScramClient> },
    /// Waits for features after authentication.
    Binding,
    /// Waits for the answer to bind.
    Bind { session: bool },
    /// Waits for the answer to the legacy session request.
    Session,
    /// Waits for the answer to `<resume/>`.
    Resuming,
    /// Waits for the roster and `<enabled/>`, those that were asked for.
    Settling { roster: bool },
}

/// A login in progress.
#[derive(Debug)]
pub(crate) struct Login {
    state: State,
    secure: bool,
    /// Bind was sent ahead of the features.
    ahead: bool,
    /// Stream management: of the stream to resume, or of this one once it is asked for.
    managed: Option<Box<Management>>,
    entry: Entry,
    /// The token: to be shown, or to be given.
    fast: Option<Box<Fast>>,
    /// What the certificate of the server is bound to, if TLS stands and there is such a thing.
    end_point: Box<[u8]>,
}

impl Login {
    /// A login that has sent nothing. `secure`: TLS comes first; `managed`: the stream to resume instead of binding, and
    /// `fast`: the token to do it with.
    pub(crate) fn new(entry: Entry, secure: bool, managed: Option<Box<Management>>, fast: Option<Box<Fast>>) -> Self {
        Self { state: State::Opening, secure, ahead: false, managed, entry, fast, end_point: Box::default() }
    }

    /// What the session, now ready, knows of its managed stream, and the token it has.
    pub(crate) fn take_stream(&mut self) -> (Option<Box<Management>>, Option<Box<Fast>>) {
        (self.managed.take(), self.fast.take())
    }

    /// TLS stands: appends what opens the stream, and says whether there is to be one.
    pub(crate) fn secured(&mut self, plan: &Plan, session: u32, tls: &Tls, out: &mut Vec<u8>) -> bool {
        if self.entry == Entry::Handshake {
            return false;
        }
        self.secure = true;
        self.state = State::Opening;
        self.end_point = tls.end_point().unwrap_or_default();
        Self::open(plan, out);
        self.show_token(plan, session, out);
        true
    }

    /// Whether it is to resume a stream.
    fn resumes(&self) -> bool {
        matches!(self.entry, Entry::Resume(_)) && self.managed.is_some()
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
                if plan.pipeline && !self.resumes() {
                    self.ahead = true;
                    self.request_bind(session, false, out);
                    self.settle(plan, session, out);
                }
                Ok(LoginStep::Restart)
            }
            State::Challenged { .. } if element.is("challenge", ns::SASL2) => self.on_challenge(plan, element, out),
            State::Enlisting { .. } if element.is("success", ns::SASL2) => {
                self.on_enlisted(plan, session, element, out)
            }
            // It was not waited for.
            State::Returning { .. } if element.is("features", ns::STREAMS) => Ok(LoginStep::Wait),
            State::Returning { .. } if element.is("success", ns::SASL2) => self.on_returned(element),
            State::Rejoining { .. } if element.is("success", ns::SASL2) => self.on_rejoined(element),
            State::Bind { .. } if self.ahead && element.is("features", ns::STREAMS) => Ok(LoginStep::Wait),
            State::Binding if element.is("features", ns::STREAMS) => {
                let manages = element.children().any(|child| child.is("sm", ns::SM));
                if plan.is_managed(session) && !manages {
                    return Err("the server does not offer stream management".to_owned());
                }
                if let Some(managed) = self.managed.as_deref().filter(|_| self.resumes()) {
                    managed.resume(out);
                    self.state = State::Resuming;
                    return Ok(LoginStep::Wait);
                }
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
                    self.settle(plan, session, out);
                }
                Ok(self.bound(plan))
            }
            State::Session if element.attr("id").is_some_and(|id| id.raw == "session") => {
                self.settle(plan, session, out);
                Ok(self.bound(plan))
            }
            State::Resuming if element.is("resumed", ns::SM) => {
                self.managed.as_deref().ok_or("nothing was to be resumed")?.on_resumed(element)?;
                Ok(LoginStep::Bound)
            }
            State::Resuming | State::Settling { .. } if element.is("failed", ns::SM) => {
                let condition = element.first_child().map_or("no reason given", |child| child.name);
                Err(format!("stream management failed: {condition}"))
            }
            State::Settling { roster } => {
                let managed = self.managed.as_deref_mut();
                if element.is("enabled", ns::SM) {
                    managed.ok_or("stream management was not asked for")?.on_enabled(element)?;
                } else if management::is_ours(element) {
                    managed.ok_or("stream management was not asked for")?.take(element, out)?;
                } else if !element.is("features", ns::STREAMS) {
                    if let Some(managed) = managed {
                        managed.count_inbound();
                    }
                    if *roster && element.name() == "iq" && element.attr("id").is_some_and(|id| id.raw == "roster") {
                        if element.attr("type").is_none_or(|kind| kind.raw != "result") {
                            return Err("the roster was refused".to_owned());
                        }
                        *roster = false;
                    } else if !matches!(element.name(), "presence" | "message" | "iq") {
                        return Err(format!("<{}/> does not belong here", element.name()));
                    }
                }
                let settled = !*roster && self.managed.as_deref().is_none_or(Management::is_enabled);
                Ok(if settled { LoginStep::Bound } else { LoginStep::Wait })
            }
            _ if element.is("failure", ns::SASL) || element.is("failure", ns::SASL2) => {
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
            | State::Enlisting { .. }
            | State::Returning { .. }
            | State::Rejoining { .. }
            | State::Binding
            | State::Bind { .. }
            | State::Session
            | State::Resuming => Err(format!("<{}/> does not belong here", element.name())),
        }
    }

    /// Appends what follows bind, in one go: stream management, the roster, initial presence.
    fn settle(&mut self, plan: &Plan, session: u32, out: &mut Vec<u8>) {
        self.managed = plan.is_managed(session).then(|| Box::new(Management::enable(plan.stage.resumable, out)));
        self.greet(plan, out);
    }

    /// Appends the first stanzas of a session.
    fn greet(&mut self, plan: &Plan, out: &mut Vec<u8>) {
        if plan.stage.roster {
            out.extend_from_slice(b"<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq>");
        }
        if plan.presence {
            out.extend_from_slice(b"<presence/>");
        }
        if let Some(managed) = &mut self.managed {
            managed.count_outbound(u32::from(plan.stage.roster) + u32::from(plan.presence));
        }
    }

    /// The resource is bound: what comes next.
    fn bound(&mut self, plan: &Plan) -> LoginStep {
        if !plan.stage.roster && self.managed.is_none() {
            return LoginStep::Bound;
        }
        self.state = State::Settling { roster: plan.stage.roster };
        LoginStep::Wait
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
        match self.entry {
            Entry::Enlist => return self.enlist(plan, session, element, out),
            Entry::Resume(Way::Inline) => return self.rejoin(plan, session, element, out),
            Entry::Login | Entry::Resume(Way::Classic | Way::Token) | Entry::Handshake => {}
        }
        let offered = element.children().find(|child| child.is("mechanisms", ns::SASL));
        let (mechanism, initial, scram) = first_message(plan, session, offered.map_or("", |child| child.content))?;
        self.state = match scram {
            Some(scram) => State::Challenged { scram, mechanism },
            None => State::Proving { scram: None },
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
        out.extend_from_slice(b"<response xmlns='");
        out.extend_from_slice(element.ns().as_bytes());
        out.extend_from_slice(b"'>");
        out.extend_from_slice(BASE64_STANDARD.encode(answer).as_bytes());
        out.extend_from_slice(b"</response>");
        let scram = Some(scram);
        self.state = match self.entry {
            Entry::Enlist => State::Enlisting { scram },
            Entry::Resume(Way::Inline) => State::Rejoining { scram },
            Entry::Login | Entry::Resume(Way::Classic | Way::Token) | Entry::Handshake => State::Proving { scram },
        };
        Ok(LoginStep::Wait)
    }

    fn request_bind(&mut self, session: u32, legacy: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>r");
        out.extend_from_slice(session.to_string().as_bytes());
        out.extend_from_slice(b"</resource></bind></iq>");
        self.state = State::Bind { session: legacy };
    }
}

/// The mechanism to use of those offered, its first message, and the exchange it begins, if it is more than that.
fn first_message(plan: &Plan, session: u32, offered: &str) -> Result<(Mechanism, String, Option<ScramClient>), String> {
    let mechanism = Mechanism::ALL
        .into_iter()
        .filter(|&mechanism| plan.mechanism.is_none_or(|only| only == mechanism))
        .find(|mechanism| offered.contains(&format!(">{}<", mechanism.name())))
        .ok_or_else(|| format!("no mechanism in common with {offered:?}"))?;
    let user = plan.user(session);
    let hash = match mechanism {
        Mechanism::Plain => return Ok((mechanism, format!("\0{user}\0{}", plan.password), None)),
        Mechanism::ScramSha256 => Hash::Sha256,
        Mechanism::ScramSha1 => Hash::Sha1,
    };
    let (scram, first) = ScramClient::start(hash, &user, &plan.password, &nonce()?, None);
    Ok((mechanism, first, Some(scram)))
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
