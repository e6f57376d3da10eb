//! Signed data forms (XEP-0348 v0.3): a submission that its sender has proven to be theirs, with a secret that never
//! travels.
//!
//! Called by account creation ([`crate::register`]) and by the load tool. [`Fields`] are what was submitted, [`verify`]
//! says whether somebody who has both secrets signed them, [`sign`] signs. Deployed clients and the XEP disagree about
//! four details; all of them are tried, since they are made with the same secrets and so add no weakness:
//!
//! | Detail | XEP-0348 §3 | deployed clients | taken |
//! | --- | --- | --- | --- |
//! | address in the base string | where the form is sent | nothing | both, and the domain |
//! | escape of what is not ASCII | UTF-8, each byte | each UTF-16 code unit | both |
//! | order of fields | "sorted" | without regard to case | by bytes, and without regard to case |
//! | signature | escaped Base64 | escaped Base64 | that, and plain Base64 |
//!
//! `HMAC-SHA256` is an extension of ours. `PLAINTEXT`, which tells the secret, and `RSA-SHA1` are not taken.
//!
//! Spec: XEP-0348 v0.3 §3; RFC 5849 §3.4, §3.6.

use std::cmp::Ordering;
use std::fmt;
use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::ns;
use crate::sasl::scram::Hash;
use crate::xml::read::Node;

/// Where the method is named.
pub const METHOD: &str = "oauth_signature_method";
/// Where the signature stands; not signed itself.
pub const SIGNATURE: &str = "oauth_signature";
/// The one-time token.
pub const TOKEN: &str = "oauth_token";
/// Its secret; a part of the key, and not signed itself.
pub const TOKEN_SECRET: &str = "oauth_token_secret";
/// The version, `1.0`.
pub const VERSION: &str = "oauth_version";
/// What the sender made up to be used once.
pub const NONCE: &str = "oauth_nonce";
/// When the sender signed, in seconds since the Unix epoch.
pub const TIMESTAMP: &str = "oauth_timestamp";
/// Whose secret it is signed with.
pub const CONSUMER_KEY: &str = "oauth_consumer_key";

/// Most fields of a signed form: all of XEP-0348's and as many others.
const FIELDS_MAX: usize = 24;
/// Longest name or value, in bytes: a localpart's.
const TEXT_BYTES_MAX: usize = 1_023;

/// How a form is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the methods")]
pub enum Method {
    HmacSha1,
    HmacSha256,
}

impl Method {
    /// Value of [`METHOD`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::HmacSha1 => "HMAC-SHA1",
            Self::HmacSha256 => "HMAC-SHA256",
        }
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::HmacSha1, Self::HmacSha256].into_iter().find(|method| method.name() == name)
    }

    const fn hash(self) -> Hash {
        match self {
            Self::HmacSha1 => Hash::Sha1,
            Self::HmacSha256 => Hash::Sha256,
        }
    }
}

/// The fields of a submitted form, each named once and with one value. Their `Debug` form leaves the values out: a
/// password may be among them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, String)>);

/// Why a form cannot be a signed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldsError {
    /// Not a data form of type `submit`.
    NotASubmission,
    /// A field without a name, or with one that another has.
    Duplicate,
    /// A field with several values: how they are joined is the sender's secret.
    SeveralValues,
    /// Too many fields, or one that is too long.
    TooLarge,
}

impl Fields {
    /// Reads a submission. A field without a value has an empty one.
    ///
    /// # Errors
    /// [`FieldsError`].
    pub fn read(x: &Node) -> Result<Self, FieldsError> {
        if x.name != "x" || x.ns != ns::DATA_FORMS || x.attr("type") != Some("submit") {
            return Err(FieldsError::NotASubmission);
        }
        let mut fields = Self::default();
        for field in x.children.iter().filter(|child| child.name == "field" && child.ns == ns::DATA_FORMS) {
            let var = field.attr("var").unwrap_or_default();
            if var.is_empty() || fields.get(var).is_some() {
                return Err(FieldsError::Duplicate);
            }
            let mut values = field.children.iter().filter(|child| child.name == "value" && child.ns == ns::DATA_FORMS);
            let value = values.next().map_or("", |value| value.text.as_str());
            if values.next().is_some() {
                return Err(FieldsError::SeveralValues);
            }
            if fields.0.len() >= FIELDS_MAX || var.len() > TEXT_BYTES_MAX || value.len() > TEXT_BYTES_MAX {
                return Err(FieldsError::TooLarge);
            }
            fields.0.push((var.to_owned(), value.to_owned()));
        }
        Ok(fields)
    }

