//! Addresses: `local@domain/resource` by RFC 7622.
//!
//! Two shapes. [`JidRef`] borrows text that is already in normal form and costs nothing; [`Jid`] owns it behind one
//! shared allocation. Comparison is by bytes, after normalisation only. Nearly every address on the wire is in normal
//! form and ASCII: [`JidRef::parse_fast`] sees that in one pass, and only the rest meets PRECIS and IDNA.
#![expect(clippy::indexing_slicing, reason = "lengths are set by constructors, which cut at `@` and `/`")]

use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use crate::precis;

/// Longest part of an address, in bytes (RFC 7622 §3.2–3.4).
///
/// Differs from RFC 7622 §3.3.1 and §3.4.1, which count after normalisation only: we count before it too, so that its
/// cost is bounded. What is refused by that is a part that is too long as written and shrinks.
pub const PART_BYTES_MAX: usize = 1023;

/// Longest address, in bytes: three parts, `@` and `/`.
pub const JID_BYTES_MAX: usize = 3 * PART_BYTES_MAX + 2;

/// Longest label of a domain name, in bytes of its ASCII form (RFC 1035 §2.3.4, RFC 5890 §2.3.2.1).
const LABEL_BYTES_MAX: usize = 63;

const _: () = assert!(JID_BYTES_MAX <= u16::MAX as usize, "lengths are held as u16");

/// Why a text is not an address (RFC 7622 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JidError {
    /// The domainpart is missing or not a valid IDNA name or address literal.
    Domain,
    /// The localpart is empty, or PRECIS UsernameCaseMapped refuses it.
    Local,
    /// The resourcepart is empty, or PRECIS OpaqueString refuses it.
    Resource,
    /// A part is longer than 1 023 bytes.
    TooLong,
}

impl fmt::Display for JidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Domain => "the domainpart is not a domain name or address literal",
            Self::Local => "the localpart is empty or has forbidden characters",
            Self::Resource => "the resourcepart is empty or has forbidden characters",
            Self::TooLong => "a part is longer than 1023 bytes",
        })
    }
}

impl std::error::Error for JidError {}

/// An address in normal form. 24 bytes and one shared allocation; cloning is a reference count.
///
/// Equality, order and hash are those of the text, as in [`JidRef`] and `str`.
#[derive(Clone)]
pub struct Jid {
    text: Arc<str>,
    local_len: u16,
    domain_len: u16,
}

const _: () = assert!(size_of::<Jid>() == 24);

/// A borrowed address in normal form.
#[derive(Clone, Copy)]
pub struct JidRef<'a> {
    text: &'a str,
    /// 0 if there is no localpart.
    local_len: u16,
    domain_len: u16,
}

/// An address as parsed from the wire: borrowed if it was in normal form already, else normalised into its own memory.
#[derive(Debug, Clone)]
pub enum ParsedJid<'a> {
    /// The text was in normal form.
    Borrowed(JidRef<'a>),
    /// The text had to be normalised.
    Owned(Jid),
}

impl<'a> ParsedJid<'a> {
    /// Parses; allocates only if the text is not in normal form already.
    ///
    /// # Errors
    /// [`JidError`], whichever part is wrong.
    pub fn parse(text: &'a str) -> Result<Self, JidError> {
        match JidRef::parse_fast(text) {
            Some(jid) => Ok(Self::Borrowed(jid)),
            None => normalise(text),
        }
    }

    /// The address.
    pub fn as_jid(&self) -> JidRef<'_> {
        match self {
            Self::Borrowed(jid) => *jid,
            Self::Owned(jid) => jid.as_jid(),
        }
    }
}

impl<'a> JidRef<'a> {
    /// Takes text that is in normal form for certain because every part is lower-case ASCII of the common kind;
    /// `None` sends the caller to [`ParsedJid::parse`].
    ///
    /// The common kind: a localpart without upper case, a name of at most 63 bytes whose labels have single inner
    /// hyphens (so no A-label) and of which the last is no number (so no address literal), a printable resourcepart.
    pub fn parse_fast(text: &'a str) -> Option<Self> {
        let run = text.bytes().position(|byte| CLASS[usize::from(byte)] & LOCAL == 0);
        let (local_len, domain) = match run {
            Some(at @ 1..=PART_BYTES_MAX) if text.as_bytes()[at] == b'@' => (at, &text[at + 1..]),
            _ => (0, text),
        };
        let domain_len = common_name_len(domain)?;
        if domain_len < domain.len() {
            let resource = &domain.as_bytes()[domain_len + 1..];
            let printable = resource.iter().fold(true, |all, byte| all & matches!(byte, b' '..=b'~'));
            if !printable || !(1..=PART_BYTES_MAX).contains(&resource.len()) {
                return None;
            }
        }
        Some(Self { text, local_len: local_len as u16, domain_len: domain_len as u16 })
    }

