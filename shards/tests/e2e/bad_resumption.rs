//! Stream management (XEP-0198) under bad input: what is asked at the wrong time, counts that cannot be, sessions that are
//! another's, and two who want the same one.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::broker::{Broker, PATIENCE};
use crate::managed::{SM, managed, message, resume};
use crate::scene::{Scene, error};
use crate::wire::{HEADER, Wire, bind};

/// Connections that ask for the same session at once.
const RACERS: usize = 6;

#[test]
fn stream_management_at_the_wrong_time_is_refused() {
    let mut scene = Scene::open("");
    let enable = format!("<enable xmlns='{SM}' resume='true'/>");
    let unexpected = "<failed xmlns='urn:xmpp:sm:3'><unexpected-request …</failed>";
    for before_login in [&*enable, &*format!("<resume xmlns='{SM}' h='0' previd='x'/>"), &*format!("<r xmlns='{SM}'/>")]
    {
        scene.refused("71 before login", format!("{HEADER}{before_login}"), &error("unsupported-stanza-type"));
    }
    let mut wire = Wire::authenticated(&scene.broker, "anna");
    wire.begin();
    wire.send(&enable);
    let said = wire.until("</failed>");
    scene.note("71 before bind", &said, unexpected);
    wire.send(bind("r"));
    wire.until("</iq>");
    wire.send(&enable);
    wire.until("<enabled ");
    for again in [&*enable, &*format!("<resume xmlns='{SM}' h='0' previd='x'/>")] {
        wire.send(again);
        let said = wire.until("</failed>");
        scene.note("71 twice", &said, unexpected);
    }
    wire.ping();
    // It ends, rather than wait to be resumed.
    wire.send("</stream:stream>");
    wire.drain();
    scene.ended("71 not enabled", format!("<r xmlns='{SM}'/>"), "unsupported-stanza-type");
    scene.close();
}

#[test]
fn counts_that_cannot_be_end_the_stream_and_lose_nothing() {
    let mut scene = Scene::open("");
    for h in ["2", "1000", "4294967295"] {
        let (mut wire, _) = managed(&scene.broker, "anna", "a");
        wire.send(format!("<a xmlns='{SM}' h='{h}'/>"));
        let said = wire.drain();
        let told = format!(
            "<stream:error><undefined-condition …<handled-count-too-high xmlns='{SM}' h='{h}' send-count='1'/></stream:error></stream:stream>"
        );
        scene.note("72 too much acknowledged", &said, &told);
    }
    for h in ["-1", "many", "4294967296", "", "1.0", "0x1", "99999999999999999999999999"] {
        let (mut wire, name) = managed(&scene.broker, "anna", "a");
        wire.send(format!("<a xmlns='{SM}' h='{h}'/>"));
        let said = wire.drain();
        scene.note("73 no count", &said, &error("bad-format"));
        let mut wire = Wire::authenticated(&scene.broker, "anna");
        wire.begin();
        wire.send(format!("<resume xmlns='{SM}' h='{h}' previd='{name}'/>"));
        let said = wire.drain();
        scene.note("73 no count", &said, &error("bad-format"));
    }

    // Who resumes with such a count does not get the session; whoever is right has it with all that came meanwhile.
    let (cut, name) = managed(&scene.broker, "anna", "b");
    drop(cut);
    scene.broker.wait("to be missed", |broker| broker.metric("plaza_hibernated_sessions", "") == 1);
    let mut other = Wire::available(&scene.broker, "bert", "x");
    other.send(message("anna@localhost/b", "kept"));
    other.ping();
    let (_, said) = resume(&scene.broker, "anna", &name, 1000, "</stream:stream>");
    scene.note(
        "72 too much to resume",
        &said,
        "<undefined-condition …<handled-count-too-high …h='1000' send-count='2'",
    );
    let (mut wire, said) = resume(&scene.broker, "anna", &name, 1, "<body>kept</body></message>");
    scene.note("72 resumed after all", &said, "<resumed …<body>kept</body>");
    wire.send(format!("<a xmlns='{SM}' h='2'/></stream:stream>"));
    wire.drain();
    drop(other);
    scene.close();
}

