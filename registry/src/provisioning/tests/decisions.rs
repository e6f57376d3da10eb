use plaza_core::provisioning::{NodeRef, Tokens};

use super::*;

/// What is allowed of it: the nodes' places, the categories' bits, the names, `*` for all.
type Allowed = Option<(Vec<usize>, u8, String)>;

fn home(nodes: &[(&str, Vec<Rule>)]) -> HomeThings {
    let records = nodes.iter().map(|(id, _)| thing(LAMP, id, Some(OWNER))).collect();
    let rules = nodes
        .iter()
        .flat_map(|(id, rules)| rules.iter().map(|rule| (node_key(&node(id)).into_boxed_str(), rule.clone())));
    HomeThings::new(records, rules.collect())
}

fn told(decision: &Decision<'_>) -> (Allowed, Vec<(usize, u8, String)>) {
    let text = |names: &Option<Vec<&str>>| names.as_ref().map_or("*".to_owned(), |names| names.join(" "));
    let allowed = decision.permission.as_ref();
    let allowed = allowed.map(|part| (part.nodes.clone(), part.categories.bits(), text(&part.names)));
    let open = decision.open.iter().map(|open| (open.node, open.categories.bits(), text(&open.names)));
    (allowed, open.collect())
}

fn decided(
    things: &HomeThings,
    (kind, asker): (Kind, &str),
    tokens: &Tokens<'_>,
    (nodes, bits, names): (&str, u8, &str),
) -> (Allowed, Vec<(usize, u8, String)>) {
    let nodes: Vec<_> =
        nodes.split_ascii_whitespace().map(|id| NodeRef { id: id.into(), ..NodeRef::default() }).collect();
    let names: Vec<_> = names.split_ascii_whitespace().map(Into::into).collect();
    let (asker, categories) = (jid(asker), Categories::from_bits(bits).unwrap());
    let asked = Asked { kind, asker: asker.as_jid(), tokens, nodes: &nodes, categories, names: &names };
    told(&decide(Some(things), COMPONENT, asked))
}

fn allowed(nodes: &[usize], bits: u8, names: &str) -> Allowed {
    Some((nodes.to_vec(), bits, names.to_owned()))
}

#[test]
fn the_most_specific_origin_wins_whatever_is_newer() {
    use Level::{All, Device, Domain, Jid, Service, User};
    let tokens = Tokens { service: "s".into(), device: "d".into(), user: "u".into() };
    let origins = [(User, "u"), (Device, "d"), (Service, "s"), (Jid, STRANGER), (Domain, "x.example"), (All, "")];
    for kind in Kind::ALL {
        for (at, &(level, text)) in origins.iter().enumerate() {
            for allow in [true, false] {
                // All that is less specific is newer, and says the opposite.
                let others = origins.iter().skip(at + 1);
                let others = others.map(|&(level, text)| rule(99, kind, level, text, !allow));
                let rules = others.chain([rule(1, kind, level, text, allow)]).collect();
                let home = home(&[("", rules)]);
                let bits = kind.categories().bits();
                let expected = if allow { allowed(&[0], bits, "*") } else { None };
                assert_eq!(decided(&home, (kind, STRANGER), &tokens, ("", bits, "")), (expected, vec![]), "{level:?}");
            }
        }
    }
}

#[test]
fn of_two_of_one_origin_the_newer_wins_and_of_several_tokens_the_most_forgiving() {
    let of = |number, text: &str, allow| rule(number, Kind::Read, Level::User, text, allow);
    let check = |rules: Vec<Rule>, user: &str, expected: bool| {
        let tokens = Tokens { user: user.into(), ..Tokens::default() };
        let (found, open) = decided(&home(&[("", rules)]), (Kind::Read, STRANGER), &tokens, ("", 1, ""));
        assert_eq!((found.is_some(), open), (expected, vec![]), "{user}");
    };
    check(vec![of(1, "u", false), of(2, "u", true)], "u", true);
    check(vec![of(2, "u", false), of(1, "u", true)], "u", false);
    check(vec![of(9, "u", false), of(1, "v", true)], "u v", true);
    check(vec![of(9, "u", false), of(1, "v", true)], "v u", true);
    check(vec![of(9, "u", false), of(1, "v", false)], "v u", false);
    // Tokens beyond those that are looked at are as good as not there.
    check(vec![of(9, "u", false), of(1, "v", true)], "u a b c v", false);
    // A class that says nothing leaves it to the next.
    let device = rule(1, Kind::Read, Level::Device, "d", true);
    let tokens = Tokens { user: "other".into(), device: "d".into(), ..Tokens::default() };
    let (found, _) = decided(&home(&[("", vec![device])]), (Kind::Read, STRANGER), &tokens, ("", 1, ""));
    assert!(found.is_some());
}

