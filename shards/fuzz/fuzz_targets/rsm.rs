//! Any element as a request for a page: the page lies in the list and is no longer than it may be.
#![no_main]

#[path = "../../../core/tests/peers/mod.rs"]
mod peers;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| peers::rsm(text));
