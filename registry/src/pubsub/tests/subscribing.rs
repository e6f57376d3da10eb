//! Subscribing, unsubscribing and subscription options.

use super::*;

fn subscribed(node: &str, jid: &str, state: &str) -> String {
    format!("<subscription node='{node}' jid='{jid}' subscription='{state}'/>")
}

#[test]
fn an_entity_subscribes_and_is_told_the_last_item_section_6_1() {
    let world = World::service();
    world.node("a", &[]);
    world.publish(HAMLET, "a", "1");
    let answer = world.subscribe(FRANCISCO, "a");
    assert_eq!(answer.text, subscribed("a", "francisco@denmark.lit", "subscribed"));
    let delay = "<delay xmlns='urn:xmpp:delay' stamp='2026-01-02T03:04:05.000Z'></delay>";
    let [told] = &answer.told[..] else { panic!("{answer:?}") };
    assert!(told.starts_with(&event("a", "1")) && told.ends_with("-> francisco@denmark.lit"), "{told}");
    assert!(told.contains("<delay xmlns='urn:xmpp:delay'") && told.contains("2026-01-02T03:04:05"), "{told} {delay}");
    // Again is as good as once (§6.1.6: an address subscribes once).
    let again = world.subscribe(FRANCISCO, "a");
    assert_eq!((again.text, again.told.len()), (answer.text, 0));
    let full = world.set(FRANCISCO, &format!("<subscribe node='a' jid='{FRANCISCO}'/>"));
    assert_eq!(full.text, subscribed("a", FRANCISCO, "subscribed"));
    let told = world.publish(HAMLET, "a", "2").told;
    assert!(told[0].ends_with("-> francisco@denmark.lit francisco@denmark.lit/barracks"), "{told:?}");
    world.node("b", &[("send_last_published_item", "never")]);
    world.publish(HAMLET, "b", "1");
    assert!(world.subscribe(FRANCISCO, "b").told.is_empty());
}

#[test]
fn a_subscription_that_cannot_be_is_refused_section_6_1_3() {
    let world = World::service();
    world.node("a", &[]);
    world.node("closed", &[("subscribe", "0")]);
    for (node, model) in [("p", "presence"), ("r", "roster"), ("w", "whitelist"), ("q", "authorize")] {
        world.node(node, &[("access_model", model), ("roster_groups_allowed", "friends")]);
    }
    world.node("out", &[]);
    world.affiliated("out", FRANCISCO, "outcast");
    world.subscribe(FRANCISCO, "q");
    let own = |node: &str| format!("<subscribe node='{node}' jid='francisco@denmark.lit'/>");
    for (payload, expected) in [
        ("<subscribe node='a' jid='horatio@denmark.lit'/>".to_owned(), "modify bad-request invalid-jid"),
        ("<subscribe node='a' jid='@@'/>".to_owned(), "modify bad-request invalid-jid"),
        ("<subscribe node='a'/>".to_owned(), "modify bad-request jid-required"),
        ("<subscribe jid='francisco@denmark.lit'/>".to_owned(), "modify bad-request nodeid-required"),
        (own("p"), "auth not-authorized presence-subscription-required"),
        (own("r"), "auth not-authorized not-in-roster-group"),
        (own("w"), "cancel not-allowed closed-node"),
        (own("q"), "auth not-authorized pending-subscription"),
        (own("out"), "auth forbidden"),
        (own("x"), "cancel item-not-found"),
        (own("closed"), "cancel feature-not-implemented unsupported feature=subscribe"),
        (format!("{}<options node='a'/>", own("a")), "modify bad-request"),
    ] {
        assert_eq!(world.set(FRANCISCO, &payload).text, expected, "{payload}");
    }
}

#[test]
fn a_subscription_is_ended_section_6_2() {
    let world = World::service();
    world.node("a", &[]);
    world.subscribe(FRANCISCO, "a");
    for (payload, expected) in [
        ("<unsubscribe node='a' jid='horatio@denmark.lit'/>", "auth forbidden"),
        ("<unsubscribe node='a' jid='francisco@denmark.lit/barracks'/>", "cancel unexpected-request not-subscribed"),
        ("<unsubscribe node='x' jid='francisco@denmark.lit'/>", "cancel item-not-found"),
        ("<unsubscribe node='a'/>", "modify bad-request jid-required"),
    ] {
        assert_eq!(world.set(FRANCISCO, payload).text, expected, "{payload}");
    }
    let payload = "<unsubscribe node='a' jid='francisco@denmark.lit' subid='none'/>";
    assert_eq!(world.set(FRANCISCO, payload).text, subscribed("a", "francisco@denmark.lit", "none"));
    assert_eq!(world.set(FRANCISCO, payload).text, "cancel unexpected-request not-subscribed");
    assert!(world.publish(HAMLET, "a", "1").told.is_empty());
}

