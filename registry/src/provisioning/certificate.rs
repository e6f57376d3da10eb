//! Certificates, as far as a token needs them: whose key it is, and until when.

use std::fmt;

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Largest certificate, in bytes of its DER form. Default 16 384: those in use have one or two thousand.
pub(super) const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;
/// Bits of an RSA key, least and most: fewer are no secret, more are work.
const KEY_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

/// What is wrong with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named by what they are")]
pub enum BadCertificate {
    Malformed,
    TooLarge,
    /// Its key is not RSA, or too short or too long.
    Key,
    /// It is not valid yet, or no more.
    Time,
}

impl fmt::Display for BadCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "it is not an X.509 certificate",
            Self::TooLarge => "the certificate is too large",
            Self::Key => "the certificate's key is not an RSA key of 2048 to 8192 bits",
            Self::Time => "the certificate is not valid now",
        })
    }
}

impl std::error::Error for BadCertificate {}

/// A certificate that a token can stand for. Whom it names and who signed it is for those to judge who are shown it.
#[derive(Debug)]
pub struct Certificate {
    key: OaepPublicEncryptingKey,
    expires: u64,
}

impl Certificate {
    /// Reads it from its DER form.
    ///
    /// # Errors
    /// [`BadCertificate`].
    pub fn read(der: &[u8], unix_millis: u64) -> Result<Self, BadCertificate> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(BadCertificate::TooLarge);
        }
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| BadCertificate::Malformed)?;
        if !rest.is_empty() {
            return Err(BadCertificate::Malformed);
        }
        let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
        let begins = seconds(certificate.validity().not_before.timestamp());
        let expires = seconds(certificate.validity().not_after.timestamp());
        if !(begins..=expires).contains(&(unix_millis / 1_000)) {
            return Err(BadCertificate::Time);
        }
        let key = PublicEncryptingKey::from_der(certificate.public_key().raw).map_err(|_| BadCertificate::Key)?;
        let key = OaepPublicEncryptingKey::new(key).map_err(|_| BadCertificate::Key)?;
        if KEY_BITS.contains(&key.key_size_bits()) { Ok(Self { key, expires }) } else { Err(BadCertificate::Key) }
    }

    /// The second since 1970 in which it ends.
    pub const fn expires(&self) -> u64 {
        self.expires
    }

    /// A secret that only the holder of the private key can read: RSA-OAEP with SHA-1, which is what clients know.
    ///
    /// # Errors
    /// [`BadCertificate::Key`].
    pub fn encrypt(&self, secret: &[u8; 32]) -> Result<Vec<u8>, BadCertificate> {
        let mut out = vec![0; self.key.ciphertext_size()];
        let written = self.key.encrypt(&OAEP_SHA1_MGF1SHA1, secret, &mut out, None);
        let len = written.map_err(|_| BadCertificate::Key)?.len();
        out.truncate(len);
        Ok(out)
    }
}
