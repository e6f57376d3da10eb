use proptest::prelude::*;

use super::*;
use crate::iot::{Exchange, Generation, Interface};
use crate::jid::Jid;
use crate::stanza::{Condition, IqType};
use crate::xml::Scanner;
use crate::xml::read::Node;

fn ns(generation: Generation) -> &'static str {
    Interface::Device.ns(generation)
}

/// The answer to a question, of whose nodes these are allowed, with these categories and names; `NS` stands for the
/// namespace.
fn answered(generation: Generation, payload: &str, permission: Option<&Permission<'_>>) -> String {
    let (mut scanner, payload) = (Scanner::new(), payload.replace("NS", ns(generation)));
    let query = Query::read(&mut scanner, &payload).unwrap_or_else(|error| panic!("{error:?}: {payload}"));
    assert_eq!(query.generation, generation);
    let mut out = Vec::new();
    query.write_answer(&mut out, permission);
    String::from_utf8(out).unwrap().replace(ns(generation), "NS")
}

fn refused(payload: &str) -> Condition {
    Query::read(&mut Scanner::new(), payload).unwrap_err()
}

fn permission<'p>(nodes: &[usize], bits: u8, names: Option<&[&'p str]>) -> Permission<'p> {
    let categories = Categories::from_bits(bits).unwrap();
    Permission { nodes: nodes.to_vec(), categories, names: names.map(<[_]>::to_vec) }
}

#[test]
fn a_friend_is_answered_in_the_namespace_of_the_question() {
    for generation in Generation::ALL {
        let trust = if generation == Generation::Xsf { " secondaryTrustAllowed='false'" } else { "" };
        for (permission, result) in [(None, "false"), (Some(permission(&[], 1, None)), "true")] {
            assert_eq!(
                answered(generation, "<isFriend xmlns='NS' jid='b@x.example/r'/>", permission.as_ref()),
                format!("<isFriendResponse xmlns='NS' jid='b@x.example/r' result='{result}'{trust}/>")
            );
        }
    }
}

#[test]
fn a_read_out_is_answered_as_it_was_spelt() {
    let long = "<canRead xmlns='NS' jid='b@x.example' serviceToken='s1 s2' userToken='u' momentary='true' \
                historicalDay='1' historicalOther='true' peak='false'><node nodeId='1' sourceId='m' cacheType='p'/>\
                <node nodeId='2'/><field name='T'/><field name='H'/></canRead>";
    let short = "<canRead xmlns='NS' jid='b@x.example' st='s1 s2' ut='u' m='true' h='1' p='false'>\
                 <nd id='1' src='m' pt='p'/><nd id='2'/><f n='T'/><f n='H'/></canRead>";
    // What the clients of 2018 sent in the first generation's namespace.
    let mixed = "<canRead xmlns='NS' jid='b@x.example' serviceToken='s1 s2' userToken='u' momentary='true' \
                 historical='true'><node id='1' src='m' pt='p'/><node id='2'/><field name='T'/><field name='H'/></canRead>";
    let cases = [
        (
            long,
            "<canReadResponse xmlns='NS' jid='b@x.example' historicalDay='true' historicalOther='true' result='true'>\
             <node nodeId='1' sourceId='m' cacheType='p'/><field name='H'/></canReadResponse>",
            "<canReadResponse xmlns='NS' jid='b@x.example' momentary='true' historicalDay='true' \
             historicalOther='true' result='false'/>",
        ),
        (
            short,
            "<canReadResponse xmlns='NS' jid='b@x.example' h='true' result='true'><nd id='1' src='m' pt='p'/><f n='H'/>\
             </canReadResponse>",
            "<canReadResponse xmlns='NS' jid='b@x.example' m='true' h='true' result='false'/>",
        ),
        (
            mixed,
            "<canReadResponse xmlns='NS' jid='b@x.example' historical='true' result='true'>\
             <node id='1' src='m' pt='p'/><field name='H'/></canReadResponse>",
            "<canReadResponse xmlns='NS' jid='b@x.example' momentary='true' historical='true' result='false'/>",
        ),
    ];
    for generation in Generation::ALL {
        for (question, allowed, denied) in cases {
            let payload = question.replace("NS", ns(generation));
            let mut scanner = Scanner::new();
            let query = Query::read(&mut scanner, &payload).unwrap();
            assert_eq!((&*query.tokens.service, &*query.tokens.device, &*query.tokens.user), ("s1 s2", "", "u"));
            assert_eq!(query.categories().bits(), 0b10_0001);
            assert_eq!(query.names, ["T", "H"]);
            let names: Vec<_> = query.nodes.iter().map(NodeRef::to_name).collect();
            assert_eq!((&*names[0].id, &*names[0].source, &*names[0].partition, &*names[1].id), ("1", "m", "p", "2"));
            let part = permission(&[0], 0b10_0000, Some(&["H"]));
            assert_eq!(answered(generation, question, Some(&part)), allowed);
            assert_eq!(answered(generation, question, None), denied);
        }
    }
}

