//! Files that operators and makers give to `plaza`, changed a little: each is read, or refused with a text, and never panics.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::fs;
use std::path::Path;

use plaza_core::sasl::scram::Hash;
use plaza_shards::cert::TlsSnapshot;
use plaza_shards::config::{CertificateFiles, Config, SAMPLE};
use plaza_shards::control::import::{Format, read_keys, write_keys};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

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
fn changed(seeds: Vec<String>) -> impl Strategy<Value = Vec<u8>> {
    let edit = prop_oneof![
        (any::<Index>(), select(ODD.to_vec())).prop_map(|(at, odd)| Edit::Put(at, odd)),
        (any::<Index>(), 1_usize..80).prop_map(|(at, len)| Edit::Cut(at, len)),
        (any::<Index>(), 1_usize..80).prop_map(|(at, len)| Edit::Double(at, len)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
    ];
    (select(seeds), vec(edit, 0..5)).prop_map(|(seed, edits)| {
        let mut bytes = seed.into_bytes();
        edits.iter().for_each(|edit| edit.make(&mut bytes));
        bytes
    })
}

/// A text for the operator is a line or a few, and has something to say.
fn is_told(text: &str) {
    assert!(!text.trim().is_empty());
}

fn configurations() -> Vec<String> {
    let listener = "[[listeners]]\naddress = '127.0.0.1:5222'\nkind = 'c2s'\ntls = 'starttls'\nplain = true\n";
    let limits =
        "domains = ['localhost', 'b.example']\nshards = 2\n[limits]\nresume_max = '0s'\noffline_bytes_max = '1 GiB'\n";
    let admission =
        "[admission]\nunlimited = ['127.0.0.0/8', '::1/128']\n[archive]\nmodes = ['roster']\ndefault = 'never'\n";
    vec![SAMPLE.to_owned(), listener.to_owned(), limits.to_owned(), admission.to_owned()]
}

/// Keys of the password `pencil` (RFC 5802 §5, RFC 7677 §3).
const KEYS: &str = "SCRAM-SHA-1$4096:QSXCR+Q6sek8bf92$6dlGYMOdZcOPutkcNY8U2g7vK9Y=:D+CSWLOshSulAsxiupA+qs2/fTE=";
const KEYS_256: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

fn accounts() -> Vec<String> {
    let csv =
        format!("jid,scram-sha-1,scram-sha-256\nlamp@localhost,{KEYS},{KEYS_256}\n\"a,b@localhost\",\"\"\"\",x\n");
    let json = format!("{{\"jid\":\"a@b\",\"password\":\"p\"}}\n{{\"jid\":\"a@b\",\"scram-sha-1\":\"{KEYS}\"}}\n");
    vec![csv, json, "a@localhost,secret\nb@localhost,\"se,cret\"\n".to_owned()]
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_configuration_is_read_or_refused(bytes in changed(configurations())) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plaza.toml");
        write(&path, &bytes);
        match Config::load(Some(&path)).and_then(|config| config.check().map(|_| ())) {
            Ok(()) => {}
            Err(error) => is_told(&error.to_string()),
        }
    }

    #[test]
    fn lines_of_accounts_are_read_or_refused(bytes in changed(accounts())) {
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.lines();
        match lines.next().map(Format::of) {
            Some(Ok(format)) => {
                for line in lines {
                    match format.read(line).and_then(|row| row.map(|row| row.keys()).transpose()) {
                        Ok(_) => {}
                        Err(error) => is_told(&error),
                    }
                }
            }
            Some(Err(error)) => is_told(&error),
            None => {}
        }
    }

    #[test]
    fn keys_that_are_read_are_written_as_they_are(bytes in changed(vec![KEYS.to_owned(), KEYS_256.to_owned()])) {
        let text = String::from_utf8_lossy(&bytes);
        for hash in [Hash::Sha1, Hash::Sha256] {
            if let Some(keys) = read_keys(hash, &text) {
                let written = write_keys(&keys).0;
                prop_assert!(read_keys(hash, &written) == Some(keys), "{written}");
            }
        }
    }
}

#[test]
fn the_seeds_are_what_they_should_be() {
    assert!(read_keys(Hash::Sha1, KEYS).is_some() && read_keys(Hash::Sha256, KEYS_256).is_some());
    let csv = &accounts()[0];
    let mut lines = csv.lines();
    let format = Format::of(lines.next().unwrap()).unwrap();
    assert!(format.read(lines.next().unwrap()).unwrap().unwrap().keys().unwrap().is_some());
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
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let seeds = vec![certificate.clone(), key.clone(), format!("{certificate}{key}")];
    let each = (changed(seeds), 0_usize..3);
    runner
        .run(&each, |(bytes, which)| {
            write(&files.certificate, certificate.as_bytes());
            write(&files.key, key.as_bytes());
            write(&ca, certificate.as_bytes());
            write([&files.certificate, &files.key, &ca][which], &bytes);
            if let Err(error) = TlsSnapshot::read(&files, Some(&ca)) {
                is_told(&error.to_string());
            }
            Ok(())
        })
        .unwrap();
}
