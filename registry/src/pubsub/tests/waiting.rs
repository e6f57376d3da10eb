//! Requests that wait, sent to an owner again (XEP-0060 §8.7).

use super::*;

fn command(attrs: &str, node: Option<&str>) -> String {
    let form = node.map(|node| {
        let field = format!("<field var='pubsub#node'><value>{node}</value></field>");
        format!("<x xmlns='jabber:x:data' type='submit'>{field}</x>")
    });
    let form = form.unwrap_or_default();
    format!("<command xmlns='{}' node='{}' {attrs}>{form}</command>", ns::COMMANDS, ns::PUBSUB_GET_PENDING)
}

/// Hamlet's nodes: requests wait for two of them.
fn waiting(world: &World) {
    for (node, model) in [("a", "authorize"), ("b", "authorize"), ("c", "authorize"), ("d", "open")] {
        world.node(node, &[("access_model", model)]);
    }
    for (caller, node) in [(FRANCISCO, "a"), (HORATIO, "a"), (FRANCISCO, "b"), (FRANCISCO, "d")] {
        world.subscribe(caller, node);
    }
}

#[test]
fn an_owner_chooses_a_node_and_has_its_requests_again_section_8_7() {
    for world in [World::service(), World::account()] {
        for contact in ["francisco@denmark.lit", "horatio@denmark.lit"] {
            world.contact(contact, Stands::From, &[]);
        }
        waiting(&world);
        let shown = world.raw(HAMLET, IqType::Set, &command("", None));
        assert!(shown.text.contains("status='executing'") && shown.asked.is_empty(), "{}", shown.text);
        let option = |node| format!("<option><value>{node}</value></option>");
        assert!(shown.text.contains(&format!("{}{}</field></x>", option("a"), option("b"))), "{}", shown.text);
        let sent = world.raw(HAMLET, IqType::Set, &command("sessionid='s'", Some("a")));
        assert!(sent.text.contains("sessionid='s' status='completed'"), "{}", sent.text);
        assert!(sent.text.contains("requests sent: 2<"), "{}", sent.text);
        let to: Vec<_> = sent.asked.iter().map(|one| one.to.as_str()).collect();
        assert_eq!(to, [HAMLET, HAMLET]);
        assert_ne!(sent.asked[0].id, sent.asked[1].id);
        let forms = sent.asked.iter().map(|one| String::from_utf8(one.payload.clone()).unwrap());
        for (form, subscriber) in forms.zip(["francisco@denmark.lit", "horatio@denmark.lit"]) {
            assert!(form.contains(ns::PUBSUB_SUBSCRIBE_AUTHORIZATION) && form.contains(subscriber), "{form}");
            let answer = form.replace("type='form'", "type='submit'");
            assert_eq!(world.decided(HAMLET, &answer.replace("<value>false<", "<value>1<")).text, "");
        }
        // What is decided waits no more.
        let sent = world.raw(HAMLET, IqType::Set, &command("sessionid='s'", Some("a")));
        assert!(sent.asked.is_empty() && sent.text.contains("requests sent: 0<"), "{}", sent.text);
        let shown = world.raw(HAMLET, IqType::Set, &command("", None)).text;
        assert!(shown.contains(&option("b")) && !shown.contains(&option("a")), "{shown}");
        world.owner_set(HAMLET, "<delete node='b'/>");
        let none = world.raw(HAMLET, IqType::Set, &command("", None)).text;
        assert!(none.contains("status='completed'"), "{none}");
        let canceled = world.raw(HAMLET, IqType::Set, &command("sessionid='s' action='cancel'", None)).text;
        assert!(canceled.contains("status='canceled'"), "{canceled}");
    }
}

#[test]
fn no_more_come_at_once_than_an_answer_has_entries() {
    let world = World::of(Host::Service(jid(SERVICE)), Limits { list_max: 1, ..Limits::DEFAULT });
    waiting(&world);
    let shown = world.raw(HAMLET, IqType::Set, &command("", None)).text;
    assert_eq!(shown.matches("<option>").count(), 1, "{shown}");
    let sent = world.raw(HAMLET, IqType::Set, &command("", Some("a")));
    assert_eq!(sent.asked.len(), 1);
    assert!(sent.text.contains("requests sent: 1; more wait"), "{}", sent.text);
    let sent = world.raw(HAMLET, IqType::Set, &command("", Some("b")));
    assert!(sent.text.contains("requests sent: 1<"), "{}", sent.text);
}

#[test]
fn who_may_not_decide_is_refused_section_8_7_3() {
    let world = World::service();
    waiting(&world);
    for (caller, payload, expected) in [
        (FRANCISCO, command("", None), "auth forbidden"),
        (FRANCISCO, command("", Some("a")), "auth forbidden"),
        (HAMLET, command("", Some("x")), "cancel item-not-found"),
        (HAMLET, command("", None).replace("get-pending", "get-all"), "cancel item-not-found"),
    ] {
        let answer = world.raw(caller, IqType::Set, &payload);
        assert_eq!((&*answer.text, answer.asked.len()), (expected, 0), "{payload}");
    }
    assert_eq!(world.raw(HAMLET, IqType::Get, &command("", None)).text, "cancel feature-not-implemented");
    let account = World::account();
    waiting(&account);
    for payload in [command("", None), command("", Some("a")), command("", Some("x")), command("action='x'", None)] {
        assert_eq!(account.raw(STRANGER, IqType::Set, &payload).text, "cancel service-unavailable", "{payload}");
    }
}

#[test]
fn the_command_is_found_by_who_has_it() {
    let world = World::service();
    waiting(&world);
    let query = |caller, kind: &str, node: &str| {
        let query = format!("<query xmlns='http://jabber.org/protocol/disco#{kind}' node='{node}'/>");
        world.raw(caller, IqType::Get, &query).text
    };
    let item = format!("<item jid='{SERVICE}' node='{}' ", ns::PUBSUB_GET_PENDING);
    assert!(query(HAMLET, "items", ns::COMMANDS).contains(&item));
    assert!(!query(FRANCISCO, "items", ns::COMMANDS).contains("<item "));
    assert!(query(FRANCISCO, "info", ns::COMMANDS).contains("type='command-list'"));
    assert!(query(HAMLET, "info", ns::PUBSUB_GET_PENDING).contains("type='command-node'"));
    assert_eq!(query(FRANCISCO, "info", ns::PUBSUB_GET_PENDING), "auth forbidden");
    for node in [ns::COMMANDS, ns::PUBSUB_GET_PENDING] {
        assert_eq!(world.set(HAMLET, &format!("<create node='{node}'/>")).text, "modify not-acceptable");
    }
}
