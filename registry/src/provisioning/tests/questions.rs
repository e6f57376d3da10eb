use super::*;

const READ: &str = "<canRead xmlns='urn:nf:iot:prov:d:1.0' jid='b@x.example/r' m='true' h='true'/>";

#[test]
fn a_stranger_is_denied_and_the_owner_asked_once_in_the_owners_generation() {
    let mut world = World::new();
    let (answer, tells) = world.ask(LAMP, READ);
    assert_eq!(
        answer,
        "<canReadResponse xmlns='urn:nf:iot:prov:d:1.0' jid='b@x.example/r' m='true' h='true' result='false'/>"
    );
    let tell = only(tells);
    assert_eq!((tell.to.as_str(), tell.from.as_str()), (OWNER, COMPONENT));
    let question = Node::parse(&tell.payload, "").unwrap();
    let key = question.attr("key").unwrap();
    assert_eq!(
        tell.payload,
        format!(
            "<canRead xmlns='urn:nf:iot:prov:o:1.0' jid='lamp@things.example' remoteJid='b@x.example' key='{key}' \
             m='true' h='true'></canRead>"
        )
    );
    assert_eq!(key.len(), 32);
    // Again, with more of it, from another resource, in another generation: the question is open.
    for payload in [
        READ.to_owned(),
        READ.replace("/r", "/other"),
        READ.replace(":nf:", ":nfi:"),
        "<canRead xmlns='urn:xmpp:iot:provisioning' jid='b@x.example' all='true'/>".to_owned(),
    ] {
        assert_eq!(world.ask(LAMP, &payload).1, []);
    }
    assert_eq!(world.all(Table::Questions).len(), 1);
    // A day later the owner is reminded of all that was asked for meanwhile, by the same key, in the owner's words.
    let get = "<getDevices xmlns='urn:ieee:iot:prov:o:1.0'/>";
    world.own(OWNER, IqType::Get, get).unwrap();
    world.now += 24 * HOUR - 1;
    assert_eq!(world.ask(LAMP, READ).1, []);
    world.now += 1;
    let tell = only(world.ask(LAMP, READ).1);
    let head = "<canRead xmlns='urn:ieee:iot:prov:o:1.0' jid='lamp@things.example' remoteJid='b@x.example'";
    assert_eq!(tell.payload, format!("{head} key='{key}' all='true'></canRead>"));
    assert_eq!(world.ask(LAMP, READ).1, []);
}

#[test]
fn each_kind_asker_set_of_tokens_and_node_has_a_question_of_its_own() {
    let world = World::with_tokens("u v");
    let mut keys = BTreeSet::new();
    let mut ask = |kind, attrs: &str, inside: &str, device: &str, questions: usize| {
        let (answer, tells) = world.can(device, kind, attrs, inside);
        assert!(answer.contains("result='false'"), "{answer}");
        assert_eq!(tells.len(), questions, "{attrs}");
        for tell in &tells {
            let question = Node::parse(&tell.payload, "").unwrap();
            assert!(keys.insert(question.attr("key").unwrap().to_owned()));
            assert!(question.children.iter().filter(|child| child.name == "nd").count() <= 1);
        }
        tells
    };
    ask(Kind::Read, "m='true'", "", LAMP, 1);
    ask(Kind::Control, "", "", LAMP, 1);
    ask(Kind::Friend, "", "", LAMP, 1);
    ask(Kind::Friend, "jid='c@x.example'", "", LAMP, 1);
    ask(Kind::Control, &format!("ut='{}'", tokens("u v")), "", LAMP, 1);
    ask(Kind::Control, &format!("ut='{}'", tokens("v u v")), "", LAMP, 0);
    ask(Kind::Control, &format!("st='{}'", tokens("u v")), "", LAMP, 1);
    // One for each node; nobody is asked about what is nobody's or unknown.
    let nodes = "<nd id='1'/><nd id='2'/><nd id='3'/><nd id='4'/><p n='Output'/>";
    let tells = ask(Kind::Control, "", nodes, RACK, 2);
    assert!(tells[0].payload.ends_with("><nd id='1'/><p n='Output'/></canControl>"), "{}", tells[0].payload);
    assert!(tells[1].payload.ends_with("><nd id='2'/><p n='Output'/></canControl>"));
    ask(Kind::Control, "", "", RACK, 0);
    ask(Kind::Read, "m='true'", "<nd id='3'/>", RACK, 0);
}

