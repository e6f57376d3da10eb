//! Any element as a form filled in: what is understood is submitted again as the same.
#![no_main]

#[path = "../../../core/tests/peers/mod.rs"]
mod peers;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| peers::forms(text));
