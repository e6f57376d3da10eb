//! Searches of the Thing Registry (XEP-0347 v0.5.1 §3.15) for things of the example `town` of the benches.
//!
//! Called by [`crate::part`]; performs no I/O. What a thing of the town says of itself follows from its number, here as
//! there, so that every search is for what one thing says, and that thing or others like it must be found.

use std::fmt::Write;

use plaza_core::xml::Element;

use crate::payload;
use crate::plan::Plan;

/// What is searched for, and where.
#[derive(Debug, Clone, Default)]
pub(crate) struct Searches {
    /// Address of the registry.
    pub service: String,
    /// Things of the town.
    pub things: u32,
    /// Leaders that search, the first ones, instead of writing to their members.
    pub searchers: u32,
    /// Searches per second over all of them, on schedule.
    pub rate: f64,
}

/// Kinds of search, in turn.
pub(crate) const KINDS: [&str; 5] = ["equality", "range", "prefix", "geo", "mask"];
/// Things in an answer.
const PAGE: u32 = 100;

/// Numbers that look random and are the same each time (SplitMix64), as those of the town.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % bound
    }

    fn between(&mut self, min: f64, max: f64) -> f64 {
        min + (max - min) * self.below(1 << 40) as f64 / (1_u64 << 40) as f64
    }
}

/// What a thing of the town says of itself, as far as it is searched for.
#[derive(Debug, PartialEq)]
struct Thing {
    serial: String,
    city: u64,
    class: &'static str,
    latitude: f64,
    longitude: f64,
}

const CLASSES: [&str; 5] = ["Meter", "Lamp", "Sensor", "Valve", "Gateway"];

