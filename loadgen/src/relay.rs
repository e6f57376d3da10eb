//! The raw relay: what the kernel alone costs. Connection 2k gets what connection 2k + 1 sends, and the reverse; no byte
//! is looked at. The floor every report divides by.
//!
//! A connection opens with its number (4 bytes, little endian), which is echoed once it is known; all else is passed on.
//! Accept and recv are multishot into direct descriptors and provided buffers, and each connection gets one coalesced
//! send per turn.

use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddrV4, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::ring::{self, Event, Ring, RingSettings};

/// How long a turn sleeps at most before it looks whether to stop.
const NAP: Duration = Duration::from_millis(100);
const HELLO_BYTES: usize = 4;

/// One connection.
#[derive(Debug, Default)]
struct Connection {
    number: Option<u32>,
    /// Bytes of a hello that came in pieces.
    hello: Vec<u8>,
    outbox: Vec<u8>,
    sending: bool,
    dirty: bool,
}

/// Relays until `stop`, on the calling thread.
///
/// # Errors
/// What the kernel said.
pub(crate) fn serve(listener: &TcpListener, slots: u32, stop: &AtomicBool) -> io::Result<()> {
    let settings = RingSettings { slots, entries: 4096, buffers: 1024, buffer_bytes: 4096 };
    let mut relay = Relay {
        ring: Ring::new(settings)?,
        connections: (0..slots).map(|_| Connection::default()).collect(),
        slot_of: Vec::new(),
        dirty: Vec::new(),
        rearm: Vec::new(),
        spare: Vec::new(),
    };
    relay.ring.accept(listener);
    let mut events = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        relay.ring.submit(Some(NAP))?;
        relay.ring.reap(&mut events);
        for event in events.drain(..) {
            relay.on_event(event, listener);
        }
        relay.flush();
    }
    Ok(())
}

struct Relay {
    ring: Ring,
    connections: Vec<Connection>,
    /// Slot by number.
    slot_of: Vec<Option<u32>>,
    dirty: Vec<u32>,
    rearm: Vec<u32>,
    spare: Vec<Vec<u8>>,
}

impl Relay {
    fn on_event(&mut self, event: Event, listener: &TcpListener) {
        match event {
            Event::Accepted(slot) => {
                if let Some(connection) = self.connections.get_mut(slot as usize) {
                    *connection = Connection::default();
                }
                self.ring.no_delay(slot);
                self.ring.receive_all(slot);
            }
            Event::AcceptEnded => self.ring.accept(listener),
            Event::Received(slot, lent, more) => {
                let Self { ring, connections, slot_of, dirty, spare, .. } = self;
                pass_on(connections, slot_of, dirty, spare, slot, ring.bytes(&lent));
                ring.recycle(lent);
                if !more {
                    self.rearm.push(slot);
                }
            }
            Event::Starved(slot) => self.rearm.push(slot),
            Event::Ended(slot, _) => {
                if let Some(connection) = self.connections.get_mut(slot as usize) {
                    let number = connection.number.take();
                    if let Some(known) = number.and_then(|number| self.slot_of.get_mut(number as usize)) {
                        *known = None;
                    }
                }
                self.ring.close(slot);
            }
            Event::Sent(slot, error, mut buffer) => {
                buffer.clear();
                self.spare.push(buffer);
                if let Some(connection) = self.connections.get_mut(slot as usize) {
                    connection.sending = false;
                    if error != 0 {
                        connection.outbox = Vec::new();
                    } else if !connection.outbox.is_empty() {
                        mark(connection, &mut self.dirty, slot);
                    }
                }
            }
            Event::Connected(..) | Event::Readable(_) => {}
        }
    }

    /// One send for each connection that has something to say and none in flight.
    fn flush(&mut self) {
        for slot in self.dirty.drain(..) {
            let Some(connection) = self.connections.get_mut(slot as usize) else { continue };
            connection.dirty = false;
            if !connection.sending && !connection.outbox.is_empty() {
                connection.sending = true;
                self.ring.send(slot, std::mem::take(&mut connection.outbox));
            }
        }
        for slot in self.rearm.drain(..) {
            self.ring.receive_all(slot);
        }
    }
}

