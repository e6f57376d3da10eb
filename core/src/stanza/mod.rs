//! Stanzas: message, presence and iq (RFC 6120 §8).

mod error;
mod rewrite;

pub use error::{Condition, Detail, ErrorType, StanzaError};
pub use rewrite::{Stamp, with_child, write_error, write_error_with, write_forwarded, write_reply_start, write_stanza};

use crate::ns;
use crate::xml::{Attr, Element};

/// Which of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `<message/>`
    Message,
    /// `<presence/>`
    Presence,
    /// `<iq/>`
    Iq,
}

impl Kind {
    /// Element name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Presence => "presence",
            Self::Iq => "iq",
        }
    }
}

/// `type` of a message (RFC 6121 §5.2.2); an unknown or absent one is `Normal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the protocol's own words")]
pub enum MessageType {
    Normal,
    Chat,
    Groupchat,
    Headline,
    Error,
}

/// `type` of a presence (RFC 6121 §4.7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the protocol's own words")]
pub enum PresenceType {
    Available,
    Unavailable,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    Probe,
    Error,
}

/// `type` of an iq (RFC 6120 §8.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the protocol's own words")]
pub enum IqType {
    Get,
    Set,
    Result,
    Error,
}

/// The stanza's kind and type, as one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the protocol's own words")]
pub enum Class {
    Message(MessageType),
    Presence(PresenceType),
    Iq(IqType),
}

impl Class {
    /// Which of the three.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Message(_) => Kind::Message,
            Self::Presence(_) => Kind::Presence,
            Self::Iq(_) => Kind::Iq,
        }
    }
    /// Whether an error stanza may answer it (RFC 6120 §8.3.1): not if it is an error, nor an iq result.
    pub const fn answerable(self) -> bool {
        !matches!(
            self,
            Self::Message(MessageType::Error)
                | Self::Presence(PresenceType::Error)
                | Self::Iq(IqType::Error | IqType::Result)
        )
    }
}

/// A stanza: a checked element that is one of the three, with the common attributes at hand.
#[derive(Debug, Clone, Copy)]
pub struct Stanza<'a> {
    /// Kind and type.
    pub class: Class,
    /// `to`, as written.
    pub to: Option<Attr<'a>>,
    /// `from`, as written.
    pub from: Option<Attr<'a>>,
    /// `id`, as written.
    pub id: Option<Attr<'a>>,
    /// The element.
    pub element: Element<'a>,
}

/// Why an element is not a stanza we can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAStanza {
    /// Its name is not one of the three in the stream's namespace (`unsupported-stanza-type`, or `invalid-namespace`
    /// if the name fits and the namespace is the other content namespace).
    Unsupported,
    /// The content namespace of another kind of stream.
    InvalidNamespace,
    /// It is a stanza, but breaks RFC 6120 §8.2.3 or has an unknown `type`: answer `bad-request`.
    BadRequest,
}

impl<'a> Stanza<'a> {
    /// Classifies a top-level element of a stream whose content namespace is `content_ns`. IQ semantics of
    /// RFC 6120 §8.2.3 (id present, known type, exactly one child for get and set, at most one for result) are checked.
    ///
    /// # Errors
    /// [`NotAStanza`].
    pub fn classify(element: Element<'a>, content_ns: &str) -> Result<Self, NotAStanza> {
        let kind = match element.name() {
            "message" => Kind::Message,
            "presence" => Kind::Presence,
            "iq" => Kind::Iq,
            _ => return Err(NotAStanza::Unsupported),
        };
        if element.ns() != content_ns {
            let other = matches!(element.ns(), ns::CLIENT | ns::SERVER);
            return Err(if other { NotAStanza::InvalidNamespace } else { NotAStanza::Unsupported });
        }
        let (mut to, mut from, mut id, mut kind_of) = (None, None, None, None);
        for attr in element.attrs().filter(|attr| attr.prefix.is_empty()) {
            match attr.name {
                "to" => to = Some(attr),
                "from" => from = Some(attr),
                "id" => id = Some(attr),
                "type" => kind_of = Some(attr),
                _ => {}
            }
        }
        let kind_of = kind_of.as_ref().map(Attr::value);
        let class = class(kind, kind_of.as_deref()).ok_or(NotAStanza::BadRequest)?;
        if let Class::Iq(iq) = class {
            let payload = element.children().len();
            let fits = match iq {
                IqType::Get | IqType::Set => payload == 1,
                IqType::Result => payload <= 1,
                IqType::Error => true,
            };
            if id.is_none() || !fits {
                return Err(NotAStanza::BadRequest);
            }
        }
        Ok(Self { class, to, from, id, element })
    }
}

