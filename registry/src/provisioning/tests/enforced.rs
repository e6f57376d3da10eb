//! What the broker lets a device have.

use plaza_core::iot::Exchange;
use plaza_core::provisioning::Request;
use plaza_core::xml::Scanner;

use super::*;

const DEVICE: &str = RACK;

/// A device with nodes, each with whether it is enforced, its owner, and its rules.
fn home(nodes: &[(&str, bool, Option<&str>, Vec<Rule>)]) -> HomeThings {
    let records = nodes
        .iter()
        .map(|(id, enforced, owner, _)| ThingRecord { enforced: *enforced, ..thing(DEVICE, id, *owner) })
        .collect();
    let rules = nodes
        .iter()
        .flat_map(|(id, _, _, rules)| rules.iter().map(|rule| (node_key(&node(id)).into(), rule.clone())))
        .collect();
    HomeThings::new(records, rules)
}

/// What becomes of a request, and about which nodes the owner is asked.
fn asked(things: &HomeThings, asker: &str, payload: &str) -> (bool, Vec<String>) {
    let mut scanner = Scanner::new();
    let request = match payload {
        "" => Request::subscription(),
        payload => Request::read(&mut scanner, payload).unwrap().unwrap(),
    };
    let (device, component) = (jid(&format!("{DEVICE}/r")), jid(COMPONENT));
    let (asker, proofs) = (jid(asker), Proofs::default());
    proofs.prove(asker.as_jid(), &tokens("other secret"), NOW);
    let proofs = (&proofs, NOW);
    match enforce(Some(things), device.as_jid(), Some(&component), asker.as_jid(), &request, proofs) {
        Enforced::Passes => (true, Vec::new()),
        Enforced::Denied { inquiry } => {
            let inquiry = inquiry.map(|inquiry| {
                assert_eq!((inquiry.device.as_str(), inquiry.component.as_str()), (DEVICE, COMPONENT));
                assert_eq!((inquiry.kind, inquiry.remote.as_str()), (request.kind, asker.as_jid().bare().as_str()));
                inquiry.parts.into_iter().map(|(node, _)| node.id.into()).collect()
            });
            (false, inquiry.unwrap_or_default())
        }
    }
}

fn passes() -> (bool, Vec<String>) {
    (true, Vec::new())
}

fn denied(open: &[&str]) -> (bool, Vec<String>) {
    (false, open.iter().map(|&id| id.to_owned()).collect())
}

fn read(attrs: &str, inside: &str) -> String {
    format!("<req xmlns='{}' {attrs}>{inside}</req>", Exchange::SensorData.ns(Generation::Nf))
}

fn set(inside: &str) -> String {
    format!("<set xmlns='{}'>{inside}</set>", Exchange::Control.ns(Generation::Nf))
}

#[test]
fn what_rules_allow_in_whole_passes_and_what_they_do_not_is_denied() {
    let of = |number, kind, allow| rule(number, kind, Level::Jid, STRANGER, allow);
    let rules = vec![
        of(1, Kind::Friend, true),
        partial(of(2, Kind::Read, true), 0b11, "T H"),
        partial(of(3, Kind::Read, false), 0b11, "P"),
        partial(of(4, Kind::Control, true), 1, "Output"),
    ];
    let lamp = home(&[("", true, Some(OWNER), rules)]);
    let cases = [
        (String::new(), passes()),
        (read("m='true'", "<f n='T'/>"), passes()),
        (read("m='true' p='true'", "<f n='T'/><f n='H'/>"), passes()),
        (read("m='true'", "<f n='T'/><f n='P'/>"), denied(&[])),
        (read("m='true'", "<f n='P'/>"), denied(&[])),
        (read("m='true'", "<f n='X'/>"), denied(&[""])),
        (read("m='true' h='true'", "<f n='T'/>"), denied(&[""])),
        (read("m='true'", ""), denied(&[""])),
        // No category is all of them.
        (read("", "<f n='T'/>"), denied(&[""])),
        (set("<b n='Output' v='true'/>"), passes()),
        (set("<b n='Output' v='true'/><i n='Level' v='1'/>"), denied(&[""])),
        (set(""), denied(&[""])),
    ];
    for (payload, expected) in cases {
        assert_eq!(asked(&lamp, &format!("{STRANGER}/r"), &payload), expected, "{payload}");
        for free in [OWNER, COMPONENT, DEVICE, "owner@things.example/r", "rack@things.example/r"] {
            assert_eq!(asked(&lamp, free, &payload), passes(), "{free}: {payload}");
        }
        assert!(!asked(&lamp, "other@x.example", &payload).0);
    }
}

