//! Messages for who is away (XEP-0160 v1.0.1): kept in order, durable before anybody is told so, delivered once the owner
//! is there, and only then forgotten.
//!
//! Called by [`crate::errands`] on behalf of the account's home shard, which is the only one to write them and counts them
//! in memory. A message is stored as its owner will read it, with the time it came (XEP-0203).

use plaza_core::date::{self, DateTime};
use plaza_core::jid::JidRef;
use plaza_core::ns;
use plaza_core::stanza::with_child;
use plaza_core::xml::write;

#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::record::{Reader, put_bytes, put_count};
use crate::store::{Batch, CommitError, Guard, Store, StoreError, Table, Write, key};

/// Version of the head's record and of a message's.
const VERSION: u8 = 1;

/// Bounds of what is kept for an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfflineLimits {
    /// Messages. Default 100; one more is refused with `service-unavailable`.
    pub messages_max: u32,
    /// Bytes of all of them. Default 524 288; the same answer.
    pub bytes_max: u64,
    /// How long one is kept, in milliseconds. Default 30 days.
    pub age_millis_max: u64,
}

impl Default for OfflineLimits {
    fn default() -> Self {
        Self { messages_max: 100, bytes_max: 512 * 1024, age_millis_max: 30 * 24 * 3_600_000 }
    }
}

/// How much is kept, and the number of the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OfflineHead {
    /// Messages kept.
    pub count: u32,
    /// Their bytes, without what is added on storing.
    pub bytes: u64,
    /// Number of the next one; numbers only grow.
    pub next: u64,
}

impl OfflineHead {
    /// Counts one more; `false`, and nothing changed, if there is no room for it.
    #[must_use]
    pub fn admit(&mut self, limits: &OfflineLimits, bytes: usize) -> bool {
        let after = self.bytes.saturating_add(bytes as u64);
        if self.count >= limits.messages_max || after > limits.bytes_max {
            return false;
        }
        (self.count, self.bytes, self.next) = (self.count + 1, after, self.next + 1);
        true
    }

    fn encode(self) -> Vec<u8> {
        let mut record = vec![VERSION];
        put_count(&mut record, self.count.into());
        put_count(&mut record, self.bytes);
        put_count(&mut record, self.next);
        record
    }

    /// # Errors
    /// [`StoreError::Corrupt`].
    pub(crate) fn decode(record: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader::open(record, VERSION)?;
        let count = u32::try_from(reader.count()?).map_err(|_| StoreError::Corrupt)?;
        let head = Self { count, bytes: reader.count()?, next: reader.count()? };
        reader.close()?;
        Ok(head)
    }
}

/// A message kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfflineMessage {
    /// Its number.
    pub number: u64,
    /// Bytes it was counted with.
    pub bytes: u64,
    /// As its owner reads it.
    pub stanza: Vec<u8>,
    /// Kept for too long: to be forgotten, not delivered.
    pub expired: bool,
}

/// Stores messages that came together, in order; durable when it resolves. `head` counts them already, as
/// [`OfflineHead::admit`] did: they have the last numbers before `head.next`. `domain` is who says when they came.
///
/// # Errors
/// [`CommitError::Guard`] if there is no such account any more, [`CommitError::Store`].
pub async fn store<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    head: OfflineHead,
    messages: &[Box<[u8]>],
    domain: &str,
    unix_millis: u64,
) -> Result<(), CommitError> {
    let first = head.next.saturating_sub(messages.len() as u64);
    let stamp = DateTime::from_unix_millis(unix_millis);
    let mut writes = vec![Write::Put { table: Table::Offline, key: key::offline(owner), value: head.encode() }];
    for (number, message) in (first..).zip(messages) {
        let mut value = vec![VERSION];
        value.extend_from_slice(&unix_millis.to_le_bytes());
        put_count(&mut value, message.len() as u64);
        put_bytes(&mut value, &with_delay(message, domain, stamp));
        writes.push(Write::Put { table: Table::Offline, key: key::offline_message(owner, number), value });
    }
    let account = Guard::Present { table: Table::Accounts, key: key::account(owner) };
    store.commit(Batch { guards: vec![account], writes }).await
}

/// All that is kept, in order.
///
/// # Errors
/// [`StoreError`].
pub async fn load<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    limits: &OfflineLimits,
    unix_millis: u64,
) -> Result<Vec<OfflineMessage>, StoreError> {
    let prefix = key::offline(owner);
    let pairs = store.scan(Table::Offline, &prefix, Some(&prefix), usize::MAX).await?;
    pairs
        .into_iter()
        .map(|(key, record)| {
            let number = key.strip_prefix(&*prefix).and_then(|number| number.try_into().ok());
            let number = number.map(u64::from_be_bytes).ok_or(StoreError::Corrupt)?;
            let (came, bytes, stanza) = decode(&record)?;
            let stanza = stanza.to_vec();
            let expired = unix_millis.saturating_sub(came) > limits.age_millis_max;
            Ok(OfflineMessage { number, bytes, stanza, expired })
        })
        .collect()
}

/// When a message came, in milliseconds since 1970, the bytes it was counted with, and the message.
pub(crate) fn decode(record: &[u8]) -> Result<(u64, u64, &[u8]), StoreError> {
    let mut reader = Reader::open(record, VERSION)?;
    let message = (reader.u64()?, reader.count()?, reader.bytes()?);
    reader.close()?;
    Ok(message)
}

