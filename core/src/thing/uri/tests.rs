use proptest::prelude::*;

use super::*;
use crate::thing::{Comparison, Range, Side, TAG_VALUE_CHARS_MAX, TagValue, Test, check_tag_name};

fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

fn text(name: &str, value: &str) -> Tag {
    Tag { name: name.into(), value: TagValue::Str(value.into()) }
}

fn number(name: &str, value: f64) -> Tag {
    Tag { name: name.into(), value: TagValue::Num(value) }
}

fn claim(tags: Vec<Tag>, key: &str, registry: Option<&str>) -> Uri {
    Uri::Claim(Claim { tags, key: key.into(), node: NodeName::default(), registry: registry.map(jid) })
}

fn search(operators: Vec<(&str, Test)>) -> Uri {
    let operator = |(name, test): (&str, Test)| Operator { name: name.into(), wildcard: None, test };
    Uri::Search(Search { operators: operators.into_iter().map(operator).collect(), registry: None })
}

fn range<T>(min: T, least: bool, max: T, most: bool) -> Range<T> {
    Range { min: Some((min, least)), max: Some((max, most)) }
}

#[test]
fn each_kind_of_uri_is_told_by_its_tags() {
    let check = |uri: &str, expected: Uri| {
        let read = Uri::parse(uri).unwrap_or_else(|error| panic!("{uri}: {error}"));
        assert_eq!(read, expected, "{uri}");
        let written = read.to_text().unwrap_or_else(|error| panic!("{uri}: {error}"));
        assert_eq!(Uri::parse(&written), Ok(expected), "{written}");
    };
    let sn = || text("SN", "98734238472634");
    check(
        "iotdisco:SN=98734238472634;MAN=www.example.org;MODEL=Device;#V=1.0;KEY=3453485763440213840928;R=discovery.example.org",
        claim(
            vec![sn(), text("MAN", "www.example.org"), text("MODEL", "Device"), number("V", 1.0)],
            "3453485763440213840928",
            Some("discovery.example.org"),
        ),
    );
    check("iotdisco:Key=1;sn=%34", claim(vec![text("sn", "4")], "1", None));
    check(
        "iotdisco:CLASS=Controller;Type=MIoT%20Controller;PURL=https%3A%2F%2Fgithub.com%2FPeterWaher%2FMIoT;#V=1.0;KEY=9b3c",
        claim(
            vec![
                text("CLASS", "Controller"),
                text("Type", "MIoT Controller"),
                text("PURL", "https://github.com/PeterWaher/MIoT"),
                number("V", 1.0),
            ],
            "9b3c",
            None,
        ),
    );
    let equal = |value: &str| Test::Str(Comparison::Equal, value.into());
    check(r"IOTDISCO:MAN=a\;b\\c", search(vec![("MAN", equal(r"a;b\c"))]));
    check("iotdisco:SN=", search(vec![("SN", equal(""))]));
    check("iotdisco:SN<>abc", search(vec![("SN", Test::Str(Comparison::NotEqual, "abc".into()))]));
    check(
        "iotdisco:MAN=www.example.org;MODEL=Device;SN~*9873*;#V>=1.0;#V<2;#LON>=-72;#LON<=-70;#LAT>=-34;#LAT<=-33",
        search(vec![
            ("MAN", equal("www.example.org")),
            ("MODEL", equal("Device")),
            ("SN", Test::StrMask("9873*".into(), "*".into())),
            ("V", Test::NumRange(range(1.0, true, 2.0, false), Side::Inside)),
            ("LON", Test::NumRange(range(-72.0, true, -70.0, true), Side::Inside)),
            ("LAT", Test::NumRange(range(-34.0, true, -33.0, true), Side::Inside)),
        ]),
    );
    let node = NodeName { id: "plc1".into(), source: "MeteringTopology".into(), partition: "".into() };
    let reference = Reference { jid: jid("rack@example.org"), node: node.clone(), tags: vec![], registry: None };
    check("iotdisco:JID=rack@example.org;NID=plc1;SID=MeteringTopology", Uri::Reference(reference.clone()));
    check("iotdisco:JID=rack@example.org/r1;NID=plc1;SID=MeteringTopology", Uri::Reference(reference));
    let claim = Claim { tags: vec![sn()], key: "k".into(), node, registry: None };
    check("iotdisco:NID=plc1;SN=98734238472634;SID=MeteringTopology;KEY=k", Uri::Claim(claim));
}