#[test]
fn categories_are_repeated_and_all_of_them_are_one_word() {
    for generation in Generation::ALL {
        let head = "<canReadResponse xmlns='NS' jid='b@x.example'";
        let all = "<canRead xmlns='NS' jid='b@x.example' all='true'/>";
        let whole = permission(&[], 0x3f, None);
        assert_eq!(answered(generation, all, Some(&whole)), format!("{head} all='true' result='true'/>"));
        let some = permission(&[], 0b10_0100, Some(&["T"]));
        let expected = match generation {
            Generation::Xsf => {
                format!("{head} status='true' historical='true' result='true'><field name='T'/></canReadResponse>")
            }
            Generation::Ieee | Generation::Nf | Generation::Nfi => {
                format!("{head} s='true' h='true' result='true'><f n='T'/></canReadResponse>")
            }
        };
        assert_eq!(answered(generation, all, Some(&some)), expected);
    }
}

#[test]
fn parameters_come_in_the_form_of_the_request_or_in_one_that_is_read() {
    let two = permission(&[], 1, Some(&["Output", "Level"]));
    let check = |generation, inside: &str, expected: &str| {
        let question = format!("<canControl xmlns='NS' jid='b@x.example'>{inside}</canControl>");
        let head = "<canControlResponse xmlns='NS' jid='b@x.example' result='true'>";
        assert_eq!(answered(generation, &question, Some(&two)), format!("{head}{expected}</canControlResponse>"));
    };
    let short = "<p n='Output'/><p n='Level'/>";
    let long = "<parameter name='Output'/><parameter name='Level'/>";
    let both = "<p n='Output'/><parameter name='Output'/><p n='Level'/><parameter name='Level'/>";
    for generation in Generation::ALL {
        check(generation, short, short);
        check(generation, long, long);
        check(generation, "<p n='Output'/><parameter name='Level'/>", both);
        check(generation, "", if generation == Generation::Nfi { both } else { long });
    }
    let bare = "<canControl xmlns='NS' jid='b@x.example'/>";
    let expected = "<canControlResponse xmlns='NS' jid='b@x.example' result='true'/>";
    assert_eq!(answered(Generation::Nf, bare, Some(&permission(&[], 1, None))), expected);
}

#[test]
fn what_is_written_with_references_is_repeated_and_read() {
    let question = "<p:canControl xmlns:p='NS' jid='o&apos;b@x.example' dt=\"a&amp;b\"><p:nd id='a&lt;b'/>\
                    <nd id='other'/><p:p n='x&#39;y'/></p:canControl>";
    // `o'b` is no localpart, so it is refused as an address and not read as another one.
    assert_eq!(refused(&question.replace("NS", ns(Generation::Nf))), Condition::BadRequest);
    let question = question.replace("o&apos;b", "ob");
    let all = permission(&[0], 1, Some(&["x'y"]));
    assert_eq!(
        answered(Generation::Nf, &question, Some(&all)),
        "<canControlResponse xmlns='NS' jid='ob@x.example' result='true'><nd id='a&lt;b'/><p n='x&apos;y'/>\
         </canControlResponse>"
    );
}

#[test]
fn what_only_the_service_sends_is_no_question() {
    for generation in Generation::ALL {
        for name in [
            "isFriendResponse",
            "canReadResponse",
            "canControlResponse",
            "clearCache",
            "clearCacheResponse",
            "friend",
            "unfriend",
        ] {
            let payload = format!("<{name} xmlns='{}' jid='b@x.example' result='true'/>", ns(generation));
            assert_eq!(refused(&payload), Condition::BadRequest, "{payload}");
        }
        for name in ["canAccess", "hasPrivilege", "downloadPrivileges", "other"] {
            let payload = format!("<{name} xmlns='{}'/>", ns(generation));
            assert_eq!(refused(&payload), Condition::FeatureNotImplemented, "{payload}");
        }
    }
}

