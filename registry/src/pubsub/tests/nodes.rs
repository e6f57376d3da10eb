//! Creating, configuring, deleting and discovering nodes.

use super::*;

#[test]
fn nodes_are_created_named_or_instant_section_8_1() {
    let world = World::service();
    assert_eq!(world.set(HAMLET, "<create node='a'/>").text, "<create node='a'/>");
    let instant = world.set(HAMLET, "<create/>").text;
    let other = world.set(HAMLET, "<create/><configure/>").text;
    assert!(instant.starts_with("<create node='") && instant.len() == "<create node=''/>".len() + 32, "{instant}");
    assert_ne!(instant, other);
    for (caller, payload, expected) in [
        (HAMLET, "<create node='a'/>", "cancel conflict"),
        (STRANGER, "<create node='b'/>", "auth forbidden"),
        ("denmark.lit", "<create node='b'/>", "auth forbidden"),
        (HAMLET, "<create node='b'/><configure node='b'/>", "modify bad-request"),
        (HAMLET, "<create node='b'/><options/>", "modify bad-request"),
        (HAMLET, "<create node='b'/><configure/><configure/>", "modify bad-request"),
    ] {
        assert_eq!(world.set(caller, payload).text, expected, "{payload}");
    }
}

#[test]
fn a_configuration_that_cannot_be_is_refused_section_8_1_3() {
    let world = World::service();
    for (var, value, expected) in [
        ("access_model", "secret", "modify not-acceptable unsupported-access-model"),
        ("node_type", "collection", "cancel feature-not-implemented unsupported feature=collections"),
        ("max_items", "1000000000000", "modify not-acceptable"),
        ("max_items", "0", "modify not-acceptable"),
        ("max_payload_size", "1000000", "modify not-acceptable"),
        ("persist_items", "perhaps", "modify not-acceptable"),
        ("publish_model", "nobody", "modify not-acceptable"),
    ] {
        let create = format!("<create node='x'/>{}", configure("", &[(var, value)]));
        assert_eq!(world.set(HAMLET, &create).text, expected, "{var}={value}");
    }
    let other = "<create node='x'/><configure><x xmlns='jabber:x:data' type='submit'/></configure>";
    assert_eq!(world.set(HAMLET, other).text, "modify bad-request");
    assert_eq!(world.owner_get(HAMLET, "<configure node='x'/>").text, "cancel item-not-found");
}

#[test]
fn owners_configure_and_others_do_not_section_8_2() {
    let world = World::service();
    world.node("a", &[("title", "Musings"), ("max_items", "3"), ("notify_config", "1")]);
    world.subscribe(FRANCISCO, "a");
    let shown = world.owner_get(HAMLET, "<configure node='a'/>").text;
    assert!(shown.starts_with("<configure node='a'><x xmlns='jabber:x:data' type='form'>"), "{shown}");
    assert!(shown.contains("<value>Musings</value>") && shown.contains("pubsub:integer-or-max"), "{shown}");
    let answer = world.configured("a", &[("title", "Other")]);
    assert_eq!(answer.text, "");
    let [told] = &answer.told[..] else { panic!("{answer:?}") };
    assert!(told.starts_with("<configuration node='a'><x xmlns='jabber:x:data' type='result'>"), "{told}");
    assert!(told.contains("<value>Other</value>") && told.ends_with("-> francisco@denmark.lit"), "{told}");
    // What is not said stays as it is (§8.2.4).
    assert!(world.owner_get(HAMLET, "<configure node='a'/>").text.contains("<value>3</value>"));
    let cancel = "<configure node='a'><x xmlns='jabber:x:data' type='cancel'/></configure>";
    assert_eq!(world.owner_set(HAMLET, cancel).text, "");
    world.configured("a", &[("notify_config", "0")]);
    assert!(world.configured("a", &[("title", "Third")]).told.is_empty());
    for (caller, payload, expected) in [
        (FRANCISCO, "<configure node='a'/>", "auth forbidden"),
        (HAMLET, "<configure node='b'/>", "cancel item-not-found"),
        (HAMLET, "<configure/>", "modify bad-request nodeid-required"),
    ] {
        assert_eq!(world.owner_get(caller, payload).text, expected, "{payload}");
    }
    assert_eq!(world.owner_set(HAMLET, "<configure node='a'/>").text, "modify bad-request");
    let form = configure(" node='a'", &[("title", "Mine")]);
    assert_eq!(world.owner_set(FRANCISCO, &form).text, "auth forbidden");
}