#[test]
fn the_older_text_form_is_read_and_written_as_a_uri() {
    let older = r"IoTDisco;SN:394872348732948723;MAN:www.ktc.se;MODEL:IM%41C\;\\:;#V:1.2;KEY:4857402340298342";
    let read = Uri::parse(older).unwrap();
    let tags = vec![
        text("SN", "394872348732948723"),
        text("MAN", "www.ktc.se"),
        text("MODEL", r"IM%41C;\:"),
        number("V", 1.2),
    ];
    assert_eq!(read, claim(tags, "4857402340298342", None));
    let written = "iotdisco:SN=394872348732948723;MAN=www.ktc.se;MODEL=IM%2541C%3B%5C%3A;#V=1.2;KEY=4857402340298342";
    assert_eq!(read.to_text().as_deref(), Ok(written));
}

#[test]
fn what_is_given_in_parts_reads_as_if_it_were_written() {
    let parts = [(false, "sn", "a;b"), (true, "V", "1"), (false, "Key", "k\\"), (false, "R", "things.example")];
    let expected = claim(vec![text("sn", "a;b"), number("V", 1.0)], "k\\", Some("things.example"));
    assert_eq!(Uri::of_tags(parts), Ok(expected));
    assert_eq!(Uri::of_tags([(false, "A", "\0")]), Err(UriError::BadCharacter));
    assert_eq!(Uri::of_tags([]), Err(UriError::Empty));
}

#[test]
fn a_bound_from_below_and_one_from_above_make_a_range() {
    let check = |uri: &str, expected: Test| assert_eq!(Uri::parse(uri), Ok(search(vec![("V", expected)])), "{uri}");
    let outside = |range| Test::NumRange(range, Side::Outside);
    check("iotdisco:#V<1;#V>2", outside(range(1.0, true, 2.0, true)));
    check("iotdisco:#V<=1;#V>=2", outside(range(1.0, false, 2.0, false)));
    check("iotdisco:#V>2;#v<=1", Test::NumRange(range(1.0, false, 2.0, true), Side::Outside));
    check("iotdisco:#V<=2;#V>1", Test::NumRange(range(1.0, false, 2.0, true), Side::Inside));
    check("iotdisco:#V<1;#V>1", outside(range(1.0, true, 1.0, true)));
    check("iotdisco:#V>=1;#V<=1", Test::NumRange(range(1.0, true, 1.0, true), Side::Inside));
    let letters = |side| Test::StrRange(range("a".into(), true, "b".into(), false), side);
    check("iotdisco:V>=a;V<b", letters(Side::Inside));
    check("iotdisco:V<a;V>=b", letters(Side::Outside));
}

