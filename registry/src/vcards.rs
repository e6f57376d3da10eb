//! vCards (XEP-0054 v1.3.0), and beside each the hash of its photo, which presence shows (XEP-0153 v1.1.1, XEP-0398).
//!
//! Called by the service, and by whoever stamps presence.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use plaza_core::jid::JidRef;
use plaza_core::xml::read::Node;
use sha1::{Digest, Sha1};

#[cfg(any(test, fuzzing))]
use crate::laws::Rewrite;
use crate::owned::{OwnedError, replace};
use crate::record::{Reader, put_bytes};
use crate::store::{Store, StoreError, Table, key};

/// Version of a vCard's record.
const VERSION: u8 = 1;

/// Base64 as it is found in the wild: with or without its padding, and whatever bits the padding has. The hash is over
/// what it stands for.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// SHA-1 of an image: what `<photo/>` of `vcard-temp:x:update` holds, in hexadecimal.
pub type AvatarHash = [u8; 20];

/// A vCard as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vcard {
    /// The element, with the declarations it needs.
    pub xml: String,
    /// Hash of its photo, if it has one.
    pub avatar: Option<AvatarHash>,
}

/// The hash of the photo in a vCard (XEP-0153 §3.1): of the image, not of its Base64. `None` without `<BINVAL/>`, with an
/// empty one, or with something that is no Base64.
pub fn avatar_hash(vcard: &Node) -> Option<AvatarHash> {
    let image = image(&vcard.child("PHOTO", &vcard.ns)?.child("BINVAL", &vcard.ns)?.text)?;
    (!image.is_empty()).then(|| Sha1::digest(image).into())
}

/// Loads the vCard of an account.
///
/// # Errors
/// [`StoreError`].
pub async fn load<S: Store>(store: &S, owner: JidRef<'_>) -> Result<Option<Vcard>, StoreError> {
    let record = store.get(Table::Vcards, &key::account(owner)).await?;
    record.map(|record| decode(&record)).transpose()
}

/// Loads the hash of an account's photo.
///
/// # Errors
/// [`StoreError`].
pub async fn avatar<S: Store>(store: &S, owner: JidRef<'_>) -> Result<Option<AvatarHash>, StoreError> {
    let record = store.get(Table::Vcards, &key::account(owner)).await?;
    record.map_or(Ok(None), |record| decode_hash(&record))
}

/// A hash as it is shown: in lower case (XEP-0153 §3.1).
pub fn hex(hash: &AvatarHash) -> String {
    let mut text = String::with_capacity(2 * hash.len());
    for byte in hash {
        for digit in [byte >> 4, byte & 0xf] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or_default());
        }
    }
    text
}

/// Stores a vCard in place of the one before.
///
/// # Errors
/// [`OwnedError::NoAccount`] or [`OwnedError::Store`].
pub async fn save<S: Store>(store: &S, owner: JidRef<'_>, vcard: &Vcard) -> Result<(), OwnedError> {
    replace(store, Table::Vcards, owner, Some(encode(vcard))).await
}

/// Decodes Base64 with white space anywhere (XEP-0153 §4.6).
pub(crate) fn image(base64: &str) -> Option<Vec<u8>> {
    let base64: Vec<u8> = base64.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    LENIENT.decode(base64).ok()
}

/// version · hash behind its length, which is 0 if there is none · element behind its length.
fn encode(vcard: &Vcard) -> Vec<u8> {
    let mut record = Vec::with_capacity(vcard.xml.len() + 32);
    record.push(VERSION);
    put_bytes(&mut record, vcard.avatar.as_ref().map_or(&[], |hash| hash));
    put_bytes(&mut record, vcard.xml.as_bytes());
    record
}

/// The hash in a record; the element behind it is not looked at.
pub(crate) fn decode_hash(record: &[u8]) -> Result<Option<AvatarHash>, StoreError> {
    read_hash(&mut Reader::open(record, VERSION)?)
}

