//! Negotiation of one client-to-server stream (RFC 6120 §4–7), our side of it, until a resource is bound.
//!
//! Performs no I/O and reads no clock. The driver feeds bytes with [`Stream::handle_bytes`], carries out what
//! [`Stream::poll_action`] names and answers with the `handle_*` of that action. After [`Action::Established`] the
//! driver drops the `Stream`, keeps the small [`Bound`] and speaks stanzas with the scanner itself.

mod authenticating;
mod binding;
mod closing;
mod error;
mod features;
mod granting;
mod inline;
mod opening;
mod profile;
mod registering;
mod securing;
mod verifying;

use std::fmt;
use std::mem;
use std::sync::Arc;

pub use error::{Application, Condition, StreamError, Violation, write_close, write_error};
pub use inline::{ClientId, Inline, Wish, part_for, tagged};

use authenticating::Authenticating;
use binding::{Binding, Claiming, Resuming};
use granting::{Granted, Granting};
use opening::{Next, Opening};
use registering::{Desk, Registering};
use securing::Securing;
use verifying::Verifying;

use crate::caps::Caps;
use crate::jid::{Jid, JidRef};
use crate::limits::ScanLimits;
use crate::ns;
use crate::register::Registration;
use crate::sasl::ht::{HtMechanism, Token, TokenSecret};
use crate::sasl::scram::{Hash, Keys};
use crate::sasl::{ChannelBinding, SaslFailure};
use crate::sm::{self, SmId};
use crate::stanza;
use crate::xml::{Element, Scanned, Scanner, StreamNamespaces};

/// What a listener offers and demands.
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// Domains whose accounts live here, at least one. The first speaks until the client has named another; if it is the
    /// only one, a stream header without `to` means it.
    pub domains: Vec<Jid>,
    /// Offer STARTTLS (a certificate exists and the listener is not direct TLS).
    pub starttls: bool,
    /// PBKDF2 rounds of the accounts' keys; an account that does not exist is answered with the same.
    pub scram_iterations: u32,
    /// Refuse SASL until TLS is in place. False only on loopback listeners that say so.
    pub tls_required: bool,
    /// Offer PLAIN once TLS is in place.
    pub plain: bool,
    /// Offer PLAIN and everything else on a listener without TLS (tests and benches on loopback only).
    pub plain_without_tls: bool,
    /// Offer the legacy `<session/>` feature, marked optional.
    pub legacy_session: bool,
    /// Offer stream management (XEP-0198).
    pub offers_sm: bool,
    /// Offer carbons to a session from its beginning (XEP-0280, XEP-0386).
    pub offers_carbons: bool,
    /// Offer client state indication (XEP-0352).
    pub offers_csi: bool,
    /// Offer tokens for the next login (XEP-0484).
    pub offers_fast: bool,
    /// Let who has no account ask for one (XEP-0077), with a form signed with an API key (XEP-0348).
    pub offers_registration: bool,
    /// Let anybody have one, without a signature.
    pub unsigned_registration: bool,
    /// SASL attempts per stream (RFC 6120 §6.4.5: 2 to 5).
    pub sasl_attempts_max: u8,
    /// Limits before authentication.
    pub before_auth: ScanLimits,
    /// Limits after authentication; the stanza size is advertised (XEP-0478).
    pub after_auth: ScanLimits,
    /// Idle seconds advertised by XEP-0478; 0 leaves it out.
    pub idle_seconds: u32,
    /// The server's entity capabilities, told to who has logged in (XEP-0115 §6.3).
    pub caps: Option<Caps>,
}

impl StreamConfig {
    /// A listener of direct TLS for these domains that offers all there is but PLAIN and what needs no signature, with the
    /// limits that hold by default.
    pub fn new(domains: Vec<Jid>) -> Self {
        Self {
            domains,
            starttls: false,
            scram_iterations: 10_000,
            tls_required: true,
            plain: false,
            plain_without_tls: false,
            legacy_session: true,
            offers_sm: true,
            offers_carbons: true,
            offers_csi: true,
            offers_fast: true,
            offers_registration: true,
            unsigned_registration: false,
            sasl_attempts_max: 3,
            before_auth: ScanLimits::BEFORE_AUTH,
            after_auth: ScanLimits::AFTER_AUTH,
            idle_seconds: 0,
            caps: None,
        }
    }
}