/// Forgets the messages of these numbers; `head` no longer counts them.
///
/// # Errors
/// [`CommitError`], as for [`store()`].
pub async fn forget<S: Store>(
    store: &S,
    owner: JidRef<'_>,
    head: OfflineHead,
    numbers: &[u64],
) -> Result<(), CommitError> {
    let mut writes = vec![Write::Put { table: Table::Offline, key: key::offline(owner), value: head.encode() }];
    writes.extend(
        numbers.iter().map(|&number| Write::Delete { table: Table::Offline, key: key::offline_message(owner, number) }),
    );
    let account = Guard::Present { table: Table::Accounts, key: key::account(owner) };
    store.commit(Batch { guards: vec![account], writes }).await
}

/// The stanza with `<delay/>` as its last child (XEP-0203 v2.0 §2), the one it has already or a new one.
pub fn with_delay(stanza: &[u8], domain: &str, stamp: DateTime) -> Vec<u8> {
    if is_delayed(stanza, domain) {
        return stanza.to_vec();
    }
    with_child(stanza, |out| date::write_delay(out, domain, stamp, ""))
}

/// Whether the stanza's last child is the domain's `<delay/>`. Nobody else may say that in its name, so what looks like it
/// is it.
fn is_delayed(stanza: &[u8], domain: &str) -> bool {
    let mut start = b"<delay".to_vec();
    write::attr(&mut start, "xmlns", ns::DELAY);
    write::attr(&mut start, "from", domain);
    let last = |bytes: &[u8]| bytes.iter().rposition(|&byte| byte == b'<');
    let Some((children, _)) = last(stanza).and_then(|end| stanza.split_at_checked(end)) else { return false };
    last(children).and_then(|child| children.get(child..)).is_some_and(|child| child.starts_with(&start))
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] =
    &[|record| OfflineHead::decode(record).map(OfflineHead::encode), |record| decode(record).map(|_| record.to_vec())];

#[cfg(test)]
mod tests {
    use plaza_core::jid::Jid;

    use super::*;
    use crate::testing::store_with;
    use crate::wait::block_on;

    const NOW: u64 = 1_767_323_045_000;

    fn kept(owner: &Jid, store_: &impl Store, now: u64) -> Vec<(u64, String, bool)> {
        let messages = block_on(load(store_, owner.as_jid(), &OfflineLimits::default(), now)).unwrap();
        messages.into_iter().map(|m| (m.number, String::from_utf8(m.stanza).unwrap(), m.expired)).collect()
    }

    #[test]
    fn messages_are_kept_in_order_with_the_time_they_came_and_forgotten_by_number() {
        let owner = Jid::parse("lamp@things.example").unwrap();
        let memory = store_with(&owner);
        let limits = OfflineLimits::default();
        let mut head = OfflineHead::default();
        let messages: Vec<Box<[u8]>> =
            ["<message from='a@b/c'><body>1</body></message>", "<p:message to='x'/>", "<message/>"]
                .map(|text| text.as_bytes().into())
                .into();
        for message in &messages {
            assert!(head.admit(&limits, message.len()));
        }
        block_on(store(&memory, owner.as_jid(), head, &messages, "things.example", NOW)).unwrap();
        let delay = "<delay xmlns='urn:xmpp:delay' from='things.example' stamp='2026-01-02T03:04:05.000Z'/>";
        let expected = [
            (0, format!("<message from='a@b/c'><body>1</body>{delay}</message>"), false),
            (1, format!("<p:message to='x'>{delay}</p:message>"), false),
            (2, format!("<message>{delay}</message>"), false),
        ];
        assert_eq!(kept(&owner, &memory, NOW + 1), expected);
        assert!(kept(&owner, &memory, NOW + limits.age_millis_max + 1).iter().all(|(.., expired)| *expired));
        (head.count, head.bytes) = (1, 10);
        block_on(forget(&memory, owner.as_jid(), head, &[0, 1])).unwrap();
        assert_eq!(kept(&owner, &memory, NOW), expected[2..]);
    }

    #[test]
    fn a_message_has_one_delay_of_the_domains_the_first() {
        let stamp = DateTime::from_unix_millis;
        let check = |message: &str, delays: usize| {
            let once = with_delay(message.as_bytes(), "things.example", stamp(NOW));
            let twice = with_delay(&once, "things.example", stamp(NOW + 1));
            assert_eq!(twice, once);
            assert_eq!(String::from_utf8(once).unwrap().matches("<delay").count(), delays);
        };
        check("<message/>", 1);
        check("<message><body>1</body></message>", 1);
        check("<message><delay xmlns='urn:xmpp:delay' from='things.example.org' stamp='x'/></message>", 2);
        check("<message><delay xmlns='urn:xmpp:delay' from='things.example' stamp='x'/></message>", 1);
        check("<message><delay xmlns='urn:xmpp:delay' from='things.example' stamp='x'/><a/></message>", 2);
    }

    #[test]
    fn the_quota_counts_messages_and_bytes() {
        let limits = OfflineLimits { messages_max: 2, bytes_max: 100, ..OfflineLimits::default() };
        let mut head = OfflineHead::default();
        assert!(!head.admit(&limits, 101));
        assert!(head.admit(&limits, 60));
        assert!(!head.admit(&limits, 41));
        assert!(head.admit(&limits, 40));
        assert!(!head.admit(&limits, 0));
        assert_eq!(head, OfflineHead { count: 2, bytes: 100, next: 2 });
        assert_eq!(OfflineHead::decode(&head.encode()), Ok(head));
    }

    #[test]
    fn nothing_is_kept_for_an_account_that_is_gone() {
        let owner = Jid::parse("lamp@things.example").unwrap();
        let memory = crate::store::memory::MemoryStore::new();
        let refused = block_on(store(&memory, owner.as_jid(), OfflineHead::default(), &[], "b", NOW));
        assert_eq!(refused, Err(CommitError::Guard(0)));
    }
}
