//! What must cost the same: input that was chosen to collide, and answers that must not tell who exists.

use std::time::{Duration, Instant};

use crate::broker::PASSWORD;
use crate::scene::Scene;
use crate::wire::{Wire, auth, decode, nonce, response};

/// Input of one measurement, about.
const INPUT_BYTES: usize = 2_000_000;
/// Most that input chosen to collide may cost of what ordinary input of the same size does.
const COLLISION_FACTOR: u32 = 10;

/// Stanzas nobody answers: what they cost is reading them.
fn unanswered(content: &str) -> String {
    let stanza = format!("<iq type='result' id='q' to='localhost'>{content}</iq>");
    stanza.repeat(INPUT_BYTES / stanza.len())
}

/// An element with those attributes.
fn element(names: impl Iterator<Item = String>) -> String {
    format!("<a{}/>", names.fold(String::new(), |all, name| all + " " + &name + "=''"))
}

/// The letters and digits, those that may begin a name first.
fn letters() -> impl Iterator<Item = char> + Clone {
    ('a'..='z').chain('A'..='Z').chain('0'..='9').chain(['_', '-', '.'])
}

#[test]
fn names_chosen_to_collide_cost_no_more_than_others() {
    let mut scene = Scene::open("");
    // The scanner looks for duplicates where a byte of length, first and last letter was seen before: here always.
    let same_ends = || letters().take(60).map(|letter| format!("a{letter}aaa"));
    let other_ends = || {
        letters()
            .take(60)
            .zip(letters().cycle().skip(7))
            .map(|(one, two)| format!("{}aaa{two}", if one.is_ascii_digit() { '_' } else { one }))
    };
    let long = |letter: char| format!("a{}{letter}a", "x".repeat(120));
    let long_other =
        |letter: char| format!("{}{}{letter}", if letter.is_ascii_digit() { '_' } else { letter }, "x".repeat(121));
    // Prefixes that differ in their last letter, for namespaces that do: each attribute is looked up and compared.
    let prefixes = || letters().take(30);
    let declared = |uri: &dyn Fn(char) -> String| {
        prefixes().fold(String::new(), |all, letter| all + &format!(" xmlns:p{letter}='{}'", uri(letter)))
    };
    let prefixed =
        |local: &dyn Fn(char) -> String| element(prefixes().map(|letter| format!("p{letter}:{}", local(letter))));
    let with_namespaces = |bytes: usize, local: &dyn Fn(char) -> String| {
        let uri = |letter| format!("{}{letter}", "u".repeat(bytes));
        format!("<n{}>{}</n>", declared(&uri), prefixed(local).repeat(300))
    };
    let same = |_: char| "x".to_owned();
    let own = |letter: char| if letter.is_ascii_digit() { "_".to_owned() } else { letter.to_string() };
    let cases = [
        ("21 short names", element(same_ends()), element(other_ends())),
        ("21 long names", element(letters().take(60).map(long)), element(letters().take(60).map(long_other))),
        ("21 namespaces", with_namespaces(200, &same), with_namespaces(200, &own)),
        ("21 long namespaces", with_namespaces(5_000, &same), with_namespaces(5_000, &own)),
    ];
    let mut wire = Wire::available(&scene.broker, "anna", "bad");
    for (case, colliding, ordinary) in cases {
        let [ordinary, colliding] = [ordinary, colliding].map(|content| {
            let input = unanswered(&content);
            // The smallest of three: what else the machine does only adds to it.
            let cost = (0..3).map(|_| {
                let before = scene.broker.cpu();
                wire.send(&input);
                wire.ping();
                scene.broker.cpu() - before
            });
            (cost.min().unwrap(), input.len())
        });
        eprintln!("{case}: ordinary {ordinary:?}, colliding {colliding:?}");
        let most = ordinary.0 * COLLISION_FACTOR;
        scene.check(case, colliding.0 < most, &format!("{colliding:?} is more than {most:?}"));
        scene.note(case, "", "");
    }
    drop(wire);
    scene.close();
}

