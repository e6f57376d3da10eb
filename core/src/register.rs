//! In-band registration (XEP-0077 v2.4): what is asked and what is answered, with forms that are signed (XEP-0348 v0.3).
//!
//! Called by [`crate::stream`] before a client has authenticated, and by the services after. An [`Offer`] is a form that
//! was given to somebody, with a token that is good for one submission of theirs; [`Asked`] is what they say;
//! [`Registration`] is an account that is asked for, checked as far as that can be done without asking anybody.
//!
//! Differs from XEP-0077 §3.1: there are no fields outside of the form where an account is made only for who signs it;
//! and FORM_TYPE is that of XEP-0348, which demands it. Names of fields are in lower case, as deployed clients have them.

use std::fmt;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::forms::{FORM_TYPE, form_type};
use crate::jid::Jid;
use crate::ns;
use crate::precis::prepare_password;
use crate::signed::{self, Fields, FieldsError};
use crate::stanza::{Condition, StanzaError};
use crate::xml::read::Node;
use crate::xml::write;

/// The field of the new account's name.
pub const USERNAME: &str = "username";
/// The field of its password.
pub const PASSWORD: &str = "password";

/// Longest nonce, consumer key, in bytes. A client's nonce has 32.
const OPAQUE_BYTES_MAX: usize = 128;

/// A form given to somebody: the token in it and the token's secret. They are good once, for who got them.
#[derive(Clone, PartialEq, Eq)]
pub struct Offer {
    token: String,
    secret: String,
}

impl Offer {
    /// Makes an offer of 32 random bytes.
    pub fn new(random: &[u8; 32]) -> Self {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let (token, secret) = random.split_at(16);
        Self { token: hex(token), secret: hex(secret) }
    }

    /// The offer of that number, of a seed that nobody else knows.
    pub(crate) fn derive(seed: &[u8; 16], number: u8) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"form of a stream");
        hash.update(seed);
        hash.update([number]);
        Self::new(&hash.finalize().into())
    }

    /// Appends the query with the form. `registered`: the name of who asks, if it has an account already; `unsigned`:
    /// whether accounts are made for who does not sign, so that clients which know no forms can ask for one as well.
    pub fn write(&self, out: &mut Vec<u8>, registered: Option<&str>, unsigned: bool) {
        out.extend_from_slice(b"<query");
        write::attr(out, "xmlns", ns::REGISTER);
        out.push(b'>');
        match registered {
            Some(name) => {
                out.extend_from_slice(b"<registered/><username>");
                write::text(out, name);
                out.extend_from_slice(b"</username><password/>");
            }
            None if unsigned => out.extend_from_slice(b"<username/><password/>"),
            None => {}
        }
        let instructions = if unsigned { "Choose a name and a password." } else { "Signed registration required." };
        out.extend_from_slice(b"<instructions>");
        out.extend_from_slice(instructions.as_bytes());
        out.extend_from_slice(b"</instructions><x");
        write::attr(out, "xmlns", ns::DATA_FORMS);
        write::attr(out, "type", "form");
        out.push(b'>');
        for (var, kind, value) in [
            (FORM_TYPE, "hidden", Some(ns::SIGNED_FORMS)),
            (USERNAME, "text-single", None),
            (PASSWORD, "text-private", None),
            (signed::VERSION, "hidden", Some("1.0")),
            (signed::METHOD, "hidden", Some(signed::Method::HmacSha1.name())),
            (signed::TOKEN, "hidden", Some(&*self.token)),
            (signed::TOKEN_SECRET, "hidden", Some(&*self.secret)),
            (signed::NONCE, "hidden", Some("")),
            (signed::TIMESTAMP, "hidden", Some("")),
            (signed::CONSUMER_KEY, "hidden", Some("")),
            (signed::SIGNATURE, "hidden", Some("")),
        ] {
            out.extend_from_slice(b"<field");
            write::attr(out, "type", kind);
            write::attr(out, "var", var);
            out.push(b'>');
            match value {
                None => out.extend_from_slice(b"<required/>"),
                Some("") => out.extend_from_slice(b"<value/>"),
                Some(value) => {
                    out.extend_from_slice(b"<value>");
                    write::text(out, value);
                    out.extend_from_slice(b"</value>");
                }
            }
            out.extend_from_slice(b"</field>");
        }
        out.extend_from_slice(b"</x></query>");
    }
}

