//! Registering: a client that has no account yet asks for one, before it authenticates or after it failed to, and then
//! authenticates on the same stream (XEP-0077 v2.4 §3.1, §8).
//!
//! What can be said without asking anybody is said here: the form, whose token is this stream's and good once, and what
//! is wrong with a submission. A submission that may do goes to the registry.
//!
//! Spec: XEP-0077 v2.4; XEP-0348 v0.3.

use std::fmt;

use super::authenticating::Authenticating;
use super::error::Violation;
use super::{Action, Link, State, outsider};
use crate::ns;
use crate::register::{Asked, Offer, Registration};
use crate::stanza::{Class, Condition, IqType, Kind, NotAStanza, Stanza, StanzaError, write_error, write_reply_start};
use crate::xml::Element;

/// Most submissions of one stream that the registry is asked about: a device needs one, and one more if its name is
/// taken. Beyond it `resource-constraint`; another stream may try.
const SUBMISSIONS_MAX: u8 = 3;
/// Submissions of one stream that the registry may refuse: as many as there are attempts to authenticate by default. One more
/// request about registration ends the stream with `policy-violation`.
const REFUSALS_MAX: u8 = 3;
/// Most requests of one stream about registration. Beyond it the stream ends with `policy-violation`.
const REQUESTS_MAX: u8 = 16;

/// What is true of a stream's registrations, whatever becomes of its attempts to authenticate.
pub(super) struct Desk {
    /// Makes the tokens of this stream's forms.
    seed: [u8; 16],
    /// The form that was given last and not answered yet.
    offer: Option<Box<Offer>>,
    requests: u8,
    submissions: u8,
    /// Submissions that the registry refused.
    refusals: u8,
}

impl Desk {
    /// `seed`: random, and told to nobody.
    pub(super) const fn new(seed: [u8; 16]) -> Self {
        Self { seed, offer: None, requests: 0, submissions: 0, refusals: 0 }
    }
}

impl fmt::Debug for Desk {
    /// Leaves the seed out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("requests", &self.requests).field("submissions", &self.submissions).finish()
    }
}

/// [`Action::Register`] is to be answered.
#[derive(Debug)]
pub(super) struct Registering {
    attempts_left: u8,
    id: Box<str>,
}

impl Registering {
    /// Takes the answer of the registry. The client may go on to authenticate.
    pub(super) fn on_registered(self, link: &mut Link, answer: Result<(), StanzaError>, out: &mut Vec<u8>) -> State {
        let Self { attempts_left, id } = self;
        match answer {
            Ok(()) => {
                write_reply_start(out, &id, link.domain(), "");
                out.extend_from_slice(b"</iq>");
            }
            Err(error) => {
                link.desk.refusals = link.desk.refusals.saturating_add(1);
                write_error(out, Kind::Iq, Some(&id), link.domain(), "", error);
            }
        }
        State::Authenticating(Authenticating::Idle { attempts_left })
    }
}

/// Whether this is about registration, where that is offered.
pub(super) fn concerns(link: &Link, element: &Element<'_>) -> bool {
    link.offers_registration()
        && element.is("iq", ns::CLIENT)
        && element.children().any(|child| child.ns == ns::REGISTER)
}

/// Takes a request about registration.
///
/// # Errors
/// [`Violation::TooManyRegistrations`]; [`Violation::StanzaBeforeAuth`] if it is for somebody else.
pub(super) fn on_iq(
    link: &mut Link,
    attempts_left: u8,
    element: &Element<'_>,
    out: &mut Vec<u8>,
) -> Result<State, Violation> {
    let to = element.attr("to").map(|to| to.value().into_owned());
    if to.as_deref().is_some_and(|to| to != link.domain()) {
        return Err(outsider(element));
    }
    if link.desk.requests >= REQUESTS_MAX {
        return Err(Violation::TooManyRegistrations { max: REQUESTS_MAX });
    }
    if link.desk.refusals >= REFUSALS_MAX {
        return Err(Violation::TooManyRegistrations { max: REFUSALS_MAX });
    }
    link.desk.requests += 1;
    let id = element.attr("id").map(|id| id.raw);
    match answer(link, element, to.as_deref()) {
        Ok(Answer::Form(offer)) => {
            write_reply_start(out, id.unwrap_or_default(), link.domain(), "");
            offer.write(out, None, link.config.unsigned_registration);
            out.extend_from_slice(b"</iq>");
            link.desk.offer = Some(offer);
        }
        Ok(Answer::Ask(registration)) => {
            link.action = Some(Action::Register(registration));
            return Ok(State::Registering(Registering { attempts_left, id: id.unwrap_or_default().into() }));
        }
        // A result or an error of what nobody asked (RFC 6120 §8.3.1).
        Ok(Answer::Nothing) => {}
        Err(error) => write_error(out, Kind::Iq, id, link.domain(), "", error),
    }
    Ok(State::Authenticating(Authenticating::Idle { attempts_left }))
}