#[test]
fn what_is_not_claimed_or_unknown_is_denied_and_nobody_is_asked() {
    let world = World::new();
    world.put(&ThingRecord { state: State::SelfOwned, ..thing("self@things.example", "", None) });
    world.put(&thing("new@things.example", "", None));
    for device in ["self@things.example", "new@things.example", "none@things.example"] {
        for kind in Kind::ALL {
            let (answer, tells) = world.can(device, kind, "m='true'", "");
            assert!(answer.contains("result='false'"), "{answer}");
            assert_eq!(tells, []);
        }
    }
    assert!(world.all(Table::Questions).is_empty());
}

#[test]
fn a_curious_stranger_does_not_flood_an_owner_nor_keep_others_from_being_asked_about() {
    let mut world = World::new();
    let about = |world: &World, n: u32, domain: &str| {
        world.can(LAMP, Kind::Friend, &format!("jid='s{n}@{domain}'"), "").1.len()
    };
    let asked = (0..200).map(|n| about(&world, n, "x.example")).sum::<usize>();
    assert_eq!(asked, 60, "within an hour");
    assert_eq!(about(&world, 0, "y.example"), 0);
    world.now += HOUR;
    assert_eq!((60..200).map(|n| about(&world, n, "x.example")).sum::<usize>(), 40, "of one domain");
    assert_eq!((0..200).map(|n| about(&world, n, "y.example")).sum::<usize>(), 20);
    // What has not come up for long is forgotten, and makes room.
    world.now += 31 * 24 * HOUR;
    assert_eq!(about(&world, 999, "x.example"), 1);
    assert_eq!(world.all(Table::Questions).len(), 1);
    world.config.limits.questions_max = 1;
    assert_eq!(about(&world, 0, "z.example"), 0);
}

#[test]
fn a_thing_that_changes_hands_meanwhile_is_not_asked_about() {
    let world = World::new();
    let things = world.home(LAMP);
    let device = jid(LAMP);
    let inquiry = answer(things.as_deref(), device.as_jid(), COMPONENT, READ, (&world.config.proofs, NOW))
        .unwrap()
        .after
        .inquiry
        .unwrap();
    world.put(&thing(LAMP, "", Some("next@things.example")));
    let tells = block_on(ask(&world.config, &world.store, &inquiry, NOW)).unwrap();
    assert_eq!(only(tells).to.as_str(), "next@things.example");
    world.put(&thing(LAMP, "", None));
    assert_eq!(block_on(ask(&world.config, &world.store, &inquiry, NOW + 48 * HOUR)).unwrap(), []);
}

#[test]
fn two_questions_at_once_are_one() {
    let world = World::new();
    let things = world.home(LAMP);
    let device = jid(LAMP);
    let inquiry = answer(things.as_deref(), device.as_jid(), COMPONENT, READ, (&world.config.proofs, NOW))
        .unwrap()
        .after
        .inquiry
        .unwrap();
    let told = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| block_on(ask(&world.config, &world.store, &inquiry, NOW)).unwrap().len()))
            .collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).sum::<usize>()
    });
    assert_eq!((told, world.all(Table::Questions).len()), (1, 1));
}

#[test]
fn how_a_device_speaks_is_noted_with_its_things_once() {
    let world = World::new();
    let ask = |generation: Generation, inside: &str| {
        let ns = Interface::Device.ns(generation);
        let payload = format!("<canControl xmlns='{ns}' jid='{OWNER}'>{inside}</canControl>");
        let device = jid(RACK);
        let seen =
            answer(world.home(RACK).as_deref(), device.as_jid(), COMPONENT, &payload, (&world.config.proofs, NOW))
                .unwrap()
                .after
                .seen;
        if let Some(seen) = &seen {
            block_on(note(&world.store, seen)).unwrap();
        }
        seen.map_or(0, |seen| seen.nodes.len())
    };
    let nodes = "<nd id='1'/><nd id='2'/><nd id='3'/><nd id='unknown'/>";
    assert_eq!(ask(Generation::Nfi, nodes), 3);
    assert_eq!(ask(Generation::Nfi, nodes), 0);
    assert_eq!(ask(Generation::Ieee, "<nd id='2'/>"), 1);
    assert_eq!(ask(Generation::Nfi, ""), 0, "the device itself is no thing");
    let known = ["1", "2", "3"].map(|id| world.thing(RACK, id).device);
    assert_eq!(known, [Some(Generation::Nfi), Some(Generation::Ieee), Some(Generation::Nfi)]);
}
