//! The configuration read again while the broker serves: what is wrong is applied nowhere, what is right everywhere.

use crate::broker::Broker;
use crate::scene::Scene;
use crate::wire::{Wire, bind};

/// Puts a contact into a session's roster: what the broker says.
fn put(wire: &mut Wire, contact: &str) -> String {
    let id = format!("put-{contact}");
    wire.send(format!(
        "<iq type='set' id='{id}'><query xmlns='jabber:iq:roster'><item jid='{contact}@localhost'/></query></iq>"
    ));
    let mut said = wire.until(&format!("id='{id}'"));
    said.push_str(&wire.until(">"));
    if said.contains("type='error'") {
        said.push_str(&wire.until("</iq>"));
    }
    said
}

/// How often something was logged.
fn logged(broker: &Broker, text: &str) -> usize {
    broker.log().matches(text).count()
}

/// Writes another configuration and says so; waits until the broker has said what came of it.
fn reload(broker: &mut Broker, change: impl FnOnce(&str) -> String, says: &str) {
    let before = logged(broker, says);
    broker.reconfigure(change);
    broker.hang_up();
    broker.wait(&format!("for {says}"), |broker| logged(broker, says) > before);
}

fn failures(broker: &Broker) -> u64 {
    broker.metric("plaza_reload_failures_total", "")
}

#[test]
fn a_limit_that_is_read_again_holds_on_all_shards_for_sessions_old_and_new() {
    let mut scene = Scene::open("roster_items_max = 1");
    let pairs = scene.pairs();
    let mut users: Vec<&str> = pairs.iter().flat_map(|&(one, other)| [one, other]).collect();
    users.sort_unstable();
    users.dedup();
    let mut old: Vec<Wire> = users.iter().map(|user| Wire::available(&scene.broker, user, "old")).collect();
    for wire in &mut old {
        let (first, second) = (put(wire, "x1"), put(wire, "x2"));
        scene.note("117 before", &first, "type='result'");
        scene.note("117 before", &second, "<resource-constraint ");
    }
    let change = |text: &str| {
        text.replace("roster_items_max = 1", "roster_items_max = 2\nidle = '77s'\nconnections_per_shard_max = 99")
            .replace("sessions_per_account_max = 5", "sessions_per_account_max = 2")
    };
    reload(&mut scene.broker, change, "these settings need a restart");
    let log = scene.broker.log();
    let line = log.lines().find(|line| line.contains("limits reloaded")).unwrap_or_default();
    for key in ["limits.idle", "limits.roster_items_max", "limits.sessions_per_account_max"] {
        scene.check("117 reloaded", line.contains(key), &format!("{key} is not in: {line}"));
    }
    let line = log.lines().find(|line| line.contains("need a restart")).unwrap_or_default();
    scene.check("117 restart", line.contains("\"limits.connections_per_shard_max\""), line);
    scene.check("117 reloaded", failures(&scene.broker) == 0, "a failure was counted");
    for (user, wire) in users.iter().zip(&mut old) {
        let (second, third) = (put(wire, "x2"), put(wire, "x3"));
        scene.note("117 a session that was there", &second, "type='result'");
        scene.note("117 a session that was there", &third, "<resource-constraint ");
        let mut new = Wire::authenticated(&scene.broker, user);
        let features = new.begin();
        scene.note("117 a new session", &features, "<idle-seconds>77</idle-seconds>");
        new.send(bind("new"));
        scene.note("117 a new session", &new.until("</iq>"), "<jid>");
        scene.note("117 a new session", &put(&mut new, "x3"), "<resource-constraint ");
        let mut third = Wire::authenticated(&scene.broker, user);
        third.begin();
        third.send(bind("third"));
        scene.note("117 one session more", &third.until("</iq>"), "<resource-constraint ");
        drop((new, third));
    }
    // Sessions that are there stay, however many there may be.
    reload(&mut scene.broker, |text| text.replace("account_max = 2", "account_max = 1"), "sessions_per_account_max\"");
    for wire in &mut old {
        scene.check("117 fewer sessions", wire.ping().is_empty(), "was told something");
    }
    drop(old);
    scene.close();
}

#[test]
fn a_configuration_with_anything_wrong_is_applied_nowhere() {
    let mut scene = Scene::open("roster_items_max = 1");
    let mut old: Vec<Wire> =
        ["anna", "bert", "cleo", "dora"].map(|user| Wire::available(&scene.broker, user, "old")).into();
    for wire in &mut old {
        let said = put(wire, "x1");
        scene.note("117 before", &said, "type='result'");
    }
    let right = std::fs::read_to_string(scene.broker.scratch().join("plaza.toml")).unwrap();
    let other = right.replace("roster_items_max = 1", "roster_items_max = 9");
    let wrong = [
        ("117 out of range", other.replace("stop_deadline = '5s'", "stop_deadline = '5d'"), "limits.stop_deadline"),
        ("117 an unknown key", format!("{other}\nroster_items = 9"), "no such key `roster_items`"),
        ("117 no TOML", format!("{other}\n[["), "line "),
        ("117 half a file", other[..other.len() / 2].to_owned() + "= ", "line "),
        ("117 wrong where a restart is needed", other.replace("shards = 2", "shards = 999"), "shards = 999"),
        ("117 no certificate", other.replace("[metrics]", "[tls]\ncertificate = 'x'\n[metrics]"), "tls.certificate"),
    ];
    let mut refused = 0;
    for (case, text, told) in wrong {
        refused += 1;
        reload(&mut scene.broker, |_| text, "not reloaded");
        scene.check(case, failures(&scene.broker) == refused, "no failure was counted");
        let log = scene.broker.log();
        let line = log.split("not reloaded").last().unwrap_or_default();
        scene.check(case, line.contains(told), &format!("{told} is not in: {line}"));
        for wire in &mut old {
            let said = put(wire, "x2");
            scene.note(case, &said, "<resource-constraint ");
        }
    }
    std::fs::remove_file(scene.broker.scratch().join("plaza.toml")).unwrap();
    let before = logged(&scene.broker, "not reloaded");
    scene.broker.hang_up();
    scene.broker.wait("for a file that is gone", |broker| logged(broker, "not reloaded") > before);
    // The storm: right and wrong in turn, as fast as they go, while others talk.
    for turn in 0..40 {
        let text = if turn % 2 == 0 { &other } else { "roster_items_max = 'many'" };
        scene.broker.reconfigure(|_| text.to_owned());
        scene.broker.hang_up();
        scene.undisturbed("117 meanwhile");
    }
    reload(&mut scene.broker, |_| right.replace("items_max = 1", "items_max = 3"), "limits reloaded");
    for wire in &mut old {
        let said = [put(wire, "x2"), put(wire, "x3"), put(wire, "x4")].concat();
        scene.note("117 in the end", &said, "type='result'…type='result'…<resource-constraint ");
    }
    drop(old);
    scene.close();
}