#[test]
fn what_no_rule_speaks_of_is_denied_and_open_and_what_one_denies_is_not() {
    let all = |allow| rule(1, Kind::Read, Level::All, "", allow);
    let none = Tokens::default();
    let check = |rules: Vec<Rule>, asked: (u8, &str), expected: Allowed, open: &[(u8, &str)]| {
        let (bits, names) = asked;
        let found = decided(&home(&[("", rules)]), (Kind::Read, STRANGER), &none, ("", bits, names));
        let open = open.iter().map(|&(bits, names)| (0, bits, names.to_owned())).collect();
        assert_eq!(found, (expected, open), "{asked:?}");
    };
    check(vec![], (0b11, ""), None, &[(0b11, "*")]);
    check(vec![], (0b11, "T H"), None, &[(0b11, "T H")]);
    check(vec![], (0, ""), None, &[]);
    check(vec![all(false)], (0b11, ""), None, &[]);
    check(vec![all(true)], (0b11, ""), allowed(&[0], 0b11, "*"), &[]);
    check(vec![all(true)], (0b11, "T H"), allowed(&[0], 0b11, "T H"), &[]);
    check(vec![all(true)], (0, ""), None, &[]);
    // A part is answered, and the rest is open.
    check(vec![partial(all(true), 0b01, "")], (0b11, ""), allowed(&[0], 0b01, "*"), &[(0b10, "*")]);
    check(vec![partial(all(true), 0b11, "T")], (0b11, ""), allowed(&[0], 0b11, "T"), &[(0b11, "*")]);
    check(vec![partial(all(true), 0b11, "T")], (0b11, "T H"), allowed(&[0], 0b11, "T"), &[(0b11, "H")]);
    check(vec![partial(all(true), 0b11, "T")], (0b11, "H"), None, &[(0b11, "H")]);
    // The rest is denied.
    let denied = || Rule { number: 0, ..all(false) };
    check(vec![partial(all(true), 0b01, "T"), denied()], (0b11, "T H"), allowed(&[0], 0b01, "T"), &[]);
    check(vec![partial(all(true), 0b01, "T"), denied()], (0b11, ""), allowed(&[0], 0b01, "T"), &[]);
    // All but one cannot be said to who asks for all; the others can be asked for.
    let but = || vec![all(true), Rule { number: 2, ..partial(all(false), 0b11, "T") }];
    check(but(), (0b11, ""), None, &[]);
    check(but(), (0b11, "T H"), allowed(&[0], 0b11, "H"), &[]);
    // Of rights that are no rectangle the largest one is given: T in both, or T and H in the first.
    let corner = || vec![partial(all(true), 0b01, "T H"), Rule { number: 2, ..partial(all(true), 0b10, "T") }];
    check(corner(), (0b11, "T H"), allowed(&[0], 0b11, "T"), &[(0b10, "H")]);
    let corner = vec![partial(all(true), 0b01, "T H A"), Rule { number: 2, ..partial(all(true), 0b10, "T") }];
    check(corner, (0b11, "T H A"), allowed(&[0], 0b01, "T H A"), &[(0b10, "H A")]);
}

#[test]
fn nodes_are_given_what_all_of_them_allow_and_the_largest_group_if_that_is_nothing() {
    let all = |bits, names: &str| partial(rule(1, Kind::Read, Level::All, "", true), bits, names);
    let deny = || rule(0, Kind::Read, Level::All, "", false);
    let none = Tokens::default();
    let check = |nodes: &[(&str, Vec<Rule>)], asked: (&str, u8, &str), expected: Allowed| {
        let (found, open) = decided(&home(nodes), (Kind::Read, STRANGER), &none, asked);
        assert_eq!((found, open), (expected, vec![]), "{asked:?}");
    };
    let [a, b, c] = ["a", "b", "c"];
    // What one node allows is not said of the other.
    check(
        &[(a, vec![all(0b11, "")]), (b, vec![all(0b01, ""), deny()])],
        ("a b", 0b11, ""),
        allowed(&[0, 1], 0b01, "*"),
    );
    let some = [(a, vec![all(0b11, "T H"), deny()]), (b, vec![all(0b11, "H A"), deny()])];
    check(&some, ("a b", 0b11, "T H A"), allowed(&[0, 1], 0b11, "H"));
    check(&some, ("b a", 0b11, ""), allowed(&[0, 1], 0b11, "H"));
    // One that allows nothing is left out.
    check(&[(a, vec![deny()]), (b, vec![all(0b11, "")])], ("a b", 0b11, ""), allowed(&[1], 0b11, "*"));
    // They have nothing in common: the most with equal rights, the first ones of as many.
    let apart = |bits| vec![all(bits, ""), deny()];
    let nodes = [(a, apart(0b01)), (b, apart(0b10)), (c, apart(0b10))];
    check(&nodes, ("a b c", 0b11, ""), allowed(&[1, 2], 0b10, "*"));
    check(&nodes, ("a c", 0b11, ""), allowed(&[0], 0b01, "*"));
    check(&nodes, ("c a", 0b11, ""), allowed(&[0], 0b10, "*"));
    check(&nodes, ("a c unknown", 0b11, ""), allowed(&[0], 0b01, "*"));
}