#[test]
fn items_that_a_new_configuration_has_no_room_for_are_gone() {
    let world = World::service();
    world.node("a", &[]);
    ["1", "2", "3", "4"].iter().for_each(|id| drop(world.publish(HAMLET, "a", id)));
    world.configured("a", &[("max_items", "2")]);
    assert_eq!(world.ids("a"), ["3", "4"]);
    world.publish(HAMLET, "a", "5");
    assert_eq!(world.ids("a"), ["4", "5"]);
    world.configured("a", &[("persist_items", "false")]);
    world.configured("a", &[("persist_items", "true")]);
    assert!(world.ids("a").is_empty());
}

#[test]
fn defaults_are_told_section_8_3_and_6_4() {
    let world = World::service();
    let shown = world.owner_get(HAMLET, "<default/>").text;
    assert!(shown.starts_with("<default><x xmlns='jabber:x:data' type='form'>"), "{shown}");
    let collection = world.owner_get(HAMLET, "<default type='collection'/>").text;
    assert_eq!(collection, "cancel feature-not-implemented unsupported feature=collections");
    world.node("a", &[]);
    for payload in ["<default/>", "<default node='a'/>"] {
        let shown = world.get(FRANCISCO, payload).text;
        assert!(shown.starts_with(&payload.replace("/>", "><x xmlns='jabber:x:data' type='result'>")), "{shown}");
    }
    assert_eq!(world.get(FRANCISCO, "<default node='b'/>").text, "cancel item-not-found");
}

#[test]
fn a_node_is_deleted_with_all_it_has_section_8_4() {
    let world = World::service();
    world.node("a", &[]);
    world.publish(HAMLET, "a", "1");
    world.subscribe(FRANCISCO, "a");
    world.affiliated("a", STRANGER, "publisher");
    for (caller, payload, expected) in [
        (FRANCISCO, "<delete node='a'/>", "auth forbidden"),
        (HAMLET, "<delete node='b'/>", "cancel item-not-found"),
        (HAMLET, "<delete/>", "modify bad-request nodeid-required"),
        (HAMLET, "<delete node='a'><redirect/></delete>", "modify bad-request"),
    ] {
        assert_eq!(world.owner_set(caller, payload).text, expected, "{payload}");
    }
    let delete = "<delete node='a'><redirect uri='xmpp:b@denmark.lit?;node=b'/></delete>";
    let answer = world.owner_set(HAMLET, delete);
    assert_eq!(answer.text, "");
    assert_eq!(answer.told, [format!("{delete} -> francisco@denmark.lit")]);
    assert_eq!(world.get(FRANCISCO, "<items node='a'/>").text, "cancel item-not-found");
    assert_eq!(world.get(FRANCISCO, "<subscriptions/>").text, "<subscriptions></subscriptions>");
    assert_eq!(world.get(STRANGER, "<affiliations/>").text, "<affiliations></affiliations>");
    // One of the same name is a new one.
    world.node("a", &[]);
    assert_eq!(world.get(FRANCISCO, "<items node='a'/>").text, "<items node='a'></items>");
    assert_eq!(world.owner_get(HAMLET, "<subscriptions node='a'/>").text, "<subscriptions node='a'></subscriptions>");
    world.configured("a", &[("notify_delete", "0")]);
    world.subscribe(FRANCISCO, "a");
    assert!(world.owner_set(HAMLET, "<delete node='a'/>").told.is_empty());
}

const INFO: &str = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
const ITEMS: &str = "<query xmlns='http://jabber.org/protocol/disco#items'/>";

fn disco(query: &str, node: &str) -> String {
    query.replace("/>", &format!(" node='{node}'/>"))
}