    /// Takes text known to be in normal form, since it was prepared here before it was stored. Nothing is checked again.
    ///
    /// # Panics
    /// If the text is longer than any address.
    pub fn from_normal(text: &'a str) -> Self {
        assert!(text.len() <= JID_BYTES_MAX, "a stored address has at most {JID_BYTES_MAX} bytes");
        let bare_len = memchr::memchr(b'/', text.as_bytes()).unwrap_or(text.len());
        let (local_len, domain_len) = match memchr::memchr(b'@', &text.as_bytes()[..bare_len]) {
            Some(at) => (at, bare_len - at - 1),
            None => (0, bare_len),
        };
        Self { text, local_len: local_len as u16, domain_len: domain_len as u16 }
    }

    /// The whole text.
    pub fn as_str(self) -> &'a str {
        self.text
    }

    /// The localpart, if any.
    pub fn local(self) -> Option<&'a str> {
        (self.local_len > 0).then(|| &self.text[..usize::from(self.local_len)])
    }

    /// The domainpart.
    pub fn domain(self) -> &'a str {
        &self.text[self.domain_start()..self.bare_len()]
    }

    /// The resourcepart, if any.
    pub fn resource(self) -> Option<&'a str> {
        self.text.get(self.bare_len() + 1..)
    }

    /// The address without its resourcepart.
    pub fn bare(self) -> JidRef<'a> {
        JidRef { text: &self.text[..self.bare_len()], ..self }
    }

    /// Whether it has no resourcepart.
    pub fn is_bare(self) -> bool {
        self.text.len() == self.bare_len()
    }

    /// An owned copy.
    pub fn to_jid(self) -> Jid {
        Jid { text: Arc::from(self.text), local_len: self.local_len, domain_len: self.domain_len }
    }

    fn domain_start(self) -> usize {
        usize::from(self.local_len) + usize::from(self.local_len > 0)
    }

    fn bare_len(self) -> usize {
        self.domain_start() + usize::from(self.domain_len)
    }
}

impl Jid {
    /// Parses and normalises.
    ///
    /// # Errors
    /// [`JidError`], whichever part is wrong.
    pub fn parse(text: &str) -> Result<Self, JidError> {
        Ok(match ParsedJid::parse(text)? {
            ParsedJid::Borrowed(jid) => jid.to_jid(),
            ParsedJid::Owned(jid) => jid,
        })
    }

    /// Builds a bare address from a localpart and a domainpart, normalising both.
    ///
    /// # Errors
    /// [`JidError`], whichever part is wrong.
    pub fn from_parts(local: &str, domain: &str) -> Result<Self, JidError> {
        Ok(Self::assemble(Some(&normal_local(local)?), &normal_domain(domain)?, None))
    }

    /// This address's bare form with another resourcepart, which is normalised (OpaqueString).
    ///
    /// # Errors
    /// [`JidError::Resource`] or [`JidError::TooLong`].
    pub fn with_resource(&self, resource: &str) -> Result<Self, JidError> {
        let jid = self.as_jid();
        Ok(Self::assemble(jid.local(), jid.domain(), Some(&normal_resource(resource)?)))
    }

    /// The borrowed form.
    pub fn as_jid(&self) -> JidRef<'_> {
        JidRef { text: &self.text, local_len: self.local_len, domain_len: self.domain_len }
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The address without its resourcepart; shares nothing if one was there.
    pub fn bare(&self) -> Jid {
        let jid = self.as_jid();
        if jid.is_bare() { self.clone() } else { jid.bare().to_jid() }
    }

