//! Personal eventing (XEP-0163 v1.2.2), private data (XEP-0223 v1.1.1) and public data (XEP-0222 v1.0.1).

use super::*;

const TUNE: &str = "http://jabber.org/protocol/tune";

fn with_options(node: &str, fields: &[(&str, &str)]) -> String {
    format!(
        "<publish node='{node}'><item id='current'><e xmlns='urn:e'/></item></publish><publish-options>{}</publish-options>",
        form(ns::PUBSUB_PUBLISH_OPTIONS, fields)
    )
}

fn last(world: &World, resource: &str, wanted: &[&str]) -> Vec<String> {
    let (facts, resource) = (world.facts(resource), jid(resource));
    let told = last_items(&world.config, &world.store, &world.host, &resource, &facts, wanted, world.now);
    block_on(told).unwrap().into_iter().map(|one| world.told(one)).collect()
}

#[test]
fn an_owners_publication_makes_the_node_section_3() {
    let world = World::account();
    let answer = world.publish(HAMLET, TUNE, "1");
    assert_eq!(answer.text, format!("<publish node='{TUNE}'><item id='1'/></publish>"));
    assert_eq!(answer.told, [format!("{} -> [contacts]", event(TUNE, "1"))]);
    let config = world.owner_get(HAMLET, &format!("<configure node='{TUNE}'/>")).text;
    for (var, value) in
        [("access_model", "presence"), ("max_items", "1"), ("send_last_published_item", "on_sub_and_presence")]
    {
        let field = config.split(&format!("<field var='pubsub#{var}'")).nth(1).unwrap();
        let field = field.split("</field>").next().unwrap().split("<option>").next().unwrap();
        assert!(field.contains(&format!("<value>{value}</value>")), "{var}: {field}");
    }
    world.publish(HAMLET, TUNE, "2");
    assert_eq!(world.ids(TUNE), ["2"]);
    world.contact("francisco@denmark.lit", Stands::From, &[]);
    assert_eq!(world.publish(FRANCISCO, "urn:other", "1").text, "auth forbidden");
    assert_eq!(world.set(FRANCISCO, "<create node='urn:other'/>").text, "auth forbidden");
}

#[test]
fn private_and_public_data_are_published_on_conditions() {
    let world = World::account();
    let private = [("pubsub#persist_items", "true"), ("pubsub#access_model", "whitelist"), ("pubsub#max_items", "max")];
    let answer = world.set(HAMLET, &with_options("urn:private", &private));
    assert_eq!(answer.text, "<publish node='urn:private'><item id='current'/></publish>");
    assert!(answer.told[0].ends_with("-> [owner]"), "{answer:?}");
    assert!(world.set(HAMLET, &with_options("urn:private", &private)).text.starts_with("<publish"));
    world.contact("francisco@denmark.lit", Stands::Both, &[]);
    let read = "<items node='urn:private'/>";
    assert_eq!(world.get(FRANCISCO, read).text, "cancel not-allowed closed-node");
    let public = [("pubsub#persist_items", "true"), ("pubsub#access_model", "open")];
    assert!(world.set(HAMLET, &with_options("urn:public", &public)).text.starts_with("<publish"));
    assert_eq!(world.set(HAMLET, &with_options("urn:private", &public)).text, "cancel conflict precondition-not-met");
    // Open is open to those, too, who know nothing else of the account.
    assert!(world.get(STRANGER, "<items node='urn:public'/>").text.starts_with("<items node='urn:public'><item"));
    assert_eq!(world.get(STRANGER, read).text, "cancel service-unavailable");
}

