//! Publishing, retrieving and removing items.

use super::*;

#[test]
fn an_item_is_published_told_and_kept_section_7_1() {
    let world = World::service();
    world.node("a", &[]);
    world.subscribe(FRANCISCO, "a");
    let answer = world.publish(HAMLET, "a", "1");
    assert_eq!(answer.text, "<publish node='a'><item id='1'/></publish>");
    assert_eq!(answer.told, [format!("{} -> francisco@denmark.lit", event("a", "1"))]);
    // The same id again replaces it, and makes it the newest.
    world.publish(HAMLET, "a", "2");
    world.publish(HAMLET, "a", "1");
    assert_eq!(world.ids("a"), ["2", "1"]);
    // One without id gets one.
    let text = world.set(HAMLET, &format!("<publish node='a'><item>{}</item></publish>", entry("x"))).text;
    let id = text.split("<item id='").nth(1).unwrap().split('\'').next().unwrap();
    assert_eq!(id.len(), 32);
    assert_eq!(world.ids("a"), ["2", "1", id]);
}

#[test]
fn payloads_stand_for_themselves_when_they_are_told() {
    let world = World::service();
    world.node("a", &[]);
    world.subscribe(FRANCISCO, "a");
    let payload = "<p:pubsub xmlns:p='http://jabber.org/protocol/pubsub' xmlns:e='urn:e'><p:publish node='a'>\
                   <p:item id='1'><e:entry e:b='&amp;'><c/></e:entry></p:item></p:publish></p:pubsub>";
    let answer = world.raw(HAMLET, IqType::Set, payload);
    assert_eq!(answer.text, "<publish node='a'><item id='1'/></publish>");
    let told = answer.told[0].split("<item id='1'>").nth(1).unwrap().split("</item>").next().unwrap().to_owned();
    let node = Node::parse(&told, "urn:wrong").unwrap();
    assert_eq!((&*node.name, &*node.ns), ("entry", "urn:e"));
    assert_eq!(node.children[0].ns, "jabber:client");
}

#[test]
fn several_items_are_published_all_or_none_section_12_11() {
    let world = World::service();
    world.node("a", &[("max_items", "2")]);
    world.subscribe(FRANCISCO, "a");
    let items = |ids: &[&str]| -> String {
        let item = |id: &&str| format!("<item id='{id}'>{}</item>", entry(id));
        format!("<publish node='a'>{}</publish>", ids.iter().map(item).collect::<String>())
    };
    assert_eq!(world.set(HAMLET, &items(&["1", "2"])).told.len(), 1);
    assert_eq!(world.ids("a"), ["1", "2"]);
    assert_eq!(world.set(HAMLET, &items(&["3", "4", "5"])).text, "cancel not-allowed max-items-exceeded");
    assert_eq!(world.set(HAMLET, &items(&["3", "3"])).text, "modify bad-request");
    assert_eq!(world.ids("a"), ["1", "2"]);
}

#[test]
fn a_publication_that_cannot_be_is_refused_section_7_1_3() {
    let world = World::service();
    world.node("a", &[("type", "urn:e"), ("max_payload_size", "40")]);
    world.node("b", &[("persist_items", "0"), ("deliver_payloads", "0")]);
    world.node("c", &[("deliver_payloads", "0")]);
    let item = |node: &str, inside: &str| format!("<publish node='{node}'><item id='i'>{inside}</item></publish>");
    for (caller, payload, expected) in [
        (FRANCISCO, item("a", "<e xmlns='urn:e'/>"), "auth forbidden"),
        (HAMLET, item("x", "<e xmlns='urn:e'/>"), "cancel item-not-found"),
        (HAMLET, "<publish><item/></publish>".to_owned(), "modify bad-request nodeid-required"),
        (HAMLET, item("a", &entry(&"x".repeat(40))), "modify not-acceptable payload-too-big"),
        (HAMLET, item("a", "<e xmlns='urn:x'/>"), "modify bad-request invalid-payload"),
        (HAMLET, item("a", "<e xmlns='urn:e'/><e xmlns='urn:e'/>"), "modify bad-request invalid-payload"),
        (HAMLET, item("a", ""), "modify bad-request payload-required"),
        (HAMLET, "<publish node='a'/>".to_owned(), "modify bad-request item-required"),
        (HAMLET, item("b", "<e xmlns='urn:e'/>"), "modify bad-request item-forbidden"),
        (HAMLET, "<publish node='a'><thing/></publish>".to_owned(), "modify bad-request"),
        (HAMLET, "<publish node='b'/>".to_owned(), "<publish node='b'></publish>"),
        (HAMLET, item("c", ""), "<publish node='c'><item id='i'/></publish>"),
    ] {
        assert_eq!(world.set(caller, &payload).text, expected, "{payload}");
    }
}