impl fmt::Debug for Offer {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").field("token", &self.token).finish_non_exhaustive()
    }
}

/// What a set of `jabber:iq:register` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// That the account of who asks be no more (XEP-0077 §3.2).
    Remove,
    /// That there be an account of that name with that password, or that this be its password (§3.1, §3.3).
    Account(Claim),
}

/// A name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Claim {
    /// As given.
    pub username: String,
    /// As given.
    pub password: Zeroizing<String>,
    /// The form that it came in, if that says who signed it.
    pub form: Option<Box<Fields>>,
}

impl fmt::Debug for Claim {
    /// Leaves the password out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("username", &self.username).field("form", &self.form).finish_non_exhaustive()
    }
}

impl Asked {
    /// Reads the query of a set.
    ///
    /// # Errors
    /// `bad-request` for what is no such query; `not-acceptable` for a field that is missing, or there twice.
    pub fn read(query: &Node) -> Result<Self, StanzaError> {
        if query.name != "query" || query.ns != ns::REGISTER {
            return Err(Condition::BadRequest.into());
        }
        if query.child("remove", ns::REGISTER).is_some() {
            // XEP-0077 §3.2: beside it there must be nothing.
            return if query.children.len() == 1 { Ok(Self::Remove) } else { Err(Condition::BadRequest.into()) };
        }
        let missing = StanzaError::from(Condition::NotAcceptable).with_text("username and password are required");
        if let Some(x) = query.child("x", ns::DATA_FORMS) {
            let fields = Fields::read(x).map_err(form_error)?;
            if !matches!(form_type(x), Some(ns::SIGNED_FORMS | ns::REGISTER)) {
                return Err(Condition::BadRequest.with_text("the form has another FORM_TYPE than expected"));
            }
            let (Some(username), Some(password)) = (fields.get(USERNAME), fields.get(PASSWORD)) else {
                return Err(missing);
            };
            let (username, password) = (username.to_owned(), password.to_owned().into());
            let is_signed = fields.get(signed::SIGNATURE).is_some_and(|signature| !signature.is_empty());
            return Ok(Self::Account(Claim { username, password, form: is_signed.then(|| Box::new(fields)) }));
        }
        let (Some(username), Some(password)) =
            (query.child(USERNAME, ns::REGISTER), query.child(PASSWORD, ns::REGISTER))
        else {
            return Err(missing);
        };
        Ok(Self::Account(Claim { username: username.text.clone(), password: password.text.clone().into(), form: None }))
    }
}

const fn form_error(error: FieldsError) -> StanzaError {
    match error {
        FieldsError::NotASubmission => Condition::BadRequest.with_text("a data form of type 'submit' is expected"),
        FieldsError::Duplicate => Condition::NotAcceptable.with_text("each field must have a name of its own"),
        FieldsError::SeveralValues => Condition::NotAcceptable.with_text("a field of a signed form has one value"),
        FieldsError::TooLarge => Condition::NotAcceptable.with_text("the form is too large"),
    }
}

/// An account that is asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its bare JID.
    pub account: Jid,
    /// Its password, which OpaqueString allows.
    pub password: Zeroizing<String>,
    /// Who signed for it; `None` if nobody did.
    pub signed: Option<Box<Signed>>,
}

impl fmt::Debug for Registration {
    /// Leaves the password out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("account", &self.account)
            .field("signed", &self.signed)
            .finish_non_exhaustive()
    }
}

/// A signed form whose signature is to be verified yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed {
    fields: Fields,
    /// The stanza's `to`, if it had one.
    to: Option<String>,
    /// The domain.
    domain: String,
    /// Of the offer, whatever the form says.
    token_secret: String,
    /// What the sender made up to be used once; 1 to 128 bytes.
    pub nonce: String,
    /// When it signed, in seconds since the Unix epoch.
    pub timestamp: u64,
    /// Whose key it was signed with; 1 to 128 bytes.
    pub consumer_key: String,
}