    /// Joins parts in normal form, each at most [`PART_BYTES_MAX`] long.
    fn assemble(local: Option<&str>, domain: &str, resource: Option<&str>) -> Self {
        let local_len = local.map_or(0, str::len);
        let mut text = String::with_capacity(local_len + domain.len() + resource.map_or(0, str::len) + 2);
        if let Some(local) = local {
            text.push_str(local);
            text.push('@');
        }
        text.push_str(domain);
        if let Some(resource) = resource {
            text.push('/');
            text.push_str(resource);
        }
        Self { text: text.into(), local_len: local_len as u16, domain_len: domain.len() as u16 }
    }
}

/// Prepares a localpart: PRECIS UsernameCaseMapped without `"&'/:<>@` (RFC 7622 §3.3).
///
/// # Errors
/// [`JidError::Local`] or [`JidError::TooLong`].
pub fn prepare_local(text: &str) -> Result<String, JidError> {
    normal_local(text).map(Cow::into_owned)
}

/// Prepares a domainpart (RFC 7622 §3.2): an IPv4 address, an IPv6 address in brackets (in RFC 5952's form), or a name
/// with its U-labels in lower case and without a final dot.
///
/// Names are mapped by UTS #46 (nontransitional), then held to what IDNA2008 has valid. A name whose last label looks
/// like a number is refused unless the whole is a dotted quad, since resolvers read the likes of `127.1` as addresses.
///
/// # Errors
/// [`JidError::Domain`] or [`JidError::TooLong`].
pub fn prepare_domain(text: &str) -> Result<String, JidError> {
    normal_domain(text).map(Cow::into_owned)
}

/// Prepares a resourcepart: PRECIS OpaqueString (RFC 7622 §3.4). Spaces may stand anywhere (erratum 4560).
///
/// # Errors
/// [`JidError::Resource`] or [`JidError::TooLong`].
pub fn prepare_resource(text: &str) -> Result<String, JidError> {
    normal_resource(text).map(Cow::into_owned)
}

/// Splits at the first `/`, then at the first `@` before it (RFC 7622 §3.1), and prepares each part.
fn normalise(text: &str) -> Result<ParsedJid<'_>, JidError> {
    if text.len() > JID_BYTES_MAX {
        return Err(JidError::TooLong);
    }
    let (bare, resource) = text.split_once('/').map_or((text, None), |(bare, resource)| (bare, Some(resource)));
    let (local, domain) = bare.split_once('@').map_or((None, bare), |(local, domain)| (Some(local), domain));
    let normal_domain = normal_domain(domain)?;
    let normal_local = local.map(normal_local).transpose()?;
    let normal_resource = resource.map(normal_resource).transpose()?;
    let unchanged =
        normal_domain == domain && normal_local.as_deref() == local && normal_resource.as_deref() == resource;
    Ok(if unchanged {
        let local_len = local.map_or(0, str::len) as u16;
        ParsedJid::Borrowed(JidRef { text, local_len, domain_len: domain.len() as u16 })
    } else {
        ParsedJid::Owned(Jid::assemble(normal_local.as_deref(), &normal_domain, normal_resource.as_deref()))
    })
}

fn normal_local(text: &str) -> Result<Cow<'_, str>, JidError> {
    check_len(text)?;
    let local = precis::username_case_mapped(text).ok_or(JidError::Local)?;
    // Looked for after mapping: a full-width `＠` has become one of them.
    if local.bytes().any(|byte| matches!(byte, b'"' | b'&' | b'\'' | b'/' | b':' | b'<' | b'>' | b'@')) {
        return Err(JidError::Local);
    }
    check_len(&local)?;
    Ok(local)
}

fn normal_resource(text: &str) -> Result<Cow<'_, str>, JidError> {
    check_len(text)?;
    let resource = precis::opaque_string(text).ok_or(JidError::Resource)?;
    check_len(&resource)?;
    Ok(resource)
}

fn normal_domain(text: &str) -> Result<Cow<'_, str>, JidError> {
    check_len(text)?;
    if let Some(literal) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: Ipv6Addr = literal.parse().map_err(|_| JidError::Domain)?;
        return Ok(Cow::Owned(format!("[{address}]")));
    }
    let (name, valid) = Uts46::new().to_unicode(text.as_bytes(), AsciiDenyList::STD3, Hyphens::Check);
    valid.map_err(|_| JidError::Domain)?;
    let name = match name {
        Cow::Borrowed(name) => Cow::Borrowed(name.strip_suffix('.').unwrap_or(name)),
        Cow::Owned(mut name) => {
            name.truncate(name.strip_suffix('.').unwrap_or(&name).len());
            Cow::Owned(name)
        }
    };
    if name_is_valid(&name) { check_len(&name).map(|()| name) } else { Err(JidError::Domain) }
}

