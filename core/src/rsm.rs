//! Result set management (XEP-0059 v1.0): which part of a long list is asked for, and what is told about it.
//!
//! Called by services whose lists may be long. Pure: [`Request::page`] works on positions, so that a list in memory, an
//! index or a store can stand behind it; a store that only reads forwards serves [`Request::forwards`].

use std::fmt;
use std::ops::Range;

use crate::ns;
use crate::stanza::Condition;
use crate::xml::read::Node;
use crate::xml::write;

/// What part of the list is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Most items of the page; `None` leaves it to the service.
    pub max: Option<u32>,
    /// Where the page lies.
    pub start: Start,
}

/// Where a page lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// At the beginning of the list (XEP-0059 §2.1).
    First,
    /// Right behind this item (§2.2).
    After(String),
    /// Right before this item (§2.3).
    Before(String),
    /// At the end of the list (§2.5).
    Last,
    /// From this position on, the first being 0 (§2.6).
    Index(u32),
}

/// Why there is no such page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RsmError {
    /// The request makes no sense: a number that is none, or two places at once.
    Malformed,
    /// The item to go on from is not in the list (§2.4).
    NotFound,
    /// The list can't be read that way (§2.6).
    Unsupported,
}

impl RsmError {
    /// The stanza error it ends in.
    pub const fn condition(self) -> Condition {
        match self {
            Self::Malformed => Condition::BadRequest,
            Self::NotFound => Condition::ItemNotFound,
            Self::Unsupported => Condition::FeatureNotImplemented,
        }
    }
}

impl fmt::Display for RsmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the page asked for makes no sense",
            Self::NotFound => "the item to go on from is not in the list",
            Self::Unsupported => "the list can only be read from the beginning",
        })
    }
}

impl std::error::Error for RsmError {}

impl Request {
    /// Everything, as far as the service gives it at once.
    pub const ALL: Self = Self { max: None, start: Start::First };

    /// The request in a payload: its first child `<set/>`. `None` if there is none.
    ///
    /// # Errors
    /// [`RsmError::Malformed`].
    pub fn of(payload: &Node) -> Result<Option<Self>, RsmError> {
        payload.child("set", ns::RSM).map(Self::parse).transpose()
    }

    /// Reads a `<set/>` of a request.
    ///
    /// # Errors
    /// [`RsmError::Malformed`].
    pub fn parse(set: &Node) -> Result<Self, RsmError> {
        let text = |name| set.child(name, ns::RSM).map(|node| node.text.as_str());
        let number = |name| text(name).map(|text| text.parse().map_err(|_| RsmError::Malformed)).transpose();
        let start = match (text("after"), text("before"), number("index")?) {
            // An empty one is before the first item, as none is (§2.2).
            (None | Some(""), None, None) => Start::First,
            (Some(id), None, None) => Start::After(id.to_owned()),
            (None, Some(""), None) => Start::Last,
            (None, Some(id), None) => Start::Before(id.to_owned()),
            (None, None, Some(index)) => Start::Index(index),
            _ => return Err(RsmError::Malformed),
        };
        Ok(Self { max: number("max")?, start })
    }

    /// How many items the page may have; `page_max` is the most the service gives at once.
    pub fn page_len(&self, page_max: usize) -> usize {
        self.max.map_or(page_max, |max| page_max.min(max as usize))
    }

    /// The positions of the page in a list of `count` items, in which `position` finds an item by its id. At most
    /// `page_max` of them. A request for none (§2.7) gives an empty page whatever else it says.
    ///
    /// # Errors
    /// [`RsmError::NotFound`].
    pub fn page(
        &self,
        count: usize,
        position: impl FnOnce(&str) -> Option<usize>,
        page_max: usize,
    ) -> Result<Range<usize>, RsmError> {
        let len = self.page_len(page_max);
        if len == 0 {
            return Ok(0..0);
        }
        let find = |id| position(id).filter(|at| *at < count).ok_or(RsmError::NotFound);
        let (start, end) = match &self.start {
            Start::First => (0, len),
            Start::After(id) => {
                let at = find(id)? + 1;
                (at, at.saturating_add(len))
            }
            Start::Before(id) => {
                let at = find(id)?;
                (at.saturating_sub(len), at)
            }
            Start::Last => (count.saturating_sub(len), count),
            Start::Index(index) => (*index as usize, (*index as usize).saturating_add(len)),
        };
        Ok(start.min(count)..end.min(count))
    }

    /// Whether the page is given by its end, so that what does not fit is left out at its beginning.
    pub const fn is_backwards(&self) -> bool {
        matches!(self.start, Start::Before(_) | Start::Last)
    }

