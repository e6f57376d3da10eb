//! Strangers: connect, say and hear what the script has, and begin again.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Abuse, Deeds};
use crate::login::Login;
use crate::plan::Plan;
use crate::tls::Tls;

/// A step of a script.
#[derive(Debug, Clone)]
enum Step {
    /// Says this.
    Say(Vec<u8>),
    /// Says this, a byte at a time, with [`DRIP`] between them.
    Drip(Vec<u8>),
    /// Waits until this is heard, and forgets what came before.
    Hear(&'static [u8]),
    /// Waits for a SCRAM challenge, and answers it with a proof that is none.
    Guess,
    /// Waits until the server ends the connection.
    HearEnd,
}

/// Between two bytes of one who is slow.
const DRIP: Duration = Duration::from_secs(2);
/// A script that comes no further for so long is begun again.
const STUCK: Duration = Duration::from_secs(60);
/// What is heard and not waited for is forgotten beyond so much.
const HEARD_BYTES_MAX: usize = 64 * 1024;
/// Attempts to authenticate on a stream.
const GUESSES: usize = 3;

/// One of them.
#[derive(Debug)]
pub(super) struct Stranger {
    server: SocketAddrV4,
    script: Arc<[Step]>,
    socket: Option<Socket>,
    step: usize,
    /// Bytes of the step that were said.
    said: usize,
    heard: Vec<u8>,
    since: Instant,
}

/// A crowd of them.
///
/// # Errors
/// In words: what they need is not there.
pub(super) fn strangers(abuse: Abuse, plan: &Plan) -> Result<Vec<Stranger>, String> {
    let script: Arc<[Step]> = script(abuse, plan)?.into();
    let stranger = || Stranger {
        server: plan.server,
        script: Arc::clone(&script),
        socket: None,
        step: 0,
        said: 0,
        heard: Vec::new(),
        since: Instant::now(),
    };
    Ok((0..plan.sessions).map(|_| stranger()).collect())
}

fn script(abuse: Abuse, plan: &Plan) -> Result<Vec<Step>, String> {
    let mut header = Vec::new();
    Login::open(plan, &mut header);
    Ok(match abuse {
        Abuse::Slow => vec![Step::Drip(header), Step::HearEnd],
        Abuse::Malformed => {
            header.extend_from_slice(b"<iq><a></b></iq>");
            vec![Step::Say(header), Step::Hear(b"</stream:stream>")]
        }
        Abuse::Handshakes => {
            let (Some(config), Some(name)) = (plan.tls_config.clone(), plan.tls_name.clone()) else {
                return Err("handshakes need a listener with TLS".to_owned());
            };
            // The same hello each time, so that it costs who sends it nothing; the server signs an answer of its own. Its
            // first record is the ServerHello, and all up to the signature is sent at once.
            let mut hello = Vec::new();
            Tls::start(config, name, &mut hello)?;
            vec![Step::Say(hello), Step::Hear(&[0x16, 0x03, 0x03])]
        }
        Abuse::Passwords => {
            // At an account of the crowd's own: those who write have the same source, and would be barred with it.
            let account = plan.accounts.saturating_sub(plan.sessions);
            let first = BASE64_STANDARD.encode(format!("n,,n={}{account},r=abuse", plan.users));
            let auth =
                format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-256'>{first}</auth>");
            let mut steps = vec![Step::Say(header), Step::Hear(b"</stream:features>")];
            for _ in 0..GUESSES {
                steps.extend([Step::Say(auth.clone().into_bytes()), Step::Guess, Step::Hear(b"</failure>")]);
            }
            steps
        }
        Abuse::Connects => vec![Step::Say(header), Step::Hear(b"</stream:features>")],
        Abuse::Whitespace | Abuse::Presence | Abuse::Subscribe | Abuse::Searches | Abuse::Unread | Abuse::Hot => {
            return Err("that is for members".to_owned());
        }
    })
}

/// How far a step came.
enum Progress {
    /// It is done.
    Done,
    /// It waits.
    Waits,
    /// The connection has ended.
    Ended,
}

impl Stranger {
    /// Goes as far as it can without waiting; whether that is anywhere.
    pub(super) fn turn(&mut self, deeds: &mut Deeds) -> bool {
        let Some(mut socket) = self.socket.take() else {
            self.begin(deeds);
            return self.socket.is_some();
        };
        let Some(step) = self.script.get(self.step).cloned() else {
            deeds.scripts += 1;
            return true;
        };
        match self.go(&step, &mut socket, deeds) {
            Progress::Done => {
                (self.step, self.said, self.since) = (self.step + 1, 0, Instant::now());
                self.socket = Some(socket);
                true
            }
            Progress::Waits => {
                if self.since.elapsed() < STUCK {
                    self.socket = Some(socket);
                }
                false
            }
            Progress::Ended => {
                deeds.ended += 1;
                deeds.scripts += u64::from(matches!(step, Step::HearEnd));
                true
            }
        }
    }

