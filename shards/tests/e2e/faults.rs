//! A host that fails the broker: disks that are full, that stall, that do not keep what they were given, and files that are
//! not as they were left. What was acknowledged is there afterwards, or the broker says that it cannot start; what needs no
//! disk goes on.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use memchr::memmem;
use tempfile::TempDir;

use crate::broker::Broker;
use crate::wire::Wire;

/// What ends a batch in the store's journal.
const BATCH_END: &[u8] = b"FJL\x03";
/// Something to keep.
const NOTE: &str = "<query xmlns='jabber:iq:private'><note xmlns='urn:example:note'>TEXT</note></query>";

/// A library before the system's own that makes calls fail, and the directory that tells it which.
pub(crate) struct Faults(TempDir);

impl Faults {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/faults.c");
        let built = Command::new("gcc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(directory.path().join("faults.so"))
            .args([source, "-ldl"])
            .output()
            .unwrap();
        assert!(built.status.success(), "{built:?}");
        Self(directory)
    }

    /// What a broker's environment has to have.
    pub(crate) fn variables(&self) -> Vec<(&'static str, OsString)> {
        let directory = self.0.path();
        vec![("LD_PRELOAD", directory.join("faults.so").into()), ("PLAZA_FAULTS", directory.into())]
    }

    /// A place for the test's own files, known before there is a broker.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn begin(&self, fault: &str) {
        self.set(fault, "");
    }

    /// Begins a fault that is of some extent, or changes its extent: at once.
    pub(crate) fn set(&self, fault: &str, extent: &str) {
        let new = self.0.path().join("new");
        fs::write(&new, extent).unwrap();
        fs::rename(new, self.0.path().join(fault)).unwrap();
    }

    pub(crate) fn end(&self, fault: &str) {
        fs::remove_file(self.0.path().join(fault)).unwrap();
    }

    /// Whether a call was refused.
    fn refused(&self) -> bool {
        self.0.path().join("refused").exists()
    }
}

/// Sends a message to somebody who is away, and waits until it is kept.
fn keep(wire: &mut Wire, text: &str) {
    wire.send(format!(
        "<message to='cleo@localhost' type='chat'><body>{text}</body></message><r xmlns='urn:xmpp:sm:3'/>"
    ));
    let said = wire.until("<a xmlns='urn:xmpp:sm:3'");
    assert!(!said.contains("<error"), "{said}");
    wire.until("/>");
}

/// A session whose stanzas are acknowledged.
fn managed(broker: &Broker, user: &str) -> Wire {
    let mut wire = Wire::login(broker, user, "s");
    wire.send("<enable xmlns='urn:xmpp:sm:3'/>");
    wire.until("<enabled");
    wire.until("/>");
    wire
}

/// Two who write to each other, in time.
fn served(one: &mut Wire, other: &mut Wire) {
    for _ in 0..3 {
        one.send("<message to='fred@localhost/b'><body>still here</body></message>");
        assert!(other.until("</message>").contains("still here"));
        other.send("<message to='emil@localhost/a'><body>here too</body></message>");
        assert!(one.until("</message>").contains("here too"));
    }
}

/// What is kept for Cleo.
fn kept(broker: &Broker, last: &str) -> String {
    let mut wire = Wire::login(broker, "cleo", "c");
    wire.send("<presence/>");
    let said = wire.until(last);
    wire.until("</message>");
    said
}

