//! Accounts that devices create for themselves with an API key, on the stream they then log in on (XEP-0077, XEP-0348);
//! another password, and no account any more.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use plaza_core::ns;
use plaza_core::signed::{self, Fields, sign};
use plaza_core::xml::read::Node;

use crate::broker::{Broker, PASSWORD, USERS};
use crate::managed::{managed, resume};
use crate::scene::Scene;
use crate::tls::any;
use crate::wire::{Wire, auth, nonce};

const GET: &str = "<iq type='get' id='form'><query xmlns='jabber:iq:register'/></iq>";

/// A maker's key.
pub(crate) struct Key {
    id: String,
    secret: String,
}

impl Key {
    pub(crate) fn create(broker: &Broker, accounts: u32, more: &[&str]) -> Self {
        let accounts = accounts.to_string();
        let args = [&["apikey", "create", "ops@maker.example", "--json", "--accounts", &accounts], more].concat();
        let output = broker.try_cli(&args);
        assert!(output.status.success(), "{output:?}");
        let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |field: &str| reply["apikeycreated"][field].as_str().unwrap().to_owned();
        Self { id: text("key"), secret: text("secret") }
    }

    /// How many accounts were created with it, and how many of those there are.
    fn count(&self, broker: &Broker) -> (u64, usize) {
        let json = |args: &[&str]| {
            let output = broker.try_cli(args);
            assert!(output.status.success(), "{output:?}");
            serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
        };
        let shown = json(&["apikey", "show", &self.id, "--json"]);
        let listed = json(&["apikey", "accounts", &self.id, "--json"]);
        let listed = listed["apikeyaccounts"]["accounts"].as_array().unwrap().len();
        (shown["apikey"]["accounts"].as_u64().unwrap(), listed)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The form in an answer, filled in as a device does.
fn fill_in(answer: &str, key: &Key, name: &str, password: &str) -> Fields {
    fill_in_at(answer, key, name, password, now())
}

/// The same at another time.
fn fill_in_at(answer: &str, key: &Key, name: &str, password: &str, now: u64) -> Fields {
    let answer = &answer[answer.find("<iq").unwrap()..];
    let iq = Node::parse(answer, ns::CLIENT).unwrap();
    assert_eq!((iq.attr("type"), iq.attr("from")), (Some("result"), Some("localhost")), "{answer}");
    let mut x = iq.child("query", ns::REGISTER).unwrap().child("x", ns::DATA_FORMS).unwrap().clone();
    x.attrs.iter_mut().find(|(name, _)| name == "type").unwrap().1 = "submit".to_owned();
    Fields::read(&x)
        .unwrap()
        .with("username", name)
        .with("password", password)
        .with(signed::NONCE, &nonce())
        .with(signed::TIMESTAMP, &now.to_string())
        .with(signed::CONSUMER_KEY, &key.id)
}

fn signed(fields: Fields, key: &Key) -> Fields {
    let token_secret = fields.get(signed::TOKEN_SECRET).unwrap().to_owned();
    let signature = sign(&fields, "", (&key.secret, &token_secret)).unwrap();
    fields.with(signed::SIGNATURE, &signature)
}

fn query(fields: &Fields) -> String {
    let field = |(var, value): (&str, &str)| format!("<field var='{var}'><value>{value}</value></field>");
    let fields: String = fields.iter().map(field).collect();
    format!("<query xmlns='jabber:iq:register'><x xmlns='jabber:x:data' type='submit'>{fields}</x></query>")
}

pub(crate) fn submission(fields: &Fields) -> String {
    format!("<iq type='set' id='account'>{}</iq>", query(fields))
}

/// Asks for a form, fills it in and signs it.
fn filled(wire: &mut Wire, key: &Key, name: &str) -> Fields {
    wire.send(GET);
    let answer = wire.until("</iq>");
    signed(fill_in(&answer, key, name, "pencil"), key)
}

/// The same with another time in it.
pub(crate) fn filled_at(wire: &mut Wire, key: &Key, name: &str, now: i64) -> Fields {
    wire.send(GET);
    let answer = wire.until("</iq>");
    signed(fill_in_at(&answer, key, name, "pencil", u64::try_from(now).unwrap()), key)
}

/// A session asks for a form for a lamp, fills it in and signs it.
fn filled_in_session(wire: &mut Wire, key: &Key) -> Fields {
    let form = wire.ask("get", "localhost", "<query xmlns='jabber:iq:register'/>");
    signed(fill_in(&form, key, "lamp", "pencil"), key)
}

/// Registers on a stream that has not logged in; the answer.
fn register(wire: &mut Wire, key: &Key, name: &str) -> String {
    let fields = filled(wire, key, name);
    wire.send(submission(&fields));
    wire.until("</iq>")
}

fn is_result(answer: &str) -> bool {
    answer.contains("<iq type='result' id='account' from='localhost'>")
}

/// One asks for the other's presence, and gets it.
fn subscribe((one, own): (&mut Wire, &str), (other, name): (&mut Wire, &str)) {
    one.send(format!("<presence to='{name}@localhost' type='subscribe'/>"));
    other.until("type='subscribe'");
    other.send(format!("<presence to='{own}@localhost' type='subscribed'/>"));
    one.until("type='subscribed'");
}

/// A stream under TLS, up to its features.
fn secure(broker: &Broker) -> Wire {
    let mut wire = Wire::proceed(broker.starttls).secure(any(), "localhost").unwrap();
    let features = wire.begin();
    assert!(features.contains("<register xmlns='http://jabber.org/features/iq-register'/>"), "{features}");
    wire
}

#[test]
fn a_device_fails_to_log_in_registers_and_logs_in_on_the_same_stream() {
    let mut broker = Broker::start("");
    let key = Key::create(&broker, 20, &[]);
    let mut first = Wire::open(broker.starttls);
    first.send(GET);
    assert!(first.drain().contains("<not-authorized "), "not before TLS");
    // Names enough to be at home on either shard.
    for name in ["sensor1", "sensor2", "sensor3", "sensor4", "sensor5"] {
        let mut wire = secure(&broker);
        let failure = wire.scram(name, "pencil");
        assert!(failure.contains("<not-authorized/>"), "{failure}");
        let answer = register(&mut wire, &key, name);
        assert!(is_result(&answer), "{answer}");
        let success = wire.scram(name, "pencil");
        assert!(success.contains("<success"), "{success}");
        wire.bind(name, "r").ping();

        // A name that was never asked for, on whichever shard the connection came to.
        let other = format!("{name}-b");
        let mut wire = secure(&broker);
        assert!(is_result(&register(&mut wire, &key, &other)));
        assert!(wire.scram(&other, "pencil").contains("<success"));
        wire.bind(&other, "r").ping();
    }
    assert_eq!(key.count(&broker), (10, 10));
    assert_eq!(broker.metric("plaza_registered_accounts_total", ""), 10);

    // It is all there after a broker that was killed.
    broker.restart();
    assert!(Wire::open(broker.plain).scram("sensor3-b", "pencil").contains("<success"));
    assert_eq!(key.count(&broker), (10, 10));
    broker.cli(&["account", "remove", "sensor1@localhost"]);
    assert_eq!(key.count(&broker), (10, 9));
    broker.stop();
}

#[test]
fn who_speaks_sasl2_registers_as_well() {
    let broker = Broker::start("");
    let key = Key::create(&broker, 1, &[]);
    let mut wire = Wire::open(broker.sasl_plain);
    assert!(is_result(&register(&mut wire, &key, "sensor")));
    // NUL "sensor" NUL "pencil"
    wire.send(
        "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>AHNlbnNvcgBwZW5jaWw=\
         </initial-response><bind xmlns='urn:xmpp:bind:0'/></authenticate>",
    );
    assert!(wire.until("</success>").contains("<authorization-identifier>sensor@localhost/"));
    wire.ping();
    drop(wire);
    broker.stop();
}

#[test]
fn what_is_not_signed_as_it_must_be_is_refused() {
    let mut scene = Scene::of(Broker::start("[registration]\nclock_skew_max = '5m'"));
    let key = Key::create(&scene.broker, 9, &[]);
    let other = Key { id: Key::create(&scene.broker, 9, &[]).id, secret: key.secret.clone() };
    let modify = |condition: &str| format!("<iq type='error' id='account'…<error type='modify'><{condition} ");
    type Change = Box<dyn Fn(Fields, &Key) -> Fields>;
    let resigned = |var: &'static str, value: String| -> Change {
        Box::new(move |fields, key| signed(fields.with(var, &value), key))
    };
    let after =
        |var: &'static str, value: &'static str| -> Change { Box::new(move |fields, _| fields.with(var, value)) };
    let cases: Vec<(&str, Change, &str)> = vec![
        ("103 ten minutes late", resigned(signed::TIMESTAMP, (now() - 600).to_string()), "bad-request"),
        ("103 ten minutes early", resigned(signed::TIMESTAMP, (now() + 600).to_string()), "bad-request"),
        ("103 no time at all", resigned(signed::TIMESTAMP, String::new()), "not-acceptable"),
        ("103 plain text", resigned(signed::VERSION, "2.0".into()), "bad-request"),
        ("103 unsigned extra field", after("email", "ops@maker.example"), "bad-request"),
        ("103 another name", after("username", "somebody"), "bad-request"),
        ("103 another token", after(signed::TOKEN, "0"), "bad-request"),
        (
            "103 another key",
            Box::new({
                let id = other.id.clone();
                move |fields, key| signed(fields.with(signed::CONSUMER_KEY, &id), key)
            }),
            "bad-request",
        ),
        ("103 no such key", resigned(signed::CONSUMER_KEY, "nobody".into()), "bad-request"),
        ("103 a method that tells the secret", after(signed::METHOD, "PLAINTEXT"), "bad-request"),
        (
            "103 lower-case escapes",
            Box::new(|fields, _| {
                let signature = fields.get(signed::SIGNATURE).unwrap().replace("%3D", "%3d");
                fields.with(signed::SIGNATURE, &signature)
            }),
            "bad-request",
        ),
        ("103 name", resigned("username", "a,b".into()), "not-acceptable"),
        ("103 password", resigned("password", String::new()), "not-acceptable"),
    ];
    for (case, change, condition) in cases {
        let mut wire = Wire::open(scene.broker.plain);
        let fields = change(filled(&mut wire, &key, "sensor"), &key);
        wire.send(submission(&fields));
        let said = wire.until("</iq>");
        scene.note(case, &said, &modify(condition));
    }
    let mut wire = Wire::open(scene.broker.plain);
    let text = submission(&filled(&mut wire, &key, "sensor"));
    wire.send(
        text.replace("<field var='username'>", "<field var='username'><value>x</value></field><field var='username'>"),
    );
    scene.note("103 duplicate field", &wire.until("</iq>"), &modify("not-acceptable"));

    // The fields in another order are the same form.
    wire = Wire::open(scene.broker.plain);
    let fields = filled(&mut wire, &key, "sensor");
    let mut turned: Vec<_> = fields.iter().collect();
    turned.reverse();
    let turned = turned.into_iter().fold(Fields::default(), |all, (var, value)| all.with(var, value));
    wire.send(submission(&turned));
    scene.note("103 swapped field order", &wire.until("</iq>"), "<iq type='result'");
    // Said again, by who made it and by who heard it.
    wire.send(submission(&fields));
    scene.note("103 replayed on the same stream", &wire.until("</iq>"), &modify("bad-request"));
    wire = Wire::open(scene.broker.plain);
    wire.send(GET);
    wire.until("</iq>");
    wire.send(submission(&fields));
    scene.note("103 replayed on another stream", &wire.until("</iq>"), &modify("bad-request"));
    drop(wire);
    assert_eq!(key.count(&scene.broker), (1, 1));
    scene.close();
}

#[test]
fn whoever_is_refused_hears_it_late_whatever_was_wrong_and_nobody_else_waits() {
    let mut scene = Scene::of(Broker::start("refusal_delay = '1s'"));
    let broker = &scene.broker;
    let (key, full) = (Key::create(broker, 9, &[]), Key::create(broker, 1, &[]));
    broker.cli(&["account", "disable", "cleo@localhost"]);
    assert!(is_result(&register(&mut Wire::open(broker.plain), &full, "lamp1")));
    let once =
        |wire: &mut Wire, name: &str| submission(&signed(filled(wire, &key, name).with(signed::NONCE, "once"), &key));
    let mut wire = Wire::open(broker.plain);
    let form = once(&mut wire, "lamp2");
    wire.send(form);
    assert!(is_result(&wire.until("</iq>")));
    drop(wire);
    let forged = Key { id: key.id.clone(), secret: full.secret.clone() };
    let unknown = Key { id: "nobody".into(), secret: key.secret.clone() };
    let form = |key: &Key, name: &str| {
        let mut wire = Wire::open(broker.plain);
        let form = submission(&filled(&mut wire, key, name));
        (wire, form)
    };
    let replay = || {
        let mut wire = Wire::open(broker.plain);
        let form = once(&mut wire, "lamp3");
        (wire, form)
    };
    let login = |text: &str| (Wire::open(broker.sasl_plain), auth("PLAIN", text));
    let cases = vec![
        ("bad signature", form(&forged, "lamp3"), "<bad-request "),
        ("unknown key", form(&unknown, "lamp3"), "<bad-request "),
        ("replayed", replay(), "<bad-request "),
        ("quota", form(&full, "lamp3"), "<not-allowed "),
        ("name taken", form(&key, "lamp1"), "<conflict "),
        ("wrong password", login("\0anna\0wrong"), "<not-authorized/>"),
        ("unknown user", login("\0nobody\0wrong"), "<not-authorized/>"),
        ("disabled account", login("\0cleo\0open-sesame"), "<account-disabled/>"),
    ];
    let least = Duration::from_secs(1);
    let refused = std::thread::scope(|scope| {
        let asked: Vec<_> = cases
            .into_iter()
            .map(|(case, (mut wire, text), condition)| {
                scope.spawn(move || {
                    let begun = Instant::now();
                    wire.send(text);
                    let said = wire.until_any(&["</iq>", "</failure>"]);
                    (case, begun.elapsed(), said, condition)
                })
            })
            .collect();
        // Meanwhile others are served, and may log in.
        let begun = Instant::now();
        assert!(Wire::open(broker.plain).scram("anna", PASSWORD).contains("<success"));
        assert!(begun.elapsed() < least, "{:?}", begun.elapsed());
        asked.into_iter().map(|asked| asked.join().unwrap()).collect::<Vec<_>>()
    });
    for (case, took, said, condition) in refused {
        scene.check(case, (least..least * 3).contains(&took), &format!("it took {took:?}"));
        scene.note(case, &said, condition);
    }
    // What is said meanwhile waits, and is answered.
    let mut wire = Wire::open(scene.broker.sasl_plain);
    wire.send(auth("PLAIN", "\0anna\0wrong") + &auth("PLAIN", &format!("\0anna\0{PASSWORD}")));
    let said = wire.until("</failure>") + &wire.until_any(&["<success", "</failure>"]);
    scene.note("said meanwhile", &said, "<not-authorized/></failure>…<success");
    drop(wire);
    // Three times is enough.
    let mut wire = Wire::open(scene.broker.plain);
    for _ in 0..3 {
        let said = register(&mut wire, &forged, "lamp3");
        scene.note("103 refused", &said, "<bad-request ");
    }
    wire.send(GET);
    let said = wire.drain();
    scene.note("103 refused too often", &said, "<policy-violation ");
    drop(wire);
    scene.close();
}

#[test]
fn whoever_has_logged_in_hears_as_late_that_an_account_is_refused_and_goes_on_meanwhile() {
    let mut broker = Broker::start("refusal_delay = '2s'");
    let key = Key::create(&broker, 9, &[]);
    let forged = Key { id: key.id.clone(), secret: "guessed".to_owned() };
    let guess = |wire: &mut Wire, id: &str| {
        let fields = filled_in_session(wire, &forged);
        wire.send(format!("<iq type='set' id='{id}' to='localhost'>{}</iq>", query(&fields)));
        Instant::now()
    };
    let refused = |wire: &mut Wire, id: &str| wire.until(&format!("id='{id}'")) + &wire.until("</iq>");
    let least = Duration::from_secs(2);

    let (mut wire, name) = managed(&broker, "anna", "r");
    let begun = guess(&mut wire, "first");
    assert!(!wire.ping().contains("<iq"), "it is not told yet");
    let fields = filled_in_session(&mut wire, &key);
    let early = wire.ask("set", "localhost", &query(&fields));
    assert!(early.contains("<error type='wait'><resource-constraint ") && !early.contains("'first'"), "{early}");
    assert!(begun.elapsed() < least, "{:?}", begun.elapsed());
    assert!(refused(&mut wire, "first").contains("<bad-request "));
    assert!((least..least * 3).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    // The form was not looked at.
    assert!(wire.ask("set", "localhost", &query(&fields)).contains("type='result'"));

    // It is told wherever the session goes on.
    guess(&mut wire, "second");
    wire.ping();
    drop(wire);
    let (mut wire, _) = resume(&broker, "anna", &name, 1, "<resumed ");
    assert!(refused(&mut wire, "second").contains("<bad-request "));
    guess(&mut wire, "third");
    wire.ping();
    let mut other = Wire::login(&broker, "bert", "r");
    guess(&mut other, "third");
    other.ping();
    broker.restart_in_order();
    let said = other.drain();
    assert!(said.find("<bad-request ") < said.find("<system-shutdown "), "{said}");
    let (mut wire, _) = resume(&broker, "anna", &name, 1, "<resumed ");
    assert!(refused(&mut wire, "third").contains("<bad-request "));
    wire.send("</stream:stream>");
    wire.drain();
    assert_eq!(key.count(&broker), (1, 1));
    broker.stop();
}

#[test]
fn a_nonce_is_remembered_when_the_broker_is_not_there() {
    let mut broker = Broker::start("");
    let key = Key::create(&broker, 9, &[]);
    let with_nonce = |broker: &Broker, name: &str| {
        let mut wire = Wire::open(broker.plain);
        let fields = signed(filled(&mut wire, &key, name).with(signed::NONCE, "once"), &key);
        wire.send(submission(&fields));
        wire.until("</iq>")
    };
    assert!(is_result(&with_nonce(&broker, "first")));
    broker.restart_in_order();
    let replayed = with_nonce(&broker, "second");
    assert!(replayed.contains("<bad-request "), "{replayed}");
    broker.restart();
    let replayed = with_nonce(&broker, "second");
    assert!(replayed.contains("<bad-request "), "{replayed}");
    assert_eq!(key.count(&broker), (1, 1));
    broker.stop();
}

#[test]
fn a_key_makes_as_many_accounts_as_it_may() {
    // Hardening: 1 000 at once, and the broker is killed in the middle.
    let mut broker = Broker::start("negotiation_timeout = '60s'\nrefusal_delay = '0s'");
    let key = Key::create(&broker, 10, &[]);
    let names = AtomicUsize::new(0);
    let attempts = |broker: &Broker, each: usize| {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..each {
                        let name = format!("sensor{}", names.fetch_add(1, Ordering::Relaxed));
                        let mut wire = Wire::open(broker.plain);
                        let fields = filled(&mut wire, &key, &name);
                        wire.send(submission(&fields));
                        if each > 1 {
                            let answer = wire.until("</iq>");
                            let refused = answer.contains("<not-allowed ") && answer.contains("as many accounts");
                            assert!(is_result(&answer) || refused, "{answer}");
                        }
                    }
                });
            }
        });
    };
    // Of these nobody waits for the answer.
    attempts(&broker, 1);
    broker.restart();
    let (count, listed) = key.count(&broker);
    assert!(count <= 8 && listed as u64 == count, "104 a broker killed in the middle: {count}, {listed}");
    attempts(&broker, 125);
    assert_eq!(key.count(&broker), (10, 10), "104 a thousand at once");
    broker.restart();
    assert_eq!(key.count(&broker), (10, 10));
    let output = broker.try_cli(&["account", "list"]);
    let accounts = String::from_utf8(output.stdout).unwrap();
    assert_eq!(accounts.lines().count(), 10 + USERS.len() + 1, "{accounts}");
    broker.stop();
}