impl Signed {
    /// Whether it was signed with this secret of the consumer's.
    pub fn is_signed_with(&self, consumer_secret: &str) -> bool {
        let addresses = ["", &self.domain, self.to.as_deref().unwrap_or_default()];
        signed::verify(&self.fields, &addresses, (consumer_secret, &self.token_secret))
    }
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").field("consumer_key", &self.consumer_key).finish_non_exhaustive()
    }
}

/// What is wrong with every signature that does not do, whatever is wrong with it: who may not sign learns nothing.
pub const BAD_SIGNATURE: StanzaError = Condition::BadRequest.with_text("the form is not signed as it must be");

impl Claim {
    /// Checks an account that somebody without authority over it asks for. `offer`: the form that this answers, which is
    /// used up by it. `to`: that of the stanza. `unsigned`: whether it need not be signed.
    ///
    /// # Errors
    /// `not-allowed` if it is not signed and must be; `bad-request` for a signature that does not do; `not-acceptable` for
    /// a name or a password that cannot be one, or for a field that is missing (XEP-0077 §3.1, XEP-0348 §4).
    pub fn check(
        self,
        domain: &str,
        to: Option<&str>,
        offer: Option<Offer>,
        unsigned: bool,
    ) -> Result<Registration, StanzaError> {
        let Self { username, password, form } = self;
        if form.is_none() && !unsigned {
            return Err(Condition::NotAllowed.with_text("the form must be signed (XEP-0348)"));
        }
        // Client libraries put names into SCRAM messages as they are, where these two would end them.
        if username.contains([',', '=']) {
            return Err(Condition::NotAcceptable.with_text("',' and '=' are not allowed in new names"));
        }
        let account = Jid::from_parts(&username, domain)
            .map_err(|_| Condition::NotAcceptable.with_text("the name has characters that are not allowed"))?;
        check_password(&password)?;
        let signed = form.map(|fields| Signed::of(*fields, domain, to, offer).map(Box::new)).transpose()?;
        Ok(Registration { account, password, signed })
    }
}

/// Checks a new password.
///
/// # Errors
/// `not-acceptable` if OpaqueString refuses it, or it is empty.
pub fn check_password(password: &str) -> Result<(), StanzaError> {
    match prepare_password(password) {
        Some(_) => Ok(()),
        None => Err(Condition::NotAcceptable.with_text("the password is empty or has characters that are not allowed")),
    }
}

