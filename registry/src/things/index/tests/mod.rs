//! The index beside a plain filter, and case by case.

mod through_the_thread;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use plaza_core::iot::Generation;
use plaza_core::jid::Jid;
use plaza_core::thing::wire::{self, Style};
use plaza_core::thing::{Comparison, NodeName, Operator, Range, Side, Tag, TagValue, Test};
use proptest::prelude::*;

use super::*;
use crate::testing::jid;

const PLENTY: u64 = 10_000_000_000;

fn text(name: &str, value: &str) -> Tag {
    Tag { name: name.into(), value: TagValue::Str(value.into()) }
}

fn number(name: &str, value: f64) -> Tag {
    Tag { name: name.into(), value: TagValue::Num(value) }
}

fn operator(name: &str, test: Test) -> Operator {
    Operator { name: name.into(), wildcard: None, test }
}

fn equal(name: &str, value: &str) -> Operator {
    operator(name, Test::Str(Comparison::Equal, value.into()))
}

fn thing(number: usize) -> (Jid, NodeName) {
    match number % 3 {
        0 => (jid(&format!("thing{number}@things.example")), NodeName::default()),
        rest => {
            let node = NodeName { id: format!("{number}").into(), source: "m".into(), partition: Box::default() };
            (jid(&format!("rack{rest}@things.example")), node)
        }
    }
}

fn found(index: &Index, operators: &[Operator]) -> Vec<String> {
    let search = Query { operators: operators.to_vec(), offset: 0, max: 100, telling: None };
    let found = index.search(&search, &mut Budget::new(PLENTY, None)).unwrap();
    assert!(!found.more);
    found.things.iter().map(|(jid, _)| jid.as_str().split('@').next().unwrap().to_owned()).collect()
}

// The plain filter: the words of the specification, a value at a time.

fn compares(comparison: Comparison, order: std::cmp::Ordering) -> bool {
    match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::NotEqual => order.is_ne(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
    }
}

fn lies<T: PartialOrd>(value: &T, range: &Range<T>, side: Side) -> bool {
    let min = range.min.as_ref().is_none_or(|(min, is_in)| value > min || (*is_in && value == min));
    let max = range.max.as_ref().is_none_or(|(max, is_in)| value < max || (*is_in && value == max));
    (min && max) == (side == Side::Inside)
}

fn fits(mask: &str, wildcard: &str, value: &str) -> bool {
    match mask.split_once(wildcard).filter(|_| !wildcard.is_empty()) {
        None => mask == value,
        Some((front, rest)) => value.strip_prefix(front).is_some_and(|value| {
            let mut ends = value.char_indices().map(|(at, _)| at).chain([value.len()]);
            ends.any(|at| fits(rest, wildcard, &value[at..]))
        }),
    }
}

fn matches(pattern: &str, value: &str) -> bool {
    thread_local! {
        static COMPILED: RefCell<HashMap<String, regex::Regex>> = RefCell::default();
    }
    COMPILED.with_borrow_mut(|compiled| {
        let compile = || regex::Regex::new(&format!(r"\A(?:{pattern})\z")).unwrap();
        compiled.entry(pattern.to_owned()).or_insert_with(compile).is_match(value)
    })
}

fn passes(test: &Test, value: &TagValue) -> bool {
    match (test, value) {
        (Test::Str(comparison, with), TagValue::Str(value)) => compares(*comparison, value.cmp(with)),
        (Test::StrRange(range, side), TagValue::Str(value)) => lies(value, range, *side),
        (Test::StrMask(mask, wildcard), TagValue::Str(value)) => fits(mask, wildcard, value),
        (Test::StrRegEx(pattern), TagValue::Str(value)) => matches(pattern, value),
        (Test::Num(comparison, with), TagValue::Num(value)) => compares(*comparison, value.partial_cmp(with).unwrap()),
        (Test::NumRange(range, side), TagValue::Num(value)) => lies(value, range, *side),
        _ => false,
    }
}

fn is_found(tags: &[Tag], operators: &[Operator]) -> bool {
    let fold = |text: &str| text.to_ascii_lowercase().replace(':', "_");
    operators.iter().all(|operator| {
        let wildcard = fold(operator.wildcard.as_deref().unwrap_or_default());
        let is_meant = |tag: &Tag| fits(&fold(&operator.name), &wildcard, &fold(&tag.name)) && !tag.is("KEY");
        tags.iter().any(|tag| is_meant(tag) && passes(&operator.test, &tag.value))
    })
}