/// Whether a name that UTS #46 has mapped and found valid is one for us: labels of proper length, U-labels by
/// IDNA2008 (UTS #46 alone lets symbols pass), and not an address in disguise.
fn name_is_valid(name: &str) -> bool {
    let Ok(ascii) = Uts46::new().to_ascii(name.as_bytes(), AsciiDenyList::STD3, Hyphens::Check, DnsLength::Ignore)
    else {
        return false;
    };
    ascii.split('.').all(|label| (1..=LABEL_BYTES_MAX).contains(&label.len()))
        && name.split('.').all(|label| label.is_ascii() || precis::is_identifier(label))
        && (!ends_in_a_number(name) || name.parse::<Ipv4Addr>().is_ok())
}

/// Whether the last label is decimal or hexadecimal (WHATWG URL Standard §3.5, "ends in a number").
fn ends_in_a_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    last.bytes().all(|byte| byte.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn check_len(part: &str) -> Result<(), JidError> {
    if part.len() > PART_BYTES_MAX { Err(JidError::TooLong) } else { Ok(()) }
}

/// The length of a name of the common kind at the start of `text`, up to its end or a `/`.
fn common_name_len(text: &str) -> Option<usize> {
    let mut previous = SEPARATOR; // so that a separator can't begin it
    let mut doubled = 0;
    let mut len = text.len();
    for (at, byte) in text.bytes().enumerate() {
        let class = CLASS[usize::from(byte)];
        if class & NAME == 0 {
            len = at;
            break;
        }
        doubled |= previous & class;
        previous = class;
    }
    let ended = text.as_bytes().get(len).is_none_or(|&byte| byte == b'/');
    let common = ended && (doubled | previous) & SEPARATOR == 0 && len <= LABEL_BYTES_MAX;
    // Few names end in a byte that a number might end in.
    let is_name = common && (previous & NO_NUMBER != 0 || !ends_in_a_number(&text[..len]));
    is_name.then_some(len)
}

/// May stand in a localpart of the common kind.
const LOCAL: u8 = 1;
/// May stand in a name of the common kind.
const NAME: u8 = 2;
/// `-` or `.`
const SEPARATOR: u8 = 4;
/// A letter that ends no number: `g` to `z` without `x`
const NO_NUMBER: u8 = 8;

/// What each byte may be in an address of the common kind.
static CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'g'..=b'w' | b'y' | b'z' => LOCAL | NAME | NO_NUMBER,
            b'a'..=b'f' | b'x' | b'0'..=b'9' => LOCAL | NAME,
            b'-' | b'.' => LOCAL | NAME | SEPARATOR,
            b'A'..=b'Z' | b'"' | b'&' | b'\'' | b'/' | b':' | b'<' | b'>' | b'@' => 0,
            b'!'..=b'~' => LOCAL,
            _ => 0,
        };
        byte += 1;
    }
    table
};

impl PartialEq for JidRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for JidRef<'_> {}

impl PartialOrd for JidRef<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for JidRef<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(other.text)
    }
}

impl Hash for JidRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for JidRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text)
    }
}

impl fmt::Debug for JidRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.text, f)
    }
}

impl PartialEq for Jid {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Jid {}

impl PartialEq<JidRef<'_>> for Jid {
    fn eq(&self, other: &JidRef<'_>) -> bool {
        *self.text == *other.text
    }
}

impl PartialEq<Jid> for JidRef<'_> {
    fn eq(&self, other: &Jid) -> bool {
        *self.text == *other.text
    }
}

impl PartialOrd for Jid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Jid {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for Jid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// A map keyed by address can be asked with [`JidRef::as_str`].
impl Borrow<str> for Jid {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl From<JidRef<'_>> for Jid {
    fn from(jid: JidRef<'_>) -> Self {
        jid.to_jid()
    }
}

impl fmt::Display for Jid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Jid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::hash::{BuildHasher, RandomState};