/// What TLS established about the connection.
#[derive(Debug, Clone, Default)]
pub struct TlsFacts {
    /// Channel-binding data.
    pub binding: ChannelBinding,
    /// Bare JIDs the client's verified certificate is good for (XmppAddr, XEP-0178 §2); empty: no EXTERNAL.
    pub certificate_jids: Vec<Jid>,
}

/// Randomness for one stream, drawn by the driver: half for a nonce, half for a stream id.
#[derive(Clone, Copy)]
pub struct Entropy(pub [u8; 32]);

impl Entropy {
    /// What is told to the client within this stream, and what makes the id of the next.
    fn halves(self) -> ([u8; 16], [u8; 16]) {
        let Self(bytes) = self;
        let half = "16 of 32 bytes";
        (*bytes.first_chunk().expect(half), *bytes.last_chunk().expect(half))
    }
}

impl fmt::Debug for Entropy {
    /// Leaves the bytes out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entropy").finish_non_exhaustive()
    }
}

/// What the driver shall do next.
pub enum Action {
    /// Flush what was written, then begin the TLS handshake as server; bytes received in clear behind `<starttls/>` must
    /// not exist ([`Stream::handle_bytes`] has refused them). Answer with [`Stream::handle_tls`].
    StartTls,
    /// SASL names this account. Bring the connection to its home shard, look up its credentials there and answer with
    /// [`Stream::handle_credentials`]. Input waits until then.
    Authenticate {
        /// The account's bare JID.
        account: Jid,
        /// What is needed.
        need: Need,
    },
    /// PLAIN: verify this password against these keys on the helper pool; answer with [`Stream::handle_password`].
    VerifyPassword {
        /// The keys to verify against.
        keys: Keys,
        /// The password as sent.
        password: Box<str>,
    },
    /// Create this account, if who asks for it may. Answer with [`Stream::handle_registered`] (XEP-0077 §3.1).
    Register(Box<Registration>),
    /// The client has shown who it is: keep its tokens accordingly, so that a count is not used again and a token that is
    /// told is known, both for good. Answer with [`Stream::handle_tokens`] (XEP-0484).
    Tokens {
        /// The account's bare JID.
        account: Jid,
        /// Whose tokens they are.
        client: ClientId,
        /// How it has shown who it is.
        proof: Proof,
        /// It wants a new token for this mechanism.
        wanted: Option<HtMechanism>,
    },
    /// Bind a session for the account. Answer with [`Stream::handle_bind`].
    Bind {
        /// The account's bare JID.
        account: Jid,
        /// The resource asked for.
        resource: Wish,
        /// How the session shall begin.
        inline: Inline,
    },
    /// Give the account back its session of that name, of which the client has handled `h` stanzas, modulo 2³²
    /// (XEP-0198 §5). Answer with [`Stream::handle_resume`].
    Resume {
        /// The account's bare JID.
        account: Jid,
        /// The session.
        previd: SmId,
        /// What the client has handled.
        h: u32,
    },
    /// A resource is bound, or a session resumed, and the result written: the stream is a session. Drop the `Stream`,
    /// keep this.
    Established(Bound),
    /// Flush what was written and close; nothing more is read.
    Close(Option<Violation>),
}

impl fmt::Debug for Action {
    /// Leaves the password out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StartTls => f.write_str("StartTls"),
            Self::Authenticate { account, need } => {
                f.debug_struct("Authenticate").field("account", account).field("need", need).finish()
            }
            Self::VerifyPassword { keys, .. } => {
                f.debug_struct("VerifyPassword").field("keys", keys).finish_non_exhaustive()
            }
            Self::Register(registration) => f.debug_tuple("Register").field(registration).finish(),
            Self::Tokens { account, proof, wanted, .. } => f
                .debug_struct("Tokens")
                .field("account", account)
                .field("proof", proof)
                .field("wanted", wanted)
                .finish_non_exhaustive(),
            Self::Bind { account, resource, inline } => f
                .debug_struct("Bind")
                .field("account", account)
                .field("resource", resource)
                .field("inline", inline)
                .finish(),
            Self::Resume { account, previd, h } => {
                f.debug_struct("Resume").field("account", account).field("previd", previd).field("h", h).finish()
            }
            Self::Established(bound) => f.debug_tuple("Established").field(bound).finish(),
            Self::Close(violation) => f.debug_tuple("Close").field(violation).finish(),
        }
    }
}

