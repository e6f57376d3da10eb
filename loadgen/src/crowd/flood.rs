//! Members: log in, then send more than they should, or take nothing of what they are sent.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::ops::Range;
use std::time::Duration;

use plaza_core::limits::ScanLimits;
use plaza_core::xml::{Scanned, Scanner, StreamNamespaces};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Abuse, Deeds};
use crate::login::{Entry, Login, LoginStep};
use crate::plan::{Plan, TlsMode};

/// How long each step of a login may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that a member has in hand at once.
const BATCH_BYTES: usize = 16 * 1024;
/// The receive buffer of one who never reads: the least that the kernel gives.
const UNREAD_BYTES: usize = 2048;
/// Those of a crowd who write to the others.
const WRITERS_MAX: usize = 8;
/// Body of what is written to one who never reads, in bytes.
const UNREAD_BODY: usize = 1024;
/// The same, to one that many write to.
const HOT_BODY: usize = 200;

/// One of them.
#[derive(Debug)]
struct Member {
    socket: Option<Socket>,
    /// Not said yet, from `at` on.
    out: Vec<u8>,
    at: usize,
}

/// Those who are logged in.
#[derive(Debug)]
pub(super) struct Members {
    abuse: Abuse,
    domain: String,
    service: String,
    members: Vec<Member>,
    /// Addresses of those who are written to.
    targets: Vec<String>,
    /// The first who send; those before only listen, or not even that.
    writers: Range<usize>,
    /// Stanzas so far.
    number: u64,
}

/// Logs them in, one after another.
///
/// # Errors
/// In words.
pub(super) fn gather(abuse: Abuse, plan: &Plan, sessions: Range<u32>) -> Result<Members, String> {
    if plan.tls != TlsMode::None {
        return Err("members speak in the clear: they need a listener without TLS".to_owned());
    }
    let count = sessions.len();
    let silent = match abuse {
        Abuse::Unread => count.saturating_sub(WRITERS_MAX).max(count / 2),
        Abuse::Hot => 1.min(count),
        Abuse::Connects
        | Abuse::Slow
        | Abuse::Handshakes
        | Abuse::Malformed
        | Abuse::Passwords
        | Abuse::Whitespace
        | Abuse::Presence
        | Abuse::Subscribe
        | Abuse::Searches => 0,
    };
    let targets = sessions.clone().take(silent).map(|session| plan.jid(session)).collect();
    let mut members = Vec::with_capacity(count);
    for (place, session) in sessions.enumerate() {
        let deaf = abuse == Abuse::Unread && place < silent;
        let socket = log_in(plan, session, deaf).map_err(|error| format!("{}: {error}", plan.jid(session)))?;
        members.push(Member { socket: Some(socket), out: Vec::new(), at: 0 });
    }
    let (domain, service) = (plan.domain.clone(), format!("things.{}", plan.domain));
    Ok(Members { abuse, domain, service, members, targets, writers: silent..count, number: 0 })
}

impl Members {
    /// Each says and hears what it can without waiting; whether that is anything.
    pub(super) fn turn(&mut self, deeds: &mut Deeds) -> bool {
        let mut moved = false;
        let first = if self.abuse == Abuse::Unread { self.writers.start } else { 0 };
        for place in first..self.members.len() {
            if self.writers.contains(&place) {
                self.fill(place);
            }
            if let Some(member) = self.members.get_mut(place) {
                moved |= member.turn(deeds);
            }
        }
        moved
    }