    /// The item to go on behind, for a list that is only read forwards; `None` is the beginning.
    ///
    /// # Errors
    /// [`RsmError::Unsupported`] for a page from the end, before an item or at an index beyond the first.
    pub fn forwards(&self) -> Result<Option<&str>, RsmError> {
        match &self.start {
            Start::First | Start::Index(0) => Ok(None),
            Start::After(id) => Ok(Some(id)),
            Start::Before(_) | Start::Last | Start::Index(_) => Err(RsmError::Unsupported),
        }
    }
}

/// What is told about a page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Page<'a> {
    /// Ids of its first and its last item, `None` if it is empty.
    pub ends: Option<(&'a str, &'a str)>,
    /// Position of its first item, if known.
    pub index: Option<usize>,
    /// Length of the whole list, if known.
    pub count: Option<usize>,
}

impl Page<'_> {
    /// Appends the `<set/>` of a result.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"<set");
        write::attr(out, "xmlns", ns::RSM);
        out.push(b'>');
        if let Some((first, last)) = self.ends {
            out.extend_from_slice(b"<first");
            if let Some(index) = self.index {
                write::attr(out, "index", &index.to_string());
            }
            out.push(b'>');
            write::text(out, first);
            out.extend_from_slice(b"</first><last>");
            write::text(out, last);
            out.extend_from_slice(b"</last>");
        }
        if let Some(count) = self.count {
            out.extend_from_slice(b"<count>");
            out.extend_from_slice(count.to_string().as_bytes());
            out.extend_from_slice(b"</count>");
        }
        out.extend_from_slice(b"</set>");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(inside: &str) -> Result<Request, RsmError> {
        let query = format!("<query xmlns='jabber:iq:search'><set xmlns='{}'>{inside}</set></query>", ns::RSM);
        Request::of(&Node::parse(&query, "").unwrap()).map(|request| request.expect("there is a set"))
    }

    /// 800 users, as in XEP-0059's examples: at 0, 9, 10, 19, 371 and 380 those whom it names.
    fn users() -> Vec<String> {
        let mut users: Vec<String> = (0..800).map(|index| format!("user{index}@jabber.org")).collect();
        users[0] = "stpeter@jabber.org".to_owned();
        users[9] = "peterpan@neverland.lit".to_owned();
        users[10] = "peter@pixyland.org".to_owned();
        users[19] = "peter@rabbit.lit".to_owned();
        users
    }

    /// What is answered to a request inside `<set/>`, without the `<set/>` around it.
    fn answered(users: &[String], inside: &str) -> Result<String, RsmError> {
        let request = parse(inside)?;
        let range = request.page(users.len(), |id| users.iter().position(|user| user == id), 100)?;
        let page = &users[range.clone()];
        let page = Page {
            ends: page.first().zip(page.last()).map(|(first, last)| (first.as_str(), last.as_str())),
            index: Some(range.start),
            count: Some(users.len()),
        };
        let mut out = Vec::new();
        page.write(&mut out);
        let out = String::from_utf8(out).unwrap();
        let inside = out.strip_prefix("<set xmlns='http://jabber.org/protocol/rsm'>").unwrap();
        Ok(inside.strip_suffix("</set>").unwrap().to_owned())
    }

    #[test]
    fn the_examples_of_xep_0059_are_answered_as_it_shows() {
        #[track_caller]
        fn check(inside: &str, answer: &str) {
            assert_eq!(answered(&users(), inside).as_deref(), Ok(answer), "{inside}");
        }
        let first = "<first index='0'>stpeter@jabber.org</first><last>peterpan@neverland.lit</last><count>800</count>";
        let second = "<first index='10'>peter@pixyland.org</first><last>peter@rabbit.lit</last><count>800</count>";
        check("<max>10</max>", first); // Examples 3 and 4
        check("<max>10</max><after>peterpan@neverland.lit</after>", second); // 5 and 6
        check("<max>10</max><before>peter@pixyland.org</before>", first); // 8 and 9
        check(
            "<max>10</max><before/>", // 11
            "<first index='790'>user790@jabber.org</first><last>user799@jabber.org</last><count>800</count>",
        );
        check(
            "<max>10</max><index>371</index>", // 12 and 13
            "<first index='371'>user371@jabber.org</first><last>user380@jabber.org</last><count>800</count>",
        );
        check("<max>0</max>", "<count>800</count>"); // 15 and 16
        check("<max>10</max><after>user799@jabber.org</after>", "<count>800</count>"); // 7
        check("<max>10</max><index>800</index>", "<count>800</count>");
        check("<max>10</max><before>stpeter@jabber.org</before>", "<count>800</count>");
    }

    #[test]
    fn an_item_that_is_gone_is_not_gone_on_from() {
        let mut users = users();
        users.remove(9);
        let asked = "<max>10</max><after>peterpan@neverland.lit</after>"; // Example 10
        assert_eq!(answered(&users, asked), Err(RsmError::NotFound));
        assert_eq!(answered(&users, &asked.replace("after", "before")), Err(RsmError::NotFound));
        assert_eq!(RsmError::NotFound.condition(), Condition::ItemNotFound);
    }

    #[test]
    fn a_request_is_read_or_refused() {
        let request = |max, start| Ok(Request { max, start });
        assert_eq!(parse(""), request(None, Start::First));
        assert_eq!(parse("<max>7</max>"), request(Some(7), Start::First));
        assert_eq!(parse("<after/>"), request(None, Start::First));
        assert_eq!(parse("<after>a&amp;b</after>"), request(None, Start::After("a&b".to_owned())));
        assert_eq!(parse("<before>x</before>"), request(None, Start::Before("x".to_owned())));
        assert_eq!(parse("<before/>"), request(None, Start::Last));
        assert_eq!(parse("<index>0</index>"), request(None, Start::Index(0)));
        assert_eq!(parse("<max xmlns='other'>x</max>"), request(None, Start::First));
        for malformed in [
            "<max/>",
            "<max>-1</max>",
            "<max>1.5</max>",
            "<max>4294967296</max>",
            "<index>x</index>",
            "<after>a</after><before>b</before>",
            "<after>a</after><before/>",
            "<after>a</after><index>1</index>",
            "<before/><index>1</index>",
        ] {
            assert_eq!(parse(malformed), Err(RsmError::Malformed), "{malformed}");
        }
        let none = Node::parse("<query xmlns='jabber:iq:search'/>", "").unwrap();
        assert_eq!(Request::of(&none), Ok(None));
    }

    #[test]
    fn a_list_that_is_read_forwards_serves_pages_from_the_beginning_and_behind_an_item() {
        let forwards = |inside: &str| parse(inside).unwrap().forwards().map(|after| after.map(str::to_owned));
        assert_eq!(forwards("<max>1</max>"), Ok(None));
        assert_eq!(forwards("<index>0</index>"), Ok(None));
        assert_eq!(forwards("<after>a</after>"), Ok(Some("a".to_owned())));
        for inside in ["<before/>", "<before>a</before>", "<index>1</index>"] {
            assert_eq!(forwards(inside), Err(RsmError::Unsupported));
        }
        assert!(parse("<before/>").unwrap().is_backwards() && !Request::ALL.is_backwards());
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let mut out = Vec::new();
        Page { ends: Some(("a<", "b")), index: None, count: None }.write(&mut out);
        assert_eq!(out, b"<set xmlns='http://jabber.org/protocol/rsm'><first>a&lt;</first><last>b</last></set>");
    }

    proptest! {
        #[test]
        fn paging_either_way_gives_every_item_once(count in 0..50_usize, len in 1..12_u32, page_max in 1..12_usize) {
            let ids: Vec<String> = (0..count).map(|id| id.to_string()).collect();
            let page = |start| {
                let request = Request { max: Some(len), start };
                request.page(count, |id| ids.iter().position(|known| known == id), page_max).unwrap()
            };
            let mut there = Vec::new();
            let mut range = page(Start::First);
            while let Some(last) = ids[range.clone()].last() {
                prop_assert!(range.len() <= page_max.min(len as usize));
                there.extend(range);
                range = page(Start::After(last.clone()));
            }
            prop_assert_eq!(&there, &(0..count).collect::<Vec<_>>());
            let mut back = Vec::new();
            let mut range = page(Start::Last);
            while let Some(first) = ids[range.clone()].first() {
                back.splice(0..0, range);
                range = page(Start::Before(first.clone()));
            }
            prop_assert_eq!(back, there);
        }

        #[test]
        fn no_page_reaches_out_of_the_list(count in 0..20_usize, max: Option<u32>, index: u32, at: usize, page_max: usize) {
            for start in [Start::Index(index), Start::After(String::new()), Start::Before(String::new()), Start::Last] {
                let request = Request { max, start };
                if let Ok(range) = request.page(count, |_| Some(at), page_max) {
                    prop_assert!(range.start <= range.end && range.end <= count);
                }
            }
        }
    }
}