#[test]
fn what_is_not_whole_is_refused() {
    let check = |payload: &str, expected| {
        assert_eq!(refused(&payload.replace("NS", ns(Generation::Nf))), expected, "{payload}");
    };
    check("<isFriend xmlns='NS'/>", Condition::BadRequest);
    check("<isFriend xmlns='NS' jid=''/>", Condition::BadRequest);
    check("<isFriend xmlns='NS' jid='@'/>", Condition::BadRequest);
    check("<isFriend xmlns='other' jid='b@x.example'/>", Condition::BadRequest);
    check("<canRead xmlns='NS' jid='b@x.example' m='maybe'/>", Condition::BadRequest);
    check("<canRead xmlns='NS' jid='b@x.example' m='true'><f/></canRead>", Condition::BadRequest);
    check("<canControl xmlns='NS' jid='b@x.example'><p name='x'/></canControl>", Condition::BadRequest);
    check("<canRead", Condition::BadRequest);
    let many = |count: usize, of: &str| (0..count).map(|n| of.replace('#', &n.to_string())).collect::<String>();
    let wrap = |inside: String| format!("<canRead xmlns='NS' jid='b@x.example' m='true'>{inside}</canRead>");
    check(&wrap(many(NODES_MAX + 1, "<nd id='#'/>")), Condition::PolicyViolation);
    check(&wrap(many(NAMES_MAX + 1, "<f n='#'/>")), Condition::PolicyViolation);
    check(&wrap(many(100, "<nd id='#'/><f n='#'/>")), Condition::PolicyViolation);
}

#[test]
fn an_owner_is_asked_in_the_form_that_its_client_reads() {
    let (device, remote) = (Jid::parse("lamp@things.example").unwrap(), Jid::parse("b@x.example").unwrap());
    let tokens = Tokens { user: "u1 u2".into(), ..Tokens::default() };
    let node = NodeName { id: "1".into(), source: "m".into(), ..NodeName::default() };
    let names = |names: &[&str]| Some(names.iter().map(|&name| name.into()).collect());
    let check = |kind, generation, node: &NodeName, part: &Part, expected: &str| {
        let tokens = &tokens;
        let question = Question { kind, device: &device, node, remote: &remote, key: "k", tokens, part };
        let mut out = Vec::new();
        question.write(&mut out, generation);
        let text = String::from_utf8(out).unwrap().replace(Interface::Owner.ns(generation), "NS");
        assert_eq!(
            text,
            expected.replace("IDS", "xmlns='NS' jid='lamp@things.example' remoteJid='b@x.example' key='k'")
        );
    };
    for generation in Generation::ALL {
        let all = Part::everything(Kind::Friend);
        check(Kind::Friend, generation, &NodeName::default(), &all, "<isFriend IDS/>");
        let part = Part { categories: Categories::from_bits(0b11).unwrap(), names: names(&["T"]) };
        let expected = "<canRead IDS ut='u1 u2' m='true' p='true'><nd id='1' src='m'/><f n='T'/></canRead>";
        check(Kind::Read, generation, &node, &part, expected);
        let all = Part::everything(Kind::Read);
        check(Kind::Read, generation, &NodeName::default(), &all, "<canRead IDS ut='u1 u2' all='true'></canRead>");
        let part = Part { categories: Kind::Control.categories(), names: names(&["A", "B"]) };
        let inside = match generation {
            Generation::Nfi => "<nd id='1' src='m'/><partial><p n='A'/><p n='B'/></partial>",
            Generation::Xsf | Generation::Ieee | Generation::Nf => "<nd id='1' src='m'/><p n='A'/><p n='B'/>",
        };
        check(Kind::Control, generation, &node, &part, &format!("<canControl IDS ut='u1 u2'>{inside}</canControl>"));
    }
}

