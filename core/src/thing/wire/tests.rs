use super::super::{BadTag, Comparison, NodeName, Operator, Range, Side, Tag, TagValue, Test};
use super::*;
use crate::iot::Interface;
use crate::jid::Jid;
use crate::stanza::IqType;
use crate::xml::read::Node;

fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

fn node(id: &str, source: &str, partition: &str) -> NodeName {
    NodeName { id: id.into(), source: source.into(), partition: partition.into() }
}

fn str_tag(name: &str, value: &str) -> Tag {
    Tag { name: name.into(), value: TagValue::Str(value.into()) }
}

fn num_tag(name: &str, value: f64) -> Tag {
    Tag { name: name.into(), value: TagValue::Num(value) }
}

/// A request: name, attributes and children, in a generation.
fn payload(generation: Generation, name: &str, attrs: &str, children: &str) -> Node {
    let ns = Interface::Discovery.ns(generation);
    Node::parse(&format!("<{name} xmlns='{ns}' {attrs}>{children}</{name}>"), "jabber:client").unwrap()
}

/// Reads a request that has nothing special in its style.
fn read_in(generation: Generation, name: &str, attrs: &str, children: &str) -> Result<Request, Problem> {
    let iq_type = if name == "search" { IqType::Get } else { IqType::Set };
    let (style, request) = Request::read(&payload(generation, name, attrs, children), iq_type).unwrap();
    assert_eq!(style.generation, generation);
    request
}

fn read(name: &str, attrs: &str, children: &str) -> Result<Request, Problem> {
    let mut all = Generation::ALL.map(|generation| read_in(generation, name, attrs, children)).into_iter();
    let first = all.next().unwrap();
    assert!(all.all(|other| other == first), "{name} {attrs} {children}");
    first
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}

const TAGS: &str =
    "<str name='SN' value='394872348732948723'/><num name='V' value='1.2'/><str name='KEY' value='4857'/>";

fn tags() -> Tags {
    Tags { list: vec![str_tag("SN", "394872348732948723"), num_tag("V", 1.2)], key: Some("4857".into()) }
}

#[test]
fn every_request_is_read_in_every_generation() {
    let plc = node("imc1", "MeteringTopology", "");
    let at = "id='imc1' src='MeteringTopology' pt=''";
    let rack = || jid("rack@example.org");
    let check = |name, attrs: &str, children, expected| assert_eq!(read(name, attrs, children), Ok(expected), "{name}");
    let here = NodeName::default;
    check("register", "", TAGS, Request::Register { jid: None, node: here(), self_owned: false, tags: tags() });
    check(
        "register",
        &format!("{at} selfOwned='1' jid='rack@example.org/plcs'"),
        "",
        Request::Register { jid: Some(rack()), node: plc.clone(), self_owned: true, tags: Tags::default() },
    );
    check("mine", "", TAGS, Request::Mine { node: here(), public: true, tags: tags() });
    check("mine", "public=' false '", TAGS, Request::Mine { node: here(), public: false, tags: tags() });
    check("mine", &format!("public='0' {at}"), TAGS, Request::Mine { node: plc.clone(), public: false, tags: tags() });
    check("update", "", TAGS, Request::Update { jid: None, node: here(), tags: tags() });
    check(
        "update",
        &format!("jid='Rack@example.org/x' {at}"),
        TAGS,
        Request::Update { jid: Some(rack()), node: plc.clone(), tags: tags() },
    );
    let to_rack = format!("jid='rack@example.org' {at}");
    check("remove", &to_rack, "", Request::Remove { jid: rack(), node: plc.clone() });
    check("disown", &to_rack, "", Request::Disown { jid: rack(), node: plc.clone() });
    check("unregister", at, "", Request::Unregister { jid: None, node: plc });
    check("unregister", "", "", Request::Unregister { jid: None, node: here() });
    let operators =
        vec![Operator { name: "CLASS".into(), wildcard: None, test: Test::Str(Comparison::Equal, "PLC".into()) }];
    let found_by =
        |offset, max, distributed| Request::Search(Search { operators: operators.clone(), offset, max, distributed });
    let class = "<strEq name='CLASS' value='PLC'/>";
    check("search", "", class, found_by(0, None, false));
    check("search", "offset='20' maxCount='10' distributed='true'", class, found_by(20, Some(10), true));
    check("search", "offset='+007' maxCount='99999999999999999999'", class, found_by(7, Some(u32::MAX), false));
}