    fn begin(&mut self, deeds: &mut Deeds) {
        (self.step, self.said, self.since) = (0, 0, Instant::now());
        self.heard.clear();
        let connect = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_nonblocking(true)?;
            match socket.connect(&SockAddr::from(self.server)) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
                Ok(()) | Err(_) => Ok(socket),
            }
        };
        match connect() {
            Ok(socket) => {
                deeds.connections += 1;
                self.socket = Some(socket);
            }
            Err(_) => deeds.ended += 1,
        }
    }

    fn go(&mut self, step: &Step, socket: &mut Socket, deeds: &mut Deeds) -> Progress {
        match step {
            Step::Say(bytes) => self.say(bytes, bytes.len(), socket, deeds),
            Step::Drip(bytes) => {
                let due = 1 + (self.since.elapsed().as_millis() / DRIP.as_millis()) as usize;
                let progress = self.say(bytes, due.min(bytes.len()), socket, deeds);
                let is_early = matches!(progress, Progress::Done) && self.said < bytes.len();
                if is_early { self.hear(socket, deeds) } else { progress }
            }
            Step::HearEnd => self.hear(socket, deeds),
            Step::Hear(wanted) => match self.heard_up_to(wanted) {
                Some(_) => Progress::Done,
                None => self.hear(socket, deeds),
            },
            Step::Guess => match self.heard_up_to(b"</challenge>") {
                Some(challenge) => {
                    let response = guess(&challenge).into_bytes();
                    self.said = 0;
                    self.say(&response, response.len(), socket, deeds)
                }
                None => self.hear(socket, deeds),
            },
        }
    }

    /// Says what is left of the first `until` bytes.
    fn say(&mut self, bytes: &[u8], until: usize, socket: &mut Socket, deeds: &mut Deeds) -> Progress {
        while let Some(rest) = bytes.get(self.said..until).filter(|rest| !rest.is_empty()) {
            match socket.write(rest) {
                Ok(count) => {
                    self.said += count;
                    deeds.written += count as u64;
                }
                Err(error) if is_wait(&error) => return Progress::Waits,
                Err(_) => return Progress::Ended,
            }
        }
        Progress::Done
    }

    fn hear(&mut self, socket: &mut Socket, deeds: &mut Deeds) -> Progress {
        let mut buffer = [0; 4096];
        match socket.read(&mut buffer) {
            Ok(0) => Progress::Ended,
            Ok(count) => {
                deeds.read += count as u64;
                if self.heard.len() > HEARD_BYTES_MAX {
                    self.heard.clear();
                }
                self.heard.extend_from_slice(buffer.get(..count).unwrap_or_default());
                Progress::Waits
            }
            Err(error) if is_wait(&error) => Progress::Waits,
            Err(_) => Progress::Ended,
        }
    }

    /// What was heard up to this and with it, if it was.
    fn heard_up_to(&mut self, wanted: &[u8]) -> Option<Vec<u8>> {
        let at = self.heard.windows(wanted.len()).position(|window| window == wanted)?;
        Some(self.heard.drain(..at + wanted.len()).collect())
    }
}

/// Whether the kernel has nothing, takes nothing, or is still connecting.
fn is_wait(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected | ErrorKind::Interrupted)
}

/// The response to a challenge, with a proof of the right length that proves nothing (RFC 5802 §5.1).
fn guess(challenge: &[u8]) -> String {
    let text = String::from_utf8_lossy(challenge);
    let encoded =
        text.rsplit_once("</challenge>").and_then(|(text, _)| text.rsplit_once('>')).map_or("", |(_, text)| text);
    let first = BASE64_STANDARD.decode(encoded).unwrap_or_default();
    let first = String::from_utf8_lossy(&first);
    let nonce = first.split(',').find_map(|part| part.strip_prefix("r=")).unwrap_or_default();
    let proof = BASE64_STANDARD.encode([0; 32]);
    let response = BASE64_STANDARD.encode(format!("c=biws,r={nonce},p={proof}"));
    format!("<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{response}</response>")
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use super::*;
    use crate::plan::Scenario;
    use crate::plan::tests::plan;

    #[test]
    fn a_guess_carries_the_servers_nonce() {
        let challenge = BASE64_STANDARD.encode("r=abuseXYZ,s=c2FsdA==,i=4096");
        let response = guess(format!("<challenge xmlns='x'>{challenge}</challenge>").as_bytes());
        let inner = response.split_once('>').unwrap().1.split_once('<').unwrap().0;
        let text = String::from_utf8(BASE64_STANDARD.decode(inner).unwrap()).unwrap();
        assert!(text.starts_with("c=biws,r=abuseXYZ,p="), "{text}");
    }

    #[test]
    fn a_stranger_begins_again_once_it_is_through() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(server) = listener.local_addr().unwrap() else { unreachable!("IPv4 was bound") };
        let mut plan = plan(Scenario::Idle, 1, 1, 1);
        plan.server = server;
        let mut all = strangers(Abuse::Malformed, &plan).unwrap();
        let serve = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut peer, _) = listener.accept().unwrap();
                let mut heard = Vec::new();
                while !heard.ends_with(b"</iq>") {
                    let mut byte = [0];
                    assert_eq!(peer.read(&mut byte).unwrap(), 1);
                    heard.extend_from_slice(&byte);
                }
                assert!(heard.starts_with(b"<?xml"));
                peer.write_all(b"</stream:stream>").unwrap();
            }
        });
        let mut deeds = Deeds::default();
        let begun = Instant::now();
        while deeds.scripts < 2 && begun.elapsed() < Duration::from_secs(10) {
            all.iter_mut().for_each(|stranger| {
                stranger.turn(&mut deeds);
            });
        }
        serve.join().unwrap();
        assert_eq!(deeds.scripts, 2);
        assert!(deeds.connections >= 2 && deeds.written > 0 && deeds.read > 0, "{deeds:?}");
    }
}
