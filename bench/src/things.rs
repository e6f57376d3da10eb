//! Things by the million, as makers would register them, and what is searched for among them.

use plaza_core::jid::Jid;
use plaza_core::thing::{Comparison, NodeName, Operator, Range, Side, Tag, TagValue, Test};
use plaza_registry::things::Query;
use plaza_registry::things::index::Index;

/// Things in an answer.
const PAGE: usize = 100;

/// Numbers that look random and are the same each time (SplitMix64).
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// Other ones for each seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next, below a bound.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % bound
    }

    /// The next, from one number up to another.
    pub fn between(&mut self, min: f64, max: f64) -> f64 {
        min + (max - min) * self.below(1 << 40) as f64 / (1_u64 << 40) as f64
    }

    /// One of several.
    fn one_of<'a>(&mut self, several: &[&'a str]) -> &'a str {
        several.get(self.below(several.len() as u64) as usize).copied().unwrap_or_default()
    }

    fn text(&mut self, letters: &[u8], len: u64) -> String {
        (0..len)
            .filter_map(|_| letters.get(self.below(letters.len() as u64) as usize))
            .map(|&byte| byte as char)
            .collect()
    }
}

/// The thing of a number: six strings, of which one is its own, and two numbers.
pub fn thing(number: u64) -> (Jid, Vec<Tag>) {
    let mut numbers = Numbers::new(number);
    let text = |name: &str, value: String| Tag { name: name.into(), value: TagValue::Str(value.into()) };
    let at = |name: &str, value: f64| Tag { name: name.into(), value: TagValue::Num((value * 1e6).round() / 1e6) };
    let maker = numbers.below(40);
    let city = numbers.below(500);
    let tags = vec![
        text("SN", serial(&mut numbers)),
        text("MAN", format!("maker-{maker}.example")),
        text("MODEL", format!("MODEL {}-{}", maker, numbers.below(25))),
        text("CLASS", numbers.one_of(&["Meter", "Lamp", "Sensor", "Valve", "Gateway"]).to_owned()),
        text("CITY", format!("City of {city}")),
        text("COUNTRY", format!("C{}", city % 30)),
        at("LAT", numbers.between(-60.0, 70.0)),
        at("LON", numbers.between(-180.0, 180.0)),
    ];
    let jid = Jid::parse(&format!("device-{number:07}@things.example")).expect("an address");
    (jid, tags)
}