#[test]
fn the_style_of_a_request_is_that_of_the_answer() {
    let check = |generation, attrs: &str, dialect| {
        let payload = payload(generation, "unregister", attrs, "");
        let (style, request) = Request::read(&payload, IqType::Set).unwrap();
        assert_eq!((style.generation, style.dialect), (generation, dialect), "{attrs}");
        request.unwrap()
    };
    use Dialect::{Long, Short};
    let plc = Request::Unregister { jid: None, node: node("a", "b", "c") };
    let long = "nodeId='a' sourceId='b' cacheType='c'";
    let short = "id='a' src='b' pt='c'";
    assert_eq!(check(Generation::Xsf, long, Long), plc);
    assert_eq!(check(Generation::Xsf, short, Short), plc);
    check(Generation::Xsf, "", Long);
    assert_eq!(check(Generation::Xsf, "nodeId='a' src='b' pt='c'", Long), plc);
    for generation in [Generation::Ieee, Generation::Nf, Generation::Nfi] {
        for attrs in [long, short] {
            assert_eq!(check(generation, attrs, Short), plc);
        }
        check(generation, "", Short);
    }
    // An attribute that is empty is as one that is not there, but shows how the peer writes.
    assert_eq!(check(Generation::Xsf, "id=''", Short), Request::Unregister { jid: None, node: NodeName::default() });
}

#[test]
fn what_is_no_request_is_told_apart() {
    assert_eq!(Request::read(&Node::parse("<ping xmlns='urn:xmpp:ping'/>", "").unwrap(), IqType::Get), None);
    let provisioning = "<register xmlns='urn:nf:iot:prov:d:1.0'/>";
    assert_eq!(Request::read(&Node::parse(provisioning, "").unwrap(), IqType::Set), None);
    for name in ["claimed", "disowned", "removed", "found", "thing", "query"] {
        assert_eq!(read(name, "jid='a@b'", ""), Err(Problem::Unknown));
    }
    for name in ["register", "mine", "update", "remove", "unregister", "disown"] {
        let payload = payload(Generation::Nf, name, "jid='a@b'", "");
        assert_eq!(Request::read(&payload, IqType::Get).unwrap().1, Err(Problem::Unknown), "{name}");
    }
    let search = payload(Generation::Nf, "search", "", "<strEq name='A' value='b'/>");
    assert_eq!(Request::read(&search, IqType::Set).unwrap().1, Err(Problem::Unknown));
}

#[test]
fn bad_requests_are_refused_for_what_is_wrong() {
    let check = |name, attrs: &str, children: &str, expected: Problem| {
        assert_eq!(read(name, attrs, children), Err(expected), "{name} {attrs} {children}");
    };
    for name in ["register", "mine", "update"] {
        for (children, problem) in [
            ("<str value='x'/>", Problem::Missing),
            ("<str name='x'/>", Problem::Missing),
            ("<num name='x'/>", Problem::Missing),
            ("<str name='' value='x'/>", BadTag::Name.into()),
            ("<str name='a b' value='x'/>", BadTag::Name.into()),
            ("<num name='V' value=''/>", BadTag::NotANumber.into()),
            ("<num name='KEY' value='x'/>", BadTag::NotANumber.into()),
        ] {
            check(name, "", children, problem);
        }
        let long = |chars| format!("<str name='x' value='{}'/>", "ä".repeat(chars));
        check(name, "", &long(129), BadTag::TooLong.into());
        assert!(read(name, "", &long(128)).is_ok());
        check(name, "", &long(129).replace("'x'", "'KEY'"), BadTag::TooLong.into());
        check(name, "", &format!("<str name='{}' value='x'/>", "n".repeat(65)), BadTag::TooLong.into());
        check(name, &format!("id='{}'", "x".repeat(NODE_BYTES_MAX + 1)), "", Problem::NodeTooLong);
        assert!(read(name, &format!("id='{}'", "x".repeat(NODE_BYTES_MAX)), "").is_ok());
    }
    check("register", "selfOwned='yes'", "", Problem::NotABoolean);
    check("mine", "public=''", "", Problem::NotABoolean);
    for name in ["remove", "disown"] {
        check(name, "", "", Problem::Jid);
        check(name, "jid=''", "", Problem::Jid);
        check(name, "jid='@x'", "", Problem::Jid);
    }
    check("update", "jid='a@'", "", Problem::Jid);
}

