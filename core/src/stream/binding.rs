//! Binding: the authenticated client asks for a resource, or for the session it had.
//!
//! Spec: RFC 6120 §7; XEP-0198 v1.6.3 §3, §5.

use std::borrow::Cow;

use super::error::{Violation, write_parts};
use super::inline::{Inline, Wish};
use super::{Action, Link, NotResumed, State, outsider};
use crate::jid::Jid;
use crate::ns;
use crate::sm::{self, Resume, SmId};
use crate::stanza::{self, Class, IqType, Kind, NotAStanza, Stanza, StanzaError};
use crate::xml::read::Node;
use crate::xml::{Child, Element, write};

/// Requests to bind or resume on one stream, refused ones included. The fifth refusal is plenty to find a free resource.
const BINDS_MAX: u8 = 5;

/// The request to bind is awaited.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) account: Jid,
    binds_left: u8,
}

/// The registry is asked for a session.
#[derive(Debug)]
pub(super) struct Claiming {
    binding: Binding,
    /// The request's id, as written.
    id: Box<str>,
}

/// The registry is asked for a session that was cut off.
#[derive(Debug)]
pub(super) struct Resuming {
    binding: Binding,
    previd: SmId,
}

impl Binding {
    pub(super) const fn new(account: Jid) -> Self {
        Self { account, binds_left: BINDS_MAX }
    }

    /// Takes an element.
    ///
    /// # Errors
    /// Anything but a request to bind or resume ends the stream (RFC 6120 §7.1); an ill-formed request to bind does not.
    pub(super) fn on_element(
        mut self,
        link: &mut Link,
        element: &Element<'_>,
        out: &mut Vec<u8>,
    ) -> Result<State, Violation> {
        if element.ns() == ns::SM {
            return self.on_stream_management(link, element, out);
        }
        let request = Request::read(element)?;
        self.count()?;
        let id = match request {
            Request::Bind { id, resource } => {
                match resource.map(|text| self.account.with_resource(&text)).transpose() {
                    Ok(full) => {
                        let resource = full.as_ref().and_then(|full| full.as_jid().resource());
                        let resource = resource.map_or(Wish::Any, |resource| Wish::Named(resource.into()));
                        let (account, inline) = (self.account.clone(), Inline::default());
                        link.action = Some(Action::Bind { account, resource, inline });
                        return Ok(State::Claiming(Claiming { binding: self, id: id.into() }));
                    }
                    Err(_) => Some(id),
                }
            }
            Request::IllFormed { id } => id,
        };
        write_refusal(id, stanza::Condition::BadRequest, out);
        Ok(State::Binding(self))
    }

    /// Takes an element of stream management: only resuming is possible before a resource is bound (XEP-0198 §3, §5).
    /// What we have never named, we don't look for.
    fn on_stream_management(
        mut self,
        link: &mut Link,
        element: &Element<'_>,
        out: &mut Vec<u8>,
    ) -> Result<State, Violation> {
        let refusal = match element.name() {
            "enable" => stanza::Condition::UnexpectedRequest,
            "resume" if !link.config.offers_sm => stanza::Condition::FeatureNotImplemented,
            "resume" => match sm::Request::read(element) {
                Ok(Some(sm::Request::Resume(Resume { h, previd }))) => match SmId::parse(&previd) {
                    Some(previd) => {
                        self.count()?;
                        link.action = Some(Action::Resume { account: self.account.clone(), previd, h });
                        return Ok(State::Resuming(Resuming { binding: self, previd }));
                    }
                    None => stanza::Condition::ItemNotFound,
                },
                Ok(_) | Err(sm::Malformed) => return Err(Violation::MalformedStreamManagement),
            },
            _ => return Err(outsider(element)),
        };
        self.count()?;
        sm::Failed::from(refusal).write(out);
        Ok(State::Binding(self))
    }

    /// Uses up one request.
    fn count(&mut self) -> Result<(), Violation> {
        self.binds_left = self.binds_left.checked_sub(1).ok_or(Violation::TooManyBinds { max: BINDS_MAX })?;
        Ok(())
    }
}

impl Resuming {
    pub(super) const fn account(&self) -> &Jid {
        &self.binding.account
    }

    /// Tells the client that it has its session again; `h`: the stanzas that we have handled of it (XEP-0198 §5).
    pub(super) fn on_resumed(&self, h: u32, out: &mut Vec<u8>) {
        sm::write_resumed(out, h, &self.previd);
    }