/// What an authentication needs of the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The SCRAM keys for this hash.
    Keys(Hash),
    /// Only whether it exists and may log in (EXTERNAL).
    Account,
    /// The tokens of this client (XEP-0484).
    Tokens(ClientId),
}

/// How a client has shown who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// With a password that fits these keys.
    Keys(Keys),
    /// With a certificate.
    Certificate,
    /// With a token.
    Token(UsedToken),
}

/// A token that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsedToken {
    /// Which.
    pub secret: TokenSecret,
    /// The client's count, which must not be used again, nor any below it.
    pub count: Option<u32>,
    /// The token shall not be used again.
    pub invalidate: bool,
}

/// A token for the client's next login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedToken {
    /// What the client is told.
    pub secret: TokenSecret,
    /// Until when it is good, as XEP-0082 writes it.
    pub expiry: Box<str>,
}

/// The registry's answer to [`Action::Authenticate`].
#[derive(Debug, Clone)]
pub enum Credentials {
    /// The account may log in with these keys.
    Keys(Keys),
    /// The account exists and may log in (EXTERNAL).
    Granted,
    /// The account may log in with one of these tokens, if there are any.
    Tokens([Option<Token>; 2]),
    /// No such account. The exchange goes on with keys made of `secret` (stable per name), so that nobody can tell
    /// (RFC 5802 §5.1; docs/bad-input.md, 44), and fails at its end.
    Unknown {
        /// 32 bytes derived from a server secret and the name.
        secret: [u8; 32],
    },
    /// Known, but refused: `account-disabled` or `temporary-auth-failure`.
    Refused(SaslFailure),
}

/// The session that [`Action::Bind`] asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Its full JID.
    pub jid: Jid,
    /// What became of stream management, if the session was to begin with it.
    pub sm: Option<Result<sm::Enabled, sm::Failed>>,
}

impl From<Jid> for Claimed {
    fn from(jid: Jid) -> Self {
        Self { jid, sm: None }
    }
}

/// The session that [`Action::Resume`] asked for, which now belongs to this connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    /// Its full JID.
    pub jid: Jid,
    /// Stanzas we have handled of it, modulo 2³².
    pub h: u32,
}

/// Why [`Action::Resume`] did not get its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotResumed {
    /// There is none, or not for this account: `item-not-found`. The client may bind a resource instead.
    Failed(sm::Failed),
    /// There is one, and the client claims to have handled more than it was sent. Ends the stream.
    HandledCountTooHigh(sm::HandledCountTooHigh),
}

impl From<stanza::Condition> for NotResumed {
    fn from(condition: stanza::Condition) -> Self {
        Self::Failed(condition.into())
    }
}

/// What remains of a stream once bound.
#[derive(Debug)]
pub struct Bound {
    /// Full JID.
    pub jid: Jid,
    /// Namespaces of the stream header.
    pub namespaces: StreamNamespaces,
    /// Default language of the stream (RFC 6120 §4.7.4), if the client named one.
    pub lang: Option<Box<str>>,
}

/// One client-to-server stream before bind.
pub struct Stream {
    link: Link,
    namespaces: StreamNamespaces,
    state: State,
}

/// What is true of the connection in every state.
struct Link {
    config: Arc<StreamConfig>,
    /// Whether TLS is in place; if not, `tls` is empty.
    secure: bool,
    tls: TlsFacts,
    /// Makes the id of the stream that is open, or about to be.
    id: [u8; 16],
    /// The domain the client named, by index in the configuration.
    domain: Option<usize>,
    lang: Option<Box<str>>,
    /// The bare JID that the client says the stream is from.
    from: Option<Jid>,
    /// Whether the header of the present stream is written.
    header_sent: bool,
    action: Option<Action>,
    /// How the last SASL attempt ended, until somebody counted it.
    attempt: Option<Result<(), SaslFailure>>,
    /// Registrations of this stream.
    desk: Desk,
}