    use precis_core::profile::PrecisFastInvocation;
    use precis_profiles::{OpaqueString, UsernameCaseMapped};
    use proptest::prelude::*;

    use super::*;

    fn check(input: &str, expected: Result<&str, JidError>) {
        let parsed = Jid::parse(input);
        assert_eq!(parsed.as_ref().map(Jid::as_str), expected.as_ref().copied(), "{input:?}");
        if let Ok(jid) = parsed {
            assert_consistent(jid.as_jid());
        }
    }

    /// The parts of an address make up its text, and the text is a fixed point.
    fn assert_consistent(jid: JidRef<'_>) {
        let mut text = jid.local().map_or(String::new(), |local| format!("{local}@"));
        text += jid.domain();
        assert_eq!(jid.bare().as_str(), text);
        text += &jid.resource().map_or(String::new(), |resource| format!("/{resource}"));
        assert_eq!(jid.as_str(), text);
        assert_eq!(jid.is_bare(), jid.resource().is_none());
        assert!(jid.bare().is_bare() && jid.bare().resource().is_none());
        let again = ParsedJid::parse(jid.as_str()).expect("it is valid");
        assert!(matches!(again, ParsedJid::Borrowed(_)), "{jid} is not in normal form");
        for same in [again.as_jid(), JidRef::from_normal(jid.as_str())] {
            assert_eq!(
                (same.local(), same.domain(), same.resource()),
                (jid.local(), jid.domain(), jid.resource()),
                "{jid}"
            );
        }
    }

    #[test]
    fn valid_addresses_of_rfc_7622_section_3_5() {
        for same in [
            "juliet@example.com",
            "juliet@example.com/foo",
            "juliet@example.com/foo bar",
            "juliet@example.com/foo@bar",
            "foo\\20bar@example.com",
            "fussball@example.com",
            "fußball@example.com",
            "π@example.com",
            "σ@example.com/foo",
            "ς@example.com/foo", // RFC 8265 §3.3.2 lower-cases and no longer folds
            "king@example.com/♚",
            "example.com",
            "example.com/foobar",
            "a.example.com/b@example.net",
            "juliet@example.com/ foo", // erratum 4560
        ] {
            check(same, Ok(same));
        }
        check("Σ@example.com/foo", Ok("σ@example.com/foo"));
        assert_ne!(Jid::parse("fussball@example.com"), Jid::parse("fußball@example.com"));
    }

    #[test]
    fn invalid_addresses_of_rfc_7622_section_3_5() {
        use JidError::{Domain, Local, Resource};
        for (input, error) in [
            ("\"juliet\"@example.com", Local),
            ("foo bar@example.com", Local),
            ("@example.com/", Local),
            ("henryⅣ@example.com", Local),
            ("♚@example.com", Local),
            ("juliet@", Domain),
            ("/foobar", Domain),
            ("@server", Local),
            ("node@/server", Domain),
            ("user@@host", Domain),
            ("user@@host/resource", Domain),
            ("user@", Domain),
            ("@/", Domain),
            ("/", Domain),
            ("", Domain),
            ("\u{1}@example.com", Local),
            ("a\u{1}b@example.com", Local),
            ("juliet@example.com/\u{61c}", Resource),
            ("a@b/", Resource),
            ("example.com/", Resource),
            ("a@b/tab\t", Resource),
        ] {
            check(input, Err(error));
        }
        for excluded in "\"&':<>".chars() {
            check(&format!("a{excluded}b@example.com"), Err(Local));
        }
    }

    #[test]
    fn a_part_has_at_most_1023_bytes() {
        let (fits, exceeds) = ("a".repeat(1023), "a".repeat(1024));
        check(&format!("{fits}@b"), Ok(&format!("{fits}@b")));
        check(&format!("{exceeds}@b"), Err(JidError::TooLong));
        check(&format!("a@b/{fits}"), Ok(&format!("a@b/{fits}")));
        check(&format!("a@b/{exceeds}"), Err(JidError::TooLong));
        let domain = format!("{}a", "a.".repeat(511));
        check(&format!("{fits}@{domain}/{fits}"), Ok(&format!("{fits}@{domain}/{fits}")));
        check(&format!("{domain}.a"), Err(JidError::TooLong));
        check(&format!("{}@b", "π".repeat(511)), Ok(&format!("{}@b", "π".repeat(511))));
        check(&format!("{}@b", "π".repeat(512)), Err(JidError::TooLong));
        // What grows by normalisation is measured again.
        check(&format!("{}@b", "Ⱥ".repeat(400)), Err(JidError::TooLong));
        check(&format!("a@b/{}", "\u{344}".repeat(500)), Err(JidError::TooLong));
        check(&"a".repeat(10_000), Err(JidError::TooLong));
    }