/// The kind and its `type` as one; `None` for a type the kind does not have. A message of unknown type is normal
/// (RFC 6121 §5.2.2).
fn class(kind: Kind, kind_of: Option<&str>) -> Option<Class> {
    Some(match kind {
        Kind::Message => Class::Message(match kind_of {
            Some("chat") => MessageType::Chat,
            Some("groupchat") => MessageType::Groupchat,
            Some("headline") => MessageType::Headline,
            Some("error") => MessageType::Error,
            _ => MessageType::Normal,
        }),
        Kind::Presence => Class::Presence(match kind_of {
            None => PresenceType::Available,
            Some("unavailable") => PresenceType::Unavailable,
            Some("subscribe") => PresenceType::Subscribe,
            Some("subscribed") => PresenceType::Subscribed,
            Some("unsubscribe") => PresenceType::Unsubscribe,
            Some("unsubscribed") => PresenceType::Unsubscribed,
            Some("probe") => PresenceType::Probe,
            Some("error") => PresenceType::Error,
            Some(_) => return None,
        }),
        Kind::Iq => Class::Iq(match kind_of? {
            "get" => IqType::Get,
            "set" => IqType::Set,
            "result" => IqType::Result,
            "error" => IqType::Error,
            _ => return None,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::ScanLimits;
    use crate::xml::{Scanned, Scanner, StreamNamespaces};

    fn classified(text: &str, content_ns: &str) -> Result<(Class, Option<String>, Option<String>), NotAStanza> {
        let (mut scanner, header) = (Scanner::new(), StreamNamespaces::default());
        let scanned = scanner.next(&ScanLimits::AFTER_AUTH, &header, text.as_bytes());
        let Ok(Scanned::Element { element, .. }) = scanned else { panic!("{text}: {scanned:?}") };
        let stanza = Stanza::classify(element, content_ns)?;
        let raw = |attr: Option<Attr<'_>>| attr.map(|attr| attr.raw.to_owned());
        Ok((stanza.class, raw(stanza.to), raw(stanza.id)))
    }

    #[test]
    fn kinds_and_types_are_those_of_the_rfc() {
        let check = |text: &str, expected| {
            assert_eq!(classified(text, ns::CLIENT).map(|(class, ..)| class), expected, "{text}");
        };
        check("<message/>", Ok(Class::Message(MessageType::Normal)));
        check("<message type='chat'/>", Ok(Class::Message(MessageType::Chat)));
        check("<message type='ch&#97;t'/>", Ok(Class::Message(MessageType::Chat)));
        check("<message type='groupchat'/>", Ok(Class::Message(MessageType::Groupchat)));
        check("<message type='headline'/>", Ok(Class::Message(MessageType::Headline)));
        check("<message type='error'/>", Ok(Class::Message(MessageType::Error)));
        check("<message type='foo'/>", Ok(Class::Message(MessageType::Normal)));
        check("<message x:type='chat' xmlns:x='urn:x'/>", Ok(Class::Message(MessageType::Normal)));
        check("<presence/>", Ok(Class::Presence(PresenceType::Available)));
        check("<presence type='probe'/>", Ok(Class::Presence(PresenceType::Probe)));
        check("<presence type='available'/>", Err(NotAStanza::BadRequest));
        check("<iq id='1' type='get'><q xmlns='q'/></iq>", Ok(Class::Iq(IqType::Get)));
        check("<iq id='1' type='set'><q xmlns='q'/></iq>", Ok(Class::Iq(IqType::Set)));
        check("<iq id='1' type='result'/>", Ok(Class::Iq(IqType::Result)));
        check("<iq id='1' type='error'><q/><error/></iq>", Ok(Class::Iq(IqType::Error)));
        check("<iq type='get'><q/></iq>", Err(NotAStanza::BadRequest));
        check("<iq id='1'><q/></iq>", Err(NotAStanza::BadRequest));
        check("<iq id='1' type='foo'><q/></iq>", Err(NotAStanza::BadRequest));
        check("<iq id='1' type='get'/>", Err(NotAStanza::BadRequest));
        check("<iq id='1' type='get'>text</iq>", Err(NotAStanza::BadRequest));
        check("<iq id='1' type='set'><q/><q/></iq>", Err(NotAStanza::BadRequest));
        check("<iq id='1' type='result'><q/><q/></iq>", Err(NotAStanza::BadRequest));
    }

    #[test]
    fn only_the_content_namespace_holds_stanzas() {
        let check = |text: &str, content_ns, expected| {
            assert_eq!(classified(text, content_ns).map(|_| ()), expected, "{text}");
        };
        check("<message/>", ns::CLIENT, Ok(()));
        check("<c:message xmlns:c='jabber:client'/>", ns::CLIENT, Ok(()));
        check("<message xmlns='jabber:cl&#105;ent'/>", ns::CLIENT, Ok(()));
        check("<message xmlns='jabber:server'/>", ns::CLIENT, Err(NotAStanza::InvalidNamespace));
        check("<message/>", ns::SERVER, Err(NotAStanza::InvalidNamespace));
        check("<message xmlns='urn:x'/>", ns::CLIENT, Err(NotAStanza::Unsupported));
        check("<message xmlns=''/>", ns::CLIENT, Err(NotAStanza::Unsupported));
        check("<stream:message/>", ns::CLIENT, Err(NotAStanza::Unsupported));
        check("<messages/>", ns::CLIENT, Err(NotAStanza::Unsupported));
    }

    #[test]
    fn addresses_and_id_are_given_as_written() {
        let found = classified("<message id=\"a&amp;b\" to='x@y/z' xml:to='no'/>", ns::CLIENT);
        let expected = (Class::Message(MessageType::Normal), Some("x@y/z".to_owned()), Some("a&amp;b".to_owned()));
        assert_eq!(found, Ok(expected));
    }
}