/// Half of them are digits, half digits and letters.
fn serial(numbers: &mut Numbers) -> String {
    let len = 12 + numbers.below(5);
    let letters: &[u8] = if numbers.below(2) == 0 { b"0123456789" } else { b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ" };
    numbers.text(letters, len)
}

/// An index of so many things.
pub fn index(count: u64) -> Index {
    let mut index = Index::default();
    for number in 0..count {
        let (jid, tags) = thing(number);
        index.put(jid.as_jid(), &NodeName::default(), &tags);
    }
    index
}

/// A kind of search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named by what they are")]
pub enum Kind {
    EqualityOwn,
    EqualityCommon,
    EqualityTwo,
    EqualityNot,
    RangeNumber,
    RangeText,
    Prefix,
    Geo,
    GeoOfClass,
    Nowhere,
    MaskInside,
    MaskEnd,
    MaskShort,
    MaskMany,
    PatternText,
    PatternTextless,
    Deep,
    Hostile,
}

impl Kind {
    /// All of them, and how they are called.
    pub const ALL: [(&'static str, Self); 18] = [
        ("equality/own", Self::EqualityOwn),
        ("equality/common", Self::EqualityCommon),
        ("equality/two", Self::EqualityTwo),
        ("equality/not", Self::EqualityNot),
        ("range/number", Self::RangeNumber),
        ("range/text", Self::RangeText),
        ("prefix", Self::Prefix),
        ("geo", Self::Geo),
        ("geo/class", Self::GeoOfClass),
        ("geo/nowhere", Self::Nowhere),
        ("mask/inside", Self::MaskInside),
        ("mask/end", Self::MaskEnd),
        ("mask/short", Self::MaskShort),
        ("mask/many", Self::MaskMany),
        ("pattern/text", Self::PatternText),
        ("pattern/textless", Self::PatternTextless),
        ("page/deep", Self::Deep),
        ("hostile", Self::Hostile),
    ];

    /// A search of this kind among so many things: for something of one of them, or a place.
    pub fn search(self, count: u64, numbers: &mut Numbers) -> Query {
        let (_, tags) = thing(numbers.below(count));
        let value = |name: &str| match tags.iter().find(|tag| tag.is(name)).map(|tag| &tag.value) {
            Some(TagValue::Str(text)) => text.to_string(),
            _ => String::new(),
        };
        let equal = |name: &str| operator(name, Test::Str(Comparison::Equal, value(name).into()));
        let mask = |mask: String| vec![operator("SN", Test::StrMask(mask.into(), "*".into()))];
        let pattern = |pattern: String| vec![operator("SN", Test::StrRegEx(pattern.into()))];
        let serial = value("SN");
        // Its length is at least twelve.
        let mut part = |min: u64, max: u64| {
            let len = min + numbers.below(max - min + 1);
            let from = numbers.below(12 - len + 1) as usize;
            serial.get(from..from + len as usize).unwrap_or_default().to_owned()
        };
        let operators = match self {
            Self::EqualityOwn => vec![equal("SN")],
            Self::EqualityCommon => {
                vec![equal(numbers.one_of(&["MAN", "MODEL", "CLASS", "CITY", "COUNTRY"]))]
            }
            Self::EqualityTwo => vec![equal(numbers.one_of(&["MODEL", "CLASS"])), equal("CITY")],
            Self::EqualityNot => {
                let not = Test::Str(Comparison::NotEqual, value("CLASS").into());
                vec![equal("CITY"), operator("CLASS", not)]
            }
            Self::RangeNumber => vec![range("LAT", -60.0, 70.0, size(numbers), numbers)],
            Self::RangeText => {
                let (_, others) = thing(numbers.below(count));
                let other = match others.first().map(|tag| &tag.value) {
                    Some(TagValue::Str(text)) => text.to_string(),
                    _ => String::new(),
                };
                let end = |text: &String| Some((text.as_str().into(), true));
                let (min, max) = (end((&serial).min(&other)), end((&serial).max(&other)));
                let side = if numbers.below(4) == 0 { Side::Outside } else { Side::Inside };
                vec![operator("SN", Test::StrRange(Range { min, max }, side))]
            }
            Self::Prefix => mask(format!("{}*", serial.get(..1 + numbers.below(6) as usize).unwrap_or_default())),
            Self::Geo | Self::GeoOfClass => {
                let size = size(numbers);
                let mut both =
                    vec![range("LAT", -60.0, 70.0, size, numbers), range("LON", -180.0, 180.0, size, numbers)];
                if self == Self::GeoOfClass {
                    both.push(equal("CLASS"));
                }
                both
            }
            // Half of all things each, and none both.
            Self::Nowhere => {
                let min = numbers.between(-10.0, 10.0);
                let north = Test::Num(Comparison::Greater, min);
                let south = Test::NumRange(Range { min: None, max: Some((min, true)) }, Side::Inside);
                vec![operator("LAT", north), operator("LAT", south)]
            }
            Self::MaskInside => mask(format!("*{}*", part(3, 6))),
            Self::MaskEnd => {
                mask(format!("*{}", serial.get(serial.len() - 1 - numbers.below(5) as usize..).unwrap_or_default()))
            }
            Self::MaskShort => mask(format!("*{}*", part(1, 2))),
            Self::MaskMany => mask(format!("*{}*{}*{}*", part(1, 3), part(1, 2), part(1, 3))),
            Self::PatternText => pattern(format!(".*{}[0-9A-Z]{}.*", part(3, 4), part(1, 2))),
            Self::Deep => {
                let class = equal("CLASS");
                let offset = numbers.below(count / 5) as usize;
                let mut latitude = range("LAT", -60.0, 70.0, 0.5, numbers);
                latitude.name = "L*T".into();
                latitude.wildcard = Some("*".into());
                return Query { operators: vec![class, latitude], offset, max: PAGE, telling: None };
            }
            // As much as may be asked, all of it hard and none of it found.
            Self::Hostile => {
                let rest = |number: u64| match number % 3 {
                    0 => Test::StrMask("*1*2*3*4*5*6*7*8*9*0*".into(), "*".into()),
                    1 => Test::StrRegEx(r"(\w|\d){9}[^A]*Z[^B]*Y.*".into()),
                    _ => Test::StrRange(
                        Range { min: Some((number.to_string().into(), true)), max: Some(("A".into(), true)) },
                        Side::Outside,
                    ),
                };
                let mut all: Vec<_> = (0..8 + numbers.below(24)).map(|number| operator("*", rest(number))).collect();
                all.iter_mut().for_each(|operator| operator.wildcard = Some("*".into()));
                all
            }
            Self::PatternTextless => pattern(format!("[0-9]{{{}}}[A-F]+[0-9]+", 3 + numbers.below(8))),
        };
        Query { operators, offset: 0, max: PAGE, telling: None }
    }
}

/// A part of the whole: from a ten-thousandth to half of it, small ones as often as large ones.
fn size(numbers: &mut Numbers) -> f64 {
    10_f64.powf(numbers.between(-4.0, -0.3))
}

fn range(name: &str, min: f64, max: f64, size: f64, numbers: &mut Numbers) -> Operator {
    let span = (max - min) * size;
    let from = numbers.between(min, max - span);
    let range = Range { min: Some((from, true)), max: Some((from + span, true)) };
    operator(name, Test::NumRange(range, Side::Inside))
}

fn operator(name: &str, test: Test) -> Operator {
    Operator { name: name.into(), wildcard: None, test }
}
