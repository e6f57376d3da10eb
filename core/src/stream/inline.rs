//! What a client asks for in the same breath as it authenticates: a session to resume or to bind, and how it shall begin.
//!
//! Spec: XEP-0388 v1.0.4 §2.3; XEP-0386 v1.1.0; XEP-0484 v0.2.0; XEP-0198 v1.6.3 §8; XEP-0280 v1.0.1, XEP-0352 v1.0.0 (what may be asked
//! of a new session).

use std::fmt;
use std::mem;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::jid::Jid;
use crate::ns;
use crate::sasl::SaslFailure;
use crate::sasl::ht::HtMechanism;
use crate::sasl::scram::Hash;
use crate::sm::{Enable, Resume, SmId};
use crate::xml::Element;
use crate::xml::read::Node;

/// Which installation of a client this is: a UUID that it made for itself (XEP-0388 v1.0.4 §2.3). Nobody else is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub [u8; 16]);

impl ClientId {
    /// Reads `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` in hexadecimal digits of either case (RFC 9562 §4).
    pub fn parse(text: &str) -> Option<Self> {
        const DIGITS: [usize; 5] = [8, 4, 4, 4, 12];
        let mut groups = text.split('-');
        let mut value: u128 = 0;
        for digits in DIGITS {
            let group = groups.next()?;
            if group.len() != digits || !group.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            value = value << (4 * digits) | u128::from_str_radix(group, 16).ok()?;
        }
        groups.next().is_none().then_some(Self(value.to_be_bytes()))
    }
}

impl fmt::Debug for ClientId {
    /// Leaves it out: it tells installations apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientId").finish_non_exhaustive()
    }
}

/// The resource a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Any: make one.
    Any,
    /// This one, in normal form (RFC 6120 §7.7).
    Named(Box<str>),
    /// One that begins with the client's tag and goes on with a part of ours, always the same for the same client, if it
    /// says which one it is (XEP-0386 v1.1.0 §3.2.1): [`tagged`] makes it.
    Tagged {
        /// What the software calls itself, fit to be in a resource.
        tag: Option<Box<str>>,
        /// Which installation it is.
        client: Option<ClientId>,
    },
}

/// A resource of a client's tag and our part, which must be unguessable without being secret: 12 bytes in Base64 for URLs.
///
/// Differs from XEP-0386 v1.1.0 §3.2.1, which recommends a slash between the two: a tilde cannot be taken for the slash
/// in front of the resource.
pub fn tagged(tag: Option<&str>, ours: [u8; 12]) -> String {
    let ours = URL_SAFE_NO_PAD.encode(ours);
    match tag {
        Some(tag) => format!("{tag}~{ours}"),
        None => ours,
    }
}

/// Our part of a client's resource: always the same for the same client, and nobody without the server's secret can guess
/// it.
pub fn part_for(server_secret: &[u8; 32], account: &Jid, client: ClientId) -> [u8; 12] {
    // A NUL is in no JID, so this is unlike whatever else is made of the secret and a name.
    let output = Hash::Sha256.hmac(server_secret, &[account.as_str().as_bytes(), b"\0client\0", &client.0]);
    *output.as_ref().first_chunk().expect("12 of 32 bytes")
}

/// How a new session shall begin (XEP-0386 v1.1.0 §3.2). Only what the listener offers is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inline {
    /// With stream management (XEP-0198 v1.6.3 §8.1).
    pub sm: Option<Enable>,
    /// With carbons (XEP-0280).
    pub carbons: bool,
    /// Active or inactive (XEP-0352).
    pub active: Option<bool>,
}

/// What `<authenticate/>` asks for besides authenticating. What we do not know is ignored.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) client: Option<ClientId>,
    pub(super) resume: Option<Former>,
    pub(super) bind: Option<NewSession>,
    pub(super) fast: Option<Fast>,
    /// The mechanism that a token is wanted for.
    pub(super) token: Option<HtMechanism>,
}

