//! What passes between shards: a batch of handoffs per turn and target, many stanzas in one queue operation.
//!
//! A handoff carries the stanza as its recipient will read it, and beside it the few facts that delivery and an error
//! answer need, so that nobody scans it again.

use plaza_core::jid::JidRef;
use plaza_core::stanza::{Class, PresenceType};

use super::session::SessionId;

/// Bytes of stanzas in a batch beyond which the senders wait.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;

/// Bytes of stanzas in a batch beyond which the broker's own, for which nobody can wait, are dropped.
pub const BATCH_OWN_BYTES_MAX: usize = 4 * BATCH_BYTES_MAX;

/// What a probe weighs beside its own bytes: it is answered with a presence of about that size, into a batch the other way.
const PROBE_BYTES: usize = 512;

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
    /// One presence for many accounts at home on the receiving shard.
    Fan {
        presence: PresenceType,
        /// Text lengths, in the order they lie in the batch's bytes: `from`, the stanza but for `to`, the recipients'
        /// addresses, each behind its length in two bytes.
        from_len: u16,
        text_len: u32,
        recipients_len: u32,
    },
    /// One event for those resources of many accounts at home on the receiving shard that want to be told of its node.
    Event {
        /// Text lengths, in order: `from`, the node, the message but for `to`, the recipients as above.
        from_len: u16,
        node_len: u16,
        text_len: u32,
        recipients_len: u32,
    },
    /// A resource became available that wants to be told of nodes: of many accounts at home on the receiving shard.
    Wants {
        /// Text lengths, in order: `from`, the nodes with NUL between them, the recipients as above.
        from_len: u16,
        nodes_len: u32,
        recipients_len: u32,
    },
    /// An account at home on the receiving shard is there now: the length of its address.
    Created { account_len: u16 },
    /// The things of an account at home on the receiving shard changed in the store.
    Changed {
        /// Keyed hash of the bare JID.
        hash: u64,
        /// Length of the bare JID.
        jid_len: u16,
    },
    /// A service asks the device of an account at home on the receiving shard, or challenges who presented a token.
    Ask {
        /// Keyed hash of the bare JID.
        hash: u64,
        /// Names the question on the sending shard.
        number: u64,
        /// Text lengths, in order: the JID, the service's address, the payload of the iq.
        jid_len: u16,
        from_len: u16,
        payload_len: u32,
    },
    /// The answer to a question of the receiving shard's.
    Asked {
        /// Its number there.
        number: u64,
        /// The device has heard it.
        acknowledged: bool,
        /// Length of the payload of its answer.
        payload_len: u32,
    },
    /// The session, at home on the receiving shard, should send no more: a recipient's outbox is full.
    Pause(SessionId),
    /// It may go on.
    Resume(SessionId),
    /// A session of the sending shard wants to know when all that it sent here is stored.
    Settle(SessionId),
    /// All that the session, at home on the receiving shard, sent there is stored.
    Settled(SessionId),
}

impl Handoff {
    /// Of one that goes to many: the length of their addresses.
    const fn recipients_len(&mut self) -> Option<&mut u32> {
        match self {
            Self::Fan { recipients_len, .. }
            | Self::Event { recipients_len, .. }
            | Self::Wants { recipients_len, .. } => Some(recipients_len),
            Self::Stanza { .. }
            | Self::Created { .. }
            | Self::Changed { .. }
            | Self::Ask { .. }
            | Self::Asked { .. }
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::Settle(_)
            | Self::Settled(_) => None,
        }
    }
}

/// The recipients of a handoff that goes to many.
pub(super) fn recipients(mut bytes: &[u8]) -> impl Iterator<Item = JidRef<'_>> {
    std::iter::from_fn(move || {
        let (len, rest) = bytes.split_first_chunk()?;
        let (to, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        bytes = rest;
        Some(JidRef::from_normal(std::str::from_utf8(to).unwrap_or_default()))
    })
}

/// A turn's handoffs from one shard to another.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) handoffs: Vec<Handoff>,
    pub(super) bytes: Vec<u8>,
    /// The number of the fan the last handoff is of, if it is of one.
    fan: u64,
    /// Probes in it, each to one account.
    probes: usize,
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

    /// Whether those who can wait have to wait for the next: it is as large as it may be, or its answers would be.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() + self.probes * PROBE_BYTES >= BATCH_BYTES_MAX
    }

    /// One more account is asked where it is.
    pub(super) fn count_probe(&mut self) {
        self.probes += 1;
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.handoffs.is_empty()
    }

    /// Adds a recipient to fan `number`, which nothing else is appended in between; whether it is the first, for which
    /// `begin` writes what is for all of them.
    pub(super) fn fan(&mut self, number: u64, to: JidRef<'_>, begin: impl FnOnce(&mut Vec<u8>) -> Handoff) -> bool {
        let to = to.as_str().as_bytes();
        let first = self.fan != number || self.handoffs.last_mut().and_then(Handoff::recipients_len).is_none();
        if first {
            self.fan = number;
            let handoff = begin(&mut self.bytes);
            self.handoffs.push(handoff);
        }
        self.bytes.extend_from_slice(&(to.len() as u16).to_le_bytes());
        self.bytes.extend_from_slice(to);
        if let Some(len) = self.handoffs.last_mut().and_then(Handoff::recipients_len) {
            *len += 2 + to.len() as u32;
        }
        first
    }

    pub(super) fn clear(&mut self) {
        self.fan = 0;
        self.probes = 0;
        self.handoffs.clear();
        self.bytes.clear();
        self.bytes.shrink_to(BATCH_BYTES_MAX * 2);
    }

    /// Adds that an account is there now.
    pub(super) fn created(&mut self, account: JidRef<'_>) {
        let account = account.as_str();
        self.bytes.extend_from_slice(account.as_bytes());
        self.handoffs.push(Handoff::Created { account_len: account.len() as u16 });
    }

    /// Says that the things of an account changed.
    pub(super) fn changed(&mut self, hash: u64, jid: JidRef<'_>) {
        let jid = jid.as_str().as_bytes();
        self.bytes.extend_from_slice(jid);
        self.handoffs.push(Handoff::Changed { hash, jid_len: jid.len() as u16 });
    }

    /// Appends a question to a device.
    pub(super) fn ask(&mut self, hash: u64, (jid, from): (JidRef<'_>, JidRef<'_>), number: u64, payload: &str) {
        let (jid, from) = (jid.as_str(), from.as_str());
        for text in [jid, from, payload] {
            self.bytes.extend_from_slice(text.as_bytes());
        }
        let (jid_len, from_len, payload_len) = (jid.len() as u16, from.len() as u16, payload.len() as u32);
        self.handoffs.push(Handoff::Ask { hash, number, jid_len, from_len, payload_len });
    }

    /// Appends what a device answered.
    pub(super) fn asked(&mut self, number: u64, acknowledged: bool, payload: &str) {
        self.bytes.extend_from_slice(payload.as_bytes());
        self.handoffs.push(Handoff::Asked { number, acknowledged, payload_len: payload.len() as u32 });
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