#[test]
fn what_is_no_uri_is_refused() {
    let check = |uri: &str, expected: UriError| assert_eq!(Uri::parse(uri), Err(expected), "{uri}");
    for uri in ["", "iotdisco", "iotdisc:SN=1", "xmpp:SN=1", "iotdisco=SN", "iötdisco:SN=1", " iotdisco:SN=1"] {
        check(uri, UriError::NotIotdisco);
    }
    for uri in ["iotdisco:", "iotdisco:A=1;;B=2", "iotdisco:A=1;", "iotdisco:;A=1", "iotdisco:R=x", "IoTDisco;"] {
        check(uri, UriError::Empty);
    }
    check("iotdisco:SN", UriError::NoOperator("SN".into()));
    check("iotdisco:#", UriError::NoOperator("#".into()));
    check("IoTDisco;SN=1", UriError::NoOperator("SN=1".into()));
    for uri in ["iotdisco:SN=1;sn=2", "iotdisco:SN=1;#sn=2;KEY=1"] {
        check(uri, UriError::Repeated("sn".into()));
    }
    let repeated = [
        "iotdisco:#V>1;#V<2;#V<3",
        "iotdisco:#V>1;#V>2",
        "iotdisco:#V>1;V<2",
        "iotdisco:#V=1;#V<2",
        "iotdisco:V~*a*;V<2",
    ];
    for uri in repeated {
        check(uri, UriError::Repeated("V".into()));
    }
    check("iotdisco:a_b=1;a%3Ab=1", UriError::Repeated("a:b".into()));
    check("iotdisco:KEY=1;key=1", UriError::Repeated("KEY".into()));
    check("iotdisco:R=a;SN=1;R=a", UriError::Repeated("R".into()));
    for value in ["abc", "", "1,5", "NaN", "inf", "-infinity", "1e999", "0x10", " 1"] {
        let bad = UriError::Tag("V".into(), BadTag::NotANumber);
        check(&format!("iotdisco:#V={value}"), bad.clone());
        check(&format!("iotdisco:KEY=1;#V={value}"), bad);
    }
    for uri in ["iotdisco:A=%", "iotdisco:A=%4", "iotdisco:A=%g0", "iotdisco:A=%-1", r"iotdisco:A=\a", r"iotdisco:A=\"]
    {
        check(uri, UriError::BadEscape);
    }
    for uri in ["iotdisco:A=%ff", "iotdisco:A=%c3", "iotdisco:%ED%A0%80=1", "iotdisco:A=%c3;B=%a4"] {
        check(uri, UriError::NotUtf8);
    }
    for uri in ["iotdisco:A=%00", "iotdisco:A=\u{1}", "iotdisco:A=%EF%BF%BF", "iotdisco:A%1B=1"] {
        check(uri, UriError::BadCharacter);
    }
    check("iotdisco:=1", UriError::Tag("".into(), BadTag::Name));
    check("iotdisco:a%20b=1", UriError::Tag("a b".into(), BadTag::Name));
    check("iotdisco:a:b=1;KEY=1", UriError::Tag("a:b".into(), BadTag::Name));
    let long = "x".repeat(TAG_VALUE_CHARS_MAX + 1);
    for uri in [format!("iotdisco:A={long}"), format!("iotdisco:A={long};KEY=1"), format!("iotdisco:A~*{long}")] {
        check(&uri, UriError::Tag("A".into(), BadTag::TooLong));
    }
    check(&format!("iotdisco:KEY={long}"), UriError::Tag("KEY".into(), BadTag::TooLong));
    for uri in ["iotdisco:KEY=", "iotdisco:#KEY=1", "iotdisco:KEY<>1", "iotdisco:KEY~*1*", "iotdisco:A=1;KEY>1"] {
        check(uri, UriError::Reserved("KEY".into()));
    }
    check("iotdisco:R=@;A=1", UriError::Address("R".into()));
    check("iotdisco:JID=a@b@c", UriError::Address("JID".into()));
    for uri in ["iotdisco:A~", "iotdisco:#A~*1"] {
        check(uri, UriError::Mask("A".into()));
    }
    for uri in ["iotdisco:A<1;KEY=1", "iotdisco:A~*1;JID=a@b", "iotdisco:A<>1;KEY=1"] {
        check(uri, UriError::Comparison("A".into()));
    }
    for uri in ["iotdisco:JID=a@b;KEY=1", "iotdisco:NID=1", "iotdisco:A=1;PT=p"] {
        check(uri, UriError::Mixed);
    }
    let letters = |count: usize| format!("iotdisco:{}A=1", "B%3A=1;".repeat(count));
    assert_eq!(Uri::parse(&letters(600)), Err(UriError::TooLong));
    assert_eq!(Uri::parse(&letters(500)), Err(UriError::Repeated("B:".into())));
}

#[test]
fn a_uri_may_have_4_kb_and_no_byte_more() {
    let name = |index: usize| format!("TAG{index:02}");
    let mut tags: Vec<Tag> = (0..29).map(|index| text(&name(index), &"x".repeat(128))).collect();
    let whole = |tags: &[Tag]| claim(tags.to_vec(), "0123456789", Some("things.example")).to_text();
    let free = URI_BYTES_MAX - whole(&tags).unwrap().len();
    tags.push(text("LASTTAGOFALL", &"x".repeat(free - ";LASTTAGOFALL=".len())));
    let full = whole(&tags).unwrap();
    assert_eq!(full.len(), URI_BYTES_MAX);
    assert_eq!(Uri::parse(&full), Ok(claim(tags.clone(), "0123456789", Some("things.example"))));
    assert_eq!(Uri::parse(&format!("{full}x")), Err(UriError::TooLong));
    tags.push(text("A", ""));
    assert_eq!(whole(&tags), Err(UriError::TooLong));
}

#[test]
fn what_a_uri_has_no_words_for_is_refused() {
    let check = |uri: Uri, expected: UriError| assert_eq!(uri.to_text(), Err(expected), "{uri:?}");
    let unsayable = |test| check(search(vec![("V", test)]), UriError::Unsayable);
    unsayable(Test::StrRegEx("a.*".into()));
    unsayable(Test::StrMask("a%".into(), "%%".into()));
    unsayable(Test::StrMask("a".into(), "".into()));
    unsayable(Test::NumRange(range(2.0, true, 1.0, true), Side::Inside));
    unsayable(Test::NumRange(range(2.0, true, 1.0, true), Side::Outside));
    unsayable(Test::NumRange(Range { min: Some((1.0, true)), max: None }, Side::Inside));
    let wild = Operator { name: "V*".into(), wildcard: Some("*".into()), test: Test::Num(Comparison::Equal, 1.0) };
    check(Uri::Search(Search { operators: vec![wild], registry: None }), UriError::Unsayable);
    check(search(vec![("V", Test::Num(Comparison::Equal, f64::NAN))]), UriError::Tag("V".into(), BadTag::NotANumber));
    check(claim(vec![text("r", "things.example")], "1", None), UriError::Unsayable);
    check(claim(vec![text("KEY", "1")], "1", None), UriError::Repeated("KEY".into()));
    check(claim(vec![text("a:b", "1")], "1", None), UriError::Tag("a:b".into(), BadTag::Name));
    check(claim(vec![text("A", "\u{1}")], "1", None), UriError::BadCharacter);
    check(claim(vec![], "", None), UriError::Reserved("KEY".into()));
    check(search(vec![]), UriError::NotIotdisco);
}

fn any_name() -> impl Strategy<Value = Box<str>> {
    let words = prop_oneof!["[A-Z]{1,8}", "[a-z_.%~;\\\\]{1,12}", "\\PC{1,16}"];
    words.prop_map(Box::<str>::from).prop_filter("a name of a tag", |name| {
        check_tag_name(name).is_ok() && !RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved))
    })
}