#[test]
fn who_may_publish_is_the_nodes_to_say_section_4_1() {
    let world = World::service();
    for (model, caller, affiliation, allowed) in [
        ("publishers", FRANCISCO, "none", false),
        ("publishers", FRANCISCO, "member", false),
        ("publishers", FRANCISCO, "publisher", true),
        ("publishers", FRANCISCO, "publish-only", true),
        ("publishers", FRANCISCO, "owner", true),
        ("publishers", FRANCISCO, "outcast", false),
        ("subscribers", FRANCISCO, "none", false),
        ("subscribers", HORATIO, "none", true),
        ("open", FRANCISCO, "none", true),
        ("open", FRANCISCO, "outcast", false),
    ] {
        let node = format!("{model}-{caller}-{affiliation}").replace(['@', '/'], "-");
        world.node(&node, &[("publish_model", model), ("itemreply", "publisher")]);
        world.subscribe(HORATIO, &node);
        world.affiliated(&node, caller, affiliation);
        let answer = world.publish(caller, &node, "1");
        assert_eq!(answer.text.starts_with("<publish"), allowed, "{node}: {}", answer.text);
        if allowed {
            // §7.1.2.3: who has an affiliation is known by its account, anyone else by its resource.
            let publisher = if affiliation == "none" { jid(caller) } else { jid(caller).bare() };
            assert!(answer.told[0].contains(&format!(" publisher='{publisher}'")), "{answer:?}");
        }
    }
}

#[test]
fn a_full_node_does_what_it_was_told_section_7_1_3_4() {
    let world = World::service();
    for (when_full, notify_retract, answered, told) in [
        ("retract-oldest", "1", "<publish node='N'><item id='2'/></publish>", 2),
        ("retract-oldest", "0", "<publish node='N'><item id='2'/></publish>", 1),
        ("discard-oldest", "1", "<publish node='N'><item id='2'/></publish>", 1),
        ("reject", "1", "cancel conflict node-full", 0),
    ] {
        let node = format!("{when_full}{notify_retract}");
        world.node(&node, &[("max_items", "1"), ("publish_node_full", when_full), ("notify_retract", notify_retract)]);
        world.subscribe(FRANCISCO, &node);
        world.publish(HAMLET, &node, "1");
        let answer = world.publish(HAMLET, &node, "2");
        assert_eq!(answer.text, answered.replace('N', &node));
        assert_eq!(answer.told.len(), told, "{node}");
        assert_eq!(world.ids(&node), [if told == 0 { "1" } else { "2" }]);
        // What is there already can be replaced in any case.
        let again = if told == 0 { "1" } else { "2" };
        assert_eq!(
            world.publish(HAMLET, &node, again).text,
            format!("<publish node='{node}'><item id='{again}'/></publish>")
        );
    }
}

#[test]
fn items_expire_section_12_17() {
    let mut world = World::service();
    world.node("a", &[("item_expire", "10")]);
    world.publish(HAMLET, "a", "1");
    world.now += 9_999;
    world.publish(HAMLET, "a", "2");
    assert_eq!(world.ids("a"), ["1", "2"]);
    world.now += 1;
    assert_eq!(world.ids("a"), ["2"]);
    assert_eq!(world.get(HAMLET, "<items node='a'><item id='1'/></items>").text, "<items node='a'></items>");
    world.now += 10_000;
    assert!(world.subscribe(FRANCISCO, "a").told.is_empty());
    assert!(world.ids("a").is_empty());
    world.publish(HAMLET, "a", "3");
    assert_eq!(world.ids("a"), ["3"]);
}

