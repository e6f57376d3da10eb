//! What is asked of a value, made ready to be asked of many.
//!
//! The comparisons all become spans. A mask with text in front only is one too. Regular expressions have to match the whole
//! value; what they take is bounded by [`Patterns`], and since they run in time proportional to their size and that of the
//! value, which is short, so is a single check.

use std::ops::Bound;

use memchr::memmem;
use plaza_core::thing::{Comparison, Operator, Range, Side, Test};
use regex_automata::meta::Regex;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::SearchError;
use super::grams::{self, END, Piece};

/// Longest regular expression, in characters: twice the longest value.
pub const PATTERN_CHARS_MAX: usize = 256;

/// What a regular expression may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patterns {
    /// Bytes of each form it is compiled to, of which there are four at most, and of what each keeps while it runs. Default
    /// 131 072: enough for a dozen classes of all of Unicode, and so little that trying the longest value takes milliseconds
    /// at worst.
    pub bytes_max: usize,
    /// How deep it may nest. Default 32: more is written by nobody, and reading it takes as much stack.
    pub depth_max: u32,
}

impl Patterns {
    /// The defaults.
    pub const DEFAULT: Self = Self { bytes_max: 128 * 1024, depth_max: 32 };
}

/// A check of values of one type.
#[derive(Debug, Clone)]
pub(super) enum Check {
    /// A string and a span of the order of bytes.
    Str(Span<Box<[u8]>>),
    /// A number, and a span of [`ordered`] ones.
    Num(Span<u64>),
    /// A string and a mask.
    Mask(Box<Mask>),
    /// A string and a regular expression.
    RegEx(Regex, Vec<Piece>),
}

/// Values from one to another, or those that are not.
#[derive(Debug, Clone)]
pub(super) struct Span<T> {
    pub(super) min: Bound<T>,
    pub(super) max: Bound<T>,
    pub(super) side: Side,
}

/// Texts of which all stand in a value in their order: the first in front, the last at its end.
#[derive(Debug, Clone)]
pub(super) struct Mask {
    front: Box<str>,
    middle: Vec<memmem::Finder<'static>>,
    end: Box<str>,
}

