//! Signing a registration form with a maker's API key (XEP-0348 v0.3), as deployed clients do.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use plaza_core::ns;
use plaza_core::xml::read::Node;
use plaza_core::xml::write;
use sha1::Sha1;

/// A maker's API key: a public name and a secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ApiKey {
    /// Its name.
    pub key: String,
    secret: String,
}

impl std::fmt::Debug for ApiKey {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKey").field("key", &self.key).finish_non_exhaustive()
    }
}

impl ApiKey {
    /// Reads `KEY:SECRET`.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.trim().split_once(':') {
            Some((key, secret)) if !key.is_empty() && !secret.is_empty() => {
                Ok(Self { key: key.to_owned(), secret: secret.to_owned() })
            }
            Some(_) | None => Err("an API key is KEY:SECRET".to_owned()),
        }
    }
}

const TOKEN_SECRET: &str = "oauth_token_secret";
const SIGNATURE: &str = "oauth_signature";
/// Fields that a form has if it is to be signed.
const NEEDED: [&str; 8] = [
    "oauth_version",
    "oauth_signature_method",
    "oauth_token",
    TOKEN_SECRET,
    "oauth_nonce",
    "oauth_timestamp",
    "oauth_consumer_key",
    SIGNATURE,
];

/// Fills the form of a registration, signs it, and appends the submission. `nonce` and `unix_seconds` make it the only one
/// of its kind.
///
/// # Errors
/// In words: the form lacks what it must have.
pub(crate) fn fill(
    query: &Node,
    user: &str,
    password: &str,
    key: &ApiKey,
    nonce: &str,
    unix_seconds: u64,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let form = query.child("x", ns::DATA_FORMS).ok_or("no form to sign up with")?;
    let mut fields: Vec<(String, String)> = Vec::new();
    for field in form.children.iter().filter(|child| child.name == "field") {
        let Some(var) = field.attr("var") else { continue };
        let value = field.children.iter().find(|child| child.name == "value").map_or("", |value| value.text.as_str());
        fields.push((var.to_owned(), value.to_owned()));
    }
    for name in NEEDED.into_iter().chain(["username", "password"]) {
        if !fields.iter().any(|(var, _)| var == name) {
            return Err(format!("the form has no {name}"));
        }
    }
    let timestamp = unix_seconds.to_string();
    let ours = [
        ("username", user),
        ("password", password),
        ("oauth_version", "1.0"),
        ("oauth_signature_method", "HMAC-SHA1"),
        ("oauth_nonce", nonce),
        ("oauth_timestamp", &timestamp),
        ("oauth_consumer_key", &key.key),
    ];
    for (var, value) in &mut fields {
        if let Some((_, ours)) = ours.iter().find(|(name, _)| name == var) {
            (*ours).clone_into(value);
        }
    }
    let signature = sign(&fields, key);
    out.extend_from_slice(b"<query xmlns='jabber:iq:register'><x xmlns='jabber:x:data' type='submit'>");
    for (var, value) in &fields {
        out.extend_from_slice(b"<field");
        write::attr(out, "var", var);
        out.extend_from_slice(b"><value>");
        write::text(out, if var == SIGNATURE { &signature } else { value });
        out.extend_from_slice(b"</value></field>");
    }
    out.extend_from_slice(b"</x></query>");
    Ok(())
}

/// The value of the signature's field: HMAC-SHA1 over what deployed clients sign, for the destination they name, which is
/// none.
fn sign(fields: &[(String, String)], key: &ApiKey) -> String {
    let mut signed: Vec<&(String, String)> =
        fields.iter().filter(|(var, _)| var != TOKEN_SECRET && var != SIGNATURE).collect();
    signed.sort();
    let pairs: Vec<String> = signed.iter().map(|(var, value)| format!("{}={}", escape(var), escape(value))).collect();
    let base = format!("submit&&{}", escape(&pairs.join("&")));
    let token_secret = fields.iter().find(|(var, _)| var == TOKEN_SECRET).map_or("", |(_, value)| value);
    let hmac_key = format!("{}&{}", escape(&key.secret), escape(token_secret));
    let mut hmac = Hmac::<Sha1>::new_from_slice(hmac_key.as_bytes()).expect("HMAC takes keys of any length");
    hmac.update(base.as_bytes());
    escape(&BASE64_STANDARD.encode(hmac.finalize().into_bytes()))
}

/// Percent-encoding (RFC 3986 §2.1): all but the unreserved.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::wire::tests::stanza;
    use super::*;

    fn form() -> String {
        let field = |var: &str, value: &str| format!("<field type='hidden' var='{var}'><value>{value}</value></field>");
        let fields = [
            field("FORM_TYPE", "urn:xmpp:xdata:signature:oauth1"),
            "<field type='text-single' var='username'><required/></field>".to_owned(),
            "<field type='text-private' var='password'><required/></field>".to_owned(),
            field("oauth_version", "1.0"),
            field("oauth_signature_method", "HMAC-SHA1"),
            field("oauth_token", "tk-5d1f0c6e"),
            field("oauth_token_secret", "ts-93ab71"),
            field("oauth_nonce", ""),
            field("oauth_timestamp", ""),
            field("oauth_consumer_key", ""),
            field("oauth_signature", ""),
        ];
        format!(
            "<query xmlns='jabber:iq:register'><instructions>Signed registration required.</instructions>\
             <x xmlns='jabber:x:data' type='form'>{}</x></query>",
            fields.concat()
        )
    }

    fn filled(form: &str, password: &str) -> Result<String, String> {
        let key = ApiKey::parse("4d5a0e7b9c:c0nsumer+secret/==").unwrap();
        let nonce = "00112233445566778899aabbccddeeff";
        let mut out = Vec::new();
        fill(&stanza(form), "sensor.0001", password, &key, nonce, 1_546_300_800, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn forms_are_signed_as_deployed_clients_do() {
        for (password, signature) in
            [("Pa55-w0rd", "Z8pd8YOAB7dOpiWcCF3bk6Nwqf0%3D"), ("pÄss w0rd&=", "w52J6MTK%2BcEva794dWCIwMhQ8ZY%3D")]
        {
            let text = filled(&form(), password).unwrap();
            let wanted = format!("<field var='oauth_signature'><value>{signature}</value></field>");
            assert!(text.contains(&wanted), "{text}");
        }
        let text = filled(&form(), "Pa55-w0rd").unwrap();
        assert!(text.starts_with("<query xmlns='jabber:iq:register'><x xmlns='jabber:x:data' type='submit'>"));
        assert!(text.contains("<field var='oauth_token_secret'><value>ts-93ab71</value></field>"), "{text}");
        assert!(text.contains("<field var='username'><value>sensor.0001</value></field>"), "{text}");
    }

    #[test]
    fn a_form_that_cannot_be_signed_is_not_sent() {
        for var in NEEDED.into_iter().chain(["username", "password"]) {
            let without = form().replace(&format!("var='{var}'"), "var='other'");
            assert_eq!(filled(&without, "x"), Err(format!("the form has no {var}")));
        }
        assert!(filled("<query xmlns='jabber:iq:register'><username/><password/></query>", "x").is_err());
        for text in ["", "key", "key:", ":secret"] {
            assert!(ApiKey::parse(text).is_err(), "{text}");
        }
        assert!(!format!("{:?}", ApiKey::parse("key:very-secret").unwrap()).contains("very-secret"));
    }
}
