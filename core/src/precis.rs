//! PRECIS: the string profiles that addresses and passwords are prepared with (RFC 8264, RFC 8265).
//!
//! Called by [`crate::jid`] and by SASL. ASCII takes a short way that gives what the full rules give; the rest goes
//! through the `precis-profiles` tables, which follow the IANA registry (Unicode 6.3): what was assigned later is refused.
//! Holds nothing, and the work is linear in the text since characters with contextual rules are few by a bound.

use std::borrow::Cow;

use precis_core::profile::PrecisFastInvocation;
use precis_core::{Error, IdentifierClass, StringClass};
use precis_profiles::{OpaqueString, UsernameCaseMapped};

/// Most characters with a contextual rule (RFC 5892 Appendix A) in one string. Each is judged by looking at the whole
/// string again, so a kilobyte of them would cost milliseconds. Differs from RFC 8264 §8, which knows no such bound.
const CONTEXT_CHARACTERS_MAX: usize = 32;

/// Most times the rules are applied again before a string counts as unstable (RFC 8264 §7).
const REAPPLICATIONS_MAX: usize = 3;

/// A password in the form it is hashed and compared in (OpaqueString, RFC 8265 §4.2): case and inner spaces are kept,
/// every other kind of space becomes U+0020, and the text is composed (NFC). `None` if it is empty or holds a character
/// the profile forbids, such as a control character.
#[must_use]
pub fn prepare_password(text: &str) -> Option<Cow<'_, str>> {
    opaque_string(text)
}

/// OpaqueString (RFC 8265 §4.2), for resourceparts and passwords. `Borrowed` exactly if the text is unchanged.
pub(crate) fn opaque_string(text: &str) -> Option<Cow<'_, str>> {
    if !text.is_empty() && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Some(Cow::Borrowed(text));
    }
    stable(text, |text| OpaqueString::enforce(text))
}

/// UsernameCaseMapped (RFC 8265 §3.3), for localparts and user names. `Borrowed` exactly if the text is unchanged.
///
/// Lower-casing is by character, so `Σ` becomes `σ` wherever it stands, and `ς` and `ß` stay what they are.
pub(crate) fn username_case_mapped(text: &str) -> Option<Cow<'_, str>> {
    if !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'!'..=b'~')) {
        let upper = text.bytes().any(|byte| byte.is_ascii_uppercase());
        return Some(if upper { Cow::Owned(text.to_ascii_lowercase()) } else { Cow::Borrowed(text) });
    }
    stable(text, |text| UsernameCaseMapped::enforce(text))
}

/// Whether a label has only characters of the IdentifierClass (RFC 8264 §4.2), its contextual rules included. But for
/// ASCII symbols that is what IDNA2008 lets a U-label have (RFC 5892 §2).
pub(crate) fn is_identifier(label: &str) -> bool {
    context_is_bounded(label) && IdentifierClass::default().allows(label).is_ok()
}

/// Applies a profile's rules until they change nothing more; `None` if they refuse the text or never settle
/// (RFC 8264 §7). One application is not enough: U+0387 composes to U+00B7, which is allowed between two `l` only.
fn stable(text: &str, rules: impl for<'a> Fn(&'a str) -> Result<Cow<'a, str>, Error>) -> Option<Cow<'_, str>> {
    if !context_is_bounded(text) {
        return None;
    }
    let mut current = Cow::Borrowed(text);
    for _ in 0..=REAPPLICATIONS_MAX {
        let next = rules(&current).ok()?;
        if next == current {
            return Some(current);
        }
        current = Cow::Owned(next.into_owned());
    }
    None
}

