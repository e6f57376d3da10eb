use clap::Parser;
use plaza_core::thing::uri::Uri;

use super::code::tests::{drawn, read};
use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: LabelArgs,
}

fn parse(words: &[&str]) -> LabelArgs {
    Line::try_parse_from(["label"].iter().chain(words)).unwrap_or_else(|error| panic!("{words:?}: {error}")).args
}

/// Runs the command with a file as its output; what is in it.
fn made(words: &[&str], name: &str) -> Result<String, Failure> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    let mut args = parse(words);
    args.output = Some(path.clone());
    run(&args, false)?;
    Ok(fs::read_to_string(path).unwrap())
}

const TAGS: [&str; 9] = [
    "--tag",
    "SN=1;2",
    "--tag",
    "MAN=www.example.org",
    "--number",
    "V=1.0",
    "--key",
    "secret",
    "--registry=things.example",
];
const URI: &str = "iotdisco:SN=1%3B2;MAN=www.example.org;#V=1.0;KEY=secret;R=things.example";

/// The texts of all codes on a page.
fn codes(page: &str) -> Vec<String> {
    let read_one = |rest: &str| {
        let width = rest.split(' ').nth(2).and_then(|width| width.parse().ok()).unwrap();
        let path = rest.split("d=\"").nth(1).unwrap().split('"').next().unwrap();
        let rows = drawn(path, width);
        read(4 * width, |x, y| if rows[y / 4][x / 4] { 0 } else { 255 }).unwrap()
    };
    page.split("<svg viewBox=\"").skip(1).map(read_one).collect()
}

#[test]
fn a_label_is_made_of_a_uri_or_of_tags() {
    assert_eq!(made(&TAGS, "label").as_deref(), made(&[URI], "label").as_deref());
    let format = |format: &str| made(&[&TAGS[..], &["--format", format]].concat(), "label").unwrap();
    assert_eq!(format("uri"), format!("{URI}\n"));
    assert_eq!(codes(&format("sheet")), [URI]);
    assert!(format("svg").starts_with("<svg "));
    assert!(format("terminal").starts_with('█'));
    let older =
        made(&["IoTDisco;SN:1\\;2;MAN:www.example.org;#V:1;KEY:secret;R:things.example", "--format=uri"], "label");
    assert_eq!(older.unwrap(), format!("{URI}\n"));
}

#[test]
fn the_name_of_the_output_says_what_is_written() {
    let check = |words: &[&str], expected| assert_eq!(parse(words).format(), expected, "{words:?}");
    check(&["x"], Format::Terminal);
    check(&["x", "--output", "a.svg"], Format::Svg);
    check(&["x", "-o", "a.png"], Format::Png);
    check(&["x", "-o", "a.html"], Format::Sheet);
    check(&["x", "-o", "a.html", "--format", "uri"], Format::Uri);
    check(&["--batch", "a.csv"], Format::Sheet);
    check(&["--batch", "a.csv", "--output", "codes", "--format", "png"], Format::Png);
}

#[test]
fn a_made_key_is_long_and_never_the_same() {
    let make = || made(&["--tag", "SN=1", "--new-key", "--format", "uri"], "label").unwrap();
    let (one, other) = (make(), make());
    assert_ne!(one, other);
    let Ok(Uri::Claim(claim)) = Uri::parse(one.trim()) else { panic!("no claim: {one}") };
    assert_eq!(claim.key.len(), 32);
}

#[test]
fn what_claims_nothing_is_refused() {
    let refused = |words: &[&str]| match made(words, "label.svg") {
        Err(Failure::Failed(text)) => text,
        other => panic!("{words:?}: {other:?}"),
    };
    assert!(refused(&["iotdisco:SN=1"]).contains("KEY"));
    assert!(refused(&["--tag", "SN=1"]).contains("KEY"));
    assert!(refused(&["iotdisco:JID=rack@things.example"]).contains("claims nothing"));
    assert!(refused(&["iotdisco:KEY=1;#V<2"]).contains("is no search"));
    assert!(refused(&["https://things.example/"]).contains("iotdisco:"));
    assert!(refused(&[]).contains("no tag"));
    assert!(refused(&["--tag", "SN", "--new-key"]).contains("NAME=VALUE"));
    assert!(refused(&["--number", "V=one", "--new-key"]).contains("number"));
    assert!(refused(&["--tag", "SN=1", "--tag", "sn=2", "--new-key"]).contains("more than once"));
    assert!(refused(&["--tag", "SN=1", "--new-key", "--registry", "@"]).contains('R'));
    let long: Vec<String> = (0..10).map(|number| format!("--tag=T{number}={}", "x".repeat(128))).collect();
    let words: Vec<&str> = long.iter().map(String::as_str).chain(["--new-key", "--level", "h"]).collect();
    assert!(refused(&words).contains("which no QR code of level H holds"));
}

