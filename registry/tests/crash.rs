//! Killed in the midst of commits, the embedded store keeps every write it acknowledged and no transaction by half.
//!
//! The parent starts this test binary again as a child, which commits on one directory and prints what was acknowledged,
//! kills it with SIGKILL at some moment, reopens the directory and checks it; then the next child goes on. A kill loses
//! what the process had in memory; it cannot show what a power cut does to pages the kernel has not written.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test from end to end")]

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use plaza_registry::store::embedded::{EmbeddedOptions, EmbeddedStore};
use plaza_registry::store::{Batch, Guard, Store, Table, Write};
use plaza_registry::wait::block_on;

const DIRECTORY: &str = "PLAZA_CRASH_DIRECTORY";
const FIRST: &str = "PLAZA_CRASH_FIRST";
const CHILD: &str = "commits_until_killed";
/// Commits in flight at once in the child.
const WINDOW: usize = 64;
/// Transaction `n` deletes what transaction `n - LIFE` put into the rosters.
const LIFE: u64 = 100;

#[test]
fn every_acknowledged_write_survives_kill_9() {
    // The long run outgrows a memtable, so that one is written out in between. It takes ten minutes unoptimised.
    let (rounds, scale) = if std::env::var_os("PLAZA_LONG").is_some() { (60, 12) } else { (12, 1) };
    let directory = tempfile::tempdir().unwrap();
    let mut next = 0;
    for round in 0..rounds {
        let acknowledged = run_child(directory.path(), next, round, scale);
        // What is older was checked before; all of it is once more at the end.
        next = check(directory.path(), next.saturating_sub(LIFE), acknowledged);
    }
    assert_eq!(check(directory.path(), 0, None), next);
    assert!(next > rounds, "only {next} transactions in {rounds} rounds");
}

/// Lets a child commit from `first` on, kills it, and gives the last transaction it saw acknowledged (they are in order).
fn run_child(directory: &Path, first: u64, round: u64, scale: u64) -> Option<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(FIRST, first.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    // Each round kills after another number of acknowledgements, and a little later than exactly then.
    let enough = 1 + round * 37 % 400 * scale;
    let (mut line, mut last, mut seen) = (String::new(), None, 0);
    loop {
        line.clear();
        // A line cut off by the kill was not acknowledged to anybody.
        if lines.read_line(&mut line).unwrap() == 0 || !line.ends_with('\n') {
            break;
        }
        last = Some(line.trim().parse().unwrap_or_else(|_| panic!("the child says: {line}")));
        seen += 1;
        if seen == enough {
            thread::sleep(Duration::from_micros(round * 331 % 5_000));
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(seen >= enough, "the child ended by itself");
    last
}

/// Checks the directory from transaction `from` on; gives the number of the first one that is not there.
fn check(directory: &Path, from: u64, acknowledged: Option<u64>) -> u64 {
    let after = from.checked_sub(1).map(key);
    let store = EmbeddedStore::open(directory, EmbeddedOptions::default()).unwrap();
    let [accounts, rosters] = [Table::Accounts, Table::Rosters].map(|table| {
        let pairs = block_on(store.scan(table, b"n", after.as_deref(), usize::MAX)).unwrap();
        pairs.into_iter().map(|(key, value)| (number(&key), value)).collect::<BTreeMap<_, _>>()
    });
    store.close().unwrap();
    let next = accounts.last_key_value().map_or(from, |(last, _)| last + 1);
    assert!(acknowledged.is_none_or(|last| last < next), "{acknowledged:?} was acknowledged, {next} is missing");
    for n in from..next {
        assert_eq!(accounts.get(&n), Some(&value(n)), "transaction {n}");
        let alive = n + LIFE >= next;
        assert_eq!(rosters.get(&n), alive.then_some(&value(n)), "the other half of transaction {n} or {}", n + LIFE);
    }
    assert_eq!(rosters.len() as u64, (next - from).min(LIFE), "a transaction is there by half");
    next
}

#[test]
#[ignore = "the child of the test above"]
fn commits_until_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let store = EmbeddedStore::open(Path::new(&directory), EmbeddedOptions::default()).unwrap();
    let mut in_flight = VecDeque::new();
    for n in first.. {
        in_flight.push_back((n, store.commit(transaction(n))));
        if in_flight.len() == WINDOW {
            let (n, commit) = in_flight.pop_front().unwrap();
            block_on(commit).unwrap();
            eprintln!("{n}");
        }
    }
}

/// Two puts and a delete in two tables, allowed only after its predecessor.
fn transaction(n: u64) -> Batch {
    let put = |table| Write::Put { table, key: key(n), value: value(n) };
    let mut batch = Batch { guards: Vec::new(), writes: vec![put(Table::Accounts), put(Table::Rosters)] };
    if let Some(before) = n.checked_sub(1) {
        batch.guards.push(Guard::Present { table: Table::Accounts, key: key(before) });
    }
    if let Some(old) = n.checked_sub(LIFE) {
        batch.writes.push(Write::Delete { table: Table::Rosters, key: key(old) });
    }
    batch
}

fn key(n: u64) -> Vec<u8> {
    let mut key = b"n".to_vec();
    key.extend_from_slice(&n.to_be_bytes());
    key
}

fn number(key: &[u8]) -> u64 {
    u64::from_be_bytes(key[1..].try_into().unwrap())
}

/// From a few bytes to a few kilobytes, so that records cross the journal's buffers at every offset.
fn value(n: u64) -> Vec<u8> {
    let len = if n.is_multiple_of(41) { 6_000 } else { n * 7 % 300 };
    (0..len).map(|index| (n.wrapping_mul(31) + index) as u8).collect()
}
