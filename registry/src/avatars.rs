//! Avatars as of old: one small image per account (XEP-0008 v0.3.1).
//!
//! Called by the service.

use plaza_core::jid::JidRef;

#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::owned::{OwnedError, replace};
use crate::record::{Reader, put_bytes};
use crate::store::{Store, StoreError, Table, key};

/// Version of an avatar's record.
const VERSION: u8 = 1;

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Avatar {
    /// Its media type as its owner named it, "" for none.
    pub media_type: String,
    /// Its bytes.
    pub image: Vec<u8>,
}

/// Loads an account's avatar.
///
/// # Errors
/// [`StoreError`].
pub async fn load<S: Store>(store: &S, owner: JidRef<'_>) -> Result<Option<Avatar>, StoreError> {
    let record = store.get(Table::Avatars, &key::account(owner)).await?;
    record.map(|record| decode(&record)).transpose()
}

/// Stores an avatar in place of the one before, or deletes that.
///
/// # Errors
/// [`OwnedError::NoAccount`] or [`OwnedError::Store`].
pub async fn save<S: Store>(store: &S, owner: JidRef<'_>, avatar: Option<&Avatar>) -> Result<(), OwnedError> {
    replace(store, Table::Avatars, owner, avatar.map(encode)).await
}

/// version · media type behind its length · image behind its length.
fn encode(avatar: &Avatar) -> Vec<u8> {
    let mut record = Vec::with_capacity(avatar.image.len() + avatar.media_type.len() + 8);
    record.push(VERSION);
    put_bytes(&mut record, avatar.media_type.as_bytes());
    put_bytes(&mut record, &avatar.image);
    record
}

pub(crate) fn decode(record: &[u8]) -> Result<Avatar, StoreError> {
    let mut reader = Reader::open(record, VERSION)?;
    let (media_type, image) = (reader.text()?.to_owned(), reader.bytes()?.to_vec());
    reader.close()?;
    Ok(Avatar { media_type, image })
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] = &[|record| decode(record).map(|avatar| encode(&avatar))];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{jid, store_with};
    use crate::wait::block_on;

    #[test]
    fn an_avatar_is_stored_replaced_and_deleted() {
        let owner = jid("owner@things.example");
        let store = store_with(&owner);
        let owner = owner.as_jid();
        for image in [vec![1], vec![2; 8191]] {
            let avatar = Avatar { media_type: "image/png".to_owned(), image };
            block_on(save(&store, owner, Some(&avatar))).unwrap();
            assert_eq!(block_on(load(&store, owner)), Ok(Some(avatar)));
        }
        block_on(save(&store, owner, None)).unwrap();
        assert_eq!(block_on(load(&store, owner)), Ok(None));
        assert_eq!(block_on(save(&store, jid("nobody@b").as_jid(), None)), Err(OwnedError::NoAccount));
    }

    proptest! {
        #[test]
        fn an_avatar_reads_back(media_type: String, image: Vec<u8>) {
            let avatar = Avatar { media_type, image };
            prop_assert_eq!(decode(&encode(&avatar)), Ok(avatar));
        }
    }
}
