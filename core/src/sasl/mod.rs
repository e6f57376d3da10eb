//! SASL mechanisms, server and client side, as pure functions (RFC 4422, RFC 4616, RFC 5802, RFC 7677, RFC 9266).
//!
//! Called by [`crate::stream`], which owns the XML around them, and by the load tool ([`client`]). Messages are plain
//! here, never Base64. Randomness is passed in; nothing is looked up.

pub mod client;
pub mod downgrade;
pub mod ht;
pub mod plain;
pub mod scram;

use scram::Hash;

/// A mechanism by its registered name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the registered names")]
pub enum Mechanism {
    ScramSha256Plus,
    ScramSha256,
    ScramSha1Plus,
    ScramSha1,
    External,
    Plain,
}

impl Mechanism {
    /// All of them, in the order we offer them: a verified certificate first (XEP-0178 v1.2 §2), then by strength.
    pub const OFFERED: [Self; 6] =
        [Self::External, Self::ScramSha256Plus, Self::ScramSha256, Self::ScramSha1Plus, Self::ScramSha1, Self::Plain];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha1Plus => "SCRAM-SHA-1-PLUS",
            Self::ScramSha1 => "SCRAM-SHA-1",
            Self::External => "EXTERNAL",
            Self::Plain => "PLAIN",
        }
    }

    /// The mechanism of that name, if we speak it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::OFFERED.into_iter().find(|mechanism| mechanism.name() == name)
    }

    /// The hash, if it is a SCRAM mechanism.
    pub const fn hash(self) -> Option<Hash> {
        match self {
            Self::ScramSha256Plus | Self::ScramSha256 => Some(Hash::Sha256),
            Self::ScramSha1Plus | Self::ScramSha1 => Some(Hash::Sha1),
            Self::External | Self::Plain => None,
        }
    }

    /// Whether it binds to the TLS channel (`-PLUS`, RFC 5802 §6).
    pub const fn binds_channel(self) -> bool {
        matches!(self, Self::ScramSha256Plus | Self::ScramSha1Plus)
    }
}

/// What one attempt is answered with (RFC 6120 §6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the protocol's own words")]
pub enum SaslFailure {
    Aborted,
    AccountDisabled,
    CredentialsExpired,
    EncryptionRequired,
    IncorrectEncoding,
    InvalidAuthzid,
    InvalidMechanism,
    MalformedRequest,
    MechanismTooWeak,
    NotAuthorized,
    TemporaryAuthFailure,
}

impl SaslFailure {
    /// Element name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::AccountDisabled => "account-disabled",
            Self::CredentialsExpired => "credentials-expired",
            Self::EncryptionRequired => "encryption-required",
            Self::IncorrectEncoding => "incorrect-encoding",
            Self::InvalidAuthzid => "invalid-authzid",
            Self::InvalidMechanism => "invalid-mechanism",
            Self::MalformedRequest => "malformed-request",
            Self::MechanismTooWeak => "mechanism-too-weak",
            Self::NotAuthorized => "not-authorized",
            Self::TemporaryAuthFailure => "temporary-auth-failure",
        }
    }
}

/// Channel-binding data of a TLS connection. Empty: not available.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelBinding {
    /// `tls-exporter` (RFC 9266), 32 bytes; TLS 1.3, or 1.2 with extended master secret.
    pub exporter: Box<[u8]>,
    /// `tls-server-end-point` (RFC 5929 §4): hash of the server's certificate.
    pub server_end_point: Box<[u8]>,
}

impl ChannelBinding {
    /// The types available, by registered name, with their data.
    pub fn types(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        [("tls-exporter", &*self.exporter), ("tls-server-end-point", &*self.server_end_point)]
            .into_iter()
            .filter(|(_, data)| !data.is_empty())
    }

    /// The data of that type, if it is available.
    pub fn data(&self, name: &str) -> Option<&[u8]> {
        self.types().find_map(|(known, data)| (known == name).then_some(data))
    }

    /// Whether no type is available.
    pub fn is_empty(&self) -> bool {
        self.types().next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mechanism_is_found_by_its_name_and_no_other_is() {
        for mechanism in Mechanism::OFFERED {
            assert_eq!(Mechanism::from_name(mechanism.name()), Some(mechanism));
        }
        for name in ["", "plain", "SCRAM-SHA-512", "SCRAM-SHA-256-", "ANONYMOUS"] {
            assert_eq!(Mechanism::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn channel_binding_types_without_data_are_not_available() {
        let binding = ChannelBinding { exporter: Box::default(), server_end_point: Box::new([1, 2]) };
        assert_eq!(binding.data("tls-exporter"), None);
        assert_eq!(binding.data("tls-server-end-point"), Some(&[1, 2][..]));
        assert_eq!(binding.data("tls-unique"), None);
        assert!(!binding.is_empty());
        assert!(ChannelBinding::default().is_empty());
    }
}
