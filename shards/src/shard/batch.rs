//! What passes between shards: a batch of handoffs per turn and target, many stanzas in one queue operation.
//!
//! A handoff carries the stanza as its recipient will read it, and beside it the few facts that delivery and an error
//! answer need, so that nobody scans it again.

use plaza_core::jid::JidRef;
use plaza_core::stanza::Class;

use super::session::SessionId;

/// Bytes of stanzas in a batch beyond which the senders wait.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;

/// Bytes of stanzas in a batch beyond which the broker's own, for which nobody can wait, are dropped.
pub const BATCH_OWN_BYTES_MAX: usize = 4 * BATCH_BYTES_MAX;

/// One entry of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) enum Handoff {
    /// A stanza for an account at home on the receiving shard.
    Stanza {
        /// Keyed hash of the bare JID it is for.
        hash: u64,
        class: Class,
        /// The session it came from, for back-pressure; `None` if the broker made it.
        origin: Option<SessionId>,
        /// Text lengths, in the order they lie in the batch's bytes: `to`, `from`, `id` as written, stanza.
        to_len: u16,
        from_len: u16,
        /// `None`: no id.
        id_len: Option<u32>,
        stanza_len: u32,
    },
    /// The session, at home on the receiving shard, should send no more: a recipient's outbox is full.
    Pause(SessionId),
    /// It may go on.
    Resume(SessionId),
}

/// A turn's handoffs from one shard to another.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) handoffs: Vec<Handoff>,
    pub(super) bytes: Vec<u8>,
}

impl Batch {
    /// Handoffs in it.
    pub fn len(&self) -> usize {
        self.handoffs.len()
    }

    /// Bytes of text in it.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.handoffs.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.handoffs.clear();
        self.bytes.clear();
        self.bytes.shrink_to(BATCH_BYTES_MAX * 2);
    }

    /// Appends a stanza; `write` appends its bytes.
    pub(super) fn stanza(
        &mut self,
        envelope: &Envelope<'_>,
        origin: Option<SessionId>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let to = envelope.to.as_str();
        self.bytes.extend_from_slice(to.as_bytes());
        self.bytes.extend_from_slice(envelope.from.as_bytes());
        if let Some(id) = envelope.id {
            self.bytes.extend_from_slice(id.as_bytes());
        }
        let before = self.bytes.len();
        write(&mut self.bytes);
        self.handoffs.push(Handoff::Stanza {
            hash: envelope.hash,
            class: envelope.class,
            origin,
            to_len: to.len() as u16,
            from_len: envelope.from.len() as u16,
            id_len: envelope.id.map(|id| id.len() as u32),
            stanza_len: (self.bytes.len() - before) as u32,
        });
    }
}

/// What delivery needs to know of a stanza.
#[derive(Debug, Clone, Copy)]
pub(super) struct Envelope<'a> {
    pub(super) class: Class,
    /// Keyed hash of `to`'s bare form.
    pub(super) hash: u64,
    pub(super) to: JidRef<'a>,
    /// Full JID of the sender, normal form.
    pub(super) from: &'a str,
    /// `id` as written.
    pub(super) id: Option<&'a str>,
}