fn owner(iq_type: IqType, payload: &str) -> Result<OwnerRequest, Condition> {
    let ids = "xmlns='urn:nf:iot:prov:o:1.0' jid='lamp@things.example/r' remoteJid='b@x.example/r' key='k'";
    OwnerRequest::read(iq_type, &Node::parse(&payload.replace("IDS", ids), "jabber:client").unwrap())
}

#[test]
fn an_owner_answers_for_everybody_some_or_one() {
    let rule = |payload: &str| match owner(IqType::Set, payload) {
        Ok(OwnerRequest::Rule(rule)) => *rule,
        other => panic!("{other:?}"),
    };
    for (range, origin) in [
        ("", Origin::Jid),
        (" range='Caller'", Origin::Jid),
        (" range='Domain'", Origin::Domain),
        (" range='All'", Origin::All),
    ] {
        let answer = rule(&format!("<isFriendRule IDS result='1'{range}/>"));
        assert_eq!((answer.device.as_str(), answer.remote.as_str()), ("lamp@things.example", "b@x.example"));
        assert_eq!((answer.allow, &answer.origin, &answer.partial), (true, &origin, &None));
    }
    for (name, origin) in [
        ("<fromJid/>", Origin::Jid),
        ("<fromDomain/>", Origin::Domain),
        ("<all/>", Origin::All),
        ("<fromService token='t'/>", Origin::Service("t".into())),
        ("<fromDevice token='t'/>", Origin::Device("t".into())),
        ("<fromUser token=' t'/>", Origin::User("t".into())),
    ] {
        for (kind, element) in [(Kind::Read, "canReadRule"), (Kind::Control, "canControlRule")] {
            let answer = rule(&format!("<{element} IDS result='false'><nd id=''/>{name}</{element}>"));
            assert_eq!((answer.kind, answer.allow, &answer.origin, &answer.node), (kind, false, &origin, &None));
        }
    }
    let answer = rule(
        "<canReadRule IDS result='true'><nd id='1' src='m'/><partial m='true' h='true'><f n='T'/><f n='A'/><f n='T'/>\
         </partial><fromJid/></canReadRule>",
    );
    assert_eq!(answer.node.map(|node| (node.id, node.source)), Some(("1".into(), "m".into())));
    let names = Some(vec!["A".into(), "T".into()]);
    assert_eq!(answer.partial, Some(Part { categories: Categories::from_bits(0b10_0001).unwrap(), names }));
    let answer = rule("<canReadRule IDS result='true'><partial><f n='T'/></partial><fromJid/></canReadRule>");
    assert_eq!(answer.partial.map(|part| part.categories), Some(Categories::ALL));
    for form in ["<p n='A'/>", "<parameter name='A'/>"] {
        let answer =
            rule(&format!("<canControlRule IDS result='true'><partial>{form}</partial><all/></canControlRule>"));
        assert_eq!(answer.partial.and_then(|part| part.names), Some(vec!["A".into()]));
    }
}

#[test]
fn what_an_owner_leaves_out_or_says_twice_is_refused() {
    for payload in [
        "<isFriendRule IDS/>",
        "<isFriendRule IDS result='yes'/>",
        "<isFriendRule IDS result='true' range='Nobody'/>",
        "<isFriendRule xmlns='urn:nf:iot:prov:o:1.0' jid='a@b.example' remoteJid='c@d.example' result='true'/>",
        "<isFriendRule xmlns='urn:nf:iot:prov:o:1.0' jid='' remoteJid='c@d.example' key='k' result='true'/>",
        "<canReadRule IDS result='true'/>",
        "<canReadRule IDS result='true'><fromJid/><all/></canReadRule>",
        "<canReadRule IDS result='true'><fromUser/></canReadRule>",
        "<canReadRule IDS result='true'><fromUser token='a b'/></canReadRule>",
        "<canReadRule IDS result='true'><partial/><all/></canReadRule>",
        "<canControlRule IDS result='true'><partial/><all/></canControlRule>",
        "<canControlRule IDS result='true'><partial><p/></partial><all/></canControlRule>",
        "<clearCache xmlns='urn:nf:iot:prov:o:1.0' id='1'/>",
        "<clearCache xmlns='urn:nf:iot:prov:o:1.0' jid='@'/>",
        "<getDevices xmlns='urn:nf:iot:prov:o:1.0'/>",
        "<canRead IDS/>",
    ] {
        assert_eq!(owner(IqType::Set, payload), Err(Condition::BadRequest), "{payload}");
    }
    let long = format!("<canReadRule IDS result='true'><fromUser token='{}'/></canReadRule>", "t".repeat(2_000));
    assert_eq!(owner(IqType::Set, &long), Err(Condition::PolicyViolation));
    let other = "<other xmlns='urn:nf:iot:prov:o:1.0'/>";
    assert_eq!(owner(IqType::Set, other), Err(Condition::FeatureNotImplemented));
    assert_eq!(owner(IqType::Get, "<isFriendRule IDS result='true'/>"), Err(Condition::BadRequest));
}

