//! One client session: bytes from its socket in, bytes for its socket out. Holds no buffer while nothing is under way.
//!
//! Called by [`crate::worker`]; performs no I/O and reads no clock.

use std::sync::Arc;

use plaza_core::limits::ScanLimits;
use plaza_core::xml::{Element, Scanned, Scanner, StreamNamespaces};

use crate::login::{Entry, Fast, Login, LoginStep};
use crate::management::{self, Management};
use crate::part::Part;
use crate::plan::{Plan, TlsMode};
use crate::tls::Tls;
use crate::traffic::{self, Talk, Tally};

/// What a thread's sessions share.
#[derive(Debug)]
pub(crate) struct Bench {
    scanner: Scanner,
    /// Whose partial element the scanner is in the middle of.
    scanned: Option<u32>,
    plain: Vec<u8>,
    say: Vec<u8>,
    /// Send buffers not in use.
    spare: Vec<Vec<u8>>,
}

/// Send buffers kept for later.
const SPARE_MAX: usize = 4096;
/// A spare buffer that grew beyond this is dropped instead.
const SPARE_BYTES_MAX: usize = 256 * 1024;

impl Bench {
    /// Empty.
    pub(crate) fn new() -> Self {
        Self { scanner: Scanner::new(), scanned: None, plain: Vec::new(), say: Vec::new(), spare: Vec::new() }
    }

    /// Takes a send buffer back.
    pub(crate) fn keep(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_MAX && buffer.capacity() <= SPARE_BYTES_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

/// How far a session is.
#[derive(Debug)]
enum State {
    Vacant,
    Connecting,
    /// Waits for the relay to echo its number.
    Hello,
    /// TLS handshake; the login begins or goes on after it.
    Securing(Box<Login>),
    /// A handshake was all there was to do: what is left of it goes out, and the connection ends.
    Shaken,
    /// Negotiates; `true`: a stream header is the next thing to arrive.
    LoggingIn(Box<Login>, bool),
    Ready,
    Closing,
    Dead,
}

/// What went wrong, and the bytes it was in.
#[derive(Debug)]
pub(crate) struct Fault {
    /// What, in words.
    pub what: String,
    /// The bytes, from the offending element on.
    pub bytes: Vec<u8>,
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Self { what, bytes: Vec::new() }
    }
}

/// Bytes of a fault that are kept.
const FAULT_BYTES_MAX: usize = 600;

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    state: State,
    tls: Option<Box<Tls>>,
    /// Its part in the traffic, once there is any.
    pub talk: Option<Box<Talk>>,
    /// Its part in the acts, if the scenario has any.
    pub part: Option<Box<Part>>,
    /// What it knows of its managed stream; kept when the connection is cut.
    managed: Option<Box<Management>>,
    /// How it comes in.
    entry: Entry,
    /// Its token, once it has one; kept likewise.
    fast: Option<Box<Fast>>,
    /// Bytes for the socket.
    out: Vec<u8>,
    /// A partial element.
    carry: Vec<u8>,
    /// A partial TLS record.
    cipher: Vec<u8>,
    namespaces: StreamNamespaces,
    /// When its connect was asked for, in ns of the run's clock.
    pub started_ns: u64,
    /// A send is in flight.
    pub sending: bool,
    /// It is on the list of sessions to flush.
    pub dirty: bool,
}

impl Session {
    /// A session not begun.
    pub(crate) fn new() -> Self {
        Self {
            state: State::Vacant,
            tls: None,
            talk: None,
            part: None,
            managed: None,
            entry: Entry::Login,
            fast: None,
            out: Vec::new(),
            carry: Vec::new(),
            cipher: Vec::new(),
            namespaces: StreamNamespaces::default(),
            started_ns: 0,
            sending: false,
            dirty: false,
        }
    }

    /// Its connect was asked for.
    pub(crate) fn begin(&mut self, now_ns: u64, entry: Entry) {
        self.bury();
        self.out.clear();
        self.namespaces = StreamNamespaces::default();
        self.entry = entry;
        if !matches!(entry, Entry::Resume(_)) {
            (self.managed, self.fast) = (None, None);
        }
        self.state = State::Connecting;
        self.started_ns = now_ns;
    }