#[test]
fn what_is_not_kept_is_only_told() {
    let world = World::service();
    world.node("a", &[("persist_items", "0")]);
    world.node("b", &[("deliver_notifications", "0")]);
    world.node("c", &[("deliver_payloads", "0")]);
    for node in ["a", "b", "c"] {
        world.subscribe(FRANCISCO, node);
    }
    assert_eq!(world.publish(HAMLET, "a", "1").told.len(), 1);
    let unsupported = "cancel feature-not-implemented unsupported feature=persistent-items";
    assert_eq!(world.get(HAMLET, "<items node='a'/>").text, unsupported);
    assert_eq!(world.set(HAMLET, "<retract node='a'><item id='1'/></retract>").text, unsupported);
    assert_eq!(world.owner_set(HAMLET, "<purge node='a'/>").text, unsupported);
    assert!(world.publish(HAMLET, "b", "1").told.is_empty());
    assert_eq!(world.ids("b"), ["1"]);
    assert_eq!(
        world.publish(HAMLET, "c", "1").told,
        ["<items node='c'><item id='1'/></items> -> francisco@denmark.lit"]
    );
    assert!(world.get(HAMLET, "<items node='c'/>").text.contains("<entry xmlns='urn:e'>1</entry>"));
}

fn options(fields: &[(&str, &str)]) -> String {
    format!(
        "<publish node='a'><item id='1'><entry xmlns='urn:e'/></item></publish><publish-options>{}</publish-options>",
        form(ns::PUBSUB_PUBLISH_OPTIONS, fields)
    )
}

#[test]
fn a_publication_holds_the_node_to_what_it_takes_it_for_section_7_1_5() {
    let world = World::service();
    world.node("a", &[("access_model", "whitelist")]);
    let not_met = "cancel conflict precondition-not-met";
    for (fields, expected) in [
        (&[("pubsub#access_model", "whitelist")][..], "<publish node='a'><item id='1'/></publish>"),
        (&[("pubsub#access_model", "open")], not_met),
        (&[("pubsub#access_model", "whitelist"), ("pubsub#persist_items", "false")], not_met),
        (&[("pubsub#no_such_field", "1")], not_met),
        (&[("pubsub#access_model", "no-such-model")], not_met),
    ] {
        assert_eq!(world.set(HAMLET, &options(fields)).text, expected, "{fields:?}");
    }
    let bad = "<publish node='a'><item id='1'><e xmlns='urn:e'/></item></publish><publish-options/>";
    assert_eq!(world.set(HAMLET, bad).text, "modify bad-request");
}

#[test]
fn items_are_removed_by_who_may_section_7_2() {
    let world = World::service();
    world.node("a", &[("publish_model", "open")]);
    world.subscribe(HORATIO, "a");
    ["1", "2", "3"].iter().for_each(|id| drop(world.publish(HAMLET, "a", id)));
    world.publish(FRANCISCO, "a", "f");
    let retract = |attrs: &str, item: &str| format!("<retract node='a'{attrs}>{item}</retract>");
    for (caller, payload, expected) in [
        (FRANCISCO, retract("", "<item id='1'/>"), "auth forbidden"),
        (HAMLET, retract("", "<item id='x'/>"), "cancel item-not-found"),
        (HAMLET, retract("", "<item id='1'/><item id='x'/>"), "cancel item-not-found"),
        (HAMLET, retract("", ""), "modify bad-request item-required"),
        (HAMLET, retract("", "<item/>"), "modify bad-request item-required"),
        (HAMLET, "<retract node='b'><item id='1'/></retract>".to_owned(), "cancel item-not-found"),
        (HAMLET, "<retract><item id='1'/></retract>".to_owned(), "modify bad-request nodeid-required"),
    ] {
        assert_eq!(world.set(caller, &payload).text, expected, "{payload}");
    }
    assert_eq!(world.ids("a"), ["1", "2", "3", "f"]);
    let answer = world.set(HAMLET, &retract("", "<item id='1'/>"));
    assert_eq!((&*answer.text, answer.told.len()), ("", 0));
    let answer = world.set(HAMLET, &retract(" notify='true'", "<item id='2'/><item id='2'/>"));
    assert_eq!(answer.told, ["<items node='a'><retract id='2'/></items> -> horatio@denmark.lit"]);
    world.configured("a", &[("notify_retract", "1")]);
    assert_eq!(world.set(FRANCISCO, &retract(" notify='0'", "<item id='f'/>")).told.len(), 1);
    // The last one is the one before again.
    let told = world.subscribe(FRANCISCO, "a").told;
    assert!(told[0].contains("<item id='3'>"), "{told:?}");
}