#[test]
fn an_owner_names_all_things_those_of_a_device_or_one() {
    let ns = "xmlns='urn:nf:iot:prov:o:1.0'";
    let device = Jid::parse("lamp@things.example").unwrap();
    let things = |node| Some(Things { device: device.clone(), node });
    let node = NodeName { id: "1".into(), ..NodeName::default() };
    for (attrs, expected) in [
        ("", None),
        ("jid=''", None),
        ("jid='lamp@things.example/r'", things(None)),
        ("jid='lamp@things.example' id=''", things(None)),
        ("jid='lamp@things.example' id='1' src=''", things(Some(node))),
    ] {
        let clear = owner(IqType::Set, &format!("<clearCache {ns} {attrs}/>"));
        assert_eq!(clear, Ok(OwnerRequest::ClearCache(expected.clone())), "{attrs}");
        let delete = owner(IqType::Set, &format!("<deleteRules {ns} {attrs}/>"));
        assert_eq!(delete, Ok(OwnerRequest::DeleteRules(expected)), "{attrs}");
    }
    for (attrs, expected) in [
        ("", Ok((0, None))),
        ("offset='7' maxCount='20'", Ok((7, Some(20)))),
        ("maxCount='99999999999999999999999'", Ok((0, Some(u64::MAX)))),
        ("maxCount='0'", Err(Condition::BadRequest)),
        ("offset='-1'", Err(Condition::BadRequest)),
        ("offset=''", Err(Condition::BadRequest)),
    ] {
        let expected = expected.map(|(offset, count_max)| OwnerRequest::GetDevices { offset, count_max });
        assert_eq!(owner(IqType::Get, &format!("<getDevices {ns} {attrs}/>")), expected, "{attrs}");
    }
}

#[test]
fn tokens_are_asked_for_in_all_generations() {
    for generation in Generation::ALL {
        let ns = Interface::Tokens.ns(generation);
        let read =
            |payload: &str| TokenRequest::read(&Node::parse(&payload.replace("NS", ns), "jabber:client").unwrap());
        assert_eq!(
            read("<getToken xmlns='NS'>\n AAEC\n</getToken>"),
            Ok(TokenRequest::Get { certificate: "AAEC".to_owned() })
        );
        assert_eq!(
            read("<getTokenChallengeResponse xmlns='NS' seqnr='7'>AA==</getTokenChallengeResponse>"),
            Ok(TokenRequest::Respond { number: 7, response: "AA==".to_owned() })
        );
        let token = || Ok(TokenRequest::Certificate { token: "t".to_owned() });
        assert_eq!(read("<getCertificate xmlns='NS' token='t'/>"), token());
        assert_eq!(read("<getCertificate xmlns='NS'> t</getCertificate>"), token());
        for bad in [
            "<getCertificate xmlns='NS'/>",
            "<getTokenChallengeResponse xmlns='NS'/>",
            "<getTokenChallengeResponse xmlns='NS' seqnr='9999999999'/>",
            "<getTokenResponse xmlns='NS' token='t'/>",
            "<tokenChallenge xmlns='NS' token='t'/>",
        ] {
            assert_eq!(read(bad), Err(Condition::BadRequest), "{bad}");
        }
        assert_eq!(read("<other xmlns='NS'/>"), Err(Condition::FeatureNotImplemented));
        let written = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            String::from_utf8(out).unwrap().replace(ns, "NS")
        };
        assert_eq!(
            written(&|out| write_challenge(out, generation, 7, "AA==")),
            "<getTokenChallenge xmlns='NS' seqnr='7'>AA==</getTokenChallenge>"
        );
        assert_eq!(
            written(&|out| write_token(out, generation, "things.example:x")),
            "<getTokenResponse xmlns='NS' token='things.example:x'/>"
        );
        assert_eq!(
            written(&|out| write_certificate(out, generation, "AA==")),
            "<certificate xmlns='NS'>AA==</certificate>"
        );
        let challenge = written(&|out| write_token_challenge(out, generation, "t", "AA=="));
        assert_eq!(challenge, "<tokenChallenge xmlns='NS' token='t'>AA==</tokenChallenge>");
    }
    let response = Node::parse("<tokenChallengeResponse xmlns='x'> AA== </tokenChallengeResponse>", "").unwrap();
    assert_eq!(read_token_challenge_response(&response), Some("AA=="));
}

