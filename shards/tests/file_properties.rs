//! Files that operators and makers give to `plaza`, and what a peer says before TLS is up, changed a little: each is read, or
//! refused with a text, and never panics.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod files;

use std::fmt::Debug;
use std::fs;
use std::path::Path;

use plaza_shards::cert::{TlsSnapshot, laws};
use plaza_shards::config::{CertificateFiles, Config, SAMPLE};
use plaza_shards::control::command::Command;
use plaza_shards::control::import::Format;
use plaza_shards::driver::tls::laws::Listeners;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;

/// Bytes that mean something to one of the readers.
const ODD: [&str; 24] = [
    "",
    "\"",
    "'",
    ",",
    "=",
    "[",
    "]",
    "[[",
    "{",
    "}",
    "\n",
    "\r\n",
    "\t",
    "\\",
    "$",
    ":",
    "@",
    "\u{0}",
    "\u{feff}",
    "é",
    "-1",
    "99999999999999999999",
    "0.0.0.0/0",
    "-----BEGIN CERTIFICATE-----\n",
];

#[derive(Debug, Clone)]
enum Edit {
    Put(Index, &'static str),
    Cut(Index, usize),
    Double(Index, usize),
    Set(Index, u8),
}

impl Edit {
    fn make(&self, bytes: &mut Vec<u8>) {
        let part = |at: &Index, len: usize, bytes: &[u8]| {
            let from = at.index(bytes.len() + 1);
            from..(from + len).min(bytes.len())
        };
        match self {
            Self::Put(at, odd) => drop(bytes.splice(part(at, 0, bytes), odd.bytes())),
            Self::Cut(at, len) => drop(bytes.drain(part(at, *len, bytes))),
            Self::Double(at, len) => {
                let part = part(at, *len, bytes);
                let copy = bytes[part.clone()].to_vec();
                drop(bytes.splice(part.start..part.start, copy));
            }
            Self::Set(at, byte) => {
                let at = at.index(bytes.len().max(1));
                if let Some(place) = bytes.get_mut(at) {
                    *place = *byte;
                }
            }
        }
    }
}

/// A text that is nearly one of these.
fn changed<S: Into<Vec<u8>> + Clone + Debug + 'static>(seeds: Vec<S>) -> impl Strategy<Value = Vec<u8>> {
    let edit = prop_oneof![
        (any::<Index>(), select(ODD.to_vec())).prop_map(|(at, odd)| Edit::Put(at, odd)),
        (any::<Index>(), 1_usize..80).prop_map(|(at, len)| Edit::Cut(at, len)),
        (any::<Index>(), 1_usize..80).prop_map(|(at, len)| Edit::Double(at, len)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
    ];
    (select(seeds), vec(edit, 0..5)).prop_map(|(seed, edits)| {
        let mut bytes = seed.into();
        edits.iter().for_each(|edit| edit.make(&mut bytes));
        bytes
    })
}

/// The seeds of a fuzz target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn texts(target: &str) -> Vec<String> {
    seeds(target).into_iter().map(|bytes| String::from_utf8(bytes).unwrap()).collect()
}

fn configurations() -> Vec<String> {
    std::iter::once(SAMPLE.to_owned()).chain(texts("config")).collect()
}

fn accounts() -> Vec<String> {
    texts("accounts")
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_configuration_is_read_or_refused(bytes in changed(configurations())) {
        files::config(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn lines_of_accounts_are_read_or_refused(bytes in changed(accounts())) {
        files::accounts(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn tables_of_things_are_read_or_refused(bytes in changed(seeds("labels"))) {
        files::labels(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn commands_are_read_or_refused(bytes in changed(seeds("command"))) {
        files::command(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn what_is_nearly_a_certificate_is_read_or_refused(bytes in changed(seeds("certificate"))) {
        laws::certificate(&bytes);
    }
}

#[test]
fn what_is_nearly_a_hello_is_answered_or_refused_with_an_alert() {
    let directory = tempfile::tempdir().unwrap();
    let listeners = Listeners::new(directory.path());
    TestRunner::deterministic()
        .run(&changed(seeds("handshake")), |bytes| {
            listeners.hear(&bytes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_seeds_are_what_they_should_be() {
    let keys = |text: &String| {
        let mut lines = text.lines();
        let format = Format::of(lines.next().unwrap()).unwrap();
        let row = lines.find_map(|line| format.read(line).unwrap());
        row.is_some_and(|row| row.keys().is_ok_and(|keys| keys.is_some()))
    };
    assert!(accounts().iter().any(keys));
    assert!(seeds("certificate").iter().all(|der| laws::certificate(der)));
    for text in texts("command") {
        assert!(serde_json::from_str::<Command>(&text).is_ok(), "{text}");
    }
    for text in configurations() {
        assert!(text.parse::<Config>().is_ok(), "{text}");
    }
}

/// Certificates and keys in PEM: those that Plaza makes itself, changed.
#[test]
fn a_certificate_is_read_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let files = CertificateFiles { certificate: directory.path().join("c.pem"), key: directory.path().join("k.pem") };
    let ca = directory.path().join("ca.pem");
    write(&files.certificate, certificate.as_bytes());
    write(&files.key, key.as_bytes());
    write(&ca, certificate.as_bytes());
    assert!(TlsSnapshot::read(&files, Some(&ca)).is_ok());
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() });
    let seeds = vec![certificate.clone(), key.clone(), format!("{certificate}{key}")];
    let each = (changed(seeds), 0_usize..3);
    runner
        .run(&each, |(bytes, which)| {
            write(&files.certificate, certificate.as_bytes());
            write(&files.key, key.as_bytes());
            write(&ca, certificate.as_bytes());
            write([&files.certificate, &files.key, &ca][which], &bytes);
            if let Err(error) = TlsSnapshot::read(&files, Some(&ca)) {
                files::is_told(&error.to_string());
            }
            Ok(())
        })
        .unwrap();
}
