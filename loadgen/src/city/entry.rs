//! Coming into the city: a stream, an account created with a signed form if need be, SASL, a resource.
//!
//! Called by [`super::streets`] with each element; performs no I/O. A new account is made on the unauthenticated stream,
//! which then goes on to authenticate (XEP-0077 v2.4 §3.1, XEP-0348 v0.3).

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use plaza_core::ns;
use plaza_core::sasl::client::ScramClient;
use plaza_core::sasl::scram::Hash;
use plaza_core::xml::read::Node;

use super::sign::{self, ApiKey};
use super::wire::condition;

const REGISTER: &str = "jabber:iq:register";
const REGISTER_FEATURE: &str = "http://jabber.org/features/iq-register";
const MECHANISM: &str = "SCRAM-SHA-256";

/// An account.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    /// Its name.
    pub user: String,
    /// Its password.
    pub password: String,
    /// With whose key it is to be created; `None`: it is there.
    pub maker: Option<ApiKey>,
    /// What SCRAM made of the password: by salt and iterations. Deployed clients keep it as well.
    pub salted: Option<(String, Arc<[u8]>)>,
}

/// What is drawn and read anew for each element.
#[derive(Debug, Clone)]
pub(crate) struct Fresh {
    /// Seconds since 1970.
    pub unix_seconds: u64,
    /// A nonce.
    pub nonce: String,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The next element.
    Wait,
    /// The TLS handshake, and then another stream.
    StartTls,
    /// Another stream: a header is the next thing to arrive.
    Restart,
    /// The session, with that full JID.
    Bound(String),
}

/// Why somebody could not come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// What was refused.
    pub kind: &'static str,
    /// In words.
    pub what: String,
    /// The server says to try again later.
    pub later: bool,
}

#[derive(Debug)]
enum State {
    Opening,
    Securing,
    Form,
    SigningUp,
    Challenged(ScramClient),
    Proving(ScramClient),
    Binding,
    Bind,
}

/// Somebody on the way in.
#[derive(Debug)]
pub(crate) struct Entry {
    state: State,
    account: Account,
    /// TLS is to come first.
    starttls: bool,
    /// The account was there when it was to be created.
    existed: bool,
}

impl Entry {
    /// At the beginning of a stream. `starttls`: TLS comes by STARTTLS.
    pub(crate) fn new(account: Account, starttls: bool) -> Self {
        Self { state: State::Opening, account, starttls, existed: false }
    }

    /// TLS stands.
    pub(crate) fn secured(&mut self) {
        self.starttls = false;
        self.state = State::Opening;
    }

    /// The account as it is now.
    pub(crate) fn into_account(self) -> Account {
        Account { maker: None, ..self.account }
    }

    /// Whether the account was there when it was to be created.
    pub(crate) fn existed(&self) -> bool {
        self.existed
    }

    /// Takes an element, and appends what is said to it.
    ///
    /// # Errors
    /// [`Refused`].
    pub(crate) fn take(&mut self, element: &Node, fresh: &Fresh, out: &mut Vec<u8>) -> Result<Step, Refused> {
        let is = |name: &str, ns: &str| element.name == name && element.ns == ns;
        let answers = |id: &str| is("iq", ns::CLIENT) && element.attr("id") == Some(id);
        if is("error", ns::STREAMS) {
            let condition = element.children.first().map_or("no condition", |child| &child.name);
            return refuse("stream error", condition, condition == "resource-constraint");
        }
        if is("failure", ns::SASL) {
            let condition = element.children.first().map_or("no condition", |child| &child.name);
            return refuse("authentication refused", condition, condition == "temporary-auth-failure");
        }
        match std::mem::replace(&mut self.state, State::Opening) {
            State::Opening if is("features", ns::STREAMS) => self.on_features(element, fresh, out),
            State::Securing if is("proceed", ns::TLS) => Ok(Step::StartTls),
            State::Form if answers("reg1") => self.on_form(element, fresh, out),
            State::SigningUp if answers("reg2") => self.on_signed_up(element, fresh, out),
            State::Challenged(scram) if is("challenge", ns::SASL) => self.on_challenge(scram, element, out),
            State::Proving(scram) if is("success", ns::SASL) => {
                if !scram.verify(&decode(&element.text)?) {
                    return refuse("authentication refused", "the server does not know the account", false);
                }
                self.state = State::Binding;
                Ok(Step::Restart)
            }
            State::Binding if is("features", ns::STREAMS) => {
                out.extend_from_slice(
                    b"<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
                );
                self.state = State::Bind;
                Ok(Step::Wait)
            }
            State::Bind if answers("bind") => {
                let jid = element.child("bind", ns::BIND).and_then(|bind| bind.child("jid", ns::BIND));
                match jid.filter(|_| element.attr("type") == Some("result")) {
                    Some(jid) => Ok(Step::Bound(jid.text.clone())),
                    None => {
                        let (condition, later) = condition(element);
                        refuse("bind refused", &condition, later)
                    }
                }
            }
            State::Opening
            | State::Securing
            | State::Form
            | State::SigningUp
            | State::Challenged(_)
            | State::Proving(_)
            | State::Binding
            | State::Bind => refuse("out of place while logging in", &element.name, false),
        }
    }