    /// Tells the client why not; it may bind a resource instead (XEP-0198 §5).
    ///
    /// # Errors
    /// [`Violation::HandledCountTooHigh`] if that is the reason.
    pub(super) fn on_refused(self, refusal: NotResumed, out: &mut Vec<u8>) -> Result<State, Violation> {
        match refusal {
            NotResumed::Failed(failed) => {
                failed.write(out);
                Ok(State::Binding(self.binding))
            }
            NotResumed::HandledCountTooHigh(counts) => Err(Violation::HandledCountTooHigh(counts)),
        }
    }
}

impl Claiming {
    pub(super) const fn account(&self) -> &Jid {
        &self.binding.account
    }

    /// Tells the client its full JID (RFC 6120 §7.6.1, §7.7.1).
    pub(super) fn on_bound(&self, jid: &Jid, out: &mut Vec<u8>) {
        stanza::write_reply_start(out, &self.id, "", "");
        write_parts(out, &["<bind xmlns='", ns::BIND, "'><jid>"]);
        write::text(out, jid.as_str());
        out.extend_from_slice(b"</jid></bind></iq>");
    }

    /// Tells the client why not; it may ask again (RFC 6120 §7.6.2, §7.7.2).
    pub(super) fn on_refused(self, condition: stanza::Condition, out: &mut Vec<u8>) -> Binding {
        write_refusal(Some(&self.id), condition, out);
        self.binding
    }
}

/// A request to bind, its id as written.
enum Request<'a> {
    Bind {
        id: &'a str,
        /// As sent; `None` leaves the choice to us.
        resource: Option<Cow<'a, str>>,
    },
    IllFormed {
        id: Option<&'a str>,
    },
}

impl<'a> Request<'a> {
    fn read(element: &Element<'a>) -> Result<Self, Violation> {
        let id = element.attr("id").map(|id| id.raw);
        match Stanza::classify(*element, ns::CLIENT) {
            Ok(iq) if iq.class == Class::Iq(IqType::Set) => {
                let bind = iq.element.first_child().filter(|child| child.is("bind", ns::BIND));
                match (id, resource(&bind.ok_or(Violation::StanzaBeforeBind)?)) {
                    (Some(id), Ok(resource)) => Ok(Self::Bind { id, resource }),
                    (id, _) => Ok(Self::IllFormed { id }),
                }
            }
            // An iq without id, or with several children; but an answer is never answered (RFC 6120 §8.3.1).
            Err(NotAStanza::BadRequest) if element.name() == "iq" && !is_answer(element) => Ok(Self::IllFormed { id }),
            Ok(_) | Err(NotAStanza::BadRequest) => Err(Violation::StanzaBeforeBind),
            Err(NotAStanza::InvalidNamespace) => Err(Violation::InvalidNamespace),
            Err(NotAStanza::Unsupported) => Err(outsider(element)),
        }
    }
}

fn is_answer(iq: &Element<'_>) -> bool {
    iq.attr("type").is_some_and(|kind| matches!(kind.raw, "result" | "error"))
}

/// What a request to bind holds is not what it should.
struct NotReadable;

/// The text of `<resource/>`; `None` if it is absent or empty, which leaves the choice to us (RFC 6120 §7.6).
fn resource<'a>(bind: &Child<'a>) -> Result<Option<Cow<'a, str>>, NotReadable> {
    let content = bind.content.trim_matches([' ', '\t', '\r', '\n']);
    let plain = content.strip_prefix("<resource>").and_then(|rest| rest.strip_suffix("</resource>"));
    let text = match plain.filter(|text| !text.contains(['<', '&', '\r'])) {
        _ if content.is_empty() => return Ok(None),
        Some(plain) => Cow::Borrowed(plain),
        None => {
            let mut bind = Node::parse(bind.raw, bind.ns).ok_or(NotReadable)?;
            let resource = bind.children.iter_mut().find(|child| child.name == "resource" && child.ns == ns::BIND);
            Cow::Owned(resource.map(|resource| std::mem::take(&mut resource.text)).unwrap_or_default())
        }
    };
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn write_refusal(id: Option<&str>, condition: stanza::Condition, out: &mut Vec<u8>) {
    stanza::write_error(out, Kind::Iq, id, "", "", StanzaError::from(condition));
}