#[test]
fn a_disk_that_fails_is_not_written_to_again_and_costs_nothing_that_was_acknowledged() {
    for (case, fault) in [("110 a failed sync", "sync"), ("110 a full disk", "full")] {
        let faults = Faults::new();
        let mut broker = Broker::start_with("resume_max = '0s'", faults.variables());
        let (mut one, mut other) = (Wire::available(&broker, "emil", "a"), Wire::available(&broker, "fred", "b"));
        let mut anna = managed(&broker, "anna");
        keep(&mut anna, "before");
        assert!(anna.ask("set", "", &NOTE.replace("TEXT", "before")).contains("type='result'"));

        faults.begin(fault);
        anna.send("<message to='cleo@localhost' type='chat' id='during'><body>during</body></message>");
        let said = anna.until("</message>");
        assert!(said.contains("type='error'") && said.contains("<internal-server-error "), "{case}: {said}");
        let said = anna.ask("set", "", &NOTE.replace("TEXT", "during"));
        assert!(said.contains("<internal-server-error "), "{case}: {said}");
        assert!(faults.refused(), "{case}: the disk did not fail");
        served(&mut one, &mut other);

        // A disk that works again has lost what it refused: nobody is told that it has it.
        faults.end(fault);
        let said = anna.ask("set", "", &NOTE.replace("TEXT", "after"));
        assert!(said.contains("<internal-server-error "), "{case}: {said}");
        let said = anna.ask("get", "", "<query xmlns='jabber:iq:private'><note xmlns='urn:example:note'/></query>");
        assert!(said.contains(">before<"), "{case}: {said}");
        drop(Wire::available(&broker, "dora", "d"));
        served(&mut one, &mut other);
        let log = broker.log();
        assert_eq!(log.matches("read-only until the broker is restarted").count(), 1, "{case}: {log}");

        broker.restart();
        assert!(kept(&broker, "before<").contains("<message "), "{case}");
        let mut anna = managed(&broker, "anna");
        let said = anna.ask("get", "", "<query xmlns='jabber:iq:private'><note xmlns='urn:example:note'/></query>");
        assert!(said.contains(">before<") || said.contains(">during<"), "{case}: {said}");
        assert!(anna.ask("set", "", &NOTE.replace("TEXT", "after")).contains("type='result'"), "{case}");
        drop(anna);
        broker.stop();
    }
}

/// Most tables that a keyspace of the store's engine has.
fn tables(broker: &Broker) -> usize {
    let keyspaces = fs::read_dir(broker.scratch().join("data/store/keyspaces")).unwrap();
    keyspaces.filter_map(|one| Some(fs::read_dir(one.unwrap().path().join("tables")).ok()?.count())).max().unwrap()
}

/// The engine writes its tables on threads of its own, when what is in memory comes to 32 MiB; what it has then is in the
/// journal as well. It merges them when there are a few; what it merges is in tables already.
#[test]
fn a_disk_that_fails_when_tables_are_written_or_merged_costs_nothing_that_was_acknowledged() {
    // As many tables are merged at least.
    const MERGED_MIN: usize = 4;
    for (fault, sets_max, tables_min) in
        [("tables", 400, 0), ("merge-reads", 2_000, MERGED_MIN), ("merge-writes", 2_000, MERGED_MIN)]
    {
        let case = format!("110 {fault}");
        let faults = Faults::new();
        let mut broker = Broker::start_with("resume_max = '0s'\nprivate_entry_bytes_max = '1 MiB'", faults.variables());
        let (mut one, mut other) = (Wire::available(&broker, "emil", "a"), Wire::available(&broker, "fred", "b"));
        let mut anna = managed(&broker, "anna");
        keep(&mut anna, "before");
        let filler = "x".repeat(200 * 1024);
        faults.begin(fault);
        let mut acknowledged = None;
        let refused = (0..sets_max).find(|number| {
            let said = anna.ask("set", "", &NOTE.replace("TEXT", &format!("number {number} {filler}")));
            if said.contains("type='result'") {
                acknowledged = Some(*number);
                return false;
            }
            assert!(said.contains("<internal-server-error "), "{case}: {said}");
            true
        });
        assert!(faults.refused() && refused.is_some(), "{case}: {acknowledged:?} acknowledged");
        assert!(tables(&broker) >= tables_min, "{case}: {} tables after {acknowledged:?}", tables(&broker));
        let acknowledged = acknowledged.unwrap();
        served(&mut one, &mut other);
        let log = broker.log();
        assert_eq!(log.matches("read-only until the broker is restarted").count(), 1, "{case}: {log}");
        assert_eq!(broker.metric("plaza_store_read_only", ""), 1, "{case}");
        faults.end(fault);
        let said = anna.ask("set", "", &NOTE.replace("TEXT", "after"));
        assert!(said.contains("<internal-server-error "), "{case}: {said}");
        drop((one, other));

        broker.restart();
        assert!(kept(&broker, "before<").contains("<message "), "{case}");
        let mut anna = managed(&broker, "anna");
        let said = anna.ask("get", "", "<query xmlns='jabber:iq:private'><note xmlns='urn:example:note'/></query>");
        let is = |number: usize| said.contains(&format!(">number {number} x"));
        assert!(is(acknowledged) || is(acknowledged + 1), "{case}: not number {acknowledged}");
        assert!(anna.ask("set", "", &NOTE.replace("TEXT", "after")).contains("type='result'"), "{case}");
        drop(anna);
        broker.stop();
    }
}