#[test]
fn strangers_cannot_tell_whether_there_is_a_node_or_an_account() {
    let world = World::account();
    world.publish(HAMLET, TUNE, "1");
    let nobody = World { host: Host::Account(jid("nobody@denmark.lit")), ..World::account() };
    for node in [TUNE, "urn:none"] {
        for (iq_type, ns, payload) in [
            (IqType::Get, ns::PUBSUB, "<items node='N'/>"),
            (IqType::Set, ns::PUBSUB, "<subscribe node='N' jid='bard@shakespeare.lit'/>"),
            (IqType::Set, ns::PUBSUB, "<unsubscribe node='N' jid='bard@shakespeare.lit'/>"),
            (IqType::Get, ns::PUBSUB, "<options node='N' jid='bard@shakespeare.lit'/>"),
            (IqType::Get, ns::PUBSUB, "<default node='N'/>"),
            (IqType::Set, ns::PUBSUB, "<publish node='N'><item id='1'><e xmlns='urn:e'/></item></publish>"),
            (IqType::Set, ns::PUBSUB, "<retract node='N'><item id='1'/></retract>"),
            (IqType::Set, ns::PUBSUB, "<create node='N'/>"),
            (IqType::Get, ns::PUBSUB_OWNER, "<configure node='N'/>"),
            (IqType::Get, ns::PUBSUB_OWNER, "<default/>"),
            (IqType::Set, ns::PUBSUB_OWNER, "<delete node='N'/>"),
            (IqType::Set, ns::PUBSUB_OWNER, "<purge node='N'/>"),
            (IqType::Get, ns::PUBSUB_OWNER, "<affiliations node='N'/>"),
            (IqType::Get, ns::PUBSUB_OWNER, "<subscriptions node='N'/>"),
        ] {
            let payload = wrapped(ns, &payload.replace('N', node));
            for world in [&world, &nobody] {
                assert_eq!(world.raw(STRANGER, iq_type, &payload).text, "cancel service-unavailable", "{payload}");
            }
        }
    }
}

#[test]
fn the_audience_is_who_has_access() {
    let world = World::account();
    for (model, expected) in [
        ("open", "[contacts]"),
        ("presence", "[contacts]"),
        ("roster", "[]"),
        ("authorize", "[owner]"),
        ("whitelist", "[owner]"),
    ] {
        world.node(model, &[("access_model", model), ("roster_groups_allowed", "friends")]);
        let told = world.publish(HAMLET, model, "1").told;
        assert!(told[0].ends_with(&format!("-> {expected}")), "{told:?}");
    }
    world.affiliated("open", FRANCISCO, "outcast");
    let told = world.publish(HAMLET, "open", "2").told;
    assert!(told[0].ends_with("-> [contacts but francisco@denmark.lit]"), "{told:?}");
    // All kinds of events have it.
    assert!(world.owner_set(HAMLET, "<purge node='presence'/>").told[0].ends_with("[contacts]"));
    assert!(world.owner_set(HAMLET, "<delete node='presence'/>").told[0].ends_with("[contacts]"));
    // Who is also subscribed is there by address.
    world.contact("horatio@denmark.lit", Stands::From, &["friends"]);
    world.subscribe(HORATIO, "roster");
    assert!(world.publish(HAMLET, "roster", "2").told[0].ends_with("-> horatio@denmark.lit [horatio@denmark.lit]"));
}

