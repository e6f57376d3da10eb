//! The envelope around a stored value: a format byte in front, a checksum behind.
//!
//! The checksum covers table and key too, so that a record that turns up in the wrong place is as corrupt as one with a
//! flipped bit.

use xxhash_rust::xxh3::Xxh3;

use super::{StoreError, Table};

/// The only format so far: the value follows, then XXH3-64 of table name, key, format byte and value, little-endian.
const FORMAT: u8 = 1;
const CHECKSUM_BYTES: usize = 8;

/// Wraps a value for the engine.
pub(super) fn seal(table: Table, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(1 + value.len() + CHECKSUM_BYTES);
    sealed.push(FORMAT);
    sealed.extend_from_slice(value);
    let checksum = checksum(table, key, &sealed);
    sealed.extend_from_slice(&checksum);
    sealed
}

/// Checks what the engine returned and gives the value in it.
pub(super) fn open<'a>(table: Table, key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], StoreError> {
    let opened = sealed
        .split_last_chunk()
        .filter(|(body, found)| checksum(table, key, body) == **found)
        .and_then(|(body, _)| body.strip_prefix(&[FORMAT]));
    if opened.is_none() {
        tracing::error!(table = table.name(), "a record is damaged");
        tracing::debug!(table = table.name(), key = %key.escape_ascii(), "the damaged record");
    }
    opened.ok_or(StoreError::Corrupt)
}

fn checksum(table: Table, key: &[u8], body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hash = Xxh3::new();
    hash.update(table.name().as_bytes());
    // The length keeps a byte from wandering between key and value unseen.
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(body);
    hash.digest().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_sealed_opens(key: Vec<u8>, value: Vec<u8>) {
            let sealed = seal(Table::Rosters, &key, &value);
            prop_assert_eq!(open(Table::Rosters, &key, &sealed), Ok(&*value));
        }

        #[test]
        fn a_flipped_bit_is_corrupt(value: Vec<u8>, at: prop::sample::Index) {
            let mut sealed = seal(Table::Accounts, b"key", &value);
            let bit = at.index(sealed.len() * 8);
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(open(Table::Accounts, b"key", &sealed), Err(StoreError::Corrupt));
        }
    }

    #[test]
    fn a_record_under_another_key_or_in_another_table_is_corrupt() {
        let sealed = seal(Table::Accounts, b"key", b"value");
        assert_eq!(open(Table::Accounts, b"kez", &sealed), Err(StoreError::Corrupt));
        assert_eq!(open(Table::Rosters, b"key", &sealed), Err(StoreError::Corrupt));
        assert_eq!(open(Table::Accounts, b"key", &[]), Err(StoreError::Corrupt));
    }
}
