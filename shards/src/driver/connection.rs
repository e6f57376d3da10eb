//! A connection: a socket with its TLS, its stream's state and the bytes on their way. Lives on one shard at a time.

use std::os::fd::OwnedFd;
use std::time::Instant;

use plaza_core::jid::Jid;
use plaza_core::stream::{Need, Stream};
use plaza_core::xml::Scanner;

use super::tls::Tls;
use crate::admission::{Seat, Source, Tag};
use crate::ring::{Sending, Slot};
use crate::shard::SessionId;

/// How far a connection has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// TLS is being negotiated; on STARTTLS the stream waits inside.
    Handshake(Option<Box<Stream>>),
    /// The stream is being negotiated.
    Negotiating(Box<Stream>),
    /// A session is bound.
    Session(SessionId),
    /// Bytes are being written out, then the connection ends; what arrives is discarded.
    Closing,
    /// On its way to another shard.
    Leaving(Box<Stream>, Box<(Jid, Need)>),
}

/// What is armed for reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// Nothing.
    None,
    /// A receive that completes once.
    Once,
    /// A receive that goes on, for sessions with traffic.
    Multi,
    /// Only a poll: the cheapest, for idle sessions.
    Poll,
    /// A multishot receive being cancelled.
    Cancelling,
    /// Nothing: it can be read, and waits for its turn.
    Waiting,
}

/// Bytes read and not yet taken: the start of an element, or input that has to wait. `scanner` knows how far it is.
#[derive(Debug, Default)]
pub(super) struct Carry {
    bytes: Vec<u8>,
    /// How many of them are taken.
    taken: usize,
    pub(super) scanner: Scanner,
}

/// Facts of a connection that are true or not.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Flags {
    /// Input is not fed until the shard says so.
    pub(super) paused: bool,
    /// Input is not fed until what came is paid for ([`super::pace::Pace`]).
    pub(super) shaped: bool,
    /// It was refused something, and neither told so nor heard for a while: see [`super::held`].
    pub(super) held: bool,
    /// On the ready list.
    pub(super) ready: bool,
    /// On the flush list.
    pub(super) flushing: bool,
    /// A send is in flight.
    pub(super) sending: bool,
    /// The last words, close_notify included, were handed to the kernel.
    pub(super) said: bool,
    /// The socket's close was submitted.
    pub(super) closed: bool,
    /// On the list of those with an armed multishot receive.
    pub(super) hot: bool,
    /// The last two reads were less than a second apart.
    pub(super) busy: bool,
    /// Bound, and nothing arrived since.
    pub(super) fresh: bool,
    /// Counted among those being negotiated.
    pub(super) unauthenticated: bool,
    /// The socket is being exported to another shard.
    pub(super) exporting: bool,
    /// Its turn has come once: the TLS handshake may go on.
    pub(super) greeted: bool,
    /// It has broken, and its session ends in a turn to come.
    pub(super) lost: bool,
    /// There was more to read than the last receive took.
    pub(super) bulky: bool,
    /// The peer says no more; it ends once what it said has been taken.
    pub(super) ended: bool,
}

impl Flags {
    /// Whether input has to wait, for whatever reason.
    pub(super) const fn waits(self) -> bool {
        self.paused || self.shaped || self.held
    }
}

/// A connection of this shard.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) phase: Phase,
    pub(super) tls: Option<Box<Tls>>,
    pub(super) carry: Option<Box<Carry>>,
    /// Negotiation's answers, or a session's last words; a session's own bytes wait in the shard's outbox.
    pub(super) out: Vec<u8>,
    pub(super) sending: Sending,
    pub(super) slot: Slot,
    pub(super) generation: u32,
    /// Operations the kernel has not completed.
    pub(super) operations: u16,
    pub(super) listener: u16,
    /// Tick at which the phase is given up; 0 for none.
    pub(super) due: u32,
    /// Tick of the last bytes that arrived.
    pub(super) active: u32,
    /// Tick since which a send makes no progress.
    pub(super) sending_since: u32,
    /// Tick since which an element, or the record it comes in, is incomplete. Not moved by what is sent meanwhile.
    pub(super) partial_since: u32,
    /// Where it comes from.
    pub(super) source: Source,
    /// Where its source is counted, until it has logged in.
    pub(super) seat: Option<Seat>,
    /// When all that a session sent is paid for, in ns since the shard's start.
    pub(super) paid_ns: u64,
    /// Against what a failure of the login under way counts.
    pub(super) tag: Option<Tag>,
    pub(super) reading: Reading,
    pub(super) flags: Flags,
    /// What it was last counted with.
    pub(super) counted: Counted,
}