/// A number as one whose order is that of integers; the zeros are one. Numbers that are none are refused before.
pub(super) fn ordered(number: f64) -> u64 {
    let bits = (number + 0.0).to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

/// The number of an [`ordered`] one.
pub(super) fn unordered(bits: u64) -> f64 {
    f64::from_bits(if bits >> 63 == 1 { bits & !(1 << 63) } else { !bits })
}

impl Check {
    /// Makes a test ready; `None` if nothing can pass it.
    ///
    /// # Errors
    /// [`SearchError::BadPattern`], [`SearchError::TooMuch`].
    pub(super) fn new(test: &Test, patterns: Patterns) -> Result<Option<Self>, SearchError> {
        let bytes = |text: &str| Box::from(text.as_bytes());
        Ok(Some(match test {
            Test::Str(comparison, value) => Self::Str(Span::of_comparison(*comparison, bytes(value))),
            Test::StrRange(range, side) => Self::Str(Span::of_range(range, *side, |text| bytes(text))),
            Test::StrMask(mask, wildcard) => Self::of_mask(mask, wildcard),
            Test::StrRegEx(pattern) => Self::of_pattern(pattern, patterns)?,
            Test::Num(_, value) if value.is_nan() => return Ok(None),
            Test::Num(comparison, value) => Self::Num(Span::of_comparison(*comparison, ordered(*value))),
            Test::NumRange(range, side) => {
                if [&range.min, &range.max].into_iter().flatten().any(|(value, _)| value.is_nan()) {
                    return Ok(None);
                }
                Self::Num(Span::of_range(range, *side, |value| ordered(*value)))
            }
        }))
    }

    fn of_mask(mask: &str, wildcard: &str) -> Self {
        let mask = Mask::new(mask, wildcard, str::to_owned);
        match mask {
            Err(exact) => Self::Str(Span::of_comparison(Comparison::Equal, exact.into_bytes().into())),
            Ok(Mask { front, middle, end }) if middle.is_empty() && end.is_empty() => {
                let front: Box<[u8]> = front.into_boxed_bytes();
                let max = behind_all(&front).map_or(Bound::Unbounded, Bound::Excluded);
                Self::Str(Span { min: Bound::Included(front), max, side: Side::Inside })
            }
            Ok(mask) => Self::Mask(Box::new(mask)),
        }
    }

    fn of_pattern(pattern: &str, patterns: Patterns) -> Result<Self, SearchError> {
        if pattern.chars().count() > PATTERN_CHARS_MAX {
            return Err(SearchError::TooMuch);
        }
        let parsed = ParserBuilder::new().nest_limit(patterns.depth_max).build().parse(pattern);
        let whole = parsed.map_err(|_| SearchError::BadPattern)?;
        let pieces = required(&whole);
        // Put around what was read: no bracket or comment in it reaches this, and nothing is printed and read again.
        let whole = Hir::concat(vec![Hir::look(Look::Start), whole, Hir::look(Look::End)]);
        let config = Regex::config()
            .nfa_size_limit(Some(patterns.bytes_max))
            .onepass_size_limit(Some(patterns.bytes_max))
            .hybrid_cache_capacity(patterns.bytes_max);
        let compiled = Regex::builder().configure(config).build_from_hir(&whole);
        compiled.map(|regex| Self::RegEx(regex, pieces)).map_err(|_| SearchError::TooMuch)
    }

    /// Whether a string passes.
    pub(super) fn str_passes(&self, value: &str) -> bool {
        match self {
            Self::Str(span) => span.holds(|end| value.as_bytes().cmp(end)),
            Self::Num(_) => false,
            Self::Mask(mask) => mask.matches(value),
            Self::RegEx(regex, _) => regex.is_match(value),
        }
    }

    /// Whether an [`ordered`] number passes.
    pub(super) fn num_passes(&self, value: u64) -> bool {
        match self {
            Self::Num(span) => span.holds(|end| value.cmp(end)),
            Self::Str(_) | Self::Mask(_) | Self::RegEx(..) => false,
        }
    }
}

/// The least text that is greater than all that begin with one.
fn behind_all(front: &[u8]) -> Option<Box<[u8]>> {
    let keep = front.iter().rposition(|&byte| byte < u8::MAX)?;
    let mut out = front.get(..=keep)?.to_vec();
    if let Some(last) = out.last_mut() {
        *last += 1;
    }
    Some(out.into())
}

impl<T> Span<T> {
    fn of_comparison(comparison: Comparison, value: T) -> Self
    where
        T: Clone,
    {
        let (min, max, side) = match comparison {
            Comparison::Equal => (Bound::Included(value.clone()), Bound::Included(value), Side::Inside),
            Comparison::NotEqual => (Bound::Included(value.clone()), Bound::Included(value), Side::Outside),
            Comparison::Greater => (Bound::Excluded(value), Bound::Unbounded, Side::Inside),
            Comparison::GreaterOrEqual => (Bound::Included(value), Bound::Unbounded, Side::Inside),
            Comparison::Less => (Bound::Unbounded, Bound::Excluded(value), Side::Inside),
            Comparison::LessOrEqual => (Bound::Unbounded, Bound::Included(value), Side::Inside),
        };
        Self { min, max, side }
    }

    fn of_range<U>(range: &Range<U>, side: Side, value: impl Fn(&U) -> T) -> Self {
        let bound = |end: &Option<(U, bool)>| match end {
            None => Bound::Unbounded,
            Some((end, true)) => Bound::Included(value(end)),
            Some((end, false)) => Bound::Excluded(value(end)),
        };
        Self { min: bound(&range.min), max: bound(&range.max), side }
    }

    /// Whether something lies in it, given how it compares with an end.
    fn holds(&self, order: impl Fn(&T) -> std::cmp::Ordering) -> bool {
        (!self.is_before(&order) && !self.is_behind(&order)) == (self.side == Side::Inside)
    }

    /// Whether something lies before the least.
    pub(super) fn is_before(&self, order: impl Fn(&T) -> std::cmp::Ordering) -> bool {
        match &self.min {
            Bound::Unbounded => false,
            Bound::Included(min) => order(min).is_lt(),
            Bound::Excluded(min) => order(min).is_le(),
        }
    }

    /// Whether something lies behind the greatest.
    pub(super) fn is_behind(&self, order: impl Fn(&T) -> std::cmp::Ordering) -> bool {
        match &self.max {
            Bound::Unbounded => false,
            Bound::Included(max) => order(max).is_gt(),
            Bound::Excluded(max) => order(max).is_ge(),
        }
    }
}

impl Mask {
    /// Cuts a mask at its wildcards; each text goes through `fold`. Without any it is the text itself that is meant.
    pub(super) fn new(mask: &str, wildcard: &str, fold: impl Fn(&str) -> String) -> Result<Self, String> {
        if wildcard.is_empty() {
            return Err(fold(mask));
        }
        let (front, rest) = match mask.split_once(wildcard) {
            Some((front, rest)) => (fold(front), rest),
            None => return Err(fold(mask)),
        };
        let (rest, end) = rest.rsplit_once(wildcard).unwrap_or(("", rest));
        let (parts, end) = (rest.split(wildcard).map(&fold), fold(end));
        let middle =
            parts.filter(|part| !part.is_empty()).map(|part| memmem::Finder::new(&part).into_owned()).collect();
        Ok(Self { front: front.into(), middle, end: end.into() })
    }

    /// Whether a text fits.
    pub(super) fn matches(&self, text: &str) -> bool {
        let rest = text.as_bytes().strip_prefix(self.front.as_bytes());
        let Some(mut rest) = rest.and_then(|rest| rest.strip_suffix(self.end.as_bytes())) else { return false };
        self.middle.iter().all(|part| match part.find(rest) {
            Some(at) => {
                rest = rest.get(at + part.needle().len()..).unwrap_or_default();
                true
            }
            None => false,
        })
    }

    /// The text in front.
    pub(super) fn front(&self) -> &[u8] {
        self.front.as_bytes()
    }

    /// What symbols stand in a row in what fits.
    pub(super) fn pieces(&self) -> Vec<Piece> {
        let middle = self.middle.iter().map(|part| grams::symbols(part.needle()).collect());
        let mut pieces: Vec<Piece> = std::iter::once(grams::symbols(self.front()).collect()).chain(middle).collect();
        if !self.end.is_empty() {
            pieces.push(grams::symbols(self.end.as_bytes()).chain([END, END]).collect());
        }
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }
}

/// What symbols stand in a row in whatever matches the whole of a pattern.
fn required(whole: &Hir) -> Vec<Piece> {
    let mut pieces = vec![Piece::new()];
    gather(whole, &mut pieces);
    if let Some(last) = pieces.last_mut().filter(|last| !last.is_empty()) {
        last.extend([END, END]);
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// Adds to the last piece what comes next, or begins another. As deep as [`Patterns::depth_max`] allows.
fn gather(hir: &Hir, pieces: &mut Vec<Piece>) {
    let mut next = |symbols: &mut dyn Iterator<Item = u8>| {
        if let Some(last) = pieces.last_mut() {
            last.extend(symbols);
        }
    };
    match hir.kind() {
        // Nothing that stands in the value.
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => next(&mut grams::symbols(&literal.0)),
        HirKind::Class(class) => match one_symbol(class) {
            Some(symbol) => next(&mut std::iter::once(symbol)),
            None => pieces.push(Piece::new()),
        },
        HirKind::Capture(capture) => gather(&capture.sub, pieces),
        HirKind::Concat(parts) => parts.iter().for_each(|part| gather(part, pieces)),
        HirKind::Repetition(repetition) if repetition.min > 0 => {
            pieces.push(Piece::new());
            gather(&repetition.sub, pieces);
            pieces.push(Piece::new());
        }
        HirKind::Repetition(_) | HirKind::Alternation(_) => pieces.push(Piece::new()),
    }
}

/// The symbol of all the characters of a class, as of a letter in either case.
fn one_symbol(class: &Class) -> Option<u8> {
    let mut symbols = Vec::new();
    match class {
        Class::Unicode(class) => {
            for range in class.ranges() {
                if range.start() != range.end() || !range.start().is_ascii() {
                    return None;
                }
                symbols.push(grams::symbol(range.start() as u8));
            }
        }
        Class::Bytes(class) => {
            for range in class.ranges() {
                if range.start() != range.end() {
                    return None;
                }
                symbols.push(grams::symbol(range.start()));
            }
        }
    }
    symbols.dedup();
    if let [symbol] = *symbols { Some(symbol) } else { None }
}

/// How a tag's name is known: without the case of ASCII letters, and `:` and `_` being one.
pub(super) fn fold_name(name: &str) -> String {
    name.chars().map(|c| if c == ':' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// Which tags an operator means.
#[derive(Debug, Clone)]
pub(super) enum NameCheck {
    One(String),
    Many(Box<Mask>),
}

impl NameCheck {
    /// Those of an operator.
    pub(super) fn new(operator: &Operator) -> Self {
        match Mask::new(&operator.name, operator.wildcard.as_deref().unwrap_or_default(), fold_name) {
            Err(name) => Self::One(name),
            Ok(mask) => Self::Many(Box::new(mask)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(test: &Test, value: &str) -> bool {
        Check::new(test, Patterns::DEFAULT).unwrap().unwrap().str_passes(value)
    }

    #[test]
    fn the_order_of_numbers_is_that_of_their_integers() {
        let numbers =
            [f64::NEG_INFINITY, -1e300, -2.5, -f64::MIN_POSITIVE, 0.0, 5e-324, 1.0, 1.5, 1e300, f64::INFINITY];
        assert!(numbers.is_sorted_by_key(|number| ordered(*number)));
        assert_eq!(ordered(-0.0), ordered(0.0));
        assert!(numbers.into_iter().all(|number| unordered(ordered(number)) == number));
    }

    #[test]
    fn masks_stand_for_runs_of_anything_and_for_nothing() {
        let check = |mask: &str, wildcard: &str, value: &str, expected| {
            let test = Test::StrMask(mask.into(), wildcard.into());
            assert_eq!(passes(&test, value), expected, "{mask} {value}");
        };
        check("a*", "*", "a", true);
        check("a*", "*", "abc", true);
        check("a*", "*", "b", false);
        check("*c", "*", "abc", true);
        check("*b*", "*", "abc", true);
        check("a*c*e", "*", "abcde", true);
        check("a*c*e", "*", "aecde", true);
        check("a*c*e", "*", "ace", true);
        check("a*c*e", "*", "ae", false);
        check("ab*ba", "*", "aba", false);
        check("ab*ba", "*", "abba", true);
        check("*aa*aa*", "*", "aaa", false);
        check("*", "*", "", true);
        check("**", "*", "x", true);
        check("abc", "*", "abc", true);
        check("abc", "*", "abcd", false);
        check("a*", "", "a*", true);
        check("a*", "", "ab", false);
        check("a%%c", "%%", "abc", true);
        check("a%%c", "%%", "a%c", true);
        check("\u{e9}*", "*", "\u{e9}cole", true);
        check("\u{e9}*", "*", "e\u{301}cole", false);
        check("A*", "*", "abc", false);
    }

    #[test]
    fn patterns_match_whole_values() {
        let check = |pattern: &str, value: &str, expected| {
            assert_eq!(passes(&Test::StrRegEx(pattern.into()), value), expected, "{pattern} {value}");
        };
        check("a|ab", "ab", true);
        check("a|ab", "abc", false);
        check("b", "abc", false);
        check("^b$", "b", true);
        check("a.*c", "abc", true);
        check("(?i)abc", "aBC", true);
        check("(?x) a b # and then c", "ab", true);
        check("", "", true);
        check("", "x", false);
        check("[0-9]{3}-[A-Z]+", "123-XY", true);
        check(r"\w+", "höhe", true);
        check("(?m)^a$", "a\nb", false);
    }

    #[test]
    fn patterns_that_are_none_and_those_that_are_too_much_are_told_apart() {
        let check = |pattern: &str, expected| {
            let check = Check::new(&Test::StrRegEx(pattern.into()), Patterns::DEFAULT);
            assert_eq!(check.map(|_| ()), Err(expected), "{pattern}");
        };
        check("(", SearchError::BadPattern);
        check("a)(b", SearchError::BadPattern);
        check("[", SearchError::BadPattern);
        check(r"(a)\1", SearchError::BadPattern);
        check("(?x) a )", SearchError::BadPattern);
        check(&"(".repeat(200), SearchError::BadPattern);
        check(&format!("{}a{}", "(".repeat(40), ")".repeat(40)), SearchError::BadPattern);
        check(r"(\w{100}){100}", SearchError::TooMuch);
        check("((((a{9}){9}){9}){9}){9}", SearchError::TooMuch);
        check(&"a".repeat(PATTERN_CHARS_MAX + 1), SearchError::TooMuch);
        assert!(Check::new(&Test::StrRegEx("é".repeat(PATTERN_CHARS_MAX).into()), Patterns::DEFAULT).is_ok());
    }

    /// Patterns that are short and ask for much.
    fn hostile() -> Vec<String> {
        let mut all: Vec<String> = [
            r"(a{1,100}){1,100}",
            r"\w{1000}",
            r"(\w|\d){9}[^A]*Z[^B]*Y.*",
            r"(?i)(\pL|\pN|\pS){1,40}",
            r"[\s\S]{0,999}",
            r"(a|aa)+(b|bb)+(c|cc)+(d|dd)+x",
            r"(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)x",
            r"((((((a?){9}){9}){9}){9}){9}){9}",
            r".*[^a]{60}.*[^b]{60}.*",
            r"(x+x+)+y",
            r"[a-z&&[^aeiou]--\p{Greek}]*",
            r"\b\w+\b.*\b\w+\b.*\B",
            r"a{0,1000}a{0,1000}a{0,1000}",
        ]
        .map(str::to_owned)
        .to_vec();
        for part in [r"\w", r"\W", r"\PL", r"(?i)\pL", r"[^\w\d]", r"\p{Han}?", r".?", r"(a*)*", r"(?:a|b|)"] {
            all.push(part.repeat(PATTERN_CHARS_MAX / part.len()));
            all.push(format!("({part}*)*"));
        }
        all.push(format!("{}a{}", "(".repeat(32), ")*".repeat(32)));
        all.push(format!("{}a{}", "(?:".repeat(30), "){2}".repeat(30)));
        all
    }

    #[test]
    fn whatever_a_pattern_asks_for_it_gets_no_more_than_it_may() {
        let values = ["a".repeat(128), "ab".repeat(64), "\u{10348}".repeat(128), "x y".repeat(42), String::new()];
        let (mut compiled, mut refused) = (0, 0);
        for bytes_max in [16 * 1024, Patterns::DEFAULT.bytes_max] {
            let patterns = Patterns { bytes_max, ..Patterns::DEFAULT };
            for pattern in hostile() {
                let Ok(Some(check)) = Check::new(&Test::StrRegEx(pattern.as_str().into()), patterns) else {
                    refused += 1;
                    continue;
                };
                compiled += 1;
                let Check::RegEx(regex, _) = &check else { panic!("{pattern} is one") };
                let mut cache = regex.create_cache();
                for value in &values {
                    let matched = regex.search_half_with(&mut cache, &regex_automata::Input::new(value)).is_some();
                    assert_eq!(matched, check.str_passes(value), "{pattern} {value}");
                }
                // Four forms, and what three of them keep; the backtracking one marks where it was in 256 KiB.
                let (form, kept) = (regex.memory_usage(), cache.memory_usage());
                assert!(form <= 4 * bytes_max, "{pattern}: {form}");
                assert!(kept <= 3 * bytes_max + 256 * 1024, "{pattern}: {kept}");
            }
        }
        assert!(compiled > 20 && refused > 20, "{compiled}, {refused}");
    }

    #[test]
    fn a_pattern_tells_what_has_to_stand_in_what_it_matches() {
        let check = |pattern: &str, expected: &[&str]| {
            let Some(Check::RegEx(_, pieces)) = Check::new(&Test::StrRegEx(pattern.into()), Patterns::DEFAULT).unwrap()
            else {
                panic!("{pattern} is one");
            };
            let expected: Vec<Piece> = expected
                .iter()
                .map(|piece| piece.bytes().map(|byte| if byte == b'$' { END } else { grams::symbol(byte) }).collect())
                .collect();
            assert_eq!(pieces, expected, "{pattern}");
        };
        check("abc", &["abc$$"]);
        check("abc.*", &["abc"]);
        check(".*abc", &["abc$$"]);
        check(".*98[0-9]73.*", &["98", "73"]);
        check("a(bc)d", &["abcd$$"]);
        check("a(bc)+d", &["a", "bc", "d$$"]);
        check("a(bc)*d", &["a", "d$$"]);
        check("(one|two)x", &["x$$"]);
        check("(?i)ab1", &["ab1$$"]);
        check("(?i)ask", &["a"]);
        check(r"a\bc", &["ac$$"]);
        check(".*", &[]);
    }

    #[test]
    fn names_are_the_same_in_either_case_and_with_either_sign() {
        assert_eq!(fold_name("urn:nfi:IOT_x"), "urn_nfi_iot_x");
        assert_eq!(fold_name("HÖHE"), "hÖhe");
    }
}
