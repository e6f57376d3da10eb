//! Every edge of a thing's life, the legal ones and the others.

use plaza_core::iot::Generation;
use plaza_core::jid::Jid;
use plaza_core::thing::wire::{Style, TAG_BYTES_MAX, TAGS_MAX, Tags};
use plaza_core::thing::{NodeName, Tag, TagValue};

use super::super::life::{Event, Next, Notice, Refused, Said, step};
use super::super::{Pending, State, ThingRecord};
use crate::testing::jid;

fn text(name: &str, value: &str) -> Tag {
    Tag { name: name.into(), value: TagValue::Str(value.into()) }
}

fn number(name: &str, value: f64) -> Tag {
    Tag { name: name.into(), value: TagValue::Num(value) }
}

fn tags(list: &[Tag], key: Option<&str>) -> Tags {
    Tags { list: list.to_vec(), key: key.map(Box::from) }
}

struct People {
    lamp: Jid,
    owner: Jid,
    other: Jid,
    node: NodeName,
}

impl People {
    fn new() -> Self {
        let [lamp, owner, other] = ["lamp@x.example", "owner@x.example", "other@x.example"].map(jid);
        Self { lamp, owner, other, node: NodeName::default() }
    }

    fn step(&self, before: Option<&ThingRecord>, event: Event<'_>) -> Result<(Next, Said), Refused> {
        step(before, (&self.lamp, &self.node), event, 7)
    }

    /// The state that legal events lead to, one after another.
    fn after(&self, events: &[Event<'_>]) -> Option<ThingRecord> {
        let mut thing = None;
        for event in events {
            thing = match self.step(thing.as_ref(), *event).unwrap().0 {
                Next::Same => thing,
                Next::Is(thing) => Some(*thing),
                Next::Gone => None,
            };
        }
        thing
    }
}

/// A state in a word.
fn word(state: &State) -> &'static str {
    match state {
        State::Unclaimed => "unclaimed",
        State::SelfOwned => "self-owned",
        State::Claimed { removed: true, .. } => "removed",
        State::Claimed { public: true, .. } => "public",
        State::Claimed { public: false, .. } => "private",
    }
}