// What there may be.

fn any_text() -> impl Strategy<Value = Box<str>> {
    prop_oneof![
        "[abAB]{0,4}".prop_map(String::into_boxed_str),
        "[ab01é-]{0,7}".prop_map(String::into_boxed_str),
        "SN-[0-3]{4}".prop_map(String::into_boxed_str),
    ]
}

fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![
        prop::sample::select(vec![-90.0, -1.5, -0.0, 0.0, 1.0, 1.5, 2.0, 180.0, 1e300]),
        (-20..20_i32).prop_map(f64::from),
    ]
}

fn any_name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["SN", "sn", "MAN", "LAT", "Lat", "LON", "urn_x_y", "urn_x_z", "KEY", "key", "none"])
}

fn any_tags() -> impl Strategy<Value = Vec<Tag>> {
    let value = prop_oneof![any_text().prop_map(TagValue::Str), any_number().prop_map(TagValue::Num)];
    prop::collection::vec((any_name(), value), 0..6).prop_map(|tags| {
        let mut unique: Vec<Tag> = Vec::new();
        for (name, value) in tags {
            if !unique.iter().any(|tag| tag.is(name)) {
                unique.push(Tag { name: name.into(), value });
            }
        }
        unique
    })
}

fn any_range<T: Clone + std::fmt::Debug + 'static>(
    value: impl Strategy<Value = T> + Clone + 'static,
) -> impl Strategy<Value = (Range<T>, Side)> {
    let end = || prop::option::of((value.clone(), any::<bool>()));
    (end(), end(), any::<bool>())
        .prop_map(|(min, max, is_in)| (Range { min, max }, if is_in { Side::Inside } else { Side::Outside }))
}

fn any_test() -> impl Strategy<Value = Test> {
    let comparison = || {
        prop::sample::select(vec![
            Comparison::Equal,
            Comparison::NotEqual,
            Comparison::Greater,
            Comparison::GreaterOrEqual,
            Comparison::Less,
            Comparison::LessOrEqual,
        ])
    };
    let pattern = prop::sample::select(vec![
        "a.*",
        ".*a",
        ".*b.*",
        "(a|b)+",
        "[ab]*",
        "SN-[01]+",
        ".*-1.*2",
        "(?i)ab.*",
        "SN-0{4}|a",
        "",
        r"\w+",
        ".*é.*",
        "(ab)+.*",
        "a?b",
        r"SN\b.*3",
    ]);
    let text = || any_text().boxed();
    let number = || any_number().boxed();
    prop_oneof![
        (comparison(), text()).prop_map(|(comparison, value)| Test::Str(comparison, value)),
        any_range(text()).prop_map(|(range, side)| Test::StrRange(range, side)),
        ("[ab01é*-]{0,6}", prop::sample::select(vec!["*", "*", "*", "", "a", "**"]))
            .prop_map(|(mask, wildcard)| Test::StrMask(mask.into(), wildcard.into())),
        ("[*]?SN-[0-3*]{1,4}").prop_map(|mask| Test::StrMask(mask.into(), "*".into())),
        ("[*][0-3]{1,3}[*]?").prop_map(|mask| Test::StrMask(mask.into(), "*".into())),
        pattern.prop_map(|pattern| Test::StrRegEx(pattern.into())),
        (comparison(), number()).prop_map(|(comparison, value)| Test::Num(comparison, value)),
        any_range(number()).prop_map(|(range, side)| Test::NumRange(range, side)),
    ]
}

fn any_operator() -> impl Strategy<Value = Operator> {
    let name = prop_oneof![
        4 => any_name().prop_map(|name| (name, None)),
        1 => prop::sample::select(vec![
            ("*", Some("*")), ("urn:x:*", Some("*")), ("L*", Some("*")), ("K*", Some("*")), ("*n", Some("*")),
            ("urn:x:y", None), ("SN", Some("")), ("SN", Some("*")),
        ]),
    ];
    (name, any_test()).prop_map(|((name, wildcard), test)| Operator {
        name: name.into(),
        wildcard: wildcard.map(Box::from),
        test,
    })
}

