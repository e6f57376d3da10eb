//! A client that says what it is told to, byte for byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use plaza_core::sasl::client::ScramClient;
use plaza_core::sasl::scram::Hash;

use crate::broker::{Broker, PASSWORD, PATIENCE};

/// A stream header as most clients send it.
pub(crate) const HEADER: &str = "<?xml version='1.0'?><stream:stream to='localhost' version='1.0' \
    xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";

/// A connection in clear.
pub(crate) struct Wire {
    pub(crate) socket: TcpStream,
    /// Read and not yet taken.
    seen: Vec<u8>,
}

impl Wire {
    /// Connects to a port.
    pub(crate) fn connect(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { socket, seen: Vec::new() }
    }

    /// Connects and opens a stream, up to its features.
    pub(crate) fn open(port: u16) -> Self {
        let mut wire = Self::connect(port);
        wire.send(HEADER);
        wire.until("</stream:features>");
        wire
    }

    /// Opens a stream and logs in, up to the header that must follow.
    pub(crate) fn authenticated(broker: &Broker, user: &str) -> Self {
        let mut wire = Self::open(broker.plain);
        let last = wire.scram(user, PASSWORD);
        assert!(last.contains("<success"), "{last}");
        wire
    }

    /// Logs in and binds a resource.
    pub(crate) fn login(broker: &Broker, user: &str, resource: &str) -> Self {
        let mut wire = Self::authenticated(broker, user);
        wire.send(HEADER);
        wire.until("</stream:features>");
        wire.send(format!(
            "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>{resource}</resource></bind></iq>"
        ));
        let bound = wire.until("</iq>");
        assert!(bound.contains(&format!("<jid>{user}@localhost/{resource}</jid>")), "{bound}");
        wire
    }

    /// Logs in, binds and becomes available.
    pub(crate) fn available(broker: &Broker, user: &str, resource: &str) -> Self {
        let mut wire = Self::login(broker, user, resource);
        wire.send("<presence/>");
        wire.ping();
        wire
    }

    /// SCRAM-SHA-256; returns the broker's last word, with the proof of its own checked.
    pub(crate) fn scram(&mut self, user: &str, password: &str) -> String {
        static NONCES: AtomicU64 = AtomicU64::new(0);
        let nonce = format!("fyko-{}", NONCES.fetch_add(1, Ordering::Relaxed));
        let (mut client, first) = ScramClient::start(Hash::Sha256, user, password, &nonce, None);
        let first = STANDARD.encode(first);
        self.send(format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-256'>{first}</auth>"));
        let challenge = decode(&self.until("</challenge>"));
        let answer = STANDARD.encode(client.answer(&challenge, None).expect("a challenge to answer"));
        self.send(format!("<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{answer}</response>"));
        let last = self.until_any(&["</success>", "</failure>"]);
        assert!(!last.contains("<success") || client.verify(&decode(&last)), "the server's proof is wrong: {last}");
        last
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends what the broker may refuse to read to its end.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.socket.write_all(bytes.as_ref());
    }

    /// Everything up to and with the first `end`.
    pub(crate) fn until(&mut self, end: &str) -> String {
        self.until_any(&[end])
    }

    /// Everything up to and with whatever of `ends` comes first.
    pub(crate) fn until_any(&mut self, ends: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        let overlap = ends.iter().map(|end| end.len()).max().unwrap_or(0);
        let mut searched = 0;
        loop {
            let from = usize::saturating_sub(searched, overlap);
            let found = ends.iter().filter_map(|end| Some(from + find(&self.seen[from..], end)? + end.len())).min();
            searched = self.seen.len();
            if let Some(to) = found {
                let rest = self.seen.split_off(to);
                return String::from_utf8(std::mem::replace(&mut self.seen, rest)).expect("UTF-8");
            }
            let open = self.read();
            let seen = String::from_utf8_lossy(&self.seen);
            assert!(open, "closed while waiting for {ends:?}: {seen}");
            assert!(Instant::now() < deadline, "waited too long for {ends:?}: {seen}");
        }
    }

    /// Everything up to the end the broker puts to the connection.
    pub(crate) fn drain(&mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        while self.read() {
            assert!(Instant::now() < deadline, "not closed: {}", String::from_utf8_lossy(&self.seen));
        }
        String::from_utf8_lossy(&std::mem::take(&mut self.seen)).into_owned()
    }

    /// Reads what there is; whether the connection is still open.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.socket.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.seen.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted),
        }
    }

    /// Asks the broker for a sign of life; returns what came before the answer.
    pub(crate) fn ping(&mut self) -> String {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = format!("ping-{}", IDS.fetch_add(1, Ordering::Relaxed));
        self.send(format!("<iq type='get' id='{id}'><ping xmlns='urn:xmpp:ping'/></iq>"));
        let mut before = self.until(&id);
        before.truncate(before.rfind("<iq").unwrap_or(0));
        self.until_any(&["/>", "</iq>"]);
        before
    }

    /// Asks something, of its own account if `to` is ""; returns what came until the answer, and that.
    pub(crate) fn ask(&mut self, iq_type: &str, to: &str, payload: &str) -> String {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = format!("ask-{}", IDS.fetch_add(1, Ordering::Relaxed));
        let to = if to.is_empty() { String::new() } else { format!(" to='{to}'") };
        self.send(format!("<iq type='{iq_type}' id='{id}'{to}>{payload}</iq>"));
        let mut said = self.until(&format!("id='{id}'"));
        said.push_str(&self.until("</iq>"));
        said
    }

    /// No more will be sent.
    pub(crate) fn finish(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

fn decode(element: &str) -> String {
    let text = element.rsplit_once("</").and_then(|(before, _)| before.rsplit_once('>')).map_or("", |(_, text)| text);
    String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
}

fn find(haystack: &[u8], needle: &str) -> Option<usize> {
    memmem::find(haystack, needle.as_bytes())
}