#[test]
fn a_batch_is_a_sheet_with_a_label_for_each_row() {
    let directory = tempfile::tempdir().unwrap();
    let (csv, table) = (directory.path().join("things.csv"), directory.path().join("made.csv"));
    fs::write(&csv, "SN,#V,MODEL,KEY,R\n1,1.0,\"a <b>, \"\"c\"\"\",first,\n2,,,,other.example\n").unwrap();
    let (csv, table) = (csv.to_str().unwrap(), table.to_str().unwrap());
    let words = ["--batch", csv, "--new-key", "--registry", "things.example", "--table", table, "--level", "L"];
    let page = made(&words, "sheet.html").unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    assert!(
        page.contains("<b>SN</b> 1<br><b>V</b> 1<br><b>MODEL</b> a &lt;b&gt;, \"c\"<br><b>R</b> things.example</p>")
    );
    assert!(!page.contains("first") && !page.contains("http"), "neither keys in words nor anything from elsewhere");
    let texts = codes(&page);
    assert_eq!(texts[0], "iotdisco:SN=1;#V=1.0;MODEL=a%20%3Cb%3E%2C%20%22c%22;KEY=first;R=things.example");
    let Ok(Uri::Claim(second)) = Uri::parse(&texts[1]) else { panic!("no claim: {}", texts[1]) };
    assert_eq!(second.registry.as_ref().map(|jid| jid.as_str()), Some("other.example"));
    assert_eq!((second.tags.len(), second.key.len()), (1, 32));
    let expected = format!(
        "SN,#V,MODEL,KEY,R,KEY,URI\r\n1,1.0,\"a <b>, \"\"c\"\"\",first,,first,{}\r\n2,,,,other.example,{},{}\r\n",
        texts[0], second.key, texts[1]
    );
    assert_eq!(fs::read_to_string(table).unwrap(), expected);
    assert!(made(&["--batch", csv, "--new-key", "--show-key"], "sheet.html").unwrap().contains("<b>KEY</b> first</p>"));
}

#[test]
fn a_batch_of_images_is_a_file_for_each_row() {
    let directory = tempfile::tempdir().unwrap();
    let csv = directory.path().join("things.csv");
    fs::write(&csv, "SN,KEY\n1,a\n2,b\n").unwrap();
    let images = directory.path().join("images");
    let mut args = parse(&["--batch", csv.to_str().unwrap(), "--format", "png"]);
    assert!(matches!(run(&args, false), Err(Failure::Failed(_))), "without a directory");
    args.output = Some(images.clone());
    run(&args, false).unwrap();
    for name in ["0000001.png", "0000002.png"] {
        assert!(fs::read(images.join(name)).unwrap().starts_with(b"\x89PNG"), "{name}");
    }
}

#[test]
fn a_row_that_is_none_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let csv = directory.path().join("things.csv");
    let refused = |text: &[u8]| {
        fs::write(&csv, text).unwrap();
        match made(&["--batch", csv.to_str().unwrap()], "sheet.html") {
            Err(Failure::Failed(text)) => text,
            other => panic!("{other:?}"),
        }
    };
    assert!(refused(b"SN,KEY\n1,a\n2,\n").starts_with("row 3: it claims nothing"));
    assert!(refused(b"SN,KEY\n1\n").starts_with("row 2: 1 cells"));
    assert!(refused(b"#V,KEY\nx,a\n").starts_with("row 2: \"V\""));
    assert!(refused(b"SN,KEY,sn\n1,a,2\n").starts_with("row 2: \"sn\""));
    assert!(refused(b"S N,KEY\n1,a\n").starts_with("row 2: \"S N\""));
    assert!(refused(b"SN,KEY\n\xff,a\n").starts_with("row 2: the table is not UTF-8"));
    assert!(refused(b"").starts_with("row 1: the table is empty"));
}