#[test]
fn a_session_that_is_none_or_anothers_is_not_resumed_and_binding_is_possible() {
    let mut scene = Scene::open("");
    let not_found = "<failed xmlns='urn:xmpp:sm:3'><item-not-found …</failed>";
    let (cut, name) = managed(&scene.broker, "anna", "a");
    drop(cut);
    scene.broker.wait("to be missed", |broker| broker.metric("plaza_hibernated_sessions", "") == 1);
    let long = "A".repeat(4_000);
    for user in ["bert", "cleo", "dora"] {
        for previd in ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "x", "", &long, &name] {
            let (mut wire, said) = resume(&scene.broker, user, previd, 0, "</failed>");
            scene.note("74 not theirs", &said, not_found);
            wire.send(bind("instead"));
            let said = wire.until("</iq>");
            scene.note("74 bound instead", &said, &format!("<jid>{user}@localhost/instead</jid>"));
            wire.ping();
        }
    }
    let mut wire = Wire::authenticated(&scene.broker, "anna");
    wire.begin();
    wire.send(format!("<resume xmlns='{SM}' h='0'/>"));
    let said = wire.drain();
    scene.note("74 no name", &said, &error("bad-format"));
    let (mut wire, said) = resume(&scene.broker, "anna", &name, 1, "/>");
    scene.note("74 the owner", &said, "<resumed …");
    wire.send("</stream:stream>");
    wire.drain();
    // It was closed, so it is over; and so is one whose time has passed.
    let (_, said) = resume(&scene.broker, "anna", &name, 1, "</failed>");
    scene.note("74 closed", &said, not_found);
    scene.close();

    let mut scene = Scene::open("resume_max = '1s'");
    let (cut, name) = managed(&scene.broker, "anna", "a");
    drop(cut);
    for waiting in [1, 0] {
        scene.broker.wait("to expire", |broker| broker.metric("plaza_hibernated_sessions", "") == waiting);
    }
    let (mut wire, said) = resume(&scene.broker, "anna", &name, 1, "</failed>");
    scene.note("74 expired", &said, not_found);
    wire.send(bind("a"));
    let said = wire.until("</iq>");
    scene.note("74 bound again", &said, "<jid>anna@localhost/a</jid>");
    drop(wire);
    scene.close();
}