/// Whether the text has few enough characters with a contextual rule.
fn context_is_bounded(text: &str) -> bool {
    let contextual = |c: &char| {
        matches!(c, '\u{b7}' | '\u{375}' | '\u{5f3}' | '\u{5f4}' | '\u{660}'..='\u{669}' | '\u{6f0}'..='\u{6f9}'
            | '\u{200c}' | '\u{200d}' | '\u{30fb}' | '\u{ff65}')
    };
    text.chars().filter(contextual).count() <= CONTEXT_CHARACTERS_MAX
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn passwords_follow_rfc_8265_section_4_3() {
        let check = |input: &str, expected: Option<&str>| {
            assert_eq!(prepare_password(input).as_deref(), expected, "{input:?}");
        };
        check("correct horse battery staple", Some("correct horse battery staple"));
        check("Correct Horse Battery Staple", Some("Correct Horse Battery Staple"));
        check("πßå", Some("πßå"));
        check("Jack of \u{2666}s", Some("Jack of \u{2666}s"));
        check("foo\u{1680}bar", Some("foo bar")); // OGHAM SPACE MARK
        check("", None);
        check("my cat is a \u{9}by", None); // TAB
        check(" leading and trailing ", Some(" leading and trailing "));
        check("a\u{30a}", Some("å")); // composed
        check("１", Some("１")); // width is kept
        check("\u{61c}", None);
        check("nul\0", None);
    }

    #[test]
    fn user_names_follow_rfc_8265_section_3_5() {
        let check = |input: &str, expected: Option<&str>| {
            assert_eq!(username_case_mapped(input).as_deref(), expected, "{input:?}");
        };
        check("juliet@example.com", Some("juliet@example.com"));
        check("fussball", Some("fussball"));
        check("fußball", Some("fußball"));
        check("π", Some("π"));
        check("Σ", Some("σ"));
        check("σ", Some("σ"));
        check("ς", Some("ς"));
        check("foo bar", None);
        check("", None);
        check("henryⅣ", None);
        check("♚", None);
        check("ＡＢＣ", Some("abc")); // width-mapped
        check("I", Some("i")); // no Turkish dotless i
        check("İ", Some("i\u{307}"));
        check("STRASSE", Some("strasse"));
        check("א1", Some("א1"));
        check("א1a", None); // RFC 5893 §2
    }

    #[test]
    fn what_the_rules_would_change_again_into_something_forbidden_is_refused() {
        assert_eq!(prepare_password("l\u{387}l").as_deref(), Some("l\u{b7}l"));
        assert_eq!(prepare_password("a\u{387}b"), None);
        assert_eq!(username_case_mapped("Ꭰ"), None, "its lower case is younger than the registry");
    }

    #[test]
    fn many_contextual_characters_are_refused_quickly() {
        let dots = |n| "・".repeat(n) + "ア";
        assert!(username_case_mapped(&dots(CONTEXT_CHARACTERS_MAX)).is_some());
        assert!(username_case_mapped(&dots(CONTEXT_CHARACTERS_MAX + 1)).is_none());
        assert!(username_case_mapped(&("･".repeat(CONTEXT_CHARACTERS_MAX + 1) + "ア")).is_none());
        let before = Instant::now();
        assert_eq!(prepare_password(&dots(100_000)), None);
        assert_eq!(prepare_password(&"٠".repeat(100_000)), None);
        assert!(before.elapsed() < Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn the_short_way_for_ascii_gives_what_the_profile_gives(text in "[ -~]{0,20}|[\\x00-\\x7f]{0,8}") {
            let name = UsernameCaseMapped::enforce(text.as_str()).ok();
            prop_assert_eq!(username_case_mapped(&text), name);
            let opaque = OpaqueString::enforce(text.as_str()).ok();
            prop_assert_eq!(opaque_string(&text), opaque);
        }

        #[test]
        fn a_prepared_string_is_prepared_already(text in any::<String>()) {
            for profile in [username_case_mapped, opaque_string] {
                if let Some(once) = profile(&text) {
                    prop_assert!(matches!(profile(&once), Some(Cow::Borrowed(twice)) if twice == once));
                    prop_assert_eq!(matches!(once, Cow::Borrowed(_)), once == text);
                }
            }
        }
    }
}