    #[test]
    fn case_is_folded_in_localpart_and_domainpart_only() {
        check("JULIET@EXAMPLE.com", Ok("juliet@example.com"));
        check("JULIET@EXAMPLE.com/Balcony", Ok("juliet@example.com/Balcony"));
        assert_ne!(Jid::parse("a@b/R"), Jid::parse("a@b/r"));
        check("ＪＵＬＩＥＴ@ＥＸＡＭＰＬＥ.com", Ok("juliet@example.com"));
        check("STRASSE@b", Ok("strasse@b"));
        check("straße@b", Ok("straße@b"));
        check("İ@b", Ok("i\u{307}@b"));
        check("a＠b@c", Err(JidError::Local)); // width mapping makes it an `@`
        check("A\u{30a}@b", Ok("å@b"));
    }

    #[test]
    fn domain_names_follow_idna2008() {
        use JidError::Domain;
        for (input, expected) in [
            ("example.com.", Ok("example.com")),
            ("EXAMPLE.com。", Ok("example.com")),
            ("example.com..", Err(Domain)),
            ("example.com.。", Err(Domain)),
            ("a..b", Err(Domain)),
            (".", Err(Domain)),
            (".a", Err(Domain)),
            ("xn--fuball-cta.example", Ok("fußball.example")),
            ("XN--FUBALL-CTA.example", Ok("fußball.example")),
            ("FUßBALL.example", Ok("fußball.example")),
            ("fussball.example", Ok("fussball.example")),
            ("xn--a.example", Err(Domain)),
            ("xn--.example", Err(Domain)),
            ("-a.example", Err(Domain)),
            ("a-.example", Err(Domain)),
            ("ab--c.example", Err(Domain)),
            ("a--b.example", Ok("a--b.example")),
            ("a_b.example", Err(Domain)),
            ("a b.example", Err(Domain)),
            ("i❤.example", Err(Domain)), // valid by UTS #46 alone
            ("xn--i-7iq.example", Err(Domain)),
            ("l·l.example", Ok("l·l.example")),
            ("a·b.example", Err(Domain)), // RFC 5892 Appendix A.3
            ("א1.example", Ok("א1.example")),
            ("1א.example", Err(Domain)), // RFC 5893 §2
            ("localhost", Ok("localhost")),
            ("3com.example", Ok("3com.example")),
        ] {
            check(input, expected);
        }
        let label = "a".repeat(63);
        check(&format!("{label}.{label}"), Ok(&format!("{label}.{label}")));
        check(&format!("{label}a.example"), Err(Domain));
        check(&format!("{}.example", "ü".repeat(59)), Err(Domain));
    }

    #[test]
    fn address_literals_have_one_form_and_no_disguise() {
        use JidError::Domain;
        for (input, expected) in [
            ("192.0.2.1", Ok("192.0.2.1")),
            ("a@192.0.2.1/r", Ok("a@192.0.2.1/r")),
            ("１９２.0.2.1", Ok("192.0.2.1")),
            ("[2001:DB8:0:0::1]", Ok("[2001:db8::1]")),
            ("a@[::1]/r", Ok("a@[::1]/r")),
            ("[::ffff:192.0.2.1]", Ok("[::ffff:192.0.2.1]")),
            ("[fe80::1%eth0]", Err(Domain)),
            ("[]", Err(Domain)),
            ("[::1", Err(Domain)),
            ("::1", Err(Domain)),
            ("[v1.x]", Err(Domain)),
            ("[192.0.2.1]", Err(Domain)),
            ("［::1］", Err(Domain)),
            ("127.1", Err(Domain)),
            ("2130706433", Err(Domain)),
            ("0x7f000001", Err(Domain)),
            ("0x7f.1", Err(Domain)),
            ("a.0x", Err(Domain)),
            ("192.0.02.1", Err(Domain)),
            ("1.2.3.4.5", Err(Domain)),
            ("256.0.0.1", Err(Domain)),
            ("0x7f.example", Ok("0x7f.example")),
        ] {
            check(input, expected);
        }
    }