#[test]
fn every_event_in_every_state_has_its_outcome() {
    let people = People::new();
    let (set, wrong) = (tags(&[text("SN", "1")], Some("k")), tags(&[text("SN", "1")], Some("l")));
    let style = Style::default();
    let (owner, other) = (people.owner.as_jid(), people.other.as_jid());
    let register = Event::Register { self_owned: false, tags: &set, style };
    let keep = Event::Register { self_owned: true, tags: &set, style };
    let claim = |owner, public, tags| Event::Claim { owner, public, tags, id: 1 };
    let change = tags(&[text("NAME", "x")], None);
    let events = [
        ("register", register),
        ("self-own", keep),
        ("claim", claim(&people.owner, true, &set)),
        ("claim privately", claim(&people.owner, false, &set)),
        ("claim wrongly", claim(&people.other, true, &wrong)),
        ("claim as other", claim(&people.other, true, &set)),
        ("assign", Event::Assign { owner: &people.owner, public: true, id: 1 }),
        ("update", Event::Update { tags: &change, style }),
        ("owner updates", Event::UpdateBy { owner, tags: &change }),
        ("other updates", Event::UpdateBy { owner: other, tags: &change }),
        ("owner removes", Event::Remove { owner }),
        ("other removes", Event::Remove { owner: other }),
        ("owner disowns", Event::Disown { owner, claim: None }),
        ("other disowns", Event::Disown { owner: other, claim: None }),
        ("unregister", Event::Unregister),
        ("enforce", Event::Enforce(true)),
        ("owner enforces", Event::EnforceBy { owner, enforced: true }),
        ("other enforces", Event::EnforceBy { owner: other, enforced: true }),
    ];
    let claimed = [register, claim(&people.owner, true, &set)];
    let states = [
        ("none", people.after(&[])),
        ("unclaimed", people.after(&[register])),
        ("self-owned", people.after(&[keep])),
        ("public", people.after(&claimed)),
        ("private", people.after(&[register, claim(&people.owner, false, &set)])),
        ("removed", people.after(&[&claimed[..], &[Event::Remove { owner }]].concat())),
        ("disowned", people.after(&[&claimed[..], &[Event::Disown { owner, claim: None }]].concat())),
    ];
    // Rows are the events above, columns the states: what becomes of it, `=` if nothing, `-` if it is refused; and what is
    // said but that it is done, `o` for whose it is and `u` that it is nobody's.
    #[rustfmt::skip]
    let table = [
        ["unclaimed",  "=",           "unclaimed",  "= o",     "= o",     "= o",     "unclaimed"],
        ["self-owned", "self-owned",  "=",          "= o",     "= o",     "= o",     "self-owned"],
        ["-",          "public",      "-",          "=",       "public",  "public",  "-"],
        ["-",          "private",     "-",          "private", "=",       "private", "-"],
        ["-",          "-",           "-",          "-",       "-",       "-",       "-"],
        ["-",          "public",      "-",          "-",       "-",       "-",       "-"],
        ["-",          "public",      "public",     "=",       "public",  "public",  "public"],
        ["-",          "= u",         "self-owned", "public",  "private", "-",       "= u"],
        ["-",          "-",           "-",          "public",  "private", "-",       "-"],
        ["-",          "-",           "-",          "-",       "-",       "-",       "-"],
        ["-",          "-",           "-",          "removed", "removed", "=",       "-"],
        ["-",          "-",           "-",          "-",       "-",       "-",       "-"],
        ["-",          "-",           "-",          "unclaimed", "unclaimed", "unclaimed", "-"],
        ["-",          "-",           "-",          "-",       "-",       "-",       "-"],
        ["=",          "gone",        "gone",       "gone",    "gone",    "gone",    "gone"],
        ["-",          "unclaimed",   "self-owned", "public",  "private", "removed", "unclaimed"],
        ["-",          "-",           "-",          "public",  "private", "removed", "-"],
        ["-",          "-",           "-",          "-",       "-",       "-",       "-"],
    ];
    for ((event_name, event), row) in events.iter().zip(table) {
        for ((state_name, before), expected) in states.iter().zip(row) {
            let found = match people.step(before.as_ref(), *event) {
                Err(Refused::NotFound) => "-".to_owned(),
                Err(Refused::TooManyTags) => "too many tags".to_owned(),
                Ok((next, said)) => {
                    let next = match &next {
                        Next::Same => "=",
                        Next::Gone => "gone",
                        Next::Is(after) => {
                            let version = before.as_ref().map_or(6, |before| before.version);
                            assert_eq!((after.version, after.updated), (version + 1, 7));
                            word(&after.state)
                        }
                    };
                    match said {
                        Said::Done => next.to_owned(),
                        Said::Unowned => format!("{next} u"),
                        Said::Owned { owner, public } => {
                            assert_eq!((&owner, public), (&people.owner, *state_name == "public"));
                            format!("{next} o")
                        }
                    }
                }
            };
            assert_eq!(found, expected, "{event_name}: {state_name}");
        }
    }
}