impl Connection {
    /// Whether some of what it said has yet to be looked at.
    pub(super) const fn has_more(&self) -> bool {
        self.carry.is_some() && (self.flags.ready || self.flags.waits())
    }

    /// Whether the start of an element or of a TLS record waits for its rest.
    pub(super) fn is_partial(&self) -> bool {
        self.carry.is_some() || self.tls.as_ref().is_some_and(|tls| tls.is_partial())
    }

    /// User-space bytes it holds, its slab entry included.
    pub(super) fn bytes(&self) -> usize {
        self.own_bytes() + self.tls_bytes()
    }

    fn tls_bytes(&self) -> usize {
        self.tls.as_ref().map_or(0, |tls| tls.bytes())
    }

    fn own_bytes(&self) -> usize {
        let carry = self.carry.as_ref().map_or(0, |carry| carry.held());
        let stream = match &self.phase {
            Phase::Handshake(Some(_)) | Phase::Negotiating(_) | Phase::Leaving(..) => size_of::<Stream>(),
            Phase::Handshake(None) | Phase::Session(_) | Phase::Closing => 0,
        };
        size_of::<Self>() + stream + self.out.capacity() + self.sending.left() + carry
    }

    /// Input that is held of it: the start of an element, or of a TLS record or handshake message.
    pub(super) fn input_bytes(&self) -> usize {
        let carry = self.carry.as_ref().map_or(0, |carry| carry.rest().len());
        carry + self.tls.as_ref().map_or(0, |tls| tls.partial_bytes())
    }

    /// What it holds now.
    pub(super) fn count(&self) -> Counted {
        let bytes = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let negotiating = self.flags.unauthenticated;
        Counted { own: bytes(self.own_bytes()), tls: bytes(self.tls_bytes()), negotiating }
    }
}

/// Bytes a connection is counted with ([`crate::memory::Subsystem`]).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    /// Its entry, its stream, and what waits on either side.
    pub(super) own: u32,
    /// Its TLS.
    pub(super) tls: u32,
    /// Both are those of a connection that is being negotiated.
    pub(super) negotiating: bool,
}

impl Carry {
    /// What is not taken.
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The same, and takes no more memory than they need.
    pub(super) fn push_exact(&mut self, bytes: &[u8]) {
        self.bytes.reserve_exact(bytes.len());
        self.push(bytes);
    }

    /// The first of them are done with. Moves the others only when they are the fewer.
    pub(super) fn take(&mut self, count: usize) {
        self.taken += count;
        if self.taken * 2 >= self.bytes.len() {
            self.bytes.drain(..self.taken.min(self.bytes.len()));
            self.taken = 0;
        }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.taken = 0;
        self.scanner.reset();
    }

    /// Bytes it has room for.
    pub(super) const fn room(&self) -> usize {
        self.bytes.capacity()
    }

    /// User-space bytes it holds.
    fn held(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity() + self.scanner.heap_bytes()
    }
}

/// A connection on its way to its account's home shard, between the client naming the account and our challenge.
#[derive(Debug)]
pub struct Migrant {
    pub(super) fd: OwnedFd,
    pub(super) tls: Option<Box<Tls>>,
    pub(super) stream: Box<Stream>,
    pub(super) carry: Option<Box<Carry>>,
    pub(super) listener: u16,
    pub(super) account: Jid,
    pub(super) need: Need,
    pub(super) deadline: Instant,
    pub(super) source: Source,
    pub(super) seat: Option<Seat>,
}

const _: () = assert!(size_of::<Connection>() <= 192, "an idle connection's entry stays small");
