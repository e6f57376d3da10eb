//! A broker that is killed again and again while it stores messages: what it acknowledged is there afterwards, in order.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::broker::Broker;
use crate::wire::Wire;

/// Kills: each at another moment of the work. `PLAZA_LONG=1` makes it two hundred.
const KILLS: u32 = 10;
const KILLS_LONG: u32 = 200;
/// Messages between two questions how many are stored.
const ASK_EVERY: u64 = 7;
/// How long the sender rests behind a question, so that two hundred rounds leave no more than a start reads in a moment.
const REST_LONG: Duration = Duration::from_millis(5);

#[test]
fn nothing_acknowledged_is_lost_by_a_kill_at_any_moment() {
    let mut broker = Broker::start("offline_messages_max = 1000000\noffline_bytes_max = '1 GiB'\nresume_max = '0s'");
    let is_long = std::env::var_os("PLAZA_LONG").is_some();
    let (kills, rest) = if is_long { (KILLS_LONG, REST_LONG) } else { (KILLS, Duration::ZERO) };
    // Two recipients, so that one of them is at home with the sender and one is not, nearly always.
    let pairs = broker.pairs();
    let sender = pairs[0].0;
    let recipients: Vec<&str> = pairs.iter().map(|(_, recipient)| *recipient).collect();
    let mut acknowledged = 0;
    for kill in 0..kills {
        let mut wire = Wire::login(&broker, sender, "s");
        wire.send("<enable xmlns='urn:xmpp:sm:3'/>");
        wire.until("<enabled");
        let stored = Arc::new(AtomicU64::new(acknowledged));
        let mut socket = wire.socket.try_clone().unwrap();
        let (first, names) = (acknowledged, recipients.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        let writer = std::thread::spawn(move || {
            for number in first.. {
                let to = &names[number as usize % names.len()];
                let mut text =
                    format!("<message to='{to}@localhost' type='chat'><body>number {number} of many</body></message>");
                if number % ASK_EVERY == 0 {
                    text.push_str("<r xmlns='urn:xmpp:sm:3'/>");
                }
                if socket.write_all(text.as_bytes()).is_err() {
                    return;
                }
                if number % ASK_EVERY == 0 {
                    std::thread::sleep(rest);
                }
            }
        });
        let counter = Arc::clone(&stored);
        let reader = std::thread::spawn(move || {
            // Until the connection breaks; each answer counts from where this round began.
            let said = wire.drain();
            assert!(!said.contains("<error"), "whoever is too fast waits, and is not refused");
            for part in said.split("<a xmlns='urn:xmpp:sm:3' h='").skip(1) {
                let h: u64 = part.split('\'').next().unwrap().parse().unwrap();
                counter.fetch_max(first + h, Ordering::Relaxed);
            }
        });
        std::thread::sleep(Duration::from_millis(60 + u64::from(kill * 37 % 11) * 20));
        broker.restart();
        writer.join().unwrap();
        reader.join().unwrap();
        acknowledged = stored.load(Ordering::Relaxed);
    }
    assert!(acknowledged > u64::from(kills), "109 kills: only {acknowledged} were acknowledged");
    println!("{kills} kills, {acknowledged} messages acknowledged");
    for (at, recipient) in recipients.iter().enumerate() {
        let mut wire = Wire::login(&broker, recipient, "r");
        wire.send("<presence/>");
        let mut seen = HashSet::new();
        let mut latest = None;
        let mut missing = (0..acknowledged).filter(|number| *number as usize % recipients.len() == at).count();
        while missing > 0 {
            let message = wire.until("</message>");
            let number = message.split("number ").nth(1).and_then(|rest| rest.split(' ').next());
            let number: u64 = number.unwrap().parse().unwrap();
            // What was stored and not acknowledged was said again; the first of each comes in order.
            if seen.insert(number) {
                assert!(latest.is_none_or(|latest| latest < number), "{number} after {latest:?}");
                latest = Some(number);
                missing -= usize::from(number < acknowledged);
            }
        }
        wire.ping();
    }
    broker.stop();
}