fn mark(connection: &mut Connection, dirty: &mut Vec<u32>, slot: u32) {
    if !std::mem::replace(&mut connection.dirty, true) {
        dirty.push(slot);
    }
}

/// Appends what arrived to the partner's outbox, once the connection has said which it is.
fn pass_on(
    connections: &mut [Connection],
    slot_of: &mut Vec<Option<u32>>,
    dirty: &mut Vec<u32>,
    spare: &mut Vec<Vec<u8>>,
    slot: u32,
    mut bytes: &[u8],
) {
    let Some(connection) = connections.get_mut(slot as usize) else { return };
    let number = match connection.number {
        Some(number) => number,
        None => {
            let missing = HELLO_BYTES.saturating_sub(connection.hello.len()).min(bytes.len());
            let (head, rest) = bytes.split_at(missing);
            connection.hello.extend_from_slice(head);
            let Ok(hello) = <[u8; HELLO_BYTES]>::try_from(connection.hello.as_slice()) else { return };
            let number = u32::from_le_bytes(hello);
            connection.number = Some(number);
            connection.outbox.extend_from_slice(&hello);
            mark(connection, dirty, slot);
            let number_index = number as usize;
            if number_index >= slot_of.len() && number_index <= connections.len() * 2 {
                slot_of.resize(number_index + 1, None);
            }
            if let Some(known) = slot_of.get_mut(number_index) {
                *known = Some(slot);
            }
            bytes = rest;
            number
        }
    };
    if bytes.is_empty() {
        return;
    }
    let Some(&Some(partner)) = slot_of.get((number ^ 1) as usize) else { return };
    let Some(connection) = connections.get_mut(partner as usize) else { return };
    if connection.outbox.capacity() == 0 {
        connection.outbox = spare.pop().unwrap_or_default();
    }
    connection.outbox.extend_from_slice(bytes);
    mark(connection, dirty, partner);
}

/// `plaza-loadgen relay`: serves on `listen` until killed or standard input ends, and says where.
///
/// # Errors
/// What the kernel said.
pub(crate) fn run(listen: SocketAddrV4, cpu: Option<usize>) -> io::Result<()> {
    let descriptors = ring::raise_descriptors();
    ring::pin(cpu)?;
    let listener = TcpListener::bind(listen)?;
    println!("listening on {}", listener.local_addr()?);
    let slots = descriptors.saturating_sub(16).min(65_536) as u32;
    serve(&listener, slots, &AtomicBool::new(false))
}

/// A relay in a process of its own, so that its CPU time is read exactly as a broker's. Ends when dropped.
#[derive(Debug)]
pub(crate) struct RelayProcess {
    child: Child,
    /// Where it listens.
    pub address: SocketAddrV4,
}

impl RelayProcess {
    /// Starts this program as relay on a free loopback port, pinned to `cpu` if given.
    ///
    /// # Errors
    /// What the system said, or that the relay said nothing.
    pub(crate) fn start(cpu: Option<usize>) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["relay", "--listen", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::piped());
        if let Some(cpu) = cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        let mut child = command.spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        match line.trim().strip_prefix("listening on ").and_then(|address| address.parse().ok()) {
            Some(address) => Ok(Self { child, address }),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                Err(io::Error::other(format!("the relay did not start: {line:?}")))
            }
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn partners_hear_each_other_and_nobody_else() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| serve(&listener, 16, &stop).unwrap());
            let mut all: Vec<TcpStream> = [2_u32, 3, 0, 1]
                .iter()
                .map(|number| {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                    stream.write_all(&number.to_le_bytes()[..1]).unwrap();
                    std::thread::sleep(Duration::from_millis(5));
                    stream.write_all(&number.to_le_bytes()[1..]).unwrap();
                    let mut echo = [0; 4];
                    stream.read_exact(&mut echo).unwrap();
                    assert_eq!(u32::from_le_bytes(echo), *number);
                    stream
                })
                .collect();
            for (speaker, listener) in [(0, 1), (1, 0), (2, 3), (3, 2)] {
                let text = format!("from {speaker}").repeat(1000);
                all[speaker].write_all(text.as_bytes()).unwrap();
                let mut heard = vec![0; text.len()];
                all[listener].read_exact(&mut heard).unwrap();
                assert_eq!(heard, text.as_bytes());
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
