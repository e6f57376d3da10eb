//! PLAIN (RFC 4616): the password itself, so only where TLS hides it.

use super::SaslFailure;

/// A PLAIN message, taken apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Plain<'a> {
    /// Whom to act as; empty: the account itself.
    pub authzid: &'a str,
    /// The account's name.
    pub username: &'a str,
    /// The password.
    pub password: &'a str,
}

impl<'a> Plain<'a> {
    /// Takes `[authzid] NUL authcid NUL passwd` apart.
    ///
    /// # Errors
    /// [`SaslFailure::MalformedRequest`] unless it is UTF-8 of exactly three parts, the latter two not empty.
    pub fn parse(message: &'a [u8]) -> Result<Self, SaslFailure> {
        let malformed = SaslFailure::MalformedRequest;
        let text = std::str::from_utf8(message).map_err(|_| malformed)?;
        let mut parts = text.split('\0');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(authzid), Some(username), Some(password), None) if !username.is_empty() && !password.is_empty() => {
                Ok(Self { authzid, username, password })
            }
            _ => Err(malformed),
        }
    }
}

impl std::fmt::Debug for Plain<'_> {
    /// Leaves the password out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plain")
            .field("authzid", &self.authzid)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_three_parts_is_taken_apart() {
        let check = |message: &str, authzid, username, password| {
            assert_eq!(Plain::parse(message.as_bytes()), Ok(Plain { authzid, username, password }));
        };
        check("\0tim\0tanstaaftanstaaf", "", "tim", "tanstaaftanstaaf"); // RFC 4616 §4
        check("Ursel\0Kurt\0xipj3plmq", "Ursel", "Kurt", "xipj3plmq");
    }

    #[test]
    fn anything_else_is_malformed() {
        for message in [&b""[..], b"tim", b"\0tim", b"\0tim\0", b"\0\0pass", b"\0tim\0pa\0ss", b"\0t\xffm\0pass"] {
            assert_eq!(Plain::parse(message), Err(SaslFailure::MalformedRequest), "{message:?}");
        }
    }

    #[test]
    fn the_password_is_not_printed() {
        assert!(!format!("{:?}", Plain::parse(b"\0tim\0secret")).contains("secret"));
    }
}