#[test]
fn a_node_is_purged_by_its_owner_section_8_5() {
    let world = World::service();
    world.node("a", &[]);
    world.subscribe(FRANCISCO, "a");
    world.publish(HAMLET, "a", "1");
    for (caller, payload, expected) in [
        (FRANCISCO, "<purge node='a'/>", "auth forbidden"),
        (HAMLET, "<purge node='b'/>", "cancel item-not-found"),
        (HAMLET, "<purge/>", "modify bad-request nodeid-required"),
    ] {
        assert_eq!(world.owner_set(caller, payload).text, expected, "{payload}");
    }
    assert_eq!(world.owner_set(HAMLET, "<purge node='a'/>").told, ["<purge node='a'/> -> francisco@denmark.lit"]);
    assert!(world.ids("a").is_empty());
    assert!(world.subscribe(HORATIO, "a").told.is_empty());
}

#[test]
fn items_are_retrieved_by_id_by_number_and_by_page_section_6_5() {
    let world = World::service();
    world.node("a", &[]);
    ["1", "2", "3", "4"].iter().for_each(|id| drop(world.publish(HAMLET, "a", id)));
    let ids = |payload: &str| {
        let text = world.get(FRANCISCO, payload).text;
        let ids: Vec<_> =
            text.match_indices("<item id='").map(|(at, start)| text[at + start.len()..][..1].to_owned()).collect();
        let count = text.split("<count>").nth(1).map(|rest| rest.split('<').next().unwrap().to_owned());
        (ids.concat(), count.unwrap_or_default())
    };
    let set = |inside: &str| format!("<items node='a'/><set xmlns='http://jabber.org/protocol/rsm'>{inside}</set>");
    for (payload, expected) in [
        ("<items node='a'/>", ("1234", "")),
        ("<items node='a'><item id='2'/><item id='x'/><item id='4'/></items>", ("24", "")),
        ("<items node='a' max_items='2'/>", ("34", "")),
        ("<items node='a' max_items='1000000000000'/>", ("1234", "")),
        (&*set("<max>2</max>"), ("12", "4")),
        (&*set("<max>2</max><after>2</after>"), ("34", "4")),
        (&*set("<max>1</max><before>3</before>"), ("2", "4")),
        (&*set("<max>3</max><before/>"), ("234", "4")),
        (&*set("<max>0</max>"), ("", "4")),
    ] {
        let (found, count) = ids(payload);
        assert_eq!((&*found, &*count), expected, "{payload}");
    }
    for (payload, expected) in [
        (&*set("<after>'; DROP TABLE items; --</after>"), "cancel item-not-found"),
        (&*set("<max>x</max>"), "modify bad-request"),
        ("<items node='a' max_items='-1'/>", "modify bad-request"),
        ("<items node='b'/>", "cancel item-not-found"),
        ("<items/>", "modify bad-request nodeid-required"),
    ] {
        assert_eq!(world.get(FRANCISCO, payload).text, expected, "{payload}");
    }
}

#[test]
fn who_may_not_read_is_told_why_section_6_5_9() {
    let world = World::service();
    for (model, affiliation, expected) in [
        ("open", "outcast", "auth forbidden"),
        ("open", "publish-only", "auth forbidden"),
        ("open", "none", ""),
        ("presence", "none", "auth not-authorized presence-subscription-required"),
        ("presence", "member", ""),
        ("roster", "none", "auth not-authorized not-in-roster-group"),
        ("authorize", "none", "auth not-authorized not-subscribed"),
        ("authorize", "member", ""),
        ("whitelist", "none", "cancel not-allowed closed-node"),
        ("whitelist", "publisher", ""),
    ] {
        let node = format!("{model}-{affiliation}");
        world.node(&node, &[("access_model", model), ("roster_groups_allowed", "friends")]);
        world.affiliated(&node, FRANCISCO, affiliation);
        let expected = match expected {
            "" => format!("<items node='{node}'></items>"),
            error => error.to_owned(),
        };
        assert_eq!(world.get(FRANCISCO, &format!("<items node='{node}'/>")).text, expected);
    }
    // The creator's roster decides.
    world.contact("francisco@denmark.lit", Stands::From, &["friends"]);
    for node in ["presence-none", "roster-none"] {
        assert_eq!(
            world.get(FRANCISCO, &format!("<items node='{node}'/>")).text,
            format!("<items node='{node}'></items>")
        );
    }
}