    fn on_features(&mut self, features: &Node, fresh: &Fresh, out: &mut Vec<u8>) -> Result<Step, Refused> {
        if self.starttls {
            if features.child("starttls", ns::TLS).is_none() {
                return refuse("no STARTTLS", "it is not offered", false);
            }
            out.extend_from_slice(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
            self.state = State::Securing;
            return Ok(Step::Wait);
        }
        let mechanisms = features.child("mechanisms", ns::SASL);
        let offers = |mechanisms: &Node| mechanisms.children.iter().any(|child| child.text == MECHANISM);
        if !mechanisms.is_some_and(offers) {
            return refuse("no mechanism", "SCRAM-SHA-256 is not offered", false);
        }
        if self.account.maker.is_none() {
            return self.authenticate(fresh, out);
        }
        if features.child("register", REGISTER_FEATURE).is_none() {
            return refuse("sign-up refused", "it is not offered", false);
        }
        out.extend_from_slice(b"<iq type='get' id='reg1'><query xmlns='jabber:iq:register'/></iq>");
        self.state = State::Form;
        Ok(Step::Wait)
    }

    fn on_form(&mut self, answer: &Node, fresh: &Fresh, out: &mut Vec<u8>) -> Result<Step, Refused> {
        let (Some(query), Some(maker)) = (answer.child("query", REGISTER), &self.account.maker) else {
            return refuse_stanza(answer);
        };
        if answer.attr("type") != Some("result") {
            return refuse_stanza(answer);
        }
        out.extend_from_slice(b"<iq type='set' id='reg2'");
        if let Some(from) = answer.attr("from") {
            plaza_core::xml::write::attr(out, "to", from);
        }
        out.push(b'>');
        let Account { user, password, .. } = &self.account;
        sign::fill(query, user, password, maker, &fresh.nonce, fresh.unix_seconds, out)
            .or_else(|what| refuse("sign-up refused", &what, false))?;
        out.extend_from_slice(b"</iq>");
        self.state = State::SigningUp;
        Ok(Step::Wait)
    }

    fn on_signed_up(&mut self, answer: &Node, fresh: &Fresh, out: &mut Vec<u8>) -> Result<Step, Refused> {
        if answer.attr("type") != Some("result") {
            self.existed = condition(answer).0 == "conflict";
            if !self.existed {
                return refuse_stanza(answer);
            }
        }
        self.account.maker = None;
        self.authenticate(fresh, out)
    }

    fn authenticate(&mut self, fresh: &Fresh, out: &mut Vec<u8>) -> Result<Step, Refused> {
        let Account { user, password, .. } = &self.account;
        let (scram, first) = ScramClient::start(Hash::Sha256, user, password, &fresh.nonce, None);
        let first = BASE64_STANDARD.encode(first);
        let auth = format!("<auth xmlns='{}' mechanism='{MECHANISM}'>{first}</auth>", ns::SASL);
        out.extend_from_slice(auth.as_bytes());
        self.state = State::Challenged(scram);
        Ok(Step::Wait)
    }

    fn on_challenge(&mut self, mut scram: ScramClient, challenge: &Node, out: &mut Vec<u8>) -> Result<Step, Refused> {
        let first = decode(&challenge.text)?;
        let salt = first.split_once(",s=").map_or("", |(_, salt)| salt);
        let known =
            self.account.salted.as_ref().filter(|(known, _)| known == salt).map(|(_, salted)| Arc::clone(salted));
        let Some(answer) = scram.answer(&first, known.as_deref()) else {
            return refuse("authentication refused", "the challenge was not to be answered", false);
        };
        self.account.salted = Some((salt.to_owned(), known.unwrap_or_else(|| scram.salted_password().into())));
        let answer = BASE64_STANDARD.encode(answer);
        out.extend_from_slice(format!("<response xmlns='{}'>{answer}</response>", ns::SASL).as_bytes());
        self.state = State::Proving(scram);
        Ok(Step::Wait)
    }
}

fn refuse<T>(kind: &'static str, what: &str, later: bool) -> Result<T, Refused> {
    Err(Refused { kind, what: what.to_owned(), later })
}

fn refuse_stanza<T>(stanza: &Node) -> Result<T, Refused> {
    let (condition, later) = condition(stanza);
    refuse("sign-up refused", &condition, later)
}

fn decode(text: &str) -> Result<String, Refused> {
    let bytes = BASE64_STANDARD.decode(text.trim()).unwrap_or_default();
    String::from_utf8(bytes).or_else(|_| refuse("authentication refused", "not Base64 of text", false))
}

#[cfg(test)]
mod tests {
    use plaza_core::sasl::ChannelBinding;
    use plaza_core::sasl::scram::{ClientFirst, derive};

