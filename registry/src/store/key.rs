//! Keys: where the facts of an account lie.
//!
//! A key starts with the slot of the account's bare JID, so that one prefix scan loads all there is of it and a cluster
//! can share the accounts out by slot. JIDs hold no NUL (RFC 7622 §3.3, §3.4), so it separates two of them.

use plaza_core::jid::JidRef;
use xxhash_rust::xxh3::xxh3_64;

use super::StoreError;

/// Bytes of a slot.
const SLOT_BYTES: usize = 2;
const SEPARATOR: u8 = 0;

/// Key of an account in [`super::Table::Accounts`].
pub(crate) fn account(bare: JidRef<'_>) -> Vec<u8> {
    let bare = bare.bare().as_str().as_bytes();
    let mut key = Vec::with_capacity(SLOT_BYTES + bare.len());
    key.extend_from_slice(&slot(bare));
    key.extend_from_slice(bare);
    key
}

/// The bare JID in a key made by [`account`].
pub(crate) fn account_jid(key: &[u8]) -> Result<&str, StoreError> {
    let (found, jid) = key.split_first_chunk::<SLOT_BYTES>().ok_or(StoreError::Corrupt)?;
    if *found != slot(jid) {
        return Err(StoreError::Corrupt);
    }
    std::str::from_utf8(jid).map_err(|_| StoreError::Corrupt)
}

/// Prefix of all of an account's roster in [`super::Table::Rosters`], and the key of its head.
pub(crate) fn roster(owner: JidRef<'_>) -> Vec<u8> {
    owned(owner)
}

/// Key of a roster item.
pub(crate) fn roster_item(owner: JidRef<'_>, contact: JidRef<'_>) -> Vec<u8> {
    let mut key = roster(owner);
    key.extend_from_slice(contact.as_str().as_bytes());
    key
}

/// Prefix of all messages kept for an account in [`super::Table::Offline`], and the key of their head.
pub(crate) fn offline(owner: JidRef<'_>) -> Vec<u8> {
    owned(owner)
}

/// Key of a message kept; the order of keys is the order of numbers.
pub(crate) fn offline_message(owner: JidRef<'_>, number: u64) -> Vec<u8> {
    let mut key = offline(owner);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// Prefix of an account's archive in [`super::Table::Archives`].
pub(crate) fn archive(owner: JidRef<'_>) -> Vec<u8> {
    owned(owner)
}

/// Whose archive a key is of.
pub(crate) fn archive_owner(key: &[u8]) -> Result<&str, StoreError> {
    let end = key.iter().skip(SLOT_BYTES).position(|&byte| byte == SEPARATOR).ok_or(StoreError::Corrupt)?;
    account_jid(key.get(..SLOT_BYTES + end).unwrap_or_default())
}

/// Whose a key is, and what stands behind that: nothing, where an account has one record only.
pub(crate) fn split_owner(key: &[u8]) -> Result<(&str, &[u8]), StoreError> {
    let end = key.iter().skip(SLOT_BYTES).position(|&byte| byte == SEPARATOR).map_or(key.len(), |at| SLOT_BYTES + at);
    let owner = account_jid(key.get(..end).unwrap_or_default())?;
    Ok((owner, key.get(end + 1..).unwrap_or_default()))
}

/// Key of an archive's head, the first of its keys.
pub(crate) fn archive_head(owner: JidRef<'_>) -> Vec<u8> {
    [&*archive(owner), b"h"].concat()
}

/// Prefix of an archive's messages.
pub(crate) fn archived(owner: JidRef<'_>) -> Vec<u8> {
    [&*archive(owner), b"m"].concat()
}

/// Key of a message in an archive; the order of keys is the order of ids.
pub(crate) fn archived_message(owner: JidRef<'_>, id: u64) -> Vec<u8> {
    [&*archived(owner), &id.to_be_bytes()].concat()
}

/// Key of what an account wants archived.
pub(crate) fn archive_prefs(owner: JidRef<'_>) -> Vec<u8> {
    [&*archive(owner), b"p"].concat()
}

/// Prefix of an account's sessions in [`super::Table::Resumables`].
pub(crate) fn resumables(owner: JidRef<'_>) -> Vec<u8> {
    owned(owner)
}

/// Key of such a session.
pub(crate) fn resumable(owner: JidRef<'_>, number: u64) -> Vec<u8> {
    let mut key = resumables(owner);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// Prefix of all of an account's private XML in [`super::Table::Private`], and the key of its index.
pub(crate) fn private(owner: JidRef<'_>) -> Vec<u8> {
    owned(owner)
}

/// Prefix of all of a service, or of an account's own, in [`super::Table::PubSub`].
pub(crate) fn pubsub(host: JidRef<'_>) -> Vec<u8> {
    owned(host)
}

/// Prefix of an account's things in [`super::Table::Things`], and of what others may do with them in
/// [`super::Table::Rules`].
pub(crate) fn things(owner: JidRef<'_>) -> Vec<u8> {
    owned(owner)
}

/// Whose a key in [`super::Table::Things`] is.
pub(crate) fn things_owner(key: &[u8]) -> Result<&str, StoreError> {
    archive_owner(key)
}

/// What lies before all keys of the slot behind that of a key, or of the first slot; `None` if there is none behind.
pub(crate) fn behind_slot(key: Option<&[u8]>) -> Option<Vec<u8>> {
    let slot = match key.and_then(|key| key.first_chunk()) {
        Some(slot) => u16::from_be_bytes(*slot),
        None => 0,
    };
    slot.checked_add(1).map(|slot| slot.to_be_bytes().to_vec())
}

/// Prefix of what somebody owns in [`super::Table::Owners`], and of what that owner was asked in
/// [`super::Table::Questions`].
pub(crate) fn owned_things(owner: JidRef<'_>) -> Vec<u8> {
    owned(owner)
}

/// Prefix of the records of one account in a table where it has several.
fn owned(owner: JidRef<'_>) -> Vec<u8> {
    let mut key = account(owner);
    key.push(SEPARATOR);
    key
}

/// The slot of a bare JID: stable for ever and the same on every broker, since data lies under it.
fn slot(bare: &[u8]) -> [u8; SLOT_BYTES] {
    let [first, second, ..] = xxh3_64(bare).to_be_bytes();
    [first, second]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_stable_and_spread() {
        assert_eq!(slot(b""), [0x2d, 0x06]);
        let mut seen = std::collections::BTreeSet::new();
        for index in 0..1_000 {
            seen.insert(slot(format!("thing-{index}@things.example").as_bytes()));
        }
        assert!(seen.len() > 980, "{} slots for 1 000 names", seen.len());
    }

    #[test]
    fn an_account_key_gives_its_jid_back_and_a_foreign_slot_does_not() {
        let mut key = slot(b"lamp@things.example").to_vec();
        key.extend_from_slice(b"lamp@things.example");
        assert_eq!(account_jid(&key), Ok("lamp@things.example"));
        key.push(b'x');
        assert_eq!(account_jid(&key), Err(StoreError::Corrupt));
        assert_eq!(account_jid(&[1]), Err(StoreError::Corrupt));
    }
}
