//! Labels of things, as the command makes and refuses them. No broker runs.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Runs `plaza thing label`; its exit status, what it wrote and what it said.
fn label(words: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_plaza"))
        .args(["thing", "label"])
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have refused before it reads.
    _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// What a camera reads of half blocks, after some of the modules in the middle were turned over.
fn read(blocks: &str, damaged: usize) -> Option<String> {
    let mut rows: Vec<Vec<bool>> = Vec::new();
    for line in blocks.lines() {
        rows.push(line.chars().map(|c| matches!(c, ' ' | '▄')).collect());
        rows.push(line.chars().map(|c| matches!(c, ' ' | '▀')).collect());
    }
    let width = rows[0].len();
    rows.truncate(width);
    let mut place = 1;
    for _ in 0..damaged {
        place = place * 75 % 65_537;
        let module = &mut rows[14 + place % (width - 28)][14 + place / 64 % (width - 28)];
        *module = !*module;
    }
    let light = |x: usize, y: usize| if rows[y / 4][x / 4] { 0 } else { 255 };
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(4 * width, 4 * width, light);
    image.detect_grids().first().and_then(|grid| grid.decode().ok()).map(|(_, text)| text)
}

#[test]
fn a_claim_is_read_and_written_exactly_or_refused() {
    let exact = |case: &str, words: &[&str], uri: &str| {
        let (status, written, said) = label(&[words, &["--format", "uri"]].concat(), "");
        assert_eq!((status, written.trim_end()), (Some(0), uri), "{case}: {said}");
        let (_, blocks, _) = label(&[uri, "--format", "terminal", "--level", "L"], "");
        assert_eq!(read(&blocks, 0).as_deref(), Some(uri), "{case}");
    };
    exact(
        "107 separators and backslashes in values",
        &["--tag", r"MAN=a;b\c", "--number", "V=-0.5", "--key", "100%;", "--registry", "Things.Example"],
        "iotdisco:MAN=a%3Bb%5Cc;#V=-0.5;KEY=100%25%3B;R=things.example",
    );
    exact(
        "107 escapes of both kinds",
        &[r"IOTDISCO:MAN=a\;b\\c%3B;H%C3%B6he=%E2%82%AC €;KEY=k"],
        "iotdisco:MAN=a%3Bb%5Cc%3B;H%C3%B6he=%E2%82%AC%20%E2%82%AC;KEY=k",
    );
    exact("107 the older form", &[r"IoTDisco;SN:a\;b;#V:1.50;KEY:%41"], "iotdisco:SN=a%3Bb;#V=1.5;KEY=%2541");

    let long = format!("iotdisco:KEY=k;{}", "A=1;".repeat(1_100));
    let refused = [
        ("107 more than 4 kB", long.as_str(), "at most 4096 bytes"),
        ("107 no UTF-8", "iotdisco:SN=%ff%fe;KEY=k", "no UTF-8"),
        ("107 half an escape", "iotdisco:SN=1%;KEY=k", "hexadecimal"),
        ("107 an escape of nothing", r"iotdisco:SN=\1;KEY=k", "neither ; nor"),
        ("107 a NUL", "iotdisco:SN=%00;KEY=k", "control character"),
        ("107 a number that is none", "iotdisco:#V=1e999;KEY=k", "not finite"),
        ("107 a name twice", "iotdisco:SN=1;sn=2;KEY=k", "more than once"),
        ("107 an empty tag", "iotdisco:SN=1;;KEY=k", "empty one"),
        ("107 a search", "iotdisco:SN=1;#V>2", "claims nothing"),
    ];
    for (case, uri, reason) in refused {
        let (status, written, said) = label(&[uri], "");
        assert_eq!((status, &*written), (Some(1), ""), "{case}");
        assert!(said.contains(reason), "{case}: {said}");
    }
}

#[test]
fn a_damaged_code_is_mended_or_not_read() {
    let uri = "iotdisco:SN=98734238472634;MAN=www.example.org;MODEL=Device;#V=1.0;KEY=3453485763440213840928;R=things.example";
    let (_, blocks, _) = label(&[uri, "--format", "terminal", "--level", "L"], "");
    let read: Vec<_> = (0..60).map(|damaged| read(&blocks, damaged)).collect();
    let case = "107 level L, damaged";
    assert!(read.iter().take(6).all(|text| text.as_deref() == Some(uri)), "{case}: a few modules are mended");
    assert!(read.iter().flatten().all(|text| text == uri), "{case}: nothing else is ever read");
    assert!(read.iter().any(Option::is_none), "{case}: too much is too much");
}

#[test]
fn a_batch_from_standard_input_is_a_page_or_names_the_row_that_is_none() {
    let table: String = (0..500).map(|number| format!("{number},\"a;b\\{number}\"\r\n")).collect();
    let (status, page, said) = label(&["--batch", "-", "--new-key"], &format!("SN,MODEL\r\n{table}"));
    assert_eq!((status, page.matches("<div class=\"label\">").count()), (Some(0), 500), "107 a batch: {said}");
    let (status, _, said) = label(&["--batch", "-"], "SN,KEY\n1,a\n2,\n");
    assert_eq!(status, Some(1));
    assert!(said.contains("row 3"), "107 a row without a key: {said}");
}
