//! A clock on the wall that jumps, as it does when a host is put right or wakes up: what lasts goes on lasting, what is
//! stamped is stamped with the clock as it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use plaza_core::date::DateTime;

use crate::broker::Broker;
use crate::faults::Faults;
use crate::registration::{Key, filled_at, submission};
use crate::scene::Scene;
use crate::wire::Wire;

const HOUR: i64 = 3_600;
/// How far a stamp may be from the clock, on a host under load.
const NEAR: i64 = 60;

/// Now, on a clock that is ahead by so many seconds.
fn now(ahead: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + ahead
}

/// The text between two others.
fn between<'a>(said: &'a str, start: &str, end: &str) -> &'a str {
    let rest = said.split_once(start).unwrap_or_else(|| panic!("no {start} in {said}")).1;
    rest.split_once(end).unwrap().0
}

/// The stamp of a message that waited, in seconds since 1970.
fn stamp(said: &str) -> i64 {
    let text = between(said, "stamp='", "'");
    let stamp = DateTime::parse(text).unwrap_or_else(|| panic!("a date: {text}"));
    stamp.unix_millis() / 1_000
}

/// Writes to who is away, and waits until it is kept.
fn keep(scene: &mut Scene, wire: &mut Wire, to: &str, text: &str) {
    let kept = scene.broker.metric("plaza_offline_kept_total", "");
    wire.send(format!("<message to='{to}@localhost' type='chat'><body>{text}</body></message>"));
    scene.broker.wait("for it to be kept", |broker| broker.metric("plaza_offline_kept_total", "") > kept);
}

