//! Opening: the client's stream header is awaited, at first, after TLS and after SASL.
//!
//! Spec: RFC 6120 §4.2, §4.3.3, §4.7, §4.8.

use super::authenticating::Authenticating;
use super::binding::Binding;
use super::error::Violation;
use super::securing::Securing;
use super::{Link, State};
use crate::jid::{Jid, ParsedJid};
use crate::ns;
use crate::xml::StreamHeader;

/// The client's header is awaited.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) next: Next,
    /// Whether the scanner has been cleared for this stream (RFC 6120 §4.3.3).
    pub(super) begun: bool,
}

/// What the stream is for.
#[derive(Debug)]
pub(super) enum Next {
    /// Securing the connection and authenticating.
    Authentication,
    /// Binding a resource of this account, which has authenticated.
    Binding(Jid),
}

impl Opening {
    pub(super) const fn new(next: Next) -> Self {
        Self { next, begun: false }
    }

    /// Answers the client's header with ours and the features.
    ///
    /// # Errors
    /// Whatever in the header is not as RFC 6120 §4.7 and §4.8 want it.
    pub(super) fn on_header(
        self,
        link: &mut Link,
        header: &StreamHeader<'_>,
        out: &mut Vec<u8>,
    ) -> Result<State, Violation> {
        check_names(header)?;
        check_version(header)?;
        self.choose_domain(link, header)?;
        link.lang = header.lang.map(|lang| lang.value()).filter(|lang| is_language(lang)).map(|lang| (*lang).into());
        link.from = self.peer(link, header)?;
        link.write_header(out);
        match self.next {
            Next::Authentication => {
                link.write_features_before_auth(out);
                let attempts_left = link.config.sasl_attempts_max;
                Ok(if link.offers_starttls() && link.config.tls_required {
                    State::Securing(Securing { attempts_left })
                } else {
                    State::Authenticating(Authenticating::Idle { attempts_left })
                })
            }
            Next::Binding(account) => {
                link.write_features_after_auth(out);
                Ok(State::Binding(Binding::new(account)))
            }
        }
    }

    /// Takes `to` (RFC 6120 §4.7.2). Absent, it means the only domain of this broker, or the one of the stream before.
    fn choose_domain(&self, link: &mut Link, header: &StreamHeader<'_>) -> Result<(), Violation> {
        let Some(to) = header.to else {
            let known = link.domain.is_some() || link.config.domains.len() == 1;
            return if known { Ok(()) } else { Err(Violation::ImproperAddressing) };
        };
        let to = to.value();
        let domains = &link.config.domains;
        let found = domains.iter().position(|domain| domain.as_str() == to).or_else(|| {
            let to = ParsedJid::parse(&to).ok()?;
            domains.iter().position(|domain| domain.as_jid() == to.as_jid())
        });
        let found = found.ok_or(Violation::HostUnknown)?;
        match self.next {
            Next::Binding(_) if link.domain_index() != found => Err(Violation::DomainChanged),
            Next::Authentication | Next::Binding(_) => {
                link.domain = Some(found);
                Ok(())
            }
        }
    }

    /// Takes `from` (RFC 6120 §4.7.1): the bare JID to answer to. Before SASL nobody has vouched for it, so it is only
    /// echoed; but it must be of the domain that is spoken to (XEP-0388 v1.0.4 §2.1).
    fn peer(&self, link: &Link, header: &StreamHeader<'_>) -> Result<Option<Jid>, Violation> {
        let Some(from) = header.from else { return Ok(None) };
        let from = from.value();
        let from = ParsedJid::parse(&from).map_err(|_| Violation::ImproperAddressing)?;
        let bare = from.as_jid().bare();
        match &self.next {
            Next::Binding(account) if account.as_jid() != bare => Err(Violation::InvalidFrom),
            Next::Authentication if bare.domain() != link.domain() => Err(Violation::InvalidFrom),
            Next::Authentication | Next::Binding(_) => Ok(Some(bare.to_jid())),
        }
    }
}

/// The element must be `<stream/>` and the content namespace that of client streams. Any prefix will do (RFC 6120
/// §4.8.5 asks clients for `stream:`, and old ones use others).
///
/// Differs from RFC 6120 §4.8.3: the content namespace must be the default namespace; a header in the style of
/// `<stream xmlns='http://etherx.jabber.org/streams'>` is refused, as nearly everywhere.
fn check_names(header: &StreamHeader<'_>) -> Result<(), Violation> {
    if header.name != "stream" {
        return Err(Violation::NotAStream);
    }
    if header.ns != ns::STREAMS || header.default_ns != ns::CLIENT {
        return Err(Violation::InvalidNamespace);
    }
    Ok(())
}

/// Any version from 1.0 is answered with ours, 1.0 (RFC 6120 §4.7.5).
fn check_version(header: &StreamHeader<'_>) -> Result<(), Violation> {
    let version = header.version.ok_or(Violation::UnsupportedVersion)?.value();
    let number = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse::<u32>().ok());
    let (major, minor) = version.split_once('.').ok_or(Violation::UnsupportedVersion)?;
    match (number(major).flatten(), number(minor).flatten()) {
        (Some(1..), Some(_)) => Ok(()),
        _ => Err(Violation::UnsupportedVersion),
    }
}

/// Whether it looks like a language tag of common length (RFC 5646 §2.1, §4.4.1); others are not worth keeping.
fn is_language(lang: &str) -> bool {
    (1..=35).contains(&lang.len()) && lang.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}
