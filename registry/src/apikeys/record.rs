//! Records of API keys, and where they lie in [`Table::ApiKeys`](crate::store::Table::ApiKeys).
//!
//! | Key | Holds |
//! | --- | --- |
//! | `k` id | the key's settings, and its secret, sealed |
//! | `c` id | how many accounts were created with it |
//! | `n` id NUL nonce | until when the nonce is remembered |
//! | `a` id NUL address | an account created with it, and when |
//! | `o` address | which key an account was created with |

use plaza_core::jid::{Jid, JidRef};

use super::ApiKey;
#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::record::{Reader, flag, put_bytes, put_count};
use crate::store::StoreError;

/// Version of a key's record, and of a count's.
const VERSION: u8 = 1;
const FLAG_ENABLED: u8 = 1;
const FLAG_EXPIRES: u8 = 1 << 1;

/// Where a key's settings lie; with an empty id, the prefix of all.
pub(super) fn settings_key(id: &str) -> Vec<u8> {
    [b"k", id.as_bytes()].concat()
}

/// The id in a key made by [`settings_key`].
pub(super) fn settings_id(key: &[u8]) -> Result<&str, StoreError> {
    let id = key.strip_prefix(b"k").ok_or(StoreError::Corrupt)?;
    std::str::from_utf8(id).map_err(|_| StoreError::Corrupt)
}

/// Where a key's count lies.
pub(super) fn count_key(id: &str) -> Vec<u8> {
    [b"c", id.as_bytes()].concat()
}

/// Prefix of all nonces that are remembered.
pub(super) const NONCES: &[u8] = b"n";

/// Where a nonce is remembered.
pub(super) fn nonce_key(id: &str, nonce: &str) -> Vec<u8> {
    [NONCES, id.as_bytes(), b"\0", nonce.as_bytes()].concat()
}

/// Prefix of the accounts created with a key.
pub(super) fn accounts_prefix(id: &str) -> Vec<u8> {
    [b"a", id.as_bytes(), b"\0"].concat()
}

/// Where it lies that an account was created with a key.
pub(super) fn account_key(id: &str, bare: JidRef<'_>) -> Vec<u8> {
    [&*accounts_prefix(id), bare.bare().as_str().as_bytes()].concat()
}

/// Where it lies which key an account was created with.
pub(super) fn origin_key(bare: JidRef<'_>) -> Vec<u8> {
    [b"o", bare.bare().as_str().as_bytes()].concat()
}

pub(super) fn encode_count(count: u64) -> Vec<u8> {
    let mut record = vec![VERSION];
    put_count(&mut record, count);
    record
}

pub(super) fn decode_count(record: &[u8]) -> Result<u64, StoreError> {
    let mut reader = Reader::open(record, VERSION)?;
    let count = reader.count()?;
    reader.close()?;
    Ok(count)
}

/// Seconds since the Unix epoch: of a nonce or of an account.
pub(super) fn encode_moment(seconds: u64) -> Vec<u8> {
    let mut record = vec![VERSION];
    record.extend_from_slice(&seconds.to_le_bytes());
    record
}

pub(crate) fn decode_moment(record: &[u8]) -> Result<u64, StoreError> {
    let mut reader = Reader::open(record, VERSION)?;
    let seconds = reader.u64()?;
    reader.close()?;
    Ok(seconds)
}

/// version · flags · created in 8 bytes · expires in 8 bytes, if it does · accounts at most · accounts a minute · owner ·
/// number of domains · each · the secret, sealed.
pub(super) fn encode(key: &ApiKey, sealed: &[u8]) -> Vec<u8> {
    let mut record = vec![VERSION];
    record.push(flag(key.enabled, FLAG_ENABLED) | flag(key.expires.is_some(), FLAG_EXPIRES));
    record.extend_from_slice(&key.created.to_le_bytes());
    if let Some(expires) = key.expires {
        record.extend_from_slice(&expires.to_le_bytes());
    }
    put_count(&mut record, key.accounts_max);
    put_count(&mut record, key.per_minute.into());
    put_bytes(&mut record, key.owner.as_bytes());
    put_count(&mut record, key.domains.len() as u64);
    for domain in &key.domains {
        put_bytes(&mut record, domain.as_str().as_bytes());
    }
    put_bytes(&mut record, sealed);
    record
}

/// The settings, and the secret, sealed.
pub(super) fn decode(record: &[u8]) -> Result<(ApiKey, Vec<u8>), StoreError> {
    let mut reader = Reader::open(record, VERSION)?;
    let flags = reader.u8()?;
    if flags & !(FLAG_ENABLED | FLAG_EXPIRES) != 0 {
        return Err(StoreError::Corrupt);
    }
    let created = reader.u64()?;
    let expires = if flags & FLAG_EXPIRES == 0 { None } else { Some(reader.u64()?) };
    let accounts_max = reader.count()?;
    let per_minute = u32::try_from(reader.count()?).map_err(|_| StoreError::Corrupt)?;
    let owner = reader.text()?.to_owned();
    let mut domains = Vec::new();
    for _ in 0..reader.count()? {
        domains.push(Jid::parse(reader.text()?).map_err(|_| StoreError::Corrupt)?);
    }
    let sealed = reader.bytes()?.to_vec();
    reader.close()?;
    let enabled = flags & FLAG_ENABLED != 0;
    Ok((ApiKey { owner, accounts_max, per_minute, enabled, created, expires, domains }, sealed))
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] = &[
    |record| decode(record).map(|(key, sealed)| encode(&key, &sealed)),
    |record| decode_count(record).map(encode_count),
    |record| decode_moment(record).map(encode_moment),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_reads_back(
            owner: String, accounts_max: u64, per_minute: u32, enabled: bool, created: u64, expires: Option<u64>,
            sealed: Vec<u8>, domains in 0..3_usize,
        ) {
            let domains = (0..domains).map(|number| Jid::parse(&format!("d{number}.example")).unwrap()).collect();
            let key = ApiKey { owner, accounts_max, per_minute, enabled, created, expires, domains };
            prop_assert_eq!(decode(&encode(&key, &sealed)), Ok((key, sealed)));
        }

        #[test]
        fn counts_and_moments_read_back(number: u64) {
            prop_assert_eq!(decode_count(&encode_count(number)), Ok(number));
            prop_assert_eq!(decode_moment(&encode_moment(number)), Ok(number));
        }
    }
}
