//! A backup of a broker that stores messages all the while, and a broker that is started from it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::broker::{Broker, PATIENCE};
use crate::wire::Wire;

/// Messages between two questions how many are stored.
const ASK_EVERY: u64 = 5;

fn only_the_owners(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
        if entry.file_type().unwrap().is_dir() {
            only_the_owners(&entry.path());
        }
    }
}

/// The numbers of the messages kept for somebody: so many at least, and what comes with them.
fn kept(broker: &Broker, recipient: &str, least: u64) -> Vec<u64> {
    let mut wire = Wire::login(broker, recipient, "r");
    wire.send("<presence/>");
    let mut said: String = (0..least).map(|_| wire.until("</message>")).collect();
    said.push_str(&wire.ping());
    said.split("<body>number ").skip(1).map(|rest| rest.split(' ').next().unwrap().parse().unwrap()).collect()
}

/// Stores messages for somebody who is away, a few at a time, and counts those that were acknowledged, until it is told to
/// stop.
fn load(mut wire: Wire, recipient: &'static str, stored: &AtomicU64, stop: &AtomicBool) {
    wire.send("<enable xmlns='urn:xmpp:sm:3'/>");
    wire.until("<enabled");
    for number in 0_u64.. {
        wire.send(format!(
            "<message to='{recipient}@localhost' type='chat'><body>number {number} of many</body></message>"
        ));
        if number % ASK_EVERY == 0 {
            wire.send("<r xmlns='urn:xmpp:sm:3'/>");
            let said = wire.until("<a xmlns='urn:xmpp:sm:3' h='");
            assert!(!said.contains("<error"), "{said}");
            stored.store(wire.until("'").trim_end_matches('\'').parse().unwrap(), Ordering::Relaxed);
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

#[test]
fn a_backup_under_load_has_all_that_was_acknowledged_before_it_and_starts_a_broker() {
    let mut broker = Broker::start("offline_messages_max = 1000000\noffline_bytes_max = '1 GiB'\nresume_max = '0s'");
    let scratch = broker.scratch();
    let (stored, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let writer = {
        let (wire, stored, stop) = (Wire::login(&broker, "anna", "s"), Arc::clone(&stored), Arc::clone(&stop));
        std::thread::spawn(move || load(wire, "cleo", &stored, &stop))
    };
    let wait_for = |count: u64| {
        let begun = Instant::now();
        while stored.load(Ordering::Relaxed) < count {
            assert!(begun.elapsed() < PATIENCE, "{} stored", stored.load(Ordering::Relaxed));
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait_for(200);
    // Two who write to each other while it is made.
    let (mut one, mut other) = (Wire::available(&broker, "emil", "a"), Wire::available(&broker, "fred", "b"));
    let before = stored.load(Ordering::Relaxed);
    let target = scratch.join("backup");
    broker.cli(&["backup", target.to_str().unwrap()]);
    one.send("<message to='fred@localhost/b'><body>still here</body></message>");
    assert!(other.until("</message>").contains("still here"));
    let after = stored.load(Ordering::Relaxed);
    wait_for(after + 50);
    // A second one in the same place takes nothing of the first.
    let refused = broker.try_cli(&["backup", target.to_str().unwrap()]);
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("is not empty"),
        "{refused:?}"
    );
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    drop((one, other));
    broker.kill();

    only_the_owners(&target);
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(target.join("tls/key.pem").exists() && !target.join("store.partial").exists());
    // Without a broker there is the same command; it has what was stored since, too.
    let whole = scratch.join("whole");
    broker.cli(&["backup", whole.to_str().unwrap()]);
    let data = scratch.join("data");
    let last = stored.load(Ordering::Relaxed);
    for (copy, least) in [(target, before), (whole, last)] {
        let _ = fs::remove_dir_all(&data);
        fs::rename(copy, &data).unwrap();
        broker.try_start_again().unwrap();
        let kept = kept(&broker, "cleo", least);
        assert!(kept.len() as u64 >= least, "{} of {least}", kept.len());
        assert!(kept.iter().copied().eq(0..kept.len() as u64), "they are whole and in order");
        broker.kill();
    }
    broker.try_start_again().unwrap();
    broker.stop();
}