fn any_text() -> impl Strategy<Value = Box<str>> {
    prop_oneof!["[a-z0-9]{0,20}", "[;%=<>~#:+* &\\\\\t\n-]{0,20}", "\\PC{0,40}"].prop_map(Box::from)
}

fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![any::<i16>().prop_map(f64::from), prop::num::f64::NORMAL, prop::num::f64::SUBNORMAL, Just(0.0)]
}

fn any_tags() -> impl Strategy<Value = Vec<Tag>> {
    let value = prop_oneof![any_text().prop_map(TagValue::Str), any_number().prop_map(TagValue::Num)];
    prop::collection::vec((any_name(), value).prop_map(|(name, value)| Tag { name, value }), 0..8).prop_map(
        |mut tags| {
            let mut seen = std::collections::BTreeSet::new();
            tags.retain(|tag| seen.insert(tag.name.to_ascii_lowercase()));
            tags
        },
    )
}

fn any_comparison() -> impl Strategy<Value = Comparison> {
    prop::sample::select(vec![
        Comparison::Equal,
        Comparison::NotEqual,
        Comparison::Greater,
        Comparison::GreaterOrEqual,
        Comparison::Less,
        Comparison::LessOrEqual,
    ])
}

fn any_range<T: PartialOrd + Clone + std::fmt::Debug + 'static>(
    value: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = (Range<T>, Side)> {
    let side = prop::sample::select(vec![Side::Inside, Side::Outside]);
    (value.clone(), value, any::<(bool, bool)>(), side).prop_map(|(one, other, (least, most), side)| {
        let (min, max) = if one <= other { (one, other) } else { (other, one) };
        (range(min, least, max, most), side)
    })
}