#[test]
fn a_resource_that_comes_is_told_the_last_items_section_4_3_4() {
    let mut world = World::account();
    world.publish(HAMLET, TUNE, "1");
    for (node, model) in [("p", "presence"), ("r", "roster"), ("w", "whitelist"), ("q", "authorize"), ("o", "open")] {
        world.node(node, &[("access_model", model), ("roster_groups_allowed", "friends")]);
        world.publish(HAMLET, node, "1");
    }
    world.node("never", &[("send_last_published_item", "never")]);
    world.node("on_sub", &[("send_last_published_item", "on_sub")]);
    world.node("empty", &[]);
    world.node("brief", &[("item_expire", "1")]);
    ["never", "on_sub", "brief"].iter().for_each(|node| drop(world.publish(HAMLET, node, "1")));
    world.contact("francisco@denmark.lit", Stands::From, &[]);
    world.contact("horatio@denmark.lit", Stands::Both, &["friends"]);
    world.now += 5_000;
    let wanted = ["p", "r", "w", "q", "o", "never", "on_sub", "empty", "brief", "none", "p"];
    let nodes = |resource: &str| -> String {
        let told = last(&world, resource, &wanted);
        assert!(
            told.iter().all(|told| told.ends_with(&format!("-> {resource}")) && told.contains("<delay ")),
            "{told:?}"
        );
        told.iter().map(|told| told.split('\'').nth(1).unwrap()).collect()
    };
    assert_eq!(nodes(HAMLET), "prwqo");
    assert_eq!(nodes(FRANCISCO), "po");
    assert_eq!(nodes(HORATIO), "pro");
    assert_eq!(nodes(STRANGER), "o");
    world.affiliated("p", FRANCISCO, "outcast");
    assert_eq!(last(&world, FRANCISCO, &["p"]), Vec::<String>::new());
    assert!(last(&world, HAMLET, &[TUNE])[0].starts_with(&event(TUNE, "1")));
}

#[test]
fn an_account_is_discovered_as_its_service_section_6() {
    let world = World::account();
    world.publish(HAMLET, TUNE, "1");
    world.node("urn:secret", &[("access_model", "whitelist")]);
    world.contact("francisco@denmark.lit", Stands::From, &[]);
    let items = "<query xmlns='http://jabber.org/protocol/disco#items'/>";
    let nodes =
        |caller| world.raw(caller, IqType::Get, items).text.matches("<item jid='hamlet@denmark.lit' node='").count();
    assert_eq!((nodes(HAMLET), nodes(FRANCISCO)), (2, 1));
    assert_eq!(world.raw(STRANGER, IqType::Get, items).text, "cancel service-unavailable");
    let info = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
    let text = world.raw(FRANCISCO, IqType::Get, info).text;
    assert!(text.contains("<identity category='pubsub' type='pep'/>"), "{text}");
    assert!(text.contains("<feature var='http://jabber.org/protocol/pubsub#auto-create'/>"), "{text}");
    assert!(ACCOUNT_FEATURES.is_sorted());
    let leaf = format!("<query xmlns='http://jabber.org/protocol/disco#info' node='{TUNE}'/>");
    assert!(world.raw(FRANCISCO, IqType::Get, &leaf).text.contains("type='leaf'"));
}

#[test]
fn an_owner_stays_the_owner_of_its_account_and_is_asked() {
    let world = World::account();
    world.node("q", &[("access_model", "authorize")]);
    let own = "<affiliation jid='hamlet@denmark.lit' affiliation='owner'/>";
    let list = format!("<affiliations node='q'>{own}</affiliations>");
    assert_eq!(world.owner_get(HAMLET, "<affiliations node='q'/>").text, list);
    let set = list.replace("'owner'", "'none'");
    assert_eq!(world.owner_set(HAMLET, &set).text, format!("modify not-acceptable {list}"));
    world.contact("francisco@denmark.lit", Stands::From, &[]);
    let asked = world.subscribe(FRANCISCO, "q").asked;
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].to.as_str(), asked[0].from.as_str()), (OWNER, OWNER));
    let affiliations = world.get(HAMLET, "<affiliations/>").text;
    assert_eq!(affiliations, "<affiliations><affiliation node='q' affiliation='owner'/></affiliations>");
}

#[test]
fn an_account_that_goes_takes_its_nodes_along() {
    let world = World::account();
    world.publish(HAMLET, TUNE, "1");
    block_on(crate::accounts::remove(&world.store, jid(OWNER).as_jid())).unwrap();
    let prefix = crate::store::key::pubsub(jid(OWNER).as_jid());
    let left = block_on(world.store.scan(crate::store::Table::PubSub, &prefix, None, 9)).unwrap();
    assert!(left.is_empty());
    // What was under way finds no account any more.
    assert_eq!(world.publish(HAMLET, TUNE, "1").text, "cancel service-unavailable");
}
