//! A session: a bound stream, one full JID, from bind to unbind. Lives on its account's home shard.

use plaza_core::jid::Jid;
use plaza_core::xml::StreamNamespaces;

use plaza_registry::directory::Nodes;

use super::caps::Learning;
use super::late::Late;
use super::managed::Managed;
use super::things::Unanswered;
use crate::mesh::ShardId;
use crate::ring::Key;

/// Names a session of one shard; a reused slab index is told apart by the generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl SessionId {
    /// As a number that fits beside a bit of the driver's.
    pub(crate) fn to_token(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// From such a number.
    pub(crate) fn from_token(token: u64) -> Self {
        Self { index: token as u32, generation: (token >> 32) as u32 }
    }
}

/// What few sessions have, kept out of the many.
#[derive(Debug, Default)]
pub(super) struct Extras {
    /// Namespaces of a stream header that declared more than the usual two.
    pub(super) namespaces: StreamNamespaces,
    /// Default language of the stream (RFC 6120 §4.7.4).
    pub(super) lang: Option<Box<str>>,
    /// The last available presence, as written for a recipient but for `to`; `None` if it was plain `<presence/>`.
    pub(super) presence: Option<Box<str>>,
    /// Whom directed presence was sent to (RFC 6121 §4.6).
    pub(super) directed: Vec<Jid>,
    /// Senders that wait for this session's outbox to drain.
    pub(super) waiters: Vec<Waiter>,
    /// Kept messages, by number and bytes, that were given to it and are forgotten once they are written.
    pub(super) given: Vec<(u64, u64)>,
    /// What it waits for that concerns its client's capabilities (XEP-0115): one thing at a time.
    pub(super) learning: Option<Learning>,
    /// Nodes its client wants to be told of (XEP-0163 §4.3).
    pub(super) notified: Option<Nodes>,
    /// What it was told of its things, or asked, and has not answered.
    pub(super) unanswered: Vec<Unanswered>,
    /// Presence held while its user looks away: sender and stanza.
    pub(super) held: Vec<(Box<str>, Box<[u8]>)>,
    /// An answer that it is given late.
    pub(super) late: Option<Late>,
}

/// Who waits for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiter {
    /// A session here; its stanza was not taken.
    Local(SessionId),
    /// A session of another shard; its stanza was taken, more should not come.
    Remote(ShardId, SessionId),
}

/// Senders elsewhere that are taken from beyond a full outbox, for the moment until they have heard that they should wait.
pub(super) const UNDER_WAY_MAX: usize = 64;

/// Whether what comes from a sender elsewhere may have been under way before it could know of a full outbox: it was asked
/// to wait, or is one of the few that still can be.
pub(super) fn is_under_way(waiters: &[Waiter], shard: ShardId, sender: SessionId) -> bool {
    let elsewhere = waiters.iter().filter(|waiter| matches!(waiter, Waiter::Remote(..))).count();
    elsewhere < UNDER_WAY_MAX || waiters.contains(&Waiter::Remote(shard, sender))
}

/// Facts of a session that are true or not.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Flags {
    /// On the dirty list.
    pub(super) dirty: bool,
    /// A service owes it an answer: until then no stanza of its is taken, whoever resumes it for another reason.
    pub(super) awaits: bool,
    /// A stanza of its was not taken: its input is not read, acknowledgements in it neither.
    pub(super) stalled: bool,
    /// Waits for room in the batch to some shard.
    pub(super) waits_for_mesh: bool,
    /// Wants copies of its account's messages (XEP-0280).
    pub(super) carbons: bool,
    /// Its user looks away (XEP-0352).
    pub(super) inactive: bool,
    /// Asked for the roster: gets pushes (RFC 6121 §2.2).
    pub(super) interested: bool,
    /// Asked for the block list: gets pushes (XEP-0191 §3.3).
    pub(super) blocklist_interested: bool,
    /// Available, and nobody has been told yet.
    pub(super) arriving: bool,
    /// Taken out of its account; the connection is being ended.
    pub(super) ended: bool,
    /// Its contacts are not told of its presence yet, for want of memory.
    pub(super) withheld: bool,
}

/// Bytes a session is counted with ([`crate::memory::Subsystem`]).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    /// Its entry, its address and its extras.
    pub(super) own: u32,
    /// Its outbox, and what its client has not acknowledged.
    pub(super) waiting: u32,
    /// Both are those of a session that waits to be resumed.
    pub(super) hibernated: bool,
}

impl Counted {
    pub(super) fn all(self) -> u64 {
        u64::from(self.own) + u64::from(self.waiting)
    }
}

/// A bound stream.
#[derive(Debug)]
pub(super) struct Session {
    /// Full JID.
    pub(super) jid: Jid,
    /// The connection that carries it.
    pub(super) connection: Key,
    /// Bytes awaiting a write; owns memory only while there are some.
    pub(super) outbox: Vec<u8>,
    /// Bytes handed to the driver and not yet sent.
    pub(super) in_flight: u32,
    /// Index of its account.
    pub(super) account: u32,
    pub(super) generation: u32,
    /// Recipients elsewhere that asked it to send no more.
    pub(super) paused: u16,
    /// Priority of its last available presence; `None` before initial presence and after unavailable.
    pub(super) priority: Option<i8>,
    pub(super) flags: Flags,
    /// What it was last counted with.
    pub(super) counted: Counted,
    /// Its stream management, if the client asked for it.
    pub(super) managed: Option<Box<Managed>>,
    pub(super) extras: Option<Box<Extras>>,
}

impl Session {
    /// Bytes on their way to the client.
    pub(super) fn unsent(&self) -> usize {
        self.outbox.len() + self.in_flight as usize
    }

    /// Whether somebody waits until its outbox has room.
    pub(super) fn is_waited_for(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| !extras.waiters.is_empty())
    }

    pub(super) fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    /// User-space bytes this session holds beside its slab entry.
    pub(super) fn heap_bytes(&self) -> usize {
        self.own_bytes() + self.waiting_bytes()
    }

    /// Of these, what waits for its client.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.outbox.capacity() + self.managed.as_ref().map_or(0, |managed| managed.heap_bytes())
    }

    fn own_bytes(&self) -> usize {
        let extras = self.extras.as_ref().map_or(0, |extras| {
            size_of::<Extras>()
                + extras.presence.as_ref().map_or(0, |text| text.len())
                + extras.directed.capacity() * size_of::<Jid>()
                + extras.waiters.capacity() * size_of::<Waiter>()
                + extras.late.as_ref().map_or(0, Late::heap_bytes)
        });
        self.jid.as_str().len() + 16 + extras
    }

    /// What it holds now, its slab entry included.
    pub(super) fn count(&self) -> Counted {
        let bytes = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Counted {
            own: bytes(size_of::<Self>() + self.own_bytes()),
            waiting: bytes(self.waiting_bytes()),
            hibernated: self.managed.as_ref().is_some_and(|managed| managed.is_hibernated()),
        }
    }
}
