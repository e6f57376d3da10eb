//! Characters, names and references: the terminals of XML 1.0 (5th edition) and Namespaces in XML.
#![expect(
    clippy::indexing_slicing,
    reason = "positions come from searches in the very slice they index, and the table has 256 rows"
)]

use std::ops::Range;

use super::scanner::Fault;

/// A byte that may stand in a name. Bytes above ASCII count until the whole name is known and is looked at again.
pub(super) const NAME: u8 = 1;
/// A byte that may begin a name.
pub(super) const START: u8 = 2;
const COLON: u8 = 4;
const HIGH: u8 = 8;

pub(super) static CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        class[byte] = match byte as u8 {
            b'A'..=b'Z' | b'a'..=b'z' | b'_' => NAME | START,
            b'0'..=b'9' | b'-' | b'.' => NAME,
            b':' => NAME | COLON,
            0x80..=0xff => NAME | START | HIGH,
            _ => 0,
        };
        byte += 1;
    }
    class
};

pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// The first position at or behind `at` that is not white space.
#[inline(always)]
pub(super) fn skip_space(input: &[u8], mut at: usize) -> usize {
    if input.get(at).is_none_or(|&byte| byte > b' ') {
        return at;
    }
    while input.get(at).is_some_and(|&byte| is_space(byte)) {
        at += 1;
    }
    at
}

/// The first position that is not white space, where there may be much of it: between stanzas.
pub(super) fn skip_gap(input: &[u8]) -> usize {
    const STEP: usize = 32;
    if !input.first().is_some_and(|&byte| is_space(byte)) {
        return 0;
    }
    let is_gap = |step: &&[u8]| step.iter().fold(true, |all, &byte| all & is_space(byte));
    let steps = input.chunks_exact(STEP).take_while(is_gap).count();
    skip_space(input, steps * STEP)
}

/// A qualified name in the input: its start, its length and that of its prefix, in one word so that it moves as one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Name(u64);

impl Name {
    /// `prefix_len` is 0 if there is no prefix; `len` is that of the whole.
    #[inline]
    fn new(start: usize, len: u16, prefix_len: u16) -> Self {
        Self(start as u64 & 0xffff_ffff | u64::from(len) << 32 | u64::from(prefix_len) << 48)
    }
    #[inline]
    fn start(self) -> usize {
        self.0 as u32 as usize
    }
    #[inline]
    pub(super) fn len(self) -> usize {
        usize::from((self.0 >> 32) as u16)
    }
    #[inline]
    pub(super) fn prefix_len(self) -> usize {
        usize::from((self.0 >> 48) as u16)
    }
    #[inline]
    pub(super) fn range(self) -> Range<usize> {
        self.start()..self.start() + self.len()
    }
    #[inline]
    pub(super) fn prefix(self) -> Range<usize> {
        self.start()..self.start() + self.prefix_len()
    }
    #[inline]
    pub(super) fn local(self) -> Range<usize> {
        let skip = if self.prefix_len() == 0 { 0 } else { self.prefix_len() + 1 };
        self.start() + skip..self.start() + self.len()
    }
}