#[test]
fn numbers_are_doubles_and_finite() {
    let check = |text: &str, expected: Option<f64>| {
        let children = format!("<num name='V' value='{text}'/>");
        let expected = match expected {
            Some(number) => Ok(vec![num_tag("V", number)]),
            None => Err(Problem::Tag(BadTag::NotANumber)),
        };
        let found = read("update", "", &children).map(|request| {
            let Request::Update { tags, .. } = request else { panic!("{request:?}") };
            tags.list
        });
        assert_eq!(found, expected, "{text}");
    };
    for (text, number) in
        [("1.2", 1.2), ("-0.5e3", -500.0), (" +7 ", 7.0), (".5", 0.5), ("5.", 5.0), ("1E-400", 0.0), ("-0", 0.0)]
    {
        check(text, Some(number));
    }
    for text in ["1e999", "-1e999", "NaN", "INF", "-INF", "inf", "infinity", "nan", "0x1", "1,5", "1_0", "", " ", "e"] {
        check(text, None);
    }
    let nought = read("update", "", "<num name='V' value='-0.0'/>").unwrap();
    let Request::Update { tags, .. } = nought else { panic!("an update") };
    let [Tag { value: TagValue::Num(number), .. }] = &tags.list[..] else { panic!("a number") };
    assert!(number.is_sign_positive());
}

#[test]
fn of_tags_of_one_name_the_last_counts() {
    let check = |children: &str, list: Vec<Tag>, key: Option<&str>| {
        let tags = Tags { list, key: key.map(Box::from) };
        let expected = Request::Mine { node: NodeName::default(), public: true, tags };
        assert_eq!(read("mine", "", children), Ok(expected), "{children}");
    };
    check("<str name='a' value='1'/><str name='A' value='2'/>", vec![str_tag("A", "2")], None);
    check("<str name='V' value='1'/><num name='v' value='2'/>", vec![num_tag("v", 2.0)], None);
    check("<num name='v' value='2'/><str name='V' value='1'/>", vec![str_tag("V", "1")], None);
    check("<str name='KEY' value='1'/><str name='key' value='2'/>", vec![], Some("2"));
    check("<str name='KEY' value='1'/><num name='Key' value='007'/>", vec![], Some("007"));
    check("<str name='KEY' value='1'/><str name='KEY' value=''/>", vec![], None);
    // The address of a registry, other elements, and tags of another namespace.
    check("<str name='r' value='x'/><x/><str xmlns='urn:x' name='a' value='1'/>", vec![], None);
    // Of another generation.
    check("<str xmlns='urn:ieee:iot:disco:1.0' name='a' value='1'/>", vec![str_tag("a", "1")], None);
}

#[test]
fn no_more_tags_are_taken_than_a_thing_has() {
    let many = |count: usize| (0..count).map(|n| format!("<num name='n{n}' value='1'/>")).collect::<String>();
    assert!(read("register", "", &many(TAGS_MAX)).is_ok());
    assert!(read("register", "", &(many(TAGS_MAX) + TAGS)).is_err());
    assert!(read("register", "", &(many(TAGS_MAX) + "<str name='KEY' value='x'/>")).is_ok());
    for count in [TAGS_MAX + 1, 10_000] {
        assert_eq!(read_in(Generation::Nf, "register", "", &many(count)), Err(Problem::TooManyTags));
    }
    let eight = |last: usize| {
        let one = |n, len: usize| format!("<str name='n{n}' value='{}'/>", "x".repeat(len));
        (0..7).map(|n| one(n, 126)).collect::<String>() + &one(7, last)
    };
    assert!(read("register", "", &eight(126)).is_ok());
    assert_eq!(read("register", "", &eight(127)), Err(Problem::TooManyTags));
}