    /// Whether it waits for its connect.
    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting)
    }

    /// Whether it is bound.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }

    /// Whether its end would be no surprise.
    pub(crate) fn may_end(&self) -> bool {
        matches!(self.state, State::Closing | State::Shaken | State::Dead | State::Vacant)
    }

    /// Whether its end is awaited.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing)
    }

    /// Whether it came for a handshake and has had it.
    pub(crate) fn is_shaken(&self) -> bool {
        matches!(self.state, State::Shaken)
    }

    /// The connection is about to be cut: nothing is said or heard any more.
    pub(crate) fn cut(&mut self) {
        self.state = State::Closing;
        self.out.clear();
    }

    /// It is over.
    pub(crate) fn bury(&mut self) {
        self.state = State::Dead;
        self.tls = None;
        self.carry = Vec::new();
        self.cipher = Vec::new();
    }

    /// Whether bytes wait for the socket.
    pub(crate) fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// Bytes waiting for the socket.
    pub(crate) fn output_bytes(&self) -> usize {
        self.out.len()
    }

    /// Takes the bytes for the socket.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// The connection stands: says the first thing.
    ///
    /// # Errors
    /// TLS's.
    pub(crate) fn connected(&mut self, plan: &Plan, bench: &mut Bench, session: u32) -> Result<(), Fault> {
        self.stock(bench);
        let login = |managed, fast, secure| Box::new(Login::new(self.entry, secure, managed, fast));
        if plan.raw {
            self.out.extend_from_slice(&session.to_le_bytes());
            self.state = State::Hello;
        } else if plan.tls == TlsMode::Direct {
            let login = login(self.managed.take(), self.fast.take(), true);
            self.secure(plan, login)?;
        } else {
            Login::open(plan, &mut self.out);
            self.state = State::LoggingIn(login(self.managed.take(), self.fast.take(), false), true);
        }
        Ok(())
    }

    fn secure(&mut self, plan: &Plan, login: Box<Login>) -> Result<(), Fault> {
        let (Some(config), Some(name)) = (&plan.tls_config, &plan.tls_name) else {
            return Err(Fault::from("no TLS configuration".to_owned()));
        };
        self.tls = Some(Box::new(Tls::start(Arc::clone(config), name.clone(), &mut self.out)?));
        self.state = State::Securing(login);
        Ok(())
    }

    /// Gives it a send buffer if it has none.
    fn stock(&mut self, bench: &mut Bench) {
        if self.out.capacity() == 0 {
            self.out = bench.spare.pop().unwrap_or_default();
        }
    }

    /// Lets `speak` append plaintext, which is then encrypted if need be.
    ///
    /// # Errors
    /// TLS's.
    pub(crate) fn speak(
        &mut self,
        bench: &mut Bench,
        speak: impl FnOnce(&mut Talk, &mut Vec<u8>),
    ) -> Result<(), Fault> {
        self.stock(bench);
        let Some(talk) = &mut self.talk else { return Ok(()) };
        say(&mut self.tls, &mut self.out, bench, |out| speak(talk, out))
    }

    /// Lets its part append plaintext and say how many stanzas it was, likewise.
    ///
    /// # Errors
    /// TLS's.
    pub(crate) fn act(
        &mut self,
        bench: &mut Bench,
        act: impl FnOnce(&mut Part, Option<&mut Management>, &mut Vec<u8>),
    ) -> Result<(), Fault> {
        self.stock(bench);
        let Some(part) = &mut self.part else { return Ok(()) };
        let managed = self.managed.as_deref_mut();
        say(&mut self.tls, &mut self.out, bench, |out| act(part, managed, out))
    }

    /// Closes the stream, if there is one.
    ///
    /// # Errors
    /// TLS's.
    pub(crate) fn close(&mut self, plan: &Plan, bench: &mut Bench) -> Result<(), Fault> {
        const CLOSE: &[u8] = b"</stream:stream>";
        if self.is_ready() && !plan.raw {
            self.stock(bench);
            say(&mut self.tls, &mut self.out, bench, |out| out.extend_from_slice(CLOSE))?;
        }
        self.state = State::Closing;
        Ok(())
    }

    /// Takes what arrived.
    ///
    /// # Errors
    /// [`Fault`]: the session is of no use any more.
    pub(crate) fn arrive(
        &mut self,
        plan: &Plan,
        bench: &mut Bench,
        tally: &mut Tally,
        session: u32,
        bytes: &mut [u8],
    ) -> Result<(), Fault> {
        self.stock(bench);
        let mut plain = std::mem::take(&mut bench.plain);
        let result = if self.tls.is_some() {
            self.arrive_cipher(plan, bench, tally, session, bytes, &mut plain)
        } else {
            self.arrive_plain(plan, bench, tally, session, bytes, &mut plain)
        };
        plain.clear();
        bench.plain = plain;
        if self.out.is_empty() && self.out.capacity() > 0 {
            bench.keep(std::mem::take(&mut self.out));
        }
        result
    }

    fn arrive_plain(
        &mut self,
        plan: &Plan,
        bench: &mut Bench,
        tally: &mut Tally,
        session: u32,
        bytes: &[u8],
        whole: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let mut say = std::mem::take(&mut self.out);
        let input = if self.carry.is_empty() {
            bytes
        } else {
            whole.append(&mut self.carry);
            whole.extend_from_slice(bytes);
            whole
        };
        let result = self.parse(plan, bench, tally, session, input, &mut say);
        self.out = say;
        let (used, step) = result?;
        self.carry.extend_from_slice(input.get(used..).unwrap_or_default());
        self.slim();
        if step == LoginStep::StartTls {
            if !self.carry.is_empty() {
                return Err(Fault::from("bytes in the clear behind <proceed/>".to_owned()));
            }
            if let State::LoggingIn(login, _) = std::mem::replace(&mut self.state, State::Dead) {
                self.secure(plan, login)?;
            }
        }
        Ok(())
    }

    fn arrive_cipher(
        &mut self,
        plan: &Plan,
        bench: &mut Bench,
        tally: &mut Tally,
        session: u32,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        plain.append(&mut self.carry);
        let progress = if self.cipher.is_empty() {
            let progress = tls.receive(bytes, plain, &mut self.out)?;
            self.cipher.extend_from_slice(bytes.get(progress.used..).unwrap_or_default());
            progress
        } else {
            self.cipher.extend_from_slice(bytes);
            let progress = tls.receive(&mut self.cipher, plain, &mut self.out)?;
            self.cipher.drain(..progress.used);
            progress
        };
        let mut say = std::mem::take(&mut bench.say);
        say.clear();
        if tls.is_established()
            && let State::Securing(login) = &mut self.state
        {
            let goes_on = login.secured(plan, session, tls, &mut say);
            if let State::Securing(login) = std::mem::replace(&mut self.state, State::Shaken)
                && goes_on
            {
                self.state = State::LoggingIn(login, true);
            }
        }
        let result = self.parse(plan, bench, tally, session, plain, &mut say);
        if let (Some(tls), false) = (&mut self.tls, say.is_empty()) {
            tls.encrypt(&say, &mut self.out)?;
        }
        bench.say = say;
        let (used, _) = result?;
        self.carry.extend_from_slice(plain.get(used..).unwrap_or_default());
        self.slim();
        if progress.closed && !self.may_end() {
            return Err(Fault::from("the server closed TLS".to_owned()));
        }
        Ok(())
    }

    /// A session without traffic owns no memory for what it may read.
    fn slim(&mut self) {
        if self.talk.is_none() {
            if self.carry.is_empty() {
                self.carry = Vec::new();
            }
            if self.cipher.is_empty() {
                self.cipher = Vec::new();
            }
        }
    }

    /// Takes the complete elements of `input`; gives the bytes done with, and whether TLS must begin.
    fn parse(
        &mut self,
        plan: &Plan,
        bench: &mut Bench,
        tally: &mut Tally,
        session: u32,
        input: &[u8],
        say: &mut Vec<u8>,
    ) -> Result<(usize, LoginStep), Fault> {
        let mut at = 0;
        if let State::Hello = self.state {
            let Some(echo) = input.first_chunk::<4>() else { return Ok((0, LoginStep::Wait)) };
            if u32::from_le_bytes(*echo) != session {
                return Err(Fault { what: "the relay echoed another number".to_owned(), bytes: echo.to_vec() });
            }
            self.state = State::Ready;
            at = 4;
        }
        if bench.scanned.take().is_some_and(|owner| owner != session) {
            bench.scanner.reset();
        }
        let namespaces = std::mem::take(&mut self.namespaces);
        let mut fresh = None;
        let result = loop {
            let rest = input.get(at..).unwrap_or_default();
            if rest.is_empty() {
                break Ok(LoginStep::Wait);
            }
            let fault = |what: String| Fault { what, bytes: rest.iter().copied().take(FAULT_BYTES_MAX).collect() };
            if let State::LoggingIn(_, header @ true) = &mut self.state {
                match bench.scanner.header(&ScanLimits::AFTER_AUTH, rest) {
                    Ok(Some((_, namespaces, used))) => {
                        *header = false;
                        fresh = Some(namespaces);
                        at += used;
                        continue;
                    }
                    Ok(None) => {
                        bench.scanned = Some(session);
                        break Ok(LoginStep::Wait);
                    }
                    Err(error) => break Err(fault(format!("stream header: {error:?}"))),
                }
            }
            let scope = fresh.as_ref().unwrap_or(&namespaces);
            match bench.scanner.next(&ScanLimits::AFTER_AUTH, scope, rest) {
                Err(error) => break Err(fault(format!("not XML as XMPP has it: {error:?}"))),
                Ok(Scanned::Incomplete { skip }) => {
                    at += skip;
                    bench.scanned = Some(session);
                    break Ok(LoginStep::Wait);
                }
                Ok(Scanned::Close { consumed }) => {
                    at += consumed;
                    if !self.may_end() {
                        break Err(fault("the server closed the stream".to_owned()));
                    }
                }
                Ok(Scanned::Element { element, consumed }) => {
                    at += consumed;
                    match &mut self.state {
                        State::LoggingIn(login, header) => match login.take(plan, session, &element, say) {
                            Err(what) => break Err(fault(what)),
                            Ok(LoginStep::Wait) => {}
                            Ok(LoginStep::Restart) => *header = true,
                            Ok(LoginStep::Bound) => {
                                (self.managed, self.fast) = login.take_stream();
                                self.state = State::Ready;
                            }
                            Ok(LoginStep::StartTls) => break Ok(LoginStep::StartTls),
                        },
                        State::Ready => {
                            if let Err(what) = self.hear(plan, tally, &element, say) {
                                break Err(fault(what));
                            }
                        }
                        State::Vacant
                        | State::Connecting
                        | State::Hello
                        | State::Securing(_)
                        | State::Shaken
                        | State::Closing
                        | State::Dead => {}
                    }
                }
            }
        };
        self.namespaces = fresh.unwrap_or(namespaces);
        result.map(|step| (at, step))
    }

    /// Takes an element of the bound stream.
    fn hear(&mut self, plan: &Plan, tally: &mut Tally, element: &Element<'_>, say: &mut Vec<u8>) -> Result<(), String> {
        if let Some(managed) = self.managed.as_deref_mut() {
            if management::is_ours(element) {
                let acknowledged = managed.take(element, say)?;
                if let (Some(h), Some(part)) = (acknowledged, &mut self.part) {
                    part.acknowledged(plan, tally, h, managed, say);
                }
                return Ok(());
            }
            managed.count_inbound();
        }
        match (&mut self.part, &mut self.talk) {
            (Some(part), _) => part.hear(plan, tally, element, self.managed.as_deref_mut(), say),
            (None, Some(talk)) => talk.hear(plan, tally, element, say),
            (None, None) => traffic::bystander(element, say),
        }
    }
}

/// Appends what `speak` says in plaintext to `out`, encrypted if need be.
fn say(
    tls: &mut Option<Box<Tls>>,
    out: &mut Vec<u8>,
    bench: &mut Bench,
    speak: impl FnOnce(&mut Vec<u8>),
) -> Result<(), Fault> {
    match tls {
        None => speak(out),
        Some(tls) => {
            bench.say.clear();
            speak(&mut bench.say);
            if !bench.say.is_empty() {
                tls.encrypt(&bench.say, out)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Scans one element of a client's stream and hands it over.
    pub(crate) fn with_element<T>(text: &str, take: impl FnOnce(&Element<'_>) -> T) -> T {
        let mut scanner = Scanner::new();
        match scanner.next(&ScanLimits::AFTER_AUTH, &StreamNamespaces::default(), text.as_bytes()) {
            Ok(Scanned::Element { element, .. }) => take(&element),
            other => panic!("{text}: {other:?}"),
        }
    }
}
