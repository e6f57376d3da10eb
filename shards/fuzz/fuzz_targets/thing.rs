//! Any element as a request of the Thing Registry: what is understood is told of as it was said.
#![no_main]

#[path = "../../../core/tests/peers/mod.rs"]
mod peers;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| peers::thing(text));