#[test]
fn a_service_and_its_nodes_are_discovered_section_5() {
    let world = World::service();
    let info = world.raw(STRANGER, IqType::Get, INFO).text;
    assert!(info.contains("<identity category='pubsub' type='service'/>"), "{info}");
    for feature in ["pubsub'", "pubsub#publish'", "pubsub#retrieve-items'", "rsm'", "pubsub#publish-options'"] {
        assert!(info.contains(&format!("<feature var='http://jabber.org/protocol/{feature}/>")), "{feature}");
    }
    world.node("a", &[("title", "Musings")]);
    world.node("b", &[]);
    world.node("c", &[("access_model", "whitelist")]);
    let node = |id: &str| format!("<item jid='{SERVICE}' node='{id}'/>");
    let all = world.raw(STRANGER, IqType::Get, ITEMS).text;
    let titled = "<item jid='pubsub.denmark.lit' node='a' name='Musings'/>";
    assert_eq!(all, ITEMS.replace("/>", &format!(">{titled}{}{}</query>", node("b"), node("c"))));
    let page = "<set xmlns='http://jabber.org/protocol/rsm'><max>1</max><after>a</after></set>";
    let second = world.raw(STRANGER, IqType::Get, &ITEMS.replace("/>", &format!(">{page}</query>"))).text;
    let set = "<set xmlns='http://jabber.org/protocol/rsm'><first>b</first><last>b</last><count>3</count></set>";
    assert_eq!(second, ITEMS.replace("/>", &format!(">{}{set}</query>", node("b"))));
    let backwards = ITEMS.replace("/>", "><set xmlns='http://jabber.org/protocol/rsm'><before/></set></query>");
    assert_eq!(world.raw(STRANGER, IqType::Get, &backwards).text, "cancel feature-not-implemented");

    world.affiliated("a", HORATIO, "publisher");
    let leaf = world.raw(STRANGER, IqType::Get, &disco(INFO, "a")).text;
    let meta = |var: &str, kind: &str, value: &str| {
        format!("<field var='pubsub#{var}' type='{kind}'><value>{value}</value></field>")
    };
    assert!(leaf.contains("<identity category='pubsub' type='leaf'/>"), "{leaf}");
    for field in [
        meta("creator", "jid-single", OWNER),
        meta("creation_date", "text-single", "2026-01-02T03:04:05.000Z"),
        meta("title", "text-single", "Musings"),
        meta("access_model", "list-single", "open"),
        meta("max_items", "text-single", "20"),
        meta("owner", "jid-multi", OWNER),
        meta("publisher", "jid-multi", "horatio@denmark.lit"),
        meta("num_subscribers", "text-single", "0"),
    ] {
        assert!(leaf.contains(&field), "{field} in {leaf}");
    }
    for (query, id, expected) in [
        (INFO, "d", "cancel item-not-found"),
        (ITEMS, "d", "cancel item-not-found"),
        (INFO, "c", "cancel not-allowed closed-node"),
        (ITEMS, "c", "cancel not-allowed closed-node"),
    ] {
        assert_eq!(world.raw(STRANGER, IqType::Get, &disco(query, id)).text, expected);
    }
}

#[test]
fn items_are_discovered_a_page_at_a_time_section_5_5() {
    let world = World::service();
    world.node("a", &[]);
    ["1", "2", "3"].iter().for_each(|id| drop(world.publish(HAMLET, "a", id)));
    let all = world.raw(STRANGER, IqType::Get, &disco(ITEMS, "a")).text;
    assert_eq!(all.matches("<item jid='pubsub.denmark.lit' name='").count(), 3);
    let page = "<set xmlns='http://jabber.org/protocol/rsm'><max>1</max><before/></set>";
    let last = world.raw(STRANGER, IqType::Get, &disco(ITEMS, "a").replace("/>", &format!(">{page}</query>"))).text;
    let set =
        "<set xmlns='http://jabber.org/protocol/rsm'><first index='2'>3</first><last>3</last><count>3</count></set>";
    assert!(last.ends_with(&format!("<item jid='pubsub.denmark.lit' name='3'/>{set}</query>")), "{last}");
}

#[test]
fn what_is_no_request_is_refused() {
    let world = World::service();
    for (iq_type, payload, expected) in [
        (IqType::Get, wrapped(ns::PUBSUB, ""), "modify bad-request"),
        (IqType::Get, wrapped(ns::PUBSUB, "<x xmlns='urn:x'/>"), "modify bad-request"),
        (IqType::Get, wrapped(ns::PUBSUB, "<create/>"), "cancel feature-not-implemented"),
        (IqType::Set, wrapped(ns::PUBSUB, "<items node='a'/>"), "cancel feature-not-implemented"),
        (IqType::Set, wrapped(ns::PUBSUB_OWNER, "<publish node='a'/>"), "cancel feature-not-implemented"),
        (IqType::Set, wrapped(ns::PUBSUB, "<retract node='a'/><options/>"), "modify bad-request"),
        (IqType::Set, INFO.to_owned(), "cancel feature-not-implemented"),
        (IqType::Get, "<pubsub xmlns='urn:x'/>".to_owned(), "cancel service-unavailable"),
        (IqType::Get, "<".to_owned(), "modify bad-request"),
    ] {
        assert_eq!(world.raw(HAMLET, iq_type, &payload).text, expected, "{payload}");
    }
}