#[test]
fn every_operator_is_read_in_every_generation() {
    let check = |element: &str, name: &str, wildcard: Option<&str>, test: Test| {
        let Ok(Request::Search(search)) = read("search", "", element) else { panic!("{element}") };
        let wildcard = wildcard.map(Box::from);
        assert_eq!(search.operators, [Operator { name: name.into(), wildcard, test }], "{element}");
    };
    for (suffix, comparison) in [
        ("Eq", Comparison::Equal),
        ("NEq", Comparison::NotEqual),
        ("Gt", Comparison::Greater),
        ("GtEq", Comparison::GreaterOrEqual),
        ("Lt", Comparison::Less),
        ("LtEq", Comparison::LessOrEqual),
    ] {
        check(&format!("<str{suffix} name='A' value='x'/>"), "A", None, Test::Str(comparison, "x".into()));
        check(&format!("<num{suffix} name='A' value='1e3'/>"), "A", None, Test::Num(comparison, 1_000.0));
    }
    for (name, side) in [("Range", Side::Inside), ("NRange", Side::Outside)] {
        let range = Range { min: Some(("a".into(), true)), max: Some(("b".into(), false)) };
        let element = format!("<str{name} name='A' min='a' max='b' maxIncluded='false'/>");
        check(&element, "A", None, Test::StrRange(range, side));
        let range = Range { min: Some((-1.5, false)), max: None };
        check(&format!("<num{name} name='A' min='-1.5' minIncluded='0'/>"), "A", None, Test::NumRange(range, side));
        let range = Range { min: None, max: Some((2.0, true)) };
        check(&format!("<num{name} name='A' max='2' maxIncluded='1'/>"), "A", None, Test::NumRange(range, side));
    }
    check("<strMask name='SN' value='9*' wildcard='*'/>", "SN", None, Test::StrMask("9*".into(), "*".into()));
    check("<strRegEx name='SN' value='^9.*$'/>", "SN", None, Test::StrRegEx("^9.*$".into()));
    check(
        "<numGt name='urn:nfi:iot:hi:sensor%' nameWildcard='%' value='0'/>",
        "urn:nfi:iot:hi:sensor%",
        Some("%"),
        Test::Num(Comparison::Greater, 0.0),
    );
    check("<strEq name='A' nameWildcard='' value=''/>", "A", None, Test::Str(Comparison::Equal, "".into()));
    let two = "<strEq name='A' value='x'/><numRange name='LAT' min='1' max='2'/>";
    let Ok(Request::Search(search)) = read("search", "", two) else { panic!("two operators") };
    assert_eq!(search.operators.len(), 2);
}

#[test]
fn searches_that_are_none_are_refused() {
    let check = |attrs: &str, children: &str, expected: Problem| {
        assert_eq!(read("search", attrs, children), Err(expected), "{attrs} {children}");
    };
    let class = "<strEq name='CLASS' value='PLC'/>";
    check("", "", Problem::NoOperator);
    for (attrs, problem) in [
        ("offset='-1'", Problem::NotACount),
        ("offset=''", Problem::NotACount),
        ("offset='1.5'", Problem::NotACount),
        ("maxCount='0'", Problem::NotACount),
        ("maxCount='x'", Problem::NotACount),
        ("distributed='x'", Problem::NotABoolean),
    ] {
        check(attrs, class, problem);
    }
    for (element, problem) in [
        ("<strEq name='A'/>", Problem::Missing),
        ("<strEq value='A'/>", Problem::Missing),
        ("<strEq name='' value='A'/>", BadTag::Name.into()),
        ("<numEq name='A' value='NaN'/>", BadTag::NotANumber.into()),
        ("<numEq name='A' value='1e999'/>", BadTag::NotANumber.into()),
        ("<strRange name='A'/>", Problem::Missing),
        ("<numRange name='A' min='x'/>", BadTag::NotANumber.into()),
        ("<numRange name='A' min='1' minIncluded='x'/>", Problem::NotABoolean),
        ("<strMask name='A' value='x'/>", Problem::Missing),
        ("<strMask name='A' value='x' wildcard=''/>", Problem::Missing),
        ("<numMask name='A' value='1' wildcard='*'/>", Problem::UnknownOperator),
        ("<numRegEx name='A' value='1'/>", Problem::UnknownOperator),
        ("<strLike name='A' value='1'/>", Problem::UnknownOperator),
        ("<str name='A' value='1'/>", Problem::UnknownOperator),
        ("<x name='A' value='1'/>", Problem::UnknownOperator),
        ("<strEq xmlns='urn:x' name='A' value='1'/>", Problem::UnknownOperator),
    ] {
        check("", element, problem);
    }
    let regex = |len| format!("<strRegEx name='A' value='{}'/>", "x".repeat(len));
    assert!(read("search", "", &regex(PATTERN_CHARS_MAX)).is_ok());
    check("", &regex(PATTERN_CHARS_MAX + 1), BadTag::TooLong.into());
    assert!(read("search", "", &class.repeat(OPERATORS_MAX)).is_ok());
    check("", &class.repeat(OPERATORS_MAX + 1), Problem::TooManyOperators);
}