impl Signed {
    fn of(fields: Fields, domain: &str, to: Option<&str>, offer: Option<Offer>) -> Result<Self, StanzaError> {
        // The token is that of the form which was given here, and was not used before.
        let offer = offer.filter(|offer| fields.get(signed::TOKEN) == Some(&*offer.token)).ok_or(BAD_SIGNATURE)?;
        if fields.get(signed::VERSION) != Some("1.0")
            || fields.get(signed::METHOD).and_then(signed::Method::from_name).is_none()
        {
            return Err(BAD_SIGNATURE);
        }
        let opaque = |var| {
            let value = fields.get(var).filter(|value| (1..=OPAQUE_BYTES_MAX).contains(&value.len()));
            value.map(str::to_owned).ok_or(Condition::NotAcceptable.with_text("a field of the signature is missing"))
        };
        let (nonce, consumer_key, timestamp) =
            (opaque(signed::NONCE)?, opaque(signed::CONSUMER_KEY)?, opaque(signed::TIMESTAMP)?);
        let digits = timestamp.bytes().all(|byte| byte.is_ascii_digit());
        let timestamp = timestamp.parse().ok().filter(|_| digits).ok_or(BAD_SIGNATURE)?;
        Ok(Self {
            to: to.map(str::to_owned),
            domain: domain.to_owned(),
            token_secret: offer.secret,
            nonce,
            timestamp,
            consumer_key,
            fields,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signed::sign;

    fn offer() -> Offer {
        Offer::new(&std::array::from_fn(|index| index as u8))
    }

    /// The form of an offer, as its recipient fills it in.
    fn filled(offer: &Offer) -> Fields {
        let mut out = Vec::new();
        offer.write(&mut out, None, false);
        let query = Node::parse(std::str::from_utf8(&out).unwrap(), "").unwrap();
        let mut x = query.child("x", ns::DATA_FORMS).unwrap().clone();
        x.attrs.iter_mut().find(|(name, _)| name == "type").unwrap().1 = "submit".to_owned();
        Fields::read(&x)
            .unwrap()
            .with(USERNAME, "sensor.0001")
            .with(PASSWORD, "Pa55-w0rd")
            .with(signed::NONCE, "n")
            .with(signed::TIMESTAMP, "1546300800")
            .with(signed::CONSUMER_KEY, "key")
    }

    fn signed(fields: Fields, offer: &Offer, to: &str) -> Fields {
        let signature = sign(&fields, to, ("secret", &offer.secret)).unwrap();
        fields.with(signed::SIGNATURE, &signature)
    }

    fn query(fields: &Fields) -> Node {
        let mut xml = "<query xmlns='jabber:iq:register'><x xmlns='jabber:x:data' type='submit'>".to_owned();
        for (var, value) in fields.iter() {
            xml.push_str(&format!("<field var='{var}'><value>{value}</value></field>"));
        }
        xml.push_str("</x></query>");
        Node::parse(&xml, "").unwrap()
    }

    fn check(fields: &Fields, given: Option<Offer>) -> Result<Registration, StanzaError> {
        let Asked::Account(claim) = Asked::read(&query(fields))? else { panic!("not an account") };
        claim.check("things.example", Some("things.example"), given, false)
    }

    fn condition(result: Result<Registration, StanzaError>) -> Condition {
        result.expect_err("is refused").condition
    }

    #[test]
    fn the_form_has_all_that_clients_look_for() {
        let mut out = Vec::new();
        offer().write(&mut out, None, false);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "<query xmlns='jabber:iq:register'><instructions>Signed registration required.</instructions>\
             <x xmlns='jabber:x:data' type='form'>\
             <field type='hidden' var='FORM_TYPE'><value>urn:xmpp:xdata:signature:oauth1</value></field>\
             <field type='text-single' var='username'><required/></field>\
             <field type='text-private' var='password'><required/></field>\
             <field type='hidden' var='oauth_version'><value>1.0</value></field>\
             <field type='hidden' var='oauth_signature_method'><value>HMAC-SHA1</value></field>\
             <field type='hidden' var='oauth_token'><value>000102030405060708090a0b0c0d0e0f</value></field>\
             <field type='hidden' var='oauth_token_secret'><value>101112131415161718191a1b1c1d1e1f</value></field>\
             <field type='hidden' var='oauth_nonce'><value/></field>\
             <field type='hidden' var='oauth_timestamp'><value/></field>\
             <field type='hidden' var='oauth_consumer_key'><value/></field>\
             <field type='hidden' var='oauth_signature'><value/></field></x></query>"
        );
        let mut out = Vec::new();
        offer().write(&mut out, Some("a<b"), false);
        let registered = "<registered/><username>a&lt;b</username><password/><instructions>";
        assert!(String::from_utf8(out).unwrap().contains(registered));
        let mut out = Vec::new();
        offer().write(&mut out, None, true);
        let plain = "'><username/><password/><instructions>Choose a name and a password.</instructions><x ";
        assert!(String::from_utf8(out).unwrap().contains(plain));
    }

    #[test]
    fn a_signed_form_is_an_account_asked_for() {
        for to in ["", "things.example"] {
            let offer = offer();
            let registration = check(&signed(filled(&offer), &offer, to), Some(offer)).unwrap();
            assert_eq!(registration.account.as_str(), "sensor.0001@things.example");
            assert_eq!(registration.password.as_str(), "Pa55-w0rd");
            let signed = registration.signed.as_ref().unwrap();
            assert_eq!((&*signed.consumer_key, &*signed.nonce, signed.timestamp), ("key", "n", 1_546_300_800));
            assert!(signed.is_signed_with("secret") && !signed.is_signed_with("other"));
            assert!(!format!("{registration:?}").contains("Pa55"));
        }
    }

    #[test]
    fn a_token_is_good_for_the_form_it_came_in() {
        let (offer, other) = (offer(), Offer::new(&[7; 32]));
        let fields = signed(filled(&offer), &offer, "");
        assert_eq!(check(&fields, None), Err(BAD_SIGNATURE));
        assert_eq!(check(&fields, Some(other)), Err(BAD_SIGNATURE));
        let numbers: std::collections::HashSet<_> =
            (0..=255).map(|number| Offer::derive(&[1; 16], number).token).collect();
        assert_eq!(numbers.len(), 256);
        assert_ne!(Offer::derive(&[1; 16], 0), Offer::derive(&[2; 16], 0));
    }

    #[test]
    fn what_cannot_be_an_account_is_refused() {
        let of = |fields: Fields| {
            let offer = offer();
            condition(check(&signed(fields, &offer, ""), Some(offer)))
        };
        for name in ["", "a b", "a@b", "a,b", "a=b", "♚", &"a".repeat(1_023 + 1)] {
            assert_eq!(of(filled(&offer()).with(USERNAME, name)), Condition::NotAcceptable, "{name}");
        }
        for password in ["", "a\u{7}b"] {
            // Control characters do not pass the scanner; a password may hold them all the same.
            let claim = Claim { username: "a".into(), password: password.to_owned().into(), form: None };
            assert_eq!(condition(claim.check("d", None, None, true)), Condition::NotAcceptable);
        }
        for (var, value, expected) in [
            (signed::VERSION, "2.0", Condition::BadRequest),
            (signed::TIMESTAMP, "-1", Condition::BadRequest),
            (signed::TIMESTAMP, "+1", Condition::BadRequest),
            (signed::TIMESTAMP, "99999999999999999999999", Condition::BadRequest),
            (signed::TIMESTAMP, "", Condition::NotAcceptable),
            (signed::NONCE, "", Condition::NotAcceptable),
            (signed::CONSUMER_KEY, &"k".repeat(129), Condition::NotAcceptable),
            (FORM_TYPE, "urn:x", Condition::BadRequest),
        ] {
            assert_eq!(of(filled(&offer()).with(var, value)), expected, "{var} {value}");
        }
        let offer = offer();
        let plain = signed(filled(&offer), &offer, "").with(signed::METHOD, "PLAINTEXT");
        assert_eq!(check(&plain, Some(offer)), Err(BAD_SIGNATURE));
    }

    #[test]
    fn who_does_not_sign_is_not_allowed_unless_that_is_said() {
        let fields = filled(&offer());
        assert_eq!(condition(check(&fields, Some(offer()))), Condition::NotAllowed);
        let plain = "<query xmlns='jabber:iq:register'><username>Bill</username><password>Calliope</password></query>";
        let Ok(Asked::Account(claim)) = Asked::read(&Node::parse(plain, "").unwrap()) else { panic!("an account") };
        assert!(!format!("{claim:?}").contains("Calliope"));
        assert_eq!(condition(claim.clone().check("d.example", None, None, false)), Condition::NotAllowed);
        let registration = claim.check("d.example", None, None, true).unwrap();
        assert_eq!((registration.account.as_str(), registration.signed), ("bill@d.example", None));
    }

    #[test]
    fn a_query_is_one_thing_or_another() {
        let asked = |inside: &str| {
            Asked::read(&Node::parse(&format!("<query xmlns='jabber:iq:register'>{inside}</query>"), "").unwrap())
                .map_err(|error| error.condition)
        };
        assert_eq!(asked("<remove/>"), Ok(Asked::Remove));
        assert_eq!(asked("<remove/><username>a</username>"), Err(Condition::BadRequest));
        assert_eq!(asked(""), Err(Condition::NotAcceptable));
        assert_eq!(asked("<username>a</username>"), Err(Condition::NotAcceptable));
        assert_eq!(asked("<x xmlns='jabber:x:data' type='cancel'/>"), Err(Condition::BadRequest));
        let twice = "<x xmlns='jabber:x:data' type='submit'><field var='username'/><field var='username'/></x>";
        assert_eq!(asked(twice), Err(Condition::NotAcceptable));
        let other = Node::parse("<other xmlns='jabber:iq:register'/>", "").unwrap();
        assert!(Asked::read(&other).is_err());
    }
}