/// Where negotiation stands. Each state owns exactly what is true in it, and each step consumes it.
#[derive(Debug)]
enum State {
    /// The client's header is awaited.
    Opening(Opening),
    /// `<starttls/>` is awaited.
    Securing(Securing),
    /// [`Action::StartTls`] is to be answered.
    Handshaking,
    /// SASL is awaited.
    Authenticating(Authenticating),
    /// [`Action::Authenticate`] or [`Action::VerifyPassword`] is to be answered.
    Verifying(Verifying),
    /// [`Action::Register`] is to be answered.
    Registering(Registering),
    /// SASL2 has succeeded, and [`Action::Tokens`], [`Action::Resume`] or [`Action::Bind`] is to be answered before the client is told.
    Granting(Box<Granting>),
    /// The request to bind is awaited.
    Binding(Binding),
    /// [`Action::Bind`] is to be answered.
    Claiming(Claiming),
    /// [`Action::Resume`] is to be answered.
    Resuming(Resuming),
    /// The stream is a session, and no longer ours.
    Bound,
    /// The last words are written.
    Closing,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a state that an input is not meant for stays what it is")]
impl Stream {
    /// A stream as accepted. `tls`: facts of the direct-TLS handshake, `None` on a STARTTLS or plaintext listener.
    pub fn new(config: Arc<StreamConfig>, tls: Option<TlsFacts>, entropy: Entropy) -> Self {
        let (seed, id) = entropy.halves();
        let link = Link {
            config,
            secure: tls.is_some(),
            tls: tls.unwrap_or_default(),
            id,
            domain: None,
            lang: None,
            from: None,
            header_sent: false,
            action: None,
            attempt: None,
            desk: Desk::new(seed),
        };
        let state = State::Opening(Opening::new(Next::Authentication));
        Self { link, namespaces: StreamNamespaces::default(), state }
    }

    /// Takes what arrived and returns how many bytes are done with; the caller keeps the rest and presents it again with
    /// more. Stops early when an action must be answered first. Answers are appended to `out`. What arrives after the end
    /// is swallowed.
    pub fn handle_bytes(&mut self, scanner: &mut Scanner, input: &[u8], out: &mut Vec<u8>) -> usize {
        let mut consumed = 0;
        while self.wants_bytes() {
            let Some(rest) = input.get(consumed..).filter(|rest| !rest.is_empty()) else { break };
            match self.step(scanner, rest, out) {
                Progress::Made(bytes) => consumed += bytes,
                Progress::Incomplete { skip } => return consumed + skip,
            }
        }
        if matches!(self.state, State::Closing) { input.len() } else { consumed }
    }

    /// Scans for the one thing that comes next and takes it.
    fn step(&mut self, scanner: &mut Scanner, input: &[u8], out: &mut Vec<u8>) -> Progress {
        let Self { link, namespaces, state } = self;
        let limits = match state {
            State::Opening(opening) => {
                if !mem::replace(&mut opening.begun, true) {
                    scanner.reset();
                    *namespaces = StreamNamespaces::default();
                }
                return self.step_header(scanner, input, out);
            }
            State::Binding(_) => link.config.after_auth,
            _ => link.config.before_auth,
        };
        match scanner.next(&limits, namespaces, input) {
            Ok(Scanned::Incomplete { skip }) => Progress::Incomplete { skip },
            Ok(Scanned::Close { consumed }) => {
                *state = link.on_close(out);
                Progress::Made(consumed)
            }
            Ok(Scanned::Element { element, consumed }) => {
                let behind = input.len().saturating_sub(consumed);
                let next = match mem::replace(state, State::Closing) {
                    State::Securing(securing) => securing.on_element(link, &element, behind, out),
                    State::Authenticating(authenticating) => authenticating.on_element(link, &element, behind, out),
                    State::Binding(binding) => binding.on_element(link, &element, out),
                    other => Ok(other),
                };
                *state = next.unwrap_or_else(|violation| link.on_violation(violation, out));
                Progress::Made(consumed)
            }
            Err(error) => {
                *state = link.on_violation(Violation::Xml(error), out);
                Progress::Made(0)
            }
        }
    }

    fn step_header(&mut self, scanner: &mut Scanner, input: &[u8], out: &mut Vec<u8>) -> Progress {
        let Self { link, namespaces, state } = self;
        let limits = link.config.before_auth;
        match scanner.header(&limits, input) {
            Ok(None) => Progress::Incomplete { skip: 0 },
            Ok(Some((header, declared, consumed))) => {
                *namespaces = declared;
                let next = match mem::replace(state, State::Closing) {
                    State::Opening(opening) => opening.on_header(link, &header, out),
                    other => Ok(other),
                };
                *state = next.unwrap_or_else(|violation| link.on_violation(violation, out));
                Progress::Made(consumed)
            }
            Err(error) => {
                *state = link.on_violation(Violation::Xml(error), out);
                Progress::Made(0)
            }
        }
    }

