//! Any element as one of stream management: it says the same by itself and within another, and an id has one spelling.
#![no_main]

#[path = "../../../core/tests/peers/mod.rs"]
mod peers;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| peers::sm(text));