/// `<fast/>`: the client authenticates with a token (XEP-0484 v0.2.0 §3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fast {
    /// How often it has used the token.
    pub(super) count: Option<u32>,
    /// It shall not be used again (§3.6).
    pub(super) invalidate: bool,
}

/// A session to resume.
#[derive(Debug)]
pub(super) struct Former {
    /// `None` if the client gave something that is no SM-ID of ours.
    pub(super) previd: Option<SmId>,
    pub(super) h: u32,
}

/// A session to begin.
#[derive(Debug)]
pub(super) struct NewSession {
    pub(super) tag: Option<Box<str>>,
    /// As asked for, whether offered or not.
    pub(super) inline: Inline,
}

impl Wishes {
    /// Reads the children of `<authenticate/>`.
    ///
    /// # Errors
    /// [`SaslFailure::MalformedRequest`] for two of a kind, or one that its schema refuses.
    pub(super) fn read(element: &Element<'_>) -> Result<Self, SaslFailure> {
        let mut wishes = Self::default();
        let (mut described, mut requested) = (false, false);
        for child in element.children() {
            let again = match (child.ns, child.name) {
                (ns::SASL2, "user-agent") => {
                    let node = element.read(&child).ok_or(SaslFailure::MalformedRequest)?;
                    let id = node.attr("id").map(|id| ClientId::parse(id).ok_or(SaslFailure::MalformedRequest));
                    wishes.client = id.transpose()?;
                    mem::replace(&mut described, true)
                }
                (ns::SM, "resume") => {
                    let node = element.read(&child).ok_or(SaslFailure::MalformedRequest)?;
                    let resume = Resume::read(&node).map_err(|_| SaslFailure::MalformedRequest)?;
                    let former = Former { previd: SmId::parse(&resume.previd), h: resume.h };
                    wishes.resume.replace(former).is_some()
                }
                (ns::BIND2, "bind") => {
                    let node = element.read(&child).ok_or(SaslFailure::MalformedRequest)?;
                    wishes.bind.replace(NewSession::read(&node)?).is_some()
                }
                (ns::FAST, "fast") => {
                    let node = element.read(&child).ok_or(SaslFailure::MalformedRequest)?;
                    wishes.fast.replace(Fast::read(&node)?).is_some()
                }
                (ns::FAST, "request-token") => {
                    let node = element.read(&child).ok_or(SaslFailure::MalformedRequest)?;
                    // One that we do not speak is one that we have not offered.
                    wishes.token = HtMechanism::from_name(node.attr("mechanism").ok_or(SaslFailure::MalformedRequest)?);
                    mem::replace(&mut requested, true)
                }
                _ => false,
            };
            if again {
                return Err(SaslFailure::MalformedRequest);
            }
        }
        Ok(wishes)
    }
}

impl Fast {
    fn read(fast: &Node) -> Result<Self, SaslFailure> {
        // xs:int in the schema, a positive integer in the text.
        let count = fast.attr("count").map(|count| match count.parse::<i32>().map(u32::try_from) {
            Ok(Ok(count)) => Ok(count),
            Ok(Err(_)) | Err(_) => Err(SaslFailure::MalformedRequest),
        });
        let invalidate = match fast.attr("invalidate") {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(_) => return Err(SaslFailure::MalformedRequest),
        };
        Ok(Self { count: count.transpose()?, invalidate })
    }
}

impl NewSession {
    fn read(bind: &Node) -> Result<Self, SaslFailure> {
        let mut session = Self { tag: None, inline: Inline::default() };
        for child in &bind.children {
            let again = match (child.ns.as_str(), child.name.as_str()) {
                (ns::BIND2, "tag") => session.tag.replace(child.text.as_str().into()).is_some(),
                (ns::SM, "enable") => {
                    let enable = Enable::read(child).map_err(|_| SaslFailure::MalformedRequest)?;
                    session.inline.sm.replace(enable).is_some()
                }
                (ns::CARBONS, "enable") => mem::replace(&mut session.inline.carbons, true),
                (ns::CSI, state @ ("active" | "inactive")) => {
                    session.inline.active.replace(state == "active").is_some()
                }
                _ => false,
            };
            if again {
                return Err(SaslFailure::MalformedRequest);
            }
        }
        Ok(session)
    }