/// The first of three bytes at or behind `at`. What is near is found without a call: most values and texts are short.
#[inline(always)]
pub(super) fn find3(input: &[u8], mut at: usize, needles: [u8; 3]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 0xff;
    for _ in 0..3 {
        let Some(word) = input[at..].first_chunk() else { break };
        let word = u64::from_le_bytes(*word);
        let mut zeros = 0;
        for needle in needles {
            let differs = word ^ (ONES * u64::from(needle));
            zeros |= differs.wrapping_sub(ONES) & !differs & (ONES << 7);
        }
        if zeros != 0 {
            return Some(at + zeros.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let [a, b, c] = needles;
    memchr::memchr3(a, b, c, &input[at..]).map(|offset| at + offset)
}

/// Scans the qualified name that begins at `start`, with a byte that may, and is known to reach to `from` (Namespaces in
/// XML §4). The name and its end, or `None` if the input ends first.
#[inline(always)]
pub(super) fn name(input: &[u8], start: usize, from: usize, len_max: u16) -> Result<Option<(Name, usize)>, Fault> {
    let (mut end, mut seen) = (from, 0);
    let is_complete = loop {
        let Some(&byte) = input.get(end) else { break false };
        let class = CLASS[usize::from(byte)];
        if class == 0 {
            break true;
        }
        seen |= class;
        end += 1;
    };
    let len = end - start;
    if len > usize::from(len_max) {
        return Err(Fault::NameBytes);
    }
    if !is_complete {
        return Ok(None);
    }
    let is_simple = from == start && seen & (COLON | HIGH) == 0;
    let prefix_len = if is_simple { 0 } else { qualified(&input[start..end])? };
    Ok(Some((Name::new(start, len as u16, prefix_len), end)))
}

/// The name that begins here, if it is complete and all ASCII and has no prefix.
#[inline(always)]
pub(super) fn simple_name(input: &[u8], start: usize, len_max: u16) -> Option<Name> {
    let mut end = start + 1;
    if CLASS[usize::from(*input.get(start)?)] & (START | HIGH) != START {
        return None;
    }
    loop {
        let class = CLASS[usize::from(*input.get(end)?)];
        if class & (COLON | HIGH) != 0 {
            return None;
        }
        if class == 0 {
            break;
        }
        end += 1;
    }
    let len = end - start;
    (len <= usize::from(len_max)).then(|| Name::new(start, len as u16, 0))
}

/// Checks a name with a colon or with characters above ASCII; the length of its prefix.
#[inline(never)]
fn qualified(name: &[u8]) -> Result<u16, Fault> {
    let colon = memchr::memchr(b':', name);
    let (prefix, local) = colon.map_or((None, name), |at| (Some(&name[..at]), &name[at + 1..]));
    check_part(local)?;
    prefix.map_or(Ok(()), check_part)?;
    Ok(prefix.map_or(0, |prefix| prefix.len() as u16))
}

/// Checks a name without a colon (NCName).
fn check_part(part: &[u8]) -> Result<(), Fault> {
    let starts = part.first().is_some_and(|&byte| CLASS[usize::from(byte)] & START != 0);
    let seen = part.iter().fold(0, |seen, &byte| seen | CLASS[usize::from(byte)]);
    if !starts || seen & COLON != 0 {
        return Err(Fault::NotWellFormed);
    }
    if seen & HIGH != 0 {
        let part = simdutf8::basic::from_utf8(part).map_err(|_| Fault::Encoding)?;
        if !part.starts_with(is_name_start) || !part.chars().all(|c| is_name_start(c) || is_name_inner(c)) {
            return Err(Fault::NotWellFormed);
        }
    }
    Ok(())
}

/// NameStartChar without the colon (XML 1.0 §2.3).
const fn is_name_start(c: char) -> bool {
    matches!(c, 'A'..='Z' | '_' | 'a'..='z' | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{2ff}'
        | '\u{370}'..='\u{37d}' | '\u{37f}'..='\u{1fff}' | '\u{200c}'..='\u{200d}' | '\u{2070}'..='\u{218f}'
        | '\u{2c00}'..='\u{2fef}' | '\u{3001}'..='\u{d7ff}' | '\u{f900}'..='\u{fdcf}' | '\u{fdf0}'..='\u{fffd}'
        | '\u{10000}'..='\u{effff}')
}

/// What NameChar adds to it.
const fn is_name_inner(c: char) -> bool {
    matches!(c, '-' | '.' | '0'..='9' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}'..='\u{2040}')
}

/// Char (XML 1.0 §2.2).
const fn is_char(code: u32) -> bool {
    matches!(code, 0x9 | 0xa | 0xd | 0x20..=0xd7ff | 0xe000..=0xfffd | 0x1_0000..=0x10_ffff)
}

/// Whether UTF-8 text holds legal characters only: no control characters, no U+FFFE or U+FFFF (XML 1.0 §2.2).
#[inline]
pub(super) fn are_chars(text: &[u8]) -> bool {
    let mut bad = false;
    let mut high = 0;
    for &byte in text {
        bad |= (byte < 0x20) & (byte != b'\t') & (byte != b'\n') & (byte != b'\r');
        high |= byte;
    }
    !bad && (high < 0x80 || !has_noncharacter(text))
}

fn has_noncharacter(text: &[u8]) -> bool {
    memchr::memchr_iter(0xef, text).any(|at| matches!(text.get(at + 1..at + 3), Some([0xbf, 0xbe | 0xbf])))
}

/// Longest reference looked at, in bytes: no name of the five comes near, and zeros in front of a number must end.
const REFERENCE_BYTES_MAX: usize = 64;

/// Checks the reference `text` begins with (XML 1.0 §4.1, §4.6); its length, or `None` if the input ends first.
pub(super) fn reference(text: &[u8]) -> Result<Option<usize>, Fault> {
    let text = &text[..text.len().min(REFERENCE_BYTES_MAX)];
    let Some(end) = memchr::memchr(b';', text) else {
        let open = &text[1..];
        let may_become = match open {
            [] | b"#" | b"#x" => true,
            [b'#', b'x', digits @ ..] => digits.iter().all(u8::is_ascii_hexdigit),
            [b'#', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
            _ => ENTITIES.iter().any(|(name, _)| name.as_bytes().starts_with(open)),
        };
        return match may_become {
            true if text.len() == REFERENCE_BYTES_MAX => Err(Fault::ReferenceBytes),
            true => Ok(None),
            false => Err(refused(open)),
        };
    };
    let body = &text[1..end];
    match body {
        [b'#', ..] => std::str::from_utf8(body).ok().and_then(number).map(|_| ()).ok_or(Fault::NotWellFormed)?,
        _ if ENTITIES.iter().any(|(name, _)| name.as_bytes() == body) => {}
        _ => return Err(refused(body)),
    }
    Ok(Some(end + 1))
}

/// `&foo` is an entity of somebody's DTD, `& ` is no reference at all.
fn refused(body: &[u8]) -> Fault {
    match body.first() {
        Some(&byte) if CLASS[usize::from(byte)] & START != 0 => Fault::Restricted,
        _ => Fault::NotWellFormed,
    }
}

const ENTITIES: [(&str, char); 5] = [("lt", '<'), ("gt", '>'), ("amp", '&'), ("apos", '\''), ("quot", '"')];

/// The character that `#…` or `#x…` denotes, if XML allows it.
fn number(body: &str) -> Option<char> {
    let digits = body.strip_prefix('#')?;
    let (digits, radix) = digits.strip_prefix('x').map_or((digits, 10), |hex| (hex, 16));
    // `from_str_radix` would take a sign.
    let code =
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, radix).ok())??;
    char::from_u32(code).filter(|_| is_char(code))
}

/// Whether [`decode`] would change the text.
pub(super) fn is_plain(raw: &str, is_attribute: bool) -> bool {
    if is_attribute {
        !raw.bytes().fold(false, |any, byte| any | (byte == b'&') | (byte < 0x20))
    } else {
        memchr::memchr2(b'&', b'\r', raw.as_bytes()).is_none()
    }
}

/// Appends checked text with references resolved and line ends (XML 1.0 §2.11) or, in an attribute, white space
/// (§3.3.3) normalised.
pub(super) fn decode(out: &mut String, raw: &str, is_attribute: bool) {
    let mut rest = raw;
    while let Some(at) = rest.find(|c: char| c == '&' || c == '\r' || (is_attribute && c < ' ')) {
        let (before, special) = rest.split_at(at);
        out.push_str(before);
        if let Some(body) = special.strip_prefix('&') {
            let (body, after) = body.split_once(';').unwrap_or((body, ""));
            let entity = ENTITIES.iter().find(|(name, _)| *name == body).map(|&(_, c)| c);
            out.extend(entity.or_else(|| number(body)));
            rest = after;
        } else {
            out.push(if is_attribute { ' ' } else { '\n' });
            rest = special.strip_prefix("\r\n").unwrap_or(&special[1..]);
        }
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_ends_where_white_space_does() {
        for spaces in (0..200).map(|len| " \t\r\n".chars().cycle().take(len).collect::<String>()) {
            for rest in ["", "<", "x ", "\u{b}", "\u{a0}"] {
                assert_eq!(skip_gap((spaces.clone() + rest).as_bytes()), spaces.len(), "{rest:?}");
            }
        }
    }

    #[test]
    fn only_the_five_entities_and_legal_characters_are_references() {
        let check = |text: &str, expected| assert_eq!(reference(text.as_bytes()), expected, "{text}");
        check("&lt; ", Ok(Some(4)));
        check("&quot;&amp;", Ok(Some(6)));
        check("&#65;", Ok(Some(5)));
        check("&#x0000010FFFF;", Ok(Some(15)));
        check("&#x9;", Ok(Some(5)));
        check("&", Ok(None));
        check("&ap", Ok(None));
        check("&#", Ok(None));
        check("&#x1f", Ok(None));
        check("&foo;", Err(Fault::Restricted));
        check("&amps;", Err(Fault::Restricted));
        check("&fo", Err(Fault::Restricted));
        check("&nbsp", Err(Fault::Restricted));
        check("& ", Err(Fault::NotWellFormed));
        check("&;", Err(Fault::NotWellFormed));
        check("&#;", Err(Fault::NotWellFormed));
        check("&#x;", Err(Fault::NotWellFormed));
        check("&#X41;", Err(Fault::NotWellFormed));
        check("&#+65;", Err(Fault::NotWellFormed));
        check("&#0;", Err(Fault::NotWellFormed));
        check("&#1;", Err(Fault::NotWellFormed));
        check("&#xD800;", Err(Fault::NotWellFormed));
        check("&#xFFFE;", Err(Fault::NotWellFormed));
        check("&#x110000;", Err(Fault::NotWellFormed));
        check("&#99999999999999999999;", Err(Fault::NotWellFormed));
        check(&format!("&#{}", "0".repeat(100)), Err(Fault::ReferenceBytes));
    }

    #[test]
    fn references_and_line_ends_are_resolved() {
        let check = |raw: &str, is_attribute, expected: &str| {
            let mut out = String::new();
            decode(&mut out, raw, is_attribute);
            assert_eq!(out, expected, "{raw:?}");
            assert_eq!(is_plain(raw, is_attribute), raw == expected, "{raw:?}");
        };
        check("a&lt;b&#x41;&#228;", false, "a<bAä");
        check("a\r\nb\rc\nd\te", false, "a\nb\nc\nd\te");
        check("a\r\nb\rc\nd\te", true, "a b c d e");
        check("&#13;&#10;&amp;amp;", true, "\r\n&amp;");
        check("plain", true, "plain");
    }

    #[test]
    fn characters_xml_leaves_out_are_found() {
        assert!(are_chars("tab\t line\r\n é 漢 \u{fffd} \u{10ffff}\u{7f}".as_bytes()));
        for bad in ["\0", "\u{1}", "\u{b}", "\u{1f}", "\u{fffe}", "a\u{ffff}b"] {
            assert!(!are_chars(bad.as_bytes()), "{bad:?}");
        }
    }
}