#[test]
fn of_many_who_resume_at_once_one_has_the_session_and_all_of_it() {
    let mut scene = Scene::open("");
    for (one, other) in scene.pairs() {
        let mut ours = Wire::available(&scene.broker, one, "a");
        let (cut, name) = managed(&scene.broker, other, "b");
        drop(cut);
        scene.broker.wait("to be missed", |broker| broker.metric("plaza_hibernated_sessions", "") == 1);
        let to = format!("{other}@localhost/b");
        for number in 0..10 {
            ours.send(message(&to, &format!("m{number}.")));
        }
        ours.ping();
        let barrier = Barrier::new(RACERS);
        let mut racers: Vec<(Wire, String)> = std::thread::scope(|scope| {
            let racing: Vec<_> = (0..RACERS)
                .map(|_| {
                    scope.spawn(|| {
                        let mut wire = Wire::authenticated(&scene.broker, other);
                        wire.begin();
                        barrier.wait();
                        wire.send(format!("<resume xmlns='{SM}' h='1' previd='{name}'/>"));
                        let said = wire.until_any(&["<resumed ", "<failed ", "<conflict "]);
                        (wire, said)
                    })
                })
                .collect();
            racing.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let end = Instant::now() + PATIENCE;
        while racers.len() > 1 && Instant::now() < end {
            let Some(lost) = (0..racers.len()).find(|&at| racers[at].0.ended()) else { continue };
            let (mut wire, said) = racers.swap_remove(lost);
            let said = said + &wire.drain();
            scene.note("75 displaced", &said, "<stream:error><conflict …</stream:stream>");
        }
        let Some((mut winner, said)) = racers.pop() else { panic!("75 nobody has the session") };
        scene.check("75 one has it", racers.is_empty() && said.contains("<resumed "), &said);
        ours.send(message(&to, "m10."));
        let all = said + &winner.until("<body>m10.</body></message>");
        let mut rest = &*all;
        for number in 0..=10 {
            let body = format!("<body>m{number}.</body>");
            scene.check("75 nothing doubled", all.matches(&body).count() == 1, &all);
            let at = rest.find(&body);
            scene.check("75 nothing lost", at.is_some(), &all);
            rest = &rest[at.unwrap_or(0)..];
        }
        scene.note("75 resumed", &winner.ping(), "");
        winner.send(format!("<a xmlns='{SM}' h='13'/></stream:stream>"));
        winner.drain();
        let mut later = Wire::available(&scene.broker, other, "later");
        scene.check("75 nothing doubled", !later.ping().contains("<message"), "it went on to the account as well");
    }
    scene.close();
}

#[test]
fn who_resumes_while_the_old_connection_lives_takes_over_with_all_that_waits() {
    let mut scene = Scene::open("");
    for (one, other) in scene.pairs() {
        let mut ours = Wire::available(&scene.broker, one, "a");
        let (mut old, name) = managed(&scene.broker, other, "b");
        let to = format!("{other}@localhost/b");
        for text in ["first", "second"] {
            ours.send(message(&to, text));
        }
        old.until("<body>second</body></message>");
        let (mut new, said) = resume(&scene.broker, other, &name, 2, "<body>second</body></message>");
        scene.check("76 taken over", said.contains("<resumed ") && !said.contains("first"), &said);
        let said = old.drain();
        scene.note("76 displaced", &said, "<stream:error><conflict …</stream:stream>");
        ours.send(message(&to, "third"));
        let said = new.until("<body>third</body></message>");
        scene.check("76 goes on", said.matches("<message ").count() == 1, &said);
        // Nobody was told that it left.
        scene.check("76 unseen", ours.ping().is_empty(), "somebody was told");
        new.send(format!("<a xmlns='{SM}' h='4'/></stream:stream>"));
        new.drain();
    }
    scene.close();
}

#[test]
fn a_client_that_never_acknowledges_holds_nobody_up_for_long() {
    const MESSAGES: usize = 200;
    let mut scene = Scene::open("unacknowledged_stanzas_max = 20\nstuck_timeout = '2s'\noffline_messages_max = 1000");
    for (one, other) in scene.pairs() {
        let (mut deaf, name) = managed(&scene.broker, other, "deaf");
        let mut ours = Wire::available(&scene.broker, one, "a");
        for number in 0..MESSAGES {
            ours.send(message(&format!("{other}@localhost/deaf"), &format!("m{number}.")));
        }
        // What follows them is for somebody else, who gets it when the deaf one has had its time.
        let begun = Instant::now();
        ours.send(message("fred@localhost/bystander", "behind"));
        let said = scene.bystander.until("<body>behind</body></message>");
        scene.check("77 behind them", said.matches("<message ").count() == 1, &said);
        scene.check("77 behind them", begun.elapsed() < Duration::from_secs(8), &format!("{:?}", begun.elapsed()));
        let said = deaf.drain();
        scene.note("77 closed", &said, &error("resource-constraint"));
        let had = said.matches("<message ").count();
        scene.check("77 bounded", had <= 4 * 20, &format!("{had} messages unacknowledged"));
        let (_, said) = resume(&scene.broker, other, &name, 1, "</failed>");
        scene.note("77 over", &said, "<item-not-found ");
        // It goes on to the account: each once, in order.
        let mut later = Wire::login(&scene.broker, other, "later");
        later.send("<presence/>");
        let mut got = String::new();
        for number in 0..MESSAGES {
            got.push_str(&later.until("</message>"));
            let last = got.rsplit("<body>").next().unwrap();
            let in_order = last.starts_with(&format!("m{number}."));
            scene.check("77 handed on", in_order, &format!("expected m{number}., got {last}"));
        }
        scene.note("77 handed on", &later.ping(), "");
    }
    scene.close();
}

#[test]
fn a_client_that_always_acknowledges_too_little_is_not_asked_for_ever() {
    let mut scene = Scene::open("unacknowledged_stanzas_max = 20\nstuck_timeout = '1s'");
    let (mut wire, _) = managed(&scene.broker, "anna", "a");
    let mut ours = Wire::available(&scene.broker, "bert", "b");
    let too_little = format!("<a xmlns='{SM}' h='0'/>");
    for number in 0..10 {
        ours.send(message("anna@localhost/a", &format!("m{number}.")));
        let said = wire.until(&format!("<body>m{number}.</body></message>"));
        scene.check("77 too little", said.matches("<r ").count() <= 2, &said);
        for _ in 0..3 {
            wire.send(&too_little);
        }
        let said = wire.ping();
        scene.check("77 too little", said.matches("<r ").count() <= 2, &said);
        wire.send(&too_little);
    }
    // While others wait for it, it is asked once more, and then ends.
    for number in 0..200 {
        ours.send(message("anna@localhost/a", &format!("n{number}.")));
    }
    ours.send(message("fred@localhost/bystander", "behind"));
    let mut asked = 0;
    let mut ended = false;
    while !ended {
        let said = wire.until_any(&["<r xmlns='urn:xmpp:sm:3'/>", "</stream:stream>"]);
        ended = said.contains("<resource-constraint ");
        if !ended {
            asked += 1;
            wire.send(&too_little);
        }
    }
    scene.check("77 too little", asked < 100, &format!("asked {asked} times"));
    scene.bystander.until("<body>behind</body></message>");
    scene.note("77 too little", "", "");
    drop((wire, ours));
    scene.close();
}

#[test]
fn what_was_kept_and_not_acknowledged_comes_again_after_a_restart_and_then_no_more() {
    let mut broker = Broker::start("");
    let pairs = broker.pairs();
    for (one, other) in &pairs {
        let mut ours = Wire::available(&broker, one, "a");
        for number in 0..3 {
            ours.send(message(&format!("{other}@localhost"), &format!("m{number}.")));
        }
        ours.ping();
    }
    broker
        .wait("until all are stored", |broker| broker.metric("plaza_offline_kept_total", "") == 3 * pairs.len() as u64);
    // The broker is killed when it has sent them and before it hears that they arrived: once with a session that can be
    // resumed, once with one that can't.
    for round in 0..2 {
        for (_, other) in &pairs {
            let (mut wire, _) = managed(&broker, other, &format!("r{round}"));
            for number in 0..3 {
                let got = wire.until("</message>");
                let as_kept = got.contains(&format!("<body>m{number}.</body>")) && got.contains("<delay xmlns=");
                assert!(as_kept, "78 killed before it was acknowledged, {round}: {got}");
            }
            assert!(!wire.ping().contains("<message"), "78 more than was kept");
        }
        broker.restart();
    }
    for (_, other) in &pairs {
        let (mut wire, _) = managed(&broker, other, "last");
        wire.until("<body>m2.</body>");
        wire.until("</message>");
        // Presence and three messages.
        wire.send(format!("<a xmlns='{SM}' h='4'/>"));
        wire.ping();
        wire.send("</stream:stream>");
        wire.drain();
    }
    broker.restart_in_order();
    for (_, other) in &pairs {
        let mut wire = Wire::available(&broker, other, "after");
        assert!(!wire.ping().contains("<message"), "78 acknowledged, and sent again");
    }
    broker.stop();
}
