//! Any bytes as a record of the store: what is read is written as what reads as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    plaza_registry::laws::record(bytes);
});