#[test]
fn the_owner_and_the_service_may_do_everything_and_nobody_anything_with_what_is_nobodys() {
    let none = Tokens::default();
    for kind in Kind::ALL {
        let bits = kind.categories().bits();
        let deny = home(&[("", vec![rule(1, kind, Level::All, "", false)])]);
        for asker in [OWNER, COMPONENT] {
            let found = decided(&deny, (kind, asker), &none, ("", bits, ""));
            assert_eq!(found, (allowed(&[0], bits, "*"), vec![]));
        }
        let things = HomeThings::new(
            vec![thing(LAMP, "", None)],
            vec![(node_key(&node("")).into(), rule(1, kind, Level::All, "", true))],
        );
        for (asker, nodes) in [(STRANGER, ""), (OWNER, ""), (COMPONENT, ""), (STRANGER, "other")] {
            assert_eq!(decided(&things, (kind, asker), &none, (nodes, bits, "")), (None, vec![]), "{asker}");
        }
        let asked = Asked {
            kind,
            asker: JidRef::from_normal(STRANGER),
            tokens: &none,
            nodes: &[],
            categories: kind.categories(),
            names: &[],
        };
        assert_eq!(told(&decide(None, COMPONENT, asked)), (None, vec![]));
    }
}

#[test]
fn rules_of_another_kind_jid_domain_or_token_say_nothing() {
    let others = vec![
        rule(1, Kind::Control, Level::All, "", true),
        rule(2, Kind::Read, Level::Jid, "c@x.example", true),
        rule(3, Kind::Read, Level::Domain, "y.example", true),
        rule(4, Kind::Read, Level::User, "u", true),
        rule(5, Kind::Read, Level::Service, "t", true),
    ];
    let tokens = Tokens { user: "t".into(), device: "u".into(), service: "u".into() };
    let found = decided(&home(&[("", others)]), (Kind::Read, STRANGER), &tokens, ("", 1, ""));
    assert_eq!(found, (None, vec![(0, 1, "*".to_owned())]));
}

#[test]
fn more_names_in_rules_than_can_be_told_apart_are_denied() {
    let names: Vec<String> = (0..200).map(|at| format!("n{at}")).collect();
    let many = |from: &str| partial(rule(1, Kind::Read, Level::All, "", true), 1, &names.join(&format!(" {from}")));
    let few = home(&[("", vec![many("")])]);
    let none = Tokens::default();
    let (found, _) = decided(&few, (Kind::Read, STRANGER), &none, ("", 1, ""));
    assert_eq!(found.map(|(_, _, names)| names.split(' ').count()), Some(200));
    let found = decided(&home(&[("", vec![many(""), many("x")])]), (Kind::Read, STRANGER), &none, ("", 1, ""));
    assert_eq!(found, (None, vec![]));
}

#[test]
fn things_are_found_by_all_three_parts_of_a_node() {
    let names: Vec<NodeName> = ["a", "b", ""]
        .iter()
        .flat_map(|id| ["", "s"].map(|source| (id, source)))
        .flat_map(|(id, source)| ["", "p"].map(|partition| (id, source, partition)))
        .map(|(&id, source, partition)| NodeName { id: id.into(), source: source.into(), partition: partition.into() })
        .collect();
    let record = |name: &NodeName| ThingRecord { node: name.clone(), ..thing(LAMP, "", Some(OWNER)) };
    let home = HomeThings::new(names.iter().map(record).collect(), vec![]);
    let find = |name: &NodeName| {
        let NodeName { id, source, partition } = name;
        let node = NodeRef { id: (&**id).into(), source: (&**source).into(), partition: (&**partition).into() };
        home.find(&node).map(HomeThing::node)
    };
    for name in &names {
        assert_eq!(find(name).as_ref(), Some(name));
    }
    assert_eq!(find(&NodeName { id: "c".into(), ..NodeName::default() }), None);
    assert_eq!(find(&NodeName { source: "sa".into(), ..NodeName::default() }), None);
}

#[test]
fn a_thing_with_a_few_rules_takes_little_memory() {
    let rules = (0..10).map(|at| rule(at, Kind::Read, Level::Jid, &format!("friend-{at}@things.example"), true));
    let home = home(&[("", rules.collect())]);
    assert!(home.heap_bytes() < 10 * 100 + 200, "{}", home.heap_bytes());
    let things: Vec<_> = (0..1_000).map(|at| thing(LAMP, &format!("node-{at}"), Some(OWNER))).collect();
    let home = HomeThings::new(things, vec![]);
    assert!(home.heap_bytes() < 1_000 * 150, "{}", home.heap_bytes());
}