#[test]
fn a_key_is_good_until_it_is_revoked_and_for_what_it_is_for() {
    let broker = Broker::start("");
    let key = Key::create(&broker, 9, &["--per-minute", "2"]);
    let mut wire = Wire::open(broker.plain);
    assert!(is_result(&register(&mut wire, &key, "one")));
    let taken = register(&mut wire, &key, "one");
    assert!(taken.contains("<error type='cancel'><conflict "), "{taken}");
    let early = register(&mut wire, &key, "two");
    assert!(early.contains("<error type='wait'><resource-constraint "), "{early}");
    let many = register(&mut wire, &key, "two");
    assert!(many.contains("<resource-constraint ") && many.contains("on this stream"), "{many}");
    assert!(wire.scram("one", "pencil").contains("<success"), "it may log in still");

    let key = Key::create(&broker, 9, &["--domain", "localhost", "--expires", "2100-01-01"]);
    wire = Wire::open(broker.plain);
    assert!(is_result(&register(&mut wire, &key, "three")));
    let fields = filled(&mut wire, &key, "four");
    broker.cli(&["apikey", "revoke", &key.id]);
    wire.send(submission(&fields));
    let revoked = wire.until("</iq>");
    assert!(revoked.contains("<error type='cancel'><not-allowed ") && revoked.contains("revoked"), "{revoked}");
    let expired = Key::create(&broker, 9, &["--expires", "2020-01-01"]);
    wire = Wire::open(broker.plain);
    let refused = register(&mut wire, &expired, "four");
    assert!(refused.contains("<not-allowed ") && refused.contains("expired"), "{refused}");
    let unknown = broker.try_cli(&["apikey", "create", "x", "--accounts", "1", "--domain", "elsewhere.example"]);
    assert!(!unknown.status.success());
    drop(wire);
    broker.stop();
}