#[test]
fn every_answer_is_written_in_every_style() {
    use Dialect::{Long, Short};
    let plc = node("plc1", "Metering'Topology", "");
    let (rack, owner) = (jid("rack@example.org"), jid("owner@example.org"));
    let tags = [str_tag("CLASS", "P<C"), num_tag("LAT", -33.008_055), num_tag("V", 1e300)];
    for (generation, dialect, ns, at, whose) in [
        (Generation::Xsf, Long, "urn:xmpp:iot:discovery", "nodeId='plc1' sourceId", " owner='owner@example.org'"),
        (Generation::Xsf, Short, "urn:xmpp:iot:discovery", "id='plc1' src", " owner='owner@example.org'"),
        (Generation::Ieee, Short, "urn:ieee:iot:disco:1.0", "id='plc1' src", ""),
        (Generation::Nf, Short, "urn:nf:iot:disco:1.0", "id='plc1' src", ""),
        (Generation::Nfi, Short, "urn:nfi:iot:disco:1.0", "id='plc1' src", ""),
    ] {
        let style = Style { generation, dialect };
        let at = format!("{at}='Metering&apos;Topology'");
        for (public, said) in [(true, "true"), (false, "false")] {
            assert_eq!(
                written(|out| claimed(out, style, rack.as_jid(), Some(&plc), public)),
                format!("<claimed xmlns='{ns}' jid='rack@example.org' {at} public='{said}'/>")
            );
            assert_eq!(
                written(|out| claimed(out, style, owner.as_jid(), None, public)),
                format!("<claimed xmlns='{ns}' jid='owner@example.org' public='{said}'/>")
            );
            assert_eq!(written(|out| begin_found(out, style, public)), format!("<found xmlns='{ns}' more='{said}'>"));
        }
        assert_eq!(written(|out| disowned(out, style, &plc)), format!("<disowned xmlns='{ns}' {at}/>"));
        assert_eq!(written(|out| removed(out, style, &plc)), format!("<removed xmlns='{ns}' {at}/>"));
        let device = NodeName::default();
        assert_eq!(written(|out| disowned(out, style, &device)), format!("<disowned xmlns='{ns}'/>"));
        assert_eq!(written(|out| removed(out, style, &device)), format!("<removed xmlns='{ns}'/>"));
        let inside = "<str name='CLASS' value='P&lt;C'/><num name='LAT' value='-33.008055'/>\
                      <num name='V' value='1e300'/></thing>";
        assert_eq!(
            written(|out| thing(out, style, rack.as_jid(), &plc, Some(owner.as_jid()), &tags)),
            format!("<thing{whose} jid='rack@example.org' {at}>{inside}")
        );
        let own = whose.replace("owner@", "rack@");
        assert_eq!(
            written(|out| thing(out, style, rack.as_jid(), &device, None, &tags)),
            format!("<thing{own} jid='rack@example.org'>{inside}")
        );
    }
    assert_eq!(written(end_found), "</found>");
    let cleared = Generation::ALL.map(|generation| written(|out| clear_cache(out, generation)));
    assert_eq!(
        cleared,
        ["urn:xmpp:iot:provisioning", "urn:ieee:iot:prov:d:1.0", "urn:nf:iot:prov:d:1.0", "urn:nfi:iot:prov:d:1.0"]
            .map(|ns| format!("<clearCache xmlns='{ns}'/>"))
    );
}

#[test]
fn numbers_read_back_as_they_were() {
    for value in [0.0, 1.0, -1.5, 1.2, 1e15, 1e16, 1e300, -2.5e-7, f64::MAX, f64::MIN_POSITIVE, 5e-324, 0.1 + 0.2] {
        let text = number(value);
        assert!(text.len() < 30, "{text}");
        assert_eq!(super::read::finite(&text), Ok(value), "{text}");
    }
    assert_eq!([1.0, -33.008_055, 1e20].map(number), ["1", "-33.008055", "1e20"]);
}
