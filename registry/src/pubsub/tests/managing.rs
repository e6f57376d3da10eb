//! What owners do about others.

use super::*;

fn affiliation(entity: &str, word: &str) -> String {
    format!("<affiliation jid='{entity}' affiliation='{word}'/>")
}

fn affiliations(node: &str, entries: &[String]) -> String {
    format!("<affiliations node='{node}'>{}</affiliations>", entries.concat())
}

fn subscription(entity: &str, word: &str) -> String {
    format!("<subscription jid='{entity}' subscription='{word}'/>")
}

fn subscriptions(node: &str, entries: &[String]) -> String {
    format!("<subscriptions node='{node}'>{}</subscriptions>", entries.concat())
}

#[test]
fn affiliations_are_changed_by_owners_section_8_9() {
    let world = World::service();
    world.node("a", &[]);
    let (f, h) = ("francisco@denmark.lit", "horatio@denmark.lit");
    let set = affiliations("a", &[affiliation(f, "publisher"), affiliation(FRANCISCO, "none"), String::new()]);
    assert_eq!(world.owner_set(HAMLET, &set).text, "modify bad-request");
    let set =
        affiliations("a", &[affiliation(f, "publisher"), affiliation(h, "member"), "<affiliation jid='x@y'/>".into()]);
    assert_eq!(world.owner_set(HAMLET, &set).text, "");
    let listed =
        affiliations("a", &[affiliation(f, "publisher"), affiliation(OWNER, "owner"), affiliation(h, "member")]);
    assert_eq!(world.owner_get(HAMLET, "<affiliations node='a'/>").text, listed);
    for (caller, payload, expected) in [
        (FRANCISCO, affiliations("a", &[affiliation(f, "owner")]), "auth forbidden"),
        (HAMLET, affiliations("x", &[affiliation(f, "owner")]), "cancel item-not-found"),
        (HAMLET, affiliations("a", &[affiliation(f, "king")]), "modify bad-request"),
        (HAMLET, affiliations("a", &[affiliation("@@", "owner")]), "modify bad-request invalid-jid"),
        (HAMLET, affiliations("a", &["<affiliation affiliation='owner'/>".into()]), "modify bad-request jid-required"),
        (HAMLET, "<affiliations/>".to_owned(), "modify bad-request nodeid-required"),
    ] {
        assert_eq!(world.owner_set(caller, &payload).text, expected, "{payload}");
    }
    assert_eq!(world.owner_get(FRANCISCO, "<affiliations node='a'/>").text, "auth forbidden");
    // §8.9.2.4: the only owner stays one; the others change.
    let set = affiliations("a", &[affiliation(OWNER, "none"), affiliation(h, "none")]);
    let expected = format!("modify not-acceptable {}", affiliations("a", &[affiliation(OWNER, "owner")]));
    assert_eq!(world.owner_set(HAMLET, &set).text, expected);
    let listed = affiliations("a", &[affiliation(f, "publisher"), affiliation(OWNER, "owner")]);
    assert_eq!(world.owner_get(HAMLET, "<affiliations node='a'/>").text, listed);
    // A node may be handed over.
    let set = affiliations("a", &[affiliation(OWNER, "none"), affiliation(h, "owner")]);
    assert_eq!(world.owner_set(HAMLET, &set).text, "");
    assert_eq!(world.owner_get(HAMLET, "<affiliations node='a'/>").text, "auth forbidden");
    assert_eq!(world.owner_get(HORATIO, "<affiliations node='a'/>").text.matches("owner").count(), 1);
}

#[test]
fn an_outcast_loses_its_subscriptions() {
    let world = World::service();
    world.node("a", &[]);
    world.subscribe(FRANCISCO, "a");
    world.set(FRANCISCO, &format!("<subscribe node='a' jid='{FRANCISCO}'/>"));
    let answer = world.owner_set(HAMLET, &affiliations("a", &[affiliation("francisco@denmark.lit", "outcast")]));
    assert_eq!(answer.told.len(), 2);
    assert_eq!(
        answer.told[0],
        "<subscription node='a' jid='francisco@denmark.lit' subscription='none'/> -> francisco@denmark.lit"
    );
    assert!(world.publish(HAMLET, "a", "1").told.is_empty());
    assert_eq!(world.subscribe(FRANCISCO, "a").text, "auth forbidden");
}