    #[test]
    fn text_is_split_at_the_first_slash_then_at_the_first_at() {
        let jid = Jid::parse("a@b/c@d/e").unwrap();
        let jid = jid.as_jid();
        assert_eq!((jid.local(), jid.domain(), jid.resource()), (Some("a"), "b", Some("c@d/e")));
        let jid = Jid::parse("b/c@d").unwrap();
        let jid = jid.as_jid();
        assert_eq!((jid.local(), jid.domain(), jid.resource()), (None, "b", Some("c@d")));
    }

    #[test]
    fn parts_are_put_together() {
        let bare = Jid::from_parts("Juliet", "EXAMPLE.com.").unwrap();
        assert_eq!(bare.as_str(), "juliet@example.com");
        let full = bare.with_resource("foo\u{a0}bar").unwrap();
        assert_eq!(full.as_str(), "juliet@example.com/foo bar");
        assert_eq!(full.with_resource("b").unwrap().as_str(), "juliet@example.com/b");
        assert_eq!(full.bare(), bare);
        assert!(Arc::ptr_eq(&bare.bare().text, &bare.text));
        assert_eq!(bare.with_resource(""), Err(JidError::Resource));
        assert_eq!(bare.with_resource(&"a".repeat(1024)), Err(JidError::TooLong));
        assert_eq!(Jid::from_parts("", "b"), Err(JidError::Local));
        assert_eq!(Jid::from_parts("a@b", "c"), Err(JidError::Local));
        assert_eq!(Jid::from_parts("a", "b/c"), Err(JidError::Domain));
        assert_eq!(Jid::from_parts("a", "@b"), Err(JidError::Domain));
        assert_eq!(prepare_local("ÅSA").as_deref(), Ok("åsa"));
        assert_eq!(prepare_domain("Ü.example.").as_deref(), Ok("ü.example"));
        assert_eq!(prepare_resource("Åsa").as_deref(), Ok("Åsa"));
    }

    #[test]
    fn owned_and_borrowed_compare_and_hash_as_their_text() {
        let text = "juliet@example.com/balcony";
        let (owned, borrowed) = (Jid::parse(text).unwrap(), JidRef::from_normal(text));
        assert_eq!(owned, borrowed);
        assert_eq!(borrowed, owned);
        assert_ne!(owned, borrowed.bare());
        assert!(borrowed.bare() < borrowed && owned.bare() < owned);
        let state = RandomState::new();
        assert_eq!(state.hash_one(&owned), state.hash_one(borrowed));
        let map = HashMap::from([(owned.clone(), 1)]);
        assert_eq!(map.get(borrowed.as_str()), Some(&1));
        assert_eq!(format!("{owned} {borrowed:?} {:>5}", borrowed.domain()), format!("{text} {text:?} example.com"));
        assert_eq!(Jid::from(borrowed), owned);
    }

    #[test]
    fn the_fast_way_takes_the_common_kind_and_leaves_the_rest() {
        for fast in [
            "example.com",
            "a@b",
            "sensor.0001@things.example.org/8f14e45fceea167a",
            "x-y_z+1@a-b.c2.example/ any printable: <\"&'@/>~",
            "example.com/r",
            "1a@3com.example",
            "a@b.1c",
            "a@host1",
            "a@0x.b",
        ] {
            assert_eq!(JidRef::parse_fast(fast).map(JidRef::as_str), Some(fast));
            assert_consistent(JidRef::parse_fast(fast).unwrap());
        }
        for slow in [
            "",
            "@",
            "/",
            "@b",
            "a@",
            "a@/r",
            "a@b/",
            "A@b",
            "a@B",
            "a@b.",
            "a@.b",
            "a@b..c",
            "a@-b",
            "a@b-",
            "a@xn--b",
            "a@b--c",
            "a@1.2",
            "a@b.1",
            "a@192.0.2.1",
            "a@[::1]",
            "a@b@c",
            "a@b_c",
            "a b@c",
            "é@b",
            "a@é",
            "a@b/é",
            "a@b/\t",
            "a@b/\u{7f}",
            "a:b@c",
        ] {
            assert_eq!(JidRef::parse_fast(slow), None, "{slow:?}");
        }
        assert_eq!(JidRef::parse_fast(&format!("{}@b", "a".repeat(1024))), None);
        assert_eq!(JidRef::parse_fast(&format!("a@{}", "b".repeat(64))), None);
        assert_eq!(JidRef::parse_fast(&format!("a@b/{}", "c".repeat(1024))), None);
    }