    fn fill(&mut self, place: usize) {
        let Self { abuse, domain, service, members, targets, number, .. } = self;
        let Some(member) = members.get_mut(place).filter(|member| member.at >= member.out.len()) else { return };
        let mut text = String::with_capacity(BATCH_BYTES + 2 * UNREAD_BODY);
        while text.len() < BATCH_BYTES {
            *number += 1;
            let to = targets.get(*number as usize % targets.len().max(1)).map_or("", String::as_str);
            let written = match abuse {
                Abuse::Presence => write!(text, "<presence><status>{number}</status></presence>"),
                Abuse::Subscribe => write!(text, "<presence type='subscribe' to='stranger{number}@{domain}'/>"),
                Abuse::Searches => write!(
                    text,
                    "<iq type='get' to='{service}' id='s{number}'><search xmlns='urn:nf:iot:disco:1.0' offset='0' \
                     maxCount='100'><strRegEx name='SN' value='.*(a|{number})+.*'/></search></iq>"
                ),
                Abuse::Unread => {
                    write!(text, "<message to='{to}' type='chat'><body>{:UNREAD_BODY$}</body></message>", number)
                }
                Abuse::Hot => {
                    write!(text, "<message to='{to}' type='chat'><body>{:HOT_BODY$}</body></message>", number)
                }
                Abuse::Whitespace
                | Abuse::Connects
                | Abuse::Slow
                | Abuse::Handshakes
                | Abuse::Malformed
                | Abuse::Passwords => {
                    text.extend(std::iter::repeat_n(' ', BATCH_BYTES));
                    Ok(())
                }
            };
            written.expect("writing to a string cannot fail");
        }
        (member.out, member.at) = (text.into_bytes(), 0);
    }
}

impl Member {
    fn turn(&mut self, deeds: &mut Deeds) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        let mut moved = false;
        if let Some(rest) = self.out.get(self.at..).filter(|rest| !rest.is_empty()) {
            match socket.write(rest) {
                Ok(count) => {
                    (self.at, moved) = (self.at + count, true);
                    deeds.written += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => {
                    deeds.ended += 1;
                    self.socket = None;
                    return true;
                }
            }
        }
        let mut buffer = [0; 16 * 1024];
        match socket.read(&mut buffer) {
            Ok(count) if count > 0 => {
                deeds.read += count as u64;
                moved = true;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => {
                deeds.ended += 1;
                self.socket = None;
            }
        }
        moved
    }
}

/// Logs a session in; `deaf`: with the smallest of receive buffers.
fn log_in(plan: &Plan, session: u32, deaf: bool) -> Result<Socket, String> {
    let io = |error: std::io::Error| error.to_string();
    let mut socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).map_err(io)?;
    if deaf {
        socket.set_recv_buffer_size(UNREAD_BYTES).map_err(io)?;
    }
    socket.connect(&SockAddr::from(plan.server)).map_err(io)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(io)?;
    let mut login = Login::new(Entry::Login, false, None, None);
    let (mut out, mut heard) = (Vec::new(), Vec::new());
    let (mut scanner, mut namespaces, mut at_header) = (Scanner::new(), StreamNamespaces::default(), true);
    Login::open(plan, &mut out);
    let mut buffer = [0; 4096];
    loop {
        socket.write_all(&out).map_err(io)?;
        out.clear();
        let count = socket.read(&mut buffer).map_err(io)?;
        if count == 0 {
            return Err("the server ended the connection".to_owned());
        }
        heard.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let mut done = 0;
        while let Some(rest) = heard.get(done..).filter(|rest| !rest.is_empty()) {
            if at_header {
                let header = scanner.header(&ScanLimits::AFTER_AUTH, rest).map_err(|error| format!("{error:?}"))?;
                let Some((_, known, used)) = header else { break };
                (namespaces, at_header, done) = (known, false, done + used);
                continue;
            }
            let scanned = scanner.next(&ScanLimits::AFTER_AUTH, &namespaces, rest);
            match scanned.map_err(|error| format!("{error:?}"))? {
                Scanned::Incomplete { skip } => {
                    done += skip;
                    break;
                }
                Scanned::Close { .. } => return Err("the server closed the stream".to_owned()),
                Scanned::Element { element, consumed } => {
                    match login.take(plan, session, &element, &mut out)? {
                        LoginStep::Wait => {}
                        LoginStep::StartTls => return Err("TLS was not asked for".to_owned()),
                        LoginStep::Restart => (namespaces, at_header) = (StreamNamespaces::default(), true),
                        LoginStep::Bound => {
                            socket.write_all(&out).map_err(io)?;
                            socket.set_nonblocking(true).map_err(io)?;
                            return Ok(socket);
                        }
                    }
                    done += consumed;
                }
            }
        }
        heard.drain(..done);
    }
}