#[test]
fn notices_to_devices_are_in_their_generation() {
    for generation in Generation::ALL {
        let (mut clear, mut friend, mut unfriend) = (Vec::new(), Vec::new(), Vec::new());
        write_clear_cache(&mut clear, generation);
        write_recommendation(&mut friend, generation, true, "b@x.example");
        write_recommendation(&mut unfriend, generation, false, "b@x.example");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(ns(generation), "NS");
        assert_eq!(text(clear), "<clearCache xmlns='NS'/>");
        assert_eq!(text(friend), "<friend xmlns='NS' jid='b@x.example'/>");
        assert_eq!(text(unfriend), "<unfriend xmlns='NS' jid='b@x.example'/>");
    }
}

proptest! {
    #[test]
    fn no_payload_makes_the_reader_panic(payload: String) {
        let _ = Query::read(&mut Scanner::new(), &payload);
        let _ = Request::read(&mut Scanner::new(), &payload);
        for (exchange, name) in [(Exchange::SensorData, "req"), (Exchange::Control, "set")] {
            let payload = format!("<{name} xmlns='{}'>{payload}</{name}>", exchange.ns(Generation::Nf));
            let _ = Request::read(&mut Scanner::new(), &payload);
        }
    }

    #[test]
    fn what_is_read_without_a_tree_is_what_a_tree_has(
        pieces in proptest::collection::vec((0..8usize, "[ a-c<&>'\"=/]{0,6}", any::<bool>()), 0..20)
    ) {
        let mut payload = "<canRead\txmlns = 'urn:nf:iot:prov:d:1.0' m='1' jid=\"b@x.example\" >".to_owned();
        for (piece, value, quotes) in &pieces {
            let mut out = Vec::new();
            crate::xml::write::attr(&mut out, "", value);
            let value = String::from_utf8(out).unwrap();
            let value = value.trim_start_matches(" =").trim_matches('\'');
            let quote = if *quotes { '"' } else { '\'' };
            let value = format!("{quote}{}{quote}", if *quotes { value.replace('"', "&#34;") } else { value.to_owned() });
            payload += &match piece {
                0 => format!("<nd id={value}/>"),
                1 => format!("<nd src={value} pt\n=\t{value} x='1' id={value}></nd>"),
                2 => format!("<node nodeId={value} xmlns:p='p' p:id='no' >text</node>"),
                3 => format!("<f n={value}/>"),
                4 => format!("<f n={value}><f n='inside'/></f>"),
                5 => format!("<field xmlns='urn:nf:iot:prov:d:1.0' name={value} />"),
                6 => format!("<f xmlns='other' n={value}/>"),
                _ => format!("text &lt; <x n={value}/>"),
            };
        }
        payload += "</canRead>";
        let mut scanner = Scanner::new();
        let query = Query::read(&mut scanner, &payload);
        let query = query.unwrap_or_else(|error| panic!("{error:?}: {payload}"));
        let tree = Node::parse(&payload, "jabber:client").unwrap();
        let ours = || tree.children.iter().filter(|child| child.ns == tree.ns);
        let (mut names, mut nodes) = (Vec::new(), Vec::new());
        for child in ours() {
            let any = |long: &str, short: &str| child.attr(long).or(child.attr(short)).unwrap_or("").into();
            match &*child.name {
                "nd" | "node" => {
                    let (id, source) = (any("nodeId", "id"), any("sourceId", "src"));
                    let node = NodeName { id, source, partition: any("cacheType", "pt") };
                    if !nodes.contains(&node) {
                        nodes.push(node);
                    }
                }
                "f" | "field" => {
                    let name = child.attr("n").or(child.attr("name")).unwrap().to_owned();
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
                _ => {}
            }
        }
        prop_assert_eq!(query.nodes.iter().map(NodeRef::to_name).collect::<Vec<_>>(), nodes);
        prop_assert_eq!(query.names.iter().map(|name| name.to_string()).collect::<Vec<_>>(), names);
    }
}

/// Kind, categories, nodes as `id/source/partition`, names, tokens.
type Requested = (Kind, u8, Vec<String>, Vec<String>, [String; 3]);

/// What a request asks, for comparison.
fn requested(payload: &str) -> Option<Requested> {
    let mut scanner = Scanner::new();
    let request = Request::read(&mut scanner, payload).unwrap_or_else(|error| panic!("{error:?}: {payload}"))?;
    let node = |node: &NodeRef<'_>| format!("{}/{}/{}", node.id, node.source, node.partition);
    let Tokens { service, device, user } = request.tokens.clone().into_owned();
    Some((
        request.kind,
        request.categories.bits(),
        request.nodes.iter().map(node).collect(),
        request.names.iter().map(|name| name.clone().into_owned()).collect(),
        [service, device, user].map(|tokens| tokens.into_owned()),
    ))
}

#[test]
fn what_is_asked_of_a_device_is_read_in_all_generations() {
    let (no, m, all): ([&str; 0], u8, u8) = ([], 1, 0x3f);
    // Element, attributes and children in the long form and the short one, and what they ask.
    let long_nodes = "<node nodeId='1' sourceId='m' cacheType='p'/><node nodeId='2'/>";
    let short_nodes = "<nd id='1' src='m' pt='p'/><nd id='2'/>";
    let nodes = ["1/m/p", "2//"];
    let (long_tokens, short_tokens) = ("serviceToken='a b' deviceToken='c' userToken='d'", "st='a b' dt='c' ut='d'");
    let form = "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>t</value></field>\
                <field var='Output'><value>1</value></field><field var='Level'/></x>";
    type Case<'a> = (Exchange, &'a str, String, String, Kind, u8, &'a [&'a str], &'a [&'a str], bool);
    let cases: Vec<Case<'_>> = vec![
        (Exchange::SensorData, "req", " id='1' seqnr='1'>".into(), String::new(), Kind::Read, all, &no, &no, false),
        (
            Exchange::SensorData,
            "req",
            format!(" seqnr='1' momentary='true' historicalDay='1' from='x' {long_tokens}>"),
            format!("{long_nodes}<field name='T'/><field name='H'/><field name='T'/>"),
            Kind::Read,
            0b10_0001,
            &nodes,
            &["T", "H"],
            true,
        ),
        (
            Exchange::SensorData,
            "req",
            format!(" id='1' m='true' h='1' p='false' {short_tokens}>"),
            format!("{short_nodes}<f n='T'/><f n='H'/>"),
            Kind::Read,
            0b10_0001,
            &nodes,
            &["T", "H"],
            true,
        ),
        (Exchange::SensorData, "req", " all='true'>".into(), "<nd/>".into(), Kind::Read, all, &["//"], &no, false),
        (
            Exchange::Events,
            "subscribe",
            format!(" id='1' m='true' maxInt='PT1M' req='true' {short_tokens}>"),
            format!("{short_nodes}<f n='T' by='1'/>"),
            Kind::Read,
            m,
            &nodes,
            &["T"],
            true,
        ),
        (Exchange::Events, "subscribe", ">".into(), "<field name='T'/>".into(), Kind::Read, all, &no, &["T"], false),
        (
            Exchange::Control,
            "set",
            format!(" {short_tokens}>"),
            format!("{short_nodes}<b n='Output' v='true'/><dt n='At' v='x'/><e n='Mode' v='1' t='T'/>"),
            Kind::Control,
            m,
            &nodes,
            &["Output", "At", "Mode"],
            true,
        ),
        (
            Exchange::Control,
            "set",
            format!(" xml:lang='en' {long_tokens}>"),
            format!("{long_nodes}<boolean name='Output' value='true'/><color name='C' value='x'/>"),
            Kind::Control,
            m,
            &nodes,
            &["Output", "C"],
            true,
        ),
        (Exchange::Control, "set", ">".into(), form.into(), Kind::Control, m, &no, &["Output", "Level"], false),
        (Exchange::Control, "set", ">".into(), String::new(), Kind::Control, m, &no, &no, false),
        (Exchange::Control, "getForm", ">".into(), "<nd id='2'/>".into(), Kind::Control, m, &["2//"], &no, false),
    ];
    for generation in Generation::ALL {
        for (exchange, name, attrs, children, kind, categories, nodes, names, with_tokens) in &cases {
            let payload = format!("<{name} xmlns='{}'{attrs}{children}</{name}>", exchange.ns(generation));
            let tokens = if *with_tokens { ["a b", "c", "d"] } else { [""; 3] };
            let own = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
            let expected = (*kind, *categories, own(nodes), own(names), tokens.map(str::to_owned));
            assert_eq!(requested(&payload), Some(expected), "{payload}");
            assert_eq!(Request::kind_of(exchange.ns(generation), name), Some((*kind, generation)));
        }
    }
}