    /// The tag, if it can be part of a resource; else it is left out (XEP-0386 §3.2.1).
    pub(super) fn usable_tag(&mut self, account: &Jid) -> Option<Box<str>> {
        let tag = self.tag.take().filter(|tag| !tag.is_empty())?;
        account.with_resource(&tagged(Some(&tag), [0; 12])).is_ok().then_some(tag)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_client_is_known_by_its_uuid() {
        let id = ClientId::parse("d4565fa7-4d72-4749-b3d3-740edbf87770").unwrap();
        assert_eq!(id.0[..5], [0xd4, 0x56, 0x5f, 0xa7, 0x4d]);
        assert_eq!(id.0[10..], [0x74, 0x0e, 0xdb, 0xf8, 0x77, 0x70]);
        assert_eq!(ClientId::parse("D4565FA7-4D72-4749-B3D3-740EDBF87770"), Some(id));
        assert_eq!(format!("{id:?}"), "ClientId { .. }");
        for text in [
            "",
            "d4565fa74d724749b3d3740edbf87770",
            "d4565fa7-4d72-4749-b3d3-740edbf8777",
            "d4565fa7-4d72-4749-b3d3-740edbf877700",
            "d4565fa7-4d72-4749-b3d3-740edbf87770-",
            "d4565fa-74d72-4749-b3d3-740edbf87770",
            "g4565fa7-4d72-4749-b3d3-740edbf87770",
            "+4565fa7-4d72-4749-b3d3-740edbf87770",
            "{d4565fa7-4d72-4749-b3d3-740edbf8777}",
        ] {
            assert_eq!(ClientId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_resource_is_the_tag_and_our_part() {
        assert_eq!(tagged(Some("AwesomeXMPP"), [0xff; 12]), "AwesomeXMPP~________________");
        assert_eq!(tagged(None, [0; 12]), "AAAAAAAAAAAAAAAA");
    }

    #[test]
    fn our_part_is_the_clients_own_and_the_accounts() {
        let accounts = ["user@things.example", "other@things.example"].map(|jid| Jid::parse(jid).unwrap());
        let part = part_for(&[1; 32], &accounts[0], ClientId([1; 16]));
        assert_eq!(part_for(&[1; 32], &accounts[0], ClientId([1; 16])), part);
        assert_ne!(part_for(&[2; 32], &accounts[0], ClientId([1; 16])), part);
        assert_ne!(part_for(&[1; 32], &accounts[1], ClientId([1; 16])), part);
        assert_ne!(part_for(&[1; 32], &accounts[0], ClientId([2; 16])), part);
    }

    #[test]
    fn a_tag_that_no_resource_can_hold_is_left_out() {
        let account = Jid::parse("user@things.example").unwrap();
        let usable = |tag: &str| {
            let mut session = NewSession { tag: Some(tag.into()), inline: Inline::default() };
            session.usable_tag(&account).map(String::from)
        };
        assert_eq!(usable("Lamp 3"), Some("Lamp 3".to_owned()));
        assert_eq!(usable(""), None);
        assert_eq!(usable("a\u{7}"), None);
        assert_eq!(usable(&"a".repeat(1023 - 17)).map(|tag| tag.len()), Some(1006));
        assert_eq!(usable(&"a".repeat(1023 - 16)), None);
    }

    proptest! {
        #[test]
        fn a_uuid_reads_back(bytes: [u8; 16]) {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let text = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
            prop_assert_eq!(ClientId::parse(&text), Some(ClientId(bytes)));
        }
    }
}