/// Checks that the same things are found, and the same on pages of any size.
fn check(index: &Index, expected: &BTreeMap<usize, Vec<Tag>>, operators: &[Operator]) -> Result<(), TestCaseError> {
    let search = |offset, max| {
        let search = Query { operators: operators.to_vec(), offset, max, telling: None };
        index.search(&search, &mut Budget::new(PLENTY, None)).unwrap()
    };
    let all = search(0, usize::MAX);
    prop_assert!(!all.more);
    let names = |names: &[(Jid, NodeName)]| {
        let mut names: Vec<_> = names.iter().map(|(jid, node)| (jid.as_str().to_owned(), node.clone())).collect();
        names.sort();
        names
    };
    let expected: Vec<_> =
        expected.iter().filter(|(_, tags)| is_found(tags, operators)).map(|(number, _)| thing(*number)).collect();
    prop_assert_eq!(names(&all.things), names(&expected));
    for max in [1, 3] {
        let mut things = Vec::new();
        loop {
            let page = search(things.len(), max);
            prop_assert!(page.things.len() == max || !page.more);
            things.extend(page.things);
            if !page.more {
                break;
            }
        }
        prop_assert_eq!(&things, &all.things);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn what_is_found_is_what_a_plain_filter_finds(
        changes in prop::collection::vec((0..40_usize, prop::option::weighted(0.8, any_tags())), 0..120),
        searches in prop::collection::vec(prop::collection::vec(any_operator(), 0..4), 12),
    ) {
        let (mut index, mut expected) = (Index::default(), BTreeMap::new());
        for (number, tags) in changes {
            let (jid, node) = thing(number);
            match tags {
                Some(tags) => {
                    index.put(jid.as_jid(), &node, &tags);
                    expected.insert(number, tags);
                }
                None => {
                    index.remove(jid.as_jid(), &node);
                    expected.remove(&number);
                }
            }
        }
        prop_assert_eq!(index.len(), expected.len());
        for operators in &searches {
            check(&index, &expected, operators)?;
        }
        for number in expected.into_keys() {
            let (jid, node) = thing(number);
            index.remove(jid.as_jid(), &node);
        }
        prop_assert!(index.is_empty());
        prop_assert_eq!(index.bytes(), 0);
    }
}

proptest! {
    // Many things, so that sets are made, narrowed and looked at, and not the first things alone.
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn of_many_things_it_finds_the_same(
        kinds in prop::collection::vec(any_tags(), 7),
        searches in prop::collection::vec(prop::collection::vec(any_operator(), 1..4), 8),
        numbers in prop::collection::vec("\\*[0-9]{1,4}\\*?", 3),
    ) {
        let (mut index, mut expected) = (Index::default(), BTreeMap::new());
        for number in 0..9_001 {
            let (jid, node) = thing(number);
            let mut tags = kinds[number % kinds.len()].clone();
            tags.retain(|tag| !tag.is("OWN") && !tag.is("AT"));
            tags.push(text("OWN", &format!("{:06}", (number as u64 * 7_919) % 1_000_003)));
            tags.push(self::number("AT", (number % 1_000) as f64));
            index.put(jid.as_jid(), &node, &tags);
            expected.insert(number, tags);
        }
        let find = |operators: &[Operator]| {
            let search = Query { operators: operators.to_vec(), offset: 0, max: usize::MAX, telling: None };
            let found = index.search(&search, &mut Budget::new(PLENTY, None)).unwrap();
            let of = expected.values().filter(|tags| is_found(tags, operators)).count();
            prop_assert_eq!(found.things.len(), of, "{:?}", operators);
            for page in [0, of / 2] {
                let search = Query { operators: operators.to_vec(), offset: page, max: 10, telling: None };
                let part = index.search(&search, &mut Budget::new(PLENTY, None)).unwrap();
                prop_assert_eq!(&part.things[..], found.things.iter().skip(page).take(10).cloned().collect::<Vec<_>>());
                prop_assert_eq!(part.more, of > page + 10);
            }
            Ok(())
        };
        let at = operator("AT", Test::NumRange(
            Range { min: Some((100.0, true)), max: Some((300.0, false)) }, Side::Inside));
        for operators in &searches {
            find(operators)?;
            find(&[operators.as_slice(), std::slice::from_ref(&at)].concat())?;
        }
        for mask in &numbers {
            let mask = operator("OWN", Test::StrMask(mask.as_str().into(), "*".into()));
            find(std::slice::from_ref(&mask))?;
            find(&[at.clone(), mask.clone()])?;
            find(&[mask, operator("OWN", Test::StrRegEx(".*1.*".into()))])?;
        }
        find(&[operator("OWN", Test::StrRange(
            Range { min: Some(("3".into(), true)), max: Some(("7".into(), false)) }, Side::Outside)), at])?;
    }
}

#[test]
fn the_key_is_never_found() {
    let mut index = Index::default();
    let lamp = jid("lamp@things.example");
    index.put(lamp.as_jid(), &NodeName::default(), &[text("KEY", "4857"), text("key2", "4857"), text("SN", "1")]);
    for name in ["KEY", "key", "Key"] {
        assert!(found(&index, &[equal(name, "4857")]).is_empty());
        assert!(found(&index, &[operator(name, Test::Str(Comparison::NotEqual, "".into()))]).is_empty());
        assert!(found(&index, &[equal("SN", "1"), equal(name, "4857")]).is_empty());
    }
    let wild = |name: &str| Operator { wildcard: Some("*".into()), ..equal(name, "4857") };
    assert!(found(&index, &[wild("K*Y")]).is_empty());
    assert_eq!(found(&index, &[wild("*")]), ["lamp"], "by its other tag");
}

#[test]
fn a_tag_of_the_other_type_and_one_that_is_not_there_never_match() {
    let mut index = Index::default();
    let lamp = jid("lamp@things.example");
    index.put(lamp.as_jid(), &NodeName::default(), &[number("V", 1.0), text("SN", "1")]);
    let tests = [
        Test::Str(Comparison::NotEqual, "x".into()),
        Test::StrRange(Range { min: Some(("x".into(), true)), max: None }, Side::Outside),
        Test::StrMask("*".into(), "*".into()),
    ];
    for test in tests {
        assert!(found(&index, &[operator("V", test.clone())]).is_empty());
        assert!(found(&index, &[operator("W", test.clone())]).is_empty());
        assert_eq!(found(&index, &[operator("SN", test)]), ["lamp"]);
    }
    let not = operator("SN", Test::Num(Comparison::NotEqual, 7.0));
    assert!(found(&index, &[not]).is_empty());
    let none = operator("V", Test::Num(Comparison::NotEqual, f64::NAN));
    assert!(found(&index, &[none]).is_empty());
}

#[test]
fn a_page_is_told_as_it_was_said_or_left_to_the_store() {
    let mut index = Index::default();
    let (lamp, rack) = (jid("lamp@things.example"), jid("rack@things.example"));
    let node = NodeName { id: "1".into(), source: "m".into(), partition: "p".into() };
    let said = [text("Sn", "<1>"), number("V", -2.5), text("x:Y", ""), number("big", 1e300)];
    let also = [text("SN", "<1>"), text("other", "'")];
    let tell = |index: &Index, generation, bytes_max| {
        let telling = Telling { style: Style::of(generation), bytes_max };
        let search = Query { operators: vec![equal("SN", "<1>")], offset: 0, max: 9, telling: Some(telling) };
        index.search(&search, &mut Budget::new(PLENTY, None)).unwrap()
    };
    index.put(lamp.as_jid(), &NodeName::default(), &said);
    index.put(rack.as_jid(), &node, &also);
    for generation in [Generation::Ieee, Generation::Nf, Generation::Nfi] {
        let (style, mut written) = (Style::of(generation), Vec::new());
        wire::thing(&mut written, style, lamp.as_jid(), &NodeName::default(), None, &said);
        let one = written.len();
        wire::thing(&mut written, style, rack.as_jid(), &node, None, &also);
        let all = Found { things: Vec::new(), told: Some(written.clone()), more: false };
        assert_eq!(tell(&index, generation, written.len()), all);
        // Half of the second is none, and the first is told whatever fits.
        let first = Found { told: Some(written[..one].to_vec()), more: true, ..all };
        assert_eq!(tell(&index, generation, written.len() - 1), first);
        assert_eq!(tell(&index, generation, 1), first);
    }
    // Whose it is the index does not know.
    let names = || vec![(lamp.clone(), NodeName::default()), (rack.clone(), node.clone())];
    let read = || Found { things: names(), told: None, more: false };
    assert_eq!(tell(&index, Generation::Xsf, 1_000), read());
    // Nor what it keeps otherwise than it was said, or not at all.
    for odd in [number("Z", -0.0), number("I", f64::INFINITY), text("sN", "again"), text("KEY", "4857")] {
        index.put(rack.as_jid(), &node, &[also[0].clone(), odd.clone()]);
        assert_eq!(tell(&index, Generation::Nf, 1_000), read(), "{odd:?}");
        index.put(rack.as_jid(), &node, &also[..1]);
        assert!(tell(&index, Generation::Nf, 1_000).told.is_some(), "{odd:?}");
    }
    index.put(rack.as_jid(), &node, &[number("Z", -0.0), also[0].clone()]);
    index.remove(rack.as_jid(), &node);
    index.put(rack.as_jid(), &node, &[text("sn", "<1>"), number("Z", 0.0)]);
    let mut written = Vec::new();
    let style = Style::of(Generation::Nf);
    wire::thing(&mut written, style, lamp.as_jid(), &NodeName::default(), None, &said);
    wire::thing(&mut written, style, rack.as_jid(), &node, None, &[text("sn", "<1>"), number("Z", 0.0)]);
    assert_eq!(tell(&index, Generation::Nf, 1_000).told, Some(written), "each as it spells it");
    // Another spelling is another saying.
    index.put(rack.as_jid(), &node, &[text("SN", "<1>"), number("Z", 0.0)]);
    let told = String::from_utf8(tell(&index, Generation::Nf, 1_000).told.unwrap()).unwrap();
    assert!(told.contains("Sn") && told.contains("SN") && !told.contains("sn"), "{told}");
}

#[test]
fn things_stay_in_their_order_while_others_come_and_go() {
    let mut index = Index::default();
    let put = |index: &mut Index, name: &str, sn: &str| {
        index.put(jid(&format!("{name}@things.example")).as_jid(), &NodeName::default(), &[text("SN", sn)]);
    };
    for name in ["a", "b", "c"] {
        put(&mut index, name, "1");
    }
    put(&mut index, "b", "2");
    put(&mut index, "b", "1");
    assert_eq!(found(&index, &[equal("SN", "1")]), ["a", "b", "c"]);
    index.remove(jid("b@things.example").as_jid(), &NodeName::default());
    assert_eq!(found(&index, &[equal("SN", "1")]), ["a", "c"]);
    put(&mut index, "d", "1");
    assert_eq!(found(&index, &[equal("SN", "1")]), ["a", "d", "c"]);
}

#[test]
fn a_search_that_takes_too_much_work_ends() {
    let mut index = Index::default();
    for number in 0..20_000 {
        let (jid, node) = thing(number);
        index.put(jid.as_jid(), &node, &[text("SN", &format!("{:x}", number * 7_919))]);
    }
    let search = |pattern: &str, work, until| {
        let operators = vec![operator("SN", Test::StrRegEx(pattern.into()))];
        index.search(&Query { operators, offset: 0, max: 10, telling: None }, &mut Budget::new(work, until))
    };
    // Nothing has to stand in what it matches, and nothing matches.
    let pattern = "[^0-9a-f]+|[0-9]{40}";
    assert_eq!(search(pattern, 4_000_000, None), Err(SearchError::TooMuch));
    assert_eq!(search(pattern, PLENTY, Some(Instant::now())), Err(SearchError::TooMuch));
    assert_eq!(search(pattern, PLENTY, None), Ok(Found::default()));
    assert!(search("[0-9a-f]+", 4_000_000, None).unwrap().more, "the first things fill the page");
    let operators = vec![operator("SN", Test::StrRegEx("[^a]{8}".into())); 32];
    let many =
        index.search(&Query { operators, offset: 0, max: 10, telling: None }, &mut Budget::new(50_000_000, None));
    assert_eq!(many, Err(SearchError::TooMuch), "to compile them is work");
    assert_eq!(search(".*xyz.*", 4_000_000, None), Ok(Found::default()), "what has to stand in it is nowhere");
}