fn options(inside: &str, fields: &[(&str, &str)]) -> String {
    format!("<options{inside}>{}</options>", form(ns::PUBSUB_SUBSCRIBE_OPTIONS, fields))
}

#[test]
fn options_are_shown_set_and_heeded_section_6_3() {
    let world = World::service();
    world.node("a", &[]);
    world.subscribe(FRANCISCO, "a");
    let of = " node='a' jid='francisco@denmark.lit'";
    let shown = world.get(FRANCISCO, &format!("<options{of}/>")).text;
    assert!(shown.starts_with(&format!("<options{of}><x xmlns='jabber:x:data' type='form'>")), "{shown}");
    assert_eq!(world.set(FRANCISCO, &options(of, &[("pubsub#deliver", "0")])).text, "");
    assert!(world.publish(HAMLET, "a", "1").told.iter().all(|told| !told.contains("francisco")));
    assert_eq!(world.set(FRANCISCO, &options(of, &[("pubsub#deliver", "1")])).text, "");
    assert_eq!(world.publish(HAMLET, "a", "2").told.len(), 1);
    for (payload, expected) in [
        (options(of, &[("pubsub#deliver", "perhaps")]), "modify bad-request invalid-options"),
        (options(of, &[("pubsub#show-values", "asleep")]), "modify bad-request invalid-options"),
        (options(of, &[("pubsub#expire", "2020-01-01T00:00:00Z")]), "modify bad-request invalid-options"),
        (format!("<options{of}/>"), "modify bad-request invalid-options"),
        (options(" node='a'", &[]), "modify bad-request jid-required"),
        (options(" jid='francisco@denmark.lit'", &[]), "modify bad-request nodeid-required"),
        (options(" node='a' jid='horatio@denmark.lit'", &[]), "auth forbidden"),
        (options(" node='x' jid='francisco@denmark.lit'", &[]), "cancel item-not-found"),
        (options(" node='a' jid='francisco@denmark.lit/barracks'", &[]), "modify unexpected-request not-subscribed"),
    ] {
        assert_eq!(world.set(FRANCISCO, &payload).text, expected, "{payload}");
    }
    let both = format!(
        "<subscribe node='a' jid='horatio@denmark.lit'/>{}",
        options("", &[("pubsub#show-values", "chat,online")])
    );
    let answer = world.set(HORATIO, &both).text;
    assert!(answer.starts_with(&subscribed("a", "horatio@denmark.lit", "subscribed")), "{answer}");
    assert!(answer.contains("<value>chat</value><value>online</value>"), "{answer}");
}

#[test]
fn a_lease_ends_section_12_18() {
    let mut world = World::service();
    world.node("a", &[]);
    let lease = |end: &str| {
        format!("<subscribe node='a' jid='francisco@denmark.lit'/>{}", options("", &[("pubsub#expire", end)]))
    };
    world.set(FRANCISCO, &lease("2026-01-02T03:04:15Z"));
    let shown = world.get(FRANCISCO, "<subscriptions/>").text;
    assert!(shown.contains(" expiry='2026-01-02T03:04:15.000Z'"), "{shown}");
    world.now += 9_999;
    assert_eq!(world.publish(HAMLET, "a", "1").told.len(), 1);
    world.now += 1;
    assert!(world.publish(HAMLET, "a", "2").told.iter().all(|told| !told.contains("francisco")));
    assert_eq!(world.get(FRANCISCO, "<subscriptions/>").text, "<subscriptions></subscriptions>");
    assert_eq!(world.owner_get(HAMLET, "<subscriptions node='a'/>").text, "<subscriptions node='a'></subscriptions>");
    let renewed = world.subscribe(FRANCISCO, "a");
    assert_eq!(renewed.text, subscribed("a", "francisco@denmark.lit", "subscribed"));
}