    /// The TLS handshake is done; the client opens a new stream. `entropy` makes the new stream id.
    pub fn handle_tls(&mut self, facts: TlsFacts, entropy: Entropy) {
        if matches!(self.state, State::Handshaking) {
            let (seed, id) = entropy.halves();
            (self.link.id, self.link.desk) = (id, Desk::new(seed));
            self.link.secure = true;
            self.link.tls = facts;
            self.link.header_sent = false;
            self.state = State::Opening(Opening::new(Next::Authentication));
        }
    }

    /// The account's credentials. `entropy` makes the server's nonce and the id of the stream that follows.
    pub fn handle_credentials(&mut self, credentials: Credentials, entropy: Entropy, out: &mut Vec<u8>) {
        let Self { link, state, .. } = self;
        *state = match mem::replace(state, State::Closing) {
            State::Verifying(verifying) => verifying.on_credentials(link, credentials, entropy, out),
            other => other,
        };
    }

    /// The verdict of [`Action::VerifyPassword`]; `None` if nobody had the time: `temporary-auth-failure`.
    pub fn handle_password(&mut self, matches: Option<bool>, out: &mut Vec<u8>) {
        let Self { link, state, .. } = self;
        *state = match mem::replace(state, State::Closing) {
            State::Verifying(verifying) => verifying.on_password(link, matches, out),
            other => other,
        };
    }

    /// The answer to [`Action::Register`]: the account is there for good, or the stanza error to give.
    pub fn handle_registered(&mut self, answer: Result<(), stanza::StanzaError>, out: &mut Vec<u8>) {
        let Self { link, state, .. } = self;
        *state = match mem::replace(state, State::Closing) {
            State::Registering(registering) => registering.on_registered(link, answer, out),
            other => other,
        };
    }

    /// The answer to [`Action::Tokens`]: a token to tell the client, if it shall have one, or how its attempt fails after
    /// all.
    pub fn handle_tokens(&mut self, kept: Result<Option<IssuedToken>, SaslFailure>, out: &mut Vec<u8>) {
        let Self { link, state, .. } = self;
        *state = match mem::replace(state, State::Closing) {
            State::Granting(granting) => granting.on_tokens(link, kept, out),
            other => other,
        };
    }

    /// The answer to [`Action::Bind`]: the session, or the stanza error to give.
    pub fn handle_bind(&mut self, bound: Result<Claimed, stanza::Condition>, out: &mut Vec<u8>) {
        self.state = match mem::replace(&mut self.state, State::Closing) {
            State::Claiming(claiming) => match bound {
                Ok(Claimed { jid, .. }) => {
                    claiming.on_bound(&jid, out);
                    self.establish(jid)
                }
                Err(condition) => State::Binding(claiming.on_refused(condition, out)),
            },
            State::Granting(granting) => {
                let granted = granting.on_bind(&self.link, bound, out);
                self.settle(granted)
            }
            other => other,
        };
    }

    /// The answer to [`Action::Resume`]; `<resumed/>` is written here, what is sent again comes behind it.
    pub fn handle_resume(&mut self, resumed: Result<Resumed, NotResumed>, out: &mut Vec<u8>) {
        let next = match mem::replace(&mut self.state, State::Closing) {
            State::Resuming(resuming) => match resumed {
                Ok(Resumed { jid, h }) => {
                    resuming.on_resumed(h, out);
                    Ok(self.establish(jid))
                }
                Err(refusal) => resuming.on_refused(refusal, out),
            },
            State::Granting(granting) => {
                granting.on_resume(&mut self.link, resumed, out).map(|granted| self.settle(granted))
            }
            other => Ok(other),
        };
        self.state = next.unwrap_or_else(|violation| self.link.on_violation(violation, out));
    }

    fn settle(&mut self, granted: Granted) -> State {
        match granted {
            Granted::Session(jid) => self.establish(jid),
            Granted::Not(state) => state,
        }
    }

