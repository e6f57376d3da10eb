//! Sealing: secrets of API keys as they lie on disk.
//!
//! Verifying a signature takes the secret itself, so a hash of it does not do. It is encrypted with AES-256-GCM, under a key
//! that is made of the broker's own secret, and bound to the API key that it belongs to. Whoever has only a part of the
//! store, a table or a page of it, has no secrets. Whoever has all of it has the broker's secret, too.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::store::StoreError;

/// What the sealing key is made for.
const PURPOSE: &[u8] = b"plaza secrets of api keys 1";
/// Bytes of a nonce, which stands before what is sealed.
pub const SEAL_NONCE_BYTES: usize = NONCE_LEN;

/// Seals and opens.
pub struct Sealer(LessSafeKey);

impl Sealer {
    /// A sealer under the broker's secret.
    pub fn new(server_secret: &[u8; 32]) -> Self {
        let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, server_secret), PURPOSE);
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).expect("a key of 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// Seals a secret for the API key of that name. `nonce`: random.
    pub(super) fn seal(&self, id: &str, secret: &str, nonce: [u8; SEAL_NONCE_BYTES]) -> Vec<u8> {
        let mut sealed = secret.as_bytes().to_vec();
        let done =
            self.0.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(id.as_bytes()), &mut sealed);
        done.expect("a secret is far shorter than what can be sealed");
        [&nonce[..], &sealed].concat()
    }

    /// Opens what was sealed for the API key of that name.
    pub(super) fn open(&self, id: &str, sealed: &[u8]) -> Result<Zeroizing<String>, StoreError> {
        let (nonce, sealed) = sealed.split_first_chunk::<SEAL_NONCE_BYTES>().ok_or(StoreError::Corrupt)?;
        let mut bytes = Zeroizing::new(sealed.to_vec());
        let opened = self
            .0
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(id.as_bytes()), &mut bytes)
            .map_err(|_| StoreError::Corrupt)?;
        let secret = std::str::from_utf8(opened).map_err(|_| StoreError::Corrupt)?;
        Ok(Zeroizing::new(secret.to_owned()))
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_its_key_and_its_broker_only() {
        let sealer = Sealer::new(&[1; 32]);
        let sealed = sealer.seal("maker", "s3cret", [9; 12]);
        assert!(!sealed.windows(6).any(|bytes| bytes == b"s3cret"));
        assert_eq!(sealer.open("maker", &sealed).unwrap().as_str(), "s3cret");
        assert_eq!(sealer.open("other", &sealed), Err(StoreError::Corrupt));
        assert_eq!(Sealer::new(&[2; 32]).open("maker", &sealed), Err(StoreError::Corrupt));
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert_eq!(sealer.open("maker", &bent), Err(StoreError::Corrupt));
            assert_eq!(sealer.open("maker", &sealed[..at]), Err(StoreError::Corrupt));
        }
    }
}
