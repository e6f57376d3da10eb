//! Bounds, the store's failures, and changes at once.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::store::StoreError;

fn limited(edit: impl Fn(&mut Limits)) -> World {
    let mut limits = Limits::DEFAULT;
    edit(&mut limits);
    World::of(Host::Service(jid(SERVICE)), limits)
}

#[test]
fn nodes_are_counted_per_creator_and_forgotten_when_deleted() {
    let world = limited(|limits| limits.nodes_max = 2);
    for node in ["a", "b"] {
        world.node(node, &[]);
    }
    let full = "wait resource-constraint max-nodes-exceeded";
    assert_eq!(world.set(HAMLET, "<create node='c'/>").text, full);
    assert_eq!(world.set(FRANCISCO, "<create node='c'/>").text, "<create node='c'/>");
    world.owner_set(HAMLET, "<delete node='a'/>");
    world.node("d", &[]);
    let account = World { config: world.config.clone(), ..World::account() };
    for node in ["a", "b"] {
        account.publish(HAMLET, node, "1");
    }
    assert_eq!(account.publish(HAMLET, "c", "1").text, full);
}

#[test]
fn names_lists_and_texts_have_an_end() {
    let world = limited(|limits| {
        (limits.node_bytes_max, limits.item_bytes_max, limits.batch_max) = (5, 5, 2);
        (limits.groups_max, limits.text_bytes_max, limits.affiliations_max) = (2, 60, 2);
        (limits.items_max, limits.page_max) = (3, 2);
    });
    assert_eq!(world.set(HAMLET, "<create node='toolong'/>").text, "modify not-acceptable");
    world.node("a", &[("max_items", "max")]);
    let long = "x".repeat(61);
    for config in [[("title", &*long)], [("roster_groups_allowed", "a,b,c")], [("max_items", "4")]] {
        assert_eq!(world.configured("a", &config).text, "modify not-acceptable", "{config:?}");
    }
    assert_eq!(world.publish(HAMLET, "a", "toolong").text, "modify not-acceptable");
    let item = |id: u32| format!("<item id='{id}'><e xmlns='urn:e'/></item>");
    let three: String = (0..3).map(item).collect();
    assert_eq!(
        world.set(HAMLET, &format!("<publish node='a'>{three}</publish>")).text,
        "cancel not-allowed max-items-exceeded"
    );
    let gone = "<retract node='a'><item id='1'/><item id='2'/><item id='3'/></retract>";
    assert_eq!(world.set(HAMLET, gone).text, "cancel not-allowed max-items-exceeded");
    let entry = |name: &str| format!("<affiliation jid='{name}@denmark.lit' affiliation='member'/>");
    let all = ["b", "c", "d"].map(entry).concat();
    let set = |entries: &str| world.owner_set(HAMLET, &format!("<affiliations node='a'>{entries}</affiliations>")).text;
    assert_eq!(set(&all), "modify not-acceptable");
    assert_eq!(set(&entry("b")), "");
    let none = "<affiliations node='a'><affiliation jid='c@denmark.lit' affiliation='none'/></affiliations>";
    assert_eq!(set(&entry("c")), format!("modify not-acceptable {none}"));
    // As many as the service keeps, a page at a time.
    (0..5).for_each(|id| drop(world.publish(HAMLET, "a", &id.to_string())));
    assert_eq!(world.ids("a"), ["2", "3"]);
    let ids = "<items node='a'><item id='2'/><item id='3'/><item id='4'/></items>";
    assert_eq!(world.get(HAMLET, ids).text, "modify not-acceptable");
}

#[test]
fn a_megabyte_is_no_payload() {
    let world = World::service();
    world.node("a", &[]);
    let publish = format!("<publish node='a'><item><e xmlns='urn:e'>{}</e></item></publish>", "x".repeat(1 << 20));
    assert_eq!(world.set(HAMLET, &publish).text, "modify not-acceptable payload-too-big");
}