#[test]
fn a_disk_that_stalls_holds_up_what_it_has_to_keep_and_nothing_else() {
    let faults = Faults::new();
    let broker = Broker::start_with("resume_max = '0s'", faults.variables());
    let (mut one, mut other) = (Wire::available(&broker, "emil", "a"), Wire::available(&broker, "fred", "b"));
    let mut anna = managed(&broker, "anna");
    keep(&mut anna, "before");
    faults.begin("stall");
    anna.send("<message to='cleo@localhost' type='chat'><body>during</body></message><r xmlns='urn:xmpp:sm:3'/>");
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        served(&mut one, &mut other);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(faults.refused(), "110 a stalled disk: it did not stall");
    faults.end("stall");
    let said = anna.until("<a xmlns='urn:xmpp:sm:3'");
    assert!(!said.contains("<error"), "110 a stalled disk: {said}");
    keep(&mut anna, "after");
    let said = kept(&broker, "after<");
    assert!(said.contains("before") && said.contains("during"), "110 a stalled disk: {said}");
    drop((one, other, anna));
    broker.stop();
}

/// The store's journal that was written last.
fn journal(broker: &Broker) -> PathBuf {
    let files = fs::read_dir(broker.scratch().join("data/store")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).max().unwrap()
}

#[test]
fn what_a_kill_tore_is_dropped_and_what_was_damaged_later_is_refused() {
    const MESSAGES: usize = 20;
    let mut broker = Broker::start("resume_max = '0s'");
    let mut anna = managed(&broker, "anna");
    for number in 0..MESSAGES {
        keep(&mut anna, &format!("number {number} of many"));
    }
    broker.kill();
    let path = journal(&broker);
    let mut whole = fs::read(&path).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    whole.truncate(end);
    let ends: Vec<usize> = memmem::find_iter(&whole, BATCH_END).map(|at| at + BATCH_END.len()).collect();
    assert!(ends.len() > MESSAGES, "{} batches", ends.len());
    let (from, to) = (ends[ends.len() - 2], ends[ends.len() - 1]);

    // Each bit of the start of a batch, of its first item, of its end; in the middle and of the last.
    let middle = ends[ends.len() - 10];
    let mut refused = BTreeSet::new();
    for at in
        [middle, middle + 2, middle + 13, middle + 14, middle + 25, middle + 30, from + 26, from + 60, to - 6, to - 2]
    {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        fs::write(&path, &flipped).unwrap();
        let (status, said) = broker.try_start_again().expect_err(&format!("109 flipped bits: byte {at} of {end}"));
        assert_eq!(status, Some(73), "109 flipped bits: {said}");
        assert!(
            said.trim_end().lines().count() == 1 && said.contains("is damaged at byte"),
            "109 flipped bits: {said}"
        );
        assert_eq!(fs::read(&path).unwrap(), flipped, "109 flipped bits: the file is left as it is");
        refused.insert(at);
    }
    assert_eq!(refused.len(), 10);

    // The beginning of a batch that was never finished.
    let torn = [&whole[..], &whole[from..to - 5]].concat();
    fs::write(&path, torn).unwrap();
    broker.try_start_again().expect("109 a torn batch");
    let mut wire = Wire::login(&broker, "cleo", "c");
    wire.send("<presence/>");
    for number in 0..MESSAGES {
        let said = wire.until("</message>");
        assert!(said.contains(&format!("number {number} of")), "109 a torn batch: {said}");
    }
    assert_eq!(wire.ping(), "");
    drop(wire);
    broker.stop();
}
