//! Any element as a registration: nothing passes for signed that is not, and what is signed verifies.
#![no_main]

#[path = "../../../core/tests/peers/mod.rs"]
mod peers;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| peers::register(text));