#[test]
fn an_answer_holds_what_fits_and_tells_where_to_go_on() {
    let world = limited(|limits| limits.reply_bytes_max = 300);
    world.node("a", &[]);
    (0..4).for_each(|id| drop(world.publish(HAMLET, "a", &id.to_string())));
    let text = world.get(HAMLET, "<items node='a'/>").text;
    let count = text.matches("<item id=").count();
    assert!((1..4).contains(&count), "{text}");
    assert!(text.contains(&format!("<last>{}</last><count>4</count>", count - 1)), "{text}");
    let recent = world.get(HAMLET, "<items node='a' max_items='3'/>").text;
    assert!(recent.contains("<last>3</last>"), "{recent}");
}

#[test]
fn subscriptions_have_an_end_at_the_node_and_for_the_entity() {
    let world = limited(|limits| {
        (limits.subscribers_max, limits.pending_max, limits.subscriptions_max) = (2, 1, 2);
    });
    world.node("a", &[]);
    world.node("q", &[("access_model", "authorize")]);
    for name in ["b", "c"] {
        assert!(world.subscribe(&format!("{name}@denmark.lit/r"), "a").text.contains("'subscribed'"));
    }
    assert_eq!(world.subscribe(FRANCISCO, "a").text, "wait resource-constraint");
    let set = "<subscriptions node='a'><subscription jid='d@denmark.lit' subscription='subscribed'/></subscriptions>";
    assert!(world.owner_set(HAMLET, set).text.starts_with("modify not-acceptable"));
    assert!(world.subscribe("b@denmark.lit/r", "q").text.contains("'pending'"));
    assert_eq!(world.subscribe("c@denmark.lit/r", "q").text, "wait resource-constraint");
    world.node("d", &[]);
    assert_eq!(world.subscribe("b@denmark.lit/r", "d").text, "wait policy-violation too-many-subscriptions");
}

#[test]
fn recipients_come_in_pages() {
    let check = |count, expected: &[usize]| assert_eq!(pages(count), expected);
    check(RECIPIENTS_PAGE * 2 + 3, &[RECIPIENTS_PAGE, RECIPIENTS_PAGE, 3]);
    check(RECIPIENTS_PAGE, &[RECIPIENTS_PAGE]);
}

/// How many recipients the pages have of a node that so many are subscribed to, a full page being the last if nobody is
/// left.
fn pages(count: usize) -> Vec<usize> {
    let world = limited(|limits| limits.subscriptions_max = 10);
    world.node("a", &[("send_last_published_item", "never")]);
    for index in 0..count {
        world.subscribe(&format!("fan{index}@denmark.lit/r"), "a");
    }
    let caller = jid(HAMLET);
    let payload = wrapped(ns::PUBSUB, &format!("<publish node='a'><item>{}</item></publish>", entry("x")));
    let request =
        Request { host: &world.host, caller: &caller, iq_type: IqType::Set, payload: &payload, unix_millis: NOW };
    let mut reply = block_on(answer(&world.config, &world.store, request, &Facts::default()));
    let mut pages = Vec::new();
    let recipients = &mut reply.notifications[0].recipients;
    while let Some(page) = block_on(recipients.next(&world.store)).unwrap() {
        pages.push(page.len());
        assert_eq!(recipients.has_more(), pages.len() * RECIPIENTS_PAGE < count);
    }
    pages
}

#[test]
fn what_the_store_cannot_do_is_told_and_changes_nothing() {
    let world = World::service();
    world.node("a", &[]);
    for (error, expected) in
        [(StoreError::Busy, "wait resource-constraint"), (StoreError::Failed, "cancel internal-server-error")]
    {
        world.store.refuse(Some(error));
        let caller = jid(HAMLET);
        let payload = wrapped(ns::PUBSUB, "<items node='a'/>");
        let request =
            Request { host: &world.host, caller: &caller, iq_type: IqType::Get, payload: &payload, unix_millis: NOW };
        let reply = block_on(answer(&world.config, &world.store, request, &Facts::default()));
        assert_eq!(world.read(reply).text, expected);
        world.store.refuse(None);
    }
    assert!(world.ids("a").is_empty());
}

