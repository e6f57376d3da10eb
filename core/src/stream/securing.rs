//! Securing: TLS must be put in place before anything else, by STARTTLS.
//!
//! Spec: RFC 6120 §5.

use super::authenticating::next_attempt;
use super::error::{Violation, write_parts};
use super::profile::Said;
use super::{Action, Link, State, outsider};
use crate::ns;
use crate::sasl::SaslFailure;
use crate::xml::Element;

/// `<starttls/>` is awaited, and nothing else will do.
#[derive(Debug)]
pub(super) struct Securing {
    pub(super) attempts_left: u8,
}

impl Securing {
    /// Takes an element; `behind` bytes have already arrived behind it.
    ///
    /// # Errors
    /// What ends the stream.
    pub(super) fn on_element(
        self,
        link: &mut Link,
        element: &Element<'_>,
        behind: usize,
        out: &mut Vec<u8>,
    ) -> Result<State, Violation> {
        if element.is("starttls", ns::TLS) {
            return on_starttls(link, behind, out);
        }
        let Some((profile, _)) = Said::of(element) else { return Err(outsider(element)) };
        let attempts_left = next_attempt(self.attempts_left, link)?;
        profile.write_failure(SaslFailure::EncryptionRequired, out);
        Ok(State::Securing(Self { attempts_left }))
    }
}

/// Lets the client begin the handshake (RFC 6120 §5.4.2.3).
///
/// # Errors
/// [`Violation::UnexpectedStartTls`] if it was not offered. [`Violation::PlaintextBehindStartTls`] if anything follows it
/// before our answer (§5.3.3 forbids even white space): an attacker could have put it there, to be taken for the
/// client's own words after the handshake.
pub(super) fn on_starttls(link: &mut Link, behind: usize, out: &mut Vec<u8>) -> Result<State, Violation> {
    if !link.offers_starttls() {
        return Err(Violation::UnexpectedStartTls);
    }
    if behind > 0 {
        return Err(Violation::PlaintextBehindStartTls { bytes: u32::try_from(behind).unwrap_or(u32::MAX) });
    }
    write_parts(out, &["<proceed xmlns='", ns::TLS, "'/>"]);
    link.action = Some(Action::StartTls);
    Ok(State::Handshaking)
}

impl Link {
    /// Whether STARTTLS may be chosen now.
    pub(super) fn offers_starttls(&self) -> bool {
        self.config.starttls && !self.secure
    }
}