#[test]
fn a_claim_takes_the_key_away_and_leaves_what_to_tell() {
    let people = People::new();
    let set = tags(&[text("SN", "1"), number("V", 1.0)], Some("k"));
    let register = Event::Register { self_owned: false, tags: &set, style: Style::default() };
    let claim = Event::Claim { owner: &people.owner, public: true, tags: &set, id: 1 };
    let before = people.after(&[register]).unwrap();
    assert!(before.key.is_some() && before.claim.is_none() && !before.pending.any());
    let after = people.after(&[register, claim]).unwrap();
    assert!(after.key.is_none() && after.claim.is_some());
    assert_eq!(after.pending, Pending { claimed: true, removed: false, clear_cache: true, since: after.version });
    assert_eq!(after.tags, before.tags);
    let disowned =
        people.after(&[register, claim, Event::Disown { owner: people.owner.as_jid(), claim: None }]).unwrap();
    assert!(disowned.key.is_none() && disowned.claim.is_none() && disowned.tags.is_empty());
    assert_eq!(disowned.pending, Pending { clear_cache: true, since: disowned.version, ..Pending::default() });
}

#[test]
fn tags_have_to_be_the_same_to_claim() {
    let people = People::new();
    let claims = |registered: &Tags, claimed: &Tags| {
        let register = Event::Register { self_owned: false, tags: registered, style: Style::default() };
        let thing = people.after(&[register]);
        people.step(thing.as_ref(), Event::Claim { owner: &people.owner, public: true, tags: claimed, id: 1 }).is_ok()
    };
    let (sn, v) = (text("SN", "1"), number("V", 1.0));
    let full = tags(&[sn.clone(), v.clone()], Some("k"));
    assert!(claims(&full, &full));
    assert!(claims(&full, &tags(&[v.clone(), text("sn", "1")], Some("k"))));
    for other in [
        tags(&[sn.clone(), v.clone()], None),
        tags(&[sn.clone(), v.clone()], Some("K")),
        tags(std::slice::from_ref(&sn), Some("k")),
        tags(&[sn.clone(), v.clone(), text("X", "")], Some("k")),
        tags(&[sn.clone(), text("V", "1")], Some("k")),
        tags(&[], Some("k")),
    ] {
        assert!(!claims(&full, &other), "{other:?}");
        assert!(!claims(&other, &full), "{other:?}");
    }
    assert!(claims(&tags(std::slice::from_ref(&sn), None), &tags(&[sn], None)));
    assert!(claims(&tags(&[], Some("k")), &tags(&[], Some("k"))));
    // Of which nothing is said, nothing is known.
    assert!(!claims(&tags(&[], None), &tags(&[], None)));
}

#[test]
fn an_update_says_what_changed_and_no_more() {
    let people = People::new();
    let registered = tags(&[text("NAME", "a"), text("ROOM", "b"), number("V", 1.0)], None);
    let register = Event::Register { self_owned: true, tags: &registered, style: Style::default() };
    let check = |changes: &[Tag], expected: &[Tag]| {
        let changes = tags(changes, Some("k"));
        let after = people.after(&[register, Event::Update { tags: &changes, style: Style::default() }]).unwrap();
        assert_eq!(after.tags, expected);
        assert_eq!(after.key, None);
    };
    let (name, room, v) = (text("NAME", "a"), text("ROOM", "b"), number("V", 1.0));
    check(&[], &[name.clone(), room.clone(), v.clone()]);
    check(&[text("name", "c")], &[text("name", "c"), room.clone(), v.clone()]);
    check(&[text("name", "")], &[room.clone(), v.clone()]);
    check(&[text("X", "")], &[name.clone(), room.clone(), v.clone()]);
    check(&[text("V", "")], &[name.clone(), room.clone(), v]);
    check(&[number("V", 2.0), text("Z", "z")], &[name.clone(), room.clone(), number("V", 2.0), text("Z", "z")]);
    check(&[text("V", "two"), number("ROOM", 2.0)], &[name, number("ROOM", 2.0), text("V", "two")]);
}