#[test]
fn everyone_is_told_what_it_has_section_5_6_and_5_7() {
    let world = World::service();
    for node in ["a", "b"] {
        world.node(node, &[("access_model", "authorize")]);
        world.subscribe(FRANCISCO, node);
    }
    world.affiliated("b", FRANCISCO, "publisher");
    let all = world.get(FRANCISCO, "<subscriptions/>").text;
    let pending = |node| subscribed(node, "francisco@denmark.lit", "pending");
    assert_eq!(all, format!("<subscriptions>{}{}</subscriptions>", pending("a"), pending("b")));
    let one = world.get(FRANCISCO, "<subscriptions node='b'/>").text;
    assert_eq!(one, format!("<subscriptions node='b'>{}</subscriptions>", pending("b")));
    let publisher = "<affiliation node='b' affiliation='publisher'/>";
    let owner = |node| format!("<affiliation node='{node}' affiliation='owner'/>");
    for (caller, asked, expected) in [
        (FRANCISCO, "<affiliations/>", publisher.to_owned()),
        (FRANCISCO, "<affiliations node='a'/>", String::new()),
        (FRANCISCO, "<affiliations node='b'/>", publisher.to_owned()),
        (HAMLET, "<affiliations/>", owner("a") + &owner("b")),
        (STRANGER, "<affiliations/>", String::new()),
    ] {
        assert_eq!(world.get(caller, asked).text, format!("<affiliations>{expected}</affiliations>"));
    }
    let page = "<affiliations/><set xmlns='http://jabber.org/protocol/rsm'><max>1</max><after>a</after></set>";
    let found = world.get(HAMLET, page).text;
    let set = "<set xmlns='http://jabber.org/protocol/rsm'><first>b</first><last>b</last></set>";
    assert_eq!(found, format!("<affiliations>{}</affiliations>{set}", owner("b")));
}

#[test]
fn what_was_allowed_once_may_be_no_longer_section_14_3() {
    let world = World::service();
    world.contact("francisco@denmark.lit", Stands::From, &["friends"]);
    world.node("a", &[("access_model", "presence"), ("roster_groups_allowed", "friends")]);
    world.subscribe(FRANCISCO, "a");
    assert_eq!(world.publish(HAMLET, "a", "1").told.len(), 1);
    let reached = |world: &World| world.publish(HAMLET, "a", "2").told.iter().any(|told| told.contains("-> francisco"));
    assert!(reached(&world));
    world.contact("francisco@denmark.lit", Stands::None, &["friends"]);
    assert!(!reached(&world));
    world.configured("a", &[("access_model", "roster")]);
    assert!(!reached(&world));
    world.contact("francisco@denmark.lit", Stands::Both, &["friends"]);
    assert!(reached(&world));
    world.configured("a", &[("access_model", "whitelist")]);
    assert!(!reached(&world));
    world.affiliated("a", FRANCISCO, "member");
    assert!(reached(&world));
}

#[test]
fn whoever_comes_and_goes_between_publications_is_told_from_then_on_and_no_more() {
    let world = World::service();
    world.node("a", &[]);
    let to = |item: &str| {
        let told = world.publish(HAMLET, "a", item).told;
        told.first().map(|told| told.rsplit("->").next().unwrap().trim().to_owned()).unwrap_or_default()
    };
    assert_eq!(to("1"), "");
    world.subscribe(FRANCISCO, "a");
    for item in ["2", "3"] {
        assert_eq!(to(item), "francisco@denmark.lit");
    }
    world.subscribe(HORATIO, "a");
    for item in ["4", "5"] {
        assert_eq!(to(item), "francisco@denmark.lit horatio@denmark.lit");
    }
    world.set(FRANCISCO, "<unsubscribe node='a' jid='francisco@denmark.lit'/>");
    assert_eq!(to("6"), "horatio@denmark.lit");
    world.affiliated("a", HORATIO, "outcast");
    assert_eq!(to("7"), "");
    world.subscribe(FRANCISCO, "a");
    assert_eq!(to("8"), "francisco@denmark.lit");
    world.owner_set(HAMLET, "<delete node='a'/>");
    world.node("a", &[]);
    assert_eq!(to("9"), "");
    // Another node of the same service keeps its own.
    world.node("b", &[]);
    world.subscribe(HORATIO, "b");
    assert_eq!(world.publish(HAMLET, "b", "1").told.len(), 1);
    assert_eq!(to("10"), "");
}