    /// The stream becomes a session.
    fn establish(&mut self, jid: Jid) -> State {
        let (namespaces, lang) = (mem::take(&mut self.namespaces), self.link.lang.take());
        self.link.action = Some(Action::Established(Bound { jid, namespaces, lang }));
        State::Bound
    }

    /// The negotiation deadline passed: `connection-timeout`.
    pub fn handle_timeout(&mut self, out: &mut Vec<u8>) {
        self.end(|link| link.close(Some(Violation::Timeout)), |link| link.on_violation(Violation::Timeout, out));
    }

    /// The broker stops or must end this stream: writes header if needed, error, close.
    pub fn handle_abort(&mut self, condition: Condition, out: &mut Vec<u8>) {
        self.end(|link| link.close(None), |link| link.on_abort(condition, out));
    }

    /// Ends the stream unless it has ended already; silently if a TLS handshake is under way.
    fn end(&mut self, silently: impl FnOnce(&mut Link) -> State, aloud: impl FnOnce(&mut Link) -> State) {
        self.state = match mem::replace(&mut self.state, State::Closing) {
            State::Bound => State::Bound,
            State::Closing => State::Closing,
            State::Handshaking => silently(&mut self.link),
            _ => aloud(&mut self.link),
        };
    }

    /// What to do next; call until `None` after each `handle_*`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.link.action.take()
    }

    /// How the last SASL attempt ended, once, for whoever counts.
    pub fn take_attempt(&mut self) -> Option<Result<(), SaslFailure>> {
        self.link.attempt.take()
    }

    /// Whether bytes may be presented now (no action waits for its answer).
    pub fn wants_bytes(&self) -> bool {
        match self.state {
            State::Opening(_) | State::Securing(_) | State::Authenticating(_) | State::Binding(_) => true,
            State::Handshaking
            | State::Verifying(_)
            | State::Registering(_)
            | State::Granting(_)
            | State::Claiming(_)
            | State::Resuming(_)
            | State::Bound
            | State::Closing => false,
        }
    }

    /// Who is authenticated, once that is known and until a resource is bound.
    pub fn account(&self) -> Option<JidRef<'_>> {
        match &self.state {
            State::Opening(Opening { next: Next::Binding(account), .. }) => Some(account.as_jid()),
            State::Granting(granting) => Some(granting.account().as_jid()),
            State::Binding(binding) => Some(binding.account.as_jid()),
            State::Claiming(claiming) => Some(claiming.account().as_jid()),
            State::Resuming(resuming) => Some(resuming.account().as_jid()),
            State::Opening(_)
            | State::Securing(_)
            | State::Handshaking
            | State::Authenticating(_)
            | State::Verifying(_)
            | State::Registering(_)
            | State::Bound
            | State::Closing => None,
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("state", &self.state).field("secure", &self.link.secure).finish_non_exhaustive()
    }
}

/// How far one step got.
enum Progress {
    /// Something was taken; so many bytes are done with.
    Made(usize),
    /// Nothing complete is there; so many bytes of white space are done with.
    Incomplete { skip: usize },
}

impl Link {
    /// The domain of the stream, by index in the configuration.
    fn domain_index(&self) -> usize {
        self.domain.unwrap_or(0)
    }

    /// The domain of the stream.
    fn domain(&self) -> &str {
        self.config.domains.get(self.domain_index()).map_or("", Jid::as_str)
    }
}