/// Times of two questions, asked in turns.
fn median_times(count: usize, mut ask: impl FnMut(usize) -> Duration) -> [Duration; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..count {
        for (which, times) in times.iter_mut().enumerate() {
            times.push(ask(which));
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}

/// Whether two questions take the same time to answer, in at least one of a few rounds: a difference the broker makes
/// is there in each of them, one that the machine makes is not.
fn sound_alike(count: usize, mut ask: impl FnMut(usize) -> Duration) -> Result<(), String> {
    let mut seen = Vec::new();
    for _ in 0..4 {
        let [one, other] = median_times(count, &mut ask);
        let (less, more) = (one.min(other), one.max(other));
        if more <= less.mul_f64(1.25) + Duration::from_micros(150) {
            return Ok(());
        }
        seen.push((one, other));
    }
    Err(format!("{seen:?}"))
}

fn timed(wire: &mut Wire, question: impl AsRef<[u8]>, ends: &[&str]) -> (Duration, String) {
    let begun = Instant::now();
    wire.send(question);
    let said = wire.until_any(ends);
    (begun.elapsed(), said)
}

#[test]
fn a_wrong_password_and_an_unknown_user_take_the_same_time() {
    let mut scene = Scene::open("sasl_attempts_max = 5\nrefusal_delay = '0s'\n[admission]\nfailures_max = 0");
    let users = ["anna", "nobody"];
    let ends = ["</challenge>", "</failure>", "</success>"];
    // The first word of SCRAM, the last one, and PLAIN, which has the broker hash the password.
    for case in ["44 SCRAM, challenge", "44 SCRAM, refusal", "44 PLAIN"] {
        let broker = &scene.broker;
        let alike = sound_alike(25, |which| {
            let user = users[which];
            let mut wire = Wire::open(broker.sasl_plain);
            if case == "44 PLAIN" {
                let (took, said) = timed(&mut wire, auth("PLAIN", &format!("\0{user}\0wrong")), &ends);
                assert!(said.contains("<not-authorized"), "{said}");
                return took;
            }
            let (took, said) = timed(&mut wire, auth("SCRAM-SHA-256", &format!("n,,n={user},r={}", nonce())), &ends);
            let challenge = decode(&said);
            let theirs = challenge.split(',').next().unwrap();
            let proof = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
            let (refused, said) = timed(&mut wire, response(&format!("c=biws,{theirs},p={proof}")), &ends);
            assert!(said.contains("<not-authorized"), "{said}");
            if case.ends_with("challenge") { took } else { refused }
        });
        scene.check(case, alike.is_ok(), &format!("known and unknown: {alike:?}"));
        scene.note(case, "", "");
    }
    let mut wire = Wire::open(scene.broker.sasl_plain);
    let said = wire.scram("anna", PASSWORD);
    scene.note("44 the right one", &said, "<success");
    drop(wire);
    scene.close();
}

#[test]
fn an_unknown_user_and_an_offline_one_take_the_same_time() {
    let mut scene = Scene::open("");
    let mut wire = Wire::available(&scene.broker, "anna", "asks");
    // Whoever does not exist is at home somewhere, too: ask for several of each.
    let users = [["dora", "cleo", "bert"], ["nobody", "noone", "nemo"]];
    for (case, resource) in [("62 a resource", "/x"), ("62 an account", "")] {
        let mut asked = 0;
        let alike = sound_alike(60, |which| {
            asked += 1;
            let user = users[which][asked / 2 % 3];
            let question = format!(
                "<iq type='get' id='q{asked}' to='{user}@localhost{resource}'><query xmlns='urn:example:unknown'/></iq>"
            );
            let (took, said) = timed(&mut wire, question, &["</iq>"]);
            assert!(said.contains(&format!("id='q{asked}'")) && said.contains("<service-unavailable"), "{said}");
            took
        });
        scene.check(case, alike.is_ok(), &format!("offline and unknown: {alike:?}"));
        scene.note(case, "", "");
    }
    drop(wire);
    scene.close();
}