fn read_hash(reader: &mut Reader<'_>) -> Result<Option<AvatarHash>, StoreError> {
    match reader.bytes()? {
        [] => Ok(None),
        hash => Ok(Some(hash.try_into().map_err(|_| StoreError::Corrupt)?)),
    }
}

pub(crate) fn decode(record: &[u8]) -> Result<Vcard, StoreError> {
    let mut reader = Reader::open(record, VERSION)?;
    let avatar = read_hash(&mut reader)?;
    let xml = reader.text()?.to_owned();
    reader.close()?;
    Ok(Vcard { xml, avatar })
}

/// How its records are written again.
#[cfg(any(test, fuzzing))]
pub(crate) const RECORDS: &[Rewrite] = &[|record| decode(record).map(|vcard| encode(&vcard))];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{jid, store_with};
    use crate::wait::block_on;

    fn hash_of(content: &str) -> Option<String> {
        let vcard = Node::parse(&format!("<vCard xmlns='vcard-temp'>{content}</vCard>"), "").unwrap();
        avatar_hash(&vcard).map(|hash| hex(&hash))
    }

    #[test]
    fn the_hash_is_of_the_image_whatever_its_base64_looks_like() {
        // SHA-1 of "abc" (FIPS 180-4) and of "ab".
        let (abc, ab) = ("a9993e364706816aba3e25717850c26c9cd0d89d", "da23614e02469a0d7c7bd1bdab5c9c474b1904dc");
        for (base64, hash) in
            [("YWJj", abc), (" YW\r\n\tJj\n", abc), ("YWI=", ab), ("YWI", ab), ("YWJ=", ab), ("<![CDATA[YWJj]]>", abc)]
        {
            let content = format!("<FN>x</FN><PHOTO><TYPE>image/png</TYPE><BINVAL>{base64}</BINVAL></PHOTO>");
            assert_eq!(hash_of(&content).as_deref(), Some(hash), "{base64}");
        }
    }

    #[test]
    fn without_an_image_there_is_no_hash() {
        for content in [
            "",
            "<PHOTO/>",
            "<PHOTO><EXTVAL>http://x</EXTVAL></PHOTO>",
            "<PHOTO><BINVAL/></PHOTO>",
            "<PHOTO><BINVAL> \n</BINVAL></PHOTO>",
            "<PHOTO><BINVAL>no base64!</BINVAL></PHOTO>",
            "<BINVAL>YWJj</BINVAL>",
            "<PHOTO xmlns='urn:x'><BINVAL>YWJj</BINVAL></PHOTO>",
        ] {
            assert_eq!(hash_of(content), None, "{content}");
        }
    }

    #[test]
    fn a_vcard_is_stored_with_its_hash_and_replaced() {
        let owner = jid("owner@things.example");
        let store = store_with(&owner);
        let owner = owner.as_jid();
        assert_eq!((block_on(load(&store, owner)), block_on(avatar(&store, owner))), (Ok(None), Ok(None)));
        for avatar_hash in [Some([7; 20]), None] {
            let vcard = Vcard { xml: "<vCard xmlns='vcard-temp'/>".to_owned(), avatar: avatar_hash };
            block_on(save(&store, owner, &vcard)).unwrap();
            assert_eq!(block_on(load(&store, owner)), Ok(Some(vcard)));
            assert_eq!(block_on(avatar(&store, owner)), Ok(avatar_hash));
        }
        let nobody = jid("nobody@things.example");
        let vcard = Vcard { xml: String::new(), avatar: None };
        assert_eq!(block_on(save(&store, nobody.as_jid(), &vcard)), Err(OwnedError::NoAccount));
    }

    proptest! {
        #[test]
        fn a_vcard_reads_back(xml: String, avatar: Option<AvatarHash>) {
            let vcard = Vcard { xml, avatar };
            prop_assert_eq!(decode_hash(&encode(&vcard)), Ok(vcard.avatar));
            prop_assert_eq!(decode(&encode(&vcard)), Ok(vcard));
        }
    }
}
