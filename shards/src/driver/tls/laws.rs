//! What holds of a TLS handshake, whatever a client says in it: nothing panics, little memory is held, and a client whose
//! hello is refused is told by an alert, the same however the bytes are split.
//!
//! Called by a property test and by a fuzz target; in no broker.

use std::path::Path;

use rustls::Error;

use super::{HELLO_BYTES_MAX, PARTIAL_BYTES_MAX, RUSTLS_BYTES, Tls, TlsError};
use crate::cert;
use crate::config::{Config, Settings};

/// Most that is said to a client before its Finished: two flights of ours and an alert.
const SAID_BYTES_MAX: usize = 8 * 1024;

/// What clients connect to: with STARTTLS, and directly with certificates asked for.
#[derive(Debug)]
pub struct Listeners {
    starttls: cert::Tls,
    direct: cert::Tls,
}

/// What a client saw of us: the kinds of records, and why the connection ended.
type Seen = (Vec<u8>, Option<String>);

impl Listeners {
    /// Makes a certificate in a directory, or finds it there.
    ///
    /// # Panics
    /// If that cannot be written.
    pub fn new(data: &Path) -> Self {
        let config = Config { domains: vec!["localhost".into()], data: data.into(), ..Config::default() };
        let settings = config.check().expect("a configuration");
        let load = |settings: &Settings| cert::Tls::load(settings).expect("a certificate");
        let starttls = load(&settings);
        let client_ca = Some(starttls.current().certificate.file.clone());
        Self { starttls, direct: load(&Settings { client_ca, ..settings }) }
    }

    /// Receives what a client says, whole and in pieces.
    ///
    /// # Panics
    /// If the law does not hold.
    pub fn hear(&self, said: &[u8]) {
        for direct in [false, true] {
            let whole = self.hear_in_pieces(direct, said, usize::MAX);
            for size in [1, 7, 600] {
                let split = self.hear_in_pieces(direct, said, size);
                let too_large = Some(TlsError::MessageTooLarge.to_string());
                // That bound is on what is kept between pieces.
                assert!(whole == split || split.1 == too_large, "in pieces of {size}: {whole:?}, {split:?}");
            }
        }
    }

    fn hear_in_pieces(&self, direct: bool, said: &[u8], size: usize) -> Seen {
        let mut tls = Tls::new(if direct { &self.direct } else { &self.starttls }, direct).expect("a connection");
        let kept_max = 2 * if direct { PARTIAL_BYTES_MAX } else { HELLO_BYTES_MAX };
        let mut answer = Vec::new();
        for piece in said.chunks(size) {
            let received = tls.receive(&mut piece.to_vec(), |_| {});
            tls.encrypt(b"", &mut answer).expect("what is to be said can be");
            assert!(answer.len() <= SAID_BYTES_MAX && tls.bytes() <= RUSTLS_BYTES + kept_max.max(2 * piece.len()));
            if let Err(error) = received {
                let kinds = kinds(&answer);
                assert!(!matches!(error, TlsError::Panicked), "rustls panicked");
                let heard_why = matches!(error, TlsError::Rustls(Error::AlertReceived(_)));
                // rustls has no alert for some errors; behind a hello of its own there is none in the clear either.
                assert!(heard_why || kinds == [ALERT] || kinds.first() == Some(&HELLO), "{error}: {kinds:?}");
                return (kinds, Some(error.to_string()));
            }
            if tls.closed {
                break;
            }
        }
        (kinds(&answer), None)
    }
}

/// A record of this kind holds handshake messages: the first of ours begins with the server's hello.
const HELLO: u8 = 0x16;
/// An alert in the clear.
const ALERT: u8 = 0x15;
/// Length of a record that holds nothing but an alert under keys: its type and a tag are behind it.
const SEALED_ALERT_BYTES: usize = 2 + 1 + 16;

/// The kinds of some records, all of them whole; of those under keys an alert is known by its length.
fn kinds(mut records: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let Some((&[kind, _, _, high, low], rest)) = records.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        kinds.push(if kind == 0x17 && length == SEALED_ALERT_BYTES { ALERT } else { kind });
        records = rest.get(length..).expect("a whole record");
    }
    assert!(records.is_empty(), "half a header");
    kinds
}