    /// Text made of what separates and troubles addresses, so that many are nearly valid.
    fn nearly_an_address() -> impl Strategy<Value = String> {
        let part = "[a-c0-2X.\\-_ é@/:\\[\\]]{0,6}|xn--[a-z0-9-]{1,8}|[!-~]{0,5}|\\PC{0,4}|[a-z]{1,5}";
        prop_oneof![
            (part, part, part).prop_map(|(a, b, c)| format!("{a}@{b}/{c}")),
            (part, part).prop_map(|(a, b)| format!("{a}@{b}")),
            (part, part).prop_map(|(a, b)| format!("{a}/{b}")),
            "[a-z0-9.\\-]{1,12}",
            "([a-z0-9]{1,3}[.-]){0,4}[a-z0-9]{1,3}",
            any::<String>(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn the_fast_way_gives_what_precis_and_idna_give(text in nearly_an_address()) {
            let slow = normalise(&text);
            if let Some(fast) = JidRef::parse_fast(&text) {
                let slow = slow.expect("the slow way takes it too");
                prop_assert!(matches!(slow, ParsedJid::Borrowed(_)));
                let slow = slow.as_jid();
                prop_assert_eq!(fast.local(), slow.local());
                prop_assert_eq!(fast.domain(), slow.domain());
                prop_assert_eq!(fast.resource(), slow.resource());
                if let Some(local) = fast.local() {
                    prop_assert_eq!(UsernameCaseMapped::enforce(local).unwrap(), local);
                }
                if let Some(resource) = fast.resource() {
                    prop_assert_eq!(OpaqueString::enforce(resource).unwrap(), resource);
                }
            } else if let Ok(slow) = slow {
                // What is left for the slow way is not in normal form, or not of the common kind.
                let odd = |c: char| !c.is_ascii() || c == '[';
                let domain = slow.as_jid().domain();
                prop_assert!(
                    slow.as_jid().as_str() != text || text.contains(odd) || domain.contains("--")
                        || domain.len() > 63 || domain.parse::<Ipv4Addr>().is_ok(),
                    "{} could have been fast", text
                );
            }
        }

        #[test]
        fn parsing_is_idempotent(text in nearly_an_address()) {
            if let Ok(jid) = Jid::parse(&text) {
                assert_consistent(jid.as_jid());
                prop_assert!(jid.as_jid().local().is_none_or(|part| (1..=PART_BYTES_MAX).contains(&part.len())));
                prop_assert!((1..=PART_BYTES_MAX).contains(&jid.as_jid().domain().len()));
                prop_assert!(jid.as_jid().resource().is_none_or(|part| (1..=PART_BYTES_MAX).contains(&part.len())));
            }
        }

        #[test]
        fn names_are_idempotent_in_any_script(name in "\\PC{1,8}(\\.\\PC{1,4})?|[\\p{L}\\p{M}\\p{N}.]{1,8}") {
            if let Ok(once) = prepare_domain(&name) {
                prop_assert_eq!(prepare_domain(&once), Ok(once.clone()));
                let ascii = Uts46::new()
                    .to_ascii(once.as_bytes(), AsciiDenyList::STD3, Hyphens::Check, DnsLength::Ignore)
                    .unwrap();
                prop_assert_eq!(prepare_domain(&ascii), Ok(once));
            }
        }

        #[test]
        fn an_address_without_separators_inside_its_parts_is_what_they_build(
            local in "[ -.0-?A-~é]{0,6}", domain in "[a-zA-Z0-9.\\-é]{0,8}", resource in "[ -~é]{0,6}",
        ) {
            let joined = Jid::parse(&format!("{local}@{domain}/{resource}"));
            let built = Jid::from_parts(&local, &domain).and_then(|bare| bare.with_resource(&resource));
            prop_assert_eq!(joined.ok(), built.ok());
        }
    }
}
