//! A client that says what it is told to, byte for byte, in clear or under TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use plaza_core::sasl::client::ScramClient;
use plaza_core::sasl::scram::Hash;
use rustls::{ClientConfig, ClientConnection};
use sha2::{Digest as _, Sha256};
use socket2::{Domain, Socket, Type};

use crate::broker::{Broker, PASSWORD, PATIENCE};

/// A stream header as most clients send it.
pub(crate) const HEADER: &str = "<?xml version='1.0'?><stream:stream to='localhost' version='1.0' \
    xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";
/// The namespace of SASL's elements.
pub(crate) const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
/// The request for TLS.
pub(crate) const STARTTLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
/// How long one read waits.
const READ_TIMEOUT: Duration = Duration::from_millis(200);

/// A connection.
pub(crate) struct Wire {
    pub(crate) socket: TcpStream,
    pub(crate) tls: Option<Box<ClientConnection>>,
    /// Read and not yet taken.
    seen: Vec<u8>,
    /// Why reading ended, other than by the peer's orderly close.
    pub(crate) broken: Option<io::Error>,
}

impl Wire {
    /// Connects to a port.
    pub(crate) fn connect(port: u16) -> Self {
        Self::connect_from([127, 0, 0, 1], port)
    }

    /// Connects to a port from another of this host's addresses.
    pub(crate) fn connect_from(source: [u8; 4], port: u16) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
        let socket = TcpStream::from(socket);
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { socket, tls: None, seen: Vec::new(), broken: None }
    }

    /// Connects and opens a stream, up to its features.
    pub(crate) fn open(port: u16) -> Self {
        let mut wire = Self::connect(port);
        wire.begin();
        wire
    }

    /// Asks for TLS, up to the permission to begin with it.
    pub(crate) fn proceed(port: u16) -> Self {
        let mut wire = Self::open(port);
        wire.send(STARTTLS);
        wire.until("<proceed");
        wire.until("/>");
        wire
    }

    /// Does the handshake over what is connected.
    pub(crate) fn secure(mut self, config: ClientConfig, name: &'static str) -> io::Result<Self> {
        let mut tls = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        self.socket.set_read_timeout(Some(PATIENCE))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut self.socket)?;
        }
        while tls.wants_write() {
            tls.write_tls(&mut self.socket)?;
        }
        self.socket.set_read_timeout(Some(READ_TIMEOUT))?;
        self.tls = Some(Box::new(tls));
        Ok(self)
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
        Self::authenticated(broker, user).bind(user, resource)
    }

    /// Logs in, binds and becomes available.
    pub(crate) fn available(broker: &Broker, user: &str, resource: &str) -> Self {
        let mut wire = Self::login(broker, user, resource);
        wire.send("<presence/>");
        wire.ping();
        wire
    }

    /// Opens a stream, up to its features, which are returned.
    pub(crate) fn begin(&mut self) -> String {
        self.send(HEADER);
        self.until("</stream:features>")
    }

    /// Opens the stream that follows a login, and binds a resource.
    pub(crate) fn bind(mut self, user: &str, resource: &str) -> Self {
        self.begin();
        self.send(bind(resource));
        let bound = self.until("</iq>");
        assert!(bound.contains(&format!("<jid>{user}@localhost/{resource}</jid>")), "{bound}");
        self
    }

    /// SCRAM-SHA-256; returns the broker's last word, with the proof of its own checked.
    pub(crate) fn scram(&mut self, user: &str, password: &str) -> String {
        self.scram_bound("SCRAM-SHA-256", user, password, None)
    }

    /// The same with the type and data of a channel binding.
    pub(crate) fn scram_bound(
        &mut self,
        mechanism: &str,
        user: &str,
        password: &str,
        binding: Option<(&str, &[u8])>,
    ) -> String {
        let hash = if mechanism.contains("SHA-256") { Hash::Sha256 } else { Hash::Sha1 };
        let (mut client, first) = ScramClient::start(hash, user, password, &nonce(), binding);
        self.send(auth(mechanism, &first));
        let said = self.until_any(&["</challenge>", "</failure>"]);
        if said.contains("<failure") {
            return said;
        }
        self.send(response(&client.answer(&decode(&said), None).expect("a challenge to answer")));
        let last = self.until_any(&["</success>", "</failure>"]);
        assert!(!last.contains("<success") || client.verify(&decode(&last)), "the server's proof is wrong: {last}");
        last
    }

    /// What `tls-exporter` (RFC 9266) or `tls-server-end-point` (RFC 5929 §4) binds to on this connection, whose
    /// certificate is signed with SHA-256.
    pub(crate) fn binding(&self, kind: &str) -> Vec<u8> {
        let tls = self.tls.as_ref().expect("TLS to bind to");
        match kind {
            "tls-exporter" => tls
                .export_keying_material(vec![0; 32], b"EXPORTER-Channel-Binding", None)
                .expect("a finished handshake"),
            "tls-server-end-point" => Sha256::digest(&tls.peer_certificates().unwrap()[0]).to_vec(),
            other => panic!("what is {other}?"),
        }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.write(bytes.as_ref()).unwrap();
    }

    /// Sends what the broker may refuse to read to its end.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.write(bytes.as_ref());
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            None => self.socket.write_all(bytes),
            Some(tls) => {
                let mut stream = rustls::Stream::new(&mut **tls, &mut self.socket);
                stream.write_all(bytes)?;
                stream.flush()
            }
        }
    }

    /// Opens a stream, if the broker has not closed the connection.
    pub(crate) fn is_heard(&mut self) -> bool {
        self.try_send(HEADER);
        let deadline = Instant::now() + PATIENCE;
        while find(&self.seen, "</stream:features>").is_none() {
            assert!(Instant::now() < deadline, "neither heard nor closed");
            if !self.read() {
                return false;
            }
        }
        self.until("</stream:features>");
        true
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
            assert!(open, "closed while waiting for {ends:?}: {seen} {:?}", self.broken);
            assert!(Instant::now() < deadline, "waited too long for {ends:?}: {seen}");
        }
    }

    /// Everything up to the end the broker puts to the connection. A stream that is closed is closed on this side too, as
    /// a client should (RFC 6120 §4.4).
    pub(crate) fn drain(&mut self) -> String {
        String::from_utf8_lossy(&self.drain_bytes()).into_owned()
    }

    /// The same, as it is on the wire.
    pub(crate) fn drain_bytes(&mut self) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        let mut finished = false;
        while self.read() {
            assert!(Instant::now() < deadline, "not closed: {}", String::from_utf8_lossy(&self.seen));
            if !finished && self.seen.ends_with(b"</stream:stream>") {
                finished = true;
                self.finish();
            }
        }
        std::mem::take(&mut self.seen)
    }

    /// What has come by now, or comes in the time that one read waits, and whether the connection is still open.
    pub(crate) fn take(&mut self) -> (String, bool) {
        let open = self.read();
        let whole = std::str::from_utf8(&self.seen).map_or_else(|error| error.valid_up_to(), str::len);
        let rest = self.seen.split_off(whole);
        (String::from_utf8(std::mem::replace(&mut self.seen, rest)).expect("UTF-8"), open)
    }

    /// Reads what there is; whether the connection is still open.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let read = match &mut self.tls {
            None => self.socket.read(&mut buffer),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.socket).read(&mut buffer),
        };
        match read {
            Ok(0) => false,
            Ok(count) => {
                self.seen.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) => {
                let goes_on =
                    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted);
                if !goes_on {
                    self.broken = Some(error);
                }
                goes_on
            }
        }
    }

    /// Whether the broker has ended the stream or the connection by now.
    pub(crate) fn ended(&mut self) -> bool {
        self.socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let open = self.read();
        self.socket.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        !open || self.seen.ends_with(b"</stream:stream>")
    }

    /// Whether the broker has said nothing that was not taken.
    pub(crate) fn is_silent(&self) -> bool {
        self.seen.is_empty()
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
    pub(crate) fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = tls.write_tls(&mut self.socket);
        }
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

/// A request for a resource.
pub(crate) fn bind(resource: &str) -> String {
    format!(
        "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>{resource}</resource></bind></iq>"
    )
}

/// An attempt to log in.
pub(crate) fn auth(mechanism: &str, message: &str) -> String {
    format!("<auth xmlns='{SASL}' mechanism='{mechanism}'>{}</auth>", STANDARD.encode(message))
}

/// Its next message.
pub(crate) fn response(message: &str) -> String {
    format!("<response xmlns='{SASL}'>{}</response>", STANDARD.encode(message))
}

/// A nonce nobody had before.
pub(crate) fn nonce() -> String {
    static NONCES: AtomicU64 = AtomicU64::new(0);
    format!("fyko-{}", NONCES.fetch_add(1, Ordering::Relaxed))
}

/// The Base64 text of an element.
pub(crate) fn decode(element: &str) -> String {
    let text = element.rsplit_once("</").and_then(|(before, _)| before.rsplit_once('>')).map_or("", |(_, text)| text);
    String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
}

fn find(haystack: &[u8], needle: &str) -> Option<usize> {
    memmem::find(haystack, needle.as_bytes())
}