#[test]
fn what_asks_nothing_of_a_device_is_told_apart() {
    for generation in Generation::ALL {
        let ns = |exchange: Exchange| exchange.ns(generation);
        for (ns, name) in [
            (ns(Exchange::SensorData), "resp"),
            (ns(Exchange::SensorData), "fields"),
            (ns(Exchange::SensorData), "cancel"),
            (ns(Exchange::SensorData), "set"),
            (ns(Exchange::Events), "unsubscribe"),
            (ns(Exchange::Control), "setResponse"),
            (ns(Exchange::Control), "req"),
            (Interface::Device.ns(generation), "canRead"),
            ("urn:xmpp:ping", "req"),
        ] {
            assert_eq!(requested(&format!("<{name} xmlns='{ns}'/>")), None);
        }
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let many = |element: &str, count: usize| -> String {
        (0..count).map(|at| element.replace('#', &at.to_string())).collect::<String>()
    };
    let (bad, policy) = (Condition::BadRequest, Condition::PolicyViolation);
    for generation in Generation::ALL {
        let (sd, ctr) = (Exchange::SensorData.ns(generation), Exchange::Control.ns(generation));
        let read = |attrs: &str, inside: &str| format!("<req xmlns='{sd}' {attrs}>{inside}</req>");
        let set = |inside: &str| format!("<set xmlns='{ctr}'>{inside}</set>");
        let cases = [
            (read("m='perhaps'", ""), bad),
            (read("", "<nd id='1' nodeId='2'/>"), bad),
            (read("", "<nd id='' nodeId='2'/>"), bad),
            (read("", "<f/>"), bad),
            (read("", "<f n='a' name='b'/>"), bad),
            (read("st='a' serviceToken='b'", ""), bad),
            (set("<b v='true'/>"), bad),
            (set("<b n='' v='true'/>"), bad),
            (set("<b n='a' name='b' v='true'/>"), bad),
            (set("<x xmlns='jabber:x:data'><field/></x>"), bad),
            (read("", &many("<nd id='#'/>", NODES_MAX + 1)), policy),
            (read("", &many("<f n='#'/>", NAMES_MAX + 1)), policy),
            (read("", &(many("<nd id='#'/>", 200) + &many("<f n='#'/>", 200))), policy),
            (set(&format!("<x xmlns='jabber:x:data'>{}</x>", many("<field var='#'/>", NAMES_MAX + 1))), policy),
        ];
        for (payload, condition) in cases {
            assert_eq!(Request::read(&mut Scanner::new(), &payload).unwrap_err(), condition, "{payload:.200}");
        }
        // What is said twice alike is said once, and what is of another namespace counts for who does not look at that.
        let twice = read("st='a' serviceToken='a'", "<nd id='1' nodeId='1'/><f n='a' name='a'/>");
        assert_eq!(requested(&twice).unwrap().3, ["a"]);
        let foreign = set("<b n='a' v='true'/><b xmlns='urn:x' n='b' v='true'/><nd xmlns='urn:x' id='1'/>");
        let (_, _, nodes, names, _) = requested(&foreign).unwrap();
        assert_eq!((nodes, names), (vec!["1//".to_owned()], vec!["a".to_owned(), "b".to_owned()]));
    }
}