fn any_operators() -> impl Strategy<Value = Vec<Operator>> {
    let test = prop_oneof![
        (any_comparison(), any_text()).prop_map(|(comparison, text)| Test::Str(comparison, text)),
        (any_comparison(), any_number()).prop_map(|(comparison, number)| Test::Num(comparison, number)),
        (any_text(), "\\PC").prop_map(|(mask, wildcard)| Test::StrMask(mask, wildcard.into())),
        any_range(any_number().boxed()).prop_map(|(range, side)| Test::NumRange(range, side)),
        any_range(any_text().boxed()).prop_map(|(range, side)| Test::StrRange(range, side)),
    ];
    let operator = (any_name(), test).prop_map(|(name, test)| Operator { name, wildcard: None, test });
    prop::collection::vec(operator, 1..6).prop_map(|mut operators| {
        let mut seen = std::collections::BTreeSet::new();
        operators.retain(|operator| seen.insert(operator.name.to_ascii_lowercase()));
        operators
    })
}

fn any_uri() -> impl Strategy<Value = Uri> {
    let node =
        || (any_text(), any_text(), any_text()).prop_map(|(id, source, partition)| NodeName { id, source, partition });
    let registry = || prop::option::of(Just(jid("things.example")));
    let key = "[a-zA-Z0-9;\\\\%]{1,64}".prop_map(Box::from);
    prop_oneof![
        (any_tags(), key, node(), registry()).prop_map(|(tags, key, node, registry)| Uri::Claim(Claim {
            tags,
            key,
            node,
            registry
        })),
        (any_operators(), registry()).prop_map(|(operators, registry)| Uri::Search(Search { operators, registry })),
        (any_tags(), node(), registry()).prop_map(|(tags, node, registry)| {
            Uri::Reference(Reference { jid: jid("rack@things.example"), node, tags, registry })
        }),
    ]
}

/// As somebody else might write it: what may be escaped with `\` is, what may stand as it is does.
fn other_escapes(uri: &str) -> String {
    let uri = uri.replace("%3B", "\\;").replace("%5C", "\\\\").replace("%3D", "=").replace("%20", " ");
    format!("IoTDisco{}", &uri["iotdisco".len()..])
}

proptest! {
    #[test]
    fn what_is_written_reads_back(uri in any_uri()) {
        match uri.to_text() {
            Ok(text) => {
                prop_assert!(text.len() <= URI_BYTES_MAX && text.is_ascii());
                prop_assert_eq!(Uri::parse(&text), Ok(uri));
            }
            Err(error) => prop_assert_eq!(error, UriError::TooLong, "{:?}", uri),
        }
    }

    #[test]
    fn values_read_the_same_however_they_are_escaped(value in any_text(), key in "[a-z;\\\\]{1,20}") {
        let uri = claim(vec![Tag { name: "A".into(), value: TagValue::Str(value) }], &key, None);
        let written = uri.to_text().unwrap();
        prop_assert_eq!(Uri::parse(&other_escapes(&written)), Ok(uri));
    }

    #[test]
    fn no_text_makes_reading_panic_and_what_is_read_can_be_written(
        text in prop_oneof!["\\PC{0,60}", "[A-C#=<>~;%0-9\\\\Rr]{0,40}"]
    ) {
        for text in [format!("iotdisco:{text}"), format!("IoTDisco;{text}"), text] {
            if let Ok(uri) = Uri::parse(&text) {
                let written = uri.to_text().unwrap();
                prop_assert_eq!(Uri::parse(&written), Ok(uri));
            }
        }
    }
}