#[test]
fn subscriptions_are_changed_by_owners_section_8_8() {
    let world = World::service();
    world.node("a", &[]);
    world.subscribe(FRANCISCO, "a");
    world.affiliated("a", HORATIO, "outcast");
    let f = "francisco@denmark.lit";
    assert_eq!(
        world.owner_get(HAMLET, "<subscriptions node='a'/>").text,
        subscriptions("a", &[subscription(f, "subscribed")])
    );
    let set = subscriptions("a", &[subscription(f, "none"), subscription("bard@shakespeare.lit", "subscribed")]);
    let answer = world.owner_set(HAMLET, &set);
    assert_eq!(answer.text, "");
    assert_eq!(
        answer.told,
        [
            "<subscription node='a' jid='francisco@denmark.lit' subscription='none'/> -> francisco@denmark.lit",
            "<subscription node='a' jid='bard@shakespeare.lit' subscription='subscribed'/> -> bard@shakespeare.lit",
        ]
    );
    assert!(world.publish(HAMLET, "a", "1").told[0].ends_with("-> bard@shakespeare.lit"));
    // §8.8.2.4: what cannot be is named as it is.
    let set = subscriptions(
        "a",
        &[
            subscription(f, "subscribed"),
            subscription("bard@shakespeare.lit", "pending"),
            subscription("horatio@denmark.lit", "subscribed"),
            subscription("x@y", "unconfigured"),
            subscription("z@y", "none"),
        ],
    );
    let answer = world.owner_set(HAMLET, &set);
    let failed = [
        subscription("bard@shakespeare.lit", "subscribed"),
        subscription("horatio@denmark.lit", "none"),
        subscription("x@y", "none"),
    ];
    assert_eq!(answer.text, format!("modify not-acceptable {}", subscriptions("a", &failed)));
    // Subscribed, and told the last item.
    assert_eq!(answer.told.len(), 2);
    for (caller, payload, expected) in [
        (FRANCISCO, subscriptions("a", &[]), "auth forbidden"),
        (HAMLET, subscriptions("x", &[]), "cancel item-not-found"),
        (HAMLET, subscriptions("a", &[subscription(f, "fan")]), "modify bad-request"),
        (HAMLET, subscriptions("a", &[subscription(f, "none"), subscription(f, "none")]), "modify bad-request"),
        (HAMLET, "<subscriptions/>".to_owned(), "modify bad-request nodeid-required"),
    ] {
        assert_eq!(world.owner_set(caller, &payload).text, expected, "{payload}");
    }
    let page = "<subscriptions node='a'/><set xmlns='http://jabber.org/protocol/rsm'><max>1</max></set>";
    let found = world.owner_get(HAMLET, page).text;
    let bard = "bard@shakespeare.lit";
    let set = format!(
        "<set xmlns='http://jabber.org/protocol/rsm'><first>{bard}</first><last>{bard}</last><count>2</count></set>"
    );
    assert_eq!(found, format!("{}{set}", subscriptions("a", &[subscription(bard, "subscribed")])));
    assert_eq!(world.owner_get(FRANCISCO, "<subscriptions node='a'/>").text, "auth forbidden");
}

fn decision(subscriber: &str, allow: &str) -> String {
    form(
        ns::PUBSUB_SUBSCRIBE_AUTHORIZATION,
        &[("pubsub#node", "a"), ("pubsub#subscriber_jid", subscriber), ("pubsub#allow", allow)],
    )
}

#[test]
fn owners_decide_on_who_asks_section_8_6() {
    let world = World::service();
    world.node("a", &[("access_model", "authorize")]);
    world.affiliated("a", HORATIO, "owner");
    world.publish(HAMLET, "a", "1");
    let answer = world.subscribe(FRANCISCO, "a");
    assert_eq!(
        answer.text,
        subscription("francisco@denmark.lit", "pending").replace("<subscription", "<subscription node='a'")
    );
    assert!(answer.told.is_empty());
    let owners: Vec<_> = answer.asked.iter().map(|request| request.to.as_str()).collect();
    assert_eq!(owners, [OWNER, "horatio@denmark.lit"]);
    let [request, ..] = &answer.asked[..] else { panic!() };
    let payload = std::str::from_utf8(&request.payload).unwrap();
    assert!(payload.starts_with("<x xmlns='jabber:x:data' type='form'>") && request.id.starts_with("approve-"));
    assert!(payload.contains("<value>francisco@denmark.lit</value>") && payload.contains("<value>false</value>"));
    assert!(world.publish(HAMLET, "a", "2").told.is_empty());
    assert!(world.get(FRANCISCO, "<items node='a'/>").text.contains("not-subscribed"));

    let f = "francisco@denmark.lit";
    for (caller, form, expected) in [
        (FRANCISCO, decision(f, "1"), "auth forbidden"),
        (HAMLET, decision("bard@shakespeare.lit", "1"), "cancel item-not-found"),
        (HAMLET, decision(f, "perhaps"), "modify not-acceptable"),
        (HAMLET, "<x xmlns='jabber:x:data' type='submit'/>".to_owned(), "modify bad-request"),
        (HAMLET, "<x xmlns='jabber:x:data' type='cancel'/>".to_owned(), ""),
        (HAMLET, form(ns::PUBSUB_SUBSCRIBE_AUTHORIZATION, &[("pubsub#node", "a")]), "modify not-acceptable"),
    ] {
        assert_eq!(world.decided(caller, &form).text, expected, "{form}");
    }
    let answer = world.decided(HORATIO, &decision(f, "true"));
    assert_eq!(answer.text, "");
    assert!(
        answer.told[0].starts_with("<subscription node='a' jid='francisco@denmark.lit' subscription='subscribed'/>")
    );
    assert!(answer.told[1].contains("<item id='2'>"), "{answer:?}");
    assert_eq!(world.publish(HAMLET, "a", "3").told.len(), 1);
    assert!(world.get(FRANCISCO, "<items node='a'/>").text.starts_with("<items node='a'><item"));
    // The other owner comes too late.
    assert_eq!(world.decided(HAMLET, &decision(f, "0")).text, "cancel item-not-found");

    world.subscribe(STRANGER, "a");
    let answer = world.decided(HAMLET, &decision("bard@shakespeare.lit", "0"));
    assert_eq!(
        answer.told,
        ["<subscription node='a' jid='bard@shakespeare.lit' subscription='none'/> -> bard@shakespeare.lit"]
    );
    assert_eq!(world.get(STRANGER, "<subscriptions/>").text, "<subscriptions></subscriptions>");
}