#[test]
fn updates_do_not_add_up_to_more_than_a_thing_may_say() {
    let people = People::new();
    let many = |from: usize, count: usize| -> Vec<Tag> {
        (from..from + count).map(|n| number(&format!("n{n}"), 1.0)).collect()
    };
    let long = |name: &str| text(name, &"x".repeat(TAG_BYTES_MAX / 2));
    for (registered, change) in [(many(0, TAGS_MAX), many(TAGS_MAX, 1)), (vec![long("a")], vec![long("b")])] {
        let (registered, change) = (tags(&registered, None), tags(&change, None));
        let register = Event::Register { self_owned: true, tags: &registered, style: Style::default() };
        let thing = people.after(&[register]);
        let update = Event::Update { tags: &change, style: Style::default() };
        assert_eq!(people.step(thing.as_ref(), update), Err(Refused::TooManyTags));
    }
}

#[test]
fn what_a_device_acknowledges_is_what_it_was_told() {
    let people = People::new();
    let set = tags(&[text("SN", "1")], Some("k"));
    let owner = people.owner.as_jid();
    let register = Event::Register { self_owned: false, tags: &set, style: Style::default() };
    let claim = Event::Claim { owner: &people.owner, public: true, tags: &set, id: 1 };
    let claimed = people.after(&[register, claim]).unwrap();
    let told = |notice| Event::Acknowledge { notice, version: claimed.version };
    let heard = people.after(&[register, claim, told(Notice::Claimed)]).unwrap().pending;
    assert!(!heard.claimed && heard.clear_cache);
    // It was taken out before it had heard that it was claimed: what it was told is not all.
    let removed = [register, claim, Event::Remove { owner }, told(Notice::Claimed), told(Notice::Removed)];
    let pending = people.after(&removed).unwrap().pending;
    assert!(pending.claimed && pending.removed && pending.clear_cache);
    // An update changes nothing about what it was told.
    let update = Event::Update { tags: &tags(&[text("NAME", "x")], None), style: Style::default() };
    let all = [register, claim, update, told(Notice::Claimed), told(Notice::ClearCache)];
    assert!(!people.after(&all).unwrap().pending.any());
    assert_eq!(people.after(&[told(Notice::Claimed)]), None);
}

#[test]
fn what_a_device_acknowledges_of_a_thing_that_is_gone_says_nothing_of_the_next_of_its_name() {
    let people = People::new();
    let set = tags(&[text("SN", "1")], Some("k"));
    let register = Event::Register { self_owned: false, tags: &set, style: Style::default() };
    let claim = |owner| Event::Claim { owner, public: true, tags: &set, id: 1 };
    let update = Event::Update { tags: &tags(&[text("NAME", "x")], None), style: Style::default() };
    let gone = people.after(&[register, claim(&people.owner), update]).unwrap();
    let at = |before: Option<&ThingRecord>, event| {
        let (next, _) = step(before, (&people.lamp, &people.node), event, 100).unwrap();
        if let Next::Is(after) = next { *after } else { before.unwrap().clone() }
    };
    let anew = at(Some(&at(None, register)), claim(&people.other));
    let heard = at(Some(&anew), Event::Acknowledge { notice: Notice::Claimed, version: gone.version });
    assert!(heard.pending.claimed, "it was told of another owner");
    assert!(!at(Some(&anew), Event::Acknowledge { notice: Notice::Claimed, version: anew.version }).pending.claimed);
}

#[test]
fn the_generations_that_a_device_speaks_are_remembered() {
    let people = People::new();
    let set = tags(&[text("SN", "1")], Some("k"));
    let style = Style::of(Generation::Xsf);
    let register = |style| Event::Register { self_owned: false, tags: &set, style };
    let claim = Event::Claim { owner: &people.owner, public: true, tags: &set, id: 1 };
    let thing = people.after(&[register(Style::default()), claim, register(style)]).unwrap();
    assert_eq!((thing.style, thing.device), (style, None));
    let update = Event::Update { tags: &set, style: Style::of(Generation::Nfi) };
    let thing = people.after(&[register(style), claim, update, Event::Asked(Generation::Ieee)]).unwrap();
    assert_eq!((thing.style.generation, thing.device), (Generation::Nfi, Some(Generation::Ieee)));
}