#[test]
fn who_has_an_account_changes_its_password_makes_another_and_leaves() {
    let broker = Broker::start("");
    let key = Key::create(&broker, 9, &[]);
    let password = |name: &str, password: &str| {
        format!("<query xmlns='jabber:iq:register'><username>{name}</username><password>{password}</password></query>")
    };
    for user in ["anna", "bert"] {
        let mut other = Wire::login(&broker, user, "other");
        let mut wire = Wire::login(&broker, user, "mine");
        let answer = wire.ask("get", "localhost", "<query xmlns='jabber:iq:register'/>");
        assert!(answer.contains("<registered/>") && answer.contains(&format!("<username>{user}</username>")));
        let answer = wire.ask("set", if user == "anna" { "" } else { "localhost" }, &password(user, "another"));
        assert!(answer.contains("type='result'"), "{answer}");
        assert!(other.drain().contains("<not-authorized "), "its other sessions end");
        wire.ping();
        assert!(Wire::open(broker.plain).scram(user, PASSWORD).contains("<not-authorized/>"));
        assert!(Wire::open(broker.plain).scram(user, "another").contains("<success"));
        let weak = wire.ask("set", "", &password(user, ""));
        assert!(weak.contains("<not-acceptable "), "{weak}");
        let elses = wire.ask("set", "", &password("cleo", "another"));
        assert!(elses.contains("<not-allowed "), "{elses}");

        // Another account, signed for.
        let form = wire.ask("get", "localhost", "<query xmlns='jabber:iq:register'/>");
        let name = format!("{user}s-lamp");
        let fields = signed(fill_in(&form, &key, &name, "pencil"), &key);
        let answer = wire.ask("set", "localhost", &query(&fields));
        assert!(answer.contains("type='result'"), "{answer}");
        assert!(Wire::open(broker.plain).scram(&name, "pencil").contains("<success"));
        let answer = wire.ask("set", "localhost", &query(&fields));
        assert!(answer.contains("<bad-request "), "{answer}");
    }
    assert_eq!(key.count(&broker), (2, 2));

    // Cleo and Dora know each other; then Cleo leaves.
    let mut dora = Wire::available(&broker, "dora", "r");
    let mut cleo = Wire::available(&broker, "cleo", "r");
    dora.ask("get", "", "<query xmlns='jabber:iq:roster'/>");
    subscribe((&mut cleo, "cleo"), (&mut dora, "dora"));
    subscribe((&mut dora, "dora"), (&mut cleo, "cleo"));
    let mut elsewhere = Wire::login(&broker, "cleo", "elsewhere");
    cleo.send("<iq type='set' id='leave'><query xmlns='jabber:iq:register'><remove/></query></iq>");
    let said = cleo.drain();
    let (answer, end) = (said.find("<iq type='result' id='leave'"), said.find("<not-authorized "));
    assert!(answer.is_some() && answer < end, "{said}");
    assert!(elsewhere.drain().contains("<not-authorized "));
    dora.until("subscription='none'");
    assert!(Wire::open(broker.plain).scram("cleo", PASSWORD).contains("<not-authorized/>"));
    let again = broker.try_cli(&["account", "remove", "cleo@localhost"]);
    assert!(!again.status.success(), "it is gone");
    drop(dora);
    broker.stop();
}