    /// These fields and one more, which replaces an earlier one of that name.
    #[must_use]
    pub fn with(mut self, var: &str, value: &str) -> Self {
        self.set(var, value);
        self
    }

    /// Sets a field.
    pub fn set(&mut self, var: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == var) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((var.to_owned(), value.to_owned())),
        }
    }

    /// A field's value.
    pub fn get(&self, var: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == var).map(|(_, value)| value.as_str())
    }

    /// All of them, in the order they came.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(var, value)| (var.as_str(), value.as_str()))
    }

    /// Those that are signed.
    fn signed(&self) -> Vec<(&str, &str)> {
        self.iter().filter(|(var, _)| !matches!(*var, SIGNATURE | TOKEN_SECRET)).collect()
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(var, _)| var)).finish()
    }
}

/// How characters are escaped that may not stand for themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    /// Each byte of UTF-8 (RFC 5849 §3.6).
    Utf8,
    /// Each code unit of UTF-16, with two digits or more.
    Utf16,
}

impl Escape {
    fn push(self, out: &mut String, text: &str) {
        for character in text.chars() {
            // RFC 3986 §2.3: what is unreserved stands for itself.
            if character.is_ascii_alphanumeric() || matches!(character, '-' | '.' | '_' | '~') {
                out.push(character);
                continue;
            }
            // Writing to a string does not fail.
            match self {
                Self::Utf8 => {
                    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                        _ = write!(out, "%{byte:02X}");
                    }
                }
                Self::Utf16 => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        _ = write!(out, "%{unit:02X}");
                    }
                }
            }
        }
    }

    fn of(self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() * 2);
        self.push(&mut out, text);
        out
    }
}

/// In which order fields are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// By bytes.
    Ordinal,
    /// Without regard to case.
    CaseInsensitive,
}

impl Order {
    fn compare(self, one: &str, other: &str) -> Ordering {
        match self {
            Self::Ordinal => one.cmp(other),
            Self::CaseInsensitive => {
                let folded = |text: &str| text.chars().flat_map(char::to_lowercase).collect::<String>();
                folded(one).cmp(&folded(other)).then_with(|| one.cmp(other))
            }
        }
    }
}

/// The parameter string: names and values, escaped, in order.
fn parameters(fields: &[(&str, &str)], escape: Escape, order: Order) -> String {
    let mut sorted = fields.to_vec();
    sorted.sort_by(|(one, _), (other, _)| order.compare(one, other));
    let mut out = String::new();
    for (var, value) in sorted {
        if !out.is_empty() {
            out.push('&');
        }
        escape.push(&mut out, var);
        out.push('=');
        escape.push(&mut out, value);
    }
    out
}

/// The base string of a submission.
fn base_string(parameters: &str, to: &str, escape: Escape) -> String {
    let mut out = String::with_capacity(parameters.len() * 2 + to.len() + 16);
    out.push_str("submit&");
    escape.push(&mut out, to);
    out.push('&');
    escape.push(&mut out, parameters);
    out
}

/// The key, of the consumer's secret and the token's.
fn key(secrets: (&str, &str), escape: Escape) -> Zeroizing<String> {
    Zeroizing::new(format!("{}&{}", escape.of(secrets.0), escape.of(secrets.1)))
}

/// The signature in Base64.
fn mac(method: Method, key: &str, base: &str) -> String {
    STANDARD.encode(method.hash().hmac(key.as_bytes(), &[base.as_bytes()]))
}

/// Signs fields as deployed clients do; gives the value of [`SIGNATURE`]. `to`: "" as those clients have it, or the
/// address that the form is sent to. `secrets`: the consumer's and the token's. `None` if the fields name no method that
/// we know.
pub fn sign(fields: &Fields, to: &str, secrets: (&str, &str)) -> Option<String> {
    let method = Method::from_name(fields.get(METHOD)?)?;
    let base = base_string(&parameters(&fields.signed(), Escape::Utf8, Order::Ordinal), to, Escape::Utf8);
    Some(Escape::Utf8.of(&mac(method, &key(secrets, Escape::Utf8), &base)))
}

