//! Any element as what entities say of their capabilities: they are written as they were read, and hash whatever their order.
#![no_main]

#[path = "../../../core/tests/peers/mod.rs"]
mod peers;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| peers::caps(text));