    use super::super::wire::tests::stanza;
    use super::*;

    fn account(maker: bool) -> Account {
        let maker = maker.then(|| ApiKey::parse("key:secret").unwrap());
        Account { user: "lamp".to_owned(), password: "pencil".to_owned(), maker, salted: None }
    }

    fn take(entry: &mut Entry, text: &str) -> Result<(Step, String), Refused> {
        let mut out = Vec::new();
        let fresh = Fresh { unix_seconds: 1_546_300_800, nonce: "abc".to_owned() };
        let step = entry.take(&stanza(text), &fresh, &mut out)?;
        Ok((step, String::from_utf8(out).unwrap()))
    }

    const TLS_FEATURES: &str = "<features xmlns='http://etherx.jabber.org/streams'>\
        <starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></features>";
    const FEATURES: &str = "<features xmlns='http://etherx.jabber.org/streams'>\
        <mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-256</mechanism></mechanisms>\
        <register xmlns='http://jabber.org/features/iq-register'/></features>";
    const FORM: &str = "<iq type='result' id='reg1' from='city.example'><query xmlns='jabber:iq:register'>\
        <x xmlns='jabber:x:data' type='form'>\
        <field type='hidden' var='FORM_TYPE'><value>urn:xmpp:xdata:signature:oauth1</value></field>\
        <field type='text-single' var='username'><required/></field>\
        <field type='text-private' var='password'><required/></field>\
        <field type='hidden' var='oauth_version'><value>1.0</value></field>\
        <field type='hidden' var='oauth_signature_method'><value>HMAC-SHA1</value></field>\
        <field type='hidden' var='oauth_token'><value>t1</value></field>\
        <field type='hidden' var='oauth_token_secret'><value>t2</value></field>\
        <field type='hidden' var='oauth_nonce'><value/></field><field type='hidden' var='oauth_timestamp'><value/></field>\
        <field type='hidden' var='oauth_consumer_key'><value/></field>\
        <field type='hidden' var='oauth_signature'><value/></field></x></query></iq>";