/// Several requests of Hamlet's begun at once, the store answering one request after the other.
fn at_once(world: &World, payloads: &[String]) -> Vec<String> {
    let caller = jid(HAMLET);
    let facts = Facts { subscribed: true, groups: Vec::new() };
    world.store.hold();
    let mut running: Vec<_> = payloads
        .iter()
        .map(|payload| {
            let request =
                Request { host: &world.host, caller: &caller, iq_type: IqType::Set, payload, unix_millis: NOW };
            (Box::pin(answer(&world.config, &world.store, request, &facts)), None)
        })
        .collect();
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..100_000 {
        for (future, done) in &mut running {
            if done.is_none()
                && let Poll::Ready(reply) = future.as_mut().poll(&mut context)
            {
                *done = Some(world.read_held(reply));
            }
        }
        if running.iter().all(|(_, done)| done.is_some()) {
            break;
        }
        world.store.release();
    }
    world.store.release_all();
    running.into_iter().map(|(_, done)| done.expect("answered")).collect()
}

impl World {
    /// As [`World::read`], without looking for recipients: the store is held.
    fn read_held(&self, reply: Reply) -> String {
        self.read(Reply { notifications: Vec::new(), ..reply }).text
    }
}

#[test]
fn publications_at_once_are_all_kept_in_turn() {
    let world = World::service();
    world.node("a", &[("max_items", "max")]);
    let payloads: Vec<_> = (0..50)
        .map(|id| wrapped(ns::PUBSUB, &format!("<publish node='a'><item id='{id}'>{}</item></publish>", entry("x"))))
        .collect();
    let answers = at_once(&world, &payloads);
    assert!(answers.iter().all(|answer| answer.starts_with("<publish")), "{answers:?}");
    let ids = world.ids("a");
    let expected: Vec<_> = (0..50).map(|id: u32| id.to_string()).collect();
    assert_eq!(ids, expected);
}

#[test]
fn nodes_created_at_once_do_not_go_beyond_the_limit() {
    let world = limited(|limits| limits.nodes_max = 5);
    let payloads: Vec<_> = (0..20).map(|id| wrapped(ns::PUBSUB, &format!("<create node='{id}'/>"))).collect();
    let answers = at_once(&world, &payloads);
    assert_eq!(answers.iter().filter(|answer| answer.starts_with("<create")).count(), 5, "{answers:?}");
    // One that all want is made once.
    let world = World::service();
    let payloads: Vec<_> = (0..9).map(|_| wrapped(ns::PUBSUB, "<create node='a'/>")).collect();
    let answers = at_once(&world, &payloads);
    assert_eq!(answers.iter().filter(|answer| &**answer == "cancel conflict").count(), 8, "{answers:?}");
}

#[test]
fn another_brokers_change_in_between_is_not_lost() {
    let world = World::service();
    world.node("a", &[]);
    // The same store without the same turns: only the guards keep them apart.
    let other = Config::new(Limits::DEFAULT, vec![jid("denmark.lit")]);
    let (caller, facts) = (jid(HAMLET), Facts::default());
    let publish =
        |id: &str| wrapped(ns::PUBSUB, &format!("<publish node='a'><item id='{id}'>{}</item></publish>", entry("x")));
    let (one, two) = (publish("1"), publish("2"));
    let request =
        |payload| Request { host: &world.host, caller: &caller, iq_type: IqType::Set, payload, unix_millis: NOW };
    world.store.hold();
    let mut first = pin!(answer(&world.config, &world.store, request(&one), &facts));
    let mut second = pin!(answer(&other, &world.store, request(&two), &facts));
    let mut context = Context::from_waker(Waker::noop());
    let (mut one, mut two) = (false, false);
    while !(one && two) {
        one = one || first.as_mut().poll(&mut context).is_ready();
        two = two || second.as_mut().poll(&mut context).is_ready();
        world.store.release();
    }
    world.store.release_all();
    let mut ids = world.ids("a");
    ids.sort();
    assert_eq!(ids, ["1", "2"]);
}
