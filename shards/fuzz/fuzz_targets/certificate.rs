//! Any bytes as a certificate, of the broker or of a client.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    plaza_shards::cert::laws::certificate(bytes);
});