/// Whether the fields are signed with both secrets, the consumer's and the token's, in one of the ways that are taken.
/// `addresses`: what may stand for the address, the most likely first. The comparison takes the same time wherever
/// signatures differ. A submission that is what it looks like, which is nearly all, costs a hash for each address.
pub fn verify(fields: &Fields, addresses: &[&str], secrets: (&str, &str)) -> bool {
    let (Some(method), Some(given)) = (fields.get(METHOD).and_then(Method::from_name), fields.get(SIGNATURE)) else {
        return false;
    };
    let signed = fields.signed();
    let plain = |text: &str| text.is_ascii();
    let all_ascii = signed.iter().all(|(var, value)| plain(var) && plain(value))
        && addresses.iter().all(|address| plain(address))
        && plain(secrets.0)
        && plain(secrets.1);
    let escapes: &[Escape] = if all_ascii { &[Escape::Utf8] } else { &[Escape::Utf16, Escape::Utf8] };
    let mut tried: Vec<(String, Zeroizing<String>)> = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        if addresses.iter().take(index).any(|before| before == address) {
            continue;
        }
        for &escape in escapes {
            for order in [Order::CaseInsensitive, Order::Ordinal] {
                let base = base_string(&parameters(&signed, escape, order), address, escape);
                let attempt = (base, key(secrets, escape));
                if tried.contains(&attempt) {
                    continue;
                }
                let expected = mac(method, &attempt.1, &attempt.0);
                let escaped = Escape::Utf8.of(&expected);
                let same = given.as_bytes().ct_eq(escaped.as_bytes()) | given.as_bytes().ct_eq(expected.as_bytes());
                if bool::from(same) {
                    return true;
                }
                tried.push(attempt);
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRETS: (&str, &str) = ("c0nsumer+secret/==", "ts-93ab71");
    const ADDRESSES: [&str; 2] = ["", "example.org"];
    const V1: &str = "Z8pd8YOAB7dOpiWcCF3bk6Nwqf0%3D";

    fn fields() -> Fields {
        let all = [
            ("FORM_TYPE", "urn:xmpp:xdata:signature:oauth1"),
            ("username", "sensor.0001"),
            ("password", "Pa55-w0rd"),
            (VERSION, "1.0"),
            (METHOD, "HMAC-SHA1"),
            (TOKEN, "tk-5d1f0c6e"),
            (TOKEN_SECRET, "ts-93ab71"),
            (NONCE, "00112233445566778899aabbccddeeff"),
            (TIMESTAMP, "1546300800"),
            (CONSUMER_KEY, "4d5a0e7b9c"),
        ];
        all.into_iter().fold(Fields::default(), |fields, (var, value)| fields.with(var, value))
    }

    fn is_signed(fields: &Fields, signature: &str) -> bool {
        verify(&fields.clone().with(SIGNATURE, signature), &ADDRESSES, SECRETS)
    }

    #[test]
    fn the_base_string_is_that_of_the_specification() {
        let parameters = parameters(&fields().signed(), Escape::Utf8, Order::Ordinal);
        assert_eq!(
            parameters,
            "FORM_TYPE=urn%3Axmpp%3Axdata%3Asignature%3Aoauth1&oauth_consumer_key=4d5a0e7b9c\
             &oauth_nonce=00112233445566778899aabbccddeeff&oauth_signature_method=HMAC-SHA1\
             &oauth_timestamp=1546300800&oauth_token=tk-5d1f0c6e&oauth_version=1.0&password=Pa55-w0rd\
             &username=sensor.0001"
        );
        assert_eq!(
            base_string(&parameters, "", Escape::Utf8),
            "submit&&FORM_TYPE%3Durn%253Axmpp%253Axdata%253Asignature%253Aoauth1%26oauth_consumer_key%3D4d5a0e7b9c\
             %26oauth_nonce%3D00112233445566778899aabbccddeeff%26oauth_signature_method%3DHMAC-SHA1\
             %26oauth_timestamp%3D1546300800%26oauth_token%3Dtk-5d1f0c6e%26oauth_version%3D1.0\
             %26password%3DPa55-w0rd%26username%3Dsensor.0001"
        );
    }

    #[test]
    fn signatures_of_the_specification_and_of_deployed_clients_are_taken() {
        let other_password = fields().with("password", "pÄss w0rd&=");
        let with_email = fields().with("email", "ops@example.net");
        let vectors = [
            ("V1", fields(), V1),
            ("V2", fields(), "myKnk%2BACYPZdzPHuWsmcWzC1HHQ%3D"),
            ("V3", fields().with(METHOD, "HMAC-SHA256"), "FQUIboNEQYZNa8DsFGsfy61XJSzJnjXUo7eF1RBe3wc%3D"),
            ("V4", other_password.clone(), "w52J6MTK%2BcEva794dWCIwMhQ8ZY%3D"),
            ("V5", other_password, "hMgk3m5COc47b7%2BL6QTW9TL7t84%3D"),
            ("V6", with_email.clone(), "YYq5mGAlR%2FEqCCr7CC%2FnPHoqolc%3D"),
            ("V7", with_email, "YzgLsghyVzdVVkEctvhffGsAWDM%3D"),
        ];
        for (name, fields, signature) in vectors {
            assert!(is_signed(&fields, signature), "{name}");
            let raw = signature.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=");
            assert!(is_signed(&fields, &raw), "{name}, not escaped");
        }
    }

    #[test]
    fn what_tells_the_secret_is_no_signature() {
        let plain = "c0nsumer%2Bsecret%2F%3D%3Dts-93ab71";
        for method in ["PLAINTEXT", "RSA-SHA1", "hmac-sha1", ""] {
            let fields = fields().with(METHOD, method);
            assert!(!is_signed(&fields, plain) && !is_signed(&fields, V1), "{method}");
            assert_eq!(sign(&fields, "", SECRETS), None);
        }
        assert!(!is_signed(&fields(), plain));
    }

    #[test]
    fn anything_else_is_not_signed() {
        for signature in
            ["", "Z8pd8YOAB7dOpiWcCF3bk6Nwqf1%3D", "Z8pd8YOAB7dOpiWcCF3bk6Nwqf0%3d", "Z8pd8YOAB7dOpiWcCF3bk6Nwqf0"]
        {
            assert!(!is_signed(&fields(), signature), "{signature}");
        }
        assert!(!verify(&fields(), &ADDRESSES, SECRETS), "no signature at all");
        for (var, value) in [("username", "sensor.0002"), (TOKEN, "tk-other"), (NONCE, "0"), ("more", "")] {
            assert!(!is_signed(&fields().with(var, value), V1), "{var}");
        }
        let signed = fields().with(SIGNATURE, V1);
        assert!(verify(&signed, &ADDRESSES, SECRETS));
        assert!(!verify(&signed, &["example.org"], SECRETS), "of another address");
        assert!(!verify(&signed, &ADDRESSES, ("c0nsumer", SECRETS.1)));
        assert!(!verify(&signed, &ADDRESSES, (SECRETS.0, "ts")));
        // What the form says of the token's secret does not count.
        assert!(verify(&signed.with(TOKEN_SECRET, "anything"), &ADDRESSES, SECRETS));
    }

    #[test]
    fn the_order_that_fields_come_in_means_nothing() {
        let mut turned = fields().with(SIGNATURE, V1);
        turned.0.reverse();
        assert!(verify(&turned, &ADDRESSES, SECRETS));
    }

    fn submission(fields: &str) -> Result<Fields, FieldsError> {
        let xml = format!("<x xmlns='jabber:x:data' type='submit'>{fields}</x>");
        Fields::read(&Node::parse(&xml, "").unwrap())
    }

    #[test]
    fn a_submission_names_each_field_once_with_one_value() {
        let read = submission("<field var='a'><value>1</value></field><field var='b'/><other/>").unwrap();
        assert_eq!(read.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "")]);
        assert!(!format!("{read:?}").contains('1'));
        let field = "<field var='a'><value>1</value></field>";
        assert_eq!(submission(&field.repeat(2)), Err(FieldsError::Duplicate));
        assert_eq!(submission("<field><value>1</value></field>"), Err(FieldsError::Duplicate));
        let two = "<field var='a'><value>1</value><value>2</value></field>";
        assert_eq!(submission(two), Err(FieldsError::SeveralValues));
        let many: String = (0..=FIELDS_MAX).map(|number| format!("<field var='a{number}'/>")).collect();
        assert_eq!(submission(&many), Err(FieldsError::TooLarge));
        let long = format!("<field var='a'><value>{}</value></field>", "x".repeat(TEXT_BYTES_MAX + 1));
        assert_eq!(submission(&long), Err(FieldsError::TooLarge));
        for form in ["<x xmlns='jabber:x:data' type='cancel'/>", "<x xmlns='jabber:x:data'/>", "<x type='submit'/>"] {
            assert_eq!(Fields::read(&Node::parse(form, "").unwrap()), Err(FieldsError::NotASubmission));
        }
    }

    proptest! {
        #[test]
        fn what_is_signed_here_is_taken_here(
            values in prop::collection::vec((".{1,8}", ".{0,20}"), 0..6), to in ".{0,8}", secret: String, token: String,
        ) {
            let mut fields = Fields::default();
            for (var, value) in &values {
                fields.set(var, value);
            }
            fields.set(METHOD, "HMAC-SHA1");
            let signature = sign(&fields, &to, (&secret, &token)).unwrap();
            fields.set(SIGNATURE, &signature);
            prop_assert!(verify(&fields, &["", &to], (&secret, &token)));
        }
    }
}