#[test]
fn registration_is_what_the_operator_wants() {
    let plain = "<iq type='set' id='account'><query xmlns='jabber:iq:register'><username>bill</username>\
                 <password>pencil</password></query></iq>";
    let closed = Broker::start("");
    let mut wire = Wire::open(closed.plain);
    wire.send(plain);
    let answer = wire.until("</iq>");
    assert!(answer.contains("<error type='cancel'><not-allowed "), "{answer}");
    drop(wire);
    closed.stop();

    let open = Broker::start("[registration]\nunsigned = true\nunsigned_per_minute = 1");
    let mut wire = Wire::open(open.plain);
    wire.send(plain);
    assert!(is_result(&wire.until("</iq>")));
    wire.send(plain.replace("bill", "ben"));
    let answer = wire.until("</iq>");
    assert!(answer.contains("<resource-constraint "), "{answer}");
    assert!(wire.scram("bill", "pencil").contains("<success"));
    drop(wire);
    open.stop();

    let off = Broker::start("[registration]\nenabled = false");
    let mut wire = Wire::connect(off.plain);
    assert!(!wire.begin().contains("iq-register"));
    wire.send(GET);
    assert!(wire.drain().contains("<not-authorized "));
    let mut anna = Wire::login(&off, "anna", "r");
    let answer = anna.ask("get", "", "<query xmlns='jabber:iq:register'/>");
    assert!(answer.contains("<service-unavailable "), "{answer}");
    drop(anna);
    off.stop();
}

