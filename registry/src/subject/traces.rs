//! What names a subject in what others own.

use plaza_core::jid::{Jid, JidRef};

use super::{Place, is_of};
use crate::pubsub::subject::Trace as InNodes;
use crate::store::{StoreError, Table};
use crate::things::ThingRecord;
use crate::{archive, blocking, pubsub};

/// What a record is about the subject, and so what erasing does.
#[derive(Debug)]
pub(super) enum Found {
    /// It is somebody else's: it stays.
    Kept(&'static str),
    /// It goes.
    Record(&'static str),
    /// The subject is taken out of the nodes of this host.
    Nodes(&'static str),
    /// The thing is the subject's no more.
    Owner(Box<ThingRecord>),
}

impl Found {
    pub(super) const fn what(&self) -> &'static str {
        match self {
            Self::Kept(what) | Self::Record(what) | Self::Nodes(what) => what,
            Self::Owner(_) => "ownership of a thing",
        }
    }

    pub(super) const fn is_removed(&self) -> bool {
        match self {
            Self::Kept(_) => false,
            Self::Record(_) | Self::Nodes(_) | Self::Owner(_) => true,
        }
    }
}

/// What a record that is not the subject's says about it.
pub(super) fn find(
    table: Table,
    place: &Place<'_>,
    record: &[u8],
    subject: JidRef<'_>,
) -> Result<Option<Found>, StoreError> {
    let bare = subject.as_str();
    let named = |list: &blocking::BlockList| list.iter().any(|jid| is_of(jid.as_str(), bare));
    let in_key = |skipped| place.begins_with(skipped).is_some_and(|jid| is_of(jid, bare));
    let found = match table {
        Table::Rosters => (place.rest == bare.as_bytes()).then_some(Found::Kept("contact")),
        Table::Blocklists => named(&blocking::decode(record)?).then_some(Found::Kept("blocked address")),
        Table::Offline => is_from(record, bare).then_some(Found::Kept("message that waits for its recipient")),
        Table::Archives => match place.rest.first() {
            Some(b'm') => is_of(archive::decode(record)?.0, bare).then_some(Found::Kept("archived message")),
            Some(b'p') => {
                let prefs = archive::Prefs::decode(record)?;
                (named(&prefs.always) || named(&prefs.never)).then_some(Found::Kept("archive preference"))
            }
            Some(_) | None => None,
        },
        Table::PubSub => pubsub::subject::trace(place.rest, record, subject)?.map(|trace| match trace {
            InNodes::Part(what) => Found::Nodes(what),
            InNodes::Count => Found::Record("count of its nodes"),
            InNodes::Author(what) => Found::Kept(what),
        }),
        Table::Things => {
            let (Some(node), Ok(jid)) = (place.node(), Jid::parse(place.of)) else { return Ok(None) };
            let thing = ThingRecord::decode(&jid, node, record)?;
            thing.owner().is_some_and(|owner| owner.as_str() == bare).then(|| Found::Owner(Box::new(thing)))
        }
        Table::Owners => in_key(0).then_some(Found::Record("that its thing is owned")),
        // What its own things may, goes with those.
        Table::Rules => names(record, bare).then_some(Found::Record("rule about it")),
        // A letter says what the record is.
        Table::Questions => (in_key(1) || names(record, bare)).then_some(Found::Record("question about it")),
        Table::Claims => in_key(0).then_some(Found::Record("what claims its thing")),
        Table::Certificates => (in_key(1) || names(record, bare)).then_some(Found::Record("certificate of its token")),
        Table::ApiKeys => {
            // A letter says what the record is; the first part of the rest is behind it.
            let first = place.rest.get(1..).and_then(|rest| rest.split(|&byte| byte == 0).next());
            let created = first == Some(bare.as_bytes()) || place.parts().skip(1).any(|part| part == bare);
            if created {
                Some(Found::Record("which API key it was created with"))
            } else {
                names(record, bare).then_some(Found::Kept("API key that names it"))
            }
        }
        Table::Accounts
        | Table::Private
        | Table::Vcards
        | Table::Avatars
        | Table::Resumables
        | Table::Tokens
        | Table::Broker => None,
    };
    Ok(found)
}

/// Whether a record has a text that is an address of the subject: behind its length, as all texts in records are.
fn names(record: &[u8], bare: &str) -> bool {
    let mut from = 0;
    while let Some(at) = find_bytes(record.get(from..).unwrap_or_default(), bare.as_bytes()) {
        let begin = from + at;
        // A length takes as many bytes as it has groups of seven bits; addresses need two at most.
        let len = match record.get(..begin).unwrap_or_default() {
            [.., low, high] if *low >= 0x80 && *high < 0x80 => usize::from(*low & 0x7f) | usize::from(*high) << 7,
            [.., len] if *len < 0x80 => usize::from(*len),
            _ => 0,
        };
        let text = record.get(begin..begin + len).and_then(|text| std::str::from_utf8(text).ok());
        if text.is_some_and(|text| is_of(text, bare)) {
            return true;
        }
        from = begin + 1;
    }
    false
}

/// Whether a stanza that is kept for another came from the subject: its attributes are as the broker wrote them.
fn is_from(record: &[u8], bare: &str) -> bool {
    let end = record.iter().position(|&byte| byte == b'>').unwrap_or(record.len());
    let tag = record.get(..end).unwrap_or_default();
    ["'", "\""].iter().any(|quote| {
        let begin = format!(" from={quote}{bare}");
        let behind = find_bytes(tag, begin.as_bytes()).and_then(|at| tag.get(at + begin.len()));
        behind.is_some_and(|&byte| byte == b'/' || byte == quote.as_bytes().first().copied().unwrap_or_default())
    })
}

fn find_bytes(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len().max(1)).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::put_bytes;

    #[test]
    fn an_address_in_a_record_is_a_whole_text() {
        let check = |text: &str, expected| {
            let mut record = vec![1, b'l'];
            put_bytes(&mut record, b"other");
            put_bytes(&mut record, text.as_bytes());
            record.push(b'!');
            assert_eq!(names(&record, "lamp@things.example"), expected, "{text}");
        };
        check("lamp@things.example", true);
        check("lamp@things.example/kitchen", true);
        check(&format!("lamp@things.example/{}", "x".repeat(200)), true);
        for other in ["amp@things.example", "a lamp@things.example", "streetlamp@things.example"] {
            check(other, false);
        }
        check("lamp@things.example.org", false);
        check(&format!("{}lamp@things.example", "x".repeat(100)), false);
    }

    #[test]
    fn a_stanza_is_from_whom_its_own_attribute_names() {
        let check = |stanza: &str, expected| assert_eq!(is_from(stanza.as_bytes(), "a@b"), expected, "{stanza}");
        check("<message to='c@b' from='a@b/r'>", true);
        check("<message from=\"a@b\"/>", true);
        check("<message from='a@b.example'>", false);
        check("<message from='ca@b'>", false);
        check("<message from='c@b'><x from='a@b'/></message>", false);
    }
}
