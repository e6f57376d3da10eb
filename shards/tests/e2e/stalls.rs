//! What stands still: a log that nobody reads. Whoever does not need it is served meanwhile.

use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

use crate::broker::{Broker, PATIENCE};
use crate::scene::Scene;
use crate::wire::Wire;

/// Who writes to whom, when the log is not read.
const PINGS: usize = 200;
/// Streams that are refused meanwhile, with a line of the log each.
const REFUSED: usize = 4_000;

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    const CASE: &str = "124 the log is not read";
    let (log, pipe) = std::io::pipe().unwrap();
    let debug = vec![("RUST_LOG", "debug".into())];
    let mut scene = Scene::of(Broker::start_logging("", debug, pipe));
    // Each is a line of the log.
    let port = scene.broker.plain;
    let strangers: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..REFUSED / 4 {
                    let mut wire = Wire::connect(port);
                    wire.try_send("GET / HTTP/1.1\r\n\r\n");
                    wire.until("</stream:stream>");
                }
            })
        })
        .collect();
    for _ in 0..PINGS {
        let asked = Instant::now();
        scene.bystander.ping();
        let waited = asked.elapsed();
        scene.check(CASE, waited < Duration::from_secs(1), &format!("a ping took {waited:?}"));
    }
    for stranger in strangers {
        stranger.join().unwrap();
    }
    let dropped = scene.broker.metric("plaza_log_lines_dropped_total", "");
    scene.check(CASE, dropped > 100, &format!("{dropped} lines were dropped"));
    scene.undisturbed(CASE);

    // It is read again: what waited comes, then how much is missing, then what is new.
    let (lines, read) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(log).lines() {
            if lines.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    let mut refused = 0;
    let told = loop {
        let line = read.recv_timeout(PATIENCE).expect("124 the log is read again: a line");
        refused += usize::from(line.contains("stream refused"));
        if line.contains("lines of this log were dropped") {
            break line;
        }
    };
    scene.check(CASE, told.contains(&format!("dropped={dropped}")), &told);
    scene.check(CASE, refused as u64 + dropped >= REFUSED as u64, &format!("{refused} lines came"));
    scene.refused("124 the log is read again", "GET / HTTP/1.1\r\n\r\n", "<stream:error><not-well-formed …");
    let line = read.recv_timeout(PATIENCE).expect("124 the log is read again: what is new");
    scene.check("124 the log is read again", line.contains("stream refused"), &line);
    scene.close();
    reader.join().unwrap();
}

#[test]
fn a_broker_whose_log_is_not_read_ends_in_time() {
    const CASE: &str = "124 the end with a log that is not read";
    let (log, pipe) = std::io::pipe().unwrap();
    let mut broker = Broker::start_logging("", vec![("RUST_LOG", "debug".into())], pipe);
    let mut lines = 0;
    while broker.metric("plaza_log_lines_dropped_total", "") == 0 {
        for _ in 0..200 {
            let mut wire = Wire::connect(broker.plain);
            wire.try_send("GET / HTTP/1.1\r\n\r\n");
            wire.until("</stream:stream>");
        }
        lines += 200;
        assert!(lines < 2 * REFUSED, "{CASE}: nothing is dropped");
    }
    broker.terminate();
    let status = broker.ended(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0), "{CASE}");
    drop(log);
}