fn thing(number: u32) -> Thing {
    let mut numbers = Numbers(u64::from(number));
    let (_maker, city) = (numbers.below(40), numbers.below(500));
    let len = 12 + numbers.below(5);
    let letters: &[u8] = if numbers.below(2) == 0 { b"0123456789" } else { b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ" };
    let letter = |numbers: &mut Numbers| letters.get(numbers.below(letters.len() as u64) as usize).copied();
    let serial = (0..len).filter_map(|_| letter(&mut numbers)).map(char::from).collect();
    let _model = numbers.below(25);
    let class = CLASSES.get(numbers.below(CLASSES.len() as u64) as usize).copied().unwrap_or_default();
    let mut at = |min, max| (numbers.between(min, max) * 1e6).round() / 1e6;
    Thing { serial, city, class, latitude: at(-60.0, 70.0), longitude: at(-180.0, 180.0) }
}

/// The place in [`KINDS`] of the search of a number.
pub(crate) const fn kind(number: u64) -> usize {
    (number % KINDS.len() as u64) as usize
}

/// The thing that the search of a number is for.
fn wanted(plan: &Plan, me: u32, number: u64) -> (u32, Numbers) {
    let mut numbers = Numbers(u64::from(me) << 32 ^ number);
    (numbers.below(u64::from(plan.stage.searches.things.max(1))) as u32, numbers)
}

/// Appends the search of a number of session `me`.
pub(crate) fn write(plan: &Plan, me: u32, number: u64, sent_ns: u64, out: &mut Vec<u8>) {
    let (place, mut numbers) = wanted(plan, me, number);
    let Thing { serial, city, class, latitude, longitude } = thing(place);
    // A part of the whole, from a ten-thousandth to half of it, small ones as often as large ones.
    let size = 10_f64.powf(numbers.between(-4.0, -0.3));
    let range = |name: &str, value: f64, span: f64| {
        let (min, max) = (value - span * size / 2.0, value + span * size / 2.0);
        format!("<numRange name='{name}' min='{min}' minIncluded='true' max='{max}' maxIncluded='true'/>")
    };
    let mask = |text: String| format!("<strMask name='SN' value='{text}' wildcard='*'/>");
    let mut part = |from: bool, min: u64, more: u64| {
        let len = (min + numbers.below(more)) as usize;
        let start = if from { numbers.below((serial.len() - len) as u64 + 1) as usize } else { 0 };
        serial.get(start..start + len).unwrap_or_default().to_owned()
    };
    let operators = match kind(number) {
        0 if number.is_multiple_of(2) => format!("<strEq name='SN' value='{serial}'/>"),
        0 => format!("<strEq name='CITY' value='City of {city}'/><strEq name='CLASS' value='{class}'/>"),
        1 => range("LAT", latitude, 130.0),
        2 => mask(format!("{}*", part(false, 1, 6))),
        3 => range("LAT", latitude, 130.0) + &range("LON", longitude, 360.0),
        _ => mask(format!("*{}*", part(true, 3, 4))),
    };
    let mut text = String::new();
    let head = write!(text, "<iq type='get' to='{}' id='", plan.stage.searches.service);
    head.expect("writing to a string cannot fail");
    out.extend_from_slice(text.as_bytes());
    payload::write_id(out, number, sent_ns);
    let search =
        format!("'><search xmlns='urn:nf:iot:disco:1.0' offset='0' maxCount='{PAGE}'>{operators}</search></iq>");
    out.extend_from_slice(search.as_bytes());
}

/// Checks the answer to the search of a number.
///
/// # Errors
/// In words.
pub(crate) fn check(plan: &Plan, me: u32, number: u64, element: &Element<'_>) -> Result<(), String> {
    let name = KINDS.get(kind(number)).copied().unwrap_or_default();
    crate::traffic::check_from(element, &plan.stage.searches.service)?;
    let found = element.first_child().filter(|child| child.is("found", "urn:nf:iot:disco:1.0"));
    let content = found.ok_or_else(|| format!("no answer to search {number} of {}", name))?.content;
    let (place, _) = wanted(plan, me, number);
    // Many things may be before the one wanted, unless it is asked for by what is its own.
    let (quoted, spelt) = (
        format!("jid='{}{place}@{}'", plan.users, plan.domain),
        format!("jid=\"{}{place}@{}\"", plan.users, plan.domain),
    );
    let is_own = kind(number) == 0 && number.is_multiple_of(2);
    if is_own && !content.contains(&quoted) && !content.contains(&spelt) || !content.contains("<thing ") {
        return Err(format!("search {number} did not find what is there: {}", name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Scenario;
    use crate::plan::tests::plan;
    use crate::session::tests::with_element;
    use crate::stage::Stage;

    fn town() -> Plan {
        let mut plan = plan(Scenario::Staged, 4, 1, 2);
        let searches = Searches { service: "things.localhost".to_owned(), things: 1_000, searchers: 1, rate: 5.0 };
        plan.stage = Stage::searches(searches);
        plan
    }

    #[test]
    fn each_kind_of_search_is_for_what_a_thing_says() {
        let plan = town();
        for (number, element) in [(0, "strEq name='SN'"), (5, "strEq name='CITY'"), (1, "numRange name='LAT'")] {
            let mut out = Vec::new();
            write(&plan, 0, number, 9, &mut out);
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains(element) && text.contains("maxCount='100'"), "{text}");
            with_element(&text, |element| assert_eq!(element.name(), "iq"));
        }
    }

    #[test]
    fn a_thing_says_what_it_says_in_the_town() {
        let serial = "YLYUH5JGU4ICJ".to_owned();
        let wanted = Thing { serial, city: 304, class: "Sensor", latitude: 2.140968, longitude: 33.751625 };
        assert_eq!(thing(7), wanted);
    }

    #[test]
    fn what_is_there_must_be_found() {
        let plan = town();
        let (place, _) = wanted(&plan, 0, 0);
        let answer = |things: &str| {
            format!(
                "<iq type='result' from='things.localhost' id='1'><found xmlns='urn:nf:iot:disco:1.0' more='false'>\
                 {things}</found></iq>"
            )
        };
        let check = |number, text: &str| with_element(text, |element| check(&plan, 0, number, element));
        let (own, other) = (format!("<thing jid='load{place}@localhost'/>"), "<thing jid='load1000@localhost'/>");
        assert_eq!(check(0, &answer(&own)), Ok(()));
        assert!(check(0, &answer(other)).is_err(), "that is another one's serial number");
        assert_eq!(check(1, &answer(other)), Ok(()));
        assert!(check(1, &answer("")).is_err());
        assert!(check(1, "<iq type='result' from='things.localhost' id='1'/>").is_err());
    }
}