#[test]
fn accounts_are_imported_by_the_file() {
    let broker = Broker::start("");
    // Somebody asked for one of them before: its home remembers that there was none.
    assert!(Wire::open(broker.plain).scram("lamp1", "pencil1").contains("<not-authorized/>"));
    let file = broker.scratch().join("accounts.csv");
    let lines: String = (0..50).map(|number| format!("lamp{number}@localhost,pencil{number}\n")).collect();
    std::fs::write(&file, format!("jid,password\n{lines}anna@localhost,no\n")).unwrap();
    let import = |expected: (u64, u64, u64)| {
        let output = broker.try_cli(&["account", "import", file.to_str().unwrap(), "--json"]);
        let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let number = |field: &str| reply["imported"][field].as_u64().unwrap();
        assert_eq!((number("created"), number("same"), number("refused")), expected, "{output:?}");
        assert_eq!(output.status.code(), Some(1), "a line was refused");
        assert!(String::from_utf8_lossy(&output.stderr).contains("line 52: there is an account anna@localhost"));
    };
    import((50, 0, 1));
    for number in [1, 49] {
        let last = Wire::open(broker.plain).scram(&format!("lamp{number}"), &format!("pencil{number}"));
        assert!(last.contains("<success"), "{last}");
    }
    assert!(Wire::open(broker.plain).scram("anna", PASSWORD).contains("<success"));
    import((0, 50, 1));
    broker.stop();
}