    /// Goes through SASL and bind; gives what is known of the account afterwards.
    fn log_in(mut entry: Entry, auth: &str) -> Account {
        let inside = |text: &str| {
            let inside = text.split_once('>').unwrap().1.split_once('<').unwrap().0;
            String::from_utf8(BASE64_STANDARD.decode(inside).unwrap()).unwrap()
        };
        let first = inside(auth);
        let keys = derive(Hash::Sha256, "pencil", b"0123456789abcdef", 5).unwrap();
        let server = ClientFirst::parse(first.as_bytes()).unwrap();
        let server = server.open(Hash::Sha256, false, &ChannelBinding::default()).unwrap();
        let server = server.challenge(keys, "xyz", true, None);
        let wrap = |name: &str, text: &str| {
            let text = BASE64_STANDARD.encode(text);
            format!("<{name} xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{text}</{name}>")
        };
        let (step, said) = take(&mut entry, &wrap("challenge", server.server_first())).unwrap();
        assert_eq!(step, Step::Wait);
        let proof = server.finish(inside(&said).as_bytes()).unwrap().server_final();
        assert_eq!(take(&mut entry, &wrap("success", &proof)).unwrap().0, Step::Restart);
        let (_, said) = take(&mut entry, "<features xmlns='http://etherx.jabber.org/streams'/>").unwrap();
        assert!(said.contains("<bind "), "{said}");
        let bound = "<iq type='result' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
                     <jid>lamp@city.example/1</jid></bind></iq>";
        let (step, _) = take(&mut entry, bound).unwrap();
        assert_eq!(step, Step::Bound("lamp@city.example/1".to_owned()));
        entry.into_account()
    }

    #[test]
    fn an_account_is_created_on_the_stream_that_then_authenticates() {
        let mut entry = Entry::new(account(true), true);
        let (step, said) = take(&mut entry, TLS_FEATURES).unwrap();
        assert_eq!((step, said.contains("<starttls")), (Step::Wait, true));
        let (step, _) = take(&mut entry, "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").unwrap();
        assert_eq!(step, Step::StartTls);
        entry.secured();
        let (_, said) = take(&mut entry, FEATURES).unwrap();
        assert_eq!(said, "<iq type='get' id='reg1'><query xmlns='jabber:iq:register'/></iq>");
        let (_, said) = take(&mut entry, FORM).unwrap();
        assert!(said.starts_with("<iq type='set' id='reg2' to='city.example'><query "), "{said}");
        assert!(said.contains("<field var='oauth_consumer_key'><value>key</value>"), "{said}");
        let (_, said) = take(&mut entry, "<iq type='result' id='reg2' from='city.example'/>").unwrap();
        assert!(said.starts_with("<auth ") && !entry.existed(), "{said}");
        let account = log_in(entry, &said);
        assert_eq!(account.maker, None, "it is created once");

        let salted = account.salted.clone();
        let mut entry = Entry::new(account, false);
        let (_, said) = take(&mut entry, FEATURES).unwrap();
        assert_eq!(log_in(entry, &said).salted, salted);
    }

    #[test]
    fn an_account_that_is_there_already_is_used() {
        let mut entry = Entry::new(account(true), false);
        take(&mut entry, FEATURES).unwrap();
        take(&mut entry, FORM).unwrap();
        let taken = "<iq type='error' id='reg2'><error type='cancel'>\
                     <conflict xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>";
        let (_, said) = take(&mut entry, taken).unwrap();
        assert!(said.starts_with("<auth ") && entry.existed());
        log_in(entry, &said);
    }

    #[test]
    fn refusals_are_told_apart_and_some_are_for_now() {
        let signing_up = |answer: &str| {
            let mut entry = Entry::new(account(true), false);
            take(&mut entry, FEATURES).unwrap();
            take(&mut entry, FORM).unwrap();
            take(&mut entry, answer).unwrap_err()
        };
        let error = |kind: &str, condition: &str| {
            format!(
                "<iq type='error' id='reg2'><error type='{kind}'>\
                 <{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
            )
        };
        let refused = |what: &str, later| Refused { kind: "sign-up refused", what: what.to_owned(), later };
        assert_eq!(signing_up(&error("modify", "bad-request")), refused("bad-request", false));
        assert_eq!(signing_up(&error("wait", "resource-constraint")), refused("resource-constraint", true));
        let mut entry = Entry::new(account(true), false);
        let closed = FEATURES.replace("<register xmlns", "<other xmlns");
        assert_eq!(take(&mut entry, &closed).unwrap_err(), refused("it is not offered", false));
        let mut entry = Entry::new(account(false), false);
        take(&mut entry, FEATURES).unwrap();
        let failure = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>";
        assert_eq!(take(&mut entry, failure).unwrap_err().kind, "authentication refused");
        let error = "<error xmlns='http://etherx.jabber.org/streams'>\
                     <policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></error>";
        assert_eq!(take(&mut entry, error).unwrap_err().what, "policy-violation");
    }
}