#[test]
fn a_clock_that_jumps_ends_nothing_and_stamps_what_comes() {
    let faults = Faults::new();
    let limits = "idle = '60s'\nstuck_timeout = '10s'\nresume_max = '60s'\n\
                  [archive]\nmodes = ['always']\ndefault = 'always'\n[registration]\nclock_skew_max = '10m'";
    let mut scene = Scene::of(Broker::start_with(limits, faults.variables()));
    scene.broker.cli(&["account", "archive", "bert@localhost", "allowed"]);
    let key = Key::create(&scene.broker, 9, &[]);
    let (mut anna, mut bert) =
        (Wire::available(&scene.broker, "anna", "a"), Wire::available(&scene.broker, "bert", "b"));
    let mut cut = Wire::login(&scene.broker, "anna", "cut");
    cut.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>");
    let enabled = cut.until("/>");
    let name = between(&enabled, " id='", "'").to_owned();
    drop(cut);
    scene.broker.wait("to be missed", |broker| broker.metric("plaza_hibernated_sessions", "") == 1);
    keep(&mut scene, &mut anna, "cleo", "before");

    let mut ids = Vec::new();
    for (case, ahead) in [
        ("114 the clock as it was", 0),
        ("114 an hour ahead", HOUR),
        ("114 an hour behind", -HOUR),
        ("114 a step of a second", 1),
        ("114 a night later", 12 * HOUR),
        ("114 put right", 0),
    ] {
        faults.set("clock", &ahead.to_string());
        // Timers of a tick, of a second and of the watchdog have come and gone.
        for _ in 0..12 {
            scene.undisturbed(case);
            std::thread::sleep(Duration::from_millis(100));
        }
        // Sessions are there, and what they write is archived in order, each under an id of its own.
        for _ in 0..3 {
            anna.send("<message to='bert@localhost/b' type='chat'><body>hello</body></message>");
            let said = bert.until("</message>");
            ids.push(between(&said, "<stanza-id xmlns='urn:xmpp:sid:0' by='bert@localhost' id='", "'").to_owned());
        }
        let said = [anna.ping(), bert.ping()].concat();
        scene.check(case, said.is_empty(), &format!("sessions were told {said}"));
        // The clock is told as it is, and signatures are judged by it.
        let said = anna.ask("get", "localhost", "<time xmlns='urn:xmpp:time'/>");
        let told = DateTime::parse(between(&said, "<utc>", "</utc>")).expect("a date").unix_millis() / 1_000;
        let off = told - now(ahead);
        scene.check(case, off.abs() < NEAR, &format!("the time is told {off} seconds off"));
        for (case, signed_at, expected) in [
            (format!("{case}: signed an hour ago"), ahead - HOUR, "<iq type='error' id='account'…<bad-request "),
            (format!("{case}: signed in an hour"), ahead + HOUR, "<iq type='error' id='account'…<bad-request "),
            (format!("{case}: signed now"), ahead, "<iq type='result' id='account' "),
        ] {
            let mut device = Wire::open(scene.broker.plain);
            let form = filled_at(&mut device, &key, &format!("sensor{}", ids.len()), now(signed_at));
            device.send(submission(&form));
            scene.note(&case, &device.until("</iq>"), expected);
        }
        // Who was away gets what was kept for it, stamped with the clock of then.
        keep(&mut scene, &mut anna, "cleo", case);
        let mut cleo = Wire::login(&scene.broker, "cleo", "c");
        cleo.send("<presence/>");
        if ahead == 0 && ids.len() == 3 {
            scene.note(case, &cleo.until("</message>"), "<body>before</body>");
        }
        let said = cleo.until("</message>");
        scene.note(case, &said, &format!("<body>{case}</body>"));
        let off = stamp(&said) - now(ahead);
        scene.check(case, off.abs() < NEAR, &format!("the stamp is {off} seconds off"));
        cleo.send("</stream:stream>");
        cleo.drain();
        // What is kept at one time is there at the other.
        keep(&mut scene, &mut anna, "dora", case);
    }
    scene.check("114 archive ids", ids.is_sorted_by(|one, next| one < next), &format!("they grow: {ids:?}"));
    let said = bert.ask("set", "", "<query xmlns='urn:xmpp:mam:2'/>");
    scene.check("114 archive", said.contains(&format!("<count>{}</count>", ids.len())), &said);
    let mut dora = Wire::login(&scene.broker, "dora", "d");
    dora.send("<presence/>");
    let kept: String = (0..6).map(|_| dora.until("</message>")).collect();
    scene.note(
        "114 kept before the clock jumped",
        &kept,
        "an hour ahead…an hour behind…a step…a night later…put right",
    );

    let mut back = Wire::authenticated(&scene.broker, "anna");
    back.begin();
    back.send(format!("<resume xmlns='urn:xmpp:sm:3' previd='{name}' h='0'/>"));
    scene.note("114 a session that was cut off before", &back.until("/>"), "<resumed ");
    back.send("</stream:stream>");
    back.drain();
    drop((anna, bert, dora));
    scene.close();
}

#[test]
fn what_has_its_time_has_it_whatever_the_clock_says() {
    let faults = Faults::new();
    let mut scene = Scene::of(Broker::start_with("stuck_timeout = '2s'\nresume_max = '3s'", faults.variables()));
    for (case, ahead) in [("114 an hour behind", -HOUR), ("114 an hour ahead", HOUR)] {
        let mut slow = Wire::available(&scene.broker, "anna", "slow");
        let mut cut = Wire::login(&scene.broker, "bert", "cut");
        cut.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>");
        cut.until("/>");
        slow.ping();
        slow.send("<message to='bert@localhost'><body>");
        drop(cut);
        scene.broker.wait("to be missed", |broker| broker.metric("plaza_hibernated_sessions", "") == 1);
        let begun = std::time::Instant::now();
        faults.set("clock", &ahead.to_string());
        let said = slow.drain();
        scene.note(case, &said, "<stream:error><connection-timeout …");
        let after = begun.elapsed();
        scene.check(case, after > Duration::from_secs(1), &format!("an element was given {after:?}"));
        scene.broker.wait("to expire", |broker| broker.metric("plaza_hibernated_sessions", "") == 0);
        let after = begun.elapsed();
        scene.check(case, after > Duration::from_secs(2), &format!("a session was kept for {after:?}"));
    }
    scene.close();
}