/// What an element that negotiates nothing does wrong where negotiation is still under way.
fn outsider(element: &Element<'_>) -> Violation {
    match (element.name(), element.ns()) {
        ("message" | "presence" | "iq", ns::CLIENT) => Violation::StanzaBeforeAuth,
        ("message" | "presence" | "iq", ns::SERVER) => Violation::InvalidNamespace,
        _ => Violation::UnsupportedElement,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = b"<stream:stream to='things.example' version='1.0' xmlns='jabber:client' \
                            xmlns:stream='http://etherx.jabber.org/streams'>";

    fn stream(starttls: bool) -> Stream {
        let config = StreamConfig {
            starttls,
            scram_iterations: 1,
            tls_required: starttls,
            plain: true,
            plain_without_tls: true,
            ..StreamConfig::new(vec![Jid::parse("things.example").unwrap()])
        };
        Stream::new(Arc::new(config), None, Entropy([1; 32]))
    }

    fn say(stream: &mut Stream, bytes: &[u8]) -> String {
        let mut out = Vec::new();
        assert_eq!(stream.handle_bytes(&mut Scanner::new(), bytes, &mut out), bytes.len());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_stream_moves_between_threads_and_is_not_large() {
        fn assert_send<T: Send>() {}
        assert_send::<Stream>();
        assert_send::<Action>();
        assert!(size_of::<Stream>() <= 512, "{}", size_of::<Stream>());
    }

    #[test]
    fn nothing_is_written_into_a_tls_handshake() {
        for abort in [false, true] {
            let mut stream = stream(true);
            say(&mut stream, HEADER);
            say(&mut stream, b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
            assert!(matches!(stream.poll_action(), Some(Action::StartTls)));
            assert!(!stream.wants_bytes());
            let mut out = Vec::new();
            if abort {
                stream.handle_abort(Condition::SystemShutdown, &mut out);
                assert!(matches!(stream.poll_action(), Some(Action::Close(None))));
            } else {
                stream.handle_timeout(&mut out);
                assert!(matches!(stream.poll_action(), Some(Action::Close(Some(Violation::Timeout)))));
            }
            assert!(out.is_empty());
            stream.handle_tls(TlsFacts::default(), Entropy([2; 32]));
            assert!(!stream.wants_bytes(), "a closed stream stays closed");
        }
    }

    #[test]
    fn an_answer_that_comes_too_late_changes_nothing() {
        let mut stream = stream(false);
        say(&mut stream, HEADER);
        // NUL "user" NUL "pencil"
        let auth = b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHVzZXIAcGVuY2ls</auth>";
        say(&mut stream, auth);
        assert!(matches!(stream.poll_action(), Some(Action::Authenticate { .. })));
        let mut out = Vec::new();
        stream.handle_timeout(&mut out);
        assert!(matches!(stream.poll_action(), Some(Action::Close(Some(Violation::Timeout)))));
        out.clear();
        stream.handle_credentials(Credentials::Unknown { secret: [0; 32] }, Entropy([2; 32]), &mut out);
        stream.handle_password(Some(true), &mut out);
        stream.handle_bind(Err(stanza::Condition::Conflict), &mut out);
        stream.handle_tokens(Ok(None), &mut out);
        stream.handle_registered(Ok(()), &mut out);
        stream.handle_resume(Err(stanza::Condition::ItemNotFound.into()), &mut out);
        stream.handle_timeout(&mut out);
        assert!(out.is_empty() && stream.poll_action().is_none() && stream.account().is_none());
    }

    #[test]
    fn input_waits_while_an_action_does() {
        let mut stream = stream(false);
        say(&mut stream, HEADER);
        let auth = b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHVzZXIAcGVuY2ls</auth>";
        let both = [&auth[..], HEADER].concat();
        let mut out = Vec::new();
        assert_eq!(stream.handle_bytes(&mut Scanner::new(), &both, &mut out), auth.len());
        assert_eq!(stream.handle_bytes(&mut Scanner::new(), HEADER, &mut out), 0);
        assert!(out.is_empty());
        assert!(matches!(stream.poll_action(), Some(Action::Authenticate { need: Need::Keys(Hash::Sha256), .. })));

        let keys = crate::sasl::scram::derive(Hash::Sha256, "pencil", b"salt", 1).unwrap();
        stream.handle_credentials(Credentials::Keys(keys), Entropy([2; 32]), &mut out);
        let Some(Action::VerifyPassword { keys, password }) = stream.poll_action() else {
            panic!("no password to verify")
        };
        assert!(crate::sasl::scram::verify_password(&keys, &password));
        assert_eq!(stream.account(), None);
        stream.handle_password(Some(true), &mut out);
        assert_eq!(out, b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>");
        assert_eq!(stream.account().map(JidRef::as_str), Some("user@things.example"));
        assert!(stream.wants_bytes());
    }

    #[test]
    fn secrets_are_not_printed() {
        let action =
            Action::VerifyPassword { keys: Keys::imaginary(Hash::Sha1, &[1; 32], 1), password: "pencil".into() };
        assert!(!format!("{action:?}").contains("pencil"));
        assert_eq!(format!("{:?}", Entropy([77; 32])), "Entropy { .. }");
    }
}