/// What becomes of a request.
enum Answer {
    Form(Box<Offer>),
    Ask(Box<Registration>),
    Nothing,
}

fn answer(link: &mut Link, element: &Element<'_>, to: Option<&str>) -> Result<Answer, StanzaError> {
    let stanza = Stanza::classify(*element, ns::CLIENT).map_err(|refused| match refused {
        NotAStanza::BadRequest | NotAStanza::Unsupported | NotAStanza::InvalidNamespace => Condition::BadRequest,
    })?;
    let Class::Iq(iq_type) = stanza.class else { return Ok(Answer::Nothing) };
    let query = element.first_child().and_then(|child| element.read(&child)).ok_or(Condition::BadRequest)?;
    match iq_type {
        IqType::Get if query.name == "query" => {
            let number = link.desk.requests;
            Ok(Answer::Form(Box::new(Offer::derive(&link.desk.seed, number))))
        }
        IqType::Get => Err(Condition::BadRequest.into()),
        IqType::Set => {
            // Whatever becomes of it, its form is answered.
            let offer = link.desk.offer.take().map(|offer| *offer);
            let claim = match Asked::read(&query)? {
                // XEP-0077 §3.2: who has no account cannot cancel it.
                Asked::Remove => return Err(Condition::RegistrationRequired.into()),
                Asked::Account(claim) => claim,
            };
            let registration = claim.check(link.domain(), to, offer, link.config.unsigned_registration)?;
            if link.desk.submissions >= SUBMISSIONS_MAX {
                return Err(Condition::ResourceConstraint.with_text("too many registrations on this stream"));
            }
            link.desk.submissions += 1;
            Ok(Answer::Ask(Box::new(registration)))
        }
        IqType::Result | IqType::Error => Ok(Answer::Nothing),
    }
}

