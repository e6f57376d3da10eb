//! A stanza is written into an outbox and encrypted into a record for half a microsecond.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use plaza_core::limits::ScanLimits;
use plaza_core::ns;
use plaza_core::stanza::{Stamp, Stanza, write_stanza};
use plaza_core::xml::{Scanned, Scanner, StreamNamespaces};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

const MESSAGE: &str = include_str!("../data/message-231B.xml");
/// As the driver reserves for a record.
const RECORD_OVERHEAD: usize = 64;

/// The server's end of a TLS 1.3 connection, after its handshake.
fn established() -> UnbufferedServerConnection {
    let own = rcgen::generate_simple_self_signed(["things.example".to_owned()]).expect("a certificate");
    let certificate = own.cert.der().clone();
    let key = own.signing_key.serialize_der().try_into().expect("a key");
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a trust anchor");
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut server =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).expect("they match");
    server.send_tls13_tickets = 0;
    let name = "things.example".try_into().expect("a name");
    let mut client = UnbufferedClientConnection::new(Arc::new(client), name).expect("a client");
    let mut server = UnbufferedServerConnection::new(Arc::new(server)).expect("a server");
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    loop {
        let client_done = step(|input| advance(client.process_tls_records(input), &mut to_server), &mut to_client);
        let server_done = step(|input| advance(server.process_tls_records(input), &mut to_client), &mut to_server);
        if client_done && server_done && to_client.is_empty() && to_server.is_empty() {
            return server;
        }
    }
}

/// What a call brought: bytes of input used, whether to call again, whether the handshake is over.
struct Progress {
    used: usize,
    again: bool,
    established: bool,
}

/// Processes all of `input`; whether the handshake is over.
fn step(mut process: impl FnMut(&mut [u8]) -> Progress, input: &mut Vec<u8>) -> bool {
    loop {
        let progress = process(input);
        input.drain(..progress.used);
        if !progress.again {
            return progress.established;
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "rustls may add states; none of them is news here")]
fn advance<D>(status: UnbufferedStatus<'_, '_, D>, out: &mut Vec<u8>) -> Progress {
    let used = status.discard;
    let (again, established) = match status.state.expect("no error") {
        ConnectionState::EncodeTlsData(mut data) => {
            let mut record = vec![0; 8192];
            let len = data.encode(&mut record).expect("room");
            out.extend(record.into_iter().take(len));
            (true, false)
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            (true, false)
        }
        ConnectionState::WriteTraffic(_) => (used > 0, true),
        _ => (used > 0, false),
    };
    Progress { used, again, established }
}

/// As `driver::tls` encrypts what waits.
fn encrypt(connection: &mut UnbufferedServerConnection, plaintext: &[u8], out: &mut Vec<u8>) {
    out.resize(plaintext.len() + RECORD_OVERHEAD, 0);
    let UnbufferedStatus { state, .. } = connection.process_tls_records(&mut []);
    let Ok(ConnectionState::WriteTraffic(mut traffic)) = state else { panic!("not ready to write") };
    let written = traffic.encrypt(plaintext, out).expect("room for a record");
    out.truncate(written);
}

fn outbox(c: &mut Criterion) {
    let (mut scanner, header) = (Scanner::new(), StreamNamespaces::default());
    let scanned = scanner.next(&ScanLimits::AFTER_AUTH, &header, MESSAGE.as_bytes());
    let Ok(Scanned::Element { element, .. }) = scanned else { panic!("not an element") };
    let stanza = Stanza::classify(element, ns::CLIENT).expect("a message");
    let stamp = Stamp { from: "owner@things.example/home", to: None };
    let mut connection = established();

    let mut group = c.benchmark_group("outbox/write+tls-record");
    let (mut waiting, mut wire) = (Vec::new(), Vec::new());
    for (name, messages) in [("231B", 1), ("16x231B", 16)] {
        group.throughput(Throughput::Bytes(messages * MESSAGE.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                waiting.clear();
                wire.clear();
                for _ in 0..messages {
                    write_stanza(&mut waiting, black_box(&stanza), stamp, &header);
                }
                encrypt(&mut connection, &waiting, &mut wire);
                wire.len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, outbox);
criterion_main!(benches);
