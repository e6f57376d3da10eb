//! The attributes of a tag that the scanner has checked, read once more where they are wanted.

use super::element::Attr;

/// What is left of a checked start tag, behind its name.
#[derive(Debug, Clone)]
pub(super) struct TagAttrs<'a> {
    rest: &'a str,
}

impl<'a> TagAttrs<'a> {
    /// Of the element that begins here.
    pub(super) fn of(raw: &'a str) -> Self {
        let end = raw.find(|c: char| c.is_ascii_whitespace() || c == '/' || c == '>').unwrap_or(raw.len());
        Self { rest: raw.get(end..).unwrap_or_default() }
    }
}

impl<'a> Iterator for TagAttrs<'a> {
    type Item = Attr<'a>;

    fn next(&mut self) -> Option<Attr<'a>> {
        let rest = self.rest.trim_ascii_start();
        // What begins otherwise ends the tag.
        let (written, rest) = rest.split_once('=').filter(|_| !rest.starts_with(['/', '>']))?;
        let rest = rest.trim_ascii_start();
        let quote = rest.chars().next()?;
        let (raw, rest) = rest.get(1..)?.split_once(quote)?;
        self.rest = rest;
        let (prefix, name) = written.trim_ascii_end().split_once(':').unwrap_or(("", written.trim_ascii_end()));
        Some(Attr { prefix, name, raw })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_those_that_stand_in_the_tag() {
        let check = |raw: &str, expected: &[(&str, &str, &str)]| {
            let found: Vec<_> = TagAttrs::of(raw).map(|attr| (attr.prefix, attr.name, attr.raw)).collect();
            assert_eq!(found, expected, "{raw}");
        };
        check("<a/>", &[]);
        check("<a>b='1'</a>", &[]);
        check("<a ><b c='1'/></a>", &[]);
        check("<a b='1'/>", &[("", "b", "1")]);
        check("<p:a\n b = \"it's > &amp;\"\tx:c=''>d='2'</p:a>", &[("", "b", "it's > &amp;"), ("x", "c", "")]);
    }
}