impl Link {
    /// Whether accounts can be asked for on this connection: only under TLS, unless nothing is (XEP-0077 §9).
    pub(super) fn offers_registration(&self) -> bool {
        self.config.offers_registration && (self.secure || !self.config.tls_required)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::signed::{self, Fields, sign};
    use crate::stream::{Entropy, Stream, StreamConfig, TlsFacts};
    use crate::xml::Scanner;
    use crate::xml::read::Node;

    struct Client {
        stream: Stream,
        scanner: Scanner,
    }

    impl Client {
        /// A client on a stream of its own, under TLS.
        fn new(random: u8) -> Self {
            let config = StreamConfig {
                scram_iterations: 1,
                plain: true,
                ..StreamConfig::new(vec![crate::jid::Jid::parse("things.example").unwrap()])
            };
            let stream = Stream::new(Arc::new(config), Some(TlsFacts::default()), Entropy([random; 32]));
            let mut client = Self { stream, scanner: Scanner::new() };
            client.say(
                "<stream:stream to='things.example' version='1.0' xmlns='jabber:client' \
                 xmlns:stream='http://etherx.jabber.org/streams'>",
            );
            client
        }

        fn say(&mut self, text: &str) -> String {
            let mut out = Vec::new();
            self.stream.handle_bytes(&mut self.scanner, text.as_bytes(), &mut out);
            String::from_utf8(out).unwrap()
        }

        /// Asks for the form and fills it in.
        fn filled(&mut self) -> Fields {
            let answer = self.say("<iq type='get' id='1'><query xmlns='jabber:iq:register'/></iq>");
            let answer = Node::parse(&answer, ns::CLIENT).unwrap();
            assert_eq!(answer.attr("from"), Some("things.example"));
            let query = answer.child("query", ns::REGISTER).unwrap();
            let mut x = query.child("x", ns::DATA_FORMS).unwrap().clone();
            x.attrs.iter_mut().find(|(name, _)| name == "type").unwrap().1 = "submit".to_owned();
            Fields::read(&x)
                .unwrap()
                .with("username", "lamp")
                .with("password", "secret")
                .with(signed::NONCE, "1")
                .with(signed::TIMESTAMP, "2")
                .with(signed::CONSUMER_KEY, "maker")
        }

        /// Submits a form; what is asked of the registry, or the answer.
        fn submit(&mut self, fields: &Fields) -> Result<Box<Registration>, String> {
            let mut text = "<iq type='set' id='2'><query xmlns='jabber:iq:register'>\
                            <x xmlns='jabber:x:data' type='submit'>"
                .to_owned();
            for (var, value) in fields.iter() {
                text.push_str(&format!("<field var='{var}'><value>{value}</value></field>"));
            }
            let answer = self.say(&(text + "</x></query></iq>"));
            match self.stream.poll_action() {
                Some(Action::Register(registration)) => Ok(registration),
                Some(other) => panic!("{other:?}"),
                None => Err(answer),
            }
        }
    }

    fn signed(fields: Fields) -> Fields {
        let token_secret = fields.get(signed::TOKEN_SECRET).unwrap().to_owned();
        let signature = sign(&fields, "", ("consumer", &token_secret)).unwrap();
        fields.with(signed::SIGNATURE, &signature)
    }

    #[test]
    fn a_signed_form_goes_to_the_registry_once() {
        let mut client = Client::new(1);
        let fields = signed(client.filled());
        let registration = client.submit(&fields).unwrap();
        assert_eq!(registration.account.as_str(), "lamp@things.example");
        assert!(registration.signed.as_ref().unwrap().is_signed_with("consumer"));
        assert!(!client.stream.wants_bytes(), "the answer comes first");
        let mut out = Vec::new();
        client.stream.handle_registered(Ok(()), &mut out);
        assert_eq!(out, b"<iq type='result' id='2' from='things.example'></iq>");
        // The token was used.
        let answer = client.submit(&fields).unwrap_err();
        assert!(answer.contains("<error type='modify'><bad-request "), "{answer}");
    }

    #[test]
    fn who_was_refused_three_times_is_heard_no_more() {
        let mut client = Client::new(1);
        let refuse = |client: &mut Client| {
            let fields = signed(client.filled());
            client.submit(&fields).unwrap();
            let mut out = Vec::new();
            client.stream.handle_registered(Err(crate::stanza::Condition::NotAllowed.into()), &mut out);
            assert!(String::from_utf8(out).unwrap().contains("<not-allowed "));
        };
        (0..3).for_each(|_| refuse(&mut client));
        let said = client.say("<iq type='get' id='1'><query xmlns='jabber:iq:register'/></iq>");
        assert!(said.contains("<policy-violation ") && said.ends_with("</stream:stream>"), "{said}");
        // What is wrong with a form itself is answered as often as there are requests.
        let mut client = Client::new(2);
        for _ in 0..15 {
            let said = client.say("<iq type='set' id='1'><query xmlns='jabber:iq:register'/></iq>");
            assert!(said.contains("<iq type='error'"), "{said}");
        }
    }

    #[test]
    fn a_token_of_another_stream_or_of_an_earlier_form_is_none() {
        let (mut one, mut other) = (Client::new(1), Client::new(2));
        let (earlier, later, elsewhere) = (signed(one.filled()), signed(one.filled()), signed(other.filled()));
        assert_ne!(earlier.get(signed::TOKEN), later.get(signed::TOKEN));
        for fields in [&elsewhere, &earlier] {
            let answer = one.submit(fields).unwrap_err();
            assert!(answer.contains("<bad-request "), "{answer}");
            one.filled();
        }
        let fields = signed(one.filled());
        assert!(one.submit(&fields).is_ok());
    }
}