#[test]
fn a_node_concerns_its_own_thing_and_what_is_none_is_the_devices() {
    let allow = || vec![rule(1, Kind::Read, Level::All, "", true)];
    let nd = |ids: &[&str]| read("m='true'", &ids.iter().map(|id| format!("<nd id='{id}'/>")).collect::<String>());
    // The device: not enforced. Its nodes: enforced and allowed, enforced, left to the device, enforced and nobody's.
    let nodes = |device: bool| {
        home(&[
            ("", device, Some(OWNER), vec![]),
            ("a", true, Some(OWNER), allow()),
            ("d", true, Some(OWNER), vec![]),
            ("f", false, Some(OWNER), vec![]),
            ("n", true, None, vec![]),
        ])
    };
    let rack = nodes(false);
    let cases = [
        (&["a"][..], passes()),
        (&["d"], denied(&["d"])),
        (&["f"], passes()),
        (&["n"], denied(&[])),
        (&["x"], passes()),
        (&[], passes()),
        (&["a", "f", "x"], passes()),
        (&["a", "d"], denied(&["d"])),
        (&["a", "n"], denied(&[])),
    ];
    for (ids, expected) in cases {
        assert_eq!(asked(&rack, STRANGER, &nd(ids)), expected, "{ids:?}");
    }
    assert_eq!(asked(&rack, STRANGER, ""), passes());
    let whole = nodes(true);
    let cases = [
        (&["a"][..], passes()),
        (&["f"], passes()),
        (&[], denied(&[""])),
        (&["x"], denied(&[""])),
        (&["x", "y", "a"], denied(&[""])),
        (&["d", "x"], denied(&["d", ""])),
    ];
    for (ids, expected) in cases {
        assert_eq!(asked(&whole, STRANGER, &nd(ids)), expected, "{ids:?}");
    }
    assert_eq!(asked(&whole, STRANGER, ""), denied(&[""]));
}

#[test]
fn without_an_enforced_thing_everything_passes_and_without_a_service_nobody_is_asked() {
    let request = Request::subscription();
    let (device, stranger) = (jid(DEVICE), jid(STRANGER));
    let proofs = Proofs::default();
    let left = home(&[("", false, Some(OWNER), vec![])]);
    for things in [None, Some(&left)] {
        assert_eq!(
            enforce(things, device.as_jid(), None, stranger.as_jid(), &request, (&proofs, NOW)),
            Enforced::Passes
        );
    }
    let enforced = home(&[("", true, Some(OWNER), vec![])]);
    let denied = enforce(Some(&enforced), device.as_jid(), None, stranger.as_jid(), &request, (&proofs, NOW));
    assert_eq!(denied, Enforced::Denied { inquiry: None });
}

#[test]
fn tokens_count_as_they_do_for_a_device_that_asks() {
    let rules = vec![rule(1, Kind::Read, Level::User, &tokens("secret"), true)];
    let lamp = home(&[("", true, Some(OWNER), rules)]);
    assert_eq!(asked(&lamp, STRANGER, &read(&format!("m='true' ut='{}'", tokens("other secret")), "")), passes());
    assert_eq!(asked(&lamp, STRANGER, &read(&format!("m='true' st='{}'", tokens("secret")), "")), denied(&[""]));
}