#[test]
fn an_account_that_goes_leaves_nothing_at_the_nodes_of_others() {
    let forget = |world: &World, services: &[Jid]| {
        let francisco = jid("francisco@denmark.lit");
        block_on(forget(&world.config, &world.store, services, francisco.as_jid(), world.now)).unwrap();
    };
    let world = World::service();
    for node in ["theirs", "shared"] {
        world.set(FRANCISCO, &format!("<create node='{node}'/>"));
        world.subscribe(HORATIO, node);
    }
    world.set(HAMLET, "<create node='mine'/>");
    let owners =
        "<affiliations node='shared'><affiliation jid='hamlet@denmark.lit' affiliation='owner'/></affiliations>";
    world.owner_set(FRANCISCO, owners);
    world.subscribe(FRANCISCO, "mine");
    world.subscribe(HORATIO, "mine");
    let member =
        "<affiliations node='mine'><affiliation jid='francisco@denmark.lit' affiliation='member'/></affiliations>";
    world.owner_set(HAMLET, member);
    forget(&world, &[jid(SERVICE)]);
    forget(&world, &[jid(SERVICE)]);
    // What nobody else owns goes, what others own stays without it.
    assert_eq!(world.get(HAMLET, "<items node='theirs'/>").text, "cancel item-not-found");
    for node in ["shared", "mine"] {
        let answer = world.owner_get(HAMLET, &format!("<affiliations node='{node}'/>")).text;
        assert!(answer.contains("hamlet@denmark.lit") && !answer.contains("francisco"), "{answer}");
        assert_eq!(world.publish(HAMLET, node, "1").told.len(), 1);
    }
    let answer = world.owner_get(HAMLET, "<subscriptions node='mine'/>").text;
    assert!(answer.contains("horatio@denmark.lit") && !answer.contains("francisco"), "{answer}");
    for list in ["<affiliations/>", "<subscriptions/>"] {
        let answer = world.get(FRANCISCO, list).text;
        assert!(!answer.contains("node="), "{answer}");
    }
    // Whoever comes under that name has all its nodes before it.
    assert!(world.set(FRANCISCO, "<create node='theirs'/>").text.starts_with("<create"));

    // At the account of somebody in its roster as well.
    let world = World::account();
    world.contact("francisco@denmark.lit", Stands::Both, &[]);
    let (francisco, hamlet) = (jid("francisco@denmark.lit"), jid(OWNER));
    block_on(rosters::update(&world.store, francisco.as_jid(), hamlet.as_jid(), 9, |_| {})).unwrap_err();
    let keys = crate::accounts::NewKeys::derive("pencil", &[1; 32], 1).unwrap();
    block_on(crate::accounts::create(&world.store, francisco.as_jid(), keys, false, 0)).unwrap();
    block_on(rosters::update(&world.store, francisco.as_jid(), hamlet.as_jid(), 9, |_| {})).unwrap();
    world.publish(HAMLET, "n", "1");
    world.subscribe(FRANCISCO, "n");
    assert!(world.publish(HAMLET, "n", "2").told[0].contains("-> francisco@denmark.lit"));
    forget(&world, &[]);
    assert!(!world.publish(HAMLET, "n", "3").told[0].contains("francisco"));
}
