//! Any bytes from a client before its TLS handshake is over.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plaza_shards::driver::tls::laws::Listeners;

thread_local! {
    static LISTENERS: Listeners = Listeners::new(&std::env::temp_dir().join("plaza-fuzz-handshake"));
}

fuzz_target!(|bytes: &[u8]| LISTENERS.with(|listeners| listeners.hear(bytes)));
